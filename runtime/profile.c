/* Where a training step's time goes: the commands of train_step timed one by one. */
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

typedef struct {
  double *seconds; /* per command of the image */
  double last;
} Profile;

static bool take_time(void *user, mprt_program *p, const MpccCommand *c) {
  Profile *f = user;
  double now = mprt__seconds();
  f->seconds[c - p->command] += now - f->last;
  f->last = mprt__seconds();
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
static size_t gather(const mprt_program *p, const MpccFunction *f, const Profile *t, Line *line) {
  size_t n = 0;
  for (uint32_t i = 0; i < f->ncommands; i++) {
    const MpccCommand *c = &p->command[f->first_command + i];
    uint32_t kernel = c->op == MPCC_CMD_LAUNCH ? c->kernel : UINT32_MAX - c->op;
    size_t k = 0;
    while (k < n && line[k].kernel != kernel)
      k++;
    if (k == n)
      line[n++] = (Line){.label = mprt__string(p, c->label), .kernel = kernel};
    line[k].seconds += t->seconds[f->first_command + i];
    line[k].launches++;
  }
  qsort(line, n, sizeof *line, slower);
  return n;
}

static char *render(const mprt_program *p, const Line *line, size_t n, int64_t steps) {
  double total = 0;
  for (size_t i = 0; i < n; i++)
    total += line[i].seconds;
  char *text = mprt__format("train_step: %.3f ms, %d threads\n      ms  share  launches  kernel\n",
                            1e3 * total / (double)steps, mprt__pool_threads(p->pool));
  for (size_t i = 0; i < n && text; i++) {
    const char *symbol = line[i].kernel < p->nkernel
                             ? mprt__string(p, p->kernel[line[i].kernel].symbol)
                             : "copy or fill";
    char *more = mprt__format("%s%8.3f  %4.1f%%  %8u  %s  %s\n", text,
                              1e3 * line[i].seconds / (double)steps, 100 * line[i].seconds / total,
                              line[i].launches, symbol, line[i].label);
    free(text);
    text = more;
  }
  return text;
}

mpcc_status mprt_profile(mprt_program *p, int64_t steps, char **text) {
  *text = NULL;
  const MpccFunction *f = mprt__function(p, "train_step");
  if (!f)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "the program has no train_step");
  Profile t = {.seconds = calloc(p->ncommand + 1, sizeof *t.seconds)};
  Line *line = calloc(f->ncommands + 1, sizeof *line);
  Status st = t.seconds && line ? MPCC_OK : mprt__nomem(&p->cb, "profile");
  for (int64_t i = -1; st == MPCC_OK && i < steps; i++) { /* the first one warms up */
    if (i == 0)
      memset(t.seconds, 0, (p->ncommand + 1) * sizeof *t.seconds);
    t.last = mprt__seconds();
    st = mprt__run(p, f, take_time, &t);
  }
  if (st == MPCC_OK) {
    *text = render(p, line, gather(p, f, &t, line), steps);
    if (!*text)
      st = mprt__nomem(&p->cb, "profile");
  }
  free(t.seconds);
  free(line);
  return st;
}
