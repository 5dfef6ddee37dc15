"""Publish a folder, a model with its processor, or a dataset: complete, in one commit, safe to repeat.

The Hub itself is the only state. Each attempt looks at the head of the branch, uploads what differs from it, and
commits on condition that the head is still the same. A reply that got lost, a killed process or a commit of
somebody else therefore needs no special care: the next attempt finds what is there and does the rest, if any.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from transformers.utils import logging

from ..cards.rendering import is_edited, sign_card, split_card, update_card
from .contents import Publication, read_folder
from .describe import ALWAYS_SHOWN, describe
from .download import is_same
from .errors import HubAccessError, clear_errors, retried
from .privacy import find_private
from .remote_code import with_remote_code

__all__ = ["PushResult", "push_to_hub"]

logger = logging.get_logger(__name__)

# Files of an earlier push that a new one of the same kind replaces as a whole: shards that are no longer there
# would otherwise stay and be loaded, or counted, with the new ones.
_REPLACED = {
    "fmri_lm": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    "fmri_tokenizer": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    "adapter": re.compile(r"adapter_model\.safetensors"),
    "dataset": re.compile(r"data/.+\.parquet"),
}

# Whoever finds weights without a record of their training should not have to wonder whether it got lost.
_NOTHING_RECORDED = b'{"training": "[not recorded]"}\n'


@dataclass(frozen=True)
class PushResult:
    """What a push has done.

    Attributes
    ----------
    repo_id, repo_type, revision : str
    commit : str
        The commit that holds what was pushed.
    url : str
    uploaded : tuple of str
        Files that differed and were committed now; empty when everything was there already.
    left_out : tuple of str
        Files of the folder that are not published, such as a Trainer's state.
    """

    repo_id: str
    repo_type: str
    revision: str
    commit: str
    url: str
    uploaded: tuple[str, ...]
    left_out: tuple[str, ...]


def push_to_hub(
    thing: Any,
    repo_id: str,
    *,
    processor: Any = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    base_model: str | None = None,
    max_shard_size: str = "2GB",
    allow_incomplete: bool = False,
    confirm_controlled: bool = False,
) -> PushResult:
    """Publish on the Hub, in one commit; repeat it as often as needed.

    Parameters
    ----------
    thing : path, model, PEFT model, processor, feature extractor, Dataset or DatasetDict
        A folder as `save_pretrained` or a dataset export wrote it, or the object itself.
    repo_id : str
        `"organisation/name"`. The repository is created when there is none.
    processor : optional
        Goes into the same commit as a model given as an object.
    private : bool, optional
        Create the repository as private. An existing public one is refused when this is True.
    revision : str, optional
        Branch to push to; created when there is none. The default branch when not given.
    token : str, optional
        That of `hf auth login` or `HF_TOKEN` when not given.
    commit_message : str, optional
    base_model : str, optional
        Of an adapter: the repository of the model it was trained on, when its configuration names a local folder.
    max_shard_size : str, default="2GB"
        Upper bound of a file of weights or rows, for a `thing` that is not a folder of safetensors or parquet.
    allow_incomplete : bool, default=False
        Accept a model without its processor or generation config: a part that joins others in its repository.
    confirm_controlled : bool, default=False
        Publish scan-level data of a cohort declared as controlled: you have the right to, and the repository is
        private or asks for access.

    Returns
    -------
    result : PushResult

    Raises
    ------
    ValueError
        When the folder is incomplete, holds something that can run code, or something private; nothing is sent.
    HubAccessError
        When the Hub refuses, or stays out of reach after several attempts.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"The repository must be named 'organisation/name', got {repo_id!r}.")
    with tempfile.TemporaryDirectory(prefix="fmri-lm-push-") as staging:
        folder = _as_folder(thing, processor, Path(staging), max_shard_size)
        is_part = allow_incomplete or (folder == Path(staging) / "saved" and processor is None)
        publication = read_folder(folder, allow_incomplete=is_part)
        if publication.kind == "dataset":
            from .dataset_folder import as_parquet

            as_parquet(publication, folder, Path(staging) / "parquet", max_shard_size)
        if base_model is not None or publication.kind == "adapter":
            _set_base_model(publication, base_model)
        controlled = publication.kind == "dataset" and is_controlled(publication)
        if controlled and not confirm_controlled:
            raise ValueError(
                f"{folder} declares its cohort as controlled: its scan-level data may not be redistributed, and "
                "nothing was sent. If you have the right to publish it, say so with --confirm-controlled "
                "(`confirm_controlled=True`)."
            )
        if publication.kind in ("fmri_lm", "fmri_tokenizer", "adapter"):
            publication.files.setdefault("training_info.json", _NOTHING_RECORDED)
        with_remote_code(publication)
        card = update_card(
            publication.text("README.md"), describe(publication, repo_id, controlled), ALWAYS_SHOWN
        )
        publication.files["README.md"] = sign_card(card).encode()
        _refuse_private(publication, repo_id)
        target = _Target(HfApi(token=token), repo_id, publication.repo_type, revision or "main")
        with clear_errors(repo_id, revision):
            target.prepare(private, controlled)
            message = commit_message or f"Publish {publication.kind.replace('_', ' ')} with fmri_lm_hf"
            return retried(lambda: target.attempt(publication, message), f"Pushing to {repo_id}")


