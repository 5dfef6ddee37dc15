"""`fmri-lm scans` as a user calls it."""

from __future__ import annotations

import base64
import io
import json
import re

import datasets
import matplotlib.image
import numpy as np
import pandas
import pytest

from fmri_lm_hf.cli import main
from fmri_lm_hf.cli.scans import SOURCE_NAMES
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.scans import SOURCES, BuildSummary, load_scan_dataset
from fmri_lm_hf.simulation import write_nifti


@pytest.fixture
def tables(tmp_path, rng):
    folder = tmp_path / "tables"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"sub-{i}_bold.npy", rng.normal(size=(50, 4)))
    np.save(folder / "sub-9_bold.npy", np.zeros((50, 4)))
    (folder / "participants.tsv").write_text("participant_id\tsite\tsex\nsub-0\teast\tmale\nsub-1\twest\tfemale\n")
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
    assert main(["scans", "files", str(tmp_path / "tables"), "--t-r", "2", "--out", str(tmp_path / "out")]) == 1
    assert "0 scans read" in capsys.readouterr().out


def test_the_command_offers_what_the_library_has():
    assert set(SOURCE_NAMES) == set(SOURCES)


def test_a_dry_run_tells_what_would_be_read_and_writes_nothing(tables, tmp_path, capsys):
    np.save(tables / "sub-1_task-nback_run-02_bold.npy", np.ones((50, 4)))
    command = ["scans", "files", str(tables), "--t-r", "2", "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([*command, "--participant-label", "1", "sub-9", "--match", "*_bold.npy"]) == 0
    printed = capsys.readouterr().out
    assert "read: sub-1_bold (sub-1, site west TR 2 s): sub-1_bold.npy" in printed
    assert "left out: sub-0_bold.npy: not selected: has sub-0, expected 1, 9" in printed
    assert "3 scans of 2 participants would be read, 2 files left out." in printed
    assert main([*command, "--task", "nback", "--run", "2"]) == 0
    assert "1 scans of 1 participants would be read" in capsys.readouterr().out
    (tmp_path / "filter.json").write_text('{"bold": {"task": ["nback", "rest"]}, "t1w": {}}')
    assert main([*command, "--bids-filter-file", str(tmp_path / "filter.json")]) == 0
    assert "1 scans of 1 participants would be read" in capsys.readouterr().out
    assert main([*command, "--session", "a"]) == 2
    assert "sub-0_bold.npy not selected: has no ses-, expected a" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "filter.json cannot be read"),
        ("[]", "filter.json is not a BIDS filter file"),
        ('{"bold": {"sex": "f"}}', "filters by 'sex'"),
        ('{"bold": {"task": {"regex": "r"}}}', "expected a value or a list of values"),
    ],
)
def test_bad_filter_files(tables, tmp_path, capsys, text, message):
    (tmp_path / "filter.json").write_text(text)
    command = ["scans", "files", str(tables), "--out", str(tmp_path / "out")]
    assert main([*command, "--bids-filter-file", str(tmp_path / "filter.json")]) == 2
    assert message in capsys.readouterr().err


def test_exclusions_and_the_quality_page(tables, tmp_path):
    out = tmp_path / "out"
    (tables / "participants.tsv").write_text("participant_id\tsite\nsub-0\teast\nsub-77\t<b>west</b>\n")
    command = ["scans", "files", str(tables), "--t-r", "2", "--match", "sub-[0279]*"]
    assert main([*command, "--out", str(out)]) == 0
    table = pandas.read_csv(out / "exclusions.tsv", sep="\t", keep_default_na=False)
    assert table[["outcome", "scan_id", "input"]].values.tolist() == [
        ["dropped", "sub-9_bold", "sub-9_bold.npy"],
        ["left out", "n/a", "sub-1_bold.npy"],
        ["no scan", "n/a", "77"],
    ]
    assert "no usable signal in 4 of 4 ROIs" in table["reason"][0]
    page = (out / "quality.html").read_text()
    assert "3 scans found: 2 kept (of 2 participants), 1 dropped." in page
    assert "1 files left out. 1 participants without scans." in page
    assert "east" in page
    assert page.count('alt="carpet plot"') == 2
    assert not re.search(r"<script|https?://|<link", page)  # nothing from elsewhere
    pixels = base64.b64decode(re.search(r'alt="carpet plot" src="data:image/png;base64,([^"]+)', page)[1])
    assert matplotlib.image.imread(io.BytesIO(pixels)).shape[:2] == (
        4 * 50,
        50 * 10,
    )  # of 4 ROIs and 50 points
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "quality.html").read_text() == page


