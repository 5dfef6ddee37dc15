"""Examples of the stages: each pairs what a scan shows with what is said about that scan, by its `scan_id`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..models.scan_errors import ScanError
from ..scans.dataset import load_scan_dataset
from ..scans.likeness import ScanRecord, content_sketch
from ..scans.splits import SplitManifest
from .arguments import LanguageModelArguments, ScanArguments
from .attention_supervision import N_COLUMNS, Vocabulary, find_in_conversation
from .feature_store import IGNORED, FeatureStore, StoredScans

N_NOISE = 64  # scans of noise

logger = logging.get_logger(__name__)

Messages = list[dict[str, Any]]
Conversation = (
    list[Question] | Messages
)  # questions about a scan one after the other, or a chat as it was given
Converse = Callable[[str, np.random.Generator, Mapping[str, torch.Tensor]], Conversation]


class TrainingScans:
    """The scans of a stage, and its splits by subject.

    Parameters
    ----------
    arguments : ScanArguments
    corpus : str, optional
        A corpus of these scans, whose splits are used.

    Attributes
    ----------
    dataset : datasets.Dataset
    atlas : Atlas or None
    n_rois : int
    scan_ids : list of str
        By row.
    store : FeatureStore
    """

    def __init__(self, arguments: ScanArguments, corpus: str | None = None):
        assert arguments.scans is not None
        self.folder = dataset_folder(arguments.scans)
        self.dataset, self.atlas = load_scan_dataset(self.folder)
        self.n_rois = self.dataset.features["bold"].shape[1]
        self.scan_ids = [str(scan_id) for scan_id in self.dataset["scan_id"]]
        self.store = FeatureStore(arguments.feature_store)
        self.evaluates = arguments.eval_strategy != "no"
        self._manifest = None if arguments.splits is None else SplitManifest.from_json(arguments.splits)
        if corpus is not None and (dataset_folder(corpus) / "splits.json").exists():
            of_corpus = SplitManifest.from_json(dataset_folder(corpus) / "splits.json")
            if self._manifest not in (None, of_corpus) and self._manifest.sha256 != of_corpus.sha256:
                raise ValueError(
                    f"`splits` ({self._manifest.sha256[:12]}) are not those of the corpus "
                    f"({of_corpus.sha256[:12]}), whose texts compare scans with its own training subjects. Leave "
                    "`splits` out, or build the corpus with `fmri-lm corpus build --splits`."
                )
            self._manifest = of_corpus

    @property
    def manifest_sha256(self) -> str | None:
        """Hash of the split manifest; None when all scans are trained on."""
        return None if self._manifest is None else self._manifest.sha256

    def split_rows(self, rows: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Rows of "train", and of "validation" if the training evaluates; no subject is in both.

        Parameters
        ----------
        rows : sequence of int, optional
            The scans to choose from, such as those that have a text; all when None.
        """
        subjects = [str(subject) for subject in self.dataset["subject_id"]]
        candidates = list(range(len(subjects)) if rows is None else rows)
        if self._manifest is None:
            if self.evaluates:
                raise ValueError(
                    "Evaluation needs held-out subjects: give `splits`, the splits.json of a corpus."
                )
            return {"train": candidates}
        split_of = self._manifest.split_of()
        chosen: dict[str, list[int]] = {}
        for split in ("train", "validation") if self.evaluates else ("train",):
            chosen[split] = [row for row in candidates if split_of.get(subjects[row]) == split]
            if not chosen[split]:
                raise ValueError(
                    f"None of {len(candidates)} scans is of a {split} subject: the splits name "
                    f"{len(self._manifest.subjects.get(split, []))} of them. Do scans and splits belong together?"
                )
        return chosen

    def read(
        self, extractor: FmriFeatureExtractor, rows: Mapping[str, Sequence[int]]
    ) -> tuple[StoredScans, dict[str, list[str]]]:
        """Model inputs of the scans of all splits, and the `scan_id` of those that can be used.

        A scan that the extractor refuses is left out, with a warning that says why.
        """
        wanted = [row for of_split in rows.values() for row in of_split]
        inputs = self.store.extract(self.dataset, extractor, wanted)
        for scan_id, reason in inputs.failures.items():
            logger.warning(f"Scan {scan_id} is left out: {reason}")
        usable = {
            split: [self.scan_ids[row] for row in of_split if self.scan_ids[row] not in inputs.failures]
            for split, of_split in rows.items()
        }
        for split, of_split in usable.items():
            if not of_split:
                raise ScanError(
                    f"None of {len(rows[split])} {split} scans can be used; the reasons are logged above."
                )
        return inputs, usable

    def conversations(
        self,
        inputs: StoredScans,
        ids: Mapping[str, Sequence[str]],
        converse: Converse,
        model: FmriLMForCausalLM,
        arguments: LanguageModelArguments,
        next_codes: bool = False,
        plain_texts: Any = None,
        plain_text_share: float = 0.0,
    ) -> dict[str, ScanConversations]:
        """Examples of stages 2 and 3: those of "train" varied as the arguments say, those of "validation" as they are.

        Parameters
        ----------
        inputs, ids
            As `read` gives them.
        converse : callable
            As for `ScanConversations`.
        model : FmriLMForCausalLM
            Whose frozen tokenizer encodes the scans, on the device of the arguments: once, whole and through
            `n_windows` random windows in time.
        arguments : LanguageModelArguments
        next_codes : bool
            Whether examples hold the codes of their scans, to be predicted.
        plain_texts : sequence of mappings, optional
            With `input_ids`.
        plain_text_share : float
            Plain texts in an epoch, as a share of the scans.
        """
        model.to(arguments.device)
        windows: list[dict[str, Any] | None] = [None]
        windows += [
            {"shortest": arguments.shortest_window, "seed": arguments.seed + i}
            for i in range(arguments.n_windows)
        ]
        views = [self.store.encode(inputs, model, window, next_codes) for window in windows]
        absent = None
        if arguments.share_absent:
            absent = self.store.encode_noise(N_NOISE, model, next_codes)
        examples = {
            "train": ScanConversations(
                views,
                ids["train"],
                converse,
                plain_texts,
                n_plain=round(plain_text_share * len(ids["train"])),
                absent=absent,
                n_absent=round(arguments.share_absent * len(ids["train"])),
                roi_dropout=arguments.roi_dropout,
                seed=arguments.seed,
            )
        }
        if "validation" in ids:
            examples["validation"] = ScanConversations(views[:1], ids["validation"], converse)
        return examples

    def facts(self, scan_ids: Sequence[str]) -> dict[str, Any]:
        """What `training_info.json` says about the scans that were trained on; it names no subject.

        `training_scans` lets those who hold a scan find it there (see `ScanRecord`), so that nobody judges a model on
        what it was trained on.
        """
        subject_of = dict(zip(self.scan_ids, self.dataset["subject_id"]))
        file = (self.folder if self.folder.is_dir() else self.folder.parent) / "provenance.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        row_of = {scan_id: row for row, scan_id in enumerate(self.scan_ids)}
        bar = tqdm(scan_ids, desc="Recording what was trained on", unit="scan")
        sketches = (content_sketch(self.dataset[row_of[scan_id]]["bold"]) for scan_id in bar)
        return {
            "simulated": {**record.get("parameters", {}), **record}.get("simulated") is True,
            "n_scans": len(scan_ids),
            "n_subjects": len({subject_of[scan_id] for scan_id in scan_ids}),
            "manifest_sha256": self.manifest_sha256,
            "training_scans": ScanRecord.of(sketches).to_dict(),
        }

    def earlier_info(self, checkpoint: str) -> dict[str, Any]:
        """`training_info.json` of the stage before, without its log; a warning when its splits were others."""
        file = cached_file(checkpoint, "training_info.json", _raise_exceptions_for_missing_entries=False)
        if file is None:
            return {}
        info = json.loads(Path(file).read_text(encoding="utf-8"))
        if info.get("manifest_sha256") != self.manifest_sha256:
            before, now = (str(each)[:12] for each in (info.get("manifest_sha256"), self.manifest_sha256))
            logger.warning(
                f"{checkpoint} was trained with the splits {before}, this training has {now}: make sure that no "
                "subject who will be tested was trained on there."
            )
        return {name: value for name, value in info.items() if name not in ("log_history", "versions")}


