# SPDX-License-Identifier: Apache-2.0
"""Verilog in which a repeated block is one module with many instances."""

import re
from collections import Counter

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, ResetSignal
from amaranth.lib import wiring

__all__ = ["VerilogPlatform", "instantiate", "emit"]

_CONVERT = {"emit_src": False, "strip_internal_attrs": True}


class VerilogPlatform:
    """Collects the blocks of a design that are to be written once.

    Amaranth would write a module per instance. Passed as ``platform``, this makes `instantiate` return an
    ``Instance`` instead and remembers the block.
    """

    def __init__(self):
        self.blocks = {}

    def instance(self, block):
        """An instance of ``block``, whose ports it is connected to."""
        self.blocks.setdefault(block.module_name, block)
        ports = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in block.signature.flatten(block):
            prefix = "i" if member.flow is wiring.In else "o"
            ports[f"{prefix}_{'__'.join(path)}"] = value
        return Instance(block.module_name, **ports)


def instantiate(platform, block):
    """What to add as a submodule for ``block``: itself, or an instance where Verilog is written."""
    return platform.instance(block) if isinstance(platform, VerilogPlatform) else block


def _fill_by_loop(match):
    """A memory that starts with zeros, in one line."""
    lines = match.group(0).splitlines()
    name = re.match(r"\s*(\S.*)\[0\] = ", lines[1]).group(1)
    if any(not re.search(r"= \d+'h0+;$", line) for line in lines[1:-1]):
        return match.group(0)
    width = re.search(r"= (\d+)'h", lines[1]).group(1)
    loop = f"    for (integer k = 0; k < {len(lines) - 2}; k = k + 1) {name}[k] = {width}'h0;"
    return f"  initial begin\n{loop}\n  end\n"


_NAME = re.compile(r"\\\S+ |[A-Za-z_$][\w$]*")
_ALIAS = re.compile(r"  assign (\\\S+ |[A-Za-z_$][\w$]*) = .*;$")
_WIRE = re.compile(r"  wire (?:\[\d+:\d+\] )?(\\\S+ |[A-Za-z_$][\w$]*);$")


def _drop_aliases(module):
    """Removes wires that nothing reads: names of the fields of ports and of what passes through."""
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
    """Modules named for their place in the hierarchy, as plain identifiers."""
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


def _tidy(text):
    """Shortens what Yosys writes, without changing what it means."""
    text = _plain_names(text)
    text = re.sub(r"(?m)^  initial begin\n(?:    \S.*\[\d+\] = .*;\n)+  end\n", _fill_by_loop, text)
    text = re.sub(r"(?m)^  \(\* init = .* \*\)\n", "", text)
    head, *modules = re.split(r"(?m)^(?=module )", text)
    return head + "\n\n".join(_drop_aliases(module) for module in modules) + "\n"


def emit(top, name):
    """Verilog of ``top`` as module ``name``.

    Blocks passed to `instantiate` come first, as modules of their own that Verilator does not inline: it
    then builds them once.
    """
    platform = VerilogPlatform()
    text = verilog.convert(top, name=name, platform=platform, **_CONVERT)
    parts = []
    for block_name, block in platform.blocks.items():
        part = verilog.convert(block, name=block_name, platform=platform, **_CONVERT)
        parts.append(re.sub(rf"(?m)^(module {block_name}\([^;]*;)$", r"\1\n  /* verilator no_inline_module */", part))
    banner, _, body = text.partition("\n")
    stripped = [part.partition("\n")[2] for part in parts]
    return _tidy(banner + "\n" + "".join(stripped) + body)
