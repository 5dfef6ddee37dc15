"""What a folder holds, whether it is complete, and which of its files may be published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.config_safety import check_config_is_inert
from .publishable import PICKLE_SUFFIXES, check_content, is_left_behind, is_publishable

__all__ = ["Publication", "kind_of", "read_folder"]

MAX_FILE_BYTES = 5 * 10**9  # one file of an upload; larger ones are neither resumable nor pleasant to fetch

# kind: files that it must have (alternatives in a tuple), and how each is made
_SAVE_MODEL = "save it with `model.save_pretrained(folder)`"
_SAVE_PROCESSOR = "save it with `processor.save_pretrained(folder)`"
_REQUIRED: dict[str, dict[tuple[str, ...], str]] = {
    "fmri_lm": {
        ("config.json",): _SAVE_MODEL,
        ("model.safetensors", "model.safetensors.index.json"): _SAVE_MODEL,
        ("generation_config.json",): _SAVE_MODEL,
        ("processor_config.json",): _SAVE_PROCESSOR,
        ("tokenizer.json", "tokenizer_config.json"): _SAVE_PROCESSOR,
    },
    "fmri_tokenizer": {
        ("config.json",): _SAVE_MODEL,
        ("model.safetensors", "model.safetensors.index.json"): _SAVE_MODEL,
        ("preprocessor_config.json", "processor_config.json"): "save the feature extractor with "
        "`feature_extractor.save_pretrained(folder)`",
    },
    "adapter": {
        ("adapter_config.json",): _SAVE_MODEL,
        ("adapter_model.safetensors",): _SAVE_MODEL,
    },
    "processor": {("processor_config.json", "preprocessor_config.json"): _SAVE_PROCESSOR},
    "dataset": {},
}
# The files in which `auto_map` and `custom_pipelines` name code; ours are written anew with every push.
_NAME_OUR_CODE = ("config.json", "processor_config.json", "preprocessor_config.json")


@dataclass
class Publication:
    """What is published of a folder.

    Attributes
    ----------
    kind : {"fmri_lm", "fmri_tokenizer", "adapter", "processor", "dataset"}
    files : dict of str to Path or bytes
        Path in the repository -> local file, or content that replaces or joins the folder's own files.
    left_out : list of str
        Files of the folder that are not published: a Trainer's state, caches, hidden files, and all that does not
        belong to its kind.
    """

    kind: str
    files: dict[str, Path | bytes]
    left_out: list[str] = field(default_factory=list)

    @property
    def repo_type(self) -> str:
        return "dataset" if self.kind == "dataset" else "model"

    def text(self, name: str) -> str | None:
        """The text of a file, or None when there is no such file."""
        content = self.files.get(name)
        if content is None:
            return None
        return (content if isinstance(content, bytes) else content.read_bytes()).decode()

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file as a dict; empty when there is no such file."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is not valid JSON ({error}); save the folder again.") from error
        if not isinstance(value, dict):
            raise ValueError(f"{name} must hold a JSON object, found {type(value).__name__}.")
        return value

    def set_json(self, name: str, record: Any) -> None:
        """Put a JSON file into the publication, in the form in which it compares equal the next time."""
        self.files[name] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def read_folder(folder: str | Path, allow_incomplete: bool = False) -> Publication:
    """Look into a folder that is to be published, and refuse what must not be, or cannot be loaded by others.

    Parameters
    ----------
    folder : path
        As `save_pretrained` or a dataset export writes it.
    allow_incomplete : bool, default=False
        Accept a model without its processor or generation config: a part that joins others in its repository.

    Raises
    ------
    ValueError
        When it holds nothing that is known, files of a kind that can run code, weights that are cut short, or
        not everything that its kind needs. The message lists them and says what to do.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the folder that `save_pretrained` wrote.")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    seen = [name for name in names if not is_left_behind(name)]
    kind = kind_of(seen, root)
    pickles = [name for name in seen if name.lower().endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise ValueError(
            f"{root} holds {', '.join(pickles)}: files that can run code when they are opened are not published; "
            "expected safetensors. Save the weights again with `save_pretrained`, and delete these."
        )
    paths = {name: root / name for name in seen if is_publishable(kind, name)}
    _check_files(paths)
    publication = Publication(kind, {**paths}, [name for name in names if name not in paths])
    if kind != "dataset":
        _check_shards(root, publication)
        _check_configs(publication)
        if not allow_incomplete:
            _check_complete(root, publication)
    return publication


def kind_of(names: Iterable[str], root: Path | None = None, config: dict[str, Any] | None = None) -> str:
    """What files of these names make together.

    Parameters
    ----------
    names : iterable of str
    root : Path, optional
        The folder where they lie.
    config : dict, optional
        `config.json`, where it does not lie in a folder.
    """
    names = set(names)
    # a converted checkpoint may hold its adapter beside the weights: the model is what is loaded
    if "config.json" in names:
        if config is None:
            assert root is not None
            config = Publication("", {"config.json": root / "config.json"}).json("config.json")
        if config.get("model_type") in ("fmri_lm", "fmri_tokenizer"):
            return str(config["model_type"])
        if "adapter_config.json" not in names:
            raise ValueError(
                f"{(root or Path()) / 'config.json'} has the model type {config.get('model_type')!r}; expected "
                "'fmri_lm' or 'fmri_tokenizer'. Other models are published with `hf upload`."
            )
    if "adapter_config.json" in names:
        return "adapter"
    if "dataset_dict.json" in names or any(name.endswith((".parquet", ".arrow")) for name in names):
        return "dataset"
    if names & {"processor_config.json", "preprocessor_config.json"}:
        return "processor"
    raise ValueError(
        f"{root or 'The repository'} holds neither a model (config.json), an adapter (adapter_config.json), a "
        "processor (processor_config.json) nor a dataset (parquet or arrow files); "
        f"found {', '.join(sorted(names)[:5]) or 'no files'}."
    )


def _check_files(paths: Mapping[str, Path]) -> None:
    for name, path in paths.items():
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{name} has {path.stat().st_size / 1e9:.1f} GB; files of at most {MAX_FILE_BYTES / 1e9:.0f} GB are "
                "published. Save it again with `max_shard_size='2GB'`."
            )
        check_content(name, path)


