/* What the tests of training share: a spec compiled for this machine, tensors of a program by name,
 * stored runs of PyTorch (safetensors). */
#ifndef TESTS_TRAIN_REPLAY_H
#define TESTS_TRAIN_REPLAY_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/mpcc.h"
#include "mpcc/num.h"
#include "mpcc/runtime.h"
#include "runtime/rt.h"
#include "tests/check_run.h"

/* ---- stored runs ----------------------------------------------------------------------------- */

typedef struct {
  int64_t n;
  double *v;
} Array;

static inline void open_file(const char *name, mprt__st_file *f) {
  char path[400];
  snprintf(path, sizeof path, SOURCE_DIR "/tests/train/data/%s.safetensors", name);
  mprt_callbacks cb = {0};
  ck_assert_int_eq(mprt__st_open(path, &cb, f), MPCC_OK);
}

/* Numbers of the tensor `prefix``name`, widened; the caller frees v. */
static inline Array get(const mprt__st_file *f, const char *prefix, const char *name) {
  char key[200];
  snprintf(key, sizeof key, "%s%s", prefix, name);
  const mprt__st_tensor *t = mprt__st_find(f, key);
  ck_assert_msg(t != NULL, "%s has no %s", f->path, key);
  Array a = {1, NULL};
  for (int i = 0; i < t->rank; i++)
    a.n *= t->dim[i];
  a.v = calloc((size_t)a.n + 1, sizeof *a.v);
  mprt_callbacks cb = {0};
  if (t->dtype == MPCC_I64) {
    int64_t *ints = malloc((size_t)a.n * sizeof *ints);
    ck_assert_int_eq(mprt__st_read(f, t, MPCC_I64, ints, &cb), MPCC_OK);
    for (int64_t i = 0; i < a.n; i++)
      a.v[i] = (double)ints[i];
    free(ints);
  } else {
    ck_assert_int_eq(mprt__st_read(f, t, MPCC_F64, a.v, &cb), MPCC_OK);
  }
  return a;
}

/* ---- programs -------------------------------------------------------------------------------- */

static inline void on_message(void *user, const mpcc_message *m) {
  (void)user;
  if (m->severity == MPCC_ERROR)
    fprintf(stderr, "%s\n", m->text);
}

static inline void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level != MPRT_LOG_INFO)
    fprintf(stderr, "%s\n", text);
}

/* Image of a spec, named from the top folder, for this machine's level; the caller frees it. */
static inline void *compile_spec(const char *spec, mpcc_options o, size_t *bytes) {
  char path[400];
  snprintf(path, sizeof path, SOURCE_DIR "/%s", spec);
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "cannot read %s", path);
  static char text[1 << 16];
  size_t len = fread(text, 1, sizeof text - 1, f);
  text[len] = 0;
  fclose(f);
  o.host_level_only = true;
  o.all_functions = true;
  mpcc_callbacks cb = {.message = on_message};
  mpcc_session *s = mpcc_session_create(&o, &cb);
  void *image = NULL;
  ck_assert_int_eq(mpcc_compile(s, path, text, len, MPCC_OUT_IMAGE, &image, bytes), MPCC_OK);
  mpcc_session_destroy(s);
  return image;
}

static inline mprt_tensor tensor(mprt_program *p, const char *prefix, const char *name) {
  char key[200];
  mprt_tensor t;
  snprintf(key, sizeof key, "%s%s", prefix, name);
  ck_assert_msg(mprt_find(p, key, &t), "no tensor %s", key);
  return t;
}

static inline int64_t elems(mprt_tensor t) {
  return (int64_t)(t.bytes / dtype_bytes(t.dtype));
}

static inline void put_at(mprt_tensor t, int64_t i, double v) {
  num_store((char *)t.data + (size_t)i * dtype_bytes(t.dtype), t.dtype, v);
}

static inline void put(mprt_tensor t, const double *v) {
  for (int64_t i = 0; i < elems(t); i++)
    put_at(t, i, v[i]);
}

static inline double at(mprt_tensor t, int64_t i) {
  return num_load((char *)t.data + (size_t)i * dtype_bytes(t.dtype), t.dtype);
}

static inline double scalar(mprt_program *p, const char *name) {
  return at(tensor(p, "", name), 0);
}

/* Mean loss of the step just taken. */
static inline double mean_loss(mprt_program *p) {
  return scalar(p, "metric.loss_sum") / scalar(p, "metric.weight_sum");
}

static inline void set_valid(mprt_program *p, int64_t n) {
  *(int64_t *)tensor(p, "io.", "valid").data = n;
}

#endif
