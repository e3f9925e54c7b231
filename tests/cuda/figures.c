/* What -Xptxas -v says of the kernels of whole models: nothing is kept in memory for want of
 * registers, and registers leave room for enough threads. Needs NVRTC, no GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "codegen/cuda/nvrtc.h"
#include "lib/lib.h"
#include "mpcc/mpcc.h"
#include "tests/check_run.h"

static const struct {
  const char *spec, *mode, *set;
} cases[] = {
    {"tests/cuda/vit.yaml", "transformer-engine"},
    {"tests/cli/cnn.yaml", "64-true"},
    {"tests/cli/cnn.yaml", "bf16-mixed"},
    {"specs/smoke/gpt2-nano.yaml", "16-mixed"},
    {"specs/fashion-resnet.yaml", "32-true", "precision.float32_conv=high"},
};

/* Registers of a thread, by kind. A multiprocessor has 65536: at 64 a thread 1024 threads are
 * resident, half of the most there can be, which hides the latency of kernels bound by memory;
 * kernels bound by arithmetic do with 256 threads (16 KiB registers each: 255 is the most a thread
 * can have). */
static int budget(const char *kind) {
  static const char *const arithmetic[] = {"product", "conv", "attention", "attention_grad"};
  for (size_t i = 0; i < sizeof arithmetic / sizeof *arithmetic; i++)
    if (!strcmp(kind, arithmetic[i]))
      return 255;
  return 64;
}

static void on_message(void *user, const mpcc_message *m) {
  (void)user;
  fprintf(stderr, "%s\n", m->text);
}

START_TEST(no_spills) {
  char path[400], *text;
  size_t len, bytes;
  snprintf(path, sizeof path, SOURCE_DIR "/%s", cases[_i].spec);
  ck_assert_int_eq(lib_read_file(path, &text, &len), MPCC_OK);
  const char *const target[] = {"cuda"}, *const arch[] = {"sm_90"};
  const char *const warning[] = {"no-fp8-fallback"};
  const mpcc_options o = {.target = target,
                          .ntarget = 1,
                          .arch = arch,
                          .narch = 1,
                          .warning = warning,
                          .nwarning = 1,
                          .set = &cases[_i].set,
                          .nset = cases[_i].set != NULL};
  const mpcc_callbacks cb = {.message = on_message};
  mpcc_session *s = mpcc_session_create(&o, &cb);
  Compilation c;
  KernelTable t = {0};
  ck_assert_int_eq(compilation_begin_mode(&c, s, cases[_i].mode), MPCC_OK);
  ck_assert_int_eq(compilation_front(&c, path, text, len), MPCC_OK);
  ck_assert_int_eq(compilation_plan(&c, &t), MPCC_OK);
  void *object = NULL;
  ck_assert_int_eq(codegen_emit(&target_cuda, "sm_90", t.kernel, t.n, 2, 2, NULL, "object", c.diag,
                                &object, &bytes),
                   MPCC_OK);
  int most = 0, bad = 0;
  const char *of = "";
  for (int i = 0; i < t.n; i++) {
    const Kernel *k = &t.kernel[i];
    const char *label = op_str(k->group, "label", ""), *kind = op_str(k->group, "kind", "");
    ck_assert_msg(k->registers > 0, "%s (%s): no figures", k->symbol, label);
    if (k->spill_bytes || k->registers > budget(kind) || k->registers * k->threads > 65536) {
      printf("%s (%s): %d registers, %d threads, %d bytes in memory\n", k->symbol, label,
             k->registers, k->threads, k->spill_bytes);
      bad++;
    }
    if (k->registers > most)
      most = k->registers, of = label;
  }
  printf("%s %s: %d kernels, most registers %d (%s)\n", cases[_i].spec, cases[_i].mode, t.n, most,
         of);
  ck_assert_int_eq(bad, 0);
  free(object);
  compilation_end(&c, s, MPCC_OK);
  mpcc_session_destroy(s);
  free(text);
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

int main(void) {
  char why[256];
  Suite *s = suite_create("figures of kernels");
  TCase *t = tcase_create("log");
  tcase_add_test(t, reads_the_log);
  if (nvrtc_open(why)) {
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, no_spills, 0, (int)(sizeof cases / sizeof *cases));
  } else {
    printf("kernels of models not checked: %s\n", why);
  }
  suite_add_tcase(s, t);
  return check_run(s);
}
