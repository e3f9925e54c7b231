/* Graphs beside single launches: the same bits after every step, in every tensor; and what a step
 * asks of the driver: one launch of a graph, and no wait. */
#include <unistd.h>

#include "tests/cuda/program.h"

enum { STEPS = 6 };

static const char *const modes[] = {"bf16-mixed", "transformer-engine", "16-mixed"};

static int inputs_of(const mprt_program *p) {
  int n = 0;
  for (uint32_t i = 0; i < p->ntensor; i++)
    n += p->tensor[i].role == ROLE_INPUT || p->tensor[i].role == ROLE_VALID;
  return n;
}

/* The calls of a log from offset `from` on, as one text. */
static void calls(const char *path, long from, char *out, size_t cap) {
  FILE *f = fopen(path, "rb");
  ck_assert(f != NULL && !fseek(f, from, SEEK_SET));
  out[fread(out, 1, cap - 1, f)] = 0;
  fclose(f);
}

static long log_length(const char *path) {
  FILE *f = fopen(path, "rb");
  ck_assert(f != NULL && !fseek(f, 0, SEEK_END));
  const long n = ftell(f);
  fclose(f);
  return n;
}

static int count(const char *text, const char *name) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, name)); at++)
    n += (at == text || at[-1] == '\n') && at[strlen(name)] == '\n';
  return n;
}

static void same_tensors(mprt_program *a, mprt_program *b, int step) {
  for (uint32_t i = 0; i < a->ntensor; i++) {
    const MpccTensor *t = &a->tensor[i];
    if (t->segment == MPCC_SEG_IO && t->role != ROLE_METRIC)
      continue;
    ck_assert_msg(!memcmp(mprt__tensor_look(a, i), mprt__tensor_look(b, i), t->bytes),
                  "step %d: %s differs", step, mprt__string(a, t->name));
  }
}

START_TEST(replay_equals_launches) {
  size_t bytes;
  char log[] = "/tmp/graphs-XXXXXX", text[1 << 15];
  const int fd = mkstemp(log);
  void *image = compile_spec("tests/cli/tiny.yaml", modes[_i], false, &bytes);
  mprt_program *eager = open_on(image, bytes, "cuda", true);
  mprt_program *replay = open_on(image, bytes, "cuda", false);
  ck_assert(fd >= 0);
  for (int step = 0; step < STEPS; step++) {
    mprt_program *both[] = {eager, replay};
    for (int k = 0; k < 2; k++) {
      feed(both[k], (uint64_t)step);
      if (!step && mprt__function(both[k], "calibrate"))
        ck_assert_int_eq(mprt_run(both[k], "calibrate"), MPCC_OK);
      mprt__schedule_fill(both[k], step, 100, 100);
      if (k == 1)
        setenv("EMU_LOG", log, 1);
      const long from = log_length(log);
      ck_assert_int_eq(mprt_run(both[k], "train_step"), MPCC_OK);
      unsetenv("EMU_LOG");
      calls(log, from, text, sizeof text);
    }
    /* the first is eager, then one capture for each place of inputs */
    const bool captured = step == 1 || step == 2;
    ck_assert_int_eq(count(text, "cuGraphLaunch"), step > 0);
    ck_assert_int_eq(count(text, "cuStreamBeginCapture_v2"), captured);
    ck_assert_int_eq(count(text, "cuLaunchKernel") > 0, step == 0 || captured);
    ck_assert_int_eq(count(text, "cuStreamSynchronize"), 0);
    ck_assert_int_eq(count(text, "cuCtxSynchronize"), 0);
    /* the batch, and the row of the step table */
    if (step > 0)
      ck_assert_int_eq(count(text, "cuMemcpyHtoDAsync_v2"), inputs_of(replay) + 1);
    same_tensors(eager, replay, step);
  }
  mprt_close(eager);
  mprt_close(replay);
  free(image);
  close(fd);
  unlink(log);
}
END_TEST

int main(void) {
  return run_cases("graphs", replay_equals_launches, (int)(sizeof modes / sizeof *modes));
}
