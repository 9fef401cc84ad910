"""Comparison of reconstructions: rows by split and domain, intervals over groups, differences to the first model.

T tiles, G groups, R resamples
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.errors import ConfigError, nearest
from geomae.evaluation.reconstruction import MASKED, VISIBLE, FittedModels, ReconstructionScores, score_reconstructions
from geomae.evaluation.reconstruction_masks import MaskKind
from geomae.metrics.predictions import FEWEST_GROUPS, percentile_interval, resample_groups
from geomae.metrics.reconstruction import ALL, ErrorSums, Floats, figures, units
from geomae.randomness import generator
from geomae.sensors import Band
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import Progress

COLUMNS = (
    "model", "dataset", "split", "domain", "masking", "mask_ratio", "pixels", "band", "metric", "unit", "value", "low",
    "high", "n_tiles", "n_groups",
)  # fmt: skip
DIFFERENCE_COLUMNS = (
    "model", "reference", "dataset", "split", "domain", "masking", "mask_ratio", "pixels", "group", "band", "metric",
    "unit", "difference", "low", "high", "n_tiles", "n_groups",
)  # fmt: skip
USUAL_MASKS = (MaskKind("random", 0.75),)
MOST_PLACES = 4  # data sets and masks that the first sentence of a report names
RANKED = ("best", "median", "worst")
Row = dict[str, Any]


@dataclass(frozen=True)
class ComparisonResult:
    """Reconstruction errors of each model on each selection under each mask.

    `values` are the rows of `reconstruction.csv`, `differences` the differences to the first model in
    `differences.csv`.
    """

    scores: Sequence[ReconstructionScores]
    masks: Sequence[MaskKind]
    values: Sequence[Row]
    differences: Sequence[Row]
    seed: int

    @property
    def labels(self) -> list[str]:
        """The models in the order in which they were named."""
        return self.scores[0].fitted.labels

    def select(self, **fixed: Any) -> list[Row]:
        """The rows with these values, for example `select(metric="rmse", band="all", pixels="masked")`."""
        return [row for row in self.values if all(row[key] == value for key, value in fixed.items())]

    def metrics(self) -> dict[str, float]:
        """Every figure by name: METRIC/LABEL/BAND/DATASET/SPLIT/DOMAIN/MASK/PIXELS.

        METRIC/LABEL/BAND without more is the figure of masked pixels in the first split of the first selection under
        the first mask.
        """
        flat: dict[str, float] = {}
        for row in self.values:
            name = f"{row['metric']}/{row['model']}/{row['band']}"
            if row["pixels"] == MASKED and row["domain"] == ALL:
                flat.setdefault(name, row["value"])
            mask = f"{row['masking']}-{row['mask_ratio']:g}"
            flat["/".join((name, row["dataset"], row["split"], row["domain"], mask, row["pixels"]))] = row["value"]
        return flat


@dataclass(frozen=True)
class TilesToShow:
    """Tiles to show of each selection: by error, a number drawn at random, and by id."""

    ranked: tuple[str, ...]
    random: int
    tile_ids: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "TilesToShow":
        """Read `best,median,worst,random:4` and tile ids, in any number and order."""
        names = [one.strip() for one in text.split(",") if one.strip()]
        drawn = [one for one in names if re.fullmatch(r"random:\d{1,3}", one)]
        ranked = tuple(one for one in names if one in RANKED)
        tile_ids = tuple(one for one in names if one not in (*RANKED, *drawn))
        return cls(ranked, sum(int(one.partition(":")[2]) for one in drawn), tile_ids)

    def check(self, tile_ids: Sequence[str]) -> None:
        """Raise ConfigError for a name that is neither a tile id of a selection nor a keyword."""
        known = set(tile_ids)
        for tile_id in self.tile_ids:
            if tile_id not in known:
                keywords = (*RANKED, "random:4")
                near = nearest(tile_id, keywords) if get_close_matches(tile_id, keywords) else nearest(tile_id, known)
                raise ConfigError(f"--show {tile_id}: no tile of the data sets has this id; {near}")

    def choose(self, scores: ReconstructionScores, mask: MaskKind, seed: int) -> Iterator[tuple[str, TileIndex]]:
        """Reason and tile: by the RMSE of the first model, random ones, and named ones, compared or not."""
        index, whole = scores.index, scores.selected.index
        label, fitted = scores.fitted.labels[0], scores.fitted
        error_T = figures(scores.sums[label, mask, MASKED], fitted.bands, fitted.range_C)["rmse", ALL]
        order = [int(one) for one in np.argsort(error_T, kind="stable") if not np.isnan(error_T[one])]
        rank = {"best": 0, "median": len(order) // 2, "worst": -1}
        if order:
            yield from ((why, index.take(np.array([order[rank[why]]]))) for why in self.ranked)
        drawn = generator(seed, "tiles to show", scores.selected.name).permutation(len(index))[: self.random]
        yield from ((f"random {number}", index.take(np.array([place]))) for number, place in enumerate(drawn, 1))
        places = {tile_id: place for place, tile_id in enumerate(whole.tiles["tile_id"].tolist())}
        yield from ((one, whole.take(np.array([places[one]]))) for one in self.tile_ids if one in places)


@dataclass(frozen=True)
class TileTable:
    """Split, domain and group of the tiles; bands, unit and data range of their data set."""

    dataset: str
    split_T: NDArray[np.object_]
    domain_T: NDArray[np.object_]
    group_T: NDArray[np.object_]
    bands: tuple[Band, ...]
    unit: str
    range_C: Floats

    def parts(self) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
        """Splits with all their tiles and with those of each domain: (split, domain, positions)."""
        for split in sorted(set(self.split_T)):
            here = self.split_T == split
            yield split, ALL, np.flatnonzero(here)
            if len(set(self.domain_T)) > 1:
                for domain in sorted(set(self.domain_T[here])):
                    yield split, domain, np.flatnonzero(here & (self.domain_T == domain))


def compare_reconstructions(
    fitted: Sequence[FittedModels],
    masks: Sequence[MaskKind] = USUAL_MASKS,
    tiles: int = 256,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> ComparisonResult:
    """Compare models on at most `tiles` tiles of each selection that they were fitted to, under the same masks.

    Masks depend only on the seed, the tile, the ratio and the kind. Raises CatalogError where no tile of a selection
    can be masked, and ModelError for predictions that are not finite.
    """
    scores = [score_reconstructions(one, masks, tiles, seed, progress) for one in fitted]
    values: list[Row] = []
    differences: list[Row] = []
    for one in scores:
        table = tile_table(one)
        for mask in masks:
            for pixels in (MASKED, VISIBLE):
                context = {"masking": mask.kind, "mask_ratio": mask.ratio, "pixels": pixels}
                sums = {label: one.sums[label, mask, pixels] for label in one.fitted.labels}
                mask_values, mask_differences = rows(table, sums, context, seed)
                values += mask_values
                differences += mask_differences
    return ComparisonResult(scores, masks, values, differences, seed)


def tile_table(scores: ReconstructionScores) -> TileTable:
    """The table of the tiles of a selection; the split has a column of its own."""
    dataset = str(replace(scores.selected.selector, split=None))
    table = scores.index.tiles
    columns = (table["split"].to_numpy(), table["domain"].to_numpy(), groups_of(scores.index))
    split_T, domain_T, group_T = (np.array([str(one) for one in values], dtype=object) for values in columns)
    fitted, unit = scores.fitted, scores.selected.imagery.unit
    return TileTable(dataset, split_T, domain_T, group_T, fitted.bands, unit, fitted.range_C)


def rows(
    tiles: TileTable, sums: Mapping[str, ErrorSums], context: Mapping[str, Any], seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows of every model's figures, and of the differences of each model to the first, under one mask.

    `sums` are by label; `context` has masking, mask_ratio and pixels. Intervals (95 %) are over resamples of groups,
    the same for every model; with fewer than ten groups there are none, and differences are listed by group.
    """
    values, differences = [], []
    for split, domain, chosen in tiles.parts():
        names, group_T = np.unique(tiles.group_T[chosen].astype(str), return_inverse=True)
        weight_RG = resample_groups(len(names), seed)
        fixed = {"dataset": tiles.dataset, "split": split, "domain": domain, **context}
        counts = {"n_tiles": len(chosen), "n_groups": len(names)}
        first: _Figures | None = None
        for label, all_sums in sums.items():
            mine = _Figures.of(all_sums.take(chosen).by_group(group_T.astype(np.int64)), weight_RG, tiles)
            values += [{"model": label, **fixed, **row, **counts} for row in mine.rows(tiles.unit)]
            if first is None:
                first, reference = mine, label
                continue
            named = {"model": label, "reference": reference, **fixed}
            differences += [named | row | counts for row in mine.differences(first, names.tolist(), tiles.unit)]
    return values, differences


