"""Folds: the training tiles dealt so that what belongs together is held out together.

T tiles, F folds
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from geomae.analysis.scores import Codes
from geomae.errors import ConfigError
from geomae.randomness import key

MOST_FOLDS = 5


@dataclass(frozen=True)
class Dealt:
    """Which fold each tile is held out in, and in words what was kept together."""

    fold_T: Codes
    how: str

    def parts(self) -> list[tuple[Codes, Codes]]:
        """Tiles to train on and tiles held out, of each fold."""
        places = [np.flatnonzero(self.fold_T == fold) for fold in np.unique(self.fold_T)]
        return [(np.flatnonzero(~np.isin(np.arange(len(self.fold_T)), held)), held) for held in places]


def codes_of(names_T: Sequence[Any] | NDArray[Any]) -> tuple[Codes, list[str]]:
    """Names as numbers (T,), which count the different names in their order."""
    codes_T, names = pd.factorize(np.asarray(names_T, dtype=object), sort=True)
    return codes_T.astype(np.int64), [str(name) for name in names]


def deal_groups(label_T: Codes, group_T: Codes, folds: int) -> Codes:
    """Deal whole groups to folds, the largest mixtures first, each where the classes stay most even (greedy)."""
    splitter = StratifiedGroupKFold(folds)
    return _numbered(splitter.split(np.zeros(len(label_T)), label_T, group_T), len(label_T))


def deal_training(
    label_T: NDArray[Any], names: Sequence[str], fold_T: Sequence[Any], group_T: Sequence[Any], seed: int
) -> Dealt:
    """Folds to choose a strength by: of the column `fold` where it tells tiles apart, else of `group`, else of tiles.

    There are at most five, and no more than groups. `names` are those of the classes, without any for numbers. Raises
    ConfigError for a class with fewer tiles than folds.
    """
    class_T = label_T if names else quarters(label_T)
    for column, values in (("fold", fold_T), ("group", group_T)):
        codes_T, known = codes_of(["" if value is None else str(value) for value in values])
        if len(known) > 1:
            folds = min(MOST_FOLDS, len(known))
            check_rows(label_T, names, folds)
            dealt_T = deal_groups(class_T, codes_T, folds)
            return Dealt(dealt_T, f"{len(np.unique(dealt_T))} folds of the training tiles by {column} ({len(known)})")
    folds = min(MOST_FOLDS, len(label_T))
    check_rows(label_T, names, folds)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=key(seed, "folds") % 2**32)
    dealt_T = _numbered(splitter.split(np.zeros(len(label_T)), class_T), len(label_T))
    return Dealt(dealt_T, f"{folds} random folds of the training tiles, which name no groups")


def quarters(value_T: NDArray[Any]) -> Codes:
    """Numbers as four classes of about equal size, to be kept even in folds."""
    return np.searchsorted(np.quantile(value_T, (0.25, 0.5, 0.75)), value_T)


def check_rows(label_T: Codes, names: Sequence[str], folds: int) -> None:
    """Raise ConfigError where a class has fewer tiles than there are folds."""
    for code, name in enumerate(names):
        rows = int((label_T == code).sum())
        if 0 < rows < folds:
            raise ConfigError(
                f"class {name!r} has {rows} training tile{'s' * (rows > 1)}, fewer than the {folds} folds; label more, "
                "leave the class out with `where`, or fix --strength (and ask for fewer folds with --cross-fit)"
            )


def _numbered(splits: Any, tiles: int) -> Codes:
    fold_T = np.zeros(tiles, dtype=np.int64)
    for number, (_, held_out) in enumerate(splits):
        fold_T[held_out] = number
    return fold_T
