/* cpu_attention and cpu_attention_grad against the reference interpreter: odd lengths and widths,
 * causal, dropout, strict rounding, storage dtypes, operands as slices of a joined projection, and
 * the same bits however tiles are shared out. */
#include "tests/check_run.h"
#include "tests/kernel_run.h"

#include <math.h>

typedef struct {
  int64_t N, H, T, S, D;
} Size;

typedef struct {
  const char *level;
  Size z;
  DType dt; /* of all operands and results */
  bool causal, round;
  double dropout_p;
  bool joined; /* q, k, v are columns of one [N, T, 3 * H * D] tensor */
} Case;

/* q or a key side operand over (n, h, row, d) of [N, length, (3) H * D]. */
static Access heads(const Case *c, int64_t length, int which) {
  int64_t width = c->z.H * c->z.D, row = c->joined ? 3 * width : width;
  return (Access){c->joined ? which * width : 0, {length * row, c->z.D, row, 1}};
}

static Access plain(const Case *c, int64_t length) {
  return (Access){0, {length * c->z.H * c->z.D, c->z.D, c->z.H * c->z.D, 1}};
}

static Access lse_access(const Case *c) {
  return (Access){0, {c->z.H * c->z.T, c->z.T, 1, 0}};
}

static Group *attention_group(const Case *c, const char *kind) {
  Group *t = group_new(kind, 4, (int64_t[]){c->z.N, c->z.H, c->z.T, c->z.D}, 1);
  group_int(t, "keys", c->z.S);
  group_int(t, "causal", c->causal);
  group_float(t, "scale", 1.25 / sqrt((double)c->z.D));
  group_float(t, "dropout_p", c->dropout_p);
  group_dtype(t, "compute", c->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32);
  if (c->round)
    group_dtype(t, "round", c->dt);
  return t;
}

static void add_random(const Case *c, Group *t) {
  if (c->dropout_p <= 0)
    return;
  group_in(t, MPCC_I64, 1, (Access){0});
  group_in(t, MPCC_I64, 3, (Access){2});
  group_param(t, 77);
}

/* Operands, results, what the reference says, and what the kernel gave. */
typedef struct {
  Group *t;
  Run r;
  Elems in[8], out[3], again[3];
} Trial;

static void trial_run(const Case *c, Trial *x) {
  Group *t = x->t;
  x->r = run_compile(t, c->level);
  MpccArg args[16], other[16];
  const double *in[8];
  double *want[3];
  int n = t->op.nout;
  for (int k = 0; k < n; k++) {
    x->out[k] = elems_new(t->op.out[k]->type->dt, type_elems(t->op.out[k]->type));
    x->again[k] = elems_new(x->out[k].dt, x->out[k].n);
    args[k].p = x->out[k].data;
    other[k].p = x->again[k].data;
    want[k] = x->out[k].value;
  }
  for (int k = 0; k < t->op.nin; k++) {
    args[n + k].p = other[n + k].p = x->in[k].data;
    in[k] = x->in[k].value;
  }
  args[n + t->op.nin].i = other[n + t->op.nin].i = 77;
  x->r.fn(args, 0, x->r.ntiles, x->r.scratch);
  run_in_pieces(&x->r, other, 1);
  ck_assert_int_eq(eval_op(&t->op, true, in, want), MPCC_OK);
  for (int k = 0; k < n; k++) {
    ck_assert(elems_intact(&x->out[k]));
    ck_assert_int_eq(
        memcmp(x->out[k].data, x->again[k].data, (size_t)x->out[k].n * dtype_bytes(x->out[k].dt)),
        0);
  }
}

static void trial_free(Trial *x) {
  for (int k = 0; k < x->t->op.nin; k++)
    elems_free(&x->in[k]);
  for (int k = 0; k < x->t->op.nout; k++) {
    elems_free(&x->out[k]);
    elems_free(&x->again[k]);
  }
  run_free(&x->r);
  group_free(x->t);
}

/* Error of an element: rounding of the result to its dtype, of P to the storage dtype when strict,
 * and of sums of `terms` terms of the size of the largest result, each exact to `least` at best. */
