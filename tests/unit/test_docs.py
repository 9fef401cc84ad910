"""What the documents say of the catalogue: their examples open, their keys and figures are those of the code."""

import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from tiny_models import RECORD, tiny_model

from geomae.catalog import DatasetEntry, json_schema, open_catalog, resolve_files, resolve_selectors
from geomae.config import PretrainConfig, flatten
from geomae.errors import GeomaeError
from geomae.files import write_json
from geomae.rasters import write_cog
from geomae.sensors import UNITS
from geomae.tiles.dataset_check import check_dataset

ROOT = Path(__file__).parents[2]
CATALOGUE, README, RESULTS = ROOT / "docs/catalogue.md", ROOT / "README.md", ROOT / "docs/results.md"
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))  # the README names each
LINKED = (*DOCUMENTS, *sorted((ROOT / "docs").glob("[!g]*/*.md")))  # all but what is generated
AGAIN = "as above"
PRODUCTS = {  # the names that the agencies give: a file per band, quality layers included
    "landsat": (
        "LC08_L2SP_193028_20210712_20210720_02_T1",
        [
            f"landsat/{{scene}}_{band}.TIF"
            for band in ["SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10", "QA_PIXEL", "SR_QA_AEROSOL"]
        ],
    ),
    "safe": (
        "T32TPS_20210713T101031",
        [
            "S2A_MSIL2A_20210713T101031_N0500_R022_T32TPS_20230131T000000.SAFE/GRANULE/L2A_T32TPS_A031638/IMG_DATA/"
            f"R{metres}m/{{scene}}_{band}_{metres}m.jp2"
            for metres, bands in ((10, "B02 B03 B04 B08 TCI"), (20, "B02 B03 B04 B8A B11 B12 SCL"), (60, "B02 B11 SCL"))
            for band in bands.split()
        ],
    ),
}


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a document in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def examples() -> Iterator[Any]:
    """The catalogues in the documents."""
    for path in (CATALOGUE, README, ROOT / "docs/commands.md", ROOT / "docs/labels.md"):
        found = [text for text in blocks(path, "yaml") if re.search(r"^datasets:", text, re.MULTILINE)]
        assert found, f"{path} has no catalogue"
        yield from (pytest.param(text, id=f"{path.stem}-{number}") for number, text in enumerate(found))


def documented() -> dict[str, Any]:
    """The keys of a data set in the table of keys, each with its example as parsed YAML."""
    found: dict[str, Any] = {}
    example: Any = None
    for line in CATALOGUE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 5:
            continue
        if cells[4] != AGAIN:
            example = YAML(typ="safe", pure=True).load(cells[4].strip("` "))
        for key in re.findall(r"`([^`]+)`", cells[0]):
            assert key not in found, f"{key} is there twice"
            found[key] = example
    return found


