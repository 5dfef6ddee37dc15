from __future__ import annotations

import re

import pytest

from fmri_lm_hf.corpus import check_text


def make_fact(measure: str, *networks: str, z: float, value: float = 0.31) -> dict:
    return {
        "family": measure.split("/")[0],
        "feature": "/".join([measure, "-".join(networks)]) if networks else measure,
        "network": list(networks),
        "value": value,
        "z": z,
        "direction": "raised" if z >= 1 else "lowered" if z <= -1 else "typical",
        "units": "units",
    }


MODULARITY = make_fact("graph/modularity", z=2.13, value=0.4242)
EFFICIENCY = make_fact("graph/global_efficiency", z=-1.31)
STRENGTH = make_fact("graph/node_strength", "Default", z=1.62)
VISUAL = make_fact("graph/node_strength", "Visual", z=-1.44)
COUPLING = make_fact("connectivity/mean", "Default", "Visual", z=-2.4)
WITHIN = make_fact("connectivity/mean", "Default", "Default", z=1.9)
STRONGEST = make_fact("connectivity/strongest", "Default", "Visual", z=0.2)
FALFF = make_fact("ica/falff", z=0.4)
FACTS = [MODULARITY, EFFICIENCY, STRENGTH, VISUAL, COUPLING, WITHIN, STRONGEST, FALFF]


@pytest.mark.parametrize(
    "text, stated",
    [
        ("Modularity is high.", [MODULARITY]),
        ("The network modularity was markedly elevated (z=2.1).", [MODULARITY]),
        ("Modularity lies 2.1 SD above the mean.", [MODULARITY]),
        ("Modularity is 2.1 standard deviations above the cohort average, at 0.424.", [MODULARITY]),
        ("Raised modularity and lowered global efficiency characterise this scan.", [MODULARITY, EFFICIENCY]),
        ("While modularity is raised, global efficiency is reduced.", [MODULARITY, EFFICIENCY]),
        ("Modularity is above average and global efficiency below average.", [MODULARITY, EFFICIENCY]),
        (
            "Node strength is raised in the Default network and lowered in the Visual network.",
            [STRENGTH, VISUAL],
        ),
        ("The Default network shows higher node strength (z = 1.6).", [STRENGTH]),
        ("In Default, node strength is high and in Visual, node strength is low.", [STRENGTH, VISUAL]),
        ("Reduced default\N{EN DASH}visual coupling (z = \N{MINUS SIGN}2.4) stands out.", [COUPLING]),
        ("Default-Visual connectivity is weaker.", [COUPLING]),
        (
            "Functional connectivity between Visual and Default is decreased, -2.4 SD below the mean.",
            [COUPLING],
        ),
        ("Functional connectivity between Visual and Default is decreased by 2.4 SD.", [COUPLING]),
        ("Connectivity within the Default network is stronger.", [WITHIN]),
        ("The strongest connection is between the Visual and Default networks.", [STRONGEST]),
        ("Overall fALFF is unremarkable.", [FALFF]),
        ("Overall fALFF is not raised.", [FALFF]),
        ("", []),
        ("The participant rested with open eyes.", []),
    ],
)
def test_what_is_stated_is_matched(text, stated):
    report = check_text(text, FACTS)
    assert list(report.matched) == stated
    assert list(report.missing) == [fact for fact in FACTS if fact not in stated]
    assert not report.contradicted
    assert not report.invented
    assert report.precision == 1
    assert report.recall == pytest.approx(len(stated) / len(FACTS))


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Modularity is reduced.", "direction is lowered, not raised"),
        ("Modularity is reduced (z = +2.1).", "direction is lowered, not raised"),
        ("Modularity is typical.", "direction is typical, not raised"),
        ("Modularity is not raised.", "direction is typical, not raised"),
        ("Modularity is raised (z = -2.1).", r"z is -2\.1, not \+2\.13"),
        ("Modularity is raised (z = +2.2).", r"z is \+2\.2, not \+2\.13"),
        ("Modularity is 2.1 SD below the mean.", r"z is -2\.1"),
        ("Modularity is raised by 3.1 SD.", r"z is ±3\.1"),
        ("Modularity is raised (value 0.52).", r"value is 0\.52, not 0\.4242"),
        ("Modularity is raised, at 42 percent.", "value is 42"),
        ("Modularity is slightly raised.", "degree is mild"),
        ("Overall fALFF is not typical.", "direction is not typical, not typical"),
        ("Node strength is lowered in the Default network.", "direction is lowered, not raised"),
        ("Node strength is raised in the Default and Visual networks.", "direction is raised, not lowered"),
        ("Default\N{EN DASH}Visual coupling is increased.", "direction is raised, not lowered"),
        ("Modularity is raised, although modularity is lowered.", "direction is lowered"),
        ("Global efficiency is clearly reduced.", "degree is marked"),
    ],
)
def test_what_is_stated_wrong_is_contradicted(text, reason):
    report = check_text(text, FACTS)
    assert len(report.contradicted) == 1
    fact, what = report.contradicted[0]
    assert re.search(reason, what)
    assert fact not in report.matched
    assert fact not in report.missing
    assert report.precision < 1


