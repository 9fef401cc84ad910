"""Atomic writing of files and folders, digests, file names, confined paths, and strict YAML."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomae.errors import CatalogError, ConfigError, GeomaeError, StorageError

MOST_VALUES = 100_000  # values of a YAML document after its aliases are expanded, unless its text is longer
NO_TEXT = re.compile(r"[\0\ud800-\udfff]")  # YAML can write these (`"\0"`), but no name of a file or column has them
UNFINISHED = ".unfinished-"  # prefix of files and folders that are being written
KEPT_LETTERS = 20  # letters of the final name that follow it; more could exceed the file system's limit
LONGEST_NAME = 180  # bytes, without the prefixes and suffixes that commands add; file systems allow 255


@contextlib.contextmanager
def publish_file(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it replaces `path` in one step.

    A reader sees either the old file or the new one complete, even after a power cut. With `lasting` False the file
    is not flushed to the disk: for files that can be made again and are checked before use. Raises StorageError.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept, because GDAL and others choose the format by it.
        handle, name = tempfile.mkstemp(
            prefix=f"{UNFINISHED}{path.stem[:KEPT_LETTERS]}-", suffix=path.suffix, dir=path.parent
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with _storage_errors(path):
            yield temporary
            if lasting:
                flush(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files unreadable for other users
            temporary.replace(path)
            if lasting:
                flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is renamed to `path`, which must not exist.

    Raises StorageError where it cannot be written.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{path.name[:KEPT_LETTERS]}-", dir=path.parent))
    try:
        with _storage_errors(path):
            yield temporary
            for file in sorted(temporary.rglob("*"), reverse=True):
                flush(file)
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
            flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files and folders that a killed process left in `folder`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Publish `text` as UTF-8 at `path`. Bytes of file names that are not UTF-8 are written as `\\udcXX`.

    In JSON this escape reads back as the same name.
    """
    with publish_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON at `path`; NaN and infinities become null, since JSON has none."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Publish the rows of a table as CSV; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises GeomaeError, which names the file, when it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GeomaeError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise GeomaeError(f"{path}: is not valid JSON ({error}); restore or remove the file") from error


