"""What MLflow and the model folder are told about a training: parameters, tags, inputs, provenance."""

from pathlib import Path
from typing import Any, Literal

from geomae import __version__
from geomae.catalog import Catalog
from geomae.files import digest
from geomae.tracking import DatasetRecord
from geomae.training.data import Dataset, TrainingData
from geomae.workflows.pretrain_job import Job
from geomae.workflows.provenance import commit


def parameters(job: Job, data: TrainingData) -> dict[str, Any]:
    """The whole resolved configuration and the request, nested."""
    asked = job.to_dict()
    return {**asked.pop("config"), **asked, "data_digest": data.digest}


def provenance(job: Job, data: TrainingData, run_id: str | None) -> dict[str, Any]:
    """Where a model comes from."""
    return {
        "command": "pretrain",
        "code_version": __version__,
        "catalogue_digest": data.catalogue_digest,
        "data_digest": data.digest,
        "mlflow_run": run_id,
        "seed": job.seed,
        "dataset": list(job.datasets),
        "tile": [int(data.training[0].index.tiles["size"].iloc[0])] * 2,  # what exports take by default
    }


def tags(job: Job, data: TrainingData, out: Path) -> dict[str, str]:
    """What runs are found by."""
    return {
        "geomae.version": __version__,
        "geomae.commit": commit(),
        "geomae.command": "pretrain",
        "geomae.catalogue_digest": data.catalogue_digest,
        "geomae.sensors": ", ".join(record.name for record in data.sensors),
        "geomae.model_size": job.config.preset,
        "geomae.out": str(out),
    }


def entries(catalog: Catalog, data: TrainingData) -> dict[str, Any]:
    """The catalogue's entries of the data sets in use, as written."""
    return {
        name: catalog.entry(name).model_dump(mode="json", exclude_unset=True, by_alias=True) for name in data.indexes
    }


def dataset_records(catalog: Catalog, data: TrainingData) -> list[DatasetRecord]:
    """The inputs of the run, with their digests."""
    written = entries(catalog, data)
    return [
        *(_record(catalog, written, one, "training") for one in data.training),
        *(_record(catalog, written, one, "validation") for one in data.validation),
    ]


def _record(
    catalog: Catalog, written: dict[str, Any], one: Dataset, context: Literal["training", "validation"]
) -> DatasetRecord:
    return DatasetRecord(
        name=one.name,
        digest=digest([one.index.content(), one.index.tiles["tile_id"].tolist()]),
        source=str(catalog.path),
        entry={one.index.name: written[one.index.name]},
        bands=[band.name for band in one.record.bands],
        profile={"tiles": len(one.reader), "sensor": one.record.name, "unit": one.record.unit},
        context=context,
    )
