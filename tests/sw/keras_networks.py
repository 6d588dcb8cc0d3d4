# SPDX-License-Identifier: Apache-2.0
"""Random networks of Keras with LSTMs and GRUs among all that stands around them."""

from typing import NamedTuple

import numpy as np

__all__ = ["Case", "fill", "random_network"]

FEATURES = 5
POLICIES = (None, None, None, None, None, "float64", "bfloat16", "float16", "mixed_float16")


class Case(NamedTuple):
    """A network, its inputs by name, and the largest difference that its number formats explain."""

    model: object
    inputs: dict
    bound: float


def fill(model, rng):
    """Give every weight a random value: zero biases would hide their order."""
    for variable in model.weights:
        value = rng.normal(size=variable.shape, scale=0.7)
        variable.assign(abs(value) + 0.3 if "variance" in variable.name or "gamma" in variable.name else value)


class _Maker:
    def __init__(self, keras, rng, grus):
        self.keras, self.rng, self.layers, self.grus = keras, rng, keras.layers, grus
        policy = POLICIES[rng.integers(len(POLICIES))]
        self.dtype = None if policy is None else policy
        self.bound = {None: 1e-4, "float64": 1e-4}.get(policy, 0.05)
        self.count = 0

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def chance(self, share):
        return bool(self.rng.random() < share)

    def name(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    def cell_options(self):
        options = {"dtype": self.dtype, "use_bias": self.chance(0.9), "unit_forget_bias": self.chance(0.5),
                   "dropout": self.pick(0, 0, 0.3), "recurrent_dropout": self.pick(0, 0, 0.2),
                   "recurrent_initializer": "glorot_uniform"}
        if self.chance(0.05):
            # The numbers of a GRU with ReLU grow without bound.
            options[self.pick("activation", "recurrent_activation")] = self.pick("softsign" if self.grus else "relu",
                                                                                 "hard_sigmoid")
        return options

    def gru_options(self):
        """Of a GRU cell: as of an LSTM, and where its reset is."""
        options = self.cell_options()
        del options["unit_forget_bias"]
        return {**options, "reset_after": self.chance(0.6)}

    def lstm(self, units, **options):
        """An LSTM layer, or a GRU layer in its place."""
        if self.grus:
            return self.layers.GRU(units, **options, **self.gru_options())
        return self.layers.LSTM(units, **options, **self.cell_options())

    def cell(self, units):
        """A cell, likewise."""
        if self.grus:
            return self.layers.GRUCell(units, **self.gru_options(), name=self.name("cell"))
        return self.layers.LSTMCell(units, **self.cell_options(), name=self.name("cell"))

    def options(self, sequences):
        return {"return_sequences": sequences, "unroll": False, "name": self.name("lstm"),
                "zero_output_for_mask": self.chance(0.2)}

    def recurrent(self, units, sequences, wrapped=False):
        """An LSTM or GRU layer, or a layer of cells."""
        L, kind = self.layers, self.pick("lstm", "lstm", "lstm", "cell", "cells", "mixed", "gru", "gru")
        options = {**self.options(sequences), "go_backwards": not wrapped and self.chance(0.25)}
        if kind == "lstm":
            return self.lstm(units, **options)
        if kind == "gru":
            return L.GRU(units, **options, **self.gru_options())
        cells = [self.cell(units if number == 2 else 3 + number) for number in range(3)]
        if kind == "mixed":
            cells[1] = L.GRUCell(4, **self.gru_options(), name=self.name("cell"))
        return L.RNN(cells[-1] if kind == "cell" else cells, **options, dtype=self.dtype)

    def bidirectional(self, units, sequences):
        merge = self.pick("concat", "sum", "mul", "ave")
        forward = self.recurrent(units, sequences, wrapped=True)
        backward = None
        if self.chance(0.3) and isinstance(forward, self.layers.GRU if self.grus else self.layers.LSTM):
            backward = self.lstm(units, return_sequences=sequences, go_backwards=True, name=self.name("back"))
        layer = self.layers.Bidirectional(forward, merge_mode=merge, backward_layer=backward, name=self.name("both"),
                                          dtype=self.dtype)
        if self.chance(0.2):
            (layer.forward_layer if self.chance(0.5) else layer.backward_layer).trainable = False
        return layer

    def between(self, x):
        """Something that keeps the shape (B, T, F)."""
        L, units = self.layers, x.shape[-1]
        kind = self.pick("none", "none", "dense", "norm", "batch", "residual", "dropout", "activation", "scale",
                         "distributed", "attention", "convolution")
        make = {"dense": lambda: L.Dense(units, activation=self.pick(None, "relu"), dtype=self.dtype)(x),
                "norm": lambda: L.LayerNormalization(dtype=self.dtype)(x),
                "batch": lambda: L.BatchNormalization(dtype=self.dtype)(x),
                "residual": lambda: L.Add(dtype=self.dtype)([x, L.Dense(units, dtype=self.dtype)(x)]),
                "dropout": lambda: L.Dropout(0.3, dtype=self.dtype)(x),
                "activation": lambda: L.LeakyReLU(negative_slope=0.1, dtype=self.dtype)(x),
                "scale": lambda: x * 0.5,
                "distributed": lambda: L.TimeDistributed(L.Dense(units, dtype=self.dtype), dtype=self.dtype)(x),
                "attention": lambda: L.MultiHeadAttention(2, 3, dtype=self.dtype)(x, x),
                "convolution": lambda: L.Conv1D(units, 3, padding="same", dtype=self.dtype)(x)}
        return make.get(kind, lambda: x)()

    def states(self, x, units):
        """The final states of an encoder."""
        return list(self.lstm(units, return_state=True, name=self.name("encoder"))(x)[1:])

    def nested(self, units):
        layers = [self.keras.Input((None, FEATURES)), self.recurrent(units, True)]
        if self.chance(0.5):
            layers.append(self.layers.Dense(units, dtype=self.dtype))
        return self.keras.Sequential(layers, name=self.name("nested"))

    def network(self):
        L, keras = self.layers, self.keras
        kind = self.pick("chain", "chain", "chain", "encoder", "siamese", "shared", "images", "words", "nested",
                         "stateful", "sequential")
        steps, voices = int(self.rng.integers(2, 9)), int(self.rng.integers(1, 5))
        frames = self.rng.normal(size=(voices, steps, FEATURES)).astype(np.float32)
        for voice in range(voices):
            frames[voice, self.rng.random(steps) < 0.3] = 0
        inputs = {"x": frames}
        given = keras.Input((None, FEATURES), name="x", dtype="float32")
        outputs = []
        x = L.Masking(dtype=self.dtype)(given) if self.chance(0.4) else given
        if kind == "sequential":
            layers = [given, *([L.Masking(dtype=self.dtype)] if self.chance(0.5) else []),
                      self.bidirectional(4, True) if self.chance(0.5) else self.recurrent(4, True),
                      self.recurrent(3, self.chance(0.5)), L.Dense(2, activation="softmax", dtype=self.dtype)]
            return keras.Sequential(layers), inputs
        if kind == "stateful":
            given = keras.Input(batch_shape=(voices, steps, FEATURES), name="x")
            x = self.lstm(4, return_sequences=True, stateful=True)(given)
        elif kind == "words":
            inputs = {"x": self.rng.integers(0, 6, size=(voices, steps)).astype(np.int32)}
            given = keras.Input((None,), name="x", dtype="int32")
            x = L.Embedding(6, FEATURES, mask_zero=self.chance(0.7), dtype=self.dtype)(given)
        elif kind == "images":
            inputs = {"x": np.stack([frames, frames * 0.5], axis=1)}
            given = keras.Input((2, steps, FEATURES), name="x")
            x = L.TimeDistributed(self.lstm(4), dtype=self.dtype)(given)
        elif kind == "nested":
            x = self.nested(4)(x)
        given_all = [given]
        if kind == "encoder":
            other = keras.Input((None, FEATURES), name="z")
            inputs["z"] = self.rng.normal(size=(voices, steps + 2, FEATURES)).astype(np.float32)
            given_all.append(other)
            states = self.states(other, 4)
            x, *ends = self.lstm(4, return_sequences=True, return_state=True, name=self.name("decoder"))(
                x, initial_state=states[0] if self.grus else states)
            outputs += ends[:int(self.rng.integers(0, 3))]
        if kind in ("siamese", "shared"):
            layer = self.lstm(FEATURES, return_sequences=True, name=self.name("shared"))
            x = layer(layer(x)) if kind == "shared" else L.Subtract(dtype=self.dtype)([layer(x), layer(x * 0.5)])
        if x is not given and kind != "words":
            outputs.append(x)
        for _ in range(int(self.rng.integers(0, 3))):
            x = self.between(x)
            units = int(self.rng.integers(2, 7))
            x = (self.bidirectional if self.chance(0.4) else self.recurrent)(units, True)(x)
            outputs.append(x)
        x = self.between(x)
        end = self.pick("sequence", "last", "pool", "repeat")
        if end == "last":
            x = self.bidirectional(4, False)(x) if self.chance(0.4) else self.recurrent(4, False)(x)
        elif end == "pool":
            x = self.pick(L.GlobalAveragePooling1D, L.GlobalMaxPooling1D)(dtype=self.dtype)(x)
        elif end == "repeat":
            x = L.RepeatVector(3, dtype=self.dtype)(self.recurrent(4, False)(x))
            x = self.recurrent(3, True)(x)
        outputs.append(x)  # inner outputs are compared too: the layers behind them may hide a difference
        outputs.insert(0, L.Dense(3, activation=self.pick(None, "softmax"), dtype=self.dtype, name="y")(x))
        return keras.Model(given_all if len(given_all) > 1 else given,
                           outputs if len(outputs) > 1 else outputs[0]), inputs


def random_network(keras, seed, grus=False):
    """A network of about one to five recurrent layers; ``grus``: with GRUs for all LSTMs."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    maker = _Maker(keras, rng, grus)
    model, inputs = maker.network()
    fill(model, rng)
    return Case(model, inputs, maker.bound)
