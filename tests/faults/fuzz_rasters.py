"""Damaged rasters against the engine of `geomae catalog check`: `python tests/faults/fuzz_rasters.py`.

Every kind of damage is done to a raster of every format and compression that GDAL writes here, beside two that are
whole. A case ends `named` (the audit or the error names the file), `harmless` (header and pixels are read as they were)
or `changed`: other pixels or another header without a word. That is allowed where nothing in the file could tell,
as in UNTOLD; elsewhere the campaign fails. A number of cases may be given; the figures are printed as JSON.
"""

import json
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from fuzz_bounds import Bounds, Figures
from rasterio.errors import RasterioError

from geomae.errors import GeomaeError
from geomae.randomness import generator
from geomae.rasters.opening import describe_dataset, opened
from geomae.rasters.stored import Span, read_stored

SEED = 0
SIDE, BANDS = 64, 3
LOSSY = ("JPEG", "WEBP")  # compressions of bytes only
COMPRESSIONS = (
    "NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA", "JPEG", "WEBP", "LERC", "LERC_DEFLATE", "LERC_ZSTD",
)  # fmt: skip
DRIVERS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "JP2OpenJPEG": ".jp2"}
# Without a checksum the pixels of a whole file are what stands there; of a format that holds no place, the place stands
# in the side file that was damaged.
UNTOLD = {
    "zeroed tail": {"GTiff NONE", "WEBP", "JP2OpenJPEG"},
    "zeroed middle": {"GTiff NONE", "WEBP"},
    "flipped bit in the data": {
        "GTiff NONE", "GTiff LZW", "GTiff PACKBITS", "GTiff JPEG", "BigTIFF LZW bands", "JPEG", "JP2OpenJPEG",
    },
    "flipped bits at the beginning": {"GTiff PACKBITS"},
    "many flipped bits": {"GTiff NONE"},
    "bytes inserted": {"GTiff NONE"},
    "offsets elsewhere": {"GTiff NONE"},
    "offsets of each other": {"GTiff NONE", "GTiff PACKBITS"},
    "offset of the header": {"GTiff NONE"},
    "another height of a block": {"GTiff NONE", "GTiff JPEG"},
    "blocks of too few bytes": {"GTiff JPEG"},
    "huge blocks": {"GTiff JPEG"},
    "bits of a sample": {"GTiff WEBP"},
    "sent as text": {"WEBP"},
    "side file that is no XML": {"PNG", "JPEG", "WEBP"},
    "side file with overviews outside": {"PNG", "JPEG", "WEBP"},
}  # fmt: skip
Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]
TYPES = {3: "H", 4: "I", 16: "Q"}  # of TIFF, those that are patched


def formats() -> Iterator[tuple[str, str, dict[str, object]]]:
    """(name, suffix, profile) of every way in which GDAL writes a raster here."""
    blocks = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32, "interleave": "pixel"}
    for compression in COMPRESSIONS:
        dtype = "uint8" if compression in LOSSY else "uint16"
        profile = blocks | {"dtype": dtype, "compress": compression}
        yield f"GTiff {compression}", ".tif", profile
    yield "GTiff DEFLATE strips", ".tif", {"driver": "GTiff", "dtype": "float32", "compress": "DEFLATE", "predictor": 3}
    big = {"dtype": "uint16", "compress": "LZW", "BIGTIFF": "YES", "interleave": "band"}
    yield "BigTIFF LZW bands", ".tif", blocks | big
    for driver, suffix in DRIVERS.items():
        yield driver, suffix, {"driver": driver, "dtype": "uint8"}


def _share(low: float, high: float) -> Damage:
    """Nothing is left of the file from a place between two shares of it."""
    return lambda data, rng: data[: int(len(data) * rng.uniform(low, high))]


def _zeroed(low: float, high: float) -> Damage:
    def damage(data: bytes, rng: Rng) -> bytes:
        start, end = int(len(data) * low), int(len(data) * high)
        return data[:start] + bytes(end - start) + data[end:]

    return damage


def _flipped(low: float, high: float, bits: int) -> Damage:
    def damage(data: bytes, rng: Rng) -> bytes:
        changed = bytearray(data)
        for at in rng.integers(int(low * len(data)), max(int(high * len(data)), 8), bits):
            changed[at] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    return damage


