"""The report of `geomae compare-recon` in a real browser: tables sort, the slider moves. Skipped without Chromium."""

import pytest
from chromium import BROWSER, drive

from geomae.commands.compare_recon import CompareReconOptions, run
from geomae.commands.options import CommonOptions

pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is absent")
DRIVE = """
  const root = document.getElementById("compare"), range = root.querySelector("input");
  const [truth, made] = [root.querySelector(".truth"), root.querySelector(".reconstruction")];
  const [tile, model] = root.querySelectorAll("select");
  told.width = document.documentElement.scrollWidth;
  told.tiles = [...tile.options].map(one => one.text);
  told.models = [...model.options].map(one => one.text);
  const seen = () => [truth.style.clipPath, root.querySelector(".border").style.left];
  told.middle = seen();
  range.value = 20;
  range.dispatchEvent(new Event("input"));
  told.moved = seen();
  const choose = (control, value) => {
    const before = [truth.src, made.src];
    control.value = value;
    control.dispatchEvent(new Event("change"));
    return [truth.src !== before[0], made.src !== before[1]];
  };
  told.other_model = choose(model, 1);
  told.other_tile = choose(tile, 1);
  told.side = truth.naturalWidth;
  const table = document.querySelector("table.sorts"), heads = [...table.querySelectorAll("button")];
  const column = number => [...table.tBodies[0].rows].map(row => row.cells[number].textContent);
  told.columns = heads.map(one => one.textContent);
  heads[1].click();
  told.ascending = column(1).map(Number);
  heads[1].click();
  told.descending = column(1).map(Number);
  heads[0].click();
  told.names = column(0);
"""


@pytest.fixture(scope="module")
def told(tiny_catalog, tracking_uri, tmp_path_factory):
    """What a visitor meets in a report of three baselines."""
    folder = tmp_path_factory.mktemp("compared")
    out = folder / "out"
    common = CommonOptions(
        catalog=tiny_catalog, out=out, tracking_uri=tracking_uri, device="cpu", precision="32", quiet=True
    )
    models = ("baseline:nearest", "baseline:idw", "baseline:mean")
    assert run(CompareReconOptions(models, (), "0.75", "random", 12, "best,worst", 0, common)) == 0
    return drive(out / "report.html", DRIVE, folder)


def test_tables_sort_on_a_click(told):
    assert told["columns"][:2] == ["model", "RMSE"]
    assert told["ascending"] == sorted(told["ascending"]) == told["descending"][::-1]
    assert told["names"] == ["baseline-idw", "baseline-mean", "baseline-nearest"]


def test_the_slider_moves_the_border_between_truth_and_reconstruction(told):
    assert told["tiles"] == ["tiny: best", "tiny: worst"]
    assert told["models"] == ["baseline-nearest", "baseline-idw", "baseline-mean"]
    assert told["middle"] == ["inset(0px 50% 0px 0px)", "50%"]
    assert told["moved"] == ["inset(0px 80% 0px 0px)", "20%"]
    assert told["other_model"] == [False, True]
    assert told["other_tile"] == [True, True]
    assert told["side"] == 16  # pixels of a tile


def test_the_report_fits_its_window(told):
    assert told["width"] == 1280
