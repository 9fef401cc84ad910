"""`geomae catalog init | check | stats | preview | schema`, asked as a user asks them."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import called, contents, refused, write_catalog

from geomae.catalog import open_catalog, resolve_files
from geomae.commands import catalog_init
from geomae.commands.options import CommonOptions
from geomae.commands.runs import read_run
from geomae.errors import CatalogError
from geomae.files import read_yaml
from geomae.rasters import describe_bands, write_cog

SENTINEL_2 = "S2A_MSI{level}_20220301T101031_N{baseline}_R022_T32TMT_20220301T120000"
LANDSAT = "LC08_L2SP_193027_20200615_20200823_02_T1"
HLS = "HLS.S30.T32TMT.2021001T101010.v2.0"
B01_TO_B08 = [f"B0{number}" for number in range(1, 9)]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def scene(path, bands=1, side=64, dtype="uint16", gsd_m=10.0, seed=0, descriptions=None, crs="EPSG:32632"):
    """A small raster of smooth values, 1000 to 4000, that differs from others by `seed`."""
    rng = np.random.default_rng([seed, bands, side])
    slope = np.linspace(0, 1000, side)
    pixels_CHW = 1000 + slope[:, None] + slope[None, :] + rng.normal(0, 100, (bands, side, side))
    pixels_CHW = pixels_CHW / 20 if dtype == "uint8" else pixels_CHW
    transform = (gsd_m, 0, 500000, 0, -gsd_m, 5000000) if crs else None
    write_cog(path, pixels_CHW.astype(dtype), crs=crs, transform=transform, descriptions=descriptions)


def clear(path, value, dtype, gsd_m=30.0):
    """A quality layer of 64 x 64 pixels that finds no cloud."""
    transform = (gsd_m, 0, 500000, 0, -gsd_m, 5000000)
    write_cog(path, np.full((1, 64, 64), value, dtype), crs="EPSG:32632", transform=transform)


def sentinel_2_product(folder, level, baseline):
    """A SAFE product; its JPEG 2000 files hold GeoTIFFs, which the readers tell by their bytes."""
    images = folder / f"{SENTINEL_2.format(level=level, baseline=baseline)}.SAFE/GRANULE/X_T32TMT/IMG_DATA"
    for number, (band, gsd_m) in enumerate({"B02": 10, "B03": 10, "B04": 10, "B8A": 20, "SCL": 20, "TCI": 10}.items()):
        where = images / f"R{gsd_m}m/T32TMT_20220301T101031_{band}_{gsd_m}m.jp2"
        bands, dtype = (3, "uint8") if band == "TCI" else (1, "uint16")
        scene(where, bands, side=640 // gsd_m, gsd_m=gsd_m, seed=number, dtype=dtype)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """One folder with every layout that `init` knows."""
    folder = tmp_path_factory.mktemp("products")
    sentinel_2_product(folder / "s2", "L2A", "0510")
    for number, band in enumerate(("SR_B2", "SR_B3", "SR_B4", "SR_B5", "ST_B10", "QA_RADSAT")):
        scene(folder / f"landsat/{LANDSAT}/{LANDSAT}_{band}.TIF", gsd_m=30, seed=10 + number)
    clear(folder / f"landsat/{LANDSAT}/{LANDSAT}_QA_PIXEL.TIF", 21824, "uint16")
    for number, band in enumerate(("B02", "B03", "B04", "B8A", "SAA")):
        scene(folder / f"hls/{HLS}.{band}.tif", gsd_m=30, seed=20 + number, dtype="int16")
    clear(folder / f"hls/{HLS}.Fmask.tif", 64, "uint8")
    for patch in ("S2A_MSIL2A_20170613T101031_87_48", "S2A_MSIL2A_20170617T113321_4_55"):
        for number, (band, side) in enumerate({"B02": 120, "B03": 120, "B05": 60, "B01": 20}.items()):
            seed = 30 + number + len(patch)
            scene(folder / f"ben/{patch}/{patch}_{band}.tif", side=side, gsd_m=1200 / side, seed=seed)
    for number, name in enumerate(("Forest", "River", "SeaLake")):
        for copy in (1, 2):
            scene(folder / f"patches/{name}/{name}_{copy}.png", 3, dtype="uint8", seed=40 + 2 * number + copy, crs=None)
    for number in (1, 2):
        names = ["blue_482", "green_561", "red_655", "nir_865", "swir1_1609"]
        scene(folder / f"chips/images/chip_{number}.tif", 5, descriptions=names, gsd_m=30, seed=50 + number)
        scene(folder / f"chips/landcover/chip_{number}.tif", dtype="uint8", gsd_m=30, seed=60 + number)
    scene(folder / "unknown/mystery.tif", 5, side=200, seed=70)
    (folder / "unknown/damaged.tif").write_bytes(b"II*\0 not much of a TIFF")
    return folder


@pytest.fixture(scope="module")
def catalogue(products, geomae, tmp_path_factory):
    """What `init` makes of it, beside the folder, and what it said."""
    out = tmp_path_factory.mktemp("catalogue") / "first.yaml"
    done = geomae("catalog", "init", products, "--out", out, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return out, done.stdout + done.stderr


def test_init_knows_the_layouts_and_marks_what_it_does_not_know(catalogue):
    path, said = catalogue
    entries = read_yaml(path).values["datasets"]
    assert set(entries) == {
        *("sentinel-2-l2a-n0400", "landsat-8-oli-c2l2", "hls-s30", "ben", "patches", "chips", "unknown"),
    }
    assert all(entry["outside"] for entry in entries.values())
    assert entries["sentinel-2-l2a-n0400"]["bands"] == ["B02", "B03", "B04", "B8A"]
    assert entries["landsat-8-oli-c2l2"]["bands"] == {"B2": "SR_B2", "B3": "SR_B3", "B4": "SR_B4", "B5": "SR_B5"}
    assert (entries["ben"]["sensor"], entries["ben"]["tile"]) == ("sentinel-2-l2a", {"size": 120})
    assert (entries["patches"]["label"], entries["patches"]["unit"]) == ({"folder": True}, "digital_number")
    assert entries["chips"]["bands"] == ["B2", "B3", "B4", "B5", "B6"]
    assert entries["chips"]["path"].endswith("chips/images/*.tif")
    assert entries["unknown"]["sensor"]["name"] == "fill-in"
    text = path.read_text()
    assert "landcover/{stem}.tif" in text and text.count("FILL IN: which sensor is it?") >= 1
    assert "mask: {band: QA_PIXEL" in text and "left out (unknown, or another physical quantity): ST_B10" in text
    assert "needs your decision: unknown: which sensor is it? 5 bands of uint16" in said and "damaged.tif" in said


def test_what_init_suggests_in_comments_is_valid(catalogue):
    text = catalogue[0].read_text()
    remark = "# all tiles are for training; to hold some out: "
    assert remark in text
    text = text.replace(remark, "")
    changed = catalogue[0].with_name("changed.yaml")
    changed.write_text(text)
    opened = open_catalog(changed)
    masks = {name: resolve_files(opened, name, describe_bands).scenes[0].mask for name in opened.entries}
    assert {name for name, mask in masks.items() if mask} == {"sentinel-2-l2a-n0400", "landsat-8-oli-c2l2", "hls-s30"}
    assert all(opened.entry(name).split is not None for name in masks)


def test_check_accepts_it_counts_and_names_what_is_wrong(catalogue, tmp_path):
    path, _ = catalogue
    done = called("catalog", "check", "--catalog", path, "--out", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "found/summary.json").read_text())
    assert (summary["command"], summary["run_id"], summary["out"]) == ("catalog check", None, str(tmp_path / "found"))
    metrics = summary["metrics"]
    assert metrics["ben/tiles"] == 2 and metrics["patches/tiles"] == 6
    assert (metrics["unknown/scenes"], metrics["unknown/quarantined"]) == (2, 1)
    audit = json.loads((tmp_path / "found/audit.json").read_text())
    assert audit["patches"]["labels"] == {"Forest": 2, "River": 2, "SeaLake": 2}
    assert audit["unknown"]["problems"][0]["kind"] in ("unreadable", "damaged")
    assert "quarantined" in done.stdout and "damaged.tif" in done.stdout and "placeholders" in done.stderr
    assert "0.4924" in done.stdout and "label Forest" in done.stdout


def test_stats_and_preview_of_some_tiles(catalogue, tmp_path):
    path, _ = catalogue
    done = called("catalog", "stats", "--catalog", path, "--dataset", "ben", "--dataset", "chips@all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "runs").iterdir()
    stats = json.loads((out / "stats.json").read_text())
    blue = stats["ben"]["train"]["bands"]["B02"]
    assert blue["count"] == 2 * 120 * 120 and blue["unit"] == "reflectance"
    assert blue["mean"] == pytest.approx(0.2, abs=0.01) and blue["min"] < 0.12 < 0.28 < blue["max"]
    assert stats["chips"]["all"]["tiles"] == 2
    assert "reflectance" in done.stdout and f"{blue['mean']:.5g}" in done.stdout

    seen = ("--dataset", "ben", "--dataset", "patches", "--out", "seen")
    done = called("catalog", "preview", "--catalog", path, *seen, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    sheets = {one.name: one.read_bytes() for one in (tmp_path / "seen").glob("*.png")}
    assert set(sheets) == {"preview.png", "preview_ben.png", "preview_patches.png"}
    assert all(content.startswith(PNG_MAGIC) for content in sheets.values())
    assert sheets["preview.png"] == sheets["preview_ben.png"] != sheets["preview_patches.png"]

    done = called("catalog", "preview", "--catalog", path, *seen, cwd=tmp_path)
    assert done.returncode == 2 and "is not empty; choose another folder" in done.stderr


def test_schema_is_json_and_is_not_written_over_a_file(geomae, tmp_path):
    done = geomae("catalog", "schema", cwd=tmp_path)
    schema = json.loads(done.stdout)
    assert {"version", "datasets"} <= set(schema["properties"]) and "DatasetEntry" in schema["$defs"]
    (tmp_path / "mine.json").write_text("mine")
    done = called("catalog", "schema", "--out", "mine.json", cwd=tmp_path)
    assert done.returncode == 2 and "--out" in done.stderr
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_typo_is_one_line_and_leaves_nothing(tmp_path):
    scene(tmp_path / "a.tif", 3)
    text = "version: 1\ndatasets:\n  a:\n    path: a.tif\n    sensr: naip\n"
    (tmp_path / "data_catalog.yaml").write_text(text)
    done = called("catalog", "check", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "data_catalog.yaml:5" in done.stderr and "did you mean 'sensor'?" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_check_goes_on_after_a_data_set_that_cannot_be_used(tmp_path):
    scene(tmp_path / "good.tif", 4, dtype="uint8", side=64)
    scene(tmp_path / "small.tif", 4, dtype="uint8", side=32, seed=1)
    entry = "sensor: naip, tile: {size: 64}"
    text = f"version: 1\ndatasets:\n  good: {{path: good.tif, {entry}}}\n  small: {{path: small.tif, {entry}}}\n"
    (tmp_path / "data_catalog.yaml").write_text(text)
    done = called("catalog", "check", "--out", "found", "--quiet", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "a tile of 64 pixels is larger than" in done.stderr and "1 of 2 data sets" in done.stderr
    audit = json.loads((tmp_path / "found/audit.json").read_text())
    assert audit["good"]["tiles"] == 1 and "larger" in audit["small"]["error"]
    assert (one := read_run(tmp_path / "found")) is not None
    assert one.state == "failed" and "a tile of 64 pixels is larger than" in one.remedy


def test_init_beside_read_only_data_and_not_twice(tmp_path):
    data = tmp_path / "data [1]"
    scene(data / "m_4709963_se_14_1_20200831.tif", 4, dtype="uint8", side=200)
    scene(data / "mask.tif", 1, dtype="uint8", side=200)
    before = sorted(data.iterdir())
    data.chmod(0o555)
    try:
        first = called("catalog", "init", data.name, cwd=tmp_path)
        again = called("catalog", "init", data.name, cwd=tmp_path)
        checked = called("catalog", "check", "--quiet", cwd=tmp_path)
    finally:
        data.chmod(0o755)
    assert first.returncode == 0, first.stderr
    entry = read_yaml(tmp_path / "data_catalog.yaml").values["datasets"]["data-1"]
    assert (entry["sensor"], "outside" in entry) == ("naip", False)
    assert "mask.tif: one band of uint8" in first.stderr
    assert again.returncode == 2 and "write to another file with --out" in again.stderr
    assert checked.returncode == 0, checked.stderr
    assert sorted(data.iterdir()) == before


def test_the_sample_needs_no_rasters_and_overwrites_nothing(tmp_path):
    refused(called("pretrain", cwd=tmp_path), "there is no catalogue", "`geomae catalog init --sample`")
    done = called("catalog", "init", "--sample", cwd=tmp_path)
    assert done.returncode == 0 and "geomae pretrain" in done.stdout
    assert open_catalog(tmp_path / "data_catalog.yaml").entries["landscape"].sample is not None
    before = contents(tmp_path)
    refused(called("catalog", "init", "--sample", cwd=tmp_path), "not overwritten", "--out FILE")
    refused(called("catalog", "init", ".", "--sample", cwd=tmp_path), "FOLDER or --sample", "only one")
    refused(called("catalog", "init", cwd=tmp_path), "FOLDER or --sample", "neither")
    assert contents(tmp_path) == before
    assert called("catalog", "init", "--sample", "--out", "other.yaml", "--quiet", cwd=tmp_path).stdout == ""


def test_the_command_that_follows_init_can_be_pasted(tmp_path):
    (tmp_path / "my rasters").mkdir()
    scene(tmp_path / "my rasters" / "a.tif")
    done = called("catalog", "init", "my rasters", "--out", "my catalogue.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    follows = shlex.split(done.stdout.splitlines()[-1].partition("then: geomae ")[2])
    assert follows == ["catalog", "check", "--catalog", str(tmp_path / "my catalogue.yaml")]


@pytest.mark.parametrize(
    ("names", "options", "sensor", "bands"),
    [
        (["L7_ETMs.tif"], {"bands": 6, "dtype": "uint8"}, "landsat-7-etm", ["B1", "B2", "B3", "B4", "B5", "B7"]),
        (["tile.tif"], {"bands": 13}, "sentinel-2-l1c", [*B01_TO_B08, "B8A", "B09", "B10", "B11", "B12"]),
        (["a.jpg", "b.jpg"], {"bands": 3, "dtype": "uint8", "crs": None}, "colour", ["red", "green", "blue"]),
        (["x/B04.tif", "x/B03.tif", "x/B8A.tif"], {"gsd_m": 20}, "sentinel-2-l2a", ["B03", "B04", "B8A"]),
        (["labels.tif"], {"dtype": "uint8"}, "fill-in", ["band1"]),
    ],
)
def test_init_guesses(tmp_path, names, options, sensor, bands):
    for seed, name in enumerate(names):
        scene(tmp_path / name, seed=seed, **options)
    out = tmp_path / "data_catalog.yaml"
    assert catalog_init.run(tmp_path, CommonOptions(out=out, quiet=True)) == 0
    catalog = open_catalog(out)
    (name,) = catalog.entries
    found = catalog.sensor(name)
    assert found is not None and found.name == sensor
    assert list(catalog.entry(name).bands) == bands
    assert "# check" in out.read_text() or "# FILL IN" in out.read_text()


def test_init_follows_links_and_says_so(tmp_path):
    scene(tmp_path / "store/m_1234567_ne_1.tif", 4, dtype="uint8")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/linked").symlink_to(tmp_path / "store")
    (tmp_path / "store/loop").symlink_to(tmp_path / "work")
    catalog_init.run(tmp_path / "work", CommonOptions(out=tmp_path / "work/data_catalog.yaml", quiet=True))
    (entry,) = open_catalog(tmp_path / "work/data_catalog.yaml").entries.values()
    assert entry.outside and entry.path == "linked/*.tif"


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_init_refuses_what_holds_no_rasters(tmp_path, make):
    make(tmp_path / "data")
    with pytest.raises(CatalogError, match=r"name (another|the) folder"):
        catalog_init.run(tmp_path / "data", CommonOptions(out=tmp_path / "out.yaml", quiet=True))
    assert not (tmp_path / "out.yaml").exists()


def test_init_names_a_wrong_folder_before_a_catalogue_that_is_there(tmp_path):
    (tmp_path / "out.yaml").touch()
    with pytest.raises(CatalogError, match=r"rastrs: there is no such folder"):
        catalog_init.run(tmp_path / "rastrs", CommonOptions(out=tmp_path / "out.yaml", quiet=True))


def test_real_patches_in_class_folders(shared_data, tmp_path):
    done = called("catalog", "init", shared_data / "eurosat_ms", "--out", tmp_path / "x.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = called("catalog", "check", "--catalog", "x.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("runs/catalog-check-*/audit.json")
    record = json.loads(found.read_text())["eurosat_ms"]
    assert (record["tiles"], len(record["labels"]), record["sensor"]) == (123, 10, "sentinel-2-l1c")


@pytest.mark.parametrize("command", ["check", "stats", "preview"])
def test_commands_on_a_catalogue_start_without_torch(command, work):
    """Its import takes seconds, and MLflow's too; neither has a part in describing rasters."""
    catalog = write_catalog(work)
    script = (
        "import sys\n"
        "from geomae.cli import app\n"
        f"arguments = ['catalog', '{command}', '--catalog', {str(catalog)!r}, '--out', 'described', '--quiet']\n"
        "try:\n    app(arguments, standalone_mode=False)\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "sys.exit(', '.join({'torch', 'mlflow'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (work / "described" / "summary.json").is_file()


def test_check_counts_dates_and_labels_by_split_and_warns_of_few_groups(tmp_path):
    """512 pixels of 10 m are some five blocks; the table is as wide as a terminal and not wider."""
    entry = (
        "{sample: {size: 128, scenes: 1}, tile: {size: 16}, split: {block_km: 0.4, fractions: {train: 0.7, test: 0.3}}}"
    )
    write_catalog(tmp_path, f"version: 1\ndatasets:\n  land: {entry}\n")
    done = called("catalog", "check", "--out", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "label (none), no class covers 50% of the tile (`label.min_purity`) " in done.stdout
    title, header, *rows = done.stdout[done.stdout.index("labels and dates of land") :].splitlines()
    assert title.rstrip() == "labels and dates of land: tiles in blocks, 2021-06-07 to 2021-08-16"
    assert header.split() == ["scenes", "all", "train", "test"]
    end = next(place for place, row in enumerate(rows) if row.startswith("labelled pixels"))
    table = {row.split()[0]: row.split()[1:] for row in rows[:end]}
    assert {"crop", "(none)", "2021-06", "2021-08", "tiles"} < set(table)
    assert all(len(row) <= 100 for row in rows[: rows.index("")])
    census = json.loads((tmp_path / "found/audit.json").read_text())["land"]["census"]
    assert census["times"] == {"first": "2021-06-07", "last": "2021-08-16"}
    crop = census["labels_by_split"]["crop"]["all"]
    assert table["crop"][:4] == [str(crop["scenes"]), str(crop["tiles"]), "in", str(crop["groups"])]
    pixels = census["labelled_pixels"]
    whole, crop = pixels["pixels_by_split"]["test"], pixels["classes_by_split"]["crop"]["test"]
    share = pixels["pixels_by_split"]["all"]["pixels"] / pixels["all_pixels"]
    assert rows[end].rstrip() == f"labelled pixels of land: {share:.1%} of all, classes in blocks"
    by_class = {row.split()[0]: row.split()[-3:] for row in rows[end + 2 : rows.index("")]}
    assert by_class["crop"] == [f"{crop['pixels'] / whole['pixels']:.1%}", "in", str(crop["groups"])]
    assert by_class["pixels"] == [str(whole["pixels"]), "in", str(whole["groups"])]
    assert (
        f"an interval needs 10 blocks, and is omitted for fewer (test {census['tiles_by_split']['test']['groups']})"
        in done.stderr
    )
