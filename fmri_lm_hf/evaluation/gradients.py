"""Which networks moved an answer, by integrated gradients over the tokens of a scan.

On the way from another person's tokens to those of the scan, the answer's log-odds change; gradients, summed along the
way, share that change out among the tokens, and the shares add up to it [1]_. As in `occlusion`, the way begins at
other people and not at zeros, which no scan is like [2]_.

References
----------
.. [1] Sundararajan M, Taly A, Yan Q (2017). Axiomatic attribution for deep networks. ICML.
.. [2] Erion G et al. (2021). Improving performance of deep learning models with axiomatic attribution priors and
   expected gradients. Nature Machine Intelligence 3, 620-631.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import pair_indices
from ..models.processing_fmri_lm import FmriLMProcessor
from .effects import Effects, networks_of, other_people
from .features import Unavailable
from .generation import batches

__all__ = ["integrated_gradients"]

BATCH = 32
N_STEPS = 64  # of the way; pairs' values pass many soft thresholds on it


def integrated_gradients(
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
    """Share what moved the log-odds of the answer out among the tokens of a scan, and of these among networks.

    A network has the shares of its ROIs' tokens and of the token of the pair within it, a pair of networks that of
    its token; a model without network-pair tokens has no pairs. The share of the token of the scan as a whole belongs
    to no network and is left out.

    Parameters
    ----------
    model, processor, inputs, subjects, question, answers, n_scans, seed
        As :func:`occlusion.occlude` takes them.
    n_others : int
        Other people at whose tokens ways begin.

    Raises
    ------
    Unavailable
        When the atlas has fewer than two networks, no token stands for a network, or there is no other person.
    """
    from captum.attr import IntegratedGradients

    networks, roi_networks = networks_of(processor)
    shares = _shares(model, roi_networks, len(networks))
    people = np.asarray(subjects)
    n_others = min(n_others, len(set(subjects)) - 1)
    if not n_others:
        raise Unavailable("All scans are of one subject, so that there is no other person to begin at.")
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(people) if n_scans is None else min(n_scans, len(people))
    features = torch.cat(
        [
            model.get_fmri_features(**{name: values.to(model.device) for name, values in batch.items()})
            for batch in batches(inputs)
        ]
    ).detach()
    masks = {name: inputs[name].to(model.device) for name in ("roi_mask", "padding_mask")}
    chosen, of_tokens, left, moved = np.zeros(n_scans, dtype=int), [], [], []
    for scan in tqdm(range(n_scans), desc="Integrated gradients", unit="scan"):
        own = {name: mask[scan : scan + 1] for name, mask in masks.items()}
        tokens = features[scan : scan + 1]
        found = answer_log_probabilities(model, prompt, answer_ids, fmri_features=tokens, **own)
        chosen[scan] = int(found[0].argmax())
        others = features[other_people(people, scan, n_others, np.random.default_rng([seed, scan]))]

        def odds(of_way: torch.Tensor, own=own, answer=int(chosen[scan])) -> torch.Tensor:
            return _odds(_log_probabilities(model, prompt, answer_ids, of_way, own), answer)

        attributed, missed = IntegratedGradients(odds).attribute(
            tokens.expand_as(others),
            baselines=others,
            n_steps=N_STEPS,
            internal_batch_size=BATCH,
            return_convergence_delta=True,
        )
        of_tokens.append(attributed.sum(-1).mean(0).double().cpu().numpy())
        left.append(missed.abs().mean().item())
        moved.append(attributed.sum((1, 2)).abs().mean().item())
    values = np.array(of_tokens) @ shares
    pairs = list(combinations(range(len(networks)), 2)) if model.config.reads_network_pairs else []
    return Effects(
        networks=networks,
        pairs=pairs,
        answers=chosen,
        of_networks=values[:, : len(networks)],
        of_pairs=values[:, len(networks) : len(networks) + len(pairs)],
        n_others=n_others,
        missed=float(np.mean(left) / max(np.mean(moved), 1e-12)),
    )


def _shares(model: FmriLMForCausalLM, roi_networks: Sequence[int], n_networks: int) -> np.ndarray:
    """Which tokens each network has, and each pair of different networks: (n_tokens, n_networks + n_pairs), 0 or 1."""
    config, of_networks = model.config, np.eye(n_networks)
    pairs = list(combinations(range(n_networks), 2))
    parts = []
    if config.reads_rois:
        of_rois = of_networks[list(roi_networks)]
        if config.fmri_config.num_latent_tokens:
            if not config.reads_network_pairs:
                raise Unavailable("The model reads latent tokens, of which none stands for a network.")
            of_rois = np.zeros((config.n_roi_tokens, n_networks))
        n_patches = config.n_roi_tokens // len(of_rois)
        parts.append(np.pad(np.tile(of_rois, (n_patches, 1)), ((0, 0), (0, len(pairs)))))
    if config.reads_network_pairs:
        of_pairs = np.zeros((1 + n_networks * (n_networks + 1) // 2, n_networks + len(pairs)))
        for token, (first, second) in enumerate(pair_indices(n_networks).T.tolist(), 1):
            column = first if first == second else n_networks + pairs.index((first, second))
            of_pairs[token, column] = 1
        parts.append(of_pairs)
    return np.concatenate(parts)


def _log_probabilities(
    model: FmriLMForCausalLM,
    prompt: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    features: torch.Tensor,
    masks: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Log-probability of each answer, (n, n_answers), of one scan with other features (n, n_tokens, size).

    As `answer_log_probabilities` has them, which keeps no gradients. All answers go on from one reading of the prompt.
    """
    device, n = features.device, len(features)
    ids = torch.tensor([[*prompt, *(token for answer in answer_ids for token in answer)]], device=device)
    of_prompt = model.get_position_ids(ids[:, : len(prompt)])
    positions = [of_prompt[0, -1] + 1 + place for answer in answer_ids for place in range(len(answer))]
    segments = [number for number, answer in enumerate(answer_ids, 1) for _ in answer]
    logits = model(
        input_ids=ids.expand(n, -1),
        fmri_features=features,
        position_ids=torch.cat([of_prompt, torch.tensor([positions], device=device)], 1).expand(n, -1),
        text_segments=torch.tensor([[0] * len(prompt) + segments], device=device).expand(n, -1),
        logits_to_keep=len(segments) + 1,
        use_cache=False,
        **{name: mask.expand(n, -1) for name, mask in masks.items()},
    ).logits
    log_probabilities = logits.float().log_softmax(
        -1
    )  # the first of the prompt's last token, which all begin from
    scores, place = [], 0
    for answer in answer_ids:
        before = [0, *range(place + 1, place + len(answer))]
        scores.append(log_probabilities[:, before, list(answer)].sum(-1))
        place += len(answer)
    return torch.stack(scores, 1)


def _odds(log_probabilities: torch.Tensor, answer: int) -> torch.Tensor:
    """As `effects.log_odds`, with gradients: (n,)."""
    others = [place for place in range(log_probabilities.shape[1]) if place != answer]
    return log_probabilities[:, answer] - log_probabilities[:, others].logsumexp(1)
