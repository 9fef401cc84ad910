"""Patterns of `path`: their wildcards and literal parts, and the regular expression that finds a band's token.

Wildcards are `*`, `?`, `[ab]`, `**` and {band}. Alone in a bracket, each is a literal character: `[[]`, `[{]band}`.
"""

import fnmatch
import glob
import re
from collections.abc import Sequence

from geomae.catalog.schema import BAND

CLASS = r"\[!?\]?[^\]/]*\]"
ESCAPED = re.compile(r"\[([*?\[{])\]")
WILDCARD = re.compile(rf"\*\*/|\*+|\?|{CLASS}|\{{band\}}")


def escape_pattern(text: str) -> str:
    """The pattern that matches exactly `text`, with all wildcards escaped."""
    return glob.escape(text).replace(BAND, f"[{BAND[0]}]{BAND[1:]}")


def literal(pattern: str) -> str | None:
    """The only text that a pattern without wildcards matches; None for a pattern with wildcards."""
    return None if WILDCARD.search(ESCAPED.sub("", pattern)) else ESCAPED.sub(r"\1", pattern)


def static_parts(parts: Sequence[str]) -> list[str]:
    """The leading folders of a pattern's parts, up to the first with a wildcard; the last part is the file's name."""
    folders = []
    for part in parts[:-1]:
        text = literal(part)
        if text is None:
            break
        folders.append(text)
    return folders


def token_expression(pattern: str, token: str) -> re.Pattern[str]:
    """A regular expression for `pattern` with `token` in place of each {band}, which becomes a group.

    Next to a wildcard, the token must be a whole word: in `*{band}*`, B1 does not match the beginning of B11.
    """
    pieces = [piece for piece in re.split(f"({WILDCARD.pattern})", pattern) if piece]
    wild = {"**/": r"(?:.*/)?", "?": "[^/]"}
    written = []
    for index, piece in enumerate(pieces):
        if piece == BAND:
            before = r"(?<![A-Za-z0-9])" if index and _is_wild(pieces[index - 1]) else ""
            after = r"(?![A-Za-z0-9])" if index + 1 < len(pieces) and _is_wild(pieces[index + 1]) else ""
            written.append(f"{before}({re.escape(token)}){after}")
        elif not WILDCARD.fullmatch(piece):
            written.append(re.escape(piece))
        elif piece[0] == "[":
            written.append(fnmatch.translate(piece)[len("(?s:") : -len(r")\Z")])
        else:
            written.append(wild.get(piece, "[^/]*"))
    return re.compile("".join(written), re.DOTALL)


def _is_wild(piece: str) -> bool:
    """Whether a piece is a wildcard that may match letters next to a token."""
    return bool(WILDCARD.fullmatch(piece)) and piece != BAND and not ESCAPED.fullmatch(piece)
