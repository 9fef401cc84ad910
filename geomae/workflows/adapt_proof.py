"""The proof of an adaptation in the embeddings: the gap before and after, and where labels exist what a probe says.

T tiles
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geomae.analysis.closing import Figure, change, compare, cross_fitted, share_closed
from geomae.analysis.embedding_gap import draw_tiles, embedding_gap
from geomae.analysis.folds import codes_of
from geomae.analysis.gap_contrast import GapFigure
from geomae.analysis.probing import Asked
from geomae.analysis.scores import Codes
from geomae.encoders.reference import parse_encoder
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.training.signals import Stop
from geomae.workflows.adapt_data import Domains
from geomae.workflows.adapt_request import Request
from geomae.workflows.apart import check_apart
from geomae.workflows.embedding import Choice, Session
from geomae.workflows.probe_embed import Embeddings, Loader, embed_all, load_trained, share_bands
from geomae.workflows.probe_problem import Problem, read_problem
from geomae.workflows.probe_request import CLASSIFICATION, read_request
from geomae.workflows.probe_request import Request as ProbeRequest
from geomae.workflows.probe_sides import Side, codes, labelled_side
from geomae.workflows.selected import Selected

BEFORE, AFTER = "before", "after"
BASELINES = ("baseline:statistics", "baseline:rcf")
CROSS_FIT = 3  # where groups stand on both sides, as sites that are seen in two seasons


@dataclass(frozen=True)
class Plan:
    """What is embedded: `gap` are source and target, or nothing; `problem` is what the probe is asked."""

    gap: tuple[Selected, ...]
    problem: Problem | None

    @property
    def needed(self) -> list[Selected]:
        """All tiles to be embedded."""
        return [*self.gap, *([side.selected for side in self.problem.sides] if self.problem else [])]


@dataclass(frozen=True)
class Proof:
    """Gap figures by model; of the probe the figures on the target and on the source, and the metric's name."""

    gap: dict[str, list[GapFigure]]
    target: dict[str, Figure]
    source: dict[str, Figure]
    metric: str = ""


def plan_proof(session: Session, request: Request, domains: Domains) -> Plan:
    """What can be proved. Raises CatalogError or ConfigError for labelled tiles that cannot be probed."""
    roles = (("source", domains.source), ("target", domains.target)) if domains.source else ()
    gap = [_drawn(one.selected, role, session.common.seed) for role, one in roles]
    if request.probe_train is None or request.probe_test is None:
        try:
            return Plan(tuple(share_bands(gap)) if gap else (), None)
        except BandMismatchError:  # a spectral embedding takes either as it is
            return Plan(tuple(gap), None)
    labelled = session.select([request.probe_train, request.probe_test])
    for one, option in zip(labelled, ("--probe-train", "--probe-test"), strict=True):
        labelled_side(one, session.catalog, CLASSIFICATION, option)
    check_apart(labelled[0].index, labelled[1].index, f"--probe-train {labelled[0].name}")
    chosen = share_bands([*gap, *labelled])
    learned, tested = (set(one.index.independent_units()) for one in labelled)
    asked = ProbeRequest(
        session.common, request.probe_train, (request.probe_test,), (),
        cross_fit=max(2, min(CROSS_FIT, len(learned))) if learned & tested else None,
        min_class_rows=request.min_class_rows,
    )  # fmt: skip
    try:
        problem = read_problem(asked, chosen[len(gap) :], session.catalog)
    except (CatalogError, ConfigError) as error:
        raise type(error)(
            f"--probe-train and --probe-test: {error}; or leave both out, and adapt without a probe"
        ) from error
    return Plan(tuple(chosen[: len(gap)]), problem)


def check_proof(session: Session, plan: Plan, model: Path) -> None:
    """Raise BandMismatchError or ConfigError for tiles that the model cannot embed, before it is trained."""
    if plan.needed:
        Loader(session, Choice(), plan.needed).load(parse_encoder(str(model)))


def prove(
    session: Session, plan: Plan, before: Path, after: Path, out: Path, stop: Stop, progress: Callable[..., None]
) -> Proof | None:
    """Embed all that is needed with both models, and for a probe with baselines; None where `stop` ended it."""
    texts = [f"{BEFORE}={before}", f"{AFTER}={after}", *(BASELINES if plan.problem else ())]
    if not plan.needed:
        return Proof({}, {}, {})
    entrants = read_request(ProbeRequest(session.common, "", (), tuple(texts), baselines=False))
    choice = Choice()
    loader = Loader(session, choice, plan.needed)
    trained = load_trained(entrants, loader)
    found = list(embed_all(session, entrants, trained, loader, choice, plan.needed, out, stop, progress))
    if stop.signal:
        return None
    by_label = dict(zip([one.label for one in entrants], found, strict=True))
    seed = session.common.seed
    gap = {label: _gap(plan.gap, by_label[label], seed) for label in (BEFORE, AFTER) if plan.gap}
    if plan.problem is None:
        return Proof(gap, {}, {})
    target, source = _probe(plan.problem, by_label, seed)
    return Proof(gap, target, source, next(iter(plan.problem.truths.values())).measure.main)


def _drawn(selected: Selected, role: str, seed: int) -> Selected:
    """As many tiles as figures of a gap are made of, those that `geomae gap` takes."""
    return replace(selected, index=selected.index.take(draw_tiles(len(selected.index), seed, role)))


def _gap(chosen: Sequence[Selected], embeddings: Embeddings, seed: int) -> list[GapFigure]:
    source, target = ((embeddings.of(one), one.index.independent_units()) for one in chosen)
    return embedding_gap(*source, *target, seed)


def _probe(problem: Problem, by_label: dict[str, Embeddings], seed: int) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Figures on the target and on the source. The labels of the target take part in scoring, and in the oracle."""
    (test,), train = problem.tests, problem.train
    truth = problem.truths[test.name]
    predicted = {label: problem.answer(one).predicted[Asked(test.name, "linear")][0] for label, one in by_label.items()}
    oracle = _cross_fitted(problem, test, by_label[BEFORE])
    derived = {"change": change}
    if oracle is not None:
        predicted["oracle"] = oracle
        derived["share_closed"] = share_closed
    target = compare(predicted, truth.label_T, truth.group_T, truth.measure, seed, derived)
    at_home = {
        label: codes_T
        for label in (BEFORE, AFTER)
        if (codes_T := _cross_fitted(problem, train, by_label[label])) is not None
    }
    if not at_home:
        return target, {}
    group_T, _ = codes_of(train.unit_T)
    return target, compare(at_home, codes(train, problem.names), group_T, truth.measure, seed, {"change": change})


def _cross_fitted(problem: Problem, side: Side, embeddings: Embeddings) -> Codes | None:
    group_T, _ = codes_of(side.unit_T)
    return cross_fitted(embeddings.of(side.selected), codes(side, problem.names), group_T, len(problem.names))
