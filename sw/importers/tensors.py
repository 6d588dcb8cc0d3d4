# SPDX-License-Identifier: Apache-2.0
"""Find LSTMs and GRUs among the named arrays of a state dict, a safetensors file or an ``.npz``.

Four families of names are recognized. PREFIX ends with a dot, or is empty.

PyTorch, gate order i, f, g, o along the first axis, ``K`` counting stacked layers:

====================================  ==================  =========================================
``PREFIX.weight_ih_lK``               (4H, I)             the backward direction ends in ``_reverse``
``PREFIX.weight_hh_lK``               (4H, P)
``PREFIX.bias_ih_lK, bias_hh_lK``     (4H,)               added; absent with ``bias=False``
``PREFIX.bias_lK``                    (4H,)               in place of these two
``PREFIX.weight_hr_lK``               (P, H)              absent without ``proj_size``
``PREFIX.weight_ch_lK``               (3H,), (3H, 1)      peepholes of i, f and o
``PREFIX.peephole_i_lK, _f, _o``      (H,), (1, H)        the same; also weight_ci, w_ci, W_ci, w_ic, p_i
``PREFIX.weight_ih, weight_hh, ...``                      an ``nn.LSTMCell``
``PREFIX.Wx, Wh, bias``                                   an LSTM of MLX
====================================  ==================  =========================================

GRUs of PyTorch, gate order r, z, n. ``weight_hh`` has 3 rows a column; an LSTM has 4 a cell:

====================================  ==================  =========================================
``PREFIX.weight_ih_lK, weight_hh_lK`` (3H, I), (3H, H)    the backward direction ends in ``_reverse``
``PREFIX.bias_ih_lK, bias_hh_lK``     (3H,)               absent with ``bias=False``
``PREFIX.weight_ih, weight_hh, ...``                      an ``nn.GRUCell``
``PREFIX.Wx, Wh, b, bhn``             b (3H,), bhn (H,)   a GRU of MLX
====================================  ==================  =========================================

Kaldi's ``LstmProjectedStreams``, gate order g, i, f, o along the first axis:

====================================  ==================  =========================================
``PREFIX.w_gifo_x``                   (4H, I)
``PREFIX.w_gifo_r``                   (4H, P)
``PREFIX.bias``                       (4H,)
``PREFIX.peephole_i_c, _f_c, _o_c``   (H,)                all three or none
``PREFIX.w_r_m``                      (P, H)              absent without projection
====================================  ==================  =========================================

The names of the ESE paper, one array for each gate; its gate c is gate g elsewhere:

====================================  ==================  =========================================
``PREFIX.w_ix, w_fx, w_cx, w_ox``     (H, I)
``PREFIX.w_ir, w_fr, w_cr, w_or``     (H, P)
``PREFIX.b_i, b_f, b_c, b_o``         (H,)
``PREFIX.w_ic, w_fc, w_oc``           (H,)                all three or none
``PREFIX.w_ym``                       (P, H)              absent without projection
====================================  ==================  =========================================

Those of `openese.LSTMP`, gate order i, f, g, o along the first axis:

====================================  ==================  =========================================
``PREFIX.w_x, w_r``                   (4, H, I or P)
``PREFIX.bias``                       (4, H)
``PREFIX.peephole``                   (3, H)              absent without peepholes
``PREFIX.w_ym``                       (P, H)              absent without projection
====================================  ==================  =========================================

Any of these may be computed from other tensors: `parameters` has the ways. Every other tensor under a cell's prefix
blocks the cell. ``h0, c0`` (or ``h_0, c_0``, ``init_h, init_c``, ...) beside the only LSTM of a module are its initial
states, and ``h0`` alone those of its only GRU.

LSTMs with Kaldi's or the paper's names whose prefixes differ only in a number at the end (``layer0``, ``layer1``, ...)
are stacked in the order of these numbers. ``NAME.weight`` (K, P), with an optional ``NAME.bias`` (K,), can be selected
as a linear layer where its sizes fit.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from openese.sw.importers.assembly import Linear, Part, assemble
from openese.sw.importers.base import Entry, ImportRefused, Source, listed
from openese.sw.importers.cells import Attributes, Blocker, Cell, Group, LstmpCell, TorchCell, cell_of, with_outside
from openese.sw.importers.parameters import Stored, owner, stored
from openese.sw.model.layers import Dense
from openese.sw.model.network import Network

__all__ = ["Stored", "TensorSource", "stored"]

_FILE = "(the file itself)"
_SIGNATURE = re.compile(r"weight_(ih|hh)(_l\d{1,3}(_reverse)?)?|w_gifo_x|w_ix|w_x|Wx")
_QUANTIZABLE = re.compile(r"(?:(.*)\.)?layers\.\d+\.layer_(?:fw|bw)\.cell\.[ih]gates\..*")
_STATE = re.compile(r"(?P<before>(?:init|initial|learned|start)_?|)(?P<state>hidden|cell|h|c)"
                    r"(?P<after>_?(?:0|x|init|state)|)")
_RECURRENT = re.compile(r"(LSTM|GRU|RNN)(Cell)?$")
_LINEAR = re.compile(r"torch\.nn\.modules\.linear\.(Linear|NonDynamicallyQuantizableLinear)|(.*\.)?ScaledLinear")
#: Modules that change nothing in evaluation, or hold others.
_WITHOUT_EFFECT = re.compile(r"torch\.nn\.modules\.(dropout|loss)\.\w+|torch\.nn\.modules\.linear\.Identity|"
                             r"torch\.nn\.modules\.container\.\w+")
_LOSS = re.compile(r"torch\.nn\.modules\.loss\.\w+")
#: Modules that keep sizes, so that they fit between any two layers.
_FITTING = re.compile(r"Norm|LU$|Tanh|Sigmoid|Softmax|Swish|Mish|Hardswish|Softplus|Softsign|Activation",
                      re.IGNORECASE)
_AT_THE_END = re.compile(r"torch\.nn\.modules\.activation\.(Log)?Softmax")


class TensorSource(Source):
    """The LSTMs and linear layers among named tensors.

    Parameters
    ----------
    path : Path
        The file.
    tensors : mapping of str to Stored
    modules : mapping of str to mapping, optional
        Attributes of the modules that hold the tensors, by prefix, in their order in the file.
    refused : mapping of str to (str, str), optional
        What the file has that cannot be read, by prefix: kinds and reasons.
    """

    expected = ("tensors with the names of nn.LSTM or nn.GRU (weight_ih_l0, weight_hh_l0, ...), of Kaldi "
                "(w_gifo_x, ...), of the ESE paper (w_ix, ...) or of openese.LSTMP (w_x, ...)")

    def __init__(self, path: Path, tensors: Mapping[str, Stored],
                 modules: Mapping[str, Attributes] | None = None,
                 refused: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.path = path
        self._tensors = tensors
        self._modules = modules or {}
        self._refused = {**(refused or {}), **_quantized(tensors, self._modules)}
        self._lstms = _lstms(tensors, self._modules, self._refused)
        taken = {full for lstm in self._lstms.values()
                 for full in [*lstm.full.values(), *(name for name, _ in (lstm.states or {}).values())]}
        self._linear = _linear([name for name in tensors if name not in taken], tensors, self._modules,
                               [lstm.sizes for lstm in self._lstms.values() if lstm.problem is None])
        taken.update(full for linear in self._linear.values() for full in linear.full.values())
        self._elsewhere = [name for name in tensors if name not in taken
                           and not any(_within(name, prefix) for prefix in self._refused)]

    def entries(self) -> list[Entry]:
        entries = [Entry(label, lstm.kind, lstm.summary, lstm.problem) for label, lstm in self._lstms.items()]
        entries += [Entry(prefix or self.path.stem, kind, problem=reason)
                    for prefix, (kind, reason) in self._refused.items()]
        for name, linear in self._linear.items():
            outputs, inputs = linear.parameters["weight"].shape
            entries.append(Entry(name, "Linear", f"{inputs} -> {outputs}"
                                 + ("" if self._modules or "bias" in linear.parameters else ", or an embedding")))
        groups: dict[str, list[str]] = {}
        for name in self._elsewhere:
            groups.setdefault(name.rpartition(".")[0], []).append(name)
        empty = [path for path in self._effects() if path in self._modules and path not in self._linear
                 and path not in self._lstms and path not in self._refused]
        for prefix, names in {**dict.fromkeys(empty, []), **groups}.items():
            module = self._modules.get(prefix, {})
            kind = str(module.get("class", "tensors")).rpartition(".")[2]
            held = [f"the same module as {module['same']!r}"] if "same" in module else [
                f"{name.rpartition('.')[2]} {self._tensors[name].shape}" for name in names]
            entries.append(Entry(prefix or _FILE, kind, ", ".join(held), elsewhere=True))
        return entries

    def default(self) -> list[str]:
        usable = [lstm for lstm in self._lstms.values() if lstm.problem is None]
        if len(usable) < len(self._lstms) or self._refused:
            return []
        if len(usable) == 1:
            return [usable[0].label]
        numbered = {}
        for lstm in usable:
            match = re.fullmatch(r"(.*?)(\d+)", lstm.name)
            if not (isinstance(lstm, LstmpCell) and lstm.numbered) or not match:
                return []
            numbered[int(match[2])] = match[1], lstm.label
        stems = {stem for stem, _ in numbered.values()}
        return [numbered[n][1] for n in sorted(numbered)] if len(stems) == 1 else []

    def load(self, select: str | Sequence[str] | None = None, ignore: Sequence[str] = ()) -> Network:
        """Return the network made of the layers in ``select``, as if the tensors in ``ignore`` were not in the file.

        Raises
        ------
        ImportRefused
            As `Source.load`; also if a name in ``ignore`` is unknown, or nothing needs it.
        ModelError
            If the layers do not fit each other.
        """
        questions = self._questions(list(self._lstms), False)
        for name in ignore:
            if not any(_within(question, name) for question in questions):
                raise ImportRefused(f"{self.path.name}: --ignore {name}: " + (
                    "nothing has to be ignored for its sake" if any(
                        _within(known, name) for known in (*self._tensors, *self._modules, *self._lstms))
                    else "no tensor or module has this name"))
        source = self._without(ignore) if ignore else self
        names = source._names(select)
        for name in ignore:
            if not any(_within(needed, name) for needed in self._questions(names, select is not None)):
                raise ImportRefused(f"{self.path.name}: --ignore {name}: no selected layer depends on it")
        obstacles = source._obstacles(names, select is not None)
        if obstacles:
            raise ImportRefused(f"{self.path.name}: " + (
                f"beside {listed(names)} the file has {_listed(obstacles)}, which the network would lack; name the "
                f"layers to take (--select {','.join(names)} or more of them), or compile the whole network with "
                f"--trust" if select is None else
                f"{_listed(obstacles)} may lie between the layers {listed(names)}, and would be left out; give "
                f"--ignore NAME for each that does not, or compile the whole network with --trust"))
        network = assemble(source.parts(names), self.path.stem)
        return replace(network, notes=(*network.notes, *source._left_out(names)))

    def parts(self, names: Sequence[str]) -> list[Part]:
        if not any(name in self._lstms for name in names):
            raise ImportRefused(f"{self.path.name}: no LSTM or GRU is selected; select at least one. The file does not "
                                f"tell what is computed between linear layers")
        try:
            with np.errstate(all="ignore"):  # Layer refuses numbers that are not finite
                return [self._lstms[name].build() if name in self._lstms else self._dense(name) for name in names]
        except ImportRefused as error:
            raise ImportRefused(f"{self.path.name}: " + str(error).replace(f"{self.path.name}: ", "")) from None

    def _dense(self, name: str) -> Linear:
        group = self._linear[name]
        weight = group.values("weight")
        bias = group.values("bias") if "bias" in group.parameters else np.zeros(weight.shape[0], weight.dtype)
        return Linear(name, Dense(weight=weight, bias=bias), tuple(group.notes(("weight", "bias"))))

    def _without(self, ignore: Sequence[str]) -> "TensorSource":
        """Return the same file without some of its tensors and modules; of an LSTM itself, without its class."""
        lstms = {self._lstms[name].name for name in ignore if name in self._lstms}
        gone = [name for name in ignore if name not in self._lstms]
        tensors = {name: tensor for name, tensor in self._tensors.items()
                   if not any(_within(name, other) for other in gone)}
        modules = {path: {key: value for key, value in attributes.items() if key != "class" or path not in lstms}
                   for path, attributes in self._modules.items() if not any(_within(path, other) for other in gone)}
        return TensorSource(self.path, tensors, modules, self._refused)

    def _questions(self, names: Sequence[str], chosen: bool) -> list[str]:
        """Return everything that may be ignored when ``names`` are loaded."""
        lstms = [self._lstms[name] for name in names if name in self._lstms]
        return [question for lstm in lstms for question in
                [*(name for blocker in lstm.blockers for name in blocker.names),
                 *(name for name, _ in (lstm.states or {}).values())]] + list(self._obstacles(names, chosen))

    def _effects(self) -> dict[str, str]:
        """Return modules that compute something, and tensors that other modules hold; their kinds."""
        inner = {parent for path in self._modules for parent in _parents(path)}
        cells = [*(lstm.name for lstm in self._lstms.values()), *self._refused]
        effects = {}
        for path, attributes in self._modules.items():
            origin = str(attributes.get("class", ""))
            leaf = path in cells or (path not in inner and not any(_within(path, cell) for cell in cells))
            if leaf and path and not _WITHOUT_EFFECT.fullmatch(origin):
                effects[path] = origin.rpartition(".")[2] or "unknown"
        for name in self._elsewhere:
            module = next((parent for parent in _parents(name) if parent in self._modules), None)
            if module is not None and module not in effects and not _LOSS.fullmatch(
                    str(self._modules[module].get("class", ""))):
                effects[name] = "tensor"
        return effects

    def _obstacles(self, names: Sequence[str], chosen: bool) -> dict[str, str]:
        """Return what forbids to load ``names`` as a stack: everything else, or what may lie between chosen ones."""
        effects = {path: kind for path, kind in self._effects().items() if path not in names}
        if not chosen:
            return effects
        if len(names) < 2:
            return {}
        order = {path: number for number, path in enumerate(self._modules)}
        places = [order[name] for name in names if name in order]
        if not places:
            return {}
        container = _common([name.rpartition(".")[0] for name in names])
        between = {}
        for path, kind in effects.items():
            origin = str(self._modules.get(path, {}).get("class", ""))
            place = order.get(path, -1)
            fits = kind == "tensor" or (_FITTING.search(kind) is not None and not (
                place > max(places) and _AT_THE_END.fullmatch(origin)))
            if _within(path, container) and (fits or min(places) < place < max(places)):
                between[path] = kind
        return between

    def _left_out(self, names: Sequence[str]) -> list[str]:
        """Return notes on what the file has beside the layers ``names``."""
        container = _common([name.rpartition(".")[0] for name in names])
        held = [name.rpartition(".")[0] or name for name in self._elsewhere]
        others = dict.fromkeys(name if _within(name, container) else _outside(name, container)
                               for name in (*self._lstms, *self._linear, *self._effects(), *held, *self._refused)
                               if name not in names)
        others = dict.fromkeys(sorted(others, key=lambda name: not _within(name, container)))
        notes = []
        if others:
            notes.append(f"left out of the network: {listed(list(others))}; import --list names everything in the file")
        if len(names) > 1:
            notes.append(f"{', '.join(names)} are stacked in this order; the file does not tell what its code "
                         f"computes between them")
        return notes


def _within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _outside(name: str, container: str) -> str:
    """Return the prefix of a name with its first step that does not lead to the container."""
    shared = _common([name, container])
    return ".".join(name.split(".")[:len(shared.split(".")) + 1 if shared else 1])


def _listed(kinds: Mapping[str, str]) -> str:
    """Return the first names of ``kinds`` with their kinds as text."""
    shown = [f"{name!r} ({kind})" for name, kind in list(kinds.items())[:8]]
    return ", ".join(shown) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "")


def _common(prefixes: Sequence[str]) -> str:
    """Return the prefix that all prefixes share."""
    shared: list[str] = []
    for steps in zip(*(prefix.split(".") for prefix in prefixes), strict=False):
        if len(set(steps)) > 1:
            break
        shared.append(steps[0])
    return ".".join(shared)


def _parents(name: str) -> Iterable[str]:
    """Yield the prefixes of a name, the longest first, with the empty one."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _group(prefix: str, names: Iterable[str], tensors: Mapping[str, Stored], modules: Mapping[str, Attributes],
           root: str = "lstm") -> Group:
    full = {name[len(prefix) + 1 if prefix else 0:]: name for name in names}
    return Group(prefix, {own: tensors[name] for own, name in full.items()}, full, modules.get(prefix, {}),
                 prefix or root)


