"""Time and memory to index many points over many scenes.

    uv run python tests/benchmarks/points.py [--points N] [--scenes S] [--size P] [--bands C] [--json FILE]

Scenes of 1024 x 1024 pixels are generated side by side in two UTM zones, with random points in them, in degrees. First
the audit reads every file, as before any index. Then the parts of the index are timed: reading and placing the points
(`place_s`), reading and measuring the pixels of all tiles (`survey_s`), and the whole index (`index_s`, from the open
catalogue, without the audit). `again_s` is the second time, when the measurements are in the cache.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import shapely

from geomae.catalog import open_catalog
from geomae.rasters import audit, write_cog
from geomae.tiles import index as tile_index
from geomae.tiles.index import build_index
from geomae.tiles.sources import open_source

SIDE = 1024  # pixels of a scene
GSD_M = 10.0
CLASSES = ("bare", "crop", "forest", "grass", "water")
CATALOG = """\
version: 1
datasets:
  many:
    path: scenes/*.tif
    sensor: naip
    bands: [{bands}]
    windows: {{points: points.parquet, size: {size}}}
    label: {{column: cover}}
    group: {{column: region}}
    split: {{block_km: 5, fractions: {{train: 0.8, test: 0.2}}}}
"""


def make(folder: Path, points: int, scenes: int, size: int, bands: int) -> None:
    """Scenes, a file of points with a class and a group, and the catalogue."""
    rng = np.random.default_rng(0)
    across = int(np.ceil(np.sqrt(scenes)))
    places = []
    for number in range(scenes):
        zone = 32632 + number % 2
        left, top = 300_000 + 12_000 * (number % across), 5_000_000 - 12_000 * (number // across)
        pixels = rng.integers(1, 200, (bands, SIDE, SIDE), dtype=np.uint8)
        corner = (GSD_M, 0.0, float(left), 0.0, -GSD_M, float(top))
        write_cog(folder / f"scenes/s{number:03}.tif", pixels, crs=f"EPSG:{zone}", transform=corner)
        share = points // scenes + (number < points % scenes)
        inset = size * GSD_M
        x, y = (rng.uniform(inset, SIDE * GSD_M - inset, share) for _ in range(2))
        to_degrees = pyproj.Transformer.from_crs(zone, 4326, always_xy=True)
        places.append(np.stack(to_degrees.transform(left + x, top - y), axis=1))
    where = np.concatenate(places)[rng.permutation(points)]
    columns = {
        "cover": np.array(CLASSES, dtype=object)[rng.integers(0, len(CLASSES), points)],
        "region": [f"r{one}" for one in rng.integers(0, 500, points)],
        "height": rng.normal(10, 3, points),
    }
    frame = geopandas.GeoDataFrame(columns, geometry=shapely.points(where), crs="EPSG:4326")
    frame.to_parquet(folder / "points.parquet")
    names = ", ".join(("red", "green", "blue", "nir")[:bands])
    (folder / "data_catalog.yaml").write_text(CATALOG.format(bands=names, size=size), encoding="utf-8")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each part."""
    os.environ["GEOMAE_CACHE"] = str(folder / "cache")
    catalog = open_catalog(folder / "data_catalog.yaml")
    figures: dict[str, float] = {}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                figures[name] = time.perf_counter() - start

        return call

    timed("audit_s", lambda: audit(open_source(catalog, "many"), workers=2))()
    before = peak_mib()
    parts = {"place_s": "list_windows", "survey_s": "survey"}
    real = {name: getattr(tile_index, name) for name in parts.values()}
    for key, name in parts.items():
        setattr(tile_index, name, timed(key, real[name]))
    index = timed("index_s", build_index)(catalog, "many")
    figures["peak_mib"], figures["peak_before_mib"] = peak_mib(), before
    survey_s = figures["survey_s"]
    timed("again_s", build_index)(catalog, "many")
    figures["survey_s"], figures["tiles"] = survey_s, len(index)
    print(index.left_out, *index.remarks, sep="\n")
    return figures


def peak_mib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Generate the data, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("points", 1_000_000), ("scenes", 100), ("size", 16), ("bands", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="folder for the files, or with existing files")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        if not (folder / "data_catalog.yaml").is_file():
            make(folder, chosen.points, chosen.scenes, chosen.size, chosen.bands)
        figures = measure(folder)
    for name, value in figures.items():
        print(f"{name:16} {value:,.1f}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
