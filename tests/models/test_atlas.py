"""Atlases: making, saving, matching by name, and extracting signals from images."""

from __future__ import annotations

import json
import time
import tracemalloc

import nibabel
import numpy as np
import pytest

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_images import extract, sphere_voxels
from fmri_lm_hf.simulation import write_nifti

AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def label_image(values) -> nibabel.Nifti1Image:
    """A row of 2-voxel-wide blocks, one for each value."""
    data = np.repeat(np.asarray(values, dtype=np.int16), 2)[:, None, None] * np.ones((1, 3, 3), dtype=np.int16)
    return nibabel.Nifti1Image(data, AFFINE)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("index\tname\tnetwork\n1\tleft\tVisual\n2\tright\tVisual\n7\thippocampus\tSubcortex\n")
    return path


@pytest.mark.parametrize("name, n_rois, n_networks", [("seitzman_2018", 300, 14), ("dosenbach_2010", 160, 6)])
def test_coordinate_atlases_come_without_a_network_connection(name, n_rois, n_networks):
    atlas = Atlas.load(name)
    assert atlas.n_rois == n_rois == len(set(atlas.roi_names))
    assert len(atlas.network_names) == n_networks
    assert np.shape(atlas.coordinates) == (n_rois, 3)


def test_json_round_trip(tmp_path):
    atlas = Atlas.load("seitzman_2018")  # has two radii
    atlas.to_json(tmp_path / "atlas.json")
    assert Atlas.from_json(tmp_path / "atlas.json") == atlas
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.json"]


def test_json_with_only_the_documented_keys(tmp_path):
    path = tmp_path / "atlas.json"
    record = {
        "name": "mine",
        "roi_names": ["a", "b"],
        "networks": ["x", "x"],
        "coordinates": [[0, 0, 0], [20, 0, 0]],
    }
    path.write_text(json.dumps(record))
    atlas = Atlas.from_json(path)
    assert atlas.network_names == ("x",)
    assert atlas.coordinates == ((0.0, 0.0, 0.0), (20.0, 0.0, 0.0))
    path.write_text(json.dumps({"name": "mine", "roi_names": ["a"]}))
    with pytest.raises(ScanError, match=r"networks not found"):
        Atlas.from_json(path)
    path.write_text("{")
    with pytest.raises(ScanError, match=r"not readable JSON") as caught:
        Atlas.from_json(path)
    assert caught.value.__cause__ is not None
    with pytest.raises(ScanError, match=r"does not exist"):
        Atlas.from_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"roi_names": ("a", "a")}, "repeats 1 of its roi_names \\(a\\)"),
        ({"networks": ("x",)}, "2 ROI names but 1 networks"),
        ({"coordinates": ((0, 0, 0),)}, "2 ROI names but 1 coordinates"),
        ({"coordinates": ((0, 0), (1, 1))}, "not \\(x, y, z\\)"),
        ({"roi_names": (), "networks": ()}, "has no ROIs"),
    ],
)
def test_inconsistent_atlases_are_refused(fields, message):
    with pytest.raises(ScanError, match=message):
        Atlas(**{"name": "bad", "roi_names": ("a", "b"), "networks": ("x", "x")} | fields)


def test_unknown_name_and_missing_network_connection(monkeypatch):
    with pytest.raises(ScanError, match=r"Unknown atlas 'aal'.*dosenbach_2010"):
        Atlas.load("aal")

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("nilearn.datasets.fetch_atlas_schaefer_2018", offline)
    with pytest.raises(ScanError, match=r"could not be downloaded.*Atlas.from_labels_img") as caught:
        Atlas.load("schaefer_400_17networks")
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_schaefer_as_nilearn_gives_it(monkeypatch):
    names = ["Background", "7Networks_LH_Vis_1", "7Networks_RH_Default_PFC_1"]
    monkeypatch.setattr(
        "nilearn.datasets.fetch_atlas_schaefer_2018",
        lambda n_rois, yeo_networks, **_: {"labels": names, "maps": label_image([1, 2])},
    )
    atlas = Atlas.load("schaefer_100_7networks")
    assert atlas.roi_names == tuple(names[1:])
    assert atlas.networks == ("Vis", "Default")
    assert atlas.labels == (1, 2)


