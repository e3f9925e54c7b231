/* Attention on tensor cores against the reference interpreter: lengths and head sizes that fill no
 * tile, causal, masks, heads that share keys, dropout, operands that lie as slices; bf16 and f16. A
 * second run, with blocks and warps in another order, gives the same bits. */
#include <math.h>

#include "tests/cuda/kernel.h"

typedef struct {
  int64_t N, H, T, S, D;
  DType dt;
  int64_t kv; /* heads of k and v; 0: as many as of q */
  bool causal;
  int mask; /* 1: the same for all heads; 2: of each */
  double dropout_p;
  bool joined; /* q, k, v are columns of one tensor */
  double gain; /* of the gradient */
} Case;

static const Case cases[] = {
    {.N = 1, .H = 2, .T = 150, .S = 150, .D = 64, .dt = MPCC_BF16, .causal = true, .joined = true},
    {.N = 1, .H = 4, .T = 70, .S = 33, .D = 40, .dt = MPCC_F16, .kv = 2, .gain = 0x1p-14},
    {.N = 1, .H = 2, .T = 5, .S = 71, .D = 6, .dt = MPCC_BF16, .mask = 2},
    {.N = 2,
     .H = 3,
     .T = 40,
     .S = 40,
     .D = 16,
     .dt = MPCC_F16,
     .mask = 1,
     .causal = true,
     .dropout_p = 0.25},
    {.N = 1, .H = 1, .T = 70, .S = 70, .D = 128, .dt = MPCC_F16, .causal = true, .gain = 0x1p9},
    {.N = 1, .H = 1, .T = 35, .S = 67, .D = 256, .dt = MPCC_BF16},
    {.N = 1, .H = 4, .T = 33, .S = 65, .D = 32, .dt = MPCC_BF16, .kv = 1, .dropout_p = 0.25},
    {.N = 1,
     .H = 2,
     .T = 21,
     .S = 21,
     .D = 96,
     .dt = MPCC_BF16,
     .kv = 1,
     .causal = true,
     .mask = 2,
     .dropout_p = 0.25},
    {.N = 1,
     .H = 2,
     .T = 19,
     .S = 40,
     .D = 192,
     .dt = MPCC_F16,
     .kv = 1,
     .mask = 2,
     .causal = true},
};

/* Of [N, length, heads D], or of a third of [N, length, 3 H D]. */
static Access rows_of(const Case *c, int64_t length, int64_t heads, int third) {
  const int64_t row = c->joined ? 3 * c->H * c->D : heads * c->D;
  return (Access){c->joined ? third * c->H * c->D : 0, {length * row, c->D, row, 1}};
}

static Group *group_of(const Case *c, const char *kind) {
  Group *t = group_new(kind, 4, (int64_t[]){c->N, c->H, c->T, c->D}, 1);
  group_int(t, "keys", c->S);
  group_int(t, "causal", c->causal);
  group_float(t, "scale", 1.25 / sqrt((double)c->D));
  group_float(t, "dropout_p", c->dropout_p);
  group_dtype(t, "compute", MPCC_F32);
  if (c->kv)
    group_int(t, "kv_heads", c->kv);
  if (c->mask)
    group_int(t, "mask", 1);
  return t;
}

static void put(Group *t, Elems *in, DType dt, int64_t n, Access a, uint32_t seed, double spread) {
  const int k = t->op.nin;
  group_in(t, dt, n, a);
  in[k] = elems_new(dt, n);
  elems_fill(&in[k], seed, spread);
}

/* q, k, v and what is behind them. */
static void put_operands(const Case *c, Group *t, Elems *in) {
  const int64_t kv = c->kv ? c->kv : c->H, length[] = {c->T, c->S, c->S};
  for (int k = 0; k < 3; k++) {
    const int64_t n = c->N * length[k] * (c->joined ? 3 * c->H : k ? kv : c->H) * c->D;
    put(t, in, c->dt, n, rows_of(c, length[k], k ? kv : c->H, k),
        11 + (c->joined ? 0u : (uint32_t)k), 1.5);
  }
  if (c->mask) {
    const int64_t h = c->mask == 2 ? c->H : 1, row = c->T * c->S;
    const int m = t->op.nin;
    put(t, in, c->mask == 2 ? c->dt : MPCC_F32, c->N * h * row,
        (Access){0, {h * row, c->mask == 2 ? row : 0, c->S, 1}}, 5, 2);
    for (int64_t i = 0; i < in[m].n; i++) /* some see nothing at all */
      if (i % 7 == 3 || i / c->S % c->T == 2)
        elems_set(&in[m], i, -INFINITY);
  }
  if (c->dropout_p > 0) {
    put(t, in, MPCC_I64, 1, (Access){0}, 1, 1);
    put(t, in, MPCC_I64, 3, (Access){2}, 1, 1);
    elems_set(&in[t->op.nin - 2], 0, 1234);
    for (int i = 0; i < 3; i++)
      elems_set(&in[t->op.nin - 1], i, i == 2 ? 9 : -1);
    group_param(t, 77);
  }
}