@pytest.mark.parametrize(
    "text",
    [
        "Average clustering is raised.",  # a measure that no fact is about
        "Node strength is raised in the Limbic network.",  # a network that no fact is about
        "Coupling between Default and Limbic networks is reduced.",
        "Node strength is raised.",  # of which network?
        "fALFF in the Default network is typical.",
        "The strongest connection is within the Default network.",
        "The weakest connection is between Default and Visual.",
        "Hippocampal volume is reduced.",
        "The participant is 45 years old.",
    ],
)
def test_what_no_fact_says_is_invented(text):
    report = check_text(text, FACTS, networks=["Limbic"])
    assert report.invented == (text,)
    assert not report.matched
    assert (report.precision, report.score) == (0, 0)


def test_scores_are_precision_and_recall():
    text = "Modularity is raised. Global efficiency is raised. Average clustering is raised."
    report = check_text(text, FACTS[:4])
    assert report.precision == pytest.approx(1 / 3)
    assert report.recall == pytest.approx(1 / 4)
    assert report.score == pytest.approx(2 / 7)
    assert not report.is_true


def test_an_empty_text_about_no_facts_is_true():
    assert check_text("", []).is_true
    assert check_text("", [MODULARITY]).score == 0


def test_numbers_count_to_the_digits_that_are_written():
    for number in ("0.42", "0.424", "0.4242"):
        assert not check_text(f"Modularity is raised, with {number}.", [MODULARITY]).contradicted, number
    for number in ("0.43", "0.425", "0.4243"):
        assert check_text(f"Modularity is raised, with {number}.", [MODULARITY]).contradicted, number
    tiny = make_fact("gradients/variance", z=1.2, value=1.234e-5)
    assert check_text("Gradient variance is raised (1.23e-05).", [tiny]).is_true
    assert check_text("Gradient variance is raised (1.25e-05).", [tiny]).contradicted


# Sentences of corpora that the release before has made: in the grammar's words of then.
BEFORE = [
    "Against the reference cohort, there is raised modularity of the graph (z of +2.1).",
    "The scan shows elevated graph modularity (value 0.424 Q, z = +2.1), but there is usual overall fALFF.",
    "In the Default network (value 0.3 summed correlation, z = +1.6), node strength is found to be heightened.",
    "Compared with the cohort, between Visual and Default (z of -2.4), connectivity is below average.",
    "Relative to scans of other sites or settings, between Visual and Default lies the strongest network pair.",
    "Efficiency of the graph is found to be diminished; overall fALFF is in the usual range.",
]


@pytest.mark.parametrize("text", BEFORE)
def test_texts_of_the_release_before_are_read(text):
    report = check_text(text, FACTS)
    assert report.matched
    assert not report.contradicted
    assert not report.invented


def test_the_names_of_the_release_before_work_and_say_so():
    import fmri_lm_hf.corpus as corpus

    with pytest.warns(FutureWarning, match=r"`fmri_lm_hf.corpus.faithfulness` is now `check_text`"):
        faithfulness = corpus.faithfulness
    with pytest.warns(FutureWarning, match=r"is now `TextCheck.is_true`"):
        assert faithfulness("", []).is_faithful
    with pytest.warns(FutureWarning, match="TextCheck"):
        assert corpus.Faithfulness is corpus.TextCheck
