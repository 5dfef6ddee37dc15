"""What cannot be fetched is said in one sentence, and what was fetched can be verified."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hub_processes import READER, Client, ClientError, client_environment

SETUP = """
import tiny
from huggingface_hub import HfApi
from fmri_lm_hf.hub import push_to_hub
tiny.save("m")
push_to_hub("m", "org/open")
push_to_hub("m", "org/secret", private=True)
push_to_hub("m", "org/gated")
HfApi().update_repo_settings("org/gated", gated="manual")
"""
LOAD = """
from transformers import AutoModelForCausalLM, AutoProcessor
from fmri_lm_hf.hub import clear_errors
with clear_errors(repo, revision):
    AutoProcessor.from_pretrained(repo, revision=revision)
    result = type(AutoModelForCausalLM.from_pretrained(repo, revision=revision)).__name__
"""


@pytest.fixture(scope="module")
def reader(hub, client, tmp_path_factory):
    """A client that may read what is public, with an empty cache."""
    client.run(SETUP)
    home = tmp_path_factory.mktemp("reader_home")
    reader = Client(client_environment(hub, home, token=READER), home, ("fmri_lm_hf", "tiny"))
    yield reader
    reader.close()


ANONYMOUS = "import os; del os.environ['HF_TOKEN']\n"
ERRORS = {
    "gated": (
        "",
        "org/gated",
        "main",
        "org/gated is gated and your account has no access to it: ask for it at http",
    ),
    "gated, anonymous": (
        ANONYMOUS,
        "org/gated",
        "main",
        "org/gated is gated: log in with `hf auth login`, ask for",
    ),
    "private": (
        "",
        "org/secret",
        "main",
        r"org/secret does not exist on .*, or is private and your token may not",
    ),
    "private, anonymous": (
        ANONYMOUS,
        "org/secret",
        "main",
        "does not exist .*, or is private: .* or log in with",
    ),
    "missing": ("", "org/no-such", "main", "org/no-such does not exist on"),
    "revision": ("", "org/open", "v9", "org/open has no revision 'v9': see http"),
    "token": (
        "import os; os.environ['HF_TOKEN'] = 'hf_wrong'\n",
        "org/open",
        "main",
        "refused your token for org/open",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(reader, case):
    before, repo, revision, message = ERRORS[case]
    with pytest.raises(ClientError, match=f"^HubAccessError: .*{message}") as raised:
        reader.run(before + LOAD, repo=repo, revision=revision)
    assert "\n" not in str(raised.value)


def test_no_network_is_said_within_seconds(reader):
    verify = """
import huggingface_hub.constants as constants, fmri_lm_hf.hub.download as errors
constants.ENDPOINT = "http://127.0.0.1:9"
errors._FIRST_WAIT = 0.05
from fmri_lm_hf.hub import verify_download
verify_download("org/never-fetched")
"""
    message = r"http://127.0.0.1:9 cannot be reached .* org/never-fetched \(revision main\) is not complete in the"
    with pytest.raises(ClientError, match=f"^HubAccessError: {message} cache: check the network"):
        reader.run(verify)


def test_a_missing_file_is_named(reader):
    get = """
from huggingface_hub import hf_hub_download
from fmri_lm_hf.hub import clear_errors
with clear_errors("org/open"):
    hf_hub_download("org/open", "no-such.json")
"""
    with pytest.raises(ClientError, match=r"A file is missing from org/open \(revision main\): .*no-such.json"):
        reader.run(get)


def test_who_was_let_in_loads_a_gated_model(client):
    assert client.run(LOAD, repo="org/gated", revision="main") == "FmriLMForCausalLM"


def test_other_errors_pass_unchanged(reader):
    with pytest.raises(ClientError, match=r"^ZeroDivisionError"):
        reader.run("from fmri_lm_hf.hub import clear_errors\nwith clear_errors('org/open'):\n    1 / 0")
    with pytest.raises(ClientError, match=r"^ValueError: something else$"):
        reader.run(
            "from fmri_lm_hf.hub import clear_errors\nwith clear_errors('a/b'):\n    raise ValueError('something else')"
        )


def test_a_download_that_is_cut_is_resumed(hub, reader):
    hub.faults({"step": "lfs_get", "act": "truncate"})
    get = """
import hashlib
from huggingface_hub import constants, hf_hub_download
constants.DOWNLOAD_CHUNK_SIZE = 1000
path = hf_hub_download("org/open", "model.safetensors", cache_dir="cut")
result = hashlib.sha256(open(path, "rb").read()).hexdigest()
"""
    assert reader.run(get) == hub.state("models/org/open")["files"]["model.safetensors"]
    assert [entry["range"] is not None for entry in hub.log() if entry["step"] == "lfs_get"] == [False, True]


VERIFY = """
from fmri_lm_hf.hub import verify_download
found = verify_download("org/open", **options)
result = {name: list(getattr(found, name)) for name in ("verified", "damaged", "repaired", "fetched")}
result["commit"] = found.commit
"""


def test_the_commit_that_was_loaded_can_be_recorded(hub, client, tmp_path):
    load = """
