"""What an evaluation rests on: who trains, who is judged, and what was fitted to whom; see `leaks`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..corpus.reference import JSON_FILE
from ..files import content_hash
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..scans.likeness import ScanRecord, connectivity_profile, content_sketch, shared_content
from ..scans.splits import SplitManifest
from .features import confound_columns
from .tasks import Task


@dataclass(frozen=True)
class FittedStatistics:
    """What is known of the scans that some statistics, a selection of features or a harmonisation come from.

    Attributes
    ----------
    name : str
        What was fitted, for messages.
    subjects : frozenset of str, optional
        Whose scans they were, where they are named.
    subjects_sha256 : str
        Hash of the subject ids (`subjects_sha256`), where they are not.
    n_subjects : int
        0 where it is not known.
    sites : frozenset of str
        Sites that have statistics of their own.
    of_these_splits : bool
        Whether they belong to the splits by which is judged, so that no subject outside of training may be in them.
    """

    name: str
    subjects: frozenset[str] | None = None
    subjects_sha256: str = ""
    n_subjects: int = 0
    sites: frozenset[str] = frozenset()
    of_these_splits: bool = False

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FittedStatistics:
        """From `name` and any of `subjects`, `subjects_sha256`, `n_subjects` and `sites`."""
        known = {"name", "subjects", "subjects_sha256", "n_subjects", "sites"}
        if "name" not in record or set(record) - known or len(record) < 2:
            raise ValueError(
                f"Fitted statistics declare {', '.join(record) or 'nothing'}: expected `name` and some of `subjects` "
                "or `subjects_sha256` and `n_subjects`, and `sites`."
            )
        named = record.get("subjects")
        return cls(
            name=str(record["name"]),
            subjects=None if named is None else frozenset(map(str, named)),
            subjects_sha256=str(record.get("subjects_sha256", "")),
            n_subjects=int(record.get("n_subjects", 0)),
            sites=frozenset(map(str, record.get("sites", ()))),
        )

    @classmethod
    def of_corpus(cls, folder: Path) -> list[FittedStatistics]:
        """Of the cohort reference of a corpus, which belongs to the corpus's splits; none where it has none."""
        file = folder / "reference" / JSON_FILE
        if not file.is_file():
            return []
        record = json.loads(file.read_text(encoding="utf-8"))
        acquisitions = record.get("acquisitions", ())
        return [
            cls(
                name=f"the cohort reference of the corpus {folder.name}",
                subjects_sha256=record["subjects_sha256"],
                n_subjects=record["n_subjects"],
                sites=frozenset(str(each["site"]) for each in acquisitions if each["site"]),
                of_these_splits=True,
            )
        ]

    @classmethod
    def of_extractor(cls, extractor: FmriFeatureExtractor, of_these_splits: bool) -> list[FittedStatistics]:
        """Of the normalisation of a model's input, where it was learnt from a cohort that is recorded."""
        if extractor.normalization != "cohort" or not extractor.fitted_to:
            return []
        return [
            cls(
                name="the normalisation of the model's input",
                subjects_sha256=extractor.fitted_to["subjects_sha256"],
                n_subjects=extractor.fitted_to["n_subjects"],
                of_these_splits=of_these_splits,
            )
        ]


@dataclass(frozen=True)
class Contents:
    """What some scans hold.

    Attributes
    ----------
    rows : list of int
        Of the scan dataset; one of each in `sketches` and `profiles`.
    sketches : list of numpy.ndarray
        See `fmri_lm_hf.scans.likeness`.
    profiles : numpy.ndarray of shape (n_scans, n_pairs)
        See `fmri_lm_hf.scans.likeness`.
    """

    rows: list[int]
    sketches: list[np.ndarray]
    profiles: np.ndarray

    @classmethod
    def read(cls, scans: datasets.Dataset, rows: Sequence[int]) -> Contents:
        """Look at scans of a scan dataset."""
        sketches, profiles = [], []
        needed = [name for name in ("bold", "roi_mask", "sample_mask") if name in scans.column_names]
        chosen = scans.select(rows).select_columns(needed)
        for scan in tqdm(chosen, "Looking for leaks", unit="scan"):
            sketches.append(content_sketch(scan["bold"]))
            profiles.append(connectivity_profile(scan["bold"], scan.get("roi_mask"), scan.get("sample_mask")))
        return cls(list(rows), sketches, np.array(profiles))


