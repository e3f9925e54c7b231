/* Products by cuBLASLt beside kernels of mpcc's own: the same training within the rounding between
 * a product and what follows it; codes of 8 bits as they are and, on sm_80, decoded; the same bits
 * whatever algorithm timing takes; gradients of micro-batches are summed by the library; an offer
 * that is refused when it is tried ends nothing while another works; what a checkpoint says is
 * taken without timing. */
#include <unistd.h>

#include "runtime/cuda/device.h"
#include "tests/cuda/program.h"

enum { STEPS = 3 };

/* How far losses may be apart: sums in another order; below 32 bits half an eps of the format for
 * the rounding that a fused kernel leaves out. */
static const struct {
  const char *gpu, *mode;
  double loss;
} cases[] = {
    {"sm_90", "64-true", 1e-13},
    {"sm_90", "16-mixed", 0x1p-11},
    {"sm_90", "transformer-engine", 0x1p-8},
    {"sm_80", "transformer-engine", 0x1p-8},
};

static int products_of(const mprt_program *p) {
  int n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++)
    n += p->command[i].op == MPCC_CMD_PRODUCT;
  return n;
}

static void train(mprt_program *p, double loss[STEPS]) {
  for (int step = 0; step < STEPS; step++) {
    feed(p, (uint64_t)step);
    mprt__schedule_fill(p, step, 100, 100);
    if (!step && mprt__function(p, "calibrate"))
      ck_assert_int_eq(mprt_run(p, "calibrate"), MPCC_OK);
    ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
    loss[step] = mprt__get_scalar(p, "metric.loss_sum", NAN);
  }
}

static void same_state(mprt_program *a, mprt_program *b) {
  for (uint32_t i = 0; i < a->ntensor; i++)
    if (a->tensor[i].segment == MPCC_SEG_STATE)
      ck_assert_msg(!memcmp(mprt__tensor_look(a, i), mprt__tensor_look(b, i), a->tensor[i].bytes),
                    "%s differs", mprt__string(a, a->tensor[i].name));
}

START_TEST(library_beside_own) {
  double own_loss[STEPS], loss[STEPS], again_loss[STEPS];
  size_t bytes, own_bytes;
  const char *spec = "tests/cli/tiny.yaml", *mode = cases[_i].mode;
  void *own_image = compile_for(cases[_i].gpu, spec, mode, NULL, false, true, &own_bytes);
  void *image = compile_for(cases[_i].gpu, spec, mode, NULL, false, false, &bytes);
  mprt_program *own = open_on(own_image, own_bytes, "cuda", false);
  mprt_program *p = open_on(image, bytes, "cuda", false);
  mprt_program *again = open_on(image, bytes, "cuda", true);
  ck_assert_int_eq(products_of(own), 0);
  ck_assert_int_gt(products_of(p), 10);
  train(own, own_loss);
  train(p, loss);
  train(again, again_loss);
  for (int i = 0; i < STEPS; i++)
    ck_assert_msg(fabs(loss[i] - own_loss[i]) <= cases[_i].loss * fabs(own_loss[i]),
                  "%s %s: loss %.9g at step %d, with kernels of its own %.9g", cases[_i].gpu, mode,
                  loss[i], i + 1, own_loss[i]);
  same_state(p, again);
  mprt_close(own);
  mprt_close(p);
  mprt_close(again);
  free(own_image);
  free(image);
}
END_TEST

/* Weight gradients of later micro-batches are added to the first's by the library, in place. */
static int products_with_sums(const mprt_program *p) {
  int n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    const MpccArgRef *a = &p->argref[c->first_arg];
    if (c->op == MPCC_CMD_PRODUCT && a[c->nargs - MPCC_PRODUCT_INTS].offset == MPCC_WITH_SUM) {
      ck_assert(a[0].segment == a[3].segment && a[0].offset == a[3].offset);
      n++;
    }
  }
  return n;
}

static void train_of_two(mprt_program *p) {
  static const char *const function[] = {"micro_first", "micro_next", "update_step"};
  for (int i = 0; i < 3; i++) {
    feed(p, (uint64_t)i);
    ck_assert_int_eq(mprt_run(p, function[i]), MPCC_OK);
  }
}

static const char *const sum_modes[] = {"64-true", "32-true", "bf16-mixed"};

