"""`geomae embed`: embeddings of every tile, as a store and as a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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


@dataclass(frozen=True)
class EmbedOptions:
    """The options of the command; None where the user gave none."""

    common: CommonOptions
    encoders: Encoders = ()
    datasets: Datasets = ()
    layer: Layer = None
    pooling: Pooling = None
    patches: Annotated[bool, typer.Option("--patches", help="Also keep the embedding of every patch, in float16.")] = (
        False
    )
    radiometry: Annotated[
        Path | None, typer.Option(help="FOLDER of a fitted radiometric correction to apply to the tiles.")
    ] = None


def run(options: EmbedOptions) -> int:
    """Embed the tiles, or continue a run. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    (selectors,) = read_selectors(options.common, options.datasets)
    reference = one_encoder(options.encoders)
    from geomae.commands.session import open_session

    request = embedding_request(reference, selectors, options.layer, options.pooling)
    through = {} if options.radiometry is None else {"radiometry": str(options.radiometry)}
    request |= {"command": "embed", "patches": options.patches, **through}
    session = open_session(options.common, request=request)
    selections = session.select(selectors)
    if options.radiometry is not None:
        from geomae.tiles.radiometry import Radiometry
        from geomae.tiles.radiometry_fits import mapped

        selections = [mapped(one, Radiometry.load(options.radiometry)) for one in selections]
    # Slow imports (torch takes seconds) follow the selection of tiles, which does not need them.
    from geomae.commands.run import embedding_run, launch_into, publish_embeddings, stop_early
    from geomae.encoders.selections import EmbeddingSpec, describe_embedding, embed_selections, embedding_params
    from geomae.runtime.signals import watch

    spec = EmbeddingSpec(options.layer, options.pooling, options.patches)
    encoders = session.loader(spec, selections).load(reference)
    if options.common.dry_run:
        for line in describe_embedding(session.compute, session.catalog, encoders, selections, spec):
            session.screen.result(line)
        return 0
    params = embedding_params(session.compute, session.catalog, reference, encoders, selections, spec)
    with embedding_run(session, "embed", params, reference, encoders, selections) as analysis:
        out, progress = launch_into(session, analysis)
        with watch() as stop:
            embedded = embed_selections(
                session.compute, session.catalog, encoders, selections, out, stop, progress, spec.patches
            )
        if embedded is None:
            return stop_early(session, analysis, stop)
        if analysis is not None:  # the first rank writes the results
            metrics, inputs = publish_embeddings(analysis, embedded)
            analysis.finish(metrics, inputs)
            named = {"dataset": selectors[0], "encoder": options.encoders[0]}
            session.screen.say(next_command("embed", options.common, **named))
    return 0


embed = command(run, "Embed the tiles of a catalogue; the same --out continues a run that was stopped.")
