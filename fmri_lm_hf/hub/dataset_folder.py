"""A saved dataset as a folder that the Hub understands: Parquet shards of bounded size, named by split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .contents import Publication

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["as_parquet"]


def as_parquet(publication: Publication, folder: Path, staging: Path, max_shard_size: str) -> None:
    """Replace the Arrow files of `Dataset.save_to_disk` in a publication by Parquet shards.

    Files that belong to no split (the atlas, the split manifest, a card) stay as they are; a folder of Parquet
    files is left alone.

    Parameters
    ----------
    publication : Publication
        Of a dataset; changed in place.
    folder : Path
        Where `publication` was read.
    staging : Path
        Where the shards are written.
    max_shard_size : str
        Upper bound of a shard before compression, such as `"500MB"`.
    """
    arrow = [name for name in publication.files if name.endswith(".arrow")]
    if not arrow:
        return
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(str(folder))
    splits = loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)
    replaced = {"dataset_dict.json", *arrow}
    for parent in {Path(name).parent for name in arrow}:
        replaced |= {(parent / name).as_posix() for name in ("dataset_info.json", "state.json")}
    for name in replaced & set(publication.files):
        del publication.files[name]
    staging.mkdir(parents=True)
    for split, dataset in splits.items():
        n_shards = _n_shards(dataset, max_shard_size)
        for index in range(n_shards):
            name = f"{split}-{index:05d}-of-{n_shards:05d}.parquet"
            dataset.shard(n_shards, index, contiguous=True).to_parquet(staging / name)
            publication.files[f"data/{name}"] = staging / name


def _n_shards(dataset: Dataset, max_shard_size: str) -> int:
    from datasets.utils.py_utils import convert_file_size_to_int

    n_bytes = dataset.data.nbytes * len(dataset) // max(dataset.data.num_rows, 1)
    return max(1, min(-(-n_bytes // convert_file_size_to_int(max_shard_size)), len(dataset)))
