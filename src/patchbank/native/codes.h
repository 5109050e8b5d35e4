/* What the functions return. */
enum { DONE, NO_ROOM, NO_MEMORY, IMPOSSIBLE, OUT_OF_RANGE };
