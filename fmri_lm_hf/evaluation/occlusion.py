"""Which networks moved an answer: their series are replaced by another person's, and the answer is asked for again.

A network without data (zeros) is unlike any scan, and what a model says of it may come from that alone; another
person's series are as plausible as the scan's own, but know nothing of it [1]_. With them a network loses what it
shares with the rest of this brain.

References
----------
.. [1] Hooker S et al. (2019). A benchmark for interpretability methods in deep neural networks. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from .effects import Effects, log_odds, networks_of, other_people
from .features import Unavailable
from .generation import batches

__all__ = ["occlude"]


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
) -> Effects:
    """Replace the series of each network, and of each pair of networks, by other people's, and ask again.

    A network's value is the log-odds from the scan as it is, minus those with another person's series in the network;
    a pair's is what the two moved each by itself, minus what they moved together.

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
    networks, roi_networks = networks_of(processor)
    people = np.asarray(subjects)
    n_available = len(set(subjects)) - 1
    if n_available < len(networks):
        raise Unavailable(
            f"There are scans of {n_available} other people, and each of {len(networks)} networks is replaced by "
            f"somebody else's: expected scans of at least {len(networks) + 1} people."
        )
    pairs = list(combinations(range(len(networks)), 2))
    changed = [(), *((i,) for i in range(len(networks))), *pairs]
    of_roi = torch.tensor(roi_networks)
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(people) if n_scans is None else min(n_scans, len(people))
    chosen = np.zeros(n_scans, dtype=int)
    effects = np.zeros((n_scans, len(changed)))
    for scan in tqdm(range(n_scans), desc="Occlusion", unit="scan"):
        without = []
        for other in range(n_others):
            donors = other_people(people, scan, len(networks), np.random.default_rng([seed, scan, other]))
            variants = _replaced(inputs, scan, donors, changed if other == 0 else changed[1:], of_roi)
            found = _log_probabilities(model, prompt, answer_ids, variants)
            if other == 0:
                chosen[scan] = int(found[0].argmax())
                own = log_odds(found[:1], chosen[scan])
                found = found[1:]
            without.append(log_odds(found, chosen[scan]))
        effects[scan, 1:] = own - np.mean(without, axis=0)
    of_networks, together = effects[:, 1 : len(networks) + 1], effects[:, len(networks) + 1 :]
    first, second = np.array(pairs).T
    return Effects(
        networks=networks,
        pairs=pairs,
        answers=chosen,
        of_networks=of_networks,
        of_pairs=of_networks[:, first] + of_networks[:, second] - together,
        n_others=n_others,
    )


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
    parts = [answer_log_probabilities(model, prompt, answer_ids, **batch) for batch in batches(scans)]
    return torch.cat(parts).double().log_softmax(-1).cpu().numpy()
