"""Data sets of torchgeo as sources: their files where they list them, else their rows written as files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomae.catalog import open_catalog
from geomae.errors import CatalogError
from geomae.rasters import Window, read, write_cog
from geomae.tiles import sources
from geomae.tiles.index import build_index
from geomae.tiles.sources import open_source, prepare

Open = Callable[..., Any]
GRID: dict[str, Any] = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)}
NAIP_FILE = "m_3807511_ne_18_060_20181104.tif"


@pytest.fixture(scope="module")
def datasets() -> Any:
    import torchgeo.datasets

    return torchgeo.datasets


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A catalogue with the data set `d` of these keys; the catalogue's folder is `tmp_path / "c"`."""
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "c").mkdir(exist_ok=True)

    def opened(*keys: str) -> Any:
        text = "".join(f"    {key}\n" for key in keys)
        (tmp_path / "c/c.yaml").write_text(f"version: 1\ndatasets:\n  d:\n{text}", encoding="utf-8")
        return open_catalog(tmp_path / "c/c.yaml")

    return opened


def pixels(count: int, first: int = 1, dtype: Any = np.uint16) -> Any:
    """Distinct values (count, 8, 8), different in each band and pixel."""
    return (np.arange(count * 64).reshape(count, 8, 8) + first).astype(dtype)


@pytest.fixture
def eurosat(tmp_path: Path, datasets: Any) -> Path:
    """Two training patches and one test patch in torchgeo's layout."""
    root = tmp_path / "c/eurosat"
    for number, (folder, stem) in enumerate(
        (("AnnualCrop", "AnnualCrop_1"), ("Forest", "Forest_2"), ("Forest", "Forest_9"))
    ):
        path = root / datasets.EuroSAT.base_dir / folder / f"{stem}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_cog(path, pixels(13, 1000 * (number + 1)), **GRID)
    (root / "eurosat-train.txt").write_text("AnnualCrop_1.jpg\nForest_2.jpg\n")
    (root / "eurosat-test.txt").write_text("AnnualCrop_1.jpg\nForest_9.jpg\n")
    return root


def test_classification_folders_give_files_bands_and_labels(eurosat: Path, entries: Open, datasets: Any) -> None:
    catalog = entries(
        "torchgeo: EuroSAT", "args: {root: eurosat, split: train}", "sensor: sentinel-2-l1c", "scale: 0.01"
    )
    completed, source = prepare(catalog, "d")
    assert [scene.stem for scene in source.scenes] == ["AnnualCrop_1", "Forest_2"]
    assert [band.name for band in source.bands][-2:] == ["B12", "B8A"]  # the class's order, not the sensor's
    assert completed.entry("d").label.column == "label"
    theirs = datasets.EuroSAT(root=eurosat, split="train")
    for number, scene in enumerate(source.scenes):
        assert scene.attributes["label"] == theirs.classes[int(theirs[number]["label"])]
        pixels_CHW, valid_CHW = read(source, scene, Window(0, 0, 8, 8))
        assert valid_CHW.all()
        np.testing.assert_allclose(pixels_CHW, theirs[number]["image"].numpy() * 0.01, rtol=1e-6)


def test_labels_and_groups_of_torchgeo_reach_the_index(eurosat: Path, entries: Open) -> None:
    keys = (
        "torchgeo: {class: EuroSAT, args: {root: eurosat, split: test}}",
        "sensor: sentinel-2-l1c",
        "tile: {size: 4}",
    )
    index = build_index(entries(*keys, "where: label == 'Forest'", "group: {column: label}"), "d")
    assert len(index) == 4
    assert set(index.tiles["label"]) == {"Forest"} == set(index.tiles["group"])


def test_bands_that_args_leave_out_are_not_read(eurosat: Path, entries: Open) -> None:
    args = "args: {root: eurosat, bands: [B8A, B04]}"
    source = open_source(entries("torchgeo: EuroSAT", args, "sensor: sentinel-2-l1c"), "d")
    stored = [(band.name, file.index) for band, file in zip(source.bands, source.scenes[0].bands, strict=True)]
    assert stored == [("B04", 4), ("B8A", 13)]
    assert source.stored_bands == 13


