# SPDX-License-Identifier: Apache-2.0
"""A trained network through the whole integer machine: weights, activations, tables, accumulators."""

import dataclasses

import numpy as np

from openese.rtl.activation import Activation
from openese.rtl.config import preset
from openese.rtl.fixed import round_shift, saturate
from openese.sw import compile as pipeline
from openese.sw.model.layers import Model
from openese.sw.model.network import Network
from openese.sw.model.quantized import activation_table
from openese.sw.quantize.choose import quantize
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import FloatRunner, MachineRunner
from openese.sw.speech.recognizer import side_by_side

__all__ = ["CONFIG", "by_length", "float_logits", "float_outputs", "machine_logits", "machine_outputs", "quantized",
           "quantized_network", "short_peepholes", "tables"]

CONFIG = preset("ese")
_CHANNELS = 64  # of the reference: results do not depend on it
_VOICES, _STEPS = 24, 192  # of calibration


def _pieces(frames):
    """What formats are chosen on, (T, B, 153), of sequences of features (T, 153)."""
    pieces = [sequence[:_STEPS] for sequence in frames if len(sequence) >= _STEPS][:_VOICES]
    return np.stack(pieces, axis=1).astype(np.float64)


def quantized(model, frames, config=CONFIG, **ranges):
    """A model in integers, its formats chosen on sequences of features (T, 153)."""
    return quantize(Model(layers=model.layers, name=model.name), _pieces(frames), config, **ranges)


def quantized_network(network, frames, config=CONFIG):
    """Likewise the model of each direction of a `Network`."""
    return pipeline.quantize(network, _pieces(frames), config).models


def by_length(sequences, run):
    """What ``run`` makes of (T, B, I) and lengths (B,), for sequences of similar lengths at a time."""
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    found = {}
    for first in range(0, len(order), _CHANNELS):
        numbers = order[first:first + _CHANNELS]
        frames, lengths = side_by_side([sequences[number] for number in numbers])
        outputs = run(frames, lengths)
        for voice, number in enumerate(numbers):
            found[number] = outputs[:len(sequences[number]), voice]
    return [found[number] for number in range(len(sequences))]


def tables(model, samples, interpolated):
    """Sigmoid and tanh as a machine with tables of so many samples has them, for every argument; for `machine_logits`.

    Without interpolation an argument takes the sample in the middle of those that share it.
    """
    config = model.config
    every = 1 << config.argument_bits
    arguments = np.arange(-every // 2, every // 2)
    found = []
    for function, reach in (("sigmoid", model.sigmoid_range), ("tanh", model.tanh_range)):
        table = activation_table(function, reach, config, samples, 0.0 if interpolated else 0.5)
        found.append(Activation.model(config, table, arguments) if interpolated else np.repeat(table, every // samples))
    return tuple(found)


def short_peepholes(model, bits):
    """The model with the lowest bits of its peepholes rounded away, so that ``bits`` are left of the widest."""
    layers = []
    for layer in model.layers:
        shift = max(0, int(np.abs(layer.peephole).max()).bit_length() + 1 - bits)
        layers.append(dataclasses.replace(layer, peephole=saturate(round_shift(layer.peephole, shift), bits) << shift))
    return dataclasses.replace(model, layers=tuple(layers))


def float_outputs(network, sequences):
    """What a `Network` makes of each sequence (T, I), in float64."""
    runners = [FloatRunner(direction.model) for direction in network.directions]
    return by_length(sequences, lambda frames, lengths: network.run(frames, runners, lengths)[0])


def machine_outputs(network, models, sequences, tables=None):
    """The same by the integer reference of the `QuantizedModel` of each direction."""
    def run(frames, lengths):
        runners = [MachineRunner(Reference(model, frames.shape[1], tables)) for model in models]
        return network.run(frames, runners, lengths)[0]

    return by_length(sequences, run)


def float_logits(model, sequences):
    """Logits (T, 40) of each sequence of features (T, 153) by a `Model` in float64, its head included."""
    return float_outputs(Network.of(model), sequences)


def machine_logits(model, head, sequences, tables=None):
    """The same by the integer reference of a `QuantizedModel`."""
    network = Network.of(Model(layers=model.floating_point().layers, head=head, name=model.name))
    return machine_outputs(network, [model], sequences, tables)
