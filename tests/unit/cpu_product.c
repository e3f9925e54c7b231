/* cpu_product and cpu_pack against the reference interpreter: storage dtypes, orientations, odd
 * sizes, statements after the sum, and the same bits however tiles are shared out. */
#include "tests/check_run.h"
#include "tests/kernel_run.h"

#include <math.h>

typedef struct {
  int64_t M, N, K;
} Size;

typedef struct {
  DType a, b, compute, out;
} Types;

typedef enum { A_ROWS, A_TRANSPOSED, A_STRIDED } AOrder;

typedef struct {
  const char *level;
  Size s;
  Types t;
  AOrder order;
  bool tb;
  bool epilogue;
} Case;

static int columns(const char *level, DType compute) {
  TargetCaps caps;
  ck_assert_int_eq(target_cpu.caps(level, &caps), MPCC_OK);
  return compute == MPCC_F64    ? caps.panel_cols_f64
         : compute == MPCC_BF16 ? caps.panel_cols_bf16
                                : caps.panel_cols_f32;
}

/* out = acc, or gelu-like work on acc + bias + residual with two results, over rows [3, M / 3] when
 * M allows, so that row addresses need more than one stride. */
static void statements(Group *t, const Case *c, int64_t rows0, int64_t rows1) {
  DType r = c->t.compute == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  int64_t M = c->s.M, N = c->s.N;
  int acc = group_stmt(t, PR_ACC, r, 0, 0, -1, -1, -1, -1);
  if (!c->epilogue) {
    group_out(t, c->t.out, M * N, (Access){0, {rows1 * N, N, 1}});
    group_stmt(t, PR_STORE, r, 0, 0, acc, -1, -1, -1);
    return;
  }
  /* bias[N]; residual stored as [rows1, rows0, N + 1] with an offset */
  group_in(t, r, N, (Access){0, {0, 0, 1}});
  group_in(t, MPCC_BF16, M * (N + 1) + 1, (Access){1, {N + 1, rows0 * (N + 1), 1}});
  group_out(t, c->t.out, M * N, (Access){0, {rows1 * N, N, 1}});
  group_out(t, MPCC_F16, M * N, (Access){0, {rows1, 1, M}}); /* [N, rows] */
  int bias = group_stmt(t, PR_LOAD, r, 2, 0, -1, -1, -1, -1);
  int residual = group_stmt(t, PR_LOAD, MPCC_F32, 3, 0, -1, -1, -1, -1);
  if (r == MPCC_F64)
    residual = group_stmt(t, PR_CVT, r, 0, 0, residual, -1, -1, -1);
  int x = group_stmt(t, PR_ADD, r, 0, 0, acc, bias, -1, -1);
  int zero = group_stmt(t, PR_CONST, r, 0, 0, -1, -1, -1, -1);
  int below = group_stmt(t, PR_LT, MPCC_B1, 0, 0, x, zero, -1, -1);
  int y = group_stmt(t, PR_SELECT, r, 0, 0, below, zero, x, -1);
  int row = group_stmt(t, PR_INDEX, MPCC_I64, 1, 0, -1, -1, -1, -1);
  int col = group_stmt(t, PR_INDEX, MPCC_I64, 2, 0, -1, -1, -1, -1);
  int sum = group_stmt(t, PR_ADD, MPCC_I64, 0, 0, row, col, -1, -1);
  int at = group_stmt(t, PR_CVT, r, 0, 0, sum, -1, -1, -1);
  int tiny = group_stmt(t, PR_CONST, r, 0, 1.0 / 64, -1, -1, -1, -1);
  int z = group_stmt(t, PR_MUL, r, 0, 0, at, tiny, -1, -1);
  z = group_stmt(t, PR_ADD, r, 0, 0, z, residual, -1, -1);
  z = group_stmt(t, PR_ADD, r, 0, 0, z, y, -1, -1);
  group_stmt(t, PR_STORE, r, 0, 0, z, -1, -1, -1);
  group_stmt(t, PR_STORE, r, 1, 0, x, -1, -1, -1);
}

static Access a_access(const Case *c, int64_t rows1) {
  int64_t M = c->s.M, K = c->s.K;
  switch (c->order) {
  case A_ROWS:
    return (Access){0, {rows1 * K, K, 1}};
  case A_TRANSPOSED:
    return (Access){0, {rows1, 1, M}};
  default: /* every third element */
    return (Access){2, {rows1 * K * 3, K * 3, 3}};
  }
}

