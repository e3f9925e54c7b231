/* Writes program images by hand, for tests of the runtime that need no compiler. Offsets of tensors
 * are planned here, one behind the other. Everything is a static function: each test is one
 * program. */
#ifndef TESTS_RUNTIME_IMAGE_H
#define TESTS_RUNTIME_IMAGE_H

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"
#include "runtime/rt.h"

typedef struct {
  char *strings;
  size_t nstrings;
  MpccTensor tensor[64];
  MpccFunction function[16];
  MpccCommand command[64];
  MpccArgRef arg[256];
  MpccKernel kernel[32];
  MpccCode code[8];
  const void *object[8];
  size_t object_bytes[8];
  uint32_t ntensor, nfunction, ncommand, narg, nkernel, ncode;
  uint64_t segment_bytes[MPCC_SEG_COUNT];
  uint32_t meta;
} TestImage;

__attribute__((unused)) static uint32_t ti_string(TestImage *t, const char *s) {
  size_t len = strlen(s) + 1;
  if (t->nstrings == 0) {
    t->strings = calloc(1, 1);
    t->nstrings = 1;
  }
  if (len == 1)
    return 0;
  t->strings = realloc(t->strings, t->nstrings + len);
  memcpy(t->strings + t->nstrings, s, len);
  t->nstrings += len;
  return (uint32_t)(t->nstrings - len);
}

__attribute__((unused)) static uint64_t ti_round(uint64_t n) {
  return (n + MPCC_ALIGN - 1) & ~(uint64_t)(MPCC_ALIGN - 1);
}

/* A tensor with storage of its own, at the end of its segment. */
__attribute__((unused)) static uint32_t ti_tensor(TestImage *t, const char *name, DType dtype,
                                                  mprt__role role, int segment, int rank,
                                                  const int64_t *dim, const char *attrs) {
  uint32_t i = t->ntensor++;
  MpccTensor *x = &t->tensor[i];
  memset(x, 0, sizeof *x);
  x->name = ti_string(t, name);
  x->dtype = (uint32_t)dtype;
  x->role = (uint32_t)role;
  x->segment = (uint32_t)segment;
  x->rank = (uint32_t)rank;
  x->base = i;
  x->bytes = dtype_bytes(dtype);
  for (int d = 0; d < rank; d++) {
    x->dim[d] = dim[d];
    x->bytes *= (uint64_t)dim[d];
  }
  x->offset = ti_round(t->segment_bytes[segment]);
  t->segment_bytes[segment] = x->offset + x->bytes;
  x->attrs = ti_string(t, attrs);
  return i;
}

/* A view of elements [elem, elem + elems of shape) of `base`. */
__attribute__((unused)) static uint32_t ti_view(TestImage *t, const char *name, uint32_t base,
                                                uint64_t elem, int rank, const int64_t *dim) {
  uint32_t i = t->ntensor++;
  MpccTensor *x = &t->tensor[i];
  *x = t->tensor[base];
  x->name = ti_string(t, name);
  x->base = base;
  x->rank = (uint32_t)rank;
  memset(x->dim, 0, sizeof x->dim);
  x->bytes = dtype_bytes((DType)x->dtype);
  x->offset += elem * x->bytes;
  for (int d = 0; d < rank; d++) {
    x->dim[d] = dim[d];
    x->bytes *= (uint64_t)dim[d];
  }
  return i;
}

__attribute__((unused)) static uint32_t ti_kernel(TestImage *t, const char *symbol, uint32_t nargs,
                                                  uint64_t ntiles, uint64_t scratch) {
  t->kernel[t->nkernel] = (MpccKernel){ti_string(t, symbol), nargs, ntiles, scratch};
  return t->nkernel++;
}

/* Begins a function: commands that follow belong to it. */
__attribute__((unused)) static void ti_function(TestImage *t, const char *name) {
  t->function[t->nfunction++] = (MpccFunction){ti_string(t, name), t->ncommand, 0, 0x1f};
}

