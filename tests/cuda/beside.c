/* The CUDA target beside the CPU target, command by command, on the stand-in for a GPU. Both are
 * fused alike, so that command k of one is command k of the other. After each
 * the CPU is given what the GPU made: every command sees equal inputs, and what differs is this
 * command's own order of sums. Codes of 16 and 8 bits must be equal but for one in a thousand, two
 * of an attention, whose tensor cores multiply P and dS as sums of two elements, 2^-18 of them left
 * out: half a code of bf16 is 2^-9, and sums that cancel show more. What is not equal differs by
 * one code, or by no more than what a sum in another order can. Then a step again, each target on
 * its own: losses, gradient norm and codes of what training leaves, of which one in a thousand may
 * differ too. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/program.h"

/* How far the loss and the gradient norm of a step may be apart when each target goes on with its
 * own results, relative. 32 and 64 bits: sums of some hundred terms in another order. Below, of a
 * million codes some hundred fall to the other side of a rounding (measured with equal inputs);
 * each moves one sample's loss by at most 2^-8 of one activation, and a gradient by 2^-8 of itself;
 * a code of 8 bits is 2^-3 of an activation. */
typedef struct {
  const char *spec, *mode;
  double loss, norm;
  const char *recipe; /* NULL: the spec's */
  int steps;          /* with equal inputs; 0: 1 */
} Case;

static const Case cases[] = {
    {"tests/cli/tiny.yaml", "64-true", 1e-14, 1e-13},
    {"tests/cli/tiny.yaml", "32-true", 1e-6, 2e-6},
    {"tests/cli/tiny.yaml", "16-mixed", 2e-6, 5e-4},
    {"tests/cli/tiny.yaml", "bf16-mixed", 2e-6, 5e-4},
    {"tests/cli/tiny.yaml", "16-true", 2e-6, 5e-4},
    {"tests/cli/tiny.yaml", "bf16-true", 2e-6, 5e-4},
    {"tests/cli/tiny.yaml", "transformer-engine", 2e-6, 5e-4, NULL, 8},
    {"tests/cli/tiny.yaml", "transformer-engine-float16", 2e-6, 5e-4, NULL, 8},
    {"tests/cli/tiny.yaml", "transformer-engine", 1e-4, 5e-4, "Float8CurrentScaling", 8},
    {"tests/cli/tiny.yaml", "transformer-engine", 1e-4, 5e-4, "Float8BlockScaling", 8},
    {"tests/cli/tiny.yaml", "transformer-engine", 1e-4, 5e-4, "MXFP8BlockScaling", 8},
    {"tests/cli/tiny.yaml", "transformer-engine", 1e-4, 5e-4, "NVFP4BlockScaling", 8},
    {"tests/cuda/vit.yaml", "bf16-mixed", 2e-6, 5e-4},
    {"tests/cuda/vit.yaml", "transformer-engine", 2e-6, 5e-4},
};

/* ---- values ---------------------------------------------------------------------------------- */

typedef struct {
  const char *spec, *mode;
  int64_t codes, unequal, far; /* of 16- and 8-bit values; far: by more than one code */
  double worst;                /* of wider ones: distance by the largest magnitude */
  char where[300];
} Tally;

/* Codes in the order of their values. */
static int64_t rank_of(const void *at, DType d) {
  if (dtype_bytes(d) == 2) {
    uint16_t c;
    memcpy(&c, at, 2);
    return c & 0x8000 ? -(int64_t)(c & 0x7fff) : c;
  }
  uint8_t c;
  memcpy(&c, at, 1);
  return c & 0x80 ? -(int64_t)(c & 0x7f) : c;
}

