/* CIFAR-10 and CIFAR-100 in their binary version: records of one or two label bytes, then 3072
 * bytes of a 32x32 image, red plane first. Source: https://www.cs.toronto.edu/~kriz/cifar.html. */
#include <string.h>

#include "runtime/data/arrays.h"

enum { IMAGE_BYTES = 3 * 32 * 32 };

static Status add_file(mprt__arrays *a, const mprt__data_source *s, const char *path) {
  const mprt_callbacks *cb = s->cb;
  int nlabel = a->base.nfield - 1;
  uint64_t record = (uint64_t)nlabel + IMAGE_BYTES;
  mprt__file file;
  Status st = mprt__file_open(path, cb, &file);
  if (st != MPCC_OK)
    return st;
  uint64_t n = file.bytes / record;
  if (!n || file.bytes % record) {
    st = mprt__fail(cb, MPCC_ERR_DATA,
                    "%s: %llu bytes are not whole records of %llu (%d label byte%s and a 32x32 "
                    "image): truncated, or not a CIFAR-%s file",
                    path, (unsigned long long)file.bytes, (unsigned long long)record, nlabel,
                    nlabel > 1 ? "s" : "", nlabel > 1 ? "100" : "10");
    mprt__file_close(&file);
    return st;
  }
  st = mprt__arrays_block(a, NULL, file, cb);
  for (int f = 0; st == MPCC_OK && f < 1 + nlabel; f++) /* image, then the last label byte first */
    st = mprt__arrays_piece(a, f, f ? (uint64_t)(nlabel - f) : (uint64_t)nlabel, record, (int64_t)n,
                            cb);
  return st;
}

static Status open_cifar(const mprt__data_source *s, int nlabel, mprt__dataset **out) {
  mprt__arrays *a;
  *out = NULL;
  Status st = mprt__arrays_create(s->cb, &a);
  if (st != MPCC_OK)
    return st;
  if (mprt__arrays_field(a, "image", MPRT__STORE_U8, 3, (int64_t[]){3, 32, 32}) < 0 ||
      mprt__arrays_field(a, "label", MPRT__STORE_U8, 0, NULL) < 0 ||
      (nlabel > 1 && mprt__arrays_field(a, "coarse_label", MPRT__STORE_U8, 0, NULL) < 0))
    st = mprt__nomem(s->cb, "data set");
  return mprt__arrays_files(a, s, st, add_file, out);
}

Status mprt__cifar10_open(const mprt__data_source *s, mprt__dataset **out) {
  return open_cifar(s, 1, out);
}

/* Records begin with the coarse label; `label` is the fine one, as in torchvision. */
Status mprt__cifar100_open(const mprt__data_source *s, mprt__dataset **out) {
  return open_cifar(s, 2, out);
}
