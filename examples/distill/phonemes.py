# SPDX-License-Identifier: Apache-2.0
"""g2p-en spells words in phonemes. The test is how many words a pruned network spells as the dense one does.

It learns from the spelling of words alone: the phonemes are those of the dense network, and the CMU dictionary only
judges.
"""

import random
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import openese
from examples.zoo.phonemes import BEGIN, END, LONGEST, Spelling, letter_numbers, pronunciations, words
from openese.output import replacing
from openese.sw.training import relative_error

__all__ = ["DENSITIES", "UPDATES", "Speller", "Spellings", "edits"]

#: The densities of the study, and the updates of each distillation.
DENSITIES, UPDATES = (0.5, 0.25, 0.1), 800
#: GRUs in the machine of the paper's multipliers, which also streams the weights of the dense network.
MACHINE = openese.preset("ese_stream").replace(name="ese_stream with GRUs", cells="lstm+gru")
_TESTS, _LESSONS, _CALIBRATION = 2000, 10000, 256
_BATCH, _AT_ONCE, _SEED, _RATE = 64, 500, 1, 5e-4


class Speller(Spelling):
    """The package's network, for many words at once."""

    def forward(self, batch):
        """Return the scores (B, S, phonemes) of all phonemes behind each of ``symbols``, the state (B, H) behind the
        letters, and which of the places (B, S) count: those up to the end."""
        letters, lengths, symbols = batch
        h = state = self._read(letters, lengths)
        scores = []
        for symbol in symbols.T:
            h = self.decoder(self.phonemes(symbol), h)
            scores.append(self.out(h))
        ended = torch.cumsum(symbols == END, 1) > 0
        return torch.stack(scores, 1), state, ~ended

    def _read(self, letters, lengths):
        packed = pack_padded_sequence(self.letters(letters), lengths, batch_first=True, enforce_sorted=False)
        return self.encoder(packed)[1][0]

    @torch.no_grad()
    def spell_all(self, chosen):
        """Return the phonemes' numbers of each word, as `Spelling.spell` does."""
        spelled = []
        for first in range(0, len(chosen), _AT_ONCE):
            letters, lengths = _letters(chosen[first:first + _AT_ONCE])
            h = self._read(letters, lengths)
            symbol, symbols, ended = torch.full((len(letters),), BEGIN), [], torch.zeros(len(letters), dtype=torch.bool)
            while len(symbols) < LONGEST and not ended.all():
                h = self.decoder(self.phonemes(symbol), h)
                symbol = self.out(h).argmax(1)
                symbols.append(symbol)
                ended |= symbol == END
            spelled += [_until_end(row) for row in torch.stack(symbols, 1).tolist()]
        return spelled


def _letters(chosen):
    """Return the letters' numbers (B, L) of words, and the length of each."""
    rows = [torch.tensor(letter_numbers(word)) for word in chosen]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


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
    tests : int
        The number of words that judge.
    """

    def __init__(self, folder, ledger, updates=UPDATES, tests=_TESTS):
        self._folder, self._ledger, self._updates = folder, ledger, updates
        self.tests = words(tests)
        judges = set(self.tests)
        others = [word for word in sorted(pronunciations()) if word not in judges]
        self.lessons = random.Random(_SEED).sample(others, _LESSONS)
        self._dense = Speller().eval()
        self._wanted = self._dense.spell_all(self.tests)
        ledger.measure("phonemes/words", "learned from", len, self.lessons)
        ledger.measure("phonemes/words", "judged by", len, self.tests)

    @cached_property
    def _by_length(self):
        """The lessons with the phonemes that the dense network writes, by the number of letters; batches of them."""
        found = {}
        for word, spelled in zip(self.lessons, self._dense.spell_all(self.lessons), strict=True):
            found.setdefault(len(word), []).append((word, torch.tensor([BEGIN, *spelled])))
        return [pairs for pairs in found.values() if len(pairs) >= _BATCH]

    def _batches(self):
        """Yield letters, lengths, and the phonemes in front of each next one, of words of one length."""
        rng = random.Random(_SEED)
        while True:
            pairs, = rng.choices(self._by_length, [len(pairs) for pairs in self._by_length])
            chosen, symbols = zip(*rng.sample(pairs, _BATCH), strict=True)
            yield *_letters(chosen), pad_sequence(symbols, batch_first=True, padding_value=END)

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
        found = network.spell_all(self.tests)
        apart = [edits(*pair) for pair in zip(found, self._wanted, strict=True)]
        return {"same words": float(np.mean([count == 0 for count in apart])),
                "phoneme errors": sum(apart) / sum(map(len, self._wanted)),
                "not in the dictionary": float(np.mean([answer not in pronunciations()[word] for word, answer in
                                                        zip(self.tests, found, strict=True)]))}


def _nonzeros(network):
    return sum(int(weight.count_nonzero()) for layer in (network.encoder, network.decoder)
               for name, weight in layer.named_parameters() if name.startswith("weight"))
