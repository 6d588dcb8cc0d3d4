# SPDX-License-Identifier: Apache-2.0
"""Places several models in the memories of one machine, and writes the program for all of them.

Every model has its own weights, cells and y, one after the other. They share the input buffers, the lines of m and the
accumulators, which hold nothing of a model when the next one needs them::

    vector memory | input | input | m | y of model 0 | y of model 1 | and so on for each bank
    accumulators  | gates | gates | gates of earlier layers | projection, dense layers behind the cells

While the last layer's gates of one model are drained, the next model's first gates are filled. So the last layers of
all models alternate between the same two banks of gates. Gates of earlier layers are drained by then.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.rtl.program import Kin, Opcode, Source, Take, When
from openese.sw.model.layers import DENSE
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.schedule import (
    FIRST_LINE,
    SLOWER,
    CapacityError,
    Schedule,
    _Encoder,
    _Layout,
    _Memory,
    _rows,
    _Scheduler,
    pivot,
    schedule,
)

__all__ = ["naming_host", "schedule_all"]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Accumulator rows that a layout takes: of one alternating bank, of earlier layers, and of the projection."""

    bank: int
    earlier: int
    outputs: int

    def within(self, other: "_Rows") -> bool:
        """Whether they take no more than others."""
        return self.bank <= other.bank and self.earlier <= other.earlier and self.outputs <= other.outputs

    @property
    def total(self) -> int:
        """All of them."""
        return 2 * self.bank + self.earlier + self.outputs


