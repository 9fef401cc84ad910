"""Scores of methods that use no label of the target, to choose among methods.

N training tiles of the source, M tiles of the target, E features after the method, K classes. More is better in all.
"""

from collections.abc import Sequence

import numpy as np

from geomae.evaluation.domains import Domains, Moved
from geomae.evaluation.folds import assign_groups
from geomae.evaluation.linear_probe import LOOSE, LinearProbe, fit_path, one_hot
from geomae.metrics.calibration import softmax
from geomae.metrics.predictions import Codes, Floats, balanced_accuracy, confusion
from geomae.randomness import generator

CIRCULAR, WEIGHTED, MIXED, AGREEMENT = SCORERS = (
    "circular_validation", "weighted_validation", "mixed_validation", "group_agreement",
)  # fmt: skip
DOMAIN_FOLDS = 3
MIX = 0.55  # weight of the tile whose class should be predicted (Hu et al. 2023)
DOMAIN_C = 0.01  # of the domain classifier: strongly regularised, so that weights are not dominated by a few tiles


def circular_validation(
    source_NE: Floats,
    label_N: Codes,
    target_ME: Floats,
    classes: int,
    C_values: Sequence[float],
    probes: Sequence[LinearProbe] = (),
) -> dict[float, float]:
    """Circular validation (Bruzzone & Marconcini 2010) of a linear probe of each strength, in aligned features.

    The source probe predicts labels for the target; a second probe is trained on these; its balanced accuracy on the
    source is the score. It is low where classes of the source are mapped to the wrong tiles of the target. `probes` are
    the first probes, where a method trains on more than the source.
    """
    probes = probes or fit_path(source_NE, one_hot(label_N, classes), C_values, tolerance=LOOSE)
    scores = {}
    for C, there in zip(C_values, probes, strict=True):
        guessed_M = there.predict(target_ME)
        if len(np.unique(guessed_M)) > 1:
            back = fit_path(target_ME, one_hot(guessed_M, classes), [C], tolerance=LOOSE)[0]
            returned_N = back.predict(source_NE)
        else:
            returned_N = np.full(len(label_N), guessed_M[0])
        scores[C] = float(balanced_accuracy(confusion(label_N, returned_N, classes)))
    return scores


def weighted_validation(moved: Moved, C: float) -> float:
    """Importance-weighted validation (Sugiyama et al. 2007): balanced accuracy on held-out tiles of the source.

    The weight of a tile is the ratio of the probabilities of target and source, by a domain classifier in the features
    after the method.
    """
    domains, pool_PE = moved.domains, moved.pool_PE
    label_P, classes = domains.labelled.label_P, domains.classes
    both = np.concatenate([moved.source_NE, moved.target_ME])
    side = np.repeat([0, 1], [len(moved.source_NE), len(moved.target_ME)])
    side_P2 = softmax(fit_path(both, one_hot(side, 2), [DOMAIN_C], tolerance=LOOSE)[0].scores(pool_PE))
    weight_P = side_P2[:, 1] / side_P2[:, 0]
    counts_KK = np.zeros((classes, classes))
    for learn, held in domains.plan.folds:
        predicted = _probe(moved, learn, C).predict(pool_PE[held])
        np.add.at(counts_KK, (label_P[held], predicted), weight_P[held])
    return float(balanced_accuracy(counts_KK))


def mixed_validation(probe: LinearProbe, target_ME: Floats, seed: int) -> float:
    """MixVal (Hu et al. 2023) between classes: how often a mixture of two tiles has the class of the larger part.

    Each tile of the target is mixed with one that has another predicted class. Where classes are well separated in the
    target, the larger part decides. (Mixtures within a class keep it under any linear probe.)
    """
    score_MK = probe.scores(target_ME)
    class_M = score_MK.argmax(1)
    other_M = generator(seed, "mixed validation").permutation(len(class_M))
    pairs = np.flatnonzero(class_M != class_M[other_M])
    if not len(pairs):
        return 0.0
    # A class that was not trained on has a score of minus infinity in every mixture.
    mixed_K = (MIX * score_MK[pairs] + (1 - MIX) * score_MK[other_M[pairs]]).argmax(1)
    return float(balanced_accuracy(confusion(class_M[pairs], mixed_K, score_MK.shape[1])))


def group_agreement(moved: Moved, C: float) -> float:
    """Cohen's kappa on the target between two probes, each trained on half of the source's groups.

    Features that are specific to the groups of one probe do not transfer to the target and lower the agreement.
    """
    domains = moved.domains
    train = domains.plan.train
    group_N = domains.labelled.group_P[train]
    half_N = assign_groups(domains.label_N, group_N if len(np.unique(group_N)) > 1 else np.arange(len(train)), 2)
    first, second = (_probe(moved, train[half_N == half], C).predict(moved.target_ME) for half in (0, 1))
    counts_KK = confusion(first, second, domains.classes) / len(first)
    by_chance = float(counts_KK.sum(1) @ counts_KK.sum(0))
    return (float(np.trace(counts_KK)) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def domain_accuracy(domains: Domains, group_M: Codes) -> float:
    """Balanced accuracy of a domain classifier on groups that it was not trained on: about 0.5 for equal domains."""
    group_N = domains.labelled.group_P[domains.plan.train]
    rows = np.concatenate([domains.source_ND, domains.target_MD])
    side = np.repeat([0, 1], [len(group_N), len(group_M)])
    groups = np.concatenate([group_N, group_N.max() + 1 + group_M])
    fold = assign_groups(side, groups, min(DOMAIN_FOLDS, len(np.unique(groups))))
    counts_KK = np.zeros((2, 2))
    for number in np.unique(fold):
        learn, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        probe = fit_path(rows[learn], one_hot(side[learn], 2), [DOMAIN_C], tolerance=LOOSE)[0]
        counts_KK += confusion(side[held], probe.predict(rows[held]), 2)
    return float(balanced_accuracy(counts_KK))


def _probe(moved: Moved, tiles: Codes, C: float) -> LinearProbe:
    """A probe in the features after a method, trained on some of the labelled tiles."""
    rows, label = moved.learned(tiles)
    probe = fit_path(rows, one_hot(label, moved.domains.classes), [C], tolerance=LOOSE)[0]
    return probe if moved.offset_K is None else probe.shifted(moved.offset_K)
