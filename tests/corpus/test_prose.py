"""The grammar: what it writes is what the facts say; descriptions of subjects reveal what they may."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fmri_lm_hf.corpus import SUBJECT_TEXT_COLUMN, check_text, describe_subject, select_facts, verbalise
from fmri_lm_hf.corpus.facts import NOUNS, OTHER_ACQUISITIONS, direction_of, fact_measure, is_decided
from fmri_lm_hf.corpus.prose import (
    DEMOGRAPHICS,
    EXTREME_FORMS,
    FORMS,
    NUMBER_STYLES,
    direction_phrases,
    render_statement,
)
from fmri_lm_hf.descriptors import MEASURES

NETWORKS = ("Default", "Visual", "Somatomotor", "Limbic")
EXTREMES = ("connectivity/strongest", "connectivity/weakest")
PLACES = {"scan": [()], "network": [("Default",)], "pair": [("Default", "Visual")]}
PLACES["pair_or_within"] = [*PLACES["pair"], ("Limbic", "Limbic")]
# Written down here, apart from the vocabulary of the package: what a reader takes these words to mean.
UP = ("raised", "elevated", "increased", "high", "higher", "heightened", "above")
DOWN = ("lowered", "reduced", "decreased", "low", "lower", "diminished", "below")
NEITHER = ("typical", "average", "ordinary", "unremarkable", "normal", "close to", "usual", "about")


def make_fact(measure: str, networks: tuple[str, ...] = (), z: float = 2.46, value: float = 0.3127) -> dict:
    return {
        "family": measure.split("/")[0],
        "feature": "/".join([measure, "-".join(networks)]) if networks else measure,
        "network": list(networks),
        "value": value,
        "z": z,
        "direction": direction_of(z),
        "units": MEASURES[measure].units if measure in MEASURES else "Fisher z",
    }


def words_in(text: str, words: tuple[str, ...]) -> set[str]:
    return set(re.findall(rf"\b(?:{'|'.join(words)})\b", text))


def test_every_measure_has_words():
    assert set(NOUNS) == set(MEASURES) | set(EXTREMES) | {"connectivity/bin"}


ORDINARY = [
    (name, networks) for name, measure in MEASURES.items() for scope in measure.scopes for networks in PLACES[scope]
]


@pytest.mark.parametrize(
    "measure, networks", ORDINARY, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_sign_of_every_template(measure, networks):
    """Raise the feature, and the text says it is raised: to the checker, and to anyone who reads its words."""
    n_templates = 0
    for z in (2.46, 1.23, 0.62, -1.23, -2.46):
        fact = make_fact(measure, networks, z)
        expected, others = {
            "raised": (UP, DOWN + NEITHER),
            "lowered": (DOWN, UP + NEITHER),
            "typical": (NEITHER, UP + DOWN),
        }[fact["direction"]]
        assert len(direction_phrases([fact], FORMS[0])) > 3
        for form in (form for form in FORMS if networks or "{front}" not in form):
            for noun in NOUNS[measure]:
                for k, phrase in enumerate(direction_phrases([fact], form)):
                    # every form with every noun and phrase; every style with every form and noun
                    for style in NUMBER_STYLES if k == 0 else [NUMBER_STYLES[k % len(NUMBER_STYLES)]]:
                        statement = render_statement([fact], noun, form, phrase, style)
                        assert check_text(statement, [fact]).is_true, statement
                        plain = statement.replace(noun, "").replace(" above the mean)", ")")
                        plain = plain.replace(" below the mean)", ")")
                        assert words_in(plain, expected), statement
                        if "about average" not in phrase and "above average" != phrase != "below average":
                            assert not words_in(plain, others), statement
                        n_templates += 1
                    if fact["direction"] != "typical":
                        opposite = {**fact, "z": -z, "direction": direction_of(-z)}
                        assert check_text(statement, [opposite]).contradicted, statement
    assert n_templates > 500


@pytest.mark.parametrize("measure", EXTREMES)
def test_every_template_of_the_extreme_pairs(measure):
    fact = make_fact(measure, ("Default", "Visual"))
    wrong_pair = make_fact(measure, ("Default", "Limbic"))
    other_extreme = make_fact(EXTREMES[1 - EXTREMES.index(measure)], ("Default", "Visual"))
    for form in EXTREME_FORMS:
        for noun in NOUNS[measure]:
            for style in NUMBER_STYLES:
                statement = render_statement([fact], noun, form, "", style)
                assert check_text(statement, [fact]).is_true, statement
                assert check_text(statement, [wrong_pair]).invented, statement
                assert check_text(statement, [other_extreme]).invented, statement
                assert measure.split("/")[1] in statement


@pytest.fixture(scope="module")
def facts():
    """A fact of every feature, with deviations of all sizes."""
    facts = []
    for measure, networks in ORDINARY:
        for k, other in enumerate(NETWORKS[1:] if networks else [""]):
            z = ((7 * len(facts) + 3) % 61 - 30) / 10
            places = (networks[0], other) if len(set(networks)) == 2 else (other,) * len(networks)
            facts.append(make_fact(measure, places, z, value=0.1 * k - 0.05 * z))
    facts += [make_fact(measure, ("Default", "Visual")) for measure in EXTREMES]
    return facts


@pytest.mark.parametrize("length", ["sentence", "paragraph", "full"])
def test_what_a_text_states_are_exactly_the_facts_selected_for_it(facts, length):
    selected = [fact for paragraph in select_facts(facts, length) for fact in paragraph]
    for seed in range(60):
        text = verbalise(facts, length, seed)
        report = check_text(text, selected, NETWORKS)
        assert report.is_true, (text, report.missing, report.contradicted, report.invented)
        assert report.score == 1


@pytest.mark.parametrize("length", ["sentence", "paragraph", "full"])
def test_the_seed_chooses_the_wording_and_nothing_else(facts, length):
    texts = [verbalise(facts, length, seed) for seed in range(20)]
    assert texts == [verbalise(facts, length, seed) for seed in range(20)]
    assert len(set(texts)) == 20


def test_one_fact_has_many_wordings():
    fact = make_fact("graph/modularity")
    assert len({verbalise([fact], seed=seed) for seed in range(400)}) > 100


def test_lengths_grow_and_a_sentence_is_one_sentence(facts):
    sentence, paragraph, full = (verbalise(facts, length) for length in ("sentence", "paragraph", "full"))
    assert len(sentence) < len(paragraph) < len(full)
    assert re.findall(r"\.(?=\s|$)", sentence) == ["."]
    assert "\n" not in paragraph
    assert len(full.splitlines()) == 4


def test_a_sentence_states_the_most_deviating_measures(facts):
    (selected,) = select_facts(facts, "sentence")
    assert len({fact_measure(fact) for fact in selected}) == 3
    ordinary = [fact for fact in facts if fact_measure(fact) not in EXTREMES]
    assert abs(selected[0]["z"]) == max(abs(fact["z"]) for fact in ordinary)


def test_a_full_text_states_every_measure_whose_direction_is_decided(facts):
    selected = [fact for paragraph in select_facts(facts, "full") for fact in paragraph]
    decided = {fact_measure(fact) for fact in facts if is_decided(fact)} | set(EXTREMES)
    assert {fact_measure(fact) for fact in selected} == decided


@pytest.mark.parametrize("length", ["sentence", "paragraph", "full"])
def test_no_direction_near_the_threshold_is_stated(facts, length):
    selected = [fact for paragraph in select_facts(facts, length) for fact in paragraph]
    assert all(is_decided(fact) for fact in selected if fact_measure(fact) not in EXTREMES)
    near = make_fact("graph/modularity", z=1.1)
    assert verbalise([near])  # unless there is nothing else to say


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_a_value_has_its_unit(measure):
    networks = PLACES[MEASURES[measure].scopes[0]][0]
    fact = make_fact(measure, networks, value=1.25)
    for style in NUMBER_STYLES:
        if "{value" in style:
            statement = render_statement([fact], NOUNS[measure][0], FORMS[0], "raised", style)
            assert f"1.25 {MEASURES[measure].units}" in statement
    assert ("log10" in MEASURES[measure].units) == (measure == "ica/spectral_ratio")


@pytest.mark.parametrize("length", ["sentence", "paragraph", "full"])
def test_a_text_about_another_scanner_begins_by_saying_so(facts, length):
    others = [fact | {"relative_to": OTHER_ACQUISITIONS} for fact in facts]
    selected = [fact for paragraph in select_facts(others, length) for fact in paragraph]
    for seed in range(20):
        text = verbalise(others, length, seed)
        assert re.match(r"[^,]*(other scanners|scanned otherwise|other sites or settings), ", text), text
        assert check_text(text, selected, NETWORKS).is_true, text
        assert not re.search("other scanners|otherwise|other sites", verbalise(facts, length, seed))


def test_a_scan_in_which_all_is_typical_is_said_to_be_typical():
    fact = make_fact("graph/modularity", z=0.3)
    assert words_in(verbalise([fact], seed=3), NEITHER)


def test_names_of_networks_are_used_as_the_atlas_spells_them():
    fact = make_fact("graph/node_strength", ("Cont-A_left 2",))
    text = verbalise([fact])
    assert "Cont-A_left 2" in text
    assert check_text(text, [fact]).is_true


def test_nothing_to_say_unknown_measures_and_lengths_are_refused():
    with pytest.raises(ValueError, match="no facts to describe"):
        verbalise([])
    with pytest.raises(ValueError, match="no words for graph/smallness"):
        verbalise([make_fact("graph/smallness")])
    with pytest.raises(ValueError, match="choose from sentence, paragraph, full"):
        verbalise([make_fact("graph/modularity")], length="novel")


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
            describe_subject({**ROW, label: value}, exclude=[label], seed=seed) for value in ("M", "other", 71, None)
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


@pytest.mark.parametrize("age, words", [(8, "an 8-year-old"), (18.0, "an 18-year-old"), (80.5, "an 80.5-year-old")])
def test_articles_fit_the_age(age, words):
    assert f"{words} participant" in describe_subject({"age": age})


def test_the_seed_chooses_the_wording():
    texts = [describe_subject(ROW, seed=seed) for seed in range(30)]
    assert len(set(texts)) > 5
    assert texts == [describe_subject(ROW, seed=seed) for seed in range(30)]


def test_a_column_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no column memory; it has scan_id, age"):
        describe_subject(ROW, columns=("memory",))