def schema_keys(entry: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """The keys of a mapping in the JSON schema; those of a mapping within it after a dot."""
    for key, value in entry["properties"].items():
        forms = list(branches(value))
        for form in forms:
            if "$ref" in form:
                yield from (f"{key}.{inner}" for inner in schema_keys(known[form["$ref"].rpartition("/")[2]], known))
        if any("$ref" not in form and form.get("type") != "null" for form in forms):
            yield key


def branches(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The forms that a value may have."""
    options = value.get("anyOf") or value.get("oneOf")
    for option in options or ():
        yield from branches(option)
    if not options:
        yield value


@pytest.mark.parametrize("text", list(examples()))
def test_catalogues_in_the_documents_open(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data_catalog.yaml"
    path.write_text(text, encoding="utf-8")
    assert open_catalog(path).entries


RUNS = "# runs on the sample landscape"


def running() -> list[Any]:
    """The data sets in the documents of which it is said that they run as they are."""
    texts = [text for text in blocks(CATALOGUE, "yaml") if text.startswith(RUNS)]
    assert texts
    names = [(text, name) for text in texts for name in YAML(typ="safe", pure=True).load(text)["datasets"]]
    return [pytest.param(text, name, id=name) for text, name in names]


@pytest.mark.parametrize(("text", "name"), running())
def test_examples_that_are_said_to_run_do(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "data_catalog.yaml"
    path.write_text(text, encoding="utf-8")
    found = check_dataset(open_catalog(path), name)
    assert found.error is None
    assert found.tiles is not None and found.tiles.tiles["label"].nunique() > 1
    assert {"train", "test"} <= set(found.tiles.tiles["split"])


def test_the_keys_of_vectors_and_dates_have_examples_that_run() -> None:
    entries = [YAML(typ="safe", pure=True).load(one.values[0])["datasets"][one.values[1]] for one in running()]
    shown = {key for entry in entries for key in flatten(entry)}
    shown = {key for key in documented() if any(f"{one}.".startswith(f"{key}.") for one in shown)}
    new = {key for key in documented() if key.startswith(("windows.", "label.vector.", "time.", "domain.months"))}
    elsewhere = {f"windows.{one}" for one in ("table", "key", "row", "col")} | {"time.pattern"}  # the latter runs below
    assert new - shown == elsewhere


def test_the_example_of_dates_in_names_runs(tmp_path: Path) -> None:
    """On files that are called as it says; a March is left out by `where`, a July before April 2021 too."""
    (text,) = (one for one in blocks(CATALOGUE, "yaml") if "time: {pattern: 'plot_*_%Y%m%d'}" in one)
    (tmp_path / "data_catalog.yaml").write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    for name in [*re.findall(r"plot_\d_\d{8}\.tif", text), "plot_9_20220301.tif", "plot_9_20200701.tif"]:
        write_cog(tmp_path / "flights" / name, rng.integers(1, 200, (4, 64, 64), dtype=np.uint8))
    catalog = open_catalog(tmp_path / "data_catalog.yaml")
    found = check_dataset(catalog, "valley")
    assert found.error is None and found.tiles is not None
    times, domains = found.tiles.column("time").tolist(), found.tiles.column("domain").tolist()
    assert dict(zip(times, domains, strict=True)) == {"2021-06-07": "wet", "2021-11-30": "dry"}
    named = re.findall(r'"(valley\[.*?\])"', CATALOGUE.read_text(encoding="utf-8"))
    chosen = [found.tiles.select(one).column("time").tolist() for one in resolve_selectors(catalog, named, None)]
    assert chosen == [["2021-11-30"], ["2021-06-07"]]


def test_the_example_of_stac_items_runs(tmp_path: Path) -> None:
    """On items that are called as it says: one is cloudy, and a corner of the other is masked."""
    (text,) = (one for one in blocks(CATALOGUE, "yaml") if "stac: {items: items.json, assets:" in one)
    (tmp_path / "data_catalog.yaml").write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    items = []
    for name, cloud in (("a", 5.0), ("b", 70.0)):
        values = {"red": rng.integers(1, 4000, (1, 64, 64), dtype=np.uint16), "scl": np.full((1, 64, 64), 4, np.uint8)}
        values |= {"nir": values["red"] + 1000}
        values["scl"][0, :16, :16] = 9
        for key, pixels_CHW in values.items():
            write_cog(tmp_path / f"{name}_{key}.tif", pixels_CHW, crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0))
        properties = {"datetime": "2021-06-07T10:30:00Z", "platform": "sentinel-2a", "eo:cloud_cover": cloud}
        assets = {key: {"href": f"{name}_{key}.tif"} for key in values}
        items.append({"type": "Feature", "id": name, "properties": properties, "assets": assets})
    write_json(tmp_path / "items.json", {"type": "FeatureCollection", "features": items})
    found = check_dataset(open_catalog(tmp_path / "data_catalog.yaml"), "valley")
    assert found.error is None and found.tiles is not None
    assert [found.tiles.source.scenes[scene].id for scene in found.tiles.tiles["scene"]] == ["a"] * 15
    assert set(found.tiles.column("time")) == {"2021-06-07T10:30:00Z"}


def test_every_key_is_documented_and_no_other() -> None:
    known = json_schema()["$defs"]
    assert sorted(documented()) == sorted(set(schema_keys(known["DatasetEntry"], known)))


@pytest.mark.parametrize(("key", "example"), list(documented().items()), ids=list(documented()))
def test_the_example_of_a_key_is_valid_and_holds_it(key: str, example: Any) -> None:
    source = {} if {"path", "stac", "cube", "torchgeo", "sample"} & set(example) else {"path": "x.tif"}
    rest = {"sensor": "naip"} | source | example
    assert DatasetEntry.model_validate(rest)
    for name in key.split("."):
        assert name in example
        example = example[name]


def test_the_table_of_sensors_is_what_the_code_prints() -> None:
    (code,) = blocks(CATALOGUE, "python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    start = "| name | bands | unit |"
    table = CATALOGUE.read_text(encoding="utf-8").partition(start)[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == done.stdout.splitlines()


def test_every_unit_is_documented() -> None:
    text = CATALOGUE.read_text(encoding="utf-8").partition("## Units")[2].partition("\n## ")[0]
    assert [unit for unit in UNITS if f"`{unit}`" not in text] == []


@pytest.mark.parametrize("dataset", PRODUCTS)
def test_products_are_found_as_the_example_says(dataset: str, tmp_path: Path) -> None:
    stem, files = PRODUCTS[dataset]
    for name in files:
        path = tmp_path / name.format(scene=stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (text,) = (one for one in blocks(CATALOGUE, "yaml") if f"\n  {dataset}:" in one)
    (tmp_path / "data_catalog.yaml").write_text(text, encoding="utf-8")
    source = resolve_files(open_catalog(tmp_path / "data_catalog.yaml"), dataset, lambda path: ())
    (scene,) = source.scenes
    assert scene.stem == stem
    assert len(scene.files) == len(source.bands) == 6
    assert scene.mask is not None
    if dataset == "safe":  # of several resolutions the finest
        assert "/R10m/" in scene.files[0] and "/R20m/" in scene.mask.path


def test_the_options_of_models_are_those_of_the_configuration() -> None:
    """Every key that docs/models.md names exists, and every key of masks and decoders is named."""
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    known = flatten(PretrainConfig().model_dump())
    named = set(re.findall(r"`((?:masking|decoder)\.\w+)`", text))
    assert named <= set(known)
    rest = {f"decoder.{name}" for name in ("depth", "heads")}  # in the row of the width
    assert {key for key in known if key.startswith(("masking.", "decoder."))} == named | rest
    for key in ("embedding", "positions", "target", "compile", "groups", "left_out", "reference_gsd_m"):
        assert f"`{key}`" in text


def targets(path: Path) -> list[str]:
    """What a document links and shows, other than addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    return [one for one in found if not one.startswith(("http:", "https:", "mailto:"))]


def anchors(path: Path) -> set[str]:
    """The headings of a document, as links name them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in targets(path):
        name, _, anchor = target.partition("#")
        other = path.parent / name if name else path
        assert other.is_file(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{path.name}: {target}"


def test_the_readme_is_short_and_shows_pictures_that_load_at_once() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    pictures = [ROOT / one for one in targets(README) if one.endswith(".png")]
    assert 0 < sum(one.stat().st_size for one in pictures) <= 400 * 1024


def test_every_document_is_named_in_the_readme() -> None:
    named = {ROOT / one.partition("#")[0] for one in targets(README)}
    assert not set(DOCUMENTS) - named - {README}


def test_every_figure_of_the_readme_is_in_the_table_of_results() -> None:
    figures = set(re.findall(r"\b0\.\d{3}\b", README.read_text(encoding="utf-8")))
    assert figures and not figures - set(re.findall(r"\b0\.\d{3}\b", RESULTS.read_text(encoding="utf-8")))


def test_every_page_of_the_site_is_listed() -> None:
    """Every document is in a table of contents, and every entry is a document or written from the program."""
    listed, generated = [], {f"generated/{name}" for name in ("commands", "configuration", "python")}
    for path in (ROOT / "docs").rglob("index.md"):
        for body in blocks(path, "{toctree}"):
            entries = [one for one in body.splitlines() if one and not one.startswith(":")]
            listed += [str((path.parent / one).resolve().relative_to(ROOT / "docs")) for one in entries]
    pages = {str(one.relative_to(ROOT / "docs").with_suffix("")) for one in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted((pages | generated) - {"index"})


def test_outputs_that_tutorials_show_are_held_to_what_is_printed() -> None:
    """Figures differ between machines and are replaced, words may not, and lines stay in their order."""
    as_printed = runpy.run_path(str(ROOT / ".ci/documents.py"))["as_printed"]
    printed = "reading\nencoder  linear     95 %\nmine     0.627  [0.5, 0.6]\nforest   0.7\n"
    shown = "encoder linear 95 %\n...\nforest 0.812\n"
    assert "".join(as_printed(shown, printed)) == "encoder  linear     95 %\n...\nforest   0.7\n"
    for other in ("mine 0.627\n", "forest 0.7\nencoder linear 95 %\n", "a forest 0.7\n"):
        with pytest.raises(AssertionError, match="shows what was not printed"):
            list(as_printed(other, printed))


def test_pictures_of_the_tutorials_are_small_and_shown() -> None:
    folder = ROOT / "docs/tutorials"
    shown = {one for path in folder.glob("*.md") for one in targets(path) if one.endswith(".png")}
    assert shown == {path.name for path in folder.glob("*.png")}
    assert sum(path.stat().st_size for path in folder.glob("*.png")) <= 500_000


def test_the_script_of_the_pictures(tmp_path: Path) -> None:
    """What is shown is left as it is, what is hidden is predicted; the row is a picture of all panels."""
    script = runpy.run_path(str(ROOT / "docs/make_pictures.py"))
    size = script["TILE"]
    pixels_CHW = np.random.default_rng(0).uniform(0, 0.4, (len(RECORD.bands), size, 2 * size)).astype(np.float32)
    seen_HW, made_CHW = script["reconstruct"](tiny_model(), pixels_CHW, np.ones(pixels_CHW.shape, bool))
    assert seen_HW.mean() == 0.25
    assert np.array_equal(made_CHW[:, seen_HW], pixels_CHW[:, seen_HW])
    assert (made_CHW[:, ~seen_HW] != pixels_CHW[:, ~seen_HW]).mean() > 0.99
    script["draw_row"](tmp_path / "row.png", {name: np.zeros((4, 4, 3)) for name in ("seen", "made")})
    height, width = np.frombuffer((tmp_path / "row.png").read_bytes()[16:24], ">u4")[::-1]
    assert 1.5 < width / height < 2


TROUBLES = ROOT / "docs/troubleshooting.md"


def error_classes(base: type[GeomaeError] = GeomaeError) -> Iterator[type[GeomaeError]]:
    """The class and all that derive from it."""
    yield base
    for derived in base.__subclasses__():
        yield from error_classes(derived)


def source_in_one() -> str:
    """The program's source without its docstrings; texts that go on in the next line are joined."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "geomae").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", re.sub(r'""".*?"""', "", source, flags=re.DOTALL))


def quoted_messages() -> list[str]:
    """The messages in the first column of the tables of errors, and those in brackets in the answers."""
    text = TROUBLES.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    warnings = re.findall(r"\(`([a-z][^`]+ [^`]+)`[,)]", text)
    return [*(one for row in rows for one in re.findall(r"`([^`]+)`", row)), *warnings]


def test_every_class_of_errors_has_a_section() -> None:
    titles = re.findall(r"^### (\w+)$", TROUBLES.read_text(encoding="utf-8"), re.MULTILINE)
    assert {one.__name__ for one in error_classes()} == {one for one in titles if one.endswith("Error")}


def test_messages_are_those_of_the_source() -> None:
    """Nobody finds a message that is called otherwise by now."""
    messages, source = quoted_messages(), source_in_one()
    assert len(messages) >= 40 and "the tags say" in messages
    for message in messages:
        parts = [re.escape(part.strip()) for part in message.split("…")]
        assert re.search(r"[^\n]*?".join(parts), source), message


def test_who_reports_a_defect_is_asked_for_the_doctor() -> None:
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    forms = {path.stem: YAML(typ="safe", pure=True).load(path) for path in folder.glob("*.yml")}
    fields = {field["id"]: field for field in forms["defect"]["body"] if "id" in field}
    assert "geomae doctor --json" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"]
    for name in ("defect", "wish"):
        assert {"name", "description", "body"} <= set(forms[name])


def test_the_citation_is_of_this_version() -> None:
    cited = YAML(typ="safe", pure=True).load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format asks for
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in project["authors"]]


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog: versions, newest first, and in them kinds of changes that it knows, each once."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert versions[0].startswith("[Unreleased]")
    for version in versions:
        assert re.match(r"\[Unreleased\]\n|\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}\n", version)
        kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert kinds and len(set(kinds)) == len(kinds)
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
