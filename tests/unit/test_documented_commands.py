"""What the documents tell a reader to type: commands and their values, lines of a catalogue, and Python are taken."""

import argparse
import ast
import importlib
import re
import runpy
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from geomae import cli
from geomae.catalog import DatasetEntry, open_catalog, parse_selector
from geomae.config import AdaptConfig, PretrainConfig, load_config
from geomae.encoders.specification import parse_encoders
from geomae.evaluation.methods import METHODS
from geomae.models.inpainting_baselines import INPAINTINGS
from geomae.training.finetuning_config import FinetuneConfig
from pipelines.ablate_masking import Study
from pipelines.benchmark_tasks import Score, parse_tasks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
ENDS = {";", "|", "&&", "||", "&", "then", "else", "fi", "do", "done"}  # what ends a command in a shell
PROGRAM = typer.main.get_command(cli.app)
SELECTORS = ("dataset", "train", "test", "eval", "source", "target", "probe", "probe_train", "probe_test")
CONFIGS: dict[str, tuple[str | None, Any]] = {  # by command: the default configuration, and its keys
    "pretrain": ("tiny", PretrainConfig),
    "finetune": ("tiny", FinetuneConfig),
    "adapt": (None, AdaptConfig),
    "ablate_masking": ("default", Study),
}


@dataclass(frozen=True)
class Documented:
    """A command of a document, from its program on; `whole`: it stands in a block, and not in a sentence."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    @property
    def command(self) -> str:
        """The name of the command of geomae, or of the script."""
        script = self.words[2 if self.words[1:2] == ("-m",) else 1]
        return script if self.words[0] == "geomae" else script.rpartition(".")[2]


def in_document(path: Path) -> Iterator[Documented]:
    """The commands in the blocks and in the sentences of a document."""
    text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    for language, block in FENCE.findall(text):
        if language in ("bash", "console", "sh", ""):
            block = re.sub(r"\\\n", " ", block)
            known = {name: value for name, _, value in re.findall(r"\b([A-Z]+)=([\"'])(.*?)\2", block)}
            for line in block.splitlines():
                for words in commands_of(line, known):
                    yield Documented(page, words, whole=True)
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        for words in commands_of(span, {}):
            yield Documented(page, words, whole=False)


def commands_of(line: str, variables: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """The commands of a line of a shell, with its variables in place; other lists of words (`"$@"`) are left out."""
    for name, value in variables.items():
        line = re.sub(rf"\${name}\b", lambda _, value=value: value, line)
    reader = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    reader.whitespace_split = True
    try:
        words = list(reader)
    except ValueError:  # an apostrophe in a sentence
        return
    for at, word in enumerate(words[:-1]):
        script = word == "python" and (words[at + 1] == "-m" or words[at + 1].startswith("tests/"))
        if script or word == "geomae":
            end = next((number for number in range(at, len(words)) if words[number] in ENDS), len(words))
            yield tuple(one for one in words[at:end] if one != "$@" and "[@]" not in one)


ALL = [one for path in PAGES for one in in_document(path)]


class Read(Exception):
    """Ends a script once its command line was read."""


def of_the_program(one: Documented) -> dict[str, Any]:
    """The values of the options of a command of geomae, by name. A sentence may leave out what is required."""
    command: Any = PROGRAM
    rest = [word if one.whole or not re.fullmatch("[A-Z]", word) else "1" for word in one.words[1:]]  # `--layer L`
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if not one.whole and (not rest or rest == ["--help"] or rest == ["COMMAND", "--help"]):
        return {}
    if not one.whole and rest[-1] in [
        name for option in command.params if not getattr(option, "is_flag", False) for name in option.opts
    ]:
        rest.append("1")  # `geomae convert --bands`
    try:
        context = command.make_context("command", rest)
    except Exception as error:
        if one.whole or type(error).__name__ != "MissingParameter":  # typer's classes differ between its releases
            raise AssertionError(f"{one}: {error}") from error
        context = command.make_context("command", rest, resilient_parsing=True)
    return {cli.title(option).replace("-", "_"): context.params[option.name] for option in command.params}


def of_a_script(one: Documented, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The same of a recipe or a benchmark, which is run until it has read its command line."""
    found: dict[str, Any] = {}
    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> None:
        for action in parser._actions:
            action.required = action.required and one.whole
            action.nargs = "*" if action.nargs == "+" and not one.whole else action.nargs
        found.update(vars(parse_args(parser, given)))
        raise Read

    module = one.words[1] == "-m"
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", list(one.words[2 if module else 1 :]))
    try:
        if module:
            importlib.import_module(one.words[2]).main()
        else:
            monkeypatch.syspath_prepend(str((ROOT / one.words[1]).parent))
            runpy.run_path(str(ROOT / one.words[1]), run_name="__main__")
    except SystemExit as error:
        raise AssertionError(f"{one}: {capsys.readouterr().err}") from error
    except Read:
        return found
    raise AssertionError(f"{one}: the script reads no command line")


