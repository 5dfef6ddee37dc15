"""A push ends complete, in one commit, whatever happens on the way; what must not be published is not sent."""

from __future__ import annotations

import json
import os
import signal

import pytest
from hub_processes import ClientError, wait_until

PUSH = """
import logging, fmri_lm_hf.hub.download as errors
from fmri_lm_hf.hub import push_to_hub
errors._FIRST_WAIT = 0.05
pushed = push_to_hub(folder, repo, **options)
result = {"commit": pushed.commit, "uploaded": sorted(pushed.uploaded), "left_out": list(pushed.left_out),
          "deleted": list(pushed.deleted), "url": pushed.url, "repo_id": pushed.repo_id}
"""


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it that a test may change."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def expected(hub, client, saved):
    """What the repository holds after an undisturbed push."""
    client.run(PUSH, folder=saved, repo="org/undisturbed", options={})
    return hub.state("models/org/undisturbed")["files"]


def comparable(files):
    """Checksums of all files but the card, which names its repository; the code may change while tests run."""
    return {name: name if name.endswith(".py") else sha for name, sha in files.items() if name != "README.md"}


def test_a_push_is_one_commit_with_everything_that_loading_needs(hub, client, folder):
    pushed = client.run(PUSH, folder=folder, repo="org/complete", options={})
    state = hub.state("models/org/complete")
    assert state["commits"] == ["Publish fmri lm with fmri_lm_hf", "initial commit"]
    assert state["branches"]["main"] == pushed["commit"]
    assert {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "training_info.json",
        "results.json",
        "modeling_fmri_lm.py",
        "processing_fmri_lm.py",
    } <= set(state["files"])


def test_pushing_again_changes_nothing_and_pushing_a_change_sends_only_that(hub, client, folder):
    first = client.run(PUSH, folder=folder, repo="org/again", options={})
    again = client.run(PUSH, folder=folder, repo="org/again", options={})
    assert (again["commit"], again["uploaded"]) == (first["commit"], [])
    client.run("import tiny; tiny.language_model(seed=1).save_pretrained(folder)", folder=folder)
    changed = client.run(PUSH, folder=folder, repo="org/again", options={})
    assert changed["uploaded"] == ["model.safetensors"]
    assert len(hub.state("models/org/again")["commits"]) == 3


FAULTS = [
    {"step": step, **fault}
    for step in ("create_repo", "info", "tree", "validate_yaml", "commit")
    for fault in (
        {"status": 503},
        {"status": 429},
        {"status": 500},
        {"act": "cut"},
        {"act": "cut", "when": "after"},
    )
] + [
    # Steps that the client itself repeats, waiting a second each time.
    {"step": "preupload", "status": 503},
    {"step": "lfs_batch", "act": "cut", "when": "after"},
    {"step": "lfs_put", "status": 500},
    {"step": "lfs_put", "act": "cut", "when": "after"},
    {"step": "lfs_verify", "status": 503},
    {"step": "commit", "status": 503, "when": "after"},
    {"step": "commit", "status": 409},
    {"step": "commit", "status": 412},
    {"step": "commit", "act": "cut", "when": "after", "count": 2},
    {"step": "commit", "status": 503, "count": 4},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(str(v) for v in fault.values()))
def test_a_disturbed_push_ends_as_an_undisturbed_one(hub, client, saved, expected, fault):
    repo = "org/disturbed-" + "-".join(str(value) for value in fault.values())
    hub.faults(fault)
    client.run(PUSH, folder=saved, repo=repo, options={})
    assert any(entry["fault"] for entry in hub.log()), "the fault was not met"
    state = hub.state(f"models/{repo}")
    assert comparable(state["files"]) == comparable(expected)
    assert len(state["commits"]) == 2


