# SPDX-License-Identifier: Apache-2.0
"""Writes a design as Verilog in which a repeated block is one module with many instances."""

import contextlib
import gc
import re
from collections import Counter

from amaranth.back import verilog
from amaranth.hdl import Cat, ClockSignal, Const, Instance, ResetInserter, ResetSignal, Shape
from amaranth.lib import wiring

from openese.rtl.attributes import ULTRA_RAM

__all__ = ["VerilogPlatform", "instantiate", "emit", "without_zeros"]

_CONVERT = {"emit_src": False, "strip_internal_attrs": True}


class VerilogPlatform:
    """Collects the blocks of a design that are written once.

    Amaranth writes a module for each instance. With this as the ``platform``, `instantiate` returns an ``Instance``
    instead and remembers the block. Amaranth also writes every bit of a memory's first contents. Here a memory is an
    instance of a module in the form from which synthesis tools infer memory.
    """

    def __init__(self):
        self.blocks = {}
        self.memories = {}

    def instance(self, block, reset=None):
        """An instance of ``block``, connected to the block's ports, and to ``reset`` in place of the domain's."""
        self.blocks.setdefault(block.module_name, block)
        ports = {"i_clk": ClockSignal(), "i_rst": ResetSignal() if reset is None else reset}
        for path, member, value in block.signature.flatten(block):
            prefix = "i" if member.flow is wiring.In else "o"
            ports[f"{prefix}_{'__'.join(path)}"] = value
        return Instance(block.module_name, **ports)

    def get_memory(self, storage):
        """The instance that replaces ``storage``. Amaranth calls this.

        Raises
        ------
        ValueError
            If the memory does not start with zeros, or has a transparent port.
        """
        (write,), reads = storage.write_ports, storage.read_ports
        if any(Const.cast(Const(row, storage.shape)).value for row in storage.init):
            raise ValueError(f"a memory of {storage.depth} rows starts with contents: they belong in the image")
        if any(port.transparent_for for port in reads):
            raise ValueError(f"a memory of {storage.depth} rows has a transparent port: bypass it instead")
        width = Shape.cast(storage.shape).width
        kinds = "".join("a" if port.domain == "comb" else "s" for port in reads)
        lanes = len(write.en)
        attributes = dict(storage.attrs)
        name = "_".join(["memory", f"{storage.depth}x{width}", kinds, *([f"by{width // lanes}"] if lanes > 1 else []),
                         *map(str, attributes.values())])
        self.memories[name] = _memory(name, storage.depth, width, lanes, kinds, attributes)

        def address(port):
            return Cat(port.addr, Const(0, 1))[:max(1, len(port.addr))]

        ports = {"i_clk": ClockSignal(write.domain), "i_write_address": address(write), "i_write_enable": write.en,
                 "i_write_data": write.data}
        for index, port in enumerate(reads):
            ports[f"i_read{index}_address"] = address(port)
            ports[f"o_read{index}_data"] = port.data
            if port.domain != "comb":
                ports[f"i_read{index}_enable"] = port.en
        return Instance(name, **ports)


def _memory(name, depth, width, lanes, kinds, attributes):
    """Verilog of a memory with one write port of ``lanes`` enables. Each letter of ``kinds`` is a read port:
    synchronous (``s``, which reads the old word while it is being written) or asynchronous (``a``).
    """
    address = f"[{max(1, (depth - 1).bit_length()) - 1}:0]"
    ports = ["input clk", f"input {address} write_address", f"input [{lanes - 1}:0] write_enable",
             f"input [{width - 1}:0] write_data"]
    reads = []
    for index, kind in enumerate(kinds):
        read = f"read{index}"
        ports.append(f"input {address} {read}_address")
        if kind == "a":
            ports.append(f"output [{width - 1}:0] {read}_data")
            reads.append(f"  assign {read}_data = words[{read}_address];")
        else:
            ports += [f"input {read}_enable", f"output reg [{width - 1}:0] {read}_data"]
            reads.append(f"  always @(posedge clk) if ({read}_enable) {read}_data <= words[{read}_address];")
    lane = width // lanes
    writes = [f"    if (write_enable[{k}]) words[write_address][{k * lane + lane - 1}:{k * lane}]"
              f" <= write_data[{k * lane + lane - 1}:{k * lane}];" for k in range(lanes)]
    if lanes == 1:
        writes = ["    if (write_enable) words[write_address] <= write_data;"]
    text = ", ".join(f'{key} = "{value}"' for key, value in attributes.items())
    # UltraRAM has no first contents.
    first = [] if attributes == ULTRA_RAM else [
        "  integer k;", f"  initial for (k = 0; k < {depth}; k = k + 1) words[k] = {width}'h0;"]
    return "\n".join([
        f"module {name}(", ",\n".join(f"  {port}" for port in ports), ");",
        f"  {f'(* {text} *) ' if text else ''}reg [{width - 1}:0] words [0:{depth - 1}];",
        *first,
        "  always @(posedge clk) begin", *writes, "  end", *reads, "endmodule\n"])


