"""From names and a reading to queries, or to the reason why a question is declined."""

from __future__ import annotations

import pytest

from fmri_lm_hf.questions.classes import CLASSES, KINDS, NONE, PAIRINGS, Reading, class_of
from fmri_lm_hf.questions.lexicon import Lexicon
from fmri_lm_hf.questions.query import Query
from fmri_lm_hf.questions.understanding import (
    MAX_LETTERS,
    NAMED_BESIDES,
    arity,
    decline,
    examples,
    placeholders,
    understand,
)

NAMES = ("default", "visual", "limbic", "control", "somatomotor")
LEXICON = Lexicon(NAMES, {"control": ["net 7"]})
HALVES = Lexicon(("visual central", "visual peripheral", "default", "limbic"))
ANSWERABLE = tuple(name for name in CLASSES if not name.startswith("unanswerable/"))
STRONGER = {"relation": "stronger"}


class Fixed:
    """A reader that reads the same whatever is asked: probabilities of classes and pairings, 0 for the others."""

    def __init__(self, first, second=None, pairing="0123", other_pairing="0123"):
        self.texts: list[str] = []
        pairings = tuple(
            dict.fromkeys(PAIRINGS, 0.0) | (each if isinstance(each, dict) else {each: 1.0})
            for each in (pairing, other_pairing)
        )
        first, second = (each if isinstance(each, dict) else {each or NONE: 1.0} for each in (first, second))
        self.reading = Reading(
            dict.fromkeys(CLASSES, 0.0) | first, dict.fromkeys((*CLASSES, NONE), 0.0) | second, pairings
        )

    def read(self, texts):
        self.texts += texts
        return [self.reading for _ in texts]


def queries(text, *reading, lexicon=LEXICON, **pairings):
    return understand(text, lexicon, Fixed(*reading, **pairings)).queries


def declined(text, *reading, lexicon=LEXICON, **options):
    found = understand(text, lexicon, Fixed(*reading), **options)
    assert found.queries == ()
    assert str(found) == f"declined: {found.reason}"
    return found


# ----- what the reader sees -----


def test_names_become_placeholders_numbered_by_first_appearance():
    text = "Is visual closer to the DMN than visual to limbic?"
    found = " ".join(placeholders(text, LEXICON.find(text)).split())
    assert found == "Is [n1] closer to the [n2] than [n1] to [n3] ?"


def test_unsure_and_unknown_names_have_no_number():
    text = "visual with default and amygdala"
    assert placeholders(text, HALVES.find(text)).split() == ["[several]", "with", "[n1]", "and", "[missing]"]


def test_there_are_placeholders_for_eight_names():
    lexicon = Lexicon(
        [f"limbic {letter}" for letter in "ABC"] + [f"default {letter}" for letter in "ABC"] + list("xyz")
    )
    extra = Lexicon(lexicon.network_names, {"x": ["xnet"], "y": ["ynet"], "z": ["znet"]})
    text = ", ".join((*lexicon.network_names[:6], "xnet", "ynet", "znet", "ynet"))
    found = placeholders(text, extra.find(text)).replace(" ", "").split(",")
    assert found == [*(f"[n{number}]" for number in range(1, 9)), "[n8]", "[n8]"]


def test_the_reader_sees_placeholders_and_no_more_than_the_first_letters():
    reader = Fixed("graph/hub")
    understand("hub? " + "so " * MAX_LETTERS, LEXICON, reader)
    understand("default?", LEXICON, reader)
    assert len(reader.texts[0]) in (MAX_LETTERS, MAX_LETTERS - 1)  # without a space at its end
    assert reader.texts[1].split() == ["[n1]", "?"]


@pytest.mark.parametrize("text", ["", "  \n", "?!", "…"])
def test_without_a_word_nothing_is_read(text):
    found = understand(text, LEXICON, reader := Fixed("graph/hub"))
    assert (found.kind, reader.texts) == ("unclear", [])
    assert found.reason.startswith("The question is empty. You can ask")


# ----- one question -----


@pytest.mark.parametrize("name", [name for name in ANSWERABLE if not name.startswith("compare/")])
def test_a_class_gives_a_query_of_that_class_with_every_name(name):
    for n in arity(name):
        text = f"Something about {' and '.join(NAMES[:n])}{'the first four' if name.startswith('rank') else ''}?"
        (query,) = queries(text, name)
        assert class_of(query) == name
        assert query.networks == NAMES[:n]


