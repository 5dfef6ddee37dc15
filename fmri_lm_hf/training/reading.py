"""A reader: a small language model that learns to read network pairs from random scans, each met once.

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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

from ..corpus.facts import Fact
from ..corpus.reading import (
    ABSENT_ANSWERS,
    DESCRIBE,
    LEVELS,
    Question,
    ask_comparison,
    ask_extreme,
    ask_level,
    describe_scan,
    scan_facts,
)
from ..models.atlas import Atlas
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.network_pairs import MAX_NAME_TOKENS, network_pair_features, pad_name_ids
from ..models.processing_fmri_lm import FmriLMProcessor
from ..simulation.network_names import PUBLISHED_NAMES, draw_network_names
from ..simulation.stream import RandomScans, random_scan
from .trainer import IGNORED, FmriLMTrainer

__all__ = ["ReaderRecipe", "ReadingBatches", "new_reader", "reading_texts", "train_reader", "with_atlas"]


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
        Until this share of the steps the scans have three or four networks; until the second, up to seven. After
        that as many as `n_networks` says. Until `few_until` all questions have one wording.
    own_names_from : float
        From this share of the steps on, names are also drawn from anatomical terms and made-up words.
    n_networks : (int, int)
    questions : int
        Questions about each scan.
    share_described : float
        Share of the scans of which a description is asked, from `some_until` on.
    share_absent : float
        Share of the prompts that have no scan, noise or shuffled ROIs in its place, from `some_until` on.
    learning_rate : float
    seed : int
    """

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 2
    vocab_size: int = 1000
    steps: int = 2600
    batch_size: int = 16
    few_until: float = 0.14
    some_until: float = 0.45
    own_names_from: float = 0.65
    n_networks: tuple[int, int] = (4, 8)
    questions: int = 6
    share_described: float = 0.1
    share_absent: float = 0.1
    learning_rate: float = 2e-3
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
            rows.append(self._row(questions, 0 if kind == "absent" else features.shape[1]))
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
            kind = kind if kind in ("noise", "shuffled") else "brain"
            scans.append(random_scan(atlas, recipe.seed, index, stream.ranges, kind))  # type: ignore[arg-type]
            atlases.append(atlas)
        return _features(scans, atlases), atlases

    def _published_names(self, n: int, index: int, of_one_token: bool) -> list[str]:
        rng = np.random.default_rng([self.recipe.seed, index])
        names = [name for name in PUBLISHED_NAMES if not of_one_token or len(self.ids(f" {name}")) == 1]
        return [names[number] for number in rng.choice(len(names), n, replace=False)]

    def _questions(self, facts: Sequence[Fact], rng: random.Random, done: float) -> list[Question]:
        recipe = self.recipe
        levels = [fact for fact in facts if fact["feature"].startswith("connectivity/level/")]
        chosen = rng.sample(levels, min(recipe.questions, len(levels)))
        if done < recipe.few_until:
            return [ask_level(fact) for fact in chosen]
        questions = []
        for fact in chosen:
            kind = rng.random()
            if kind < 0.75 or len(facts) == len(levels):
                questions.append(ask_level(fact, rng))
            elif kind < 0.88:
                questions.append(ask_extreme(facts, rng.choice(("strongest", "weakest")), rng))
            else:
                questions.append(ask_comparison(fact, rng.choice(levels), rng))
        if done >= recipe.some_until and rng.random() < recipe.share_described:
            questions[-2:] = [Question(rng.choice(DESCRIBE), describe_scan(facts, rng))]
        return questions

    def _row(self, questions: Sequence[Question], n_tokens: int) -> dict[str, list[int]]:
        """Ids of a prompt with its questions as parallel segments, in the form of the chat template."""
        ids = [self.user, *[self.fmri] * n_tokens]
        row = {
            "input_ids": ids,
            "labels": [IGNORED] * len(ids),
            "position_ids": [0, *[1] * n_tokens],
            "text_segments": [0] * len(ids),
        }
        first = 2 if n_tokens else 1
        for segment, question in enumerate(questions, 1):
            asked = [*self.ids(question.text), self.end, self.assistant]
            answer = [*self.ids(question.answer), self.end]
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


