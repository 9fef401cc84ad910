"""What a catalogue may hold, and the message for what it may not: file, line, key and remedy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from geomae.catalog import json_schema, open_catalog
from geomae.errors import CatalogError, ConfigError

HEAD = "version: 1\ndatasets:\n  hls:\n    path: a/*.tif\n    sensor: hls-l30\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "data_catalog.yaml"
    path.write_text(text)
    return path


def message(folder: Path, text: str) -> str:
    with pytest.raises((CatalogError, ConfigError)) as caught:
        open_catalog(write(folder, text))
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder}/data_catalog.yaml:")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("    tile: {sise: 64}", "6: datasets.hls.tile: unknown key 'sise'; did you mean 'size'?"),
        ("    tiles: {size: 64}", "6: datasets.hls: unknown key 'tiles'; did you mean 'tile'?"),
        ("    tile: {size: big}", "6: datasets.hls.tile.size: must be a whole number, not 'big'"),
        ("    tile:\n      size: 64\n      stride: 0", "8: datasets.hls.tile.stride: must be greater than 0, not 0"),
        ("    tile: {}", "6: datasets.hls.tile: key 'size' is missing; add it"),
        ("    sample: {}", "6: datasets.hls: has two sources, `path` and `sample`; keep one"),
        ("    stac: {items: x}", "6: datasets.hls: has two sources, `path` and `stac`; keep one"),
        ("    stac: x", "6: datasets.hls.stac: must be a mapping"),
        ("    cube: x", "6: datasets.hls.cube: must be a mapping"),
        ("    label: {vector: {path: x}}", "6: datasets.hls.label.vector: key 'column' is missing; add it"),
        ("    label: {raster: x}", "6: datasets.hls.label: labels from a raster need `classes`"),
        ("    label: {column: a, folder: true}", "keep one"),
        ("    args: {}", "6: datasets.hls: `args` belongs to `torchgeo: NAME`"),
        ("    bands: {red: B4}", "6: datasets.hls: a mapping from band to token is for a `path` with {band}"),
        ("    bands: [1]", "6: datasets.hls.bands.0: must be text (quote it where it looks like a number), not 1"),
        ("    bands: [null]", "skips every band; name at least one"),
        ("    scale: 0", "a scale of 0 makes every pixel equal"),
        ("    scale: [1]", "datasets.hls.scale: must be a number, not a list"),
        ("    unit: reflectanse", "unknown unit 'reflectanse'; did you mean 'reflectance'?"),
        (
            "    split: {random: {train: 0.5}}",
            "6: datasets.hls.split.random: the fractions sum to 0.5; make them sum to 1",
        ),
        ("    split: {random: {all: 1}}", "a split cannot be called 'all'"),
        ("    split: {group: {train: 1.0}}", "a split by group needs groups; add `group: {column: ...}`"),
        ("    split: {block_km: 3}", "`block_km` and `fractions` belong together; give both"),
        ("    domain: {colum: a}", "6: datasets.hls.domain: unknown key 'colum'; did you mean 'column'?"),
        ("    mask: {path: a}", "add `invalid_bits` or `invalid_values`"),
        ("    where: 'f(x)'", "6: datasets.hls.where: 'f(x)', character 2: '(' is where a comparison should be"),
        (
            "    windows: {table: a, key: b, row: c, col: d, size: 2}\n    tile: {size: 2}",
            "has both `tile` and `windows`",
        ),
        ("    tile: {size: 64}\n    tile: {size: 32}", "keep one of the two"),
        ("default: [hsl]", "6: unknown data set 'hsl'; did you mean 'hls'?"),
        ("defalt: [hls]", "6: unknown key 'defalt'; did you mean 'default'?"),
    ],
)
def test_bad_entries_name_line_key_and_remedy(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in message(tmp_path, HEAD + lines + "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 2\ndatasets: {a: {sample: {}}}\n", "1: version: must be 1, not 2"),
        (
            "version: 1\ndatasets:\n  a:\n    remote: false\n",
            "a: has no source; add `path`, `stac`, `cube`, `torchgeo` or",
        ),
        ("version: 1\ndatasets: {a: {path: x}}\n", "2: datasets.a: does not say which sensor; add `sensor`"),
        (HEAD.replace("hls-l30", "hls-l3"), "5: datasets.hls.sensor: unknown sensor 'hls-l3'; did you mean 'hls-l30'?"),
        (HEAD.replace("hls-l30", "{bands: [{name: a, wavelength: 1}]}"), "did you mean 'wavelength_um'?"),
        ("version: 1\ndatasets:\n  a/b: {sample: {}}\n", "3: datasets.a/b: must begin with a letter or digit"),
    ],
)
def test_bad_catalogues(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


def test_missing_catalogue_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nothing\.yaml: there is no catalogue; .*geomae catalog init"):
        open_catalog(tmp_path / "nothing.yaml")
    with pytest.raises(CatalogError, match="is a folder"):
        open_catalog(tmp_path)


def test_both_forms_of_torchgeo_are_one(tmp_path: Path) -> None:
    short, long = "{torchgeo: EuroSAT, args: {root: x}}", "{torchgeo: {class: EuroSAT, args: {root: x}}}"
    text = f"version: 1\ndatasets:\n  a: {short}\n  b: {long}\n"
    entries = open_catalog(write(tmp_path, text)).entries
    assert entries["a"].torchgeo_source == entries["b"].torchgeo_source
    assert entries["a"].torchgeo_source.class_name == "EuroSAT"


def test_merged_keys_have_the_line_of_their_parent(tmp_path: Path) -> None:
    catalog = open_catalog(
        write(tmp_path, HEAD + "    tile: &t {size: 8}\n  b:\n    sample: {}\n    tile: {<<: *t, stride: 4}\n")
    )
    assert catalog.entry("b").tile.size == 8
    assert catalog.where("b", "tile", "size").endswith(":9")
    assert catalog.where("b", "tile", "stride").endswith(":9")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    assert "must be a mapping" in message(tmp_path, "version: 1\ndatasets: &d\n  a: *d\n")
    assert "nested too deep" in message(tmp_path, "version: " + "[" * 1100)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    first = open_catalog(write(tmp_path, HEAD)).digest(["hls"])
    assert first == open_catalog(write(tmp_path, "# a comment\n" + HEAD)).digest(["hls"])
    assert first != open_catalog(write(tmp_path, HEAD + "    gsd_m: 30\n")).digest(["hls"])


def test_the_digest_of_a_landscape_is_the_one_before_there_were_shifts(tmp_path: Path) -> None:
    drawn = "version: 1\ndatasets:\n  drawn:\n    sample: {seed: 0}\n"
    known = open_catalog(write(tmp_path, drawn)).digest(["drawn"])
    assert known == "e34274a53cdb82b5909131ecd4867944"  # of the release before
    shifted = open_catalog(write(tmp_path, drawn.replace("0}", "0, shift: none}"))).digest(["drawn"])
    assert shifted != known


def test_schema_knows_every_key_and_is_json() -> None:
    schema = json.loads(json.dumps(json_schema()))
    entry = schema["$defs"]["DatasetEntry"]
    assert {"path", "torchgeo", "sample", "where", "outside"} <= set(entry["properties"])
    assert entry["additionalProperties"] is False


def test_import_takes_neither_torch_nor_rasterio_nor_pandas() -> None:
    code = "import sys, geomae.catalog; print([m for m in ('torch', 'rasterio', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