def _quantized(tensors: Mapping[str, Stored], modules: Mapping[str, Attributes]) -> dict[str, tuple[str, str]]:
    """Return the LSTMs that are quantized or prepared for it, by prefix: kinds and reasons."""
    found = {}
    for name in tensors:
        match = _QUANTIZABLE.fullmatch(name)
        if match:
            found[match[1] or ""] = ("quantizable LSTM", "prepared for quantization (torch.ao.nn.quantizable.LSTM); "
                                                         "save the network before torch.ao.quantization.prepare")
    for path, attributes in modules.items():
        origin = str(attributes.get("class", ""))
        if "quantized" in origin and _RECURRENT.search(origin.rpartition(".")[2]):
            found[path] = origin.rpartition(".")[2], f"{origin} packs its weights; import the model before it is " \
                                                     f"quantized"
    return found


def _lstms(tensors: Mapping[str, Stored], modules: Mapping[str, Attributes],
           refused: Iterable[str]) -> dict[str, Cell]:
    """Return the LSTMs by label, each with all tensors under its prefix."""
    prefixes: dict[str, list[str]] = {}
    for name in tensors:
        head, _, rest = name.rpartition("parametrizations.")
        own = f"parametrizations.{rest}" if rest != name else name.rpartition(".")[2]
        if _SIGNATURE.fullmatch(owner(own)):
            prefixes.setdefault(head.removesuffix(".") if rest != name else name.rpartition(".")[0], [])
    for prefix in list(prefixes):
        if any(_within(prefix, other) for other in refused):
            del prefixes[prefix]
    for name in tensors:
        for parent in _parents(name):
            if parent in prefixes:
                prefixes[parent].append(name)
    lstms = {}
    for prefix, names in prefixes.items():
        raw = [name for name in names if name.endswith("_raw") and name.rpartition(".")[0] == prefix]
        inner = f"{prefix}.module" if prefix else "module"
        if inner in prefixes and raw and len(raw) == len(names) - len(prefixes[inner]):
            continue
        group = _group(prefix, names, tensors, modules, "lstm" if "lstm" not in prefixes else _FILE)
        outer = prefix.rpartition(".")[0]
        if prefix.rpartition(".")[2] == "module" and outer in prefixes:
            group = _with_raw(group, outer, [name for name in tensors if name.rpartition(".")[0] == outer], tensors)
        cell = cell_of(group)
        if cell is not None and not prefix and cell.kind.startswith("GRU") and "gru" not in prefixes:
            cell = replace(cell, label="gru")
        if cell is not None:
            if modules.get(outer, {}).get("variational") is True:
                cell = with_outside(cell, Blocker((outer,), "its dropout of weights is variational, which acts in "
                                                           "evaluation too"))
            lstms[cell.label] = cell
    return _with_states(lstms, tensors)


