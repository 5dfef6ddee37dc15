"""`fmri-lm atlas`: an atlas file from a label image and its table, and what shows that they do not fit."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from surfaces import write_labels, write_series

from fmri_lm_hf.cli import main
from fmri_lm_hf.models.atlas import Atlas

TABLE = "index\tname\tnetwork\n7\tVis_L\tVisual\n3\tVis_R\tVisual\n5\tMotor L\tMotor\n9\tMotor R\tMotor\n"


def label_image(path, flip=1, far=0):
    values = np.zeros((20, 20, 20), dtype=np.int16)
    values[3:6, 4:8, 5:9], values[14:17, 4:8, 5:9] = 7, 3  # left and right of x = 0
    values[3:6, 12:16, 5:9], values[14:17, 12:16, 5:9] = 5, 9
    affine = np.diag([5.0 * flip, 5, 5, 1])
    affine[:3, 3] = (-50 * flip + far, -50, -50)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def test_an_atlas_is_written_and_reads_scans(tmp_path, capsys, rng):
    image = label_image(tmp_path / "mine.nii.gz")
    (tmp_path / "mine.tsv").write_text(TABLE)
    out = tmp_path / "made" / "mine.json"
    assert main(["atlas", str(image), "--table", str(tmp_path / "mine.tsv"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mine: 4 ROIs of 2 networks (Visual, Motor), 48 to 48 voxels each." in printed
    atlas = Atlas.from_json(out, image)
    assert atlas.roi_names == ("Vis_L", "Vis_R", "Motor L", "Motor R")
    bold = rng.normal(size=(20, 20, 20, 40))
    signals = atlas.extract(nibabel.Nifti1Image(bold, nibabel.load(image).affine))
    np.testing.assert_allclose(signals[:, 0], bold[3:6, 4:8, 5:9].mean(axis=(0, 1, 2)), rtol=1e-5)


def test_an_atlas_of_two_hemispheres_reads_surfaces(tmp_path, capsys, rng):
    scans = tmp_path / "scans"
    scans.mkdir()
    for side in "lr":
        names = {1: f"7Networks_{side.upper()}H_Vis_1", 2: f"7Networks_{side.upper()}H_Default_1"}
        write_labels(tmp_path / f"{side}h.Schaefer.label.gii", np.repeat([0, 1, 2], [3, 6, 5]), names)
        write_series(scans / f"{side}h.s1.func.gii", rng.normal(size=(40, 14)), {"TimeStep": "2000"})
    labels, out = str(tmp_path / "rh.Schaefer.label.gii"), tmp_path / "mine.json"
    assert main(["atlas", labels, "--out", str(out)]) == 0
    assert "Schaefer: 4 ROIs of 2 networks (Vis, Default), 5 to 6 voxels each." in capsys.readouterr().out
    for number, atlas in enumerate((["--atlas", str(out), "--labels-img", labels], ["--atlas", labels])):
        dataset = tmp_path / f"out-{number}"
        assert main(["scans", "files", str(scans), *atlas, "--out", str(dataset)]) == 0
        assert "1 scans read" in capsys.readouterr().out
        made = Atlas.from_json(dataset / "atlas.json")
        assert made.roi_names == Atlas.from_json(out).roi_names


@pytest.mark.parametrize(
    "image, table, message",
    [
        ({"flip": -1}, TABLE, "4 of 4 ROIs lie on the other side than their names indicate: the image is flipped"),
        (
            {},
            TABLE.replace("Vis_L", "Vis_R").replace("3\tVis_R", "3\tVis2_R"),
            "1 of 4 ROIs lie on the other side",
        ),
        ({"far": 300}, TABLE, "4 ROIs lie outside MNI space"),
        ({}, TABLE + "11\tlost\tVisual\n", "1 of 5 ROIs have no voxel in the label image: lost"),
        ({}, TABLE.replace("Motor\n", "unassigned\n"), "2 of 4 ROIs belong to no network"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, capsys, image, table, message):
    path = label_image(tmp_path / "mine.nii.gz", **image)
    (tmp_path / "mine.tsv").write_text(table)
    assert main(["atlas", str(path), "--table", str(tmp_path / "mine.tsv")]) == 1
    assert message in capsys.readouterr().out


def test_an_atlas_file_has_its_ending(tmp_path, capsys):
    assert main(["atlas", str(label_image(tmp_path / "a.nii")), "--out", str(tmp_path / "a.txt")]) == 2
    assert "expected a name that ends in .json" in capsys.readouterr().err
