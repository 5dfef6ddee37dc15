"""Data leakage: checks for evaluated scans among the data that a model or a baseline was made from.

:func:`find_leaks` runs one check for each kind of leak in `KINDS`. A leak that no file records, such as a feature
selection made elsewhere on all scans, cannot be found: declare it as `FittedStatistics`. Leaks of these kinds explain
many published scores that did not replicate [1]_ [2]_.

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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..scans.likeness import like_pairs
from ..scans.splits import subjects_sha256
from .design import Design, training_records
from .tasks import Task, class_name, is_missing

COPY = 0.9  # share of common content from which two scans are copies; below it they overlap
KNOWN_SHARE = 0.5  # least share of the splits' subjects in the scan dataset, and of the dataset's in the splits
FEWEST_VALUES = 10  # from which a relation of two columns is no coincidence
MOST_LISTED = 5  # subjects or scans in a message


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
    """An evaluation was refused because of the leaks in `leaks`."""

    def __init__(self, leaks: Iterable[Leak]):
        self.leaks = list(leaks)
        listed = "\n".join(f"- {leak.kind}: {leak.message}" for leak in self.leaks)
        problems = _count(self.leaks, "problem")
        super().__init__(f"Evaluation refused: data leakage ({problems}):\n{listed}")


def find_leaks(design: Design) -> list[Leak]:
    """Find all leaks of a design, in the order of `KINDS`."""
    return [Leak(kind, message) for kind, check in _CHECKS.items() for message in check(design)]


# -------------------------------------------------------- the checks: each takes a design and yields a message a leak

_Check = Callable[[Design], Iterator[str]]
_CHECKS: dict[str, _Check] = {}


def _check_for(kind: str) -> Callable[[_Check], _Check]:
    """Register a check for a kind of leak."""

    def register(check: _Check) -> _Check:
        _CHECKS[kind] = check
        return check

    return register


@_check_for("subjects in two splits")
def _subjects_in_two_splits(design: Design) -> Iterator[str]:
    spellings = defaultdict(set)
    for split, members in design.splits.subjects.items():
        for subject in members:
            # one id is spelled in several ways: with `sub-` or without, with leading zeros or capitals
            canonical = re.sub(r"^(?:sub-)?0*(?=.)", "", subject.casefold())
            spellings[canonical].add((split, subject))
    twice = sorted(
        " and ".join(f"{subject!r} ({split})" for split, subject in sorted(of_subject))
        for of_subject in spellings.values()
        if len({split for split, _ in of_subject}) > 1
    )
    # rows are given apart from the splits: compare them as well
    both = design.subjects_of(design.evaluated) & design.subjects_of(design.rows["train"])
    twice = twice or sorted(map(repr, both))
    if twice:
        yield (
            f"{_count(twice, 'subject')} in two splits: {_some(twice)}. Make the splits again with `make_splits`, "
            "which keeps each subject in one split."
        )


@_check_for("families in two splits")
def _families_in_two_splits(design: Design) -> Iterator[str]:
    columns = {design.families, str(design.splits.parameters.get("group_by"))}
    for column in sorted(columns & set(design.scans.column_names)):
        splits_of = defaultdict(set)
        for split, family in zip(design.split_of_row, design.values(column)):
            if split is not None and not is_missing(family) and class_name(family) != "":
                splits_of[class_name(family)].add(split)
        divided = sorted(family for family, splits in splits_of.items() if len(splits) > 1)
        if divided:
            yield (
                f"{_count(divided, 'family', 'families')} of the column {column!r} in two splits: {_some(divided)}. "
                f"Relatives have similar brains: make the splits again with `group_by={column!r}`."
            )


@_check_for("evaluated scans in training")
def _evaluated_scans_in_training(design: Design) -> Iterator[str]:
    scan_ids = [design.scan_ids[design.contents.rows[place]] for place in design.evaluated_places]
    sketches = [design.contents.sketches[place] for place in design.evaluated_places]
    # by content, not by name: a copy under another id is as seen as the scan itself
    seen = {
        scan_id
        for record in training_records(design.training)
        for scan_id, held in zip(scan_ids, record.holds(sketches))
        if held
    }
    if seen:
        yield (
            f"The model was trained on {len(seen)} of {len(sketches)} evaluated scans: {_some(sorted(seen))}. Evaluate "
            "it with the splits of its training."
        )


@_check_for("copies in two splits")
def _copies_in_two_splits(design: Design) -> Iterator[str]:
    return _same_content(design, "with the same content", lambda share: share >= COPY)


@_check_for("overlapping scans in two splits")
def _overlapping_scans_in_two_splits(design: Design) -> Iterator[str]:
    return _same_content(design, "that overlap, as parts of one series do", lambda share: share < COPY)


def _same_content(design: Design, relation: str, counts: Callable[[float], bool]) -> Iterator[str]:
    """Find pairs of scans in two splits whose share of common content counts."""
    names = [f"{scan_id} ({split})" for scan_id, split in zip(design.scan_ids, design.split_of_row)]
    pairs = [
        f"{names[a]} and {names[b]}"
        for a, b, share in design.shared
        if design.split_of_row[a] != design.split_of_row[b] and counts(share)
    ]
    if pairs:
        yield (
            f"{_count(pairs, 'pair')} of scans in two splits {relation}: {_some(pairs)}. Keep one scan of each "
            "pair, or put both into one split."
        )


@_check_for("answers in prompts")
def _answers_in_prompts(design: Design) -> Iterator[str]:
    """Find prompts that name their scan's answer, or its value in a column that is declared as `forbidden`."""
    for name, prompts in design.prompts.items():
        task = design.tasks[name]
        asked = {
            row: f" {_words(prompts[scan_id])} "
            for row in design.evaluated
            if (scan_id := design.scan_ids[row]) in prompts
        }
        answers = design.answers(task)
        revealing = _revealing(asked, {row: answers[row] for row in asked}, task.classes)
        if revealing:
            scans = [design.scan_ids[row] for row in revealing]
            yield (
                f"Task {name!r}: {_count(scans, 'prompt')} with the right answer and no other: {_some(scans)}. "
                "Leave the answer out of the question."
            )
        for column in task.forbidden:
            values = {row: design.values(column)[row] for row in asked}
            known = {row: _words(class_name(v)) for row, v in values.items() if not is_missing(v)}
            # a number may be in a prompt by chance, but not right behind the name of its column
            revealing = _revealing(asked, known, set(known.values())) or [
                row for row, value in known.items() if f" {_words(column)} {value} " in asked[row]
            ]
            if revealing:
                scans = [design.scan_ids[row] for row in revealing]
                yield (
                    f"Task {name!r}: {_count(scans, 'prompt')} with the scan's {column!r}, which is declared as "
                    f"`forbidden`: {_some(scans)}. Leave it out of the question."
                )


