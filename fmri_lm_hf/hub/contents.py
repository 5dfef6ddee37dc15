"""Select the files of a folder that may be published, and check that others can load them.

[`read_folder`] returns the [`Publication`] of a folder, or refuses it. Each kind of repository has a list of the files
that belong to it, so that a file of an unknown kind is not published. [`as_parquet`] turns a saved dataset into Parquet
shards that `load_dataset` finds by config and split.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.configuration_fmri_tokenizer import check_config_is_inert
from .privacy import is_text, png_chunks

if TYPE_CHECKING:
    from datasets import Dataset

MAX_FILE_BYTES = 5 * 10**9  # of one file; uploads of larger ones cannot be resumed

# ---- which files belong to which kind of repository

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack")

# A Trainer's state, caches, and half-written files. Most of them are no publishable files anyway; the list is here for
# those that would be refused as pickles, or that match by accident (`checkpoint-500/model.safetensors`).
_LEFT_BEHIND = re.compile(
    r"(^|/)(\.[^/]*|__pycache__|checkpoint-\d+|runs|logs|wandb|training_args\.bin|optimizer\.pt|scheduler\.pt"
    r"|scaler\.pt|rng_state[^/]*\.pth|trainer_state\.json|.*\.lock|.*\.tmp|cache-[^/]*\.arrow|.*\.tfevents\..*)(/|$)"
)
_PROSE = r"[\w.-]+\.(?:md|txt|cff|bib)|LICENSE|LICENCE|NOTICE|(?:[\w-]+/)?[\w.-]+\.png"
_TEXT_TOKENIZER = (
    r"(?:tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe)\.model"
)
_PROCESSOR = (
    rf"(?:processor|preprocessor)_config\.json|chat_template\.(?:jinja|json)"
    rf"|additional_chat_templates/[\w-]+\.jinja|{_TEXT_TOKENIZER}"
)
_RECORDS = r"(?:training_info|results)\.json"
_ADAPTER = r"adapter_config\.json|adapter_model\.safetensors"
_MODEL = (
    r"(?:config|generation_config)\.json|model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?"
    rf"|{_ADAPTER}|{_PROCESSOR}|{_RECORDS}"
)
_PUBLISHABLE = {
    kind: re.compile(f"(?:{pattern}|{_PROSE})")
    for kind, pattern in {
        "fmri_lm": _MODEL,
        "fmri_tokenizer": _MODEL,
        "adapter": rf"{_ADAPTER}|{_PROCESSOR}|{_RECORDS}",
        "processor": _PROCESSOR,
        "dataset": r"(?:[\w.=-]+/)*[\w.=-]+\.(?:parquet|arrow)|(?:[\w.=-]+/)*(?:dataset_info|state|dataset_dict)\.json"
        r"|(?:atlas|provenance|splits|failures|reference/reference)\.json|reference/reference\.safetensors",
    }.items()
}


# The files that each kind must have, and the object that saves them.
_WEIGHTS = "model.safetensors or model.safetensors.index.json"
_REQUIRED = {
    "fmri_lm": {
        "config.json": "model",
        _WEIGHTS: "model",
        "generation_config.json": "model",
        "processor_config.json": "processor",
        "tokenizer.json or tokenizer_config.json": "processor",
    },
    "fmri_tokenizer": {
        "config.json": "model",
        _WEIGHTS: "model",
        "preprocessor_config.json or processor_config.json": "feature_extractor",
    },
    "adapter": {"adapter_config.json": "model", "adapter_model.safetensors": "model"},
    "processor": {"processor_config.json or preprocessor_config.json": "processor"},
}
# `auto_map` and `custom_pipelines` may stand in these files: every push replaces them by ours.
_MAY_NAME_CODE = ("config.json", "processor_config.json", "preprocessor_config.json")


@dataclass
class Publication:
    """The files of a folder that are published.

    Attributes
    ----------
    kind : {"fmri_lm", "fmri_tokenizer", "adapter", "processor", "dataset"}
    files : dict of str to Path or bytes
        Path in the repository -> local file, or content that replaces a file of the folder or is added to it.
    left_out : list of str
        Files of the folder that are not published: a Trainer's state, caches, hidden files, and files that do not
        belong to the kind of repository.
    """

    kind: str
    files: dict[str, Path | bytes]
    left_out: list[str] = field(default_factory=list)

    @property
    def repo_type(self) -> str:
        return "dataset" if self.kind == "dataset" else "model"

    def text(self, name: str) -> str | None:
        """Return the text of a file, or None when there is no such file."""
        content = self.files.get(name)
        if content is None:
            return None
        return (content if isinstance(content, bytes) else content.read_bytes()).decode()

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; empty when there is no such file."""
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
        """Put a JSON file into the publication."""
        self.files[name] = to_json(record)


