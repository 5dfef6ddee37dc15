"""What a push makes of a branch: which files it brings, which it removes, and the card of what is there then.

A push owns the weights of its kind, or the shards of its splits, and what was recorded about them. Everything else
on the branch stays: other configs and splits, what a processor or a person added, and every word of a card that
this program did not write itself.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import CommitInfo, RepoFile
from transformers.utils import logging

from ..cards.rendering import (
    NOT_RECORDED,
    eval_results,
    is_edited,
    join_card,
    sign_card,
    split_card,
    update_card,
)
from ..declarations import DECLARATIONS, is_declared
from .contents import Publication, data_files, kind_of, shard_group
from .download import HubAccessError, is_same, retried
from .records import count_parameters, render_dataset_card, render_model_card

# The branch of a repository that is pushed to: what its head holds, and a commit on top of it.

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


logger = logging.get_logger(__name__)

# The blocks that say that data are simulated, or that a cohort is controlled: such a card always has them.
_ALWAYS_SHOWN = ("simulated", "controlled")
_WEIGHTS = {
    "fmri_lm": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    "fmri_tokenizer": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    "adapter": re.compile(r"adapter_model\.safetensors"),
}
_TRAINING, _RESULTS = _RECORDS = ("training_info.json", "results.json")
_EVAL_RESULTS = ".eval_results/fmri_lm_hf.yaml"
# The small files that a card is made from.
_READ_FOR_CARDS = (
    *("config.json", "adapter_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", *_RECORDS),
)
_RECORDS_OF_DATA = re.compile(r"(?:atlas|provenance|splits|failures)\.json|README\.md")


@dataclass
class Change:
    """What is to be committed on top of a head.

    Attributes
    ----------
    files : dict of str to Path or bytes
        All that the branch shall hold of this push; what is there already is not sent again.
    deletions : list of str
    """

    files: dict[str, Path | bytes]
    deletions: list[str]


def merge(
    publication: Publication,
    head: Head,
    repo_id: str,
    declared: set[str],
    license: str | None = None,
    tags: list[str] | None = None,
) -> Change:
    """What a publication makes of the head of a branch.

    Parameters
    ----------
    publication : Publication
    head : Head
    repo_id : str
        Shown in the card.
    declared : set of str
        What is declared about the cohort behind a dataset.
    license : str, optional
        Identifier of the Hub, such as `"cc-by-4.0"`, for the card.
    tags : list of str, optional
        Further tags of the card.
    """
    files = {name: content for name, content in publication.files.items() if name != "README.md"}
    is_another = False
    if publication.kind == "dataset":
        deletions = _replaced_shards(files, head)
        rendered = _dataset_card(publication, head, deletions, repo_id, declared)
    else:
        deletions = _replaced_weights(publication, files, head)
        _keep_records(publication, files, deletions, head)
        result = _result(files, head, deletions)
        is_another = result.kind != _kind_at(head)
        if license is not None:
            result.set_json(_TRAINING, {**result.json(_TRAINING), "license": license})
        _set_eval_results(files, deletions, head, eval_results(repo_id, result.json(_RESULTS)))
        n_parameters = count_parameters(result) or _count_at(head, deletions, result.kind)
        rendered = render_model_card(result, repo_id, n_parameters)
    card = update_card(_base_card(publication, head, repo_id), rendered, _ALWAYS_SHOWN, add_blocks=is_another)
    files["README.md"] = sign_card(_with_metadata(card, license, tags)).encode()
    return Change(files, deletions)


def declared_at(head: Head) -> set[str]:
    """What the card and the records at the head of a branch declare about their cohort."""
    records: list[Any] = [head.json(name) for name in head.files if _RECORDS_OF_DATA.fullmatch(name)]
    card = head.read("README.md").decode() if "README.md" in head.files else ""
    records.append(split_card(card)[0])
    return {name for name in DECLARATIONS if is_declared(records, name) or f"<!-- generated:{name}" in card}


# ---- models


def _replaced_weights(publication: Publication, files: dict[str, Path | bytes], head: Head) -> list[str]:
    """Shards of earlier weights, which would be loaded, or counted, with the new ones."""
    owned = _WEIGHTS.get(publication.kind)
    if owned is None or not any(owned.fullmatch(name) for name in files):
        return []
    return [name for name in head.files if owned.fullmatch(name) and name not in files]


def _keep_records(
    publication: Publication, files: dict[str, Path | bytes], deletions: list[str], head: Head
) -> None:
    """Take what the push does not record from the head while the weights are those; drop it when they are others."""
    owned = _WEIGHTS.get(publication.kind)
    weights = {name: content for name, content in files.items() if owned and owned.fullmatch(name)}
    if not weights:
        return
    are_same = not deletions and all(
        is_same(content, head.files.get(name)) for name, content in weights.items()
    )
    recorded = publication.json(_TRAINING)
    at_head = head.json(_TRAINING)
    says_nothing = not recorded or recorded == {"training": NOT_RECORDED}
    if are_same:
        if says_nothing and at_head:
            files.pop(_TRAINING, None)
        elif says_nothing:
            _set(files, _TRAINING, {"training": NOT_RECORDED})
        return
    if _RESULTS not in files and _RESULTS in head.files:
        deletions.append(_RESULTS)
    if says_nothing:
        # nobody says that the new weights have nothing to do with those of before
        inherited = {"simulated": True} if is_declared(at_head, "simulated") else {}
        _set(files, _TRAINING, {"training": NOT_RECORDED, **inherited})


def _set_eval_results(
    files: dict[str, Path | bytes], deletions: list[str], head: Head, scores: str | None
) -> None:
    """What the Hub reads of the scores follows from their record, and goes with it."""
    if scores is not None:
        files[_EVAL_RESULTS] = scores.encode()
    elif _EVAL_RESULTS in head.files:
        deletions.append(_EVAL_RESULTS)


def _result(files: dict[str, Path | bytes], head: Head, deletions: list[str]) -> Publication:
    """All that the branch holds after the push, as far as a card is made from it."""
    after = {name for name in head.files if name not in deletions} | set(files)
    known = dict(files)
    for name in _READ_FOR_CARDS:
        if name in after and name not in files:
            known[name] = head.read(name)
    config = Publication("", known).json("config.json") if "config.json" in after else None
    return Publication(kind_of(after, config=config), known)


def _kind_at(head: Head) -> str | None:
    try:
        return kind_of(head.files, config=head.json("config.json"))
    except ValueError:
        return None


def _count_at(head: Head, deletions: list[str], kind: str) -> int | None:
    """Parameters of the weights at a head, from the headers of their files."""
    owned = _WEIGHTS.get(kind)
    total = 0
    for name in head.files:
        if owned and owned.fullmatch(name) and name.endswith(".safetensors") and name not in deletions:
            header = head.branch.api.parse_safetensors_file_metadata(
                head.branch.repo_id, name, revision=head.commit
            )
            total += sum(header.parameter_count.values())
    return total or None


# ---- datasets


def _replaced_shards(files: dict[str, Path | bytes], head: Head) -> list[str]:
    """Shards of an earlier push of the same splits of the same configs; other splits and configs stay."""
    groups = {shard_group(name) for name in files} - {None}
    return [name for name in head.files if name not in files and shard_group(name) in groups]


def _dataset_card(
    publication: Publication, head: Head, deletions: list[str], repo_id: str, declared: set[str]
) -> str:
    """The card of a dataset; where the push is a part of what is there, the card that is there with its metadata."""
    ours = {shard_group(name) for name in publication.files} - {None}
    others = [
        name
        for name in head.files
        if name not in deletions and shard_group(name) is not None and shard_group(name) not in ours
    ]
    rendered = render_dataset_card(publication, repo_id, declared)
    if not others or "README.md" not in head.files:
        return rendered
    metadata, body, _ = split_card(rendered)
    theirs, their_body, _ = split_card(head.read("README.md").decode())
    parts = data_files([*others, *publication.files])
    pushed = {part["config_name"] for part in data_files(publication.files)}
    metadata["configs"] = _merged_configs(theirs.get("configs"), parts)
    if theirs.get("dataset_info"):
        # sizes of before, which `load_dataset` would compare with what it finds
        infos = (
            theirs["dataset_info"] if isinstance(theirs["dataset_info"], list) else [theirs["dataset_info"]]
        )
        metadata["dataset_info"] = [i for i in infos if i.get("config_name", "default") not in pushed]
    shown = {name: block for name in _ALWAYS_SHOWN if (block := _block(body, name))}
    kept = their_body if "<!-- generated:" in their_body else body
    missing = [block for name, block in shown.items() if f"<!-- generated:{name}" not in kept]
    return join_card(metadata, "\n\n".join([*missing, kept.lstrip("\n")]))


def _merged_configs(theirs: Any, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The configs of a card, with those that the files make: what else a config says (`default`) stays."""
    merged = {entry.get("config_name", "default"): dict(entry) for entry in theirs or []}
    for entry in ours:
        known = merged.setdefault(entry["config_name"], {"config_name": entry["config_name"]})
        earlier = known.get("data_files")
        splits = {part["split"]: part for part in earlier or [] if isinstance(part, dict) and "split" in part}
        known["data_files"] = list(
            {**splits, **{part["split"]: part for part in entry["data_files"]}}.values()
        )
    return list(merged.values())