static void compare(Tally *t, const uint8_t *a, const uint8_t *b, DType d, size_t n,
                    const char *where) {
  const size_t size = dtype_bytes(d);
  double most = 0, worst = 0;
  for (size_t k = 0; k < n; k++) {
    const double v = fabs(num_load(b + k * size, d));
    most = v > most ? v : most;
  }
  for (size_t k = 0; k < n; k++) {
    const double x = num_load(a + k * size, d), y = num_load(b + k * size, d);
    if (dtype_is_float(d) && size <= 2) {
      const int64_t apart = llabs(rank_of(a + k * size, d) - rank_of(b + k * size, d));
      t->codes++;
      t->unequal += apart > 0;
      /* one code, or a sum that nearly cancels: small beside what was added */
      t->far += apart > 1 && !(fabs(x - y) <= 0x1p-16 * most);
    } else if (!(x == y || (isnan(x) && isnan(y)))) {
      const double apart = fabs(x - y) / (most > 0 ? most : 1);
      worst = apart <= worst ? worst : apart;
    }
  }
  if (worst > t->worst || isnan(worst)) {
    t->worst = worst;
    snprintf(t->where, sizeof t->where, "%s", where);
  }
}

/* ---- command by command ---------------------------------------------------------------------- */

static bool always(void *user, mprt_program *p, const MpccCommand *c) {
  (void)user, (void)p, (void)c;
  return true;
}

static Status run_one(mprt_program *p, uint32_t command, bool observe) {
  const MpccFunction one = {.first_command = command, .ncommands = 1};
  return mprt__run(p, &one, observe ? always : NULL, NULL);
}

static bool same_work(mprt_program *p, const MpccCommand *x, mprt_program *q,
                      const MpccCommand *y) {
  return x->op == y->op && x->nargs == y->nargs &&
         !strcmp(mprt__string(p, x->label), mprt__string(q, y->label)) &&
         !strcmp(mprt__string(p, x->source), mprt__string(q, y->source)) &&
         !strcmp(mprt__string(p, x->layer), mprt__string(q, y->layer)) &&
         !strcmp(mprt__string(p, x->value_dtypes), mprt__string(q, y->value_dtypes));
}

/* What a command made, on both; then the CPU goes on with the GPU's. Results of other sizes are
 * partial sums of each target's own panels: what reads them is compared. */
static void compare_results(Tally *t, mprt_program *cpu, const MpccCommand *x, mprt_program *gpu,
                            const MpccCommand *y) {
  char where[300];
  snprintf(where, sizeof where, "%s %s (%s)", mprt__string(cpu, x->label),
           mprt__string(cpu, x->layer), mprt__string(cpu, x->source));
  const int64_t codes = t->codes, unequal = t->unequal;
  const char *dtypes = mprt__string(cpu, x->value_dtypes);
  for (uint32_t i = 0; i < x->nout; i++) {
    const uint32_t at_x = x->first_arg + x->first_out + i, at_y = y->first_arg + y->first_out + i;
    const MpccArgRef *r = &gpu->argref[at_y];
    if (cpu->argref[at_x].bytes != r->bytes)
      continue;
    const DType d = (DType)(dtypes[i] - 'a');
    uint8_t *mine = cpu->arg[at_x].p;
    const uint8_t *theirs = gpu->segment[r->segment].data + r->offset;
    compare(t, theirs, mine, d, r->bytes / dtype_bytes(d), where);
    memcpy(mine, theirs, r->bytes);
  }
  const double share = strncmp(where, "attention", 9) ? 1e-3 : 2e-3;
  ck_assert_msg((double)(t->unequal - unequal) <= share * (double)(t->codes - codes) + 2,
                "%s: %lld of %lld codes of %s differ", t->mode, (long long)(t->unequal - unequal),
                (long long)(t->codes - codes), where);
}

/* What both targets must do alike. Copies and fills depend on where a plan put things, packed
 * operands lie in panels of each target's own: they are just run. */
static bool is_common(const mprt_program *p, const MpccCommand *c) {
  return c && c->op == MPCC_CMD_LAUNCH &&
         strncmp(mprt__string(p, p->kernel[c->kernel].symbol), "pack_", 5) != 0;
}

