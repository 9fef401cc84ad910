"""The checklists of CONTRIBUTING.md, each walked through with a toy: one entry in one registry is enough.

B tiles, C bands, F features of a band's code, N patches, P pixels of a patch in one band, D width, K classes
"""

import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pytest
import torch
import typer
from evaluation.test_alignment import SOURCE_ND
from evaluation.test_methods import domains
from evaluation.test_probe_scores import NAMES, contenders, score, truth_of
from helpers import SMALL, called, refused, write_catalog, write_scenes
from tiny_models import RECORD, tiles, tiny_mae
from torch import Tensor, nn

from geomae import cli
from geomae.catalog import open_catalog, parse_selector, source_from_paths
from geomae.catalog.schema import SOURCES, DatasetEntry
from geomae.commands.options import ONE_DEVICE, CommonOptions, command
from geomae.config import Embedding, Objective, PretrainConfig, load_config
from geomae.encoders import Tokens, load_encoder
from geomae.encoders.specification import LIBRARIES, Library
from geomae.evaluation.alignment import AffineMap
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.methods import METHODS, move
from geomae.metrics.predictions import TILE_SCORES, accuracy
from geomae.models.band_embedding import EMBEDDINGS, BandEmbedding, BandLayer, StackedHead, band_codes
from geomae.models.folder import standardise
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import Mask
from geomae.models.objective import TERMS, Read, Term, TrainedModel
from geomae.models.trainable import Loss
from geomae.models.trainable_weights import unfreeze
from geomae.rasters import describe_bands
from geomae.runtime import devices
from geomae.runtime.signals import Stop
from geomae.sensors import match_bands, registry, sensor
from geomae.tiles.index import build_index
from geomae.tiles.schedule import schedule_batches
from geomae.tiles.sources import RESOLVERS
from geomae.training.data import assemble
from geomae.training.loop import train
from geomae.training.trainer import initial_model, prepare

ROOT = Path(__file__).parents[2]
KINDS = ("sensor", "band embedding", "loss term", "encoder", "alignment", "score", "source", "command")
TOY_TABLE = """\
bands:
  green: {common_name: green, wavelength_um: 0.56, fwhm_um: 0.04, gsd_m: 3}
  nir: {common_name: nir, wavelength_um: 0.84, fwhm_um: 0.1, gsd_m: 3}
sensors:
  toysat:
    title: A toy
    unit: reflectance
    scale: 0.0001
    offset: 0
    nodata: 0
    bands: [green, nir]
    sources: {wavelength_um: an invented data sheet}
"""


def test_every_checklist_has_a_toy() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    titles = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert len(titles) == len(KINDS)
    for title, kind in zip(titles, KINDS, strict=True):
        assert kind in title


def test_what_checklists_name_is_there() -> None:
    """Files and folders, and names of registries in the files that stand before them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for line in (one for one in text.splitlines() if one[:2] in ("1.", "2.", "3.", "4.", "5.")):
        path = None
        for word in line.split("`")[1::2]:
            if "/" in word and "<" not in word:
                path = next((top / word for top in (ROOT, ROOT / "geomae") if (top / word).exists()), None)
                assert path is not None, word
            elif word.isupper() and path is not None and path.suffix == ".py":
                assert f"\n{word}" in path.read_text(encoding="utf-8"), f"{path}: {word}"


def test_names_that_configurations_and_registries_share_are_the_same() -> None:
    assert set(get_args(Embedding)) == set(EMBEDDINGS)
    assert list(Objective(pixels=1, places=1, contrast=1, textures=1).weights()) == list(TERMS)
    assert set(SOURCES) == set(RESOLVERS)
    for library in LIBRARIES.values():
        module, _, function = library.home.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def add(monkeypatch: pytest.MonkeyPatch, registry: Any, value: object, name: str = "toy") -> None:
    """Add an entry to a registry for one test."""
    monkeypatch.setitem(registry, name, value)


def test_a_sensor_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toysat.yaml").write_text(TOY_TABLE, encoding="utf-8")
    monkeypatch.setattr(registry, "TABLES", tmp_path)
    others = sensor("sentinel-2-l2a").bands
    registry._sensors.cache_clear()
    try:
        toy = sensor("toysat")
    finally:
        registry._sensors.cache_clear()
    places = match_bands(toy.bands, others, same_sensor=False)
    assert [others[place].common_name for place in places if place is not None] == ["green", "nir"]


class ToyEmbedding(BandLayer):
    """The mean of the bands, through one linear layer: any number of bands."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(pixels, width)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        tokens: Tensor = self.proj(patches_BNCP.where(valid_BNCP, 0).mean(2))
        return tokens