def new_reader(
    recipe: ReaderRecipe, atlas: Atlas, n_timepoints: int = 240, t_r: float = 2.0
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """An untrained reader and its processor.

    Parameters
    ----------
    recipe : ReaderRecipe
    atlas : Atlas
        That of the processor; no weight depends on it.
    n_timepoints : int, default=240
        Longest input, in points of `t_r` seconds.
    t_r : float, default=2.0
    """
    from .language_model import train_text_tokenizer

    tokenizer: PreTrainedTokenizerFast = train_text_tokenizer(reading_texts(1500), recipe.vocab_size)
    extractor = FmriFeatureExtractor(atlas, n_timepoints=n_timepoints, t_r=t_r, min_timepoints=30)
    processor = FmriLMProcessor(extractor, tokenizer, scan_tokens=["network_pairs"])
    torch.manual_seed(recipe.seed)
    std = recipe.hidden_size**-0.5 * 0.9  # small models start to attend sooner with large weights
    language_model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=2 * recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            initializer_range=std,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model = FmriLMForCausalLM.from_components(
        _shape(atlas, n_timepoints),
        language_model,
        scan_tokens=["network_pairs"],
        network_name_ids=processor.network_name_ids(),
        fmri_token_id=processor.fmri_token_id,
        initializer_range=std,
    )
    return model, processor


def with_atlas(
    model: FmriLMForCausalLM, processor: FmriLMProcessor, atlas: Atlas
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """A reader for scans of another atlas: the same weights, with that atlas's networks and their names."""
    if not model.config.reads_network_pairs or model.config.reads_rois:
        raise ValueError(
            "Only a model that reads network pairs alone can change its atlas, but `scan_tokens` are "
            f"{model.config.scan_tokens}."
        )
    old = processor.feature_extractor
    extractor = FmriFeatureExtractor(
        atlas, n_timepoints=old.n_timepoints, t_r=old.t_r, min_timepoints=old.min_timepoints
    )
    processor = FmriLMProcessor(extractor, processor.tokenizer, scan_tokens=["network_pairs"])
    config = type(model.config).from_dict(
        {
            **model.config.to_dict(),
            "fmri_config": _shape(atlas, old.n_timepoints),
            "network_name_ids": processor.network_name_ids(),
        }
    )
    other = FmriLMForCausalLM(config)
    other.load_state_dict(model.state_dict())
    return other.eval(), processor


def _shape(atlas: Atlas, n_timepoints: int) -> FmriTokenizerConfig:
    return FmriTokenizerConfig(
        n_rois=atlas.n_rois,
        n_timepoints=n_timepoints,
        patch_size=n_timepoints,
        roi_networks=[atlas.network_names.index(name) for name in atlas.networks],
    )


def train_reader(
    recipe: ReaderRecipe,
    out: str,
    atlas: Atlas | None = None,
    fixed: bool = False,
    **arguments: Any,
) -> tuple[FmriLMForCausalLM, FmriLMProcessor]:
    """Train a reader; an interrupted training goes on from its last checkpoint.

    Parameters
    ----------
    recipe : ReaderRecipe
    out : str
        Folder for the Trainer's checkpoints.
    atlas : Atlas, optional
        That of the reader's processor; the 160 regions of Dosenbach 2010 when None.
    fixed : bool, default=False
        Train on this atlas alone.
    **arguments
        Further `TrainingArguments`.
    """
    from transformers.trainer_utils import get_last_checkpoint

    atlas = Atlas.load("dosenbach_2010") if atlas is None else atlas
    model, processor = new_reader(recipe, atlas)
    batches = ReadingBatches(processor.tokenizer, recipe, atlas if fixed else None)
    defaults: dict[str, Any] = {
        "output_dir": out,
        "max_steps": recipe.steps,
        "per_device_train_batch_size": 1,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "logging_steps": 50,
        "save_steps": 500,
        "save_total_limit": 2,
        "seed": recipe.seed,
        "use_cpu": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    trainer = FmriLMTrainer(
        model,
        TrainingArguments(**(defaults | arguments)),
        data_collator=_only,
        train_dataset=batches,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out))
    return model.eval(), processor


def _only(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The one batch that a step takes from `ReadingBatches`."""
    return batches[0]