def test_seven_and_seventeen_networks_are_told_apart_by_name():
    seven = ("7Networks_LH_Vis_1", "7Networks_LH_Cont_1")
    seventeen = ("17Networks_LH_VisCent_1", "17Networks_LH_ContA_1")
    atlas = Atlas("schaefer_2_7networks", seven, ("Vis", "Cont"))
    with pytest.raises(ScanError, match=r"uses 17-network names, the atlas 7-network names"):
        atlas.roi_slots(seventeen)
    with pytest.raises(ScanError, match=r"the atlas name .* belongs to the 7-network"):
        Atlas("schaefer_2_7networks", seventeen, ("VisCent", "ContA"))
    with pytest.raises(ScanError, match=r"network ContA, VisCent belongs to the 17-network"):
        Atlas("mine", seven, ("VisCent", "ContA"))
    with pytest.raises(ScanError, match=r"mixes"):
        Atlas("mine", (seven[0], seventeen[1]), ("Vis", "ContA"))


def test_slots_bring_columns_into_order():
    atlas = Atlas("abc", ("a", "b", "c"), ("x",) * 3)
    assert np.array(["c", "a", "b"])[atlas.roi_slots(["c", "a", "b"])].tolist() == ["a", "b", "c"]
    with pytest.raises(ScanError, match=r"1 not in the atlas \(d\); 1 missing from the scan \(c\)"):
        atlas.roi_slots(["a", "b", "d"])
    with pytest.raises(ScanError, match=r"1 repeated"):
        atlas.roi_slots(["a", "b", "c", "c"])


def test_label_image_extraction_keeps_every_column_in_its_place(table, rng):
    atlas = Atlas.from_labels_img(label_image([2, 1, 7]), table, name="mine")
    assert atlas.networks == ("Visual", "Visual", "Subcortex")
    signals = rng.normal(size=(20, 3))
    data = np.repeat(signals.T[[1, 0, 2]], 2, axis=0)[:, None, None, :] * np.ones((1, 3, 3, 1))
    whole = nibabel.Nifti1Image(data, AFFINE)
    np.testing.assert_allclose(atlas.extract(whole), signals, atol=1e-6)

    cropped = nibabel.Nifti1Image(
        data[2:], AFFINE @ np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    extracted = atlas.extract(cropped)  # the block of the second ROI is not in this image
    assert np.isnan(extracted[:, 1]).all()
    np.testing.assert_allclose(extracted[:, [0, 2]], signals[:, [0, 2]], atol=1e-6)

    mask = nibabel.Nifti1Image(np.repeat([1, 1, 0], 2)[:, None, None] * np.ones((1, 3, 3)), AFFINE)
    assert np.isnan(atlas.extract(whole, mask)).all(axis=0).tolist() == [False, False, True]

    far = nibabel.Nifti1Image(data, AFFINE + np.array([[0, 0, 0, 900]] + [[0] * 4] * 3))
    with pytest.raises(ScanError, match=r"do not overlap"):
        atlas.extract(far)


def test_label_atlas_from_json_asks_for_its_image_and_verifies_it(table, tmp_path):
    image = label_image([1, 2, 7])
    nibabel.save(image, tmp_path / "labels.nii.gz")
    atlas = Atlas.from_labels_img(tmp_path / "labels.nii.gz", table)
    atlas.to_json(tmp_path / "atlas.json")
    assert str(tmp_path) not in (tmp_path / "atlas.json").read_text()
    bare = Atlas.from_json(tmp_path / "atlas.json")
    series = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(6, 3, 3, 10)), AFFINE)
    with pytest.raises(ScanError, match=r"labels_img="):
        bare.extract(series)
    again = Atlas.from_json(tmp_path / "atlas.json", labels_img=tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(again.extract(series), atlas.extract(series))
    for other in (label_image([1, 7, 2]), nibabel.Nifti1Image(image.get_fdata(), -AFFINE)):
        with pytest.raises(ScanError, match=r"not the one that atlas 'labels' was made with"):
            bare.with_labels_img(other)
    with pytest.raises(ScanError, match=r"takes no label image"):
        Atlas.numbered(3).with_labels_img(image)


@pytest.mark.parametrize(
    "suffix, text",
    [
        (".csv", "index,name,network\n1,a,X\n2,HIP-head-lh,Y\n"),
        (".txt", "0 Unknown 0 0 0 0\n1 a 1 2 3 0\n2 HIP-head-lh 4 5 6 0\n"),
        (".txt", "a\n1 10 20 30 255\nHIP-head-lh\n2 10 20 30 255\n"),
    ],
)
def test_label_tables(tmp_path, suffix, text):
    path = tmp_path / f"table{suffix}"
    path.write_text(text)
    atlas = Atlas.from_labels_img(label_image([1, 2]), path)
    assert atlas.roi_names == ("a", "HIP-head-lh")
    assert atlas.networks == (("X", "Y") if suffix == ".csv" else ("unassigned", "Subcortex"))


def test_damage_of_compressed_label_and_mask_images_does_not_pass_for_values(tmp_path, table, rng):
    """What reads the values alone stops before the checksum."""
    values = rng.choice(np.int16([0, 1, 2, 7]), size=(40, 40, 40))  # longer than what is read ahead
    path = tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    atlas = Atlas.from_labels_img(path, table)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"labels.nii.gz is not a readable image: it may be truncated, damaged"):
        Atlas.from_labels_img(path, table)
    series = nibabel.Nifti1Image(rng.normal(size=(40, 40, 40, 3)), AFFINE)
    with pytest.raises(ScanError, match=r"labels.nii.gz is not a readable image"):
        atlas.extract(series, mask_img=path)


