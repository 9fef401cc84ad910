"""Output of a training run beside checkpoints: history, pictures, model folder, summary, and the run in MLflow."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from geomae import __version__
from geomae.catalog import Catalog
from geomae.commands.options import CommonOptions, next_command
from geomae.commands.run import OPENING_S, RunFolder, TrackedRun, dataset_record
from geomae.config import flatten
from geomae.evaluation.pca import COLLAPSED_RANK
from geomae.evaluation.pretraining_probe import LabelledTiles, probe
from geomae.files import file_names, write_json
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import MaskRules
from geomae.models.objective import kept_weights
from geomae.runtime.console import Screen
from geomae.runtime.devices import Fabric
from geomae.runtime.signals import Stop
from geomae.tiles.batches import fixed_batches
from geomae.tiles.learned_tiles import record_content
from geomae.tracking import DatasetRecord, commit
from geomae.training import checkpoints
from geomae.training.data import Dataset, TrainingData
from geomae.training.engine import wrapped
from geomae.training.loop import Event, validate
from geomae.training.pretraining import PretrainJob
from geomae.training.trainer import Trainer, batch_spec
from geomae.training.validation import BASELINES, ValidationScores

if TYPE_CHECKING:
    from geomae.reports.figures import TilePicture

COLLAPSED_LOGS = 4  # consecutive low ranks that count as a collapse: within a minute at the default of log_every
PICTURED = 4  # tiles of each validation data set


def parameters(job: PretrainJob, data: TrainingData) -> dict[str, Any]:
    """The whole resolved configuration and the request, nested."""
    params = job.params()
    return {**params.pop("config"), **params, "data_digest": data.digest}


def provenance(job: PretrainJob, data: TrainingData, run_id: str | None) -> dict[str, Any]:
    """The origin of a model: command, configuration, data and run."""
    return {
        "command": "pretrain",
        "code_version": __version__,
        "catalogue_digest": data.catalogue_digest,
        "data_digest": data.digest,
        "mlflow_run": run_id,
        "seed": job.seed,
        "dataset": list(job.datasets),
        "content": record_content(one.index for one in data.training),
        "objective": data.objective.weights(),
        "tile": [int(data.training[0].index.tiles["size"].iloc[0])] * 2,  # default of exports
    }


def tags(job: PretrainJob, data: TrainingData) -> dict[str, str]:
    """Tags of a training run in MLflow, beside those of every run."""
    return {
        "geomae.catalogue_digest": data.catalogue_digest,
        "geomae.sensors": ", ".join(record.name for record in data.sensors),
        "geomae.model_size": job.config.preset,
    }


def entries(catalog: Catalog, data: TrainingData) -> dict[str, Any]:
    """The catalogue's entries of the data sets in use, as written."""
    return {
        name: catalog.entry(name).model_dump(mode="json", exclude_unset=True, by_alias=True) for name in data.indexes
    }


def dataset_records(catalog: Catalog, data: TrainingData) -> list[DatasetRecord]:
    """The data sets of the run, with their digests."""
    parts: tuple[tuple[Literal["training", "validation"], Sequence[Dataset]], ...]
    parts = (("training", data.training), ("validation", data.validation))
    return [
        dataset_record(catalog, one.name, one.index, one.record, context) for context, part in parts for one in part
    ]


def describe_dry_run(
    screen: Screen, job: PretrainJob, data: TrainingData, mae: MaskedAutoencoder, fabric: Fabric
) -> None:
    """Print what would be trained."""
    millions = sum(value.numel() for value in mae.parameters()) / 1e6
    screen.result(f"catalogue {job.catalog}")
    for what, group in (("train on", data.training), ("validate on", data.validation)):
        for one in group:
            bands = ", ".join(band.name for band in one.record.bands)
            screen.result(
                f"{what} {one.name}: {len(one.reader)} tiles of {one.record.name} in {one.record.unit} ({bands})"
            )
    screen.result(
        f"{job.config.preset}, {millions:.1f} million parameters, {job.config.steps} steps of {job.config.batch} tiles "
        f"on {fabric.world_size} x {fabric.device.type} in {job.precision}, seed {job.seed}"
    )
    for name, value in flatten(job.config.model_dump(mode="json")).items():
        screen.result(f"  {name}: {value}")


