"""The report of `geomae embed-pca`: the components, the scores of the tiles, and the maps.

T tiles, K components
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geomae import __version__
from geomae.commands.run import AnalysisRun
from geomae.encoders.extraction import EncoderTiles
from geomae.encoders.selections import Embedded
from geomae.evaluation.pca import (
    Earlier,
    Floats,
    PcaResult,
    columns,
    fitted_tiles,
    identity_of,
)
from geomae.evaluation.pca_maps import Colours, MapJob, fit_colours, load_colours, map_scene, scenes_to_map
from geomae.reports.page import About, Figure, Page, Section, Table, link_run, write_page
from geomae.reports.pca_figures import ExplorerData, colour_columns, explorer, explorer_data, pca_scatter, pca_scree
from geomae.reports.pca_map_figures import SceneMap, write_map
from geomae.runtime.devices import Compute
from geomae.tracking import commit

MOST_MAPS = 24  # shown on the page; the folder has all


def draw_maps(
    analysis: AnalysisRun, compute: Compute, embedded: Embedded, earlier: Earlier | None, most: int | None, seed: int
) -> list[SceneMap]:
    """Map the scenes of all data sets, in the colours of the earlier run if that has maps."""
    jobs = scenes_to_map(embedded.parts, most)
    if not jobs:
        return []
    analysis.screen.say(count_maps(embedded.parts, jobs, analysis.out))
    colours = load_colours(earlier.folder) if earlier else None
    if colours is None:
        dataset = embedded.open()
        fitted_T, _ = fitted_tiles(dataset["dataset"].to_numpy(), dataset["split"].to_numpy())
        analysis.screen.say("fitting the colours of the maps to patches of these tiles")
        colours = fit_colours(compute, embedded.parts, fitted_T, seed, identity_of(dataset.attrs))
    colours.save(analysis.out)
    maps: list[SceneMap] = []
    total, before = sum(job.windows for job in jobs), 0

    def step(before: int, done: int, _: int) -> None:
        analysis.step("mapping scenes, windows", before + done, total)

    for job in jobs:
        scaled_YXK, valid_YX = map_scene(compute, job, colours, partial(step, before))
        maps.append(write_map(analysis.out, job, scaled_YXK, valid_YX))
        before += job.windows
    return maps


def count_maps(parts: Sequence[EncoderTiles], mapped: Sequence[SceneMap | MapJob], out: Path) -> str:
    """How many scenes are mapped, why not all of them, and how to map others. `out` is the folder of this run."""
    scenes = len({(part.index.name, scene) for part in parts for scene in part.index.tiles["scene"].tolist()})
    possible = scenes_to_map(parts, sys.maxsize)
    said = f"maps of {len(mapped):,} of {scenes:,} scenes"
    if len(possible) < scenes:
        said += f"; {scenes - len(possible):,} are less than two tiles long, too small for a map"
    if len(mapped) < len(possible):
        most = max(Counter(job.part.index.name for job in possible).values())
        said += (
            f"; --maps {most} maps all; scenes of your choice, in the same colours: --project {out} --dataset "
            f"'{parts[0].index.name}[COLUMN=VALUE]'"
        )
    return said


def write_report(
    analysis: AnalysisRun,
    compute: Compute,
    title: str,
    embedded: Embedded,
    result: PcaResult,
    scores_TK: Floats,
    earlier: Earlier | None,
    maps: Sequence[SceneMap],
) -> None:
    """Publish the pictures of variance and of scores, and the report."""
    out, dataset, seed = analysis.out, embedded.open(), analysis.common.seed
    known = columns(dataset, *([earlier.dataset] if earlier else []))
    coloured = colour_columns(known)
    share_D, kept = result.pca.share_D, len(result.share_K)
    pca_scree(out / "pca_scree.png", share_D, kept, result.pca.effective_rank, title=title)
    caption = f"{result.tiles:,} tiles" + (f"; light colours: the tiles of {result.earlier}" if result.earlier else "")
    behind_T = np.arange(len(scores_TK)) >= result.tiles
    path = out / "pca_scatter.png"
    pca_scatter(path, scores_TK, coloured, result.share_K, title=title, caption=caption, behind_T=behind_T)
    shown = explorer_data(embedded.parts, known, coloured, scores_TK, result.share_K, seed)
    sections = [_variance(out, result), _explore(out, result, shown)]
    if maps:
        sections.append(_maps(maps, count_maps(embedded.parts, maps, out), load_colours(out)))
    lead = " ".join([summarize_pca(result), *_warning(result)])
    about = _about(analysis, compute, dataset.attrs)
    write_page(out / "report.html", Page(title, lead, tuple(sections), about))


def write_summary(
    analysis: AnalysisRun,
    result: PcaResult,
    maps: Sequence[SceneMap],
    metrics: Mapping[str, float],
    inputs: Mapping[str, Any],
) -> None:
    """Publish the summary and print its contents."""
    out = analysis.out
    names = ("pca.npz", "pca_scree.png", "pca_scatter.png", "report.html")
    analysis.finish(
        {**metrics, **result.metrics(), "maps": len(maps)},
        {**inputs, "collapse": result.here.collapse, "fit": result.notes},
        [*(out / name for name in names), *(one.picture for one in maps), *(one.raster for one in maps)],
    )
    analysis.screen.close()
    analysis.screen.result(summarize_pca(result))
    if maps:
        files = f"{len(maps)} picture{'s' * (len(maps) != 1)}, and GeoTIFFs"
        analysis.screen.result(f"maps: {out / 'pca_map_*.png'} ({files})")
    analysis.screen.result(f"report: {out / 'report.html'}")


def summarize_pca(result: PcaResult) -> str:
    """A sentence on the variance explained by the components."""
    first = min(3, len(result.carried_K))
    share = result.carried_K[:first].sum()
    components = f"first {first} components" if first > 1 else "first component"
    if result.earlier:
        components += f" of {result.earlier} (fitted to {result.pca.rows:,} tiles)"
        which = f"{result.tiles:,} tiles"
    else:  # the share is that of the fitted tiles, which may be fewer than were embedded
        beside = f" (of {result.tiles:,})" if result.pca.rows < result.tiles else ""
        which = f"the {result.pca.rows:,} tiles{beside} that the components were fitted to"
    return (
        f"The {components} carr{'y' if first > 1 else 'ies'} {share:.1%} of the variance of {which}; their embeddings "
        f"have {len(result.here.mean_D)} features and an effective rank of {result.here.effective_rank:.1f}."
    )


def _warning(result: PcaResult) -> tuple[str, ...]:
    return (f"Warning: {result.here.collapse}.",) if result.here.collapse else ()


def _variance(folder: Path, result: PcaResult) -> Section:
    share_K = result.share_K
    header, values = ["component", "share of variance", "cumulative"], [share_K, np.cumsum(share_K)]
    text = [f"The components were fitted to {result.pca.rows:,} tiles."]
    if result.earlier is not None:
        header.append("share of the variance here")
        values.append(result.carried_K)
        text.append(
            f"They are the components of {result.earlier}, onto which these tiles were projected. The picture shows "
            "the variance of the tiles that the components were fitted to; the last column, that of these tiles."
        )
    text.append(
        "The effective rank is the number of directions in use: it equals the number of features if all have the "
        "same variance, and 1 if one direction has all of it."
    )
    rows = [(k + 1, *(float(column[k]) for column in values)) for k in range(len(share_K))]
    table = Table(f"The {len(rows)} components kept", header, rows)
    figure = Figure(folder / "pca_scree.png", "Share of variance of each component, and cumulative.")
    return Section("Variance", (*_warning(result), *result.notes, *text), (figure, table))


def _explore(folder: Path, result: PcaResult, explored: ExplorerData) -> Section:
    shown = len(explored.texts)
    which = (
        "all tiles" if shown == result.tiles else f"{shown:,} of {result.tiles:,} tiles, drawn at random by the seed"
    )
    lightly = f" The tiles of {result.earlier} are in light colours behind." if result.earlier else ""
    text = (
        f"The plot shows {which}.{lightly} Point at a tile, or tap it, to see its picture. After a click into the "
        "plot, the arrow keys move from tile to tile. A click on a name in the legend hides its tiles.",
    )
    figure = Figure(folder / "pca_scatter.png", f"The same components, coloured by attributes of the tiles.{lightly}")
    return Section("Tiles along the components", text, (explorer(explored), figure))


def _maps(maps: Sequence[SceneMap], count: str, colours: Colours | None) -> Section:
    text = [
        "Red, green and blue are the first three principal components of the patch embeddings. All maps have the same "
        "colour scale: black and full colour are the 2nd and 98th percentile of the patches that the components were "
        "fitted to, those of train tiles. Patches of one colour have similar embeddings. The GeoTIFFs are beside this "
        "page.",
        *([_share(colours)] if colours else []),
        f"{count[0].upper()}{count[1:]}.",
    ]
    if len(maps) > MOST_MAPS:
        text.append(f"The page shows the first {MOST_MAPS} of {len(maps)} maps; the folder has all.")
    figures = tuple(Figure(one.picture, f"{one.title}, in {one.raster.name}") for one in maps[:MOST_MAPS])
    return Section("Maps", tuple(text), figures)


def _share(colours: Colours) -> str:
    share = colours.pca.share_D[: len(colours.low_K)].sum()
    return (
        f"These components carry {share:.1%} of the variance of the patches that they were fitted to. They are not "
        "those of the other sections, which are of whole tiles."
    )


def _about(analysis: AnalysisRun, compute: Compute, made_by: Mapping[Any, Any]) -> About:
    """The settings and inputs of the run."""
    params = analysis.params
    return {
        "encoder": link_run(str(params["encoder"])),
        "model digest": str(made_by["model_digest"]),
        "layer, pooling": f"{made_by['layer']}, {made_by['pooling']}",
        "input of the encoder": "; ".join(made_by["notes"]),
        "catalogue": str(params["catalog"]),
        "selections": ", ".join(params["dataset"]),
        "digest of the data": str(made_by["data_digest"]),
        "seed": str(params["seed"]),
        "device, precision": f"{compute.fabric.device.type}, {compute.precision}",
        "geomae": f"{__version__} ({commit()})",
        "folder": str(analysis.out),
    }
