"""Datasets: Parquet with a card and its atlas in one commit, and nothing that must not leave the house."""

from __future__ import annotations

import json

import pytest
from hub_processes import ClientError
from huggingface_hub import DatasetCard

PUSH = """
import fmri_lm_hf.hub.download as errors
from fmri_lm_hf.hub import push_to_hub
errors._FIRST_WAIT = 0.05
pushed = push_to_hub(folder, repo, **options)
from huggingface_hub import hf_hub_download
card = open(hf_hub_download(repo, "README.md", repo_type="dataset", revision=pushed.commit)).read()
result = {"uploaded": sorted(pushed.uploaded), "card": card}
"""
MAKE = """
import tiny
from fmri_lm_hf.scans import write_scan_dataset
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i % 3}", "site": "AB"[i % 2], "t_r": 2.0, "bold": tiny.scan(i),
         "sex": "FM"[i % 2]} for i in range(6)]
write_scan_dataset(rows, folder, tiny.atlas(), shard_bytes=1000, parameters=parameters)
"""


@pytest.fixture(scope="module")
def make(client):
    def make(folder, **parameters):
        client.run(MAKE, folder=folder, parameters=parameters)
        return folder

    return make


def test_a_scan_dataset_is_pushed_with_its_atlas_and_a_card_of_what_is_in_it(hub, client, make, tmp_path):
    pushed = client.run(PUSH, folder=make(tmp_path / "scans"), repo="org/rest-scans", options={})
    state = hub.state("datasets/org/rest-scans")
    assert len(state["commits"]) == 2
    assert {"atlas.json", "provenance.json", "README.md", "data/train-00000.parquet"} <= set(state["files"])
    metadata = DatasetCard(pushed["card"]).data.to_dict()
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert metadata["license"] == "unknown"
    assert 'load_dataset("org/rest-scans", split="train")' in pushed["card"]
    assert "| A | 3 | 3 | 2.0 |" in pushed["card"]
    again = client.run(PUSH, folder=tmp_path / "scans", repo="org/rest-scans", options={})
    assert again["uploaded"] == []


def test_splits_of_a_saved_dataset_are_named_and_shards_are_bounded(hub, client, tmp_path):
    save = """
import tiny
from datasets import Dataset, DatasetDict
rows = Dataset.from_list([{"scan_id": f"s{i}", "text": "word " * 200} for i in range(8)])
DatasetDict(train=rows, test=rows.select([0, 1])).save_to_disk(folder)
"""
    client.run(save, folder=tmp_path / "pairs")
    pushed = client.run(PUSH, folder=tmp_path / "pairs", repo="org/rest-pairs", options={"max_shard_size": "3KB"})
    files = [name for name in hub.state("datasets/org/rest-pairs")["files"] if name.startswith("data/")]
    assert sorted(files) == [
        "data/test-00000-of-00001.parquet",
        *(f"data/train-0000{i}-of-00003.parquet" for i in range(3)),
    ]
    splits = {entry["split"] for entry in DatasetCard(pushed["card"]).data.to_dict()["configs"][0]["data_files"]}
    assert splits == {"train", "test"}
    load = "from datasets import load_dataset; result = load_dataset('org/rest-pairs').num_rows"
    assert client.run(load) == {"train": 8, "test": 2}
    # Fewer shards next time: those of before go.
    client.run(PUSH, folder=tmp_path / "pairs", repo="org/rest-pairs", options={})
    assert len([name for name in hub.state("datasets/org/rest-pairs")["files"] if name.startswith("data/train")]) == 1


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_that_comes_between_is_waited_for(hub, client, make, tmp_path, status):
    hub.faults({"step": "commit", "status": status, "count": 2})
    client.run(PUSH, folder=make(tmp_path / "scans"), repo=f"org/conflict-{status}", options={})
    assert len(hub.state(f"datasets/org/conflict-{status}")["commits"]) == 2


