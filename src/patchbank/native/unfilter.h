/* The filters of a PNG's rows, undone, for one instruction set: TARGET, LANES (bytes that are worked on at once) and NAME()
 * are its own. PNG specification (third edition), 9.2.
 *
 * A byte is predicted from the pixel to its left, the one above it, and the one above that to its left: a row cannot be
 * worked on faster than one pixel after the other. So several rows are, each one pixel behind the row above it: pixel
 * `at` of the first is undone together with pixel `at` - 1 of the second. A pixel takes GROUP lanes, its STEP bytes
 * first; what the other lanes compute is written over by the next pixel. */

typedef uint8_t NAME(octets) __attribute__((vector_size(LANES)));
typedef uint16_t NAME(pairs) __attribute__((vector_size(LANES)));
typedef uint32_t NAME(quads) __attribute__((vector_size(LANES)));
typedef uint64_t NAME(words) __attribute__((vector_size(LANES)));
typedef int16_t NAME(lanes) __attribute__((vector_size(2 * LANES)));

/* Which lanes' rows are predicted from what, all bits or none. */
typedef struct {
    NAME(lanes) left, above, corner, average;
} NAME(Uses);

/* Where the rows of a wave are read from and written to, and how many pixels they have. above: the row before the first,
 * NULL for none. */
typedef struct {
    const uint8_t *from[LANES];
    uint8_t *to[LANES];
    const uint8_t *above;
    int64_t pixels;
} NAME(Wave);

#define INLINE TARGET static inline __attribute__((always_inline))

INLINE NAME(lanes) NAME(either)(NAME(lanes) which, NAME(lanes) a, NAME(lanes) b)
{
    return (a & which) | (b & ~which);
}

INLINE NAME(lanes) NAME(magnitude)(NAME(lanes) values)
{
    const NAME(lanes) sign = values >> 15;
    return (values ^ sign) - sign;
}

/* Pixel `at` of the first row, at - 1 of the second, ... */
INLINE NAME(octets) NAME(gathered)(const NAME(Wave) *wave, int64_t at, const int step, const int group)
{
    NAME(octets) bytes = {0};
    NAME(pairs) pairs = {0};
    NAME(quads) quads = {0};
    NAME(words) words = {0};
#pragma GCC unroll 16
    for (int row = 0; row < LANES / group; row++) {
        const uint8_t *from = wave->from[row] + (at - row) * step;
        uint16_t pair;
        uint32_t quad;
        uint64_t word;
        if (group == 1)
            bytes[row] = *from;
        else if (group == 2)
            pairs[row] = (memcpy(&pair, from, 2), pair);
        else if (group == 4)
            quads[row] = (memcpy(&quad, from, 4), quad);
        else
            words[row] = (memcpy(&word, from, 8), word);
    }
    return group == 1 ? bytes : group == 2 ? (NAME(octets))pairs : group == 4 ? (NAME(octets))quads : (NAME(octets))words;
}

INLINE void NAME(scatter)(const NAME(Wave) *wave, int64_t at, const int step, const int group, NAME(octets) values)
{
    const NAME(pairs) pairs = (NAME(pairs))values;
    const NAME(quads) quads = (NAME(quads))values;
    const NAME(words) words = (NAME(words))values;
#pragma GCC unroll 16
    for (int row = 0; row < LANES / group; row++) {
        uint8_t *to = wave->to[row] + (at - row) * step;
        const uint16_t pair = pairs[row * group / 2];
        const uint32_t quad = quads[row * group / 4];
        const uint64_t word = words[row * group / 8];
        if (group == 1)
            *to = values[row];
        else if (group == 2)
            memcpy(to, &pair, 2);
        else if (group == 4)
            memcpy(to, &quad, 4);
        else
            memcpy(to, &word, 8);
    }
}

/* What is above the pixels that come next: for the first row a pixel of the row before it, for the others what the row
 * above them has just got. */
INLINE NAME(lanes) NAME(moved_down)(NAME(lanes) first, NAME(lanes) values, const int group)
{
    return group == 1 ? SHUFFLE_1(first, values)
        : group == 2  ? SHUFFLE_2(first, values)
        : group == 4  ? SHUFFLE_4(first, values)
                      : SHUFFLE_8(first, values);
}

/* One pixel of each row. left, above: what was to be used for the pixels before; updated. */
INLINE void NAME(undo)(
    NAME(lanes) *left,
    NAME(lanes) *above,
    NAME(octets) first,
    NAME(octets) coded,
    const NAME(Uses) *use,
    const int group,
    const int averages)
{
    const NAME(lanes) c = *above & use->corner;
    *above = NAME(moved_down)(__builtin_convertvector(first, NAME(lanes)), *left, group);
    const NAME(lanes) a = *left & use->left, b = *above & use->above;
    const NAME(lanes) to_a = NAME(magnitude)(b - c), to_b = NAME(magnitude)(a - c);
    const NAME(lanes) to_c = NAME(magnitude)(a + b - c - c);
    NAME(lanes) best = NAME(either)(to_b <= to_c, b, c);
    best = NAME(either)((to_a <= to_b) & (to_a <= to_c), a, best); /* a alone: a, as b and c are 0; b alone likewise */
    if (averages)
        best = NAME(either)(use->average, (a + b) >> 1, best);
    *left = (__builtin_convertvector(coded, NAME(lanes)) + best) & 255;
}

