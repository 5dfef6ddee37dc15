"""`pipeline("fmri-zero-shot-classification")`: which of some answers fits a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Pipeline

from .answers import answer_log_probabilities, encode_question
from .pipeline_inputs import as_pipeline_input, join_inputs


class FmriZeroShotClassificationPipeline(Pipeline):
    """Choose among candidate answers to a question about a scan.

    A label's score is the probability that the model gives the label as its whole answer, up to and including
    the end of its turn, divided by the sum of these probabilities over all candidates. Being a product over
    tokens, the probability of a label of many tokens is no different in kind from that of a short one, but a
    model that is unsure of the wording spreads it over more wordings; ``length_normalization=True`` compares
    the mean log-probability of a token instead. Nothing is sampled: the same scan gives the same scores.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> classify = pipeline("fmri-zero-shot-classification", model="org/fmri-lm")
    >>> classify("sub-01_bold.nii.gz", candidate_labels=["female", "male"], question="What is the sex?")
    [{'label': 'female', 'score': 0.83}, {'label': 'male', 'score': 0.17}]
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False

    def __call__(self, scans: Any, candidate_labels: Sequence[str], **kwargs) -> list:
        """Score candidate labels for a scan or for each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: a file's path, an image, an array (n_timepoints, n_rois).
        candidate_labels : sequence of str
            The answers to choose from, at least two of them and all different.
        question : str, optional
            What is asked; by default, which of the labels describes the scan.
        t_r : float, optional
            Repetition time in seconds, where the scans do not tell it.
        length_normalization : bool, default=False
            Compare answers by their mean log-probability of a token.

        Returns
        -------
        list of dict, or list of these lists
            ``{"label": str, "score": float}`` in order of falling score; the scores sum to one.
        """
        return super().__call__(as_pipeline_input(scans), candidate_labels=candidate_labels, **kwargs)

    def _sanitize_parameters(
        self, candidate_labels=None, question=None, t_r=None, length_normalization=None
    ) -> tuple[dict, dict, dict]:
        labels: dict[str, Any] = {}
        if candidate_labels is not None:
            labels["candidate_labels"] = _check_labels(candidate_labels)
        asked = {"question": question, "length_normalization": length_normalization}
        asked = {name: value for name, value in asked.items() if value is not None}
        return ({} if t_r is None else {"t_r": t_r}), labels | asked, labels

    def preprocess(self, scan, t_r=None):
        return {"scans": dict(self.processor(fmri=scan, t_r=t_r))}

    def _forward(self, model_inputs, candidate_labels, question=None, length_normalization=False):
        if question is None:
            question = f"Which of these describes this scan: {', '.join(candidate_labels)}?"
        prompt_ids, answer_ids = encode_question(self.processor, question, candidate_labels)
        scans = join_inputs(model_inputs["scans"])
        scores = answer_log_probabilities(self.model, prompt_ids, answer_ids, **scans)
        if length_normalization:
            scores = scores / torch.tensor([len(ids) for ids in answer_ids], device=scores.device)
        return scores

    def postprocess(self, model_outputs, candidate_labels):
        scores = model_outputs[0].double().softmax(-1).tolist()
        ranked = sorted(zip(candidate_labels, scores), key=lambda pair: -pair[1])
        return [{"label": label, "score": score} for label, score in ranked]


def _check_labels(candidate_labels: Sequence[str]) -> list[str]:
    if isinstance(candidate_labels, str) or not all(isinstance(label, str) for label in candidate_labels):
        raise ValueError(f"`candidate_labels` must be a list of strings, got {candidate_labels!r}.")
    if len(set(candidate_labels)) != len(candidate_labels):
        raise ValueError(f"`candidate_labels` must all be different, got {list(candidate_labels)!r}.")
    if len(candidate_labels) < 2:
        raise ValueError(f"`candidate_labels` needs at least two labels, got {list(candidate_labels)!r}.")
    return list(candidate_labels)


__all__ = ["FmriZeroShotClassificationPipeline"]
