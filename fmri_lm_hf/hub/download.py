"""Download repositories and verify downloads, with clear errors and retries for every request to the Hub.

[`fetch`] and [`dataset_folder`] download, [`verify_download`] compares files with the checksums that the Hub lists
(sha256 of large files, git's sha1 of others). [`clear_errors`] turns the exceptions of the Hub's client into a
[`HubAccessError`] of one sentence, and [`retried`] repeats a call that failed with a temporary error.
"""

from __future__ import annotations

import io
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
    errors,
    get_token,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj
from tqdm.auto import tqdm
from transformers.utils import logging

logger = logging.get_logger(__name__)
Result = TypeVar("Result")

_ATTEMPTS = 8
_FIRST_WAIT = 0.5  # seconds; doubles with every attempt
_LONGEST_WAIT = 30.0
_CONNECTING_ATTEMPTS = 3  # without any answer there is most likely no network
# 409 and 412: another commit came between. The others: the server, or a proxy in front of it, is busy.
_TEMPORARY_STATUS = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# For errors that another attempt does not mend.
_ADVICE = {
    400: "it did not accept the request: correct what it names",
    402: f"the account has no storage or no subscription for this: see {constants.ENDPOINT}/settings/billing",
    403: "your account may not do this: follow the message, or ask the owner of the repository",
    413: "a file, or all of them together, is too large: save with a smaller `max_shard_size`",
}


# ---- download


def fetch(repo_id: str, revision: str | None = None, repo_type: str = "model") -> tuple[Path, str]:
    """Download a whole repository.

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
        The commit that was downloaded, for the record.
    """
    with clear_errors(repo_id, revision):
        snapshot = retried(
            lambda: snapshot_download(repo_id, revision=revision, repo_type=repo_type), f"Fetching {repo_id}"
        )
    folder = Path(snapshot)
    return folder, folder.name


def dataset_folder(name: str | Path) -> Path:
    """Return the folder or file of a dataset; download it from the Hub when the name is not an existing path.

    Parameters
    ----------
    name : str or path
        An existing path, or `org/name`.
    """
    name = str(name)
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Path(name)
    folder, _ = fetch(name, repo_type="dataset")
    return folder


def downloaded_commit(repo_id: str, revision: str | None = None, repo_type: str = "model") -> str | None:
    """Return the commit of a branch, tag or commit in the cache; None when it is not there, or for a local folder.

    After `from_pretrained(repo_id, revision=...)` this is the commit that was loaded, which configurations do not keep.
    """
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError:
        return None
    # `from_pretrained` prefers a local folder of this name, even where the cache has a repository of the same name
    if Path(repo_id).exists():
        return None
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    reference = storage / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or "main"
    return commit if (storage / "snapshots" / commit).is_dir() else None


def fetched_commits(names: Iterable[Any]) -> dict[str, str]:
    """Print and return the commits of models and datasets that were downloaded.

    Parameters
    ----------
    names : iterable
        Arguments of a command. Those that are not ids on the Hub are skipped.

    Returns
    -------
    commits : dict of str to str
        Id -> commit.
    """
    commits = {}
    for name in names:
        for repo_type in ("model", "dataset"):
            if isinstance(name, str) and (commit := downloaded_commit(name, repo_type=repo_type)):
                commits[name] = commit
                print(f"{name}: commit {commit}")
    return commits


# ---- verification


@dataclass(frozen=True)
class Verification:
    """The result of `verify_download`.

    Attributes
    ----------
    repo_id, commit : str
    verified : tuple of str
        Files with the content that the repository lists.
    damaged : tuple of str
        Files with other content.
    repaired : tuple of str
        Damaged files that were downloaded again and are correct now.
    fetched : tuple of str
        Files that were not in the cache, and were downloaded before they were compared.
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
    """Compare the downloaded files of a repository with the checksums that the Hub lists.

    The Hub's client accepts any download of the right size. Files that are not in the cache are downloaded first, so
    that the whole repository is compared.

    Parameters
    ----------
    repo_id : str
    revision : str, optional
        Branch, tag or commit. Default: the default branch as it was downloaded.
    repo_type : {"model", "dataset"}, default="model"
    repair : bool, default=False
        Download damaged files again.

    Raises
    ------
    HubAccessError
        When the repository, its checksums, or a missing file cannot be reached.
    """
    api = HfApi()
    files_by_state: dict[str, list[str]] = {"verified": [], "damaged": [], "repaired": [], "fetched": []}

    def download(path: str, again: bool = False) -> Path:
        where: dict[str, Any] = {"revision": commit, "repo_type": repo_type, "force_download": again}
        return Path(retried(lambda: hf_hub_download(repo_id, path, **where), f"Fetching {path}"))

    with clear_errors(repo_id, revision):
        commit = downloaded_commit(repo_id, revision, repo_type) or retried(
            lambda: str(api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha), f"Looking at {repo_id}"
        )
        tree = retried(
            lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)),
            f"Listing {repo_id}",
        )
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        for file in tqdm(files, desc=f"Verifying {repo_id}", unit="file", disable=None):
            cached = try_to_load_from_cache(repo_id, file.path, revision=commit, repo_type=repo_type)
            if not isinstance(cached, str):
                cached = download(file.path)
                files_by_state["fetched"].append(file.path)
            state = "verified" if is_same(Path(cached), file) else "damaged"
            if state == "damaged" and repair and is_same(download(file.path, again=True), file):
                state = "repaired"
            files_by_state[state].append(file.path)
    return Verification(repo_id, commit, **{name: tuple(paths) for name, paths in files_by_state.items()})


def is_same(content: Path | bytes, remote: RepoFile | None) -> bool:
    """Return whether a file of a repository has this content, by size and checksum; False when there is no file."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if remote is None or remote.size != size:
        return False
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        if remote.lfs is not None:
            return sha_fileobj(file).hex() == remote.lfs.sha256
        return git_hash(file.read()) == remote.blob_id


