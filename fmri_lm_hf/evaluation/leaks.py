"""Leaks between what a model or a baseline was made from and what it is judged on: found, named, and refused.

Twelve kinds are looked for, each by a check of its own: subjects, families and copies of scans in two splits; people
under two names; judged scans that the model was trained on; prompts that tell the answer; statistics and
harmonisation fitted to judged scans; confounds that are the label; splits of another dataset; and judged scans among
the examples that are shown. What is written down nowhere (a selection of features made elsewhere on all scans) cannot
be found: declare it as `FittedStatistics`. Leakage of this kind is what inflated most of the published scores that
could not be repeated [1]_ [2]_.

References
----------
.. [1] Kapoor S, Narayanan A (2023). Leakage and the reproducibility crisis in machine-learning-based science. Patterns
   4, 100804. doi:10.1016/j.patter.2023.100804
.. [2] Rosenblatt M, Tejavibulya L, Jiang R, Noble S, Scheinost D (2024). Data leakage inflates prediction performance
   in connectome-based machine learning models. Nature Communications 15, 1829. doi:10.1038/s41467-024-46150-w
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..scans.likeness import like_pairs
from ..scans.splits import subjects_sha256
from .design import Design
from .tasks import Task, class_name, is_missing

__all__ = ["KINDS", "Leak", "LeakError", "check_leaks", "find_leaks"]

COPY = 0.9  # share of content in common from which two scans are called copies; those of less overlap
MOST_NAMED = 5  # of what was found, in a message
FEWEST_VALUES = 10  # from which a relation of two columns is no accident
KNOWN_PART = 0.5  # of the subjects that splits name, and of those that the scans are of, that the other has


@dataclass(frozen=True)
class Leak:
    """One leak.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    message : str
        What was found, and what to do.
    """

    kind: str
    message: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class LeakError(ValueError):
    """Scores would not be worth what they say: `leaks` lists why."""

    def __init__(self, leaks: Iterable[Leak]):
        self.leaks = list(leaks)
        found = "\n".join(f"- {leak.kind}: {leak.message}" for leak in self.leaks)
        super().__init__(
            f"Nothing was judged, since what is judged leaked into what was made before ({len(self.leaks)} found):\n"
            f"{found}"
        )


def check_leaks(design: Design) -> None:
    """Refuse a design with leaks.

    Raises
    ------
    LeakError
        With all that were found.
    """
    if leaks := find_leaks(design):
        raise LeakError(leaks)


def find_leaks(design: Design) -> list[Leak]:
    """All leaks of a design, in the order of `KINDS`."""
    return [Leak(kind, message) for kind, check in _CHECKS.items() for message in check(design)]


# ------------------------------------------------------------------------------------------------------- who is where


def _subjects(design: Design) -> Iterator[str]:
    where = defaultdict(set)
    for split, members in design.splits.subjects.items():
        for subject in members:
            where[_canonical(subject)].add((split, subject))
    twice = sorted(
        " and ".join(f"{subject!r} ({split})" for split, subject in sorted(found))
        for found in where.values()
        if len({split for split, _ in found}) > 1
    )
    train = {design.subjects[row] for row in design.rows["train"]}
    twice = twice or sorted(map(repr, {design.subjects[row] for row in design.judged} & train))
    if twice:
        yield (
            f"{_count(twice, 'subject')} in two splits: {_some(twice)}. Make the splits anew with `make_splits`, which "
            "keeps a subject in one."
        )


def _families(design: Design) -> Iterator[str]:
    if design.families not in design.scans.column_names:
        return
    where = defaultdict(set)
    for row, family in enumerate(design.values(design.families)):
        if design.split_of_row[row] is not None and not is_missing(family) and class_name(family) != "":
            where[class_name(family)].add(design.split_of_row[row])
    torn = sorted(family for family, splits in where.items() if len(splits) > 1)
    if torn:
        yield (
            f"{_count(torn, 'family', 'families')} of the column {design.families!r} in two splits: {_some(torn)}. "
            f"Relatives have similar brains; make the splits anew with `group_by={design.families!r}`."
        )


def _splits(design: Design) -> Iterator[str]:
    named = {subject for members in design.splits.subjects.values() for subject in members}
    here, sites = set(design.subjects), set(design.sites)
    for of, other, whose, lacks in (
        (named, here, "subjects that the splits name", "are in the scan dataset"),
        (here, named, "subjects of the scan dataset", "are named by the splits"),
    ):
        n_known = len(of & other)
        if n_known < KNOWN_PART * len(of):
            yield f"Of {len(of)} {whose}, {n_known} {lacks}. Give the splits of these scans."
            return
    held_out = {str(site) for site in design.splits.parameters.get("holdout_sites") or ()}
    if absent := sorted(held_out - sites):
        yield (
            f"The splits hold out {_some(absent)}, and the scans are from {_some(sorted(sites))}. Give the splits of "
            "these scans."
        )
    wrong = sorted({design.subjects[row] for row in design.rows["train"] if design.sites[row] in held_out})
    if wrong:
        yield (
            f"{_count(wrong, 'training subject')} with scans of a site that the splits hold out: {_some(wrong)}. The "
            "splits were made for other scans whose subjects have the same ids; give those of these scans."
        )


def _examples(design: Design) -> Iterator[str]:
    judged = {design.subjects[row] for row in design.judged}
    shown = set(map(str, design.examples))
    wrong = sorted(
        scan_id
        for scan_id, subject in zip(design.scan_ids, design.subjects)
        if scan_id in shown and subject in judged
    )
    if wrong:
        yield (
            f"{_count(wrong, 'scan')} shown as an example with the answer, of subjects who are judged: {_some(wrong)}. "
            "Draw examples from the training subjects."
        )


# --------------------------------------------------------------------------------------------------- content of scans


def _training(design: Design) -> Iterator[str]:
    sketches = [design.contents.sketches[place] for place in design.judged_places]
    seen = set()
    for record in design.training_records:
        seen |= {
            design.scan_ids[design.contents.rows[place]]
            for place, held in zip(design.judged_places, record.holds(sketches))
            if held
        }
    if seen:
        yield (
            f"{len(seen)} of {len(sketches)} judged scans are among those that the model was trained on: "
            f"{_some(sorted(seen))}. Judge it by the splits of its training."
        )


def _copies(design: Design, whole: bool) -> Iterator[str]:
    found = [
        f"{design.scan_ids[a]} ({design.split_of_row[a]}) and {design.scan_ids[b]} ({design.split_of_row[b]})"
        for a, b, share in design.shared
        if design.split_of_row[a] != design.split_of_row[b] and (share >= COPY) == whole
    ]
    if found:
        what = (
            "with the same content"
            if whole
            else "that are cut from, or overlap with, one and the same series"
        )
        yield (
            f"{_count(found, 'pair')} of scans in two splits {what}: {_some(found)}. Keep one scan of each, or give "
            "both to one split."
        )


def _identities(design: Design) -> Iterator[str]:
    copies = {(a, b) for a, b, _ in design.shared}
    shared = {  # those in two splits have a name of their own
        (a, b)
        for a, b in copies
        if design.split_of_row[a] == design.split_of_row[b] and design.subjects[a] != design.subjects[b]
    }
    contents = design.contents
    like = like_pairs(
        contents.profiles,
        [design.sites[row] for row in contents.rows],
        [design.subjects[row] for row in contents.rows],
        design.judged_places,
    )
    alike = {tuple(sorted((contents.rows[a], contents.rows[b]))) for a, b, _ in like} - copies
    found = sorted(
        f"{design.scan_ids[a]} of {design.subjects[a]} and {design.scan_ids[b]} of {design.subjects[b]}"
        for a, b in shared | alike
    )
    if found:
        yield (
            f"{_count(found, 'pair')} of scans under two subject ids that seem to be of one person, from their content "
            f"or connectivity: {_some(found)}. Give them one subject id, or report the leak if you know better."
        )


# ------------------------------------------------------------------------------------------- what tells the answer


def _prompts(design: Design) -> Iterator[str]:
    for name, prompts in design.prompts.items():
        task = design.tasks[name]
        asked = {
            row: f" {_words(prompts[scan_id])} "
            for row in design.judged
            if (scan_id := design.scan_ids[row]) in prompts
        }
        answers = design.answers(task)
        own = _told(asked, {row: answers[row] for row in asked}, task.classes)
        if own:
            told = [design.scan_ids[row] for row in own]
            yield (
                f"Task {name!r}: {_count(told, 'prompt')} that names the right answer and none of the others: "
                f"{_some(told)}. Ask without it."
            )
        for column in task.forbidden:
            values = design.values(column)
            known = {
                row: None
                if is_missing(values[row])
                else f"{_words(column)} {_words(class_name(values[row]))}"
                for row in asked
            }
            bare = {
                row: None if is_missing(values[row]) else _words(class_name(values[row])) for row in asked
            }
            own = _told(asked, bare, set(bare.values()) - {None}) or [
                row for row, value in known.items() if value and f" {value} " in asked[row]
            ]
            if own:
                told = [design.scan_ids[row] for row in own]
                yield (
                    f"Task {name!r}: {_count(told, 'prompt')} that gives the scan's {column!r}, which is declared as a "
                    f"neighbour of the answer: {_some(told)}. Ask without it."
                )


def _told(asked: dict[int, str], own: dict[int, Any], values: Collection[str]) -> list[int]:
    """Prompts that name their scan's own value and no other, if no prompt names another's alone.

    A wording that is the same for all tells nothing about any of them, and a list of options names each.
    """
    if len(set(asked.values())) < 2:
        return []
    named = {
        row: {value for value in values if f" {_words(value)} " in prompt} for row, prompt in asked.items()
    }
    single = {row: next(iter(found)) for row, found in named.items() if len(found) == 1}
    right = [
        row for row, value in single.items() if own[row] is not None and _words(own[row]) == _words(value)
    ]
    return right if len(right) == len([row for row in single if own[row] is not None]) else []


def _confounds(design: Design) -> Iterator[str]:
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
        return f"has one value for each answer ({_some(sorted(f'{a}: {b}' for a, b in pairs))})"
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


def _statistics(design: Design) -> Iterator[str]:
    members = {split: set(found) for split, found in design.splits.subjects.items()}
    judged = {design.subjects[row] for row in design.judged}
    here = set(design.subjects)
    train = members.get("train", set())
    unions = {"all subjects of the scan dataset": here, f"the {design.split} subjects": judged}
    for parts in (("train",), ("validation",), ("train", "validation"), ("train", "validation", "test")):
        together = set().union(*(members.get(part, set()) for part in parts))
        unions[f"the {' and '.join(parts)} subjects together with those judged"] = together | judged
    hashes = {}
    for title, subjects in unions.items():
        if subjects & judged:
            hashes.setdefault(subjects_sha256(subjects), title)
            hashes.setdefault(subjects_sha256(subjects & here), title)
    for fitted in design.fitted:
        found = None
        if fitted.subjects is not None:
            if both := sorted(fitted.subjects & judged):
                found = f"was fitted to {_count(both, 'judged subject')}: {_some(both)}"
        elif fitted.subjects_sha256 in hashes:
            found = f"was fitted to {hashes[fitted.subjects_sha256]}"
        elif fitted.of_these_splits and fitted.n_subjects > len(train):
            found = (
                f"was fitted to {fitted.n_subjects} subjects, and the splits have {len(train)} to train on"
            )
        if found:
            yield f"{_capital(fitted.name)} {found}. Fit it again, to the training subjects only."


def _harmonised_sites(design: Design) -> Iterator[str]:
    trained = {design.sites[row] for row in design.rows["train"]}
    judged = {design.sites[row] for row in design.judged}
    for fitted in design.fitted:
        if unseen := sorted((fitted.sites & judged) - trained):
            yield (
                f"{_capital(fitted.name)} has parameters of {_some(unseen)}, from where no training scan is, so that "
                "they come from judged scans. A site that training did not see cannot be harmonised: fit without it, "
                "and judge its scans as they are."
            )


# ---------------------------------------------------------------------------------------------------------- helpers

_CHECKS: dict[str, Callable[[Design], Iterator[str]]] = {
    "subjects in two splits": _subjects,
    "families in two splits": _families,
    "judged scans in training": _training,
    "copies in two splits": lambda design: _copies(design, whole=True),
    "overlapping scans in two splits": lambda design: _copies(design, whole=False),
    "answers in prompts": _prompts,
    "statistics of judged scans": _statistics,
    "harmonised without training": _harmonised_sites,
    "labels among confounds": _confounds,
    "splits of other scans": _splits,
    "one person under two names": _identities,
    "judged scans as examples": _examples,
}
KINDS = tuple(_CHECKS)


def _canonical(subject: str) -> str:
    """A subject id without what may be written or not: `sub-`, leading zeros, capitals."""
    return re.sub(r"^(?:sub-)?0*(?=.)", "", subject.casefold())


def _words(text: Any) -> str:
    """A text as small words with single spaces between."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", str(text).casefold()))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(found: Collection[Any], one: str, many: str | None = None) -> str:
    return f"{len(found)} {one if len(found) == 1 else many or one + 's'}"


def _some(found: Collection[str]) -> str:
    """The first of what was found, and how many more there are."""
    listed = list(found)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