static void step_together(Tally *t, mprt_program *cpu, mprt_program *gpu, const char *name) {
  const MpccFunction *f = mprt__function(cpu, name), *g = mprt__function(gpu, name);
  ck_assert(f != NULL && g != NULL);
  uint32_t i = 0, k = 0;
  while (i < f->ncommands || k < g->ncommands) {
    const MpccCommand *x = i < f->ncommands ? &cpu->command[f->first_command + i] : NULL;
    const MpccCommand *y = k < g->ncommands ? &gpu->command[g->first_command + k] : NULL;
    const bool same = is_common(cpu, x) && is_common(gpu, y);
    ck_assert_msg(!same || same_work(cpu, x, gpu, y), "%s: command '%s' stands beside '%s'",
                  t->mode, mprt__string(cpu, x->label), mprt__string(gpu, y->label));
    ck_assert_msg(same || (x && !is_common(cpu, x)) || (y && !is_common(gpu, y)),
                  "%s: one target has fewer commands", t->mode);
    if (same || (x && !is_common(cpu, x)))
      ck_assert_int_eq(run_one(cpu, f->first_command + i++, false), MPCC_OK);
    if (same || (y && !is_common(gpu, y)))
      ck_assert_int_eq(run_one(gpu, g->first_command + k++, true), MPCC_OK);
    if (same)
      compare_results(t, cpu, x, gpu, y);
  }
}

static void check_tally(const Tally *t) {
  printf("%-20s %-26s equal inputs   codes %lld, unequal %lld, far %lld; wide %.2g %s\n", t->spec,
         t->mode, (long long)t->codes, (long long)t->unequal, (long long)t->far, t->worst,
         t->where);
  ck_assert_msg((double)t->unequal <= 1e-3 * (double)t->codes, "%s: %lld of %lld codes differ",
                t->mode, (long long)t->unequal, (long long)t->codes);
  ck_assert_msg(t->far == 0, "%s: %lld codes differ by more than one", t->mode, (long long)t->far);
  /* sums of some hundred terms, in the format they are kept in */
  const double eps = strstr(t->mode, "64") ? 0x1p-52 : 0x1p-23;
  ck_assert_msg(t->worst <= 32 * eps, "%s: %s differs by %g", t->mode, t->where, t->worst);
}

/* ---- a step of its own ----------------------------------------------------------------------- */

static void step_alone(mprt_program *p) {
  if (mprt__function(p, "calibrate"))
    ck_assert_int_eq(mprt_run(p, "calibrate"), MPCC_OK);
  ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
}

static double far_apart(mprt_program *a, mprt_program *b, const char *name) {
  const double x = mprt__get_scalar(a, name, NAN), y = mprt__get_scalar(b, name, NAN);
  return fabs(x - y) / fabs(y);
}

/* 16- and 8-bit tensors that a step leaves. Not the bias of keys: it adds one number to all scores
 * of a query, which softmax does not see. Its exact gradient is 0, so that what each target finds
 * is the rounding of its own sums, and Adam makes whole steps of it. */
static void compare_state(Tally *t, mprt_program *a, mprt_program *b) {
  for (uint32_t i = 0; i < a->ntensor; i++) {
    const MpccTensor *x = &a->tensor[i];
    const DType d = (DType)x->dtype;
    const size_t size = dtype_bytes(d), n = x->bytes / size;
    if (a->flat[i] || (x->segment != MPCC_SEG_STATE && x->segment != MPCC_SEG_DERIVED) || size > 2)
      continue;
    const char *name = mprt__string(a, x->name);
    const int64_t k = mprt__tensor_index(b, name);
    ck_assert_msg(k >= 0, "one target has no tensor %s", name);
    const uint8_t *mine = mprt__tensor_look(a, i), *theirs = mprt__tensor_look(b, (uint32_t)k);
    const bool keys = strstr(name, "in_proj_bias") != NULL; /* queries, keys, values */
    compare(t, mine, theirs, d, keys ? n / 3 : n, name);
    if (keys)
      compare(t, mine + n / 3 * 2 * size, theirs + n / 3 * 2 * size, d, n / 3, name);
  }
}

/* A step of the CPU in which one code of the result of the first attention moves by one. */
static void step_with_move(mprt_program *p, size_t which) {
  const MpccFunction *f = mprt__function(p, "train_step");
  bool moved = false;
  if (mprt__function(p, "calibrate"))
    ck_assert_int_eq(mprt_run(p, "calibrate"), MPCC_OK);
  for (uint32_t i = f->first_command; i < f->first_command + f->ncommands; i++) {
    const MpccCommand *x = &p->command[i];
    ck_assert_int_eq(run_one(p, i, false), MPCC_OK);
    if (moved || strcmp(mprt__string(p, x->label), "attention"))
      continue;
    const uint32_t at = x->first_arg + x->first_out;
    uint16_t *code = p->arg[at].p;
    code[which % (p->argref[at].bytes / 2)] ^= 1;
    moved = true;
  }
  ck_assert(moved);
}

