"""The affine maps behind skada's alignments.

N rows of the source, M rows of the target, D features, E features after the alignment
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Maps = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]  # weight and bias of the source, and of the target
MOST_AXES = 32  # of a subspace; beyond, axes of the two domains have no counterpart in each other
RIDGE = 1e-3  # of the mean variance, added to the covariances of optimal transport: rows may be fewer than features


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
    """The maps of a fitted adapter. They are affine, so that the zero vector and the unit vectors tell all of them."""
    domain = np.repeat([1, -1], [len(source_ND), len(target_MD)])
    adapter.fit(np.concatenate([source_ND, target_MD]), sample_domain=domain)
    axes = np.concatenate([np.zeros((1, source_ND.shape[1])), np.eye(source_ND.shape[1])])
    found = []
    for sign in (1, -1):
        mapped = adapter.transform(axes, sample_domain=np.full(len(axes), sign), allow_source=True)
        found.append((mapped[1:] - mapped[0], mapped[0]))
    return found[0], found[1]


@contextlib.contextmanager
def skada_settings() -> Iterator[None]:
    """skada turns scikit-learn's metadata routing on for the whole process when it is imported: only within this."""
    kept = sklearn.get_config()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the import alone: POT's docstrings hold escapes that Python frowns at
            import skada  # noqa: F401
        sklearn.set_config(enable_metadata_routing=True)
        yield
    finally:
        sklearn.set_config(**kept)
