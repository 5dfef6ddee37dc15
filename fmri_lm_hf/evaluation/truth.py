"""Truth: whether statements and answers of a model agree with the numbers of the scan.

Measured are connectivity bins of network pairs, comparisons of two scans, descriptions, and descriptions of absent
scans (mirages). Scores have two controls: the same answers compared with another scan, where a model that says what is
true of most scans does as well, and the most common answer among these scans. The last section scores hypotheses in
words without labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..corpus.check import Claim, parse_claims
from ..corpus.facts import PAIR_BIN, fact_key
from ..corpus.languages import ENGLISH, Language, language_of
from ..corpus.queries import (
    BINS,
    BOUNDS_BETWEEN,
    BOUNDS_WITHIN,
    DESCRIBE,
    bin_of,
    bin_question,
    pair_words,
    says_no_scan,
    scan_facts,
    scans_question,
)
from ..deprecation import renamed_attributes
from ..models.answers import answers_to_questions, encode_question, read_before
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import network_pair_values, pair_indices
from ..models.processing_fmri_lm import FmriLMProcessor
from .model_answers import Inputs, batches, generate_texts

CLEAR_DIFFERENCE = 0.3  # between two scans, in units of a scan's RMS correlation
Scores = dict[str, float | None]  # None where there is nothing to score


class TruthResults(TypedDict, total=False):
    """Scores of :func:`bin_truth`, of the same in other languages, of :func:`description_truth` and :func:`mirage`."""

    pair_level: Scores
    languages: dict[str, Scores]
    descriptions: Scores
    mirage: Scores


def truth(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: Sequence[Any],
    n_absent: int = 50,
    seed: int = 0,
    languages: Sequence[str] = (),
) -> TruthResults:
    """Measure the truth of a model's answers and descriptions, for `results.json`.

    Parameters
    ----------
    model, processor
        The processor's feature extractor needs an atlas with networks.
    scans : sequence of scans
        As `FmriFeatureExtractor` takes them; at least two, so that there is another scan to compare with.
    n_absent : int, default=50
        Number of prompts without a scan, and of scans of noise, for the mirage rate.
    seed : int
        For the noise.
    languages : sequence of str
        Languages besides English in which bins are asked for, by their codes in `LANGUAGES`.

    Returns
    -------
    TruthResults
        With ``languages`` only if there are any.
    """
    inputs = dict(processor(fmri=list(scans)))
    results: TruthResults = {}
    if languages:
        results["languages"] = {code: bin_truth(model, processor, inputs, language_of(code)) for code in languages}
    results["pair_level"] = bin_truth(model, processor, inputs)
    results["descriptions"] = description_truth(model, processor, inputs)
    results["mirage"] = mirage(model, processor, inputs, n_absent, seed)
    return results


# ------------------------------------------------------------------------------------------------ connectivity bins


def bin_truth(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, inputs: Inputs, language: Language = ENGLISH
) -> Scores:
    """Measure how often a model names the right one of five connectivity bins of a network pair.

    Returns
    -------
    dict
        `exact`: share of right answers; `within_one`: of answers at most one bin off; `other_scan`: of answers that
        are right for the next scan; `most_common`: of right answers if each pair's most common bin among these scans
        were always given; `rank_correlation`: Spearman correlation, over scans, of a pair's expected bin and its
        connectivity, mean over pairs (None with fewer than three scans).
    """
    values, present, names = scan_pairs(processor, inputs)
    probabilities = bin_probabilities(model, processor, inputs, language=language).numpy()
    first, second = pair_indices(len(names)).numpy()
    bins = bin_of(values.numpy(), first == second)
    known = present.numpy()  # a pair without two usable ROIs has no bin, and counts nowhere
    answers = probabilities.argmax(-1)
    expected = probabilities @ np.arange(len(BINS))
    both = known & np.roll(known, -1, axis=0)  # a pair that this scan and the next one have
    common = [np.bincount(bins[known[:, k], k], minlength=len(BINS)).argmax() for k in range(len(first))]
    correlations = [
        spearmanr(expected[known[:, k], k], values.numpy()[known[:, k], k])[0]
        for k in range(len(first))
        if known[:, k].sum() > 2 and np.ptp(expected[known[:, k], k]) > 0
    ]
    return {
        "exact": _mean((answers == bins)[known]),
        "other_scan": _mean((answers == np.roll(bins, -1, axis=0))[both]),
        "most_common": _mean((bins == np.array(common))[known]),
        "within_one": _mean((np.abs(answers - bins) <= 1)[known]),
        "rank_correlation": _mean(correlations),
    }


def bin_probabilities(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Inputs,
    pairs: Sequence[int] | None = None,
    language: Language = ENGLISH,
) -> torch.Tensor:
    """Compute the probabilities of the connectivity bins of network pairs, with one question for each pair.

    Parameters
    ----------
    model, processor
    inputs : mapping of torch.Tensor
        The scans as the processor encodes them.
    pairs : sequence of int, optional
        Numbers of the pairs to ask about, in the order of `numpy.triu_indices`; all when None.
    language : Language
        Of question and answers.

    Returns
    -------
    torch.Tensor of shape (n_scans, len(pairs), 5)
        Sums to one over the bins.
    """
    names = names_of_networks(processor)
    first, second = pair_indices(len(names)).tolist()
    asked = []
    for pair in range(len(first)) if pairs is None else pairs:
        question = bin_question([names[first[pair]], names[second[pair]]], language=language)
        asked.append(encode_question(processor, question, language.bins))
    scores = [
        torch.stack([each.cpu() for each in answers_to_questions(model, asked, **batch)], dim=1)
        for batch in tqdm(batches(inputs), desc="Bins of pairs", unit="batch", disable=len(asked) < 10)
    ]
    return torch.cat(scores).softmax(-1)


def scan_pairs(processor: FmriLMProcessor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Compute the connectivity of each network pair in each scan.

    Returns
    -------
    values : torch.Tensor of shape (n_scans, n_pairs)
        In units of the scan's RMS correlation.
    present : torch.BoolTensor of shape (n_scans, n_pairs)
        Whether the scan has the pair.
    names : tuple of str
        Of the networks.
    """
    names = names_of_networks(processor)
    networks = torch.tensor([names.index(name) for name in processor.feature_extractor.atlas.networks])
    values, present, _ = network_pair_values(
        inputs["input_values"], inputs["roi_mask"], inputs["padding_mask"], networks, len(names)
    )
    return values, present, names


