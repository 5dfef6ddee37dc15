"""The feature extractor: what it computes, refuses, saves and loads."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor, resampling_weights
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.simulation import write_nifti

N_ROIS = 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def extractor(**parameters) -> FmriFeatureExtractor:
    return FmriFeatureExtractor(**{"n_rois": N_ROIS, "n_timepoints": 40} | parameters)


def robust_z(bold):
    low, median, high = np.percentile(bold, [25, 50, 75], axis=0)
    return (bold - median) / (high - low)


def test_scan_at_the_target_t_r_is_cut_and_normalised(rng):
    bold = rng.normal(size=(60, N_ROIS)) * 50 + 1000
    features = extractor()(bold, t_r=2.0)
    assert list(features) == ["input_values", "roi_mask", "padding_mask"] == FmriFeatureExtractor.model_input_names
    assert features["input_values"].shape == (1, N_ROIS, 40)
    assert features["input_values"].dtype == torch.float32
    assert features["roi_mask"].dtype == features["padding_mask"].dtype == torch.bool
    assert features["roi_mask"].all()
    assert features["padding_mask"].all()
    np.testing.assert_allclose(features["input_values"][0].T, robust_z(bold[:40]), atol=1e-4)


@pytest.mark.parametrize("t_r", [0.72, 1.3, 2.0, 3.1])
def test_linear_resampling_is_numpy_interpolation_of_the_published_grid(rng, t_r):
    bold = rng.normal(size=(200, N_ROIS))
    features = extractor(resampling="linear")(bold, t_r=t_r)
    times = np.arange(200) * t_r
    # as the published program: evenly from the first to the last point, in steps of about 2 s
    grid = np.linspace(0, times[-1], int(np.round(times[-1] / 2.0)) + 1)[:40]
    expected = robust_z(np.stack([np.interp(grid, times, column) for column in bold.T], axis=1))
    np.testing.assert_allclose(features["input_values"][0].T, expected, atol=1e-5)


def test_antialiasing_keeps_the_bold_band_and_removes_what_would_fold_into_it():
    times = np.arange(1000) * 0.72
    slow, breathing = (
        np.sin(2 * np.pi * 0.05 * times),
        np.sin(2 * np.pi * 0.47 * times),
    )  # 0.47 Hz folds to 0.03 Hz
    antialiased, linear = (resampling_weights(1000, 0.72, 2.0, 200, kind) for kind in ("antialiased", "linear"))
    np.testing.assert_allclose(antialiased.sum(axis=1), 1, atol=1e-5)
    kept = antialiased @ slow[: antialiased.shape[1]]
    np.testing.assert_allclose(kept[10:-10], np.sin(2 * np.pi * 0.05 * np.arange(200) * 2.0)[10:-10], atol=0.03)
    assert (antialiased @ breathing[: antialiased.shape[1]])[10:-10].std() < 0.02
    assert (linear @ breathing[: linear.shape[1]])[10:-10].std() > 0.3
    faster = resampling_weights(50, 3.0, 2.0, 60)  # nothing can fold when a scan is made faster
    np.testing.assert_array_equal((faster > 0).sum(axis=1) <= 2, True)


def test_the_grid_never_leaves_the_scan():
    for n_timepoints, t_r in ((2, 0.3), (50, 0.8), (101, 2.0), (7, 5.5)):
        weights = resampling_weights(n_timepoints, t_r, 2.0, 1000)
        last = (len(weights) - 1) * 2.0
        assert last <= (n_timepoints - 1) * t_r + 1e-9 < last + 2.0
        assert weights.shape[1] <= n_timepoints


def test_short_scans_are_padded_or_stretched(rng):
    bold = rng.normal(size=(25, N_ROIS))
    padded = extractor()(bold, t_r=2.0)
    assert padded["padding_mask"].sum() == 25
    assert not padded["input_values"][..., 25:].any()
    np.testing.assert_allclose(padded["input_values"][0, :, :25].T, robust_z(bold), atol=1e-5)
    stretched = extractor(short_scans="stretch")(bold, t_r=2.0)
    assert stretched["padding_mask"].all()
    nearest = torch.nn.functional.interpolate(torch.tensor(bold.T[None]), size=40, mode="nearest")[0].numpy()
    np.testing.assert_allclose(stretched["input_values"][0].T, robust_z(nearest.T), atol=1e-5)


def test_a_list_is_the_batch_of_its_scans(rng):
    scans = [rng.normal(size=(n, N_ROIS)).astype(np.float32) for n in (60, 25)]
    together = extractor()(scans, t_r=[2.0, 1.5])
    for i, (scan, t_r) in enumerate(zip(scans, (2.0, 1.5), strict=True)):
        alone = extractor()(scan, t_r=t_r)
        for key in alone:
            torch.testing.assert_close(together[key][i], alone[key][0])
    rows = [{"bold": scan.tolist(), "t_r": t_r} for scan, t_r in zip(scans, (2.0, 1.5), strict=True)]
    torch.testing.assert_close(extractor()(rows)["input_values"], together["input_values"])
    nested = extractor()(scans[0].tolist(), t_r=2.0)  # rows of numbers are one scan, not a list of scans
    torch.testing.assert_close(nested["input_values"], together["input_values"][:1])
    batch = extractor()(np.stack([scans[0]] * 3), t_r=2.0, return_tensors="np")
    assert batch["input_values"].shape == (3, N_ROIS, 40)


def test_the_given_arrays_stay_as_they_are(rng):
    bold = rng.normal(size=(40, N_ROIS)).astype(np.float32)
    mask = np.ones(N_ROIS, dtype=bool)
    copies = bold.copy(), mask.copy()
    extractor()({"bold": bold, "t_r": 2.0, "roi_mask": mask})
    np.testing.assert_array_equal(bold, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


def test_masked_rois_are_zero(rng, caplog):
    bold = rng.normal(size=(60, N_ROIS))
    bold[:, 1] = np.nan
    bold[:, 2] = 3
    bold[:, 4] = 0
    bold[7, 4] = 5  # leaves its median once: no interquartile range to divide by
    features = extractor()(bold, t_r=2.0)
    assert features["roi_mask"][0].tolist() == [True, False, False, True, False, True]
    assert not features["input_values"][0, [1, 2, 4]].any()
    assert torch.isfinite(features["input_values"]).all()
    assert "2 ROIs are NaN or constant and were masked (column 1, column 2)" in caplog.text
    bold[:, [0, 3]] = 0
    with pytest.raises(ScanError, match="4 of 6 ROIs"):
        extractor()(bold, t_r=2.0)


def test_cohort_statistics_are_learnt_carried_and_used(rng, tmp_path):
    scale, offset = np.arange(1, N_ROIS + 1), np.arange(N_ROIS) * 10
    scans = [{"bold": rng.normal(size=(400, N_ROIS)) * scale + offset, "t_r": 2.0} for _ in range(9)]
    scans[3] = {"bold": scans[3]["bold"] * 1000, "t_r": 2.0}  # one bad scan must not matter
    fitted = extractor(n_timepoints=400).fit_normalization(scans)
    assert fitted.normalization == "cohort"
    np.testing.assert_allclose(fitted.roi_median, offset, atol=0.5)
    np.testing.assert_allclose(fitted.roi_iqr / scale, 1.349, atol=0.15)  # IQR of a normal distribution
    fitted.save_pretrained(tmp_path)
    loaded = FmriFeatureExtractor.from_pretrained(tmp_path)
    values = loaded(scans[0])["input_values"][0].T.numpy()
    expected = (scans[0]["bold"] - fitted.roi_median) / fitted.roi_iqr
    np.testing.assert_allclose(values, expected, atol=1e-4)
    with pytest.raises(ValueError, match="call `fit_normalization`"):
        extractor(normalization="cohort")(scans[0])
    with pytest.raises(ScanError, match="No scans to learn"):
        extractor().fit_normalization([])


def test_save_and_load(tmp_path, rng):
    parameters = {
        "atlas": Atlas.load("dosenbach_2010"),
        "n_timepoints": 50,
        "t_r": 1.5,
        "resampling": "linear",
        "short_scans": "stretch",
        "min_timepoints": 9,
        "max_masked": 0.25,
        "normalization": "cohort",
        "roi_median": [0.5] * 160,
        "roi_iqr": [2.0] * 160,
    }
    saved = FmriFeatureExtractor(**parameters)
    saved.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert set(parameters) < set(record)
    loaded = FmriFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.atlas == saved.atlas
    assert repr(loaded) == repr(saved)
    bold = rng.normal(size=(60, 160))
    torch.testing.assert_close(loaded(bold, t_r=2.0)["input_values"], saved(bold, t_r=2.0)["input_values"])


@pytest.mark.parametrize("t_r", [2.0, 0.8])
def test_censored_points_change_nothing_but_themselves(rng, t_r):
    bold = rng.normal(size=(150, N_ROIS)).astype(np.float32)
    sample_mask = rng.random(150) > 0.3
    model = extractor(min_timepoints=10)
    row = {"bold": bold, "t_r": t_r, "sample_mask": sample_mask}
    spiked = row | {"bold": np.where(sample_mask[:, None], bold, 1000).astype(np.float32)}
    features = model(row)
    observed = features["padding_mask"][0].numpy()
    assert 5 < (~observed).sum() < 25
    assert not features["input_values"][0][:, ~observed].any()
    if t_r == 2.0:
        np.testing.assert_array_equal(observed, sample_mask[:40])
        kept = bold[:40][observed]
        np.testing.assert_allclose(features["input_values"][0].T[observed], robust_z(kept), atol=1e-4)
        torch.testing.assert_close(model(spiked)["input_values"], features["input_values"])
    with pytest.raises(ScanError, match="observed time points at TR 2 s of 40, expected at least 39"):
        extractor(min_timepoints=39)(row)


def test_travels_with_a_checkpoint_as_its_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(FmriFeatureExtractor, "_auto_class", "AutoFeatureExtractor")
    extractor().save_pretrained(tmp_path / "checkpoint")
    files = {path.name for path in (tmp_path / "checkpoint").glob("*.py")}
    own = {"atlas.py", "atlas_names.py", "feature_extraction_fmri.py", "hub_mixin.py", "image_files.py"}
    own |= {"scan_errors.py", "scan_files.py", "scan_images.py", "scan_tables.py"}
    assert files == own
    # a fresh process in which neither this package nor what reads images can be imported
    program = f"""
