"""Selectors: reading, writing, and what stands when nobody chose."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geomae.catalog import (
    Catalog,
    Condition,
    Selector,
    condition_mask,
    open_catalog,
    parse_selector,
    resolve_selectors,
)
from geomae.errors import CatalogError

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
texts = st.text(max_size=12)


columns = st.text(min_size=1, max_size=12)
conditions = st.one_of(
    st.builds(Condition, columns, st.sampled_from(("=", "!=", "<", "<=", ">", ">=")), st.tuples(texts)),
    st.builds(Condition, columns, st.just("in"), st.lists(texts, min_size=1, max_size=3).map(tuple)),
)


@example("a", [Condition("b", "in", ("<0", "c"))], None)  # not the column `b in` below 0
@given(names, st.lists(conditions, max_size=3, unique_by=lambda one: one.column), st.none() | names)
def test_what_is_written_is_read_again(dataset: str, found: list[Condition], split: str | None) -> None:
    selector = Selector(dataset, tuple(found), split)
    assert parse_selector(str(selector)) == selector


@pytest.mark.parametrize(
    "text",
    [  # runs, stores and folders are found by these
        "hls[season=green,site=5]@train",
        "hls[site='a,b']",
        "a[density=>50%]",
        "a[density=<5]",
        "a[kind=crop|tree]",
        "a[built in=5]",
        "a[a in b=5]",
        "a[what=not!]",
        "a[two words=three more words]@all",
    ],
)
def test_selectors_of_equal_values_are_written_as_ever(text: str) -> None:
    selector = parse_selector(text)
    assert str(selector) == text
    assert all(one.sign == "=" for one in selector.conditions)


def test_the_forms() -> None:
    assert parse_selector("hls") == Selector("hls")
    assert parse_selector("hls@train") == Selector("hls", (), "train")
    assert parse_selector("hls[ season = green , site='a,b']@all") == Selector(
        "hls", (Condition("season", "=", ("green",)), Condition("site", "=", ("a,b",))), "all"
    )
    assert parse_selector("v[time>=2021-04-01, time < 2021-10-01]").conditions == (
        Condition("time", ">=", ("2021-04-01",)),
        Condition("time", "<", ("2021-10-01",)),
    )
    assert parse_selector("v[month in 6|7 | 8]@test") == Selector(
        "v", (Condition("month", "in", ("6", "7", "8")),), "test"
    )
    assert parse_selector("v['my in' in 'a|b'|c d|'e]']").conditions == (
        Condition("my in", "in", ("a|b", "c d", "e]")),
    )
    assert parse_selector("v[in in in]").conditions == (Condition("in", "in", ("in",)),)
    assert parse_selector("v[a!=b,a!=c]").conditions == (Condition("a", "!=", ("b",)), Condition("a", "!=", ("c",)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "should begin with the name of a data set"),
        ("hls@", "should have the name of a split after @"),
        ("hls[season]", "should have =, !=, <, <=, >, >= or in after the column 'season'"),
        ("hls[season in]", "should have a value for 'season'"),
        ("hls[season in a|]", "should have a value for 'season'"),
        ("hls['season' within 5]", "or in after the column 'season'"),
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


COLUMNS = {
    "time": np.array(["2021-04-03", "2021-04-03T10:00:00Z", "2021-09-30", None, "2022-01-01"], dtype=object),
    "month": np.array([4, 4, 9, None, 1], dtype=object),
    "height": np.array([1.5, 2.0, np.nan, 4.0, 5.0]),
    "season": np.array(["dry", "wet", "wet", None, "cold"], dtype=object),
    "clear": np.array([True, False, True, True, False]),
}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("time>=2021-04-03", "11101"),
        ("time>2021-04-03", "00101"),  # after all of that day
        ("time<=2021-04-03", "11000"),
        ("time<2021-04-03", "00000"),
        ("time=2021-04-03", "11000"),
        ("time!=2021-04-03", "00101"),
        ("time=2021-04", "11000"),
        ("time<=2021", "11100"),
        ("time>2021-09", "00001"),
        ("time>=2021-04-03T10:00:00Z", "01101"),
        ("time=2021-04-03T12:00:00+02:00", "01000"),
        ("time in 2021-04|2022", "11001"),
        ("time>=2021-04,time<2021-10", "11100"),
        ("month in 4|9", "11100"),
        ("month>=9", "00100"),
        ("month!=4", "00101"),
        ("height<2.5", "11000"),
        ("height>1.5", "01011"),
        ("season in dry|'wet'", "11100"),
        ("season!=wet", "10001"),
        ("season>dry", "01100"),
        ("clear!=true", "01001"),
        ("clear in true|false", "11111"),
    ],
)
def test_comparisons(condition: str, rows: str) -> None:
    found = condition_mask(parse_selector(f"a[{condition}]"), COLUMNS, 5)
    assert "".join(str(int(one)) for one in found) == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("time>=June", "'June' is no date; write 2021, 2021-06, 2021-06-07 or"),
        ("time=2021-02-30", "'2021-02-30' is an impossible date"),
        ("time in 2021|x", "'x' is no date"),
        ("month>=June", "'month' holds numbers, but 'June' is not a number; correct it"),
        ("clear>true", "compare values of one type|have no order"),
    ],
)
def test_comparisons_that_cannot_be(condition: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        condition_mask(parse_selector(f"a[{condition}]"), COLUMNS, 5)


def test_a_catalogue_without_dates_says_how_to_give_them() -> None:
    with pytest.raises(CatalogError, match="there is no column 'month'; no file tells its date; write `time:"):
        condition_mask(parse_selector("a[month=6]"), {"season": np.array(["a"])}, 1)


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
