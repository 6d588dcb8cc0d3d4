# SPDX-License-Identifier: Apache-2.0
"""The search for a machine.

1. Arithmetic tells for all candidates whether they fit the device, and that some are too slow.
2. The loss is measured for each density and for each pair of word lengths; a user's function, for all combinations.
3. The cycle model runs on the candidates that may be on the front, best first, until no other can be.
4. The best are compiled and measured, and what is told is of these.

Nothing is random but the weights' stand-ins for frames, and these are always the same. So the result is too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.rtl.targets.capacity import resources
from openese.rtl.targets.memories import BLOCK_RAMS
from openese.sw.cycles.load import voices_served
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.explore.pools import Pool
from openese.sw.explore.problem import Guess, Measured, Problem, Timed, share_of, timed_machine
from openese.sw.explore.space import structures, word_lengths

__all__ = ["Found", "Point", "search"]

# A candidate is left out if another is at most so much slower, takes at most so much more of the device, and has at
# most so much more loss.
_SLOWER, _LARGER, _LOSSIER = 1.02, 0.01, 0.02
_BATCH = 24  # candidates that are timed before the next are chosen: for any number of processes the same
_CHUNK = 24  # machines sized by one call
_FINALISTS = 8  # measured first
_FRONT = 16  # most of the front that are measured
_SLOWEST = 32  # times as slow as the fastest: slower machines are for smaller devices, and take the cycle model long

Tell = Callable[[str, int | None], Callable[[int], None]]
Losses = Mapping[tuple[float, int, int], float]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Point:
    """A candidate that the cycle model ran on.

    Attributes
    ----------
    timed : `Timed`
    density : float
    loss : float
        By parts: that of its density and that of its word lengths.
    """

    timed: Timed
    density: float
    loss: float


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    winner : `Measured`
        The best for the goal.
    front : tuple of `Measured`
        No other is faster, smaller and of less loss. In the order of their times.
    points : tuple of `Point`
        All that the cycle model ran on.
    counts : dict
        Candidates by their fate: ``considered`` are all; ``too large``, ``too slow``, ``beaten`` (another is as good,
        or their loss is too large), ``not reached`` before the most were timed, ``timed``. Of these ``measured``.
    losses : dict of (float, int, int) to float
        By density, bits of weights and bits of activations.
    """

    winner: Measured
    front: tuple[Measured, ...]
    points: tuple[Point, ...]
    counts: Mapping[str, int]
    losses: Mapping[tuple[float, int, int], float]


def search(problem: Problem, pool: Pool, *, cells: str, densities: Sequence[float],
           given: Mapping[str, Sequence[Any]] | None = None, max_loss: float | None = None, most: int = 400,
           tell: Tell = lambda stage, total: lambda done: None) -> Found:
    """Search for the best machine.

    Parameters
    ----------
    problem : `Problem`
    pool : `Pool`
    cells : str
        Kinds of cells that the network needs.
    densities : sequence of float
        1 prunes nothing.
    given : mapping of str to sequence, optional
        Values of fields of the machine, in the place of those that are tried.
    max_loss : float, optional
        More is not good enough.
    most : int
        The most candidates that the cycle model runs on.
    tell : callable
        Called with the name of a stage and the number of its steps, None if it is not known; returns what is called
        with steps that are done.

    Raises
    ------
    ExploreError
        No candidate is good enough; the message tells the nearest.
    """
    given, goal = dict(given or {}), problem.goal
    machines = list(structures(problem.guesses, goal, problem.device, cells, given))
    words = word_lengths(given)
    if not machines or not words:
        raise ExploreError("no machine has such fields; give other values by --try" if given or not goal.bounded else
                           f"no machine that is tried holds {goal}: give fewer, or more --try banks=N")
    others = not given.keys() & BLOCK_RAMS.keys()
    guesses, counts = _sized(problem, pool, machines, densities, words, others, tell)
    if not guesses:
        raise ExploreError(_nothing(problem, counts))
    losses = _losses(problem, pool, guesses, tell)
    limit = math.inf if max_loss is None else max_loss + _LOSSIER * abs(max_loss)
    kept = [guess for guess in guesses if losses[_lossy(guess)] <= limit]
    if not kept:
        raise ExploreError(f"the least loss is {min(losses.values()):.3g}, more than {max_loss:g}: a longer word "
                           "(--try weight_bits=16), a higher density, or a network that is trained at this density "
                           "(openese.Pruner) has less")
    points, left = _timed(problem, pool, kept, losses, max_loss, most, tell)
    reaching = [point for point in points if problem.goal.reached(point.timed.config, point.timed.cycles)]
    if not reaching:
        raise ExploreError(_nearest(problem, points))
    measured = _measured(problem, pool, reaching, max_loss, tell)
    good = [one for one in measured if _good(problem, one, max_loss)]
    if not good:
        raise ExploreError("of the best candidates none is good enough when it is measured: allow a little more")
    good.sort(key=lambda one: one.all_shares(problem.device))
    winner = _best(problem, good, max_loss)
    front = _front([(goal.seconds(one.config, one.cycles(goal)), one.share, one.loss) for one in good])
    counts |= {"timed": len(points), "beaten": len(guesses) - len(points) - left, "not reached": left,
               "measured": len(measured)}
    in_order = sorted((good[number] for number in front),
                      key=lambda one: (goal.seconds(one.config, one.cycles(goal)), one.share, one.loss))
    return Found(winner, tuple(in_order), tuple(points), counts, losses)


