"""Small objects of every kind that lives on the Hub, made in the client processes of these tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.configuration_fmri_tokenizer import FmriTokenizerConfig
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.modeling_fmri_lm import FmriLMForCausalLM
from fmri_lm_hf.models.modeling_fmri_tokenizer import FmriTokenizer
from fmri_lm_hf.models.processing_fmri_lm import FmriLMProcessor

N_ROIS, N_TIMEPOINTS = 6, 16
WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "sex",
    "?",
    "female",
    "male",
    "What",
    "is",
    "the",
    "Answer",
    ":",
    ".",
]


def atlas() -> Atlas:
    names = tuple(f"roi{i}" for i in range(N_ROIS))
    return Atlas(name="tiny", roi_names=names, networks=("A", "B") * (N_ROIS // 2))


def scan(seed: int = 0) -> np.ndarray:
    """(n_timepoints, n_rois)"""
    return np.random.default_rng(seed).normal(size=(N_TIMEPOINTS, N_ROIS)).astype("float32")


def feature_extractor() -> FmriFeatureExtractor:
    return FmriFeatureExtractor(atlas=atlas(), n_timepoints=N_TIMEPOINTS)


def text_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)


def processor() -> FmriLMProcessor:
    return FmriLMProcessor(feature_extractor(), text_tokenizer(), patch_size=8)


def fmri_tokenizer(seed: int = 0, **shape) -> FmriTokenizer:
    torch.manual_seed(seed)
    config = FmriTokenizerConfig(
        n_rois=N_ROIS,
        n_timepoints=N_TIMEPOINTS,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        codebook_size=8,
        codebook_dim=8,
        **shape,
    )
    return FmriTokenizer(config).eval()


def language_model(seed: int = 0, backbone: str = "llama") -> FmriLMForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if backbone == "llama":
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = LlamaForCausalLM(LlamaConfig(**sizes, **shape, max_position_embeddings=128))
    else:
        text = GPT2LMHeadModel(GPT2Config(**sizes, n_embd=16, n_layer=1, n_head=2, n_positions=128))
    return FmriLMForCausalLM.from_components(
        fmri_tokenizer(seed), text, fmri_token_id=processor().fmri_token_id
    ).eval()


def save(folder: str | Path, seed: int = 0, **training) -> Path:
    """A complete language model in a folder, as training leaves it."""
    folder = Path(folder)
    language_model(seed).save_pretrained(folder)
    processor().save_pretrained(folder)
    info = {"simulated": True, "manifest_sha256": "0" * 64, "n_scans": 800, **training}
    (folder / "training_info.json").write_text(json.dumps(info))
    scores = {"accuracy": 0.8, "balanced_accuracy": 0.79, "auc": 0.85}
    tasks = {"sex": {"fmri_lm": scores, "connectivity_logistic": {**scores, "accuracy": 0.81}}}
    (folder / "results.json").write_text(json.dumps({"tasks": tasks}))
    return folder


def logits(model: FmriLMForCausalLM, processor: FmriLMProcessor) -> list[float]:
    """What a model says about a scan: equal for equal weights and processors."""
    inputs = processor(text=["<fmri> What is the sex ?"], fmri=[scan()], t_r=2.0)
    with torch.no_grad():
        return model(**inputs).logits[0, -1].tolist()


def codes(tokenizer: FmriTokenizer, extractor: FmriFeatureExtractor) -> list[int]:
    with torch.no_grad():
        return tokenizer.encode(**extractor(scan(), t_r=2.0)).fmri_codes.flatten().tolist()
