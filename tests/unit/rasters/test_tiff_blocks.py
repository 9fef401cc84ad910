"""Blocks of GeoTIFFs are whole or damaged: by the checksum of their pixels as by decoding their streams again."""

import numpy as np
import pytest
import rasterio

from geomae.rasters import tiff_blocks
from geomae.rasters.headers import Header
from geomae.rasters.inspection import inspect_file
from geomae.rasters.measuring import Wanted
from geomae.rasters.opening import describe_dataset
from geomae.rasters.stored import Span, read_stored
from geomae.rasters.tiff_blocks import BlockIndex, describe_damage, index_of_blocks
from geomae.rasters.tiff_directory import read_directory

SIDE = 100
TILED = {"tiled": True, "blockxsize": 32, "blockysize": 48}


def written(path, dtype, count=3, **options):
    rng = np.random.default_rng(0)
    pixels_CHW = rng.integers(0, 200, (count, SIDE, SIDE)).cumsum(axis=2).astype(dtype)
    shape = {"height": SIDE, "width": SIDE, "count": count, "dtype": dtype}
    options |= {"compress": "deflate", "transform": rasterio.Affine(1, 0, 5, 0, -1, 5)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as made:
        made.write(pixels_CHW)
    return path


def opened(path) -> tuple[Header, BlockIndex, np.ndarray]:
    with rasterio.open(path) as dataset, path.open("rb") as file:
        info = describe_dataset(str(path), None, dataset)
        index = index_of_blocks(dataset, info, read_directory(file))
        assert index is not None
        indexes = tuple(range(1, info.count + 1))
        return info, index, read_stored(dataset, info, indexes, Span(0, 0, SIDE, SIDE), ())[0]


def ways():
    for layout in ({}, TILED):
        for interleave in ("pixel", "band"):
            for dtype, predictors in (("uint8", (1, 2)), ("uint16", (1, 2)), ("float32", (1, 2, 3)), ("float64", (3,))):
                for predictor in predictors:
                    yield pytest.param(
                        dtype,
                        {"interleave": interleave, "predictor": predictor, **layout},
                        id=f"{'tiles' if layout else 'strips'}-{interleave}-{dtype}-{predictor}",
                    )


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize(("dtype", "options"), list(ways()))
def test_blocks_whose_pixels_have_the_checksum_are_not_decoded_again(tmp_path, monkeypatch, dtype, options, order):
    path = written(tmp_path / "a.tif", dtype, **options, ENDIANNESS=order)
    _, index, raw_CHW = opened(path)
    again = []
    monkeypatch.setattr(BlockIndex, "_is_whole", lambda self, file, block: not again.append(block))
    everything = Span(0, 0, SIDE, SIDE)
    assert index.damaged(everything, (1, 2, 3), everything, raw_CHW) == []
    planes, rows, cols, _ = index.place.shape
    padded = {(p, r, c) for p in range(planes) for r in range(rows) for c in range(cols) if r == 2 or c == 3}
    assert set(again) == (padded if "tiled" in options else set())


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("indexes", [(1, 2, 3), (3, 1, 2), (2,)], ids=str)
def test_damage_is_found_in_the_checksum_and_in_what_is_decoded(tmp_path, interleave, layout, indexes):
    path = written(tmp_path / "a.tif", "uint16", interleave=interleave, predictor=2, **layout)
    _, index, raw_CHW = opened(path)
    everything, chosen_CHW = Span(0, 0, SIDE, SIDE), raw_CHW[[number - 1 for number in indexes]]
    assert index.damaged(everything, indexes, everything, chosen_CHW) == index.all_damaged() == []
    plane = len(index.place) - 1
    start, length = index.place[plane, 1, 0].tolist()
    whole = path.read_bytes()
    for at in (start + length - 2, start + length // 2, start):
        data = bytearray(whole)
        data[at] ^= 0xFF
        path.write_bytes(data)
        found = inspect_file(Wanted(str(path), tuple((number, 1.0, 0.0) for number in sorted(indexes)), (), False))
        assert index.all_damaged() == [(plane, 1, 0)]
        assert found.kind == "damaged"
        assert f"{path}: {describe_damage([(plane, 1, 0)])}; restore" in str(found.message)
        assert (found.header, found.bands, found.tiles) == (None, (), None)


def test_pixels_that_are_not_those_of_the_stream_are_looked_at_again(tmp_path, monkeypatch):
    """A decoder that goes on after an error must not hide it."""
    path = written(tmp_path / "a.tif", "uint16", predictor=2, **TILED)
    _, index, raw_CHW = opened(path)
    raw_CHW[0, 0, 0] += 1
    everything, again = Span(0, 0, SIDE, SIDE), []
    monkeypatch.setattr(BlockIndex, "_is_whole", lambda self, file, block: bool(again.append(block)))
    assert (0, 0, 0) in index.damaged(everything, (1, 2, 3), everything, raw_CHW)
    assert tiff_blocks.describe_damage([]) is None