def without_zeros(verilog):
    """The Verilog of `emit` without the loops that fill memories with zeros, for synthesis by Yosys.

    An FPGA's memories start with zeros anyway. Yosys reads such loops in a time that grows with the square of their
    rows.
    """
    return re.sub(r"(?m)^  initial for .*\n", "", verilog)


def instantiate(platform, block, reset=None):
    """The submodule to add for ``block``: the block itself, or an instance while Verilog is written.

    ``reset`` is a register behind the domain's reset that takes its place in the Verilog. The block itself gets both.
    """
    if isinstance(platform, VerilogPlatform):
        return platform.instance(block, reset)
    return block if reset is None else ResetInserter(reset)(block)


_NAME = re.compile(r"\\\S+ |[A-Za-z_$][\w$]*")
_ALIAS = re.compile(r"  assign (\\\S+ |[A-Za-z_$][\w$]*) = .*;$")
_WIRE = re.compile(r"  (?:\(\* .* \*\) )?wire (?:\[-?\d+:\d+\] )?(\\\S+ |[A-Za-z_$][\w$]*);$")


def _drop_aliases(module):
    """Remove wires that nothing reads: names of the fields of ports, and of values that only pass through."""
    lines = module.splitlines()
    while True:
        uses = Counter(name for line in lines for name in _NAME.findall(line))
        unread = {match.group(1) for match in map(_ALIAS.match, lines) if match and uses[match.group(1)] == 2}
        unread &= {match.group(1) for match in map(_WIRE.match, lines) if match}
        unread |= {match.group(1) for match in map(_WIRE.match, lines) if match and uses[match.group(1)] == 1}
        if not unread:
            return "\n".join(lines)

        def keep(line, unread=unread):
            match = _ALIAS.match(line) or _WIRE.match(line)
            return match is None or match.group(1) not in unread
        lines = [line for line in lines if keep(line)]


def _plain_names(text):
    """Give modules that are named for their place in the hierarchy plain identifiers."""
    taken = set()
    names = {}
    for name in re.findall(r"(?m)^module (\S+?) ?\(", text):
        plain = re.sub(r"\W+", "_", re.sub(r"\$\d+$", "", name.lstrip("\\")))
        while plain in taken:
            plain += "_"
        taken.add(plain)
        names[name] = plain
    return re.sub(r"(?m)^(module|  )(\s?)(\\\S+) (?= \S|\()",
                  lambda match: f"{match[1]}{match[2]}{names.get(match[3], match[3] + ' ')}", text)


def _plain_signals(module):
    """Give names that begin with a dollar sign, which no waveform viewer expects, plain identifiers."""
    taken = set(_NAME.findall(module))
    names = {}
    for name in dict.fromkeys(re.findall(r"\\\$\S+ ", module)):
        plain = re.sub(r"\W+", "_", name[1:-1])
        while plain in taken:
            plain += "_"
        taken.add(plain)
        names[name] = plain
    return re.sub(r"\\\$\S+ ", lambda match: names[match[0]], module)


def _tidy(text):
    """Shorten the text of Yosys without changing its meaning."""
    text = _plain_names(text)
    text = re.sub(r"(?m)^  \(\* init = .* \*\)\n", "", text)
    # An attribute goes where what it is said of goes.
    text = re.sub(r"(\(\* .* \*\))\n +(?=wire |reg |\(\* )", r"\1 ", text)
    text = re.sub(r"(?m)^  (\(\* .* \*\))\n  (output [^;]*;)\n  (?=reg |wire )", r"  \2\n  \1 ", text)
    head, *modules = re.split(r"(?m)^(?=module )", text)
    return head + "\n\n".join(_plain_signals(_drop_aliases(module)) for module in modules) + "\n"


@contextlib.contextmanager
def _uncollected():
    """Pause the garbage collector: none of a netlist's millions of objects becomes garbage before the end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_uncollected()
def emit(top, name):
    """Verilog of ``top`` as module ``name``.

    Blocks that were passed to `instantiate` come first, as modules of their own. Verilator is told not to inline them,
    so it builds each of them once.
    """
    platform = VerilogPlatform()
    text = verilog.convert(top, name=name, platform=platform, **_CONVERT)
    parts = {}
    while waiting := platform.blocks.keys() - parts.keys():
        block = min(waiting)
        part = verilog.convert(platform.blocks[block], name=block, platform=platform, **_CONVERT)
        parts[block] = re.sub(rf"(?m)^(module {block}\([^;]*;)$", r"\1\n  /* verilator no_inline_module */", part)
    banner, _, body = text.partition("\n")
    stripped = [parts[block].partition("\n")[2] for block in sorted(parts)]
    memories = "\n".join(platform.memories[name] for name in sorted(platform.memories))
    return _tidy(f"{banner}\n{''.join(stripped)}{body}\n{memories}")
