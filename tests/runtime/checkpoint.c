/* Weights and checkpoints: what is saved comes back byte for byte; what is incomplete, damaged or
 * of another program is refused in words; a full disk leaves the old checkpoint good. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mpcc/num.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

static TestLog words;
static const mprt_callbacks callbacks = {.log = test_log, .user = &words};
static char dir[40], step[80], other[80], file[120];
static void *kernels;
static size_t kernels_bytes;
static void *images[8];
static int nimages;

static void setup(void) {
  strcpy(dir, "/tmp/mpcc-ck-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  snprintf(step, sizeof step, "%s/step-00000040", dir);
  snprintf(other, sizeof other, "%s/step-00000050", dir);
  kernels = ti_kernels(&kernels_bytes);
  test_log_clear(&words);
}

static void teardown(void) {
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  ck_assert_int_eq(system(command), 0);
  free(kernels);
  while (nimages > 0)
    free(images[--nimages]);
}

static mprt_program *open_program(LrOptions o) {
  mprt_options options;
  mprt_program *p;
  size_t bytes;
  o.k = o.k ? o.k : LR_K;
  o.kernels = kernels;
  o.kernels_bytes = kernels_bytes;
  void *image = images[nimages++] = lr_image(&o, &bytes);
  mprt_options_default(&options);
  options.threads = 2;
  ck_assert_msg(mprt_open(image, bytes, &options, &callbacks, &p) == MPCC_OK, "%s", words.text);
  lr_bind(p);
  return p;
}

static mprt_program *trained(LrOptions o, int steps) {
  mprt_program *p = open_program(o);
  ck_assert_int_eq(mprt_init(p), MPCC_OK);
  for (int i = 0; i < steps; i++)
    ck_assert_int_eq(mprt_run(p, "train_step"), MPCC_OK);
  return p;
}

static void same_state(const mprt_program *a, const mprt_program *b) {
  ck_assert_uint_eq(a->segment[MPCC_SEG_STATE].bytes, b->segment[MPCC_SEG_STATE].bytes);
  ck_assert_mem_eq(a->segment[MPCC_SEG_STATE].data, b->segment[MPCC_SEG_STATE].data,
                   a->segment[MPCC_SEG_STATE].bytes);
  ck_assert_mem_eq(a->segment[MPCC_SEG_DERIVED].data, b->segment[MPCC_SEG_DERIVED].data,
                   a->segment[MPCC_SEG_DERIVED].bytes);
}

START_TEST(resumed_run_is_one_run) {
  LrOptions o = {.scaler = true};
  mprt_program *a = trained(o, 40);
  a->cursor = (mprt__cursor){.epoch = 3, .sample = 17, .best_step = 30, .best_value = 0.25};
  a->fit_state = json_pack("{s:i}", "plateau", 4);
  a->seed = 77;
  ck_assert_msg(mprt_save_checkpoint(a, step) == MPCC_OK, "%s", words.text);
  mprt_program *b = open_program(o);
  ck_assert_msg(mprt_resume(b, step) == MPCC_OK, "%s", words.text);
  ck_assert_int_eq(words.warnings, 0);
  same_state(a, b);
  ck_assert_int_eq(b->seed, 77);
  ck_assert_int_eq(mprt__get_int(b, "io.seed", 0), 77);
  ck_assert_int_eq(b->cursor.epoch, 3);
  ck_assert_int_eq(b->cursor.sample, 17);
  ck_assert_int_eq(b->cursor.best_step, 30);
  ck_assert_double_eq(b->cursor.best_value, 0.25);
  ck_assert_int_eq(mprt__json_int(b->fit_state, "plateau", 0), 4);
  for (int i = 0; i < 25; i++) {
    ck_assert_int_eq(mprt_run(a, "train_step"), MPCC_OK);
    ck_assert_int_eq(mprt_run(b, "train_step"), MPCC_OK);
  }
  same_state(a, b);
  mprt_close(a);
  mprt_close(b);
}
END_TEST

START_TEST(same_state_same_files) {
  static const char *const names[] = {"model.safetensors", "optimizer.safetensors", "state.json",
                                      "DONE"};
  LrOptions o = {0};
  mprt_program *p = trained(o, 5);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  ck_assert_int_eq(mprt_save_checkpoint(p, other), MPCC_OK);
  for (int i = 0; i < 4; i++) {
    size_t n, m;
    snprintf(file, sizeof file, "%s/%s", step, names[i]);
    void *a = ti_read(file, &n);
    snprintf(file, sizeof file, "%s/%s", other, names[i]);
    void *b = ti_read(file, &m);
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(a, b, n);
    free(a);
    free(b);
  }
  mprt_close(p);
}
END_TEST

/* A program whose state is not that of the checkpoint; after a refused resume it must be as before.
 */
