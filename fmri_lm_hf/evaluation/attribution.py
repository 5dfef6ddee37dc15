"""Attribution: which networks, and pairs of networks, moved the answers of a model.

Two methods, both in log-odds of the answer that was given: occlusion (:func:`occlude`) replaces the series of networks
by other people's and asks again; integrated gradients (:func:`integrated_gradients`) share the difference to other
people out among the scan tokens. :func:`randomisation_test` shows whether an explanation depends on what the model has
learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..models.answers import answer_log_probabilities, encode_question
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import pair_indices
from ..models.processing_fmri_lm import FmriLMProcessor
from .features import Unavailable
from .model_answers import Evaluation, batches

BATCH = 32  # points on the way that integrated gradients take at once
N_STEPS = 64  # points on the way; the values of network pairs pass many soft thresholds on it
N_RANDOMISED = 10  # scans of the randomisation test, which explains each twice more


def explanations(evaluation: Evaluation, n_scans: int) -> dict[str, dict[str, dict[str, Any]]]:
    """What moved the answers to each task of a evaluation, and whether it depends on what the model has learnt.

    Parameters
    ----------
    evaluation : Evaluation
    n_scans : int
        How many of the evaluated scans are explained; the series of some more serve as other people's.

    Returns
    -------
    dict
        ``occlusion`` and ``integrated_gradients`` -> task -> the items of `Effects.summary`, and
        ``randomisation_test``, as the function of that name returns it, on up to ten scans; or ``left_out`` with the
        reason.
    """
    atlas = evaluation.processor.feature_extractor.atlas
    n_people = 2 * (1 if atlas is None else len(atlas.network_names) + 1)  # enough to choose others from
    rows: list[int] = []
    for row in evaluation.encoded.rows:
        if len(rows) >= n_scans and len({evaluation.subjects[each] for each in rows}) >= n_people:
            break
        rows.append(row)
    inputs = dict(evaluation.processor(fmri=[evaluation.scans[row] for row in rows]))
    subjects = [evaluation.subjects[row] for row in rows]
    found: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in EXPLANATIONS}
    for method, explain in EXPLANATIONS.items():
        for name, task in evaluation.tasks.items():
            asked = (evaluation.model, evaluation.processor, inputs, subjects, task.ask[0], task.classes)
            try:
                effects = explain(*asked, n_scans, seed=evaluation.seed)
                n_tested = min(n_scans, N_RANDOMISED)
                test = randomisation_test(explain, *asked, n_tested, seed=evaluation.seed, found=effects)
                found[method][name] = effects.summary() | {"randomisation_test": test}
            except Unavailable as reason:
                found[method][name] = {"left_out": str(reason)}
    return found


@dataclass(frozen=True, eq=False)
class Effects:
    """How far networks, and pairs of them, moved the answers to a question, in log-odds of the given answer.

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
        What only the pair carries, and neither of its networks without the other.
    n_others : int
        Other people that the scan was compared with; the values are means over them.
    missed : float, optional
        Share of the difference between the scan and the other people that the values, which should add up to it, miss.
    """

    networks: tuple[str, ...]
    pairs: list[tuple[int, int]]
    answers: np.ndarray
    of_networks: np.ndarray
    of_pairs: np.ndarray
    n_others: int
    missed: float | None = None

    def top_pairs(self, scan: int, n: int = 3) -> list[tuple[str, str]]:
        """Names of the pairs that moved the answer to a scan most, in either direction."""
        order = np.argsort(-np.abs(self.of_pairs[scan]), kind="stable")[:n]
        return [(self.networks[i], self.networks[j]) for i, j in (self.pairs[place] for place in order)]

    def summary(self) -> dict[str, Any]:
        """For `results.json`: mean over scans of each value and of its size, for networks and for pairs."""

        def means(names: Sequence[tuple[str, ...]], values: np.ndarray) -> list[dict[str, Any]]:
            return [
                {"networks": list(name), "for_answer": float(x.mean()), "size": float(np.abs(x).mean())}
                for name, x in zip(names, values.T, strict=True)
            ]

        pairs = [(self.networks[i], self.networks[j]) for i, j in self.pairs]
        return {
            **({} if self.missed is None else {"missed": self.missed}),
            "n_scans": len(self.answers),
            "n_others": self.n_others,
            "of_networks": means([(name,) for name in self.networks], self.of_networks),
            "of_pairs": sorted(means(pairs, self.of_pairs), key=lambda each: -each["size"]),
        }


# -------------------------------------------------------------------------------------------------------- occlusion


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

    The value of a network is the log-odds from the scan as it is, minus those with another person's series in the
    network. The value of a pair is what its two networks moved each by itself, minus what they moved together.

    The two networks of a pair get the series of two different people, so that what they share is lost as well. A
    network pair that the model reads as such then shows in the value of the pair alone; and as far as the model adds
    up what it reads of pairs, that value is what the pair contributes to the log-odds.

    Parameters
    ----------
    model, processor
        The feature extractor has an atlas with at least two named networks.
    inputs : mapping of torch.Tensor
        `input_values` (n_people, n_rois, n_timepoints), `roi_mask` and `padding_mask`, as the processor makes them.
    subjects : sequence of str, length n_people
        The subject of each scan.
    question : str
    answers : sequence of str
    n_scans : int, optional
        Explain the first so many scans; the series of all serve as other people's. All when None.
    n_others : int
        How often each network is replaced, each time by somebody else's.
    seed : int
        Of the choice of other people.

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
    replaced = [*((i,) for i in range(len(networks))), *pairs]
    of_roi = torch.tensor(roi_networks)
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(people) if n_scans is None else min(n_scans, len(people))
    chosen = np.zeros(n_scans, dtype=int)
    effects = np.zeros((n_scans, len(replaced)))
    for scan in tqdm(range(n_scans), desc="Occlusion", unit="scan"):
        without = []
        for other in range(n_others):
            # a generator for each scan and round: explaining fewer scans draws the same people for them
            donors = other_people(people, scan, len(networks), np.random.default_rng([seed, scan, other]))
            # the scan as it is goes along with its first variants
            variants = _replaced(inputs, scan, donors, [(), *replaced] if other == 0 else replaced, of_roi)
            found = _log_probabilities(model, prompt, answer_ids, variants)
            if other == 0:
                chosen[scan] = int(found[0].argmax())
                as_it_is, found = log_odds(found[:1], chosen[scan]), found[1:]
            without.append(log_odds(found, chosen[scan]))
        effects[scan] = as_it_is - np.mean(without, axis=0)
    of_networks, together = effects[:, : len(networks)], effects[:, len(networks) :]
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
    replaced: Sequence[tuple[int, ...]],
    of_roi: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """A scan with the series of each set of networks replaced by those of the networks' donors."""
    values = inputs["input_values"][scan].repeat(len(replaced), 1, 1)
    roi_mask, padding_mask = (inputs[name][scan].repeat(len(replaced), 1) for name in ("roi_mask", "padding_mask"))
    for row, networks in enumerate(replaced):
        for network in networks:
            donor, rois = donors[network], of_roi == network
            values[row, rois] = inputs["input_values"][donor, rois]
            roi_mask[row, rois] = inputs["roi_mask"][donor, rois]
            # the mask is one of all ROIs: a point that the donor lacks would be zeros in some of them
            padding_mask[row] &= inputs["padding_mask"][donor]
    return {"input_values": values, "roi_mask": roi_mask, "padding_mask": padding_mask}