def to_json(record: Any) -> bytes:
    """Serialise a record, always in the same form: an unchanged record is not uploaded again."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


# ---- reading a folder


def read_folder(folder: str | Path, allow_incomplete: bool = False) -> Publication:
    """Read a folder that is to be published; refuse one that must not be published or that others could not load.

    Parameters
    ----------
    folder : path
        As `save_pretrained` or a dataset export writes it.
    allow_incomplete : bool, default=False
        Accept a model without its processor or generation config, to be added to a repository that has them.

    Raises
    ------
    ValueError
        When the folder is of no known kind or incomplete, or holds files that can run code or are damaged. The message
        lists the files and says what to do.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give the folder that `save_pretrained` wrote.")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    paths: dict[str, Path | bytes] = {name: root / name for name in names if not is_left_behind(name)}
    kind = kind_of(paths, Publication("", paths).json("config.json"), str(root))
    if pickles := [name for name in paths if name.lower().endswith(PICKLE_SUFFIXES)]:
        raise ValueError(
            f"{root} holds {', '.join(pickles)}: files that can run code when they are opened are not published; "
            "expected safetensors. Save the weights again with `save_pretrained`, and delete these files."
        )
    files = {name: path for name, path in paths.items() if _PUBLISHABLE[kind].fullmatch(name)}
    publication = Publication(kind, files, [name for name in names if name not in files])
    for name in files:
        _check_content(name, root / name)
    if kind != "dataset":
        _check_shards(root, publication)
        _check_configs(publication)
        if not allow_incomplete:
            _check_complete(root, publication)
    return publication


def kind_of(names: Iterable[str], config: Mapping[str, Any], place: str = "The repository") -> str:
    """Return the kind of a repository, from the names of its files.

    Parameters
    ----------
    names : iterable of str
    config : mapping
        Its `config.json`; empty where there is none.
    place : str
        Folder of the files, for error messages.
    """
    names = set(names)
    # First the model: a converted checkpoint may hold its adapter next to the weights.
    if "config.json" in names:
        if config.get("model_type") in ("fmri_lm", "fmri_tokenizer"):
            return str(config["model_type"])
        if "adapter_config.json" not in names:
            raise ValueError(
                f"{place}: config.json has the model type {config.get('model_type')!r}; expected 'fmri_lm' or "
                "'fmri_tokenizer'. Other models are published with `hf upload`."
            )
    if "adapter_config.json" in names:
        return "adapter"
    if any(name.endswith((".parquet", ".arrow")) for name in names):
        return "dataset"
    if names & {"processor_config.json", "preprocessor_config.json"}:
        return "processor"
    raise ValueError(
        f"{place} holds neither a model (config.json), an adapter (adapter_config.json), a processor "
        "(processor_config.json) nor a dataset (parquet or arrow files); "
        f"found {', '.join(sorted(names)[:5]) or 'no files'}."
    )


def is_left_behind(name: str) -> bool:
    """Return whether a file is a Trainer's state, a cache, hidden, or half written."""
    return bool(_LEFT_BEHIND.search(name))


def _check_content(name: str, path: Path) -> None:
    """Refuse a file that is too large, or whose content does not fit its suffix."""
    suffix, size = Path(name).suffix, path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{name} has {size / 1e9:.1f} GB; files of at most {MAX_FILE_BYTES / 1e9:.0f} GB are published. Save it "
            "again with `max_shard_size='2GB'`."
        )
    if suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy"):
                return
        except SafetensorError as error:
            raise ValueError(
                f"{name} cannot be read as safetensors ({error}): it is cut short or corrupt; save it again."
            ) from error
    with path.open("rb") as file:
        begin = file.read(8)
        file.seek(-min(4, size), os.SEEK_END)
        end = file.read()
    if suffix == ".parquet":
        is_right = begin.startswith(b"PAR1") and end == b"PAR1"
    elif suffix == ".arrow":
        is_right = begin.startswith((b"ARROW1", b"\xff\xff\xff\xff"))  # the file format, and the stream of `datasets`
    elif suffix == ".png":
        is_right = begin == b"\x89PNG\r\n\x1a\n" and all(kind for kind, _ in png_chunks(path.read_bytes()))
    elif suffix == ".model" and begin.startswith(b"\n"):
        is_right = True  # of sentencepiece; others hold text
    else:
        # A pickle or an archive under a harmless name is not text. The whole file is read: behind a few kilobytes of
        # prose there may be anything.
        is_right = is_text(path.read_bytes())
    if not is_right:
        raise ValueError(
            f"{name} does not hold what its name says: expected {suffix.lstrip('.') or 'text'}, found other bytes "
            f"({begin!r}). Files of unknown content are not published; remove it, or save it again."
        )


def _check_shards(root: Path, publication: Publication) -> None:
    """Refuse weights of which a shard is missing."""
    for name in publication.files:
        if name.endswith(".safetensors.index.json"):
            shards = set(publication.json(name).get("weight_map", {}).values())
            if missing := sorted(shards - set(publication.files)):
                raise ValueError(
                    f"{name} lists {', '.join(missing)}, which {root} does not hold; save the model again."
                )


