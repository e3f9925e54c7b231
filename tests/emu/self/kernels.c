/* Real kernels: CUDA C of tests/emu/kernels through NVRTC, where there is one, and the PTX of
 * tests/emu/ptx, which NVRTC made of the same text, everywhere. Each is run in several orders of
 * blocks and warps and compared with double precision.
 *
 *   emu_test_kernels --regenerate     writes tests/emu/ptx anew (needs NVRTC)
 *
 * A PTX file begins with the hash of its source; a test says when it is stale. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/nvrtc.h"
#include "emu.h"
#include "mpcc/hash.h"
#include "mpcc/num.h"
#include "tests/check_run.h"

static Memory memory;
static uint64_t rng = 5;

static double uniform(void) {
  return (double)(int64_t)(emu_random(&rng) >> 11) * 0x1p-52 - 1.0;
}

/* ---- a buffer on the device, with its values as doubles -------------------------------------- */
typedef struct {
  uint64_t p;
  double *v;
  size_t n;
  DType type;
} Buffer;

static Buffer buffer(DType type, size_t n) { /* never written */
  Buffer b = {memory_alloc(&memory, n * dtype_bytes(type)), emu_alloc(n * sizeof(double)), n, type};
  ck_assert(b.p != 0);
  return b;
}
static void upload(Buffer *b) {
  Alloc *a = memory_find(&memory, b->p, 1);
  for (size_t i = 0; i < b->n; i++) {
    b->v[i] = num_round(b->v[i], b->type);
    num_store(a->host + i * dtype_bytes(b->type), b->type, b->v[i]);
  }
  memory_host_wrote(a, 0, a->bytes);
}
static Buffer filled(DType type, size_t n, double scale, double add) {
  Buffer b = buffer(type, n);
  for (size_t i = 0; i < n; i++)
    b.v[i] = uniform() * scale + add;
  upload(&b);
  return b;
}
static Buffer constant(DType type, size_t n, double v) {
  return filled(type, n, 0, v);
}
/* Value i as the device has it now; the byte must have been written. */
static double got(const Buffer *b, size_t i) {
  const Alloc *a = memory_find(&memory, b->p, 1);
  const size_t bytes = dtype_bytes(b->type);
  ck_assert_msg(memory_first_unwritten(a, i * bytes, bytes) == bytes, "element %zu is not written",
                i);
  return num_load(a->host + i * bytes, b->type);
}
static void drop(Buffer *b) {
  memory_free(&memory, b->p);
  free(b->v);
}

/* ---- sources, committed PTX, NVRTC ---- */
static char *read_text(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f)
    return NULL;
  char *text = emu_alloc(1 << 20);
  const size_t n = fread(text, 1, (1 << 20) - 1, f);
  text[n] = 0;
  fclose(f);
  return text;
}

static char *source_of(const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/kernels/prelude.cuh", EMU_SOURCE);
  char *prelude = read_text(path);
  snprintf(path, sizeof path, "%s/kernels/%s.cu", EMU_SOURCE, name);
  char *body = read_text(path);
  if (!prelude || !body) {
    free(prelude);
    free(body);
    return NULL;
  }
  prelude = emu_grow(prelude, strlen(prelude) + strlen(body) + 1);
  strcat(prelude, body);
  free(body);
  return prelude;
}

static uint64_t hash_of(const char *text) {
  MpccHash h;
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, text, strlen(text));
  uint64_t out[2];
  mpcc_hash_finish(&h, out);
  return out[0];
}

static void ptx_path(char *path, size_t n, const char *name) {
  snprintf(path, n, "%s/ptx/%s.ptx", EMU_SOURCE, name);
}

/* NULL on failure, with the compiler's words printed. Asserts nothing: also used outside tests. */
static char *compiled(const char *name) {
  char error[256];
  const Nvrtc *n = nvrtc_open(error);
  char *source = source_of(name), *ptx = NULL, *log = NULL;
  if (n && source && !nvrtc_compile(n, source, "compute_90", false, &ptx, NULL, NULL, &log))
    fprintf(stderr, "%s: %s\n", name, log ? log : "");
  free(source);
  free(log);
  return ptx;
}

static const char *const names[] = {"layernorm",
                                    "softmax_xent",
                                    "adamw",
                                    "quantize",
                                    "gemm",
                                    "attention",
                                    "convolution",
                                    "gelu_bias",
                                    "embedding_backward",
                                    "products",
                                    "moves",
                                    "attention_backward",
                                    "convolution_backward"};
