"""Pushing into a repository that holds something already: what is there, and is not replaced, stays."""

from __future__ import annotations

import json

import pytest
from hub_processes import ClientError
from huggingface_hub import DatasetCard

PUSH = """
import tiny
from fmri_lm_hf.hub import push_to_hub
from huggingface_hub import HfApi, hf_hub_download
pushed = push_to_hub(eval(artifact) if artifact else folder, repo, **options)
def show(name):
    return open(hf_hub_download(repo, name, repo_type=pushed.repo_type, revision=pushed.commit)).read()
result = {"deleted": sorted(pushed.deleted), "uploaded": sorted(pushed.uploaded), "card": show("README.md")}
names = [entry.path for entry in HfApi().list_repo_tree(repo, repo_type=pushed.repo_type, revision=pushed.commit)]
result["training"] = show("training_info.json") if "training_info.json" in names else None
"""


@pytest.fixture
def push(client, tmp_path):
    def push(repo, artifact=None, folder=None, **options):
        return client.run(PUSH, repo=repo, artifact=artifact, folder=folder, options=options)

    return push


@pytest.fixture
def folder(client, tmp_path):
    client.run("import tiny; tiny.save(folder)", folder=tmp_path / "model")
    return tmp_path / "model"


def test_a_processor_that_comes_after_the_model_leaves_its_card_and_record(push, folder):
    first = push("org/model-first", folder=folder)
    second = push("org/model-first", artifact="tiny.processor()")
    assert second["training"] == first["training"]
    assert "Trained on simulated scans" in second["card"]
    assert "| sex | **this model** | 0.800 | 0.790 | 0.850 |" in second["card"]
    assert second["card"].count("| parameters |") == 1
    assert "| parameters | [not recorded] |" not in second["card"]


def test_a_model_that_comes_after_its_processor_gets_the_card_of_a_model(push):
    assert push("org/processor-first", artifact="tiny.processor()")["training"] is None
    card = push("org/processor-first", artifact="tiny.language_model()")["card"]
    for block in ("about", "use", "training", "scores", "license"):
        assert card.count(f"<!-- generated:{block} ") == 1, block
    assert "fmri-zero-shot-classification" in card


def test_an_unchanged_model_keeps_its_record_and_new_weights_do_not_inherit_scores(push, folder):
    first = push("org/pushed-again", folder=folder)
    same = push("org/pushed-again", artifact="tiny.language_model(seed=0)", processor=None)
    assert same["training"] == first["training"]
    assert "model.safetensors" not in same["uploaded"]
    assert "| sex | **this model** | 0.800 |" in same["card"]
    other = push("org/pushed-again", artifact="tiny.language_model(seed=5)")
    assert json.loads(other["training"]) == {"training": "[not recorded]", "simulated": True}
    assert "results.json" in other["deleted"]
    assert "this model** |" not in other["card"]
    assert "model-index" not in other["card"]
    assert "Trained on simulated scans" in other["card"]


def test_scores_on_scans_of_the_hub_are_what_the_hub_reads_and_go_with_their_record(push, folder, client):
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(
        json.dumps(results | {"dataset": "org/scans", "commits": {"org/scans": "a" * 40}})
    )
    assert ".eval_results/fmri_lm_hf.yaml" in push("org/on-the-hub", folder=folder)["uploaded"]
    read = """
import yaml
from huggingface_hub import hf_hub_download, parse_eval_result_entries
file = hf_hub_download(repo, ".eval_results/fmri_lm_hf.yaml")
found = parse_eval_result_entries(yaml.safe_load(open(file)))
result = [[e.dataset_id, e.task_id, e.value, e.dataset_revision] for e in found]
"""
    sex = results["tasks"]["sex"]["fmri_lm"]["balanced_accuracy"]
    assert ["org/scans", "sex", sex, "a" * 40] in client.run(read, repo="org/on-the-hub")
    assert push("org/on-the-hub", folder=folder)["uploaded"] == []
    (folder / "results.json").write_text(json.dumps(results))  # judged on scans of one's own
    assert push("org/on-the-hub", folder=folder)["deleted"] == [".eval_results/fmri_lm_hf.yaml"]


def test_a_warning_goes_when_the_record_says_that_the_scans_were_real(push, folder):
    assert "simulated-data" in push("org/real", folder=folder)["card"]
    (folder / "training_info.json").write_text('{"simulated": false, "n_scans": 9}')
    card = push("org/real", folder=folder)["card"]
    assert "Trained on simulated scans" not in card
    assert "simulated-data" not in card


