"""The audit's remarks on georeference and pixel sizes of files: a sentence each, with their number and the remedy."""

from collections import Counter
from collections.abc import Mapping, Sequence

from geomae.catalog import Scene, Source
from geomae.rasters.file_records import FileFacts
from geomae.rasters.grids import GSD_TOLERANCE
from geomae.rasters.remarks import SHOWN, listed

Facts = Mapping[str, FileFacts]


def grid_remarks(source: Source, scenes: Sequence[Scene], facts: Facts) -> list[str]:
    """Remarks on files with control points instead of a CRS, on several pages, and on pixel sizes without `gsd_m`."""
    used = {path: facts[path] for scene in scenes for path in scene.files}
    messages = [*_not_placed(used), *_pages(used)]
    return messages if source.gsd_m is not None else [*messages, *_pixel_sizes(scenes, used)]


def _not_placed(used: Facts) -> list[str]:
    """Files without a CRS that have ground control points or RPCs."""
    messages = []
    for what in ("ground control points", "RPCs"):
        paths = [path for path, facts in used.items() if facts.placed_by == what]
        if paths:
            messages.append(
                f"{listed(paths)}: {what} and no CRS, so that their position is unknown; if it matters, "
                f"warp them to a CRS first (gdalwarp{' -rpc' if what == 'RPCs' else ''} -t_srs EPSG:CODE)"
            )
    return messages


def _pages(used: Facts) -> list[str]:
    """TIFFs of several pages."""
    pages = {path: facts.pages for path, facts in used.items() if facts.pages > 1}
    if not pages:
        return []
    return [
        f"{listed(list(pages))}: up to {max(pages.values())} pages, and only the first is read; if the others "
        "are needed, write each to a file (gdal_translate GTIFF_DIR:2:FILE), or all as bands of one page"
    ]


def _pixel_sizes(scenes: Sequence[Scene], used: Facts) -> list[str]:
    """Pixels that are not square, and scenes of several pixel sizes, where the catalogue has no `gsd_m`."""
    messages = []
    sides_m = {path: facts.sides_m for path, facts in used.items() if facts.sides_m is not None}
    finest_m = [
        min(min(sides_m[path]) for path in scene.files if path in sides_m)
        for scene in scenes
        if any(path in sides_m for path in scene.files)
    ]
    oblong = {path: side_m for path, side_m in sides_m.items() if max(side_m) > (1 + GSD_TOLERANCE) * min(side_m)}
    if oblong:
        width_m, height_m = next(iter(oblong.values()))
        messages.append(
            f"{listed(list(oblong))}: pixels that are not square (the first {width_m:.4g} x {height_m:.4g} m) "
            f"are used as they are; `gsd_m: {max(finest_m):.4g}` resamples them to square ones"
        )
    if finest_m and max(finest_m) > (1 + GSD_TOLERANCE) * min(finest_m):
        counts = Counter(f"{size_m:.4g} m" for size_m in sorted(finest_m))
        sizes = ", ".join(f"{count} of {size}" for size, count in list(counts.items())[:SHOWN])
        messages.append(
            f"scenes have pixels of several sizes ({sizes}{', ...' if len(counts) > SHOWN else ''}), so that tiles "
            f"show ground of several sizes; `gsd_m: {max(finest_m):.4g}` makes all equal, or make a data set of each"
        )
    return messages
