"""A saved dataset as a folder that the Hub understands: Parquet shards of bounded size, named by config and split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declarations import declared_in_parquet
from .contents import Publication

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["as_parquet", "data_files", "declared_in_rows", "shard_group"]

_SHARD = re.compile(r"(?P<folder>(?:[^/]+/)*)(?P<split>[^/]+?)-\d+(?:-of-\d+)?\.parquet")


def as_parquet(publication: Publication, folder: Path, staging: Path, max_shard_size: str | int) -> None:
    """Replace the Arrow files of `Dataset.save_to_disk` in a publication by Parquet shards.

    Files that belong to no split (the atlas, the split manifest, a card) stay as they are; a folder of Parquet
    files is left alone. A dataset that was loaded as one split, or one config, of a larger one keeps its name.

    Parameters
    ----------
    publication : Publication
        Of a dataset; changed in place.
    folder : Path
        Where `publication` was read.
    staging : Path
        Where the shards are written.
    max_shard_size : str or int
        Upper bound of a shard before compression, such as `"500MB"`.
    """
    arrow = [name for name in publication.files if name.endswith(".arrow")]
    if not arrow:
        return
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(str(folder))
    splits = loaded if isinstance(loaded, DatasetDict) else {_split_name(loaded): loaded}
    replaced = {"dataset_dict.json", *arrow}
    for parent in {Path(name).parent for name in arrow}:
        replaced |= {(parent / name).as_posix() for name in ("dataset_info.json", "state.json")}
    for name in replaced & set(publication.files):
        del publication.files[name]
    staging.mkdir(parents=True)
    for split, dataset in splits.items():
        config = dataset.info.config_name or "default"
        # `load_dataset("parquet", data_files=...)` names configs "default-<hash>"
        is_named = re.fullmatch(r"(?!default(-|$))[\w.-]+", config)
        place = f"data/{config}" if is_named else "data"
        n_shards = _n_shards(dataset, max_shard_size)
        for index in range(n_shards):
            name = f"{split}-{index:05d}-of-{n_shards:05d}.parquet"
            dataset.shard(n_shards, index, contiguous=True).to_parquet(staging / name)
            publication.files[f"{place}/{name}"] = staging / name


def shard_group(name: str) -> tuple[str, str] | None:
    """The folder and the split of a Parquet shard, by its name; None for other files."""
    match = _SHARD.fullmatch(name)
    if match:
        return match["folder"].rstrip("/"), match["split"]
    return (str(Path(name).parent), Path(name).stem) if name.endswith(".parquet") else None


def data_files(names: Any) -> list[dict[str, Any]]:
    """Which files belong to which config and split, in the form of a card's `configs`.

    Files outside of `data/` and without a number are left to what `load_dataset` makes of their names.
    """
    configs: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        if match and re.fullmatch(r"data/(?:[^/]+/)?", match["folder"]):
            config = match["folder"].split("/")[1] or "default"
            configs.setdefault(config, {})[match["split"]] = f"{match['folder']}{match['split']}-*.parquet"
    return [
        {
            "config_name": config,
            "data_files": [{"split": split, "path": path} for split, path in splits.items()],
        }
        for config, splits in configs.items()
    ]


def declared_in_rows(publication: Publication) -> set[str]:
    """What the features of the Parquet files declare about their cohort."""
    files = publication.files.items()
    return declared_in_parquet(
        path for name, path in files if name.endswith(".parquet") and isinstance(path, Path)
    )


def _split_name(dataset: Dataset) -> str:
    """The split that a dataset was loaded as; "train" for a part of one, such as `train[:10%]`, and for none."""
    name = str(dataset.split) if dataset.split is not None else ""
    return name if re.fullmatch(r"\w+(\.\w+)*", name) else "train"


def _n_shards(dataset: Dataset, max_shard_size: str | int) -> int:
    from datasets.utils.py_utils import convert_file_size_to_int

    n_bytes = dataset.data.nbytes * len(dataset) // max(dataset.data.num_rows, 1)
    return max(1, min(-(-n_bytes // convert_file_size_to_int(max_shard_size)), len(dataset)))
