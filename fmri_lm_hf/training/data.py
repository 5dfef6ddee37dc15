"""Training scans by split, examples of the stages, and their batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.utils import cached_file, logging

from ..corpus.queries import ABSENT_ANSWERS, Question
from ..hub.download import dataset_folder
from ..models.configuration_fmri_lm import n_pair_tokens
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.generation_fmri_lm import SCAN_INPUTS
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_errors import ScanError
from ..scans.dataset import load_scan_dataset
from ..scans.likeness import ScanRecord, content_sketch
from ..scans.splits import SplitManifest
from .arguments import ScanArguments
from .attention_supervision import N_COLUMNS, PairVocabulary, find_in_conversation
from .feature_store import IGNORED, FeatureStore, StoredScans

MAX_KEPT_TEXTS = 20_000  # texts whose tokens a collator keeps

logger = logging.get_logger(__name__)

Messages = list[dict[str, Any]]
Conversation = list[Question] | Messages  # questions about a scan, or the messages of a given chat
Converse = Callable[[str, np.random.Generator, Mapping[str, torch.Tensor]], Conversation]


class TrainingScans:
    """The scans of a stage, split by subject.

    Parameters
    ----------
    arguments : ScanArguments
        Splits are those of `corpus`, else `splits`.

    Attributes
    ----------
    dataset : datasets.Dataset
    atlas : Atlas or None
    n_rois : int
    scan_ids : list of str
        Ids by row.
    store : FeatureStore
    manifest_sha256 : str or None
        Hash of the split manifest; None if all scans are used for training.
    """

    def __init__(self, arguments: ScanArguments):
        assert arguments.scans is not None
        self.folder = dataset_folder(arguments.scans)
        self.dataset, self.atlas = load_scan_dataset(self.folder)
        self.n_rois = self.dataset.features["bold"].shape[1]
        self.scan_ids = [str(scan_id) for scan_id in self.dataset["scan_id"]]
        self.store = FeatureStore(arguments.feature_store)
        self.evaluates = arguments.eval_strategy != "no"
        manifest = None if arguments.splits is None else SplitManifest.from_json(arguments.splits)
        corpus = None if arguments.corpus is None else dataset_folder(arguments.corpus)
        if corpus is not None and (corpus / "splits.json").exists():
            corpus_manifest = SplitManifest.from_json(corpus / "splits.json")
            # The texts of a corpus compare scans with its training subjects. Trained on other splits, a model would
            # see statistics of its test subjects in every text.
            if manifest is not None and manifest.sha256 != corpus_manifest.sha256:
                raise ValueError(
                    f"`splits` ({manifest.sha256[:12]}) differ from those of the corpus "
                    f"({corpus_manifest.sha256[:12]}), whose texts compare scans with its own training subjects. "
                    "Leave `splits` out, or build the corpus with `fmri-lm corpus build --splits`."
                )
            manifest = corpus_manifest
        self.manifest = manifest
        self.manifest_sha256 = None if manifest is None else manifest.sha256

    def split_rows(self, rows: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Select the rows of "train" and, if the training evaluates, "validation"; no subject is in both.

        Parameters
        ----------
        rows : sequence of int, optional
            Scans to choose from, such as those with a text; all when None.
        """
        subjects = [str(subject) for subject in self.dataset["subject_id"]]
        candidates = list(range(len(subjects)) if rows is None else rows)
        if self.manifest is None:
            if self.evaluates:
                raise ValueError("Evaluation needs held-out subjects: give `splits`, the splits.json of a corpus.")
            return {"train": candidates}
        split_of = self.manifest.split_of()
        chosen: dict[str, list[int]] = {}
        for split in ("train", "validation") if self.evaluates else ("train",):
            chosen[split] = [row for row in candidates if split_of.get(subjects[row]) == split]
            if not chosen[split]:
                raise ValueError(
                    f"None of {len(candidates)} scans is of a {split} subject: the splits name "
                    f"{len(self.manifest.subjects.get(split, []))} of them. Do scans and splits belong together?"
                )
        return chosen

    def read(
        self, extractor: FmriFeatureExtractor, rows: Mapping[str, Sequence[int]]
    ) -> tuple[StoredScans, dict[str, list[str]]]:
        """Extract model inputs of the scans; return them with the ids of the scans of each split that can be used.

        A scan that the extractor refuses is left out with a warning.
        """
        inputs = self.store.extract(self.dataset, extractor, [row for split in rows.values() for row in split])
        for scan_id, reason in inputs.failures.items():
            logger.warning(f"Scan {scan_id} is left out: {reason}")
        usable = {
            split: [self.scan_ids[row] for row in of_split if self.scan_ids[row] not in inputs.failures]
            for split, of_split in rows.items()
        }
        for split, scan_ids in usable.items():
            if not scan_ids:
                raise ScanError(f"None of {len(rows[split])} {split} scans can be used; the reasons are logged above.")
        return inputs, usable

    def facts(self, scan_ids: Sequence[str]) -> dict[str, Any]:
        """Describe the scans of a training for `training_info.json`, without naming subjects.

        With `training_scans` an evaluation recognises scans that the model was trained on (see `ScanRecord`).
        """
        file = (self.folder if self.folder.is_dir() else self.folder.parent) / "provenance.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        row_of = {scan_id: row for row, scan_id in enumerate(self.scan_ids)}
        rows = [row_of[scan_id] for scan_id in scan_ids]
        subjects = self.dataset["subject_id"]
        bar = tqdm(rows, desc="Recording what was trained on", unit="scan")
        sketches = (content_sketch(self.dataset[row]["bold"]) for row in bar)
        return {
            "simulated": {**record.get("parameters", {}), **record}.get("simulated") is True,
            "n_scans": len(scan_ids),
            "n_subjects": len({subjects[row] for row in rows}),
            "manifest_sha256": self.manifest_sha256,
            "training_scans": ScanRecord.of(sketches).to_dict(),
        }

    def earlier_info(self, checkpoint: str) -> dict[str, Any]:
        """Read `training_info.json` of the stage before, without its log; warn if its splits differ."""
        file = cached_file(checkpoint, "training_info.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            return {}
        info = json.loads(Path(file).read_text(encoding="utf-8"))
        if info.get("manifest_sha256") != self.manifest_sha256:
            logger.warning(
                f"{checkpoint} was trained with the splits {str(info.get('manifest_sha256'))[:12]}, this training has "
                f"{str(self.manifest_sha256)[:12]}: make sure that no test subject was trained on there."
            )
        return {name: value for name, value in info.items() if name not in ("log_history", "versions")}


class ScanInputs(Dataset):
    """Examples of stage 1: `input_values` and masks of a scan, and embeddings of its texts, if any.

    Parameters
    ----------
    inputs : StoredScans
        Result of `FeatureStore.extract`.
    scan_ids : sequence of str
        The scans to use.
    **of_texts : mapping of str to torch.Tensor
        Further inputs of the model by `scan_id`: `text_embeds`, `descriptors`, `text_token_embeds`.
    """

    def __init__(self, inputs: StoredScans, scan_ids: Sequence[str], **of_texts: Mapping[str, torch.Tensor]):
        self.inputs, self.scan_ids, self.of_texts = inputs, list(scan_ids), of_texts
        for name, values in of_texts.items():
            if missing := [scan_id for scan_id in scan_ids if scan_id not in values]:
                raise ValueError(f"`{name}` has no entry for scan {missing[0]!r}: give one for each scan.")

    def __len__(self) -> int:
        return len(self.scan_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scan_id = self.scan_ids[index]
        return self.inputs.row(scan_id) | {name: values[scan_id] for name, values in self.of_texts.items()}


@dataclass(eq=False)
class ScanConversations(Dataset):
    """Examples of stages 2 and 3: a conversation about each scan, plain texts, and prompts without a scan.

    Draws (words, a window, hidden ROIs) are functions of seed, epoch and index, so that a resumed training sees the
    examples of an uninterrupted one. Indices continue through the epochs: example `i` of epoch `e` is
    ``examples[e * len(examples) + i]``.

    Parameters
    ----------
    views : sequence of StoredScans
        Results of `FeatureStore.encode`: the scans, whole and in time windows; each example draws one of them.
    scan_ids : sequence of str
        The scans to use.
    converse : callable
        ``converse(scan_id, draw, seen)`` returns questions or messages about a scan; `draw` is a
        `numpy.random.Generator`, `seen` holds the inputs about the scan that the language model will get.
    plain_texts : sequence of mappings, optional
        Texts as `input_ids`, drawn at random.
    n_plain : int
        Plain texts in an epoch.
    absent : StoredScans, optional
        Scans of noise. Asked about them, or without any scan, the model learns to answer that no scan can be read.
    n_absent : int
        Examples with noise or without a scan in an epoch.
    roi_dropout : float
        Probability that a ROI is hidden from the language model; drawn anew for each example.
    seed : int
    """

    views: Sequence[StoredScans]
    scan_ids: Sequence[str]
    converse: Converse
    plain_texts: Any = None
    n_plain: int = 0
    absent: StoredScans | None = None
    n_absent: int = 0
    roi_dropout: float = 0.0
    seed: int = 0

    draws_each_epoch: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.scan_ids) + self.n_plain + self.n_absent

    def __getitem__(self, index: int) -> dict[str, Any]:
        # A resumed training redraws the examples of its epoch here. A draw that is added, or made in another order,
        # changes the rest of the example and so all published numbers.
        epoch, index = divmod(index, len(self))
        draw = np.random.default_rng([self.seed, epoch, index])
        if index >= len(self.scan_ids) + self.n_plain:
            return self._absent(draw)
        if index >= len(self.scan_ids):
            return {"input_ids": self.plain_texts[int(draw.integers(len(self.plain_texts)))]["input_ids"]}
        scan_id = self.scan_ids[index]
        seen = self.views[int(draw.integers(len(self.views)))].row(scan_id)
        if self.roi_dropout:
            hidden = draw.random(len(seen["roi_mask"])) < self.roi_dropout
            if not hidden.all():  # else no ROI would be left to ask about
                seen["roi_mask"] = seen["roi_mask"] & ~torch.from_numpy(hidden)
        # ROIs are hidden before questions are drawn: their answers are computed from what the model will see
        return {"scan_id": scan_id, **_example_of(self.converse(scan_id, draw, seen)), **seen}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _absent(self, draw: np.random.Generator) -> dict[str, Any]:
        """Draw a question about a scan, replace the scan by noise or nothing, and answer that no scan can be read."""
        assert self.absent is not None
        # The question is one about a real scan: nothing but the missing scan may give the answer away.
        scan_id = self.scan_ids[int(draw.integers(len(self.scan_ids)))]
        seen = self.views[0].row(scan_id)
        question = _example_of(self.converse(scan_id, draw, seen))["conversation"][0]
        answer = {"role": "assistant", "content": str(draw.choice(ABSENT_ANSWERS))}
        if draw.random() < 0.5:
            return {"conversation": [{**question, "content": question["content"][1]["text"]}, answer]}
        noise = self.absent.row(self.absent.scan_ids[int(draw.integers(len(self.absent)))])
        if "fmri_labels" in noise:  # codes of noise must not be learnt
            noise["fmri_labels"] = torch.full_like(noise["fmri_labels"], IGNORED)
        return {"conversation": [question, answer], **noise}


def _example_of(conversation: Conversation) -> dict[str, Any]:
    """Return an example's `conversation`, and the `questions` that it is made of, if any."""
    if not isinstance(conversation[0], Question):
        return {"conversation": conversation}
    return {"conversation": about_scan(conversation), "questions": conversation}  # type: ignore[arg-type]


def about_scan(questions: Sequence[Question]) -> Messages:
    """Turn questions about one scan and their answers into messages.

    Examples
    --------
    >>> about_scan([Question("What is the sex?", "female")])[1]
    {'role': 'assistant', 'content': 'female'}
    """
    messages: Messages = []
    for question in questions:
        messages += [
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": question.answer},
        ]
    return put_scan_first(messages)


def put_scan_first(messages: Messages) -> Messages:
    """Put the scan before the text of the first message, in place."""
    messages[0]["content"] = [{"type": "fmri"}, {"type": "text", "text": messages[0]["content"]}]
    return messages


class FmriLMCollator:
    """Batches examples for `FmriLMTrainer`.

    Parameters
    ----------
    processor : FmriLMProcessor
    with_targets : bool, default=False
        Add `attention_targets` of the examples with ``questions``, for an `AttentionSupervision`.

    Notes
    -----
    An example has a ``conversation`` (a list of messages, with a loss on the assistant's words), a ``text`` (plain
    text, with a loss on every token) or ``input_ids`` (the same, already tokenized). If the conversation contains a
    scan, it also has `fmri_features` (or `input_values`) and masks, without a batch axis. Tokens of texts are kept,
    since the same texts come in every epoch.
    """

    def __init__(self, processor: FmriLMProcessor, with_targets: bool = False):
        self.processor = processor
        self.vocabulary: PairVocabulary | None = None
        if with_targets:
            names = processor.feature_extractor.atlas.network_names
            self.vocabulary = PairVocabulary.of(names, processor.tokenize)
        self._tokens: dict[str, dict[str, list[int]]] = {}

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded = [self._encode(example) for example in examples]
        lengths = torch.tensor([len(each["input_ids"]) for each in encoded])
        longest = int(lengths.max())
        # Padded on the left, so that labels are at the end of every row: logits are computed at the columns in which
        # any row has a label, and padding on the right would spread those over the whole batch.
        batch = {}
        for name, filler in (("input_ids", self.processor.tokenizer.pad_token_id), ("labels", IGNORED)):
            rows = [[filler] * (longest - len(each[name])) + each[name] for each in encoded]
            batch[name] = torch.tensor(rows)
        batch["attention_mask"] = (torch.arange(longest).flip(0) < lengths[:, None]).long()
        if self.vocabulary is not None:
            n_pairs = n_pair_tokens(len(self.vocabulary.names))
            targets: list[list[int]] = []
            padded: Any = zip(examples, batch["input_ids"].tolist(), batch["labels"].tolist())
            for row, (example, ids, labels) in enumerate(padded):
                if questions := example.get("questions"):
                    # network-pair tokens are the last tokens of a scan
                    scan = ids.index(self.processor.fmri_token_id) + self.processor.n_tokens - n_pairs
                    found = find_in_conversation(ids, labels, questions, self.vocabulary, scan)
                    targets += [[row, *columns] for columns in found]
            batch["attention_targets"] = torch.tensor(targets, dtype=torch.long).view(-1, N_COLUMNS)
        # rows of the prompts that have a scan, in order: the model assigns them to prompts by their placeholders
        for name in (*SCAN_INPUTS, "fmri_labels"):
            values = [torch.as_tensor(example[name]) for example in examples if example.get(name) is not None]
            if values:
                batch[name] = torch.stack(values)
        return batch

    def _encode(self, example: Mapping[str, Any]) -> dict[str, list[int]]:
        """Return `input_ids` and `labels` of an example."""
        if example.get("input_ids") is not None:
            return _plain(list(example["input_ids"]))
        if len(self._tokens) >= MAX_KEPT_TEXTS:
            self._tokens.clear()
        text = example.get("text")  # None if only other examples of a dataset have the column
        key = json.dumps(example["conversation"], sort_keys=True) if text is None else text
        if key not in self._tokens:
            if text is None:
                self._tokens[key] = self.processor.encode_chat(example["conversation"])
            else:
                ended = text + (self.processor.tokenizer.eos_token or "")
                self._tokens[key] = _plain(self.processor.tokenize(ended))
        return self._tokens[key]


def _plain(ids: list[int]) -> dict[str, list[int]]:
    """Label every token of a plain text but the first, which no token predicts."""
    return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}
