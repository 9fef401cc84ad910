"""The pictures and the report of a gap, and what its figures say.

T tiles, K components
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.encoders.selections import Embeddings
from geomae.evaluation.gap import (
    A_DISTANCE,
    ANGLE,
    CORAL,
    DIFFERENCE,
    LABEL_SHIFT,
    MMD,
    ON_SOURCE,
    ON_TARGET,
    RATIO,
    WASSERSTEIN,
    Pixels,
)
from geomae.evaluation.gap_domains import MASK, GapDomain, GapDomains
from geomae.evaluation.pca import fit_pca
from geomae.evaluation.permutations import FEWEST_DEALS, HALVINGS, PERMUTATIONS, GapFigure, corrected
from geomae.reports.domain_figures import Distance, DomainSpectrum, gap_distances, gap_spectra
from geomae.reports.page import Cell, Figure, Page, Section, Table, write_page
from geomae.reports.pca_figures import colour_columns, pca_scatter

PIXELS, LABELS = "pixels", "labels"  # in place of an encoder
SIGNIFICANT = 0.05
FIELDS = ("measure", "band", "unit", "value", "null_value", "p", "p_holm")


@dataclass(frozen=True)
class Spectrum:
    """Mean and standard deviation of the valid pixels of each band of a domain, and their share."""

    mean_C: NDArray[np.float64]
    std_C: NDArray[np.float64]
    valid_C: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: Pixels) -> "Spectrum":
        """That of some pixels; NaN for a band without a valid one."""
        values = [pixels.of_band(place) for place in range(pixels.values_NPC.shape[2])]
        known = [one if len(one) else np.array([np.nan]) for one in values]
        mean, std = (np.array([getattr(one, name)() for one in known]) for name in ("mean", "std"))
        return cls(mean, std, pixels.valid_NPC.sum((0, 1)) / pixels.looked_at)


@dataclass(frozen=True)
class GapResult:
    """The figures by whom they are of: `pixels`, `labels`, or the label of an encoder; Holm is over all of them.

    `notes` are what each encoder says of itself, `left_out` what could not be measured and why.
    """

    sides: GapDomains
    spectra: tuple[Spectrum, Spectrum]
    figures: Mapping[str, Sequence[GapFigure]]
    notes: Mapping[str, Sequence[str]]
    left_out: Sequence[str]

    @property
    def encoders(self) -> list[str]:
        """The labels of the encoders, in order."""
        return list(self.notes)

    @property
    def tested(self) -> int:
        """How many tests Holm's correction is over."""
        return sum(one.p is not None for figures in self.figures.values() for one in figures)

    def rows(self) -> list[dict[str, Any]]:
        """As `gap.json` holds them."""
        return [
            {"encoder": whose} | {name: getattr(one, name) for name in FIELDS}
            for whose, figures in self.figures.items()
            for one in figures
        ]

    def find(self, whose: str, measure: str, band: str = "") -> GapFigure | None:
        """One figure."""
        return next((one for one in self.figures.get(whose, ()) if (one.measure, one.band) == (measure, band)), None)

    def metrics(self) -> dict[str, float]:
        """Flat figures: MEASURE/WHOSE[/BAND], and the same with /null, /p and /p_holm where they are known."""
        flat: dict[str, float] = {}
        for row in self.rows():
            name = "/".join([row["measure"], row["encoder"], *([row["band"]] if row["band"] else [])])
            ends = {"": row["value"], "/null": row["null_value"], "/p": row["p"], "/p_holm": row["p_holm"]}
            flat |= {f"{name}{end}": float(value) for end, value in ends.items() if value is not None}
        return flat


def correct_all(figures: Mapping[str, Sequence[GapFigure]]) -> dict[str, list[GapFigure]]:
    """Holm's correction over the figures of everything together."""
    done = iter(corrected([one for some in figures.values() for one in some]))
    return {whose: [next(done) for _ in some] for whose, some in figures.items()}


def known_of(side: GapDomain, spectrum: Spectrum) -> list[GapFigure]:
    """What is only told of a domain, not compared: its ground sample distance, and the share of valid pixels."""
    gsd = [GapFigure(f"gsd_{side.role}", side.gsd_m, unit="m")] if side.gsd_m is not None else []
    shares = zip(side.bands, spectrum.valid_C.tolist(), strict=True)
    return [*gsd, *(GapFigure(f"valid_share_{side.role}", share, band=band.name) for band, share in shares)]


SPELLED = {
    MMD: "MMD²", CORAL: "CORAL distance", A_DISTANCE: "proxy A-distance", ANGLE: "subspace angle",
    DIFFERENCE: "difference of means", WASSERSTEIN: "Wasserstein distance", RATIO: "ratio of reconstruction errors",
    LABEL_SHIFT: "label shift",
}  # fmt: skip


def p_text(p: float | None) -> str:
    """A p-value as people write it; empty where nothing was tested."""
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def measure_title(measure: str) -> str:
    """A measure as people write it."""
    name, _, of = measure.partition("/")
    return SPELLED.get(name, name.replace("_", " ")) + (f" of {of}" if of else "")


