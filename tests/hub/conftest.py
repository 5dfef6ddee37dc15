"""Fixtures of the stand-in Hub and of a client of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_processes import HERE, Client, Hub, client_environment


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    process = subprocess.Popen([sys.executable, str(HERE / "hub_server.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Hub(process.stdout.readline().strip())
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.fixture(autouse=True)
def no_faults_left(hub: Hub) -> Iterator[None]:
    """Faults end with their test: the next module's fixtures are made before this one's first half runs."""
    hub.faults()
    yield
    hub.faults()


@pytest.fixture(scope="session")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client that has imported the package, and starts each snippet from there.

    Server and client live as long as the session; each test module has repositories of its own.
    """
    home = tmp_path_factory.mktemp("hf_home")
    client = Client(client_environment(hub, home), home, ("fmri_lm_hf.hub.push", "tiny", "jinja2"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def saved(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved language model with its processor, training record and scores."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    client.run("import tiny; tiny.save(folder)", folder=folder)
    return folder
