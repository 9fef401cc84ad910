"""Encoders of a benchmark: which is used on which data set; embeddings and probes are computed once and reused."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from geomae.commands.session import Session
from geomae.encoders.selections import Embeddings, EmbeddingSpec, EncoderLoader, embed_selections, embedding_params
from geomae.encoders.specification import (
    BASELINE,
    LIBRARIES,
    EncoderSpec,
    Reference,
    encoder_specs,
    parse_encoder,
    parse_encoders,
    split_label,
)
from geomae.errors import ConfigError, GeomaeError, nearest
from geomae.evaluation.pca import fit_pca
from geomae.evaluation.probe_predictions import PredictionKey, Predictions
from geomae.evaluation.probe_scores import EncoderResult
from geomae.evaluation.probe_task import SEGMENTATION
from geomae.files import digest, file_name, publish_file
from geomae.runtime.signals import Stop
from geomae.tiles.selection import Selection
from pipelines.benchmark_tasks import Task

KINDS = (*LIBRARIES, BASELINE, "mlflow", "models")
ANY = "*"
Ranks = dict[tuple[str, str, str], list[float]]  # by task, encoder and test: one of each seed


@dataclass(frozen=True)
class Contender:
    """A row of the table: for patterns of data set names, the encoders to use there (the seeds together)."""

    label: str
    parts: tuple[tuple[str, Reference], ...]

    @property
    def texts(self) -> list[str]:
        """The encoders as the user wrote them."""
        return [one.text if pattern == ANY else f"{pattern}:{one.text}" for pattern, one in self.parts]

    @property
    def baseline(self) -> bool:
        """Whether it needs no training."""
        return self.parts[0][1].kind == BASELINE

    def on(self, dataset: str) -> EncoderSpec | None:
        """The encoders to use on a data set; None if there is none."""
        here = [one for pattern, one in self.parts if fnmatchcase(dataset, pattern)]
        if len(here) < 2:
            return encoder_specs([replace(one, label=self.label) for one in here])[0] if here else None
        seeded = tuple(replace(one, label=f"{self.label}-{seed}") for seed, one in enumerate(here))
        return EncoderSpec(self.label, seeded, tuple(range(len(here))))

    def check(self, datasets: Sequence[str]) -> None:
        """Raise ConfigError for a pattern that matches no data set."""
        for pattern, one in self.parts:
            if not any(fnmatchcase(name, pattern) for name in datasets):
                raise ConfigError(
                    f"--encoder {self.label}={pattern}:{one.text}: no task trains on a data set {pattern!r}; "
                    f"{nearest(pattern, datasets)}"
                )


def parse_contenders(texts: Sequence[str], baselines: Sequence[str] = ()) -> list[Contender]:
    """Parse `[NAME=][DATASETS:]ENCODER[,...]` texts, in their order; then the baselines that are not among them.

    Raises ConfigError for an invalid encoder, and for several encoders without a NAME.
    """
    named = {split_label(text)[1] for text in texts}
    several: list[list[tuple[str, str]]] = []
    heads = []
    for text in (*texts, *(one for one in baselines if one not in named)):
        label, rest = split_label(text)
        items = [_scoped(item) for item in ([rest] if Path(rest).exists() else rest.split(","))]
        if label is None and (len(items) > 1 or items[0][0] != ANY):
            raise ConfigError(f"--encoder {text}: several, or one for some data sets, need a NAME= before them")
        several.append(items)
        heads.append(items[0][1] if label is None else f"{label}={items[0][1]}")
    return [
        Contender(head.label, tuple((pattern, parse_encoder(one)) for pattern, one in items))
        for head, items in zip(parse_encoders(heads), several, strict=True)
    ]


def _scoped(item: str) -> tuple[str, str]:
    """The pattern of data sets, and the encoder."""
    pattern, colon, rest = item.partition(":")
    if colon and pattern not in KINDS and not Path(item).exists() and re.fullmatch(r"[\w.*?-]+", pattern):
        return pattern, rest
    return ANY, item


class Benchmark:
    """Embeds and probes. Results for the same tiles, labels and weights are reused from `out`.

    `ranks` are the effective ranks of the probed embeddings; `notes` list encoders that cannot embed a data set.
    """

    def __init__(self, session: Session, spec: EmbeddingSpec, out: Path) -> None:
        self.session, self.spec, self.out = session, spec, out
        self.ranks: Ranks = {}
        self.notes: list[str] = []

    def run(
        self, tasks: Sequence[Task], contenders: Sequence[Contender], stop: Stop
    ) -> dict[str, list[EncoderResult]] | None:
        """The results of every task by its name; None if `stop` ended the work. Raises GeomaeError without any."""
        found: dict[str, dict[str, EncoderResult]] = {task.name: {} for task in tasks}
        groups: dict[tuple[str, str], list[Task]] = {}
        for task in tasks:
            groups.setdefault((task.group, task.dataset), []).append(task)
        for (_, dataset), together in groups.items():
            specs = [spec for one in contenders if (spec := one.on(dataset)) is not None]
            specs.sort(key=lambda spec: spec.baseline)  # an untrained encoder has the shape of the first trained one
            loader = self._loader(together)
            for spec in specs:
                predictions = self._probed(together, spec, loader, stop)
                if stop.signal:
                    return None
                for name, each in predictions.items():
                    found[name][spec.label] = EncoderResult(spec.label, spec.baseline, each, spec.seeds)
        order = [one.label for one in contenders]
        results = {name: [one[label] for label in order if label in one] for name, one in found.items()}
        for name, here in results.items():
            if not here:
                raise GeomaeError(f"task {name!r}: no encoder can embed its tiles: {'; '.join(self.notes)}")
        return results

    def _loader(self, tasks: Sequence[Task]) -> EncoderLoader:
        selections = {digest([one.name, one.digest()]): one for task in tasks for one in task.probe.selections}
        patches = tasks[0].probe.settings.task == SEGMENTATION
        return self.session.loader(replace(self.spec, patches=patches), list(selections.values()))

    def _probed(
        self, tasks: Sequence[Task], spec: EncoderSpec, loader: EncoderLoader, stop: Stop
    ) -> dict[str, list[Predictions]]:
        """The predictions of each seed by task; none if an encoder cannot embed the tiles."""
        by_task: dict[str, list[Predictions]] = {task.name: [] for task in tasks}
        ranks: Ranks = {}
        for reference in spec.references:
            try:
                encoders = loader.load(reference)
            except GeomaeError as error:
                self.notes.append(f"{reference.label} is left out of {tasks[0].dataset}: {error}")
                return {}
            params = embedding_params(
                self.session.compute, self.session.catalog, reference, encoders, loader.selections, loader.spec
            )
            for task in tasks:
                key = digest([params["encoder_digest"], params["precision"], task.digest()])[:12]
                path = self.out / "predictions" / file_name(task.name) / f"{reference.label}-{key}.npz"
                if not path.is_file():
                    store = self.out / "embeddings" / f"{reference.label}-{digest(params)[:12]}"
                    embeddings = self._embedded(reference, encoders, loader, store, stop)
                    if embeddings is None:
                        return {}
                    self.session.screen.say(f"probing {reference.label} on {task.name}")
                    with threadpool_limits(1):
                        write_predictions(path, task.probe.predict(embeddings), _ranks(task, embeddings))
                predictions, rank_of = read_predictions(path)
                by_task[task.name].append(predictions)
                for test, rank in rank_of.items():
                    ranks.setdefault((task.name, spec.label, test), []).append(rank)
        self.ranks |= ranks
        return by_task

    def _embedded(
        self, reference: Reference, encoders: Mapping[str, Any], loader: EncoderLoader, store: Path, stop: Stop
    ) -> Embeddings | None:
        def report(what: str, done: int, total: int, figures: str) -> None:
            self.session.screen.step(f"{what} by {reference.label}", done, total, figures)

        patches = loader.spec.patches
        embedded = embed_selections(
            self.session.compute, self.session.catalog, encoders, loader.selections, store, stop, report, patches
        )
        if embedded is None:
            return None
        return Embeddings(reference.label, embedded.open(), embedded.extracted.path, patches, None)


def _ranks(task: Task, embeddings: Embeddings) -> dict[str, float]:
    """The effective rank of the raw embeddings of each test; none for embeddings of patches."""
    if embeddings.patches:
        return {}
    return {test.name: effective_rank(test.selected, embeddings) for test in task.probe.tests}


def effective_rank(selected: Selection, embeddings: Embeddings) -> float:
    """The effective rank of the raw embeddings of a selection, neither standardised nor whitened."""
    return fit_pca([embeddings.of(selected)], 1).effective_rank


def write_predictions(path: Path, predictions: Predictions, ranks: Mapping[str, float]) -> None:
    """Publish the predictions, and the effective rank of each test."""
    keys = [key for key, draws in predictions.predicted.items() for _ in draws]
    arrays = [values for draws in predictions.predicted.values() for values in draws]
    about = json.dumps({"keys": keys, "C": predictions.C_values, "ranks": ranks})
    named: dict[str, Any] = {f"a{place}": one for place, one in enumerate(arrays)}
    with publish_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=np.array(about), **named)


def read_predictions(path: Path) -> tuple[Predictions, dict[str, float]]:
    """Read the output of `write_predictions`."""
    predictions = Predictions()
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        for place, key in enumerate(about["keys"]):
            predictions.predicted.setdefault(PredictionKey(*key), []).append(stored[f"a{place}"])
    predictions.C_values = about["C"]
    return predictions, about["ranks"]
