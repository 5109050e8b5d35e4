/* Sums in a fixed order: the same bits on every processor, with any instructions, and in NumPy (sums.py).
 *
 * Products and sums are rounded one by one, as IEEE 754 says: compiling.py compiles this file so that none are fused.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codes.h"

#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0)
#error "floats are not rounded one by one here; without this library patchbank uses NumPy"
#endif

#define BLOCK 128 /* as in sums.py */
#define MOST_TAPS 65536

/* A band, (outs, taps): see sums.py. */
typedef struct {
    const int32_t *first;
    const float *weights;
    int64_t taps, outs;
} Band;

/* out[n][r] = the sum over t of weights[r][t] * values[n][first[r] + t]. values: (count, rows, width); out: `width` numbers
 * from `offset` on, of (count, outs, stride). */
typedef struct {
    const float *values;
    float *out;
    Band band;
    int64_t count, rows, width, stride, offset;
} Weighing;

/* out[p] = of rows i[p] of a and j[p] of b: their squared distance, or their product. No i: p itself. No j: likewise, or the
 * only row of b. */
typedef struct {
    const float *a, *b;
    const int64_t *i, *j;
    float *out;
    int64_t count, dim, a_rows, b_rows;
} Pairing;

/* out = (rows . (image . columns') + bias) scale, of an image (height, width, channels) of bytes (`whole`) or floats, for
 * each channel, of which there are 1, or a multiple of 3; bytes are rounded. */
typedef struct {
    const void *image;
    int whole;
    int64_t height, width, channels;
    Band rows, columns;
    float bias, scale;
    void *out;
} Resizing;

#define ROUNDER 12582912.0f /* 1.5 x 2^23: what is added to it has no fraction left */
typedef float four __attribute__((vector_size(16), aligned(4)));

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2")))
#define LANES 8
#define NAME(name) name##_avx2
#include "sums.h"
#endif
#define TARGET
#define LANES 4
#define NAME(name) name##_any
#include "sums.h"

/* level: as in native.c; newer instructions than AVX2 gain nothing here. */
static int wide(int level)
{
#if defined(__x86_64__)
    return level < 3 && __builtin_cpu_supports("avx2");
#else
    return (void)level, 0;
#endif
}

#if defined(__x86_64__)
#define BEST(name, level) (wide(level) ? name##_avx2 : name##_any)
#else
#define BEST(name, level) ((void)wide(level), name##_any)
#endif

/* Whether a band is one, for so many rows or columns. */
static int holds(const Band *band, int64_t length)
{
    if (band->taps < 1 || band->taps > MOST_TAPS || band->outs < 0)
        return 0;
    for (int64_t r = 0; r < band->outs; r++)
        if (band->first[r] < 0 || band->first[r] > length - band->taps)
            return 0;
    return 1;
}

/* Whether count rows are of a matrix of so many. */
static int rows_of(const int64_t *numbers, int64_t count, int64_t rows)
{
    for (int64_t p = 0; p < count; p++)
        if (numbers[p] < 0 || numbers[p] >= rows)
            return 0;
    return 1;
}

/* Returns DONE, or IMPOSSIBLE for what leads out of the arrays; then nothing was done. */
int patchbank_weigh(
    const float *values, const int32_t *first, const float *weights, int64_t taps, int64_t outs, float *out, int64_t count,
    int64_t rows, int64_t width, int64_t stride, int64_t offset, int level)
{
    const Weighing all = {values, out, {first, weights, taps, outs}, count, rows, width, stride, offset};
    if (count < 0 || rows < 1 || width < 1 || offset < 0 || offset > stride - width || !holds(&all.band, rows))
        return IMPOSSIBLE;
    BEST(weigh, level)(&all);
    return DONE;
}

int patchbank_pairs(
    const float *a, const float *b, const int64_t *i, const int64_t *j, float *out, int64_t count, int64_t dim,
    int64_t a_rows, int64_t b_rows, int products, int level)
{
    const Pairing all = {a, b, i, j, out, count, dim, a_rows, b_rows};
    if (count < 0 || dim < 1 || (!i && count > a_rows) || (!j && count > b_rows && b_rows != 1))
        return IMPOSSIBLE;
    if ((i && !rows_of(i, count, a_rows)) || (j && !rows_of(j, count, b_rows)))
        return IMPOSSIBLE;
    BEST(pair, level)(&all, products);
    return DONE;
}

/* Returns NO_MEMORY, too. */
int patchbank_resize(
    const void *image, int whole, int64_t height, int64_t width, int64_t channels, const int32_t *row_first,
    const float *row_weights, int64_t row_taps, int64_t rows, const int32_t *column_first, const float *column_weights,
    int64_t column_taps, int64_t columns, float bias, float scale, void *out, int level)
{
    const Resizing all = {
        image, whole, height, width, channels, {row_first, row_weights, row_taps, rows},
        {column_first, column_weights, column_taps, columns}, bias, scale, out};
    if (height < 1 || width < 1 || channels < 1 || (channels > 1 && channels % 3) || !holds(&all.rows, height) ||
        !holds(&all.columns, width))
        return IMPOSSIBLE;
    const size_t line = columns * channels + 1;
    float *room = malloc((width * channels + 1 + line * (row_taps + 1)) * sizeof *room);
    int64_t *kept = malloc(row_taps * sizeof *kept);
    const float **some = malloc(row_taps * sizeof *some);
    const int failed = room && kept && some ? DONE : NO_MEMORY;
    if (!failed)
        BEST(resize, level)(&all, room, kept, some);
    free(room);
    free(kept);
    free(some);
    return failed;
}
