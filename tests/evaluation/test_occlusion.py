"""Occlusion: what a pair carries shows at that pair alone, and depends on what the model has learnt."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch

import fmri_lm_hf
from fmri_lm_hf import Atlas
from fmri_lm_hf.corpus.queries import BINS, bin_question
from fmri_lm_hf.evaluation import attribution as module
from fmri_lm_hf.evaluation.attribution import (
    EXPLANATIONS,
    occlude,
    other_people,
    randomisation_test,
    with_random_weights,
)
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.report import explanation_parts, few_shot_parts, roi_centres
from fmri_lm_hf.evaluation.truth import scan_pairs
from fmri_lm_hf.models.network_pairs import pair_indices
from fmri_lm_hf.simulation import Site, simulate_cohort

PAIR = ("default", "sensorimotor")


@pytest.fixture(scope="module")
def reader():
    return fmri_lm_hf.load_bundled_model()


@pytest.fixture(scope="module")
def people(reader):
    """Inputs of ten people's scans, and whose they are."""
    cohort = simulate_cohort(sites=[Site("A", 10)], seed=1)
    scans = cohort.dataset.with_format("numpy")
    return dict(reader[1](fmri=[scans[row] for row in range(10)])), list(cohort.dataset["subject_id"])


@pytest.fixture
def linear(reader, monkeypatch):
    """Answers whose log-odds are four times the mean correlation of one pair of networks."""
    networks = np.array(reader[1].feature_extractor.atlas.networks)
    first, second = (torch.tensor(networks == name) for name in PAIR)

    def log_probabilities(model, prompt, answer_ids, scans):
        x = scans["input_values"] - scans["input_values"].mean(-1, keepdim=True)
        x = torch.nn.functional.normalize(x, dim=-1)
        odds = 4 * (x[:, first] @ x[:, second].transpose(1, 2)).mean((1, 2)).double()
        return torch.stack([torch.zeros_like(odds), odds], 1).log_softmax(-1).numpy()

    monkeypatch.setattr(module, "_log_probabilities", log_probabilities)


def test_what_one_pair_carries_shows_at_that_pair_alone(reader, people, linear):
    found = occlude(*reader, *people, "?", ["no", "yes"], n_scans=4, n_others=40)
    names = [{found.networks[i], found.networks[j]} for i, j in found.pairs]
    planted = names.index(set(PAIR))
    others = [place for place in range(len(names)) if place != planted]
    assert np.abs(found.of_pairs[:, others]).max() < 1e-9
    assert np.abs(np.delete(found.of_networks, [found.networks.index(name) for name in PAIR], 1)).max() < 1e-9
    assert found.top_pairs(0)[0] in (PAIR, PAIR[::-1])
    told = found.summary()
    assert set(told["of_pairs"][0]["networks"]) == set(PAIR)
    assert told["of_pairs"][0]["for_answer"] == pytest.approx(found.of_pairs[:, planted].mean())
    assert told["n_scans"] == 4


def test_a_pairs_value_is_its_part_in_the_log_odds_with_the_sign_of_the_answer(reader, linear):
    """Ten people of white noise, each with a signal that the two networks share, in the other sense in one of them."""
    networks = np.array(reader[1].feature_extractor.atlas.networks)
    draw = np.random.default_rng(0)
    values = draw.normal(size=(10, len(networks), 240))
    for scan, sense in enumerate([1, -1, *[1] * 8]):
        shared = draw.normal(size=240)
        values[scan, networks == PAIR[0]] += shared
        values[scan, networks == PAIR[1]] += sense * shared
    shape = values.shape
    inputs = {
        "input_values": torch.tensor(values),
        "roi_mask": torch.ones(shape[:2], dtype=torch.bool),
        "padding_mask": torch.ones(shape[0], shape[2], dtype=torch.bool),
    }
    found = occlude(*reader, inputs, list("abcdefghij"), "?", ["no", "yes"], n_scans=2, n_others=12)
    assert found.answers.tolist() == [1, 0]
    planted = [{found.networks[i], found.networks[j]} for i, j in found.pairs].index(set(PAIR))
    np.testing.assert_allclose(found.of_pairs[:, planted], 4 * 0.5, atol=0.3)  # equal variances: r = 0.5


def test_every_network_gets_another_persons_series():
    people = np.array(["a", "a", "b", "c", "c", "d"])
    seen = Counter()
    for seed in range(60):
        others = other_people(people, 0, 3, np.random.default_rng(seed))
        assert sorted(people[others]) == ["b", "c", "d"]
        seen.update(others)
    assert set(seen) == {2, 3, 4, 5}


