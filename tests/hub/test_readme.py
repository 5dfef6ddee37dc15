"""The examples of the README's section on the Hub run as written; only `HF_ENDPOINT` is another."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_processes import client_environment

README = Path(__file__).parents[2] / "README.md"

PREPARE = """
import numpy as np, tiny
from fmri_lm_hf.scans import write_scan_dataset
tiny.save(folder + "/demo_output/model")
names = "\\t".join(tiny.atlas().roi_names)
np.savetxt(folder + "/sub-01_timeseries.tsv", tiny.scan(), delimiter="\\t", header=names, comments="")
rows = [{"scan_id": f"s{i}", "subject_id": f"u{i}", "site": "A", "t_r": 2.0, "bold": tiny.scan(i)} for i in range(3)]
write_scan_dataset(rows, folder + "/scans", tiny.atlas())
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
    client.run(PREPARE, folder=str(tmp_path))
    environment = client_environment(hub, tmp_path / "home")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for code in ("set -e\n" + "\n".join(blocks["bash"]), "\n".join(blocks["python"])):
        program = ["bash", "-c"] if code.startswith("set -e") else [sys.executable, "-c"]
        done = subprocess.run([*program, code], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["s0 2.0", "s1 2.0", "s2 2.0"]
    assert len(hub.state("models/my-lab/fmri-lm-demo")["commits"]) == 2
    assert hub.state("models/my-lab/fmri-lm-mine")["private"]
    assert "adapter_model.safetensors" in hub.state("models/my-lab/fmri-lm-lora")["files"]
