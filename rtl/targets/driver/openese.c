/* SPDX-License-Identifier: Apache-2.0 */
#include "openese.h"

/* A build may bring its own way to the registers, over a bridge or a simulator. */
#ifndef OPENESE_READ
#define OPENESE_READ(address) (*(volatile const uint32_t *)(address))
#define OPENESE_WRITE(address, value) (*(volatile uint32_t *)(address) = (value))
#endif

static uint32_t get(const openese_t *machine, uint32_t offset)
{
    return OPENESE_READ(machine->base + offset);
}

static void put(const openese_t *machine, uint32_t offset, uint32_t value)
{
    OPENESE_WRITE(machine->base + offset, value);
}

int openese_init(openese_t *machine, uintptr_t base)
{
    machine->base = base;
    if (get(machine, OPENESE_ID) != OPENESE_MAGIC)
        return OPENESE_NO_MACHINE;
    if (get(machine, OPENESE_VERSION) != OPENESE_REGISTER_VERSION)
        return OPENESE_OTHER_VERSION;
    if (get(machine, OPENESE_FINGERPRINT) != OPENESE_CONFIG_FINGERPRINT)
        return OPENESE_OTHER_CONFIG;
    return OPENESE_OK;
}

int openese_load(openese_t *machine, const uint32_t *words, size_t count)
{
    size_t k;
    uint32_t status;

    put(machine, OPENESE_CONTROL, OPENESE_CONTROL_LOAD);
    for (k = 0; k < count; k++)
        put(machine, OPENESE_LOAD, words[k]);
    status = get(machine, OPENESE_STATUS);
    if (status & OPENESE_STATUS_LOADED)
        return OPENESE_OK;
    return status & OPENESE_STATUS_LOADING ? OPENESE_SHORT : OPENESE_REFUSED;
}

uint32_t openese_image_error(const openese_t *machine)
{
    return get(machine, OPENESE_IMAGE_ERROR);
}

int openese_set_stream(openese_t *machine, uint64_t address)
{
#if OPENESE_CONFIG_STREAM
    if (address & 4095)
        return OPENESE_UNALIGNED;
    put(machine, OPENESE_STREAM_BASE_LOW, (uint32_t)address);
    put(machine, OPENESE_STREAM_BASE_HIGH, (uint32_t)(address >> 32));
    return OPENESE_OK;
#else
    (void)machine;
    (void)address;
    return OPENESE_NO_STREAM;
#endif
}

uint32_t openese_stream_error(const openese_t *machine)
{
#if OPENESE_CONFIG_STREAM
    return get(machine, OPENESE_STREAM_ERROR);
#else
    (void)machine;
    return 0;
#endif
}

void openese_run(openese_t *machine)
{
    put(machine, OPENESE_CONTROL, OPENESE_CONTROL_RUN);
}

void openese_stop(openese_t *machine)
{
    put(machine, OPENESE_CONTROL, 0);
}

void openese_reset(openese_t *machine)
{
    put(machine, OPENESE_CONTROL, OPENESE_CONTROL_RESET);
}

uint32_t openese_status(const openese_t *machine)
{
    return get(machine, OPENESE_STATUS);
}

uint32_t openese_stall(const openese_t *machine)
{
    return get(machine, OPENESE_STALL);
}

void openese_enable(openese_t *machine, uint32_t interrupts)
{
    put(machine, OPENESE_INTERRUPT_ENABLE, interrupts);
}

uint32_t openese_interrupts(const openese_t *machine)
{
    return get(machine, OPENESE_INTERRUPT);
}

void openese_clear(openese_t *machine, uint32_t interrupts)
{
    put(machine, OPENESE_INTERRUPT, interrupts);
}

uint64_t openese_counter(const openese_t *machine, uint32_t low)
{
    /* Reading the lower half keeps the upper one. */
    uint32_t lower = get(machine, low);

    return (uint64_t)get(machine, low + 4) << 32 | lower;
}

uint32_t openese_models(const openese_t *machine)
{
#if OPENESE_CONFIG_MODELS > 1
    return (get(machine, OPENESE_MODELS) & OPENESE_MODELS_LOADED) >> OPENESE_MODELS_LOADED_SHIFT;
#else
    (void)machine;
    return 1;
#endif
}

int openese_model_size(openese_t *machine, uint32_t model, uint32_t *inputs, uint32_t *outputs)
{
#if OPENESE_CONFIG_MODELS > 1
    uint32_t size;

    put(machine, OPENESE_MODELS, model << OPENESE_MODELS_SELECT_SHIFT);
    size = get(machine, OPENESE_MODEL_SIZE);
    *inputs = (size & OPENESE_MODEL_SIZE_INPUTS) >> OPENESE_MODEL_SIZE_INPUTS_SHIFT;
    *outputs = (size & OPENESE_MODEL_SIZE_OUTPUTS) >> OPENESE_MODEL_SIZE_OUTPUTS_SHIFT;
    return size ? OPENESE_OK : OPENESE_NO_MODELS;
#else
    (void)machine;
    (void)model;
    *inputs = *outputs = 0;
    return OPENESE_NO_MODELS;
#endif
}

static int select(openese_t *machine, int cell, uint32_t channel, uint32_t index)
{
    if (!(get(machine, OPENESE_STATUS) & OPENESE_STATUS_IDLE))
        return OPENESE_BUSY;
    put(machine, OPENESE_STATE_SELECT,
        (cell ? OPENESE_STATE_SELECT_CELL : 0) | channel << OPENESE_STATE_SELECT_CHANNEL_SHIFT |
            index << OPENESE_STATE_SELECT_INDEX_SHIFT);
    return OPENESE_OK;
}

int openese_get_state(openese_t *machine, int cell, uint32_t channel, uint32_t index, int32_t *values, size_t count)
{
    int result = select(machine, cell, channel, index);
    size_t k;

    /* The index grows by one with every access. */
    for (k = 0; k < count && result == OPENESE_OK; k++)
        values[k] = (int32_t)get(machine, OPENESE_STATE_DATA);
    return result;
}

int openese_set_state(openese_t *machine, int cell, uint32_t channel, uint32_t index, const int32_t *values,
                      size_t count)
{
    int result = select(machine, cell, channel, index);
    size_t k;

    for (k = 0; k < count && result == OPENESE_OK; k++)
        put(machine, OPENESE_STATE_DATA, (uint32_t)values[k]);
    return result;
}
