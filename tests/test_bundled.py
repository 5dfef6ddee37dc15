"""The bundled model: its answers follow the scan that it is shown, and its words for networks the atlas."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

import fmri_lm_hf
from fmri_lm_hf.bundled import NETWORK_WORDS, WEIGHTS, add_network_words, name_networks
from fmri_lm_hf.evaluation.truth import comparison_truth, description_truth, pair_level_truth
from fmri_lm_hf.simulation.stream import RandomScans, random_atlas
from fmri_lm_hf.training.vocabulary import train_text_tokenizer

UNSEEN = 2_000_003  # a seed that no training uses
NAMES = ["default", "default mode", "fronto-parietal (L)", "Vis"]


@pytest.fixture(scope="module")
def bundled():
    return fmri_lm_hf.load_bundled_model()


def scores_of(truth, bundled, n_scans=8):
    """A kind of truth on random scans of the model's atlas."""
    model, processor = bundled
    stream = RandomScans(processor.feature_extractor.atlas, UNSEEN)
    return truth(model, processor, dict(processor(fmri=[stream[k] for k in range(n_scans)])))


def test_bins_are_those_of_the_scan_and_not_of_another(bundled):
    scores = scores_of(pair_level_truth, bundled)
    assert scores["exact"] > 0.93
    assert scores["exact"] > scores["other_scan"] + 0.5
    assert scores["within_one"] > 0.98


def test_descriptions_are_of_the_scan_and_not_of_another(bundled):
    scores = scores_of(description_truth, bundled, 12)
    assert scores["precision"] > 0.9
    assert scores["precision"] > scores["other_scan_precision"] + 0.4


def test_an_atlas_that_training_never_drew_is_read():
    scores = scores_of(pair_level_truth, fmri_lm_hf.load_bundled_model(random_atlas(UNSEEN, 1, (6, 6))))
    assert scores["exact"] > 0.9
    assert scores["exact"] > scores["other_scan"] + 0.4


def test_two_scans_of_one_prompt_are_compared(bundled):
    scores = scores_of(comparison_truth, bundled)
    assert scores["clear"] > 0.85
    assert scores["exact"] > scores["other_scans"] + 0.2


def test_an_atlas_is_found_by_its_name(bundled):
    model, processor = fmri_lm_hf.load_bundled_model("dosenbach_2010")
    assert processor.feature_extractor.atlas == bundled[1].feature_extractor.atlas
    assert model.config.network_name_ids == bundled[0].config.network_name_ids


def test_an_atlas_of_ones_own_is_taken():
    atlas = random_atlas(UNSEEN, 2, (5, 5))
    model, processor = fmri_lm_hf.load_bundled_model(atlas)
    assert processor.feature_extractor.atlas == atlas
    assert len(model.config.network_name_ids) == len(atlas.network_names) == 5


def test_weights_are_small_and_have_their_card_and_record():
    names = {path.name for path in WEIGHTS.iterdir()}
    assert {"README.md", "training_info.json", "model.safetensors"} <= names
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 8e6
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert "simulated scans only" in card
    assert '"simulated": true' in (WEIGHTS / "training_info.json").read_text(encoding="utf-8")


def test_the_old_name_works_and_says_the_new_one():
    with pytest.warns(FutureWarning, match="`load_reader` is now `load_bundled_model`"):
        model, _ = fmri_lm_hf.load_reader()
    assert model.num_parameters() == fmri_lm_hf.load_bundled_model()[0].num_parameters()


# Words of the vocabulary that stand for networks.


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
        ([f"network {k}" for k in range(25)], "has 25 networks, but this model has words for 24"),
        (["default", " "], "Each network needs a name"),
    ],
)
def test_networks_that_cannot_be_named_are_refused(unnamed, names, message):
    with pytest.raises(ValueError, match=message):
        name_networks(unnamed, names)
