"""The sources of `fmri-lm scans`, each on a small folder in its real layout."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pandas
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis, ParcelsAxis, SeriesAxis
from scipy.io import loadmat, savemat
from surfaces import write_labels, write_series

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import Scan
from fmri_lm_hf.models.scan_images import sphere_voxels
from fmri_lm_hf.scans import SOURCES, build_scan_dataset, load_scan_dataset, read_mat
from fmri_lm_hf.scans.denoising import STRATEGIES, Thresholds, denoise
from fmri_lm_hf.scans.sources.bids import Selection
from fmri_lm_hf.simulation import write_nifti

SPHERES = Atlas(
    "four",
    ("a", "b", "c", "d"),
    ("x", "x", "y", "y"),
    coordinates=((-40, 0, 0), (40, 0, 0), (0, 40, 20), (0, -60, 20)),
    radius_mm=10,
)
T = 80


def build(kind, root, out, **options):
    """Build a dataset; its rows by scan_id, its atlas, and the summary."""
    options = {"thresholds": Thresholds(min_minutes=0.5)} | options
    summary = build_scan_dataset(SOURCES[kind](root, **options), out, progress=False)
    dataset, atlas = load_scan_dataset(out)
    return {row["scan_id"]: row for row in dataset}, atlas, summary


def correlation(x, y):
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(np.transpose(x), np.transpose(y), strict=True)])


# fMRIPrep


def confound_table(rng, censored=()):
    motion = {f"{kind}_{axis}": rng.normal(size=T) for kind in ("trans", "rot") for axis in "xyz"}
    table = pandas.DataFrame(motion | {"csf": rng.normal(size=T), "white_matter": rng.normal(size=T)})
    table["global_signal"] = rng.normal(size=T)
    for name in motion:
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    table["cosine00"] = np.cos(np.pi * (np.arange(T) + 0.5) / T)
    table["framewise_displacement"] = np.where(np.isin(np.arange(T), censored), 1.5, 0.1)
    table["std_dvars"] = 1.0
    return table


def fmriprep_scan(root, name, bold, table, t_r=2.0):
    stem = root / name
    stem.parent.mkdir(parents=True, exist_ok=True)
    image = write_nifti(bold, SPHERES, f"{stem}_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz", t_r, 8)
    mask = nibabel.Nifti1Image(np.ones(nibabel.load(image).shape[:3], np.uint8), nibabel.load(image).affine)
    nibabel.save(mask, f"{stem}_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz")
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    (root / f"{name}_desc-confounds_timeseries.json").write_text("{}")
    return image


@pytest.fixture
def fmriprep(tmp_path, rng):
    """Signals, and the folder in which they are mixed with the confounds of two scans."""
    root, signals = tmp_path / "fmriprep", rng.normal(size=(T, 4))
    table = confound_table(rng, censored=(30, 31))
    mixed = signals + 3 * table[["trans_x", "csf"]].to_numpy() @ rng.normal(size=(2, 4))
    mixed[[30, 31]] += 20
    fmriprep_scan(root, "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-1", mixed, table)
    fmriprep_scan(root, "sub-02/func/sub-02_task-rest", signals, table)
    return root, signals, table


def test_fmriprep_confounds_are_removed(fmriprep, tmp_path):
    root, signals, _ = fmriprep
    rows, _, summary = build("fmriprep", root, tmp_path / "out", atlas=SPHERES, strategy="scrubbing")
    assert summary.failures == []
    row = rows["sub-01_ses-a_task-rest_run-1"]
    assert (row["subject_id"], row["session"], row["t_r"], row["n_timepoints"]) == ("sub-01", "a", 2.0, T)
    assert row["mean_fd"] == pytest.approx((2 * 1.5 + 78 * 0.1) / T)
    assert np.flatnonzero(~np.array(row["sample_mask"])).tolist() == [30, 31]
    kept = np.array(row["sample_mask"])
    raw, _, _ = build("fmriprep", root, tmp_path / "raw", atlas=SPHERES, strategy="none")
    before = correlation(raw[row["scan_id"]]["bold"][kept], signals[kept])
    after = correlation(row["bold"][kept], signals[kept])
    assert after.min() > 0.7 > before.max()  # 27 confounds take a third of the variance of 78 points
    clean = rows["sub-02_task-rest"]["bold"]
    np.testing.assert_allclose(correlation(clean[kept], row["bold"][kept]), 1, atol=0.01)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["parameters"]["confounds"]["fd_threshold"] == 0.5
    assert [len(scan["inputs"]) for scan in provenance["scans"]] == [3, 3]  # image, mask, confounds


def test_fmriprep_confound_fit_equals_least_squares(rng):
    bold, confounds = rng.normal(size=(T, 4)) + 100, rng.normal(size=(T, 3))
    kept = rng.random(T) > 0.2
    design = np.column_stack([np.ones(T), np.arange(T), confounds])[kept]
    expected = bold[kept] - design @ np.linalg.lstsq(design, bold[kept], rcond=None)[0]
    cleaned = denoise(Scan(bold, 2.0, np.ones(4, bool), kept), confounds).bold
    np.testing.assert_allclose(cleaned[kept], expected, atol=1e-6)
    assert np.isfinite(cleaned).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_one_that_nilearn_knows(fmriprep, tmp_path, strategy):
    root, _, table = fmriprep
    components = {
        f"a_comp_cor_{i:02d}": {"Mask": "combined", "Method": "aCompCor", "Retained": True} for i in range(3)
    }
    rng = np.random.default_rng(1)
    for path in root.rglob("*_desc-confounds_timeseries.tsv"):
        wide = table.assign(**{name: rng.normal(size=T) for name in components})
        wide.to_csv(path, sep="\t", index=False, na_rep="n/a")
        path.with_suffix(".json").write_text(json.dumps(components))
    rows, _, summary = build("fmriprep", root, tmp_path / "out", atlas=SPHERES, strategy=strategy)
    assert len(rows) == 2, summary.failures


@pytest.mark.filterwarnings("ignore:All volumes were marked")
def test_fmriprep_scans_that_fail_are_listed(fmriprep, tmp_path, rng):
    root, _, table = fmriprep
    table.iloc[:50].to_csv(
        root / "sub-02/func/sub-02_task-rest_desc-confounds_timeseries.tsv",
        sep="\t",
        na_rep="n/a",
        index=False,
    )
    moved = confound_table(rng, censored=range(0, T, 2))
    fmriprep_scan(root, "sub-03/func/sub-03_task-rest", rng.normal(size=(T, 4)), moved)
    bare = fmriprep_scan(root, "sub-04/func/sub-04_task-rest", rng.normal(size=(T, 4)), moved)
    (bare.parent / "sub-04_task-rest_desc-confounds_timeseries.tsv").unlink()
    rows, _, summary = build("fmriprep", root, tmp_path / "out", atlas=SPHERES, strategy="scrubbing")
    assert list(rows) == ["sub-01_ses-a_task-rest_run-1"]
    reasons = {failure["scan_id"]: failure["reason"] for failure in summary.failures}
    assert "80 time points, but its confounds have 50 rows" in reasons["sub-02_task-rest"]
    assert "moved too much" in reasons["sub-03_task-rest"]
    assert "confounds of sub-04_task-rest" in reasons["sub-04_task-rest"]


def test_fmriprep_options_that_do_not_fit(fmriprep, tmp_path):
    root, _, _ = fmriprep
    with pytest.raises(ScanError, match=r"No scan is in space MNI152NLin6Asym: found MNI152NLin2009cAsym"):
        build("fmriprep", root, tmp_path / "out", atlas=SPHERES, space="MNI152NLin6Asym")
    with pytest.raises(ScanError, match="give an atlas that reads images"):
        build("fmriprep", root, tmp_path / "out")
    with pytest.raises(ScanError, match="Unknown strategy 'best': expected one of none, simple"):
        build("fmriprep", root, tmp_path / "out", atlas=SPHERES, strategy="best")


def test_fmriprep_cifti(tmp_path, rng):
    folder, signals, table = (
        tmp_path / "fmriprep" / "sub-01" / "func",
        rng.normal(size=(T, 10)),
        confound_table(rng),
    )
    folder.mkdir(parents=True)
    mixed = signals + 5 * table[["csf"]].to_numpy()
    cortex = BrainModelAxis.from_mask(np.ones(10, bool), name="cortex_left")
    image = Cifti2Image(mixed.astype(np.float32), (SeriesAxis(0, 1.2, T), cortex))
    image.to_filename(folder / "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii")
    table.to_csv(folder / "sub-01_task-rest_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    (folder / "sub-01_task-rest_desc-confounds_timeseries.json").write_text("{}")
    names = {0: ("???", (0, 0, 0, 0)), 1: ("left", (1, 1, 1, 1)), 2: ("right", (1, 1, 1, 1))}
    keys = np.repeat([1, 2], 5)
    labels = Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["map"], [names]), cortex))
    rows, _, summary = build(
        "fmriprep",
        tmp_path / "fmriprep",
        tmp_path / "out",
        atlas=Atlas.from_labels_img(labels, name="halves"),
    )
    assert summary.failures == []
    row = rows["sub-01_task-rest"]
    assert row["t_r"] == pytest.approx(1.2)
    means = np.stack([signals[:, keys == key].mean(axis=1) for key in (1, 2)], axis=1)
    assert correlation(row["bold"], means).min() > 0.7
    np.testing.assert_allclose(correlation(row["bold"], table[["csf", "csf"]].to_numpy()), 0, atol=1e-4)


# Surfaces


@pytest.fixture
def surface_atlas(tmp_path):
    for side in "LR":
        keys = np.repeat([0, 1, 2], [2, 4, 4])
        write_labels(tmp_path / f"tpl_hemi-{side}_dseg.label.gii", keys, {1: "one", 2: "two"})
    return Atlas.from_labels_img(tmp_path / "tpl_hemi-L_dseg.label.gii", name="surface")


@pytest.mark.parametrize("workers", [1, 2])
def test_hemispheres_are_one_scan(tmp_path, rng, surface_atlas, workers):
    root = tmp_path / "surfaces"
    root.mkdir()
    for subject in ("01", "02", "03"):
        for side in "LR":
            path = root / f"sub-{subject}_task-rest_hemi-{side}_bold.func.gii"
            write_series(path, rng.normal(size=(T, 10)))
    (root / "sub-02_task-rest_hemi-L_bold.func.gii").unlink()
    (root / "sub-03_task-rest_hemi-R_bold.func.gii").unlink()
    (root / "cerebellum.func.gii").write_text("")
    source = SOURCES["files"](root, atlas=surface_atlas, t_r={"": 2.0})
    summary = build_scan_dataset(source, tmp_path / "out", progress=False, workers=workers)
    (row,) = load_scan_dataset(tmp_path / "out")[0]
    assert row["scan_id"] == "sub-01_task-rest_bold"
    left_out = {each.name: each.reason for each in summary.left_out}
    assert left_out.keys() == {"cerebellum.func.gii", "sub-02_task-rest_hemi-R_bold.func.gii"}
    assert "does not say in its name which hemisphere" in left_out["cerebellum.func.gii"]
    assert "without its left one" in left_out["sub-02_task-rest_hemi-R_bold.func.gii"]
    (failure,) = summary.failures
    assert failure["scan_id"] == "sub-03_task-rest_bold"
    assert "The hemisphere sub-03_task-rest_hemi-R_bold.func.gii does not exist" in failure["reason"]
    (scan,) = json.loads((tmp_path / "out" / "provenance.json").read_text())["scans"]
    assert [each["name"] for each in scan["inputs"]] == [
        f"sub-01_task-rest_hemi-{side}_bold.func.gii" for side in "LR"
    ]


def test_fmriprep_surfaces(tmp_path, rng, surface_atlas):
    folder = tmp_path / "fmriprep" / "sub-01" / "func"
    folder.mkdir(parents=True)
    table = confound_table(rng)
    signals = rng.normal(size=(2, T, 10))
    mixed = signals + 5 * table[["csf"]].to_numpy()
    for side, values in zip("LR", mixed, strict=True):
        path = folder / f"sub-01_task-rest_hemi-{side}_space-fsaverage5_bold.func.gii"
        write_series(path, values)
        path.with_name(path.name.replace(".func.gii", ".json")).write_text('{"RepetitionTime": 1.2}')
    confounds = folder / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    table.to_csv(confounds, sep="\t", index=False, na_rep="n/a")
    confounds.with_suffix(".json").write_text("{}")
    with pytest.raises(ScanError, match=r"No scan is in space fsLR: found fsaverage5. Give one of them with --space"):
        build("fmriprep", tmp_path / "fmriprep", tmp_path / "none", atlas=surface_atlas)
    rows, _, summary = build(
        "fmriprep", tmp_path / "fmriprep", tmp_path / "out", atlas=surface_atlas, space="fsaverage5"
    )
    assert summary.failures == []
    row = rows["sub-01_task-rest"]
    assert row["t_r"] == pytest.approx(1.2)
    means = np.concatenate([[half[:, 2:6].mean(axis=1), half[:, 6:].mean(axis=1)] for half in signals]).T
    assert correlation(row["bold"], means).min() > 0.7
    np.testing.assert_allclose(correlation(row["bold"], table[["csf"] * 4].to_numpy()), 0, atol=1e-4)


# XCP-D


@pytest.fixture
def xcpd(tmp_path, rng):
    """One scan with its outliers in the table, one from which XCP-D took them out."""
    root, signals = tmp_path / "xcp_d", rng.normal(size=(T, 3)).cumsum(axis=0)
    outlier = np.zeros(T, dtype=int)
    outlier[[10, 11, 40]] = 1
    names = ["LH_Vis_1", "RH_Vis_1", "HIP-lh"]
    for subject, rows in (("sub-01", slice(None)), ("sub-02", outlier == 0)):
        func = root / subject / "func"
        func.mkdir(parents=True)
        stem = f"{subject}_task-rest_space-MNI152NLin2009cAsym"
        table = pandas.DataFrame(signals[rows], columns=names)
        table.to_csv(func / f"{stem}_seg-4S156Parcels_stat-mean_timeseries.tsv", sep="\t", index=False)
        table.iloc[:, :2].to_csv(func / f"{stem}_seg-Tian_stat-mean_timeseries.tsv", sep="\t", index=False)
        pandas.DataFrame({"outlier": outlier}).to_csv(
            func / f"{subject}_task-rest_outliers.tsv", sep="\t", index=False
        )
        fd = pandas.DataFrame({"framewise_displacement": np.full(T, 0.2)})
        fd.to_csv(func / f"{subject}_task-rest_motion.tsv", sep="\t", index=False)
        (func / f"{stem}_desc-denoised_bold.json").write_text('{"RepetitionTime": 0.8}')
        spread = np.column_stack([signals, signals[:, 0]])
        write_nifti(spread[rows], SPHERES, func / f"{stem}_desc-denoised_bold.nii.gz", 0.8, 8)
    return root, signals, outlier == 0


def test_xcpd_time_series(xcpd, tmp_path):
    root, signals, kept = xcpd
    rows, atlas, _ = build("xcpd", root, tmp_path / "out", segmentation="4S156Parcels")
    assert atlas.name == "xcpd_4S156Parcels"
    assert atlas.networks == ("Vis", "Vis", "Subcortex")
    whole, censored = rows["sub-01_task-rest"], rows["sub-02_task-rest"]
    for row in (whole, censored):
        assert (row["t_r"], row["n_timepoints"], row["subject_id"]) == (0.8, T, row["scan_id"][:6])
        assert row["mean_fd"] == pytest.approx(0.2)
        np.testing.assert_array_equal(row["sample_mask"], kept)
        np.testing.assert_allclose(row["bold"][kept], signals[kept], rtol=1e-5)
    np.testing.assert_allclose(censored["bold"][40], (signals[39] + signals[41]) / 2, rtol=1e-5)


def test_xcpd_denoised_images(xcpd, tmp_path):
    root, signals, _ = xcpd
    rows, _, _ = build("xcpd", root, tmp_path / "out", atlas=SPHERES)
    assert correlation(rows["sub-01_task-rest"]["bold"][:, :3], signals).min() > 0.999


def test_xcpd_denoised_surfaces(xcpd, tmp_path, surface_atlas):
    """Of a folder with volumes as well, the surfaces are read with an atlas of surfaces."""
    root, signals, kept = xcpd
    cortex = BrainModelAxis.from_mask(np.ones(10, bool), name="cortex_left")
    cortex += BrainModelAxis.from_mask(np.ones(10, bool), name="cortex_right")
    name = "sub-02_task-rest_space-fsLR_den-91k_desc-denoised_bold.dtseries.nii"
    data = np.repeat(signals[kept][:, [0, 0, 1, 0, 1, 2]], [2, 4, 4, 2, 4, 4], axis=1).astype(np.float32)
    Cifti2Image(data, (SeriesAxis(0, 0.8, kept.sum()), cortex)).to_filename(root / "sub-02" / "func" / name)
    rows, _, summary = build("xcpd", root, tmp_path / "out", atlas=surface_atlas)
    assert (list(rows), summary.failures) == (["sub-02_task-rest"], [])
    row = rows["sub-02_task-rest"]
    np.testing.assert_array_equal(row["sample_mask"], kept)
    assert correlation(row["bold"][kept], signals[kept][:, [0, 1, 1, 2]]).min() > 0.999
    assert (row["t_r"], row["mean_fd"]) == (pytest.approx(0.8), pytest.approx(0.2))


def test_xcpd_asks_which_segmentation(xcpd, tmp_path):
    root, _, _ = xcpd
    with pytest.raises(ScanError, match="time series of 4S156Parcels, Tian; none was chosen: give one with --segm"):
        build("xcpd", root, tmp_path / "out")
    with pytest.raises(ScanError, match="'Glasser' was asked for"):
        build("xcpd", root, tmp_path / "out", segmentation="Glasser")
    table = next((root / "sub-02").rglob("*4S156*.tsv"))
    pandas.read_csv(table, sep="\t").iloc[:60].to_csv(table, sep="\t", index=False)
    _, _, summary = build("xcpd", root, tmp_path / "out", segmentation="4S156Parcels")
    assert "has 60 time points; expected 80, or 77 without the outliers" in summary.failures[0]["reason"]


# HCP


def hcp_folder(root, subject, run="rfMRI_REST1_LR"):
    folder = root / subject / "MNINonLinear" / "Results" / run
    folder.mkdir(parents=True)
    (folder / "Movement_RelativeRMS_mean.txt").write_text("0.085\n")
    return folder / f"{run}_Atlas_MSMAll"


def test_hcp_parcellated_and_dense(tmp_path, rng):
    root, data = tmp_path / "hcp", rng.normal(size=(T, 10)).astype(np.float32)
    cortex = BrainModelAxis.from_mask(np.ones(10, bool), name="cortex_left")
    series = SeriesAxis(0, 0.72, T)
    keys = np.repeat([1, 2], 5)
    means = np.stack([data[:, keys == key].mean(axis=1) for key in (1, 2)], axis=1)
    parcels = ParcelsAxis(
        ["7Networks_LH_Vis_1", "7Networks_LH_Cont_1"],
        [np.empty((0, 3), int)] * 2,
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.flatnonzero(keys == key)} for key in (1, 2)],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 10},
    )
    for factor, subject in ((1, "100307"), (2, "100408")):
        stem = hcp_folder(root, subject)
        Cifti2Image(factor * data, (series, cortex)).to_filename(f"{stem}.dtseries.nii")
        Cifti2Image(factor * means, (series, parcels)).to_filename(f"{stem}.ptseries.nii")
    names = {i: (name, (1, 1, 1, 1)) for i, name in enumerate(["???", *parcels.name])}
    labels = Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["map"], [names]), cortex))
    labels.to_filename(tmp_path / "atlas.dlabel.nii")
    atlas = Atlas.from_labels_img(tmp_path / "atlas.dlabel.nii")
    from_tables, named, _ = build("hcp", root, tmp_path / "tables")
    from_dense, _, _ = build("hcp", root, tmp_path / "dense", atlas=atlas)
    assert list(from_tables) == list(from_dense) == ["100307_rfMRI_REST1_LR", "100408_rfMRI_REST1_LR"]
    assert named.networks == atlas.networks == ("Vis", "Cont")
    row = from_dense["100307_rfMRI_REST1_LR"]
    assert (row["subject_id"], row["session"], row["t_r"]) == (
        "100307",
        "rfMRI_REST1_LR",
        pytest.approx(0.72),
    )
    assert row["mean_fd"] == pytest.approx(0.085)
    np.testing.assert_allclose(row["bold"], means, atol=1e-6)
    np.testing.assert_allclose(from_tables["100307_rfMRI_REST1_LR"]["bold"], means, atol=1e-6)
    Cifti2Image(data, (series, cortex)).to_filename(root / "loose.ptseries.nii")
    with pytest.raises(ScanError, match=r"loose.ptseries.nii lies in no subject's folder"):
        build("hcp", root, tmp_path / "out")


# Single files


def test_mat_files_with_names_from_the_path(tmp_path, rng):
    root, bold = tmp_path / "sites", rng.normal(size=(T, 5)).astype(np.float32)
    for factor, (site, subject) in enumerate((("east", "p1"), ("east", "p2"), ("west", "p1")), 1):
        folder = root / site / subject
        folder.mkdir(parents=True)
        savemat(folder / "rest.mat", {"tc": factor * bold.T.astype(np.float64)})
        savemat(folder / "structure.mat", {"sc": np.eye(5)})
    options = {"pattern": "{site}/{subject}/rest*.mat", "t_r": {"east": 0.72, "west": 2.0}}
    rows, atlas, summary = build("files", root, tmp_path / "out", **options)
    assert summary.failures == []
    assert atlas == Atlas.numbered(5, "files")
    found = [(row["site"], row["subject_id"], row["t_r"]) for row in rows.values()]
    assert found == [("east", "p1", 0.72), ("east", "p2", 0.72), ("west", "p1", 2.0)]
    np.testing.assert_array_equal(rows["west_p1_rest"]["bold"], 3 * bold)
    _, _, summary = build("files", root, tmp_path / "all", t_r={"": 2.0})
    assert len(summary.failures) == 3
    assert "structure.mat has no variable 'tc'" in summary.failures[0]["reason"]
    with pytest.raises(ScanError, match=r"may hold {subject}, {session} and {site}, once each"):
        build("files", root, tmp_path / "bad", pattern="{subject}/{scanner}.mat")


def test_the_extension_of_mat_files_may_be_upper_case(tmp_path, rng):
    root, bold = tmp_path / "files", rng.normal(size=(T, 5)).astype(np.float32)
    root.mkdir()
    savemat(tmp_path / "a.mat", {"tc": bold.T})
    (tmp_path / "a.mat").rename(root / "P1.MAT")
    rows, _, summary = build("files", root, tmp_path / "out", t_r={"": 2.0})
    assert summary.failures == []
    np.testing.assert_array_equal(rows["P1"]["bold"], bold)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "i8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path, rng, dtype, compressed):
    bold = (100 * rng.normal(size=(5, T)) + 128).clip(0, 250).astype(dtype)
    others = {"text": "a", "cell": np.array([{"x": 1}], dtype=object), "z": bold + 1j}
    savemat(tmp_path / "a.mat", {"before": bold[:2], "tc": bold, **others}, do_compression=compressed)
    expected = loadmat(tmp_path / "a.mat")["tc"].T.astype(np.float32)
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat"), expected)
    for name in others:
        with pytest.raises(ScanError, match=f"has no variable '{name}' of numbers"):
            read_mat(tmp_path / "a.mat", name)


def test_mat_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 7.3 MAT-file, which is HDF5" + bytes(100))
    savemat(tmp_path / "whole.mat", {"tc": np.random.default_rng(0).normal(size=(20, 50))})
    (tmp_path / "cut.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:1000])
    odd = bytearray((tmp_path / "whole.mat").read_bytes())
    odd[176] = 186  # a type that does not exist, which crashes scipy's reader
    (tmp_path / "odd.mat").write_bytes(odd)
    for name in ("bad.mat", "cut.mat", "odd.mat"):
        with pytest.raises(ScanError, match=f"{name} is not a readable MATLAB file"):
            read_mat(tmp_path / name)
    with pytest.raises(ScanError, match=r"gone.mat does not exist"):
        read_mat(tmp_path / "gone.mat")


def test_tables_with_names_are_brought_into_one_order(tmp_path, rng):
    root, bold = tmp_path / "tables", rng.normal(size=(T, 3)).astype(np.float32)
    root.mkdir()
    for i, order in enumerate(([0, 1, 2], [2, 0, 1])):
        names = np.array(["a", "b", "c"])[order]
        np.savez(root / f"sub-{i}_ses-{i}_bold.npz", bold=bold[:, order], roi_names=names, t_r=1.5)
    np.savez(root / "sub-9_bold.npz", bold=bold, roi_names=["a", "b", "z"], t_r=1.5)
    (root / "participants.tsv").write_text("participant_id\n")
    rows, atlas, summary = build("files", root, tmp_path / "out")
    assert atlas.roi_names == ("a", "b", "c")
    for i, row in enumerate(rows.values()):
        assert (row["subject_id"], row["session"]) == (f"sub-{i}", str(i))
        np.testing.assert_array_equal(row["bold"], bold)
    assert "1 not in the atlas (z)" in summary.failures[0]["reason"]


def test_images_need_an_atlas_and_unreadable_folders_say_why(tmp_path, rng):
    root = tmp_path / "images"
    root.mkdir()
    bold = rng.normal(size=(T, 4))
    write_nifti(bold, SPHERES, root / "first.nii.gz", 2.0, 8)
    rows, _, _ = build("files", root, tmp_path / "out", atlas=SPHERES)
    assert rows["first"]["subject_id"] == "first"
    assert correlation(rows["first"]["bold"], bold).min() > 0.999
    with pytest.raises(ScanError, match="No scans of the kind 'files'"):
        build("files", root, tmp_path / "none")
    (root / "bad.tsv").write_text("")
    with pytest.raises(ScanError, match=r"No table could be read to learn the ROIs from: bad.tsv is empty"):
        build("files", root, tmp_path / "none")


# Public cohorts: what nilearn's fetchers return, without a network connection


def test_abide(tmp_path, rng, monkeypatch):
    bold = [rng.normal(size=(n, 4)) for n in (80, 90, 70)]
    phenotypic = pandas.DataFrame(
        {
            "SUB_ID": [50002, 50003, 50004],
            "FILE_ID": ["Pitt_0050002", "KKI_0050003", "Moon_0050004"],
            "SITE_ID": ["PITT", "KKI", "MOON"],
            "AGE_AT_SCAN": [16.77, 24.45, 30.0],
            "SEX": [1, 2, 1],
            "DX_GROUP": [1, 2, 1],
            "FIQ": [103.0, -9999.0, np.nan],
            "func_mean_fd": [0.1, 0.2, 0.3],
        }
    )
    asked = {}

    def fetch(**options):
        asked.update(options)
        return {"phenotypic": phenotypic, "rois_cc200": bold}

    monkeypatch.setattr("nilearn.datasets.fetch_abide_pcp", fetch)
    rows, atlas, summary = build("abide_pcp", tmp_path, tmp_path / "out", rois="rois_cc200", n_subjects=3)
    assert asked == {
        "data_dir": str(tmp_path),
        "n_subjects": 3,
        "pipeline": "cpac",
        "derivatives": ["rois_cc200"],
    }
    assert atlas == Atlas.numbered(4, "rois_cc200")
    first, second = rows["Pitt_0050002"], rows["KKI_0050003"]
    assert (first["sex"], first["diagnosis"], first["age"], first["fiq"]) == ("male", "autism", 16.77, 103.0)
    assert (second["site"], second["t_r"], second["sex"], second["fiq"]) == ("KKI", 2.5, "female", None)
    assert second["mean_fd"] == pytest.approx(0.2)
    np.testing.assert_allclose(second["bold"], bold[1], rtol=1e-6)
    assert "does not say its TR" in summary.failures[0]["reason"]  # a site that is not in ABIDE
    _, _, summary = build("abide_pcp", tmp_path, tmp_path / "out", rois="rois_cc200", n_subjects=3)
    assert (summary.n_before, summary.n_new) == (2, 0)


@pytest.mark.parametrize("kind", ["adhd", "development_fmri"])
def test_image_cohorts(tmp_path, rng, monkeypatch, kind):
    bold, noise = rng.normal(size=(T, 4)), rng.normal(size=(T, 2))
    image = write_nifti(bold + 2 * noise @ rng.normal(size=(2, 4)), SPHERES, tmp_path / "scan.nii.gz", 2.0, 8)
    confounds = tmp_path / "confounds.tsv"
    if kind == "adhd":
        table = pandas.DataFrame(
            {"csf": noise[:, 0], "motion-pitch": noise[:, 1], "constant": 1.0, "global": bold[:, 0]}
        )
        phenotypic = pandas.DataFrame(
            {
                "Subject": ["0010042"],
                "site": ['"NYU"'],
                "age": [9.3],
                "sex": ["F"],
                "adhd": [1],
                "MeanFD": [0.05],
            }
        )
        expected = {"subject_id": "0010042", "age": 9.3, "sex": "female", "diagnosis": "adhd"}
    else:
        table = pandas.DataFrame(
            {"trans_x": noise[:, 0], "a_comp_cor_00": noise[:, 1], "framewise_displacement": 0.05}
        )
        phenotypic = pandas.DataFrame(
            {"participant_id": ["sub-pixar001"], "Age": [4.7], "Gender": ["M"], "Child_Adult": ["child"]}
        )
        expected = {"subject_id": "sub-pixar001", "age": 4.7, "sex": "male", "age_group": "child"}
    table.to_csv(confounds, sep="\t", index=False)
    bunch = {"func": [str(image)], "confounds": [str(confounds)], "phenotypic": phenotypic, "t_r": 2.0}
    monkeypatch.setattr(f"nilearn.datasets.fetch_{kind}", lambda **_: bunch)
    rows, _, summary = build(kind, tmp_path, tmp_path / "out", atlas=SPHERES)
    assert summary.failures == []
    [row] = rows.values()
    assert {name: row[name] for name in expected} == expected
    assert row["mean_fd"] == pytest.approx(0.05)
    assert correlation(row["bold"], bold).min() > 0.95


def test_cohorts_offline(tmp_path, monkeypatch):
    def offline(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("nilearn.datasets.fetch_adhd", offline)
    with pytest.raises(ScanError, match="cohort adhd could not be downloaded: go online"):
        build("adhd", tmp_path, tmp_path / "out", atlas=SPHERES)
    with pytest.raises(ScanError, match="consists of images: give an atlas"):
        build("adhd", tmp_path, tmp_path / "out")


# What every source refuses, lists and keeps


def reasons(summary):
    return {failure["scan_id"]: failure["reason"] for failure in summary.failures}


def test_too_few_degrees_of_freedom_are_refused_with_the_figures(rng):
    bold, confounds = rng.normal(size=(T, 4)) + 1000, rng.normal(size=(T, 30))
    kept = np.arange(T) < 33
    scan = Scan(bold, 2.0, np.ones(4, bool), kept)
    with pytest.raises(ScanError, match=r"33 usable time points of 80 and 30 confounds, of which 1 residual"):
        denoise(scan, confounds, min_dof=20)
    twice = np.hstack([confounds[:, :5]] * 6)  # the rank counts, not the number of columns
    assert denoise(scan, twice, min_dof=20).roi_mask.all()


def test_confounds_that_were_regressed_out_before_are_noticed(rng):
    confounds = rng.normal(size=(T, 6))
    scan = Scan(rng.normal(size=(T, 4)) + 1000, 2.0, np.ones(4, bool), np.ones(T, bool))
    once = denoise(scan, confounds)
    stored = (once.bold * 100).round() / 100  # as integers on disk
    for columns in (confounds, np.hstack([confounds[:, :3], rng.normal(size=(T, 5))])):
        with pytest.raises(ScanError, match="they were regressed out before"):
            denoise(Scan(stored, 2.0, scan.roi_mask, scan.sample_mask), columns)
    denoise(scan, rng.normal(size=(T, 24)))


def test_an_roi_of_confounds_alone_is_masked(rng):
    confounds = rng.normal(size=(T, 2))
    bold = rng.normal(size=(T, 4)) + 1000
    bold[:, 1] = confounds @ [1, 2] + 1000
    cleaned = denoise(Scan(bold, 2.0, np.ones(4, bool), np.ones(T, bool)), confounds)
    assert cleaned.roi_mask.tolist() == [True, False, True, True]
    assert not cleaned.bold[:, 1].any()
    assert "the confounds explain all of 1 ROIs" in cleaned.report[0]


def test_denoised_signals_are_those_of_nilearn_to_a_hundred_thousandth(rng):
    from nilearn.signal import clean

    bold, confounds = rng.normal(size=(T, 4)) * 20 + 15000, rng.normal(size=(T, 6))
    cleaned = denoise(Scan(bold, 2.0, np.ones(4, bool), np.ones(T, bool)), confounds).bold
    expected = clean(bold, confounds=confounds, detrend=True, standardize=None)
    assert np.abs(cleaned - expected).max() < 1e-5 * expected.std(axis=0).min()


def test_volumes_before_the_steady_state_are_dropped(tmp_path, rng):
    root, signals, table = tmp_path / "fmriprep", rng.normal(size=(T, 4)), confound_table(rng)
    for i in range(3):
        table[f"non_steady_state_outlier{i:02d}"] = (np.arange(T) == i).astype(int)
    signals[:3] += 50
    table.loc[:2, "framewise_displacement"] = 9.0
    fmriprep_scan(root, "sub-01/func/sub-01_task-rest", signals, table)
    for strategy in ("none", "simple"):
        rows, _, _ = build("fmriprep", root, tmp_path / strategy, atlas=SPHERES, strategy=strategy)
        row = rows["sub-01_task-rest"]
        assert row["n_timepoints"] == T - 3
        assert row["mean_fd"] == pytest.approx(table["framewise_displacement"][3:].mean())
        assert all(row["sample_mask"])
        assert np.abs(row["bold"] - row["bold"].mean(axis=0)).max() < 6 * row["bold"].std(axis=0).min()
        report = json.loads((tmp_path / strategy / "provenance.json").read_text())["scans"][0]["report"]
        assert any("3 volumes before the steady state were dropped" in note for note in report)


def test_fmriprep_scans_in_other_spaces_are_listed(fmriprep, tmp_path, rng):
    root, signals, table = fmriprep
    fmriprep_scan(root, "sub-05/func/sub-05_task-rest", signals, table)
    for path in (root / "sub-05" / "func").glob("*space-*"):
        path.rename(path.with_name(path.name.replace("_space-MNI152NLin2009cAsym_res-2", "_space-T1w")))
    rows, _, summary = build("fmriprep", root, tmp_path / "out", atlas=SPHERES)
    assert len(rows) == 2
    [lost] = summary.left_out
    assert lost.name == "sub-05_task-rest"
    assert "no image in space MNI152NLin2009cAsym, only in T1w (--space)" in lost.reason


def test_fmriprep_tables_of_old_versions_and_odd_ones(fmriprep, tmp_path, rng):
    root, _, table = fmriprep
    old = root / "sub-02/func/sub-02_task-rest_desc-confounds_timeseries.tsv"
    for extension in (".tsv", ".json"):
        old.with_suffix(extension).rename(old.with_name(f"sub-02_task-rest_desc-confounds_regressors{extension}"))
    fmriprep_scan(
        root,
        "sub-06/func/sub-06_task-rest",
        rng.normal(size=(T, 4)),
        table.drop(columns="framewise_displacement"),
    )
    empty = fmriprep_scan(root, "sub-07/func/sub-07_task-rest", rng.normal(size=(T, 4)), table)
    (empty.parent / "sub-07_task-rest_desc-confounds_timeseries.tsv").write_text("")
    fmriprep_scan(root, "sub-08/func/sub-08_task-rest", rng.normal(size=(T, 4)), table)
    (root / "sub-08/func/sub-08_task-rest_desc-confounds_timeseries.tsv").write_text("a\n1\n2\t3\n")
    rows, _, summary = build("fmriprep", root, tmp_path / "out", atlas=SPHERES, strategy="scrubbing")
    assert rows["sub-02_task-rest"]["mean_fd"] == pytest.approx((2 * 1.5 + 78 * 0.1) / T)
    assert set(reasons(summary)) == {"sub-06_task-rest", "sub-07_task-rest", "sub-08_task-rest"}
    assert not any("\n" in reason for reason in reasons(summary).values())
    assert "sub-07_task-rest_desc-confounds_timeseries.tsv cannot be read" in reasons(summary)["sub-07_task-rest"]
    assert "framewise_displacement" in reasons(summary)["sub-06_task-rest"]


def test_xcpd_companions_are_those_of_the_scan(tmp_path, rng):
    """`run-1` is not `run-10`, `task-rest` not `task-restAP`."""
    func = tmp_path / "xcp_d" / "sub-01" / "func"
    func.mkdir(parents=True)
    fds = {"task-rest_run-1": 0.1, "task-rest_run-10": 0.2, "task-rest": 0.3, "task-restAP": 0.4}
    for i, (name, fd) in enumerate(fds.items()):
        table = pandas.DataFrame(rng.normal(size=(T, 3)), columns=["LH_Vis_1", "RH_Vis_1", "HIP-lh"])
        stem = f"sub-01_{name}_space-MNI152NLin2009cAsym_seg-4S156Parcels"
        table.to_csv(func / f"{stem}_stat-mean_timeseries.tsv", sep="\t", index=False)
        coverage = pandas.DataFrame({"Node": ["RH_Vis_1", "LH_Vis_1", "HIP-lh"], "coverage": [0.9, 0.3, 1.0]})
        coverage.to_csv(func / f"{stem}_stat-coverage_bold.tsv", sep="\t", index=False)
        motion = pandas.DataFrame({"framewise_displacement": np.full(T, fd)})
        kind = "desc-confounds_regressors" if i == 3 else "desc-filtered_motion" if i else "motion"
        motion.to_csv(func / f"sub-01_{name}_{kind}.tsv", sep="\t", index=False)
        outlier = pandas.DataFrame({"outlier": (np.arange(T) == i).astype(int)})
        if i != 1:
            outlier.to_csv(func / f"sub-01_{name}_outliers.tsv", sep="\t", index=False)
    rows, _, _ = build("xcpd", tmp_path / "xcp_d", tmp_path / "out", t_r={"": 2.0})
    for i, (name, fd) in enumerate(fds.items()):
        row = rows[f"sub-01_{name}"]
        assert row["mean_fd"] == pytest.approx(fd), name
        assert np.flatnonzero(~np.array(row["sample_mask"])).tolist() == ([i] if i != 1 else [])
        np.testing.assert_allclose(row["coverage"], [0.3, 0.9, 1.0], rtol=1e-6)
        assert row["roi_mask"] == [False, True, True]


def test_hcp_takes_the_most_processed_file_of_a_run(tmp_path, rng):
    root, parcels = (
        tmp_path / "hcp",
        ParcelsAxis(
            ["a", "b"],
            [np.empty((0, 3), int)] * 2,
            [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([i])} for i in range(2)],
            nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 10},
        ),
    )
    stem = str(hcp_folder(root, "100307")).removesuffix("_MSMAll")
    best = "_MSMAll_hp2000_clean"
    for kind in ("", "_MSMAll", "_hp2000_clean", best):
        data = rng.normal(size=(T, 2)).astype(np.float32)
        Cifti2Image(data, (SeriesAxis(0, 0.72, T), parcels)).to_filename(f"{stem}{kind}.ptseries.nii")
    rows, _, summary = build("hcp", root, tmp_path / "out")
    [row] = rows.values()
    np.testing.assert_array_equal(row["bold"], nibabel.load(f"{stem}{best}.ptseries.nii").get_fdata())
    assert len(summary.left_out) == 3
    assert all("another file of the run is read" in each.reason for each in summary.left_out)
    for selection in (Selection.of(task=["rest"], run=["1"]), Selection.of(participant_label=["100307"])):
        again, _, _ = build("hcp", root, tmp_path / f"out{id(selection)}", selection=selection)
        assert len(again) == 1


def test_files_that_the_pattern_does_not_match_are_listed(tmp_path, rng):
    root = tmp_path / "sites"
    for name in ("east/p1.npy", "east/p2.npy", "stray.npy"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, rng.normal(size=(T, 4)))
    _, _, summary = build("files", root, tmp_path / "out", pattern="{site}/{subject}.npy", t_r={"": 2.0})
    [left] = summary.left_out
    assert (left.name, "does not match the pattern" in left.reason) == ("stray.npy", True)
    table = pandas.read_csv(tmp_path / "out" / "exclusions.tsv", sep="\t")
    assert table.loc[0, ["outcome", "input"]].tolist() == ["left out", "stray.npy"]


@pytest.mark.parametrize(
    "thresholds, message",
    [
        (
            {"min_minutes": 3},
            r"has 2.60 minutes left \(78 of 80 time points at TR 2 s\), expected at least 3",
        ),
        (
            {"max_mean_fd": 0.1},
            r"mean framewise displacement of 0.135 mm, expected at most 0.1 \(--max-mean-fd\)",
        ),
        ({"max_censored": 0.01}, r"has [23]% of its time points censored \(2 of 80\), expected at most 1%"),
        ({"min_dof": 60}, r"residual degrees of freedom are left, expected at least 60"),
    ],
)
def test_thresholds_are_told_with_the_figures(fmriprep, tmp_path, thresholds, message):
    root, _, _ = fmriprep
    source = SOURCES["fmriprep"](root, atlas=SPHERES, strategy="scrubbing", thresholds=Thresholds(**thresholds))
    summary = build_scan_dataset(source, tmp_path / "out", progress=False)
    for reason in reasons(summary).values():
        assert re.search(message, reason), reason
    assert len(summary.failures) == 2


@pytest.mark.parametrize("max_masked, n_read", [(0.2, 0), (0.3, 1)])
def test_how_many_rois_may_be_flat_is_decided_by_the_threshold(tmp_path, rng, max_masked, n_read):
    signals = rng.normal(size=(T, 4))
    signals[:, 1] = 7.0
    (tmp_path / "tables").mkdir()
    np.save(tmp_path / "tables" / "scan.npy", signals)
    source = SOURCES["files"](tmp_path / "tables", t_r={"": 2.0}, thresholds=Thresholds(max_masked=max_masked))
    assert build_scan_dataset(source, tmp_path / "out", progress=False).n_new == n_read


def test_coverage_is_a_number_and_masks(tmp_path, rng):
    path = write_nifti(rng.normal(size=(T, 4)), SPHERES, tmp_path / "scan.nii.gz", 2.0, 5)
    image = nibabel.load(path)
    data = image.get_fdata()
    where = sphere_voxels((-40, 0, 0), 10, image.affine, data.shape)[0]
    data[tuple(where[: int(0.7 * len(where))].T)] = 0  # lost signal
    (tmp_path / "images").mkdir()
    torn = nibabel.Nifti1Image(data.astype(np.float32), image.affine, image.header)
    nibabel.save(torn, tmp_path / "images" / "scan.nii.gz")
    rows, _, _ = build("files", tmp_path / "images", tmp_path / "out", atlas=SPHERES)
    row = rows["scan"]
    np.testing.assert_allclose(row["coverage"], [0.3, 1, 1, 1], atol=0.03)
    assert row["roi_mask"] == [False, True, True, True]
    lenient = Thresholds(min_coverage=0.1)
    rows, _, _ = build("files", tmp_path / "images", tmp_path / "all", atlas=SPHERES, thresholds=lenient)
    assert all(rows["scan"]["roi_mask"])
