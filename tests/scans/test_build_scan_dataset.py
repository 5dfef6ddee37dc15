"""Building scan datasets: complete, resumable, independent of how the work was cut up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import pytest

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_images import ScanError
from fmri_lm_hf.scans import build_scan_dataset, load_scan_dataset, read_participants
from fmri_lm_hf.scans.sources.files import FilesSource

N_SCANS = 9


@pytest.fixture
def tables(tmp_path, rng):
    """Scans of 2400 bytes; the fifth one is constant."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for i in range(N_SCANS):
        np.save(
            folder / f"sub-{i}_task-rest_bold.npy", rng.normal(size=(100, 6)).astype(np.float32) * (i != 4)
        )
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

    def read(self, file):
        if file.scan_id == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(file.scan_id)
        return super().read(file)

    def parameters(self):
        record = super().parameters()
        return {key: value for key, value in record.items() if key not in ("stop_at", "seen")}


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
    halfway, _ = load_scan_dataset(tmp_path / "out")  # complete shards can be used already
    assert len(halfway) == 4
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
    from fmri_lm_hf.scans import build as module

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


def test_other_parameters_are_refused_with_both_values(tables, tmp_path):
    build(tables, tmp_path / "out")
    with pytest.raises(ScanError, match=r"max_masked was 0.5, now 0.2\): give the same ones"):
        build(tables, tmp_path / "out", source={"max_masked": 0.2})
    with pytest.raises(ScanError, match=r"atlas was 'files', now 'mine'"):
        build(tables, tmp_path / "out", source={"atlas": Atlas.numbered(6, "mine")})
    with pytest.raises(ScanError, match=r"participants_sha256 was None, now"):
        build(tables, tmp_path / "out", participants={"0": {"age": 3}})


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
    with pytest.raises(ScanError, match="holds something else"):
        build(tables, tables)
    (tables / "a").mkdir()
    np.save(tables / "a" / "sub-0_task-rest_bold.npy", np.eye(6))
    with pytest.raises(ScanError, match=r"same scan 'sub-0_task-rest_bold': sub-0.*npy and a/sub-0.*npy"):
        build(tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_phenotypes_and_sites_of_participants(tables, tmp_path):
    path = tmp_path / "participants.tsv"
    rows = ["participant_id\tsite\tage\tsex\tiq"]
    rows += [
        f"sub-{i}\t{'AB'[i % 2]}\t{20 + i}\t{'n/a' if i == 1 else 'female'}\t{100 + i / 2}" for i in range(8)
    ]
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
