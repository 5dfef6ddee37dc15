from __future__ import annotations

import pytest

from fmri_lm_hf.corpus.facts import direction_of, fact_measure, is_decided, make_facts
from fmri_lm_hf.descriptors import feature_table
from fmri_lm_hf.models.atlas import Atlas

ATLAS = Atlas("toy", tuple("abcd"), ("Visual", "Motor", "Default-Mode", "Default-Mode"))


def facts_of(features: dict[str, float], z_scores: dict[str, float]) -> dict[str, dict]:
    return {fact["feature"]: fact for fact in make_facts(features, z_scores, feature_table(ATLAS))}


@pytest.mark.parametrize(
    "z, direction",
    [
        (3.0, "raised"),
        (1.0, "raised"),
        (0.99, "typical"),
        (-0.99, "typical"),
        (-1.0, "lowered"),
        (-3.0, "lowered"),
    ],
)
def test_the_direction_is_that_of_z(z, direction):
    assert direction_of(z) == direction
    assert facts_of({"graph/modularity": 0.4}, {"graph/modularity": z})["graph/modularity"]["direction"] == direction


def test_a_fact_says_what_where_how_much_and_in_which_units():
    name = "connectivity/mean/Motor-Default-Mode"
    assert facts_of({name: 0.25}, {name: 2.5})[name] == {
        "family": "connectivity",
        "feature": name,
        "network": ["Motor", "Default-Mode"],
        "value": 0.25,
        "z": 2.5,
        "direction": "raised",
        "units": "Fisher z",
    }


def test_the_measure_is_the_name_without_networks():
    assert fact_measure({"feature": "connectivity/mean/Motor-Default-Mode"}) == "connectivity/mean"
    assert fact_measure({"feature": "graph/modularity"}) == "graph/modularity"


def test_features_without_a_finite_z_give_no_fact():
    nan = float("nan")
    assert not facts_of({"graph/modularity": 0.4, "ica/falff": nan}, {"graph/modularity": nan, "ica/falff": nan})


def test_the_strongest_and_weakest_pair_are_chosen_by_magnitude_between_networks():
    features = {
        "connectivity/mean/Visual-Visual": 0.9,  # within a network, so not a pair
        "connectivity/mean/Visual-Motor": 0.3,
        "connectivity/mean/Visual-Default-Mode": -0.2,  # the most negative, but not the weakest
        "connectivity/mean/Motor-Default-Mode": 0.1,
    }
    facts = facts_of(features, dict.fromkeys(features, 0.0) | {"connectivity/mean/Visual-Motor": -1.5})
    strongest = facts["connectivity/strongest/Visual-Motor"]
    assert (strongest["value"], strongest["direction"]) == (
        0.3,
        "lowered",
    )  # strongest, if weaker than in others
    assert facts["connectivity/weakest/Motor-Default-Mode"]["value"] == 0.1
    assert len(facts) == len(features) + 2


@pytest.mark.parametrize(
    "measure, z, decided",
    [
        ("ica/fnc", 0.0, True),
        ("ica/fnc", 0.65, True),
        ("ica/fnc", 0.8, False),
        ("ica/fnc", -1.2, False),
        ("ica/fnc", -1.35, True),
        ("ica/variability", 0.5, False),  # few windows: a value as uncertain as that says little
        ("ica/variability", -1.7, False),
        ("ica/variability", 1.9, True),
    ],
)
def test_a_direction_near_the_threshold_is_not_decided(measure, z, decided):
    assert is_decided({"feature": f"{measure}/A-B", "z": z}) == decided


def test_one_pair_is_neither_strongest_nor_weakest():
    name = "connectivity/mean/Visual-Motor"
    assert list(facts_of({name: 0.3}, {name: 0.0})) == [name]
