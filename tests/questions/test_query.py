"""Queries: what is valid, what two of them mean alike, and their forms in JSON and in words."""

from __future__ import annotations

import itertools
import json

import pytest

from fmri_lm_hf.questions.classes import CLASSES, KINDS, class_of
from fmri_lm_hf.questions.query import CLAIMS, GRAPH, INTENTS, TOPICS, Query


def parameters(intent):
    """Every value of the parameters of an intent."""
    free = {"rank": {"k": (1, 5)}, "describe": {"about": (*TOPICS, "default")}}.get(intent, {})
    values = {name: free.get(name, allowed) for name, allowed in INTENTS[intent][1].items()}
    return [dict(zip(values, each)) for each in itertools.product(*values.values())]


def valid_queries():
    names = ("default", "visual", "default", "limbic")
    for intent, (counts, _) in INTENTS.items():
        for count, extra in itertools.product(counts, parameters(intent)):
            try:
                yield Query(intent, names[:count], extra)
            except ValueError:  # a measure that needs a network, or allows none
                continue


ALL = tuple(valid_queries())


def test_there_is_a_query_of_every_class():
    assert {class_of(query) for query in ALL} == set(CLASSES) - {f"unanswerable/{kind}" for kind in KINDS}


@pytest.mark.parametrize("query", ALL, ids=str)
def test_json_gives_the_same_query(query):
    again = Query.from_json(json.loads(json.dumps(query.to_json())))
    assert again == query
    assert hash(again) == hash(query)
    assert again.key == query.key


def test_json_may_leave_out_what_is_empty():
    assert Query.from_json({"intent": "within", "networks": ["visual"]}) == Query("within", ("visual",))


def test_words_tell_queries_apart():
    words = [str(query) for query in ALL]
    assert len(set(words)) == len(ALL)
    assert not any("_" in word or "{" in word for word in words)


@pytest.mark.parametrize("query", [query for query in ALL if query.networks], ids=str)
def test_words_have_the_names(query):
    assert all(name in str(query) for name in query.networks)


def test_a_query_keeps_what_it_was_given():
    names, extra = ["default", "visual"], {"claim": "low"}
    query = Query("yesno", names, extra)
    names.append("limbic")
    extra["claim"] = "high"
    assert query == Query("yesno", ("default", "visual"), {"claim": "low"})


# ----- meaning -----


@pytest.mark.parametrize("intent, extra", [("level", {}), ("yesno", {"claim": "low"})])
def test_the_order_of_a_pair_means_nothing(intent, extra):
    assert Query(intent, ("b", "a"), extra).key == Query(intent, ("a", "b"), extra).key


@pytest.mark.parametrize("names", ["bacd", "abdc", "badc", "cdab", "dcba"])
def test_the_order_of_and_in_compared_pairs_means_nothing(names):
    extra = {"relation": "stronger"}
    assert Query("compare", tuple(names), extra).key == Query("compare", tuple("abcd"), extra).key


@pytest.mark.parametrize("names", ["acbd", "abce", "aabb", "abab"])
def test_other_pairs_are_another_comparison(names):
    extra = {"relation": "stronger"}
    assert Query("compare", tuple(names), extra).key != Query("compare", tuple("abcd"), extra).key


def test_what_differs_in_a_parameter_or_a_name_has_another_key():
    assert len({query.key for query in ALL}) == len(ALL)
    assert Query("level", ("a", "b")).key != Query("level", ("a", "c")).key
    assert Query("within", ("a",)).key != Query("partner", ("a",), {"direction": "most"}).key
    assert Query("yesno", ("a",), {"claim": "low"}).key != Query("yesno", ("a", "b"), {"claim": "low"}).key


# ----- what is not valid -----

DIFFERENT = "is about two different networks; for one network,"


@pytest.mark.parametrize(
    "intent, names, extra, problem",
    [
        ("strength", (), {}, f"the intent is one of {', '.join(INTENTS)}"),
        ("unanswerable", (), {}, "the intent is one of level, within"),
        ("level", ("a",), {}, "level names 2 networks, not 1"),
        ("within", "ab", {}, "within names 1 networks, not 2"),
        ("yesno", (), {"claim": "low"}, "yesno names 1 or 2 networks, not 0"),
        ("compare", ("a", "b", "a"), {"relation": "stronger"}, "compare names 4 networks, not 3"),
        ("strongest", ("a",), {"scope": "any"}, "strongest names 0 networks, not 1"),
        ("level", ("a", "b"), {"claim": "low"}, r"level has the parameters \[\], not \['claim'\]"),
        ("count", (), {}, r"count has the parameters \['claim'\], not \[\]"),
        ("yesno", ("a",), {"claim": "weak"}, f"claim is one of {', '.join(CLAIMS)}, not 'weak'"),
        ("partner", ("a",), {"direction": "strongest"}, "direction is one of most, least, not 'strongest'"),
        ("spectral", ("a",), {"measure": "falff", "direction": "high"}, "direction is one of None, most, least, not"),
        ("graph", (), {"measure": "centrality"}, f"measure is one of {', '.join(GRAPH)}, not 'centrality'"),
        ("level", ("a", "a"), {}, f"a level {DIFFERENT} the intent is within"),
        ("yesno", ("a", "a"), {"claim": "low"}, f"a yesno {DIFFERENT} name it once"),
        ("rank", (), {"k": 0, "direction": "strongest"}, "k is a whole number above 0, not 0"),
        ("rank", (), {"k": 2.0, "direction": "strongest"}, "k is a whole number above 0, not 2.0"),
        ("rank", (), {"k": "3", "direction": "strongest"}, "k is a whole number above 0, not '3'"),
        ("rank", (), {"k": True, "direction": "strongest"}, "k is a whole number above 0, not True"),
        ("describe", (), {"about": "default"}, f"about is one of {', '.join(TOPICS)}, or the network, not 'default'"),
        ("describe", ("a",), {"about": "b"}, "or the network, not 'b'"),
        ("describe", ("a",), {"about": "all"}, "or the network, not 'all'"),
        ("gradient", (), {"measure": "position"}, "gradient position names one network"),
        ("gradient", ("a",), {"measure": "range"}, "gradient range names no network"),
        ("graph", ("a",), {"measure": "hub"}, "graph hub names no network"),
        (
            "spectral",
            (),
            {"measure": "falff", "direction": None},
            "spectral names a network, or asks with a direction",
        ),
        ("spectral", ("a",), {"measure": "falff", "direction": "most"}, "spectral names a network, or asks with a"),
    ],
)
def test_what_is_not_valid_is_said(intent, names, extra, problem):
    with pytest.raises(ValueError, match=problem) as raised:
        Query(intent, names, extra)
    assert f"'intent': {intent!r}" in str(raised.value)
