# SPDX-License-Identifier: Apache-2.0
"""A page about a network on its machine: one HTML file with all that it shows, readable without a network.

Plotly draws it. Its script is in the page, which takes 5 MB.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from openese.rtl.config import Config
from openese.rtl.targets.devices import RESOURCES, Device
from openese.rtl.targets.logic import Amount
from openese.sw.cycles.load import MachineLoad
from openese.sw.cycles.model import Activity
from openese.sw.explore.detail import Detail
from openese.sw.explore.goal import Goal
from openese.sw.explore.problem import Measured
from openese.sw.explore.search import Found

__all__ = ["explored_page", "network_page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #d5d9de }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0 } .wide { overflow-x: auto }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #e4e7eb; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, .text { text-align: left } tr.best { background: #e6f4ea; font-weight: 600 }
pre { background: #f3f5f7; padding: .8rem; overflow-x: auto } p.note { color: #57606a }
p.fields { font-family: ui-monospace, monospace; font-size: .85rem }
"""
_LAYOUT = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 30, "b": 50}, "height": 420}
#: What a PE does or waits for while it multiplies nothing.
_WAITS = {
    Activity.PADDING: "padding: zeros between weights", Activity.HAZARD: "hazard: the sum is in use",
    Activity.DRAIN: "drain: sums are read out", Activity.END: "end of a matrix",
    Activity.PASS: "a line for other PEs", Activity.STARVED: "waits for the memory",
    Activity.EMPTY: "a column without a weight", Activity.FULL: "waits for other PEs",
    Activity.FOLLOW: "waits for m or y", Activity.START: "between two matrices",
    Activity.ASSEMBLE: "waits for the cells", Activity.OPERATIONS: "too many matrices under way",
    Activity.OUTPUT: "waits for the output", Activity.FRAME: "waits for a frame"}
_MOST_ROWS = 200  # of a table of tensors


def explored_page(title: str, goal: Goal, device: Device, found: Found, details: Sequence[Detail],
                  commands: Sequence[str], notes: Sequence[str], loss_name: str) -> str:
    """The page of a search.

    Parameters
    ----------
    title : str
        The network's name.
    goal : `Goal`
    device : `Device`
    found : `Found`
    details : sequence of `Detail`
        Of the winner, one for each image.
    commands : sequence of str
        That build the winner.
    notes : sequence of str
        What a reader has to know of the numbers.
    loss_name : str
        What the loss is, for people.
    """
    winner = found.winner
    counts = found.counts
    considered = (f"{counts['considered']:,} candidates: {counts['too large']:,} do not fit the device, "
                  f"{counts['too slow']:,} are too slow, {counts['beaten']:,} cannot be better than others, "
                  f"{counts['timed']:,} ran in the cycle model")
    if counts["not reached"]:
        considered += f", {counts['not reached']:,} were not reached"
    parts = [
        f"<p>Goal: {escape(str(goal))}, on the {escape(device.title)} at {goal.clock / 1e6:g} MHz. "
        f"{escape(considered)}.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        "<h2>The best</h2>", _of_machine(winner.config), _of_times(winner.config, winner.loads, goal),
        "<p>These commands build it:</p>", f"<pre>{escape(chr(10).join(commands))}</pre>",
        "<h2>Time, size and loss</h2>",
        "<p>Each point is a machine. On the front, no other is faster, smaller and of less loss.</p>",
        _figure("front", _front(goal, found, loss_name)), _of_front(goal, found, loss_name),
        "<h2>The FPGA</h2>", _of_device(device, winner.resources), *_of_details(details)]
    return _page(f"{title} on the {device.title}", parts)


def network_page(title: str, config: Config, goal: Goal, loads: Sequence[MachineLoad], details: Sequence[Detail],
                 device: Device | None, resources: Mapping[str, Amount], notes: Sequence[str]) -> str:
    """The page of one compiled network; parameters as of `explored_page`."""
    parts = [*(f'<p class="note">{escape(note)}</p>' for note in notes), "<h2>The machine</h2>", _of_machine(config),
             _of_times(config, loads, goal), "<h2>Memories</h2>", _of_memories(loads)]
    if device is not None:
        parts += ["<h2>The FPGA</h2>", _of_device(device, resources)]
    return _page(f"{title} on machine {config.name}", [*parts, *_of_details(details)])


def _page(title: str, parts: Iterable[str]) -> str:
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">', f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>",
        f"<script>{get_plotlyjs()}</script>", "</head><body>", f"<h1>{escape(title)}</h1>", *parts,
        "</body></html>", ""])


def _figure(name: str, figure: go.Figure) -> str:
    figure.update_layout(**_LAYOUT)
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, default_width="100%",
                               default_height=f"{figure.layout.height}px",
                               config={"displayModeBar": False, "responsive": True})
    return html


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], best: int | None = None) -> str:
    """A table; the row number ``best`` stands out."""
    lines = ["<tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>"]
    for number, row in enumerate(rows):
        mark = ' class="best"' if number == best else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


