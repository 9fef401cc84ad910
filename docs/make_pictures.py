"""Draw docs/first_look.png, the row of pictures in README.md, from the sample landscape.

    uv run python docs/make_pictures.py runs/pictures

One scene of each domain is learned from; the scene that is shown is another. C bands, H W pixels, B tiles, N patches
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb as colour_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

import geomae
from geomae.evaluation.reconstruction_masks import MaskKind, to_pixels, visible_cells
from geomae.models.folder import Model
from geomae.rasters import Window, read, read_map
from geomae.reports.canvas import add_picture_axes, add_text, composites, save, stretch_limits, to_rgb
from geomae.reports.figures import HIDDEN_COLOUR, INVALID_COLOUR
from geomae.tiles.selection import select_tiles

PICTURE = Path(__file__).with_name("first_look.png")
CATALOG = Path(__file__).parents[1] / "data_catalog.yaml"
LEARNED, SHOWN, SCENE = "landscape[doy in 158|228]", "landscape[doy=168]", "lowland_1"  # scenes by their days
SIZE, PART, TILE, MASK = (512, 512), Window(192, 96, 192, 192), 64, MaskKind("random", 0.75)
Array = NDArray[Any]


def make_runs(work: Path) -> None:
    """Run the commands whose results are drawn; what is there already is not made again."""
    model, saved = str(work / "model" / "model"), str(work / "probe" / "probes" / "model")
    labels = ["--train", LEARNED, "--test", SHOWN, "--task", "segmentation", "--no-baselines", "--strength", "0.1"]
    commands = {
        "model": ["pretrain", "--dataset", f"{LEARNED}@all"],
        "pca": ["embed-pca", "--dataset", SHOWN, "--encoder", model],
        "probe": ["probe", "--encoder", f"model={model}", *labels],
        "map": ["predict", "--dataset", SHOWN, "--model", saved],
    }
    for name, words in commands.items():
        if not (work / name / "summary.json").is_file():
            places = ["--catalog", str(CATALOG), "--out", str(work / name)]
            subprocess.run([str(Path(sys.executable).with_name("geomae")), *words, *places], check=True)


def reconstruct(model: Model, pixels_CHW: Array, valid_CHW: Array) -> tuple[Array, Array]:
    """What the model sees of each tile (H, W), and the pixels (C, H, W) with what is hidden as it predicts it."""
    patch, seen_HW, made_CHW = model.mae.architecture.patch, np.zeros(pixels_CHW.shape[1:], bool), pixels_CHW.copy()
    for row in range(0, pixels_CHW.shape[1], TILE):
        for col in range(0, pixels_CHW.shape[2], TILE):
            cut = np.s_[:, row : row + TILE, col : col + TILE]
            pixels, valid = (torch.from_numpy(values[cut][None]) for values in (pixels_CHW, valid_CHW))
            visible_N = visible_cells(valid_CHW[cut], patch, MASK, 0, f"{row} {col}")
            assert visible_N is not None, "too few valid pixels in this part of the scene"
            predicted_CHW = model.reconstruct(pixels, valid, torch.from_numpy(visible_N[None]))[0][0].numpy()
            seen_HW[cut[1:]] = to_pixels(visible_N, TILE, TILE, patch)
            made_CHW[cut] = np.where(seen_HW[cut[1:]], pixels_CHW[cut], predicted_CHW)
    return seen_HW, made_CHW


def pictures(work: Path) -> dict[str, Array]:
    """Pictures (H, W, 3) of a part of the scene by their titles, from left to right."""
    source = select_tiles(geomae.open_catalog(CATALOG), [SHOWN])[0].index.source
    (scene,) = (one for one in source.scenes if one.stem == SCENE)
    pixels_CHW, valid_CHW = read(source, scene, PART)
    seen_HW, made_CHW = reconstruct(geomae.load_model(work / "model" / "model"), pixels_CHW, valid_CHW)
    indices, limits = next(iter(composites(source.bands).values())), stretch_limits(pixels_CHW, valid_CHW)
    true, made = (to_rgb(one, valid_CHW, indices, *limits, INVALID_COLOUR) for one in (pixels_CHW, made_CHW))
    code_HW = read_map(str(work / "map" / f"map_{SCENE}.tif"), PART)[0]
    record = geomae.load_predictor(work / "probe" / "probes" / "model").record
    colours = np.tile(INVALID_COLOUR, (256, 1))
    colours[list(record.map_codes)] = [colour_to_rgb(one) for one in record.colours]
    cells_HW3 = np.moveaxis(read_map(str(work / "pca" / f"pca_map_{SCENE}.tif"), shape=SIZE), 0, -1) / 255
    return {
        "true colour": true, "what the model saw": np.where(seen_HW[..., None], true, HIDDEN_COLOUR),
        "reconstruction": made, "PCA map": cells_HW3[PART.row :, PART.col :][: PART.height, : PART.width],
        "predicted map": colours[code_HW],
    }  # fmt: skip


def draw_row(path: Path, shown: Mapping[str, Array], side: float = 1.75) -> None:
    """Publish the pictures side by side (PNG), each with its title, `side` inches wide."""
    gap, head = 0.08, 0.24
    figure = Figure(figsize=(len(shown) * (side + gap) + gap, head + side + gap))
    for number, (name, picture_HW3) in enumerate(shown.items()):
        left = gap + number * (side + gap)
        add_text(figure, left, 0.06, name, size=9)
        add_picture_axes(figure, left, head, side, side).imshow(picture_HW3, interpolation="nearest")
    save(figure, path)


if __name__ == "__main__":
    make_runs(Path(sys.argv[1]).absolute())
    draw_row(PICTURE, pictures(Path(sys.argv[1])))
