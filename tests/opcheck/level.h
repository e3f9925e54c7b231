/* Apart from opcheck.h: the runtime's private header and the compiler's do not go together. */
#ifndef OPCHECK_LEVEL_H
#define OPCHECK_LEVEL_H

#include <stdbool.h>

/* Whether this machine has every feature of `needs` (Target.level_needs). */
bool level_runs(const char *needs);

#endif