static void refuses_unchanged(mprt_program *p, const char *what) {
  size_t n = p->segment[MPCC_SEG_STATE].bytes;
  uint8_t *before = malloc(n);
  memcpy(before, p->segment[MPCC_SEG_STATE].data, n);
  test_log_clear(&words);
  ck_assert_msg(mprt_resume(p, step) == MPCC_ERR_DATA, "%s", what);
  ck_assert_int_ge(words.errors, 1);
  ck_assert_mem_eq(before, p->segment[MPCC_SEG_STATE].data, n);
  free(before);
}

START_TEST(truncated_or_changed_anywhere_is_refused) {
  static const char *const names[] = {"model.safetensors", "optimizer.safetensors", "state.json",
                                      "DONE"};
  LrOptions o = {0};
  mprt_program *p = trained(o, 40), *q = trained(o, 3);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  for (int i = 0; i < 4; i++) {
    size_t n;
    snprintf(file, sizeof file, "%s/%s", step, names[i]);
    uint8_t *whole = ti_read(file, &n);
    for (size_t k = 0; k < n; k++) {
      ck_assert_int_eq(mprt__file_write(file, whole, k, NULL), MPCC_OK);
      refuses_unchanged(q, names[i]);
      if (k % 7 == 0) {
        whole[k] ^= 0x20;
        ck_assert_int_eq(mprt__file_write(file, whole, n, NULL), MPCC_OK);
        refuses_unchanged(q, names[i]);
        whole[k] ^= 0x20;
      }
    }
    ck_assert_int_eq(mprt__file_write(file, whole, n, NULL), MPCC_OK);
    free(whole);
  }
  ck_assert_int_eq(mprt_resume(q, step), MPCC_OK);
  same_state(p, q);
  mprt_close(p);
  mprt_close(q);
}
END_TEST

START_TEST(without_done_it_is_none) {
  LrOptions o = {0};
  mprt_program *p = trained(o, 4);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  snprintf(file, sizeof file, "%s/DONE", step);
  ck_assert_int_eq(unlink(file), 0);
  refuses_unchanged(p, "DONE");
  ck_assert_ptr_nonnull(strstr(words.text, "it has no DONE"));
  ck_assert_int_eq(mprt_resume(p, "/nowhere"), MPCC_ERR_DATA);
  mprt_close(p);
}
END_TEST

START_TEST(changed_spec) {
  LrOptions o = {0}, wider = {.k = LR_K + 1};
  mprt_program *p = trained(o, 4), *q = trained(wider, 2);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  refuses_unchanged(q, "shape");
  ck_assert_msg(strstr(words.text, "tensor 'w' has shape [5], this program has [6]"), "%s",
                words.text);
  mprt_close(q);
  /* The same tensors, another learning rate: passes, and says so. */
  o.meta = "{\"name\": \"line\", \"spec\": {\"seed\": 3, \"optimizer\": {\"lr\": 0.2}}}";
  q = open_program(o);
  test_log_clear(&words);
  ck_assert_int_eq(mprt_resume(q, step), MPCC_OK);
  ck_assert_int_eq(words.warnings, 1);
  ck_assert_ptr_nonnull(strstr(words.text, "changed since this checkpoint: optimizer.lr: "));
  same_state(p, q);
  mprt_close(p);
  mprt_close(q);
}
END_TEST

