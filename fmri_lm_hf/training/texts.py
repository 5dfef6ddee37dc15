"""Texts of stages 2 and 3: descriptions of a corpus, questions about scans and labels, conversations, plain text.

Every kind of question has a method `turns(scan_id, draw, seen)`, which draws questions about a scan and their answers;
`joined` mixes several kinds into conversations.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from ..corpus.facts import Fact
from ..corpus.languages import language_of
from ..corpus.queries import DESCRIBE, Question, ask_about, ask_description, scan_facts
from ..evaluation.tasks import MAX_CLASSES, forms_of, load_tasks
from ..hub.download import dataset_folder
from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import n_pair_tokens
from ..models.network_pairs import PRESENT, VALUE, observed_pairs
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments
from .data import Converse, Messages, put_scan_first

Seen = Mapping[str, torch.Tensor]  # inputs about a scan that the language model will get


def pick(choices: Sequence[Any], draw: np.random.Generator) -> Any:
    """Draw one of the choices."""
    # not `draw.choice`, which would turn tuples and lists into arrays
    return choices[int(draw.integers(len(choices)))]


class CorpusTexts:
    """Descriptions of a corpus.

    Parameters
    ----------
    corpus : str
        Folder or Hub repository of a dataset with `scan_id`, `length` and `text`, such as `fmri-lm corpus build` makes.
    config : str, optional
        Config of the corpus: "all" (the default), or a family of descriptors.
    lengths : sequence of str
        Lengths of the texts to use.
    requests : sequence of str
        Requests of the user for a description.

    Attributes
    ----------
    scan_ids : set of str
        Scans with a text.
    """

    def __init__(self, corpus: str, config: str | None, lengths: Sequence[str], requests: Sequence[str] = DESCRIBE):
        self.requests = requests
        splits = datasets.load_dataset(str(dataset_folder(corpus)), config)
        self.corpus = datasets.concatenate_datasets(list(splits.values()))
        self._of_scan: dict[str, list[int]] = {}
        for index, (scan_id, length) in enumerate(zip(self.corpus["scan_id"], self.corpus["length"])):
            if length in lengths:
                self._of_scan.setdefault(str(scan_id), []).append(index)
        if not self._of_scan:
            raise ValueError(
                f"The corpus has no text of length {' or '.join(lengths)}: found "
                f"{', '.join(self.corpus.unique('length'))}."
            )
        self.scan_ids = set(self._of_scan)

    def rows(self, scan_ids: Sequence[str]) -> list[int]:
        """Return the positions of the scans that have a text."""
        rows = [row for row, scan_id in enumerate(scan_ids) if scan_id in self._of_scan]
        if not rows:
            raise ValueError(
                f"No scan has a text in the corpus: the scans have ids such as {scan_ids[0]!r}, the corpus "
                f"{next(iter(self._of_scan))!r}. Give the corpus that was built from these scans."
            )
        return rows

    def texts(self, scan_id: str) -> list[str]:
        """Return all texts about a scan."""
        return self.corpus[self._of_scan[scan_id]]["text"]

    def descriptors(self, scan_ids: Sequence[str], of_training: Sequence[str]) -> dict[str, torch.Tensor]:
        """Turn the facts of texts into vectors: z of each feature, 0 if no fact states it.

        Parameters
        ----------
        scan_ids : sequence of str
        of_training : sequence of str
            Training scans, whose facts define the features.

        Returns
        -------
        dict of str to torch.Tensor of shape (n_features,)
            By `scan_id`; empty if the corpus has no facts with z.
        """
        if "facts" not in self.corpus.column_names:
            return {}
        stated: dict[str, dict[str, float]] = {}
        for scan_id in scan_ids:
            facts = [fact for row in self.corpus[self._of_scan[scan_id]]["facts"] for fact in json.loads(row)]
            stated[scan_id] = {fact["feature"]: float(fact["z"]) for fact in facts if fact.get("z") is not None}
        features = sorted({name for scan_id in of_training for name in stated[scan_id]})
        if not features:
            return {}
        return {scan_id: torch.tensor([z.get(name, 0.0) for name in features]) for scan_id, z in stated.items()}

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """Draw a request and one of the scan's texts."""
        return [Question(pick(self.requests, draw), pick(self.texts(scan_id), draw))]


def pair_facts(features: torch.Tensor, network_names: Sequence[str], shown: torch.Tensor | None = None) -> list[Fact]:
    """State facts about a scan, from its `fmri_features` (n_scan_tokens, size), which end with the network pairs.

    There are no facts about pairs that are not `shown` (n_pairs).
    """
    # `n_pair_tokens` includes the token of the whole scan, which comes before the pairs
    pairs = features[1 - n_pair_tokens(len(network_names)) :]
    present = pairs[:, PRESENT] > 0
    if shown is not None:
        present = present & shown
    return scan_facts(pairs[:, VALUE].tolist(), present.tolist(), network_names)


