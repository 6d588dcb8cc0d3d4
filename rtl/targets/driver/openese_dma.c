/* SPDX-License-Identifier: Apache-2.0 */
#include "openese_dma.h"

#include <string.h>

/* Registers, by direction. */
#define MM2S 0x00u
#define S2MM 0x30u
#define CONTROL 0x00u
#define STATUS 0x04u
#define ADDRESS 0x18u
#define ADDRESS_HIGH 0x1Cu
#define LENGTH 0x28u

/* Bits of CONTROL and STATUS; the last two are interrupts in both. */
#define RUN (1u << 0)
#define RESET (1u << 2)
#define ERRORS (7u << 4)
#define DONE (1u << 12)
#define FAILED (1u << 14)

#define POLLS 100000u /* of a reset */
#define QUIET 64u     /* polls after which no further answer is expected */

static int get(openese_dma *dma, uint32_t offset, uint32_t *value)
{
    return dma->read(dma->dma, offset, value);
}

static int put(openese_dma *dma, uint32_t offset, uint32_t value)
{
    return dma->write(dma->dma, offset, value);
}

static int begin(openese_dma *dma, uint32_t direction, const void *data, size_t bytes)
{
    const uint64_t address = dma->address ? dma->address(data) : (uint64_t)(uintptr_t)data;
    int result = put(dma, direction + ADDRESS, (uint32_t)address);

    if (result == OPENESE_OK)
        result = put(dma, direction + ADDRESS_HIGH, (uint32_t)(address >> 32));
    return result == OPENESE_OK ? put(dma, direction + LENGTH, (uint32_t)bytes) : result;
}

/* OPENESE_OK: the transfer is done. */
static int done(openese_dma *dma, uint32_t direction)
{
    uint32_t status = 0;
    int result = get(dma, direction + STATUS, &status);

    if (result != OPENESE_OK)
        return result;
    if (status & ERRORS)
        return OPENESE_DMA;
    return status & DONE ? put(dma, direction + STATUS, DONE) : OPENESE_BUSY;
}

static int dma_read(void *context, uint32_t offset, uint32_t *value)
{
    openese_dma *dma = (openese_dma *)context;

    return dma->read(dma->machine, offset, value);
}

static int dma_write(void *context, uint32_t offset, uint32_t value)
{
    openese_dma *dma = (openese_dma *)context;

    return dma->write(dma->machine, offset, value);
}

static int dma_send(void *context, const uint8_t *frame, size_t bytes)
{
    openese_dma *dma = (openese_dma *)context;
    int result = dma->sending ? done(dma, MM2S) : OPENESE_OK;

    if (result != OPENESE_OK)
        return result;
    if (dma->flush)
        dma->flush(frame, bytes);
    dma->sending = 1;
    return begin(dma, MM2S, frame, bytes);
}

static int dma_receive(void *context, uint8_t *frame, size_t bytes)
{
    openese_dma *dma = (openese_dma *)context;

    if (dma->receiving)
        return OPENESE_BUSY;
    if (dma->invalidate)
        dma->invalidate(frame, bytes); /* no line of the cache may be written over the answer */
    dma->buffer = frame;
    dma->bytes = bytes;
    dma->receiving = 1;
    return begin(dma, S2MM, frame, bytes);
}

static int dma_received(void *context, size_t *bytes)
{
    openese_dma *dma = (openese_dma *)context;
    uint32_t length = 0;
    int result = dma->receiving ? done(dma, S2MM) : OPENESE_BUSY;

    if (result == OPENESE_OK)
        result = get(dma, S2MM + LENGTH, &length);
    if (result != OPENESE_OK)
        return result;
    if (dma->invalidate)
        dma->invalidate(dma->buffer, dma->bytes);
    dma->receiving = 0;
    *bytes = length;
    return OPENESE_OK;
}

static int restart(openese_dma *dma)
{
    uint32_t k, control = RESET;
    int result = put(dma, MM2S + CONTROL, RESET); /* of both directions */

    for (k = 0; k < POLLS && result == OPENESE_OK && control & RESET; k++)
        result = get(dma, MM2S + CONTROL, &control);
    if (result == OPENESE_OK && control & RESET)
        result = OPENESE_DMA;
    if (result == OPENESE_OK)
        result = put(dma, MM2S + CONTROL, RUN);
    if (result == OPENESE_OK)
        result = put(dma, S2MM + CONTROL, RUN | (dma->wait ? DONE | FAILED : 0u));
    dma->sending = dma->receiving = 0;
    return result;
}

/* Lets what has begun come to its end, and answers go to waste until none comes. */
static int dma_abandon(void *context)
{
    openese_dma *dma = (openese_dma *)context;
    uint32_t quiet = 0;

    while (quiet < QUIET) {
        size_t bytes;
        int result = OPENESE_OK;

        quiet++;
        if (dma->sending) {
            result = done(dma, MM2S);
            if (result == OPENESE_OK)
                dma->sending = 0;
        }
        if (result == OPENESE_OK || result == OPENESE_BUSY)
            result = dma_receive(dma, dma->scratch, dma->scratch_bytes);
        if (result == OPENESE_OK || result == OPENESE_BUSY)
            result = dma_received(dma, &bytes);
        if (result == OPENESE_OK)
            quiet = 0;
        else if (result != OPENESE_BUSY)
            break; /* the restart clears the error */
    }
    return restart(dma);
}

static int dma_wait(void *context)
{
    openese_dma *dma = (openese_dma *)context;

    return dma->wait(dma->machine);
}

static int dma_place(void *context, const uint32_t *words, size_t count, uint64_t *address)
{
    openese_dma *dma = (openese_dma *)context;

    return dma->place(dma->machine, words, count, address);
}

int openese_dma_start(openese_dma *dma, openese_io *io)
{
    memset(io, 0, sizeof *io);
    io->context = dma;
    io->read = dma_read;
    io->write = dma_write;
    io->send = dma_send;
    io->receive = dma_receive;
    io->received = dma_received;
    io->abandon = dma_abandon;
    io->wait = dma->wait ? dma_wait : NULL;
    io->place = dma->place ? dma_place : NULL;
    return restart(dma);
}
