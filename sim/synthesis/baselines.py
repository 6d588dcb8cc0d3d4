# SPDX-License-Identifier: Apache-2.0
"""The figures of the presets that are kept with the code, and how far new figures may be from them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from openese.output import write_text
from openese.rtl.config import PRESETS, Config
from openese.sim.build import locked
from openese.sim.synthesis.fanout import KINDS

__all__ = ["MEASURED", "TOLERANCES", "Baselines", "Change", "changes"]

#: The presets that have baselines, by family.
MEASURED = {"xcu": ("tiny", "demo", "ese", "ese_whole", "ese_stream", "ku060", "ku060_voices", "latency"),
            "xcup": ("kv260", "zcu104", "vu9p", "latency_vu9p"), "xcu_dsp": ("ese", "ese_stream"),
            "xc7": ("tiny", "arty_a7"), "ecp5": ("tiny", "ulx3s")}
#: How far a figure may be from its baseline: a share of it, or a number, whichever is more.
TOLERANCES = {"LUT": (0.03, 8), "LUTRAM": (0.03, 8), "FF": (0.03, 8), "BRAM": (0, 0), "URAM": (0, 0), "DSP": (0, 0),
              "luts": (0, 0), "chains": (0, 0), **dict.fromkeys(KINDS, (0.03, 8))}


class Change(NamedTuple):
    """A figure beyond its tolerance."""

    part: str
    figure: str
    before: float
    now: float


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """The differences between two results of `estimate` beyond the tolerances, those of the whole machine first."""
    beyond = []
    for kind in ("total", "depth", "fanout", "blocks"):
        olds, news = ({"machine": result[kind]} if kind == "total" else result.get(kind, {})
                      for result in (before, now))
        for block in dict.fromkeys([*news, *olds]):
            old, new = olds.get(block, {}), news.get(block, {})
            part = f"{block} ({kind})" if kind in ("depth", "fanout") else block
            for figure, (share, number) in TOLERANCES.items():
                was, is_now = old.get(figure, 0), new.get(figure, 0)
                if abs(is_now - was) > max(share * was, number):
                    beyond.append(Change(part, figure, was, is_now))
    return beyond


class Baselines:
    """The file of the baselines. An installed package has none; then there is nothing to compare with."""

    #: In a checkout.
    PATH = Path(__file__).resolve().parents[2] / "tests" / "baselines" / "synth.json"

    def __init__(self, path: Path = PATH) -> None:
        self._path = path
        self._figures: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def machines(self, family: str) -> list[str]:
        """The presets that have baselines for ``family``."""
        return list(self._figures.get(family, ()))

    def figures(self, family: str) -> dict[str, Any]:
        """The figures of each preset that has a baseline for ``family``."""
        return self._figures.get(family, {})

    def changes(self, config: Config, family: str, figures: dict[str, Any]) -> list[Change]:
        """The figures of a machine beyond tolerance; empty where it has no baseline."""
        before = self._figures.get(family, {}).get(config.name)
        return changes(before, figures) if before and config == PRESETS.get(config.name) else []

    def update(self, config: Config, family: str, figures: dict[str, Any]) -> None:
        """Make the figures of a preset its baseline, and save the file. Other processes may save figures in the same
        file.

        Raises
        ------
        ValueError
            The machine is not a preset, or there is no file to save.
        """
        if config != PRESETS.get(config.name):
            raise ValueError(f"only presets have baselines, and {config.name!r} was changed")
        if not self._path.exists():
            raise ValueError(f"baselines can be updated in a checkout of the project only: there is no {self._path}")
        with locked(self._path):
            self._figures = json.loads(self._path.read_text())
            self._figures.setdefault(family, {})[config.name] = figures
            write_text(self._path, json.dumps(self._figures, indent=1) + "\n")
