"""The pipeline that scores hypotheses, and the names of all pipelines; the others are in `models.pipelines`."""

from __future__ import annotations

from typing import Any, TypedDict, overload

import numpy as np

from .models.abstention import declined
from .models.pipelines import (
    FmriDecisionPipeline,
    FmriFeatureExtractionPipeline,
    FmriToTextPipeline,
    FmriZeroShotClassificationPipeline,
    ScanPipeline,
    as_pipeline_input,
    given,
    join_inputs,
)


class Evidence(TypedDict):
    """Agreement of a scan with one statement: by the model, and by the correlations of the scan."""

    statement: str
    probability: float
    direct_probability: float


class _HypothesisScore(TypedDict):
    score: float | None
    direct_score: float | None
    evidence: list[Evidence]


class HypothesisScore(_HypothesisScore, total=False):
    """Result of `FmriHypothesisPipeline` for a scan; a `declined` result has a reason."""

    declined: bool
    reason: str


class FmriHypothesisPipeline(ScanPipeline):
    """Score scans by a hypothesis about network pairs, without labels and without training.

    Scans that are not readable (`unreadable_reason`) are declined, and left out of the reference.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> test = pipeline("fmri-hypothesis", model="org/fmri-lm")
    >>> test(scans, hypothesis="weaker connectivity between default and cerebellum", reference_scans=controls)
    [{'score': 0.71, 'direct_score': 0.74, 'evidence': [{'statement': 'weaker connectivity ...', ...}]}, ...]
    """

    @overload
    def __call__(
        self, scans: list[Any] | tuple[Any, ...], hypothesis: str, reference_scans: Any = None, **options: Any
    ) -> list[HypothesisScore]: ...
    @overload
    def __call__(
        self, scans: Any, hypothesis: str, reference_scans: Any = None, **options: Any
    ) -> HypothesisScore: ...
    def __call__(self, scans: Any, hypothesis: str, reference_scans: Any = None, **options: Any) -> Any:
        """Score one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them.
        hypothesis : str
            Statements such as ``weaker connectivity between default and cerebellum; stronger connectivity within
            visual``. Statements that cannot be parsed are refused by name.
        reference_scans : list of scans, optional
            Unlabelled scans, such as those of the same site. Each probability then becomes the share of them that agree
            less.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        force : bool, default=False
            Score also scans that are not readable; such scores are marked with ``declined`` and ``reason``.

        Returns
        -------
        dict, or list of dict
            ``score``, between 0 and 1: the mean probability of the statements; ``evidence``: a list of ``{"statement",
            "probability", "direct_probability"}``; and ``direct_score``, computed from the correlations of the scan
            without the model: its ceiling. A declined scan has scores of None, no evidence, and ``declined`` and
            ``reason``.

        Raises
        ------
        ValueError
            If no reference scan is readable.
        """
        from .evaluation.truth import parse_hypothesis

        atlas = self.processor.feature_extractor.atlas
        if atlas is None:
            raise ValueError("The model's feature extractor has no atlas, so it knows no networks by name.")
        statements = parse_hypothesis(hypothesis, atlas.network_names)
        reference = None
        if reference_scans is not None:
            scores = super().__call__(list(reference_scans), statements=statements, **options)
            readable = [scan["evidence"] for scan in scores if scan["evidence"]]
            if not readable:
                raise ValueError(f"None of {len(scores)} reference scans is readable: {scores[0]['reason']}")
            reference = np.array(
                [[(item["probability"], item["direct_probability"]) for item in evidence] for evidence in readable]
            )  # (n_reference, n_statements, 2)
        return super().__call__(as_pipeline_input(scans), statements=statements, reference=reference, **options)

    def _sanitize_parameters(self, statements=None, reference=None, t_r=None, force=None) -> tuple[dict, dict, dict]:
        scored = given(statements=statements)
        # not `given`: a call without a reference must not keep that of the pipeline
        return given(t_r=t_r), scored, scored | {"reference": reference} | given(force=force)

    def _forward(self, model_inputs, statements):
        from .evaluation.truth import direct_probabilities, statement_probabilities

        scans = join_inputs(model_inputs["scans"])
        probabilities = statement_probabilities(self.model, self.processor, scans, statements)
        on_cpu = {name: values.cpu() for name, values in scans.items()}
        return {
            "probabilities": probabilities,
            "direct": direct_probabilities(self.processor, on_cpu, statements),
            "reason": model_inputs["reason"],
        }

    def postprocess(self, model_outputs, statements, reference=None, force=False) -> HypothesisScore:
        from .evaluation.truth import relative_to

        reason = model_outputs["reason"]
        reason = reason[0] if isinstance(reason, list) else reason
        mark: Any = {} if reason is None else declined(reason)
        if mark and not force:
            return {"score": None, "direct_score": None, "evidence": [], **mark}

        probabilities, direct = (
            np.asarray(model_outputs[name]).reshape(1, -1) for name in ("probabilities", "direct")
        )
        if reference is not None:
            probabilities = relative_to(reference[..., 0], probabilities)
            direct = relative_to(reference[..., 1], direct)
        evidence: list[Evidence] = [
            {"statement": str(statement), "probability": float(p), "direct_probability": float(d)}
            for statement, p, d in zip(statements, probabilities[0], direct[0], strict=True)
        ]
        return {
            "score": float(probabilities.mean()),
            "direct_score": float(direct.mean()),
            "evidence": evidence,
            **mark,
        }


PIPELINES = {
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
    "fmri-decision": FmriDecisionPipeline,
    "fmri-hypothesis": FmriHypothesisPipeline,
    "fmri-feature-extraction": FmriFeatureExtractionPipeline,
}
