"""What differs between the domains of an adaptation, and what is proposed to do about it, without labels of the target.

T tiles of the target, C bands
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from geomae.catalog import parse_selector
from geomae.catalog.schema import ALL
from geomae.encoders.selections import Embeddings
from geomae.errors import CatalogError
from geomae.evaluation.adaptation_effect import BeforeAfterPlan
from geomae.evaluation.adaptation_probe import BEFORE
from geomae.evaluation.alignment import NONE, import_skada
from geomae.evaluation.alignment_choice import RULE, Choice, choose, most_promising
from geomae.evaluation.gap import GapDomains, Spectrum, read_pixels
from geomae.evaluation.gap_components import DIFFERENCE, pixel_gap
from geomae.evaluation.permutation_tests import GapFigure, corrected
from geomae.evaluation.probe import ProbeResult
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.evaluation.probe_scores import EncoderResult, ProbeScores
from geomae.evaluation.probe_task import ProbeTask
from geomae.metrics.predictions import MOST_FOLDS
from geomae.tiles.learned_tiles import of_content
from geomae.tiles.places import find_partners
from geomae.tiles.radiometry import RADIOMETRY, Radiometry
from geomae.tiles.selection import Selection
from geomae.training.starts import Start

MOVED = dict.fromkeys(RADIOMETRY, "the target's pixels")  # what a method aligns, where it is not the embeddings
NOTHING, LABELS, ALIGNMENT, PRETRAINING = "nothing", "labels", "alignment", "pretraining"
SIGNIFICANT = 0.05
OTHER_SCALE = 1.5  # ratio of ground sample distances from which it is told
KNOWN = 0.5  # share of the target's tiles from which on its places, or its tiles, count as known
WORTH = 0.05  # of the accuracy: the gain that labels should be able to show
DEVIATIONS = 1.96 + 0.84  # 95 % confidence and 80 % power


@dataclass(frozen=True)
class Acquaintance:
    """What a model knows of target and source before an adaptation.

    `new_sensor` names the sensor of the target if the model has no statistics of it or of some of its bands, else it is
    empty. `knows_source` says whether it has statistics of all that the source has. The model was trained on a share
    `learned` of the target's tiles; `by_name` says that only the name of the data set tells so. `pairs` says whether an
    adaptation would train it on pairs of tiles that show the same ground (the term `places`).
    """

    new_sensor: str = ""
    knows_source: bool = True
    learned: float = 0.0
    pairs: bool = False
    by_name: bool = False

    @property
    def of_both(self) -> str:
        """What it knows of both sensors, in words, where that of the target is known."""
        return "both known to the model" if self.knows_source else "of which the model knows that of the target alone"

    @classmethod
    def of(
        cls,
        model: Start,
        target: Selection,
        source: Selection,
        learned: Sequence[tuple[Selection, str | None]],
        pairs: bool,
    ) -> "Acquaintance":
        """That of `model`, which was trained on the tiles `learned` of the target's data set.

        Beside them are the digests of their files: tiles of other files only have the same name.
        """
        there, here = (model.with_sensor(one.imagery, []).same_embeddings(model) for one in (target, source))
        imagery = target.imagery
        sensor = "" if there else f"{imagery.name} ({', '.join(band.name for band in imagery.bands)})"
        seen: set[str] = set()
        for one, content in learned:
            same_T = slice(None) if content is None else of_content(one.index, content)
            seen.update(one.index.tiles["tile_id"][same_T])
        share = float(np.mean([tile in seen for tile in target.index.tiles["tile_id"].tolist()]))
        return cls(sensor, here, share, pairs, share > 0 and any(content is None for _, content in learned))


@dataclass(frozen=True)
class Differences:
    """What differs between source and target.

    `pixels` are the differences of the bands' means; empty where the domains share no band. `probe` holds evidence on
    alignments and the estimated class shares; None where the source has no usable labels, for the reason `unlabelled`.
    `same_ground` of all tiles of the target show ground that tiles of the source show, too: all else is measured on
    draws of large domains, and few tiles of a draw have their partner in the other. `rare` are classes of the source
    without a part in `probe`, with their tiles.
    """

    domains: GapDomains
    pixels: Sequence[GapFigure]
    spectra: tuple[Spectrum, Spectrum]
    model: Acquaintance
    probe: ProbeResult | None
    unlabelled: str
    same_ground: int = 0
    rare: Mapping[str, int] = field(default_factory=dict)

    @property
    def teaches_places(self) -> bool:
        """Whether most tiles show ground of the source that the model has not learned, and that it can learn."""
        paired = self.same_ground > 0 and self.same_ground >= KNOWN * self.domains.target.tiles
        return paired and self.model.learned < KNOWN and self.model.pairs

    def sentences(self) -> Iterator[str]:
        """Sensor, pixels, places, labels and class shares in words."""
        yield self._sensor()
        yield self._pixels()
        yield self._places()
        if self.rare:
            named = ", ".join(f"{name} ({tiles})" for name, tiles in self.rare.items())
            yield f"Labels of the source: classes with fewer than {MOST_FOLDS} tiles are left out: {named}."
        if self.probe is None:
            yield f"Class shares: not estimated, since the source has no usable labels ({self.unlabelled})."
            return
        test = self.probe.task.tests[0].name
        shares = self.probe.shares(BEFORE, test)
        distance = 0.5 * float(np.abs(shares.likely.share_K - shares.source_K).sum())
        if self.probe.evidence(BEFORE, test).paired:
            yield (
                f"Class shares: both domains show the same places, so they should be equal; those estimated differ by "
                f"{distance:.2f} (total variation, 0 to 1), which is the error of the estimate."
            )
            return
        doubt = f" They are not to be trusted: {'; '.join(shares.likely.reasons)}." if shares.likely.reasons else ""
        yield (
            f"Class shares: those estimated for the target (by likelihood) differ by {distance:.2f} from those of the "
            f"source (total variation, 0 to 1).{doubt}"
        )

    def _places(self) -> str:
        paired = self.domains.paired
        if self.same_ground:
            sure = ", as far as the name of the data set tells" if self.model.by_name else ""
            known = (
                f"; the model was trained on {self.model.learned:.0%} of its tiles{sure}" if self.model.learned else ""
            )
            tiles = self.domains.target.tiles
            return f"Places: {self.same_ground} of {tiles} tiles of the target show ground of the source, too{known}."
        return (
            f"Places: {paired} group{'s occur' if paired > 1 else ' occurs'} in both domains; if groups are sites, "
            "`places` in the catalogue says so."
            if paired
            else "Places: no group occurs in both domains, so they show different places as far as groups say."
        )

    def _sensor(self) -> str:
        source, target = self.domains
        scales = [one.gsd_m for one in (source, target) if one.gsd_m is not None]
        other = len(scales) == 2 and max(scales) > OTHER_SCALE * min(scales)
        scale = f" Pixels are {scales[0]:g} m in the source and {scales[1]:g} m in the target." if other else ""
        names = [one.selected.imagery.name for one in (source, target)]
        what = (
            f"the model does not know {self.model.new_sensor}" if self.model.new_sensor
            else f"{names[1]} in both" if names[0] == names[1]
            else f"{names[0]} in the source, {names[1]} in the target, {self.model.of_both}"
        )  # fmt: skip
        return f"Sensor: {what}.{scale}"

    def _pixels(self) -> str:
        if not self.pixels:
            return "Pixels: the domains share no band in one unit."
        spread_of = {
            band.name: float(std) for band, std in zip(self.domains.source.bands, self.spectra[0].std_C, strict=True)
        }
        sure = [one for one in self.pixels if one.p_holm is not None and one.p_holm < SIGNIFICANT]
        most = max(self.pixels, key=lambda one: abs(one.value) / max(spread_of[one.band], 1e-30))
        tested = (
            f"{len(sure)} of {len(self.pixels)} bands differ by more than chance"
            if any(one.p_holm is not None for one in self.pixels)
            else "too few groups to tell a difference from chance"
        )
        return (
            f"Pixels: {tested}; {most.band} most, by {most.value:+.3g} {self.domains.unit} on average, "
            f"{abs(most.value) / max(spread_of[most.band], 1e-30):.2g} standard deviations of the source."
        )


@dataclass(frozen=True)
class Proposal:
    """`action` is NOTHING, LABELS, ALIGNMENT (`align` names it) or PRETRAINING (by `method`).

    `why` and `labels` are sentences; the latter says what labels of the target could settle.
    """

    action: str
    align: str
    why: str
    labels: str
    method: str = "lora"

    @property
    def trains(self) -> bool:
        """Whether the model is trained."""
        return self.action == PRETRAINING

    @property
    def text(self) -> str:
        """The action and its reason."""
        what = {
            NOTHING: "Proposed: nothing",
            LABELS: "Proposed: labels of the target; nothing is done without them",
            ALIGNMENT: f"Proposed and done: an alignment of {MOVED.get(self.align, 'the embeddings')} ({self.align})",
            PRETRAINING: f"Proposed and done: continued pretraining on the target (--method {self.method})",
        }[self.action]
        return f"{what}. {self.why}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        method = self.method if self.trains else None
        return {"action": self.action, "align": self.align, "method": method, "why": self.why, "labels": self.labels}


@dataclass(frozen=True)
class Answer:
    """What differs, what is proposed, and the embeddings that it rests on; None where there is no task of a probe."""

    differences: Differences
    proposal: Proposal
    embeddings: Embeddings | None

    @property
    def radiometry(self) -> Radiometry | None:
        """What the target is read through, where that is proposed."""
        through = self.embeddings.mapped if self.embeddings is not None else {}
        return next((one.radiometry for (name, _), one in through.items() if name == self.proposal.align), None)


def learned_selectors(model: Start, dataset: str) -> dict[str, str | None]:
    """The selectors of the tiles of a data set that the model, or a predecessor, was trained on without labels.

    Each has the digests of the files behind them; None where older versions recorded no more than the name.
    """
    found: dict[str, str | None] = {}
    provenance: Mapping[str, Any] | None = model.provenance
    while provenance is not None:
        texts = provenance.get("dataset", ()) if "finetuned" not in provenance else ()
        content = provenance.get("content", {}).get(dataset)
        for one in (parse_selector(str(text)) for text in texts):
            if one.dataset == dataset:
                text = str(replace(one, split=None if one.split == ALL else one.split))
                known = found.get(text, "")
                found[text] = None if known is None or content is None else f"{known} {content}".strip()
        provenance = provenance.get("from")
    return found


def count_same_ground(source: Selection, target: Selection) -> int:
    """The number of tiles of the target that are known to show ground of the source; 0 where that cannot be told."""
    try:
        return find_partners([target.index, source.index]).count(0, 1)
    except CatalogError:  # scenes of one place without CRS that differ in size
        return 0


def measure_differences(
    domains: GapDomains,
    plan: BeforeAfterPlan,
    model: Acquaintance,
    embeddings: Embeddings | None,
    same_ground: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Differences:
    """Compare pixels; estimate class shares and collect evidence on alignments where the source has labels.

    `embeddings` are those of the tiles of `plan.choice`, by the model before the adaptation; `same_ground` is what
    `count_same_ground` returns for the tiles from which those of `domains` were drawn. No label of the target is read.
    """
    source, target = (read_pixels(one, progress) for one in domains)
    pixels: list[GapFigure] = []
    if domains.same_bands:
        names = [band.name for band in domains.source.bands]
        every = pixel_gap(source, target, names, domains.source.selected.imagery.unit, seed)
        pixels = [one for one in corrected(every) if one.measure == DIFFERENCE]
    probe = None
    if plan.choice is not None and embeddings is not None:
        probe = _probe(plan.choice, embeddings)
    spectra = (Spectrum.of(source), Spectrum.of(target))
    return Differences(domains, pixels, spectra, model, probe, plan.unlabelled, same_ground, plan.rare)


def _probe(task: ProbeTask, embeddings: Embeddings) -> ProbeResult:
    """Predictions of the target without alignment and with each that the rule may choose, and its choice."""
    import_skada()
    with threadpool_limits(1):
        predictions = task.predict(embeddings)
    choices = {(BEFORE, test): choose(evidence) for test, evidence in predictions.evidence.items()}
    return ProbeResult(task, [EncoderResult(BEFORE, False, [predictions])], ProbeScores(), choices, {BEFORE: []})


def propose(differences: Differences) -> Proposal:
    """What to do, by evidence on shifts that were measured (docs/adaptation.md).

    1. A sensor that the model does not know is learned: continued pretraining pays there.
    2. Where both show the same ground, and the model has not learned that of the target, it learns what stays the same
       there (the term `places`), in full: low-rank corrections learned much less of it.
    3. Without usable labels of the source no alignment can be judged; pretraining goes on, which held-out tiles judge.
    4. Else an alignment where the rule has evidence for one.
    5. Where it has none, labels of the target if the domains differ, and nothing if they hardly do: there, labels of
       the target rarely gained anything significant, either.
    """
    probe = differences.probe
    if differences.model.new_sensor:
        why = f"The model does not know {differences.model.new_sensor}, and a sensor is learned from its pixels."
        return Proposal(PRETRAINING, NONE, why, _labels(differences))
    if differences.teaches_places:
        why = "Both domains show the same ground: the model learns what stays the same at a place."
        return Proposal(PRETRAINING, NONE, why, _labels(differences), "full")
    if probe is None:
        why = (
            "Without usable labels of the source no alignment can be judged; whether pretraining helps is judged by "
            "the held-out loss of the target."
        )
        return Proposal(PRETRAINING, NONE, why, _labels(differences))
    ((pair, choice),) = probe.choices.items()
    if choice.align != NONE:
        return Proposal(ALIGNMENT, choice.align, _sentence(choice), _labels(differences))
    differ = probe.evidence(*pair).domain_accuracy >= RULE.domain_accuracy
    return Proposal(LABELS if differ else NOTHING, NONE, _sentence(choice), _labels(differences))


def _sentence(choice: Choice) -> str:
    return f"{choice.why[0].upper()}{choice.why[1:]}."


def _labels(differences: Differences) -> str:
    """What labels of the target could settle: whether an alignment helps, and how many that takes."""
    usual = "five or ten labels of each class, in several places, let a probe of the target itself stand beside this"
    probe = differences.probe
    if probe is None:
        return f"Labels of the target: {usual} (`geomae probe --train TARGET`)."
    (test,) = probe.task.tests
    predicted = probe.encoder(BEFORE).predictions[0].predicted
    (choice,) = probe.choices.values()
    align = choice.align if choice.align != NONE else most_promising(probe.evidence(BEFORE, test.name))
    plain_T, aligned_T = (predicted[PredictionKey(test.name, "linear", None, name)][0] for name in (NONE, align))
    share = float((plain_T != aligned_T).mean())
    many, there = labels_to_settle(share), differences.domains.target.tiles
    more = f"; that is more than the {there:,} that it has" if many is not None and many > there else ""
    settle = (
        f"{align} and none disagree on {share:.0%} of the tiles, too few for a gain of {WORTH:.0%}"
        if many is None
        else f"{align} and none disagree on {share:.0%} of the tiles: about {many} labelled tiles of the "
        f"target, drawn at random, would show a gain of {WORTH:.0%} of them (95 % confidence, 80 % power){more}"
    )
    return f"Labels of the target: {settle}; {usual}."


def labels_to_settle(share: float, gain: float = WORTH) -> int | None:
    """The number of labelled tiles that show which of two predictions is right more often by `gain`; None if neither.

    `share` is that of the tiles on which they disagree. The difference of both in a tile is -1, 0 or 1, with variance
    share - gain²; its mean is known to gain / DEVIATIONS.
    """
    return ceil(DEVIATIONS**2 * (share - gain**2) / gain**2) if share >= gain else None
