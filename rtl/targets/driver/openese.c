/* SPDX-License-Identifier: Apache-2.0 */
#include "openese.h"

const char *openese_text(int result)
{
    switch (result) {
#define OPENESE_RESULT(name, value, text) \
    case value: \
        return #name ": " text;
        OPENESE_RESULTS(OPENESE_RESULT)
#undef OPENESE_RESULT
    default:
        return "no result of this library";
    }
}

const char *openese_image_text(uint32_t image_error)
{
    switch (image_error & OPENESE_IMAGE_ERROR_REASON) {
#define OPENESE_REASON(name, value) \
    case value: \
        return #name;
        OPENESE_IMAGE_REASONS(OPENESE_REASON)
#undef OPENESE_REASON
    default:
        return "no reason of this version";
    }
}

int openese_mapped_read(void *context, uint32_t offset, uint32_t *value)
{
    *value = *(volatile const uint32_t *)((uintptr_t)context + offset);
    return OPENESE_OK;
}

int openese_mapped_write(void *context, uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)((uintptr_t)context + offset) = value;
    return OPENESE_OK;
}

int openese_get(const openese_t *machine, uint32_t offset, uint32_t *value)
{
    return machine->io->read(machine->io->context, offset, value);
}

int openese_put(const openese_t *machine, uint32_t offset, uint32_t value)
{
    return machine->io->write(machine->io->context, offset, value);
}

int openese_init(openese_t *machine, const openese_io *io)
{
    static const struct {
        uint32_t offset, value;
        int wrong;
    } registers[] = {
        {OPENESE_ID, OPENESE_MAGIC, OPENESE_NO_MACHINE},
        {OPENESE_VERSION, OPENESE_REGISTER_VERSION, OPENESE_OTHER_VERSION},
        {OPENESE_FINGERPRINT, OPENESE_CONFIG_FINGERPRINT, OPENESE_OTHER_CONFIG},
    };
    size_t k;

    machine->io = io;
    for (k = 0; k < sizeof registers / sizeof registers[0]; k++) {
        uint32_t value = 0;
        int result = openese_get(machine, registers[k].offset, &value);

        if (result != OPENESE_OK)
            return result;
        if (value != registers[k].value)
            return registers[k].wrong;
    }
    return OPENESE_OK;
}

int openese_load(const openese_t *machine, const uint32_t *words, size_t count)
{
    int result = openese_put(machine, OPENESE_CONTROL, OPENESE_CONTROL_LOAD);
    uint32_t status = 0;
    size_t k;

    for (k = 0; k < count && result == OPENESE_OK; k++)
        result = openese_put(machine, OPENESE_LOAD, words[k]);
    if (result == OPENESE_OK)
        result = openese_get(machine, OPENESE_STATUS, &status);
    if (result != OPENESE_OK)
        return result;
    if (status & OPENESE_STATUS_LOADED)
        return OPENESE_OK;
    return status & OPENESE_STATUS_LOADING ? OPENESE_SHORT : OPENESE_REFUSED;
}

int openese_set_stream(const openese_t *machine, uint64_t address)
{
#if OPENESE_CONFIG_STREAM
    int result;

    if (address & 4095)
        return OPENESE_UNALIGNED;
    result = openese_put(machine, OPENESE_STREAM_BASE_LOW, (uint32_t)address);
    return result == OPENESE_OK ? openese_put(machine, OPENESE_STREAM_BASE_HIGH, (uint32_t)(address >> 32)) : result;
#else
    (void)machine;
    (void)address;
    return OPENESE_NO_STREAM;
#endif
}

int openese_counter(const openese_t *machine, uint32_t low, uint64_t *value)
{
    /* Reading the lower half keeps the upper one. */
    uint32_t lower = 0, upper = 0;
    int result = openese_get(machine, low, &lower);

    if (result == OPENESE_OK)
        result = openese_get(machine, low + 4, &upper);
    if (result == OPENESE_OK)
        *value = (uint64_t)upper << 32 | lower;
    return result;
}

int openese_models(const openese_t *machine, uint32_t *models)
{
#if OPENESE_CONFIG_MODELS > 1
    uint32_t value = 0;
    int result = openese_get(machine, OPENESE_MODELS, &value);

    if (result == OPENESE_OK)
        *models = (value & OPENESE_MODELS_LOADED) >> OPENESE_MODELS_LOADED_SHIFT;
    return result;
#else
    (void)machine;
    *models = 1;
    return OPENESE_OK;
#endif
}

int openese_model_size(const openese_t *machine, uint32_t model, uint32_t *inputs, uint32_t *outputs)
{
#if OPENESE_CONFIG_MODELS > 1
    uint32_t size = 0;
    int result;

    if (model >= OPENESE_CONFIG_MODELS)
        return OPENESE_NO_MODEL;
    result = openese_put(machine, OPENESE_MODELS, model << OPENESE_MODELS_SELECT_SHIFT);
    if (result == OPENESE_OK)
        result = openese_get(machine, OPENESE_MODEL_SIZE, &size);
    if (result != OPENESE_OK)
        return result;
    *inputs = (size & OPENESE_MODEL_SIZE_INPUTS) >> OPENESE_MODEL_SIZE_INPUTS_SHIFT;
    *outputs = (size & OPENESE_MODEL_SIZE_OUTPUTS) >> OPENESE_MODEL_SIZE_OUTPUTS_SHIFT;
    return size ? OPENESE_OK : OPENESE_NO_MODEL;
#else
    (void)machine;
    (void)model;
    (void)inputs;
    (void)outputs;
    return OPENESE_NO_MODEL;
#endif
}

static int select_state(const openese_t *machine, uint32_t select)
{
    uint32_t status = 0;
    int result = openese_get(machine, OPENESE_STATUS, &status);

    if (result != OPENESE_OK)
        return result;
    return status & OPENESE_STATUS_IDLE ? openese_put(machine, OPENESE_STATE_SELECT, select) : OPENESE_BUSY;
}

int openese_get_state(const openese_t *machine, uint32_t select, int32_t *values, size_t count)
{
    int result = select_state(machine, select);
    size_t k;

    /* The index grows by one with every access. */
    for (k = 0; k < count && result == OPENESE_OK; k++) {
        uint32_t value = 0;

        result = openese_get(machine, OPENESE_STATE_DATA, &value);
        if (result == OPENESE_OK)
            values[k] = (int32_t)value;
    }
    return result;
}

int openese_set_state(const openese_t *machine, uint32_t select, const int32_t *values, size_t count)
{
    int result = select_state(machine, select);
    size_t k;

    for (k = 0; k < count && result == OPENESE_OK; k++)
        result = openese_put(machine, OPENESE_STATE_DATA, (uint32_t)values[k]);
    return result;
}
