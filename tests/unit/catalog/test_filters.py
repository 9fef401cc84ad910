"""The filter language: what it selects, and that nothing but comparisons is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomae.catalog import parse_filter
from geomae.errors import CatalogError

COLUMNS = {
    "purity": np.array([0.9, 0.5, np.nan, 0.7]),
    "label": np.array(["tree", "crop", None, "water"], dtype=object),
    "group": np.array([1, 2, 3, 4]),
    "cloudy": np.array([True, False, False, True]),
    "cloud cover": np.array([0, 10, 20, 30]),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("purity >= 0.7", [0, 3]),
        ("0.7 <= purity", [0, 3]),
        ("purity != 0.5", [0, 3]),
        ("not purity >= 0.7", [1, 2]),
        ("label in ['tree', \"water\"]", [0, 3]),
        ("label not in ['tree']", [1, 3]),
        ("label not in ['tree', null]", [1, 3]),
        ("label in ['tree', null]", [0, 2]),
        ("label in []", []),
        ("label == null", [2]),
        ("null != label", [0, 1, 3]),
        ("group == 1 or group == 2 and purity > 0.6", [0]),
        ("(group == 1 or group == 2) and purity < 0.6", [1]),
        ("not (group == 1 or group == 4)", [1, 2]),
        ("not not group == 1", [0]),
        ("cloudy == true and group > -1", [0, 3]),
        ("`cloud cover` < 15", [0, 1]),
        ("group > 2e0", [2, 3]),
        ("label > 'm'", [0, 3]),
        ("purity < group", [0, 1, 3]),
        (r"label == 'it\'s'", []),
    ],
)
def test_selects(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(parse_filter(text).mask(COLUMNS)).tolist() == rows


def test_one_row_with_a_missing_value_is_no_null_literal() -> None:
    assert not parse_filter("label == 'x'").mask({"label": np.array([None], dtype=object)}).any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__import__('os').system('x')", "character 1: '__import__' is not the name of an attribute"),
        ("f(label) == 1", "character 2: '(' is where a comparison should be; functions are not called"),
        ("label.upper == 'A'", "attributes of attributes are not read"),
        ("group + 1 == 2", "nothing is computed"),
        ("group == 1 + 1", "nothing is computed"),
        ("group = 1", "write == to compare"),
        ("group == 1 & cloudy == true", "write `and`"),
        ("!cloudy == true", "write `not`"),
        ("cloudy", "the end is where a comparison should be"),
        ("1 < group < 3", "write `a < b and b < c`"),
        ("1 == 1", "name a column"),
        ("label == ", "the end is where a column or a value should be"),
        ("label in 'tree'", "write a list in square brackets"),
        ("label in [tree]", "put text in quotes"),
        ("time >= 2021-06-07", "'2021-06-07' is where a column or a value should be; put dates in quotes"),
        ("time in [2021-06, 2021-07]", "'2021-06' is where a value should be; put dates in quotes"),
        ("label in ['a' 'b']", "separate values by commas"),
        ("label in ['a'", "close with ]"),
        ("(group == 1", "add )"),
        ("group == 1)", "does not belong there"),
        ("label == 'open", "is where a column or a value should be"),
        ("label < null", "compare null with == or !="),
        ("", "the end"),
        ("(" * 60 + "group == 1" + ")" * 60, "nested more than 50 deep"),
        ("not " * 60 + "group == 1", "nested more than 50 deep"),
        ("group == 1 or " * 1000 + "group == 1", "shorten it"),
        ("[x for x in group]", "is where a column or a value should be"),
        ("lambda: group", "':' is where a comparison should be"),
    ],
)
def test_refuses_with_place_and_remedy(text: str, expected: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_filter(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label < 3", "column 'label' is text and 3 is numbers"),
        ("group == '1'", "text stands in quotes, numbers do not"),
        ("cloudy < true", "true and false have no order"),
        ("purty > 1", "there is no column 'purty'; did you mean 'purity'?"),
    ],
)
def test_values_that_cannot_be_compared(text: str, expected: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_filter(text).mask(COLUMNS)
    assert expected in str(caught.value)


def test_names_are_the_columns_it_asks_for() -> None:
    assert parse_filter("a == 1 and (b in [2] or not `c d` < e)").names == {"a", "b", "c d", "e"}


@given(st.text(alphabet="ab01'\"[](),.=<>! andortinull_`+-", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_filter(text)
    except CatalogError as error:
        assert "character" in str(error)
