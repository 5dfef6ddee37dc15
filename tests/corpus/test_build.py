"""Building a corpus from a scan dataset: what is in it, that it loads, continues, and leaks nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pytest

from fmri_lm_hf import cli
from fmri_lm_hf.corpus import CohortReference, build, check_text, describe_subject, steps
from fmri_lm_hf.corpus.build import CorpusConfig, build_corpus
from fmri_lm_hf.declarations import declared_in_features
from fmri_lm_hf.hub.contents import read_folder
from fmri_lm_hf.hub.privacy import find_private
from fmri_lm_hf.hub.records import render_dataset_card
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans.dataset import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Site, iter_cohort

NETWORKS = ("Visual", "Motor", "Default", "Control")
ATLAS = Atlas(
    name="small",
    roi_names=tuple(f"roi-{i}" for i in range(24)),
    networks=tuple(NETWORKS[i // 6] for i in range(24)),
)
SITES = [Site("A", 10, n_timepoints=60), Site("B", 6, t_r=1.0, n_timepoints=90, gain=3.0)]


def cohort(**changes) -> list[dict]:
    return list(iter_cohort(ATLAS, SITES, scans_per_subject=2, **changes))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of scans, so that parallel and interrupted builds have something to share out."""
    monkeypatch.setattr("fmri_lm_hf.corpus.chunks.MIN_CHUNK_SCANS", 5)


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    return write_scan_dataset(cohort(), tmp_path_factory.mktemp("data") / "scans", ATLAS)


@pytest.fixture(scope="session")
def corpus(scans, tmp_path_factory) -> Path:
    """A corpus built in one go, in one process."""
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    build_corpus(scans, out, CorpusConfig(holdout_sites=["B"], fractions=(0.8, 0.2, 0)))
    return out


