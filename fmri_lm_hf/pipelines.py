"""Pipelines: a scan in, an answer out. Their code lies beside the models, so that a checkpoint can carry it."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import Pipeline

from .models.pipelines import (
    FmriDecisionPipeline,
    FmriFeatureExtractionPipeline,
    FmriToTextPipeline,
    FmriZeroShotClassificationPipeline,
    as_pipeline_input,
    join_inputs,
)

__all__ = [
    "PIPELINES",
    "FmriDecisionPipeline",
    "FmriFeatureExtractionPipeline",
    "FmriHypothesisPipeline",
    "FmriToTextPipeline",
    "FmriZeroShotClassificationPipeline",
]


# `pipeline("fmri-hypothesis")`: how far a scan agrees with a hypothesis in words.


class FmriHypothesisPipeline(Pipeline):
    """Score scans by a hypothesis about network pairs, without labels and without training.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> test = pipeline("fmri-hypothesis", model="org/fmri-lm")
    >>> test(scans, hypothesis="weaker connectivity between default and cerebellum", reference_scans=controls)
    [{'score': 0.71, 'direct_score': 0.74, 'evidence': [{'statement': 'weaker connectivity ...', ...}]}, ...]
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False

    def __call__(self, scans: Any, hypothesis: str, reference_scans: Any = None, **kwargs) -> Any:
        """Score one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them.
        hypothesis : str
            Statements such as ``weaker connectivity between default and cerebellum; stronger connectivity within
            visual``. What cannot be read is refused by name.
        reference_scans : list of scans, optional
            Unlabelled scans, such as those of the same site. Probabilities are then the share of them that agree less.
        t_r : float, optional
            Repetition time in seconds, where the scans do not tell it.

        Returns
        -------
        dict, or list of dict
            ``score``, between 0 and 1: the mean probability of the statements; ``evidence``: a list of ``{"statement",
            "probability", "direct_probability"}``; and ``direct_score``, the same computed from the scan's
            correlations without the model: its ceiling.
        """
        from .evaluation.truth import parse_hypothesis

        statements = parse_hypothesis(hypothesis, self._network_names())
        reference = None
        if reference_scans is not None:
            read = super().__call__(list(reference_scans), statements=statements, **kwargs)
            reference = np.array(
                [
                    [(each["probability"], each["direct_probability"]) for each in scan["evidence"]]
                    for scan in read
                ]
            )  # (n_reference, n_statements, 2)
        return super().__call__(
            as_pipeline_input(scans), statements=statements, reference=reference, **kwargs
        )

    def _network_names(self) -> tuple[str, ...]:
        atlas = self.processor.feature_extractor.atlas
        if atlas is None:
            raise ValueError("The model's feature extractor has no atlas, so it knows no networks by name.")
        return atlas.network_names

    def _sanitize_parameters(self, statements=None, reference=None, t_r=None) -> tuple[dict, dict, dict]:
        given = {} if statements is None else {"statements": statements}
        return ({} if t_r is None else {"t_r": t_r}), given, given | {"reference": reference}

    def preprocess(self, scan, t_r=None):
        return {"scans": dict(self.processor(fmri=scan, t_r=t_r))}

    def _forward(self, model_inputs, statements):
        from .evaluation.truth import direct_probabilities, statement_probabilities

        scans = join_inputs(model_inputs["scans"])
        asked = statement_probabilities(self.model, self.processor, scans, statements)
        on_cpu = {name: values.cpu() for name, values in scans.items()}
        return {"asked": asked, "direct": direct_probabilities(self.processor, on_cpu, statements)}

    def postprocess(self, model_outputs, statements, reference=None):
        from .evaluation.truth import relative_to

        asked, direct = (np.asarray(model_outputs[name]).reshape(1, -1) for name in ("asked", "direct"))
        if reference is not None:
            asked, direct = relative_to(reference[..., 0], asked), relative_to(reference[..., 1], direct)
        evidence = [
            {"statement": str(statement), "probability": float(p), "direct_probability": float(d)}
            for statement, p, d in zip(statements, asked[0], direct[0], strict=True)
        ]
        return {"score": float(asked.mean()), "direct_score": float(direct.mean()), "evidence": evidence}


PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
    "fmri-decision": FmriDecisionPipeline,
    "fmri-hypothesis": FmriHypothesisPipeline,
    "fmri-feature-extraction": FmriFeatureExtractionPipeline,
}
