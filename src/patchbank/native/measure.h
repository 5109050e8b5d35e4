/* One instruction set's measuring for the coreset; tile.h comes before it.
 *
 * As Bounds._could_be_nearest in bounds.py, and the clear half of what Bounds._pairs does with it; but codes of points and
 * centres are compared first, and floats only where these leave a doubt.
 */

/* The centres of a cell that can matter to points within `reach` of them: their numbers, and their count. */
static int NAME(within)(const Group *group, int64_t first, float reach, int32_t *numbers)
{
    int count = 0;
    for (int64_t i = first; i < group->numbers_length; i++)
        if (group->distances[i] * (1 - MARGIN) <= reach)
            numbers[count++] = group->numbers[i];
    return count;
}

/* Centres beside a point: relative to the pivot, their squares, and their codes in panels. */
typedef struct {
    int count, groups;
    const int32_t *numbers;
    float *rows, *squares; /* (count, dim), (count) */
    int8_t *codes;         /* panels of (groups, PANEL) words of four */
    int32_t *starts;       /* (panels, PANEL) */
    float widest, step, wrong;
} NAME(Centres);

/* Fills in what follows from numbers and count. room: (2 dim + 3). */
TARGET static void NAME(pack)(const Traversal *all, const float *pivot, NAME(Centres) *centres, float *room)
{
    const int dim = all->dim, groups = centres->groups;
    float largest = TINY;
    centres->widest = centres->wrong = 0;
    for (int k = 0; k < centres->count; k++) {
        const float *centre = all->centres + (size_t)centres->numbers[k] * dim;
        float *row = centres->rows + (size_t)k * dim;
        NAME(vec) most = {0};
        int d = 0;
        for (; d + LANES <= dim; d += LANES) {
            const NAME(vec) values = *(const NAME(vec) *)(centre + d) - *(const NAME(vec) *)(pivot + d);
            const NAME(ints) sizes = (NAME(ints))values & 0x7fffffff, larger = sizes > (NAME(ints))most;
            *(NAME(vec) *)(row + d) = values;
            most = (NAME(vec))((sizes & larger) | ((NAME(ints))most & ~larger));
        }
        for (; d < dim; d++) {
            row[d] = centre[d] - pivot[d];
            largest = fabsf(row[d]) > largest ? fabsf(row[d]) : largest;
        }
        for (int lane = 0; lane < LANES; lane++)
            largest = most[lane] > largest ? most[lane] : largest;
        centres->squares[k] = NAME(square)(row, dim);
        centres->widest = centres->squares[k] > centres->widest ? centres->squares[k] : centres->widest;
    }
    centres->step = largest / 127;
    for (int k = 0; k < PANELS(centres->count); k++) {
        int8_t *panel = centres->codes + (size_t)(k / PANEL) * groups * PANEL * 4 + k % PANEL * 4;
        int8_t *bytes = (int8_t *)(room + dim);
        int32_t sum = 0, squares = 0;
        float unused;
        memset(bytes, 0, groups * 4);
        if (k < centres->count) {
            const float wrong = NAME(whole)(centres->rows + (size_t)k * dim, dim, centres->step, 127, room, &unused);
            centres->wrong = wrong > centres->wrong ? wrong : centres->wrong;
            for (int d = 0; d < dim; d++) {
                const int32_t code = (int32_t)room[d];
                bytes[d] = (int8_t)code;
                sum += code;
                squares += code * code;
            }
        }
        centres->starts[k] = k < centres->count ? -(squares / 4 + MIDDLE * sum) : HIDDEN;
        for (int g = 0; g < groups; g++)
            memcpy(panel + (size_t)g * PANEL * 4, bytes + 4 * g, 4);
    }
}

/* The largest of a point's values, and its place. width: of whole panels. */
TARGET static int32_t NAME(most_of)(const int32_t *values, int width, int *place)
{
    NAME(ints) most = *(const NAME(ints) *)values;
    for (int c = LANES; c < width; c += LANES) {
        const NAME(ints) some = *(const NAME(ints) *)(values + c);
        const NAME(ints) larger = some > most;
        most = (some & larger) | (most & ~larger);
    }
    int32_t largest = most[0];
    for (int lane = 1; lane < LANES; lane++)
        largest = most[lane] > largest ? most[lane] : largest;
    uint32_t bits = 0;
    for (*place = -PANEL; !bits;) {
        *place += PANEL;
        bits = NAME(reaching)(values + *place, largest);
    }
    *place += __builtin_ctz(bits);
    return largest;
}

