"""Reading scans: every form gives the same table, and every bad one a sentence that helps."""

from __future__ import annotations

import gzip
import json

import nibabel
import numpy as np
import pandas
import pytest
import torch

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import read_scan, table_names
from fmri_lm_hf.models.scan_images import sphere_voxels
from fmri_lm_hf.simulation import write_nifti

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


@pytest.mark.filterwarnings("ignore:Dataobj shape")
def test_cifti_headers_that_claim_impossible_sizes(tmp_path, rng):
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis, SeriesAxis

    cortex = BrainModelAxis.from_mask(np.ones(12, bool), name="cortex_left")
    names = {i: (name, (1, 1, 1, 1)) for i, name in enumerate(["???", "a", "b"])}
    keys = np.repeat([1.0, 2.0], 6)[None].astype(np.float32)
    atlas = Atlas.from_labels_img(Cifti2Image(keys, (LabelAxis(["map"], [names]), cortex)), name="dense")
    path = tmp_path / "scan.dtseries.nii"
    data = rng.normal(size=(20, 12)).astype(np.float32)
    Cifti2Image(data, (SeriesAxis(0, 0.8, 20), cortex)).to_filename(path)
    assert read_scan(path, atlas).bold.shape == (20, 2)
    content = bytearray(path.read_bytes())
    for size in (-20, 0, 10, 2**38):  # of time, in the NIfTI-2 header: dim[5]
        content[56:64] = size.to_bytes(8, "little", signed=True)
        path.write_bytes(content)
        with pytest.raises(ScanError, match=r"is not a readable image|header describes"):
            read_scan(path, atlas)


def test_cifti_that_is_no_series(tmp_path):
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis

    models = BrainModelAxis.from_mask(np.ones(5, bool), name="cortex_left")
    Cifti2Image(np.ones((1, 5), np.float32), (ScalarAxis(["map"]), models)).to_filename(tmp_path / "x.dscalar.nii")
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
    assert "header states TR 2 s, its sidecar 1.5 s" in found.report[0]
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
    assert caplog.messages == ["The scan: 2 ROIs are NaN or constant and were masked (a, c)."] == list(scan.report)


