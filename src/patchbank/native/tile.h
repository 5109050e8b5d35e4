/* What nearest.h and measure.h are made of, for one instruction set: TARGET, LANES, ROWS and NAME() are its own. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int NAME(mask) __attribute__((vector_size(4 * LANES), aligned(4)));

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

TARGET static float NAME(squared)(const float *a, const float *b, int dim)
{
    NAME(vec) sums = {0};
    int d = 0;
    for (; d + LANES <= dim; d += LANES) {
        const NAME(vec) difference = *(const NAME(vec) *)(a + d) - *(const NAME(vec) *)(b + d);
        sums += difference * difference;
    }
    float total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane];
    for (; d < dim; d++)
        total += (a[d] - b[d]) * (a[d] - b[d]);
    return total;
}

TARGET static float NAME(square)(const float *a, int dim)
{
    NAME(vec) sums = {0};
    int d = 0;
    for (; d + LANES <= dim; d += LANES)
        sums += *(const NAME(vec) *)(a + d) * *(const NAME(vec) *)(a + d);
    float total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane];
    for (; d < dim; d++)
        total += a[d] * a[d];
    return total;
}

/* Whether any of these values is within the bar. */
TARGET static inline int NAME(any_within)(const float *values, int count, float bar)
{
    NAME(mask) close = {0};
    for (int c = 0; c < count; c += LANES)
        close |= *(const NAME(vec) *)(values + c) <= (NAME(vec)){0} + bar;
    long long any = 0, parts[LANES / 2];
    memcpy(parts, &close, sizeof parts);
    for (int part = 0; part < LANES / 2; part++)
        any |= parts[part];
    return any != 0;
}

