"""Effect of an adaptation, before and after: reconstruction errors, the gap, and a probe with the share of it closed.

T tiles, G groups, R resamples, C bands, D features
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.catalog import Catalog
from geomae.config import AdaptConfig
from geomae.encoders.selections import Embeddings, EmbeddingSpec, EncoderLoader, embed_specs
from geomae.encoders.specification import encoder_specs, parse_encoder, parse_encoders
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.evaluation.folds import TrainingFolds, assign_groups, codes_of
from geomae.evaluation.gap_components import embedding_gap, subsample_tiles
from geomae.evaluation.linear_probe import choose_C, fit_linear
from geomae.evaluation.permutation_tests import GapFigure
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.evaluation.probe_task import (
    CLASSIFICATION,
    LabelledSelection,
    ProbeSettings,
    ProbeTask,
    class_codes,
    label_selection,
    read_probe_task,
)
from geomae.metrics.predictions import (
    ALL,
    FEWEST_GROUPS,
    MOST_FOLDS,
    Codes,
    Floats,
    Measure,
    group_interval,
    percentile_interval,
    resample_groups,
)
from geomae.metrics.reconstruction import TileErrors
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.tiles.selection import Selection, check_no_pixel_overlap, share_bands
from geomae.training.adaptation import AdaptationDomain, AdaptationDomains, AdaptedModel, training_config
from geomae.training.starts import Start
from geomae.training.trainer import batch_spec
from geomae.training.validation import BASELINES, MODEL, errors_by_tile

BEFORE, AFTER = "before", "after"
PROBE_BASELINES = ("baseline:statistics", "baseline:rcf")
CROSS_FIT = 3  # folds where groups occur in train and test, as do sites seen in two seasons
SMALLEST_GAP = 0.02  # for which the share closed is given: with a smaller gap it is a ratio of noise


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (95 %, over resampled groups); None with too few groups."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ErrorChange:
    """RMSE on hidden valid pixels of held-out tiles, of one band or as the mean over bands, in `unit`.

    `change` is after / before - 1, its interval (95 %) paired over resampled groups, None with too few. It is below
    zero in `n_better` of the `n_groups` groups that have a pixel. `baselines` are errors of untrained predictions.
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


@dataclass(frozen=True)
class BeforeAfterPlan:
    """What is compared: `gap` holds source and target, or nothing; `task` is the task of the probe, if any."""

    gap: tuple[Selection, ...]
    task: ProbeTask | None

    @property
    def selections(self) -> list[Selection]:
        """All tiles to be embedded."""
        return [*self.gap, *(self.task.selections if self.task else [])]


@dataclass(frozen=True)
class BeforeAfter:
    """Gap figures by model; figures of the probe on the target and on the source, and the name of their metric."""

    gap: dict[str, list[GapFigure]]
    target: dict[str, Estimate]
    source: dict[str, Estimate]
    metric: str = ""


@dataclass(frozen=True)
class HeldOutLoss:
    """The held-out loss on the target (`term`) at the start and at the step whose weights are kept."""

    term: str
    start: float
    kept: float

    @property
    def text(self) -> str:
        """In words. The head of a contrastive term is random at the start."""
        words = f"held-out loss ({self.term}): {self.start:.4f} at the start, {self.kept:.4f} where kept"
        return words if self.term == "pixels" else f"{words}; the projection head is random at the start"


@dataclass(frozen=True)
class AdaptationResult:
    """The result of an adaptation; `digest` identifies the weights of the model before it."""

    config: AdaptConfig
    domains: AdaptationDomains
    plan: BeforeAfterPlan
    adapted: AdaptedModel
    changes: list[ErrorChange]
    before_after: BeforeAfter
    digest: str
    loss: HeldOutLoss

    def error(self, domain: str) -> ErrorChange | None:
        """The change of the reconstruction error of `target` or `source`, as the mean over bands."""
        return next((one for one in self.changes if (one.domain, one.band) == (domain, ALL)), None)


def held_out_loss(
    history: Sequence[Mapping[str, Any]], domains: AdaptationDomains, adapted: AdaptedModel
) -> HeldOutLoss:
    """The held-out loss from a run's history: of pixels where they have a weight, else of the contrastive term."""
    name = f"loss/{domains.target.held.name}"
    losses = {row["step"]: float(row[name]) for row in history if name in row}
    given = domains.objective.weights()
    term = next(one for one in ("pixels", "contrast", "places") if one in given)
    return HeldOutLoss(term, losses[0], losses[adapted.kept_step])


