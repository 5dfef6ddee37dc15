"""Fetch repositories, and compare files with the checksums that the Hub lists (sha256, or git's sha1)."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from tqdm.auto import tqdm
from transformers.utils import logging

# What went wrong with the Hub, said in one sentence; and which troubles pass when one tries again.

logger = logging.get_logger(__name__)
Result = TypeVar("Result")

# 409 and 412: another commit came between. The others: the server is busy, or something before it is.
_PASSING_STATUS = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# What helps where trying again does not.
_ADVICE = {
    400: "it did not accept what was sent: correct what it names",
    402: f"the account has no room or no subscription for this: see {constants.ENDPOINT}/settings/billing",
    403: "your account is not allowed this: do what it says, or ask the owner of the repository",
    413: "a file or the whole of them is too large: save with a smaller `max_shard_size`",
}
_ATTEMPTS = 8
_FIRST_WAIT = 0.5  # seconds; doubles with every attempt
_LONGEST_WAIT = 30.0
_CONNECTING_ATTEMPTS = 3  # where nobody answers at all, there is most likely no network


class HubAccessError(OSError):
    """A repository, revision or file on the Hub cannot be reached; the message says why and what to do."""


@contextmanager
def clear_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the Hub's clients raise about `repo_id` into a `HubAccessError` of one sentence.

    Errors that have nothing to do with the Hub pass unchanged; the cause stays chained.
    """
    try:
        yield
    except HubAccessError:
        raise
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        for cause in _chain(error):
            if sentence := _sentence(cause, repo_id, revision or "main"):
                raise HubAccessError(sentence) from error
        raise


def retried(call: Callable[[], Result], what: str) -> Result:
    """Call until it succeeds, waiting longer each time, as long as the trouble is one that passes.

    `call` must be safe to repeat: it looks at what the Hub holds before it changes anything.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except (OSError, HTTPError, RuntimeError, ValueError) as error:
            wait = _wait_for(error, attempt)
            if wait is None or attempt == _ATTEMPTS - 1:
                raise
            logger.warning(f"{what}: {_first_line(error)}; trying again in {wait:.1f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait_for(error: BaseException, attempt: int) -> float | None:
    """Seconds to wait before another attempt, or None when the error will not pass."""
    wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * (1 + 0.2 * random.random())
    for cause in _chain(error):
        if isinstance(cause, LocalEntryNotFoundError):
            continue  # says only that the cache is empty; its cause says whether asking again helps
        if isinstance(cause, HfHubHTTPError):
            if cause.response.status_code not in _PASSING_STATUS:
                return None
            asked = cause.response.headers.get("Retry-After", "")
            return max(wait, float(asked)) if asked.isdigit() else wait
        if isinstance(cause, OfflineModeIsEnabled):
            return None
        if type(cause).__name__ == "ConnectError":
            return wait if attempt + 1 < _CONNECTING_ATTEMPTS else None
        # A page of HTML where the client expects JSON is a gateway's way of saying "busy".
        if isinstance(cause, (HTTPError, ConnectionError, json.JSONDecodeError)):
            return wait
    return None


def _sentence(error: BaseException, repo_id: str, revision: str) -> str | None:
    url = f"{constants.ENDPOINT}/{repo_id}"
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return (
                f"{repo_id} is gated: log in with `hf auth login`, ask for access at {url}, and try again once "
                "it is granted."
            )
        return f"{repo_id} is gated and your account has no access to it: ask for it at {url}."
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return (
                f"{repo_id} does not exist on {constants.ENDPOINT}, or is private: check the spelling, or log in "
                "with `hf auth login` if it is yours."
            )
        return (
            f"{repo_id} does not exist on {constants.ENDPOINT}, or is private and your token may not read it: "
            "check the spelling, or ask its owner for access."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see {url}/commits/main for those that it has."
    if isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, LocalEntryNotFoundError) and constants.is_offline_mode()
    ):
        return (
            f"{repo_id} (revision {revision}) is not in the cache, and HF_HUB_OFFLINE=1 forbids to fetch it: "
            "fetch it once with the variable unset."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return None  # says only that the cache is empty; its cause says why the Hub could not be asked
    if isinstance(error, EntryNotFoundError):
        return f"A file is missing from {repo_id} (revision {revision}): {_first_line(error)}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return (
                f"{constants.ENDPOINT} refused your token for {repo_id}: log in again with `hf auth login`, or "
                "unset HF_TOKEN."
            )
        said = f" ({error.server_message.rstrip('.')})" if error.server_message else ""
        if status == 403 and _is_about_rights(error.server_message):
            return (
                f"Your token may not write to {repo_id}{said}: create one with write access to it at "
                f"{constants.ENDPOINT}/settings/tokens."
            )
        advice = _ADVICE.get(status)
        if advice is None:
            advice = (
                "try again later" if status in _PASSING_STATUS or status >= 500 else "nothing was changed"
            )
        return f"{constants.ENDPOINT} answered {status} for {repo_id}{said}; {advice}."
    if isinstance(error, (HTTPError, ConnectionError)):
        return (
            f"{constants.ENDPOINT} cannot be reached ({_first_line(error)}), and {repo_id} (revision {revision}) "
            "is not completely in the cache: check the network."
        )
    return None


def _is_about_rights(said: str | None) -> bool:
    """Whether a 403 is about the token, as it is where the server says nothing, and not about storage or terms."""
    return not said or bool(re.search(r"rights|token|permission|credential|authori[sz]", said, re.IGNORECASE))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text if len(text) < 200 else text[:200] + "..."


@dataclass(frozen=True)
class Verification:
    """What `verify_download` found.

    Attributes
    ----------
    repo_id, commit : str
    verified : tuple of str
        Files whose content is what the repository lists.
    damaged : tuple of str
        Files whose content is not.
    repaired : tuple of str
        Damaged files that were fetched again, and are right now.
    fetched : tuple of str
        Files that were not in the cache, and were fetched before they were compared.
    """

    repo_id: str
    commit: str
    verified: tuple[str, ...]
    damaged: tuple[str, ...]
    repaired: tuple[str, ...]
    fetched: tuple[str, ...]


def verify_download(
    repo_id: str, revision: str | None = None, repo_type: str = "model", repair: bool = False
) -> Verification:
    """Check the downloaded files of a repository against the checksums that the Hub lists.

    The Hub's client accepts a download that has the right size, whatever it contains. What is not in the cache yet,
    all of it or a part, is fetched first, so that the whole repository has been compared in the end.

    Parameters
    ----------
    repo_id : str
    revision : str, optional
        Branch, tag or commit; the default branch as it was downloaded when not given.
    repo_type : {"model", "dataset"}, default="model"
    repair : bool, default=False
        Fetch damaged files again.

    Raises
    ------
    HubAccessError
        When the repository, its checksums, or a file that is missing here cannot be reached.
    """
    api = HfApi()
    with clear_errors(repo_id, revision):
        commit = downloaded_commit(repo_id, revision, repo_type)
        if commit is None:
            info = retried(
                lambda: api.repo_info(repo_id, revision=revision, repo_type=repo_type),
                f"Looking at {repo_id}",
            )
            commit = str(info.sha)
        tree = retried(
            lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)),
            f"Listing {repo_id}",
        )
        found: dict[str, list[str]] = {"verified": [], "damaged": [], "repaired": [], "fetched": []}
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        for file in tqdm(files, desc=f"Verifying {repo_id}", unit="file", disable=None):
            cached = try_to_load_from_cache(repo_id, file.path, revision=commit, repo_type=repo_type)
            if not isinstance(cached, str):
                cached = _fetched(repo_id, repo_type, commit, file.path)
                found["fetched"].append(file.path)
            if is_same(Path(cached), file):
                found["verified"].append(file.path)
            elif repair and is_same(Path(_fetched(repo_id, repo_type, commit, file.path, again=True)), file):
                found["repaired"].append(file.path)
            else:
                found["damaged"].append(file.path)
    return Verification(repo_id, commit, **{name: tuple(paths) for name, paths in found.items()})


def fetch(repo_id: str, revision: str | None = None, repo_type: str = "model") -> tuple[Path, str]:
    """Download a repository, whole, and say which commit it was.

    Parameters
    ----------
    repo_id : str
    revision : str, optional
        Branch, tag or commit.
    repo_type : {"model", "dataset"}, default="model"

    Returns
    -------
    folder : Path
        In the cache of the Hub's client.
    commit : str
        For the record of whoever uses it.
    """

    def download() -> str:
        return snapshot_download(repo_id, revision=revision, repo_type=repo_type)

    with clear_errors(repo_id, revision):
        folder = Path(retried(download, f"Fetching {repo_id}"))
    return folder, folder.name


def is_same(content: Path | bytes, remote: RepoFile | None) -> bool:
    """Whether a file of a repository has this content, by size and checksum."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if remote is None or remote.size != size:
        return False
    if remote.lfs is not None:
        return _digest(content, hashlib.sha256()) == remote.lfs.sha256
    return _digest(content, hashlib.sha1(b"blob %d\0" % size)) == remote.blob_id


