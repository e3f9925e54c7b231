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

Status mprt__transform_init(mprt__transform *t, const json_t *list, const mprt__field *f, DType to,
                            const mprt_callbacks *cb) {
  *t = (mprt__transform){.from = f->dtype, .to = to, .elems = f->elems, .channels = 1};
  if (f->dtype != DT_U8 || !dtype_is_float(to))
    return MPCC_OK;
  if (f->rank == 3)
    t->channels = f->dim[0];
  size_t bytes = dtype_bytes(to);
  t->table = malloc((size_t)t->channels * 256 * bytes);
  if (!t->table)
    return mprt__nomem(cb, "transforms");
  for (int64_t c = 0; c < t->channels; c++)
    for (int b = 0; b < 256; b++) {
      float value = (float)b;
      Status st = apply_list(list, c, t->channels, &value, cb);
      if (st != MPCC_OK) {
        mprt__transform_fini(t);
        return st;
      }
      num_store(t->table + (size_t)(c * 256 + b) * bytes, to, value);
    }
  return MPCC_OK;
}

void mprt__transform_fini(mprt__transform *t) {
  free(t->table);
  t->table = NULL;
}

/* From a table of elements of type T. */
#define LOOK_UP(T)                                                                                 \
  do {                                                                                             \
    const T *table = (const T *)t->table;                                                          \
    for (int64_t c = 0; c < t->channels; c++)                                                      \
      for (int64_t i = c * plane; i < (c + 1) * plane; i++)                                        \
        ((T *)to)[i] = table[c * 256 + bytes[i]];                                                  \
  } while (0)

void mprt__transform_apply(const mprt__transform *t, const void *from, void *to) {
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
}
