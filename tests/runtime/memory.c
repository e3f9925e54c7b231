/* Every allocation in turn fails: the call says so, nothing leaks, and the next try works. */
#include <unistd.h>

#include "tests/check_run.h"
#include "tests/runtime/image.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
int main(void) {
  puts("skipped: sanitizers own malloc; their builds check leaks in the other tests");
  return 0;
}
#else

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

static long fail_in; /* the fail_in-th allocation from now fails; 0: none */
static long live;    /* blocks not freed */

static bool fails(void) {
  return fail_in > 0 && --fail_in == 0;
}
static void *count(void *p) {
  live += p != NULL;
  return p;
}
void *malloc(size_t n) {
  return fails() ? NULL : count(__libc_malloc(n));
}
void *calloc(size_t n, size_t m) {
  return fails() ? NULL : count(__libc_calloc(n, m));
}
void *aligned_alloc(size_t align, size_t n) {
  return fails() ? NULL : count(__libc_memalign(align, n));
}
void *realloc(void *p, size_t n) {
  if (fails())
    return NULL;
  void *q = __libc_realloc(p, n);
  live += !p && q;
  return q;
}
void free(void *p) {
  live -= p != NULL;
  __libc_free(p);
}

static char dir[40], step[80], file[80];
static void *kernels, *image;
static size_t kernels_bytes, image_bytes;
static int errors;

/* Nothing allocated while counting. */
static void count_errors(void *user, mprt_log_level level, const char *text) {
  (void)user;
  (void)text;
  errors += level == MPRT_LOG_ERROR;
}
static const mprt_callbacks callbacks = {.log = count_errors};

static void setup(void) {
  strcpy(dir, "/tmp/mpcc-me-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  snprintf(step, sizeof step, "%s/step-00000001", dir);
  snprintf(file, sizeof file, "%s/w.safetensors", dir);
  kernels = ti_kernels(&kernels_bytes);
  LrOptions o = {.k = LR_K,
                 .kernels = kernels,
                 .kernels_bytes = kernels_bytes,
                 .meta = "{\"name\": \"line\", \"spec\": {\"checkpoint\": {\"save_dtype\": "
                         "\"bfloat16\"}}}"};
  image = lr_image(&o, &image_bytes);
}

static void teardown(void) {
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  ck_assert_int_eq(system(command), 0);
  free(kernels);
  free(image);
}

static mpcc_status open_it(mprt_program **p, bool plan_mode) {
  static const char *const data[] = {"train=a", "val=b"};
  mprt_options o;
  mprt_options_default(&o);
  o.threads = 1;
  o.plan_mode = plan_mode;
  o.data_dir = "data";
  o.data = data;
  o.ndata = 2;
  return mprt_open(image, image_bytes, &o, &callbacks, p);
}

START_TEST(open_runs_out) {
  long n = 0;
  for (bool failed = true; failed;) {
    mprt_program *p;
    long before = live;
    errors = 0;
    fail_in = ++n;
    mpcc_status s = open_it(&p, _i);
    failed = fail_in == 0;
    fail_in = 0;
    /* The JSON reader does not tell short memory from bad text. */
    bool right = s == MPCC_OK || s == MPCC_ERR_NOMEM || s == MPCC_ERR_INPUT;
    bool said = s == MPCC_OK || errors > 0;
    mprt_close(p);
    long after = live;
    ck_assert_msg(right && said, "allocation %ld: status %d", n, s);
    ck_assert_msg(after == before, "allocation %ld leaks", n);
    ck_assert_int_lt(n, 2000);
  }
  ck_assert_int_gt(n, 50);
}
END_TEST

typedef mpcc_status (*Action)(mprt_program *p);
static mpcc_status save(mprt_program *p) {
  return mprt_save_checkpoint(p, step);
}
static mpcc_status resume(mprt_program *p) {
  return mprt_resume(p, step);
}
static mpcc_status save_weights(mprt_program *p) {
  return mprt_save_weights(p, file, MPCC_F16);
}
static mpcc_status load_weights(mprt_program *p) {
  return mprt_load_weights(p, file, true);
}
static const Action actions[] = {save, resume, save_weights, load_weights};

START_TEST(files_run_out) {
  mprt_program *p;
  uint8_t good[256];
  ck_assert_int_eq(open_it(&p, false), MPCC_OK);
  lr_bind(p);
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
  size_t bytes = p->segment[MPCC_SEG_STATE].bytes;
  ck_assert_uint_le(bytes, sizeof good);
  memcpy(good, p->segment[MPCC_SEG_STATE].data, bytes);
  ck_assert_int_eq(save(p), MPCC_OK);
  ck_assert_int_eq(save_weights(p), MPCC_OK);
  ck_assert_int_eq(resume(p), MPCC_OK);
  long n = 0;
  for (bool failed = true; failed;) {
    long before = live;
    errors = 0;
    fail_in = ++n;
    mpcc_status s = actions[_i](p); /* some allocations of the C library may fail without harm */
    failed = fail_in == 0;
    fail_in = 0;
    long after = live;
    bool said = s == MPCC_OK || errors > 0;
    ck_assert_msg(said, "allocation %ld: status %d without words", n, s);
    ck_assert_msg(after - before <= (s == MPCC_OK ? 8 : 0), "allocation %ld leaks", n);
    ck_assert_int_lt(n, 5000);
    if (actions[_i] == resume) /* failed or not, masters are never replaced by narrow copies */
      ck_assert_mem_eq(good, p->segment[MPCC_SEG_STATE].data, bytes);
    if (s != MPCC_OK && _i == 0)
      ck_assert_int_eq(resume(p), MPCC_OK);
  }
  ck_assert_int_gt(n, 10);
  mprt_close(p);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("memory");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, open_runs_out, 0, 2);
  tcase_add_loop_test(t, files_run_out, 0, (int)(sizeof actions / sizeof *actions));
  Suite *s = suite_create("runtime/memory");
  suite_add_tcase(s, t);
  return check_run(s);
}
#endif
