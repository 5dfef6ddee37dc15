"""Checkpoints, scans and corpora that version 0.1.0 made still load and say what they said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from hub import tiny
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, pipeline

from fmri_lm_hf.corpus import CohortReference
from fmri_lm_hf.scans import load_scan_dataset
from fmri_lm_hf.scans.splits import SplitManifest

MADE = Path(__file__).parent / "made_by_0_1_0"
EXPECTED = json.loads((MADE / "expected.json").read_text())


def test_the_language_model_answers_as_it_did():
    classify = pipeline("fmri-zero-shot-classification", model=str(MADE / "language_model"))
    asked = {"candidate_labels": ["female", "male"], "question": "What is the sex ?", "t_r": 2.0}
    answers = classify(tiny.scan(3), force=True, **asked)
    found = {answer["label"]: answer["score"] for answer in answers}
    assert found == pytest.approx(EXPECTED["scores"], abs=1e-5)


def test_the_tokenizer_gives_the_codes_it_gave():
    inputs = AutoFeatureExtractor.from_pretrained(MADE / "fmri_tokenizer")(tiny.scan(3), t_r=2.0)
    with torch.no_grad():
        codes = AutoModel.from_pretrained(MADE / "fmri_tokenizer").encode(**inputs).fmri_codes
    assert codes.tolist() == EXPECTED["fmri_codes"]


def test_the_alignment_of_a_tokenizer_goes_on_from_what_it_learnt():
    loaded, info = AutoModelForPreTraining.from_pretrained(MADE / "fmri_tokenizer", output_loading_info=True)
    # scalars, which FSDP2 cannot shard, and what there was not
    begun_anew = {"logit_scale", "logit_bias", "text_mean", "text_whitening"}
    begun_anew |= {f"refinement.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}
    assert info["missing_keys"] == {f"alignment.{name}" for name in begun_anew} | {"steps.done"}
    assert not info["unexpected_keys"]
    saved = load_file(MADE / "fmri_tokenizer" / "model.safetensors")
    assert torch.equal(loaded.alignment.projection.weight, saved["alignment.projection.weight"])
    assert not loaded.alignment.refinement[-1].weight.any()  # scans are what they were until it learns
    texts = torch.zeros(1, loaded.config.text_embed_dim) + 1
    inputs = AutoFeatureExtractor.from_pretrained(MADE / "fmri_tokenizer")(tiny.scan(3), t_r=2.0)
    assert torch.isfinite(loaded(**inputs, text_embeds=texts).loss)


def test_scans_and_corpus_are_read():
    scans, atlas = load_scan_dataset(MADE / "scans")
    assert (len(scans), scans[0]["bold"].shape, atlas) == (8, (40, tiny.N_ROIS), tiny.atlas())
    pairs = load_dataset(str(MADE / "corpus"), "connectivity", split="train")
    assert set(pairs["scan_id"]) <= set(scans["scan_id"])
    reference = CohortReference.load(MADE / "corpus" / "reference")
    assert reference.facts(reference.compute(scans[0]["bold"], scans[0]["t_r"]))
    assert SplitManifest.from_json(MADE / "corpus" / "splits.json").subjects["train"]
