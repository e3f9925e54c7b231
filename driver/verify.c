/* `mpcc verify`: lends the library the runtime, so that kernels really run. */
#include "driver/verify.h"

#include <stdio.h>
#include <stdlib.h>

#include "driver/exit.h"
#include "mpcc/runtime.h"

typedef struct {
  mprt_program *program;
  int n, bad;
} Verify;

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level != MPRT_LOG_INFO)
    fprintf(stderr, "mpcc: %s\n", text);
}

static mpcc_status run_kernel(void *user, const char *symbol, const MpccArg *args,
                              const uint64_t *bytes, int n, int nout) {
  Verify *v = user;
  return mprt_run_kernel(v->program, symbol, args, bytes, n, nout);
}

static void on_verdict(void *user, const mpcc_verdict *k) {
  Verify *v = user;
  v->n++;
  v->bad += !k->ok;
  printf("%s  %-14s error %.3f of its bound  %s  %s\n", k->ok ? "ok  " : "FAIL", k->kind, k->error,
         k->label, k->layer);
  if (!k->ok && v->bad == 1)
    printf("      first deviation: %s, %s%s\n", k->place,
           *k->symbol ? "kernel " : "product by the library", k->symbol);
}

int verify_spec(mpcc_session *s, const char *device, const char *path, const char *text,
                size_t len) {
  Verify v = {0};
  void *image = NULL;
  size_t bytes = 0;
  mpcc_status st = mpcc_compile(s, path, text, len, MPCC_OUT_IMAGE, &image, &bytes);
  if (st == MPCC_OK) {
    mprt_options o;
    mprt_options_default(&o);
    o.device = device;
    mprt_callbacks cb = {.log = on_log};
    st = mprt_open(image, bytes, &o, &cb, &v.program);
  }
  mpcc_executor x = {run_kernel, on_verdict, &v};
  if (st == MPCC_OK)
    st = mpcc_verify(s, path, text, len, &x);
  if (st == MPCC_OK || v.bad)
    printf("%d kernels, %d deviate\n", v.n, v.bad);
  mprt_close(v.program);
  free(image);
  return exit_code(st);
}
