"""The pages of the site that are written from the program: commands, configuration, what `import geomae` offers."""

import inspect
import json
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

import geomae
from geomae.cli import EXAMPLES, app
from geomae.config import AdaptConfig, PretrainConfig
from geomae.training.finetuning_config import FinetuneConfig

CONFIGURATIONS = {"pretrain": PretrainConfig, "adapt": AdaptConfig, "finetune": FinetuneConfig}
WORDS = {"integer": "whole number", "string": "text", "boolean": "true or false", "array": "list", "object": "mapping"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
CONFIGS = Path(__file__).parents[1] / "configs"


def write_pages(folder: Path) -> None:
    """Write every generated page as Markdown; one that has not changed is left alone, and not built anew."""
    folder.mkdir(exist_ok=True)
    for name, lines in {"commands": commands(), "configuration": configuration(), "python": python()}.items():
        path, text = folder / f"{name}.md", "\n".join(lines) + "\n"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def commands() -> Iterator[str]:
    """Every command with its options, in the groups of its `--help`."""
    yield "# Options of the commands\n"
    yield "Written from the program: what `geomae COMMAND --help` prints."
    yield "[What each command does](../commands.md) tells the rest.\n"
    for name, command in _leaves(typer.main.get_command(app), "geomae"):
        yield f"## {name}\n"
        yield f"{command.help}\n"
        context, sections = typer.Context(command, info_name=command.name), Sections()
        command.format_options(context, sections)
        yield from sections.lines
        if command.name in EXAMPLES:
            yield f"```console\n{EXAMPLES[command.name]}\n```\n"


class Sections:
    """Takes what a command writes to the formatter of its help, as Markdown tables."""

    width = 1000  # of a line, in which no text is cut

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Begin a group of options."""
        self.lines += [f"| {title} | |", "|---|---|"]
        yield
        self.lines.append("")

    def write_dl(self, rows: list[tuple[str, str]]) -> None:
        """Add options and what they mean."""
        self.lines += [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows]


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands below a group that can be called, each with its full name."""
    children = getattr(command, "commands", {})
    if not children or (command.invoke_without_command and name != "geomae"):
        yield name, command
    for child in children:
        yield from _leaves(children[child], f"{name} {child}")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def configuration() -> Iterator[str]:
    """Every key of every configuration with its type, default and meaning; then the shipped files."""
    yield "# Configuration\n"
    yield "Written from the program. A key is set by `--set KEY=VALUE`, or in a YAML file that `--config` names; a dot"
    yield "stands for nesting. `--config NAME` takes a file that is shipped; without it `tiny` counts. The keys of the"
    yield "catalogue stand in [the catalogue](../catalogue.md#keys).\n"
    for command, kind in CONFIGURATIONS.items():
        yield f"## Keys of {command}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        schema = kind.model_json_schema()
        for key, node in _keys(schema, schema, ""):
            default = json.dumps(node["default"]) if "default" in node else "required"
            meaning = node.get("description", "")
            yield f"| `{key}` | {_type(schema, node)} | `{default}` | {_cell(meaning)} |"
        yield ""
    yield "## Shipped files\n"
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        yield f"### {path.parent.name}/{path.name}\n"
        yield f"```yaml\n{path.read_text('utf-8').rstrip()}\n```\n"


def _keys(root: dict[str, Any], node: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted names and schemas of the values of a mapping; those of a mapping within it in its place."""
    for key, value in node["properties"].items():
        inner = root["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
        if "properties" in inner:
            yield from _keys(root, inner, f"{name}{key}.")
        else:
            yield name + key, value


def _type(root: dict[str, Any], node: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in node:
        return "mapping"
    if "anyOf" in node:
        return " or ".join(_type(root, one) for one in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{one}`" for one in node.get("enum", [node.get("const")]))
    kind = WORDS.get(node["type"], node["type"])
    return kind + "".join(f" {sign} {node[key]}" for key, sign in BOUNDS.items() if key in node)


def python() -> Iterator[str]:
    """What `import geomae` offers, and the classes that one gets from it."""
    yield "# Python API\n"
    yield "Written from the docstrings. [From Python](../python.md) has examples that run. Axes: B tiles, C bands, H W"
    yield "pixels, N patches, D width.\n"
    functions = [name for name in geomae.__all__ if callable(getattr(geomae, name))]
    yield _autodoc(f"autofunction:: geomae.{name}" for name in functions)
    returned = [typing.get_type_hints(getattr(geomae, name)).get("return") for name in functions]
    yield "## What they return\n"
    own = [kind for kind in returned if inspect.isclass(kind) and kind.__module__.startswith("geomae.")]
    yield _autodoc(f"autoclass:: {kind.__module__}.{kind.__name__}\n   :members:" for kind in own)
    yield "## Errors\n"
    yield _autodoc(["automodule:: geomae.errors\n   :members:\n   :exclude-members: nearest"])


def _autodoc(directives: Any) -> str:
    body = "\n\n".join(f".. {one}" for one in directives)
    return f"```{{eval-rst}}\n{body}\n```\n"