def test_raster_data_sets_give_their_files_without_sidecars(tmp_path: Path, entries: Open, datasets: Any) -> None:
    write_cog(tmp_path / "c" / NAIP_FILE, pixels(4, dtype=np.uint8), **GRID)
    (tmp_path / "c" / f"{NAIP_FILE}.aux.xml").write_text("<PAMDataset/>")
    args = "args: {paths: [.], bands: [NIR, R]}"
    source = open_source(entries("torchgeo: NAIP", args, "sensor: naip"), "d")
    assert [scene.id for scene in source.scenes] == [NAIP_FILE.removesuffix(".tif")]
    stored = [(band.name, file.index) for band, file in zip(source.bands, source.scenes[0].bands, strict=True)]
    assert stored == [("red", 1), ("nir", 4)]  # R and NIR by their place: the sensor has other names


def test_one_file_per_band_becomes_one_scene(tmp_path: Path, entries: Open, datasets: Any) -> None:
    scene = "LC08_L2SP_023032_20210622_20210629_02_T1"
    for number in range(1, 8):
        write_cog(tmp_path / f"c/l8/{scene}_SR_B{number}.TIF", pixels(1, 100 * number), **GRID)
    write_cog(tmp_path / f"c/l8/{scene}_QA_PIXEL.TIF", pixels(1), **GRID)
    keys = ("torchgeo: Landsat8", "args: {paths: l8}", "sensor: landsat-8-oli-c2l2", "scale: 1", "offset: 0")
    source = open_source(entries(*keys), "d")
    assert [band.name for band in source.bands] == [f"B{number}" for number in range(1, 8)]
    assert len(source.scenes) == 1
    pixels_CHW, _ = read(source, source.scenes[0], Window(0, 0, 8, 8))
    assert pixels_CHW[:, 0, 0].tolist() == [100.0 * number for number in range(1, 8)]
    source = open_source(entries(*keys, "bands: [red, B5]"), "d")
    assert [Path(file.path).stem[-5:] for file in source.scenes[0].bands] == ["SR_B4", "SR_B5"]
    with pytest.raises(
        CatalogError, match="'cirrus' is not a band of both it and sensor landsat-8-oli-c2l2; add `bands`"
    ):
        open_source(entries(*keys, "bands: [cirrus]"), "d")


def test_a_sentinel_product_is_read_at_each_bands_resolution(tmp_path: Path, entries: Open, datasets: Any) -> None:
    folder = tmp_path / "c/X.SAFE/IMG_DATA"
    for band, metres in (("B01", 60), ("B01", 20), ("B02", 10), ("B02", 20), ("B8A", 20)):
        grid = {"crs": GRID["crs"], "transform": (metres, 0.0, 0.0, 0.0, -metres, 0.0)}
        size = 120 // metres
        path = folder / f"R{metres}m/T32TQM_20200101T100000_{band}_{metres}m.tif"
        write_cog(path, np.full((1, size, size), metres, np.uint16), **grid)
    args = "args: {paths: X.SAFE, bands: [B01, B02, B8A]}"
    source = open_source(entries("torchgeo: Sentinel2", args, "sensor: sentinel-2-l2a"), "d")
    assert [band.name for band in source.bands] == ["B01", "B02", "B8A"]
    assert [file.path.rsplit("_", 1)[1] for file in source.scenes[0].bands] == ["20m.tif", "10m.tif", "20m.tif"]