# -- 1. size -----------------------------------------------------------------------------------------------


def _sized(problem: Problem, pool: Pool, machines: Sequence[Config], densities: Sequence[float],
           words: Sequence[Mapping[str, int]], others: bool, tell: Tell) -> tuple[list[Guess], dict[str, int]]:
    chunks = [machines[first:first + _CHUNK] for first in range(0, len(machines), _CHUNK)]
    found = pool.map("all_sized", [(chunk, tuple(densities), words, others) for chunk in chunks],
                     tell("sizes", len(chunks)))
    guesses = [guess for _, _, several in found for guess in several]
    large, slow = sum(one[0] for one in found), sum(one[1] for one in found)
    if not problem.goal.bounded and guesses:
        every, seconds = len(guesses), [problem.goal.seconds(guess.config, guess.cycles) for guess in guesses]
        guesses = [guess for guess, time in zip(guesses, seconds, strict=True) if time <= _SLOWEST * min(seconds)]
        slow += every - len(guesses)
    return guesses, {"considered": large + slow + len(guesses), "too large": large, "too slow": slow}


def _nothing(problem: Problem, counts: Mapping[str, int]) -> str:
    limit = f"{problem.fill:.0%} of the {problem.device.fpga}"
    if counts["too slow"]:
        return (f"no machine reaches {problem.goal} at {problem.goal.clock / 1e6:g} MHz within {limit}: "
                f"{counts['too slow']:,} of {counts['considered']:,} are too slow, the others too large; try "
                f"a lower --density, a larger device, or a lower goal")
    return (f"no machine that holds the network takes at most {limit}; try a lower --density, a larger device, or "
            f"weights from memory (--try stream=1)")


# -- 2. loss -----------------------------------------------------------------------------------------------


def _lossy(one: "Guess | Point") -> tuple[float, int, int]:
    config = one.config if isinstance(one, Guess) else one.timed.config
    return one.density, config.weight_bits, config.activation_bits


