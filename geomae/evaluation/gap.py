"""The gap between two domains: reads their tiles and compares pixels, labels, embeddings and reconstruction errors.

T tiles of a domain, P pixels of a tile, C bands, D features
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geomae.encoders import EncoderSpec, OwnEncoder
from geomae.encoders.selections import ByDataset, Embeddings
from geomae.errors import BandMismatchError, CatalogError
from geomae.evaluation.gap_components import (
    Pixels,
    class_distances,
    embedding_gap,
    label_shift,
    pixel_gap,
    reconstruction_gap,
    subsample_tiles,
)
from geomae.evaluation.permutation_tests import DomainComparison, GapFigure, corrected
from geomae.evaluation.reconstruction import MASKED, Candidate, fit_candidates, score_reconstructions
from geomae.evaluation.reconstruction_masks import MaskKind
from geomae.runtime.devices import Compute
from geomae.sensors import Band
from geomae.tiles.census import label_range
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Selection, check_no_pixel_overlap, share_bands

SOURCE, TARGET = "source", "target"
PIXELS, LABELS = "pixels", "labels"  # in place of the label of an encoder
LATTICE = 32  # most pixels per side of the regular lattice on which a tile is sampled
MASK = MaskKind("random", 0.75)
RECONSTRUCTED_TILES = 256  # of each domain, drawn by the seed
FIELDS = ("measure", "band", "unit", "value", "null_value", "p", "p_holm")

Number = TypeVar("Number", bound=np.generic)
Doubles = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def silent(what: str, done: int, total: int) -> None:
    """A callback for progress that does nothing."""


@dataclass(frozen=True)
class GapDomain:
    """A domain. `unit_T` is the independent unit of each tile: its group, else its block, else the tile itself.

    `label_T` is empty for a tile without a label. Large domains are subsampled; `tiles` is the number before.
    """

    role: str
    selected: Selection
    unit_T: list[str]
    label_T: NDArray[np.str_]
    tiles: int

    def __len__(self) -> int:
        return len(self.unit_T)

    @property
    def name(self) -> str:
        """The selector."""
        return self.selected.name

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance of its pixels in metres."""
        return self.selected.imagery.gsd_m

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are compared."""
        return self.selected.imagery.bands

    @property
    def groups(self) -> int:
        """The number of independent units."""
        return len(set(self.unit_T))


@dataclass(frozen=True)
class GapDomains:
    """Both domains. `same_bands` says whether their bands match, in the same unit and order.

    `measured` is the range of the labels where these are measurements and not classes; tiles then count as unlabelled.
    """

    source: GapDomain
    target: GapDomain
    same_bands: bool
    measured: tuple[float, float] | None = None

    def __iter__(self) -> Iterator[GapDomain]:
        return iter((self.source, self.target))

    @property
    def paired(self) -> int:
        """Groups that occur in both domains."""
        return len(set(self.source.unit_T) & set(self.target.unit_T))

    @property
    def unit(self) -> str:
        """The unit of the source's pixels, in words."""
        return self.source.selected.imagery.unit.replace("_", " ")


@dataclass(frozen=True)
class Spectrum:
    """Mean and standard deviation of the valid pixels of each band of a domain, and their share."""

    mean_C: Doubles
    std_C: Doubles
    valid_C: Doubles

    @classmethod
    def of(cls, pixels: Pixels) -> "Spectrum":
        """The spectrum of some pixels; NaN for a band without a valid pixel."""
        values = [pixels.of_band(place) for place in range(pixels.values_NPC.shape[2])]
        known = [one if len(one) else np.array([np.nan]) for one in values]
        mean, std = (np.array([getattr(one, name)() for one in known]) for name in ("mean", "std"))
        return cls(mean, std, pixels.valid_NPC.sum((0, 1)) / pixels.looked_at)