/* Runs twice, in two orders, beside the interpreter, whose results stay in out[].value. */
static void run_both(Group *t, const Elems *in, Elems *out) {
  Gpu x;
  Elems again[3];
  const double *from[GPU_ARGS];
  double *want[3];
  gpu_compile(&x, t, "sm_80");
  ck_assert_int_gt(x.k.registers, 0);
  ck_assert_int_eq(x.k.spill_bytes, 0);
  for (int k = 0; k < t->op.nin; k++)
    from[k] = in[k].value;
  for (int k = 0; k < t->op.nout; k++) {
    out[k] = elems_new(t->op.out[k]->type->dt, type_elems(t->op.out[k]->type));
    again[k] = elems_new(out[k].dt, out[k].n);
    want[k] = out[k].value;
  }
  gpu_run(&x, t, in, out);
  gpu_run(&x, t, in, again);
  ck_assert_int_eq(eval_op(&t->op, true, from, want), MPCC_OK);
  for (int k = 0; k < t->op.nout; k++) {
    ck_assert_int_eq(memcmp(out[k].data, again[k].data, elems_bytes(&out[k])), 0);
    elems_free(&again[k]);
  }
  gpu_close(&x);
}

/* The result's own rounding, and what is left of sums of f32 when P and dS are sums of two
 * elements: `parts` of the largest result. */
static void compare(const Case *c, const Group *t, const Elems *out, int k, double parts) {
  double most = 0;
  for (int64_t i = 0; i < out->n; i++)
    if (isfinite(out->value[i]))
      most = fmax(most, fabs(out->value[i]));
  int64_t unequal = 0;
  for (int64_t i = 0; i < out->n; i++) {
    const double v = elems_get(out, i), want = out->value[i], eps = dtype_info(out->dt)->eps;
    const double ulp = fmax(fabs(want), dtype_info(out->dt)->min_normal) * eps;
    unequal += v != num_round(want, out->dt);
    ck_assert_msg(v == want || fabs(v - want) <= 0.51 * ulp + parts * most,
                  "case %d %s: result %d element %lld is %.9g, not %.9g", (int)(c - cases),
                  op_str(&t->op, "kind", ""), k, (long long)i, v, want);
  }
  printf("case %d %s result %d: %lld of %lld codes differ\n", (int)(c - cases),
         op_str(&t->op, "kind", ""), k, (long long)unequal, (long long)out->n);
}

static void free_all(Elems *e, int n) {
  for (int k = 0; k < n; k++)
    elems_free(&e[k]);
}

START_TEST(attention) {
  const Case *c = &cases[_i];
  const int64_t rows = c->N * c->H * c->T, n = rows * c->D, kv = c->kv ? c->kv : c->H;
  const Access o = {0, {c->T * c->H * c->D, c->D, c->H * c->D, 1}};
  const Access key = {0, {c->S * kv * c->D, c->D, kv * c->D, 1}};
  const Access lse = {0, {c->H * c->T, c->T, 1, 0}};
  Elems in[GPU_ARGS], out[3], grad_in[GPU_ARGS], grad[3];
  Group *f = group_of(c, "attention"), *g = group_of(c, "attention_grad");
  put_operands(c, f, in);
  group_out(f, c->dt, n, o);
  group_out(f, MPCC_F32, rows, lse);
  run_both(f, in, out);
  compare(c, f, &out[0], 0, 0x1p-17);
  compare(c, f, &out[1], 1, 0x1p-21);

  put(g, grad_in, c->dt, n, o, 21, c->gain > 0 ? c->gain : 1);
  put(g, grad_in, c->dt, n, o, 1, 1);
  put(g, grad_in, MPCC_F32, rows, lse, 1, 1);
  for (int k = 1; k < 3; k++)
    for (int64_t i = 0; i < grad_in[k].n; i++)
      elems_set(&grad_in[k], i, elems_get(&out[k - 1], i));
  put_operands(c, g, grad_in);
  group_out(g, c->dt, n, o);
  for (int k = 0; k < 2; k++)
    group_out(g, c->dt, c->N * kv * c->S * c->D, key);
  run_both(g, grad_in, grad);
  for (int k = 0; k < 3; k++)
    compare(c, g, &grad[k], k, 0x1p-15);
  free_all(in, f->op.nin);
  free_all(out, 2);
  free_all(grad_in, g->op.nin);
  free_all(grad, 3);
  group_free(f);
  group_free(g);
}
END_TEST

int main(void) {
  char why[256];
  if (!nvrtc_open(why)) {
    printf("not run: %s\n", why);
    return 77;
  }
  setenv("EMU_SEED", "5", 0);
  Suite *s = suite_create("attention on tensor cores");
  TCase *t = tcase_create("cases");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, attention, 0, (int)(sizeof cases / sizeof *cases));
  suite_add_tcase(s, t);
  return check_run(s);
}