def is_controlled(publication: Publication) -> bool:
    """Whether a dataset's card metadata or any of its JSON files declares `controlled: true`."""
    records: list[Mapping[str, Any]] = [split_card(publication.text("README.md") or "")[0]]
    for name in publication.files:
        if name.endswith(".json") and "/" not in name:
            record = json.loads(publication.text(name) or "")
            if isinstance(record, Mapping):
                records += [record, *(value for value in record.values() if isinstance(value, Mapping))]
    return any(bool(record.get("controlled")) for record in records)


@dataclass(frozen=True)
class _Target:
    """The branch of a repository that is pushed to."""

    api: HfApi
    repo_id: str
    repo_type: str
    revision: str

    def prepare(self, private: bool | None, controlled: bool) -> None:
        """Create the repository and the branch where they do not exist; check who can see them."""
        repo: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": self.repo_type}
        wanted = True if controlled and private is None else private
        retried(
            lambda: self.api.create_repo(**repo, private=wanted, exist_ok=True), f"Creating {self.repo_id}"
        )
        if private or controlled:
            info = retried(lambda: self.api.repo_info(**repo), f"Looking at {self.repo_id}")
            if not info.private and not (controlled and getattr(info, "gated", False)):
                raise HubAccessError(
                    f"{self.repo_id} exists and is public, and nothing was sent: make it private"
                    f"{', or turn on access requests,' if controlled else ''} in its settings at "
                    f"{self.api.endpoint}/{self.repo_id}/settings, or choose another name."
                )
        if self.revision != "main":
            retried(
                lambda: self.api.create_branch(**repo, branch=self.revision, exist_ok=True),
                f"Creating the branch {self.revision}",
            )

    def attempt(self, publication: Publication, message: str) -> PushResult:
        """Bring the branch to hold the publication, starting from whatever it holds now."""
        repo: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": self.repo_type}
        head = str(self.api.repo_info(**repo, revision=self.revision).sha)
        tree = self.api.list_repo_tree(**repo, recursive=True, revision=head)
        remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        files = dict(publication.files)
        if "README.md" in remote:
            files["README.md"] = self._card(publication, head).encode()

        changed = [name for name, content in files.items() if not is_same(content, remote.get(name))]
        replaced = _REPLACED.get(publication.kind)
        gone = [name for name in remote if name not in files and replaced and replaced.fullmatch(name)]
        commit = head
        if changed or gone:
            additions = [CommitOperationAdd(name, _for_upload(files[name])) for name in changed]
            deletions = [CommitOperationDelete(name) for name in gone]
            commit = self.api.create_commit(
                **repo,
                operations=[*additions, *deletions],
                commit_message=message,
                revision=self.revision,
                parent_commit=head,
            ).oid
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        url = f"{self.api.endpoint}/{prefix}{self.repo_id}/tree/{commit}"
        left_out = tuple(publication.left_out)
        return PushResult(self.repo_id, self.repo_type, self.revision, commit, url, tuple(changed), left_out)

    def _card(self, publication: Publication, head: str) -> str:
        """The card to publish where the repository has one: what people wrote there stays."""
        ours = publication.text("README.md") or ""
        path = self.api.hf_hub_download(self.repo_id, "README.md", repo_type=self.repo_type, revision=head)
        theirs = Path(path).read_bytes().decode()
        if not is_edited(theirs):
            return ours
        logger.info(f"The card of {self.repo_id} was edited on the Hub; its text stays as it is there.")
        return update_card(theirs, ours, ALWAYS_SHOWN)


def _as_folder(thing: Any, processor: Any, staging: Path, max_shard_size: str) -> Path:
    """A folder with what is published: `thing` itself, or the place where it is saved now."""
    if isinstance(thing, (str, os.PathLike)):
        if processor is not None:
            raise ValueError("Save the processor into the folder that you push, instead of giving both.")
        return Path(thing)
    saved = staging / "saved"
    if hasattr(thing, "save_to_disk"):
        thing.save_to_disk(saved)
        return saved
    if not hasattr(thing, "save_pretrained"):
        raise ValueError(
            f"Expected a folder, a model, an adapter, a processor or a dataset, got {type(thing).__name__}."
        )
    # Models and adapters take a bound for their shards; processors have none.
    bound = {"max_shard_size": max_shard_size} if hasattr(thing, "state_dict") else {}
    thing.save_pretrained(saved, **bound)
    if processor is not None:
        processor.save_pretrained(saved)
    return saved


def _set_base_model(publication: Publication, base_model: str | None) -> None:
    """Make an adapter name its base model by its repository."""
    if publication.kind != "adapter":
        raise ValueError(f"Only an adapter has a base model; this is a {publication.kind.replace('_', ' ')}.")
    config = publication.json("adapter_config.json")
    named = base_model or config.get("base_model_name_or_path") or ""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named) or Path(named).exists():
        raise ValueError(
            f"The adapter was trained on {Path(named).name or 'a model in memory'!r}, which is not a repository on "
            "the Hub: push the base model first, and name it with --base-model org/name (`base_model=`)."
        )
    if named != config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = named
        publication.files["adapter_config.json"] = json.dumps(config, indent=2, sort_keys=True).encode()


def _refuse_private(publication: Publication, repo_id: str) -> None:
    findings = find_private(publication.files, namespace=repo_id.split("/")[0])
    if findings:
        shown = "\n  ".join(findings[:10]) + ("\n  ..." if len(findings) > 10 else "")
        raise ValueError(
            f"Nothing was sent, since this would become public:\n  {shown}\nRemove it from the files and push again."
        )


def _for_upload(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)
