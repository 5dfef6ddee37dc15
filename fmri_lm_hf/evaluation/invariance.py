"""Does an answer hang on how it is asked for? The same scans, asked in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from .judgement import Judgement
from .readers import OURS
from .study import Study, among_classes

__all__ = ["wording_invariance"]


def wording_invariance(
    study: Study, judgements: Mapping[str, Judgement], n_wordings: int = 10
) -> dict[str, dict[str, Any]]:
    """The scores of other wordings of each task, and how often they get the answer of the first one.

    The order in which answers are offered cannot matter: each is scored for itself, behind a question that does not
    list them.

    Parameters
    ----------
    study : Study
    judgements : mapping of str to Judgement
        Of each task, by its first wording.
    n_wordings : int
        How many of a task's other wordings are asked, the first ones.

    Returns
    -------
    dict
        Task -> ``wordings`` (question -> ``balanced_accuracy`` and ``agreement``, the share of scans whose answer is
        that to the first wording), and over these ``agreement`` (mean) and the ``lowest`` and ``highest`` balanced
        accuracy. Tasks of one wording are left out.
    """
    others = {
        (name, question): replace(judgement.task, ask=(question,))
        for name, judgement in judgements.items()
        for question in judgement.task.ask[1 : 1 + n_wordings]
    }
    if not others:
        return {}
    asked = {f"{name}\n{question}": task for (name, question), task in others.items()}
    found = study.read.log_probabilities(study.model, study.processor, asked)
    results: dict[str, dict[str, Any]] = {}
    for name, question in others:
        judgement = judgements[name]
        said = found[f"{name}\n{question}"][study.read.places(judgement.rows)]
        answers = among_classes(said, judgement.task, judgement.classes).argmax(1)
        first = judgement.answers[OURS].probabilities.argmax(1)
        results.setdefault(name, {"wordings": {}})["wordings"][question] = {
            "balanced_accuracy": float(balanced_accuracy_score(judgement.labels, answers)),
            "agreement": float(np.mean(answers == first)),
        }
    for of_task in results.values():
        scores = [each["balanced_accuracy"] for each in of_task["wordings"].values()]
        agreements = [each["agreement"] for each in of_task["wordings"].values()]
        of_task |= {
            "agreement": float(np.mean(agreements)),
            "lowest": min(scores),
            "highest": max(scores),
        }
    return results
