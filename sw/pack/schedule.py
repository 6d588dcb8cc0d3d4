# SPDX-License-Identifier: Apache-2.0
"""Places a quantized model in a machine's memories and writes its step program.

The schedule of a layer with projection (without it there is no W_ym, and y is m)::

    array         | W_x x(t+1) ...... | W_ym m(t) | tail of W_x x(t+1) | W_r y(t) ........... |
    element-wise  | gates, c, m of step t ....... | y(t) ................ |
    output        |                                          | y(t) ............ |

While the cells of step t are computed, the array multiplies inputs of the next gates that are ready: the next frame,
or in a stack the next layer's own y. W_ym starts with the first columns of m, W_r with the first of y. A tail of
columns fills the time until y arrives. The current step never waits for the next frame.

The element-wise part of a GRU with the reset before the product is two. The first makes r . h', which W_rn follows, and
the second h. Only then come the inputs of the next gates.

If the next frame is late, the array multiplies W_r y(t) of all layers before it waits for the frame. Then only W_x is
left between the frame and its answer, and it follows the beats of the frame. Each layer has accumulators of its own
for this. Where they or the program do not fit, or would slow the steps, two banks for all layers alternate, and W_r is
multiplied after the frame has come.

Dense layers behind the last recurrent one, the *pivot*, are computed like projections, each with accumulators of its
own, while the array multiplies the next frame. Other dense layers take the place of a layer's cells. In a network of
dense layers the first is the pivot.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import PRESETS, Config
from openese.rtl.program import ACTIVATIONS, Instruction, Opcode, Source, Take, When
from openese.rtl.spmv import SpMV
from openese.rtl.weight_stream import LINE_BITS
from openese.sw.model.arrays import Int64Array
from openese.sw.model.layers import DENSE, GRU
from openese.sw.model.quantized import QuantizedLayer, QuantizedModel
from openese.sw.pack.encode import EncodedMatrix, encode, entries, order_window
from openese.sw.pack.level import level

__all__ = ["CapacityError", "Operation", "Schedule", "cell_rows", "pivot", "schedule"]


class CapacityError(ValueError):
    """The model does not fit the machine. The message says what is short, by how much, and which preset is enough.

    Attributes
    ----------
    needs : dict
        By capacity field of the machine, the amount that the model needs; empty where something else is short.
    """

    def __init__(self, message: str, needs: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.needs = dict(needs or {})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One MULTIPLY: some columns of a stored matrix.

    Attributes
    ----------
    layer : int
    matrix : str
        ``"w_x"``, ``"w_r"``, ``"w_ym"``, or ``"w_rn"``: see `QuantizedLayer.products`.
    part : int
        A matrix may be stored in two parts, for two operations.
    columns : int64 (columns,)
        Columns of the matrix in this part.
    encoded : EncodedMatrix
        The part.
    order_base, entry_base : int
        Its first line in the order and pointer memories, and in the weight memories.
    """

    layer: int
    matrix: str
    part: int
    columns: Int64Array
    encoded: EncodedMatrix
    order_base: int
    entry_base: int


@dataclass(frozen=True, kw_only=True)
class LayerPlace:
    """The places of a layer's state and vectors: rows of the cell memory, lines of the vector memory.

    ``y_line`` is that of the first bank of voices. ``rows`` of a dense layer are those of its outputs.
    """

    cells: int
    rows: int
    output_rows: int
    m_line: int
    y_line: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Schedule:
    """A model in the memories of a machine, with its step program.

    Attributes
    ----------
    model : QuantizedModel
    config : Config
        The machine.
    operations : tuple of Operation
        The stored matrices in the order of their addresses.
    places : tuple of LayerPlace
        One for each layer.
    instructions : tuple of dict
        The fields of each instruction, ``{"opcode": ..., ...}``.
    needs : dict
        By capacity field of the machine, the amount that the model needs.
    streamed : bool
        Whether the weights are read from memory in every step.
    banks : int
        Banks of voices: as many of the machine's as have room for y.
    bank_lines : int
        Lines of the vector memory from a bank's y to the next bank's.
    number : int
        The number of the model, if there are several in the machine. Then ``instructions`` and ``needs`` are those of
        all, see `openese.sw.pack.together.schedule_all`.
    """

    model: QuantizedModel
    config: Config
    operations: tuple[Operation, ...]
    places: tuple[LayerPlace, ...]
    instructions: tuple[dict[str, Any], ...]
    needs: dict[str, int]
    streamed: bool
    banks: int
    bank_lines: int
    number: int = 0


