"""From a scan dataset to a dataset of fMRI-text pairs: `build_corpus`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..cards.dataset_cards import write_corpus_card
from ..declarations import DECLARATIONS, declared_in_folder, declared_in_parquet
from ..descriptors import FAMILIES, Acquisition, ReferenceMaps
from ..descriptors.catalogue import check_families
from ..descriptors.column_check import Symmetry, symmetry
from ..files import atomic, exclusive, write_json
from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..scans.dataset import package_versions
from ..scans.splits import SplitManifest, make_splits
from .chunks import WORK_FOLDER, ScanSource, ShardTask, published_features, write_shards
from .facts import NOUNS
from .prose import DEMOGRAPHICS, LENGTHS, SUBJECT_TEXT_COLUMN, describe_subject
from .reference import MIN_ACQUISITION_SCANS, CohortReference
from .steps import (
    GROUP_FILE,
    ChunkTask,
    RunTasks,
    as_features,
    compute_descriptors,
    open_workers,
    read_connectivity,
    read_features,
    sum_connectivity,
    text_seed,
    write_texts,
)

PARAMETERS_FILE = "parameters.json"  # in the work folder
SYMMETRY_FILE = "symmetry.json"


@dataclass(frozen=True)
class CorpusConfig:
    """What a corpus is made of. Two builds with equal configs and equal scans are equal, byte for byte.

    Parameters
    ----------
    families : sequence of {"connectivity", "gradients", "graph", "ica"}
        Descriptors; each family is a config of the dataset, beside `all`.
    lengths : sequence of {"sentence", "paragraph", "full"}
        A row is written for each length.
    wordings : int
        Texts of each scan and length; they state the same facts in other words.
    fractions : sequence of three floats
        Shares of the subjects for train, validation and test.
    group_by : str, optional
        Column whose equal values keep subjects in one split, such as `family_id` or `site`.
    holdout_sites : sequence of str
        Sites whose subjects are all test.
    splits : mapping of str to list of str, optional
        Subject ids of each split, from the manifest of another corpus; replaces the three before. Scans of other
        subjects are left out, and listed.
    describe : sequence of str, optional
        Columns that `subject_description` states; those of age, sex, handedness, education and diagnosis that the
        scans have when None.
    n_components : int
        Of the group ICA.
    seed : int
        Of the splits, the group ICA and the wordings.
    scan_dataset : str, optional
        Repository of the scans on the Hub, `org/name`: what `scan_id` and `scan_index` point into.
    license : str, optional
        Of the corpus; the card says that it has to be filled in when None.
    controlled : bool
        The scans come from a cohort with a data-use agreement; the card warns, and publishing asks for
        confirmation.
    simulated : bool
        The scans were simulated; the card says so.
    """

    families: Sequence[str] = FAMILIES
    lengths: Sequence[str] = LENGTHS
    wordings: int = 1
    fractions: Sequence[float] = (0.8, 0.1, 0.1)
    group_by: str | None = None
    holdout_sites: Sequence[str] = ()
    splits: Mapping[str, Sequence[str]] | None = None
    describe: Sequence[str] | None = None
    n_components: int = 20
    seed: int = 0
    scan_dataset: str | None = None
    license: str | None = None
    controlled: bool = False
    simulated: bool = False

    def __post_init__(self) -> None:
        check_families(self.families)
        unknown = [length for length in self.lengths if length not in LENGTHS]
        if unknown or not self.lengths:
            raise ValueError(f"lengths={list(self.lengths)} found, expected some of {', '.join(LENGTHS)}.")
        for field in ("wordings", "n_components"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} found, expected at least 1.")


@dataclass(frozen=True)
class CorpusSummary:
    """What a build made.

    Attributes
    ----------
    folder : Path
        Of the corpus; `datasets.load_dataset(folder)` loads it.
    n_scans, n_subjects : int
        Described, in all splits.
    rows : dict
        Number of rows by config and split.
    failures : list of dict
        `{"scan_id", "reason"}` of every scan that is not in the corpus.
    warnings : list of str
        What everybody who uses the texts has to know.
    """

    folder: Path
    n_scans: int
    n_subjects: int
    rows: dict[str, dict[str, int]]
    failures: list[dict[str, str]]
    warnings: list[str]


def build_corpus(
    scans: str | Path,
    out: str | Path,
    config: CorpusConfig | None = None,
    atlas: Atlas | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> CorpusSummary:
    """Describe every scan of a scan dataset in words, next to the facts that the words state.

    Gradients, ICA maps, means and SDs that scans are compared with come from training subjects alone. Scans that
    cannot be used are listed with their reason, and the rest goes on. A build that was interrupted continues when it
    is called again; what is done is not done again. Memory does not grow with the number of scans.

    Parameters
    ----------
    scans : path
        A scan dataset in any form that `load_scan_dataset` reads.
    out : path
        Folder of the corpus: Parquet shards in `data/<config>/`, the cohort reference in `reference/`, `atlas.json`,
        `splits.json`, `failures.json`, `provenance.json`, and the card `README.md`.
    config : CorpusConfig, optional
        What to make.
    atlas : Atlas, optional
        Of the scans; read from `atlas.json` beside them when None.
    workers : int, default=1
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same files; `workers` is then not used.
    progress : bool, default=False
        Show a progress bar for each step.
    """
    config = CorpusConfig() if config is None else config
    scans, out = Path(scans).resolve(), Path(out).resolve()
    with _work_folder(out) as work:
        source = ScanSource.open(scans, work)
        atlas = _check_networks(atlas or source.atlas() or ScanSource(scans).atlas(), scans)
        build = _Build(out, _inherit(config, scans, source), source, atlas)
        # Provenance is written last, so that it says that the corpus is complete.
        if (out / "provenance.json").exists():
            earlier = json.loads((out / "provenance.json").read_text())["parameters"]
            _check_parameters(earlier, build.parameters, out)
            return _read_summary(out)
        tasks = build.chunk_tasks()  # before anything is written: this is where bad options are refused
        _start_or_continue(work, build.parameters, out)
        atlas.to_json(work / "atlas.json")
        with open_workers(workers, scheduler) as run_tasks:
            steps = _Steps(run_tasks, progress)
            if not (out / "reference" / "reference.json").exists():
                build.fit_reference(steps, tasks)
            steps.run("texts", write_texts, tasks, lambda task: task.file("texts"))
            steps.run("shards", write_shards, build.shard_tasks(), lambda task: task.done, unit="config")
        build.finish(tasks)
        return _read_summary(out)


@dataclass(frozen=True)
class _Steps:
    """Runs the tasks of a step that are not done yet, with a progress bar."""

    run_tasks: RunTasks
    progress: bool

    def run(
        self,
        name: str,
        function: Callable[[Any], int],
        tasks: Sequence[Any],
        result: Callable[[Any], Path],
        unit: str = "scan",
    ) -> None:
        waiting = [task for task in tasks if not result(task).exists()]
        total = sum(map(len, tasks))
        done = total - sum(map(len, waiting))
        with tqdm(total=total, initial=done, desc=name, unit=unit, disable=not self.progress) as bar:
            for count in self.run_tasks(function, waiting):
                bar.update(count)


@dataclass(frozen=True)
class _Build:
    """One build: the options and the scans, and how each part of the corpus follows from them."""

    out: Path
    config: CorpusConfig
    source: ScanSource
    atlas: Atlas

    @cached_property
    def work(self) -> Path:
        return self.out / WORK_FOLDER

    @cached_property
    def families(self) -> tuple[str, ...]:
        return tuple(check_families(self.config.families))

    @cached_property
    def declared(self) -> tuple[str, ...]:
        """What is declared about the cohort, such as that it was simulated."""
        return tuple(name for name in DECLARATIONS if getattr(self.config, name))

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """All that decides what a corpus holds, as JSON gives it back."""
        chosen = asdict(self.config) | {"families": self.families}
        record = {**chosen, "scans_sha256": self.source.fingerprint, "atlas": self.atlas.to_dict()}
        return json.loads(json.dumps(record))

    @cached_property
    def manifest(self) -> SplitManifest:
        config = self.config
        if config.splits is not None:
            subjects = {split: sorted(ids) for split, ids in config.splits.items()}
            return SplitManifest(subjects, {"given": True})
        return make_splits(self.source.index, config.fractions, config.group_by, config.holdout_sites, config.seed)

    def chunk_tasks(self) -> list[ChunkTask]:
        """The scans in chunks, each with what has to be known about it."""
        config, split_of = self.config, self.manifest.split_of()
        described = _described_columns(config, self.source)
        options = {
            "lengths": list(config.lengths),
            "wordings": config.wordings,
            "seed": config.seed,
            "described_columns": described,
        }

        def known(row: Mapping[str, Any]) -> dict[str, Any]:
            seed = text_seed(config.seed, row["subject_id"])
            return {
                "scan_id": str(row["scan_id"]),
                "subject_id": str(row["subject_id"]),
                "site": None if row["site"] is None else str(row["site"]),
                "t_r": row.get("t_r"),
                "split": split_of.get(str(row["subject_id"])),
                SUBJECT_TEXT_COLUMN: describe_subject(row, described, seed=seed) or None,
            }

        tasks = []
        for number, chunk in enumerate(self.source.chunks):
            rows = self.source.index.between(chunk.first, chunk.first + len(chunk))
            scans = pa.Table.from_pylist([known(row) for row in rows])
            tasks.append(ChunkTask(number, chunk, str(self.work), scans, options))
        return tasks

    def shard_tasks(self) -> list[ShardTask]:
        """The configs of the corpus: one for all families, and one for each."""
        configs = ("all", *self.families)
        return [ShardTask(name, configs, str(self.out), self.declared) for name in configs]

    def fit_reference(self, steps: _Steps, tasks: Sequence[ChunkTask]) -> None:
        """Maps of the training scans, descriptors of all scans with them, and their means and SDs in training."""
        maps = self._fit_maps(steps, tasks)
        steps.run("descriptors", compute_descriptors, tasks, lambda task: task.file("features"))
        training = (
            (row["subject_id"], as_features(maps, row, features))
            for row, features, _ in read_features(tasks)
            if row["split"] == "train" and features is not None
        )
        maps.fit_statistics(training).save(self.out / "reference")

    def _fit_maps(self, steps: _Steps, tasks: Sequence[ChunkTask]) -> CohortReference:
        """Gradients and ICA maps of the training scans' mean connectivity, kept where every worker can read them."""
        work, config = self.work, self.config
        folder = work / "maps_reference"
        if not (folder / "reference.json").exists():
            steps.run("connectivity", sum_connectivity, tasks, lambda task: task.file("maps"))
            group = read_connectivity(tasks, self.atlas.n_rois)
            mean = group.mean.astype(np.float32)
            with atomic(work / GROUP_FILE) as path:
                save_file({"mean": mean}, path)
            write_json(asdict(symmetry(mean, self.atlas)), work / SYMMETRY_FILE)
            with threadpool_limits(1):  # the same bits on every machine
                maps = ReferenceMaps.fit(group, self.atlas, self.families, config.n_components, config.seed)
            CohortReference(maps, self.families).save(folder)
            shutil.rmtree(work / "maps")
        return CohortReference.load(folder)

    def finish(self, tasks: Sequence[ChunkTask]) -> None:
        """Write all but the shards; provenance comes last and says that the corpus is complete."""
        out, work, manifest = self.out, self.work, self.manifest
        failures = list(_failures(tasks))
        described = self.source.index.without({failure["scan_id"] for failure in failures})
        rows = {task.config: json.loads(task.done.read_text()) for task in self.shard_tasks()}
        write_json(manifest.to_dict(), out / "splits.json")
        write_json(failures, out / "failures.json")
        shutil.copyfile(work / "atlas.json", out / "atlas.json")
        reference = CohortReference.load(out / "reference")
        sides = Symmetry(**json.loads((work / SYMMETRY_FILE).read_text()))
        warnings = [text for text in (_acquisition_warning(reference, described), sides.problem) if text]
        write_corpus_card(
            out,
            asdict(self.config),
            described,
            manifest.split_of(),
            manifest.sha256,
            published_features(self.declared),
            rows,
            failures,
            warnings,
        )
        provenance = {
            "parameters": self.parameters,
            "versions": package_versions(),
            "splits_sha256": manifest.sha256,
            "controlled": self.config.controlled,
            "simulated": self.config.simulated,
            "n_scans": len(described),
            "n_subjects": len({str(row["subject_id"]) for row in described}),
            "rows": rows,
            "symmetry": {k: v if v == v else None for k, v in asdict(sides).items()},
            "warnings": warnings,
        }
        write_json(provenance, out / "provenance.json")