/* |got - want| within the rounding of results to dt, and of k sums of magnitude up to `size`. */
static void compare(const Case *c, const Elems *got, const double *want, double size) {
  double sums = c->t.compute == MPCC_F64 ? 0x1p-52 : 0x1p-23;
  double slack = sums * (8 + sqrt((double)c->s.K)) * size;
  const DTypeInfo *info = dtype_info(got->dt);
  for (int64_t i = 0; i < got->n; i++) {
    double v = elems_get(got, i), e = fabs(v - want[i]);
    double ulp = fmax(fabs(want[i]), info->min_normal) * info->eps;
    ck_assert_msg(
        e <= slack + ulp,
        "%s %lldx%lldx%lld %s %s as %s to %s order %d %s%s: element %lld is %.9g, not %.9g",
        c->level, (long long)c->s.M, (long long)c->s.N, (long long)c->s.K, dtype_text(c->t.a),
        dtype_text(c->t.b), dtype_text(c->t.compute), dtype_text(got->dt), c->order,
        c->tb ? "T" : "N", c->epilogue ? " epilogue" : "", (long long)i, v, want[i]);
  }
}

/* Packs b, rounded to `round` unless that is MPCC_DTYPE_COUNT, checks it element by element, gives
 * the packed buffer. */
static Elems pack(const Case *c, const Elems *b, DType round) {
  int64_t N = c->s.N, K = c->s.K;
  int p = c->t.compute == MPCC_BF16 ? 2 : 1, cols = columns(c->level, c->t.compute);
  Group *t = group_new("pack", 2, (int64_t[]){N, K}, 2);
  const Type *type = group_packed(t, c->t.compute, N, K, cols, p);
  group_in(t, c->t.b, N * K, (Access){0, {c->tb ? K : 1, c->tb ? 1 : N}});
  group_out_type(t, type, (Access){0});
  group_dtype(t, "compute", c->t.compute);
  if (round != MPCC_DTYPE_COUNT)
    group_dtype(t, "round", round);
  Run r = run_compile(t, c->level);
  Elems packed = elems_new(c->t.compute, type_elems(type));
  MpccArg args[] = {{packed.data}, {b->data}};
  run_in_pieces(&r, args, 2);
  const double *in[] = {b->value};
  double *out[] = {packed.value};
  ck_assert_int_eq(eval_op(&t->op, false, in, out), MPCC_OK);
  for (int64_t i = 0; i < packed.n; i++)
    ck_assert_msg(elems_get(&packed, i) == packed.value[i],
                  "%s pack %lldx%lld %s as %s %s: element %lld is %g, not %g", c->level,
                  (long long)N, (long long)K, dtype_text(c->t.b), dtype_text(c->t.compute),
                  c->tb ? "T" : "N", (long long)i, elems_get(&packed, i), packed.value[i]);
  ck_assert(elems_intact(&packed));
  run_free(&r);
  group_free(t);
  return packed;
}

