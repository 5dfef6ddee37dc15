"""Examples of the stage `reading`: questions about random scans, in a curriculum from few networks to many.

Attention learns to find the token of a pair by its two names only among few pairs. So training begins with few networks
and terse questions, and both grow; see `ReadingRecipe`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..bundled import NETWORK_WORDS
from ..corpus.facts import Fact, make_facts
from ..corpus.prose import verbalise
from ..corpus.queries import (
    ABSENT_ANSWERS,
    BINS,
    DESCRIBE,
    Question,
    ask_about,
    ask_bin,
    ask_comparison,
    ask_description,
    ask_extreme,
    ask_scans,
    bin_facts,
    scan_facts,
)
from ..descriptors import FAMILIES, Feature, feature_table
from ..models.atlas import Atlas
from ..models.network_pairs import (
    MAX_NAME_TOKENS,
    network_pair_features,
    pad_name_ids,
    pair_features,
    pair_indices,
)
from ..simulation.stream import RandomScan, RandomScans, random_scan
from .attention_supervision import N_COLUMNS, PairVocabulary, find_targets, select_rows
from .feature_store import IGNORED
from .texts import pair_facts
from .vocabulary import ChatFormat, NetworkNames

# (number of names, random generator, share of the training that is over) -> names of a scan's networks
_DrawNames = Callable[[int, random.Random, float], Sequence[str]]
_Row = dict[str, list[int]]

_FILLERS = {"labels": IGNORED, "attention_mask": 0, "position_ids": 0, "text_segments": 0}
_NOT_READABLE = ("absent", "noise", "shuffled")  # kinds of prompts with the answer that no scan can be read
ENDLESS = 10**9  # batches
MOST = 0.9  # share of descriptions from `mostly_described_from` on


@dataclass(frozen=True)
class ReadingRecipe:
    """Sizes and curriculum of the stage `reading`.

    Attributes
    ----------
    hidden_size, num_layers, num_heads, vocab_size : int
        Sizes of the Llama-like language model and its subword vocabulary.
    steps : int
    batch_size : int
        Scans of a step.
    few_until, some_until : float
        Until the first share of the steps, scans have three or four networks; until the second, up to seven; after
        that, as in `n_networks`.
    terse_until : float
        Until this share of the steps nearly all questions are terse: only two names, answered by a bin, so that a step
        holds many.
    share_terse : float
        Share of terse questions after that, so that reading pairs carries over to whole sentences.
    drawn_until : float
        Until this share of the steps the connectivity of each pair is drawn independently, without a scan: only the
        pair's own token then tells its bin, not the overall connectivity of the scan.
    n_networks : (int, int)
        Fewest and most networks of a scan.
    questions : int
        Questions about each scan.
    share_described, mostly_described_from : float
        Share of the scans with a request for a description, from `some_until` on; and the share of the steps after
        which it is nine in ten, since descriptions are learnt late, when pairs can be read.
    share_absent : float
        Share of the prompts with noise, shuffled ROIs or nothing in place of a scan, from `some_until` on.
    share_text : float
        Share of the prompts that are only a sentence of a corpus, from `some_until` on: later stages train the model
        on texts that compare scans with a cohort.
    share_two_scans : float
        Share of the prompts that compare two scans, from `some_until` on.
    share_sampled_texts : float
        Share of the prompts, from the first step on, that are texts sampled from the language model before the
        training (`sample_texts`), so that a pretrained model keeps its language.
    n_sampled_texts : int
        Number of sampled texts. A small number is memorised, and the language is lost nevertheless.
    supervised_layers : (int, int) or None
        Layers with attention supervision (see `AttentionSupervision`); None for no supervision, the default with a
        pretrained language model.
    seed : int
    """

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    vocab_size: int = 1000
    steps: int = 4000
    batch_size: int = 24
    few_until: float = 0.02
    some_until: float = 0.08
    terse_until: float = 0.06
    share_terse: float = 0.5
    drawn_until: float = 0.06
    n_networks: tuple[int, int] = (4, 12)
    questions: int = 8
    share_described: float = 0.4
    mostly_described_from: float = 0.6
    share_absent: float = 0.08
    share_text: float = 0.08
    share_two_scans: float = 0.08
    share_sampled_texts: float = 0.0
    n_sampled_texts: int = 512
    supervised_layers: tuple[int, int] | None = (0, 1)
    seed: int = 0


class ReadingBatches(Dataset):
    """Batches of random scans with questions about them; a batch depends only on the recipe and its number.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Tokenizer with a chat template and a token `<fmri>`. If it has tokens for networks, each scan gets some of
        them as names; else `NetworkNames` are drawn.
    recipe : ReadingRecipe
    atlas : Atlas, optional
        Atlas of all scans; random atlases when None.
    sampled_texts : sequence of list of int
        Token ids of the texts for `share_sampled_texts`.
    per_step : int, default=1
        Batches of a step of the training, in all processes.

    Notes
    -----
    A batch has `input_ids`, `labels`, `attention_mask`, `position_ids` and `text_segments` of shape (batch,
    n_positions), and for its scans, if there are any, `fmri_features` and `network_name_ids`. Questions about a scan
    are parallel segments, which do not attend to each other. `attention_targets` (n_targets, N_COLUMNS) are those of
    `AttentionSupervision`.
    """

    def __init__(
        self,
        tokenizer: Any,
        recipe: ReadingRecipe,
        atlas: Atlas | None = None,
        sampled_texts: Sequence[list[int]] = (),
        per_step: int = 1,
    ):
        if recipe.share_sampled_texts and not sampled_texts:
            raise ValueError(
                f"`share_sampled_texts` is {recipe.share_sampled_texts}, but there are no texts: give `sampled_texts`, "
                "as `sample_texts` makes them, or set the share to 0."
            )
        self.tokenizer, self.recipe, self.atlas = tokenizer, recipe, atlas
        self.sampled_texts, self.per_step = sampled_texts, per_step
        self.format = ChatFormat.of(tokenizer)
        self.fmri = tokenizer.convert_tokens_to_ids("<fmri>")
        self.draw_names: _DrawNames = _draw_words
        if NETWORK_WORDS[0] not in tokenizer.get_vocab():
            self.draw_names = NetworkNames(tokenizer, recipe.few_until, recipe.some_until)
        self._ids: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.recipe.steps * self.per_step

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        # Everything is drawn from the number of the batch, so that workers and resumed trainings agree. A string seeds
        # `Random` through SHA-512, the same in every process; `hash` of a string differs between processes.
        done = number / len(self)
        rng = random.Random(f"{self.recipe.seed}/{number}")
        kinds = self._kinds(rng, done)
        features, atlases = self._scans(number, done, kinds)
        names = [self.draw_names(len(atlas.network_names), rng, done) for atlas in atlases]
        rows: list[_Row] = []
        targets: list[list[int]] = []
        scans: list[tuple[int, Sequence[str]]] = []  # scans and their names, in the order of the prompts
        for place, kind in enumerate(kinds):
            if kind == "sampled text":
                rows.append(_plain(rng.choice(self.sampled_texts)))
                continue
            if kind == "text":
                text = _corpus_text(rng, self.draw_names, done)
                rows.append(_plain([*self.ids(text), *self.format.suffix]))
                continue
            seen = [] if kind == "absent" else [place]
            facts = pair_facts(features[place], names[place])
            if kind == "two scans":
                seen.append(_partner(place))
                questions = self._about_both(facts, pair_facts(features[seen[1]], names[place]), rng)
            else:
                questions = self._questions(facts, rng, done)
            if kind in _NOT_READABLE:
                sentences = [question for question in questions if not _is_terse(question)]
                questions = [Question(question.text, rng.choice(ABSENT_ANSWERS)) for question in sentences]
            row, found = self._row(questions, [features.shape[1]] * len(seen), names[place])
            targets += [[len(rows), *columns] for columns in found]
            rows.append(row)
            scans += [(scan, names[place]) for scan in seen]
        longest = max(len(row["input_ids"]) for row in rows)
        fillers = _FILLERS | {"input_ids": self.tokenizer.pad_token_id}
        batch = {
            name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])
            for name, filler in fillers.items()
        }
        batch["attention_targets"] = torch.tensor(targets, dtype=torch.long).view(-1, N_COLUMNS)
        if scans:
            batch["fmri_features"] = features[[scan for scan, _ in scans]]
            ids = [self.ids(f" {name}")[:MAX_NAME_TOKENS] for _, of_scan in scans for name in of_scan]
            batch["network_name_ids"] = pad_name_ids(ids).view(len(scans), len(scans[0][1]), -1)
        return batch

    def shares(self, number: int, n_shares: int) -> list[dict[str, torch.Tensor]]:
        """Divide the prompts of a batch into shares, one for each micro-batch of a step."""
        batch = self[number % len(self)]
        n_rows = len(batch["input_ids"])
        if n_rows < n_shares:
            raise ValueError(
                f"A step has {n_shares} micro-batches, among which {n_rows} random scans cannot be divided: give at "
                f"least {n_shares}."
            )
        parts = np.array_split(np.arange(n_rows), n_shares)
        return [self._prompts(batch, torch.from_numpy(np.isin(np.arange(n_rows), part))) for part in parts]

    def _prompts(self, batch: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Select the prompts of a batch for which `rows` (batch,) is True."""
        kept = {name: batch[name][rows] for name in (*_FILLERS, "input_ids")}
        kept["attention_targets"] = select_rows(batch["attention_targets"], rows)
        if "fmri_features" in batch:
            # A prompt has zero, one or two scans, which follow each other without a mark: their number follows from the
            # number of placeholders, since all scans of a batch have as many tokens.
            n_scans = (batch["input_ids"] == self.fmri).sum(1) // batch["fmri_features"].shape[1]
            of_rows = rows.repeat_interleave(n_scans)
            if of_rows.any():
                kept |= {name: batch[name][of_rows] for name in ("fmri_features", "network_name_ids")}
        return kept

    def ids(self, text: str) -> list[int]:
        """Tokenize a text; tokens of short texts are kept."""
        if text in self._ids:
            return self._ids[text]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(text) < 40 and len(self._ids) < 20_000:
            self._ids[text] = ids
        return ids

    def _kinds(self, rng: random.Random, done: float) -> list[str]:
        """Draw the kind of each prompt of a batch."""
        kinds = [self._kind(rng, done) for _ in range(self.recipe.batch_size)]
        # a prompt with two scans needs a partner whose scan is a brain
        for place, kind in enumerate(kinds):
            partner = kinds[_partner(place)] if _partner(place) < len(kinds) else ""
            if kind == "two scans" and partner not in ("brain", "two scans"):
                kinds[place] = "brain"
        return kinds

    def _kind(self, rng: random.Random, done: float) -> str:
        recipe = self.recipe
        if rng.random() < recipe.share_sampled_texts:
            return "sampled text"
        drawn = rng.random()  # also if it is not used: the draws after it stay the same
        if done < recipe.some_until:
            return "brain"
        if drawn < recipe.share_text:
            return "text"
        drawn -= recipe.share_text
        if drawn < recipe.share_absent:
            return rng.choice(("absent", "noise", "noise", "shuffled"))
        return "two scans" if drawn - recipe.share_absent < recipe.share_two_scans else "brain"

    def _scans(self, number: int, done: float, kinds: Sequence[str]) -> tuple[torch.Tensor, list[Atlas]]:
        """Draw the scans of a batch: their features, and the atlas of each."""
        recipe = self.recipe
        limits = recipe.n_networks
        if done < recipe.some_until:
            limits = (3, 4) if done < recipe.few_until else (3, 7)
        stream = RandomScans(self.atlas, recipe.seed, n_networks=limits, atlases_per_size=-(-recipe.batch_size // 4))
        # a batch has `atlases_per_size` atlases of four scans each, all with the same number of networks
        first = number * 4 * stream.atlases_per_size
        atlases = [stream.atlas_of(first + place) for place in range(len(kinds))]
        if done < recipe.drawn_until:
            return _drawn_features(len(kinds), len(atlases[0].network_names), recipe.seed, number), atlases
        scans = []
        for place, (atlas, kind) in enumerate(zip(atlases, kinds)):
            drawn: Any = kind if kind in ("noise", "shuffled") else "brain"
            scans.append(random_scan(atlas, recipe.seed, first + place, stream.ranges, drawn))
        return _features(scans, atlases), atlases

    def _questions(self, facts: Sequence[Fact], rng: random.Random, done: float) -> list[Question]:
        """Draw questions about a scan, terse ones first."""
        recipe, bins = self.recipe, bin_facts(facts)
        if done < recipe.terse_until:
            n_terse, n_sentences = 2 * recipe.questions, 1
        else:  # two terse questions are about as long as a sentence
            n_terse = round(2 * recipe.share_terse * recipe.questions)
            n_sentences = recipe.questions - n_terse // 2
        terse = [
            replace(ask_bin(fact), text="".join(f" {name}" for name in rng.sample(fact["network"], 2)))
            for fact in rng.sample(bins, min(n_terse, len(bins)))
        ]
        # one question always has names as its answer, also while all others are terse
        questions = [ask_extreme(facts, rng.choice(("strongest", "weakest")), rng)]
        questions += ask_about(facts, n_sentences - 1, rng)
        share_described = recipe.share_described if done < recipe.mostly_described_from else MOST
        if done >= recipe.some_until and rng.random() < share_described:
            questions[-2:] = [ask_description(facts, rng)]
        return terse + questions

    def _about_both(self, first: Sequence[Fact], second: Sequence[Fact], rng: random.Random) -> list[Question]:
        """Draw questions which of two scans of an atlas has the stronger pair."""
        of_second = {fact["feature"]: fact for fact in bin_facts(second)}
        pairs = [(fact, of_second[fact["feature"]]) for fact in bin_facts(first) if fact["feature"] in of_second]
        return [ask_scans(*pair, rng) for pair in rng.sample(pairs, min(self.recipe.questions, len(pairs)))]

    def _row(
        self, questions: Sequence[Question], scan_sizes: Sequence[int], names: Sequence[str]
    ) -> tuple[_Row, list[list[int]]]:
        """Make a prompt with its questions as parallel segments in the chat format, and its attention targets.

        `scan_sizes` are the numbers of tokens of its scans (zero, one or two). Between a terse question and its answer
        there is only the last token of the separator.
        """
        before, n_scans = len(self.format.prefix), len(scan_sizes)
        ids = [*self.format.prefix, *[self.fmri] * sum(scan_sizes)]
        starts = np.cumsum([before, *scan_sizes]).tolist()
        # All tokens of a scan have one position: their order means nothing. Every question has the positions right
        # after the scans, as if it were the only one, since segments keep questions from attending to each other.
        # Counted on instead, later questions would have positions that no prompt with a single question has.
        positions = list(range(before))
        for scan, size in enumerate(scan_sizes):
            positions += [before + scan] * size
        labels, segments = [IGNORED] * len(ids), [0] * len(ids)
        vocabulary = PairVocabulary.of(names, self.ids)
        targets = []
        for segment, question in enumerate(questions, 1):
            terse = _is_terse(question)
            asked = [*self.ids(question.text), *self.format.separator[-1 if terse else 0 :]]
            answer = [*self.ids(question.answer), *(() if terse else self.format.suffix)]
            new, new_labels = asked + answer, [IGNORED] * len(asked) + answer
            for target in find_targets(new, new_labels, question, vocabulary):
                scan_start = starts[target.slot if n_scans > 1 else 0]
                targets.append(target.columns(len(ids), scan_start, len(names)))
            ids += new
            labels += new_labels
            positions += range(before + n_scans, before + n_scans + len(new))
            segments += [segment] * len(new)
        return _row_of(ids, labels, positions, segments), targets


def replayed(tokenizer: Any, n_scans: int, seed: int) -> ReadingBatches:
    """Make endless batches of `n_scans` random scans, with the whole variety of `reading` but sentences of a corpus."""
    recipe = ReadingRecipe(
        steps=ENDLESS,
        batch_size=n_scans,
        few_until=0,
        some_until=0,
        terse_until=0,
        drawn_until=0,
        mostly_described_from=1,
        share_text=0,
        seed=seed,
    )
    return ReadingBatches(tokenizer, recipe)


def _plain(ids: list[int]) -> _Row:
    """Make a prompt of a text only, with a loss on every token."""
    return _row_of(ids, ids, list(range(len(ids))), [0] * len(ids))


def _row_of(ids: list[int], labels: list[int], positions: list[int], segments: list[int]) -> _Row:
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": positions,
        "text_segments": segments,
        "attention_mask": [1] * len(ids),
    }


def _features(scans: Sequence[RandomScan], atlases: Sequence[Atlas]) -> torch.Tensor:
    """Compute network-pair features of scans with different lengths and atlases, but equally many networks."""
    # Shorter scans and smaller atlases are padded with zeros. Without the masks these would enter the correlations, and
    # a scan would have other values next to a longer one.
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
        networks[row, : bold.shape[1]] = torch.tensor(list(map(atlas.network_names.index, atlas.networks)))
    return network_pair_features(values, roi_mask, padding_mask, networks, len(atlases[0].network_names))


def _drawn_features(n: int, n_networks: int, seed: int, number: int) -> torch.Tensor:
    """Draw network-pair features of `n` scans directly, each pair independent of the others."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    first, second = pair_indices(n_networks)
    values = 0.4 + 0.5 * torch.randn(n, len(first), generator=generator) + 0.55 * (first == second)
    rms = 0.1 + 0.4 * torch.rand(n, generator=generator)
    return pair_features(values, torch.ones_like(values, dtype=torch.bool), rms, n_networks)


def _is_terse(question: Question) -> bool:
    return question.text.startswith(" ")


def _partner(place: int) -> int:
    """Return the scan of the same batch and atlas that a scan is compared with."""
    return place ^ 1  # 0 and 1, 2 and 3, ...: four scans in a row share an atlas


def _draw_words(n: int, rng: random.Random, done: float) -> list[str]:
    return rng.sample(NETWORK_WORDS, n)


@lru_cache
def _made_up_features() -> dict[str, Feature]:
    networks = NETWORK_WORDS[:6]
    return feature_table(Atlas("made up", tuple(f"roi_{number}" for number in range(len(networks))), networks))


def _corpus_text(rng: random.Random, draw_names: _DrawNames = _draw_words, done: float = 0.0) -> str:
    """Draw a sentence of a corpus, about a scan in comparison with a cohort."""
    table = _made_up_features()
    family = rng.choice(FAMILIES)
    chosen = {name: feature for name, feature in table.items() if feature.measure.family == family}
    z_scores = {name: rng.gauss(0, 1.3) for name in chosen}
    text = verbalise(make_facts(z_scores, z_scores, chosen), "sentence", rng.randrange(2**32))
    names = draw_names(len(NETWORK_WORDS), rng, done)
    return text.translate({ord(word): name for word, name in zip(NETWORK_WORDS, names)})


def reading_texts(n: int, seed: int = 0) -> list[str]:
    """Draw questions, answers and descriptions without names of networks, to train a subword vocabulary on."""
    rng, values = random.Random(seed), np.random.default_rng(seed)
    texts = [*BINS, *ABSENT_ANSWERS, *DESCRIBE, "yes", "no"] * (n // 20)
    for _ in range(n):
        facts = scan_facts(values.normal(0.5, 0.5, 10).tolist(), [True] * 10, NETWORK_WORDS[:4])
        texts += [
            ask_bin(facts[1], rng).text,
            ask_comparison(facts[0], facts[2], rng).text,
            ask_description(facts, rng).answer,
            _corpus_text(rng),
        ]
        texts += [ask_extreme(facts, extreme, rng).text for extreme in ("strongest", "weakest")]
    return [re.sub(f" ?[{''.join(NETWORK_WORDS)}]", "", text) for text in texts]
