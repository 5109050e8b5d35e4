/* One instruction set's measuring for the coreset; tile.h comes before it.
 *
 * As KCenter._could_be_nearest in kcenter.py, and the clear half of what KCenter._measure_share does with it.
 */

/* The centres of a cell that can matter to points within `reach` of them: their numbers, and their count. */
static int NAME(within)(const Group *group, int first, float reach, int32_t *numbers)
{
    int count = 0;
    for (int i = first; i < group->length; i++)
        if (group->distances[i] * (1 - MARGIN) <= reach)
            numbers[count++] = group->numbers[i];
    return count;
}

/* Centres relative to the pivot, as panels, and their squares: infinite for the last panel's padding. Returns the largest
 * of the others. */
TARGET static float NAME(pack)(
    const Traversal *all, const float *pivot, const int32_t *numbers, int count, float *columns, float *squares)
{
    const int dim = all->dim;
    float largest = 0;
    for (int k = 0; k < PANELS(count); k++) {
        const float *centre = k < count ? all->centres + (size_t)numbers[k] * dim : pivot;
        float *column = columns + (size_t)(k / PANEL) * dim * PANEL + k % PANEL;
        for (int d = 0; d < dim; d++)
            column[(size_t)d * PANEL] = centre[d] - pivot[d];
        squares[k] = k < count ? NAME(squared)(centre, pivot, dim) : INFINITY;
        if (k < count && squares[k] > largest)
            largest = squares[k];
    }
    return largest;
}

/* One point, whose squared distances to `count` centres, less its own to the pivot, are `values`: a clear nearest one
 * becomes its bound; what may be its nearest otherwise goes to the pairs. Returns 0, or 1 without room for these. */
TARGET static int NAME(judge)(
    const Traversal *all, int64_t point, float own, float margin, const int32_t *numbers, const float *values, int count,
    int32_t *close, Pairs *pairs)
{
    const float bound = all->bound[point] - own;
    int found = 0;
    float least = INFINITY;
    for (int first = 0; first < count; first += PANEL) {
        if (!NAME(any_within)(values + first, PANEL, bound + margin))
            continue;
        for (int k = first; k < first + PANEL && k < count; k++)
            if (values[k] <= bound + margin) {
                close[found++] = k;
                least = values[k] < least ? values[k] : least;
            }
    }
    if (found == 0)
        return 0;
    const float bar = (least + margin < bound ? least + margin : bound) + margin;
    int kept = 0;
    for (int i = 0; i < found; i++)
        if (values[close[i]] <= bar)
            close[kept++] = close[i];
    const float upper = least + own + margin;
    if (kept == 1 && upper < all->bound[point] - all->slack[point]) {
        all->bound[point] = upper;
        all->near[point] = numbers[close[0]];
        all->slack[point] = 2 * margin;
        return 0;
    }
    const int64_t at = __atomic_fetch_add(&pairs->count, kept, __ATOMIC_RELAXED);
    if (at + kept > pairs->room)
        return 1;
    for (int i = 0; i < kept; i++) {
        pairs->points[at + i] = point;
        pairs->numbers[at + i] = numbers[close[i]];
    }
    return 0;
}

/* Measures a group of points of one cell. Returns 0; 1 without room for the pairs; 2 without memory. */
TARGET static int NAME(measure_group)(const Traversal *all, const Group *group, Pairs *pairs)
{
    const int dim = all->dim;
    const float *pivot = all->pivots + (size_t)group->cell * dim;
    int first = INT32_MAX, failed = 2;
    float farthest = 0, largest = 0;
    for (int i = 0; i < group->count; i++) {
        const int64_t point = group->points[i];
        first = all->met[point] < first ? all->met[point] : first;
        farthest = all->to_pivot[point] > farthest ? all->to_pivot[point] : farthest;
        largest = all->bound[point] > largest ? all->bound[point] : largest;
    }
    const size_t most = PANELS(group->length > first ? group->length - first : 0);
    int32_t *numbers = malloc(2 * most * sizeof *numbers), *close = numbers + most;
    const int count = numbers ? NAME(within)(group, first, (farthest + sqrtf(largest)) * (1 + MARGIN), numbers) : 0;
    const int panels = PANELS(count) / PANEL;
    const size_t width = (size_t)panels * PANEL;
    float *columns = malloc(sizeof *columns * (width * dim + width + ROWS * (dim + width)));
    if (!numbers || !columns)
        goto end;
    float *squares = columns + width * dim, *rows = squares + width, *values = rows + (size_t)ROWS * dim;
    failed = 0;
    const float widest = NAME(pack)(all, pivot, numbers, count, columns, squares);
    for (int start = 0; start < group->count && count && !failed; start += ROWS) {
        const int used = group->count - start < ROWS ? group->count - start : ROWS;
        const float *some[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const float *point = all->points + (size_t)group->points[start + (r < used ? r : 0)] * dim;
            some[r] = rows + (size_t)r * dim;
            for (int d = 0; d < dim; d++)
                rows[(size_t)r * dim + d] = point[d] - pivot[d];
        }
        for (int p = 0; p < panels; p++) {
            float found[ROWS][PANEL];
            NAME(tile)(some, columns + (size_t)p * dim * PANEL, dim, found);
            for (int r = 0; r < used; r++)
                for (int c = 0; c < PANEL; c++)
                    values[r * width + p * PANEL + c] = squares[p * PANEL + c] - 2 * found[r][c];
        }
        for (int r = 0; r < used && !failed; r++) {
            const int64_t point = group->points[start + r];
            const float own = all->to_pivot[point] * all->to_pivot[point];
            const float margin = all->rounding * (own + widest);
            failed = NAME(judge)(all, point, own, margin, numbers, values + r * width, count, close, pairs);
        }
    }
end:
    free(numbers);
    free(columns);
    return failed;
}
