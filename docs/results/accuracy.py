# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.accuracy``: tables and the picture of what pruning and word lengths cost in recognition.

The data are ``accuracy.json``, by `examples.recognizer.accuracy`; ``sw/speech/recognizer.json``, by
`examples.recognizer`; and ``distillation.json``, by `examples.distill`.
"""

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

from docs.markdown import DOCS, table, update

__all__ = ["TABLES", "draw"]

HERE = Path(__file__).parent
_TESTS = {
    "espeak-test": "synthetic voices, noise 0 to 15 dB",
    "espeak-test-clean": "synthetic voices, no noise",
    "espeak-test-rooms": "synthetic voices in rooms: noise or babble, reverberation, other microphones",
    "flite-test": "another synthesizer, noise 0 to 15 dB",
    "prompts-test": "recorded prompts",
    "prompts-test-noisy": "recorded prompts, noise 0 to 15 dB"}
_ROWS = {"dense": "dense, float", "sparse": "10 %, float", "machine": "**10 %, machine**",
         "sparser": "5 %, float", "sparser machine": "5 %, machine"}
_SIZES = {"dense": "1024/512, dense, float", "sparse": "1024/512, 10 %, float", "machine": "1024/512, 10 %, machine",
          "small": "256/128, dense, float"}
_KINDS = {"dense": "not pruned", "balanced": "balanced", "global": "unbalanced", "proposed": "by sensitivity"}
_SOURCES = {"clips": "the 13 clips", "synthetic": "synthetic voices", "recordings": "LibriSpeech"}


@cache
def _measured():
    return json.loads((HERE / "accuracy.json").read_text())


@cache
def _record():
    return json.loads((DOCS.parent / "sw" / "speech" / "recognizer.json").read_text())


@cache
def _distillation():
    return json.loads((HERE / "distillation.json").read_text())


def _percent(value):
    return f"{100 * value:.1f}"


def _more(row):
    """Difference and standard error, in percent."""
    return f"{round(100 * row['more'], 1) + 0.0:+.1f} ± {100 * row['deviation']:.1f}"  # never -0.0


def _over_seeds(values):
    """Mean, and the standard deviation of several."""
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {100 * float(np.std(values, ddof=1)):.1f}"


def _whole(share):
    return f"{share:.0%}".replace("%", " %")


def shipped():
    """The recognizer: phone errors by test."""
    scores = _record()["scores"]
    return table(["test", "phones", *_ROWS.values()], [
        [meaning, f"{scores['dense'][test]['phones']:,}", *(_percent(scores[row][test]["decoded"]) for row in _ROWS)]
        for test, meaning in _TESTS.items()])


def compared():
    """The recognizer's sparse networks beside the dense one, on more speech."""
    found = _record()["compared"]
    return table(["test", "phones", "dense", "10 %", "difference", "5 %", "difference"], [
        [_TESTS[test], f"{rows['sparse']['phones']:,}", _percent(rows["sparse"]["errors"][0]),
         *(cell for row in (rows["sparse"], rows["sparser"]) for cell in (_percent(row["errors"][1]), _more(row)))]
        for test, rows in found.items()])


def hour():
    """The same size trained on less than an hour of speech, beside a dense network with as many weights."""
    found = _measured()["hour"]
    return table(["network", *(column for test in found for column in (_TESTS[test], "difference"))], [
        [meaning, *(cell for scores in found.values() for cell in (
            _percent(scores[row]["decoded"]), "" if row == "dense" else _more(scores[row])))]
        for row, meaning in _SIZES.items()])


def _by_kind(section):
    """Entries of all seeds: kind ("dense", "balanced-10", ...) -> list of entries."""
    found = defaultdict(list)
    for name, entry in _measured()[section].items():
        found[name.rpartition("-")[0]].append(entry)
    return found


def _density(kind):
    return 1.0 if kind == "dense" else int(kind.rpartition("-")[2]) / 100


def densities():
    """The small network: each density, in floating point and through the machine."""
    real, machine = _by_kind("float"), _by_kind("machine")
    rows = []
    for kind in sorted(machine, key=lambda kind: (-_density(kind), kind)):
        first = machine[kind][0]
        rows.append([
            _whole(_density(kind)), _KINDS[kind.partition("-")[0]],
            _over_seeds([entry["decoded"] for entry in real[kind]]),
            _over_seeds([entry["decoded"] for entry in machine[kind]]), f"{first['bytes']:,}",
            f"{first['cycles']:,}", f"{100 * first['busy']:.1f}", len(machine[kind])])
    return table(["density", "pruned", "phone errors, float", "phone errors, machine", "image, bytes",
                  "cycles per step", "multipliers busy", "seeds"], rows)


