"""What linear readers see and fit: equal to direct computations with scikit-learn, nilearn and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fmri_lm_hf.evaluation import connectivity_features
from fmri_lm_hf.evaluation.baselines import REGULARISATION, RIDGE, fit_logistic, fit_ridge
from fmri_lm_hf.evaluation.features import ScanFeatures, Unavailable, coskewness_subspace
from fmri_lm_hf.evaluation.predictors import changed_scan, phase_randomised, white_noise

NETWORKS = ("b", "a", "b", "a", "c")
N, N_ROIS = 12, len(NETWORKS)


def rows(**columns) -> list[dict]:
    draw = np.random.default_rng(0)
    mixing = np.eye(N_ROIS) + 0.3
    found = [
        {
            "bold": 100 + 5 * draw.gamma(1.0, size=(50 + i, N_ROIS)) @ mixing,
            "roi_mask": None,
            "sample_mask": None,
        }
        for i in range(N)
    ]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(found)]


class Scans(list):
    """Rows with the two things of a dataset that features use."""

    @property
    def column_names(self):
        return list(self[0])

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def features(seed: int = 0, networks=NETWORKS, **columns) -> ScanFeatures:
    return ScanFeatures(Scans(rows(**columns)), networks, seed)


def test_network_connectivity_is_the_mean_over_the_pairs_of_two_networks():
    found = features().network_connectivity([3])[0]
    z = np.arctanh(np.corrcoef(rows()[3]["bold"].T) - np.eye(N_ROIS))
    of = {name: [i for i, network in enumerate(NETWORKS) if network == name] for name in "abc"}
    expected = [
        z[of["a"][0], of["a"][1]],
        z[np.ix_(of["a"], of["b"])].mean(),
        z[np.ix_(of["a"], of["c"])].mean(),
        z[of["b"][0], of["b"][1]],
        z[np.ix_(of["b"], of["c"])].mean(),
    ]  # one ROI of c: nothing within it
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_censored_time_points_do_not_enter_connectivity():
    observed = [np.arange(50 + i) % 5 > 0 for i in range(N)]
    found = features(sample_mask=observed).connectivity([3])
    np.testing.assert_allclose(found, connectivity_features([rows()[3]["bold"][observed[3]]]), atol=1e-5)
    assert np.abs(found - features().connectivity([3])).max() > 1e-2


def test_atlases_without_networks_or_with_other_rois_are_refused():
    for networks in (None, ("one",) * N_ROIS):
        with pytest.raises(Unavailable, match="fewer than two networks"):
            features(networks=networks).network_connectivity([0])
    with pytest.raises(Unavailable, match="expected the 3 of the 3 ROIs of the model's atlas"):
        features(networks=("a", "b", "c")).network_connectivity([0])


def test_tangent_is_nilearns_fitted_to_training_scans():
    pool, others = list(range(8)), [8, 9]
    bold = [(row["bold"] - row["bold"].mean(0)) / row["bold"].std(0) for row in rows()]
    measure = ConnectivityMeasure(kind="tangent", vectorize=True, standardize=False)
    measure.fit([bold[i] for i in pool])
    expected = measure.transform([bold[i] for i in others])
    np.testing.assert_allclose(features().tangent(others, pool), expected, atol=1e-4)
    np.testing.assert_allclose(features().tangent([8], pool), expected[:1], atol=1e-4)
    apart = features().tangent(others, pool[:4])
    assert np.abs(apart - expected).max() > 1e-2  # the point of reference is theirs


def test_the_seed_chooses_the_scans_of_the_tangents_point_of_reference(monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.evaluation.features.N_REFERENCE", 2)
    first, again, other = (features(seed).tangent([9], range(8)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_tangent_leaves_out_what_some_training_scan_lacks():
    scans = Scans(rows())
    scans[2]["bold"][:, 1] = 7.0
    found = ScanFeatures(scans, NETWORKS).tangent([9], range(8))
    assert found.shape == (1, 4 * 5 // 2)
    for scan in scans:
        scan["roi_mask"] = [True] + [False] * (N_ROIS - 1)
    with pytest.raises(Unavailable, match="1 ROIs are usable in all training scans"):
        ScanFeatures(scans, NETWORKS).tangent([9], range(8))


def test_the_coskewness_subspace_is_that_of_the_tensors_unfoldings():
    signals = [(row["bold"] - row["bold"].mean(0)) / row["bold"].std(0) for row in rows()]
    tensors = [np.einsum("ti,tj,tk->ijk", x, x, x) / len(x) for x in signals]
    unfolded = np.concatenate([c.reshape(N_ROIS, -1) / np.linalg.norm(c) for c in tensors], axis=1)
    left, values, _ = np.linalg.svd(unfolded)
    shares = np.cumsum(values**2) / np.sum(values**2)
    kept = (shares[1] + shares[2]) / 2
    basis = coskewness_subspace(signals, kept)
    assert basis.shape == (N_ROIS, 3)
    np.testing.assert_allclose(basis @ basis.T, left[:, :3] @ left[:, :3].T, atol=1e-6)
    with pytest.raises(Unavailable, match="no co-skewness to keep"):
        coskewness_subspace([np.zeros((20, 3))])


def test_coskewness_features_are_connectivity_after_the_projection():
    pool = list(range(8))
    signals = [(row["bold"] - row["bold"].mean(0)) / row["bold"].std(0) for row in rows()]
    basis = coskewness_subspace(signals[:8])
    expected = connectivity_features([signals[9] @ basis @ basis.T])
    np.testing.assert_allclose(features().coskewness([9], pool), expected, atol=1e-3)


def test_confounds_are_one_hot_and_numbers_and_know_training_scans_only():
    age = [20.0 + i for i in range(N - 1)] + [None]
    site = ["x", "y"] * 5 + ["z", None]
    sex = [1.0, 2.0, 2.0] * 4
    found = features(Age=age, site=site, sex=sex, iq=[100.0] * N, mean_fd=[None] * N)
    pool, evaluated = list(range(8)), [8, 9, 10, 11]
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit([[s] for s in site[:8]])
    values = found.confounds(evaluated, pool)
    assert values.shape == (
        4,
        1 + 2 + 2,
    )  # no feature for z, which training scans have not, nor for what is not named
    np.testing.assert_array_equal(values[:3, 1:3], encoder.transform([[s] for s in site[8:11]]))
    np.testing.assert_array_equal(values[:, 0], [28, 29, 30, np.nan])
    assert np.isnan(values[3, 1:3]).all()
    np.testing.assert_array_equal(values[:, 3], [sex[i] == 1 for i in evaluated])
    assert found.confounds(evaluated, pool, without=["Age", "sex"]).shape == (4, 2)


def test_missing_confounds_are_named():
    with pytest.raises(Unavailable, match="have none of the columns age, sex, site, mean_fd"):
        features().confounds([0], range(8))
    with pytest.raises(Unavailable, match="None of site varies"):
        features(site=["x"] * 8 + ["y"] * 4).confounds([0], range(8))


def regression_problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    x = draw.normal(size=(90, 15)) * np.linspace(0.1, 5, 15)
    subjects = np.repeat(np.arange(45), 2)
    return x, x[:, 3] / 2 + draw.normal(size=90), subjects


def test_ridge_is_scikit_learns_with_the_penalty_of_a_search_by_subject():
    x, y, subjects = regression_problem()
    scaler = StandardScaler().fit(x[:60])
    train, test = (scaler.transform(part) / np.sqrt(15) for part in (x[:60], x[60:]))
    errors = [
        -cross_val_score(
            Ridge(alpha),
            train,
            y[:60],
            groups=subjects[:60],
            cv=GroupKFold(5),
            scoring="neg_mean_squared_error",
        ).mean()
        for alpha in RIDGE
    ]
    best = Ridge(RIDGE[int(np.argmin(errors))]).fit(train, y[:60])
    assert 0 < np.argmin(errors) < len(RIDGE) - 1
    np.testing.assert_allclose(fit_ridge(x[:60], y[:60], x[60:], subjects[:60]), best.predict(test), rtol=1e-6)
    wide = np.concatenate([x] * 8, axis=1)  # more features than scans: solved in the span of the scans
    np.testing.assert_allclose(fit_ridge(wide[:60], y[:60], wide[60:], subjects[:60]), best.predict(test), rtol=1e-4)
    alone = fit_ridge(x[:60], y[:60], x[60:], ["one"] * 60)
    np.testing.assert_allclose(alone, Ridge(1.0).fit(train, y[:60]).predict(test), rtol=1e-6)


def test_logistic_regression_is_scikit_learns():
    x, y, subjects = regression_problem()
    scaler = StandardScaler().fit(x[:60])
    train, test = (scaler.transform(part) / np.sqrt(15) for part in (x[:60], x[60:]))
    found = fit_logistic(x[:60], y[:60] > 0, x[60:], subjects[:60]).scores
    fits = [
        LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(train, y[:60] > 0).predict_proba(test)
        for c in REGULARISATION
    ]
    assert min(np.abs(found - each).max() for each in fits) < 1e-4


def test_ridge_refuses_values_that_are_not_finite():
    with pytest.raises(ValueError, match="1 training values are not finite"):
        fit_ridge(np.eye(3), [1.0, np.nan, 2.0], np.eye(3))


def test_random_phases_keep_the_spectrum_and_end_connectivity():
    draw = np.random.default_rng(0)
    common = np.cumsum(draw.normal(size=(400, 1)), axis=0)
    bold = 50 + common + draw.normal(size=(400, 6))
    for n in (400, 399):
        found = phase_randomised(bold[:n], np.random.default_rng(1))
        np.testing.assert_allclose(
            np.abs(np.fft.rfft(found, axis=0)), np.abs(np.fft.rfft(bold[:n], axis=0)), atol=1e-6
        )
        np.testing.assert_allclose(found.mean(0), bold[:n].mean(0))
    series = draw.normal(size=(2000, 2))
    series[:, 1] = series[:, 0] + 0.1 * series[:, 1]
    assert abs(np.corrcoef(phase_randomised(series, np.random.default_rng(1)).T)[0, 1]) < 0.1


def test_noise_has_the_mean_and_sd_of_each_roi_and_no_memory():
    bold = np.cumsum(np.random.default_rng(0).normal(size=(3000, 3)), axis=0) * [1, 2, 3]
    found = white_noise(bold, np.random.default_rng(1))
    np.testing.assert_allclose(found.mean(0), bold.mean(0), atol=5)
    np.testing.assert_allclose(found.std(0), bold.std(0), rtol=0.1)
    assert abs(np.corrcoef(found[1:, 0], found[:-1, 0])[0, 1]) < 0.1


def test_a_changed_scan_is_changed_where_it_was_observed():
    scan = rows()[0] | {"scan_id": "s"}
    scan["bold"][4, 2] = np.nan
    scan["sample_mask"] = [True] * 40 + [False] * 10
    found = changed_scan(white_noise, 0, scan, 5)
    assert found["scan_id"] == "s"
    unchanged = np.ones(scan["bold"].shape, dtype=bool)
    unchanged[np.ix_(range(40), [0, 1, 3, 4])] = False
    np.testing.assert_allclose(found["bold"][unchanged], scan["bold"][unchanged], rtol=1e-6)
    assert not np.isclose(found["bold"][~unchanged], scan["bold"][~unchanged]).all()
    np.testing.assert_array_equal(changed_scan(white_noise, 0, scan, 5)["bold"], found["bold"])
    for other in (changed_scan(white_noise, 1, scan, 5), changed_scan(white_noise, 0, scan, 6)):
        assert not np.isclose(other["bold"][~unchanged], found["bold"][~unchanged]).all()
