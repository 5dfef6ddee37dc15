"""Which files of a folder may be published: a list for each kind, and what is told about all others.

A file that is not on the list stays where it is, whatever it holds: a folder gathers logs, tables and notes that
nobody meant to show. What may run code when it is opened is refused aloud, since it may be the weights themselves.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .readable import is_text, png_chunks

__all__ = ["PICKLE_SUFFIXES", "check_content", "is_left_behind", "is_publishable"]

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack")

# What a Trainer leaves behind to resume from, caches, and what is half written.
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


def is_left_behind(name: str) -> bool:
    """Whether a file is a Trainer's state, a cache, hidden, or half written."""
    return bool(_LEFT_BEHIND.search(name))


def is_publishable(kind: str, name: str) -> bool:
    """Whether a file of this name belongs to a publication of this kind."""
    return _PUBLISHABLE[kind].fullmatch(name) is not None


def check_content(name: str, content: Path) -> None:
    """Refuse a file whose content is not what its name says.

    Raises
    ------
    ValueError
        For text that is not UTF-8 (a pickle or an archive under another name), for images, tables and vocabularies
        that do not begin, or do not end, as such, and for weights that cannot be read as safetensors.
    """
    suffix = Path(name).suffix
    if suffix == ".safetensors":
        _check_safetensors(name, content)
        return
    with content.open("rb") as file:
        begin = file.read(8)
        file.seek(-min(4, content.stat().st_size), os.SEEK_END)
        end = file.read()
    if suffix == ".parquet":
        is_right = begin.startswith(b"PAR1") and end == b"PAR1"
    elif suffix == ".arrow":
        is_right = begin.startswith((b"ARROW1", b"\xff\xff\xff\xff"))
    elif suffix == ".png":
        is_right = begin == b"\x89PNG\r\n\x1a\n" and all(kind for kind, _ in png_chunks(content.read_bytes()))
    elif suffix == ".model" and begin.startswith(b"\n"):
        is_right = True  # of sentencepiece; others hold text
    else:
        is_right = is_text(content.read_bytes())
    if not is_right:
        raise ValueError(
            f"{name} does not hold what its name says: expected {suffix.lstrip('.') or 'text'}, found other bytes "
            f"({begin!r}). Files of unknown content are not published; remove it, or save it again."
        )


def _check_safetensors(name: str, content: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(content, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{name} cannot be read as safetensors ({error}): it is cut short or corrupt; save it again."
        ) from error
