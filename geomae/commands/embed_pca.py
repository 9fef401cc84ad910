"""`geomae embed-pca`: embeddings along their principal components, as figures, plots and maps, start to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from xarray import Dataset

from geomae import __version__
from geomae.commands import embed
from geomae.commands.embed_pca_report import PcaResult, metrics_of, summarize_pca, write_report
from geomae.commands.run import AnalysisRun, Session, commit
from geomae.encoders import Encoder, parse_encoders
from geomae.encoders.extraction import EncoderTiles, shapes
from geomae.encoders.selections import Embedded, identity
from geomae.evaluation import pca as embed_pca_scores
from geomae.evaluation.pca import Earlier, Floats, columns, fitted_tiles, identity_of
from geomae.reports.explorer import explored
from geomae.reports.pca_figures import Coloured, colour_columns, pca_scatter, pca_scree
from geomae.reports.pca_maps import SceneMap, draw_maps, fit_colours, load_colours, scenes_to_map
from geomae.runtime.precision import working_precision
from geomae.tiles.selection import Selection


@dataclass(frozen=True)
class EmbedPcaOptions:
    """What the command line asked for; None is the default."""

    embed: embed.EmbedOptions
    components: int | None = None
    project: Path | None = None
    maps: int | None = None


def run(request: EmbedPcaOptions) -> int:
    """Embed the tiles and show them along their principal components. Returns the exit code."""
    earlier = embed_pca_scores.open_earlier(request.project) if request.project else None
    folder = str(request.project.absolute()) if request.project else None
    asked = {"components": request.components, "project": folder, "maps": request.maps}

    def plan(session: Session, selected: Sequence[Selection], encoders: Mapping[str, Encoder]) -> list[str]:
        parts = [EncoderTiles(encoders[one.index.name], one.index) for one in selected]
        features, _ = shapes(parts, patches=False)
        if earlier is not None:
            named = identity_of(identity(encoders))
            embed_pca_scores.check_projection(earlier, named, request.embed.encoders[0])
        tiles = embed_pca_scores.check_components(request.components, [part.index for part in parts], features)
        fitted = f"those of {earlier.folder}" if earlier else f"fitted to {tiles} of these tiles"
        return [
            f"principal components {fitted}, of {features} features",
            f"maps of {len(scenes_to_map(parts, request.maps))} scenes",
        ]

    def leave(command: AnalysisRun, session: Session, embedded: Embedded) -> None:
        _leave(request, earlier, command, session, embedded)

    return embed.run_embedding_command("embed-pca", request.embed, asked, plan, leave)


def _leave(
    request: EmbedPcaOptions, earlier: Earlier | None, command: AnalysisRun, session: Session, embedded: Embedded
) -> None:
    """All that is made of the embeddings."""
    metrics, made = embed.export(command, embedded)
    out, dataset, seed = command.out, embedded.open(), request.embed.common.seed
    found, scores_TK = _find(request, earlier, dataset)
    if found.here.collapse:
        command.screen.warn(found.here.collapse)
    found.pca.save(out / "pca.npz")
    label = parse_encoders(request.embed.encoders)[0].label
    title = f"{' + '.join(command.asked['dataset'])} through {label}"
    known = columns(dataset, *([earlier.dataset] if earlier else []))
    coloured = colour_columns(known)
    _draw(out, title, found, scores_TK, coloured)
    shown = explored(embedded.parts, known, coloured, scores_TK, found.share_K, seed)
    maps = _draw_maps(request, earlier, command, session, embedded)
    write_report(out / "report.html", title, found, shown, maps, _about(command, session, dataset))
    names = ("pca.npz", "pca_scree.png", "pca_scatter.png", "report.html")
    command.finish(
        metrics | metrics_of(found) | {"maps": len(maps)},
        made | {"collapse": found.here.collapse, "fit": found.notes},
        [*(out / name for name in names), *(one.picture for one in maps), *(one.raster for one in maps)],
    )
    command.screen.close()
    command.screen.result(summarize_pca(found))
    command.screen.result(f"report: {out / 'report.html'}")


def _find(request: EmbedPcaOptions, earlier: Earlier | None, dataset: Dataset) -> tuple[PcaResult, Floats]:
    """The components, and the scores of the tiles along them; behind those, of the tiles of the earlier run."""
    named = identity_of(dataset.attrs)
    if earlier is None:
        fitted_T, notes = fitted_tiles(dataset["dataset"].to_numpy(), dataset["split"].to_numpy())
        pca = embed_pca_scores.fit(dataset, fitted_T, request.components, named)
        scores_TK = embed_pca_scores.scores(dataset, pca)
        return PcaResult(pca, pca, pca.share_D[: len(pca.components_KD)], None, len(scores_TK), tuple(notes)), scores_TK
    here = embed_pca_scores.fit(dataset, np.ones(dataset.sizes["tile"], dtype=np.bool_), None, named)
    scores_TK = embed_pca_scores.scores(dataset, earlier.pca)
    variance_K = scores_TK.var(axis=0, ddof=1, dtype=np.float64)
    carried_K = variance_K / here.spectrum_D.sum() if here.spectrum_D.any() else np.zeros_like(variance_K)
    found = PcaResult(earlier.pca, here, carried_K, earlier.folder, len(scores_TK), ())
    return found, np.concatenate([scores_TK, embed_pca_scores.scores(earlier.dataset, earlier.pca)])


def _draw(out: Path, title: str, found: PcaResult, scores_TK: Floats, coloured: Sequence[Coloured]) -> None:
    """The pictures of variance and of tiles."""
    share_D, kept = found.pca.share_D, len(found.share_K)
    pca_scree(out / "pca_scree.png", share_D, kept, found.pca.effective_rank, title=title)
    caption = f"{found.tiles:,} tiles" + (f"; light: the tiles of {found.earlier}" if found.earlier else "")
    behind_T = np.arange(len(scores_TK)) >= found.tiles
    path = out / "pca_scatter.png"
    pca_scatter(path, scores_TK, coloured, found.share_K, title=title, caption=caption, behind_T=behind_T)


def _draw_maps(
    request: EmbedPcaOptions, earlier: Earlier | None, command: AnalysisRun, session: Session, embedded: Embedded
) -> list[SceneMap]:
    """Map the scenes of all data sets; in the colours of the earlier run, where it made maps."""
    jobs = scenes_to_map(embedded.parts, request.maps)
    if not jobs:
        return []
    device, seed = session.fabric.device, request.embed.common.seed
    with torch.inference_mode(), working_precision(device, session.precision):
        colours = load_colours(earlier.folder) if earlier else None
        if colours is None:
            dataset = embedded.open()
            fitted_T, _ = fitted_tiles(dataset["dataset"].to_numpy(), dataset["split"].to_numpy())
            command.screen.say("fitting the colours of the maps")
            colours = fit_colours(embedded.parts, fitted_T, seed, identity_of(dataset.attrs), device)
        colours.save(command.out)
        return draw_maps(jobs, colours, command.out, device, partial(command.step, "mapping, windows"))


def _about(command: AnalysisRun, session: Session, dataset: Dataset) -> dict[str, str]:
    """What was run."""
    made_by, asked = dataset.attrs, command.asked
    return {
        "encoder": str(made_by["encoder"]),
        "model digest": str(made_by["model_digest"]),
        "layer, pooling": f"{made_by['layer']}, {made_by['pooling']}",
        "how it takes the tiles": "; ".join(made_by["notes"]),
        "catalogue": str(asked["catalog"]),
        "selections": ", ".join(asked["dataset"]),
        "digest of the data": str(made_by["data_digest"]),
        "seed": str(asked["seed"]),
        "device, precision": f"{session.fabric.device.type}, {session.precision}",
        "geomae": f"{__version__} ({commit()})",
        "folder": str(command.out),
    }
