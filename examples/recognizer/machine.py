# SPDX-License-Identifier: Apache-2.0
"""Run a trained network in the machine's integers: weights, activations, tables and accumulators."""

import dataclasses

import numpy as np

import openese
from openese import Model, Network, Reference, preset
from openese.rtl.activation import Activation
from openese.rtl.fixed import round_shift, saturate
from openese.sw.model.quantized import activation_table
from openese.sw.quantize.choose import quantize
from openese.sw.run.runners import FloatRunner, MachineRunner
from openese.sw.speech.recognizer import side_by_side

__all__ = ["CONFIG", "by_length", "float_logits", "float_outputs", "machine_logits", "machine_outputs", "quantized",
           "quantized_network", "short_peepholes", "tables"]

CONFIG = preset("ese")
_CHANNELS = 64  # of the reference; results do not depend on them
_VOICES, _STEPS = 24, 192  # of the calibration frames


def _pieces(frames):
    """Return calibration frames (T, B, 153) from sequences of features (T, 153)."""
    pieces = [sequence[:_STEPS] for sequence in frames if len(sequence) >= _STEPS][:_VOICES]
    return np.stack(pieces, axis=1).astype(np.float64)


def quantized(model, frames, config=CONFIG, **ranges):
    """Return a model in integers, calibrated on sequences of features (T, 153)."""
    return quantize(Model(layers=model.layers, name=model.name), _pieces(frames), config, **ranges)


def quantized_network(network, frames, config=CONFIG):
    """Return the models of a `Network`'s directions in integers, calibrated on sequences of features (T, 153)."""
    return openese.quantize(network, _pieces(frames), config).models


def by_length(sequences, run):
    """Return the output of each sequence. ``run(frames, lengths)`` gets batches (T, B, I) of similar lengths (B,)."""
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    results = {}
    for first in range(0, len(order), _CHANNELS):
        numbers = order[first:first + _CHANNELS]
        frames, lengths = side_by_side([sequences[number] for number in numbers])
        outputs = run(frames, lengths)
        for voice, number in enumerate(numbers):
            results[number] = outputs[:len(sequences[number]), voice]
    return [results[number] for number in range(len(sequences))]


def tables(model, samples, interpolated):
    """Return sigmoid and tanh for every argument, as a machine with tables of ``samples`` samples computes them.

    Without interpolation, neighbouring arguments share a sample, which is exact in their middle.
    """
    config = model.config
    every = 1 << config.argument_bits
    arguments = np.arange(-every // 2, every // 2)
    functions = []
    for function, reach in (("sigmoid", model.sigmoid_range), ("tanh", model.tanh_range)):
        table = activation_table(function, reach, config, samples, 0.0 if interpolated else 0.5)
        functions.append(Activation.model(config, table, arguments) if interpolated
                         else np.repeat(table, every // samples))
    return tuple(functions)


def short_peepholes(model, bits):
    """Return the model with peepholes rounded to ``bits`` bits, counted from the widest of each layer."""
    layers = []
    for layer in model.layers:
        shift = max(0, int(np.abs(layer.peephole).max()).bit_length() + 1 - bits)
        layers.append(dataclasses.replace(layer, peephole=saturate(round_shift(layer.peephole, shift), bits) << shift))
    return dataclasses.replace(model, layers=tuple(layers))


def float_outputs(network, sequences):
    """Return a `Network`'s outputs for each sequence (T, I), in float64."""
    runners = [FloatRunner(direction.model) for direction in network.directions]
    return by_length(sequences, lambda frames, lengths: network.run(frames, runners, lengths)[0])


def machine_outputs(network, models, sequences, tables=None):
    """Return the reference's outputs for each sequence (T, I); ``models`` has one `QuantizedModel` a direction."""
    def run(frames, lengths):
        runners = [MachineRunner(Reference(model, frames.shape[1], tables)) for model in models]
        return network.run(frames, runners, lengths)[0]

    return by_length(sequences, run)


def float_logits(model, sequences):
    """Return the logits (T, 40) of a `Model` with its head for each sequence of features (T, 153), in float64."""
    return float_outputs(Network.of(model), sequences)


def machine_logits(model, head, sequences, tables=None):
    """Return the logits (T, 40) of a `QuantizedModel` on the reference for each sequence of features (T, 153)."""
    network = Network.of(Model(layers=model.floating_point().layers, head=head, name=model.name))
    return machine_outputs(network, [model], sequences, tables)
