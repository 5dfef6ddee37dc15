"""Quantizers: codes and what they stand for, codebooks that stay in use, latent tokens in place of ROIs."""

from __future__ import annotations

import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from small import fmri_tokenizer, masks, scans
from transformers import AutoModel

from fmri_lm_hf import FmriTokenizer, FmriTokenizerConfig
from fmri_lm_hf.models import quantizers as quantizer_vq
from fmri_lm_hf.models.fmri_transformer import PositionalAttention
from fmri_lm_hf.models.quantizers import FiniteScalarQuantizer

N_ROIS, N_PATCHES = 6, 2
BOTH = ["signal", "connectivity"]
FSQ_LEVELS = [4, 3, 5]
OF_CODEBOOKS = {"codebook_size": 8, "codebook_dim": 4}
QUANTIZERS = {
    "vq": {"quantizer": "vq", **OF_CODEBOOKS},
    "rvq": {"quantizer": "rvq", "num_quantizers": 3, **OF_CODEBOOKS},
    "fsq": {"quantizer": "fsq", "fsq_levels": FSQ_LEVELS, "codebook_size": None, "codebook_dim": None},
    "fsq, two codes": {
        "quantizer": "fsq",
        "fsq_levels": FSQ_LEVELS,
        "num_quantizers": 2,
        "codebook_size": None,
        "codebook_dim": None,
    },
    "titok": {"quantizer": "titok", "num_latent_tokens": 3, "num_quantizers": 2, **OF_CODEBOOKS},
    "titok, rounded": {
        "quantizer": "titok",
        "num_latent_tokens": 3,
        "fsq_levels": FSQ_LEVELS,
        "codebook_size": None,
        "codebook_dim": None,
    },
}


@pytest.fixture(params=QUANTIZERS)
def kind(request) -> dict:
    return QUANTIZERS[request.param]


# --- what holds of every quantizer ----------------------------------------------------------------------------


@torch.no_grad()
def test_codes_are_all_that_the_decoder_needs(kind):
    tokenizer = fmri_tokenizer(input_features=BOTH, **kind).train()
    tokenizer(scans(8))
    tokenizer.eval()
    config, inputs = tokenizer.config, scans(3)
    n_tokens = config.num_latent_tokens or N_ROIS * N_PATCHES
    encoded, output = tokenizer.encode(inputs), tokenizer(inputs)
    stages = (config.num_quantizers,) if config.num_quantizers > 1 else ()
    assert encoded.fmri_codes.shape == (3, n_tokens, *stages)
    assert encoded.embeddings.shape == (3, n_tokens, 16)
    assert encoded.token_mask.shape == (3, n_tokens)
    assert config.n_tokens == n_tokens == sum(config.block_sizes)
    assert 0 <= encoded.fmri_codes.min() <= encoded.fmri_codes.max() < config.codebook_size
    torch.testing.assert_close(tokenizer.quantizer.from_codes(encoded.fmri_codes), encoded.quantized)
    decoded = tokenizer.decode(encoded.fmri_codes)
    torch.testing.assert_close(decoded.reconstruction, output.reconstruction)
    torch.testing.assert_close(decoded.connectivity, output.connectivity)
    assert decoded.reconstruction.shape == inputs.shape
    other = tokenizer.decode((encoded.fmri_codes + 1) % config.codebook_size)
    assert not torch.allclose(other.reconstruction, decoded.reconstruction)


@torch.no_grad()
def test_codes_and_reconstruction_survive_saving(kind, tmp_path):
    tokenizer = fmri_tokenizer(**kind).train()
    tokenizer(scans(4))
    tokenizer.eval().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FmriTokenizer
    before, after = tokenizer.without_objectives()(scans(2), **masks()), loaded(scans(2), **masks())
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    torch.testing.assert_close(tokenizer(scans(2), **masks()).reconstruction, after.reconstruction)


def test_evaluation_changes_no_state(kind):
    tokenizer = fmri_tokenizer(**kind)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer(scans(2)).loss.backward()
    tokenizer.encode(scans(2))
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


