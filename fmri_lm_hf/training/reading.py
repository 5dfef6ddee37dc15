"""What a reader is trained on: questions about random scans, from few networks and one wording to many.

Attention comes to look a pair up by its two names only where there are few pairs to choose from. So training begins
with few networks and one-word questions and widens from there; see `ReaderRecipe`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ..corpus.facts import Fact
from ..corpus.reading import (
    ABSENT_ANSWERS,
    DESCRIBE,
    LEVELS,
    Question,
    ask_about,
    ask_comparison,
    ask_extreme,
    ask_level,
    describe_scan,
    level_facts,
    scan_facts,
)
from ..models.atlas import Atlas
from ..models.network_pairs import (
    MAX_NAME_TOKENS,
    network_pair_features,
    pad_name_ids,
    pair_features,
    pair_indices,
)
from ..simulation.network_names import PUBLISHED_NAMES, draw_network_names
from ..simulation.stream import RandomScans, random_scan
from .trainer import IGNORED

__all__ = ["ReaderRecipe", "ReadingBatches", "reading_texts"]


@dataclass(frozen=True)
class ReaderRecipe:
    """Sizes and curriculum of a reader.

    Attributes
    ----------
    hidden_size, num_layers, num_heads, vocab_size : int
        Of the Llama-like language model and its subword vocabulary.
    steps : int
    batch_size : int
        Scans of a step.
    few_until, some_until : float
        Until this share of the steps the scans have three or four networks, with names of one token; until the
        second, up to seven. After that as many as `n_networks` says.
    terse_until : float
        Until this share of the steps a question is two names and its answer a level, so that each step asks many.
    drawn_until : float
        Until this share of the steps the connectivity of each pair is drawn for itself, without a scan: then how
        connected a scan is overall says nothing about a pair, and only looking it up does.
    own_names_from : float
        From this share of the steps on, names are also drawn from anatomical terms and made-up words.
    n_networks : (int, int)
    questions : int
        Questions about each scan.
    share_described : float
        Share of the scans of which a description is asked, from `some_until` on.
    share_absent : float
        Share of the prompts that have no scan, noise or shuffled ROIs in its place, from `some_until` on.
    seed : int
    """

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 2
    vocab_size: int = 1000
    steps: int = 6000
    batch_size: int = 24
    few_until: float = 0.08
    some_until: float = 0.3
    terse_until: float = 0.2
    drawn_until: float = 0.25
    own_names_from: float = 0.45
    n_networks: tuple[int, int] = (4, 8)
    questions: int = 8
    share_described: float = 0.1
    share_absent: float = 0.1
    seed: int = 0


class ReadingBatches(IterableDataset):
    """Batches of random scans with questions about them; batch `step` depends on the recipe's seed and the step alone.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        That of the reader, with the tokens of its chat template.
    recipe : ReaderRecipe
    atlas : Atlas, optional
        That of all scans; random ones when None.

    Notes
    -----
    A batch holds `input_ids`, `labels`, `attention_mask`, `position_ids` and `text_segments` of shape (batch,
    n_positions), and for its scans `fmri_features` and `network_name_ids`. The questions about a scan do not see each
    other: each is asked as if it were the only one.
    """

    def __init__(self, tokenizer: Any, recipe: ReaderRecipe, atlas: Atlas | None = None):
        self.tokenizer, self.recipe, self.atlas = tokenizer, recipe, atlas
        marks = ("<|user|>", "<|assistant|>", "<|end|>", "<fmri>")
        self.user, self.assistant, self.end, self.fmri = tokenizer.convert_tokens_to_ids(list(marks))
        self._ids: dict[str, list[int]] = {}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in range(first, self.recipe.steps, stride):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        recipe = self.recipe
        done = step / recipe.steps
        rng = random.Random(f"{recipe.seed}/{step}")
        kinds = [self._kind(rng, done) for _ in range(recipe.batch_size)]
        features, atlases = self._scans(step, done, kinds)
        names = [[self.ids(f" {name}") for name in atlas.network_names] for atlas in atlases]
        rows = []
        for number, kind in enumerate(kinds):
            facts = _facts(features[number], atlases[number].network_names)
            questions = self._questions(facts, rng, done)
            if kind != "brain":
                questions = [Question(each.text, rng.choice(ABSENT_ANSWERS)) for each in questions]
            n_tokens = 0 if kind == "absent" else features.shape[1]
            rows.append(self._row(questions, n_tokens, done < recipe.terse_until))
        there = [number for number, kind in enumerate(kinds) if kind != "absent"]
        longest = max(len(row["input_ids"]) for row in rows)
        fillers = {
            "input_ids": self.end,
            "labels": IGNORED,
            "attention_mask": 0,
            "position_ids": 0,
            "text_segments": 0,
        }
        batch = {
            name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])
            for name, filler in fillers.items()
        }
        flat = pad_name_ids([ids[:MAX_NAME_TOKENS] for number in there for ids in names[number]])
        batch["fmri_features"] = features[there]
        batch["network_name_ids"] = flat.view(len(there), len(names[0]), -1)
        return batch

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; those of short ones are kept."""
        if text in self._ids:
            return self._ids[text]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(text) < 40 and len(self._ids) < 20_000:
            self._ids[text] = ids
        return ids

    def _kind(self, rng: random.Random, done: float) -> str:
        if done < self.recipe.some_until or rng.random() >= self.recipe.share_absent:
            return "brain"
        return rng.choice(("absent", "noise", "noise", "shuffled"))

    def _scans(self, step: int, done: float, kinds: Sequence[str]) -> tuple[torch.Tensor, list[Atlas]]:
        """Features of the scans of a step, and the atlas of each."""
        recipe = self.recipe
        limits = (
            (3, 4) if done < recipe.few_until else (3, 7) if done < recipe.some_until else recipe.n_networks
        )
        stream = RandomScans(
            self.atlas, recipe.seed, n_networks=limits, atlases_per_size=-(-recipe.batch_size // 4)
        )
        scans, atlases = [], []
        for number, kind in enumerate(kinds):
            index = step * 4 * stream.atlases_per_size + number
            atlas = stream.atlas_of(index)
            if self.atlas is None and done < recipe.own_names_from:
                names = self._published_names(len(atlas.network_names), index, done < recipe.few_until)
                atlas = _renamed(atlas, names)
            atlases.append(atlas)
            if done < recipe.drawn_until:
                continue
            kind = kind if kind in ("noise", "shuffled") else "brain"
            scans.append(random_scan(atlas, recipe.seed, index, stream.ranges, kind))  # type: ignore[arg-type]
        if not scans:
            return _drawn_features(len(kinds), len(atlases[0].network_names), recipe.seed, step), atlases
        return _features(scans, atlases), atlases

    def _published_names(self, n: int, index: int, of_one_token: bool) -> list[str]:
        rng = np.random.default_rng([self.recipe.seed, index])
        names = [name for name in PUBLISHED_NAMES if not of_one_token or len(self.ids(f" {name}")) == 1]
        return [names[number] for number in rng.choice(len(names), n, replace=False)]

    def _questions(self, facts: Sequence[Fact], rng: random.Random, done: float) -> list[Question]:
        recipe = self.recipe
        if done < recipe.terse_until:
            levels = level_facts(facts)
            return [
                Question(
                    "".join(f" {name}" for name in rng.sample(fact["network"], 2)), ask_level(fact).answer
                )
                for fact in rng.sample(levels, min(2 * recipe.questions, len(levels)))
            ]
        questions = ask_about(facts, recipe.questions, rng)
        if done >= recipe.some_until and rng.random() < recipe.share_described:
            questions[-2:] = [Question(rng.choice(DESCRIBE), describe_scan(facts, rng))]
        return questions

    def _row(self, questions: Sequence[Question], n_tokens: int, terse: bool = False) -> dict[str, list[int]]:
        """Ids of a prompt with its questions as parallel segments, in the form of the chat template.

        Terse ones go without the marks of its ends.
        """
        ids = [self.user, *[self.fmri] * n_tokens]
        row = {
            "input_ids": ids,
            "labels": [IGNORED] * len(ids),
            "position_ids": [0, *[1] * n_tokens],
            "text_segments": [0] * len(ids),
        }
        first = 2 if n_tokens else 1
        end = [] if terse else [self.end]
        for segment, question in enumerate(questions, 1):
            asked = [*self.ids(question.text), *end, self.assistant]
            answer = [*self.ids(question.answer), *end]
            row["input_ids"] += asked + answer
            row["labels"] += [IGNORED] * len(asked) + answer
            row["position_ids"] += range(first, first + len(asked) + len(answer))
            row["text_segments"] += [segment] * (len(asked) + len(answer))
        row["attention_mask"] = [1] * len(ids)
        return row


def _features(scans: Sequence[dict[str, Any]], atlases: Sequence[Atlas]) -> torch.Tensor:
    """Network-pair features of scans of different lengths and atlases with equally many networks, in one go."""
    n_timepoints = max(len(scan["bold"]) for scan in scans)
    n_rois = max(atlas.n_rois for atlas in atlases)
    values = torch.zeros(len(scans), n_rois, n_timepoints)
    roi_mask = torch.zeros(len(scans), n_rois, dtype=torch.bool)
    padding_mask = torch.zeros(len(scans), n_timepoints, dtype=torch.bool)
    networks = torch.zeros(len(scans), n_rois, dtype=torch.long)
    for row, (scan, atlas) in enumerate(zip(scans, atlases, strict=True)):
        bold = torch.from_numpy(scan["bold"])
        values[row, : bold.shape[1], : len(bold)] = bold.T
        roi_mask[row, : bold.shape[1]] = torch.from_numpy(scan["roi_mask"])
        padding_mask[row, : len(bold)] = True
        numbers = {name: number for number, name in enumerate(atlas.network_names)}
        networks[row, : bold.shape[1]] = torch.tensor([numbers[name] for name in atlas.networks])
    return network_pair_features(values, roi_mask, padding_mask, networks, len(atlases[0].network_names))


def _drawn_features(n: int, n_networks: int, seed: int, step: int) -> torch.Tensor:
    """Features of `n` scans that do not exist, with the connectivity of each pair independent of the others."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    first, second = pair_indices(n_networks)
    values = 0.4 + 0.5 * torch.randn(n, len(first), generator=generator) + 0.55 * (first == second)
    rms = 0.1 + 0.4 * torch.rand(n, generator=generator)
    return pair_features(values, torch.ones_like(values, dtype=torch.bool), rms, n_networks)


def _facts(features: torch.Tensor, names: Sequence[str]) -> list[Fact]:
    return scan_facts(features[1:, 1].tolist(), (features[1:, 0] > 0).tolist(), names)


def _renamed(atlas: Atlas, names: Sequence[str]) -> Atlas:
    new = dict(zip(atlas.network_names, names, strict=True))
    return Atlas(atlas.name, atlas.roi_names, tuple(new[name] for name in atlas.networks))


def reading_texts(n: int, seed: int = 0) -> list[str]:
    """Questions, answers and descriptions of made-up facts, to make a subword vocabulary of."""
    rng, names_rng = random.Random(seed), np.random.default_rng(seed)
    texts = [*LEVELS, *ABSENT_ANSWERS, *DESCRIBE, "yes", "no"] * (n // 20)
    texts += [f" {name}" for name in PUBLISHED_NAMES] * (n // 10)
    for _ in range(n):
        names = draw_network_names(4, names_rng)
        facts = scan_facts(names_rng.normal(0.5, 0.5, 10).tolist(), [True] * 10, names)
        texts += [
            ask_level(facts[1], rng).text,
            ask_comparison(facts[0], facts[2], rng).text,
            describe_scan(facts, rng),
        ]
        texts += [ask_extreme(facts, extreme, rng).text for extreme in ("strongest", "weakest")]
    return texts
