"""Declarations about a cohort: controlled (bound by a data-use agreement), or simulated.

Files declare it (`controlled: true` in the metadata of a card, or in JSON next to the data, at any depth). Objects
carry it in a feature of their dataset: unlike other metadata, the `id` of a feature survives `select`, `map`,
`save_to_disk`, Parquet and `load_dataset`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DECLARATIONS = ("controlled", "simulated")
# the YAML between two lines of dashes at the beginning of a card
_METADATA_OF_CARD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
_MARK = "fmri_lm_hf:"  # prefix of the `id` of a feature that carries declarations
# Whatever else is declared counts as true, a typing error included: to publish controlled data is the worse mistake.
_DENIALS = ("", "0", "false", "no", "none", "null")
_CARRIERS = ("bold", "text")  # columns with data of a person, or with text about one


def is_declared(record: Any, name: str) -> bool:
    """Whether a record declares `name: true`, at any depth, in mappings and lists.

    Examples
    --------
    >>> is_declared({"cohorts": [{"name": "a"}, {"name": "b", "controlled": True}]}, "controlled")
    True
    """
    if isinstance(record, Mapping):
        value = record.get(name)
        if not isinstance(value, (Mapping, list)) and str(value).strip().lower() not in _DENIALS:
            return True
        return any(is_declared(value, name) for value in record.values())
    return isinstance(record, (list, tuple)) and any(is_declared(value, name) for value in record)


def declared_in_folder(folder: str | Path, recursive: bool = True) -> set[str]:
    """Collect the declarations of JSON files and cards in and below a folder; unreadable ones declare nothing."""
    found: set[str] = set()
    for path in Path(folder).rglob("*") if recursive else Path(folder).iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.suffix not in (".json", ".md"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                record = json.loads(text)
            else:
                metadata = _METADATA_OF_CARD.match(text)
                record = yaml.safe_load(metadata[1]) if metadata else None
        except (ValueError, yaml.YAMLError):
            continue
        found |= {name for name in DECLARATIONS if is_declared(record, name)}
    return found


def declare_in_features(features: Any, declared: Iterable[str]) -> None:
    """Add declarations to the features of a dataset.

    Parameters
    ----------
    features : datasets.Features
        Changed in place. The columns `bold` and `text` carry the declarations; if there is neither, the first column.
    declared : iterable of str
        Of `DECLARATIONS`.
    """
    names = sorted({*declared, *declared_in_features(features)} & set(DECLARATIONS))
    if names:
        for column in [name for name in _CARRIERS if name in features] or list(features)[:1]:
            if hasattr(features[column], "id"):
                features[column].id = _MARK + ",".join(names)


def declared_in_features(features: Any) -> set[str]:
    """Collect the declarations in the features of a dataset."""
    marks = [mark for mark in _ids(features) if mark.startswith(_MARK)]
    return {name for mark in marks for name in mark.removeprefix(_MARK).split(",")} & set(DECLARATIONS)


def _ids(feature: Any) -> Iterator[str]:
    """The ids of a feature and of all inside it: `Dataset.batch` turns features into lists of them."""
    if isinstance(feature, Mapping):
        for nested in feature.values():
            yield from _ids(nested)
    else:
        yield getattr(feature, "id", None) or ""
        if hasattr(feature, "feature"):
            yield from _ids(feature.feature)


def declared_in_parquet(paths: Iterable[Path]) -> set[str]:
    """Collect the declarations in the schemas of Parquet files."""
    import pyarrow.parquet as pq
    from datasets import Features

    return {name for path in paths for name in declared_in_features(Features.from_arrow_schema(pq.read_schema(path)))}
