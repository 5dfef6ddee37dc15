"""GIFTI surfaces: both hemispheres as one scan or atlas, with files as nibabel writes them."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiImage
from surfaces import write_labels, write_series

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.image_files import both_hemispheres
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.models.scan_files import read_scan, stem

N_VERTICES, T = 20, 30
LEFT = np.repeat([1, 2, 0], [8, 9, 3])
RIGHT = np.repeat([0, 2, 1], [2, 6, 12])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def atlas(tmp_path):
    """As FreeSurfer numbers Schaefer's ROIs: from one in each hemisphere."""
    names = ("7Networks_LH_Vis_1", "7Networks_LH_Default_PFC_1")
    write_labels(tmp_path / "lh.Schaefer.label.gii", LEFT, dict(enumerate(names, 1)))
    names = [name.replace("LH", "RH") for name in names]
    write_labels(tmp_path / "rh.Schaefer.label.gii", RIGHT, dict(enumerate(names, 1)))
    return Atlas.from_labels_img(tmp_path / "rh.Schaefer.label.gii", name="schaefer")


def means(left, right):
    columns = [left[:, key == LEFT] for key in (1, 2)] + [right[:, key == RIGHT] for key in (1, 2)]
    return np.stack([column.mean(axis=1) for column in columns], axis=1)


def test_atlas_of_two_hemispheres(atlas, tmp_path):
    sides = [f"7Networks_{side}_{area}" for side in ("LH", "RH") for area in ("Vis_1", "Default_PFC_1")]
    assert atlas.roi_names == tuple(sides)
    assert atlas.networks == ("Vis", "Default", "Vis", "Default")
    assert atlas.labels == (1, 2, 3, 4)
    atlas.to_json(tmp_path / "atlas.json")
    assert Atlas.from_json(tmp_path / "atlas.json", tmp_path / "lh.Schaefer.label.gii") == atlas


@pytest.mark.parametrize("shared", [True, False])
def test_names_of_the_hemispheres_are_told_apart(tmp_path, shared):
    """One table of both, as Workbench writes it, keeps its numbers; the same names twice get their side."""
    left, right = ({1: "L_a", 2: "L_b", 3: "R_a"},) * 2 if shared else ({1: "a", 2: "b"}, {1: "a", 2: "c"})
    write_labels(tmp_path / "areas.L.32k.label.gii", LEFT, left)
    write_labels(tmp_path / "areas.R.32k.label.gii", np.where(RIGHT > 0, 3, 0) if shared else RIGHT, right)
    found = Atlas.from_labels_img(tmp_path / "areas.L.32k.label.gii")
    expected = {1: "L_a", 2: "L_b", 3: "R_a"} if shared else {1: "LH_a", 2: "b", 3: "RH_a", 4: "c"}
    assert dict(zip(found.labels, found.roi_names, strict=True)) == expected


