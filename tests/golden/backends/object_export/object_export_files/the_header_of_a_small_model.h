/* Adds: a neural network as an object file, by qcompiler VERSION
 *
 * input   x: f32[2,3]
 * input   y: f32[2,3]
 * output  sum: f32[2,3]
 * target  x86-64-linux+avx2: the CPU must have avx2, fma, f16c, bmi, bmi2, lzcnt, movbe
 */

#ifndef ADDS_MODEL_H
#define ADDS_MODEL_H

#include <stddef.h>
#include <stdint.h>

#define ADDS_ABI_VERSION 1 /* of these functions; compare with what the object says */

/* Scratch memory of one call; its contents mean nothing before and after. Where the size is 0 it may be NULL. */
#define ADDS_ARENA_SIZE 0             /* bytes */
#define ADDS_ARENA_ALIGN 64           /* bytes */
#define ADDS_SELF_TEST_ARENA_SIZE 192 /* bytes, of the self-test */

/* Status codes. */
#define ADDS_OK 0                   /* done */
#define ADDS_ERROR_NULL (-1)        /* a pointer is NULL */
#define ADDS_ERROR_ARENA_SIZE (-2)  /* the arena is smaller than asked for */
#define ADDS_ERROR_ARENA_ALIGN (-3) /* the arena is not aligned as asked for */
#define ADDS_ERROR_DATA_ALIGN (-4)  /* an input or output is not aligned to its element type */
#define ADDS_ERROR_SELF_TEST (-5)   /* the self-test ran, and gave other bits than the compiler's */

#define ADDS_NUM_INPUTS 2
#define ADDS_NUM_OUTPUTS 1

/* x: f32[2,3], row major. */
#define ADDS_INPUT_X_ELEMENTS 6 /* of float */
#define ADDS_INPUT_X_BYTES 24
#define ADDS_INPUT_X_RANK 2
#define ADDS_INPUT_X_DIM0 2
#define ADDS_INPUT_X_DIM1 3

/* y: f32[2,3], row major. */
#define ADDS_INPUT_Y_ELEMENTS 6 /* of float */
#define ADDS_INPUT_Y_BYTES 24
#define ADDS_INPUT_Y_RANK 2
#define ADDS_INPUT_Y_DIM0 2
#define ADDS_INPUT_Y_DIM1 3

/* sum: f32[2,3], row major. */
#define ADDS_OUTPUT_SUM_ELEMENTS 6 /* of float */
#define ADDS_OUTPUT_SUM_BYTES 24
#define ADDS_OUTPUT_SUM_RANK 2
#define ADDS_OUTPUT_SUM_DIM0 2
#define ADDS_OUTPUT_SUM_DIM1 3

#ifdef __cplusplus
extern "C" {
#endif

/* Run the model once, on the calling thread. It allocates nothing and keeps nothing: threads may call it at the same
 * time, each with its own arena and outputs. Outputs and arena must not overlap each other or an input.
 * Returns ADDS_OK, or an error, in which case nothing was written. */
int adds_run(const float *input_x, const float *input_y, float *output_sum, void *arena, size_t arena_size);

/* Run the model on a generated input and compare with the bits that the compiler recorded. Once after linking or at
 * start-up; needs an arena of ADDS_SELF_TEST_ARENA_SIZE bytes. Returns ADDS_OK or an error. */
int adds_self_test(void *arena, size_t arena_size);

/* ADDS_ABI_VERSION of the object that is linked in. */
int adds_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif /* ADDS_MODEL_H */
