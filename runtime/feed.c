/* Batches for hosts that drive a program themselves. */
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

struct mprt__feed {
  char *split;
  mprt__dataset *data;
  mprt__loader *loader;
};

void mprt__feed_close(mprt_program *p) {
  if (!p->feed)
    return;
  mprt__loader_destroy(p->feed->loader);
  mprt__data_close(p->feed->data);
  free(p->feed->split);
  free(p->feed);
  p->feed = NULL;
}

static Status feed_open(mprt_program *p, const char *split) {
  mprt__feed *f = p->feed = calloc(1, sizeof *f);
  if (f)
    f->split = strdup(split);
  if (!f || !f->split)
    return mprt__nomem(&p->cb, "feed");
  Status st = mprt__data_open(p, split, &f->data);
  if (st != MPCC_OK)
    return st;
  int64_t input = mprt__tensor_of_role(p, ROLE_INPUT);
  bool train = !strcmp(split, "train");
  mprt__loader_options o = {
      .data = f->data,
      .split = f->split,
      .shuffle = train && mprt__json_bool(p->spec, "data.loader.shuffle", true),
      .batch = input >= 0 && p->tensor[input].rank ? p->tensor[input].dim[0] : 1,
      .seed = p->seed,
      .endless = true,
      .prefetch = 1};
  return mprt__loader_create(p, &o, &f->loader);
}

mpcc_status mprt_feed(mprt_program *p, const char *split, int64_t *valid) {
  int64_t n = 0, epoch, sample;
  double waited;
  Status st = MPCC_OK;
  if (p->feed && strcmp(p->feed->split, split))
    mprt__feed_close(p);
  if (!p->feed)
    st = feed_open(p, split);
  if (st == MPCC_OK)
    st = mprt__loader_next(p->feed->loader, &n, &epoch, &sample, &waited);
  if (st != MPCC_OK)
    mprt__feed_close(p);
  if (valid)
    *valid = n;
  return st;
}
