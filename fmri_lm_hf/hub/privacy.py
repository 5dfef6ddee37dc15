"""Find private text before it is published: tokens, keys, local paths, and names of the local user and machine.

[`find_private`] searches every text of the files that are about to be sent for patterns of secrets; [`texts_of`] yields
these texts, also those in Parquet columns, headers of weights and the metadata of images. A push sends nothing while
there is a finding, so a pattern that matches ordinary prose does as much harm as one that misses a key:
tests/hub/test_privacy.py has examples of both.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# ---- patterns


class _Secret(NamedTuple):
    """A pattern, and lower-case words of which a matching text contains at least one.

    Looking for words takes a hundredth of the time of a pattern, and most texts contain none of them. A hint that is
    missing makes the pattern blind: whoever adds an alternative to a pattern adds its word here.
    """

    pattern: re.Pattern[str]
    hints: tuple[str, ...]


def _secret(pattern: str, hints: str, ignore_case: bool = False) -> _Secret:
    return _Secret(re.compile(pattern, re.IGNORECASE if ignore_case else 0), tuple(hints.lower().split()))


# How the keys and tokens of services begin; at least 16 letters, digits and hyphens follow.
_BEGINNINGS = """
    AKIA ASIA AIza ya29. GOCSPX- ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- glrt- gldt- xapp- sk-proj- sk-ant-
    sk_live_ rk_live_ SG. gsk_ xai- pplx- nvapi- r8_ npm_ pypi- dckr_pat_ dop_v1_ hvs. hvb. lin_api_ PMAK- figd_
    shpat_ shpss_ ntn_ AGE-SECRET-KEY-1
