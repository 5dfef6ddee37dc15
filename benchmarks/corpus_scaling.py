"""Measure how time and memory of `fmri-lm corpus build` grow with scans, and the gain from a second worker.

    python benchmarks/corpus_scaling.py                          # 1,000 and 10,000 scans, about ten minutes
    python benchmarks/corpus_scaling.py --sizes 100 300 --rois 400 --timepoints 490 --repeats 1

Simulated scans are written as a scan dataset, and a corpus of each size is built in a new process. Printed are ratios:
time and peak memory of the largest size to the smallest, and the time of one worker to two (medians of `--repeats`
builds). Peak memory is the resident set of the building process; with workers, that of the largest process. Results go
to benchmarks/results/corpus_scaling.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fmri_lm_hf.files import write_json

BUILD = """
import json, resource, sys, time
import fmri_lm_hf.corpus.build as build
start = time.perf_counter()
summary = build.build_corpus(sys.argv[1], sys.argv[2], build.CorpusConfig(), workers=int(sys.argv[3]))
seconds = time.perf_counter() - start
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "n_scans": summary.n_scans,
    "seconds": seconds,
    "processor_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
    "peak_rss_mb": max(usage.ru_maxrss for usage in used) / 1024,
}))
"""
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
# BLAS threads of two workers on two cores would compete, and the gain from the second worker would vanish
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def write_scans(folder: Path, n_scans: int, n_rois: int, n_timepoints: int) -> None:
    """Write a simulated scan dataset of two scans a subject."""
    from fmri_lm_hf.models.atlas import Atlas
    from fmri_lm_hf.scans.dataset import write_scan_dataset
    from fmri_lm_hf.simulation import Site, iter_cohort

    names = [f"{side}_{NETWORKS[k % len(NETWORKS)]}_{k}" for k in range(n_rois // 2) for side in ("LH", "RH")]
    atlas = Atlas.from_names(names, "benchmark")
    sites = [Site("A", n_scans // 2, n_timepoints=n_timepoints)]
    write_scan_dataset(iter_cohort(atlas, sites, scans_per_subject=2), folder, atlas, parameters={"simulated": True})


def measure(scans: Path, out: Path, workers: int) -> dict[str, Any]:
    """Build a corpus in a new process; return its time and peak memory."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(scans), str(out), str(workers)],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) | {"workers": workers}


def main() -> None:
    """Measure, print ratios, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="numbers of scans")
    parser.add_argument("--rois", type=int, default=100)
    parser.add_argument("--timepoints", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3, help="builds for the ratio of two workers to one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "corpus_scaling.json")
    args = parser.parse_args()
    sizes = sorted(args.sizes)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for size in sizes:
            # in a new process: a child's peak memory starts at what its parent held when it was started
            writing = multiprocessing.get_context("spawn").Process(
                target=write_scans, args=(work / f"scans-{size}", size, args.rois, args.timepoints)
            )
            writing.start()
            writing.join()
            if writing.exitcode:
                raise SystemExit("The scans could not be written: see the error above.")
        for repeat in range(args.repeats):
            for workers in (1, 2):  # in turn, so that a change of the machine's load affects both
                runs.append(measure(work / f"scans-{sizes[0]}", work / f"few-{workers}-{repeat}", workers))
                print(runs[-1])
        for size in sizes[1:]:
            runs.append(measure(work / f"scans-{size}", work / f"many-{size}", 1))
            print(runs[-1])

    def median(key: str, n_scans: int, workers: int) -> float:
        return statistics.median(run[key] for run in runs if (run["n_scans"], run["workers"]) == (n_scans, workers))

    small, large = sizes[0], sizes[-1]
    seconds, memory = median("seconds", small, 1), median("peak_rss_mb", small, 1)
    ratios = {
        "scans": large / small,
        "time": median("seconds", large, 1) / seconds,
        "time_per_scan": median("seconds", large, 1) / seconds / (large / small),
        "processor_time_per_scan": median("processor_seconds", large, 1)
        / median("processor_seconds", small, 1)
        / (large / small),
        "peak_memory": median("peak_rss_mb", large, 1) / memory,
        "speed_of_two_workers": seconds / median("seconds", small, 2),
    }
    # the difference of two sizes: without it, the start of Python would count as a cost of scans
    more_seconds = median("processor_seconds", large, 1) - median("processor_seconds", small, 1)
    record = {
        "command": f"python benchmarks/corpus_scaling.py {' '.join(sys.argv[1:])}".strip(),
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "n_rois": args.rois,
        "n_timepoints": args.timepoints,
        "ratios": ratios,
        "seconds_per_scan": seconds / small,
        "processor_ms_of_one_more_scan": 1e3 * more_seconds / (large - small),
        "peak_rss_mb": memory,
        "runs": runs,
    }
    write_json(record, args.out)
    for name, value in ratios.items():
        print(f"{name:<26}{value:6.2f}")
    print(f"one more scan: {record['processor_ms_of_one_more_scan']:.1f} ms of a processor")


if __name__ == "__main__":
    main()