def _revealing(prompts: Mapping[int, str], own: Mapping[int, Any], values: Collection[str]) -> list[int]:
    """Find prompts that name their scan's own value and no other.

    A question that is the same for all scans reveals nothing, neither does a list of all options. If any prompt names
    only a wrong value, prompts name values for another reason than the scan's answer, and none is counted.
    """
    if len(set(prompts.values())) < 2:
        return []
    phrases = {value: f" {_words(value)} " for value in values}
    alone = {}
    for row, prompt in prompts.items():
        named = [value for value, phrase in phrases.items() if phrase in prompt]
        if len(named) == 1 and own.get(row) is not None:
            alone[row] = named[0]
    right = [row for row, value in alone.items() if _words(own[row]) == _words(value)]
    return right if len(right) == len(alone) else []


@_check_for("statistics of evaluated scans")
def _statistics_of_evaluated_scans(design: Design) -> Iterator[str]:
    """Find statistics, feature selections and harmonisations that were fitted to evaluated subjects."""
    evaluated = design.subjects_of(design.evaluated)
    hashes = _hashes_with(evaluated, design)
    n_train = len(set(design.splits.subjects.get("train", ())))
    for fitted in design.fitted:
        source = None
        if fitted.subjects is not None:
            if both := sorted(fitted.subjects & evaluated):
                source = f"{_count(both, 'evaluated subject')}: {_some(both)}"
        elif fitted.subjects_sha256 in hashes:
            source = hashes[fitted.subjects_sha256]
        elif fitted.of_these_splits and fitted.n_subjects > n_train:
            source = f"{fitted.n_subjects} subjects, and the splits have {n_train} to train on"
        if source:
            yield f"{_capital(fitted.name)} was fitted to {source}. Fit it again, to the training subjects only."


