"""Run what README.md, docs/python.md and the tutorials tell a newcomer, with the program installed beside this Python.

    python .ci/documents.py WORK [--write] [DOCUMENT ...]

Blocks run in their order, as they stand but for `uv run` and, outside the tutorials, the length of trainings: in
WORK/sample, which begins with the sample catalogue, in WORK/own, which begins with a folder `rasters`, or, the
tutorials one after the other, in WORK/tutorials, which begins empty. No block sees the repository. What a tutorial
shows of an output has to be printed by the block before it, figures aside, which differ between machines; `--write`
writes them anew. Names of documents (`d-map`) choose some of them; a folder that is there is gone on with.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import geomae
from geomae.tiles.sample_landscape import landscape

ROOT = Path(__file__).parents[1]
NEWCOMER = (ROOT / "README.md", ROOT / "docs/python.md")
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("?-*.md"))
SHORT = "geomae pretrain --set steps=20"
TAKE_OVER_SPLIT = "sed -i 's/# .*; to hold some out: split:/split:/' data_catalog.yaml"  # what the README asks for
BLOCK = re.compile(r"(?<=^```)(bash|python|yaml|text)\n(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Prepare the folders and run every block; the first that fails ends it."""
    work, *chosen = (one for one in sys.argv[1:] if one != "--write")
    assert ROOT not in Path(geomae.__file__).parents, "geomae is imported from the repository, not installed"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sample, own, tutorials = (Path(work).absolute() / name for name in ("sample", "own", "tutorials"))
    if not sample.is_dir():
        prepare(sample, own, tutorials)
    for document in NEWCOMER:
        if not chosen or document.stem in chosen:
            run_newcomer(document.read_text("utf-8"), sample, own)
    for document in TUTORIALS:
        if not chosen or document.stem in chosen:
            run_tutorial(document, tutorials, write="--write" in sys.argv)


def prepare(sample: Path, own: Path, tutorials: Path) -> None:
    """Make the folders in which the documents begin."""
    sample.mkdir(parents=True)
    refused = subprocess.run(["geomae", "pretrain"], cwd=sample, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "geomae catalog init --sample" in refused.stderr, refused.stderr
    run("bash", "geomae catalog init --sample", sample)
    shutil.copytree(landscape(), own / "rasters")
    tutorials.mkdir()


def run_newcomer(text: str, sample: Path, own: Path) -> None:
    """Run the blocks of a document in the folder that each belongs to; trainings are cut short."""
    for language, block in BLOCK.findall(text):
        if language not in ("bash", "python") or "uv run pytest" in block:  # those run in the repository, before this
            continue
        folder = own if re.search("rasters|runs/mine", block) else sample
        if language == "bash":
            block = block.replace("uv run ", "").replace("geomae pretrain", SHORT)
            block = re.sub("(geomae catalog init rasters.*)", rf"\1\n{TAKE_OVER_SPLIT}", block)
        else:  # the name of a run is a time
            block = re.sub(r"pretrain-\d+-\d+", max(folder.glob("runs/pretrain-*"), default=Path("none")).name, block)
        run(language, block, folder)


def run_tutorial(document: Path, folder: Path, *, write: bool) -> None:
    """Run the blocks of a tutorial, save the catalogues that it shows, and hold what it shows of outputs to them."""
    text, printed, new, at = document.read_text("utf-8"), "", [], 0
    for block in BLOCK.finditer(text):
        language, body = block.groups()
        if language == "yaml" and body.startswith("# data_catalog.yaml"):
            (folder / "data_catalog.yaml").write_text(body, "utf-8")
        elif language == "text":
            new += [text[at : block.start(2)], *as_printed(body, printed)]
            at = block.end(2)
        elif language != "yaml":
            printed = run(language, body, folder)
    if write:
        document.write_text("".join([*new, text[at:]]), "utf-8")


def as_printed(shown: str, printed: str) -> Iterator[str]:
    """The lines of an output that a document shows, as they were printed: with the figures of this machine.

    Raises AssertionError for a line that was not printed, or not after the one before it. `...` stands for any lines.
    """
    rest = iter(printed.splitlines())
    for line in shown.splitlines():
        found = line if line == "..." else next((one for one in rest if words(one) == words(line)), None)
        assert found is not None, f"the document shows what was not printed: {line}"
        yield f"{found.rstrip()}\n"


def words(line: str) -> str:
    """A line without its figures and the width of its columns."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "0", " ".join(line.split()))


def run(language: str, text: str, folder: Path) -> str:
    """Run a block in a folder, show what it prints, and give it back."""
    print(f"\n{folder.name}$ {text}", flush=True)
    interpreter = ["bash", "-euxc"] if language == "bash" else [sys.executable, "-c"]
    printed = ""
    with subprocess.Popen([*interpreter, text], cwd=folder, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            printed += line
    assert running.returncode == 0, f"exit code {running.returncode}"
    return printed


if __name__ == "__main__":
    main()
