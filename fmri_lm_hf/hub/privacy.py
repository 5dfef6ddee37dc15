"""What must never be published: tokens, keys, local paths and the name of the local user."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["find_private"]

_SECRETS = {
    "a Hugging Face token": re.compile(r"\b(?:hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{20,}"),
    "an access key": re.compile(
        r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
        r"|sk-[A-Za-z0-9_-]{32,}|xox[abprs]-[\w-]{10,})"
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
# An absolute path below a folder that only exists on somebody's machine. What comes before it must not make it
# part of a URL or of a relative path.
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])(?:file://)?/(?:home|Users|root|tmp|mnt|media|scratch|data|private|work|workspace|cluster|gpfs"
    r"|lustre|nfs|net|vol|Volumes|storage|projects?|groups?|beegfs|dbfs|content|kaggle|opt|srv|var)"
    r"/[\w.@+~-]+(?:/[\w.@+~-]+)*/?"
    r"|\b[A-Za-z]:\\{1,2}(?:Users|Documents and Settings)\\{1,2}[^\s\"'\\]+"
)
# Names of accounts that name nobody, and are ordinary words elsewhere.
_SHARED_ACCOUNTS = {
    "root",
    "user",
    "admin",
    "ubuntu",
    "runner",
    "jovyan",
    "nobody",
    "docker",
    "python",
    "test",
}
# A vocabulary holds every word, user names and paths among them; prose may name its authors.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_PROSE = (".md", ".txt", ".rst", ".py", ".jinja")


def find_private(files: Mapping[str, Path | bytes], namespace: str = "") -> list[str]:
    """Look for secrets in files that are about to be published.

    Parameters
    ----------
    files : mapping of str to Path or bytes
        Path in the repository -> local file or content. Text of any kind, the strings of Parquet columns and the
        header of safetensors are read.
    namespace : str, default=""
        The account on the Hub that is published to: the same name as local user is public already.

    Returns
    -------
    findings : list of str
        One line a finding: where, what, and the text found (tokens and keys only by their first letters).
    """
    patterns = dict(_SECRETS)
    token = _own_token()
    if token:
        patterns["your own Hugging Face token"] = re.compile(re.escape(token))
    patterns["a local path"] = _LOCAL_PATH
    home = str(Path.home())
    if len(home) > len("/root"):
        patterns["your home folder"] = re.compile(re.escape(home) + r"\b")
    user = _user_name()
    own_name = None
    if user and user.lower() not in (*_SHARED_ACCOUNTS, namespace.lower()) and len(user) > 2:
        own_name = re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(user)}(?![A-Za-z0-9_-])")

    findings = []
    for name, content in files.items():
        is_vocabulary = name.endswith(_VOCABULARIES)
        for place, text in _texts(name, content):
            for what, pattern in patterns.items():
                if is_vocabulary and pattern is _LOCAL_PATH:
                    continue
                if match := pattern.search(text):
                    shown = match[0] if "path" in what or "folder" in what else match[0][:6] + "..."
                    findings.append(f"{place}{_line(text, match.start())}: {what} ({shown})")
                    break
            else:
                is_free_text = is_vocabulary or name.endswith(_PROSE)
                if own_name and not is_free_text and (match := own_name.search(text)):
                    line = _line(text, match.start())
                    findings.append(f"{place}{line}: the name of the local user ({match[0]})")
    return findings


def _texts(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """The readable text of a file, with the place it stands at."""
    if isinstance(content, Path) and name.endswith(".parquet"):
        yield from _parquet_texts(name, content)
    elif isinstance(content, Path) and name.endswith(".safetensors"):
        with content.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
        yield f"{name} (metadata)", json.dumps(json.loads(header).get("__metadata__", {}))
    else:
        # Latin-1 maps every byte, so that text inside a binary file is seen too.
        raw = content.read_bytes() if isinstance(content, Path) else content
        yield name, raw.decode("utf-8" if b"\0" not in raw[:8192] else "latin-1", errors="replace")


def _parquet_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        yield f"{name} (metadata)", b"\n".join(metadata.values()).decode("utf-8", errors="replace")
        columns = [field.name for field in file.schema_arrow if _holds_text(field.type)]
        for batch in file.iter_batches(batch_size=256, columns=columns) if columns else ():
            for column in columns:
                yield f"{name} (column {column})", json.dumps(batch.column(column).to_pylist(), default=str)


def _holds_text(kind) -> bool:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields)) if kind.num_fields else False


def _line(text: str, position: int) -> str:
    return f" line {text.count(chr(10), 0, position) + 1}" if "\n" in text else ""


def _own_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _user_name() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no account of that number, as in some containers
        return None
