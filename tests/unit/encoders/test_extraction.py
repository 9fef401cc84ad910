"""Extraction puts every tile through its encoder, whatever interrupts it, and names what is wrong.

B tiles, C bands, H W pixels, N patches, D width
"""

import itertools
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import CATALOG, as_ranks, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.embeddings import open_embeddings, store
from geomae.encoders.extraction import EncoderTiles, extract
from geomae.errors import ConfigError, GeomaeError, StorageError
from geomae.runtime.devices import build_fabric
from geomae.runtime.signals import Stop
from geomae.sensors import sensor
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader

BANDS = tuple(sensor("naip").band(name) for name in ("nir", "red"))
SIDE = 8  # of a patch, in pixels


@dataclass(frozen=True)
class Means:
    """The mean of each band in each patch; `spoil` changes the embeddings of a batch."""

    digest: str = "means"
    notes: tuple[str, ...] = ("takes the pixels as they are",)
    bands = BANDS
    text = "means"
    gsd_m = None
    spoil: object = None

    def patch_grid(self, height, width):
        return height // SIDE, width // SIDE

    def embed(self, pixels_BCHW, valid_BCHW=None):
        B, C, H, W = pixels_BCHW.shape
        patches_BND = pixels_BCHW.reshape(B, C, H // SIDE, SIDE, W // SIDE, SIDE).mean((3, 5)).flatten(2).mT
        tile_BD = torch.cat([patches_BND.mean(1), patches_BND.amax(1)], dim=1)
        return (self.spoil or (lambda *both: both))(tile_BD, patches_BND)


@pytest.fixture(scope="module")
def index(tiny_catalog):
    return build_index(open_catalog(tiny_catalog), "tiny")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 12)  # so that 64 tiles are several chunks, the last one short
    monkeypatch.setattr("geomae.encoders.extraction.BATCH_PIXELS", {"cpu": 5 * 16 * 16})


def run(parts, out, **options):
    given = {"attributes": {"data_digest": "d"}, "fabric": build_fabric("cpu", 1, 1, "auto"), "precision": "32"}
    return extract(parts, out, **(given | options))


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def expected(index, positions=None):
    pixels, valid = TileReader(index, 0, ["nir", "red"]).many(positions or range(len(index)))
    return Means().embed(torch.from_numpy(pixels), torch.from_numpy(valid))


@pytest.mark.parametrize("threads", [0, 3])
def test_every_tile_is_embedded_in_order(index, tmp_path, threads):
    heard = []
    done = run(
        [EncoderTiles(Means(), index)], tmp_path, patches=True, threads=threads, progress=lambda *one: heard.append(one)
    )
    assert (done.path, done.computed) == (tmp_path / "embeddings.zarr", 64)
    dataset = open_embeddings(done.path)
    tile_BD, patches_BND = expected(index)
    np.testing.assert_array_equal(dataset["embedding"], tile_BD)
    np.testing.assert_array_equal(dataset["patch_embedding"], patches_BND.half().reshape(64, 2, 2, 2))
    assert dataset["tile_id"].values.tolist() == index.tiles["tile_id"].tolist()
    assert dataset.attrs["encoder_digest"] == "means"
    assert dataset.attrs["notes"] == ["takes the pixels as they are"]
    assert [done for _, done, _, _ in heard] == sorted(done for _, done, _, _ in heard)
    assert heard[-1][:3] == ("embedding", 64, 64)
    assert "tiles/s" in heard[-1][3]


def test_parts_with_encoders_of_their_own_stand_one_after_the_other(index, tmp_path):
    few = index.take(np.arange(7))
    run([EncoderTiles(Means("a"), few), EncoderTiles(Means("b"), index)], tmp_path)
    dataset = open_embeddings(tmp_path)
    np.testing.assert_array_equal(dataset["embedding"], torch.cat([expected(index)[0][:7], expected(index)[0]]))
    assert dataset.attrs["encoder_digest"] not in ("a", "b")


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_tiles_and_give_the_bytes_of_one(index, tmp_path, monkeypatch, ranks):
    looked = store.StoreWriter.missing

    def late(writer):  # a rank may look only when others have written
        if threading.current_thread().name.endswith("_1"):
            time.sleep(0.3)
        return looked(writer)

    monkeypatch.setattr(store.StoreWriter, "missing", late)
    parts = [EncoderTiles(Means(), index)]
    run(parts, tmp_path / "one", patches=True)
    monkeypatch.setattr("geomae.encoders.extraction.gather_objects", lambda fabric, own: fabric.exchange(own))
    embedded = [0] * ranks

    def work(rank, exchange):
        def count(*both):
            embedded[rank] += len(both[0])
            return both

        fabric = SimpleNamespace(
            world_size=ranks, global_rank=rank, is_global_zero=rank == 0, device=torch.device("cpu"), exchange=exchange,
            broadcast=lambda own: exchange(own)[0], barrier=lambda: exchange(None),
        )  # fmt: skip
        return run([EncoderTiles(Means(spoil=count), index)], tmp_path / "all", patches=True, fabric=fabric)

    assert {done.path for done in as_ranks(ranks, work)} == {tmp_path / "all/embeddings.zarr"}
    assert content(tmp_path / "all") == content(tmp_path / "one")
    assert min(embedded) >= 12 and sum(embedded) < 64 + 3 * ranks  # and of each a tile of zeros for its shape


