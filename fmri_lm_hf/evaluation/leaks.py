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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from . import leaks_between_scans as between
from . import leaks_of_answers as of_answers
from .design import Design

__all__ = ["KINDS", "Leak", "LeakError", "check_leaks", "find_leaks"]

_CHECKS: dict[str, Callable[[Design], Iterator[str]]] = {
    "subjects in two splits": between.subjects,
    "families in two splits": between.families,
    "judged scans in training": between.trained_on,
    "copies in two splits": between.copies,
    "overlapping scans in two splits": between.overlaps,
    "answers in prompts": of_answers.answers_in_prompts,
    "statistics of judged scans": of_answers.statistics_of_judged,
    "harmonised without training": of_answers.harmonised_sites,
    "labels among confounds": of_answers.labels_among_confounds,
    "splits of other scans": between.splits_of_others,
    "one person under two names": between.identities,
    "judged scans as examples": between.examples,
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
