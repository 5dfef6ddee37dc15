"""Recipes at published sizes, and configurations of Accelerate: what they name exists, and fits together."""

from __future__ import annotations

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from scripts import TRAINING, run
from small import language_model

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig, load_bundled_model

# millions of weights of an encoder, as of ViT-S, ViT-B and ViT-L without their patches' embedding and class head
SIZES = {"small": 21.3, "base": 85.1, "large": 302.3}
VIT = sorted((TRAINING / "recipes" / "vit").glob("*.yaml"))
CONFIGURATIONS = {
    "one_gpu": DistributedType.NO,
    "multi_gpu": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
    "deepspeed": DistributedType.DEEPSPEED,
}


def read(path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["tokenizer", *(f"vit/{path.stem}" for path in VIT)])
def test_a_recipe_has_the_size_of_its_name(name, tmp_path, monkeypatch):
    size, patch_size = name.split("/")[-1].split("_") if "/" in name else ("base", 160)
    recipe = read(TRAINING / "recipes" / f"{name}.yaml")
    config = FmriTokenizerConfig(n_rois=450, **recipe["tokenizer"])
    assert (config.n_patches, config.patch_size) == (160 // int(patch_size), int(patch_size))
    with torch.device("meta"):
        encoder = FmriTokenizer(config).encoder
    n_weights = sum(weights.numel() for weights in encoder.parameters()) / 1e6
    assert n_weights == pytest.approx(SIZES[size], abs=0.9)
    per_step = recipe["per_device_train_batch_size"] * recipe.get("gradient_accumulation_steps", 1)
    assert per_step == 32
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="The scan dataset scans does not exist"):  # all arguments were read
        run("tokenizer", name)


def test_sizes_differ_in_nothing_else():
    def others(recipe: dict) -> dict:
        sizes = ("patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        steps = ("per_device_train_batch_size", "gradient_accumulation_steps", "activation_checkpointing")
        shape = {name: value for name, value in recipe["tokenizer"].items() if name not in sizes}
        return {name: value for name, value in recipe.items() if name not in steps} | {"tokenizer": shape}

    base = others(read(TRAINING / "recipes" / "tokenizer.yaml"))
    assert len(VIT) == 5
    assert all(others(read(path)) == base for path in VIT)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_reads_a_configuration(name):
    config = load_config_from_file(str(TRAINING / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == CONFIGURATIONS[name]
    assert config.mixed_precision == "bf16"
    assert (config.num_processes == 1) == (name == "one_gpu")
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


def test_every_configuration_is_tested():
    assert {path.stem for path in (TRAINING / "accelerate").glob("*.yaml")} == set(CONFIGURATIONS)


def test_sharding_does_not_load_weights_in_a_way_that_takes_no_buffers():
    # Accelerate asks every entry of the state for its place among the processes, which a codebook has not
    fsdp = load_config_from_file(str(TRAINING / "accelerate" / "fsdp.yaml")).fsdp_config
    assert fsdp["fsdp_cpu_ram_efficient_loading"] is False


@pytest.mark.parametrize("backbone", ["llama", "gpt2", "bundled"])
def test_layers_to_shard_are_found(backbone):
    fsdp = load_config_from_file(str(TRAINING / "accelerate" / "fsdp.yaml")).fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=fsdp["fsdp_version"],
        auto_wrap_policy=fsdp["fsdp_auto_wrap_policy"],
        reshard_after_forward=fsdp["fsdp_reshard_after_forward"],
        state_dict_type=fsdp["fsdp_state_dict_type"],
    )
    model = load_bundled_model()[0] if backbone == "bundled" else language_model(backbone)
    plugin.set_auto_wrap_policy(model)
    wrapped = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    names = {"llama": "LlamaDecoderLayer", "gpt2": "GPT2Block", "bundled": "LlamaDecoderLayer"}
    of_scans = set() if backbone == "bundled" else {"FmriLayer"}  # it has no encoder
    assert {layer.__name__ for layer in wrapped} == {names[backbone], *of_scans}
