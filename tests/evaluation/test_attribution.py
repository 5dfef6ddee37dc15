"""Attribution: what a pair carries shows at that pair alone, and depends on what the model has learnt."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

import fmri_lm_hf
from fmri_lm_hf import Atlas
from fmri_lm_hf.corpus.queries import BINS, bin_question
from fmri_lm_hf.evaluation import attribution as module
from fmri_lm_hf.evaluation.attribution import (
    EXPLANATIONS,
    integrated_gradients,
    log_odds,
    occlude,
    other_subjects,
    randomisation_test,
    with_random_weights,
)
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.report import explanation_parts, few_shot_parts, roi_centres
from fmri_lm_hf.evaluation.truth import scan_pairs
from fmri_lm_hf.models.answers import answer_log_probabilities, encode_question
from fmri_lm_hf.models.network_pairs import VALUE, pair_indices
from fmri_lm_hf.simulation import Site, simulate_cohort

PAIR = ("default", "sensorimotor")
QUESTION = bin_question(list(PAIR))


@pytest.fixture(scope="module")
def bundled():
    return fmri_lm_hf.load_bundled_model()


@pytest.fixture(scope="module")
def people(bundled):
    """Inputs of ten people's scans, and whose they are."""
    cohort = simulate_cohort(sites=[Site("A", 10)], seed=1)
    scans = cohort.dataset.with_format("numpy")
    return dict(bundled[1](fmri=[scans[row] for row in range(10)])), list(cohort.dataset["subject_id"])


@pytest.fixture
def linear(bundled, monkeypatch):
    """Answers whose log-odds are four times the mean correlation of one pair of networks."""
    networks = np.array(bundled[1].feature_extractor.atlas.networks)
    first, second = (torch.tensor(networks == name) for name in PAIR)

    def log_probabilities(model, prompt, answer_ids, scans):
        x = scans["input_values"] - scans["input_values"].mean(-1, keepdim=True)
        x = torch.nn.functional.normalize(x, dim=-1)
        odds = 4 * (x[:, first] @ x[:, second].transpose(1, 2)).mean((1, 2)).double()
        return torch.stack([torch.zeros_like(odds), odds], 1).log_softmax(-1).numpy()

    monkeypatch.setattr(module, "_log_probabilities", log_probabilities)


def test_what_one_pair_carries_shows_at_that_pair_alone(bundled, people, linear):
    found = occlude(*bundled, *people, "?", ["no", "yes"], n_scans=4, n_others=40)
    names = [{found.networks[i], found.networks[j]} for i, j in found.pairs]
    planted = names.index(set(PAIR))
    others = [place for place in range(len(names)) if place != planted]
    assert np.abs(found.of_pairs[:, others]).max() < 1e-9
    assert np.abs(np.delete(found.of_networks, [found.networks.index(name) for name in PAIR], 1)).max() < 1e-9
    assert found.top_pairs(0)[0] in (PAIR, PAIR[::-1])
    summary = found.summary()
    assert set(summary["of_pairs"][0]["networks"]) == set(PAIR)
    assert summary["of_pairs"][0]["for_answer"] == pytest.approx(found.of_pairs[:, planted].mean())
    assert summary["n_scans"] == 4


def test_a_pairs_value_is_its_part_in_the_log_odds_with_the_sign_of_the_answer(bundled, linear):
    """Ten people of white noise, each with a signal that the two networks share, in the other sense in one of them."""
    networks = np.array(bundled[1].feature_extractor.atlas.networks)
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
    found = occlude(*bundled, inputs, list("abcdefghij"), "?", ["no", "yes"], n_scans=2, n_others=12)
    assert found.answers.tolist() == [1, 0]
    planted = [{found.networks[i], found.networks[j]} for i, j in found.pairs].index(set(PAIR))
    np.testing.assert_allclose(found.of_pairs[:, planted], 4 * 0.5, atol=0.3)  # equal variances: r = 0.5


def test_every_network_gets_another_persons_series():
    people = np.array(["a", "a", "b", "c", "c", "d"])
    seen = Counter()
    for seed in range(60):
        others = other_subjects(people, 0, 3, np.random.default_rng(seed))
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
    found = module._replace_networks(inputs, 0, [1, 1], [(), (1,)], of_roi)
    assert torch.equal(found["input_values"][0], inputs["input_values"][0])
    assert torch.equal(found["input_values"][1, :2], inputs["input_values"][0, :2])
    assert torch.equal(found["input_values"][1, 2:], inputs["input_values"][1, 2:])
    assert found["roi_mask"].tolist() == [[True] * 4, [True, True, True, False]]
    assert found["padding_mask"].tolist() == [[True] * 3, [True, True, False]]
    assert inputs["roi_mask"][0].all()