def _hashes_with(evaluated: set[str], design: Design) -> dict[str, str]:
    """Hash all sets of subjects, evaluated ones among them, that statistics are likely to be fitted to.

    Where only the hash of the subjects is known, a set is recognised only if it is tried. Values describe the sets.
    """
    everybody = set(design.subjects)
    groups = {"all subjects of the scan dataset": everybody, f"the {design.split} subjects": evaluated}
    for parts in (("train",), ("validation",), ("train", "validation"), ("train", "validation", "test")):
        members = set().union(*(design.splits.subjects.get(part, ()) for part in parts))
        groups[f"the {' and '.join(parts)} subjects together with the evaluated ones"] = members | evaluated
    hashes: dict[str, str] = {}
    for title, members in groups.items():
        if members & evaluated:
            # also without subjects whose scans are absent: whoever fitted statistics had scans, not splits
            hashes.setdefault(subjects_sha256(members), title)
            hashes.setdefault(subjects_sha256(members & everybody), title)
    return hashes


@_check_for("harmonised without training")
def _harmonised_without_training(design: Design) -> Iterator[str]:
    trained = {design.sites[row] for row in design.rows["train"]}
    evaluated = {design.sites[row] for row in design.evaluated}
    for fitted in design.fitted:
        if unseen := sorted((fitted.sites & evaluated) - trained):
            yield (
                f"{_capital(fitted.name)} has parameters of {_some(unseen)}, where no training scan comes from: they "
                "were fitted to evaluated scans. A site that is not in training cannot be harmonised: fit without it, "
                "and evaluate its scans as they are."
            )


@_check_for("labels among confounds")
def _labels_among_confounds(design: Design) -> Iterator[str]:
    for name, task in design.tasks.items():
        for column in design.confounds.get(name, ()):
            if reason := _label_in_disguise(design, task, column):
                yield f"Task {name!r}: the confound {column!r} {reason}. Declare it as `forbidden` for this task."


def _label_in_disguise(design: Design, task: Task, column: str) -> str | None:
    """Return the reason why a column is as good as the label of a task; None if it is not."""
    if column == task.column:
        return "is the column that is asked about"
    if column in task.forbidden:
        return "is declared as `forbidden`"
    values, answers, labels = design.values(column), design.answers(task), design.values(task.column)
    known = [row for row, answer in enumerate(answers) if answer is not None and not is_missing(values[row])]
    if len(known) < FEWEST_VALUES:
        return None
    # classes that stand for answers one to one, such as 1 and 2 for female and male
    pairs = {(class_name(values[row]), str(answers[row])) for row in known}
    if len(pairs) > 1 and len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
        return f"has one value for each answer ({_some(sorted(f'{a}: {b}' for a, b in pairs))})"
    both = [(values[row], labels[row]) for row in known]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for pair in both for x in pair):
        return None
    # numbers that rank the scans as the label does, such as a score and its percentile
    first, second = np.array(both, dtype=float).T
    n_pairs = len(set(both))
    if n_pairs >= FEWEST_VALUES and n_pairs == len(np.unique(first)) == len(np.unique(second)):
        steps = np.diff(second[np.argsort(first, kind="stable")])
        if (steps >= 0).all() or (steps <= 0).all():
            return f"orders the scans as {task.column!r} does"
    return None


