"""The fMRI tokenizer: what reaches a token, how it is stored, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from small import fmri_tokenizer, masks, scans
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig, FmriTokenizerForPreTraining
from fmri_lm_hf.models.fmri_transformer import NETWORK_SCALE, connectivity_profiles

N_ROIS, N_TIMEPOINTS = 6, 16
BOTH = ["signal", "connectivity"]


# --- shapes and consistency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [["signal"], ["connectivity"], BOTH], ids="+".join)
@pytest.mark.parametrize("n_stages", [1, 3])
@pytest.mark.parametrize("n_patches", [1, 4])
@torch.no_grad()
def test_shapes_and_agreement_of_encode_decode_and_forward(features, n_stages, n_patches):
    tokenizer = fmri_tokenizer(input_features=features, num_quantizers=n_stages, patch_size=N_TIMEPOINTS // n_patches)
    n_tokens = N_ROIS * n_patches
    assert tokenizer.config.n_tokens == n_tokens
    inputs = scans(2)
    encoded, output = tokenizer.encode(inputs), tokenizer(inputs)
    decoded = tokenizer.decode(encoded.fmri_codes)

    assert encoded.fmri_codes.shape == ((2, n_tokens) if n_stages == 1 else (2, n_tokens, n_stages))
    assert encoded.fmri_codes.max() < 8
    assert encoded.embeddings.shape == (2, n_tokens, 16)
    assert encoded.quantized.shape == (2, n_tokens, 4)
    assert encoded.token_mask.all()
    assert torch.equal(output.fmri_codes, encoded.fmri_codes)
    assert torch.equal(output.embeddings, encoded.embeddings)
    for name, shape in (("reconstruction", (2, N_ROIS, N_TIMEPOINTS)), ("connectivity", (2, N_ROIS, N_ROIS))):
        feature = "signal" if name == "reconstruction" else name
        if feature in features:
            assert decoded[name].shape == shape
            torch.testing.assert_close(decoded[name], output[name])
        else:
            assert getattr(decoded, name) is None
    assert 1 / 8 <= output.codebook_usage <= 1
    torch.testing.assert_close(output.loss, output.reconstruction_loss + output.commitment_loss)


@torch.no_grad()
def test_tokens_are_in_time_major_order():
    # without layers a token is a function of its own patch alone
    tokenizer = fmri_tokenizer(num_hidden_layers=0, patch_size=4)
    inputs = scans(1)
    before = tokenizer.encode(inputs).embeddings[0]
    for roi, patch in [(0, 1), (4, 0), (5, 3)]:
        changed = inputs.clone()
        changed[0, roi, 4 * patch : 4 * patch + 4] += torch.randn(4)
        differs = (tokenizer.encode(changed).embeddings[0] != before).any(-1)
        assert differs.nonzero().flatten().tolist() == [patch * N_ROIS + roi]


# --- masks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [["signal"], ["connectivity"], BOTH], ids="+".join)
@pytest.mark.parametrize("filler", [7.0, float("nan")])
@pytest.mark.parametrize("rank", [None, 3])
@torch.no_grad()
def test_values_that_were_not_observed_influence_nothing(features, filler, rank):
    tokenizer = fmri_tokenizer(input_features=features, num_quantizers=2, connectivity_rank=rank)
    inputs = scans(2)
    changed = inputs.clone()
    changed[1, 1] = filler
    changed[1, :, 11:] = filler
    one, other = tokenizer(inputs, **masks()), tokenizer(changed, **masks())
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    token_mask = tokenizer.encode(inputs, **masks()).token_mask
    assert (~token_mask[1]).nonzero().flatten().tolist() == [1, N_ROIS + 1]


@torch.no_grad()
def test_a_padded_patch_changes_no_token_before_it():
    tokenizer = fmri_tokenizer()
    inputs, padding_mask = scans(1), torch.ones(1, N_TIMEPOINTS, dtype=torch.bool)
    padding_mask[:, 8:] = False
    encoded = tokenizer.encode(inputs, padding_mask=padding_mask)
    assert encoded.token_mask[0].tolist() == [True] * N_ROIS + [False] * N_ROIS
    # the same as a tokenizer of one patch, with the same weights
    short = fmri_tokenizer(n_timepoints=8)
    short.encoder.load_state_dict(tokenizer.encoder.state_dict())
    alone = short.encode(inputs[..., :8]).embeddings
    torch.testing.assert_close(encoded.embeddings[:, :N_ROIS], alone)


def test_connectivity_profiles_are_correlations_in_units_of_the_scan():
    inputs, observed = scans(2), masks()
    profiles = connectivity_profiles(inputs, **observed)
    kept = [roi for roi in range(N_ROIS) if roi != 1]
    assert not profiles[1, 1].any()
    assert not profiles[1, :, 1].any()
    for found, series in ((profiles[0], inputs[0]), (profiles[1][kept][:, kept], inputs[1, kept, :11])):
        expected = np.corrcoef(series.numpy()) - np.eye(len(series))
        rms = np.sqrt(np.mean(expected[~np.eye(len(series), dtype=bool)] ** 2))
        np.testing.assert_allclose(found, expected / rms, atol=1e-5)


def test_profiles_hold_the_means_over_the_other_rois_of_each_network():
    inputs, observed = scans(2), masks()
    networks = [roi % 2 for roi in range(N_ROIS)]
    plain = connectivity_profiles(inputs, **observed)
    profiles = connectivity_profiles(inputs, **observed, roi_networks=networks)
    assert torch.equal(profiles[..., :N_ROIS], plain)
    for scan, roi, network in ((0, 0, 0), (0, 0, 1), (1, 2, 1), (1, 3, 1)):
        others = [
            other
            for other in range(N_ROIS)
            if other != roi and networks[other] == network and observed["roi_mask"][scan, other]
        ]
        expected = NETWORK_SCALE * plain[scan, roi, others].mean()
        torch.testing.assert_close(profiles[scan, roi, N_ROIS + network], expected)
    tokenizer = fmri_tokenizer(input_features=["connectivity"], roi_networks=networks)
    output = tokenizer(inputs, **observed)
    assert output.connectivity.shape == (2, N_ROIS, N_ROIS + 2)
    assert torch.isfinite(output.loss)


@torch.no_grad()
def test_reconstructed_connectivity_of_a_rank_is_that_of_so_many_numbers_a_roi():
    networks = [roi % 2 for roi in range(N_ROIS)]
    tokenizer = fmri_tokenizer(input_features=BOTH, roi_networks=networks, connectivity_rank=2, codebook_size=64)
    vectors = []
    tokenizer.decoder.head.register_forward_hook(lambda head, inputs, output: vectors.append(output[..., -2:]))
    observed = masks()
    profiles = tokenizer(scans(2), **observed).connectivity
    # two numbers a ROI, as two time points would be; those of the missing one stand nowhere
    of_rois = vectors[0] * observed["roi_mask"][..., None]
    kept = of_rois[1][observed["roi_mask"][1]]
    products = kept @ kept.T * (1 - torch.eye(len(kept)))
    rms = (products.square().sum() / (len(kept) * (len(kept) - 1))).sqrt()
    rows = observed["roi_mask"][1].nonzero().flatten()
    torch.testing.assert_close(profiles[1][rows][:, rows], products / rms)
    assert not profiles[1, 1].any()
    assert not profiles[1, :, 1].any()
    correlations = profiles[..., :N_ROIS]
    torch.testing.assert_close(correlations, correlations.mT)
    # and what it says of networks is the mean of what it says of ROIs
    others = [roi for roi in range(0, N_ROIS, 2) if roi != 2]
    torch.testing.assert_close(
        profiles[0, 2, N_ROIS], NETWORK_SCALE * correlations[0, 2, others].mean(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rank", [None, 3])
@torch.no_grad()
def test_with_a_rank_time_patches_see_a_profile_in_ways_of_their_own(rank):
    tokenizer = fmri_tokenizer(
        input_features=["connectivity"], connectivity_rank=rank, patch_size=4, num_hidden_layers=0
    )
    of_patches = tokenizer.encode(scans(1)).embeddings.unflatten(1, (4, N_ROIS))[0]
    same = [torch.equal(of_patches[0], patch) for patch in of_patches[1:]]
    assert same == [rank is None] * 3


def test_a_rank_says_nothing_where_tokens_do_not_see_connectivity():
    plain, ranked = (fmri_tokenizer(connectivity_rank=rank) for rank in (None, 3))
    expected = plain.state_dict()
    assert {name: value.shape for name, value in ranked.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_connectivity_profiles_do_not_see_the_level_of_noise_that_all_rois_share():
    # the same share of independent noise in every ROI shrinks all correlations by one factor
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(4, 20_000, generator=generator)
    series = torch.stack([signal[0], signal[0] + signal[1], signal[1] + signal[2], signal[2]])
    series = series / series.std(-1, keepdim=True)
    noisy = series + torch.randn(4, 20_000, generator=generator)
    both = torch.stack([series, noisy])
    clean, other = connectivity_profiles(
        both, torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 20_000, dtype=torch.bool)
    )
    torch.testing.assert_close(clean, other, rtol=0, atol=0.1)


# --- storage --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    tokenizer = fmri_tokenizer(input_features=BOTH, num_quantizers=2, text_embed_dim=5).train()
    tokenizer(scans(4))
    tokenizer.eval().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert isinstance(loaded, FmriTokenizerForPreTraining)
    assert not loaded.training
    state = tokenizer.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert loaded.quantizer.codebooks[1].initialized == 1
    for name, value in tokenizer(scans(2), **masks()).items():
        assert torch.equal(value, loaded(scans(2), **masks())[name]), name


@torch.no_grad()
def test_the_tokenizer_loads_without_what_only_training_needs(tmp_path, caplog):
    whole = fmri_tokenizer(input_features=BOTH, text_embed_dim=5, pooling="cls")
    whole.save_pretrained(tmp_path)
    loaded, info = FmriTokenizer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    beyond = {"alignment", "steps"}
    assert {name.split(".")[0] for name in whole.state_dict().keys() - loaded.state_dict()} == beyond
    bare = whole.without_objectives()
    assert type(bare) is FmriTokenizer
    assert bare.encoder is whole.encoder
    assert bare.state_dict().keys() == loaded.state_dict().keys()
    for name, value in loaded(scans(2), **masks()).items():
        assert torch.equal(value, bare(scans(2), **masks())[name]), name


def test_configuration_round_trip(tmp_path):
    config = fmri_tokenizer(input_features=["connectivity"], num_quantizers=3).config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, FmriTokenizerConfig)
    left, right = config.to_dict(), loaded.to_dict()
    assert {**left, "_name_or_path": None} == {**right, "_name_or_path": None}
    assert (loaded.n_patches, loaded.n_tokens) == (2, 12)


@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_a_damaged_file_ends_in_one_sentence(tmp_path, damage):
    fmri_tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"\xff" * 100)
    with pytest.raises(OSError, match="cannot be read: a safetensors file is corrupt or was cut short") as error:
        AutoModel.from_pretrained(tmp_path)
    assert type(error.value.__cause__).__name__ == "SafetensorError"
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_read(tmp_path):
    tokenizer = fmri_tokenizer()
    tokenizer.config.save_pretrained(tmp_path)
    torch.save(tokenizer.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        FmriTokenizer.from_pretrained(tmp_path)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"connectivity_rank": 0}, "`connectivity_rank` must be at least 1, got 0"),
        (
            {"input_features": []},
            r"must name at least one of \['signal', 'connectivity'\], each once, got \[\]",
        ),
        ({"input_features": ["bold"]}, r"each once, got \['bold'\]"),
        ({"input_features": ["signal", "signal"]}, r"each once, got \['signal', 'signal'\]"),
        ({"n_timepoints": 150}, "must be a multiple of `patch_size`, got 150 and 160"),
        ({"num_attention_heads": 7}, "must be a multiple of `num_attention_heads`, got 768 and 7"),
        (
            {"n_rois": 3, "roi_networks": [0, 2, 0]},
            r"each of 3 ROIs, counted from 0 without gaps, got 3 numbers",
        ),
        ({"n_rois": 3, "roi_networks": [0, 1]}, r"each of 3 ROIs, .* got 2 numbers \[0, 1\]"),
        ({"num_quantizers": 0}, "`num_quantizers` must be at least 1, got 0"),
        ({"patch_size": 0}, "`patch_size` must be at least 1, got 0"),
        ({"n_rois": -1}, "`n_rois` must be at least 1, got -1"),
        ({"n_rois": "450"}, "expected int, got str"),
        ({"hidden_size": 76.8}, "expected int, got float"),
        ({"input_features": "signal"}, "expected a list, got str"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        FmriTokenizerConfig(**fields)


@pytest.mark.parametrize("call", ["encode", "forward"])
def test_inputs_of_a_wrong_shape(call):
    run = getattr(fmri_tokenizer(), call)
    with pytest.raises(ValueError, match=r"\(batch, 6, 16\), found \(2, 16, 6\)"):
        run(scans(2).transpose(1, 2))
    with pytest.raises(ValueError, match=r"found \(6, 16\)"):
        run(scans(2)[0])
    with pytest.raises(ValueError, match=r"`roi_mask` must have shape \(2, 6\), one row a scan, found \(1, 6\)"):
        run(scans(2), roi_mask=torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`padding_mask` must have shape \(2, 16\), .* found \(2, 6\)"):
        run(scans(2), padding_mask=torch.ones(2, 6, dtype=torch.bool))
    observed = masks()
    observed["roi_mask"][1] = False
    with pytest.raises(ValueError, match=r"Scan\(s\) \[1\] of the batch have no observed ROI"):
        run(scans(2), **observed)


def test_encoder_only():
    tokenizer, whole = fmri_tokenizer(encoder_only=True), fmri_tokenizer()
    assert tokenizer.quantizer is None
    tokenizer.encoder.load_state_dict(whole.encoder.state_dict())
    encoded = tokenizer.encode(scans(2))
    assert (encoded.fmri_codes, encoded.quantized) == (None, None)
    torch.testing.assert_close(encoded.embeddings, whole.encode(scans(2)).embeddings)
    with pytest.raises(ValueError, match="`encoder_only` and has no loss; use `encode`"):
        tokenizer(scans(2))
    with pytest.raises(ValueError, match="`encoder_only` and reconstructs nothing; use `encode`"):
        FmriTokenizer(tokenizer.config)(scans(2))
    with pytest.raises(ValueError, match="`encoder_only`: its checkpoint holds neither codebook nor decoder"):
        tokenizer.decode(torch.zeros(2, 12, dtype=torch.long))


def test_codes_of_a_wrong_number_of_stages():
    with pytest.raises(ValueError, match=r"has 1 stage\(s\), found shape \(2, 12\); expected \(batch, n_tokens, 3\)"):
        fmri_tokenizer(num_quantizers=3).decode(torch.zeros(2, 12, dtype=torch.long))
    with pytest.raises(ValueError, match=r"has 2 stage\(s\)"):
        fmri_tokenizer().decode(torch.zeros(2, 12, 2, dtype=torch.long))


def test_the_saved_configuration_names_only_what_differs_from_the_defaults(tmp_path):
    FmriTokenizerConfig(n_rois=100).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["n_rois"] == 100
    assert written["model_type"] == "fmri_tokenizer"
