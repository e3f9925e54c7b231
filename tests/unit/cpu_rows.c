/* Rows kernels of the CPU target beside the reference interpreter: random bodies, layouts, storage
 * dtypes and odd sizes, at every level this machine runs. Operands end at an unreadable page and
 * results lie between canaries, so that a wrong tail is a crash or a changed canary. */
#include <math.h>
#include <unistd.h>

#include "mpcc/num.h"
#include "tests/check_run.h"
#include "tests/kernel_run.h"

/* ck_assert logs every call, which millions of values cannot afford. */
#define EXPECT(cond, ...)                                                                          \
  do {                                                                                             \
    if (!(cond))                                                                                   \
      ck_abort_msg(__VA_ARGS__);                                                                   \
  } while (0)

enum { MAX_ARGS = 16, CANARY = 0xA5 };

/* ---- random numbers of the test ---- */

static uint64_t rng_state = 1;

static uint64_t rng(void) {
  rng_state += 0x9e3779b97f4a7c15u; /* splitmix64 */
  uint64_t z = rng_state;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static int below(int n) {
  return (int)(rng() % (uint64_t)n);
}

static double uniform(double lo, double hi) {
  return lo + (hi - lo) * ((double)(rng() >> 11) * 0x1p-53);
}

/* ---- memory ---- */

typedef struct {
  char *map, *data;
  size_t map_bytes, bytes;
} Buffer;

/* bytes of memory right before an unreadable page, filled with CANARY. */
static Buffer buffer_new(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (bytes + 2 * page - 1) / page * page;
  Buffer b = {.map_bytes = n + page, .bytes = bytes};
  b.map = mmap(NULL, b.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert(b.map != MAP_FAILED);
  memset(b.map, CANARY, n);
  ck_assert(!mprotect(b.map + n, page, PROT_NONE));
  b.data = b.map + n - bytes;
  return b;
}

static void buffer_free(Buffer *b) {
  for (char *p = b->map; p < b->data; p++)
    EXPECT((unsigned char)*p == CANARY, "wrote before a buffer");
  munmap(b->map, b->map_bytes);
}

/* ---- one case: a group, its operands, reference results -------------------------------------- */

typedef struct {
  Buffer in[MAX_ARGS], out[MAX_ARGS];
  double *in_ref[MAX_ARGS], *out_ref[MAX_ARGS];
} Data;

static int64_t elems_of(const Value *v) {
  return type_elems(v->type);
}

static void data_new(Data *d, Group *t) {
  for (int k = 0; k < t->op.nin; k++) {
    DType dt = t->op.in[k]->type->dt;
    int64_t n = elems_of(t->op.in[k]);
    d->in[k] = buffer_new((size_t)n * dtype_bytes(dt));
    d->in_ref[k] = malloc((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
      char *p = d->in[k].data + (size_t)i * dtype_bytes(dt);
      num_store(p, dt, dtype_is_float(dt) ? uniform(-2, 2) : dt == MPCC_B1 ? below(2) : below(100));
      d->in_ref[k][i] = num_load(p, dt);
    }
  }
  for (int k = 0; k < t->op.nout; k++) {
    int64_t n = elems_of(t->op.out[k]);
    d->out[k] = buffer_new((size_t)n * dtype_bytes(t->op.out[k]->type->dt));
    d->out_ref[k] = calloc((size_t)n, sizeof(double));
  }
}

static void data_free(Data *d, Group *t) {
  for (int k = 0; k < t->op.nin; k++) {
    buffer_free(&d->in[k]);
    free(d->in_ref[k]);
  }
  for (int k = 0; k < t->op.nout; k++) {
    buffer_free(&d->out[k]);
    free(d->out_ref[k]);
  }
}

static void run_kernel(Group *t, Data *d, Run *r) {
  MpccArg args[3 * MAX_ARGS];
  int n = 0;
  for (int k = 0; k < t->op.nout; k++)
    args[n++].p = d->out[k].data;
  for (int k = 0; k < t->op.nin; k++)
    args[n++].p = d->in[k].data;
  for (int k = 0; k < t->body.nparam; k++)
    args[n++].i = t->body.param[k];
  int64_t half = r->ntiles / 2; /* two calls, the second part first */
  r->fn(args, half, r->ntiles, r->scratch);
  if (half)
    r->fn(args, 0, half, r->scratch);
}

/* Largest difference allowed: the format's rounding and `noise` of the f32 arithmetic before it. */
static bool near(double got, double want, DType dt, double noise) {
  if (isnan(want) || isnan(got))
    return isnan(want) && isnan(got);
  if (got == want)
    return true;
  double scale = fmax(fabs(want), 1);
  double step = dtype_is_float(dt) ? fmax(dtype_info(dt)->eps, 0x1p-23) : 0;
  if (dt == MPCC_F64)
    step = 0x1p-52;
  return fabs(got - want) <=
         1.01 * step * fabs(want) + dtype_info(dt)->min_normal * step + noise * scale;
}

static void compare(Group *t, Data *d, double noise, const char *what) {
  for (int k = 0; k < t->op.nout; k++) {
    DType dt = t->op.out[k]->type->dt;
    for (int64_t i = 0; i < elems_of(t->op.out[k]); i++) {
      double got = num_load(d->out[k].data + (size_t)i * dtype_bytes(dt), dt);
      EXPECT(near(got, d->out_ref[k][i], dt, noise), "%s: out %d %s [%lld]: %.9g, want %.9g", what,
             k, dtype_text(dt), (long long)i, got, d->out_ref[k][i]);
    }
  }
}

static const char *levels[2]; /* the baseline, and this machine's when it is another */
static int nlevel;

/* Compiles and judges the group at every level. */
static void judge(Group *t, double noise, const char *what) {
  const double *in[MAX_ARGS];
  for (int l = 0; l < nlevel; l++) {
    Data d = {0};
    char words[200];
    snprintf(words, sizeof words, "%s, %s", what, levels[l]);
    data_new(&d, t);
    for (int k = 0; k < t->op.nin; k++)
      in[k] = d.in_ref[k];
    ck_assert_int_eq(eval_op(&t->op, false, in, d.out_ref), MPCC_OK);
    Run r = run_compile(t, levels[l]);
    run_kernel(t, &d, &r);
    compare(t, &d, noise, words);
    run_free(&r);
    data_free(&d, t);
  }
}

/* ---- building ---- */

static Access access_of(int n, const int64_t *stride) {
  Access a = {0};
  memcpy(a.stride, stride, (size_t)n * sizeof *stride);
  return a;
}

static Access rows_access(int64_t row, int64_t col) {
  return access_of(2, (int64_t[]){row, col});
}

/* Statement with the narrowest level its arguments allow. */
static int put(Group *t, Prim p, DType dt, int ref, double imm, int a, int b, int c) {
  int i = group_stmt(t, p, dt, ref, imm, a, b, c, -1);
  Stmt *s = &t->body.stmt[i];
  int args[] = {a, b, c};
  s->level = LV_ALL;
  for (int k = 0; k < prim_args(p) && k < 3; k++)
    if (t->body.stmt[args[k]].level > s->level)
      s->level = t->body.stmt[args[k]].level;
  if (p == PR_LOAD) {
    const Access *x = &t->body.in[ref];
    int nrow = t->body.ndim - t->body.ncol;
    for (int d = 0; d < t->body.ndim; d++)
      if (x->stride[d])
        s->level = d >= nrow ? LV_ELEM : s->level == LV_ELEM ? LV_ELEM : LV_ROW;
  }
  if (p == PR_RSUM || p == PR_RMAX || p == PR_RMIN)
    s->level = LV_ROW;
  if (p == PR_CSUM)
    s->level = LV_COL;
  if (p == PR_ASUM || p == PR_AMAX || p == PR_AMIN)
    s->level = LV_ALL;
  return i;
}

static int op1(Group *t, Prim p, int a) {
  return put(t, p, (DType)t->body.stmt[a].dt, -1, 0, a, -1, -1);
}

static int op2(Group *t, Prim p, int a, int b) {
  return put(t, p, (DType)t->body.stmt[a].dt, -1, 0, a, b, -1);
}

static int number(Group *t, double v) {
  return put(t, PR_CONST, MPCC_F32, -1, v, -1, -1, -1);
}

/* Adds operand and its load. */
static int load(Group *t, DType dt, int64_t elems, Access a) {
  group_in(t, dt, elems, a);
  return put(t, PR_LOAD, ll_reg_dtype(dt), t->op.nin - 1, 0, -1, -1, -1);
}

static void store(Group *t, DType dt, int64_t elems, Access a, int v) {
  group_out(t, dt, elems, a);
  put(t, PR_STORE, MPCC_F32, t->op.nout - 1, 0, v, -1, -1);
}

static const DType floats[] = {MPCC_F32, MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2};
static const int sizes[] = {1, 7, 15, 16, 17, 50, 64, 131, 197};
enum { NSIZE = sizeof sizes / sizeof *sizes };

/* ---- tests ---- */

/* layer_norm and the sums its gradient needs, in every storage dtype and odd widths. */
START_TEST(layer_norm_and_sums) {
  for (int s = 0; s < NSIZE; s++)
    for (int f = 0; f < 5; f++) {
      int64_t rows = 13, cols = sizes[s], panel = 4;
      DType dt = floats[f];
      Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
      t->body.panel_rows = panel;
      int x = load(t, dt, rows * cols, rows_access(cols, 1));
      int w = load(t, MPCC_F32, cols, rows_access(0, 1));
      int inv = number(t, 1.0 / (double)cols);
      int mean = op2(t, PR_MUL, op1(t, PR_RSUM, x), inv);
      int c = op2(t, PR_SUB, x, mean);
      int var = op2(t, PR_MUL, op1(t, PR_RSUM, op2(t, PR_MUL, c, c)), inv);
      int rstd = op2(t, PR_DIV, number(t, 1), op1(t, PR_SQRT, op2(t, PR_ADD, var, number(t, 0.1))));
      int y = op2(t, PR_MUL, op2(t, PR_MUL, c, rstd), w);
      store(t, dt, rows * cols, rows_access(cols, 1), y);
      store(t, MPCC_F32, rows, rows_access(1, 0), mean);
      store(t, MPCC_F32, 4 * cols, rows_access(cols, 1), op1(t, PR_CSUM, y));
      store(t, MPCC_F32, 4, rows_access(1, 0), op1(t, PR_ASUM, y));
      store(t, MPCC_F32, 4, rows_access(1, 0), op1(t, PR_AMAX, op1(t, PR_ABS, x)));
      store(t, MPCC_F32, 4, rows_access(1, 0), op1(t, PR_ASUM, mean));
      judge(t, 2e-5, "layer_norm");
      group_free(t);
    }
}
END_TEST

/* bf16 columns are done in pairs of vectors, everything else is put into their order: operands and
 * results of other dtypes, indices, what is left of a row. */
START_TEST(pairs) {
  for (int s = 0; s < NSIZE; s++) {
    int64_t rows = 9, cols = sizes[s], n = rows * cols;
    Access full = rows_access(cols, 1);
    Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
    t->body.panel_rows = 4;
    int x = load(t, MPCC_BF16, n, full), y = load(t, MPCC_BF16, n, full),
        h = load(t, MPCC_F16, n, full);
    int q = load(t, MPCC_E4M3, cols, rows_access(0, 1));
    int z = op2(t, PR_ADD, op2(t, PR_MUL, h, q), op2(t, PR_SUB, x, y));
    int column = put(t, PR_INDEX, MPCC_I64, 1, 0, -1, -1, -1);
    int row = put(t, PR_INDEX, MPCC_I64, 0, 0, -1, -1, -1);
    t->body.stmt[column].level = LV_ELEM;
    t->body.stmt[row].level = LV_ROW;
    int hit = put(t, PR_EQ, MPCC_B1, -1, 0, column, row, -1);
    int odd = put(t, PR_LT, MPCC_B1, -1, 0, row, column, -1);
    store(t, MPCC_BF16, n, full, put(t, PR_SELECT, MPCC_F32, -1, 0, hit, z, x));
    store(t, MPCC_BF16, n, full, put(t, PR_SELECT, MPCC_F32, -1, 0, odd, z, y));
    store(t, MPCC_F32, n, full, z);
    store(t, MPCC_E5M2, n, full, z);
    store(t, MPCC_F32, rows, rows_access(1, 0), op1(t, PR_RSUM, z));
    store(t, MPCC_F32, rows, rows_access(1, 0), op1(t, PR_RMAX, z));
    store(t, MPCC_F32, 3 * cols, full, op1(t, PR_CSUM, z));
    judge(t, 2e-5, "pairs");
    group_free(t);
  }
}
END_TEST

/* Values of expensive functions are kept between passes: softmax. */
START_TEST(softmax) {
  for (int s = 0; s < NSIZE; s++) {
    int64_t rows = 9, cols = sizes[s];
    Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
    t->body.panel_rows = 4;
    int x = load(t, MPCC_BF16, rows * cols, rows_access(cols, 1));
    int e = op1(t, PR_EXP, op2(t, PR_SUB, x, op1(t, PR_RMAX, x)));
    int p = op2(t, PR_DIV, e, op1(t, PR_RSUM, e));
    store(t, MPCC_F32, rows * cols, rows_access(cols, 1), p);
    store(t, MPCC_BF16, rows * cols, rows_access(1, rows), op1(t, PR_LOG, p)); /* transposed */
    judge(t, 2e-5, "softmax");
    group_free(t);
  }
}
END_TEST

/* Cross-entropy and its gradient: sums of what is zero but in the column of the label, which is no
 * column of some rows. */
START_TEST(labels) {
  for (int s = 0; s < NSIZE; s++)
    for (int f = 0; f < 2; f++) {
      int64_t rows = 23, cols = sizes[s];
      Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
      t->body.panel_rows = 9;
      int x = load(t, floats[f], rows * cols, rows_access(cols, 1)), zero = number(t, 0);
      int column = put(t, PR_INDEX, MPCC_I64, 1, 0, -1, -1, -1);
      int row = put(t, PR_INDEX, MPCC_I64, 0, 0, -1, -1, -1);
      t->body.stmt[column].level = LV_ELEM;
      t->body.stmt[row].level = LV_ROW;
      int label = op2(t, PR_SUB, row, put(t, PR_CONST, MPCC_I64, -1, 3, -1, -1, -1));
      int hit = put(t, PR_EQ, MPCC_B1, -1, 0, column, label, -1);
      int e = op1(t, PR_EXP, op2(t, PR_SUB, x, op1(t, PR_RMAX, x))), sum = op1(t, PR_RSUM, e);
      int squared = op2(t, PR_MUL, x, x);
      int own = op1(t, PR_RSUM, put(t, PR_SELECT, MPCC_F32, -1, 0, hit, x, zero));
      int square = op1(t, PR_RSUM, put(t, PR_SELECT, MPCC_F32, -1, 0, hit, squared, zero));
      int late = op1(t, PR_RSUM, put(t, PR_SELECT, MPCC_F32, -1, 0, hit, e, zero));
      int hot = put(t, PR_SELECT, MPCC_F32, -1, 0, hit, number(t, 1), zero);
      store(t, floats[f], rows * cols, rows_access(cols, 1),
            op2(t, PR_SUB, op2(t, PR_DIV, e, sum), hot));
      store(t, MPCC_F32, rows, rows_access(1, 0), own);
      store(t, MPCC_F32, rows, rows_access(1, 0), late);
      store(t, MPCC_F32, 3, rows_access(1, 0), op1(t, PR_ASUM, op2(t, PR_SUB, square, own)));
      judge(t, 2e-5, "labels");
      group_free(t);
    }
}
END_TEST

/* Partials [panels, cols] summed over panels: lanes run along the contiguous rows. */
START_TEST(combine_partials) {
  for (int s = 0; s < NSIZE; s++)
    for (int p = 0; p < NSIZE; p += 2) {
      int64_t rows = sizes[s], cols = sizes[p];
      Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
      t->body.panel_rows = 100;
      int x = load(t, MPCC_F32, rows * cols, rows_access(1, rows));
      int sum = op1(t, PR_RSUM, x);
      store(t, MPCC_BF16, rows, rows_access(1, 0), sum);
      store(t, MPCC_F32, rows * cols, rows_access(1, rows), op2(t, PR_SUB, x, sum));
      store(t, MPCC_F32, 2, rows_access(1, 0), op1(t, PR_AMIN, op1(t, PR_RMIN, x)));
      store(t, MPCC_F32, 2 * cols, rows_access(cols, 1), op1(t, PR_CSUM, x));
      judge(t, 2e-5, "combine");
      group_free(t);
    }
}
END_TEST

/* Several row and column dimensions, permuted and broadcast operands, indices as values. */
START_TEST(many_dimensions) {
  for (int s = 0; s < NSIZE; s++) {
    int64_t a = 3, b = 5, c = 2, d = sizes[s], n = a * b * c * d;
    Group *t = group_new("rows", 4, (int64_t[]){a, b, c, d}, 2);
    t->body.panel_rows = 4;
    int x = load(t, MPCC_F16, n, access_of(4, (int64_t[]){c * d, a * c * d, d, 1}));
    int y = load(t, MPCC_F32, b * d, access_of(4, (int64_t[]){0, d, 0, 1}));
    int z = load(t, MPCC_F32, n, access_of(4, (int64_t[]){1, a, a * b, a * b * c}));
    int i = put(t, PR_INDEX, MPCC_I64, 1, 0, -1, -1, -1);
    t->body.stmt[i].level = LV_ROW;
    int j = put(t, PR_INDEX, MPCC_I64, 3, 0, -1, -1, -1);
    t->body.stmt[j].level = LV_ELEM;
    int ij = put(t, PR_CVT, MPCC_F32, -1, 0, op2(t, PR_ADD, i, j), -1, -1);
    int v = op2(t, PR_ADD, op2(t, PR_MUL, x, y), op2(t, PR_SUB, z, ij));
    int m = op1(t, PR_RMAX, v);
    Access plain = access_of(4, (int64_t[]){b * c * d, c * d, d, 1});
    store(t, MPCC_F32, n, plain, op2(t, PR_SUB, v, m));
    store(t, MPCC_F32, 4 * c * d, access_of(4, (int64_t[]){c * d, 0, d, 1}), op1(t, PR_CSUM, v));
    judge(t, 2e-5, "dimensions");
    group_free(t);
  }
}
END_TEST

/* Conversions between all storage dtypes, without arithmetic: exact. */
START_TEST(casts) {
  static const DType all[] = {MPCC_F32, MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2};
  for (int i = 0; i < 5; i++)
    for (int o = 0; o < 5; o++) {
      int64_t rows = 3, cols = sizes[(i * 5 + o) % NSIZE];
      Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
      t->body.panel_rows = 2;
      store(t, all[o], rows * cols, rows_access(cols, 1),
            load(t, all[i], rows * cols, rows_access(cols, 1)));
      judge(t, 0, "cast");
      group_free(t);
    }
}
END_TEST

/* Read along the rows, written along the columns, and the other way round. */
START_TEST(turned) {
  static const DType all[] = {MPCC_F32,  MPCC_BF16, MPCC_F16, MPCC_E4M3,
                              MPCC_E5M2, MPCC_F64,  MPCC_I32};
  static const int64_t size[][3] = {{1, 83, 16}, {2, 37, 50}, {3, 16, 33}, {1, 131, 19}};
  enum { N = sizeof all / sizeof *all };
  for (int i = 0; i < N * N; i++) {
    const int64_t *n = size[i % 4];
    DType from = all[i / N], to = all[i % N];
    if ((from == MPCC_I32) != (to == MPCC_I32) || (from == MPCC_F64) != (to == MPCC_F64))
      continue;
    Group *t = group_new("rows", 3, n, 1);
    int64_t all_n = n[0] * n[1] * n[2];
    Access along = {0, {n[1] * n[2], n[2], 1}}, down = {0, {n[1] * n[2], 1, n[1]}};
    t->body.panel_rows = 5 + 40 * (i % 2);
    int x = load(t, from, all_n, i % 3 == 1 ? down : along);
    if (from == MPCC_F32) /* both, and a statement between */
      x = op2(t, PR_MUL, x, load(t, MPCC_F32, all_n, down));
    store(t, to, all_n, i % 3 == 1 ? along : down, x);
    judge(t, 0, "turned");
    group_free(t);
  }
}
END_TEST

/* f64 and integer registers, selects, comparisons, params, random numbers. */
START_TEST(registers) {
  for (int s = 0; s < NSIZE; s++) {
    int64_t rows = 5, cols = sizes[s];
    Access plain = rows_access(cols, 1);
    Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
    t->body.panel_rows = 2;
    t->body.nparam = 1;
    t->body.param[0] = 12345;
    int x = load(t, MPCC_F64, rows * cols, plain), k = load(t, MPCC_I64, rows * cols, plain);
    int k32 = load(t, MPCC_I32, rows * cols, plain), u8 = load(t, MPCC_U8, rows * cols, plain);
    int flag = load(t, MPCC_B1, rows * cols, plain);
    int seed = load(t, MPCC_I64, 1, rows_access(0, 0));
    int e = op1(t, PR_EXP, x), sum = op1(t, PR_RSUM, e);
    store(t, MPCC_F64, rows * cols, plain, op2(t, PR_DIV, e, sum));
    int less = put(t, PR_LT, MPCC_B1, -1, 0, k, k32, -1);
    int both =
        put(t, PR_AND, MPCC_B1, -1, 0, less, put(t, PR_NOT, MPCC_B1, -1, 0, flag, -1, -1), -1);
    store(t, MPCC_B1, rows * cols, plain, both);
    store(t, MPCC_I64, rows * cols, plain, put(t, PR_SELECT, MPCC_I64, -1, 0, both, k, u8));
    store(t, MPCC_I32, rows, rows_access(1, 0), op1(t, PR_RMAX, k));
    store(t, MPCC_F32, rows * cols, plain, put(t, PR_CVT, MPCC_F32, -1, 0, k, -1, -1));
    store(t, MPCC_BF16, rows * cols, plain, put(t, PR_CVT, MPCC_F32, -1, 0, flag, -1, -1));
    int param = put(t, PR_PARAM, MPCC_I64, 0, 0, -1, -1, -1);
    int r = group_stmt(t, PR_RAND, MPCC_F32, -1, 0, seed, k32, k, param);
    store(t, MPCC_F32, rows * cols, plain, r);
    judge(t, 1e-6, "registers"); /* all but exp and cvt of f32 are exact */
    group_free(t);
  }
}
END_TEST

/* A result in place of an operand that a later pass reads again. */
START_TEST(in_place) {
  for (int l = 0; l < nlevel; l++) {
    int64_t rows = 4, cols = 53;
    Access plain = rows_access(cols, 1);
    Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
    t->body.panel_rows = 2;
    int x = load(t, MPCC_F32, rows * cols, plain);
    int doubled = op2(t, PR_ADD, x, x);
    store(t, MPCC_F32, rows * cols, plain, doubled); /* ready in the first pass */
    int c = op2(t, PR_SUB, x, op1(t, PR_RSUM, x));
    store(t, MPCC_F32, rows * cols, plain, c);
    Data d = {0};
    data_new(&d, t);
    const double *in[] = {d.in_ref[0]};
    ck_assert_int_eq(eval_op(&t->op, false, in, d.out_ref), MPCC_OK);
    Run r = run_compile(t, levels[l]);
    Buffer own = d.out[0];
    d.out[0] = d.in[0];
    run_kernel(t, &d, &r);
    compare(t, &d, 2e-5, "in place");
    d.out[0] = own;
    run_free(&r);
    data_free(&d, t);
    group_free(t);
  }
}
END_TEST

/* NaN reaches maxima, minima and comparisons as the interpreter says. */
START_TEST(not_a_number) {
  for (int c = 0; c < 2 * nlevel; c++) {
    int64_t rows = 40, cols = 83;
    DType dt = c % 2 ? MPCC_BF16 : MPCC_F32;
    Group *t = group_new("rows", 2, (int64_t[]){rows, cols}, 1);
    t->body.panel_rows = 7;
    int x = load(t, dt, rows * cols, rows_access(cols, 1));
    store(t, MPCC_F32, rows, rows_access(1, 0), op1(t, PR_RMAX, x));
    store(t, MPCC_F32, rows, rows_access(1, 0), op1(t, PR_RMIN, x));
    store(t, MPCC_F32, 6, rows_access(1, 0), op1(t, PR_AMAX, x));
    int ok = put(t, PR_ISFINITE, MPCC_B1, -1, 0, x, -1, -1);
    store(t, MPCC_B1, rows * cols, rows_access(cols, 1), ok);
    store(t, dt, rows * cols, rows_access(cols, 1), op2(t, PR_MAX, x, number(t, 0)));
    store(t, dt, rows * cols, rows_access(cols, 1), op2(t, PR_MIN, number(t, 0), x));
    Data d = {0};
    data_new(&d, t);
    for (int k = 0; k < 30; k++) { /* one row in two has one, at any place */
      int64_t at = below((int)rows) / 2 * 2 * cols + below((int)cols);
      double v = k % 3 ? NAN : k % 2 ? INFINITY : -INFINITY;
      d.in_ref[0][at] = v;
      num_store(d.in[0].data + (size_t)at * dtype_bytes(dt), dt, v);
    }
    const double *in[] = {d.in_ref[0]};
    ck_assert_int_eq(eval_op(&t->op, false, in, d.out_ref), MPCC_OK);
    Run r = run_compile(t, levels[c / 2]);
    run_kernel(t, &d, &r);
    compare(t, &d, 0, "nan");
    run_free(&r);
    data_free(&d, t);
    group_free(t);
  }
}
END_TEST

/* Rows of a table by ids, with and without conversion. */
START_TEST(index_rows) {
  for (int s = 0; s < NSIZE; s++)
    for (int f = 0; f < 5; f++) {
      int64_t a = 3, b = 4, c = sizes[s], stride = c + 2;
      Group *t = group_new("index", 3, (int64_t[]){a, b, c}, 1);
      group_int(t, "row_stride", stride);
      t->body.panel_rows = 5;
      group_in(t, f % 2 ? MPCC_I64 : MPCC_I32, a * b, access_of(3, (int64_t[]){1, a, 0}));
      group_in(t, floats[f], 100 * stride, access_of(3, (int64_t[]){0, 0, 1}));
      Access to = access_of(3, (int64_t[]){b * c, c, 1});
      if (s % 2)
        to = access_of(3, (int64_t[]){1, a, a * b});
      group_out(t, floats[(f + s % 3) % 5], a * b * c, to);
      judge(t, 0, "index");
      group_free(t);
    }
}
END_TEST

/* Operands joined along each axis, with zero between. */
START_TEST(move_parts) {
  static const DType all[] = {MPCC_F32, MPCC_BF16, MPCC_I64, MPCC_E4M3, MPCC_F64};
  for (int s = 0; s < NSIZE; s++)
    for (int axis = 0; axis < 3; axis++)
      for (int zero = 0; zero < 2; zero++) {
        int64_t dim[] = {3, 5, sizes[s]}, starts[2], part[] = {2, 4};
        starts[0] = zero ? 1 : 0;
        starts[1] = starts[0] + part[0] + (zero ? 2 : 0);
        dim[axis] = starts[1] + part[1] + (zero ? 1 : 0);
        int64_t n = dim[0] * dim[1] * dim[2];
        Group *t = group_new("move", 3, dim, 0);
        t->body.panel_rows = 4;
        Attr *at = &t->op.attr[t->op.nattr];
        at[0] = (Attr){.key = "axis", .kind = AT_INT, .u.i = axis};
        at[1] = (Attr){.key = "sizes", .kind = AT_INTS, .u.ints = {2, part}};
        at[2] = (Attr){.key = "starts", .kind = AT_INTS, .u.ints = {2, starts}};
        at[3] = (Attr){.key = "zero", .kind = AT_BOOL, .u.i = zero};
        t->op.nattr += 4;
        DType dt = all[(s + axis) % 5];
        for (int k = 0; k < 2; k++) {
          int64_t d[] = {dim[0], dim[1], dim[2]};
          d[axis] = part[k];
          group_in(t, dt, d[0] * d[1] * d[2],
                   k ? access_of(3, (int64_t[]){1, d[0], d[0] * d[1]})
                     : access_of(3, (int64_t[]){d[1] * d[2], d[2], 1}));
        }
        group_out(t, dt, n, access_of(3, (int64_t[]){dim[1] * dim[2], dim[2], 1}));
        judge(t, 0, "move");
        group_free(t);
      }
}
END_TEST

/* Random bodies over random layouts. The seed is printed with a failure. */
static Group *random_group(uint64_t seed) {
  static const Prim unary[] = {PR_NEG, PR_ABS, PR_TANH, PR_ERF, PR_FLOOR, PR_SIN, PR_COS};
  static const Prim binary[] = {PR_ADD, PR_SUB, PR_MUL, PR_MIN, PR_MAX};
  rng_state = seed;
  int nd = 2 + below(3), ncol = 1 + below(nd - 1);
  int64_t dim[4], n = 1;
  for (int d = 0; d < nd; d++) {
    dim[d] = d == nd - 1 || below(3) == 0 ? sizes[below(6)] : 1 + below(5);
    n *= dim[d];
  }
  Group *t = group_new("rows", nd, dim, ncol);
  t->body.panel_rows = 1 + below(9);
  t->body.stmt = ARENA_ARRAY(t->arena, Stmt, 256);
  int value[40], count = 0, nin = 1 + below(3);
  for (int k = 0; k < nin; k++) {
    int64_t stride[4], elems = 1;
    int order[4] = {0, 1, 2, 3};
    for (int d = nd - 1; d > 0 && below(2); d--) { /* some permutation */
      int o = below(d + 1), swap = order[d];
      order[d] = order[o];
      order[o] = swap;
    }
    for (int d = nd - 1; d >= 0; d--) {
      bool broadcast = k > 0 && below(4) == 0;
      stride[order[d]] = broadcast ? 0 : elems;
      elems *= broadcast ? 1 : dim[order[d]];
    }
    value[count++] = load(t, floats[below(5)], elems, access_of(nd, stride));
  }
  value[count++] = number(t, uniform(-1, 1));
  for (int k = 3 + below(10); k > 0; k--) {
    int a = value[below(count)], b = value[below(count)], v;
    int64_t cols = 1;
    for (int d = nd - ncol; d < nd; d++)
      cols *= dim[d];
    switch (below(6)) {
    case 0:
      v = op1(t, unary[below(7)], a);
      break;
    case 1:
      v = op2(t, PR_MUL, op1(t, PR_RSUM, a), number(t, 1.0 / (double)cols));
      break;
    case 2:
      v = op1(t, below(2) ? PR_RMAX : PR_RMIN, a);
      break;
    case 3:
      v = put(t, PR_SELECT, MPCC_F32, -1, 0, put(t, PR_LT, MPCC_B1, -1, 0, a, b, -1), b, a);
      break;
    default:
      v = op2(t, binary[below(5)], a, b);
    }
    /* keep magnitudes near 1 */
    v = op2(t, PR_MAX, op2(t, PR_MIN, v, number(t, 4)), number(t, -4));
    value[count++] = v;
  }
  int64_t stride[4], row_stride[4] = {0}, elems = 1, rows = 1;
  for (int d = nd - 1; d >= 0; d--) {
    stride[d] = elems;
    elems *= dim[d];
  }
  for (int d = nd - ncol - 1; d >= 0; d--) {
    row_stride[d] = rows;
    rows *= dim[d];
  }
  for (int k = 0; k < 2; k++) {
    int v = value[count - 1 - k], level = t->body.stmt[v].level;
    if (level == LV_ELEM)
      store(t, k ? MPCC_F32 : floats[below(3)], n, access_of(nd, stride), v);
    else if (level == LV_ROW)
      store(t, MPCC_F32, rows, access_of(nd, row_stride), v);
    int64_t panels = gen_tiles(rows, t->body.panel_rows);
    if (level >= LV_ROW) {
      store(t, MPCC_F32, panels, rows_access(1, 0), op1(t, below(2) ? PR_ASUM : PR_AMIN, v));
      int64_t cols = n / rows;
      Access sums = access_of(nd, stride);
      for (int d = 0; d < nd - ncol; d++)
        sums.stride[d] = 0;
      sums.stride[0] = cols;
      store(t, MPCC_F32, panels * cols, sums, op1(t, PR_CSUM, v));
    }
  }
  return t;
}

START_TEST(random_bodies) {
  for (uint64_t seed = 1; seed <= 60; seed++) {
    char words[40];
    snprintf(words, sizeof words, "random body, seed %llu", (unsigned long long)seed);
    Group *t = random_group(seed);
    /* sums of thousands of terms near 4, floor and comparisons next to their jumps excepted */
    if (t->op.nout)
      judge(t, 1e-3, words);
    group_free(t);
  }
}
END_TEST

int main(void) {
  const char *host = cpu_host_level();
  if (host)
    levels[nlevel++] = cpu_level_names[0];
  if (host && strcmp(host, levels[0]))
    levels[nlevel++] = host;
  if (!nlevel) {
    printf("skipped: this machine runs no level of target cpu\n");
    return 0;
  }
  Suite *s = suite_create("cpu_rows");
  TCase *c = tcase_create("rows");
  tcase_set_timeout(c, 300);
  tcase_add_test(c, layer_norm_and_sums);
  tcase_add_test(c, pairs);
  tcase_add_test(c, softmax);
  tcase_add_test(c, labels);
  tcase_add_test(c, combine_partials);
  tcase_add_test(c, many_dimensions);
  tcase_add_test(c, casts);
  tcase_add_test(c, turned);
  tcase_add_test(c, registers);
  tcase_add_test(c, in_place);
  tcase_add_test(c, not_a_number);
  tcase_add_test(c, index_rows);
  tcase_add_test(c, move_parts);
  tcase_add_test(c, random_bodies);
  suite_add_tcase(s, c);
  return check_run(s);
}