# ---- errors and retries


class HubAccessError(OSError):
    """A repository, revision or file on the Hub cannot be reached; the message says why and what to do."""


@contextmanager
def clear_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn exceptions of the Hub's client about `repo_id` into a `HubAccessError` of one sentence.

    Errors that have nothing to do with the Hub pass unchanged; the cause stays chained.
    """
    try:
        yield
    except HubAccessError:
        raise
    except (OSError, errors.HTTPError, RuntimeError, ValueError) as error:
        for cause in _chain(error):
            if sentence := _sentence(cause, repo_id, revision or "main"):
                raise HubAccessError(sentence) from error
        raise


def retried(call: Callable[[], Result], what: str) -> Result:
    """Call until it succeeds, waiting longer after each temporary error.

    `call` must be safe to repeat: it looks at what the Hub holds before it changes anything. `what` describes it in
    the warning about another attempt.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except (OSError, errors.HTTPError, RuntimeError, ValueError) as error:
            wait = _wait_for(error, attempt)
            if wait is None or attempt == _ATTEMPTS - 1:
                raise
            logger.warning(f"{what}: {_first_line(error)}; trying again in {wait:.1f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _wait_for(error: BaseException, attempt: int) -> float | None:
    """Return the seconds to wait before another attempt, or None when the error is not temporary."""
    # A random share, or all clients that were turned away together come back together.
    wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * (1 + 0.2 * random.random())
    for cause in _chain(error):
        # It says only that the cache is empty; its cause says whether asking again helps.
        if isinstance(cause, errors.LocalEntryNotFoundError):
            continue
        if isinstance(cause, errors.HfHubHTTPError):
            if cause.response.status_code not in _TEMPORARY_STATUS:
                return None
            retry_after = cause.response.headers.get(
                "Retry-After", ""
            )  # may also be a date, which is not worth parsing
            return max(wait, float(retry_after)) if retry_after.isdigit() else wait
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return None
        if type(cause).__name__ == "ConnectError":
            return wait if attempt + 1 < _CONNECTING_ATTEMPTS else None
        # A busy gateway sends a page of HTML where the client expects JSON.
        if isinstance(cause, (errors.HTTPError, ConnectionError, json.JSONDecodeError)):
            return wait
    return None


def _sentence(error: BaseException, repo_id: str, revision: str) -> str | None:
    """Explain an error of the Hub to the user in one sentence; None for other errors."""
    endpoint, is_logged_in = constants.ENDPOINT, get_token() is not None
    url = f"{endpoint}/{repo_id}"
    # Subclasses first: most of these are HTTP errors too.
    if isinstance(error, errors.GatedRepoError):
        if is_logged_in:
            return f"{repo_id} is gated and your account has no access to it: ask for it at {url}."
        return f"{repo_id} is gated: log in with `hf auth login`, ask for access at {url}, and try again once granted."
    if isinstance(error, errors.RepositoryNotFoundError):
        if is_logged_in:
            return (
                f"{repo_id} does not exist on {endpoint}, or is private and your token may not read it: check the "
                "spelling, or ask its owner for access."
            )
        return (
            f"{repo_id} does not exist on {endpoint}, or is private: check the spelling, or log in with "
            "`hf auth login` if it is yours."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see {url}/commits/main for existing ones."
    if isinstance(error, errors.OfflineModeIsEnabled) or (
        isinstance(error, errors.LocalEntryNotFoundError) and constants.is_offline_mode()
    ):
        return (
            f"{repo_id} (revision {revision}) is not in the cache, and HF_HUB_OFFLINE=1 forbids downloads: download it "
            "once with the variable unset."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return None  # as in `_wait_for`: its cause says why the Hub could not be asked
    if isinstance(error, errors.EntryNotFoundError):
        return f"A file is missing from {repo_id} (revision {revision}): {_first_line(error)}"
    if isinstance(error, errors.HfHubHTTPError):
        return _sentence_about_status(error.response.status_code, error.server_message, repo_id)
    if isinstance(error, (errors.HTTPError, ConnectionError)):
        return (
            f"{endpoint} cannot be reached ({_first_line(error)}), and {repo_id} (revision {revision}) is not complete "
            "in the cache: check the network."
        )
    return None


def _sentence_about_status(status: int, server_message: str | None, repo_id: str) -> str:
    quoted = f" ({server_message.rstrip('.')})" if server_message else ""
    if status == 401:
        return (
            f"{constants.ENDPOINT} refused your token for {repo_id}: log in again with `hf auth login`, or unset "
            "HF_TOKEN."
        )
    # A 403 is about the token when the server says so, or says nothing; otherwise about storage, terms and the like.
    about_rights = r"rights|token|permission|credential|authori[sz]"
    if status == 403 and (not server_message or re.search(about_rights, server_message, re.IGNORECASE)):
        return (
            f"Your token may not write to {repo_id}{quoted}: create one with write access to it at "
            f"{constants.ENDPOINT}/settings/tokens."
        )
    is_temporary = status in _TEMPORARY_STATUS or status >= 500
    advice = _ADVICE.get(status, "try again later" if is_temporary else "nothing was changed")
    return f"{constants.ENDPOINT} answered {status} for {repo_id}{quoted}; {advice}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # `__context__` too: transformers raises its own OSError while it handles that of the Hub, without `from`
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 200 else text[:200] + "..."
