"""Galileo: the published weights give what the authors' code gives, and a small random one keeps the rules.

B tiles, C bands, H W pixels, N patches, D width
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_galileo import DEPTH, WIDTH, published_layout, write_galileo

from geomae.encoders import load_encoder, parse_encoders
from geomae.encoders.galileo import NDVI, fit, ndvi, positions
from geomae.errors import BandMismatchError, ConfigError, GeomaeError, ModelError
from geomae.sensors import Band, sensor
from geomae.sensors.record import SensorRecord

torch.set_num_threads(1)
STORED = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")  # of the expected numbers
SEEN = {"all": STORED, "hls": ("B2", "B3", "B4", "B8A", "B11", "B12")}
CASES = [(seen, patch, gsd) for seen in SEEN for patch, gsd in ((4, 10), (4, 30), (8, 10))]


def data(name, *names, gsd_m=10.0, unit="reflectance", mean=0.15):
    bands = tuple(sensor(name).band(one) for one in names) if names else sensor(name).bands
    return SensorRecord(name, unit, gsd_m, bands, (mean,) * len(bands), (0.05,) * len(bands))


SENTINEL = data("sentinel-2-l2a")
LANDSAT = data("hls-l30", "B01", "B02", "B03", "B04", "B05", "B06", "B07", gsd_m=30.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random Galileo in the published layout."""
    return write_galileo(tmp_path_factory.mktemp("galileo") / "tiny", published_layout())


def made(folder, imagery=SENTINEL, options="", **more):
    return load_encoder(f"galileo:{folder}{options}", imagery=imagery, **more)


def reflectance(encoder, height=16, width=None, count=2):
    rng = torch.Generator().manual_seed(1)
    return 0.02 + 0.4 * torch.rand(count, len(encoder.bands), height, width or height, generator=rng)


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("seen", "patch", "gsd"), CASES)
def test_published_weights_give_what_the_authors_code_gives(shared_galileo, seen, patch, gsd):
    expected = load_file(shared_galileo / "expected.safetensors")
    encoder = made(shared_galileo, data("sentinel-2-l1c", *SEEN[seen], gsd_m=float(gsd)), f"?patch={patch}")
    pixels = expected["numbers"][:, [STORED.index(name) for name in SEEN[seen]]] / 10_000
    tile, patches = encoder.embed(pixels)
    name = f"{seen}_p{patch}_gsd{gsd}"
    torch.testing.assert_close(patches, expected[f"{name}_patches"], atol=1e-4, rtol=0)
    torch.testing.assert_close(tile, expected[f"{name}_tile"], atol=1e-4, rtol=0)


def test_every_expected_row_is_compared(shared_galileo):
    names = {f"{seen}_p{patch}_gsd{gsd}_{what}" for seen, patch, gsd in CASES for what in ("patches", "tile")}
    assert names == set(load_file(shared_galileo / "expected.safetensors")) - {"numbers"}


