"""PCA of a million embeddings in one pass: geomae compared with scikit-learn's IncrementalPCA, in one process.

    uv run --extra bench python tests/benchmarks/pca.py [--json FILE] [--rows 1000000] [--width 768]

Both get the same embeddings (float32, generated chunk by chunk from the seed, which is not timed) in chunks of
IncrementalPCA's default batch, five rows per feature. They have 50 strong directions of decreasing variance and weak
variance in all others, rotated, with a mean far from zero. geomae is measured before and after the other, so that a
drift of the machine's speed affects both. Peak memory is read before scikit-learn is imported. At a smaller size, both
are compared with the exact components in double precision, also for variance that decreases without a step: there,
IncrementalPCA, which keeps only 50 directions after each batch, finds other components.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.pca import fit_pca
from geomae.randomness import generator

# N embeddings of a chunk, D features, K components
Floats = NDArray[np.float32]
COMPONENTS, PER_FEATURE = 50, 5  # rows of IncrementalPCA's default batch per feature
SMALL_WIDTH, SMALL_CHUNKS = 192, 10


class Chunks:
    """Embeddings as a function of the seed; counts the seconds needed to generate them."""

    def __init__(self, rows: int, deviation_D: NDArray[np.float64]) -> None:
        self.rows, self.deviation_D = rows, deviation_D.astype(np.float32)
        self.size = PER_FEATURE * len(deviation_D)
        mirrors = generator(0, "benchmark mirrors").standard_normal((3, len(deviation_D)), dtype=np.float32)
        self.mirrors = mirrors / np.linalg.norm(mirrors, axis=1, keepdims=True)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Floats]:
        for number, first in enumerate(range(0, self.rows, self.size)):
            start = time.perf_counter()
            rng = generator(0, "benchmark pca", number)
            shape = (min(self.size, self.rows - first), len(self.deviation_D))
            chunk_ND = rng.standard_normal(shape, dtype=np.float32) * self.deviation_D
            for mirror_D in self.mirrors:
                chunk_ND -= np.outer(chunk_ND @ mirror_D, 2 * mirror_D)
            chunk_ND += 10
            self.seconds += time.perf_counter() - start
            yield chunk_ND


def main() -> None:
    """Measure, print, and write the same values as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    arguments = parser.parse_args()
    rows, width = arguments.rows, arguments.width
    print(f"{rows} x {width} float32, {COMPONENTS} components, {machine()}", flush=True)

    chunks = Chunks(rows, with_a_step(width))
    before_s, ours_KD = ours(chunks)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"ours             {before_s:8.1f} s, peak memory of the process {peak_gib:.2f} GiB", flush=True)
    theirs_s, theirs_KD = theirs(chunks)
    print(f"IncrementalPCA   {theirs_s:8.1f} s", flush=True)
    after_s, _ = ours(chunks)
    print(f"ours once more   {after_s:8.1f} s")
    ours_s = (before_s + after_s) / 2
    figures = {
        "ours_s": ours_s,
        "incremental_pca_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "subspace_angle": angle(ours_KD, theirs_KD),
        "ours_peak_memory_gib": peak_gib,
    }
    print(f"{figures['ratio']:.1f} x faster; largest angle between the subspaces {figures['subspace_angle']:.1e}")
    figures |= against_exact("with_a_step", with_a_step(SMALL_WIDTH))
    figures |= against_exact("smoothly", smooth(SMALL_WIDTH))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def with_a_step(width: int) -> NDArray[np.float64]:
    """Standard deviations: 50 strong directions, falling by 5 % each, and weak ones."""
    return np.where(np.arange(width) < COMPONENTS, 0.95 ** np.arange(width), 0.02 * 0.99 ** np.arange(width))


def smooth(width: int) -> NDArray[np.float64]:
    """Standard deviations that fall by 5 % each."""
    return 0.95 ** np.arange(width)


def ours(chunks: Chunks) -> tuple[float, Floats]:
    """Seconds and components of our fit."""
    chunks.seconds, start = 0.0, time.perf_counter()
    components_KD = fit_pca(chunks, COMPONENTS).components_KD
    return time.perf_counter() - start - chunks.seconds, components_KD.astype(np.float32)


def theirs(chunks: Chunks) -> tuple[float, Floats]:
    """Seconds and components of IncrementalPCA, fed as its own `fit` feeds it."""
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(COMPONENTS)
    seconds = 0.0
    for chunk_ND in chunks:
        start = time.perf_counter()
        if len(chunk_ND) >= COMPONENTS:  # it refuses a last chunk with fewer rows
            pca.partial_fit(chunk_ND)
        seconds += time.perf_counter() - start
    return seconds, pca.components_


def against_exact(name: str, deviation_D: NDArray[np.float64]) -> dict[str, float]:
    """Largest angles of both to the exact subspace, for embeddings that fit in memory."""
    from sklearn.decomposition import PCA

    chunks = Chunks(SMALL_CHUNKS * PER_FEATURE * len(deviation_D), deviation_D)
    exact_KD = PCA(COMPONENTS, svd_solver="full").fit(np.concatenate([*chunks]).astype(np.float64)).components_
    figures = {
        f"ours_angle_to_exact_{name}": angle(ours(chunks)[1], exact_KD),
        f"incremental_pca_angle_to_exact_{name}": angle(theirs(chunks)[1], exact_KD),
    }
    print(f"{chunks.rows} x {len(deviation_D)}, variance falling {name}:")
    for key, value in figures.items():
        print(f"  {key} {value:.1e}")
    return figures


def angle(one_KD: Floats, other_KD: Floats) -> float:
    """Largest principal angle between two subspaces, in radians."""
    from scipy.linalg import subspace_angles

    return float(subspace_angles(one_KD.T.astype(np.float64), other_KD.T.astype(np.float64)).max())


def machine() -> str:
    """The processor and the number of usable cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {len(os.sched_getaffinity(0))} cores, numpy {np.__version__}"


if __name__ == "__main__":
    main()
