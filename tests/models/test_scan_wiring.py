"""What reaches the layers, against loops written without the package: order of tokens, positions, masks, padding."""

from __future__ import annotations

import math

import pytest
import torch
from hub import tiny
from small import FMRI, close, fmri_tokenizer, language_model

from fmri_lm_hf.models.fmri_transformer import connectivity_profiles
from fmri_lm_hf.models.objectives import connectivity_loss, coskewness_loss

N_ROIS, N_TIMEPOINTS, PATCH_SIZE = tiny.N_ROIS, tiny.N_TIMEPOINTS, 4
N_PATCHES = N_TIMEPOINTS // PATCH_SIZE  # more than two, so that a first and a last one are not all there is
ROI_NETWORKS = [0, 0, 1, 1, 2, 2]
N_OBSERVED = 11


def inputs_of(model, **inputs) -> dict[str, torch.Tensor]:
    """What the language model is called with."""
    found = {}

    def keep(module, args, kwargs):
        found.update(kwargs)

    with model.language_model.register_forward_pre_hook(keep, with_kwargs=True), torch.no_grad():
        model(**inputs)
    return found


def scans_with_offset(n: int, seed: int = 0) -> torch.Tensor:
    """(n, n_rois, n_timepoints), correlated, with means far from zero: zeros that are counted change correlations."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 1, N_TIMEPOINTS, generator=generator)
    return 3.0 + shared + torch.randn(n, N_ROIS, N_TIMEPOINTS, generator=generator)


def layer_norm(vector: torch.Tensor, module) -> torch.Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + module.eps).sqrt() * module.weight + module.bias


@torch.no_grad()
def expected_embedding(model, series: torch.Tensor, patch: int, roi: int) -> torch.Tensor:
    """The embedding of one ROI in one time patch, of a tokenizer without layers, from the ROI's own series."""
    encoder = model.fmri_tokenizer.encoder
    seen = encoder.signal_projection(series[patch * PATCH_SIZE : (patch + 1) * PATCH_SIZE])
    feature = layer_norm(seen + encoder.transformer.roi_embeddings.weight[roi], module=encoder.transformer.norm)
    projected = model.projector.linear(feature)
    activated = projected / 2 * (1 + torch.erf(projected / math.sqrt(2)))
    return activated + model.roi_embeddings.weight[roi]


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    """Four time patches of six ROIs."""
    shape = {"patch_size": PATCH_SIZE, "num_hidden_layers": 0, "codebook_size": 8}
    return language_model(attention=request.param, tokenizer=shape)


def prompt_of_two_scans():
    """Ids, and of each position: its scan, time patch and ROI (None for text)."""
    ids, places = [5], [None]
    for scan, text in ((0, [6, 7]), (1, [8])):
        for patch in range(N_PATCHES):
            for roi in range(N_ROIS):
                ids.append(FMRI)
                places.append((scan, patch, roi))
        ids += text
        places += [None] * len(text)
    return torch.tensor([ids]), places


def test_every_roi_of_every_time_patch_is_where_the_language_model_reads_it(model):
    """Fails with tokens in ROI-major order, and with the embedding of another ROI at a token."""
    ids, places = prompt_of_two_scans()
    series = scans_with_offset(2)
    embeddings = inputs_of(model, input_ids=ids, input_values=series)["inputs_embeds"][0]
    words = model.get_input_embeddings().weight
    for position, place in enumerate(places):
        if place is None:
            close(embeddings[position], words[ids[0, position]])
        else:
            scan, patch, roi = place
            close(embeddings[position], expected_embedding(model, series[scan, roi], patch, roi))


@torch.no_grad()
def test_hidden_states_of_scans_come_in_the_order_of_their_tokens(model):
    series = scans_with_offset(2)
    embeddings, _ = model.entering_tokens(series)
    for scan in range(2):
        for patch in range(N_PATCHES):
            for roi in range(N_ROIS):
                expected = expected_embedding(model, series[scan, roi], patch, roi)
                close(embeddings[scan, patch * N_ROIS + roi], expected)


