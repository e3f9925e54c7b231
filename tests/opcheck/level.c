/* Which levels of the CPU target can be run. */
#include "level.h"

#include <string.h>

#include "runtime/rt.h"

bool level_runs(const char *needs) {
  for (const char *w = needs; *w; w += strspn(w, " ")) {
    bool known;
    size_t n = strcspn(w, " ");
    if (n && !mprt__cpu_has(w, n, &known))
      return false;
    w += n;
  }
  return true;
}
