# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.accuracy``: brings the tables and the picture of accuracy.md up to date with what was measured.

What was measured is in ``docs/accuracy.json``, by `examples.recognizer.accuracy`, in ``sw/speech/recognizer.json``, by
`examples.recognizer`, and in ``docs/distillation.json``, by `examples.distill`.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

__all__ = ["TABLES", "draw"]

ROOT = Path(__file__).parent
_TESTS = {
    "espeak-test": "voices never trained on, noise 0 to 15 dB", "espeak-test-clean": "the same voices without noise",
    "espeak-test-rooms": "the same voices, noise or babble, reverberation, other microphones",
    "flite-test": "a synthesizer never trained on, noise 0 to 15 dB",
    "prompts-test": "real speech: prompts never trained on", "prompts-test-noisy": "the same with noise 0 to 15 dB"}
_ROWS = {"dense": "dense, float", "sparse": "10 %, float", "machine": "**10 %, 12/16-bit machine**",
         "sparser": "5 %, float", "sparser machine": "5 %, machine"}


def _measured():
    return json.loads((ROOT / "accuracy.json").read_text())


def _record():
    return json.loads((ROOT.parent / "sw" / "speech" / "recognizer.json").read_text())


def _table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _percent(value):
    return f"{100 * value:.1f}"


def _signed(value):
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # never -0.0


def _over_seeds(values):
    """Mean, and the spread where there are several."""
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {100 * float(np.std(values, ddof=1)):.1f}"


def aims():
    """What was aimed at, and what was reached; figures of the tables below."""
    record, found = _record(), _measured()
    beside = {row: ", ".join(_signed(rows[row]["more"]) for rows in record["compared"].values())
              for row in ("sparse", "sparser")}
    less = ", ".join(_signed(test["machine"]["more"]) for test in found["hour"].values())
    apart = [100 * (found["machine"][f"balanced-10-{seed}"]["decoded"] - found["machine"][name]["decoded"])
             for kind, _, seed, name in ((*name.rpartition("-"), name) for name in found["machine"])
             if kind == "global-10"]
    machine = {test: _percent(score["decoded"]) for test, score in record["scores"]["machine"].items()}
    kept, rates = (_distilled(task)[0]["machine"] for task in ("vad", "speaker"))
    counts = [test["windows"] for test in kept["distilled-10"].values()]
    otherwise = np.average([100 - 100 * test["kept"] for test in kept["distilled-10"].values()], weights=counts)
    halves = {name: [f"{100 * tests[source]['errors']['halves']:.1f}" for source in ("synthetic", "recordings")]
              for name, tests in rates.items()}
    return _table(["aim", "at most", "reached"], [
        ["10 % of the weights and 12 bits, phone errors more than dense", "+0.1",
         f"{beside['sparse']} as shipped; {less} with less speech"],
        ["5 % of the weights, likewise", "+0.5", f"{beside['sparser']} as shipped"],
        ["balanced at 10 %, more than unbalanced", "+0.1",
         f"{np.mean(apart):+.2f} ± {np.std(apart, ddof=1) / np.sqrt(len(apart)):.2f}, {len(apart)} seeds"],
        ["the machine's integers, more than the same weights in floating point", "+0.05", _of_integers(record, found)],
        ["phone errors, synthetic voices with noise; without; recorded prompts", "20; 20; 25", "; ".join(
            machine[test] for test in ("espeak-test", "espeak-test-clean", "prompts-test"))],
        ["Silero VAD at 10 %, windows that are decided otherwise", "1",
         f"{otherwise:.2f} of {sum(counts):,}; {100 - 100 * kept['distilled-10']['clips']['kept']:.2f} of the "
         f"{kept['distilled-10']['clips']['windows']:,} of the clips"],
        ["Resemblyzer at 10 %, equal error rate of halves", "0.7", "synthetic voices {}, real speakers {} ".format(
            *halves["distilled-10"]) + "(dense {} and {})".format(*halves["dense"])]])


def _of_integers(record, found):
    """How many more phone errors the machine makes than the same weights in floating point: on much speech, and the
    most on a short test."""
    much = [(test["machine"], test["sparse"]) for test in found["hour"].values()]
    phones = [row["phones"] for row, _ in much]
    more = np.average([100 * (row["decoded"] - exact["decoded"]) for row, exact in much], weights=phones)
    short = max(100 * abs(row["decoded"] - record["scores"]["sparse"][test]["decoded"])
                for test, row in record["scores"]["machine"].items())
    return f"{more:+.2f} of {sum(phones):,}; {short:.2f}, one edit, on a short test"


