/* SPDX-License-Identifier: Apache-2.0 */
/* The host library at a machine in Verilator: carries out a script on stdin, and answers each line with one. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"
#include "openese_dma.h"
#include "simulated.h"

enum { VOICES = 64 };

static uint32_t words[NET_WORDS];
static openese_host host;
static openese_setup setup;
static openese_voice voices[VOICES];
static const openese_io *way;

/* An AXI DMA in front of the simulated machine, as far as openese_dma.c uses it: registers of PG021. */
static struct {
    uint32_t registers[32];
    int sending, receiving, failing;
} dma;

static uint64_t dma_address(const void *data)
{
    return (uint64_t)(uintptr_t)data;
}

static uint8_t *dma_pointer(unsigned low)
{
    return (uint8_t *)(uintptr_t)((uint64_t)dma.registers[low + 1] << 32 | dma.registers[low]);
}

static int dma_read(void *context, uint32_t offset, uint32_t *value)
{
    size_t bytes;

    if (!context)
        return way->read(way->context, offset, value);
    if (offset == 0x04 && dma.sending && !--dma.sending)
        dma.registers[0x04 / 4] |= 1u << 12;
    if (offset == 0x34 && dma.receiving && way->received(way->context, &bytes) == OPENESE_OK) {
        dma.receiving = 0;
        dma.registers[0x58 / 4] = (uint32_t)bytes;
        dma.registers[0x34 / 4] |= 1u << 12 | (dma.failing ? 1u << 4 : 0);
    }
    *value = dma.registers[offset / 4];
    return OPENESE_OK;
}

static int dma_write(void *context, uint32_t offset, uint32_t value)
{
    if (!context)
        return way->write(way->context, offset, value);
    if (offset == 0x04 || offset == 0x34) {
        dma.registers[offset / 4] &= ~(value & 0x7000u);
        return OPENESE_OK;
    }
    dma.registers[offset / 4] = value;
    if (offset == 0x00 && value & 4) {
        /* A machine whose answer nobody takes is not this model's concern: the host lets answers go to waste first. */
        way->abandon(way->context);
        memset(&dma, 0, sizeof dma);
        return OPENESE_OK;
    }
    if (!(dma.registers[offset < 0x30 ? 0 : 0x30 / 4] & 1) && (offset == 0x28 || offset == 0x58))
        return OPENESE_BUS; /* it does not run */
    if (offset == 0x28) {
        if (dma.sending)
            return OPENESE_BUS;
        dma.sending = 3;
        return way->send(way->context, dma_pointer(0x18 / 4), value);
    }
    if (offset == 0x58) {
        if (dma.receiving)
            return OPENESE_BUS;
        dma.receiving = 1;
        return way->receive(way->context, dma_pointer(0x48 / 4), value);
    }
    return OPENESE_OK;
}

static int dma_wait(void *machine)
{
    (void)machine;
    return way->wait(way->context);
}

static int dma_place(void *machine, const uint32_t *data, size_t count, uint64_t *address)
{
    (void)machine;
    return way->place(way->context, data, count, address);
}

static unsigned flushed, invalidated;

static void flush(const void *data, size_t bytes)
{
    flushed += data && bytes;
}

static void invalidate(void *data, size_t bytes)
{
    invalidated += data && bytes;
}

/* -- the script ----------------------------------------------------------------------------------------------------- */

static uint32_t inputs_of(unsigned voice)
{
    const openese_slot *slot = host.slots + (voices[voice] & 0xFFFF);

    return host.image->models[slot->model].inputs;
}

static uint32_t outputs_of(unsigned voice)
{
    const openese_slot *slot = host.slots + (voices[voice] & 0xFFFF);

    return host.image->models[slot->model].outputs;
}

static void read_numbers(int32_t *numbers, uint32_t count)
{
    for (; count--; numbers++)
        if (scanf("%" SCNd32, numbers) != 1)
            exit(3);
}

static void say(int result, const int32_t *numbers, uint32_t count)
{
    printf("%d", result);
    for (; count--; numbers++)
        printf(" %" PRId32, *numbers);
    printf("\n");
}

static int start(void)
{
    return openese_host_start(&host, &setup, words, NET_WORDS);
}