/* How many codes of what a step leaves differ on the CPU when one code within the step moves: the
 * most of some that are tried. */
static int64_t codes_that_follow_one(const Case *c, const void *image, size_t bytes,
                                     mprt_program *cpu) {
  enum { TRIED = 12 };
  int64_t most = 0;
  for (size_t k = 0; k < TRIED; k++) {
    mprt_program *p = open_on(image, bytes, "cpu", false);
    Tally t = {.spec = c->spec, .mode = c->mode};
    step_with_move(p, 300 * k + 7);
    compare_state(&t, p, cpu);
    most = t.unequal > most ? t.unequal : most;
    mprt_close(p);
  }
  return most;
}

/* What one step leaves, each target on its own. Moments in 16 bits follow each rounding of a
 * gradient: when more than one code in a thousand differs there, it must be no more than what the
 * CPU differs from itself by as many codes moved within the step as the targets differ in with
 * equal inputs (`moved`). */
static void check_own_step(const Case *c, const void *image, size_t bytes, int64_t moved) {
  mprt_program *cpu = open_on(image, bytes, "cpu", false),
               *gpu = open_on(image, bytes, "cuda", false);
  Tally t = {.spec = c->spec, .mode = c->recipe ? c->recipe : c->mode};
  step_alone(cpu);
  step_alone(gpu);
  compare_state(&t, gpu, cpu);
  const double loss = far_apart(gpu, cpu, "metric.loss_sum");
  const double norm = far_apart(gpu, cpu, "metric.grad_norm");
  printf("%-20s %-26s its own step   loss %.2g, gradient norm %.2g, codes %lld, unequal %lld\n",
         t.spec, t.mode, loss, norm, (long long)t.codes, (long long)t.unequal);
  ck_assert_msg(loss <= c->loss, "%s: the loss differs by %g", t.mode, loss);
  ck_assert_msg(norm <= c->norm, "%s: the gradient norm differs by %g", t.mode, norm);
  int64_t allowed = t.codes / 1000;
  if (t.unequal > allowed && strstr(t.mode, "16-true")) {
    const int64_t one = codes_that_follow_one(c, image, bytes, cpu);
    printf("%-20s %-26s on the CPU     a code that moves by one takes %lld with it\n", t.spec,
           t.mode, (long long)one);
    allowed = moved * one;
  }
  ck_assert_msg(t.unequal <= allowed, "%s: %lld of %lld codes differ, %lld may", t.mode,
                (long long)t.unequal, (long long)t.codes, (long long)allowed);
  mprt_close(cpu);
  mprt_close(gpu);
}

START_TEST(commands_and_first_step) {
  const Case *c = &cases[_i];
  size_t bytes;
  char recipe[80];
  snprintf(recipe, sizeof recipe, "precision.recipe.name=%s", c->recipe ? c->recipe : "");
  void *image =
      compile_for("sm_80", c->spec, c->mode, c->recipe ? recipe : NULL, true, true, &bytes);
  mprt_program *cpu = open_on(image, bytes, "cpu", false),
               *gpu = open_on(image, bytes, "cuda", false);
  Tally t = {.spec = c->spec, .mode = c->recipe ? c->recipe : c->mode};
  if (mprt__function(cpu, "calibrate"))
    step_together(&t, cpu, gpu, "calibrate");
  int64_t first = 0; /* codes that differ in the first step */
  for (int step = 0; step < (c->steps ? c->steps : 1); step++) {
    feed(cpu, (uint64_t)step);
    feed(gpu, (uint64_t)step);
    mprt__schedule_fill(cpu, step, 100, 100);
    mprt__schedule_fill(gpu, step, 100, 100);
    step_together(&t, cpu, gpu, "train_step");
    first = step ? first : t.unequal;
  }
  mprt_close(cpu);
  mprt_close(gpu);
  check_tally(&t);
  check_own_step(c, image, bytes, first);
  free(image);
}
END_TEST

int main(void) {
  return run_cases("cuda beside cpu", commands_and_first_step, (int)(sizeof cases / sizeof *cases));
}
