/* What exact.py and bounds.py do most of their time, without NumPy's passes over blocks of products.
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
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(__GNUC__)
#error "needs GCC or Clang; without this library patchbank uses NumPy"
#endif

#define PANEL 32                                      /* columns that are stored together, (dims, PANEL) */
#define PANELS(n) (((n) + PANEL - 1) / PANEL * PANEL) /* n, filled up to whole panels */
#define BLOCK 256                                     /* queries that are worked on together at most: for the cache */
#define LEAST 64                                      /* queries that are worth a thread's while */
#define SLICE 2048                                    /* centres that are laid out at once: whole panels */
#define KEPT 8                                        /* candidates a query; with more, exact.py searches itself */
#define VECS 2                                        /* vectors of a panel that a tile takes at once */
#define MOST_THREADS 64
#define MARGIN 1e-3f                                  /* as in bounds.py */
#define TINY 1e-16f                                   /* as in shadows.py */
#define MOST_GROUPS 32                                /* words of codes of a shadow */
#define EXACT_GROUPS 256                              /* words whose products floats hold exactly, summed */
#define MIDDLE 64                                     /* of the codes of queries, 1 to 127 */
#define HIDDEN (-2000000000)                          /* the start of what does not count, and of padding */
#define VECTOR(bank, slot) ((bank)->vectors + (slot) * (bank)->width)

typedef float four __attribute__((vector_size(16)));
typedef int four_ints __attribute__((vector_size(16), aligned(4)));

/* Which lanes of a comparison are true: a bit for each. */
static inline uint32_t true_lanes(four_ints mask)
{
    const four_ints bits = mask & (four_ints){1, 2, 4, 8};
    return (uint32_t)(bits[0] | bits[1] | bits[2] | bits[3]);
}

/* What starts + codes . codes has at least where a distance is at most `within`, as a multiple of 2 steps. With u and b for
 * the codes of the query (whose squares' sum is `squares`) and the vector, the square of their distance is
 * step^2 (4 u.u + b.b - 4 u.b). */
static inline int32_t least_code(float squares, float within)
{
    const float least = squares - 1.00001f * within * within;
    return least > HIDDEN / 2 ? (int32_t)least - 2 : HIDDEN / 2;
}

/* The bank's side, made by nearest.py. */
typedef struct {
    int32_t dim, width;                     /* of vectors; filled up to whole lanes */
    int32_t axes, dims;                     /* of space, 0 = all of it; of shadows */
    int32_t cells, groups;                  /* of the bank; words of codes */
    const float *middle;                    /* (dim) */
    const float *directions;                /* panels of (dim, PANEL): the axes */
    const float *pivots, *halves;           /* panels of (dims, PANEL); (cells) their squares, halved */
    const int8_t *codes;                    /* panels of (groups, PANEL) words of four: shadows / step, cell by cell */
    const float *wrong;                     /* (cells) what codes are wrong by, at most */
    const int32_t *first;                   /* (cells + 1) panels of each cell */
    const int32_t *numbers;                 /* (panels, PANEL) which vectors they are */
    const float *vectors;                   /* (panels * PANEL, width), in the same order */
    const float *between, *least;           /* (cells, panels of cells * PANEL) */
    float step, half_step, rest, shadow_rounding, rounding, farthest, measure_rounding;
} Bank;

/* Codes of queries are shadows / (2 step) + MIDDLE: 7 bits, so that sums of two products fit 16 bits. */
typedef struct {
    const float *vector;
    const void *codes;
    float error, wrong;       /* of the shadow; of the codes beside it */
    float length, squares;    /* of the shadow; of the codes */
    float reach, best;        /* distance, for shadows; square of the nearest so far */
    int32_t cell, limit;      /* its own; what the products of codes that matter have at least, in the cell it is shown */
    int64_t promising;        /* the place of the vector that is nearest by code; -1: none */
    int32_t count;            /* of vectors that may be the nearest; they are kept while it is <= KEPT */
    int32_t numbers[KEPT];
    float squared[KEPT];
} Query;

