"""`pipeline("fmri-feature-extraction")`: scans as vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import Pipeline

from .pipeline_inputs import as_pipeline_input, join_inputs


class FmriFeatureExtractionPipeline(Pipeline):
    """Vectors of scans, for a classifier, a search or a picture of one's own.

    Of a tokenizer they are the features that it quantizes; of a language model its last hidden states at the tokens of
    the scan, which stands alone. Nothing is trained or drawn: the same scan gives the same vectors.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> embed = pipeline("fmri-feature-extraction", model="org/fmri-tokenizer")
    >>> features = embed("sub-01_bold.nii.gz")
    >>> features["pooled"].shape, features["tokens"].shape
    ((128,), (160, 128))
    """

    feature_extractor: Any
    _load_processor = False
    _load_tokenizer = False
    _load_feature_extractor = None  # where there is one: a processor holds it, too
    _load_image_processor = False

    def __init__(self, *args, processor: Any = None, **kwargs):
        super().__init__(*args, processor=processor, **kwargs)
        if self.feature_extractor is None:
            self.feature_extractor = getattr(processor, "feature_extractor", processor)
        if self.feature_extractor is None:
            raise ValueError(
                "Scans cannot be read without their extractor: give `feature_extractor` or `processor`, or the model "
                "as a folder or Hub id that holds one."
            )

    def __call__(self, scans: Any, **kwargs) -> Any:
        """Turn a scan, or each scan of a list, into vectors.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: a file's path, an image, an array (n_timepoints, n_rois).
        t_r : float, optional
            Repetition time in seconds, where the scans do not tell it.

        Returns
        -------
        dict of ndarray, or list of these dicts
            ``tokens`` (n_tokens, size), one row for each ROI and time patch (patch by patch), latent token or network
            pair; ``token_mask`` (n_tokens,), False for those that stand for nothing observed; and ``pooled`` (size,),
            the mean over the others. float32.
        """
        return super().__call__(as_pipeline_input(scans), **kwargs)

    def _sanitize_parameters(self, t_r=None) -> tuple[dict, dict, dict]:
        return ({} if t_r is None else {"t_r": t_r}), {}, {}

    def preprocess(self, scan, t_r=None):
        return {"inputs": dict(self.feature_extractor(scan, t_r=t_r))}

    def _forward(self, model_inputs):
        tokens, shown = self.model.scan_tokens(**join_inputs(model_inputs["inputs"]))
        return {"tokens": tokens.float(), "token_mask": shown}

    def postprocess(self, model_outputs) -> dict[str, np.ndarray]:
        tokens, shown = (model_outputs[name][0].cpu() for name in ("tokens", "token_mask"))
        return {
            "pooled": tokens[shown].mean(0).numpy(),
            "tokens": tokens.numpy(),
            "token_mask": shown.numpy(),
        }


__all__ = ["FmriFeatureExtractionPipeline"]
