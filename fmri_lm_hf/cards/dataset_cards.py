"""Render the cards of datasets, with statistics of their scans: a corpus, a scan dataset, or other rows about scans."""

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

from .rendering import NO_LICENSE, is_number, render_card, sign_card

_SPLITS = ("train", "validation", "test")  # in the order of the card
# The fields of `CorpusConfig` that the card of a corpus shows.
_SHOWN_OF_CONFIG = (
    *("lengths", "wordings", "group_by", "holdout_sites", "scan_dataset"),
    *("license", "controlled", "simulated"),
)

# The metadata of a controlled dataset: the Hub asks for this before it gives access.
GATED_METADATA = {
    "controlled": True,
    "extra_gated_prompt": "These are data about people. By asking for access you confirm that you have an agreement "
    "with the cohort's owner, that you will not try to identify the person of a scan, and that you will not pass the "
    "data on.",
    "extra_gated_fields": {
        "Name and institution": "text",
        "Purpose": "text",
        "I hold the data-use agreement of the cohort": "checkbox",
        "I will not try to identify participants nor redistribute the data": "checkbox",
    },
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
    """Write the card of a corpus, with its configs for `load_dataset`.

    Parameters
    ----------
    out : Path
        Folder of the corpus.
    config : mapping
        The fields of its `CorpusConfig`.
    scans : sequence of mappings
        The described scans.
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
        Cautions for users of the texts, each a sentence.
    """
    filled = [name for name in rows if rows[name]]
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "all" else {}),
            "data_files": [
                {"split": split, "path": f"data/{name}/{split}-*.parquet"} for split in _SPLITS if split in rows[name]
            ],
        }
        for name in filled
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
        warnings=warnings,
        splits_sha256=splits_sha256,
        **{name: config[name] for name in _SHOWN_OF_CONFIG},
    )
    (out / "README.md").write_text(sign_card(card), encoding="utf-8")


def _dataset_info(folder: Path, rows: Mapping[str, int], features: Features) -> dict[str, Any]:
    """Return the `dataset_info` of the config whose shards lie in a folder.

    Without it `load_dataset` cannot tell two corpora in folders of the same name apart, and returns the cached one.
    """
    splits = SplitDict()
    for split in _SPLITS:
        if split in rows:
            # `datasets` counts sizes without compression; the footers of the shards hold them
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
    """Render the card of a scan dataset.

    Parameters
    ----------
    scans : sequence of mappings
        All columns of every scan but its data.
    name : str
        Title of the card.
    n_rois : int
        Columns of `bold`.
    atlas_name : str or None
        Name of the atlas.
    license : str, optional
        The card asks for it when None.
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
    """Render the card of a dataset without scans, such as the answers of a model about them.

    Parameters
    ----------
    name : str
        Its repository.
    columns : sequence of str
    n_rows : int
    license : str, optional
        The card asks for it when None.
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


def scan_statistics(scans: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count scans, subjects and sexes, and summarise ages, motion and sites, as `_scans.md.jinja` shows them.

    The scans are read once, and only numbers are kept of each: there may be a million.
    """
    ages, motion, sexes = array("d"), array("d"), Counter[str]()
    n_scans: Counter[Any] = Counter()  # of each site
    subjects: defaultdict[Any, set[Any]] = defaultdict(set)
    t_r: defaultdict[Any, set[float]] = defaultdict(set)
    lengths: defaultdict[Any, array[float]] = defaultdict(lambda: array("d"))
    for scan in scans:
        site = scan["site"]
        n_scans[site] += 1
        subjects[site].add(scan["subject_id"])
        if is_number(scan["t_r"]):
            t_r[site].add(round(float(scan["t_r"]), 4))  # 0.72 and 0.7200000286 (float32) are one sequence
        for column, numbers in (("age", ages), ("mean_fd", motion), ("n_timepoints", lengths[site])):
            if is_number(scan.get(column)):  # not NaN, as which tables write unknown ages
                numbers.append(scan[column])
        if scan.get("sex") is not None:
            sexes[str(scan["sex"])] += 1
    return {
        "n_scans": n_scans.total(),
        "n_subjects": len(set().union(*subjects.values())),
        "age": _spread(ages),
        "sex": dict(sorted(sexes.items())),
        "mean_fd": _spread(motion),
        "sites": [
            {
                "name": site,
                "n_scans": count,
                "n_subjects": len(subjects[site]),
                "t_r": sorted(t_r[site]),
                "n_timepoints": _spread(lengths[site]),
            }
            for site, count in n_scans.items()
        ],
    }


def _spread(numbers: Sequence[float]) -> dict[str, float] | None:
    """Return count, mean, standard deviation and range of numbers; None where there are none."""
    if not numbers:
        return None
    values = np.asarray(numbers, dtype=float)
    summary = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
    return {"n": len(values), **{name: float(value) for name, value in summary.items()}}


def _tags(simulated: bool) -> list[str]:
    return ["fmri", "neuroimaging", *(["simulated-data"] if simulated else [])]