def shipped():
    """The recognizer of the paper's size: errors by test."""
    scores = _record()["scores"]
    rows = [name for name in _ROWS if name in scores]
    return _table(["test", "phones", *(_ROWS[row] for row in rows)], [
        [f"`{test}`: {meaning}", f"{scores['dense'][test]['phones']:,}",
         *(f"{_percent(scores[row][test]['decoded'])} ({_percent(scores[row][test]['errors'])}; "
           f"{_percent(scores[row][test]['frames'])})" for row in rows)]
        for test, meaning in _TESTS.items() if test in scores["dense"]])


def compared():
    """The recognizer's sparse networks beside the dense one, on more speech."""
    found = _record()["compared"]
    return _table(["test", "phones", "dense", "10 %", "more", "5 %", "more"], [
        [f"`{test}`", f"{rows['sparse']['phones']:,}", _percent(rows["sparse"]["errors"][0]),
         *(cell for row in (rows["sparse"], rows["sparser"]) for cell in (
             _percent(row["errors"][1]), _more(row)))]
        for test, rows in found.items()])


_LESS = {"dense": "1024/512, dense", "sparse": "1024/512, 10 %, float",
         "machine": "**1024/512, 10 %, 12/16-bit machine**", "small": "256/128, dense"}


def hour():
    """The same size on less than an hour of speech, and a dense network with as many weights as the sparse one."""
    found = _measured()["hour"]
    rows = [[meaning, *(cell for test in found for cell in (
        _percent(found[test][row]["decoded"]), "" if row == "dense" else _more(found[test][row])))]
        for row, meaning in _LESS.items()]
    return _table(["network", *(column for test, scores in found.items() for column in (
        f"`{test}`, {scores['dense']['phones']:,} phones", "more"))], rows)


def stages():
    """The same on one test, the longer they were trained."""
    return _table(["updates", "dense", "10 %", "more"], [
        [f"{row['updates']:,}", *map(_percent, row["errors"]), _more(row)] for row in _record()["stages"]])


def _more(row):
    return f"{_signed(row['more'])} ± {100 * row['deviation']:.1f}"


def _by_kind(section):
    """Entries of all seeds: kind ("dense", "balanced-10", ...) -> list of entries."""
    found = defaultdict(list)
    for name, entry in _measured().get(section, {}).items():
        found[name.rpartition("-")[0]].append(entry)
    return found


def _density(kind):
    return 1.0 if kind == "dense" else int(kind.rpartition("-")[2]) / 100


_KINDS = {"dense": "dense", "balanced": "balanced", "global": "unbalanced", "proposed": "balanced, by sensitivity"}


def densities():
    """The small network: each density, in floating point and through the machine."""
    real, machine = _by_kind("float"), _by_kind("machine")
    rows = []
    for kind in sorted(machine, key=lambda kind: (-_density(kind), kind)):
        first = machine[kind][0]
        rows.append([
            f"{_density(kind):.0%}", _KINDS[kind.partition("-")[0]], f"{first['nonzeros']:,}", f"{first['bytes']:,}",
            _over_seeds([entry["frames"] for entry in real[kind]]),
            _over_seeds([entry["decoded"] for entry in real[kind]]),
            _over_seeds([entry["decoded"] for entry in machine[kind]]),
            f"{np.mean([entry['signal_to_noise_db'] for entry in machine[kind]]):.0f} dB",
            f"{first['cycles']:,}", f"{first['busy']:.1%}", str(len(machine[kind]))])
    return _table(["density", "pruned", "non-zeros", "image, bytes", "frames right, float", "phone errors, float",
                   "phone errors, machine", "SNR", "cycles a step", "busy", "seeds"], rows)


def layered():
    """Two layers, and two directions, beside one, of the first seed."""
    measured = _measured()
    rows = {"256/128": [measured["float"]["dense-1"], measured["machine"]["balanced-10-1"]],
            "160/96, twice": [measured["layered"]["dense/float"], measured["layered"]["balanced-10/machine"]],
            "160/64, in both directions": [measured["both"]["dense/float"], measured["both"]["balanced-10/machine"]]}
    return _table(["layers", "weights", "non-zeros at 10 %", "dense, float", "10 %, machine", "cycles a step"], [
        [name, f"{machine['weights']:,}", f"{machine['nonzeros']:,}", _percent(dense["decoded"]),
         _percent(machine["decoded"]), f"{machine['cycles']:,}"] for name, (dense, machine) in rows.items()])


