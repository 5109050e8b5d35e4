/* What nearest.h and measure.h are made of, for one instruction set: TARGET, LANES, ROWS and NAME() are its own. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4)));

/* out[r][c] = rows[r] . column c of the panel, (dims, PANEL): the product that nearly all time goes into. */
TARGET static inline void NAME(tile)(const float *const rows[ROWS], const float *panel, int dims, float out[][PANEL])
{
    for (int first = 0; first < PANEL; first += LANES * VECS) {
        NAME(vec) sums[ROWS][VECS];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                sums[r][v] = (NAME(vec)){0};
        const float *column = panel + first;
        for (int d = 0; d < dims; d++, column += PANEL) {
            NAME(vec) values[VECS];
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                values[v] = *(const NAME(vec) *)(column + v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < VECS; v++)
                    sums[r][v] += rows[r][d] * values[v];
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                *(NAME(vec) *)(out[r] + first + v * LANES) = sums[r][v];
    }
}

/* The sum of all lanes. */
TARGET static inline float NAME(total)(NAME(vec) sums)
{
    four parts[LANES / 4];
    memcpy(parts, &sums, sizeof parts);
    for (int part = 1; part < LANES / 4; part++)
        parts[0] += parts[part];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

TARGET static inline float NAME(squared)(const float *a, const float *b, int dim)
{
    NAME(vec) sums = {0}, others = {0};
    int d = 0;
    for (; d + 2 * LANES <= dim; d += 2 * LANES) {
        const NAME(vec) difference = *(const NAME(vec) *)(a + d) - *(const NAME(vec) *)(b + d);
        const NAME(vec) other = *(const NAME(vec) *)(a + d + LANES) - *(const NAME(vec) *)(b + d + LANES);
        sums += difference * difference;
        others += other * other;
    }
    if (d + LANES <= dim) {
        const NAME(vec) difference = *(const NAME(vec) *)(a + d) - *(const NAME(vec) *)(b + d);
        sums += difference * difference;
        d += LANES;
    }
    float total = NAME(total)(sums + others);
    for (; d < dim; d++)
        total += (a[d] - b[d]) * (a[d] - b[d]);
    return total;
}

TARGET static inline float NAME(dot)(const float *a, const float *b, int dim)
{
    NAME(vec) sums = {0}, others = {0};
    int d = 0;
    for (; d + 2 * LANES <= dim; d += 2 * LANES) {
        sums += *(const NAME(vec) *)(a + d) * *(const NAME(vec) *)(b + d);
        others += *(const NAME(vec) *)(a + d + LANES) * *(const NAME(vec) *)(b + d + LANES);
    }
    float total = NAME(total)(sums + others);
    for (; d < dim; d++)
        total += a[d] * b[d];
    return total;
}

TARGET static float NAME(square)(const float *a, int dim)
{
    NAME(vec) sums = {0};
    int d = 0;
    for (; d + LANES <= dim; d += LANES)
        sums += *(const NAME(vec) *)(a + d) * *(const NAME(vec) *)(a + d);
    float total = NAME(total)(sums);
    for (; d < dim; d++)
        total += a[d] * a[d];
    return total;
}

/* Which of a panel's values are at least the limit: a bit for each. */
TARGET static inline uint32_t NAME(reaching)(const int32_t *values, int32_t limit)
{
    uint32_t bits = 0;
    for (int c = 0; c < PANEL; c += LANES)
        bits |= REACHING(*(const NAME(ints) *)(values + c), (NAME(ints)){0} + limit) << c;
    return bits;
}

/* values / step as whole numbers of at most `most`, and their squares' sum. Returns how far the values are from them. */
TARGET static float NAME(whole)(
    const float *values, int dims, float step, float most, float *numbers, float *squares)
{
    const float per_step = 1 / step;
    NAME(vec) sums = {0};
    int d = 0;
    for (int i = 0; i < dims; i++) {
        const float scaled = values[i] * per_step;
        const float clipped = !(scaled > -most) ? -most : scaled > most ? most : scaled; /* NaN: -most */
        numbers[i] = (clipped + 12582912.0f) - 12582912.0f; /* 1.5 x 2^23: rounds to a whole number */
    }
    for (; d + LANES <= dims; d += LANES) {
        const NAME(vec) difference = *(const NAME(vec) *)(values + d) - *(const NAME(vec) *)(numbers + d) * step;
        sums += difference * difference;
    }
    float total = NAME(total)(sums);
    for (; d < dims; d++)
        total += (values[d] - numbers[d] * step) * (values[d] - numbers[d] * step);
    *squares = NAME(square)(numbers, dims);
    return 1.001f * sqrtf(total);
}

/* A panel's codes, (groups, PANEL) words of four, beside those of some rows, which are of type code:
 * out[r][c] = starts[c] + codes of rows[r] . codes of column c. */
#ifdef DOT /* sums + the products of four unsigned and four signed bytes in each lane */
typedef uint8_t NAME(code);
typedef int8_t NAME(panel_code);

static inline const int8_t *NAME(unpacked)(const int8_t *panel, int groups, int8_t *room)
{
    (void)groups, (void)room;
    return panel;
}

TARGET static inline void NAME(coded_tile)(
    const uint8_t *const rows[ROWS], const int8_t *panel, const int32_t *starts, int groups, int32_t out[][PANEL])
{
    for (int first = 0; first < PANEL; first += LANES * VECS) {
        NAME(ints) sums[ROWS][VECS];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                sums[r][v] = *(const NAME(ints) *)(starts + first + v * LANES);
        const int8_t *column = panel + 4 * first;
        for (int g = 0; g < groups; g++, column += 4 * PANEL) {
            NAME(ints) words[VECS];
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                words[v] = *(const NAME(ints) *)(column + 4 * v * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                int32_t word;
                memcpy(&word, rows[r] + 4 * g, sizeof word);
#pragma GCC unroll 4
                for (int v = 0; v < VECS; v++)
                    sums[r][v] = (NAME(ints))DOT(sums[r][v], (NAME(ints)){0} + word, words[v]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECS; v++)
                *(NAME(ints) *)(out[r] + first + v * LANES) = sums[r][v];
    }
}
#else /* in floats, which hold these whole numbers exactly */
typedef float NAME(code);
typedef float NAME(panel_code);

static const float *NAME(unpacked)(const int8_t *panel, int groups, float *room)
{
    for (int g = 0; g < groups; g++)
        for (int c = 0; c < PANEL; c++)
            for (int k = 0; k < 4; k++)
                room[(4 * g + k) * PANEL + c] = panel[(g * PANEL + c) * 4 + k];
    return room;
}

TARGET static inline void NAME(coded_tile)(
    const float *const rows[ROWS], const float *panel, const int32_t *starts, int groups, int32_t out[][PANEL])
{
    for (int r = 0; r < ROWS; r++)
        memcpy(out[r], starts, PANEL * sizeof *starts);
    for (int first = 0; first < groups; first += EXACT_GROUPS) {
        const float *some[ROWS];
        float found[ROWS][PANEL];
        const int used = groups - first < EXACT_GROUPS ? groups - first : EXACT_GROUPS;
        for (int r = 0; r < ROWS; r++)
            some[r] = rows[r] + 4 * first;
        NAME(tile)(some, panel + (size_t)4 * first * PANEL, 4 * used, found);
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < PANEL; c++)
                out[r][c] += (int32_t)found[r][c];
    }
}
#endif

/* The codes of a query, or of a point: values / (2 step) + MIDDLE, filled up to whole words. room: `dims` numbers. Returns
 * how far the values are from them; squares: of the codes without MIDDLE. */
TARGET static float NAME(encode)(
    const float *values, int dims, int groups, float step, float *room, NAME(code) *codes, float *squares)
{
    const float wrong = NAME(whole)(values, dims, 2 * step, MIDDLE - 1, room, squares);
    for (int d = 0; d < dims; d++)
        codes[d] = (NAME(code))(MIDDLE + (int)room[d]);
    for (int d = dims; d < 4 * groups; d++)
        codes[d] = MIDDLE;
    return wrong;
}
