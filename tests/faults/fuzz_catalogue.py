"""Mutated catalogues against the engine of `geomae catalog check`: `python tests/faults/fuzz_catalogue.py 20000`.

Each begins as a catalogue that is right, over small files of every kind that one can name; landscapes, which are drawn
first, and torchgeo, whose import alone takes 870 MiB, are left out. Keys, values, types, nesting and order are changed,
then sometimes the text itself. Which changes is decided by the seed and the number of cases. A fault is shrunk by
hypothesis, and shown with the text of its catalogue; without one the figures are printed as JSON.
"""

import copy
import math
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bounds import Bounds
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from geomae.rasters import write_cog

SEED = 0
TINY = {
    "path": "scenes/*.tif", "sensor": "naip", "bands": ["red", "green", "blue", "nir"], "unit": "reflectance",
    "scale": 0.0001, "offset": 0, "nodata": [0, 65535], "tile": {"size": 8, "stride": 8, "min_valid": 0.5},
}  # fmt: skip
RIGHT: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "tables": TINY | {
        "table": {"path": "scenes.csv", "key": "scene"}, "label": {"column": "cover"}, "domain": {"column": "season"},
        "group": {"column": "site", "folds": "cover"}, "places": {"column": "site"}, "where": "year >= 2020",
        "split": {"group": {"train": 0.5, "test": 0.5}, "seed": 1},
    },
    "layers": TINY | {
        "mask": {"path": "qa/{stem}.tif", "invalid_bits": [1, 3], "invalid_values": [255]},
        "label": {"raster": "lc/{stem}.tif", "classes": {1: "tree", 2: "grass"}, "min_purity": 0.1},
        "split": {"block_km": 0.1, "fractions": {"train": 0.8, "test": 0.2}},
    },
    "listed": {
        "path": ["scenes/s0.tif", "scenes/s1.tif"], "sensor": {"bands": [
            {"name": name, "wavelength_um": 0.5 + i / 10, "fwhm_um": 0.1} for i, name in enumerate("abcd")
        ]},
        "windows": {"table": "windows.csv", "key": "scene", "row": "row", "col": "col", "size": 8},
        "split": {"column": "part"}, "where": "part in ['train', 'test'] and not (site == null)",
    },
    "bands": {
        "path": "bands/{band}/a_{band}.tif", "sensor": "sentinel-2-l2a", "bands": {"B02": "B02", "red": "B04"},
        "gsd_m": 10, "mask": {"band": "SCL", "invalid_values": [3, 8]}, "tile": {"size": 8},
        "split": {"random": {"train": 0.9, "val": 0.1}, "seed": 7},
    },
}  # fmt: skip
# Places within the folder and without, URLs that are refused, and text that means something to glob, shells or GDAL.
PATHS = (
    "scenes/s0.tif", "scenes/*", "*", "**", "**/*.tif", "**/**/**/*", "s*/s?.tif", "odd/*", "odd/*.tif",
    "odd/empty.tif", "odd/text.tif", "odd/vrt.tif", "odd/folder.tif", "odd/pipe.tif", "odd/S[[]1]_*.tif",
    "odd/[!a]*.tif", "odd/[", "[]", "[!]", "links/out.tif", "links/out/*.tif", "links/gone.tif", "links/self/**/*.tif",
    "links/*/*.tif", "links/**", "scenes.csv", "../outside/secret.tif", "../outside/*.tif", "scenes/../../outside/*",
    "*/../../outside/*.tif", "**/../../outside/*", "../catalogue-evil/*.tif", "/etc/passwd", "/dev/zero",
    "/proc/self/environ", "~/x.tif", "$HOME/x.tif", ".", "..", "/", "//", "https://127.0.0.1:9/a.tif",
    "s3://bucket/a.tif", "file:///etc/passwd", "/vsizip/a.zip/a.tif", "/vsicurl/http://x/a.tif", "/vsimem/x",
    "zip://a.zip!a.tif", "GTIFF_DIR:1:scenes/s0.tif", "scenes/s0.tif?x=1", "http://", "s{band}", "{band}.tif",
    "bands/{band}/*_{band}.tif", "bands/*/a_*{band}*.tif", "{band}{band}", "{stem}", "scenes/{stem}.tif",
    "qa/{stem}{stem}.tif", "bands/[{band}]/a.tif", "bands/{band}/[!{band}", "x" * 300, "x/" * 3000, "a\0b.tif",
    "\ud800.tif", "caf\u00e9/*", " ", "\n",
)  # fmt: skip
NAMES = (
    "naip", "sentinel-2-l2a", "landsat-8-oli-c2l2", "red", "B02", "B2", "nir08", "SCL", "train", "test", "all",
    "reflectance", "decibel", "digital_number", "scene", "site", "cover", "year", "row", "part", "label", "split",
    "block", "domain", "tiny",
)  # fmt: skip
FILTERS = (
    "year >= 2020", "site == 'a' or cover != 'tree'", "not not not (year < 1e9)", "year in [2019, 2021, null]",
    "x == 1", "`a b` == 'c'", "year == 'x'", "'a' < site", "year == year", "__class__ == 1", "f(x)", "((((", "a and",
    "year > null", "(" * 60 + "a == 1" + ")" * 60, " or ".join(["year == 1"] * 900), "year == 1e999",
    "year > " + "9" * 400, "a" * 10_001, "\u0441ite == 'a'", "site == '\\", "year == 1; import os",
    "site == 'a' and " * 500 + "year > 1", "site == '\ud800'",
)  # fmt: skip
SELECTORS = (
    "tiny", "tiny@train", "tiny@all", "tables[cover=tree]@train", "tables[cover=tree,site=a]",
    "layers[split=train]@all", "x", "", "@", "tiny@", "@train", "tiny[", "tiny[]", "tiny[a]", "tiny[=]",
    "tiny[a=b]@c@d", "tiny[domain='a,b=c]']", "*", "listed@part", "bands[block=1]", "tiny[label=\ud800]",
    "tiny" * 1000, "tiny[a='b]", "tiny@\0", "../tiny",
)  # fmt: skip