def test_groups_are_those_whose_bands_are_all_there(folder):
    every, landsat = made(folder), made(folder, LANDSAT)
    assert [band.name for band in every.bands] == [
        *("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    ]
    assert [band.name for band in landsat.bands] == ["B02", "B03", "B04", "B05", "B06", "B07"]
    assert landsat.notes[0] == (
        "groups RGB (B02, B03, B04), NIR 20 m (B05), SWIR (B06, B07), NDVI (B04, B05); hidden: red edge, NIR 10 m"
    )
    assert "NDVI (B04, B08)" in every.notes[0]
    assert "hidden" not in every.notes[0]
    few = made(folder, data("sentinel-2-l2a", "B12", "B04", "B08"))
    assert [band.name for band in few.bands] == ["B04", "B08"]
    assert few.fitted.groups == ("S2_NIR_10m", NDVI)
    assert few.embed(reflectance(few))[0].shape == (2, WIDTH)


def test_bands_match_by_wavelength_then_by_common_name():
    thematic = fit(data("landsat-7-etm", "blue", "green", "red", "nir08", "swir16", "swir22", gsd_m=30.0), "text")
    assert thematic.known_as == ("B2", "B3", "B4", "B8", "B11", "B12")  # its infrared is nearer to B8 than to B8A
    own = [Band("r", "red", 0.68, 0.01, 5.0), Band("n", "nir08", 0.9, 0.01, 5.0), Band("x", None, 1.0, 0.1, 5.0)]
    fitted = fit(SensorRecord("mine", "reflectance", 5.0, tuple(own), (0.1,) * 3, (0.1,) * 3), "text")
    assert (fitted.known_as, fitted.groups) == (("B4", "B8A"), ("S2_NIR_20m", NDVI))


def test_a_group_that_is_absent_is_as_one_without_valid_pixels(folder):
    every = made(folder, pooling="mean-std")
    pixels = reflectance(every)
    names = [band.name for band in every.bands]
    kept = [place for place, name in enumerate(names) if name not in ("B05", "B06", "B07")]
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[:, [place for place in range(len(names)) if place not in kept]] = False
    fewer = made(folder, data("sentinel-2-l2a", *(names[place] for place in kept)), pooling="mean-std")
    for one, other in zip(every.embed(pixels, valid), fewer.embed(pixels[:, kept]), strict=True):
        close(one, other)
    assert not torch.allclose(every.embed(pixels)[0], every.embed(pixels, valid)[0], atol=1e-3)


def test_the_order_in_which_bands_are_stored_does_not_matter(folder):
    names = [band.name for band in SENTINEL.bands][::-1]
    turned = made(folder, data("sentinel-2-l2a", *names[3:], *names[:3]))
    assert turned.bands == made(folder).bands
    pixels = reflectance(turned)
    assert torch.equal(turned.embed(pixels)[0], made(folder).embed(pixels)[0])
    mixed = pixels.clone()
    mixed[:, [0, 1]] = mixed[:, [1, 0]]
    assert not torch.allclose(turned.embed(mixed)[0], turned.embed(pixels)[0], atol=1e-3)


@pytest.mark.parametrize("fill", [torch.nan, 1e6])
def test_what_is_invalid_has_no_influence(folder, fill):
    encoder = made(folder, pooling="mean-std")
    pixels = reflectance(encoder, 8, 16)
    valid = torch.ones_like(pixels, dtype=torch.bool)
    valid[..., 8:] = False
    tile, patches = encoder.embed(pixels.masked_fill(~valid, fill), valid)
    left, left_patches = encoder.embed(pixels[..., :8])
    close(tile, left)
    close(patches.reshape(2, 2, 4, WIDTH)[:, :, :2].flatten(1, 2), left_patches)
    assert torch.isfinite(patches).all()
    valid[0] = True
    valid[0, 3:6, :, :2] = valid[0, 2, 0] = False  # parts of patches: half a group, red alone
    assert torch.equal(
        encoder.embed(pixels.masked_fill(~valid, fill), valid)[0],
        encoder.embed(pixels.masked_fill(~valid, 0), valid)[0],
    )
    nothing = encoder.embed(torch.full_like(pixels, fill), torch.zeros_like(valid))
    assert all(torch.isfinite(one).all() for one in nothing)


def test_gradients_flow_through_the_tokens_that_embed_pools(folder):
    for pooling in ("mean", "mean-std"):
        encoder = made(folder, LANDSAT, pooling=pooling)
        pixels = reflectance(encoder)
        valid = torch.ones_like(pixels, dtype=torch.bool)
        valid[0, :, :4] = False
        with torch.inference_mode():
            encoder.embed(pixels, valid)
        tile, patches = encoder.embed(pixels, valid)
        tokens = encoder.tokens(pixels, valid)
        assert tokens.cls_BD is None
        assert torch.equal(tokens.patches_BND, patches)
        assert torch.equal(tokens.pooled(pooling), tile)
        assert tokens.usable_BN.tolist() == [[False] * 4 + [True] * 12, [True] * 16]
        assert not tile.requires_grad
        tokens.pooled(pooling).square().sum().backward()
        weights = dict(encoder.network.named_parameters())
        for name in ("embed.S2_RGB.weight", "embed.NDVI.weight", "s_t_channel_embed", "blocks.0.attn.qkv.weight"):
            assert weights[name].grad.abs().sum() > 0
        assert all(torch.isfinite(one.grad).all() for one in weights.values() if one.grad is not None)
        assert weights["embed.S2_Red_Edge.weight"].grad is None


def test_month_patch_layer_and_gsd_decide_the_embedding_and_its_digest(folder):
    first = made(folder)
    others = [made(folder, options=text) for text in ("?month=1", "?patch=8", "?patch=2&month=6")]
    others += [made(folder, layer=1), made(folder, replace(SENTINEL, gsd_m=30.0))]
    pixels = reflectance(first)
    for other in others:
        assert other.digest != first.digest
        assert not torch.allclose(other.embed(pixels)[0], first.embed(pixels)[0], atol=1e-3)
    assert made(folder, options="?month=6&patch=4", layer="middle").digest == first.digest
    assert "every tile is treated as from month 6" in first.notes
    assert [one.patch_grid(16, 24) for one in (first, *others[1:3])] == [(4, 6), (2, 3), (8, 12)]
    assert others[3].notes[4] == "layer 1 of 2, pooled by mean"


def test_a_name_without_label_is_that_of_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    one, two, three = parse_encoders(["galileo:tiny?month=2", f"galileo:{folder}", "g=galileo:tiny/"])
    assert [one.label, two.label, three.label] == ["tiny", "tiny-2", "g"]
    assert (one.kind, one.name, dict(one.options)) == ("galileo", "tiny", {"month": "2"})


def test_positions_and_the_index():
    places = positions(2, 3, 8, 1.5)
    waves = 10000.0 ** -torch.tensor([0.0, 0.125])
    expected = [angle for axis in (3.0, 1.5) for angle in ((axis * waves).sin(), (axis * waves).cos())]
    close(places[5], torch.cat(expected))
    assert places.shape == (6, 8)
    red_infrared = torch.tensor([[0.1, 0.3], [0.0, 0.0], [0.02, -0.05]])[:, :, None, None]
    close(ndvi(red_infrared).flatten(), torch.tensor([0.5, 0.0, -1.0]))


@pytest.mark.parametrize(
    ("imagery", "options", "kind", "message"),
    [
        (data("sentinel-2-l2a", "B02", "B03", "B11"), "", BandMismatchError, "needs all bands of a group (RGB: B2, B3"),
        (data("sentinel-1-grd", unit="decibel", mean=-12.0), "", BandMismatchError, "has none whole; add bands to it"),
        (data("sentinel-2-l2a", unit="digital_number"), "", ConfigError, "is in digital_number; give the data set as"),
        (
            data("sentinel-2-l2a", mean=1500.0),
            "",
            ConfigError,
            "band B02 of sentinel-2-l2a has a mean of 1500, which is",
        ),
        (data("sentinel-2-l2a", gsd_m=None), "", ConfigError, "add gsd_m to the catalogue"),
        (
            data("naip", unit="digital_number", gsd_m=None, mean=110.0),
            "",
            ConfigError,
            "was trained on reflectance, and",
        ),
        (SENTINEL, "?patch=9", ConfigError, "patch is 9; its patches have at most 8 pixels a side"),
        (SENTINEL, "?patch=0", ConfigError, "patch is '0'; give a whole number from 1 to 64"),
        (SENTINEL, "?month=13", ConfigError, "month is '13'; give a whole number from 1 to 12"),
        (SENTINEL, "?mont=1", ConfigError, "unknown option 'mont'; did you mean 'month'?"),
        (SENTINEL, "/absent", ConfigError, "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, imagery, options, kind, message):
    with pytest.raises(kind) as caught:
        made(folder, imagery, options)
    assert issubclass(kind, GeomaeError)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tiles_layers_and_poolings_that_it_has_not(folder):
    with pytest.raises(
        ConfigError, match=r"does not divide a tile of 30 x 30 pixels; write \?patch=N, N one of 1, 2, 3"
    ):
        made(folder, tile=30)
    with pytest.raises(ConfigError, match="layer 3: the encoder has layers 1 to 2"):
        made(folder, layer=3)
    with pytest.raises(ConfigError, match="has no class token; choose mean or mean-std"):
        made(folder, pooling="cls")
    with pytest.raises(ConfigError, match="galileo:: names no model; write galileo:FOLDER"):
        parse_encoders(["galileo:"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("encoder.pt", None, "encoder.pt: does not exist"),
        ("config.json", None, "config.json is absent; a folder of Galileo has encoder.pt, config.json, normalization"),
        ("config.json", "[1]", "config.json holds no mapping"),
        ("config.json", '{"model": {}}', "config.json lacks embedding_size, depth"),
        ("normalization.json", "{}", "normalization.json has no mean and std of 13 bands under '13'"),
        ("normalization.json", '{"13": {"mean": [1], "std": [1]}}', "has no mean and std of 13 bands"),
    ],
)
def test_files_that_are_absent_or_of_something_else(tmp_path, name, content, message):
    broken = write_galileo(tmp_path / "broken", published_layout())
    (broken / name).unlink() if content is None else (broken / name).write_text(content)
    with pytest.raises(ModelError) as caught:
        made(broken)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model(tmp_path):
    state = published_layout()
    with pytest.raises(ModelError, match="another model's"):
        made(write_galileo(tmp_path / "wide", state, embedding_size=64))
    with pytest.raises(ModelError, match="a width of 24 with 4 heads is impossible"):
        made(write_galileo(tmp_path / "odd", state, embedding_size=24))
    del state["blocks.1.attn.v.weight"]
    with pytest.raises(ModelError, match="another model's"):
        made(write_galileo(tmp_path / "lacking", state))
    with_backbone = {key.replace("blocks.", "blocks.backbone."): value for key, value in published_layout().items()}
    assert made(write_galileo(tmp_path / "wrapped", with_backbone)).depth == DEPTH