def names_of_networks(processor: FmriLMProcessor) -> tuple[str, ...]:
    """Return the names of the networks of a processor's atlas."""
    atlas = processor.feature_extractor.atlas
    if atlas is None:
        raise ValueError(
            "The processor's feature extractor has no atlas, expected one with networks: make it with "
            "`FmriFeatureExtractor(atlas=...)`."
        )
    return atlas.network_names


# ------------------------------------------------------------------------------------------- two scans in one prompt


def comparison_truth(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, inputs: Inputs, language: Language = ENGLISH
) -> Scores:
    """Measure how often a model tells rightly in which of two scans of one prompt a network pair is stronger.

    Every scan is compared with the next one, for each pair that both have.

    Returns
    -------
    dict
        `exact`: share of right answers; `clear`: the same for differences above `CLEAR_DIFFERENCE` (in units of the
        scans' RMS correlations); `other_scans`: share of answers that are right for the next pair of scans. Guessing
        reaches 0.5.
    """
    values, present, names = scan_pairs(processor, inputs)
    first, second = pair_indices(len(names)).tolist()
    scan = {"type": "fmri"}
    asked = []
    for pair in zip(first, second, strict=True):
        question = scans_question([names[number] for number in pair], language=language)
        blocks = [scan, scan, {"type": "text", "text": question}]
        asked.append(encode_question(processor, blocks, (language.first_scan, language.second_scan)))
    # all prompts begin alike, up to the end of the first scan: it is read once, and each prompt continues after it
    n_before = asked[0][0].index(processor.fmri_token_id) + processor.n_tokens
    rest = [(prompt[n_before:], answers) for prompt, answers in asked]
    n_scans = len(values)
    answers_first = []
    for number in tqdm(range(n_scans), desc="Comparing scans", unit="scan", disable=n_scans < 10):
        first_scan, second_scan = (
            {name: values[[row]] for name, values in inputs.items()} for row in (number, (number + 1) % n_scans)
        )
        past = read_before(model, asked[0][0][:n_before], **first_scan)
        scores = torch.cat(answers_to_questions(model, rest, before=past, **second_scan))
        answers_first.append(scores[:, 0] > scores[:, 1])
    says_first = torch.stack(answers_first).cpu()
    # row i compares scans i and i + 1; one more roll gives scans i + 1 and i + 2, for the control
    difference = values - values.roll(-1, 0)
    known = present & present.roll(-1, 0)
    right = says_first == (difference > 0)
    right_of_others = says_first == (difference.roll(-1, 0) > 0)
    return {
        "exact": _mean(right[known].numpy()),
        "clear": _mean(right[known & (difference.abs() > CLEAR_DIFFERENCE)].numpy()),
        "other_scans": _mean(right_of_others[known & known.roll(-1, 0)].numpy()),
    }


