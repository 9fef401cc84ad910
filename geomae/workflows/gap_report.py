"""The pictures and the report of a gap.

T tiles, K components
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geomae.analysis.embedding_gap import A_DISTANCE, ANGLE, CORAL, MMD
from geomae.analysis.gap_contrast import GapFigure
from geomae.analysis.gap_errors import ON_SOURCE, ON_TARGET, RATIO
from geomae.analysis.gap_labels import LABEL_SHIFT
from geomae.analysis.gap_pixels import DIFFERENCE, WASSERSTEIN
from geomae.analysis.pca import fit_pca
from geomae.reports.gap_figures import Distance, DomainSpectrum, gap_distances, gap_spectra
from geomae.reports.page import Cell, Figure, Page, Section, Table, write_page
from geomae.reports.palette import colour_columns
from geomae.reports.scatter import pca_scatter
from geomae.workflows.gap_found import LABELS, PIXELS, SIGNIFICANT, Found
from geomae.workflows.gap_words import measured, p_text, spelled, verdicts
from geomae.workflows.probe_embed import Embeddings

COMPONENTS = 4


def write_pictures(found: Found, embedded: Sequence[Embeddings], out: Path) -> list[Path]:
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
        spelled(measure) + (", degrees" if measure == ANGLE else ""): {
            label: Distance(one.value, one.null_value, one.p_holm is not None and one.p_holm < SIGNIFICANT)
            for label in found.encoders
            if (one := found.find(label, measure)) is not None
        }
        for measure in (MMD, CORAL, A_DISTANCE, ANGLE)
    }
    gap_distances(paths[-1], {name: panel for name, panel in panels.items() if panel}, f"Distances between {between}")
    for label, one in zip(found.encoders, embedded, strict=True):
        paths.append(out / f"gap_pca_{label}.png")
        _scatter(paths[-1], found, label, one)
    return paths


def write_report(found: Found, pictures: Sequence[Path], about: Mapping[str, str], path: Path) -> None:
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
        Section("What the data say", tuple(verdicts(found)), (distances,)),
        Section("Pixels", (), (*spectra, *_pixel_tables(found))),
        Section("Embeddings", (), (_embedding_table(found), *scatters)),
    ]
    if found.find(LABELS, LABEL_SHIFT) is not None:
        text = "Distances between the tiles of one class say what is left of the gap where the classes are the same."
        sections.append(Section("Labels", (text,), tuple(_label_tables(found))))
    errors = _error_table(found)
    if errors.rows:
        sections.append(Section("Reconstruction", (), (errors,)))
    sections.append(Section("How it was measured", tuple(measured(found))))
    notes = [[label, " · ".join(lines)] for label, lines in found.notes.items()]
    sections.append(Section("Encoders", (), (Table("How each encoder takes tiles", ["encoder", "notes"], notes),)))
    source, target = (side.name for side in found.sides)
    lead = (
        f"How far {target} lies from {source}, and in what: pixels, embeddings, and what is known of labels and errors."
    )
    write_page(path, Page(f"Gap: {source} to {target}", lead, tuple(sections), about))


def _scatter(path: Path, found: Found, label: str, embedded: Embeddings) -> None:
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


def _pixel_tables(found: Found) -> list[Table]:
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
        rows.append([*cells, float(first.valid_C[place]), float(second.valid_C[place])])
    header = ["band", "µm", "source", "target", "difference", "halves", "p (Holm)"]
    header += ["Wasserstein", "halves", "p (Holm)", "valid in source", "in target"]
    gsd = ", ".join(f"{side.gsd_m:g} m in the {side.role}" for side in found.sides if side.gsd_m is not None)
    unit = source.selected.imagery.unit.replace("_", " ")
    return [Table(f"Means of the bands, {unit}" + (f" (pixels of {gsd})" if gsd else ""), header, rows)]


def _embedding_table(found: Found) -> Table:
    rows: list[list[Cell]] = []
    for label in found.encoders:
        for measure in (MMD, CORAL, A_DISTANCE, ANGLE):
            one = found.find(label, measure)
            if one is not None:
                rows.append([label, spelled(measure), *_cells(one)])
    header = ["encoder", "measure", "value", "halves of the source", "p (Holm)"]
    return Table("Distances of the embeddings", header, rows)


def _label_tables(found: Found) -> list[Table]:
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


def _error_table(found: Found) -> Table:
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
    return [None, None, ""] if figure is None else [figure.value, figure.null_value, p_text(figure.p_holm)]
