"""Small models with random weights, and their inputs. Weights are large, so that every connection shows."""

from __future__ import annotations

import torch
from backbones import text_model
from hub import tiny

from fmri_lm_hf import FmriLMForCausalLM, FmriTokenizerConfig, FmriTokenizerForPreTraining

BACKBONES = ("llama", "qwen3", "gpt2")
PATCH_SIZE = 8
N_TOKENS = tiny.N_ROIS * tiny.N_TIMEPOINTS // PATCH_SIZE
FMRI = len(tiny.WORDS)  # id of the placeholder in the tokenizer of `tiny`


def fmri_tokenizer(seed: int = 0, **changes) -> FmriTokenizerForPreTraining:
    """A tokenizer of scans (6 ROIs, 16 time points, 2 patches), with what its training needs."""
    torch.manual_seed(seed)
    config = {
        "n_rois": tiny.N_ROIS,
        "n_timepoints": tiny.N_TIMEPOINTS,
        "patch_size": PATCH_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "codebook_size": 8,
        "codebook_dim": 4,
        "initializer_range": 0.2,
    }
    return FmriTokenizerForPreTraining(FmriTokenizerConfig(**(config | changes))).eval()


def language_model(
    backbone: str = "llama",
    attention: str | None = "sdpa",
    seed: int = 0,
    tokenizer: dict | None = None,
    **config,
) -> FmriLMForCausalLM:
    torch.manual_seed(seed)
    config = {"fmri_token_id": FMRI, "initializer_range": 0.2} | config
    model = FmriLMForCausalLM.from_components(
        fmri_tokenizer(seed, **(tokenizer or {})), text_model(backbone, seed), **config
    )
    if attention is not None:
        model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None  # generated texts have a known length
    return model.eval()


def scans(n: int, seed: int = 0) -> torch.Tensor:
    """(n, n_rois, n_timepoints)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, tiny.N_ROIS, tiny.N_TIMEPOINTS, generator=generator)


def prompt(*parts: str | int) -> torch.Tensor:
    """Ids (1, n_positions) of a prompt: "scan", or a text token's id."""
    ids = [each for part in parts for each in ([FMRI] * N_TOKENS if part == "scan" else [part])]
    return torch.tensor([ids])


def left_padded(prompts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    longest = max(each.shape[1] for each in prompts)
    rows = [torch.cat([torch.full((1, longest - each.shape[1]), 3), each], 1) for each in prompts]
    lengths = torch.tensor([each.shape[1] for each in prompts])
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    return {"input_ids": torch.cat(rows), "attention_mask": mask}


def processor():
    """The processor for these models (words of `hub.tiny`, padded on the left)."""
    return tiny.processor()


def missing_roi(n_scans: int = 1, roi: int = 2) -> torch.Tensor:
    """A mask of ROIs that lacks one in the last scan: (n_scans, n_rois)."""
    roi_mask = torch.ones(n_scans, tiny.N_ROIS, dtype=torch.bool)
    roi_mask[-1, roi] = False
    return roi_mask


def masks(batch: int = 2) -> dict[str, torch.Tensor]:
    """The second scan lacks ROI 1 and has 5 padded time points: a part of the second patch of 8."""
    roi_mask = torch.ones(batch, tiny.N_ROIS, dtype=torch.bool)
    padding_mask = torch.ones(batch, tiny.N_TIMEPOINTS, dtype=torch.bool)
    roi_mask[1, 1] = False
    padding_mask[1, 11:] = False
    return {"roi_mask": roi_mask, "padding_mask": padding_mask}


def texts(n: int, size: int = 10, seed: int = 0) -> torch.Tensor:
    """Embeddings of texts: (n, size)."""
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


def train(tokenizer: FmriTokenizerForPreTraining, inputs: torch.Tensor, steps: int, **kwargs) -> list[float]:
    """Train a tokenizer on the same scans again and again; the loss of each step."""
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


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=2e-5)
