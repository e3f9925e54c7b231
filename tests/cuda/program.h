/* Programs that the tests of this folder make and feed. */
#ifndef TESTS_CUDA_PROGRAM_H
#define TESTS_CUDA_PROGRAM_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/nvrtc.h"
#include "mpcc/mpcc.h"
#include "mpcc/num.h"
#include "runtime/fit.h"
#include "tests/check_run.h"

/* The end of a main: runs `test` for 0..n - 1; 77, "not run", where there is no NVRTC. */
static inline int run_cases(const char *name, const TTest *test, int n) {
  char why[256];
  if (!nvrtc_open(why)) {
    printf("not run: %s\n", why);
    return 77;
  }
  Suite *s = suite_create(name);
  TCase *t = tcase_create("cases");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, test, 0, n);
  suite_add_tcase(s, t);
  return check_run(s);
}

static inline void on_message(void *user, const mpcc_message *m) {
  (void)user;
  fprintf(stderr, "%s\n", m->text);
}

static inline void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level != MPRT_LOG_INFO)
    fprintf(stderr, "%s\n", text);
}

/* Image of a spec of the source tree for a GPU of generation `gpu`, and for the CPU too; own:
 * products by kernels of its own, fused as on the CPU; set: as --set has it, NULL: none. malloc'ed.
 */
static inline void *compile_for(const char *gpu, const char *spec, const char *mode,
                                const char *set, bool cpu, bool own, size_t *bytes) {
  char path[400];
  snprintf(path, sizeof path, SOURCE_DIR "/%s", spec);
  FILE *f = fopen(path, "rb");
  ck_assert(f != NULL);
  static char text[1 << 16];
  size_t len = fread(text, 1, sizeof text - 1, f);
  text[len] = 0;
  fclose(f);
  const char *const target[] = {"cuda", "cpu"}, *const arch[] = {gpu};
  const char *const level[] = {"x86-64-v3"};
  const char *const warning[] = {"no-fp8-fallback", "no-fp8-padding", "no-constant-underflow"};
  mpcc_options o = {.precision = mode,
                    .target = target,
                    .ntarget = cpu ? 2 : 1,
                    .arch = arch,
                    .narch = 1,
                    .own_products = own,
                    .set = &set,
                    .nset = set ? 1 : 0,
                    .level = level,
                    .nlevel = 1,
                    .warning = warning,
                    .nwarning = 3};
  mpcc_callbacks cb = {.message = on_message};
  mpcc_session *s = mpcc_session_create(&o, &cb);
  void *image = NULL;
  ck_assert_int_eq(mpcc_compile(s, path, text, len, MPCC_OUT_IMAGE, &image, bytes), MPCC_OK);
  mpcc_session_destroy(s);
  return image;
}

static inline void *compile_spec(const char *spec, const char *mode, bool cpu, size_t *bytes) {
  return compile_for("sm_90", spec, mode, NULL, cpu, false, bytes);
}

/* Random inputs: the same for the same seed. */
static inline void feed(mprt_program *p, uint64_t seed) {
  uint64_t state = 88172645463325252u + seed * 0x9e3779b97f4a7c15u;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    if (t->role != ROLE_INPUT && t->role != ROLE_VALID)
      continue;
    const DType d = (DType)t->dtype;
    const size_t size = dtype_bytes(d);
    uint8_t *to = mprt__tensor_data(p, i);
    const int64_t batch = p->tensor[mprt__tensor_of_role(p, ROLE_INPUT)].dim[0];
    for (size_t k = 0; k < t->bytes / size; k++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      const double u = (double)(state >> 11) * 0x1p-53;
      num_store(to + k * size, d,
                t->role == ROLE_VALID ? (double)batch
                : d == MPCC_I64       ? floor(10 * u)
                                      : 4 * u - 2);
    }
  }
}

/* A program with first values and a batch. eager: on a GPU, every command by itself. */
static inline mprt_program *open_on(const void *image, size_t bytes, const char *device,
                                    bool eager) {
  mprt_options o;
  mprt_options_default(&o);
  o.device = device;
  o.threads = 1;
  o.plan_mode = eager;
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p = NULL;
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  mprt__schedule_fill(p, 0, 100, 100);
  feed(p, 0);
  return p;
}

#endif