class Rows:
    """Builds data sets that have rows and no files; `rows` is a list of what they give."""

    def __init__(self, datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.datasets, self.monkeypatch = datasets, monkeypatch
        self.read = 0

    def define(self, rows: list[dict[str, Any]], **attributes: Any) -> None:
        counter = self

        class FakeRows(self.datasets.NonGeoDataset):  # type: ignore[name-defined, misc]
            def __init__(self, root: str = "data") -> None:
                self.root = root

            def __len__(self) -> int:
                return len(rows)

            def __getitem__(self, index: int) -> dict[str, Any]:
                counter.read += 1
                return rows[index]

        for name, value in attributes.items():
            setattr(FakeRows, name, value)
        self.monkeypatch.setattr(self.datasets, "FakeRows", FakeRows, raising=False)


@pytest.fixture
def fake(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(datasets, monkeypatch)


def test_rows_are_written_once_and_read_as_files(tmp_path: Path, fake: Rows, entries: Open) -> None:
    import torch

    images = [torch.from_numpy(pixels(4, 10 * number, np.float32)) for number in range(3)]
    rows = [{"image": image, "label": torch.tensor(number % 2)} for number, image in enumerate(images)]
    fake.define(rows, classes=["dry", "wet"], all_bands=("nir", "red", "green", "blue"))
    (tmp_path / "c/data").mkdir()
    catalog = entries("torchgeo: FakeRows", "sensor: naip", "scale: 2", "nodata: []")
    completed, source = prepare(catalog, "d")
    assert completed.entry("d").label.column == "label"
    assert [scene.attributes["label"] for scene in source.scenes] == ["dry", "wet", "dry"]
    assert [band.name for band in source.bands] == ["nir", "red", "green", "blue"]
    for scene, image in zip(source.scenes, images, strict=True):
        pixels_CHW, _ = read(source, scene, Window(0, 0, 8, 8))
        np.testing.assert_array_equal(pixels_CHW, image.numpy() * 2)
    assert open_source(catalog, "d") == source and fake.read == 3
    (tmp_path / "c/data/new.bin").write_bytes(b"1")
    assert open_source(catalog, "d").scenes[0].files != source.scenes[0].files  # changed data are read again


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": np.zeros((2, 4, 8, 8))}, r"row 0 of FakeRows has an image of shape \(2, 4, 8, 8\) .* with `path`"),
        ({"image_s1": 1, "image_s2": 2}, r"row 0 of FakeRows has no `image` but image_s1, image_s2; .* with `path`"),
        ({"image": np.full((4, 2, 2), 2**40)}, "row 0 of FakeRows has values beyond int32"),
    ],
)
def test_rows_of_another_kind_are_refused(
    row: dict[str, Any], message: str, tmp_path: Path, fake: Rows, entries: Open
) -> None:
    fake.define([row])
    with pytest.raises(CatalogError, match=f"c.yaml:4: datasets.d.torchgeo: {message}"):
        open_source(entries("torchgeo: FakeRows", "sensor: naip"), "d")
    assert list((tmp_path / "cache/torchgeo").iterdir()) == []  # nothing half written


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("torchgeo: EuroSad",), "torchgeo has no data set 'EuroSad'; did you mean 'EuroSAT'?"),
        (("torchgeo: BoundingBox",), "torchgeo has no data set 'BoundingBox'; "),
        (("torchgeo: GeoDataset",), "GeoDataset is a base class"),
        (
            ("torchgeo: EuroSAT", "args: {rot: x}"),
            "c.yaml:5: datasets.d.args.rot: EuroSAT takes no argument 'rot'; did you mean 'root'?",
        ),
        (("torchgeo: EuroSAT", "args: {root: 7}"), "args.root: must be a path"),
        (("torchgeo: EuroSAT", "args: {root: ../x}"), "args.root: ../x leaves the catalogue's folder"),
        (("torchgeo: EuroSAT", "args: {root: /}"), "args.root: / leaves the catalogue's folder"),
        (
            ("torchgeo: EuroSAT", "args: {download: true}"),
            "args.download: downloads are not allowed; add `remote: true`",
        ),
        (("torchgeo: EuroSAT",), "EuroSAT finds no data in CATALOG/data; put the data there or correct"),
        (("torchgeo: EuroSAT", "args: {split: x}"), "fails: AssertionError; correct `args` or the data"),
        (("torchgeo: EuroSAT", "args: {bands: [B99]}"), "fails: ValueError 'B99' is an invalid band name.; correct"),
        (("torchgeo: NAIP", "args: {res: 3}"), "args.res: has no effect here; write `gsd_m` beside `sensor`"),
        (("torchgeo: NAIP", "args: {paths: none}"), "NAIP finds no data in CATALOG/none; put the data there"),
    ],
)
def test_errors_say_what_where_and_the_remedy(
    keys: tuple[str, ...], message: str, tmp_path: Path, entries: Open, datasets: Any
) -> None:
    with pytest.raises(CatalogError) as caught:
        open_source(entries(*keys, "sensor: sentinel-2-l1c"), "d")
    text = str(caught.value)
    assert message.replace("CATALOG", str(tmp_path / "c")) in text
    assert text.startswith(f"{tmp_path}/c/c.yaml:")
    assert "\n" not in text


