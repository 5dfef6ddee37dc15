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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..scans.likeness import like_pairs
from ..scans.splits import subjects_sha256
from .design import Design
from .tasks import Task, class_name, is_missing

# How leaks are put into sentences, and how prompts are compared word by word.

MOST_NAMED = 5  # of what was found, in a sentence


def words(text: Any) -> str:
    """A text as small words with single spaces between."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", str(text).casefold()))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def count(found: Collection[Any], one: str, many: str | None = None) -> str:
    return f"{len(found)} {one if len(found) == 1 else many or one + 's'}"


def some(found: Collection[str]) -> str:
    """The first of what was found, and how many more there are."""
    listed = list(found)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


# Leaks between scans: the same people, families, measurements or examples on both sides of a split.

COPY = 0.9  # share of content in common from which two scans are called copies; those of less overlap
KNOWN_PART = 0.5  # of the subjects that splits name, and of those that the scans are of, that the other has


def subjects(design: Design) -> Iterator[str]:
    """Subjects in two splits, however their ids are written."""
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
            f"{count(twice, 'subject')} in two splits: {some(twice)}. Make the splits anew with `make_splits`, which "
            "keeps a subject in one."
        )


def families(design: Design) -> Iterator[str]:
    """Families in two splits."""
    columns = {design.families, str(design.splits.parameters.get("group_by"))}
    for column in sorted(columns & set(design.scans.column_names)):
        where = defaultdict(set)
        for row, family in enumerate(design.values(column)):
            if design.split_of_row[row] is not None and not is_missing(family) and class_name(family) != "":
                where[class_name(family)].add(design.split_of_row[row])
        torn = sorted(family for family, splits in where.items() if len(splits) > 1)
        if torn:
            yield (
                f"{count(torn, 'family', 'families')} of the column {column!r} in two splits: {some(torn)}. Relatives "
                f"have similar brains; make the splits anew with `group_by={column!r}`."
            )


def splits_of_others(design: Design) -> Iterator[str]:
    """Splits that were made for other scans."""
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
            f"The splits hold out {some(absent)}, and the scans are from {some(sorted(sites))}. Give the splits of "
            "these scans."
        )
    wrong = sorted({design.subjects[row] for row in design.rows["train"] if design.sites[row] in held_out})
    if wrong:
        yield (
            f"{count(wrong, 'training subject')} with scans of a site that the splits hold out: {some(wrong)}. The "
            "splits were made for other scans whose subjects have the same ids; give those of these scans."
        )


def examples(design: Design) -> Iterator[str]:
    """Examples, shown with their answer, of subjects who are judged."""
    judged = {design.subjects[row] for row in design.judged}
    shown = set(map(str, design.examples))
    wrong = sorted(
        scan_id
        for scan_id, subject in zip(design.scan_ids, design.subjects)
        if scan_id in shown and subject in judged
    )
    if wrong:
        yield (
            f"{count(wrong, 'scan')} shown as an example with the answer, of subjects who are judged: {some(wrong)}. "
            "Draw examples from the training subjects."
        )


# --------------------------------------------------------------------------------------------------- content of scans


def trained_on(design: Design) -> Iterator[str]:
    """Judged scans that the model was trained on."""
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
            f"{some(sorted(seen))}. Judge it by the splits of its training."
        )


def copies(design: Design) -> Iterator[str]:
    """Scans in two splits that are one measurement."""
    return _same_content(design, whole=True)


def overlaps(design: Design) -> Iterator[str]:
    """Scans in two splits that share a part of one measurement."""
    return _same_content(design, whole=False)


def _same_content(design: Design, whole: bool) -> Iterator[str]:
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
            f"{count(found, 'pair')} of scans in two splits {what}: {some(found)}. Keep one scan of each, or give "
            "both to one split."
        )


def identities(design: Design) -> Iterator[str]:
    """People under two names, from content or connectivity."""
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
            f"{count(found, 'pair')} of scans under two subject ids that seem to be of one person, from their content "
            f"or connectivity: {some(found)}. Give them one subject id, or report the leak if you know better."
        )


def _canonical(subject: str) -> str:
    """A subject id without what may be written or not: `sub-`, leading zeros, capitals."""
    return re.sub(r"^(?:sub-)?0*(?=.)", "", subject.casefold())


# Leaks of answers: in prompts, among confounds, and in what was fitted to judged scans.

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


_CHECKS: dict[str, Callable[[Design], Iterator[str]]] = {
    "subjects in two splits": subjects,
    "families in two splits": families,
    "judged scans in training": trained_on,
    "copies in two splits": copies,
    "overlapping scans in two splits": overlaps,
    "answers in prompts": answers_in_prompts,
    "statistics of judged scans": statistics_of_judged,
    "harmonised without training": harmonised_sites,
    "labels among confounds": labels_among_confounds,
    "splits of other scans": splits_of_others,
    "one person under two names": identities,
    "judged scans as examples": examples,
}
KINDS = tuple(_CHECKS)


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