def plan_before_after(
    domains: AdaptationDomains, labelled: Sequence[Selection], min_class_rows: int, seed: int
) -> BeforeAfterPlan:
    """Plan the comparison: the gap where there is a source, a probe where there are labelled tiles.

    `labelled` is empty, or holds the tiles that a probe is trained on and those that it is tested on. Raises
    CatalogError or ConfigError for labelled tiles that cannot be probed.
    """
    roles = (("source", domains.source), ("target", domains.target)) if domains.source else ()
    gap = [_subsample(one.selected, role, seed) for role, one in roles]
    if not labelled:
        try:
            return BeforeAfterPlan(tuple(share_bands(gap)) if gap else (), None)
        except BandMismatchError:  # a spectral embedding accepts both
            return BeforeAfterPlan(tuple(gap), None)
    for one, option in zip(labelled, ("--probe-train", "--probe-test"), strict=True):
        label_selection(one, CLASSIFICATION, option)
    train, test = labelled
    check_no_pixel_overlap(train.index, test.index, f"--probe-train {train.name}")
    shared = share_bands([*gap, *labelled])
    learned, tested = (set(one.index.independent_units()) for one in labelled)
    folds = max(2, min(CROSS_FIT, len(learned))) if learned & tested else None
    settings = ProbeSettings(cross_fit=folds, min_class_rows=min_class_rows, seed=seed)
    try:
        task = read_probe_task(settings, shared[len(gap) :])
    except (CatalogError, ConfigError) as error:
        raise type(error)(
            f"--probe-train and --probe-test: {error}; or leave both out, and adapt without a probe"
        ) from error
    return BeforeAfterPlan(tuple(shared[: len(gap)]), task)


def check_before_after(plan: BeforeAfterPlan, model: str | Path, device: torch.device) -> None:
    """Raise BandMismatchError or ConfigError for tiles that the model cannot embed, before it is trained."""
    if plan.selections:
        EncoderLoader(EmbeddingSpec(), plan.selections, device).load(parse_encoder(str(model)))


def error_changes(
    compute: Compute, domains: AdaptationDomains, adapted: Start, config: AdaptConfig, seed: int
) -> list[ErrorChange]:
    """Changes of errors on held-out tiles of target and source, as the mean over bands and by band.

    Empty for a model without a decoder.
    """
    before, after, device = domains.model.decoding, adapted.decoding, compute.fabric.device
    if before is None or after is None:
        return []
    device = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
    training = training_config(config, domains.model)
    spec = batch_spec(training, seed, domains.model.groups)
    for model in (before, after):
        model.mae.to(device)
    changes: list[ErrorChange] = []
    for role, domain in zip(("target", "source"), domains.all, strict=False):
        errors = [errors_by_tile(model, domain.held, spec, training.batch, device) for model in (before, after)]
        changes += _changes(role, domain, errors[0], errors[1], seed)
    return changes


def evaluate_before_after(
    compute: Compute,
    catalog: Catalog,
    plan: BeforeAfterPlan,
    before: str | Path,
    after: str | Path,
    out: Path,
    seed: int,
    stop: Stop | None = None,
    progress: Callable[..., None] = lambda *_: None,
) -> BeforeAfter | None:
    """Gap and probe of the encoders `before` and `after`; None where `stop` ended it.

    All tiles of the plan are embedded into stores below `out` by both models, and for a probe also by baselines.
    """
    if not plan.selections:
        return BeforeAfter({}, {}, {})
    texts = [f"{BEFORE}={before}", f"{AFTER}={after}", *(PROBE_BASELINES if plan.task else ())]
    specs = encoder_specs(parse_encoders(texts))
    loader = EncoderLoader(EmbeddingSpec(), plan.selections, compute.fabric.device)
    trained = loader.load_trained(specs)
    embedded = list(embed_specs(compute, catalog, specs, trained, loader, out, stop, progress))
    if stop is not None and stop.signal:
        return None
    by_label = {one.label: one for one in embedded}
    gap = {label: _gap(plan.gap, by_label[label], seed) for label in (BEFORE, AFTER) if plan.gap}
    if plan.task is None:
        return BeforeAfter(gap, {}, {})
    target, source = _probe(plan.task, by_label, seed)
    return BeforeAfter(gap, target, source, next(iter(plan.task.truths.values())).measure.main)


def cross_fitted(embedding_TD: NDArray[np.floating], label_T: Codes, group_T: Codes, classes: int) -> Codes | None:
    """The class (T,) of each tile by a linear probe that was trained on the other groups.

    None for a single group, and where no class has two tiles. The strength is chosen on the same tiles, which is
    optimistic by design: the result serves as an upper bound.
    """
    groups, counts = len(np.unique(group_T)), np.unique(label_T, return_counts=True)[1]
    if groups < 2 or counts.max() < 2:
        return None
    fewest = int(counts.min())
    # A class too rare for the folds is predicted wrongly, which is correct here.
    folds = TrainingFolds(assign_groups(label_T, group_T, min(MOST_FOLDS, groups, max(fewest, 2))), "").parts()
    C, _ = choose_C(embedding_TD, label_T, classes, folds)
    predicted_T = np.zeros_like(label_T)
    for learn, held in folds:
        probe = fit_linear(embedding_TD[learn], label_T[learn], classes, C)
        predicted_T[held] = probe.predict(embedding_TD[held])
    return predicted_T


