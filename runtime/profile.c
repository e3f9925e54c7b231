/* Where a training step's time goes: the commands of train_step timed one by one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

struct mprt__profile {
  double *seconds; /* per command of the image */
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

double *mprt__profile_seconds(mprt__profile *f) {
  return f->seconds;
}

typedef struct {
  const MpccCommand *of; /* the first */
  uint32_t launches, layers;
  double seconds, bytes; /* bytes: all arguments of a step, each once a launch */
} Line;

static int slower(const void *a, const void *b) {
  double x = ((const Line *)a)->seconds, y = ((const Line *)b)->seconds;
  return (x < y) - (x > y);
}

/* The same kernel, or products of the same shape. */
static bool alike(const mprt_program *p, const MpccCommand *a, const MpccCommand *b) {
  if (a->op != b->op)
    return false;
  if (a->op != MPCC_CMD_PRODUCT)
    return a->op != MPCC_CMD_LAUNCH || a->kernel == b->kernel;
  const MpccArgRef *x = &p->argref[a->first_arg + a->nargs - MPCC_PRODUCT_INTS];
  const MpccArgRef *y = &p->argref[b->first_arg + b->nargs - MPCC_PRODUCT_INTS];
  for (uint32_t i = 0; i < MPCC_PRODUCT_INTS; i++)
    if (x[i].offset != y[i].offset)
      return false;
  return true;
}

/* "rows_0123", "1024 x 768 x 3072 bf16", "copy or fill" */
static void name_of(const mprt_program *p, const MpccCommand *c, char name[80]) {
  if (c->op == MPCC_CMD_LAUNCH) {
    snprintf(name, 80, "%s", mprt__string(p, p->kernel[c->kernel].symbol));
  } else if (c->op == MPCC_CMD_PRODUCT) {
    const MpccArgRef *at = &p->argref[c->first_arg + c->nargs - MPCC_PRODUCT_INTS];
    MpccProduct m;
    int64_t ints[MPCC_PRODUCT_INTS];
    for (uint32_t i = 0; i < MPCC_PRODUCT_INTS; i++)
      ints[i] = at[i].offset;
    memcpy(&m, ints, sizeof m);
    snprintf(name, 80, "%lld x %lld x %lld %s", (long long)m.rows, (long long)m.k,
             (long long)m.cols, dtype_text((DType)m.a_dtype));
  } else {
    snprintf(name, 80, "copy or fill");
  }
}

static double bytes_of(const mprt_program *p, const MpccCommand *c) {
  double bytes = 0;
  for (uint32_t i = 0; i < c->nargs; i++)
    bytes += (double)p->argref[c->first_arg + i].bytes; /* of integers 0 */
  return bytes;
}

/* No command alike before c belongs to its layer. */
static bool is_new_layer(const mprt_program *p, const MpccCommand *first, const MpccCommand *c) {
  for (const MpccCommand *b = first; b < c; b++)
    if (b->layer == c->layer && alike(p, b, c))
      return false;
  return *mprt__string(p, c->layer);
}

/* Commands that are alike make one line. */
static size_t gather(const mprt_program *p, const mprt__profile *t, Line *line) {
  size_t n = 0;
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    if (t->seconds[i] <= 0)
      continue; /* of another function */
    size_t k = 0;
    while (k < n && !alike(p, line[k].of, c))
      k++;
    if (k == n)
      line[n++] = (Line){.of = c};
    line[k].seconds += t->seconds[i];
    line[k].bytes += bytes_of(p, c);
    line[k].launches++;
    line[k].layers += is_new_layer(p, line[k].of, c);
  }
  qsort(line, n, sizeof *line, slower);
  return n;
}

static char *render(const mprt_program *p, const Line *line, size_t n, int64_t steps) {
  double total = 0;
  for (size_t i = 0; i < n; i++)
    total += line[i].seconds;
  char where[40] = "the GPU";
  if (!p->cuda)
    snprintf(where, sizeof where, "%d threads", mprt__pool_threads(p->pool));
  char *text = mprt__format("a step: %.3f ms in kernels, %s\n"
                            "      ms  share  launches   GB/s  kernel, what it computes, layers\n",
                            1e3 * total / (double)steps, where);
  for (size_t i = 0; i < n && text; i++) {
    const Line *l = &line[i];
    char name[80], others[24] = "";
    name_of(p, l->of, name);
    if (l->layers > 1)
      snprintf(others, sizeof others, " and %u more", l->layers - 1);
    char *more = mprt__format("%s%8.3f  %4.1f%%  %8u  %5.1f  %s  %s  %s%s\n", text,
                              1e3 * l->seconds / (double)steps, 100 * l->seconds / total,
                              l->launches, 1e-9 * l->bytes * (double)steps / l->seconds, name,
                              mprt__string(p, l->of->label), mprt__string(p, l->of->layer), others);
    free(text);
    text = more;
  }
  return text;
}

/* malloc'ed; NULL: memory. */
static char *text_of(const mprt__profile *t, const mprt_program *p, int64_t steps) {
  Line *line = calloc((size_t)p->ncommand + 1, sizeof *line);
  char *text = line ? render(p, line, gather(p, t, line), steps) : NULL;
  free(line);
  return text;
}

Status mprt__profile_write(const mprt__profile *t, const mprt_program *p, int64_t steps,
                           const char *dir) {
  char *path = mprt__format("%s/profile.txt", dir), *text = text_of(t, p, steps);
  Status st = path && text ? mprt__file_write(path, text, strlen(text), &p->cb)
                           : mprt__nomem(&p->cb, "profile");
  if (st == MPCC_OK)
    mprt__log(&p->cb, MPRT_LOG_INFO, "%.*s (%s)", (int)strcspn(text, "\n"), text, path);
  free(path);
  free(text);
  return st;
}

mpcc_status mprt_profile(mprt_program *p, int64_t steps, char **text) {
  *text = NULL;
  const MpccFunction *f = mprt__function(p, "train_step");
  if (!f)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "the program has no train_step");
  if (steps < 1)
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "a profile is of 1 step or more, not %lld",
                      (long long)steps);
  mprt__profile *t = mprt__profile_create(p);
  Status st = t ? MPCC_OK : mprt__nomem(&p->cb, "profile");
  for (int64_t i = -1; st == MPCC_OK && i < steps; i++) { /* the first one warms up */
    if (i == 0)
      memset(t->seconds, 0, ((size_t)p->ncommand + 1) * sizeof *t->seconds);
    st = mprt__run_timed(p, f, NULL, NULL, t->seconds);
  }
  if (st == MPCC_OK) {
    *text = text_of(t, p, steps);
    if (!*text)
      st = mprt__nomem(&p->cb, "profile");
  }
  mprt__profile_destroy(t);
  return st;
}
