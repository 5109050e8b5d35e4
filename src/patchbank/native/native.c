/* What exact.py and kcenter.py do most of their time, without NumPy's passes over blocks of products.
 *
 * nearest.h and measure.h are compiled for each instruction set that a processor may have; the functions at the end take
 * the best that it does have. No state, and no Python: ctypes calls them, and other threads run meanwhile. The structs
 * and constants are those of nearest.py and measure.py.
 */

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "needs GCC or Clang; without this library patchbank uses NumPy"
#endif

#define PANEL 32                                      /* columns that are stored together, (dims, PANEL) */
#define PANELS(n) (((n) + PANEL - 1) / PANEL * PANEL) /* n, filled up to whole panels */
#define BLOCK 256                                     /* queries that are worked on together at most: for the cache */
#define LEAST 64                                      /* queries that are worth a thread's while */
#define KEPT 8                                        /* candidates a query; with more, exact.py searches itself */
#define VECS 2                                        /* vectors of a panel that a tile takes at once */
#define MOST_THREADS 64
#define MARGIN 1e-3f                                  /* as in kcenter.py */
#define TINY 1e-16f                                   /* as in exact.py */
#define VECTOR(bank, slot) ((bank)->vectors + (slot) * (bank)->dim)

/* The bank's side, made by exact.py. Padding of panels has tops of +infinity. */
typedef struct {
    int32_t dim, axes, dims, cells; /* of vectors; of space, 0 = all of it; of shadows; of the bank */
    const float *middle;            /* (dim) */
    const float *directions;        /* panels of (dim, PANEL): the axes */
    const float *pivots, *halves;   /* panels of (dims, PANEL); (cells) their squares, halved */
    const float *columns;           /* panels of (dims, PANEL): shadows, cell by cell */
    const int32_t *first;           /* (cells + 1) panels of each cell */
    const int32_t *numbers;         /* (panels, PANEL) which vectors they are */
    const float *vectors;           /* (panels * PANEL, dim), in the same order */
    const float *between, *least;   /* (cells, cells) */
    float shadow_rounding, rounding, farthest, measure_rounding;
} Bank;

typedef struct {
    const float *vector, *shadow;
    float own, error, bar, reach, best; /* |shadow|^2; of the shadow; squares, distance, square of the nearest so far */
    int32_t cell, count, numbers[KEPT];
    float squared[KEPT];
} Query;

/* A vector was measured: keeps it if it may be the nearest, for all that rounding hides. */
static inline void note(const Bank *bank, Query *query, size_t slot, float squared)
{
    const int32_t number = bank->numbers[slot];
    const float slack = 1 + 4 * bank->measure_rounding;
    if (squared > query->best * slack + TINY * TINY)
        return;
    if (squared < query->best) {
        int kept = 0;
        query->best = squared;
        query->reach = sqrtf(squared) * (1 + bank->measure_rounding) + query->error + TINY;
        query->bar = 1.002f * query->reach * query->reach - query->own * (1 - bank->rounding);
        for (int c = 0; c < query->count && c < KEPT; c++)
            if (query->squared[c] <= squared * slack + TINY * TINY) {
                query->squared[kept] = query->squared[c];
                query->numbers[kept++] = query->numbers[c];
            }
        if (query->count <= KEPT)
            query->count = kept;
    }
    if (query->count < KEPT) {
        query->squared[query->count] = squared;
        query->numbers[query->count] = number;
    }
    if (query->count <= KEPT)
        query->count++;
}

/* A traversal of kcenter.py's. points (N, dim), centres, pivots; the other arrays are (N). */
typedef struct {
    int32_t dim;
    float rounding;
    const float *points, *centres, *pivots, *to_pivot;
    const int32_t *met;
    float *bound, *slack;
    int32_t *near;
} Traversal;

/* Points of one cell, and its list of centres with their distances to the pivot. */
typedef struct {
    int32_t cell, count, length;
    const int64_t *points;
    const int32_t *numbers;
    const float *distances;
} Group;

typedef struct {
    int64_t count, room, *points; /* count: of pairs that there are; they have been written only while it is <= room */
    int32_t *numbers;
} Pairs;

