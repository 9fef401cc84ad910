"""The embedding store: whole or absent, the same bytes after any interruption, and readable by xarray as it is."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray

from geomae import open_embeddings
from geomae.embeddings import batches
from geomae.embeddings.store import ABOUT, CHUNK, FINISHED, PARTIAL, StoreSpec, StoreWriter, begin
from geomae.errors import StorageError

TILES, FEATURES, PATCHES = 2 * CHUNK + 44, 6, (2, 3, 4)


def plan(tiles=TILES, patches=None, **attributes):
    texts = {name: np.array([f"{name}-é{k % 7}" for k in range(tiles)]) for name in ABOUT}
    numbers = {name: np.arange(tiles) for name in ("row", "col", "size")}
    floats = {name: np.full(tiles, np.nan) for name in ("x", "y", "valid_share")}
    columns = texts | numbers | floats | {"label": np.full(tiles, "")}
    known = {"encoder": "e", "encoder_digest": "abc", "data_digest": "d", "layer": 6, "pooling": "mean"}
    return StoreSpec(columns, FEATURES, patches, known | {"precision": "32", "notes": ["one", "two"]} | attributes)


def vectors(rows):
    tiles = np.arange(rows.start, rows.stop, dtype=np.float32)
    embedding = tiles[:, None] * np.arange(FEATURES, dtype=np.float32)
    return embedding, (tiles[:, None, None, None] % 100 * np.ones(PATCHES)).astype(np.float16)


def fill(store, chunks, patches=False):
    for chunk in chunks:
        embedding, patch = vectors(store.rows(chunk))
        store.write(chunk, embedding, patch if patches else None)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def finished(tmp_path):
    store = begin(tmp_path / "whole", plan(patches=PATCHES))
    fill(store, store.missing(), patches=True)
    assert store.publish() == tmp_path / "whole" / FINISHED
    return tmp_path / "whole"


def test_what_was_stored_is_read(finished):
    for folder in (finished, str(finished), finished / FINISHED):
        dataset = open_embeddings(folder)
    embedding, patch = vectors(range(TILES))
    assert dataset["embedding"].dims == ("tile", "feature")
    assert dataset["embedding"].dtype == np.float32
    np.testing.assert_array_equal(dataset["embedding"], embedding)  # the first tile is all zeros
    assert dataset["patch_embedding"].dims == ("tile", "y", "x", "patch_feature")
    assert dataset["patch_embedding"].dtype == np.float16
    np.testing.assert_array_equal(dataset["patch_embedding"], patch)
    assert set(dataset.coords) == set(ABOUT)
    for name, values in plan().columns.items():
        np.testing.assert_array_equal(dataset[name], values)
        assert dataset[name].dtype.kind == values.dtype.kind
    assert dataset.attrs["encoder"] == "e"
    assert dataset.attrs["notes"] == ["one", "two"]
    assert not (finished / PARTIAL).exists()


def test_xarray_alone_opens_it(finished):
    dataset = xarray.open_zarr(finished / FINISHED)
    assert dataset.sizes == {"tile": TILES, "feature": FEATURES, "y": 2, "x": 3, "patch_feature": 4}
    assert xarray.open_dataset(finished / FINISHED, engine="zarr").equals(dataset)


def test_patches_and_tiles_of_one_length_share_the_dimension(tmp_path):
    store = begin(tmp_path, plan(tiles=3, patches=(2, 3, FEATURES)))
    store.write(0, np.ones((3, FEATURES), np.float32), np.ones((3, 2, 3, FEATURES), np.float16))
    store.publish()
    assert open_embeddings(tmp_path)["patch_embedding"].dims == ("tile", "y", "x", "feature")


def test_values_are_read_when_they_are_asked_for(finished):
    assert not open_embeddings(finished)["embedding"]._in_memory
    for rows, sizes in ((1, [CHUNK, CHUNK, 44]), (2 * CHUNK, [2 * CHUNK, 44])):
        found = list(batches(open_embeddings(finished), rows))
        assert [part.stop - part.start for part, _ in found] == sizes
        np.testing.assert_array_equal(np.concatenate([values for _, values in found]), vectors(range(TILES))[0])


def test_interruptions_leave_no_trace(finished, tmp_path):
    out = tmp_path / "again"
    fill(begin(out, plan(patches=PATCHES)), [1], patches=True)
    store = begin(out, plan(patches=PATCHES))
    store._embedding[:CHUNK] = -1.0  # written, and killed before it was committed
    store = begin(out, plan(patches=PATCHES))
    assert store.missing() == [0, 2]
    fill(store, [2, 0], patches=True)
    store.publish()
    assert everything(out) == everything(finished)


def test_killed_between_the_last_two_steps(finished, monkeypatch, tmp_path):
    out = tmp_path / "again"
    store = begin(out, plan(patches=PATCHES))
    fill(store, store.missing(), patches=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        store.publish()
    assert (out / PARTIAL).exists()
    assert begin(out, plan(patches=PATCHES)) is None
    assert everything(out) == everything(finished)


def test_several_processes_share_the_chunks(finished, tmp_path):
    out = tmp_path / "shared"
    begin(out, plan(patches=PATCHES))
    ranks = [StoreWriter(out), StoreWriter(out)]
    for rank, store in enumerate(ranks):
        fill(store, range(rank, store.chunks, 2), patches=True)
    ranks[0].publish()
    assert everything(out) == everything(finished)


def test_an_unfinished_store_is_not_read(tmp_path):
    store = begin(tmp_path, plan())
    fill(store, [0])
    for folder in (tmp_path, tmp_path / PARTIAL, tmp_path / PARTIAL / "store"):
        with pytest.raises(StorageError, match=r"unfinished; run the command that began them again"):
            open_embeddings(folder)
    with pytest.raises(StorageError, match="2 of 3 chunks are missing"):
        store.publish()


def test_no_store_and_a_damaged_one_are_errors(finished, tmp_path):
    with pytest.raises(StorageError, match="holds no embeddings"):
        open_embeddings(tmp_path / "nowhere")
    (finished / FINISHED / "embedding" / "1.0").unlink()
    with pytest.raises(StorageError, match="1 of 3 chunks of embedding are missing"):
        open_embeddings(finished)


@pytest.mark.parametrize("made", ["finished", "begun"])
@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (plan(encoder_digest="xyz"), ["encoder_digest (abc there, xyz here)"]),
        (plan(catalogue_digest="c"), ["catalogue_digest (None there, c here)"]),
        (plan(layer=3, pooling="cls"), ["layer (6 there, 3 here)", "pooling (mean there, cls here)"]),
        (plan(patches=PATCHES), ["patch_grid (None there, [2, 3, 4] here)"]),
        (plan(tiles=5), ["tiles_digest"]),
        (replace(plan(), features=9), ["features (6 there, 9 here)"]),
    ],
)
def test_another_store_in_the_way_is_named(tmp_path, made, other, parts):
    store = begin(tmp_path, plan())
    fill(store, store.missing())
    if made == "finished":
        store.publish()
    with pytest.raises(StorageError) as caught:
        begin(tmp_path, other)
    for part in (*parts, "choose another --out"):
        assert part in str(caught.value)
    again = begin(tmp_path, plan())  # nothing was touched
    assert again is None if made == "finished" else again.missing() == []
