"""Scans that the workers of a Dask scheduler read: the same bytes, though one of them is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fmri_lm_hf.cli import main

N_SCANS = 40


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of 200 KB, of which one is constant."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    for i in range(N_SCANS):
        np.save(folder / f"sub-{i:02d}_bold.npy", rng.normal(size=(500, 100)).astype(np.float32) * (i != 4))
    return folder


def contents(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_a_scheduler_that_does_not_answer_is_reported(tables, tmp_path, capsys):
    pytest.importorskip("distributed")
    words = ["scans", "files", str(tables), "--t-r", "2", "--out", str(tmp_path / "out")]
    assert main([*words, "--scheduler", "nonsense://1"]) == 2
    assert "No Dask scheduler answers at nonsense://1" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_same_bytes_though_one_is_killed(tables, tmp_path):
    distributed = pytest.importorskip("distributed")
    words = ["scans", "files", str(tables), "--t-r", "2", "--shard-mb", "1"]
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    out, killed, ended = tmp_path / "there", [], threading.Event()

    def kill_after_some() -> None:
        while not killed and not ended.is_set():
            if len(list(out.glob("**/*.parquet"))) >= 3:
                workers[0].kill()
                killed.append(True)
            time.sleep(0.001)

    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs="CRITICAL") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
        workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            with distributed.Client(cluster) as client:
                client.wait_for_workers(2, timeout=60)
            killer = threading.Thread(target=kill_after_some, daemon=True)
            killer.start()
            assert main([*words, "--out", str(out), "--scheduler", cluster.scheduler_address]) == 0
            ended.set()
            killer.join(5)
            assert killed
            assert [worker.poll() is None for worker in workers] == [False, True]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert contents(out) == contents(tmp_path / "here")
