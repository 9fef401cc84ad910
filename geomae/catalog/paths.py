"""Find the files that match a catalogue's patterns, confine them to its folder, and group them by scene.

The files of a scene have the same path apart from the band. To find it, the band's token is removed with the separator
before it (at the beginning of a name, the one after it). Marks of resolution, which differ between the bands of a
product, are removed too: a folder `R10m`, and `_10m` after the band. So
`X.SAFE/GRANULE/L2A/IMG_DATA/R10m/T32_B02_10m.jp2` becomes `X.SAFE/GRANULE/L2A/IMG_DATA/T32`. If nothing is left of the
name (`scene/B02.tif`), the scene gets the name of its folder. Of several resolutions of a band, the finest is used.
"""

import difflib
import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from geomae.catalog.catalog import Catalog
from geomae.catalog.foreign_formats import foreign_by_name
from geomae.catalog.patterns import escape_pattern, static_parts, token_expression
from geomae.catalog.schema import BAND
from geomae.errors import CatalogError
from geomae.files import confine

SCHEMES = ("s3", "gs", "https")
SHOWN = 6  # names that a message lists
SEPARATORS = "_. -"
RESOLUTION_FOLDER = re.compile(r"R(\d+)m")
RESOLUTION_NAME = re.compile(rf"[{SEPARATORS}](\d+)m(?![A-Za-z0-9])")
UNKNOWN_M = 1 << 30  # resolution of a file whose path does not give it