# ------------------------------------------------------------------------------------------ descriptions and mirages


def description_truth(model: FmriLMForCausalLM, processor: FmriLMProcessor, inputs: Inputs) -> Scores:
    """Measure how much of a model's descriptions of scans is true, by the facts that follow from the scan alone.

    Returns
    -------
    dict
        `precision`: share of true statements (a statement is about one feature of one network pair); `recall`: share
        of facts that are stated rightly; `other_scan_precision`: precision with the facts of the next scan;
        `statements`: mean number of statements per scan. Precision is None where nothing is stated.
    """
    values, present, names = scan_pairs(processor, inputs)
    facts = [scan_facts(v, p, names) for v, p in zip(values.tolist(), present.tolist(), strict=True)]
    texts = generate_texts(model, processor, DESCRIBE[0], inputs, 160)
    claims = [parse_claims(text, names) for text in texts]
    # what is true of the next scan as well is no sign that this one was read
    true = [_true_claims(*pair) for pair in zip(claims, facts, strict=True)]
    true_of_other = [_true_claims(*pair) for pair in zip(claims, [*facts[1:], facts[0]], strict=True)]
    n_claims, n_facts = sum(map(len, claims)), sum(map(len, facts))
    return {
        "precision": sum(map(len, true)) / n_claims if n_claims else None,
        # a fact that is stated twice is one fact, and two statements
        "recall": sum(len(set(keys)) for keys in true) / n_facts if n_facts else None,
        "other_scan_precision": sum(map(len, true_of_other)) / n_claims if n_claims else None,
        "statements": n_claims / len(texts),
    }