def _losses(problem: Problem, pool: Pool, guesses: Sequence[Guess], tell: Tell) -> Losses:
    """The loss by density and word lengths, each on the fastest machine that has them."""
    fastest: dict[tuple[float, int, int], Guess] = {}
    for guess in guesses:
        held = fastest.setdefault(_lossy(guess), guess)
        if problem.goal.seconds(guess.config, guess.cycles) < problem.goal.seconds(held.config, held.cycles):
            fastest[_lossy(guess)] = guess
    keys = sorted(fastest, reverse=True)
    if problem.loss is not None:
        own = pool.map("own_loss", [(fastest[key].config, key[0]) for key in keys], tell("your loss", len(keys)))
        return dict(zip(keys, own, strict=True))
    of_density = {key[0]: fastest[key].config for key in keys}
    of_words = {key[1:]: fastest[key].config for key in keys}
    advance = tell("loss", len(of_density) + len(of_words))
    pruned = pool.map("pruning_loss", [(config, density) for density, config in of_density.items()], advance)
    rounded = pool.map("rounding_loss", [(config,) for config in of_words.values()], advance)
    pruning, rounding = dict(zip(of_density, pruned, strict=True)), dict(zip(of_words, rounded, strict=True))
    return {key: math.hypot(pruning[key[0]], rounding[key[1:]]) for key in keys}


# -- 3. time -----------------------------------------------------------------------------------------------


def _rank(goal: Goal, config: Config, share: float, loss: float, cycles: float, max_loss: float | None
          ) -> tuple[float, float, float]:
    """The best have the least. Where a goal can be reached, the least loss counts, or if that is limited the least
    machine."""
    seconds = goal.seconds(config, cycles)
    if not goal.bounded:
        return seconds, share, loss
    return (loss, share, seconds) if max_loss is None else (share, seconds, loss)


def _timed(problem: Problem, pool: Pool, guesses: Sequence[Guess], losses: Losses, max_loss: float | None, most: int,
           tell: Tell) -> tuple[list[Point], int]:
    """The cycle model on all candidates that may be on the front; and the number of those that are left."""
    goal = problem.goal
    pending = sorted(guesses, key=lambda guess: (*_rank(goal, guess.config, guess.share, losses[_lossy(guess)],
                                                        guess.cycles, max_loss), repr(guess.config)))
    # No candidate takes fewer cycles than its guess, so none is left out that is better.
    places = np.array([(goal.seconds(guess.config, guess.cycles), guess.share, losses[_lossy(guess)])
                       for guess in pending])
    known: dict[tuple[Config, float], tuple[dict[str, int], int]] = {}
    points: list[Point] = []
    waiting = np.ones(len(pending), bool)
    advance = tell("cycles", None)
    while waiting.any() and len(known) < most:
        chosen = _chosen(places, np.flatnonzero(waiting))
        keys = {number: (timed_machine(pending[number].config), pending[number].density) for number in chosen}
        new = sorted({key for key in keys.values() if key not in known}, key=_by_pruning)[:most - len(known)]
        known |= dict(zip(new, pool.map("timed", new, advance), strict=True))
        for number, key in keys.items():
            if key not in known:
                continue
            waiting[number] = False
            timed = _with_needs(problem, pending[number], *known[key])
            if timed is not None:
                points.append(Point(timed, pending[number].density, losses[_lossy(pending[number])]))
                waiting &= ~_beaten(places, (goal.seconds(timed.config, timed.cycles), timed.share, points[-1].loss))
    return points, int(waiting.sum())


def _by_pruning(key: tuple[Config, float]) -> tuple[Any, ...]:
    """Puts those of the same pruning one after another, since a process keeps the last."""
    config, density = key
    return density, config.pes, config.groups, repr(config)


def _chosen(places: FloatArray, numbers: IntArray) -> list[int]:
    """The first that none of those before it beats."""
    chosen: list[int] = []
    while len(numbers) and len(chosen) < _BATCH:
        chosen.append(int(numbers[0]))
        numbers = numbers[1:]
        numbers = numbers[~_beaten(places[numbers], places[chosen[-1]])]
    return chosen


def _beaten(places: FloatArray, by: Sequence[float] | FloatArray) -> NDArray[np.bool_]:
    seconds, share, loss = by
    beaten: NDArray[np.bool_] = ((places[:, 0] * _SLOWER >= seconds) & (places[:, 1] + _LARGER >= share)
                                 & (places[:, 2] + _LOSSIER * np.abs(places[:, 2]) >= loss))
    return beaten


