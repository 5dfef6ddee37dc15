"""Texts of stages 2 and 3: descriptions of a corpus, questions about scans and labels, conversations, plain text.

Every kind of question has a method `turns(scan_id, draw, seen)`, which draws questions about a scan with their answers;
`joined` mixes them to conversations.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from ..corpus.facts import Fact
from ..corpus.languages import language_of
from ..corpus.queries import DESCRIBE, Question, ask_about, ask_description, scan_facts
from ..evaluation.tasks import forms_of, load_tasks
from ..hub.download import dataset_folder
from ..models.atlas import Atlas
from ..models.configuration_fmri_lm import n_pair_tokens
from ..models.network_pairs import PRESENT, VALUE, observed_pairs
from ..models.processing_fmri_lm import FmriLMProcessor
from .arguments import LanguageModelArguments
from .data import Converse, Messages, put_scan_first

Seen = Mapping[str, torch.Tensor]  # what the language model will see of a scan


def pick(choices: Sequence[Any], draw: np.random.Generator) -> Any:
    """One of the choices."""
    return choices[int(draw.integers(len(choices)))]


class CorpusTexts:
    """Texts of a corpus about scans.

    Parameters
    ----------
    corpus : str
        Folder or Hub repository of a dataset with `scan_id`, `length` and `text`, such as `fmri-lm corpus build` makes.
    config : str, optional
        Of the corpus: "all" (the default), or a family of descriptors.
    lengths : sequence of str
        Texts of these lengths are used.
    requests : sequence of str
        What the user says before a description.

    Attributes
    ----------
    scan_ids : set of str
        The scans that have a text.
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
        """Which of these scans have a text."""
        rows = [row for row, scan_id in enumerate(scan_ids) if scan_id in self._of_scan]
        if not rows:
            raise ValueError(
                f"No scan has a text in the corpus: {scan_ids[0]!r} is not one of its scan_ids, such as "
                f"{next(iter(self._of_scan))!r}. Give the corpus that was built from these scans."
            )
        return rows

    def texts(self, scan_id: str) -> list[str]:
        """All texts about a scan."""
        return self.corpus[self._of_scan[scan_id]]["text"]

    def descriptors(self, scan_ids: Sequence[str], of_training: Sequence[str]) -> dict[str, torch.Tensor]:
        """The facts of texts as numbers: z of each measure, 0 where no fact states it.

        Parameters
        ----------
        scan_ids : sequence of str
        of_training : sequence of str
            The scans whose facts say which measures there are.

        Returns
        -------
        dict of str to torch.Tensor of shape (n_measures,)
            By `scan_id`; empty where the corpus has no facts with z.
        """
        if "facts" not in self.corpus.column_names:
            return {}
        stated: dict[str, dict[str, float]] = {}
        for scan_id in scan_ids:
            facts = [fact for row in self.corpus[self._of_scan[scan_id]]["facts"] for fact in json.loads(row)]
            stated[scan_id] = {each["feature"]: float(each["z"]) for each in facts if each.get("z") is not None}
        measures = sorted({name for scan_id in of_training for name in stated[scan_id]})
        if not measures:
            return {}
        return {scan_id: torch.tensor([each.get(name, 0.0) for name in measures]) for scan_id, each in stated.items()}

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """A request and one of the scan's texts."""
        return [Question(pick(self.requests, draw), pick(self.texts(scan_id), draw))]


def pair_facts(features: torch.Tensor, network_names: Sequence[str], shown: torch.Tensor | None = None) -> list[Fact]:
    """Facts about a scan, from its `fmri_features` (n_scan_tokens, size), which end with the network pairs.

    There are none about pairs that are not `shown` (n_pairs).
    """
    # n_pair_tokens counts the token of the scan as a whole, which comes first and is no pair
    pairs = features[1 - n_pair_tokens(len(network_names)) :]
    present = pairs[:, PRESENT] > 0
    if shown is not None:
        present = present & shown
    return scan_facts(pairs[:, VALUE].tolist(), present.tolist(), network_names)