from transformers import AutoConfig
from fmri_lm_hf.hub import downloaded_commit
AutoConfig.from_pretrained("org/open")
result = [downloaded_commit("org/open"), downloaded_commit("org/open", "no-such"), downloaded_commit(folder)]
"""
    commit = hub.state("models/org/open")["branches"]["main"]
    assert client.run(load, folder=tmp_path) == [commit, None, None]


EMPTY = "import shutil, huggingface_hub.constants as c; shutil.rmtree(c.HF_HUB_CACHE, ignore_errors=True)"


def test_a_download_of_the_right_size_with_wrong_content_is_found_and_repaired(hub, client):
    # The fault makes the server send wrong bytes once; the client accepts them.
    client.run(EMPTY)
    hub.faults({"step": "lfs_get", "act": "corrupt"})
    get = "from huggingface_hub import hf_hub_download\n"
    client.run(get + "for name in ('model.safetensors', 'config.json'): hf_hub_download('org/open', name)")
    found = client.run(VERIFY, options={})
    assert found["damaged"] == ["model.safetensors"]
    assert found["commit"] == hub.state("models/org/open")["branches"]["main"]
    assert client.run(VERIFY, options={"repair": True})["repaired"] == ["model.safetensors"]
    assert client.run(VERIFY, options={})["damaged"] == []


@pytest.mark.parametrize("downloaded", [[], ["config.json"]])
def test_all_files_are_verified_also_where_a_part_was_downloaded(hub, client, downloaded):
    client.run(EMPTY)
    get = "from huggingface_hub import hf_hub_download\nfor name in names: hf_hub_download('org/open', name)"
    client.run(get, names=downloaded)
    found = client.run(VERIFY, options={"revision": "main"})
    files = set(hub.state("models/org/open")["files"])
    assert set(found["verified"]) == files
    assert set(found["fetched"]) == files - set(downloaded)
    assert not found["damaged"]


def test_a_missing_file_that_cannot_be_fetched_fails(hub, client):
    client.run(EMPTY)
    client.run("from huggingface_hub import hf_hub_download; hf_hub_download('org/open', 'config.json')")
    hub.faults(*({"step": step, "status": 403, "error": "Over quota", "count": 100} for step in ("lfs_get", "head")))
    with pytest.raises(ClientError, match=r"^HubAccessError: .*answered 403 for org/open \(Over quota\)"):
        client.run(VERIFY, options={})


def test_the_commands_print_the_commit_and_their_exit_code_tells(hub, client, tmp_path):
    command = """
import contextlib, io
from fmri_lm_hf.cli import main
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main(words)
result = [code, out.getvalue(), err.getvalue()]
"""
    client.run("import tiny; tiny.save(folder)", folder=tmp_path / "m")
    code, out, _ = client.run(
        command, words=["push", str(tmp_path / "m"), "org/cli", "--private", "--message", "First"]
    )
    commit = hub.state("models/org/cli")["branches"]["main"]
    assert (code, hub.state("models/org/cli")["commits"][0]) == (0, "First")
    assert f"files to org/cli, commit {commit}\nhttp://" in out
    assert f"is up to date, commit {commit}" in client.run(command, words=["push", str(tmp_path / "m"), "org/cli"])[1]
    hub.faults({"step": "lfs_get", "act": "corrupt"})
    code, out, _ = client.run(command, words=["verify", "org/cli"])
    assert code == 1
    assert f"org/cli at commit {commit}" in out
    assert "DAMAGED: model.safetensors\n" in out
    code, out, _ = client.run(command, words=["verify", "org/cli", "--repair"])
    assert (code, "repaired: model.safetensors" in out) == (0, True)
    code, _, err = client.run(command, words=["verify", "org/none"])
    assert code == 2
    assert err.startswith("fmri-lm verify: org/none does not exist on")


EVALUATE = """
import contextlib, io, json, pathlib, tiny
from fmri_lm_hf.cli import main
from fmri_lm_hf.hub import push_to_hub
from fmri_lm_hf.scans import write_scan_dataset
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "AB"[i // 8], "t_r": 2.0, "bold": tiny.scan(i),
         "sex": "FM"[i % 2]} for i in range(12)]
write_scan_dataset(rows, folder + "/scans", tiny.atlas())
commits = {"org/judged-scans": push_to_hub(folder + "/scans", "org/judged-scans").commit}
commits["org/judged"] = push_to_hub(tiny.save(folder + "/model"), "org/judged").commit
words = ["--scans", "org/judged-scans", "--labels", "sex", "--holdout-site", "B", "--out", folder + "/out"]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert not main(["evaluate", "org/judged", *words])
found = json.loads(pathlib.Path(folder, "out", "results.json").read_text())
assert found["dataset"] == "org/judged-scans"
result = [commits, found["commits"], printed.getvalue()]
"""


def test_an_evaluation_prints_and_records_the_commits_of_what_it_fetched(client, tmp_path):
    commits, recorded, printed = client.run(EVALUATE, folder=str(tmp_path))
    assert recorded == commits
    for name, commit in commits.items():
        assert f"{name}: commit {commit}\n" in printed


def test_a_folder_that_is_called_like_a_repository_has_no_commit(client):
    make = """
import os
from fmri_lm_hf.hub import downloaded_commit
from huggingface_hub import hf_hub_download
hf_hub_download("org/open", "config.json")
before = downloaded_commit("org/open")
os.makedirs("org/open")
try:
    result = [before is None, downloaded_commit("org/open")]
finally:
    os.removedirs("org/open")
"""
    assert client.run(make) == [False, None]


def test_downloads_do_not_import_what_a_push_needs(tmp_path):
    program = (
        tmp_path / "fmri-lm"
    )  # a command, since any other program registers the models, for which torch is imported
    program.write_text("""
import sys, fmri_lm_hf.hub.download
heavy = {"torch", "datasets", "pyarrow"}
room = {f"fmri_lm_hf.hub.{name}" for name in ("push", "merge", "privacy", "contents", "trainer")}
print(sorted((heavy | room) & set(sys.modules)))
""")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_of_the_hub_exist():
    import fmri_lm_hf.hub

    for name in fmri_lm_hf.hub.__all__:
        assert getattr(fmri_lm_hf.hub, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'pull'"):
        fmri_lm_hf.hub.pull  # noqa: B018