def paired_estimates(
    predicted: Mapping[str, Codes],
    label_T: Codes,
    group_T: Codes,
    measure: Measure,
    seed: int,
    derived: Mapping[str, Callable[[Mapping[str, Floats]], Floats]],
) -> dict[str, Estimate]:
    """The main figure of each prediction, and figures `derived` from them, on the same resamples of the groups."""
    groups = int(group_T.max()) + 1
    counts_RG = resample_groups(groups, seed)
    sums = {name: measure.sums(label_T, codes_T, group_T, groups) for name, codes_T in predicted.items()}
    values = {name: measure.values(one.sum(0))[measure.main, ALL] for name, one in sums.items()}
    values |= {name: function(values) for name, function in derived.items()}
    if counts_RG is None:
        return {name: Estimate(float(value)) for name, value in values.items()}
    drawn = {
        name: measure.values(np.tensordot(counts_RG, one, axes=1))[measure.main, ALL] for name, one in sums.items()
    }
    drawn |= {name: function(drawn) for name, function in derived.items()}
    known = {name: percentile_interval(one) for name, one in drawn.items() if np.isfinite(one).all()}
    return {name: Estimate(float(value), known.get(name)) for name, value in values.items()}


def change(values: Mapping[str, Floats]) -> Floats:
    """The main figure after minus before the adaptation."""
    return np.asarray(values[AFTER] - values[BEFORE])


def share_closed(values: Mapping[str, Floats]) -> Floats:
    """(after - before) / (oracle - before); NaN where the oracle is less than SMALLEST_GAP better than `before`."""
    gap = np.asarray(values["oracle"] - values[BEFORE])
    share = np.divide(change(values), gap, out=np.full(np.shape(gap), np.nan), where=gap >= SMALLEST_GAP)
    return np.asarray(share)


def _changes(
    role: str, domain: AdaptationDomain, before: TileErrors, after: TileErrors, seed: int
) -> Iterator[ErrorChange]:
    record = domain.held.record
    names = [band.name for band in record.bands]
    group_T, groups = codes_of(domain.held.index.independent_units())
    for band in (ALL, *names):
        places = list(range(len(names))) if band == ALL else [names.index(band)]
        ours, theirs = after.of_bands(places), before.of_bands(places)
        if not theirs.pixels_TC.any():
            continue

        def relative(weight_T: NDArray[np.float64], ours: TileErrors = ours, theirs: TileErrors = theirs) -> float:
            return ours.rmse(MODEL, weight_T) / max(theirs.rmse(MODEL, weight_T), 1e-30) - 1

        each = [relative((group_T == group).astype(np.float64)) for group in range(len(groups))]
        known, better = sum(not np.isnan(one) for one in each), sum(one < 0 for one in each)
        interval = group_interval(relative, group_T, seed) if known >= FEWEST_GROUPS else None
        yield ErrorChange(
            role, domain.name, band, record.unit, theirs.rmse(MODEL), ours.rmse(MODEL),
            relative(np.ones(len(group_T))), interval, len(group_T), known, better,
            {one: theirs.rmse(one) for one in BASELINES},
        )  # fmt: skip


def _subsample(selected: Selection, role: str, seed: int) -> Selection:
    """The tiles that `geomae gap` would draw for its figures."""
    return replace(selected, index=selected.index.take(subsample_tiles(len(selected.index), seed, role)))


def _gap(domains: Sequence[Selection], embeddings: Embeddings, seed: int) -> list[GapFigure]:
    source, target = ((embeddings.of(one), one.index.independent_units()) for one in domains)
    return embedding_gap(*source, *target, seed)


def _probe(
    task: ProbeTask, by_label: dict[str, Embeddings], seed: int
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Figures on the target and on the source. Labels of the target are used for scoring and by the oracle only."""
    (test,), train = task.tests, task.train
    truth = task.truths[test.name]
    predicted = {
        label: task.predict(one).predicted[PredictionKey(test.name, "linear")][0] for label, one in by_label.items()
    }
    oracle = _cross_fitted(task, test, by_label[BEFORE])
    derived = {"change": change}
    if oracle is not None:
        predicted["oracle"] = oracle
        derived["share_closed"] = share_closed
    target = paired_estimates(predicted, truth.label_T, truth.group_T, truth.measure, seed, derived)
    at_home = {
        label: codes_T
        for label in (BEFORE, AFTER)
        if (codes_T := _cross_fitted(task, train, by_label[label])) is not None
    }
    if not at_home:
        return target, {}
    label_T, (group_T, _) = class_codes(train, task.names), codes_of(train.unit_T)
    return target, paired_estimates(at_home, label_T, group_T, truth.measure, seed, {"change": change})


def _cross_fitted(task: ProbeTask, labelled: LabelledSelection, embeddings: Embeddings) -> Codes | None:
    group_T, _ = codes_of(labelled.unit_T)
    label_T = class_codes(labelled, task.names)
    return cross_fitted(embeddings.of(labelled.selected), label_T, group_T, len(task.names))
