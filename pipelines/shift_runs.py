"""The runs of a suite of shifts: embeddings and predictions are computed once per encoder, and reused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from geomae.catalog import Catalog
from geomae.commands.session import Session
from geomae.encoders.interface import Encoder
from geomae.encoders.selections import (
    Embeddings,
    EmbeddingSpec,
    EncoderLoader,
    MappedTiles,
    embed_selections,
    embedding_params,
)
from geomae.encoders.specification import Reference
from geomae.errors import GeomaeError
from geomae.evaluation.alignment_choice import Evidence
from geomae.evaluation.probe_predictions import PredictionKey, Predictions
from geomae.evaluation.probe_scores import EncoderResult
from geomae.evaluation.probe_task import ProbeTask
from geomae.evaluation.target_labels import LABELS, ORACLE, few_target_labels, oracle
from geomae.files import digest, file_name, read_json, write_json
from geomae.runtime.signals import Stop
from geomae.tiles.radiometry_fits import mapped
from geomae.tiles.selection import Selection
from pipelines.benchmark_runs import Contender, read_predictions, write_predictions
from pipelines.benchmark_tasks import Tiles
from pipelines.shift_tasks import ShiftTask, store_key, union

LINEAR = "linear"


@dataclass(frozen=True)
class ShiftResult:
    """Predictions of an encoder (one or more seeds) for a shift, and the evidence without labels of the target."""

    task: ShiftTask
    encoder: EncoderResult
    evidence: Evidence


class ShiftRuns:
    """Embeds and probes the shifts of one family; `notes` list encoders that cannot embed a shift."""

    def __init__(self, session: Session, catalog: Catalog, tiles: Tiles, out: Path) -> None:
        self.session, self.catalog, self.tiles, self.out = session, catalog, tiles, out
        self.notes: list[str] = []

    def run(
        self, tasks: Sequence[ShiftTask], contenders: Sequence[Contender], seeds: int, stop: Stop
    ) -> Iterator[ShiftResult]:
        """Yield the results one by one; ends when `stop` is set."""
        stores = self._stores(tasks)
        # An untrained encoder has the architecture of the first trained one, which must be loaded before it.
        ordered = sorted(contenders, key=lambda one: one.baseline)
        loaders: dict[tuple[str, ...], EncoderLoader] = {}
        for task in tasks:
            sides = {key: stores[key] for key in dict.fromkeys(map(store_key, task.probe.selections))}
            loader = loaders.setdefault(tuple(sides), self.session.loader(EmbeddingSpec(), list(sides.values())))
            for contender in ordered:
                spec = contender.on(task.dataset)
                if spec is None:
                    continue
                each = []
                for reference in spec.references[:seeds]:
                    try:
                        found = self._predicted(task, reference, loader, stop)
                    except GeomaeError as error:
                        self.notes.append(f"{spec.label} is left out of {task.shift}: {error}")
                        break
                    if found is None:
                        return
                    each.append(found)
                else:
                    predictions, evidence = zip(*each, strict=True)
                    result = EncoderResult(spec.label, spec.baseline, predictions, spec.seeds[:seeds])
                    yield ShiftResult(task, result, Evidence.mean(evidence))

    def _stores(self, tasks: Sequence[ShiftTask]) -> dict[str, Selection]:
        """All tiles that any shift uses, by data set and bands."""
        parts: dict[str, list[Selection]] = {}
        for one in (one for task in tasks for one in task.probe.selections):
            parts.setdefault(store_key(one), []).append(one)
        return {key: union(each, self.tiles) for key, each in parts.items()}

    def _predicted(
        self, task: ShiftTask, reference: Reference, loader: EncoderLoader, stop: Stop
    ) -> tuple[Predictions, Evidence] | None:
        """The predictions of one seed, and the evidence; None if `stop` ended the work."""
        encoders = loader.load(reference)
        compute = self.session.compute
        params = embedding_params(compute, self.catalog, reference, encoders, loader.selections, loader.spec)
        key = digest([params["encoder_digest"], params["precision"], task.digest()])[:12]
        path = self.out / "predictions" / file_name(task.shift) / f"{reference.label}-{key}.npz"
        if not path.is_file():
            embeddings = self._embedded(task, reference, encoders, loader, stop)
            if embeddings is None:
                return None
            self.session.screen.say(f"{task.shift}: probing {reference.label}")
            with threadpool_limits(1):
                predictions = predict_shift(task.probe, embeddings)
            write_json(path.with_suffix(".json"), evidence_of(predictions).record())
            write_predictions(path, predictions, {})
        return read_predictions(path)[0], Evidence.from_record(read_json(path.with_suffix(".json")))

    def _embedded(
        self, task: ShiftTask, reference: Reference, encoders: Mapping[str, Encoder], loader: EncoderLoader, stop: Stop
    ) -> Embeddings | None:
        """The embeddings of both data sets, and of the target's tiles behind each radiometry that can be fitted."""
        embeddings = self._stored(reference, encoders, loader, stop)
        if embeddings is None:
            return None
        behind, target = {}, task.probe.tests[0].selected
        for place, radiometry in task.radiometry.items():
            there = loader.of_others([mapped(target, radiometry)])
            tiles = self._stored(reference, there.load(reference), there, stop)
            if tiles is None:
                return None
            behind[place] = MappedTiles(radiometry, tiles)
        return replace(embeddings, mapped=behind)

    def _stored(
        self, reference: Reference, encoders: Mapping[str, Encoder], loader: EncoderLoader, stop: Stop
    ) -> Embeddings | None:
        """The embeddings of the loader's tiles, each data set from its own store."""

        def report(what: str, done: int, total: int, figures: str) -> None:
            self.session.screen.step(f"{what} by {reference.label}", done, total, figures)

        compute, parts = self.session.compute, []
        for one in loader.selections:
            name = one.index.name
            own = {name: encoders[name]}
            key = digest(embedding_params(compute, self.catalog, reference, own, [one], loader.spec))[:12]
            store = self.out / "embeddings" / f"{reference.label}-{name}-{key}"
            embedded = embed_selections(compute, self.catalog, own, [one], store, stop, report)
            if embedded is None:
                return None
            stored = embedded.open()
            parts.append({name: stored[name].to_numpy() for name in ("embedding", "dataset", "tile_id")})
        self.session.screen.close()
        return Embeddings(reference.label, _joined(parts), self.out, False, None)


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> xarray.Dataset:
    """The rows of several stores as one."""
    axes = {"embedding": ("tile", "feature"), "dataset": ("tile",), "tile_id": ("tile",)}
    return xarray.Dataset({name: (axis, np.concatenate([one[name] for one in parts])) for name, axis in axes.items()})


def predict_shift(probe: ProbeTask, embeddings: Embeddings) -> Predictions:
    """Predictions of a linear probe with every method, with the oracle, and from few labels of the target.

    Only the last two use labels of the target.
    """
    (test,) = probe.tests
    truth = probe.truths[test.name]
    averaged_K = np.isin(probe.names, probe.averaged[test.name])
    found = probe.predict(embeddings)
    kept = {key: draws for key, draws in found.predicted.items() if key.method == LINEAR}
    found.predicted = kept
    by_method = {key.align: draws[0] for key, draws in kept.items()}
    best_T = oracle(by_method, truth, averaged_K)
    if best_T is not None:
        kept[PredictionKey(test.name, LINEAR, None, ORACLE)] = [best_T]
    few = few_target_labels(embeddings.of(test.selected), truth, averaged_K, probe.settings.seed)
    for count, draws in few.items():
        kept[PredictionKey(test.name, LINEAR, None, LABELS[count])] = draws
    return found


def evidence_of(predictions: Predictions) -> Evidence:
    """The evidence on the only target without its labels."""
    (evidence,) = predictions.evidence.values()
    return evidence
