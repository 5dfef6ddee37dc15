"""Adapters name a base that others find; converted checkpoints keep their provenance and are not published unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_processes import ClientError

from fmri_lm_hf.conversion import convert_upstream

CONVERSION = Path(__file__).parents[1] / "conversion"

PUSH = """
import json, tiny
from fmri_lm_hf.hub import push_to_hub
from huggingface_hub import hf_hub_download
pushed = push_to_hub(eval(artifact) if artifact else folder, repo, **options)
def show(name):
    return open(hf_hub_download(repo, name, revision=pushed.commit)).read()
result = {"card": show("README.md"), "training": json.loads(show("training_info.json"))}
if "adapter_config.json" in pushed.uploaded:
    result["adapter"] = json.loads(show("adapter_config.json"))
"""


@pytest.fixture(scope="module")
def base(client, tmp_path_factory):
    """A published model of simulated scans."""
    folder = tmp_path_factory.mktemp("base") / "model"
    client.run("import tiny; tiny.save(folder)", folder=folder)
    client.run(PUSH, folder=folder, repo="org/base", artifact=None, options={})
    return "org/base"


@pytest.fixture
def adapter(client, tmp_path):
    """As stage 3 leaves it: a LoRA adapter on a model in a local folder, with its record."""
    make = """
import pathlib, tiny
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
tiny.save(folder + "/real/alignment")
model = AutoModelForCausalLM.from_pretrained(folder + "/real/alignment")
targets = r"language_model.*\\.(q_proj|v_proj)"
get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")).save_pretrained(folder + "/lora")
config = pathlib.Path(folder, "lora", "adapter_config.json")
config.write_text(config.read_text().replace(folder + "/real/alignment", "real/alignment"))
pathlib.Path(folder, "lora", "training_info.json").write_text('{"stage": "instruction", "n_scans": 7}')
"""
    client.run(make, folder=str(tmp_path))
    return tmp_path / "lora"


def test_an_adapter_of_a_local_base_is_refused_whatever_the_folder_is_called(hub, client, adapter):
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "real/alignment"
    with pytest.raises(
        ClientError, match="trained on 'alignment', which is not a repository on the Hub: push the base"
    ):
        client.run(PUSH, folder=adapter, repo="org/lora", artifact=None, options={})
    assert "models/org/lora" not in hub.control("state")


def test_a_base_that_lies_here_is_not_taken_for_the_repository_of_its_name(client, adapter, base):
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    beside = f"import os; os.chdir({str(adapter.parent)!r}); os.makedirs({base!r})\n"
    with pytest.raises(ClientError, match="trained on 'base', which is not a repository on the Hub"):
        client.run(beside + PUSH, folder=adapter, repo="org/lora", artifact=None, options={})


def test_an_adapter_is_published_with_its_base_named_linked_and_recorded(hub, client, adapter, base):
    pushed = client.run(PUSH, folder=adapter, repo="org/lora-1", artifact=None, options={"base_model": base})
    assert pushed["adapter"]["base_model_name_or_path"] == base
    commit = hub.state("models/org/base")["branches"]["main"]
    assert pushed["training"]["n_scans"] == 7
    assert pushed["training"]["base_model"] == {"repository": base, "commit": commit, "simulated": True}
    assert f"[{base}](https://huggingface.co/{base})" in pushed["card"]
    assert f"\nbase_model: {base}\n" in pushed["card"]
    assert "Trained on simulated scans" in pushed["card"]
    command = """
import contextlib, io
from fmri_lm_hf.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out):
    assert main(["push", folder, "org/lora-1", "--base-model", base]) == 0
result = out.getvalue()
"""
    assert f"base model: {base}, commit {commit}\n" in client.run(command, folder=adapter, base=base)
    again = client.run(
        "from peft import AutoPeftModelForCausalLM\n"
        "result = type(AutoPeftModelForCausalLM.from_pretrained('org/lora-1')).__name__"
    )
    assert again == "PeftModelForCausalLM"


def test_an_adapter_pushed_as_an_object_records_what_its_base_was_trained_on(client, base):
    make = """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(base)
config = LoraConfig(
    r=2, target_modules=r"language_model.*\\.q_proj", modules_to_save=["projector"], task_type="CAUSAL_LM")
model = get_peft_model(model, config)
"""
    pushed = client.run(make + PUSH, folder=None, repo="org/lora-2", artifact="model", options={}, base=base)
    assert pushed["training"]["training"] == "[not recorded]"
    recorded = pushed["training"]["base_model"]
    assert (recorded["repository"], recorded["simulated"], recorded["n_scans"]) == (base, True, 800)
    assert "Trained on simulated scans" in pushed["card"]


def test_a_base_that_is_no_language_model_of_this_package_is_refused(client, adapter):
    other = """