import sys
for name in ("fmri_lm_hf", "nibabel", "nilearn", "scipy", "sklearn", "pandas", "datasets"):
    sys.modules[name] = None
import numpy as np
from transformers import AutoFeatureExtractor
extractor = AutoFeatureExtractor.from_pretrained({str(tmp_path / "checkpoint")!r}, trust_remote_code=True)
bold = np.random.default_rng(0).normal(size=(60, {N_ROIS}))
print(tuple(extractor(bold, t_r=0.8)["input_values"].shape))
try:
    extractor("scan.nii.gz")
except ValueError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"(1, {N_ROIS}, 40)"
    assert "scan.nii.gz does not exist" in done.stdout


def test_named_scans_are_matched_with_the_atlas(rng):
    atlas = Atlas("abc", ("a", "b", "c"), ("x",) * 3)
    model = FmriFeatureExtractor(atlas=atlas, n_timepoints=40)
    bold = rng.normal(size=(40, 3))
    expected = model(bold, t_r=2.0)["input_values"]
    shuffled = model(bold[:, [2, 0, 1]], t_r=2.0, roi_names=["c", "a", "b"])
    torch.testing.assert_close(shuffled["input_values"], expected)
    with pytest.raises(ScanError, match=r"1 not in the atlas \(d\)"):
        model(bold, t_r=2.0, roi_names=["a", "b", "d"])


