"""`fmri-lm scans` as a user calls it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fmri_lm_hf.cli import main
from fmri_lm_hf.commands.scans import SOURCE_NAMES, STRATEGY_NAMES
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.scans import SOURCES, load_scan_dataset, write_nifti
from fmri_lm_hf.scans.denoising import STRATEGIES


@pytest.fixture
def tables(tmp_path, rng):
    folder = tmp_path / "tables"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"sub-{i}_bold.npy", rng.normal(size=(50, 4)))
    np.save(folder / "sub-9_bold.npy", np.zeros((50, 4)))
    (folder / "participants.tsv").write_text(
        "participant_id\tsite\tsex\nsub-0\teast\tmale\nsub-1\twest\tfemale\n"
    )
    return folder


def test_tables_become_a_dataset_with_a_summary(tables, tmp_path, capsys):
    command = ["scans", "files", str(tables), "--t-r", "2.0", "west=0.8", "--min-minutes", "0.5"]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "failed: sub-9_bold: sub-9_bold.npy has no usable signal" in printed
    assert "note: Not in the participants table, so without phenotypes: sub-2, sub-9." in printed
    assert "3 scans read in" in printed
    assert "0 were there before, 1 failed; 1 shards." in printed
    dataset, _ = load_scan_dataset(tmp_path / "out")
    assert [(row["site"], row["t_r"], row["sex"]) for row in dataset] == [
        ("east", 2.0, "male"),
        ("west", 0.8, "female"),
        ("unknown", 2.0, None),
    ]
    assert main(command) == 0
    assert "0 scans read in" in capsys.readouterr().out
    assert main([*command, "--max-masked", "0.1"]) == 2
    assert "max_masked was 0.5, now 0.1" in capsys.readouterr().err


def test_images_with_an_atlas_file(tmp_path, rng):
    atlas = Atlas("two", ("a", "b"), ("x", "y"), coordinates=((-30, 0, 0), (30, 0, 0)), radius_mm=8)
    atlas.to_json(tmp_path / "atlas.json")
    (tmp_path / "images").mkdir()
    write_nifti(rng.normal(size=(40, 2)), atlas, tmp_path / "images" / "sub-1_bold.nii.gz", 1.1, 8)
    command = ["scans", "files", str(tmp_path / "images"), "--atlas", str(tmp_path / "atlas.json")]
    command += ["--min-minutes", "0.5"]
    assert main([*command, "--site", "north", "--out", str(tmp_path / "out")]) == 0
    dataset, loaded = load_scan_dataset(tmp_path / "out")
    assert loaded == atlas
    assert (dataset[0]["site"], dataset[0]["t_r"]) == ("north", 1.1)
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        (["--t-r", "fast"], "--t-r fast: expected seconds or SITE=SECONDS"),
        (["--space", "MNI"], "source files has no option --space"),
        (["--labels-img", "x.nii.gz"], "--labels-img belongs to an atlas JSON file"),
        (["--atlas", "aal"], "Unknown atlas 'aal'"),
        (["--atlas", "none.json"], "atlas file none.json does not exist"),
        (["--participants", "none.tsv"], "participants file none.tsv cannot be read"),
    ],
)
def test_wrong_options_end_in_one_sentence(tables, tmp_path, capsys, options, message):
    assert main(["scans", "files", str(tables), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_no_usable_scan_is_a_failure(tmp_path, capsys):
    (tmp_path / "tables").mkdir()
    np.save(tmp_path / "tables" / "sub-0.npy", np.zeros((50, 4)))
    assert (
        main(["scans", "files", str(tmp_path / "tables"), "--t-r", "2", "--out", str(tmp_path / "out")]) == 1
    )
    assert "0 scans read" in capsys.readouterr().out


def test_the_command_offers_what_the_library_has():
    assert set(SOURCE_NAMES) == set(SOURCES)
    assert set(STRATEGY_NAMES) == set(STRATEGIES)
