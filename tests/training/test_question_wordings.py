"""Examples for the question encoder, and the questions and wordings that they are made of."""

from __future__ import annotations

import json
import random
import re

import pytest
from small_understanding import NETWORKS, part, row

from fmri_lm_hf.files import project_folder
from fmri_lm_hf.questions.classes import CLASSES, KINDS, NONE, PAIRINGS, class_of
from fmri_lm_hf.questions.lexicon import Lexicon
from fmri_lm_hf.questions.understanding import arity
from fmri_lm_hf.training.understanding import read_questions
from fmri_lm_hf.training.wordings import (
    IGNORED,
    Example,
    GrammarQuestions,
    composition,
    joined,
    labelled,
    noisy,
    queries_of,
)

TRAINING = project_folder("training/questions")
BENCHMARK = project_folder("benchmarks/questions")
LEXICON = Lexicon(NETWORKS)
ALONE = len(CLASSES)  # label of `NONE`
LEVEL, WITHIN, HUB, LOW = (CLASSES.index(name) for name in ("level", "within", "graph/hub", "yesno2/low"))
PERSONAL = CLASSES.index("unanswerable/personal")


def plain(text):
    return " ".join(text.casefold().split())


@pytest.fixture(scope="module")
def trained_on():
    return read_questions(TRAINING)


@pytest.fixture(scope="module")
def benchmark():
    return read_questions(BENCHMARK)


# ----- questions that people wrote -----


@pytest.mark.parametrize("name", ["trained_on", "benchmark"])
def test_every_question_has_a_valid_label(name, request):
    rows, networks = request.getfixturevalue(name)
    for each in rows:
        assert set(each) == {"text", "atlas", "intent", "networks", "extra", "lang", "voice"}, each
        assert re.fullmatch("[a-z]{2}", each["lang"]), each
        queries = queries_of(each)
        known = networks[each["atlas"]]
        assert all(name in known for query in queries for name in query.networks), each
        if each["intent"] == "unanswerable":
            assert each["extra"].get("kind", "unclear") in KINDS, each  # of some it is not known why
            assert each["networks"] == [], each
        elif each["intent"] == "two_in_one":
            assert len(queries) == 2, each
            assert set(each["networks"]) == {name for query in queries for name in query.networks}, each
        else:
            assert class_of(queries[0]) in CLASSES, each
            assert tuple(each["networks"]) == queries[0].networks, each


def test_the_benchmark_is_not_trained_on(trained_on, benchmark):
    voices, others = ({each["voice"] for each in rows} for rows, _ in (trained_on, benchmark))
    assert not voices & others
    texts, asked = ({plain(each["text"]) for each in rows} for rows, _ in (trained_on, benchmark))
    assert texts & asked == set()


def test_no_question_means_two_things(trained_on):
    meanings: dict[tuple[str, str], set[str]] = {}
    for each in trained_on[0]:
        meaning = json.dumps([each["intent"], each["networks"], each["extra"]], sort_keys=True)
        meanings.setdefault((plain(each["text"]), each["atlas"]), set()).add(meaning)
    assert [asked for asked, meant in meanings.items() if len(meant) > 1] == []


# ----- wordings -----


@pytest.fixture(scope="module")
def wordings():
    folder = TRAINING / "wordings"
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def test_every_language_words_every_class(wordings):
    assert len(wordings) == 16
    for language, templates in wordings.items():
        assert set(templates) == set(CLASSES), language
        assert all(templates.values()), language


def test_placeholders_of_wordings_fit_their_class(wordings):
    for language, templates in wordings.items():
        for name, template in ((name, template) for name, forms in templates.items() for template in forms):
            where = f"{language}: {name}: {template}"
            found = set(re.findall("{(.*?)}", template))
            names = found & set("abcd")
            assert found <= set("abcdxk"), where
            assert "".join(sorted(names)) == "abcd"[: len(names)], where
            assert "k" not in found or name.startswith("rank/"), where
            if name.startswith("compare/"):
                mark = re.match("(a[abcd]{3}):", template)
                assert set(mark[1] if mark else "abcd") == names, where
            elif not name.startswith("unanswerable/"):
                assert len(names) in arity(name), where
                assert "x" not in found, where