/* Memory that a thread keeps from one item of work to the next. */
typedef struct {
    void *bytes;
    size_t size;
} Arena;

/* Makes it as large as asked for; what it held is lost. Returns its bytes, or NULL where memory is lacking. */
static void *reserve(Arena *arena, size_t size)
{
    if (size > arena->size) {
        free(arena->bytes);
        arena->bytes = malloc(size);
        arena->size = arena->bytes ? size : 0;
    }
    return arena->bytes;
}

/* The next piece of memory that is laid out from an address on, for `count` things of a size. */
static void *cut(uintptr_t *next, size_t count, size_t size)
{
    void *piece = (void *)*next;
    *next += (count * size + 63) / 64 * 64;
    return piece;
}

/* For each cell, the numbers of the queries that it is to be shown to. */
typedef struct {
    int32_t *lengths;  /* (cells) */
    uint16_t *numbers; /* (cells, BLOCK) */
} Lists;

static inline void list(const Lists *lists, int cell, int number)
{
    lists->numbers[(size_t)cell * BLOCK + lists->lengths[cell]++] = (uint16_t)number;
}

/* A vector was measured: keeps it if it may be the nearest, for all that rounding hides. Returns 1 if it is nearer. */
static inline int note(const Bank *bank, Query *query, size_t slot, float squared)
{
    const int32_t number = bank->numbers[slot];
    const float slack = 1 + 4 * bank->measure_rounding;
    const int nearer = squared < query->best;
    if (squared > query->best * slack + TINY * TINY)
        return 0;
    if (nearer) {
        int kept = 0;
        query->best = squared;
        query->reach = sqrtf(squared) * (1 + bank->measure_rounding) + query->error + TINY;
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
    return nearer;
}

/* What codes' products have at least for a vector within the query's reach, whose codes are wrong by `wrong` at most. */
static inline int32_t limit(const Bank *bank, const Query *query, float wrong)
{
    return least_code(query->squares, (query->reach + query->wrong + wrong) * bank->half_step);
}

/* The state of bounds.py. points (N, dim), centres, pivots; the other arrays are (N). */
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
    void (*work)(const void *task, int item, Arena *arena);
    const void *task;
    int count, next;
} Items;

static void *take_items(void *shared)
{
    Items *items = shared;
    Arena arena = {NULL, 0};
    for (int item; (item = __atomic_fetch_add(&items->next, 1, __ATOMIC_RELAXED)) < items->count;)
        items->work(items->task, item, &arena);
    free(arena.bytes);
    return NULL;
}

/* Does all items, in this thread and in up to `threads` - 1 others; in fewer, if the system gives no more. */
static void spread(void (*work)(const void *, int, Arena *), const void *task, int count, int threads)
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

/* Each instruction set compiles tile.h, nearest.h and measure.h for itself: its TARGET, DOT (sums + the products of four
 * unsigned and four signed bytes in each lane; none: floats are multiplied), LANES, ROWS and NAME(). */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512vnni,fma")))
#define DOT(sums, codes, words) _mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(codes), (__m512i)(words))
#define REACHING(values, limits) (uint32_t)_mm512_cmpge_epi32_mask((__m512i)(values), (__m512i)(limits))
#define ABOVE(values, limits) (uint32_t)_mm512_cmp_ps_mask((__m512)(values), (__m512)(limits), _CMP_GE_OQ)
#define LANES 16
#define ROWS 12
#define NAME(name) name##_avx512
#include "set.h"

#define REACHING_256(values, limits) \
    (uint32_t)_mm256_movemask_ps((__m256)_mm256_cmpgt_epi32((__m256i)(values), (__m256i)((limits) - 1)))
#define ABOVE_256(values, limits) \
    (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)(values), (__m256)(limits), _CMP_GE_OQ))

/* Some processors have AVX-VNNI, the product of AVX-512 for 256 bits, though no AVX-512. With TWIN defined, AVX-512's own
 * for 256 bits takes its place, to test all the rest where there is no AVX-VNNI. */
