/* Everything that can go wrong with a driver: the nth call of any kind (every 13th) answers an
 * error, the nth allocation fails, a launch fails or touches what is not its own. Each run is a
 * process: it resumes a checkpoint, trains, and saves over it. It ends with a status and words, and
 * the checkpoint is complete and either the old one or the new one. */
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/cuda/nvrtc.h"
#include "tests/check_run.h"
#include "tests/cuda/program.h"

static void *image;
static size_t bytes;
static char folder[] = "/tmp/faults-XXXXXX", checkpoint[64];

/* What a run may end with. */
enum { DONE, FAILED_WITH_WORDS, FAILED_WITHOUT_WORDS, WENT_ON };

static void keep_words(void *user, mprt_log_level level, const char *text) {
  if (level == MPRT_LOG_ERROR)
    snprintf(user, 600, "%s", text);
}

static mpcc_status train(mprt_program *p) {
  mpcc_status s = mprt_resume(p, checkpoint);
  for (int step = 0; s == MPCC_OK && step < 3; step++) {
    feed(p, (uint64_t)step);
    mprt__schedule_fill(p, step, 100, 100);
    s = mprt_run(p, "train_step");
  }
  return s == MPCC_OK ? mprt_save_checkpoint(p, checkpoint) : s;
}

/* In a process of its own. */
static int run(void) {
  char words[600] = "";
  mprt_options o;
  mprt_options_default(&o);
  o.device = "cuda";
  mprt_callbacks cb = {.log = keep_words, .user = words};
  mprt_program *p = NULL;
  mpcc_status s = mprt_open(image, bytes, &o, &cb, &p);
  if (s == MPCC_OK)
    s = train(p);
  const bool lost = p && s != MPCC_OK && mprt__device_status(p) != MPCC_OK;
  if (lost && mprt_run(p, "train_step") == MPCC_OK)
    return WENT_ON; /* a context that failed stays so */
  mprt_close(p);
  return s == MPCC_OK ? DONE : *words ? FAILED_WITH_WORDS : FAILED_WITHOUT_WORDS;
}

static int run_with(const char *variable, const char *value) {
  const pid_t child = fork();
  if (!child) {
    setenv(variable, value, 1);
    _exit(run());
  }
  int status = 0;
  ck_assert(child > 0 && waitpid(child, &status, 0) == child);
  ck_assert_msg(WIFEXITED(status), "%s=%s: ended by signal %d", variable, value, WTERMSIG(status));
  return WEXITSTATUS(status);
}

static void check_checkpoint(const char *variable, const char *value) {
  mprt_program *p = NULL;
  mprt_callbacks cb = {.log = on_log};
  mprt_options o;
  mprt_options_default(&o);
  o.device = "cpu";
  ck_assert(mprt__checkpoint_complete(checkpoint));
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  ck_assert_msg(mprt_resume(p, checkpoint) == MPCC_OK, "%s=%s: the checkpoint is broken", variable,
                value);
  mprt_close(p);
}

/* For n = 1, 2 ...: until runs are no longer touched by the fault; some calls may fail without
 * harm. Gives how many runs failed. */
static int until_done(const char *variable, const char *format, int stride) {
  int failed = 0, untouched = 0;
  for (int n = 1; untouched < 12; n += stride) {
    char value[64];
    snprintf(value, sizeof value, format, n);
    const int end = run_with(variable, value);
    ck_assert_msg(end != FAILED_WITHOUT_WORDS, "%s=%s: failed without words", variable, value);
    ck_assert_msg(end != WENT_ON, "%s=%s: went on after a failure", variable, value);
    check_checkpoint(variable, value);
    untouched = end == DONE ? untouched + 1 : 0;
    failed += end != DONE;
    ck_assert_int_lt(n, 4000);
  }
  return failed;
}

START_TEST(each_call) {
  const int failed = until_done("EMU_FAIL", "*:%d", 13);
  printf("%d calls failed\n", failed);
  ck_assert_int_gt(failed, 20);
}
END_TEST

START_TEST(each_allocation) {
  ck_assert_int_gt(until_done("EMU_OOM", "%d", 1), 3);
}
END_TEST

START_TEST(each_launch) {
  ck_assert_int_gt(until_done("EMU_LAUNCH_ERROR", "%d", 7), 3);
  ck_assert_int_gt(until_done("EMU_ILLEGAL_ADDRESS", "%d", 7), 3);
}
END_TEST

static void set_up(void) {
  mprt_program *p;
  image = compile_spec("tests/cuda/mlp.yaml", "16-mixed", true, &bytes);
  ck_assert(mkdtemp(folder) != NULL);
  snprintf(checkpoint, sizeof checkpoint, "%s/ck", folder);
  p = open_on(image, bytes, "cpu", false);
  ck_assert_int_eq(mprt_save_checkpoint(p, checkpoint), MPCC_OK);
  mprt_close(p);
}

static void tear_down(void) {
  mprt__dir_remove(checkpoint);
  rmdir(folder);
  free(image);
}

int main(void) {
  char why[256];
  if (!nvrtc_open(why)) {
    printf("not run: %s\n", why);
    return 77;
  }
  Suite *s = suite_create("faults");
  TCase *t = tcase_create("all");
  tcase_set_timeout(t, 600);
  tcase_add_unchecked_fixture(t, set_up, tear_down);
  tcase_add_test(t, each_call);
  tcase_add_test(t, each_allocation);
  tcase_add_test(t, each_launch);
  suite_add_tcase(s, t);
  return check_run(s);
}
