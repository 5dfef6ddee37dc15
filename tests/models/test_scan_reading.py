"""Reading scans: every form gives the same table, and every bad one a sentence that helps."""

from __future__ import annotations

import gzip
import json

import nibabel
import numpy as np
import pytest
import torch

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_images import ScanError
from fmri_lm_hf.models.scan_reading import read_scan
from fmri_lm_hf.scans.synthetic_image import write_nifti

ATLAS = Atlas("abcd", ("a", "b", "c", "d"), ("x", "x", "y", "y"))
SPHERES = Atlas("two", ("left", "right"), ("x", "x"), coordinates=((-30, 0, 0), (30, 0, 0)), radius_mm=8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def bold(rng):
    return rng.normal(size=(30, 4)).astype(np.float32)


def write_table(path, bold, names=None, delimiter="\t"):
    lines = [delimiter.join(names)] if names else []
    path.write_text("\n".join(lines + [delimiter.join(map(repr, map(float, row))) for row in bold]) + "\n")
    return path


def test_every_form_of_a_table_reads_the_same(bold, tmp_path):
    np.save(tmp_path / "scan.npy", bold)
    np.savez(tmp_path / "scan.npz", bold=bold, t_r=2.0, roi_names=np.array(ATLAS.roi_names))
    np.savez(tmp_path / "alone.npz", bold)
    forms = [
        bold,
        bold.tolist(),
        bold.astype(np.float64),
        torch.from_numpy(bold),
        {"bold": bold, "t_r": 2.0},
        {"bold": bold.tolist(), "roi_mask": [True] * 4},
        tmp_path / "scan.npy",
        str(tmp_path / "scan.npz"),
        tmp_path / "alone.npz",
        write_table(tmp_path / "scan.tsv", bold, ATLAS.roi_names),
        write_table(tmp_path / "scan.csv", bold, delimiter=","),
    ]
    for form in forms:
        scan = read_scan(form, ATLAS, t_r=2.0)
        np.testing.assert_array_equal(scan.bold, bold)
        assert scan.bold.dtype == np.float32
        assert scan.t_r == 2.0
        assert scan.roi_mask.all()
        assert scan.report == ()


def test_named_columns_are_matched_by_name(bold, tmp_path):
    order = [2, 0, 3, 1]
    names = [ATLAS.roi_names[i] for i in order]
    forms = [
        (write_table(tmp_path / "scan.tsv", bold[:, order], names), None),
        (bold[:, order], names),
        ({"bold": bold[:, order], "roi_names": names, "roi_mask": np.array([True, False, True, True])}, None),
    ]
    for form, given in forms:
        scan = read_scan(form, ATLAS, t_r=2.0, roi_names=given)
        np.testing.assert_array_equal(scan.bold[:, scan.roi_mask], bold[:, scan.roi_mask])
        assert "order of the atlas" in scan.report[0]
    assert scan.roi_mask.tolist() == [False, True, True, True]
    with pytest.raises(ScanError, match=r"1 not in the atlas \(z\); 1 missing from the scan \(d\)"):
        read_scan(write_table(tmp_path / "z.tsv", bold, ["a", "b", "c", "z"]), ATLAS, t_r=2.0)
    with pytest.raises(ScanError, match=r"1 missing from the scan \(d\)"):
        read_scan(bold[:, :3], ATLAS, t_r=2.0, roi_names=["a", "b", "c"])
    with pytest.raises(ScanError, match=r"4 columns but 3 ROI names"):
        read_scan(bold, ATLAS, t_r=2.0, roi_names=["a", "b", "c"])


def test_nifti_image_and_path(tmp_path, rng):
    signals = rng.normal(size=(25, 2)).astype(np.float32)
    path = write_nifti(signals, SPHERES, tmp_path / "scan.nii.gz", t_r=0.72, voxel_size=5)
    scan = read_scan(path, SPHERES)
    assert scan.t_r == 0.72
    for found, painted in zip(scan.bold.T, signals.T, strict=True):
        assert np.corrcoef(found, painted)[0, 1] > 0.999
    image = nibabel.load(path)
    np.testing.assert_array_equal(read_scan(image, SPHERES).bold, scan.bold)
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((5, 5, 5, 720))
    assert read_scan(image, SPHERES).t_r == pytest.approx(0.72)


def test_ptseries_is_matched_by_parcel_name(tmp_path, bold):
    from nibabel.cifti2 import Cifti2Image, ParcelsAxis, SeriesAxis

    order = [3, 1, 0, 2]
    parcels = ParcelsAxis(
        [ATLAS.roi_names[i] for i in order],
        [np.empty((0, 3), int)] * 4,
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([i])} for i in range(4)],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 10},
    )
    image = Cifti2Image(bold[:, order], (SeriesAxis(0, 0.8, len(bold)), parcels))
    image.to_filename(tmp_path / "scan.ptseries.nii")
    scan = read_scan(tmp_path / "scan.ptseries.nii", ATLAS)
    np.testing.assert_array_equal(scan.bold, bold)
    assert scan.t_r == pytest.approx(0.8)