def _check_shards(root: Path, publication: Publication) -> None:
    for name in (name for name in publication.files if name.endswith(".safetensors.index.json")):
        shards = set(publication.json(name).get("weight_map", {}).values())
        if missing := sorted(shards - set(publication.files)):
            raise ValueError(
                f"{name} lists {', '.join(missing)}, which {root} does not hold; save the model again."
            )


def _check_configs(publication: Publication) -> None:
    for name in publication.files:
        if not name.endswith("config.json"):
            continue
        config = publication.json(name)
        extractor = config.get("feature_extractor")
        if name == "processor_config.json" and isinstance(extractor, dict):
            # a processor names the class of its feature extractor a second time, inside; the push replaces both
            extractor = {key: value for key, value in extractor.items() if key != "auto_map"}
            check_config_is_inert(config | {"feature_extractor": extractor}, name)
        else:
            check_config_is_inert(config, name)
        for key in ("auto_map", "custom_pipelines"):
            foreign = re.findall(r'"([^"]*--[^"]*)"', json.dumps(config.get(key)))
            if foreign:
                raise ValueError(
                    f"{name}: `{key}` points at code of another repository ({', '.join(foreign)}); expected classes "
                    "in files of the same folder. Remove it: `fmri-lm push` adds the code that belongs to the model."
                )
            if config.get(key) and name not in _NAME_OUR_CODE:
                raise ValueError(
                    f"{name}: `{key}` names code ({json.dumps(config[key])}) that is not published with this model; "
                    "expected none. Remove it: what loads only with that code cannot be published here."
                )


def _check_complete(root: Path, publication: Publication) -> None:
    required = dict(_REQUIRED[publication.kind])
    if "FmriLMForSequenceClassification" in (publication.json("config.json").get("architectures") or ()):
        del required[("generation_config.json",)]  # it writes no text
    missing = [
        f"{' or '.join(names)} ({remedy})"
        for names, remedy in required.items()
        if not any(name in publication.files for name in names)
    ]
    if missing:
        raise ValueError(
            f"{root} is not complete: a {publication.kind.replace('_', ' ')} also needs {'; '.join(missing)}. "
            "To publish it as it is, as a part of a repository, use --allow-incomplete (`allow_incomplete=True`)."
        )