@pytest.mark.parametrize("relation", ["stronger", "weaker"])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_pairing_says_which_names_are_compared(pairing, relation):
    names = NAMES[: len(set(pairing))]
    (query,) = queries(" and ".join(names), f"compare/{relation}", pairing=pairing)
    assert query == Query("compare", [names[int(number)] for number in pairing], {"relation": relation})
    assert class_of(query) == f"compare/{relation}"


def test_a_pairing_of_as_many_names_as_there_are_is_taken():
    pairings = {"0123": 0.9, "0102": 0.08, "0112": 0.02}
    (query,) = queries("default, visual, limbic", "compare/weaker", pairing=pairings)
    assert query.networks == ("default", "visual", "default", "limbic")


def test_names_are_numbered_by_first_appearance_however_often_they_are_said():
    (query,) = queries("Is default with limbic above limbic with visual?", "compare/stronger", pairing="0112")
    assert query.networks == ("default", "limbic", "limbic", "visual")


@pytest.mark.parametrize(
    "text, name, names",
    [
        ("The default network: is default strong with visual?", "level", ("default", "visual")),
        ("default with visual, I mean default and visual", "level", ("default", "visual")),
        ("limbic, is limbic strong inside limbic?", "within", ("limbic",)),
        ("visual: where is visual?", "gradient/position", ("visual",)),
    ],
)
def test_a_name_that_is_said_again_is_one_name(text, name, names):
    (query,) = queries(text, name)
    assert query.networks == names


@pytest.mark.parametrize(
    "text, name, problem",
    [
        ("default?", "level", "needs 2 networks; found: default."),
        ("default and default?", "level", "needs 2 networks; found: default."),
        ("default, visual and limbic?", "yesno2/low", "needs 2 networks; found: default, visual, limbic."),
        ("how strong inside?", "within", "needs 1 network; found: none."),
        ("default and visual", "partner/most", "needs 1 network; found: default, visual."),
        ("default", "compare/stronger", "needs 2 or 3 or 4 networks; found: default."),
        (", ".join(NAMES), "compare/weaker", f"needs 2 or 3 or 4 networks; found: {', '.join(NAMES)}."),
        ("default, visual", "graph/node_strength", "needs 0 or 1 networks; found: default, visual."),
    ],
)
def test_names_that_are_too_few_or_too_many_are_counted(text, name, problem):
    found = declined(text, name)
    assert found.kind == "unclear"
    assert found.reason.startswith(f"That question {problem} You can ask, for example")


def test_a_less_probable_class_that_fits_the_names_is_not_taken_for_granted():
    found = declined("default", {"level": 0.6, "within": 0.4})
    assert found.reason.startswith("It might mean: connectivity within default. Please say it in other words.")
    assert found.score == pytest.approx(0.6)


def test_a_name_besides_what_is_asked_makes_it_less_sure():
    text = "My money is on default, but which is the hub?"
    found = understand(text, LEXICON, Fixed({"graph/hub": 0.9}))
    assert found.queries == (Query("graph", (), {"measure": "hub"}),)
    assert found.score == pytest.approx(0.9 * NAMED_BESIDES)
    assert declined(text, {"graph/hub": 0.6}).kind == "unclear"


@pytest.mark.parametrize("pairing", ["0011", "0102"])
def test_a_comparison_has_no_name_left_over(pairing):
    assert declined(", ".join(NAMES), "compare/stronger").kind == "unclear"
    (query,) = queries("default and visual", "compare/stronger", pairing={pairing: 0.9, "0011": 0.9})
    assert set(query.networks) == {"default", "visual"}


# ----- how sure -----


def test_a_question_is_declined_below_the_least_probability():
    reading = ({"graph/hub": 0.6, "graph/modularity": 0.3},)
    assert understand("hub", LEXICON, Fixed(*reading)).score == pytest.approx(0.6)
    assert queries("hub", *reading) == (Query("graph", (), {"measure": "hub"}),)
    found = declined("hub", *reading, min_confidence=0.7)
    assert found.kind == "unclear"
    assert found.reason.startswith("It might mean: which network is the hub. Please say it in other words. You can")


def test_the_probability_is_that_of_both_classes_and_the_pairing():
    pairings = {"0123": 0.8, "0102": 0.6, "0112": 0.2}
    reader = Fixed({"compare/stronger": 0.9}, {NONE: 0.9}, pairing=pairings)
    found = understand("default, visual, limbic", LEXICON, reader)
    assert found.score == pytest.approx(0.9 * 0.9 * 0.75)


def test_beside_an_unknown_name_more_certainty_is_needed():
    text = "default and visual, not the amygdala"
    assert understand(text, LEXICON, Fixed({"level": 0.95})).queries == (Query("level", ("default", "visual")),)
    assert declined(text, {"level": 0.85}).kind == "not_in_atlas"
    assert queries("default and visual", {"level": 0.85})