"""
_ANY_BEGINNING = "|".join(map(re.escape, _BEGINNINGS.split()))
_NEW = r"(?<![A-Za-z0-9])"  # not `\b`, for which an underscore is a letter: file names join words by underscores
_IS = r"[\"']?[ \t]*[:=][ \t]*[\"']?"  # between a name and its value
_VALUE = r"(?!None\b|null\b|true\b|false\b|[\[$])[^\s\"'<>{}]"
_OPTION = r"(?:=|\s+(?:\w+: )?)[\"']?(?!-)"  # between an option and its value, perhaps the next item of a list
_RANDOM = r"(?=[A-Za-z_+/-]*\d)[\w+/-]{16,}"  # a value that nobody would write by hand
_SECRETS = {
    "a Hugging Face token": _secret(
        rf"hf_[A-Za-z0-9]{{30,}}|{_NEW}(?:hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{{20,}}", "hf_ api_org_"
    ),
    "an access key": _secret(
        rf"{_NEW}(?:{_ANY_BEGINNING})[A-Za-z0-9_-]{{16,}}"
        rf"|{_NEW}(?:sk-[A-Za-z0-9_-]{{32,}}|xox[abeprs]-[\w-]{{10,}}|dapi[0-9a-f]{{32}}|\d{{8,10}}:AA[\w-]{{30,}})"
        r"|hooks\.slack\.com/services/[\w/]{20,}|discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}"
        r"|\blogin[ \t]+(?:--\S+[ \t]+)*[0-9a-f]{40}\b",
        _BEGINNINGS + "sk- xox dapi :aa hooks.slack api/webhooks/ login",
    ),
    # three parts, or a long one; `eyJ` is how `{"` begins in base64
    "a web token": _secret(rf"{_NEW}eyJ(?:[\w-]{{10,}}\.eyJ[\w-]{{10,}}\.[\w-]{{10,}}|[\w-]{{60,}})", "eyj"),
    # the last alternative is a PEM header in base64
    "a private key": _secret(
        r"-----BEGIN [A-Z ]*PRIVATE KEY|PuTTY-User-Key-File|LS0tLS1CRUdJTiB(?:SU0E|QUklW|PUEVO|FQyBQ)",
        "-----begin putty-user-key ls0tls1crudjtib",
    ),
    "a URL with credentials": _secret(
        r"\b[a-z][a-z0-9+.-]*://(?!git@)[^\s/?#@\"'<>]+@[\w.-]+", "://", ignore_case=True
    ),
    "a signed URL": _secret(
        r"[?&#;][\w-]*(?:token|key|signature|sig)=[\w%.~+/-]{8,}", "token= key= signature= sig=", ignore_case=True
    ),
    "a password": _secret(
        rf"(?:passw(?:or)?d|passphrase|[_;]pwd){_IS}{_VALUE}{{6,}}"
        rf"|--[\w-]*password{_OPTION}{_VALUE}{{8,}}|\blogin[ \t]+\S+[ \t]+password[ \t]+\S+",
        "passw passphrase pwd",
        ignore_case=True,
    ),
    "a secret key": _secret(
        rf"(?:secret|secret[_-]?key|(?:api|access|account|private)[_-]?key){_IS}{_VALUE}{{8,}}"
        rf"|--[\w-]*(?:secret|api-key){_OPTION}{_VALUE}{{8,}}|(?<![\w-])[\"']?key{_IS}[0-9a-f]{{32}}",
        """secret api_key api-key apikey access account private key: key" key=""",
        ignore_case=True,
    ),
    "a token": _secret(
        rf"(?:access|auth|refresh|private|session|hub)[_-]?token{_IS}{_VALUE}{{8,}}"
        rf"|(?<![\w-])_?(?:token|auth){_IS}{_RANDOM}|--[\w-]*token{_OPTION}{_VALUE}{{8,}}"
        rf"|\bauthorization{_IS}(?:basic|bearer|digest|token)[ \t]+\S{{8,}}|\bbearer[ \t]+{_RANDOM}",
        """token auth: auth" auth= authorization bearer""",
        ignore_case=True,
    ),
    "a login": _secret(r"\bcurl\b.*[ \t](?:-u|--user)[ =]?[^\s:]+:\S+", "curl", ignore_case=True),
}
# An absolute path tells about somebody's machine, except for the folders that every machine has.
_FOLDERS_OF_EVERY_MACHINE = (
    r"usr/(?:bin|include|lib|lib64|libexec|local|sbin|share|src)|etc|dev(?!/shm)|proc|sys|s?bin|lib|lib64"
)
_PAGES_OF_THE_HUB = "datasets|spaces|docs|papers|collections"  # to which cards link as `](/datasets/...`
_LOCAL_PATH = _secret(
    rf"(?<![\w./~)}}-])/(?!/)(?!(?:{_FOLDERS_OF_EVERY_MACHINE})/)(?!(?<=\]\(/)(?:{_PAGES_OF_THE_HUB})/)"
    r"\d*[^\W\d][\w.@+~-]*(?:/[\w.@+~-]+)+/?"
    r"|(?<=-[A-Za-z])(?<=\s-[A-Za-z])/[\w.@+~-]+(?:/[\w.@+~-]+)+"
    r"|\bfile:/{2,3}[\w.@+~-]+(?:/[\w.@+~-]+)+"
    r"|\b(?:nfs|smb|cifs|afp|sftp|ssh|scp|hdfs)://(?!git@)[\w.@:+~-]+(?:/[\w.@+~-]+)+"
    r"|(?<![\w.%-])%2[Ff][^\W\d][\w.-]*(?:%2[Ff][\w.@+~-]+)+"
    r"|(?<![\w./~-])(?:home|Users)/[\w.@+-]+/[\w.@+-]+"
    r"|(?<![\w/])~[a-z_][\w.-]*/[\w.@+~-]+"
    r"|\b[A-Za-z]:(?:\\{1,2}|/(?!/))[\w .@+~-]+(?:[\\/]+[\w.@+~-]+)+"
    r"|(?<![\\\w])\\{2,4}[\w.$-]{2,}\\{1,2}[\w.$-]+",
    "/ \\ %2f",
)
_SECRET_VARIABLE = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)$")  # names of environment variables
_SECRET_LENGTH = 12  # shorter values may be words
_MAIL = _secret(r"\b(?!git@)[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b", "@", ignore_case=True)
# Accounts that identify nobody, and whose names are ordinary words.
_SHARED_ACCOUNTS = """
    root user admin ubuntu runner jovyan nobody docker python test data model train main home debian app build agent
"""
# A vocabulary contains every word, user names and pieces of paths among them; prose may name its authors.
_WORDS_OF_VOCABULARIES = ("a local path", "a password", "a secret key", "a token")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", ".model")
_PROSE = (
    *(".md", ".txt", ".rst", ".py", ".jinja", ".cff", ".bib", "LICENSE", "LICENCE", "NOTICE"),
    *("commit message", "commit description"),
)


