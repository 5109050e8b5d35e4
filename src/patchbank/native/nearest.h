/* One instruction set's search for the nearest; tile.h comes before it.
 *
 * The scheme and its inequalities are those of exact.py, which also builds the bank's side of it. Names are the same.
 */

/* Products of all rows, (count, dims) `stride` apart, with all panels: out (count, panels * PANEL). */
TARGET static void NAME(products)(
    const float *rows, int stride, int count, const float *panels, int number, int dims, float *out)
{
    for (int start = 0; start < count; start += ROWS) {
        const float *some[ROWS];
        float found[ROWS][PANEL];
        const int used = count - start < ROWS ? count - start : ROWS;
        for (int r = 0; r < ROWS; r++)
            some[r] = rows + (size_t)(start + (r < used ? r : 0)) * stride;
        for (int p = 0; p < number; p++) {
            NAME(tile)(some, panels + (size_t)p * dims * PANEL, dims, found);
            for (int r = 0; r < used; r++)
                memcpy(out + ((size_t)(start + r) * number + p) * PANEL, found[r], sizeof found[r]);
        }
    }
}

/* Measures the vectors of a panel that may be within the query's reach. */
TARGET static void NAME(measure)(const Bank *bank, Query *query, size_t slot, float *values)
{
    if (query->count == 0) { /* the most promising first: it lowers the bar for all others */
        int best = 0;
        for (int c = 1; c < PANEL; c++)
            if (values[c] < values[best])
                best = c;
        note(bank, query, slot + best, NAME(squared)(query->vector, VECTOR(bank, slot + best), bank->dim));
        values[best] = INFINITY;
    }
    for (int first = 0; first < PANEL; first += LANES)
        if (NAME(any_within)(values + first, LANES, query->bar))
            for (int c = first; c < first + LANES; c++)
                if (values[c] <= query->bar)
                    note(bank, query, slot + c, NAME(squared)(query->vector, VECTOR(bank, slot + c), bank->dim));
}

/* Shows the vectors of a cell to queries. */
TARGET static void NAME(visit)(const Bank *bank, const float *tops, Query *const *queries, int count, int cell)
{
    for (int start = 0; start < count; start += ROWS) {
        const float *rows[ROWS];
        float found[ROWS][PANEL];
        const int used = count - start < ROWS ? count - start : ROWS;
        for (int r = 0; r < ROWS; r++)
            rows[r] = queries[start + (r < used ? r : 0)]->shadow;
        for (int p = bank->first[cell]; p < bank->first[cell + 1]; p++) {
            NAME(tile)(rows, bank->columns + (size_t)p * bank->dims * PANEL, bank->dims, found);
            const float *top = tops + (size_t)p * PANEL;
            for (int r = 0; r < used; r++) {
                Query *query = queries[start + r];
                for (int c = 0; c < PANEL; c++)
                    found[r][c] = top[c] - 2 * found[r][c];
                if (NAME(any_within)(found[r], PANEL, query->bar))
                    NAME(measure)(bank, query, (size_t)p * PANEL, found[r]);
            }
        }
    }
}

/* Which cells a query needs: 1 or 0 for each. */
TARGET static void NAME(needs)(const Bank *bank, const Query *query, const float *sides, uint8_t *needed)
{
    const float *between = bank->between + (size_t)query->cell * bank->cells;
    const float *least = bank->least + (size_t)query->cell * bank->cells;
    const float slack = 2 * bank->rounding * (sqrtf(query->own) + bank->farthest) * bank->farthest;
    const float limit = sides[query->cell] - slack, reach = query->reach;
    for (int c = 0; c < bank->cells; c++)
        needed[c] = sides[c] + reach * between[c] - least[c] >= limit;
    if (query->count == 0) /* all of its own cell is hidden */
        memset(needed, 1, bank->cells);
    needed[query->cell] = 0; /* seen */
}