def test_positions_and_mask_are_those_of_time_patches(model):
    ids, places = prompt_of_two_scans()
    roi_mask = torch.ones(2, N_ROIS, dtype=torch.bool)
    roi_mask[1, 2] = False
    padding_mask = torch.ones(2, N_TIMEPOINTS, dtype=torch.bool)
    padding_mask[0, -PATCH_SIZE - 1 :] = False  # the last patch, and one point of that before
    found = inputs_of(
        model,
        input_ids=ids,
        input_values=scans_with_offset(2),
        roi_mask=roi_mask,
        padding_mask=padding_mask,
    )

    positions, position, last = [], -1, None
    for place in places:
        block = None if place is None else place[:2]
        if block is None or block != last:
            position += 1
        positions.append(position)
        last = block
    assert found["position_ids"][0].tolist() == positions

    mask = found["attention_mask"][0, 0]
    visible = mask if mask.dtype == torch.bool else mask == 0
    hidden = {(1, patch, 2) for patch in range(N_PATCHES)} | {(0, N_PATCHES - 1, r) for r in range(N_ROIS)}
    for query, reader in enumerate(places):
        if reader in hidden:
            continue  # whatever it reads, nobody reads it
        for key, place in enumerate(places):
            in_one_block = reader is not None and place is not None and reader[:2] == place[:2]
            expected = place not in hidden and (key <= query or in_one_block)
            assert visible[query, key] == expected, (reader, place)


@torch.no_grad()
def test_codes_are_predicted_for_the_same_roi_at_the_next_time_patch(model):
    """The loss of a prompt whose hidden states are known: one patch before the code, the same ROI."""
    ids, places = prompt_of_two_scans()
    codes = torch.randint(0, 8, (2, N_PATCHES * N_ROIS), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "input_values": scans_with_offset(2)}
    output = model(**inputs, fmri_labels=codes, output_hidden_states=True)
    losses = []
    for position, place in enumerate(places):
        if place is not None and place[1] + 1 < N_PATCHES:
            scan, patch, roi = place
            logits = model.fmri_head(output.hidden_states[-1][0, position])
            losses.append(-logits.log_softmax(-1)[codes[scan, (patch + 1) * N_ROIS + roi]])
    close(output.fmri_loss, torch.stack(losses).mean())


def test_codes_of_what_was_not_observed_are_not_counted(model):
    """The last patch of the first scan is padding, the second lacks an ROI: neither has a code to predict."""
    roi_mask = torch.ones(2, N_ROIS, dtype=torch.bool)
    roi_mask[1, 2] = False
    padding_mask = torch.ones(2, N_TIMEPOINTS, dtype=torch.bool)
    padding_mask[0, -PATCH_SIZE:] = False
    codes = torch.zeros(2, N_PATCHES * N_ROIS, dtype=torch.long)
    assert model.count_next_codes(codes) == 2 * N_ROIS * (N_PATCHES - 1)
    expected = N_ROIS * (N_PATCHES - 2) + (N_ROIS - 1) * (N_PATCHES - 1)
    assert model.count_next_codes(codes, roi_mask, padding_mask) == expected


# --- padded time points do not enter connectivity -------------------------------------------------------------


