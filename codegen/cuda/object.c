/* The CUDA target: levels are the architectures, an object is PTX and cubin of several kernels. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/gen.h"
#include "codegen/cuda/nvrtc.h"

static const char *const level_names[] = {"sm_80", "sm_89", "sm_90"};

/* The line of NVRTC's log that tells what is wrong. */
static void first_error(const char *log, char *error) {
  const char *at = log ? strstr(log, "error") : NULL;
  snprintf(error, 256, "NVRTC: %.*s", at ? (int)strcspn(at, "\n") : 9, at ? at : "no reason");
}

/* Kernels in one program: the helpers in front of them cost as much as several kernels. Products,
 * convolutions and attention take long by themselves; strict and fused kernels need other options.
 */
static int together(const Kernel *k, int n, const char *form) {
  enum { MOST = 10 };
  static const char *const light[] = {"rows", "index", "scatter", "move", "pack"};
  const bool exact = cuda_is_exact(k[0].group->body);
  if (!strcmp(form, "cubin"))
    return n;
  for (int i = 0; i < n && i < MOST; i++) {
    const char *kind = op_str(k[i].group, "kind", "");
    bool is_light = false;
    for (size_t j = 0; j < sizeof light / sizeof *light; j++)
      is_light = is_light || !strcmp(kind, light[j]);
    if (cuda_is_exact(k[i].group->body) != exact || (i && !is_light))
      return i;
    if (!is_light)
      return 1;
  }
  return n < MOST ? n : MOST;
}

/* The program of n kernels; their facts. *exact: some round explicitly. */
static bool write_program(CudaGen *g, Kernel *k, int n, bool *exact, int *at) {
  cuda_begin(g);
  *exact = false;
  for (int i = 0; i < n; i++) {
    *at = i;
    g->spilled = k[i].spilled;
    if (!cuda_kernel(g, k[i].group, k[i].symbol))
      return false;
    k[i].ntiles = g->blocks;
    k[i].columns = g->blocks_y;
    k[i].threads = g->threads;
    k[i].scratch_bytes = g->shared_bytes;
    *exact = *exact || g->exact;
  }
  *at = 0;
  return true;
}

/* Both forms in one object, or the one that is asked for. */
static bool put_forms(const char *form, char *ptx, void *cubin, size_t cubin_bytes, void **bytes,
                      size_t *len) {
  const void *const part[] = {ptx, cubin};
  const size_t part_bytes[] = {strlen(ptx) + 1, cubin_bytes};
  if (!strcmp(form, "object")) {
    const bool ok = codegen_archive(part, part_bytes, 2, bytes, len);
    free(ptx);
    free(cubin);
    return ok;
  }
  const bool is_ptx = !strcmp(form, "ptx");
  *bytes = is_ptx ? (void *)ptx : cubin;
  *len = is_ptx ? strlen(ptx) : cubin_bytes;
  free(is_ptx ? cubin : (void *)ptx);
  return true;
}

static Status compile_program(const CudaGen *g, const char *level, Kernel *k, int n, bool exact,
                              const char *form, char *error, void **bytes, size_t *len) {
  char *ptx = NULL, *log = NULL;
  void *cubin = NULL;
  size_t cubin_bytes = 0;
  const Nvrtc *c = nvrtc_open(error);
  if (!c)
    return MPCC_ERR_TARGET;
  bool ok = nvrtc_compile(c, g->out.data, level, exact, &ptx, &cubin, &cubin_bytes, &log);
  if (!ok)
    first_error(log, error);
  for (int i = 0; ok && i < n; i++)
    nvrtc_figures(log, k[i].symbol, &k[i].registers, &k[i].spill_bytes);
  free(log);
  if (!ok) {
    free(ptx);
    free(cubin);
    return MPCC_ERR_INTERNAL;
  }
  if (put_forms(form, ptx, cubin, cubin_bytes, bytes, len))
    return MPCC_OK;
  snprintf(error, 256, "out of memory");
  return MPCC_ERR_INTERNAL;
}

/* Counts the kernels that did not fit into registers; false: none, or often enough. */
static bool some_spilled(Kernel *k, int n) {
  enum { MOST = 3 };
  bool any = false;
  for (int i = 0; i < n; i++)
    if (k[i].spill_bytes && k[i].spilled < MOST) {
      k[i].spilled++;
      any = true;
    }
  return any;
}

