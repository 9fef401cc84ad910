"""Pictures and the interactive plot of principal components."""

import json
import re
from io import BytesIO

import numpy as np
from matplotlib.image import imread

from geomae.randomness import generator
from geomae.reports.pca_figures import (
    MOST,
    ExplorerData,
    colour,
    colour_columns,
    contact_png,
    explorer,
    pca_scatter,
    pca_scree,
)

PNG = b"\x89PNG\r\n\x1a\n"


def test_values_of_a_column_look_different_and_the_rare_are_one():
    values = [f"c{k:02}" for k in range(11) for _ in range(20 - k)]
    column = colour("label", np.array([*values, "rare", "rarer", "", ""]))
    assert [style.name for style in column.styles] == [f"c{k:02}" for k in range(11)] + ["other (2)", "none"]
    assert len({(style.colour, style.shape) for style in column.styles}) == MOST + 1
    assert [style.count for style in column.styles][-2:] == [2, 2]
    assert column.style_T[-4:].tolist() == [11, 11, 12, 12]
    assert column.take(np.array([0, 20])).style_T.tolist() == [0, 1]
    few = colour("split", np.array(["train", "test", "train"]))
    assert [(style.name, style.count) for style in few.styles] == [("test", 1), ("train", 2)]
    assert few.style_T.tolist() == [1, 0, 1]


def test_labels_that_are_measurements_are_ranges_from_dark_to_light():
    values = np.array([*(f"{number / 10}" for number in range(80)), ""])
    column = colour("label", values)
    assert [style.name for style in column.styles][:2] == ["0 to 0.988", "0.988 to 1.98"]
    assert [style.count for style in column.styles] == [10] * 8 + [1]
    assert column.style_T.tolist() == [number // 10 for number in range(80)] + [8]
    light = [sum(int(style.colour[at : at + 2], 16) for at in (1, 3, 5)) for style in column.styles[:8]]
    assert light == sorted(light)
    assert len(colour("group", values).styles) == MOST + 1, "numbers that are names"


def test_columns_of_one_value_are_left_out_unless_all_are():
    columns = {"label": np.array(["a", "a"]), "split": np.array(["a", "b"])}
    assert [column.title for column in colour_columns(columns)] == ["split"]
    assert [
        column.title for column in colour_columns({"label": np.array(["", ""]), "split": np.array(["a", "a"])})
    ] == ["label"]


def test_pictures_are_the_same_each_time(tmp_path):
    rng = generator(0, "test pictures")
    share = np.array([0.5, 0.3, 0.1, 0.1])
    columns = colour_columns({"label": np.array(["$a_b$", "b", ""] * 20), "split": np.array(["x", "y", "y"] * 20)})
    for count in (1, 2, 3, 4):
        scores = rng.standard_normal((60, count)).astype(np.float32)
        behind = np.arange(60) < 20
        for name in ("one.png", "two.png"):
            pca_scatter(tmp_path / name, scores, columns, share, title="t", caption="c", behind_T=behind)
        assert (tmp_path / "one.png").read_bytes().startswith(PNG)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    pca_scree(tmp_path / "scree.png", share, 2, 3.1, title="t")
    assert (tmp_path / "scree.png").read_bytes().startswith(PNG)


def test_the_interactive_part_holds_its_data_and_nothing_that_runs():
    pictures = generator(0, "test pictures").random((5, 8, 8, 3))
    columns = colour_columns({"label": np.array(["</script><b>", "b", "b", "b", "c", "c"])})
    scores = np.arange(12, dtype=np.float32).reshape(6, 2) / 7
    markup = explorer(ExplorerData(scores, columns, [["<i>"]] * 5, pictures, np.array([0.9, 0.1]))).markup
    found = re.search(r'<script type="application/json">(.*?)</script>', markup, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    assert data["columns"][0]["styles"][0]["name"] == "</script><b>"
    assert data["columns"][0]["style"] == [0, 1, 1, 1, 2, 2]
    assert data["scores"][1] == [0.2857, 0.4286]
    assert (data["side"], data["across"], len(data["texts"])) == (8, 3, 5)
    assert "<i>" not in markup


def test_many_pictures_are_one():
    pictures = generator(0, "test pictures").random((5, 8, 8, 3))
    sheet = imread(BytesIO(contact_png(pictures, 3)))[..., :3]
    assert sheet.shape == (16, 24, 3)
    np.testing.assert_allclose(sheet[8:, 8:16], pictures[4], atol=0.5 / 255 + 1e-6)
    assert (sheet[8:, 16:] == 0).all()