/* Shadows, their errors, sides and own cells of a block of queries. */
TARGET static void NAME(prepare)(
    const Bank *bank, const float *vectors, int count, Query *queries, float *shadows, float *sides, float *centred)
{
    const int width = PANELS(bank->axes), cells = PANELS(bank->cells);
    for (int q = 0; q < count; q++) {
        float *row = centred + (size_t)q * bank->dim;
        for (int d = 0; d < bank->dim; d++)
            row[d] = vectors[(size_t)q * bank->dim + d] - bank->middle[d];
    }
    if (bank->axes)
        NAME(products)(centred, bank->dim, count, bank->directions, width / PANEL, bank->dim, sides);
    for (int q = 0; q < count; q++) {
        const float *row = centred + (size_t)q * bank->dim;
        float *shadow = shadows + (size_t)q * bank->dims;
        const float squares = NAME(square)(row, bank->dim);
        if (bank->axes) {
            memcpy(shadow, sides + (size_t)q * width, bank->axes * sizeof *shadow);
            const float along = NAME(square)(shadow, bank->axes);
            const float rest = sqrtf(fmaxf(squares - along, 0));
            const float error = bank->shadow_rounding * squares;
            shadow[bank->axes] = rest;
            queries[q].error = error / fmaxf(fmaxf(rest, sqrtf(error)), TINY) + bank->shadow_rounding * sqrtf(squares);
            queries[q].own = along + rest * rest;
        } else {
            memcpy(shadow, row, bank->dims * sizeof *shadow);
            queries[q].error = bank->shadow_rounding * sqrtf(squares);
            queries[q].own = squares;
        }
        queries[q].vector = vectors + (size_t)q * bank->dim;
        queries[q].shadow = shadow;
        queries[q].count = 0;
        queries[q].best = INFINITY;
        queries[q].bar = FLT_MAX; /* less than what hidden vectors and the padding of panels have */
        queries[q].reach = FLT_MAX;
    }
    NAME(products)(shadows, bank->dims, count, bank->pivots, cells / PANEL, bank->dims, sides);
    for (int q = 0; q < count; q++) {
        float *side = sides + (size_t)q * cells;
        queries[q].cell = 0;
        for (int c = 0; c < bank->cells; c++) {
            side[c] -= bank->halves[c];
            if (side[c] > side[queries[q].cell])
                queries[q].cell = c;
        }
    }
}

/* Shows each cell to the queries that need it. needed: (count, cells) 1 or 0. some: room for `count` of them. */
TARGET static void NAME(visit_needed)(
    const Bank *bank, const float *tops, Query *queries, int count, const uint8_t *needed, Query **some)
{
    for (int cell = 0; cell < bank->cells; cell++) {
        int number = 0;
        for (int q = 0; q < count; q++)
            if (needed[(size_t)q * bank->cells + cell])
                some[number++] = queries + q;
        NAME(visit)(bank, tops, some, number, cell);
    }
}

/* A few queries, which fit the cache together: their own cells first, for a reach; then what they need within that. */
TARGET static int NAME(search)(const Bank *bank, const float *tops, const float *vectors, int count, int32_t *found)
{
    const int cells = PANELS(bank->cells), widest = cells > PANELS(bank->axes) ? cells : PANELS(bank->axes);
    Query *queries = malloc(count * sizeof *queries);
    Query **some = malloc(count * sizeof *some);
    float *shadows = malloc(sizeof *shadows * count * ((size_t)bank->dims + widest + bank->dim));
    uint8_t *needed = calloc(count, bank->cells);
    const int failed = !queries || !some || !shadows || !needed;
    if (!failed) {
        float *sides = shadows + (size_t)count * bank->dims, *centred = sides + (size_t)count * widest;
        NAME(prepare)(bank, vectors, count, queries, shadows, sides, centred);
        for (int q = 0; q < count; q++)
            needed[(size_t)q * bank->cells + queries[q].cell] = 1;
        NAME(visit_needed)(bank, tops, queries, count, needed, some);
        for (int q = 0; q < count; q++)
            NAME(needs)(bank, queries + q, sides + (size_t)q * cells, needed + (size_t)q * bank->cells);
        NAME(visit_needed)(bank, tops, queries, count, needed, some);
        for (int q = 0; q < count; q++) {
            const int kept = queries[q].count <= KEPT ? queries[q].count : 0; /* none where there are too many */
            for (int c = 0; c < KEPT; c++)
                found[(size_t)q * KEPT + c] = c < kept ? queries[q].numbers[c] : -1;
        }
    }
    free(queries);
    free(some);
    free(shadows);
    free(needed);
    return failed;
}