def is_url(path: str) -> bool:
    """Whether a path is a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def local_path(folder: str | Path, href: str) -> str:
    """The path of a file that STAC names by a relative `href` or by `file://`; it need not exist.

    A relative href is taken as written if there is such a file, else with its percent-escapes decoded (`%20`), by
    which many programs write it, since a href is a URI.
    """
    if href.startswith("file://"):
        return unquote(urlsplit(href).path)
    path = os.path.join(folder, href)  # noqa: PTH118  # a million assets
    if "%" not in href or os.path.exists(path):  # noqa: PTH110
        return path
    decoded = os.path.join(folder, unquote(href))  # noqa: PTH118
    return decoded if os.path.exists(decoded) else path  # noqa: PTH110


def is_loopback(url: str) -> bool:
    """Whether a URL is that of a local server, the only kind that is allowed without encryption."""
    return re.match(r"http://127\.0\.0\.1(:\d+)?/", url) is not None


def static_folder(catalog: Catalog, pattern: str) -> str:
    """The folder of a pattern before its first wildcard; it does not depend on which files exist."""
    if is_url(pattern):
        return "/".join(static_parts(pattern.split("/")))
    return str(catalog.folder.joinpath(*static_parts(PurePosixPath(_own_part(catalog, pattern)).parts)))


def common_folder(folders: Sequence[str]) -> str:
    """The innermost folder that contains all of these."""
    parts = [folder.split("/") for folder in folders]
    shared = zip(*parts, strict=False)
    return "/".join(level[0] for level in _while_equal(shared))


def find_files(catalog: Catalog, dataset: str, pattern: str, *keys: str | int, folders: bool = False) -> list[str]:
    """Sorted paths of the files, and with `folders` also of folders, that match a pattern; may be empty.

    A URL is returned as it is and must not have wildcards. Raises CatalogError, at the line of `keys`, for a path
    outside the catalogue's folder, for a URL without `remote: true`, and for a link to a missing file.
    """
    if is_url(pattern):
        return [checked_url(catalog, dataset, pattern, *keys)]
    place, outside = catalog.place(dataset, *keys), catalog.entry(dataset).outside
    pattern = _own_part(catalog, pattern)
    start = static_folder(catalog, pattern).removeprefix(f"{catalog.folder}/")
    confine(Path(start), catalog.folder, outside=outside, where=place)
    exact = _is_file(catalog.folder / pattern) or (folders and _is_folder(catalog.folder / pattern))
    # Path.glob neither takes absolute patterns nor follows links to folders
    names = [pattern] if exact else glob.glob(pattern, root_dir=catalog.folder, recursive=True)  # noqa: PTH207
    below: dict[str, list[str]] = {}
    for name in names:
        folder, slash, own = name.rpartition("/")
        below.setdefault(folder + slash, []).append(own)
    paths: list[str] = []
    for folder, owns in below.items():
        plain = _plain_files(catalog.folder / folder)
        found = [own for own in owns if own in plain]
        if found:  # all are in the same folder, so one check suffices
            confine(Path(folder + found[0]), catalog.folder, outside=outside, where=place)
            start = str(catalog.folder / folder).rstrip("/")
            paths += [f"{start}/{own}" for own in found]
        for own in owns if len(found) < len(owns) else ():
            path = catalog.folder / folder / own
            if own in plain:
                continue
            confine(Path(folder + own), catalog.folder, outside=outside, where=place)
            if path.is_symlink() and not path.exists():
                raise CatalogError(
                    f"{place}: {folder}{own} is a link to a file that is not there; fetch it or correct the pattern"
                )
            if path.is_file() or (folders and path.is_dir()):
                paths.append(str(path))
    return sorted(set(paths))


def require_file(catalog: Catalog, dataset: str, path: str, *keys: str | int) -> str:
    """Return the path of a file, given relative to the catalogue. Raises CatalogError where it does not exist.

    A URL is checked against the rules of the entry, but not opened.
    """
    if is_url(path):
        return checked_url(catalog, dataset, path, *keys)
    place = catalog.place(dataset, *keys)
    confine(Path(path), catalog.folder, outside=catalog.entry(dataset).outside, where=place)
    if not _is_file(catalog.folder / path):
        there, remedy = holds(str(catalog.folder / path)), _likely(catalog.folder / path)
        raise CatalogError(f"{place}: there is no file {path!r}; {there}; {remedy}")
    return str(catalog.folder / path)


def checked_url(catalog: Catalog, dataset: str, url: str, *keys: str | int) -> str:
    """Return `url`. Raises CatalogError where the entry does not allow it, or it has wildcards."""
    place = catalog.place(dataset, *keys)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES and not is_loopback(url):
        raise CatalogError(f"{place}: {url!r} is none of {', '.join(SCHEMES)}; use one of these or a local path")
    if not catalog.entry(dataset).remote:
        raise CatalogError(f"{place}: {url!r} is not on this machine; add `remote: true` to allow it")
    if re.search(r"[*?\[]", url):
        raise CatalogError(f"{place}: {url!r} has a wildcard, and remote folders are not listed; list the files")
    return url


def no_file_error(catalog: Catalog, dataset: str, pattern: str, *keys: str | int) -> CatalogError:
    """The error for a pattern that matches no file: the line, the pattern, and what the folder holds instead."""
    remedy = "correct the pattern"
    folders = [pattern] if _is_folder(catalog.folder / pattern) else _matches(catalog, pattern)
    if folders and (foreign := foreign_by_name(folders[0])):
        return CatalogError(f"{catalog.place(dataset, *keys)}: {folders[0]} {foreign}")
    folder, _, name = pattern.rpartition("/")
    if _is_folder(catalog.folder / pattern):
        remedy = f"name the files in it, as in {escape_pattern(pattern.rstrip('/'))}/*.tif"
    elif "[" in folder and _is_folder(catalog.folder / folder):
        remedy = f"a bracket is a wildcard, so write {escape_pattern(folder)}/{name} for the folder of this name"
    there = holds(static_folder(catalog, pattern) + "/x")
    return CatalogError(f"{catalog.place(dataset, *keys)}: no file matches {pattern!r}; {there}; {remedy}")


def _matches(catalog: Catalog, pattern: str) -> list[str]:
    """Sorted names of the files and folders that a pattern matches."""
    return sorted(glob.glob(pattern, root_dir=catalog.folder, recursive=True))  # noqa: PTH207


def holds(path: str) -> str:
    """Describe the contents of the innermost existing folder of `path`, for a message."""
    folder = Path(path).parent
    while not _is_folder(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"
    if not names:
        return f"{folder} is empty"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN])}{more}"


def _likely(path: Path) -> str:
    """The remedy for a missing file: suggest the file in its folder with the most similar name, if any."""
    close = difflib.get_close_matches(path.name, [one.name for one in path.parent.glob("*")], n=1)
    return f"did you mean {close[0]!r}?" if close else "correct the path"


@dataclass(frozen=True)
class BandScene:
    """The files of one scene by token; `path` is the common path without bands and suffix."""

    path: str
    files: Mapping[str, str]


def find_band_scenes(catalog: Catalog, dataset: str, tokens: Sequence[str]) -> list[BandScene]:
    """Find the scenes of `path` patterns with {band}; each has one file for each of `tokens`.

    Raises CatalogError where a pattern matches nothing, where a scene lacks bands, and where a band has two files.
    """
    place = catalog.place(dataset, "path")
    scenes: dict[str, dict[str, _Candidate]] = {}
    for pattern in catalog.entry(dataset).paths:
        matched = False
        for token in tokens:
            for scene, candidate in _candidates(catalog, dataset, pattern, token):
                matched = True
                known = scenes.setdefault(scene, {}).get(token)
                if known and known.path != candidate.path and known.resolution_m == candidate.resolution_m:
                    two = f"{known.path} and {candidate.path}"
                    raise CatalogError(f"{place}: band {token!r} of one scene has two files, {two}; narrow the pattern")
                if known is None or candidate.resolution_m < known.resolution_m:
                    scenes[scene][token] = candidate
        if not matched:
            listed = ", ".join(tokens[:3]) + (", ..." if len(tokens) > 3 else "")
            error = no_file_error(catalog, dataset, pattern, "path")
            raise CatalogError(
                f"{error} (with {listed} in place of {BAND}; give other tokens in `bands: {{name: token}}`)"
            )
    _check_complete(scenes, tokens, place)
    return [BandScene(path, {token: files[token].path for token in tokens}) for path, files in scenes.items()]


def _plain_files(folder: Path) -> set[str]:
    """Names of the regular files (not links) of a folder, by one listing; empty where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()


