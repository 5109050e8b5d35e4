/* The structs and numbers that Python shares with native.c, once: declared here, and described for layout.py, which makes
 * its own from the description. number(type, name); array(type, name, length): how many there must be, `its` struct says.
 */

/* The bank's side of a search, made by exact.py. */
#define BANK(number, array) \
    number(int32_t, dim)                   /* of vectors */ \
    number(int32_t, width)                 /* of vectors, filled up to whole lanes of the widest instructions */ \
    number(int32_t, axes)                  /* of shadows, 0 = all of space */ \
    number(int32_t, dims)                  /* of shadows: the axes and the rest, or all of space */ \
    number(int32_t, cells)                 \
    number(int32_t, panels)                /* of all cells */ \
    number(int32_t, groups)                /* words of codes */ \
    array(const float, middle, SIZE(dim))  \
    array(const float, directions, PANELS(SIZE(axes)) * SIZE(dim)) /* panels of (dim, PANEL): the axes */ \
    array(const float, pivots, PANELS(SIZE(cells)) * SIZE(dims))   /* panels of (dims, PANEL) */ \
    array(const float, halves, SIZE(cells))                        /* of the pivots' squares */ \
    array(const int8_t, codes, SIZE(panels) * SIZE(groups) * 4 * PANEL) \
    /* panels of (groups, PANEL) words of four: shadows / step, cell by cell */ \
    array(const float, wrong, SIZE(cells))                         /* what codes are wrong by, at most */ \
    array(const int32_t, first, SIZE(cells) + 1)                   /* the panel that each cell starts at */ \
    array(const int32_t, numbers, SIZE(panels) * PANEL)            /* (panels, PANEL) which vectors they are */ \
    array(const float, vectors, SIZE(panels) * PANEL * SIZE(width)) /* in the same order */ \
    array(const float, between, SIZE(cells) * PANELS(SIZE(cells))) /* (cells, whole panels of cells) */ \
    array(const float, least, SIZE(cells) * PANELS(SIZE(cells)))   /* the same */ \
    number(float, step)                    /* of codes */ \
    number(float, half_step)               /* 0.5 / step */ \
    number(float, rest)                    \
    number(float, shadow_rounding)         \
    number(float, rounding)                \
    number(float, farthest)                \
    number(float, measure_rounding)

/* The state of bounds.py: `points` points, of which and of the centres there are `dim` coordinates. */
#define TRAVERSAL(number, array) \
    number(int32_t, dim)                   \
    number(int32_t, cells)                 \
    number(int32_t, capacity)              /* centres that there will be */ \
    number(int64_t, count)                 /* of points */ \
    number(float, rounding)                \
    array(const float, points, its->count * SIZE(dim)) \
    array(const float, centres, SIZE(capacity) * SIZE(dim)) \
    array(const float, pivots, SIZE(cells) * SIZE(dim)) \
    array(const float, to_pivot, its->count) \
    array(const int32_t, met, its->count)  \
    array(float, bound, its->count)        \
    array(float, slack, its->count)        \
    array(int32_t, near, its->count)

/* Points of one cell, and its list of centres with their distances to the pivot. */
#define GROUP(number, array) \
    number(int32_t, cell)                  \
    array(const int64_t, points, its->points_length) /* any number */ \
    array(const int32_t, numbers, its->numbers_length) /* any number */ \
    array(const float, distances, its->numbers_length)

/* Of points and centres. They have been written only while there are no more than there is room for. */
#define PAIRS(number, array) \
    number(int64_t, count)                 \
    array(int64_t, points, its->points_length) /* any number */ \
    array(int32_t, numbers, its->points_length)

#define SIZE(name) (int64_t)its->name
#define DECLARE_NUMBER(type, name) type name;
#define DECLARE_ARRAY(type, name, length) \
    type *name; \
    int64_t name##_length;
typedef struct {
    BANK(DECLARE_NUMBER, DECLARE_ARRAY)
} Bank;
typedef struct {
    TRAVERSAL(DECLARE_NUMBER, DECLARE_ARRAY)
} Traversal;
typedef struct {
    GROUP(DECLARE_NUMBER, DECLARE_ARRAY)
} Group;
typedef struct {
    PAIRS(DECLARE_NUMBER, DECLARE_ARRAY)
} Pairs;

/* Whether arrays are there, and as long as they must be. */
#define NO_CHECK(type, name)
#define HOLDS(type, name, length) \
    &&its->name##_length >= 0 && its->name##_length == (length) && (its->name || its->name##_length == 0)
static int bank_holds(const Bank *its)
{
    return 1 BANK(NO_CHECK, HOLDS);
}
static int traversal_holds(const Traversal *its)
{
    return 1 TRAVERSAL(NO_CHECK, HOLDS);
}
static int group_holds(const Group *its)
{
    return 1 GROUP(NO_CHECK, HOLDS);
}
static int pairs_hold(const Pairs *its)
{
    return 1 PAIRS(NO_CHECK, HOLDS);
}

#include "codes.h"

typedef struct {
    const char *structure, *name, *type;
    int64_t offset;
} Field;
typedef struct {
    const char *name;
    double value;
} Constant;

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define DESCRIBE_NUMBER(type, name) {TEXT(STRUCTURE), #name, #type, offsetof(STRUCTURE, name)},
#define DESCRIBE_ARRAY(type, name, length) \
    {TEXT(STRUCTURE), #name, #type " *", offsetof(STRUCTURE, name)}, \
        {TEXT(STRUCTURE), #name "_length", "int64_t", offsetof(STRUCTURE, name##_length)},
/* After a struct's fields, its size. */
const Field patchbank_fields[] = {
#define STRUCTURE Bank
    BANK(DESCRIBE_NUMBER, DESCRIBE_ARRAY){TEXT(STRUCTURE), "", "", sizeof(STRUCTURE)},
#undef STRUCTURE
#define STRUCTURE Traversal
    TRAVERSAL(DESCRIBE_NUMBER, DESCRIBE_ARRAY){TEXT(STRUCTURE), "", "", sizeof(STRUCTURE)},
#undef STRUCTURE
#define STRUCTURE Group
    GROUP(DESCRIBE_NUMBER, DESCRIBE_ARRAY){TEXT(STRUCTURE), "", "", sizeof(STRUCTURE)},
#undef STRUCTURE
#define STRUCTURE Pairs
    PAIRS(DESCRIBE_NUMBER, DESCRIBE_ARRAY){TEXT(STRUCTURE), "", "", sizeof(STRUCTURE)},
#undef STRUCTURE
    {NULL, NULL, NULL, 0}};

#define CONSTANT(name) {#name, name}
const Constant patchbank_constants[] = {
    CONSTANT(PANEL),     CONSTANT(KEPT),       CONSTANT(HIDDEN),       CONSTANT(MIDDLE), CONSTANT(WIDEST),
    CONSTANT(MARGIN),    CONSTANT(TINY),       CONSTANT(LARGEST),      CONSTANT(MOST_DIM),
    CONSTANT(NO_ROOM),   CONSTANT(NO_MEMORY),  CONSTANT(IMPOSSIBLE),   CONSTANT(OUT_OF_RANGE), {NULL, 0}};

/* The digest of the files that this was compiled from, as compiling.py gives it. */
#if !defined(SOURCES)
#define SOURCES unknown
#endif
const char patchbank_sources[] = TEXT(SOURCES);
