"""What a training step of stage 2 costs where a batch holds scans and plain texts: run apart, and padded into one.

    python benchmarks/mixed_batches.py

GPT-2 (124 million weights, random here) with four scans of 450 tokens and answers of 48, and four texts of 64 tokens;
forward and backward, in operations as torch counts them. Results go to benchmarks/results/mixed_batches.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from bench import ATTENTION
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from fmri_lm_hf import FmriLMForCausalLM, FmriTokenizer, FmriTokenizerConfig
from fmri_lm_hf.files import write_json
from fmri_lm_hf.training.arguments import StageArguments
from fmri_lm_hf.training.trainer import FmriLMTrainer

RESULTS = Path(__file__).parent / "results" / "mixed_batches.json"
N_ROIS, N_ANSWER, N_TEXT, N_EACH, SCAN_TOKEN = 450, 48, 64, 4, 50256


def small_tokenizer() -> FmriTokenizer:
    """Its features are given, so that its size does not count."""
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "codebook_size": 16}
    return FmriTokenizer(FmriTokenizerConfig(n_rois=N_ROIS, n_timepoints=160, patch_size=160, **shape))


def mixed_batch(model: FmriLMForCausalLM) -> dict[str, torch.Tensor]:
    """Prompts with scans, then texts, padded on the left."""
    words = torch.randint(0, 5000, (2 * N_EACH, 16 + N_ROIS + N_ANSWER))
    words[:N_EACH, 8 : 8 + N_ROIS] = SCAN_TOKEN
    labels, mask = torch.full_like(words, -100), torch.ones_like(words)
    labels[:N_EACH, -N_ANSWER:] = words[:N_EACH, -N_ANSWER:]
    labels[N_EACH:, 1 - N_TEXT :] = words[N_EACH:, 1 - N_TEXT :]
    mask[N_EACH:, :-N_TEXT] = 0
    with torch.no_grad():
        features = model.get_fmri_features(torch.randn(N_EACH, N_ROIS, 160))
    return {"input_ids": words, "labels": labels, "attention_mask": mask, "fmri_features": features}


def main() -> None:
    torch.manual_seed(0)
    model = FmriLMForCausalLM.from_components(
        small_tokenizer(), GPT2LMHeadModel(GPT2Config(attn_pdrop=0.0)), fmri_token_id=SCAN_TOKEN
    )
    model.freeze_fmri_tokenizer()
    batch = mixed_batch(model)
    arguments = StageArguments(tempfile.mkdtemp(), use_cpu=True)
    trainer = FmriLMTrainer(model, arguments, train_dataset=[batch])
    model.train()
    rows = {}
    for name, loss_of in (
        ("apart", lambda: trainer.compute_loss(model, dict(batch))),
        ("padded into one", lambda: model(**batch).loss),
    ):
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            loss_of().backward()
        rows[name] = round(counter.get_total_flops() / 1e9)
        print(f"{name}: {rows[name]:,} GFLOP")
    write_json({"torch": torch.__version__, "gflop": rows}, RESULTS)


if __name__ == "__main__":
    main()
