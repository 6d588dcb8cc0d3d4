# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Docstrings of the blocks: their Members are the ports that the blocks have, in direction and shape."""

import importlib
import inspect
import pkgutil
import re
from typing import get_origin

import pytest
from amaranth.hdl import Shape, signed
from amaranth.lib import data, stream, wiring
from bench import TINY

import openese.rtl
from openese.rtl import (
    activation,
    broadcast,
    bundles,
    config,
    elementwise,
    interfaces,
    program,
    program_reader,
    ptr_read,
    spmat_read,
    state_access,
    weight_stream,
)
from openese.rtl.axi import AXI4LiteSignature
from openese.rtl.frames import Beats, FrameBeat, FrameGuard
from openese.rtl.loader import ImageError, Lines, Section
from openese.rtl.serial.bridge import DEPTH, Header
from openese.rtl.serial.uart import DIVISOR_BITS
from openese.rtl.watchdog import Stall

#: Has every port: of streamed weights, of banks and models, of GRUs and dense layers, of several groups, of PEs of a
#: tile.
CONFIG = TINY.replace(name="all", groups=2, slices=1, weight_bits=12, index_bits=4, stream=True, banks=3,
                      models=3, cells="lstm+gru+gru_before+dense", forward=True)
#: Values of parameters that are no part of a machine's capacity.
PARAMETERS = {"shape": data.ArrayLayout(signed(5), 3), "depth": 8, "ports": 2, "address_width": 12, "pes": 4,
              "slices": 2, "data_width": 64, "address_bits": 7, "data_bits": 9}
#: Members that stand for many: the pins of a bus.
BUSES = {"Top", "AXI4LiteSignature", "AXI4ReadSignature"}


def modules():
    for module in pkgutil.walk_packages(openese.rtl.__path__, "openese.rtl."):
        if ".targets" not in module.name and not module.name.endswith(".build"):
            yield importlib.import_module(module.name)


BLOCKS = sorted({value for module in modules() for value in vars(module).values()
                 # Python 3.10 calls an alias such as list[int] a class.
                 if inspect.isclass(value) and get_origin(value) is None
                 and issubclass(value, wiring.Component | wiring.Signature)
                 and value.__module__.startswith("openese.") and value is not bundles.Bundle},
                key=lambda block: block.__qualname__)
#: The words that pass between blocks. An instruction's fields are said in its code.
WORDS = [interfaces.Column, interfaces.Token, interfaces.Entry, interfaces.Context, interfaces.LineWrite,
         elementwise.Beat, elementwise.Settings, elementwise.SliceControl, weight_stream.Burst, state_access.Select,
         Header]


def names(parameters):
    """The names that a member's direction and shape are written in."""
    words = [word for word in WORDS if word not in (interfaces.LineWrite, state_access.Select, Header)]
    lines = [spmat_read.weight_line, ptr_read.pointer_line, elementwise.parameter_line]
    fields = {name: getattr(CONFIG, name) for name in dir(CONFIG) if not name.startswith("_")}
    return {
        **fields, "In": wiring.In, "Out": wiring.Out, "signed": signed, "stream": stream.Signature, "max": max,
        "len": len, "range": range, "bits_for": config.bits_for, "array": lambda n, shape: data.ArrayLayout(shape, n),
        "MAX_OPERATIONS": interfaces.MAX_OPERATIONS, "DIVISOR_BITS": DIVISOR_BITS, "DEPTH": DEPTH, "Section": Section,
        "ImageError": ImageError, "Lines": Lines(CONFIG), "Header": Header(), "Select": state_access.Select(),
        "AXI4LiteSignature": AXI4LiteSignature, "AXI4ReadSignature": weight_stream.AXI4ReadSignature,
        "activations": interfaces.activations(CONFIG), "Beats": Beats(CONFIG), "FrameBeat": FrameBeat(CONFIG),
        "FrameGuard": FrameGuard, "LineWrite": interfaces.LineWrite,
        "tile_pes": CONFIG.groups * CONFIG.rows_per_slice, "table_line": activation.table_line(CONFIG),
        "order_line": broadcast.order_line(CONFIG), "program_line": program_reader.program_line(CONFIG),
        "Stall": Stall, "burst_lines": weight_stream.burst_lines(CONFIG),
        "counters": wiring.Signature({name: wiring.Out(24) for name in openese.rtl.registers.COUNTERS}),
        **{word.__name__: word(CONFIG) for word in [*words, program.Instruction]},
        **{line.__name__: Line(line) for line in lines},
        **parameters,
    }


class Line(data.StructLayout):
    """The line of one PE or slice; called with their number, of several."""

    def __init__(self, function):
        self.function = function
        super().__init__(function(CONFIG).members)

    def __call__(self, count):
        return self.function(CONFIG, count)


def made(block):
    """An instance, and the parameters that it was made with."""
    taken = {name: parameter for name, parameter in inspect.signature(block).parameters.items()
             if parameter.default is parameter.empty or name in PARAMETERS}
    values = {name: CONFIG if name == "config" else PARAMETERS[name] for name in taken}
    return block(**values), {name: value for name, value in values.items() if name != "config"}


def members(block, section="Members"):
    """Name, and direction and shape, of every line of the section."""
    text = inspect.cleandoc(block.__doc__).split(f"{section}\n{'-' * len(section)}\n")[1]
    found = {}
    for line in text.split("\n\n")[0].splitlines():
        if not line.startswith(" "):
            match = re.fullmatch(r"(\S+) : (.+?) — .+", line)
            assert match, f"not `name : direction(shape) — text`: {line}"
            found[match[1]] = match[2]
    return found


def same(first, second):
    """Whether two members are; Amaranth compares signatures of other classes than its own by identity."""
    if first.is_signature and second.is_signature:
        ends = [[(path, port.flow, port.shape) for path, port in member.signature.members.flatten() if port.is_port]
                for member in (first, second)]
        return first.flow == second.flow and ends[0] == ends[1]
    return first == second


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__qualname__)
def test_members_are_the_ports(block):
    instance, parameters = made(block)
    signature = instance if isinstance(instance, wiring.Signature) else instance.signature
    documented = members(block)
    if block.__name__ in BUSES:
        ports = {name.rstrip("*") for name in documented}
        assert all(any(name.startswith(port) for port in ports) for name in signature.members)
        return
    assert set(documented) == set(signature.members)
    known = names(parameters)
    for name, member in signature.members.items():
        assert same(eval(documented[name], known), member), f"{name} is {member!r}"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__qualname__)
def test_fields_are_those_of_the_word(word):
    instance, parameters = made(word)
    documented = members(word, "Fields")
    assert list(documented) == list(instance.members)
    known = names(parameters)
    for name, shape in instance.members.items():
        assert Shape.cast(eval(documented[name], known)) == Shape.cast(shape), name


@pytest.mark.parametrize("block", [block for block in BLOCKS if issubclass(block, wiring.Component)],
                         ids=lambda block: block.__qualname__)
def test_latency_and_cost_are_said(block):
    assert re.search(r"^(Latency|Wait)\b", inspect.cleandoc(block.__doc__), re.M)
    assert re.search(r"\bCost:\s", inspect.cleandoc(block.__doc__))


