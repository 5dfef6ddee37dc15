"""Is it true what a model says about scans? Levels of network pairs, descriptions, and scans that are not there.

Every score stands beside two others: the same answers held against another scan's truth, which a model reaches that
says what is true of most scans, and the answers most common among these scans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..corpus.check import parse_claims
from ..corpus.facts import fact_measure
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
from ..models.answers import answers_to_questions, encode_question, read_before
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import network_pair_values, pair_indices
from ..models.processing_fmri_lm import FmriLMProcessor
from .model_answers import Inputs, batches, generate_texts

CLEAR_DIFFERENCE = 0.3  # between two scans, in units of a scan's RMS correlation


def truth(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    scans: Sequence[Any],
    n_absent: int = 50,
    seed: int = 0,
    languages: Sequence[str] = (),
) -> dict[str, Any]:
    """All that this module measures, in the form of `results.json`.

    Parameters
    ----------
    model, processor
        The processor's feature extractor needs an atlas with networks.
    scans : sequence of scans
        As [`FmriFeatureExtractor`] takes them; at least two, so that another scan's answers exist.
    n_absent : int, default=50
        Prompts without a scan, and as many scans of noise, for the mirage rate.
    seed : int
        Of the noise.
    languages : sequence of str
        In which levels of pairs are asked for besides English, by their codes in `LANGUAGES`.

    Returns
    -------
    dict
        ``{"pair_level": ..., "descriptions": ..., "mirage": ...}``, see the functions of these names; with
        `languages` also ``{"languages": {code: ...}}``, each as ``pair_level``.
    """
    inputs = dict(processor(fmri=list(scans)))
    of_languages = {code: pair_level_truth(model, processor, inputs, language_of(code)) for code in languages}
    return ({"languages": of_languages} if languages else {}) | {
        "pair_level": pair_level_truth(model, processor, inputs),
        "descriptions": description_truth(model, processor, inputs),
        "mirage": mirage(model, processor, inputs, n_absent, seed),
    }


def names_of_networks(processor: FmriLMProcessor) -> tuple[str, ...]:
    """The networks of a processor's atlas."""
    atlas = processor.feature_extractor.atlas
    if atlas is None:
        raise ValueError(
            "The processor's feature extractor has no atlas, so its scans have no networks to ask about: make it "
            "with `FmriFeatureExtractor(atlas=...)`."
        )
    return atlas.network_names