# -- tables ------------------------------------------------------------------------------------------------


def _of_machine(config: Config) -> str:
    fields = [f"{name}&nbsp;=&nbsp;{escape(str(value))}" for name, value in config.fields().items() if name != "name"]
    return f'<p class="fields">{", ".join(fields)}</p>'


def _of_times(config: Config, loads: Sequence[MachineLoad], goal: Goal) -> str:
    def row(name: str, steady: int | None, rest: int | None) -> list[str]:
        if steady is None or rest is None:
            return [name, "too large for the cycle model", "", "", "", ""]
        return [name, f"{steady:,}", f"{steady / goal.clock * 1e6:,.2f}", f"{rest:,}",
                f"{rest / goal.clock * 1e6:,.2f}", f"{config.channels * goal.clock / steady:,.0f}"]

    rows = [row(load.name, load.cycles_per_step, load.cycles_at_rest) for load in loads]
    if len(loads) > 1:
        steady, rest = ([getattr(load, name) for load in loads] for name in ("cycles_per_step", "cycles_at_rest"))
        rows.append(row("all, one after another", *(None if None in held else sum(held) for held in (steady, rest))))
    return _table(["image", "cycles of a step", "us", "cycles at rest", "us", "frames a second"], rows)


def _of_memories(loads: Sequence[MachineLoad]) -> str:
    return _table(["image", "memory", "taken", "of", "share"],
                  [(load.name, name, f"{taken:,}", f"{there:,}", f"{taken / there:.0%}")
                   for load in loads for name, (taken, there) in load.memories.items()])


def _of_device(device: Device, resources: Mapping[str, Amount]) -> str:
    there = device.resources
    rows = [(RESOURCES[name], f"{amount.number:,.12g}", f"{there[name]:,}",
             f"{amount.number / there[name]:.1%}" if there[name] else "",
             f"{amount.least:,} to {amount.most:,}" if amount.error else "exact")
            for name, amount in resources.items()]
    return _table(["resource", "taken", f"of the {device.fpga}", "share", "range"], rows) + (
        '<p class="note">As Yosys maps it; LUTs and registers by a fitted model.</p>')


def _of_front(goal: Goal, found: Found, loss_name: str) -> str:
    def row(one: Measured) -> list[str]:
        config = one.config
        return [f"{config.pes} x {config.channels}", str(config.groups), f"{config.slices} x {config.slice_width}",
                "yes" if config.forward else "no", f"{config.weight_bits} / {config.activation_bits}",
                f"{one.density:g}",
                f"{one.at_rest / goal.clock * 1e6:,.2f}", f"{one.steady / goal.clock * 1e6:,.2f}",
                f"{config.channels * goal.clock / one.steady:,.0f}", f"{one.share:.0%}", f"{one.loss:.3g}"]

    best = next((number for number, one in enumerate(found.front) if one == found.winner), None)
    return _table(["PEs x channels", "groups", "slices x width", "forward", "bits of weights / activations",
                   "density", "us at rest", "us of a step", "frames a second", "share of the device", loss_name],
                  map(row, found.front), best)


# -- figures -----------------------------------------------------------------------------------------------


