/* What -Xptxas -v says of the kernels of every model in specs/, on sm_80 and sm_90: nothing is kept
 * in memory for want of registers, and registers leave room for enough threads. Needs NVRTC, no
 * GPU. Objects are kept in a cache in the build folder, so only what changed is compiled again.
 *
 *   cuda_figures            a kernel of each form (form_of) in bf16-mixed and transformer-engine
 *   cuda_figures MODE...    every kernel in these modes; `all`: in all (half an hour) */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "codegen/cuda/nvrtc.h"
#include "lib/lib.h"
#include "mpcc/hash.h"
#include "mpcc/mpcc.h"
#include "tests/check_run.h"

enum { CASES = 400, KERNELS = 40000, JOBS = 2 };

static const char *const usual[] = {"bf16-mixed", "transformer-engine"};
static const char *const all[] = {"64-true",
                                  "32-true",
                                  "16-mixed",
                                  "bf16-mixed",
                                  "16-true",
                                  "bf16-true",
                                  "transformer-engine", //
                                  "transformer-engine-float16"};
static const char *const *modes = usual;
static int nmodes = sizeof usual / sizeof *usual;
static bool every; /* kernel, not one of each form */

static const char *const levels[] = {"sm_80", "sm_90"};

typedef struct {
  const char *spec, *mode, *set;
} Case;
/* What the models of specs/ do not show in the usual modes. */
static const Case more[] = {
    {"tests/cuda/vit.yaml", "transformer-engine"},
    {"specs/gpt2-nano.yaml", "transformer-engine", "precision.recipe.fp8_dpa=true"},
    {"tests/cli/cnn.yaml", "64-true"},
    {"specs/gpt2-nano.yaml", "16-mixed"},
    {"specs/fashion-resnet.yaml", "32-true", "precision.float32_conv=high"},
};

/* Registers of a thread, by kind. A multiprocessor has 65536: at 64 a thread 1024 threads are
 * resident, half of the most there can be, which hides the latency of kernels bound by memory;
 * kernels bound by arithmetic do with 256 threads (16 KiB registers each: 255 is the most a thread
 * can have). An f64 is two registers, and 512 threads have as many bytes of them under way. */
static int budget(const Op *op) {
  static const char *const arithmetic[] = {"product", "conv", "attention", "attention_grad"};
  const char *kind = op_str(op, "kind", "");
  bool wide = false;
  for (size_t i = 0; i < sizeof arithmetic / sizeof *arithmetic; i++)
    if (!strcmp(kind, arithmetic[i]))
      return 255;
  for (int i = 0; i < op->nin; i++)
    wide = wide || op->in[i]->type->dt == MPCC_F64;
  for (int i = 0; i < op->nout; i++)
    wide = wide || op->out[i]->type->dt == MPCC_F64;
  return wide ? 128 : 64;
}

static void on_message(void *user, const mpcc_message *m) {
  (void)user;
  fprintf(stderr, "%s\n", m->text);
}

/* ---- the kernels ----------------------------------------------------------------------------- */

/* Groups live as long as the compilation they come from. */
typedef struct {
  Compilation c;
  mpcc_session *s;
  char *text;
} Planned;
static Planned planned[CASES];
static int nplanned;
static Kernel kernel[KERNELS];
static uint64_t form[KERNELS];
static int nkernel;

static void add_access(MpccHash *h, const Access *a, int ndim, const Value *v) {
  char step[MAX_DIMS];
  for (int k = 0; k < ndim; k++)
    step[k] = (char)(a->stride[k] == 0 ? 0 : a->stride[k] == 1 ? 1 : 2);
  mpcc_hash_add(h, &v->type->dt, sizeof v->type->dt);
  mpcc_hash_add(h, step, (size_t)ndim);
}

/* Kernels of one form differ in extents and constants, hence in trip counts and in the width of
 * vectors, but not in what they keep. */
