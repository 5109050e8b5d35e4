/* One instruction set's search for the nearest; tile.h comes before it.
 *
 * The scheme is that of exact.py, but for the comparison of shadows: codes of shadows are compared, which are whole
 * numbers of one byte. The distance of two codes is wrong by no more than what coding changed of the two.
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

/* The codes of a panel of the bank beside those of some queries; `used` rows of `found` are theirs. */
TARGET static inline void NAME(compare)(
    const NAME(panel_code) *panel, const int32_t *starts, int groups, Query *const *queries, int used,
    int32_t found[][PANEL])
{
    const NAME(code) *rows[ROWS];
    for (int r = 0; r < ROWS; r++)
        rows[r] = queries[r < used ? r : 0]->codes;
    NAME(coded_tile)(rows, panel, starts, groups, found);
}

/* Notes the most promising vector of a panel for each query: the nearest by code. */
TARGET static void NAME(promise)(
    const Bank *bank, const NAME(panel_code) *panel, const int32_t *starts, Query *const *queries, int count, int64_t slot)
{
    for (int start = 0; start < count; start += ROWS) {
        int32_t found[ROWS][PANEL];
        const int used = count - start < ROWS ? count - start : ROWS;
        NAME(compare)(panel, starts, bank->groups, queries + start, used, found);
        for (int r = 0; r < used; r++) {
            Query *query = queries[start + r];
            for (uint32_t bits = NAME(reaching)(found[r], query->promise); bits; bits &= bits - 1) {
                const int c = __builtin_ctz(bits);
                if (found[r][c] >= query->promise) {
                    query->promise = found[r][c] + 1;
                    query->promising = slot + c;
                }
            }
        }
    }
}

/* Measures the vectors of a panel that may be within the queries' reach. */
TARGET static void NAME(measure)(
    const Bank *bank, const NAME(panel_code) *panel, const int32_t *starts, Query *const *queries, int count, int64_t slot,
    float wrong)
{
    for (int start = 0; start < count; start += ROWS) {
        int32_t found[ROWS][PANEL];
        const int used = count - start < ROWS ? count - start : ROWS;
        NAME(compare)(panel, starts, bank->groups, queries + start, used, found);
        for (int r = 0; r < used; r++) {
            Query *query = queries[start + r];
            for (uint32_t bits = NAME(reaching)(found[r], query->limit); bits; bits &= bits - 1) {
                const int c = __builtin_ctz(bits);
                if (found[r][c] >= query->limit && slot + c != query->promising &&
                    note(bank, query, slot + c, NAME(squared)(query->vector, VECTOR(bank, slot + c), bank->width)))
                    query->limit = limit(bank, query, wrong);
            }
        }
    }
}

/* Puts a query on the lists of the cells that it needs. */
TARGET static void NAME(need)(const Bank *bank, const Query *query, int number, const float *sides, const Lists *lists)
{
    const int cells = PANELS(bank->cells);
    const float *between = bank->between + (size_t)query->cell * cells;
    const float *least = bank->least + (size_t)query->cell * cells;
    const float slack = 2 * bank->rounding * (query->length + bank->farthest) * bank->farthest;
    const float bar = query->count ? sides[query->cell] - slack : -FLT_MAX; /* all, where nothing was measured */
    for (int first = 0; first < cells; first += LANES) {
        const NAME(vec) most = *(const NAME(vec) *)(sides + first) + query->reach * *(const NAME(vec) *)(between + first) -
                               *(const NAME(vec) *)(least + first);
        for (uint32_t bits = ABOVE(most, (NAME(vec)){0} + bar); bits; bits &= bits - 1)
            list(lists, first + __builtin_ctz(bits), number);
    }
}

/* The first of the largest of `count` values. */
TARGET static int NAME(largest)(const float *values, int count)
{
    float most = -INFINITY;
    int place = 0, c = 0;
    if (count >= LANES) {
        NAME(vec) best = *(const NAME(vec) *)values;
        for (c = LANES; c + LANES <= count; c += LANES) {
            const NAME(vec) some = *(const NAME(vec) *)(values + c);
            const NAME(mask) larger = some > best;
            best = (NAME(vec))(((NAME(mask))some & larger) | ((NAME(mask))best & ~larger));
        }
        for (int lane = 0; lane < LANES; lane++)
            most = best[lane] > most ? best[lane] : most;
    }
    for (; c < count; c++)
        most = values[c] > most ? values[c] : most;
    while (place < count - 1 && values[place] != most)
        place++;
    return place;
}

