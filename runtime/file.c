/* Files and folders: written whole and synced, so that a name never stands for half a file. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpcc/hash.h"
#include "runtime/rt.h"

enum { BUFFER = 256 << 10 };

char *mprt__format(const char *fmt, ...) {
  char *text = NULL;
  va_list ap;
  va_start(ap, fmt);
  int n = vasprintf(&text, fmt, ap);
  va_end(ap);
  return n < 0 ? NULL : text;
}

/* ---- writing ---- */

void mprt__writer_open(mprt__writer *w, const char *path) {
  memset(w, 0, sizeof *w);
  w->buffer = malloc(BUFFER);
  w->fd = -1;
  if (!w->buffer) {
    w->error = ENOMEM;
    return;
  }
  w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (w->fd < 0)
    w->error = errno;
}

static void write_all(mprt__writer *w, const uint8_t *data, size_t bytes) {
  while (bytes > 0 && !w->error) {
    ssize_t n = write(w->fd, data, bytes);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0) {
      w->error = n < 0 ? errno : EIO;
      return;
    }
    data += n;
    bytes -= (size_t)n;
  }
}

void mprt__writer_put(mprt__writer *w, const void *data, size_t bytes) {
  if (w->error)
    return;
  if (bytes < BUFFER - w->used) {
    if (bytes > 0)
      memcpy(w->buffer + w->used, data, bytes);
    w->used += bytes;
    return;
  }
  write_all(w, w->buffer, w->used);
  w->used = 0;
  if (bytes >= BUFFER) {
    write_all(w, data, bytes);
  } else if (bytes > 0) {
    memcpy(w->buffer, data, bytes);
    w->used = bytes;
  }
}

int mprt__writer_close(mprt__writer *w) {
  if (!w->error)
    write_all(w, w->buffer, w->used);
  if (!w->error && fsync(w->fd) != 0)
    w->error = errno;
  /* Some file systems report a full disk only here. */
  if (w->fd >= 0 && close(w->fd) != 0 && !w->error)
    w->error = errno;
  free(w->buffer);
  w->buffer = NULL;
  w->fd = -1;
  return w->error;
}

Status mprt__file_write(const char *path, const void *data, size_t bytes,
                        const mprt_callbacks *cb) {
  mprt__writer w;
  mprt__writer_open(&w, path);
  mprt__writer_put(&w, data, bytes);
  int error = mprt__writer_close(&w);
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot write %s: %s", path, strerror(error));
  return MPCC_OK;
}

/* ---- reading ---- */

/* Opens a regular file; -1 with a message. */
static int open_regular(const char *path, uint64_t *bytes, const mprt_callbacks *cb) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &st) != 0) {
    mprt__log(cb, MPRT_LOG_ERROR, "cannot read %s: %s", path, strerror(errno));
  } else if (!S_ISREG(st.st_mode)) {
    mprt__log(cb, MPRT_LOG_ERROR, "cannot read %s: not a regular file", path);
  } else {
    *bytes = (uint64_t)st.st_size;
    return fd;
  }
  if (fd >= 0)
    close(fd);
  return -1;
}

/* Up to `bytes` bytes; fewer at the end of the file; -1 with errno. */
static ssize_t read_some(int fd, void *data, size_t bytes) {
  size_t have = 0;
  while (have < bytes) {
    ssize_t n = read(fd, (uint8_t *)data + have, bytes - have);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    have += (size_t)n;
  }
  return (ssize_t)have;
}

Status mprt__file_read(const char *path, size_t limit, char **data, size_t *bytes,
                       const mprt_callbacks *cb) {
  uint64_t size;
  *data = NULL;
  *bytes = 0;
  int fd = open_regular(path, &size, cb);
  if (fd < 0)
    return MPCC_ERR_FILE;
  Status s = MPCC_OK;
  if (size > limit)
    s = mprt__fail(cb, MPCC_ERR_DATA, "%s has %llu bytes, more than %zu", path,
                   (unsigned long long)size, limit);
  char *text = s == MPCC_OK ? malloc((size_t)size + 1) : NULL;
  if (s == MPCC_OK && !text)
    s = mprt__nomem(cb, path);
  ssize_t n = s == MPCC_OK ? read_some(fd, text, (size_t)size) : 0;
  if (n < 0)
    s = mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(errno));
  close(fd);
  if (s != MPCC_OK) {
    free(text);
    return s;
  }
  text[n] = 0;
  *data = text;
  *bytes = (size_t)n;
  return MPCC_OK;
}

Status mprt__file_hash(const char *path, uint64_t hash[2], uint64_t *bytes,
                       const mprt_callbacks *cb) {
  MpccHash h;
  uint64_t size;
  ssize_t n = 0;
  int fd = open_regular(path, &size, cb);
  if (fd < 0)
    return MPCC_ERR_FILE;
  uint8_t *buffer = malloc(BUFFER);
  if (!buffer) {
    close(fd);
    return mprt__nomem(cb, path);
  }
  mpcc_hash_init(&h);
  while ((n = read_some(fd, buffer, BUFFER)) > 0)
    mpcc_hash_add(&h, buffer, (size_t)n);
  int error = n < 0 ? errno : 0;
  close(fd);
  free(buffer);
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(error));
  *bytes = h.bytes;
  mpcc_hash_finish(&h, hash);
  return MPCC_OK;
}

/* ---- folders ---- */

Status mprt__dir_sync(const char *path, const mprt_callbacks *cb) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = fd < 0 ? errno : 0;
  /* File systems that cannot sync a folder say EINVAL; there is nothing more to do on them. */
  if (fd >= 0 && fsync(fd) != 0 && errno != EINVAL)
    error = errno;
  if (fd >= 0)
    close(fd);
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot sync folder %s: %s", path, strerror(error));
  return MPCC_OK;
}

Status mprt__dir_make(const char *path, const mprt_callbacks *cb) {
  char *copy = strdup(path);
  if (!copy)
    return mprt__nomem(cb, path);
  int failed = 0;
  for (char *at = copy; *at && !failed;) {
    at += strspn(at, "/");
    at += strcspn(at, "/");
    char end = *at;
    *at = 0;
    struct stat st;
    if (*copy && mkdir(copy, 0777) != 0) {
      int error = errno; /* EROFS and EACCES come before EEXIST on some systems */
      if (stat(copy, &st) != 0)
        failed = error;
      else if (!S_ISDIR(st.st_mode))
        failed = ENOTDIR;
    }
    *at = end;
  }
  free(copy);
  if (failed)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot make folder %s: %s", path, strerror(failed));
  return MPCC_OK;
}

bool mprt__dir_remove(const char *path) {
  DIR *d = opendir(path);
  if (!d)
    return errno == ENOENT;
  struct dirent *e;
  while ((e = readdir(d)) != NULL)
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
      (void)unlinkat(dirfd(d), e->d_name, 0);
  closedir(d);
  return rmdir(path) == 0;
}
