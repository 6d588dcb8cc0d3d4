# SPDX-License-Identifier: Apache-2.0
"""ActQueue: the columns that wait for a PE."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.bundles import ValidPort
from openese.rtl.distance import MARGIN
from openese.rtl.elementwise.shared import delayed
from openese.rtl.fifo import Fifo
from openese.rtl.interfaces import Token, activations
from openese.rtl.spmat_read import column_lead

__all__ = ["ActQueue"]


class ActQueue(wiring.Component):
    """Queue of columns in front of one PE (paper, section 4: ActQueue).

    SpmatRead needs the number of a column's entries some cycles before SpMV needs the activations. The two halves are
    therefore taken separately: ``tokens`` by SpmatRead, ``columns`` by SpMV. With ``forward`` activations also come
    `column_lead` cycles later than their token.

    Latency: `delay` cycle from ``i`` to the outputs; `full_delay` cycle from the number of columns in the queue to
    ``full``. Cost: distributed RAM of ``queue_depth`` x (``channels`` x ``activation_bits`` + token).

    Attributes
    ----------
    margin : int
        Columns that the queue takes after ``full`` has risen: those that are on their way, see `openese.rtl.distance`.

    Members
    -------
    i : In(Token) — token from PtrRead.
    i_valid : In(1) — write the token and, unless it ends an operation, the activations.
    activations : In(activations) — activations of the token's column; with ``forward`` `column_lead` cycles later.
    full : Out(1) — send no more columns.
    tokens : Out(stream(Token)) — the tokens, in order.
    columns : Out(stream(activations)) — the activations, in order. A token that ends an operation has none.
    """

    delay = Fifo.delay
    full_delay = 1
    margin = MARGIN

    def __init__(self, config):
        self._config = config
        super().__init__({
            **ValidPort(Token(config)).flip().ports("i"),
            "activations": In(activations(config)),
            "full": Out(1),
            "tokens": Out(stream.Signature(Token(config))),
            "columns": Out(stream.Signature(activations(config))),
        })

    @classmethod
    def limit(cls, config):
        """Tokens at which ``full`` rises. One more is written in the cycle in which it rises. Of columns, `column_lead`
        fewer are enough, as so many are on their way."""
        return config.queue_depth - cls.margin - 1

    @staticmethod
    def model(tokens):
        """The tokens that come out: the tokens that went in, in order."""
        return list(tokens)

    def elaborate(self, platform):
        m = Module()
        depth, lead = self._config.queue_depth, column_lead(self._config)
        m.submodules.tokens = tokens = Fifo(Token(self._config), depth)
        m.submodules.columns = columns = Fifo(activations(self._config), depth)
        wiring.connect(m, tokens.o, wiring.flipped(self.tokens))
        wiring.connect(m, columns.o, wiring.flipped(self.columns))
        m.d.comb += [
            tokens.i.eq(self.i),
            tokens.i_valid.eq(self.i_valid),
            columns.i.eq(self.activations),
            columns.i_valid.eq(delayed(m, self.i_valid & ~self.i.end, lead, reset_less=False)),
        ]
        limit = self.limit(self._config)
        m.d.sync += self.full.eq((tokens.level >= limit) | (columns.level >= limit - lead))
        return m
