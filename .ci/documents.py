"""Run what README.md and docs/python.md tell a newcomer, with the program that is installed beside this Python.

    python .ci/documents.py WORK

Blocks run in their order, as they stand but for `uv run` and the length of trainings: in WORK/sample, which begins with
the sample catalogue, or in WORK/own, which begins with a folder `rasters`. No block sees the repository.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import geomae
from geomae.tiles.sample_landscape import landscape

ROOT = Path(__file__).parents[1]
SHORT = "geomae pretrain --set steps=20"
TAKE_OVER_SPLIT = "sed -i 's/# .*; to hold some out: split:/split:/' data_catalog.yaml"  # what the README asks for


def main() -> None:
    """Prepare both folders and run every block; the first that fails ends it."""
    work = Path(sys.argv[1]).absolute()
    assert ROOT not in Path(geomae.__file__).parents, "geomae is imported from the repository, not installed"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sample, own = work / "sample", work / "own"
    sample.mkdir(parents=True)
    refused = subprocess.run(["geomae", "pretrain"], cwd=sample, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "geomae catalog init --sample" in refused.stderr, refused.stderr
    run("bash", "geomae catalog init --sample", sample)
    shutil.copytree(landscape(), own / "rasters")
    for document in (ROOT / "README.md", ROOT / "docs/python.md"):
        for language, text in re.findall(r"^```(bash|python)\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S):
            if "uv run pytest" not in text:  # those run in the repository, before this
                run(language, text, own if re.search("rasters|runs/mine", text) else sample)


def run(language: str, text: str, folder: Path) -> None:
    """Run a block in a folder."""
    if language == "bash":
        text = text.replace("uv run ", "").replace("geomae pretrain", SHORT)
        text = re.sub("(geomae catalog init rasters.*)", rf"\1\n{TAKE_OVER_SPLIT}", text)
    else:  # the name of a run is a time
        text = re.sub(r"pretrain-\d+-\d+", max(folder.glob("runs/pretrain-*"), default=Path("none")).name, text)
    print(f"\n{folder.name}$ {text}", flush=True)
    interpreter = ["bash", "-euxc"] if language == "bash" else [sys.executable, "-c"]
    subprocess.run([*interpreter, text], cwd=folder, check=True)


if __name__ == "__main__":
    main()
