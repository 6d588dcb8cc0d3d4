/* SPDX-License-Identifier: Apache-2.0 */
/* Live voices on an OpenESE machine: each comes, sends frames at its own pace, takes its answers and goes.
 *
 * A machine computes channels of banks, for each of its models. The host places the voices in them, fills each step
 * with every voice of a bank that has a frame, and keeps the answers of each voice in order. It works in the memory
 * that it is handed, and calls nothing but openese_io, memcpy, memset, strcmp, floor and ldexp. One thread at a time. */
#ifndef OPENESE_HOST_H
#define OPENESE_HOST_H

#include "openese.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers of a voice's state that lie side by side: c or y of a layer. Their real values are number * 2^-fraction. */
typedef struct {
    uint32_t select;    /* the word of STATE_SELECT for channel 0 of bank 0 */
    uint32_t bank_step; /* what a bank adds to it */
    uint32_t count;
    int fraction;
    int bits;
} openese_run;

/* A model of an image. */
typedef struct {
    const char *name;
    uint32_t inputs, outputs;
    const int16_t *input_fractions; /* of each input */
    int output_fraction;
    const openese_run *runs;
    uint32_t run_count;
    uint32_t state; /* numbers of all runs */
} openese_model;

/* What a program needs to know of an image; `openese header` writes it. */
typedef struct {
    uint32_t words, crc; /* of the file: 32-bit words, and the CRC-32 of its bytes */
    uint32_t stream_first, stream_words; /* the streamed weights among them */
    uint32_t banks;
    uint32_t width; /* the most columns of a frame or an answer */
    uint32_t state; /* the most numbers of a state */
    uint32_t model_count;
    const openese_model *models;
} openese_image;

/* -- memory. The header of an image has these for the image: NET_MEMORY(voices, frames, steps), NET_BUFFERS(steps). -- */

typedef struct {
    uint64_t *arrivals; /* of frames */
    int32_t *numbers;   /* of frames and, in the same places, of answers */
    int32_t *state;
    uint64_t used; /* the step before its last frame */
    uint64_t pushed, sent, answered, taken, saturated;
    uint32_t generation, model, seat;
    uint8_t open;
    uint8_t fresh;  /* starts from zero with its next frame */
    uint8_t stored; /* has its state in memory */
} openese_slot;

typedef struct {
    uint8_t *in, *out;
    size_t in_bytes, out_bytes;
    uint32_t *members; /* the voice of each channel, or 0 */
    uint32_t model, bank;
} openese_step;

#define OPENESE_ALIGN 64u /* bytes between which frames lie: a line of a cache */
#define OPENESE_UP(bytes, unit) (((bytes) + (unit) - 1u) / (unit) * (unit))
#define OPENESE_FRAME_BEATS(columns) (1u + ((columns) + OPENESE_BEAT_COLUMNS - 1u) / OPENESE_BEAT_COLUMNS)
#define OPENESE_FRAME_BYTES(columns) (OPENESE_FRAME_BEATS(columns) * (size_t)OPENESE_BEAT_BYTES)
/* Of uint64_t: what a host needs for itself, and for frames in memory that a DMA reaches. */
#define OPENESE_MEMORY(width, state, banks, models, voices, frames, steps) \
    (((uint64_t)(voices) * \
          (sizeof(openese_slot) + OPENESE_UP((uint64_t)(frames) * (8u + 4u * (width)) + 4u * (state), 8u)) + \
      OPENESE_UP((uint64_t)(steps) * (sizeof(openese_step) + 4u * OPENESE_CONFIG_CHANNELS), 8u) + \
      OPENESE_UP(4u * OPENESE_CONFIG_CHANNELS * (uint64_t)(banks) * (models), 8u)) / 8u)
