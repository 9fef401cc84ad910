"""Principal components against scikit-learn, and what is said of embeddings that have none."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from geomae.errors import ConfigError, StorageError
from geomae.evaluation.pca import Pca, fit_pca, load_pca
from geomae.randomness import generator


def embeddings(rows=3000, width=24, offset=0.0, seed=0):
    """Embeddings with a falling spectrum, so that each component is determined."""
    rng = generator(seed, "test pca")
    turned = np.linalg.qr(rng.standard_normal((width, width)))[0]
    scores = rng.standard_normal((rows, width)) * 0.8 ** np.arange(width)
    return (scores @ turned + offset * (1 + np.arange(width))).astype(np.float32)


def batches(values, size=700):
    return (values[first : first + size] for first in range(0, len(values), size))


@pytest.mark.parametrize("rows, width, offset", [(3000, 24, 0.0), (3000, 24, 1000.0), (30, 80, 5.0), (50, 1, 3.0)])
def test_equals_scikit_learn(rows, width, offset):
    values = embeddings(rows, width, offset)
    count = min(10, width)
    ours = fit_pca(batches(values, 7 if rows == 30 else 700), count)
    theirs = PCA(count, svd_solver="full").fit(values.astype(np.float64))
    signs = np.sign((ours.components_KD * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.components_KD * signs[:, None], theirs.components_, atol=1e-5)
    np.testing.assert_allclose(ours.variance_K, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.share_D[:count], theirs.explained_variance_ratio_, atol=1e-5)
    np.testing.assert_allclose(ours.mean_D, theirs.mean_, rtol=1e-6, atol=1e-6)
    scores = theirs.transform(values.astype(np.float64)) * signs
    np.testing.assert_allclose(ours.transform(values), scores, atol=1e-4)
    assert ours.rows == rows


def test_the_order_of_rows_does_not_matter_even_where_the_first_are_unlike_the_others():
    values = embeddings()
    values[:700] += 500
    whole = PCA(5, svd_solver="full").fit(values.astype(np.float64))
    ours = fit_pca(batches(values), 5)
    np.testing.assert_allclose(ours.variance_K, whole.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(np.abs((ours.components_KD * whole.components_).sum(1)), 1, atol=1e-5)


def test_the_largest_loading_is_positive():
    for seed in range(3):
        components_KD = fit_pca(batches(embeddings(seed=seed)), 24).components_KD
        strongest = np.abs(components_KD).argmax(1)
        assert (components_KD[np.arange(24), strongest] > 0).all()


def test_the_effective_rank_counts_directions():
    rng = generator(0, "test pca")
    even = rng.standard_normal((20000, 8)).astype(np.float32)
    assert fit_pca([even], 2).effective_rank == pytest.approx(8, abs=0.01)
    assert fit_pca([even], 2).collapse is None
    even[:, 3:] = 0
    assert fit_pca([even], 2).effective_rank == pytest.approx(3, abs=0.01)


def test_a_collapse_is_said():
    values = embeddings()
    same = fit_pca(batches(np.full_like(values, 0.1)), 3)
    assert same.effective_rank == 0
    assert same.collapse is not None
    assert "all 3000 embeddings are equal" in same.collapse
    values[:, 0] += 1000 * generator(0, "line").standard_normal(len(values)).astype(np.float32)
    line = fit_pca(batches(values), 3)
    assert line.collapse is not None
    assert "100.0% of their variance in one direction, effective rank 1.00" in line.collapse


def test_is_stored_without_pickle(tmp_path):
    pca = fit_pca(batches(embeddings()), 4, "abc")
    pca.save(tmp_path / "pca.npz")
    again = load_pca(tmp_path / "pca.npz")
    assert isinstance(again, Pca)
    assert (again.rows, again.encoder_digest) == (3000, "abc")
    for one, two in zip(
        (pca.mean_D, pca.components_KD, pca.spectrum_D),
        (again.mean_D, again.components_KD, again.spectrum_D),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    first = (tmp_path / "pca.npz").read_bytes()
    pca.save(tmp_path / "pca.npz")
    assert (tmp_path / "pca.npz").read_bytes() == first


def test_requests_that_cannot_be_met(tmp_path):
    values = embeddings(rows=10)
    with pytest.raises(ConfigError, match=r"--components 16: there are 10 embeddings of 24 features .* from 1 to 10"):
        fit_pca([values], 16)
    with pytest.raises(ConfigError, match=r"--components 30: .* from 1 to 24"):
        fit_pca([embeddings()], 30)
    with pytest.raises(ConfigError, match="there is 1 embedding"):
        fit_pca([values[:1]], 1)
    with pytest.raises(ConfigError, match="there is 0 embedding"):
        fit_pca([], 1)
    values[3, 2] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        fit_pca([values], 2)
    with pytest.raises(StorageError, match="does not exist; give the folder"):
        load_pca(tmp_path / "pca.npz")
    (tmp_path / "pca.npz").write_text("text")
    with pytest.raises(StorageError, match="holds no principal components"):
        load_pca(tmp_path / "pca.npz")
    np.savez(tmp_path / "pca.npz", mean=np.array([None], dtype=object))
    with pytest.raises(StorageError, match="holds no principal components"):
        load_pca(tmp_path / "pca.npz")
