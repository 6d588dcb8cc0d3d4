/* SPDX-License-Identifier: Apache-2.0 */
/* On a board this file is replaced: openese_dma.c is one for SoCs with an AXI DMA. */
#include "simulated.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CYCLES, WRITTEN, READ, SENT, RECEIVED }; /* goals of sim/harness.cpp */
enum { DONE, UNDER_WAY };                       /* and its outcomes */
enum { PATIENCE = 2000000, TURN = 64, ASKED = 64 };

/* What sim/harness.cpp has of a memory at m_axi. */
typedef struct {
    const uint8_t *data;
    uint64_t base, size;
    uint32_t latency, jitter, outstanding, interleave;
    double share;
    uint64_t seed, error_start, error_stop, last_start, last_stop;
} memory_traits;

static struct {
    void *library, *machine;
    size_t beat; /* bytes of a beat in the library */
    size_t lost; /* beats at the end of the next frame */
    struct {
        uint8_t *frame;
        size_t bytes;
    } asked[ASKED];
    unsigned first, count; /* of the answers that were asked for */
    int (*run)(void *, int, size_t, uint64_t, uint64_t);
    void (*write)(void *, uint32_t, const uint32_t *, size_t);
    size_t (*refused)(const void *);
    void (*read)(void *, uint32_t, size_t);
    size_t (*read_refused)(const void *);
    void (*values)(const void *, uint32_t *);
    void (*send)(void *, const uint8_t *, const uint8_t *, size_t);
    void (*forget)(void *, int);
    size_t (*length)(const void *, size_t);
    void (*take)(void *, size_t, uint8_t *, uint8_t *);
    int (*irq)(const void *);
    void (*memory)(void *, const memory_traits *);
    void (*reset)(void *, int);
    void (*pace)(void *, uint64_t, double, double);
    void (*destroy)(void *);
    void *(*create)(uint64_t);
    uint32_t (*beat_size)(void);
} sim;

static int simulated_write(void *context, uint32_t offset, uint32_t value)
{
    (void)context;
    sim.write(sim.machine, offset, &value, 1);
    return sim.run(sim.machine, WRITTEN, 0, PATIENCE, PATIENCE) == DONE && !sim.refused(sim.machine) ? OPENESE_OK
                                                                                                    : OPENESE_BUS;
}

static int simulated_read(void *context, uint32_t offset, uint32_t *value)
{
    (void)context;
    sim.read(sim.machine, offset, 1);
    if (sim.run(sim.machine, READ, 0, PATIENCE, PATIENCE) != DONE || sim.read_refused(sim.machine))
        return OPENESE_BUS;
    sim.values(sim.machine, value);
    return OPENESE_OK;
}

static int simulated_send(void *context, const uint8_t *frame, size_t bytes)
{
    const size_t beats = bytes / OPENESE_BEAT_BYTES - sim.lost;
    uint8_t *padded = calloc(beats, sim.beat), *last = calloc(beats, 1);
    size_t k;

    (void)context;
    if (padded && last) {
        for (k = 0; k < beats; k++)
            memcpy(padded + k * sim.beat, frame + k * OPENESE_BEAT_BYTES, OPENESE_BEAT_BYTES);
        last[beats - 1] = !sim.lost;
        sim.lost = 0;
        sim.send(sim.machine, padded, last, beats);
    }
    k = padded && last;
    free(padded);
    free(last);
    return k ? OPENESE_OK : OPENESE_NO_MEMORY;
}

static int simulated_receive(void *context, uint8_t *frame, size_t bytes)
{
    (void)context;
    if (sim.count == ASKED)
        return OPENESE_BUSY;
    sim.asked[(sim.first + sim.count) % ASKED].frame = frame;
    sim.asked[(sim.first + sim.count++) % ASKED].bytes = bytes;
    return OPENESE_OK;
}

