"""The pipeline of questions: what it takes, what its options do, and that a batch is as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hub import tiny
from questions.small_reader import KeywordReader
from transformers import pipeline

from fmri_lm_hf import FmriQuestionAnsweringPipeline, example_scan, load_bundled_model
from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.processing_fmri_lm import FmriLMProcessor
from fmri_lm_hf.models.scan_files import read_scan
from fmri_lm_hf.questions.statements import number
from fmri_lm_hf.simulation.stream import random_scan

TASK = "fmri-question-answering"
HUB, LEVEL = "Which is the hub?", "How strong is it between default and occipital?"


@pytest.fixture(scope="module")
def bundled():
    return load_bundled_model()


@pytest.fixture
def ask(bundled, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.questions.numpy_reader.load_question_reader", KeywordReader)
    return pipeline(TASK, model=bundled[0], processor=bundled[1])


@pytest.fixture(scope="module")
def scans(bundled):
    """The example, and two simulated brains."""
    atlas = bundled[1].feature_extractor.atlas
    return [str(example_scan()), *(random_scan(atlas, 0, index) for index in (1, 2))]


def value(answer) -> float:
    return answer["evidence"][0]["value"]


def test_an_answer_has_the_numbers_of_the_scan(ask, scans):
    found = ask(scans[0], question=LEVEL)
    assert isinstance(ask, FmriQuestionAnsweringPipeline)
    assert list(found) == ["answer", "score", "declined", "reason", "queries", "evidence"]
    assert found["queries"] == [{"intent": "level", "networks": ["default", "occipital"], "extra": {}}]
    assert f"{value(found):.2f}" in found["answer"]
    assert not found["declined"]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_batch_is_answered_as_one_by_one(ask, scans, batch_size):
    alone = [ask(scan, question=LEVEL) for scan in scans]
    assert len({value(answer) for answer in alone}) == 3
    assert ask(scans, question=LEVEL, batch_size=batch_size) == alone


def test_scans_and_questions_are_taken_in_every_form(ask, scans):
    questions = [HUB, LEVEL, "What is 2+2?"]
    alone = [ask(scan, question=question) for scan, question in zip(scans, questions)]
    assert [answer["declined"] for answer in alone] == [False, False, True]
    assert ask(scans, question=questions) == alone
    requests = [{"scan": scan, "question": question} for scan, question in zip(scans, questions)]
    assert ask(requests, batch_size=2) == alone
    assert ask(requests[1]) == alone[1]
    of_one = [ask(scans[0], question=question) for question in questions]
    assert ask(scans[0], question=questions) == of_one
    assert ask([{"scan": scans[0], "question": questions}, requests[1]], batch_size=2) == [of_one, alone[1]]


def test_a_scan_that_is_not_readable_is_declined_and_the_others_answered(ask, scans):
    noise = {"bold": np.random.default_rng(0).standard_normal((150, 160)), "t_r": 2.0}
    found = ask([scans[0], noise], question=HUB, batch_size=2)
    assert [answer["declined"] for answer in found] == [False, True]
    assert found[1]["reason"].startswith("The signals are white noise")
    assert found[1]["evidence"] == []


def test_the_repetition_time_is_used(ask, scans, bundled):
    bold = read_scan(scans[0], bundled[1].feature_extractor.atlas).bold
    assert value(ask(bold, question=LEVEL, t_r=2.0)) == pytest.approx(value(ask(scans[0], question=LEVEL)), abs=1e-4)
    slow = ask(bold, question="fALFF of default", t_r=2.5)
    assert value(slow) != pytest.approx(value(ask(bold, question="fALFF of default", t_r=2.0)), abs=1e-3)


def test_further_names_are_of_the_call_or_of_the_pipeline(ask, scans, bundled):
    question, names = "between the idle net and occipital", {"default": ["idle net"]}
    assert ask(scans[0], question=question)["declined"]
    named = ask(scans[0], question=question, names=names)
    assert value(named) == value(ask(scans[0], question=LEVEL))
    assert ask(scans[0], question=question)["declined"]
    with_names = pipeline(TASK, model=bundled[0], processor=bundled[1], names=names)
    assert with_names(scans[0], question=question) == named


def test_the_threshold_declines_what_is_uncertain(ask, scans, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.questions.numpy_reader.load_question_reader", lambda: KeywordReader(0.7))
    assert [ask(scans[0], question=HUB, threshold=least)["declined"] for least in (0.6, 0.8)] == [False, True]


def test_the_model_reads_levels_which_are_compared_or_shown(ask, scans):
    by_numbers, read = (ask(scans[0], question=LEVEL, read=read) for read in ("numbers", "model"))
    assert read["answer"] == f"{by_numbers['answer']} The language model reads the same level."
    assert read["evidence"] == by_numbers["evidence"]
    raw = ask(scans[0], question=LEVEL, read="model", check=False)
    assert raw["answer"] == "The language model reads (not checked): between default and occipital: moderate."


def test_any_model_whose_processor_has_an_atlas_is_asked(ask, checkpoint, monkeypatch):
    monkeypatch.setattr("fmri_lm_hf.models.abstention.unreadable_reason", lambda *args, **options: None)
    monkeypatch.setattr("fmri_lm_hf.descriptors.prepared.MIN_TIMEPOINTS", 8)
    other = pipeline(TASK, model=str(checkpoint))
    found = other(tiny.scan(), question="How strong is it between A and B?", t_r=2.0)
    assert found["queries"][0]["networks"] == ["A", "B"]
    assert number(value(found)) in found["answer"]


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (FmriFeatureExtractor(n_rois=6, n_timepoints=16), "feature extractor has no atlas"),
        (FmriFeatureExtractor(Atlas.numbered(6), n_timepoints=16), "'numbered' has no named networks"),
    ],
)
def test_a_model_without_names_of_networks_is_refused(ask, checkpoint, extractor, message):
    processor = FmriLMProcessor(extractor, tiny.text_tokenizer())
    nameless = pipeline(TASK, model=str(checkpoint), processor=processor)
    with pytest.raises(ValueError, match=message):
        nameless(tiny.scan(), question=HUB, t_r=2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "There is no question"),
        ({"question": []}, "The list of questions is empty"),
        ({"question": [HUB] * 3, "scans": 2}, "3 questions were given for 2 scans: give one for all or for each"),
        ({"question": HUB, "read": "thoughts"}, "`read` is 'numbers' or 'model', found 'thoughts'"),
        ({"question": HUB, "check": False}, "use it with `read='model'`"),
        ({"question": HUB, "threshold": 2}, "`threshold` is a probability"),
        ({"question": HUB, "names": {"amygdala": ["x"]}}, "which the atlas lacks"),
        ({"question": 3}, "A question is a text, or several, found 3"),
    ],
)
def test_calls_that_make_no_sense_are_refused(ask, scans, call, message):
    n_scans = call.pop("scans", None)
    with pytest.raises(ValueError, match=message):
        ask(scans[0] if n_scans is None else scans[:n_scans], **call)


def test_without_a_scan_a_question_is_declined(ask, scans):
    found = ask(None, question=HUB)
    assert (found["declined"], found["evidence"]) == (True, [])
    assert "There is no scan" in found["reason"]
    assert [each["declined"] for each in ask([scans[0], None], question=HUB, batch_size=2)] == [False, True]
