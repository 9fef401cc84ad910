"""STAC items in a folder each, as archives and `pystac` lay them out, are one data set and not one for each folder."""

import glob
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from geomae.catalog.stac_items import SINGLE_ITEMS, Item
from geomae.discovery.grouping import folder_pattern

Group = tuple[str, list[Item]]  # the path or glob of files of items, relative to the root, and the items


def join_folders(root: Path, groups: Sequence[Group]) -> list[Group]:
    """Join groups of single items in several folders (`a/1/*.json`, `a/2/*.json`) to one (`a/*/*.json`).

    Joined are those of the same collections, or without a collection those with the same keys of assets, at the same
    depth, if no id is repeated and a glob matches their files and no other.
    """
    alike: dict[Hashable, list[Group]] = defaultdict(list)
    for pattern, items in groups:
        single = pattern.rpartition("/")[2] == SINGLE_ITEMS
        alike[_kind(items) if single else pattern].append((pattern, items))
    return [joined for group in alike.values() for joined in _joined(root, group)]


def _kind(items: Sequence[Item]) -> Hashable:
    collections = frozenset(one.collection for one in items)
    assets = frozenset(key for one in items for key in one.assets) if collections == {None} else frozenset()
    return len(items[0].folder.parts), collections, assets


def _joined(root: Path, groups: list[Group]) -> list[Group]:
    items = [one for _, group in groups for one in group]
    if len(groups) == 1 or len({(one.collection, one.id) for one in items}) < len(items):
        return groups
    below = {one.folder.relative_to(root).as_posix() for one in items}
    pattern = folder_pattern(["" if one == "." else one for one in below]) + SINGLE_ITEMS
    matched = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207  # as the catalogue will find them
    return [(pattern, items)] if len(matched) == len(items) else groups
