"""Stress test: kill a command at random moments and continue it, and run it twice at once; count wrong outcomes.

Each kill hits the main process or its whole process group, with one or two workers, at a random moment after the output
folder appears. The command is then run again: the folder must equal that of an undisturbed run, byte for byte, and no
process may be left.

    python benchmarks/kills.py scans --kills 100 --pairs 20
    python benchmarks/kills.py corpus --kills 100 --pairs 20
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


class ScansCommand:
    """`fmri-lm scans` of tables, of which one is constant and fails."""

    def __init__(self, folder: Path) -> None:
        self.tables = folder / "tables"
        self.tables.mkdir()
        rng = np.random.default_rng(0)
        for i in range(N_SCANS):
            bold = rng.normal(size=(100, 20)).astype(np.float32) * (i != 7)
            np.save(self.tables / f"sub-{i:03d}_bold.npy", bold)

    def words(self, out: Path) -> list[str | Path]:
        return ["scans", "files", self.tables, "--out", out, "--t-r", "2", "--shard-mb", "0.05"]


class CorpusCommand:
    """`fmri-lm corpus build` of simulated scans."""

    def __init__(self, folder: Path) -> None:
        from fmri_lm_hf.models.atlas import Atlas
        from fmri_lm_hf.scans.dataset import write_scan_dataset
        from fmri_lm_hf.simulation import Site, iter_cohort

        self.scans = folder / "scans"
        names = [f"LH_{network}_{k}" for network in ("Vis", "Default", "Cont") for k in range(8)]
        atlas = Atlas.from_names(names, "small")
        write_scan_dataset(iter_cohort(atlas, [Site("A", N_SCANS, n_timepoints=120)]), self.scans, atlas)

    def words(self, out: Path) -> list[str | Path]:
        return ["corpus", "build", self.scans, "--out", out, "--components", "5", "--simulated"]


COMMANDS = {"scans": ScansCommand, "corpus": CorpusCommand}


class Trial:
    """A command, the folder of an undisturbed run, and the duration of such a run."""

    def __init__(self, folder: Path, command: ScansCommand | CorpusCommand) -> None:
        self.folder, self.command = folder, command
        self.out = folder / "out"
        self.seconds = {}
        for workers in (1, 2):
            self.whole = folder / f"whole-{workers}" / "out"  # a card has its folder's name: both must be alike
            self.whole.parent.mkdir()
            begun = time.monotonic()
            subprocess.run(self.words(self.whole, workers), check=True, capture_output=True)
            self.seconds[workers] = time.monotonic() - begun
        if contents(folder / "whole-1" / "out") != contents(self.whole):
            raise SystemExit("One worker and two do not write the same.")

    def words(self, out: Path, workers: int = 1) -> list[str]:
        words = [sys.executable, "-m", "fmri_lm_hf.cli", *self.command.words(out), "--workers", workers]
        return [str(word) for word in words]

    def is_whole(self) -> bool:
        return contents(self.out) == contents(self.whole)

    def kill_once(self, chance: random.Random) -> str:
        """Kill the command once; return the outcome in words."""
        workers = chance.choice([1, 2])
        shutil.rmtree(self.out, ignore_errors=True)
        begun = time.monotonic()
        process = subprocess.Popen(
            self.words(self.out, workers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # before the folder exists there is nothing to break; most kills would hit imports
        while process.poll() is None and not self.out.exists():
            time.sleep(0.002)
        time.sleep(chance.random() * max(self.seconds[workers] - (time.monotonic() - begun), 0.5))
        # children are listed before the kill: afterwards nobody knows whose they were
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        was_running = process.poll() is None
        if was_running:
            (os.killpg if chance.random() < 0.3 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()
        again = subprocess.run(self.words(self.out), capture_output=True, text=True)
        if alive:
            return f"{len(alive)} processes were left"
        if again.returncode or not self.is_whole():
            return f"not equal: {again.stderr[-200:]}"
        return "equal, killed while it ran" if was_running else "equal, had ended before"

    def run_twice(self) -> str:
        """Run two processes at once; return the outcome in words."""
        shutil.rmtree(self.out, ignore_errors=True)
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [subprocess.Popen(self.words(self.out), **pipes) for _ in range(2)]  # type: ignore[call-overload]
        codes = sorted(process.wait() for process in processes)
        if not self.is_whole():
            return f"not equal (exit codes {codes})"
        return "equal, one refused" if codes == [0, 2] else "equal, one after the other"


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(Path(name), COMMANDS[arguments.command](Path(name)))
        kills = Counter(trial.kill_once(chance) for _ in range(arguments.kills))
        pairs = Counter(trial.run_twice() for _ in range(arguments.pairs))
    for what, counts in (("kill", kills), ("pair", pairs)):
        for outcome, count in sorted(counts.items()):
            print(f"{count:4d} {what}: {outcome}")
    return int(any(not outcome.startswith("equal") for outcome in kills + pairs))


if __name__ == "__main__":
    sys.exit(main())