__attribute__((unused)) static MpccArgRef ti_of(const TestImage *t, uint32_t tensor) {
  const MpccTensor *x = &t->tensor[tensor];
  return (MpccArgRef){x->segment, tensor + 1, (int64_t)x->offset, x->bytes};
}

__attribute__((unused)) static MpccArgRef ti_work(uint64_t offset, uint64_t bytes) {
  return (MpccArgRef){MPCC_SEG_WORK, 0, (int64_t)offset, bytes};
}

__attribute__((unused)) static MpccArgRef ti_int(int64_t v) {
  return (MpccArgRef){MPCC_ARG_INT, 0, v, 0};
}

/* A command with `nargs` arguments (MpccArgRef each), the first nout of them results; dtypes: one
 * letter per result. */
__attribute__((unused)) static MpccCommand *ti_command(TestImage *t, uint32_t op, uint32_t kernel,
                                                       const char *dtypes, const char *label,
                                                       int nargs, ...) {
  MpccCommand *c = &t->command[t->ncommand++];
  char place[64];
  snprintf(place, sizeof place, "test.yaml:%u:1", t->ncommand);
  *c = (MpccCommand){.op = op,
                     .kernel = kernel,
                     .first_arg = t->narg,
                     .nargs = (uint32_t)nargs,
                     .nout = (uint32_t)strlen(dtypes),
                     .layer = ti_string(t, "layer"),
                     .source = ti_string(t, place),
                     .label = ti_string(t, label),
                     .value_dtypes = ti_string(t, dtypes)};
  va_list ap;
  va_start(ap, nargs);
  for (int i = 0; i < nargs; i++)
    t->arg[t->narg++] = va_arg(ap, MpccArgRef);
  va_end(ap);
  t->function[t->nfunction - 1].ncommands++;
  return c;
}

__attribute__((unused)) static void ti_code(TestImage *t, const char *level, const char *needs,
                                            const void *object, size_t bytes) {
  t->object[t->ncode] = object;
  t->object_bytes[t->ncode] = bytes;
  t->code[t->ncode++] = (MpccCode){
      .target = ti_string(t, "cpu"), .level = ti_string(t, level), .needs = ti_string(t, needs)};
}

__attribute__((unused)) static void ti_rehash(void *image) {
  MpccImage *h = image;
  mpcc_image_hash(image, h->image_bytes, h->hash);
}

/* Bytes of a file; malloc'ed. */
__attribute__((unused)) static void *ti_read(const char *path, size_t *bytes) {
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "cannot read %s", path);
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  rewind(f);
  void *data = malloc((size_t)n + 1);
  *bytes = fread(data, 1, (size_t)n, f);
  fclose(f);
  ck_assert_int_eq((long)*bytes, n);
  return data;
}

/* An archive (MpccCode.object) of one object or several; malloc'ed. */
__attribute__((unused)) static void *ti_archive(const void *const *object, const size_t *bytes,
                                                size_t n, size_t *total) {
  size_t at = ti_round(sizeof(MpccArchive) + n * sizeof(MpccArchiveEntry)), begin = at;
  for (size_t i = 0; i < n; i++)
    at += ti_round(bytes[i]);
  uint8_t *data = calloc(1, at);
  MpccArchive *head = (MpccArchive *)data;
  MpccArchiveEntry *entry = (MpccArchiveEntry *)(head + 1);
  memcpy(head->magic, MPCC_ARCHIVE_MAGIC, 8);
  head->count = n;
  for (size_t i = 0; i < n; i++) {
    entry[i] = (MpccArchiveEntry){begin, bytes[i]};
    memcpy(data + begin, object[i], bytes[i]);
    begin += ti_round(bytes[i]);
  }
  *total = at;
  return data;
}

