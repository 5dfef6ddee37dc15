"""Publish a folder, a model with its processor, or a dataset: complete, in one commit, safe to repeat.

The only state is that of the Hub. Each attempt looks at the head of the branch, merges the push into it (`merge`),
uploads the files that differ, and commits on condition that the head is still the same. A lost reply, a killed process
or a commit of somebody else therefore needs no special case: the next attempt finds them and does what is missing.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.utils import logging

from ..cards.rendering import is_form, split_card
from ..declarations import declared_in_folder, declared_in_parquet
from ..deprecation import renamed_keywords
from .contents import Publication, as_parquet, parquet_files, read_folder
from .download import clear_errors, retried
from .merge import Branch, declared_at, merge
from .privacy import find_private
from .records import name_base_model, name_repository_in_adapter, record_base_model
from .remote_code import with_remote_code

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class PushResult:
    """The result of a push.

    Attributes
    ----------
    repo_id, repo_type, revision : str
    commit : str
        The commit with the pushed files.
    url : str
        Page of that commit, or of the pull request.
    uploaded : tuple of str
        Files that differed and were committed; empty when the branch was up to date.
    deleted : tuple of str
        Files of the branch that the new ones replace, such as shards of earlier weights.
    left_out : tuple of str
        Files of the folder that are not published, such as a Trainer's state.
    base_model : str or None
        Repository and commit of an adapter's base model.
    """

    repo_id: str
    repo_type: str
    revision: str
    commit: str
    url: str
    uploaded: tuple[str, ...]
    deleted: tuple[str, ...]
    left_out: tuple[str, ...]
    base_model: str | None = None


@renamed_keywords(thing="artifact")
def push_to_hub(
    artifact: Any,
    repo_id: str,
    *,
    processor: Any = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: bool | str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: list[str] | None = None,
    license: str | None = None,
    base_model: str | None = None,
    max_shard_size: int | str = "2GB",
    allow_incomplete: bool = False,
    confirm_controlled: bool = False,
) -> PushResult:
    """Publish on the Hub in one commit; safe to repeat.

    Parameters
    ----------
    artifact : path, model, PEFT model, processor, feature extractor, Dataset or DatasetDict
        A folder as `save_pretrained` or a dataset export wrote it, or the object itself.
    repo_id : str
        `"organisation/name"`, or `"name"` for a repository of your own; created when there is none.
    processor : optional
        Processor of a model that is given as an object; both are published in one commit.
    private : bool, optional
        Create the repository as private. An existing public one is refused when this is True.
    revision : str, optional
        Branch to push to, created when there is none, or an open pull request (`"refs/pr/1"`). Default: the default
        branch.
    create_pr : bool, default=False
        Open a pull request instead of committing to the branch.
    token : bool or str, optional
        Default: that of `hf auth login` or `HF_TOKEN`.
    commit_message, commit_description : str, optional
    tags : list of str, optional
        Further tags of the card.
    license : str, optional
        Identifier of the Hub, such as `"cc-by-4.0"`, for the card. A converted checkpoint, whose owner states no
        licence, is not published without one.
    base_model : str, optional
        Repository of an adapter's base model, when the configuration of the adapter names a local folder.
    max_shard_size : int or str, default="2GB"
        Upper bound of a file of weights or rows, for objects and for datasets of `save_to_disk`.
    allow_incomplete : bool, default=False
        Accept a model without its processor or generation config, to be added to a repository that has them.
    confirm_controlled : bool, default=False
        Publish scan-level data of a cohort declared as controlled. You confirm that you have the right to; the
        repository must be private or require access requests.

    Returns
    -------
    result : PushResult

    Raises
    ------
    ValueError
        When the folder is incomplete, or contains files that can run code, or private text; nothing is sent.
    HubAccessError
        When the Hub refuses, or cannot be reached after several attempts.
    """
    api = HfApi(token=token)
    repo_id, revision = _full_name(api, repo_id), _branch_name(revision)
    with tempfile.TemporaryDirectory(prefix="fmri-lm-push-") as staging:
        folder = _as_folder(artifact, processor, Path(staging), max_shard_size)
        is_part = allow_incomplete or (folder == Path(staging) / "saved" and processor is None)
        publication = read_folder(folder, allow_incomplete=is_part)
        if is_form(publication.text("README.md") or ""):
            publication.files.pop("README.md", None)
        declared: set[str] = set()
        if publication.kind == "dataset":
            as_parquet(publication, folder, Path(staging) / "parquet", max_shard_size)
            declared = declared_in_folder(folder) | declared_in_parquet(parquet_files(publication))
        _refuse_controlled(declared, confirm_controlled, folder.name)
        split_card(publication.text("README.md") or "")  # raises before anything is sent when the card is invalid
        _refuse_unlicensed(publication, license)
        with_remote_code(publication)  # after the checks, which refuse any other code
        name_repository_in_adapter(publication, repo_id)
        message = commit_message or f"Publish {publication.kind.replace('_', ' ')} with fmri_lm_hf"
        messages = {"commit message": message, "commit description": commit_description or ""}
        _refuse_private(publication.files | {name: text.encode() for name, text in messages.items()}, repo_id)
        branch = Branch(api, repo_id, publication.repo_type, revision)
        base: str | None = None

        def attempt() -> PushResult:
            # Nothing is kept from the last attempt: since then the head may have changed, and with it the card, the
            # declarations of the cohort and whether the repository is public.
            head = branch.head()
            known = declared | (declared_at(head) if publication.kind == "dataset" else set())
            _refuse_controlled(known, confirm_controlled, repo_id)
            branch.check_visibility(private, "controlled" in known)
            change = merge(publication, head, repo_id, known, license, tags)
            _refuse_private({"README.md": change.files["README.md"]}, repo_id)
            change = change.without_known(head)
            commit, url = head.commit, f"{branch.url}/tree/{head.commit}"
            if change.files or change.deletions:
                options = {"commit_description": commit_description, "create_pr": create_pr}
                info = branch.commit(head, change, message, **options)
                commit, url = info.oid, info.pr_url or f"{branch.url}/tree/{info.oid}"
            files = (tuple(change.files), tuple(change.deletions), tuple(publication.left_out))
            return PushResult(repo_id, publication.repo_type, revision, commit, url, *files, base_model=base)

        with clear_errors(repo_id, revision):
            if publication.kind == "adapter" or base_model is not None:
                base = name_base_model(publication, base_model, api)
            branch.create(True if "controlled" in declared and private is None else private)
            # No second attempt for a pull request: if only the reply was lost, it would open another one.
            return attempt() if create_pr else retried(attempt, f"Pushing to {repo_id}")


def _full_name(api: HfApi, repo_id: str) -> str:
    """Return the full name of a repository; without a namespace it belongs to the account."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id):
        raise ValueError(f"The repository must be named 'organisation/name' or 'name', got {repo_id!r}.")
    if "/" in repo_id:
        return repo_id
    with clear_errors(repo_id):
        return f"{retried(api.whoami, 'Asking for your account')['name']}/{repo_id}"


