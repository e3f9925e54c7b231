/* Small file helpers of the library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/lib.h"

Status blob_append(Blob *b, const void *data, size_t len) {
  size_t at = (b->len + 63) / 64 * 64;
  char *p = realloc(b->data, at + len + 1);
  if (!p)
    return MPCC_ERR_NOMEM;
  memset(p + b->len, 0, at - b->len);
  memcpy(p + at, data, len);
  p[at + len] = 0;
  b->data = p;
  b->len = at + len;
  return MPCC_OK;
}

Status blob_take(Blob *b, void *data, size_t len) {
  if (!b->data) {
    *b = (Blob){data, len};
    return MPCC_OK;
  }
  Status st = blob_append(b, data, len);
  free(data);
  return st;
}

Status lib_read_file(const char *path, char **text, size_t *len) {
  *text = NULL;
  *len = 0;
  FILE *f = fopen(path, "rb");
  if (!f)
    return MPCC_ERR_FILE;
  size_t cap = 1 << 16, n = 0;
  char *p = malloc(cap);
  while (p) {
    n += fread(p + n, 1, cap - n - 1, f);
    if (n < cap - 1)
      break;
    char *q = realloc(p, cap *= 2);
    if (!q)
      free(p);
    p = q;
  }
  bool bad = ferror(f);
  fclose(f);
  if (!p)
    return MPCC_ERR_NOMEM;
  if (bad) {
    free(p);
    return MPCC_ERR_FILE;
  }
  p[n] = 0;
  *text = p;
  *len = n;
  return MPCC_OK;
}

const char *lib_cache_dir(const char *asked, char *buffer, size_t size) {
  if (asked)
    return asked;
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int n = 0;
  if (xdg && *xdg)
    n = snprintf(buffer, size, "%s/mpcc", xdg);
  else if (home && *home)
    n = snprintf(buffer, size, "%s/.cache/mpcc", home);
  return n > 0 && (size_t)n < size ? buffer : NULL;
}

Status lib_take_text(Text *t, void **out, size_t *bytes) {
  if (t->failed) {
    text_fini(t);
    return MPCC_ERR_NOMEM;
  }
  *out = t->data ? t->data : calloc(1, 1);
  *bytes = t->len;
  return *out ? MPCC_OK : MPCC_ERR_NOMEM;
}