def test_what_is_likely_unanswerable_is_declined_though_one_class_is_likelier():
    found = declined("default", {"within": 0.45, "unanswerable/personal": 0.3, "unanswerable/action": 0.25})
    assert found.kind == "personal"
    assert found.score == pytest.approx(0.55)


def test_what_is_likely_unanswerable_stays_so_however_little_certainty_is_asked_for():
    reading = {"within": 0.4, "unanswerable/personal": 0.6}
    assert declined("default", reading, min_confidence=0.1).kind == "personal"


# ----- reasons -----


@pytest.mark.parametrize(
    "text, lexicon, reason",
    [
        (
            "amygdala with default",
            LEXICON,
            'This atlas has no "amygdala"; the nearest is limbic, which is not the same.',
        ),
        ("auditory", LEXICON, f'This atlas has no "auditory". Its networks are {", ".join(NAMES)}.'),
        ("left visual", LEXICON, '"left visual" is a part of a network, which this atlas does not tell apart.'),
        (
            "visual with default",
            HALVES,
            '"visual" fits 2 networks of this atlas: visual central, visual peripheral. Which one?',
        ),
    ],
)
@pytest.mark.parametrize(
    "reading", ["level", "compare/stronger", "unanswerable/not_in_atlas", "unanswerable/not_in_scan"]
)
def test_a_name_that_is_no_network_is_said(text, lexicon, reason, reading):
    found = declined(text, reading, lexicon=lexicon)
    assert found.kind == "not_in_atlas"
    assert found.reason.startswith(reason)
    assert "You can ask" in found.reason


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_reason_of_its_own(kind):
    found = declined("default", f"unanswerable/{kind}")
    assert (found.kind, found.score) == (kind, 1.0)
    others = [declined("default", f"unanswerable/{other}").reason for other in KINDS if other != kind]
    assert found.reason not in others


@pytest.mark.parametrize("kind", ["personal", "not_about_scan", "action"])
def test_what_is_surely_about_something_else_is_said_before_its_names(kind):
    assert declined("amygdala", f"unanswerable/{kind}").kind == kind
    unsure = {f"unanswerable/{kind}": 0.4, "level": 0.4, "unanswerable/unclear": 0.2}
    assert declined("amygdala", unsure).kind == "not_in_atlas"


def test_what_can_be_asked_instead_has_the_names_of_the_question():
    reason = declined("limbic", "unanswerable/personal").reason
    assert '"How strong is connectivity between limbic and default?"' in reason
    assert '"Which network is limbic coupled with most?"' in reason


@pytest.mark.parametrize("known", [(), ("only",), ("only", "only")])
def test_of_one_network_no_pair_is_proposed(known):
    assert '"How strong is connectivity within only?"' in examples(known, ("only",))
    assert "between" not in examples(known, ("only",))


def test_a_reason_may_be_given():
    found = decline("unclear", 0.4, (), LEXICON, "Nothing there.")
    assert found.reason.startswith("Nothing there. You can ask")
    assert (found.queries, found.score, found.kind) == ((), 0.4, "unclear")


# ----- two questions -----

WITHIN = {name: Query("within", (name,)) for name in NAMES}
LEVEL = Query("level", ("default", "visual"))
MOST = {"direction": "most"}


@pytest.mark.parametrize(
    "text, first, second, expected",
    [
        # names are divided by how many each needs
        ("default with visual, and inside limbic?", "level", "within", (LEVEL, WITHIN["limbic"])),
        ("inside limbic, and default with visual?", "within", "level", (WITHIN["limbic"], LEVEL)),
        ("inside limbic and inside visual?", "within", "within", (WITHIN["limbic"], WITHIN["visual"])),
        (
            "default-visual and limbic-control?",
            "level",
            "level",
            (LEVEL, Query("level", ("limbic", "control"))),
        ),
        # a name of the first, said again or meant
        ("default with visual, and inside default?", "level", "within", (LEVEL, WITHIN["default"])),
        ("default with visual, and inside visual?", "level", "within", (LEVEL, WITHIN["visual"])),
        (
            "default with visual, and default with limbic?",
            "level",
            "level",
            (LEVEL, Query("level", ("default", "limbic"))),
        ),
        ("default with visual, and with limbic?", "level", "level", (LEVEL, Query("level", ("default", "limbic")))),
        (
            "inside default, and its partner?",
            "within",
            "partner/most",
            (WITHIN["default"], Query("partner", ("default",), MOST)),
        ),
        (
            "default with visual; is that low?",
            "level",
            "yesno2/low",
            (LEVEL, Query("yesno", ("default", "visual"), {"claim": "low"})),
        ),
        ("inside default? and default with visual, default?", "within", "level", (WITHIN["default"], LEVEL)),
        ("default with visual? and visual, inside visual?", "level", "within", (LEVEL, WITHIN["visual"])),
        # no names needed
        (
            "hub? and inside default?",
            "graph/hub",
            "within",
            (Query("graph", (), {"measure": "hub"}), WITHIN["default"]),
        ),
        (
            "inside default? and the hub?",
            "within",
            "graph/hub",
            (WITHIN["default"], Query("graph", (), {"measure": "hub"})),
        ),
    ],
)
def test_names_are_divided_between_two_questions(text, first, second, expected):
    assert queries(text, first, second) == expected


