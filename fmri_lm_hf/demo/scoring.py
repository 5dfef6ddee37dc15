"""The demo's scores on the site that was never seen, with their baselines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..evaluation import (
    bootstrap_by_subject,
    connectivity_features,
    fit_logistic,
    majority,
    score_classification,
)
from ..evaluation.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .data import ASK_LABEL, DemoData


def answer_probabilities(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    question: str,
    answers: list[str],
    scans: dict[str, torch.Tensor],
    batch_size: int = 32,
) -> np.ndarray:
    """Probability of each answer for each scan, as the zero-shot pipeline gives it: (n_scans, n_answers)."""
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(next(iter(scans.values())))
    parts = []
    for start in tqdm(range(0, n_scans, batch_size), desc=question, unit="batch"):
        batch = {name: values[start : start + batch_size] for name, values in scans.items()}
        parts.append(answer_log_probabilities(model, prompt, answer_ids, **batch).double().softmax(-1))
    return torch.cat(parts).numpy()


def score_tasks(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, data: DemoData
) -> dict[str, dict[str, Any]]:
    """Scores of every label on the held-out scans: the model, logistic regression on connectivity, the majority
    class, and the model asked without a scan (what it would say from the question alone).

    Each entry has ``accuracy``, ``balanced_accuracy`` and ``auc``; the model's also the bootstrap standard error of
    its balanced accuracy over subjects.
    """
    scans = data.dataset.with_format("numpy", columns=["bold"], output_all_columns=True)
    subjects = np.array(data.dataset["subject_id"])
    masks = data.inputs["roi_mask"].numpy()
    bold = (scan["bold"] for scan in tqdm(scans, desc="Connectivity for the baseline", unit="scan"))
    connectivity = connectivity_features(bold, masks)
    tasks = {}
    for label in data.labels:
        classes = data.classes(label)
        train, test = data.labelled(label, data.train), data.labelled(label, data.test)
        truth = [data.labels[label][row] for row in test]
        known = [data.labels[label][row] for row in train]
        question = ASK_LABEL[0].format(label=label)
        inputs = {name: values[test] for name, values in data.inputs.items()}
        probabilities = answer_probabilities(model, processor, question, classes, inputs)
        prompt, answer_ids = encode_question(processor, question, classes, with_scan=False)
        blind = answer_log_probabilities(model, prompt, answer_ids).double().softmax(-1).numpy()
        logistic = fit_logistic(connectivity[train], known, connectivity[test], subjects[train])

        ours = _score(truth, probabilities, classes)
        interval = bootstrap_by_subject(
            partial(_balanced_accuracy, np.array(truth), probabilities, classes),
            subjects[test],
            n_resamples=200,
        )
        tasks[label] = {
            "question": question,
            "n_train": len(train),
            "n_test": len(test),
            "fmri_lm": ours | {"balanced_accuracy_se": interval.standard_error},
            "connectivity_logistic": logistic.score(truth),
            "majority": majority(known, len(test)).score(truth),
            "text_only": _score(truth, np.repeat(blind, len(test), axis=0), classes),
        }
    return tasks


def _score(truth: Sequence[str], probabilities: np.ndarray, classes: list[str]) -> dict[str, Any]:
    predicted = [classes[best] for best in probabilities.argmax(-1)]
    return score_classification(truth, predicted, probabilities, classes)


def _balanced_accuracy(
    truth: np.ndarray, probabilities: np.ndarray, classes: list[str], rows: np.ndarray
) -> float | None:
    return _score(truth[rows].tolist(), probabilities[rows], classes)["balanced_accuracy"]
