"""What a probe says of its labelled tiles and of how its figures were computed.

T tiles of a test
"""

from collections.abc import Iterator

import numpy as np

from geomae.evaluation.probe_task import SEGMENTATION, ProbeTask
from geomae.metrics.predictions import FEWEST_GROUPS
from geomae.tiles.selection import overlapping


def describe_scoring(task: ProbeTask) -> Iterator[str]:
    """Sentences on how the figures were computed."""
    settings = task.settings
    if settings.C is not None:
        yield f"The strength of every linear probe was fixed at {settings.C:g}."
    else:
        yield (
            f"The strength of each linear probe (scikit-learn's C) was chosen on {task.how}; in a tie the "
            "stronger regularisation was taken. No label of a test set was used."
        )
    if settings.cross_fit is not None:
        yield (
            f"Cross-fitting: {settings.cross_fit} fits, each without the groups of one fold, which it then predicts in "
            "every test set."
        )
    for name, classes in task.averaged.items():
        left = [one for one in task.names if one not in classes]
        what = "hold them" if settings.task == SEGMENTATION else "are of them"
        yield f"{name}: averages are over {', '.join(classes)}" + (
            f"; not over {', '.join(left)}, since fewer than {settings.min_class_rows} test tiles {what}."
            if left
            else "."
        )
    yield from left_out(task)
    yield from (f"{sentence}." for sentence in overlaps(task))
    for name, truth in task.truths.items():
        many = truth.groups >= FEWEST_GROUPS
        sizes = {test.name: test.size.replace("labelled ", "") for test in task.tests}
        yield f"{name}: {sizes[name]} in {truth.groups} groups; " + (
            "intervals (95 %) are those of 1,000 resamples of the groups."
            if many
            else f"with fewer than {FEWEST_GROUPS} groups there are no intervals."
        )


def left_out(task: ProbeTask) -> Iterator[str]:
    """A sentence for each selection with tiles that have no label."""
    for name, count in {part.name: part.unlabelled for part in task.labelled}.items():  # train may also be a test
        if count:
            yield f"{name}: {count} tiles without a label were left out."


def overlaps(task: ProbeTask) -> Iterator[str]:
    """A sentence for each test with tiles that share pixels with others that their probe learns from."""
    for test in task.tests:
        if task.settings.task == SEGMENTATION and test.index.by_polygon:
            continue  # polygons are held apart, not tiles, of which each part has the pixels of its polygons
        shared_T = np.zeros(len(test), dtype=bool)
        for plan in task.plans:
            places, learned = plan.tests[test.name], task.train.index.take(plan.train)
            shared_T[places] |= overlapping(test.index.take(places), learned)
        if shared_T.any():
            yield (
                f"{test.name}: {shared_T.sum()} of {len(test)} tiles overlap tiles that their probe learns from, which "
                "makes scores optimistic; keep them apart by `group`, or by `split: {block_km: ...}`"
            )
