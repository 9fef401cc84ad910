"""Text that is compared with a file beside this one, and how schemas, signatures and commands are written in it.

Nothing here knows where in the package a thing lives: a file may move, what people rely on may not change unnoticed.
"""

import difflib
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
BOUNDS = {
    "minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<", "minLength": "length >=",
    "maxLength": "length <=", "minItems": "items >=", "maxItems": "items <=", "minProperties": "keys >=",
    "pattern": "like ",
}  # fmt: skip


def check_text(name: str, lines: list[str], rewrite: bool) -> None:
    """Compare lines with the file `name`, or write it."""
    path, new = HERE / name, "".join(f"{line.rstrip()}\n" for line in lines)
    if rewrite:
        path.write_text(new, encoding="utf-8")
        return
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old != new:
        parts = (text.splitlines(keepends=True) for text in (old, new))
        diff = "".join(difflib.unified_diff(*parts, f"{name} (as it was)", f"{name} (as it is)"))
        remedy = f"if this is meant, run `pytest tests/golden --rewrite-golden` and commit {name}"
        pytest.fail(f"{diff}\n{remedy}", pytrace=False)


def options(command: Any, name: str) -> Iterator[str]:
    """A command and those below it, each with its arguments and options; types are those that its function declares."""
    yield name
    declared = inspect.signature(command.callback).parameters if command.callback else {}
    for one in sorted(command.params, key=lambda one: (one.param_type_name, one.opts)):
        option = one.param_type_name == "option"
        label = " / ".join([*one.opts, *one.secondary_opts]) if option else f"{one.opts[0].upper()} (argument)"
        if one.name in declared and not getattr(one, "is_flag", False):
            label += f": {_kind(declared[one.name].annotation)}"
            bounds = {">=": one.min, "<=": one.max}
            label += "".join(f" {sign} {bound}" for sign, bound in bounds.items() if bound is not None)
        default = one.default() if callable(one.default) else one.default
        label += ", required" if one.required else f", default {default!r}"
        yield f"    {label}{f', from {one.envvar}' if one.envvar else ''}"
    for child in sorted(getattr(command, "commands", {})):
        yield ""
        yield from options(command.commands[child], f"{name} {child}")


def _kind(annotation: Any) -> str:
    """`Annotated[list[Path] | None, ...]` is `Path, repeatable`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    parts = [one for one in typing.get_args(annotation) if one is not type(None)]
    if typing.get_origin(annotation) is list:
        return f"{_kind(parts[0])}, repeatable"
    return " | ".join(map(_kind, parts)) if parts else str(getattr(annotation, "__name__", annotation))


def schema_keys(schema: dict[str, Any]) -> list[str]:
    """Every key that a JSON schema allows: dotted name, type, bounds and default, without names of definitions."""
    return list(dict.fromkeys(_keys(schema, schema, "", ())))


def _keys(root: dict[str, Any], node: dict[str, Any], name: str, seen: tuple[str, ...]) -> Iterator[str]:
    node, seen = _resolved(root, node, seen)
    if node is None:
        return
    for key, value in node.get("properties", {}).items():
        found, _ = _resolved(root, value, ())
        must = ", required" if key in node.get("required", ()) else ""
        default = f", default {json.dumps(value['default'])}" if "default" in value else ""
        yield f"{name}{key}: {_type(root, found or {})}{must}{default}"
        yield from _keys(root, value, f"{name}{key}.", seen)
    for more in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
        if not isinstance(more, dict):
            continue
        yield f"{name}*: {_type(root, more)}"
        yield from _keys(root, more, f"{name}*.", seen)
    if isinstance(node.get("items"), dict):
        yield from _keys(root, node["items"], f"{name.removesuffix('.')}[].", seen)
    for one in _branches(node):
        yield from _keys(root, one, name, seen)


def _branches(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for kind in ("anyOf", "oneOf", "allOf") for one in node.get(kind, [])]


def _resolved(root: dict[str, Any], node: dict[str, Any], seen: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """What `$ref` points at; None where it leads back to itself."""
    while "$ref" in node:
        where = node["$ref"]
        if where in seen:
            return None, seen
        target: Any = root
        for part in where.removeprefix("#/").split("/"):
            target = target[part]
        node, seen = {**target, **{key: value for key, value in node.items() if key != "$ref"}}, (*seen, where)
    return node, seen


def _type(root: dict[str, Any], node: dict[str, Any]) -> str:
    node = _resolved(root, node, ())[0]
    if branches := _branches(node):
        return " | ".join(dict.fromkeys(_type(root, one) for one in branches))
    if "enum" in node or "const" in node:
        return " | ".join(json.dumps(one) for one in node.get("enum", [node.get("const")]))
    kind = str(node.get("type", "anything"))
    if isinstance(node.get("items"), dict):
        kind = f"array of ({_type(root, node['items'])})"
    return kind + "".join(f" {sign} {node[key]}" for key, sign in BOUNDS.items() if key in node)


def signature(function: Any) -> str:
    """A signature with the names of classes alone, without the modules that they live in."""
    try:
        text = str(inspect.signature(function, eval_str=True))
    except NameError:  # an annotation that only a type checker resolves
        text = str(inspect.signature(function))
    text = re.sub(r"(?<=[:>] )'([^']*)'", r"\1", text)  # annotations that are text
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def members(kind: type) -> Iterator[str]:
    """The public methods and properties of a class, and the fields of a record."""
    yield f"class {kind.__name__}"
    names = {name for name in dir(kind) if not name.startswith("_")} | set(getattr(kind, "__dataclass_fields__", ()))
    fields = getattr(kind, "__dataclass_fields__", {})
    for name in sorted(names):
        found = inspect.getattr_static(kind, name, None)
        if name in fields:
            yield f"    {name}: field"
        elif isinstance(found, property):
            yield f"    {name}: property{signature(found.fget).removeprefix('(self)')}"
        elif callable(getattr(kind, name)):
            yield f"    {name}{signature(getattr(kind, name))}"