def _with_needs(problem: Problem, guess: Guess, needs: Mapping[str, int], cycles: int) -> Timed | None:
    """A candidate with the memories that the schedule takes; None if it does not fit, or cannot be scheduled."""
    config = problem.holding(guess.config, needs)
    if config is None or not cycles:
        return None
    taken = share_of(resources(config, problem.device.family), problem.device)
    return None if taken > problem.fill else Timed(config, taken, cycles)


def _nearest(problem: Problem, points: Sequence[Point]) -> str:
    goal = problem.goal
    best = min(points, key=lambda point: goal.seconds(point.timed.config, point.timed.cycles), default=None)
    if best is None:
        return (f"no machine that fits {problem.fill:.0%} of the {problem.device.fpga} can be scheduled; try a larger "
                f"device or a lower --density")
    config, cycles = best.timed.config, best.timed.cycles
    if goal.kind == "latency":
        found = f"answers within {cycles / goal.clock * 1e6:.3g} us"
    else:
        found = f"serves {voices_served(config, cycles, goal.clock, goal.period):,} voices"
    return (f"no machine reaches {goal} at {goal.clock / 1e6:g} MHz within {problem.fill:.0%} of the "
            f"{problem.device.fpga}; the nearest, {config.pes} PEs x {config.channels} channels at density "
            f"{best.density:g}, {found}")


# -- 4. the best -------------------------------------------------------------------------------------------


def _measured(problem: Problem, pool: Pool, points: Sequence[Point], max_loss: float | None, tell: Tell
              ) -> list[Measured]:
    """The best, and the front, as they are compiled; then more, until one is good enough."""
    def rank(point: Point) -> tuple[Any, ...]:
        timed = point.timed
        return (*_rank(problem.goal, timed.config, timed.share, point.loss, timed.cycles, max_loss), repr(timed.config))

    ordered = sorted(points, key=rank)
    front = [ordered[number] for number in _front([
        (problem.goal.seconds(point.timed.config, point.timed.cycles), point.timed.share, point.loss)
        for point in ordered])]
    if len(front) > _FRONT:
        front = [front[round(place)] for place in np.linspace(0, len(front) - 1, _FRONT)]
    best = ordered[:_FINALISTS]
    wanted = [*best, *(point for point in front if point not in best)]
    found = _compiled(problem, pool, wanted, tell)
    for first in range(0, len(ordered), _FINALISTS):
        if any(_good(problem, one, max_loss) for one in found):
            break
        more = [point for point in ordered[first:first + _FINALISTS] if point not in wanted]
        found += _compiled(problem, pool, more, tell)
    return found


def _compiled(problem: Problem, pool: Pool, points: Sequence[Point], tell: Tell) -> list[Measured]:
    # The user's function gives the same where nothing is pruned.
    calls = [(point.timed.config, point.density, point.loss if point.density == 1 else None) for point in points]
    order = sorted(range(len(calls)), key=lambda number: (_lossy(points[number]), repr(calls[number])))
    found = pool.map("measured", [calls[number] for number in order], tell("the best", len(calls)))
    return [one for _, one in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def _best(problem: Problem, good: Sequence[Measured], max_loss: float | None) -> Measured:
    """The best for the goal. Where the least loss counts, a loss that is hardly larger is as good."""
    least = min(one.loss for one in good)
    if problem.goal.bounded and max_loss is None:
        max_loss = least + _LOSSIER * abs(least)
        good = [one for one in good if one.loss <= max_loss]
    return min(good, key=lambda one: _rank(problem.goal, one.config, one.share, one.loss, one.cycles(problem.goal),
                                           max_loss))


def _good(problem: Problem, one: Measured, max_loss: float | None) -> bool:
    return (one.fits and one.share <= problem.fill and problem.goal.reached(one.config, one.cycles(problem.goal))
            and (max_loss is None or one.loss <= max_loss))


def _front(places: Sequence[Sequence[float]]) -> list[int]:
    """The numbers of the places than which no other is as small in all numbers; of equal ones the first."""
    return [number for number, place in enumerate(places)
            if not any(all(a <= b for a, b in zip(other, place, strict=True))
                       and (tuple(other) != tuple(place) or before < number) for before, other in enumerate(places))]
