/* `mpcc compare`: one spec trained in several modes, side by side. */
#ifndef MPCC_DRIVER_COMPARE_H
#define MPCC_DRIVER_COMPARE_H

#include "driver/args.h"

/* Compiles `text` in each mode of a->precisions, trains them one after the other with the same seed
 * and data and the program options of a, and writes a table or JSON to -o (standard output), and a
 * page to a->html. Messages go to cb. Modes that diverge have a column that says so.
 * The exit code: that of the first mode that failed otherwise. */
int compare_spec(const Args *a, const mpcc_callbacks *cb, const char *input, const char *text,
                 size_t len);

#endif