def test_from_an_image_to_features(tmp_path, rng):
    atlas = Atlas("two", ("left", "right"), ("x", "x"), coordinates=((-30, 0, 0), (30, 0, 0)), radius_mm=8)
    bold = rng.normal(size=(60, 2))
    path = write_nifti(bold, atlas, tmp_path / "scan.nii.gz", t_r=2.0, voxel_size=6)
    model = FmriFeatureExtractor(atlas=atlas, n_timepoints=40)
    found, given = model(path)["input_values"], model(bold, t_r=2.0)["input_values"]
    torch.testing.assert_close(found, given, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"n_rois": None}, "needs an `atlas`, or `n_rois`"),
        ({"atlas": Atlas.numbered(4)}, "`n_rois` is 6, but the atlas has 4"),
        ({"resampling": "cubic"}, "`resampling` must be one of"),
        ({"short_scans": "drop"}, "`short_scans` must be one of"),
        ({"normalization": "none"}, "`normalization` must be one of"),
        ({"t_r": 0}, "Expected t_r > 0"),
        ({"min_timepoints": 41}, "min_timepoints <= n_timepoints"),
        ({"roi_median": [1.0]}, "`roi_median` has 1 values"),
        ({"roi_iqr": [0.0] * N_ROIS}, "`roi_iqr` must be positive"),
    ],
)
def test_parameters_that_make_no_sense(parameters, message):
    with pytest.raises(ValueError, match=message):
        extractor(**parameters)


def test_scans_that_cannot_be_used(rng):
    model = extractor()
    with pytest.raises(
        ScanError, match=r"too short: 20 time points at TR 0.72 s are 7 at TR 2 s, expected at least 10"
    ):
        model(rng.normal(size=(20, N_ROIS)), t_r=0.72)
    with pytest.raises(ScanError, match="does not say its TR"):
        model(rng.normal(size=(60, N_ROIS)))
    with pytest.raises(ScanError, match=r"60 ROIs .*expected 6|looks transposed"):
        model(rng.normal(size=(N_ROIS, 60)), t_r=2.0)
    with pytest.raises(ScanError, match="7 ROIs"):
        model(rng.normal(size=(60, 7)), t_r=2.0)
    with pytest.raises(ScanError, match="list of scans is empty"):
        model([])
    with pytest.raises(ScanError, match="2 TRs were given for 1 scans"):
        model(rng.normal(size=(60, N_ROIS)), t_r=[1.0, 2.0])
