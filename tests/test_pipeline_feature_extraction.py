"""Scans as vectors: those of the models themselves, for files, arrays, lists and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hub import tiny
from transformers import AutoModel, pipeline


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory):
    """Folders of two tokenizers: of tokens for each ROI and time patch, and of latent tokens."""
    folders = {}
    for quantizer, shape in (("vq", {}), ("titok", {"num_latent_tokens": 3})):
        folders[quantizer] = tmp_path_factory.mktemp(quantizer)
        tiny.fmri_tokenizer(quantizer=quantizer, **shape).save_pretrained(folders[quantizer])
        tiny.feature_extractor().save_pretrained(folders[quantizer])
    return folders


@pytest.fixture(scope="module")
def embed(stage_1):
    return pipeline("fmri-feature-extraction", model=str(stage_1["vq"]))


def test_vectors_of_a_tokenizer_are_what_it_quantizes(embed, stage_1):
    features = embed(tiny.scan(), t_r=2.0)
    model = AutoModel.from_pretrained(stage_1["vq"])
    with torch.no_grad():
        encoded = model.encode(**tiny.feature_extractor()(tiny.scan(), t_r=2.0))
        codes = model.quantizer(torch.from_numpy(features["tokens"])[None], encoded.token_mask)[2]
    np.testing.assert_array_equal(features["tokens"], encoded.embeddings[0].numpy())
    assert torch.equal(codes, encoded.fmri_codes)
    assert features["tokens"].shape == (12, 16)
    assert features["pooled"].shape == (16,)
    assert features["tokens"].dtype == features["pooled"].dtype == np.float32


def test_missing_rois_take_no_part_in_the_pooled_vector(embed):
    scan = tiny.scan()
    scan[:, 2] = np.nan
    features = embed(scan, t_r=2.0)
    assert np.flatnonzero(~features["token_mask"]).tolist() == [2, 8]  # of both time patches
    shown = features["tokens"][features["token_mask"]]
    np.testing.assert_allclose(features["pooled"], shown.mean(0), rtol=1e-6)


def test_latent_tokens_are_the_tokens_of_titok(stage_1):
    features = pipeline("fmri-feature-extraction", model=str(stage_1["titok"]))(tiny.scan(), t_r=2.0)
    assert features["tokens"].shape == (3, 16)


@pytest.mark.parametrize("source", ["folder", "objects"])
def test_vectors_of_a_language_model_are_its_hidden_states_at_the_scan(tmp_path, source):
    folder = tiny.save(tmp_path)
    model, processor = tiny.language_model(), tiny.processor()
    given = {"model": str(folder)} if source == "folder" else {"model": model, "processor": processor}
    features = pipeline("fmri-feature-extraction", **given)(tiny.scan(), t_r=2.0)
    inputs = processor(text="<fmri>", fmri=tiny.scan(), t_r=2.0, add_special_tokens=False)
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(features["tokens"], expected.numpy(), atol=1e-5)


def test_files_arrays_and_batches_agree(embed, tmp_path):
    scans = [tiny.scan(seed) for seed in range(3)]
    files = [str(tmp_path / f"{i}.npy") for i in range(3)]
    for file, scan in zip(files, scans):
        np.save(file, scan)
    alone = [embed(scan, t_r=2.0) for scan in scans]
    for together in (
        embed(scans, t_r=2.0),
        embed(files, t_r=2.0, batch_size=2),
        embed(np.stack(scans), t_r=2.0),
    ):
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one["tokens"], other["tokens"], atol=1e-5)
    assert np.abs(alone[0]["pooled"] - alone[1]["pooled"]).max() > 1e-3


def test_a_model_without_its_extractor_is_refused():
    with pytest.raises(ValueError, match="no feature extractor to read scans with: give"):
        pipeline("fmri-feature-extraction", model=tiny.fmri_tokenizer())
