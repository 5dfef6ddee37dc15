"""Quantizers from end to end: trained in stage 1, read by a language model in stage 2."""

from __future__ import annotations

import json
import os

import pytest
from scripts import run
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf import FmriTokenizer
from fmri_lm_hf.scans.dataset import load_scan_dataset

pytestmark = pytest.mark.slow
CHOICES = {
    "titok": {
        "num_latent_tokens": 4,
        "num_quantizers": 2,
        "codebook_warmup_steps": 2,
        "contrastive_loss": "soft_siglip",
        "pooling": "attention",
        "domain_ramp_steps": 4,
        "reconstruction_loss": "smooth_l1",
        "connectivity_loss_weight": 0.5,
        "coskewness_loss_weight": 0.2,
    },
    "fsq": {"fsq_levels": [4, 4, 3], "codebook_size": None, "codebook_dim": None},
}


@pytest.fixture(scope="module", params=CHOICES)
def stages(request, trained, made, tmp_path_factory):
    """Folders of the tokenizer and of the language model that reads it."""
    out, before = tmp_path_factory.mktemp(request.param), os.getcwd()
    os.chdir(made)
    try:
        fields = {"quantizer": request.param} | CHOICES[request.param]
        chosen = [word for name, value in fields.items() for word in (f"--tokenizer.{name}", json.dumps(value))]
        chosen += ["--logging_steps", "1", "--text_tokens", "5", "--output_dir", str(out / "tokenizer")]
        run("tokenizer", "tiny/tokenizer", *chosen)
        words = ["--fmri_tokenizer", str(out / "tokenizer"), "--fmri_embedding_source", "codes"]
        run("alignment", "tiny/alignment", *words, "--output_dir", str(out / "alignment"))
    finally:
        os.chdir(before)
    return request.param, out / "tokenizer", out / "alignment"


def test_a_language_model_reads_what_the_quantizer_says(stages, tiny):
    name, tokenizer, alignment = stages
    model, processor = (each.from_pretrained(alignment) for each in (AutoModelForCausalLM, AutoProcessor))
    fmri = FmriTokenizer.from_pretrained(tokenizer).config
    assert model.config.fmri_config.quantizer == fmri.quantizer == name
    assert processor.n_tokens == model.config.n_scan_tokens
    assert fmri.n_tokens == (4 if name == "titok" else 3 * fmri.n_rois)
    logs = [
        json.loads((folder / "training_info.json").read_text())["log_history"] for folder in (tokenizer, alignment)
    ]
    assert {"codebook_usage", "codebook_perplexity"} <= set(logs[0][-3])
    assert ("commitment_loss" in logs[0][0]) == (name == "titok")
    assert ("fmri_loss" in logs[1][0]) == (name == "fsq")  # latents have no next patch
    scan = load_scan_dataset(tiny / "scans")[0][0]
    classify = pipeline("fmri-zero-shot-classification", model=str(alignment))
    answers = classify(scan, candidate_labels=["female", "male"], question="What is the sex?", force=True)
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def test_logged_parts_add_up_to_the_logged_loss(stages):
    name, folder, _ = stages
    weights = FmriTokenizer.from_pretrained(folder).config.loss_weights
    logs = json.loads((folder / "training_info.json").read_text())["log_history"]
    logs = [entry for entry in logs if "loss" in entry]
    assert len(logs) == 8
    for entry in logs:
        parts = {part: entry[part] for part in weights if part in entry}
        assert ("coskewness_loss" in parts) == (name == "titok")
        assert ("codebook_usage" in entry) == (name == "fsq" or entry["step"] > 2)
        total = sum(weights[part] * value for part, value in parts.items())
        assert entry["loss"] == pytest.approx(total, abs=2e-3)
