/* Synthetic data: every class has a random pattern; a sample is its pattern plus noise, so that a
 * model can learn it. Deterministic in the seed; nothing is stored but the patterns. */
#include <stdlib.h>
#include <string.h>

#include "runtime/data/data.h"

typedef struct {
  mprt__dataset base;
  int64_t seed, classes;
  uint8_t *pattern; /* [classes][elems] */
} Synthetic;

static void synthetic_destroy(mprt__dataset *d) {
  Synthetic *s = (Synthetic *)d;
  free(s->pattern);
  free(s);
}

static const void *synthetic_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const Synthetic *s = (const Synthetic *)d;
  int64_t label = (int64_t)mprt__random_below(s->seed, 1, i, (uint64_t)s->classes);
  if (f == 1)
    return memcpy(r->scratch, &label, sizeof label);
  int64_t n = d->field[0].elems;
  const uint8_t *pattern = s->pattern + label * n;
  uint8_t *sample = r->scratch;
  for (int64_t k = 0; k < n; k++) /* half pattern, half noise */
    sample[k] = (uint8_t)((pattern[k] + mprt__random_below(s->seed, 2, i * n + k, 256)) / 2);
  return sample;
}

Status mprt__synthetic_open(const mprt__data_source *src, mprt__dataset **out) {
  *out = NULL;
  const json_t *shape = json_object_get(src->config, "shape");
  int64_t classes = mprt__json_int(src->config, "classes", 10);
  int64_t samples = mprt__json_int(src->config, "samples", 1024);
  size_t rank = json_array_size(shape);
  if (rank < 1 || rank > MPCC_MAX_RANK || classes < 1 || samples < 1)
    return mprt__fail(src->cb, MPCC_ERR_DATA,
                      "data.%s: synthetic data needs a shape, classes and samples of at least 1",
                      src->split);
  Synthetic *s = calloc(1, sizeof *s);
  if (!s)
    return mprt__nomem(src->cb, "data set");
  s->seed = mprt__json_int(src->config, "seed", src->seed);
  s->classes = classes;
  s->base = (mprt__dataset){
      .nsample = samples, .nfield = 2, .read = synthetic_read, .destroy = synthetic_destroy};
  mprt__field *image = &s->base.field[0], *label = &s->base.field[1];
  *image = (mprt__field){.name = "image", .dtype = MPCC_U8, .rank = (int)rank, .elems = 1};
  for (size_t i = 0; i < rank; i++) {
    image->dim[i] = json_integer_value(json_array_get(shape, i));
    image->elems *= image->dim[i] > 0 ? image->dim[i] : 1;
  }
  *label = (mprt__field){.name = "label", .dtype = MPCC_I64, .rank = 0, .elems = 1};
  s->pattern = malloc((size_t)(classes * image->elems));
  s->base.scratch_bytes = (size_t)(image->elems > 8 ? image->elems : 8);
  if (!s->pattern) {
    synthetic_destroy(&s->base);
    return mprt__nomem(src->cb, "data set");
  }
  for (int64_t k = 0; k < classes * image->elems; k++)
    s->pattern[k] = (uint8_t)mprt__random_below(s->seed, 3, k, 256);
  *out = &s->base;
  return MPCC_OK;
}
