"""fMRI-LM in Brainmarks, the evaluation suite of fMRI foundation models.

    python -m brainmarks.models.test_models fmri_lm
    python -m brainmarks.main_logistic fmri_lm cls aabc_sex --overrides model_kwargs.checkpoint=org/fmri-lm

Two models are registered. `fmri_lm` gives the last hidden states of the language model at the scan tokens;
`fmri_lm_tokens` gives the scan tokens as they enter a language model, or the features of a tokenizer. Both take a
`checkpoint`, a folder or Hub id; without one they are the bundled model, on Schaefer's 400 parcels. `cls` is the mean
over tokens, `patch` the tokens.

This folder is a part of the suite's namespace package: it must not have an `__init__.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from brainmarks.models.base import Embeddings, ModelTransform, ModelWrapper
from brainmarks.models.registry import register_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

import fmri_lm_hf
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor

# The spaces of the suite with series of ROIs, by the number of ROIs.
SPACES = {400: "schaefer400", 424: "a424", 450: "schaefer400_tians3", 457: "schaefer400_tians3_buckner7"}


class FmriLMTransform(ModelTransform):
    """Samples of the suite as the model's feature extractor prepares them: resampled, cut or padded, normalised.

    Parameters
    ----------
    extractor : FmriFeatureExtractor
    roi_names : sequence of str, optional
        Names of the columns of the suite's series, where known; they are matched with the model's atlas.
    """

    def __init__(self, extractor: FmriFeatureExtractor, roi_names: list[str] | None = None) -> None:
        self.extractor, self.roi_names = extractor, roi_names

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        # the suite standardises series; only in their own units is an ROI without signal seen as one
        bold = sample["bold"] * sample["std"] + sample["mean"]
        prepared = self.extractor(bold.numpy(), t_r=float(sample["tr"]), roi_names=self.roi_names)
        others = {name: value for name, value in sample.items() if name not in ("bold", "mean", "std", "tr")}
        return others | {name: value[0] for name, value in prepared.items()}


class FmriLMWrapper(ModelWrapper):
    """A model and the suite's name of the space of its scans.

    Parameters
    ----------
    model : FmriLMForCausalLM or FmriTokenizer
    space : str
        Name in the suite.
    entering : bool
        Whether to give the scan tokens as they enter the language model, in place of its hidden states.
    """

    def __init__(self, model: torch.nn.Module, space: str, entering: bool = False) -> None:
        super().__init__()
        self.model, self.__space__, self.entering = model, space, entering

    def forward(self, batch: dict[str, torch.Tensor]) -> Embeddings:
        inputs = {name: batch[name] for name in FmriFeatureExtractor.model_input_names}
        tokens_of = self.model.scan_tokens
        if self.entering:  # a tokenizer has no `entering_tokens`: its tokens are what enters
            tokens_of = getattr(self.model, "entering_tokens", tokens_of)
        tokens, shown = tokens_of(**inputs)
        tokens = tokens.float() * shown[..., None]  # zero for tokens without data
        mean = tokens.sum(1, keepdim=True) / shown.sum(1).clamp_min(1)[:, None, None]
        return Embeddings(cls_embeds=mean, reg_embeds=None, patch_embeds=tokens)


def _loaded(checkpoint: str | None, entering: bool = False) -> tuple[FmriLMTransform, FmriLMWrapper]:
    """Transform and wrapper of a checkpoint, or of the bundled model."""
    names: list[str] | None = None
    if checkpoint is None:
        names = _schaefer_names()
        model, processor = fmri_lm_hf.load_bundled_model(fmri_lm_hf.Atlas.from_names(names, "Schaefer 400"))
    else:
        processor = AutoProcessor.from_pretrained(checkpoint)
        is_tokenizer = AutoConfig.from_pretrained(checkpoint).model_type == "fmri_tokenizer"
        model = (AutoModel if is_tokenizer else AutoModelForCausalLM).from_pretrained(checkpoint)
    extractor = getattr(processor, "feature_extractor", processor)
    if extractor.n_rois not in SPACES:
        raise ValueError(
            f"{checkpoint} reads {extractor.n_rois} ROIs; Brainmarks has spaces of "
            f"{', '.join(f'{n} ({space})' for n, space in SPACES.items())}."
        )
    # the suite also has clips of a few seconds, which the extractor would refuse as too short
    extractor = type(extractor).from_dict({**extractor.to_dict(), "min_timepoints": 2})
    return FmriLMTransform(extractor, names), FmriLMWrapper(model.eval(), SPACES[extractor.n_rois], entering)


def _schaefer_names() -> list[str]:
    """Names of Schaefer's 400 parcels in the order of 17 networks, which the suite uses."""
    from templateflow import api

    table = api.get(
        "MNI152NLin6Asym", atlas="Schaefer2018", desc="400Parcels17Networks", suffix="dseg", extension=".tsv"
    )
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    return [row[rows[0].index("name")] for row in rows[1:]]


@register_model
def fmri_lm(checkpoint: str | None = None, **kwargs: Any) -> tuple[FmriLMTransform, FmriLMWrapper]:
    """Hidden states of a language model at the scan tokens."""
    return _loaded(checkpoint)


@register_model
def fmri_lm_tokens(checkpoint: str | None = None, **kwargs: Any) -> tuple[FmriLMTransform, FmriLMWrapper]:
    """Scan tokens as they enter a language model, or the features of a tokenizer."""
    return _loaded(checkpoint, entering=True)
