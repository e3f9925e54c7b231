/* Speed of the PTX interpreter (tests/emu) in thread instructions a second, all checks on: kernels
 * of tests/emu/ptx at sizes of a small training step. One line a kernel: best of several runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "emu.h"

static Memory memory;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Device memory whose 16-bit halves are small bf16 numbers, or small f32 ones. */
static uint64_t filled(size_t bytes, bool f32) {
  const uint64_t p = memory_alloc(&memory, bytes);
  Alloc *a = memory_find(&memory, p, bytes);
  for (size_t i = 0; i < bytes / 2; i++) {
    const uint16_t half = f32 && i % 2 == 0 ? 0 : (uint16_t)(0x3E80 + i * 7 % 128);
    memcpy(a->host + 2 * i, &half, 2);
  }
  memory_host_wrote(a, 0, bytes);
  return p;
}
static uint64_t zeros(size_t bytes) {
  const uint64_t p = memory_alloc(&memory, bytes);
  Alloc *a = memory_find(&memory, p, bytes);
  memset(a->host, 0, bytes);
  memory_host_wrote(a, 0, bytes);
  return p;
}

static void measure(const char *file, const char *kernel, uint32_t gx, uint32_t gy, uint32_t block,
                    uint32_t shared, const void *params) {
  char path[512], why[512];
  snprintf(path, sizeof path, "%s/tests/emu/ptx/%s.ptx", SOURCE_DIR, file);
  FILE *f = fopen(path, "rb");
  char *text = emu_alloc(1 << 20);
  if (!f || fread(text, 1, (1 << 20) - 1, f) == 0) {
    perror(path);
    exit(1);
  }
  fclose(f);
  const double load = seconds();
  Module *m = ptx_load(text, &memory, why);
  const double loaded = seconds() - load;
  if (!m) {
    fprintf(stderr, "%s: %s\n", path, why);
    exit(1);
  }
  const LaunchConfig c = {{gx, gy, 1}, {block, 1, 1}, shared, params, 0};
  double best = 1e9;
  LaunchCounts counts = {0};
  const double start = seconds();
  for (int i = 0; i < 15 || seconds() - start < 2; i++) {
    Report r;
    const double t = seconds();
    if (!launch_run(ptx_kernel(m, kernel), &memory, &c, &r, &counts)) {
      fputs(r.text, stderr);
      exit(1);
    }
    const double took = seconds() - t;
    best = took < best ? took : best;
  }
  printf("%-20s %8.1f M thread instructions %8.2f ms %6.2f G/s   loaded in %.2f ms\n", kernel,
         (double)counts.thread_insns * 1e-6, best * 1e3, (double)counts.thread_insns / best * 1e-9,
         loaded * 1e3);
  ptx_unload(m);
  free(text);
}

int main(void) {
  enum { ROWS = 512, COLS = 1024, N = 300000, T = 256, HEADS = 4, M = 256, K = 512 };
  struct {
    uint64_t x, bias, y;
    uint32_t quads, cols;
  } gelu = {filled(ROWS * COLS * 2, false), filled(COLS * 4, true), zeros(ROWS * COLS * 2),
            ROWS * COLS / 4, COLS};
  measure("gelu_bias", "gelu_bias", ROWS * COLS / 1024, 1, 256, 0, &gelu);
  struct {
    uint64_t x, g, b, y, mean, rstd;
    uint32_t cols;
    float eps;
  } ln = {gelu.x,
          filled(COLS * 4, true),
          filled(COLS * 4, true),
          gelu.y,
          zeros(ROWS * 4),
          zeros(ROWS * 4),
          COLS,
          1e-5f};
  measure("layernorm", "layernorm", ROWS, 1, 128, 0, &ln);
  const float state[] = {10, 1e-3f, 1};
  struct {
    uint64_t w, copy, g, m, v, state, found;
    float b1, b2, eps, decay;
    uint32_t n;
  } adam = {filled(N * 4, true),
            zeros(N * 2),
            filled(N * 2, false),
            zeros(N * 4),
            zeros(N * 4),
            zeros(12),
            zeros(4),
            0.9f,
            0.999f,
            1e-8f,
            0.01f,
            N};
  memcpy(memory_find(&memory, adam.state, 12)->host, state, sizeof state);
  measure("adamw", "adamw", 64, 1, 256, 0, &adam);
  struct {
    uint64_t a, b, c;
    uint32_t m, n, k;
  } gemm = {filled(M * K * 2, false), filled(M * K * 2, false), zeros(M * M * 4), M, M, K};
  measure("gemm", "gemm", M / 64, M / 64, 128, 32768, &gemm);
  struct {
    uint64_t q, k, v, o;
    uint32_t t;
    float scale;
  } att = {filled(HEADS * T * 128, false),
           filled(HEADS * T * 128, false),
           filled(HEADS * T * 128, false),
           zeros(HEADS * T * 128),
           T,
           0.125f};
  measure("attention", "attention", T / 64, HEADS, 128, 24576, &att);
  memory_fini(&memory);
  return 0;
}
