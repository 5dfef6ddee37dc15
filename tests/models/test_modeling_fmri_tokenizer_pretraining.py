"""Stage 1: what each part of the loss measures and teaches, and retrieval of descriptions by scans and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.special import log_softmax
from small import fmri_tokenizer, masks, scans
from torch.nn.functional import mse_loss, smooth_l1_loss
from transformers import AutoModelForPreTraining

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig, FmriTokenizerForPreTraining
from fmri_lm_hf.models.objectives import connectivity_loss, contrastive_loss, coskewness_loss, domain_ramp

N_ROIS, N_TIMEPOINTS = 6, 16
BOTH = ["signal", "connectivity"]
KINDS = ["clip", "soft_clip", "siglip", "soft_siglip"]
POOLINGS = ["mean", "cls", "attention"]


def texts(n: int, size: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


def train(tokenizer: FmriTokenizerForPreTraining, inputs: torch.Tensor, steps: int, **kwargs) -> list[float]:
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
    torch.testing.assert_close(output.reconstruction_loss, measure(output.reconstruction[seen], inputs[seen]))


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
    expected = np.average(of_each, weights=[30, 20])
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


# --- alignment with texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_contrastive_losses_as_written(kind):
    n, temperature = 3, 0.5
    logits = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(texts(n).double(), dim=-1)
    likeness = unit @ unit.T
    targets = np.eye(n)
    if kind.startswith("soft"):
        targets = np.exp((likeness.numpy() - 1) / temperature)
    values = logits.numpy()
    if kind.endswith("siglip"):
        share = 1 / (1 + np.exp(-values))
        expected = -(targets * np.log(share) + (1 - targets) * np.log(1 - share)).sum(1).mean()
    else:
        shares = targets / targets.sum(1, keepdims=True)
        both = [-(shares * log_softmax(each, axis=1)).sum(1).mean() for each in (values, values.T)]
        expected = np.mean(both)
    found = contrastive_loss(logits, kind, likeness, temperature)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_tells_pairs_from_non_pairs(kind):
    torch.manual_seed(0)
    inputs, described = scans(6), texts(6)
    tokenizer = fmri_tokenizer(text_embed_dim=10, contrastive_loss=kind)
    untrained = tokenizer(inputs, text_embeds=described)
    before = tokenizer.alignment.logit_scale.item()
    train(tokenizer, inputs, steps=60, text_embeds=described)
    trained = tokenizer(inputs, text_embeds=described)
    swapped = tokenizer(inputs, text_embeds=described.roll(1, 0))
    # the soft forms have a floor: the entropy of their targets
    assert trained.contrastive_loss < 0.6 * untrained.contrastive_loss
    assert trained.contrastive_loss < 0.6 * swapped.contrastive_loss
    assert tokenizer.alignment.logit_scale.item() != before
    found = tokenizer.embed_scans(inputs), tokenizer.embed_texts(described)
    _, indices = tokenizer.retrieve_texts(*found)
    assert indices[:, 0].tolist() == list(range(6))
    assert tokenizer.retrieve_scans(*found[::-1])[1][:, 0].tolist() == list(range(6))


@torch.no_grad()
def test_retrieval_ranks_by_cosine():
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    found = tokenizer.embed_scans(scans(3), **masks(3)), tokenizer.embed_texts(texts(5))
    torch.testing.assert_close(found[0].norm(dim=-1), torch.ones(3))
    cosines, indices = tokenizer.retrieve_texts(*found, k=5)
    assert (cosines[:, 1:] <= cosines[:, :-1]).all()
    assert indices.sort(-1).values.tolist() == [list(range(5))] * 3
    torch.testing.assert_close(cosines, (found[0] @ found[1].T).gather(1, indices))
    with pytest.raises(ValueError, match="`k` must be from 1 to the 5 there are to choose from, got 6"):
        tokenizer.retrieve_texts(*found, k=6)


def test_texts_without_alignment():
    tokenizer = fmri_tokenizer()
    for call in (
        lambda: tokenizer(scans(2), text_embeds=texts(2)),
        lambda: tokenizer.embed_texts(texts(2)),
    ):
        with pytest.raises(ValueError, match="no `text_embed_dim`: set it to 10 to align"):
            call()
    with pytest.raises(ValueError, match="no `text_embed_dim`: set it to the size of the text embeddings"):
        tokenizer.embed_scans(scans(2))


def test_soft_targets_come_from_descriptors_where_they_are_given():
    tokenizer = fmri_tokenizer(text_embed_dim=10, contrastive_loss="soft_siglip")
    described = texts(4)

    def loss(**more) -> torch.Tensor:
        return tokenizer(scans(4), text_embeds=described, **more).contrastive_loss

    torch.testing.assert_close(loss(descriptors=described), loss())
    assert not torch.allclose(loss(descriptors=texts(4, 23, seed=1)), loss())
    # of scans with nothing in common, only the own text is right
    apart = loss(descriptors=torch.eye(4) * 2 - 1)
    hard = fmri_tokenizer(text_embed_dim=10, contrastive_loss="siglip")
    torch.testing.assert_close(
        apart, hard(scans(4), text_embeds=described).contrastive_loss, rtol=1e-2, atol=1e-3
    )


@torch.no_grad()
def test_the_mean_of_training_texts_is_taken_off_and_kept(tmp_path):
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    described = texts(6) + 100
    assert (tokenizer.embed_texts(described) @ tokenizer.embed_texts(described).T).min() > 0.99
    tokenizer.fit_text_mean(described)
    tokenizer.save_pretrained(tmp_path)
    loaded = FmriTokenizerForPreTraining.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.alignment.text_mean, described.mean(0))
    found = loaded.embed_texts(described[:3])
    expected = torch.nn.functional.normalize(described[:3] - described.mean(0), dim=-1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_a_pooled_scan_sees_what_was_observed_alone(pooling):
    tokenizer = fmri_tokenizer(text_embed_dim=10, pooling=pooling)
    inputs = scans(2)
    changed = inputs.clone()
    changed[1, 1], changed[1, :, 11:] = 7.0, float("nan")
    before = tokenizer.embed_scans(inputs, **masks())
    assert torch.equal(tokenizer.embed_scans(changed, **masks()), before)
    changed = inputs.clone()
    changed[1, 2] += torch.randn(N_TIMEPOINTS, generator=torch.Generator().manual_seed(1))
    differs = (tokenizer.embed_scans(changed, **masks()) - before).abs().amax(-1) > 1e-4
    assert differs.tolist() == [False, True]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_trained_and_changes_no_token(pooling):
    tokenizer = fmri_tokenizer(text_embed_dim=10, pooling=pooling, input_features=BOTH)
    output = tokenizer(scans(4), **masks(4), text_embeds=texts(4))
    plain = tokenizer.without_objectives().encode(scans(4), **masks(4))
    # of tokens that are seen: what a missing one becomes is read by nobody
    seen = plain.token_mask
    torch.testing.assert_close(output.embeddings[seen], plain.embeddings[seen])
    assert torch.equal(output.fmri_codes[seen], plain.fmri_codes[seen])
    output.contrastive_loss.backward()
    assert all(
        each.grad.abs().max() > 0 for each in tokenizer.alignment.pooling.parameters() if each.shape != (1,)
    )


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@torch.no_grad()
def test_a_pooled_scan_is_a_mean_of_the_tokens_that_are_seen(pooling):
    tokenizer = fmri_tokenizer(text_embed_dim=10, pooling=pooling)
    encoded, means = tokenizer.encode(scans(2), **masks()), []
    for embeddings, seen in zip(encoded.embeddings, encoded.token_mask):
        weights = torch.full((int(seen.sum()), 1), 1 / seen.sum())
        if pooling == "attention":
            weights = tokenizer.alignment.pooling.score(embeddings[seen]).softmax(0)
        means.append((embeddings[seen] * weights).sum(0))
    expected = tokenizer.alignment.scans(torch.stack(means))
    torch.testing.assert_close(tokenizer.embed_scans(scans(2), **masks()), expected)


# --- scans and texts as domains -------------------------------------------------------------------------------


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


def test_tokens_of_scans_are_told_from_tokens_of_texts_where_these_are_given():
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    inputs, words = scans(2), texts(14).view(2, 7, 10)
    output = tokenizer(inputs, **masks(), text_embeds=texts(2), text_token_embeds=words)
    encoded, alignment = tokenizer.encode(inputs, **masks()), tokenizer.alignment
    vectors = alignment.scans(encoded.embeddings[encoded.token_mask])
    unit = torch.nn.functional.normalize(words.flatten(0, 1), dim=-1)
    torch.testing.assert_close(output.domain_loss, alignment.domain(vectors, unit))
    guess = alignment.domain_classifier
    expected = (-guess(vectors).sigmoid().log().mean() - (-guess(unit)).sigmoid().log().mean()) / 2
    torch.testing.assert_close(output.domain_loss, expected)
    alone = tokenizer(inputs, **masks(), text_embeds=texts(2))
    assert not torch.allclose(alone.domain_loss, output.domain_loss)
    assert torch.equal(alone.contrastive_loss, output.contrastive_loss)


def test_the_reversed_gradient_grows():
    assert [domain_ramp(step, 0) for step in (0, 5)] == [1.0, 1.0]
    assert domain_ramp(0, 10) == 0
    assert domain_ramp(5, 10) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert domain_ramp(1000, 10) == domain_ramp(10, 10) > 0.999
    tokenizer = fmri_tokenizer(text_embed_dim=10, domain_ramp_steps=10).train()
    sizes = []
    for step in (0, 2, 10):
        tokenizer.steps.done.fill_(step)
        tokenizer.zero_grad()
        tokenizer(scans(4), text_embeds=texts(4)).domain_loss.backward()
        sizes.append(tokenizer.encoder.signal_projection.weight.grad.norm().item())
    assert sizes[0] == 0
    assert 0 < sizes[1] < sizes[2]


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