START_TEST(sums_are_the_library_s) {
  size_t bytes, own_bytes;
  const char *spec = "tests/cli/tiny.yaml", *set = "trainer.accumulate_grad_batches=2";
  void *own_image = compile_for("sm_90", spec, sum_modes[_i], set, false, true, &own_bytes);
  void *image = compile_for("sm_90", spec, sum_modes[_i], set, false, false, &bytes);
  mprt_program *own = open_on(own_image, own_bytes, "cuda", false);
  mprt_program *p = open_on(image, bytes, "cuda", false);
  mprt_program *again = open_on(image, bytes, "cuda", true);
  ck_assert_int_eq(products_with_sums(p), 6); /* convolution, q k v, out, two of the MLP, head */
  train_of_two(own);
  train_of_two(p);
  train_of_two(again);
  same_state(p, again);
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    if (t->role != ROLE_GRAD)
      continue;
    const uint8_t *x = mprt__tensor_look(p, i), *y = mprt__tensor_look(own, i);
    double top = 0, apart = 0;
    for (size_t k = 0; k < t->bytes / dtype_bytes((DType)t->dtype); k++) {
      const double u = num_load(x + k * dtype_bytes((DType)t->dtype), (DType)t->dtype);
      const double v = num_load(y + k * dtype_bytes((DType)t->dtype), (DType)t->dtype);
      top = fmax(top, fabs(v));
      apart = fmax(apart, fabs(u - v));
    }
    const double allowed = _i == 0 ? 1e-13 : _i == 1 ? 1e-5 : 0x1p-6;
    ck_assert_msg(top > 0 && apart <= allowed * top, "%s: %s: %g apart, largest %g", sum_modes[_i],
                  mprt__string(p, t->name), apart, top);
  }
  mprt_close(own);
  mprt_close(p);
  mprt_close(again);
  free(own_image);
  free(image);
}
END_TEST

/* Calls of cublasLtMatmul that are refused: each of the three offers without workspace is asked for
 * once, then those of the same bits are timed. */
static const struct {
  const char *refused;
  bool starts;
} refusals[] = {
    {"cublasLtMatmul:1:15", false}, /* the first, when it is asked for and when it is timed */
    {"cublasLtMatmul:4:15", false},
    {"cublasLtMatmul:2:15", true}, /* others */
    {"cublasLtMatmul:3:13", true},
};

START_TEST(an_offer_is_refused) {
  size_t bytes;
  double loss[STEPS], want[STEPS];
  void *image = compile_for("sm_90", "tests/cli/tiny.yaml", "32-true", NULL, false, false, &bytes);
  setenv("EMU_FAIL", refusals[_i].refused, 1);
  mprt_options o;
  mprt_options_default(&o);
  o.device = "cuda";
  mprt_program *p = NULL, *plain;
  ck_assert_int_eq(mprt_open(image, bytes, &o, NULL, &p), MPCC_OK);
  const mpcc_status s = mprt_init(p);
  unsetenv("EMU_FAIL");
  ck_assert_int_eq(s == MPCC_OK, refusals[_i].starts);
  if (refusals[_i].starts) {
    plain = open_on(image, bytes, "cuda", false);
    train(plain, want);
    train(p, loss);
    same_state(p, plain);
    mprt_close(plain);
  }
  mprt_close(p);
  free(image);
}
END_TEST

/* ---- checkpoints ----------------------------------------------------------------------------- */

static char dir[] = "/tmp/products-XXXXXX", checkpoint[64], calls[64];

/* Times that the stand-in was asked for since the last time. */
static int timings(void) {
  char line[200];
  int n = 0;
  FILE *f = fopen(calls, "r");
  while (f && fgets(line, sizeof line, f))
    n += !strncmp(line, "cuEventElapsedTime", 18);
  if (f)
    fclose(f);
  unlink(calls);
  return n;
}

static void step(mprt_program *p) {
  feed(p, 1);
  mprt__schedule_fill(p, 1, 100, 100);
  ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
}

/* The plans as a checkpoint has them, after a step. */
static char *plans_of(mprt_program *p) {
  step(p);
  json_t *all = mprt__cuda_algorithms(p, p->cuda);
  char *text = json_dumps(json_object_get(all, "plans"), JSON_SORT_KEYS);
  ck_assert(text && strlen(text) > 200);
  json_decref(all);
  return text;
}

/* The checkpoint's plans are of another library, or it lacks one. */
static void change_checkpoint(const mprt_program *p, bool library) {
  char path[100], *done;
  snprintf(path, sizeof path, "%s/state.json", checkpoint);
  json_t *state = json_load_file(path, 0, NULL), *products = json_object_get(state, "products");
  ck_assert(products != NULL);
  json_t *plans = json_object_get(products, "plans");
  if (library)
    json_object_set_new(products, "library", json_string("cuBLASLt 1, another device"));
  else
    json_object_del(plans, json_object_iter_key(json_object_iter(plans)));
  ck_assert_int_eq(json_dump_file(state, path, 0), 0);
  json_decref(state);
  ck_assert_int_eq(mprt__checkpoint_done(p, checkpoint, &done), MPCC_OK);
  snprintf(path, sizeof path, "%s/DONE", checkpoint);
  ck_assert_int_eq(mprt__file_write(path, done, strlen(done), NULL), MPCC_OK);
  free(done);
}

