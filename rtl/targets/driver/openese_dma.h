/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a machine on a SoC: mapped registers, and an AXI DMA (PG021) in direct register mode for the frames. */
#ifndef OPENESE_DMA_H
#define OPENESE_DMA_H

#include "openese.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    /* Both sets of registers, by openese_mapped_read() and openese_mapped_write() or by other functions. */
    int (*read)(void *context, uint32_t offset, uint32_t *value);
    int (*write)(void *context, uint32_t offset, uint32_t value);
    void *machine, *dma; /* their contexts */
    /* The address that the DMA has for a pointer. NULL: the same. */
    uint64_t (*address)(const void *data);
    /* Write lines of the cache back, with a barrier behind it; and forget them. NULL: the DMA sees what is stored, in
       its order. */
    void (*flush)(const void *data, size_t bytes);
    void (*invalidate)(void *data, size_t bytes);
    /* Return after an interrupt of the machine or of the DMA's S2MM, or after some time. NULL: poll. */
    int (*wait)(void *machine);
    /* As openese_io.place, whose context is the machine's. NULL: there is no memory at m_axi. */
    int (*place)(void *machine, const uint32_t *words, size_t count, uint64_t *address);
    /* As large as the longest answer, OPENESE_ALIGN bytes from all else: answers that nobody waits for. */
    uint8_t *scratch;
    size_t scratch_bytes;
    /* Of the functions here. */
    uint8_t *buffer;
    size_t bytes;
    int sending, receiving;
} openese_dma;

/* Starts the DMA, and makes the way `io` for it. */
int openese_dma_start(openese_dma *dma, openese_io *io);

#ifdef __cplusplus
}
#endif

#endif
