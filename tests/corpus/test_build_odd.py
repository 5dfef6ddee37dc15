"""Corpora of scan datasets as labs have them: censored, unfinished, damaged, of several scanners, built twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from fmri_lm_hf import cli
from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.corpus import steps as tasks
from fmri_lm_hf.corpus.build import CorpusConfig, build_corpus
from fmri_lm_hf.corpus.chunks import ScanSource
from fmri_lm_hf.files import exclusive
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans.dataset import write_scan_dataset
from fmri_lm_hf.simulation import Site, iter_cohort

SIZES = {"Visual": 3, "Motor": 11, "Default": 5, "Control": 7}
NETWORKS = tuple(network for network, size in SIZES.items() for _ in range(size))
ATLAS = Atlas("small", tuple(f"roi-{i}" for i in range(26)), NETWORKS)
CONFIG = CorpusConfig(families=["connectivity", "ica"], fractions=(0.8, 0.2, 0), n_components=4)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(iter_cohort(ATLAS, [Site("A", 12, n_timepoints=120)]))


def texts_of(corpus: Path) -> dict[str, list[str]]:
    return {split: rows["text"][:] for split, rows in datasets.load_dataset(str(corpus)).items()}


def failures_of(corpus: Path) -> dict[str, str]:
    return {each["scan_id"]: each["reason"] for each in json.loads((corpus / "failures.json").read_text())}


def test_what_stands_at_censored_points_reaches_no_text(rows, tmp_path):
    observed = np.arange(120) % 4 > 0
    for name, fill in (("interpolated", 0.0), ("garbage", 50.0)):
        censored = []
        for row in rows:
            noise = fill * np.random.default_rng(0).standard_normal(row["bold"].shape)
            bold = np.where(observed[:, None], row["bold"], noise).astype(np.float32)
            censored.append(row | {"bold": bold, "sample_mask": observed.tolist()})
        scans = write_scan_dataset(censored, tmp_path / f"scans-{name}", ATLAS)
        build_corpus(scans, tmp_path / name, CONFIG)
    assert texts_of(tmp_path / "interpolated") == texts_of(tmp_path / "garbage")
    facts = [json.loads(row["facts"]) for row in datasets.load_dataset(str(tmp_path / "garbage"), split="train")]
    assert not [fact for stated in facts for fact in stated if fact["feature"].startswith("ica/falff")]  # no stretch
    source = ScanSource(tmp_path / "scans-garbage")
    assert "sample_mask" not in source.index[0]  # lists in memory would grow with the scans
    assert {"scan_id", "t_r", "age"} <= source.index[0].keys()


def test_an_atlas_without_networks_is_refused_and_a_table_helps(rows, tmp_path, capsys):
    nameless = Atlas("nameless", ATLAS.roi_names, ("unassigned",) * 26)
    scans = write_scan_dataset(rows, tmp_path / "scans", nameless)
    command = [
        "corpus",
        "build",
        str(scans),
        "--out",
        str(tmp_path / "out"),
        "--families",
        "connectivity",
        "--quiet",
    ]
    assert cli.main(command) == 2
    assert "has no network for any of its 26 ROIs; texts need names of networks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    table = tmp_path / "table.csv"
    pairs = zip(ATLAS.roi_names, ["none" if network == "Control" else network for network in NETWORKS], strict=True)
    table.write_text("name,network\n" + "".join(f"{name},{network}\n" for name, network in pairs))
    assert cli.main([*command, "--networks", str(table)]) == 0
    texts = " ".join(texts_of(tmp_path / "out")["train"])
    assert "Default" in texts
    assert "Control" not in texts
    assert "unassigned" not in texts
    assert "none" not in texts


def test_scans_with_columns_out_of_place_are_listed(tmp_path):
    odd = list(iter_cohort(ATLAS, [Site("A", 24)]))
    odd[3]["bold"] = np.roll(odd[3]["bold"], 3, axis=1)
    odd[5]["bold"] = odd[5]["bold"][:, ::-1]
    odd[7]["bold"] = np.repeat(odd[7]["bold"][:, :13], 2, axis=1)
    scans = write_scan_dataset(odd, tmp_path / "scans", ATLAS)
    build_corpus(scans, tmp_path / "out", CONFIG)
    failures = failures_of(tmp_path / "out")
    assert set(failures) == {odd[i]["scan_id"] for i in (3, 5, 7)}
    for i, words in ((3, "shifted by +3"), (5, "reversed"), (7, "13 of 26 ROIs are copies")):
        assert words in failures[odd[i]["scan_id"]]


def test_a_failure_of_any_class_is_listed_but_memory_and_disk_stop(rows, tmp_path, monkeypatch):
    scans = write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    real = tasks.features_of
    raised: list[BaseException] = [RuntimeError("ARPACK did not converge")]
    seen: list[str] = []

    def features_of(*arguments):
        seen.append("scan")
        if len(seen) == 4:
            raise raised[0]
        return real(*arguments)

    monkeypatch.setattr(tasks, "features_of", features_of)
    build_corpus(scans, tmp_path / "out", CONFIG)
    (reason,) = failures_of(tmp_path / "out").values()
    assert reason.startswith("RuntimeError: ARPACK did not converge.")
    for error in (MemoryError(), OSError(28, "No space left on device")):
        raised[0], seen[:] = error, []
        with pytest.raises(type(error)):
            build_corpus(scans, tmp_path / type(error).__name__, CONFIG)


def test_a_damaged_stretch_of_a_file_is_named_and_the_rest_goes_on(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.scans.dataset.ROW_GROUP_BYTES", 3 * rows[0]["bold"].nbytes)
    scans = write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    (file,) = scans.rglob("*.parquet")
    metadata = pq.read_metadata(file)
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    bold = metadata.row_group(1).column(next(i for i, name in enumerate(names) if name.startswith("bold")))
    with file.open("r+b") as content:
        content.seek(bold.data_page_offset + 4)
        content.write(b"\xff" * 400)
    build_corpus(scans, tmp_path / "out", CONFIG)
    failures = failures_of(tmp_path / "out")
    assert set(failures) == {row["scan_id"] for row in rows[3:6]}
    assert all(f"{file.name} is damaged there" in reason for reason in failures.values())


def test_an_unfinished_scan_dataset_is_refused_and_hidden_work_is_not_read(rows, tmp_path):
    scans = write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    (scans / ".cache").mkdir()
    (scans / ".cache" / "more.parquet").write_bytes(next(scans.rglob("*.parquet")).read_bytes())
    assert len(ScanSource(scans).index) == 12
    (scans / ".work").mkdir()
    with pytest.raises(ScanError, match="scans is unfinished: run its `fmri-lm scans` command again"):
        build_corpus(scans, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_refused_until_the_first_has_ended(rows, tmp_path, capsys):
    scans = write_scan_dataset(rows, tmp_path / "scans", ATLAS)
    out = tmp_path / "out"
    command = ["corpus", "build", str(scans), "--out", str(out), "--families", "connectivity", "--quiet"]
    with exclusive(out / ".build"):
        assert cli.main(command) != 0
        assert f"Another process is at work in {out}: wait until it has ended" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert not (out / ".build").exists()


def test_scanners_that_no_training_scan_has_are_told_of(rows, tmp_path, capsys):
    others = list(iter_cohort(ATLAS, [Site("B", 3, t_r=0.8, n_timepoints=300)]))
    scans = write_scan_dataset([*rows, *others], tmp_path / "scans", ATLAS)
    out = tmp_path / "out"
    command = ["corpus", "build", str(scans), "--out", str(out), "--holdout-site", "B", "--quiet"]
    assert cli.main(command) == 0
    said = "3 scans come from a site and repetition time with fewer than 20 training scans (B, 0.8 s: 3 scans)"
    assert f"Caution: {said}" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert said in card
    assert "leaves out what depends most on the scanner: clustering coefficient, spectral ratio" in card
    loaded = datasets.load_dataset(str(out))
    assert set(loaded["train"]["acquisition_in_training"]) == {True}
    for row in loaded["test"]:
        assert not row["acquisition_in_training"]
        assert all("relative_to" in fact for fact in json.loads(row["facts"]))
        assert row["text"].split(",")[0].split()[-1] in ("scanners", "otherwise", "settings")
    assert CohortReference.load(out / "reference").n_scans == 11


@pytest.mark.parametrize("n_scans, most", [(100, 10), (1_300, 130), (6_000, 130)])
def test_temporary_files_do_not_grow_with_the_scans(n_scans, most, tmp_path):
    """Scans of 400 ROIs lie in row groups of twenty; there must not be a task for each."""
    table = datasets.Dataset.from_dict({"scan_id": list(map(str, range(n_scans))), "bold": [0] * n_scans})
    pq.write_table(table.data.table, tmp_path / "scans.parquet", row_group_size=20)
    chunks = ScanSource(tmp_path / "scans.parquet").chunks
    assert len(chunks) <= most
    assert [chunk.first for chunk in chunks] == np.cumsum([0, *map(len, chunks)])[:-1].tolist()
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    assert sum(map(len, pieces)) == n_scans
    assert max(map(len, chunks)) <= 2 * max(20, n_scans // 128)


ORPHANS = """
import os, time
from fmri_lm_hf.corpus.steps import open_workers
def pause(task):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
with open_workers(2) as run:
    list(run(pause, [1, 2]))
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    try:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.stdout.close()
