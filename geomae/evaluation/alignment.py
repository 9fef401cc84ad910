"""Alignments of embeddings: affine maps that reduce the difference between source and target, without labels.

N rows of the source, M rows of the target, D features, E features after the alignment
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from geomae.errors import ConfigError, GeomaeError, ModelError, nearest
from geomae.evaluation.linear_probe import Scale
from geomae.files import file_digest, publish_file, read_json, write_json

Floats = NDArray[np.float64]
Maps = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]  # weight and bias of the source, and of the target
MOST_AXES = 32  # of a subspace; further axes of the two domains do not correspond
RIDGE = 1e-3  # of the mean variance, added to covariances in optimal transport, as rows may be fewer than features
SOURCE, TARGET = DOMAINS = ("source", "target")
NONE, STANDARDISE, AFTER = "none", "standardise", "standardise+"
FORMAT = 1


def coral_maps(source_ND: Floats, target_MD: Floats) -> Maps:
    """Correlation alignment (Sun et al. 2016), covariances shrunk by the rule of Ledoit and Wolf."""
    with skada_settings():
        from skada import CORALAdapter  # type: ignore[import-untyped]

        return _maps(CORALAdapter(reg="auto"), source_ND, target_MD)


def subspace_maps(source_ND: Floats, target_MD: Floats) -> Maps:
    """Subspace alignment (Fernando et al. 2013) of the leading principal axes."""
    axes = min(MOST_AXES, source_ND.shape[1], len(source_ND) - 1, len(target_MD) - 1)
    with skada_settings():
        from skada import SubspaceAlignmentAdapter

        return _maps(SubspaceAlignmentAdapter(n_components=axes, random_state=0), source_ND, target_MD)


def linear_ot_maps(source_ND: Floats, target_MD: Floats) -> Maps:
    """Linear optimal transport between Gaussians (Flamary et al. 2019), from the source to the target."""
    ridge = RIDGE * float(source_ND.var(0).mean() + target_MD.var(0).mean()) / 2
    with skada_settings():
        from skada import LinearOTMappingAdapter

        return _maps(LinearOTMappingAdapter(reg=ridge, bias=True), source_ND, target_MD)


def _maps(adapter: Any, source_ND: Floats, target_MD: Floats) -> Maps:
    """The maps of a fitted adapter. They are affine: the images of the zero vector and the unit vectors define them."""
    domain = np.repeat([1, -1], [len(source_ND), len(target_MD)])
    adapter.fit(np.concatenate([source_ND, target_MD]), sample_domain=domain)
    axes = np.concatenate([np.zeros((1, source_ND.shape[1])), np.eye(source_ND.shape[1])])
    affine = []
    for sign in (1, -1):
        mapped = adapter.transform(axes, sample_domain=np.full(len(axes), sign), allow_source=True)
        affine.append((mapped[1:] - mapped[0], mapped[0]))
    return affine[0], affine[1]


@contextlib.contextmanager
def skada_settings() -> Iterator[None]:
    """Turn on scikit-learn's metadata routing, which skada needs, within the block and in this thread only."""
    import_skada()
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@functools.cache
def import_skada() -> None:
    """Import skada and undo its side effect: it turns scikit-learn's metadata routing on permanently.

    Call this before alignments are fitted in threads, because filters of warnings belong to the whole process.
    """
    kept = sklearn.get_config()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only of the import: POT's docstrings have invalid escapes
        import skada  # noqa: F401
    sklearn.set_config(**kept)


@dataclass(frozen=True)
class AffineMap:
    """x -> x W + b."""

    weight_DE: Floats
    bias_E: Floats

    @classmethod
    def identity(cls, features: int) -> "AffineMap":
        """The identity."""
        return cls(np.eye(features), np.zeros(features))

    @classmethod
    def standardising(cls, scale: Scale) -> "AffineMap":
        """The map that standardises features to mean 0 and standard deviation 1."""
        return cls(np.diag(1 / scale.std_D), -scale.mean_D / scale.std_D)

    def apply(self, embedding_ND: NDArray[np.floating]) -> Floats:
        """The mapped rows (N, E), in float64."""
        return embedding_ND.astype(np.float64) @ self.weight_DE + self.bias_E

    def then(self, after: "AffineMap") -> "AffineMap":
        """The composition: this map, then the other."""
        return AffineMap(self.weight_DE @ after.weight_DE, self.bias_E @ after.weight_DE + after.bias_E)


Fit = Callable[[Floats, Floats], tuple[AffineMap, AffineMap]]


@dataclass(frozen=True)
class Alignment:
    """A fitted alignment: a map for the rows of each domain into a common space."""

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
        """Publish `alignment.safetensors` and `alignment.json`; `about` describes the fit, as JSON."""
        arrays = {}
        for domain, affine in self.maps.items():
            arrays[f"{domain}.weight"] = np.ascontiguousarray(affine.weight_DE)
            arrays[f"{domain}.bias"] = np.ascontiguousarray(affine.bias_E)
        folder.mkdir(parents=True, exist_ok=True)
        with publish_file(folder / "alignment.safetensors") as temporary:
            save_file(arrays, temporary)
        digest = file_digest(folder / "alignment.safetensors")
        write_json(folder / "alignment.json", {"format": FORMAT, "name": self.name, "weights": digest, **about})

    @classmethod
    def load(cls, folder: Path) -> "Alignment":
        """Load what `save` wrote. Raises ModelError for a folder that holds something else."""
        try:
            record = read_json(folder / "alignment.json")
            arrays = load_file(folder / "alignment.safetensors")
            maps = {one: AffineMap(arrays[f"{one}.weight"], arrays[f"{one}.bias"]) for one in DOMAINS}
            name, digest = str(record["name"]), record["weights"]
        except (GeomaeError, OSError, KeyError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder}: holds no alignment ({error}); name the folder that `save` wrote") from error
        if digest != file_digest(folder / "alignment.safetensors"):
            raise ModelError(
                f"{folder}: alignment.safetensors is not the one that alignment.json describes; fit it again"
            )
        return cls(name, maps)


def _none(source_ND: Floats, _: Floats) -> tuple[AffineMap, AffineMap]:
    same = AffineMap.identity(source_ND.shape[1])
    return same, same


def _standardise(source_ND: Floats, target_MD: Floats) -> tuple[AffineMap, AffineMap]:
    """Standardise each domain by its own mean and standard deviation."""
    return AffineMap.standardising(Scale.of(source_ND)), AffineMap.standardising(Scale.of(target_MD))


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
    **{AFTER + name: _after_standardising(_OF_SECOND_ORDER[name]) for name in ("coral", "linear-ot")},
}


def _checked(domain: str, rows_ND: NDArray[np.floating]) -> Floats:
    if len(rows_ND) < 2:
        raise ConfigError(f"the {domain} has {len(rows_ND)} tile(s); an alignment needs at least 2 of each domain")
    bad = int((~np.isfinite(rows_ND).all(1)).sum())
    if bad:
        raise ConfigError(
            f"{bad} of {len(rows_ND)} {domain} embeddings are not finite; embed them again, or leave these tiles out"
        )
    return rows_ND.astype(np.float64)
