/* What a training step on a GPU launches and moves: counted from the commands of the program,
 * nothing is run, no GPU is needed.
 *
 *   build/bench/bench_plan specs/gpt2-124m.yaml bf16-mixed params.batch=32
 *   build/bench/bench_plan --most 20 specs/vit-l-16.yaml transformer-engine
 *
 * --most N: also the N kinds of work that move most, by kind and label. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/traffic.h"
#include "lib/lib.h"
#include "mpcc/abi.h"
#include "mpcc/mpcc.h"

enum { KINDS = 16, LABELS = 4096 };

typedef struct {
  char kind[96];
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

typedef struct {
  Row row[LABELS + 1]; /* the last one: all others */
  int n, most;
} Rows;

static Row *row_of(Rows *r, const char *kind) {
  for (int k = 0; k < r->n; k++)
    if (!strcmp(r->row[k].kind, kind))
      return &r->row[k];
  Row *new = &r->row[r->n < r->most ? r->n++ : r->most];
  snprintf(new->kind, sizeof new->kind, "%s", r->n <= r->most ? kind : "others");
  return new;
}

/* by_label: rows of the table are kinds of work, not kinds of commands. */
static void count(const MpccImage *h, const MpccCommand *c, Rows *rows, bool by_label) {
  const char *strings = part(h, h->strings), *kind = c->op == MPCC_CMD_PRODUCT ? "gemm" : "copy";
  const MpccArgRef *arg = part(h, h->args);
  const MpccKernel *kernel = part(h, h->kernels);
  size_t len = strlen(kind);
  char key[96];
  if (c->op == MPCC_CMD_LAUNCH) { /* symbols are KIND_HASH */
    kind = strings + kernel[c->kernel].symbol;
    len = (size_t)(strrchr(kind, '_') - kind);
  }
  snprintf(key, sizeof key, "%.*s%s%s", (int)len, kind, by_label ? " " : "",
           by_label ? strings + c->label : "");
  Row *r = row_of(rows, key);
  r->launches++;
  arg += c->first_arg;
  r->bytes += command_bytes(c, arg);
  r->flops += command_flops(c, arg);
}

static int by_bytes(const void *a, const void *b) {
  const Row *x = a, *y = b;
  return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : strcmp(x->kind, y->kind);
}

static void count_step(const MpccImage *h, Rows *rows, bool by_label) {
  const MpccFunction *f = part(h, h->functions);
  const MpccCommand *c = part(h, h->commands);
  const char *strings = part(h, h->strings);
  for (uint64_t i = 0; i < h->functions.count; i++)
    for (uint32_t k = 0; !strcmp(strings + f[i].name, "train_step") && k < f[i].ncommands; k++)
      count(h, &c[f[i].first_command + k], rows, by_label);
}

static void print_row(const Row *r) {
  printf("%-16s %8d %8.2f %8.2f\n", r->kind, r->launches, (double)r->bytes * 1e-9,
         r->flops * 1e-12);
}

static void print_step(const MpccImage *h, const char *spec, const char *mode, int most) {
  static Rows rows = {.most = KINDS}, labels = {.most = LABELS};
  Row all = {.kind = "all"};
  count_step(h, &rows, false);
  printf("%s, %s: %llu distinct kernels\n%-16s %8s %8s %8s\n", spec, mode,
         (unsigned long long)h->kernels.count, "kind", "launches", "GB", "TFLOP");
  for (int k = 0; k < rows.n; k++) {
    const Row *r = &rows.row[k];
    print_row(r);
    all.launches += r->launches, all.bytes += r->bytes, all.flops += r->flops;
  }
  print_row(&all);
  if (!most)
    return;
  count_step(h, &labels, true);
  qsort(labels.row, (size_t)labels.n, sizeof *labels.row, by_bytes);
  printf("\n%8s %8s  kind and label\n", "launches", "GB");
  for (int k = 0; k < most && k < labels.n; k++)
    printf("%8d %8.2f  %s\n", labels.row[k].launches, (double)labels.row[k].bytes * 1e-9,
           labels.row[k].kind);
}

int main(int argc, char **argv) {
  const int most = argc > 2 && !strcmp(argv[1], "--most") ? atoi(argv[2]) : 0;
  if (most > 0)
    argv += 2, argc -= 2;
  if (argc < 3) {
    fprintf(stderr, "usage: bench_plan [--most N] SPEC MODE [KEY=VALUE]...\n");
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
    print_step(image, argv[1], argv[2], most);
  mpcc_session_destroy(s);
  free(image);
  free(text);
  return st != MPCC_OK;
}