def _digest(content: Path | bytes, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def downloaded_commit(repo_id: str, revision: str | None = None, repo_type: str = "model") -> str | None:
    """The commit that the cache holds for a branch, tag or commit, or None when it holds none.

    After `from_pretrained(repo_id, revision=...)` this is the commit that was loaded, for the record of whoever uses
    it: configurations do not keep it. None for a local folder, too.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return None
    if Path(repo_id).exists():
        return None
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    reference = storage / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or "main"
    return commit if (storage / "snapshots" / commit).is_dir() else None


def fetched_commits(names: Iterable[Any]) -> dict[str, str]:
    """Print, and return for a record, at which commits models and datasets of these names were fetched.

    Parameters
    ----------
    names : iterable
        What a command was given: ids on the Hub, and anything else, which is passed over.

    Returns
    -------
    commits : dict of str to str
        Id -> commit.
    """
    commits = {}
    for name in names:
        found = [
            downloaded_commit(name, repo_type=kind) for kind in ("model", "dataset") if isinstance(name, str)
        ]
        for commit in filter(None, found):
            commits[name] = commit
            print(f"{name}: commit {commit}")
    return commits


def _fetched(repo_id: str, repo_type: str, commit: str, path: str, again: bool = False) -> str:
    def fetch() -> str:
        return hf_hub_download(repo_id, path, revision=commit, repo_type=repo_type, force_download=again)

    return retried(fetch, f"Fetching {path}")


# Where a dataset lies: on this machine, or on the Hub.


def dataset_folder(name: str | Path) -> Path:
    """The folder or file of a dataset, or a snapshot of the repository of that name on the Hub.

    Parameters
    ----------
    name : str or path
        Something that exists here, or `org/name`.
    """
    name = str(name)
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Path(name)
    folder, _ = fetch(name, repo_type="dataset")
    return folder
