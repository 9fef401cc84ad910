"""Options of the model that cannot be: one line that names the key and the remedy, before anything is trained."""

import numpy as np
import pytest
from helpers import SMALL, called, changed_catalog, contents, options, refused, refuses, write_catalog

from geomae.commands.pretrain import PretrainOptions, run
from geomae.errors import ConfigError, ModelError
from geomae.rasters import write_cog

GROUPED = "embedding=grouped"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["groups=[[red, green], [red, blue, nir]]"], ["groups: red named twice", "one group or into left_out"]),
        (["groups=[[red, green, blue, nir]]", "left_out=[nir]"], ["groups: nir named twice"]),
        (["groups=[[red, green], [bleu, nir]]"], ["groups: no band 'bleu'; did you mean 'blue'?"]),
        (["groups=[[red, green], [blue]]"], ["groups: nir in no group; add them to one, or to left_out"]),
        (["groups=[[red, green, blue, nir]]", "left_out=[nirr]"], ["left_out: no band 'nirr'; did you mean 'nir'?"]),
        (["masking.kind=bands", "masking.ratio=0.9"], ["masking.ratio: 0.9 leaves none of 1 groups visible"]),
    ],
    ids=["band twice", "in a group and left out", "unknown band", "band in no group", "unknown left out", "one group"],
)
def test_groups(changes, parts, tiny_catalog, tmp_path):
    refuses(ConfigError, parts, catalog=tiny_catalog, changes=(*SMALL, GROUPED, *changes), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "changes", "parts"),
    [
        (ConfigError, ["masking.ratio=0.95"], ["masking.ratio: 0.95 leaves none of 4 patches visible (tiny)"]),
        (ConfigError, ["masking.ratio=0.05"], ["masking.ratio: 0.05 leaves none of 4 patches hidden (tiny)"]),
        (ConfigError, ["masking.kind=bands", "masking.ratio=0.9"], ["0.9 leaves none of 4 bands visible"]),
        (
            ModelError,
            ["decoder.kind=window", "decoder.window=4"],
            ["decoder.window: 4 does not divide a grid of 2 x 2"],
        ),
    ],
    ids=["nothing visible", "nothing hidden", "no band visible", "window"],
)
def test_masks_and_windows_that_do_not_fit_the_tiles(kind, changes, parts, tiny_catalog, tmp_path):
    refuses(kind, parts, catalog=tiny_catalog, changes=(*SMALL, *changes), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_positions_that_need_a_distance_on_the_ground(tmp_path):
    """Files without a CRS, of a sensor without a gsd."""
    write_cog(tmp_path / "scenes" / "s0.tif", np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32))
    bands = "".join(f"{{name: b{i}, wavelength_um: 0.{5 + i}, fwhm_um: 0.05}}, " for i in range(4))
    sensor = changed_catalog("sensor: naip", f"sensor: {{unit: reflectance, bands: [{bands[:-2]}]}}")
    catalog = write_catalog(tmp_path, sensor.replace("    bands: [red, green, blue, nir]\n", ""))
    before = contents(tmp_path)
    changes = (*SMALL, "positions=gsd")
    parts = ["positions: gsd needs the ground sample distance of tiny", "add gsd_m", "positions=sincos"]
    refuses(ConfigError, parts, catalog=catalog, changes=changes, out=tmp_path / "run")
    assert contents(tmp_path) == before
    write_catalog(tmp_path, catalog.read_text() + "    gsd_m: 5\n")
    assert run(PretrainOptions(catalog=catalog, changes=changes, dry_run=True, quiet=True)) == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("masking.ratio=1.0", ["masking.ratio", "less than 1"]),
        ("masking.ratio=0", ["masking.ratio", "greater than 0"]),
        ("masking.kind=blocks", ["masking.kind", "'block'"]),
        ("decoder.heads=5", ["heads: 5 does not divide the decoder's width 16"]),
        ("decoder.width=18", ["decoder.width: 18 is not a multiple of 4"]),
        ("decoder.predict=0.5", ["predict: a share of the hidden patches is an option of kind cross, not of full"]),
        ("masking.groups=independent", ["masking.groups: independent needs embedding grouped, not spectral"]),
        ("groups=[[red]]", ["groups: an option of embedding grouped, not of spectral"]),
    ],
)
def test_options_that_contradict_each_other(change, parts, tiny_catalog, tmp_path):
    done = called("pretrain", "--catalog", tiny_catalog, *options(*SMALL, change), cwd=tmp_path)
    refused(done, *parts)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_groups_and_what_they_leave_out(tiny_catalog, tmp_path):
    chosen = options(*SMALL, GROUPED, "groups=[[nir, red], [green]]", "left_out=[blue]")
    done = called("pretrain", "--catalog", tiny_catalog, *chosen, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "groups: nir red | green; left out: blue" in done.stderr
    assert list(tmp_path.iterdir()) == []
