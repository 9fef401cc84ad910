"""Seconds from the start of a command to its first line, which names its tiles, on the sample landscape.

    uv run python tests/benchmarks/first_line.py [--other CHECKOUT] [--repeats 3] [--json FILE]

Each command is started in its own process and stopped at its first line. `--other` measures another checkout of this
repository with the same packages, alternately with this one, so that a drift of the machine's speed affects both. The
ratio is that of processor seconds.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[2]
CATALOG = "version: 1\ndatasets:\n  land: {sample: {size: 256, scenes: 2}, tile: {size: 32}}\n"
START = "from geomae.cli import main; main()"
BOTH = ["--source", "land[domain=lowland]", "--target", "land[domain=dryland]"]
COMMANDS = {
    "pretrain": ["--dataset", "land"],
    "embed": ["--dataset", "land", "--encoder", "model"],
    "embed-pca": ["--dataset", "land", "--encoder", "model"],
    "probe": ["--train", BOTH[1], "--test", BOTH[3], "--encoder", "model"],
    "gap": [*BOTH, "--encoder", "model"],
    "adapt": [*BOTH, "--model", "model"],
    "finetune": ["--model", "model", "--train", BOTH[1], "--eval", BOTH[3], "--task", "segmentation"],
    "compare-recon": ["--dataset", "land", "--model", "model"],
}


def main() -> None:
    """Measure, print, and write the same values as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = {"here": HERE} | ({"other": arguments.other.absolute()} if arguments.other else {})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "data_catalog.yaml").write_text(CATALOG, encoding="utf-8")
        training = ["pretrain", "--set", "steps=1", "--set", "batch=16", "--out", "trained", "--quiet"]
        subprocess.run([sys.executable, "-c", START, *training], cwd=work, check=True)
        (work / "trained" / "model").rename(work / "model")
        figures = {}
        print(f"{'seconds to the first line':<28}" + "".join(f"{name:>8}{'cpu':>8}" for name in checkouts))
        for command, options in COMMANDS.items():
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for number in range(arguments.repeats):
                for name, checkout in checkouts.items():
                    out = ["--out", f"{command}-{name}-{number}"]
                    taken[name].append(first_line([command, *options, *out], work, checkout))
            line = f"{command:<28}"
            for name, values in taken.items():
                wall_s, cpu_s = (statistics.median(column) for column in zip(*values, strict=True))
                figures |= {f"{name}_{command}_s": wall_s, f"{name}_{command}_cpu_s": cpu_s}
                line += f"{wall_s:8.2f}{cpu_s:8.2f}"
            if arguments.other:
                ratio = figures[f"here_{command}_cpu_s"] / figures[f"other_{command}_cpu_s"]
                figures[f"here_to_other_{command}"] = ratio
                line += f"{ratio:8.2f}"
            print(line, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def first_line(command: list[str], work: Path, checkout: Path) -> tuple[float, float]:
    """Elapsed and processor seconds until a command prints its first line; it is then stopped."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", START, *command], cwd=work, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.readline()
        wall_s = time.perf_counter() - start
        process.kill()
        process.wait()
    if not said or said.startswith("error"):
        raise SystemExit(f"{' '.join(command)}: {said or 'said nothing'}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
