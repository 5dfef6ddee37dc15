"""The classification head: what it reads, its losses, and checkpoints of the language model that it starts from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import close, language_model, left_padded, processor, prompt, scans
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fmri_lm_hf import FmriLMForSequenceClassification
from fmri_lm_hf.hub.contents import read_folder
from fmri_lm_hf.hub.records import render_model_card

LABELS = {0: "female", 1: "male", 2: "not told"}


@pytest.fixture(scope="module")
def model(checkpoint):
    torch.manual_seed(0)
    names = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
    return AutoModelForSequenceClassification.from_pretrained(checkpoint, **names).eval()


@torch.no_grad()
def test_a_checkpoint_of_the_language_model_gets_a_head_on_what_its_last_token_has_read(model, checkpoint):
    assert type(model) is FmriLMForSequenceClassification
    assert model.config.num_labels == 3
    assert model.config.id2label == LABELS
    language = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    inputs = {"input_ids": prompt("scan", 5, 6), "input_values": scans(1)}
    read = language(**inputs, output_hidden_states=True).hidden_states[-1][:, -1]
    logits = model(**inputs).logits
    close(logits, read @ model.score.weight.T)
    assert logits.std() > 1e-3
    assert not torch.allclose(logits, model(**inputs | {"input_values": scans(1, seed=1)}).logits)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(model):
    prompts = [prompt("scan", 5), prompt("scan", 5, 6, 7)]
    alone = [model(input_ids=p, input_values=scans(2)[i : i + 1]).logits for i, p in enumerate(prompts)]
    left = left_padded(prompts)
    n_padding = int((left["attention_mask"][0] == 0).sum())
    right = {name: torch.stack([x[0].roll(-n_padding), x[1]]) for name, x in left.items()}
    for padded in (left, right):
        close(model(**padded, input_values=scans(2)).logits, torch.cat(alone))


@pytest.mark.parametrize(
    ("problem", "labels", "by_hand"),
    [
        ("single_label_classification", torch.tensor([2, 0]), F.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
            F.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.tensor([[0.1, 2.0, -1.0], [0.3, 0.0, 1.0]]), F.mse_loss),
    ],
)
def test_the_loss_is_that_of_the_problem_and_trains_what_reads_the_scan(model, checkpoint, problem, labels, by_hand):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3, problem_type=problem)
    found = model(input_ids=prompt("scan", 5).repeat(2, 1), input_values=scans(2), labels=labels)
    close(found.loss, by_hand(found.logits, labels))
    found.loss.backward()
    for weight in (model.score.weight, model.projector.linear.weight):
        assert weight.grad.abs().sum() > 0


def test_one_number_is_regressed_without_being_told(checkpoint):
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
    ages = torch.tensor([0.5, -0.5])
    found = model(input_ids=prompt("scan", 5).repeat(2, 1), input_values=scans(2), labels=ages)
    close(found.loss, F.mse_loss(found.logits[:, 0], ages))
    assert model.config.problem_type == "regression"


@torch.no_grad()
def test_saved_and_loaded_it_answers_alike_and_can_be_published(model, tmp_path):
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = {"input_ids": prompt("scan", 5), "input_values": scans(1)}
    assert again(**inputs).logits.tolist() == model(**inputs).logits.tolist()
    assert again.config.id2label == LABELS
    publication = read_folder(tmp_path)  # complete without `generation_config.json`: it does not generate
    card = render_model_card(publication, "me/mine", None)
    assert 'AutoModelForSequenceClassification.from_pretrained("me/mine")' in card
    assert "zero-shot" not in card


def test_a_model_of_components_has_a_head_with_weights():
    whole = language_model()
    joined = FmriLMForSequenceClassification.from_components(
        whole.fmri_tokenizer, whole.language_model, fmri_token_id=whole.config.fmri_token_id, num_labels=4
    ).eval()
    logits = joined(input_ids=prompt("scan", 5), input_values=scans(1)).logits
    assert logits.shape == (1, 4)
    assert float(joined.score.weight.detach().std()) == pytest.approx(joined.config.initializer_range, rel=0.5)


def test_it_writes_no_text(model):
    with pytest.raises(TypeError, match=r"returns `logits`.*AutoModelForCausalLM"):
        model.generate(input_ids=prompt("scan", 5), input_values=scans(1))
