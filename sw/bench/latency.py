# SPDX-License-Identifier: Apache-2.0
"""One voice at once: the time from the first beat of a frame to the last beat of its answer, for published shapes.

`latencies` returns a dictionary with these keys:

``machine``
    ``preset``, ``pes``, ``channels``, ``groups``, ``multipliers``, bits of ``weights``, ``activations`` and
    ``accumulators``; ``deeper``: the capacities that the shapes need beyond the preset, which cost memory but no cycle.
``density``
    Share of the weights kept, the same number on every PE.
``shapes``
    By shape: ``name``, ``inputs``, ``layers``, ``weights`` (before pruning), ``nonzeros``, and cycles of the cycle
    model: ``rest`` (a machine at rest; nothing else is under way), ``starts`` (the same, and the frame starts a voice
    anew), ``steady`` (frames always available). ``microseconds``: ``rest`` at 200 and 300 MHz, which are assumed
    clocks. ``measured``: ``rest`` in the emitted Verilog, or null; ``exact``: every word equals the reference's.
``peers``
    Published figures of others on these shapes: `PEERS`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.sw.bench.layer import quantized_layer, random_frames
from openese.sw.cycles.model import READY, estimate, simulate
from openese.sw.model.layers import Layer, Model
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import Schedule, schedule
from openese.sw.prune import prune
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

__all__ = ["CLOCKS", "PEERS", "SHAPES", "Peer", "Shape", "latencies"]

#: Assumed clocks, in MHz.
CLOCKS = (200, 300)


@dataclass(frozen=True)
class Shape:
    """A network of LSTMs.

    Attributes
    ----------
    name : str
    inputs : int
    layers : tuple of int or (int, int)
        Cells of each layer, and outputs of its projection if it has one.
    """

    name: str
    inputs: int
    layers: tuple[int | tuple[int, int], ...]

    def model(self) -> Model:
        """The network with random weights."""
        rng = np.random.default_rng(0)
        layers: list[Layer] = []
        for number, sizes in enumerate(self.layers):
            cells, outputs = sizes if isinstance(sizes, tuple) else (sizes, sizes)
            inputs = layers[-1].outputs if layers else self.inputs
            projects = isinstance(sizes, tuple)
            layers.append(Layer(
                name=f"lstm{number}", w_x=rng.normal(scale=inputs ** -0.5, size=(4, cells, inputs)),
                w_r=rng.normal(scale=outputs ** -0.5, size=(4, cells, outputs)), bias=rng.normal(size=(4, cells)),
                peephole=rng.normal(scale=0.3, size=(3, cells)) if projects else None,
                w_ym=rng.normal(scale=cells ** -0.5, size=(outputs, cells)) if projects else None))
        return Model(layers=tuple(layers), name=self.name)


SHAPES = (
    Shape("the paper's layer", 153, ((1024, 512),)),
    Shape("2 x 128", 128, (128,) * 2),
    Shape("3 x 256", 256, (256,) * 3),
    Shape("3 x 480", 480, (480,) * 3),
    Shape("6 x 320", 320, (320,) * 6),
    Shape("3 x 960", 960, (960,) * 3),
    Shape("STAC-ML A", 100, (100,) * 2),
    Shape("STAC-ML B", 250, (200,) * 3),
    Shape("STAC-ML C", 500, (1000,) * 4),
)


@dataclass(frozen=True)
class Peer:
    """A published figure.

    Attributes
    ----------
    name : str
    shape : str
        One of `SHAPES`.
    microseconds : float
        Of one step.
    multipliers : int
        Products in a cycle.
    bits : str
    density : str
    included : str
        What the time includes.
    source : str
    """

    name: str
    shape: str
    microseconds: float
    multipliers: int
    bits: str
    density: str
    included: str
    source: str


def _vollo(card: str, multipliers: int, *microseconds: float) -> tuple[Peer, ...]:
    return tuple(
        Peer(f"VOLLO, {card}", shape, time, multipliers, "bfloat16", "dense",
             "PCIe both ways, a linear layer to 32 outputs; mean of spaced calls",
             "https://vollo.myrtle.ai/27.0.0/benchmark-lstm.html")
        for shape, time in zip(("2 x 128", "3 x 256", "3 x 480", "6 x 320", "3 x 960"), microseconds, strict=False))


PEERS = (*_vollo("V80", 6144, 1.4, 2.0, 3.2, 3.3, 7.3), *_vollo("IA-840F", 12288, 1.7, 2.1, 2.7, 3.1))

#: Capacities beyond the preset's: none of them decides about time.
_DEPTHS = ("entry_depth", "column_depth", "vector_depth", "cell_rows")


def latencies(config: Config, density: float = 0.1, *, measure: bool = False,
              tell: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Estimate the latency of all `SHAPES` on a machine. The module's docstring lists the keys of the result.

    Parameters
    ----------
    config : Config
    density : float
        Share of the weights kept, the same number on every PE; the weights are random.
    measure : bool
        Also measure them on the emitted Verilog.
    tell : callable
        Called with the name of each stage when it begins.

    Raises
    ------
    CapacityError
        The accumulators are too few for a shape.
    """
    deepest = config.replace(**dict.fromkeys(_DEPTHS, 1 << 12)).replace(
        entry_depth=1 << 20, column_depth=1 << 16, vector_depth=1 << 16)
    plans = {}
    for shape in SHAPES:
        tell(f"place {shape.name}")
        plans[shape] = _plan(shape, deepest, density)
    needs = {name: max(plan.needs[name] for plan in plans.values()) for name in _DEPTHS}
    deeper = {name: _depth(name, need) for name, need in needs.items() if need > getattr(config, name)}
    machine = config.replace(**deeper)
    link = _simulator(machine, tell) if measure else None
    shapes = []
    for shape in SHAPES:
        tell(shape.name)
        plan = _plan(shape, machine, density)
        shapes.append(_latency(shape, plan) | _measured(plan, link))
    if link is not None:
        link.close()
    return {
        "machine": {"preset": config.name, "pes": config.pes, "channels": config.channels, "groups": config.groups,
                    "multipliers": config.multipliers, "weights": config.weight_bits,
                    "activations": config.activation_bits, "accumulators": config.accumulator_bits, "deeper": deeper},
        "density": density, "shapes": shapes, "peers": [asdict(peer) for peer in PEERS]}


