"""Effect of an adaptation, before and after: reconstruction errors, the gap, and a probe with the share of it closed.

T tiles, G groups, R resamples, C bands, D features
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from geomae.evaluation.adaptation_probe import AFTER, BEFORE, Estimate, probe_target
from geomae.evaluation.alignment import NONE
from geomae.evaluation.alignment_choice import RULE
from geomae.evaluation.folds import codes_of
from geomae.evaluation.gap_components import embedding_gap, subsample_tiles
from geomae.evaluation.permutation_tests import GapFigure
from geomae.evaluation.probe_embeddings import Fitted, embed_mapped, fit_usable, usable_radiometry
from geomae.evaluation.probe_task import (
    CLASSIFICATION,
    ProbeSettings,
    ProbeTask,
    label_selection,
    read_probe_task,
    read_unscored_task,
)
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, MOST_FOLDS, group_interval
from geomae.metrics.reconstruction import TileErrors
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.tiles.radiometry import Radiometry
from geomae.tiles.selection import Selection, check_no_pixel_overlap, share_bands
from geomae.training.adaptation import AdaptationDomain, AdaptationDomains, AdaptedModel, training_config
from geomae.training.starts import Start
from geomae.training.trainer import batch_spec
from geomae.training.validation import BASELINES, MODEL, errors_by_tile

PROBE_BASELINES = ("baseline:statistics", "baseline:rcf")
CROSS_FIT = 3  # folds where groups occur in train and test, as do sites seen in two seasons


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
    """What is compared: `gap` holds source and target, or nothing; `task` is the task of the probe, if any.

    `choice` is the task by which an alignment is chosen: labelled tiles of the source, and tiles of the target whose
    labels are not read. None where nothing is to be chosen, or where `unlabelled` says why it cannot be. `rare` are
    the classes of the source that have no part in it, with their tiles.
    """

    gap: tuple[Selection, ...]
    task: ProbeTask | None
    choice: ProbeTask | None = None
    unlabelled: str = ""
    rare: Mapping[str, int] = field(default_factory=dict)

    @property
    def selections(self) -> list[Selection]:
        """All tiles to be embedded."""
        return [*self.gap, *(one for task in (self.task, self.choice) if task for one in task.selections)]


@dataclass(frozen=True)
class BeforeAfter:
    """Gap figures by model; figures of the probe on the target and on the source, and the name of their metric."""

    gap: dict[str, list[GapFigure]]
    target: dict[str, Estimate]
    source: dict[str, Estimate]
    metric: str = ""

    def gap_json(self) -> dict[str, list[dict[str, Any]]]:
        """The gap figures as JSON."""
        return {model: [asdict(one) for one in rows] for model, rows in self.gap.items()}


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
    domains: AdaptationDomains, labelled: Sequence[Selection], min_class_rows: int, seed: int, choose: bool = False
) -> BeforeAfterPlan:
    """Plan the comparison: the gap where there is a source, a probe where there are labelled tiles.

    `labelled` is empty, or holds the tiles that a probe is trained on and those that it is tested on. With `choose`, an
    alignment will be chosen, by labels of the former, else of the source. Raises CatalogError or ConfigError for
    labelled tiles that cannot be probed.
    """
    if domains.source is None and not labelled:
        return BeforeAfterPlan((), None)
    roles = (("source", domains.source), ("target", domains.target)) if domains.source else ()
    gap = [_subsample(one.selected, role, seed) for role, one in roles]
    learned = labelled[:1] or [one.selected for _, one in roles[:1]]
    try:
        shared = share_bands([*gap, *(labelled or learned)])
    except BandMismatchError:  # a spectral embedding accepts both
        if labelled:
            raise
        return BeforeAfterPlan(tuple(gap), None, None, "source and target share no band")
    plan = BeforeAfterPlan(tuple(shared[: len(gap)]), None)
    if labelled:
        plan = replace(plan, task=_labelled_task(labelled, shared[len(gap) :], min_class_rows, seed))
    if not choose:
        return plan
    usual, rare = without_rare_classes(shared[len(gap)])
    try:
        return replace(plan, choice=_choice_task(usual, plan.gap[1], seed), rare=rare)
    except (CatalogError, ConfigError) as error:
        return replace(plan, unlabelled=str(error))


def _labelled_task(
    labelled: Sequence[Selection], shared: Sequence[Selection], min_class_rows: int, seed: int
) -> ProbeTask:
    """The task of the probe; `shared` are the labelled tiles in the bands that all tiles have."""
    for one, option in zip(labelled, ("--probe-train", "--probe-test"), strict=True):
        label_selection(one, CLASSIFICATION, option)
    train, test = labelled
    check_no_pixel_overlap(train.index, test.index, f"--probe-train {train.name}")
    settings = ProbeSettings(cross_fit=_folds(train, test), min_class_rows=min_class_rows, seed=seed)
    try:
        return read_probe_task(settings, shared)
    except (CatalogError, ConfigError) as error:
        raise type(error)(
            f"--probe-train and --probe-test: {error}; or leave both out, and adapt without a probe"
        ) from error


def without_rare_classes(source: Selection) -> tuple[Selection, dict[str, int]]:
    """The tiles without those of classes too rare for folds, and these classes; all tiles if fewer than two remain."""
    labels = source.index.tiles["label"].tolist()
    counts = Counter(label for label in labels if label is not None)
    rare = {label: count for label, count in counts.items() if count < MOST_FOLDS}
    if not rare or len(counts) - len(rare) < 2:
        return source, {}
    kept = np.flatnonzero([label not in rare for label in labels])
    return replace(source, index=source.index.take(kept)), rare


def _choice_task(source: Selection, target: Selection, seed: int) -> ProbeTask:
    """The task by which an alignment is chosen among those that the rule may choose."""
    alignments = (NONE, *RULE.candidates)
    settings = ProbeSettings(cross_fit=_folds(source, target), alignments=alignments, seed=seed, shots=())
    return read_unscored_task(settings, source, target)


def _folds(source: Selection, target: Selection) -> int | None:
    """The number of folds of groups, where groups occur in both selections."""
    learned, tested = (set(one.index.independent_units()) for one in (source, target))
    return max(2, min(CROSS_FIT, len(learned))) if learned & tested else None


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
    after: str | Path | None,
    out: Path,
    seed: int,
    stop: Stop | None = None,
    progress: Callable[..., None] = lambda *_: None,
    align: str = NONE,
    radiometry: Radiometry | None = None,
) -> BeforeAfter | None:
    """Gap and probe of the encoders `before` and `after`; None where `stop` ended it.

    All tiles of the plan are embedded into stores below `out` by both models, and for a probe also by baselines. Where
    nothing was trained there is no `after`, and the probe is asked behind the alignment `align`; where that is a
    radiometric one, the tiles are read through `radiometry`, which was fitted to the target, if they have its bands.
    """
    if not plan.selections:
        return BeforeAfter({}, {}, {})
    models = {BEFORE: before} | ({AFTER: after} if after is not None else {})
    texts = [f"{label}={model}" for label, model in models.items()]
    by_label = embed_plan(
        compute, catalog, plan, [*texts, *(PROBE_BASELINES if plan.task else ())], out, stop, progress
    )
    if by_label is None:
        return None
    gap = {label: _gap(plan.gap, by_label[label], seed) for label in models if plan.gap}
    if plan.task is None:
        return BeforeAfter(gap, {}, {})
    if radiometry is not None:
        (test,) = plan.task.tests
        stored = {band.name for band in test.selected.index.source.bands}
        fitted = {(align, test.name): radiometry} if stored >= set(radiometry.taken) else {}
        found = {BEFORE: by_label[BEFORE]}
        by_label |= _embed_through(
            compute, catalog, plan, plan.task, texts[0], found, fitted, out / "probed", stop, progress
        )
        if stop is not None and stop.signal:
            return None
        align = align if fitted else NONE
    target, source = probe_target(plan.task, by_label, seed, align)
    return BeforeAfter(gap, target, source, next(iter(plan.task.truths.values())).measure.main)


def embed_plan(
    compute: Compute,
    catalog: Catalog,
    plan: BeforeAfterPlan,
    encoders: Sequence[str],
    out: Path,
    stop: Stop | None,
    progress: Callable[..., None],
) -> dict[str, Embeddings] | None:
    """The embeddings of all tiles of the plan by label; a store below `out` that is there already is used."""
    specs = encoder_specs(parse_encoders(encoders))
    loader = EncoderLoader(EmbeddingSpec(), plan.selections, compute.fabric.device)
    embedded = embed_specs(compute, catalog, specs, loader.load_trained(specs), loader, out, stop, progress)
    by_label = {one.label: one for one in embedded}
    return None if stop is not None and stop.signal else by_label


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


def embed_choice(
    compute: Compute,
    catalog: Catalog,
    plan: BeforeAfterPlan,
    model: str | Path,
    out: Path,
    stop: Stop | None,
    progress: Callable[..., None],
    say: Callable[[str], None],
) -> Embeddings | None:
    """The embeddings by which a method is chosen, with those behind each radiometry that the rule may choose.

    None where `stop` ended it. Stores are written below `out`. `say` is called with what radiometry rests on, and why
    one is left out.
    """
    assert plan.choice is not None
    text = f"{BEFORE}={model}"
    embedded = embed_plan(compute, catalog, plan, [text], out, stop, progress)
    if embedded is None:
        return None
    task, chosen = plan.choice, out / "chosen"
    fitted = fit_usable(task, usable_radiometry(task, (), say), say)
    found = _embed_through(compute, catalog, plan, task, text, embedded, fitted, chosen, stop, progress)
    return None if stop is not None and stop.signal else found[BEFORE]


def _embed_through(
    compute: Compute,
    catalog: Catalog,
    plan: BeforeAfterPlan,
    task: ProbeTask,
    model: str,
    embeddings: Mapping[str, Embeddings],
    fitted: Fitted,
    out: Path,
    stop: Stop | None,
    progress: Callable[..., None],
) -> dict[str, Embeddings]:
    """`embeddings` by `model` with those of the test tiles of `task` through each fitted radiometry."""
    specs = encoder_specs(parse_encoders([model]))
    loader = EncoderLoader(EmbeddingSpec(), plan.selections, compute.fabric.device)
    return embed_mapped(compute, catalog, task, specs, embeddings, loader, fitted, out, stop, progress)


def _gap(domains: Sequence[Selection], embeddings: Embeddings, seed: int) -> list[GapFigure]:
    source, target = ((embeddings.of(one), one.index.independent_units()) for one in domains)
    return embedding_gap(*source, *target, seed)
