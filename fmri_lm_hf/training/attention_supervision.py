"""Attention supervision: a loss that shows attention heads which tokens a question about network pairs needs.

The answer is the bin of a pair that is named in the text, and its value is in the token of that pair. A small model
does not learn to attend to this token even in thousands of steps: it mixes the pairs of both networks. So some heads
are supervised in training: in an early layer to attend to the names, in a later layer to attend to the token of their
pair. This costs a few products of queries and keys in training, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..corpus.facts import Fact
from ..corpus.queries import BINS, Question
from .feature_store import IGNORED

# Columns of `attention_targets`: the prompt; the slot, which decides which heads attend (1 for the second of two
# compared pairs, or for the pair in the second of two scans); the position that attends; the positions of the pair's
# token and of its two names, -1 for names that are not written yet.
ROW, SLOT, POSITION, PAIR, FIRST_NAME, SECOND_NAME = range(N_COLUMNS := 6)
N_SLOTS = 2
ATTENTION = "sdpa_supervised"
Span = tuple[str, int, int]  # name, its first token, and the one after its last


@dataclass(frozen=True)
class AttentionTarget:
    """A position in a question and its answer from which heads should attend to the token of a network pair.

    Attributes
    ----------
    position : int
        The token before the one that the value of the pair determines.
    networks : (int, int)
        Numbers of the two networks.
    names : (int, int)
        Positions of the last tokens of the pair's names, in the order of the text; -1 if the names are the answer.
    slot : int
        1 for the second of two compared pairs, or for the pair in the second of two scans; else 0.
    """

    position: int
    networks: tuple[int, int]
    names: tuple[int, int] = (-1, -1)
    slot: int = 0

    def columns(self, start: int, scan: int, n_networks: int) -> list[int]:
        """Return the columns of `attention_targets` after the first.

        Parameters
        ----------
        start : int
            Position of the question in its prompt.
        scan : int
            Position of the network-pair tokens of its scan; the first of them is that of the whole scan.
        n_networks : int
        """
        # Pairs are numbered row by row in the upper triangle of a matrix of networks, with the diagonal, as in
        # `pair_indices`. Their tokens follow that of the whole scan: hence `scan + 1`.
        low, high = sorted(self.networks)
        pair = low * n_networks - low * (low - 1) // 2 + high - low
        names = [name if name < 0 else start + name for name in self.names]
        return [self.slot, start + self.position, scan + 1 + pair, *names]


@dataclass(frozen=True)
class PairVocabulary:
    """Token ids of network names and bins, each inside a text (after a space) and at its beginning.

    Attributes
    ----------
    names : mapping of str to sequence of tuple of int
        Spellings by network.
    bins : sequence of tuple of int
    """

    names: Mapping[str, Sequence[tuple[int, ...]]]
    bins: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, names: Sequence[str], tokenize: Callable[[str], Sequence[int]]) -> PairVocabulary:
        """Make the vocabulary for these networks."""

        def spellings(words: str) -> list[tuple[int, ...]]:
            return [tuple(tokenize(f" {words}")), tuple(tokenize(words))]

        return cls(
            {name: spellings(name) for name in names},
            [spelling for name in BINS for spelling in spellings(name)],
        )

    def numbers(self, fact: Fact) -> tuple[int, int]:
        """Return the numbers of the two networks of a fact."""
        first, second = map(list(self.names).index, fact["network"])
        return first, second


def find_targets(
    ids: Sequence[int], labels: Sequence[int], question: Question, vocabulary: PairVocabulary
) -> list[AttentionTarget]:
    """Find the positions of a question and its answer that need the value of a pair.

    Parameters
    ----------
    ids, labels : sequence of int
        Tokens of the question and its answer, and labels, which only the answer has.
    question : Question
    vocabulary : PairVocabulary
        Vocabulary with the names of the scan's networks.

    Returns
    -------
    list of AttentionTarget
        Statements whose names or bin are spelt in a way that `vocabulary` does not know have no target.
    """
    names = _spans(ids, vocabulary.names)
    if question.compares:
        answer = next(place for place, label in enumerate(labels) if label != IGNORED)
        return _compared(question.compares, names, answer - 1, vocabulary)
    bins = [span for span in _spans(ids, {"": vocabulary.bins}) if labels[span[1]] != IGNORED]
    targets: list[AttentionTarget] = []
    cursor = 0  # statements are in the order of the answer, so each search starts after the last match
    for fact in question.states:
        of_pair = [span for span in names if span[1] >= cursor and span[0] in fact["network"]]
        if fact["feature"].startswith("connectivity/bin/"):
            written_bin = next((span for span in bins if span[1] >= cursor), None)
            if written_bin is None:
                break
            _, start, cursor = written_bin
            # the last two names before the bin, since the question may name other pairs before
            before = [span for span in of_pair if span[2] <= start][-2:]
            if {name for name, _, _ in before} == set(fact["network"]):
                targets.append(AttentionTarget(start - 1, vocabulary.numbers(fact), _ends(before)))
        else:
            written = [span for span in of_pair if labels[span[1]] != IGNORED][:2]
            targets += [AttentionTarget(start - 1, vocabulary.numbers(fact)) for _, start, _ in written]
            cursor = written[-1][2] if written else cursor
    return targets


def _compared(
    facts: Sequence[Fact], names: Sequence[Span], position: int, vocabulary: PairVocabulary
) -> list[AttentionTarget]:
    """Find the targets of both pairs of a comparison, or of one pair in both scans, at one position."""
    targets, cursor = [], 0
    in_two_scans = facts[0]["network"] == facts[1]["network"]
    for slot, fact in enumerate(facts):
        written = [span for span in names if span[1] >= cursor][: len(set(fact["network"]))]
        if {name for name, _, _ in written} != set(fact["network"]):
            return []
        cursor = 0 if in_two_scans else written[-1][2]
        targets.append(AttentionTarget(position, vocabulary.numbers(fact), _ends(written), slot))
    return targets


def _ends(written: Sequence[Span]) -> tuple[int, int]:
    """Return the last tokens of two names; of a single name twice the same."""
    return written[0][2] - 1, written[-1][2] - 1


def find_in_conversation(
    ids: Sequence[int],
    labels: Sequence[int],
    questions: Sequence[Question],
    vocabulary: PairVocabulary,
    scan: int,
) -> Iterator[list[int]]:
    """Find the targets of consecutive questions of a prompt, as columns of `attention_targets` after the first.

    Parameters
    ----------
    ids, labels : sequence of int
        The whole row of the batch; a question ends with the labels of its answer.
    questions : sequence of Question
    vocabulary : PairVocabulary
    scan : int
        Position of the network-pair tokens of the prompt's scan.
    """
    has_label = [*(label != IGNORED for label in labels), False]
    ends = [place for place in range(1, len(has_label)) if has_label[place - 1] and not has_label[place]]
    for start, end, question in zip([0, *ends], ends, questions, strict=False):
        for target in find_targets(ids[start:end], labels[start:end], question, vocabulary):
            yield target.columns(start, scan, len(vocabulary.names))


def _spans(ids: Sequence[int], spellings: Mapping[str, Sequence[tuple[int, ...]]]) -> list[Span]:
    """Find spellings in a text, from left to right; the longest of those that begin at the same token."""
    longest_first = sorted(
        ((spelling, name) for name, spelt in spellings.items() for spelling in spelt),
        key=lambda entry: -len(entry[0]),
    )
    by_first_token: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    for spelling, name in longest_first:
        by_first_token.setdefault(spelling[0], []).append((spelling, name))
    # "default mode" contains "default": the longer one has to be tried first, and its tokens then skipped
    spans, place = [], 0
    while place < len(ids):
        for spelling, name in by_first_token.get(ids[place], ()):
            if tuple(ids[place : place + len(spelling)]) == spelling:
                spans.append((name, place, place + len(spelling)))
                place += len(spelling) - 1
                break
        place += 1
    return spans


def select_rows(targets: torch.Tensor, rows: torch.Tensor, n_cut: int = 0) -> torch.Tensor:
    """Select the targets of some prompts of a batch, whose first `n_cut` positions are cut off.

    `rows` (batch,) is True for the prompts to keep. They are renumbered; -1 still means no position.
    """
    # -1 must stay -1: shifted with the positions it would become the last token of the row, a valid index
    targets = targets[rows[targets[:, ROW]]]
    row = (rows.cumsum(0) - 1)[targets[:, :1]]
    places = targets[:, POSITION:]
    return torch.cat([row, targets[:, SLOT:POSITION], torch.where(places < 0, -1, places - n_cut)], dim=1)


def move_positions(targets: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Move the targets of a batch with its tokens: `places` (batch, n_positions) are their new positions."""
    row, columns = targets[:, :1], targets[:, POSITION:]
    columns = torch.where(columns < 0, -1, places[row, columns.clamp_min(0)])
    return torch.cat([targets[:, :POSITION], columns], dim=1)


