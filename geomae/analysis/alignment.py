"""Alignments of embeddings: affine maps of a source and of a target domain that bring the two together, without labels.

N rows of the source, M rows of the target, D features, E features after the alignment
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from geomae.analysis.linear_probe import Scale
from geomae.analysis.skada_maps import coral_maps, linear_ot_maps, subspace_maps
from geomae.errors import ConfigError, GeomaeError, ModelError, nearest
from geomae.files import file_digest, publish_file, read_json, write_json

Floats = NDArray[np.float64]
SOURCE, TARGET = DOMAINS = ("source", "target")
NONE, STANDARDISE, AFTER = "none", "standardise", "standardise+"
FORMAT = 1


@dataclass(frozen=True)
class AffineMap:
    """x -> x W + b."""

    weight_DE: Floats
    bias_E: Floats

    def apply(self, embedding_ND: NDArray[np.floating]) -> Floats:
        """The mapped rows (N, E), in float64."""
        return embedding_ND.astype(np.float64) @ self.weight_DE + self.bias_E

    def then(self, after: "AffineMap") -> "AffineMap":
        """This map and then the other, as one."""
        return AffineMap(self.weight_DE @ after.weight_DE, self.bias_E @ after.weight_DE + after.bias_E)


Fit = Callable[[Floats, Floats], tuple[AffineMap, AffineMap]]


@dataclass(frozen=True)
class Alignment:
    """What `fit` found: a map for the rows of each domain, after which the domains can be compared."""

    name: str
    maps: Mapping[str, AffineMap]

    @classmethod
    def fit(cls, name: str, source_ND: NDArray[np.floating], target_MD: NDArray[np.floating]) -> "Alignment":
        """The alignment `name` (see ALIGNMENTS) of two domains. No label is read.

        Raises ConfigError for another name, for rows that are not finite, and for fewer than two rows in a domain.
        """
        if name not in ALIGNMENTS:
            raise ConfigError(f"alignment {name!r}: {nearest(name, ALIGNMENTS)}")
        source_ND, target_MD = (_checked(*pair) for pair in ((SOURCE, source_ND), (TARGET, target_MD)))
        return cls(name, dict(zip(DOMAINS, ALIGNMENTS[name](source_ND, target_MD), strict=True)))

    def transform(self, embedding_ND: NDArray[np.floating], domain: str) -> Floats:
        """Aligned rows (N, E), in float64; `domain` is `source` or `target`. Raises ConfigError for another domain."""
        if domain not in DOMAINS:
            raise ConfigError(f"domain {domain!r}: {nearest(domain, DOMAINS)}")
        return self.maps[domain].apply(embedding_ND)

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Publish `alignment.safetensors` and `alignment.json`; `about` says what it was fitted on, as JSON."""
        arrays = {}
        for domain, found in self.maps.items():
            arrays[f"{domain}.weight"] = np.ascontiguousarray(found.weight_DE)
            arrays[f"{domain}.bias"] = np.ascontiguousarray(found.bias_E)
        folder.mkdir(parents=True, exist_ok=True)
        with publish_file(folder / "alignment.safetensors") as temporary:
            save_file(arrays, temporary)
        digest = file_digest(folder / "alignment.safetensors")
        write_json(folder / "alignment.json", {"format": FORMAT, "name": self.name, "weights": digest, **about})

    @classmethod
    def load(cls, folder: Path) -> "Alignment":
        """What `save` left. Raises ModelError for a folder that holds something else."""
        try:
            record = read_json(folder / "alignment.json")
            arrays = load_file(folder / "alignment.safetensors")
            maps = {one: AffineMap(arrays[f"{one}.weight"], arrays[f"{one}.bias"]) for one in DOMAINS}
            name, digest = str(record["name"]), record["weights"]
        except (GeomaeError, OSError, KeyError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder}: holds no alignment ({error}); name the folder that `save` wrote") from error
        if digest != file_digest(folder / "alignment.safetensors"):
            raise ModelError(
                f"{folder}: alignment.safetensors is not the one that alignment.json tells of; fit it again"
            )
        return cls(name, maps)


def _none(source_ND: Floats, _: Floats) -> tuple[AffineMap, AffineMap]:
    same = AffineMap(np.eye(source_ND.shape[1]), np.zeros(source_ND.shape[1]))
    return same, same


def _standardise(source_ND: Floats, target_MD: Floats) -> tuple[AffineMap, AffineMap]:
    """Each domain by its own mean and standard deviation."""
    source, target = (Scale.of(rows_ND) for rows_ND in (source_ND, target_MD))
    return tuple(AffineMap(np.diag(1 / one.std_D), -one.mean_D / one.std_D) for one in (source, target))  # type: ignore[return-value]


def _through(maps: Callable[[Floats, Floats], tuple[tuple[Floats, Floats], ...]]) -> Fit:
    def fit(source_ND: Floats, target_MD: Floats) -> tuple[AffineMap, AffineMap]:
        source, target = maps(source_ND, target_MD)
        return AffineMap(*source), AffineMap(*target)

    return fit


def _after_standardising(inner: Fit) -> Fit:
    def fit(source_ND: Floats, target_MD: Floats) -> tuple[AffineMap, AffineMap]:
        source, target = _standardise(source_ND, target_MD)
        then_source, then_target = inner(source.apply(source_ND), target.apply(target_MD))
        return source.then(then_source), target.then(then_target)

    return fit


_OF_SECOND_ORDER = {
    "coral": _through(coral_maps),
    "subspace": _through(subspace_maps),
    "linear-ot": _through(linear_ot_maps),
}
ALIGNMENTS: Mapping[str, Fit] = {
    NONE: _none,
    STANDARDISE: _standardise,
    **_OF_SECOND_ORDER,
    **{AFTER + name: _after_standardising(fit) for name, fit in _OF_SECOND_ORDER.items()},
}


def _checked(domain: str, rows_ND: NDArray[np.floating]) -> Floats:
    if len(rows_ND) < 2:
        raise ConfigError(f"the {domain} has {len(rows_ND)} tile(s); an alignment takes at least 2 of each domain")
    bad = int((~np.isfinite(rows_ND).all(1)).sum())
    if bad:
        raise ConfigError(
            f"{bad} of {len(rows_ND)} {domain} embeddings are not finite; embed them again, or leave these tiles out"
        )
    return rows_ND.astype(np.float64)