START_TEST(another_precision_starts_its_scaler_anew) {
  LrOptions plain = {0}, scaled = {.scaler = true};
  mprt_program *p = trained(plain, 4), *q = open_program(scaled);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  test_log_clear(&words);
  ck_assert_msg(mprt_resume(q, step) == MPCC_OK, "%s", words.text);
  ck_assert_ptr_nonnull(strstr(words.text, "has no 'scaler.scale': it starts anew"));
  ck_assert_double_eq(mprt__get_scalar(q, "scaler.scale", 0), 1024);
  ck_assert_int_eq(mprt__get_int(q, "count.taken", 0), 4);
  /* And back: the scaler is not used. */
  ck_assert_int_eq(mprt_save_checkpoint(q, other), MPCC_OK);
  test_log_clear(&words);
  ck_assert_int_eq(mprt_resume(p, other), MPCC_OK);
  ck_assert_ptr_nonnull(strstr(words.text, "'scaler.scale' is not used"));
  mprt_close(p);
  mprt_close(q);
}
END_TEST

START_TEST(narrow_save_dtype_keeps_masters) {
  LrOptions o = {.meta = "{\"name\": \"line\", \"spec\": {\"checkpoint\": {\"save_dtype\": "
                         "\"bfloat16\"}}}"};
  mprt_program *p = trained(o, 23), *q = open_program(o);
  mprt__st_file f;
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  snprintf(file, sizeof file, "%s/model.safetensors", step);
  ck_assert_int_eq(mprt__st_open(file, &callbacks, &f), MPCC_OK);
  ck_assert_uint_eq(f.ntensor, 2);
  ck_assert_int_eq(f.tensor[0].dtype, MPCC_BF16);
  mprt__st_close(&f);
  ck_assert_msg(mprt_resume(q, step) == MPCC_OK, "%s", words.text);
  same_state(p, q);
  mprt_close(p);
  mprt_close(q);
}
END_TEST

START_TEST(full_disk_leaves_the_old_one_good) {
  LrOptions o = {0};
  mprt_program *p = trained(o, 10), *q = open_program(o);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  for (int i = 0; i < 5; i++)
    mprt_run(p, "train_step");
  struct rlimit whole, small;
  getrlimit(RLIMIT_FSIZE, &whole);
  signal(SIGXFSZ, SIG_IGN);
  int failures = 0;
  for (rlim_t limit = 0; limit < 1200; limit += 24) {
    small = (struct rlimit){limit, whole.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    mpcc_status over = mprt_save_checkpoint(p, step), fresh = mprt_save_checkpoint(p, other);
    setrlimit(RLIMIT_FSIZE, &whole);
    if (over != MPCC_OK) {
      failures++;
      ck_assert_int_eq(over, MPCC_ERR_FILE);
      ck_assert_int_eq(fresh, MPCC_ERR_FILE);
      ck_assert(!mprt__checkpoint_complete(other));
      snprintf(file, sizeof file, "%s/.step-00000040.tmp", dir);
      ck_assert_int_ne(access(file, F_OK), 0); /* nothing is left lying about */
      ck_assert_msg(mprt_resume(q, step) == MPCC_OK, "%s", words.text);
      ck_assert_int_eq(mprt__get_int(q, "count.taken", 0), 10);
    }
  }
  ck_assert_int_gt(failures, 10);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  ck_assert_int_eq(mprt_resume(q, step), MPCC_OK);
  ck_assert_int_eq(mprt__get_int(q, "count.taken", 0), 15);
  mprt_close(p);
  mprt_close(q);
}
END_TEST

/* Saves p as `path` in a child that is killed at the n-th entry to or exit from the kernel; whether
 * it lived. */
static bool saves_until(mprt_program *p, const char *path, int n) {
  int status;
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0 || raise(SIGSTOP) != 0)
      _exit(1);
    _exit(mprt_save_checkpoint(p, path) == MPCC_OK ? 0 : 2);
  }
  ck_assert_int_eq(waitpid(child, &status, 0), child);
  while (WIFSTOPPED(status) && n-- > 0) {
    ck_assert_int_eq((int)ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
  }
  if (WIFSTOPPED(status)) {
    kill(child, SIGKILL);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return false;
  }
  ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  return true;
}