def checksums(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


CONFIG = CorpusConfig(holdout_sites=["B"], fractions=(0.8, 0.2, 0))


def test_every_config_and_split_loads_as_from_the_hub(corpus):
    everything = datasets.load_dataset(str(corpus))
    assert {split: len(rows) for split, rows in everything.items()} == {
        "train": 8 * 2 * 3,
        "validation": 2 * 2 * 3,
        "test": 6 * 2 * 3,
    }
    graph = datasets.load_dataset(str(corpus), "graph", split="test")
    assert {fact["family"] for row in graph for fact in json.loads(row["facts"])} == {"graph"}
    assert set(everything["test"]["site"]) == {"B"}
    streamed = datasets.load_dataset(str(corpus), "graph", split="test", streaming=True)
    assert list(streamed) == list(graph)


def test_every_text_states_its_facts_and_nothing_else(corpus):
    for config in ("all", "connectivity", "gradients", "graph", "ica"):
        for row in datasets.load_dataset(str(corpus), config, split="validation"):
            report = check_text(row["text"], json.loads(row["facts"]))
            assert report.is_true, (config, row["length"], row["text"], report)


def test_rows_point_at_their_scan(corpus, scans):
    source, _ = load_scan_dataset(scans)
    for row in datasets.load_dataset(str(corpus), split="test"):
        scan = source[row["scan_index"]]
        assert (scan["scan_id"], scan["subject_id"], scan["site"]) == (
            row["scan_id"],
            row["subject_id"],
            row["site"],
        )


def test_subject_description_is_apart_and_says_what_it_tells(corpus, scans):
    source, _ = load_scan_dataset(scans)
    rows = datasets.load_dataset(str(corpus), split="train")
    for row in rows:
        scan = source[row["scan_index"]]
        assert row["described_columns"] == ["age", "sex", "diagnosis"]
        assert scan["diagnosis"] in row["subject_description"]
        assert f"{scan['age']:.4g}-year-old" in row["subject_description"]
        assert scan["diagnosis"] not in row["text"]
    assert len({describe_subject(scan, seed=1).split()[0] for scan in source}) == 1  # wording, not content


def test_described_columns_are_chosen(scans, tmp_path):
    build_corpus(scans, tmp_path / "none", CorpusConfig(families=["connectivity"], describe=[]))
    rows = datasets.load_dataset(str(tmp_path / "none"), split="train")
    assert set(rows["subject_description"]) == {None}
    with pytest.raises(ValueError, match=r"no column height; they have scan_id"):
        build_corpus(scans, tmp_path / "other", CorpusConfig(describe=["height"]))


def test_reference_is_that_of_the_training_subjects(corpus, scans):
    source, atlas = load_scan_dataset(scans)
    train = set(json.loads((corpus / "splits.json").read_text())["subjects"]["train"])
    rows = [scan for scan in source if scan["subject_id"] in train]
    expected = CohortReference.fit(rows, atlas)
    found = CohortReference.load(corpus / "reference")
    assert found.n_subjects == len(train) == 8
    assert found.subjects_sha256 == expected.subjects_sha256
    np.testing.assert_allclose(found.maps.ica_maps, expected.maps.ica_maps, atol=1e-6)
    np.testing.assert_allclose(found.maps.gradients, expected.maps.gradients, atol=1e-6)
    np.testing.assert_allclose(found.statistics.mean, expected.statistics.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.statistics.std, expected.statistics.std, rtol=1e-3, atol=1e-6)


def test_nothing_of_test_scans_reaches_training_rows(corpus, tmp_path):
    """The same training site beside entirely other test scans gives the same reference and training texts."""
    other = [row for row in cohort() if row["site"] == "A"]
    other += [row | {"site": "B"} for row in cohort(seed=99) if row["site"] == "B"]
    scans = write_scan_dataset(other, tmp_path / "scans", ATLAS)
    out = tmp_path / "corpus"
    build_corpus(scans, out, CONFIG)
    ours, theirs = checksums(corpus), checksums(out)
    same = {name for name in ours if ours[name] == theirs.get(name)}
    assert {"reference/reference.json", "reference/reference.safetensors", "splits.json"} <= same
    assert {name for name in ours if "/train-" in name or "/validation-" in name} <= same
    assert "data/all/test-00000.parquet" not in same


def test_interrupted_build_continues_and_repeats_nothing(corpus, scans, tmp_path, monkeypatch):
    out = tmp_path / "corpus"
    computed: list[int] = []

    def interrupted(task):
        if len(computed) == 3:
            raise KeyboardInterrupt
        return counted(task)

    def counted(task):
        computed.append(task.number)
        return real(task)

    real = build.compute_descriptors
    monkeypatch.setattr(build, "compute_descriptors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(scans, out, CONFIG)
    assert not (out / "README.md").exists()
    monkeypatch.setattr(build, "compute_descriptors", counted)
    build_corpus(scans, out, CONFIG)
    assert sorted(computed) == list(range(7))  # 32 scans in chunks of 5, each computed once
    assert checksums(out) == checksums(corpus)
    monkeypatch.setattr(build, "compute_descriptors", interrupted)
    assert build_corpus(scans, out, CONFIG).n_scans == 32  # nothing left to do
    assert checksums(out) == checksums(corpus)


@pytest.mark.parametrize("finished", [True, False])
def test_other_parameters_are_refused_with_both_values(corpus, scans, tmp_path, monkeypatch, finished):
    out = corpus
    if not finished:
        out = tmp_path / "corpus"
        monkeypatch.setattr(build, "compute_descriptors", lambda task: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_corpus(scans, out, CONFIG)
    with pytest.raises(ValueError, match=r"started with seed = 0, now seed = 7. Give the same options"):
        build_corpus(scans, out, CorpusConfig(holdout_sites=["B"], fractions=(0.8, 0.2, 0), seed=7))
    other = write_scan_dataset(cohort(seed=3), tmp_path / "other", ATLAS)
    with pytest.raises(ValueError, match="started with scans_sha256 = "):
        build_corpus(other, out, CONFIG)


def write_raw(rows: list[dict], folder: Path) -> Path:
    """A scan dataset that nobody has checked."""
    folder.mkdir()
    ATLAS.to_json(folder / "atlas.json")
    listed = [row | {"bold": None if row["bold"] is None else row["bold"].tolist()} for row in rows]
    datasets.Dataset.from_list(listed).to_parquet(str(folder / "scans.parquet"))
    return folder


def test_unusable_scans_are_listed_and_the_rest_goes_on(tmp_path, capsys):
    rows = cohort()
    rows[1]["bold"] = np.zeros_like(rows[1]["bold"])
    rows[4]["bold"] = rows[4]["bold"][:10]
    rows[5]["bold"] = None
    rows[6]["t_r"] = None
    rows[7]["bold"] = rows[7]["bold"].copy()
    rows[7]["bold"][:, 3] = np.nan  # one bad ROI is no reason to lose the scan
    scans = write_raw(rows, tmp_path / "scans")
    out = tmp_path / "corpus"
    assert cli.main(["corpus", "build", str(scans), "--out", str(out), "--quiet"]) == 0
    failures = json.loads((out / "failures.json").read_text())
    bad = [rows[i]["scan_id"] for i in (1, 4, 5, 6)]
    assert [failure["scan_id"] for failure in failures] == bad
    reasons = ["0 of 24 ROIs are usable", "10 time points", "bold is not a matrix of numbers", "t_r is missing"]
    for failure, reason in zip(failures, reasons, strict=True):
        assert reason in failure["reason"]
    described = {row["scan_id"] for split in datasets.load_dataset(str(out)).values() for row in split}
    assert described == {row["scan_id"] for row in rows} - set(bad)
    printed = capsys.readouterr().out
    assert "28 scans of 15 subjects described" in printed
    assert f"{rows[4]['scan_id']}: The scan has 10 time points" in printed
    assert "4 scans could not be described" in (out / "README.md").read_text()


def test_arrow_folders_and_single_files_give_the_same_texts(corpus, tmp_path):
    rows = cohort()
    written = write_scan_dataset(rows, tmp_path / "written", ATLAS)
    dataset, _ = load_scan_dataset(written)
    dataset.with_format(None).save_to_disk(str(tmp_path / "arrow"))
    ATLAS.to_json(tmp_path / "arrow" / "atlas.json")
    minimal = dataset.with_format(None).select_columns(["scan_id", "subject_id", "site", "t_r", "bold"])
    minimal = minimal.cast_column("bold", datasets.List(datasets.List(datasets.Value("float32"))))
    minimal.to_parquet(str(tmp_path / "scans.parquet"))
    expected = datasets.load_dataset(str(corpus), split="test")["text"][:]
    for source in ("arrow", "scans.parquet"):
        out = tmp_path / f"from-{source}"
        build_corpus(tmp_path / source, out, CONFIG, atlas=ATLAS)
        assert datasets.load_dataset(str(out), split="test")["text"][:] == expected
        assert not (out / ".build").exists()


def test_card_shows_what_was_measured(corpus, scans, tmp_path):
    card = (corpus / "README.md").read_text()
    assert "TO FILL IN: the licence" in card
    assert "license: unknown" in card
    assert "| B | 12 | 6 | 1.0 | 90 |" in card
    assert "every subject with a scan from B is in the test split" in card
    assert "Controlled data" not in card
    assert "No person was scanned" not in card
    assert "[not recorded]" not in card
    ages = [row["age"] for row in load_scan_dataset(scans)[0]]
    assert f"{np.mean(ages):.1f} ± {np.std(ages):.1f} years" in card
    config = CorpusConfig(families=["graph"], license="cc-by-4.0", controlled=True, simulated=True)
    build_corpus(scans, tmp_path / "controlled", config)
    card = (tmp_path / "controlled" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "TO FILL IN" not in card
    assert "Controlled data" in card
    assert "No person was scanned" in card


def test_what_the_scans_say_of_themselves_holds_for_the_corpus(tmp_path):
    scans = write_scan_dataset(cohort(), tmp_path / "scans", ATLAS, parameters={"controlled": True})
    build_corpus(scans, tmp_path / "corpus", CorpusConfig(families=["graph"]))
    assert "Controlled data" in (tmp_path / "corpus" / "README.md").read_text()
    assert json.loads((tmp_path / "corpus" / "provenance.json").read_text())["controlled"] is True
    texts = datasets.load_dataset(str(tmp_path / "corpus"), "graph", split="train")
    assert declared_in_features(texts.features) == {"controlled"}


@pytest.mark.parametrize("where", ["nested", "in a card", "in the rows"])
def test_what_is_declared_anywhere_about_the_scans_holds_for_the_corpus(tmp_path, where):
    declared = {"terms": [{"controlled": True}]} if where != "in a card" else None
    scans = write_scan_dataset(cohort(), tmp_path / "scans", ATLAS, parameters=declared)
    if where == "in a card":
        (scans / "README.md").write_text("---\ncontrolled: true\n---\n")
    if where == "in the rows":
        (scans / "provenance.json").unlink()
    build_corpus(scans, tmp_path / "corpus", CorpusConfig(families=["graph"]))
    texts = datasets.load_dataset(str(tmp_path / "corpus"), split="train")
    assert declared_in_features(texts.features) == {"controlled"}


def test_published_files_name_no_local_path(corpus, scans):
    for file in corpus.rglob("*"):
        if file.is_file():
            assert str(scans.parent).encode() not in file.read_bytes(), file


def test_folder_is_ready_to_be_published(corpus):
    publication = read_folder(corpus)
    assert (publication.kind, publication.left_out) == ("dataset", [])
    card = render_dataset_card(publication, "organisation/corpus", set())
    assert 'load_dataset("organisation/corpus", "graph", split="train")' in card
    assert "path: data/graph/test-*.parquet" in card
    assert find_private(publication.files, namespace="organisation") == []


def test_splits_of_another_corpus_are_kept(corpus, scans, tmp_path):
    manifest = json.loads((corpus / "splits.json").read_text())
    dropped = manifest["subjects"]["validation"].pop()
    del manifest["sha256"]
    (tmp_path / "splits.json").write_text(json.dumps(manifest))
    arguments = ["--splits", str(tmp_path / "splits.json"), "--families", "graph", "--quiet"]
    out = tmp_path / "corpus"
    assert cli.main(["corpus", "build", str(scans), "--out", str(out), *arguments]) == 0
    rows = datasets.load_dataset(str(out), split="train")
    assert set(rows["subject_id"]) == set(manifest["subjects"]["train"])
    failures = json.loads((out / "failures.json").read_text())
    assert {failure["scan_id"].split("_")[0] for failure in failures} == {dropped}
    assert "in no split" in failures[0]["reason"]


def test_more_wordings_state_the_same_facts(scans, tmp_path):
    build_corpus(scans, tmp_path / "corpus", CorpusConfig(families=["graph"], lengths=["full"], wordings=3))
    rows = datasets.load_dataset(str(tmp_path / "corpus"), "graph", split="test")
    first = rows.select(range(3))
    assert len(set(first["text"])) == 3
    assert len(set(first["facts"])) == len(set(first["scan_id"])) == 1


def test_a_rebuilt_corpus_of_the_same_name_is_not_taken_for_the_old_one(corpus, scans, tmp_path):
    out = tmp_path / corpus.name
    build_corpus(scans, out, CorpusConfig(holdout_sites=["B"], fractions=(0.8, 0.2, 0), seed=1))
    ours = datasets.load_dataset(str(corpus), split="test")["text"][:]
    assert datasets.load_dataset(str(out), split="test")["text"][:] != ours


def test_the_seed_acts_on_components_and_descriptions_of_the_same_subjects(scans, tmp_path):
    folders = []
    for seed in (1, 2):
        config = CorpusConfig(["ica"], ["sentence"], holdout_sites=["B"], fractions=(1, 0, 0), seed=seed)
        folders.append(build_corpus(scans, tmp_path / str(seed), config).folder)
    first, other = (json.loads((folder / "splits.json").read_text())["subjects"] for folder in folders)
    assert first == other
    first, other = (CohortReference.load(folder / "reference").maps.ica_maps for folder in folders)
    assert first.shape == other.shape
    assert not np.array_equal(first, other)
    first, other = (datasets.load_dataset(str(folder), split="train")["subject_description"][:] for folder in folders)
    assert first != other


def test_the_seed_of_the_command_acts(scans, tmp_path):
    """Equal seeds give equal bytes, another one other splits and other words."""
    built = {}
    for name, seed in (("one", "4"), ("again", "4"), ("other", "5")):
        out = tmp_path / name / "corpus"
        command = ["corpus", "build", str(scans), "--out", str(out), "--seed", seed]
        assert cli.main([*command, "--families", "graph", "--lengths", "sentence", "--quiet"]) == 0
        built[name] = checksums(out)
    assert built["one"] == built["again"]
    texts, splits = {}, {}
    for name in ("one", "other"):
        out = tmp_path / name / "corpus"
        rows = [row for split in datasets.load_dataset(str(out)).values() for row in split]
        texts[name] = {row["scan_id"]: row["text"] for row in rows}
        splits[name] = json.loads((out / "splits.json").read_text())["subjects"]
    assert splits["one"] != splits["other"]
    changed = [texts["one"][scan_id] != text for scan_id, text in texts["other"].items()]
    assert np.mean(changed) > 0.8


def test_shards_are_bounded(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.corpus.chunks.ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr("fmri_lm_hf.corpus.chunks.SHARD_BYTES", 60_000)
    build_corpus(scans, tmp_path / "corpus", CONFIG)
    shards = sorted((tmp_path / "corpus" / "data" / "all").glob("test-*.parquet"))
    assert [shard.name for shard in shards][:2] == ["test-00000.parquet", "test-00001.parquet"]
    rows = datasets.load_dataset(str(tmp_path / "corpus"), split="test")
    assert len(rows) == 36
    assert rows["scan_index"][:] == sorted(rows["scan_index"])


def test_texts_that_are_written_a_few_scans_at_a_time_are_the_same(corpus, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.corpus.steps.TEXT_SCANS", 2)
    build_corpus(scans, tmp_path / "corpus", CONFIG)
    for config in ("all", *CONFIG.families):
        expected, found = (datasets.load_dataset(str(each), config) for each in (corpus, tmp_path / "corpus"))
        assert {split: rows[:] for split, rows in found.items()} == {
            split: rows[:] for split, rows in expected.items()
        }


def test_bad_input_is_refused(scans, tmp_path, capsys):
    for message, arguments in {
        "No scan is from site Z; the sites are A, B": ["--holdout-site", "Z"],
        "no column 'family_id' to keep subjects together": ["--group-by", "family_id"],
        "Unknown descriptor families ['magic']": ["--families", "magic"],
        "lengths=['novel'] found": ["--lengths", "novel"],
        "wordings=0 found": ["--wordings", "0"],
        "workers=0 found": ["--workers", "0"],
    }.items():
        out = tmp_path / "out"
        assert cli.main(["corpus", "build", str(scans), "--out", str(out), *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ScanError, match="does not exist"):
        build_corpus(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds no corpus \(thesis.txt\): give a new folder"):
        build_corpus(scans, tmp_path / "full")


def test_scans_without_atlas_or_with_a_double_id_are_refused(tmp_path):
    rows = cohort()[:4]
    rows[2]["scan_id"] = rows[0]["scan_id"]
    scans = write_raw(rows, tmp_path / "scans")
    with pytest.raises(ScanError, match=r"'sub-A0001_ses-1' occurs twice in scans"):
        build_corpus(scans, tmp_path / "out")
    (scans / "atlas.json").unlink()
    with pytest.raises(ScanError, match=r"no atlas.json next to the scans of scans"):
        build_corpus(scans, tmp_path / "out")
    file = scans / "scans.parquet"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ScanError, match=r"scans is not readable: a file of it may be truncated"):
        build_corpus(scans, tmp_path / "out", atlas=ATLAS)


def test_two_processes_give_the_same_bytes(corpus, scans, tmp_path):
    build_corpus(scans, tmp_path / "corpus", CONFIG, workers=2)
    assert checksums(tmp_path / "corpus") == checksums(corpus)


def die(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_process_that_dies_is_reported():
    with steps.open_workers(2) as run, pytest.raises(OSError, match="A worker process ended unexpectedly"):
        list(run(die, [1, 2]))


def test_a_scheduler_that_does_not_answer_is_reported(scans, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(OSError, match="No Dask scheduler answers at nonsense://1"):
        build_corpus(scans, tmp_path / "corpus", scheduler="nonsense://1")


@pytest.mark.slow
def test_dask_workers_give_the_same_bytes_though_one_is_killed(corpus, scans, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("fmri_lm_hf.corpus.chunks.MIN_CHUNK_SCANS", 1)  # 32 tasks a step
    out = tmp_path / "corpus"
    done_when_killed: list[int] = []

    def kill_half_way() -> None:
        while not done_when_killed and not (out / "provenance.json").exists():
            done = len(list(out.glob(".build/features/*.parquet")))
            if done >= 8:
                workers[0].kill()
                done_when_killed.append(done)
            time.sleep(0.002)

    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs="CRITICAL") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
        workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            with distributed.Client(cluster) as client:
                client.wait_for_workers(2, timeout=60)
            killer = threading.Thread(target=kill_half_way, daemon=True)
            killer.start()
            build_corpus(scans, out, CONFIG, scheduler=cluster.scheduler_address)
            killer.join(5)
            assert [worker.poll() is None for worker in workers] == [False, True]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert 8 <= done_when_killed[0] < 32
    assert checksums(out) == checksums(corpus)
