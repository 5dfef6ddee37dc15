"""Attribution: which networks, and pairs of networks, moved the answers of a model.

Two methods, both in log-odds of the given answer: occlusion (:func:`occlude`) replaces the series of networks by those
of other subjects and asks again; integrated gradients (:func:`integrated_gradients`) distribute the difference to other
subjects over the scan tokens. :func:`randomisation_test` checks that an explanation depends on the model's training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypedDict

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

BATCH = 32  # points of the path that integrated gradients evaluate at once
N_STEPS = 64  # points of the path; values of network pairs pass many soft thresholds on it, and fewer points miss some
N_RANDOMISED = 10  # scans of the randomisation test, which explains each twice more


class NetworkEffect(TypedDict):
    """Effect of a network, or of a pair of networks: mean over scans of its value and of the size of the value."""

    networks: list[str]
    for_answer: float
    size: float


class RandomisationTest(TypedDict):
    """Similarity of an explanation to one with other subjects, and to one of the model with shuffled weights."""

    repeated: float | None
    randomised: float | None


class Explanation(TypedDict, total=False):
    """Effects on the answers to a task, with the randomisation test; or the reason why they are left out.

    `missed` is as in `Effects`; pairs are in the order of their size.
    """

    missed: float
    n_scans: int
    n_others: int
    of_networks: list[NetworkEffect]
    of_pairs: list[NetworkEffect]
    randomisation_test: RandomisationTest
    left_out: str


def explanations(evaluation: Evaluation, n_scans: int) -> dict[str, dict[str, Explanation]]:
    """Explain the answers to each task of an evaluation with each method, and test the explanations.

    Parameters
    ----------
    evaluation : Evaluation
    n_scans : int
        How many of the evaluated scans are explained, up to ten of them in the randomisation test. Others serve as
        scans of other subjects.

    Returns
    -------
    dict
        ``occlusion`` and ``integrated_gradients`` -> task -> explanation.
    """
    atlas = evaluation.processor.feature_extractor.atlas
    n_subjects = 2 * (1 if atlas is None else len(atlas.network_names) + 1)  # twice as many as are drawn for a scan
    rows: list[int] = []
    for row in evaluation.encoded.rows:
        if len(rows) >= n_scans and len({evaluation.subjects[each] for each in rows}) >= n_subjects:
            break
        rows.append(row)
    inputs = dict(evaluation.processor(fmri=[evaluation.scans[row] for row in rows]))
    subjects = [evaluation.subjects[row] for row in rows]
    explained: dict[str, dict[str, Explanation]] = {method: {} for method in EXPLANATIONS}
    for method, explain in EXPLANATIONS.items():
        for name, task in evaluation.tasks.items():
            asked = (evaluation.model, evaluation.processor, inputs, subjects, task.ask[0], task.classes)
            try:
                effects = explain(*asked, n_scans, seed=evaluation.seed)
                n_tested = min(n_scans, N_RANDOMISED)
                test = randomisation_test(explain, *asked, n_tested, seed=evaluation.seed, found=effects)
                explained[method][name] = {**effects.summary(), "randomisation_test": test}
            except Unavailable as reason:
                explained[method][name] = {"left_out": str(reason)}
    return explained


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of networks, and of pairs of them, on the answers to a question, in log-odds of the given answer.

    Attributes
    ----------
    networks : tuple of str
    pairs : list of (int, int)
        Numbers of two different networks each.
    answers : ndarray of shape (n_scans,)
        Number of the model's answer for each scan.
    of_networks : ndarray of shape (n_scans, n_networks)
        Positive where the network speaks for the answer.
    of_pairs : ndarray of shape (n_scans, n_pairs)
        What the pair carries together and neither of its networks alone.
    n_others : int
        Number of other subjects that the scan was compared with; values are means over them.
    missed : float, optional
        The values should add up to the difference between the scan and the other subjects; the share that they miss.
    """

    networks: tuple[str, ...]
    pairs: list[tuple[int, int]]
    answers: np.ndarray
    of_networks: np.ndarray
    of_pairs: np.ndarray
    n_others: int
    missed: float | None = None

    def top_pairs(self, scan: int, n: int = 3) -> list[tuple[str, str]]:
        """Name the pairs with the largest effects on the answer for a scan, in either direction."""
        order = np.argsort(-np.abs(self.of_pairs[scan]), kind="stable")[:n]
        return [(self.networks[i], self.networks[j]) for i, j in (self.pairs[place] for place in order)]

    def summary(self) -> Explanation:
        """Average values and their sizes over scans, for `results.json`."""

        def means(names: Sequence[tuple[str, ...]], values: np.ndarray) -> list[NetworkEffect]:
            return [
                {"networks": list(name), "for_answer": float(x.mean()), "size": float(np.abs(x).mean())}
                for name, x in zip(names, values.T, strict=True)
            ]

        pairs = [(self.networks[i], self.networks[j]) for i, j in self.pairs]
        summary: Explanation = {} if self.missed is None else {"missed": self.missed}
        return {
            **summary,
            "n_scans": len(self.answers),
            "n_others": self.n_others,
            "of_networks": means([(name,) for name in self.networks], self.of_networks),
            "of_pairs": sorted(means(pairs, self.of_pairs), key=lambda effect: -effect["size"]),
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
    """Replace the series of each network, and of each pair of networks, by those of other subjects, and ask again.

    The value of a network is the log-odds for the scan as it is, minus those with another subject's series in the
    network. The value of a pair is the sum of the values of its two networks, minus the effect of replacing both.

    The two networks of a pair get the series of two different subjects, so that what they share is lost as well. A
    network pair that the model reads as such then shows in the value of the pair alone; and if the model adds up what
    it reads of pairs, that value is what the pair contributes to the log-odds.

    Parameters
    ----------
    model, processor
        The feature extractor has an atlas with at least two named networks.
    inputs : mapping of torch.Tensor
        `input_values` (n_all, n_rois, n_timepoints), `roi_mask` and `padding_mask`, as the processor makes them.
    subjects : sequence of str, length n_all
        The subject of each scan.
    question : str
    answers : sequence of str
    n_scans : int, optional
        How many of the first scans are explained; the series of all serve as those of other subjects. All when None.
    n_others : int
        How often each network is replaced, each time by another subject's.
    seed : int
        For the choice of other subjects.

    Raises
    ------
    Unavailable
        When the atlas has fewer than two networks, or there are fewer other subjects than networks.
    """
    networks, roi_networks = networks_of(processor)
    owners = np.asarray(subjects)
    n_available = len(set(subjects)) - 1
    if n_available < len(networks):
        raise Unavailable(
            f"There are scans of {n_available} other subjects, and each of {len(networks)} networks is replaced by "
            f"another subject's: expected scans of at least {len(networks) + 1} subjects."
        )
    pairs = list(combinations(range(len(networks)), 2))
    replaced = [*((i,) for i in range(len(networks))), *pairs]
    of_roi = torch.tensor(roi_networks)
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(owners) if n_scans is None else min(n_scans, len(owners))
    chosen = np.zeros(n_scans, dtype=int)
    effects = np.zeros((n_scans, len(replaced)))
    for scan in tqdm(range(n_scans), desc="Occlusion", unit="scan"):
        without = []
        for other in range(n_others):
            # a generator for each scan and round: explaining fewer scans draws the same subjects for them
            donors = other_subjects(owners, scan, len(networks), np.random.default_rng([seed, scan, other]))
            # the scan as it is goes along in the batch of its first variants
            variants = _replace_networks(inputs, scan, donors, [(), *replaced] if other == 0 else replaced, of_roi)
            log_probabilities = _log_probabilities(model, prompt, answer_ids, variants)
            if other == 0:
                chosen[scan] = int(log_probabilities[0].argmax())
                as_it_is, log_probabilities = log_odds(log_probabilities[:1], chosen[scan]), log_probabilities[1:]
            without.append(log_odds(log_probabilities, chosen[scan]))
        effects[scan] = as_it_is - np.mean(without, axis=0)
    # replacing either network of a pair loses the part of the pair as well, and replacing both loses it once: the sum
    # of the two counts it twice
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


def _replace_networks(
    inputs: Mapping[str, torch.Tensor],
    scan: int,
    donors: Sequence[int],
    replaced: Sequence[tuple[int, ...]],
    of_roi: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Copy a scan for each set of networks, with the series of these networks from their donors."""
    values = inputs["input_values"][scan].repeat(len(replaced), 1, 1)
    roi_mask, padding_mask = (inputs[name][scan].repeat(len(replaced), 1) for name in ("roi_mask", "padding_mask"))
    for row, networks in enumerate(replaced):
        for network in networks:
            donor, rois = donors[network], of_roi == network
            values[row, rois] = inputs["input_values"][donor, rois]
            roi_mask[row, rois] = inputs["roi_mask"][donor, rois]
            # one padding mask serves all ROIs: points that the donor lacks are hidden in all of them, or its zeros
            # would count as signal
            padding_mask[row] &= inputs["padding_mask"][donor]
    return {"input_values": values, "roi_mask": roi_mask, "padding_mask": padding_mask}


def _log_probabilities(
    model: FmriLMForCausalLM,
    prompt: Sequence[int],
    answer_ids: Sequence[Sequence[int]],
    scans: Mapping[str, torch.Tensor],
) -> np.ndarray:
    """Compute the log-probability of each answer among all answers, for each scan: (n_scans, n_answers)."""
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
    """Distribute the difference in log-odds to other subjects over the scan tokens, and these over networks.

    A network gets the shares of its ROIs' tokens and of the token of the pair within it; a pair of networks gets that
    of its token (a model without network-pair tokens has no pairs). The share of the token of the whole scan belongs
    to no network and is left out.

    Parameters
    ----------
    model, processor, inputs, subjects, question, answers, n_scans, seed
        As :func:`occlude` takes them.
    n_others : int
        Number of other subjects whose tokens serve as baselines.

    Raises
    ------
    Unavailable
        When the atlas has fewer than two networks, no token stands for a network, or there is no other subject.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise Unavailable(
            "Integrated gradients need the package captum: `pip install 'fmri-lm-hf[evaluation]'`."
        ) from error

    networks, roi_networks = networks_of(processor)
    shares = _token_shares(model, roi_networks, len(networks))
    owners = np.asarray(subjects)
    n_others = min(n_others, len(set(subjects)) - 1)
    if not n_others:
        raise Unavailable("All scans are of one subject, expected at least one other subject to compare them with.")
    prompt, answer_ids = encode_question(processor, question, answers)
    n_scans = len(owners) if n_scans is None else min(n_scans, len(owners))
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
        log_probabilities = answer_log_probabilities(model, prompt, answer_ids, fmri_features=tokens, **own)
        chosen[scan] = int(log_probabilities[0].argmax())
        others = features[other_subjects(owners, scan, n_others, np.random.default_rng([seed, scan]))]

        # captum calls this with any number of points of paths to this scan: its masks are expanded to them
        def odds(path: torch.Tensor, own=own, answer=int(chosen[scan])) -> torch.Tensor:
            log_probabilities = _differentiable_log_probabilities(model, prompt, answer_ids, path, own)
            return _differentiable_log_odds(log_probabilities, answer)

        # one path from each other subject's tokens to the scan's own; `missed` has the error of each path
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
    """Assign tokens to networks, then to pairs of different ones: (n_tokens, n_networks + n_pairs), 0 or 1."""
    config, of_networks = model.config, np.eye(n_networks)
    pairs = list(combinations(range(n_networks), 2))
    parts = []
    if config.reads_rois:
        of_rois = of_networks[list(roi_networks)]
        if config.fmri_config.num_latent_tokens:
            if not config.reads_network_pairs:
                raise Unavailable("The model reads latent tokens only, and none of them stands for a network.")
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
    """Compute log-probabilities of answers (n, n_answers) for one scan with other features (n, n_tokens, size).

    As `answer_log_probabilities`, which keeps no gradients. The prompt is read once: all answers follow it in one row,
    each at the positions right after the prompt and in a text segment that no other answer sees.
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
    # position 0 is the prompt's last token, which predicts the first token of every answer; the other tokens of an
    # answer are predicted by the one before them, which is not the end of the answer before
    log_probabilities = logits.float().log_softmax(-1)
    scores, place = [], 0
    for answer in answer_ids:
        predicting = [0, *range(place + 1, place + len(answer))]
        scores.append(log_probabilities[:, predicting, list(answer)].sum(-1))
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
) -> RandomisationTest:
    """Test whether an explanation depends on what the model has learnt [1]_.

    Parameters
    ----------
    explain : callable
        One of `EXPLANATIONS`.
    model, *asked, seed, **options
        As `explain` takes them.
    found : Effects, optional
        The explanation, for these scans or more, if it was computed before.

    Returns
    -------
    RandomisationTest
        Rank correlations of the sizes of pairs' values (of networks', where there are no pairs), mean over scans:
        ``randomised``, with the same model with shuffled weights, should be near zero; ``repeated``, with the model
        itself and other subjects, is what it could have reached. None where the values of each scan are all equal.

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
    """Copy a model and shuffle the values within each weight: their distributions stay, what was learnt is lost."""
    shuffled = copy.deepcopy(model)
    # drawn on the CPU: the same order on every device
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shuffled.parameters():  # tied weights come once, and stay tied
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def _similarity(first: Effects, second: Effects) -> float | None:
    """Rank correlation of the sizes of two explanations' values, mean over the scans of the second."""
    values = [effects.of_pairs if effects.pairs else effects.of_networks for effects in (first, second)]
    # `zip` ends with the second, which may explain fewer scans
    similar = [float(spearmanr(np.abs(a), np.abs(b)).statistic) for a, b in zip(*values) if np.ptp(a) and np.ptp(b)]
    return float(np.mean(similar)) if similar else None


# ---------------------------------------------------------------------------------------- shared by both methods


def networks_of(processor: FmriLMProcessor) -> tuple[tuple[str, ...], list[int]]:
    """Return the names of the networks of a processor's atlas, and the number of each ROI's network.

    Raises
    ------
    Unavailable
        When there are fewer than two networks.
    """
    atlas = processor.feature_extractor.atlas
    names = () if atlas is None else tuple(atlas.network_names)
    if len(names) < 2:
        raise Unavailable(f"The model's atlas names {len(names)} network(s), expected at least two to compare.")
    return names, [names.index(name) for name in atlas.networks]


def other_subjects(owners: np.ndarray, scan: int, n: int, rng: np.random.Generator) -> list[int]:
    """Draw one scan of each of `n` other subjects, in random order; `owners` has the subject of each scan."""
    rows: dict[str, list[int]] = {}
    for row, subject in enumerate(owners):
        if subject != owners[scan]:
            rows.setdefault(subject, []).append(row)
    names = sorted(rows)
    return [int(rng.choice(rows[names[i]])) for i in rng.permutation(len(names))[:n]]


def log_odds(log_probabilities: np.ndarray, answer: int) -> np.ndarray:
    """Compute the log-odds of one answer against all others together: (n_scans,)."""
    others = np.delete(log_probabilities, answer, axis=1)
    return log_probabilities[:, answer] - np.logaddexp.reduce(others, axis=1)
