"""The suite of shifts: every method on every shift beside what labels would give; what was computed is found again."""

import argparse
import csv

import numpy as np
import pytest
from helpers import contents
from PIL import Image

from geomae.errors import ConfigError
from geomae.evaluation.alignment import ALIGNMENTS
from geomae.tiles.radiometry import QUANTILES, RADIOMETRY
from pipelines import shift_runs, shift_suite, shift_tasks
from pipelines.shift_config import Change

CATALOG = """\
version: 1
datasets:
  photographs:
    path: photographs/*/*.png
    sensor: {unit: digital_number, bands: [{name: red, wavelength_um: 0.665, fwhm_um: 0.031},
      {name: green, wavelength_um: 0.56, fwhm_um: 0.036}, {name: blue, wavelength_um: 0.49, fwhm_um: 0.066}]}
    tile: {size: 8}
    label: {folder: true}
    split: {random: {train: 0.5, test: 0.5}, seed: 0}
"""
FAMILY = """\
family: made
most: 80
datasets:
  drawn:
    sample: {size: 96, scenes: 1, shift: none}
    tile: {size: 8}
made:
  of: photographs@test
  changes:
    brighter: {gain: 1.5, offset: 20.0}
shifts:
  gain: {source: photographs@train, target: brighter}
  shares: {source: photographs@train, target: photographs@test, shares: 0.5}
  none: {source: drawn, target: drawn, halves: true, draws: 2}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A catalogue of photographs of three colours, a family of shifts, and the folder of a finished suite."""
    folder = tmp_path_factory.mktemp("suite")
    rng = np.random.default_rng(0)
    for label, colour in {"field": (90, 120, 60), "lake": (40, 60, 110), "town": (110, 90, 90)}.items():
        for number in range(40):
            pixels_HWC = rng.normal(colour, 12, (8, 8, 3)) + rng.normal(0, 12, 3)
            path = folder / "photographs" / label / f"{label}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8)).save(path)
    (folder / "catalog.yaml").write_text(CATALOG)
    (folder / "family.yaml").write_text(FAMILY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAE_CACHE", str(folder / "cache"))
        assert shift_suite.run(arguments(folder)) == 0
        yield folder


def arguments(folder, **changes):
    usual = {"catalog": folder / "catalog.yaml", "encoder": ["baseline:statistics"], "seeds": 1, "seed": 0}
    usual |= {"family": [str(folder / "family.yaml")], "out": folder / "out", "dry_run": False}
    return argparse.Namespace(**usual | changes)


def rows(folder):
    with (folder / "out/shifts.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_method_has_a_row_on_every_shift_beside_what_labels_give(suite):
    found = rows(suite)
    assert {row["shift"] for row in found} == {"gain", "shares", "none 00", "none 01"}
    for shift in ("gain", "shares"):
        methods = [row["method"] for row in found if row["shift"] == shift]
        assert methods[0] == "none" and set(ALIGNMENTS) < set(methods)
        assert set(methods) & set(RADIOMETRY) == {QUANTILES}  # one sensor, and no ground that both sides show
        assert {"oracle", "labels-5"} <= set(methods) and len(methods) == len(set(methods))
        assert sum(row["chosen"] == "True" for row in found if row["shift"] == shift) == 1
    text = (suite / "out/shifts.md").read_text()
    assert "## made" in text and text.count("\n| none |") == 1  # the two draws as one line
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("| ")}
    (best,) = {cells["gain"][5].strip("`")} & set(ALIGNMENTS)
    gain = {row["method"]: float(row["gain"]) for row in found if row["shift"] == "gain"}
    assert float(cells["gain"][6]) == pytest.approx(gain[best], abs=1e-3)
    assert gain[best] == max(value for name, value in gain.items() if not name.startswith(("oracle", "labels")))


def test_a_known_gain_is_taken_back_and_its_figures_fit_together(suite):
    by_method = {row["method"]: row for row in rows(suite) if row["shift"] == "gain"}
    plain, moved = (float(by_method[name]["value"]) for name in ("none", "standardise"))
    assert moved > plain + 0.1
    assert float(by_method["standardise"]["gain"]) == pytest.approx(moved - plain)
    assert float(by_method["standardise"]["gain_low"]) > 0
    assert by_method["standardise"]["classes"] == "field lake town"
    best = max(float(row["value"]) for name, row in by_method.items() if name in ALIGNMENTS)
    assert float(by_method["oracle"]["value"]) <= best + 1e-9


def test_matched_histograms_take_a_known_gain_back_and_carry_evidence_for_the_rule(suite):
    (one,) = [row for row in rows(suite) if (row["shift"], row["method"]) == ("gain", QUANTILES)]
    assert float(one["gain"]) > 0.1
    assert "circular_validation=" in one["scores"]


def test_classes_are_resampled_by_as_much_as_was_asked(suite):
    (one,) = [row for row in rows(suite) if (row["shift"], row["method"]) == ("shares", "none")]
    assert int(one["n_target"]) < 60 and one["classes"] != ""


def test_a_second_time_nothing_is_computed(suite, monkeypatch):
    before = {name for name, _ in contents(suite / "out")}
    table = (suite / "out/shifts.csv").read_bytes()
    monkeypatch.setattr(shift_runs, "predict_shift", lambda *_: pytest.fail("probed a second time"))
    monkeypatch.setattr(shift_runs, "embed_selections", lambda *_: pytest.fail("embedded a second time"))
    monkeypatch.setattr(shift_tasks, "fit_usable", lambda *_: pytest.fail("fitted a second time"))
    assert shift_suite.run(arguments(suite)) == 0
    assert {name for name, _ in contents(suite / "out")} == before
    assert (suite / "out/shifts.csv").read_bytes() == table


def test_what_cannot_be_is_said(suite):
    with pytest.raises(ConfigError, match="name an --encoder"):
        shift_suite.run(arguments(suite, encoder=[]))
    with pytest.raises(ConfigError, match="--seeds 0"):
        shift_suite.run(arguments(suite, seeds=0))
    with pytest.raises(ConfigError, match=r"reel.*real"):
        shift_suite.run(arguments(suite, family=["reel"]))


def test_changes_of_pixels_are_what_they_say():
    grey_CHW = np.full((3, 8, 8), 100.0)
    grey_CHW[:, :, 4:] = 120
    assert np.array_equal(Change().apply(grey_CHW), grey_CHW.astype(np.uint8))
    assert set(np.unique(Change(gain=1.5, offset=10).apply(grey_CHW))) == {160, 190}
    assert set(np.unique(Change(levels=8).apply(grey_CHW))) == {112}  # 96 to 127 are one level
    assert Change(gain=3).apply(grey_CHW).max() == 255
    red, blue = Change(haze=0.5).apply(grey_CHW)[[0, 2], 0, 0]
    assert (int(red), int(blue)) == (146, 178)
    blurred = Change(blur=1.5).apply(grey_CHW)[0, 0]
    assert (np.diff(blurred.astype(int)) >= 0).all() and len(set(blurred.tolist())) > 3
