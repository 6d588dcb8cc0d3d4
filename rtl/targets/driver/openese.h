/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of an OpenESE machine, for programs with or without an operating system.
 *
 * openese_host.h sends frames on top of this. Nothing here allocates memory, or waits without a bound. */
#ifndef OPENESE_H
#define OPENESE_H

#include <stddef.h>
#include <stdint.h>

#include "openese_hw.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return: OPENESE_OK, or what went wrong. openese_text() has it as text. */
#define OPENESE_RESULTS(_) \
    _(OK, 0, "done") \
    _(NO_MACHINE, -1, "the register ID is not that of a machine") \
    _(OTHER_VERSION, -2, "the registers are not those of openese_hw.h") \
    _(OTHER_CONFIG, -3, "the machine is not of the configuration of openese_hw.h") \
    _(REFUSED, -4, "the machine refused the image; the register IMAGE_ERROR says why") \
    _(SHORT, -5, "the image ended before the machine had all of it") \
    _(BUSY, -6, "something is under way; ask again when it is done") \
    _(UNALIGNED, -7, "the address is not a multiple of 4096") \
    _(NO_STREAM, -8, "the machine, or the way to it, cannot have weights in memory") \
    _(NO_MODEL, -9, "there is no such model") \
    _(BUS, -10, "an access of a register was answered with an error") \
    _(TIMEOUT, -11, "nothing has moved for as long as the setup allows") \
    _(OTHER_IMAGE, -12, "the words are not those of the image that the header is made from") \
    _(NO_MEMORY, -13, "the memory that was handed in is too small, or a size is 0 or too large") \
    _(NO_ROOM, -14, "as many voices are open as the setup allows") \
    _(CLOSED, -15, "there is no such open voice") \
    _(FULL, -16, "the voice has as many frames and answers as the setup allows; take answers") \
    _(EMPTY, -17, "the voice has no answer now") \
    _(NOT_FINITE, -18, "a number is not finite") \
    _(RANGE, -19, "a number does not fit its format, or the count of numbers is wrong") \
    _(OTHER_FRAME, -20, "a frame came back for other voices, or with another length, than it was sent for") \
    _(FRAME_SHORT, -21, "the machine dropped a frame: its last beat came early") \
    _(FRAME_LONG, -22, "the machine dropped a frame: its last beat came late") \
    _(FRAME_BANK, -23, "the machine dropped a frame: it names a bank or a model that is not there") \
    _(STREAM_FAILED, -24, "a weight could not be read from memory; the register STREAM_ERROR says which") \
    _(STALLED, -25, "the machine's work does not go on; the register STALL says what it waits for") \
    _(DMA, -26, "the DMA reports an error") \
    _(NO_IMAGE, -27, "the machine has no image; openese_host_start() loads it")

enum openese_result {
#define OPENESE_RESULT(name, value, text) OPENESE_##name = (value),
    OPENESE_RESULTS(OPENESE_RESULT)
#undef OPENESE_RESULT
};

/* The way to a machine, written once for a board. Functions return OPENESE_OK, or a result that is handed on.
 *
 * Frames are bytes as the streams carry them, OPENESE_BEAT_BYTES a beat, TLAST on the last beat. The buffers stay where
 * they are until the answer has come. One that handles caches does so in send() and received(). The way needs no frames
 * if openese_host.h is not used. */
typedef struct {
    void *context; /* handed to each function */
    int (*read)(void *context, uint32_t offset, uint32_t *value);
    int (*write)(void *context, uint32_t offset, uint32_t value);
    /* Begin to send a frame. OPENESE_BUSY: not now, ask again. */
    int (*send)(void *context, const uint8_t *frame, size_t bytes);
    /* Have the next answer but those asked for before put into the buffer. OPENESE_BUSY: not now, ask again. */
    int (*receive)(void *context, uint8_t *frame, size_t bytes);
    /* Has the oldest answer that was asked for come? OPENESE_BUSY: not yet. Its bytes are counted. */
    int (*received)(void *context, size_t *bytes);
    /* Drop all frames that are not sent and all answers that have not come. A frame that has begun goes to its end. */
    int (*abandon)(void *context);
    /* Return after an interrupt of the machine or of the DMA, or after some time. NULL: poll. */
    int (*wait)(void *context);
    /* Put words where the machine's m_axi reads them; their address is a multiple of 4096. NULL: there is no memory. */
    int (*place)(void *context, const uint32_t *words, size_t count, uint64_t *address);
} openese_io;

typedef struct {
    const openese_io *io;
} openese_t;

/* A result as text: its name, and what it means. Why an image was refused: text for the register IMAGE_ERROR. */
const char *openese_text(int result);
const char *openese_image_text(uint32_t image_error);

/* Registers that are mapped at an address: functions for openese_io, whose context is that address. */
int openese_mapped_read(void *context, uint32_t offset, uint32_t *value);
int openese_mapped_write(void *context, uint32_t offset, uint32_t value);

/* Takes hold of a machine; it goes on with what it does. */
int openese_init(openese_t *machine, const openese_io *io);

/* A register by its address in openese_hw.h, as OPENESE_STATUS. */
int openese_get(const openese_t *machine, uint32_t offset, uint32_t *value);
int openese_put(const openese_t *machine, uint32_t offset, uint32_t value);

/* Loads an image of so many words: the whole file, or the words for the machine alone. The machine stops for it. */
int openese_load(const openese_t *machine, const uint32_t *words, size_t count);
/* Where the streamed weights of the image lie, before OPENESE_CONTROL_RUN is written to OPENESE_CONTROL. */
int openese_set_stream(const openese_t *machine, uint64_t address);

/* A counter, by the address of its lower half: OPENESE_CYCLES_LOW and so on. */
int openese_counter(const openese_t *machine, uint32_t low, uint64_t *value);

/* The models of the image once the machine runs: how many (0: not yet), and the columns of a frame and of an answer of
   one of them. A machine that can hold one model alone says 1 and OPENESE_NO_MODEL. */
int openese_models(const openese_t *machine, uint32_t *models);
int openese_model_size(const openese_t *machine, uint32_t model, uint32_t *inputs, uint32_t *outputs);

/* So many numbers of a voice's state from a place on: a word of STATE_SELECT. OPENESE_BUSY if a step is under way, which
   may end some cycles after its answer. Send no frame meanwhile. */
int openese_get_state(const openese_t *machine, uint32_t select, int32_t *values, size_t count);
int openese_set_state(const openese_t *machine, uint32_t select, const int32_t *values, size_t count);

#ifdef __cplusplus
}
#endif

#endif
