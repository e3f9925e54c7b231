#include "bench/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/traffic.h"
#include "runtime/cuda/syms.h"
#include "runtime/rt.h"

enum { COPIES = 8, GOAL = 80 }; /* percent of a copy, of kernels that memory bounds */

/* Commands of one kernel or one shape of product. */
typedef struct {
  char name[96], kind[24];
  const char *label;
  int launches;
  double seconds, bytes, flops;
} Row;

/* Bytes a second, read and written, of a copy that no cache holds; 0 when there is no device. */
static double copy_rate(void) {
  mprt__cuda_api cu;
  char why[MPRT__CUDA_WHY];
  CUcontext context = NULL;
  CUdeviceptr from = 0, to = 0;
  CUevent begin = NULL, end = NULL;
  size_t rest = 0, all = 0;
  float ms = 0, best = 0;
  if (mprt__cuda_open(&cu, why) != MPRT__CUDA_READY || cu.cuDevicePrimaryCtxRetain(&context, 0) ||
      cu.cuCtxSetCurrent(context) || cu.cuMemGetInfo_v2(&rest, &all))
    return 0;
  size_t bytes = 2ull << 30;
  while (bytes > rest / 64)
    bytes /= 2;
  bool ok = !cu.cuMemAlloc_v2(&from, bytes) && !cu.cuMemAlloc_v2(&to, bytes) &&
            !cu.cuEventCreate(&begin, 0) && !cu.cuEventCreate(&end, 0) &&
            !cu.cuMemsetD8Async(from, 1, bytes, NULL);
  for (int i = 0; ok && i < COPIES; i++) {
    ok = !cu.cuEventRecord(begin, NULL) && !cu.cuMemcpyDtoDAsync_v2(to, from, bytes, NULL) &&
         !cu.cuEventRecord(end, NULL) && !cu.cuEventSynchronize(end) &&
         !cu.cuEventElapsedTime_v2(&ms, begin, end);
    best = i && ms > 0 && (best == 0 || ms < best) ? ms : best;
  }
  if (from)
    cu.cuMemFree_v2(from);
  if (to)
    cu.cuMemFree_v2(to);
  if (begin)
    cu.cuEventDestroy_v2(begin);
  if (end)
    cu.cuEventDestroy_v2(end);
  return ok && best > 0 ? 2e3 * (double)bytes / (double)best : 0;
}

static void name_row(const mprt_program *p, const MpccCommand *c, const MpccArgRef *arg, Row *r) {
  *r = (Row){.label = mprt__string(p, c->label)};
  if (c->op == MPCC_CMD_LAUNCH) { /* symbols are KIND_HASH */
    const char *symbol = mprt__string(p, p->kernel[c->kernel].symbol), *end = strrchr(symbol, '_');
    snprintf(r->name, sizeof r->name, "%s", symbol);
    snprintf(r->kind, sizeof r->kind, "%.*s", (int)(end ? end - symbol : 20), symbol);
    return;
  }
  const bool product = c->op == MPCC_CMD_PRODUCT;
  snprintf(r->kind, sizeof r->kind, "%s", product ? "gemm" : "copy");
  if (!product) {
    snprintf(r->name, sizeof r->name, "copy or fill");
    return;
  }
  MpccProduct m;
  int64_t ints[MPCC_PRODUCT_INTS];
  for (uint32_t i = 0; i < MPCC_PRODUCT_INTS; i++)
    ints[i] = arg[c->nargs - MPCC_PRODUCT_INTS + i].offset;
  memcpy(&m, ints, sizeof m);
  snprintf(r->name, sizeof r->name, "%lldx%lldx%lld %s%s %s%s to %s", (long long)m.rows,
           (long long)m.k, (long long)m.cols, dtype_text((DType)m.a_dtype), m.a_k == 1 ? "" : "^T",
           dtype_text((DType)m.b_dtype), m.b_col == 1 ? "" : "^T", dtype_text((DType)m.d_dtype));
}

static int slower(const void *a, const void *b) {
  const double x = ((const Row *)a)->seconds, y = ((const Row *)b)->seconds;
  return (x < y) - (x > y);
}

static int gather(const mprt_program *p, const double *seconds, int steps, Row *row) {
  int n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    const MpccArgRef *arg = &p->argref[c->first_arg];
    Row new;
    int k = 0;
    if (seconds[i] <= 0)
      continue; /* of another function */
    name_row(p, c, arg, &new);
    while (k < n && strcmp(row[k].name, new.name))
      k++;
    if (k == n)
      row[n++] = new;
    row[k].launches++;
    row[k].seconds += seconds[i] / steps;
    row[k].bytes += (double)command_bytes(c, arg);
    row[k].flops += command_flops(c, arg);
  }
  qsort(row, (size_t)n, sizeof *row, slower);
  return n;
}

