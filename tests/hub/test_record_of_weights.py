"""What is recorded about weights travels with the model that they were loaded into, as the record of these weights."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForCausalLM

from fmri_lm_hf.models.modeling_fmri_lm import FmriLMForCausalLM


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "model", log_history=[{"loss": 1.0}])


def records(folder):
    found = {}
    for name in ("training_info.json", "results.json"):
        if (folder / name).exists():
            found[name] = json.loads((folder / name).read_text())
    return found


def train_a_bit(model):
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    return model


def test_the_record_of_unchanged_weights_is_saved_with_them(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "copy", max_shard_size="20KB")
    assert records(tmp_path / "copy") == records(folder)


def test_the_record_of_changed_weights_says_what_they_started_from(folder, tmp_path):
    model = train_a_bit(FmriLMForCausalLM.from_pretrained(folder))
    model.save_pretrained(tmp_path / "changed")
    found = records(tmp_path / "changed")
    assert list(found) == ["training_info.json"]
    started_from = found["training_info.json"].pop("started_from")
    assert found["training_info.json"] == {"training": "[not recorded]"}
    assert started_from["simulated"] is True
    assert "log_history" not in started_from


def test_changed_weights_saved_in_place_lose_the_scores_of_before(folder):
    train_a_bit(AutoModelForCausalLM.from_pretrained(folder)).save_pretrained(folder)
    assert "started_from" in records(folder)["training_info.json"]
    assert "results.json" not in records(folder)


def test_a_model_joined_from_loaded_parts_names_their_records(tmp_path):
    tiny.fmri_tokenizer().save_pretrained(tmp_path / "stage-1")
    (tmp_path / "stage-1" / "training_info.json").write_text('{"simulated": true, "stage": "tokenizer"}')
    tokenizer = AutoModel.from_pretrained(tmp_path / "stage-1")
    whole = tiny.language_model()
    joined = FmriLMForCausalLM.from_components(tokenizer, whole.language_model, fmri_token_id=14)
    joined.save_pretrained(tmp_path / "joined")
    parts = records(tmp_path / "joined")["training_info.json"]["parts"]
    assert parts == {"fmri_tokenizer": {"simulated": True, "stage": "tokenizer"}}


def test_a_model_without_a_record_is_saved_without_one(tmp_path):
    tiny.language_model().save_pretrained(tmp_path / "first")
    AutoModelForCausalLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert records(tmp_path / "second") == {}