def _block(body: str, name: str) -> str | None:
    match = re.search(rf"<!-- generated:{name}\b.*?<!-- /generated:{name} -->", body, re.DOTALL)
    return match[0] if match else None


# ---- both


def _base_card(publication: Publication, head: Head, repo_id: str) -> str | None:
    """The card whose text stays: that at the head, or that of the folder where a person wrote it."""
    local = publication.text("README.md")
    theirs = head.read("README.md").decode() if "README.md" in head.files else None
    if theirs is None or local is None or not is_edited(local):
        return theirs if theirs is not None else local
    if not is_edited(theirs):
        return local
    logger.warning(
        f"The cards of {repo_id} and of the folder were both written by hand; the text on the Hub stays as it is there."
    )
    return theirs


def _with_metadata(card: str, license: str | None, tags: list[str] | None) -> str:
    """A card with what the caller states about it."""
    if not license and not tags:
        return card
    metadata, body, _ = split_card(card)
    if license:
        metadata["license"] = license
    if tags:
        named = metadata.get("tags") or []
        metadata["tags"] = list(dict.fromkeys([*(named if isinstance(named, list) else [named]), *tags]))
    return join_card(metadata, body)


def _set(files: dict[str, Path | bytes], name: str, record: Any) -> None:
    publication = Publication("", files)
    publication.set_json(name, record)
