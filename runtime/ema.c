/* Exponential moving average of the parameters: flat.<group>.ema, kept by the update
 * (passes/optim.c). To evaluate or export with it, average and parameters change places for that
 * time. */
#include <stdlib.h>
#include <string.h>

#include "runtime/rt.h"

/* The average of storage tensor i, a parameter group; -1: it has none. */
static int64_t average_of(const mprt_program *p, uint32_t i) {
  if (!p->flat[i] || p->tensor[i].role != ROLE_PARAM)
    return -1;
  char *name = mprt__format("%s.ema", mprt__string(p, p->tensor[i].name));
  int64_t k = name ? mprt__tensor_index(p, name) : -1;
  free(name);
  return k;
}

Status mprt__ema_begin(mprt_program *p) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    int64_t k = average_of(p, i);
    if (k >= 0)
      mprt__convert(mprt__tensor_data(p, i), (DType)p->tensor[i].dtype, mprt__tensor_data(p, k),
                    (DType)p->tensor[k].dtype, mprt__tensor_elems(&p->tensor[i]));
  }
  return MPCC_OK;
}

static bool wanted(const mprt_program *p, const char *use) {
  const json_t *list = mprt__json_get(p->spec, "ema.use_for");
  for (size_t i = 0; i < json_array_size(list); i++)
    if (!strcmp(json_string_value(json_array_get(list, i)), use))
      return true;
  return false;
}

/* The average is FP32 or wider, so a parameter goes through its place and back unchanged; 16-bit
 * parameters hold the rounded average meanwhile, and the exact one waits in `saved`. */
Status mprt__ema_swap(mprt_program *p, const char *use) {
  if (!wanted(p, use))
    return MPCC_OK;
  bool any = false;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    int64_t k = average_of(p, i);
    if (k < 0)
      continue;
    const MpccTensor *a = &p->tensor[i], *b = &p->tensor[k];
    int64_t n = mprt__tensor_elems(a);
    void *own = mprt__tensor_data(p, i), *mean = mprt__tensor_data(p, k);
    any = true;
    if (a->dtype == b->dtype) {
      uint8_t *buffer = malloc((size_t)a->bytes + 1);
      if (!buffer)
        return mprt__nomem(&p->cb, "ema");
      memcpy(buffer, own, (size_t)a->bytes);
      memcpy(own, mean, (size_t)a->bytes);
      memcpy(mean, buffer, (size_t)a->bytes);
      free(buffer);
    } else if (!p->ema_in) {
      size_t need = (size_t)a->bytes + 1;
      uint8_t **saved = &p->ema_saved;
      uint8_t *grown = realloc(*saved, p->ema_bytes + need);
      if (!grown)
        return mprt__nomem(&p->cb, "ema");
      *saved = grown;
      memcpy(grown + p->ema_bytes, own, (size_t)a->bytes);
      p->ema_bytes += (size_t)a->bytes;
      mprt__convert(mean, (DType)b->dtype, own, (DType)a->dtype, n);
    } else {
      memcpy(own, p->ema_saved + p->ema_at, (size_t)a->bytes);
      p->ema_at += (size_t)a->bytes;
    }
  }
  if (!any)
    return MPCC_OK;
  p->ema_in = !p->ema_in;
  if (!p->ema_in) {
    free(p->ema_saved);
    p->ema_saved = NULL;
    p->ema_bytes = p->ema_at = 0;
  }
  return mprt__refresh(p);
}
