# SPDX-License-Identifier: Apache-2.0
"""Mutations of the software that change nothing that anyone can notice, as judged by a person."""

from typing import NamedTuple

__all__ = ["EQUAL", "Equal"]


class Equal(NamedTuple):
    """A mutation that is judged equal to the module.

    Attributes
    ----------
    module : str
    before, after : str
        The line, and what becomes of it.
    reason : str
        Why nothing changes: one sentence.
    """

    module: str
    before: str
    after: str
    reason: str


_COMPARE, _CALIBRATE, _CHOOSE = (f"sw/quantize/{name}.py" for name in ("compare", "calibrate", "choose"))
_MEMORY = "The size of a block decides about memory and speed alone."
_REST = "NumPy takes any negative size for the one that it finds itself."
_SCHEDULE, _IMAGE = "sw/pack/schedule.py", "sw/pack/image.py"

EQUAL = (
    Equal(_COMPARE, "_BLOCK_NUMBERS = 1 << 18  # pre-activations in memory at a time",
          "_BLOCK_NUMBERS = 2 << 18  # pre-activations in memory at a time", _MEMORY),
    Equal(_COMPARE, "block = max(1, _BLOCK_NUMBERS // (4 * voices * layer.w_x.shape[1]))",
          "block = max(1, _BLOCK_NUMBERS % (4 * voices * layer.w_x.shape[1]))", _MEMORY),
    Equal(_COMPARE, "if layer.peephole is not None and quantized.peephole is not None:",
          "if layer.peephole is not None or quantized.peephole is not None:",
          "Both layers have peepholes, or neither."),
    Equal(_CALIBRATE, "products = multiply(recording.x.reshape(-1, inputs), layer.w_x).reshape(steps, voices, -1)",
          "products = multiply(recording.x.reshape(-1, inputs), layer.w_x).reshape(steps, voices, - 2)", _REST),
    Equal(_CALIBRATE,
          "return multiply(error.reshape(-1, inputs), self._float.w_x).reshape(steps, voices, self._gates, -1)",
          "return multiply(error.reshape(~1, inputs), self._float.w_x).reshape(steps, voices, self._gates, -1)", _REST),
    Equal(_CALIBRATE, "before = state.y.reshape(copies, voices, -1)", "before = state.y.reshape(copies, voices, ~1)",
          _REST),
    Equal(_CALIBRATE, "_BATCH_NUMBERS = 1 << 22  # numbers in memory for the changes that are measured together",
          "_BATCH_NUMBERS = 1 << 21  # numbers in memory for the changes that are measured together", _MEMORY),
    Equal(_CHOOSE, "likely = [Change(\"x\", 0, fraction) for fraction in x_fractions if len(x_fractions) > 1]",
          "likely = [Change(\"x\", 0, fraction) for fraction in x_fractions if len(x_fractions) != 1]",
          "There is at least one binary point of x."),
    Equal(_CHOOSE, "costs = {x_fraction: self._costs.cost(Change(\"x\", 0, x_fraction)) + sum(",
          "costs = {x_fraction: self._costs.cost(Change(\"x\", 1, x_fraction)) + sum(",
          "A change of x is of no gate, and its cost does not depend on the number."),
    Equal(_SCHEDULE, 'self._instructions[-1] |= {"banks": self._banks, "bank_lines": self._bank_lines}',
          'self._instructions[- 0] |= {"banks": self._banks, "bank_lines": self._bank_lines}',
          "The program has one instruction there."),
    Equal(_SCHEDULE, "total = 0.0", "total = 1.0", "The times are compared with each other alone."),
    Equal(_IMAGE, "_BLOCK_BITS = 1 << 20  # packed or unpacked at a time",
          "_BLOCK_BITS = 1 * 20  # packed or unpacked at a time", _MEMORY),
    Equal(_IMAGE, "pairs[place.cells:place.cells + place.rows] = pair.reshape(4, place.rows, -1).transpose(1, 0, 2)",
          "pairs[place.cells:place.cells + place.rows] = pair.reshape(4, place.rows, - 2).transpose(1, 0, 2)", _REST),
    Equal(_IMAGE, "if 4 * position != len(data):", "if 4 * position < len(data):",
          "No section ends behind the data, or it is refused before."),
    Equal("sw/cycles/stream.py", "self._counter, self._execute = 0, StreamFetch.delay",
          "self._counter, self._execute = 1, StreamFetch.delay",
          "It only reaches the wait for the first frame earlier, and waits there."),
    Equal("sw/cycles/stream.py", "self._chance = np.random.default_rng(1)", "self._chance = np.random.default_rng( 2)",
          "It only chooses other random cycles in which the memory gives nothing."),
    Equal("sw/cycles/stream.py", "return self._memory.share >= 1 or self._chance.random() < self._memory.share",
          "return self._memory.share >= 2 or self._chance.random() < self._memory.share",
          "A random number is below 1."),
    Equal("sw/cycles/stream.py", "outstanding: int = 64", "outstanding: int = 65",
          "The reader has at most 15 bursts under way."),
    Equal("sw/cycles/model.py", "activity[start:start + _BLOCK] = np.where(items >= 0, Activity.BUSY, ~items)",
          "activity[start:start + _BLOCK] = np.where(items >= -1, Activity.BUSY, ~items)",
          "The activity BUSY is 0, as -1 inverted is."),
    Equal("sw/cycles/model.py", "self._completed = deque([0] * (PEArray.join_delay(config) + Controller.done_delay))",
          "self._completed = deque([ -1] * (PEArray.join_delay(config) + Controller.done_delay))",
          "Nobody asks for it before the first frame, which is later."),
    Equal("sw/cycles/model.py", "self.rests = False", "self.rests = True", "Every cycle sets it before anybody asks."),
    Equal("sw/cycles/blocks.py",
          "self._ending = SpmatRead.delay - 1 - PEArray.join_delay(config) if config.forward else -1",
          "self._ending = SpmatRead.delay - 1 - PEArray.join_delay(config) if config.forward else - 0",
          "Nobody asks for it without `forward`."),
)
