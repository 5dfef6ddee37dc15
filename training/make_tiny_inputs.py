"""Make everything that the *_tiny.yaml recipes train on, offline and in seconds: a stand-in for real inputs.

    python training/make_tiny_inputs.py tiny
    python training/train_tokenizer.py training/recipes/tokenizer_tiny.yaml
    python training/train_alignment.py training/recipes/alignment_tiny.yaml
    python training/train_instruction.py training/recipes/instruction_tiny.yaml

Into the folder come `scans` (a simulated scan dataset), `corpus` (descriptions of them), `language_model` (a Llama of
random weights and its tokenizer) and `plain.txt`. What is trained on them means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fmri_lm_hf import Atlas
from fmri_lm_hf.corpus.build import build_corpus
from fmri_lm_hf.corpus.config import CorpusConfig
from fmri_lm_hf.demo.training import train_text_tokenizer
from fmri_lm_hf.scans.dataset import write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort

NETWORKS = ("Visual", "Motor", "Default", "Control")
ATLAS = Atlas(
    name="tiny",
    roi_names=tuple(f"roi-{i}" for i in range(12)),
    networks=tuple(NETWORKS[i // 3] for i in range(12)),
)


def make(out: Path) -> None:
    """Write all inputs into the new folder `out`."""
    cohort = simulate_cohort(ATLAS, [Site("A", 16, n_timepoints=60), Site("B", 4, n_timepoints=60)])
    scans = write_scan_dataset(cohort.dataset, out / "scans", ATLAS, parameters={"simulated": True})
    config = CorpusConfig(
        families=["connectivity"], lengths=["sentence"], wordings=2, fractions=(0.7, 0.15, 0.15)
    )
    build_corpus(scans, out / "corpus", config)
    texts = datasets.load_dataset(str(out / "corpus"), "connectivity", split="train")["text"]
    (out / "plain.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    tokenizer = train_text_tokenizer([*texts, "What is the sex? female male control patient"], vocab_size=400)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **shape, **ids)
    )
    model.save_pretrained(out / "language_model")
    tokenizer.save_pretrained(out / "language_model")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    make(Path(sys.argv[1]))