def test_replaced_series_bring_their_masks_along():
    inputs = {
        "input_values": torch.arange(24.0).view(2, 4, 3),
        "roi_mask": torch.tensor([[True] * 4, [True, False, True, False]]),
        "padding_mask": torch.tensor([[True, True, True], [True, True, False]]),
    }
    of_roi = torch.tensor([0, 0, 1, 1])
    found = module._replaced(inputs, 0, [1, 1], [(), (1,)], of_roi)
    assert torch.equal(found["input_values"][0], inputs["input_values"][0])
    assert torch.equal(found["input_values"][1, :2], inputs["input_values"][0, :2])
    assert torch.equal(found["input_values"][1, 2:], inputs["input_values"][1, 2:])
    assert found["roi_mask"].tolist() == [[True] * 4, [True, True, True, False]]
    assert found["padding_mask"].tolist() == [[True] * 3, [True, True, False]]
    assert inputs["roi_mask"][0].all()


def test_a_reader_looks_at_the_pair_that_the_question_names(reader, people):
    """Where the answer is no level that unrelated series have as well."""
    names = reader[1].feature_extractor.atlas.network_names
    values = scan_pairs(reader[1], people[0])[0]
    numbers = pair_indices(len(names)).T.tolist()
    pair = max(
        (each for each in numbers if each[0] != each[1]), key=lambda each: values[0, numbers.index(each)]
    )
    asked = bin_question([names[place] for place in pair])
    found = occlude(*reader, *people, asked, BINS, n_scans=1, n_others=2)
    assert set(found.top_pairs(0)[0]) == {names[place] for place in pair}


def test_shuffled_weights_know_nothing(reader, people):
    before = copy.deepcopy(reader[0].state_dict())
    shuffled = with_random_weights(reader[0], seed=3)
    assert all(torch.equal(before[name], value) for name, value in reader[0].state_dict().items())
    for name, value in shuffled.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
    tied = shuffled.get_input_embeddings().weight, shuffled.get_output_embeddings().weight
    assert tied[0] is tied[1]


@pytest.mark.parametrize("way", EXPLANATIONS)
def test_what_is_found_depends_on_what_was_learnt(reader, people, way):
    asked = (*reader, *people, bin_question(list(PAIR)), BINS)
    explain = partial(EXPLANATIONS[way], n_others=2)
    found = randomisation_test(explain, *asked, n_scans=2)
    assert found["randomised"] < found["repeated"]
    there_already = explain(*asked, n_scans=3)
    assert randomisation_test(explain, *asked, n_scans=2, found=there_already) == pytest.approx(found)


def test_without_enough_people_or_networks_it_says_what_is_missing(reader, people):
    inputs, subjects = people
    with pytest.raises(
        Unavailable, match=r"scans of 2 other people, and each of 6 networks.*at least 7 people"
    ):
        occlude(*reader, inputs, (subjects[:3] * 4)[:10], "?", BINS)
    processor = copy.copy(reader[1])
    processor.feature_extractor = copy.copy(processor.feature_extractor)
    processor.feature_extractor.atlas = None
    with pytest.raises(Unavailable, match="names 0 network"):
        occlude(reader[0], processor, inputs, subjects, "?", BINS)


def test_pictures_are_drawn_on_a_brain_where_rois_have_places(reader, people, linear):
    atlas = reader[1].feature_extractor.atlas
    told = occlude(*reader, *people, "?", ["no", "yes"], n_scans=1, n_others=1).summary()
    with_brain, without = (
        "".join(explanation_parts({"occlusion": {"sex": told}}, each)) for each in (atlas, None)
    )
    assert (with_brain.count("data:image/png"), without.count("data:image/png")) == (2, 1)
    assert "default - sensorimotor" in without or "sensorimotor - default" in without
    assert "too few" in "".join(
        explanation_parts({"integrated_gradients": {"sex": {"left_out": "too few"}}}, atlas)
    )
    assert explanation_parts({}, atlas) == few_shot_parts(None) == []


def test_places_of_rois_come_from_coordinates_or_the_image():
    block = np.zeros((8, 8, 8), dtype=np.int16)
    block[1:3, 1:3, 1:3], block[5:7, 5:7, 5:7] = 7, 3
    image = nib.Nifti1Image(block, np.diag([2.0, 2.0, 2.0, 1.0]))
    atlas = Atlas("a", ("left", "right"), ("A", "B"), labels=(7, 3), labels_img=image)
    centres = np.array(roi_centres(atlas))
    assert (
        np.abs(centres - [[3.0] * 3, [11.0] * 3]).max() <= 1.0
    )  # in the order of the ROIs, not of the labels
    assert roi_centres(Atlas("a", ("left", "right"), ("A", "B"))) is None
    points = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert roi_centres(Atlas("a", ("left", "right"), ("A", "B"), coordinates=points)) == points
