/* One instruction set's sums; TARGET, LANES and NAME() are its own. The order of every sum is the same for all of them. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4)));

/* out = the sum of `taps` rows of values, weighted, one row after the other. */
TARGET static void NAME(weighted)(const float *values, size_t width, const float *weights, int taps, float *out)
{
    size_t c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES) {
        NAME(vec) sum = weights[0] * *(const NAME(vec) *)(values + c);
        NAME(vec) other = weights[0] * *(const NAME(vec) *)(values + c + LANES);
        for (int t = 1; t < taps; t++) {
            const float *row = values + t * width + c;
            sum += weights[t] * *(const NAME(vec) *)row;
            other += weights[t] * *(const NAME(vec) *)(row + LANES);
        }
        *(NAME(vec) *)(out + c) = sum;
        *(NAME(vec) *)(out + c + LANES) = other;
    }
    for (; c < width; c++) {
        float sum = weights[0] * values[c];
        for (int t = 1; t < taps; t++)
            sum += weights[t] * values[t * width + c];
        out[c] = sum;
    }
}

/* The sum of up to BLOCK terms: of eight sums of every eighth term, added in pairs; then what is left, one by one. */
#define EIGHTS (8 / LANES)
static inline float NAME(gathered)(const NAME(vec) sums[EIGHTS], const float *rest, int count)
{
    float s[8];
    memcpy(s, sums, sizeof s);
    float total = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    for (int i = 0; i < count; i++)
        total += rest[i];
    return total;
}

/* Terms of two rows, from d on: the squares of their differences, or their products. */
#define TERMS(type, d) \
    const type x = *(const type *)(a + (d)), y = *(const type *)(b + (d)); \
    const type term = products ? x * y : (x - y) * (x - y);

TARGET static inline float NAME(block)(const float *a, const float *b, int count, int products)
{
    NAME(vec) sums[EIGHTS] = {{0}};
    float rest[8];
    int d = 0;
    for (; d + 8 <= count; d += 8)
        for (int v = 0; v < EIGHTS; v++) {
            TERMS(NAME(vec), d + v * LANES)
            sums[v] += term;
        }
    for (int e = d; e < count; e++) {
        TERMS(float, e)
        rest[e - d] = term;
    }
    return NAME(gathered)(sums, rest, count - d);
}

/* Of two rows: their squared distance, or their product. Longer rows than BLOCK are halved, at a multiple of eight. */
TARGET static float NAME(summed)(const float *a, const float *b, int64_t count, int products)
{
    if (count <= BLOCK)
        return products ? NAME(block)(a, b, (int)count, 1) : NAME(block)(a, b, (int)count, 0);
    const int64_t half = count / 16 * 8;
    return NAME(summed)(a, b, half, products) + NAME(summed)(a + half, b + half, count - half, products);
}

TARGET static void NAME(weigh)(const Weighing *all)
{
    const Band *band = &all->band;
    for (int64_t n = 0; n < all->count; n++)
        for (int64_t r = 0; r < band->outs; r++)
            NAME(weighted)(
                all->values + (n * all->rows + band->first[r]) * all->width, all->width, band->weights + r * band->taps,
                (int)band->taps, all->out + (n * band->outs + r) * all->stride + all->offset);
}

TARGET static void NAME(pair)(const Pairing *all, int products)
{
    for (int64_t p = 0; p < all->count; p++) {
        const float *a = all->a + (all->i ? all->i[p] : p) * all->dim;
        const float *b = all->b + (all->j ? all->j[p] : all->b_rows == 1 ? 0 : p) * all->dim;
        all->out[p] = NAME(summed)(a, b, all->dim, products);
    }
}

/* One row of an image at another width. numbers: room for the row as floats, and one more; out: likewise. Channels are taken
 * by threes, four at once: what lies behind them is written over by the next. */
TARGET static void NAME(across)(const Resizing *all, int64_t y, float *restrict numbers, float *restrict out)
{
    const size_t channels = all->channels, width = all->width * channels;
    const Band *band = &all->columns;
    if (all->whole) {
        const uint8_t *row = (const uint8_t *)all->image + y * width;
        for (size_t c = 0; c < width; c++)
            numbers[c] = (float)row[c];
    } else {
        memcpy(numbers, (const float *)all->image + y * width, width * sizeof(float));
    }
    for (int64_t x = 0; x < band->outs; x++) {
        const float *weights = band->weights + x * band->taps;
        const float *pixels = numbers + band->first[x] * channels;
        if (channels == 1) {
            float sum = weights[0] * pixels[0];
            for (int t = 1; t < band->taps; t++)
                sum += weights[t] * pixels[t];
            out[x] = sum;
            continue;
        }
        for (size_t c = 0; c < channels; c += 3) {
            four sum = weights[0] * *(const four *)(pixels + c);
            for (int t = 1; t < band->taps; t++)
                sum += weights[t] * *(const four *)(pixels + t * channels + c);
            *(four *)(out + x * channels + c) = sum;
        }
    }
}

/* The weighted sum of some rows, one after the other: into the first of them all. */
TARGET static void NAME(down)(
    const Resizing *all, const float *const *rows, const float *weights, size_t width, float *restrict sums)
{
    for (size_t c = 0; c < width; c++)
        sums[c] = weights[0] * rows[0][c];
    for (int t = 1; t < all->rows.taps; t++) {
        const float *row = rows[t];
        for (size_t c = 0; c < width; c++)
            sums[c] += weights[t] * row[c];
    }
    for (size_t c = 0; c < width; c++)
        sums[c] = (sums[c] + all->bias) * all->scale;
}

/* room: for a row of the image, for `taps` rows of the result and one of their sums, each and one number more; kept: for
 * `taps` numbers of rows. */
TARGET static void NAME(resize)(const Resizing *all, float *room, int64_t *kept, const float **rows)
{
    const size_t width = all->columns.outs * all->channels, taps = all->rows.taps;
    float *numbers = room, *held = room + all->width * all->channels + 1, *sums = held + taps * (width + 1);
    numbers[all->width * all->channels] = 0;
    for (size_t t = 0; t < taps; t++)
        kept[t] = -1;
    for (int64_t y = 0; y < all->rows.outs; y++) {
        for (size_t t = 0; t < taps; t++) {
            const int64_t row = all->rows.first[y] + t;
            const size_t slot = row % taps;
            if (kept[slot] != row)
                NAME(across)(all, row, numbers, held + slot * (width + 1));
            kept[slot] = row;
            rows[t] = held + slot * (width + 1);
        }
        NAME(down)(all, rows, all->rows.weights + y * taps, width, sums);
        if (!all->whole) {
            memcpy((float *)all->out + y * width, sums, width * sizeof(float));
            continue;
        }
        uint8_t *out = (uint8_t *)all->out + y * width;
        for (size_t c = 0; c < width; c++)
            out[c] = (uint8_t)(int32_t)((sums[c] + ROUNDER) - ROUNDER); /* halves to the even number */
    }
}

#undef EIGHTS
#undef TERMS
#undef TARGET
#undef LANES
#undef NAME
