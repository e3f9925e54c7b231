/* Rows kernels beside copying: bytes touched per second (each tensor once), one thread, best of
 * many runs, with the same bytes copied in between. Usage: bench_rows [level [kilobytes [columns]]]
 */
#include <math.h>
#include <stdio.h>

#include "tests/kernel_run.h"

enum { MAX_OPERANDS = 12 };

static int64_t cols = 768;

typedef struct {
  Group *t;
  int64_t rows;
} Build;

static Access full(void) {
  return (Access){.stride = {cols, 1}};
}

static int put(Build *b, Prim p, Level level, int x, int y) {
  int i = group_stmt(b->t, p, DT_F32, -1, 0, x, y, -1, -1);
  b->t->body.stmt[i].level = (uint8_t)level;
  return i;
}

static int load(Build *b, DType dt, Level level) {
  Access a = full();
  int64_t n = b->rows * cols;
  if (level == LV_ROW)
    a = (Access){.stride = {1, 0}}, n = b->rows;
  if (level == LV_COL)
    a = (Access){.stride = {0, 1}}, n = cols;
  group_in(b->t, dt, n, a);
  int i = put(b, PR_LOAD, level == LV_COL ? LV_ELEM : level, -1, -1);
  b->t->body.stmt[i].ref = b->t->op.nin - 1;
  return i;
}

static void store(Build *b, DType dt, Level level, int v) {
  Access a = full();
  int64_t n = b->rows * cols;
  if (level == LV_ROW)
    a = (Access){.stride = {1, 0}}, n = b->rows;
  if (level == LV_COL)
    n = (b->rows / b->t->body.panel_rows + 1) * cols;
  group_out(b->t, dt, n, a);
  int i = put(b, PR_STORE, level, v, -1);
  b->t->body.stmt[i].ref = b->t->op.nout - 1;
}

static int number(Build *b, double v) {
  int i = put(b, PR_CONST, LV_ALL, -1, -1);
  b->t->body.stmt[i].imm = v;
  return i;
}

#define E2(p, x, y) put(b, p, LV_ELEM, x, y)
#define E1(p, x) put(b, p, LV_ELEM, x, -1)
#define R2(p, x, y) put(b, p, LV_ROW, x, y)
#define R1(p, x) put(b, p, LV_ROW, x, -1)

static void layer_norm(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), w = load(b, DT_F32, LV_COL), bias = load(b, DT_F32, LV_COL);
  int inv = number(b, 1.0 / (double)cols), mean = R2(PR_MUL, R1(PR_RSUM, x), inv);
  int c = E2(PR_SUB, x, mean), var = R2(PR_MUL, R1(PR_RSUM, E2(PR_MUL, c, c)), inv);
  int std = R1(PR_SQRT, R2(PR_ADD, var, number(b, 1e-5))), rstd = R2(PR_DIV, number(b, 1), std);
  store(b, dt, LV_ELEM, E2(PR_ADD, E2(PR_MUL, E2(PR_MUL, c, rstd), w), bias));
  store(b, DT_F32, LV_ROW, mean);
  store(b, DT_F32, LV_ROW, rstd);
}

static void layer_norm_grad(Build *b, DType dt) {
  int dy = load(b, dt, LV_ELEM), x = load(b, dt, LV_ELEM), w = load(b, DT_F32, LV_COL);
  int mean = load(b, DT_F32, LV_ROW), rstd = load(b, DT_F32, LV_ROW);
  int inv = number(b, 1.0 / (double)cols), h = E2(PR_MUL, E2(PR_SUB, x, mean), rstd);
  int g = E2(PR_MUL, dy, w), m1 = R2(PR_MUL, R1(PR_RSUM, g), inv);
  int m2 = R2(PR_MUL, R1(PR_RSUM, E2(PR_MUL, g, h)), inv);
  store(b, dt, LV_ELEM, E2(PR_MUL, E2(PR_SUB, E2(PR_SUB, g, m1), E2(PR_MUL, h, m2)), rstd));
  store(b, DT_F32, LV_COL, put(b, PR_CSUM, LV_COL, E2(PR_MUL, dy, h), -1));
  store(b, DT_F32, LV_COL, put(b, PR_CSUM, LV_COL, dy, -1));
}

