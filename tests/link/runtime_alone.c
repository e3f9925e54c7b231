/* A host that uses the runtime and nothing else of mpcc. */
#include <stdio.h>
#include <string.h>

#include "mpcc/runtime.h"

static void keep(void *user, mprt_log_level level, const char *text) {
  (void)level;
  snprintf(user, 256, "%s", text);
}

int main(void) {
  char words[256] = "";
  mprt_callbacks cb = {.log = keep, .user = words};
  mprt_program *p;
  /* Not an image: refused, in words, and nothing is printed. */
  if (mprt_open("no image at all", 15, NULL, &cb, &p) != MPCC_ERR_INPUT || p)
    return 1;
  return strstr(words, "not an image") ? 0 : 2;
}