def _by_weight_bits():
    """Phone errors through the machine: kind -> bits -> of each seed that was tried with other word lengths."""
    measured = _measured()
    found = defaultdict(lambda: defaultdict(dict))
    for name, entry in measured.get("weight_bits", {}).items():
        run, bits = name.split("/")
        row = found[run.rpartition("-")[0]]
        row[int(bits)][run], row[12][run] = entry["decoded"], measured["machine"][run]["decoded"]
    return {kind: {bits: list(row[bits].values()) for bits in sorted(row, reverse=True)}
            for kind, row in sorted(found.items(), key=lambda item: -_density(item[0]))}


def weight_bits():
    """Weights of fewer bits, everything through the machine."""
    found = _by_weight_bits()
    paper = {int(bits): entry["decoded"] for bits, entry in _measured().get("paper", {}).items() if bits.isdecimal()}
    widths = sorted({bits for row in found.values() for bits in row} | set(paper), reverse=True)
    rows = [[f"256/128, {_density(kind):.0%}{', unbalanced' if kind.startswith('global') else ''}",
             *(_over_seeds(row[bits]) if bits in row else "" for bits in widths)] for kind, row in found.items()]
    if paper:
        rows.append(["1024/512, 10 %", *(_percent(paper[bits]) if bits in paper else "" for bits in widths)])
    return _table(["network", *(f"{bits} bits" for bits in widths)], rows)


def _with_noise(entry):
    return f"{_percent(entry['decoded'])}; {entry['signal_to_noise_db']:.0f} dB"


def activation_bits():
    """Activations of fewer bits."""
    measured = _measured()
    found = defaultdict(dict)
    for name, entry in measured["activation_bits"].items():
        run, bits = name.split("/")
        found[run] = {16: measured["machine"][run], **found[run], int(bits): entry}
    widths = list(next(iter(found.values())))
    return _table(["256/128", *(f"{bits} bits" for bits in widths)], [
        [f"{_density(run.rpartition('-')[0]):.0%}", *(
            _with_noise(found[run][bits]) for bits in widths)] for run in sorted(found, reverse=True)])


def table_samples():
    """Tables of other sizes, with and without interpolation."""
    found = _measured()["table_samples"]
    sizes = list(dict.fromkeys(name.partition("/")[0] for name in found))
    return _table(["samples", *sizes], [
        [meaning, *(_with_noise(found[f"{size}/{kind}"]) for size in sizes)]
        for kind, meaning in (("linear", "linear interpolation"), ("none", "nearest sample"))])


def peephole_bits():
    """Peepholes of fewer bits."""
    found = _measured()["peephole_bits"]
    return _table(["peepholes", *(f"{bits} bits" for bits in found)], [
        ["phone errors; SNR", *map(_with_noise, found.values())]])


def ranges():
    """Tables over other ranges."""
    found = _measured().get("tables", {})
    names = [f"-{1 << int(r)}..{1 << int(r)} and -{1 << int(r) - 1}..{1 << int(r) - 1}" for r in found]
    return _table(["sigmoid and tanh over", *names], [
        ["phone errors", *(_percent(entry["decoded"]) for entry in found.values())],
        ["SNR at the output", *(f"{entry['signal_to_noise_db']:.1f} dB" for entry in found.values())]])


def sensitivity():
    """One matrix pruned at a time."""
    found = _measured()["choices"]["sensitivity"]
    return _table(["matrix", "weights", *(f"{density:.0%}" for density in found["densities"]), "proposed"], [
        [f"`{tensor}`", f"{found['sizes'][tensor]:,}", *(_percent(error) for error in errors),
         f"{found['proposed'][tensor]:.0%}"] for tensor, errors in found["errors"].items()])


_SOURCES = {"clips": "clips of the example", "synthetic": "synthetic voices", "recordings": "speakers of LibriSpeech"}

_TAUGHT = {"artificial": "distilled without speech"}


def _distilled(task):
    """A task's sections of distillation.json by their names, and the names of its networks by falling density."""
    found = json.loads((ROOT / "distillation.json").read_text())
    parts = {part: found[f"{task}/{part}"] for part in ("speech", "nonzeros", "float", "machine")}

    def order(name):
        kind, _, percent = name.rpartition("-")
        return -int(percent) if kind else -100, kind != "one-shot"

    return parts, sorted(parts["float"], key=order)