@pytest.mark.parametrize("step", ["create_repo", "tree", "preupload", "lfs_batch", "lfs_put", "commit"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_push_is_completed_by_the_next(hub, client, saved, expected, step, when):
    repo = f"org/killed-{step}-{when}"
    hub.faults({"step": step, "act": "hang", "when": when})
    pid = client.start(PUSH, folder=saved, repo=repo, options={})
    wait_until(lambda: any(entry["fault"] == "hang" for entry in hub.log()))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ClientError, match="Killed"):
        client.wait()
    hub.control("release")
    hub.faults()
    client.run(PUSH, folder=saved, repo=repo, options={})
    state = hub.state(f"models/{repo}")
    assert comparable(state["files"]) == comparable(expected)
    assert len(state["commits"]) == 2


def test_a_server_that_stays_down_ends_in_one_sentence(hub, client, saved):
    hub.faults({"step": "commit", "status": 503, "count": 100})
    with pytest.raises(ClientError, match=r"HubAccessError: .* answered 503 for org/down; try again later\.$"):
        client.run(
            "import fmri_lm_hf.hub.download as e; e._ATTEMPTS = 2\n" + PUSH,
            folder=saved,
            repo="org/down",
            options={},
        )


def test_shards_of_an_earlier_push_do_not_stay(hub, client, folder):
    shard = "import tiny; tiny.language_model().save_pretrained(folder, max_shard_size='20KB')"
    (folder / "model.safetensors").unlink()
    client.run(shard, folder=folder)
    client.run(PUSH, folder=folder, repo="org/shards", options={})
    shards = [name for name in hub.state("models/org/shards")["files"] if name.startswith("model-0")]
    assert len(shards) > 1
    for path in folder.glob("model*"):
        path.unlink()
    client.run("import tiny; tiny.language_model().save_pretrained(folder)", folder=folder)
    client.run(PUSH, folder=folder, repo="org/shards", options={})
    files = hub.state("models/org/shards")["files"]
    assert [name for name in files if name.startswith("model") and not name.endswith(".py")] == ["model.safetensors"]


def test_a_branch_is_created_and_main_stays(hub, client, saved):
    client.run(PUSH, folder=saved, repo="org/branches", options={"revision": "run-2", "private": True})
    state = hub.state("models/org/branches")
    assert state["private"]
    assert state["commits"] == ["initial commit"]
    assert state["branches"]["run-2"] != state["branches"]["main"]


def test_private_is_not_pushed_into_a_public_repository(hub, client, saved):
    client.run(PUSH, folder=saved, repo="org/public", options={})
    with pytest.raises(ClientError, match="org/public exists and is public, and nothing was sent"):
        client.run(PUSH, folder=saved, repo="org/public", options={"private": True})


def test_a_token_that_may_not_write_is_named(client, saved):
    with pytest.raises(ClientError, match="HubAccessError: Your token may not write to someone-else/model"):
        client.run(PUSH, folder=saved, repo="someone-else/model", options={})


INCOMPLETE = {
    "generation_config.json": "generation_config.json .save it with `model.save_pretrained",
    "processor_config.json": "processor_config.json .save it with `processor.save_pretrained",
    "model.safetensors": "model.safetensors or model.safetensors.index.json",
}


@pytest.mark.parametrize("missing", INCOMPLETE)
def test_an_incomplete_folder_is_refused(hub, client, folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ClientError, match=INCOMPLETE[missing]):
        client.run(PUSH, folder=folder, repo="org/incomplete", options={})
    assert hub.log() == []
    if missing == "processor_config.json":
        client.run(PUSH, folder=folder, repo="org/part", options={"allow_incomplete": True})
        assert "processor_config.json" not in hub.state("models/org/part")["files"]


def test_what_can_run_code_is_refused_and_a_trainers_state_stays_behind(hub, client, folder):
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(b"x")
    pushed = client.run(PUSH, folder=folder, repo="org/trained", options={})
    assert pushed["left_out"] == ["checkpoint-10/optimizer.pt", "training_args.bin"]
    assert not set(pushed["left_out"]) & set(hub.state("models/org/trained")["files"])
    hub.faults()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ClientError, match=r"holds pytorch_model.bin: files that can run code .* expected safetensors"):
        client.run(PUSH, folder=folder, repo="org/trained", options={})
    assert hub.log() == []


def test_weights_that_are_cut_short_are_refused(client, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ClientError, match=r"model.safetensors cannot be read as safetensors .* cut short or corrupt"):
        client.run(PUSH, folder=folder, repo="org/short", options={})


def test_an_index_without_its_shards_is_refused(client, folder):
    (folder / "model.safetensors").unlink()
    client.run("import tiny; tiny.language_model().save_pretrained(folder, max_shard_size='20KB')", folder=folder)
    missing = sorted(folder.glob("model-0*.safetensors"))[0]
    missing.unlink()
    with pytest.raises(ClientError, match=f"index.json lists {missing.name}"):
        client.run(PUSH, folder=folder, repo="org/short", options={})


def test_a_file_beyond_the_bound_is_refused(client, folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5 * 10**9 + 1)  # a hole: it takes no room on the disk
    with pytest.raises(ClientError, match=r"model.safetensors has 5.0 GB; .*`max_shard_size='2GB'`"):
        client.run(PUSH, folder=folder, repo="org/big", options={})


