"""Leaks between scans: the same people, families, measurements or examples on both sides of a split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from ..scans.likeness import like_pairs
from .design import Design
from .leak_words import count, some
from .tasks import class_name, is_missing

__all__ = [
    "copies",
    "examples",
    "families",
    "identities",
    "overlaps",
    "splits_of_others",
    "subjects",
    "trained_on",
]

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