enum { NAMES = sizeof names / sizeof *names };

static char *current_ptx; /* of the kernel that is tested */

static Module *load(const char *name) {
  char why[512];
  Module *m = ptx_load(current_ptx, &memory, why);
  ck_assert_msg(m != NULL, "%s: %s", name, why);
  return m;
}

static void run(Module *m, const char *kernel, uint32_t gx, uint32_t gy, uint32_t block,
                uint32_t shared, const void *params, uint64_t seed) {
  Kernel *k = ptx_kernel(m, kernel);
  ck_assert_ptr_nonnull(k);
  const LaunchConfig c = {{gx, gy, 1}, {block, 1, 1}, shared, params, seed};
  const char *refused = launch_refused(k, &c);
  ck_assert_msg(!refused, "%s: %s", kernel, refused);
  Report r;
  ck_assert_msg(launch_run(k, &memory, &c, &r, NULL), "%s", r.text);
}

static void close_to(double want, double have, double room, const char *what, size_t i) {
  ck_assert_msg(fabs(want - have) <= room, "%s[%zu] = %.9g, want %.9g within %.2g", what, i, have,
                want, room);
}

/* Relative error of a bf16 result: half a unit of the last of 8 bits, and f32 noise. */
#define BF16_ROOM(v, noise) (fabs(v) * 0x1p-8 + (noise))

/* ---- the kernels ---- */
static void layernorm(uint64_t seed) {
  enum { ROWS = 9, COLS = 333, BLOCKS = 4 };
  Module *m = load("layernorm");
  Buffer x = filled(MPCC_BF16, ROWS * COLS, 2, 0.5), g = filled(MPCC_F32, COLS, 1, 1),
         b = filled(MPCC_F32, COLS, 1, 0), y = buffer(MPCC_BF16, ROWS * COLS),
         mean = buffer(MPCC_F32, ROWS), rstd = buffer(MPCC_F32, ROWS),
         dy = filled(MPCC_BF16, ROWS * COLS, 1, 0), dx = buffer(MPCC_BF16, ROWS * COLS),
         partial = buffer(MPCC_F32, BLOCKS * 2 * COLS);
  struct {
    uint64_t x, g, b, y, mean, rstd;
    uint32_t cols;
    float eps;
  } p = {x.p, g.p, b.p, y.p, mean.p, rstd.p, COLS, 1e-5f};
  run(m, "layernorm", ROWS, 1, 128, 0, &p, seed);
  struct {
    uint64_t dy, x, g, mean, rstd, dx, partial;
    uint32_t rows, cols;
  } q = {dy.p, x.p, g.p, mean.p, rstd.p, dx.p, partial.p, ROWS, COLS};
  run(m, "layernorm_backward", BLOCKS, 1, 128, 2 * COLS * 4, &q, seed);
  double dg[COLS] = {0}, db[COLS] = {0};
  for (size_t r = 0; r < ROWS; r++) {
    const double *row = x.v + r * COLS, *dr = dy.v + r * COLS;
    double s = 0, sq = 0, a = 0, c = 0;
    for (int i = 0; i < COLS; i++)
      s += row[i] / COLS;
    for (int i = 0; i < COLS; i++)
      sq += (row[i] - s) * (row[i] - s) / COLS;
    const double rs = 1 / sqrt(sq + 1e-5);
    close_to(s, got(&mean, r), 1e-5, "mean", r);
    close_to(rs, got(&rstd, r), 1e-5, "rstd", r);
    for (int i = 0; i < COLS; i++) {
      const double h = (row[i] - s) * rs, v = h * g.v[i] + b.v[i];
      close_to(v, got(&y, r * COLS + (size_t)i), BF16_ROOM(v, 1e-5), "y", r * COLS + (size_t)i);
      a += dr[i] * g.v[i] / COLS;
      c += dr[i] * g.v[i] * h / COLS;
      dg[i] += dr[i] * h;
      db[i] += dr[i];
    }
    for (int i = 0; i < COLS; i++) {
      const double h = (row[i] - s) * rs, v = rs * (dr[i] * g.v[i] - a - h * c);
      close_to(v, got(&dx, r * COLS + (size_t)i), BF16_ROOM(v, 1e-5), "dx", r * COLS + (size_t)i);
    }
  }
  for (size_t i = 0; i < COLS; i++) {
    double sg = 0, sb = 0;
    for (size_t k = 0; k < BLOCKS; k++) {
      sg += got(&partial, k * 2 * COLS + i);
      sb += got(&partial, k * 2 * COLS + COLS + i);
    }
    close_to(dg[i], sg, 1e-4, "dgamma", i);
    close_to(db[i], sb, 1e-4, "dbeta", i);
  }
  drop(&x), drop(&g), drop(&b), drop(&y), drop(&mean), drop(&rstd), drop(&dy), drop(&dx);
  drop(&partial);
  ptx_unload(m);
}

