/* Everything that can go wrong with a driver and its library: every allocation, every launch and
 * copy that runs, every call of every function (of some, many times the same, a part) fails once.
 * Each run is a process: it resumes a checkpoint, trains, and saves over it. A run that fails says
 * so, stays failed, and leaves the old checkpoint as it was, to the byte; one that does without
 * what failed saves the weights that a run without faults saves. */
#include <dirent.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/cuda/nvrtc.h"
#include "runtime/cuda/api.h"
#include "tests/check_run.h"
#include "tests/cuda/program.h"

enum { FUNCTIONS = 64, SNAPSHOT = 1 << 20 };

static void *image;
static size_t bytes;
static char folder[] = "/tmp/faults-XXXXXX", checkpoint[64], kept[64];

/* ---- checkpoints ----------------------------------------------------------------------------- */

/* Names and bytes of the files of a folder, one behind the other; weights: of them alone. */
static size_t snapshot(const char *dir, bool weights, char *out) {
  struct dirent **entry;
  const int n = scandir(dir, &entry, NULL, alphasort);
  size_t at = 0;
  for (int i = 0; i < n; i++) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", dir, entry[i]->d_name);
    FILE *f = strstr(entry[i]->d_name, weights ? ".safetensors" : "") && entry[i]->d_name[0] != '.'
                  ? fopen(path, "rb")
                  : NULL;
    if (f) {
      at += (size_t)snprintf(out + at, SNAPSHOT - at, "%s\n", entry[i]->d_name);
      at += fread(out + at, 1, SNAPSHOT - at, f);
      fclose(f);
    }
    free(entry[i]);
  }
  free(entry);
  ck_assert(at > 0 && at < SNAPSHOT - 400);
  return at;
}

static char old[SNAPSHOT], trained[SNAPSHOT], now[SNAPSHOT];
static size_t old_bytes, trained_bytes;

static void copy_folder(const char *from, const char *to) {
  char text[200];
  snprintf(text, sizeof text, "rm -rf %s && cp -r %s %s", to, from, to);
  ck_assert_int_eq(system(text), 0);
}

/* ---- memory of the host -----------------------------------------------------------------------
 */

/* The nth allocation that the program itself asks for, not the stand-ins, is not given. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { OWN_MALLOC = 0 }; /* a sanitizer has its own */
static long asked, fail_at;
#else
enum { OWN_MALLOC = 1 };
static long asked, fail_at;
extern char __executable_start[], etext[];
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);

static bool fails(const char *caller) {
  return fail_at && caller >= __executable_start && caller < etext &&
         __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED) == fail_at;
}
void *malloc(size_t n) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}
void *calloc(size_t n, size_t m) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, m);
}
void *realloc(void *p, size_t n) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n);
}
#endif

/* ---- a run ----------------------------------------------------------------------------------- */

/* What a run may end with. */
enum { DONE, FAILED_WITH_WORDS, FAILED_WITHOUT_WORDS, WENT_ON, SAVED };

static void keep_words(void *user, mprt_log_level level, const char *text) {
  if (level == MPRT_LOG_ERROR)
    snprintf(user, 600, "%s", text);
}