def test_the_reconstruction_teaches_the_encoder_through_the_codes(kind):
    tokenizer = fmri_tokenizer(commitment_loss_weight=0.0, **kind)
    tokenizer(scans(4)).loss.backward()
    for part in (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
    assert tokenizer.encoder.signal_projection.weight.grad.abs().max() > 1e-6


def test_training_lowers_the_reconstruction_loss(kind):
    time = torch.arange(16) / 2
    inputs = torch.sin(time + torch.arange(N_ROIS)[:, None] + torch.rand(16, 1, 1) * 6)
    kind = kind | ({"num_latent_tokens": 8} if "num_latent_tokens" in kind else {})
    tokenizer = fmri_tokenizer(initializer_range=0.1, **kind).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(160):
        output = tokenizer(inputs)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.reconstruction_loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_statistics_of_codes():
    tokenizer = fmri_tokenizer(quantizer="rvq", num_quantizers=2, **OF_CODEBOOKS)
    codes = torch.tensor([[[0, 5], [1, 5], [2, 5], [3, 5]], [[0, 5], [1, 5], [2, 7], [7, 7]]])
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False
    found = tokenizer.code_statistics(codes, mask)
    assert (found.used, found.dead) == ((4, 1), (4, 7))
    shares = torch.tensor([2, 2, 1, 1]) / 6
    assert found.perplexity == pytest.approx((float((-shares * shares.log()).sum().exp()), 1.0))
    assert tokenizer.code_statistics(codes).used == (5, 2)
    with pytest.raises(ValueError, match="`encoder_only` and has no codes to count"):
        fmri_tokenizer(encoder_only=True).code_statistics(codes)


@torch.no_grad()
def test_the_output_reports_the_use_of_codes():
    tokenizer = fmri_tokenizer(quantizer="rvq", num_quantizers=2, **OF_CODEBOOKS).train()
    output = tokenizer(scans(4), **masks(4))
    token_mask = tokenizer.encode(scans(4), **masks(4)).token_mask
    found = tokenizer.code_statistics(output.fmri_codes, token_mask)
    assert output.codebook_usage == pytest.approx(sum(found.used) / 16)
    assert output.codebook_perplexity == pytest.approx(sum(found.perplexity) / 2)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"quantizer": "lfq"}, r"`quantizer` must be one of \['vq', 'rvq', 'fsq', 'titok'\], got 'lfq'"),
        (
            {"quantizer": "vq", "num_quantizers": 4},
            r"`quantizer='vq'` has one code for a token, got `num_quantizers=4`",
        ),
        ({"quantizer": "fsq"}, "`fsq_levels` must hold .* got None and 'fsq'"),
        ({"fsq_levels": [8, 8]}, r"`fsq_levels` must hold .* got \[8, 8\] and 'vq'"),
        ({"quantizer": "fsq", "fsq_levels": [8, 1]}, r"at least 2, .* got \[8, 1\]"),
        (
            {"quantizer": "fsq", "fsq_levels": [8, 5], "codebook_size": 512},
            "follow from `fsq_levels` and `num_quantizers`, 40 and 2: leave them out, got 512 and 2",
        ),
        ({"quantizer": "titok"}, "`num_latent_tokens` must be at least 1 .* got None and 'titok'"),
        ({"quantizer": "titok", "num_latent_tokens": 0}, "must be at least 1 .* got 0 and 'titok'"),
        ({"num_latent_tokens": 32}, "left out with any other, got 32 and 'vq'"),
        ({"codebook_decay": 1.0}, "`codebook_decay` must be from 0 to below 1, got 1.0"),
        ({"codebook_warmup_steps": -1}, "`codebook_warmup_steps` must not be negative, got -1"),
    ],
)
def test_configurations_of_quantizers_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        FmriTokenizerConfig(**fields)


def test_what_is_not_given_follows_from_the_quantizer():
    assert FmriTokenizerConfig().quantizer == "vq"
    assert FmriTokenizerConfig(num_quantizers=4).quantizer == "rvq"  # as recipes before 0.2 have it
    config = FmriTokenizerConfig()
    assert (config.codebook_size, config.codebook_dim) == (8192, 128)
    config = FmriTokenizerConfig(quantizer="fsq", fsq_levels=[8, 8, 8, 6, 5])
    assert (config.codebook_size, config.codebook_dim) == (15360, 5)
    several = FmriTokenizerConfig(quantizer="fsq", fsq_levels=[8, 5, 5, 5], num_quantizers=3)
    assert (several.codebook_size, several.codebook_dim) == (1000, 12)
    assert FmriTokenizerConfig(**config.to_dict()).to_dict() == config.to_dict()


# --- finite scalar quantization -------------------------------------------------------------------------------