def _with_raw(group: Group, outer: str, names: Iterable[str], tensors: Mapping[str, Stored]) -> Group:
    """Return an LSTM's tensors with the ``_raw`` weights that a wrapper around it holds."""
    raw = {name[len(outer) + 1 if outer else 0:]: name for name in names if name.endswith("_raw")}
    return Group(group.name, {**group.tensors, **{own: tensors[name] for own, name in raw.items()}},
                 {**group.full, **raw}, group.attributes, group.label)


def _with_states(lstms: dict[str, Cell], tensors: Mapping[str, Stored]) -> dict[str, Cell]:
    """Return the LSTMs with their initial states; doubt about tensors that may be initial states blocks them."""
    found: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    for name in tensors:
        prefix, _, own = name.rpartition(".")
        match = _STATE.fullmatch(own)
        if match and (match["before"] or match["after"]):
            states = found.setdefault(prefix, {}).setdefault((match["before"], match["after"]), {})
            states[match["state"][0]] = name
    for prefix, pairs in found.items():
        inside = [label for label, cell in lstms.items() if _within(cell.name, prefix) and cell.refusal is None]
        names = tuple(name for states in pairs.values() for name in states.values())
        for label in inside:
            cell = lstms[label]
            if len(inside) == 1 and len(pairs) == 1 and cell.states is None and _fit(cell, pairs, tensors):
                rest = {short: full for short, full in cell.full.items() if full not in names}
                states = next(iter(pairs.values()))
                lstms[label] = replace(cell, states={state: (name, tensors[name]) for state, name in states.items()},
                                       tensors={short: cell.tensors[short] for short in rest}, full=rest)
            elif not set(names) <= set(cell.full.values()):
                shapes = ", ".join(str(tensors[name].shape) for name in names)
                lstms[label] = with_outside(cell, Blocker(names, (
                    f"initial states, but it is not clear for which of {listed(inside)}" if len(inside) > 1 else
                    f"perhaps initial states, but {shapes} are not surely those of one voice")))
    return lstms