def test_a_model_looks_at_the_pair_that_the_question_names(bundled, people):
    """Where the answer is no level that unrelated series have as well."""
    names = bundled[1].feature_extractor.atlas.network_names
    values = scan_pairs(bundled[1], people[0])[0]
    numbers = pair_indices(len(names)).T.tolist()
    pair = max((each for each in numbers if each[0] != each[1]), key=lambda each: values[0, numbers.index(each)])
    asked = bin_question([names[place] for place in pair])
    found = occlude(*bundled, *people, asked, BINS, n_scans=1, n_others=2)
    assert set(found.top_pairs(0)[0]) == {names[place] for place in pair}


# ---------------------------------------------------------------------------------------- integrated gradients


def test_answers_are_as_probable_as_without_gradients(bundled, people):
    model, processor = bundled
    prompt, answers = encode_question(processor, QUESTION, ["low", "very high indeed", "high"])
    features = model.get_fmri_features(**people[0]).detach()
    own = {name: people[0][name][:1] for name in ("roi_mask", "padding_mask")}
    found = module._differentiable_log_probabilities(model, prompt, answers, features[:3], own)
    masks = {name: mask.expand(3, -1) for name, mask in own.items()}
    expected = answer_log_probabilities(model, prompt, answers, fmri_features=features[:3], **masks)
    torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-5)
    odds = torch.stack([module._differentiable_log_odds(found, answer) for answer in range(3)], 1)
    by_hand = np.stack([log_odds(expected.numpy(), answer) for answer in range(3)], 1)
    np.testing.assert_allclose(odds.detach().numpy(), by_hand, atol=1e-4)


def test_shares_add_up_to_what_sets_the_scan_apart_from_others(bundled, people, monkeypatch):
    found = integrated_gradients(*bundled, *people, QUESTION, BINS, n_scans=3, n_others=2)
    assert found.missed < 0.05
    monkeypatch.setattr(module, "N_STEPS", 4)
    assert integrated_gradients(*bundled, *people, QUESTION, BINS, n_scans=3, n_others=2).missed > found.missed
    assert found.summary()["missed"] == found.missed


def test_each_token_goes_to_its_networks_with_its_share(bundled, people, monkeypatch):
    """Log-odds that are a weighted sum of pairs' values: shares are the weights times what the scan has more."""
    model, processor = bundled
    names = processor.feature_extractor.atlas.network_names
    numbers = pair_indices(len(names)).T.tolist()
    weights = torch.linspace(-1, 2, len(numbers))

    def log_probabilities(model, prompt, answer_ids, features, masks):
        odds = features[:, 1:, VALUE] @ weights + 100.0  # "yes" for all
        return torch.stack([torch.zeros_like(odds), odds], 1).log_softmax(-1)

    monkeypatch.setattr(module, "_differentiable_log_probabilities", log_probabilities)
    monkeypatch.setattr(module, "answer_log_probabilities", lambda *asked, **scans: torch.tensor([[0.0, 1.0]]))
    found = integrated_gradients(*bundled, *people, "?", ["no", "yes"], n_scans=2, n_others=3, seed=5)
    values = model.get_fmri_features(**people[0])[:, 1:, VALUE]
    subjects = np.array(people[1])
    for scan in range(2):
        others = other_subjects(subjects, scan, 3, np.random.default_rng([5, scan]))
        more = (weights * (values[scan] - values[others].mean(0))).tolist()
        for (i, j), share in zip(found.pairs, found.of_pairs[scan]):
            assert share == pytest.approx(more[numbers.index([i, j])], abs=1e-3)
        within = [more[numbers.index([i, i])] for i in range(len(names))]
        np.testing.assert_allclose(found.of_networks[scan], within, atol=1e-3)


def test_a_model_of_rois_has_networks_and_no_pairs(checkpoint):
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    inputs = dict(processor(fmri=[tiny.scan(i) for i in range(4)], t_r=2.0))
    asked = (model, processor, inputs, list("abcd"), "sex ?", ["male", "female"])
    found = integrated_gradients(*asked, n_scans=2)
    assert (found.pairs, found.of_pairs.shape) == ([], (2, 0))
    assert found.n_others == 3  # all that there are
    # no token but those of ROIs: networks have all of it, which is the mean difference of log-odds
    prompt, answers = encode_question(processor, "sex ?", ["male", "female"])
    scans = answer_log_probabilities(model, prompt, answers, **inputs).numpy()
    odds = log_odds(scans, found.answers[0])
    assert found.of_networks[0].sum() == pytest.approx(odds[0] - odds[1:].mean(), rel=0.02)
    summary = found.summary()
    assert summary["of_pairs"] == []
    assert len(summary["of_networks"]) == len(processor.feature_extractor.atlas.network_names)