def _check_configs(publication: Publication) -> None:
    """Refuse configurations that would load code or kernels of other repositories."""
    for name in publication.files:
        if not name.endswith("config.json"):
            continue
        config = publication.json(name)
        inner = config.get("feature_extractor")
        if name == "processor_config.json" and isinstance(inner, dict):
            # A processor names the class of its feature extractor a second time, inside; the push replaces both.
            config["feature_extractor"] = {key: value for key, value in inner.items() if key != "auto_map"}
        check_config_is_inert(config, name)
        for key in ("auto_map", "custom_pipelines"):
            # transformers loads "org/name--module.Class" from that repository at its newest commit: its owner could
            # change the code that runs on the machine of everyone who loads our model.
            foreign = re.findall(r'"([^"]*--[^"]*)"', json.dumps(config.get(key)))
            if foreign:
                raise ValueError(
                    f"{name}: `{key}` points at code of another repository ({', '.join(foreign)}); expected classes "
                    "in files of the same folder. Remove it: `fmri-lm push` adds the code that belongs to the model."
                )
            if config.get(key) and name not in _MAY_NAME_CODE:
                raise ValueError(
                    f"{name}: `{key}` names code ({json.dumps(config[key])}) that is not published with this model; "
                    "expected none. Remove it: a model that needs this code to load cannot be published here."
                )


def _check_complete(root: Path, publication: Publication) -> None:
    """Refuse a folder that lacks files its kind needs; say which object saves them."""
    required = dict(_REQUIRED[publication.kind])
    if "FmriLMForSequenceClassification" in (publication.json("config.json").get("architectures") or ()):
        del required["generation_config.json"]  # it generates no text
    missing = [
        f"{names} (save it with `{saved}.save_pretrained(folder)`)"
        for names, saved in required.items()
        if publication.files.keys().isdisjoint(names.split(" or "))
    ]
    if missing:
        raise ValueError(
            f"{root} is not complete: a {publication.kind.replace('_', ' ')} also needs {'; '.join(missing)}. "
            "To add it to a repository that has the rest, use --allow-incomplete (`allow_incomplete=True`)."
        )


# ---- datasets

_SHARD = re.compile(r"(?P<folder>(?:[^/]+/)*)(?P<split>[^/]+?)-\d+(?:-of-\d+)?\.parquet")


def as_parquet(publication: Publication, folder: Path, staging: Path, max_shard_size: str | int) -> None:
    """Replace the Arrow files of `Dataset.save_to_disk` in a publication by Parquet shards.

    Files that belong to no split (the atlas, the split manifest, a card) and Parquet files stay as they are. A
    dataset that was loaded as one split, or one config, of a larger one keeps the name of that split or config.

    Parameters
    ----------
    publication : Publication
        Of a dataset; changed in place.
    folder : Path
        Folder of the dataset.
    staging : Path
        Folder for the shards.
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
        # `load_dataset("parquet", data_files=...)` names configs "default-<hash>", which is not a name to publish
        is_named = re.fullmatch(r"(?!default(-|$))[\w.-]+", config)
        place = f"data/{config}" if is_named else "data"
        n_shards = _n_shards(dataset, max_shard_size)
        for index in range(n_shards):
            name = f"{split}-{index:05d}-of-{n_shards:05d}.parquet"
            dataset.shard(n_shards, index, contiguous=True).to_parquet(staging / name)
            publication.files[f"{place}/{name}"] = staging / name


def shard_group(name: str) -> tuple[str, str] | None:
    """Return folder and split of a Parquet shard, from its name; None for other files.

    `train.parquet` and `train-00000-of-00002.parquet` are of one group: one beside the other would double the rows.
    """
    match = _SHARD.fullmatch(name)
    if match:
        return match["folder"].rstrip("/"), match["split"]
    return (name.rpartition("/")[0], Path(name).stem) if name.endswith(".parquet") else None


def data_files(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the configs and splits that shards belong to, in the form of a card's `configs`.

    Files outside of `data/` and files without a number are left to the rules of `load_dataset`.
    """
    configs: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        if match and re.fullmatch(r"data/(?:[^/]+/)?", match["folder"]):
            config = match["folder"].split("/")[1] or "default"
            configs.setdefault(config, {})[match["split"]] = f"{match['folder']}{match['split']}-*.parquet"
    return [
        {"config_name": config, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
        for config, splits in configs.items()
    ]


def parquet_files(publication: Publication) -> list[Path]:
    """Return the local Parquet files of a publication."""
    files = publication.files.items()
    return [path for name, path in files if name.endswith(".parquet") and isinstance(path, Path)]


def _split_name(dataset: Dataset) -> str:
    """Return the split that a dataset was loaded as; "train" for none, and for a part such as `train[:10%]`."""
    name = str(dataset.split) if dataset.split is not None else ""
    return name if re.fullmatch(r"\w+(\.\w+)*", name) else "train"


def _n_shards(dataset: Dataset, max_shard_size: str | int) -> int:
    from datasets.utils.py_utils import convert_file_size_to_int

    # `select` and `shuffle` keep the whole table and an index: without the share of its rows, ten scans of a million
    # would go into thousands of shards, most of them empty
    n_bytes = dataset.data.nbytes * len(dataset) // max(dataset.data.num_rows, 1)
    return max(1, min(-(-n_bytes // convert_file_size_to_int(max_shard_size)), len(dataset)))