/* Steps one by one, as graphs, and as graphs that are there. */
static mpcc_status train(mprt_program *p) {
  mpcc_status s = mprt_resume(p, checkpoint);
  for (int step = 0; s == MPCC_OK && step < 4; step++) {
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
  const char *memory = getenv("OUT_OF_MEMORY"), *count = getenv("COUNT_MEMORY");
  fail_at = memory ? atol(memory) : count ? LONG_MAX : 0;
  mpcc_status s = mprt_open(image, bytes, &o, &cb, &p);
  if (s == MPCC_OK)
    s = train(p);
  fail_at = 0;
  if (count) {
    FILE *f = fopen(count, "w");
    fprintf(f, "%ld", asked);
    fclose(f);
  }
  const bool lost = p && s != MPCC_OK && mprt__device_status(p) != MPCC_OK;
  if (lost && mprt_run(p, "train_step") == MPCC_OK)
    return WENT_ON; /* a context that failed stays so */
  if (lost && mprt_save_checkpoint(p, checkpoint) == MPCC_OK)
    return SAVED;
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

/* True when the run failed, rightly. */
static bool fails_rightly(const char *variable, const char *value) {
  const int end = run_with(variable, value);
  ck_assert_msg(end != FAILED_WITHOUT_WORDS, "%s=%s: failed without words", variable, value);
  ck_assert_msg(end != WENT_ON, "%s=%s: went on after a failure", variable, value);
  ck_assert_msg(end != SAVED, "%s=%s: saved after a failure", variable, value);
  ck_assert(mprt__checkpoint_complete(checkpoint));
  const bool done = end == DONE;
  const size_t n = snapshot(checkpoint, done, now);
  if (done)
    ck_assert_msg(n == trained_bytes && !memcmp(now, trained, n), "%s=%s: trained otherwise",
                  variable, value);
  else
    ck_assert_msg(n == old_bytes && !memcmp(now, old, n), "%s=%s: the checkpoint was changed",
                  variable, value);
  if (done)
    copy_folder(kept, checkpoint);
  return !done;
}

/* ---- what a run without faults does -----------------------------------------------------------
 */

typedef struct {
  char name[48];
  int calls;
} Function;
static Function function[FUNCTIONS];
static int nfunction;

static void count_call(const char *name) {
  int i = 0;
  while (i < nfunction && strcmp(function[i].name, name))
    i++;
  ck_assert_int_lt(i, FUNCTIONS);
  ck_assert_uint_lt(strlen(name), sizeof function->name);
  if (i == nfunction)
    strcpy(function[nfunction++].name, name);
  function[i].calls++;
}

static int calls_of(const char *name) {
  for (int i = 0; i < nfunction; i++)
    if (!strcmp(function[i].name, name))
      return function[i].calls;
  return 0;
}

static void look_at_calls(void) {
  char log[80], line[200];
  snprintf(log, sizeof log, "%s/log", folder);
  ck_assert_int_eq(run_with("EMU_LOG", log), DONE);
  FILE *f = fopen(log, "r");
  ck_assert(f != NULL);
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    if (!strchr(line, ' '))
      count_call(line);
  }
  fclose(f);
  unlink(log);
  trained_bytes = snapshot(checkpoint, true, trained);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Of what is called often: the first three, the last, some between. */
enum { FEW = 4 };
static int next_call(int n, int calls) {
  const int step = calls <= FEW || n < 3 ? 1 : (calls + FEW - 1) / FEW;
  return n < calls && n + step > calls ? calls : n + step;
}

START_TEST(each_call) {
  static const int errors[] = {CUDA_ERROR_UNKNOWN, CUDA_ERROR_ILLEGAL_ADDRESS,
                               CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_LAUNCH_FAILED};
  int runs = 0, failed = 0;
  for (int i = 0; i < nfunction; i++)
    for (int n = 1; n <= function[i].calls; n = next_call(n, function[i].calls), runs++) {
      char value[sizeof function->name + 40];
      const bool library = !strncmp(function[i].name, "cublas", 6);
      snprintf(value, sizeof value, "%.47s:%d:%d", function[i].name, n,
               library ? (n % 2 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_EXECUTION_FAILED)
                       : errors[(i + n) % 4]);
      failed += fails_rightly("EMU_FAIL", value);
    }
  printf("%d functions: %d runs, %d failed\n", nfunction, runs, failed);
  ck_assert_int_gt(2 * failed, runs);
}
END_TEST

START_TEST(each_allocation) {
  const int all = calls_of("cuMemAlloc_v2") + calls_of("cuMemAllocHost_v2");
  int failed = 0;
  for (int n = 1; n <= all; n++) {
    char value[20];
    snprintf(value, sizeof value, "%d", n);
    failed += fails_rightly("EMU_OOM", value);
  }
  printf("%d of %d allocations are needed\n", failed, all);
  ck_assert_int_gt(failed, 3);
}
END_TEST

/* Of the library and of kernels, eager and in graphs: whatever runs is missed when it does not. */
START_TEST(each_launch) {
  static const char *const variables[] = {"EMU_LAUNCH_ERROR", "EMU_ILLEGAL_ADDRESS"};
  int n = 0;
  for (bool failed = true; failed;) {
    char value[20];
    snprintf(value, sizeof value, "%d", ++n);
    failed = fails_rightly(variables[n % 2], value);
    ck_assert_int_lt(n, 1000);
  }
  printf("%d launches\n", n - 1);
  ck_assert_int_gt(n, 40);
}
END_TEST

/* While it opens, resumes, trains and saves. */
START_TEST(each_memory) {
  enum { RUNS = 40 };
  char file[80];
  long all = 0;
  int runs = 0, failed = 0;
  snprintf(file, sizeof file, "%s/memory", folder);
  ck_assert_int_eq(run_with("COUNT_MEMORY", file), DONE);
  copy_folder(kept, checkpoint);
  FILE *f = fopen(file, "r");
  ck_assert(f != NULL && fscanf(f, "%ld", &all) == 1);
  fclose(f);
  unlink(file);
  for (long n = 1; n <= all; n += (1 + all / RUNS) | 1, runs++) {
    char value[24];
    snprintf(value, sizeof value, "%ld", n);
    failed += fails_rightly("OUT_OF_MEMORY", value);
  }
  printf("%ld allocations of the host: %d runs, %d failed\n", all, runs, failed);
  ck_assert_int_gt(failed, 20);
}
END_TEST

static void set_up(void) {
  mprt_program *p;
  image = compile_spec("tests/cuda/mlp.yaml", "16-mixed", true, &bytes);
  ck_assert(mkdtemp(folder) != NULL);
  snprintf(checkpoint, sizeof checkpoint, "%s/ck", folder);
  snprintf(kept, sizeof kept, "%s/kept", folder);
  p = open_on(image, bytes, "cpu", false);
  ck_assert_int_eq(mprt_save_checkpoint(p, checkpoint), MPCC_OK);
  mprt_close(p);
  copy_folder(checkpoint, kept);
  old_bytes = snapshot(checkpoint, false, old);
  look_at_calls();
  copy_folder(kept, checkpoint);
}

static void tear_down(void) {
  mprt__dir_remove(checkpoint);
  mprt__dir_remove(kept);
  ck_assert_int_eq(rmdir(folder), 0); /* nothing half written is left */
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
  if (OWN_MALLOC)
    tcase_add_test(t, each_memory);
  suite_add_tcase(s, t);
  return check_run(s);
}