def _rows(size: int, config: Config) -> int:
    return -(-size // config.row_pes)


def pivot(model: QuantizedModel) -> int:
    """The number of the last layer before the dense ones that are computed like projections."""
    return max((number for number, layer in enumerate(model.layers) if layer.kind is not DENSE), default=0)


def cell_rows(layer: QuantizedLayer, config: Config) -> int:
    """Cell rows that a layer takes: for its states, and for its biases, or for the biases alone of a dense layer."""
    if layer.kind is DENSE:
        return -(-_rows(layer.outputs, config) // config.dense_rows)
    return _rows(layer.cells, config)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """A way to use the accumulators.

    Attributes
    ----------
    ahead : bool
        W_r is multiplied before a late frame, so every layer has gate rows of its own.
    banks : tuple of (int, int)
        By layer that has gate rows of its own, or for all together: the rows of a phase, and how many banks alternate.
    gate_phases, output_phases : int
        Phases of gates and projections.
    time : float
        Estimated cycles of a step with the fastest phases.
    """

    ahead: bool
    banks: tuple[tuple[int, int], ...]
    gate_phases: int
    output_phases: int
    time: float


@dataclass(kw_only=True)
class _Memory:
    """The amount of each memory that is taken so far."""

    config: Config
    needs: dict[str, int] = field(default_factory=lambda: {
        "entry_depth": 0, "column_depth": 0, "vector_depth": 0, "cell_rows": 0, "accumulator_rows": 0,
        "program_depth": 0})

    def take(self, name: str, amount: int) -> int:
        base = self.needs[name]
        self.needs[name] += amount
        return base

    def lines(self, columns: int) -> int:
        """The first line of a new region of the vector memory for ``columns`` columns."""
        writes = -(-columns // self.config.write_columns)
        return self.take("vector_depth", writes * self.config.write_columns) // self.config.groups

    def place_banks(self, columns: int) -> tuple[int, int]:
        """Repeat the last ``columns``, those of y, for each bank that has room. Returns the banks, and the lines from
        one to the next.
        """
        free = self.config.vector_depth - self.needs["vector_depth"]
        banks = max(1, min(self.config.banks, 1 + free // columns))
        self.take("vector_depth", (banks - 1) * columns)
        return banks, columns // self.config.groups

    def check(self, who: str) -> None:
        """Raises `CapacityError` if a memory is too small for ``who``."""
        short = {name: need for name, need in self.needs.items() if need > getattr(self.config, name)}
        if not short:
            return
        details = ", ".join(f"{name} {need} (has {getattr(self.config, name)}, {need - getattr(self.config, name)} "
                            "short)" for name, need in short.items())
        fitting = [preset.name for preset in PRESETS.values() if self._scaled(preset)]
        sets = [f"{name}={getattr(self.config, name)}" for name, has in (("models", self.config.models > 1),
                                                                         ("cells", self.config.cells != "lstm")) if has]
        having = f" with {' and '.join(sets)}" if sets else ""
        advice = f"; preset {' or '.join(fitting)}{having} should hold it" if fitting else "; no preset holds it"
        raise CapacityError(f"{who} does not fit config {self.config.name!r}: needs {details}{advice}", self.needs)

    def _scaled(self, preset: Config) -> bool:
        """Whether the model fits a preset, estimated from the numbers of PEs."""
        rows = self.config.row_pes / preset.row_pes
        ratio = {"entry_depth": self.config.pes / preset.pes, "cell_rows": rows, "accumulator_rows": rows}
        # Weights that are streamed need not fit.
        needs = {name: need for name, need in self.needs.items() if not (preset.stream and name == "entry_depth")}
        return all(math.ceil(need * ratio.get(name, 1)) <= getattr(preset, name) for name, need in needs.items())


#: Matrices whose columns are computed within a step and not kept: m, or r . h'.
_OF_M = {"w_ym", "w_rn"}

#: The most phases of a matrix: columns that can be on their way to the same accumulators.
PHASES = SpMV.latency - 1

#: Columns of a matrix on which its hazards are counted.
SAMPLE = 256

#: How much longer a step may be for the sake of W_r being multiplied before a late frame.
SLOWER = 1.001
#: How much longer the estimate of a step may then be for the sake of phases that suit a frame at rest.
REST_SLOWER = 1.02

#: Cycles from the first drain of an element-wise part to its first line, about.
FIRST_LINE = 60


def _hazards(encoded: EncodedMatrix, config: Config) -> list[NDArray[np.float64]]:
    """Cycles that each PE waits for its own accumulators in one pass, for 1 to `PHASES` phases.

    An entry waits for an earlier entry of the same row and phase that is less than `SpMV.latency` entries back, unless
    the machine forwards it.
    """
    if config.forward:
        return [np.zeros(config.pes)] * PHASES
    sample = replace(encoded, counts=encoded.counts[:SAMPLE])
    listed = entries(sample, config)
    token = np.cumsum(sample.counts > 0, axis=0)[listed.slot, listed.pe] * (listed.weight != 0)
    result = []
    for phases in range(1, PHASES + 1):
        waits = np.zeros(len(token), np.int64)
        for distance in range(PHASES, 0, -1):
            place = np.where(token > 0, listed.row * phases + token % phases, -listed.line - 1)
            same = (place[distance:] == place[:-distance]) & (listed.pe[distance:] == listed.pe[:-distance])
            waits[distance:][same] = SpMV.latency - distance
        result.append(np.bincount(listed.pe, waits, config.pes) * len(encoded.counts) / max(1, len(sample.counts)))
    return result


def _mean_entries(matrix: NDArray[Any], config: Config) -> float:
    """The mean number of non-zeros of a column on a PE."""
    return float(np.count_nonzero(matrix)) / max(1, matrix.shape[-1]) / config.row_pes


def schedule(model: QuantizedModel, config: Config, balance: bool = True, stream: bool | None = None) -> Schedule:
    """Place ``model`` in a machine of capacity ``config``.

    Parameters
    ----------
    model : QuantizedModel
    config : Config
        The machine.
    balance : bool
        Put the columns in `openese.sw.pack.encode.column_order`.
    stream : bool, optional
        Whether the weights are read from memory in every step. By default they are if the machine can do this and
        the weights do not fit on it.

    Returns
    -------
    Schedule

    Raises
    ------
    CapacityError
        The model does not fit the machine.
    QuantizeError
        The model is quantized for other widths.
    """
    model.check_fits(config)
    if config.models > 1:
        from openese.sw.pack.together import schedule_all
        return schedule_all([model], config, balance, stream)[0]
    if stream and not config.stream:
        raise CapacityError(f"config {config.name!r} cannot stream weights")
    encoder = _Encoder(model, config, balance)
    if stream is None and config.stream:
        try:
            return _Scheduler(model, config, encoder, False).build()
        except CapacityError:
            stream = True
    return _Scheduler(model, config, encoder, bool(stream)).build()


class _Encoder:
    """Encodes each part of a model's matrices once, for several attempts to place it."""

    def __init__(self, model: QuantizedModel, config: Config, balance: bool) -> None:
        self._model = model
        self._config = config
        self._balance = balance
        self._encoded: dict[tuple[int, str, int, int], EncodedMatrix] = {}
        self._levelled: dict[EncodedMatrix, EncodedMatrix] = {}
        self._hazards: dict[EncodedMatrix, list[NDArray[np.float64]]] = {}

    def encode(self, layer: int, name: str, columns: Int64Array) -> EncodedMatrix:
        """Encode consecutive columns of a matrix."""
        first, end = int(columns[0]), int(columns[-1]) + 1
        if (layer, name, first, end) not in self._encoded:
            matrix = self._model.layers[layer].by_accumulator(name)[..., first:end]
            self._encoded[layer, name, first, end] = encode(matrix, self._config, self._balance)
        return self._encoded[layer, name, first, end]

    def level(self, encoded: EncodedMatrix) -> EncodedMatrix:
        """An encoded matrix with the padding that a stream needs."""
        if encoded not in self._levelled:
            self._levelled[encoded] = level(encoded, self._config)
        return self._levelled[encoded]

    def hazards(self, encoded: EncodedMatrix) -> list[NDArray[np.float64]]:
        """`_hazards` of an encoded matrix."""
        if encoded not in self._hazards:
            self._hazards[encoded] = _hazards(encoded, self._config)
        return self._hazards[encoded]


class _Scheduler:
    def __init__(self, model: QuantizedModel, config: Config, encoder: _Encoder, streamed: bool,
                 memory: _Memory | None = None) -> None:
        self._streamed = streamed
        self._streamed_lines = 0
        self._model = model
        self._config = config
        self._encoder = encoder
        self._memory = memory or _Memory(config=config)
        self._operations: list[Operation] = []
        self._instructions: list[dict[str, Any]] = []
        self._pivot = pivot(model)
        self._tails = range(self._pivot + 1, len(model.layers))

    def build(self) -> Schedule:
        model, memory, config = self._model, self._memory, self._config
        self._inputs = [memory.lines(model.inputs) for _ in range(2)]
        self._m_lines = self._place_m()
        begin = memory.needs["vector_depth"]
        self._y_lines = self._place_y()
        self._banks, self._bank_lines = memory.place_banks(memory.needs["vector_depth"] - begin)
        self._store_layers()
        for layout in self._layouts():
            self._accumulators(layout)
            self._write_program()
            memory.needs["program_depth"] = len(self._instructions)
            if memory.needs["program_depth"] <= config.program_depth:
                break
        memory.check(f"model {model.name!r}")
        return Schedule(model=model, config=config, operations=tuple(self._operations),
                        places=tuple(self._places), instructions=tuple(self._instructions), needs=memory.needs,
                        streamed=self._streamed, banks=self._banks, bank_lines=self._bank_lines)

    def _place_m(self) -> list[int | None]:
        """Place the m or r . h' of all layers, and the y that is neither kept nor sent: by layer its first line, or
        None if it has no such vector."""
        config = self._config
        sizes = [layer.cells if layer.products.keys() & _OF_M else 0 if self._holds_y(number) else layer.outputs
                 for number, layer in enumerate(self._model.layers)]
        return [self._memory.lines(_rows(size, config) * config.row_pes) if size else None for size in sizes]

    def _place_y(self) -> list[int]:
        """Place the y of all layers, side by side."""
        config, lines = self._config, []
        for number, (layer, line) in enumerate(zip(self._model.layers, self._m_lines, strict=True)):
            if line is None or self._holds_y(number):
                line = self._memory.lines(_rows(layer.outputs, config) * config.row_pes)
            lines.append(line)
        return lines

    def _holds_y(self, number: int) -> bool:
        """Whether every bank has the y of a layer: it is kept or sent."""
        return self._model.layers[number].kind is not DENSE or number == len(self._model.layers) - 1

    def _store_layers(self) -> None:
        """Place the cells of all layers, and their matrices."""
        config, memory, layers = self._config, self._memory, self._model.layers
        self._places = [
            LayerPlace(cells=memory.take("cell_rows", cell_rows(layer, config)),
                       rows=_rows(layer.w_x.shape[1], config), output_rows=_rows(layer.outputs, config),
                       m_line=y_line if m_line is None else m_line, y_line=y_line)
            for layer, m_line, y_line in zip(layers, self._m_lines, self._y_lines, strict=True)]
        self._stored = [self._store(number) for number in range(len(layers))]
        self._output_rows = max(place.output_rows * ("w_ym" in stored)
                                for place, stored in zip(self._places, self._stored, strict=True))
        self._tail_rows = sum(self._sums(number) for number in self._tails)

    def _sums(self, number: int) -> int:
        """Accumulator rows of a layer, for one phase and without those of its projection."""
        return (4 if self._model.layers[number].stacked else 1) * self._places[number].rows

    def _accumulators(self, layout: _Layout) -> None:
        """Place the gate rows, then the rows of the largest projection, then those of dense layers behind the pivot."""
        memory, phases = self._memory, layout.gate_phases
        memory.needs["accumulator_rows"] = 0
        self._layout = layout
        # By layer: the first row, from one bank to the other, from one phase to the next.
        self._gates = [(memory.take("accumulator_rows", banks * rows * phases), (banks - 1) * rows * phases, rows)
                       for rows, banks in layout.banks]
        if not layout.ahead:
            self._gates *= self._pivot + 1
        self._output_base = memory.take("accumulator_rows", self._output_rows * layout.output_phases)
        self._tail_bases = [memory.take("accumulator_rows", self._sums(number) * layout.output_phases)
                            for number in self._tails]

    def _layouts(self) -> Iterator[_Layout]:
        """The ways to use the accumulators, the best first; the last one is for any model."""
        rows = [self._sums(number) for number in range(self._pivot + 1)]
        plain = self._layout_of(False, ((max(rows), 2),))
        # A layer's y follows the rows that are drained, unless there is a projection or a dense layer between them.
        alternates = len(rows) == 1 or ("w_ym" not in self._stored[self._pivot] and not self._tails)
        ahead = self._layout_of(True, (*((size, 1) for size in rows[:-1]), (rows[-1], 1 + alternates)))
        if not self._streamed and ahead.time < math.inf and ahead.time <= SLOWER * plain.time:
            yield ahead
        yield plain

    def _layout_of(self, ahead: bool, banks: tuple[tuple[int, int], ...]) -> _Layout:
        gates, outputs, time = self._choose_phases(sum(rows * count for rows, count in banks), ahead)
        return _Layout(ahead=ahead, banks=banks, gate_phases=gates, output_phases=outputs, time=time)

    def _choose_phases(self, gate_rows: int, ahead: bool) -> tuple[int, int, float]:
        """The fastest numbers of phases of gates and projections; ``ahead``: those that suit a frame at rest, if a step
        is nearly as fast.

        ``gate_rows`` are those of all banks for one phase. Also returns the cycles of the fastest step, infinite if
        none fits.
        """
        times = {(gates, outputs): time for (gates, outputs), time in self._times().items()
                 if gate_rows * gates + (self._output_rows + self._tail_rows) * outputs
                 <= self._config.accumulator_rows}
        fastest = min(times.values(), default=math.inf)
        rests = {phases: (self._rest(*phases) if ahead else 0.0, time) for phases, time in times.items()
                 if time <= (REST_SLOWER * fastest if ahead else fastest)}
        gates, outputs = min(rests, key=lambda phases: rests[phases], default=(1, 1))
        return gates, outputs, fastest

    def _rest(self, gates: int, outputs: int) -> float:
        """Estimated cycles of a frame at rest, whose W_r y is there, as far as they depend on the phases.

        A layer's columns are multiplied from the first line of the layer below on, when most of its sums are drained.
        The slowest PE decides.
        """
        def time(name: str, number: int, phases: int) -> float:
            return sum(max(len(matrix.order), float((matrix.lengths + self._encoder.hazards(matrix)[phases - 1]).max()))
                       for matrix in (operation.encoded for operation in self._stored[number].get(name, ())))

        total = 0.0
        for number in range(len(self._places)):
            phases = gates if number <= self._pivot else outputs
            total += time("w_x", number, phases) + max(FIRST_LINE, self._sums(number) * phases)
            total += time("w_ym", number, outputs)
            if "w_rn" in self._stored[number]:
                total += time("w_rn", number, gates) + FIRST_LINE
        return total

    def _times(self) -> dict[tuple[int, int], float]:
        """Estimated cycles of a step by the phases of gates and projections: more mean fewer hazards, but longer
        drains.
        """
        window = order_window(self._config)

        def time(operations: Iterable[Operation], phases: int) -> float:
            matrices = [operation.encoded for operation in operations]
            return sum(max(len(matrix.order),
                           float((matrix.lengths + self._encoder.hazards(matrix)[phases - 1]).mean()))
                       for matrix in matrices)

        def step(gates: int, outputs: int) -> float:
            total = 0.0
            writes = self._config.row_writes
            for number in self._tails:
                rows = self._sums(number)
                total += max(time(self._stored[number]["w_x"], outputs),
                             rows * max(outputs * self._config.beats, writes)) + rows * outputs
            for number, place in enumerate(self._places[:self._pivot + 1]):
                following = (number + 1) % (self._pivot + 1)
                projection = self._stored[number].get("w_ym", [])
                early = [operation for operation, _ in self._early_operations(following)]
                late = [*(operation for operation, _ in self._filling_operations(following)),
                        *self._late_operations(following)]
                # tanh c has no sums; a GRU has no tanh of its state.
                kind, reset = self._model.layers[number].kind, self._stored[number].get("w_rn", [])
                operations = gates if kind is DENSE else 4 * gates + (kind is not GRU)
                if reset:
                    operations = 2 * gates
                    total += FIRST_LINE + max(time(reset, gates), place.rows * max(gates * self._config.beats, writes))
                elementwise = place.rows * max(operations * self._config.beats, writes)
                if projection:
                    last = min(1.0, window / max(1, len(projection[0].encoded.order))) * time(projection, outputs)
                    beside = time(early, gates) + time(projection, outputs)
                    total += max(elementwise + last, beside) + time(late, gates) + place.output_rows * outputs
                else:
                    total += max(elementwise, time([*early, *late], gates))
                total += self._sums(number) * gates
            return total

        return {(gates, outputs): step(gates, outputs)
                for gates in range(1, PHASES + 1) for outputs in range(1, PHASES + 1)}

    def _store(self, number: int) -> dict[str, list[Operation]]:
        """Encode a layer's matrices; the last early one may be split, into a body and a tail."""
        layer = self._model.layers[number]
        early = self._early(number)
        stored = {}
        for name, matrix in layer.products.items():
            columns = np.arange(matrix.shape[-1])
            tail = self._tail(number, matrix) if name in early[-1:] else 0
            # A part begins in group 0. A matrix that follows y has one part, from the first line on.
            groups = self._config.groups
            split = np.split(columns, [(len(columns) - tail) // groups * groups]) if tail else [columns]
            stored[name] = [self._add(number, name, part, chosen)
                            for part, chosen in enumerate(split) if len(chosen)]
        return stored

    def _early(self, number: int) -> list[str]:
        """The matrices whose vectors are complete before the previous layer of the program ends."""
        recurrent = ["w_r"] if self._model.layers[number].feedback else []
        if number:
            return recurrent
        return ["w_x", *recurrent] if self._pivot else ["w_x"]

    def _tail(self, number: int, matrix: NDArray[Any]) -> int:
        """Columns that keep the array busy after the layer before, until its first y arrives.

        If no operation follows y, they last until y is complete and the element-wise part can begin.
        """
        config = self._config
        columns = matrix.shape[-1]
        output_rows = self._projected_before(number)
        if not output_rows or columns < 2 * config.groups:
            return 0
        wait = (PHASES + 1) * config.beats + FIRST_LINE
        if len(self._early(number)) > 1:
            row = max(PHASES * config.beats, config.row_writes)
            wait += (output_rows - 1) * row
        tail = math.ceil(wait / max(1.0, _mean_entries(matrix, config)))
        return min(tail * config.groups, columns // 2)

    def _projected_before(self, number: int) -> int:
        """Rows of y of the layer before in the program, or 0 if it has no projection."""
        before = self._model.layers[number - 1 if number else self._pivot]
        return 0 if before.w_ym is None else _rows(before.outputs, self._config)

    def _add(self, layer: int, name: str, part: int, columns: Int64Array) -> Operation:
        encoded = self._encoder.encode(layer, name, columns)
        if self._streamed:
            encoded = self._encoder.level(encoded)
        operation = Operation(
            layer=layer, matrix=name, part=part, columns=columns, encoded=encoded,
            order_base=self._memory.take("column_depth", len(encoded.order)),
            entry_base=self._take_lines(f"{name} of layer {layer}", encoded.lines))
        self._operations.append(operation)
        return operation

    def _take_lines(self, matrix: str, lines: int) -> int:
        """The first of the next ``lines`` of weights: in the PEs, or in the memory of streamed weights."""
        if not self._streamed:
            return self._memory.take("entry_depth", lines)
        base = self._streamed_lines
        self._streamed_lines += lines
        most = (1 << LINE_BITS) - 1
        if self._streamed_lines > most:
            raise CapacityError(f"model {self._model.name!r}: {matrix} ends at line {self._streamed_lines} of the "
                                f"streamed weights, a machine addresses {most}")
        return base

    def _banked(self, number: int) -> dict[str, int]:
        """The fields of an instruction whose vector is the y of a layer."""
        return {"banked": 1} if self._config.banks > 1 and self._holds_y(number) else {}

    def _emit(self, opcode: Opcode, **fields: Any) -> None:
        self._instructions.append({"opcode": opcode, **fields})

    def _multiply(self, operation: Operation, when: When = When.ALWAYS, follow: bool = False,
                  release: bool = False, ahead: bool = False) -> None:
        """Multiply a part of a matrix; ``ahead``: before it is known which voices the next frame starts."""
        layer = self._model.layers[operation.layer]
        place = self._places[operation.layer]
        offset = int(operation.columns[0]) // self._config.groups
        fields: dict[str, Any] = {}
        if operation.matrix == "w_ym":
            fields = {"source": Source.COMPUTED, "src_base": place.m_line + offset, "acc_base": self._output_base,
                      "phase_stride": self._output_rows, "phase_last": self._layout.output_phases - 1}
        else:
            fields = {"gated": int(layer.stacked), **self._gate_fields(operation.layer)}
            if operation.matrix == "w_rn":
                fields |= {"source": Source.COMPUTED, "src_base": place.m_line + offset,
                           "align": layer.by_accumulator("align_rn")}
            elif operation.matrix == "w_r":
                fields |= {"source": Source.COMPUTED if ahead else Source.RECURRENT, "sent": int(ahead),
                           "src_base": place.y_line + offset, "align": layer.by_accumulator("align_r")}
            elif operation.layer:
                below = self._places[operation.layer - 1]
                fields |= {"source": Source.COMPUTED, "src_base": below.y_line + offset,
                           "align": layer.by_accumulator("align_x")}
            else:
                fields |= {"source": Source.INPUT, "src_base": self._inputs[0] + offset,
                           "dst_base": self._inputs[1] + offset, "align": layer.by_accumulator("align_x")}
        if operation.matrix == "w_r":
            fields |= self._banked(operation.layer)
        elif operation.matrix == "w_x" and operation.layer:
            fields |= self._banked(operation.layer - 1)
        self._emit(Opcode.MULTIPLY, when=when, follow=int(follow), release=int(release),
                   count=len(operation.encoded.order), order_base=operation.order_base,
                   entry_base=operation.entry_base, **fields)
        if self._streamed:
            self._instructions[-1]["entry_lines"] = operation.encoded.lines

    def _gate_fields(self, number: int) -> dict[str, int]:
        """The accumulators of a layer's gates, or of a dense layer."""
        if number in self._tails:
            return {"acc_base": self._tail_bases[number - self._tails[0]], "phase_stride": self._sums(number),
                    "phase_last": self._layout.output_phases - 1}
        base, offset, stride = self._gates[number]
        return {"acc_base": base, "acc_offset": offset, "phase_stride": stride,
                "phase_last": self._layout.gate_phases - 1}

    def _early_operations(self, number: int) -> Iterator[tuple[Operation, bool]]:
        """The operations that run during the layer before, and whether each is the last to read the frame."""
        for name in self._early(number):
            parts = self._stored[number][name]
            for operation in parts[:1]:
                yield operation, number == 0 and name == "w_x" and len(parts) == 1

    def _filling_operations(self, number: int) -> Iterator[tuple[Operation, bool]]:
        """The operations that run until the y of the layer before comes: whether each is the last to read the frame."""
        for name in self._early(number):
            for operation in self._stored[number][name][1:]:
                yield operation, number == 0 and name == "w_x"

    def _late_operations(self, number: int) -> Iterator[Operation]:
        """The other operations, which need that y."""
        for name in ("w_x", "w_r"):
            if name not in self._early(number):
                yield from self._stored[number].get(name, [])

    def _write_program(self) -> None:
        model = self._model
        self._instructions = []
        self._emit(Opcode.FORMAT, count=model.inputs, src_base=self._inputs[0], dst_base=self._inputs[1])
        if self._streamed:
            self._instructions[-1]["streamed"] = 1
        if self._config.banks > 1:
            self._instructions[-1] |= {"banks": self._banks, "bank_lines": self._bank_lines}
        # In the first frame the previous y is the host's, so there is nothing to follow.
        begin = self._write_beginning(follow=False)
        loop = len(self._instructions)
        for number in range(self._pivot + 1):
            self._write_layer(number)
        self._emit(Opcode.JUMP, when=When.TAKEN, src_base=loop)
        if self._layout.ahead:
            self._write_recurrent(ahead=True)
            self._emit(Opcode.JUMP, src_base=begin)
            self._instructions[begin + 1]["src_base"] = len(self._instructions)
            self._emit(Opcode.CLEAR)
            self._write_recurrent(ahead=False)
            self._emit(Opcode.JUMP, src_base=begin + 2)
        else:
            self._write_beginning(follow=True)
            self._emit(Opcode.JUMP, src_base=loop)

    def _write_beginning(self, follow: bool) -> int:
        """Write what begins a step if its frame was not there in the step before. Returns its first instruction."""
        begin = len(self._instructions)
        ahead = self._layout.ahead
        # Products of a frame that breaks off are cleared as those ahead of it are.
        self._emit(Opcode.FRAME, when=Take.WAIT, follow=int(ahead))
        if ahead:
            self._emit(Opcode.JUMP, when=When.STALE)
        self._write_first_products(follow)
        return begin

    def _write_first_products(self, follow: bool) -> None:
        """Write the products for a frame that was not there in the step before."""
        parts = self._stored[0]["w_x"]
        for operation in parts:
            # The lines of a second part do not count from the frame's first.
            follows = self._layout.ahead and operation is parts[0]
            self._multiply(operation, follow=follows, release=operation is parts[-1])
        if not self._layout.ahead:
            for operation in self._stored[0].get("w_r", []):
                # Of several layers the y of the first is complete.
                self._multiply(operation, follow=follow and len(self._places) == 1)

    def _write_recurrent(self, ahead: bool) -> None:
        """Write the products of all layers' y: ``ahead`` of the next frame, or after it."""
        last = len(self._places) - 1
        for number, stored in enumerate(self._stored):
            for operation in stored.get("w_r", []):
                # Only a matrix of one part can follow.
                follow = ahead and number == last and len(stored["w_r"]) == 1
                self._multiply(operation, follow=follow, ahead=ahead)

    def _write_layer(self, number: int) -> None:
        """Write a layer's element-wise part and projection, with the products for the next gates between them; and the
        dense layers behind the last."""
        model = self._model
        layer, place = model.layers[number], self._places[number]
        following = (number + 1) % (self._pivot + 1)
        self._elementwise(number)
        if following == 0:
            self._emit(Opcode.FRAME, when=Take.TRY)
        # A late frame begins with the products that come before their layer's turn here.
        when = When.TAKEN if self._layout.ahead or not following else When.ALWAYS
        self._write_early(following, when)
        if layer.w_ym is not None:
            for operation in self._stored[number]["w_ym"]:
                self._multiply(operation, follow=True)
            self._emit(Opcode.PROJECT, acc_base=self._output_base, phase_stride=self._output_rows,
                       phase_last=self._layout.output_phases - 1, rows=place.output_rows, dst_base=place.y_line,
                       shift=(model.formats[number].output_shift, 0, 0, 0), masked=1, sent=int(self._is_last(number)),
                       **self._banked(number))
        if following == 0 and self._tails:
            self._write_filling(following, when)
            for tail in self._tails:
                for operation in self._stored[tail]["w_x"]:
                    self._multiply(operation, follow=True)
                self._dense(Opcode.PROJECT, tail)
        if following == 0:
            self._emit(Opcode.OUTPUT, count=model.outputs, src_base=self._places[-1].y_line)
        if following or not self._tails:
            self._write_filling(following, when)
        self._write_late(following, when)

    def _is_last(self, number: int) -> bool:
        """Whether the y of a layer is sent."""
        return number == len(self._places) - 1

    def _write_early(self, number: int, when: When) -> None:
        """Write the products of a layer's gates that run during the layer before."""
        for operation, release in self._early_operations(number):
            self._multiply(operation, when=when, release=release)

    def _write_filling(self, number: int, when: When) -> None:
        """Write the products of a layer's gates that run until the y of the layer before comes."""
        for operation, release in self._filling_operations(number):
            self._multiply(operation, when=when, release=release)

    def _write_late(self, number: int, when: When) -> None:
        """Write the other products of a layer's gates. They follow y, unless dense layers come between."""
        for operation in self._late_operations(number):
            late = When.ALWAYS if number and operation.matrix == "w_x" else when
            self._multiply(operation, when=late, follow=bool(number) or not self._tails)

    def _dense(self, opcode: Opcode, number: int) -> None:
        """Write a dense layer's element-wise part."""
        layer, place = self._model.layers[number], self._places[number]
        last = int(self._is_last(number))
        self._emit(opcode, **self._gate_fields(number), rows=place.rows, cell_base=place.cells, dst_base=place.y_line,
                   shift=(*self._model.formats[number].gate_shift, 0, 0, 0), dense=1,
                   activation=ACTIVATIONS.index(layer.activation), masked=last, sent=last, **self._banked(number))

    def _elementwise(self, number: int) -> None:
        layer, place, formats = self._model.layers[number], self._places[number], self._model.formats[number]
        if layer.kind is DENSE:
            self._dense(Opcode.ELEMENTWISE, number)
            return
        if "w_rn" in self._stored[number]:
            self._reset_before(number)
            return
        self._emit(Opcode.ELEMENTWISE, **self._gate_fields(number), rows=place.rows,
                   cell_base=place.cells, dst_base=place.m_line, shift=formats.gate_shift,
                   cell_argument_shift=formats.cell_argument_shift, peephole_select=layer.peephole_select,
                   cell_select=layer.cell_select, g_sigmoid=int(layer.g_activation == "sigmoid"),
                   masked=int(layer.w_ym is None),
                   sent=int(layer.w_ym is None and self._is_last(number)),
                   **({"gru": 1} if layer.kind is GRU else {}),
                   **(self._banked(number) if layer.w_ym is None else {}))

    def _reset_before(self, number: int) -> None:
        """Write both element-wise parts of a GRU with the reset before the product, and the product between them."""
        place = self._places[number]
        common = {**self._gate_fields(number), "rows": place.rows, "cell_base": place.cells,
                  "shift": (*self._model.formats[number].gate_shift, 0), "gru": 1, "reset_before": 1}
        self._emit(Opcode.ELEMENTWISE, **common, resets=1, dst_base=place.m_line, masked=0, sent=0)
        for operation in self._stored[number]["w_rn"]:
            self._multiply(operation, follow=True)
        self._emit(Opcode.ELEMENTWISE, **common, dst_base=place.y_line, masked=1, sent=int(self._is_last(number)),
                   **self._banked(number))


def instruction_words(plan: Schedule) -> NDArray[np.uint32]:
    """The program as (instructions, words)."""
    layout = Instruction(plan.config)
    packed = [layout.pack(**fields) for fields in plan.instructions]
    words = [[word >> (32 * k) & 0xFFFFFFFF for k in range(layout.words)] for word in packed]
    return np.array(words, np.uint32)
