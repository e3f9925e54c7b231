/* Where a training step's time goes: the commands of train_step timed one by one. */
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

struct mprt__profile {
  double *seconds; /* per command of the image */
  double last;
};

mprt__profile *mprt__profile_create(const mprt_program *p) {
  mprt__profile *f = calloc(1, sizeof *f);
  if (f)
    f->seconds = calloc((size_t)p->ncommand + 1, sizeof *f->seconds);
  if (f && f->seconds)
    return f;
  free(f);
  return NULL;
}

void mprt__profile_destroy(mprt__profile *f) {
  if (f)
    free(f->seconds);
  free(f);
}

void mprt__profile_begin(mprt__profile *f) {
  f->last = mprt__seconds();
}

void mprt__profile_take(mprt__profile *f, const mprt_program *p, const MpccCommand *c) {
  f->seconds[c - p->command] += mprt__seconds() - f->last;
}

static bool take_time(void *user, mprt_program *p, const MpccCommand *c) {
  mprt__profile_take(user, p, c);
  mprt__profile_begin(user);
  return true;
}

typedef struct {
  const char *label;
  uint32_t kernel, launches;
  double seconds;
} Line;

static int slower(const void *a, const void *b) {
  double x = ((const Line *)a)->seconds, y = ((const Line *)b)->seconds;
  return (x < y) - (x > y);
}

/* Commands of the same kernel make one line. */
static size_t gather(const mprt_program *p, const mprt__profile *t, Line *line) {
  size_t n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    if (t->seconds[i] <= 0)
      continue; /* of another function */
    uint32_t kernel = c->op == MPCC_CMD_LAUNCH ? c->kernel : UINT32_MAX - c->op;
    size_t k = 0;
    while (k < n && line[k].kernel != kernel)
      k++;
    if (k == n)
      line[n++] = (Line){.label = mprt__string(p, c->label), .kernel = kernel};
    line[k].seconds += t->seconds[i];
    line[k].launches++;
  }
  qsort(line, n, sizeof *line, slower);
  return n;
}

static char *render(const mprt_program *p, const Line *line, size_t n, int64_t steps) {
  double total = 0;
  for (size_t i = 0; i < n; i++)
    total += line[i].seconds;
  char *text =
      mprt__format("a step: %.3f ms in kernels, %d threads\n      ms  share  launches  kernel\n",
                   1e3 * total / (double)steps, mprt__pool_threads(p->pool));
  for (size_t i = 0; i < n && text; i++) {
    const char *symbol = line[i].kernel < p->nkernel
                             ? mprt__string(p, p->kernel[line[i].kernel].symbol)
                             : "copy or fill";
    char *more =
        mprt__format("%s%8.3f  %4.1f%%  %8u  %s  %s\n", text, 1e3 * line[i].seconds / (double)steps,
                     100 * line[i].seconds / total, line[i].launches, symbol, line[i].label);
    free(text);
    text = more;
  }
  return text;
}

char *mprt__profile_text(const mprt__profile *t, const mprt_program *p, int64_t steps) {
  Line *line = calloc((size_t)p->ncommand + 1, sizeof *line);
  char *text = line ? render(p, line, gather(p, t, line), steps) : NULL;
  free(line);
  return text;
}

mpcc_status mprt_profile(mprt_program *p, int64_t steps, char **text) {
  *text = NULL;
  const MpccFunction *f = mprt__function(p, "train_step");
  if (!f)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "the program has no train_step");
  mprt__profile *t = mprt__profile_create(p);
  Status st = t ? MPCC_OK : mprt__nomem(&p->cb, "profile");
  for (int64_t i = -1; st == MPCC_OK && i < steps; i++) { /* the first one warms up */
    if (i == 0)
      memset(t->seconds, 0, ((size_t)p->ncommand + 1) * sizeof *t->seconds);
    mprt__profile_begin(t);
    st = mprt__run(p, f, take_time, t);
  }
  if (st == MPCC_OK) {
    *text = mprt__profile_text(t, p, steps);
    if (!*text)
      st = mprt__nomem(&p->cb, "profile");
  }
  mprt__profile_destroy(t);
  return st;
}
