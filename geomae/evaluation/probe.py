"""Probes of several encoders: predictions, scores, and the alignment that the rule chooses for each.

task = read_probe_task(ProbeSettings(), share_bands(select_tiles(catalog, ["hls@train", "hls@test_near"])))
result = probe_encoders(task, specs, embed_task(...))
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from geomae.encoders import EncoderSpec
from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE, import_skada
from geomae.evaluation.alignment_choice import Choice, Evidence, choose
from geomae.evaluation.final_probe import final_domains
from geomae.evaluation.forest import FOREST, predict_forest
from geomae.evaluation.methods import move
from geomae.evaluation.probe_scores import EncoderResult, ProbeRow, ProbeScores, add_without_encoder, score
from geomae.evaluation.probe_task import ProbeTask
from geomae.evaluation.share_estimation import TargetShares
from geomae.files import digest

WORKERS = 2  # fits at once, each on one thread: they are too small for several


@dataclass(frozen=True)
class ProbeResult:
    """Predictions and scores of every encoder; the choice of an alignment by label and test set.

    `notes` are remarks of each encoder, by label.
    """

    task: ProbeTask
    encoders: list[EncoderResult]
    scores: ProbeScores
    choices: Mapping[tuple[str, str], Choice]
    notes: Mapping[str, Sequence[str]]

    @property
    def main(self) -> str:
        """The metric by which encoders are compared."""
        return next(iter(self.task.truths.values())).measure.main

    def encoder(self, label: str) -> EncoderResult:
        """The result of one encoder."""
        return next(one for one in self.encoders if one.label == label)

    def evidence(self, label: str, test: str) -> Evidence:
        """The evidence on alignments of an encoder without labels of the test, the mean over its seeds."""
        return Evidence.mean([one.evidence[test] for one in self.encoder(label).predictions])

    def shares(self, label: str, test: str) -> TargetShares:
        """The class shares of a test set that are estimated with an encoder, the mean over its seeds."""
        return TargetShares.mean([one.shares[test] for one in self.encoder(label).predictions])

    def chosen(self, label: str, test: str) -> str:
        """The alignment that the rule chose."""
        choice = self.choices.get((label, test))
        return choice.align if choice else NONE

    def rows(self, test: str) -> list[ProbeRow]:
        """The rows of a test set for probes from all labels, without alignments and single seeds."""
        return [
            row
            for row in self.scores.rows
            if row.test == test and row.shots is None and row.seed is None and row.align == NONE
        ]

    def alignment_record(self) -> dict[str, dict[str, Any]]:
        """Evidence and choice by encoder and test set, as JSON."""
        record: dict[str, dict[str, Any]] = {}
        for (label, test), choice in self.choices.items():
            evidence = self.evidence(label, test).record()
            chosen = {"chosen": choice.align, "why": choice.why, "class_shares": self.shares(label, test).record()}
            record.setdefault(label, {})[test] = chosen | evidence
        return record


def probe_encoders(
    task: ProbeTask,
    specs: Sequence[EncoderSpec],
    embeddings: Mapping[str, Embeddings],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ProbeResult:
    """Probe encoders. `embeddings` are those of the task's tiles, by the label of each reference.

    The other encoders are compared with the first one.
    """
    references = [reference.label for spec in specs for reference in spec.references]
    if task.settings.alignments:
        import_skada()
    predictions = {}
    with threadpool_limits(1), ThreadPoolExecutor(WORKERS) as pool:
        for label, predicted in zip(
            references, pool.map(task.predict, [embeddings[label] for label in references]), strict=True
        ):
            predictions[label] = predicted
            progress("probing encoders", len(predictions), len(references))
    encoders = [
        EncoderResult(spec.label, spec.baseline, [predictions[one.label] for one in spec.references], spec.seeds)
        for spec in specs
    ]
    scores = score(encoders, task.truths, task.settings.seed)
    if task.settings.forest:
        forest = EncoderResult(FOREST, True, [predict_forest(task)])
        add_without_encoder(scores, forest, encoders[0], task.truths, task.settings.seed)
    notes = {spec.label: _notes(spec, embeddings) for spec in specs}
    result = ProbeResult(task, encoders, scores, {}, notes)
    if not task.settings.alignments:
        return result
    pairs = [(one.label, test.name) for one in encoders for test in task.tests]
    return ProbeResult(task, encoders, scores, {pair: choose(result.evidence(*pair)) for pair in pairs}, notes)


def save_alignments(
    result: ProbeResult, specs: Sequence[EncoderSpec], embeddings: Mapping[str, Embeddings], out: Path
) -> None:
    """Publish the chosen alignments, fitted on all training tiles: `out/testN/LABEL`, for every seed.

    A radiometry is published in the same way. Other methods, which are no maps of embeddings or pixels, publish
    nothing here; the saved probe includes their effect.
    """
    task = result.task
    for spec in specs:
        for number, test in enumerate(task.tests):
            choice = result.choices.get((spec.label, test.name))
            if choice is None or choice.align == NONE:
                continue
            for reference, predicted in zip(spec.references, result.encoder(spec.label).predictions, strict=True):
                embedded, folder = embeddings[reference.label], out / f"test{number}" / reference.label
                if (choice.align, test.name) in embedded.mapped:
                    embedded.mapped[choice.align, test.name].radiometry.save(folder)
                    continue
                strength = float(np.median(predicted.C_values))
                alignment = move(choice.align, final_domains(task, embedded, test, strength, choice.align)).alignment
                if alignment is None:
                    continue
                about = {
                    "source": task.train.name,
                    "target": test.name,
                    "encoder": reference.text,
                    "encoder_digest": str(embedded.store.attrs["encoder_digest"]),
                    "rows_digest": [digest(side.selected.digest()) for side in (task.train, test)],
                    "why": choice.why,
                }
                alignment.save(folder, about)


def _notes(spec: EncoderSpec, embeddings: Mapping[str, Embeddings]) -> list[str]:
    seeds = [f"mean of {len(spec.references)} seeds"] if len(spec.references) > 1 else []
    return [*seeds, *embeddings[spec.references[0].label].notes]
