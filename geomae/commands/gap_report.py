"""Output of `geomae gap`: values, pictures, the report, and sentences about them.

T tiles, K components
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from geomae.commands.run import AnalysisRun
from geomae.commands.session import Session
from geomae.encoders import EncoderSpec
from geomae.encoders.selections import Embeddings
from geomae.evaluation.gap import LABELS, MASK, PIXELS, GapDomains, GapResult
from geomae.evaluation.gap_components import (
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
)
from geomae.evaluation.pca import fit_pca
from geomae.evaluation.permutation_tests import FEWEST_PERMUTATIONS, HALVINGS, PERMUTATIONS, GapFigure
from geomae.files import write_json
from geomae.reports.domain_figures import Distance, DomainSpectrum, gap_distances, gap_spectra
from geomae.reports.page import About, Cell, Figure, Page, Section, Table, link_run, write_page
from geomae.reports.pca_figures import colour_columns, pca_scatter
from geomae.runtime.console import Screen

SIGNIFICANT = 0.05
DISTANCES = (MMD, CORAL, A_DISTANCE, ANGLE)
SCATTER_COMPONENTS = 4
TITLES = {
    MMD: "MMD²", CORAL: "CORAL distance", A_DISTANCE: "proxy A-distance", ANGLE: "subspace angle",
    DIFFERENCE: "difference of means", WASSERSTEIN: "Wasserstein distance", RATIO: "ratio of reconstruction errors",
    LABEL_SHIFT: "label shift",
}  # fmt: skip


def write_results(run_: AnalysisRun, session: Session, result: GapResult, embedded: Sequence[Embeddings]) -> None:
    """Publish rows, pictures, report and summary; print the results."""
    out = run_.out
    made_by = {one.path.parent.name: one.made_by for one in embedded if one.made_by is not None}
    write_json(out / "gap.json", {"rows": result.rows()})
    pictures = write_pictures(result, embedded, out)
    about = {
        **{f"encoder {number}": link_run(text) for number, text in enumerate(run_.params["encoders"], 1)},
        "catalogue": str(session.catalog.path),
        "precision": session.precision,
        "seed": str(run_.common.seed),
        **{f"run that made {label}": run_id for label, run_id in made_by.items()},
        **{f"digest of {one.path.parent.name}": str(one.store.attrs["encoder_digest"]) for one in embedded},
    }
    write_report(result, pictures, about, out / "report.html")
    stores = {f"store.{one.path.parent.name}": str(one.path) for one in embedded}
    run_.tracker.log_params(stores | {f"model_run.{label}": run_id for label, run_id in made_by.items()})
    groups = {domain.role: domain.groups for domain in result.domains}
    inputs = {"model_runs": made_by, "groups": groups, "paired_groups": result.domains.paired, "tests": result.tested}
    run_.finish(result.metrics(), inputs, [out / "gap.json", out / "report.html", *pictures])
    print_results(result, out, run_.screen)


def print_results(result: GapResult, out: Path, screen: Screen) -> None:
    """Print the tables and sentences of the result."""
    header = ["value", "halves of source", "p (Holm)"]
    tested = [one for one in result.figures[PIXELS] if one.p is not None or one.null_value is not None]
    if tested:
        rows = [[one.measure, one.band, *_texts(one)] for one in tested]
        screen.table(f"pixels, {result.domains.unit}", ["measure", "band", *header], rows)
    for label in (LABELS, *result.encoders):
        rows = [[one.measure, *_texts(one)] for one in result.figures.get(label, ())]
        if rows:
            screen.table(label, ["measure", *header], rows)
    for sentence in summarize_gap(result):
        screen.result(sentence)
    screen.result(f"figures: {out / 'gap.json'}")
    screen.result(f"report: {out / 'report.html'}")


def describe_dry_run(domains: GapDomains, specs: Sequence[EncoderSpec], screen: Screen) -> None:
    """Print what would be measured."""
    for domain in domains:
        screen.result(f"{domain.role} {domain.name}: {domain.tiles} tiles in {domain.groups} groups")
    screen.result(f"groups in both: {domains.paired}")
    for one in specs:
        screen.result(f"encoder {one.label}: {one.references[0].text}")


def p_text(p: float | None) -> str:
    """A p-value as text; empty if nothing was tested."""
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def measure_title(measure: str) -> str:
    """The written name of a measure."""
    name, _, of = measure.partition("/")
    return TITLES.get(name, name.replace("_", " ")) + (f" of {of}" if of else "")


def summarize_gap(result: GapResult) -> Iterator[str]:
    """One or two sentences each on pixels, labels and every encoder, and whether the differences are significant."""
    if not result.tested:
        yield f"Significance cannot be tested: too few groups for a permutation test ({_groups(result)})."
    yield from _pixels(result)
    yield from _labels(result)
    for label in result.encoders:
        yield from _encoder(result, label)
    yield from (f"{one}." for one in result.left_out)


def describe_gap_method(result: GapResult) -> Iterator[str]:
    """Sentences on how the values were measured."""
    for domain in result.domains:
        drawn = f", of which {len(domain):,} were drawn by the seed" if domain.tiles > len(domain) else ""
        yield f"{domain.role} {domain.name}: {domain.tiles:,} tiles{drawn}, in {domain.groups:,} groups."
    yield (
        f"Each value is shown with its null value: the median between {HALVINGS} random halves of the source, split by "
        "group. It is the distance to expect without a gap. "
        + (
            f"{result.domains.paired} groups occur in both domains and are compared with themselves. A gap can then be "
            "significant even if it is smaller than the differences between groups."
            if result.domains.paired
            else "No group occurs in both domains."
        )
    )
    yield (
        f"p-values are from {PERMUTATIONS:,} permutations of whole groups"
        + (" (in a group that occurs in both domains, the two are swapped)" if result.domains.paired else "")
        + f", with Holm's correction over the {result.tested} tests of this run. Nothing is tested with fewer than "
        f"{FEWEST_PERMUTATIONS} different permutations."
    )
    yield (
        "MMD² is the unbiased estimate with a Gaussian kernel as wide as the median distance; it can be negative. "
        "The CORAL distance is the squared difference of covariances / 4 D². The proxy A-distance is 2 (1 - 2 error) "
        "of a linear classifier of domains, on groups that it was not trained on: 2 if it is always right, 0 or less "
        "at chance. The subspace angle is the mean angle between the first five components. Embeddings are not "
        "standardised, so compare MMD², CORAL and angles with their null values, not across encoders."
    )
    yield (
        "Wasserstein distances are exact on the valid pixels of a regular grid in each tile; their permutations use "
        f"histograms of groups. Reconstruction errors are RMSE, the mean over bands, under fixed masks ({MASK})."
    )


def _pixels(result: GapResult) -> Iterator[str]:
    differences = [one for one in result.figures[PIXELS] if one.measure == DIFFERENCE]
    if not differences:
        return
    largest = max(differences, key=lambda one: abs(one.value))
    unit = largest.unit.replace("_", " ")
    way = "higher" if largest.value > 0 else "lower"
    said = f"Pixels: the means differ most in {largest.band}, {abs(largest.value):.3g} {unit} {way} in the target"
    if largest.null_value is not None:
        said += f" ({largest.null_value:.3g} between halves of the source)"
    tested = [one for one in result.figures[PIXELS] if one.p_holm is not None]
    if tested:
        sure = list(dict.fromkeys(one.band for one in tested if _significant(one)))
        said += ". " + (
            f"The difference is significant in {len(sure)} of {len(differences)} bands: {', '.join(sure)}"
            if sure
            else "No band differs significantly between the domains"
        )
    yield f"{said}."


def _labels(result: GapResult) -> Iterator[str]:
    shift = result.find(LABELS, LABEL_SHIFT)
    if shift is None:
        return
    if shift.value == 0:
        yield "Labels: the shares of the classes are the same in both domains."
        return
    said = f"Labels: the class shares of the domains differ by {shift.value:.0%} (total variation distance)"
    if shift.p_holm is not None:
        said += (
            f", significant (p {_p(shift)}); alignments that ignore classes can then do harm"
            if _significant(shift)
            else f", not significant (p {_p(shift)})"
        )
    yield f"{said}."


def _encoder(result: GapResult, label: str) -> Iterator[str]:
    figures = [one for one in result.figures[label] if one.measure in DISTANCES]
    tested = [one for one in figures if one.p_holm is not None]
    sure = [one for one in tested if _significant(one)]
    if sure:
        yield f"{label}: the domains differ in {_list(sure)}."
    elif tested:
        least = min(tested, key=lambda one: one.p_holm or 0)
        yield f"{label}: no significant difference (smallest p {_p(least)}, {measure_title(least.measure)})."
    ratio = result.find(label, RATIO)
    if ratio is not None:
        said = f"{label}: the reconstruction error on the target is {ratio.value:.2f} times that on the source"
        if ratio.p_holm is not None:
            said += f", {'' if _significant(ratio) else 'not '}significant (p {_p(ratio)})"
        yield f"{said}."


def _list(figures: Sequence[GapFigure]) -> str:
    return ", ".join(
        f"{measure_title(one.measure)} ({one.value:.3g}"
        + (f"; halves of the source {one.null_value:.3g}" if one.null_value is not None else "")
        + f"; p {_p(one)})"
        for one in figures
    )


def _groups(result: GapResult) -> str:
    return " and ".join(f"{domain.groups} in the {domain.role}" for domain in result.domains)


def _significant(figure: GapFigure) -> bool:
    return figure.p_holm is not None and figure.p_holm < SIGNIFICANT


def _p(figure: GapFigure) -> str:
    return p_text(figure.p_holm)


def write_pictures(result: GapResult, embedded: Sequence[Embeddings], out: Path) -> list[Path]:
    """Publish the pictures; returns their paths."""
    paths = []
    between = f"{result.domains.source.name} and {result.domains.target.name}"
    units = {domain.selected.imagery.unit for domain in result.domains}
    if len(units) == 1:  # both domains need one axis
        paths.append(out / "gap_spectra.png")
        domains = [
            DomainSpectrum(f"{domain.role}: {domain.name}", domain.bands, spectrum.mean_C, spectrum.std_C)
            for domain, spectrum in zip(result.domains, result.spectra, strict=True)
        ]
        gap_spectra(paths[-1], domains, units.pop(), f"Spectra of {between}")
    paths.append(out / "gap_distances.png")
    panels = {
        measure_title(measure) + (", degrees" if measure == ANGLE else ""): {
            label: Distance(one.value, one.null_value, one.p_holm is not None and one.p_holm < SIGNIFICANT)
            for label in result.encoders
            if (one := result.find(label, measure)) is not None
        }
        for measure in DISTANCES
    }
    gap_distances(paths[-1], {name: panel for name, panel in panels.items() if panel}, f"Distances between {between}")
    for label, embeddings in zip(result.encoders, embedded, strict=True):
        paths.append(out / f"gap_pca_{label}.png")
        _scatter(paths[-1], result, label, embeddings)
    return paths


def write_report(result: GapResult, pictures: Sequence[Path], about: About, path: Path) -> None:
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
        for label in result.encoders
    )
    source, target = (domain.name for domain in result.domains)
    subject = f"Distance of {target} from {source} in pixels and embeddings, and in labels and errors where known."
    lead, *more = summarize_gap(result)
    sections = [
        Section("Result", (subject, *more), (distances,)),
        Section("Pixels", (), (*spectra, *_pixel_tables(result))),
        Section("Embeddings", (), (_embedding_table(result), *scatters)),
    ]
    if result.find(LABELS, LABEL_SHIFT) is not None:
        text = "Distances between tiles of the same class: the part of the gap that class shares do not explain."
        sections.append(Section("Labels", (text,), tuple(_label_tables(result))))
    errors = _error_table(result)
    if errors.rows:
        sections.append(Section("Reconstruction", (), (errors,)))
    sections.append(Section("How it was measured", tuple(describe_gap_method(result))))
    notes = [[label, " · ".join(lines)] for label, lines in result.notes.items()]
    sections.append(Section("Encoders", (), (Table("Input of each encoder", ["encoder", "notes"], notes),)))
    write_page(path, Page(f"Gap: {source} to {target}", lead, tuple(sections), about))


def _scatter(path: Path, result: GapResult, label: str, embedded: Embeddings) -> None:
    """Both domains on the same axes: principal components of all tiles together."""
    rows = [embedded.of(domain.selected) for domain in result.domains]
    together = np.concatenate(rows)
    pca = fit_pca([together], min(SCATTER_COMPONENTS, *together.shape))
    names = np.array([f"{domain.role}: {domain.name}" for domain in result.domains])
    columns = {"domain": names.repeat([len(one) for one in rows])}
    columns["label"] = np.concatenate([domain.label_T for domain in result.domains])
    pca_scatter(
        path,
        pca.transform(together),
        colour_columns(columns),
        pca.share_D[: len(pca.components_KD)],
        title=f"{label}: source and target",
        caption="Principal components of the embeddings of both domains together.",
    )


def _pixel_tables(result: GapResult) -> list[Table]:
    """A row per band: both means, their distance, and the share of valid pixels."""
    source = result.domains.source
    if not result.domains.same_bands:
        header = ["band", "wavelength, µm", "mean", "standard deviation", "valid"]
        return [
            Table(f"{domain.role} {domain.name}, {domain.selected.imagery.unit.replace('_', ' ')}", header, [
                [band.name, band.wavelength_um, *(float(each[place]) for each in (one.mean_C, one.std_C, one.valid_C))]
                for place, band in enumerate(domain.bands)
            ])
            for domain, one in zip(result.domains, result.spectra, strict=True)
        ]  # fmt: skip
    first, second = result.spectra
    rows: list[list[Cell]] = []
    for place, band in enumerate(source.bands):
        cells: list[Cell] = [band.name, band.wavelength_um, float(first.mean_C[place]), float(second.mean_C[place])]
        for measure in (DIFFERENCE, WASSERSTEIN):
            cells += _cells(result.find(PIXELS, measure, band.name))
        rows.append(cells)
    header = ["band", "µm", "source", "target", "difference", "halves", "p (Holm)"]
    header += ["Wasserstein", "halves", "p (Holm)"]
    valid: list[list[Cell]] = [
        [band.name, float(first.valid_C[place]), float(second.valid_C[place])]
        for place, band in enumerate(source.bands)
    ]
    gsd = ", ".join(f"{domain.gsd_m:g} m in the {domain.role}" for domain in result.domains if domain.gsd_m is not None)
    unit = source.selected.imagery.unit.replace("_", " ")
    return [
        Table(f"Means of the bands, {unit}" + (f" (pixels of {gsd})" if gsd else ""), header, rows),
        Table("Share of valid pixels", ["band", "source", "target"], valid),
    ]


def _embedding_table(result: GapResult) -> Table:
    rows: list[list[Cell]] = []
    for label in result.encoders:
        for measure in DISTANCES:
            one = result.find(label, measure)
            if one is not None:
                rows.append([label, measure_title(measure), *_cells(one)])
    header = ["encoder", "measure", "value", "halves of the source", "p (Holm)"]
    return Table("Distances of the embeddings", header, rows)


def _label_tables(result: GapResult) -> list[Table]:
    labels = [domain.label_T[domain.label_T != ""] for domain in result.domains]
    names = sorted({*labels[0].tolist(), *labels[1].tolist()})
    shares: list[list[Cell]] = [[name, *(float((one == name).mean()) for one in labels)] for name in names]
    shift = result.find(LABELS, LABEL_SHIFT)
    tables = [
        Table("Shares of the classes", ["class", "source", "target"], shares),
        Table("Label shift", ["measure", "value", "halves of the source", "p (Holm)"],
              [["total variation of the shares", *_cells(shift)]]),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [label, one.measure.removeprefix(f"{MMD}/"), *_cells(one)[:2]]
        for label in result.encoders
        for one in result.figures[label]
        if one.measure.startswith(f"{MMD}/")
    ]
    header = ["encoder", "class", "MMD²", "halves of the source"]
    return [*tables, *([Table("Distances within classes", header, rows)] if rows else [])]


def _error_table(result: GapResult) -> Table:
    rows: list[list[Cell]] = []
    for label in result.encoders:
        errors = [result.find(label, measure) for measure in (ON_SOURCE, ON_TARGET)]
        if all(errors):
            ratio = result.find(label, RATIO)
            rows.append([label, *(one.value for one in errors if one is not None), *_cells(ratio)])
    unit = result.domains.unit
    header = ["model", "source", "target", "target / source", "halves of the source", "p (Holm)"]
    return Table(f"RMSE of hidden pixels, {unit}, mean over bands", header, rows)


def _texts(figure: GapFigure) -> list[str]:
    """Value, null value and corrected p of a figure, for the terminal."""
    null_value = "" if figure.null_value is None else f"{figure.null_value:.4g}"
    return [f"{figure.value:.4g}", null_value, p_text(figure.p_holm)]


def _cells(figure: GapFigure | None) -> list[Cell]:
    """Value, null value and p of a figure."""
    return [None, None, None] if figure is None else [figure.value, figure.null_value, figure.p_holm]