static uint64_t form_of(const Op *op) {
  const Body *b = op->body;
  const char *kind = op_str(op, "kind", "");
  const int sizes[] = {b->ndim, b->ncol, b->nparam, op->nin, op->nout, b->nstmt};
  MpccHash h;
  uint64_t hash[2];
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, kind, strlen(kind));
  mpcc_hash_add(&h, sizes, sizeof sizes);
  for (int i = 0; i < op->nin; i++)
    add_access(&h, &b->in[i], b->ndim, op->in[i]);
  for (int i = 0; i < op->nout; i++)
    add_access(&h, &b->out[i], b->ndim, op->out[i]);
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    const int words[] = {s->prim,   s->level,  s->dt,     s->rd, s->arg[0],
                         s->arg[1], s->arg[2], s->arg[3], s->ref};
    mpcc_hash_add(&h, words, sizeof words);
  }
  mpcc_hash_finish(&h, hash);
  return hash[0];
}

/* Kernels of one text are one, whatever their groups are called. */
static uint64_t text_of(const char *level, const Kernel *of) {
  Kernel k = *of;
  char error[256];
  void *text = NULL;
  size_t bytes = 0;
  uint64_t hash[2] = {of->hash};
  int at = 0;
  k.symbol = "kernel";
  if (target_cuda.compile(level, &k, 1, 2, "cuda", error, &at, &text, &bytes) == MPCC_OK) {
    MpccHash h;
    mpcc_hash_init(&h);
    mpcc_hash_add(&h, text, bytes);
    mpcc_hash_finish(&h, hash);
  }
  free(text);
  return hash[0];
}

static void add_kernels(const char *level, const KernelTable *t) {
  for (int i = 0; i < t->n; i++) {
    const uint64_t f = every ? text_of(level, &t->kernel[i]) : form_of(t->kernel[i].group);
    bool known = false;
    for (int k = 0; !known && k < nkernel; k++)
      known = form[k] == f;
    ck_assert_int_lt(nkernel, KERNELS);
    if (!known) {
      form[nkernel] = f;
      kernel[nkernel++] = t->kernel[i];
    }
  }
}

static void plan(const char *level, const Case *of) {
  char path[400];
  size_t len;
  ck_assert_int_lt(nplanned, CASES);
  Planned *x = &planned[nplanned++];
  snprintf(path, sizeof path, SOURCE_DIR "/%s", of->spec);
  ck_assert_int_eq(lib_read_file(path, &x->text, &len), MPCC_OK);
  const char *const target[] = {"cuda"}, *const arch[] = {level};
  const char *const warning[] = {"no-fp8-fallback", "no-fp8-padding", "no-constant-underflow"};
  const mpcc_options o = {.target = target,
                          .ntarget = 1,
                          .arch = arch,
                          .narch = 1,
                          .warning = warning,
                          .nwarning = 3,
                          .set = &of->set,
                          .nset = of->set != NULL};
  const mpcc_callbacks cb = {.message = on_message};
  KernelTable t = {0};
  x->s = mpcc_session_create(&o, &cb);
  ck_assert_int_eq(compilation_begin_mode(&x->c, x->s, of->mode), MPCC_OK);
  const Status s = compilation_front(&x->c, path, x->text, len);
  if (every && s == MPCC_ERR_INPUT) { /* complex numbers, say, in a mode that has none */
    printf("%s: not in %s\n", of->spec, of->mode);
    return;
  }
  ck_assert_int_eq(s, MPCC_OK);
  ck_assert_int_eq(compilation_plan(&x->c, &t), MPCC_OK);
  add_kernels(level, &t);
}

static int is_spec(const struct dirent *e) {
  const char *dot = strrchr(e->d_name, '.');
  return dot && !strcmp(dot, ".yaml");
}

