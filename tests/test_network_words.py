"""Words of a reader's vocabulary that stand for networks."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from fmri_lm_hf.bundled import NETWORK_WORDS, add_network_words, name_networks
from fmri_lm_hf.training.vocabulary import train_text_tokenizer

NAMES = ["default", "default mode", "fronto-parietal (L)", "Vis"]


@pytest.fixture(scope="module")
def unnamed():
    tokenizer = train_text_tokenizer(["Connectivity between and is high, within this scan."] * 3, 400)
    add_network_words(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def named(unnamed):
    return name_networks(unnamed, NAMES)


def words_in(tokenizer, text):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return [NETWORK_WORDS.index(token) for token in tokens if token in NETWORK_WORDS]


def test_a_name_is_one_token_in_any_case_and_the_longest_one_counts(named):
    assert words_in(named, "Connectivity between default mode and VIS?") == [1, 3]
    assert words_in(named, "Default and fronto-parietal (l), within vis.") == [0, 2, 3]
    assert words_in(named, "defaults, visual, avis") == []


def test_names_are_written_as_the_atlas_spells_them(named):
    text = "Connectivity between default mode and fronto-parietal (L) is high, within Vis."
    assert named.decode(named(text.replace("Vis", "VIS"))["input_ids"]) == text


def test_names_travel_with_the_tokenizer(named, tmp_path):
    named.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert words_in(again, "between Default Mode and vis") == [1, 3]
    assert again.decode(again("between default mode and vis")["input_ids"]) == "between default mode and Vis"


def test_another_atlas_takes_the_words_and_the_first_keeps_its_own(unnamed, named):
    other = name_networks(named, ["visual", "default"])
    assert words_in(other, "between default and visual") == [1, 0]
    assert words_in(named, "between default and visual") == [0]
    assert words_in(unnamed, "between default and visual") == []


def test_a_tokenizer_without_such_words_stays_as_it_is():
    plain = train_text_tokenizer(["one text"], 300)
    assert name_networks(plain, NAMES) is plain


@pytest.mark.parametrize(
    "names, message",
    [
        ([f"network {k}" for k in range(25)], "has 25 networks, and this model has words for 24"),
        (["default", " "], "Each network needs a name"),
    ],
)
def test_networks_that_cannot_be_named_are_refused(unnamed, names, message):
    with pytest.raises(ValueError, match=message):
        name_networks(unnamed, names)
