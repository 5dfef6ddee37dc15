from __future__ import annotations

import numpy as np
import pytest

from fmri_lm_hf.corpus import SUBJECT_TEXT_COLUMN, describe_subject
from fmri_lm_hf.corpus.prose import DEMOGRAPHICS

ROW = {
    "scan_id": "a",
    "age": 31,
    "sex": "F",
    "handedness": "left",
    "education_years": np.float32(14.5),
    "diagnosis": "autism",
    "fluid_intelligence": 17,
}


def test_what_is_known_is_said():
    for seed in range(20):
        text = describe_subject(ROW, (*DEMOGRAPHICS, "fluid_intelligence"), seed=seed)
        for part in (
            "a 31-year-old female participant",
            "left",
            "14.5 years",
            "autism",
            "luid intelligence",
            "17",
        ):
            assert part in text
    assert SUBJECT_TEXT_COLUMN == "subject_description"


@pytest.mark.parametrize("label", DEMOGRAPHICS)
def test_the_text_does_not_depend_on_an_excluded_label(label):
    for seed in range(10):
        texts = {
            describe_subject({**ROW, label: value}, exclude=[label], seed=seed)
            for value in ("M", "other", 71, None)
        }
        assert len(texts) == 1
        assert describe_subject({k: v for k, v in ROW.items() if k != label}, seed=seed) in texts


def test_no_word_tells_an_excluded_sex():
    for seed in range(20):
        words = set(describe_subject(ROW, exclude=["sex"], seed=seed).lower().replace(".", "").split())
        assert not words & {"female", "male", "woman", "man", "she", "he", "her", "his"}


@pytest.mark.parametrize("missing", [None, float("nan"), "", "n/a"])
def test_missing_values_are_passed_over(missing):
    assert describe_subject({"age": missing, "sex": "M"}, seed=1).endswith("a male participant.")
    assert describe_subject({"age": missing}) == ""


@pytest.mark.parametrize(
    "age, words", [(8, "an 8-year-old"), (18.0, "an 18-year-old"), (80.5, "an 80.5-year-old")]
)
def test_articles_fit_the_age(age, words):
    assert f"{words} participant" in describe_subject({"age": age})


def test_the_seed_chooses_the_wording():
    texts = [describe_subject(ROW, seed=seed) for seed in range(30)]
    assert len(set(texts)) > 5
    assert texts == [describe_subject(ROW, seed=seed) for seed in range(30)]


def test_a_column_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no column memory; it has scan_id, age"):
        describe_subject(ROW, columns=("memory",))
