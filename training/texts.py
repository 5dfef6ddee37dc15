"""What is said about scans: descriptions from a corpus, questions about labels, given conversations; plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from common import dataset_folder

from fmri_lm_hf.training.data import about_scan

Messages = list[dict[str, Any]]


def draw(choices: Sequence[Any]) -> Any:
    """One of them; by torch, whose random state a resumed training restores."""
    return choices[int(torch.randint(len(choices), ()))]


class Descriptions:
    """Texts of a corpus about the scans of a dataset.

    Parameters
    ----------
    scans : datasets.Dataset
        A scan dataset.
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
    rows : list of int
        The scans that have a text.
    """

    def __init__(
        self,
        scans: datasets.Dataset,
        corpus: str,
        config: str | None,
        lengths: Sequence[str],
        requests: Sequence[str] = (),
    ):
        self.requests = requests
        splits = datasets.load_dataset(str(dataset_folder(corpus)), config)
        self.corpus = datasets.concatenate_datasets(list(splits.values()))
        of_scan: dict[str, list[int]] = {}
        for index, (scan_id, length) in enumerate(zip(self.corpus["scan_id"], self.corpus["length"])):
            if length in lengths:
                of_scan.setdefault(str(scan_id), []).append(index)
        if not of_scan:
            raise ValueError(
                f"The corpus has no text of length {' or '.join(lengths)}: found "
                f"{', '.join(self.corpus.unique('length'))}."
            )
        ids = [str(scan_id) for scan_id in scans["scan_id"]]
        self._texts = {row: of_scan[scan_id] for row, scan_id in enumerate(ids) if scan_id in of_scan}
        self.rows = list(self._texts)
        if not self.rows:
            raise ValueError(
                f"No scan has a text in the corpus: {ids[0]!r} is not one of its scan_ids, such as "
                f"{next(iter(of_scan))!r}. Give the corpus that was built from these scans."
            )

    def texts(self, row: int) -> list[str]:
        """All texts about a scan."""
        return self.corpus[self._texts[row]]["text"]

    def __call__(self, row: int) -> Messages:
        """A request and one of the scan's texts."""
        return about_scan([(draw(self.requests), draw(self.texts(row)))])


class LabelQuestions:
    """Questions about the labels of scans.

    Parameters
    ----------
    scans : datasets.Dataset
        A scan dataset with label columns.
    questions : mapping
        For each column ``{"ask": [...], "answers": {value: answer}}`` or, for a number,
        ``{"ask": [...], "below": {upper bound: answer}}``. A scan whose value has no answer is not asked about it.
    n_questions : int
        Labels asked about in one conversation; 0 for all.

    Attributes
    ----------
    rows : list of int
        The scans with a known answer to at least one question.
    """

    def __init__(
        self, scans: datasets.Dataset, questions: Mapping[str, Mapping[str, Any]], n_questions: int = 0
    ):
        self.n_questions = n_questions
        self._known: dict[int, list[tuple[Sequence[str], str]]] = {}
        for column, question in questions.items():
            if column not in scans.column_names:
                raise ValueError(
                    f"`questions` ask about {column!r}, which the scans do not have: found "
                    f"{', '.join(scans.column_names)}."
                )
            values = scans[column]
            answers = [_answer(column, question, value) for value in values]
            for answer in [*question.get("answers", question.get("below")).values()]:
                if str(answer) not in answers:
                    found = sorted({_name(value) for value in values if not _is_missing(value)})
                    raise ValueError(
                        f"No scan's {column!r} has the answer {str(answer)!r}: found the values "
                        f"{', '.join(found[:10])}. (In YAML, yes, no, on and off need quotes.)"
                    )
            for row, answer in enumerate(answers):
                if answer is not None:
                    self._known.setdefault(row, []).append((question["ask"], answer))
        self.rows = sorted(self._known)

    def __call__(self, row: int) -> Messages:
        """Some or all questions, in any order, with drawn wording."""
        known = self._known[row]
        order = torch.randperm(len(known))[: self.n_questions or None].tolist()
        return about_scan([(draw(known[i][0]), known[i][1]) for i in order])


def _answer(column: str, question: Mapping[str, Any], value: Any) -> str | None:
    if set(question) not in ({"ask", "answers"}, {"ask", "below"}) or not question["ask"]:
        raise ValueError(
            f"The question about {column!r} has {', '.join(question) or 'nothing'}: expected `ask` (a list of "
            "wordings) and either `answers` (value: answer) or `below` (upper bound: answer)."
        )
    if _is_missing(value):
        return None
    if "answers" in question:
        return {_name(key): str(answer) for key, answer in question["answers"].items()}.get(_name(value))
    bounds = sorted(question["below"])
    return next((str(question["below"][bound]) for bound in bounds if value < bound), None)


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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
    rows : list of int
        The scans that are talked about.
    """

    def __init__(self, scans: datasets.Dataset, source: str):
        self.conversations = load_texts(source, ("scan_id", "messages"))
        row_of = {str(scan_id): row for row, scan_id in enumerate(scans["scan_id"])}
        self._of_row: dict[int, list[int]] = {}
        for index, scan_id in enumerate(self.conversations["scan_id"]):
            if str(scan_id) not in row_of:
                raise ValueError(
                    f"A conversation is about scan {scan_id!r}, which is not in the scan dataset. Take it out, or give "
                    "the dataset that has it."
                )
            self._of_row.setdefault(row_of[str(scan_id)], []).append(index)
        self.rows = sorted(self._of_row)

    def __call__(self, row: int) -> Messages:
        """One of the conversations about a scan."""
        messages = [dict(message) for message in self.conversations[draw(self._of_row[row])]["messages"]]
        messages[0]["content"] = [{"type": "fmri"}, {"type": "text", "text": messages[0]["content"]}]
        return messages


def load_texts(source: str, columns: Sequence[str]) -> datasets.Dataset:
    """The rows of a .txt, .jsonl or .parquet file, or of the "train" split of a dataset, with these columns."""
    kinds = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
    kind = kinds.get(Path(source).suffix)
    loaded = datasets.load_dataset(kind, data_files=source) if kind else datasets.load_dataset(source)
    missing = [column for column in columns if column not in loaded["train"].column_names]
    if missing:
        raise ValueError(
            f"{Path(source).name} has no column {', '.join(missing)}: found {', '.join(loaded['train'].column_names)}."
        )
    return loaded["train"]


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


__all__ = ["Descriptions", "GivenConversations", "LabelQuestions", "draw", "load_texts", "plain_text_blocks"]
