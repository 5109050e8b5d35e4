/* What exact.py and bounds.py do most of their time, without NumPy's passes over blocks of products; and the filters of
 * PNG's rows, undone.
 *
 * nearest.h, measure.h and unfilter.h are compiled for each instruction set that a processor may have; the functions at the end take
 * the best that it does have. No state, and no Python: ctypes calls them, and other threads run meanwhile. What they are
 * given is described in structs.h, and checked here before it is used.
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
#define LARGEST 1e15f                                 /* as in exact.py: values of vectors and queries are less */
#define WIDEST 16                                     /* lanes of the widest instructions */
#define MOST_POINTS (1LL << 40)                       /* of a traversal */
#define MOST_DIM 16384                                /* of coded points: sums of their codes' products fit an int */
#define MOST_WIDTH (1 << 24)                          /* of a bank's vectors */
#define MOST_CELLS 65536                              /* of a bank */
#define MOST_GROUPS 32                                /* words of codes of a shadow */
#define EXACT_GROUPS 256                              /* words whose products floats hold exactly, summed */
#define MOST_SIDE 1000000                             /* of a PNG: as libpng's */
#define MIDDLE 64                                     /* of the codes of queries, 1 to 127 */
#define HIDDEN (-2000000000)                          /* the start of what does not count, and of padding */
#define VECTOR(bank, slot) ((bank)->vectors + (slot) * (bank)->width)

#include "structs.h"

typedef float four __attribute__((vector_size(16)));
typedef int four_ints __attribute__((vector_size(16), aligned(4)));

/* Which lanes of a comparison are true: a bit for each. */
static inline uint32_t true_lanes(four_ints mask)
{
    const four_ints bits = mask & (four_ints){1, 2, 4, 8};
    return (uint32_t)(bits[0] | bits[1] | bits[2] | bits[3]);
}

/* What starts + codes . codes has at least where a distance is at most `within`, as a multiple of 2 steps. With u and b for
 * the codes of the query (whose squares' sum is `squares`, but for rounding) and the vector, the square of their distance
 * is step^2 (4 u.u + b.b - 4 u.b). */
static inline int32_t least_code(float squares, float within)
{
    const float least = 0.999999f * squares - 1.00001f * within * within;
    return least > HIDDEN / 2 ? (int32_t)least - 2 : HIDDEN / 2;
}

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

/* Items of work, which threads take one by one. */
typedef struct {
    void (*work)(const void *task, int item, Arena *arena);
    const void *task;
    int64_t count, next;
} Items;

