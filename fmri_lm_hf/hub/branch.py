"""The branch of a repository that is pushed to: what its head holds, and a commit on top of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import CommitInfo, RepoFile

from .download import is_same
from .errors import HubAccessError, retried

__all__ = ["Branch", "Head"]

_DOWNLOADS = 3  # of a file whose content is not what the head lists


@dataclass
class Head:
    """What a branch holds now.

    Attributes
    ----------
    branch : Branch
    commit : str
    files : dict of str to RepoFile
    """

    branch: Branch
    commit: str
    files: dict[str, RepoFile]
    _read: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """The content of a (small) file, compared with the checksum that the head lists for it.

        The cache of the Hub's client takes no part: a file that is broken there would be published again.
        """
        for _ in range(_DOWNLOADS if name not in self._read else 0):
            with tempfile.TemporaryDirectory(prefix="fmri-lm-head-") as folder:
                path = self.branch.api.hf_hub_download(
                    **self.branch.repo,
                    filename=name,
                    revision=self.commit,
                    local_dir=folder,
                    force_download=True,
                )
                content = Path(path).read_bytes()
            if is_same(content, self.files[name]):
                self._read[name] = content
                break
        if name not in self._read:
            raise HubAccessError(
                f"{name} of {self.branch.repo_id} arrives with other bytes than the repository lists for it; nothing "
                "was committed. Something between here and the Hub changes files: check proxies and disks."
            )
        return self._read[name]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file as a dict; empty when there is none, or when it holds no JSON object."""
        if name not in self.files:
            return {}
        try:
            record = json.loads(self.read(name))
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}


@dataclass(frozen=True)
class Branch:
    """The branch of a repository that is pushed to.

    Attributes
    ----------
    api : HfApi
    repo_id, repo_type : str
    revision : str
        A branch, or a pull request (`refs/pr/1`).
    """

    api: HfApi
    repo_id: str
    repo_type: str
    revision: str

    @property
    def repo(self) -> dict[str, Any]:
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return f"{self.api.endpoint}/{prefix}{self.repo_id}"

    def create(self, private: bool | None) -> None:
        """Create the repository and the branch where they do not exist."""
        retried(
            lambda: self.api.create_repo(**self.repo, private=private, exist_ok=True),
            f"Creating {self.repo_id}",
        )
        if self.revision != "main" and not self.revision.startswith("refs/"):
            retried(
                lambda: self.api.create_branch(**self.repo, branch=self.revision, exist_ok=True),
                f"Creating the branch {self.revision}",
            )

    def check_who_sees_it(self, private: bool | None, controlled: bool) -> None:
        """Refuse a public repository for what must be private, or for controlled data without access requests."""
        if not (private or controlled):
            return
        info = retried(lambda: self.api.repo_info(**self.repo), f"Looking at {self.repo_id}")
        if not info.private and not (controlled and getattr(info, "gated", False)):
            raise HubAccessError(
                f"{self.repo_id} exists and is public, and nothing was sent: make it private"
                f"{', or turn on access requests,' if controlled else ''} in its settings at "
                f"{self.url}/settings, or choose another name."
            )

    def head(self) -> Head:
        """What the branch holds now."""
        commit = str(self.api.repo_info(**self.repo, revision=self.revision).sha)
        tree = self.api.list_repo_tree(**self.repo, recursive=True, revision=commit)
        return Head(self, commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)})

    def commit(
        self,
        head: Head,
        additions: Mapping[str, Path | bytes],
        deletions: list[str],
        message: str,
        description: str | None,
        create_pr: bool,
    ) -> CommitInfo:
        """Commit on condition that the head is still the same; as a pull request if asked for."""
        added = [CommitOperationAdd(name, _for_upload(content)) for name, content in additions.items()]
        deleted = [CommitOperationDelete(name) for name in deletions]
        return self.api.create_commit(
            **self.repo,
            operations=[*added, *deleted],
            commit_message=message,
            commit_description=description,
            revision=self.revision,
            parent_commit=head.commit,
            create_pr=create_pr,
        )


def _for_upload(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)
