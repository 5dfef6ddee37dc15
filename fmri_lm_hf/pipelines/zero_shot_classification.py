"""`pipeline("fmri-zero-shot-classification")`: which of some answers fits a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Pipeline

from ..evaluation.answers import answer_log_probabilities, encode_question


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
        return super().__call__(scans, candidate_labels=candidate_labels, **kwargs)

    def _sanitize_parameters(
        self, candidate_labels=None, question=None, t_r=None, length_normalization=None
    ) -> tuple[dict, dict, dict]:
        asked: dict[str, Any] = {}
        if candidate_labels is not None:
            if isinstance(candidate_labels, str) or len(set(candidate_labels)) != len(candidate_labels):
                raise ValueError(
                    f"`candidate_labels` must be a list of different strings, got {candidate_labels!r}."
                )
            if len(candidate_labels) < 2:
                raise ValueError(
                    f"`candidate_labels` needs at least two labels, got {list(candidate_labels)!r}."
                )
            asked["candidate_labels"] = list(candidate_labels)
        if question is not None:
            asked["question"] = question
        scoring = {} if length_normalization is None else {"length_normalization": length_normalization}
        return ({} if t_r is None else {"t_r": t_r}) | asked, {}, scoring

    def preprocess(self, scan, candidate_labels, question=None, t_r=None):
        if question is None:
            question = f"Which of these describes this scan: {', '.join(candidate_labels)}?"
        prompt_ids, answer_ids = encode_question(self.processor, question, candidate_labels)
        scans = self.processor(fmri=scan, t_r=t_r)
        return {
            "scans": dict(scans),
            "prompt_ids": prompt_ids,
            "answer_ids": answer_ids,
            "labels": candidate_labels,
        }

    def _forward(self, model_inputs):
        log_probabilities = answer_log_probabilities(
            self.model, model_inputs["prompt_ids"], model_inputs["answer_ids"], **model_inputs["scans"]
        )
        lengths = torch.tensor([len(ids) for ids in model_inputs["answer_ids"]])
        return {
            "log_probabilities": log_probabilities[0],
            "lengths": lengths,
            "labels": model_inputs["labels"],
        }

    def postprocess(self, model_outputs, length_normalization=False):
        values = model_outputs["log_probabilities"].double().cpu()
        if length_normalization:
            values = values / model_outputs["lengths"].cpu()
        scored = zip(model_outputs["labels"], values.softmax(-1).tolist())
        return [
            {"label": label, "score": score} for label, score in sorted(scored, key=lambda pair: -pair[1])
        ]


__all__ = ["FmriZeroShotClassificationPipeline"]
