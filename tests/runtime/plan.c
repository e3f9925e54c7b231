/* Plan mode finds kernels and plans that are wrong, which a plain run lets pass. */
#include <math.h>

#include "tests/check_run.h"
#include "tests/runtime/image.h"

static void *kernels;
static size_t kernels_bytes;
static TestLog words;
static const mprt_callbacks callbacks = {.log = test_log, .user = &words};

static void setup(void) {
  kernels = ti_kernels(&kernels_bytes);
  test_log_clear(&words);
}

static void teardown(void) {
  free(kernels);
}

enum { F32_8 = 8 * 4 };

/* A program whose function "go" is: k_fill8 to work 0; `symbol` (result at work 64, operand work 0
 * when nargs is 2); result copied to io "out". second_at: offset of the second buffer. */
static mprt_program *open_with(const char *symbol, int nargs, int64_t second_at, bool plan_mode,
                               void **image) {
  static const int64_t eight = 8;
  TestImage t = {0};
  size_t bytes;
  uint32_t out = ti_tensor(&t, "out", MPCC_F32, ROLE_OUTPUT, MPCC_SEG_IO, 1, &eight, "");
  char f[] = {'a' + MPCC_F32, 0};
  t.segment_bytes[MPCC_SEG_WORK] = 256;
  uint32_t fill = ti_kernel(&t, "k_fill8", 1, 1, 0),
           k = ti_kernel(&t, symbol, (uint32_t)nargs, 1, 0);
  MpccArgRef a = ti_work(0, F32_8), b = ti_work((uint64_t)second_at, F32_8);
  ti_function(&t, "go");
  ti_command(&t, MPCC_CMD_LAUNCH, fill, f, "fill", 1, a);
  if (nargs == 3) /* reads what lies at second_at, which nobody wrote if it is not 0 */
    ti_command(&t, MPCC_CMD_LAUNCH, k, f, "victim", 3, ti_of(&t, out), a, b);
  else {
    ti_command(&t, MPCC_CMD_LAUNCH, k, f, "victim", nargs, b, a);
    ti_command(&t, MPCC_CMD_COPY, 0, f, "copy", 2, ti_of(&t, out), b)->bytes = F32_8;
  }
  ti_code(&t, "x86-64", "", kernels, kernels_bytes);
  *image = ti_finish(&t, "{}", &bytes);
  mprt_options o;
  mprt_program *p;
  mprt_options_default(&o);
  o.plan_mode = plan_mode;
  ck_assert_msg(mprt_open(*image, bytes, &o, &callbacks, &p) == MPCC_OK, "%s", words.text);
  return p;
}

static void refuses(const char *symbol, int nargs, const char *what) {
  void *image;
  mprt_program *p = open_with(symbol, nargs, 128, false, &image);
  ck_assert_int_eq(mprt_run(p, "go"), MPCC_OK);
  mprt_close(p);
  free(image);
  p = open_with(symbol, nargs, 128, true, &image);
  ck_assert_int_eq(mprt_run(p, "go"), MPCC_ERR_INTERNAL);
  ck_assert_msg(strstr(words.text, what) != NULL, "%s", words.text);
  ck_assert_msg(strstr(words.text, "test.yaml:2:1") != NULL, "%s", words.text);
  mprt_close(p);
  free(image);
}

START_TEST(overrun_is_found) {
  refuses("k_overrun", 1, "writes outside its arguments");
}
END_TEST

START_TEST(written_operand_is_found) {
  refuses("k_scribble", 2, "writes to an operand");
}
END_TEST

static float last_of(const char *symbol, int nargs, int64_t second_at, bool plan_mode) {
  void *image;
  mprt_tensor out;
  mprt_program *p = open_with(symbol, nargs, second_at, plan_mode, &image);
  ck_assert_msg(mprt_run(p, "go") == MPCC_OK, "%s", words.text);
  ck_assert(mprt_find(p, "out", &out));
  float v = ((float *)out.data)[7];
  mprt_close(p);
  free(image);
  return v;
}