static void compare(const Case *c, const Trial *x, int k, double terms, double least) {
  const Elems *b = &x->out[k];
  double most = 0, eps = fmax(c->dt == MPCC_F64 ? 0x1p-52 : 0x1p-23, least);
  for (int64_t i = 0; i < b->n; i++)
    most = fmax(most, fabs(b->value[i]));
  if (c->round)
    eps = fmax(eps, dtype_info(c->dt)->eps / 4);
  double slack = eps * (16 + 4 * sqrt(terms)) * fmax(most, 0.25);
  if (b->dt == MPCC_F32 && c->dt == MPCC_F64) /* lse */
    slack = 0x1p-23 * fmax(most, 1);
  for (int64_t i = 0; i < b->n; i++) {
    double v = elems_get(b, i), want = b->value[i];
    double ulp = fmax(fabs(want), dtype_info(b->dt)->min_normal) * dtype_info(b->dt)->eps;
    ck_assert_msg(
        fabs(v - want) <= slack + ulp,
        "%s %s N%lld H%lld T%lld S%lld D%lld %s%s%s p %g: result %d element %lld is %.9g, "
        "not %.9g (slack %g)",
        op_str(&x->t->op, "kind", ""), c->level, (long long)c->z.N, (long long)c->z.H,
        (long long)c->z.T, (long long)c->z.S, (long long)c->z.D, dtype_text(c->dt),
        c->causal ? " causal" : "", c->round ? " round" : "", c->dropout_p, k, (long long)i, v,
        want, slack);
  }
}

static void fill_random(const Case *c, Trial *x, int first) {
  if (c->dropout_p <= 0)
    return;
  x->in[first] = elems_new(MPCC_I64, 1);
  x->in[first + 1] = elems_new(MPCC_I64, 3);
  elems_set(&x->in[first], 0, 1234);
  for (int i = 0; i < 3; i++)
    elems_set(&x->in[first + 1], i, i == 2 ? 9 : -1);
}

static void check_case(Case c) {
  Size z = c.z;
  int64_t qn = z.N * z.T * z.H * z.D, kn = z.N * z.S * z.H * z.D;
  int64_t all = c.joined ? 3 * qn : 0, rows = z.N * z.H * z.T;
  Trial f = {.t = attention_group(&c, "attention")};
  int64_t length[] = {z.T, z.S, z.S};
  for (int k = 0; k < 3; k++) {
    int64_t n = c.joined ? all : k ? kn : qn;
    group_in(f.t, c.dt, n, heads(&c, length[k], k));
    f.in[k] = elems_new(c.dt, n);
    elems_fill(&f.in[k], 11 + (c.joined ? 0 : (uint32_t)k), 1.5);
  }
  add_random(&c, f.t);
  fill_random(&c, &f, 3);
  group_out(f.t, c.dt, qn, plain(&c, z.T));
  group_out(f.t, MPCC_F32, rows, lse_access(&c));
  trial_run(&c, &f);
  compare(&c, &f, 0, (double)z.S, 0);
  compare(&c, &f, 1, (double)z.S, 0);

  /* The gradient starts from the exact o and lse, rounded to their dtypes. */
  Trial g = {.t = attention_group(&c, "attention_grad")};
  for (int k = 0; k < 3; k++) {
    int64_t n = k == 2 ? rows : qn;
    DType dt = k == 2 ? MPCC_F32 : c.dt;
    group_in(g.t, dt, n, k == 2 ? lse_access(&c) : plain(&c, z.T));
    g.in[k] = elems_new(dt, n);
    if (k == 0)
      elems_fill(&g.in[k], 21, 1);
    else
      for (int64_t i = 0; i < n; i++)
        elems_set(&g.in[k], i, f.out[k - 1].value[i]);
  }
  for (int k = 0; k < 3; k++) {
    group_in(g.t, c.dt, f.in[k].n, f.t->body.in[k]);
    g.in[3 + k] = elems_new(c.dt, f.in[k].n);
    for (int64_t i = 0; i < f.in[k].n; i++)
      elems_set(&g.in[3 + k], i, f.in[k].value[i]);
    group_out(g.t, c.dt, k ? kn : qn, plain(&c, length[k]));
  }
  add_random(&c, g.t);
  fill_random(&c, &g, 6);
  trial_run(&c, &g);
  /* The interpreter takes lse as rounded to f32 in f64 too, where the kernel does better:
   * f64_is_exact below is the sharp test. */
  for (int k = 0; k < 3; k++)
    compare(&c, &g, k, (double)(z.S + z.T), 0x1p-22);
  trial_free(&g);
  trial_free(&f);
}

static const Size sizes[] = {{1, 1, 1, 1, 1},   {2, 3, 50, 50, 16}, {1, 2, 197, 197, 64},
                             {2, 1, 7, 7, 7},   {1, 3, 33, 33, 48}, {1, 2, 130, 130, 24},
                             {1, 1, 5, 61, 80}, {2, 2, 65, 3, 33},  {1, 1, 1, 40, 64}};
