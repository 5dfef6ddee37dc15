"""Questions about labels that a checkpoint was trained on."""

from __future__ import annotations

import pytest

from fmri_lm_hf.questions.labels import RecordedLabels

RECORDED = {
    "What is the sex of this person?": ["female", "male"],
    "Is this scan of a woman or a man?": ["female", "male"],
    "Does this person have a diagnosis?": ["healthy", "patient"],
}


def labels(probabilities=(0.8, 0.2)) -> RecordedLabels:
    return RecordedLabels(RECORDED, lambda row, question, answers: probabilities)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Is it a male or a female brain?", "What is the sex of this person?"),
        ("which sex", "What is the sex of this person?"),
        ("A woman, I suppose?", "What is the sex of this person?"),
        ("Is this person healthy?", "Does this person have a diagnosis?"),
        ("any diagnosis?", "Does this person have a diagnosis?"),
        ("What is the IQ of this person?", None),
        ("hello", None),
        ("", None),
    ],
)
def test_a_recorded_question_is_found_by_words_that_only_it_has(text, question):
    assert labels().find(text) == question


def test_an_answer_is_the_most_probable_label_with_what_it_rests_on():
    found = labels((0.25, 0.75)).answer({}, "What is the sex of this person?")
    assert found.value == "male"
    assert "The model answers male, with a probability of 0.75." in found.text
    assert found.evidence[0].value == 0.75
    assert found.evidence[0].relative_to == "the labels that the model was trained on: female, male"


def test_scores_are_asked_for_the_scan_the_question_and_its_answers():
    asked = []

    def scores(row, question, answers):
        asked.append((row, question, answers))
        return [1.0, 0.0]

    RecordedLabels(RECORDED, scores).answer({"t_r": 2.0}, "Does this person have a diagnosis?")
    assert asked == [({"t_r": 2.0}, "Does this person have a diagnosis?", ["healthy", "patient"])]
