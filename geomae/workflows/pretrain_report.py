"""What a training leaves beside checkpoints: history, pictures, model folder, summary, and the run in MLflow."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_fabric import Fabric

from geomae import __version__
from geomae.catalog import Catalog
from geomae.files import digest, write_json
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.reports.figures import TilePicture, loss_curve, reconstruction_panel
from geomae.tiles.loader import fixed_batches
from geomae.tracking import DatasetRecord, Tracker, flatten, resolve_uri, start_run
from geomae.training import checkpoints
from geomae.training.data import Dataset, TrainingData
from geomae.training.evaluate import BASELINES, Scores
from geomae.training.loop import Event, Trainer, draw_of, validate, wrapped
from geomae.training.signals import Stop
from geomae.workflows.console import Screen
from geomae.workflows.run_folder import RunFolder

if TYPE_CHECKING:
    from geomae.workflows.pretrain import Job, Request

PICTURED = 4  # tiles of each validation data set


class Reporter:
    """Reports a training. Every rank has one, because weights are gathered from all; rank 0 alone writes."""

    def __init__(
        self,
        folder: RunFolder,
        request: "Request",
        job: "Job",
        catalog: Catalog,
        data: TrainingData,
        fabric: Fabric,
        screen: Screen,
    ) -> None:
        self.folder, self.request, self.job, self.catalog, self.data = folder, request, job, catalog, data
        self.screen, self.leads = screen, fabric.is_global_zero
        self.tracker = Tracker(None)
        self.uri = resolve_uri(request.tracking_uri)
        self._started = time.monotonic()
        self._waited_s = self._trained_s = 0.0
        self._tiles = 0
        self._killed = False

    def __enter__(self) -> "Reporter":
        if not self.leads:
            return self
        for name, statistics in self.data.statistics.items():
            write_json(self.folder.path / "statistics" / f"{file_name(name)}.json", statistics.to_dict())
        audits = {
            name: index.report.to_dict() | {"left_out": index.left_out} for name, index in self.data.indexes.items()
        }
        write_json(self.folder.path / "audit.json", audits)
        known = self.folder.tracked(self.uri)
        self.tracker = start_run(
            self.uri,
            self.request.experiment,
            self.request.run_name or self.folder.path.name,
            run_id=known,
            tags=self._tags(),
            params=flatten(self._parameters()),
            datasets=self._datasets(),
            warn=self.screen.warn,
        )
        for name in ("run.json", "audit.json"):
            self.tracker.log_artifact(self.folder.path / name)
        self.tracker.log_artifacts(self.folder.path / "statistics", "statistics")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.close()
        self._remember_run()
        stopped = self._killed or (kind is not None and not issubclass(kind, Exception))
        self.tracker.finish("KILLED" if stopped else "FINISHED" if kind is None else "FAILED")
        self._remember_run()

    def begin(self, trainer: Trainer) -> None:
        """Say what begins, and drop the figures of steps that will be computed again."""
        if not self.leads:
            return
        self.folder.forget_after(trainer.progress.step)
        tiles = sum(len(one.reader) for one in trainer.training)
        where = f"{trainer.fabric.world_size} x {trainer.fabric.device.type}"
        start = f", going on after step {trainer.progress.step}" if trainer.progress.step else ""
        self.screen.say(
            f"{self.folder.path}: {trainer.config.steps} steps of {trainer.config.batch} of {tiles} tiles on {where} "
            f"in {self.job.precision}{start}"
        )

    def report(self, trainer: Trainer, event: Event) -> None:
        """Take note of what the loop says."""
        if event.figures is not None:
            self._figures(trainer, event.step, event.figures)
        if event.scores is not None:
            self._scores(event.step, event.scores)
            if event.step % trainer.config.picture_every == 0 and event.step < trainer.config.steps:
                self._pictures(event.step, self._model(trainer))
        self._remember_run()

    def stopped(self, trainer: Trainer, stop: Stop) -> None:
        """Say how to go on."""
        self._killed = True
        self.screen.close()
        self.screen.say(f"stopped after step {trainer.progress.step}; go on with --resume {self.folder.path}")

    def finish(self, trainer: Trainer) -> None:
        """The last validation with baselines, the model folder, pictures and the summary."""
        scores = validate(trainer, baselines=True)
        model = self._model(trainer)
        self._pictures(trainer.config.steps, model)
        self.screen.close()
        if not self.leads:
            return
        if self.folder.model.exists():  # of a run that was killed right here
            shutil.rmtree(self.folder.model)
        save_model(model, self.folder.model)
        history = self.folder.history()
        curve = {"training": "train/loss", "validation": f"loss/{next(iter(scores), '')}"}
        loss_curve(self.folder.pictures / "loss.png", history, **curve)
        metrics: dict[str, float] = {}
        for name, found in scores.items():
            metrics |= found.metrics(name)
            self._table(name, found)
        if self._trained_s:
            metrics["train/tiles_per_s"] = self._tiles / self._trained_s
            metrics["train/data_wait_share"] = self._waited_s / self._trained_s
        metrics["train/seconds"] = time.monotonic() - self._started
        metrics["train/steps"] = trainer.config.steps
        self.tracker.log_metrics(metrics, trainer.config.steps)
        self.tracker.log_artifacts(self.folder.model, "model")
        self.tracker.log_artifact(self.folder.pictures / "loss.png", "pictures")
        if self.request.register:
            self.tracker.register_model(self.request.register)
        self._remember_run()
        summary = {
            "command": "pretrain",
            "run_id": self.tracker.run_id,
            "out": self.folder.path,
            "metrics": metrics,
            "inputs": {**self.job.to_dict(), "data_digest": self.data.digest, "notes": self.data.notes},
        }
        write_json(self.folder.path / "summary.json", summary)
        self.tracker.log_artifact(self.folder.path / "summary.json")
        self.screen.result(f"model: {self.folder.model}")

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
        text = f"loss {figures['loss']:.4f}, {figures['tiles_per_s']:.0f} tiles/s"
        self.screen.step("training", step, trainer.config.steps, text)

    def _scores(self, step: int, scores: dict[str, Scores]) -> None:
        if not self.leads:
            return
        named = {key: value for name, found in scores.items() for key, value in found.metrics(name).items()}
        self.folder.log(step, named)
        self.tracker.log_metrics(named, step)

    def _model(self, trainer: Trainer) -> Model:
        """The weights of now in a model of their own on the host, whatever the strategy; every rank must call it."""
        weights = checkpoints.collect_weights(wrapped(trainer.model))
        mae = MaskedAutoencoder(trainer.mae.architecture)
        if weights:  # only rank 0 gets them where the model is sharded
            mae.load_state_dict(weights)
        return Model(mae.eval(), self.data.sensors, self._provenance())

    def _pictures(self, step: int, model: Model) -> None:
        """A panel of the same tiles under the same masks for every validation data set."""
        if not self.leads:
            return
        for number, one in enumerate(self.data.validation):
            path = self.folder.pictures / f"{file_name(one.name)}-step-{step:08d}.png"
            tiles = _picture(model, one, number, self.job)
            title = f"{one.name}, {self.job.config.masking.ratio:.0%} hidden, after {step} steps"
            reconstruction_panel(path, tiles=tiles, bands=one.record.bands, unit=one.record.unit, title=title)
            self.tracker.log_artifact(path, "pictures")

    def _table(self, name: str, found: Scores) -> None:
        header = [f"RMSE ({self._unit(name)})", *found.rmse]
        rows = [[band, *(f"{values[c]:.4g}" for values in found.rmse.values())] for c, band in enumerate(found.bands)]
        rows.append(["mean over bands", *(f"{found.mean(one):.4g}" for one in found.rmse)])
        ratios = ["model / baseline", "", *(f"{found.mean('model') / found.mean(one):.3f}" for one in BASELINES)]
        self.screen.table(f"{name}: {found.tiles} tiles, hidden valid pixels", header, [*rows, ratios])

    def _unit(self, name: str) -> str:
        return next(one.record.unit for one in self.data.validation if one.name == name)

    def _parameters(self) -> dict[str, Any]:
        job = self.job.to_dict()
        return {**job.pop("config"), **job, "data": {**self.job.config.data.model_dump(), "digest": self.data.digest}}

    def _provenance(self) -> dict[str, Any]:
        return {
            "command": "pretrain",
            "code_version": __version__,
            "catalogue_digest": self.data.digest,
            "mlflow_run": self.tracker.run_id,
            "seed": self.job.seed,
            "dataset": list(self.job.datasets),
        }

    def _tags(self) -> dict[str, str]:
        return {
            "geomae.version": __version__,
            "geomae.commit": _commit(),
            "geomae.command": "pretrain",
            "geomae.catalogue_digest": self.data.digest,
            "geomae.sensors": ", ".join(record.name for record in self.data.sensors),
            "geomae.model_size": self.job.config.preset,
            "geomae.out": str(self.folder.path),
        }

    def _datasets(self) -> list[DatasetRecord]:
        return [
            *(self._dataset(one, "training") for one in self.data.training),
            *(self._dataset(one, "validation") for one in self.data.validation),
        ]

    def _dataset(self, one: Dataset, context: Literal["training", "validation"]) -> DatasetRecord:
        entry = self.catalog.entry(one.index.name).model_dump(mode="json", exclude_none=True)
        return DatasetRecord(
            name=one.name,
            digest=digest([one.index.content(), one.index.tiles["tile_id"].tolist()]),
            source=str(self.catalog.path),
            entry={one.index.name: entry},
            bands=[band.name for band in one.record.bands],
            profile={"tiles": len(one.reader), "sensor": one.record.name, "unit": one.record.unit},
            context=context,
        )

    def _remember_run(self) -> None:
        run_id = self.tracker.run_id
        if self.leads and run_id is not None and self.folder.tracked(self.uri) != run_id:
            self.folder.remember_tracking(self.uri, run_id)


def file_name(name: str) -> str:
    """A data set's name as a file's."""
    return re.sub(r"[^A-Za-z0-9_\-.]+", "_", name).strip("_")


def _picture(model: Model, one: Dataset, number: int, job: "Job") -> list[TilePicture]:
    """Reconstructions of a few tiles, spread over the data set, under the masks of validation."""
    count = len(one.reader)
    positions = sorted({count * place // PICTURED for place in range(PICTURED)})
    mine = model.using(one.record)
    pictures = []
    for batch, _ in fixed_batches(one.reader, number, positions, draw_of(job.config, job.seed), 1):
        hidden = batch.order_BN[:, batch.visible :]
        visible_BN = torch.ones_like(batch.order_BN, dtype=torch.bool).scatter(1, hidden, False)
        predicted, _ = mine.reconstruct(batch.pixels_BCHW, batch.valid_BCHW, visible_BN)
        side = job.config.patch
        cells = batch.pixels_BCHW.shape[-1] // side
        seen = visible_BN.reshape(-1, cells).repeat_interleave(side, 0).repeat_interleave(side, 1)
        arrays = (batch.pixels_BCHW[0], seen, predicted[0], batch.valid_BCHW[0])
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


def _commit() -> str:
    """The commit of a checkout, `unknown` for an installed package."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.strip()