/* Shadows, their codes and errors, sides and own cells of a block of queries. */
TARGET static void NAME(prepare)(
    const Bank *bank, const float *vectors, int count, Query *queries, float *filled, float *shadows, float *sides,
    float *centred, NAME(code) *codes)
{
    const int width = PANELS(bank->axes), cells = PANELS(bank->cells);
    for (int q = 0; q < count; q++) {
        float *row = centred + (size_t)q * bank->dim;
        for (int d = 0; d < bank->dim; d++)
            row[d] = vectors[(size_t)q * bank->dim + d] - bank->middle[d];
        memset(filled + (size_t)q * bank->width, 0, bank->width * sizeof *filled);
        memcpy(filled + (size_t)q * bank->width, vectors + (size_t)q * bank->dim, bank->dim * sizeof *filled);
    }
    if (bank->axes)
        NAME(products)(centred, bank->dim, count, bank->directions, width / PANEL, bank->dim, sides);
    for (int q = 0; q < count; q++) {
        const float *row = centred + (size_t)q * bank->dim;
        float *shadow = shadows + (size_t)q * bank->dims;
        const float squares = NAME(square)(row, bank->dim);
        if (bank->axes) {
            memcpy(shadow, sides + (size_t)q * width, bank->axes * sizeof *shadow);
            const float rest = sqrtf(fmaxf(squares - NAME(square)(shadow, bank->axes), 0));
            const float error = bank->shadow_rounding * squares;
            shadow[bank->axes] = rest - bank->rest;
            queries[q].error = error / fmaxf(fmaxf(rest, sqrtf(error)), TINY) + bank->shadow_rounding * sqrtf(squares);
        } else {
            memcpy(shadow, row, bank->dims * sizeof *shadow);
            queries[q].error = bank->shadow_rounding * sqrtf(squares);
        }
        queries[q].length = sqrtf(NAME(square)(shadow, bank->dims));
        queries[q].vector = filled + (size_t)q * bank->width;
        queries[q].count = 0;
        queries[q].best = INFINITY;
        queries[q].reach = FLT_MAX;
        queries[q].promise = HIDDEN / 2;
        queries[q].promising = -1;
        NAME(code) *own = codes + (size_t)q * bank->groups * 4;
        float *room = centred + (size_t)q * bank->dim;
        queries[q].codes = own;
        queries[q].wrong =
            NAME(encode)(shadow, bank->dims, bank->groups, bank->step, room, own, &queries[q].squares) +
            bank->rounding * queries[q].length + TINY;
    }
    NAME(products)(shadows, bank->dims, count, bank->pivots, cells / PANEL, bank->dims, sides);
    for (int q = 0; q < count; q++) {
        float *side = sides + (size_t)q * cells;
        for (int c = 0; c < bank->cells; c++)
            side[c] -= bank->halves[c];
        queries[q].cell = NAME(largest)(side, bank->cells);
    }
}

/* Shows each cell to the queries on its list, for a first candidate or for all. some: room for all queries. */
TARGET static void NAME(visit)(
    const Bank *bank, const int32_t *starts, Query *queries, const Lists *lists, Query **some, int all)
{
    NAME(panel_code) room[4 * MOST_GROUPS * PANEL];
    for (int cell = 0; cell < bank->cells; cell++) {
        const int count = lists->lengths[cell];
        const float wrong = bank->wrong[cell];
        for (int i = 0; i < count; i++) {
            some[i] = queries + lists->numbers[(size_t)cell * BLOCK + i];
            some[i]->limit = limit(bank, some[i], wrong);
        }
        for (int64_t p = bank->first[cell]; count && p < bank->first[cell + 1]; p++) {
            const int8_t *codes = bank->codes + p * bank->groups * PANEL * 4;
            const NAME(panel_code) *panel = NAME(unpacked)(codes, bank->groups, room);
            if (all)
                NAME(measure)(bank, panel, starts + p * PANEL, some, count, p * PANEL, wrong);
            else
                NAME(promise)(bank, panel, starts + p * PANEL, some, count, p * PANEL);
        }
    }
}

/* A few queries, which fit the cache together: their own cells first, for a reach; then what they need within that.
 * Returns 0, or 1 where memory is lacking. */
TARGET static int NAME(search)(
    const Bank *bank, const int32_t *starts, const float *vectors, int count, int32_t *found, Arena *arena)
{
    const int cells = PANELS(bank->cells), widest = cells > PANELS(bank->axes) ? cells : PANELS(bank->axes);
    const size_t row = (size_t)bank->groups * 4, floats = (size_t)bank->dims + widest + bank->dim + bank->width;
    if (prepare_arena(arena, count * (sizeof(Query) + sizeof(Query *) + 4 * floats + sizeof(NAME(code)) * row) +
                                 cells * (sizeof(int32_t) + BLOCK * sizeof(uint16_t))))
        return 1;
    Query *queries = arena->bytes, **some = (void *)(queries + count);
    float *shadows = (void *)(some + count), *sides = shadows + (size_t)count * bank->dims;
    float *centred = sides + (size_t)count * widest, *filled = centred + (size_t)count * bank->dim;
    int32_t *lengths = (void *)(filled + (size_t)count * bank->width);
    const Lists lists = {lengths, (void *)(lengths + cells)};
    NAME(prepare)(bank, vectors, count, queries, filled, shadows, sides, centred, (void *)(lists.numbers + (size_t)cells * BLOCK));
    memset(lengths, 0, cells * sizeof *lengths);
    for (int q = 0; q < count; q++)
        list(&lists, queries[q].cell, q);
    NAME(visit)(bank, starts, queries, &lists, some, 0);
    memset(lengths, 0, cells * sizeof *lengths);
    for (int q = 0; q < count; q++) {
        Query *query = queries + q;
        if (query->promising >= 0)
            note(bank, query, query->promising, NAME(squared)(query->vector, VECTOR(bank, query->promising), bank->width));
        NAME(need)(bank, query, q, sides + (size_t)q * cells, &lists);
    }
    NAME(visit)(bank, starts, queries, &lists, some, 1);
    for (int q = 0; q < count; q++) {
        const int kept = queries[q].count <= KEPT ? queries[q].count : 0; /* none where there are too many */
        for (int c = 0; c < KEPT; c++)
            found[(size_t)q * KEPT + c] = c < kept ? queries[q].numbers[c] : -1;
    }
    return 0;
}
