"""Merge a push into a branch: the files it adds, the files it deletes, and the updated card.

A push owns the weights of its kind, or the shards of its splits, and the records about them. Everything else on the
branch stays: other configs and splits, the files of a processor or a person, and every word of a card that was not
generated. [`merge`] depends only on what is pushed and on the [`Head`] of the [`Branch`], so that a push can start
again from any head that it finds.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import CommitInfo, RepoFile
from transformers.utils import logging

from ..cards.rendering import (
    NOT_RECORDED,
    eval_results,
    find_block,
    has_block,
    is_edited,
    join_card,
    sign_card,
    split_card,
    update_card,
)
from ..declarations import DECLARATIONS, is_declared
from .contents import Publication, data_files, kind_of, shard_group, to_json
from .download import HubAccessError, is_same, retried
from .records import count_parameters, render_dataset_card, render_model_card

logger = logging.get_logger(__name__)

# The warnings that data are simulated, or that a cohort is controlled: nobody can remove them from such a card.
_ALWAYS_SHOWN = ("simulated", "controlled")
_MODEL_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_WEIGHTS = {
    "fmri_lm": _MODEL_WEIGHTS,
    "fmri_tokenizer": _MODEL_WEIGHTS,
    "adapter": re.compile(r"adapter_model\.safetensors"),
}
_TRAINING, _RESULTS, _EVAL_RESULTS = "training_info.json", "results.json", ".eval_results/fmri_lm_hf.yaml"
# The small files that a card is made from.
_READ_FOR_CARDS = (
    *("config.json", "adapter_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", _TRAINING, _RESULTS),
)
_RECORDS_OF_DATA = re.compile(r"(?:atlas|provenance|splits|failures)\.json|README\.md")
_DOWNLOADS = 3  # of a file whose content is not what the head lists


@dataclass
class Change:
    """The files to add and to delete in a commit on top of a head.

    Attributes
    ----------
    files : dict of str to Path or bytes
    deletions : list of str
    """

    files: dict[str, Path | bytes]
    deletions: list[str]

    def without_known(self, head: Head) -> Change:
        """Leave out the files that the head holds already."""
        files = {name: file for name, file in self.files.items() if not is_same(file, head.files.get(name))}
        return Change(files, self.deletions)


def merge(
    publication: Publication,
    head: Head,
    repo_id: str,
    declared: set[str],
    license: str | None = None,
    tags: list[str] | None = None,
) -> Change:
    """Merge a publication into the head of a branch.

    Parameters
    ----------
    publication : Publication
    head : Head
    repo_id : str
        Shown in the card.
    declared : set of str
        Declarations about the cohort of a dataset.
    license : str, optional
        Identifier of the Hub, such as `"cc-by-4.0"`, for the card.
    tags : list of str, optional
        Further tags of the card.
    """
    change = Change({name: file for name, file in publication.files.items() if name != "README.md"}, [])
    is_new_kind = False
    if publication.kind == "dataset":
        # Earlier shards of the same splits and configs are deleted, or `load_dataset` would read both: there may have
        # been more of them, or with other names.
        groups = {shard_group(name) for name in change.files} - {None}
        change.deletions += [n for n in head.files if n not in change.files and shard_group(n) in groups]
        rendered = _dataset_card(publication, head, change.deletions, repo_id, declared)
    else:
        _replace_weights(change, publication, head)
        # The card describes the repository after the push: a processor may be added to a model that was pushed before.
        result = _after(change, head)
        is_new_kind = result.kind != _kind_at(head)
        if license is not None:
            result.set_json(_TRAINING, {**result.json(_TRAINING), "license": license})
        # the scores in the form of the Hub follow from their record, and are deleted with it
        if scores := eval_results(repo_id, result.json(_RESULTS)):
            change.files[_EVAL_RESULTS] = scores.encode()
        elif _EVAL_RESULTS in head.files:
            change.deletions.append(_EVAL_RESULTS)
        n_parameters = count_parameters(result) or _count_at(head, change.deletions, result.kind)
        rendered = render_model_card(result, repo_id, n_parameters)
    card = update_card(_base_card(publication, head, repo_id), rendered, _ALWAYS_SHOWN, add_blocks=is_new_kind)
    change.files["README.md"] = sign_card(_with_metadata(card, license, tags)).encode()
    return change


def declared_at(head: Head) -> set[str]:
    """Return the declarations about the cohort in the card and the records at the head of a branch."""
    records: list[Any] = [head.json(name) for name in head.files if _RECORDS_OF_DATA.fullmatch(name)]
    card = head.read("README.md").decode() if "README.md" in head.files else ""
    records.append(split_card(card)[0])
    return {name for name in DECLARATIONS if is_declared(records, name) or has_block(card, name)}


# ---- models


def _weights(names: Iterable[str], kind: str) -> list[str]:
    pattern = _WEIGHTS.get(kind)
    return [name for name in names if pattern is not None and pattern.fullmatch(name)]


def _replace_weights(change: Change, publication: Publication, head: Head) -> None:
    """Delete earlier weights; keep the records at the head only if they are about the pushed weights."""
    weights = _weights(change.files, publication.kind)
    if not weights:
        return
    # Shards of earlier weights would be loaded, or counted, with the new ones.
    change.deletions += [name for name in _weights(head.files, publication.kind) if name not in change.files]
    is_unchanged = not change.deletions and all(is_same(change.files[name], head.files.get(name)) for name in weights)
    at_head = head.json(_TRAINING)
    if publication.json(_TRAINING) in ({}, {"training": NOT_RECORDED}):
        if is_unchanged and at_head:
            change.files.pop(_TRAINING, None)
        else:
            # The new weights may have been trained on from the earlier ones, simulated scans included. A warning too
            # many does less harm than scores of simulated scans that pass for real ones.
            inherited = {"simulated": True} if is_declared(at_head, "simulated") else {}
            change.files[_TRAINING] = to_json({"training": NOT_RECORDED, **inherited})
    if not is_unchanged and _RESULTS in head.files and _RESULTS not in change.files:
        change.deletions.append(_RESULTS)


def _after(change: Change, head: Head) -> Publication:
    """Return the branch as it is after the push, with the files that a card is made from."""
    names = head.files.keys() - set(change.deletions) | change.files.keys()
    known = dict(change.files)
    for name in _READ_FOR_CARDS:
        if name in names and name not in known:
            known[name] = head.read(name)
    return Publication(kind_of(names, Publication("", known).json("config.json")), known)


def _kind_at(head: Head) -> str | None:
    try:
        return kind_of(head.files, head.json("config.json"))
    except ValueError:
        return None


def _count_at(head: Head, deletions: list[str], kind: str) -> int | None:
    """Count the parameters of the weights at a head, from the headers of their files."""
    api, repo_id = head.branch.api, head.branch.repo_id
    headers = [
        api.parse_safetensors_file_metadata(repo_id, name, revision=head.commit)
        for name in _weights(head.files, kind)
        if name.endswith(".safetensors") and name not in deletions
    ]
    return sum(sum(header.parameter_count.values()) for header in headers) or None


# ---- datasets


def _dataset_card(publication: Publication, head: Head, deletions: list[str], repo_id: str, declared: set[str]) -> str:
    """Return the card of a dataset: where others' configs or splits stay, the card at the head with joint metadata."""
    rendered = render_dataset_card(publication, repo_id, declared)
    pushed_groups = {shard_group(name) for name in publication.files} | {None}
    others = [n for n in head.files if n not in deletions and shard_group(n) not in pushed_groups]
    if not others or "README.md" not in head.files:
        return rendered
    metadata, body, _ = split_card(rendered)
    old, old_body, _ = split_card(head.read("README.md").decode())
    metadata["configs"] = _merged_configs(old.get("configs"), data_files([*others, *publication.files]))
    if infos := old.get("dataset_info"):
        # `load_dataset` compares these sizes with the files and fails: those of the pushed configs are outdated
        pushed = {part["config_name"] for part in data_files(publication.files)}
        infos = infos if isinstance(infos, list) else [infos]
        metadata["dataset_info"] = [i for i in infos if i.get("config_name", "default") not in pushed]
    kept = old_body if "<!-- generated:" in old_body else body
    blocks = filter(None, (find_block(body, name) for name in _ALWAYS_SHOWN if not has_block(kept, name)))
    return join_card(metadata, "\n\n".join([*blocks, kept.lstrip("\n")]))