def test_label_tables_that_do_not_fit(tmp_path, table):
    with pytest.raises(ScanError, match=r"found 40, 41 in the image and 1, 2, 7 in the table"):
        Atlas.from_labels_img(label_image([40, 41]), table)
    with pytest.raises(ScanError, match=r"needs `table="):
        Atlas.from_labels_img(label_image([1, 2]))
    with pytest.raises(ScanError, match=r"has shape \(3, 3, 3, 2\): expected one 3D volume"):
        Atlas.from_labels_img(nibabel.Nifti1Image(np.ones((3, 3, 3, 2)), AFFINE), table)
    bad = tmp_path / "bad.csv"
    bad.write_text("foo,bar\n1,2\n")
    with pytest.raises(ScanError, match=r"bad.csv is not understood"):
        Atlas.from_labels_img(label_image([1, 2]), bad)


def test_repeated_names_are_numbered(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("index,name\n1,area\n2,other\n3,area\n")
    assert Atlas.from_labels_img(label_image([1, 2, 3]), path).roi_names == ("area 1", "other", "area 2")


def test_spheres_painted_into_mni_space_are_read_back(tmp_path, rng):
    atlas = Atlas.load("dosenbach_2010")
    bold = rng.normal(size=(40, atlas.n_rois)).astype(np.float32)
    path = write_nifti(bold, atlas, tmp_path / "scan.nii.gz", t_r=2.0, voxel_size=4)
    found = atlas.extract(path)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, bold.T, strict=True)]
    assert min(correlation) > 0.95  # neighbouring spheres share a few voxels
    assert np.median(correlation) > 0.999


def test_sphere_outside_the_image_is_a_column_of_nan(rng):
    atlas = Atlas("two", ("in", "out"), ("x", "x"), coordinates=((10, 10, 10), (500, 0, 0)))
    image = nibabel.Nifti1Image(rng.normal(size=(5, 5, 5, 12)), AFFINE)
    assert np.isnan(atlas.extract(image)).all(axis=0).tolist() == [False, True]


def test_sphere_voxels_agree_with_distances_of_all_voxels():
    affine = np.array([[-3.0, 0.2, 0, 40], [0.1, 2.5, 0, -30], [0, 0, 4.0, -20], [0, 0, 0, 1]])
    shape = (30, 25, 14)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(grid @ affine[:3, :3].T + affine[:3, 3] - [2.0, 1.0, 3.0], axis=1)
    voxels, distances = sphere_voxels([2.0, 1.0, 3.0], 9.0, affine, shape)
    assert {tuple(v) for v in voxels} == {tuple(v) for v in grid[distance <= 9.0]}
    assert distances.max() <= 9.0


