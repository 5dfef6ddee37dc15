"""Typed questions: their answers are those of asking each alone, from one reading of the scan."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hub import tiny
from small import language_model
from transformers import AutoModelForCausalLM, pipeline

from fmri_lm_hf import FmriDecisionPipeline
from fmri_lm_hf.models import answers as module
from fmri_lm_hf.models.answers import answer_log_probabilities, answers_to_questions, encode_question

QUESTIONS = {
    "sex": {
        "type": "choice",
        "instructions": "What is the sex ?",
        "criteria": {"female": None, "male": None, "the sex is female .": None},
    },
    "level": {
        "type": "score",
        "instructions": "What is the Answer ?",
        "criteria": ["What", "is", "the sex", "male"],
    },
    "patient": {"type": "noul", "instructions": "is male ?"},
}


@pytest.fixture(scope="module")
def decide(checkpoint):
    # forced: scans of `tiny` are a few volumes of noise, and its checkpoint records no labels
    return pipeline("fmri-decision", model=str(checkpoint), force=True)


def request(i: int = 0, **changes) -> dict:
    scan = {"bold": tiny.scan(i), "t_r": 2.0}
    return {"state": "scan-1", "assets": {"scan-1": scan}, "questions": QUESTIONS} | changes


def probabilities(answer: dict) -> list[float]:
    return list(answer["probabilities"].values())


def close(found: dict, expected: dict) -> None:
    """Answers to the same questions: equal in words, and nearly so in numbers."""
    assert list(found) == list(expected)
    for name, answer in found.items():
        numbers = {key: value for key, value in answer.items() if isinstance(value, float)}
        numbers |= answer.get("probabilities", {})
        other = {key: value for key, value in expected[name].items() if isinstance(value, float)}
        assert numbers == pytest.approx(other | expected[name].get("probabilities", {}), abs=1e-5)
        assert answer.get("choice") == expected[name].get("choice")


def test_answers_have_the_form_of_transformers(decide):
    assert isinstance(decide, FmriDecisionPipeline)
    answers = decide(request())
    assert list(answers) == ["sex", "level", "patient"]
    sex, level, patient = answers.values()
    assert list(sex["probabilities"]) == ["female", "male", "the sex is female ."]
    assert sex["choice"] == max(sex["probabilities"], key=sex["probabilities"].get)
    assert level["legend"] == dict(zip("0123", QUESTIONS["level"]["criteria"]))
    assert level["score"] == pytest.approx(sum(k * p for k, p in enumerate(probabilities(level))))
    assert set(patient) == {"type", "noul", "declined", "reason"}
    assert 0 < patient["noul"] < 1
    for answer in (sex, level):
        assert sum(probabilities(answer)) == pytest.approx(1)
        assert all(p > 0 for p in probabilities(answer))


def test_many_questions_are_answered_as_each_alone(decide):
    together = decide(request())
    for name, question in QUESTIONS.items():
        close(decide(request(questions={name: question})), {name: together[name]})


def test_a_choice_is_that_of_the_zero_shot_pipeline(checkpoint, decide):
    classify = pipeline("fmri-zero-shot-classification", model=str(checkpoint))
    scores = classify(
        tiny.scan(),
        t_r=2.0,
        force=True,
        question="What is the sex ?",
        candidate_labels=list(QUESTIONS["sex"]["criteria"]),
    )
    expected = {score["label"]: score["score"] for score in scores}
    assert decide(request())["sex"]["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_scans_alone_in_lists_and_in_batches(decide):
    expected = [decide(request(i)) for i in range(3)]
    data = [tiny.scan(i) for i in range(3)]
    for options in ({}, {"batch_size": 2}):
        found = decide(data, questions=QUESTIONS, t_r=2.0, **options)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    assert decide(data[0], questions=QUESTIONS, t_r=2.0) == expected[0]


def test_a_request_may_be_json_and_its_state_may_say_more(decide, tmp_path):
    np.savez(tmp_path / "scan.npz", bold=tiny.scan(), t_r=2.0)
    asset = {"scan-1": str(tmp_path / "scan.npz")}
    assert decide(json.dumps(request(assets=asset))) == decide(request())
    said = decide(request(state="the male scan-1 is ."))
    assert said["sex"]["probabilities"] != decide(request())["sex"]["probabilities"]
    described = QUESTIONS["sex"] | {"criteria": QUESTIONS["sex"]["criteria"] | {"male": "the Answer"}}
    assert decide(request(questions={"sex": described}))["sex"] != decide(request())["sex"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"state": "no such place"}, r"must name the scan 'scan-1' once, where it belongs, but names it 0 times"),
        ({"state": "scan-1 scan-1"}, "names it 2 times"),
        ({"assets": {}}, r"must be one scan by its name, found \[\]"),
        ({"assets": {"a": 1, "b": 2}}, r"must be one scan by its name, found \['a', 'b'\]"),
        ({"questions": {}}, "at least one question"),
        ({"questions": {"sex": {"type": "vote"}}}, "Question 'sex': `type` must be one of"),
        ({"questions": {"sex": {"type": "choice", "instructions": "?"}}}, "Question 'sex'"),
        ({"questions": {"sex": {"type": "noul"}}}, "'sex' has no `instructions`: write what is asked there"),
        (
            {"questions": {"sex": {"type": "score", "instructions": "?", "criteria": ["male", "male"]}}},
            r"'sex': its options must all be different, got \['male', 'male'\]",
        ),
    ],
    ids=str,
)
def test_requests_that_cannot_be_read(decide, changes, message):
    with pytest.raises(ValueError, match=message):
        decide(request(**changes))


def test_what_is_no_request_says_what_one_is(decide):
    with pytest.raises(ValueError, match=r"A request is .* found \['state'\]. To ask about scans alone, give"):
        decide({"state": "scan-1"})


# --- many questions from one reading --------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("max_rows", [512, 7])
def test_one_reading_serves_many_questions(backbone, max_rows, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", max_rows)
    model, processor = language_model(backbone), tiny.processor()
    asked = [
        encode_question(processor, question, answers)
        for question, answers in (
            ("What is the sex ?", ["female", "male", "the sex is female ."]),
            ("is ?", ["male", "What is"]),
            ("What is the Answer : male ?", ["sex", "female", "."]),
        )
    ]
    inputs = dict(processor(fmri=[tiny.scan(0), tiny.scan(1)], t_r=2.0))
    inputs["roi_mask"][1, 2] = False
    read = []
    get_features = model.get_fmri_features
    monkeypatch.setattr(model, "get_fmri_features", lambda *args: read.append(1) or get_features(*args))
    together = answers_to_questions(model, asked, **inputs)
    assert len(read) == 1
    for (prompt, answers), found in zip(asked, together, strict=True):
        assert found.shape == (2, len(answers))
        torch.testing.assert_close(found, answer_log_probabilities(model, prompt, answers, **inputs))


def test_questions_without_a_scan_may_have_nothing_in_common():
    model = language_model()
    asked = [([4, 5], [[6], [7, 8]]), ([9], [[10, 11, 12]])]
    for (prompt, answers), found in zip(asked, answers_to_questions(model, asked), strict=True):
        for column, ids in enumerate(answers):
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            expected = sum(logits[len(prompt) - 1 + k, token] for k, token in enumerate(ids))
            torch.testing.assert_close(found[0, column], expected.detach())


def test_prompts_that_differ_before_their_scan_are_refused(checkpoint):
    model, processor = AutoModelForCausalLM.from_pretrained(checkpoint), tiny.processor()
    scan = [{"type": "fmri"}]
    asked = [encode_question(processor, [{"type": "text", "text": word}, *scan], ["male"]) for word in ("What", "is")]
    with pytest.raises(ValueError, match="differ before the end of their scan"):
        answers_to_questions(model, asked, **processor(fmri=tiny.scan(), t_r=2.0))
