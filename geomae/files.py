"""Files that are whole or absent, digests, paths that stay in their folder, and strict YAML."""

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

MOST_VALUES = 100_000  # of a YAML document that stands for more than it writes out
NO_TEXT = re.compile(r"[\0\ud800-\udfff]")  # YAML can write them (`"\0"`), and no name of a file or column holds any
UNFINISHED = ".unfinished-"  # prefix of what is being written beside its final name
KEPT_LETTERS = 20  # letters of the final name that follow it: a name as long as file systems take has no room for more
LONGEST_NAME = 180  # bytes of a name without what commands put before and behind it; file systems take 255


@contextlib.contextmanager
def publish_file(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Give a name beside `path` to write to; on success it takes the place of `path` in one step.

    A reader sees the old file whole or the new one whole, also after a power cut. What can be made again, and is
    checked before it is used, need not be `lasting`: it is not waited for until it is on the disk.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: GDAL and others choose the format by it.
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
            temporary.chmod(0o666 & ~_umask())  # mkstemp hides its files from other users
            temporary.replace(path)
            if lasting:
                flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_dir(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to fill; on success it becomes `path` in one step. `path` must not exist."""
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
    """Remove what a killed process left half written in `folder`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Publish `text` as UTF-8 at `path`; of a file's name that is no UTF-8 the odd bytes are written as `\\udcXX`.

    In JSON that stands for the very name.
    """
    with publish_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON at `path`; NaN and infinities become null, as JSON has none."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Publish rows of a table as CSV; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read JSON. Raises GeomaeError with the file's name when it is absent or damaged."""
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
    """A text as the name of a file: letters and digits of any script stay, and `._-`; anything else becomes `_`.

    A name that is too long for a file system loses its middle.
    """
    text = unicodedata.normalize("NFC", name)  # with an accent as one letter, as people type it
    kept = "".join(letter if letter in "._-" or unicodedata.category(letter)[0] in "LMN" else " " for letter in text)
    plain = "_".join(kept.split()).strip("_") or "_"
    encoded = plain.encode()
    if len(encoded) <= LONGEST_NAME:
        return plain
    start, end = encoded[: LONGEST_NAME // 3], encoded[-LONGEST_NAME // 2 :]  # the end tells more of a path
    return f"{start.decode(errors='ignore')}...{end.decode(errors='ignore')}"


def file_names(names: Iterable[str]) -> list[str]:
    """A file's name for each text, in order and all different, also where capitals do not count.

    Of texts with one name, that which is written like it keeps it, else the first; the others are numbered.
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
    """A file's name for each scene, (data set, id), as `file_names`: that of the id, after that of the data set where
    two data sets have scenes of one name.
    """
    owners: dict[str, set[str]] = {}
    for dataset, scene in scenes:
        owners.setdefault(file_name(scene).casefold(), set()).add(dataset)
    shared = {name for name, datasets in owners.items() if len(datasets) > 1}
    return file_names(f"{own}_{name}" if file_name(name).casefold() in shared else name for own, name in scenes)


def confine(path: Path, root: Path, *, outside: bool, where: str) -> Path:
    """Resolve `path` against `root` and refuse one that leaves `root`, links included, unless `outside`."""
    resolved = (root / path).resolve()
    if not outside and not resolved.is_relative_to(root.resolve()):
        raise CatalogError(f"{where}: {path} leaves the catalogue's folder {root}; add `outside: true` to allow it")
    return resolved


def cache_folder() -> Path:
    """Where generated and derived data are kept: GEOMAE_CACHE, else the XDG cache folder."""
    chosen = os.environ.get("GEOMAE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen).expanduser().resolve() if chosen else base / "geomae"


@dataclass(frozen=True)
class YamlDocument:
    """A YAML mapping as plain Python values, with the line of every key."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def where(self, keys: Sequence[str | int] = ()) -> str:
        """`file:line` of the innermost of `keys` that the document has."""
        known = tuple(keys)
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.path}:{self.lines[known]}" if known else str(self.path)


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML 1.2 mapping.

    Duplicate keys, tags, several documents, broken syntax, values that cannot be and aliases that multiply raise
    ConfigError.
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
                if key in (node.lc.data or ()):  # a key that came by a merge (`<<: *anchor`) has no line of its own
                    lines[(*keys, key)] = node.lc.key(key)[0] + 1
            return {plain(key, keys): plain(value, (*keys, key)) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                lines[(*keys, index)] = node.lc.item(index)[0] + 1
            return [plain(value, (*keys, index)) for index, value in enumerate(node)]
        if isinstance(node, str) and (wrong := NO_TEXT.search(node)):
            where = YamlDocument(path, {}, lines).where(keys)
            raise ConfigError(f"{where}: {wrong[0]!a} stands for no character; write the character that is meant")
        for kind in (bool, int, float, str):  # ruamel's scalars remember their notation; nobody here asks for it
            if isinstance(node, kind):
                return kind(node)
        return node

    return YamlDocument(path, plain(tree, ()), lines)


def storage_remedy(error: OSError) -> str:
    """What helps where something cannot be written."""
    if error.errno == errno.ENAMETOOLONG:
        return "shorten the name, or choose another folder with --out"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check the permissions, or choose another folder with --out"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        return "something of that name is in the way; choose another folder with --out"
    return "make room, or choose another folder with --out"


def flush(path: Path) -> None:
    """Bring a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _yaml_tree(path: Path, text: str) -> Any:
    """What ruamel reads, with the places of keys."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
    from ruamel.yaml.tokens import TagToken

    try:
        tags = [one for one in YAML().scan(text) if isinstance(one, TagToken)] if "!" in text else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # the later one counts, as YAML says
            if "*" in text and _values_for(YAML(typ="rt", pure=True).compose(text), {}) > max(MOST_VALUES, len(text)):
                remedy = f"stand for more than {MOST_VALUES:,} values; use fewer of them"
                raise ConfigError(f"{path}: its aliases (`*`) {remedy}")
            tree = None if tags else YAML(typ="rt", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(_yaml_message(path, error)) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deep; write it flatter") from error
    except ValueError as error:  # a number of thousands of digits, a day that no month has
        problem = str(error).partition(";")[0]
        raise ConfigError(f"{path}: a value cannot be read ({problem}); correct it, or put it in quotes") from error
    if tags:
        raise ConfigError(f"{path}:{tags[0].start_mark.line + 1}: a tag (`!`) is not read here; write plain values")
    return tree


def _values_for(node: Any, known: dict[int, int]) -> int:
    """How many values a node of YAML stands for, each alias counted as what it stands for."""
    if id(node) not in known:
        known[id(node)] = 1  # also while it is counted: an alias may stand within its own anchor
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
    """Numpy scalars, paths, tuples and models as what JSON has; NaN and infinities as None."""
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
        return numbers if value.dtype.kind in "biu" else _plain(numbers)  # what is whole is plain already
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