static void softmax_xent(uint64_t seed) {
  enum { ROWS = 6, V = 1001 };
  Module *m = load("softmax_xent");
  Buffer x = filled(MPCC_BF16, ROWS * V, 6, 0), t = buffer(MPCC_I32, ROWS),
         loss = buffer(MPCC_F32, ROWS), dx = buffer(MPCC_BF16, ROWS * V);
  for (int r = 0; r < ROWS; r++)
    t.v[r] = r == 2 ? -1 : r * 167;
  upload(&t);
  struct {
    uint64_t x, t, loss, dx;
    uint32_t v;
    float scale;
  } p = {x.p, t.p, loss.p, dx.p, V, 1024};
  run(m, "softmax_xent", ROWS, 1, 256, 0, &p, seed);
  for (size_t r = 0; r < ROWS; r++) {
    double s = 0;
    for (int c = 0; c < V; c++)
      s += exp(x.v[r * V + (size_t)c]);
    const bool none = t.v[r] < 0;
    close_to(none ? 0 : log(s) - x.v[r * V + (size_t)t.v[r]], got(&loss, r), 1e-5, "loss", r);
    for (int c = 0; c < V; c++) {
      const double v = none ? 0 : 1024 * (exp(x.v[r * V + (size_t)c]) / s - (c == (int)t.v[r]));
      close_to(v, got(&dx, r * V + (size_t)c), BF16_ROOM(v, 1e-5 * (1 + fabs(v))), "dx", (size_t)c);
    }
  }
  drop(&x), drop(&t), drop(&loss), drop(&dx);
  ptx_unload(m);
}

static void adamw(uint64_t seed) {
  enum { N = 3001 };
  Module *m = load("adamw");
  for (int inf = 0; inf < 2; inf++) {
    Buffer w = filled(MPCC_F32, N, 1, 0), copy = constant(MPCC_BF16, N, 7),
           g = filled(MPCC_BF16, N, 100, 0), mm = filled(MPCC_F32, N, 0.1, 0),
           v = filled(MPCC_F32, N, 0.01, 0.01), state = buffer(MPCC_F32, 3),
           found = constant(MPCC_F32, 1, inf);
    state.v[0] = 10, state.v[1] = 1e-3, state.v[2] = 1.0 / 64;
    upload(&state);
    struct {
      uint64_t w, copy, g, m, v, state, found;
      float b1, b2, eps, decay;
      uint32_t n;
    } p = {w.p, copy.p, g.p, mm.p, v.p, state.p, found.p, 0.9f, 0.999f, 1e-8f, 0.01f, N};
    run(m, "adamw", 5, 1, 256, 0, &p, seed);
    for (size_t i = 0; i < N; i++) {
      const double grad = g.v[i] / 64, lr = state.v[1], b1 = (double)0.9f, b2 = (double)0.999f;
      const double mi = b1 * mm.v[i] + (1 - b1) * grad, vi = b2 * v.v[i] + (1 - b2) * grad * grad;
      const double wi = w.v[i] * (1 - lr * (double)0.01f) -
                        lr * mi / (1 - pow(b1, 10)) / (sqrt(vi / (1 - pow(b2, 10))) + 1e-8);
      close_to(inf ? w.v[i] : wi, got(&w, i), inf ? 0 : 2e-6, "w", i);
      close_to(inf ? mm.v[i] : mi, got(&mm, i), inf ? 0 : 1e-6, "m", i);
      close_to(inf ? v.v[i] : vi, got(&v, i), inf ? 0 : 1e-6, "v", i);
      close_to(inf ? 7 : wi, got(&copy, i), inf ? 0 : BF16_ROOM(wi, 1e-6), "copy", i);
    }
    drop(&w), drop(&copy), drop(&g), drop(&mm), drop(&v), drop(&state), drop(&found);
  }
  ptx_unload(m);
}

