"""The fMRI tokenizer: what reaches a token, how codes are learnt, what its losses teach, how it is stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from small import fmri_tokenizer, scans
from torch.nn.functional import mse_loss
from transformers import AutoConfig, AutoModel

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig
from fmri_lm_hf.models.modeling_fmri_tokenizer import NETWORK_SCALE, connectivity_profiles

N_ROIS, N_TIMEPOINTS = 6, 16
BOTH = ["signal", "connectivity"]


def masks(batch: int = 2) -> dict[str, torch.Tensor]:
    """The second scan lacks ROI 1 and has 5 padded time points: a part of the second patch of 8."""
    roi_mask = torch.ones(batch, N_ROIS, dtype=torch.bool)
    padding_mask = torch.ones(batch, N_TIMEPOINTS, dtype=torch.bool)
    roi_mask[1, 1] = False
    padding_mask[1, 11:] = False
    return {"roi_mask": roi_mask, "padding_mask": padding_mask}


def train(tokenizer: FmriTokenizer, inputs: torch.Tensor, steps: int, **kwargs) -> list[float]:
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    tokenizer.train()
    losses = []
    for _ in range(steps):
        loss = tokenizer(inputs, **kwargs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tokenizer.eval()
    return losses


# --- shapes and consistency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [["signal"], ["connectivity"], BOTH], ids="+".join)
@pytest.mark.parametrize("n_levels", [1, 3])
@pytest.mark.parametrize("n_patches", [1, 4])
@torch.no_grad()
def test_shapes_and_agreement_of_encode_decode_and_forward(features, n_levels, n_patches):
    tokenizer = fmri_tokenizer(
        input_features=features, num_quantizers=n_levels, patch_size=N_TIMEPOINTS // n_patches
    )
    n_tokens = N_ROIS * n_patches
    assert tokenizer.config.n_tokens == n_tokens
    inputs = scans(2)
    encoded, output = tokenizer.encode(inputs), tokenizer(inputs)
    decoded = tokenizer.decode(encoded.fmri_codes)

    assert encoded.fmri_codes.shape == ((2, n_tokens) if n_levels == 1 else (2, n_tokens, n_levels))
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
@torch.no_grad()
def test_values_that_were_not_observed_influence_nothing(features, filler):
    tokenizer = fmri_tokenizer(input_features=features, num_quantizers=2)
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


# --- the codebook ---------------------------------------------------------------------------------------------


def codebook_state(tokenizer: FmriTokenizer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tokenizer.quantizer.codebooks.state_dict().items()}


def test_the_codebook_changes_in_training_mode_only():
    tokenizer = fmri_tokenizer(num_quantizers=2)
    before = codebook_state(tokenizer)
    tokenizer(scans(2)).loss.backward()
    tokenizer.encode(scans(2))
    assert all(torch.equal(value, before[name]) for name, value in codebook_state(tokenizer).items())
    tokenizer.train()
    tokenizer(scans(2))
    assert not any(torch.equal(value, before[name]) for name, value in codebook_state(tokenizer).items())


def test_the_first_batch_spreads_the_codes_over_the_latents():
    tokenizer = fmri_tokenizer(codebook_size=32)
    cold = tokenizer(scans(8)).codebook_usage
    tokenizer.train()
    warm = tokenizer(scans(8))
    assert warm.codebook_usage > 0.8 > cold
    assert warm.commitment_loss < 0.1 * tokenizer.eval()(scans(8, seed=1)).reconstruction_loss


def test_codes_out_of_use_are_revived():
    tokenizer = fmri_tokenizer(codebook_size=16, codebook_decay=0.5).train()
    inputs = scans(8)
    tokenizer(inputs)
    book = tokenizer.quantizer.codebooks[0]
    # all but one code end far from every latent; none would ever be chosen again
    book.embedding[1:] = 100.0
    book.cluster_size[1:] = 0.0
    book.cluster_size[0] = 100.0
    assert tokenizer.eval()(inputs).codebook_usage == 1 / 16
    assert tokenizer.train()(inputs).codebook_usage > 0.8


def test_a_batch_smaller_than_the_codebook_still_starts_it():
    tokenizer = fmri_tokenizer(codebook_size=64).train()
    tokenizer(scans(1))  # 12 tokens
    codes = tokenizer.quantizer.codebooks[0].embedding
    assert torch.isfinite(codes).all()
    assert len(codes.unique(dim=0)) == 64
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(64))


@torch.no_grad()
def test_more_levels_come_closer_to_the_latents():
    errors = []
    for n_levels in (1, 2, 4):
        tokenizer = fmri_tokenizer(num_quantizers=n_levels).train()
        errors.append([tokenizer(scans(16)).commitment_loss.item() for _ in range(3)][-1])
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.7 * errors[1]


@torch.no_grad()
def test_masked_tokens_train_no_code():
    inputs, observed = scans(2), masks()
    books = []
    for filler in (0.0, 1.0):
        tokenizer = fmri_tokenizer(num_hidden_layers=0).train()
        with torch.no_grad():  # a change that reaches the latents of the missing ROI alone
            tokenizer.encoder.transformer.roi_embeddings.weight[1] += filler
        torch.manual_seed(0)
        observed["roi_mask"][:, 1] = False
        tokenizer(inputs, **observed)
        books.append(codebook_state(tokenizer))
    assert all(torch.equal(value, books[1][name]) for name, value in books[0].items())


# --- training -------------------------------------------------------------------------------------------------


def test_the_reconstruction_teaches_the_encoder_through_the_codes():
    tokenizer = fmri_tokenizer(commitment_loss_weight=0.0)
    tokenizer(scans(4)).loss.backward()
    for part in (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
    assert tokenizer.encoder.signal_projection.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize("features", [["signal"], BOTH], ids="+".join)
def test_training_lowers_the_loss(features):
    time = torch.arange(N_TIMEPOINTS) / 2
    inputs = torch.sin(time + torch.arange(N_ROIS)[:, None] + torch.rand(16, 1, 1) * 6)
    tokenizer = fmri_tokenizer(input_features=features, codebook_size=32, initializer_range=0.1)
    losses = train(tokenizer, inputs, steps=60)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert mse_loss(tokenizer(inputs).reconstruction, inputs) < inputs.var()


@pytest.mark.parametrize("precision", ["autocast", "bfloat16"])
def test_lower_precision(precision):
    tokenizer = fmri_tokenizer(input_features=BOTH, num_quantizers=2).train()
    if precision == "bfloat16":
        tokenizer.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        output = tokenizer(scans(4), **masks(4))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in tokenizer.parameters())


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        tokenizer = fmri_tokenizer(num_hidden_layers=2).train()
        if checkpointing:
            tokenizer.activation_checkpointing_enable()
        torch.manual_seed(0)
        tokenizer(scans(2)).loss.backward()
        gradients.append([parameter.grad for parameter in tokenizer.parameters()])
    torch.testing.assert_close(*gradients)


def test_alignment_tells_pairs_from_non_pairs():
    torch.manual_seed(0)
    inputs, texts = scans(6), torch.randn(6, 10)
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    untrained = tokenizer(inputs, text_embeds=texts)
    train(tokenizer, inputs, steps=60, text_embeds=texts)
    trained = tokenizer(inputs, text_embeds=texts)
    swapped = tokenizer(inputs, text_embeds=texts.roll(1, 0))
    assert trained.contrastive_loss < 0.5 * untrained.contrastive_loss
    assert trained.contrastive_loss < 0.5 * swapped.contrastive_loss
    parts = trained.reconstruction_loss + trained.commitment_loss + trained.contrastive_loss
    torch.testing.assert_close(trained.loss, parts + 0.5 * trained.domain_loss)


def test_the_domain_loss_teaches_the_classifier_and_the_encoder_opposite_things():
    tokenizer = fmri_tokenizer(text_embed_dim=10, initializer_range=0.1)
    inputs, texts = scans(4), torch.randn(4, 10, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return tokenizer(inputs, text_embeds=texts).domain_loss

    before = loss()
    before.backward()
    parts = {
        "classifier": list(tokenizer.alignment.domain_classifier.parameters()),
        "encoder": list(tokenizer.encoder.parameters()),
    }
    after = {}
    for name, parameters in parts.items():
        with torch.no_grad():
            for sign in (-1, 1):  # a step of descent, and back
                for parameter in parameters:
                    parameter += sign * 1e-3 * parameter.grad
                if sign == -1:
                    after[name] = loss()
    assert after["classifier"] < before < after["encoder"]


# --- storage --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    tokenizer = fmri_tokenizer(input_features=BOTH, num_quantizers=2, text_embed_dim=5).train()
    tokenizer(scans(4))
    tokenizer.eval().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, FmriTokenizer)
    assert not loaded.training
    state = tokenizer.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert loaded.quantizer.codebooks[1].initialized == 1
    for name, value in tokenizer(scans(2), **masks()).items():
        assert torch.equal(value, loaded(scans(2), **masks())[name]), name


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
    with pytest.raises(
        OSError, match="cannot be read: a safetensors file is corrupt or was cut short"
    ) as error:
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
    with pytest.raises(
        ValueError, match=r"`roi_mask` must have shape \(2, 6\), one row a scan, found \(1, 6\)"
    ):
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
    with pytest.raises(ValueError, match="`encoder_only`: its checkpoint holds neither codebook nor decoder"):
        tokenizer.decode(torch.zeros(2, 12, dtype=torch.long))


def test_codes_of_a_wrong_number_of_levels():
    with pytest.raises(
        ValueError, match=r"has 1 level\(s\), found shape \(2, 12\); expected \(batch, n_tokens, 3\)"
    ):
        fmri_tokenizer(num_quantizers=3).decode(torch.zeros(2, 12, dtype=torch.long))
    with pytest.raises(ValueError, match=r"has 2 level\(s\)"):
        fmri_tokenizer().decode(torch.zeros(2, 12, 2, dtype=torch.long))


def test_texts_without_alignment():
    with pytest.raises(ValueError, match="no `text_embed_dim`: set it to 10"):
        fmri_tokenizer()(scans(2), text_embeds=torch.randn(2, 10))


def test_the_saved_configuration_names_only_what_differs_from_the_defaults(tmp_path):
    FmriTokenizerConfig(n_rois=100).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["n_rois"] == 100
    assert written["model_type"] == "fmri_tokenizer"
