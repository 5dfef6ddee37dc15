"""Pipelines decline scans that are not readable and labels without a record of training, unless they are forced."""

from __future__ import annotations

import numpy as np
import pytest
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from fmri_lm_hf.models import abstention
from fmri_lm_hf.models.abstention import untrained_reason
from fmri_lm_hf.models.answers import answer_log_probabilities, encode_question

RECORD = {"What is the sex?": ["female", "male"], "Is the Answer male?": ["no", "yes"]}
QUESTIONS = {
    "sex": {"type": "choice", "instructions": "What is the sex ?", "criteria": {"female": None, "male": None}},
    "patient": {"type": "noul", "instructions": "Is the Answer male?"},
    "level": {"type": "score", "instructions": "What is the Answer ?", "criteria": ["What", "is"]},
}
ASKED = {"candidate_labels": ["female", "male"], "question": "What is the sex ?"}


def readable(seed: int = 0) -> dict:
    """A scan of the six ROIs of `tiny`: slow signals, which the ROIs of a network share."""
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((120, 2 + tiny.N_ROIS))
    for row in range(1, len(series)):
        series[row] += 0.7 * series[row - 1]
    shared, own = series[:, :2], series[:, 2:]
    noise = rng.standard_normal(own.shape)
    return {"bold": shared[:, np.arange(tiny.N_ROIS) % 2] + 0.7 * own + 0.3 * noise, "t_r": 2.0}


def noise(seed: int = 0) -> dict:
    return {"bold": np.random.default_rng(seed).standard_normal((120, tiny.N_ROIS)), "t_r": 2.0}


@pytest.fixture(scope="module")
def recorded(checkpoint, tmp_path_factory):
    """A checkpoint that records the answers that it was trained on."""
    folder = tmp_path_factory.mktemp("recorded")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.config.answers = RECORD
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(recorded):
    return pipeline("fmri-zero-shot-classification", model=str(recorded))


@pytest.fixture(scope="module")
def decide(recorded):
    return pipeline("fmri-decision", model=str(recorded))


def test_a_readable_scan_and_a_trained_question_are_answered_without_further_keys(classify, decide):
    answers = classify(readable(), **ASKED)
    assert [set(answer) for answer in answers] == [{"label", "score"}] * 2
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    assert "declined" not in decide(readable(), questions=QUESTIONS)["sex"]


def test_noise_is_declined_and_forced_scores_are_marked(classify):
    (answer,) = classify(noise(), **ASKED)
    assert answer == {"label": None, "score": None, "declined": True, "reason": answer["reason"]}
    assert "white noise" in answer["reason"]
    forced = classify(noise(), **ASKED, force=True)
    assert {each["label"] for each in forced} == {"female", "male"}
    assert sum(each["score"] for each in forced) == pytest.approx(1)
    assert all(each["declined"] and each["reason"] == answer["reason"] for each in forced)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_in_a_list_only_the_unreadable_scans_are_declined(classify, batch_size):
    scans = [noise(0), readable(1), noise(2), readable(3), readable(4)]
    found = classify(scans, **ASKED, batch_size=batch_size)
    assert ["declined" in answers[0] for answers in found] == [True, False, True, False, False]
    for scan, answers in zip(scans, found, strict=True):
        alone = {each["label"]: each["score"] for each in classify(scan, **ASKED)}
        if alone.keys() != {None}:
            assert {each["label"]: each["score"] for each in answers} == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"candidate_labels": ["female", "robot"]}, "to answer 'What is the sex ?' with 'robot'. It was trained on"),
        ({"question": "What is the weather?"}, "not trained on the question 'What is the weather?'"),
        ({"question": None, "candidate_labels": ["rain", "sun"]}, "not trained to tell 'rain' and 'sun' apart"),
        ({"question": None, "candidate_labels": ["female", "yes"]}, "not trained to tell 'female' and 'yes' apart"),
    ],
)
def test_labels_and_questions_without_training_are_declined(classify, changes, reason):
    (answer,) = classify(readable(), **ASKED | changes)
    assert answer["declined"]
    assert reason in answer["reason"]
    assert len(classify(readable(), **ASKED | changes, force=True)) == 2


