"""Alignment of scans with texts: contrastive losses, pooling, scans and texts as domains, retrieval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from small import fmri_tokenizer, masks, scans, texts, train

from fmri_lm_hf import FmriTokenizerForPreTraining
from fmri_lm_hf.models.objectives import contrastive_loss, domain_ramp

N_TIMEPOINTS = 16
BOTH = ["signal", "connectivity"]
KINDS = ["clip", "soft_clip", "siglip", "soft_siglip"]
POOLINGS = ["mean", "cls", "attention"]


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
    with pytest.raises(ValueError, match="`k` must be from 1 to the number of candidates, 5, got 6"):
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
    torch.testing.assert_close(apart, hard(scans(4), text_embeds=described).contrastive_loss, rtol=1e-2, atol=1e-3)


def test_what_a_text_names_may_be_no_linear_function_of_a_scan():
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    tokenizer(scans(4), text_embeds=texts(4)).loss.backward()
    last = tokenizer.alignment.refinement[-1]
    assert last.weight.grad.abs().max() > 0
    before = tokenizer.embed_scans(scans(4))
    with torch.no_grad():
        last.weight.normal_()
    assert not torch.allclose(tokenizer.embed_scans(scans(4)), before, atol=1e-2)


@torch.no_grad()
def test_texts_are_whitened_by_training_texts_and_it_is_kept(tmp_path):
    tokenizer = fmri_tokenizer(text_embed_dim=10)
    # what they share, how they are worded (large) and what they say (small)
    described = texts(400) * torch.tensor([30.0] * 3 + [1.0] * 7) + 100
    assert (tokenizer.embed_texts(described) @ tokenizer.embed_texts(described).T).min() > 0.5
    tokenizer.fit_texts(described)
    tokenizer.save_pretrained(tmp_path)
    loaded = FmriTokenizerForPreTraining.from_pretrained(tmp_path)
    found = loaded.embed_texts(described)
    assert torch.equal(found, tokenizer.embed_texts(described))
    # directions count in proportion to 1 / sqrt(variance + a tenth of the mean variance)
    variances = described.var(0, unbiased=False)
    expected = (variances / (variances + variances.mean() / 10)).sqrt()
    whitened = (described - loaded.alignment.text_mean) @ loaded.alignment.text_whitening
    torch.testing.assert_close(whitened.std(0), expected, rtol=0.1, atol=0)
    torch.testing.assert_close(found, torch.nn.functional.normalize(whitened, dim=-1))
    halved = loaded.to(torch.bfloat16).embed_texts(described)
    assert halved.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(halved.float(), found).min() > 0.99
    # texts that do not differ, or a single one, leave no direction without a scale
    tokenizer.fit_texts(described[:1])
    assert torch.isfinite(tokenizer.alignment.text_whitening).all()


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
    assert all(each.grad.abs().max() > 0 for each in tokenizer.alignment.pooling.parameters() if each.shape != (1,))


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
