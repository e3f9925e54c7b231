/* Files of a split: patterns, gzip, reads at offsets. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/data/data.h"

/* ---- patterns ---- */

static int by_bytes(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_pattern(const char *path) {
  struct stat st;
  return strpbrk(path, "*?[") && stat(path, &st) != 0;
}

static Status expand(const mprt__data_source *s, const char *pattern, mprt__paths *out) {
  glob_t g = {0};
  int code = glob(pattern, GLOB_NOSORT, NULL, &g);
  Status st = MPCC_OK;
  if (code == GLOB_NOMATCH)
    st = mprt__fail(s->cb, MPCC_ERR_FILE, "data.%s: no file matches '%s'", s->split, pattern);
  else if (code)
    st = mprt__fail(s->cb, MPCC_ERR_FILE, "data.%s: cannot list '%s'", s->split, pattern);
  if (st == MPCC_OK)
    qsort(g.gl_pathv, g.gl_pathc, sizeof *g.gl_pathv, by_bytes);
  for (size_t i = 0; st == MPCC_OK && i < g.gl_pathc; i++)
    st = mprt__paths_add(out, g.gl_pathv[i], s->cb);
  globfree(&g);
  return st;
}

Status mprt__paths_add(mprt__paths *p, const char *path, const mprt_callbacks *cb) {
  if (!(p->n & (p->n - 1))) { /* room is the next power of two */
    char **q = realloc(p->path, (size_t)(p->n ? 2 * p->n : 1) * sizeof *q);
    if (!q)
      return mprt__nomem(cb, "file names");
    p->path = q;
  }
  p->path[p->n] = strdup(path);
  return p->path[p->n] ? (p->n++, MPCC_OK) : mprt__nomem(cb, "file names");
}

Status mprt__paths_of(const mprt__data_source *s, const char *key, mprt__paths *out) {
  *out = (mprt__paths){0};
  char *path = mprt__data_path(s, key);
  if (!path)
    return mprt__nomem(s->cb, "file names");
  Status st = is_pattern(path) ? expand(s, path, out) : mprt__paths_add(out, path, s->cb);
  free(path);
  if (st != MPCC_OK)
    mprt__paths_free(out);
  return st;
}

void mprt__paths_free(mprt__paths *p) {
  for (int i = 0; i < p->n; i++)
    free(p->path[i]);
  free(p->path);
  *p = (mprt__paths){0};
}

/* ---- one file ---- */

Status mprt__file_open(const char *path, const mprt_callbacks *cb, mprt__file *out) {
  struct stat st;
  *out = (mprt__file){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  int error = out->fd < 0 || fstat(out->fd, &st) ? errno : 0;
  if (!error && !S_ISREG(st.st_mode))
    error = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
  if (error) {
    if (out->fd >= 0)
      close(out->fd);
    out->fd = -1;
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path,
                      error == EINVAL ? "not a regular file" : strerror(error));
  }
  out->bytes = (uint64_t)st.st_size;
  out->path = strdup(path);
  if (out->path)
    return MPCC_OK;
  mprt__file_close(out);
  return mprt__nomem(cb, path);
}

void mprt__file_close(mprt__file *f) {
  if (f->fd >= 0)
    close(f->fd);
  free(f->path);
  *f = (mprt__file){.fd = -1};
}

int mprt__file_get(const mprt__file *f, uint64_t at, void *to, size_t bytes) {
  for (size_t have = 0; have < bytes;) {
    ssize_t n = pread(f->fd, (uint8_t *)to + have, bytes - have, (off_t)(at + have));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? errno : EIO;
    have += (size_t)n;
  }
  return 0;
}

/* ---- whole files, plain or compressed ---- */

/* Reads to the end, into memory that grows with what is there. */
static uint8_t *get_all(gzFile f, size_t *bytes) {
  size_t room = 1 << 16, have = 0;
  uint8_t *p = malloc(room);
  while (p) {
    size_t ask = room - have < (1u << 30) ? room - have : 1u << 30;
    int k = gzread(f, p + have, (unsigned)ask);
    if (k <= 0)
      break;
    have += (size_t)k;
    if (have == room) {
      uint8_t *q = realloc(p, room *= 2);
      if (!q)
        free(p);
      p = q;
    }
  }
  *bytes = have;
  return p;
}

Status mprt__file_whole(const char *path, const mprt_callbacks *cb, uint8_t **data, size_t *bytes) {
  struct stat info;
  *data = NULL;
  *bytes = 0;
  errno = 0;
  bool folder = !stat(path, &info) && S_ISDIR(info.st_mode);
  gzFile f = folder ? NULL : gzopen(path, "rb");
  if (!f)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path,
                      strerror(folder ? EISDIR : errno));
  gzbuffer(f, 1 << 18);
  uint8_t *p = get_all(f, bytes);
  int code = Z_OK;
  const char *why = p ? gzerror(f, &code) : NULL;
  Status st = MPCC_OK;
  if (!p)
    st = mprt__nomem(cb, path);
  else if (code == Z_ERRNO)
    st = mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(errno));
  else if (code != Z_OK && code != Z_STREAM_END)
    st = mprt__fail(cb, MPCC_ERR_DATA, "%s: damaged: %s", path, why);
  gzclose_r(f);
  if (st != MPCC_OK) {
    free(p);
    *bytes = 0;
    return st;
  }
  *data = p;
  return MPCC_OK;
}
