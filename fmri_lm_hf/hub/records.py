"""Render the card of a publication from its files, and make an adapter name its base model by repository and commit."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..cards.dataset_cards import GATED_METADATA, dataset_card, scan_dataset_card
from ..cards.model_card import ModelFacts, model_card
from ..cards.rendering import NOT_RECORDED, exchange_blocks, find_block, has_block, join_card, split_card
from ..declarations import is_declared
from ..files import write_json
from .contents import Publication, data_files, parquet_files
from .download import HubAccessError, retried

_ARRAYS = ("bold", "roi_mask")
_LAYERS_OF_PEFT = re.compile(r"\.(?:base_layer|original_module)\.")

# ---- cards


def render_model_card(publication: Publication, repo_id: str, n_parameters: int | None) -> str:
    """Render the card of a model, an adapter or a processor, from its configuration, processor, record and scores."""
    adapter = publication.json("adapter_config.json")
    training = publication.json("training_info.json")
    extractor = publication.json("preprocessor_config.json") or publication.json("processor_config.json")
    is_adapter = publication.kind == "adapter"
    facts = ModelFacts(
        kind=publication.kind,
        config=adapter if is_adapter else publication.json("config.json"),
        extractor={
            **extractor.get("feature_extractor", extractor),
            "has_tokenizer": bool(publication.json("tokenizer_config.json")),
        },
        training=training,
        results=publication.json("results.json"),
        n_parameters=n_parameters,
        lora="adapter" if adapter and not is_adapter else None,
        simulated=is_declared(training, "simulated"),
    )
    return model_card(facts, repo_id)


def count_parameters(publication: Publication) -> int | None:
    """Count the parameters in the weights of a publication; of a model with an adapter, those of the model."""
    from safetensors import safe_open

    total = 0
    begins = "adapter_model" if publication.kind == "adapter" else "model"
    for name, path in publication.files.items():
        if name.startswith(begins) and name.endswith(".safetensors") and isinstance(path, Path):
            with safe_open(path, framework="numpy") as file:
                shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
            total += sum(map(math.prod, shapes))
    return total or None


def render_dataset_card(publication: Publication, repo_id: str, declared: set[str]) -> str:
    """Render the card of a dataset.

    Parameters
    ----------
    publication : Publication
        Its Parquet files are read, all columns but the arrays. A card in the folder is kept, with the name of the
        repository in its examples.
    repo_id : str
    declared : set of str
        Declarations about the cohort. For a controlled one, the metadata contain the form for access requests.
    """
    existing = publication.text("README.md")
    if existing is not None and split_card(existing)[0].get("configs"):
        load = re.compile(r'load_dataset\("[^"]*"')
        renamed = exchange_blocks(existing, lambda block: load.sub(f'load_dataset("{repo_id}"', block))
        metadata, body, _ = split_card(renamed)
        if "controlled" in declared and not has_block(body, "controlled"):
            block = find_block(_card_of_rows(publication, repo_id, declared), "controlled")
            body = f"\n{block}\n\n" + body.lstrip("\n")
    else:
        metadata, body, _ = split_card(_card_of_rows(publication, repo_id, declared))
        if configs := data_files(publication.files):
            metadata["configs"] = configs
    if "controlled" in declared:
        metadata |= GATED_METADATA
    return join_card(metadata, body)


def _card_of_rows(publication: Publication, repo_id: str, declared: set[str]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    paths = parquet_files(publication)
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


# ---- adapters


def record_base_model(model: Any, folder: Path) -> None:
    """Write the training record of the base of a PEFT model into the folder in which the adapter was saved."""
    if not hasattr(model, "get_base_model") or (folder / "training_info.json").exists():
        return
    base = model.get_base_model()
    if not hasattr(base, "record_of_weights"):
        return
    # The weights are compared, by name, with the file that they were loaded from. PEFT wraps the layers that it adapts,
    # which changes names but no weight of the base.
    weights = {_LAYERS_OF_PEFT.sub(".", name): tensor for name, tensor in base.state_dict().items()}
    if record := base.record_of_weights(weights):
        write_json({"training": NOT_RECORDED, "base_model": record}, folder / "training_info.json")


def name_base_model(publication: Publication, base_model: str | None, api: HfApi) -> str:
    """Make an adapter name its base model by repository, and record the current commit of that repository.

    Returns
    -------
    str
        The repository and the commit, for the user.

    Raises
    ------
    ValueError
        When the publication is not an adapter, or its base model is not on the Hub or not of this package.
    """
    if publication.kind != "adapter":
        raise ValueError(f"Only an adapter has a base model; this is a {publication.kind.replace('_', ' ')}.")
    config = publication.json("adapter_config.json")
    name = str(base_model or config.get("base_model_name_or_path") or "")
    not_on_the_hub = ValueError(
        f"The adapter was trained on {Path(name).name or 'a model in memory'!r}, which is not a repository on the Hub: "
        "push the base model first, and name it with --base-model org/name (`base_model=`)."
    )
    # A local folder may have the name of a repository: the adapter was trained on the folder then.
    if (Path(name).exists() and base_model is None) or name.count("/") != 1:
        raise not_on_the_hub
    commit = None
    # ValueError: not a valid name on the Hub. Suppressed and not chained, or `clear_errors` would report the cause.
    with contextlib.suppress(RepositoryNotFoundError, ValueError):
        commit = str(retried(lambda: api.repo_info(name), f"Looking at {name}").sha)
    if commit is None:
        raise not_on_the_hub
    model_type = _json_at(api, name, "config.json", commit).get("model_type")
    if model_type != "fmri_lm":
        raise ValueError(
            f"{name} is not an fMRI language model (its config.json has the model type {model_type!r}): name the "
            "repository of the adapter's base model with --base-model (`base_model=`)."
        )
    config["base_model_name_or_path"] = name
    publication.set_json("adapter_config.json", dict(sorted(config.items())))
    training = publication.json("training_info.json") or {"training": NOT_RECORDED}
    recorded = training.get("base_model")
    base: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    base |= {"repository": name, "commit": commit}  # on top of what the training recorded about the base
    if is_declared(_json_at(api, name, "training_info.json", commit), "simulated"):
        base["simulated"] = True
    publication.set_json("training_info.json", training | {"base_model": base})
    return f"{name}, commit {commit}"


def name_repository_in_adapter(publication: Publication, repo_id: str) -> None:
    """Make an adapter that is published together with its base model name the repository of both.

    transformers loads the base weights from the repository that an adapter names, even if they lie next to the adapter.
    """
    if publication.kind != "adapter" and "adapter_config.json" in publication.files:
        config = publication.json("adapter_config.json") | {"base_model_name_or_path": repo_id}
        publication.set_json("adapter_config.json", dict(sorted(config.items())))


def _json_at(api: HfApi, repo_id: str, name: str, commit: str) -> dict[str, Any]:
    """Download a JSON file of a repository; empty when there is none."""
    try:
        path = retried(lambda: api.hf_hub_download(repo_id, name, revision=commit), f"Fetching {name} of {repo_id}")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        return {}
    except ValueError as error:
        raise HubAccessError(f"{name} of {repo_id} is not valid JSON; nothing was sent.") from error