def test_the_quality_page_names_scans_whose_columns_are_shifted(tmp_path, rng):
    sides = [f"{side}_{network}_{i}" for network in "ABC" for i in range(5) for side in ("LH", "RH")]
    mixing = np.repeat(rng.normal(size=(15, 8)) + np.repeat(3 * np.eye(3, 8), 5, axis=0), 2, axis=0)
    (tmp_path / "tables").mkdir()
    for i in range(8):
        bold = rng.normal(size=(200, 8)) @ mixing.T + rng.normal(size=(200, 30))
        bold = np.roll(bold, 2, axis=1) if i == 5 else bold
        frame = pandas.DataFrame(bold, columns=sides)
        frame.to_csv(tmp_path / "tables" / f"sub-{i}_bold.tsv", sep="\t", index=False)
    out = tmp_path / "out"
    assert main(["scans", "files", str(tmp_path / "tables"), "--t-r", "2", "--out", str(out)]) == 0
    page = (out / "quality.html").read_text()
    assert "8 scans compared" in page
    assert "Over 15 pairs of mirrored ROIs" in page
    doubted = re.findall(r"<b>([^<]+)</b>: The columns seem to be shifted", page)
    assert doubted == ["sub-5_bold"]


def test_the_hubs_viewer_sees_the_scans_and_nothing_else(tables, tmp_path):
    assert main(["scans", "files", str(tables), "--t-r", "2", "--out", str(tmp_path / "out")]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert list(loaded) == ["train"]
    features = loaded["train"].features
    assert features["sample_mask"] == datasets.List(datasets.Value("bool"))
    assert features["coverage"] == datasets.List(datasets.Value("float32"))
    assert features["sex"] == datasets.Value("string")
    assert loaded["train"][0]["sample_mask"] == [True] * 50


# Each option with two values, and where they arrive: an attribute of the source, or an argument of the build.
OPTIONS = [
    ("--atlas", ["dosenbach_2010"], "atlas", lambda atlas: atlas.name == "dosenbach_2010"),
    ("--atlas", ["seitzman_2018"], "atlas", lambda atlas: atlas.name == "seitzman_2018"),
    ("--site", ["north"], "site", "north"),
    ("--site", ["south"], "site", "south"),
    ("--t-r", ["2"], "t_r", {"": 2.0}),
    ("--t-r", ["a=0.8", "b=2"], "t_r", {"a": 0.8, "b": 2.0}),
    ("--match", ["*rest*"], "match", "*rest*"),
    ("--match", ["*nback*"], "match", "*nback*"),
    ("--participant-label", ["1", "sub-2"], "selection", lambda s: s.wanted == {"sub": ("1", "2")}),
    ("--participant-label", ["3"], "selection", lambda s: s.wanted == {"sub": ("3",)}),
    ("--session", ["a"], "selection", lambda s: s.wanted == {"ses": ("a",)}),
    ("--session", ["b"], "selection", lambda s: s.wanted == {"ses": ("b",)}),
    ("--task", ["rest"], "selection", lambda s: s.wanted == {"task": ("rest",)}),
    ("--task", ["nback"], "selection", lambda s: s.wanted == {"task": ("nback",)}),
    ("--run", ["1"], "selection", lambda s: s.wanted == {"run": ("1",)}),
    ("--run", ["2", "3"], "selection", lambda s: s.wanted == {"run": ("2", "3")}),
    *(
        (
            f"--{name.replace('_', '-')}",
            [str(value)],
            "thresholds",
            lambda t, n=name, v=value: getattr(t, n) == v,
        )
        for name, values in {
            "max_masked": (0.1, 0.2),
            "min_coverage": (0.1, 0.2),
            "min_minutes": (2.0, 3.0),
            "max_censored": (0.1, 0.2),
            "max_mean_fd": (0.1, 0.2),
            "min_dof": (5, 6),
        }.items()
        for value in values
    ),
    ("--pattern", ["{subject}.npy"], "pattern", "{subject}.npy"),
    ("--pattern", ["{site}.npy"], "pattern", "{site}.npy"),
    ("--mat-key", ["a"], "mat_key", "a"),
    ("--mat-key", ["b"], "mat_key", "b"),
    ("--controlled", [], "build.controlled", True),
    ("--workers", ["2"], "build.workers", 2),
    ("--workers", ["3"], "build.workers", 3),
    ("--scheduler", ["tcp://a:1"], "build.scheduler", "tcp://a:1"),
    ("--scheduler", ["tcp://b:2"], "build.scheduler", "tcp://b:2"),
    ("--shard-mb", ["1"], "build.shard_bytes", 1_000_000),
    ("--shard-mb", ["0.5"], "build.shard_bytes", 500_000),
    ("--space", ["fsLR"], "fmriprep.space", "fsLR"),
    ("--space", ["MNI152NLin6Asym"], "fmriprep.space", "MNI152NLin6Asym"),
    ("--strategy", ["compcor"], "fmriprep.strategy", "compcor"),
    ("--strategy", ["none"], "fmriprep.strategy", "none"),
    ("--segmentation", ["Tian"], "xcpd.segmentation", "Tian"),
    ("--segmentation", ["Glasser"], "xcpd.segmentation", "Glasser"),
    ("--pipeline", ["css"], "abide_pcp.pipeline", "css"),
    ("--pipeline", ["niak"], "abide_pcp.pipeline", "niak"),
    ("--rois", ["rois_cc200"], "abide_pcp.rois", "rois_cc200"),
    ("--rois", ["rois_ez"], "abide_pcp.rois", "rois_ez"),
    ("--n-subjects", ["3"], "adhd.n_subjects", 3),
    ("--n-subjects", ["4"], "development_fmri.n_subjects", 4),
]


@pytest.mark.parametrize("option, values, place, expected", OPTIONS)
def test_every_option_arrives(tmp_path, monkeypatch, option, values, place, expected):
    calls = []

    def build(source, out, **options):
        calls.append((source, out, options))
        return BuildSummary(1, 0, 1, [], [], 0.0)

    monkeypatch.setattr("fmri_lm_hf.scans.build.build_scan_dataset", build)
    kind, _, name = place.rpartition(".")
    source_name = kind if kind in SOURCES else "files"
    assert main(["scans", source_name, str(tmp_path), "--out", str(tmp_path / "out"), option, *values]) == 0
    [(source, out, options)] = calls
    assert (type(source), source.root, out) == (SOURCES[source_name], tmp_path, tmp_path / "out")
    found = options[name] if kind == "build" else getattr(source, name)
    assert expected(found) if callable(expected) else found == expected


def test_files_given_as_options_arrive(tmp_path, monkeypatch, rng):
    calls = []
    monkeypatch.setattr(
        "fmri_lm_hf.scans.build.build_scan_dataset",
        lambda source, out, **options: calls.append((source, options)) or BuildSummary(1, 0, 1, [], [], 0.0),
    )
    command = ["scans", "files", str(tmp_path), "--out", str(tmp_path / "out")]
    (tmp_path / "filter.json").write_text('{"bold": {"task": "rest"}}')
    for age in (20, 30):
        (tmp_path / f"{age}.tsv").write_text(f"participant_id\tage\n1\t{age}\n")
        table = str(tmp_path / f"{age}.tsv")
        assert main([*command, "--participants", table, "--bids-filter-file", str(tmp_path / "filter.json")]) == 0
        source, options = calls.pop()
        assert options["participants"] == {"1": {"age": age}}
        assert source.selection.wanted == {"task": ("rest",)}


def test_the_table_of_options_has_all_of_them_and_help_is_short(capsys):
    with pytest.raises(SystemExit):
        main(["scans", "--help"])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 80
    options = set(re.findall(r"^  (--[a-z-]+)", printed, flags=re.M))
    elsewhere = {"--out", "--dry-run", "--labels-img", "--participants", "--bids-filter-file"}
    assert options - elsewhere == {option for option, *_ in OPTIONS}
