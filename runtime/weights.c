/* Weights from one safetensors file to another dtype. */
#include <stdlib.h>

#include "runtime/rt.h"

mpcc_status mprt_convert_weights(const char *from, const char *to, DType dtype,
                                 const mprt_callbacks *cb) {
  mprt__st_file f;
  Status st = mprt__st_open(from, cb, &f);
  if (st != MPCC_OK)
    return st;
  mprt__st_item *items = calloc(f.ntensor + 1, sizeof *items);
  uint8_t **data = calloc(f.ntensor + 1, sizeof *data);
  if (!items || !data)
    st = mprt__nomem(cb, from);
  for (size_t i = 0; st == MPCC_OK && i < f.ntensor; i++) {
    const mprt__st_tensor *t = &f.tensor[i];
    if (t->dtype == MPCC_DTYPE_COUNT)
      st = mprt__fail(cb, MPCC_ERR_DATA, "%s: tensor '%s' has a dtype that is not supported", from,
                      t->name);
    if (st == MPCC_OK && !(data[i] = malloc((size_t)t->bytes + 1)))
      st = mprt__nomem(cb, from);
    if (st == MPCC_OK)
      st = mprt__st_read(&f, t, t->dtype, data[i], cb);
    if (st == MPCC_OK)
      items[i] = (mprt__st_item){.name = t->name,
                                 .dtype = t->dtype,
                                 .file_dtype = dtype_is_float(t->dtype) ? dtype : t->dtype,
                                 .rank = t->rank,
                                 .dim = t->dim,
                                 .data = data[i]};
  }
  json_t *metadata = json_pack("{s:s}", "format", "pt");
  if (st == MPCC_OK)
    st = mprt__st_write(to, items, f.ntensor, metadata, cb);
  json_decref(metadata);
  for (size_t i = 0; data && i < f.ntensor; i++)
    free(data[i]);
  free(data);
  free(items);
  mprt__st_close(&f);
  return st;
}