def test_dense_cifti_needs_and_uses_a_cifti_label_atlas(tmp_path, rng):
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis, SeriesAxis

    cortex = BrainModelAxis.from_mask(np.ones(12, bool), name="cortex_left")
    # the scan lacks the last vertices (a medial wall) and has a volume that the labels do not
    medial = np.arange(12) < 9
    volume = BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4))
    dense = BrainModelAxis.from_mask(medial, name="cortex_left") + volume
    keys = np.repeat([1, 2, 3, 0], [4, 5, 2, 1])
    names = {
        0: ("???", (0, 0, 0, 0)),
        1: ("one", (1, 0, 0, 1)),
        2: ("two", (0, 1, 0, 1)),
        3: ("three", (0, 0, 1, 1)),
    }
    labels = Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["parcels"], [names]), cortex))
    labels.to_filename(tmp_path / "atlas.dlabel.nii")
    data = rng.normal(size=(15, 17)).astype(np.float32)
    series = Cifti2Image(data, (SeriesAxis(0, 0.8, 15), dense))
    atlas = Atlas.from_labels_img(tmp_path / "atlas.dlabel.nii", name="cifti")
    assert atlas.roi_names == ("one", "two", "three")
    found = atlas.extract(series)
    np.testing.assert_allclose(found[:, 0], data[:, :4].mean(1), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], data[:, 4:9].mean(1), rtol=1e-5)
    assert np.isnan(found[:, 2]).all()  # all its vertices are in the medial wall
    cut = Cifti2Image(data[:, 2:], (SeriesAxis(0, 0.8, 15), dense[2:]))
    assert extract(atlas, cut).coverage.tolist() == [0.5, 1, 0]
    with pytest.raises(ScanError, match=r"needs a CIFTI or GIFTI label atlas"):
        Atlas.load("dosenbach_2010").extract(series)
    with pytest.raises(ScanError, match=r"the scan is a NIfTI volume"):
        atlas.extract(nibabel.Nifti1Image(np.ones((3, 3, 3, 4)), AFFINE))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_means_are_those_of_nilearn_to_a_hundred_thousandth(tmp_path, rng, shift):
    """Also with label images on a grid half a voxel away, and with a large mean beside a small signal."""
    from nilearn.image import resample_to_img
    from nilearn.maskers import NiftiLabelsMasker, NiftiSpheresMasker

    affine = np.diag([2.0, 2, 2, 1])
    fine = nibabel.Nifti1Image(rng.integers(0, 9, size=(12, 12, 12)).astype(np.int16), affine)
    moved = affine.copy()
    moved[:3, 3] = shift
    data = 15000 + 30 * rng.standard_normal((12, 12, 12, 40))
    image = nibabel.Nifti1Image(data, moved)
    (tmp_path / "table.tsv").write_text("index\tname\n" + "".join(f"{i}\tr{i}\n" for i in range(1, 9)))
    found = extract(Atlas.from_labels_img(fine, tmp_path / "table.tsv"), image).signals
    on_grid = resample_to_img(fine, image, interpolation="nearest", force_resample=True, copy_header=True)
    expected = NiftiLabelsMasker(on_grid, standardize=None, resampling_target=None).fit_transform(image)
    assert np.abs(found - expected).max() < 1e-5 * expected.std(axis=0).min()
    centres = [(8, 8, 8), (15, 9, 12), (9, 9, 9)]
    spheres = Atlas("three", ("a", "b", "c"), ("x",) * 3, coordinates=centres, radius_mm=4)
    found = extract(spheres, image).signals
    masker = NiftiSpheresMasker(centres, radius=4, allow_overlap=True, standardize=None)
    expected = masker.fit_transform(image)
    assert np.abs(found - expected).max() < 1e-5 * expected.std(axis=0).min()


SLOPE, INTER = 0.25, 3.0


