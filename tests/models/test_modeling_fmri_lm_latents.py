"""A language model over latent tokens: few of them a scan, in one block, whatever the atlas."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from hub import tiny
from small import BACKBONES, FMRI, close, fmri_tokenizer, language_model, missing_roi, scans

from fmri_lm_hf import FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.hub.remote_code import export_remote_code

N_LATENTS = 3
TITOK = {"quantizer": "titok", "num_latent_tokens": N_LATENTS, "num_quantizers": 2}
IDS = torch.tensor([[5, *[FMRI] * N_LATENTS, 6, 7]])


@pytest.fixture(params=BACKBONES)
def model(request) -> FmriLMForCausalLM:
    return language_model(request.param, tokenizer=TITOK)


@torch.no_grad()
def test_latents_are_one_block_of_a_scan(model):
    assert model.config.block_sizes == [N_LATENTS]
    assert model.get_position_ids(IDS).tolist() == [[0, 1, 1, 1, 2, 3]]
    features = model.get_fmri_features(scans(1))
    assert features.shape == (1, N_LATENTS, 16)
    before = model(input_ids=IDS, fmri_features=features).logits[0]
    for latent in range(N_LATENTS):
        changed = features.clone()
        changed[0, latent] += torch.randn(16)
        after = model(input_ids=IDS, fmri_features=changed).logits[0]
        assert ((after - before).abs().amax(-1) > 1e-5).tolist() == [False] + [True] * 5


@pytest.mark.parametrize("source", ["encoder", "codes"])
@torch.no_grad()
def test_latents_tell_which_scan_it_is_and_leave_missing_rois_out(source):
    model = language_model(tokenizer=TITOK, fmri_embedding_source=source, projector_layer_norm=True)
    inputs, roi_mask = scans(1), missing_roi()
    with_all = model(input_ids=IDS, input_values=inputs).logits
    without = model(input_ids=IDS, input_values=inputs, roi_mask=roi_mask).logits
    changed = inputs.clone()
    changed[0, 2] = 9.0
    close(model(input_ids=IDS, input_values=changed, roi_mask=roi_mask).logits, without)
    if source == "encoder":
        assert not torch.allclose(with_all, without, atol=1e-5)
    assert not torch.allclose(with_all, model(input_ids=IDS, input_values=-inputs).logits, atol=1e-5)
    # a latent stands for what is left of the scan, so that none is hidden
    assert model.get_attention_mask(IDS, roi_mask=roi_mask).all()


def test_codes_of_latents_have_no_next_patch(model):
    codes = model.fmri_tokenizer.encode(scans(1)).fmri_codes
    assert codes.shape == (1, N_LATENTS, 2)
    output = model(input_ids=IDS, input_values=scans(1), fmri_labels=codes, labels=IDS.clip(max=7))
    assert output.fmri_loss == 0
    output.loss.backward()
    assert model.roi_embeddings.weight.shape[0] == N_LATENTS
    assert model.roi_embeddings.weight.grad.abs().sum(-1).all()


@torch.no_grad()
def test_it_generates_and_survives_saving(tmp_path):
    model = language_model(tokenizer=TITOK)
    processor = FmriLMProcessor(
        tiny.feature_extractor(), tiny.text_tokenizer(), patch_size=8, num_latent_tokens=N_LATENTS
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = FmriLMForCausalLM.from_pretrained(tmp_path), FmriLMProcessor.from_pretrained(tmp_path)
    assert again.n_tokens == loaded.config.n_scan_tokens == N_LATENTS
    inputs = again(text="<fmri> What is the sex ?", fmri=tiny.scan(1), t_r=2.0)
    assert (inputs["input_ids"] == FMRI).sum() == N_LATENTS
    answer = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**inputs, **answer)
    loaded.generation_config.eos_token_id = None
    assert torch.equal(loaded.generate(**inputs, **answer), expected)
    uncached = loaded.generate(**inputs, **answer, use_cache=False)
    assert torch.equal(uncached, expected)


def test_the_wrong_number_of_placeholders_is_refused(model):
    with pytest.raises(ValueError, match=r"hold \[12\] fMRI placeholders .* 1 scan\(s\) of 3 tokens"):
        model(input_ids=torch.full((1, 12), FMRI), input_values=scans(1))


WITHOUT_THE_PACKAGE = """
import json, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fmri_lm_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForPreTraining
language, tokenizer, ids = sys.argv[1:]
trusted = {"trust_remote_code": True}
values = torch.linspace(-1, 1, 96).view(1, 6, 16).cos()
ids = torch.tensor(json.loads(ids))
logits = AutoModelForCausalLM.from_pretrained(language, **trusted).eval()(input_ids=ids, input_values=values).logits
codes = AutoModel.from_pretrained(tokenizer, **trusted).eval().encode(values).fmri_codes
loss = AutoModelForPreTraining.from_pretrained(tokenizer, **trusted).eval()(values).loss
print(json.dumps([logits[0, -1].tolist(), codes.tolist(), loss.item()]))
"""


@pytest.mark.slow
@torch.no_grad()
def test_the_code_beside_a_checkpoint_is_enough(tmp_path):
    model, tokenizer = language_model(tokenizer=TITOK), fmri_tokenizer(text_embed_dim=5, **TITOK)
    folders = [str(tmp_path / name) for name in ("language", "tokenizer")]
    for each, folder in zip((model, tokenizer), folders):
        each.save_pretrained(folder)
        tiny.feature_extractor().save_pretrained(folder)
        export_remote_code(folder)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, *folders, str(IDS.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    logits, codes, loss = json.loads(done.stdout)
    values = torch.linspace(-1, 1, 96).view(1, 6, 16).cos()
    assert model(input_ids=IDS, input_values=values).logits[0, -1].tolist() == pytest.approx(logits, abs=1e-5)
    assert tokenizer.encode(values).fmri_codes.tolist() == codes
    assert tokenizer(values).loss.item() == pytest.approx(loss, abs=1e-5)
