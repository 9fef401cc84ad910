"""A simulated field survey of the synthetic landscape: points and outlines of fields, as GeoJSON.

Both are derived from the class raster of a scene; the imagery does not depend on them.
Axes: H W pixels, N features.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.polygon import orient

from geomae.rasters.outlines import outlines
from geomae.vectors.projection import LONGITUDE_LATITUDE, transform

SPACING_PX = 32  # between points; also the side of a square that was surveyed for fields
JITTER_PX = 8  # largest offset of a point along each axis: two points are at least 16 pixels apart
PLOT_PX = 4  # from a point to the sides of the square in which its tree cover was estimated
CLUSTER = 2  # points along the side of a cluster, which is visited in one day
LATEST_DAYS = 15  # from the scene to the visit
SMALLEST_PX = 36  # of a field
DECIMALS = 7  # of a degree: a centimetre

Feature = dict[str, Any]


@dataclass(frozen=True)
class SurveyedScene:
    """A scene's name, day, CRS and transform, its class codes (H, W; 0 without data) and their names."""

    name: str
    day: date
    crs: str
    transform: tuple[float, float, float, float, float, float]
    codes_HW: NDArray[np.uint8]
    classes: Mapping[int, str]


def survey_points(scene: SurveyedScene, tree: int, rng: np.random.Generator) -> list[Feature]:
    """Points on a jittered grid: class, tree_cover (0 to 1, around it), cluster (a group), time of the visit.

    Pixels without data get no point. `tree` is the class code of trees.
    """
    middles = np.arange(SPACING_PX // 2, len(scene.codes_HW), SPACING_PX)
    late_days = rng.integers(0, LATEST_DAYS, (len(middles), len(middles)), endpoint=True)
    jitter_px = rng.uniform(-JITTER_PX, JITTER_PX, (len(middles), len(middles), 2))
    places_px, columns = [], []
    for i, j in np.ndindex(len(middles), len(middles)):
        y, x = middles[[i, j]] + jitter_px[i, j]
        row, col, team = int(y), int(x), (i // CLUSTER, j // CLUSTER)
        if scene.codes_HW[row, col] == 0:
            continue
        around = (slice(max(at - PLOT_PX, 0), at + PLOT_PX + 1) for at in (row, col))
        plot = scene.codes_HW[tuple(around)]
        places_px.append((x, y))
        columns.append(
            {
                "class": scene.classes[int(scene.codes_HW[row, col])],
                "tree_cover": round(float((plot[plot > 0] == tree).mean()), 3),
                "cluster": f"{scene.name}-{team[0]}-{team[1]}",
                "time": (scene.day + timedelta(days=int(late_days[team]))).isoformat(),
            }
        )
    a, b, c, d, e, f = scene.transform
    x_N, y_N = np.array(places_px, dtype=np.float64).reshape(-1, 2).T
    return _features(scene, shapely.points(a * x_N + b * y_N + c, d * x_N + e * y_N + f), columns)


def survey_fields(scene: SurveyedScene) -> list[Feature]:
    """Simplified polygons of one class each, a pixel inside its border: class, field (a group), time.

    Squares of the scene are surveyed in a checkerboard pattern; no field leaves its square.
    """
    pixel = abs(scene.transform[0])
    square = np.arange(len(scene.codes_HW)) // SPACING_PX
    surveyed_HW = np.add.outer(square, square) % 2 == 0
    shapes, columns = [], []
    for code, (border, *holes) in outlines(scene.codes_HW, surveyed_HW & (scene.codes_HW > 0), scene.transform):
        area = shapely.Polygon(border, holes)
        if area.area < SMALLEST_PX * pixel**2:
            continue
        inside = area.simplify(0.7 * pixel).buffer(-pixel, join_style="mitre")
        widest = max(shapely.get_parts(inside), key=lambda part: float(part.area), default=inside)
        if widest.area >= SMALLEST_PX * pixel**2:
            shapes.append(orient(widest))
            field = f"{scene.name}-{len(shapes)}"
            columns.append({"class": scene.classes[code], "field": field, "time": scene.day.isoformat()})
    return _features(scene, np.array(shapes, dtype=object), columns)


def geojson(features: Sequence[Feature]) -> str:
    """A feature collection, one feature per line. The only CRS of GeoJSON (RFC 7946) is longitude and latitude."""
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in features)
    return f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'


def _features(scene: SurveyedScene, shapes_N: NDArray[Any], columns: Sequence[Mapping[str, Any]]) -> list[Feature]:
    def to_degrees(places_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(transform(scene.crs, LONGITUDE_LATITUDE, places_N2), DECIMALS)

    placed_N = shapely.to_geojson(shapely.transform(shapes_N, to_degrees))
    return [
        {"type": "Feature", "properties": dict(row), "geometry": json.loads(text)}
        for row, text in zip(columns, placed_N, strict=True)
    ]