def test_the_old_keyword_of_the_artifact_works_for_one_release(tmp_path):
    from fmri_lm_hf.hub import push_to_hub

    with (
        pytest.warns(FutureWarning, match="`thing` is now `artifact`"),
        pytest.raises(ValueError, match="absent is not a folder"),
    ):
        push_to_hub(thing=tmp_path / "absent", repo_id="org/absent")


SECRETS = {
    "a token": (
        "training_info.json",
        {"token": "hf_" + "A1b2" * 9},
        "training_info.json.*: a Hugging Face token .hf_A1b",
    ),
    "the own token": ("notes.txt", "w" * 34, "notes.txt: your own Hugging Face token"),
    "a local path": (
        "training_info.json",
        {"scans": "/scratch/lab/scans"},
        "a local path ./scratch/lab/scans",
    ),
    "a home": ("results.json", {"from": "/home/jdoe/x"}, "results.json: a local path ./home/jdoe/x"),
    "windows": ("results.json", {"from": r"C:\Users\jdoe\x"}, "results.json: a local path .C:"),
    "a user name": ("training_info.json", {"by": "jdoe-lab17"}, "the name of the local user .jdoe-lab17"),
    "a key": ("notes.md", "-----BEGIN OPENSSH PRIVATE KEY-----", "notes.md: a private key"),
    "in its name": ("notes-jdoe-lab17.md", "", "the name of 'notes-jdoe-lab17.md'"),
}


@pytest.mark.parametrize("case", SECRETS)
def test_nothing_private_is_sent(hub, client, folder, case):
    name, content, message = SECRETS[case]
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    token = "import os; os.environ['HF_TOKEN'] = 'w' * 34; os.environ['LOGNAME'] = 'jdoe-lab17'\n"
    with pytest.raises(ClientError, match="Nothing was sent, because this would become public:(.|\n)*" + message):
        client.run(token + PUSH, folder=folder, repo="org/secret", options={})
    assert hub.log() == []


def test_no_pushed_file_holds_anything_of_this_machine(hub, client, saved, tmp_path):
    """Read back everything that was published, and look for the token, the folders and the user's name."""
    client.run(PUSH, folder=saved, repo="org/clean", options={})
    read = """
import getpass, os, pathlib
from huggingface_hub import snapshot_download
found = b"".join(p.read_bytes() for p in pathlib.Path(snapshot_download("org/clean")).rglob("*") if p.is_file())
words = [os.environ["HF_TOKEN"], os.environ["HF_HOME"], os.path.dirname(saved), os.getcwd(), "/home/", "/tmp/"]
result = [word for word in words if word.encode() in found]
"""
    assert client.run(read, saved=str(saved)) == []


