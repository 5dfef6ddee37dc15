"""Answers without one label: a task that states its hypothesis in words is answered by how far scans agree with it.

Scans are compared with the other scans that are judged, of the same site where sites differ. So classes are taken to be
about equally frequent among them; a ranking (AUC) does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .features import Unavailable
from .hypothesis import (
    Statement,
    direct_probabilities,
    parse_hypothesis,
    relative_to,
    statement_probabilities,
)
from .readers import reader
from .study import Answer, Question
from .tasks import Task
from .truth import names_of_networks

__all__ = ["agreement_of_classes"]

# Rows of scans and statements -> how probable each statement is of each scan, (n_scans, n_statements).
Probable = Callable[[Sequence[int], Sequence[Statement]], np.ndarray]


def _states_one(task: Task) -> bool:
    return bool(task.hypothesis)


@reader("hypothesis", "fMRI-LM asked for the hypothesis, no labels", "model", asked=_states_one)
def _hypothesis(question: Question) -> Answer:
    study = question.study
    if not study.model.config.reads_network_pairs:
        raise Unavailable("The model has no tokens of network pairs, of which the hypothesis speaks.")

    def probable(rows: Sequence[int], statements: Sequence[Statement]) -> np.ndarray:
        places = study.read.places(rows)
        inputs = {name: values[places] for name, values in study.read.inputs.items()}
        return statement_probabilities(study.model, study.processor, inputs, statements)

    return _answer(question, probable)


@reader("hypothesis_direct", "the hypothesis computed from the scan", "baseline", asked=_states_one)
def _hypothesis_direct(question: Question) -> Answer:
    study = question.study

    def probable(rows: Sequence[int], statements: Sequence[Statement]) -> np.ndarray:
        inputs = study.processor(fmri=[study.scans[row] for row in rows])
        return direct_probabilities(study.processor, inputs, statements)

    return _answer(question, probable)


def _answer(question: Question, probable: Probable) -> Answer:
    if question.study.processor.feature_extractor.atlas is None:
        raise Unavailable("The processor has no atlas, and so no networks, of which the hypothesis speaks.")
    names = names_of_networks(question.study.processor)
    sites = np.array([question.study.sites[row] for row in question.test])
    statements = {
        answer: parse_hypothesis(text, names)
        for answer, text in question.task.hypothesis.items()
        if answer in question.classes
    }
    agreement: dict[str, np.ndarray] = {}
    if statements:
        found = probable(question.test, [each for of_answer in statements.values() for each in of_answer])
        for site in np.unique(sites):
            here = sites == site
            found[here] = relative_to(found[here], found[here])
        ends = np.cumsum([len(of_answer) for of_answer in statements.values()])
        of_answers = np.split(found, ends[:-1], axis=1)
        agreement = {answer: each.mean(1) for answer, each in zip(statements, of_answers, strict=True)}
    return Answer(agreement_of_classes(agreement, question.classes))


def agreement_of_classes(agreement: dict[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Probabilities of classes, from how far scans agree with what marks some of them.

    Parameters
    ----------
    agreement : dict of str to ndarray of shape (n_scans,)
        Between 0 and 1, by class. Classes without a hypothesis share what is left by the one that agrees most.
    classes : sequence of str

    Returns
    -------
    ndarray of shape (n_scans, n_classes)
        Sums to one.
    """
    if not agreement:
        raise Unavailable("The hypothesis is about none of the answers that scans have.")
    left = 1 - np.max(list(agreement.values()), axis=0)
    n_left = len(classes) - len(agreement)
    found = np.stack([agreement.get(name, left / max(n_left, 1)) for name in classes], axis=1)
    # a scan that agrees with none, and leaves nothing to others, says nothing
    found = np.where(found.sum(1, keepdims=True) > 0, found, 1.0)
    return found / found.sum(1, keepdims=True)