/* One attempt. */
static Status try_compile(const char *level, Kernel *k, int n, const char *form, char *error,
                          int *at, void **bytes, size_t *len) {
  CudaGen g;
  bool exact;
  Status s = MPCC_OK;
  *bytes = NULL;
  if (!write_program(&g, k, n, &exact, at)) {
    snprintf(error, 256, "%s", g.error);
    s = g.unsupported ? MPCC_ERR_TARGET : MPCC_ERR_INTERNAL;
  } else if (!strcmp(form, "cuda")) {
    *len = g.out.len - g.helpers;
    *bytes = malloc(*len + 1);
    if (*bytes)
      memcpy(*bytes, g.out.data + g.helpers, *len + 1);
    else
      s = MPCC_ERR_NOMEM;
  } else {
    s = compile_program(&g, level, k, n, exact, form, error, bytes, len);
  }
  text_fini(&g.out);
  return s;
}

static Status compile(const char *level, Kernel *k, int n, int opt_level, const char *form,
                      char *error, int *at, void **bytes, size_t *len) {
  (void)opt_level;
  for (int i = 0; i < n; i++)
    k[i].spilled = k[i].spill_bytes = 0;
  Status s = try_compile(level, k, n, form, error, at, bytes, len);
  while (s == MPCC_OK && some_spilled(k, n)) {
    free(*bytes);
    s = try_compile(level, k, n, form, error, at, bytes, len);
  }
  return s;
}

static void compiler(const char *level, int opt_level, Text *out) {
  (void)opt_level;
  char error[256];
  const Nvrtc *n = nvrtc_open(error);
  text_printf(out, "nvrtc %s %s", n ? nvrtc_version(n) : "none", level);
}

/* The text of the program, not the build that wrote it: equal kernels are compiled once, whichever
 * build of mpcc asks. Facts that are not in the text go with it. */
static bool key(const char *level, const Kernel *kernel, int n, Text *out) {
  Kernel *k = calloc((size_t)n + 1, sizeof *k);
  char options[200];
  CudaGen g = {0};
  bool exact, known = false;
  int at;
  for (int i = 0; k && i < n; i++) {
    k[i] = kernel[i];
    k[i].spilled = 0; /* the first attempt decides all others */
  }
  if (k && write_program(&g, k, n, &exact, &at)) {
    known = !g.out.failed;
    nvrtc_options(exact, options);
    text_puts(out, "cuda 3 "); /* what an object holds */
    compiler(level, 0, out);
    text_printf(out, " %s\n", options);
    for (int i = 0; i < n; i++)
      text_printf(out, "%s %lld %lld %lld %d\n", k[i].symbol, (long long)k[i].ntiles,
                  (long long)k[i].columns, (long long)k[i].scratch_bytes, k[i].threads);
    text_put(out, g.out.data, g.out.len);
  }
  text_fini(&g.out);
  free(k);
  return known;
}

/* Columns of a packed panel are those of a block's tile (product.c). */
static Status caps(const char *level, TargetCaps *out) {
  memset(out, 0, sizeof *out);
  snprintf(out->name, sizeof out->name, "cuda");
  snprintf(out->level, sizeof out->level, "%s", level);
  out->vector_bytes = 16;
  out->panel_cols_f64 = out->panel_cols_f32 = out->panel_cols_bf16 = CUDA_TILE;
  out->k_pair_bf16 = 1;
  out->half_tiles = out->tf32 = out->depth_windows = out->joined_grads = true;
  out->panel_bytes_rows = 16 << 10;
  out->partials = 4 * 132; /* four blocks for each multiprocessor of an H200 */
  out->turned_rows = CUDA_TURNED;
  out->library_products = true;
  out->library_fp8 = strcmp(level, "sm_80") != 0;
  return MPCC_OK;
}

/* PTX of the oldest runs on all. */
static const char *host_level(void) {
  return level_names[0];
}

static const char *level_needs(const char *level) {
  return level;
}

const Target target_cuda = {
    .name = "cuda",
    .nlevel = sizeof level_names / sizeof *level_names,
    .level = level_names,
    .caps = caps,
    .host_level = host_level,
    .level_needs = level_needs,
    .together = together,
    .compile = compile,
    .compiler = compiler,
    .key = key,
};