#if defined(TWIN)
#define TARGET __attribute__((target("avx2,fma,avx512vnni,avx512vl")))
#define DOT(sums, codes, words) _mm256_dpbusd_epi32((__m256i)(sums), (__m256i)(codes), (__m256i)(words))
#elif defined(__clang__) ? __clang_major__ >= 15 : __GNUC__ >= 12
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#define DOT(sums, codes, words) _mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(codes), (__m256i)(words))
#endif
#if defined(DOT)
#define HAS_AVXVNNI
#define REACHING REACHING_256
#define ABOVE ABOVE_256
#define LANES 8
#define ROWS 6
#define NAME(name) name##_avxvnni
#include "set.h"
#endif

#define TARGET __attribute__((target("avx2,fma")))
#define DOT(sums, codes, words) \
    _mm256_add_epi32((__m256i)(sums), \
                     _mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)(codes), (__m256i)(words)), _mm256_set1_epi16(1)))
#define REACHING REACHING_256
#define ABOVE ABOVE_256
#define LANES 8
#define ROWS 6
#define NAME(name) name##_avx2
#include "set.h"
#endif

#define TARGET
#define REACHING(values, limits) true_lanes((values) >= (limits))
#define ABOVE(values, limits) true_lanes((values) >= (limits))
#define LANES 4
#define ROWS 4
#define NAME(name) name##_any
#include "set.h"

/* level: 0 = the best instructions that this processor has; 1 = AVX2 at most; 2 = none but those that all have. */
#if defined(__x86_64__)
static int has_avx512(int level)
{
#if defined(TWIN)
    level = 1;
#endif
    return level < 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
}

static int has_avx2(int level)
{
    return level < 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#if defined(HAS_AVXVNNI)
static int has_avxvnni(int level)
{
#if defined(TWIN)
    return level < 1 && has_avx2(level) && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
    return level < 1 && has_avx2(level) && __builtin_cpu_supports("avxvnni");
#endif
}
#define BEST_256(name, level) (has_avxvnni(level) ? name##_avxvnni : name##_avx2)
#else
#define BEST_256(name, level) name##_avx2
#endif
#define BEST(name, level) (has_avx512(level) ? name##_avx512 : has_avx2(level) ? BEST_256(name, level) : name##_any)
#else
#define BEST(name, level) ((void)(level), name##_any)
#endif

typedef struct {
    const Bank *bank;
    const int32_t *starts;
    const float *queries;
    int total, step, level, *failed;
    int32_t *found;
} Search;

static void search_some(const void *task, int item, Arena *arena)
{
    const Search *all = task;
    const int start = item * all->step, left = all->total - start, count = left < all->step ? left : all->step;
    const float *queries = all->queries + (size_t)start * all->bank->dim;
    if (BEST(search, all->level)(all->bank, all->starts, queries, count, all->found + (size_t)start * KEPT, arena))
        __atomic_store_n(all->failed, 1, __ATOMIC_RELAXED);
}

/* found: (total, KEPT), for each query the bank vectors that may be its nearest, -1 for none; a first of -1: too many.
 * starts: (panels, PANEL), what codes' products start from; HIDDEN for vectors that do not count, and padding.
 * Returns 0, or 1 where memory is lacking. */
int patchbank_nearest_2(
    const Bank *bank, const int32_t *starts, const float *queries, int total, int32_t *found, int threads, int level)
{
    const int even = (total + 2 * threads - 1) / (2 * threads);
    const int step = even < LEAST ? LEAST : even > BLOCK ? BLOCK : even;
    int failed = 0;
    const Search all = {bank, starts, queries, total, step, level, &failed, found};
    spread(search_some, &all, (total + step - 1) / step, threads);
    return failed;
}

typedef struct {
    const Traversal *all;
    const Group *groups;
    Pairs *pairs;
    int level, *failed;
} Measuring;

static void measure_some(const void *task, int item, Arena *arena)
{
    const Measuring *measuring = task;
    const int failed =
        BEST(measure_group, measuring->level)(measuring->all, measuring->groups + item, measuring->pairs, arena);
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
