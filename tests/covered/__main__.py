# SPDX-License-Identifier: Apache-2.0
"""``nox -s coverage``: what the tests of the emitted Verilog run of it, and what all tests run of the software."""

import json
from collections import Counter
from pathlib import Path

import click
import pytest

from openese.output import write_text

from .machine import Counted

__all__ = ["hardware", "main", "software"]

#: Tests of few machines, one of which streams its weights, and one has several column groups for one voice.
TESTS = ("tests/sim/test_device.py", "tests/soak/test_soak.py")
_SOME = "not word_lengths and not banks and not configurations"
_MEMORIES = "memory_"


def hardware(machines):
    """The figures of `Counted.counts`: lines by machine and by block, and the state machines of all machines."""
    of_machines = {name: Counter() for name in machines}
    of_blocks, fsms = {}, {}
    for machine, blocks in machines.items():
        for name, found in blocks.items():
            if name.startswith(_MEMORIES):
                continue
            for counts in (of_machines[machine], of_blocks.setdefault(name, Counter())):
                counts.update(lines=found["lines"], ran=found["ran"])
            if found["states"]:
                fsm = fsms.setdefault(name, {"states": Counter(), "transitions": Counter()})
                for kind, counts in fsm.items():
                    counts.update(found[kind])
    return {"machines": of_machines, "blocks": of_blocks, "state_machines": fsms}


def software(measured):
    """By folder of the package: statements and branches, and how many of them ran, of coverage.py's JSON."""
    folders = {}
    for file, found in sorted(measured["files"].items()):
        folder = "/".join(Path(file.removeprefix("openese/")).parent.parts[:2])
        summary = found["summary"]
        folders.setdefault(folder, Counter()).update(
            statements=summary["num_statements"], ran=summary["covered_lines"],
            branches=summary["num_branches"], branches_ran=summary["covered_branches"])
    return folders


@click.command()
@click.option("--software", "measured", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What `coverage json` wrote.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build", "coverage"),
              show_default=True)
def main(measured, folder):
    """Run the tests of the emitted Verilog on machines that count."""
    counted = Counted(folder.resolve())
    with counted.installed():
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "sim", "-k", _SOME, *TESTS])
    if status:
        raise click.ClickException("tests fail")
    figures = {"hardware": hardware(counted.counts())}
    if measured:
        figures["software"] = software(json.loads(measured.read_text()))
    write_text(folder / "coverage.json", json.dumps(figures, indent=1) + "\n")
    print(f"for machines: {folder / 'coverage.json'}")


if __name__ == "__main__":
    main()
