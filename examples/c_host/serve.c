/* SPDX-License-Identifier: Apache-2.0 */
/* Four callers on one machine: each has a frame every turn, the fourth joins later. Arguments: the machine's library,
 * the image, a file of frames and one for answers, both of floats, for each turn and caller. */
#include <stdio.h>
#include <stdlib.h>

#include "net.h"       /* sizes and formats: openese header net.img -o net.h */
#include "simulated.h" /* the way to the machine; a board has another */

enum { CALLERS = 4, JOINS = 5, FRAMES = 4, STEPS = 2, PATIENCE = 1000 };

static uint64_t memory[NET_MEMORY(CALLERS, FRAMES, STEPS)], buffers[NET_BUFFERS(STEPS)];
static uint32_t words[NET_WORDS + 1];

static void check(const char *what, int result)
{
    if (result == OPENESE_OK)
        return;
    fprintf(stderr, "serve: %s: %s\n", what, openese_text(result));
    exit(1);
}

static FILE *open_file(const char *path, const char *mode)
{
    FILE *file = fopen(path, mode);

    if (!file)
        perror(path), exit(1);
    return file;
}

int main(int count, char **arguments)
{
    FILE *image = open_file(count > 4 ? arguments[2] : "", "rb");
    FILE *frames = open_file(arguments[3], "rb"), *answers = open_file(arguments[4], "wb");
    openese_setup setup = {&net_image, simulated_open(arguments[1]), CALLERS, FRAMES, STEPS, PATIENCE,
                           memory, buffers, sizeof memory / 8, sizeof buffers / 8};
    openese_host host;
    openese_voice voices[CALLERS] = {0};
    float x[CALLERS][NET_INPUTS], y[NET_OUTPUTS];
    int turn, caller;

    if (!setup.io)
        return 1;
    check("start", openese_host_start(&host, &setup, words, fread(words, 4, NET_WORDS + 1, image)));
    for (turn = 0; fread(x, sizeof x, 1, frames) == 1; turn++) {
        for (caller = 0; caller < CALLERS; caller++) {
            if (turn == (caller == CALLERS - 1 ? JOINS : 0))
                check("open", openese_host_open(&host, 0, &voices[caller]));
            if (turn >= JOINS || caller < CALLERS - 1)
                check("push", openese_host_push(&host, voices[caller], x[caller]));
        }
        check("run", openese_host_run(&host));
        for (caller = 0; caller < CALLERS; caller++)
            if (openese_host_take(&host, voices[caller], y) == OPENESE_OK)
                fwrite(y, sizeof y, 1, answers);
    }
    simulated_close();
    return fclose(image) || fclose(frames) || fclose(answers);
}