class Raw(str):
    """Text that stands in the catalogue as it is, without quotes."""


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 8, 32, 33, 63, 64, 255, 65535, 2**31, 2**53 + 1, 2**63, 2**64, 2**70, -(2**63),
    0.5, 0.1, -0.0, 1.0, 1e-9, 1e-320, 1e9, 1e300, -1e300, math.nan, math.inf, -math.inf, "", "a", "0", "true", "null",
    "é", "日本", "\u202e", "\U0001f600", "\ud83d", "a\0b", "a\nb", "x" * 5000, [], {}, [[]], [None], {"a": 1},
    [1, "a", None], {"column": "site"}, {1: 2}, {"": ""}, {"train": 1.0}, {"train": 0.5, "test": 0.5},
    {"red": 1, "nir": 0.5}, Raw("1" * 5000), Raw("0o17"), Raw("2020-01-01"), Raw("2020-99-99"),
    Raw("!!python/object/apply:os.system [x]"), Raw("!a b"), Raw("*nowhere"), Raw("&a [*a]"), Raw("&a {b: *a}"),
    Raw("? [a, b] : c"), Raw("{? [a, b] : c}"), Raw("{<<: 1}"), Raw("{<<: &m {size: 8}}"), Raw("|"), Raw(">-\n"),
    Raw("'"), Raw('"\\ud800"'), Raw("1e400"), Raw("0x" + "f" * 300), Raw("1:30:00"), Raw("-"), Raw("~"),
    Raw("[" * 300), Raw("]"), Raw("{a: 1, a: 2}"), Raw("@x"), Raw("`x`"), Raw("%x"), Raw("12:30"), Raw("1_000"),
    Raw(".inf"), Raw("\t"), Raw("\ufeff"),
)  # fmt: skip
KEYS = (
    "path", "sensor", "bands", "unit", "scale", "offset", "gsd_m", "nodata", "mask", "tile", "windows", "table",
    "label", "split", "group", "places", "domain", "where", "remote", "description", "stac", "cube", "sample", "args",
    "size", "stride", "min_valid", "key", "row", "col", "column", "folds", "raster", "classes", "folder", "vector",
    "invalid_bits", "band", "invalid_values", "block_km", "fractions", "random", "seed", "name", "wavelength_um",
    "fwhm_um", "common_name", "source", "polarisation", "scenes", "version", "default", "datasets", "", "Path",
    "path ", "\u0440ath", "<<", "__class__",
)  # fmt: skip
BOMB = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 'a, a, a'}]\n" for i in range(9))
TEXTS = (
    BOMB, "\0", "\t", "\ufeff", "---\n", "...\n", "# \u202e\n", "%YAML 1.1\n", "!!set {a}\n", "? a\n", "- a\n",
    "<<: *x\n", "x: &x {}\n", "'", '"', "{", "}", "[", "]", ":", ",", "&", "*", "\r", "\x85", "\u2028", "\x1b[31m",
    "|\n", ": : :", "\ud800", "version: 1\n",
)  # fmt: skip