class AttentionSupervision:
    """Supervises heads of a language model while a batch runs through it.

    Parameters
    ----------
    language_model : PreTrainedModel
        Its attention is replaced by one that exposes queries and keys; results do not change.
    layers : sequence of two int
        A layer whose first heads attend to the names (two for each slot), and a later layer in which heads 0, 2, ...
        attend to the token of the pair (one for each slot).

    Attributes
    ----------
    heads : dict of int to list of (head, slot, column)
        By layer: which heads attend, for which slot, to which column of the targets.
    total : torch.Tensor
        Cross-entropy of the attention of these heads in nats: the sum over targets and heads of the last forward pass.

    Raises
    ------
    ValueError
        If the model does not have these layers, or not enough heads.
    """

    def __init__(self, language_model: PreTrainedModel, layers: Sequence[int] = (0, 1)):
        config = language_model.config
        of_names, of_pairs = layers
        if not 0 <= of_names < of_pairs < config.num_hidden_layers or config.num_attention_heads < 2 * N_SLOTS:
            raise ValueError(
                f"Attention supervision needs four heads in layer {of_names} and in the later layer {of_pairs}, but "
                f"the language model has {config.num_hidden_layers} layers of {config.num_attention_heads} heads: "
                "give other `supervised_layers`."
            )
        slots = range(N_SLOTS)
        names = (FIRST_NAME, SECOND_NAME)
        self.heads = {
            of_names: [(2 * slot + k, slot, column) for slot in slots for k, column in enumerate(names)],
            of_pairs: [(2 * slot, slot, PAIR) for slot in slots],
        }
        language_model.set_attn_implementation(ATTENTION)
        self.targets: torch.Tensor | None = None
        self.total = torch.zeros(())

    @contextmanager
    def over(self, targets: torch.Tensor) -> Iterator[AttentionSupervision]:
        """Supervise the model while it runs on prompts with these targets (n_targets, N_COLUMNS)."""
        self.targets, self.total = targets, torch.zeros((), device=targets.device)
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    def add_layer(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float
    ) -> None:
        """Add the loss of a layer's heads to `total`; queries and keys are (batch, n_heads, n_positions, head_size)."""
        assert self.targets is not None
        for head, slot, column in self.heads.get(layer, ()):
            chosen = (self.targets[:, SLOT] == slot) & (self.targets[:, column] >= 0)
            row, position, target = self.targets[chosen][:, [ROW, POSITION, column]].T
            # with grouped-query attention several heads share keys
            keys = key[:, head * key.shape[1] // query.shape[1]][row]
            # in float32, like the softmax of attention: cross-entropy in bfloat16 is too coarse
            scores = (keys @ query[row, head, position][..., None])[..., 0].float() * scaling
            # The model passes a boolean mask, one to be added to the scores, or None for plain causal attention, which
            # fused kernels compute without a mask. Treated as "no mask", None would let heads attend to the future.
            if mask is None:
                seen = torch.arange(keys.shape[1], device=row.device) <= position[:, None]
            else:
                seen = mask[row, 0, position]
            scores = scores.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else scores + seen
            self.total = self.total + F.cross_entropy(scores, target, reduction="sum")


_ACTIVE: ContextVar[AttentionSupervision | None] = ContextVar("attention_supervision", default=None)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Run PyTorch's attention; an active supervision gets its queries and keys."""
    supervision = _ACTIVE.get()
    if supervision is not None:
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        supervision.add_layer(module.layer_idx, query, key, attention_mask, scaling)  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
