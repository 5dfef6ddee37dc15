"""Stage 1: what each part of the loss measures and teaches, and how its training begins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from small import fmri_tokenizer, masks, scans, texts, train
from torch.nn.functional import mse_loss, smooth_l1_loss
from transformers import AutoModelForPreTraining

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig
from fmri_lm_hf.models.objectives import connectivity_loss, coskewness_loss

N_ROIS, N_TIMEPOINTS = 6, 16
BOTH = ["signal", "connectivity"]


# --- the whole loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["rvq", "fsq"])
def test_the_parts_times_their_weights_are_the_loss(quantizer):
    weights = {
        "commitment_loss": 0.3,
        "connectivity_loss": 0.7,
        "coskewness_loss": 0.2,
        "contrastive_loss": 0.11,
        "domain_loss": 1.3,
    }
    codebooks = {"num_quantizers": 2} if quantizer == "rvq" else {"fsq_levels": [4, 3], "codebook_size": None}
    tokenizer = fmri_tokenizer(
        quantizer=quantizer,
        input_features=BOTH,
        text_embed_dim=10,
        **codebooks,
        **({} if quantizer == "rvq" else {"codebook_dim": None}),
        **{f"{name}_weight": value for name, value in weights.items()},
    )
    assert tokenizer.config.loss_weights == {"reconstruction_loss": 1.0, **weights}
    output = tokenizer(scans(4), **masks(4), text_embeds=texts(4))
    parts = {name: value for name, value in output.items() if name.endswith("_loss")}
    expected = set(tokenizer.config.loss_weights) - ({"commitment_loss"} if quantizer == "fsq" else set())
    assert parts.keys() == expected
    total = sum(tokenizer.config.loss_weights[name] * value for name, value in parts.items())
    torch.testing.assert_close(output.loss, total)
    assert all(value > 0 for value in parts.values())


def test_parts_without_weight_are_not_measured():
    output = fmri_tokenizer()(scans(2))
    assert [name for name in output if name.endswith("_loss")] == ["reconstruction_loss", "commitment_loss"]


@pytest.mark.parametrize("kind, measure", [("mse", mse_loss), ("smooth_l1", smooth_l1_loss)])
@torch.no_grad()
def test_reconstruction_counts_what_was_observed(kind, measure):
    inputs, observed = 3 * scans(2), masks()
    output = fmri_tokenizer(reconstruction_loss=kind)(inputs, **observed)
    seen = observed["roi_mask"][:, :, None] & observed["padding_mask"][:, None, :]
    of_scans = [measure(found[mask], given[mask]) for found, given, mask in zip(output.reconstruction, inputs, seen)]
    torch.testing.assert_close(output.reconstruction_loss, sum(of_scans) / 2)


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
            tokenizer.gradient_checkpointing_enable()  # the one name that Python 3.10 has, too
        torch.manual_seed(0)
        tokenizer(scans(2)).loss.backward()
        gradients.append([parameter.grad for parameter in tokenizer.parameters()])
    torch.testing.assert_close(*gradients)


def test_codebooks_wait_for_the_warm_up():
    tokenizer = fmri_tokenizer(codebook_warmup_steps=2, num_quantizers=2).train()
    books = tokenizer.quantizer.codebooks
    for _ in range(2):
        output = tokenizer(scans(4))
        assert output.fmri_codes is None
        assert output.codebook_usage is None
        assert output.commitment_loss == 0
        assert not any(book.initialized for book in books)
        assert tokenizer.eval()(scans(4)).fmri_codes is not None  # what the tokenizer would say now
        tokenizer.train()
    output = tokenizer(scans(4))
    assert output.fmri_codes is not None
    assert all(book.initialized for book in books)
    assert output.commitment_loss > 0
    assert int(tokenizer.steps.done) == 3  # evaluation is no step


def test_steps_go_on_after_loading(tmp_path):
    tokenizer = fmri_tokenizer(codebook_warmup_steps=3).train()
    for _ in range(2):
        tokenizer(scans(4))
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path).train()
    assert loaded(scans(4)).fmri_codes is None
    assert loaded(scans(4)).fmri_codes is not None


# --- moments of the reconstructed signal ----------------------------------------------------------------------


def pairs_of(first: np.ndarray, second: np.ndarray, moment) -> float:
    """Mean squared difference of a moment over pairs of different ROIs, written out."""
    found = [
        (moment(first[i], first[j]) - moment(second[i], second[j])) ** 2
        for i in range(len(first))
        for j in range(len(first))
        if i != j
    ]
    return float(np.mean(found))


def z(series: np.ndarray) -> np.ndarray:
    return (series - series.mean()) / series.std()


@pytest.mark.parametrize(
    "measure, moment",
    [
        (connectivity_loss, lambda x, y: np.mean(z(x) * z(y))),
        (coskewness_loss, lambda x, y: np.mean(z(x) ** 2 * z(y))),
    ],
    ids=["connectivity", "coskewness"],
)
def test_moments_over_what_was_observed(measure, moment):
    given, rebuilt, observed = scans(2).exp(), scans(2, seed=1).exp(), masks()
    kept = [0, 2, 3, 4, 5]
    of_each = [
        pairs_of(rebuilt[0].numpy(), given[0].numpy(), moment),
        pairs_of(rebuilt[1, kept, :11].numpy(), given[1, kept, :11].numpy(), moment),
    ]
    expected = np.mean(of_each)
    assert measure(rebuilt, given, **observed).item() == pytest.approx(expected, rel=1e-4)
    assert measure(2 * given + 1, given, **observed).item() == pytest.approx(0, abs=1e-9)
    single = torch.zeros(2, N_ROIS, dtype=torch.bool)
    single[:, 0] = True
    assert measure(rebuilt, given, single, observed["padding_mask"]) == 0


@pytest.mark.parametrize("name", ["connectivity_loss", "coskewness_loss"])
def test_a_weight_on_moments_brings_them_closer(name):
    found = []
    for weight in (0.0, 20.0):
        tokenizer = fmri_tokenizer(codebook_size=64, **{f"{name}_weight": weight})
        inputs = scans(8).exp()
        train(tokenizer, inputs, steps=120)
        measure = {"connectivity_loss": connectivity_loss, "coskewness_loss": coskewness_loss}[name]
        observed = tokenizer.complete_masks(8, None, None, inputs.device)
        found.append(measure(tokenizer(inputs).reconstruction, inputs, *observed).item())
    assert found[1] < 0.7 * found[0]


# --- storage and refusals -------------------------------------------------------------------------------------


def test_every_parameter_has_a_dimension():
    # FSDP2 refuses to shard a scalar
    tokenizer = fmri_tokenizer(text_embed_dim=10, pooling="attention")
    assert [name for name, value in tokenizer.named_parameters() if value.ndim == 0] == []


@pytest.mark.parametrize("kind, scale", [("clip", math.log(1 / 0.07)), ("soft_siglip", math.log(10))])
def test_temperature_and_bias_begin_as_published(kind, scale):
    alignment = fmri_tokenizer(text_embed_dim=10, contrastive_loss=kind).alignment
    assert alignment.logit_scale.tolist() == pytest.approx([scale])
    assert (alignment.logit_bias is None) == (kind == "clip")
    if alignment.logit_bias is not None:
        assert alignment.logit_bias.tolist() == [-10]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"reconstruction_loss": "l1"}, r"must be one of \['mse', 'smooth_l1'\], got 'l1'"),
        ({"contrastive_loss": "nce"}, r"\['clip', 'soft_clip', 'siglip', 'soft_siglip'\], got 'nce'"),
        ({"pooling": "max"}, r"must be one of \['mean', 'cls', 'attention'\], got 'max'"),
        ({"domain_loss_weight": -1.0}, "`domain_loss_weight` must not be negative, got -1.0"),
        ({"domain_ramp_steps": -1}, "`domain_ramp_steps` must not be negative, got -1"),
        ({"soft_target_temperature": 0}, "`soft_target_temperature` must be above 0, got 0"),
        (
            {"coskewness_loss_weight": 0.1, "input_features": ["connectivity"]},
            "`coskewness_loss_weight` is about a reconstructed signal: add 'signal' to `input_features`",
        ),
    ],
)
def test_objectives_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        FmriTokenizerConfig(**fields)


def test_a_tokenizer_alone_has_no_loss():
    tokenizer = FmriTokenizer(fmri_tokenizer(text_embed_dim=10).config)
    assert "loss" not in tokenizer(scans(1))
    assert not hasattr(tokenizer, "alignment")
