"""Building scan datasets: complete, resumable, independent of how the work was cut up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

import datasets
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from fmri_lm_hf.declarations import declared_in_features
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans import build_scan_dataset, load_scan_dataset, read_participants
from fmri_lm_hf.scans.denoising import Thresholds
from fmri_lm_hf.scans.folder import DatasetFolder
from fmri_lm_hf.scans.sources.files import FilesSource

N_SCANS = 9


@pytest.fixture
def tables(tmp_path, rng):
    """Scans of 2400 bytes; the fifth one is constant."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for i in range(N_SCANS):
        np.save(folder / f"sub-{i}_task-rest_bold.npy", rng.normal(size=(100, 6)).astype(np.float32) * (i != 4))
    return folder


def build(tables, out, **options):
    source = FilesSource(tables, t_r={"": 2.0}, **options.pop("source", {}))
    return build_scan_dataset(source, out, progress=False, **{"shard_bytes": 5000} | options)


def contents(out):
    """Everything that a build makes, as bytes."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@dataclass
class Counting(FilesSource):
    """Remembers which scans it read; stops before `stop_at`, as a killed process would."""

    stop_at: str = ""
    seen: list = field(default_factory=list)
    not_parameters = (*FilesSource.not_parameters, "stop_at", "seen")

    def read(self, file):
        if file.scan_id == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(file.scan_id)
        return super().read(file)


def test_scans_failures_and_provenance(tables, tmp_path):
    summary = build(tables, tmp_path / "out")
    assert (summary.n_new, summary.n_before, summary.n_shards) == (8, 0, 4)
    dataset, atlas = load_scan_dataset(tmp_path / "out")
    assert atlas == Atlas.numbered(6, "files")
    assert dataset[:]["subject_id"] == [f"sub-{i}" for i in range(N_SCANS) if i != 4]
    for row in dataset:
        np.testing.assert_array_equal(row["bold"], np.load(tables / f"{row['scan_id']}.npy"))
    assert summary.failures == json.loads((tmp_path / "out" / "failures.json").read_text())
    [failure] = summary.failures
    assert failure["scan_id"] == "sub-4_task-rest_bold"
    assert "6 constant" in failure["reason"]
    text = (tmp_path / "out" / "provenance.json").read_text()
    assert str(tmp_path) not in text
    provenance = json.loads(text)
    assert [scan["scan_id"] for scan in provenance["scans"]] == dataset[:]["scan_id"]
    first = provenance["scans"][0]["inputs"][0]
    assert (first["name"], first["bytes"]) == ("sub-0_task-rest_bold.npy", 128 + 2400)
    assert len(first["sha256"]) == 64
    assert not (tmp_path / "out" / ".work").exists()


def test_shards_are_bounded_and_whole(tables, tmp_path):
    build(tables, tmp_path / "out")
    for shard in (tmp_path / "out" / "data").iterdir():
        assert pq.read_metadata(shard).num_rows <= 5000 // 2400


def test_a_run_that_was_stopped_continues_without_repeating(tables, tmp_path):
    build(tables, tmp_path / "whole")
    first = Counting(tables, t_r={"": 2.0}, stop_at="sub-7_task-rest_bold")
    with pytest.raises(KeyboardInterrupt):
        build_scan_dataset(first, tmp_path / "out", shard_bytes=5000, progress=False)
    with pytest.raises(ScanError, match="scan dataset out is unfinished: run its `fmri-lm scans` command again"):
        load_scan_dataset(tmp_path / "out")
    second = Counting(tables, t_r={"": 2.0})
    summary = build_scan_dataset(second, tmp_path / "out", shard_bytes=5000, progress=False)
    assert second.seen == [f"sub-{i}_task-rest_bold" for i in (4, 7, 8)]  # the failed one is tried again
    assert summary.n_before + summary.n_new == 8
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    third = Counting(tables, t_r={"": 2.0})
    assert build_scan_dataset(third, tmp_path / "out", progress=False).n_before == 8
    assert third.seen == ["sub-4_task-rest_bold"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_stopped_while_a_shard_was_recorded(tables, tmp_path, monkeypatch):
    build(tables, tmp_path / "whole")
    from fmri_lm_hf.scans import folder as module

    written = []
    real = module.write_json

    def stop_at_second_shard(record, path):
        written.append(path.name)
        if written.count("provenance.json") == 3:  # the first is that of an empty dataset
            raise KeyboardInterrupt
        real(record, path)

    monkeypatch.setattr(module, "write_json", stop_at_second_shard)
    with pytest.raises(KeyboardInterrupt):
        build(tables, tmp_path / "out")
    monkeypatch.setattr(module, "write_json", real)
    build(tables, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_new_scans_are_added(tables, tmp_path, rng):
    build(tables, tmp_path / "out")
    before = contents(tmp_path / "out" / "data")
    np.save(tables / "sub-10_task-rest_bold.npy", rng.normal(size=(100, 6)))
    np.save(tables / "sub-4_task-rest_bold.npy", rng.normal(size=(100, 6)))  # the bad one was repaired
    summary = build(tables, tmp_path / "out")
    assert (summary.n_new, summary.n_before, summary.failures) == (2, 8, [])
    assert contents(tmp_path / "out" / "data").items() > before.items()
    dataset, _ = load_scan_dataset(tmp_path / "out")
    assert len(set(dataset[:]["scan_id"])) == 10


@pytest.mark.slow
def test_worker_processes_make_the_same_bytes(tables, tmp_path):
    build(tables, tmp_path / "one")
    build(tables, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def run_command(tables, out, *options, **popen):
    command = [sys.executable, "-m", "fmri_lm_hf.cli", "scans", "files", tables, "--out", out, "--t-r", "2"]
    command += ["--shard-mb", "0.005", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    return subprocess.Popen([str(word) for word in command], text=True, **pipes)


@pytest.mark.slow
def test_two_processes_at_once_leave_one_dataset(tables, tmp_path):
    build(tables, tmp_path / "whole")
    processes = [run_command(tables, tmp_path / "out") for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 0], [0, 2]), errors  # the later one finds a complete dataset, or is refused
    if codes == [0, 2]:
        assert any("Another process is at work in" in error for error in errors)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_in_which_another_process_is_at_work_is_refused(tables, tmp_path):
    with (
        DatasetFolder.hold(tmp_path / "out"),
        pytest.raises(ScanError, match=r"Another process is at work in .*out: wait"),
    ):
        build(tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # nothing came into it
    build(tables, tmp_path / "out")
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers, moment", [(1, "record"), (2, "shard")])
def test_a_killed_main_process_takes_its_workers_along_and_is_continued(tables, tmp_path, workers, moment):
    build(tables, tmp_path / "whole")
    out = tmp_path / "out"
    log = (tmp_path / "log").open("w+")
    process = run_command(tables, out, "--workers", workers, stdout=log, stderr=log)
    sign = {"record": ".lock", "shard": "data/*.parquet"}[moment]
    while process.poll() is None and not list(out.glob(sign)):
        time.sleep(0.002)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    if out.exists() and moment != "record":
        (out / "data").mkdir(exist_ok=True)
        (out / "data" / ".train-00000.parquet.1.tmp").write_text("cut")  # what a kill amid writing leaves
        (out / ".provenance.json.1.tmp").write_text("{")
    build(tables, out)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_is_one_line(tables, tmp_path):
    process = run_command(tables, tmp_path / "out", "--workers", 2, start_new_session=True)
    while process.poll() is None and not (tmp_path / "out" / ".work").exists():
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    bars = ("scan/s", "?scan", "s/scan")  # the last one where a scan takes more than a second
    lines = [line for line in error.splitlines() if line and not any(bar in line for bar in bars)]
    assert (process.returncode, lines) in ((130, ["fmri-lm scans: stopped."]), (0, []))
    build(tables, tmp_path / "whole")
    build(tables, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_dataset_is_loaded_only_when_it_is_complete(tables, tmp_path):
    out = tmp_path / "out"
    build(tables, out)
    load_scan_dataset(out)
    record = json.loads((out / "provenance.json").read_text())
    assert record["complete"] is True
    for changes, message in (
        ({"complete": False}, "scan dataset out is unfinished"),
        ({"n_shards": 5}, "lacks data/train-00004.parquet"),
    ):
        (out / "provenance.json").write_text(json.dumps(record | changes))
        with pytest.raises(ScanError, match=message):
            load_scan_dataset(out)
    for text in ("", '{"complete": tr'):
        (out / "provenance.json").write_text(text)
        for use in (load_scan_dataset, lambda folder: build(tables, folder)):
            with pytest.raises(ScanError, match=r"provenance.json of .*out is empty or truncated"):
                use(out)
    (out / "provenance.json").write_text(json.dumps(record))
    (out / "data" / "train-00001.parquet").write_bytes(b"")
    with pytest.raises(ScanError, match=r"shard data/train-00001.parquet of .* is missing, empty or truncated"):
        build(tables, out)
    with pytest.raises(ScanError, match=r"may be truncated \(train-00001.parquet\)"):
        load_scan_dataset(out)


def test_damaged_records_of_unfinished_work_are_read_again(tables, tmp_path):
    build(tables, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        build_scan_dataset(
            Counting(tables, t_r={"": 2.0}, stop_at="sub-3_task-rest_bold"), tmp_path / "out", progress=False
        )
    work = tmp_path / "out" / ".work"
    (work / "sub-0_task-rest_bold.json").write_text("")
    (work / "sub-1_task-rest_bold.parquet").write_bytes(b"PAR1")
    build(tables, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("left", [(), (".lock",), (".work", "atlas.json"), ("data",)])
def test_a_run_that_was_killed_before_its_first_record_leaves_a_usable_folder(tables, tmp_path, left):
    out = tmp_path / "out"
    out.mkdir()
    for name in left:
        if name in (".work", "data"):
            (out / name).mkdir()
        else:
            (out / name).write_text("{}")
    build(tables, out)
    build(tables, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_run_without_a_usable_scan_locks_nothing(tables, tmp_path):
    strict = {"thresholds": Thresholds(min_minutes=60)}
    assert build(tables, tmp_path / "out", source=strict).n_new == 0
    assert build(tables, tmp_path / "out").n_new == 8
    build(tables, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_one_stray_table_does_not_define_the_atlas(tables, tmp_path, rng):
    np.save(tables / "a_stray.npy", rng.normal(size=(100, 3)))
    summary = build(tables, tmp_path / "out")
    assert summary.n_new == 8
    assert load_scan_dataset(tmp_path / "out")[1].n_rois == 6
    assert "a_stray.npy has 3 ROIs" in summary.failures[0]["reason"]


def phenotypes(n, **more):
    return {str(i): {"age": 20 + i, "site": "AB"[i % 2]} | more for i in range(n)}


def test_phenotypes_and_subjects_are_added_without_reading_scans_again(tables, tmp_path, rng):
    first = Counting(tables, t_r={"": 2.0})
    options = {"shard_bytes": 5000, "progress": False}
    build_scan_dataset(first, tmp_path / "out", participants=phenotypes(9), **options)
    before = {row["scan_id"]: row["bold"] for row in load_scan_dataset(tmp_path / "out")[0]}
    np.save(tables / "sub-12_task-rest_bold.npy", rng.normal(size=(100, 6)))
    second = Counting(tables, t_r={"": 2.0})
    grown = phenotypes(13, iq=100.5) | {"3": {"age": 99, "site": "C", "iq": None}}
    summary = build_scan_dataset(second, tmp_path / "out", participants=grown, **options)
    assert (summary.n_new, second.seen) == (1, ["sub-12_task-rest_bold", "sub-4_task-rest_bold"])
    rows = {row["scan_id"]: row for row in load_scan_dataset(tmp_path / "out")[0]}
    assert len(rows) == 9
    changed = rows["sub-3_task-rest_bold"]
    assert (changed["age"], changed["site"], changed["iq"]) == (99, "C", None)
    assert rows["sub-12_task-rest_bold"]["iq"] == 100.5
    for scan_id, bold in before.items():
        np.testing.assert_array_equal(rows[scan_id]["bold"], bold)
    with pytest.raises(ScanError, match=r"made with a table of participants: give it again \(--participants\)"):
        build(tables, tmp_path / "out")
    assert "In the participants table, but without scans: 10, 11, 9." in summary.notes


@pytest.mark.parametrize("how", ["from the first run", "by a later run", "by hand, and a run after it"])
def test_a_declaration_reaches_rows_that_are_loaded_on_their_own_and_stays(tables, tmp_path, how):
    out = tmp_path / "out"
    build(tables, out, controlled=how == "from the first run")
    shard = out / "data" / "train-00000.parquet"
    before = datasets.Dataset.from_parquet(str(shard))
    if how.startswith("by hand"):
        (out / "README.md").write_text("---\ncontrolled: true\n---\n")
    build(tables, out, controlled=how == "by a later run")
    if how.startswith("by hand"):
        (out / "README.md").unlink()
    for _ in range(2):  # and it does not have to be said again
        loaded = datasets.load_dataset(str(out), split="train")
        assert declared_in_features(loaded.features) == {"controlled"}
        assert json.loads((out / "provenance.json").read_text())["controlled"] is True
        build(tables, out)
    np.testing.assert_array_equal(loaded[0]["bold"], before[0]["bold"])


def test_a_run_that_is_stopped_while_phenotypes_change_is_continued(tables, tmp_path, monkeypatch):
    build(tables, tmp_path / "whole", participants=phenotypes(9, iq=1))
    build(tables, tmp_path / "out", participants=phenotypes(9))
    from fmri_lm_hf.scans import folder as module

    real, written = module.write_parquet, []

    def stop_at_second(*arguments, **options):
        written.append(arguments)
        if len(written) == 2:
            raise KeyboardInterrupt
        real(*arguments, **options)

    monkeypatch.setattr(module, "write_parquet", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        build(tables, tmp_path / "out", participants=phenotypes(9, iq=1))
    monkeypatch.setattr(module, "write_parquet", real)
    with pytest.raises(ScanError, match="unfinished"):
        load_scan_dataset(tmp_path / "out")
    build(tables, tmp_path / "other", participants=phenotypes(9))
    build(tables, tmp_path / "out", participants=phenotypes(9))  # back to those before
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    build(tables, tmp_path / "out", participants=phenotypes(9, iq=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_changed_inputs_are_noticed_after_phenotypes_were_updated(tables, tmp_path):
    build(tables, tmp_path / "out", participants=phenotypes(9))
    path = tables / "sub-0_task-rest_bold.npy"
    np.save(path, np.load(path)[::-1])
    later = (tmp_path / "out" / "data" / "train-00000.parquet").stat().st_mtime + 1
    os.utime(path, (later, later))
    with pytest.raises(ScanError, match="input of sub-0_task-rest_bold was changed"):
        build(tables, tmp_path / "out", participants=phenotypes(9, iq=1))


def test_another_t_r_for_scans_that_are_there_is_refused(tables, tmp_path):
    build(tables, tmp_path / "out")
    with pytest.raises(ScanError, match=r"with TR 2 s, but TR 3 s was given"):
        build_scan_dataset(FilesSource(tables, t_r={"": 3.0}), tmp_path / "out", progress=False)


def test_copies_and_links_that_lead_back_are_no_scans(tables, tmp_path):
    shutil.copy(tables / "sub-2_task-rest_bold.npy", tables / "sub-7b_task-rest_bold.npy")
    (tables / "below").mkdir()
    (tables / "below" / "up").symlink_to(tables)
    summary = build(tables, tmp_path / "out")
    assert summary.n_new == 8
    reasons = {failure["scan_id"]: failure["reason"] for failure in summary.failures}
    assert "has the same content as sub-2_task-rest_bold" in reasons["sub-7b_task-rest_bold"]
    assert build(tables, tmp_path / "out").n_before == 8


@dataclass
class Breaking(FilesSource):
    """Raises what its `error` is for one scan."""

    error: type = ZeroDivisionError
    code: int = 0
    not_parameters = (*FilesSource.not_parameters, "error", "code")

    def read(self, file):
        if file.scan_id == "sub-2_task-rest_bold":
            raise self.error(self.code, "odd") if self.code else self.error("odd")
        return super().read(file)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, struct.error, UnicodeError, RecursionError])
def test_whatever_one_scan_raises_the_others_go_on(tables, tmp_path, error):
    summary = build_scan_dataset(Breaking(tables, t_r={"": 2.0}, error=error), tmp_path / "out", progress=False)
    assert summary.n_new == 7
    assert summary.failures[0]["reason"].startswith("sub-2_task-rest_bold.npy: cannot be read:")


@pytest.mark.parametrize("error, code", [(MemoryError, 0), (OSError, errno.ENOSPC), (OSError, errno.EIO)])
def test_lack_of_memory_and_disk_stops_a_run(tables, tmp_path, error, code):
    with pytest.raises(error):
        build_scan_dataset(Breaking(tables, t_r={"": 2.0}, error=error, code=code), tmp_path / "out", progress=False)


def test_other_parameters_are_refused_with_both_values(tables, tmp_path):
    build(tables, tmp_path / "out")
    with pytest.raises(ScanError, match=r"max_masked was 0.5, now 0.2\): give the same ones"):
        build(tables, tmp_path / "out", source={"thresholds": Thresholds(max_masked=0.2)})
    with pytest.raises(ScanError, match=r"atlas was 'files', now 'mine'"):
        build(tables, tmp_path / "out", source={"atlas": Atlas.numbered(6, "mine")})


def test_changed_inputs_are_refused(tables, tmp_path):
    build(tables, tmp_path / "out")
    path = tables / "sub-0_task-rest_bold.npy"
    os.utime(path)  # touched, but the same
    build(tables, tmp_path / "out")
    np.save(path, np.load(path)[::-1])
    os.utime(path, (2e9, 2e9))
    with pytest.raises(ScanError, match="input of sub-0_task-rest_bold was changed"):
        build(tables, tmp_path / "out")


def test_folders_that_cannot_be_used(tables, tmp_path):
    with pytest.raises(ScanError, match="nowhere does not exist"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="No scans of the kind 'files'"):
        build(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ScanError, match="holds other files"):
        build(tables, tables)
    (tables / "a").mkdir()
    np.save(tables / "a" / "sub-0_task-rest_bold.npy", np.eye(6))
    with pytest.raises(ScanError, match=r"same scan 'sub-0_task-rest_bold': sub-0.*npy and a/sub-0.*npy"):
        build(tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_phenotypes_and_sites_of_participants(tables, tmp_path):
    path = tmp_path / "participants.tsv"
    rows = ["participant_id\tsite\tage\tsex\tiq"]
    rows += [f"sub-{i}\t{'AB'[i % 2]}\t{20 + i}\t{'n/a' if i == 1 else 'female'}\t{100 + i / 2}" for i in range(8)]
    path.write_text("\n".join(rows) + "\n")
    summary = build(tables, tmp_path / "out", participants=read_participants(path))
    assert summary.notes == ["Not in the participants table, so without phenotypes: sub-8."]
    dataset, _ = load_scan_dataset(tmp_path / "out")
    first, second, last = dataset[0], dataset[1], dataset[-1]
    assert (first["site"], first["age"], first["sex"], first["iq"]) == ("A", 20, "female", 100.0)
    assert (second["site"], second["sex"]) == ("B", None)
    assert (last["site"], last["age"], last["sex"]) == ("unknown", None, None)
    assert dataset.features["age"].dtype == "int64"


@pytest.mark.parametrize(
    "text, message",
    [
        ("id\tage\n1\t2\n", "no column participant_id: found id, age"),
        ("participant_id\tbold\n1\t2\n", "may not have the column bold"),
        ("participant_id\tage\n1\t2\nsub-1\t3\n", "several rows for 1"),
        ("", "cannot be read"),
    ],
)
def test_bad_participants_tables(tmp_path, text, message):
    (tmp_path / "participants.tsv").write_text(text)
    with pytest.raises(ScanError, match=message):
        read_participants(tmp_path / "participants.tsv")
