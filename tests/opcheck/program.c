/* Programs of batches, opened by the runtime alone. */
#include <stdlib.h>

#include "opcheck.h"

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  if (level != MPRT_LOG_INFO)
    fprintf(stderr, "%s\n", text);
}

Status batch_open(Batch *b, const char *device, bool plan_mode) {
  static const mprt_callbacks callbacks = {.log = on_log};
  mprt_options o;
  mprt_options_default(&o);
  o.device = device;
  o.threads = plan_mode ? 2 : 0;
  o.plan_mode = plan_mode;
  return mprt_open(b->image, b->image_bytes, &o, &callbacks, &b->program);
}

void batch_fini(Batch *b) {
  mprt_close(b->program);
  free(b->image);
  *b = (Batch){0};
}
