/* The plan changes no bit: a program whose values share memory and live in their tensors trains
 * exactly as one in which every value has its own bytes, and as one with guards around every
 * buffer; the same at one and at three threads. */
#include "tests/train/replay.h"

static const struct {
  const char *model, *mode;
} cases[] = {
    {"mlp", "32-true"},    {"mlp", "16-mixed"},           {"vit", "64-true"},
    {"vit", "bf16-mixed"}, {"vit", "transformer-engine"}, {"vit", "bf16-true"},
};

static void *compile(const char *model, const char *mode, bool no_reuse, size_t *bytes) {
  char path[100];
  snprintf(path, sizeof path, "tests/train/%s.yaml", model);
  return compile_spec(path, (mpcc_options){.precision = mode, .no_reuse = no_reuse}, bytes);
}

static void feed(mprt_program *p, uint32_t seed) {
  mprt_tensor x = tensor(p, "io.", "image"), y = tensor(p, "io.", "label");
  for (int64_t i = 0; i < elems(x); i++) {
    seed = seed * 1664525u + 1013904223u;
    put_at(x, i, (seed >> 8) / 16777216.0);
  }
  for (int64_t i = 0; i < y.dim[0]; i++)
    ((int64_t *)y.data)[i] = i % 5;
  set_valid(p, y.dim[0] - 1);
  mprt_tensor table = tensor(p, "io.", "table");
  for (int64_t i = 0; i < elems(table); i++)
    put_at(table, i, 0.05);
}

typedef struct {
  mprt_program *p;
  void *image;
} Run;

static Run start(const char *model, const char *mode, bool no_reuse, bool plan_mode, int threads) {
  Run r = {NULL, NULL};
  size_t bytes;
  r.image = compile(model, mode, no_reuse, &bytes);
  mprt_options o;
  mprt_options_default(&o);
  o.plan_mode = plan_mode;
  o.threads = threads;
  o.seed = 3;
  mprt_callbacks cb = {.log = on_log};
  ck_assert_int_eq(mprt_open(r.image, bytes, &o, &cb, &r.p), MPCC_OK);
  ck_assert_int_eq(mprt_init(r.p), MPCC_OK);
  for (uint32_t step = 0; step < 3; step++) {
    feed(r.p, step);
    ck_assert_int_eq(mprt_run(r.p, "micro_first"), MPCC_OK);
    feed(r.p, step + 9);
    ck_assert_int_eq(mprt_run(r.p, "micro_next"), MPCC_OK);
    ck_assert_int_eq(mprt_run(r.p, "update_step"), MPCC_OK);
    ck_assert_int_eq(mprt_run(r.p, "train_step"), MPCC_OK);
    ck_assert_int_eq(mprt_run(r.p, "eval_step"), MPCC_OK);
    ck_assert_int_eq(mprt_run(r.p, "predict"), MPCC_OK);
  }
  return r;
}

static void stop(Run r) {
  mprt_close(r.p);
  free(r.image);
}

START_TEST(no_bit_changes) {
  const char *model = cases[_i].model, *mode = cases[_i].mode;
  Run plain = start(model, mode, false, false, 1);
  Run other[] = {start(model, mode, true, false, 1), start(model, mode, false, true, 1),
                 start(model, mode, false, false, 3)};
  static const char *const name[] = {"without reuse", "with guards", "on three threads"};
  int changed = 0;
  for (int i = 0; i < mprt_tensor_count(plain.p); i++) {
    mprt_tensor a;
    ck_assert(mprt_tensor_at(plain.p, i, &a));
    if (!strcmp(a.role, "grad") || !strcmp(a.role, "sum"))
      continue; /* accumulators mean nothing after an update, and plan mode spoils them */
    for (int k = 0; k < 3; k++) {
      mprt_tensor b = tensor(other[k].p, "", a.name);
      ck_assert_uint_eq(a.bytes, b.bytes);
      ck_assert_msg(!memcmp(a.data, b.data, a.bytes), "%s %s: @%s differs %s", model, mode, a.name,
                    name[k]);
    }
    if (!strcmp(a.role, "param"))
      for (size_t n = 0; n < a.bytes; n++)
        changed += ((const unsigned char *)a.data)[n] != 0;
  }
  ck_assert_int_gt(changed, 0);
  for (int k = 0; k < 3; k++)
    stop(other[k]);
  stop(plain);
}
END_TEST

int main(void) {
  Suite *s = suite_create("reuse");
  TCase *t = tcase_create("reuse");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, no_bit_changes, 0, sizeof cases / sizeof *cases);
  suite_add_tcase(s, t);
  return check_run(s);
}