TOY_EMBEDDING = BandEmbedding(
    lambda shape: ToyEmbedding(shape.patch**2, shape.width),
    lambda shape, width: StackedHead(shape.bands, shape.patch**2, width),
    any_bands=True,
)


def test_a_band_embedding_is_a_layer_a_head_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, EMBEDDINGS, TOY_EMBEDDING)
    shape = tiny_mae("stacked").architecture.model_copy(update={"embedding": "toy"})
    mae = MaskedAutoencoder(shape)
    assert mae.architecture.any_bands
    unfreeze(mae, "lora", blocks=0, rank=1)
    assert mae.encoder.embedding.proj.weight.requires_grad  # the weights of bands learn in full
    pixels, valid = tiles()
    mask = Mask(torch.arange(12).expand(2, 12), visible=4)
    mae(standardise(pixels, valid, RECORD), valid, band_codes(RECORD.bands), mask).mean().backward()
    assert torch.isfinite(mae.encoder.embedding.proj.weight.grad).all()


class ToyObjective(Objective):
    """With the weight of a term that pulls embeddings towards what a head makes of them."""

    toy: float = 0.0


def toy_loss(model: TrainedModel, read: Read) -> Loss:
    return Loss(model.heads["toy"](read.pooled_BD).square().mean(1), torch.ones(len(read.pooled_BD)))


def test_a_term_is_a_weight_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Term(toy_loss, lambda tiles: float(len(tiles.tile_ids)), lambda width: nn.Linear(width, 3))
    add(monkeypatch, TERMS, toy)
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    config = load_config(PretrainConfig, "pretrain", None, (*SMALL, "steps=2", "batch=2"))
    config = config.model_copy(update={"objective": ToyObjective(pixels=1.0, toy=0.5)})
    data = assemble(open_catalog(write_catalog(tmp_path)), [parse_selector("tiny")], [], config, 0)
    trainer = prepare(
        devices.build_fabric("cpu", 1, 1, "auto"), initial_model(config, data, 0), config, 0, "32",
        data.training, data.validation, tmp_path / "checkpoints",
    )  # fmt: skip
    before = trainer.trained.heads["toy"].weight.clone()
    order = schedule_batches(0, (len(data.training[0].reader),), config.batch, config.steps)
    logged = [event.figures for event in train(trainer, order, Stop()) if event.figures]
    assert len(logged) == 2 and all(np.isfinite(figures["toy"]) for figures in logged)
    assert logged[0]["loss"] == pytest.approx(logged[0]["pixels"] + 0.5 * logged[0]["toy"], rel=1e-5)
    assert not torch.equal(trainer.trained.heads["toy"].weight, before)


