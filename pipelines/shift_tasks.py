"""Probes for the shifts of a family: tiles of a labelled source, and of a target whose labels are only for scoring."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Catalog, DatasetEntry, parse_selector
from geomae.commands.options import CommonOptions
from geomae.commands.probe import ProbeOptions, probe_settings
from geomae.commands.session import Session
from geomae.errors import CatalogError
from geomae.evaluation.probe_embeddings import fit_usable, usable_radiometry
from geomae.evaluation.probe_task import ProbeTask, read_probe_task
from geomae.files import digest, publish_dir, write_csv
from geomae.randomness import generator
from geomae.rasters import write_cog
from geomae.tiles.radiometry import Radiometry
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Selection, select_tiles, share_bands
from pipelines.benchmark_tasks import Task, Tiles
from pipelines.shift_config import Change, Family, Made, Shift

FEWEST_TEST, FEWEST_TRAIN = 15, 5  # tiles per class: for scoring, and for training (one for each fold)
ACROSS = 25  # tiles per row in the raster of changed tiles
SERIES = 0.7  # ratio of successive class shares under full resampling


@dataclass(frozen=True)
class ShiftTask:
    """One shift, ready to be probed."""

    family: str
    shift: str
    probe: ProbeTask

    @property
    def dataset(self) -> str:
        """The data set of the training labels, which selects the encoder."""
        return self.probe.train.index.name

    @cached_property
    def usable(self) -> dict[tuple[str, str], bool]:
        """The radiometric methods to fit, as far as bands and places tell, by method and target."""
        return usable_radiometry(self.probe, (), lambda reason: None)

    @cached_property
    def radiometry(self) -> dict[tuple[str, str], Radiometry]:
        """Every radiometry that can be fitted, by method and target. Fitting prints what each rests on."""
        return fit_usable(self.probe, self.usable, print)

    def digest(self) -> str:
        """Digest of everything that predictions from given embeddings depend on."""
        return digest([Task(self.shift, self.probe, ()).digest(), *self.usable])

    def describe(self) -> str:
        """One line."""
        train, test = self.probe.train, self.probe.tests[0]
        scored = ", ".join(self.probe.averaged[test.name])
        return f"{self.shift}: {train.name} ({len(train)}) -> {test.name} ({len(test)}), scored over {scored}"


def family_catalog(family: Family, session: Session, out: Path) -> Catalog:
    """The catalogue with the data sets that the family adds; pixels that it changes are written below `out`."""
    added = {name: DatasetEntry.model_validate(entry) for name, entry in family.datasets.items()}
    catalog = replace(session.catalog, entries={**session.catalog.entries, **added})
    return catalog if family.made is None else _with_made(catalog, family.made, family.most, session, out)


def family_tiles(family: Family, catalog: Catalog, session: Session) -> Tiles:
    """The tiles of every data set of a family, each indexed once."""
    texts = [text for shift in family.shifts.values() for text in (shift.source, shift.target)]
    names = list(dict.fromkeys(parse_selector(text).dataset for text in texts))
    tiles = Tiles(select_tiles(catalog, names, session.screen.step, session.screen.warn))
    session.screen.close()
    return tiles


def family_tasks(family: Family, tiles: Tiles, seed: int) -> list[ShiftTask]:
    """The shifts of a family, each draw separately. Raises ConfigError or CatalogError for impossible requests."""
    return [
        ShiftTask(family.family, name if shift.draws == 1 else f"{name} {draw:02d}", probe)
        for name, shift in family.shifts.items()
        for draw, probe in enumerate(_draws(name, shift, tiles, family.most, seed))
    ]


def store_key(selection: Selection) -> str:
    """Key of a data set with certain bands, which is embedded once."""
    return digest([selection.index.name, selection.imagery.to_dict()])


def union(parts: Sequence[Selection], tiles: Tiles) -> Selection:
    """All tiles of one data set that occur in any of the selections, in the order of the data set."""
    whole = tiles.datasets[parts[0].index.name]
    wanted = {tile for one in parts for tile in one.index.tiles["tile_id"]}
    places = np.flatnonzero(whole.index.tiles["tile_id"].isin(wanted))
    return replace(whole, index=whole.index.take(places), imagery=parts[0].imagery)


def _draws(name: str, shift: Shift, tiles: Tiles, most: int, seed: int) -> Iterator[ProbeTask]:
    source, target = share_bands([tiles.choose(parse_selector(text)) for text in (shift.source, shift.target)])
    common = CommonOptions(seed=seed)
    options = ProbeOptions(
        common, shift.source, (shift.target,), (), cross_fit=shift.folds, min_class_rows=FEWEST_TEST, align=("all",)
    )
    settings = replace(probe_settings(options), shots=())
    for draw in range(shift.draws):
        sides = [source, target]
        if shift.halves:
            sides = _halves(source, target, generator(seed, "shift halves", name, draw))
        near = _at_most(_labelled(sides[0]), most, seed)
        counted = Counter(near.index.tiles["label"].tolist())
        classes = [one for one, count in counted.items() if count >= FEWEST_TRAIN]
        near, far = (_labelled(one, classes) for one in (near, sides[1]))
        if shift.shares is not None:
            far = _resampled(far, shift.shares, generator(seed, "shift shares", name, draw))
        yield read_probe_task(settings, [near, _at_most(far, most, seed)])


def _taken(selection: Selection, places: NDArray[np.int64]) -> Selection:
    """The tiles at `places`; tiles of other splits of the data set do not belong to this shift."""
    index = selection.index.take(np.sort(places))
    return replace(selection, index=index, whole=index)


def _labelled(selection: Selection, classes: Sequence[str] | None = None) -> Selection:
    """The tiles with a label, which must be in `classes` if these are given."""
    label_T = selection.index.tiles["label"]
    kept_T = label_T.notna() if classes is None else label_T.isin(classes)
    if not kept_T.any():
        raise CatalogError(f"{selection.name}: no tile has a label that the other side has often enough")
    return _taken(selection, np.flatnonzero(kept_T))


def _at_most(selection: Selection, most: int, seed: int) -> Selection:
    tiles = len(selection.index)
    rng = generator(seed, "shift tiles", selection.name)
    return selection if tiles <= most else _taken(selection, rng.permutation(tiles)[:most])


def _halves(source: Selection, target: Selection, rng: np.random.Generator) -> list[Selection]:
    """Split the groups into halves: the source in one, the target in the other."""
    units = [np.array(one.index.independent_units()) for one in (source, target)]
    groups = rng.permutation(sorted({*units[0].tolist(), *units[1].tolist()}))
    first = groups[: len(groups) // 2]
    return [
        _taken(source, np.flatnonzero(np.isin(units[0], first))),
        _taken(target, np.flatnonzero(~np.isin(units[1], first))),
    ]


def _resampled(selection: Selection, strength: float, rng: np.random.Generator) -> Selection:
    """The largest subset of tiles whose class shares lie between the present ones and a random geometric series."""
    label_T = selection.index.tiles["label"].to_numpy()
    names, count_K = np.unique(label_T, return_counts=True)
    series_K = rng.permutation(SERIES ** np.arange(len(names)))
    share_K = (1 - strength) * count_K / count_K.sum() + strength * series_K / series_K.sum()
    wanted_K = np.floor(share_K * (count_K / share_K).min() + 1e-9).astype(int)
    drawn = [rng.permutation(np.flatnonzero(label_T == name))[:n] for name, n in zip(names, wanted_K, strict=True)]
    return _taken(selection, np.concatenate(drawn))


def _with_made(catalog: Catalog, made: Made, most: int, session: Session, out: Path) -> Catalog:
    """The catalogue with a data set for each change; its tiles are written side by side to a file below `out`."""
    selector = parse_selector(made.of)
    (chosen,) = select_tiles(catalog, [selector], session.screen.step, session.screen.warn)
    chosen = _at_most(_labelled(chosen), most, session.common.seed)
    entries = dict(catalog.entries)
    for name, change in made.changes.items():
        folder = out / "made" / f"{name}-{digest([chosen.digest(), change.model_dump()])[:12]}"
        if not folder.is_dir():
            session.screen.say(f"writing {name}: {len(chosen.index)} tiles of {made.of} with other pixels")
            with publish_dir(folder) as unfinished:
                _write_tiles(unfinished, chosen, change)
        written = catalog.entry(selector.dataset).model_dump(exclude_unset=True, by_alias=True)
        kept = {key: written[key] for key in ("sensor", "bands", "unit", "gsd_m") if key in written}
        size = int(chosen.index.tiles["size"].iloc[0])
        windows = {"table": str(folder / "tiles.csv"), "key": "file", "row": "row", "col": "col", "size": size}
        place = {"path": str(folder / "tiles.tif"), "windows": windows, "label": {"column": "label"}, "outside": True}
        entries[name] = DatasetEntry.model_validate({**kept, **place})
    return replace(catalog, entries=entries)


def _write_tiles(folder: Path, chosen: Selection, change: Change) -> None:
    """Write one raster of all changed tiles, and a table of their positions and labels."""
    reader, labels = TileReader(chosen.index), chosen.index.tiles["label"].tolist()
    sides = np.unique(reader.side_T)
    if len(sides) > 1:
        raise CatalogError(f"{chosen.name}: tiles of {sides[0]} and {sides[-1]} pixels; changes need tiles of one size")
    side, rows = int(sides[0]), -(-len(reader) // ACROSS)
    sheet_CHW = np.zeros((len(reader.bands), rows * side, ACROSS * side), dtype=np.uint8)
    table = []
    for number, label in enumerate(labels):
        row, col = number // ACROSS * side, number % ACROSS * side
        sheet_CHW[:, row : row + side, col : col + side] = change.apply(reader.read(number)[0])
        table.append({"file": "tiles", "row": row, "col": col, "label": label})
    write_cog(folder / "tiles.tif", sheet_CHW)
    write_csv(folder / "tiles.csv", ("file", "row", "col", "label"), table)