def draw_pictures(
    folder: Path, step: int, model: Model, validation: Sequence[Dataset], job: PretrainJob
) -> Iterator[Path]:
    """Publish one panel per validation data set, always of the same tiles and masks; returns their names."""
    from geomae.reports.figures import reconstruction_panel  # imports matplotlib, which training does not need

    names = file_names(one.name for one in validation)
    for number, (one, name) in enumerate(zip(validation, names, strict=True)):
        path = folder / f"{name}-step-{step:08d}.png"
        tiles = _picture(model, one, number, job)
        title = f"{one.name}, {job.config.masking.ratio:.0%} hidden, after {step} steps"
        reconstruction_panel(path, tiles=tiles, bands=one.record.bands, unit=one.record.unit, title=title)
        yield path


def _picture(model: Model, one: Dataset, number: int, job: PretrainJob) -> "list[TilePicture]":
    """Reconstructions of a few tiles, spread over the data set, under the masks of validation."""
    from geomae.reports.figures import TilePicture

    count = len(one.reader)
    positions = sorted({count * place // PICTURED for place in range(PICTURED)})
    mine = model.using(one.record)
    pictures = []
    spec = batch_spec(job.config, job.seed, None)
    spec = replace(spec, rules=MaskRules(spec.rules.ratio))  # all pictures hide whole patches, to be comparable
    for batch, _ in fixed_batches(one.reader, number, positions, spec, 1):
        visible_BN = batch.mask.visible_BX()
        predicted, _ = mine.reconstruct(batch.pixels_BCHW, batch.valid_BCHW, visible_BN)
        side = job.config.patch
        cells = batch.pixels_BCHW.shape[-1] // side
        seen = visible_BN.reshape(-1, cells).repeat_interleave(side, 0).repeat_interleave(side, 1)
        # A masked autoencoder is not trained on visible patches; its output there would mislead.
        shown = batch.pixels_BCHW[0].where(seen, predicted[0])
        arrays = (batch.pixels_BCHW[0], seen, shown, batch.valid_BCHW[0])
        truth, seen_HW, reconstruction, valid = (values.numpy() for values in arrays)
        pictures.append(
            TilePicture(
                tile_id=batch.tile_ids[0],
                truth_CHW=truth,
                visible_HW=seen_HW,
                reconstruction_CHW=reconstruction,
                valid_CHW=valid,
            )
        )
    return pictures


class Reporter(TrackedRun):
    """Reports a training run. Every rank has one, because weights are gathered from all; only rank 0 writes."""

    def __init__(
        self,
        folder: RunFolder,
        common: CommonOptions,
        job: PretrainJob,
        catalog: Catalog,
        data: TrainingData,
        fabric: Fabric,
        screen: Screen,
        probed: LabelledTiles | None = None,
        register: str | None = None,
    ) -> None:
        super().__init__("pretrain", common, screen, folder, leads=fabric.is_global_zero)
        self.job, self.catalog, self.data, self.probed, self.register = job, catalog, data, probed, register
        self.device = fabric.device.type
        self._started = time.monotonic()
        self._waited_s = self._trained_s = 0.0
        self._tiles = 0
        self._low_ranks = 0  # number of consecutive low ranks

    def __enter__(self) -> "Reporter":
        if not self.leads:
            return self
        known = self.data.statistics
        for name, statistics in zip(file_names(known), known.values(), strict=True):
            write_json(self.folder.path / "statistics" / f"{name}.json", statistics.to_dict())
        audits = {
            name: index.report.to_dict() | {"left_out": index.left_out} for name, index in self.data.indexes.items()
        }
        write_json(self.folder.path / "audit.json", audits)
        params, datasets = parameters(self.job, self.data), dataset_records(self.catalog, self.data)
        self.begin_tracking(params, datasets, tags(self.job, self.data))
        write_json(self.folder.path / "catalogue.json", entries(self.catalog, self.data))
        for name in ("run.json", "audit.json", "catalogue.json"):
            self.tracker.log_artifact(self.folder.path / name)
        self.tracker.log_artifacts(self.folder.path / "statistics", "statistics")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_tracking(kind)

    def begin(self, trainer: Trainer) -> None:
        """Print what is trained, and drop the metrics of steps that will be computed again."""
        # The curve of the probe starts with the untrained encoder.
        untrained = self._model(trainer) if self.probed is not None and trainer.progress.step == 0 else None
        if not self.leads:
            return
        self.folder.forget_after(trainer.progress.step)
        tiles = sum(len(one.reader) for one in trainer.training)
        where = f"{trainer.fabric.world_size} x {trainer.fabric.device.type}"
        start = f", resumed after step {trainer.progress.step}" if trainer.progress.step else ""
        self.screen.say(
            f"{self.folder.path}: {trainer.config.steps} steps of {trainer.config.batch} of {tiles} tiles on {where} "
            f"in {self.job.precision}{start}"
        )
        if untrained is not None:
            self._probe(0, untrained)

    def report(self, trainer: Trainer, event: Event) -> None:
        """Log and show an event of the training loop."""
        if event.figures is not None:
            self._figures(trainer, event.step, event.figures)
        if event.scores is not None:
            self._scores(event.step, event.scores)
        if event.picture or event.probe:
            model = self._model(trainer)
            if event.probe:
                self._probe(event.step, model)
            if event.picture:
                self._draw(event.step, model)
        self.remember_tracking()

    def stopped(self, trainer: Trainer, stop: Stop) -> None:
        """Print how to resume."""
        self.end_stopped(f"stopped after step {trainer.progress.step}; go on with --resume {self.folder.path}")

    def finish(self, trainer: Trainer) -> None:
        """The last validation with baselines, the model folder, pictures and the summary."""
        from geomae.reports.training_report import loss_curve, summarize_validation

        scores = validate(trainer, baselines=True)
        self.tracker.wait_run_id(OPENING_S)  # a short run may end before MLflow has opened it
        model = self._model(trainer)
        self._draw(trainer.config.steps, model)
        self.screen.close()
        if not self.leads:
            return
        if self.folder.model.exists():  # left by a run that was killed at this point
            shutil.rmtree(self.folder.model)
        save_model(model, self.folder.model)
        history = self.folder.history()
        curve = self._curve() | {"validation": f"loss/{next(iter(scores), '')}"}
        loss_curve(self.folder.pictures / "loss.png", history, **curve)
        metrics = self._probe(trainer.config.steps, model)
        for name, one in scores.items():
            metrics |= one.metrics(name)
            self._table(name, one)
        if self._trained_s:
            metrics["run/tiles_per_s"] = self._tiles / self._trained_s
            metrics["run/data_wait_share"] = self._waited_s / self._trained_s
        metrics["run/seconds"] = time.monotonic() - self._started
        metrics["run/steps"] = trainer.config.steps
        new = {
            name: value for name, value in metrics.items() if not name.startswith(("loss/", "probe/", "rmse/model/"))
        }
        self.tracker.log_metrics(new, trainer.config.steps)  # the others were logged with the last validation
        self.tracker.log_artifacts(self.folder.model, "model")
        if self.register:
            self.tracker.register_model(self.register)
        self.remember_tracking()
        inputs = {**self.job.params(), "data_digest": self.data.digest, "notes": self.data.notes}
        named = {"dataset": self.job.datasets[0], "out": self.folder.path}
        following = next_command("pretrain", self.common, **named)
        report = self._write_report(scores, curve, following)
        for path in (report, self.write_summary(self.tracker.run_id, metrics, inputs)):
            self.tracker.log_artifact(path)
        for name, one in scores.items():
            self.screen.result(summarize_validation(name, one, self._unit(name), self._longer()))
        self.screen.result(f"model: {self.folder.model}")
        self.screen.result(f"report: {report}")
        self.screen.say(following)

    def _write_report(self, scores: Mapping[str, ValidationScores], curve: Mapping[str, str], following: str) -> Path:
        from geomae.reports.training_report import Learned, write_training_page

        job, pictures = self.job, self.folder.pictures
        names = file_names(one.name for one in self.data.validation)
        panels = [pictures / f"{name}-step-{job.config.steps:08d}.png" for name in names]
        learned = Learned(
            name=" + ".join(job.datasets), history=self.folder.history(), scores=scores,
            units={one.name: one.record.unit for one in self.data.validation}, hidden=job.config.masking.ratio,
            loss=pictures / "loss.png", panels=[one for one in panels if one.is_file()], notes=self.data.notes,
            longer=self._longer(), **curve,
        )  # fmt: skip
        about = {
            "model": f"{job.config.preset}, patches of {job.config.patch} pixels",
            "steps, tiles of a step": f"{job.config.steps}, {job.config.batch}",
            "objective": ", ".join(f"{name} {weight:g}" for name, weight in self.data.objective.weights().items()),
            "trained on": ", ".join(f"{one.name}: {len(one.reader):,} tiles" for one in self.data.training),
            "catalogue": str(job.catalog),
            "digest of the data": self.data.digest,
            "seed": str(job.seed),
            "device, precision": f"{self.device}, {job.precision}",
            "run in MLflow": self.tracker.run_id or "unknown",
            "geomae": f"{__version__} ({commit()})",
            "folder": str(self.out),
        }
        report = write_training_page(self.out, learned, about, following.removeprefix("next: "))
        for name in ("loss.png", "effective_rank.png"):
            self.tracker.log_artifact(pictures / name, "pictures")
        return report

    def _figures(self, trainer: Trainer, step: int, figures: dict[str, float]) -> None:
        seconds = trainer.config.log_every * trainer.config.batch / max(figures["tiles_per_s"], 1e-9)
        self._trained_s += seconds
        self._waited_s += seconds * figures["data_wait_share"]
        self._tiles += trainer.config.log_every * trainer.config.batch
        if not self.leads:
            return
        named = {f"train/{name}": value for name, value in figures.items()}
        self.folder.log(step, named)
        self.tracker.log_metrics(named, step)
        self._warn_of_collapse(step, figures["effective_rank"])
        text = f"loss {figures['loss']:.4f}, {figures['tiles_per_s']:.0f} tiles/s"
        self.screen.step("training", step, trainer.config.steps, text)

    def _longer(self) -> str:
        """How to train longer, with the time at the speed of this run."""
        from geomae.reports.training_report import suggest_steps

        config = self.job.config
        return suggest_steps(config.steps, self._trained_s * config.batch / self._tiles if self._tiles else None)

    def _curve(self) -> dict[str, str]:
        """The training loss that corresponds to the validation loss, and the unit of both."""
        terms = self.data.objective.weights()
        if "pixels" in terms:
            term, what = "pixels", "mean squared error of the target"
        else:
            term, what = "contrast" if "contrast" in terms else "places", "cross entropy in nats"
        if len(terms) == 1:
            return {"training": "train/loss", "what": what}
        return {"training": f"train/{term}", "what": f"{what}, the term {term} alone"}

    def _warn_of_collapse(self, step: int, rank: float) -> None:
        """Warn once of a collapse: nearly the same embedding for all tiles, as is possible in the first steps."""
        self._low_ranks = self._low_ranks + 1 if rank < COLLAPSED_RANK else 0
        if self._low_ranks == COLLAPSED_LOGS:
            self.screen.say(
                f"step {step}: the encoder has collapsed: the embeddings of a batch have effective rank "
                f"{rank:.1f}; lower optimizer.base_rate, or give objective.places or objective.contrast more weight"
            )

    def _scores(self, step: int, scores: Mapping[str, ValidationScores]) -> None:
        if not self.leads:
            return
        named = {key: value for name, one in scores.items() for key, value in one.metrics(name).items()}
        self.folder.log(step, named)
        self.tracker.log_metrics(named, step)

    def _model(self, trainer: Trainer) -> Model:
        """A copy of the current weights on the host, for any strategy; every rank must call it."""
        weights = checkpoints.collect_weights(wrapped(trainer.model))
        assert isinstance(trainer.kept, MaskedAutoencoder)
        mae = MaskedAutoencoder(trainer.kept.architecture)
        if weights:  # only rank 0 gets the weights of a sharded model
            mae.load_state_dict(kept_weights(weights))
        return Model(mae.eval(), self.data.sensors, provenance(self.job, self.data, self.tracker.run_id))

    def _draw(self, step: int, model: Model) -> None:
        if self.leads and model.mae.decoder is not None:  # without a decoder there is nothing to draw
            for path in draw_pictures(self.folder.pictures, step, model, self.data.validation, self.job):
                self.tracker.log_artifact(path, "pictures")

    def _probe(self, step: int, model: Model) -> dict[str, float]:
        if self.probed is None or not self.leads:
            return {}
        figures = probe(model, self.probed)
        self.folder.log(step, figures)
        self.tracker.log_metrics(figures, step)
        listed = ", ".join(f"{name.split('/')[1]} {value:.3f}" for name, value in figures.items())
        self.screen.say(f"probe of {self.probed.name} after step {step}: {listed}")
        return figures

    def _table(self, name: str, scores: ValidationScores) -> None:
        if not scores.rmse:
            self.screen.say(
                f"{name}: {scores.tiles} tiles, loss {scores.loss:.4f}; no errors per band without a decoder"
            )
            return
        header = [f"RMSE ({self._unit(name)})", *scores.rmse]
        rows = [[band, *(f"{values[c]:.4g}" for values in scores.rmse.values())] for c, band in enumerate(scores.bands)]
        rows.append(["mean over bands", *(f"{scores.mean(one):.4g}" for one in scores.rmse)])
        ratios = ["model / baseline", "", *(f"{scores.mean('model') / scores.mean(one):.3f}" for one in BASELINES)]
        self.screen.table(f"{name}: {scores.tiles} tiles, hidden valid pixels", header, [*rows, ratios])

    def _unit(self, name: str) -> str:
        return next(one.record.unit for one in self.data.validation if one.name == name)