def digest(value: Any) -> str:
    """Hex digest (32 characters) of a JSON-like value; the order of keys does not matter."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Hex digest (64 characters, SHA-256) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(name: str) -> str:
    """Turn a text into a file name: letters and digits of any script and `._-` are kept, all else becomes `_`.

    The middle of a name that is too long for a file system is left out.
    """
    text = unicodedata.normalize("NFC", name)  # a letter and its accent become one character, as on a keyboard
    kept = "".join(letter if letter in "._-" or unicodedata.category(letter)[0] in "LMN" else " " for letter in text)
    plain = "_".join(kept.split()).strip("_") or "_"
    encoded = plain.encode()
    if len(encoded) <= LONGEST_NAME:
        return plain
    start, end = encoded[: LONGEST_NAME // 3], encoded[-LONGEST_NAME // 2 :]  # the end of a path is the most telling
    return f"{start.decode(errors='ignore')}...{end.decode(errors='ignore')}"


def file_names(names: Iterable[str]) -> list[str]:
    """Return a file name for each text, in order, all different even where upper and lower case are the same.

    Where several texts give one name, the text that equals it keeps it, else the first; the others are numbered.
    """
    texts = list(names)
    wishes = [file_name(text) for text in texts]
    wished = Counter(wish.casefold() for wish in wishes)
    used: set[str] = set()
    given = [""] * len(texts)
    for place in sorted(range(len(texts)), key=lambda place: texts[place] != wishes[place]):
        name, number = wishes[place], 1
        while name.casefold() in used or (number > 1 and name.casefold() in wished):
            number += 1
            name = f"{wishes[place]}-{number}"
        used.add(name.casefold())
        given[place] = name
    return given


def scene_names(scenes: Sequence[tuple[str, str]]) -> list[str]:
    """Return a file name for each scene (data set, id), made unique by `file_names`.

    It is made from the id; where two data sets have scenes of one name, the data set's name comes before it.
    """
    owners: dict[str, set[str]] = {}
    for dataset, scene in scenes:
        owners.setdefault(file_name(scene).casefold(), set()).add(dataset)
    shared = {name for name, datasets in owners.items() if len(datasets) > 1}
    return file_names(f"{own}_{name}" if file_name(name).casefold() in shared else name for own, name in scenes)


def confine(path: Path, root: Path, *, outside: bool, where: str) -> Path:
    """Resolve `path`, links included, against `root`. Raises CatalogError where it leaves `root`, unless `outside`."""
    resolved = (root / path).resolve()
    if not outside and not resolved.is_relative_to(root.resolve()):
        raise CatalogError(f"{where}: {path} leaves the catalogue's folder {root}; add `outside: true` to allow it")
    return resolved


def cache_folder() -> Path:
    """Return the folder of generated and derived data: GEOMAE_CACHE, else `geomae` in the XDG cache folder."""
    chosen = os.environ.get("GEOMAE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen).expanduser().resolve() if chosen else base / "geomae"


@dataclass(frozen=True)
class YamlDocument:
    """A YAML mapping as plain Python values, with the line number of every key."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def where(self, keys: Sequence[str | int] = ()) -> str:
        """Return `file:line` of the innermost of the nested `keys` that the document has."""
        known = tuple(keys)
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.path}:{self.lines[known]}" if known else str(self.path)


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML 1.2 mapping.

    Raises ConfigError for duplicate keys, tags, several documents, wrong syntax, impossible values, and aliases that
    expand to too many values.
    """
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ConfigError(f"{path}: is not UTF-8 text ({where}); save it as UTF-8") from error
    tree = _yaml_tree(path, text)
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    lines: dict[tuple[str | int, ...], int] = {}

    def plain(node: Any, keys: tuple[str | int, ...]) -> Any:
        if isinstance(node, CommentedMap):
            for key in node:
                if key in (node.lc.data or ()):  # a key merged from an anchor (`<<: *anchor`) has no line of its own
                    lines[(*keys, key)] = node.lc.key(key)[0] + 1
            return {plain(key, keys): plain(value, (*keys, key)) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                lines[(*keys, index)] = node.lc.item(index)[0] + 1
            return [plain(value, (*keys, index)) for index, value in enumerate(node)]
        if isinstance(node, str) and (wrong := NO_TEXT.search(node)):
            where = YamlDocument(path, {}, lines).where(keys)
            raise ConfigError(f"{where}: {wrong[0]!a} stands for no character; write the character that is meant")
        for kind in (bool, int, float, str):  # ruamel's scalars keep their notation, which is not needed here
            if isinstance(node, kind):
                return kind(node)
        return node

    return YamlDocument(path, plain(tree, ()), lines)


def storage_remedy(error: OSError) -> str:
    """Return the remedy for an error of writing."""
    if error.errno == errno.ENAMETOOLONG:
        return "shorten the name, or choose another folder with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check the permissions, or choose another folder with --out"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        return "something of that name is in the way; choose another folder with --out"
    return "make room, or choose another folder with --out"


def flush(path: Path) -> None:
    """Flush the content of a file or folder to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _yaml_tree(path: Path, text: str) -> Any:
    """Parse YAML with ruamel, which keeps the positions of keys. Raises ConfigError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
    from ruamel.yaml.tokens import TagToken

    try:
        tags = [one for one in YAML().scan(text) if isinstance(one, TagToken)] if "!" in text else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # by YAML's rules the later anchor is used
            if "*" in text and _values_for(YAML(typ="rt", pure=True).compose(text), {}) > max(MOST_VALUES, len(text)):
                remedy = f"stand for more than {MOST_VALUES:,} values; use fewer of them"
                raise ConfigError(f"{path}: its aliases (`*`) {remedy}")
            tree = None if tags else YAML(typ="rt", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(_yaml_message(path, error)) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deep; write it flatter") from error
    except ValueError as error:  # a number with thousands of digits, or a date such as 2024-02-31
        problem = str(error).partition(";")[0]
        raise ConfigError(f"{path}: a value cannot be read ({problem}); correct it, or put it in quotes") from error
    if tags:
        raise ConfigError(f"{path}:{tags[0].start_mark.line + 1}: a tag (`!`) is not read here; write plain values")
    return tree


def _values_for(node: Any, known: dict[int, int]) -> int:
    """Count the values of a YAML node with all aliases expanded."""
    if id(node) not in known:
        known[id(node)] = 1  # set before counting, because an anchor may contain its own alias
        parts = node.value if isinstance(getattr(node, "value", None), list) else ()
        nodes = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] += sum(_values_for(one, known) for one in nodes)
    return known[id(node)]


def _yaml_message(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    remedy = "keep one of the two" if "duplicate" in problem else "correct the YAML"
    return f"{where}: {problem}; {remedy}"


def _plain(value: Any) -> Any:
    """Convert numpy values, paths, tuples and pydantic models to JSON types; NaN and infinities become None."""
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        numbers = value.tolist()
        return numbers if value.dtype.kind in "biu" else _plain(numbers)  # only floats can be NaN
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); {storage_remedy(error)}") from error