def test_what_a_person_wrote_stays_when_somebody_else_pushes(push, folder):
    (folder / "README.md").write_text("# Ours\n\nMade in spring.\n")
    push("org/shared", folder=folder)
    (folder / "README.md").unlink()
    (folder / "results.json").unlink()
    assert "Made in spring." in push("org/shared", folder=folder)["card"]
    assert "Made in spring." in push("org/shared", artifact="tiny.language_model(seed=3)")["card"]


CORPUS = """
import pathlib
from datasets import Dataset
from fmri_lm_hf.cards.rendering import join_card, sign_card
rows = Dataset.from_list([{"scan_id": f"s{i}", "text": f"Scan {i}."} for i in range(4)])
for config in ("all", "graph", "ica"):
    for split in ("train", "validation", "test"):
        path = pathlib.Path(folder, "data", config, f"{split}-00000.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path)
pathlib.Path(folder, "provenance.json").write_text("{}")
configs = [{"config_name": c, "data_files": [{"split": s, "path": f"data/{c}/{s}-*.parquet"}
            for s in ("train", "validation", "test")]} for c in ("all", "graph", "ica")]
configs[0]["default"] = True
body = "\\n# Pairs\\n\\n<!-- generated:about -->\\nThree configs.\\n<!-- /generated:about -->\\n"
pathlib.Path(folder, "README.md").write_text(sign_card(join_card({"configs": configs}, body)))
"""


def data(hub, repo):
    return sorted(name for name in hub.state(f"datasets/{repo}")["files"] if name.startswith("data/"))


def test_one_config_pushed_as_an_object_leaves_the_others(hub, client, push, tmp_path):
    client.run(CORPUS, folder=tmp_path / "corpus")
    push("org/pairs-2", folder=tmp_path / "corpus")
    before = data(hub, "org/pairs-2")
    assert len(before) == 9
    load = "__import__('datasets').load_dataset('org/pairs-2', 'graph')"
    pushed = push("org/pairs-2", artifact=load)
    assert pushed["deleted"] == [f"data/graph/{split}-00000.parquet" for split in ("test", "train", "validation")]
    assert set(before) - set(data(hub, "org/pairs-2")) == set(pushed["deleted"])
    assert "Three configs." in pushed["card"]
    configs = {entry["config_name"]: entry for entry in DatasetCard(pushed["card"]).data.to_dict()["configs"]}
    assert {name: entry.get("default") for name, entry in configs.items()} == {
        "all": True,  # what a card says of a config besides its files stays
        "graph": None,
        "ica": None,
    }
    count = "import datasets; result = {c: datasets.load_dataset('org/pairs-2', c).num_rows for c in ('all', 'graph')}"
    rows = {"train": 4, "validation": 4, "test": 4}
    assert client.run(count) == {"all": rows, "graph": rows}


def test_one_split_pushed_as_an_object_leaves_the_others(hub, client, push):
    make = """
from datasets import Dataset, DatasetDict
import tiny
from fmri_lm_hf.hub import push_to_hub
rows = Dataset.from_list([{"scan_id": f"s{i}", "text": "x"} for i in range(6)])
push_to_hub(DatasetDict(train=rows, validation=rows, test=rows), "org/splits")
"""
    client.run(make)
    load = "__import__('datasets').load_dataset('org/splits', split='test').select([0, 1])"
    pushed = push("org/splits", artifact=load)
    assert pushed["deleted"] == []
    assert pushed["uploaded"] == ["data/test-00000-of-00001.parquet"]
    count = "import datasets; result = datasets.load_dataset('org/splits').num_rows"
    assert client.run(count) == {"train": 6, "validation": 6, "test": 2}


def test_the_command_lists_what_it_deletes(client, folder):
    command = """
import contextlib, io
from fmri_lm_hf.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    assert main(["push", folder, "org/listed", *more]) == 0
result = out.getvalue()
"""
    client.run(command, folder=folder, more=[])
    (folder / "model.safetensors").unlink()
    client.run("import tiny; tiny.language_model(1).save_pretrained(folder, max_shard_size='20KB')", folder=folder)
    assert "deleted: model.safetensors\n" in client.run(command, folder=folder, more=[])


