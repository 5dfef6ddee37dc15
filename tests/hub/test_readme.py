"""The examples of the README's section on the Hub run as written; only `HF_ENDPOINT` is another."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo.test_demo import SMALL
from hub_processes import client_environment
from huggingface_hub import ModelCard

README = Path(__file__).parents[2] / "README.md"

# What the commands before it make, at a small size: `make demo`, and a table of a scan with the names of its regions.
PREPARE = """
import os, pathlib, shutil
import numpy as np
from fmri_lm_hf import Atlas
from fmri_lm_hf.demo import run_demo
from fmri_lm_hf.scans import load_scan_dataset, write_scan_dataset
from fmri_lm_hf.simulation import Site, simulate_cohort
os.chdir(folder)
whole = Atlas.load("dosenbach_2010")
kept = [i for name in whole.network_names[:3] for i in np.flatnonzero(np.array(whole.networks) == name)[:4]]
named = [tuple(values[i] for i in kept) for values in (whole.roi_names, whole.networks, whole.coordinates)]
cohort = simulate_cohort(Atlas("twelve", *named), sites=(Site("A", 12, n_timepoints=60), Site("B", 8, n_timepoints=60)))
write_scan_dataset(cohort.dataset, "demo_output/scans", cohort.atlas, parameters={"simulated": True})
run_demo(pathlib.Path("demo_output"), pathlib.Path("demo_output/scans"), labels=["sex"], options=small)
shutil.copytree("demo_output/scans", "scans")
scans, atlas = load_scan_dataset("scans")
header = "\\t".join(atlas.roi_names)
np.savetxt("sub-01_timeseries.tsv", scans[0]["bold"], delimiter="\\t", header=header, comments="")
result = scans["scan_id"][:]
"""
CARD = """
from huggingface_hub import hf_hub_download
result = open(hf_hub_download("my-lab/fmri-lm-demo", "README.md")).read()
"""


def examples() -> dict[str, list[str]]:
    """The code blocks of the section, by language."""
    section = re.search(r"^## On the Hub\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    assert section is not None, "the README has no section 'On the Hub'"
    blocks: dict[str, list[str]] = {"bash": [], "python": []}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", section[1], re.M | re.S):
        blocks[language].append(code)
    return blocks


@pytest.mark.slow
def test_the_examples_on_the_hub_run_as_written(hub, client, tmp_path):
    blocks = examples()
    scan_ids = client.run(PREPARE, folder=str(tmp_path), small=SMALL)
    environment = client_environment(hub, tmp_path / "home")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for code in ("set -e\n" + "\n".join(blocks["bash"]), "\n".join(blocks["python"])):
        program = ["bash", "-c"] if code.startswith("set -e") else [sys.executable, "-c"]
        done = subprocess.run([*program, code], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(scan_ids)
    assert len(hub.state("models/my-lab/fmri-lm-demo")["commits"]) == 2
    assert hub.state("models/my-lab/fmri-lm-mine")["private"]
    assert "adapter_model.safetensors" in hub.state("models/my-lab/fmri-lm-lora")["files"]
    card = client.run(CARD)
    assert "| sex | **this model** | 0." in card
    assert "| sex | majority | 0.500 |" in card
    assert {result.task_name for result in ModelCard(card).data.eval_results} == {"sex"}
    assert len(ModelCard(card).data.eval_results) == 3  # the baselines' scores are not the model's