/* One point, `row` relative to the pivot. values: its codes' products with all centres' codes, from their starts. A clear
 * nearest centre becomes its bound; what may be its nearest otherwise goes to the pairs. close, near: room for all
 * centres. Returns DONE or NO_ROOM. */
TARGET static int NAME(judge)(
    const Traversal *all, int64_t point, const float *row, float squares, float wrong, const NAME(Centres) *centres,
    const int32_t *values, int32_t *close, float *near, Pairs *pairs)
{
    const float own = all->to_pivot[point] * all->to_pivot[point], half_step = 0.5f / centres->step;
    const float margin = all->rounding * (own + centres->widest), bound = all->bound[point] - own;
    const int width = PANELS(centres->count);
    const float farthest = fmaxf(fminf(all->bound[point], FLT_MAX / 4), 0);
    float reach = sqrtf(farthest + 2 * margin) + wrong + centres->wrong;
    int place, found = 0;
    if (NAME(most_of)(values, width, &place) < least_code(squares, reach * half_step))
        return DONE;
    float least = centres->squares[place] - 2 * NAME(dot)(row, centres->rows + (size_t)place * all->dim, all->dim);
    if (least + margin < bound)
        reach = sqrtf(fmaxf(least + own, 0) + 3 * margin) + wrong + centres->wrong;
    const int32_t limit = least_code(squares, reach * half_step);
    for (int first = 0; first < width; first += PANEL)
        for (uint32_t bits = NAME(reaching)(values + first, limit); bits; bits &= bits - 1) {
            const int k = first + __builtin_ctz(bits);
            const float value = centres->squares[k] - 2 * NAME(dot)(row, centres->rows + (size_t)k * all->dim, all->dim);
            if (value > bound + margin)
                continue;
            near[found] = value;
            close[found++] = k;
            least = value < least ? value : least;
        }
    if (found == 0)
        return DONE;
    const float bar = (least + margin < bound ? least + margin : bound) + margin;
    int kept = 0;
    for (int i = 0; i < found; i++)
        if (near[i] <= bar)
            close[kept++] = close[i];
    const float upper = least + own + margin;
    if (kept == 1 && upper < all->bound[point] - all->slack[point]) {
        all->bound[point] = upper;
        all->near[point] = centres->numbers[close[0]];
        all->slack[point] = 2 * margin;
        return DONE;
    }
    const int64_t at = __atomic_fetch_add(&pairs->count, kept, __ATOMIC_RELAXED);
    if (at + kept > pairs->points_length)
        return NO_ROOM;
    for (int i = 0; i < kept; i++) {
        pairs->points[at + i] = point;
        pairs->numbers[at + i] = centres->numbers[close[i]];
    }
    return DONE;
}

/* What measuring a group needs beside it. length: centres that may matter to it; most: those at once, in whole panels. */
typedef struct {
    int32_t *numbers, *values, *close; /* (length), (ROWS, most), (most) */
    float *near, *rows, *whole;        /* (most), (ROWS, dim), (2 dim + 3) */
    NAME(code) *codes;                 /* (ROWS, groups * 4) */
    NAME(panel_code) *unpacked;        /* (groups * 4, PANEL) */
    NAME(Centres) centres;
} NAME(Desk);

/* Lays it out from an address on. Returns its size. */
static size_t NAME(measure_room)(size_t dim, size_t length, size_t most, uintptr_t start, NAME(Desk) *desk)
{
    const size_t groups = (dim + 3) / 4;
    uintptr_t next = start;
    desk->numbers = cut(&next, length, sizeof *desk->numbers);
    desk->values = cut(&next, most * ROWS, sizeof *desk->values);
    desk->close = cut(&next, most, sizeof *desk->close);
    desk->near = cut(&next, most, sizeof *desk->near);
    desk->rows = cut(&next, ROWS * dim, sizeof *desk->rows);
    desk->whole = cut(&next, 2 * dim + 3, sizeof *desk->whole);
    desk->codes = cut(&next, ROWS * groups * 4, sizeof *desk->codes);
    desk->unpacked = cut(&next, PANEL * groups * 4, sizeof *desk->unpacked);
    desk->centres.rows = cut(&next, most * dim, sizeof *desk->centres.rows);
    desk->centres.squares = cut(&next, most, sizeof *desk->centres.squares);
    desk->centres.starts = cut(&next, most, sizeof *desk->centres.starts);
    desk->centres.codes = cut(&next, most * groups * 4, sizeof *desk->centres.codes);
    desk->centres.groups = (int)groups;
    return next - start;
}