static void quantize(uint64_t seed) {
  enum { ROWS = 70, COLS = 45 };
  Module *m = load("quantize");
  Buffer x = filled(MPCC_BF16, ROWS * COLS, 40, 0), q = buffer(MPCC_E4M3, ROWS * COLS),
         qt = buffer(MPCC_E4M3, ROWS * COLS), scale = constant(MPCC_F32, 1, 13.5),
         amax = constant(MPCC_F32, 1, 0);
  struct {
    uint64_t x, q, qt, scale, amax;
    uint32_t rows, cols;
  } p = {x.p, q.p, qt.p, scale.p, amax.p, ROWS, COLS};
  run(m, "quantize", (COLS + 31) / 32, (ROWS + 31) / 32, 256, 0, &p, seed);
  double top = 0;
  for (size_t r = 0; r < ROWS; r++)
    for (size_t c = 0; c < COLS; c++) {
      const double v = x.v[r * COLS + c];
      const double want = num_round((double)((float)v * 13.5f), MPCC_E4M3);
      close_to(want, got(&q, r * COLS + c), 0, "q", r * COLS + c); /* equal codes */
      close_to(want, got(&qt, c * ROWS + r), 0, "qt", c * ROWS + r);
      top = fabs(v) > top ? fabs(v) : top;
    }
  close_to(top, got(&amax, 0), 0, "amax", 0);
  drop(&x), drop(&q), drop(&qt), drop(&scale), drop(&amax);
  ptx_unload(m);
}

static void gemm(uint64_t seed) {
  enum { M = 70, N = 97, K = 136 };
  Module *m = load("gemm");
  Buffer a = filled(MPCC_BF16, M * K, 1, 0), b = filled(MPCC_BF16, N * K, 1, 0),
         c = buffer(MPCC_F32, M * N);
  struct {
    uint64_t a, b, c;
    uint32_t m, n, k;
  } p = {a.p, b.p, c.p, M, N, K};
  run(m, "gemm", (M + 63) / 64, (N + 63) / 64, 128, 32768, &p, seed);
  for (size_t i = 0; i < M; i++)
    for (size_t j = 0; j < N; j++) {
      double s = 0;
      for (size_t k = 0; k < K; k++)
        s += a.v[i * K + k] * b.v[j * K + k];
      close_to(s, got(&c, i * N + j), 2e-5, "c", i * N + j);
    }
  drop(&a), drop(&b), drop(&c);
  ptx_unload(m);
}

static void attention(uint64_t seed) {
  enum { HEADS = 2, T = 100, D = 64 };
  Module *m = load("attention");
  Buffer q = filled(MPCC_BF16, HEADS * T * D, 2, 0), k = filled(MPCC_BF16, HEADS * T * D, 2, 0),
         v = filled(MPCC_BF16, HEADS * T * D, 1, 0), o = buffer(MPCC_BF16, HEADS * T * D);
  struct {
    uint64_t q, k, v, o;
    uint32_t t;
    float scale;
  } p = {q.p, k.p, v.p, o.p, T, 0.125f};
  run(m, "attention", (T + 63) / 64, HEADS, 128, 24576, &p, seed);
  for (size_t h = 0; h < HEADS; h++)
    for (size_t i = 0; i < T; i++) {
      double w[T], all = 0;
      for (size_t j = 0; j <= i; j++) {
        double s = 0;
        for (size_t d = 0; d < D; d++)
          s += q.v[(h * T + i) * D + d] * k.v[(h * T + j) * D + d];
        all += w[j] = exp(s * 0.125);
      }
      for (size_t d = 0; d < D; d++) {
        double s = 0;
        for (size_t j = 0; j <= i; j++)
          s += w[j] / all * v.v[(h * T + j) * D + d];
        /* weights are rounded to bf16 before the second product */
        close_to(s, got(&o, (h * T + i) * D + d), BF16_ROOM(s, 0x1p-9), "o", (h * T + i) * D + d);
      }
    }
  drop(&q), drop(&k), drop(&v), drop(&o);
  ptx_unload(m);
}

