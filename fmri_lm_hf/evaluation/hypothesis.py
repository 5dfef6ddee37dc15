"""A hypothesis in words: which network pairs are stronger or weaker, and how far a scan agrees. No label is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..corpus.faithfulness import parse_claims
from ..corpus.reading import BOUNDS_BETWEEN, BOUNDS_WITHIN, LEVELS, pair_words
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import pair_indices
from ..models.processing_fmri_lm import FmriLMProcessor
from .truth import level_probabilities, names_of_networks, scan_pairs

__all__ = [
    "Statement",
    "direct_probabilities",
    "parse_hypothesis",
    "relative_to",
    "statement_probabilities",
]

_CONNECTIVITY = ("connectivity/mean", "connectivity/level")


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
    stronger = levels @ ((np.arange(len(LEVELS)) + 0.5) / len(LEVELS))
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