/* Kernels of tests/runtime/kernels as an archive; malloc'ed. */
__attribute__((unused)) static void *ti_kernels(size_t *bytes) {
  size_t n;
  void *object = ti_read(TEST_KERNELS, &n);
  const void *list[1] = {object};
  void *archive = ti_archive(list, &n, 1, bytes);
  free(object);
  return archive;
}

static void ti_put(uint8_t *image, size_t *at, MpccSpan *span, const void *data, size_t size,
                   size_t n) {
  *at = ti_round(*at);
  *span = (MpccSpan){*at, n};
  if (n > 0)
    memcpy(image + *at, data, size * n);
  *at += size * n;
}

/* The finished image, 64-byte aligned; frees what the builder holds, keeps the objects. */
__attribute__((unused)) static void *ti_finish(TestImage *t, const char *meta, size_t *bytes) {
  t->meta = ti_string(t, meta);
  size_t total = sizeof(MpccImage) + t->nstrings + 64 * 16 + sizeof *t;
  for (uint32_t i = 0; i < t->ncode; i++)
    total += t->object_bytes[i] + MPCC_ALIGN;
  total = ti_round(total);
  uint8_t *image = aligned_alloc(MPCC_ALIGN, total);
  memset(image, 0, total);
  MpccImage h = {.version = MPCC_ABI_VERSION, .header_bytes = sizeof h, .meta = t->meta};
  size_t at = sizeof h;
  MpccSpan object;
  memcpy(h.magic, MPCC_IMAGE_MAGIC, 8);
  memcpy(h.segment_bytes, t->segment_bytes, sizeof h.segment_bytes);
  for (uint32_t i = 0; i < t->ncode; i++) {
    ti_put(image, &at, &object, t->object[i], 1, t->object_bytes[i]);
    t->code[i].object = object;
  }
  ti_put(image, &at, &h.strings, t->strings, 1, t->nstrings);
  ti_put(image, &at, &h.tensors, t->tensor, sizeof *t->tensor, t->ntensor);
  ti_put(image, &at, &h.functions, t->function, sizeof *t->function, t->nfunction);
  ti_put(image, &at, &h.commands, t->command, sizeof *t->command, t->ncommand);
  ti_put(image, &at, &h.args, t->arg, sizeof *t->arg, t->narg);
  ti_put(image, &at, &h.kernels, t->kernel, sizeof *t->kernel, t->nkernel);
  ti_put(image, &at, &h.codes, t->code, sizeof *t->code, t->ncode);
  h.image_bytes = at;
  memcpy(image, &h, sizeof h);
  ti_rehash(image);
  free(t->strings);
  *bytes = at;
  return image;
}

/* ---- a program: linear regression ---- */

enum { LR_N = 64, LR_K = 5, LR_TILES = LR_N / 4, LR_ROWS = 16 };

typedef struct {
  int64_t k;           /* features */
  const char *meta;    /* NULL: a small one */
  const char *needs;   /* NULL: "sse2" */
  bool scaler;         /* has scaler.scale */
  const void *kernels; /* archive */
  size_t kernels_bytes;
} LrOptions;