def test_mostly_unusable_scans_are_refused(bold):
    torn = bold.copy()
    torn[range(3), range(3)] = np.nan
    with pytest.raises(ScanError, match=r"3 of 4 ROIs \(3 with NaN"):
        read_scan(torn, ATLAS, t_r=2.0)
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
        whole = write_nifti(rng.normal(size=(20, 2)), SPHERES, tmp_path / f"whole{name[name.index('.') :]}", 2.0, 8)
        content = whole.read_bytes()
        path.write_bytes(content[: 200 if name.startswith("head") else len(content) // 2])
    with pytest.raises(ScanError, match=f"^{name} is not a readable image: it may be truncated") as caught:
        read_scan(path, SPHERES)
    if name.startswith("text"):
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


def test_headers_of_numbers_and_index_columns_are_no_signal(bold, tmp_path):
    """What `DataFrame.to_csv` writes where nobody named the columns."""
    frame = pandas.DataFrame(bold)
    named = pandas.DataFrame(bold, columns=list(ATLAS.roi_names))
    labelled = pandas.DataFrame(bold, columns=[11, 2001, 7, 42])
    frame.to_csv(tmp_path / "plain.csv", index=False)
    frame.to_csv(tmp_path / "index.csv")
    frame.to_csv(tmp_path / "bare.csv", header=False)
    named.to_csv(tmp_path / "named.csv")
    named.to_csv(tmp_path / "time.tsv", index_label="time", sep="\t")
    frame.rename(columns=lambda i: i + 1).to_csv(tmp_path / "one.csv", index=False)
    frame.rename(columns=float).to_csv(tmp_path / "floats.csv", index=False)
    for path in sorted(tmp_path.iterdir()):
        scan = read_scan(path, ATLAS, t_r=2.0)
        np.testing.assert_allclose(scan.bold, bold, rtol=1e-6, err_msg=path.name)
        assert scan.report, path.name
        assert table_names(path)[0] == 4
    labelled.to_csv(tmp_path / "labels.csv", index=False)
    assert table_names(tmp_path / "labels.csv") == (4, ["11", "2001", "7", "42"])
    by_label = Atlas("by label", ATLAS.roi_names, ATLAS.networks, labels=(7, 11, 42, 2001))
    np.testing.assert_allclose(read_scan(tmp_path / "labels.csv", by_label, 2.0).bold, bold[:, [2, 0, 3, 1]])
    with pytest.raises(ScanError, match=r"4 not in the atlas \(11, 2001, 7, 42\)"):
        read_scan(tmp_path / "labels.csv", ATLAS, t_r=2.0)
    named.set_index(pandas.Index(list("zyxwvutsrqponmlkjihgfedcba0123"))).to_csv(tmp_path / "text.csv")
    with pytest.raises(ScanError, match="holds text where numbers are expected"):
        read_scan(tmp_path / "text.csv", ATLAS, t_r=2.0)
    named.set_index(pandas.Index(bold[:, 0])).to_csv(tmp_path / "odd.csv")
    with pytest.raises(ScanError, match="first column without a name that does not count time points"):
        read_scan(tmp_path / "odd.csv", ATLAS, t_r=2.0)


def test_whole_numbers_below_a_first_row_of_whole_numbers_are_signal(rng, tmp_path):
    raw = rng.integers(900, 1100, size=(30, 4))
    scan = read_scan(write_table(tmp_path / "raw.tsv", raw), ATLAS, t_r=2.0)
    np.testing.assert_array_equal(scan.bold, raw)


def test_data_frames_are_matched_by_their_columns(bold):
    frame = pandas.DataFrame(bold, columns=list(ATLAS.roi_names))
    for scan in (frame[["c", "a", "d", "b"]], frame.reset_index(), {"bold": frame[["c", "a", "d", "b"]]}):
        np.testing.assert_array_equal(read_scan(scan, ATLAS, t_r=2.0).bold, bold)
    np.testing.assert_array_equal(read_scan(pandas.DataFrame(bold), ATLAS, t_r=2.0).bold, bold)
    with pytest.raises(ScanError, match=r"1 not in the atlas \(z\)"):
        read_scan(frame.rename(columns={"b": "z"}), ATLAS, t_r=2.0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda bold: bold + 1j, "of complex numbers"),
        (lambda bold: (bold * 1e9).astype("datetime64[ns]"), "of dates"),
        (lambda bold: (bold * 1e9).astype("timedelta64[ns]"), "of durations"),
        (lambda bold: bold > 0, "of true or false"),
        (lambda bold: bold.astype(str), "of text"),
        (lambda bold: np.ma.masked_less(bold, 0), "masked array"),
        (lambda bold: [["1.0"] * 4] * 9, "of text"),
        (lambda bold: [[None, "x", 1.0, 2.0]] * 9, "a value of type str"),
        (lambda bold: torch.from_numpy(bold).to(torch.complex64), "of complex numbers"),
        (lambda bold: {"bold": bold, "roi_mask": ["False"] * 4}, "roi_mask that holds no flags"),
        (lambda bold: {"bold": bold, "sample_mask": [True]}, r"sample_mask of shape \(1,\)"),
        (lambda bold: {"bold": bold, "t_r": "fast"}, "TR that is no number"),
        (lambda bold: {"bold": bold, "t_r": [2.0, 3.0]}, "TR that is no number"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(bold, change, message):
    with pytest.raises(ScanError, match=message):
        read_scan(change(bold), ATLAS, t_r=2.0)


def test_a_t_r_in_an_array_of_one_is_a_t_r(bold, tmp_path):
    np.savez(tmp_path / "scan.npz", bold=bold, t_r=[1.5])
    assert read_scan(tmp_path / "scan.npz", ATLAS).t_r == 1.5


def test_time_points_without_signal_are_filled_in_and_marked(bold):
    torn = bold.copy()
    torn[[3, 10]] = np.nan
    torn[20] = 0
    scan = read_scan(torn, ATLAS, t_r=2.0)
    assert np.flatnonzero(~scan.sample_mask).tolist() == [3, 10, 20]
    np.testing.assert_allclose(scan.bold[20], (bold[19] + bold[21]) / 2, rtol=1e-6)
    assert "3 of 30 time points hold no signal" in scan.report[0]
    again = read_scan({"bold": scan.bold, "t_r": 2.0, "sample_mask": scan.sample_mask}, ATLAS)
    np.testing.assert_array_equal(again.sample_mask, scan.sample_mask)
    assert again.report == ()
    torn[2:] = np.nan
    torn[1] = 0
    with pytest.raises(ScanError, match="has 1 observed time points of 30"):
        read_scan(torn, ATLAS, t_r=2.0)


@pytest.mark.parametrize("blank", [np.nan, 0.0])
def test_volumes_of_an_image_without_signal_are_censored(tmp_path, rng, blank):
    path = write_nifti(rng.normal(size=(25, 2)), SPHERES, tmp_path / "scan.nii.gz", t_r=2.0, voxel_size=5)
    image = nibabel.load(path)
    data = image.get_fdata()
    whole = read_scan(nibabel.Nifti1Image(data, image.affine), SPHERES, t_r=2.0)
    torn = data.copy()
    torn[..., [0, 7]] = blank
    torn[:, :, 10:, 12] = np.nan  # most of a volume
    scan = read_scan(nibabel.Nifti1Image(torn, image.affine), SPHERES, t_r=2.0)
    assert np.flatnonzero(~scan.sample_mask).tolist() == [0, 7, 12]
    assert "3 of 25 time points hold no signal" in scan.report[0]
    np.testing.assert_allclose(scan.bold[scan.sample_mask], whole.bold[scan.sample_mask], rtol=1e-6)


def test_voxels_that_lack_numbers_are_left_out_of_the_mean_and_lower_the_coverage(rng):
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = -50
    data = rng.normal(size=(21, 21, 21, 30)) + 100
    where = tuple(sphere_voxels((-30, 0, 0), 8, affine, data.shape)[0].T)
    where = tuple(axis[:2] for axis in where)
    full = read_scan(nibabel.Nifti1Image(data, affine), SPHERES, t_r=2.0)
    np.testing.assert_array_equal(full.coverage, 1)
    n_voxels = len(sphere_voxels((-30, 0, 0), 8, affine, data.shape)[0])
    for times in (slice(None), slice(4, 5)):  # throughout, and in one volume alone
        torn = data.copy()
        torn[where[0], where[1], where[2], times] = np.nan
        scan = read_scan(nibabel.Nifti1Image(torn, affine), SPHERES, t_r=2.0)
        assert scan.sample_mask.all()
        np.testing.assert_allclose(scan.coverage, [1 - 2 / n_voxels, 1], rtol=1e-6)
        np.testing.assert_array_equal(scan.bold[:, 1], full.bold[:, 1])
        others = sphere_voxels((-30, 0, 0), 8, affine, data.shape)[0][2:]
        np.testing.assert_allclose(scan.bold[:, 0], data[tuple(others.T)].mean(axis=0), rtol=1e-6)


def test_an_roi_that_the_image_cuts_is_partly_covered(rng):
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = (-30, -50, -50)  # half of the left sphere lies outside
    scan = read_scan(nibabel.Nifti1Image(rng.normal(size=(20, 21, 21, 9)), affine), SPHERES, t_r=2.0)
    assert 0.4 < scan.coverage[0] < 0.8
    assert scan.coverage[1] == 1


def test_damaged_bytes_of_a_compressed_image_are_noticed(tmp_path, rng):
    path = write_nifti(rng.normal(size=(20, 2)), SPHERES, tmp_path / "scan.nii.gz", t_r=2.0, voxel_size=6)
    whole, content = read_scan(path, SPHERES).bold, path.read_bytes()
    n_noticed = 0
    for place in rng.integers(len(content) // 3, len(content), 30):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_scan(path, SPHERES).bold
        except ScanError as error:
            assert "is not a readable image" in str(error)  # noqa: PT017
            n_noticed += 1
        else:  # a few bits of a deflate stream mean nothing
            np.testing.assert_array_equal(found, whole)
    assert n_noticed > 10


def test_missing_values_of_text_tables(tmp_path):
    (tmp_path / "scan.tsv").write_text("a\tb\tc\td\n" + "".join(f"{i}\tn/a\t{i * i}\t{-i}\n" for i in range(9)))
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