def test_a_real_conflict_keeps_both_commits(hub, client, make, tmp_path):
    """Somebody commits between our look at the head and our commit: theirs stays, ours comes on top."""
    race = """
import huggingface_hub.hf_api as hf_api
original, others = hf_api.HfApi.preupload_lfs_files, []
def with_a_commit_between(self, *args, **kwargs):
    if not others:
        others.append(True)
        self.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=repo, repo_type="dataset")
    return original(self, *args, **kwargs)
hf_api.HfApi.preupload_lfs_files = with_a_commit_between
"""
    client.run(race + PUSH, folder=make(tmp_path / "scans"), repo="org/race", options={})
    state = hub.state("datasets/org/race")
    assert {"theirs.txt", "atlas.json", "data/train-00000.parquet"} <= set(state["files"])
    assert len(state["commits"]) == 3


def controlled_by_card(folder):
    (folder / "README.md").write_text("---\ncontrolled: true\n---\n")


def controlled_by_provenance(folder):
    record = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**record, "controlled": True}))


def controlled_by_parameters(folder):
    record = json.loads((folder / "provenance.json").read_text())
    record["parameters"]["controlled"] = True
    (folder / "provenance.json").write_text(json.dumps(record))


@pytest.mark.parametrize("declare", [controlled_by_card, controlled_by_provenance, controlled_by_parameters])
def test_scans_of_a_controlled_cohort_are_refused_unless_confirmed(hub, client, make, tmp_path, declare):
    folder, repo = make(tmp_path / "scans"), f"org/{declare.__name__.replace('_', '-')}"
    declare(folder)
    hub.faults()
    with pytest.raises(ClientError, match=r"declares its cohort as controlled: .* nothing was sent"):
        client.run(PUSH, folder=folder, repo=repo, options={})
    assert hub.log() == []
    pushed = client.run(PUSH, folder=folder, repo=repo, options={"confirm_controlled": True})
    assert hub.state(f"datasets/{repo}")["private"]
    metadata = DatasetCard(pushed["card"]).data.to_dict()
    assert "will not try to identify the person of a scan" in metadata["extra_gated_prompt"]
    assert metadata["extra_gated_fields"]["Purpose"] == "text"
    assert "Data-use checklist" in pushed["card"]


def test_confirmed_scans_do_not_go_to_a_repository_that_everybody_reads(hub, client, make, tmp_path):
    folder, repo = make(tmp_path / "scans"), "org/open-house"
    controlled_by_provenance(folder)
    client.run("from huggingface_hub import HfApi; HfApi().create_repo(repo, repo_type='dataset')", repo=repo)
    with pytest.raises(
        ClientError, match="org/open-house exists and is public, and nothing was sent: make it private"
    ):
        client.run(PUSH, folder=folder, repo=repo, options={"confirm_controlled": True})
    assert hub.state(f"datasets/{repo}")["commits"] == ["initial commit"]
    gate = "from huggingface_hub import HfApi; HfApi().update_repo_settings(repo, repo_type='dataset', gated='manual')"
    client.run(gate, repo=repo)
    client.run(PUSH, folder=folder, repo=repo, options={"confirm_controlled": True})
    assert "data/train-00000.parquet" in hub.state(f"datasets/{repo}")["files"]


def test_secrets_in_columns_and_in_the_schema_are_found(client, tmp_path):
    save = """
import pyarrow as pa, pyarrow.parquet as pq, pathlib
pathlib.Path(folder).mkdir()
table = pa.table({"scan_id": ["a", "b"], "file": ["x", value]})
pq.write_table(table.replace_schema_metadata({"made_from": metadata}), folder + "/train.parquet")
"""
    for value, metadata, place in (
        ("/home/someone/scan.nii.gz", "", r"train.parquet \(column file\).*: a local path"),
        ("x", "/scratch/lab/scans", r"train.parquet \(metadata\).*: a local path"),
    ):
        folder = tmp_path / ("a" if metadata else "b")
        client.run(save, folder=str(folder), value=value, metadata=metadata)
        with pytest.raises(ClientError, match=place):
            client.run(PUSH, folder=folder, repo="org/secret", options={})


def test_a_card_that_came_with_the_data_names_its_new_repository(client, make, tmp_path):
    folder = make(tmp_path / "scans")
    card = client.run(PUSH, folder=folder, repo="org/first-home", options={})["card"]
    (folder / "README.md").write_text(card.replace("## Limits", "## Limits that we know of"))
    moved = client.run(PUSH, folder=folder, repo="org/second-home", options={})["card"]
    assert 'load_dataset("org/second-home", split="train")' in moved
    assert "## Limits that we know of" in moved
    assert "| A | 3 | 3 | 2.0 |" in moved
