"""What people and scripts rely on, as text: commands, configuration, catalogue and the names of the library.

A change shows as a diff of a file beside this one; `pytest tests/golden --rewrite-golden` writes it.
"""

import importlib
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from frozen import check_text, members, options, schema_keys, signature
from helpers import called
from pydantic import BaseModel
from ruamel.yaml import YAML

import geomae
from geomae import errors
from geomae.cli import app
from geomae.config import flatten

ROOT = Path(__file__).parents[2]
PACKAGE = Path(geomae.__file__).parent


def configurations() -> list[type[BaseModel]]:
    """The classes that `--config` and `--set` fill, wherever they live."""
    found: dict[str, type[BaseModel]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r"^class (\w+Config)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
            kind = getattr(importlib.import_module(module.removesuffix(".__init__")), name)
            if issubclass(kind, BaseModel):
                found[name] = kind
    return [found[name] for name in sorted(found)]


def settings(kind: type[BaseModel]) -> Iterator[str]:
    """Every key of a configuration with its type, bounds and the default that counts."""
    defaults = flatten(kind().model_dump(mode="json"))
    for line in schema_keys(kind.model_json_schema()):
        key, _, words = line.partition(": ")
        if key in defaults:  # not the mappings themselves
            yield f"    {key}: {words.split(', default ')[0]}, default {json.dumps(defaults[key])}"
    assert defaults


def classes(hint: Any) -> list[type]:
    """Our classes in an annotation."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return [hint] if hint.__module__.split(".")[0] == PACKAGE.name else []
    return [kind for one in typing.get_args(hint) for kind in classes(one)]


def test_commands(rewrite_golden):
    check_text("commands.txt", list(options(typer.main.get_command(app), "geomae")), rewrite_golden)


def test_configuration(rewrite_golden):
    lines = []
    for kind in configurations():
        lines += [kind.__name__, *settings(kind), ""]
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        values = flatten(YAML(typ="safe", pure=True).load(path))
        lines += [str(path.relative_to(ROOT)), *(f"    {key}: {json.dumps(values[key])}" for key in values), ""]
    check_text("config.txt", lines[:-1], rewrite_golden)


def test_catalogue(rewrite_golden, tmp_path):
    done = called("catalog", "schema", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_text("catalog_schema.txt", schema_keys(json.loads(done.stdout)), rewrite_golden)


def test_library(rewrite_golden):
    lines, reached = [], {}
    for name in sorted(geomae.__all__):
        value = getattr(geomae, name)
        if not callable(value):
            lines.append(f"{name}: {type(value).__name__}")
            continue
        lines.append(f"{name}{signature(value)}")
        found = [value] if isinstance(value, type) else classes(typing.get_type_hints(value).get("return"))
        reached |= {kind.__name__: kind for kind in found}
    for name in sorted(reached):
        lines += ["", *members(reached[name])]
    lines += ["", "errors"]
    for name, kind in sorted(vars(errors).items()):
        if inspect.isclass(kind) and issubclass(kind, errors.GeomaeError):
            lines.append(f"    {name}({kind.__bases__[0].__name__}), exit code {kind.exit_code}")
    check_text("python.txt", lines, rewrite_golden)
