/* Where a step's time goes on a GPU. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include "mpcc/runtime.h"

/* Runs so many steps command by command, and writes a table of kinds of work to a file:
 * milliseconds, bytes and their share of what a copy on the device reaches, arithmetic; its last
 * line sums up. 0 or an exit status. */
int kernels_report(mprt_program *p, int steps, const char *path);

#endif