def test_case_spaces_and_the_last_mark_do_not_matter(classify):
    asked = {"candidate_labels": ["Female", "MALE"], "question": "what  is the sex"}
    assert [each["label"] for each in classify(readable(), **asked)] != [None]
    assert "declined" not in classify(readable(), candidate_labels=["male", "female"])[0]


def test_a_checkpoint_without_a_record_declines_all_labels(checkpoint):
    classify = pipeline("fmri-zero-shot-classification", model=str(checkpoint))
    (answer,) = classify(readable(), **ASKED)
    assert answer["reason"].startswith("This checkpoint records no labels")
    assert len(classify(readable(), **ASKED, force=True)) == 2


def test_an_adapters_record_is_that_of_its_processor(checkpoint, tmp_path):
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.answers = RECORD
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.answers == RECORD
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    classify = pipeline("fmri-zero-shot-classification", model=model, processor=loaded)
    assert "declined" not in classify(readable(), **ASKED)[0]


def test_decisions_decline_question_by_question(decide):
    answers = decide(readable(), questions=QUESTIONS)
    assert set(answers["patient"]) == {"type", "noul"}
    assert answers["level"] == {"type": "score", "score": None, "declined": True, "reason": answers["level"]["reason"]}
    alone = decide(readable(), questions={"sex": QUESTIONS["sex"]})
    assert alone["sex"]["probabilities"] == pytest.approx(answers["sex"]["probabilities"], abs=1e-5)
    forced = decide(readable(), questions=QUESTIONS, force=True)
    assert sum(forced["level"]["probabilities"].values()) == pytest.approx(1)
    assert [name for name, answer in forced.items() if "declined" in answer] == ["level"]


def test_decisions_about_noise_are_declined(decide):
    found = decide([noise(), readable()], questions=QUESTIONS)
    assert all(answer["declined"] and answer[answer["type"]] is None for answer in found[0].values())
    assert "white noise" in found[0]["sex"]["reason"]
    assert "declined" not in found[1]["sex"]


def test_text_is_not_declined(recorded):
    describe = pipeline("fmri-to-text", model=str(recorded))
    assert set(describe(noise(), max_new_tokens=3)[0]) == {"generated_text"}


def test_the_check_sees_the_scan_before_it_is_resampled(classify, monkeypatch):
    seen = []
    monkeypatch.setattr(abstention, "unreadable_reason", lambda bold, t_r, **masks: seen.append((bold.shape, t_r)))
    classify({**noise(), "t_r": 1.0}, **ASKED)
    assert seen == [((120, tiny.N_ROIS), 1.0)]


def test_logits_that_are_not_finite_are_an_error(checkpoint):
    model, processor = AutoModelForCausalLM.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    prompt, answers = encode_question(processor, "What is the sex ?", ["female", "male"])
    model.get_output_embeddings().weight.data[:] = np.nan
    with pytest.raises(ValueError, match="gives logits that are not finite"):
        answer_log_probabilities(model, prompt, answers, **processor(fmri=readable()))


def test_a_reason_names_a_few_of_the_trained_questions():
    many = {f"Question {number}?": [f"a{number}", f"b{number}"] for number in range(5)}
    reason = untrained_reason(many, "Another?", ["x", "y"])
    assert "'Question 0?' (a0, b0), 'Question 1?' (a1, b1), 'Question 2?' (a2, b2) and 2 more." in reason
    wordings = {f"Wording {number}?": ["a", "b"] for number in range(5)}
    assert untrained_reason(wordings, "Another?", ["a", "b"]).endswith("It was trained on 'Wording 0?' (a, b).")