def test_every_template_becomes_an_example_of_its_class(wordings):
    grammar = GrammarQuestions(TRAINING / "wordings")
    assert set(grammar.languages) == set(wordings)
    assert sum(1 for _ in grammar.texts()) == sum(
        map(len, (form for each in wordings.values() for form in each.values()))
    )
    rng = random.Random(0)
    for _ in range(3000):
        example = grammar.draw(rng)
        assert not re.search(r"[{}]|^a[abcd]{3}:", example.text), example
        name = CLASSES[example.labels[0]]
        assert (example.labels[1], example.labels[3]) == (ALONE, IGNORED)
        names = len(set(re.findall(r"\[n\d\]", example.text)))
        if name.startswith("compare/") and example.labels[2] != IGNORED:
            assert len(set(PAIRINGS[example.labels[2]])) == names, example
        if not name.startswith("compare/"):
            assert example.labels[2] == IGNORED


def grammar(tmp_path, templates):
    (tmp_path / "en.json").write_text(json.dumps(templates), encoding="utf-8")
    return GrammarQuestions(tmp_path)


@pytest.mark.parametrize(
    "template, text, pairing",
    [
        ("is {a} with {b} above {c} with {d}", "is [n1] with [n2] above [n3] with [n4]", "0123"),
        ("abac: is {a} closer to {b} or {c}", "is [n1] closer to [n2] or [n3]", "0102"),
        ("abac: {a} with {b} or {a} with {c}", "[n1] with [n2] or [n1] with [n3]", "0102"),
        ("aabb: {a} or {b} inside", "[n1] or [n2] inside", "0011"),
        ("aaab: {a} inside or with {b}", "[n1] inside or with [n2]", "0001"),
        ("abbc: {a}-{b} or {b}-{c}", "[n1] - [n2] or [n2] - [n3]", "0112"),
        ("abac: between {b} and {c}, which is {a} closer to", "between [n1] and [n2] , which is [n3] closer to", None),
    ],
)
def test_a_comparison_says_which_names_it_pairs(tmp_path, template, text, pairing):
    example = grammar(tmp_path, {"compare/stronger": [template]}).draw(random.Random(0))
    assert " ".join(example.text.split()) == text
    assert example.labels[2] == (IGNORED if pairing is None else PAIRINGS.index(pairing))


def test_numbers_and_names_that_the_atlas_lacks_are_filled_in(tmp_path):
    made = grammar(tmp_path, {"rank/weakest": ["{k} weakest"], "unanswerable/not_in_atlas": ["is {x} there"]})
    texts = {" ".join(made.draw(random.Random(seed)).text.split()) for seed in range(60)}
    assert {"3 weakest", "10 weakest", "is [missing] there", "is [several] there"} <= texts


def test_wordings_of_unknown_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"en.json has templates for unknown classes level/strong"):
        grammar(tmp_path, {"level": ["{a} {b}"], "level/strong": ["{a}"]})


def test_a_folder_without_wordings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There are no wordings \(\*.json\) in"):
        GrammarQuestions(tmp_path)


# ----- labels -----


def labels_of(text, intent, networks=(), **extra):
    example = labelled(row(text, intent, networks, **extra), LEXICON)
    return " ".join(example.text.split()), example.labels


def test_a_question_has_the_labels_of_what_it_asks():
    assert labels_of("DMN with visual", "level", ("default", "visual")) == (
        "[n1] with [n2]",
        (LEVEL, ALONE, IGNORED, IGNORED),
    )
    assert labels_of("ill?", "unanswerable", kind="personal")[1] == (PERSONAL, ALONE, IGNORED, IGNORED)
    assert labels_of("what?", "unanswerable")[1][0] == IGNORED  # it is not known why: nothing to learn from


def test_two_questions_have_the_labels_of_both():
    parts = [
        part("within", ("limbic",)),
        part("compare", ("default", "visual", "default", "limbic"), relation="weaker"),
    ]
    text, labels = labels_of("limbic inside? default-visual or default-limbic weaker?", "two_in_one", parts=parts)
    assert text == "[n1] inside? [n2] - [n3] or [n2] - [n1] weaker?"
    assert labels == (WITHIN, CLASSES.index("compare/weaker"), IGNORED, PAIRINGS.index("1201"))


