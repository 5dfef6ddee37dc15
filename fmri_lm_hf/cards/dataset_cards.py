"""The card of a corpus, of a scan dataset, or of another dataset about scans, from what was measured in it."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .rendering import NO_LICENSE, render_card, sign_card

_SPLITS = ("train", "validation", "test")  # in the order of the card

# What the Hub asks of whoever wants access to the scans of a controlled cohort.
_GATED_PROMPT = (
    "These are data about people. By asking for access you confirm that you hold the agreement of the cohort's owner, "
    "that you will not try to find out who a scan belongs to, and that you will not pass the data on."
)
_GATED_FIELDS = {
    "Name and institution": "text",
    "Purpose": "text",
    "I hold the data-use agreement of the cohort": "checkbox",
    "I will not try to identify participants nor redistribute the data": "checkbox",
}


def write_corpus_card(
    out: Path,
    config: Mapping[str, Any],
    scans: Sequence[Mapping[str, Any]],
    split_of: Mapping[str, str],
    splits_sha256: str,
    features: Features,
    rows: Mapping[str, Mapping[str, int]],
    failures: Sequence[Mapping[str, str]],
    warnings: Sequence[str],
) -> None:
    """Write `README.md` of a corpus: its configs for `load_dataset`, and what it holds.

    Parameters
    ----------
    out : Path
        Folder of the corpus.
    config : mapping
        How it was made: the fields of `CorpusConfig`.
    scans : sequence of mappings
        The scans that are described.
    split_of : mapping of str to str
        The split of each subject.
    splits_sha256 : str
        Hash of the split manifest.
    features : datasets.Features
        Columns of the corpus.
    rows : mapping
        Number of rows by config and split.
    failures : sequence of mappings
        The scans that are not in the corpus.
    warnings : sequence of str
        What readers of the texts have to know.
    """
    filled = {name: [split for split in _SPLITS if split in rows[name]] for name in rows if rows[name]}
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "all" else {}),
            "data_files": [{"split": split, "path": f"data/{name}/{split}-*.parquet"} for split in splits],
        }
        for name, splits in filled.items()
    ]
    subjects = Counter(split_of[name] for name in {str(scan["subject_id"]) for scan in scans})
    scan_counts = Counter(split_of[str(scan["subject_id"])] for scan in scans)
    card = render_card(
        "fmri_text_dataset",
        {
            "pretty_name": "fMRI-text pairs",
            "license": config["license"] or NO_LICENSE,
            "language": ["en"],
            "task_categories": ["text-generation"],
            "tags": [*_tags(config["simulated"]), "fmri-text"],
            "configs": configs,
            "dataset_info": [_dataset_info(out / "data" / name, rows[name], features) for name in filled],
        },
        name=out.name,
        rows=rows,
        splits=[s for s in _SPLITS if scan_counts[s]],
        n_split_scans=scan_counts,
        n_split_subjects=subjects,
        statistics=scan_statistics(scans),
        n_failures=len(failures),
        warnings=list(warnings),
        lengths=list(config["lengths"]),
        wordings=config["wordings"],
        group_by=config["group_by"],
        holdout_sites=list(config["holdout_sites"]),
        splits_sha256=splits_sha256,
        scan_dataset=config["scan_dataset"],
        license=config["license"],
        controlled=config["controlled"],
        simulated=config["simulated"],
        seed=config["seed"],
    )
    (out / "README.md").write_text(sign_card(card), encoding="utf-8")


def _dataset_info(folder: Path, rows: Mapping[str, int], features: Features) -> dict[str, Any]:
    """What `datasets` wants to know about the config whose shards lie in a folder.

    Without it, `load_dataset` takes two corpora in folders of one name for the same, and gives the cached one.
    """
    splits = SplitDict()
    for split in _SPLITS:
        if split in rows:
            metadata = [pq.read_metadata(file) for file in sorted(folder.glob(f"{split}-*.parquet"))]
            groups = [file.row_group(i) for file in metadata for i in range(file.num_row_groups)]
            n_bytes = sum(group.total_byte_size for group in groups)
            splits.add(SplitInfo(split, num_bytes=n_bytes, num_examples=rows[split]))
    info = DatasetInfo(
        config_name=folder.name,
        features=features,
        splits=splits,
        download_size=sum(file.stat().st_size for file in folder.glob("*.parquet")),
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )
    data = DatasetCardData()
    DatasetInfosDict({folder.name: info}).to_dataset_card_data(data)
    return data.to_dict()["dataset_info"]


def scan_dataset_card(
    scans: Sequence[Mapping[str, Any]],
    name: str,
    n_rois: int,
    atlas_name: str | None,
    license: str | None = None,
    controlled: bool = False,
    simulated: bool = False,
) -> str:
    """The card of a scan dataset.

    Parameters
    ----------
    scans : sequence of mappings
        All columns of every scan but its data.
    name : str
        Title of the card.
    n_rois : int
        Columns of `bold`.
    atlas_name : str or None
        Of the atlas beside the scans.
    license : str, optional
        The card says that it has to be filled in when None.
    controlled, simulated : bool
        Whether the cohort has a data-use agreement; whether the scans are simulated.
    """
    standard = ("scan_id", "subject_id", "session", "site", "t_r", "n_timepoints", "mean_fd")
    return render_card(
        "scan_dataset",
        {
            "pretty_name": "fMRI scans as ROI time series",
            "license": license or NO_LICENSE,
            "tags": [*_tags(simulated), "timeseries"],
            "configs": [
                {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
            ],
        },
        name=name,
        statistics=scan_statistics(scans),
        n_rois=n_rois,
        atlas_name=atlas_name,
        phenotypes=[column for column in scans[0] if column not in standard],
        license=license,
        controlled=controlled,
        simulated=simulated,
    )


def dataset_card(
    name: str,
    columns: Sequence[str],
    n_rows: int,
    license: str | None = None,
    controlled: bool = False,
    simulated: bool = False,
) -> str:
    """The card of a dataset that holds no scans itself.

    Parameters
    ----------
    name : str
        Its repository.
    columns : sequence of str
    n_rows : int
    license : str, optional
        The card says that it has to be filled in when None.
    controlled, simulated : bool
        As for `scan_dataset_card`.
    """
    return render_card(
        "dataset",
        {"license": license or NO_LICENSE, "tags": _tags(simulated)},
        name=name,
        columns=columns,
        n_rows=n_rows,
        license=license,
        controlled=controlled,
        simulated=simulated,
    )


def gated_metadata() -> dict[str, Any]:
    """What the metadata of a controlled dataset say, and ask of whoever wants access to it."""
    return {
        "controlled": True,
        "extra_gated_prompt": _GATED_PROMPT,
        "extra_gated_fields": dict(_GATED_FIELDS),
    }


def scan_statistics(scans: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, ages, motion and sites of scans: `n_scans`, `n_subjects`, `age`, `sex`, `mean_fd`, `sites`.

    The scans are gone through once, and what is kept of each is small: there may be a million.
    """
    numbers: dict[str, array[float]] = defaultdict(lambda: array("d"))
    sexes: Counter[str] = Counter()
    sites: dict[Any, _SiteScans] = {}
    for scan in scans:
        for column in ("age", "mean_fd"):
            if _is_number(scan.get(column)):
                numbers[column].append(scan[column])
        if scan.get("sex") is not None:
            sexes[str(scan["sex"])] += 1
        sites.setdefault(scan["site"], _SiteScans()).add(scan)
    return {
        "n_scans": sum(site.n_scans for site in sites.values()),
        "n_subjects": len(set().union(*(site.subjects for site in sites.values()))),
        "age": _spread(numbers["age"]),
        "sex": dict(sorted(sexes.items())),
        "mean_fd": _spread(numbers["mean_fd"]),
        "sites": [
            {
                "name": name,
                "n_scans": site.n_scans,
                "n_subjects": len(site.subjects),
                "t_r": sorted(site.t_r),
                "n_timepoints": _spread(site.n_timepoints),
            }
            for name, site in sites.items()
        ],
    }


class _SiteScans:
    """What is counted of the scans of a site."""

    def __init__(self) -> None:
        self.n_scans = 0
        self.subjects: set[Any] = set()
        self.t_r: set[float] = set()
        self.n_timepoints = array("d")

    def add(self, scan: Mapping[str, Any]) -> None:
        self.n_scans += 1
        self.subjects.add(scan["subject_id"])
        if _is_number(scan["t_r"]):
            self.t_r.add(round(float(scan["t_r"]), 4))
        if _is_number(scan.get("n_timepoints")):
            self.n_timepoints.append(scan["n_timepoints"])


def _spread(numbers: Sequence[float]) -> dict[str, float] | None:
    values = np.asarray(numbers, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tags(simulated: bool) -> list[str]:
    return ["fmri", "neuroimaging", *(["simulated-data"] if simulated else [])]