@dataclass(frozen=True)
class GapResult:
    """Figures by subject: `pixels`, `labels`, or the label of an encoder. Holm's correction is over all of them.

    `notes` are remarks of each encoder, `left_out` says what could not be measured and why.
    """

    domains: GapDomains
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
        """The number of tests in Holm's correction."""
        return sum(one.p is not None for figures in self.figures.values() for one in figures)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `gap.json`."""
        return [
            {"encoder": label} | {name: getattr(one, name) for name in FIELDS}
            for label, figures in self.figures.items()
            for one in figures
        ]

    def find(self, label: str, measure: str, band: str = "") -> GapFigure | None:
        """One figure of `pixels`, `labels` or an encoder."""
        return next((one for one in self.figures.get(label, ()) if (one.measure, one.band) == (measure, band)), None)

    def metrics(self) -> dict[str, float]:
        """Figures by name: MEASURE/LABEL[/BAND], and with /null, /p and /p_holm where they exist."""
        flat: dict[str, float] = {}
        for row in self.rows():
            name = "/".join([row["measure"], row["encoder"], *([row["band"]] if row["band"] else [])])
            ends = {"": row["value"], "/null": row["null_value"], "/p": row["p"], "/p_holm": row["p_holm"]}
            flat |= {f"{name}{end}": float(value) for end, value in ends.items() if value is not None}
        return flat


def read_gap_domains(selections: Sequence[Selection], seed: int) -> GapDomains:
    """Source and target, in their common bands if they have any.

    Raises ConfigError where tiles of one overlap tiles of the other, and CatalogError for fewer than two in a domain.
    """
    source, target = selections
    check_no_pixel_overlap(source.index, target.index, f"--source {source.name}")
    try:
        selections, same = share_bands(selections), True
    except BandMismatchError:  # an encoder may accept both
        same = False
    here, there = (_domain(one, role, seed) for one, role in zip(selections, (SOURCE, TARGET), strict=True))
    measured = label_range({*here.label_T.tolist(), *there.label_T.tolist()} - {""})
    if measured is not None:
        here, there = (replace(one, label_T=np.full(len(one), "")) for one in (here, there))
    return GapDomains(here, there, same and len({one.imagery.unit for one in selections}) == 1, measured)


def comparable_specs(specs: Sequence[EncoderSpec], domains: GapDomains) -> list[EncoderSpec]:
    """The encoders whose embeddings of both domains are comparable. Raises BandMismatchError where none is left."""
    if domains.same_bands:
        return list(specs)
    kept = [one for one in specs if not one.baseline]
    if not kept:
        raise BandMismatchError(
            f"{_no_common_band(domains)}, so neither pixels nor band statistics can be compared; name an --encoder "
            "with the spectral embedding, which takes any bands"
        )
    return kept


def measure_gap(
    compute: Compute,
    domains: GapDomains,
    specs: Sequence[EncoderSpec],
    trained: Mapping[str, ByDataset],
    embedded: Sequence[Embeddings],
    seed: int,
    progress: Progress = silent,
) -> GapResult:
    """Compare the domains in pixels, in labels where both have them, and in the embeddings of each encoder.

    `embedded` are the embeddings of the tiles of both domains, in the order of `specs`. `trained` are encoders other
    than baselines, by label; for those with a decoder reconstruction errors are compared, too.
    """
    source, target = domains
    source_pixels, target_pixels = (read_pixels(one, progress) for one in domains)
    spectra = (Spectrum.of(source_pixels), Spectrum.of(target_pixels))
    figures: dict[str, list[GapFigure]] = {PIXELS: []}
    if domains.same_bands:
        names = [band.name for band in source.bands]
        figures[PIXELS] += pixel_gap(source_pixels, target_pixels, names, source.selected.imagery.unit, seed)
    figures[PIXELS] += [*_known_figures(source, spectra[0]), *_known_figures(target, spectra[1])]
    figures |= _label_figures(domains, seed)
    left_out = [] if domains.same_bands else [
        f"{_no_common_band(domains)}: pixels, and baselines made of them, are not compared"
    ]  # fmt: skip
    if domains.measured is not None:
        ends = "{:g} to {:g}".format(*domains.measured)
        left_out.append(f"Labels: numbers of {ends}, which are measurements and no classes, are not compared")
    for number, (spec, embeddings) in enumerate(zip(specs, embedded, strict=True)):
        progress("measuring encoders", number, len(specs))
        figures[spec.label] = _embedding_figures(domains, embeddings, seed)
        if spec.label in trained:
            errors, why = reconstruction_figures(compute, domains, spec, trained[spec.label], seed, progress)
            figures[spec.label] += errors
            left_out += [why] if why else []
    progress("measuring encoders", len(specs), len(specs))
    notes = {spec.label: one.notes for spec, one in zip(specs, embedded, strict=True)}
    return GapResult(domains, spectra, _corrected_together(figures), notes, left_out)


def read_pixels(domain: GapDomain, progress: Progress = silent) -> Pixels:
    """Pixels of each tile on a regular lattice, in the bands of the domain."""
    reader = TileReader(domain.selected.index, bands=[band.name for band in domain.bands])
    values, valid = [], []
    for position in range(len(reader)):
        pixels_CHW, valid_CHW = reader.read(position)
        step = -(-pixels_CHW.shape[1] // LATTICE)
        values.append(pixels_CHW[:, ::step, ::step].reshape(len(pixels_CHW), -1).T)
        valid.append(valid_CHW[:, ::step, ::step].reshape(len(valid_CHW), -1).T)
        progress(f"reading pixels of {domain.name}", position + 1, len(reader))
    return Pixels(_stacked(values), _stacked(valid), domain.unit_T, sum(map(len, values)))


def reconstruction_figures(
    compute: Compute,
    domains: GapDomains,
    spec: EncoderSpec,
    encoders: ByDataset,
    seed: int,
    progress: Progress = silent,
) -> tuple[list[GapFigure], str | None]:
    """The reconstruction errors of a model in both domains; or no figures and the reason."""
    if spec.baseline:
        return [], None
    own = next(iter(encoders.values()))
    if not isinstance(own, OwnEncoder) or own.model.mae.decoder is None:
        return [], f"{spec.label} has no decoder and cannot reconstruct"
    if not domains.same_bands:
        return [], f"{spec.label}: errors in different bands or units cannot be compared"
    candidate = Candidate(spec.references[0], own.model)
    results = []
    for domain in domains:
        try:
            results.append(_reconstruction_errors(compute, candidate, domain, seed, progress))
        except CatalogError as error:
            return [], str(error)
    (first, bands, units_N), (second, others, units_M) = results
    if bands != others:
        return [], f"{spec.label} reconstructs different bands in the two domains, whose errors cannot be compared"
    comparison = DomainComparison.of(units_N, units_M, seed)
    return reconstruction_gap(first, second, comparison, domains.source.selected.imagery.unit), None


def _domain(selected: Selection, role: str, seed: int) -> GapDomain:
    tiles = len(selected.index)
    if tiles < 2:
        raise CatalogError(f"--{role} {selected.name}: has {tiles} tile; a gap needs two or more on either side")
    index = selected.index.take(subsample_tiles(tiles, seed, role))
    label_T = np.array(["" if label is None else str(label) for label in index.tiles["label"].tolist()])
    return GapDomain(role, replace(selected, index=index), index.independent_units(), label_T, tiles)


def _no_common_band(domains: GapDomains) -> str:
    source, target = (f"{one.name} ({', '.join(band.name for band in one.bands)})" for one in domains)
    return f"{source} and {target} share no band in one unit"


def _known_figures(domain: GapDomain, spectrum: Spectrum) -> list[GapFigure]:
    """Figures of one domain: its ground sample distance, and the share of valid pixels by band."""
    gsd = [GapFigure(f"gsd_{domain.role}", domain.gsd_m, unit="m")] if domain.gsd_m is not None else []
    shares = zip(domain.bands, spectrum.valid_C.tolist(), strict=True)
    return [*gsd, *(GapFigure(f"valid_share_{domain.role}", share, band=band.name) for band, share in shares)]


def _label_figures(domains: GapDomains, seed: int) -> dict[str, list[GapFigure]]:
    """The difference of class shares; empty where a domain has no labels."""
    labelled = [np.flatnonzero(one.label_T != "") for one in domains]
    if not all(len(rows) for rows in labelled):
        return {}
    groups = [[one.unit_T[row] for row in rows] for one, rows in zip(domains, labelled, strict=True)]
    comparison = DomainComparison.of(groups[0], groups[1], seed)
    source_label, target_label = (one.label_T[rows] for one, rows in zip(domains, labelled, strict=True))
    return {LABELS: [label_shift(source_label, target_label, comparison)]}


def _embedding_figures(domains: GapDomains, embeddings: Embeddings, seed: int) -> list[GapFigure]:
    """Distances between the domains, and between the tiles of each common class."""
    (source, source_TD), (target, target_TD) = ((one, embeddings.of(one.selected)) for one in domains)
    return [
        *embedding_gap(source_TD, source.unit_T, target_TD, target.unit_T, seed),
        *class_distances(
            source_TD, source.unit_T, source.label_T, target_TD, target.unit_T, target.label_T, seed
        ),
    ]  # fmt: skip


def _corrected_together(figures: Mapping[str, Sequence[GapFigure]]) -> dict[str, list[GapFigure]]:
    """The figures with Holm's correction over all of them."""
    done = iter(corrected([one for some in figures.values() for one in some]))
    return {label: [next(done) for _ in some] for label, some in figures.items()}


