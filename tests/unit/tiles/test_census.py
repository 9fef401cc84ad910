"""How tiles are spread over labels, months, splits and groups: exact counts, and what they cannot carry."""

import pandas as pd
from tile_indexes import NoSurvey

from geomae.catalog.schema import Split
from geomae.catalog.splits import group_splits, random_splits
from geomae.tiles.census import Count, take_census, warnings
from geomae.tiles.index import TileIndex
from geomae.tiles.splits import seeds_with_all_classes


def index(label, split, group=None, block=None, time=None):
    """Tiles of two per scene; everything but label and split may be unknown."""
    unknown = [None] * len(label)
    tiles = pd.DataFrame(
        {"tile_id": [f"t{i}" for i in range(len(label))], "scene": [i // 2 for i in range(len(label))]}
        | {"label": label, "split": split, "group": group or unknown, "block": block or unknown}
    )
    attributes = pd.DataFrame({"time": time} if time else {}, index=tiles.index)
    return TileIndex("d", None, tiles, attributes, (), None, NoSurvey())


def test_tiles_groups_and_scenes_are_counted_by_label_and_split():
    found = take_census(
        index(
            ["tree", "tree", "tree", "crop", None, "tree"],
            ["train", "train", "test", "train", "test", "test"],
            group=["a", "b", "c", "a", "c", "c"],
        )
    )
    assert (found.unit, found.splits) == ("groups", ("train", "test"))
    assert list(found.labels) == ["tree", "crop", "(none)"]
    assert found.labels["tree"] == {"all": Count(4, 3, 3), "train": Count(2, 2, 1), "test": Count(2, 1, 2)}
    assert found.labels["crop"] == {"all": Count(1, 1, 1), "train": Count(1, 1, 1)}
    assert found.total == {"all": Count(6, 3, 3), "train": Count(3, 2, 2), "test": Count(3, 1, 2)}
    assert (found.months, found.first, found.numbers) == ({}, None, None)
    assert found.to_dict()["labels_by_split"]["crop"]["train"] == {"tiles": 1, "groups": 1, "scenes": 1}


def test_months_come_from_days_and_instants():
    times = ["2021-06-30", "2021-06-07T10:00:31Z", None, "2020-12-01"]
    found = take_census(index([None] * 4, ["train"] * 4, time=times))
    assert (found.unit, found.first, found.last) == ("tiles", "2020-12-01", "2021-06-30")
    assert {month: row["all"] for month, row in found.months.items()} == {
        "2020-12": Count(1, 1, 1),
        "2021-06": Count(2, 2, 1),
    }
    assert found.labels == {} and warnings(found, 10, 1) == []


def test_many_numbers_are_measurements_and_few_are_classes():
    many = take_census(index([str(number / 10) for number in range(30)], ["train"] * 30))
    assert (many.labels, many.numbers) == ({}, (0.0, 2.9))
    few = take_census(index(["1", "2"] * 15, ["train"] * 30))
    assert (list(few.labels), few.numbers) == (["1", "2"], None)


def test_tiles_without_a_label_carry_no_interval_of_labels():
    labels = [str(number / 10) if number < 25 else None for number in range(50)]
    found = take_census(index(labels, ["test"] * 50, group=[str(number) for number in range(50)]))
    assert (found.total["test"].groups, found.labelled["test"]) == (50, Count(25, 25, 13))
    assert warnings(found, 25, 1) == [] and "(test 25)" in warnings(found, 26, 1)[0]


def test_what_the_counts_cannot_carry_is_said():
    found = take_census(
        index(
            ["tree", "tree", "crop", "crop", "bare", "bare"],
            ["train", "test", "train", "test", "train", "train"],
            block=["1", "2", "3", "3", "1", "2"],
        )
    )
    place, split, few = warnings(found, 10, 1)
    assert place.startswith("crop: all tiles of the class lie in one of the blocks")
    assert split.startswith("bare (train): the class occurs in one split only")
    assert split.endswith("leave the class out: of `label.classes`, or by `where` if labels are a column")
    assert few.startswith("an interval needs 10 blocks, and is omitted for fewer (test 2)")
    assert len(warnings(found, 2, 1)) == 2


def test_a_seed_with_which_every_split_has_every_class_is_named():
    group = [f"g{number}" for number in range(12)]
    label = ["tree"] * 5 + ["crop"] * 5 + ["bare"] * 2
    shares = {"train": 0.7, "test": 0.3}

    def checked(seed, label=label):
        split = Split(group=shares, seed=seed)
        found = index(label, group_splits(group, shares, seed), group=group)
        seeds = seeds_with_all_classes(split, found.tiles)
        return seeds, [text for text in warnings(take_census(found), 1, 1, seeds) if "one split only" in text]

    seeds, _ = checked(0)
    wrong = next(seed for seed in range(100) if seed not in seeds)
    for seed in seeds[:3]:
        assert checked(seed) == (seeds, [])
    (said,) = checked(wrong)[1]
    assert f"; with `seed: {seeds[0]}` in `split`, every split has every class; write that, or use all" in said
    assert said.endswith("`geomae probe --cross-fit 3`")
    none, (said,) = checked(0, ["tree"] * 6 + ["crop"] * 5 + ["bare"])
    assert none == () and "no seed of 0 to 99 gives every split every class" in said


def test_no_seed_is_named_for_splits_that_no_seed_deals_or_for_part_of_the_tiles():
    group = [f"g{number}" for number in range(9)]
    shares = {"train": 0.7, "test": 0.3}
    tiles = index(["a", "b", "c"] * 3, group_splits(group, shares, 0), group=group).tiles
    assert seeds_with_all_classes(Split(group=shares), tiles) is not None
    assert seeds_with_all_classes(Split(group=shares), tiles[tiles["split"] == "train"]) is None
    assert seeds_with_all_classes(Split(column="split"), tiles) is None
    assert seeds_with_all_classes(None, tiles) is None
    drawn = tiles.assign(split=random_splits(tiles["tile_id"], shares, 4))
    assert seeds_with_all_classes(Split(random=shares, seed=4), drawn) is not None


def test_without_splits_all_tiles_that_have_labels_are_scored():
    (alone,) = warnings(take_census(index(["a"] * 24, ["train"] * 24)), 24, 1)
    assert alone == ("tiles have no other label than 'a', and a classifier needs two; choose another column or file")
    groups = [str(number % 12) for number in range(24)]
    assert warnings(take_census(index(["a", "b"] * 12, ["train"] * 24, group=groups)), 13, 1) != []
    assert warnings(take_census(index(["a", "a", "b"] * 8, ["train"] * 24, group=groups)), 12, 1) == []


def test_a_class_with_fewer_training_tiles_than_folds_is_named():
    labels, splits = ["tree"] * 12 + ["urban"] * 3, ["train", "test"] * 6 + ["train", "test", "test"]
    (rare,) = warnings(take_census(index(labels, splits)), 1, 5)
    assert rare.startswith("a probe needs 5 training tiles of each class, and these have fewer: urban 1; label more")
    assert warnings(take_census(index(labels, splits)), 1, 1) == []


def test_groups_in_two_splits_are_named_with_the_key_that_keeps_them_whole():
    found = take_census(index(list("abbaab"), ["train", "test"] * 3, group=["1", "1", "2", "2", "3", "3"]))
    (shared,) = warnings(found, 1, 1)
    assert shared.startswith("groups have tiles in more than one split")
    assert "split: {group: {train: 0.8, test: 0.2}}" in shared
