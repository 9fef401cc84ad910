"""Options that several commands share: their names, types and help."""

from pathlib import Path
from typing import Annotated

import typer

CatalogFile = Annotated[Path | None, typer.Option("--catalog", help="Catalogue; default data_catalog.yaml.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="SELECTOR of tiles to use; repeatable.")]
Evaluations = Annotated[
    list[str] | None, typer.Option("--eval", help="SELECTOR of tiles to validate on too; repeatable.")
]
Probe = Annotated[
    str | None, typer.Option("--probe", help="SELECTOR of labelled tiles for a kNN probe, every `probe_every` steps.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, changes the configuration; repeatable.")]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        help="[LABEL=]ENCODER: a model folder, mlflow:RUN_ID, models:/NAME/VERSION, timm:NAME, torchgeo:WEIGHTS or "
        "baseline:NAME; repeatable where several can be compared.",
    ),
]
Align = Annotated[
    list[str] | None,
    typer.Option(
        help="Alignment of the test's embeddings with those trained on, or `all`; repeatable. One is chosen, without "
        "labels of the test."
    ),
]
Layer = Annotated[
    int | None, typer.Option(min=1, help="Block after which embeddings are taken; default the encoder's best known.")
]
Pooling = Annotated[
    str | None, typer.Option(help="mean, cls or mean-std over the patches; default the encoder's best known.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results; default runs/COMMAND-TIME.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes all that is random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="auto, 32 or bf16.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes on this node.")]
Nodes = Annotated[int, typer.Option(min=1, help="Nodes; each runs the same command.")]
TrackingUri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store; default sqlite:///mlflow.db.")]
Experiment = Annotated[str, typer.Option(help="MLflow experiment.")]
RunName = Annotated[str | None, typer.Option(help="Name of the MLflow run; default the folder's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")]