/* Killed anywhere in a save, under a new name (i = 0) and under one in use (1): what resuming finds
 * is whole, the state before or the one saved. */
START_TEST(killed_anywhere_leaves_a_good_one) {
  LrOptions o = {0};
  mprt_program *before = trained(o, 10), *p = trained(o, 15), *q = open_program(o);
  int n = 0;
  for (bool lived = false; !lived; n++) {
    char command[120];
    snprintf(command, sizeof command, "rm -rf %s && mkdir %s", dir, dir);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(mprt_save_checkpoint(before, step), MPCC_OK);
    lived = saves_until(p, _i == 0 ? other : step, n);
    test_log_clear(&words);
    char *newest = mprt__checkpoint_newest(dir);
    ck_assert_ptr_nonnull(newest);
    ck_assert_msg(mprt_resume(q, newest) == MPCC_OK, "killed at %d: %s", n, words.text);
    free(newest);
    int64_t taken = mprt__get_int(q, "count.taken", 0);
    ck_assert(taken == 15 || (taken == 10 && !lived));
  }
  ck_assert_int_gt(n, 40);
  mprt_close(before);
  mprt_close(p);
  mprt_close(q);
}
END_TEST

START_TEST(links_and_newest) {
  LrOptions o = {0};
  mprt_program *p = trained(o, 1);
  char target[64] = "", link[80], run[80];
  snprintf(run, sizeof run, "%s/run/checkpoints/step-00000007", dir);
  ck_assert_msg(mprt_save_checkpoint(p, run) == MPCC_OK, "%s", words.text);
  ck_assert_int_eq(mprt_save_checkpoint(p, step), MPCC_OK);
  ck_assert_int_eq(mprt_save_checkpoint(p, other), MPCC_OK);
  ck_assert_int_eq(mprt__checkpoint_link(step, "last", &callbacks), MPCC_OK);
  ck_assert_int_eq(mprt__checkpoint_link(other, "last", &callbacks), MPCC_OK);
  snprintf(link, sizeof link, "%s/last", dir);
  ck_assert_int_gt((int)readlink(link, target, sizeof target - 1), 0);
  ck_assert_str_eq(target, "step-00000050");
  ck_assert_int_eq(mprt_resume(p, link), MPCC_OK);
  char *newest = mprt__checkpoint_newest(dir);
  ck_assert_str_eq(newest, other);
  free(newest);
  snprintf(file, sizeof file, "%s/DONE", other);
  unlink(file);
  newest = mprt__checkpoint_newest(dir);
  ck_assert_str_eq(newest, step);
  free(newest);
  snprintf(run, sizeof run, "%s/run", dir); /* a run folder stands for its newest checkpoint */
  ck_assert_msg(mprt_resume(p, run) == MPCC_OK, "%s", words.text);
  mprt_close(p);
}
END_TEST

/* ---- weights ---- */