class ReadingQuestions:
    """Questions about network pairs, and descriptions: bins, the strongest and the weakest pair, comparisons.

    Answers are computed from what the language model sees: a scan or a window of it, without the pairs whose ROIs are
    hidden.

    Parameters
    ----------
    atlas : Atlas
        Atlas of the scans.
    n_questions : int
        Questions in one conversation.
    share_described : float
        Share of the conversations that also ask for a description.
    languages : sequence of str
        Languages of the questions, one drawn for each conversation; descriptions are in English.
    """

    def __init__(
        self,
        atlas: Atlas,
        n_questions: int,
        share_described: float = 0.0,
        languages: Sequence[str] = ("en",),
    ):
        self.network_names, self.n_questions = atlas.network_names, n_questions
        self.share_described = share_described
        self.languages = [language_of(code) for code in languages]
        self._networks = torch.tensor([self.network_names.index(name) for name in atlas.networks])

    def facts(self, seen: Seen) -> list[Fact]:
        """State facts about a scan, from its `fmri_features` and `roi_mask`."""
        shown = observed_pairs(seen["roi_mask"][None], self._networks, len(self.network_names))[0, 1:]
        return pair_facts(seen["fmri_features"], self.network_names, shown)

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """Draw some questions, and perhaps a description."""
        facts, rng = self.facts(seen), random.Random(int(draw.integers(2**32)))
        # no draw for a single language: it would change all draws after it, and so trainings in English
        language = rng.choice(self.languages) if len(self.languages) > 1 else self.languages[0]
        questions = ask_about(facts, self.n_questions, rng, language)
        if facts and rng.random() < self.share_described:
            questions.append(ask_description(facts, rng))
        return questions


class LabelQuestions:
    """Questions about the labels of scans.

    Parameters
    ----------
    scans : datasets.Dataset
        A scan dataset with label columns.
    questions : mapping or path
        Tasks, see `load_tasks`. Tasks without an answer for a scan are left out of its conversations, and so are forms
        with such a task.
    n_questions : int
        Labels in one conversation; 0 for all.

    Attributes
    ----------
    scan_ids : set of str
        Scans with an answer to at least one question.
    tasks : dict of str to Task
    """

    def __init__(self, scans: datasets.Dataset, questions: Mapping[str, Any] | str, n_questions: int = 0):
        self.n_questions = n_questions
        self.tasks = load_tasks(questions)
        self._known: dict[str, list[tuple[Sequence[str], str]]] = {}  # wordings and answer, by scan
        answers = {name: task.answers_of(scans) for name, task in self.tasks.items()}
        forms = [
            (form, [task for task in self.tasks.values() if task.form is form])
            for form in forms_of(self.tasks).values()
        ]
        for row, scan_id in enumerate(map(str, scans["scan_id"])):
            known: list[tuple[Sequence[str], str]] = [
                (task.ask, answer)
                for name, task in self.tasks.items()
                if task.form is None and (answer := answers[name][row]) is not None
            ]
            for form, tasks in forms:
                filled = {task.form_field: answers[task.name][row] for task in tasks}
                if None not in filled.values():
                    known.append((form.ask, form.write(filled)))  # type: ignore[arg-type]
            if known:
                self._known[scan_id] = known
        self.scan_ids = set(self._known)

    @property
    def answers(self) -> dict[str, list[str]]:
        """The answers to choose from, by each wording of their question; forms have none."""
        return {ask: task.classes for task in self.tasks.values() if task.form is None for ask in task.ask}

    def texts(self) -> list[str]:
        """Return texts with all words of questions and answers."""
        texts = [text for task in self.tasks.values() for text in (*task.ask, *task.classes)]
        return texts + [text for form in forms_of(self.tasks).values() for text in form.examples()]

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """Draw some or all questions, their order and their wording."""
        known = self._known.get(scan_id, [])
        order = draw.permutation(len(known))[: self.n_questions or None]
        return [Question(pick(known[i][0], draw), known[i][1]) for i in order]