def scan_pairs(
    processor: FmriLMProcessor, inputs: Inputs
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Connectivity of each network pair in each scan, which pairs there are, and the networks' names.

    Returns
    -------
    values : torch.Tensor of shape (n_scans, n_pairs)
        In units of the scan's RMS correlation.
    present : torch.BoolTensor of shape (n_scans, n_pairs)
    names : tuple of str
    """
    names = names_of_networks(processor)
    networks = torch.tensor([names.index(name) for name in processor.feature_extractor.atlas.networks])
    values, present, _ = network_pair_values(
        inputs["input_values"], inputs["roi_mask"], inputs["padding_mask"], networks, len(names)
    )
    return values, present, names


def level_probabilities(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Inputs,
    pairs: Sequence[int] | None = None,
    language: Language = ENGLISH,
) -> torch.Tensor:
    """How probable a model finds each level of each network pair, each question for itself.

    Parameters
    ----------
    model, processor
    inputs : mapping of torch.Tensor
        What the processor makes of the scans.
    pairs : sequence of int, optional
        Numbers of the pairs to ask for, in the order of `numpy.triu_indices`; all when None.
    language : Language
        Of question and levels.

    Returns
    -------
    torch.Tensor of shape (n_scans, len(pairs), 5)
        Sums to one over the levels.
    """
    names = names_of_networks(processor)
    first, second = pair_indices(len(names)).tolist()
    chosen = range(len(first)) if pairs is None else pairs
    asked = [
        encode_question(
            processor,
            bin_question([names[first[pair]], names[second[pair]]], language=language),
            language.bins,
        )
        for pair in chosen
    ]
    scores = [
        torch.stack([each.cpu() for each in answers_to_questions(model, asked, **batch)], dim=1)
        for batch in tqdm(batches(inputs), desc="Levels of pairs", unit="batch", disable=len(asked) < 10)
    ]
    return torch.cat(scores).softmax(-1)


def pair_level_truth(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, inputs: Inputs, language: Language = ENGLISH
) -> dict[str, float | None]:
    """How often a model grades a network pair right, on five levels, asked in a language.

    Returns
    -------
    dict
        `exact` and `within_one`: share of right answers, and of those at most one level off; `other_scan`: of answers
        that are right for the next scan; `most_common`: what always answering each pair's most common level among
        these scans reaches; `rank_correlation`: Spearman correlation, over scans, of a pair's expected level and its
        connectivity, mean over pairs (None with fewer than three scans).
    """
    values, present, names = scan_pairs(processor, inputs)
    probabilities = level_probabilities(model, processor, inputs, language=language).numpy()
    first, second = pair_indices(len(names)).numpy()
    levels = bin_of(values.numpy(), first == second)
    known = present.numpy()
    answers = probabilities.argmax(-1)
    expected = probabilities @ np.arange(len(BINS))
    both = known & np.roll(known, -1, axis=0)
    common = [np.bincount(levels[known[:, k], k], minlength=len(BINS)).argmax() for k in range(len(first))]
    correlations = [
        spearmanr(expected[known[:, k], k], values.numpy()[known[:, k], k])[0]
        for k in range(len(first))
        if known[:, k].sum() > 2 and np.ptp(expected[known[:, k], k]) > 0
    ]
    return {
        "exact": _mean((answers == levels)[known]),
        "other_scan": _mean((answers == np.roll(levels, -1, axis=0))[both]),
        "most_common": _mean((levels == np.array(common))[known]),
        "within_one": _mean((np.abs(answers - levels) <= 1)[known]),
        "rank_correlation": _mean(correlations),
    }


def comparison_truth(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, inputs: Inputs, language: Language = ENGLISH
) -> dict[str, float | None]:
    """How often a model says right in which of two scans of one prompt a network pair is stronger.

    Every scan is held against the next one, for each pair that both have.

    Returns
    -------
    dict
        `exact`: share of right answers; `clear`: of those about differences above `CLEAR_DIFFERENCE` (in units of the
        scans' RMS correlations; None where there is none); `other_scans`: of answers that are right for the next two
        scans. A coin reaches 0.5.
    """
    values, present, names = scan_pairs(processor, inputs)
    first, second = pair_indices(len(names)).tolist()
    scan = {"type": "fmri"}
    asked = []
    for pair in zip(first, second, strict=True):
        question = scans_question([names[number] for number in pair], language=language)
        blocks = [scan, scan, {"type": "text", "text": question}]
        asked.append(encode_question(processor, blocks, (language.first_scan, language.second_scan)))
    n_before = asked[0][0].index(processor.fmri_token_id) + processor.n_tokens
    behind = [(prompt[n_before:], answers) for prompt, answers in asked]
    n_scans = len(values)
    said = []
    for number in tqdm(range(n_scans), desc="Comparing scans", unit="scan", disable=n_scans < 10):
        former, latter = (
            {name: each[[row]] for name, each in inputs.items()} for row in (number, (number + 1) % n_scans)
        )
        past = read_before(model, asked[0][0][:n_before], **former)
        scores = torch.cat(answers_to_questions(model, behind, before=past, **latter))
        said.append(scores[:, 0] > scores[:, 1])
    first_said = torch.stack(said).cpu()
    difference = values - values.roll(-1, 0)
    known = present & present.roll(-1, 0)
    right = first_said == (difference > 0)
    of_others = first_said == (difference.roll(-1, 0) > 0)
    return {
        "exact": _mean(right[known].numpy()),
        "clear": _mean(right[known & (difference.abs() > CLEAR_DIFFERENCE)].numpy()),
        "other_scans": _mean(of_others[known & known.roll(-1, 0)].numpy()),
    }


def description_truth(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Inputs,
    facts: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    max_new_tokens: int = 160,
) -> dict[str, float | None]:
    """How much of what a model says of scans is true.

    Parameters
    ----------
    model, processor
    inputs : mapping of torch.Tensor
    facts : sequence of sequence of fact, optional
        What is true of each scan; `scan_facts` of each when None. Give a cohort's facts as well where the model was
        taught to speak of a cohort.
    max_new_tokens : int

    Returns
    -------
    dict
        `precision`: share of statements that are true, a statement being what is said of one feature of one network
        pair; `recall`: share of the facts that are stated right; `other_scan_precision`: precision against the next
        scan's facts; `statements`: mean number of statements a scan. Precision is None where nothing is stated.
    """
    values, present, names = scan_pairs(processor, inputs)
    if facts is None:
        facts = [scan_facts(v, p, names) for v, p in zip(values.tolist(), present.tolist(), strict=True)]
    texts = generate_texts(model, processor, DESCRIBE[0], inputs, max_new_tokens)
    right = said = stated = other_right = 0
    for number, text in enumerate(texts):
        claims = parse_claims(text, names)
        n_right, keys = _check(claims, facts[number])
        right, said, stated = right + n_right, said + len(claims), stated + len(keys)
        other_right += _check(claims, facts[(number + 1) % len(facts)])[0]
    n_facts = sum(map(len, facts))
    return {
        "precision": right / said if said else None,
        "recall": stated / n_facts if n_facts else None,
        "other_scan_precision": other_right / said if said else None,
        "statements": said / len(texts),
    }


def mirage(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Inputs,
    n_absent: int = 50,
    seed: int = 0,
) -> dict[str, float | None]:
    """How often a model describes what is not there, and how often it answers where a scan is.

    An answer that says that there is no scan is none; every other text counts as a description.

    Returns
    -------
    dict
        `absent_described`: share of prompts without a scan, and of scans of noise, that are described;
        `no_scan_described`, `noise_described`: its two parts; `shuffled_described`: the same for these scans with
        their ROIs in random order; `real_answered`: share of these scans that are answered.
    """
    generator = torch.Generator().manual_seed(seed)
    questions = [DESCRIBE[k % len(DESCRIBE)] for k in range(n_absent)]
    alone = [generate_texts(model, processor, question, None)[0] for question in dict.fromkeys(questions)]
    no_scan = np.resize([not says_no_scan(text) for text in alone], n_absent)
    shape = inputs["input_values"].shape[1:]
    noise = {
        "input_values": torch.randn(n_absent, *shape, generator=generator),
        "roi_mask": torch.ones(n_absent, shape[0], dtype=torch.bool),
        "padding_mask": torch.ones(n_absent, shape[1], dtype=torch.bool),
    }
    order = torch.randperm(shape[0], generator=generator)
    shuffled = {
        "input_values": inputs["input_values"][:, order],
        "roi_mask": inputs["roi_mask"][:, order],
        "padding_mask": inputs["padding_mask"],
    }

    def described(scans: Inputs) -> np.ndarray:
        texts = generate_texts(model, processor, DESCRIBE[0], scans, 24)
        return np.array([not says_no_scan(text) for text in texts])

    of_noise = described(noise)
    return {
        "absent_described": _mean(np.concatenate([no_scan, of_noise])),
        "no_scan_described": _mean(no_scan),
        "noise_described": _mean(of_noise),
        "shuffled_described": _mean(described(shuffled)),
        "real_answered": _mean(described(inputs)),
    }


def _check(claims: Sequence[Any], facts: Sequence[Mapping[str, Any]]) -> tuple[int, set]:
    """How many claims are true, and which facts they state."""
    known = {(fact_measure(fact), tuple(sorted(fact["network"]))): fact for fact in facts}
    true = [claim.key for claim in claims if claim.key in known and not claim.disagreements(known[claim.key])]
    return len(true), set(true)


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


# A hypothesis in words: which network pairs are stronger or weaker, and how far a scan agrees. No label is used.

_CONNECTIVITY = ("connectivity/mean", "connectivity/bin")


@dataclass(frozen=True)
class Statement:
    """One statement of a hypothesis: a network pair (the same name twice for what lies within), and its direction."""

    networks: tuple[str, str]
    stronger: bool

    def __str__(self) -> str:
        return f"{'stronger' if self.stronger else 'weaker'} connectivity {pair_words(self.networks)}"


def parse_hypothesis(hypothesis: str, network_names: Sequence[str]) -> list[Statement]:
    """Read the statements of a hypothesis.

    Parameters
    ----------
    hypothesis : str
        Statements such as ``weaker connectivity between default and cerebellum``, separated by semicolons, full
        stops or new lines, in any wording that the corpus's checker reads.
    network_names : sequence of str
        The networks of the atlas.

    Raises
    ------
    ValueError
        When a statement cannot be read, naming it and what it lacks.

    Examples
    --------
    >>> [str(each) for each in parse_hypothesis("Connectivity within visual is raised.", ["default", "visual"])]
    ['stronger connectivity within visual']
    """
    statements: list[Statement] = []
    parts = [part.strip() for part in re.split(r";|(?<=[.!?])\s+|\n", hypothesis)]
    for part in filter(None, parts):
        claims = parse_claims(part, network_names)
        if not claims:
            raise ValueError(_unreadable(part, "it names no direction of connectivity", network_names))
        for claim in claims:
            if claim.measure not in _CONNECTIVITY:
                problem = "it is not about connectivity" + (f" but {claim.measure}" if claim.measure else "")
            elif claim.direction not in ("raised", "lowered"):
                problem = f"its direction is {claim.direction or 'missing'}"
            elif len(claim.networks) != 2:
                problem = f"it names {len(claim.networks)} network(s) of the atlas"
            elif set(claim.networks) - set(network_names):
                unknown = sorted(set(claim.networks) - set(network_names))
                problem = f"the atlas has no network {', '.join(unknown)}"
            else:
                statements.append(
                    Statement((claim.networks[0], claim.networks[1]), claim.direction == "raised")
                )
                continue
            raise ValueError(_unreadable(part, problem, network_names))
    if not statements:
        raise ValueError("The hypothesis is empty: write at least one statement.")
    return statements


def statement_probabilities(
    model: FmriLMForCausalLM,
    processor: FmriLMProcessor,
    inputs: Mapping[str, torch.Tensor],
    statements: Sequence[Statement],
) -> np.ndarray:
    """How probable a model finds each statement of each scan, of shape (n_scans, n_statements).

    A level is a fifth of what random scans have. So the level that the model reads says with which probability the pair
    is stronger than that of a random scan.
    """
    names = names_of_networks(processor)
    pairs = [_pair_number(statement, names) for statement in statements]
    levels = level_probabilities(model, processor, inputs, pairs).numpy()
    stronger = levels @ ((np.arange(len(BINS)) + 0.5) / len(BINS))
    return np.where([each.stronger for each in statements], stronger, 1 - stronger)


def direct_probabilities(
    processor: FmriLMProcessor, inputs: Mapping[str, torch.Tensor], statements: Sequence[Statement]
) -> np.ndarray:
    """The same, computed from the scans' correlations without a model: the ceiling of what a reader can say."""
    values, _, names = scan_pairs(processor, inputs)
    columns = []
    for statement in statements:
        bounds = np.array(BOUNDS_WITHIN if statement.networks[0] == statement.networks[1] else BOUNDS_BETWEEN)
        # smooth between the bounds and beyond, so that no scan is cut off
        centre, scale = bounds.mean(), (bounds[-1] - bounds[0]) / 2
        value = values[:, _pair_number(statement, names)].numpy()
        stronger = 1 / (1 + np.exp(-np.log(4) * (value - centre) / scale))
        columns.append(stronger if statement.stronger else 1 - stronger)
    return np.stack(columns, axis=1)


def relative_to(reference: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Share of reference scans that agree less with each statement than a scan does, counting equals half.

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


def _pair_number(statement: Statement, names: Sequence[str]) -> int:
    wanted = sorted(names.index(name) for name in statement.networks)
    return [sorted(pair) for pair in pair_indices(len(names)).T.tolist()].index(wanted)


def _unreadable(part: str, problem: str, names: Sequence[str]) -> str:
    return (
        f"The statement {part!r} cannot be read: {problem}. Write it like 'weaker connectivity between {names[0]} and "
        f"{names[-1]}', with the networks {', '.join(names)}."
    )