START_TEST(unwritten_result_is_nan) {
  ck_assert(isnan(last_of("k_short", 1, 128, true)));
  ck_assert_float_eq(last_of("k_short", 1, 128, false), 0);
  ck_assert_float_eq(last_of("k_fill8", 1, 128, true), 8);
}
END_TEST

START_TEST(reading_what_nobody_wrote_is_nan) {
  ck_assert_float_eq(last_of("k_sum2", 3, 0, true), 16);
  ck_assert_float_eq(last_of("k_sum2", 3, 128, false), 8);
  ck_assert(isnan(last_of("k_sum2", 3, 128, true)));
}
END_TEST

/* a = fill; b = fill; c = a + b; then `go` ends, or a command the plan forgot reads a again through
 * an observer: a must be NaN by then. */
static bool look_at_a(void *user, mprt_program *p, const MpccCommand *c) {
  float *seen = user;
  seen[c - p->command] = *(float *)p->segment[MPCC_SEG_WORK].data;
  return true;
}

START_TEST(bytes_die_after_their_last_reader) {
  static const int64_t eight = 8;
  TestImage t = {0};
  size_t bytes;
  uint32_t out = ti_tensor(&t, "out", MPCC_F32, ROLE_OUTPUT, MPCC_SEG_IO, 1, &eight, "");
  char f[] = {'a' + MPCC_F32, 0};
  t.segment_bytes[MPCC_SEG_WORK] = 256;
  uint32_t fill = ti_kernel(&t, "k_fill8", 1, 1, 0), sum = ti_kernel(&t, "k_sum2", 3, 1, 0);
  MpccArgRef a = ti_work(0, F32_8), b = ti_work(64, F32_8), c = ti_work(128, F32_8);
  ti_function(&t, "go");
  ti_command(&t, MPCC_CMD_LAUNCH, fill, f, "a", 1, a);
  ti_command(&t, MPCC_CMD_LAUNCH, fill, f, "b", 1, b);
  ti_command(&t, MPCC_CMD_LAUNCH, sum, f, "c", 3, c, a, b); /* a dies here */
  ti_command(&t, MPCC_CMD_LAUNCH, sum, f, "d", 3, b, b, c); /* b in place, c dies */
  ti_command(&t, MPCC_CMD_LAUNCH, sum, f, "out", 3, ti_of(&t, out), b, b);
  ti_code(&t, "x86-64", "", kernels, kernels_bytes);
  void *image = ti_finish(&t, "{}", &bytes);
  mprt_options o;
  mprt_program *p;
  float seen[5];
  mprt_tensor result;
  mprt_options_default(&o);
  o.plan_mode = true;
  ck_assert_int_eq(mprt_open(image, bytes, &o, &callbacks, &p), MPCC_OK);
  ck_assert_int_eq(mprt__run(p, mprt__function(p, "go"), look_at_a, seen), MPCC_OK);
  ck_assert_float_eq(seen[0], 1);
  ck_assert_float_eq(seen[1], 1);
  ck_assert_float_eq(seen[2], 1); /* observers look before the dead are buried */
  ck_assert(isnan(seen[3]));
  ck_assert(isnan(*(float *)(p->segment[MPCC_SEG_WORK].data + 64)));
  ck_assert(mprt_find(p, "out", &result));
  ck_assert_float_eq(((float *)result.data)[7], 48);
  mprt_close(p);
  free(image);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("plan");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, overrun_is_found);
  tcase_add_test(t, written_operand_is_found);
  tcase_add_test(t, unwritten_result_is_nan);
  tcase_add_test(t, reading_what_nobody_wrote_is_nan);
  tcase_add_test(t, bytes_die_after_their_last_reader);
  Suite *s = suite_create("runtime/plan");
  suite_add_tcase(s, t);
  return check_run(s);
}