static void count_warnings(void *user, mprt_log_level level, const char *text) {
  *(int *)user += level == MPRT_LOG_WARNING && strstr(text, "products are timed anew");
}

/* Where algorithm `fastest` is. */
static mprt_program *start(const void *image, size_t bytes, const char *fastest) {
  setenv("EMU_FASTEST", fastest, 1);
  mprt_program *p = open_on(image, bytes, "cuda", false);
  unsetenv("EMU_FASTEST");
  return p;
}

static mprt_program *resume(const void *image, size_t bytes, const char *fastest, int *warnings) {
  mprt_options o;
  mprt_options_default(&o);
  o.device = "cuda";
  *warnings = 0;
  mprt_callbacks cb = {.log = count_warnings, .user = warnings};
  mprt_program *p = NULL;
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  setenv("EMU_FASTEST", fastest, 1);
  ck_assert_int_eq(mprt_resume(p, checkpoint), MPCC_OK);
  unsetenv("EMU_FASTEST");
  return p;
}

/* An algorithm that adds in another order is not taken, however fast it is: what a result of 16
 * bits hides is seen. */
static const char *const order_modes[] = {"32-true", "bf16-mixed", "16-mixed", "bf16-true"};

START_TEST(another_order_is_not_taken) {
  size_t bytes;
  void *image =
      compile_for("sm_90", "tests/cli/tiny.yaml", order_modes[_i], NULL, false, false, &bytes);
  mprt_program *p = start(image, bytes, "4");
  json_t *all = mprt__cuda_algorithms(p, p->cuda), *plan;
  const char *key;
  ck_assert_int_gt((int)json_object_size(json_object_get(all, "plans")), 2);
  json_object_foreach(json_object_get(all, "plans"), key, plan) {
    const char *hex = json_string_value(json_object_get(plan, "algorithm"));
    /* the second of its numbers is the algorithm's */
    ck_assert_msg(!strncmp(hex + 16, "0000000000000000", 16), "%s, %s: %s", order_modes[_i], key,
                  hex);
  }
  json_decref(all);
  mprt_close(p);
  free(image);
}
END_TEST

START_TEST(stored_plans_are_taken) {
  size_t bytes;
  int warnings;
  void *image = compile_for("sm_90", "tests/cli/tiny.yaml", "32-true", NULL, false, false, &bytes);
  ck_assert(mkdtemp(dir) != NULL);
  snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint", dir);
  snprintf(calls, sizeof calls, "%s/calls", dir);
  setenv("EMU_LOG", calls, 1);

  mprt_program *first = start(image, bytes, "1");
  char *stored = plans_of(first);
  const int all = timings();
  ck_assert_int_gt(all, 0);
  ck_assert_int_eq(mprt_save_checkpoint(first, checkpoint), MPCC_OK);
  mprt_program *other = start(image, bytes, "0");
  char *timed = plans_of(other);
  ck_assert_int_eq(timings(), all);
  ck_assert_str_ne(timed, stored); /* so that what follows can fail */

  mprt_program *p = resume(image, bytes, "0", &warnings);
  char *taken = plans_of(p);
  ck_assert_int_eq(timings(), 0);
  ck_assert_str_eq(taken, stored);
  ck_assert_int_eq(warnings, 0);
  step(first);
  same_state(p, first);
  mprt_close(p);
  free(taken);

  change_checkpoint(first, false);
  p = resume(image, bytes, "1", &warnings);
  taken = plans_of(p);
  const int one = timings();
  ck_assert_msg(one > 0 && one < all, "%d of %d timings for one product", one, all);
  ck_assert_str_eq(taken, stored);
  mprt_close(p);
  free(taken);

  change_checkpoint(first, true);
  p = resume(image, bytes, "0", &warnings);
  taken = plans_of(p);
  ck_assert_int_eq(timings(), all);
  ck_assert_str_eq(taken, timed);
  ck_assert_int_eq(warnings, 1);
  mprt_close(p);
  free(taken);

  unsetenv("EMU_LOG");
  char remove[100];
  snprintf(remove, sizeof remove, "rm -rf %s", dir);
  ck_assert_int_eq(system(remove), 0);
  mprt_close(first);
  mprt_close(other);
  free(stored);
  free(timed);
  free(image);
}
END_TEST

int main(void) {
  int code = run_cases("products", library_beside_own, (int)(sizeof cases / sizeof *cases));
  if (!code)
    code = run_cases("sums", sums_are_the_library_s, (int)(sizeof sum_modes / sizeof *sum_modes));
  if (!code)
    code = run_cases("refusals", an_offer_is_refused, (int)(sizeof refusals / sizeof *refusals));
  if (!code)
    code = run_cases("orders", another_order_is_not_taken,
                     (int)(sizeof order_modes / sizeof *order_modes));
  return code ? code : run_cases("checkpoints", stored_plans_are_taken, 1);
}