static void check_product(Case c) {
  int64_t M = c.s.M, N = c.s.N, K = c.s.K, rows0 = M % 3 ? 1 : 3, rows1 = M / rows0;
  int p = c.t.compute == MPCC_BF16 ? 2 : 1, cols = columns(c.level, c.t.compute);
  Elems a = elems_new(c.t.a, M * K * (c.order == A_STRIDED ? 3 : 1)), b = elems_new(c.t.b, N * K);
  elems_fill(&a, 1, 1);
  elems_fill(&b, 2, 1);
  Elems packed = pack(&c, &b, MPCC_DTYPE_COUNT);
  Group *t = group_new("product", 3, (int64_t[]){rows0, rows1, N}, 1);
  group_in(t, c.t.a, a.n, a_access(&c, rows1));
  group_in_type(t, group_packed(t, c.t.compute, N, K, cols, p), (Access){0});
  group_int(t, "k", K);
  group_dtype(t, "compute", c.t.compute);
  statements(t, &c, rows0, rows1);
  Run r = run_compile(t, c.level);
  Elems out[4], again[2], side[4];
  MpccArg args[8], args2[8];
  const double *in[8] = {a.value, packed.value};
  double *want[4];
  for (int k = 0; k < t->op.nout; k++) {
    out[k] = elems_new(t->op.out[k]->type->dt, type_elems(t->op.out[k]->type));
    again[k] = elems_new(out[k].dt, out[k].n);
    args[k].p = out[k].data;
    args2[k].p = again[k].data;
    want[k] = out[k].value;
  }
  int n = t->op.nout;
  args[n].p = args2[n].p = a.data;
  args[n + 1].p = args2[n + 1].p = packed.data;
  for (int k = 2; k < t->op.nin; k++) {
    side[k] = elems_new(t->op.in[k]->type->dt, type_elems(t->op.in[k]->type));
    elems_fill(&side[k], 5 + (uint32_t)k, 1);
    in[k] = side[k].value;
    args[n + k].p = args2[n + k].p = side[k].data;
  }
  r.fn(args, 0, r.ntiles, r.scratch);
  run_in_pieces(&r, args2, 1);
  ck_assert_int_eq(eval_op(&t->op, false, in, want), MPCC_OK);
  for (int k = 0; k < t->op.nout; k++) {
    compare(&c, &out[k], want[k], (double)K / 3 + 4);
    ck_assert(elems_intact(&out[k]));
    ck_assert_int_eq(memcmp(out[k].data, again[k].data, (size_t)out[k].n * dtype_bytes(out[k].dt)),
                     0);
    elems_free(&out[k]);
    elems_free(&again[k]);
  }
  for (int k = 2; k < t->op.nin; k++)
    elems_free(&side[k]);
  elems_free(&a);
  elems_free(&b);
  elems_free(&packed);
  run_free(&r);
  group_free(t);
}

static bool can(const char *level, DType compute) {
  TargetCaps caps;
  target_cpu.caps(level, &caps);
  return compute != MPCC_BF16 || caps.bf16_dot;
}

static const Size sizes[] = {
    {1, 1, 1},    {3, 10, 16},  {5, 100, 33},  {7, 70, 7},     {2, 256, 64},   {29, 33, 1},
    {15, 48, 97}, {64, 64, 64}, {50, 197, 48}, {128, 10, 128}, {66, 131, 401}, {40, 530, 1100},
};
enum { NSIZE = sizeof sizes / sizeof *sizes };

/* Every size and orientation, one type per compute dtype. */
START_TEST(all_sizes) {
  static const Types types[] = {{MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32},
                                {MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64},
                                {MPCC_BF16, MPCC_BF16, MPCC_BF16, MPCC_BF16}};
  const char *level = target_cpu.level[_i / 3];
  Types t = types[_i % 3];
  if (_i / 3 >= run_levels() || !can(level, t.compute))
    return;
  for (int s = 0; s < NSIZE; s++)
    for (int o = 0; o < 3; o++)
      check_product((Case){level, sizes[s], t, (AOrder)o, (s + o) % 2 == 0, (s + o) % 3 == 0});
}
END_TEST

/* Every storage dtype, orientation and the statements. */
START_TEST(all_types) {
  static const Types types[] = {
      {MPCC_F32, MPCC_F32, MPCC_F32, MPCC_BF16},  {MPCC_BF16, MPCC_BF16, MPCC_F32, MPCC_F32},
      {MPCC_F16, MPCC_F16, MPCC_F32, MPCC_F16},   {MPCC_E4M3, MPCC_E5M2, MPCC_F32, MPCC_F32},
      {MPCC_E5M2, MPCC_F16, MPCC_F32, MPCC_E4M3}, {MPCC_F32, MPCC_F64, MPCC_F64, MPCC_F64},
      {MPCC_BF16, MPCC_F32, MPCC_F64, MPCC_F32},  {MPCC_E4M3, MPCC_BF16, MPCC_BF16, MPCC_F32},
      {MPCC_F32, MPCC_E5M2, MPCC_BF16, MPCC_BF16}};
  static const Size some[] = {{33, 70, 45}, {30, 64, 34}};
  const char *level = target_cpu.level[_i];
  if (_i >= run_levels())
    return;
  for (size_t k = 0; k < sizeof types / sizeof *types; k++)
    for (int o = 0; o < 3 && can(level, types[k].compute); o++)
      check_product(
          (Case){level, some[(k + (size_t)o) % 2], types[k], (AOrder)o, k % 2 == 0, true});
}
END_TEST

