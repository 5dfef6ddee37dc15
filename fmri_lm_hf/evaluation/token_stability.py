"""Are the tokens of a person's other scan, or of the other half of one, nearer than those of other people?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["first_two", "identification", "intraclass_correlation"]


def identification(
    first: torch.Tensor,
    second: torch.Tensor,
    subjects: Sequence[str],
    sites: Sequence[str],
    other_subjects: Sequence[str] | None = None,
    other_sites: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """How often a measurement's most similar other one is of the same person (fingerprinting [1]_).

    Similarity is the correlation of vectors, less the mean of their set. Both directions are averaged.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n, size), (n_others, size)
        Two sets of measurements; of one set twice, a measurement is not compared with itself.
    subjects, sites : sequence of str of length n
    other_subjects, other_sites : sequence of str of length n_others, optional
        As of `first` where not given.

    Returns
    -------
    dict
        For candidates from ``anywhere`` and, with several sites, ``same_site`` and ``other_sites`` (where a person was
        measured at several): ``rate``, ``chance`` and ``n`` measurements that have a person to be found and others
        beside. Kinds of candidates that nobody has are not there.

    References
    ----------
    .. [1] Finn ES et al. (2015). Functional connectome fingerprinting. Nature Neuroscience 18, 1664-1671.
    """
    whose = [np.asarray(subjects), np.asarray(subjects if other_subjects is None else other_subjects)]
    where = [np.asarray(sites), np.asarray(sites if other_sites is None else other_sites)]
    similar = (_unit(first) @ _unit(second).T).numpy()
    same_person = whose[0][:, None] == whose[1][None]
    same_site = where[0][:, None] == where[1][None]
    differs = ~np.eye(len(similar), dtype=bool) if second is first else np.ones_like(same_person)
    found = {}
    for kind, candidates in (
        ("anywhere", differs),
        ("same_site", differs & same_site),
        ("other_sites", differs & ~same_site),
    ):
        if kind != "anywhere" and same_site.all():
            continue
        hits, chances = [], []
        for values, person, allowed in (
            (similar, same_person, candidates),
            (similar.T, same_person.T, candidates.T),
        ):
            n_candidates, n_right = allowed.sum(1), (allowed & person).sum(1)
            asked = (n_right > 0) & (n_candidates > n_right)
            best = np.where(allowed, values, -np.inf).argmax(1)
            hits += person[np.arange(len(person)), best][asked].tolist()
            chances += (n_right / np.maximum(n_candidates, 1))[asked].tolist()
        if hits:
            n = len(hits) // 2 if second is first else len(hits)
            found[kind] = {"rate": float(np.mean(hits)), "chance": float(np.mean(chances)), "n": n}
    return found


def intraclass_correlation(first: torch.Tensor, second: torch.Tensor) -> dict[str, float | None]:
    """ICC(1, 1) [1]_ of each value over two measurements of the same people, by one-way analysis of variance.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n_people, size)

    Returns
    -------
    dict
        ``median`` and quartiles ``low``, ``high`` over the values that vary; None where none does.

    References
    ----------
    .. [1] Shrout PE, Fleiss JL (1979). Intraclass correlations: uses in assessing rater reliability. Psychological
       Bulletin 86, 420-428.
    """
    first, second = first.double(), second.double()
    mean = (first + second) / 2
    between = 2 * (mean - mean.mean(0)).square().sum(0) / max(len(mean) - 1, 1)
    within = ((first - mean).square() + (second - mean).square()).sum(0) / len(mean)
    icc = ((between - within) / (between + within))[between + within > 1e-12]
    if not len(icc):
        return {"median": None, "low": None, "high": None}
    low, median, high = torch.quantile(icc, torch.tensor([0.25, 0.5, 0.75], dtype=icc.dtype)).tolist()
    return {"median": median, "low": low, "high": high}


def _unit(values: torch.Tensor) -> torch.Tensor:
    centred = values.double() - values.double().mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1)


def first_two(subjects: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of the first and of the second measurement of each person who has two."""
    places: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        places.setdefault(subject, []).append(place)
    pairs = [each[:2] for each in places.values() if len(each) > 1]
    return [first for first, _ in pairs], [second for _, second in pairs]
