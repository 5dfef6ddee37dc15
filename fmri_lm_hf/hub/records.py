"""An adapter and the model that it was trained on: named so that others find it, and recorded."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..cards.dataset_cards import dataset_card, gated_metadata, scan_dataset_card
from ..cards.model_card import ModelFacts, model_card
from ..cards.rendering import NOT_RECORDED, exchange_blocks, join_card, split_card
from ..declarations import is_declared
from ..files import write_json
from .contents import Publication, data_files
from .download import HubAccessError, retried

# What the files of a publication tell, gathered for its card.

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


_OF_PEFT = re.compile(r"\.(?:base_layer|original_module)\.")


def records_of_base(model: Any, folder: Path) -> None:
    """Write into the folder of a saved PEFT model what is recorded about the model under it, if anything is."""
    if not hasattr(model, "get_base_model") or (folder / "training_info.json").exists():
        return
    base = model.get_base_model()
    if not hasattr(base, "record_of_weights"):
        return
    # PEFT puts the base's own weights into layers of its own, where they stay as they are
    weights = {_OF_PEFT.sub(".", name): tensor for name, tensor in base.state_dict().items()}
    if record := base.record_of_weights(weights):
        write_json({"training": NOT_RECORDED, "base_model": record}, folder / "training_info.json")


def name_base_model(publication: Publication, base_model: str | None, api: HfApi) -> str:
    """Make an adapter name its base model by its repository, and record the commit at which it was found there.

    Returns
    -------
    str
        The repository and the commit, for the user.

    Raises
    ------
    ValueError
        When it is no adapter, or its base is not on the Hub, or is no model of this package.
    """
    if publication.kind != "adapter":
        raise ValueError(f"Only an adapter has a base model; this is a {publication.kind.replace('_', ' ')}.")
    config = publication.json("adapter_config.json")
    named = str(base_model or config.get("base_model_name_or_path") or "")
    if (Path(named).exists() and base_model is None) or named.count("/") != 1:
        raise _not_on_the_hub(named)
    commit = None
    with contextlib.suppress(
        RepositoryNotFoundError, ValueError
    ):  # the latter for what cannot be a name there
        commit = str(retried(lambda: api.repo_info(named), f"Looking at {named}").sha)
    if commit is None:
        raise _not_on_the_hub(named)
    model_type = _json_at(api, named, "config.json", commit).get("model_type")
    if model_type != "fmri_lm":
        raise ValueError(
            f"{named} is no fMRI language model (its config.json has the model type {model_type!r}): name the "
            "repository of the adapter's base model with --base-model (`base_model=`)."
        )
    config["base_model_name_or_path"] = named
    publication.set_json("adapter_config.json", dict(sorted(config.items())))
    training = publication.json("training_info.json") or {"training": NOT_RECORDED}
    base: dict[str, Any] = {"repository": named, "commit": commit}
    if is_declared(_json_at(api, named, "training_info.json", commit), "simulated"):
        base["simulated"] = True
    said = training.get("base_model")
    training["base_model"] = {**(said if isinstance(said, dict) else {}), **base}
    publication.set_json("training_info.json", training)
    return f"{named}, commit {commit}"


def name_repository_in_adapter(publication: Publication, repo_id: str) -> None:
    """Let the adapter beside the weights of a model name the repository that both go to.

    transformers takes the weights from the repository that an adapter names, also where they lie beside it.
    """
    if publication.kind != "adapter" and "adapter_config.json" in publication.files:
        config = publication.json("adapter_config.json") | {"base_model_name_or_path": repo_id}
        publication.set_json("adapter_config.json", dict(sorted(config.items())))


def _not_on_the_hub(named: str) -> ValueError:
    return ValueError(
        f"The adapter was trained on {Path(named).name or 'a model in memory'!r}, which is not a repository on "
        "the Hub: push the base model first, and name it with --base-model org/name (`base_model=`)."
    )


def _json_at(api: HfApi, repo_id: str, name: str, commit: str) -> dict[str, Any]:
    """A JSON file of a repository; empty when there is none."""
    try:
        path = retried(
            lambda: api.hf_hub_download(repo_id, name, revision=commit), f"Fetching {name} of {repo_id}"
        )
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        return {}
    except ValueError as error:
        raise HubAccessError(f"{name} of {repo_id} is not valid JSON; nothing was sent.") from error
