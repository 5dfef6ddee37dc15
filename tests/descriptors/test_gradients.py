from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.descriptors import ReferenceMaps, compute_features
from fmri_lm_hf.descriptors.gradients import align, diffusion_gradients


def plain_gradients(connectivity: np.ndarray) -> np.ndarray:
    """The definition, step by step, in double precision, from the random walk itself."""
    n = len(connectivity)
    n_kept = max(1, round(0.1 * n))
    profiles = np.zeros((n, n))
    for i in range(n):
        row = connectivity[i].copy()
        row[i] = 0
        for j in np.argsort(row)[-n_kept:]:
            profiles[i, j] = max(row[j], 0)
    affinity = np.ones((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                lengths = np.linalg.norm(profiles[i]) * np.linalg.norm(profiles[j])
                cosine = profiles[i] @ profiles[j] / lengths if lengths else 0.0
                affinity[i, j] = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
    density = affinity.sum(axis=1)
    kernel = np.diag(density**-0.5) @ affinity @ np.diag(density**-0.5)
    walk = kernel / kernel.sum(axis=1, keepdims=True)
    stationary = kernel.sum(axis=1) / kernel.sum()
    eigenvalues, vectors = np.linalg.eig(walk)
    order = np.argsort(-eigenvalues.real)[1:4]
    eigenvalues, vectors = eigenvalues.real[order], vectors.real[:, order]
    vectors /= np.sqrt((stationary[:, None] * vectors**2).sum(axis=0))
    return vectors * eigenvalues / (1 - eigenvalues)


@pytest.mark.parametrize("n_rois", [48, 100], ids=["dense solver", "Lanczos"])
def test_gradients_agree_with_an_independent_implementation(n_rois, make_bold):
    connectivity = np.corrcoef(make_bold(n_rois).T.astype(np.float64))
    ours, plain = diffusion_gradients(connectivity), plain_gradients(connectivity)
    signs = np.sign((ours * plain).sum(axis=0))
    np.testing.assert_allclose(ours * signs, plain, atol=2e-3 * np.abs(plain).max())


def test_the_largest_value_is_positive(make_bold):
    gradients = diffusion_gradients(np.corrcoef(make_bold(60).T))
    assert (gradients.max(axis=0) >= -gradients.min(axis=0)).all()


def test_a_planted_axis_is_the_first_gradient():
    position = np.linspace(0, 1, 80)
    connectivity = np.exp(-((position[:, None] - position) ** 2) / 0.05)
    first = diffusion_gradients(connectivity)[:, 0]
    assert abs(np.corrcoef(np.argsort(np.argsort(first)), position)[0, 1]) > 0.99


def test_unconnected_networks_still_give_finite_gradients():
    networks = np.repeat(np.arange(4), 10)
    connectivity = (networks[:, None] == networks).astype(float)
    assert np.isfinite(diffusion_gradients(connectivity)).all()


def test_alignment_undoes_a_rotation_and_keeps_distances():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((30, 3))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    np.testing.assert_allclose(align(reference @ rotation, reference), reference, atol=1e-12)
    other = rng.standard_normal((30, 3))
    np.testing.assert_allclose(align(other, reference) @ align(other, reference).T, other @ other.T, atol=1e-12)


def test_features_are_means_ranges_and_variance_of_the_gradients(bold, atlas):
    features = compute_features(bold, 2.0, atlas, families=("gradients",))
    gradients = diffusion_gradients(np.corrcoef(bold.T))
    in_network = np.array(atlas.networks) == "Default"
    for k in range(3):
        name = f"gradients/g{k + 1}"
        assert features[f"{name}/Default"] == pytest.approx(gradients[in_network, k].mean(), rel=1e-2, abs=1e-4)
        assert features[f"{name}_range"] == pytest.approx(np.ptp(gradients[:, k]), rel=1e-2)
    assert features["gradients/variance"] == pytest.approx(gradients.var(axis=0).sum(), rel=1e-2)


def test_a_reference_decides_the_signs(bold, atlas):
    gradients = diffusion_gradients(np.corrcoef(bold.T))

    plain, flipped = (
        compute_features(bold, 2.0, atlas, families=("gradients",), maps=ReferenceMaps(atlas, sign * gradients))
        for sign in (1, -1)
    )
    for network in atlas.network_names:
        assert plain[f"gradients/g1/{network}"] == pytest.approx(-flipped[f"gradients/g1/{network}"], abs=1e-9)
    assert plain["gradients/g1_range"] == pytest.approx(flipped["gradients/g1_range"])