def test_a_second_comparison_numbers_its_own_names():
    compared = part("compare", ("default", "visual", "default", "limbic"), relation="weaker")
    parts = [part("within", ("control",)), compared]
    text, labels = labels_of("control inside? default closer to visual or limbic?", "two_in_one", parts=parts)
    assert text == "[n1] inside? [n2] closer to [n3] or [n4] ?"
    assert labels[3] == PAIRINGS.index("0102")


@pytest.mark.parametrize(
    "networks, pairing",
    [
        (("default", "visual", "limbic", "control"), "0123"),
        (("visual", "default", "control", "limbic"), "0123"),
        (("default", "visual", "default", "limbic"), "0102"),
        (("visual", "visual", "default", "default"), None),
        (("default", "default", "default", "visual"), "0001"),
    ],
)
def test_a_pairing_is_that_of_the_names_as_the_text_has_them(networks, pairing):
    order = [name for name in ("default", "visual", "limbic", "control") if name in networks]
    _, labels = labels_of(", ".join(order), "compare", networks, relation="stronger")
    assert labels[2] == (IGNORED if pairing is None else PAIRINGS.index(pairing))


def test_a_comparison_of_names_that_were_not_found_has_no_pairing():
    networks = ("default", "visual", "default", "limbic")
    assert labels_of("default with visual, or the third one", "compare", networks, relation="weaker")[1][2] == IGNORED


def test_a_composition_is_of_two_questions():
    queries = queries_of(row("", "two_in_one", parts=[part("within", ("a",)), part("graph", measure="hub")]))
    assert composition(queries) == frozenset(("within", "graph"))
    assert composition(queries[:1]) is None
    assert composition([]) is None


# ----- joined questions, and slips -----

FIRST = Example("How is [n1] with [n2] ?", (LEVEL, ALONE, IGNORED, IGNORED))
SECOND = Example("Is [n1] with [n2] above [n1] with [n3] ?", (CLASSES.index("compare/stronger"), ALONE, 1, IGNORED))


def all_joined(first, second, never=()):
    return [joined(first, second, random.Random(seed), never) for seed in range(60)]


def test_two_questions_are_joined_with_the_labels_of_both():
    for example in all_joined(FIRST, SECOND):
        assert example.labels == (LEVEL, SECOND.labels[0], IGNORED, 1)
        assert example.text.startswith("How is [n1] with [n2]")
        assert re.search(r"s \[n(\d)\] with \[n\d\] above \[n\1\] with \[n\d\]", example.text)


def test_the_second_has_the_same_names_or_others():
    found = {tuple(re.findall(r"\[n(\d)\]", example.text)) for example in all_joined(FIRST, SECOND)}
    assert found == {tuple("121213"), tuple("123435")}


@pytest.mark.parametrize(
    "label, second",
    [(PERSONAL, ALONE), (IGNORED, ALONE), (WITHIN, HUB)],
)
def test_what_has_no_answer_or_asks_two_things_stays_alone(label, second):
    other = Example("something", (label, second, IGNORED, IGNORED))
    assert set(all_joined(FIRST, other)) == {FIRST}
    assert set(all_joined(other, FIRST)) == {other}


def test_intents_that_are_never_joined_stay_alone():
    low = Example("is it low", (LOW, ALONE, IGNORED, IGNORED))
    never = {frozenset(("yesno", "level"))}
    assert set(all_joined(FIRST, low, never)) == {FIRST}
    assert set(all_joined(low, FIRST, never)) == {low}
    assert FIRST not in all_joined(FIRST, SECOND, never)


def test_slips_leave_placeholders_and_numbers_alone():
    text = "Strongest [missing] versus [several] or [n1] 12345 coupling?"
    slips = [noisy(text, random.Random(seed)) for seed in range(400)]
    assert len(set(slips)) > 20
    for slip in slips:
        assert all(each in slip for each in ("[missing]", "[several]", "[n1]", "12345"))
        assert abs(len(slip) - len(text)) <= 2


def test_most_questions_have_no_slip():
    text = "How strong is [n1] with [n2]?"
    assert 0.5 < sum(noisy(text, random.Random(seed)) == text for seed in range(400)) / 400 < 0.75
    assert noisy(text, random.Random(3)) == noisy(text, random.Random(3))
    assert NONE not in CLASSES