static void convolution(uint64_t seed) {
  enum { N = 2, H = 9, W = 7, CI = 3, CO = 5, S = 2, OH = 5, OW = 4 };
  Module *m = load("convolution");
  Buffer x = filled(MPCC_F32, N * H * W * CI, 1, 0), w = filled(MPCC_F32, CO * 9 * CI, 1, 0),
         b = filled(MPCC_F32, CO, 1, 0), y = buffer(MPCC_F32, N * OH * OW * CO);
  struct {
    uint64_t x, w, b, y;
    int n, h, wd, ci, co, s, oh, ow;
  } p = {x.p, w.p, b.p, y.p, N, H, W, CI, CO, S, OH, OW};
  run(m, "convolution", (N * OH * OW * CO + 127) / 128, 1, 128, 0, &p, seed);
  for (int i = 0; i < N * OH * OW * CO; i++) {
    const int c = i % CO, px = i / CO % OW, py = i / CO / OW % OH, n = i / CO / OW / OH;
    double s = b.v[c];
    for (int ky = 0; ky < 3; ky++)
      for (int kx = 0; kx < 3; kx++)
        for (int k = 0; k < CI; k++) {
          const int yy = py * S + ky - 1, xx = px * S + kx - 1;
          if (yy >= 0 && yy < H && xx >= 0 && xx < W)
            s += x.v[((n * H + yy) * W + xx) * CI + k] * w.v[((c * 3 + ky) * 3 + kx) * CI + k];
        }
    close_to(s > 0 ? s : 0, got(&y, (size_t)i), 1e-5, "y", (size_t)i);
  }
  drop(&x), drop(&w), drop(&b), drop(&y);
  ptx_unload(m);
}

static void gelu_bias(uint64_t seed) {
  enum { ROWS = 13, COLS = 52 };
  Module *m = load("gelu_bias");
  Buffer x = filled(MPCC_BF16, ROWS * COLS, 4, 0), b = filled(MPCC_F32, COLS, 1, 0),
         y = buffer(MPCC_BF16, ROWS * COLS);
  struct {
    uint64_t x, b, y;
    uint32_t quads, cols;
  } p = {x.p, b.p, y.p, ROWS * COLS / 4, COLS};
  run(m, "gelu_bias", (ROWS * COLS / 4 + 255) / 256, 1, 256, 0, &p, seed);
  for (size_t i = 0; i < ROWS * COLS; i++) {
    const double v = x.v[i] + b.v[i % COLS],
                 w = 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    close_to(w, got(&y, i), BF16_ROOM(w, 1e-5), "y", i);
  }
  drop(&x), drop(&b), drop(&y);
  ptx_unload(m);
}

static void embedding_backward(uint64_t seed) {
  enum { ROWS = 40, V = 7, COLS = 100 };
  Module *m = load("embedding_backward");
  Buffer index = buffer(MPCC_I32, ROWS), dy = buffer(MPCC_F32, ROWS * COLS),
         dw = constant(MPCC_F32, V * COLS, 0), count = constant(MPCC_I32, V, 0);
  for (int i = 0; i < ROWS; i++)
    index.v[i] = i * i % V;
  for (size_t i = 0; i < ROWS * COLS; i++)
    dy.v[i] = (double)(i * 7 % 11) - 5;
  upload(&index), upload(&dy);
  struct {
    uint64_t index, dy, dw, count;
    uint32_t cols;
  } p = {index.p, dy.p, dw.p, count.p, COLS};
  run(m, "embedding_backward", ROWS, 1, 64, 0, &p, seed);
  double want[V][COLS] = {{0}}, n[V] = {0};
  for (size_t r = 0; r < ROWS; r++) {
    n[(int)index.v[r]]++;
    for (size_t c = 0; c < COLS; c++)
      want[(int)index.v[r]][c] += dy.v[r * COLS + c];
  }
  for (size_t v = 0; v < V; v++) {
    close_to(n[v], got(&count, v), 0, "count", v);
    for (size_t c = 0; c < COLS; c++)
      close_to(want[v][c], got(&dw, v * COLS + c), 0, "dw", v * COLS + c);
  }
  drop(&index), drop(&dy), drop(&dw), drop(&count);
  ptx_unload(m);
}

static double rounded(int part, double v) {
  return part == 0 ? num_f32_from_bits((num_f32_bits((float)v) + 0x1000) & ~0x1FFFu)
                   : num_round(v, part == 1   ? MPCC_F16
                                  : part == 2 ? MPCC_E4M3
                                              : MPCC_E5M2);
}