def padded_and_cut() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scans with something behind their last observed point, the mask that says so, and the scans without it."""
    series = scans_with_offset(3)
    padding_mask = torch.arange(N_TIMEPOINTS).expand(3, -1) < N_OBSERVED
    return series, padding_mask, series[..., :N_OBSERVED].clone()


def of_connectivity(n_timepoints: int, **changes):
    shape = {"n_timepoints": n_timepoints, "patch_size": n_timepoints, "input_features": ["connectivity"]}
    return fmri_tokenizer(**shape, roi_networks=ROI_NETWORKS, **changes)


@pytest.mark.parametrize("filling", [0.0, 50.0])
@torch.no_grad()
def test_tokens_of_connectivity_are_those_of_the_scan_without_padding(filling):
    series, padding_mask, cut = padded_and_cut()
    series[~padding_mask[:, None].expand_as(series)] = filling
    long, short = of_connectivity(N_TIMEPOINTS), of_connectivity(N_OBSERVED)
    short.load_state_dict(long.state_dict())
    found, expected = long.encode(series, padding_mask=padding_mask), short.encode(cut)
    close(found.embeddings, expected.embeddings)
    assert torch.equal(found.fmri_codes, expected.fmri_codes)

    # profiles are also what the decoder is to reconstruct
    targets = long(series, padding_mask=padding_mask), short(cut)
    close(targets[0].reconstruction_loss, targets[1].reconstruction_loss)
    profiles = torch.stack([torch.corrcoef(scan) for scan in cut])
    others = ~torch.eye(N_ROIS, dtype=torch.bool)
    rms = profiles[:, others].square().mean(-1).sqrt()
    roi_mask = torch.ones(3, N_ROIS, dtype=torch.bool)
    close(
        connectivity_profiles(series, roi_mask, padding_mask),
        profiles.masked_fill(~others, 0) / rms[:, None, None],
    )


@pytest.mark.parametrize("filling", [0.0, 50.0])
@torch.no_grad()
def test_network_pairs_are_those_of_the_scan_without_padding(filling):
    series, padding_mask, cut = padded_and_cut()
    series[~padding_mask[:, None].expand_as(series)] = filling
    names = [[5], [6], [7, 8]]
    config = {"scan_tokens": ["rois", "network_pairs"], "network_name_ids": names}
    shape = {"roi_networks": ROI_NETWORKS, "input_features": ["connectivity"]}
    models = [
        language_model(tokenizer={**shape, "n_timepoints": n, "patch_size": n}, **config)
        for n in (N_TIMEPOINTS, N_OBSERVED)
    ]
    models[1].load_state_dict(models[0].state_dict())
    found = models[0].get_fmri_features(series, padding_mask=padding_mask)
    close(found, models[1].get_fmri_features(cut))
    close(models[0].entering_tokens(series, padding_mask=padding_mask)[0], models[1].entering_tokens(cut)[0])

    # the token of the pair of networks 0 and 1, behind those of ROIs, of the scan, and of network 0 itself
    correlations = torch.corrcoef(cut[0])
    others = ~torch.eye(N_ROIS, dtype=torch.bool)
    rms = correlations[others].square().mean().sqrt()
    close(found[0, N_ROIS + 2, 1], correlations[:2, 2:4].mean() / rms)


@torch.no_grad()
def test_correlations_are_computed_in_float32_whatever_the_precision_of_the_model():
    series, padding_mask, _ = padded_and_cut()
    model = language_model(
        tokenizer={"roi_networks": ROI_NETWORKS},
        scan_tokens=["rois", "network_pairs"],
        network_name_ids=[[5], [6], [7]],
    )
    rounded = series.bfloat16()
    expected = model.get_fmri_features(rounded.float(), padding_mask=padding_mask)[:, model.config.n_roi_tokens :]
    model.bfloat16()
    for given in (rounded, rounded.float()):
        found = model.get_fmri_features(given, padding_mask=padding_mask)[:, model.config.n_roi_tokens :]
        assert torch.equal(found, expected)


def test_the_loss_of_correlations_leaves_padding_out():
    series, padding_mask, cut = padded_and_cut()
    torch.manual_seed(3)
    noise = torch.randn_like(series)

    roi_mask = torch.ones(3, N_ROIS, dtype=torch.bool)
    whole = torch.ones(3, N_OBSERVED, dtype=torch.bool)
    for loss in (connectivity_loss, coskewness_loss):
        found = loss(series + noise, series, roi_mask, padding_mask)
        close(found, loss(cut + noise[..., :N_OBSERVED], cut, roi_mask, whole))
