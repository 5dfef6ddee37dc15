"""Options act: each is changed in a tiny run of a stage's main, and its effect is seen."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from scripts import run
from small_reading import ATLAS
from transformers import LlamaConfig, LlamaForCausalLM

from fmri_lm_hf.training.random_questions import reading_texts
from fmri_lm_hf.training.vocabulary import train_text_tokenizer


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_text_tokenizer(reading_texts(100), 400)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(backbone, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    ATLAS.to_json(folder / "atlas.json")
    (folder / "recipe.yaml").write_text(
        f"language_model: {backbone}\natlas: {folder / 'atlas.json'}\n"
        "reading: {batch_size: 2, questions: 2, n_networks: [4, 5]}\n"
        "max_steps: 3\nlogging_steps: 1\nuse_cpu: true\nsave_strategy: 'no'\ndisable_tqdm: true\n"
    )
    return str(folder / "recipe.yaml")


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logged(folder, name: str) -> list[float]:
    log = json.loads((folder / "training_info.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[name] for entry in log if name in entry]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_follows_its_schedule(recipe, tmp_path):
    rates = {}
    for schedule in ("linear", "cosine"):
        words = ["--lr_scheduler_type", schedule, "--learning_rate", "0.004", "--output_dir"]
        run("reading", recipe, *words, str(tmp_path / schedule))
        rates[schedule] = logged(tmp_path / schedule, "learning_rate")
    assert rates["linear"] == pytest.approx([0.004, 0.004 * 2 / 3, 0.004 / 3])
    assert rates["cosine"] == pytest.approx([0.004, 0.003, 0.001])


def test_the_seed_decides_what_is_trained(tmp_path):
    ATLAS.to_json(tmp_path / "atlas.json")
    words = ["--atlas", str(tmp_path / "atlas.json"), "--max_steps", "3", "--disable_tqdm", "true"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run("reading", "tiny/reading", *words, "--seed", seed, "--output_dir", str(tmp_path / name))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert logged(tmp_path / "a", "loss") == logged(tmp_path / "b", "loss")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert logged(tmp_path / "a", "loss") != logged(tmp_path / "c", "loss")


def test_adapters_are_scaled_by_lora_alpha(backbone, recipe, tmp_path):
    """A step of plain SGD moves the merged weights by alpha / rank, squared: once forward, once in the gradient."""
    before = LlamaForCausalLM.from_pretrained(backbone).state_dict()
    words = ["--max_steps", "1", "--lora_rank", "4", "--optim", "sgd", "--learning_rate", "0.1"]
    moved = {}
    for alpha in ("4", "8"):
        out = tmp_path / alpha
        run("reading", recipe, *words, "--max_grad_norm", "0", "--lora_alpha", alpha, "--output_dir", str(out))
        after = weights(out)
        moved[alpha] = {name: after[f"language_model.{name}"] - before[name] for name in before if "_proj." in name}
    assert all(values.any() for values in moved["4"].values())
    for name, values in moved["4"].items():
        torch.testing.assert_close(moved["8"][name], 4 * values, rtol=1e-2, atol=1e-7)


@pytest.mark.slow
def test_the_seed_decides_what_conversations_and_replayed_scans_are_drawn(trained, tiny, tmp_path):
    """With the examples in their order, a first step differs by draws alone."""
    words = ["--train_sampling_strategy", "sequential", "--max_steps", "1", "--eval_strategy", "no"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = str(tmp_path / name)
        run("instruction", "tiny/instruction", *words, "--seed", seed, "--output_dir", out)
    for part in ("text_loss", "replay_loss"):
        losses = {name: logged(tmp_path / name, part) for name in "abc"}
        assert losses["a"] == losses["b"] != losses["c"], part


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "alignment"])
def test_the_seed_decides_what_fresh_weights_are(stage, trained, tiny, tmp_path):
    fresh = {"tokenizer": "encoder.", "alignment": "projector."}[stage]
    words = ["--learning_rate", "0", "--max_steps", "1", "--eval_strategy", "no"]
    found = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(stage, f"tiny/{stage}", *words, "--seed", seed, "--output_dir", str(tmp_path / name))
        found[name] = {key: values for key, values in weights(tmp_path / name).items() if key.startswith(fresh)}
        assert found[name]
    assert same(found["a"], found["b"])
    assert not same(found["a"], found["c"])