static void products(uint64_t seed) {
  Module *m = load("products");
  Buffer a = filled(MPCC_F32, 16 * 32, 2, 0), b = filled(MPCC_F32, 32 * 8, 2, 0),
         c = buffer(MPCC_F32, 4 * 128);
  struct {
    uint64_t a, b, c;
  } p = {a.p, b.p, c.p};
  run(m, "products", 1, 1, 32, 0, &p, seed);
  static const size_t depth[] = {8, 16, 32, 32};
  for (int part = 0; part < 4; part++)
    for (size_t i = 0; i < 16; i++)
      for (size_t j = 0; j < 8; j++) {
        double s = 0;
        for (size_t k = 0; k < depth[part]; k++)
          s += rounded(part, a.v[i * 32 + k]) * rounded(part, b.v[k * 8 + j]);
        close_to(s, got(&c, (size_t)part * 128 + i * 8 + j), 2e-5, "c",
                 (size_t)part * 128 + i * 8 + j);
      }
  drop(&a), drop(&b), drop(&c);
  ptx_unload(m);
}

static void pack_and_transpose(Module *m, uint64_t seed) {
  enum { ROWS = 45, COLS = 71 };
  static const uint32_t sizes[] = {7, 300, 1, 129};
  Buffer from[4], to = buffer(MPCC_BF16, 437);
  struct {
    struct {
      uint64_t from;
      uint32_t n, at;
    } t[4];
    uint64_t to;
    uint32_t count;
  } p = {.to = to.p, .count = 4};
  uint32_t at = 0;
  for (int i = 0; i < 4; i++) {
    from[i] = filled(MPCC_F32, sizes[i], 3, 0);
    p.t[i].from = from[i].p, p.t[i].n = sizes[i], p.t[i].at = at;
    at += sizes[i];
  }
  run(m, "pack", 3, 1, 128, 0, &p, seed);
  for (int i = 0; i < 4; i++)
    for (uint32_t k = 0; k < sizes[i]; k++)
      close_to(num_round(from[i].v[k], MPCC_BF16), got(&to, p.t[i].at + k), 0, "pack", k);
  Buffer x = filled(MPCC_F32, ROWS * COLS, 1, 0), y = buffer(MPCC_F32, ROWS * COLS);
  struct {
    uint64_t x, y;
    uint32_t rows, cols;
  } q = {x.p, y.p, ROWS, COLS};
  run(m, "transpose", (COLS + 31) / 32, (ROWS + 31) / 32, 256, 0, &q, seed);
  for (size_t i = 0; i < ROWS * COLS; i++)
    close_to(x.v[i], got(&y, i % COLS * ROWS + i / COLS), 0, "transpose", i);
  for (int i = 0; i < 4; i++)
    drop(&from[i]);
  drop(&to), drop(&x), drop(&y);
}

static void pooling(Module *m, uint64_t seed) {
  enum { N = 2, H = 9, W = 6, OH = 5, OW = 3 };
  Buffer x = filled(MPCC_F32, N * H * W, 1, 0), y = buffer(MPCC_F32, N * OH * OW),
         place = buffer(MPCC_U8, N * OH * OW), dy = filled(MPCC_F32, N * OH * OW, 1, 0),
         dx = buffer(MPCC_F32, N * H * W);
  struct {
    uint64_t x, y, place;
    int n, h, w, oh, ow;
  } p = {x.p, y.p, place.p, N, H, W, OH, OW};
  run(m, "pool", 1, 1, 128, 0, &p, seed);
  struct {
    uint64_t dy, place, dx;
    int n, h, w, oh, ow;
  } q = {dy.p, place.p, dx.p, N, H, W, OH, OW};
  run(m, "pool_backward", 1, 1, 128, 0, &q, seed);
  double want[N * H * W] = {0};
  for (int o = 0; o < N * OH * OW; o++) {
    int best = -1;
    for (int k = 0; k < 9; k++) {
      const int yy = o / OW % OH * 2 + k / 3 - 1, xx = o % OW * 2 + k % 3 - 1;
      const int i = (o / OW / OH * H + yy) * W + xx;
      if (yy >= 0 && yy < H && xx >= 0 && xx < W && (best < 0 || x.v[i] > x.v[best]))
        best = i;
    }
    close_to(x.v[best], got(&y, (size_t)o), 0, "pool", (size_t)o);
    want[best] += dy.v[o];
  }
  for (size_t i = 0; i < N * H * W; i++)
    close_to(want[i], got(&dx, i), 1e-6, "pool_backward", i);
  drop(&x), drop(&y), drop(&place), drop(&dy), drop(&dx);
}

static void moves(uint64_t seed) {
  Module *m = load("moves");
  pack_and_transpose(m, seed);
  pooling(m, seed);
  ptx_unload(m);
}

