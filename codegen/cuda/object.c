/* The CUDA target: levels are the architectures, a kernel's object is PTX text. */
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

static Status compile(const char *level, Kernel *k, int opt_level, const char *form, char *error,
                      void **bytes, size_t *len) {
  (void)opt_level;
  CudaGen g;
  char *ptx = NULL, *log = NULL;
  *bytes = NULL;
  bool ok = cuda_program(&g, k->group, k->symbol), has_compiler = true;
  if (!ok) {
    snprintf(error, 256, "%s", g.error);
  } else if (!strcmp(form, "cuda")) {
    *len = g.out.len - g.kernel;
    *bytes = malloc(*len + 1);
    ok = *bytes != NULL;
    if (ok)
      memcpy(*bytes, g.out.data + g.kernel, *len + 1);
  } else {
    const Nvrtc *n = nvrtc_open(error);
    ok = has_compiler = n != NULL;
    if (ok && !nvrtc_compile(n, g.out.data, level, g.exact, &ptx, NULL, NULL, &log)) {
      first_error(log, error);
      ok = false;
    }
    *bytes = ptx;
    *len = ptx ? strlen(ptx) + 1 : 0;
  }
  if (ok) {
    k->ntiles = g.blocks;
    k->columns = g.blocks_y;
    k->threads = g.threads;
    k->scratch_bytes = 0;
  }
  free(log);
  text_fini(&g.out);
  return ok ? MPCC_OK : g.unsupported || !has_compiler ? MPCC_ERR_TARGET : MPCC_ERR_INTERNAL;
}

static void compiler(const char *level, int opt_level, Text *out) {
  (void)opt_level;
  char error[256];
  const Nvrtc *n = nvrtc_open(error);
  text_printf(out, "nvrtc %s %s", n ? nvrtc_version(n) : "none", level);
}

/* Columns of a packed panel are those of a block's tile (product.c). */
static Status caps(const char *level, TargetCaps *out) {
  memset(out, 0, sizeof *out);
  snprintf(out->name, sizeof out->name, "cuda");
  snprintf(out->level, sizeof out->level, "%s", level);
  out->vector_bytes = 16;
  out->panel_cols_f64 = out->panel_cols_f32 = out->panel_cols_bf16 = CUDA_TILE;
  out->k_pair_bf16 = 1;
  out->panel_bytes_rows = 16 << 10;
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
    .compile = compile,
    .compiler = compiler,
};
