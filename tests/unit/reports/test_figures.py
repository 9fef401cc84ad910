"""What the pictures show follows the valid pixels, and nothing else."""

import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.image import imread

from geomae.reports import figures, finetune_figures
from geomae.reports.canvas import composites, describe_composite, panels, shorten, space_out, stretch_limits, to_rgb
from geomae.reports.figures import (
    HIDDEN_COLOUR,
    INVALID_COLOUR,
    TilePicture,
    contact_sheet,
    reconstruction_panel,
)
from geomae.reports.finetune_figures import Example
from geomae.reports.training_report import loss_curve
from geomae.sensors import Band, sensor


def bands_of(*names):
    at_um = {"blue": 0.49, "green": 0.56, "red": 0.66, "nir": 0.83, "nir08": 0.86, "swir16": 1.61}
    return [Band(name.upper(), name if name in at_um else None, at_um.get(name, 1.0), 0.05, 30) for name in names]


BANDS = bands_of("blue", "green", "red", "nir08")


def picture(seed=0, tile_id="chip_001:0:32", size=32):
    rng = np.random.default_rng(seed)
    truth_CHW = rng.random((4, size, size), dtype=np.float32) / 3
    valid_CHW = np.ones(truth_CHW.shape, dtype=bool)
    valid_CHW[:, :8, :8] = False
    visible_HW = np.zeros((size, size), dtype=bool)
    visible_HW[:, : size // 4] = True
    return TilePicture(tile_id, truth_CHW, visible_HW, truth_CHW + np.float32(0.02), valid_CHW)


def has_colour(path, colour):
    pixels = imread(path)[..., :3].reshape(-1, 3)
    return bool((np.abs(pixels - colour).max(axis=1) < 0.01).sum() > 500)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("blue", "green", "red", "nir", "nir08"), {"true colour": (2, 1, 0), "false colour": (3, 2, 1)}),
        (("nir08", "blue", "red", "green"), {"true colour": (2, 3, 1), "false colour": (0, 2, 3)}),
        (("red", "nir", "swir16"), {"false colour": (2, 1, 0)}),
        (("red", "green", "blue"), {"true colour": (0, 1, 2)}),
        (("unnamed", "red"), {"grey": (0, 0, 0)}),
    ],
)
def test_composites_go_by_common_name(names, expected):
    assert composites(bands_of(*names)) == expected


def test_a_composite_names_its_bands():
    bands = sensor("sentinel-2-l2a").bands
    titles = [describe_composite(name, indices, bands) for name, indices in composites(bands).items()]
    assert titles == ["true colour (B04, B03, B02)", "false colour (B08, B04, B03)"]
    assert describe_composite("grey", (0, 0, 0), bands) == "grey (B01)"


def test_stretch_takes_valid_pixels_only():
    pixels_CHW = np.stack([np.linspace(0, 1, 101), np.full(101, 0.3)]).reshape(2, 1, 101)
    valid_CHW = np.ones(pixels_CHW.shape, dtype=bool)
    low_C, high_C = stretch_limits(pixels_CHW, valid_CHW)
    np.testing.assert_allclose([low_C, high_C], [[0.02, 0.15], [0.98, 0.45]])  # one value is the middle of its band
    wide_CHW = np.concatenate([pixels_CHW, np.full((2, 1, 50), np.nan), np.full((2, 1, 50), 1e30)], axis=2)
    known_CHW = np.isfinite(wide_CHW) & (wide_CHW < 1e29)
    np.testing.assert_array_equal(stretch_limits(wide_CHW, known_CHW), (low_C, high_C))
    np.testing.assert_array_equal(stretch_limits(wide_CHW, np.zeros_like(known_CHW)), ([0, 0], [1, 1]))


def test_stretch_of_several_tiles_counts_their_pixels_together():
    tiles = [np.zeros((1, 4, 4)), np.ones((1, 2, 2))]
    low_C, high_C = stretch_limits(tiles, [np.ones(tile.shape, dtype=bool) for tile in tiles], (0, 100))
    assert (low_C, high_C) == ([0], [1])


def test_clouds_leave_the_land_its_contrast_in_a_fenced_stretch():
    rng = np.random.default_rng(0)
    land_CHW = rng.normal(0.08, 0.02, (1, 90, 100))
    cloudy_CHW = np.concatenate([land_CHW, np.full((1, 10, 100), 1.6)], axis=1)  # a tenth is saturated
    valid = {one.shape: np.ones(one.shape, dtype=bool) for one in (land_CHW, cloudy_CHW)}
    plain, fenced = (stretch_limits(cloudy_CHW, valid[cloudy_CHW.shape], fenced=one) for one in (False, True))
    assert plain[1] == 1.6
    assert fenced[0] == plain[0]
    assert 0.12 < fenced[1] < 0.22  # between the brightest land and twice that
    clear = [stretch_limits(land_CHW, valid[land_CHW.shape], fenced=one) for one in (False, True)]
    assert clear[0] == clear[1]  # nothing changes without outliers
    water_CHW = np.where(np.arange(100) < 90, 0.0, 1.0).reshape(1, 1, 100)  # most of it has one value
    assert stretch_limits(water_CHW, np.ones_like(water_CHW, dtype=bool), fenced=True) == ([0], [1])


