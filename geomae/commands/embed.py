"""`geomae embed`: from a catalogue and an encoder to a store of embeddings, start to end."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomae.commands.options import CommonOptions
from geomae.commands.run import AnalysisRun, Session, open_session, output_folder, selection_record
from geomae.embeddings import write_geoparquet
from geomae.embeddings.geoparquet import footprints
from geomae.embeddings.store import store_digest
from geomae.encoders import Encoder, EncoderReference, parse_encoders
from geomae.encoders.selections import (
    Embedded,
    EmbeddingSpec,
    embed_selections,
    encoder_digest,
    model_run,
)
from geomae.errors import ConfigError
from geomae.files import read_json
from geomae.runtime import devices
from geomae.runtime.signals import watch
from geomae.tiles.selection import Selection

Plan = Callable[[Session, Sequence[Selection], Mapping[str, Encoder]], Sequence[str]]
Leave = Callable[[AnalysisRun, Session, Embedded], None]


@dataclass(frozen=True)
class EmbedOptions:
    """What the command line asked for."""

    encoders: tuple[str, ...]
    datasets: tuple[str, ...]
    embedding: EmbeddingSpec
    common: CommonOptions


def run(request: EmbedOptions) -> int:
    """Embed the tiles, or go on with it. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    return run_embedding_command("embed", request, {}, lambda session, selected, encoders: (), _leave)


def run_embedding_command(name: str, request: EmbedOptions, asked: Mapping[str, Any], plan: Plan, leave: Leave) -> int:
    """Embed the tiles for the command `name`, which makes its results of them in `leave`, on the first rank alone.

    `asked` is what decides its results beside the embeddings. `plan` raises what is wrong with that before any work,
    and says in lines, for a dry run, what will be made of the embeddings.
    """
    reference = _only(request.encoders)
    session = open_session(request.common)
    selected = session.select(request.datasets)
    encoders = session.loader(request.embedding, selected).load(reference)
    planned = plan(session, selected, encoders)
    if request.common.dry_run:
        _describe(session, encoders, request.embedding, selected)
        for line in planned:
            session.screen.result(line)
        return 0
    with ExitStack() as stack:
        command: AnalysisRun | None = None
        if session.leads:
            every = _asked(request, reference, session, encoders, selected) | dict(asked)
            out = output_folder(name, request.common.out)
            command = stack.enter_context(AnalysisRun(name, request.common, every, session.screen, out))
            command.track([selection_record(session.catalog, one) for one in selected], _tags(reference, encoders))
        session.launch()
        out = Path(session.fabric.broadcast(str(command.out) if command else ""))
        progress = command.step if command else session.screen.step
        with watch() as stop:
            embedded = embed_selections(
                session.compute, session.catalog, encoders, selected, out, stop, progress, request.embedding.patches
            )
        if embedded is None:
            if command is not None:
                command.stopped()
            return stop.exit_code or 143 if session.fabric.is_global_zero or devices.external() else 0
        if command is not None:
            leave(command, session, embedded)
    return 0


def _only(encoders: Sequence[str]) -> EncoderReference:
    if len(encoders) != 1:
        problem = "name one" if not encoders else f"{len(encoders)} are named, and one can be embedded at a time"
        raise ConfigError(f"--encoder: {problem}; `geomae probe` compares several")
    return parse_encoders(encoders)[0]


def _asked(
    request: EmbedOptions,
    reference: EncoderReference,
    session: Session,
    encoders: Mapping[str, Encoder],
    selected: Sequence[Selection],
) -> dict[str, Any]:
    """What decides the result."""
    return {
        "catalog": str(session.catalog.path.absolute()),
        "catalogue_digest": session.catalog.digest(sorted(encoders)),
        "dataset": [one.name for one in selected],
        "encoder": reference.text,
        "encoder_digest": encoder_digest(encoders),
        "layer": request.embedding.layer,
        "pooling": request.embedding.pooling,
        "patches": request.embedding.patches,
        "precision": session.precision,
        "data_digest": [one.digest() for one in selected],
    }


def _tags(reference: EncoderReference, encoders: Mapping[str, Encoder]) -> dict[str, str]:
    made_by = model_run(encoders)
    return {"geomae.encoder": reference.label} | ({"geomae.model_run": made_by} if made_by else {})


def export(command: AnalysisRun, embedded: Embedded) -> tuple[dict[str, float], dict[str, Any]]:
    """Write the table of the embeddings; give what is to be said of them, as metrics and as inputs."""
    store, dataset = embedded.extracted.path, embedded.open()
    parquet = command.out / "embeddings.parquet"
    write_geoparquet(dataset, np.concatenate([footprints(part.index) for part in embedded.parts]), parquet)
    metrics: dict[str, float] = {"tiles": dataset.sizes["tile"], "width": dataset.sizes["feature"]}
    if embedded.extracted.computed:
        seconds = embedded.extracted.seconds
        metrics |= {"seconds": seconds, "tiles_per_s": embedded.extracted.computed / seconds}
    elif command.folder.finished:  # how long it took when it was done
        before = read_json(command.out / "summary.json")["metrics"]
        metrics |= {name: before[name] for name in ("seconds", "tiles_per_s") if name in before}
    made = {"store": str(store), "store_digest": store_digest(store)}
    command.tracker.log_params(made)
    figures = f", {metrics['tiles_per_s']:.0f} tiles/s" if "tiles_per_s" in metrics else ""
    command.screen.close()
    command.screen.result(f"embeddings: {store} ({dataset.sizes['tile']} tiles x {dataset.sizes['feature']}{figures})")
    command.screen.result(f"table: {parquet}")
    return metrics, {**made, "notes": dataset.attrs["notes"]}


def _leave(command: AnalysisRun, session: Session, embedded: Embedded) -> None:
    """The export and the summary."""
    command.finish(*export(command, embedded))


def _describe(
    session: Session, encoders: Mapping[str, Encoder], spec: EmbeddingSpec, selected: Sequence[Selection]
) -> None:
    """What a dry run prints."""
    screen, fabric = session.screen, session.fabric
    screen.result(f"catalogue {session.catalog.path}")
    for one in selected:
        sizes = sorted(set(one.index.tiles["size"].tolist()))
        screen.result(f"embed {one.name}: {len(one.index)} tiles of {', '.join(map(str, sizes))} pixels")
    for name, encoder in encoders.items():
        for note in encoder.notes:
            screen.result(f"{encoder.text} on {name}: {note}")
    kept = "tile and patch embeddings" if spec.patches else "tile embeddings"
    screen.result(f"{kept} on {fabric.world_size} x {fabric.device.type} in {session.precision}")
