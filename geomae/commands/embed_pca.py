"""`geomae embed-pca`: principal components of embeddings, as tables, plots and maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomae.commands.options import (
    CommonOptions,
    Datasets,
    Encoders,
    Layer,
    Pooling,
    command,
    embedding_request,
    next_command,
    one_encoder,
    read_selectors,
)

if TYPE_CHECKING:
    from geomae.encoders import Encoder
    from geomae.evaluation.pca import Earlier
    from geomae.tiles.selection import Selection


@dataclass(frozen=True)
class EmbedPcaOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    encoders: Encoders = ()
    datasets: Datasets = ()
    layer: Layer = None
    pooling: Pooling = None
    components: Annotated[
        int | None, typer.Option(min=1, help="Components to keep; default 16, or fewer if the data allow no more.")
    ] = None
    project: Annotated[
        Path | None, typer.Option(help="Folder of an earlier embed-pca; project the tiles onto its components.")
    ] = None
    maps: Annotated[
        int | None,
        typer.Option(min=0, help="Scenes to map per data set; default all, or 8 if scenes have no CRS. 0: no maps."),
    ] = None

    def params(self) -> dict[str, Any]:
        """The settings beside the embeddings that the result depends on, as JSON."""
        folder = str(self.project.absolute()) if self.project else None
        return {"components": self.components, "project": folder, "maps": self.maps}


def run(options: EmbedPcaOptions) -> int:
    """Embed the tiles and compute their principal components. Returns the exit code."""
    (selectors,) = read_selectors(options.common, options.datasets)
    reference = one_encoder(options.encoders)
    from geomae.commands.session import open_session

    request = embedding_request(reference, selectors, options.layer, options.pooling)
    session = open_session(options.common, request={"command": "embed-pca", **request, **options.params()})
    selections = session.select(selectors)
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.run import embedding_run, launch_into, publish_embeddings, stop_early
    from geomae.encoders.selections import EmbeddingSpec, describe_embedding, embed_selections, embedding_params
    from geomae.evaluation.pca import fit_store, open_earlier, project_store
    from geomae.runtime.signals import watch

    earlier = open_earlier(options.project) if options.project else None
    spec = EmbeddingSpec(options.layer, options.pooling)
    encoders = session.loader(spec, selections).load(reference)
    lines = describe_pca(encoders, selections, options.encoders[0], earlier, options.components, options.maps)
    if options.common.dry_run:
        for line in (*describe_embedding(session.compute, session.catalog, encoders, selections, spec), *lines):
            session.screen.result(line)
        return 0
    params = embedding_params(session.compute, session.catalog, reference, encoders, selections, spec)
    with embedding_run(session, "embed-pca", params | options.params(), reference, encoders, selections) as analysis:
        out, progress = launch_into(session, analysis)
        with watch() as stop:
            embedded = embed_selections(session.compute, session.catalog, encoders, selections, out, stop, progress)
        if embedded is None:
            return stop_early(session, analysis, stop)
        if analysis is not None:  # the first rank writes the results
            # This imports matplotlib, which is not needed before.
            from geomae.commands.embed_pca_report import draw_maps, write_report, write_summary

            metrics, inputs = publish_embeddings(analysis, embedded)
            dataset, seed = embedded.open(), options.common.seed
            result, scores_TK = project_store(dataset, earlier) if earlier else fit_store(dataset, options.components)
            if result.here.collapse:
                analysis.screen.warn(result.here.collapse)
            result.pca.save(out / "pca.npz")
            maps = draw_maps(analysis, session.compute, embedded, earlier, options.maps, seed)
            title = f"{' + '.join(one.name for one in selections)} through {reference.label}"
            write_report(analysis, session.compute, title, embedded, result, scores_TK, earlier, maps)
            write_summary(analysis, result, maps, metrics, inputs)
            train, tests = splits_to_probe(selections)
            session.screen.say(
                next_command("embed-pca", options.common, train=train, test=tests, encoder=options.encoders[0])
            )
    return 0


def splits_to_probe(selections: "Sequence[Selection]") -> tuple[str, tuple[str, ...]]:
    """Selectors of labelled tiles to train a probe on and to test it on, SELECTOR where no data set has both.

    The tests are all other splits, but the validation split only if there is no other: a probe chooses its strength
    on it. Scores can differ a lot between tests, so that one of them alone may mislead.
    """
    splits: dict[str, set[str]] = {}
    for one in selections:
        tiles = one.index.tiles
        splits.setdefault(one.index.name, set()).update(tiles["split"][tiles["label"].notna()])
    for name, known in splits.items():
        others = sorted(known - {"train"})
        if "train" in known and others:
            tests = [split for split in others if split != "val"] or others
            return f"{name}@train", tuple(f"{name}@{split}" for split in tests)
    return "SELECTOR", ("SELECTOR",)


embed_pca = command(run, "Principal components of the embeddings of tiles: plots, a report, and maps of whole scenes.")


def describe_pca(
    encoders: "Mapping[str, Encoder]",
    selections: "Sequence[Selection]",
    text: str,
    earlier: "Earlier | None",
    components: int | None,
    most_maps: int | None,
) -> list[str]:
    """Lines that say what will be computed. Raises ConfigError for impossible requests, before any work begins.

    `text` is the encoder as the user named it.
    """
    from geomae.encoders.extraction import EncoderTiles, shapes
    from geomae.encoders.selections import identity
    from geomae.evaluation.pca import check_components, check_projection, identity_of
    from geomae.evaluation.pca_maps import scenes_to_map

    parts = [EncoderTiles(encoders[one.index.name], one.index) for one in selections]
    features, _ = shapes(parts, patches=False)
    if earlier is not None:
        check_projection(earlier, identity_of(identity(encoders)), text)
    tiles = check_components(components, [part.index for part in parts], features)
    fitted = f"those of {earlier.folder}" if earlier else f"fitted to {tiles} of these tiles"
    return [
        f"principal components {fitted}, of {features} features",
        f"maps of {len(scenes_to_map(parts, most_maps))} scenes",
    ]