def _fit(cell: Cell, pairs: Mapping[tuple[str, str], Mapping[str, str]], tensors: Mapping[str, Stored]) -> bool:
    """Tell whether tensors are surely the states of one voice, for all layers and directions."""
    (_, after), states = next(iter(pairs.items()))
    if not isinstance(cell, TorchCell) or "state" in after or states.keys() != ({"h"} if cell.is_gru else {"h", "c"}):
        return False
    count = len(cell.suffixes) * len(cell.suffixes[0])
    hh = cell.shape(f"weight_hh{cell.suffixes[0][0]}") or (0, 0)
    for state, size in [("h", hh[-1]), *([] if cell.is_gru else [("c", hh[0] // 4)])]:
        one = [(size,), (1, size)] if count == 1 else []
        if tensors[states[state]].shape not in [(count, size), (count, 1, size), *one]:
            return False
    return True


def _linear(names: Iterable[str], tensors: Mapping[str, Stored], modules: Mapping[str, Attributes],
            sizes: Iterable[tuple[int, int]]) -> dict[str, Group]:
    """Return the linear layers among ``names`` that fit before or behind an LSTM, or other such layers."""
    names = list(names)
    under = Counter(parent for name in names for parent in _parents(name))
    direct: dict[str, list[str]] = {}
    for name in names:
        head, _, rest = name.rpartition("parametrizations.")
        direct.setdefault(head.removesuffix(".") if rest != name else name.rpartition(".")[0], []).append(name)
    layers = {}
    for prefix, own in direct.items():
        origin = modules.get(prefix, {}).get("class")
        if not prefix or (origin is not None and not _LINEAR.fullmatch(str(origin))) or not any(
                owner(name[len(prefix) + 1:]) == "weight" for name in own):
            continue
        group = _group(prefix, own, tensors, modules)
        if len(group.shape("weight") or ()) == 2 and under[prefix] == len(own) and not group.unread(("weight", "bias")):
            layers[prefix] = group
    before, behind = ({pair[side] for pair in sizes if pair[side]} for side in (0, 1))
    fitting: dict[str, Group] = {}
    while True:
        more = {name: group for name, group in layers.items() if name not in fitting
                and (group.parameters["weight"].shape[0] in before or group.parameters["weight"].shape[1] in behind)}
        if not more:
            return {name: group for name, group in layers.items() if name in fitting}
        fitting.update(more)
        for group in more.values():
            outputs, inputs = group.parameters["weight"].shape
            if outputs in before:
                before.add(inputs)
            if inputs in behind:
                behind.add(outputs)