def summarize_best(values: Sequence[Row]) -> str:
    """The model with the lowest error for each data set and mask, in a sentence or two."""
    won: dict[str, list[str]] = {}
    places = _rmse_by_place(values)
    for where, rows in list(places.items())[:MOST_PLACES]:
        best = min(rows, key=lambda row: float(row["value"]))
        won.setdefault(best["model"], []).append(f"{where}: RMSE {_figure(best['value'])} {unit_of(best)}")
    sentences = [f"{model} has the least error on {'; on '.join(places_won)}." for model, places_won in won.items()]
    return " ".join([*sentences, "More below."] if len(places) > MOST_PLACES else sentences)


def summarize_differences(differences: Sequence[Row]) -> tuple[str, ...]:
    """Comparison of every model with the first, one text for each choice of tiles and mask."""
    texts = []
    for where, rows in _rmse_by_place(differences).items():
        whole = [row for row in rows if row["group"] == ALL]
        sentences = "; ".join(_describe_differences(whole, [row for row in rows if row["group"] != ALL]))
        few = any(row["low"] is None for row in whole)
        note = f" Its {whole[0]['n_groups']} groups are too few for an interval." if few else ""
        texts.append(f"{where}, RMSE in {unit_of(whole[0])} compared with {whole[0]['reference']}: {sentences}.{note}")
    return tuple(texts)