static void adamw(Build *b, DType dt) {
  int p = load(b, DT_F32, LV_ELEM), g = load(b, dt, LV_ELEM);
  int m = load(b, DT_F32, LV_ELEM), v = load(b, DT_F32, LV_ELEM);
  int m1 = E2(PR_ADD, E2(PR_MUL, m, number(b, 0.9)), E2(PR_MUL, g, number(b, 0.1)));
  int v1 =
      E2(PR_ADD, E2(PR_MUL, v, number(b, 0.999)), E2(PR_MUL, E2(PR_MUL, g, g), number(b, 0.001)));
  int den = E2(PR_ADD, E2(PR_MUL, E1(PR_SQRT, v1), number(b, 1.5)), number(b, 1e-8));
  int p1 = E2(PR_SUB, E2(PR_MUL, p, number(b, 1 - 1e-5)),
              E2(PR_MUL, E2(PR_DIV, m1, den), number(b, 1e-3)));
  store(b, DT_F32, LV_ELEM, m1);
  store(b, DT_F32, LV_ELEM, v1);
  store(b, DT_F32, LV_ELEM, p1);
  if (dt != DT_F32)
    store(b, dt, LV_ELEM, p1);
}

static void bias_sum(Build *b, DType dt) {
  store(b, DT_F32, LV_COL, put(b, PR_CSUM, LV_COL, load(b, dt, LV_ELEM), -1));
}

static void copy(Build *b, DType dt) {
  store(b, dt, LV_ELEM, load(b, dt, LV_ELEM));
}

static void to_low(Build *b, DType dt) {
  store(b, dt, LV_ELEM, load(b, DT_F32, LV_ELEM));
}

static void from_low(Build *b, DType dt) {
  store(b, DT_F32, LV_ELEM, load(b, dt, LV_ELEM));
}

static void gelu_tanh(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), cube = E2(PR_MUL, E2(PR_MUL, x, x), x);
  int u = E2(PR_MUL, E2(PR_ADD, x, E2(PR_MUL, cube, number(b, 0.044715))), number(b, 0.797885));
  int half = E2(PR_MUL, x, number(b, 0.5));
  store(b, dt, LV_ELEM, E2(PR_MUL, half, E2(PR_ADD, number(b, 1), E1(PR_TANH, u))));
}

static void gelu_erf(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), e = E1(PR_ERF, E2(PR_MUL, x, number(b, 0.70710678)));
  store(b, dt, LV_ELEM, E2(PR_MUL, E2(PR_MUL, x, number(b, 0.5)), E2(PR_ADD, number(b, 1), e)));
}

static void exponential(Build *b, DType dt) {
  store(b, dt, LV_ELEM, E1(PR_EXP, load(b, dt, LV_ELEM)));
}

static void softmax(Build *b, DType dt) {
  int x = load(b, dt, LV_ELEM), e = E1(PR_EXP, E2(PR_SUB, x, R1(PR_RMAX, x)));
  store(b, dt, LV_ELEM, E2(PR_MUL, e, R2(PR_DIV, number(b, 1), R1(PR_RSUM, e))));
}

static const struct {
  const char *name;
  void (*build)(Build *, DType);
  DType dt;
} cases[] = {
    {"copy f32", copy, DT_F32},
    {"layer_norm f32", layer_norm, DT_F32},
    {"layer_norm bf16", layer_norm, DT_BF16},
    {"layer_norm_grad f32", layer_norm_grad, DT_F32},
    {"layer_norm_grad bf16", layer_norm_grad, DT_BF16},
    {"adamw f32", adamw, DT_F32},
    {"adamw bf16", adamw, DT_BF16},
    {"column sums f32", bias_sum, DT_F32},
    {"column sums bf16", bias_sum, DT_BF16},
    {"f32 to bf16", to_low, DT_BF16},
    {"bf16 to f32", from_low, DT_BF16},
    {"f32 to f16", to_low, DT_F16},
    {"f16 to f32", from_low, DT_F16},
    {"f32 to e4m3", to_low, DT_E4M3},
    {"e4m3 to f32", from_low, DT_E4M3},
    {"f32 to e5m2", to_low, DT_E5M2},
    {"exp f32", exponential, DT_F32},
    {"gelu_tanh f32", gelu_tanh, DT_F32},
    {"gelu erf f32", gelu_erf, DT_F32},
    {"softmax f32", softmax, DT_F32},
};

