"""Leaks of answers: in prompts, among confounds, and in what was fitted to judged scans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from ..scans.splits import subjects_sha256
from .design import Design
from .leak_words import capital, count, some, words
from .tasks import Task, class_name, is_missing

__all__ = ["answers_in_prompts", "harmonised_sites", "labels_among_confounds", "statistics_of_judged"]

FEWEST_VALUES = 10  # from which a relation of two columns is no accident


def answers_in_prompts(design: Design) -> Iterator[str]:
    """Prompts that name their scan's answer, or a declared neighbour of it."""
    for name, prompts in design.prompts.items():
        task = design.tasks[name]
        asked = {
            row: f" {words(prompts[scan_id])} "
            for row in design.judged
            if (scan_id := design.scan_ids[row]) in prompts
        }
        answers = design.answers(task)
        own = _told(asked, {row: answers[row] for row in asked}, task.classes)
        if own:
            told = [design.scan_ids[row] for row in own]
            yield (
                f"Task {name!r}: {count(told, 'prompt')} that names the right answer and none of the others: "
                f"{some(told)}. Ask without it."
            )
        for column in task.forbidden:
            values = {row: design.values(column)[row] for row in asked}
            known = {row: words(class_name(v)) for row, v in values.items() if not is_missing(v)}
            named = {row: f" {words(column)} {value} " for row, value in known.items()}
            # a number may stand in a prompt by chance; behind the name of its column it does not
            own = _told(asked, known, set(known.values())) or [
                row for row, phrase in named.items() if phrase in asked[row]
            ]
            if own:
                told = [design.scan_ids[row] for row in own]
                yield (
                    f"Task {name!r}: {count(told, 'prompt')} that gives the scan's {column!r}, which is declared as a "
                    f"neighbour of the answer: {some(told)}. Ask without it."
                )


def _told(asked: dict[int, str], own: Mapping[int, Any], values: Collection[str]) -> list[int]:
    """Prompts that name their scan's own value and no other, if no prompt names another's alone.

    A wording that is the same for all tells nothing about any of them, and a list of options names each.
    """
    if len(set(asked.values())) < 2:
        return []
    named = {
        row: {value for value in values if f" {words(value)} " in prompt} for row, prompt in asked.items()
    }
    single = {row: next(iter(found)) for row, found in named.items() if len(found) == 1}
    right = [
        row for row, value in single.items() if own.get(row) is not None and words(own[row]) == words(value)
    ]
    return right if len(right) == len([row for row in single if own.get(row) is not None]) else []


def labels_among_confounds(design: Design) -> Iterator[str]:
    """Confounds that are the label in other words."""
    for name, task in design.tasks.items():
        for column in design.confounds.get(name, ()):
            reason = _tells(design, task, column)
            if reason:
                yield (
                    f"Task {name!r}: the confound {column!r} {reason}. Declare it as `forbidden` for this "
                    "task."
                )


def _tells(design: Design, task: Task, column: str) -> str | None:
    """Why a column tells the label of a task; None if it does not."""
    if column == task.column:
        return "is the column that is asked about"
    if column in task.forbidden:
        return "is declared as a neighbour of the answer"
    values, answers, asked = design.values(column), design.answers(task), design.values(task.column)
    known = [row for row, answer in enumerate(answers) if answer is not None and not is_missing(values[row])]
    if len(known) < FEWEST_VALUES:
        return None
    pairs = {(class_name(values[row]), answers[row]) for row in known}
    if len(pairs) > 1 and len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
        return f"has one value for each answer ({some(sorted(f'{a}: {b}' for a, b in pairs))})"
    both = [(values[row], asked[row]) for row in known]
    if all(isinstance(each, (int, float)) and not isinstance(each, bool) for pair in both for each in pair):
        first, second = np.array(both, dtype=float).T
        n_different = len(set(both))
        if n_different >= FEWEST_VALUES and n_different == len(np.unique(first)) == len(np.unique(second)):
            order = np.argsort(first, kind="stable")
            steps = np.diff(second[order])
            if (steps >= 0).all() or (steps <= 0).all():
                return f"orders the scans as {task.column!r} does"
    return None


# ------------------------------------------------------------------------------------------------- what was fitted


def statistics_of_judged(design: Design) -> Iterator[str]:
    """Statistics, selections of features and harmonisations that were fitted to judged subjects."""
    members = {split: set(found) for split, found in design.splits.subjects.items()}
    judged = {design.subjects[row] for row in design.judged}
    here = set(design.subjects)
    train = members.get("train", set())
    unions = {"all subjects of the scan dataset": here, f"the {design.split} subjects": judged}
    for parts in (("train",), ("validation",), ("train", "validation"), ("train", "validation", "test")):
        together = set().union(*(members.get(part, set()) for part in parts))
        unions[f"the {' and '.join(parts)} subjects together with those judged"] = together | judged
    hashes: dict[str, str] = {}
    for title, subjects in unions.items():
        if subjects & judged:
            hashes.setdefault(subjects_sha256(subjects), title)
            hashes.setdefault(subjects_sha256(subjects & here), title)
    for fitted in design.fitted:
        found = None
        if fitted.subjects is not None:
            if both := sorted(fitted.subjects & judged):
                found = f"was fitted to {count(both, 'judged subject')}: {some(both)}"
        elif fitted.subjects_sha256 in hashes:
            found = f"was fitted to {hashes[fitted.subjects_sha256]}"
        elif fitted.of_these_splits and fitted.n_subjects > len(train):
            found = (
                f"was fitted to {fitted.n_subjects} subjects, and the splits have {len(train)} to train on"
            )
        if found:
            yield f"{capital(fitted.name)} {found}. Fit it again, to the training subjects only."


def harmonised_sites(design: Design) -> Iterator[str]:
    """Sites with parameters of their own, from where no training scan is."""
    trained = {design.sites[row] for row in design.rows["train"]}
    judged = {design.sites[row] for row in design.judged}
    for fitted in design.fitted:
        if unseen := sorted((fitted.sites & judged) - trained):
            yield (
                f"{capital(fitted.name)} has parameters of {some(unseen)}, from where no training scan is, so that "
                "they come from judged scans. A site that training did not see cannot be harmonised: fit without it, "
                "and judge its scans as they are."
            )
