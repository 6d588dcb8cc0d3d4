# SPDX-License-Identifier: Apache-2.0
"""``nox -s soak -- --minutes N``: random campaigns, their counts, and the command that repeats a failure."""

import json
import os
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from openese.output import write_text

from . import files, hardware  # noqa: F401, they register their campaigns
from .engine import CAMPAIGNS, Log, carry_out, run
from .fuzz import replay


def _table(log):
    table = Table("campaign", "cases", "minutes", "what was done", "failures")
    for name, figures in log.summary().items():
        done = ", ".join(f"{count:,} {key}" for key, count in figures["counts"].items())
        table.add_row(name, f"{figures['cases']:,}", f"{figures['seconds'] / 60:.1f}", done, str(figures["failures"]))
    return table


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0), default=10.0, show_default=True)
@click.option("--cases", type=click.IntRange(min=1), help="End each campaign after so many cases, not after --minutes.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--only", type=click.Choice(sorted(CAMPAIGNS)), multiple=True, help="A campaign; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on behind the cases in the log, and add to its counts.")
@click.option("--case", type=click.IntRange(min=0), help="Repeat one case of --only.")
@click.option("--replay", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Read one file as the fuzzer does.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build", "soak"),
              show_default=True)
def main(minutes, cases, seed, only, resume, case, file, folder):
    """Random campaigns against the machine and its surroundings. Exit status 1 after a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    # Simulators of random machines would push others out of the common cache.
    os.environ["OPENESE_CACHE"] = str(folder / "cache")
    if file is not None:
        sys.exit(replay(file))
    if case is not None:
        if len(only) != 1:
            raise click.UsageError("--case needs one campaign: --only NAME")
        entry = carry_out(only[0], seed, case, folder)
        print(entry["failure"] or json.dumps(entry))
        sys.exit(bool(entry["failure"]))
    log = Log(folder / "log.jsonl", resume)
    names = list(only or CAMPAIGNS)
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("soak", total=60 * minutes)
        began = time.monotonic()

        def advance(entry):
            failures = len(log.failures)
            progress.update(task, completed=time.monotonic() - began, description=(
                f"{sum(log.cases.values()):,} cases, {failures} failures, last {entry['campaign']} {entry['case']}"))
            write_text(folder / "summary.json", json.dumps({"seed": seed, "campaigns": log.summary()}, indent=1) + "\n")
            if entry["failure"]:
                last = entry["failure"].strip().splitlines()[-1]
                console.print(f"{entry['campaign']} {entry['case']}: {last}", markup=False, soft_wrap=True)

        run(names, seed, 60 * minutes, log, folder, advance, cases)
    Console().print(_table(log))
    print(f"for machines: {folder / 'summary.json'}; every case: {folder / 'log.jsonl'}")
    for entry in log.failures:
        print(f"FAILED: nox -s soak -- --only {entry['campaign']} --seed {entry['seed']} --case {entry['case']}")
    sys.exit(bool(log.failures))


if __name__ == "__main__":
    main()
