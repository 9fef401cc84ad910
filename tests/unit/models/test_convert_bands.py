"""A stacked model for other bands: what each band's kernel, head and statistics come from, and that it is said."""

import json
from dataclasses import replace

import pytest
import torch
from published_mae import published_weights
from safetensors.torch import save_file
from tiny_models import RECORD, SIDE, tiles, tiny_model

from geomae.commands.convert import ConvertOptions, run
from geomae.encoders import OwnEncoder
from geomae.errors import CatalogError, ConfigError, GeomaeError, ModelError
from geomae.models.architecture import Architecture
from geomae.models.convert import ConversionReport, adapt_bands, export_model, import_weights
from geomae.models.convert.state_dicts import fold
from geomae.models.folder import Model, load_model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord

S2 = sensor("sentinel-2-l2a")
KERNEL, HEAD, BIAS = "encoder.embedding.proj.weight", "decoder.head.proj.weight", "decoder.head.proj.bias"
SAID = {"heads": 3, "decoder_heads": 2, "norm_eps": 1e-5, "target": "none"}


def known(target="none"):
    """A stacked model of Sentinel-2's B02, B04, B8A and B11, every parameter drawn."""
    record = SensorRecord(S2.name, "reflectance", 10.0, RECORD.bands, RECORD.mean_C, RECORD.std_C)
    mae = tiny_model("stacked", target).mae
    rng = torch.Generator().manual_seed(0)
    mae.load_state_dict({k: v + 0.2 * torch.randn(v.shape, generator=rng) for k, v in mae.state_dict().items()})
    return Model(mae, (record,), {"seed": 0, "tile": [16, 12]})


def adapted(model, names, of=S2, **more):
    return adapt_bands(model, tuple(of.band(name) for name in names), of.name, of.unit, **more)


def kernels(model):
    """Kernels (C, D, P), rows of the head (C, P, D) and their biases (C, P) of each band."""
    state, C = model.mae.state_dict(), len(model.record.bands)
    kernel = state[KERNEL].reshape(-1, C, SIDE**2).transpose(0, 1)
    return kernel, state[HEAD].reshape(C, SIDE**2, -1), state[BIAS].reshape(C, -1)