def test_a_contact_sheet_shows_land_beside_clouds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "to_rgb", lambda *given: drawn.append(to_rgb(*given)) or drawn[-1])
    land_CHW = np.random.default_rng(0).normal(0.08, 0.02, (len(BANDS), 32, 32)).astype(np.float32)
    cloudy_CHW = land_CHW.copy()
    cloudy_CHW[:, :12] = 1.6
    tiles = [(name, one, np.ones(one.shape, dtype=bool)) for name, one in (("a", land_CHW), ("b", cloudy_CHW))]
    contact_sheet(tmp_path / "clouds.png", tiles, BANDS, "reflectance", "t")
    assert 0.25 < np.median(drawn[0]) < 0.75


def test_colours():
    pixels_CHW = np.array([[[0.0, 0.5, 9.0, np.nan]], [[0.0, 0.5, 9.0, 0.5]], [[0.0, 0.0, 0.0, 0.5]]])
    valid_CHW = np.ones(pixels_CHW.shape, dtype=bool)
    valid_CHW[2, 0, 1] = False
    drawn = to_rgb(pixels_CHW, valid_CHW, (0, 1, 2), np.zeros(3), np.ones(3), INVALID_COLOUR)
    np.testing.assert_allclose(drawn[0], [(0, 0, 0), INVALID_COLOUR, (1, 1, 0), INVALID_COLOUR])


def test_rmse_counts_hidden_valid_pixels_only():
    tile = picture()
    assert tile.hidden_rmse == pytest.approx(0.02, rel=1e-5)
    tile.reconstruction_CHW[:, :, :8] = 7  # visible
    tile.truth_CHW[~tile.valid_CHW] = np.nan
    assert tile.hidden_rmse == pytest.approx(0.02, rel=1e-5)
    assert math.isnan(
        TilePicture("a", tile.truth_CHW, ~tile.visible_HW | True, tile.truth_CHW, tile.valid_CHW).hidden_rmse
    )


def test_panel_shows_hidden_and_invalid_and_ignores_what_is_under_them(tmp_path):
    paths = [tmp_path / name for name in ("plain.png", "nan.png", "other.png")]
    plain, spoilt, other = picture(), picture(), picture()
    spoilt.truth_CHW[~spoilt.valid_CHW] = np.nan
    other.reconstruction_CHW[1, 20:24, 20:24] += 0.3
    for path, tile in zip(paths, (plain, spoilt, other), strict=True):
        reconstruction_panel(path, tiles=[tile], bands=BANDS, unit="reflectance", title="step 10")
    assert has_colour(paths[0], HIDDEN_COLOUR)
    assert has_colour(paths[0], INVALID_COLOUR)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(paths), "nothing unfinished is left"


def test_panel_has_at_most_eight_rows_and_one_group_per_composite(tmp_path):
    shapes = []
    for number, names in ((8, 4), (11, 4), (8, 3)):
        tiles = [picture(seed, size=8) for seed in range(number)]
        cut = [
            TilePicture(t.tile_id, t.truth_CHW[:names], t.visible_HW, t.reconstruction_CHW[:names], t.valid_CHW[:names])
            for t in tiles
        ]
        reconstruction_panel(tmp_path / "p.png", tiles=cut, bands=BANDS[:names], unit="reflectance", title="t")
        shapes.append(imread(tmp_path / "p.png").shape)
    assert shapes[0] == shapes[1]
    assert shapes[2][1] < shapes[0][1]


def test_names_of_any_kind_are_drawn(tmp_path):
    tile = picture(tile_id="$x_{1}$ 雲/" + "long-name/" * 20)
    reconstruction_panel(tmp_path / "a.png", tiles=[tile], bands=BANDS, unit="digital_number", title="100 $ of $" * 30)
    contact_sheet(tmp_path / "b.png", [(tile.tile_id, tile.truth_CHW, tile.valid_CHW)], BANDS, "reflectance", "$")


def test_panel_of_tiles_without_a_valid_pixel(tmp_path):
    tile = picture()
    tile.valid_CHW[:] = False
    tile.truth_CHW[:] = np.nan
    reconstruction_panel(tmp_path / "a.png", tiles=[tile], bands=BANDS, unit="reflectance", title="nothing")
    assert has_colour(tmp_path / "a.png", INVALID_COLOUR)


def test_loss_curve_takes_gaps_and_few_or_many_steps(tmp_path):
    rows = [{"step": step, "train_loss": 1 / (step + 1), "val_loss": None} for step in range(200)]
    rows += [{"step": 0, "val_loss": math.nan}, {"step": 199, "val_loss": 0.1}]
    for name, some in (("many", rows), ("few", rows[:3]), ("none", [])):
        loss_curve(tmp_path / f"{name}.png", some)
    pictures = {path.stem: imread(path) for path in tmp_path.iterdir()}
    assert len(pictures) == 3
    assert not np.array_equal(pictures["many"], pictures["none"])


