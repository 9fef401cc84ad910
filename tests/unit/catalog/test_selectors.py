"""Selectors: reading, writing, and what stands when nobody chose."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomae.catalog import Catalog, Selector, condition_mask, open_catalog, parse_selector, resolve_selectors
from geomae.errors import CatalogError

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
texts = st.text(max_size=12)


@given(names, st.dictionaries(st.text(min_size=1, max_size=12), texts, max_size=3), st.none() | names)
def test_what_is_written_is_read_again(dataset: str, conditions: dict[str, str], split: str | None) -> None:
    selector = Selector(dataset, tuple(conditions.items()), split)
    assert parse_selector(str(selector)) == selector


def test_the_forms() -> None:
    assert parse_selector("hls") == Selector("hls")
    assert parse_selector("hls@train") == Selector("hls", (), "train")
    assert parse_selector("hls[ season = green , site='a,b']@all") == Selector(
        "hls", (("season", "green"), ("site", "a,b")), "all"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "should begin with the name of a data set"),
        ("hls@", "should have the name of a split after @"),
        ("hls[season]", "should have = after the column 'season'"),
        ("hls[season=]", "should have a value for 'season'"),
        ("hls[season=green", "should have , or ]"),
        ("hls[a=1,a=2]", "names the column 'a' twice"),
        ("hls[]", "should have a column"),
        ("hls train", "' ' does not belong there"),
        ("hls@train@test", "'@' does not belong there"),
    ],
)
def test_refuses_with_place_and_forms(text: str, expected: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_selector(text)
    assert expected in str(caught.value)
    assert "write NAME, NAME@split" in str(caught.value)


def test_conditions_meet_text_numbers_and_booleans() -> None:
    columns = {
        "season": np.array(["green", None, "brown", "green"], dtype=object),
        "site": np.array([5.0, 5.0, np.nan, 6.0]),
        "clear": np.array([True, True, False, True]),
    }
    assert condition_mask(parse_selector("a[season=green,site=5,clear=true]"), columns, 4).tolist() == [
        True,
        *[False] * 3,
    ]
    assert condition_mask(parse_selector("a"), columns, 4).all()
    with pytest.raises(CatalogError, match="there is no column 'seson'; did you mean 'season'"):
        condition_mask(parse_selector("a[seson=green]"), columns, 4)


def catalogue(folder: Path, default: str = "") -> Catalog:
    path = folder / "c.yaml"
    path.write_text(f"version: 1\n{default}datasets:\n  one: {{sample: {{}}}}\n  two: {{sample: {{}}}}\n")
    return open_catalog(path)


def test_resolving(tmp_path: Path) -> None:
    catalog = catalogue(tmp_path)
    assert resolve_selectors(catalog, ["one", "two@test"], "train") == (
        Selector("one", (), "train"),
        Selector("two", (), "test"),
    )
    assert resolve_selectors(catalog, ["one@all"], "train") == (Selector("one"),)
    with pytest.raises(CatalogError, match="there is no data set 'tow'; did you mean 'two'"):
        resolve_selectors(catalog, ["tow"], None)
    with pytest.raises(CatalogError, match=r"several data sets; choose with --dataset.*one, two"):
        resolve_selectors(catalog, [], None)
    with pytest.raises(CatalogError, match="there twice"):
        resolve_selectors(catalog, ["one", "one@all"], None)
    assert resolve_selectors(catalogue(tmp_path, "default: [two]\n"), [], "train") == (Selector("two", (), "train"),)