@pytest.mark.parametrize("side", "LR")
@pytest.mark.parametrize("as_table", [True, False])
@pytest.mark.parametrize("step, t_r", [("800", 0.8), ("0.8", 0.8), (None, None)])
def test_series_of_two_hemispheres(atlas, tmp_path, rng, side, as_table, step, t_r):
    left, right = 100 + rng.normal(size=(2, T, N_VERTICES)).astype(np.float32)
    left[:, LEFT == 0] = np.nan  # fMRIPrep's medial wall
    meta = {} if step is None else {"TimeStep": step}
    for name, values, structure in (("L", left, "CortexLeft"), ("R", right, "CortexRight")):
        path = tmp_path / f"sub-1_task-rest_hemi-{name}_space-fsaverage5_bold.func.gii"
        write_series(path, values, meta | {"AnatomicalStructurePrimary": structure}, as_table=as_table)
    path = tmp_path / f"sub-1_task-rest_hemi-{side}_space-fsaverage5_bold.func.gii"
    if t_r is None:
        with pytest.raises(ScanError, match=r"does not say its TR"):
            read_scan(path, atlas)
        path.with_name(f"{stem(path)}.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    scan = read_scan(path, atlas)
    assert scan.t_r == 0.8
    np.testing.assert_allclose(scan.bold, means(left, right), rtol=1e-6)
    assert scan.coverage.tolist() == [1] * 4
    assert scan.report == ()


def test_a_series_and_an_atlas_of_other_kinds_fit_together(tmp_path, rng, atlas):
    """CIFTI and GIFTI are the same values on the same vertices."""
    from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

    left, right = rng.normal(size=(2, T, N_VERTICES)).astype(np.float32)
    cortex = BrainModelAxis.from_mask(LEFT > 0, name="cortex_left")
    cortex += BrainModelAxis.from_mask(np.ones(N_VERTICES, bool), name="cortex_right")
    dense = np.concatenate([left[:, LEFT > 0], right], axis=1)
    series = Cifti2Image(dense, (SeriesAxis(0, 0.8, T), cortex))
    np.testing.assert_allclose(atlas.extract(series), means(left, right), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, common",
    [
        ("sub-1_hemi-R_space-fsaverage5_bold.func.gii", "sub-1_space-fsaverage5_bold.func.gii"),
        ("sub-1_task-rest_hemi-R.func.gii", "sub-1_task-rest.func.gii"),
        ("rh.aparc.label.gii", "aparc.label.gii"),
        ("s1.rh.func.gii", "s1.func.gii"),
        ("rfMRI_REST1_LR.R.32k_fs_LR.func.gii", "rfMRI_REST1_LR.32k_fs_LR.func.gii"),
    ],
)
def test_names_of_hemispheres(name, common):
    found, left, right = both_hemispheres(name)
    assert (found, right.name) == (common, name)
    assert left.name != name
    assert both_hemispheres(left) == (common, left, right)


def test_files_that_are_no_pair_are_refused_in_a_sentence(atlas, tmp_path, rng):
    values = rng.normal(size=(T, N_VERTICES))
    left, right = (tmp_path / f"s.{side}.func.gii" for side in "LR")

    def refused(match, path=left):
        with pytest.raises(ScanError, match=match) as error:
            read_scan(path, atlas, 2.0)
        assert "\n" not in str(error.value)

    write_series(left, values)
    write_series(tmp_path / "bold.func.gii", values)
    refused(r"^bold.func.gii does not say in its name which hemisphere", tmp_path / "bold.func.gii")
    refused(r"^The hemisphere s.R.func.gii does not exist")
    write_series(right, values[1:])
    refused(r"s.L.func.gii has 30 time points, but s.R.func.gii has 29")
    write_series(right, values, {"AnatomicalStructurePrimary": "CortexLeft"})
    refused(r"header of s.R.func.gii states CortexLeft, expected CortexRight")
    write_series(right, values[:, 1:])
    refused(r"has 19 vertices in CIFTI_STRUCTURE_CORTEX_RIGHT, atlas 'schaefer' has 20")
    write_series(left, values, {"TimeStep": "800"})
    write_series(right, values, {"TimeStep": "2000"})
    refused(r"several TRs \(0.8, 2 s\)")
    write_series(right, values, {"TimeStep": "soon"})
    refused(r"s.R.func.gii has the TimeStep 'soon'")
    write_series(right, values[:, :3], intent="NIFTI_INTENT_POINTSET")
    refused(r"s.R.func.gii holds a mesh")
    right.write_bytes(left.read_bytes()[:3000])
    refused(r"s.R.func.gii is not a readable image")
    nibabel.save(GiftiImage(), right)
    refused(r"s.R.func.gii is not a readable image")
    write_series(right, values)
    for other in (Atlas.load("dosenbach_2010"), None):
        with pytest.raises(ScanError, match=r"CIFTI or GIFTI label atlas"):
            read_scan(left, other, 2.0)
    with pytest.raises(ScanError, match=r"'no labels' holds 30 rows of a SeriesAxis: expected one map of labels"):
        Atlas.from_labels_img(left, name="no labels")


def test_label_files_that_cannot_be_used(tmp_path):
    left, right = (tmp_path / f"{side}h.a.label.gii" for side in "lr")
    write_labels(right, RIGHT, {1: "a", 2: "b"}, n_maps=2)
    write_labels(left, LEFT, {1: "a", 2: "b"}, n_maps=2)
    with pytest.raises(ScanError, match=r"lh.a.label.gii holds 2 maps of labels: expected one"):
        Atlas.from_labels_img(left)
    for path in (left, right):
        write_labels(path, LEFT * (2**23), {2**23: "a", 2**24: "b"})
    with pytest.raises(ScanError, match=r"label keys up to \d+, expected at most 16777216"):
        Atlas.from_labels_img(left)
