/* What a training step on a GPU launches and moves: counted from the commands of the program,
 * nothing is run, no GPU is needed.
 *
 *   build/bench/bench_plan specs/gpt2-124m.yaml bf16-mixed params.batch=32
 *
 * Bytes: every argument of a command once, which is the least it can move when nothing is in a
 * cache; an argument counts from where it begins to the end of its value. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/lib.h"
#include "mpcc/abi.h"
#include "mpcc/mpcc.h"

enum { KINDS = 16 };

typedef struct {
  char kind[32];
  int launches;
  uint64_t bytes;
  double flops;
} Row;

static void on_message(void *user, const mpcc_message *m) {
  (void)user;
  fprintf(stderr, "%s\n", m->text);
}

static const void *part(const MpccImage *h, MpccSpan s) {
  return (const char *)h + s.offset;
}

static Row *row_of(Row *row, int *n, const char *kind, size_t len) {
  for (int k = 0; k < *n; k++)
    if (strlen(row[k].kind) == len && !strncmp(row[k].kind, kind, len))
      return &row[k];
  snprintf(row[*n].kind, sizeof row[*n].kind, "%.*s", (int)len, kind);
  return &row[(*n)++];
}

static void count(const MpccImage *h, const MpccCommand *c, Row *row, int *n) {
  const char *strings = part(h, h->strings), *kind = c->op == MPCC_CMD_PRODUCT ? "gemm" : "copy";
  const MpccArgRef *arg = part(h, h->args);
  const MpccKernel *kernel = part(h, h->kernels);
  size_t len = strlen(kind);
  if (c->op == MPCC_CMD_LAUNCH) { /* symbols are KIND_HASH */
    kind = strings + kernel[c->kernel].symbol;
    len = (size_t)(strrchr(kind, '_') - kind);
  }
  Row *r = row_of(row, n, kind, len);
  r->launches++;
  arg += c->first_arg;
  for (uint32_t i = 0; i < c->nargs; i++)
    r->bytes += arg[i].segment == MPCC_ARG_INT                          ? 0
                : c->op == MPCC_CMD_LAUNCH || c->op == MPCC_CMD_PRODUCT ? arg[i].bytes
                                                                        : c->bytes;
  if (c->op == MPCC_CMD_PRODUCT) { /* rows, cols, k behind `with` */
    const MpccArgRef *ints = arg + c->nargs - MPCC_PRODUCT_INTS;
    r->flops += 2.0 * (double)ints[1].offset * (double)ints[2].offset * (double)ints[3].offset;
  }
}

static void print_step(const MpccImage *h, const char *spec, const char *mode) {
  const MpccFunction *f = part(h, h->functions);
  const MpccCommand *c = part(h, h->commands);
  const char *strings = part(h, h->strings);
  Row row[KINDS + 1] = {{.kind = ""}}, all = {.kind = "all"};
  int n = 0;
  for (uint64_t i = 0; i < h->functions.count; i++)
    for (uint32_t k = 0; !strcmp(strings + f[i].name, "train_step") && k < f[i].ncommands; k++)
      count(h, &c[f[i].first_command + k], row, &n);
  printf("%s, %s: %llu distinct kernels\n%-16s %8s %8s %8s\n", spec, mode,
         (unsigned long long)h->kernels.count, "kind", "launches", "GB", "TFLOP");
  for (int k = 0; k <= n; k++) {
    const Row *r = k < n ? &row[k] : &all;
    printf("%-16s %8d %8.2f %8.2f\n", r->kind, r->launches, (double)r->bytes * 1e-9,
           r->flops * 1e-12);
    all.launches += r->launches, all.bytes += r->bytes, all.flops += r->flops;
  }
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: bench_plan SPEC MODE [KEY=VALUE]...\n");
    return 2;
  }
  const char *const target[] = {"cuda"}, *const arch[] = {"sm_90"};
  const char *const warning[] = {"no-fp8-fallback"};
  const mpcc_options o = {.precision = argv[2],
                          .target = target,
                          .ntarget = 1,
                          .arch = arch,
                          .narch = 1,
                          .warning = warning,
                          .nwarning = 1,
                          .set = (const char *const *)(argv + 3),
                          .nset = argc - 3};
  const mpcc_callbacks cb = {.message = on_message};
  mpcc_session *s = mpcc_session_create(&o, &cb);
  char *text = NULL;
  void *image = NULL;
  size_t len, bytes;
  Status st = lib_read_file(argv[1], &text, &len);
  if (st == MPCC_OK && s)
    st = mpcc_compile(s, argv[1], text, len, MPCC_OUT_IMAGE, &image, &bytes);
  if (st == MPCC_OK)
    print_step(image, argv[1], argv[2]);
  mpcc_session_destroy(s);
  free(image);
  free(text);
  return st != MPCC_OK;
}