@dataclass(frozen=True, eq=False)
class Design:
    """Who trains, who is judged, and what was fitted to whom.

    Attributes
    ----------
    scans : datasets.Dataset
        A scan dataset with the label columns.
    splits : SplitManifest
    rows : mapping of str to sequence of int
        Scans that baselines are fitted to (``train``), and scans that are judged (``test``).
    tasks : mapping of str to Task
    split : {"test", "validation"}
        Whose scans are judged.
    training : mapping
        What is recorded of the model's training (`training_info.json`).
    fitted : sequence of FittedStatistics
    confounds : mapping of str to sequence of str
        Task -> columns that a reader of confounds sees when it is asked.
    prompts : mapping of str to mapping of str to str
        Task -> scan_id -> the question as it is asked about this scan, without examples; where a task is not named,
        its first wording is asked about every scan.
    examples : collection of str
        `scan_id` of the scans that are shown with their answer.
    families : str
        Column of who belongs together, where the scans have it; the one that the splits were made by counts as well.
    """

    scans: datasets.Dataset
    splits: SplitManifest
    rows: Mapping[str, Sequence[int]]
    tasks: Mapping[str, Task] = field(default_factory=dict)
    split: str = "test"
    training: Mapping[str, Any] = field(default_factory=dict)
    fitted: Sequence[FittedStatistics] = ()
    confounds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    examples: Collection[str] = ()
    families: str = "family_id"

    @classmethod
    def of_model(
        cls,
        model: FmriLMForCausalLM,
        processor: FmriLMProcessor,
        scans: datasets.Dataset,
        splits: SplitManifest,
        rows: Mapping[str, Sequence[int]],
        tasks: Mapping[str, Task],
        split: str = "test",
        fitted: Sequence[FittedStatistics] = (),
    ) -> Design:
        """The design in which a model is asked about scans, from what its own files say of its training."""
        training = model.record_of_weights() or {}
        its_splits = training.get("manifest_sha256") == splits.sha256
        return cls(
            scans,
            splits,
            rows,
            tasks,
            split,
            training=training,
            fitted=[*FittedStatistics.of_extractor(processor.feature_extractor, its_splits), *fitted],
            confounds={name: confound_columns(scans, task.label_columns) for name, task in tasks.items()},
        )

    @property
    def judged(self) -> Sequence[int]:
        return self.rows["test"]

    @cached_property
    def scan_ids(self) -> list[str]:
        return [str(scan_id) for scan_id in self.values("scan_id")]

    @cached_property
    def subjects(self) -> list[str]:
        return [str(subject) for subject in self.values("subject_id")]

    @cached_property
    def sites(self) -> list[str]:
        return [str(site) for site in self.values("site")]

    @cached_property
    def split_of_row(self) -> list[str | None]:
        """The split of each scan; None for scans that take no part."""
        split_of, rows = self.splits.split_of(), set(self.judged)
        found = [split_of.get(subject) for subject in self.subjects]
        # scans of test subjects from sites that training saw are not judged, and nothing else
        return [None if each == self.split and row not in rows else each for row, each in enumerate(found)]

    @cached_property
    def contents(self) -> Contents:
        """Of all scans that take part."""
        return Contents.read(self.scans, [row for row, each in enumerate(self.split_of_row) if each])

    @cached_property
    def judged_places(self) -> list[int]:
        """Places of the judged scans in `contents`."""
        judged = set(self.judged)
        return [place for place, row in enumerate(self.contents.rows) if row in judged]

    @cached_property
    def shared(self) -> list[tuple[int, int, float]]:
        """Pairs of rows that share content, and the share of all that is in either."""
        rows = self.contents.rows
        return [
            (rows[each.first], rows[each.second], each.share)
            for each in shared_content(self.contents.sketches)
        ]

    @property
    def judged_sha256(self) -> str:
        """Hash of the content of the judged scans, whatever they are called and in whichever order they stand."""
        sketches = [self.contents.sketches[place].tobytes() for place in self.judged_places]
        return content_hash(*sorted(sketches))

    @property
    def training_records(self) -> list[ScanRecord]:
        """The records of all scans that any stage of the model was trained on."""
        return training_records(self.training)

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return {}

    def values(self, column: str) -> list[Any]:
        """A column of the scan dataset as plain values."""
        if (
            column not in self._columns
        ):  # through arrow: row by row, a column takes longer than all the checks
            table = self.scans.select_columns([column]).with_format("arrow")[:]
            self._columns[column] = table[column].to_pylist()
        return self._columns[column]

    def answers(self, task: Task) -> list[str | None]:
        """The right answer of a task for each scan; None where there is none."""
        return [task.answer(value) for value in self.values(task.column)]


def training_records(training: Mapping[str, Any]) -> list[ScanRecord]:
    """The records of scans in what a checkpoint says of its training, those of earlier stages included."""
    return [ScanRecord.from_dict(record) for record in _at_any_depth(training, "training_scans")]


def _at_any_depth(record: Any, name: str) -> Iterator[Any]:
    if isinstance(record, Mapping):
        if name in record:
            yield record[name]
        for value in record.values():
            yield from _at_any_depth(value, name)
