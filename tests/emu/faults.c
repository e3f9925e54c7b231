/* Injected faults, by environment:
 *   EMU_FAIL=name:n[:error],...   the nth call of `name` (or `*`: of any) answers error (default
 * 999) EMU_OOM=n                     the nth allocation, of the device or pinned, is out of memory
 *   EMU_LAUNCH_ERROR=n, EMU_ILLEGAL_ADDRESS=n   the nth launch ends with 719, 700, noticed late */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
  char name[48];
  uint64_t n;
} counted[96];
static uint64_t any_calls, allocations;

static uint64_t count(const char *name) {
  for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
    if (!counted[i].name[0])
      snprintf(counted[i].name, sizeof counted[i].name, "%s", name);
    if (strcmp(counted[i].name, name) == 0)
      return ++counted[i].n;
  }
  return 0;
}

CUresult fault_of_call(const char *name) {
  const uint64_t n = count(name);
  any_calls++;
  const char *spec = getenv("EMU_FAIL");
  while (spec && *spec) {
    const size_t length = strcspn(spec, ":"), all = strcspn(spec, ",");
    const bool any = length == 1 && *spec == '*';
    if (any || (length == strlen(name) && memcmp(spec, name, length) == 0)) {
      char *end;
      const uint64_t at = length < all ? strtoull(spec + length + 1, &end, 10) : 1;
      const int error =
          length < all && *end == ':' ? (int)strtol(end + 1, NULL, 10) : CUDA_ERROR_UNKNOWN;
      if (at == (any ? any_calls : n))
        return error;
    }
    spec += all + (spec[all] == ',');
  }
  return CUDA_SUCCESS;
}

bool fault_of_allocation(void) {
  return (int64_t)++allocations == emu_env("EMU_OOM", 0);
}

CUresult fault_of_launch(uint64_t number) {
  return (int64_t)number == emu_env("EMU_LAUNCH_ERROR", 0)      ? CUDA_ERROR_LAUNCH_FAILED
         : (int64_t)number == emu_env("EMU_ILLEGAL_ADDRESS", 0) ? CUDA_ERROR_ILLEGAL_ADDRESS
                                                                : CUDA_SUCCESS;
}
