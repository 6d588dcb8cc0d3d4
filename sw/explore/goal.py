# SPDX-License-Identifier: Apache-2.0
"""What a machine is searched for, and how much of it a machine reaches."""

import math
from dataclasses import dataclass

from openese.rtl.config import Config
from openese.sw.cycles.load import CLOCK, PERIOD, voices_served

__all__ = ["KINDS", "ExploreError", "Goal"]

#: Kinds of goals.
KINDS = ("latency", "voices", "throughput")


class ExploreError(ValueError):
    """There is nothing to find; the message says why, and what to do."""


@dataclass(frozen=True)
class Goal:
    """What a machine is searched for.

    Attributes
    ----------
    kind : str
        ``"latency"``: an answer within ``wanted`` seconds of a frame, on a machine that does nothing else.
        ``"voices"``: ``wanted`` live voices. ``"throughput"``: the most frames a second.
    wanted : float
        Not used for ``"throughput"``.
    clock : float
        In hertz.
    period : float
        Seconds from a live voice's frame to the next.

    Raises
    ------
    ExploreError
        For another kind, or a number that is not greater than zero.
    """

    kind: str = "throughput"
    wanted: float = math.inf
    clock: float = CLOCK
    period: float = PERIOD

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ExploreError(f"the goal must be one of {', '.join(KINDS)}, not {self.kind!r}")
        for name in ("clock", "period", *(["wanted"] if self.bounded else [])):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ExploreError(f"{self.kind if name == 'wanted' else name} must be greater than zero, not {value}")

    @property
    def bounded(self) -> bool:
        """Whether a machine can be good enough."""
        return self.kind != "throughput"

    @property
    def at_rest(self) -> bool:
        """Whether the cycles that count are those of a frame at rest, and not those of a step in steady state."""
        return self.kind == "latency"

    def seconds(self, config: Config, cycles: float) -> float:
        """What is as short as possible: the time to an answer, or the time of a step for each of its voices."""
        return cycles / self.clock if self.at_rest else cycles / self.clock / config.channels

    def reached(self, config: Config, cycles: float) -> bool:
        """Whether a machine of so many cycles is good enough. It also holds the voices' states."""
        if self.kind == "latency":
            return cycles / self.clock <= self.wanted
        if self.kind == "voices":
            return (config.channels * config.banks >= self.wanted
                    and voices_served(config, max(1, round(cycles)), self.clock, self.period) >= self.wanted)
        return True

    def banks(self, channels: int) -> int:
        """Banks that hold the voices."""
        return -(-int(self.wanted) // channels) if self.kind == "voices" else 1

    def __str__(self) -> str:
        if self.kind == "latency":
            return f"an answer within {self.wanted * 1e6:g} us"
        if self.kind == "voices":
            return f"{int(self.wanted):,} live voices, each with a frame every {self.period * 1e3:g} ms"
        return "the most frames a second"