def _reconstruction_errors(
    compute: Compute, candidate: Candidate, domain: GapDomain, seed: int, progress: Progress
) -> tuple[tuple[Doubles, Doubles], tuple[int, ...], list[str]]:
    """Squared errors and pixel counts (T, C) of tiles, their bands, and the groups of the tiles."""
    label = candidate.label
    fitted = fit_candidates([candidate], domain.selected, compute)

    def report(_: str, done: int, total: int) -> None:
        progress(f"reconstructing {domain.name} by {label}", done, total)

    scores = score_reconstructions(fitted, [MASK], RECONSTRUCTED_TILES, seed, report)
    sums = scores.sums[label, MASK, MASKED]
    unit = dict(zip(domain.selected.index.tiles["tile_id"], domain.unit_T, strict=True))
    units = [unit[tile_id] for tile_id in scores.index.tiles["tile_id"]]
    return (sums.square_TC, sums.pixels_TC), fitted.places, units


def _stacked(tiles: Sequence[NDArray[Number]]) -> NDArray[Number]:
    """Tiles (P, C) of different numbers of pixels as one array, padded with zeros that are not valid."""
    most = max(map(len, tiles))
    return np.stack([np.pad(tile_PC, ((0, most - len(tile_PC)), (0, 0))) for tile_PC in tiles])
