/* SPDX-License-Identifier: Apache-2.0 */
#include "openese_host.h"

#include <math.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "compile openese_host.c without -ffast-math: it must tell numbers that are not finite"
#endif

#define CHANNELS ((uint32_t)OPENESE_CONFIG_CHANNELS)
#define BITS ((uint32_t)OPENESE_CONFIG_ACTIVATION_BITS)
#define NO_SEAT UINT32_MAX
#define RESTS 100000u /* reads of STATUS until a machine that does not come to rest is given up */
#define ENDS 500u /* reads of INTERRUPT until a frame of one beat has surely come */
#define ERRORS \
    (OPENESE_INTERRUPT_FRAME_SHORT | OPENESE_INTERRUPT_FRAME_LONG | OPENESE_INTERRUPT_STREAM_FAILED | \
     OPENESE_INTERRUPT_STALLED | OPENESE_INTERRUPT_FRAME_BANK)

/* -- numbers -------------------------------------------------------------------------------------------------------- */

int openese_quantize(double value, int fraction, int bits, int32_t *number)
{
    const double limit = ldexp(1.0, bits - 1);
    double exact;

    if (!isfinite(value))
        return OPENESE_NOT_FINITE;
    exact = floor(ldexp(value, fraction) + 0.5);
    *number = (int32_t)(exact >= limit ? limit - 1.0 : exact < -limit ? -limit : exact);
    return exact >= limit || exact < -limit;
}

static int fits(int32_t number, int bits)
{
    const int64_t limit = (int64_t)1 << (bits - 1);

    return number >= -limit && number < limit;
}

/* Word `index` of a frame: words lie in beats without gaps, a beat is whole bytes. */
static void put_word(uint8_t *frame, uint32_t index, uint32_t value)
{
    const uint32_t in_beat = OPENESE_BEAT_COLUMNS * CHANNELS;
    const uint32_t bit = index % in_beat * BITS;
    uint8_t *byte = frame + (size_t)(index / in_beat) * OPENESE_BEAT_BYTES + bit / 8;
    uint32_t rest = (value & ((1u << BITS) - 1)) << bit % 8;

    for (; rest; rest >>= 8)
        *byte++ |= (uint8_t)rest;
}

static uint32_t get_word(const uint8_t *frame, uint32_t index)
{
    const uint32_t in_beat = OPENESE_BEAT_COLUMNS * CHANNELS;
    const uint32_t bit = index % in_beat * BITS;
    const uint8_t *byte = frame + (size_t)(index / in_beat) * OPENESE_BEAT_BYTES + bit / 8;
    uint32_t value = 0, at;

    for (at = 0; at < bit % 8 + BITS; at += 8)
        value |= (uint32_t)*byte++ << at;
    return value >> bit % 8 & ((1u << BITS) - 1);
}

static uint32_t column_word(uint32_t column, uint32_t channel)
{
    return (OPENESE_BEAT_COLUMNS + column) * CHANNELS + channel;
}

