"""Examples of the stages, and what `FmriLMTrainer` makes of them."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, TrainingArguments

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.scans.dataset import load_scan_dataset
from fmri_lm_hf.training.data import ScanConversations, ScanInputs, about_scan, embed_texts
from fmri_lm_hf.training.trainer import FmriLMCollator, FmriLMTrainer

pytestmark = pytest.mark.slow
ASK = about_scan([("What is the sex?", "female"), ("Age?", "older")])


@pytest.fixture
def scans(tiny):
    return load_scan_dataset(tiny / "scans")[0]


@pytest.fixture
def processor(trained):
    return FmriLMProcessor.from_pretrained(trained / "alignment")


@pytest.fixture
def model(trained):
    model = FmriLMForCausalLM.from_pretrained(trained / "alignment")
    model.freeze_fmri_tokenizer()
    return model


def trainer(model, tmp_path, **options) -> FmriLMTrainer:
    return FmriLMTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), **options)


def test_scans_are_what_the_extractor_makes_of_them(scans, processor):
    extractor = processor.feature_extractor
    inputs = ScanInputs(scans, extractor, rows=[5, 2], text_embeds=torch.arange(6.0).view(2, 3))
    whole = extractor([scans[5], scans[2]])
    assert len(inputs) == 2
    for i in range(2):
        item = inputs[i]
        assert all(torch.equal(item[name], whole[name][i]) for name in extractor.model_input_names)
        assert item["text_embeds"].tolist() == [3 * i, 3 * i + 1, 3 * i + 2]
    with pytest.raises(ValueError, match="`text_embeds` has 2 rows for 20 scans"):
        ScanInputs(scans, extractor, text_embeds=torch.zeros(2, 3))


def test_plain_texts_are_as_many_as_scans_and_are_scored_on_every_token(scans, processor):
    inputs = ScanInputs(scans, processor.feature_extractor, rows=[3, 4])
    asked = []
    examples = ScanConversations(inputs, lambda row: asked.append(row) or ASK, [{"input_ids": [7, 8, 9]}])
    batch = FmriLMCollator(processor)([examples[i] for i in range(len(examples))])
    assert asked == [3, 4]
    assert len(examples) == 4
    assert batch["input_values"].shape[0] == 2
    assert batch["labels"][2:, :4].tolist() == [[7, 8, 9, -100]] * 2
    assert (batch["input_ids"] == processor.fmri_token_id).sum(1).tolist() == [36, 36, 0, 0]


def test_next_codes_are_those_of_the_frozen_tokenizer(scans, processor, model, tmp_path):
    inputs = ScanInputs(scans, processor.feature_extractor, rows=[0, 1, 2])
    masked = [inputs[i] for i in range(3)]
    masked[0]["roi_mask"] = masked[0]["roi_mask"].clone()
    masked[0]["roi_mask"][4] = False
    batch = FmriLMCollator(processor)([{"conversation": ASK, **item} for item in masked])
    encoded = model.fmri_tokenizer.encode(batch["input_values"], batch["roi_mask"], batch["padding_mask"])
    labels = encoded.fmri_codes.masked_fill(~encoded.token_mask, -100)
    assert (labels == -100).sum() == 3  # one ROI in three time patches
    by_hand = trainer(model, tmp_path).compute_loss(model.eval(), batch | {"fmri_labels": labels})
    ours, outputs = trainer(model, tmp_path, next_codes=True).compute_loss(model, batch, return_outputs=True)
    torch.testing.assert_close(ours, by_hand)
    assert outputs.fmri_loss.item() > 0


def test_rois_are_hidden_in_training_only(scans, processor, model, tmp_path):
    inputs = ScanInputs(scans, processor.feature_extractor, rows=[0, 1])
    batch = FmriLMCollator(processor)([{"conversation": ASK, **inputs[i]} for i in range(2)])
    plain, dropping = trainer(model, tmp_path), trainer(model, tmp_path, roi_dropout=0.9)
    model.eval()
    assert torch.allclose(plain.compute_loss(model, batch), dropping.compute_loss(model, batch))
    model.train()
    torch.manual_seed(0)
    losses = {float(dropping.compute_loss(model, batch).detach()) for _ in range(3)}
    assert len(losses) == 3
    assert batch["roi_mask"].all()  # the batch itself is left alone


def test_hiding_and_next_codes_need_a_frozen_tokenizer_and_a_share(model, tmp_path):
    with pytest.raises(ValueError, match="`roi_dropout` must be at least 0 and less than 1"):
        trainer(model, tmp_path, roi_dropout=1.0)
    model.fmri_tokenizer.requires_grad_(True)
    for options in ({"next_codes": True}, {"roi_dropout": 0.5}):
        with pytest.raises(ValueError, match="need a frozen tokenizer"):
            trainer(model, tmp_path, **options)
    model.freeze_fmri_tokenizer()
    model.fmri_tokenizer.quantizer = None
    with pytest.raises(ValueError, match="`next_codes` needs a codebook"):
        trainer(model, tmp_path, next_codes=True)


def test_embedding_of_a_text_does_not_depend_on_its_batch(tiny):
    model = AutoModel.from_pretrained(tiny / "language_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny / "language_model")
    texts = ["What is the sex?", "female", "a much longer text about networks " * 4]
    together = embed_texts(model, tokenizer, texts)
    alone = torch.cat([embed_texts(model, tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, alone)
    ids = tokenizer(texts[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(together[0], model(ids).last_hidden_state[0].mean(0))
    model.config.max_position_embeddings = 4
    torch.testing.assert_close(
        embed_texts(model, tokenizer, texts)[0], model(ids[:, :4]).last_hidden_state[0].mean(0)
    )


def test_labels_become_questions_with_their_answers(importable):
    from texts import LabelQuestions

    columns = {
        "sex": ["F", "M", None, None],
        "age": [30.0, 29.9, float("nan"), 95.0],
        "group": [1.0, 2.0, 3.0, None],
    }
    questions = {
        "sex": {"ask": ["Sex?", "Gender?"], "answers": {"F": "female", "M": "male"}},
        "age": {"ask": ["Age?"], "below": {90: "old", 30: "young"}},
        "group": {"ask": ["Group?"], "answers": {1: "first", 2: "second"}},
    }
    asked = LabelQuestions(Dataset.from_dict(columns), questions)
    assert asked.rows == [
        0,
        1,
    ]  # a bound above the age, or an answer to the group, is not known for the others
    for row, expected in ((0, {"female", "old", "first"}), (1, {"male", "young", "second"})):
        drawn = [asked(row) for _ in range(20)]
        assert {frozenset(turn["content"] for turn in talk[1::2]) for talk in drawn} == {frozenset(expected)}
        assert len({json.dumps(talk) for talk in drawn}) > 5  # orders and wordings change
    one = LabelQuestions(Dataset.from_dict(columns), questions, n_questions=1)
    assert {len(one(0)) for _ in range(5)} == {2}
