"""The report of `geomae embed-pca`: what the components are, where the tiles lie along them, and the maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.pca import Pca
from geomae.reports.explorer import Explored, explorer
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.reports.pca_maps import SceneMap

MOST_MAPS = 24  # in the page; the folder has all


@dataclass(frozen=True)
class PcaResult:
    """What was found. `pca` are the components that the scores are along, `here` those of the tiles at hand.

    They are the same unless the tiles were projected into an earlier run: then `carried_K` is the share of their own
    variance that lies along each of its components.
    """

    pca: Pca
    here: Pca
    carried_K: NDArray[np.float64]
    earlier: Path | None
    tiles: int
    notes: tuple[str, ...]

    @property
    def share_K(self) -> NDArray[np.float64]:
        """The share of the variance of the fitted tiles along each component."""
        return self.pca.share_D[: len(self.pca.components_KD)]


def metrics_of(found: PcaResult) -> dict[str, float]:
    """The figures by their stable names."""
    figures: dict[str, float] = {
        "components": len(found.pca.components_KD),
        "fitted_tiles": found.pca.rows,
        "effective_rank": found.here.effective_rank,
        "explained_variance_ratio": float(found.carried_K.sum()),
    }
    return figures | {f"explained_variance_ratio_{k + 1}": float(share) for k, share in enumerate(found.carried_K[:4])}


def summarize_pca(found: PcaResult) -> str:
    """What was found, in a sentence."""
    first = min(3, len(found.carried_K))
    share = found.carried_K[:first].sum()
    components = f"first {first} components" if first > 1 else "first component"
    whose = f" of {found.earlier}" if found.earlier else ""
    return (
        f"The {components}{whose} carr{'y' if first > 1 else 'ies'} {share:.1%} of the variance of {found.tiles:,} "
        f"embeddings with {len(found.here.mean_D)} features, whose effective rank is {found.here.effective_rank:.1f}."
    )


def write_report(
    path: Path, title: str, found: PcaResult, explored: Explored, maps: Sequence[SceneMap], about: Mapping[str, str]
) -> None:
    """Publish the report; the pictures of components lie beside it already."""
    warning = (f"Warning: {found.here.collapse}.",) if found.here.collapse else ()
    sections = [_variance(path.parent, found, warning), _explore(path.parent, found, explored)]
    if maps:
        sections.append(_maps(maps))
    lead = " ".join([summarize_pca(found), *warning])
    write_page(path, Page(title, lead, tuple(sections), about))


def _variance(folder: Path, found: PcaResult, warning: tuple[str, ...]) -> Section:
    share_K = found.share_K
    header, columns = ["component", "share of variance", "cumulative"], [share_K, np.cumsum(share_K)]
    text = [f"The components were fitted to {found.pca.rows:,} tiles."]
    if found.earlier is not None:
        header.append("share of the variance here")
        columns.append(found.carried_K)
        text.append(
            f"They are those of {found.earlier}, into which the tiles were projected: the picture shows the variance "
            "of the tiles that they were fitted to, and the last column that of the tiles at hand."
        )
    text.append(
        "The effective rank says how many directions are in use: it is as large as there are features when all carry "
        "the same variance, and 1 when one carries all."
    )
    rows = [(k + 1, *(float(column[k]) for column in columns)) for k in range(len(share_K))]
    table = Table(f"The {len(rows)} components that are kept", header, rows)
    figure = Figure(folder / "pca_scree.png", "Variance along the components, one by one and together.")
    return Section("Variance", (*warning, *found.notes, *text), (figure, table))


def _explore(folder: Path, found: PcaResult, explored: Explored) -> Section:
    shown = len(explored.texts)
    which = "all tiles" if shown == found.tiles else f"{shown:,} of {found.tiles:,} tiles, drawn at random by the seed"
    lightly = f" The tiles of {found.earlier} lie lightly behind." if found.earlier else ""
    text = (
        f"The plot shows {which}.{lightly} Point at a tile, or tap it, to see its picture; after a click into the plot "
        "the arrow keys go from tile to tile. A click on a name hides its tiles.",
    )
    figure = Figure(folder / "pca_scatter.png", f"The same components, by all that is known of the tiles.{lightly}")
    return Section("Tiles along the components", text, (explorer(explored), figure))


def _maps(maps: Sequence[SceneMap]) -> Section:
    text = [
        "Every patch of a scene along the first three components of patch embeddings, as red, green and blue. One set "
        "of colours holds for all maps: black and full colour are the 2nd and 98th percentile of the patches that the "
        "components were fitted to, those of train tiles. What has one colour, the encoder takes for alike. The "
        "GeoTIFFs lie beside this page."
    ]
    if len(maps) > MOST_MAPS:
        text.append(f"The first {MOST_MAPS} of {len(maps)} maps; the folder has all.")
    figures = tuple(Figure(one.picture, f"{one.title}, in {one.raster.name}") for one in maps[:MOST_MAPS])
    return Section("Maps", tuple(text), figures)
