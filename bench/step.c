/* One training step, timed on command: loads an image file (mpcc --emit=image) without the
 * compiler, then answers each line N on standard input with the median seconds of N steps. Peak
 * memory is what the process grew by since before the image was loaded.
 *
 *   step IMAGE THREADS [DEVICE [INSTRUMENT]]
 *
 * On a GPU nobody waits between steps: the answer is N steps by N, the device's memory that is
 * taken, and the seconds from the start of the process to the end of the first steps. There a line
 * "kernels N FILE" writes where the time of N more steps goes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/kernels.h"
#include "mpcc/num.h"
#include "mpcc/runtime.h"
#include "runtime/cuda/syms.h"
#include "runtime/instrument.h"

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A line of /proc/self/status in bytes. */
static long status_bytes(const char *key) {
  FILE *f = fopen("/proc/self/status", "r");
  char line[200];
  long kib = 0;
  while (f && fgets(line, sizeof line, f))
    if (!strncmp(line, key, strlen(key)))
      kib = atol(line + strlen(key));
  if (f)
    fclose(f);
  return kib * 1024;
}

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  (void)level;
  fprintf(stderr, "%s\n", text);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Inputs in [0, 1), labels 0..9, every sample real. */
static void fill_inputs(mprt_program *p) {
  unsigned long long r = 1;
  for (int i = 0; i < mprt_tensor_count(p); i++) {
    mprt_tensor t;
    if (!mprt_tensor_at(p, i, &t))
      continue;
    size_t n = t.bytes / dtype_bytes(t.dtype);
    for (size_t k = 0; k < n && !strcmp(t.role, "input"); k++) {
      r = r * 6364136223846793005ull + 1442695040888963407ull;
      double v =
          dtype_is_float(t.dtype) ? (double)(r >> 40) / 0x1p24 : (double)(r >> 33) / 0x1p31 * 10;
      num_store((char *)t.data + k * dtype_bytes(t.dtype), t.dtype, floor(v * 1e6) / 1e6);
    }
    for (size_t k = 0; k < n && !strcmp(t.role, "input") && t.dtype == MPCC_I64; k++)
      ((long long *)t.data)[k] %= 10;
    if (!strcmp(t.role, "valid"))
      *(long long *)t.data = 1 << 20;
  }
}

/* Reads a number that the steps make, which waits for them. */
static void wait_for(mprt_program *p) {
  for (int i = 0; i < mprt_tensor_count(p); i++) {
    mprt_tensor t;
    if (mprt_tensor_at(p, i, &t) && !strcmp(t.role, "metric"))
      return;
  }
}

/* Bytes of the device that are in use, by anybody; 0 when there is no device. */
static double device_bytes(void) {
  mprt__cuda_api cu;
  char why[MPRT__CUDA_WHY];
  CUcontext context = NULL;
  size_t have = 0, total = 0;
  if (mprt__cuda_open(&cu, why) != MPRT__CUDA_READY || cu.cuDevicePrimaryCtxRetain(&context, 0) ||
      cu.cuCtxSetCurrent(context) || cu.cuMemGetInfo_v2(&have, &total))
    return 0;
  return (double)(total - have);
}

/* Answers of a program on a GPU. */
static int answer_gpu(mprt_program *p, double start, double before) {
  char line[1000], path[900];
  while (fgets(line, sizeof line, stdin)) {
    int n = atoi(line);
    if (sscanf(line, "kernels %d %899s", &n, path) == 2) {
      if (kernels_report(p, n, path))
        return 1;
      continue;
    }
    if (n < 1)
      break;
    const double begin = seconds();
    for (int i = 0; i < n; i++)
      if (mprt_train_step(p))
        return 1;
    wait_for(p);
    const double end = seconds();
    printf("%.9f %.0f %.3f\n", (end - begin) / n, device_bytes() - before, end - start);
    fflush(stdout);
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 5) {
    fprintf(stderr, "usage: step IMAGE THREADS [DEVICE [INSTRUMENT]]\n");
    return 2;
  }
  const bool gpu = argc > 3 && strcmp(argv[3], "cpu");
  const double opened = seconds(), taken = gpu ? device_bytes() : 0;
  long before = status_bytes("VmRSS:");
  FILE *f = fopen(argv[1], "rb");
  if (!f)
    return 4;
  fseek(f, 0, SEEK_END);
  size_t bytes = (size_t)ftell(f);
  rewind(f);
  void *image = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!image || fread(image, 1, bytes, f) != bytes)
    return 4;
  fclose(f);
  mprt_options o;
  mprt_options_default(&o);
  o.threads = atoi(argv[2]);
  o.device = argc > 3 ? argv[3] : "cpu";
  o.instrument = argc > 4 ? argv[4] : "";
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p;
  mprt__instrument *watch = NULL;
  if (mprt_open(image, bytes, &o, &cb, &p) || mprt_init(p) || mprt__instrument_create(p, &watch))
    return 1;
  fill_inputs(p);
  if (gpu) {
    const int code = answer_gpu(p, opened, taken);
    mprt_close(p);
    free(image);
    return code;
  }
  char line[100];
  int64_t step = 0;
  double *t = calloc(100000, sizeof *t);
  while (t && fgets(line, sizeof line, stdin)) {
    int n = atoi(line);
    if (n < 1 || n > 100000)
      break;
    for (int i = 0; i < n; i++) {
      double start = seconds();
      if (watch ? mprt__instrument_run(watch, p, mprt__function(p, "train_step"), ++step)
                : mprt_train_step(p))
        return 1;
      t[i] = seconds() - start;
    }
    qsort(t, (size_t)n, sizeof *t, compare);
    printf("%.9f %ld\n", t[n / 2], status_bytes("VmHWM:") - before);
    fflush(stdout);
  }
  free(t);
  mprt__instrument_destroy(watch);
  mprt_close(p);
  free(image);
  return 0;
}
