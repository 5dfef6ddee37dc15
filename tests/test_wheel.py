"""The built wheel in a fresh environment: the first minute of somebody who types `pip install`."""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_packaging import PROJECT, RELATIVE_LINK, ROOT

pytestmark = pytest.mark.slow

# The first thing that the README shows after the installation.
FIRST_MINUTE = re.search(
    r"^## An answer in 30 seconds\n(.*?)^## ",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and an empty folder that its commands run in."""

    folder: Path
    work: Path

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a program of the environment as a user does, without anything of this checkout."""
        # a user has none of what says where this checkout, its environment or its pytest is
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "COVERAGE")) and name != "VIRTUAL_ENV"
        }
        binaries = self.folder / ("Scripts" if os.name == "nt" else "bin")
        return subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=self.work,
            env={**kept, "PATH": f"{binaries}{os.pathsep}{kept['PATH']}"},
            capture_output=True,
            text=True,
        )

    def install(self, *requirements: str) -> None:
        """Install with pip, at the versions that the package is tested with."""
        constraint = ("--constraint", str(ROOT / "constraints.txt"))
        done = self.run("python", "-m", "pip", "install", "--quiet", *constraint, *requirements)
        assert done.returncode == 0, done.stderr[-4000:]


def new_environment(folder: Path) -> Environment:
    venv.create(folder / "env", with_pip=True)
    (folder / "empty").mkdir()
    return Environment(folder / "env", folder / "empty")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with the wheel and the source distribution of this checkout."""
    builder = new_environment(tmp_path_factory.mktemp("builder"))
    builder.install(*PROJECT["build-system"]["requires"])
    out = tmp_path_factory.mktemp("dist")
    code = f"import os; os.chdir({str(ROOT)!r}); from hatchling.cli import hatchling; hatchling()"
    done = builder.run("python", "-c", code, "build", "-d", str(out))
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """An environment with the wheel and what it declares, and nothing else."""
    environment = new_environment(tmp_path_factory.mktemp("user"))
    environment.install("torch")  # first and alone: pinned, it keeps pip from choosing a build with CUDA
    environment.install(str(wheel))
    return environment


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "fmri_lm_hf",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    expected = (
        "py.typed",
        "bundled/example_scan.tsv",
        "bundled/example_scan.json",
        "bundled/weights/config.json",
    )
    assert {f"fmri_lm_hf/{name}" for name in expected} <= set(names)
    assert [name for name in names if name.startswith("fmri_lm_hf/model_cards/")]
    assert [name for name in names if name.startswith("fmri_lm_hf/training/recipes/")]


def test_the_metadata_have_links_that_work_anywhere(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(name))
    readme = str(metadata.get_payload())
    assert RELATIVE_LINK.findall(readme) == []
    assert len(readme) > 1000
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL"))
    assert {"Repository", "Issues", "Documentation", "Changelog"} <= set(urls)


def test_the_source_distribution_has_no_binary_fixtures(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    binary = re.compile(r"\.(pt|parquet|safetensors|npz|npy|png|gz)$")
    bundled = ["understanding/model", "understanding_smollm2/adapter", "weights/model"]
    expected = [f"fmri_lm_hf/bundled/{name}.safetensors" for name in bundled]
    assert sorted(name for name in names if binary.search(name)) == expected
    assert not [name for name in names if name.startswith(("tests/", ".ci/", "shared/"))]
    assert {"README.md", "LICENSE", "pyproject.toml", "training/recipes/tokenizer.yaml"} <= set(names)


def test_one_line_gives_a_true_answer(installed):
    done = installed.run("fmri-lm", "ask", "example", "Which network pair is the weakest?")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "The weakest coupling of 15 pairs of different networks is between cerebellum and fronto-"
    )
    assert "-0.66" in done.stdout
    done = installed.run("fmri-lm", "ask", "example", "hello")
    assert (done.returncode, done.stderr) == (3, "")
    assert "You can ask, for example" in done.stdout


def test_a_description_agrees_with_the_scan(installed):
    done = installed.run("fmri-lm", "describe", "example", "--out", "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    page = (installed.work / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    record = json.loads(installed.run("fmri-lm", "describe", "example", "--json").stdout)
    assert len(record["statements"]) >= 4
    assert all(each["value"] is not None and each["relative_to"] for each in record["statements"])


def test_the_first_minute_of_the_readme(installed):
    assert FIRST_MINUTE is not None
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", FIRST_MINUTE[1], re.MULTILINE | re.DOTALL))
    commands = [shlex.split(line, comments=True) for line in blocks["bash"].splitlines()]
    assert {command[1] for command in commands} == {"ask", "describe"}
    for command in commands:
        done = installed.run(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    *lines, last = blocks["python"].strip().splitlines()
    done = installed.run("python", "-c", "\n".join([*lines, f"print({last})"]))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "between fronto-parietal and sensorimotor" in done.stdout
    assert "no diagnosis" in done.stdout


def test_the_python_interface_gives_a_true_answer(installed):
    code = """
import fmri_lm_hf
from transformers import pipeline

model, processor = fmri_lm_hf.load_bundled_model()
ask = pipeline("fmri-to-text", model=model, processor=processor)
print(ask(fmri_lm_hf.example_scan(), text="Which network pair is the weakest?")[0]["generated_text"])
"""
    done = installed.run("python", "-c", code)
    assert (done.returncode, done.stdout) == (0, "between cerebellum and sensorimotor\n"), done.stderr


def test_every_command_starts(installed):
    commands = re.findall(r"^    ([a-z-]+)", installed.run("fmri-lm", "--help").stdout, re.MULTILINE)
    assert "ask" in commands
    for command in commands:
        done = installed.run("fmri-lm", command, "--help")
        assert (done.returncode, done.stderr) == (0, ""), command
    done = installed.run("fmri-lm", "study")
    assert (done.returncode, done.stdout) == (2, "")
    assert "python -m experiments.ablation" in done.stderr


def test_every_module_is_importable(installed):
    """What a module imports is declared, extras aside."""
    code = (
        "import importlib, pkgutil, fmri_lm_hf\n"
        "for each in pkgutil.walk_packages(fmri_lm_hf.__path__, 'fmri_lm_hf.'):\n"
        "    if not each.name.endswith('__main__'):\n"
        "        importlib.import_module(each.name)\n"
    )
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sys.version_info[:2] == tuple(
        map(int, installed.run("python", "-c", "import sys; print(*sys.version_info[:2])").stdout.split())
    )
