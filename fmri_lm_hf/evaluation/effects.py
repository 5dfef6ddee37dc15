"""How far networks moved answers, and whether that depends on what a model has learnt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .features import Unavailable

__all__ = ["Effects", "log_odds", "networks_of", "other_people", "randomisation_test", "with_random_weights"]


@dataclass(frozen=True, eq=False)
class Effects:
    """How far networks, and pairs of them, moved the answers to a question, in log-odds of the answer that was given.

    Attributes
    ----------
    networks : tuple of str
    pairs : list of (int, int)
        Numbers of different networks.
    answers : ndarray of shape (n_scans,)
        Number of the answer that the model gave to each scan.
    of_networks : ndarray of shape (n_scans, n_networks)
        Positive where the network spoke for the answer.
    of_pairs : ndarray of shape (n_scans, n_pairs)
        The part that the pair carries, and none of its networks without the other.
    n_others : int
        Other people that the scan was compared with; the values are means over them.
    missed : float, optional
        Of what the answer moved between the scan and the other people, the share that the values do not add up to;
        for a method of which they should.
    """

    networks: tuple[str, ...]
    pairs: list[tuple[int, int]]
    answers: np.ndarray
    of_networks: np.ndarray
    of_pairs: np.ndarray
    n_others: int
    missed: float | None = None

    def top_pairs(self, scan: int, n: int = 3) -> list[tuple[str, str]]:
        """The names of the pairs that moved the answer to a scan most, in either direction."""
        order = np.argsort(-np.abs(self.of_pairs[scan]), kind="stable")[:n]
        return [(self.networks[i], self.networks[j]) for i, j in (self.pairs[place] for place in order)]

    def summary(self) -> dict[str, Any]:
        """For `results.json`: mean over scans of each value, and of its size, for networks and pairs."""

        def told(names: Sequence[Any], values: np.ndarray) -> list[dict[str, Any]]:
            return [
                {"networks": list(name), "for_answer": float(x.mean()), "size": float(np.abs(x).mean())}
                for name, x in zip(names, values.T, strict=True)
            ]

        pairs = [(self.networks[i], self.networks[j]) for i, j in self.pairs]
        return {
            **({} if self.missed is None else {"missed": self.missed}),
            "n_scans": len(self.answers),
            "n_others": self.n_others,
            "of_networks": told([(name,) for name in self.networks], self.of_networks),
            "of_pairs": sorted(told(pairs, self.of_pairs), key=lambda each: -each["size"]),
        }


def networks_of(processor: FmriLMProcessor) -> tuple[tuple[str, ...], list[int]]:
    """Names of the networks of a processor's atlas, and the number of each ROI's network.

    Raises
    ------
    Unavailable
        When there are fewer than two networks.
    """
    atlas = processor.feature_extractor.atlas
    names = () if atlas is None else tuple(atlas.network_names)
    if len(names) < 2:
        raise Unavailable(
            f"The model's atlas names {len(names)} network(s); at least two are needed to see which one moves an "
            "answer."
        )
    return names, [names.index(name) for name in atlas.networks]


def randomisation_test(
    explain: Callable[..., Effects],
    model: FmriLMForCausalLM,
    *asked: Any,
    seed: int = 0,
    found: Effects | None = None,
    **options: Any,
) -> dict[str, float | None]:
    """Whether what moved the answers depends on what the model has learnt [1]_.

    Parameters
    ----------
    explain : callable
        A way to find what moved the answers, such as :func:`occlusion.occlude`.
    model, *asked, seed, **options
        As `explain` takes them.
    found : Effects, optional
        What it returned for them, or for more scans, where that is there already.

    Returns
    -------
    dict
        Rank correlations of the sizes of pairs' values (of networks', where there are no pairs), mean over scans:
        ``randomised``, with those of the same model with its weights shuffled, which has to be near zero;
        ``repeated``, with those of the model itself beside other people, which says how near it could have been to
        one. None where a scan's values are all equal.

    References
    ----------
    .. [1] Adebayo J et al. (2018). Sanity checks for saliency maps. NeurIPS.
    """
    if found is None:
        found = explain(model, *asked, seed=seed, **options)
    again = explain(model, *asked, seed=seed + 1, **options)
    randomised = explain(with_random_weights(model, seed), *asked, seed=seed, **options)
    return {"repeated": _likeness(found, again), "randomised": _likeness(found, randomised)}


def with_random_weights(model: FmriLMForCausalLM, seed: int = 0) -> FmriLMForCausalLM:
    """A copy of a model that has learnt nothing: the values of each of its weights are shuffled.

    Its scale and its distribution stay what they were, so that its answers are as sure as before.
    """
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shuffled.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def other_people(people: np.ndarray, scan: int, n: int, rng: np.random.Generator) -> list[int]:
    """Scans of `n` different other people, in random order."""
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        if person != people[scan]:
            rows.setdefault(person, []).append(row)
    names = sorted(rows)
    return [int(rng.choice(rows[names[i]])) for i in rng.permutation(len(names))[:n]]


def log_odds(log_probabilities: np.ndarray, answer: int) -> np.ndarray:
    """Log-odds of one answer against all others together: (n_scans,)."""
    others = np.delete(log_probabilities, answer, axis=1)
    return log_probabilities[:, answer] - np.logaddexp.reduce(others, axis=1)


def _likeness(one: Effects, other: Effects) -> float | None:
    """Rank correlation of the sizes of what two explanations found, over the scans of the second."""
    of_one, of_other = (each.of_pairs if each.pairs else each.of_networks for each in (one, other))
    return _rank_correlation(of_one[: len(of_other)], of_other)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman correlation of sizes, mean over rows in which both vary."""
    found = [
        float(spearmanr(np.abs(a), np.abs(b)).statistic)
        for a, b in zip(one, other)
        if np.ptp(a) and np.ptp(b)
    ]
    return float(np.mean(found)) if found else None
