"""Keys of a catalogue as lines of YAML, with remarks as comments."""

import json
import re
from collections.abc import Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
RESERVED_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))  # YAML 1.1 has more of them


def entry_line(key: str, value: Any, remark: str | None = "") -> str:
    """A key of an entry with its value on one line, and a remark as comment."""
    end = f"  # {' '.join(remark.split())}" if remark else ""
    return f"    {key}: {flow(value)}{end}"


def comment(text: str, indent: int = 4) -> str:
    """A comment on one line, whatever line breaks the text contains."""
    return f"{' ' * indent}# {' '.join(text.split())}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    text = str(value)
    plain = PLAIN.fullmatch(text) and text.lower() not in RESERVED_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)