def test_the_axis_of_the_loss_is_not_longer_than_the_figure(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("geomae.reports.training_report.save", lambda figure, path: drawn.append(figure))
    what = "weighted sum of: mean squared error of standardised pixels, contrast of views, same places, textures"
    loss_curve(tmp_path / "loss.png", [{"step": 0, "train_loss": 1.0}], what=what)
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    box = figure.axes[0].yaxis.label.get_window_extent()
    assert box.y0 >= 0 and box.x0 >= 0 and box.y1 <= figure.bbox.height


@pytest.mark.parametrize("name", ["sentinel-2-l2a", "sentinel-1-grd", "landsat-8-oli"])
def test_contact_sheet_of_any_sensor(tmp_path, name):
    bands = sensor(name).bands
    rng = np.random.default_rng(0)
    tiles = [
        (f"tile {number}", rng.random((len(bands), 8, 8)), np.full((len(bands), 8, 8), True)) for number in range(40)
    ]
    contact_sheet(tmp_path / "all.png", tiles, bands, "reflectance", name)
    contact_sheet(tmp_path / "most.png", tiles[:36], bands, "reflectance", name)
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "most.png").read_bytes()


def test_contact_sheet_has_tiles_in_true_and_in_false_colour(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("geomae.reports.figures.save", lambda figure, path: figures.append(figure))
    pixels_CHW = np.random.default_rng(0).random((4, 8, 8))
    tiles = [("a", pixels_CHW, np.full((4, 8, 8), True)), ("b", pixels_CHW / 2, np.full((4, 8, 8), True))]
    contact_sheet(tmp_path / "all.png", tiles, BANDS, "reflectance", "t")
    contact_sheet(tmp_path / "no_infrared.png", tiles, BANDS[:3], "reflectance", "t")
    for figure, titles in zip(figures, (["true colour (", "false colour ("], ["true colour ("]), strict=True):
        said = [text.get_text() for text in figure.texts]
        assert [title for title in ("true colour (", "false colour (") if any(title in one for one in said)] == titles
        assert [axes.get_title() for axes in figure.axes] == [*["a", "b"] * len(titles), ""]  # and the spectrum
    red_HW = figures[0].axes[2].images[0].get_array()[..., 0]
    assert np.corrcoef(np.ravel(red_HW), np.ravel(pixels_CHW[3]))[0, 1] > 0.9  # near infrared


def test_contact_sheet_shows_invalid_pixels(tmp_path):
    tile = picture()
    contact_sheet(tmp_path / "a.png", [("a", tile.truth_CHW, tile.valid_CHW)], BANDS, "reflectance", "t")
    assert has_colour(tmp_path / "a.png", INVALID_COLOUR)


def test_long_titles_are_broken_into_lines():
    long = "Linear probe, trained on plots[year=1999,plot in 0|1|2|4|6|7|8|9|11|16|17|18|19|21|23|24|25|27|29]"
    for title, lines in (("Scores", 1), (long, 2), (long * 9, 3)):
        figure, _ = panels(1, 8, 3, title)
        written = figure.get_suptitle()
        assert written.count("\n") + 1 == lines
        assert max(map(len, written.split("\n"))) <= 68
        assert ("…" in written) == (lines == 3)
        figure.draw_without_rendering()
        top = figure.transFigure.inverted().transform(figure.axes[0].get_window_extent())[1, 1]
        assert top < figure._suptitle.get_window_extent().y0 / figure.bbox.height  # the panel is below the title


def test_names_keep_both_ends_and_places_keep_their_distance():
    assert shorten("short", 10) == "short"
    assert shorten("abcdefghijklmnop", 10) == "abc…klmnop"
    np.testing.assert_allclose(space_out([0.1, 0.5, 0.5, 0.9], 0.1), [0.1, 0.45, 0.55, 0.9])
    assert min(np.diff(space_out(np.linspace(0.4, 0.5, 8).tolist(), 0.03))) == pytest.approx(0.03)


def test_figures_leave_pyplot_alone():
    code = "import sys, geomae.reports.figures; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examples_of_pixels_have_a_key_of_their_colours(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(finetune_figures, "save", lambda figure, path: seen.append(figure))
    codes_HW = np.arange(64).reshape(8, 8) % 3 - 1
    shown = Example("s0:0:0", np.ones((3, 8, 8), "float32"), np.ones((3, 8, 8), bool), codes_HW, codes_HW, 0.5)
    bands = [sensor("naip").band(name) for name in ("red", "green", "blue")]
    finetune_figures.examples_picture(
        tmp_path / "e.png", [shown], bands, ["crop", "water"], title="t", colours=["#ff00ff", "#0000ff"]
    )
    (legend,) = seen[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["crop", "water", "no label"]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == ["#ff00ff", "#0000ff", "#cccccc"]