class ReadingQuestions:
    """Questions that a scan alone answers, and descriptions of it: the bin of a network pair, the strongest and the
    weakest pair, comparisons.

    The truth is worked out from what the language model sees (a scan, or a window of it, without the pairs whose ROIs
    are hidden), so no answer is ever about something else.

    Parameters
    ----------
    atlas : Atlas
        Of the scans.
    n_questions : int
        Questions in one conversation.
    share_described : float
        Share of the conversations that ask for a description too.
    languages : sequence of str
        Of the questions, one drawn for each conversation; descriptions are in English.
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
        """Facts about a scan, from its `fmri_features` and `roi_mask`."""
        shown = observed_pairs(seen["roi_mask"][None], self._networks, len(self.network_names))[0, 1:]
        return pair_facts(seen["fmri_features"], self.network_names, shown)

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """Some questions, and perhaps a description."""
        facts, rng = self.facts(seen), random.Random(int(draw.integers(2**32)))
        language = rng.choice(self.languages) if len(self.languages) > 1 else self.languages[0]
        asked = ask_about(facts, self.n_questions, rng, language)
        if facts and rng.random() < self.share_described:
            asked.append(ask_description(facts, rng))
        return asked


class LabelQuestions:
    """Questions about the labels of scans.

    Parameters
    ----------
    scans : datasets.Dataset
        A scan dataset with label columns.
    questions : mapping or path
        Tasks, as `load_tasks` reads them. A scan whose value has no answer is not asked about it, nor for a form of
        which a field has none.
    n_questions : int
        Labels asked about in one conversation; 0 for all.

    Attributes
    ----------
    scan_ids : set of str
        The scans with a known answer to at least one question.
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

    def texts(self) -> list[str]:
        """Texts with all words of questions and answers."""
        texts = [text for task in self.tasks.values() for text in (*task.ask, *task.classes)]
        return texts + [text for form in forms_of(self.tasks).values() for text in form.examples()]

    def turns(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        """Some or all questions, in any order, with drawn wording."""
        known = self._known.get(scan_id, [])
        order = draw.permutation(len(known))[: self.n_questions or None]
        return [Question(pick(known[i][0], draw), known[i][1]) for i in order]


def joined(*parts: tuple[Any, float]) -> Converse:
    """Conversations that mix several kinds of questions in any order.

    Parameters
    ----------
    *parts : tuple of (questions, share)
        An object with `turns`, and the share of conversations that it is part of. The first kind is asked where
        chance leaves nothing.
    """

    def converse(scan_id: str, draw: np.random.Generator, seen: Seen) -> list[Question]:
        # the order of these draws must stay: a resumed training redraws its epoch
        turns = [
            turn for part, share in parts if draw.random() < share for turn in part.turns(scan_id, draw, seen)
        ] or parts[0][0].turns(scan_id, draw, seen)
        return [turns[i] for i in draw.permutation(len(turns))]

    return converse


def reading_or_corpus(
    arguments: LanguageModelArguments, texts: CorpusTexts | None, processor: FmriLMProcessor
) -> list[tuple[Any, float]]:
    """Questions that the scan answers, or texts of a corpus, for `joined`.

    Raises
    ------
    ValueError
        If questions about network pairs are asked of a model that does not see them.
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
    """Refuse an argument that asks about network pairs if the model does not see them."""
    if "network_pairs" not in processor.scan_tokens:
        raise ValueError(
            f"`{argument}` need network-pair tokens: set `scan_tokens: [rois, network_pairs]` in stage 2, or "
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
        The scans that have a conversation.
    """

    def __init__(self, scans: datasets.Dataset, source: str):
        self.conversations = load_texts(source, ("scan_id", "messages"))
        known = {str(scan_id) for scan_id in scans["scan_id"]}
        self._of_scan: dict[str, list[int]] = {}
        for index, scan_id in enumerate(self.conversations["scan_id"]):
            if str(scan_id) not in known:
                raise ValueError(
                    f"A conversation is about scan {scan_id!r}, which is not in the scan dataset. Take it out, or give "
                    "the dataset that has it."
                )
            self._of_scan.setdefault(str(scan_id), []).append(index)
        self.scan_ids = set(self._of_scan)

    def __call__(self, scan_id: str, draw: np.random.Generator, seen: Seen) -> Messages:
        """One of the conversations about a scan."""
        chosen = self.conversations[pick(self._of_scan[scan_id], draw)]
        return put_scan_first([dict(message) for message in chosen["messages"]])


def load_texts(source: str, columns: Sequence[str]) -> datasets.Dataset:
    """The rows of a .txt, .jsonl or .parquet file, or of the "train" split of a dataset, with these columns."""
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
    """Plain text as blocks of at most `n_tokens` `input_ids`, kept on disk.

    Parameters
    ----------
    source : str
        As for `load_texts`, with a column `text`.
    tokenizer : PreTrainedTokenizerBase
        Its end-of-text token goes between texts.
    n_tokens : int
    """
    texts = load_texts(source, ("text",))

    def cut(batch: dict[str, list]) -> dict[str, list]:
        ended = [text + (tokenizer.eos_token or "") for text in batch["text"] if text and text.strip()]
        ids = [token for text in ended for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
        blocks = [ids[start : start + n_tokens] for start in range(0, len(ids), n_tokens)]
        return {"input_ids": [block for block in blocks if len(block) > 1]}

    blocks = texts.map(cut, batched=True, remove_columns=texts.column_names, desc="Cutting plain text")
    if not len(blocks):
        raise ValueError(f"{Path(source).name} holds no text to train on.")
    return blocks