def texts(value: Any) -> list[str]:
    """The values of an option that may be repeated, without those that are known only where the command runs."""
    values = [] if value in (None, "") else list(value) if isinstance(value, (list, tuple)) else [str(value)]
    return [one for one in values if "$" not in one]


def check_values(one: Documented, found: dict[str, Any]) -> None:
    """Selectors follow the grammar, keys of the configuration exist, and encoders and alignments have these names."""
    selectors = [text for name in SELECTORS for text in texts(found.get(name))]
    for text in () if one.command == "convert" else selectors:  # its --target is that of the training
        parse_selector(text)
    if one.command == "benchmark_encoders":
        for wish in parse_tasks(found["task"]).values():
            selectors += [parse_selector(text).dataset for text in (wish.train, wish.test) if text is not None]
    name, kind = CONFIGS.get(one.command, (None, None))
    name, kind = ("tiny", PretrainConfig) if found.get("adapt_set") is not None else (name, kind)
    if kind is not None:
        folder = "pretrain" if kind is PretrainConfig else one.command
        load_config(kind, folder, found.get("config") or name, texts(found.get("set")))
    load_config(AdaptConfig, "adapt", None, texts(found.get("adapt_set")))
    assert set(texts(found.get("align"))) <= {"all", *METHODS}
    assert set(texts(found.get("without"))) <= set(METHODS)
    baselines = {"baselines": INPAINTINGS} if one.command == "compare-recon" else {}
    for text in (*texts(found.get("encoder")), *texts(found.get("model"))):
        for part in re.split(r",(?=\w|[\w*-]+:)", text) if one.words[0] == "python" else [text]:
            if ":" in part and "*" not in part and "runs/" not in part:  # folders are there once a model is trained
                parse_encoders([part], **baselines)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with the folders of published weights that commands name."""
    for folder in ("weights/galileo_nano", "FOLDER"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("one", dict.fromkeys(one for one in ALL if one.words[0] == "geomae"), ids=str)
def test_commands_of_the_program_are_taken(one: Documented) -> None:
    check_values(one, of_the_program(one))


@pytest.mark.parametrize("one", dict.fromkeys(one for one in ALL if one.words[0] == "python"), ids=str)
def test_command_lines_of_scripts_are_taken(
    one: Documented, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_values(one, of_a_script(one, monkeypatch, capsys))


def blocks(*languages: str) -> list[Any]:
    """The blocks of all documents in these languages."""
    found = [
        (path, textwrap.dedent(block))
        for path in PAGES
        for language, block in FENCE.findall(path.read_text(encoding="utf-8"))
        if language in languages
    ]
    return [pytest.param(block, id=f"{path.name}-{number}") for number, (path, block) in enumerate(found)]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_a_catalogue_or_a_part_of_one_or_a_score(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(text, encoding="utf-8")
    shown = YAML(typ="safe", pure=True).load(text)
    if "tasks" in shown:
        wishes = load_config(Score, "benchmark_encoders", str(path)).tasks.values()
        assert [parse_selector(text) for wish in wishes for text in (wish.train, wish.test) if text is not None]
    elif "datasets" in shown:
        assert open_catalog(path).entries
    else:  # one data set, or some of its keys
        keys = next(iter(shown.values())) if len(shown) == 1 and set(shown) - set(DatasetEntry.model_fields) else shown
        assert DatasetEntry.model_validate({"sensor": "naip", "path": "x.tif"} | keys)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_can_be_read_and_imports_what_there_is(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("geomae"):
            module = importlib.import_module(node.module)
            assert not [one.name for one in node.names if not hasattr(module, one.name)]


def test_enough_is_found() -> None:
    """Also commands that go on in the next line, stand in a function or a loop, or take words from a variable."""
    assert len(ALL) > 250
    found = {str(one) for one in ALL if one.whole}
    assert any("--task 'flood plain to others: hls-flood -> hls-other'" in one for one in found)
    assert any("pipelines.adapt_sensor --set objective.places=0" in one for one in found)
