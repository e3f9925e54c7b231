/* libFuzzer target for safetensors files: refused with one error, or every tensor is read, and what
 * is written of them reads back. */
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int errors = 0;
  mprt_callbacks cb = {.log = input_count, .user = &errors};
  InputFile in = input_file(data, size);
  mprt__st_file f;
  Status st = mprt__st_open(in.path, &cb, &f);
  if ((st == MPCC_OK) != !errors)
    abort();
  for (size_t i = 0; st == MPCC_OK && i < f.ntensor; i++) {
    const mprt__st_tensor *t = &f.tensor[i];
    if (!mprt__st_find(&f, t->name))
      abort();
    if (t->dtype == MPCC_DTYPE_COUNT)
      continue;
    uint8_t *to = malloc((size_t)t->bytes * 8 + 1);
    if (!to || mprt__st_read(&f, t, t->dtype, to, &cb) != MPCC_OK)
      abort();
    if (dtype_is_float(t->dtype) && mprt__st_read(&f, t, MPCC_F64, to, &cb) != MPCC_OK)
      abort();
    free(to);
  }
  if (st == MPCC_OK)
    mprt__st_close(&f);
  close(in.fd);
  return 0;
}