static void print_row(FILE *f, const Row *r, double total, double copy) {
  const double rate = r->seconds > 0 ? r->bytes / r->seconds : 0;
  fprintf(f, "%9.3f %5.1f%% %6d %8.3f %7.0f %5.0f%% %8.1f  %s  %s\n", 1e3 * r->seconds,
          100 * r->seconds / total, r->launches, 1e-9 * r->bytes, 1e-9 * rate,
          copy > 0 ? 100 * rate / copy : 0, r->seconds > 0 ? 1e-12 * r->flops / r->seconds : 0,
          r->name, r->label);
}

/* Kinds, then one line: how much of the time each kind has, and of rows kernels how much is below
 * the goal. */
static void print_kinds(FILE *f, const Row *row, int n, double total, double copy) {
  Row kind[32];
  int kinds = 0;
  double rows = 0, slow = 0;
  for (int i = 0; i < n; i++) {
    int k = 0;
    while (k < kinds && strcmp(kind[k].name, row[i].kind))
      k++;
    if (k == 32)
      continue;
    if (k == kinds) {
      kind[kinds++] = (Row){.label = ""};
      snprintf(kind[k].name, sizeof kind[k].name, "%s", row[i].kind);
    }
    kind[k].launches += row[i].launches;
    kind[k].seconds += row[i].seconds, kind[k].bytes += row[i].bytes, kind[k].flops += row[i].flops;
    if (!strcmp(row[i].kind, "rows")) {
      rows += row[i].seconds;
      slow += row[i].bytes < GOAL * 0.01 * copy * row[i].seconds ? row[i].seconds : 0;
    }
  }
  fprintf(f, "\n");
  qsort(kind, (size_t)kinds, sizeof *kind, slower);
  for (int k = 0; k < kinds; k++)
    print_row(f, &kind[k], total, copy);
  fprintf(f, "kernels %.3f ms, a copy moves %.0f GB/s:", 1e3 * total, 1e-9 * copy);
  for (int k = 0; k < kinds && k < 6; k++) {
    fprintf(f, " %s %.3f ms", kind[k].name, 1e3 * kind[k].seconds);
    if (kind[k].flops > 0)
      fprintf(f, " (%.0f TFLOP/s)", 1e-12 * kind[k].flops / kind[k].seconds);
    else if (copy > 0)
      fprintf(f, " (%.0f%% of a copy)", 100 * kind[k].bytes / kind[k].seconds / copy);
    fprintf(f, k + 1 < kinds && k < 5 ? "," : ";");
  }
  fprintf(f, " %.0f%% of the time of rows kernels in those below %d%%\n",
          rows > 0 ? 100 * slow / rows : 0, GOAL);
}

int kernels_report(mprt_program *p, int steps, const char *path) {
  const MpccFunction *step = mprt__function(p, "train_step");
  double *seconds = calloc((size_t)p->ncommand + 1, sizeof *seconds);
  Row *row = calloc((size_t)p->ncommand + 1, sizeof *row);
  FILE *f = fopen(path, "w");
  Status s = seconds && row && step ? MPCC_OK : MPCC_ERR_NOMEM;
  for (int i = 0; s == MPCC_OK && i <= steps; i++) {
    if (i == 1) /* the first warms up */
      memset(seconds, 0, (p->ncommand + 1) * sizeof *seconds);
    s = mprt__run_timed(p, step, NULL, NULL, seconds);
  }
  if (s == MPCC_OK && f) {
    const double copy = copy_rate();
    const int n = gather(p, seconds, steps > 0 ? steps : 1, row);
    double total = 0;
    for (int i = 0; i < n; i++)
      total += row[i].seconds;
    fprintf(f, "%9s %6s %6s %8s %7s %6s %8s  kernel\n", "ms", "share", "runs", "GB", "GB/s", "copy",
            "TFLOP/s");
    for (int i = 0; i < n; i++)
      print_row(f, &row[i], total, copy);
    print_kinds(f, row, n, total, copy);
  }
  const bool ok = f && !fclose(f) && s == MPCC_OK;
  free(seconds);
  free(row);
  return ok ? 0 : 1;
}
