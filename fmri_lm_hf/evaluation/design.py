"""The design of an evaluation: which subjects train, which are tested, and what was fitted to which of them.

`leakage` checks a `Design`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..files import content_hash
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.processing_fmri_lm import FmriLMProcessor
from ..scans.likeness import ScanRecord, connectivity_profile, content_sketch, shared_content
from ..scans.splits import SplitManifest
from .features import confound_columns
from .tasks import Task

# Of a corpus, as `CohortReference.save` writes it: its module would load the corpus and every family of descriptors.
REFERENCE_FILE = Path("reference", "reference.json")


@dataclass(frozen=True)
class FittedStatistics:
    """The subjects to which statistics, a feature selection or a harmonisation were fitted, as far as known.

    Attributes
    ----------
    name : str
        What was fitted, for messages.
    subjects : frozenset of str, optional
        None where only their hash is known.
    subjects_sha256 : str
        Hash of the subject ids (`subjects_sha256`), where `subjects` is None.
    n_subjects : int
        0 where it is not known.
    sites : frozenset of str
        Sites that have statistics of their own.
    of_these_splits : bool
        Whether they were made with the splits of this evaluation, and must come from training subjects alone.
    """

    name: str
    subjects: frozenset[str] | None = None
    subjects_sha256: str = ""
    n_subjects: int = 0
    sites: frozenset[str] = frozenset()
    of_these_splits: bool = False

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FittedStatistics:
        """Read a declaration with `name` and any of `subjects`, `subjects_sha256`, `n_subjects` and `sites`."""
        known = {"name", "subjects", "subjects_sha256", "n_subjects", "sites"}
        if "name" not in record or set(record) - known or len(record) < 2:
            raise ValueError(
                f"Fitted statistics declare {', '.join(record) or 'nothing'}: expected `name` and at least one of "
                "`subjects`, `subjects_sha256`, `n_subjects` and `sites`."
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
        """List the cohort reference of a corpus, which belongs to the splits of the corpus; empty without one."""
        file = folder / REFERENCE_FILE
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
        """List the normalisation of a model's input, where it was fitted to a recorded cohort."""
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


class Contents(NamedTuple):
    """The content of scans, to recognise copies, parts of scans and subjects (`fmri_lm_hf.scans.likeness`).

    Attributes
    ----------
    rows : list of int
        Rows of the scan dataset, one for each entry of `sketches` and `profiles`.
    sketches : list of numpy.ndarray
    profiles : numpy.ndarray of shape (n_scans, n_pairs)
    """

    rows: list[int]
    sketches: list[np.ndarray]
    profiles: np.ndarray


@dataclass(frozen=True, eq=False)
class Design:
    """Which subjects train, which are tested, and what was fitted to which of them.

    Attributes
    ----------
    scans : datasets.Dataset
        A scan dataset with the label columns.
    splits : SplitManifest
    rows : mapping of str to sequence of int
        Scans that baselines are fitted to (``train``), and scans that predictors answer for (``test``).
    tasks : mapping of str to Task
    split : {"test", "validation"}
        The split of the evaluated scans.
    training : mapping
        The model's training record (`training_info.json`).
    fitted : sequence of FittedStatistics
    confounds : mapping of str to sequence of str
        Task -> columns from which the control `confounds` predicts its answer.
    prompts : mapping of str to mapping of str to str
        Task -> scan_id -> the question about this scan, without examples. In other tasks every scan gets the task's
        first wording.
    examples : collection of str
        `scan_id` of the scans that are shown with their answer.
    families : str
        Column of the family, where the scans have it; the column that the splits were grouped by is checked too.
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
        """Make the design of an evaluation of a model, with the training record in its files."""
        training = model.record_of_weights() or {}
        # a model trained with other splits may well have a normalisation of more subjects than train here
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
    def evaluated(self) -> Sequence[int]:
        """Rows of the evaluated scans."""
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

    def subjects_of(self, rows: Iterable[int]) -> set[str]:
        """Return the subjects of some scans."""
        return {self.subjects[row] for row in rows}

    @cached_property
    def split_of_row(self) -> list[str | None]:
        """The split of each scan; None for unused scans."""
        split_of, evaluated = self.splits.split_of(), set(self.evaluated)
        splits = [split_of.get(subject) for subject in self.subjects]
        # where a site is held out, test subjects may also have scans from training sites: these are in no split, and
        # counting them as test scans would report leaks that nobody uses
        return [None if s == self.split and row not in evaluated else s for row, s in enumerate(splits)]

    @cached_property
    def contents(self) -> Contents:
        """The content of all scans of the splits."""
        rows = [row for row, split in enumerate(self.split_of_row) if split]
        columns = [name for name in ("bold", "roi_mask", "sample_mask") if name in self.scans.column_names]
        sketches, profiles = [], []
        # sketches and not scans: those of a large dataset would not fit into memory
        for scan in tqdm(self.scans.select(rows).select_columns(columns), "Checking for leakage", unit="scan"):
            sketches.append(content_sketch(scan["bold"]))
            profiles.append(connectivity_profile(scan["bold"], scan.get("roi_mask"), scan.get("sample_mask")))
        return Contents(rows, sketches, np.array(profiles))

    @cached_property
    def evaluated_places(self) -> list[int]:
        """Positions of the evaluated scans in `contents`."""
        evaluated = set(self.evaluated)
        return [place for place, row in enumerate(self.contents.rows) if row in evaluated]

    @cached_property
    def shared(self) -> list[tuple[int, int, float]]:
        """Pairs of rows that share content, and the share of it in the content of both."""
        rows = self.contents.rows
        pairs = shared_content(self.contents.sketches)
        return [(rows[pair.first], rows[pair.second], pair.share) for pair in pairs]

    @property
    def evaluated_sha256(self) -> str:
        """Hash of the content of the evaluated scans, independent of their names and their order."""
        sketches = [self.contents.sketches[place].tobytes() for place in self.evaluated_places]
        return content_hash(*sorted(sketches))

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return {}

    def values(self, column: str) -> list[Any]:
        """Read a column of the scan dataset as plain values."""
        if column not in self._columns:
            # through Arrow: row by row, reading a column takes longer than all checks together
            table = self.scans.select_columns([column]).with_format("arrow")[:]
            self._columns[column] = table[column].to_pylist()
        return self._columns[column]

    def answers(self, task: Task) -> list[str | None]:
        """Return the right answer of a task for each scan; None where there is none."""
        return [task.answer(value) for value in self.values(task.column)]


def training_records(training: Any) -> list[ScanRecord]:
    """Collect the records of the training scans of a checkpoint and of the stages before it, which nest in its own."""
    if not isinstance(training, Mapping):
        return []
    own = [ScanRecord.from_dict(training["training_scans"])] if "training_scans" in training else []
    return [*own, *(record for value in training.values() for record in training_records(value))]