def _log_probabilities(
    model: FmriLMForCausalLM,
    prompt: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    scans: Mapping[str, torch.Tensor],
) -> np.ndarray:
    """Log-probability of each answer among all answers, for each scan: (n_scans, n_answers)."""
    parts = [answer_log_probabilities(model, prompt, answer_ids, **batch) for batch in batches(scans)]
    return torch.cat(parts).double().log_softmax(-1).cpu().numpy()


# --------------------------------------------------------------------------------------------- integrated gradients


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
    """Share the difference in log-odds to other people out among the scan tokens, and these among networks.

    A network has the shares of its ROIs' tokens and of the token of the pair within it; a pair of networks has that of
    its token (a model without network-pair tokens has no pairs). The share of the token of the whole scan belongs to
    no network and is left out.

    Parameters
    ----------
    model, processor, inputs, subjects, question, answers, n_scans, seed
        As :func:`occlude` takes them.
    n_others : int
        Other people whose tokens serve as baselines.

    Raises
    ------
    Unavailable
        When the atlas has fewer than two networks, no token stands for a network, or there is no other person.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise Unavailable(
            "Integrated gradients need the package captum: `pip install 'fmri-lm-hf[evaluation]'`."
        ) from error

    networks, roi_networks = networks_of(processor)
    shares = _token_shares(model, roi_networks, len(networks))
    people = np.asarray(subjects)
    n_others = min(n_others, len(set(subjects)) - 1)
    if not n_others:
        raise Unavailable("All scans are of one subject: there is no other person to compare them with.")
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(people) if n_scans is None else min(n_scans, len(people))
    features = torch.cat(
        [
            model.get_fmri_features(**{name: values.to(model.device) for name, values in batch.items()})
            for batch in batches(inputs)
        ]
    ).detach()
    masks = {name: inputs[name].to(model.device) for name in ("roi_mask", "padding_mask")}
    chosen, of_tokens, errors, differences = np.zeros(n_scans, dtype=int), [], [], []
    for scan in tqdm(range(n_scans), desc="Integrated gradients", unit="scan"):
        own = {name: mask[scan : scan + 1] for name, mask in masks.items()}
        tokens = features[scan : scan + 1]
        found = answer_log_probabilities(model, prompt, answer_ids, fmri_features=tokens, **own)
        chosen[scan] = int(found[0].argmax())
        others = features[other_people(people, scan, n_others, np.random.default_rng([seed, scan]))]

        # captum calls this with as many rows as fit its batch, all of this scan: masks are expanded to them
        def odds(of_way: torch.Tensor, own=own, answer=int(chosen[scan])) -> torch.Tensor:
            log_probabilities = _differentiable_log_probabilities(model, prompt, answer_ids, of_way, own)
            return _differentiable_log_odds(log_probabilities, answer)

        attributed, missed = IntegratedGradients(odds).attribute(
            tokens.expand_as(others),
            baselines=others,
            n_steps=N_STEPS,
            internal_batch_size=BATCH,
            return_convergence_delta=True,
        )
        of_tokens.append(attributed.sum(-1).mean(0).double().cpu().numpy())
        errors.append(missed.abs().mean().item())
        differences.append(attributed.sum((1, 2)).abs().mean().item())
    values = np.array(of_tokens) @ shares
    pairs = list(combinations(range(len(networks)), 2)) if model.config.reads_network_pairs else []
    return Effects(
        networks=networks,
        pairs=pairs,
        answers=chosen,
        of_networks=values[:, : len(networks)],
        of_pairs=values[:, len(networks) : len(networks) + len(pairs)],
        n_others=n_others,
        missed=float(np.mean(errors) / max(np.mean(differences), 1e-12)),
    )


def _token_shares(model: FmriLMForCausalLM, roi_networks: Sequence[int], n_networks: int) -> np.ndarray:
    """Tokens of each network, then of each pair of different ones: (n_tokens, n_networks + n_pairs), 0 or 1."""
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
        # time patch by time patch, each with all ROIs: the order in which the language model reads them
        parts.append(np.pad(np.tile(of_rois, (n_patches, 1)), ((0, 0), (0, len(pairs)))))
    if config.reads_network_pairs:
        of_pairs = np.zeros((1 + n_networks * (n_networks + 1) // 2, n_networks + len(pairs)))
        for token, (first, second) in enumerate(pair_indices(n_networks).T.tolist(), 1):  # 0: the whole scan
            column = first if first == second else n_networks + pairs.index((first, second))
            of_pairs[token, column] = 1
        parts.append(of_pairs)
    return np.concatenate(parts)


def _differentiable_log_probabilities(
    model: FmriLMForCausalLM,
    prompt: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    features: torch.Tensor,
    masks: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Log-probability of each answer, (n, n_answers), for one scan with other features (n, n_tokens, size).

    The same as `answer_log_probabilities`, which keeps no gradients. The prompt is read once: all answers follow it in
    one row, each at the positions after the prompt and in a text segment that no other answer sees.
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
    # the first is of the prompt's last token, which predicts the first token of every answer
    log_probabilities = logits.float().log_softmax(-1)
    scores, place = [], 0
    for answer in answer_ids:
        before = [0, *range(place + 1, place + len(answer))]
        scores.append(log_probabilities[:, before, list(answer)].sum(-1))
        place += len(answer)
    return torch.stack(scores, 1)


def _differentiable_log_odds(log_probabilities: torch.Tensor, answer: int) -> torch.Tensor:
    """As :func:`log_odds`, with gradients: (n,)."""
    others = [place for place in range(log_probabilities.shape[1]) if place != answer]
    return log_probabilities[:, answer] - log_probabilities[:, others].logsumexp(1)


EXPLANATIONS: dict[str, Callable[..., Effects]] = {
    "occlusion": occlude,
    "integrated_gradients": integrated_gradients,
}


# ----------------------------------------------------------------------------------------------- randomisation test


def randomisation_test(
    explain: Callable[..., Effects],
    model: FmriLMForCausalLM,
    *asked: Any,
    seed: int = 0,
    found: Effects | None = None,
    **options: Any,
) -> dict[str, float | None]:
    """Whether an explanation depends on what the model has learnt [1]_.

    Parameters
    ----------
    explain : callable
        One of `EXPLANATIONS`.
    model, *asked, seed, **options
        As `explain` takes them.
    found : Effects, optional
        What it returned for them, or for more scans, if that was computed before.

    Returns
    -------
    dict
        Rank correlations of the sizes of pairs' values (of networks', where there are no pairs), mean over scans:
        ``randomised``, with those of the same model with shuffled weights, which has to be near zero; ``repeated``,
        with those of the model itself and other people, which shows how near to one it could have been. None where the
        values of each scan are all equal.

    References
    ----------
    .. [1] Adebayo J et al. (2018). Sanity checks for saliency maps. NeurIPS.
    """
    if found is None:
        found = explain(model, *asked, seed=seed, **options)
    again = explain(model, *asked, seed=seed + 1, **options)
    randomised = explain(with_random_weights(model, seed), *asked, seed=seed, **options)
    return {"repeated": _similarity(found, again), "randomised": _similarity(found, randomised)}


def with_random_weights(model: FmriLMForCausalLM, seed: int = 0) -> FmriLMForCausalLM:
    """A copy of a model with the values of each weight shuffled: as certain of its answers, and without knowledge."""
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shuffled.parameters():  # tied weights come once, and stay tied
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def _similarity(one: Effects, other: Effects) -> float | None:
    """Rank correlation of the sizes of two explanations' values, mean over the scans of the second."""
    values = [each.of_pairs if each.pairs else each.of_networks for each in (one, other)]
    found = [float(spearmanr(np.abs(a), np.abs(b)).statistic) for a, b in zip(*values) if np.ptp(a) and np.ptp(b)]
    return float(np.mean(found)) if found else None


# --------------------------------------------------------------------------------------------- shared by the methods


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
            f"The model's atlas names {len(names)} network(s): expected at least two, to see which of them moves an "
            "answer."
        )
    return names, [names.index(name) for name in atlas.networks]


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