def _plan(shape: Shape, config: Config, density: float) -> Schedule:
    model = quantized_layer(prune(shape.model(), density, config.pes, config.groups, equal=True), config)
    return schedule(model, config, stream=False)


def _depth(name: str, need: int) -> int:
    """The least legal depth."""
    return -(-int(need) // 1024) * 1024 if name == "entry_depth" else 1 << math.ceil(math.log2(need))


def _latency(shape: Shape, plan: Schedule) -> dict[str, Any]:
    found = estimate(plan)
    later = READY + 8 * found.latency
    starts = simulate(plan, [READY, later], anew=[1]).latencies[1]
    return {
        "name": shape.name, "inputs": shape.inputs,
        "layers": [list(sizes) if isinstance(sizes, tuple) else [sizes] for sizes in shape.layers],
        "weights": sum(int(matrix.size) for layer in plan.model.layers for matrix in (layer.w_x, layer.w_r, layer.w_ym)
                       if matrix is not None),
        "nonzeros": int(sum(operation.encoded.nonzeros.sum() for operation in plan.operations)),
        "rest": int(found.latency), "starts": int(starts), "steady": int(found.cycles_per_step),
        "microseconds": {str(clock): found.latency / clock for clock in CLOCKS}}


def _simulator(config: Config, tell: Callable[[str], None]) -> Any:
    from openese.sim.simulator import Simulator

    tell("building the simulator")
    return Simulator(config)


def _measured(plan: Schedule, link: Any) -> dict[str, Any]:
    """The cycles of a machine at rest in the Verilog, whose words must be the reference's."""
    if link is None:
        return {"measured": None, "exact": None}
    device = Device(link, pack(plan))
    x = random_frames(plan, 2)
    expected = Reference(plan.model, plan.config.channels).run(x)
    first = device.run(x[:1])
    link.clock(8 * estimate(plan).latency)
    start = link.cycles
    second = device.run(x[1:])
    return {"measured": link.cycles - start, "exact": bool((np.concatenate([first, second]) == expected).all())}
