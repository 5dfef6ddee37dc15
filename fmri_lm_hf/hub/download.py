"""Fetch repositories, and compare files with the checksums that the Hub lists (sha256, or git's sha1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from tqdm.auto import tqdm

from .errors import clear_errors, retried

__all__ = ["Verification", "downloaded_commit", "fetch", "fetched_commits", "is_same", "verify_download"]


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