def mutated(choose: random.Random) -> tuple[bytes, list[str], bool]:
    """One catalogue, the selectors that are asked for, and whether it may leave its folder."""
    names = choose.sample(sorted(RIGHT), choose.choice([1, 1, 1, 1, 2]))
    tree: dict[Any, Any] = {"version": 1, "datasets": {name: copy.deepcopy(RIGHT[name]) for name in names}}
    for _ in range(choose.choice([0, 1, 1, 1, 1, 2, 2, 3])):
        _change(tree, names, choose)
    text = _top(tree)
    for _ in range(choose.choice([0] * 8 + [1, 2])):
        text = _change_text(text, choose)
    selectors = [] if choose.random() < 0.85 else [choose.choice(SELECTORS) for _ in range(choose.choice([1, 1, 2]))]
    data = text.encode("utf-8", errors="surrogatepass")
    if choose.random() < 0.02:
        data = text.encode("utf-16", errors="replace")
    return data, selectors, "outside" in text


def _change(tree: dict[Any, Any], names: list[str], choose: random.Random) -> None:
    """One change at one place, mostly within a data set."""
    places = list(_places(tree["datasets"] if isinstance(tree.get("datasets"), dict) else tree))
    if choose.random() < 0.05 or not places:
        places = [(tree, key) for key in tree]
    if not places:
        return
    holder, key = choose.choice(places)
    kind = choose.choice(("odd", *["fitting"] * 8, "remove", "rename", "add", "wrap", "swap", "twice"))
    if kind == "odd":
        holder[key] = copy.deepcopy(choose.choice(ODD))
    elif kind == "fitting":
        holder[key] = _fitting(holder, key, choose)
    elif kind == "remove":
        del holder[key]
    elif kind == "wrap":
        holder[key] = choose.choice(([holder[key]], {choose.choice(KEYS): holder[key]}, [holder[key]] * 3))
    elif kind == "swap":
        other, other_key = choose.choice(places)
        holder[key] = copy.deepcopy(other.get(other_key) if isinstance(other, dict) else None)
    elif kind == "twice" and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder) * choose.choice([1, 50]))
    elif isinstance(holder, dict):
        value = holder.pop(key) if kind == "rename" else copy.deepcopy(choose.choice((*ODD, TINY["tile"])))
        holder[choose.choice((*KEYS, 1, None, 0.5, *names))] = value


def _fitting(holder: Any, key: Any, choose: random.Random) -> Any:
    """Another value of about the kind that belongs there, so that it is not refused at the door."""
    value = holder[key]
    if key == "where":
        return choose.choice(FILTERS)
    if isinstance(value, str):
        is_path = key in ("path", "table", "raster") or "/" in value
        text = choose.choice(PATHS if is_path else NAMES)
        return text if choose.random() < 0.8 else _change_text(value, choose)
    if isinstance(value, (int, float)):
        return choose.choice([one for one in ODD if isinstance(one, (int, float)) and not isinstance(one, bool)])
    if isinstance(value, list) and value:
        return choose.choice([value[::-1], value[:1], value * 2, [*value, None], choose.sample(PATHS, 3)])
    return copy.deepcopy(choose.choice(ODD))


