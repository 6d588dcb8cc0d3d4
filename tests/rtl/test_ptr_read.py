# SPDX-License-Identifier: Apache-2.0
"""PtrRead: the tokens of `PtrRead.model`, `PtrRead.delay` cycles after their columns, for a PE or several."""

import pytest
from bench import TINY, cycles, generator, seeds, simulate, trace

from openese.rtl.ptr_read import PtrRead

CONFIGS = [TINY, TINY.replace(column_depth=16, accumulator_rows=16)]


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS, ids=["tiny", "small"])
@pytest.mark.parametrize("pes, gaps", [(1, 0.0), (1, 0.4), (3, 0.0), (4, 0.4)])
def test_tokens_follow_their_columns(config, pes, gaps, seed):
    rng = generator(seed)
    dut = PtrRead(config, pes)
    counts = rng.integers(0, config.accumulator_rows, (config.column_depth, pes))
    counts[rng.random(counts.shape) < 0.4] = 0
    counts[0], counts[-1] = config.accumulator_rows - 1, 1
    # Per cycle None, or the fields of a column.
    columns = [None if rng.random() < gaps else {
        "index": int(rng.integers(config.column_depth)),
        "operation": int(rng.integers(4)),
        "end": int(rng.random() < 0.1),
    } for _ in range(400)]
    watch, outputs = trace(dut.o_valid, *(field for token in dut.o
                                          for field in (token.count, token.operation, token.end)))

    async def bench(ctx):
        ctx.set(dut.load_valid, 1)
        for address in rng.permutation(config.column_depth):
            line = sum(int(count) << (pe * config.count_bits) for pe, count in enumerate(counts[address]))
            ctx.set(dut.load, {"address": int(address), "data": line})
            await ctx.tick()
        ctx.set(dut.load_valid, 0)
        # An address and data without valid must not be written.
        ctx.set(dut.load, {"address": 0, "data": 0})
        for column in columns:
            ctx.set(dut.i_valid, column is not None)
            if column is not None:
                ctx.set(dut.i, column)
            await ctx.tick()
        ctx.set(dut.i_valid, 0)
        await cycles(ctx, dut.delay + 1)

    simulate(dut, bench, limit=config.column_depth + 500, background=[watch])
    first = config.column_depth
    assert not any(valid for valid, *_ in outputs[:first + dut.delay])
    for column, output in zip(columns, outputs[first + dut.delay:], strict=False):
        if column is None:
            assert not output[0]
            continue
        for pe in range(pes):
            valid, (count, operation, end) = output[0] >> pe & 1, output[1 + 3 * pe:4 + 3 * pe]
            if column["end"]:
                assert (valid, operation, end) == (1, column["operation"], 1)
            else:
                tokens = PtrRead.model(counts[:, pe], [column["index"]])
                assert valid == len(tokens)
                assert not valid or (count, operation, end) == (*tokens, column["operation"], 0)
