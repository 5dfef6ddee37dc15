"""Build a dataset of fMRI-text pairs from a scan dataset: `build_corpus`."""

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
    """Options of a corpus. Two builds with equal options and equal scans are equal, byte for byte.

    Parameters
    ----------
    families : sequence of {"connectivity", "gradients", "graph", "ica"}
        Descriptors; each family becomes a config of the dataset, next to `all`.
    lengths : sequence of {"sentence", "paragraph", "full"}
        A row is written for each length.
    wordings : int
        Texts of each scan and length, which state the same facts in different words.
    fractions : sequence of three floats
        Shares of the subjects for train, validation and test.
    group_by : str, optional
        Column whose equal values keep subjects in one split, such as `family_id` or `site`.
    holdout_sites : sequence of str
        Sites whose subjects are all in the test split.
    splits : mapping of str to list of str, optional
        Subject ids of each split, from the manifest of another corpus; replaces the three options above. Scans of
        other subjects are left out and listed as failures.
    describe : sequence of str, optional
        Columns that `subject_description` states. When None: age, sex, handedness, education and diagnosis, where
        the scans have them.
    n_components : int
        Components of the group ICA.
    seed : int
        Seed of the splits, the group ICA and the wordings.
    scan_dataset : str, optional
        Hub repository of the scans, `org/name`, which `scan_id` and `scan_index` refer to.
    license : str, optional
        License of the corpus. When None, the card says that it has to be filled in.
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
    """Summary of a build.

    Attributes
    ----------
    folder : Path
        Folder of the corpus; `datasets.load_dataset(folder)` loads it.
    n_scans, n_subjects : int
        Scans and subjects that are described, in all splits.
    rows : dict
        Number of rows by config and split.
    failures : list of dict
        `{"scan_id", "reason"}` of every scan that is not in the corpus.
    warnings : list of str
        What every user of the texts has to know.
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
    """Describe every scan of a scan dataset in words, and store the facts next to each text.

    Scans are compared with gradients, ICA maps, means and SDs of the training subjects alone. Scans that cannot be
    used are listed with the reason and do not stop the build. An interrupted build continues when it is called again.
    Memory does not grow with the number of scans.

    Parameters
    ----------
    scans : path
        A scan dataset in any form that `load_scan_dataset` reads.
    out : path
        Folder to write: Parquet shards in `data/<config>/`, the cohort reference in `reference/`, `atlas.json`,
        `splits.json`, `failures.json`, `provenance.json`, and the card `README.md`.
    config : CorpusConfig, optional
        Options; the defaults when None.
    atlas : Atlas, optional
        Atlas of the scans; read from `atlas.json` next to them when None.
    workers : int, default=1
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler whose workers see the same files; replaces `workers`.
    progress : bool, default=False
        Show a progress bar for each step.
    """
    config = CorpusConfig() if config is None else config
    scans, out = Path(scans).resolve(), Path(out).resolve()
    with _work_folder(out) as work:
        source = ScanSource.open(scans, work)
        atlas = _check_networks(atlas or source.atlas() or ScanSource(scans).atlas(), scans)
        build = _Build(out, _inherit(config, scans, source), source, atlas)
        # Provenance is written last, so a folder that has it is a complete corpus.
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
    """One build: its options and scans, and the parts of the corpus derived from them."""

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
        """Declarations about the cohort that hold, such as `simulated`."""
        return tuple(name for name in DECLARATIONS if getattr(self.config, name))

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Everything that determines the content of a corpus, as JSON values."""
        chosen = asdict(self.config) | {"families": self.families}
        record = {**chosen, "scans_sha256": self.source.fingerprint, "atlas": self.atlas.to_dict()}
        # through JSON once: tuples become lists, so that a record read from a file compares equal
        return json.loads(json.dumps(record))

    @cached_property
    def manifest(self) -> SplitManifest:
        config = self.config
        if config.splits is not None:
            subjects = {split: sorted(ids) for split, ids in config.splits.items()}
            return SplitManifest(subjects, {"given": True})
        return make_splits(self.source.index, config.fractions, config.group_by, config.holdout_sites, config.seed)

    def chunk_tasks(self) -> list[ChunkTask]:
        """One task for each chunk of scans, with the split and the description of each scan's subject."""
        config, split_of = self.config, self.manifest.split_of()
        described = _described_columns(config, self.source)
        options = {
            "lengths": list(config.lengths),
            "wordings": config.wordings,
            "seed": config.seed,
            "described_columns": described,
        }

        def metadata(row: Mapping[str, Any]) -> dict[str, Any]:
            # seeded by subject, so that all scans of a person come with the same description of that person
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
            scans = pa.Table.from_pylist([metadata(row) for row in rows])
            tasks.append(ChunkTask(number, chunk, str(self.work), scans, options))
        return tasks

    def shard_tasks(self) -> list[ShardTask]:
        """One task for each config of the corpus: `all`, then each family."""
        configs = ("all", *self.families)
        return [ShardTask(name, configs, str(self.out), self.declared) for name in configs]

    def fit_reference(self, steps: _Steps, tasks: Sequence[ChunkTask]) -> None:
        """Fit maps on the training scans, describe all scans with them, and save statistics of the training scans."""
        maps = self._fit_maps(steps, tasks)
        steps.run("descriptors", compute_descriptors, tasks, lambda task: task.file("features"))
        training = (
            (row["subject_id"], as_features(maps, row, features))
            for row, features, _ in read_features(tasks)
            if row["split"] == "train" and features is not None
        )
        maps.fit_statistics(training).save(self.out / "reference")

    def _fit_maps(self, steps: _Steps, tasks: Sequence[ChunkTask]) -> CohortReference:
        """Fit gradients and ICA maps on the mean connectivity of the training scans, and save them for the workers."""
        work, config = self.work, self.config
        folder = work / "maps_reference"
        if not (folder / "reference.json").exists():
            steps.run("connectivity", sum_connectivity, tasks, lambda task: task.file("maps"))
            group = read_connectivity(tasks, self.atlas.n_rois)
            mean = group.mean.astype(np.float32)
            with atomic(work / GROUP_FILE) as path:
                save_file({"mean": mean}, path)
            write_json(asdict(symmetry(mean, self.atlas)), work / SYMMETRY_FILE)
            # BLAS splits sums among its threads: with another number of cores, the last bits of the maps would
            # differ, and with them bytes of the corpus.
            with threadpool_limits(1):
                maps = ReferenceMaps.fit(group, self.atlas, self.families, config.n_components, config.seed)
            CohortReference(maps, self.families).save(folder)
            shutil.rmtree(work / "maps")
        return CohortReference.load(folder)

    def finish(self, tasks: Sequence[ChunkTask]) -> None:
        """Write everything but the shards; `provenance.json` last, since it marks a complete corpus."""
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
            "symmetry": {k: v if v == v else None for k, v in asdict(sides).items()},  # NaN is no JSON
            "warnings": warnings,
        }
        write_json(provenance, out / "provenance.json")