START_TEST(weights_in_every_float_format) {
  static const DType formats[] = {MPCC_F64, MPCC_F32, MPCC_BF16, MPCC_F16, MPCC_E4M3, MPCC_E5M2};
  LrOptions o = {0};
  mprt_program *p = trained(o, 12);
  mprt_tensor w, v;
  ck_assert(mprt_find(p, "w", &w));
  snprintf(file, sizeof file, "%s/w.safetensors", dir);
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
    mprt_program *q = open_program(o);
    ck_assert_int_eq(mprt_save_weights(p, file, formats[i]), MPCC_OK);
    ck_assert_msg(mprt_load_weights(q, file, true) == MPCC_OK, "%s", words.text);
    ck_assert(mprt_find(q, "w", &v));
    for (int k = 0; k < LR_K; k++)
      ck_assert_double_eq((double)((float *)v.data)[k],
                          num_round((double)((float *)w.data)[k], formats[i]));
    ck_assert_int_eq(mprt__get_int(q, "count.taken", -1), 0); /* init ran for the rest */
    ck_assert_mem_eq(q->segment[MPCC_SEG_DERIVED].data, v.data, LR_K * 4); /* refreshed */
    mprt_close(q);
  }
  ck_assert_int_eq(mprt_save_weights(p, file, MPCC_I64), MPCC_ERR_USAGE);
  mprt_close(p);
}
END_TEST

static void write_weights(const char *name, int64_t n, DType dtype, bool with_b, bool extra) {
  static const double data[16];
  mprt__st_item it[3] = {{name, dtype, dtype, 1, &n, data},
                         {"b", MPCC_F32, MPCC_F32, 0, NULL, data},
                         {"stranger", MPCC_F32, MPCC_F32, 0, NULL, data}};
  size_t count = 1;
  if (with_b)
    it[count++] = (mprt__st_item){"b", MPCC_F32, MPCC_F32, 0, NULL, data};
  if (extra)
    it[count++] = (mprt__st_item){"stranger", MPCC_F32, MPCC_F32, 0, NULL, data};
  ck_assert_int_eq(mprt__st_write(file, it, count, NULL, &callbacks), MPCC_OK);
  test_log_clear(&words);
}

START_TEST(weights_that_do_not_fit) {
  LrOptions o = {0};
  mprt_program *p = trained(o, 2);
  size_t n = p->segment[MPCC_SEG_STATE].bytes;
  uint8_t *before = malloc(n);
  memcpy(before, p->segment[MPCC_SEG_STATE].data, n);
  snprintf(file, sizeof file, "%s/w.safetensors", dir);
  write_weights("w", LR_K, MPCC_F32, false, false);
  ck_assert_int_eq(mprt_load_weights(p, file, true), MPCC_ERR_DATA);
  ck_assert_ptr_nonnull(strstr(words.text, "missing tensor 'b'"));
  write_weights("w", LR_K, MPCC_F32, true, true);
  ck_assert_int_eq(mprt_load_weights(p, file, true), MPCC_ERR_DATA);
  ck_assert_ptr_nonnull(strstr(words.text, "unexpected tensor 'stranger'"));
  write_weights("w", LR_K + 1, MPCC_F32, true, false);
  ck_assert_int_eq(mprt_load_weights(p, file, false), MPCC_ERR_DATA);
  ck_assert_ptr_nonnull(strstr(words.text, "tensor 'w' has shape [6], this program has [5]"));
  write_weights("w", LR_K, MPCC_I64, true, false);
  ck_assert_int_eq(mprt_load_weights(p, file, true), MPCC_ERR_DATA);
  ck_assert_ptr_nonnull(strstr(words.text, "cannot be converted to f32"));
  /* Flat storage and moments are no weights. */
  write_weights("flat.0", LR_K + 1, MPCC_F32, true, false);
  ck_assert_int_eq(mprt_load_weights(p, file, true), MPCC_ERR_DATA);
  ck_assert_ptr_nonnull(strstr(words.text, "unexpected tensor 'flat.0'"));
  ck_assert_mem_eq(before, p->segment[MPCC_SEG_STATE].data, n);
  /* Not strict: what is there is taken. */
  write_weights("w", LR_K, MPCC_F32, false, true);
  ck_assert_int_eq(mprt_load_weights(p, file, false), MPCC_OK);
  ck_assert_int_eq(words.warnings, 2);
  mprt_tensor w;
  ck_assert(mprt_find(p, "w", &w));
  ck_assert_float_eq(((float *)w.data)[2], 0);
  free(before);
  mprt_close(p);
}
END_TEST