def test_a_corrupted_cache_does_not_reach_the_next_card(client, push, folder):
    push("org/cached", folder=folder)
    spoil = """
from huggingface_hub import hf_hub_download
path = hf_hub_download("org/cached", "README.md")
size = len(open(path, "rb").read())
open(path, "wb").write(b"x" * size)
"""
    client.run(spoil)
    push("org/cached", artifact="tiny.language_model(seed=2)")
    read = "from huggingface_hub import hf_hub_download as get\n"
    card = client.run(read + "result = open(get('org/cached', 'README.md', force_download=True)).read()")
    assert card.startswith("---\n")
    assert "Trained on simulated scans" in card


def test_a_card_that_arrives_damaged_is_read_again_and_never_published(hub, push, folder):
    push("org/proxied", folder=folder)
    hub.faults({"step": "resolve", "act": "corrupt"})
    card = push("org/proxied", artifact="tiny.language_model(seed=2)")["card"]
    assert any(entry["fault"] for entry in hub.log()), "the fault was not met"
    assert "Trained on simulated scans" in card
    before = hub.state("models/org/proxied")["commits"]
    hub.faults({"step": "resolve", "act": "corrupt", "count": 100})
    with pytest.raises(ClientError, match=r"arrives with other bytes than .*nothing was committed"):
        push("org/proxied", artifact="tiny.language_model(seed=3)")
    assert hub.state("models/org/proxied")["commits"] == before


CONTROLLED = """
import pathlib, shutil
import datasets, tiny
from fmri_lm_hf.hub import push_to_hub
from fmri_lm_hf.scans import load_scan_dataset, write_scan_dataset
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "A", "t_r": 2.0, "bold": tiny.scan(i)} for i in range(3)]
write_scan_dataset(rows, "controlled", tiny.atlas(), parameters={"cohort": [{"controlled": True}]})
write_scan_dataset(rows, "declared-later", tiny.atlas())
pathlib.Path("declared-later/documents").mkdir()
pathlib.Path("declared-later/documents/terms.json").write_text('{"terms": [{"nested": {"controlled": true}}]}')
load_scan_dataset("declared-later")[0].save_to_disk("saved")
artifacts = {
    "load_scan_dataset": lambda: load_scan_dataset("declared-later")[0],
    "selected": lambda: load_scan_dataset("declared-later")[0].select([0]).map(lambda row: {"more": 1}),
    "batched": lambda: load_scan_dataset("declared-later")[0].batch(2),
    "renamed": lambda: load_scan_dataset("declared-later")[0].rename_column("bold", "series").sort("scan_id"),
    "load_dataset": lambda: datasets.load_dataset("controlled", split="train"),
    "save_to_disk": lambda: "saved",
    "load_from_disk": lambda: datasets.load_from_disk("saved"),
    "in a subfolder": lambda: "declared-later",
    "in a list": lambda: "controlled",
    "written again": lambda: write_scan_dataset(load_scan_dataset("declared-later")[0], "written", tiny.atlas()),
}
result = {}
for name, artifact in artifacts.items():
    try:
        push_to_hub(artifact(), "org/leak")
        result[name] = "published"
    except ValueError as error:
        result[name] = "controlled" in str(error) and "nothing was sent" in str(error)
"""


def test_the_declaration_of_a_controlled_cohort_travels_with_objects(hub, client):
    hub.faults()
    results = client.run(CONTROLLED)
    assert set(results.values()) == {True}, results
    assert hub.log() == []


def test_what_an_object_does_not_declare_is_taken_from_the_head(hub, client):
    again = """
import tiny
from datasets import Dataset
from fmri_lm_hf.hub import push_to_hub
rows = Dataset.from_list([{"scan_id": "a", "text": "x"}])
push_to_hub("controlled", "org/house", confirm_controlled=True)
push_to_hub(rows, "org/house")
"""
    with pytest.raises(ClientError, match="org/house declares its cohort as controlled"):
        client.run(again)
    assert hub.state("datasets/org/house")["private"]
    assert len(hub.state("datasets/org/house")["commits"]) == 2


def test_simulated_scans_say_so_as_objects_too(client):
    push = """
import tiny
from fmri_lm_hf.hub import push_to_hub
from fmri_lm_hf.scans import load_scan_dataset, write_scan_dataset
from huggingface_hub import hf_hub_download
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "A", "t_r": 2.0, "bold": tiny.scan(i)} for i in range(3)]
write_scan_dataset(rows, "made-up", tiny.atlas(), parameters={"simulated": True})
push_to_hub(load_scan_dataset("made-up")[0].select([1]), "org/made-up")
result = open(hf_hub_download("org/made-up", "README.md", repo_type="dataset")).read()
"""
    card = client.run(push)
    assert "No person was scanned" in card
    assert "- simulated-data" in card