class _Member(_Scheduler):
    """Places one of several ``models``."""

    def __init__(self, models: Sequence[QuantizedModel], number: int, encoder: _Encoder, streamed: bool,
                 memory: _Memory) -> None:
        super().__init__(models[number], memory.config, encoder, streamed, memory)
        self._number = number
        self._others = [model for model in models if model is not models[number]]
        # The step before may be of any model.
        last = [model.layers[pivot(model)] for model in models]
        self._projected = max(0 if layer.w_ym is None else _rows(layer.outputs, memory.config) for layer in last)

    @property
    def _apart(self) -> bool:
        """Whether W_r y is multiplied early for a frame of other voices than the frame before.

        It then fills the time of another model's cells that W_x, W_ym and drains leave. Otherwise it fills the time of
        the model's projection that W_x leaves.
        """
        if self._streamed or len(self._places) > 1 or "w_r" not in self._stored[0]:
            return False
        config, writes = self._config, self._config.row_writes
        early, *tail = (float(operation.encoded.lengths.mean()) for operation in self._stored[0]["w_x"])
        recurrent = sum(float(operation.encoded.lengths.mean()) for operation in self._stored[0]["w_r"])
        gates, outputs = self._layout.gate_phases, self._layout.output_phases
        gain = 0.0
        for model in self._others:
            last = model.layers[pivot(model)]
            if last.w_ym is not None:
                rows = _rows(last.cells, config)
                cells: float = FIRST_LINE + rows * max((4 * gates + 1) * config.beats, writes)
                cells -= early + float(np.count_nonzero(last.w_ym)) / config.pes + 4 * rows * gates
                projection = FIRST_LINE + _rows(last.outputs, config) * max(outputs * config.beats, writes) - sum(tail)
                gain += min(recurrent, max(0.0, cells)) - min(recurrent, max(0.0, projection))
        return gain > FIRST_LINE  # beyond the error of the estimate

    def _projected_before(self, number: int) -> int:
        return super()._projected_before(number) if number else self._projected

    def place_m(self, first: int, inputs: list[int]) -> int:
        """Take the input buffers and place m from column ``first`` on; returns the column behind."""
        self._inputs = inputs
        self._memory.needs["vector_depth"] = first
        self._m_lines = self._place_m()
        return self._memory.needs["vector_depth"]

    def place_rest(self, first_line: int) -> int:
        """Place y, cells and matrices, behind those of other models.

        Streamed weights are placed from ``first_line`` on. Returns the line behind them.
        """
        self._streamed_lines = first_line
        self._y_lines = self._place_y()
        self._store_layers()
        return self._streamed_lines

    def layouts(self) -> list[tuple[_Layout, _Rows]]:
        """All ways to use the accumulators. Products ahead of a frame are worth a step that is a little longer."""
        rows = [self._sums(number) for number in range(self._pivot + 1)]
        found = []
        for (gates, outputs), time in self._times().items():
            for ahead in (False,) if self._streamed else (True, False):
                last, earlier = (rows[-1], sum(rows[:-1])) if ahead else (max(rows), 0)
                banks = (*((size, 1) for size in rows[:-1]), (last, 2)) if ahead else ((last, 2),)
                found.append((
                    _Layout(ahead=ahead, banks=banks, gate_phases=gates, output_phases=outputs,
                            time=time / SLOWER if ahead else time),
                    _Rows(bank=last * gates, earlier=earlier * gates,
                          outputs=(self._output_rows + self._tail_rows) * outputs)))
        return found

    def take_rows(self, layout: _Layout, shared: _Rows) -> None:
        """Use the ``shared`` rows of all models in this way."""
        self._layout = layout
        self._gates = []
        first = 2 * shared.bank
        for rows, banks in layout.banks:
            if banks == 1:
                self._gates.append((first, 0, rows))
                first += rows * layout.gate_phases
            else:
                self._gates.append((0, shared.bank, rows))
        if not layout.ahead:
            self._gates *= self._pivot + 1
        first = self._output_base = 2 * shared.bank + shared.earlier
        first += self._output_rows * layout.output_phases
        self._tail_bases = []
        for number in self._tails:
            self._tail_bases.append(first)
            first += self._sums(number) * layout.output_phases

    # -- the program ---------------------------------------------------------------------------

    def write(self, first: int, wait: int) -> dict[str, int]:
        """Write the model's program from instruction ``first`` on; ``wait`` is the ``FRAME WAIT`` of all models.

        Returns the places that programs of other models go on with.
        """
        self._instructions = []
        self._first = first
        begin = self._here
        if self._layout.ahead:
            self._emit(Opcode.JUMP, when=When.STALE)
        else:
            # Another model may have made products ahead of the frame.
            self._emit(Opcode.CLEAR, turn=1)
        self._write_first_products(follow=True)
        to_loop: dict[str, Any] = {"opcode": Opcode.JUMP}
        self._instructions.append(to_loop)
        late = self._here
        super()._write_filling(0, When.ALWAYS)
        super()._write_late(0, When.ALWAYS)
        if self._apart:
            for instruction in self._instructions[late - first:]:
                if instruction["source"] == Source.RECURRENT:
                    instruction["kin"] = Kin.SAME
        to_loop["src_base"] = self._here
        for number in range(self._pivot + 1):
            self._write_layer(number)
        self._emit(Opcode.JUMP, when=When.TAKEN, turn=1)
        if self._layout.ahead:
            self._write_recurrent(ahead=True)
        self._emit(Opcode.JUMP, src_base=wait)
        if self._layout.ahead:
            self._instructions[0]["src_base"] = self._here
            self._emit(Opcode.CLEAR)
            self._write_recurrent(ahead=False)
            self._emit(Opcode.JUMP, src_base=begin + 1)
        early = self._here
        super()._write_early(0, When.ALWAYS)
        if self._apart:
            for operation in self._stored[0]["w_r"]:
                self._multiply(operation)
                self._instructions[-1]["kin"] = Kin.OTHER
        self._instructions[-1]["turn"] = 1
        return {"begin": begin, "early": early, "late": late}

    @property
    def _here(self) -> int:
        """The place of the next instruction."""
        return self._first + len(self._instructions)

    def _write_early(self, number: int, when: When) -> None:
        if number:
            super()._write_early(number, when)

    def _write_filling(self, number: int, when: When) -> None:
        if number:
            super()._write_filling(number, when)

    def _write_late(self, number: int, when: When) -> None:
        if number:
            super()._write_late(number, when)

    @property
    def instructions(self) -> list[dict[str, Any]]:
        """The model's program, without its FORMAT."""
        return self._instructions

    def format(self, models: int, banks: tuple[int, int], places: dict[str, int]) -> dict[str, Any]:
        """The model's FORMAT."""
        fields = {"opcode": Opcode.FORMAT, "count": self._model.inputs, "src_base": self._inputs[0],
                  "dst_base": self._inputs[1], "model": self._number, "models": models, "outputs": self._model.outputs,
                  **places}
        fields |= {"banks": banks[0], "bank_lines": banks[1]} if self._config.banks > 1 else {}
        return fields | ({"streamed": 1} if self._streamed else {})

    def result(self, instructions: Sequence[dict[str, Any]], banks: tuple[int, int]) -> Schedule:
        """The model in its places, with the program of all models."""
        return Schedule(model=self._model, config=self._config, operations=tuple(self._operations),
                        places=tuple(self._places), instructions=tuple(instructions), needs=self._memory.needs,
                        streamed=self._streamed, banks=banks[0], bank_lines=banks[1], number=self._number)