def _front(goal: Goal, found: Found, loss_name: str) -> go.Figure:
    def text(one: Any) -> str:
        config = one.config
        return (f"{config.pes} PEs x {config.channels} channels, {config.groups} groups<br>{config.slices} slices x "
                f"{config.slice_width}{', forward' * config.forward}<br>{config.weight_bits}-bit weights, "
                f"{config.activation_bits}-bit activations")

    points, front, winner = found.points, found.front, found.winner

    def seconds(config: Config, cycles: int) -> float:
        return goal.seconds(config, cycles) * 1e6

    losses = [one.loss for one in front]
    figure = go.Figure([
        go.Scatter(x=[seconds(point.timed.config, point.timed.cycles) for point in points],
                   y=[point.timed.share for point in points], mode="markers", name="timed",
                   marker={"color": "#b6bdc6", "size": 6},
                   hovertext=[f"{text(point.timed)}<br>density {point.density:g}" for point in points],
                   hoverinfo="text+x+y"),
        go.Scatter(x=[seconds(one.config, one.cycles(goal)) for one in front], y=[one.share for one in front],
                   mode="markers", name="front",
                   marker={"size": 11, "color": losses, "colorscale": "Viridis", "showscale": True,
                           "colorbar": {"title": {"text": loss_name}, "tickformat": ".3~g"},
                           "line": {"width": 1, "color": "white"}},
                   hovertext=[f"{text(one)}<br>density {one.density:g}, loss {one.loss:.3g}" for one in front],
                   hoverinfo="text+x+y"),
        go.Scatter(x=[seconds(winner.config, winner.cycles(goal))], y=[winner.share], mode="markers", name="the best",
                   marker={"symbol": "star", "size": 18, "color": "#d1242f", "line": {"width": 1, "color": "white"}},
                   hoverinfo="skip")])
    what = "us from a frame to its answer, at rest" if goal.at_rest else "us of a step, for each voice"
    figure.update_xaxes(title=what, type="log")
    figure.update_yaxes(title="share of the device", tickformat=".0%", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": 1.08})
    return figure


def _of_details(details: Sequence[Detail]) -> list[str]:
    parts = []
    for number, held in enumerate(details):
        name = f" of {escape(held.name)}" if len(details) > 1 else ""
        parts += [
            f"<h2>Balance over the PEs{name}</h2>",
            "<p>Cycles of a step, by PE. Above: products of each matrix. Below, on a scale of its own: what a PE does "
            "or waits for in the other cycles.</p>",
            _figure(f"balance-{number}", _balance(held)),
            f"<h2>Timeline of a step{name}</h2>", _figure(f"timeline-{number}", _timeline(held)),
            f"<h2>Saturations and errors by layer{name}</h2>", *_errors(held, number)]
    return parts


def _balance(held: Detail) -> go.Figure:
    labels = list(held.causes)
    total = np.sum([held.causes[label] for label in labels], axis=0)
    products = {f"products of {label}": held.causes[label][Activity.BUSY] for label in labels}
    waits = {name: total[activity] for activity, name in _WAITS.items() if total[activity].any()}
    parts = [rows for rows in (products, waits) if rows]
    heights = [len(rows) / sum(map(len, parts)) for rows in parts]
    figure = make_subplots(rows=len(parts), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    for number, rows in enumerate(parts):
        middle = 1 - sum(heights[:number]) - heights[number] / 2
        cycles = np.stack(list(rows.values()))
        figure.add_trace(go.Heatmap(
            z=cycles.tolist(), y=list(rows), colorscale=("Blues", "Oranges")[number], zmin=0, zmax=int(cycles.max()),
            colorbar={"title": {"text": "cycles"}, "y": middle, "len": max(0.3, heights[number])},
            hovertemplate="PE %{x}<br>%{y}: %{z} cycles<extra></extra>"), row=number + 1, col=1)
    figure.update_xaxes(title="PE", row=len(parts), col=1)
    figure.update_yaxes(automargin=True, autorange="reversed")
    return figure


_LANES = {"elementwise": "element-wise", "project": "element-wise", "clear": "element-wise", "output": "output"}


def _timeline(held: Detail) -> go.Figure:
    traces = []
    for label in dict.fromkeys(span.label for span in held.spans):
        spans = [span for span in held.spans if span.label == label]
        starts = [max(0, span.start) for span in spans]
        stops = [min(held.cycles, span.stop) for span in spans]
        traces.append(go.Bar(
            base=starts, x=[max(0, stop - start) for start, stop in zip(starts, stops, strict=True)],
            y=[_LANES.get(label.split()[0], "array") for _ in spans], orientation="h", name=label,
            hovertext=[f"{label}: cycles {start:,} to {stop:,}" for start, stop in zip(starts, stops, strict=True)],
            hoverinfo="text"))
    figure = go.Figure(traces)
    figure.update_layout(barmode="overlay", legend={"orientation": "h", "y": 1.15}, height=320)
    figure.update_xaxes(title="cycle of the step", range=[0, held.cycles])
    figure.update_yaxes(categoryorder="array", categoryarray=["output", "element-wise", "array"])
    return figure


def _errors(held: Detail, number: int) -> list[str]:
    report = held.report
    if report is None:
        return ['<p class="note">Not measured: give frames by --calibrate.</p>']
    layers = [row.layer for row in report.outputs]
    saturated = {layer: [row for row in report.tensors if row.layer == layer] for layer in layers}
    figure = go.Figure([
        go.Bar(x=layers, y=[row.rms_error / max(row.rms_output, 1e-30) for row in report.outputs],
               name="RMS error of y, as a share of y"),
        go.Bar(x=layers, y=[sum(row.saturated for row in rows) / max(1, sum(row.count for row in rows))
                            for rows in saturated.values()], name="numbers that are clamped")])
    figure.update_yaxes(tickformat=".2%")
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": 1.1})
    rows = [(row.layer, row.tensor, f"{row.minimum:.4g}", f"{row.maximum:.4g}", f"{row.bits}.{row.fraction}",
             f"{row.saturated:,} of {row.count:,}", f"{row.rms_error:.3g}") for row in report.tensors[:_MOST_ROWS]]
    more = len(report.tensors) - len(rows)
    note = f'<p class="note">{more:,} more tensors are not shown.</p>' if more > 0 else ""
    saturations = ", ".join(f"{count:,} of {name}" for name, count in report.saturations.items())
    return [f"<p>Measured on {report.steps:,} steps of {report.voices:,} voices against floating point; clamped while "
            f"it ran: {escape(saturations)}.</p>", _figure(f"errors-{number}", figure),
            _table(["layer", "tensor", "least", "most", "format", "clamped", "RMS error"], rows), note]
