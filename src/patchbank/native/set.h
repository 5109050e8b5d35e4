/* Everything for one instruction set, whose macros are gone afterwards. */

#include "tile.h"
#include "nearest.h"
#include "measure.h"
#undef TARGET
#undef DOT
#undef REACHING
#undef ABOVE
#undef LANES
#undef ROWS
#undef NAME
