# SPDX-License-Identifier: Apache-2.0
"""Where candidates are looked at: in this process, in several, or on a Dask cluster."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from openese.sw.explore.goal import ExploreError
from openese.sw.explore.problem import Problem

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["Pool", "cluster", "processes"]

Advance = Callable[[int], None]
_THREADS = "OPENBLAS_NUM_THREADS"
_TRIES = 5  # with a problem that was lost together with workers

_problem: Problem | None = None  # of a process of a pool


class Pool(ABC):
    """Calls methods of one problem."""

    @abstractmethod
    def map(self, method: str, calls: Sequence[tuple[Any, ...]], advance: Advance = lambda done: None) -> list[Any]:
        """The results of a method of the problem, one for each tuple of arguments, in their order.

        ``advance`` is called with 1 for each that is done.
        """


class _Here(Pool):
    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def map(self, method: str, calls: Sequence[tuple[Any, ...]], advance: Advance = lambda done: None) -> list[Any]:
        results = []
        for arguments in calls:
            results.append(getattr(self._problem, method)(*arguments))
            advance(1)
        return results


class _Processes(Pool):
    def __init__(self, executor: "ProcessPoolExecutor") -> None:
        self._executor = executor

    def map(self, method: str, calls: Sequence[tuple[Any, ...]], advance: Advance = lambda done: None) -> list[Any]:
        from concurrent.futures import as_completed
        from concurrent.futures.process import BrokenProcessPool
        futures = [self._executor.submit(_in_process, method, arguments) for arguments in calls]
        try:
            for future in as_completed(futures):
                future.result()
                advance(1)
        except BrokenProcessPool:
            raise ExploreError("a process of the search ended unexpectedly, perhaps for want of memory: fewer --jobs "
                               "need less") from None
        except BaseException:
            self._executor.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _begin(problem: Problem) -> None:
    global _problem
    _problem = problem
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of the pool waits for work for ever if the one that began it is killed."""
    from multiprocessing import parent_process
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_problem, method)(*arguments)


@contextmanager
def processes(problem: Problem, jobs: int | None = None) -> Iterator[Pool]:
    """So many processes of this computer, by default one for each of its cores; with 1 it is this process itself."""
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    if jobs == 1:
        yield _Here(problem)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    # Processes that begin anew have no threads of libraries that a fork would break.
    with _one_thread(), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (problem,)) as executor:
        yield _Processes(executor)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that begin have one thread each for products of matrices: there is one process for each core."""
    before = os.environ.get(_THREADS)
    os.environ.setdefault(_THREADS, "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_THREADS, None)


class _Cluster(Pool):
    def __init__(self, client: Any, problem: Problem) -> None:
        self._client = client
        self._problem = problem
        self._sent: Any = None

    def map(self, method: str, calls: Sequence[tuple[Any, ...]], advance: Advance = lambda done: None) -> list[Any]:
        from distributed import KilledWorker
        from distributed import as_completed as completed
        from distributed.client import FutureCancelledError

        results: dict[int, Any] = {}
        for _ in range(_TRIES):
            if self._sent is None:
                # Not hashed: a problem that was lost is sent anew.
                self._sent = self._client.scatter(self._problem, broadcast=True, hash=False)
            numbers = {self._client.submit(_on_worker, self._sent, method, arguments, pure=False): number
                       for number, arguments in enumerate(calls) if number not in results}
            for future in completed(list(numbers), loop=self._client.loop):
                try:
                    results[numbers[future]] = future.result()
                    advance(1)
                except FutureCancelledError:  # the last worker that held the problem is gone
                    self._sent = None
                except KilledWorker as error:
                    raise ExploreError(f"workers of the cluster end again and again, perhaps for want of memory: "
                                       f"{error}") from None
            if len(results) == len(calls):
                return [results[number] for number in range(len(calls))]
        raise ExploreError(f"the cluster lost its workers {_TRIES} times in a row: look at their logs")


def _on_worker(problem: Problem, method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(problem, method)(*arguments)


@contextmanager
def cluster(problem: Problem, address: str) -> Iterator[Pool]:
    """A Dask cluster, by the address of its scheduler. A worker that is lost loses nothing.

    Raises
    ------
    ExploreError
        There is no scheduler, or it has no workers.
    """
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ExploreError(f"--scheduler {address}: no Dask scheduler answers: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=30)
        except TimeoutError:
            raise ExploreError(f"--scheduler {address}: it has no workers; start some by: dask worker {address}") \
                from None
        yield _Cluster(client, problem)