static int simulated_received(void *context, size_t *bytes)
{
    size_t beats, k;
    uint8_t *padded, *last;

    (void)context;
    if (!sim.count)
        return OPENESE_BUSY;
    k = (size_t)sim.run(sim.machine, RECEIVED, 1, TURN, PATIENCE);
    if (k != DONE)
        return k == UNDER_WAY ? OPENESE_BUSY : OPENESE_TIMEOUT;
    beats = sim.length(sim.machine, 1);
    padded = malloc(beats * sim.beat);
    last = malloc(beats);
    if (padded && last) {
        sim.take(sim.machine, beats, padded, last);
        *bytes = beats * OPENESE_BEAT_BYTES;
        for (k = 0; k < beats && (k + 1) * OPENESE_BEAT_BYTES <= sim.asked[sim.first].bytes; k++)
            memcpy(sim.asked[sim.first].frame + k * OPENESE_BEAT_BYTES, padded + k * sim.beat, OPENESE_BEAT_BYTES);
        sim.first = (sim.first + 1) % ASKED;
        sim.count--;
    }
    k = padded && last;
    free(padded);
    free(last);
    return k ? OPENESE_OK : OPENESE_NO_MEMORY;
}

static int simulated_abandon(void *context)
{
    (void)context;
    sim.forget(sim.machine, 0);
    sim.run(sim.machine, SENT, 0, PATIENCE, PATIENCE);
    sim.run(sim.machine, CYCLES, 0, TURN, PATIENCE);
    sim.forget(sim.machine, 1);
    sim.count = 0;
    return OPENESE_OK;
}

static int simulated_wait(void *context)
{
    int turns;

    (void)context;
    for (turns = 0; turns < 100 && !sim.irq(sim.machine); turns++)
        sim.run(sim.machine, CYCLES, 0, TURN, PATIENCE);
    return OPENESE_OK;
}

static int simulated_place(void *context, const uint32_t *words, size_t count, uint64_t *address)
{
    memory_traits traits = {(const uint8_t *)words, 0, count * sizeof *words, 60, 0, 64, 0, 1.0, 1, 0, 0, 0, 0};

    (void)context;
    sim.memory(sim.machine, &traits);
    *address = 0;
    return OPENESE_OK;
}

/* Sets a pointer to a function of the library. */
static int find(const char *name, void *pointer)
{
    char symbol[40];
    void *found;

    snprintf(symbol, sizeof symbol, "openese_%s", name);
    found = dlsym(sim.library, symbol);
    memcpy(pointer, &found, sizeof found);
    if (!found)
        fprintf(stderr, "simulated: the library has no function %s\n", symbol);
    return found != NULL;
}

void simulated_pace(double share)
{
    sim.pace(sim.machine, 1, share, share);
}

void simulated_lose(size_t beats)
{
    sim.lost = beats;
}

void simulated_close(void)
{
    sim.destroy(sim.machine);
    dlclose(sim.library);
}

const openese_io *simulated_open(const char *library)
{
    static const openese_io way = {NULL, simulated_read, simulated_write, simulated_send, simulated_receive,
                                   simulated_received, simulated_abandon, simulated_wait, simulated_place};

    sim.library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!sim.library) {
        fprintf(stderr, "simulated: %s\n", dlerror());
        return NULL;
    }
    if (!find("run", &sim.run) || !find("write", &sim.write) || !find("refused", &sim.refused) ||
        !find("read", &sim.read) || !find("read_refused", &sim.read_refused) || !find("values", &sim.values) ||
        !find("send", &sim.send) || !find("forget", &sim.forget) || !find("length", &sim.length) ||
        !find("take", &sim.take) || !find("irq", &sim.irq) || !find("memory", &sim.memory) ||
        !find("reset", &sim.reset) || !find("pace", &sim.pace) || !find("destroy", &sim.destroy) ||
        !find("create", &sim.create) || !find("beat", &sim.beat_size))
        return NULL;
    sim.beat = sim.beat_size();
    sim.machine = sim.create(0);
    sim.reset(sim.machine, 1);
    sim.run(sim.machine, CYCLES, 0, 16, PATIENCE);
    sim.reset(sim.machine, 0);
    sim.run(sim.machine, CYCLES, 0, 1, PATIENCE);
    return &way;
}
