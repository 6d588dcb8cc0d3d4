# SPDX-License-Identifier: Apache-2.0
"""OpenESE: sparse LSTMs and GRUs on FPGAs, from a trained network to the hardware that runs it.

A *machine* is hardware of fixed capacity: so many processing elements (PEs), so many channels, memories of such a
depth. A `Config` describes one, and emits its Verilog. A *preset* is a machine with a name, such as ``"demo"``.

An *image* is your network, packed for one machine. You compile a network into an image once, and load it.

A *frame* is one time step of input for up to C independent *voices*, where C is the number of the machine's channels.
The machine answers each frame with one *step* of every voice.

From a trained network to words, in ten lines:

>>> import numpy as np
>>> import openese
>>> rng = np.random.default_rng(1)                       # weights of a trained LSTM, gates in the order i, f, g, o
>>> lstm = openese.Layer(name="lstm", bias=np.zeros((4, 16)), w_x=rng.normal(scale=0.2, size=(4, 16, 8)),
...                      w_r=rng.normal(scale=0.2, size=(4, 16, 16)))
>>> frames = rng.normal(size=(50, 3, 8))                 # 50 steps of 3 voices, 8 features
>>> compiled = openese.compile(openese.Model(layers=(lstm,)), "tiny", density=0.5, calibrate=frames)
>>> words = compiled.run(frames)                         # the integer model; backend="sim" runs the Verilog
>>> words.shape
(50, 3, 16)
>>> compiled.summary.error.rms_error < 0.01 * compiled.summary.error.rms_output
True

`compile` also takes the name of a file: of PyTorch, ONNX, Keras, safetensors or NumPy. The same, step by step::

    network = openese.load("net.onnx")
    sparse = openese.prune(network, 0.1, "ese")
    quantized = openese.quantize(sparse, frames, "ese")
    compiled = openese.pack(quantized)
    compiled.save("net.img")
    openese.build("ese", "build")                        # the machine's Verilog

The names of this package are imported when they are first used. ``Pruner``, ``LSTMP``, ``distill`` and ``scan`` need
PyTorch, which the extra ``train`` installs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openese.rtl.config import PRESETS, Config, preset
    from openese.rtl.targets import build
    from openese.sim.simulator import Simulator
    from openese.sw.compile import CompiledNetwork, QuantizedNetwork, Summary, pack, pack_together, prune, quantize
    from openese.sw.estimate import Estimated, estimate
    from openese.sw.explore.explore import Explored, explore
    from openese.sw.explore.goal import Goal
    from openese.sw.importers import load
    from openese.sw.model.layers import Dense, Layer, Model
    from openese.sw.model.network import Network
    from openese.sw.model.quantized import QuantizedModel
    from openese.sw.pack.image import Image
    from openese.sw.reference.machine import Reference
    from openese.sw.run.device import Device
    from openese.sw.run.serial_link import SerialLink
    from openese.sw.run.voices import Voices
    from openese.sw.training.distill import distill
    from openese.sw.training.lstmp import LSTMP
    from openese.sw.training.pruner import Pruner
    from openese.sw.training.sensitivity import scan
    from openese.sw.whole.network import CompiledWhole, compile
    from openese.sw.whole.offload import Offloaded, offload

__all__ = [
    "PRESETS", "CompiledNetwork", "CompiledWhole", "Config", "Dense", "Device", "Estimated", "Explored", "Goal",
    "Image", "LSTMP", "Layer", "Model", "Network", "Offloaded", "Pruner", "QuantizedModel", "QuantizedNetwork",
    "Reference", "SerialLink", "Simulator", "Summary", "Voices", "build", "compile", "distill", "estimate", "explore",
    "load", "offload", "pack", "pack_together", "preset", "prune", "quantize", "scan",
]

_MODULES = {
    "rtl.config": ("PRESETS", "Config", "preset"),
    "rtl.targets": ("build",),
    "sim.simulator": ("Simulator",),
    "sw.compile": ("CompiledNetwork", "QuantizedNetwork", "Summary", "pack", "pack_together", "prune", "quantize"),
    "sw.estimate": ("Estimated", "estimate"),
    "sw.explore.explore": ("Explored", "explore"),
    "sw.explore.goal": ("Goal",),
    "sw.importers": ("load",),
    "sw.model.layers": ("Dense", "Layer", "Model"),
    "sw.model.network": ("Network",),
    "sw.model.quantized": ("QuantizedModel",),
    "sw.pack.image": ("Image",),
    "sw.reference.machine": ("Reference",),
    "sw.run.device": ("Device",),
    "sw.run.serial_link": ("SerialLink",),
    "sw.run.voices": ("Voices",),
    "sw.training.distill": ("distill",),
    "sw.training.lstmp": ("LSTMP",),
    "sw.training.pruner": ("Pruner",),
    "sw.training.sensitivity": ("scan",),
    "sw.whole.network": ("CompiledWhole", "compile"),
    "sw.whole.offload": ("Offloaded", "offload"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version
        return version("openese")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from openese.extras import missing
        raise missing(error) or error from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
