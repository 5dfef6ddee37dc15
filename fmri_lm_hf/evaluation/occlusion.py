"""Which networks moved an answer: their series are replaced by another person's, and the answer is asked for again.

A network without data (zeros) is unlike any scan, and what a model says of it may come from that alone; another
person's series are as plausible as the scan's own, but know nothing of it [1]_. With them a network loses what it
shares with the rest of this brain.

References
----------
.. [1] Hooker S et al. (2019). A benchmark for interpretability methods in deep neural networks. NeurIPS.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..models.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .features import Unavailable
from .study import Study

__all__ = ["Occlusion", "occlude", "occlusion", "randomisation_test", "with_random_weights"]

BATCH = 32
N_RANDOMISED = 10  # scans of the randomisation test, which looks at each twice more


def occlusion(study: Study, n_scans: int) -> dict[str, dict[str, Any]]:
    """What moved the answers to each task of a study, and whether it depends on what the model has learnt.

    Parameters
    ----------
    study : Study
    n_scans : int
        How many of the scans to be judged are looked into; series of some further ones serve as other people's.

    Returns
    -------
    dict
        task -> what `Occlusion.summary` says, and ``randomisation_test``, as the function of that name returns it,
        on up to ten scans; or ``left_out`` with the reason.
    """
    atlas = study.processor.feature_extractor.atlas
    n_people = 1 if atlas is None else len(atlas.network_names) + 1
    rows: list[int] = []
    for row in study.read.rows:
        if len(rows) >= n_scans and len({study.subjects[each] for each in rows}) >= 2 * n_people:
            break  # enough people for a choice
        rows.append(row)
    inputs = dict(study.processor(fmri=[study.scans[row] for row in rows]))
    subjects = [study.subjects[row] for row in rows]
    found: dict[str, dict[str, Any]] = {}
    for name, task in study.tasks.items():
        asked = (study.model, study.processor, inputs, subjects, task.ask[0], task.classes)
        try:
            moved = occlude(*asked, n_scans=n_scans, seed=study.seed)
            n_tested = min(n_scans, N_RANDOMISED)
            test = randomisation_test(*asked, n_scans=n_tested, seed=study.seed, found=moved)
            found[name] = moved.summary() | {"randomisation_test": test}
        except Unavailable as reason:
            found[name] = {"left_out": str(reason)}
    return found


@dataclass(frozen=True, eq=False)
class Occlusion:
    """How far networks, and pairs of them, moved the answers to a question.

    Attributes
    ----------
    networks : tuple of str
    pairs : list of (int, int)
        Numbers of different networks.
    answers : ndarray of shape (n_scans,)
        Number of the answer that the model gave to each scan.
    of_networks : ndarray of shape (n_scans, n_networks)
        Log-odds of that answer from the scan as it is, minus those with another person's series in the network:
        positive where the network spoke for the answer.
    of_pairs : ndarray of shape (n_scans, n_pairs)
        What the two networks moved each by itself, minus what they moved together: the part that the pair carries
        and none of its networks without the other.
    n_others : int
        Other people whose series each network had in turn; the values are means over them.
    """

    networks: tuple[str, ...]
    pairs: list[tuple[int, int]]
    answers: np.ndarray
    of_networks: np.ndarray
    of_pairs: np.ndarray
    n_others: int

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
            "n_scans": len(self.answers),
            "n_others": self.n_others,
            "of_networks": told([(name,) for name in self.networks], self.of_networks),
            "of_pairs": sorted(told(pairs, self.of_pairs), key=lambda each: -each["size"]),
        }


def occlude(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Mapping[str, torch.Tensor],
    subjects: Sequence[str],
    question: str,
    answers: Sequence[str],
    n_scans: int | None = None,
    n_others: int = 4,
    seed: int = 0,
) -> Occlusion:
    """Replace the series of each network, and of each pair of networks, by other people's, and ask again.

    The two networks of a pair get the series of two different people, so that what they share is lost as well. A
    network pair that a model reads by itself then shows in the pair's value alone; and as far as the model adds up
    what it reads of pairs, that value is what the pair contributes to the log-odds.

    Parameters
    ----------
    model : FmriLMForCausalLM
    processor : FmriLMProcessor
        Its feature extractor has an atlas with at least two named networks.
    inputs : mapping of torch.Tensor
        `input_values` (n_people, n_rois, n_timepoints), `roi_mask` and `padding_mask`, as the processor makes them.
    subjects : sequence of str, length n_people
        Whose scan each is.
    question : str
    answers : sequence of str
        To choose from.
    n_scans : int, optional
        Look at the first so many scans; the series of all serve as other people's. All when None.
    n_others : int
        How often each network is replaced, each time by somebody else.
    seed : int
        Of who that is.

    Raises
    ------
    Unavailable
        When the atlas has fewer than two networks, or there are fewer other people than networks.
    """
    atlas = processor.feature_extractor.atlas
    networks = () if atlas is None else atlas.network_names
    if len(networks) < 2:
        raise Unavailable(
            f"The model's atlas names {len(networks)} network(s); at least two are needed to see which one moves an "
            "answer."
        )
    people = np.asarray(subjects)
    n_available = len(set(subjects)) - 1
    if n_available < len(networks):
        raise Unavailable(
            f"There are scans of {n_available} other people, and each of {len(networks)} networks is replaced by "
            f"somebody else's: expected scans of at least {len(networks) + 1} people."
        )
    pairs = list(combinations(range(len(networks)), 2))
    changed = [(), *((i,) for i in range(len(networks))), *pairs]
    of_roi = torch.tensor([networks.index(name) for name in atlas.networks])
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(people) if n_scans is None else min(n_scans, len(people))
    chosen = np.zeros(n_scans, dtype=int)
    effects = np.zeros((n_scans, len(changed)))
    for scan in tqdm(range(n_scans), desc="Occlusion", unit="scan"):
        log_odds = []
        for other in range(n_others):
            donors = _others(people, scan, len(networks), np.random.default_rng([seed, scan, other]))
            variants = _replaced(inputs, scan, donors, changed if other == 0 else changed[1:], of_roi)
            found = _log_probabilities(model, prompt, answer_ids, variants)
            if other == 0:
                chosen[scan] = int(found[0].argmax())
                own = _odds(found[:1], chosen[scan])
                found = found[1:]
            log_odds.append(_odds(found, chosen[scan]))
        effects[scan, 1:] = own - np.mean(log_odds, axis=0)
    of_networks, together = effects[:, 1 : len(networks) + 1], effects[:, len(networks) + 1 :]
    first, second = np.array(pairs).T
    return Occlusion(
        networks=tuple(networks),
        pairs=pairs,
        answers=chosen,
        of_networks=of_networks,
        of_pairs=of_networks[:, first] + of_networks[:, second] - together,
        n_others=n_others,
    )


def randomisation_test(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Mapping[str, torch.Tensor],
    subjects: Sequence[str],
    question: str,
    answers: Sequence[str],
    n_scans: int | None = None,
    n_others: int = 4,
    seed: int = 0,
    found: Occlusion | None = None,
) -> dict[str, float | None]:
    """Whether what moved the answers depends on what the model has learnt [1]_.

    Parameters are those of :func:`occlude`, and `found`: what it returned for them, or for more scans, where that is
    there already.

    Returns
    -------
    dict
        Rank correlations of the sizes of pairs' values, mean over scans: ``randomised``, with those of the same model
        with its weights shuffled, which has to be near zero; ``repeated``, with those of the model itself from other
        people's series, which says how near it could have been to one. None where a scan's values are all equal.

    References
    ----------
    .. [1] Adebayo J et al. (2018). Sanity checks for saliency maps. NeurIPS.
    """
    asked = (processor, inputs, subjects, question, answers, n_scans, n_others)
    if found is None:
        found = occlude(model, *asked, seed)
    again = occlude(model, *asked, seed + 1)
    randomised = occlude(with_random_weights(model, seed), *asked, seed)
    of_pairs = found.of_pairs[: len(again.of_pairs)]
    return {
        "repeated": _rank_correlation(of_pairs, again.of_pairs),
        "randomised": _rank_correlation(of_pairs, randomised.of_pairs),
    }


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


def _others(people: np.ndarray, scan: int, n: int, rng: np.random.Generator) -> list[int]:
    """Scans of `n` different other people, in random order."""
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        if person != people[scan]:
            rows.setdefault(person, []).append(row)
    names = sorted(rows)
    return [int(rng.choice(rows[names[i]])) for i in rng.permutation(len(names))[:n]]


def _replaced(
    inputs: Mapping[str, torch.Tensor],
    scan: int,
    donors: Sequence[int],
    changed: Sequence[tuple[int, ...]],
    of_roi: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """A scan with the series of each set of networks replaced by those of the networks' donors."""
    values = inputs["input_values"][scan].repeat(len(changed), 1, 1)
    roi_mask, padding_mask = (
        inputs[name][scan].repeat(len(changed), 1) for name in ("roi_mask", "padding_mask")
    )
    for row, networks in enumerate(changed):
        for network in networks:
            donor, rois = donors[network], of_roi == network
            values[row, rois] = inputs["input_values"][donor, rois]
            roi_mask[row, rois] = inputs["roi_mask"][donor, rois]
            padding_mask[row] &= inputs["padding_mask"][donor]  # only where both were observed
    return {"input_values": values, "roi_mask": roi_mask, "padding_mask": padding_mask}


def _log_probabilities(
    model: FmriLMForCausalLM,
    prompt: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    scans: Mapping[str, torch.Tensor],
) -> np.ndarray:
    """Log-probability of each answer among all, of each scan: (n_scans, n_answers)."""
    n_scans = len(scans["input_values"])
    parts = [
        answer_log_probabilities(
            model, prompt, answer_ids, **{name: x[start : start + BATCH] for name, x in scans.items()}
        )
        for start in range(0, n_scans, BATCH)
    ]
    return torch.cat(parts).double().log_softmax(-1).cpu().numpy()


def _odds(log_probabilities: np.ndarray, answer: int) -> np.ndarray:
    """Log-odds of one answer against all others together: (n_scans,)."""
    others = np.delete(log_probabilities, answer, axis=1)
    return log_probabilities[:, answer] - np.logaddexp.reduce(others, axis=1)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman correlation of sizes, mean over rows in which both vary."""
    found = [
        float(spearmanr(np.abs(a), np.abs(b)).statistic)
        for a, b in zip(one, other)
        if np.ptp(a) and np.ptp(b)
    ]
    return float(np.mean(found)) if found else None
