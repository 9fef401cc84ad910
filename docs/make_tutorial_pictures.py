"""Draw the pictures of the tutorials from a run of them.

    python .ci/documents.py WORK && python docs/make_tutorial_pictures.py WORK

They have few colours, so that all together stay below 500 KB. C bands, H W pixels.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from make_pictures import draw_row
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageOps

FOLDER = Path(__file__).with_name("tutorials")
COLOURS, WIDTH, SIDE = 64, 720, 3.2  # of pictures side by side, in inches
RED, GREEN, BLUE, NIR = 3, 2, 1, 7  # places of the bands of the landscape
Picture = NDArray[Any]


def composite(path: Path, *bands: int) -> Picture:
    """Three bands of a scene (H, W, 3), stretched between percentiles 2 and 98; white where nothing was seen."""
    with rasterio.open(path) as file:
        pixels_CHW = file.read([band + 1 for band in bands]).astype(float)
    seen_HW = (pixels_CHW > 0).all(axis=0)
    low, high = np.percentile(pixels_CHW[:, seen_HW], (2, 98))
    return np.where(seen_HW[..., None], np.moveaxis((pixels_CHW - low) / (high - low), 0, -1).clip(0, 1), 1)


def coloured(path: Path, name: str, high: float) -> Picture:
    """The first band of a map (H, W, 3) in a colour scale from 0 to `high`; white where there is no value."""
    with rasterio.open(path) as file:
        value_HW = file.read(1, masked=True).astype(float).filled(np.nan)
    return np.where(np.isnan(value_HW)[..., None], 1, colormaps[name](value_HW.clip(0, high) / high)[..., :3])


def components(path: Path) -> Picture:
    """A map of principal components (H, W, 3); white where there is none."""
    with rasterio.open(path) as file:
        colour_HW3 = np.moveaxis(file.read([1, 2, 3]), 0, -1) / 255
        return np.where(file.dataset_mask()[..., None] > 0, colour_HW3, 1)


def save(name: str, picture: Image.Image, width: int = WIDTH) -> None:
    """Keep a picture, not wider than `width` and in few colours."""
    wide = picture.convert("RGB")
    if wide.width > width:
        wide = wide.resize((width, round(wide.height * width / wide.width)), Image.Resampling.LANCZOS)
    wide.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Draw all of them."""
    work = Path(sys.argv[1]) / "tutorials"
    runs, scene = work / "runs", work / "rasters" / "lowland_1.tif"
    true = composite(scene, RED, GREEN, BLUE)
    rows = {
        "a-map": {"true colour": true, "principal components": components(runs / "pca" / "pca_map_lowland_1.tif")},
        "e-anomaly": {
            "false colour": composite(work / "after" / "lowland_1.tif", NIR, RED, GREEN),
            "anomaly": coloured(runs / "after" / "anomaly_mine_lowland_1.tif", "magma", 6),
        },
    }  # fmt: skip
    copies = {"b-scores": runs / "probe" / "probe_scores.png", "c-gap": runs / "gap" / "gap_spectra.png"}
    for name, shown in rows.items():
        drawn = work / f"{name}.png"
        draw_row(drawn, shown, SIDE)
        save(name, Image.open(drawn))
    for name, path in copies.items():
        save(name, Image.open(path))
    report = Image.open(runs / "map" / "map_lowland_1.png").convert("RGB")
    save("d-map", report.crop(ImageOps.invert(report).getbbox()), WIDTH * 3 // 2)  # its words have to stay legible
    tiles = Image.open(runs / "preview" / "preview.png")
    save("a-preview", tiles.crop((0, 0, tiles.width, round(0.4 * tiles.height))))  # without what is below true colour
    print(f"{sum(path.stat().st_size for path in FOLDER.glob('*.png')) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
