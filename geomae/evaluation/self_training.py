"""Self-training on frozen embeddings: the probe is retrained with pseudo-labels of confident target tiles.

N training tiles of the source, M tiles of the target, D features, K classes
"""

import numpy as np

from geomae.evaluation.alignment import AffineMap
from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.folds import assign_groups
from geomae.evaluation.linear_probe import LOOSE, fit_path, one_hot
from geomae.metrics.calibration import softmax
from geomae.metrics.predictions import UNKNOWN, Codes, Floats

PORTIONS = (0.2, 0.4, 0.6)  # share of the tiles of each class with pseudo-labels, by round (Zou et al. 2018)


def self_train(domains: Domains) -> Moved:
    """Class-balanced self-training (Zou et al. 2018) with two probes, each of half of the source's groups.

    In each round both predict the target. Tiles where they disagree get no pseudo-label. Of the others, the same
    portion of each class does: those where the less confident probe is most confident. Pseudo-labels are recomputed in
    each round.
    """
    label_N, groups_N = domains.label_N, domains.labelled.group_P[domains.plan.train]
    half_N = assign_groups(label_N, groups_N if len(np.unique(groups_N)) > 1 else np.arange(len(label_N)), 2)
    stay = AffineMap.identity(domains.pool_PD.shape[1])
    moved = Moved(domains, domains.pool_PD.astype(np.float64), stay)
    for portion in PORTIONS:
        shares = [_shares(moved, domains.plan.train[half_N == half]) for half in (0, 1)]
        pseudo_M = confident_of_each_class(shares[0], shares[1], portion)
        moved = Moved(domains, moved.pool_PE, stay, pseudo_M=pseudo_M)
    return moved


def confident_of_each_class(first_MK: Floats, second_MK: Floats, portion: float) -> Codes:
    """The class (M) of the most confident `portion` of each class where both predictions agree; else UNKNOWN."""
    class_M = first_MK.argmax(1)
    sure_M = np.minimum(first_MK, second_MK).max(1, where=np.eye(first_MK.shape[1], dtype=bool)[class_M], initial=0)
    agreed_M = class_M == second_MK.argmax(1)
    pseudo_M = np.full(len(class_M), UNKNOWN)
    for code in np.unique(class_M[agreed_M]):
        places = np.flatnonzero(agreed_M & (class_M == code))
        taken = places[np.argsort(-sure_M[places], kind="stable")[: int(np.ceil(portion * len(places)))]]
        pseudo_M[taken] = code
    return pseudo_M


def _shares(moved: Moved, tiles: Codes) -> Floats:
    rows, label = moved.learned(tiles)
    domains = moved.domains
    return softmax(
        fit_path(rows, one_hot(label, domains.classes), [domains.C], tolerance=LOOSE)[0].scores(moved.target_ME)
    )
