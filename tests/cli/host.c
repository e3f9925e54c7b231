/* A C host that trains by what --emit=lib and --emit=c-header made of tests/cli/tiny.yaml. Prints the
 * first and the last loss and how many of the last batch are classified right. */
#include <stdio.h>
#include <stdlib.h>

#include "tiny.h"

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  fprintf(stderr, "%d: %s\n", (int)level, text);
}

/* Images of 2 x 2 patches, the size of the model's, with one bright pixel: which of the four is the class. */
static void fill(mprt_program *p, unsigned *seed) {
  float *image = tiny_image(p);
  int64_t *label = tiny_label(p);
  for (int n = 0; n < TINY_BATCH; n++) {
    label[n] = rand_r(seed) % 4;
    for (int i = 0; i < 64; i++)
      image[64 * n + i] = (i / 8 % 2 * 2 + i % 2 == label[n] ? 1.0f : 0.0f) + 0.1f * (float)(rand_r(seed) % 10);
  }
}

static int right(mprt_program *p) {
  const float *logits = tiny_logits(p);
  int n = 0;
  for (int b = 0; b < TINY_BATCH; b++) {
    int best = 0;
    for (int k = 0; k < 16; k++)
      best = logits[16 * b + k] > logits[16 * b + best] ? k : best;
    n += best == tiny_label(p)[b];
  }
  return n;
}

int main(int argc, char **argv) {
  mprt_callbacks cb = {.log = on_log};
  mprt_program *p;
  unsigned seed = 1;
  double loss = 0, first = 0;
  if (tiny_open(NULL, &cb, &p) || mprt_init(p))
    return 1;
  const int batch = TINY_BATCH, pixels = TINY_IMAGE_ELEMS, labels = TINY_LABEL_ELEMS;
  if (pixels != batch * 64 || labels != batch)
    return 2;
  for (int step = 0; step < 150; step++) {
    fill(p, &seed);
    if (tiny_train_step(p, TINY_BATCH, &loss))
      return 3;
    first = step ? first : loss;
  }
  if (tiny_predict(p))
    return 4;
  printf("%.6f %.6f %d\n", first, loss, right(p));
  if (argc > 1 && mprt_save_weights(p, argv[1], MPCC_F32))
    return 5;
  if (mprt_evaluate(p, "val", NULL, NULL)) /* who needs the error alone takes no number */
    return 6;
  mprt_close(p);
  return !(loss < 0.5 * first);
}
