# SPDX-License-Identifier: Apache-2.0
"""Runs campaigns of random cases: seeded, logged case by case, so that a run can go on where another ended.

A campaign is a function with the decorator `campaign`. It carries out one case and returns how much it did, by names of
its own. A case that raises is a failure. Its seed is the run's, the campaign's name and its number: nothing else.
"""

import json
import time
import traceback
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

__all__ = ["CAMPAIGNS", "Case", "Log", "campaign", "carry_out", "run"]

#: Every campaign by its name.
CAMPAIGNS = {}

#: Failures after which a campaign of a run ends.
ENOUGH = 3


@dataclass(frozen=True)
class Campaign:
    """A kind of random case.

    Attributes
    ----------
    name : str
    claim : str
        What holds in every case.
    share : float
        Its part of the time, beside the others'.
    run : callable
        ``run(case)`` returns counts by name.
    """

    name: str
    claim: str
    share: float
    run: object


@dataclass(frozen=True)
class Case:
    """One case of a campaign: its number, its random generator, and a folder for what it keeps."""

    number: int
    seed: int
    folder: object
    rng: np.random.Generator = field(repr=False)


def campaign(name, claim, share=1.0):
    """Decorator: makes a function of a `Case` a campaign."""
    def decorate(function):
        CAMPAIGNS[name] = Campaign(name, claim, share, function)
        return function
    return decorate


class Log:
    """What was done, a line of JSON for each case."""

    def __init__(self, path, resume=False):
        self._path = path
        self.cases = Counter()
        self.seconds = Counter()
        self.counts = {}
        self.failures = []
        self._next = Counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            for line in path.read_text().splitlines():
                self._add(json.loads(line))
        else:
            path.write_text("")

    def next(self, name, seed):
        """The number of the next case."""
        return self._next[name, seed]

    def add(self, entry):
        """Keep the entry of a case."""
        self._add(entry)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _add(self, entry):
        name = entry["campaign"]
        self.cases[name] += 1
        self.seconds[name] += entry["seconds"]
        self.counts.setdefault(name, Counter()).update(entry["counts"])
        self._next[name, entry["seed"]] = max(self._next[name, entry["seed"]], entry["case"] + 1)
        if entry["failure"]:
            self.failures.append(entry)

    def failed(self, name):
        """Failures of a campaign."""
        return sum(entry["campaign"] == name for entry in self.failures)

    def summary(self):
        """The figures by campaign, for machines."""
        return {name: {"cases": self.cases[name], "seconds": round(self.seconds[name], 1),
                       "failures": self.failed(name), "counts": dict(self.counts[name])} for name in self.cases}


def carry_out(name, seed, number, folder):
    """Carry out one case; returns its entry of the `Log`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    began = time.monotonic()
    counts, failure = {}, None
    try:
        counts = CAMPAIGNS[name].run(Case(number, seed, folder, rng))
    except Exception:
        failure = traceback.format_exc()
    return {"campaign": name, "seed": seed, "case": number, "seconds": round(time.monotonic() - began, 2),
            "counts": {key: int(value) for key, value in counts.items()}, "failure": failure}


def run(names, seed, seconds, log, folder, advance=lambda entry: None, cases=None):
    """Carry out cases of the campaigns ``names`` for ``seconds``, at least one of each; or so many ``cases`` of each.

    The campaign that is the furthest behind its share of the time has the next case. Campaigns with `ENOUGH` failures
    end. ``advance`` is called with the entry of every case.
    """
    began = time.monotonic()
    spent = Counter()
    while True:
        waiting = [name for name in names if log.failed(name) < ENOUGH and (cases is None or log.cases[name] < cases)]
        fresh = [name for name in waiting if name not in spent]
        if not waiting or cases is None and not fresh and time.monotonic() - began >= seconds:
            return
        name = min(fresh or waiting, key=lambda name: spent[name] / CAMPAIGNS[name].share)
        entry = carry_out(name, seed, log.next(name, seed), folder)
        spent[name] += entry["seconds"]
        log.add(entry)
        advance(entry)