/* Some points of a group, ROWS at most, against its centres. Returns DONE or NO_ROOM. */
TARGET static int NAME(measure_rows)(
    const Traversal *all, const int64_t *points, int used, const float *pivot, const NAME(Desk) *desk, Pairs *pairs)
{
    const NAME(Centres) *centres = &desk->centres;
    const size_t dim = all->dim, row = (size_t)centres->groups * 4, width = PANELS(centres->count);
    const NAME(code) *some[ROWS];
    float squares[ROWS], wrong[ROWS];
    int failed = DONE;
    for (int r = 0; r < ROWS; r++)
        some[r] = desk->codes + (r < used ? r : 0) * row;
    for (int r = 0; r < used; r++) {
        const float *point = all->points + points[r] * dim;
        float *relative = desk->rows + r * dim;
        for (size_t d = 0; d < dim; d++)
            relative[d] = point[d] - pivot[d];
        wrong[r] =
            NAME(encode)(relative, dim, centres->groups, centres->step, desk->whole, desk->codes + r * row, squares + r);
    }
    for (size_t first = 0; first < width; first += PANEL) {
        int32_t found[ROWS][PANEL];
        const NAME(panel_code) *panel = NAME(unpacked)(centres->codes + first * row, centres->groups, desk->unpacked);
        NAME(coded_tile)(some, panel, centres->starts + first, centres->groups, found);
        for (int r = 0; r < used; r++)
            memcpy(desk->values + r * width + first, found[r], sizeof found[r]);
    }
    for (int r = 0; r < used && !failed; r++)
        failed = NAME(judge)(
            all, points[r], desk->rows + r * dim, squares[r], wrong[r], centres, desk->values + r * width, desk->close,
            desk->near, pairs);
    return failed;
}

/* Measures a group of points of one cell. Returns DONE, NO_ROOM, NO_MEMORY or IMPOSSIBLE. */
TARGET static int NAME(measure_group)(const Traversal *all, const Group *group, Pairs *pairs, Arena *arena)
{
    if (!group_holds(group) || group->cell < 0 || group->cell >= all->cells || group->points_length > INT32_MAX ||
        group->numbers_length > INT32_MAX)
        return IMPOSSIBLE;
    const float *pivot = all->pivots + (size_t)group->cell * all->dim;
    const int members = (int)group->points_length;
    int first = INT32_MAX, failed = DONE;
    float farthest = 0, largest = 0;
    for (int i = 0; i < members; i++) {
        const int64_t point = group->points[i];
        if (point < 0 || point >= all->count || all->met[point] < 0)
            return IMPOSSIBLE;
        first = all->met[point] < first ? all->met[point] : first;
        farthest = all->to_pivot[point] > farthest ? all->to_pivot[point] : farthest;
        largest = all->bound[point] > largest ? all->bound[point] : largest;
    }
    for (int64_t i = first; i < group->numbers_length; i++)
        if (group->numbers[i] < 0 || group->numbers[i] >= all->capacity)
            return IMPOSSIBLE;
    const size_t length = group->numbers_length > first ? group->numbers_length - first : 0;
    const size_t most = length < SLICE ? PANELS(length) : SLICE;
    NAME(Desk) desk;
    const void *bytes = reserve(arena, NAME(measure_room)(all->dim, length, most, 0, &desk));
    if (!bytes)
        return NO_MEMORY;
    NAME(measure_room)(all->dim, length, most, (uintptr_t)bytes, &desk);
    const int count = NAME(within)(group, first, (farthest + sqrtf(largest)) * (1 + MARGIN), desk.numbers);
    for (int slice = 0; slice < count && !failed; slice += SLICE) {
        desk.centres.numbers = desk.numbers + slice;
        desk.centres.count = count - slice < SLICE ? count - slice : SLICE;
        NAME(pack)(all, pivot, &desk.centres, desk.whole);
        for (int start = 0; start < members && !failed; start += ROWS) {
            const int left = members - start;
            for (int i = start + ROWS; i < start + 2 * ROWS && i < members; i++)
                for (int d = 0; d < all->dim; d += 16)
                    __builtin_prefetch(all->points + (size_t)group->points[i] * all->dim + d);
            failed = NAME(measure_rows)(all, group->points + start, left < ROWS ? left : ROWS, pivot, &desk, pairs);
        }
    }
    return failed;
}