def _branch_name(revision: str | None) -> str:
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"`revision` is the commit {revision}, which cannot change: give an existing branch, or a new one."
        )
    return revision or "main"


def _as_folder(artifact: Any, processor: Any, staging: Path, max_shard_size: int | str) -> Path:
    """Return the folder to publish: the given one, or a new one in which the object is saved."""
    if isinstance(artifact, (str, os.PathLike)):
        if processor is not None:
            raise ValueError(
                "Got a folder and a processor: save the processor into the folder, and give the folder only."
            )
        return Path(artifact)
    saved = staging / "saved"
    if hasattr(artifact, "save_to_disk"):
        artifact.save_to_disk(saved)
        return saved
    if not hasattr(artifact, "save_pretrained"):
        raise ValueError(
            f"Expected a folder, a model, an adapter, a processor or a dataset, got {type(artifact).__name__}."
        )
    # Models and adapters take a bound for their shards; processors have none.
    bound = {"max_shard_size": max_shard_size} if hasattr(artifact, "state_dict") else {}
    artifact.save_pretrained(saved, **bound)
    record_base_model(artifact, saved)
    if processor is not None:
        processor.save_pretrained(saved)
    return saved


def _refuse_controlled(declared: set[str], confirmed: bool, place: str) -> None:
    if "controlled" in declared and not confirmed:
        raise ValueError(
            f"{place} declares its cohort as controlled: its scan-level data may not be redistributed, and nothing was "
            "sent. If you have the right to publish them, confirm it with --confirm-controlled "
            "(`confirm_controlled=True`)."
        )


def _refuse_unlicensed(publication: Publication, license: str | None) -> None:
    """Refuse a converted checkpoint without a licence: it belongs to whoever trained it, and states no licence."""
    conversion = _conversion(publication.json("training_info.json"))
    stated = split_card(publication.text("README.md") or "")[0].get("license")
    if conversion and publication.kind != "adapter" and not license and stated in (None, "unknown"):
        raise ValueError(
            f"These weights were converted from {conversion.get('source')!r}, a checkpoint of others that states no "
            "licence, and nothing was sent. If its owner allows you to publish it, name the licence with --license "
            "(`license=`)."
        )


def _conversion(training: Any) -> Mapping[str, Any] | None:
    """Find the record of a conversion in a training record, or in that of the weights it started from."""
    if not isinstance(training, Mapping):
        return None
    if isinstance(training.get("conversion"), Mapping):
        return training["conversion"]
    return next(filter(None, map(_conversion, training.values())), None)


def _refuse_private(files: Mapping[str, Path | bytes], repo_id: str) -> None:
    findings = find_private(files, namespace=repo_id.split("/")[0])
    if findings:
        shown = "\n  ".join(findings[:10]) + ("\n  ..." if len(findings) > 10 else "")
        raise ValueError(
            f"Nothing was sent, because this would become public:\n  {shown}\nRemove it from the files and push again."
        )