def _pruned(name):
    kind, _, percent = name.rpartition("-")
    return f"{percent} %, {_TAUGHT.get(kind, kind)}" if kind else "dense"


def _shares(parts, name, figure):
    """Through the machine, where that was measured, and in floating point."""
    found = {part: f"{100 * figure(parts[part][name]):.2f}" for part in ("machine", "float") if name in parts[part]}
    return f"{found.get('machine', '')} ({found['float']})".lstrip()


def vad():
    """Silero VAD: decisions kept."""
    parts, names = _distilled("vad")
    judged, tests = parts["speech"]["judged by"], parts["float"][names[0]]
    columns = [f"{_SOURCES[test]}: {judged[test]['voices']}, {figures['windows']:,} windows"
               for test, figures in tests.items()]
    return _table(["Silero VAD", "non-zeros", *columns], [
        [_pruned(name), f"{parts['nonzeros'][name]:,}",
         *(_shares(parts, name, lambda figures, test=test: figures[test]["kept"]) for test in tests)]
        for name in names])


def speaker():
    """Resemblyzer: equal error rates."""
    parts, names = _distilled("speaker")
    tests = parts["float"][names[0]]
    cells = [(test, count) for test, figures in tests.items() for count in figures["errors"]]
    columns = [f"{_SOURCES[test]}: " + (f"{tests[test]['halved']}, halves" if count == "halves" else
                                        f"{tests[test]['voices']}, {1.6 + 0.8 * (int(count) - 1):.1f} s")
               for test, count in cells]
    return _table(["Resemblyzer", "non-zeros", *columns], [
        [_pruned(name), f"{parts['nonzeros'][name]:,}",
         *(_shares(parts, name, lambda figures, test=test, count=count: figures[test]["errors"][count])
           for test, count in cells)] for name in names])


#: By page and marker.
TABLES = {("accuracy.md", table.__name__): table
          for table in (aims, shipped, compared, hour, stages, densities, layered, weight_bits, activation_bits, ranges,
                        table_samples, peephole_bits, sensitivity, vad, speaker)}


def _draw_densities(axes):
    machine = _by_kind("machine")
    for family, style in (("balanced", "o-"), ("global", "s--")):
        kinds = sorted((kind for kind in machine if kind.startswith(family)), key=_density)
        errors = [[100 * entry["decoded"] for entry in machine[kind]] for kind in kinds]
        axes.errorbar([100 * _density(kind) for kind in kinds], [np.mean(row) for row in errors],
                      yerr=[np.std(row, ddof=min(1, len(row) - 1)) for row in errors], fmt=style, capsize=3,
                      label=_KINDS[family])
    axes.axhline(100 * np.mean([entry["decoded"] for entry in machine["dense"]]), color="gray", ls=":", label="dense")
    axes.set(xscale="log", xlabel="density, %", ylabel="phone errors, %", title="Density")
    axes.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"])
    axes.legend(frameon=False)


def _draw_bits(axes):
    for kind, row in _by_weight_bits().items():
        if kind not in ("dense", "balanced-30", "balanced-10", "balanced-05"):
            continue
        axes.plot(list(row), [100 * np.mean(errors) for errors in row.values()], "o-", label=f"{_density(kind):.0%}")
    axes.set(xlabel="weight bits", ylabel="phone errors, %", title="Word length of weights")
    axes.legend(title="density", frameon=False, loc="center right", bbox_to_anchor=(1, 0.65), ncols=2)


def _draw_sensitivity(axes):
    found = _measured()["choices"]["sensitivity"]
    for tensor, errors in found["errors"].items():
        axes.plot([100 * density for density in found["densities"]], [100 * error for error in errors], "o-",
                  label=f"{tensor}, proposed {found['proposed'][tensor]:.0%}")
    axes.set(xscale="log", xlabel="density of this matrix alone, %", ylabel="frames wrong, %",
             title="One matrix at a time, one-shot")
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.legend(frameon=False)


def draw(path):
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for panel, plot in zip(axes, (_draw_densities, _draw_bits, _draw_sensitivity), strict=True):
        plot(panel)
        panel.minorticks_off()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    from docs.tables import with_table

    for (page, marker), table in TABLES.items():
        text = (ROOT / page).read_text()
        (ROOT / page).write_text(with_table(text, marker, table()))
    draw(ROOT / "accuracy.png")