def _merged_configs(earlier: Any, pushed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the configs that the files make to those of a card, of which the rest (such as `default`) stays."""
    merged = {entry.get("config_name", "default"): dict(entry) for entry in earlier or []}
    for entry in pushed:
        known = merged.setdefault(entry["config_name"], {"config_name": entry["config_name"]})
        # `data_files` may also be a single path, which says nothing about splits
        parts = known.get("data_files") or []
        splits = {part["split"]: part for part in parts if isinstance(part, dict) and "split" in part}
        known["data_files"] = list({**splits, **{part["split"]: part for part in entry["data_files"]}}.values())
    return list(merged.values())


# ---- cards


def _base_card(publication: Publication, head: Head, repo_id: str) -> str | None:
    """Return the card whose text is kept: that of the head, or of the folder if only that was written by a person."""
    local = publication.text("README.md")
    at_head = head.read("README.md").decode() if "README.md" in head.files else None
    if at_head is None or local is None or not is_edited(local):
        return at_head if at_head is not None else local
    if not is_edited(at_head):
        return local
    logger.warning(f"The cards of {repo_id} and of the folder were both edited by hand; the text on the Hub is kept.")
    return at_head


def _with_metadata(card: str, license: str | None, tags: list[str] | None) -> str:
    """Add the licence and the tags that the caller gave to the metadata of a card."""
    if not license and not tags:
        return card
    metadata, body, _ = split_card(card)
    if license:
        metadata["license"] = license
    if tags:
        named = metadata.get("tags") or []
        metadata["tags"] = list(dict.fromkeys([*(named if isinstance(named, list) else [named]), *tags]))
    return join_card(metadata, body)


# ---- the branch that is pushed to


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
        retried(lambda: self.api.create_repo(**self.repo, private=private, exist_ok=True), f"Creating {self.repo_id}")
        if self.revision != "main" and not self.revision.startswith("refs/"):
            retried(
                lambda: self.api.create_branch(**self.repo, branch=self.revision, exist_ok=True),
                f"Creating the branch {self.revision}",
            )

    def check_visibility(self, private: bool | None, controlled: bool) -> None:
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
        """Return the files of the branch as it is now."""
        commit = str(self.api.repo_info(**self.repo, revision=self.revision).sha)
        tree = self.api.list_repo_tree(**self.repo, recursive=True, revision=commit)
        return Head(self, commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)})

    def commit(self, head: Head, change: Change, message: str, **options: Any) -> CommitInfo:
        """Commit a change on condition that the head is still the same."""
        added = [CommitOperationAdd(name, content) for name, content in change.files.items()]
        deleted = [CommitOperationDelete(name) for name in change.deletions]
        return self.api.create_commit(
            **self.repo,
            operations=[*added, *deleted],
            commit_message=message,
            revision=self.revision,
            parent_commit=head.commit,  # without it, files of a commit that somebody made since would be overwritten
            **options,
        )


@dataclass
class Head:
    """The files of a branch at one commit.

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
        """Download a small file, and compare it with the checksum that the head lists for it.

        The cache of the Hub's client is not used: a card that is damaged there would be published again.
        """
        for _ in range(_DOWNLOADS if name not in self._read else 0):
            with tempfile.TemporaryDirectory(prefix="fmri-lm-head-") as folder:
                path = self.branch.api.hf_hub_download(
                    **self.branch.repo, filename=name, revision=self.commit, local_dir=folder, force_download=True
                )
                content = Path(path).read_bytes()
            if is_same(content, self.files[name]):
                self._read[name] = content
                break
        if name not in self._read:
            raise HubAccessError(
                f"{name} of {self.branch.repo_id} arrives with other bytes than the repository lists; nothing was "
                "committed. Something between here and the Hub changes files: check proxies and disks."
            )
        return self._read[name]

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; empty when there is no such file, or no object in it."""
        if name not in self.files:
            return {}
        try:
            record = json.loads(self.read(name))
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}