static void attention_backward(uint64_t seed) {
  enum { HEADS = 2, T = 11, D = 64, ALL = HEADS * T * D };
  Module *m = load("attention_backward");
  Buffer q = filled(MPCC_F32, ALL, 1, 0), k = filled(MPCC_F32, ALL, 1, 0),
         v = filled(MPCC_F32, ALL, 1, 0), g = filled(MPCC_F32, ALL, 1, 0),
         logs = buffer(MPCC_F32, HEADS * T), delta = buffer(MPCC_F32, HEADS * T),
         dq = buffer(MPCC_F32, ALL), dk = buffer(MPCC_F32, ALL), dv = buffer(MPCC_F32, ALL);
  static double want_q[ALL], want_k[ALL], want_v[ALL];
  memset(want_q, 0, sizeof want_q), memset(want_k, 0, sizeof want_k),
      memset(want_v, 0, sizeof want_v);
  for (size_t i = 0; i < HEADS * T; i++) {
    const size_t first = i / T * T;
    double w[T], dp[T], all = 0, mean = 0;
    for (size_t j = first; j <= i; j++) {
      double s = 0;
      dp[j - first] = 0;
      for (size_t d = 0; d < D; d++) {
        s += q.v[i * D + d] * k.v[j * D + d];
        dp[j - first] += g.v[i * D + d] * v.v[j * D + d];
      }
      all += w[j - first] = exp(s * 0.125);
    }
    for (size_t j = first; j <= i; j++)
      mean += w[j - first] / all * dp[j - first];
    logs.v[i] = log(all), delta.v[i] = mean;
    for (size_t j = first; j <= i; j++)
      for (size_t d = 0; d < D; d++) {
        const double p = w[j - first] / all, ds = p * (dp[j - first] - mean) * 0.125;
        want_q[i * D + d] += ds * k.v[j * D + d];
        want_k[j * D + d] += ds * q.v[i * D + d];
        want_v[j * D + d] += p * g.v[i * D + d];
      }
  }
  upload(&logs), upload(&delta);
  struct {
    uint64_t q, k, v, g, logs, delta, dq;
    uint32_t t;
    float scale;
  } p = {q.p, k.p, v.p, g.p, logs.p, delta.p, dq.p, T, 0.125f};
  run(m, "attention_dq", T, HEADS, D, 0, &p, seed);
  struct {
    uint64_t q, k, v, g, logs, delta, dk, dv;
    uint32_t t;
    float scale;
  } r = {q.p, k.p, v.p, g.p, logs.p, delta.p, dk.p, dv.p, T, 0.125f};
  run(m, "attention_dkv", T, HEADS, D, 0, &r, seed);
  for (size_t i = 0; i < ALL; i++) {
    close_to(want_q[i], got(&dq, i), 2e-5, "dq", i);
    close_to(want_k[i], got(&dk, i), 2e-5, "dk", i);
    close_to(want_v[i], got(&dv, i), 2e-5, "dv", i);
  }
  drop(&q), drop(&k), drop(&v), drop(&g), drop(&logs), drop(&delta), drop(&dq), drop(&dk),
      drop(&dv);
  ptx_unload(m);
}

static void convolution_backward(uint64_t seed) {
  enum { N = 2, H = 7, W = 6, CI = 3, CO = 5, S = 2, OH = 4, OW = 3 };
  Module *m = load("convolution_backward");
  Buffer x = filled(MPCC_F32, N * H * W * CI, 1, 0), w = filled(MPCC_F32, CO * 9 * CI, 1, 0),
         dy = filled(MPCC_F32, N * OH * OW * CO, 1, 0), dx = buffer(MPCC_F32, N * H * W * CI),
         dw = buffer(MPCC_F32, CO * 9 * CI);
  struct {
    uint64_t a, b, to;
    int n, h, w, ci, co, s, oh, ow;
  } p = {dy.p, w.p, dx.p, N, H, W, CI, CO, S, OH, OW},
    q = {x.p, dy.p, dw.p, N, H, W, CI, CO, S, OH, OW};
  run(m, "convolution_dx", (N * H * W * CI + 127) / 128, 1, 128, 0, &p, seed);
  run(m, "convolution_dw", CO * 9 * CI, 1, 64, 0, &q, seed);
  double want_x[N * H * W * CI] = {0}, want_w[CO * 9 * CI] = {0};
  for (int o = 0; o < N * OH * OW * CO; o++) /* scatter what the kernels gather */
    for (int k = 0; k < 9 * CI; k++) {
      const int at = o / CO, yy = at / OW % OH * S + k / CI / 3 - 1,
                xx = at % OW * S + k / CI % 3 - 1;
      if (yy < 0 || yy >= H || xx < 0 || xx >= W)
        continue;
      const int i = ((at / OW / OH * H + yy) * W + xx) * CI + k % CI, f = o % CO * 9 * CI + k;
      want_x[i] += dy.v[o] * w.v[f];
      want_w[f] += dy.v[o] * x.v[i];
    }
  for (size_t i = 0; i < N * H * W * CI; i++)
    close_to(want_x[i], got(&dx, i), 1e-5, "dx", i);
  for (size_t i = 0; i < CO * 9 * CI; i++)
    close_to(want_w[i], got(&dw, i), 1e-5, "dw", i);
  drop(&x), drop(&w), drop(&dy), drop(&dx), drop(&dw);
  ptx_unload(m);
}