#define OPENESE_BUFFERS(width, steps) \
    (((uint64_t)(steps) * 2u * OPENESE_UP(OPENESE_FRAME_BYTES(width), OPENESE_ALIGN) + \
      OPENESE_UP(OPENESE_BEAT_BYTES, OPENESE_ALIGN) + OPENESE_ALIGN) / 8u)

/* -- a host -------------------------------------------------------------------------------------------------------- */

typedef struct {
    const openese_image *image;
    const openese_io *io;
    uint32_t voices;   /* open at a time, 1 to 65535. More than the machine has places for: states move in and out */
    uint32_t frames;   /* of a voice that are pushed, or whose answers are not taken */
    uint32_t steps;    /* under way at a time: 2 or more keep the machine busy */
    uint32_t patience; /* calls of wait(), or polls, in which nothing moves, until OPENESE_TIMEOUT */
    uint64_t *memory, *buffers;
    size_t memory_count, buffers_count; /* of uint64_t */
} openese_setup;

typedef struct {
    openese_t machine;
    const openese_image *image;
    openese_slot *slots;
    openese_step *ring;
    uint8_t *beat; /* of zeros, the end of a frame that was cut */
    uint32_t *seats; /* the voice in each place, or 0 */
    uint32_t voices, frames, depth, patience;
    uint64_t made, armed, begun, done; /* steps so far */
    uint64_t arrived;
    int failure;
    int ending; /* the beat is on its way, and may be reported as a frame that is too short */
    /* For the program to read: steps, frames in them, states that were written into the machine. */
    uint64_t steps, computed, moves;
} openese_host;

typedef uint32_t openese_voice;

/* Takes hold of the machine, loads the image, whose file has so many words (little-endian), and runs it. All that is
   handed in stays where it is while the host is used. */
int openese_host_start(openese_host *host, const openese_setup *setup, const uint32_t *words, size_t count);
/* After an error, or to begin anew: drops all frames. Voices stay open, keep answers that came, and start from zero.
   OPENESE_NO_IMAGE: there was no start, or it failed before the machine had its image. */
int openese_host_reset(openese_host *host);

/* The number of a model, by its name. */
int openese_host_model(const openese_host *host, const char *name, uint32_t *model);

/* A new voice, which starts from zero. */
int openese_host_open(openese_host *host, uint32_t model, openese_voice *voice);
/* Gives it up, with its frames and answers. */
int openese_host_close(openese_host *host, openese_voice voice);
/* Adds a frame: one number for each input, rounded half up and clamped to its format as the reference does. */
int openese_host_push(openese_host *host, openese_voice voice, const float *frame);
/* The oldest answer: one number for each output. */
int openese_host_take(openese_host *host, openese_voice voice, float *answer);
/* The same in the machine's integers. */
int openese_host_push_integers(openese_host *host, openese_voice voice, const int32_t *frame);
int openese_host_take_integers(openese_host *host, openese_voice voice, int32_t *answer);
/* Frames that have no answer yet, answers that can be taken, and numbers that were clamped. */
int openese_host_count(const openese_host *host, openese_voice voice, uint32_t *waiting, uint32_t *answers,
                       uint64_t *saturated);

/* Computes all frames that were pushed. After an error, openese_host_reset() goes on. */
int openese_host_run(openese_host *host);
/* Does what can be done now, and returns at once, but for states to be moved. OPENESE_BUSY: frames are under way. */
int openese_host_poll(openese_host *host);

/* The state of a voice after its last answer, as many integers as its model's runs have, in their order. It can be
   replaced while the voice has no frames. */
int openese_host_get_state(openese_host *host, openese_voice voice, int32_t *state, size_t count);
int openese_host_set_state(openese_host *host, openese_voice voice, const int32_t *state, size_t count);

/* A real number as an integer: rounded half up, clamped to so many bits. 1: it was clamped; or OPENESE_NOT_FINITE. */
int openese_quantize(double value, int fraction, int bits, int32_t *number);

#ifdef __cplusplus
}
#endif

#endif