def test_another_order_of_the_bands_gives_the_same_numbers_in_that_order():
    old = known("patch-band")
    order = [2, 0, 3, 1]
    new, account = adapted(old, [RECORD.bands[i].name for i in order])
    pixels_BCHW, valid_BCHW = tiles(gaps=0.1)
    wanted, loss = old.reconstruct(pixels_BCHW, valid_BCHW)
    found, same_loss = new.reconstruct(pixels_BCHW[:, order], valid_BCHW[:, order])
    torch.testing.assert_close(found, wanted[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(same_loss, loss, atol=1e-5, rtol=1e-5)
    assert account.new == []
    assert new.record.mean_C == tuple(old.record.mean_C[i] for i in order)
    assert "statistics of sentinel-2-l2a: the model's own" in account.notes


def test_copied_and_averaged_kernels_keep_the_size_of_the_sum():
    old = known()
    new, account = adapted(old, ["B04", "B02", "B03", "B8A", "B11", "B12"])
    (before, head_before, bias_before), (after, head_after, bias_after) = kernels(old), kernels(new)
    for band, place in ((0, 1), (1, 0), (3, 2), (4, 3)):
        torch.testing.assert_close(after[band], before[place] * 4 / 6)
        assert torch.equal(head_after[band], head_before[place])
        assert torch.equal(bias_after[band], bias_before[place])
    for band in (2, 5):
        torch.testing.assert_close(after[band], before.mean(0) * 4 / 6)
        torch.testing.assert_close(head_after[band], head_before.mean(0))
        torch.testing.assert_close(bias_after[band], bias_before.mean(0))
    torch.testing.assert_close(after.sum(0), before.sum(0))
    assert f"{KERNEL} (by band, below, times 4/6)" in account.adapted
    assert f"{KERNEL}[B03] (averaged over B02, B04, B8A, B11)" in account.new
    assert "band B04 (red): copied from B04 (red)" in account.notes
    assert "band B12 (swir22): averaged over B02, B04, B8A, B11" in account.notes
    assert new.mae.architecture == old.mae.architecture.model_copy(update={"bands": 6})
    assert new.provenance == old.provenance


def test_every_key_is_named_once():
    old = known()
    _, account = adapted(old, ["B02", "B03"])
    named = [entry.split(" ")[0] for entry in account.taken + account.adapted + account.left]
    assert sorted(named) == sorted(old.mae.state_dict())
    assert "bands of the model that were not copied: B04 (red), B8A (nir08), B11 (swir16)" in account.notes


def test_across_sensors_bands_meet_by_wavelength():
    """Landsat 8 B5 is B8A of Sentinel-2, by its wavelength; names do not count, or B4 would be B04."""
    landsat = sensor("landsat-8-oli-c2l2")
    new, account = adapted(known(), ["SR_B5", "SR_B4", "SR_B3"], landsat)
    copied = [note for note in account.notes if "copied" in note]
    assert copied[:2] == [
        "band B5 (nir08): copied from B8A (nir08)",
        "band B4 (red): copied from B04 (red)",
    ]
    assert (new.record.name, new.record.unit) == (landsat.name, "reflectance")
    assert new.record.mean_C == pytest.approx((0.3, 0.1, sum(RECORD.mean_C) / 4))
    (line,) = (note for note in account.notes if note.startswith("statistics"))
    assert "assumed from sentinel-2-l2a" in line
    assert "for B3 the mean over all bands" in line
    assert "geomae catalog stats" in line


def test_a_radar_band_begins_at_zero():
    new, account = adapt_bands(known(), (*S2.bands[1:2], sensor("sentinel-1-grd").bands[0]), "both", "reflectance")
    after, head, bias = kernels(new)
    assert not after[1].any()
    assert not head[1].any()
    assert not bias[1].any()
    assert f"{KERNEL}[VV] (new, initialised to zero)" in account.new
    assert after[0].any()


def test_statistics_in_another_unit_are_not_carried_over():
    with pytest.raises(
        ModelError, match=r"are in reflectance, but naip is in digital_number.*--statistics stats\.json"
    ):
        adapted(known(), ["red", "green"], sensor("naip"))


def test_embeddings_whose_bands_are_not_converted():
    spectral = Model(tiny_model("spectral").mae, (RECORD,))
    with pytest.raises(ModelError, match="spectral embedding takes any bands as they are"):
        adapted(spectral, ["B02"])
    shape = Architecture(embedding="grouped", groups=((0, 1), (2, 3)), bands=4, patch=4, width=24, depth=1, heads=2)
    with pytest.raises(ModelError, match="fixed by its groups"):
        adapted(Model(MaskedAutoencoder(shape), (RECORD,)), ["B02"])


def weight_file(path, **settings):
    save_file({key: value.contiguous() for key, value in published_weights(**settings).items()}, path)
    return path


def test_weights_of_three_colours_for_four_bands(tmp_path, capsys):
    """The colours of ordinary pictures have no wavelengths of their own: they meet bands by common name."""
    source = weight_file(tmp_path / "w.safetensors")
    run(ConvertOptions(source, tmp_path / "rgb", **SAID, quiet=True))
    assert run(ConvertOptions(source, tmp_path / "four", **SAID, bands="sentinel-2-l2a:B02,B03,B04,B08")) == 0
    colours, four = load_model(tmp_path / "rgb"), load_model(tmp_path / "four")
    before, after = kernels(colours)[0], kernels(four)[0]
    torch.testing.assert_close(after[:3], before[[2, 1, 0]] * 3 / 4)
    torch.testing.assert_close(after[3], before.mean(0) * 3 / 4)
    assert (four.record.mean_C, four.record.std_C) == ((0.0,) * 4, (1.0,) * 4)
    assert four.record.name == "unmeasured"  # no one may take 0 and 1 for figures of Sentinel-2
    printed = capsys.readouterr().out
    assert "patch_embed.proj.weight (convolution as a product; by band, below, times 3/4)" in printed
    assert "decoder_pred.bias (bands first; by band, below)" in printed
    assert f"{KERNEL}[B08] (averaged over red, green, blue)" in printed
    assert "band B04 (red): copied from red" in printed
    assert "statistics: unknown (mean 0, standard deviation 1)" in printed


def test_as_many_bands_as_the_weights_have_are_their_names(tmp_path, capsys):
    source = weight_file(tmp_path / "w.safetensors", bands=5)
    run(ConvertOptions(source, tmp_path / "out", **SAID, bands="sentinel-2-l2a:B02,B03,B04,B08,B11"))
    printed = capsys.readouterr().out
    assert "bands: blue, green, red, nir, swir16 in this order, mean 0" in printed
    assert "new 0" in printed
    with pytest.raises(ModelError, match="5 input bands, but 2 were named"):
        run(ConvertOptions(source, tmp_path / "other", **SAID, bands="sentinel-2-l2a:B02,B03", quiet=True))


def statistics(path, **changes):
    """What `geomae catalog stats` leaves, cut short."""
    bands = {
        name: {"unit": "reflectance", "count": 9, "mean": 0.1 * number, "std": 0.01 * number}
        for number, name in enumerate(("B02", "B03", "B04", "B08"), start=1)
    }
    record = {"sensor": S2.name, "unit": "reflectance", "tiles": 3, "bands": bands} | changes
    path.write_text(json.dumps({"fields": {"train": record, "test": record}}), encoding="utf-8")
    return path


def test_measured_statistics_come_from_a_file(tmp_path, capsys):
    source, file = weight_file(tmp_path / "w.safetensors"), statistics(tmp_path / "stats.json")
    run(ConvertOptions(source, tmp_path / "four", **SAID, bands="sentinel-2-l2a:B08,B04,B03,B02", statistics=file))
    record = load_model(tmp_path / "four").record
    assert (record.name, record.unit) == (S2.name, "reflectance")
    assert record.mean_C == pytest.approx((0.4, 0.3, 0.2, 0.1))
    assert record.std_C == pytest.approx((0.04, 0.03, 0.02, 0.01))
    assert "statistics of sentinel-2-l2a: as given" in capsys.readouterr().out
    run(ConvertOptions(source, tmp_path / "three", **SAID, bands="sentinel-2-l2a:red,green,blue", statistics=file))
    assert load_model(tmp_path / "three").record.mean_C == pytest.approx((0.3, 0.2, 0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not what `geomae catalog stats` writes"),
        ('{"a": {"train": {"unit": "x"}}}', "is not what `geomae catalog stats` writes"),
        ("{}", "has no record of sensor sentinel-2-l2a"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_file_of_something_else(tmp_path, text, message):
    (tmp_path / "stats.json").write_text(text, encoding="utf-8")
    source = weight_file(tmp_path / "w.safetensors")
    with pytest.raises(GeomaeError, match=message):
        run(
            ConvertOptions(
                source,
                tmp_path / "o",
                **SAID,
                bands="sentinel-2-l2a:B02",
                statistics=tmp_path / "stats.json",
                quiet=True,
            )
        )


def test_statistics_that_do_not_answer(tmp_path):
    source, file = weight_file(tmp_path / "w.safetensors"), statistics(tmp_path / "stats.json")
    with pytest.raises(ConfigError, match=r"stats\.json: has no B11 of sentinel-2-l2a"):
        run(ConvertOptions(source, tmp_path / "o", **SAID, bands="sentinel-2-l2a:B02,B11", statistics=file, quiet=True))
    two = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(two | {"more": two["fields"]}), encoding="utf-8")
    with pytest.raises(ConfigError, match="has 2 records of sensor sentinel-2-l2a"):
        run(ConvertOptions(source, tmp_path / "o", **SAID, bands="sentinel-2-l2a:B02", statistics=file, quiet=True))
    assert not (tmp_path / "o").exists()


OTHER = "sentinel-2-l2a:B02,B03"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ConfigError, "is a model folder already; give --to timm, onnx or safetensors, or --bands"),
        ({"bands": "B02,B03"}, ConfigError, "is not SENSOR:BAND,BAND"),
        ({"bands": "sentinel-2-l2a:B02,B99"}, CatalogError, "has no band 'B99'"),
        ({"bands": "sentinel-2-l2a:B02,blue"}, ConfigError, "B02 occurs twice"),
        ({"bands": OTHER, "heads": 2, "norm_eps": 1e-6}, ConfigError, "--heads, --norm-eps: the model folder"),
        ({"bands": OTHER, "to": "timm"}, ConfigError, "--bands with --to timm"),
        ({"to": "torchscript"}, ConfigError, "--to torchscript: choose timm, onnx or safetensors"),
        ({"to": "timm", "statistics": "stats.json"}, ConfigError, "--statistics: needs --bands"),
        ({"to": "safetensors", "tile_size": 8}, ConfigError, "--tile-size: needs --to timm or onnx"),
    ],
)
def test_requests_that_mean_nothing(tmp_path, options, kind, message):
    save_model(known(), tmp_path / "model")
    with pytest.raises(kind, match=message) as caught:
        run(ConvertOptions(tmp_path / "model", tmp_path / "out.safetensors", **options, quiet=True))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_go_out_through_a_model_folder(tmp_path):
    source = weight_file(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="is not a model folder; convert weights to a model folder first"):
        run(ConvertOptions(source, tmp_path / "out.safetensors", to="timm", quiet=True))
    with pytest.raises(ModelError, match=r"absent: is not a model folder \(no config\.json\)"):
        run(ConvertOptions(tmp_path / "absent", tmp_path / "out.safetensors", to="timm", quiet=True))


def test_plain_safetensors_are_the_two_files_of_the_model_folder(tmp_path, capsys):
    save_model(known(), tmp_path / "model")
    assert run(ConvertOptions(tmp_path / "model", tmp_path / "plain.safetensors", to="safetensors")) == 0
    for file, same in (("plain.safetensors", "model.safetensors"), ("plain.safetensors.json", "config.json")):
        assert (tmp_path / file).read_bytes() == (tmp_path / "model" / same).read_bytes()
    assert "encoder.blocks.0.norm1.weight" in capsys.readouterr().out
    with pytest.raises(ModelError, match=r"geomae's own layout already; put them into a folder as model\.safetensors"):
        run(ConvertOptions(tmp_path / "plain.safetensors", tmp_path / "out", quiet=True))


def test_keys_that_differ_in_the_number_of_a_block_share_an_entry():
    keys = [f"blocks.{number}.{name}" for number in (0, 1, 2, 5) for name in ("a", "b (x)")]
    assert fold(["start", *keys, "decoder_blocks.0.a"]) == [
        "start",
        "blocks.0-2,5.a",
        "blocks.0-2,5.b (x)",
        "decoder_blocks.0.a",
    ]
    account = ConversionReport(taken=keys[:2], left=["head"], notes=["more"])
    assert account.lines() == ["taken 2: blocks.0.a, blocks.0.b (x)", "adapted 0", "left 1: head", "new 0", "more"]


def test_one_conversion_after_another():
    first = ConversionReport(taken=["a", "b"], adapted=["c (turned)"], left=["d"], notes=["one"])
    later = ConversionReport(taken=["A"], adapted=["B (halved)", "C (halved)"], new=["B[x] (zero)"], notes=["two"])
    both = first.followed_by(later, {"a": "A", "b": "B", "c": "C"})
    assert both.taken == ["a"]
    assert both.adapted == ["b (halved)", "c (turned; halved)"]
    assert (both.left, both.new, both.notes) == (["d"], ["B[x] (zero)"], ["one", "two"])


def test_a_timm_file_with_its_own_bands_takes_others(tmp_path, capsys):
    """The file beside it names Sentinel-2's bands, so that others of that sensor meet them by name."""
    save_model(known(), tmp_path / "model")
    run(ConvertOptions(tmp_path / "model", tmp_path / "vit.safetensors", to="timm", quiet=True))
    run(ConvertOptions(tmp_path / "vit.safetensors", tmp_path / "two", bands="sentinel-2-l2a:B11,B02"))
    new, old = load_model(tmp_path / "two"), known()
    state = new.mae.state_dict()[KERNEL].reshape(-1, 2, SIDE**2).transpose(0, 1)
    torch.testing.assert_close(state, kernels(old)[0][[3, 0]] * 4 / 2)
    assert new.record.mean_C == (RECORD.mean_C[3], RECORD.mean_C[0])
    assert "from vit.safetensors.json unless given" in capsys.readouterr().out


def test_sensors_that_the_new_bands_are_not_of_are_named():
    model = known()
    model = Model(model.mae, (*model.sensors, RECORD))
    _, account = adapted(model, ["B02"])
    assert "sensors left out: s2; the model has the bands of sentinel-2-l2a only" in account.notes


def test_within_a_sensor_bands_meet_by_name():
    """A table of the sensor with another wavelength of a band is no other band."""
    model = known()
    moved = replace(model.record.bands[0], wavelength_um=0.7)
    model = Model(model.mae, (replace(model.record, bands=(moved, *model.record.bands[1:])),))
    _, account = adapted(model, ["B02"])
    assert account.new == []


def test_an_export_comes_back_from_python_as_it_was(tmp_path):
    model = known()
    report, lines = export_model(model, tmp_path / "vit.safetensors", "timm", OwnEncoder(model).embed, 12)
    assert report.taken and any("loads strictly" in line for line in lines)
    back, _ = import_weights(tmp_path / "vit.safetensors")
    assert back.record == model.record
    pixels_BCHW, _ = tiles(height=12)
    ours, theirs = (OwnEncoder(one).embed(pixels_BCHW)[1] for one in (model, back))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
