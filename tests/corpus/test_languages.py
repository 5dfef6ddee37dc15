"""Questions about network pairs in several languages say the same."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fmri_lm_hf import Atlas
from fmri_lm_hf.corpus.languages import ENGLISH, LANGUAGES, language_of
from fmri_lm_hf.corpus.queries import (
    ask_about,
    ask_bin,
    ask_comparison,
    ask_extreme,
    bin_question,
    scan_facts,
)
from fmri_lm_hf.training.texts import ReadingQuestions

NAMES = ["default", "visual", "fronto-parietal"]
FACTS = scan_facts([0.2, 0.6, -0.3, 1.2, 0.9, 1.6], [True] * 6, NAMES)
OTHERS = [code for code in LANGUAGES if code != "en"]


@pytest.mark.parametrize("code", LANGUAGES)
def test_levels_and_wordings_are_told_apart(code):
    language = language_of(code)
    assert len(set(language.bins)) == 5
    asked = [
        *language.ask_bin,
        *language.ask_comparison,
        *(w for each in language.ask_extreme.values() for w in each),
    ]
    assert len(set(asked)) == len(asked)
    assert len(language.ask_bin) == len(ENGLISH.ask_bin)
    assert {language.yes, language.no} & set(language.bins) == set()
    assert all("{pair}" in form for form in language.ask_bin)
    assert all("{first}" in form and "{second}" in form for form in language.ask_comparison)


@pytest.mark.parametrize("code", OTHERS)
def test_the_same_draw_asks_the_same_in_every_language(code):
    language = LANGUAGES[code]

    def meaning(answer, of):
        """What an answer says, without its words."""
        if answer in of.bins:
            return of.bins.index(answer)
        if answer in (of.yes, of.no):
            return answer == of.yes
        return [name for name in NAMES if name in answer]

    for seed in range(30):
        ours, theirs = (ask_about(FACTS, 4, random.Random(seed), each) for each in (language, ENGLISH))
        for question, english in zip(ours, theirs, strict=True):
            assert meaning(question.answer, language) == meaning(english.answer, ENGLISH)
            named = [[name for name in NAMES if name in each.text] for each in (question, english)]
            assert named[0] == named[1]
            assert question.text != english.text


def test_questions_and_answers_in_french_and_german():
    french, german = LANGUAGES["fr"], LANGUAGES["de"]
    assert bin_question(["default", "visual"], language=french) == "Connectivité entre default et visual ?"
    assert bin_question(["visual", "visual"], language=german) == "Konnektivität innerhalb von visual?"
    assert ask_bin(FACTS[1], language=german).answer == "hoch"
    assert ask_extreme(FACTS, "strongest", language=french).answer == "entre visual et fronto-parietal"
    assert ask_comparison(FACTS[1], FACTS[2], language=german).answer == "ja"
    assert ask_comparison(FACTS[2], FACTS[1], language=french).answer == "non"
    with pytest.raises(ValueError, match="no templates in 'it', only in en, fr, de"):
        language_of("it")


def test_conversations_of_a_training_are_in_its_languages():
    atlas = Atlas("a", [f"r{i}" for i in range(6)], [NAMES[i // 2] for i in range(6)])
    seen = {
        "fmri_features": torch.cat([torch.zeros(1, 4), torch.tensor([[1, value, 0, 0] for value in range(6)])]),
        "roi_mask": torch.ones(6, dtype=torch.bool),
    }
    of = {code: ReadingQuestions(atlas, 3, languages=[code]) for code in LANGUAGES}
    first = {
        code: {each.turns("s", np.random.default_rng(k), seen)[0].text for k in range(40)} for code, each in of.items()
    }
    assert not first["en"] & first["fr"] | first["en"] & first["de"]
    mixed = ReadingQuestions(atlas, 3, languages=list(LANGUAGES))
    levels = {code: set(language.bins) for code, language in LANGUAGES.items()}
    spoken = set()
    for k in range(60):
        answers = {each.answer for each in mixed.turns("s", np.random.default_rng(k), seen)}
        here = {code for code in LANGUAGES if answers & levels[code]}
        assert len(here) <= 1  # one language a conversation
        spoken |= here
    assert spoken == set(LANGUAGES)