from huggingface_hub import HfApi
HfApi().create_repo("org/other", exist_ok=True)
HfApi().upload_file(path_or_fileobj=b'{"model_type": "llama"}', path_in_repo="config.json", repo_id="org/other")
"""
    client.run(other)
    with pytest.raises(ClientError, match=r"org/other is not an fMRI language model .* the model type 'llama'"):
        client.run(PUSH, folder=adapter, repo="org/lora", artifact=None, options={"base_model": "org/other"})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Golden checkpoints of the published program; `qwen3_lora` keeps its LoRA adapter beside the weights."""
    folders = {}
    for name in ("qwen3_lora", "gpt2"):
        source, folders[name] = CONVERSION / "golden" / name, tmp_path_factory.mktemp("converted") / name
        meta = json.loads((source / "meta.json").read_text())
        delimiters = meta.get("fmri_delimiter_ids")
        convert_upstream(
            source / "checkpoint.pt",
            folders[name],
            encoder_heads=meta["encoder"]["num_heads"],
            text_config=meta["lm_config"],
            delimiter_ids=(delimiters["start"], delimiters["end"]) if delimiters else None,
        )
    return folders


PART = {"allow_incomplete": True}  # the golden checkpoint has no text tokenizer


def test_a_converted_checkpoint_is_not_published_without_a_licence(hub, client, converted):
    hub.faults()
    message = r"converted from 'checkpoint.pt', .*states no licence, and nothing was sent.*--license"
    with pytest.raises(ClientError, match=message):
        client.run(PUSH, folder=converted["qwen3_lora"], repo="org/converted", artifact=None, options=PART)
    load = f"__import__('transformers').AutoModelForCausalLM.from_pretrained({str(converted['gpt2'])!r})"
    with pytest.raises(ClientError, match=message):
        client.run(PUSH, folder=None, repo="org/converted", artifact=load, options=PART)
    train = "import torch, transformers\nmodel = " + load + "\n"
    train += "with torch.no_grad():\n    next(model.parameters()).add_(0.01)\n"
    with pytest.raises(ClientError, match=message):
        client.run(train + PUSH, folder=None, repo="org/converted", artifact="model", options=PART)
    assert hub.log() == []


def test_a_converted_checkpoint_keeps_its_provenance_and_its_adapter(hub, client, converted, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(converted["qwen3_lora"], folder)
    options = {**PART, "license": "cc-by-nc-4.0"}
    pushed = client.run(PUSH, folder=folder, repo="org/converted", artifact=None, options=options)
    recorded = json.loads((folder / "training_info.json").read_text())["conversion"]
    assert pushed["training"]["conversion"] == recorded
    assert "from `checkpoint.pt`" in pushed["card"]
    assert f"| SHA-256 of the checkpoint | `{recorded['sha256']}` |" in pushed["card"]
    for note in recorded["notes"]:
        assert f"- {note}" in pushed["card"]
    assert "\nlicense: cc-by-nc-4.0\n" in pushed["card"]
    assert "do not republish" not in pushed["card"]
    assert 'from_pretrained("org/converted")' in pushed["card"]
    files = hub.state("models/org/converted")["files"]
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert pushed["adapter"]["base_model_name_or_path"] == "org/converted"
    compare = """
import torch
from transformers import AutoModelForCausalLM
there, here = (AutoModelForCausalLM.from_pretrained(name).eval() for name in ("org/converted", folder))
ids = torch.arange(1, 9)[None]
result = (there(input_ids=ids).logits == here(input_ids=ids).logits).all().item()
"""
    assert client.run(compare, folder=folder) is True


CONVERT = """
import contextlib, io, json, pathlib
from fmri_lm_hf.cli import main
from huggingface_hub import HfApi
HfApi().create_repo("org/backbone")
HfApi().upload_file(path_or_fileobj=json.dumps(config).encode(), path_in_repo="config.json", repo_id="org/backbone")
words = ["convert-upstream", source, out, "--text-config", "org/backbone", "--encoder-heads", "4"]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert not main(words)
record = json.loads(pathlib.Path(out, "training_info.json").read_text())["conversion"]
result = [HfApi().model_info("org/backbone").sha, printed.getvalue(), record["notes"]]
"""


def test_a_conversion_prints_and_records_the_commit_of_the_language_model(client, tmp_path):
    golden = CONVERSION / "golden" / "qwen3_lora"
    config = json.loads((golden / "meta.json").read_text())["lm_config"]
    names = {"source": golden / "checkpoint.pt", "out": tmp_path / "out", "config": config}
    commit, printed, notes = client.run(CONVERT, **names)
    assert f"'org/backbone' on the Hub, commit {commit}." in printed
    assert any(note.endswith(f"'org/backbone' on the Hub, commit {commit}.") for note in notes)
