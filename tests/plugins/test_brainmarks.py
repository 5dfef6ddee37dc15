"""The plugin for Brainmarks, where that suite is installed (`make brainmarks`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hub import tiny
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

import fmri_lm_hf

registry = pytest.importorskip("brainmarks.models.registry", reason="Brainmarks is not installed")
readers = pytest.importorskip("brainmarks.readers")


def sample(n_timepoints: int, n_rois: int, seed: int = 0) -> dict:
    """A sample of the suite: series without mean and unit, and what they were."""
    draw = np.random.default_rng(seed)
    return {
        "bold": torch.tensor(draw.normal(size=(n_timepoints, n_rois)), dtype=torch.float32),
        "mean": torch.full((1, n_rois), 100.0),
        "std": torch.full((1, n_rois), 3.0),
        "tr": 2.0,
        "label": 1,
    }


def test_both_models_are_registered_and_read_a_space_of_the_suite():
    assert {"fmri_lm", "fmri_lm_tokens"} <= set(registry.list_models())
    transform, model = registry.create_model("fmri_lm")
    assert readers.DATA_DIMS[model.__space__] == transform.extractor.n_rois == 400
    names = transform.extractor.atlas.roi_names
    assert (names[0], names[-1]) == ("17Networks_LH_VisCent_ExStr_1", "17Networks_RH_TempPar_10")


def test_embeddings_are_those_of_the_feature_extraction_pipeline():
    transform, wrapper = registry.create_model("fmri_lm")
    given = sample(120, 400)
    batch = torch.utils.data.default_collate([transform(given), transform(sample(120, 400, seed=1))])
    assert batch.pop("label").tolist() == [1, 1]  # what is not of the model stays
    cls_embeds, reg_embeds, patch_embeds = wrapper(batch)
    model, processor = fmri_lm_hf.load_bundled_model(transform.extractor.atlas)
    expected = pipeline("fmri-feature-extraction", model=model, processor=processor)(given["bold"].numpy(), t_r=2.0)
    assert reg_embeds is None
    np.testing.assert_allclose(cls_embeds[0, 0].detach(), expected["pooled"], atol=1e-4)
    np.testing.assert_allclose(patch_embeds[0].detach(), expected["tokens"], atol=1e-4)
    assert (cls_embeds[0] - cls_embeds[1]).abs().max() > 1e-3
    entering = registry.create_model("fmri_lm_tokens")[1](batch).patch_embeds
    assert entering.shape == patch_embeds.shape
    assert (entering - patch_embeds).abs().max() > 1e-3


def test_an_roi_without_a_signal_is_none_and_names_are_matched():
    transform, _ = registry.create_model("fmri_lm")
    silent = sample(120, 400)
    silent["std"][:, 3] = 0.0
    assert transform(silent)["roi_mask"].logical_not().nonzero().flatten().tolist() == [3]
    transform.roi_names = transform.roi_names[::-1]
    turned = transform(sample(120, 400))["input_values"]
    assert torch.equal(turned.flip(0), registry.create_model("fmri_lm")[0](sample(120, 400))["input_values"])


def test_checkpoints_and_those_of_other_atlases(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"reads {tiny.N_ROIS} ROIs; Brainmarks has spaces of 400 \(schaefer400\)"):
        registry.create_model("fmri_lm", checkpoint=str(checkpoint))
    plugin = __import__("brainmarks.models.fmri_lm", fromlist=["SPACES"])
    monkeypatch.setitem(plugin.SPACES, tiny.N_ROIS, "tiny")
    transform, wrapper = registry.create_model("fmri_lm", checkpoint=str(checkpoint))
    assert wrapper.__space__ == "tiny"
    batch = torch.utils.data.default_collate([transform(sample(tiny.N_TIMEPOINTS, tiny.N_ROIS))])
    model, processor = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    inputs = processor.feature_extractor(sample(tiny.N_TIMEPOINTS, tiny.N_ROIS)["bold"].numpy(), t_r=2.0)
    expected = model.eval().scan_tokens(**inputs)[0]
    torch.testing.assert_close(wrapper(batch).patch_embeds, expected, atol=1e-4, rtol=1e-4)
    model.fmri_tokenizer.save_pretrained(tmp_path)
    processor.feature_extractor.save_pretrained(tmp_path)
    transform, wrapper = registry.create_model("fmri_lm_tokens", checkpoint=str(tmp_path))
    expected = model.fmri_tokenizer.scan_tokens(**inputs)[0]
    torch.testing.assert_close(wrapper(batch).patch_embeds, expected, atol=1e-4, rtol=1e-4)