def whole_rmse(rows: Sequence[Row]) -> list[Row]:
    """The rows of summaries: RMSE of masked pixels, mean over bands, all domains."""
    fixed = {"pixels": MASKED, "metric": "rmse", "band": ALL, "domain": ALL}
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def place_of(row: Mapping[str, Any]) -> str:
    """Data set, split and domain of a row, as text."""
    domain = "" if row["domain"] == ALL else f", {row['domain']}"
    return f"{row['dataset']}@{row['split']}{domain}"


def mask_of(row: Mapping[str, Any]) -> str:
    """The mask of a row, as text."""
    return str(MaskKind(row["masking"], row["mask_ratio"]))


def unit_of(row: Mapping[str, Any]) -> str:
    """The unit of a row, as text."""
    return str(row["unit"]).replace("_", " ")


def groups_of(index: TileIndex) -> Sequence[Any]:
    """The groups that intervals resample: those of the catalogue, else blocks, else scenes, as tiles are correlated."""
    for column in ("group", "block"):
        if index.tiles[column].notna().all():
            return index.tiles[column].tolist()
    return index.tiles["scene"].tolist()


@dataclass(frozen=True)
class _Figures:
    """Figures of one model: over all tiles (1,), in each resample (R,) if there are any, and in each group (G,)."""

    whole: dict[tuple[str, str], Floats]
    resampled: dict[tuple[str, str], Floats] | None
    grouped: dict[tuple[str, str], Floats]

    @classmethod
    def of(cls, group_sums: ErrorSums, weight_RG: Floats | None, tiles: TileTable) -> "_Figures":
        def known(one: ErrorSums) -> dict[tuple[str, str], Floats]:
            return figures(one, tiles.bands, tiles.range_C)

        whole = group_sums.weighted(np.ones((1, len(group_sums))))
        resampled = None if weight_RG is None else known(group_sums.weighted(weight_RG))
        return cls(known(whole), resampled, known(group_sums))

    def rows(self, unit: str) -> Iterator[Row]:
        for (metric, band), value in self.whole.items():
            if np.isnan(value[0]) or np.isnan(self.whole["rmse", band][0]):
                continue  # no pixel was counted
            interval = None if metric == "data_range" else self._interval(self.resampled, (metric, band))
            yield _row(metric, band, unit) | {"value": float(value[0])} | _bounds(interval)

    def differences(self, first: "_Figures", groups: Sequence[str], unit: str) -> Iterator[Row]:
        for key, value in self.whole.items():
            if key[0] == "data_range" or np.isnan(value[0]):
                continue
            resampled = None
            if self.resampled is not None and first.resampled is not None:
                resampled = {key: self.resampled[key] - first.resampled[key]}
            difference = {"difference": float(value[0] - first.whole[key][0])}
            yield {"group": ALL} | _row(*key, unit) | difference | _bounds(self._interval(resampled, key))
            if resampled is None and key[1] == ALL:
                for group, value_of_group in zip(groups, self.grouped[key] - first.grouped[key], strict=True):
                    if not np.isnan(value_of_group):
                        difference = {"difference": float(value_of_group)}
                        yield {"group": group} | _row(*key, unit) | difference | _bounds(None)

    def _interval(
        self, resampled: Mapping[tuple[str, str], Floats] | None, key: tuple[str, str]
    ) -> tuple[float, float] | None:
        """The interval; None where fewer than FEWEST_GROUPS groups have a counted pixel."""
        if resampled is None or np.count_nonzero(~np.isnan(self.grouped[key])) < FEWEST_GROUPS:
            return None
        return percentile_interval(resampled[key])


def _row(metric: str, band: str, unit: str) -> Row:
    return {"band": band, "metric": metric, "unit": units(metric, unit)}


def _bounds(interval: tuple[float, float] | None) -> Row:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def _rmse_by_place(rows: Sequence[Row]) -> dict[str, list[Row]]:
    by_place: dict[str, list[Row]] = {}
    for row in whole_rmse(rows):
        by_place.setdefault(f"{place_of(row)} ({mask_of(row)})", []).append(row)
    return by_place


def _describe_differences(whole: Sequence[Row], grouped: Sequence[Row]) -> Iterator[str]:
    """How each model compares with the first in RMSE, mean over bands."""
    for row in whole:
        model, difference = row["model"], row["difference"]
        other = f"is {'lower' if difference < 0 else 'higher'} by {_figure(abs(difference))}"
        if row["low"] is not None:
            interval = f"95 % interval of the difference {_figure(row['low'])} to {_figure(row['high'])}"
            unclear = row["low"] <= 0 <= row["high"]
            yield f"{model} does not differ clearly ({interval})" if unclear else f"{model} {other} ({interval})"
        elif difference == 0:
            yield f"{model} is equal"
        else:
            groups = [one["difference"] for one in grouped if one["model"] == model]
            agree = sum((one < 0) == (difference < 0) for one in groups)
            yield f"{model} {other}, with the same sign in {agree} of {len(groups)} groups"


def _figure(value: float) -> str:
    return f"{value:.3g}"