def test_answers_without_networks_or_other_subjects_are_refused(bundled, people, checkpoint):
    with pytest.raises(Unavailable, match="All scans are of one subject"):
        integrated_gradients(*bundled, people[0], ["a"] * 10, QUESTION, BINS)
    processor = copy.copy(bundled[1])
    processor.feature_extractor = copy.copy(processor.feature_extractor)
    processor.feature_extractor.atlas = None
    with pytest.raises(Unavailable, match="names 0 network"):
        integrated_gradients(bundled[0], processor, *people, QUESTION, BINS)
    latent = copy.deepcopy(AutoModelForCausalLM.from_pretrained(checkpoint).config)
    latent.fmri_config.num_latent_tokens = 4
    with pytest.raises(Unavailable, match="latent tokens only, and none of them stands for a network"):
        module._token_shares(type("Model", (), {"config": latent}), [0, 1], 2)


# ------------------------------------------------------------------------------------------ randomisation test


def test_shuffled_weights_know_nothing(bundled, people):
    before = copy.deepcopy(bundled[0].state_dict())
    shuffled = with_random_weights(bundled[0], seed=3)
    assert all(torch.equal(before[name], value) for name, value in bundled[0].state_dict().items())
    for name, value in shuffled.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
    tied = shuffled.get_input_embeddings().weight, shuffled.get_output_embeddings().weight
    assert tied[0] is tied[1]


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_what_is_found_depends_on_what_was_learnt(bundled, people, method):
    asked = (*bundled, *people, QUESTION, BINS)
    explain = partial(EXPLANATIONS[method], n_others=2)
    found = randomisation_test(explain, *asked, n_scans=2)
    assert found["randomised"] < found["repeated"]
    there_already = explain(*asked, n_scans=3)
    assert randomisation_test(explain, *asked, n_scans=2, found=there_already) == pytest.approx(found)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_the_seed_decides_who_the_other_subjects_are(bundled, people, method):
    explain = partial(EXPLANATIONS[method], *bundled, *people, QUESTION, BINS, n_scans=1, n_others=1)
    found = [explain(seed=seed).of_pairs for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    assert not np.allclose(found[2], found[3])


def test_too_few_subjects_or_networks_are_refused(bundled, people):
    inputs, subjects = people
    with pytest.raises(Unavailable, match=r"scans of 2 other subjects, and each of 6 networks.*at least 7 subjects"):
        occlude(*bundled, inputs, (subjects[:3] * 4)[:10], "?", BINS)
    processor = copy.copy(bundled[1])
    processor.feature_extractor = copy.copy(processor.feature_extractor)
    processor.feature_extractor.atlas = None
    with pytest.raises(Unavailable, match="names 0 network"):
        occlude(bundled[0], processor, inputs, subjects, "?", BINS)


# ---------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_drawn_on_a_brain_where_rois_have_places(bundled, people, linear):
    atlas = bundled[1].feature_extractor.atlas
    summary = occlude(*bundled, *people, "?", ["no", "yes"], n_scans=1, n_others=1).summary()
    with_brain, without = ("".join(explanation_parts({"occlusion": {"sex": summary}}, each)) for each in (atlas, None))
    assert (with_brain.count("data:image/png"), without.count("data:image/png")) == (2, 1)
    assert "default - sensorimotor" in without or "sensorimotor - default" in without
    assert "too few" in "".join(explanation_parts({"integrated_gradients": {"sex": {"left_out": "too few"}}}, atlas))
    assert explanation_parts({}, atlas) == few_shot_parts(None) == []


def test_places_of_rois_come_from_coordinates_or_the_image():
    block = np.zeros((8, 8, 8), dtype=np.int16)
    block[1:3, 1:3, 1:3], block[5:7, 5:7, 5:7] = 7, 3
    image = nib.Nifti1Image(block, np.diag([2.0, 2.0, 2.0, 1.0]))
    atlas = Atlas("a", ("left", "right"), ("A", "B"), labels=(7, 3), labels_img=image)
    centres = np.array(roi_centres(atlas))
    assert np.abs(centres - [[3.0] * 3, [11.0] * 3]).max() <= 1.0  # in the order of the ROIs, not of the labels
    assert roi_centres(Atlas("a", ("left", "right"), ("A", "B"))) is None
    points = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert roi_centres(Atlas("a", ("left", "right"), ("A", "B"), coordinates=points)) == points
