/* Private to runtime/: what --instrument watches while a program trains. */
#ifndef MPCC_RUNTIME_INSTRUMENT_H
#define MPCC_RUNTIME_INSTRUMENT_H

#include "runtime/rt.h"

typedef struct mprt__instrument mprt__instrument;

/* *out: NULL when neither the options nor the image ask for any. errors: ERR_USAGE for an unknown
 * word, ERR_NOMEM */
Status mprt__instrument_create(mprt_program *p, mprt__instrument **out);
void mprt__instrument_destroy(mprt__instrument *i); /* NULL is fine */
/* Runs f as part of the step that is `step` steps after the first one; i may be NULL. */
Status mprt__instrument_run(mprt__instrument *i, mprt_program *p, const MpccFunction *f,
                            int64_t step);
/* Writes what was gathered into out_dir, with a summary to the log; i may be NULL.
 * errors: ERR_FILE, ERR_NOMEM */
Status mprt__instrument_report(mprt__instrument *i, mprt_program *p, const char *out_dir);

#endif