def held_in_every_way(stored, affine, folder):
    """The same image as arrays in either order, and in files that hold numbers with a scale factor."""
    for order in "CF":
        yield nibabel.Nifti1Image(np.array(stored * SLOPE + INTER, dtype=np.float32, order=order), affine)
    for name in ("scan.nii", "scan.nii.gz"):
        image = nibabel.Nifti1Image(stored, affine)
        image.header.set_slope_inter(SLOPE, INTER)
        image.to_filename(folder / name)
        yield folder / name


def test_an_image_has_the_same_signals_however_it_is_held(tmp_path, rng):
    """The mean over each label and each sphere, computed plainly."""
    labels = rng.integers(0, 4, size=(6, 7, 5)).astype(np.int16)
    stored = rng.integers(100, 900, size=(6, 7, 5, 37)).astype(np.int16)  # more than two blocks of time points
    data = stored * SLOPE + INTER
    (tmp_path / "table.tsv").write_text("index\tname\n3\tc\n1\ta\n2\tb\n")
    by_label = Atlas.from_labels_img(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "table.tsv")
    plain = np.stack([data[labels == value].mean(axis=0) for value in (3, 1, 2)], axis=1)
    spheres = Atlas("two", ("a", "b"), ("x",) * 2, coordinates=((10, 10, 10), (15, 10, 10)), radius_mm=6)
    places = np.argwhere(np.ones(labels.shape, bool)) * 5
    within = [np.linalg.norm(places - centre, axis=1) <= 6 for centre in spheres.coordinates]
    round_points = np.stack([data.reshape(-1, 37)[inside].mean(axis=0) for inside in within], axis=1)
    for image in held_in_every_way(stored, AFFINE, tmp_path):
        np.testing.assert_allclose(extract(by_label, image).signals, plain, rtol=0, atol=1e-9)
        np.testing.assert_allclose(extract(spheres, image).signals, round_points, rtol=0, atol=1e-9)


def test_extraction_holds_a_few_volumes_at_a_time(tmp_path, rng):
    labels = nibabel.Nifti1Image(rng.integers(0, 4, size=(16, 16, 16)).astype(np.int16), AFFINE)
    (tmp_path / "table.tsv").write_text("index\tname\n1\ta\n2\tb\n3\tc\n")
    atlas = Atlas.from_labels_img(labels, tmp_path / "table.tsv")
    stored = rng.integers(100, 900, size=(16, 16, 16, 640)).astype(np.int16)
    extract(atlas, nibabel.Nifti1Image(stored[..., :3], AFFINE))  # what is imported on first use does not count
    for image in held_in_every_way(stored, AFFINE, tmp_path):
        tracemalloc.start()
        extract(atlas, image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < stored.nbytes / 3


def test_columns_are_found_by_name_in_linear_time():
    atlas = Atlas.numbered(5_000)
    start = time.process_time()
    slots = atlas.roi_slots(atlas.roi_names[::-1])
    assert time.process_time() - start < 1  # a set of all names for each name takes ten times that
    np.testing.assert_array_equal(slots, np.arange(5_000)[::-1])


def test_coverage_counts_what_the_edge_of_the_image_cuts_off(tmp_path):
    """Also where the label image is finer than the scan and reaches as far."""
    table = tmp_path / "table.tsv"
    table.write_text("index\tname\n1\ta\n2\tb\n")
    labels = np.repeat(np.int16([1, 2]), 6)[:, None, None] * np.ones((1, 6, 6), dtype=np.int16)
    atlas = Atlas.from_labels_img(nibabel.Nifti1Image(labels, AFFINE), table)
    coarse = np.diag([10.0, 10, 10, 1])
    coarse[:3, 3] = 2.5
    data = np.random.default_rng(0).normal(size=(6, 3, 3, 8))
    assert extract(atlas, nibabel.Nifti1Image(data, coarse)).coverage.tolist() == [1, 1]
    cut = extract(atlas, nibabel.Nifti1Image(data[:4], coarse)).coverage
    assert cut[0] == 1
    assert cut[1] == pytest.approx(1 / 3)