@pytest.mark.parametrize("name", ["visual", "default", "limbic", "control"])
def test_a_comparison_leaves_the_next_question_its_name(name):
    text = f"Is default closer to visual than default to limbic? And inside {name}?"
    compared = Query("compare", ("default", "visual", "default", "limbic"), STRONGER)
    assert queries(text, "compare/stronger", "within", pairing="0102") == (compared, WITHIN[name])


def test_names_that_a_comparison_repeats_are_not_those_of_the_next_question():
    text = "Is default with visual above default inside default? And inside limbic?"
    compared = Query("compare", ("default", "visual", "default", "default"), STRONGER)
    assert queries(text, "compare/stronger", "within", pairing="0100") == (compared, WITHIN["limbic"])


@pytest.mark.parametrize(
    "text, first, pairing, names",
    [
        ("inside limbic? Is control with visual above default with somatomotor?", "within", "0123", "cvds"),
        ("default with visual? Is that above default with limbic?", "level", "0102", "dvdl"),
        ("inside limbic? Is default with visual above default with limbic?", "within", "1201", "dvld"),
        ("default with visual? Is it stronger than inside default?", "level", "0100", "dvdd"),
        ("the hub? Is default with visual above default with limbic?", "graph/hub", "0102", "dvdl"),
    ],
)
def test_a_second_comparison_may_refer_to_the_first_question(text, first, pairing, names):
    known = {name[0]: name for name in NAMES}
    found = queries(text, first, "compare/stronger", other_pairing=pairing)
    assert len(found) == 2
    assert found[1].key == Query("compare", [known[letter] for letter in names], STRONGER).key


def test_each_comparison_has_its_own_pairing():
    text = "Is default with visual above default with limbic, and visual with limbic above inside limbic?"
    found = queries(text, "compare/stronger", "compare/weaker", pairing="0102", other_pairing="0111")
    assert [query.extra["relation"] for query in found] == ["stronger", "weaker"]
    assert found[0].networks == ("default", "visual", "default", "limbic")
    assert found[1].networks == ("visual", "limbic", "limbic", "limbic")


@pytest.mark.parametrize("text", ["default, visual, limbic, control?", "inside?"])
def test_two_questions_whose_names_do_not_fit_are_declined(text):
    assert declined(text, "within", "within").kind == "unclear"


def test_the_number_of_pairs_is_that_of_the_question_and_not_of_a_name():
    ranked = [
        queries(text, first, second)
        for text, first, second in (
            ("net 7 with visual, and the 4 strongest pairs?", "level", "rank/strongest"),
            ("the 4 strongest and the five weakest", "rank/strongest", "rank/weakest"),
        )
    ]
    assert ranked[0][1].extra == {"k": 4, "direction": "strongest"}
    assert [query.extra["k"] for query in ranked[1]] == [4, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the four strongest", Query("rank", (), {"k": 4, "direction": "strongest"})),
        ("the strongest", Query("strongest", (), {"scope": "between"})),
        ("the strongest two", Query("strongest", (), {"scope": "between"})),
    ],
)
def test_a_number_decides_between_one_pair_and_several(text, expected):
    assert queries(text, {"strongest/between": 0.6, "rank/strongest": 0.3}) == (expected,)


def test_the_same_asked_twice_is_one_question():
    assert len(queries("the hub, I mean the hub", "graph/hub", "graph/hub")) == 1


def test_what_was_understood_is_said_in_words():
    found = understand("default with visual, and inside limbic?", LEXICON, Fixed("level", "within"))
    assert str(found) == "connectivity between default and visual; connectivity within limbic"
    assert [mention.network for mention in found.mentions] == ["default", "visual", "limbic"]
    assert (found.kind, found.reason, found.score) == (None, None, 1.0)
