"""Profile of `geomae compare-recon`: seconds for models, metrics, waiting for tiles, and the rest of the command.

    uv run python tests/benchmarks/comparison.py --catalog C --dataset SEL --model M [--model ...] [--tiles 1000]

Runs the command in this process, from the catalogue to report and MLflow, so that the seconds of importing torch are
not in it, and prints seconds and shares.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_step import machine

from geomae.commands import compare_recon
from geomae.commands.options import CommonOptions
from geomae.evaluation import reconstruction
from geomae.evaluation.reconstruction import FittedModels


def main() -> None:
    """Measure one run of the command and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--tiles", type=int, default=1000)
    arguments = parser.parse_args()
    seconds: Counter[str] = Counter()
    counted = timed(seconds)
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        common = CommonOptions(arguments.catalog, Path(folder) / "out", tracking_uri=uri, quiet=True)
        started = time.perf_counter()
        compare_recon.run(
            compare_recon.CompareReconOptions(
                models=tuple(arguments.model),
                datasets=(arguments.dataset,),
                ratios="0.75",
                kinds="random",
                tiles=arguments.tiles,
                show="best,median,worst,random:4",
                scenes=0,
                common=common,
            )
        )
        whole = time.perf_counter() - started
    seconds["the rest: index, pictures, report, tracking"] = whole - seconds.total()
    print(f"{machine(torch.device('cpu'))}; {counted[0]} tiles, {len(arguments.model)} models")
    for name, value in seconds.items():
        print(f"{name:50} {value:7.1f} s {value / whole:6.1%}")
    print(f"{'models and metrics':50} {seconds['models'] + seconds['metrics']:7.1f} s "
          f"{(seconds['models'] + seconds['metrics']) / whole:6.1%}")  # fmt: skip


def timed(seconds: Counter[str]) -> list[int]:
    """Make the parts of the command add up their seconds; returns a list with the number of tiles that were read."""
    tiles = [0]
    real_batches = reconstruction.masked_batches

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    def batches(*arguments: Any) -> Any:
        rest = real_batches(*arguments)
        while (batch := clocked("waiting for tiles", next)(rest, None)) is not None:
            tiles[0] += len(batch[0])
            yield batch

    reconstruction.masked_batches = batches  # type: ignore[assignment]
    reconstruction.error_sums = clocked("metrics", reconstruction.error_sums)
    FittedModels.predict = clocked("models", FittedModels.predict)  # type: ignore[method-assign]
    return tiles


if __name__ == "__main__":
    main()