static uint32_t crc32_of(const uint32_t *words, size_t count)
{
    uint32_t crc = UINT32_MAX;
    size_t k;
    int bit;

    for (k = 0; k < count; k++) {
        crc ^= words[k];
        for (bit = 0; bit < 32; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* -- voices --------------------------------------------------------------------------------------------------------- */

static openese_slot *slot_of(const openese_host *host, openese_voice voice)
{
    openese_slot *slot = host->slots + (voice & 0xFFFF);

    return (voice & 0xFFFF) < host->voices && slot->open && slot->generation == voice >> 16 ? slot : NULL;
}

static openese_voice voice_of(const openese_host *host, const openese_slot *slot)
{
    return slot->generation << 16 | (uint32_t)(slot - host->slots);
}

static const openese_model *model_of(const openese_host *host, const openese_slot *slot)
{
    return host->image->models + slot->model;
}

static uint32_t places(const openese_host *host)
{
    return host->image->banks * CHANNELS;
}

static int has_frames(const openese_slot *slot)
{
    return slot->open && slot->pushed != slot->sent;
}

static int32_t *numbers_of(const openese_host *host, const openese_slot *slot, uint64_t count)
{
    return slot->numbers + (size_t)(count % host->frames) * host->image->width;
}

static uint64_t arrival_of(const openese_host *host, const openese_slot *slot)
{
    return slot->arrivals[slot->sent % host->frames];
}

int openese_host_model(const openese_host *host, const char *name, uint32_t *model)
{
    for (*model = 0; *model < host->image->model_count; ++*model)
        if (!strcmp(host->image->models[*model].name, name))
            return OPENESE_OK;
    return OPENESE_NO_MODEL;
}

static void leave_seat(openese_host *host, openese_slot *slot)
{
    if (slot->seat != NO_SEAT)
        host->seats[slot->seat] = 0;
    slot->seat = NO_SEAT;
}

int openese_host_open(openese_host *host, uint32_t model, openese_voice *voice)
{
    openese_slot *slot = host->slots;

    if (model >= host->image->model_count)
        return OPENESE_NO_MODEL;
    while (slot < host->slots + host->voices && slot->open)
        slot++;
    if (slot == host->slots + host->voices)
        return OPENESE_NO_ROOM;
    slot->generation = slot->generation % 0xFFFF + 1;
    slot->model = model;
    slot->seat = NO_SEAT;
    slot->pushed = slot->sent = slot->answered = slot->taken = slot->saturated = 0;
    slot->used = 0;
    slot->open = slot->fresh = 1;
    slot->stored = 0;
    *voice = voice_of(host, slot);
    return OPENESE_OK;
}

int openese_host_close(openese_host *host, openese_voice voice)
{
    openese_slot *slot = slot_of(host, voice);

    if (!slot)
        return OPENESE_CLOSED;
    /* Steps come back in order: who gets its place starts anew behind them, and answers find no voice. */
    leave_seat(host, slot);
    slot->open = 0;
    return OPENESE_OK;
}

static int room_for(const openese_host *host, const openese_slot *slot)
{
    if (!slot)
        return OPENESE_CLOSED;
    return slot->pushed - slot->taken < host->frames ? OPENESE_OK : OPENESE_FULL;
}

static void pushed(openese_host *host, openese_slot *slot)
{
    slot->arrivals[slot->pushed++ % host->frames] = host->arrived++;
}

int openese_host_push(openese_host *host, openese_voice voice, const float *frame)
{
    openese_slot *slot = slot_of(host, voice);
    int result = room_for(host, slot);
    const openese_model *model;
    int32_t *numbers;
    uint32_t k;

    if (result != OPENESE_OK)
        return result;
    model = model_of(host, slot);
    numbers = numbers_of(host, slot, slot->pushed);
    for (k = 0; k < model->inputs; k++)
        if (!isfinite(frame[k]))
            return OPENESE_NOT_FINITE;
    for (k = 0; k < model->inputs; k++)
        slot->saturated += (uint64_t)openese_quantize((double)frame[k], model->input_fractions[k], (int)BITS,
                                                      numbers + k);
    pushed(host, slot);
    return OPENESE_OK;
}

int openese_host_push_integers(openese_host *host, openese_voice voice, const int32_t *frame)
{
    openese_slot *slot = slot_of(host, voice);
    int result = room_for(host, slot);
    uint32_t k;

    if (result != OPENESE_OK)
        return result;
    for (k = 0; k < model_of(host, slot)->inputs; k++)
        if (!fits(frame[k], (int)BITS))
            return OPENESE_RANGE;
    memcpy(numbers_of(host, slot, slot->pushed), frame, model_of(host, slot)->inputs * sizeof *frame);
    pushed(host, slot);
    return OPENESE_OK;
}

int openese_host_take_integers(openese_host *host, openese_voice voice, int32_t *answer)
{
    openese_slot *slot = slot_of(host, voice);

    if (!slot)
        return OPENESE_CLOSED;
    if (slot->taken == slot->answered)
        return OPENESE_EMPTY;
    memcpy(answer, numbers_of(host, slot, slot->taken++), model_of(host, slot)->outputs * sizeof *answer);
    return OPENESE_OK;
}

int openese_host_take(openese_host *host, openese_voice voice, float *answer)
{
    openese_slot *slot = slot_of(host, voice);
    const openese_model *model;
    const int32_t *numbers;
    uint32_t k;

    if (!slot)
        return OPENESE_CLOSED;
    if (slot->taken == slot->answered)
        return OPENESE_EMPTY;
    model = model_of(host, slot);
    numbers = numbers_of(host, slot, slot->taken++);
    for (k = 0; k < model->outputs; k++)
        answer[k] = (float)ldexp((double)numbers[k], -model->output_fraction);
    return OPENESE_OK;
}

int openese_host_count(const openese_host *host, openese_voice voice, uint32_t *waiting, uint32_t *answers,
                       uint64_t *saturated)
{
    const openese_slot *slot = slot_of(host, voice);

    if (!slot)
        return OPENESE_CLOSED;
    *waiting = (uint32_t)(slot->pushed - slot->answered);
    *answers = (uint32_t)(slot->answered - slot->taken);
    *saturated = slot->saturated;
    return OPENESE_OK;
}

/* -- states in the machine ------------------------------------------------------------------------------------------ */

static int rest(openese_host *host, int abandon)
{
    const openese_io *io = host->machine.io;
    uint32_t k, status = 0;
    int result = OPENESE_OK;

    for (k = 0; k < RESTS && result == OPENESE_OK; k++) {
        if (abandon)
            result = io->abandon(io->context);
        if (result == OPENESE_OK)
            result = openese_get(&host->machine, OPENESE_STATUS, &status);
        if (result == OPENESE_OK && status & OPENESE_STATUS_IDLE)
            return OPENESE_OK;
    }
    return result == OPENESE_OK ? OPENESE_TIMEOUT : result;
}

static uint32_t place_word(const openese_host *host, const openese_slot *slot, const openese_run *run)
{
    const uint32_t place = slot->seat % places(host);

    return run->select + place / CHANNELS * run->bank_step + (place % CHANNELS << OPENESE_STATE_SELECT_CHANNEL_SHIFT);
}

/* Moves the state of a voice between its place, while nothing is under way, and its memory. */
static int move_state(openese_host *host, openese_slot *slot, int in)
{
    const openese_model *model = model_of(host, slot);
    int32_t *state = slot->state;
    int result = rest(host, 0);
    uint32_t k;

    for (k = 0; k < model->run_count && result == OPENESE_OK; k++) {
        const openese_run *run = model->runs + k;
        const uint32_t word = place_word(host, slot, run);

        result = in ? openese_set_state(&host->machine, word, state, run->count)
                    : openese_get_state(&host->machine, word, state, run->count);
        state += run->count;
    }
    if (result == OPENESE_OK) {
        slot->stored = !in;
        host->moves += (uint64_t)in;
    }
    return result;
}

/* -- places --------------------------------------------------------------------------------------------------------- */

/* A free place of a model in its fullest bank: its steps serve the most voices. */
static uint32_t free_seat(const openese_host *host, uint32_t model)
{
    uint32_t bank, channel, best = NO_SEAT, most = 0;

    for (bank = 0; bank < host->image->banks; bank++) {
        const uint32_t first = model * places(host) + bank * CHANNELS;
        uint32_t taken = 0, seat = NO_SEAT;

        for (channel = CHANNELS; channel--;)
            if (host->seats[first + channel])
                taken++;
            else
                seat = first + channel;
        if (seat != NO_SEAT && (best == NO_SEAT || taken > most)) {
            best = seat;
            most = taken;
        }
    }
    return best;
}

/* The voice of a model that has a place and no frames, and was used longest ago; or NULL. */
static openese_slot *idle_voice(const openese_host *host, uint32_t model)
{
    openese_slot *slot, *found = NULL;

    for (slot = host->slots; slot < host->slots + host->voices; slot++)
        if (slot->open && slot->model == model && slot->seat != NO_SEAT && !has_frames(slot) &&
            (!found || slot->used < found->used))
            found = slot;
    return found;
}

/* Gives a voice a place, if there is one. OPENESE_BUSY: there is one when no step is under way. */
static int seat_voice(openese_host *host, openese_slot *slot)
{
    const int under_way = host->made != host->done;
    uint32_t seat = free_seat(host, slot->model);
    openese_slot *idle = seat == NO_SEAT ? idle_voice(host, slot->model) : NULL;
    int result = OPENESE_OK;

    if (seat == NO_SEAT && !idle)
        return OPENESE_OK;
    if (under_way && (idle || slot->stored))
        return OPENESE_BUSY;
    if (idle) {
        if (!idle->fresh && !idle->stored)
            result = move_state(host, idle, 0);
        if (result != OPENESE_OK)
            return result;
        seat = idle->seat;
        leave_seat(host, idle);
    }
    slot->seat = seat;
    host->seats[seat] = voice_of(host, slot);
    return OPENESE_OK;
}

/* Gives places to voices that have frames, the longest waiting first, and writes states that they bring. */
static int seat_voices(openese_host *host)
{
    uint64_t after = 0;

    for (;;) {
        openese_slot *slot, *next = NULL;
        int result;

        for (slot = host->slots; slot < host->slots + host->voices; slot++)
            if (has_frames(slot) && (slot->seat == NO_SEAT || slot->stored) && arrival_of(host, slot) >= after &&
                (!next || arrival_of(host, slot) < arrival_of(host, next)))
                next = slot;
        if (!next)
            return OPENESE_OK;
        after = arrival_of(host, next) + 1;
        result = next->seat == NO_SEAT ? seat_voice(host, next) : OPENESE_OK;
        if (result == OPENESE_OK && next->seat != NO_SEAT && next->stored)
            result = host->made != host->done ? OPENESE_BUSY : move_state(host, next, 1);
        if (result != OPENESE_OK)
            return result;
    }
}

/* -- steps ---------------------------------------------------------------------------------------------------------- */

static uint32_t header_word(const openese_step *step, uint32_t channel)
{
    uint32_t word = step->members[channel] != 0;

    if (channel == 0)
        word |= step->bank << OPENESE_BANK_SHIFT | step->model << OPENESE_MODEL_SHIFT;
    return word;
}

/* Packs the frames of one bank of one model: of that whose oldest frame came first. */
static void make_step(openese_host *host, uint32_t first)
{
    openese_step *step = host->ring + host->made++ % host->depth;
    const openese_model *model = host->image->models + first / places(host);
    uint32_t channel, k;

    step->model = first / places(host);
    step->bank = first % places(host) / CHANNELS;
    step->in_bytes = OPENESE_FRAME_BYTES(model->inputs);
    step->out_bytes = OPENESE_FRAME_BYTES(model->outputs);
    memset(step->in, 0, step->in_bytes);
    for (channel = 0; channel < CHANNELS; channel++) {
        openese_slot *slot = slot_of(host, host->seats[first + channel]);
        const int member = slot && has_frames(slot);
        const int32_t *numbers;

        step->members[channel] = member ? host->seats[first + channel] : 0;
        put_word(step->in, channel, header_word(step, channel) | (member && slot->fresh ? 2u : 0));
        if (!member)
            continue;
        numbers = numbers_of(host, slot, slot->sent++);
        for (k = 0; k < model->inputs; k++)
            put_word(step->in, column_word(k, channel), (uint32_t)numbers[k]);
        slot->fresh = 0;
        slot->used = host->steps;
        host->computed++;
    }
    host->steps++;
}

/* The first place of the bank whose oldest frame came first; NO_SEAT: nobody who has a place has a frame. */
static uint32_t next_bank(const openese_host *host)
{
    const openese_slot *slot, *oldest = NULL;

    for (slot = host->slots; slot < host->slots + host->voices; slot++)
        if (has_frames(slot) && slot->seat != NO_SEAT &&
            (!oldest || arrival_of(host, slot) < arrival_of(host, oldest)))
            oldest = slot;
    return oldest ? oldest->seat / CHANNELS * CHANNELS : NO_SEAT;
}

/* Gives each voice its answer, unless it was closed meanwhile. */
static int deliver(openese_host *host, const openese_step *step)
{
    uint32_t channel, k;

    for (channel = 0; channel < CHANNELS; channel++)
        if (get_word(step->out, channel) != header_word(step, channel))
            return OPENESE_OTHER_FRAME;
    for (channel = 0; channel < CHANNELS; channel++) {
        openese_slot *slot = step->members[channel] ? slot_of(host, step->members[channel]) : NULL;
        int32_t *numbers;

        if (!slot)
            continue;
        numbers = numbers_of(host, slot, slot->answered++);
        for (k = 0; k < model_of(host, slot)->outputs; k++) {
            const uint32_t word = get_word(step->out, column_word(k, channel));

            numbers[k] = (int32_t)word - (int32_t)((word >> (BITS - 1)) << BITS);
        }
    }
    return OPENESE_OK;
}

/* Does what can be done now: takes answers, begins steps and, if `making`, makes them. */
static int advance(openese_host *host, int making, int *moved)
{
    const openese_io *io = host->machine.io;
    int result = OPENESE_OK;

    *moved = 0;
    while (result == OPENESE_OK && host->done != host->armed) {
        openese_step *step = host->ring + host->done % host->depth;
        size_t bytes = 0;

        result = io->received(io->context, &bytes);
        if (result == OPENESE_OK) {
            result = bytes == step->out_bytes ? deliver(host, step) : OPENESE_OTHER_FRAME;
            if (result == OPENESE_OK && host->ending) /* the beat that ended a frame came before this one */
                result = openese_put(&host->machine, OPENESE_INTERRUPT, OPENESE_INTERRUPT_FRAME_SHORT);
            host->ending = 0;
            host->done++;
            *moved = 1;
        }
    }
    if (result != OPENESE_OK && result != OPENESE_BUSY)
        return result;
    for (;;) {
        openese_step *step = host->ring + host->armed % host->depth;
        uint32_t bank;

        result = host->armed == host->made ? OPENESE_BUSY : io->receive(io->context, step->out, step->out_bytes);
        if (result == OPENESE_OK) {
            host->armed++;
            *moved = 1;
        } else if (result != OPENESE_BUSY) {
            return result;
        }
        step = host->ring + host->begun % host->depth;
        result = host->begun == host->made ? OPENESE_BUSY : io->send(io->context, step->in, step->in_bytes);
        if (result == OPENESE_OK) {
            host->begun++;
            *moved = 1;
        } else if (result != OPENESE_BUSY) {
            return result;
        }
        if (host->begun != host->made || host->armed != host->made) {
            if (result == OPENESE_OK)
                continue;
            return OPENESE_OK;
        }
        if (!making || host->made - host->done == host->depth)
            return OPENESE_OK;
        result = seat_voices(host);
        if (result != OPENESE_OK)
            return result == OPENESE_BUSY ? OPENESE_OK : result;
        bank = next_bank(host);
        if (bank == NO_SEAT)
            return OPENESE_OK;
        make_step(host, bank);
        *moved = 1;
    }
}

/* -- running -------------------------------------------------------------------------------------------------------- */

static int any_frames(const openese_host *host)
{
    const openese_slot *slot;

    for (slot = host->slots; slot < host->slots + host->voices; slot++)
        if (has_frames(slot))
            return 1;
    return 0;
}

static int stalled(const openese_host *host)
{
    uint32_t status = 0;
    int result = openese_get(&host->machine, OPENESE_STATUS, &status);

    if (result != OPENESE_OK)
        return result;
    return status & OPENESE_STATUS_STALLED ? OPENESE_STALLED : OPENESE_OK;
}

/* What the machine reports, while nothing moves. A stall that is over is none. */
static int watch(openese_host *host)
{
    uint32_t causes = 0;
    int result = openese_get(&host->machine, OPENESE_INTERRUPT, &causes);

    if (result == OPENESE_OK && causes)
        result = openese_put(&host->machine, OPENESE_INTERRUPT, causes);
    if (result != OPENESE_OK)
        return result;
    if (host->ending && causes & OPENESE_INTERRUPT_FRAME_SHORT) {
        host->ending = 0;
        causes ^= OPENESE_INTERRUPT_FRAME_SHORT;
    }
    if (causes & OPENESE_INTERRUPT_FRAME_SHORT)
        return OPENESE_FRAME_SHORT;
    if (causes & OPENESE_INTERRUPT_FRAME_LONG)
        return OPENESE_FRAME_LONG;
    if (causes & OPENESE_INTERRUPT_FRAME_BANK)
        return OPENESE_FRAME_BANK;
    if (causes & OPENESE_INTERRUPT_STREAM_FAILED)
        return OPENESE_STREAM_FAILED;
    return causes & OPENESE_INTERRUPT_STALLED ? stalled(host) : OPENESE_OK;
}

/* Takes the answers of all steps; if `making`, of all frames. */
static int work(openese_host *host, int making)
{
    const openese_io *io = host->machine.io;
    uint32_t idle = 0;
    int watched = 0, moved = 0, result = OPENESE_OK;

    while (result == OPENESE_OK) {
        result = advance(host, making, &moved);
        if (result != OPENESE_OK || (host->made == host->done && !(making && any_frames(host))))
            return result;
        if (moved) {
            idle = 0;
            watched = 0;
        } else if (!watched) {
            /* Interrupts are cleared before the last look for an answer: the next one ends the wait. */
            result = watch(host);
            watched = 1;
        } else if (idle++ == host->patience) {
            result = stalled(host);
            result = result == OPENESE_OK ? OPENESE_TIMEOUT : result;
        } else {
            result = io->wait ? io->wait(io->context) : OPENESE_OK;
            watched = 0;
        }
    }
    return result;
}

/* An error stays until a reset: answers would be those of other frames. */
static int kept(openese_host *host, int result)
{
    if (result != OPENESE_OK && result != OPENESE_BUSY)
        host->failure = result;
    return result;
}

int openese_host_run(openese_host *host)
{
    return host->failure ? host->failure : kept(host, work(host, 1));
}

int openese_host_poll(openese_host *host)
{
    int moved = 0, result = host->failure;

    if (!result)
        result = advance(host, 1, &moved);
    if (!result && !moved && host->made != host->done)
        result = watch(host);
    if (!result && (host->made != host->done || any_frames(host)))
        result = OPENESE_BUSY;
    return kept(host, result);
}

int openese_host_get_state(openese_host *host, openese_voice voice, int32_t *state, size_t count)
{
    openese_slot *slot = slot_of(host, voice);
    int result = host->failure;

    if (!slot)
        return OPENESE_CLOSED;
    if (count != model_of(host, slot)->state)
        return OPENESE_RANGE;
    if (!result)
        result = kept(host, work(host, 0));
    if (!result && slot->fresh) {
        memset(state, 0, count * sizeof *state);
        return OPENESE_OK;
    }
    if (!result && !slot->stored) {
        result = kept(host, move_state(host, slot, 0));
        slot->stored = 0; /* the machine has it too */
    }
    if (!result)
        memcpy(state, slot->state, count * sizeof *state);
    return result;
}

int openese_host_set_state(openese_host *host, openese_voice voice, const int32_t *state, size_t count)
{
    openese_slot *slot = slot_of(host, voice);
    const openese_model *model;
    uint32_t run, k, number = 0;

    if (!slot)
        return OPENESE_CLOSED;
    model = model_of(host, slot);
    if (slot->pushed != slot->answered)
        return OPENESE_BUSY;
    if (count != model->state)
        return OPENESE_RANGE;
    for (run = 0; run < model->run_count; run++)
        for (k = 0; k < model->runs[run].count; k++)
            if (!fits(state[number++], model->runs[run].bits))
                return OPENESE_RANGE;
    memcpy(slot->state, state, count * sizeof *state);
    slot->fresh = 0;
    slot->stored = 1;
    return OPENESE_OK;
}

/* -- beginning ------------------------------------------------------------------------------------------------------ */

/* Divides the memory. */
static int divide(openese_host *host, const openese_setup *setup)
{
    const openese_image *image = setup->image;
    const size_t frame = OPENESE_UP(OPENESE_FRAME_BYTES(image->width), OPENESE_ALIGN);
    const size_t of_voice = OPENESE_UP((size_t)setup->frames * (8u + 4u * image->width) + 4u * image->state, 8u);
    uint8_t *memory = (uint8_t *)setup->memory;
    uint8_t *buffer = (uint8_t *)setup->buffers;
    uint32_t k;

    if (!setup->voices || setup->voices > 0xFFFF || !setup->frames || !setup->steps || !setup->patience ||
        setup->memory_count < OPENESE_MEMORY(image->width, image->state, image->banks, image->model_count,
                                             setup->voices, setup->frames, setup->steps) ||
        setup->buffers_count < OPENESE_BUFFERS(image->width, setup->steps))
        return OPENESE_NO_MEMORY;
    memset(memory, 0, setup->memory_count * sizeof *setup->memory);
    host->slots = (openese_slot *)(void *)memory;
    memory += setup->voices * sizeof *host->slots;
    for (k = 0; k < setup->voices; k++, memory += of_voice) {
        host->slots[k].arrivals = (uint64_t *)(void *)memory;
        host->slots[k].numbers = (int32_t *)(void *)(memory + 8u * (size_t)setup->frames);
        host->slots[k].state = host->slots[k].numbers + (size_t)setup->frames * image->width;
    }
    host->ring = (openese_step *)(void *)memory;
    memory += setup->steps * sizeof *host->ring;
    buffer += (OPENESE_ALIGN - (uintptr_t)buffer % OPENESE_ALIGN) % OPENESE_ALIGN;
    host->beat = memset(buffer, 0, OPENESE_BEAT_BYTES);
    buffer += OPENESE_UP(OPENESE_BEAT_BYTES, OPENESE_ALIGN);
    for (k = 0; k < setup->steps; k++, memory += 4u * CHANNELS, buffer += 2 * frame) {
        host->ring[k].members = (uint32_t *)(void *)memory;
        host->ring[k].in = buffer;
        host->ring[k].out = buffer + frame;
    }
    memory = (uint8_t *)setup->memory + OPENESE_UP((size_t)(memory - (uint8_t *)setup->memory), 8u);
    host->seats = (uint32_t *)(void *)memory;
    host->image = image;
    host->voices = setup->voices;
    host->frames = setup->frames;
    host->depth = setup->steps;
    host->patience = setup->patience;
    return OPENESE_OK;
}

static int place_stream(openese_host *host, const uint32_t *words)
{
    const openese_image *image = host->image;
    const openese_io *io = host->machine.io;
    uint64_t address = 0;
    int result;

    if (!image->stream_words)
        return OPENESE_OK;
    if (!io->place)
        return OPENESE_NO_STREAM;
    result = io->place(io->context, words + image->stream_first, image->stream_words, &address);
    return result == OPENESE_OK ? openese_set_stream(&host->machine, address) : result;
}

/* A frame that was cut would go on with the next one. This beat is its end; or a frame that the machine drops, and
   reports if nothing was cut. */
static int end_frame(openese_host *host)
{
    const openese_io *io = host->machine.io;
    uint32_t k, causes = 0;
    int result = io->send(io->context, host->beat, OPENESE_BEAT_BYTES);

    host->ending = result == OPENESE_OK;
    if (result == OPENESE_BUSY)
        return OPENESE_OK;
    for (k = 0; k < ENDS && result == OPENESE_OK && host->ending; k++) {
        result = openese_get(&host->machine, OPENESE_INTERRUPT, &causes);
        if (result == OPENESE_OK && causes & OPENESE_INTERRUPT_FRAME_SHORT) {
            result = openese_put(&host->machine, OPENESE_INTERRUPT, OPENESE_INTERRUPT_FRAME_SHORT);
            host->ending = 0;
        }
    }
    return result;
}

/* From a load or a reset to work: the machine clears its accumulators first. Frames of before may still come out. */
static int begin(openese_host *host)
{
    const openese_io *io = host->machine.io;
    int result = rest(host, 1);

    if (result == OPENESE_OK)
        result = io->abandon(io->context);
    if (result == OPENESE_OK)
        result = openese_put(&host->machine, OPENESE_INTERRUPT, UINT32_MAX);
    if (result == OPENESE_OK)
        result = openese_put(&host->machine, OPENESE_INTERRUPT_ENABLE,
                             io->wait ? ERRORS | OPENESE_INTERRUPT_FRAME_SENT : 0);
    if (result == OPENESE_OK)
        result = openese_put(&host->machine, OPENESE_CONTROL, OPENESE_CONTROL_RUN);
    return result == OPENESE_OK ? end_frame(host) : result;
}

int openese_host_start(openese_host *host, const openese_setup *setup, const uint32_t *words, size_t count)
{
    const openese_io *io = setup->io;
    int result;

    memset(host, 0, sizeof *host);
    host->image = setup->image;
    result = openese_init(&host->machine, io);
    if (result == OPENESE_OK)
        result = divide(host, setup);
    if (result == OPENESE_OK && (count != setup->image->words || crc32_of(words, count) != setup->image->crc))
        result = OPENESE_OTHER_IMAGE;
    if (result == OPENESE_OK)
        result = io->abandon(io->context);
    if (result == OPENESE_OK)
        result = place_stream(host, words);
    if (result == OPENESE_OK)
        result = openese_load(&host->machine, words, count);
    if (result == OPENESE_OK)
        result = begin(host);
    host->failure = result;
    return result;
}

int openese_host_reset(openese_host *host)
{
    openese_slot *slot;
    uint32_t status = 0;
    int result = openese_get(&host->machine, OPENESE_STATUS, &status);

    if (result == OPENESE_OK && !(status & OPENESE_STATUS_LOADED))
        result = OPENESE_NO_IMAGE;
    if (result == OPENESE_OK)
        result = openese_put(&host->machine, OPENESE_CONTROL, OPENESE_CONTROL_RESET | OPENESE_CONTROL_RUN);
    for (slot = host->slots; slot < host->slots + host->voices; slot++) {
        slot->pushed = slot->sent = slot->answered;
        slot->fresh = 1;
        slot->stored = 0;
    }
    host->made = host->armed = host->begun = host->done;
    if (result == OPENESE_OK)
        result = begin(host);
    host->failure = result;
    return result;
}
