/* Runs a recurrent model over a stream of frames, chunk by chunk: float32 frames on stdin, scores on stdout. */
#include "stream.h"

#include <stdio.h>

static unsigned char memory[STREAM_SELF_TEST_ARENA_SIZE + STREAM_ARENA_ALIGN];

/* The states of one stream. Another stream would have its own. */
struct state {
    float h[STREAM_INPUT_H_ELEMENTS], c[STREAM_INPUT_C_ELEMENTS];
};

int main(void)
{
    static float x[STREAM_INPUT_X_ELEMENTS], scores[STREAM_OUTPUT_SCORES_ELEMENTS];
    static struct state states[2]; /* zeros: where a stream starts */
    void *arena = memory + (STREAM_ARENA_ALIGN - (uintptr_t)memory % STREAM_ARENA_ALIGN) % STREAM_ARENA_ALIGN;
    int now = 0;

    if (stream_abi_version() != STREAM_ABI_VERSION || stream_self_test(arena, STREAM_SELF_TEST_ARENA_SIZE) != STREAM_OK)
        return 1;
    while (fread(x, sizeof x, 1, stdin) == 1) {
        /* Outputs must not overlap inputs, so the next states go to the other buffer. */
        struct state *before = &states[now], *after = &states[1 - now];
        int status = stream_run(x, before->h, before->c, scores, after->h, after->c, arena, STREAM_ARENA_SIZE);
        if (status != STREAM_OK) {
            fprintf(stderr, "the model failed with status %d\n", status);
            return 1;
        }
        if (fwrite(scores, sizeof scores, 1, stdout) != 1)
            return 1;
        now = 1 - now;
    }
    return 0;
}
