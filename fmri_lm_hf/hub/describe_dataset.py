"""The card of a dataset that is published, from its rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..cards.rendering import exchange_blocks, join_card, render_card, split_card
from .contents import Publication

__all__ = ["describe_dataset"]

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
_ARRAYS = ("bold", "roi_mask")


def describe_dataset(publication: Publication, repo_id: str, controlled: bool) -> str:
    """Render the card of a dataset.

    Parameters
    ----------
    publication : Publication
        Its Parquet files are read, all columns but the arrays. A card that came with the data is kept, with the
        repository's name in its examples.
    repo_id : str
    controlled : bool
        Whether the cohort is declared as controlled: the metadata then carry what the Hub asks of who wants access.
    """
    existing = publication.text("README.md")
    if existing is not None and split_card(existing)[0].get("configs"):

        def named(block: str) -> str:
            return re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{repo_id}"', block)

        metadata, body, _ = split_card(exchange_blocks(existing, named))
    else:
        metadata, body, _ = split_card(_card_of_rows(publication, repo_id, controlled))
        if configs := _configs(publication):
            metadata["configs"] = configs
    if controlled:
        metadata |= {"extra_gated_prompt": _GATED_PROMPT, "extra_gated_fields": _GATED_FIELDS}
    return join_card(metadata, body)


def _card_of_rows(publication: Publication, repo_id: str, controlled: bool) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    paths = [
        path
        for name, path in publication.files.items()
        if name.endswith(".parquet") and isinstance(path, Path)
    ]
    features = Features.from_arrow_schema(pq.read_schema(paths[0]))
    columns = [column for column in features if column not in _ARRAYS]
    provenance = publication.json("provenance.json")
    simulated = bool(provenance.get("simulated") or provenance.get("parameters", {}).get("simulated"))
    if "bold" not in features:
        n_rows = sum(pq.read_metadata(path).num_rows for path in paths)
        metadata = {"license": "please-fill-in", "tags": ["fmri", "neuroimaging"]}
        return render_card(
            "dataset",
            metadata,
            name=repo_id,
            columns=columns,
            n_rows=n_rows,
            controlled=controlled,
            simulated=simulated,
        )
    from fmri_lm_hf.cards.dataset_cards import scan_dataset_card

    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    return scan_dataset_card(
        [_with_length(row) for row in table.to_pylist()],
        name=repo_id,
        n_rois=features["bold"].shape[1],
        atlas_name=publication.json("atlas.json").get("name"),
        controlled=controlled,
        simulated=simulated,
    )


def _with_length(row: dict[str, Any]) -> dict[str, Any]:
    """The minimal form of a scan dataset has no `n_timepoints`."""
    return {"n_timepoints": None, **row}


def _configs(publication: Publication) -> list[dict[str, Any]]:
    """Which files belong to which split, for `load_dataset`; empty where their names alone tell."""
    splits = dict.fromkeys(
        match[1]
        for name in publication.files
        if (match := re.fullmatch(r"data/([^/]+?)-\d+(?:-of-\d+)?\.parquet", name))
    )
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    return [{"config_name": "default", "data_files": files}] if files else []
