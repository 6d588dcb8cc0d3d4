# SPDX-License-Identifier: Apache-2.0
"""Random whole ONNX networks with recurrent nodes, as exporters and people write them."""

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
#: Operators of a network that are drawn, besides LSTMs.
FRONTS = ("linear", "gemm", "activation", "scale", "batch norm", "layer norm", "convolution", "residual", "concat",
          "flip", "none")
HEADS = ("linear", "softmax", "mean", "last", "argmax", "none")


class Case(NamedTuple):
    """A model with inputs.

    ``longer`` are inputs with more frames, for a model with open sizes. ``smooth`` are the outputs that small errors
    change a little. ``features`` names what the model has.
    """

    model: Any
    inputs: dict[str, Any]
    longer: dict[str, Any]
    smooth: list[str]
    features: set[str]


class Value(NamedTuple):
    """A tensor (T, B, F)."""

    name: str
    size: int


def random_network(seed: int, dense: bool = False, grus: bool = False) -> Case:
    """The network of this number; ``dense``: one of LSTMs, GRUs and dense layers alone; ``grus``: with GRUs for all
    LSTMs."""
    builder = Builder(seed, grus)
    return builder.build_dense() if dense else builder.build()


class Builder:
    """Draws a network."""

    def __init__(self, seed: int, grus: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.grus = grus
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.feeds: dict[str, Any] = {}
        self.outputs: list[Any] = []
        self.smooth: list[str] = []
        self.features: set[str] = set()
        self.states: list[tuple[str, str, int, int]] = []  # h, c, directions, cells
        self.weights: list[tuple[list[str], int, int, int, int]] = []  # names, inputs, cells, directions, gates
        self.count = 0
        self.steps, self.voices = self.number(1, 7), self.number(1, 4)
        self.fixed = self.maybe()
        self.lengths = ""
        self.without_lengths = False

    # -- pieces --------------------------------------------------------------------------------

    def name(self, label: str) -> str:
        self.count += 1
        return f"{label}{self.count}"

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, several: list[Any]) -> Any:
        return several[self.number(0, len(several) - 1)]

    def maybe(self, often: int = 2) -> bool:
        return self.number(1, often) == 1

    def node(self, kind: str, *inputs: str, outputs: int = 1, label: str = "v", **attributes: Any) -> str:
        names = [self.name(label) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=self.name(kind), **attributes))
        return names[0]

    def constant(self, array: Any, label: str = "c") -> str:
        """As an initializer, or as a node."""
        name = self.name(label)
        if self.maybe(6):
            value = numpy_helper.from_array(np.asarray(array))
            self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        else:
            self.tensors[name] = np.asarray(array)
        return name

    def floats(self, *shape: int, scale: float = 0.5) -> Any:
        return self.rng.normal(size=shape, scale=scale).astype(np.float32)

    def state(self, *shape: int) -> Any:
        """As LSTMs leave it: h is within -1..1."""
        return np.tanh(self.floats(*shape))

    def input(self, name: str, kind: int, shape: list[Any], value: Any) -> str:
        """An input of the network; its open sizes have names in half of the networks."""
        sizes = [held if self.fixed else label for label, held in shape]
        self.inputs.append(helper.make_tensor_value_info(name, kind, sizes))
        self.feeds[name] = value
        return name

    def output(self, name: str, kind: int = FLOAT, smooth: bool = True) -> None:
        if name not in [value.name for value in self.outputs]:
            self.outputs.append(helper.make_tensor_value_info(name, kind, None))
            self.smooth += [name] if smooth else []

    # -- nodes on sequences (T, B, F) -------------------------------------------------------------

    def front(self) -> Value:
        size = self.number(1, 6)
        steps, voices = ("t", self.steps), ("b", self.voices)
        if self.maybe(6):
            self.features.add("embedding")
            ids = self.input("ids", TensorProto.INT64, [steps, voices],
                             self.rng.integers(0, 5, (self.steps, self.voices)))
            return Value(self.node("Gather", self.constant(self.floats(5, size)), ids), size)
        if self.maybe(3):
            self.features.add("batch first")
            x = self.input("x", FLOAT, [voices, steps, ("f", size)], self.floats(self.voices, self.steps, size))
            return Value(self.node("Transpose", x, perm=[1, 0, 2]), size)
        return Value(self.input("x", FLOAT, [steps, voices, ("f", size)],
                                self.floats(self.steps, self.voices, size, scale=1)), size)

    def bias(self, size: int) -> str:
        shape = self.pick([(size,), (1, size), (1, 1, size), (1,), ()])
        return self.constant(self.floats(*shape))

    def layer(self, kind: str, x: Value, others: list[Value]) -> Value:
        """One node, or a few that belong together."""
        name, size = x
        if kind != "none":
            self.features.add(kind)
        if kind == "linear":
            out = self.number(1, 8)
            name = self.node("MatMul", name, self.constant(self.floats(size, out)))
            if self.maybe():
                pair = [name, self.bias(out)]
                name = self.node("Add", *(pair if self.maybe() else pair[::-1]))
            return Value(name, out)
        if kind == "gemm":
            out, turned = self.number(1, 8), self.number(0, 1)
            name = self.node("Reshape", name, self.constant(np.array([-1, size])))
            matrix = self.floats(out, size) if turned else self.floats(size, out)
            given = [name, self.constant(matrix)] + ([self.constant(self.floats(out))] if self.maybe() else [])
            name = self.node("Gemm", *given, transB=turned, alpha=self.pick([1.0, 0.5]), beta=self.pick([1.0, 2.0]))
            shape = [self.steps if self.fixed else -1, self.voices, out]
            if self.fixed and self.maybe():
                return Value(self.node("Reshape", name, self.constant(np.array(shape))), out)
            like = self.node("Slice", self.node("Shape", x.name), self.constant([0]), self.constant([2]))
            shape_name = self.node("Concat", like, self.constant(np.array([out])), axis=0)
            return Value(self.node("Reshape", name, shape_name), out)
        if kind == "pointwise":
            out = self.number(1, 8)
            given = [self.node("Transpose", name, perm=[1, 2, 0]), self.constant(self.floats(out, size, 1))]
            name = self.node("Conv", *given, *([self.constant(self.floats(out))] if self.maybe() else []))
            if self.maybe():
                name = self.node(self.pick(["Relu", "Tanh", "Sigmoid"]), name)
            return Value(self.node("Transpose", name, perm=[2, 0, 1]), out)
        if kind == "activation":
            return Value(self.node(self.pick(["Relu", "Tanh", "Sigmoid", "Elu"]), name), size)
        if kind == "scale":
            shape = self.pick([(size,), (1, 1, size), (1,), ()])
            array = (self.rng.uniform(0.5, 2, shape) * self.rng.choice([-1, 1], shape)).astype(np.float32)
            pair = [name, self.constant(array)]
            operator = self.pick(["Mul", "Div", "Add", "Sub"])
            return Value(self.node(operator, *(pair if operator == "Div" or self.maybe() else pair[::-1])), size)
        if kind == "batch norm":
            given = [*(self.floats(size) for _ in range(3)), self.rng.uniform(0.2, 2, size).astype("f")]
            name = self.node("Transpose", name, perm=[1, 2, 0])
            name = self.node("BatchNormalization", name, *map(self.constant, given), epsilon=1e-3)
            return Value(self.node("Transpose", name, perm=[2, 0, 1]), size)
        if kind == "layer norm":
            return Value(self.node("LayerNormalization", name, self.constant(self.floats(size, scale=1)),
                                   self.constant(self.floats(size))), size)
        if kind == "convolution":
            out = self.number(1, 6)
            name = self.node("Transpose", name, perm=[1, 2, 0])
            name = self.node("Conv", name, self.constant(self.floats(out, size, 3)), pads=[1, 1])
            return Value(self.node("Transpose", name, perm=[2, 0, 1]), out)
        if kind == "residual":
            other = next((other for other in others if other.size == size and other.name != name), None)
            return x if other is None else Value(self.node("Add", name, other.name), size)
        if kind == "concat":
            other = self.pick(others)
            return Value(self.node("Concat", name, other.name, axis=2), size + other.size)
        if kind == "flip":
            limits = [self.constant(np.array([value])) for value in (-1, -(2**31), 0, -1)]
            return Value(self.node("Slice", name, *limits), size)
        return x

    # -- LSTMs ----------------------------------------------------------------------------------

    def given_state(self, ways: int, cells: int, batch_first: bool) -> list[str]:
        """Names of initial_h and initial_c; empty for none."""
        shape = (self.voices, ways, cells) if batch_first else (ways, self.voices, cells)
        kind = self.pick(["none", "none", "zero", "input", "constant", "another", "h only"])
        if kind == "another" and not batch_first:
            fitting = [state for state in self.states if state[2:] == (ways, cells)]
            if fitting:
                self.features.add("states from another LSTM")
                return list(self.pick(fitting)[:2])
        if kind in ("input", "another"):
            self.features.add("states as inputs")
            axes = [("n", size) if size != self.voices else ("b", size) for size in shape]
            return [self.input(self.name(label), FLOAT, axes, self.state(*shape)) for label in ("h", "c")]
        if kind == "zero":
            self.features.add("zero states")
            return [self.constant(np.zeros(shape, "f"))] * 2
        if kind == "constant":
            self.features.add("constant states")
            return [self.constant(self.state(*shape)), self.constant(self.state(*shape))]
        return [self.constant(self.state(*shape)), ""] if kind == "h only" else ["", ""]

    def given_weights(self, size: int, cells: int, ways: int, gates: int = 4) -> tuple[list[str], int]:
        """W, R, B and P, new or those of a node before; and the number of cells."""
        fitting = [held for held in self.weights if held[1] == size and held[3:] == (ways, gates)]
        if fitting and self.maybe():
            self.features.add("shared weights")
            names, _, cells, *_ = self.pick(fitting)
            return names, cells
        w, r = self.floats(ways, gates * cells, size), self.floats(ways, gates * cells, cells)
        names = [self.constant(w), self.constant(r),
                 self.constant(self.floats(ways, 2 * gates * cells)) if not self.maybe(4) else "",
                 self.constant(self.floats(ways, 3 * cells)) if gates == 4 and self.maybe(6) else ""]
        self.weights.append((names, size, cells, ways, gates))
        return names, cells

    def given_lengths(self) -> str:
        kind = self.pick(["none", "none", "input", "same", "constant"])
        if self.without_lengths:
            return ""
        counts = self.rng.integers(0 if self.maybe(4) else 1, self.steps + 1, self.voices).astype(np.int32)
        if kind in ("input", "same"):
            self.features.add("lengths")
            self.lengths = self.lengths or self.input("lengths", TensorProto.INT32, [("b", self.voices)], counts)
            return self.lengths
        if kind == "constant":
            self.features.add("lengths")
            return self.constant(counts)
        return ""

    def chain(self, x: Value) -> Value:
        """LSTM and GRU nodes that follow each other."""
        self.features.add("chain")
        lengths = self.given_lengths()
        for _ in range(self.number(2, 3)):
            x = self.lstm(x, lengths, gru=self.maybe(3))
        return x

    def gru(self, x: Value) -> Value:
        """A GRU node, likewise."""
        return self.lstm(x, gru=True)

    def lstm(self, x: Value, lengths: str | None = None, gru: bool = False) -> Value:
        """An LSTM or GRU node and what brings its outputs back to (T, B, F)."""
        gru |= self.grus
        direction = self.pick(["forward", "forward", "reverse", "bidirectional"])
        ways = 2 if direction == "bidirectional" else 1
        self.features.add(direction)
        batch_first = self.maybe(5)
        if batch_first:
            self.features.add("layout 1")
        (w, r, b, p), cells = self.given_weights(x.size, self.number(1, 6), ways, 3 if gru else 4)
        states = self.given_state(ways, cells, batch_first)
        given = [self.node("Transpose", x.name, perm=[1, 0, 2]) if batch_first else x.name, w, r, b,
                 self.given_lengths() if lengths is None else lengths, *(states[:1] if gru else [*states, p])]
        attributes: dict[str, Any] = {"direction": direction, "hidden_size": cells}
        attributes |= {"layout": 1} if batch_first else {}
        extra = self.pick(["", "", "", "", "clip", "no clip", "input_forget", "sigmoid", "hard"])
        if gru:
            extra = ""
            after = not self.maybe(3)
            self.features.add("GRU" if after else "GRU, reset before")
            attributes |= {"linear_before_reset": int(after)}
        if extra:
            self.features.add({"hard": "LSTM on the host", "clip": "LSTM on the host"}.get(extra, extra))
        attributes |= {"clip": {"clip": 0.4}, "no clip": {"clip": 50.0}, "input_forget": {"input_forget": 1},
                       "sigmoid": {"activations": ["Sigmoid", "Sigmoid", "Tanh"] * ways},
                       "hard": {"activations": ["HardSigmoid", "Tanh", "Tanh"] * ways}}.get(extra, {})
        while given and not given[-1]:
            given.pop()
        y, h, c = (self.name(label) for label in "yhc")
        outputs = [y, h] if gru else [y, h, c]
        self.nodes.append(helper.make_node("GRU" if gru else "LSTM", given, outputs, name=self.name("lstm"),
                                           **attributes))
        if not batch_first:
            self.states.append((h, h if gru else c, ways, cells))
        for state in outputs[1:]:
            if self.maybe(4):
                self.features.add("states as outputs")
                self.output(state)
        if self.maybe(6):
            self.features.add("output in the middle")
            self.output(y)
        if batch_first:  # (B, T, D, H)
            y = self.node("Reshape", y, self.constant(np.array([0, 0, -1])))
            return Value(self.node("Transpose", y, perm=[1, 0, 2]), ways * cells)
        if ways == 1 and self.maybe():
            return Value(self.node("Squeeze", y, self.constant(np.array([1]))), cells)
        y = self.node("Transpose", y, perm=[0, 2, 1, 3])
        return Value(self.node("Reshape", y, self.constant(np.array([0, 0, -1]))), ways * cells)

    def other(self, x: Value) -> Value:
        """A GRU as ONNX has it by default, with its reset before the product, or an RNN, which stays on the host."""
        kind = self.pick(["GRU", "RNN"])
        self.features.add("GRU, reset before" if kind == "GRU" else kind)
        cells, gates = self.number(1, 5), 3 if kind == "GRU" else 1
        given = [self.constant(self.floats(1, gates * cells, size)) for size in (x.size, cells)]
        return Value(self.node("Squeeze", self.node(kind, x.name, *given, hidden_size=cells),
                               self.constant(np.array([1]))), cells)

    def typed(self, x: Value, kind: str) -> Value:
        """An LSTM or GRU in another type."""
        self.features.add(kind)
        gates, options = (3, {"linear_before_reset": 1}) if self.grus else (4, {})
        types = {"double": (TensorProto.DOUBLE, np.float64), "half": (TensorProto.FLOAT16, np.float16)}
        cells = self.number(1, 5)
        given = [self.constant(self.floats(1, gates * cells, size).astype(types[kind][1])) for size in (x.size, cells)]
        y = self.node("GRU" if self.grus else "LSTM", self.node("Cast", x.name, to=types[kind][0]), *given,
                      hidden_size=cells, **options)
        return Value(self.node("Cast", self.node("Squeeze", y, self.constant(np.array([1]))), to=FLOAT), cells)

    def body(self, x: Value) -> Value:
        """An LSTM in a body of If, Loop or Scan, or a GRU in one of If or Loop."""
        kind = self.pick(["If", "Loop"] if self.grus else ["If", "Loop", "Scan"])
        self.features.add(kind)
        cells = x.size if kind == "Loop" else self.number(1, 5)
        gru = kind != "Scan" and self.maybe(3) or self.grus
        after = not (gru and self.maybe(3))
        gates = 3 if gru else 4
        (w, r, b, p), cells = self.given_weights(x.size, cells, 1, gates) if kind != "Loop" else (
            [self.constant(self.floats(1, gates * cells, size)) for size in (x.size, cells)] + ["", ""], cells)

        def recurrent(given: str, h: str = "", c: str = "") -> tuple[list[Any], str, str, str]:
            inputs = [given, w, r, b, "", h, c, p]
            while not inputs[-1]:
                inputs.pop()
            y, hn, cn, out = (self.name(label) for label in ("y", "h", "c", "out"))
            made = (helper.make_node("GRU", inputs, [y, hn], name=self.name("gru"), hidden_size=cells,
                                     linear_before_reset=int(after)) if gru else
                    helper.make_node("LSTM", inputs, [y, hn, cn], name=self.name("lstm"), hidden_size=cells))
            return [made, helper.make_node("Squeeze", [y, one], [out])], out, hn, cn

        one = self.name("one")
        self.tensors[one] = np.array([1])
        info = helper.make_tensor_value_info
        if kind == "If":
            taken = self.maybe()
            condition = self.input(self.name("cond"), TensorProto.BOOL, [], np.array(taken))
            bodies = {}
            for branch in ("then_branch", "else_branch"):
                nodes, out, *_ = recurrent(x.name)
                nodes += [helper.make_node("Neg", [out], [self.name("negated")])] if branch == "else_branch" else []
                bodies[branch] = helper.make_graph(nodes, branch, [], [info(nodes[-1].output[0], FLOAT, None)])
            return Value(self.node("If", condition, **bodies), cells)
        if kind == "Loop":
            again, step, going, held = (self.name(label) for label in ("again", "i", "going", "held"))
            nodes, out, *_ = recurrent(held)
            nodes.append(helper.make_node("Identity", [going], [again]))
            body = helper.make_graph(nodes, "body", [info(step, TensorProto.INT64, []),
                                                     info(going, TensorProto.BOOL, []), info(held, FLOAT, None)],
                                     [info(again, TensorProto.BOOL, []), info(out, FLOAT, None)])
            count = self.name("trips")
            self.tensors[count] = np.array(self.number(1, 3))
            return Value(self.node("Loop", count, "", x.name, body=body), cells)
        h, c, frame, wide, zero = (self.name(label) for label in ("h", "c", "frame", "wide", "zero"))
        self.tensors[zero] = np.array([0])
        nodes, out, hn, cn = recurrent(wide, h, c)
        nodes.insert(0, helper.make_node("Unsqueeze", [frame, zero], [wide]))
        flat = self.name("flat")
        nodes.append(helper.make_node("Squeeze", [out, zero], [flat]))
        body = helper.make_graph(nodes, "body", [info(h, FLOAT, None), info(c, FLOAT, None), info(frame, FLOAT, None)],
                                 [info(hn, FLOAT, None), info(cn, FLOAT, None), info(flat, FLOAT, None)])
        start = self.constant(np.zeros((1, self.voices, cells), "f"))
        names = [self.name(label) for label in ("hn", "cn", "ys")]
        self.nodes.append(helper.make_node("Scan", [start, start, x.name], names, body=body, num_scan_inputs=1))
        return Value(names[2], cells)

    # -- the network ------------------------------------------------------------------------------

    def build(self) -> Case:
        values = [self.front()]
        for _ in range(self.number(1, 4)):
            x = values[-1] if not self.maybe(3) else self.pick(values)
            for _ in range(self.number(0, 2)):
                x = self.layer(self.pick(list(FRONTS)), x, values)
            kind = self.pick(["lstm"] * 5 + ["gru"] * 4 + ["chain", "chain", "other", "body", "body", "double", "half"])
            makers = {"lstm": self.lstm, "gru": self.gru, "chain": self.chain, "other": self.other, "body": self.body}
            x = makers[kind](x) if kind in makers else self.typed(x, kind)
            values.append(x)
        self.head(values[-1], values)
        if self.maybe(5):
            self.output(self.pick(values[1:]).name)
        if self.smooth and self.maybe(25):
            self.refused()
        return self.case()

    def build_dense(self) -> Case:
        self.without_lengths = True
        x = self.front()
        for _ in range(self.number(1, 3)):
            for kind in ("front", "behind"):
                for _ in range(self.number(0, 2)):
                    x = self.layer(self.pick(["linear", "gemm", "pointwise"]), x, [])
                    x = self.layer(self.pick(["none", "activation", "activation"]), x, [])
                if kind == "front":
                    x = self.layer(self.pick(["none", "activation"]), self.lstm(x, gru=self.maybe()), [])
        self.output(self.node("Identity", x.name))
        return self.case()

    def case(self) -> Case:
        """The network of the nodes so far."""
        graph = helper.make_graph(self.nodes, "random", self.inputs, self.outputs,
                                  [numpy_helper.from_array(array, name) for name, array in self.tensors.items()])
        foreign = [helper.make_opsetid("foreign", 1)] if "foreign operator" in self.features else []
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *foreign], ir_version=8)
        return Case(model, self.feeds, {} if self.fixed else self.longer(), self.smooth, self.features)

    def longer(self) -> dict[str, Any]:
        """Inputs with more frames."""
        feeds = {}
        for value in self.inputs:
            array = self.feeds[value.name]
            labels = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
            axis = labels.index("t") if "t" in labels else None
            feeds[value.name] = array if axis is None else np.concatenate([array, array, array], axis)
        return feeds

    def head(self, x: Value, values: list[Value]) -> None:
        kind = self.pick(list(HEADS))
        if kind == "linear":
            x = self.layer("linear", x, values)
        if kind in ("linear", "none"):
            self.output(self.node("Identity", x.name))
        if kind == "softmax":
            self.output(self.node("Softmax", x.name, axis=-1))
        if kind == "mean":
            self.output(self.node("ReduceMean", x.name, axes=[0], keepdims=0))
        if kind == "last":
            self.output(self.node("Gather", x.name, self.constant(np.array(-1)), axis=0))
        if kind == "argmax":
            self.output(self.node("ArgMax", x.name, axis=2), TensorProto.INT64, smooth=False)

    def refused(self) -> None:
        """What no network may have."""
        kind = self.pick(["foreign operator", "sequence output"])
        self.features.add(kind)
        name = self.smooth[-1]
        if kind == "foreign operator":
            out = self.name("v")
            self.nodes.append(helper.make_node("Mystery", [name], [out], domain="foreign"))
            self.output(out)
        else:
            out = self.node("SequenceConstruct", name)
            self.outputs.append(helper.make_tensor_sequence_value_info(out, FLOAT, None))
