/* The exit code of the command for a status of the library. */
#ifndef MPCC_DRIVER_EXIT_H
#define MPCC_DRIVER_EXIT_H

#include "mpcc/base.h"

static inline int exit_code(mpcc_status st) {
  static const int codes[] = {
#define ROW(e, text, driver, program) [MPCC_##e] = driver,
      MPCC_STATUS_ROWS(ROW)
#undef ROW
  };
  return codes[st];
}

#endif
