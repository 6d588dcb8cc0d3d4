# SPDX-License-Identifier: Apache-2.0
"""What slang finds in Verilog."""

import re

import pytest

__all__ = ["diagnostics", "elaborate", "registers"]

# Yosys assigns a signed sum to an unsigned wire, and selects a field as the low bits of a shift.
_OPTIONS = "--std 1364-2005 -Wextra -Wconversion -Wno-sign-conversion -Wno-width-trunc"


def elaborate(path, top):
    """The design in the Verilog-2005 file ``path``, elaborated: a ``pyslang`` compilation, and its sources."""
    pyslang = pytest.importorskip("pyslang", minversion="12", reason="pyslang 12 is for Python 3.11 and newer")
    driver = pyslang.driver.Driver()
    driver.addStandardArgs()
    assert driver.parseCommandLine(f"slang {_OPTIONS} --top {top} {path}")
    assert driver.processOptions() and driver.parseAllSources()
    return driver.createCompilation(), driver


def diagnostics(path, top):
    """Errors and warnings, one a line."""
    compilation, driver = elaborate(path, top)
    engine = driver.diagEngine
    return [engine.formatMessage(diagnostic) for diagnostic in compilation.getAllDiagnostics()
            if engine.getSeverity(diagnostic.code, diagnostic.location).name != "Ignored"]


def registers(path, top):
    """Names that Vivado gives the registers, but for their bits: ``instance/instance/signal_reg``."""
    pyslang = pytest.importorskip("pyslang", minversion="12", reason="pyslang 12 is for Python 3.11 and newer")
    assigned = {}
    for text in re.split(r"(?m)^(?=module )", path.read_text())[1:]:
        assigned[re.match(r"module (\w+)", text)[1]] = set(re.findall(r"(?m)^ +(\w+)(?:\[[\d:]+\])? <= ", text))
    names = set()

    def walk(instance, prefix):
        names.update(f"{prefix}{name}_reg" for name in assigned[instance.definition.name])
        for member in instance.body:
            if member.kind == pyslang.ast.SymbolKind.Instance:
                walk(member, f"{prefix}{member.name}/")

    compilation, _ = elaborate(path, top)
    for instance in compilation.getRoot().topInstances:
        walk(instance, "")
    return names