static void carry_out(const char *command, unsigned v, uint32_t number)
{
    static int32_t numbers[NET_STATE + NET_INPUTS + NET_OUTPUTS + 1];
    static float x[NET_INPUTS], y[NET_OUTPUTS];
    char name[80];
    uint32_t k, waiting, answers;
    uint64_t saturated;
    int result;

    if (!strcmp(command, "open")) {
        say(openese_host_open(&host, number, voices + v), NULL, 0);
    } else if (!strcmp(command, "model")) {
        if (scanf(" %79[^\n]", name) != 1)
            exit(3);
        result = openese_host_model(&host, name, &number);
        numbers[0] = (int32_t)number;
        say(result, numbers, result == OPENESE_OK);
    } else if (!strcmp(command, "close")) {
        say(openese_host_close(&host, voices[v]), NULL, 0);
    } else if (!strcmp(command, "push")) {
        for (k = 0; k < inputs_of(v); k++)
            if (scanf("%f", x + k) != 1)
                exit(3);
        say(openese_host_push(&host, voices[v], x), NULL, 0);
    } else if (!strcmp(command, "push_integers")) {
        read_numbers(numbers, inputs_of(v));
        say(openese_host_push_integers(&host, voices[v], numbers), NULL, 0);
    } else if (!strcmp(command, "take")) {
        result = openese_host_take(&host, voices[v], y);
        printf("%d", result);
        for (k = 0; result == OPENESE_OK && k < outputs_of(v); k++)
            printf(" %a", (double)y[k]);
        printf("\n");
    } else if (!strcmp(command, "take_integers")) {
        result = openese_host_take_integers(&host, voices[v], numbers);
        say(result, numbers, result == OPENESE_OK ? outputs_of(v) : 0);
    } else if (!strcmp(command, "count")) {
        result = openese_host_count(&host, voices[v], &waiting, &answers, &saturated);
        numbers[0] = (int32_t)waiting, numbers[1] = (int32_t)answers, numbers[2] = (int32_t)saturated;
        say(result, numbers, result == OPENESE_OK ? 3 : 0);
    } else if (!strcmp(command, "get_state")) {
        result = openese_host_get_state(&host, voices[v], numbers, number);
        say(result, numbers, result == OPENESE_OK ? number : 0);
    } else if (!strcmp(command, "set_state")) {
        read_numbers(numbers, number);
        say(openese_host_set_state(&host, voices[v], numbers, number), NULL, 0);
    } else if (!strcmp(command, "run")) {
        say(openese_host_run(&host), NULL, 0);
    } else if (!strcmp(command, "poll")) {
        say(openese_host_poll(&host), NULL, 0);
    } else if (!strcmp(command, "reset")) {
        say(openese_host_reset(&host), NULL, 0);
    } else if (!strcmp(command, "start")) {
        say(start(), NULL, 0);
    } else if (!strcmp(command, "read")) {
        result = openese_get(&host.machine, number, &k);
        numbers[0] = (int32_t)k;
        say(result, numbers, result == OPENESE_OK);
    } else if (!strcmp(command, "write")) {
        say(openese_put(&host.machine, v, number), NULL, 0);
    } else if (!strcmp(command, "send")) { /* a frame of so many beats, whose header has the number in its first word */
        uint8_t *frame = calloc(v, OPENESE_BEAT_BYTES);

        frame[0] = (uint8_t)number, frame[1] = (uint8_t)(number >> 8);
        say(way->send(way->context, frame, v * (size_t)OPENESE_BEAT_BYTES), NULL, 0);
        free(frame);
    } else if (!strcmp(command, "lose")) {
        simulated_lose(number);
        say(0, NULL, 0);
    } else if (!strcmp(command, "pace")) {
        simulated_pace(number / 100.0);
        say(0, NULL, 0);
    } else if (!strcmp(command, "damage")) {
        words[v] ^= number;
        say(0, NULL, 0);
    } else if (!strcmp(command, "fail")) {
        dma.failing = (int)number;
        say(0, NULL, 0);
    } else if (!strcmp(command, "statistics")) {
        printf("0 %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", host.steps, host.computed, host.moves);
    } else {
        fprintf(stderr, "session: no command %s\n", command);
        exit(3);
    }
}

/* library image voices frames steps patience dma */
int main(int count, char **arguments)
{
    const uint32_t of_voices = (uint32_t)atoi(arguments[3]), frames = (uint32_t)atoi(arguments[4]);
    const uint32_t steps = (uint32_t)atoi(arguments[5]);
    uint64_t *memory, *buffers;
    FILE *file = fopen(arguments[2], "rb");
    char command[20];
    unsigned voice;
    uint32_t number;
    openese_dma by_dma = {dma_read, dma_write, NULL, &dma, dma_address, flush, invalidate, dma_wait, dma_place,
                          NULL, 0, NULL, 0, 0, 0};
    openese_io dma_way;
    int result;

    if (count != 8 || !file || fread(words, 4, NET_WORDS, file) != NET_WORDS || !(way = simulated_open(arguments[1])))
        return 2;
    fclose(file);
    /* Exactly as much as is asked for: nothing may be touched behind it. */
    setup = (openese_setup){&net_image, way, of_voices, frames, steps, (uint32_t)atoi(arguments[6]), NULL, NULL,
                            NET_MEMORY(of_voices, frames, steps), NET_BUFFERS(steps)};
    memory = setup.memory = malloc(8 * setup.memory_count);
    buffers = setup.buffers = malloc(8 * setup.buffers_count);
    if (atoi(arguments[7])) {
        by_dma.scratch_bytes = OPENESE_FRAME_BYTES(NET_OUTPUTS);
        by_dma.scratch = malloc(by_dma.scratch_bytes);
        result = openese_dma_start(&by_dma, &dma_way);
        if (result != OPENESE_OK)
            return 2;
        setup.io = &dma_way;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (scanf("%19s %u %" SCNu32, command, &voice, &number) == 3)
        carry_out(command, voice, number);
    if (setup.io == &dma_way && (!flushed || !invalidated))
        return 4;
    free(memory);
    free(buffers);
    free(by_dma.scratch);
    simulated_close();
    return 0;
}