START_TEST(failed_save_keeps_the_file) {
  LrOptions o = {0};
  mprt_program *p = trained(o, 2);
  struct rlimit whole, small;
  size_t n, m;
  snprintf(file, sizeof file, "%s/w.safetensors", dir);
  ck_assert_int_eq(mprt_save_weights(p, file, MPCC_F32), MPCC_OK);
  void *before = ti_read(file, &n);
  getrlimit(RLIMIT_FSIZE, &whole);
  signal(SIGXFSZ, SIG_IGN);
  small = (struct rlimit){32, whole.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  mpcc_status s = mprt_save_weights(p, file, MPCC_F64);
  setrlimit(RLIMIT_FSIZE, &whole);
  ck_assert_int_eq(s, MPCC_ERR_FILE);
  void *after = ti_read(file, &m);
  ck_assert_uint_eq(n, m);
  ck_assert_mem_eq(before, after, n);
  free(before);
  free(after);
  mprt_close(p);
}
END_TEST

static void note_difference(void *user, const char *path, const json_t *a, const json_t *b) {
  char *out = user;
  snprintf(out + strlen(out), 200 - strlen(out), "%s%s%s ", path, a ? "" : "+", b ? "" : "-");
}

START_TEST(json_differences) {
  static const struct {
    const char *a, *b, *want;
  } rows[] = {{"{\"a\": 1}", "{\"a\": 1}", ""},
              {"{\"a\": 1}", "{\"a\": 2}", "a "},
              {"{\"b\": {\"d\": 1, \"c\": 2}}", "{\"b\": {\"d\": 2, \"c\": 3}}", "b.c b.d "},
              {"{\"z\": 1}", "{\"y\": 1, \"z\": 1}", "y+ "},
              {"{\"z\": 1, \"a\": [1]}", "{\"a\": [2]}", "a z- "},
              {"{\"a\": {\"b\": 1}}", "{\"a\": 3}", "a "},
              {"{\"l\": [{\"name\": \"x\", \"n\": 1}, {\"name\": \"y\"}]}",
               "{\"l\": [{\"name\": \"z\"}, {\"name\": \"x\", \"n\": 2}, {\"name\": \"y\"}]}",
               "l.x.n l.z+ "},
              {"{\"l\": [{\"n\": 1}, {\"n\": 2}]}", "{\"l\": [{\"n\": 1}, {\"n\": 3}]}", "l.1.n "}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char got[200] = "";
    json_t *a = json_loads(rows[i].a, 0, NULL), *b = json_loads(rows[i].b, 0, NULL);
    mprt__json_differences(a, b, note_difference, got);
    ck_assert_str_eq(got, rows[i].want);
    json_decref(a);
    json_decref(b);
  }
}
END_TEST

int main(void) {
  TCase *t = tcase_create("checkpoint");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, resumed_run_is_one_run);
  tcase_add_test(t, same_state_same_files);
  tcase_add_test(t, truncated_or_changed_anywhere_is_refused);
  tcase_add_test(t, without_done_it_is_none);
  tcase_add_test(t, changed_spec);
  tcase_add_test(t, another_precision_starts_its_scaler_anew);
  tcase_add_test(t, narrow_save_dtype_keeps_masters);
  tcase_add_test(t, full_disk_leaves_the_old_one_good);
  tcase_add_loop_test(t, killed_anywhere_leaves_a_good_one, 0, 2);
  tcase_add_test(t, links_and_newest);
  tcase_add_test(t, weights_in_every_float_format);
  tcase_add_test(t, weights_that_do_not_fit);
  tcase_add_test(t, failed_save_keeps_the_file);
  tcase_add_test(t, json_differences);
  Suite *s = suite_create("runtime/checkpoint");
  suite_add_tcase(s, t);
  return check_run(s);
}