def test_cifti_that_is_no_series(tmp_path):
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis

    models = BrainModelAxis.from_mask(np.ones(5, bool), name="cortex_left")
    Cifti2Image(np.ones((1, 5), np.float32), (ScalarAxis(["map"]), models)).to_filename(
        tmp_path / "x.dscalar.nii"
    )
    with pytest.raises(ScanError, match=r"ScalarAxis x BrainModelAxis: expected a series"):
        read_scan(tmp_path / "x.dscalar.nii", ATLAS)


def test_t_r_from_the_sidecar_the_header_and_the_caller(tmp_path, bold, rng, caplog):
    table = write_table(tmp_path / "scan.tsv", bold)
    with pytest.raises(ScanError, match=r"scan.tsv does not say its TR: give it in seconds"):
        read_scan(table, ATLAS)
    (tmp_path / "scan.json").write_text(json.dumps({"RepetitionTime": 1.5}))
    assert read_scan(table, ATLAS).t_r == 1.5
    assert read_scan(table, ATLAS, t_r=1.5).report == ()
    contradicted = read_scan(table, ATLAS, t_r=3.0)
    assert contradicted.t_r == 3.0
    assert "TR 1.5 s, but t_r=3 s was given" in contradicted.report[0]
    image = write_nifti(rng.normal(size=(9, 2)), SPHERES, tmp_path / "scan.nii", t_r=2.0, voxel_size=8)
    found = read_scan(image, SPHERES)
    assert found.t_r == 1.5
    assert "header says TR 2 s, its sidecar 1.5 s" in found.report[0]
    assert caplog.messages == [*contradicted.report, *found.report]
    (tmp_path / "scan.json").write_text("not json")
    with pytest.raises(ScanError, match=r"sidecar scan.json .* not readable JSON"):
        read_scan(table, ATLAS)


def test_headers_without_a_t_r(rng):
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = -50
    image = nibabel.Nifti1Image(rng.normal(size=(20, 20, 20, 8)), affine)
    with pytest.raises(ScanError, match=r"does not say its TR"):
        read_scan(image, SPHERES)  # nibabel writes 1 of unknown unit where nothing was set
    image.header.set_zooms((5, 5, 5, 0))
    with pytest.raises(ScanError, match=r"does not say its TR"):
        read_scan(image, SPHERES)
    image.header.set_zooms((5, 5, 5, 2))
    assert read_scan(image, SPHERES).t_r == 2.0
    for wrong in (2000, 0.001):
        with pytest.raises(ScanError, match=r"seconds, not milliseconds"):
            read_scan(image, SPHERES, t_r=wrong)


def test_nan_and_constant_rois_are_masked_and_reported(bold, caplog):
    bold[5, 0] = np.nan
    bold[:, 2] = 7.25
    scan = read_scan(bold, ATLAS, t_r=2.0)
    assert scan.roi_mask.tolist() == [False, True, False, True]
    assert not scan.bold[:, ~scan.roi_mask].any()
    assert (
        caplog.messages
        == ["The scan: 2 ROIs are NaN or constant and were masked (a, c)."]
        == list(scan.report)
    )


def test_mostly_unusable_scans_are_refused(bold):
    bold[3] = np.nan
    with pytest.raises(ScanError, match=r"4 of 4 ROIs \(4 with NaN.*1 time points are NaN throughout"):
        read_scan(bold, ATLAS, t_r=2.0)
    flat = np.ones((30, 4), dtype=np.float32) * 1000
    flat[:, 0] = np.arange(30)
    with pytest.raises(ScanError, match=r"3 of 4 ROIs .*3 constant\): at most 50% may be masked"):
        read_scan(flat, ATLAS, t_r=2.0)
    assert read_scan(flat, ATLAS, t_r=2.0, max_masked=0.8).roi_mask.sum() == 1


@pytest.mark.parametrize(
    "shape, message",
    [
        ((30, 5), r"5 ROIs \(shape \(30, 5\)\), expected 4 of atlas 'abcd'"),
        ((4, 30), "looks transposed"),
        ((30,), r"shape \(30,\): expected \(n_timepoints, n_rois\)"),
        ((2, 30, 4), r"shape \(2, 30, 4\): expected"),
        ((0, 4), r"shape \(0, 4\): expected"),
        ((1, 4), "has 1 time point"),
    ],
)
def test_tables_of_the_wrong_shape(rng, shape, message):
    with pytest.raises(ScanError, match=message):
        read_scan(rng.normal(size=shape), ATLAS, t_r=2.0)
    if len(shape) == 2 and shape[1] != 4:
        with pytest.raises(ScanError, match=r"expected \(n_timepoints, 4 ROIs\)|expected 4:"):
            read_scan(rng.normal(size=shape), t_r=2.0, n_rois=4)