FOREIGN = {
    "text_config.auto_map": ({"text_config": {"auto_map": {"AutoModel": "m.M"}}}, "text_config: `auto_map`"),
    "kernel": (
        {"text_config": {"_attn_implementation": "org/kernel"}},
        "`_attn_implementation` is 'org/kernel'",
    ),
    "kernel switch": ({"use_kernels": True}, "`use_kernels` is True"),
    "quantization": ({"quantization_config": {"quant_method": "mxfp4"}}, "`quantization_config` is 'mxfp4'"),
    "foreign code": ({"auto_map": {"AutoModel": "org/other--m.M"}}, "points at code of another repository"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_configuration_that_would_load_foreign_code_is_refused(hub, client, folder, case):
    change, message = FOREIGN[case]
    config = json.loads((folder / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if key == "text_config" else value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClientError, match=message):
        client.run(PUSH, folder=folder, repo="org/foreign", options={})
    assert hub.log() == []


def test_other_things_are_refused_with_what_to_do(client, tmp_path):
    with pytest.raises(ClientError, match="is not a folder; give the folder that `save_pretrained` wrote"):
        client.run(PUSH, folder=tmp_path / "none", repo="org/x", options={})
    with pytest.raises(ClientError, match=r"holds neither a model .* nor a dataset .*; found no files"):
        client.run(PUSH, folder=tmp_path, repo="org/x", options={})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ClientError, match="has the model type 'llama'; expected 'fmri_lm' or 'fmri_tokenizer'"):
        client.run(PUSH, folder=tmp_path, repo="org/x", options={})
    for name in ("a/b/c", "a b", ""):
        with pytest.raises(ClientError, match="must be named 'organisation/name' or 'name', got '"):
            client.run(PUSH, folder=tmp_path, repo=name, options={})


def test_weights_without_a_record_say_so_and_a_record_of_scores_fills_the_card(hub, client, folder):
    show = "from huggingface_hub import hf_hub_download; result = open(hf_hub_download(repo, name)).read()"
    (folder / "results.json").unlink()
    (folder / "training_info.json").unlink()
    client.run(PUSH, folder=folder, repo="org/unrecorded", options={})
    assert "[not recorded]" in client.run(show, repo="org/unrecorded", name="training_info.json")
    scores = {"sex": {"fmri_lm": {"accuracy": 0.75}, "majority": {"accuracy": 0.5}}}
    (folder / "training_info.json").write_text(json.dumps({"scores": scores, "n_scans": 12}))
    client.run(PUSH, folder=folder, repo="org/recorded", options={})
    card = client.run(show, repo="org/recorded", name="README.md")
    assert "| sex | majority | 0.500 | [not recorded] | [not recorded] |" in card
    assert "| n_scans | 12 |" in card


def test_every_object_pushes_itself(hub, client):
    push = """
import tiny
tiny.fmri_tokenizer().push_to_hub("org/itself", allow_incomplete=True)
tiny.processor().push_to_hub("org/processor-alone")
tiny.language_model().push_to_hub("org/lm-alone", processor=tiny.processor(), allow_incomplete=True)
result = tiny.feature_extractor().push_to_hub("org/extractor", private=True).commit
"""
    commit = client.run(push)
    state = hub.state("models/org/extractor")
    assert state["private"]
    assert state["branches"]["main"] == commit
    assert {"README.md", "preprocessor_config.json", "feature_extraction_fmri.py"} <= set(state["files"])
    assert {"README.md", "model.safetensors"} <= set(hub.state("models/org/itself")["files"])
    assert {"README.md", "processor_config.json"} <= set(hub.state("models/org/processor-alone")["files"])
    lm = {"README.md", "model.safetensors", "processor_config.json", "modeling_fmri_lm.py"}
    assert lm <= set(hub.state("models/org/lm-alone")["files"])


def test_options_of_transformers_do_what_they_do_there(hub, client):
    push = """
import tiny
model = tiny.language_model()
first = model.push_to_hub("named", commit_description="Why.", tags=["mine"], private=True, max_shard_size=10**9)
pull = tiny.language_model(1).push_to_hub("founder/named", create_pr=True, commit_message="Better")
onto = tiny.processor().push_to_hub("founder/named", revision="refs/pr/1", token=True)
result = [first.repo_id, pull.url, onto.commit]
"""
    repo_id, url, commit = client.run(push)
    assert repo_id == "founder/named"
    assert url.endswith("/founder/named/discussions/1")
    state = hub.state("models/founder/named")
    assert state["descriptions"][0] == "Why."
    assert state["commits"] == ["Publish fmri lm with fmri_lm_hf", "initial commit"]  # the branch waits
    assert state["branches"]["refs/pr/1"] == commit
    show = "result = open(hf_hub_download('founder/named', 'README.md')).read()"
    card = f"from huggingface_hub import hf_hub_download; {show}"
    assert "\n- mine\n" in client.run(card)


def test_a_revision_that_cannot_be_pushed_to_is_refused(hub, client, saved):
    hub.faults()
    with pytest.raises(ClientError, match=r"`revision` is the commit 0{40}, which cannot change"):
        client.run(PUSH, folder=saved, repo="org/pinned", options={"revision": "0" * 40})
    assert hub.log() == []
    with pytest.raises(ClientError, match="org/pinned has no revision 'refs/pr/7'"):
        client.run(PUSH, folder=saved, repo="org/pinned", options={"revision": "refs/pr/7"})


REFUSALS = {
    "rights": (
        403,
        "You don't have the rights",
        r"Your token may not write to org/x \(You don't have the rights\)",
    ),
    "quota": (
        403,
        "Private storage limit reached.",
        r"answered 403 for org/x \(Private storage limit reached\); your",
    ),
    "payment": (
        402,
        "Payment required",
        r"answered 402 for org/x \(Payment required\); .*settings/billing\.$",
    ),
    "bad": (
        400,
        "Invalid YAML in README.md",
        r"answered 400 .*Invalid YAML.*; it did not accept the request",
    ),
    "size": (413, "Too large", r"answered 413 .*smaller `max_shard_size`\.$"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_says_what_the_server_said(hub, client, saved, case):
    status, error, message = REFUSALS[case]
    hub.faults({"step": "commit", "status": status, "error": error, "count": 9})
    with pytest.raises(ClientError, match=f"^HubAccessError: .*{message}") as raised:
        client.run(PUSH, folder=saved, repo="org/x", options={})
    assert "try again later" not in str(raised.value)
    assert len([entry for entry in hub.log() if entry["step"] == "commit"]) == 1
