# SPDX-License-Identifier: Apache-2.0
"""The words that control a slice, and the stages of its pipeline."""

import enum
from typing import NamedTuple

from amaranth.lib import data

from openese.rtl.activation import Activation
from openese.rtl.config import bits_for

__all__ = ["Beat", "Kind", "Settings", "SliceControl", "Stages", "adds_drained", "rows_ahead"]


class Kind(enum.IntEnum):
    """Work of a slice on a row. The gates are numbered as their rows are interleaved.

    A GRU has r, z, n_x and n_h in the places of i, f, g and o.
    """

    I = 0       # noqa: E741
    F = 1
    G = 2
    O = 3       # noqa: E741
    CELL_TANH = 4
    PROJECTION = 5

    R = 0
    Z = 1
    N_X = 2
    N_H = 3


class Beat(data.StructLayout):
    """One cycle of a slice's work: ``slice_width`` lanes of one local row.

    Fields
    ------
    valid : 1 — there is work.
    kind : 3 — its `Kind`.
    row : bits_for(cell_rows - 1) — cell row.
    beat : bits_for(beats - 1) — place of the lanes in the row.
    first : 1 — first phase of a row whose sums lie in several accumulators.
    last : 1 — last phase of it.
    place : 2 — place of the row's biases in their cell row: the gate's, or that of one of four rows of a dense layer.
        Only if the machine has dense layers.
    """

    def __init__(self, config):
        super().__init__({
            "valid": 1,
            "kind": 3,
            "row": bits_for(config.cell_rows - 1),
            "beat": bits_for(config.beats - 1),
            "first": 1,
            "last": 1,
            **({"place": 2} if config.dense else {}),
        })


class Settings(data.StructLayout):
    """Number formats of a layer and the voices of a step. They are constant while an instruction is under way.

    Fields
    ------
    shift : array(4, 5) — shift of the sums of i, f, g and o to the format of a table argument; of y in the first.
    cell_argument_shift : 5 — shift of c to the format of a table argument, after ``cell_argument_left``.
    peephole_select : 3 — shift of a peephole product, beyond ``peephole_shift_base``.
    cell_select : 3 — fraction bits of c, below ``cell_fraction_max``.
    g_sigmoid : 1 — g uses the sigmoid's table.
    gru : 1 — the cells are those of a GRU; ``cell_select`` and ``g_sigmoid`` are 0. Only if the machine has them.
    reset_before : 1 — the GRU's reset is before the product. Only if the machine has such GRUs.
    dense : 1 — the rows are those of a dense layer: its bias is added. Only if the machine has them, as the next.
    activation : 2 — its function; see `openese.rtl.program.ACTIVATIONS`. "none" where ``dense`` is 0.
    active : channels — voices that are active.
    reset : channels — voices that start anew.
    bank : bank_bits — their bank. Only if the machine has several.
    """

    def __init__(self, config):
        super().__init__({
            "shift": data.ArrayLayout(5, 4),
            "cell_argument_shift": 5,
            "peephole_select": 3,
            "cell_select": 3,
            "g_sigmoid": 1,
            **({"gru": 1} if config.gru else {}),
            **({"reset_before": 1} if config.gru_before else {}),
            **({"dense": 1, "activation": 2} if config.dense else {}),
            "active": config.channels,
            "reset": config.channels,
            **({"bank": config.bank_bits} if config.banks > 1 else {}),
        })


class SliceControl(data.StructLayout):
    """The work of all slices in a cycle; see `Slice`.

    Fields
    ------
    capture : 1 — hold the row that is drained.
    beat : Beat — the pipeline's control.
    settings : Settings — number formats and voices.
    """

    def __init__(self, config):
        super().__init__({"capture": 1, "beat": Beat(config), "settings": Settings(config)})


class Stages(NamedTuple):
    """Stages of a slice: a value is in its register at that stage, where its beat is word ``stage`` of the control.

    Attributes
    ----------
    picks : int
        Lanes that the first stage picks from. A row with more of them takes a second stage. Where all lanes pass at
        once, the first stage adds groups if there are several.
    read : int
        The address of c and of the parameters. Their memories have two registers, as block RAMs do.
    added : int
        The sum of the groups (AdderTree).
    total : int
        The sum of the phases so far.
    pre_activation : int
        The total, or c for its tanh, rounded to the format of a table argument.
    affine : int
        y of a projection, or of a dense layer without a table: with dense layers, the bias is added in a cycle more.
    gate : int
        The table's value.
    product : int
        The product of ElemMul, rounded to the format of c or m.
    cell : int
        The new c, on its way into the memory.
    early : int
        Cycles by which c can be read before it is in the memory.
    """

    picks: int
    read: int
    added: int
    total: int
    pre_activation: int
    affine: int
    gate: int
    product: int
    cell: int
    early: int

    @classmethod
    def of(cls, config):
        """The stages of a slice of a machine of capacity ``config``."""
        two_picks = config.beats > 16
        added = max(1, (config.beats > 1) + two_picks + (config.groups - 1).bit_length() - adds_drained(config))
        total = added + 1
        pre_activation = total + 4              # three steps of the shift, and rounding
        gate = pre_activation + 2 + Activation.delay  # + bias + peephole, the argument, the table
        product = gate + 4                      # two registers of the multiplier, the shift, and rounding
        return cls(8 if two_picks else config.beats, total - 2, added, total, pre_activation,
                   pre_activation + config.dense, gate, product, cell=product + 2, early=3 if config.forward else 0)

    @property
    def y_delay(self):
        """Cycles from a beat to its lanes of y being in the row's columns: picked out, then put in their place."""
        return self.affine + 2

    @property
    def table_delay(self):
        """The same for the y of a dense layer with a table, which is rounded and saturated in a cycle of its own."""
        return self.gate + 3

    @property
    def m_delay(self):
        """The same for m."""
        return self.product + 2

    @property
    def h_delay(self):
        """The same for the y of a GRU, and for r . h'."""
        return self.cell + 2

    @property
    def cells_delay(self):
        """Cycles from a beat to the cell states at its row being read."""
        return self.read + 3

    @property
    def cell_write_delay(self):
        """Cycles from a beat to the host's write of a cell state at its row."""
        return self.cell

    @property
    def c_delay(self):
        """Least cycles from a beat to a beat that reads the c it writes."""
        return self.cell + 1 - self.read - self.early

    @property
    def r_delay(self):
        """Least cycles from a beat of r to the beat of n_x that adds its product."""
        return self.product + 4 - self.pre_activation


def adds_drained(config):
    """Whether groups are added from the PEs' registers, without a row being held: with ``forward``, where all lanes of
    a row pass at once.
    """
    return config.forward and config.beats == 1 and config.groups > 2


def rows_ahead(config):
    """Rows of a GRU whose r . n_h a slice keeps until n_x adds it."""
    return min(config.cell_rows, max(2, 16 // config.beats))
