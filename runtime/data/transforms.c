/* Transforms of torchvision that map one byte to one number: ToTensor and Normalize, composed into
 * a table per channel. Arithmetic is FP32 as torchvision's: x / 255, then (x - mean) / std. */
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/data/data.h"

/* Value `key`[channel] of a transform; one number stands for all channels. */
static bool channel_value(const json_t *t, const char *key, int64_t channel, int64_t channels,
                          float *out) {
  const json_t *v = json_object_get(t, key);
  if (json_is_array(v)) {
    size_t n = json_array_size(v);
    if (n != 1 && n != (size_t)channels)
      return false;
    v = json_array_get(v, n == 1 ? 0 : (size_t)channel);
  }
  if (!json_is_number(v))
    return false;
  *out = (float)json_number_value(v);
  return true;
}

/* Applies the whole list to one byte of a channel. */
static Status apply_list(const json_t *list, int64_t channel, int64_t channels, float *value,
                         const mprt_callbacks *cb) {
  size_t i;
  const json_t *t;
  if (!json_array_size(list)) /* images without transforms: ToTensor, as DataLoader users expect */
    *value /= 255.0f;
  json_array_foreach(list, i, t) {
    const char *type = json_is_string(t) ? json_string_value(t) : mprt__json_string(t, "type", "");
    float mean, std;
    if (!strcmp(type, "ToTensor")) {
      *value /= 255.0f;
    } else if (!strcmp(type, "Normalize")) {
      if (!channel_value(t, "mean", channel, channels, &mean) ||
          !channel_value(t, "std", channel, channels, &std))
        return mprt__fail(cb, MPCC_ERR_DATA,
                          "transform Normalize: mean and std need 1 or %lld numbers",
                          (long long)channels);
      *value = (*value - mean) / std;
    } else {
      return mprt__fail(cb, MPCC_ERR_DATA, "this program cannot do transform '%s'", type);
    }
  }
  return MPCC_OK;
}

struct mprt__transform {
  DType from, to;
  int64_t elems, channels;
  uint8_t *table; /* [channels][256] of target elements; NULL: plain conversion */
};

static Status make_table(mprt__transform *t, const json_t *list, const mprt_callbacks *cb) {
  size_t bytes = dtype_bytes(t->to);
  t->table = malloc((size_t)t->channels * 256 * bytes);
  if (!t->table)
    return mprt__nomem(cb, "transforms");
  for (int64_t c = 0; c < t->channels; c++)
    for (int b = 0; b < 256; b++) {
      float value = (float)b;
      Status st = apply_list(list, c, t->channels, &value, cb);
      if (st != MPCC_OK)
        return st;
      num_store(t->table + (size_t)(c * 256 + b) * bytes, t->to, value);
    }
  return MPCC_OK;
}

Status mprt__transform_create(const mprt_callbacks *cb, const json_t *list, const mprt__field *f,
                              DType to, mprt__transform **out, mprt__field *seen) {
  *out = NULL;
  *seen = *f;
  mprt__transform *t = calloc(1, sizeof *t);
  if (!t)
    return mprt__nomem(cb, "transforms");
  *t = (mprt__transform){.from = f->dtype, .to = to, .elems = f->elems, .channels = 1};
  Status st = MPCC_OK;
  if (f->dtype == DT_U8 && dtype_is_float(to)) {
    if (f->rank == 3)
      t->channels = f->dim[0];
    st = make_table(t, list, cb);
  }
  if (st != MPCC_OK) {
    mprt__transform_destroy(t);
    return st;
  }
  *out = t;
  return MPCC_OK;
}

void mprt__transform_destroy(mprt__transform *t) {
  if (t)
    free(t->table);
  free(t);
}

void mprt__transform_work_fini(mprt__transform_work *w) {
  free(w->buffer[0]);
  free(w->buffer[1]);
}

DType mprt__transform_dtype(const mprt__transform *t) {
  return t->to;
}

/* From a table of elements of type T. */
#define LOOK_UP(T)                                                                                 \
  do {                                                                                             \
    const T *table = (const T *)t->table;                                                          \
    for (int64_t c = 0; c < t->channels; c++)                                                      \
      for (int64_t i = c * plane; i < (c + 1) * plane; i++)                                        \
        ((T *)to)[i] = table[c * 256 + bytes[i]];                                                  \
  } while (0)

bool mprt__transform_apply(const mprt__transform *t, mprt__transform_work *w, mprt__reader *r,
                           const void *from, mprt__sample_key key, void *to) {
  (void)w, (void)r, (void)key;
  const uint8_t *bytes = from;
  int64_t plane = t->elems / t->channels;
  if (!t->table) {
    for (int64_t i = 0; i < t->elems; i++)
      num_store((uint8_t *)to + (size_t)i * dtype_bytes(t->to), t->to,
                num_load(bytes + (size_t)i * dtype_bytes(t->from), t->from));
  } else {
    switch (dtype_bytes(t->to)) {
    case 1:
      LOOK_UP(uint8_t);
      break;
    case 2:
      LOOK_UP(uint16_t);
      break;
    case 4:
      LOOK_UP(uint32_t);
      break;
    default:
      LOOK_UP(uint64_t);
    }
  }
  return true;
}