def _is_file(path: Path) -> bool:
    """Whether a file exists. Unlike `Path.is_file`, returns False for a name that is too long for any disk."""
    return os.path.isfile(path)  # noqa: PTH113


def _is_folder(path: Path) -> bool:
    """Whether a folder exists; False for a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112


def _while_equal(levels: "zip[tuple[str, ...]]") -> list[tuple[str, ...]]:
    equal = []
    for level in levels:
        if len(set(level)) > 1:
            break
        equal.append(level)
    return equal


@dataclass(frozen=True)
class _Candidate:
    path: str
    resolution_m: int


def _candidates(catalog: Catalog, dataset: str, pattern: str, token: str) -> list[tuple[str, _Candidate]]:
    """The files of one band, each with the path of its scene."""
    prefix, written = "", token
    if not is_url(pattern):
        prefix, written = f"{catalog.folder}/", glob.escape(token)
        pattern = str(PurePosixPath(_own_part(catalog, pattern)))
    expression = token_expression(pattern, token)
    candidates = []
    for path in find_files(catalog, dataset, pattern.replace(BAND, written), "path"):
        name = path.removeprefix(prefix)
        match = expression.fullmatch(name)
        if match:
            scene, resolution_m = _scene_path(name, [match.span(index + 1) for index in range(pattern.count(BAND))])
            scene = scene or "scene"  # of `{band}.tif` in the catalogue's folder, nothing is left
            candidates.append((scene if scene.startswith("/") else prefix + scene, _Candidate(path, resolution_m)))
    return candidates


def _own_part(catalog: Catalog, pattern: str) -> str:
    """Remove the catalogue's folder, whose characters are not wildcards, from the beginning of a pattern."""
    for folder in (str(catalog.folder), escape_pattern(str(catalog.folder))):
        if pattern.startswith(f"{folder}/"):
            return pattern[len(folder) + 1 :]
    return pattern


def _scene_path(path: str, spans: Sequence[tuple[int, int]]) -> tuple[str, int]:
    """The path of a band file's scene, and the resolution in metres from its path (UNKNOWN_M without one)."""
    resolution_m = UNKNOWN_M
    folder_end = path.rfind("/") + 1
    in_name = [end for start, end in spans if start >= folder_end]
    stem_end = path.rfind(".") if path.rfind(".") >= max([folder_end, *in_name]) else len(path)
    cuts = [_with_separator(path, span, stem_end) for span in spans]
    if in_name and (mark := RESOLUTION_NAME.search(path, in_name[0], stem_end)):
        resolution_m = int(mark.group(1))
        cuts.append(mark.span())
    kept = "".join(
        letter for at, letter in enumerate(path[:stem_end]) if not any(start <= at < end for start, end in cuts)
    )
    *folders, name = kept.split("/")
    for folder in folders:
        if (mark := RESOLUTION_FOLDER.fullmatch(folder)) and resolution_m == UNKNOWN_M:
            resolution_m = int(mark.group(1))
    parts = [part for part in folders if part and not RESOLUTION_FOLDER.fullmatch(part)]
    scene = "/".join([*parts, name] if name else parts)
    return f"/{scene}" if path.startswith("/") else scene, resolution_m


def _with_separator(path: str, span: tuple[int, int], stem_end: int) -> tuple[int, int]:
    """The span of a token including the separator before it, else the one after it."""
    start, end = span
    if start and path[start - 1] in SEPARATORS:
        return start - 1, end
    return (start, end + 1) if end < stem_end and path[end] in SEPARATORS else (start, end)


def _check_complete(scenes: Mapping[str, Mapping[str, object]], tokens: Sequence[str], place: str) -> None:
    lacking = {scene: [token for token in tokens if token not in files] for scene, files in scenes.items()}
    lacking = {scene: missing for scene, missing in sorted(lacking.items()) if missing}
    if lacking:
        scene, missing = next(iter(lacking.items()))
        more = f" ({len(lacking) - 1} more scenes lack some)" if len(lacking) > 1 else ""
        raise CatalogError(
            f"{place}: scene {scene} has no file for {', '.join(missing)}{more}; add the files or leave the bands out"
        )
