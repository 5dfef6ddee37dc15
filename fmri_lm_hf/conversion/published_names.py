"""Translate tensor names of the published program, and read the configuration of a model from tensor shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from .pickle_data import CheckpointError

WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Parts of our names -> parts of the published ones, for the tensors of an fMRI tokenizer. The order matters: later
# entries replace the results of earlier ones, as in `decoder.transformer.layers.` -> `decoder.blocks.` ->
# `decoder_raw.blocks.`.
_TOKENIZER_NAMES = [
    ("transformer.roi_embeddings.weight", "pos_embed"),
    ("transformer.layers.", "blocks."),
    ("transformer.norm.", "norm."),
    (".attention.", ".attn."),
    (".fc1.", ".mlp.fc1."),
    (".fc2.", ".mlp.fc2."),
    ("signal_projection.", "patch_embed.proj."),
    ("decoder.input_projection.", "decoder_raw.patch_embed."),
    ("decoder.head.", "decode_task_layer_raw."),
    ("decoder.pos_embed", "decoder_raw.pos_embed"),
    ("decoder.blocks.", "decoder_raw.blocks."),
    ("decoder.norm.", "decoder_raw.norm."),
    ("quantizer.head.", "encode_task_layer."),
    ("quantizer.codebooks.0.embedding", "quantize.embedding.weight"),
    ("quantizer.codebooks.0.cluster_size", "quantize.cluster_size"),
    ("quantizer.codebooks.0.initialized", "quantize.embedding.initted"),
]
# Buffers of the published program without effect on its outputs; they may be missing.
_WITHOUT_EFFECT = re.compile(
    r"quantize\.embedding\.(cluster_size|embed_avg)$|\.attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$"
)
# Training-only parts of stage 1: the projection to the text space, the domain classifier, the text embeddings.
_STAGE_1_TRAINING = re.compile(r"(x_proj|domain_classifier|wte)\.")
_LORA = re.compile(r"(.+)\.lora_([AB])\.([^.]+)\.weight$")

DEFAULT_HEADS = {384: 6, 768: 12, 1024: 16}


def clean_state_dict(tree: Any) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint, without the prefixes that compiled and distributed models add."""
    state = tree.get("model", tree) if isinstance(tree, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        found = f"the keys {list(tree)[:8]}" if isinstance(tree, dict) else f"a {type(tree).__name__}"
        raise CheckpointError(f"The checkpoint holds no weights: expected them under `model`, found {found}.")
    cleaned = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"The checkpoint's `model` names a tensor by a {type(name).__name__}, expected a name."
            )
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"`{name}` of the checkpoint's `model` is a {type(value).__name__}, expected a tensor."
            )
        # An expanded tensor of a few bytes may claim terabytes, which the first copy of it would allocate.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"The tensor `{name}` of the checkpoint repeats values in place of storing them.")
        name = name.replace("_orig_mod.", "")
        while name.startswith("module."):
            name = name.removeprefix("module.")
        cleaned[name] = value
    return cleaned


def is_language_model(state: Mapping[str, torch.Tensor]) -> bool:
    """Return whether these are the weights of stage 2 or 3, and not of stage 1."""
    return any(name.startswith("llm.") for name in state)


