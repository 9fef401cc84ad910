"""What the figures of a probe say, in plain sentences."""

from collections.abc import Iterator

from geomae.analysis.bootstrap import FEWEST_GROUPS
from geomae.analysis.measures import ALL
from geomae.analysis.probe_rows import TO_BASELINE, TO_FIRST, Contender, Row, Scored
from geomae.analysis.probing import Asked
from geomae.workflows.probe_problem import Problem
from geomae.workflows.probe_request import SEGMENTATION

SPELLED = {
    "mean_iou": "mean IoU", "iou": "IoU", "r2": "R²", "macro_f1": "macro F1", "f1": "F1", "rmse": "RMSE", "mae": "MAE",
}  # fmt: skip


def metric_name(metric: str) -> str:
    """As people write it."""
    return SPELLED.get(metric, metric.replace("_", " "))


def find(scored: Scored, encoder: str, asked: Asked, metric: str) -> Row | None:
    """The row of a figure over all classes and seeds."""
    wanted = (encoder, asked.test, asked.method, asked.shots, asked.align, metric, ALL, None)
    return next(
        (r for r in scored.rows if (r.encoder, r.test, r.method, r.shots, r.align, r.metric, r.of, r.seed) == wanted),
        None,
    )


def interval_text(row: Row | None) -> str:
    """The interval of a figure, which does not break over lines; empty without one."""
    return (
        f"[{row.interval[0]:.3f},\N{NO-BREAK SPACE}{row.interval[1]:.3f}]" if row is not None and row.interval else ""
    )


def verdicts(problem: Problem, contenders: list[Contender], scored: Scored) -> Iterator[str]:
    """A sentence for each test set and each encoder that is compared: what the linear probe says, or cannot say."""
    for test in problem.tests:
        asked = Asked(test.name, "linear")
        main = problem.truths[test.name].measure.main
        groups = problem.truths[test.name].groups
        for contender in contenders:
            own = find(scored, contender.label, asked, main)
            against = [(TO_BASELINE, scored.best_baseline.get(asked, ""))]
            against += [(TO_FIRST, contenders[0].label)] if not contender.baseline else []
            pairs = [(name, row) for metric, name in against if (row := find(scored, contender.label, asked, metric))]
            if own is None or not pairs:
                continue
            what = f"{metric_name(main)} {own.value:.3f} {interval_text(own)}".rstrip()
            said = ". ".join(_against(name, row, groups) for name, row in pairs)
            yield f"{test.name}: {contender.label} has {what}. {said}."


def _against(other: str, row: Row, groups: int) -> str:
    if row.interval is None:
        side = "above" if row.value > 0 else "below"
        return (
            f"It lies {abs(row.value):.3f} {side} {other}, but {groups} groups are too few to say whether that is more "
            f"than chance (it takes {FEWEST_GROUPS})"
        )
    low, high = row.interval
    span = f"[{low:+.3f}, {high:+.3f}]"
    if low > 0 or high < 0:
        return f"It is {'better' if low > 0 else 'worse'} than {other}, by {row.value:+.3f} {span}"
    return f"The data cannot tell it from {other}: {row.value:+.3f} {span}"


def scoring(problem: Problem) -> Iterator[str]:
    """How the figures came about."""
    request = problem.request
    if request.strength is not None:
        yield f"The strength of every linear probe was fixed at {request.strength:g}."
    else:
        yield (
            f"The strength of each linear probe (scikit-learn's C) was chosen on {problem.how}; of equal scores the "
            "stronger regularisation was taken. No label of a test set had a part in it."
        )
    if request.cross_fit is not None:
        yield (
            f"Cross-fitting: {request.cross_fit} fits, each without the groups of one fold, which it then predicts in "
            "every test set."
        )
    for name, classes in problem.averaged.items():
        left = [one for one in problem.names if one not in classes]
        what = "hold them" if request.task == SEGMENTATION else "are of them"
        yield f"{name}: averages are over {', '.join(classes)}" + (
            f"; not over {', '.join(left)}, since fewer than {request.min_class_rows} test tiles {what}."
            if left
            else "."
        )
    for side in problem.sides:
        if side.unlabelled:
            yield f"{side.name}: {side.unlabelled} tiles without a label were left out."
    for name, truth in problem.truths.items():
        many = truth.groups >= FEWEST_GROUPS
        yield f"{name}: {len(truth.group_T)} tiles in {truth.groups} groups; " + (
            "intervals (95 %) are those of 1,000 resamples of the groups."
            if many
            else f"with fewer than {FEWEST_GROUPS} groups there are no intervals."
        )
