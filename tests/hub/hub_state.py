"""What the stand-in Hub of these tests holds, and what it answers: `hub_server.py` puts it behind HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field

import yaml

USERS = {
    "hf_" + "w" * 34: {"name": "founder", "orgs": ["org", "my-lab", "Qwen"]},
    "hf_" + "r" * 34: {"name": "reader", "orgs": []},
}
LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".npy", ".gz", ".png")
PAGE_SIZE = 7  # entries in one page of a tree: small, so that clients must follow the pages


class Reply(Exception):
    """An answer: raised from anywhere in a handler."""

    def __init__(self, status: int, body: object = b"", error: str = "", code: str = "", **headers: str):
        super().__init__(status, error)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if error:
            body = {"error": error}
            self.headers["X-Error-Message"] = error
        if code:
            self.headers["X-Error-Code"] = code
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            self.headers.setdefault("Content-Type", "application/json")
        self.body = body


@dataclass
class File:
    oid: str  # git blob id: of the content, or of the LFS pointer
    size: int
    sha256: str | None = None  # of LFS files

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def info(self, path: str) -> dict:
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}} if self.sha256 else {}
        return {"type": "file", "path": path, "oid": self.oid, "size": self.size, **lfs}


@dataclass
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, File]
    description: str = ""
    date: str = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    kind: str  # "models" or "datasets"
    id: str
    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add_commit(self, branch: str, title: str, files: dict[str, File], description: str = "") -> Commit:
        parent = self.branches.get(branch)
        seed = json.dumps([parent, title, len(self.commits), sorted((p, f.etag) for p, f in files.items())])
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, title, files, description)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def add_blob(self, content: bytes) -> File:
        oid = git_oid(content)
        self.blobs[oid] = content
        return File(oid, len(content))

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Reply(404, error=f"Invalid rev id: {revision}", code="RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        commits, commit = [], self.at(revision)
        while True:
            commits.append(commit)
            if commit.parent is None:
                return commits
            commit = self.commits[commit.parent]

    def content(self, file: File) -> bytes:
        return self.lfs[file.sha256] if file.sha256 else self.blobs[file.oid]


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The state of the server; every request holds its lock while it is applied."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[dict] = []
        self.log: list[dict] = []
        self.release = threading.Event()

    def fault_for(self, step: str) -> dict | None:
        for fault in self.faults:
            if fault["step"] == step and fault["count"] > 0:
                if fault["skip"] > 0:
                    fault["skip"] -= 1
                    return None
                fault["count"] -= 1
                return fault
        return None

    # ---- who may do what

    def repo(self, kind: str, repo_id: str, user: dict | None, write: bool = False, files: bool = False) -> Repo:
        repo = self.repos.get((kind, repo_id))
        owns = user is not None and repo_id.split("/")[0] in (user["name"], *user["orgs"])
        if repo is None or (repo.private and not owns):
            raise Reply(404 if user else 401, error="Repository not found", code="RepoNotFound")
        if write and not owns:
            raise Reply(403, error="You don't have the rights to write to this repository")
        if files and repo.gated and not owns and (user is None or user["name"] not in repo.granted):
            error = f"Access to {'model' if kind == 'models' else 'dataset'} {repo_id} is restricted."
            raise Reply(403 if user else 401, error=error, code="GatedRepo")
        return repo

    # ---- control by the test

    def control(self, what: str, body: bytes) -> Reply:
        if what == "faults":
            default = {"act": "status", "when": "before", "status": 503, "skip": 0, "count": 1}
            self.faults = [{**default, **fault} for fault in json.loads(body)]
            self.release.clear()
            self.log.clear()
            return Reply(200, {})
        if what == "release":
            self.release.set()
            return Reply(200, {})
        if what == "log":
            return Reply(200, self.log)
        state = {}
        for (kind, repo_id), repo in self.repos.items():
            history = repo.history("main")
            state[f"{kind}/{repo_id}"] = {
                "private": repo.private,
                "branches": repo.branches,
                "commits": [commit.title for commit in history],
                "descriptions": [commit.description for commit in history],
                "files": {path: file.etag for path, file in history[0].files.items()},
            }
        return Reply(200, state)

    # ---- the API of the Hub

    def create_repo(self, payload: dict, user: dict | None, endpoint: str) -> Reply:
        if user is None:
            raise Reply(401, error="Invalid username or password.")
        namespace = payload.get("organization") or user["name"]
        if namespace not in (user["name"], *user["orgs"]):
            raise Reply(403, error=f"You don't have the rights to create a repository under {namespace}")
        kind = f"{payload.get('type') or 'model'}s"
        repo_id = f"{namespace}/{payload['name']}"
        url = f"{endpoint}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if (kind, repo_id) in self.repos:
            raise Reply(409, {"error": "You already created this repo", "url": url})
        private = payload.get("visibility") == "private" or bool(payload.get("private"))
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private=private)
        repo.add_commit("main", "initial commit", {".gitattributes": repo.add_blob(b"*.bin filter=lfs\n")})
        return Reply(200, {"url": url, "name": repo_id, "id": repo_id})

    def preupload(self, repo: Repo, revision: str, payload: dict) -> Reply:
        known = repo.at(revision).files
        files = []
        for file in payload["files"]:
            sample = base64.b64decode(file.get("sample", ""))
            is_lfs = file["path"].endswith(LFS_SUFFIXES) or b"\0" in sample or file["size"] > 10 * 2**20
            oid = known[file["path"]].etag if file["path"] in known else None
            mode = "lfs" if is_lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Reply(200, {"files": files})

    def lfs_batch(self, repo: Repo, payload: dict, endpoint: str) -> Reply:
        objects = []
        for item in payload["objects"]:
            where = f"{repo.kind}/{repo.id}/{item['oid']}"
            actions = {"upload": {"href": f"{endpoint}/_lfs/{where}"}}
            actions["verify"] = {"href": f"{endpoint}/_lfs_verify/{where}"}
            objects.append({**item, **({} if item["oid"] in repo.lfs else {"actions": actions})})
        return Reply(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, branch: str, body: bytes, endpoint: str, as_pr: bool) -> Reply:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = lines[0]["value"]
        if branch not in repo.branches:
            raise Reply(404, error=f"Invalid rev id: {branch}", code="RevisionNotFound")
        head = repo.at(branch)
        if header.get("parentCommit", head.sha) != head.sha:
            raise Reply(412, error="A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                files[path] = repo.add_blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.lfs:
                    raise Reply(400, error=f"LFS pointer pointed to a file that does not exist: {path}")
                size = len(repo.lfs[value["oid"]])
                pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n"
                files[path] = File(git_oid(pointer.encode()), size, value["oid"])
            elif line["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Reply(404, error="A file with this name doesn't exist", code="EntryNotFound")
            else:
                raise Reply(400, error=f"Unknown operation {line['key']}")
        about = {"success": True}
        if as_pr:
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
            branch = f"refs/pr/{number}"
            repo.branches[branch] = head.sha
            about["pullRequestUrl"] = f"{endpoint}/{repo.id}/discussions/{number}"
        commit = repo.add_commit(branch, header["summary"], files, header.get("description", ""))
        url = f"{endpoint}/{repo.id}/commit/{commit.sha}"
        return Reply(200, {**about, "commitOid": commit.sha, "commitUrl": url})

    def info(self, repo: Repo, revision: str, query: dict) -> Reply:
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in commit.files]
        info = {
            "_id": repo.id,
            "id": repo.id,
            "sha": commit.sha,
            "private": repo.private,
            "gated": repo.gated,
        }
        times = {"lastModified": commit.date, "createdAt": commit.date}
        return Reply(200, {**info, **times, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def tree(self, repo: Repo, revision: str, folder: str, query: dict, url: str) -> Reply:
        commit = repo.at(revision)
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict] = {}
        for path, file in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                name = prefix + "/".join(parts[:depth])
                if depth == 1 or query.get("recursive") == "true":
                    oid = hashlib.sha1(name.encode()).hexdigest()
                    entries[name] = {"type": "directory", "path": name, "oid": oid, "size": 0}
            if len(parts) == 1 or query.get("recursive") == "true":
                entries[path] = file.info(path)
        if folder and not entries:
            raise Reply(404, error=f"{folder} does not exist", code="EntryNotFound")
        if query.get("expand") == "true":
            last = {"id": commit.sha, "title": commit.title, "date": commit.date}
            entries = {path: {**entry, "lastCommit": last} for path, entry in entries.items()}
        start = int(query.get("cursor", 0))
        page = list(entries.values())[start : start + PAGE_SIZE]
        if start + PAGE_SIZE >= len(entries):
            return Reply(200, page)
        kept = "&".join(f"{key}={value}" for key, value in query.items() if key != "cursor")
        return Reply(200, page, Link=f'<{url}?{kept}&cursor={start + PAGE_SIZE}>; rel="next"')

    def paths_info(self, repo: Repo, revision: str, form: dict[str, list[str]]) -> Reply:
        commit, found = repo.at(revision), []
        for path in form.get("paths", []):
            if path in commit.files:
                found.append(commit.files[path].info(path))
            elif any(name.startswith(path.rstrip("/") + "/") for name in commit.files):
                oid = hashlib.sha1(path.encode()).hexdigest()
                found.append({"type": "directory", "path": path, "oid": oid, "size": 0})
        if form.get("expand", ["false"])[0].lower() == "true":
            last = {"id": commit.sha, "title": commit.title, "date": commit.date}
            found = [{**entry, "lastCommit": last} for entry in found]
        return Reply(200, found)

    def resolve(self, repo: Repo, revision: str, path: str, endpoint: str, headers) -> Reply:
        commit = repo.at(revision)
        if path not in commit.files:
            raise Reply(404, error="Entry not found", code="EntryNotFound", X_Repo_Commit=commit.sha)
        file = commit.files[path]
        about = {"X_Repo_Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept_Ranges": "bytes"}
        if file.sha256:
            # Another host name, as the Hub's storage has: clients follow redirects of HEAD within a host only.
            storage = endpoint.replace("127.0.0.1", "localhost")
            where = f"{storage}/_lfs/{repo.kind}/{repo.id}/{file.sha256}"
            linked = {"X_Linked_Size": str(file.size), "X_Linked_ETag": f'"{file.sha256}"'}
            return Reply(302, b"", Location=where, **about, **linked)
        return ranged(repo.content(file), headers, about)


def ranged(content: bytes, headers, about: dict[str, str]) -> Reply:
    """The content, or the part of it that a Range header asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
    if match is None:
        return Reply(200, content, **about)
    if match[1]:
        start, stop = int(match[1]), int(match[2]) + 1 if match[2] else len(content)
    else:
        start, stop = max(len(content) - int(match[2]), 0), len(content)
    if start >= len(content):
        return Reply(416, b"", Content_Range=f"bytes */{len(content)}")
    part = content[start:stop]
    return Reply(206, part, Content_Range=f"bytes {start}-{start + len(part) - 1}/{len(content)}", **about)


def validated(card: str) -> Reply:
    match = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return Reply(400, {"errors": [{"message": str(error)}], "warnings": []})
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return Reply(200, {"errors": [], "warnings": warnings})


def as_json(commit: Commit) -> dict:
    return {"id": commit.sha, "title": commit.title, "message": "", "authors": [], "date": commit.date}