def test_codes_and_levels_are_one_to_one():
    quantizer = fmri_tokenizer(**QUANTIZERS["fsq"]).quantizer
    codes = torch.arange(60)
    levels = quantizer.levels_from_codes(codes)
    assert {tuple(each) for each in levels.tolist()} == set(itertools.product(*map(range, FSQ_LEVELS)))
    assert torch.equal(quantizer.codes_from_levels(levels), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_every_level_is_reached_and_nothing_else(dtype):
    config = FmriTokenizerConfig(hidden_size=4, num_attention_heads=1, quantizer="fsq", fsq_levels=[2, 3, 4, 5, 8])
    quantizer = FiniteScalarQuantizer(config).to(dtype)
    quantizer.head = torch.nn.Sequential(torch.nn.Identity())
    quantizer.head.append(torch.nn.Identity())
    quantizer.head[-1].weight = torch.zeros(1, dtype=dtype)
    values = torch.linspace(-9, 9, 400, dtype=dtype)[:, None].expand(-1, 5)[None]
    latents, quantized, codes = quantizer(values, torch.ones(1, 400, dtype=torch.bool))
    levels = quantizer.levels_from_codes(codes)[0]
    for dimension, count in enumerate((2, 3, 4, 5, 8)):
        assert levels[:, dimension].unique().tolist() == list(range(count))
        assert (levels[1:, dimension] >= levels[:-1, dimension]).all()
    assert (latents - quantized).abs().max() <= 0.5 + 0.02  # a half of a cell, where cells are largest
    assert torch.equal(quantizer.from_codes(codes), quantized)
    assert quantized.abs().max() == 1


def test_nothing_draws_the_encoder_to_rounded_values():
    output = fmri_tokenizer(**QUANTIZERS["fsq"])(scans(2))
    assert output.commitment_loss is None
    assert output.loss == output.reconstruction_loss


# --- latent tokens --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_latents_see_every_roi_and_every_patch_in_its_order():
    tokenizer = fmri_tokenizer(**QUANTIZERS["titok"])
    inputs = scans(1)
    before = tokenizer.encode(inputs).embeddings
    changed = inputs.clone()
    changed[0, 4, 3] += 2
    assert ((tokenizer.encode(changed).embeddings - before).abs().amax(-1) > 1e-4).all()
    swapped = torch.cat([inputs[..., 8:], inputs[..., :8]], dim=-1)
    assert ((tokenizer.encode(swapped).embeddings - before).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("n_latents, n_heads", [(2, 2), (5, 4), (20, 1)])
@pytest.mark.parametrize("of_latents", [True, False])
@torch.no_grad()
def test_latents_begin_with_a_look_at_every_place_of_the_grid(n_latents, n_heads, of_latents):
    config = fmri_tokenizer(
        quantizer="titok", num_latent_tokens=n_latents, num_attention_heads=n_heads, hidden_size=16
    ).config
    glance = PositionalAttention(config, of_latents)
    glance.init_weights()
    weights, looked_at = glance.weights(), glance.logits > 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    alone = looked_at.sum(-1) == 1
    assert weights[looked_at & alone[..., None]].tolist() == pytest.approx([0.9] * int(alone.sum()))
    if not of_latents:
        looked_at = looked_at.transpose(1, 2)
    assert looked_at.any((0, 1)).all()  # every place by some head of some latent
    assert looked_at.any(2).all()  # every head of every latent at something
    if n_latents * n_heads <= N_ROIS * N_PATCHES:
        assert (looked_at.sum((0, 1)) == 1).all()  # no two at the same place


@torch.no_grad()
def test_a_glance_sees_what_the_mask_shows_and_nothing_else():
    glance = fmri_tokenizer(**QUANTIZERS["titok"]).encoder.latent_tokens.glance
    tokens, mask = torch.randn(2, N_ROIS * N_PATCHES, 16), torch.ones(2, N_ROIS * N_PATCHES, dtype=torch.bool)
    mask[1, 3:] = False
    changed = tokens.clone()
    changed[1, 3:] = 1e6
    assert torch.equal(glance(tokens, mask), glance(changed, mask))
    assert not torch.allclose(glance(tokens, mask)[1], glance(tokens)[1])
    torch.testing.assert_close(glance(tokens, mask)[0], glance(tokens)[0])


@torch.no_grad()
def test_attention_of_latents_sums_to_one_over_what_was_observed():
    tokenizer = fmri_tokenizer(num_hidden_layers=3, **QUANTIZERS["titok"])
    shares = tokenizer.roi_attention(scans(2), **masks())
    assert shares.shape == (2, 3, N_ROIS, N_PATCHES)
    torch.testing.assert_close(shares.sum((-1, -2)), torch.ones(2, 3))
    assert not shares[1, :, 1].any()
    assert (shares[0] > 0).all()
    padded = masks()
    padded["padding_mask"][1, 8:] = False
    assert not tokenizer.roi_attention(scans(2), **padded)[1, ..., 1].any()
    with pytest.raises(ValueError, match="'rvq'` stand for one ROI each"):
        fmri_tokenizer(**QUANTIZERS["rvq"]).roi_attention(scans(1))


@torch.no_grad()
def test_attention_names_the_roi_that_a_latent_reads():
    # latent i glances at ROI 2 i and asks for it, and nothing else reaches it
    tokenizer = fmri_tokenizer(**QUANTIZERS["titok"], hidden_size=32, num_attention_heads=1, initializer_range=0.02)
    encoder = tokenizer.encoder
    layer = encoder.transformer.layers[0]
    glance = encoder.latent_tokens.glance.logits.zero_()
    for latent in range(3):
        glance[:, latent, 2 * latent :: N_ROIS] = 30
    codes = torch.nn.functional.one_hot(torch.arange(N_ROIS), 16).float() * 30
    encoder.transformer.roi_embeddings.weight.zero_()[:, :16] = codes
    encoder.latent_tokens.latents.weight.zero_()[:, 16:] = codes[::2]
    for parameter in encoder.latent_tokens.glance.proj.parameters():
        parameter.zero_()  # what is seen at a glance changes nothing that a latent asks for
    layer.attention.qkv.weight.zero_()
    inputs = scans(1)
    # a glance alone: of two halves, the layer looks at everything alike
    of_a_glance = tokenizer.roi_attention(inputs)[0].sum(-1)
    assert of_a_glance.argmax(-1).tolist() == [0, 2, 4]
    assert (of_a_glance.amax(-1) > 0.4).all()
    layer.attention.qkv.weight[:16, 16:] = 5 * torch.eye(16)  # queries of latents
    layer.attention.qkv.weight[32:48, :16] = 5 * torch.eye(16)  # keys of ROIs
    shares = tokenizer.roi_attention(inputs)[0].sum(-1)
    assert shares.argmax(-1).tolist() == [0, 2, 4]
    assert (shares.amax(-1) > 0.95).all()


# --- codebooks ------------------------------------------------------------------------------------------------


def codebook_state(tokenizer: FmriTokenizer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tokenizer.quantizer.codebooks.state_dict().items()}


def test_the_codebook_changes_in_training_mode_only():
    tokenizer = fmri_tokenizer(num_quantizers=2)
    before = codebook_state(tokenizer)
    tokenizer.train()
    tokenizer(scans(2))
    assert not any(torch.equal(value, before[name]) for name, value in codebook_state(tokenizer).items())


@pytest.mark.parametrize("most", [1, 7, 8 * 5])
def test_the_nearest_code_is_found_in_parts_as_in_one(monkeypatch, most):
    book = fmri_tokenizer().quantizer.codebooks[0]
    latents = torch.randn(3, 11, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(quantizer_vq, "MAX_DISTANCES", most)
    expected = torch.cdist(latents.flatten(0, 1), book.embedding).argmin(-1).view(3, 11)
    assert torch.equal(book.nearest(latents), expected)


def test_memory_of_the_search_does_not_grow_with_the_batch(monkeypatch):
    book = fmri_tokenizer().quantizer.codebooks[0]
    held = []
    monkeypatch.setattr(
        torch.Tensor, "argmin", lambda distances, _: held.append(distances.numel()) or distances.min(-1)[1]
    )
    monkeypatch.setattr(quantizer_vq, "MAX_DISTANCES", 8 * 16)
    for n in (16, 1000):
        book.nearest(torch.randn(n, 4))
    assert max(held) == 8 * 16


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
    tokenizer.train()(inputs)  # codes move behind the look-up
    assert tokenizer(inputs).codebook_usage > 0.8


def test_codes_in_use_are_left_alone_and_unused_ones_wait():
    tokenizer = fmri_tokenizer(codebook_size=16).train()
    tokenizer(scans(8))
    book = tokenizer.quantizer.codebooks[0]
    book.embedding_sum[3] = 100.0  # far away from now on
    book.embedding[3] = book._project(torch.full((4,), 1.0))
    latents = -torch.rand(64, 4)
    moved = []
    for _ in range(60):
        before = book.embedding.clone()
        book.update(latents)
        moved.append(bool((book.embedding[3] - before[3]).norm() > 0.5))
    assert moved.index(True) > 5  # it decays first
    assert book.embedding[3].max() < 0  # then lies among the latents


def test_codes_follow_an_encoder_that_moves():
    # a hundred steps in which latents wander away from where the codebook began
    tokenizer = fmri_tokenizer(codebook_size=64, codebook_dim=8).train()
    book = tokenizer.quantizer.codebooks[0]
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 1, 8, generator=generator)
    for step in range(100):
        centre = torch.lerp(start, end, step / 100)
        noise = 0.3 * torch.randn(512, 8, generator=generator)
        latents = torch.nn.functional.normalize(centre + noise, dim=-1)
        book.update(latents)
    assert len(book.nearest(latents).unique()) > 0.7 * 64


def test_a_batch_smaller_than_the_codebook_still_starts_it():
    tokenizer = fmri_tokenizer(codebook_size=64).train()
    tokenizer(scans(1))  # 12 tokens
    codes = tokenizer.quantizer.codebooks[0].embedding
    assert torch.isfinite(codes).all()
    assert len(codes.unique(dim=0)) == 64
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(64))


@torch.no_grad()
def test_more_stages_come_closer_to_the_latents():
    errors = []
    for n_stages in (1, 2, 4):
        tokenizer = fmri_tokenizer(num_quantizers=n_stages).train()
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