def test_stopped_at_any_batch_and_gone_on_with_it_ends_with_the_same_bytes(index, tmp_path):
    parts = [EncoderTiles(Means(), index)]
    run(parts, tmp_path / "whole", patches=True)
    for batch in itertools.count(1):
        stop = Stop()
        count = itertools.count(1)

        def progress(*_, stop=stop, count=count, batch=batch):
            stop.signal = 15 if next(count) == batch else stop.signal

        if run(parts, tmp_path / "cut", patches=True, stop=stop, progress=progress) is not None:
            break
        assert not (tmp_path / "cut" / "embeddings.zarr").exists()
    assert batch > 3
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_finished_store_is_taken_as_it_is_and_never_mixed_up(index, tmp_path):
    run([EncoderTiles(Means(), index)], tmp_path)
    before = content(tmp_path)
    assert run([EncoderTiles(Means(), index)], tmp_path).computed == 0
    for parts, options, named in (
        ([EncoderTiles(Means("other"), index)], {}, "encoder_digest (means there, other here)"),
        ([EncoderTiles(Means(), index.take(np.arange(9)))], {}, "tiles_digest"),
        ([EncoderTiles(Means(), index)], {"precision": "bf16"}, "precision (32 there, bf16 here)"),
    ):
        with pytest.raises(StorageError) as caught:
            run(parts, tmp_path, **options)
        assert named in str(caught.value)
    assert content(tmp_path) == before


def test_embeddings_that_are_not_finite_are_named_and_nothing_is_published(index, tmp_path):
    bright = expected(index)[0][:, 0] > expected(index)[0][:, 0].median()

    def spoil(tile_BD, patches_BND):
        median = expected(index)[0][:, 0].median()
        return tile_BD.masked_fill((tile_BD[:, :1] > median), float("nan")), patches_BND

    with pytest.raises(GeomaeError) as caught:
        run([EncoderTiles(Means(spoil=spoil), index)], tmp_path)
    first = index.tiles["tile_id"][np.flatnonzero(bright)[0]]
    for part in (f"tiny {first}", "not finite", "more of this chunk", "nothing was published"):
        assert part in str(caught.value)
    assert not (tmp_path / "embeddings.zarr").exists()


def test_patches_beyond_float16_are_an_error(index, tmp_path):
    with pytest.raises(GeomaeError, match=r"beyond what float16 holds: tile tiny .* leave --patches out"):
        run([EncoderTiles(Means(spoil=lambda tile, patches: (tile, patches * 1e6)), index)], tmp_path, patches=True)


def test_parts_that_cannot_share_a_store_are_refused(index, tmp_path):
    wide = Means(spoil=lambda tile, patches: (tile.repeat(1, 2), patches))
    with pytest.raises(ConfigError, match=r"4 features; .* 8; embed these data sets one at a time"):
        run([EncoderTiles(Means(), index), EncoderTiles(wide, replace(index, name="other"))], tmp_path)
    write_scenes(tmp_path / "scenes", scenes=1)
    catalog = write_catalog(tmp_path, CATALOG.replace("size: 16", "size: 32"))
    large = build_index(open_catalog(catalog), "tiny")
    parts = [EncoderTiles(Means(), index), EncoderTiles(Means(), large)]
    with pytest.raises(ConfigError, match="--patches needs tiles of one size"):
        run(parts, tmp_path / "out", patches=True)
    run(parts, tmp_path / "out")  # without patches, tiles of two sizes are no trouble
    np.testing.assert_array_equal(open_embeddings(tmp_path / "out")["embedding"][64:], expected(large)[0])