static void (*const kernels[])(uint64_t) = {layernorm,
                                            softmax_xent,
                                            adamw,
                                            quantize,
                                            gemm,
                                            attention,
                                            convolution,
                                            gelu_bias,
                                            embedding_backward,
                                            products,
                                            moves,
                                            attention_backward,
                                            convolution_backward};

static void all_kernels(bool nvrtc) {
  for (int i = 0; i < NAMES; i++) {
    char path[512];
    ptx_path(path, sizeof path, names[i]);
    current_ptx = nvrtc ? compiled(names[i]) : read_text(path);
    ck_assert_msg(current_ptx != NULL, "no PTX for %s", names[i]);
    for (uint64_t seed = 0; seed < 3; seed++)
      kernels[i](seed);
    free(current_ptx);
  }
  memory_fini(&memory);
}

START_TEST(committed_ptx) {
  all_kernels(false);
}
END_TEST

START_TEST(through_nvrtc) {
  char error[256];
  if (!nvrtc_open(error)) {
    printf("through_nvrtc: skipped: %s\n", error);
    return;
  }
  all_kernels(true);
}
END_TEST

START_TEST(nothing_is_stale) {
  for (int i = 0; i < NAMES; i++) {
    char path[512];
    ptx_path(path, sizeof path, names[i]);
    char *ptx = read_text(path), *source = source_of(names[i]);
    ck_assert_msg(source != NULL, "no source of %s", names[i]);
    ck_assert_msg(ptx != NULL, "%s is missing; emu_test_kernels --regenerate", path);
    unsigned long long hash = 0;
    ck_assert_int_eq(sscanf(ptx, "// source %llx", &hash), 1);
    ck_assert_msg(hash == hash_of(source), "%s is stale; emu_test_kernels --regenerate", path);
    free(ptx);
    free(source);
  }
}
END_TEST

/* Comments go: they name the compiler's build, not the kernel. */
static void write_without_comments(FILE *f, const char *text) {
  while (*text) {
    const size_t n = strcspn(text, "\n");
    const char *s = text + strspn(text, " \t");
    if (s < text + n && strncmp(s, "//", 2) != 0)
      fprintf(f, "%.*s\n", (int)n, text);
    text += n + (text[n] == '\n');
  }
}

static int regenerate(void) {
  for (int i = 0; i < NAMES; i++) {
    char path[512], *source = source_of(names[i]), *ptx = compiled(names[i]);
    if (!ptx) {
      fputs("no NVRTC, or it failed\n", stderr);
      return 1;
    }
    ptx_path(path, sizeof path, names[i]);
    FILE *f = fopen(path, "wb");
    if (!f) {
      perror(path);
      return 1;
    }
    fprintf(f, "// source %016llx, kernels/prelude.cuh and kernels/%s.cu through NVRTC %s\n",
            (unsigned long long)hash_of(source), names[i],
            nvrtc_version(nvrtc_open((char[256]){0})));
    write_without_comments(f, ptx);
    fclose(f);
    free(source);
    free(ptx);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--regenerate") == 0)
    return regenerate();
  TCase *t = tcase_create("kernels");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, nothing_is_stale);
  tcase_add_test(t, committed_ptx);
  tcase_add_test(t, through_nvrtc);
  Suite *s = suite_create("emu/kernels");
  suite_add_tcase(s, t);
  return check_run(s);
}