def _first_bytes(count: int) -> Damage:
    def damage(data: bytes, rng: Rng) -> bytes:
        return rng.integers(0, 256, count, np.uint8).tobytes() + data[count:]

    return damage


def _middle(change: Callable[[bytes, int, Rng], bytes]) -> Damage:
    return lambda data, rng: change(data, int(rng.integers(len(data) // 4, len(data) // 2)), rng)


VRT = b"""<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">../outside/secret.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
PAGE = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>Log in first</body></html>"
ANYWHERE: dict[str, Damage] = {
    "empty": lambda data, rng: b"",
    "cut in the first bytes": lambda data, rng: data[: int(rng.integers(1, 16))],
    "cut at the beginning": _share(0.02, 0.2),
    "cut in the middle": _share(0.3, 0.7),
    "cut at the end": _share(0.9, 0.99),
    "last byte gone": lambda data, rng: data[:-1],
    "zeroed tail": _zeroed(0.6, 1),
    "zeroed middle": _zeroed(0.4, 0.6),
    "zeroed beginning": _zeroed(0, 0.05),
    "all zero": _zeroed(0, 1),
    "flipped bit in the magic": _flipped(0, 0, 1),
    "flipped bits at the beginning": _flipped(0, 0.02, 3),
    "flipped bit in the data": _flipped(0.5, 0.9, 1),
    "many flipped bits": _flipped(0, 1, 200),
    "random beginning": _first_bytes(64),
    "random bytes": lambda data, rng: rng.integers(0, 256, len(data), np.uint8).tobytes(),
    "bytes inserted": _middle(lambda data, at, rng: data[:at] + bytes(rng.integers(0, 256, 7, np.uint8)) + data[at:]),
    "bytes lost": _middle(lambda data, at, rng: data[:at] + data[at + 7 :]),
    "page lost": _middle(lambda data, at, rng: data[:at] + data[at + 512 :]),
    "garbage behind": lambda data, rng: data + rng.integers(0, 256, 1000, np.uint8).tobytes(),
    "twice": lambda data, rng: data + data,
    "sent as text": lambda data, rng: data.replace(b"\n", b"\r\n"),
    "saved as UTF-8": lambda data, rng: data.decode("utf-8", errors="replace").encode(),
    "seven bits": lambda data, rng: bytes(byte & 127 for byte in data),
    "a web page": lambda data, rng: PAGE,
    "a VRT of a file outside": lambda data, rng: VRT,
    "gzipped": lambda data, rng: zlib.compress(data),
    "halves swapped": lambda data, rng: data[len(data) // 2 :] + data[: len(data) // 2],
}
# Of a TIFF: (tag, what becomes of its values).
TAGS: dict[str, tuple[int, Callable[[list[int], Rng], list[int]]]] = {
    "huge width": (256, lambda old, rng: [0x7FFFFFFF]),
    "huge height": (257, lambda old, rng: [0x7FFFFFFF]),
    "no width": (256, lambda old, rng: [0]),
    "wider by one block": (256, lambda old, rng: [old[0] + 32]),
    "bits of a sample": (258, lambda old, rng: [int(rng.choice([1, 7, 12, 64, 65535]))] * len(old)),
    "another compression": (259, lambda old, rng: [int(rng.choice([1, 2, 5, 7, 8, 32773, 34887, 34925, 50000, 99]))]),
    "another photometric": (262, lambda old, rng: [int(rng.choice([0, 3, 5, 6, 8, 32803]))]),
    "offset beyond the end": (324, lambda old, rng: [*old[:-1], 0xFFFFFFF0]),
    "offsets elsewhere": (324, lambda old, rng: [int(one) for one in rng.integers(0, 5000, len(old))]),
    "offsets of each other": (324, lambda old, rng: old[::-1]),
    "offset of the header": (324, lambda old, rng: [8, *old[1:]]),
    "blocks without bytes": (325, lambda old, rng: [0] * len(old)),
    "blocks of too many bytes": (325, lambda old, rng: [0x7FFFFFFF] * len(old)),
    "blocks of too few bytes": (325, lambda old, rng: [one // 2 for one in old]),
    "many bands": (277, lambda old, rng: [65535]),
    "one band less": (277, lambda old, rng: [old[0] - 1]),
    "bands on planes": (284, lambda old, rng: [3 - old[0]]),
    "another type of sample": (339, lambda old, rng: [int(rng.choice([2, 3, 4, 5, 6, 9]))] * len(old)),
    "no width of a block": (322, lambda old, rng: [0]),
    "huge blocks": (322, lambda old, rng: [65520]),
    "another height of a block": (323, lambda old, rng: [48]),
    "pixels of no size": (33550, lambda old, rng: [0] * len(old)),
}
SIDE_FILES: dict[str, tuple[str, Callable[[bytes, Rng], bytes]]] = {
    "mask that is text": (".msk", lambda data, rng: b"no mask"),
    "mask that is a VRT": (".msk", lambda data, rng: VRT),
    "mask that is cut": (".msk", lambda data, rng: data[: len(data) // 2]),
    "mask that is damaged": (".msk", _flipped(0, 1, 100)),
    "mask of other bands": (".msk", lambda data, rng: data),
    "side file that is no XML": (".aux.xml", lambda data, rng: data[:200]),
    "side file with overviews outside": (".aux.xml", lambda data, rng: (
        b'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">../outside/secret.tif</MDI></Metadata>'
        b"</PAMDataset>"
    )),
    "side file of odd figures": (".aux.xml", lambda data, rng: (
        b"<PAMDataset><GeoTransform>nan,0,inf,1e400,0,x</GeoTransform><SRS>nothing</SRS><PAMRasterBand band='1'>"
        b"<NoDataValue>1e999</NoDataValue><Scale>nan</Scale><Offset>x</Offset></PAMRasterBand></PAMDataset>"
    )),
    "overviews that are damaged": (".ovr", _flipped(0, 1, 100)),
}  # fmt: skip
LINKS: dict[str, Callable[[int, int], int]] = {  # where the directory of the first page says that the next one is
    "pages without end": lambda first, size: first,
    "next page beyond the end": lambda first, size: size + 1000,
    "next page in the pixels": lambda first, size: size // 2,
}
CATALOG = """\
version: 1
datasets:
  rasters:
    path: '*{suffix}'
    sensor:
      - {{name: a, wavelength_um: 0.5, fwhm_um: 0.1}}
      - {{name: b, wavelength_um: 0.6, fwhm_um: 0.1}}
      - {{name: c, wavelength_um: 0.7, fwhm_um: 0.1}}
    bands: [a, b, c]
    tile: {{size: 16}}
"""


class Tiff:
    """The first directory of a TIFF: where the values of each tag are."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        big = data[2] == 43
        self.first = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
        count = struct.unpack_from("<Q" if big else "<H", data, self.first)[0]
        size, start = (20, self.first + 8) if big else (12, self.first + 2)
        self.next, self.link = start + size * count, "<Q" if big else "<I"
        self.tags: dict[int, tuple[str, int]] = {}  # format and place of the values
        for at in range(start, self.next, size):
            tag, kind = struct.unpack_from("<HH", data, at)
            length = struct.unpack_from(self.link, data, at + 4)[0]
            field = at + (12 if big else 8)
            letter = TYPES.get(kind, "Q" if kind == 12 else "B")  # doubles are only ever set to 0
            inside = length * struct.calcsize(letter) <= (8 if big else 4)
            place = field if inside else struct.unpack_from(self.link, data, field)[0]
            self.tags[tag] = (f"<{length}{letter}", place)

    def change(self, tag: int, values: Callable[[list[int], Rng], list[int]], rng: Rng) -> bytes | None:
        """The file with other values of one tag; None where it has not got the tag."""
        tag = {324: 273, 325: 279, 322: 278, 323: 278}.get(tag, tag) if tag not in self.tags else tag  # of strips
        if tag not in self.tags:
            return None
        layout, place = self.tags[tag]
        highest = (1 << 8 * struct.calcsize(layout[-1])) - 1
        old = list(struct.unpack_from(layout, self.data, place))
        struct.pack_into(layout, self.data, place, *(max(0, min(one, highest)) for one in values(old, rng)))
        return bytes(self.data)

    def relink(self, to: int) -> bytes:
        """The file with its next page at a place."""
        struct.pack_into(self.link, self.data, self.next, to)
        return bytes(self.data)


def kinds(name: str) -> list[str]:
    """What is done to a raster of a format."""
    tiff = [*TAGS, *LINKS] if "TIFF" in name.upper() else []
    return [*ANYWHERE, *tiff, *SIDE_FILES]


def damage(path: Path, name: str, kind: str, mask: bytes) -> bool:
    """Damage a raster; says whether there was anything to damage."""
    data, rng = path.read_bytes(), generator(SEED, "damage", name, kind)
    if kind in SIDE_FILES:
        suffix, change = SIDE_FILES[kind]
        path.with_name(path.name + suffix).write_bytes(change(mask, rng))
        return True
    changed: bytes | None
    if kind in TAGS:
        changed = Tiff(data).change(*TAGS[kind], rng)
    elif kind in LINKS:
        changed = Tiff(data).relink(LINKS[kind](Tiff(data).first, len(data)))
    else:
        changed = ANYWHERE[kind](data, rng)
    if changed is None or changed == data:
        return False
    path.write_bytes(changed)
    return True


def write_raster(path: Path, seed: int, profile: dict[str, object], bands: int = BANDS) -> None:
    """Smooth ground with noise, so that every compression has something to do."""
    rng = generator(seed, "pixels")
    rows, cols = np.mgrid[:SIDE, :SIDE]
    ground = 90 + 40 * np.sin(rows / 9 + seed) * np.cos(cols / 7) + rng.integers(0, 9, (bands, SIDE, SIDE))
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 4e5 + 1e4 * seed, 0, -10, 5e6)}
    shape = {"width": SIDE, "height": SIDE, "count": bands}
    with rasterio.open(path, "w", **shape, **place, **profile) as target:
        target.write(ground.astype(str(profile["dtype"])))


def read_whole(path: Path) -> tuple[object, ...]:
    """Everything that decides what is computed from a file: header, pixels and their validity."""
    with opened(str(path), remote=False) as dataset:
        info = describe_dataset(str(path), None, dataset)
        span = Span(0, 0, info.height, info.width)
        raw, valid = read_stored(dataset, info, tuple(range(1, info.count + 1)), span, ())
    facts = (info.shape, info.dtypes, info.nodata, info.crs, info.transform, info.alpha, info.masked)
    return (*facts, raw.tobytes(), valid.tobytes())


def ended(bounds: Bounds, path: Path, before: tuple[object, ...], what: str) -> str:
    """Check the catalogue and say how the damage of `path` came out."""
    outcome = bounds.check(path.with_name("data_catalog.yaml"), (), what)
    text = f"{outcome.error} {outcome.shown} {json.dumps(outcome.audit.get('rasters', {}).get('problems'))}"
    if path.name in text:
        return "named"
    assert outcome.error is None, f"an error that does not name the file: {outcome.error}"
    try:
        return "harmless" if read_whole(path) == before else "changed"
    except (GeomaeError, RasterioError) as error:
        raise AssertionError(f"{what}: cannot be read, and nobody said so") from error


def campaign(cases: int | None, folder: Path) -> Figures:
    """Damage rasters, all ways or so many of them; raises at the first case that leaves its bounds."""
    root, outside = folder / "catalogue", folder / "outside"
    root.mkdir()
    outside.mkdir()
    plain = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "blockxsize": 32, "blockysize": 32}
    write_raster(outside / "secret.tif", 5, plain)
    write_raster(folder / "mask.tif", 6, plain, bands=1)
    mask = (folder / "mask.tif").read_bytes()
    bounds = Bounds(folder, [outside])
    ways = [(*one, kind) for one in formats() for kind in kinds(one[0])]
    chosen = generator(SEED, "cases").permutation(len(ways))[:cases]
    for name, suffix, profile, kind in (ways[at] for at in sorted(chosen.tolist())):
        for old in root.iterdir():
            old.unlink()
        for number, stem in enumerate(("damaged", "whole0", "whole1")):
            write_raster(root / f"{stem}{suffix}", number, profile)
        (root / "data_catalog.yaml").write_text(CATALOG.format(suffix=suffix))
        path = root / f"damaged{suffix}"
        before = read_whole(path)
        if not damage(path, name, kind, mask):
            continue
        outcome = ended(bounds, path, before, f"{name}: {kind}")
        bounds.figures.count(outcome)
        assert outcome != "changed" or name in UNTOLD.get(kind, ()), f"{name}: {kind}: other pixels without a word"
    return bounds.figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(campaign(int(sys.argv[1]) if len(sys.argv) > 1 else None, Path(folder).resolve()).to_json())