/* LANES / group rows. averages: whether a row of them is predicted from an average. */
INLINE void NAME(undo_wave)(
    const NAME(Wave) *wave, const NAME(Uses) *use, const int step, const int group, const int averages)
{
    const int rows = LANES / group;
    const int64_t pixels = wave->pixels;
    NAME(lanes) left = {0}, above = {0};
    for (int64_t at = 0; at < pixels + rows - 1; at++) {
        NAME(octets) first = {0}, coded = {0};
        if (at >= rows - 1 && at < pixels - 2) { /* all rows have such a pixel, and further bytes */
            NAME(words) words = {0};
            uint64_t word = 0;
            if (wave->above)
                memcpy(&word, wave->above + at * step, (size_t)group);
            words[0] = word;
            first = (NAME(octets))words;
            coded = NAME(gathered)(wave, at, step, group);
            NAME(undo)(&left, &above, first, coded, use, group, averages);
            NAME(scatter)(wave, at, step, group, __builtin_convertvector(left, NAME(octets)));
            continue;
        }
        for (int byte = 0; byte < step; byte++) {
            if (wave->above && at < pixels)
                first[byte] = wave->above[at * step + byte];
            for (int row = 0; row < rows; row++)
                if (at >= row && at - row < pixels)
                    coded[row * group + byte] = wave->from[row][(at - row) * step + byte];
        }
        NAME(undo)(&left, &above, first, coded, use, group, averages);
        for (int row = 0; row < rows; row++)
            for (int byte = 0; byte < group; byte++) {
                if (at < row)
                    left[row * group + byte] = 0; /* there is nothing to the left of its first pixel */
                else if (byte < step && at - row < pixels)
                    wave->to[row][(at - row) * step + byte] = (uint8_t)left[row * group + byte];
            }
    }
}

/* (height, pixels * step) of the rows `raw`, (height, 1 + pixels * step), whose first byte is their filter. Returns DONE,
 * or OUT_OF_RANGE for a filter that there is not. */
INLINE int NAME(undo_rows)(
    uint8_t *out, const uint8_t *raw, int64_t height, int64_t pixels, const int step, const int group)
{
    const int rows = LANES / group;
    const int64_t width = pixels * step;
    for (int64_t y = 0; y < height;) {
        const uint8_t *from = raw + y * (width + 1) + 1, *above = y ? out + (y - 1) * width : NULL;
        uint8_t *to = out + y * width;
        if (from[-1] > PAETH)
            return OUT_OF_RANGE;
        if (from[-1] == PLAIN || from[-1] == ABOVE_IT || height - y < rows) {
            undo_row(to, from, above, width, step);
            y++;
            continue;
        }
        NAME(Wave) wave = {.above = above, .pixels = pixels};
        NAME(Uses) use = {{0}, {0}, {0}, {0}};
        int averages = 0;
        for (int row = 0; row < rows; row++) {
            wave.from[row] = from + row * (width + 1);
            wave.to[row] = to + row * width;
            const int filter = wave.from[row][-1];
            if (filter > PAETH)
                return OUT_OF_RANGE;
            averages |= filter == AVERAGE;
            for (int lane = row * group; lane < (row + 1) * group; lane++) {
                use.left[lane] = -(filter == LEFT || filter == AVERAGE || filter == PAETH);
                use.above[lane] = -(filter == ABOVE_IT || filter == AVERAGE || filter == PAETH);
                use.corner[lane] = -(filter == PAETH);
                use.average[lane] = -(filter == AVERAGE);
            }
        }
        if (averages)
            NAME(undo_wave)(&wave, &use, step, group, 1);
        else
            NAME(undo_wave)(&wave, &use, step, group, 0);
        y += rows;
    }
    return DONE;
}

TARGET static int NAME(unfilter)(uint8_t *out, const uint8_t *raw, int64_t height, int64_t pixels, int step)
{
    return step == 1 ? NAME(undo_rows)(out, raw, height, pixels, 1, 1)
        : step == 2  ? NAME(undo_rows)(out, raw, height, pixels, 2, 2)
        : step == 3  ? NAME(undo_rows)(out, raw, height, pixels, 3, 4)
        : step == 4  ? NAME(undo_rows)(out, raw, height, pixels, 4, 4)
        : step == 6  ? NAME(undo_rows)(out, raw, height, pixels, 6, 8)
                     : NAME(undo_rows)(out, raw, height, pixels, 8, 8);
}

#undef INLINE
#undef TARGET
#undef LANES
#undef NAME
#undef SHUFFLE_1
#undef SHUFFLE_2
#undef SHUFFLE_4
#undef SHUFFLE_8