/* Rounding while packing is what packing a rounded copy is. */
START_TEST(packs_round) {
  static const DType formats[] = {MPCC_BF16, MPCC_F16};
  const char *level = target_cpu.level[_i];
  if (_i >= run_levels())
    return;
  for (int k = 0; k < 16; k++) {
    DType round = formats[k % 2], compute = round == MPCC_BF16 && k % 4 > 1 ? MPCC_BF16 : MPCC_F32;
    if (!can(level, compute))
      continue;
    Case c = {
        level, sizes[2 + k / 4 * 3], {MPCC_F32, MPCC_F32, compute, MPCC_F32}, A_ROWS, k / 2 % 2,
        false};
    Elems b = elems_new(MPCC_F32, c.s.N * c.s.K), copy = elems_new(round, b.n);
    elems_fill(&b, 2, 1.0 / 3);
    elems_set(&b, 0, k % 3 ? 0x1.01p-3 : 1e6); /* a tie in bf16; more than float16 has */
    for (int64_t i = 0; i < b.n; i++)
      elems_set(&copy, i, b.value[i]);
    Elems packed = pack(&c, &b, round);
    c.t.b = round;
    Elems want = pack(&c, &copy, MPCC_DTYPE_COUNT);
    ck_assert_int_eq(memcmp(packed.data, want.data, (size_t)want.n * dtype_bytes(compute)), 0);
    elems_free(&b);
    elems_free(&copy);
    elems_free(&packed);
    elems_free(&want);
  }
}
END_TEST

/* Second factors as they lie, one for each of I x J products: c[i, j] = a[i, j] b[i, j] plus the
 * number of the product, stored as [j, rows, i, columns]. */
static void check_batch(const char *level, Size z, Types y, bool ta, bool tb, int64_t I,
                        int64_t J) {
  int64_t M = z.M, N = z.N, K = z.K;
  DType reg = y.compute == MPCC_F64 ? MPCC_F64 : MPCC_F32;
  Case c = {level, z, y, ta ? A_TRANSPOSED : A_ROWS, tb, true};
  Elems a = elems_new(y.a, I * J * M * K), b = elems_new(y.b, I * J * N * K + 1);
  elems_fill(&a, 1, 1);
  elems_fill(&b, 2, 1);
  Group *t = group_new("product", 4, (int64_t[]){I, J, M, N}, 1);
  group_in(t, y.a, a.n, (Access){0, {J * M * K, M * K, ta ? 1 : K, ta ? M : 1}});
  group_in(t, y.b, b.n, (Access){1, {N * K, I * N * K, 0, 0}});
  group_out(t, y.out, I * J * M * N, (Access){0, {N, M * I * N, I * N, 1}});
  group_int(t, "k", K);
  group_dtype(t, "compute", y.compute);
  group_ints(t, "factor", 2, (int64_t[]){tb ? 1 : N, tb ? K : 1});
  int acc = group_stmt(t, PR_ACC, reg, 0, 0, -1, -1, -1, -1);
  int j = group_stmt(t, PR_INDEX, MPCC_I64, 1, 0, -1, -1, -1, -1);
  int at = group_stmt(t, PR_CVT, reg, 0, 0, j, -1, -1, -1);
  int sum = group_stmt(t, PR_ADD, reg, 0, 0, acc, at, -1, -1);
  group_stmt(t, PR_STORE, reg, 0, 0, N % 3 ? sum : acc, -1, -1, -1);
  Run r = run_compile(t, level);
  Elems out = elems_new(y.out, I * J * M * N), again = elems_new(y.out, out.n);
  r.fn((MpccArg[]){{out.data}, {a.data}, {b.data}}, 0, r.ntiles, r.scratch);
  run_in_pieces(&r, (MpccArg[]){{again.data}, {a.data}, {b.data}}, 1);
  const double *in[] = {a.value, b.value};
  double *want[] = {out.value};
  ck_assert_int_eq(eval_op(&t->op, false, in, want), MPCC_OK);
  compare(&c, &out, out.value, (double)K / 3 + 4);
  ck_assert(elems_intact(&out));
  ck_assert_int_eq(memcmp(out.data, again.data, (size_t)out.n * dtype_bytes(out.dt)), 0);
  elems_free(&a);
  elems_free(&b);
  elems_free(&out);
  elems_free(&again);
  run_free(&r);
  group_free(t);
}

