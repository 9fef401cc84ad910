"""What an adaptation did: reconstruction errors, gap and probe with the model before and after.

T tiles, C bands

T tiles
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.commands.adapt_request import AdaptOptions
from geomae.commands.probe_request import CLASSIFICATION, specifications
from geomae.commands.probe_request import ProbeOptions as ProbeRequest
from geomae.commands.run import Session
from geomae.config import PretrainConfig
from geomae.encoders.reference import parse_encoder
from geomae.encoders.selections import Embeddings, EmbeddingSpec, embed_specs
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.evaluation.folds import codes_of
from geomae.evaluation.gap_measures import embedding_gap, subsample_tiles
from geomae.evaluation.gap_recovery import Estimate, change, compare, cross_fitted, share_closed
from geomae.evaluation.permutations import GapFigure
from geomae.evaluation.probe_data import LabelledSelection, ProbeTask, class_codes, label_selection, read_probe_task
from geomae.evaluation.probing import PredictionKey
from geomae.metrics.intervals import FEWEST_GROUPS, group_interval
from geomae.metrics.predictions import Codes
from geomae.models.folder import Model
from geomae.runtime.signals import Stop
from geomae.tiles.overlaps import check_no_pixel_overlap
from geomae.tiles.selection import Selection, share_bands
from geomae.training.adaptation import AdaptationDomain, AdaptationDomains
from geomae.training.trainer import batch_spec
from geomae.training.validation import BASELINES, MODEL, TileErrors, errors_by_tile

ALL = "all"


@dataclass(frozen=True)
class Change:
    """RMSE on hidden valid pixels of held-out tiles, of one band or as the mean over bands, in `unit`.

    `change` is after / before - 1, its interval (95 %) paired over resampled groups; None where they are too few. It is
    below zero in `n_better` of the `n_groups` that have a pixel.
    `baselines` are the errors of predictions that take no training.
    """

    domain: str
    selector: str
    band: str
    unit: str
    before: float
    after: float
    change: float
    interval: tuple[float, float] | None
    n_tiles: int
    n_groups: int
    n_better: int
    baselines: dict[str, float]


def name_of(baseline: str) -> str:
    """A baseline's name in a narrow column."""
    return baseline.removeprefix("baseline:")


def error_changes(
    before: Model, after: Model, domains: AdaptationDomains, config: PretrainConfig, seed: int, device: torch.device
) -> list[Change]:
    """The changes on the held-out tiles of the target and of the source, each as the mean over bands and by band."""
    draw = batch_spec(config, seed, before.mae.architecture.groups)
    changes: list[Change] = []
    for name, domain in zip(("target", "source"), domains.all, strict=False):
        errors = [errors_by_tile(model, domain.held, draw, config.batch, device) for model in (before, after)]
        changes += _changes(name, domain, errors[0], errors[1], seed)
    return changes


def _changes(name: str, domain: AdaptationDomain, before: TileErrors, after: TileErrors, seed: int) -> Iterator[Change]:
    record = domain.held.record
    group_T, groups = codes_of(domain.held.index.independent_units())
    for band in (ALL, *(one.name for one in record.bands)):
        places = list(range(len(record.bands))) if band == ALL else [[one.name for one in record.bands].index(band)]
        ours, theirs = after.of_bands(places), before.of_bands(places)
        if not theirs.pixels_TC.any():
            continue

        def change(weight_T: NDArray[np.float64], ours: TileErrors = ours, theirs: TileErrors = theirs) -> float:
            return ours.rmse(MODEL, weight_T) / max(theirs.rmse(MODEL, weight_T), 1e-30) - 1

        each = [change((group_T == group).astype(np.float64)) for group in range(len(groups))]
        known, better = sum(not np.isnan(one) for one in each), sum(one < 0 for one in each)
        interval = group_interval(change, group_T, seed) if known >= FEWEST_GROUPS else None
        yield Change(
            name, domain.name, band, record.unit, theirs.rmse(MODEL), ours.rmse(MODEL),
            change(np.ones(len(group_T))), interval, len(group_T), known, better,
            {one: theirs.rmse(one) for one in BASELINES},
        )  # fmt: skip


BEFORE, AFTER = "before", "after"
PROBE_BASELINES = ("baseline:statistics", "baseline:rcf")
CROSS_FIT = 3  # where groups stand on both sides, as sites that are seen in two seasons


@dataclass(frozen=True)
class BeforeAfterPlan:
    """What is embedded: `gap` are source and target, or nothing; `problem` is what the probe is asked."""

    gap: tuple[Selection, ...]
    problem: ProbeTask | None

    @property
    def needed(self) -> list[Selection]:
        """All tiles to be embedded."""
        return [*self.gap, *([side.selected for side in self.problem.sides] if self.problem else [])]