@_check_for("splits of other scans")
def _splits_of_other_scans(design: Design) -> Iterator[str]:
    named = {subject for members in design.splits.subjects.values() for subject in members}
    here, sites = set(design.subjects), set(design.sites)
    for these, others, which, where in (
        (named, here, "subjects that the splits name", "are in the scan dataset"),
        (here, named, "subjects of the scan dataset", "are named by the splits"),
    ):
        n_known = len(these & others)
        if n_known < KNOWN_SHARE * len(these):
            yield f"Of {len(these)} {which}, {n_known} {where}. Give the splits of these scans."
            return  # with splits of other scans, all further messages would be noise
    held_out = {str(site) for site in design.splits.parameters.get("holdout_sites") or ()}
    if absent := sorted(held_out - sites):
        yield (
            f"The splits hold out {_some(absent)}, and the scans are from {_some(sorted(sites))}. Give the splits of "
            "these scans."
        )
    wrong = sorted(design.subjects_of(row for row in design.rows["train"] if design.sites[row] in held_out))
    if wrong:
        yield (
            f"{_count(wrong, 'training subject')} with scans of a site that the splits hold out: {_some(wrong)}. The "
            "splits were made for other scans with the same subject ids: give the splits of these scans."
        )


@_check_for("one person under two names")
def _one_person_under_two_names(design: Design) -> Iterator[str]:
    contents = design.contents
    copies = {(a, b) for a, b, _ in design.shared}
    same_split = {  # copies in two splits are another kind of leak
        (a, b)
        for a, b in copies
        if design.split_of_row[a] == design.split_of_row[b] and design.subjects[a] != design.subjects[b]
    }
    like = like_pairs(
        contents.profiles,
        [design.sites[row] for row in contents.rows],
        [design.subjects[row] for row in contents.rows],
        design.evaluated_places,
    )
    alike = {tuple(sorted((contents.rows[a], contents.rows[b]))) for a, b, _ in like} - copies
    names = [f"{scan_id} of {subject}" for scan_id, subject in zip(design.scan_ids, design.subjects)]
    pairs = sorted(f"{names[a]} and {names[b]}" for a, b in same_split | alike)
    if pairs:
        yield (
            f"{_count(pairs, 'pair')} of scans under two subject ids that seem to be of one person, by their content "
            f"or connectivity: {_some(pairs)}. Give them one subject id, or report the leak if you know better."
        )


@_check_for("evaluated scans as examples")
def _evaluated_scans_as_examples(design: Design) -> Iterator[str]:
    evaluated = design.subjects_of(design.evaluated)
    shown = set(map(str, design.examples))
    wrong = sorted(
        scan_id
        for scan_id, subject in zip(design.scan_ids, design.subjects)
        if scan_id in shown and subject in evaluated
    )
    if wrong:
        yield (
            f"{_count(wrong, 'scan')} of evaluated subjects shown as examples with their answers: {_some(wrong)}. "
            "Draw examples from the training subjects."
        )


KINDS = tuple(_CHECKS)


# ------------------------------------------------------------------------------------------------- text of messages


def _words(text: Any) -> str:
    """Normalise a text to lower-case words and single spaces, so that prompts can be compared word by word."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", str(text).casefold()))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(items: Collection[Any], singular: str, plural: str | None = None) -> str:
    return f"{len(items)} {singular if len(items) == 1 else plural or singular + 's'}"


def _some(items: Sequence[str]) -> str:
    """List the first items, and how many more there are."""
    more = f" and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else ""
    return ", ".join(items[:MOST_LISTED]) + more