def find_private(files: Mapping[str, Path | bytes], namespace: str = "") -> list[str]:
    """Find secrets in files that are about to be published, and in their names.

    Parameters
    ----------
    files : mapping of str to Path or bytes
        Path in the repository -> local file or content. All parts that can contain text are read.
    namespace : str, default=""
        The account on the Hub that is published to. A local user of this name is public already.

    Returns
    -------
    findings : list of str
        One line each: file and line, kind of secret, and the text found (only the first letters of tokens and keys).
    """
    secrets, names = _secret_patterns(), _own_names(namespace)
    own_names = {what: _word(name, "A-Za-z0-9_-") for what, name in names.items()}
    # File names join words by hyphens and underscores, which belong to the word in a text: `jdoe_notes.md` names the
    # user jdoe, while `max_length` in a text does not name a user max.
    own_names_in_files = {what: _word(name, "A-Za-z0-9") for what, name in names.items()}
    findings = []
    for name, content in files.items():
        if match := _first_match(name, secrets | own_names_in_files):
            findings.append(f"the name of {name!r}: {match[0]}")
        patterns = secrets
        if name.endswith(_VOCABULARIES):
            patterns = {what: secret for what, secret in secrets.items() if what not in _WORDS_OF_VOCABULARIES}
        elif not name.endswith(_PROSE):
            patterns = {**secrets, **own_names, "a mail address": _MAIL}
        for place, text in texts_of(name, content):
            if match := _first_match(text, patterns):
                line = f" line {match[1]}" if "\n" in text else ""
                findings.append(f"{place}{line}: {match[0]}")
    return findings


def _first_match(text: str, patterns: Mapping[str, _Secret]) -> tuple[str, int] | None:
    """Return the first finding, in the order of the patterns, and the line of the text that it is in."""
    # One form for letters that have several: an é may be one character, or an e and an accent. Positions shift, so
    # lines are counted in this form of the text.
    text = unicodedata.normalize("NFKC", text)
    lowered = text.lower()
    for what, (pattern, hints) in patterns.items():
        if any(hint in lowered for hint in hints) and (match := pattern.search(text)):
            is_shown = what in ("a local path", "your home folder", "a mail address") or "name of" in what
            shown = match[0] if is_shown else match[0][:6] + "..."
            return f"{what} ({shown})", text.count("\n", 0, match.start()) + 1
    return None


def _secret_patterns() -> dict[str, _Secret]:
    """Return the patterns of what is secret in every file."""
    from huggingface_hub import get_token

    secrets = dict(_SECRETS)
    token = get_token()
    if token:
        secrets = {"your own Hugging Face token": _literal(token), **secrets}
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SECRET_LENGTH and value != token:
            secrets[f"the value of ${name}"] = _literal(value)
    secrets["a local path"] = _LOCAL_PATH
    home = str(Path.home())
    if len(home) > len("/root"):  # which names nobody
        secrets["your home folder"] = _literal(home, after=r"\b")
    return secrets


def _own_names(namespace: str) -> dict[str, str]:
    """Return the names of this user and machine, which prose may mention."""
    names = {}
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no account of that number, as in some containers
        user = ""
    if len(user) > 2 and user.lower() not in (*_SHARED_ACCOUNTS.split(), namespace.lower()):
        names["the name of the local user"] = user
    host = socket.gethostname().split(".")[0]
    if len(host) > 3 and re.search(r"[\d-]", host):  # others are ordinary words
        names["the name of this machine"] = host
    return names


def _word(name: str, letters: str) -> _Secret:
    return _literal(name, rf"(?<![{letters}])", rf"(?![{letters}])", re.IGNORECASE)


def _literal(text: str, before: str = "", after: str = "", flags: int = 0) -> _Secret:
    text = unicodedata.normalize("NFKC", text)  # as the texts that are searched
    return _Secret(re.compile(before + re.escape(text) + after, flags), (text.lower(),))


# ---- texts in files

# Beginnings of bytes that cannot be searched, or that may run code when they are opened.
_PACKED = {
    "an archive or compressed data": re.compile(
        rb"\x1f\x8b\x08|PK\x03\x04|BZh[1-9]1AY|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf"
    ),
    "a pickle": re.compile(rb"\x80[\x02-\x05].*\.\Z", re.DOTALL),
    "an array file": re.compile(rb"\x93NUMPY|\x89HDF"),
}
_MAX_INFLATED = 2**20  # bytes of a chunk of a PNG