static void plan_all(const char *level) {
  struct dirent **spec;
  const int n = scandir(SOURCE_DIR "/specs", &spec, is_spec, alphasort);
  ck_assert_int_gt(n, 0);
  for (int i = 0; i < n; i++) {
    char path[300];
    snprintf(path, sizeof path, "specs/%s", spec[i]->d_name);
    for (int m = 0; m < nmodes; m++)
      plan(level, &(Case){path, modes[m], NULL});
    free(spec[i]);
  }
  free(spec);
  for (size_t i = 0; i < sizeof more / sizeof *more; i++)
    plan(level, &more[i]);
}

static void close_all(void) {
  for (int i = 0; i < nplanned; i++) {
    compilation_end(&planned[i].c, planned[i].s, MPCC_OK);
    mpcc_session_destroy(planned[i].s);
    free(planned[i].text);
  }
  nplanned = nkernel = 0;
}

START_TEST(no_spills) {
  const char *level = levels[_i];
  void *object = NULL;
  size_t bytes;
  plan_all(level);
  const EmitOpts o = {&target_cuda, level, "object", 2, JOBS, BINARY_DIR "/tests/cuda/figures"};
  ck_assert_int_eq(codegen_emit(&o, kernel, nkernel, planned[0].c.diag, &object, &bytes), MPCC_OK);
  int most = 0, bad = 0;
  const char *of = "";
  for (int i = 0; i < nkernel; i++) {
    const Kernel *k = &kernel[i];
    const char *label = op_str(k->group, "label", "");
    ck_assert_msg(k->registers > 0, "%s (%s): no figures", k->symbol, label);
    const bool wide = k->registers > budget(k->group);
    if (k->spill_bytes || wide || k->registers * k->threads > 65536) {
      printf("%s %s (%s): %d registers, %d threads, %d bytes in memory\n", level, k->symbol, label,
             k->registers, k->threads, k->spill_bytes);
      bad++;
    }
    if (k->registers > most)
      most = k->registers, of = label;
  }
  printf("%s: %d kernels, most registers %d (%s)\n", level, nkernel, most, of);
  fflush(stdout);
  ck_assert_int_eq(bad, 0);
  free(object);
  close_all();
}
END_TEST

START_TEST(reads_the_log) {
  static const char log[] =
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'a' for 'sm_90'\n"
      "ptxas info    : Function properties for a\n"
      "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 12 registers, used 1 barriers, 396 bytes cmem[0]\n"
      "ptxas info    : Compiling entry function 'b' for 'sm_90'\n"
      "ptxas info    : Function properties for b\n"
      "ptxas         .     8 bytes stack frame, 24 bytes spill stores, 24 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 1 barriers\n";
  int registers = 0, spill = -1;
  ck_assert(nvrtc_figures(log, "a", &registers, &spill));
  ck_assert_int_eq(registers, 12);
  ck_assert_int_eq(spill, 0);
  ck_assert(nvrtc_figures(log, "b", &registers, &spill));
  ck_assert_int_eq(registers, 255);
  ck_assert_int_eq(spill, 24);
  ck_assert(!nvrtc_figures(log, "c", &registers, &spill));
  ck_assert(!nvrtc_figures("", "a", &registers, &spill));
}
END_TEST

int main(int argc, char **argv) {
  char why[256];
  if (argc > 1) {
    every = true;
    const bool whole = !strcmp(argv[1], "all");
    modes = whole ? all : (const char *const *)argv + 1;
    nmodes = whole ? (int)(sizeof all / sizeof *all) : argc - 1;
  }
  Suite *s = suite_create("figures of kernels");
  TCase *t = tcase_create("log");
  tcase_add_test(t, reads_the_log);
  if (nvrtc_open(why)) {
    tcase_set_timeout(t, every ? 3600 : 500);
    tcase_add_loop_test(t, no_spills, 0, (int)(sizeof levels / sizeof *levels));
  } else {
    printf("kernels of models not checked: %s\n", why);
  }
  suite_add_tcase(s, t);
  return check_run(s);
}
