from __future__ import annotations

import numpy as np

from fmri_lm_hf.descriptors import compute_features


def test_means_are_those_of_a_plain_loop(bold, atlas):
    correlation = np.corrcoef(bold.T.astype(np.float64))
    features = compute_features(bold, 2.0, atlas, families=("connectivity",))
    for first in atlas.network_names:
        for second in atlas.network_names:
            name = f"connectivity/mean/{first}-{second}"
            if name in features:
                pairs = [
                    np.arctanh(correlation[i, j])
                    for i in range(atlas.n_rois)
                    for j in range(atlas.n_rois)
                    if i != j and atlas.networks[i] == first and atlas.networks[j] == second
                ]
                np.testing.assert_allclose(features[name], np.mean(pairs), rtol=1e-4, atol=1e-5)


def test_identical_rois_do_not_give_infinity(bold, atlas):
    bold = bold.copy()
    bold[:, 1] = bold[:, 0]
    assert np.isfinite(list(compute_features(bold, 2.0, atlas, families=("connectivity",)).values())).all()
