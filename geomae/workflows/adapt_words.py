"""What an adaptation came to, in sentences: whether it helped, by how much, and how sure that is."""

from geomae.analysis.bootstrap import FEWEST_GROUPS
from geomae.analysis.closing import Figure
from geomae.workflows.adapt_errors import Change
from geomae.workflows.adapt_outcome import Outcome
from geomae.workflows.probe_words import metric_name


def verdict(outcome: Outcome) -> str:
    """One sentence: the target's labels where there are any, else its reconstruction; then what it cost the source."""
    target, source = outcome.error("target"), outcome.error("source")
    assert target is not None
    parts = [_reconstruction(target)]
    if outcome.adapted.kept_step == 0:
        parts = [
            f"The model was left as it was: no validation was better than the start on held-out tiles of "
            f"{target.selector} in {outcome.adapted.steps} steps"
        ]
    if source is not None and outcome.adapted.kept_step:
        parts.append(f"on {source.selector} it {_moved(source)}{_span(source.interval, 100, ' %')}")
    if outcome.proof.target:
        parts.append(_labels(outcome))
    return "; ".join(parts) + "."


def _reconstruction(target: Change) -> str:
    """What became of the error on the target, and how far the held-out groups carry it."""
    what = (
        f"The reconstruction error on held-out tiles of {target.selector} {_moved(target)}"
        f"{_span(target.interval, 100, ' %')}"
    )
    if target.interval is None:
        sure = f"in {target.n_better} of {target.n_groups} groups it fell, which are too few for an interval"
    elif target.interval[1] < 0:
        sure = "which is more than chance"
    elif target.interval[0] > 0:
        sure = "which is worse, and not by chance"
    else:
        sure = "which the data cannot tell from none"
    return f"{what}, {sure}"


def _labels(outcome: Outcome) -> str:
    """What a probe of the source's labels makes of the target."""
    probe, problem = outcome.proof.target, outcome.plan.problem
    assert problem is not None
    (test,) = problem.tests
    change = probe["change"]
    helped = "rose" if change.value > 0 else "fell" if change.value < 0 else "stayed"
    sure = (
        f"which {problem.truths[test.name].groups} groups are too few to tell from chance (it takes {FEWEST_GROUPS})"
        if change.interval is None
        else "which the data cannot tell from none"
        if change.interval[0] <= 0 <= change.interval[1]
        else "which is more than chance"
    )
    return (
        f"a probe of {problem.train.name} {helped} on {test.name} from {probe['before'].value:.3f} to "
        f"{probe['after'].value:.3f} {metric_name(outcome.proof.metric)}"
        f"{_span(change.interval, 1, '')}, {sure}{_closed(probe)}"
    )


def _closed(probe: dict[str, Figure]) -> str:
    share = probe.get("share_closed")
    if share is None:
        return ""
    oracle = f"a probe of the target itself ({probe['oracle'].value:.3f})"
    if share.value != share.value:
        return f"; {oracle} is hardly better than before, so there is no gap to close"
    if share.value <= 0:
        return f", no step towards {oracle}"
    return f", {share.value:.0%} of the way to {oracle}"


def _moved(change: Change) -> str:
    way = "fell" if change.change < 0 else "rose"
    return f"{way} by {abs(change.change) * 100:.1f} % ({change.before:.4g} to {change.after:.4g})"


def _span(interval: tuple[float, float] | None, factor: float, unit: str) -> str:
    if interval is None:
        return ""
    digits = 1 if factor == 100 else 3
    return f" [{interval[0] * factor:+.{digits}f}, {interval[1] * factor:+.{digits}f}]{unit}"