def _by_weight_bits():
    """Phone errors of balanced networks: kind -> bits -> of each seed that was measured with several word lengths."""
    found = defaultdict(lambda: defaultdict(dict))
    for name, entry in _measured()["weight_bits"].items():
        run, bits = name.split("/")
        kind = run.rpartition("-")[0]
        if not kind.startswith("global"):
            found[kind][int(bits)][run] = entry["decoded"]
            found[kind][12][run] = _measured()["machine"][run]["decoded"]
    return {kind: {bits: list(row[bits].values()) for bits in sorted(row, reverse=True)}
            for kind, row in sorted(found.items(), key=lambda item: -_density(item[0]))}


def weight_bits():
    """Weights of fewer bits, everything through the machine."""
    paper = {int(bits): entry["decoded"] for bits, entry in _measured()["paper"].items() if bits.isdecimal()}
    widths = sorted(paper, reverse=True)
    return table(["phone errors", *(f"{bits} bits" for bits in widths)], [
        ["1024/512, 10 %", *(_percent(paper[bits]) for bits in widths)],
        *([f"256/128, {_whole(_density(kind))}", *(_over_seeds(row[bits]) if bits in row else "" for bits in widths)]
          for kind, row in _by_weight_bits().items())])


def _with_noise(entry):
    return f"{_percent(entry['decoded'])}; {entry['signal_to_noise_db']:.0f} dB"


def short_words():
    """The bundled recognizer in its own words, and in those of `ku060`."""
    rows = []
    for test, meaning in _TESTS.items():
        found = _measured()["short_words"][test]
        own, short = found["own"], found["short"]
        rows.append([meaning, f"{own['phones']:,}", _percent(own["decoded"]), _percent(short["decoded"]), _more(found)])
    return table(["test", "phones", "12-bit weights, 16-bit activations", "8-bit weights, 12-bit activations",
                  "difference"], rows)


def activation_bits():
    """Activations of fewer bits."""
    found = defaultdict(dict)
    for name, entry in _measured()["activation_bits"].items():
        run, bits = name.split("/")
        found[run] = {16: _measured()["machine"][run], **found[run], int(bits): entry}
    widths = list(next(iter(found.values())))
    return table(["activations", *(f"{bits} bits" for bits in widths)], [
        [f"256/128, {_whole(_density(run.rpartition('-')[0]))}", *(_with_noise(found[run][bits]) for bits in widths)]
        for run in sorted(found, reverse=True)])


def sensitivity():
    """One matrix pruned at a time."""
    found = _measured()["choices"]["sensitivity"]
    return table(["matrix", *map(_whole, found["densities"]), "proposed density"], [
        [f"`{tensor}`", *map(_percent, errors), _whole(found["proposed"][tensor])]
        for tensor, errors in found["errors"].items()])


def _distilled(task):
    """A task's figures through the machine, by falling density."""
    figures = _distillation()[f"{task}/machine"]

    def order(name):
        kind, _, percent = name.rpartition("-")
        return -int(percent) if kind else -100, kind != "one-shot"

    return {name: figures[name] for name in sorted(figures, key=order)}


def _pruned(name):
    kind, _, percent = name.rpartition("-")
    return f"{percent} %, {'distilled without speech' if kind == 'artificial' else kind}" if kind else "dense"


def vad():
    """Silero VAD: decisions kept."""
    figures = _distilled("vad")
    tests = figures["dense"]
    return table(["Silero VAD", *(f"{_SOURCES[test]}: {row['windows']:,} windows" for test, row in tests.items())], [
        [_pruned(name), *(f"{100 * found[test]['kept']:.2f}" for test in tests)] for name, found in figures.items()])


def speaker():
    """Resemblyzer: equal error rates."""
    figures = _distilled("speaker")
    cells = [(test, count) for test, row in figures["dense"].items() for count in row["errors"]]
    lengths = {count: "halves" if count == "halves" else f"{1.6 + 0.8 * (int(count) - 1):.1f} s" for _, count in cells}
    return table(["Resemblyzer", *(f"{_SOURCES[test]}, {lengths[count]}" for test, count in cells)], [
        [_pruned(name), *(f"{100 * found[test]['errors'][count]:.2f}" for test, count in cells)]
        for name, found in figures.items()])


def phonemes():
    """g2p-en: words and phonemes as the dense network writes them, and as the dictionary has them."""
    kinds = "learned", "newer"
    shown = {"same words": "as of the original", "not in the dictionary": "wrong",
             "phonemes not in the dictionary": "wrong phonemes"}
    return table(["g2p-en", *(f"{kind} words: {name}" for kind in kinds for name in shown.values())], [
        [_pruned(name), *(f"{100 * found[kind][figure]:.1f}" for kind in kinds for figure in shown)]
        for name, found in _distilled("phonemes").items()])


#: By page and marker.
TABLES = {
    **{("results/index.md", make.__name__): make for make in (shipped, compared, weight_bits, vad, speaker, phonemes)},
    **{("results/accuracy.md", make.__name__): make for make in (
        densities, hour, activation_bits, short_words, sensitivity)}}


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


def draw(path: Path) -> None:
    """Draw phone errors by density and by word length, and the sensitivity of each matrix."""
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
    update(TABLES)
    draw(HERE / "accuracy.png")
