from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fmri_lm_hf.descriptors import compute_features
from fmri_lm_hf.descriptors.ica import component_networks, fit_group_ica, ica_features, time_course_measures
from fmri_lm_hf.descriptors.prepared import prepare_scan
from fmri_lm_hf.models.atlas import Atlas


def sine(frequency: float, t_r: float, n_timepoints: int = 400) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * t_r * np.arange(n_timepoints))[:, None]


def falff_by_definition(signal: np.ndarray, t_r: float) -> float:
    """Sum of Fourier amplitudes at 0.01-0.1 Hz over that at 0.01-0.16 Hz, from the Fourier sums."""
    n = len(signal)
    times = np.arange(n)
    low = total = 0.0
    for k in range(1, n // 2 + 1):
        amplitude = abs((signal * np.exp(-2j * np.pi * k * times / n)).sum())
        if 0.01 <= k / (n * t_r) <= 0.16:
            total += amplitude
        if 0.01 <= k / (n * t_r) <= 0.1:
            low += amplitude
    return low / total


@pytest.mark.parametrize("t_r", [0.72, 2.0, 3.0])
@pytest.mark.parametrize("n_timepoints", [120, 121])
def test_falff_is_its_definition(t_r, n_timepoints):
    signal = np.cumsum(np.random.default_rng(0).standard_normal(n_timepoints)) * 0.2
    found = time_course_measures(signal[:, None], t_r)["falff"][0]
    assert found == pytest.approx(falff_by_definition(signal, t_r), rel=1e-6)


@pytest.mark.parametrize("t_r", [0.5, 0.72, 1.0, 2.0])
def test_bands_are_in_hertz_whatever_the_repetition_time(t_r):
    n_timepoints = int(600 / t_r)
    slow, fast = (time_course_measures(sine(f, t_r, n_timepoints), t_r) for f in (0.05, 0.14))
    assert slow["falff"][0] > 0.9 > 0.1 > fast["falff"][0]
    assert slow["spectral_ratio"][0] > 2
    assert fast["spectral_ratio"][0] < -2


@pytest.mark.parametrize("t_r, known", [(0.72, True), (3.0, True), (3.2, False)])
def test_a_scan_too_slow_for_the_bands_has_no_spectral_measures(t_r, known):
    noise = np.random.default_rng(0).standard_normal((200, 2))
    found = time_course_measures(noise, t_r)
    for measure in ("spectral_ratio", "falff"):
        assert np.isfinite(found[measure]).all() == known


def band_limited(t_r: float, seconds: float = 1200.0) -> np.ndarray:
    """The same signals, of 0.01-0.1 Hz, sampled at a repetition time."""
    rng = np.random.default_rng(5)
    frequencies = rng.uniform(0.01, 0.1, (60, 1, 8))
    phases = rng.uniform(0, 2 * np.pi, (60, 1, 8))
    times = np.arange(0, seconds, t_r)[:, None]
    return np.sin(2 * np.pi * frequencies * times + phases).sum(axis=0)


def test_the_repetition_time_moves_no_measure_of_the_same_signal():
    """A scanner that samples faster sees the same brain."""
    slow = time_course_measures(band_limited(2.0), 2.0)
    for t_r in (0.5, 0.8, 1.5):
        fast = time_course_measures(band_limited(t_r), t_r)
        for measure in ("amplitude", "variability", "autocorrelation", "falff"):
            np.testing.assert_allclose(fast[measure], slow[measure], atol=0.03, err_msg=f"{measure} {t_r}")


def test_measures_of_observed_points():
    signal = band_limited(2.0)
    whole = time_course_measures(signal, 2.0)
    observed = np.random.default_rng(0).random(len(signal)) > 0.3
    holes = time_course_measures(signal[observed], 2.0, observed)
    for measure in ("amplitude", "autocorrelation"):
        np.testing.assert_allclose(holes[measure], whole[measure], rtol=0.03, atol=0.08)
    for measure in ("spectral_ratio", "falff"):
        assert np.isnan(holes[measure]).all()  # no stretch of neighbours is long enough
    observed = np.arange(len(signal)) >= 100
    stretch = time_course_measures(signal[observed], 2.0, observed)
    alone = time_course_measures(signal[observed], 2.0)
    for measure in ("spectral_ratio", "falff", "autocorrelation"):
        np.testing.assert_allclose(stretch[measure], alone[measure])


def test_amplitude_is_the_standard_deviation_and_scales():
    noise = np.random.default_rng(0).standard_normal((200, 3))
    found = time_course_measures(noise, 2.0)
    np.testing.assert_allclose(found["amplitude"], noise.std(axis=0))
    scaled = time_course_measures(3 * noise, 2.0)
    np.testing.assert_allclose(scaled["amplitude"], 3 * found["amplitude"])
    for measure in set(found) - {"amplitude"}:
        np.testing.assert_allclose(scaled[measure], found[measure], err_msg=measure)


def test_bursts_raise_the_variability():
    noise = np.random.default_rng(0).standard_normal((300, 1))
    envelope = np.where(np.arange(300) // 60 % 2, 3.0, 0.5)[:, None]
    steady, bursting = (time_course_measures(x, 2.0)["variability"][0] for x in (noise, noise * envelope))
    assert bursting > 2 * steady


@pytest.mark.parametrize("coefficient", [-0.4, 0.0, 0.7])
@pytest.mark.parametrize("t_r, steps", [(4.0, 1), (2.0, 2), (1.0, 4)])
def test_autocorrelation_is_that_of_the_process_four_seconds_later(coefficient, t_r, steps):
    signal = np.random.default_rng(0).standard_normal((5000, 1))
    for t in range(1, 5000):
        signal[t] += coefficient * signal[t - 1]
    found = time_course_measures(signal, t_r)["autocorrelation"][0]
    assert found == pytest.approx(coefficient**steps, abs=0.05)


def test_a_scan_too_slow_for_the_lag_has_no_autocorrelation():
    assert np.isnan(time_course_measures(np.eye(40), 4.5)["autocorrelation"]).all()


def test_outliers_are_counted():
    signal = np.random.default_rng(0).uniform(-1, 1, (200, 1))  # nothing beyond 3 robust SDs
    assert time_course_measures(signal, 2.0)["outlier_rate"][0] == 0
    signal[[3, 50, 51, 120]] = 40
    assert time_course_measures(signal, 2.0)["outlier_rate"][0] == pytest.approx(4 / 200)


@pytest.fixture(scope="module")
def mixture():
    """Three sources over 60 ROIs with known maps and time courses, and little noise."""
    rng = np.random.default_rng(0)
    maps = np.zeros((3, 60))
    for k in range(3):
        maps[k, 20 * k : 20 * k + 20] = rng.uniform(0.7, 1.3, 20)
    time_courses = rng.standard_normal((300, 3))
    return maps, time_courses, time_courses @ maps + 0.1 * rng.standard_normal((300, 60))


def test_group_ica_finds_planted_maps():
    rng = np.random.default_rng(0)
    maps = np.zeros((3, 150))
    for k in range(3):
        maps[k, 12 * k : 12 * k + 15] = 1  # neighbours share three ROIs
    bold = rng.standard_normal((400, 3)) @ maps + 0.7 * rng.standard_normal((400, 150))
    correlation = np.corrcoef(bold.T)
    found = fit_group_ica(correlation, n_components=3)
    agreement = np.sort(np.abs(np.corrcoef(np.vstack([maps, found]))[:3, 3:]), axis=1)
    assert (agreement[:, -1] > 0.95).all()
    assert (agreement[:, -2] < 0.3).all()
    np.testing.assert_array_equal(found, fit_group_ica(correlation, n_components=3))


def test_group_pca_equals_that_of_the_scans_concatenated_in_time():
    scans = np.random.default_rng(0).standard_normal((4, 80, 12)) @ np.random.default_rng(1).standard_normal((12, 12))
    scans = (scans - scans.mean(axis=1, keepdims=True)) / scans.std(axis=1, keepdims=True)
    mean_correlation = np.mean([np.corrcoef(scan.T) for scan in scans], axis=0)
    maps = fit_group_ica(mean_correlation, n_components=3)
    _, _, components = np.linalg.svd(np.concatenate(scans), full_matrices=False)
    span = np.vstack([components[:3], np.ones(12)])  # FastICA centres the maps
    residual = maps - maps @ np.linalg.pinv(span) @ span
    np.testing.assert_allclose(residual, 0, atol=1e-6)


def test_components_go_to_the_network_that_they_load_on(mixture):
    maps, _, _ = mixture
    membership = np.repeat(np.eye(3), 20, axis=0)
    np.testing.assert_array_equal(component_networks(maps[[2, 0, 1]], membership), np.eye(3, dtype=bool)[[2, 0, 1]])


def test_a_network_that_no_component_chose_gets_the_nearest(mixture):
    maps, _, _ = mixture
    membership = np.repeat(np.eye(4), 15, axis=0)  # four networks, three components
    chosen = component_networks(maps, membership)
    assert chosen.any(axis=0).all()
    assert chosen.sum() == 4


def test_time_courses_of_the_components_are_regressed_out_of_the_scan(mixture):
    maps, time_courses, bold = mixture
    networks = tuple(np.repeat(["A", "B", "C"], 20))
    scan = prepare_scan(bold, 2.0, Atlas("toy", tuple(map(str, range(60))), networks))
    features = ica_features(scan, maps)
    expected = np.arctanh(np.corrcoef(time_courses.T) * (1 - np.eye(3)))
    assert features["ica/fnc/A-B"] == pytest.approx(expected[0, 1], abs=0.02)
    assert features["ica/fnc/B-C"] == pytest.approx(expected[1, 2], abs=0.02)
    lag = time_course_measures(time_courses, 2.0)["autocorrelation"]
    assert features["ica/autocorrelation/A"] == pytest.approx(lag[0], abs=0.02)
    assert features["ica/autocorrelation"] == pytest.approx(lag.mean(), abs=0.02)


def test_masked_rois_hardly_change_the_time_courses(mixture):
    maps, _, bold = mixture
    networks = tuple(np.repeat(["A", "B", "C"], 20))
    atlas = Atlas("toy", tuple(map(str, range(60))), networks)
    whole = ica_features(prepare_scan(bold, 2.0, atlas), maps)
    holes = ica_features(prepare_scan(bold, 2.0, atlas, np.arange(60) % 5 > 0), maps)
    for name in ("ica/falff/A", "ica/fnc/A-C", "ica/autocorrelation"):
        assert holes[name] == pytest.approx(whole[name], abs=0.03)


def test_a_single_network_without_maps_has_ica_features_and_no_fnc(bold, atlas):
    one = replace(atlas, networks=("Visual",) * atlas.n_rois)
    features = compute_features(bold, 2.0, one, families=("ica",))
    assert features["ica/amplitude/Visual"] == pytest.approx(features["ica/amplitude"])
    assert not any(name.startswith("ica/fnc") for name in features)
    only_visual = np.array([network == "Visual" for network in atlas.networks])
    features = compute_features(bold, 2.0, atlas, families=("ica",), roi_mask=only_visual)
    assert np.isfinite(features["ica/amplitude"])
    assert np.isnan(features["ica/fnc/Visual-Motor"])


def test_without_maps_the_network_means_take_their_place(bold, atlas):
    features = compute_features(bold, 2.0, atlas, families=("ica",))
    standardised = (bold - bold.mean(axis=0)) / bold.std(axis=0)
    means = np.stack([standardised[:, np.array(atlas.networks) == n].mean(axis=1) for n in atlas.network_names])
    expected = np.arctanh(np.corrcoef(means)[0, 1])
    assert features["ica/fnc/Visual-Motor"] == pytest.approx(expected, abs=1e-4)
    assert features["ica/amplitude/Limbic"] == pytest.approx(means[3].std(), rel=1e-4)
