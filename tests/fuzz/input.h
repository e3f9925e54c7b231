/* What fuzz targets of file readers share: the input as a file, and a log that counts. Everything
 * is a static function: each target is one program. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/data/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file in memory with the path /proc/self/fd/N. */
typedef struct {
  int fd;
  char path[40];
} InputFile;

__attribute__((unused)) static InputFile input_file(const uint8_t *data, size_t size) {
  InputFile f = {.fd = memfd_create("fuzz", 0)};
  if (f.fd < 0 || (size && write(f.fd, data, size) != (ssize_t)size))
    _exit(1);
  snprintf(f.path, sizeof f.path, "/proc/self/fd/%d", f.fd);
  return f;
}

__attribute__((unused)) static void input_count(void *user, mprt_log_level level,
                                                const char *text) {
  (void)text;
  *(int *)user += level == MPRT_LOG_ERROR;
}

/* Opens `config` (JSON text, %s: the file) as a split: it is refused with one error, or every byte
 * of every sample can be read. */
__attribute__((unused)) static void input_dataset(mprt__format_open *open, const char *config) {
  int errors = 0;
  mprt_callbacks cb = {.log = input_count, .user = &errors};
  json_t *json = json_loads(config, 0, NULL);
  mprt__data_source s = {.split = "train", .config = json, .dir = "", .cb = &cb};
  mprt__dataset *d = NULL;
  Status st = open(&s, &d);
  if ((st == MPCC_OK) != (d != NULL) || (st == MPCC_OK) != !errors)
    abort();
  unsigned sum = 0;
  mprt__reader r = {0};
  if (d && mprt__reader_init(&r, d, &cb) != MPCC_OK)
    abort();
  for (int64_t i = 0; d && i < d->nsample && i < 64; i++)
    for (int f = 0; f < d->nfield; f++) {
      int64_t at = i < 32 ? i : d->nsample - 1 - (i - 32); /* both ends */
      if (at < 0)
        continue;
      const uint8_t *p = d->read(d, &r, at, f);
      if (!p && (r.error == MPCC_OK || !*r.message))
        abort(); /* refused without a word */
      if (!p)
        continue;
      int64_t n = d->field[f].elems * (int64_t)dtype_bytes(d->field[f].dtype);
      for (int64_t k = 0; k < n && k < 4096; k++)
        sum += p[k] + p[n - 1 - k];
    }
  if (sum == 0xffffffff)
    abort();
  mprt__reader_fini(&r);
  mprt__data_close(d);
  json_decref(json);
}

#endif
