/* Status codes shared by compiler and runtime. A function that can fail returns one; the words that
 * go with it are sent to the diagnostics sink or callback that was passed in. */
#ifndef MPCC_STATUS_H
#define MPCC_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* ROW(enumerator, text, exit code of the driver, exit code of a program); the manual page
 * has the codes in words. */
#define MPCC_STATUS_ROWS(ROW)                                                                      \
  ROW(OK, "ok", 0, 0)                                                                              \
  ROW(ERR_INPUT, "the spec or IR text is wrong", 1, 1)                                             \
  ROW(ERR_RUN, "run-time failure", 1, 1)                                                           \
  ROW(ERR_USAGE, "wrong usage", 2, 2)                                                              \
  ROW(ERR_TARGET, "known but impossible on this target", 3, 3)                                     \
  ROW(ERR_FILE, "file not readable or writable", 4, 4)                                             \
  ROW(ERR_DATA, "data or checkpoint is wrong", 4, 4)                                               \
  ROW(ERR_INTERNAL, "internal error", 5, 5)                                                        \
  ROW(ERR_DIVERGED, "training diverged", 10, 10)                                                   \
  ROW(ERR_NOMEM, "out of memory", 11, 11)                                                          \
  ROW(ERR_REQUEUE, "stopped by a signal, checkpoint written", 75, 75)                              \
  ROW(ERR_INTERRUPTED, "interrupted", 130, 130)

typedef enum {
#define ROW(e, text, d, p) MPCC_##e,
  MPCC_STATUS_ROWS(ROW)
#undef ROW
} mpcc_status;

#ifdef __cplusplus
}
#endif
#endif
