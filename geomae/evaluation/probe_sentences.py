"""What a probe says of its labelled tiles and of how its figures were computed."""

from collections.abc import Iterator

from geomae.evaluation.probe_task import SEGMENTATION, ProbeTask
from geomae.metrics.predictions import FEWEST_GROUPS


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
