/* Executables: the prebuilt runner with images appended, or linked by cc. */
#include "driver/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/trailer.h"

static int complain(const char *what, const char *path) {
  fprintf(stderr, "mpcc: error: cannot %s '%s': %s\n", what, path, strerror(errno));
  return 4;
}

static int put_all(int fd, const void *data, size_t n) {
  for (const char *p = data; n;) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno == EINTR)
      continue;
    if (k < 0)
      return -1;
    p += k;
    n -= (size_t)k;
  }
  return 0;
}

int write_file(const char *path, const void *data, size_t bytes, int executable) {
  if (!strcmp(path, "-"))
    return put_all(STDOUT_FILENO, data, bytes) ? complain("write", "standard output") : 0;
  char temporary[4096];
  if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary) {
    errno = ENAMETOOLONG;
    return complain("write", path);
  }
  int fd = mkstemp(temporary);
  if (fd < 0)
    return complain("write", path);
  mode_t mask = umask(0);
  umask(mask);
  int bad = put_all(fd, data, bytes) || fchmod(fd, (executable ? 0777 : 0666) & ~mask) ||
            fsync(fd);
  bad = close(fd) || bad;
  if (bad || rename(temporary, path)) {
    int code = complain("write", path);
    unlink(temporary);
    return code;
  }
  return 0;
}

/* Front part, images and licence in one buffer with the trailer behind. */
static char *assemble(const void *front, size_t front_bytes, const void *image, size_t bytes,
                      size_t *total) {
  size_t license = strlen(mpcc_license_begin) + 1;
  size_t at = (front_bytes + 4095) / 4096 * 4096;
  Trailer t = {at, bytes, license, {0}};
  memcpy(t.magic, TRAILER_MAGIC, sizeof t.magic);
  *total = at + bytes + license + sizeof t;
  char *p = calloc(1, *total);
  if (!p)
    return NULL;
  memcpy(p, front, front_bytes);
  memcpy(p + at, image, bytes);
  memcpy(p + at + bytes, mpcc_license_begin, license);
  memcpy(p + at + bytes + license, &t, sizeof t);
  return p;
}

int write_program(const char *path, const void *image, size_t bytes) {
  size_t total;
  char *p = assemble(mpcc_runner_begin, (size_t)(mpcc_runner_end - mpcc_runner_begin), image, bytes,
                     &total);
  if (!p)
    return 11;
  int code = write_file(path, p, total, 1);
  free(p);
  return code;
}
