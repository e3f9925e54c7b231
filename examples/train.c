/* A host application that compiles a model and trains it in its own loop, on data of its own:
 * points in the plane, inside a ring or not. No file is read or written.
 *
 *     cc train.c -o train $(pkg-config --cflags --libs mpcc) && ./train bf16-mixed
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpcc/mpcc.h>
#include <mpcc/runtime.h>

static const char spec[] =
    "mpcc: 1\n"
    "name: ring\n"
    "model:\n"
    "  inputs: {point: {shape: [2]}}\n"
    "  outputs: {logits: out}\n"
    "  layers: [{Linear: 64}, Tanh, {Linear: 64}, Tanh, {name: out, Linear: 2}]\n"
    "loss: CrossEntropyLoss\n"
    "data: {train: {format: host}, loader: {batch_size: 128}}\n"
    "optimizer: {type: AdamW, lr: 5e-3}\n"
    "trainer: {max_steps: 400}\n";

/* What the compiler has to say: errors with a location and a caret. */
static void on_message(void *user, const mpcc_message *m) {
  (void)user;
  fprintf(stderr, "%s\n", m->text);
}

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level != MPRT_LOG_INFO)
    fprintf(stderr, "%s\n", text);
}

/* Between -2 and 2. Constants: Knuth, The Art of Computer Programming, vol. 2, sec. 3.3.4. */
static float uniform(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return (float)(*seed >> 40) * 0x1p-22f - 2.0f;
}

/* Writes a batch into the tensors that training reads, [batch, 2] and [batch]; false when there are
 * no such. On a GPU these are the host's copies: asking for them tells that they are about to be
 * written. */
static bool fill(mprt_program *program, uint64_t *seed, int64_t *batch) {
  mprt_tensor point, label;
  if (!mprt_find(program, "io.point", &point) || !mprt_find(program, "io.label", &label))
    return false;
  float *p = point.data;
  int64_t *l = label.data;
  *batch = label.dim[0];
  for (int64_t i = 0; i < *batch; i++) {
    p[2 * i] = uniform(seed);
    p[2 * i + 1] = uniform(seed);
    float r = hypotf(p[2 * i], p[2 * i + 1]);
    l[i] = r > 0.7f && r < 1.4f;
  }
  return true;
}

int main(int argc, char **argv) {
  /* 1. the compiler: a spec becomes an image, which is bytes in memory */
  mpcc_callbacks say = {.message = on_message};
  mpcc_options options = {.precision = argc > 1 ? argv[1] : "32-true", .host_level_only = true};
  mpcc_session *session = mpcc_session_create(&options, &say);
  void *image = NULL;
  size_t bytes = 0;
  mpcc_status status = session ? mpcc_compile(session, "ring.yaml", spec, strlen(spec),
                                              MPCC_OUT_IMAGE, &image, &bytes)
                               : MPCC_ERR_NOMEM;
  mpcc_session_destroy(session);
  if (status != MPCC_OK)
    return 1;

  /* 2. the runtime: the image becomes a program; it stays valid until mprt_close */
  mprt_callbacks callbacks = {.log = on_log};
  mprt_options run;
  mprt_options_default(&run);
  mprt_program *program;
  status = mprt_open(image, bytes, &run, &callbacks, &program);
  if (status == MPCC_OK)
    status = mprt_init(program);

  /* 3. the loop is the host's */
  double loss = 0, mean = 0;
  uint64_t seed = 1;
  int64_t batch = 0;
  for (int step = 1; status == MPCC_OK && step <= 400; step++) {
    if (!fill(program, &seed, &batch))
      status = MPCC_ERR_USAGE;
    if (status == MPCC_OK)
      status = mprt_train_batch(program, batch, &loss);
    mean += loss / 100;
    if (step % 100 == 0) {
      printf("step %d  mean loss of 100 steps %.4f\n", step, mean);
      mean = 0;
    }
  }
  mprt_close(program);
  free(image);
  return status != MPCC_OK;
}