static void lr_train_step(TestImage *t, int64_t k, uint32_t x, uint32_t y, uint32_t w, uint32_t b,
                          uint32_t flat, uint32_t moment, uint32_t grad, uint32_t taken,
                          uint32_t table, uint32_t loss, uint32_t copy) {
  uint32_t k_error = ti_kernel(t, "k_error", 6, LR_TILES, 4 * sizeof(float));
  uint32_t k_partial = ti_kernel(t, "k_partial", 4, LR_TILES, 0);
  uint32_t k_combine = ti_kernel(t, "k_combine", 6, 1, 0);
  uint32_t k_update = ti_kernel(t, "k_update", 10, 1, 0);
  char f[] = {'a' + MPCC_F32, 0}, ff[] = {'a' + MPCC_F32, 'a' + MPCC_F32, 0};
  char ffi[] = {'a' + MPCC_F32, 'a' + MPCC_F32, 'a' + MPCC_I64, 0};
  uint64_t partial = (uint64_t)LR_TILES * (uint64_t)(k + 2) * 4;
  MpccArgRef error = ti_work(0, LR_N * 4), part = ti_work(ti_round(LR_N * 4), partial);
  t->segment_bytes[MPCC_SEG_WORK] = ti_round(LR_N * 4) + partial;
  ti_function(t, "train_step");
  ti_command(t, MPCC_CMD_LAUNCH, k_error, f, "error", 6, error, ti_of(t, x), ti_of(t, y),
             ti_of(t, w), ti_of(t, b), ti_int(k));
  ti_command(t, MPCC_CMD_LAUNCH, k_partial, f, "partial", 4, part, error, ti_of(t, x), ti_int(k));
  ti_command(t, MPCC_CMD_LAUNCH, k_combine, ff, "combine", 6, ti_of(t, grad), ti_of(t, loss), part,
             ti_int(k), ti_int(LR_TILES), ti_int(LR_N));
  ti_command(t, MPCC_CMD_LAUNCH, k_update, ffi, "update", 10, ti_of(t, flat), ti_of(t, moment),
             ti_of(t, taken), ti_of(t, flat), ti_of(t, moment), ti_of(t, taken), ti_of(t, grad),
             ti_of(t, table), ti_int(k + 1), ti_int(LR_ROWS));
  ti_command(t, MPCC_CMD_COPY, 0, f, "copy", 2, ti_of(t, copy), ti_of(t, flat))->bytes =
      (uint64_t)(k + 1) * 4;
}

/* y = x w + b with SGD and momentum. Parameters "w" [k] and "b" [] are views of flat.0; moments
 * too. */
__attribute__((unused)) static void *lr_image(const LrOptions *o, size_t *bytes) {
  TestImage t = {0};
  int64_t k = o->k, n1 = k + 1, x_dim[2] = {LR_N, k}, y_dim = LR_N, table_dim[2] = {LR_ROWS, 1};
  uint32_t flat = ti_tensor(&t, "flat.0", MPCC_F32, ROLE_PARAM, MPCC_SEG_STATE, 1, &n1, "");
  uint32_t w = ti_view(&t, "w", flat, 0, 1, &k), b = ti_view(&t, "b", flat, (uint64_t)k, 0, NULL);
  uint32_t moment = ti_tensor(&t, "flat.0.momentum_buffer", MPCC_F32, ROLE_MOMENT, MPCC_SEG_STATE,
                              1, &n1, "{\"kind\": \"momentum_buffer\"}");
  ti_view(&t, "optim.w.momentum_buffer", moment, 0, 1, &k);
  ti_view(&t, "optim.b.momentum_buffer", moment, (uint64_t)k, 0, NULL);
  uint32_t taken =
      ti_tensor(&t, "count.taken", MPCC_I64, ROLE_COUNTER, MPCC_SEG_STATE, 0, NULL, "");
  uint32_t scale = 0;
  if (o->scaler)
    scale = ti_tensor(&t, "scaler.scale", MPCC_F32, ROLE_SCALER, MPCC_SEG_STATE, 0, NULL, "");
  uint32_t copy =
      ti_tensor(&t, "weight.flat.0", MPCC_F32, ROLE_WEIGHT, MPCC_SEG_DERIVED, 1, &n1, "");
  uint32_t grad = ti_tensor(&t, "grad.flat.0", MPCC_F32, ROLE_GRAD, MPCC_SEG_ACCUM, 1, &n1, "");
  uint32_t x =
      ti_tensor(&t, "io.x", MPCC_F32, ROLE_INPUT, MPCC_SEG_IO, 2, x_dim, "{\"field\": \"x\"}");
  uint32_t y =
      ti_tensor(&t, "io.y", MPCC_F32, ROLE_INPUT, MPCC_SEG_IO, 1, &y_dim, "{\"field\": \"y\"}");
  uint32_t seed = ti_tensor(&t, "io.seed", MPCC_I64, ROLE_SEED, MPCC_SEG_IO, 0, NULL, "");
  uint32_t table = ti_tensor(&t, "io.table", MPCC_F64, ROLE_TABLE, MPCC_SEG_IO, 2, table_dim,
                             "{\"columns\": \"lr.0\"}");
  uint32_t loss = ti_tensor(&t, "metric.loss_sum", MPCC_F32, ROLE_METRIC, MPCC_SEG_IO, 0, NULL, "");
  char f[] = {'a' + MPCC_F32, 0}, i[] = {'a' + MPCC_I64, 0};
  uint32_t k_init = ti_kernel(&t, "k_init", 3, 1, 0), k_set = ti_kernel(&t, "k_set", 2, 1, 0);
  uint32_t k_scale = ti_kernel(&t, "k_scale", 1, 1, 0);
  ti_function(&t, "init");
  ti_command(&t, MPCC_CMD_LAUNCH, k_init, f, "init", 3, ti_of(&t, flat), ti_of(&t, seed),
             ti_int(n1));
  ti_command(&t, MPCC_CMD_LAUNCH, k_set, i, "zero", 2, ti_of(&t, taken), ti_int(0));
  ti_command(&t, MPCC_CMD_FILL, 0, f, "zero", 1, ti_of(&t, moment))->bytes = (uint64_t)n1 * 4;
  if (o->scaler)
    ti_command(&t, MPCC_CMD_LAUNCH, k_scale, f, "scale", 1, ti_of(&t, scale));
  ti_function(&t, "refresh");
  ti_command(&t, MPCC_CMD_COPY, 0, f, "copy", 2, ti_of(&t, copy), ti_of(&t, flat))->bytes =
      (uint64_t)n1 * 4;
  lr_train_step(&t, k, x, y, w, b, flat, moment, grad, taken, table, loss, copy);
  ti_code(&t, "x86-64", o->needs ? o->needs : "sse2", o->kernels, o->kernels_bytes);
  return ti_finish(
      &t,
      o->meta ? o->meta
              : "{\"name\": \"line\", \"spec\": {\"seed\": 3, \"optimizer\": {\"lr\": 0.1}}}",
      bytes);
}