def texts_of(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """Yield the texts in a file as pairs of place and text.

    JSON is read value by value, also inside of strings; Parquet files column by column, of any type; weights by their
    header and the byte tensors that are text; images without their pixels.

    Parameters
    ----------
    name : str
        Path in the repository; its suffix says how to read it.
    content : Path or bytes

    Raises
    ------
    ValueError
        When a column holds archives or pickles.
    """
    suffix = Path(name).suffix
    if suffix == ".parquet" and isinstance(content, Path):
        yield from _parquet_texts(name, content)
    elif suffix == ".safetensors" and isinstance(content, Path):
        yield from _safetensors_texts(name, content)
    else:
        raw = content.read_bytes() if isinstance(content, Path) else content
        if suffix == ".png":
            yield from _png_texts(name, raw)
        else:
            yield name, "\n".join(_json_lines(_as_text(raw)))


def is_text(raw: bytes) -> bool:
    """Return whether bytes are UTF-8 without the zeros of binary files."""
    try:
        return "\0" not in raw.decode("utf-8")
    except UnicodeDecodeError:
        return False


def png_chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of each chunk of a PNG; kind `b""` for bytes behind its end."""
    position, kind = 8, b""
    while kind != b"IEND" and len(raw) >= position + 12:
        kind, begin = raw[position + 4 : position + 8], position + 8
        position = begin + int.from_bytes(raw[position : position + 4], "big") + 4
        yield kind, raw[begin : position - 4]
    if raw[position:] or kind != b"IEND":
        yield b"", raw[position:]


class _Object(list):
    """The pairs of a JSON object. A dict would drop the first of two equal names, and the secret in it."""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        return None


def _json_lines(record: Any, key: str = "") -> Iterator[str]:
    """Yield a record value by value, since escapes of JSON (such as `\\\\n` behind a colon) hide or imitate paths."""
    if isinstance(record, _Object):
        for name, value in record:
            yield from _json_lines(value, str(name))
            if isinstance(value, list):
                yield str(name)
    elif isinstance(record, list):
        for value in record:
            yield from _json_lines(value, key)
    elif isinstance(record, str) and record.lstrip()[:1] in ("{", "[", '"') and (inner := _parsed(record)):
        yield from _json_lines(inner, key)
    else:
        yield f"{key}: {record}" if key else str(record)


def _png_texts(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    for kind, data in png_chunks(raw):
        if kind != b"IDAT":  # text chunks, EXIF, profiles, private chunks: everything but the pixels
            place = f"{name} ({kind.decode('latin-1') or 'behind its end'})"
            yield place, data.decode("latin-1")
            # Compressed text: zlib streams begin with an x. Where one starts depends on the kind of chunk, and private
            # chunks follow no rule, so every x is tried.
            for match in re.finditer(b"x", data):
                try:
                    inflated = zlib.decompressobj().decompress(data[match.start() :], _MAX_INFLATED)
                except zlib.error:
                    continue
                yield place, _as_text(inflated)


def _safetensors_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header = file.read(begin - 8)
        yield f"{name} (metadata)", "\n".join(_json_lines(_as_text(header)))
        for tensor, entry in json.loads(header).items():
            if entry.get("dtype") in ("U8", "I8"):
                start, end = entry["data_offsets"]
                file.seek(begin + start)
                raw = file.read(end - start).rstrip(b"\0")
                if is_text(raw):
                    yield f"{name} (tensor {tensor})", raw.decode()


def _parquet_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        metadata = {**(file.metadata.metadata or {}), **(schema.metadata or {})}
        yield f"{name} (metadata)", "\n".join(_metadata_lines(metadata))
        yield f"{name} (columns)", "\n".join(line for field in schema for line in _field_lines(field))
        columns = [field.name for field in schema if _may_hold_text(field.type)]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                place = f"{name} (column {column})"
                yield place, "\n".join(_json_lines(_plain(values.to_pylist(), place)))


def _metadata_lines(metadata: Mapping[bytes, bytes]) -> Iterator[str]:
    for item in metadata.items():
        for part in item:
            yield from _json_lines(_as_text(part))


def _field_lines(field: Any) -> Iterator[str]:
    yield f"{field.name}: {field.type}"
    yield from _metadata_lines(field.metadata or {})
    for number in range(field.type.num_fields):
        yield from _field_lines(field.type.field(number))


def _may_hold_text(kind: Any) -> bool:
    """Return whether values of an Arrow type can be text: all but numbers of several bytes, booleans and times."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _may_hold_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _may_hold_text(kind.value_type)
    if kind.num_fields:
        return any(_may_hold_text(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_int8(kind) or pa.types.is_uint8(kind):  # the bytes of a text, one number each
        return True
    return not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind))


def _plain(value: Any, place: str) -> Any:
    """Turn a value of Arrow into JSON-like data; bytes, and lists of them, become the text that they spell."""
    if isinstance(value, bytes):
        for what, pattern in _PACKED.items():
            if pattern.match(value):
                raise ValueError(
                    f"{place} holds {what}, which cannot be searched for secrets, and nothing was sent; expected text, "
                    "numbers or images. Store the contents as columns, or drop the column."
                )
        return _as_text(value)
    if isinstance(value, Mapping):
        return _Object((str(key), _plain(item, place)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        if value and all(type(item) is int and -128 <= item < 256 for item in value):
            return _as_text(bytes(item % 256 for item in value))
        return [_plain(item, place) for item in value]
    return value


def _as_text(raw: bytes) -> str:
    """Decode text; of other bytes return the printable runs, as the program `strings` does, wide characters too."""
    if is_text(raw):
        return raw.decode()
    return "\n".join(run.decode() for run in re.findall(rb"[\x20-\x7e]{8,}", raw.replace(b"\0", b"")))
