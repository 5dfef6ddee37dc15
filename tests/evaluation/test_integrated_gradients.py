"""Integrated gradients: shares add up to what they share out, and go to the network whose token moved the answer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

import fmri_lm_hf
from fmri_lm_hf.corpus.queries import BINS, bin_question
from fmri_lm_hf.evaluation import attribution as module
from fmri_lm_hf.evaluation.attribution import integrated_gradients, log_odds, other_people
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.models.answers import answer_log_probabilities, encode_question
from fmri_lm_hf.models.network_pairs import VALUE, pair_indices
from fmri_lm_hf.simulation import Site, simulate_cohort

PAIR = ("default", "sensorimotor")
QUESTION = bin_question(list(PAIR))


@pytest.fixture(scope="module")
def reader():
    return fmri_lm_hf.load_bundled_model()


@pytest.fixture(scope="module")
def people(reader):
    """Inputs of ten people's scans, and whose they are."""
    scans = simulate_cohort(sites=[Site("A", 10)], seed=1).dataset
    return dict(reader[1](fmri=list(scans.with_format("numpy")))), list(scans["subject_id"])


def test_answers_are_as_probable_as_without_gradients(reader, people):
    model, processor = reader
    prompt, answers = encode_question(processor, QUESTION, ["low", "very high indeed", "high"])
    features = model.get_fmri_features(**people[0]).detach()
    own = {name: people[0][name][:1] for name in ("roi_mask", "padding_mask")}
    found = module._log_probabilities(model, prompt, answers, features[:3], own)
    masks = {name: mask.expand(3, -1) for name, mask in own.items()}
    expected = answer_log_probabilities(model, prompt, answers, fmri_features=features[:3], **masks)
    torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-5)
    odds = torch.stack([module._odds(found, answer) for answer in range(3)], 1)
    by_hand = np.stack([log_odds(expected.numpy(), answer) for answer in range(3)], 1)
    np.testing.assert_allclose(odds.detach().numpy(), by_hand, atol=1e-4)


def test_shares_add_up_to_what_sets_the_scan_apart_from_others(reader, people, monkeypatch):
    found = integrated_gradients(*reader, *people, QUESTION, BINS, n_scans=3, n_others=2)
    assert found.missed < 0.05
    monkeypatch.setattr(module, "N_STEPS", 4)
    assert integrated_gradients(*reader, *people, QUESTION, BINS, n_scans=3, n_others=2).missed > found.missed
    assert found.summary()["missed"] == found.missed


def test_each_token_goes_to_its_networks_with_its_share(reader, people, monkeypatch):
    """Log-odds that are a weighted sum of pairs' values: shares are the weights times what the scan has more."""
    model, processor = reader
    names = processor.feature_extractor.atlas.network_names
    numbers = pair_indices(len(names)).T.tolist()
    weights = torch.linspace(-1, 2, len(numbers))

    def log_probabilities(model, prompt, answer_ids, features, masks):
        odds = features[:, 1:, VALUE] @ weights + 100.0  # "yes" for all
        return torch.stack([torch.zeros_like(odds), odds], 1).log_softmax(-1)

    monkeypatch.setattr(module, "_log_probabilities", log_probabilities)
    monkeypatch.setattr(
        module, "answer_log_probabilities", lambda *asked, **scans: torch.tensor([[0.0, 1.0]])
    )
    found = integrated_gradients(*reader, *people, "?", ["no", "yes"], n_scans=2, n_others=3, seed=5)
    values = model.get_fmri_features(**people[0])[:, 1:, VALUE]
    subjects = np.array(people[1])
    for scan in range(2):
        others = other_people(subjects, scan, 3, np.random.default_rng([5, scan]))
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
    told = found.summary()
    assert told["of_pairs"] == []
    assert len(told["of_networks"]) == len(processor.feature_extractor.atlas.network_names)


def test_what_cannot_be_shared_out_is_said(reader, people, checkpoint):
    with pytest.raises(Unavailable, match="All scans are of one subject"):
        integrated_gradients(*reader, people[0], ["a"] * 10, QUESTION, BINS)
    processor = copy.copy(reader[1])
    processor.feature_extractor = copy.copy(processor.feature_extractor)
    processor.feature_extractor.atlas = None
    with pytest.raises(Unavailable, match="names 0 network"):
        integrated_gradients(reader[0], processor, *people, QUESTION, BINS)
    latent = copy.deepcopy(AutoModelForCausalLM.from_pretrained(checkpoint).config)
    latent.fmri_config.num_latent_tokens = 4
    with pytest.raises(Unavailable, match="latent tokens, of which none stands for a network"):
        module._shares(type("Model", (), {"config": latent}), [0, 1], 2)