def joined(*parts: tuple[Any, float]) -> Converse:
    """Mix several kinds of questions into conversations, in any order.

    Parameters
    ----------
    *parts : tuple of (questions, share)
        An object with `turns`, and its share of the conversations. The first kind is used if no kind is drawn.
    """

    def converse(scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        # the order of these draws must not change: a resumed training redraws its epoch
        turns = [
            turn for part, share in parts if draw.random() < share for turn in part.turns(scan_id, draw, seen)
        ] or parts[0][0].turns(scan_id, draw, seen)
        return [turns[i] for i in draw.permutation(len(turns))]

    return converse


def reading_or_corpus(
    arguments: LanguageModelArguments, texts: CorpusTexts | None, processor: FmriLMProcessor
) -> list[tuple[Any, float]]:
    """Make questions about network pairs or, without them, texts of a corpus, for `joined`.

    Raises
    ------
    ValueError
        If the model has no network-pair tokens for `reading_questions`.
    """
    if arguments.reading_questions:
        check_pairs_are_read(processor, "reading_questions")
        questions = ReadingQuestions(
            processor.feature_extractor.atlas,
            arguments.reading_questions,
            arguments.share_described,
            arguments.languages,
        )
        return [(questions, 1.0)]
    return [] if texts is None else [(texts, arguments.share_described)]


def check_pairs_are_read(processor: FmriLMProcessor, argument: str) -> None:
    """Refuse an option that needs network-pair tokens if the model has none."""
    if "network_pairs" not in processor.scan_tokens:
        raise ValueError(
            f"`{argument}` needs network-pair tokens: set `scan_tokens: [rois, network_pairs]` in stage 2, or "
            f"`{argument}: 0`."
        )


class GivenConversations:
    """Conversations about scans from a dataset.

    Parameters
    ----------
    scans : datasets.Dataset
        A scan dataset.
    source : str
        A .jsonl or .parquet file, a folder or a Hub repository with the columns `scan_id` and `messages`, a list of
        ``{"role": "user" or "assistant", "content": text}``. The scan is put before the first message.

    Attributes
    ----------
    scan_ids : set of str
        Scans with a conversation.
    """

    def __init__(self, scans: datasets.Dataset, source: str):
        self.conversations = load_texts(source, ("scan_id", "messages"))
        known = {str(scan_id) for scan_id in scans["scan_id"]}
        self._of_scan: dict[str, list[int]] = {}
        for index, scan_id in enumerate(self.conversations["scan_id"]):
            if str(scan_id) not in known:
                raise ValueError(
                    f"A conversation is about scan {scan_id!r}, which is not in the scan dataset. Remove the "
                    "conversation, or give the dataset that has the scan."
                )
            self._of_scan.setdefault(str(scan_id), []).append(index)
        self.scan_ids = set(self._of_scan)

    @property
    def answers(self) -> dict[str, list[str]]:
        """The answers to each question that has 2 to `MAX_CLASSES` different ones: its labels."""
        found: dict[str, set[str]] = {}
        for messages in self.conversations["messages"]:
            for asked, answer in pairwise(messages):
                if (asked["role"], answer["role"]) == ("user", "assistant"):
                    found.setdefault(str(asked["content"]).strip(), set()).add(str(answer["content"]).strip())
        return {ask: sorted(answers) for ask, answers in found.items() if 2 <= len(answers) <= MAX_CLASSES}

    def __call__(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> Messages:
        """Draw one of the conversations about a scan."""
        chosen = self.conversations[pick(self._of_scan[scan_id], draw)]
        return put_scan_first([dict(message) for message in chosen["messages"]])


def load_texts(source: str, columns: Sequence[str]) -> datasets.Dataset:
    """Load a .txt, .jsonl or .parquet file, or the "train" split of a dataset, and check that it has these columns."""
    kinds = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    kind = kinds.get(Path(source).suffix)
    loaded = datasets.load_dataset(kind, data_files=source) if kind else datasets.load_dataset(source)
    rows = loaded["train"]
    if missing := [column for column in columns if column not in rows.column_names]:
        raise ValueError(
            f"{Path(source).name} has no column {', '.join(missing)}: found {', '.join(rows.column_names)}."
        )
    return rows


def plain_text_blocks(source: str, tokenizer: Any, n_tokens: int) -> datasets.Dataset:
    """Cut plain text into blocks of at most `n_tokens` `input_ids`, kept on disk.

    Parameters
    ----------
    source : str
        A source for `load_texts` with a column `text`.
    tokenizer : PreTrainedTokenizerBase
        Its end-of-text token separates texts.
    n_tokens : int
    """
    texts = load_texts(source, ("text",))

    def cut(batch: dict[str, list]) -> dict[str, list]:
        # Blocks run across the borders of texts, so that all of them are full and nothing is padded.
        ended = [text + (tokenizer.eos_token or "") for text in batch["text"] if text and text.strip()]
        ids = [token for text in ended for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
        blocks = [ids[start : start + n_tokens] for start in range(0, len(ids), n_tokens)]
        return {"input_ids": [block for block in blocks if len(block) > 1]}  # a single token predicts nothing

    blocks = texts.map(cut, batched=True, remove_columns=texts.column_names, desc="Cutting plain text")
    if not len(blocks):
        raise ValueError(f"{Path(source).name} has no text to train on.")
    return blocks