enum { NSIZE = sizeof sizes / sizeof *sizes };

START_TEST(lengths_and_widths) {
  if (_i / NSIZE >= run_levels())
    return;
  const char *level = target_cpu.level[_i / NSIZE];
  Size z = sizes[_i % NSIZE];
  check_case((Case){level, z, MPCC_F32, false, false, 0, false});
  check_case((Case){level, z, MPCC_F32, true, false, 0, z.T == z.S});
  check_case((Case){level, z, MPCC_F64, _i % 2, false, 0, false});
}
END_TEST

START_TEST(dtypes_and_dropout) {
  static const DType dt[] = {MPCC_F64, MPCC_F32, MPCC_BF16, MPCC_F16};
  if (_i / 4 >= run_levels())
    return;
  const char *level = target_cpu.level[_i / 4];
  Size z = {2, 2, 35, 35, 20};
  for (int causal = 0; causal < 2; causal++) {
    check_case((Case){level, z, dt[_i % 4], causal, false, 0.25, true});
    check_case((Case){level, z, dt[_i % 4], causal, false, 0, true});
    if (dtype_is_half(dt[_i % 4]))
      check_case((Case){level, z, dt[_i % 4], causal, true, causal ? 0.1 : 0, false});
  }
}
END_TEST

/* f64: P sums to 1 beyond f32 although lse is stored in f32, so a constant gradient of v's column
 * sum is the number of queries. */
START_TEST(f64_is_exact) {
  const char *level = target_cpu.host_level();
  Case c = {level, {1, 1, 20, 20, 8}, MPCC_F64, false, false, 0, false};
  int64_t n = 160;
  Group *t = attention_group(&c, "attention_grad");
  Elems b[6], out[3];
  MpccArg args[9];
  for (int k = 0; k < 6; k++) {
    DType dt = k == 2 ? MPCC_F32 : MPCC_F64;
    group_in(t, dt, k == 2 ? 20 : n, k == 2 ? lse_access(&c) : plain(&c, 20));
    b[k] = elems_new(dt, k == 2 ? 20 : n);
    elems_fill(&b[k], 3 + (uint32_t)k, 1);
    args[3 + k].p = b[k].data;
  }
  for (int64_t i = 0; i < n; i++) /* do */
    elems_set(&b[0], i, 1);
  for (int k = 0; k < 3; k++) {
    group_out(t, MPCC_F64, n, plain(&c, 20));
    out[k] = elems_new(MPCC_F64, n);
    args[k].p = out[k].data;
  }
  Run r = run_compile(t, level);
  r.fn(args, 0, r.ntiles, r.scratch);
  for (int64_t d = 0; d < 8; d++) {
    double sum = 0;
    for (int64_t s = 0; s < 20; s++)
      sum += elems_get(&out[2], s * 8 + d);
    ck_assert_double_eq_tol(sum, 20, 1e-12);
  }
  for (int k = 0; k < 6; k++)
    elems_free(&b[k]);
  for (int k = 0; k < 3; k++)
    elems_free(&out[k]);
  run_free(&r);
  group_free(t);
}
END_TEST

/* Scratch grows with the number of keys, not with its square. */
START_TEST(scratch_is_linear) {
  const char *level = target_cpu.host_level();
  int64_t bytes[2];
  for (int i = 0; i < 2; i++) {
    Case c = {level, {1, 1, 512 << i, 512 << i, 64}, MPCC_BF16, true, false, 0, false};
    Group *t = attention_group(&c, "attention");
    int64_t n = c.z.T * 64;
    for (int k = 0; k < 3; k++)
      group_in(t, c.dt, n, plain(&c, c.z.T));
    group_out(t, c.dt, n, plain(&c, c.z.T));
    group_out(t, MPCC_F32, c.z.T, lse_access(&c));
    Run r = run_compile(t, level);
    bytes[i] = r.scratch_bytes;
    run_free(&r);
    group_free(t);
  }
  ck_assert_int_lt(bytes[1], 2 * bytes[0]);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cpu_attention");
  TCase *t = tcase_create("attention");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, lengths_and_widths, 0, 3 * NSIZE);
  tcase_add_loop_test(t, dtypes_and_dropout, 0, 12);
  tcase_add_test(t, f64_is_exact);
  tcase_add_test(t, scratch_is_linear);
  suite_add_tcase(s, t);
  return check_run(s);
}