/* Items of work, which threads take one by one. */
typedef struct {
    void (*work)(const void *task, int item);
    const void *task;
    int count, next;
} Items;

static void *take_items(void *shared)
{
    Items *items = shared;
    for (int item; (item = __atomic_fetch_add(&items->next, 1, __ATOMIC_RELAXED)) < items->count;)
        items->work(items->task, item);
    return NULL;
}

/* Does all items, in this thread and in up to `threads` - 1 others; in fewer, if the system gives no more. */
static void spread(void (*work)(const void *, int), const void *task, int count, int threads)
{
    pthread_t others[MOST_THREADS];
    int started = 0;
    Items items = {work, task, count, 0};
    while (started < threads - 1 && started < count - 1 && started < MOST_THREADS &&
           pthread_create(others + started, NULL, take_items, &items) == 0)
        started++;
    take_items(&items);
    while (started)
        pthread_join(others[--started], NULL);
}

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512vl,fma")))
#define LANES 16
#define ROWS 12
#define NAME(name) name##_avx512
#include "tile.h"
#include "nearest.h"
#include "measure.h"
#undef TARGET
#undef LANES
#undef ROWS
#undef NAME
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 6
#define NAME(name) name##_avx2
#include "tile.h"
#include "nearest.h"
#include "measure.h"
#undef TARGET
#undef LANES
#undef ROWS
#undef NAME
#endif
#define TARGET
#define LANES 4
#define ROWS 4
#define NAME(name) name##_any
#include "tile.h"
#include "nearest.h"
#include "measure.h"

/* level: 0 = the best instructions that this processor has; 1 = AVX2 at most; 2 = none but those that all have. */
#if defined(__x86_64__)
static int has_avx512(int level)
{
    return level < 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
}

static int has_avx2(int level)
{
    return level < 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define BEST(name, level) (has_avx512(level) ? name##_avx512 : has_avx2(level) ? name##_avx2 : name##_any)
#else
#define BEST(name, level) ((void)(level), name##_any)
#endif

typedef struct {
    const Bank *bank;
    const float *tops, *queries;
    int total, step, level, *failed;
    int32_t *found;
} Search;

static void search_some(const void *task, int item)
{
    const Search *all = task;
    const int start = item * all->step, left = all->total - start, count = left < all->step ? left : all->step;
    const float *queries = all->queries + (size_t)start * all->bank->dim;
    if (BEST(search, all->level)(all->bank, all->tops, queries, count, all->found + (size_t)start * KEPT))
        __atomic_store_n(all->failed, 1, __ATOMIC_RELAXED);
}

/* found: (total, KEPT), for each query the bank vectors that may be its nearest, -1 for none; a first of -1: too many.
 * tops: (panels, PANEL), |shadow|^2 less an allowance for rounding; infinite for vectors that do not count, and padding.
 * Returns 0, or 1 where memory is lacking. */
int patchbank_nearest(
    const Bank *bank, const float *tops, const float *queries, int total, int32_t *found, int threads, int level)
{
    const int even = (total + 2 * threads - 1) / (2 * threads);
    const int step = even < LEAST ? LEAST : even > BLOCK ? BLOCK : even;
    int failed = 0;
    const Search all = {bank, tops, queries, total, step, level, &failed, found};
    spread(search_some, &all, (total + step - 1) / step, threads);
    return failed;
}

typedef struct {
    const Traversal *all;
    const Group *groups;
    Pairs *pairs;
    int level, *failed;
} Measuring;

static void measure_some(const void *task, int item)
{
    const Measuring *measuring = task;
    const int failed =
        BEST(measure_group, measuring->level)(measuring->all, measuring->groups + item, measuring->pairs);
    if (failed)
        __atomic_store_n(measuring->failed, failed, __ATOMIC_RELAXED);
}

/* Lowers the bounds of the groups' points that have a clearly nearest centre; finds the pairs of the others, in any
 * order. Groups have no point in common. Returns 0; 1 where the pairs have no room; 2 where memory is lacking. */
int patchbank_measure(const Traversal *all, const Group *groups, int count, Pairs *pairs, int threads, int level)
{
    int failed = 0;
    const Measuring measuring = {all, groups, pairs, level, &failed};
    spread(measure_some, &measuring, count, threads);
    return failed;
}