class ScanInputs(Dataset):
    """Examples of stage 1: `input_values` and masks of a scan, and `text_embeds` of its description if there are any.

    Parameters
    ----------
    inputs : StoredScans
        From `FeatureStore.extract`.
    scan_ids : sequence of str
        The scans to use.
    text_embeds : mapping of str to torch.Tensor of shape (text_embed_dim,), optional
        By `scan_id`.
    **more : mapping of str to torch.Tensor
        Further inputs of the model by `scan_id`, such as `descriptors` and `text_token_embeds`.
    """

    def __init__(
        self,
        inputs: StoredScans,
        scan_ids: Sequence[str],
        text_embeds: Mapping[str, torch.Tensor] | None = None,
        **more: Mapping[str, torch.Tensor],
    ):
        self.inputs, self.scan_ids = inputs, list(scan_ids)
        self.of_texts = more if text_embeds is None else {"text_embeds": text_embeds, **more}
        for argument, values in self.of_texts.items():
            if missing := [name for name in scan_ids if name not in values]:
                raise ValueError(
                    f"`{argument}` has none for scan {missing[0]!r}: give one for each of the scans."
                )

    def __len__(self) -> int:
        return len(self.scan_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scan_id = self.scan_ids[index]
        of_texts = {name: values[scan_id] for name, values in self.of_texts.items()}
        return self.inputs.row(scan_id) | of_texts


class ScanConversations(Dataset):
    """Examples of stages 2 and 3: a conversation about each scan, and plain texts beside them.

    What is drawn (words, a window, hidden ROIs) is a function of seed, epoch and index, so that a resumed training
    meets what an uninterrupted one would have met. Indices count on through the epochs: example `i` as epoch `e` draws
    it is ``examples[e * len(examples) + i]``.

    Parameters
    ----------
    views : sequence of StoredScans
        From `FeatureStore.encode`: the scans, whole and through windows in time; one of them is drawn each time.
    scan_ids : sequence of str
        The scans to use.
    converse : callable
        ``converse(scan_id, draw, seen)`` gives what is said about a scan, questions or messages; `draw` is a
        `numpy.random.Generator`, `seen` what the language model will see of the scan.
    plain_texts : sequence of mappings, optional
        With `input_ids`; drawn at random.
    n_plain : int, optional
        Plain texts in an epoch; as many as scans when None.
    absent : StoredScans, optional
        Scans of noise: asked about them, or without any scan, the model learns to say that there is nothing to read.
    n_absent : int
        Examples of that kind in an epoch.
    roi_dropout : float
        How probably each of a scan's ROIs is hidden from the language model, others each time.
    seed : int
    """

    draws_each_epoch = True

    def __init__(
        self,
        views: Sequence[StoredScans],
        scan_ids: Sequence[str],
        converse: Converse,
        plain_texts: Any = None,
        n_plain: int | None = None,
        absent: StoredScans | None = None,
        n_absent: int = 0,
        roi_dropout: float = 0.0,
        seed: int = 0,
    ):
        self.views, self.scan_ids, self.converse = list(views), list(scan_ids), converse
        self.plain_texts, self.roi_dropout, self.seed = plain_texts, roi_dropout, seed
        self.n_plain = 0 if plain_texts is None else len(self.scan_ids) if n_plain is None else n_plain
        self.absent, self.n_absent = absent, 0 if absent is None else n_absent

    def __len__(self) -> int:
        return len(self.scan_ids) + self.n_plain + self.n_absent

    def __getitem__(self, index: int) -> dict[str, Any]:
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
            if not hidden.all():
                seen["roi_mask"] = seen["roi_mask"] & ~torch.from_numpy(hidden)
        return {"scan_id": scan_id, **_said(self.converse(scan_id, draw, seen)), **seen}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _absent(self, draw: np.random.Generator) -> dict[str, Any]:
        """A question as about a scan, with no scan or noise in its place, and the answer that nothing can be read."""
        assert self.absent is not None
        scan_id = self.scan_ids[int(draw.integers(len(self.scan_ids)))]
        said = _said(self.converse(scan_id, draw, self.views[0].row(scan_id)))
        question = said["conversation"][0]
        answer = {"role": "assistant", "content": str(draw.choice(ABSENT_ANSWERS))}
        if draw.random() < 0.5:
            return {"conversation": [{**question, "content": question["content"][1]["text"]}, answer]}
        noise = self.absent.row(self.absent.scan_ids[int(draw.integers(len(self.absent)))])
        if "fmri_labels" in noise:
            noise["fmri_labels"] = torch.full_like(
                noise["fmri_labels"], IGNORED
            )  # noise has nothing to predict
        return {"conversation": [question, answer], **noise}


def _said(conversation: Conversation) -> dict[str, Any]:
    """An example's `conversation`, and its `questions` where it is made of them."""
    if not isinstance(conversation[0], Question):
        return {"conversation": conversation}
    return {"conversation": about_scan(conversation), "questions": conversation}  # type: ignore[arg-type]


def about_scan(questions: Sequence[Question]) -> Messages:
    """Messages of a conversation about one scan, from its questions and their answers.

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
    messages[0]["content"] = [{"type": "fmri"}, {"type": "text", "text": messages[0]["content"]}]
    return messages


# Batches of examples of one scan and one conversation, or of plain text alone, as `data` makes them.

MAX_KEPT_TEXTS = 20_000  # whose tokens a collator keeps


class FmriLMCollator:
    """Batches examples for `FmriLMTrainer`.

    Parameters
    ----------
    processor : FmriLMProcessor
    with_look_ups : bool, default=False
        Whether batches hold `look_ups`, for a `LookUpGuide`: of the examples with ``questions``.

    Notes
    -----
    An example holds ``conversation`` (a list of messages, scored on the assistant's words), ``text`` (plain text,
    scored on every token) or ``input_ids`` (the same, tokenized before). One whose conversation holds a scan also
    has its `fmri_features` (or `input_values`) and masks, without a batch axis. Tokens of texts are kept, since
    training meets the same ones again and again.
    """

    def __init__(self, processor: FmriLMProcessor, with_look_ups: bool = False):
        self.processor = processor
        self._vocabulary: Vocabulary | None = None
        if with_look_ups:
            names = processor.feature_extractor.atlas.network_names
            self._vocabulary = Vocabulary.of(names, processor.tokenize)
        self._tokens: dict[str, dict[str, list[int]]] = {}

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded = [self._encode(example) for example in examples]
        longest = max(len(each["input_ids"]) for each in encoded)
        pad_id = self.processor.tokenizer.pad_token_id
        batch = {}
        for name, filler in (("input_ids", pad_id), ("labels", IGNORED)):
            # what is learnt stands at the end of every row, and no logits are needed before it
            rows = [[filler] * (longest - len(each[name])) + each[name] for each in encoded]
            batch[name] = torch.tensor(rows)
        lengths = torch.tensor([len(each["input_ids"]) for each in encoded])
        batch["attention_mask"] = (torch.arange(longest).flip(0) < lengths[:, None]).long()
        if self._vocabulary is not None:
            rows = [
                [row, *columns]
                for row, (example, each) in enumerate(zip(examples, encoded))
                for columns in self._look_ups(
                    example, each, longest - len(each["input_ids"]), self._vocabulary
                )
            ]
            batch["look_ups"] = torch.tensor(rows, dtype=torch.long).view(-1, N_COLUMNS)
        for name in (*SCAN_INPUTS, "fmri_labels"):
            rows = [torch.as_tensor(example[name]) for example in examples if example.get(name) is not None]
            if rows:
                batch[name] = torch.stack(rows)
        return batch

    def _look_ups(
        self,
        example: Mapping[str, Any],
        encoded: Mapping[str, list[int]],
        n_padded: int,
        vocabulary: Vocabulary,
    ) -> Iterator[list[int]]:
        """Columns of the look-ups of an example that stands behind `n_padded` tokens."""
        if not example.get("questions"):
            return
        n_networks = len(vocabulary.names)
        ids, labels = encoded["input_ids"], encoded["labels"]
        scan = ids.index(self.processor.fmri_token_id) + self.processor.n_tokens - n_pair_tokens(n_networks)
        for start, look_up in find_in_conversation(ids, labels, example["questions"], vocabulary):
            yield look_up.columns(n_padded + start, n_padded + scan, n_networks)

    def _encode(self, example: Mapping[str, Any]) -> dict[str, list[int]]:
        if example.get("input_ids") is not None:
            return _all_learnt(list(example["input_ids"]))
        if len(self._tokens) >= MAX_KEPT_TEXTS:
            self._tokens.clear()
        text = example.get("text")  # None where a dataset has the column for other examples
        key = json.dumps(example["conversation"], sort_keys=True) if text is None else text
        if key not in self._tokens:
            if text is not None:
                ended = text + (self.processor.tokenizer.eos_token or "")
                self._tokens[key] = _all_learnt(self.processor.tokenize(ended))
            else:
                self._tokens[key] = self.processor.encode_chat(example["conversation"])
        return self._tokens[key]


def _all_learnt(ids: list[int]) -> dict[str, list[int]]:
    """A text of which every token is predicted from those before it."""
    return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}