def summarize_gap(found: GapResult) -> Iterator[str]:
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


def describe_gap_method(found: GapResult) -> Iterator[str]:
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


def _pixels(found: GapResult) -> Iterator[str]:
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


def _labels(found: GapResult) -> Iterator[str]:
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


def _encoder(found: GapResult, label: str) -> Iterator[str]:
    figures = [one for one in found.figures[label] if one.measure in (MMD, CORAL, A_DISTANCE, ANGLE)]
    tested = [one for one in figures if one.p_holm is not None]
    sure = [one for one in tested if _sure(one)]
    if sure:
        yield f"{label}: the domains differ in {_list(sure)}."
    elif tested:
        least = min(tested, key=lambda one: one.p_holm or 0)
        yield f"{label}: the data cannot tell the domains apart (least p {_p(least)}, {measure_title(least.measure)})."
    ratio = found.find(label, RATIO)
    if ratio is not None:
        said = f"{label} errs {ratio.value:.2f} times as much on the target as on the source"
        if ratio.p_holm is not None:
            said += f", {'' if _sure(ratio) else 'no '}more than chance (p {_p(ratio)})"
        yield f"{said}."


def _list(figures: Sequence[GapFigure]) -> str:
    return ", ".join(
        f"{measure_title(one.measure)} ({one.value:.3g}"
        + (f"; halves of the source {one.null_value:.3g}" if one.null_value is not None else "")
        + f"; p {_p(one)})"
        for one in figures
    )


def _groups(found: GapResult) -> str:
    return " and ".join(f"{len(set(side.unit_T))} in the {side.role}" for side in found.sides)


def _sure(figure: GapFigure) -> bool:
    return figure.p_holm is not None and figure.p_holm < SIGNIFICANT


def _p(figure: GapFigure) -> str:
    return p_text(figure.p_holm)


COMPONENTS = 4


def write_pictures(found: GapResult, embedded: Sequence[Embeddings], out: Path) -> list[Path]:
    """Publish the pictures; returns their paths."""
    paths = []
    between = f"{found.sides.source.name} and {found.sides.target.name}"
    units = {side.selected.imagery.unit for side in found.sides}
    if len(units) == 1:  # else there is no axis for both
        paths.append(out / "gap_spectra.png")
        domains = [
            DomainSpectrum(f"{side.role}: {side.name}", side.bands, spectrum.mean_C, spectrum.std_C)
            for side, spectrum in zip(found.sides, found.spectra, strict=True)
        ]
        gap_spectra(paths[-1], domains, units.pop(), f"Spectra of {between}")
    paths.append(out / "gap_distances.png")
    panels = {
        measure_title(measure) + (", degrees" if measure == ANGLE else ""): {
            label: Distance(one.value, one.null_value, one.p_holm is not None and one.p_holm < SIGNIFICANT)
            for label in found.encoders
            if (one := found.find(label, measure)) is not None
        }
        for measure in (MMD, CORAL, A_DISTANCE, ANGLE)
    }
    gap_distances(paths[-1], {name: panel for name, panel in panels.items() if panel}, f"Distances between {between}")
    for label, embeddings in zip(found.encoders, embedded, strict=True):
        paths.append(out / f"gap_pca_{label}.png")
        _scatter(paths[-1], found, label, embeddings)
    return paths


def write_report(found: GapResult, pictures: Sequence[Path], about: Mapping[str, str], path: Path) -> None:
    """Publish `report.html`."""
    by_name = {picture.stem: picture for picture in pictures}
    spectra = (
        (Figure(by_name["gap_spectra"], "Mean and one standard deviation of the valid pixels of each band."),)
        if "gap_spectra" in by_name
        else ()
    )
    distances = Figure(by_name["gap_distances"], "Distances between the domains, and between halves of the source.")
    scatters = tuple(
        Figure(by_name[f"gap_pca_{label}"], f"Both domains along the principal components of {label}.")
        for label in found.encoders
    )
    sections = [
        Section("What the data say", tuple(summarize_gap(found)), (distances,)),
        Section("Pixels", (), (*spectra, *_pixel_tables(found))),
        Section("Embeddings", (), (_embedding_table(found), *scatters)),
    ]
    if found.find(LABELS, LABEL_SHIFT) is not None:
        text = "Distances between the tiles of one class say what is left of the gap where the classes are the same."
        sections.append(Section("Labels", (text,), tuple(_label_tables(found))))
    errors = _error_table(found)
    if errors.rows:
        sections.append(Section("Reconstruction", (), (errors,)))
    sections.append(Section("How it was measured", tuple(describe_gap_method(found))))
    notes = [[label, " · ".join(lines)] for label, lines in found.notes.items()]
    sections.append(Section("Encoders", (), (Table("How each encoder takes tiles", ["encoder", "notes"], notes),)))
    source, target = (side.name for side in found.sides)
    lead = (
        f"How far {target} lies from {source}, and in what: pixels, embeddings, and what is known of labels and errors."
    )
    write_page(path, Page(f"Gap: {source} to {target}", lead, tuple(sections), about))


