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

/* A vector that may be within the query's reach: measured, and noted. */
TARGET static inline void NAME(measure)(const Bank *bank, Query *query, size_t slot, float wrong)
{
    if (note(bank, query, slot, NAME(squared)(query->vector, VECTOR(bank, slot), bank->width)))
        query->limit = limit(bank, query, wrong);
}

/* Shows a panel of the bank to some queries: to note the most promising vector of each, which is the nearest by code, or
 * to measure all that may be within reach. */
TARGET static inline void NAME(show)(
    const Bank *bank, const NAME(panel_code) *panel, const int32_t *starts, Query *const *queries, int count, size_t slot,
    float wrong, int all)
{
    for (int start = 0; start < count; start += ROWS) {
        int32_t found[ROWS][PANEL];
        const NAME(code) *rows[ROWS];
        const int used = count - start < ROWS ? count - start : ROWS;
        for (int r = 0; r < ROWS; r++)
            rows[r] = queries[start + (r < used ? r : 0)]->codes;
        NAME(coded_tile)(rows, panel, starts, bank->groups, found);
        for (int r = 0; r < used; r++) {
            Query *query = queries[start + r];
            for (uint32_t bits = NAME(reaching)(found[r], query->limit); bits; bits &= bits - 1) {
                const int c = __builtin_ctz(bits);
                if (found[r][c] < query->limit || (int64_t)slot + c == query->promising)
                    continue;
                if (all) {
                    NAME(measure)(bank, query, slot + c, wrong);
                } else {
                    query->limit = found[r][c] + 1;
                    query->promising = slot + c;
                }
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
            if (first + __builtin_ctz(bits) < bank->cells) /* the others are padding */
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
            const NAME(ints) larger = some > best;
            best = (NAME(vec))(((NAME(ints))some & larger) | ((NAME(ints))best & ~larger));
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

/* What a search of some queries needs beside them. */
typedef struct {
    Query *queries, **some;
    float *filled, *centred, *shadows, *sides; /* (count, width), (count, dim), (count, dims), (count, cells or axes) */
    NAME(code) *codes;                         /* (count, groups * 4) */
    Lists lists;
} NAME(Room);

/* Lays it out from an address on. Returns its size. */
static size_t NAME(search_room)(const Bank *bank, size_t count, uintptr_t start, NAME(Room) *room)
{
    const size_t cells = PANELS(bank->cells), axes = PANELS(bank->axes);
    uintptr_t next = start;
    room->queries = cut(&next, count, sizeof *room->queries);
    room->some = cut(&next, count, sizeof *room->some);
    room->filled = cut(&next, count * bank->width, sizeof *room->filled);
    room->centred = cut(&next, count * bank->dim, sizeof *room->centred);
    room->shadows = cut(&next, count * bank->dims, sizeof *room->shadows);
    room->sides = cut(&next, count * (cells > axes ? cells : axes), sizeof *room->sides);
    room->codes = cut(&next, count * bank->groups * 4, sizeof *room->codes);
    room->lists.lengths = cut(&next, cells, sizeof *room->lists.lengths);
    room->lists.numbers = cut(&next, cells * BLOCK, sizeof *room->lists.numbers);
    return next - start;
}

/* Shadows, their codes and errors, sides and own cells of a block of queries. */
TARGET static void NAME(prepare)(const Bank *bank, const float *vectors, int count, const NAME(Room) *room)
{
    const int axes = PANELS(bank->axes), cells = PANELS(bank->cells);
    const size_t dim = bank->dim, dims = bank->dims, width = bank->width;
    for (int q = 0; q < count; q++) {
        float *centred = room->centred + q * dim, *filled = room->filled + q * width;
        for (size_t d = 0; d < dim; d++)
            centred[d] = vectors[q * dim + d] - bank->middle[d];
        memcpy(filled, vectors + q * dim, dim * sizeof *filled);
        memset(filled + dim, 0, (width - dim) * sizeof *filled);
    }
    if (axes)
        NAME(products)(room->centred, dim, count, bank->directions, axes / PANEL, dim, room->sides);
    for (int q = 0; q < count; q++) {
        Query *query = room->queries + q;
        float *centred = room->centred + q * dim, *shadow = room->shadows + q * dims;
        NAME(code) *codes = room->codes + (size_t)q * bank->groups * 4;
        const float squares = NAME(square)(centred, dim);
        if (axes) {
            memcpy(shadow, room->sides + (size_t)q * axes, bank->axes * sizeof *shadow);
            const float rest = sqrtf(fmaxf(squares - NAME(square)(shadow, bank->axes), 0));
            const float error = bank->shadow_rounding * squares;
            shadow[bank->axes] = rest - bank->rest;
            query->error = error / fmaxf(fmaxf(rest, sqrtf(error)), TINY) + bank->shadow_rounding * sqrtf(squares);
        } else {
            memcpy(shadow, centred, dims * sizeof *shadow);
            query->error = bank->shadow_rounding * sqrtf(squares);
        }
        query->length = sqrtf(NAME(square)(shadow, dims));
        query->vector = room->filled + q * width;
        query->count = 0;
        query->best = INFINITY;
        query->reach = FLT_MAX;
        query->limit = HIDDEN / 2;
        query->promising = -1;
        query->codes = codes;
        query->wrong = NAME(encode)(shadow, dims, bank->groups, bank->step, centred, codes, &query->squares) +
                       bank->rounding * query->length + TINY;
    }
    NAME(products)(room->shadows, dims, count, bank->pivots, cells / PANEL, dims, room->sides);
    for (int q = 0; q < count; q++) {
        float *side = room->sides + (size_t)q * cells;
        for (int c = 0; c < bank->cells; c++)
            side[c] -= bank->halves[c];
        room->queries[q].cell = NAME(largest)(side, bank->cells);
    }
}

/* Shows each cell to the queries on its list, for a first candidate or for all. */
TARGET static void NAME(visit)(const Bank *bank, const int32_t *starts, const NAME(Room) *room, int all)
{
    NAME(panel_code) unpacked[4 * MOST_GROUPS * PANEL];
    for (int cell = 0; cell < bank->cells; cell++) {
        const int count = room->lists.lengths[cell];
        const float wrong = bank->wrong[cell];
        Query **some = room->some;
        for (int i = 0; i < count; i++) {
            some[i] = room->queries + room->lists.numbers[(size_t)cell * BLOCK + i];
            if (all)
                some[i]->limit = limit(bank, some[i], wrong);
        }
        for (int64_t p = bank->first[cell]; count && p < bank->first[cell + 1]; p++) {
            const int8_t *codes = bank->codes + p * bank->groups * PANEL * 4;
            const NAME(panel_code) *panel = NAME(unpacked)(codes, bank->groups, unpacked);
            if (all)
                NAME(show)(bank, panel, starts + p * PANEL, some, count, p * PANEL, wrong, 1);
            else
                NAME(show)(bank, panel, starts + p * PANEL, some, count, p * PANEL, wrong, 0);
        }
    }
}

/* A few queries, which fit the cache together: their own cells first, for a reach; then what they need within that.
 * Returns DONE or NO_MEMORY. */
TARGET static int NAME(search)(
    const Bank *bank, const int32_t *starts, const float *vectors, int count, int32_t *found, Arena *arena)
{
    NAME(Room) room;
    const void *bytes = reserve(arena, NAME(search_room)(bank, count, 0, &room));
    if (!bytes)
        return NO_MEMORY;
    NAME(search_room)(bank, count, (uintptr_t)bytes, &room);
    NAME(prepare)(bank, vectors, count, &room);
    memset(room.lists.lengths, 0, bank->cells * sizeof *room.lists.lengths);
    for (int q = 0; q < count; q++)
        list(&room.lists, room.queries[q].cell, q);
    NAME(visit)(bank, starts, &room, 0);
    memset(room.lists.lengths, 0, bank->cells * sizeof *room.lists.lengths);
    for (int q = 0; q < count; q++) {
        Query *query = room.queries + q;
        if (query->promising >= 0)
            note(bank, query, query->promising, NAME(squared)(query->vector, VECTOR(bank, query->promising), bank->width));
        NAME(need)(bank, query, q, room.sides + (size_t)q * PANELS(bank->cells), &room.lists);
    }
    NAME(visit)(bank, starts, &room, 1);
    for (int q = 0; q < count; q++) {
        const Query *query = room.queries + q;
        const int kept = query->count <= KEPT ? query->count : 0; /* none where there are too many */
        for (int c = 0; c < KEPT; c++)
            found[(size_t)q * KEPT + c] = c < kept ? query->numbers[c] : -1;
    }
    return DONE;
}