/* The batch: x in [-1, 1), y = x (1, 2, ..., k) - 0.5; learning rates into the table. */
__attribute__((unused)) static void lr_bind(mprt_program *p) {
  mprt_tensor x, y, table;
  ck_assert(mprt_find(p, "io.x", &x) && mprt_find(p, "io.y", &y) &&
            mprt_find(p, "io.table", &table));
  unsigned r = 12345;
  int64_t k = x.dim[1];
  for (int64_t i = 0; i < LR_N; i++) {
    float sum = -0.5f;
    for (int64_t c = 0; c < k; c++) {
      r = r * 1664525u + 1013904223u;
      float v = (float)(int)(r >> 8) / (float)(1 << 23) - 1.0f;
      ((float *)x.data)[i * k + c] = v;
      sum += v * (float)(c + 1);
    }
    ((float *)y.data)[i] = sum;
  }
  for (int i = 0; i < LR_ROWS; i++)
    ((double *)table.data)[i] = 0.1;
}

/* ---- what the program says ---- */

typedef struct {
  char text[16384];
  size_t len;
  int errors, warnings;
} TestLog;

__attribute__((unused)) static void test_log(void *user, mprt_log_level level, const char *text) {
  TestLog *l = user;
  l->errors += level == MPRT_LOG_ERROR;
  l->warnings += level == MPRT_LOG_WARNING;
  int n = snprintf(l->text + l->len, sizeof l->text - l->len, "%s\n", text);
  if (n > 0 && l->len + (size_t)n < sizeof l->text)
    l->len += (size_t)n;
}

__attribute__((unused)) static void test_log_clear(TestLog *l) {
  memset(l, 0, sizeof *l);
}

#endif
