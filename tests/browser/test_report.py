"""Reports in a real browser, without network: nothing on the console, nothing beyond 1280 pixels, and all that is to be
clicked and typed does what it says. Skipped where there is no Chromium."""

import numpy as np
import pytest
from chromium import BROWSER, browse, drive

from geomae.randomness import generator
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.reports.pca_figures import ExplorerData, colour_columns, explorer, pca_scree

pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is absent")
DRIVE = """
  const root = document.getElementById("explorer"), find = name => root.querySelector(name);
  const points = find(".points"), tip = find(".tip");
  const press = key => points.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  const texts = parent => [...parent.children].map(one => one.textContent);
  const shown = () => tip.style.display === "none" ? null : texts(tip.lastElementChild);
  const pixels = () => [...tip.querySelector("canvas").getContext("2d").getImageData(3, 3, 1, 1).data];
  const at = (x, y, type = "pointermove", pointerType = "mouse") => {
    const box = points.getBoundingClientRect();
    points.dispatchEvent(new PointerEvent(type, { pointerType, clientX: box.left + x, clientY: box.top + y }));
  };
  told.width = document.documentElement.scrollWidth;
  told.options = [...root.querySelectorAll("select")].map(one => [...one.options].map(two => two.text));
  press("ArrowRight");
  told.middle = shown();
  for (let n = 0; n < 9; n++) press("ArrowLeft");
  told.leftmost = shown();
  told.picture = pixels();
  press("Escape");
  told.left = shown();
  const box = points.getBoundingClientRect();
  const sweep = (type, pointerType) => {
    for (let y = 4; y < box.height; y += 8) for (let x = 4; x < box.width; x += 8) {
      at(x, y, type, pointerType);
      if (shown()) return shown();
    }
    return null;
  };
  told.hovered = sweep("pointermove", "mouse");
  at(2, 2);
  told.away = shown();
  told.tapped = sweep("pointerdown", "touch");
  find(".legend button").click();
  told.pressed = find(".legend button").getAttribute("aria-pressed");
  press("ArrowRight");
  for (let n = 0; n < 9; n++) press("ArrowLeft");
  told.leftmost_without_a = shown();
  find(".column").value = 1;
  find(".column").dispatchEvent(new Event("change"));
  told.legend = texts(find(".legend"));
  const table = document.querySelector("table.sorts"), heads = [...table.querySelectorAll("button")];
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  heads[1].click();
  told.ascending = column();
  heads[1].click();
  told.descending = column();
  told.sorted = heads[1].parentElement.getAttribute("aria-sort");
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with a figure, a table, and six tiles to explore, of which the last two lie behind."""
    folder = tmp_path_factory.mktemp("page")
    share = np.array([0.6, 0.3, 0.1])
    pca_scree(folder / "scree.png", share, 2, 2.4, title="variance")
    pictures = np.zeros((4, 8, 8, 3)) + np.arange(4)[:, None, None, None] / 4
    scores = np.array([[0, 0], [1, 2], [2, 1], [3, 3], [-1, -1], [4, 4]], dtype=np.float32)
    columns = {"label": np.array(["a", "b", "b", "c", "c", "c"]), "split": np.array(["x", "y", "x", "y", "x", "y"])}
    texts = [[f"tile {number} <b>", "label"] for number in range(4)]
    rows = [["one", 10.0, ""], ["two", 9, "x"], ["three", None, "y" * 200], ["four", -0.5, "z"]]
    parts = (
        Figure(folder / "scree.png", "Variance"),
        Table("Figures", ("name", "value", "note"), rows),
        explorer(ExplorerData(scores, colour_columns(columns), texts, pictures, share[:2])),
    )
    wide = Table("Wide", [f"column {k}" for k in range(30)], [generator(0, "wide").random(30).tolist()])
    path = folder / "report.html"
    write_page(path, Page("A report", "What was found.", (Section("All", ("Text.",), (*parts, wide)),), {"seed": "0"}))
    return path


@pytest.fixture(scope="module")
def told(page):
    """What a visitor meets who tries everything."""
    return drive(page, DRIVE, page.parent)


def test_a_page_fits_its_window_and_can_be_printed(page, told, tmp_path):
    assert told["width"] == 1280
    browse(page, f"--screenshot={tmp_path / 'page.png'}")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    browse(page, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


ON_PAPER = """
  for (const rule of document.styleSheets[0].cssRules) if (rule.conditionText === "print") rule.media.mediaText = "all";
  document.body.style.width = "718px";
  told.right = document.querySelector("table").getBoundingClientRect().right;
"""


def test_a_table_of_many_bands_fits_the_width_of_a_page_of_paper(tmp_path):
    """A4 has 718 pixels between margins of a centimetre, and does not scroll."""
    rows = [["baseline-idw", "landscape@test", "random 0.75", *(0.01234 * band for band in range(1, 13))]]
    table = Table("By band", ("model", "tiles", "mask", *(f"B{band:02d}" for band in range(12))), rows)
    write_page(tmp_path / "report.html", Page("A report", "Found.", (Section("All", (), (table,)),)))
    assert drive(tmp_path / "report.html", ON_PAPER, tmp_path)["right"] <= 718


def test_tables_sort_on_a_click_and_what_is_unknown_comes_last(told):
    assert told["ascending"] == ["-0.5", "9", "10", ""]
    assert told["descending"] == ["10", "9", "-0.5", ""]
    assert told["sorted"] == "descending"


def test_tiles_are_explored_by_mouse_keys_and_touch(told):
    assert told["options"] == [
        ["component 1 (60.0% of variance)", "component 2 (30.0% of variance)"],
        ["component 1 (60.0% of variance)", "component 2 (30.0% of variance)"],
        ["label", "split"],
    ]
    assert told["middle"] == ["tile 2 <b>", "label"]
    assert told["leftmost"] == ["tile 0 <b>", "label"]  # those behind have no picture and are passed over
    assert told["picture"] == [0, 0, 0, 255]
    assert told["left"] is None
    assert told["hovered"] == told["tapped"] == ["tile 3 <b>", "label"]  # the first from the top
    assert told["away"] is None
    assert told["pressed"] == "false"
    assert told["leftmost_without_a"] == ["tile 1 <b>", "label"]
    assert told["legend"] == ["x", "y"]