def test_what_reads_its_files_with_pickle_is_refused(
    entries: Open, datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(datasets.SKIPPD):  # type: ignore[name-defined, misc]
        pass

    monkeypatch.setattr(datasets, "Mine", Mine, raising=False)
    monkeypatch.setattr(sources, "version", lambda name: "0.9.0")
    for name in ("SKIPPD", "Mine"):
        with pytest.raises(
            CatalogError, match=r"c.yaml:4: datasets.d.torchgeo: SKIPPD reads its .* take torchgeo 0.10"
        ):
            open_source(entries(f"torchgeo: {name}", "sensor: naip"), "d")
    monkeypatch.setattr(sources, "version", lambda name: "0.10.1")
    with pytest.raises(CatalogError) as caught:
        open_source(entries("torchgeo: SKIPPD", "sensor: naip"), "d")
    assert "pickle" not in str(caught.value)


def test_no_other_class_of_torchgeo_reads_with_pickle(datasets: Any) -> None:
    """A class that a later release adds has to be listed, too."""
    unpickling = re.compile(r"allow_pickle=True|\bpickle\.loads?\(|read_pickle\(|torch\.load\(|joblib\.load\(")
    for path in sorted(Path(datasets.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if unpickling.search(text):
            assert set(re.findall(r"^class (\w+)", text, re.MULTILINE)) <= set(sources.UNPICKLES), path


def test_label_rasters_are_no_imagery(tmp_path: Path, entries: Open, datasets: Any) -> None:
    write_cog(tmp_path / "c/labels.tif", pixels(1, dtype=np.uint8), **GRID)

    class Labels(datasets.RasterDataset):  # type: ignore[name-defined, misc]
        is_image = False

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "Labels", Labels, raising=False)
        with pytest.raises(CatalogError, match="Labels holds labels, not imagery; use its files as `label:"):
            open_source(entries("torchgeo: Labels", "args: {paths: .}", "sensor: naip"), "d")


def test_a_sensor_is_needed(entries: Open) -> None:
    with pytest.raises(CatalogError, match="torchgeo does not say which sensor; add `sensor`"):
        open_source(entries("torchgeo: EuroSAT"), "d")


def test_bands_unknown_to_the_sensor_are_refused_when_only_some_are_asked_for(eurosat: Path, entries: Open) -> None:
    args = "args: {root: eurosat, bands: [B04, B10]}"
    with pytest.raises(CatalogError, match="are not those of sensor sentinel-2-l2a; add `bands` in stored order"):
        open_source(entries("torchgeo: EuroSAT", args, "sensor: sentinel-2-l2a"), "d")


def test_files_that_leave_the_folder_by_a_link_are_refused(tmp_path: Path, entries: Open, datasets: Any) -> None:
    write_cog(tmp_path / "elsewhere" / NAIP_FILE, pixels(4, dtype=np.uint8), **GRID)
    (tmp_path / "c/naip").mkdir()
    (tmp_path / "c/naip" / NAIP_FILE).symlink_to(tmp_path / "elsewhere" / NAIP_FILE)
    keys = ("torchgeo: NAIP", "args: {paths: naip}", "sensor: naip")
    with pytest.raises(CatalogError, match=r"leaves the catalogue's folder .*outside: true"):
        open_source(entries(*keys), "d")
    assert len(open_source(entries(*keys, "outside: true"), "d").scenes) == 1
