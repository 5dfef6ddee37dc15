"""A stand-in Hub in its own process, and clients of it in theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WRITER = "hf_" + "w" * 34  # may write to `founder/*` and `org/*`
READER = "hf_" + "r" * 34


class Hub:
    """The running server, and what a test may order from it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, what: str, payload: Any = None) -> Any:
        body = json.dumps(payload).encode()
        with urllib.request.urlopen(f"{self.url}/_control/{what}", data=body, timeout=30) as response:
            return json.loads(response.read())

    def faults(self, *faults: dict[str, Any]) -> None:
        """Order faults (see `hub_server.py`) and empty the log."""
        self.control("faults", list(faults))

    def log(self) -> list[dict[str, Any]]:
        return self.control("log")

    def state(self, repo: str) -> dict[str, Any]:
        """`commits` (titles, newest first), `files` (path to checksum), `private`, `branches` of `models/org/name`."""
        return self.control("state")[repo]


def client_environment(hub: Hub, home: Path, token: str | None = WRITER, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    kept |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_ETAG_TIMEOUT": "20",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return kept | ({"HF_TOKEN": token} if token else {}) | extra


class ClientError(Exception):
    """An exception that a snippet raised in the client process; `kind` is the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Client:
    """A process with the real clients and a cache of its own; see `hub_client.py`."""

    def __init__(self, environment: dict[str, str], cwd: Path, imports: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "hub_client.py"), *imports],
            env=environment,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, code: str, kept: bool = False, **names: Any) -> int:
        """Start a snippet; return the process id that runs it."""
        assert self.process.stdin is not None
        snippet = {"code": code, "kept": kept, "names": names}
        self.process.stdin.write(json.dumps(snippet, default=str) + "\n")
        self.process.stdin.flush()
        return self._answer()["pid"]

    def wait(self) -> Any:
        answer = self._answer()
        if "error" in answer:
            raise ClientError(answer["error"], answer["message"])
        return answer["result"]

    def run(self, code: str, kept: bool = False, **names: Any) -> Any:
        """Run a snippet and return its variable `result`; a kept one sees the names of those before it."""
        self.start(code, kept, **names)
        return self.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ClientError("ClientGone", f"exit code {self.process.wait(10)}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def wait_until(condition, seconds: float = 20.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "the awaited event did not come"
        threading.Event().wait(0.02)