def schedule_all(models: Sequence[QuantizedModel], config: Config, balance: bool = True,
                 stream: bool | None = None) -> tuple[Schedule, ...]:
    """Place ``models`` side by side in a machine of capacity ``config``.

    Parameters
    ----------
    models : sequence of QuantizedModel
        In the order of their numbers. They have different names.
    config : Config
        The machine.
    balance : bool
        Put the columns in `openese.sw.pack.encode.column_order`.
    stream : bool, optional
        Whether the weights are read from memory in every step, as for `openese.sw.pack.schedule.schedule`.

    Returns
    -------
    tuple of Schedule
        One for each model. They have the program in common, which is for all models.

    Raises
    ------
    CapacityError
        The models do not fit the machine together.
    QuantizeError
        A model is quantized for other widths.
    """
    for model in models:
        model.check_fits(config)
    if stream and not config.stream:
        raise CapacityError(f"config {config.name!r} cannot stream weights")
    if config.models == 1 and len(models) == 1:
        return (schedule(models[0], config, balance, stream),)
    names = [model.name for model in models]
    if len(models) > config.models:
        raise CapacityError(f"config {config.name!r} holds {config.models} models at most, not the {len(models)} "
                            f"{', '.join(map(repr, names))}: set models to {len(models)}")
    if len(set(names)) < len(names):
        raise CapacityError(f"models need different names, and two have {max(names, key=names.count)!r}: a model has "
                            "the name of the file from which it is imported")
    _check_tables(models)
    encoders = [_Encoder(model, config, balance) for model in models]
    if stream is None and config.stream:
        try:
            return _place(models, config, encoders, False)
        except CapacityError:
            stream = True
    return _place(models, config, encoders, bool(stream))


def _place(models: Sequence[QuantizedModel], config: Config, encoders: Sequence[_Encoder],
           streamed: bool) -> tuple[Schedule, ...]:
    """`schedule_all`, with or without streamed weights."""
    names = [model.name for model in models]
    memory = _Memory(config=config)
    members = [_Member(models, number, encoder, streamed, memory) for number, encoder in enumerate(encoders)]
    inputs = [memory.lines(max(model.inputs for model in models)) for _ in range(2)]
    first = memory.needs["vector_depth"]
    memory.needs["vector_depth"] = start = max(member.place_m(first, inputs) for member in members)
    line = 0
    for member in members:
        line = member.place_rest(line)
    banks = memory.place_banks(memory.needs["vector_depth"] - start)
    who = f"an image of models {', '.join(map(repr, names))}" if len(models) > 1 else f"model {names[0]!r}"
    candidates = [member.layouts() for member in members]
    for ahead in (True, False):
        chosen, shared = _choose([[one for one in of if ahead or not one[0].ahead] for of in candidates],
                                 config.accumulator_rows)
        memory.needs["accumulator_rows"] = shared.total
        for member, layout in zip(members, chosen, strict=True):
            member.take_rows(layout, shared)
        instructions = _write(members, banks)
        memory.needs["program_depth"] = len(instructions)
        if len(instructions) <= config.program_depth:
            break
    memory.check(who)
    return tuple(member.result(instructions, banks) for member in members)