static void *take_items(void *shared)
{
    Items *items = shared;
    Arena arena = {NULL, 0};
    for (int64_t item; (item = __atomic_fetch_add(&items->next, 1, __ATOMIC_RELAXED)) < items->count;)
        items->work(items->task, (int)item, &arena);
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

/* Some processors have AVX-VNNI, the product of AVX-512 for 256 bits, though no AVX-512. */
#if defined(__clang__) ? __clang_major__ >= 15 : __GNUC__ >= 12
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#define DOT(sums, codes, words) _mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(codes), (__m256i)(words))
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

/* PNG's filters of rows, by their numbers: what a byte is predicted from. */
enum { PLAIN, LEFT, ABOVE_IT, AVERAGE, PAETH };

static inline uint8_t paeth(int a, int b, int c)
{
    const int to_a = abs(b - c), to_b = abs(a - c), to_c = abs(a + b - 2 * c);
    return (uint8_t)(to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c);
}

/* One row of `width` bytes, `step` a pixel. above: the row before it, undone; NULL for none. */
static void undo_row(uint8_t *to, const uint8_t *from, const uint8_t *above, int64_t width, int step)
{
    const int filter = from[-1];
    if (filter == PLAIN || (filter == ABOVE_IT && !above)) {
        memcpy(to, from, (size_t)width);
    } else if (filter == ABOVE_IT) {
        for (int64_t i = 0; i < width; i++)
            to[i] = (uint8_t)(from[i] + above[i]);
    } else {
        for (int64_t i = 0; i < width; i++) {
            const int a = i >= step ? to[i - step] : 0, b = above ? above[i] : 0;
            const int c = above && i >= step ? above[i - step] : 0;
            to[i] = (uint8_t)(from[i] + (filter == LEFT ? a : filter == AVERAGE ? (a + b) / 2 : paeth(a, b, c)));
        }
    }
}

#if defined(__clang__)
#define SHUFFLE(a, b, type, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, type, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2")))
#define LANES 16
#define NAME(name) name##_rows_avx2
#define SHUFFLE_1(a, b) SHUFFLE(a, b, NAME(lanes), 0, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
#define SHUFFLE_2(a, b) SHUFFLE(a, b, NAME(lanes), 0, 1, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29)
#define SHUFFLE_4(a, b) SHUFFLE(a, b, NAME(lanes), 0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27)
#define SHUFFLE_8(a, b) SHUFFLE(a, b, NAME(lanes), 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#include "unfilter.h"
#endif

#define TARGET
#define LANES 8
#define NAME(name) name##_rows_any
#define SHUFFLE_1(a, b) SHUFFLE(a, b, NAME(lanes), 0, 8, 9, 10, 11, 12, 13, 14)
#define SHUFFLE_2(a, b) SHUFFLE(a, b, NAME(lanes), 0, 1, 8, 9, 10, 11, 12, 13)
#define SHUFFLE_4(a, b) SHUFFLE(a, b, NAME(lanes), 0, 1, 2, 3, 8, 9, 10, 11)
#define SHUFFLE_8(a, b) (a)
#include "unfilter.h"

/* level: 0 = the best instructions that this processor has; 1 = AVX-VNNI at most; 2 = AVX2 at most; 3 = none but those that
 * all have. */
enum { ANY, AVX2, AVXVNNI, AVX512 };

static int best(int level)
{
#if defined(__x86_64__)
    if (level < 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni"))
        return AVX512;
    if (level < 3 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
#if defined(HAS_AVXVNNI)
        if (level < 2 && __builtin_cpu_supports("avxvnni"))
            return AVXVNNI;
#endif
        return AVX2;
    }
#endif
    (void)level;
    return ANY;
}

/* Which instructions are used at a level. */
const char *patchbank_instructions(int level)
{
#if defined(__aarch64__)
    static const char *const names[] = {"neon", "avx2", "avxvnni", "avx512"};
#else
    static const char *const names[] = {"any", "avx2", "avxvnni", "avx512"};
#endif
    return names[best(level)];
}

#if defined(__x86_64__)
#if defined(HAS_AVXVNNI)
#define BEST_256(name, level) (best(level) == AVXVNNI ? name##_avxvnni : name##_avx2)
#else
#define BEST_256(name, level) name##_avx2
#endif
#define BEST(name, level) \
    (best(level) == AVX512 ? name##_avx512 : best(level) == ANY ? name##_any : BEST_256(name, level))
#else
#define BEST(name, level) ((void)(level), name##_any)
#endif

static int in_range(const float *values, size_t count)
{
    int beyond = 0;
    for (size_t i = 0; i < count; i++)
        beyond |= !(fabsf(values[i]) < LARGEST);
    return !beyond; /* not for NaN */
}

/* Keeps the first that went wrong. */
static void fail(int *failed, int how)
{
    int none = DONE;
    if (how)
        __atomic_compare_exchange_n(failed, &none, how, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Whether a bank is one: nothing that it says leads out of its arrays. */
static int bank_is_sound(const Bank *bank)
{
    if (bank->dim < 1 || bank->width < bank->dim || bank->width % WIDEST || bank->width > MOST_WIDTH || bank->axes < 0 ||
        bank->dims < 1 || bank->dims > bank->dim || bank->dims > 4 * MOST_GROUPS ||
        (bank->axes ? bank->axes != bank->dims - 1 : bank->dims != bank->dim) || (bank->dims + 3) / 4 != bank->groups ||
        bank->cells < 1 || bank->cells > MOST_CELLS || bank->panels < 0 || !bank_holds(bank))
        return 0;
    for (int cell = 0; cell < bank->cells; cell++)
        if (bank->first[cell] > bank->first[cell + 1])
            return 0;
    return bank->first[0] == 0 && bank->first[bank->cells] == bank->panels;
}

typedef struct {
    const Bank *bank;
    const int32_t *starts;
    const float *queries;
    int64_t total;
    int step, level, *failed;
    int32_t *found;
} Search;

static void search_some(const void *task, int item, Arena *arena)
{
    const Search *all = task;
    const int64_t start = (int64_t)item * all->step, left = all->total - start;
    const int count = left < all->step ? (int)left : all->step;
    const size_t dim = all->bank->dim;
    const float *queries = all->queries + start * dim;
    int32_t *found = all->found + start * KEPT;
    if (!in_range(queries, count * dim))
        fail(all->failed, OUT_OF_RANGE);
    else
        fail(all->failed, BEST(search, all->level)(all->bank, all->starts, queries, count, found, arena));
}

/* queries: (total, dim). found: (total, KEPT), for each query the bank vectors that may be its nearest, -1 for none; a
 * first of -1: too many. starts: (panels, PANEL), what codes' products start from; HIDDEN for vectors that do not count,
 * and padding. Returns DONE, NO_MEMORY, OUT_OF_RANGE for a query, IMPOSSIBLE for all else that cannot be. */
int patchbank_nearest(
    const Bank *bank, const int32_t *starts, const float *queries, int64_t total, int32_t *found, int threads, int level)
{
    int failed = DONE;
    if (!bank_is_sound(bank) || total < 0 || total > INT32_MAX || threads < 1)
        return IMPOSSIBLE;
    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    const int64_t even = (total + 2 * threads - 1) / (2 * threads);
    const int step = even < LEAST ? LEAST : even > BLOCK ? BLOCK : (int)even;
    const Search all = {bank, starts, queries, total, step, level, &failed, found};
    spread(search_some, &all, (int)((total + step - 1) / step), threads);
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
    fail(
        measuring->failed,
        BEST(measure_group, measuring->level)(measuring->all, measuring->groups + item, measuring->pairs, arena));
}

/* Lowers the bounds of the groups' points that have a clearly nearest centre; finds the pairs of the others, in any
 * order. Groups have no point in common. Returns DONE, NO_ROOM for the pairs, NO_MEMORY, or IMPOSSIBLE for what cannot
 * be: of the groups that it is found in, nothing was done. */
int patchbank_measure(const Traversal *all, const Group *groups, int count, Pairs *pairs, int threads, int level)
{
    int failed = DONE;
    if (all->dim < 1 || all->dim > MOST_DIM || all->cells < 1 || all->capacity < 0 || all->count < 0 ||
        all->count > MOST_POINTS || !traversal_holds(all) || !pairs_hold(pairs) || count < 0 || threads < 1)
        return IMPOSSIBLE;
    pairs->count = 0;
    const Measuring measuring = {all, groups, pairs, level, &failed};
    spread(measure_some, &measuring, count, threads);
    return failed;
}

/* Undoes the filters of a PNG's rows. raw: (height, 1 + pixels * step), the first byte of each row its filter; out:
 * (height, pixels * step). step: bytes a pixel: 1, 2, 3, 4, 6 or 8. Returns DONE, OUT_OF_RANGE for a filter that there is
 * not (some of `out` is then written), or IMPOSSIBLE for sizes that do not belong together. */
int patchbank_unfilter(
    uint8_t *out, int64_t out_length, const uint8_t *raw, int64_t raw_length, int64_t height, int64_t pixels, int step,
    int level)
{
    if (!out || !raw || height < 1 || pixels < 1 || height > MOST_SIDE || pixels > MOST_SIDE || step < 1 || step > 8 ||
        step == 5 || step == 7 || out_length != height * pixels * step || raw_length != out_length + height)
        return IMPOSSIBLE;
#if defined(__x86_64__)
    if (best(level) != ANY)
        return unfilter_rows_avx2(out, raw, height, pixels, step);
#endif
    (void)level;
    return unfilter_rows_any(out, raw, height, pixels, step);
}