def _places(node: Any) -> Any:
    """Every (mapping or list, key) below a node."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


def _change_text(text: str, choose: random.Random) -> str:
    at = choose.randrange(len(text) + 1)
    kind = choose.choice(("insert", "insert", "cut", "drop", "line", "letter"))
    if kind == "insert":
        return text[:at] + choose.choice(TEXTS) + text[at:]
    if kind == "cut":
        return text[:at]
    if kind == "drop":
        return text[:at] + text[at + choose.choice([1, 2, 10]) :]
    if kind == "letter":
        return text[:at] + chr(choose.choice([0, 9, 32, 45, 58, 127, 233, 0x2028, 0xFFFF, 0x1F600])) + text[at + 1 :]
    lines = text.splitlines(keepends=True)
    return "".join([*lines, *choose.sample(lines, min(2, len(lines)))])


def _top(tree: dict[Any, Any]) -> str:
    """YAML, with a line for each key of the top, each data set and each of its keys."""
    lines = []
    for key, value in tree.items():
        if not isinstance(value, dict) or not value:
            lines.append(f"{_written(key)}: {_written(value)}")
            continue
        lines.append(f"{_written(key)}:")
        for name, entry in value.items():
            if not isinstance(entry, dict) or not entry:
                lines.append(f"  {_written(name)}: {_written(entry)}")
                continue
            lines += [f"  {_written(name)}:", *(f"    {_written(k)}: {_written(v)}" for k, v in entry.items())]
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)}: {_written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, str):
        plain = value.isascii() and value.isalnum() and value[:1].isalpha()
        return value if plain else '"' + "".join(_escaped(letter) for letter in value) + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return "null" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if " " <= letter < "\ud800" and letter != "\x7f" else f"\\U{ord(letter):08x}"


def write_files(folder: Path) -> list[Path]:
    """Everything that the catalogues name, and the decoys outside; gives the folders of these."""
    rng = np.random.default_rng(0)

    def raster(path: Path, bands: int, dtype: str = "uint16", high: int = 4000, number: int = 0) -> None:
        pixels = rng.integers(1, high, (bands, 24, 24)).astype(dtype)
        write_cog(path, pixels, crs="EPSG:32632", transform=(10.0, 0.0, 4e5 + 1000 * number, 0.0, -10.0, 5e6))

    for number, stem in enumerate(("s0", "s1", "s2")):
        raster(folder / f"scenes/{stem}.tif", 4, number=number)
        raster(folder / f"qa/{stem}.tif", 1, "uint8", 2, number=number)
        raster(folder / f"lc/{stem}.tif", 1, "uint8", 4, number=number)
    for band in ("B02", "B04", "SCL"):
        raster(folder / f"bands/{band}/a_{band}.tif", 1)
    odd, links, outside = folder / "odd", folder / "links", folder.parent / "outside"
    for name in ("S[1]_a.tif", "b{band}.tif", "é.tif", os.fsdecode(b"caf\xe9.tif")):
        raster(odd / "x.tif", 4)
        (odd / "x.tif").rename(odd / name)
    (odd / "folder.tif").mkdir()
    (odd / "empty.tif").touch()
    (odd / "text.tif").write_text("no raster")
    (odd / "vrt.tif").write_text(
        '<VRTDataset rasterXSize="24" rasterYSize="24"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        "<SourceFilename>../../outside/secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    os.mkfifo(odd / "pipe.tif")
    raster(outside / "secret.tif", 4)
    (outside / "secret.csv").write_text("scene,secret\ns0,1\n")
    raster(folder.parent / "catalogue-evil/secret.tif", 4)
    links.mkdir()
    for name, target in {"out.tif": outside / "secret.tif", "out": outside, "gone.tif": "nothing", "self": "."}.items():
        (links / name).symlink_to(target)
    rows = "s0,2019,a,tree,wet\ns1,2020,b,grass,dry\ns2,2021,,tree,\n"
    (folder / "scenes.csv").write_text(f"scene,year,site,cover,season\n{rows}")
    corners = [(n, row, col) for n in (0, 1) for row in (0, 8, 16) for col in (0, 9)]
    places = [f"s{n},{row},{col},{'train' if row else 'test'},a\n" for n, row, col in corners]
    (folder / "windows.csv").write_text("scene,row,col,part,site\n" + "".join(places))
    return [outside, folder.parent / "catalogue-evil"]


def campaign(cases: int, folder: Path) -> Bounds:
    """Check so many catalogues; raises at the first that leaves its bounds."""
    root = folder / "catalogue"
    root.mkdir()
    bounds = Bounds(folder, write_files(root))

    @seed(SEED)
    @settings(
        max_examples=cases, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.randoms(use_true_random=False))
    def check(choose: random.Random) -> None:
        data, selectors, outside = mutated(choose)
        note(f"{data!r}\nselectors: {selectors!r}")
        (root / "data_catalog.yaml").write_bytes(data)
        outcome = bounds.check(root / "data_catalog.yaml", selectors, repr(data), outside=outside)
        bounds.figures.count("passed" if outcome.error is None else "refused")

    check()
    return bounds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(campaign(int(sys.argv[1]), Path(folder).resolve()).figures.to_json())
