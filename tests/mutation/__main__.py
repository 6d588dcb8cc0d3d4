# SPDX-License-Identifier: Apache-2.0
"""``nox -s mutate -- BLOCK ...``: how many small faults in the blocks the tests notice."""

import json
import os
import select
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from openese.output import write_text

from .blocks import BLOCKS
from .engine import Campaign, Machine, finish, start

__all__ = ["judged_in_parallel", "main", "scores", "table"]


def scores(entries):
    """By block: mutations by their result, and the share of those that change something that are killed."""
    figures = {}
    for entry in entries:
        counts = figures.setdefault(entry["block"], dict.fromkeys(("killed", "survived", "same", "error"), 0))
        counts[entry["result"]] += 1
    for counts in figures.values():
        judged = counts["killed"] + counts["survived"]
        counts["score"] = round(counts["killed"] / judged, 4) if judged else None
    return figures


def table(figures):
    rows = Table("block", "mutations", "no change", "killed", "survived", "score")
    for name, counts in figures.items():
        score = "" if counts["score"] is None else f"{counts['score']:.1%}"
        total = sum(counts[key] for key in ("killed", "survived", "same", "error"))
        rows.add_row(name, *(str(n) for n in (total, counts["same"], counts["killed"], counts["survived"])), score)
    return rows


def _judged(campaign, numbers, jobs):
    """The entries of the mutations ``numbers``, as they come; ``jobs`` at a time."""
    waiting, running = list(numbers), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop(0)
            child, pipe = start(lambda number=number: campaign.run(number))
            running[pipe] = child
        for pipe in select.select(list(running), [], [])[0]:
            child = running.pop(pipe)
            yield finish(child, pipe)


def judged_in_parallel(campaigns, again, jobs, folder, seed):
    """Judge all mutations of the ``campaigns`` that have no result; returns the entries of all.

    With ``again``, those that were not killed are judged again. ``folder`` gets the scores.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    entries = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for campaign in campaigns:
            numbers = range(1, len(campaign.mutations) + 1)
            known = {number: entry for number, entry in campaign.known().items()
                     if number in numbers and not (again and entry["result"] in ("survived", "error"))}
            entries += known.values()
            waiting = [number for number in numbers if number not in known]
            task = progress.add_task(campaign.name, total=len(numbers), completed=len(known))
            if waiting:
                campaign.prepare(again)
            for entry in _judged(campaign, waiting, jobs):
                campaign.keep(entry)
                entries.append(entry)
                progress.advance(task)
                if entry["result"] in ("survived", "error"):
                    console.print(f"{campaign.name} {entry['mutation']} {entry['result']}: {entry['what']}",
                                  markup=False, soft_wrap=True)
            write_text(folder / "scores.json", json.dumps({"seed": seed, "scores": scores(entries)}, indent=1) + "\n")
    return entries


@click.command()
@click.argument("blocks", nargs=-1, type=click.Choice(list(BLOCKS)))
@click.option("--count", type=click.IntRange(min=1, max=60000), default=100, show_default=True,
              help="Mutations of each block.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--resume", is_flag=True, help="Keep the results of a run before, and judge the rest.")
@click.option("--again", is_flag=True, help="Judge those again that survived. Implies --resume.")
@click.option("--machine/--no-machine", default=True,
              help="Whether the tests of the Verilog of a machine judge too. It is built for minutes.")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build", "mutate"),
              show_default=True)
def main(blocks, count, seed, resume, again, machine, jobs, folder):
    """Mutate the netlists of BLOCKS, or of all, and run the tests on each mutation."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    if not (resume or again):
        results.unlink(missing_ok=True)
    campaigns = [Campaign(name, folder, count, seed) for name in dict.fromkeys(blocks or BLOCKS)]
    if machine:
        for part in (False, True):
            together = [campaign for campaign in campaigns
                        if campaign.block.machine and campaign.block.of_a_pe == part]
            for campaign in together:
                campaign.machine = Machine(together, folder)
    entries = judged_in_parallel(campaigns, again, jobs, folder, seed)
    Console().print(table(scores(entries)))
    print(f"for machines: {folder / 'scores.json'}; every mutation: {results}")


if __name__ == "__main__":
    main()