START_TEST(batches) {
  static const Types types[] = {{MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32},
                                {MPCC_F64, MPCC_F64, MPCC_F64, MPCC_F64},
                                {MPCC_BF16, MPCC_BF16, MPCC_F32, MPCC_BF16},
                                {MPCC_F16, MPCC_E4M3, MPCC_F32, MPCC_F16}};
  static const Size some[] = {
      {4, 33, 5}, {70, 65, 67}, {16, 64, 32}, {17, 32, 1100}, {130, 96, 40}};
  const char *level = target_cpu.level[_i];
  if (_i >= run_levels())
    return;
  for (size_t k = 0; k < sizeof types / sizeof *types; k++)
    for (size_t s = 0; s < sizeof some / sizeof *some; s++)
      for (int o = s == 1 ? 0 : (int)(k + s) % 4, n = s == 1 ? 4 : 1; n > 0; n--, o++)
        check_batch(level, some[s], types[k], o % 2, o / 2 % 2, 2, 3);
}
END_TEST

/* One second factor for all rows, rounded on its way where bf16 are multiplied: a parameter. */
START_TEST(raw_factor) {
  static const Types types[] = {{MPCC_F32, MPCC_F32, MPCC_F32, MPCC_F32},
                                {MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_BF16},
                                {MPCC_BF16, MPCC_F32, MPCC_BF16, MPCC_F32}};
  static const Size some[] = {{33, 65, 67}, {48, 96, 64}, {320, 64, 1100}, {100, 71, 2049}};
  const char *level = target_cpu.level[_i];
  if (_i >= run_levels())
    return;
  for (size_t k = 0; k < sizeof types / sizeof *types; k++)
    for (size_t s = 0; s < sizeof some / sizeof *some; s++)
      for (int o = 0; o < 4 && can(level, types[k].compute); o++)
        check_batch(level, some[s], types[k], o % 2, o / 2, 1, 1);
}
END_TEST

/* A NaN or infinity in one row of A reaches that row of the result and no other. */
START_TEST(specials_stay_in_their_row) {
  const char *level = target_cpu.host_level();
  int64_t M = 31, N = 40, K = 37;
  int cols = columns(level, MPCC_F32);
  Group *t = group_new("product", 2, (int64_t[]){M, N}, 1);
  const Type *packed = group_packed(t, MPCC_F32, N, K, cols, 1);
  group_in(t, MPCC_BF16, M * K, (Access){0, {K, 1}});
  group_in_type(t, packed, (Access){0});
  group_out(t, MPCC_F32, M * N, (Access){0, {N, 1}});
  group_int(t, "k", K);
  group_dtype(t, "compute", MPCC_F32);
  int acc = group_stmt(t, PR_ACC, MPCC_F32, 0, 0, -1, -1, -1, -1);
  group_stmt(t, PR_STORE, MPCC_F32, 0, 0, acc, -1, -1, -1);
  Run r = run_compile(t, level);
  Elems a = elems_new(MPCC_BF16, M * K), b = elems_new(MPCC_F32, type_elems(packed));
  Elems out = elems_new(MPCC_F32, M * N);
  elems_fill(&a, 3, 1);
  elems_fill(&b, 4, 1);
  elems_set(&a, 17 * K + K - 1, NAN);
  elems_set(&a, 30 * K, INFINITY);
  r.fn((MpccArg[]){{out.data}, {a.data}, {b.data}}, 0, r.ntiles, r.scratch);
  for (int64_t i = 0; i < M * N; i++)
    ck_assert_int_eq(isfinite(elems_get(&out, i)) != 0, i / N != 17 && i / N != 30);
  elems_free(&a);
  elems_free(&b);
  elems_free(&out);
  run_free(&r);
  group_free(t);
}
END_TEST

int main(void) {
  Suite *s = suite_create("cpu_product");
  TCase *t = tcase_create("product");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, all_sizes, 0, 9);
  tcase_add_loop_test(t, all_types, 0, 3);
  tcase_add_loop_test(t, packs_round, 0, 3);
  tcase_add_loop_test(t, batches, 0, 3);
  tcase_add_test(t, specials_stay_in_their_row);
  suite_add_tcase(s, t);
  TCase *raw = tcase_create("raw");
  tcase_set_timeout(raw, 300);
  tcase_add_loop_test(raw, raw_factor, 0, 3);
  suite_add_tcase(s, raw);
  return check_run(s);
}
