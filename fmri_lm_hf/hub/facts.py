"""What the files of a publication tell, gathered for its card."""

from __future__ import annotations

import re
from pathlib import Path

from ..cards.dataset_cards import dataset_card, gated_metadata, scan_dataset_card
from ..cards.model_card import ModelFacts, model_card
from ..cards.rendering import exchange_blocks, join_card, split_card
from ..declarations import is_declared
from .contents import Publication
from .dataset_folder import data_files

__all__ = ["count_parameters", "render_dataset_card", "render_model_card"]

_ARRAYS = ("bold", "roi_mask")


def render_model_card(publication: Publication, repo_id: str, n_parameters: int | None) -> str:
    """The card of a model, an adapter or a processor, from its configuration, processor, record and scores."""
    kind = publication.kind
    adapter = publication.json("adapter_config.json")
    training = publication.json("training_info.json")
    extractor = publication.json("preprocessor_config.json") or publication.json("processor_config.json")
    facts = ModelFacts(
        kind=kind,
        config=adapter if kind == "adapter" else publication.json("config.json"),
        extractor={
            **extractor.get("feature_extractor", extractor),
            "has_tokenizer": bool(publication.json("tokenizer_config.json")),
        },
        training=training,
        results=publication.json("results.json"),
        n_parameters=n_parameters,
        lora="adapter" if adapter and kind != "adapter" else None,
        simulated=is_declared(training, "simulated"),
    )
    return model_card(facts, repo_id)


def count_parameters(publication: Publication) -> int | None:
    """Parameters in the weights of a publication; of an adapter beside a model, those of the model alone."""
    from safetensors import safe_open

    total = 0
    begins = "adapter_model" if publication.kind == "adapter" else "model"
    for name, path in publication.files.items():
        if name.startswith(begins) and name.endswith(".safetensors") and isinstance(path, Path):
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118  (safe_open is not iterable)
                    size = 1
                    for length in file.get_slice(key).get_shape():
                        size *= length
                    total += size
    return total or None


def render_dataset_card(publication: Publication, repo_id: str, declared: set[str]) -> str:
    """The card of a dataset.

    Parameters
    ----------
    publication : Publication
        Its Parquet files are read, all columns but the arrays. A card that came with the data is kept, with the
        repository's name in its examples.
    repo_id : str
    declared : set of str
        What is declared about the cohort: the metadata of a controlled one carry what the Hub asks of who wants
        access.
    """
    existing = publication.text("README.md")
    if existing is not None and split_card(existing)[0].get("configs"):

        def named(block: str) -> str:
            return re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{repo_id}"', block)

        metadata, body, _ = split_card(exchange_blocks(existing, named))
        if "controlled" in declared and "<!-- generated:controlled" not in body:
            fresh = _card_of_rows(publication, repo_id, declared)
            start, end = "<!-- generated:controlled", "<!-- /generated:controlled -->"
            body = "\n" + fresh[fresh.index(start) : fresh.index(end) + len(end)] + "\n\n" + body.lstrip("\n")
    else:
        metadata, body, _ = split_card(_card_of_rows(publication, repo_id, declared))
        if configs := data_files(publication.files):
            metadata["configs"] = configs
    if "controlled" in declared:
        metadata |= gated_metadata()
    return join_card(metadata, body)


def _card_of_rows(publication: Publication, repo_id: str, declared: set[str]) -> str:
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
    controlled, simulated = "controlled" in declared, "simulated" in declared
    if "bold" not in features:
        n_rows = sum(pq.read_metadata(path).num_rows for path in paths)
        return dataset_card(repo_id, columns, n_rows, controlled=controlled, simulated=simulated)
    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    return scan_dataset_card(
        # the minimal form of a scan dataset has no `n_timepoints`
        [{"n_timepoints": None, **row} for row in table.to_pylist()],
        name=repo_id,
        n_rois=features["bold"].shape[1],
        atlas_name=publication.json("atlas.json").get("name"),
        controlled=controlled,
        simulated=simulated,
    )