def test_images_that_cannot_be_used(tmp_path, rng):
    affine = np.diag([4.0, 4, 4, 1])
    with pytest.raises(ScanError, match=r"image is 3D.*expected a 4D image"):
        read_scan(nibabel.Nifti1Image(rng.normal(size=(9, 9, 9)), affine), SPHERES, t_r=2.0)
    affine[:3, 3] = -50
    flat = nibabel.Nifti1Image(np.full((25, 25, 25, 5), 7.0), affine)
    with pytest.raises(ScanError, match="2 constant"):
        read_scan(flat, SPHERES, t_r=2.0)
    with pytest.raises(ScanError, match="has 1 time point"):
        read_scan(flat.slicer[..., :1], SPHERES, t_r=2.0)
    affine[:3, 3] = 500
    with pytest.raises(ScanError, match=r"do not overlap"):
        read_scan(nibabel.Nifti1Image(rng.normal(size=(9, 9, 9, 5)), affine), SPHERES, t_r=2.0)
    image = nibabel.Nifti1Image(rng.normal(size=(9, 9, 9, 5)), affine)
    with pytest.raises(ScanError, match=r"needs an atlas"):
        read_scan(image, t_r=2.0)
    with pytest.raises(ScanError, match=r"neither coordinates nor labels"):
        read_scan(image, ATLAS, t_r=2.0)


@pytest.mark.parametrize("name", ["cut.nii.gz", "cut.nii", "text.nii.gz", "text.nii", "head.nii.gz"])
def test_unreadable_images_end_in_one_sentence(tmp_path, rng, name):
    path = tmp_path / name
    if name.startswith("text"):
        path.write_text("this is no image")
    else:
        whole = write_nifti(
            rng.normal(size=(20, 2)), SPHERES, tmp_path / f"whole{name[name.index('.') :]}", 2.0, 8
        )
        content = whole.read_bytes()
        path.write_bytes(content[: 200 if name.startswith("head") else len(content) // 2])
    with pytest.raises(ScanError, match=f"^{name} is not a readable image: it may be truncated") as caught:
        read_scan(path, SPHERES)
    assert caught.value.__cause__ is not None


def test_unreadable_tables(tmp_path, bold):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "full.npz", bold=bold)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "full.npz").read_bytes()[:100])
    for name in ("cut.npy", "pickle.npy", "cut.npz"):
        with pytest.raises(ScanError, match=f"^{name} is not a readable array file") as caught:
            read_scan(tmp_path / name, ATLAS, t_r=2.0)
        assert caught.value.__cause__ is not None
    np.savez(tmp_path / "two.npz", x=bold, y=bold)
    with pytest.raises(ScanError, match=r"holds \['x', 'y'\]: expected the key `bold`"):
        read_scan(tmp_path / "two.npz", ATLAS, t_r=2.0)
    for text, message in {
        "": "is empty",
        "1\t2\t3\t4\n1\t2\n": "2 columns in data row 2, expected 4",
        "1\t2\t3\t4\n1\t2\t3\tfour\n": "holds text where numbers are expected",
    }.items():
        (tmp_path / "bad.tsv").write_text(text)
        with pytest.raises(ScanError, match=message):
            read_scan(tmp_path / "bad.tsv", ATLAS, t_r=2.0)


def test_missing_values_of_text_tables(tmp_path):
    (tmp_path / "scan.tsv").write_text(
        "a\tb\tc\td\n" + "".join(f"{i}\tn/a\t{i * i}\t{-i}\n" for i in range(9))
    )
    assert read_scan(tmp_path / "scan.tsv", ATLAS, t_r=2.0).roi_mask.tolist() == [True, False, True, True]


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(ScanError, match=r"gone.nii.gz does not exist"):
        read_scan(tmp_path / "gone.nii.gz", SPHERES)
    (tmp_path / "scan.xyz").write_bytes(gzip.compress(b""))
    with pytest.raises(ScanError, match=r"scan.xyz is of an unknown kind: expected .nii"):
        read_scan(tmp_path / "scan.xyz", SPHERES)
    with pytest.raises(ScanError, match=r"is a folder"):
        read_scan(tmp_path, SPHERES)
    with pytest.raises(ScanError, match=r"row without `bold`: found \['x'\]"):
        read_scan({"x": 1}, ATLAS)
    with pytest.raises(ScanError, match=r"no table of numbers"):
        read_scan([["a", "b"]], ATLAS, t_r=2.0)
