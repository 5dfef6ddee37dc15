"""A stand-in of the Hub's HTTP API on 127.0.0.1, in memory, for tests: `python hub_server.py` prints its address.

It answers what `huggingface_hub`, `transformers`, `datasets` and `peft` ask: repositories, commits, preupload, LFS
batch / upload / verify, resolve (ETag, Range, redirects of LFS files), tree, info, refs, tokens, private and gated
repositories. Tests drive it through those clients alone; `/_control/*` lets a test order faults and read the log.

A fault is `{"step", "act", "when", "status", "error", "skip", "count"}`: at the requests of one step (`STEPS`), after
`skip` of them and for `count` of them, answer a status (with the text of an error), cut the connection, hang until
`/_control/release`, send half of the body (`truncate`) or flip one of its bytes (`corrupt`); `when` says whether the
request is applied first, which makes a cut a lost reply.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_state import USERS, Hub, Reply, as_json, ranged, validated

# step of a request: method, pattern of the path
STEPS = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create_repo": ("POST", r"/api/repos/create"),
    "validate_yaml": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", r"/api/\w+/[^/]+/[^/]+/preupload/.+"),
    "commit": ("POST", r"/api/\w+/[^/]+/[^/]+/commit/.+"),
    "branch": ("POST", r"/api/\w+/[^/]+/[^/]+/branch/.+"),
    "tree": ("GET", r"/api/\w+/[^/]+/[^/]+/tree/.+"),
    "info": ("GET", r"/api/(models|datasets)/[^/]+/[^/]+(/revision/.+)?"),
    "lfs_batch": ("POST", r"/.+\.git/info/lfs/objects/batch"),
    "lfs_put": ("PUT", r"/_lfs/.+"),
    "lfs_verify": ("POST", r"/_lfs_verify/.+"),
    "lfs_get": ("GET", r"/_lfs/.+"),
    "head": ("HEAD", r"/.+/resolve/.+"),
    "resolve": ("GET", r"/.+/resolve/.+"),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; waiting between them costs 40 ms a request
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        body = self.read_body()
        url = urlsplit(self.path)
        if url.path.startswith("/_control/"):
            return self.send(self.hub.control(url.path.removeprefix("/_control/"), body))
        step = next(
            (s for s, (method, p) in STEPS.items() if self.command == method and re.fullmatch(p, url.path)),
            "other",
        )
        entry = {"method": self.command, "path": url.path, "step": step, "range": self.headers.get("Range")}
        with self.hub.lock:
            self.hub.log.append(entry)
            fault = self.hub.fault_for(step) or {"act": None, "when": None}
        entry["fault"] = fault["act"]
        reply = None
        if fault["when"] != "before" or fault["act"] in ("truncate", "corrupt"):
            reply = self.applied(url, body)
        if fault["act"] == "hang":
            self.hub.release.wait(30)
        if fault["act"] in ("cut", "hang"):
            return self.cut()
        if fault["act"] == "status":
            headers = {"Retry_After": "0"} if fault["status"] == 429 else {}
            if fault.get("error"):
                reply = Reply(fault["status"], error=fault["error"], **headers)
            else:
                reply = Reply(fault["status"], b"<html>busy</html>", Content_Type="text/html", **headers)
        assert reply is not None
        if fault["act"] == "corrupt":
            reply.body = reply.body[:-1] + bytes([reply.body[-1] ^ 1])
        entry["status"] = reply.status
        self.send(reply, half=fault["act"] == "truncate")

    def applied(self, url, body: bytes) -> Reply:
        with self.hub.lock:
            try:
                return self.route(url, body)
            except Reply as reply:
                return reply

    def route(self, url, body: bytes) -> Reply:
        hub, path = self.hub, url.path
        query = {key: values[-1].lower() for key, values in parse_qs(url.query).items()}
        endpoint = f"http://{self.headers['Host']}"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        user = USERS.get(token)
        if token and user is None:
            raise Reply(401, error="Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            if user is None:
                raise Reply(401, error="Invalid username or password.")
            orgs = [{"name": name, "type": "org"} for name in user["orgs"]]
            return Reply(200, {"type": "user", "name": user["name"], "orgs": orgs, "auth": {"type": "access_token"}})
        if path == "/api/repos/create":
            return hub.create_repo(json.loads(body), user, endpoint)
        if path == "/api/validate-yaml":
            return validated(json.loads(body)["content"])
        if match := re.fullmatch(r"/_lfs(_verify)?/(\w+)/([^/]+/[^/]+)/([0-9a-f]{64})", path):
            repo, oid = hub.repos[match[2], match[3]], match[4]
            if self.command == "PUT":
                if hashlib.sha256(body).hexdigest() != oid:
                    raise Reply(400, error="The uploaded content does not have the announced sha256")
                repo.lfs[oid] = body
                return Reply(200)
            if match[1]:
                return Reply(200 if oid in repo.lfs else 404, {})
            return ranged(repo.lfs[oid], self.headers, {"ETag": f'"{oid}"', "Accept_Ranges": "bytes"})
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            repo = hub.repo("datasets" if match[1] else "models", match[2], user, write=True)
            return hub.lfs_batch(repo, json.loads(body), endpoint)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo = hub.repo("datasets" if match[1] else "models", match[2], user, files=True)
            return hub.resolve(repo, unquote(match[3]), unquote(match[4]), endpoint, self.headers)
        match = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([\w-]+)(?:/([^/]+)(?:/(.+))?)?)?", path)
        if match is None:
            raise Reply(404, error=f"No such page: {path}")
        kind, repo_id, action, revision, rest = match.groups()
        writes = self.command in ("POST", "PUT") and action != "paths-info"
        repo = hub.repo(kind, repo_id, user, write=writes)
        revision = unquote(revision or "main")
        if action in (None, "revision"):
            return hub.info(repo, revision, query)
        if action == "preupload":
            return hub.preupload(repo, revision, json.loads(body))
        if action == "commit":
            return hub.commit(repo, revision, body, endpoint, as_pr=query.get("create_pr") == "1")
        if action == "tree":
            return hub.tree(repo, revision, unquote(rest or ""), query, endpoint + path)
        if action == "paths-info":
            return hub.paths_info(repo, revision, parse_qs(body.decode()))
        if action == "refs":
            refs = {"branches": repo.branches, "tags": repo.tags, "converts": {}}
            named = {
                name: [{"name": ref, "ref": f"refs/{ref}", "targetCommit": sha} for ref, sha in group.items()]
                for name, group in refs.items()
            }
            return Reply(200, named)
        if action == "commits":
            return Reply(200, [as_json(commit) for commit in repo.history(revision)])
        if action in ("branch", "tag"):
            group = repo.branches if action == "branch" else repo.tags
            payload = json.loads(body or b"{}")
            name = revision if action == "branch" else payload["tag"]
            if name in group:
                raise Reply(409, error=f"Reference already exists: {name}")
            start = payload.get("startingPoint") or "main" if action == "branch" else revision
            group[name] = repo.at(start).sha
            return Reply(200, {})
        if action == "settings":
            settings = json.loads(body)
            repo.gated = settings.get("gated", repo.gated)
            repo.private = settings.get("private", settings.get("visibility") == "private" or repo.private)
            return Reply(200, {})
        if action == "auth-check":
            hub.repo(kind, repo_id, user, files=True)
            return Reply(200, {})
        raise Reply(404, error=f"No such page: {path}")

    # ---- transport

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, reply: Reply, half: bool = False) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if half:
            self.wfile.write(reply.body[: len(reply.body) // 2])
            self.wfile.flush()
            return self.cut()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.hub = Hub()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