def _check_networks(atlas: Atlas | None, scans: Path) -> Atlas:
    """The atlas of the scans, refused where texts could name nothing."""
    if atlas is None:
        raise ScanError(
            f"There is no atlas.json beside the scans of {scans.name}: put it there, or give the atlas (--atlas)."
        )
    if not atlas.named_networks:
        raise ScanError(
            f"Atlas {atlas.name!r} names no network for any of its {atlas.n_rois} ROIs, and texts speak of networks. "
            "Give a table of its ROIs with columns name and network (--networks)."
        )
    return atlas


def _inherit(config: CorpusConfig, scans: Path, source: ScanSource) -> CorpusConfig:
    """What is declared about the scans, beside them or in their rows, holds for the corpus too."""
    folder = scans if scans.is_dir() else scans.parent
    declared = declared_in_folder(folder, recursive=scans.is_dir()) | declared_in_parquet(source.files)
    inherited: dict[str, Any] = {name: getattr(config, name) or name in declared for name in DECLARATIONS}
    return replace(config, **inherited)


def _described_columns(config: CorpusConfig, source: ScanSource) -> list[str]:
    known = source.index[0]
    if config.describe is None:
        return [column for column in DEMOGRAPHICS if column in known]
    absent = [column for column in config.describe if column not in known]
    if absent:
        raise ValueError(f"The scans have no column {', '.join(absent)}; they have {', '.join(known)}.")
    return list(config.describe)


