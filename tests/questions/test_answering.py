"""From a question and a scan to an answer: the scan first, then the question, then the numbers."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from questions.small_reader import KeywordReader

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.questions.answering import OpenedScan, QuestionAnswerer
from fmri_lm_hf.questions.answers import answer
from fmri_lm_hf.questions.measures import ScanMeasures
from fmri_lm_hf.questions.query import Query
from fmri_lm_hf.simulation.stream import random_scan

NETWORKS = ("visual", "default", "control", "limbic")
ATLAS = Atlas("small", tuple(f"roi_{k}" for k in range(24)), tuple(name for name in NETWORKS for _ in range(6)))
KEYS = ("answer", "score", "declined", "reason", "queries", "evidence")


def inputs(seed: int = 0, masked: tuple[str, ...] = (), **changes):
    """A readable scan, as it is recorded; networks may be without signal."""
    scan = random_scan(ATLAS, 0, seed)
    bold = scan["bold"].copy()
    bold[:, [network in masked for network in ATLAS.networks]] = np.nan
    return {"bold": bold, "t_r": scan["t_r"], **changes}


def answerer(certainty: float = 1.0, atlas: Atlas = ATLAS, **options) -> QuestionAnswerer:
    return QuestionAnswerer(atlas, KeywordReader(certainty), **options)


def measures(scan) -> ScanMeasures:
    return ScanMeasures.of(scan["bold"], scan["t_r"], ATLAS)


def test_an_answer_is_that_of_the_query_and_can_be_written_as_json():
    scan = inputs()
    found = answerer().answer("How strong is it between default and visual?", scan)
    expected = answer(Query("level", ("default", "visual")), measures(scan))
    assert tuple(found) == KEYS
    assert json.loads(json.dumps(found)) == found
    assert found["answer"] == expected.text
    assert (found["declined"], found["reason"], found["score"]) == (False, None, 1.0)
    assert found["queries"] == [{"intent": "level", "networks": ["default", "visual"], "extra": {}}]
    assert [set(each) for each in found["evidence"]] == [{"statement", "value", "units", "relative_to"}]
    assert found["evidence"][0]["value"] == pytest.approx(measures(scan).pair("default", "visual"))
    assert found["evidence"][0]["statement"] in found["answer"]


def test_another_scan_has_other_numbers():
    values = {answerer().answer("between default and visual", inputs(seed))["evidence"][0]["value"] for seed in (0, 1)}
    assert len(values) == 2


def test_numbers_are_those_of_the_scan_as_recorded():
    scan = inputs(t_r=0.8)
    found = answerer().answer("between default and visual", scan)
    assert found["evidence"][0]["value"] == pytest.approx(measures(scan).pair("default", "visual"))
    resampled = FmriFeatureExtractor(ATLAS, n_timepoints=50, t_r=2.0)(scan["bold"], t_r=0.8, return_tensors="np")
    other = ScanMeasures.of(resampled["input_values"][0].T, 2.0, ATLAS, sample_mask=resampled["padding_mask"][0])
    assert found["evidence"][0]["value"] != pytest.approx(other.pair("default", "visual"), rel=1e-5)


def test_several_questions_share_the_numbers_of_a_scan():
    ask = answerer()
    opened = ask.open(inputs())
    assert isinstance(opened, OpenedScan)
    assert ask.answer("hub", opened) == ask.answer("hub", inputs())


def test_two_questions_in_one_have_both_answers():
    found = answerer().answer("Which is the hub, and is it modular?", inputs())
    alone = [answerer().answer(question, inputs()) for question in ("hub", "modular")]
    assert found["answer"] == " ".join(each["answer"] for each in alone)
    assert found["evidence"] == [statement for each in alone for statement in each["evidence"]]
    assert [query["extra"]["measure"] for query in found["queries"]] == ["hub", "modularity"]


def test_of_two_questions_one_may_have_no_answer():
    scan = inputs(masked=("limbic",))
    both = answerer().answer("fALFF of limbic? and the hub?", scan)
    hub, limbic = (answerer().answer(question, scan) for question in ("hub", "fALFF of limbic"))
    assert not both["declined"]
    assert limbic["declined"]
    assert limbic["reason"] == limbic["answer"] == both["reason"]
    assert "limbic" in limbic["reason"]
    assert both["answer"] == f"{limbic['answer']} {hub['answer']}"
    assert both["evidence"] == hub["evidence"]
    assert limbic["evidence"] == []


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "The question is empty."),
        ("???", "The question is empty."),
        ("What is 2+2?", "It is not a question about the scan."),
        ("Is there a diagnosis?", "makes no diagnosis"),
        ("between default and amygdala?", 'This atlas has no "amygdala"'),
    ],
)
def test_a_declined_question_has_a_reason_and_what_can_be_asked(question, reason):
    found = answerer().answer(question, inputs())
    assert found["declined"]
    assert reason in found["reason"]
    assert "You can ask, for example" in found["answer"]
    assert (found["queries"], found["evidence"]) == ([], [])


@pytest.mark.parametrize("question", ["hub", "hello", ""])
def test_without_a_readable_scan_every_question_is_declined_for_that(question):
    constant = inputs(roi_mask=np.zeros(ATLAS.n_rois, dtype=bool))
    for scan in (None, constant):
        found = answerer().answer(question, scan)
        assert (found["declined"], found["score"], found["queries"], found["evidence"]) == (True, 1.0, [], [])
        assert found["answer"].startswith(found["reason"])
        assert "resting-state scan" in found["answer"]
    assert answerer().answer(question, None)["reason"] == "There is no scan."


@pytest.mark.parametrize(("threshold", "declined"), [(None, False), (0.6, False), (0.8, True), (0.0, False)])
def test_the_threshold_decides_what_is_declined(threshold, declined):
    found = answerer(certainty=0.7, threshold=threshold).answer("hub", inputs())
    assert found["declined"] == declined
    assert declined or found["score"] == pytest.approx(0.7)


def test_further_names_of_networks_are_understood():
    question = "between the idle net and visual?"
    assert answerer().answer(question, inputs())["declined"]
    named = answerer(names={"Default": ["idle net"]}).answer(question, inputs())
    assert named["queries"][0]["networks"] == ["default", "visual"]


def readings(*levels: tuple[tuple[str, str], str, str]):
    """What a language model might read: names, level, level by the numbers."""
    found = [
        SimpleNamespace(family="connectivity", names=names, level=level, by_numbers=truth, is_true=level == truth)
        for names, level, truth in levels
    ]
    return lambda measures, query: found


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ([(("default", "visual"), "low", "low")], "The language model reads the same level."),
        ([(("default", "visual"), "low", "low")] * 2, "The language model reads the same levels."),
        (
            [(("default", "visual"), "low", "high"), (("limbic", "limbic"), "low", "low")],
            "The language model reads 1 of 2 levels alike, but between default and visual as low, not high.",
        ),
        ([], "The language model reads no level here."),
    ],
)
def test_what_a_language_model_reads_is_compared_with_the_numbers(levels, said):
    question = "between default and visual"
    by_numbers = answerer().answer(question, inputs())
    read = answerer(levels=readings(*levels)).answer(question, inputs())
    assert read["answer"] == f"{by_numbers['answer']} {said}"
    assert read["evidence"] == by_numbers["evidence"]


def test_without_a_check_the_model_has_the_word():
    levels = readings((("default", "visual"), "low", "high"), (("default", "default"), "high", "high"))
    found = answerer(levels=levels, check=False).answer("between default and visual", inputs())
    assert found["answer"] == (
        "The language model reads (not checked): between default and visual: low; within default: high."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atlas": Atlas.numbered(24)}, "The atlas 'numbered' has no named networks"),
        ({"threshold": 1.5}, "`threshold` is a probability from 0 to 1, found 1.5"),
        ({"check": False}, "use it with `read='model'`"),
        ({"names": {"amygdala": ["x"]}}, "`names` has the network 'amygdala', which the atlas lacks: use visual, "),
        ({"names": {"default": "idle net"}}, "`names` needs a list of names for 'default', found 'idle net'"),
        ({"names": {"default": [""]}}, "`names` needs a list of names for 'default'"),
        ({"names": ["default"]}, "`names` maps networks to lists of names"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        answerer(**options)


@pytest.mark.parametrize(
    ("question", "scan", "message"),
    [
        (3, "given", "A question is a text, found int: 3"),
        ("hub", {"input_values": np.zeros((24, 160))}, "The scan has no bold and no t_r: give `bold`"),
        ("hub", {"bold": np.zeros((2, 9, 24)), "t_r": 2.0}, "the shape (n_timepoints, n_rois), found (2, 9, 24)"),
    ],
)
def test_what_is_no_question_or_no_scan_is_refused(question, scan, message):
    scan = inputs() if isinstance(scan, str) else scan
    with pytest.raises(ValueError, match=re.escape(message)):
        answerer().answer(question, scan)