class ToyEncoder:
    """Embeds a tile as the means of its bands; a library would be called in `tokens`."""

    depth = 0
    notes = ("means of bands",)
    digest = "toy"

    def __init__(self, text: str, record: Any) -> None:
        self.text, self.bands, self.gsd_m = text, record.bands, record.gsd_m

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        return 1, 1

    def tokens(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tokens:
        patches_B1C = pixels_BCHW.mean((2, 3))[:, None]
        return Tokens(None, patches_B1C, torch.ones(patches_B1C.shape[:2], dtype=torch.bool))

    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(pixels_BCHW, valid_BCHW)
        return tokens.pooled("mean"), tokens.patches_BND


def test_an_encoder_is_a_module_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("toy_models")
    module.toy_encoder = lambda reference, layer, pooling, imagery, device: ToyEncoder(reference.text, imagery)
    monkeypatch.setitem(sys.modules, "toy_models", module)
    add(monkeypatch, LIBRARIES, Library("toy_models:toy_encoder", ("size",)))
    encoder = load_encoder("toy:means?size=3", imagery=RECORD)
    pixels, _ = tiles()
    tile_BD, patches_BND = encoder.embed(pixels)
    assert encoder.text == "toy:means?size=3" and [one.name for one in encoder.bands] == ["B02", "B04", "B8A", "B11"]
    assert torch.allclose(tile_BD, pixels.mean((2, 3))) and patches_BND.shape == (2, 1, 4)


def toy_alignment(given: Domains) -> Moved:
    """Brings the mean of the target to that of the source."""
    stay = AffineMap.identity(given.target_MD.shape[1])
    shift_D = given.source_ND.mean(0) - given.target_MD.mean(0)
    return Moved(given, given.pool_PD.astype(np.float64), replace(stay, bias_E=shift_D))


def test_an_alignment_is_a_function_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, METHODS, toy_alignment)
    given = domains(SOURCE_ND[::3] + 7)
    moved = move("toy", given)
    np.testing.assert_allclose(moved.target_ME.mean(0), given.source_ND.mean(0), atol=1e-9)
    assert len(moved.probes([0.1])[0].predict(moved.target_ME)) == len(given.target_MD)


def test_a_score_is_a_function_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def error_rate(counts_XKK: Any, _: Any) -> Any:
        return 1 - accuracy(counts_XKK)

    add(monkeypatch, TILE_SCORES, error_rate, "error_rate")
    truth = truth_of()
    rows = {row.metric: row for row in score(contenders(truth), {"test": truth}, 3).rows if row.encoder == "good"}
    assert rows["error_rate"].value == pytest.approx(1 - rows["accuracy"].value)
    assert rows["error_rate"].interval is not None and len(NAMES) == 3


class ToyEntry(DatasetEntry):
    """With a key that names a folder, of which every raster is a scene."""

    toy: str | None = None


def toy_source(catalog: Any, dataset: str) -> Any:
    entry = catalog.entry(dataset)
    paths = sorted(str(path) for path in (catalog.folder / entry.toy).glob("*.tif"))
    return catalog, source_from_paths(catalog, dataset, paths, describe_bands)


def test_a_source_is_a_key_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    catalog = open_catalog(write_catalog(tmp_path))
    add(monkeypatch, SOURCES, True)
    add(monkeypatch, RESOLVERS, toy_source)
    written = catalog.entry("tiny").model_dump(exclude_unset=True, exclude={"path"}, by_alias=True)
    entry = ToyEntry.model_validate({**written, "toy": "scenes"})
    catalog = replace(catalog, entries={"tiny": entry})
    index = build_index(catalog, "tiny")
    assert entry.source == "toy" and len(index) == 2 * 4
    assert [band.name for band in index.source.bands] == ["red", "green", "blue", "nir"]


@dataclass(frozen=True)
class ToyOptions:
    """An option that can be repeated, a flag that turns off, and the options of all commands."""

    common: CommonOptions
    names: Annotated[tuple[str, ...], typer.Option("--name", help="Whom to greet; repeatable.")] = ()
    polite: Annotated[bool, typer.Option("--no-polite", help="Leave the greeting out.")] = True


def run_toy(options: ToyOptions) -> int:
    typer.echo(f"{'hello ' if options.polite else ''}{' '.join(options.names)} {options.common.seed}")
    return 0


def test_a_command_is_a_function_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    monkeypatch.setattr(cli, "EXAMPLES", dict(cli.EXAMPLES))
    cli.add_command("toy", command(run_toy, "Greet.", ONE_DEVICE), "--name world")
    page = called("toy", "--help", cwd=tmp_path).stdout
    assert page.rstrip().endswith("geomae toy --name world") and "Whom to greet" in page
    assert "--seed" in page and "--devices" not in page
    done = called("toy", "--name", "wide", "--name", "world", "--seed", 3, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "hello wide world 3\n")
    assert called("toy", "--no-polite", cwd=tmp_path).stdout == " 0\n"
    refused(called("toy", "--seed", -1, cwd=tmp_path), "--seed", "greater than or equal to 0")
