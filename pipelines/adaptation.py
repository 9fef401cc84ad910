"""The steps of the recipes of adaptation: each is a command of geomae with its own folder below --out.

All are children of one run in MLflow. The same command continues a recipe that was stopped; another request with the
same folder is refused.
"""

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from geomae.catalog import Selector, parse_selector
from geomae.commands import adapt, finetune, gap, predict, pretrain, probe
from geomae.commands.options import CommonOptions, exit_with
from geomae.commands.run import OPENING_S, AnalysisRun
from geomae.evaluation.adaptation_probe import AFTER, BEFORE
from geomae.evaluation.gap_components import A_DISTANCE
from geomae.files import read_json
from geomae.metrics.predictions import ALL
from geomae.runtime.console import Screen
from pipelines.adaptation_options import check, training_changes

WANTED = {"metric": "balanced_accuracy", "method": "linear", "shots": "all", "class": "all", "seed": ""}


def run(recipe: str, arguments: argparse.Namespace, steps: Callable[["Study"], None]) -> None:
    """Run the steps, print their results, and exit with a code like geomae's own commands."""
    exit_with(lambda: _run(recipe, arguments, steps))


@dataclass(frozen=True)
class Study:
    """The arguments of a recipe, its run, and a sentence about each step; every method is a step."""

    arguments: argparse.Namespace
    run: AnalysisRun
    common: CommonOptions
    sentences: list[str] = field(default_factory=list)

    def model(self, *changes: str, beside: Sequence[Selector] = ()) -> str:
        """The initial model: that of --model, else `tiny` with `changes`, trained on all tiles of the source.

        Tiles of `beside` are also used for training.
        """
        arguments, folder = self.arguments, self.run.out / "pretrain"
        if arguments.model is not None:
            return str(arguments.model)
        chosen = (parse_selector(arguments.source), *beside)
        options = pretrain.PretrainOptions(
            self.common.catalog, tuple(str(replace(one, split=one.split or ALL)) for one in chosen), config="tiny",
            changes=training_changes(arguments, changes), seed=arguments.seed, run_name="pretrain",
            tracking_uri=arguments.tracking_uri, experiment=arguments.experiment, parent_run=self.common.parent_run,
        )  # fmt: skip
        begun = (folder / "run.json").is_file()
        self._done(pretrain.run(replace(options, resume=folder) if begun else replace(options, out=folder)))
        return str(folder / "model")

    def finetune(self, model: str) -> str:
        """Fine-tune the model with the labels of the source."""
        arguments = self.arguments
        options = finetune.FinetuneOptions(
            self._common("finetune"), model, arguments.source, task=arguments.task,
            changes=tuple(arguments.finetune_set), baselines=False,
        )  # fmt: skip
        self._done(finetune.run(options))
        return str(self.run.out / "finetune" / "model")

    def predict(self, name: str, model: str) -> None:
        """Map the target with a fine-tuned model; with labels, also its accuracy."""
        out = self.run.out / name
        self._done(predict.run(predict.PredictOptions(self._common(name), Path(model), (self.arguments.target,))))
        metrics = read_json(out / "summary.json")["metrics"]
        scored = ", ".join(f"{key.partition('.')[0]} {metrics[key]:.3f}" for key in metrics if key.partition(".")[2])
        self._note(name, f"maps of {self.arguments.target}: {scored or 'without labels the accuracy is unknown'}.")

    def adapt(self, model: str, probe_train: str | None = None, probe_test: str | None = None) -> dict[str, str]:
        """The models before and after adaptation to the target, with replay of the source if there is one.

        With labelled tiles of both domains, the report gives the fraction of the source-target score gap closed by
        adaptation. Both models have the same sensors and statistics, so that only the weights differ.
        """
        arguments = self.arguments
        options = adapt.AdaptOptions(
            self._common("adapt"), model, arguments.target, arguments.source,
            changes=tuple(arguments.adapt_set) or ("method=lora",),  # a recipe trains, whatever differs
            probe_train=probe_train, probe_test=probe_test, min_class_rows=arguments.min_class_rows,
        )  # fmt: skip
        self._done(adapt.run(options))
        self._note("adapt", read_json(self.run.out / "adapt" / "adaptation.json")["verdict"])
        out = self.run.out / "adapt"
        begun = out / BEFORE
        return {BEFORE: str(begun) if begun.is_dir() else model, AFTER: str(out / "model")}

    def gap(self, models: Mapping[str, str]) -> None:
        """Measure the distance between source and target in the embeddings of each model."""
        arguments = self.arguments
        self._done(gap.run(gap.GapOptions(self._common("gap"), arguments.source, arguments.target, _encoders(models))))
        rows = read_json(self.run.out / "gap" / "gap.json")["rows"]
        listed = ", ".join(f"{row['encoder']} {row['value']:.2f}" for row in rows if row["measure"] == A_DISTANCE)
        self._note("gap", f"proxy A-distance of source and target (2: perfectly separable): {listed}.")

    def probe(
        self,
        name: str,
        train: str | None,
        test: str | None,
        models: Mapping[str, str],
        align: Sequence[str] = (ALL,),
        own_bands: bool = False,
    ) -> None:
        """Scores on `test` of a linear probe trained on `train`, by model and alignment; none without these options."""
        if train is None or test is None:
            return
        arguments = self.arguments
        options = probe.ProbeOptions(
            self._common(name), train, (test,), _encoders(models), cross_fit=arguments.cross_fit,
            min_class_rows=arguments.min_class_rows, align=tuple(align), own_bands=own_bands,
        )  # fmt: skip
        self._done(probe.run(options))
        with (self.run.out / name / "probe.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if (WANTED | {"chosen": "true"}).items() <= row.items()]
        chosen = ", in brackets the chosen alignment" if align else ""
        listed = ", ".join(
            f"{row['encoder']} {float(row['value']):.3f}" + (f" ({row['align']})" if align else "") for row in rows
        )
        self._note(name, f"balanced accuracy, {train} to {test}{chosen}: {listed}.")

    def _common(self, name: str) -> CommonOptions:
        return replace(self.common, out=self.run.out / name, run_name=name)

    def _done(self, code: int) -> None:
        """Return, or exit if the step was stopped."""
        if code:
            self.run.stopped()
            raise SystemExit(code)

    def _note(self, name: str, sentence: str) -> None:
        self.sentences.append(
            f"{name}: {sentence[:1].upper()}{sentence[1:]} Report: {self.run.out / name / 'report.html'}"
        )


def _run(recipe: str, arguments: argparse.Namespace, steps: Callable[[Study], None]) -> int:
    common = CommonOptions(
        arguments.catalog.absolute(), seed=arguments.seed, tracking_uri=arguments.tracking_uri,
        experiment=arguments.experiment,
    )  # fmt: skip
    check(arguments, common)
    elsewhere = ("out", "tracking_uri", "experiment")  # options that do not change the result
    params = {name: value for name, value in vars(arguments).items() if name not in elsewhere}
    params = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in params.items()}
    with AnalysisRun(recipe, common, params, Screen(True), arguments.out.absolute()) as parent:
        parent.track()
        study = Study(arguments, parent, replace(common, parent_run=parent.tracker.wait_run_id(OPENING_S)))
        steps(study)
        parent.finish({}, {"said": study.sentences})
        for sentence in study.sentences:
            parent.screen.result(sentence)
    return 0


def _encoders(models: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{label}={model}" for label, model in models.items())
