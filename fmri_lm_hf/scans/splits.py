"""Splits by subject: no subject, and optionally no family or site, is in two splits."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

SPLITS = ("train", "validation", "test")


def subjects_sha256(subjects: Iterable[str]) -> str:
    """Hash a set of subject ids, to compare two sets without naming anyone."""
    return hashlib.sha256("\n".join(sorted(set(subjects))).encode()).hexdigest()


@dataclass(frozen=True)
class SplitManifest:
    """The split of each subject, and the parameters of the split.

    Attributes
    ----------
    subjects : dict of str to list of str
        Sorted subject ids of each split that has any.
    parameters : dict
        Arguments of :func:`make_splits`.
    """

    subjects: dict[str, list[str]]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the assignment: equal for two datasets with the same splits, whatever their parameters."""
        return hashlib.sha256(json.dumps(self.subjects, sort_keys=True).encode()).hexdigest()

    def split_of(self) -> dict[str, str]:
        """Map each subject to its split."""
        return {subject: split for split, members in self.subjects.items() for subject in members}

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for `splits.json`."""
        return {"sha256": self.sha256, "parameters": self.parameters, "subjects": self.subjects}

    @classmethod
    def from_json(cls, path: str | Path) -> SplitManifest:
        """Read a manifest; check its hash, and that no subject is in two splits."""
        path = Path(path)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls({k: sorted(v) for k, v in record["subjects"].items()}, record.get("parameters", {}))
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path} is not a split manifest: expected the `splits.json` of a corpus, a JSON object with "
                '"subjects": {"train": [...], ...}.'
            ) from error
        unknown = set(manifest.subjects) - set(SPLITS)
        if unknown:
            raise ValueError(f"{path} names the splits {sorted(unknown)}, expected some of {', '.join(SPLITS)}.")
        counts = Counter(subject for split in manifest.subjects.values() for subject in split)
        twice = sorted(subject for subject, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"{path} has {', '.join(twice[:5])} in two splits, expected each subject in one.")
        if record.get("sha256", manifest.sha256) != manifest.sha256:
            raise ValueError(
                f"{path} was changed: its subjects have the hash {manifest.sha256[:12]}, expected "
                f"{record['sha256'][:12]}. Use the original, or remove the line with the hash."
            )
        return manifest


def make_splits(
    scans: Sequence[Mapping[str, Any]],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    group_by: str | None = None,
    holdout_sites: Sequence[str] = (),
    seed: int = 0,
) -> SplitManifest:
    """Split subjects into train, validation and test.

    Parameters
    ----------
    scans : sequence of mappings
        Rows with `subject_id`, `site`, and the column `group_by`.
    fractions : sequence of three floats, default=(0.8, 0.1, 0.1)
        Share of the subjects that train, validation and test should get; they sum to 1. A split with a share above
        0 gets at least one group.
    group_by : str, optional
        Keep subjects together that share a value of this column, such as `family_id` or `site`.
    holdout_sites : sequence of str
        All subjects with a scan from these sites are in the test split. `fractions` then divides the others between
        train and validation; its third number is not used.
    seed : int, default=0
        Seed of the order in which groups are assigned.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or not fractions[0]:
        raise ValueError(
            f"fractions={tuple(fractions)} found, expected three numbers of at least 0 for train, validation and "
            "test that sum to 1, with a share for train above 0."
        )
    groups = _groups(scans, group_by)
    sites = {str(scan["site"]) for scan in scans}
    absent = [site for site in holdout_sites if site not in sites]
    if absent:
        raise ValueError(f"No scan is from site {', '.join(absent)}; the sites are {', '.join(sorted(sites))}.")
    held_out = {str(scan["subject_id"]) for scan in scans if str(scan["site"]) in holdout_sites}
    # A whole group is held out with its subject: a relative at another site would tell of the test subject.
    test_groups = [group for group in groups if held_out & set(group)]
    others = [group for group in groups if not held_out & set(group)]
    # Ordered by a hash, not a generator: the order depends on the seed and the subjects, not on the order of the scans.
    others.sort(key=lambda group: hashlib.sha256(f"{seed}/{group[0]}".encode()).digest())
    shares = [fractions[0], fractions[1], 0.0 if holdout_sites else fractions[2]]
    stops = _stops([len(group) for group in others], shares, group_by)
    members = {split: others[a:b] for split, a, b in zip(SPLITS, [0, *stops], stops, strict=False)}
    members["test"] = members["test"] + test_groups
    parameters = {
        "fractions": [float(fraction) for fraction in fractions],
        "group_by": group_by,
        "holdout_sites": list(holdout_sites),
        "seed": seed,
    }
    subjects = {split: sorted(itertools.chain.from_iterable(found)) for split, found in members.items() if found}
    return SplitManifest(subjects, parameters)


def _groups(scans: Sequence[Mapping[str, Any]], group_by: str | None) -> list[list[str]]:
    """Group subjects that have to stay together, directly or through others (a subject may belong to two sites)."""
    if group_by is not None and group_by not in scans[0]:
        raise ValueError(
            f"The scans have no column {group_by!r} to keep subjects together by; they have {', '.join(scans[0])}."
        )
    nodes: dict[tuple[str, str], int] = {}  # subjects and the groups that they belong to, numbered
    edges = []
    for scan in scans:
        subject = group = nodes.setdefault(("subject", str(scan["subject_id"])), len(nodes))
        if group_by is not None and scan[group_by] is not None:
            # A missing value connects nobody: subjects without a family are not one family.
            group = nodes.setdefault(("group", str(scan[group_by])), len(nodes))
        edges.append((subject, group))
    rows, columns = np.array(edges, dtype=int).reshape(-1, 2).T
    # A subject at two sites links all subjects of both, and so on: groups are the connected components.
    graph = sparse.coo_matrix((np.ones(len(edges)), (rows, columns)), (len(nodes), len(nodes)))
    _, components = sparse.csgraph.connected_components(graph, directed=False)
    members: dict[int, list[str]] = {}
    for (kind, name), component in zip(nodes, components.tolist(), strict=True):
        if kind == "subject":
            members.setdefault(component, []).append(name)
    return [sorted(group) for group in members.values()]


def _stops(sizes: Sequence[int], shares: Sequence[float], group_by: str | None) -> list[int]:
    """Find the end of each split in the list of groups, as near to the shares as whole groups allow."""
    wanted = [share > 0 for share in shares]
    if len(sizes) < sum(wanted):
        raise ValueError(
            f"{len(sizes)} groups of subjects (by {group_by or 'subject_id'}) found, expected at least {sum(wanted)} "
            "to fill every split. Change the fractions, for example to 1 0 0."
        )
    total, scale = sum(sizes), sum(shares)
    stops, stop, reached, share_sum = [], 0, 0, 0.0
    for index, share in enumerate(shares):
        share_sum += share / scale
        # Every later split with a share keeps at least one group. A group is taken if most of it fits into the share so
        # far; shares are cumulative, so that rounding does not add up over the splits.
        needed_later = sum(wanted[index + 1 :])
        least = stop + int(wanted[index])
        while (
            share
            and stop < len(sizes) - needed_later
            and (stop < least or reached + sizes[stop] / 2 <= share_sum * total)
        ):
            reached += sizes[stop]
            stop += 1
        stops.append(stop)
    return stops