def _check_networks(atlas: Atlas | None, scans: Path) -> Atlas:
    """Return the atlas of the scans; refuse one without named networks, which texts could not mention."""
    if atlas is None:
        raise ScanError(
            f"There is no atlas.json next to the scans of {scans.name}: put it there, or give the atlas (--atlas)."
        )
    if not atlas.named_networks:
        raise ScanError(
            f"Atlas {atlas.name!r} has no network for any of its {atlas.n_rois} ROIs; texts need names of networks. "
            "Give a table of its ROIs with columns name and network (--networks)."
        )
    return atlas


def _inherit(config: CorpusConfig, scans: Path, source: ScanSource) -> CorpusConfig:
    """Apply to the corpus what is declared about the scans, in a file next to them or in their metadata."""
    # A forgotten option must not turn scans under a data-use agreement into a corpus that anybody may push.
    folder = scans if scans.is_dir() else scans.parent
    declared = declared_in_folder(folder, recursive=scans.is_dir()) | declared_in_parquet(source.files)
    inherited: dict[str, Any] = {name: getattr(config, name) or name in declared for name in DECLARATIONS}
    return replace(config, **inherited)


def _described_columns(config: CorpusConfig, source: ScanSource) -> list[str]:
    columns = source.index[0]
    if config.describe is None:
        return [column for column in DEMOGRAPHICS if column in columns]
    if absent := [column for column in config.describe if column not in columns]:
        raise ValueError(f"The scans have no column {', '.join(absent)}; they have {', '.join(columns)}.")
    return list(config.describe)


# ----- the work folder, in which an interrupted build continues -----


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Lock the folder of unfinished work in `out` for one build; a build that is refused leaves nothing behind."""
    work = out / WORK_FOLDER
    is_corpus = (out / "provenance.json").exists() or (work / PARAMETERS_FILE).exists()
    if out.exists() and not is_corpus and (found := sorted(path.name for path in out.iterdir() if path != work)):
        raise ValueError(f"{out} is not empty and holds no corpus ({', '.join(found[:5])}): give a new folder.")
    with exclusive(work):
        try:
            yield work
        finally:
            if work.exists() and not (work / PARAMETERS_FILE).exists():
                shutil.rmtree(work, ignore_errors=True)
                with suppress(OSError):  # a finished corpus is not empty and stays
                    out.rmdir()


def _check_parameters(earlier: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 120 else text[:117] + "..."

    for name in sorted(earlier.keys() | now.keys()):
        if earlier.get(name) != now.get(name):
            raise ValueError(
                f"{out} was started with {name} = {short(earlier.get(name))}, now {name} = {short(now.get(name))}. "
                "Give the same options to continue the build, or another folder."
            )


def _start_or_continue(work: Path, parameters: dict[str, Any], out: Path) -> None:
    record = work / PARAMETERS_FILE
    if record.exists():
        _check_parameters(json.loads(record.read_text()), parameters, out)
        for partial in out.rglob("*.tmp"):  # of a build that was killed
            partial.unlink(missing_ok=True)
    else:
        write_json(parameters, record)


# ----- records of a finished corpus -----


def _failures(tasks: Sequence[ChunkTask]) -> Iterator[dict[str, str]]:
    for row, features, failure in read_features(tasks):
        if row["split"] is None:
            yield {"scan_id": row["scan_id"], "reason": "Its subject is in no split of the given manifest."}
        elif features is None:
            yield {"scan_id": row["scan_id"], "reason": str(failure)}


def _acquisition_warning(reference: CohortReference, scans: Sequence[Mapping[str, Any]]) -> str | None:
    """Warn of scans from acquisitions without training scans, and of what their texts leave out."""
    counts = Counter(Acquisition.of(row["site"], row["t_r"]) for row in scans)
    unknown = {acquisition: n for acquisition, n in sorted(counts.items()) if not reference.knows(acquisition)}
    if not unknown:
        return None
    measures = {feature.measure.name: feature.measure for feature in reference.feature_table.values()}
    left_out = [NOUNS[name][0] for name, measure in measures.items() if measure.needs_acquisition]
    where = "; ".join(f"{acquisition}: {n:,} scans" for acquisition, n in unknown.items())
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