def _true_claims(claims: Sequence[Claim], facts: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the keys of the true claims; one about something without a fact cannot be checked and is not true."""
    known = {fact_key(fact): fact for fact in facts}
    return [claim.key for claim in claims if claim.key in known and not claim.disagreements(known[claim.key])]


def mirage(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Inputs,
    n_absent: int = 50,
    seed: int = 0,
) -> Scores:
    """Measure how often a model describes absent scans, and how often real ones.

    An answer that says that there is no scan is not a description; every other text is.

    Returns
    -------
    dict
        `absent_described`: share of descriptions for prompts without a scan and for scans of noise;
        `no_scan_described`, `noise_described`: its two parts; `shuffled_described`: the same for the given scans with
        their ROIs in random order; `real_answered`: for the given scans.
    """
    generator = torch.Generator().manual_seed(seed)
    questions = [DESCRIBE[k % len(DESCRIBE)] for k in range(n_absent)]
    # without a scan the same question always gets the same text: each is asked once and counted as often as it is due
    texts = [generate_texts(model, processor, question, None)[0] for question in dict.fromkeys(questions)]
    no_scan = np.resize([not says_no_scan(text) for text in texts], n_absent)
    n_rois, n_timepoints = inputs["input_values"].shape[1:]
    noise = {
        "input_values": torch.randn(n_absent, n_rois, n_timepoints, generator=generator),
        "roi_mask": torch.ones(n_absent, n_rois, dtype=torch.bool),
        "padding_mask": torch.ones(n_absent, n_timepoints, dtype=torch.bool),
    }
    # one order for all scans, so that their signals stay real and only their places are wrong
    order = torch.randperm(n_rois, generator=generator)
    shuffled = {
        "input_values": inputs["input_values"][:, order],
        "roi_mask": inputs["roi_mask"][:, order],
        "padding_mask": inputs["padding_mask"],
    }

    def described(scans: Inputs) -> np.ndarray:
        texts = generate_texts(model, processor, DESCRIBE[0], scans, 24)  # tokens: enough to see whether it declines
        return np.array([not says_no_scan(text) for text in texts])

    of_noise = described(noise)
    return {
        "absent_described": _mean(np.concatenate([no_scan, of_noise])),
        "no_scan_described": _mean(no_scan),
        "noise_described": _mean(of_noise),
        "shuffled_described": _mean(described(shuffled)),
        "real_answered": _mean(described(inputs)),
    }


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


# ---------------------------------------------------------------------------- hypotheses in words, without labels


@dataclass(frozen=True)
class Statement:
    """A statement of a hypothesis: a network pair (the same name twice within a network) and its direction."""

    networks: tuple[str, str]
    stronger: bool

    def __str__(self) -> str:
        return f"{'stronger' if self.stronger else 'weaker'} connectivity {pair_words(self.networks)}"


def parse_hypothesis(hypothesis: str, network_names: Sequence[str]) -> list[Statement]:
    """Parse the statements of a hypothesis.

    Parameters
    ----------
    hypothesis : str
        Statements such as ``weaker connectivity between default and cerebellum``, separated by semicolons, full
        stops or new lines, in any wording that `parse_claims` reads.
    network_names : sequence of str
        The networks of the atlas.

    Raises
    ------
    ValueError
        For a statement that cannot be parsed, with the reason.

    Examples
    --------
    >>> [str(s) for s in parse_hypothesis("Connectivity within visual is raised.", ["default", "visual"])]
    ['stronger connectivity within visual']
    """
    statements: list[Statement] = []
    for part in filter(None, map(str.strip, re.split(r";|(?<=[.!?])\s+|\n", hypothesis))):
        claims = parse_claims(part, network_names)
        problems = [_problem_with(claim, network_names) for claim in claims] or [
            "it names no direction of connectivity"
        ]
        if problem := next(filter(None, problems), None):
            raise ValueError(
                f"The statement {part!r} cannot be read: {problem}. Write it like 'weaker connectivity between "
                f"{network_names[0]} and {network_names[-1]}', with the networks {', '.join(network_names)}."
            )
        statements += [Statement((c.networks[0], c.networks[1]), c.direction == "raised") for c in claims]
    if not statements:
        raise ValueError("The hypothesis is empty: write at least one statement.")
    return statements


def _problem_with(claim: Claim, network_names: Sequence[str]) -> str | None:
    """Return the reason why a claim is not a statement of a hypothesis; None if it is one."""
    if claim.measure not in ("connectivity/mean", PAIR_BIN):
        return "it is not about connectivity" + (f" but {claim.measure}" if claim.measure else "")
    if claim.direction not in ("raised", "lowered"):
        return f"its direction is {claim.direction or 'missing'}"
    if len(claim.networks) != 2:
        return f"it names {len(claim.networks)} network(s) of the atlas"
    if unknown := sorted(set(claim.networks) - set(network_names)):
        return f"the atlas has no network {', '.join(unknown)}"
    return None


def statement_probabilities(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Mapping[str, torch.Tensor],
    statements: Sequence[Statement],
) -> np.ndarray:
    """Compute how probable a model finds each statement for each scan: (n_scans, n_statements).

    Each bin holds a fifth of random scans, so probabilities of bins give the probability that the pair is stronger
    than in a random scan.
    """
    pairs = [_pair_number(statement, names_of_networks(processor)) for statement in statements]
    bins = bin_probabilities(model, processor, inputs, pairs).numpy()
    # a scan in the middle of bin k is stronger than the k bins below and half of its own
    stronger = bins @ ((np.arange(len(BINS)) + 0.5) / len(BINS))
    return np.where([statement.stronger for statement in statements], stronger, 1 - stronger)


def direct_probabilities(
    processor: FmriLMProcessor, inputs: Mapping[str, torch.Tensor], statements: Sequence[Statement]
) -> np.ndarray:
    """As :func:`statement_probabilities`, from correlations of the scans without a model: the ceiling for models."""
    values, _, names = scan_pairs(processor, inputs)
    columns = []
    for statement in statements:
        bounds = np.array(BOUNDS_WITHIN if statement.networks[0] == statement.networks[1] else BOUNDS_BETWEEN)
        # a logistic curve, 0.2 and 0.8 at the outer bounds: bins alone would call all values beyond them equal
        centre, scale = bounds.mean(), (bounds[-1] - bounds[0]) / 2
        value = values[:, _pair_number(statement, names)].numpy()
        stronger = 1 / (1 + np.exp(-np.log(4) * (value - centre) / scale))
        columns.append(stronger if statement.stronger else 1 - stronger)
    return np.stack(columns, axis=1)


def _pair_number(statement: Statement, names: Sequence[str]) -> int:
    wanted = sorted(names.index(name) for name in statement.networks)
    return pair_indices(len(names)).T.tolist().index(wanted)


def relative_to(reference: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute the share of reference scans that agree less with each statement than a scan; equal ones count half.

    Parameters
    ----------
    reference : ndarray of shape (n_reference, n_statements)
    probabilities : ndarray of shape (n_scans, n_statements)

    Returns
    -------
    ndarray of shape (n_scans, n_statements)
    """
    below = (reference[None] < probabilities[:, None]).mean(1)
    return below + 0.5 * (reference[None] == probabilities[:, None]).mean(1)


__getattr__ = renamed_attributes(
    __name__, {"level_probabilities": "bin_probabilities", "pair_level_truth": "bin_truth"}
)
