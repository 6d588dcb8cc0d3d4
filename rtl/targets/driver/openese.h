/* SPDX-License-Identifier: Apache-2.0 */
/* Driver of the OpenESE machine for programs without an operating system, or with the registers mapped.
 *
 * It carries out what the host's side of the documentation says, register by register, and nothing else: frames go
 * through the streams, by whatever DMA there is. It allocates nothing and waits for nothing without a bound. */
#ifndef OPENESE_H
#define OPENESE_H

#include <stddef.h>
#include <stdint.h>

#include "openese_hw.h"

#ifdef __cplusplus
extern "C" {
#endif

enum openese_result {
    OPENESE_OK = 0,
    OPENESE_NO_MACHINE = -1,    /* ID is not that of a machine */
    OPENESE_OTHER_VERSION = -2, /* the registers are not those of openese_hw.h */
    OPENESE_OTHER_CONFIG = -3,  /* the machine is not of the configuration of openese_hw.h */
    OPENESE_REFUSED = -4,       /* the image was refused: openese_image_error() says why */
    OPENESE_SHORT = -5,         /* the image ended before the machine had all of it */
    OPENESE_BUSY = -6,          /* only while nothing is under way */
    OPENESE_UNALIGNED = -7,     /* not a multiple of 4096 */
    OPENESE_NO_STREAM = -8,     /* this machine cannot read weights from memory */
    OPENESE_NO_MODELS = -9      /* this machine holds one model, or the image does not have that one */
};

typedef struct {
    uintptr_t base; /* of the registers */
} openese_t;

/* Takes hold of the machine whose registers are at base; it goes on with what it does. */
int openese_init(openese_t *machine, uintptr_t base);

/* Loads an image of so many words; the machine stops for it. */
int openese_load(openese_t *machine, const uint32_t *words, size_t count);
/* Why the last image was refused: OPENESE_IMAGE_ERROR_..., the section above the reason; 0: it was not. */
uint32_t openese_image_error(const openese_t *machine);

/* Where the streamed weights of the image lie, before openese_run(). */
int openese_set_stream(openese_t *machine, uint64_t address);
/* OPENESE_STREAM_ERROR_...: response and line of the read that failed; 0: none did. */
uint32_t openese_stream_error(const openese_t *machine);

/* Computes frames from now on. */
void openese_run(openese_t *machine);
/* Stops after the frames that it has begun. */
void openese_stop(openese_t *machine);
/* Stops at once and abandons everything but the image and the cell states. */
void openese_reset(openese_t *machine);
/* OPENESE_STATUS_... */
uint32_t openese_status(const openese_t *machine);
/* OPENESE_STALL_...: what the work waited for when it stalled last, until openese_reset(). */
uint32_t openese_stall(const openese_t *machine);

/* OPENESE_INTERRUPT_...: which raise irq, which have happened, and forget them. */
void openese_enable(openese_t *machine, uint32_t interrupts);
uint32_t openese_interrupts(const openese_t *machine);
void openese_clear(openese_t *machine, uint32_t interrupts);

/* A counter, by the address of its lower half: OPENESE_CYCLES_LOW and so on. */
uint64_t openese_counter(const openese_t *machine, uint32_t low);

/* The models of the image once the machine runs: how many, and the columns of a frame and of an answer of one of them.
   A machine that holds one model says 1 and OPENESE_NO_MODELS. */
uint32_t openese_models(const openese_t *machine);
int openese_model_size(openese_t *machine, uint32_t model, uint32_t *inputs, uint32_t *outputs);

/* So many numbers of a voice's state, from index on, while nothing is under way: y where cell is 0, else the cell state
   c. A step may end some cycles after its answer: try again if the machine is busy. Send no frame meanwhile.
   The voice's bank times 256 is part of channel. The index of y is that of its column in that bank. */
int openese_get_state(openese_t *machine, int cell, uint32_t channel, uint32_t index, int32_t *values, size_t count);
int openese_set_state(openese_t *machine, int cell, uint32_t channel, uint32_t index, const int32_t *values,
                      size_t count);

#ifdef __cplusplus
}
#endif

#endif
