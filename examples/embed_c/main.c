/* Tells what is on an image of 28 x 28 grey bytes: the demo's network as an object file, without Python. */
#include "model.h"

#include <stdio.h>

#define PIXELS (28 * 28)

static const char *const CLASSES[MODEL_OUTPUT_FC_ELEMENTS] = {
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
};

/* Scratch memory: aligned by hand, so that any C99 compiler takes it. */
static unsigned char memory[MODEL_SELF_TEST_ARENA_SIZE + MODEL_ARENA_ALIGN];

static void *arena(void)
{
    return memory + (MODEL_ARENA_ALIGN - (uintptr_t)memory % MODEL_ARENA_ALIGN) % MODEL_ARENA_ALIGN;
}

static int read_image(const char *path, float *x)
{
    unsigned char pixels[PIXELS];
    FILE *file = fopen(path, "rb");
    size_t count = file == NULL ? 0 : fread(pixels, 1, PIXELS, file);
    if (file != NULL)
        fclose(file);
    for (size_t i = 0; i < count; ++i)
        x[i] = ((float)pixels[i] / 255.0f - 0.2860f) / 0.3530f; /* as the network was trained */
    return count == PIXELS;
}

int main(int argc, char **argv)
{
    float x[MODEL_INPUT_X_ELEMENTS], scores[MODEL_OUTPUT_FC_ELEMENTS];
    int status, best = 0;

    if (argc != 2 || !read_image(argv[1], x)) {
        fprintf(stderr, "usage: %s IMAGE (a file of %d grey bytes)\n", argv[0], PIXELS);
        return 2;
    }
    if (model_abi_version() != MODEL_ABI_VERSION) {
        fprintf(stderr, "model.h and model.o are of two exports\n");
        return 1;
    }
    status = model_self_test(arena(), MODEL_SELF_TEST_ARENA_SIZE);
    if (status == MODEL_OK)
        status = model_run(x, scores, arena(), MODEL_ARENA_SIZE);
    if (status != MODEL_OK) {
        fprintf(stderr, "the model failed with status %d\n", status);
        return 1;
    }
    for (int i = 0; i < MODEL_OUTPUT_FC_ELEMENTS; ++i) {
        printf("%-12s %.9g\n", CLASSES[i], (double)scores[i]);
        if (scores[i] > scores[best])
            best = i;
    }
    printf("it is: %s\n", CLASSES[best]);
    return 0;
}
