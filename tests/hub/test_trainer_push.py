"""What a Trainer pushes: the model with its card, code and record, and nothing of the Trainer's own state."""

from __future__ import annotations

import pytest
from hub_processes import WRITER

TRAIN = """
import json, os, pathlib, torch, tiny
del os.environ["HF_TOKEN"]  # the Trainer's own is used
from transformers import TrainingArguments, default_data_collator
from huggingface_hub import snapshot_download
from fmri_lm_hf import FmriTokenizerForPreTraining
from fmri_lm_hf.training.trainer import FmriTrainer
arguments = TrainingArguments(
    output_dir=folder, push_to_hub=True, hub_token=token, hub_model_id=repo, max_steps=2, save_steps=1,
    per_device_train_batch_size=2, report_to="none", use_cpu=True, remove_unused_columns=False,
    disable_tqdm=True, **options)
scans = [{"input_values": torch.tensor(tiny.scan(i).T)} for i in range(4)]
start = folder + "-start"
tiny.fmri_tokenizer().save_pretrained(start)
pathlib.Path(start, "training_info.json").write_text('{"stage": "before", "simulated": true}')
model = FmriTokenizerForPreTraining.from_pretrained(start).train()
trainer = FmriTrainer(model, arguments, train_dataset=scans,
                      data_collator=default_data_collator, processing_class=tiny.feature_extractor())
trainer.train()
if at_the_end:
    pathlib.Path(folder, "training_info.json").write_text('{"stage": "tokenizer", "n_scans": 4}')
    pushed = trainer.push_to_hub(tags=["mine"])
    result = {"left_out": list(pushed.left_out), "commit": pushed.commit}
else:
    trainer._finish_current_push()
    result = {}
assert list(pathlib.Path(folder).rglob("training_args.bin"))  # the Trainer's own state stays where it was
assert not list(pathlib.Path(folder).glob(".pushing-*"))
read = {p.name: p.read_bytes() for p in pathlib.Path(snapshot_download(repo, token=token)).rglob("*") if p.is_file()}
result["secrets"] = [name for name, raw in read.items() if token.encode() in raw or folder.encode() in raw]
result["training"] = json.loads(read["training_info.json"])
result["card"] = read["README.md"].decode()
"""


@pytest.mark.parametrize("strategy", ["end", "every_save", "all_checkpoints"])
def test_a_trainer_publishes_the_model_and_nothing_else(hub, client, tmp_path, strategy):
    repo = f"org/trained-{strategy.replace('_', '-')}"
    result = client.run(
        TRAIN,
        folder=str(tmp_path / "out"),
        repo=repo,
        token=WRITER,
        options={"hub_strategy": strategy, "hub_private_repo": True},
        at_the_end=strategy == "end",
    )
    state = hub.state(f"models/{repo}")
    assert state["private"]
    assert {
        "README.md",
        "model.safetensors",
        "preprocessor_config.json",
        "modeling_fmri_tokenizer.py",
    } <= set(state["files"])
    assert not [name for name in state["files"] if name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name]
    assert result["secrets"] == []
    assert "An fMRI tokenizer" in result["card"]
    if strategy == "end":
        assert state["commits"][0] == "End of training"
        assert "training_args.bin" in result["left_out"]
        assert result["training"] == {"stage": "tokenizer", "n_scans": 4}
        assert "\n- mine\n" in result["card"]
    else:
        assert state["commits"][0].startswith("Training in progress, step ")
        assert result["training"]["started_from"] == {"stage": "before", "simulated": True}
        assert "Trained on simulated scans" in result["card"]


STAGE = """
import contextlib, io, json, pathlib, tiny, yaml
from huggingface_hub import snapshot_download
from fmri_lm_hf.cli import main
from fmri_lm_hf.hub import push_to_hub
from fmri_lm_hf.scans import write_scan_dataset
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "AB"[i // 8], "t_r": 2.0, "bold": tiny.scan(i),
         "sex": "FM"[i % 2]} for i in range(12)]
write_scan_dataset(rows, folder + "/scans", tiny.atlas())
scans = push_to_hub(folder + "/scans", "org/stage-scans").commit
sizes = {"patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "codebook_size": 8,
         "codebook_dim": 8, "n_timepoints": 16}
recipe = {"scans": "org/stage-scans", "output_dir": folder + "/out", "tokenizer": sizes, "max_steps": 1,
          "use_cpu": True, "feature_store": folder + "/features", "report_to": "none", "hub_model_id": "org/stage"}
pathlib.Path(folder, "recipe.yaml").write_text(yaml.safe_dump(recipe))
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert not main(["train", "tokenizer", folder + "/recipe.yaml", "--push_to_hub", "true"])
there = pathlib.Path(snapshot_download("org/stage"))
result = {"printed": printed.getvalue(), "scans": scans, "files": sorted(path.name for path in there.iterdir()),
          "training": json.loads((there / "training_info.json").read_text()), "card": (there / "README.md").read_text()}
"""


def test_a_stage_that_trains_on_fetched_scans_is_pushed_with_their_commit(client, tmp_path):
    result = client.run(STAGE, folder=str(tmp_path))
    assert {"model.safetensors", "preprocessor_config.json", "modeling_fmri_tokenizer.py"} <= set(result["files"])
    assert not [name for name in result["files"] if name.endswith((".bin", ".pt", ".pth"))]
    assert result["training"]["stage"] == "tokenizer"
    assert result["training"]["commits"] == {"org/stage-scans": result["scans"]}
    assert f"org/stage-scans: commit {result['scans']}\n" in result["printed"]
    assert f"| commits.org/stage-scans | {result['scans']} |" in result["card"]


COLLATED = """
import json, torch, tiny
from transformers import TrainingArguments
from fmri_lm_hf.training.data import FmriLMCollator
from fmri_lm_hf.training.trainer import FmriLMTrainer
arguments = TrainingArguments(output_dir=folder, report_to="none", use_cpu=True, hub_model_id=repo, **options)
FmriLMTrainer(tiny.language_model(), arguments, data_collator=FmriLMCollator(tiny.processor())).push_to_hub()
"""


def test_the_processor_of_the_collator_is_pushed_too(hub, client, tmp_path):
    client.run(COLLATED, folder=str(tmp_path / "out"), repo="org/collated", options={})
    assert {"model.safetensors", "processor_config.json", "tokenizer.json", "modeling_fmri_lm.py"} <= set(
        hub.state("models/org/collated")["files"]
    )


def test_a_trainer_pushes_to_the_branch_and_the_private_repository_of_its_arguments(hub, client, tmp_path):
    options = {"hub_revision": "run-2", "hub_private_repo": True}
    client.run(COLLATED, folder=str(tmp_path / "out"), repo="org/branched", options=options)
    state = hub.state("models/org/branched")
    assert state["private"]
    assert set(state["branches"]) == {"main", "run-2"}
    assert "model.safetensors" not in state["files"]  # of main