@contextmanager
def naming_host(models: Sequence[QuantizedModel], config: Config, every: bool = False) -> Iterator[None]:
    """Tell in a `CapacityError` if ``models`` fit with dense layers on the host: the last one of each, or with
    ``every`` all before and behind the recurrent layers."""
    try:
        yield
    except CapacityError as error:
        kept = [_without_dense(model, every) for model in models]
        if all(one is model for one, model in zip(kept, models, strict=True)):
            raise
        try:
            left = [model for model in kept if model is not None]
            if left:
                schedule_all(left, config)
        except CapacityError:
            raise error from None
        raise CapacityError(f"{error}; it fits with its {'' if every else 'last '}dense "
                            f"layer{'s' if every else ''} on the host: --dense host of openese compile or quantize, "
                            'dense="host" in Python', error.needs) from None


def _without_dense(model: QuantizedModel, every: bool) -> QuantizedModel | None:
    """The model without the dense layers that the host can take; None if they are all."""
    recurrent = [number for number, layer in enumerate(model.layers) if layer.kind is not DENSE]
    if not recurrent:
        return None if every else model
    last = len(model.layers) - 1
    first, end = (recurrent[0], recurrent[-1]) if every else (0, max(recurrent[-1], last - 1))
    return model if (first, end) == (0, last) else replace(model, layers=model.layers[first:end + 1], report=None)


def _check_tables(models: Sequence[QuantizedModel]) -> None:
    """Raises `CapacityError` unless all models have the same tables, since a machine has one of each."""
    first = models[0]
    for model in models[1:]:
        for name in ("sigmoid", "tanh"):
            if (getattr(model, f"{name}_table") != getattr(first, f"{name}_table")).any():
                raise CapacityError(
                    f"models {first.name!r} and {model.name!r} have different {name} tables (ranges "
                    f"{getattr(first, f'{name}_range')} and {getattr(model, f'{name}_range')}), and a machine has one: "
                    "quantize one with the tables of the other")


def _choose(candidates: Sequence[Sequence[tuple[_Layout, _Rows]]], depth: int) -> tuple[list[_Layout], _Rows]:
    """The fastest layouts, one for each model, and the rows that they share. If none fits, those of the fewest rows."""
    def sizes(name: str) -> list[int]:
        return sorted({getattr(rows, name) for of in candidates for _, rows in of})

    best: tuple[float, list[_Layout], _Rows] | None = None
    for bank in sizes("bank"):
        for earlier in sizes("earlier"):
            for outputs in sizes("outputs"):
                limit = _Rows(bank=bank, earlier=earlier, outputs=outputs)
                if limit.total > depth:
                    continue
                chosen = [min((one for one in of if one[1].within(limit)), key=lambda one: one[0].time, default=None)
                          for of in candidates]
                if any(one is None for one in chosen):
                    continue
                time = sum(one[0].time for one in chosen if one)
                if best is None or time < best[0]:
                    best = time, [one[0] for one in chosen if one], _shared(one[1] for one in chosen if one)
    if best:
        return best[1], best[2]
    least = [min(of, key=lambda one: one[1].total) for of in candidates]
    return [layout for layout, _ in least], _shared(rows for _, rows in least)


def _shared(rows: Iterable[_Rows]) -> _Rows:
    """The rows that serve all."""
    of = list(rows)
    return _Rows(bank=max(one.bank for one in of), earlier=max(one.earlier for one in of),
                 outputs=max(one.outputs for one in of))


def _write(members: Sequence[_Member], banks: tuple[int, int]) -> list[dict[str, Any]]:
    """The program of all models."""
    count = len(members)
    program: list[dict[str, Any]] = [{}] * count + [{"opcode": Opcode.FRAME, "when": Take.WAIT}]
    for number, member in enumerate(members):
        places = member.write(len(program), wait=count)
        program[number] = member.format(count, banks, places)
        program += member.instructions
    return program
