# SPDX-License-Identifier: Apache-2.0
"""The search on a Dask cluster: a scheduler and two workers, real ones, of which one is killed."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from test_cli import folder, openese  # noqa: F401  fixtures
from test_explore import SMALL, problem

from openese.rtl.config import preset
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.explore.pools import cluster, processes
from openese.sw.explore.search import search

pytest.importorskip("distributed", reason="needs Dask: pip install 'openese[cluster]'")

FEW = SMALL | {"slices": (4,), "weight_bits": (12,)}
_WAIT = 60  # seconds for a process to begin


@contextmanager
def running(*arguments):
    process = subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def workers(tmp_path):
    """The scheduler's address, and two workers."""
    file = tmp_path / "scheduler.json"
    local = ["--scheduler-file", str(file)]
    worker = ["worker", *local, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
              "--local-directory", str(tmp_path)]
    with running("scheduler", *local, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"):
        end = time.monotonic() + _WAIT
        while not file.exists() or not file.read_text():
            assert time.monotonic() < end, "the scheduler does not begin"
            time.sleep(0.1)
        with running(*worker) as first, running(*worker) as second:
            yield json.loads(file.read_text())["address"], [first, second]


def both_there(address):
    from distributed import Client
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=_WAIT)


def test_a_lost_worker_loses_nothing(workers):
    address, (first, _) = workers
    both_there(address)
    asked = problem(Goal("latency", 1e-5))
    told = []

    def tell(stage, total):
        told.append(stage)

        def advance(done):
            if stage == "cycles" and first.poll() is None:
                first.kill()
                first.wait()
        return advance

    with cluster(asked, address) as pool:
        found = search(asked, pool, cells="lstm", densities=(1.0, 0.5), given=FEW, tell=tell)
    assert first.poll() is not None and "cycles" in told
    with processes(asked, 1) as pool:
        assert found == search(asked, pool, cells="lstm", densities=(1.0, 0.5), given=FEW)


def test_what_the_cluster_lost_is_sent_again_and_errors_come_back(workers):
    address, _ = workers
    calls = [(preset("tiny"),)]
    with cluster(problem(loss="nowhere:loss"), address) as pool:
        before = pool.map("rounding_loss", calls)
        pool._client.cancel(pool._sent, force=True)  # as if the workers that have the problem were gone
        assert pool.map("rounding_loss", calls) == before
        with pytest.raises(ExploreError, match="--loss nowhere:loss: cannot be imported"):
            pool.map("own_loss", [(preset("tiny"), 1.0)])


def test_no_scheduler(folder, openese):  # noqa: F811
    openese("explore net.npz --device pynq-z2 --scheduler nonsense -o p.html", 2,
            "--scheduler nonsense: no Dask scheduler answers: missing port number in address 'nonsense'")
