"""Converted checkpoints compute what the published program computes, within 1e-5."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoModelForPreTraining

import fmri_lm_hf
from fmri_lm_hf.conversion import convert_upstream, read_checkpoint

LANGUAGE_MODELS = ["gpt2", "qwen3_lora", "qwen3_merged"]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def roi_major(tokens: torch.Tensor, n_patches: int) -> torch.Tensor:
    """Our tokens, all ROIs of patch 0 first, in the published order, all patches of ROI 0 first."""
    return tokens.unflatten(1, (n_patches, -1)).transpose(1, 2).flatten(1, 2)


@pytest.fixture(scope="module")
def models(converted):
    return {name: AutoModelForCausalLM.from_pretrained(converted[name]).eval() for name in LANGUAGE_MODELS}


@pytest.fixture(scope="module")
def expected(golden):
    return {"gpt2": golden["gpt2"], "qwen3_lora": golden["qwen3_lora"], "qwen3_merged": golden["qwen3_lora"]}


@torch.no_grad()
def test_tokenizer_with_several_patches(golden, converted):
    values, n_patches = golden["vq_patch10"].expected, 4
    model = AutoModel.from_pretrained(converted["vq_patch10"]).eval()
    assert isinstance(model, fmri_lm_hf.FmriTokenizer)
    encoded = model.encode(values["bold"])
    output = model(values["bold"])
    assert_close(roi_major(encoded.embeddings, n_patches), values["encoder_features"])
    assert torch.equal(roi_major(encoded.fmri_codes[..., None], n_patches)[..., 0], values["codes"])
    assert_close(roi_major(encoded.quantized, n_patches), values["quantized"])
    assert_close(output.reconstruction, values["reconstruction"])
    assert_close(model.decode(encoded.fmri_codes).reconstruction, values["reconstruction"])
    trained = AutoModelForPreTraining.from_pretrained(converted["vq_patch10"]).eval()
    assert_close(trained(values["bold"]).loss, values["loss"][0])


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_model(models, expected, name):
    model, golden = models[name], expected[name]
    values, prompts = golden.expected, golden.prompts(model.config.fmri_token_id)
    assert model.config.fmri_token_id >= model.config.text_config.vocab_size
    assert (model.config.fmri_start_ids, model.config.fmri_end_ids) == tuple(golden.delimiters.values())
    features = model.get_fmri_features(values["bold"])
    assert_close(model.get_fmri_embeddings(features), values["lm_embeddings"])
    mask = torch.ones_like(prompts)
    logits = model(input_ids=prompts, input_values=values["bold"], attention_mask=mask).logits
    assert_close(logits, values["logits"])
    assert_close(model(input_ids=prompts, input_values=values["bold"]).logits, values["logits"])
    assert_close(model.fmri_logits(values["bold"]), values["fmri_logits"])
    assert_close(model(input_ids=values["input_ids"]).logits, values["text_only_logits"])


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_padding_is_not_attended_to(models, expected, name):
    model, golden = models[name], expected[name]
    values, prompts = golden.expected, golden.prompts(model.config.fmri_token_id)
    n_text = values["input_ids"].shape[1]
    batch = torch.stack([prompts[0], torch.cat([torch.full((3,), 2), prompts[1, :-3]])])  # left-padded
    mask = torch.ones_like(batch)
    mask[1, :3] = 0
    logits = model(input_ids=batch, input_values=values["bold"][:2], attention_mask=mask).logits
    assert_close(logits[0, -n_text:], values["logits"][0, -n_text:])
    assert_close(logits[1, 3:], values["logits"][1, :-3])


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_generate_follows_the_logits(models, expected, name):
    model, golden = models[name], expected[name]
    bold, prompts = golden.expected["bold"], golden.prompts(model.config.fmri_token_id)
    mask = torch.ones_like(prompts)
    found = model.generate(
        input_ids=prompts,
        input_values=bold,
        attention_mask=mask,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
    )
    sequence = prompts
    for _ in range(3):
        logits = model(input_ids=sequence, input_values=bold, attention_mask=torch.ones_like(sequence)).logits[:, -1]
        logits[:, model.generation_config.eos_token_id] = -torch.inf
        sequence = torch.cat([sequence, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, sequence)


@torch.no_grad()
def test_adapter_loads_with_peft_and_equals_the_merged_form(models, golden, converted, tmp_path):
    values, prompts = golden["qwen3_lora"].expected, golden["qwen3_lora"].prompts(128)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(converted["qwen3_lora"] / name)
    base = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (base(input_ids=values["input_ids"]).logits - values["text_only_logits"]).abs().max() > 1e-2
    adapted = PeftModel.from_pretrained(base, converted["qwen3_lora"]).eval()
    inputs = {
        "input_ids": prompts,
        "input_values": values["bold"],
        "attention_mask": torch.ones_like(prompts),
    }
    assert_close(adapted(**inputs).logits, values["logits"])
    assert_close(adapted(**inputs).logits, models["qwen3_merged"](**inputs).logits)
    assert not (converted["qwen3_merged"] / "adapter_config.json").exists()


def test_adapter_file_is_ready_to_share(golden, converted, tmp_path):
    written = json.loads((converted["qwen3_lora"] / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["base_model_name_or_path"]) == (8, 16, None)
    options = golden["qwen3_lora"].options | {"lora_alpha": None}
    convert_upstream(golden["qwen3_lora"].folder / "checkpoint.pt", tmp_path / "default", **options)
    assert json.loads((tmp_path / "default" / "adapter_config.json").read_text())["lora_alpha"] == 16
    options["lora_alpha"] = 4
    convert_upstream(golden["qwen3_lora"].folder / "checkpoint.pt", tmp_path / "weaker", **options)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "weaker").eval()
    values = golden["qwen3_lora"].expected
    with torch.no_grad():
        assert (model(input_ids=values["input_ids"]).logits - values["text_only_logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "qwen3_lora"])
def test_arguments_in_omegaconf_make_no_difference(golden, converted, tmp_path, name):
    convert_upstream(golden[name].folder / "checkpoint_omegaconf.pt", tmp_path / name, **golden[name].options)
    for file in converted[name].iterdir():
        if file.name not in ("README.md", "training_info.json"):  # they name the source
            assert (tmp_path / name / file.name).read_bytes() == file.read_bytes()


def test_prefixes_of_compiled_and_distributed_models_are_stripped(golden, converted, tmp_path):
    tree = torch.load(golden["gpt2"].folder / "checkpoint.pt", weights_only=True)
    tree["model"] = {f"_orig_mod.module.{name}": tensor for name, tensor in tree["model"].items()}
    torch.save(tree, tmp_path / "ckpt.pt")
    convert_upstream(tmp_path / "ckpt.pt", tmp_path / "out", **golden["gpt2"].options)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (converted["gpt2"] / "model.safetensors").read_bytes()


def test_training_parts_of_an_aligned_tokenizer_are_left_out(golden, converted, tmp_path):
    tree = torch.load(golden["vq_patch10"].folder / "checkpoint.pt", weights_only=True)
    tree["model"] = {f"VQ.{name}": tensor for name, tensor in tree["model"].items()}
    tree["model"] |= {"x_proj.weight": torch.ones(4, 48), "wte.\x1b]0;owned\x07": torch.ones(9, 4)}
    torch.save(tree, tmp_path / "ckpt.pt")
    result = convert_upstream(tmp_path / "ckpt.pt", tmp_path / "out", encoder_heads=4)
    assert any(r"x_proj.weight, wte.\x1b]0;owned\x07" in note for note in result.notes)
    assert all(note.isprintable() for note in result.notes)
    expected = (converted["vq_patch10"] / "model.safetensors").read_bytes()
    assert (tmp_path / "out/model.safetensors").read_bytes() == expected


def test_embeddings_that_training_untied_stay_apart(golden, tmp_path):
    tree = torch.load(golden["gpt2"].folder / "checkpoint.pt", weights_only=True)
    tree["model"]["llm.base_model.lm_head.weight"] = 2 * tree["model"]["llm.base_model.lm_head.weight"]
    torch.save(tree, tmp_path / "ckpt.pt")
    result = convert_upstream(tmp_path / "ckpt.pt", tmp_path / "out", **golden["gpt2"].options)
    assert any("not tied" in note for note in result.notes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    values = golden["gpt2"].expected
    with torch.no_grad():
        assert_close(model(input_ids=values["input_ids"]).logits, 2 * values["text_only_logits"])


def test_codebook_statistics_give_the_codes_themselves(golden, converted):
    codebook = AutoModel.from_pretrained(converted["vq_patch10"]).quantizer.codebooks[0]
    state = torch.load(golden["vq_patch10"].folder / "checkpoint.pt", weights_only=True)["model"]
    assert torch.equal(codebook.cluster_size, state["quantize.cluster_size"])
    used = codebook.cluster_size > 0
    assert used.any()
    assert_close(codebook.embedding_sum[used] / codebook.cluster_size[used, None], codebook.embedding[used])
    assert codebook.initialized.item() == 1


def test_preprocessing_is_the_published_one_and_recorded(golden, converted):
    for name in ("gpt2", "vq_patch10"):
        extractor = AutoFeatureExtractor.from_pretrained(converted[name])
        assert (extractor.t_r, extractor.resampling, extractor.short_scans) == (2.0, "linear", "stretch")
        assert (extractor.n_rois, extractor.n_timepoints, extractor.normalization) == (12, 40, "scan")
    bold = torch.randn(33, 12, generator=torch.Generator().manual_seed(0)).numpy()
    values = extractor(bold, t_r=2.0)["input_values"][0]
    signal = torch.from_numpy(bold).T
    stretched = torch.nn.functional.interpolate(signal[None], size=40, mode="nearest")[0]
    low, median, high = torch.quantile(stretched, torch.tensor([0.25, 0.5, 0.75]), dim=1)[..., None]
    assert_close(values, (stretched - median) / (high - low))


def test_card_says_where_it_came_from(converted):
    card = (converted["qwen3_merged"] / "README.md").read_text()
    assert "from `checkpoint.pt`, a checkpoint of the published" in card
    assert "| SHA-256 of the checkpoint | `" in card
    assert "licence of the checkpoint is not stated" in card
    assert "do not republish" in card
    assert "[not recorded]" not in card
    for file in converted["qwen3_merged"].iterdir():
        content = file.read_bytes()
        assert str(Path.home()).encode() + b"/" not in content
        assert os.fsencode(converted["qwen3_merged"].parent) not in content


def test_conversion_changes_no_checkpoint(golden, converted):
    source = golden["qwen3_lora"].folder
    expected = torch.load(source / "checkpoint.pt", weights_only=True)["model"]
    for name, tensor in read_checkpoint(source / "checkpoint.pt")["model"].items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.slow
def test_memory_stays_near_the_size_of_the_weights(golden, tmp_path):
    tree = torch.load(golden["qwen3_lora"].folder / "checkpoint.pt", weights_only=True)
    prefix = "llm.base_model.base_model.model."
    table = torch.randn(1_000_000, 32)  # 128 MB
    tree["model"] |= {prefix + "model.embed_tokens.weight": table, prefix + "lm_head.weight": table}
    torch.save(tree, tmp_path / "ckpt.pt")
    options = golden["qwen3_lora"].options
    options["text_config"] = options["text_config"] | {"vocab_size": len(table)}
    del table, tree
    program = f"""
import resource, sys
import peft, fmri_lm_hf
from fmri_lm_hf.conversion import convert_upstream
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_upstream("ckpt.pt", "out", merge=True, **{options!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    kilobyte = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout.split()[-1]) * kilobyte < 1.4 * (tmp_path / "ckpt.pt").stat().st_size
