"""Showing a language model where to look: which tokens its heads should attend to, where network pairs are spoken of.

Before the level of a pair is written, its two names stand in the text and its value in the token of that pair. Left to
itself, a small model does not come to look that token up (it mixes what it knows of all pairs of either network), even
after thousands of steps. So while it is trained, some heads are told: those of an early layer to look at the names, and
those of a later layer to look at the token of their pair. This costs a few products of the queries at hand, and nothing
once the model is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..corpus.facts import Fact
from ..corpus.queries import BINS, Question
from .feature_store import IGNORED

# Columns of the tensor `look_ups` of a batch: the prompt; which heads look (1 for the second of two pairs that are
# compared, or for the pair in the second of two scans); the position that looks; those of the pair's token and of its
# names, -1 for names that are yet to be written.
ROW, TURN, POSITION, PAIR, FIRST_NAME, SECOND_NAME = range(N_COLUMNS := 6)
N_TURNS = 2
ATTENTION = "sdpa_with_look_ups"
Span = tuple[str, int, int]  # what is written, its first token, and the one behind its last


@dataclass(frozen=True)
class LookUp:
    """A position of a question and its answer from which the token of a network pair should be looked up.

    Attributes
    ----------
    position : int
        The token before what the pair's value decides.
    networks : (int, int)
        Numbers of the two networks.
    names : (int, int)
        Where the names of the pair stand (their last tokens), in the order in which they are said; -1 where they are
        what is written.
    turn : int
        1 for the second of two pairs that are compared, or for the pair in the second of two scans.
    """

    position: int
    networks: tuple[int, int]
    names: tuple[int, int] = (-1, -1)
    turn: int = 0

    def columns(self, start: int, scan: int, n_networks: int) -> list[int]:
        """Columns of a batch's `look_ups` behind the first.

        Parameters
        ----------
        start : int
            Where the question begins in its prompt.
        scan : int
            Where the network-pair tokens of its scan do, of which the first stands for the scan as a whole.
        n_networks : int
        """
        low, high = sorted(self.networks)
        pair = low * n_networks - low * (low - 1) // 2 + high - low  # as in `pair_indices`
        names = [name if name < 0 else start + name for name in self.names]
        return [self.turn, start + self.position, scan + 1 + pair, *names]


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of what is looked for in prompts, every name and level in each way of writing it.

    Attributes
    ----------
    names : mapping of str to sequence of tuple of int
        By network.
    levels : sequence of tuple of int
    """

    names: Mapping[str, Sequence[tuple[int, ...]]]
    levels: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, names: Sequence[str], tokenize: Callable[[str], Sequence[int]]) -> Vocabulary:
        """Names of networks and the levels, inside a text and at its beginning."""

        def ways(words: str) -> list[tuple[int, ...]]:
            return [tuple(tokenize(f" {words}")), tuple(tokenize(words))]

        return cls({name: ways(name) for name in names}, [way for level in BINS for way in ways(level)])

    def numbers(self, fact: Fact) -> tuple[int, int]:
        """Numbers of the networks of a fact's pair."""
        known = list(self.names)
        first, second = fact["network"]
        return known.index(first), known.index(second)


def find_look_ups(
    ids: Sequence[int], labels: Sequence[int], question: Question, vocabulary: Vocabulary
) -> list[LookUp]:
    """Where a question and its answer need the values of pairs.

    Parameters
    ----------
    ids, labels : sequence of int
        Of the question and its answer; labels as in training, so that the answer is what has any.
    question : Question
    vocabulary : Vocabulary
        With the names of the scan's networks.

    Returns
    -------
    list of LookUp
        Statements whose names or level are written in a way that `vocabulary` does not have are left out.
    """
    names = _spans(ids, vocabulary.names)
    levels = [span for span in _spans(ids, {"": vocabulary.levels}) if labels[span[1]] != IGNORED]
    if question.compares:
        answer = next(place for place, label in enumerate(labels) if label != IGNORED)
        return _compared(question.compares, names, answer - 1, vocabulary)
    found: list[LookUp] = []
    cursor = 0
    for fact in question.states:
        of_pair = [span for span in names if span[1] >= cursor and span[0] in fact["network"]]
        if fact["feature"].startswith("connectivity/bin/"):
            level = next((span for span in levels if span[1] >= cursor), None)
            if level is None:
                break
            cursor = level[2]
            said = [span for span in of_pair if span[2] <= level[1]][-2:]
            if {name for name, _, _ in said} == set(fact["network"]):
                found.append(LookUp(level[1] - 1, vocabulary.numbers(fact), _ends(said)))
        else:
            written = [span for span in of_pair if labels[span[1]] != IGNORED][:2]
            found += [LookUp(start - 1, vocabulary.numbers(fact)) for _, start, _ in written]
            cursor = written[-1][2] if written else cursor
    return found


def _compared(
    facts: Sequence[Fact], names: Sequence[Span], position: int, vocabulary: Vocabulary
) -> list[LookUp]:
    """Both pairs of a comparison, or one pair in both scans; the answer is written at once."""
    found, cursor = [], 0
    in_two_scans = facts[0]["network"] == facts[1]["network"]
    for turn, fact in enumerate(facts):
        n_names = len(set(fact["network"]))
        said = [span for span in names if span[1] >= cursor][:n_names]
        if {name for name, _, _ in said} != set(fact["network"]):
            return []
        cursor = 0 if in_two_scans else said[-1][2]
        found.append(LookUp(position, vocabulary.numbers(fact), _ends(said), turn))
    return found


def _ends(said: Sequence[Span]) -> tuple[int, int]:
    """Last tokens of two names, or twice that of the only one."""
    return said[0][2] - 1, said[-1][2] - 1


