"""Kill `fmri-lm scans` at random moments, continue it, and run it twice at once; count what does not end as it should.

Each kill hits the main process alone or its whole group, with one or two workers, at a random moment after the folder
appears. The command is then given again: the folder has to equal that of a run that nobody disturbed, byte for byte,
and no process may be left.

    python benchmarks/scan_kills.py --kills 100 --pairs 20
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

N_SCANS = 60


def command(folder: Path, out: Path, workers: int = 1) -> list[str]:
    words = [sys.executable, "-m", "fmri_lm_hf.cli", "scans", "files", folder / "tables", "--out", out]
    return [str(word) for word in (*words, "--t-r", 2, "--shard-mb", 0.05, "--workers", workers)]


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def kill_once(folder: Path, chance: random.Random) -> str:
    """The outcome of one kill, in words."""
    out, workers = folder / "out", chance.choice([1, 2])
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(
        command(folder, out, workers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not out.exists():
        time.sleep(0.002)
    time.sleep(chance.random() * (1 if workers == 1 else 6))
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    was_running = process.poll() is None
    if was_running:
        (os.killpg if chance.random() < 0.3 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    again = subprocess.run(command(folder, out), capture_output=True, text=True)
    if alive:
        return f"{len(alive)} processes were left"
    if again.returncode or contents(out) != contents(folder / "whole"):
        return f"not equal: {again.stderr[-200:]}"
    return "equal, killed while it ran" if was_running else "equal, had ended before"


def run_twice(folder: Path) -> str:
    """The outcome of two processes at once."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command(folder, out), **pipes) for _ in range(2)]  # type: ignore[call-overload]
    codes = sorted(process.wait() for process in processes)
    if contents(out) != contents(folder / "whole"):
        return f"not equal (exit codes {codes})"
    return "equal, one refused" if codes == [0, 2] else "equal, one after the other"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, chance = np.random.default_rng(arguments.seed), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tables").mkdir()
        for i in range(N_SCANS):  # one of them is constant, and fails
            bold = rng.normal(size=(100, 20)).astype(np.float32) * (i != 7)
            np.save(folder / "tables" / f"sub-{i:03d}_bold.npy", bold)
        subprocess.run(command(folder, folder / "whole"), check=True, capture_output=True)
        kills = Counter(kill_once(folder, chance) for _ in range(arguments.kills))
        pairs = Counter(run_twice(folder) for _ in range(arguments.pairs))
    for what, counts in (("kill", kills), ("pair", pairs)):
        for outcome, count in sorted(counts.items()):
            print(f"{count:4d} {what}: {outcome}")
    return int(any(not outcome.startswith("equal") for outcome in kills + pairs))


if __name__ == "__main__":
    sys.exit(main())