@dataclass(frozen=True)
class BeforeAfter:
    """Gap figures by model; of the probe the figures on the target and on the source, and the metric's name."""

    gap: dict[str, list[GapFigure]]
    target: dict[str, Estimate]
    source: dict[str, Estimate]
    metric: str = ""


def plan_before_after(session: Session, request: AdaptOptions, domains: AdaptationDomains) -> BeforeAfterPlan:
    """What can be proved. Raises CatalogError or ConfigError for labelled tiles that cannot be probed."""
    roles = (("source", domains.source), ("target", domains.target)) if domains.source else ()
    gap = [_drawn(one.selected, role, session.common.seed) for role, one in roles]
    if request.probe_train is None or request.probe_test is None:
        try:
            return BeforeAfterPlan(tuple(share_bands(gap)) if gap else (), None)
        except BandMismatchError:  # a spectral embedding takes either as it is
            return BeforeAfterPlan(tuple(gap), None)
    labelled = session.select([request.probe_train, request.probe_test])
    for one, option in zip(labelled, ("--probe-train", "--probe-test"), strict=True):
        label_selection(one, session.catalog, CLASSIFICATION, option)
    check_no_pixel_overlap(labelled[0].index, labelled[1].index, f"--probe-train {labelled[0].name}")
    chosen = share_bands([*gap, *labelled])
    learned, tested = (set(one.index.independent_units()) for one in labelled)
    asked = ProbeRequest(
        session.common, request.probe_train, (request.probe_test,), (),
        cross_fit=max(2, min(CROSS_FIT, len(learned))) if learned & tested else None,
        min_class_rows=request.min_class_rows,
    )  # fmt: skip
    try:
        problem = read_probe_task(asked, chosen[len(gap) :], session.catalog)
    except (CatalogError, ConfigError) as error:
        raise type(error)(
            f"--probe-train and --probe-test: {error}; or leave both out, and adapt without a probe"
        ) from error
    return BeforeAfterPlan(tuple(chosen[: len(gap)]), problem)


def check_before_after(session: Session, plan: BeforeAfterPlan, model: Path) -> None:
    """Raise BandMismatchError or ConfigError for tiles that the model cannot embed, before it is trained."""
    if plan.needed:
        session.loader(EmbeddingSpec(), plan.needed).load(parse_encoder(str(model)))


def evaluate_before_after(
    session: Session,
    plan: BeforeAfterPlan,
    before: Path,
    after: Path,
    out: Path,
    stop: Stop,
    progress: Callable[..., None],
) -> BeforeAfter | None:
    """Embed all that is needed with both models, and for a probe with baselines; None where `stop` ended it."""
    texts = [f"{BEFORE}={before}", f"{AFTER}={after}", *(PROBE_BASELINES if plan.problem else ())]
    if not plan.needed:
        return BeforeAfter({}, {}, {})
    entrants = specifications(ProbeRequest(session.common, "", (), tuple(texts), baselines=False))
    loader = session.loader(EmbeddingSpec(), plan.needed)
    trained = loader.load_trained(entrants)
    found = list(embed_specs(session.compute, session.catalog, entrants, trained, loader, out, stop, progress))
    if stop.signal:
        return None
    by_label = dict(zip([one.label for one in entrants], found, strict=True))
    seed = session.common.seed
    gap = {label: _gap(plan.gap, by_label[label], seed) for label in (BEFORE, AFTER) if plan.gap}
    if plan.problem is None:
        return BeforeAfter(gap, {}, {})
    target, source = _probe(plan.problem, by_label, seed)
    return BeforeAfter(gap, target, source, next(iter(plan.problem.truths.values())).measure.main)


def _drawn(selected: Selection, role: str, seed: int) -> Selection:
    """As many tiles as figures of a gap are made of, those that `geomae gap` takes."""
    return replace(selected, index=selected.index.take(subsample_tiles(len(selected.index), seed, role)))


def _gap(chosen: Sequence[Selection], embeddings: Embeddings, seed: int) -> list[GapFigure]:
    source, target = ((embeddings.of(one), one.index.independent_units()) for one in chosen)
    return embedding_gap(*source, *target, seed)


def _probe(
    problem: ProbeTask, by_label: dict[str, Embeddings], seed: int
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Figures on the target and on the source. The labels of the target take part in scoring, and in the oracle."""
    (test,), train = problem.tests, problem.train
    truth = problem.truths[test.name]
    predicted = {
        label: problem.answer(one).predicted[PredictionKey(test.name, "linear")][0] for label, one in by_label.items()
    }
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
    return target, compare(at_home, class_codes(train, problem.names), group_T, truth.measure, seed, {"change": change})


def _cross_fitted(problem: ProbeTask, side: LabelledSelection, embeddings: Embeddings) -> Codes | None:
    group_T, _ = codes_of(side.unit_T)
    return cross_fitted(embeddings.of(side.selected), class_codes(side, problem.names), group_T, len(problem.names))