def find_in_conversation(
    ids: Sequence[int], labels: Sequence[int], questions: Sequence[Question], vocabulary: Vocabulary
) -> Iterator[tuple[int, LookUp]]:
    """The look-ups of questions that follow each other in one prompt, and where their question begins.

    `ids` and `labels` are those of the whole conversation; a question ends where the labels of its answer do.
    """
    known = [*(label != IGNORED for label in labels), False]
    ends = [place for place in range(1, len(known)) if known[place - 1] and not known[place]]
    for start, end, question in zip([0, *ends], ends, questions, strict=False):
        for look_up in find_look_ups(ids[start:end], labels[start:end], question, vocabulary):
            yield start, look_up


def _spans(ids: Sequence[int], written: Mapping[str, Sequence[tuple[int, ...]]]) -> list[Span]:
    """What occurs in a text, one behind the other; the longest where several begin."""
    ways = sorted(
        ((way, what) for what, each in written.items() for way in each), key=lambda way: -len(way[0])
    )
    starting: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    for way, what in ways:
        starting.setdefault(way[0], []).append((way, what))
    spans, place = [], 0
    while place < len(ids):
        for way, what in starting.get(ids[place], ()):
            if tuple(ids[place : place + len(way)]) == way:
                spans.append((what, place, place + len(way)))
                place += len(way) - 1
                break
        place += 1
    return spans


def among(look_ups: torch.Tensor, rows: torch.Tensor, first: int) -> torch.Tensor:
    """The look-ups of some prompts of a batch, of whose positions the first `first` are cut off.

    `rows` (batch,) says which prompts are kept.
    """
    look_ups = look_ups[rows[look_ups[:, ROW]]]
    row = (rows.cumsum(0) - 1)[look_ups[:, :1]]
    places = look_ups[:, POSITION:]
    return torch.cat([row, look_ups[:, TURN:POSITION], torch.where(places < 0, -1, places - first)], dim=1)


def moved(look_ups: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Look-ups of a batch whose tokens go elsewhere: (batch, n_positions) says where in its row each goes."""
    row, columns = look_ups[:, :1], look_ups[:, POSITION:]
    columns = torch.where(columns < 0, -1, places[row, columns.clamp_min(0)])
    return torch.cat([look_ups[:, :POSITION], columns], dim=1)


class LookUpGuide:
    """What some heads of a language model are told to look at.

    Parameters
    ----------
    language_model : PreTrainedModel
        Its attention becomes one that can be listened to, and computes what it did.
    layers : sequence of two int
        The layer whose first heads look at the names (two for each turn), and the one of which one head in two looks at
        the token of a pair.

    Raises
    ------
    ValueError
        Where the model has no such layers or heads.
    """

    def __init__(self, language_model: PreTrainedModel, layers: Sequence[int] = (0, 1)):
        config = language_model.config
        gathering, looking = layers
        if (
            not 0 <= gathering < looking < config.num_hidden_layers
            or config.num_attention_heads < 2 * N_TURNS
        ):
            raise ValueError(
                f"Look-ups need four heads of layer {gathering} and of the later layer {looking}, but the language "
                f"model has {config.num_hidden_layers} layers of {config.num_attention_heads} heads: give other "
                "`look_up_layers`."
            )
        # by layer: head, whose turn it is, and which column of the look-ups it should attend to
        turns = range(N_TURNS)
        self.told = {
            gathering: [
                (2 * turn + k, turn, column)
                for turn in turns
                for k, column in enumerate((FIRST_NAME, SECOND_NAME))
            ],
            looking: [(2 * turn, turn, PAIR) for turn in turns],
        }
        language_model.set_attn_implementation(ATTENTION)
        self._look_ups: torch.Tensor | None = None
        self._total = torch.zeros(())

    @contextmanager
    def listening(self, look_ups: torch.Tensor) -> Iterator[LookUpGuide]:
        """While the model runs on prompts with these look-ups (n_look_ups, N_COLUMNS)."""
        self._look_ups, self._total = look_ups, torch.zeros((), device=look_ups.device)
        token = _GUIDE.set(self)
        try:
            yield self
        finally:
            _GUIDE.reset(token)

    @property
    def total(self) -> torch.Tensor:
        """How surprising it is, in nats, that the heads look where they should: a sum over look-ups and heads."""
        return self._total

    def look(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float
    ):
        """Add what the heads of a layer do; queries and keys are (batch, n_heads, n_positions, head_size)."""
        assert self._look_ups is not None
        for head, turn, column in self.told.get(layer, ()):
            chosen = (self._look_ups[:, TURN] == turn) & (self._look_ups[:, column] >= 0)
            row, position, target = self._look_ups[chosen][:, [ROW, POSITION, column]].T
            keys = key[:, head * key.shape[1] // query.shape[1]][row]
            scores = (keys @ query[row, head, position][..., None])[..., 0].float() * scaling
            if mask is None:
                seen = torch.arange(keys.shape[1], device=row.device) <= position[:, None]
            else:
                seen = mask[row, 0, position]
            scores = scores.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else scores + seen
            self._total = self._total + F.cross_entropy(scores, target, reduction="sum")


_GUIDE: ContextVar[LookUpGuide | None] = ContextVar("look_ups", default=None)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options,
) -> tuple[torch.Tensor, None]:
    """PyTorch's attention; a guide that listens is shown its queries and keys."""
    guide = _GUIDE.get()
    if guide is not None:
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        guide.look(module.layer_idx, query, key, attention_mask, scaling)  # type: ignore[arg-type]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
