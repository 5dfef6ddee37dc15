"""Network-pair tokens: their values, and a language model that reads them."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from huggingface_hub.errors import StrictDataclassError

from fmri_lm_hf import Atlas, FmriLMConfig, FmriLMForCausalLM, FmriTokenizerConfig
from fmri_lm_hf.models.network_pairs import network_pair_features, network_pair_values, pair_ranks

NETWORKS = [0, 0, 1, 1, 2, 2]  # of the 6 ROIs of `small`
NAME_IDS = [[4], [6, 7], [8]]
N_TOKENS = 1 + 6


def pair_model(seed: int = 0, scan_tokens=("network_pairs",), networks=NETWORKS, name_ids=NAME_IDS, **config):
    torch.manual_seed(seed)
    shape = {"n_rois": len(networks), "roi_networks": list(networks)}
    if "rois" in scan_tokens:
        scanner = small.fmri_tokenizer(seed, **shape)
    else:
        scanner = FmriTokenizerConfig(n_timepoints=16, patch_size=8, **shape)
    model = FmriLMForCausalLM.from_components(
        scanner,
        small.text_model(),
        fmri_token_id=small.FMRI,
        scan_tokens=list(scan_tokens),
        network_name_ids=name_ids,
        initializer_range=0.2,
        **config,
    )
    model.generation_config.eos_token_id = None
    return model.eval()


def prompt(*parts, n_tokens=N_TOKENS):
    return torch.tensor([[i for p in parts for i in ([small.FMRI] * n_tokens if p == "scan" else [p])]])


def masks(n):
    return torch.ones(n, 6, dtype=torch.bool), torch.ones(n, 16, dtype=torch.bool)


def test_values_are_mean_correlations_in_units_of_the_rms():
    scans = small.scans(3)
    roi_mask, padding_mask = masks(3)
    roi_mask[1, 0], padding_mask[2, 12:] = False, False
    values, present, rms = network_pair_values(scans, roi_mask, padding_mask, torch.tensor(NETWORKS), 3)
    for k in range(3):
        rois, points = roi_mask[k].numpy(), padding_mask[k].numpy()
        c = np.corrcoef(scans[k].numpy()[rois][:, points])
        net = np.array(NETWORKS)[rois]
        other = ~np.eye(len(c), dtype=bool)
        scale = np.sqrt((c[other] ** 2).mean())
        assert rms[k] == pytest.approx(scale, abs=1e-5)
        for pair, (i, j) in enumerate(zip(*np.triu_indices(3))):
            block = (net == i)[:, None] & (net == j) & other
            assert bool(present[k, pair]) == bool(block.any())
            expected = c[block].mean() / scale if block.any() else 0
            assert values[k, pair] == pytest.approx(expected, abs=1e-4)


def test_ranks_compare_pairs_of_one_kind():
    values = torch.tensor([[9.0, 0.1, 0.3, 8.0, 0.2, 7.0]])  # within, between, between, within, between, within
    ranks = pair_ranks(values, torch.ones(1, 6, dtype=torch.bool), 3)
    torch.testing.assert_close(ranks, torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.5, 0.0]]))


def test_no_weight_depends_on_the_atlas_when_pairs_are_read_alone():
    three, two = pair_model(), pair_model(networks=[0, 0, 1, 1], name_ids=[[4], [5]])
    assert {k: v.shape for k, v in three.state_dict().items()} == {k: v.shape for k, v in two.state_dict().items()}
    assert three.fmri_tokenizer is None


@pytest.mark.parametrize("scan_tokens", [("network_pairs",), ("rois", "network_pairs")])
def test_a_model_of_pairs_round_trips_and_generates(scan_tokens, tmp_path):
    model = pair_model(scan_tokens=scan_tokens)
    ids = prompt(8, "scan", 9, n_tokens=model.config.n_scan_tokens)
    scans = small.scans(1)
    model.save_pretrained(tmp_path)
    again = FmriLMForCausalLM.from_pretrained(tmp_path).eval()
    small.close(model(input_ids=ids, input_values=scans).logits, again(input_ids=ids, input_values=scans).logits)
    generated = again.generate(input_ids=ids, input_values=scans, max_new_tokens=4, do_sample=False)
    whole = ids
    for _ in range(4):  # without a cache
        logits = model(input_ids=whole, input_values=scans).logits
        logits[..., small.FMRI] = -torch.inf  # never generated
        whole = torch.cat([whole, logits[:, -1:].argmax(-1)], 1)
    assert generated.tolist() == whole.tolist()


def test_pair_tokens_share_one_position_and_see_each_other():
    model = pair_model()
    ids = prompt(8, "scan", 9, 10)
    assert model.get_position_ids(ids).tolist() == [[0, *[1] * N_TOKENS, 2, 3]]
    first, other = small.scans(1), small.scans(1)
    other[:, 4:] = small.scans(1, seed=1)[:, 4:]  # the last pairs change, and the first pair token sees it
    states = [
        model(input_ids=ids, input_values=each, output_hidden_states=True).hidden_states[-1] for each in (first, other)
    ]
    small.close(states[0][:, 0], states[1][:, 0])
    assert (states[0][:, 1:] - states[1][:, 1:]).abs().amax(-1).min() > 1e-4


def test_gain_and_offset_of_a_roi_change_nothing():
    model, scans = pair_model(), small.scans(2)
    ids = prompt("scan", 9).expand(2, -1)
    moved = scans * torch.rand(1, 6, 1).add(0.5) + torch.randn(1, 6, 1)
    small.close(model(input_ids=ids, input_values=scans).logits, model(input_ids=ids, input_values=moved).logits)


def test_a_missing_network_influences_nothing():
    model, scans = pair_model(), small.scans(1)
    roi_mask = masks(1)[0]
    roi_mask[:, 4:] = False
    noise = scans.clone()
    noise[:, 4:] = 100
    ids = prompt("scan", 9)
    small.close(
        model(input_ids=ids, input_values=scans, roi_mask=roi_mask).logits[:, -1],
        model(input_ids=ids, input_values=noise, roi_mask=roi_mask).logits[:, -1],
    )
    assert model.get_attention_mask(ids, roi_mask=roi_mask)[0].tolist() == [1, 1, 1, 0, 1, 0, 0, 1]


def test_questions_in_segments_are_read_as_if_each_stood_alone():
    model, scans = pair_model(), small.scans(1)
    ids = prompt(8, "scan", 9, 10, 11, 12)
    segments = torch.tensor([[0] * (1 + N_TOKENS) + [1, 1, 2, 2]])
    positions = torch.tensor([[0, *[1] * N_TOKENS, 2, 3, 2, 3]])
    together = model(input_ids=ids, input_values=scans, text_segments=segments, position_ids=positions).logits
    second = model(input_ids=prompt(8, "scan", 11, 12), input_values=scans).logits
    small.close(together[:, -2:], second[:, -2:])
    assert (model(input_ids=ids, input_values=scans).logits[:, -2:] - second[:, -2:]).abs().max() > 1e-3


def test_scans_of_other_atlases_are_read_with_their_names():
    model = pair_model()
    other = pair_model(networks=[0, 0, 0, 1, 1, 1], name_ids=[[5], [9, 10]])
    other.load_state_dict(model.state_dict())
    scans = small.scans(2)
    features = network_pair_features(scans, *masks(2), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    ids = prompt("scan", 9, n_tokens=4).expand(2, -1)
    names = torch.tensor([[[5, -1], [9, 10]]]).expand(2, -1, -1)
    small.close(
        model(input_ids=ids, fmri_features=features, network_name_ids=names).logits,
        other(input_ids=ids, input_values=scans).logits,
    )


@pytest.mark.parametrize(
    "config, message",
    [
        ({"scan_tokens": ["voxels"]}, "must name some of"),
        ({"scan_tokens": ["network_pairs"], "network_name_ids": [[1]]}, "got 3 networks and 1 names"),
    ],
)
def test_configurations_that_cannot_be_are_refused(config, message):
    fmri = FmriTokenizerConfig(n_rois=6, n_timepoints=16, patch_size=8, roi_networks=NETWORKS)
    with pytest.raises(StrictDataclassError, match=message):
        FmriLMConfig(fmri_config=fmri, text_config=small.text_model().config, **config)


def test_a_tokenizer_of_scans_is_needed_for_roi_tokens_and_refused_without():
    with pytest.raises(ValueError, match="the configuration of one alone"):
        FmriLMForCausalLM.from_components(
            small.fmri_tokenizer(roi_networks=NETWORKS),
            small.text_model(),
            scan_tokens=["network_pairs"],
            network_name_ids=NAME_IDS,
        )


def test_the_processor_writes_as_many_placeholders_and_knows_the_names():
    from hub import tiny

    from fmri_lm_hf import FmriFeatureExtractor, FmriLMProcessor

    atlas = Atlas("named", tuple(f"r{k}" for k in range(6)), ("sex", "sex", "What", "What", "is", "is"))
    extractor = FmriFeatureExtractor(atlas, n_timepoints=16)
    processor = FmriLMProcessor(extractor, tiny.text_tokenizer(), scan_tokens=["network_pairs"])
    assert processor.n_tokens == N_TOKENS
    assert processor.network_name_ids() == [[4], [8], [9]]
    with pytest.raises(ValueError, match="with an atlas"):
        FmriLMProcessor(
            FmriFeatureExtractor(n_rois=6, n_timepoints=16),
            tiny.text_tokenizer(),
            scan_tokens=["network_pairs"],
        )