def _scatter(path: Path, found: GapResult, label: str, embedded: Embeddings) -> None:
    """Both domains on the same axes: components of all tiles together."""
    rows = [embedded.of(side.selected) for side in found.sides]
    together = np.concatenate(rows)
    pca = fit_pca([together], min(COMPONENTS, *together.shape))
    names = np.array([f"{side.role}: {side.name}" for side in found.sides])
    columns = {"domain": names.repeat([len(one) for one in rows])}
    columns["label"] = np.concatenate([side.label_T for side in found.sides])
    pca_scatter(
        path,
        pca.transform(together),
        colour_columns(columns),
        pca.share_D[: len(pca.components_KD)],
        title=f"{label}: source and target",
        caption="Principal components of the embeddings of both domains together.",
    )


def _pixel_tables(found: GapResult) -> list[Table]:
    """A row per band: both means, how far they are apart, and the share of valid pixels."""
    source = found.sides.source
    if not found.sides.same_bands:
        header = ["band", "wavelength, µm", "mean", "standard deviation", "valid"]
        return [
            Table(f"{side.role} {side.name}, {side.selected.imagery.unit.replace('_', ' ')}", header, [
                [band.name, band.wavelength_um, *(float(each[place]) for each in (one.mean_C, one.std_C, one.valid_C))]
                for place, band in enumerate(side.bands)
            ])
            for side, one in zip(found.sides, found.spectra, strict=True)
        ]  # fmt: skip
    first, second = found.spectra
    rows: list[list[Cell]] = []
    for place, band in enumerate(source.bands):
        cells: list[Cell] = [band.name, band.wavelength_um, float(first.mean_C[place]), float(second.mean_C[place])]
        for measure in (DIFFERENCE, WASSERSTEIN):
            cells += _cells(found.find(PIXELS, measure, band.name))
        rows.append(cells)
    header = ["band", "µm", "source", "target", "difference", "halves", "p (Holm)"]
    header += ["Wasserstein", "halves", "p (Holm)"]
    valid: list[list[Cell]] = [
        [band.name, float(first.valid_C[place]), float(second.valid_C[place])]
        for place, band in enumerate(source.bands)
    ]
    gsd = ", ".join(f"{side.gsd_m:g} m in the {side.role}" for side in found.sides if side.gsd_m is not None)
    unit = source.selected.imagery.unit.replace("_", " ")
    return [
        Table(f"Means of the bands, {unit}" + (f" (pixels of {gsd})" if gsd else ""), header, rows),
        Table("Share of valid pixels", ["band", "source", "target"], valid),
    ]


def _embedding_table(found: GapResult) -> Table:
    rows: list[list[Cell]] = []
    for label in found.encoders:
        for measure in (MMD, CORAL, A_DISTANCE, ANGLE):
            one = found.find(label, measure)
            if one is not None:
                rows.append([label, measure_title(measure), *_cells(one)])
    header = ["encoder", "measure", "value", "halves of the source", "p (Holm)"]
    return Table("Distances of the embeddings", header, rows)


def _label_tables(found: GapResult) -> list[Table]:
    labels = [side.label_T[side.label_T != ""] for side in found.sides]
    names = sorted({*labels[0].tolist(), *labels[1].tolist()})
    shares: list[list[Cell]] = [[name, *(float((one == name).mean()) for one in labels)] for name in names]
    shift = found.find(LABELS, LABEL_SHIFT)
    tables = [
        Table("Shares of the classes", ["class", "source", "target"], shares),
        Table("Label shift", ["measure", "value", "halves of the source", "p (Holm)"],
              [["total variation of the shares", *_cells(shift)]]),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [label, one.measure.removeprefix(f"{MMD}/"), *_cells(one)[:2]]
        for label in found.encoders
        for one in found.figures[label]
        if one.measure.startswith(f"{MMD}/")
    ]
    header = ["encoder", "class", "MMD²", "halves of the source"]
    return [*tables, *([Table("Distances within classes", header, rows)] if rows else [])]


def _error_table(found: GapResult) -> Table:
    rows: list[list[Cell]] = []
    for label in found.encoders:
        errors = [found.find(label, measure) for measure in (ON_SOURCE, ON_TARGET)]
        if all(errors):
            ratio = found.find(label, RATIO)
            rows.append([label, *(one.value for one in errors if one is not None), *_cells(ratio)])
    unit = found.sides.source.selected.imagery.unit.replace("_", " ")
    header = ["model", "source", "target", "target / source", "halves of the source", "p (Holm)"]
    return Table(f"RMSE of hidden pixels, {unit}, mean over bands", header, rows)


def _cells(figure: GapFigure | None) -> list[Cell]:
    """Value, null value and p of a figure."""
    return [None, None, None] if figure is None else [figure.value, figure.null_value, figure.p_holm]