def split_stage_1(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the weights of a stage-1 tokenizer, and the names of training-only tensors that are left out."""
    if not any(name.startswith("VQ.") for name in state):
        return state, []
    kept = {name.removeprefix("VQ."): value for name, value in state.items() if name.startswith("VQ.")}
    others = [name for name in state if not name.startswith("VQ.")]
    left_out = [name for name in others if _STAGE_1_TRAINING.match(name)]
    return kept | {name: state[name] for name in others if name not in left_out}, left_out


def tokenizer_fields(state: Mapping[str, torch.Tensor], prefix: str, heads: int | None) -> dict[str, int]:
    """Read fields of a tokenizer's configuration from the shapes of its encoder's tensors.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
    prefix : str
        Prefix of the names of the encoder's tensors.
    heads : int, optional
        Attention heads, which no shape shows. Default: the published number for this width.
    """
    if f"{prefix}cls_token" in state:
        raise CheckpointError(
            "The encoder of this checkpoint has a class token, which the released model does not have and this package "
            "does not support."
        )
    n_rois, hidden_size = tensor_shape(state, f"{prefix}pos_embed", 3)[1:]
    patch_size = tensor_shape(state, f"{prefix}patch_embed.proj.weight", 4)[3]
    heads = heads or DEFAULT_HEADS.get(hidden_size)
    if heads is None:
        raise ValueError(
            f"The number of attention heads is not stored in a checkpoint, and there is no published one for an "
            f"encoder of width {hidden_size}: give `encoder_heads` (`--encoder-heads`). Published: {DEFAULT_HEADS}."
        )
    return {
        "n_rois": n_rois,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": _n_blocks(state, prefix),
        "num_attention_heads": heads,
        "intermediate_size": tensor_shape(state, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
    }


def stage_1_fields(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Read the fields that only a stage-1 checkpoint shows: length, codebook and depth of the decoder."""
    codebook_size, codebook_dim = tensor_shape(state, "quantize.embedding.weight", 2)
    return {
        "n_timepoints": tensor_shape(state, "decode_task_layer_raw.2.weight", 2)[0],
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "num_decoder_layers": _n_blocks(state, "decoder_raw."),
    }


def _n_blocks(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    found = (re.match(re.escape(prefix) + r"blocks\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def tensor_shape(state: Mapping[str, torch.Tensor], name: str, n_axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor that every published checkpoint has."""
    if name not in state:
        raise CheckpointError(
            f"The checkpoint lacks tensors: `{name}`, which every published one has. It holds {len(state)} tensors, "
            f"such as {_some(list(state))}."
        )
    if state[name].ndim != n_axes:
        raise CheckpointError(
            f"A tensor has the wrong shape: `{name}` is {tuple(state[name].shape)}, expected {n_axes} axes."
        )
    return tuple(state[name].shape)


def published_name(name: str, has_lora: bool) -> str:
    """Return the published program's name of one of our tensors, for a stage-1 tokenizer without a prefix."""
    if name.startswith("language_model."):
        return "llm.base_model." + "base_model.model." * has_lora + name.removeprefix("language_model.")
    if name.startswith("fmri_tokenizer.encoder."):
        within = published_name(name.removeprefix("fmri_tokenizer."), False)
        return "tokenizer." + within.removeprefix("encoder.")
    for ours, theirs in (
        ("projector.linear.", "encode_transform_layer.0."),
        ("roi_embeddings.", "pos_embed."),
        ("fmri_head.", "llm.fmri_lm_head."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    for ours, theirs in _TOKENIZER_NAMES:
        name = name.replace(ours, theirs)
    return name


def split_lora(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split weights into those of the base model and those of its LoRA adapter, named as PEFT names them.

    Returns
    -------
    base : dict
        With the names that the model has without the adapter.
    lora : dict
        ``language_model...lora_A.weight`` and ``...lora_B.weight``; empty where there is no adapter.
    """
    base, lora, adapters = {}, {}, set()
    for name, value in state.items():
        match = _LORA.match(name)
        if match is None:
            base[name.replace(".base_layer.", ".")] = value
        else:
            adapters.add(match[3])
            module = match[1].replace("llm.base_model.base_model.model.", "language_model.", 1)
            lora[f"{module}.lora_{match[2]}.weight"] = value
    if len(adapters) > 1:
        raise CheckpointError(
            f"The checkpoint holds {len(adapters)} LoRA adapters, {sorted(adapters)}; expected one. Merge the older "
            "ones into the weights with the program that wrote it."
        )
    return base, lora


def match_tensors(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], has_lora: bool = False
) -> dict[str, torch.Tensor]:
    """Rename the tensors of a checkpoint to our names, and check that they are exactly those expected.

    Parameters
    ----------
    expected : mapping of str to torch.Tensor
        State dict of our model (on any device): names and shapes.
    state : mapping of str to torch.Tensor
        State dict of the published program.
    has_lora : bool, default=False
        Whether the language model was wrapped for LoRA, which changes its names.

    Raises
    ------
    CheckpointError
        Lists the tensors that are missing, of a wrong shape, and unknown.
    """
    names = {ours: published_name(ours, has_lora) for ours in expected if not ours.endswith("embedding_sum")}
    used = set(names.values())
    problems = shape_problems(
        {theirs: _published_shape(theirs, tuple(expected[ours].shape)) for ours, theirs in names.items()},
        {
            name: tuple(value.shape)
            for name, value in state.items()
            if name in used or not _WITHOUT_EFFECT.search(name)
        },
    )
    unsupported = [
        f"{name} of {str(state[name].dtype).removeprefix('torch.')}"
        for name in names.values()
        if name in state and state[name].dtype not in WEIGHT_DTYPES
    ]
    if unsupported:
        problems.append(
            f"has {len(unsupported)} tensor(s) that are not floating-point weights of 16, 32 or 64 bits: "
            f"{_some(unsupported)}"
        )
    if problems:
        raise CheckpointError(
            f"The checkpoint {'; it '.join(problems)}. Check that it is complete, and that the options and the "
            "language model's configuration belong to it."
        )
    tensors = {ours: state[theirs].reshape(expected[ours].shape) for ours, theirs in names.items()}
    for ours in expected.keys() - names.keys():
        # The moving average of a code is its sum over its count. The program keeps the average and the count; the sum
        # that fits both lets training continue, where a sum of zeros would pull every code to the origin.
        prefix = ours.removesuffix("embedding_sum")
        tensors[ours] = tensors[f"{prefix}embedding"] * tensors[f"{prefix}cluster_size"][:, None]
    return tensors


def shape_problems(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Compare the shapes of tensors by name, and describe which are missing, wrong and unknown."""
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    problems = {
        "lacks {} tensor(s)": [name for name in expected if name not in found],
        "has {} tensor(s) of the wrong shape": wrong,
        "has {} tensor(s) that this model has no place for": [name for name in found if name not in expected],
    }
    return [f"{what.format(len(names))}: {_some(names)}" for what, names in problems.items() if names]


def _published_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name.endswith("pos_embed"):
        return (1, *shape)
    if name.endswith("patch_embed.proj.weight"):  # a convolution over time with one channel; ours is linear
        return (shape[0], 1, 1, shape[1])
    return shape


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