static double best_of(double *best, double t) {
  if (t < *best)
    *best = t;
  return *best;
}

/* The operand's own bytes; realistic values: small normal numbers. */
static void *operand(const Value *v, int64_t *bytes) {
  int64_t n = type_elems(v->type), size = (int64_t)dtype_bytes(v->type->dt);
  unsigned char *p = aligned_alloc(64, (size_t)(n * size + 63) / 64 * 64);
  run_check(p != NULL, "no memory");
  for (int64_t i = 0; i < n; i++) {
    float x = 0.01f + (float)(i * 2654435761u % 1000) * 1e-3f;
    uint32_t u;
    memcpy(&u, &x, 4);
    if (size == 4)
      memcpy(p + i * 4, &u, 4);
    else if (size == 2)
      p[2 * i] = (unsigned char)(u >> 16), p[2 * i + 1] = v->type->dt == DT_F16 ? 0x38 : 0x3e;
    else
      p[i] = 0x20 + (unsigned char)(i % 32);
  }
  *bytes += n * size;
  return p;
}

int main(int argc, char **argv) {
  const char *level = argc > 1 ? argv[1] : cpu_host_level();
  int64_t kilobytes = argc > 2 ? atoll(argv[2]) : 512;
  if (argc > 3)
    cols = atoll(argv[3]);
  printf("%s, about %lld kB per kernel\n%-22s %8s %8s %6s %8s\n", level, (long long)kilobytes,
         "kernel", "GB/s", "copy", "ratio", "code ms");
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    Build b = {.rows = kilobytes * 1024 / cols / 8};
    b.t = group_new("rows", 2, (int64_t[]){b.rows, cols}, 1);
    b.t->body.panel_rows = 16;
    cases[c].build(&b, cases[c].dt);
    Run r = run_compile(b.t, level);
    MpccArg args[2 * MAX_OPERANDS];
    int n = 0;
    int64_t bytes = 0;
    for (int k = 0; k < b.t->op.nout; k++)
      args[n++].p = operand(b.t->op.out[k], &bytes);
    for (int k = 0; k < b.t->op.nin; k++)
      args[n++].p = operand(b.t->op.in[k], &bytes);
    char *from = aligned_alloc(64, (size_t)bytes / 2 / 64 * 64 + 64), *to;
    to = aligned_alloc(64, (size_t)bytes / 2 / 64 * 64 + 64);
    run_check(from && to, "no memory");
    memset(from, 1, (size_t)bytes / 2);
    double kernel = 1e9, plain = 1e9;
    for (int i = 0; i < 60; i++) {
      for (int rep = 0; rep < 3; rep++) {
        double start = run_clock();
        r.fn(args, 0, r.ntiles, r.scratch);
        best_of(&kernel, run_clock() - start);
      }
      for (int rep = 0; rep < 3; rep++) {
        double start = run_clock();
        memcpy(to, from, (size_t)bytes / 2);
        best_of(&plain, run_clock() - start);
        from[i] = to[i + 1];
      }
    }
    double rate = (double)bytes / kernel * 1e-9, roof = (double)bytes / plain * 1e-9;
    printf("%-22s %8.1f %8.1f %6.2f %8.1f\n", cases[c].name, rate, roof, rate / roof,
           1e3 * r.compile_s);
    free(from);
    free(to);
    while (n > 0)
      free(args[--n].p);
    run_free(&r);
    group_free(b.t);
  }
  return 0;
}