# ----- the work folder: one build at a time, which continues where it was interrupted -----


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """The folder of unfinished work in `out`, for one build at a time; nothing of one that is refused stays there."""
    work = out / WORK_FOLDER
    is_corpus = (out / "provenance.json").exists() or (work / PARAMETERS_FILE).exists()
    if out.exists() and not is_corpus:
        found = sorted(path.name for path in out.iterdir() if path != work)
        if found:
            raise ValueError(f"{out} is not empty and holds no corpus ({', '.join(found[:5])}): give a new folder.")
    with exclusive(work):
        try:
            yield work
        finally:
            if work.exists() and not (work / PARAMETERS_FILE).exists():
                shutil.rmtree(work, ignore_errors=True)
                with suppress(OSError):  # not empty: a finished corpus
                    out.rmdir()


def _check_parameters(earlier: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 120 else text[:117] + "..."

    for name in sorted(earlier.keys() | now.keys()):
        if earlier.get(name) != now.get(name):
            raise ValueError(
                f"{out} was begun with {name} = {short(earlier.get(name))}, now it is {short(now.get(name))}. Give "
                "the same parameters to continue, or another folder."
            )


def _start_or_continue(work: Path, parameters: dict[str, Any], out: Path) -> None:
    record = work / PARAMETERS_FILE
    if record.exists():
        _check_parameters(json.loads(record.read_text()), parameters, out)
        for partial in out.rglob("*.tmp"):  # of a build that was killed
            partial.unlink(missing_ok=True)
    else:
        write_json(parameters, record)


# ----- what goes into the record of a finished corpus -----


def _failures(tasks: Sequence[ChunkTask]) -> Iterator[dict[str, str]]:
    for row, features, failure in read_features(tasks):
        if row["split"] is None:
            yield {"scan_id": row["scan_id"], "reason": "Its subject is in no split of the given manifest."}
        elif features is None:
            yield {"scan_id": row["scan_id"], "reason": str(failure)}


def _acquisition_warning(reference: CohortReference, scans: Sequence[Mapping[str, Any]]) -> str | None:
    """Which scans were not acquired as any training scans, and what their texts leave out."""
    counts = Counter(Acquisition.of(row["site"], row["t_r"]) for row in scans)
    unknown = {each: n for each, n in sorted(counts.items()) if not reference.knows(each)}
    if not unknown:
        return None
    families = {feature.measure.name: feature.measure for feature in reference.feature_table.values()}
    left_out = [NOUNS[name][0] for name, measure in families.items() if measure.needs_acquisition]
    where = "; ".join(f"{each}: {n:,} scans" for each, n in unknown.items())
    return (
        f"{sum(unknown.values()):,} scans come from a site and repetition time with fewer than "
        f"{MIN_ACQUISITION_SCANS} training scans ({where}). They are compared with all training scans, so part of "
        "what their texts state may be due to the scanner; each such text begins by saying so"
        + (f", and leaves out what depends most on the scanner: {', '.join(left_out)}." if left_out else ".")
    )


def _read_summary(out: Path) -> CorpusSummary:
    provenance = json.loads((out / "provenance.json").read_text())
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return CorpusSummary(
        folder=out,
        n_scans=provenance["n_scans"],
        n_subjects=provenance["n_subjects"],
        rows=provenance["rows"],
        failures=json.loads((out / "failures.json").read_text()),
        warnings=provenance["warnings"],
    )
