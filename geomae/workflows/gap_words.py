"""What the figures of a gap say, in plain sentences."""

from collections.abc import Iterator, Sequence

from geomae.analysis.embedding_gap import A_DISTANCE, ANGLE, CORAL, MMD
from geomae.analysis.gap_cells import FEWEST_DEALS, HALVINGS, PERMUTATIONS
from geomae.analysis.gap_contrast import GapFigure
from geomae.analysis.gap_errors import RATIO
from geomae.analysis.gap_labels import LABEL_SHIFT
from geomae.analysis.gap_pixels import DIFFERENCE, WASSERSTEIN
from geomae.workflows.gap_found import LABELS, PIXELS, SIGNIFICANT, Found
from geomae.workflows.gap_recon import MASK

SPELLED = {
    MMD: "MMD²", CORAL: "CORAL distance", A_DISTANCE: "proxy A-distance", ANGLE: "subspace angle",
    DIFFERENCE: "difference of means", WASSERSTEIN: "Wasserstein distance", RATIO: "ratio of reconstruction errors",
    LABEL_SHIFT: "label shift",
}  # fmt: skip


def p_text(p: float | None) -> str:
    """A p-value as people write it; empty where nothing was tested."""
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def spelled(measure: str) -> str:
    """A measure as people write it."""
    name, _, of = measure.partition("/")
    return SPELLED.get(name, name.replace("_", " ")) + (f" of {of}" if of else "")


def verdicts(found: Found) -> Iterator[str]:
    """A sentence or two each about pixels, labels and every encoder; and what the data cannot tell."""
    if not found.tested:
        yield (
            "Whether any of this is more than chance the data cannot tell: there are too few groups for a permutation "
            f"test ({_groups(found)})."
        )
    yield from _pixels(found)
    yield from _labels(found)
    for label in found.encoders:
        yield from _encoder(found, label)
    yield from (f"{one}." for one in found.left_out)


def measured(found: Found) -> Iterator[str]:
    """How the figures came about."""
    for side in found.sides:
        drawn = f", of which {len(side):,} were drawn by the seed" if side.tiles > len(side) else ""
        yield f"{side.role} {side.name}: {side.tiles:,} tiles{drawn}, in {len(set(side.unit_T)):,} groups."
    yield (
        f"Each figure stands beside its median between {HALVINGS} random halves of the source, dealt by group: what "
        "zero looks like among groups as different as these. "
        + (
            f"{found.sides.paired} groups occur in both domains and are compared with themselves, so that a gap can be "
            "certain that is smaller than the difference between groups."
            if found.sides.paired
            else "No group occurs in both domains."
        )
    )
    yield (
        f"p-values are those of {PERMUTATIONS:,} permutations of whole groups"
        + (" (a group in both domains swaps them within itself)" if found.sides.paired else "")
        + f", corrected by Holm over the {found.tested} tests of this run; with fewer than {FEWEST_DEALS} different "
        "permutations nothing is tested."
    )
    yield (
        "MMD² is the unbiased estimate with a Gaussian kernel as wide as the median distance, so it can lie below 0; "
        "CORAL distance is the squared difference of covariances by 4 D². The proxy A-distance, 2 (1 - 2 error), is 2 "
        "where a linear classifier always tells the domain of tiles whose groups it never saw, and 0 or less where it "
        "guesses. The subspace angle is the mean angle between the leading five components. Embeddings are taken as "
        "they are, so MMD², CORAL and angles compare with their own null value, not across encoders."
    )
    yield (
        "Wasserstein distances are exact on the valid pixels of a lattice in each tile; their permutations use "
        f"histograms of groups. Reconstruction errors are RMSE, the mean over bands, under fixed masks ({MASK})."
    )


def _pixels(found: Found) -> Iterator[str]:
    differences = [one for one in found.figures[PIXELS] if one.measure == DIFFERENCE]
    if not differences:
        return
    largest = max(differences, key=lambda one: abs(one.value))
    unit = largest.unit.replace("_", " ")
    way = "higher" if largest.value > 0 else "lower"
    said = f"Pixels: the means differ most in {largest.band}, {abs(largest.value):.3g} {unit} {way} in the target"
    if largest.null_value is not None:
        said += f" ({largest.null_value:.3g} between halves of the source)"
    tested = [one for one in found.figures[PIXELS] if one.p_holm is not None]
    if tested:
        sure = list(dict.fromkeys(one.band for one in tested if _sure(one)))
        said += ". " + (
            f"More than chance in {len(sure)} of {len(differences)} bands: {', '.join(sure)}"
            if sure
            else "The data cannot tell the domains apart in any band"
        )
    yield f"{said}."


def _labels(found: Found) -> Iterator[str]:
    shift = found.find(LABELS, LABEL_SHIFT)
    if shift is None:
        return
    if shift.value == 0:
        yield "Labels: the shares of the classes are the same in both domains."
        return
    said = (
        f"Labels: {shift.value:.0%} of the tiles of one domain would need another label to have the shares of the other"
    )
    if shift.p_holm is not None:
        said += (
            f", more than chance (p {_p(shift)}); alignments of whole domains can do harm then"
            if _sure(shift)
            else f", which is no more than chance gives (p {_p(shift)})"
        )
    yield f"{said}."


def _encoder(found: Found, label: str) -> Iterator[str]:
    figures = [one for one in found.figures[label] if one.measure in (MMD, CORAL, A_DISTANCE, ANGLE)]
    tested = [one for one in figures if one.p_holm is not None]
    sure = [one for one in tested if _sure(one)]
    if sure:
        yield f"{label}: the domains differ in {_list(sure)}."
    elif tested:
        least = min(tested, key=lambda one: one.p_holm or 0)
        yield f"{label}: the data cannot tell the domains apart (least p {_p(least)}, {spelled(least.measure)})."
    ratio = found.find(label, RATIO)
    if ratio is not None:
        said = f"{label} errs {ratio.value:.2f} times as much on the target as on the source"
        if ratio.p_holm is not None:
            said += f", {'' if _sure(ratio) else 'no '}more than chance (p {_p(ratio)})"
        yield f"{said}."


def _list(figures: Sequence[GapFigure]) -> str:
    return ", ".join(
        f"{spelled(one.measure)} ({one.value:.3g}"
        + (f"; halves of the source {one.null_value:.3g}" if one.null_value is not None else "")
        + f"; p {_p(one)})"
        for one in figures
    )


def _groups(found: Found) -> str:
    return " and ".join(f"{len(set(side.unit_T))} in the {side.role}" for side in found.sides)


def _sure(figure: GapFigure) -> bool:
    return figure.p_holm is not None and figure.p_holm < SIGNIFICANT


def _p(figure: GapFigure) -> str:
    return p_text(figure.p_holm)
