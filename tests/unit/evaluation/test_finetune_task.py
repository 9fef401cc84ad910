"""Which labelled tiles a fine-tuning holds out to choose by."""

import warnings

import numpy as np
import pytest

from geomae.errors import CatalogError
from geomae.evaluation.finetune_task import _check_learned, _class_names, hold_out
from geomae.evaluation.probe_task import LabelledSelection


def held(unit_T, label_T):
    """What is held out (P,) of tiles with these groups and labels."""
    part = LabelledSelection(None, np.array(label_T), list(unit_T), called="mine@train")
    return hold_out(part, sorted(set(label_T)))


def test_what_is_held_out_is_about_a_fifth_even_where_one_group_has_most_tiles():
    """The largest group is dealt first, and would be most of what there is."""
    units = ["large"] * 76 + [f"g{number}" for number in range(12) for _ in range(2)]
    held_P, how = held(units, ["crop", "tree"] * 50)
    assert 0.04 <= held_P.mean() <= 0.2
    assert not held_P[:76].any()
    assert how == f"{held_P.sum()} of 100 labelled tiles are held out, by {held_P.sum() // 2} of 13 groups"


def test_every_class_is_left_to_learn_from_where_groups_allow():
    """Held out alone, either group of a class would leave the other; the only group of a class is never taken."""
    units = [f"g{number}" for number in range(10) for _ in range(10)]
    labels = (["crop"] * 5 + ["tree"] * 5) * 8 + ["water"] * 20
    held_P, _ = held(units, labels)
    assert set(np.array(labels)[~held_P]) == {"crop", "tree", "water"}
    assert held_P.mean() == 0.2


def test_rare_classes_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_P, _ = held([str(number) for number in range(20)], ["a"] * 18 + ["b"] * 2)
    assert 0.1 <= held_P.mean() <= 0.3


def test_numbers_that_are_all_the_same_are_refused_also_without_the_held_out_groups():
    """The standard deviation of seven times 0.1 is rounding and not 0."""
    one = LabelledSelection(None, np.full(7, 0.1), [str(number) for number in range(7)], called="mine@train")
    with pytest.raises(CatalogError, match=r"mine@train: all labels are 0\.1"):
        _class_names(one, "regression")
    two = LabelledSelection(None, np.array([0.1] * 7 + [3.0] * 3), ["a"] * 7 + ["b"] * 3, called="mine@train")
    assert _class_names(two, "regression") == ()
    held_P, _ = hold_out(two, ())
    learned = LabelledSelection(None, two.label_T[~held_P], [], called="mine@train")
    with pytest.raises(CatalogError, match=r"all labels but those of the held-out groups are .* label other groups"):
        _check_learned(learned, two, ())
