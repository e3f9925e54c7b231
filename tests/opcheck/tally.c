/* Results of one run beside those of another: of another target, or of this one on another machine.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "opcheck.h"

void tally_truth(Tally *t, DType dt, const double *a, const double *b, const double *truth,
                 int64_t n) {
  for (int64_t k = 0; dtype_is_float(dt) && dtype_bytes(dt) <= 2 && k < n; k++) {
    t->off += a[k] != truth[k] && !(isnan(a[k]) && isnan(truth[k]));
    t->other_off += b[k] != truth[k] && !(isnan(b[k]) && isnan(truth[k]));
  }
}

void tally_add(Tally *t, DType dt, const double *a, const double *b, int64_t n, const char *name) {
  double most = 0, worst = 0;
  const bool codes = dtype_is_float(dt) && dtype_bytes(dt) <= 2;
  for (int64_t k = 0; k < n; k++) {
    const bool same = a[k] == b[k] || (isnan(a[k]) && isnan(b[k]));
    t->elements += codes;
    t->unequal += codes && !same;
    if (isfinite(b[k]))
      most = fmax(most, fabs(b[k]));
    if (!codes && !same)
      worst = isfinite(a[k] - b[k]) ? fmax(worst, fabs(a[k] - b[k])) : INFINITY;
  }
  worst = worst > 0 ? worst / (most > 0 ? most : 1) : 0;
  if (worst > t->worst) {
    t->worst = worst;
    snprintf(t->where, sizeof t->where, "%s", name);
  }
}

/* ---- files: a line of names, then the elements as they are stored
 * -------------------------------- */

static char *read_all(const char *path, size_t *bytes) {
  FILE *f = fopen(path, "rb");
  if (!f)
    return NULL;
  char *data = NULL;
  fseek(f, 0, SEEK_END);
  const long n = ftell(f);
  rewind(f);
  if (n >= 0 && (data = malloc((size_t)n + 1)) != NULL) {
    *bytes = fread(data, 1, (size_t)n, f);
    data[*bytes] = 0;
  }
  fclose(f);
  return data;
}

bool saved_open(Saved *s, const char *to, const char *from) {
  *s = (Saved){.to = to ? fopen(to, "wb") : NULL};
  s->from = from ? read_all(from, &s->from_bytes) : NULL;
  if ((to && !s->to) || (from && !s->from)) {
    fprintf(stderr, "opcheck: cannot open %s\n", to && !s->to ? to : from);
    return false;
  }
  return true;
}

bool saved_close(Saved *s) {
  const bool ok = !s->to || !fclose(s->to);
  s->to = NULL;
  free(s->from);
  s->from = NULL;
  return ok;
}

/* Where the elements behind `line` begin; NULL: they are not there. Runs have one order, but one
 * may lack what failed in it: the search goes on from the last hit. */
static const char *find_line(Saved *s, const char *line, size_t bytes) {
  const size_t len = strlen(line);
  for (int round = 0; round < 2; round++) {
    const char *from = s->from + (round ? 0 : s->at);
    const char *hit = memmem(from, s->from_bytes - (size_t)(from - s->from), line, len);
    if (!hit)
      continue;
    const size_t at = (size_t)(hit - s->from) + len;
    if (at + bytes > s->from_bytes)
      return NULL;
    s->at = at + bytes;
    return s->from + at;
  }
  return NULL;
}

void saved_result(Saved *s, const Inst *i, const char *numerics, const Tensor *t, const double *x) {
  char name[NAME_MAX_BYTES], line[4 * NAME_MAX_BYTES];
  const DType dt = t->type->dt;
  const size_t size = dtype_bytes(dt), n = (size_t)type_elems(t->type);
  inst_name(i, name);
  snprintf(line, sizeof line, "\n@%s %s %s %s %s %s %zu\n", name, dtype_text(i->dt), i->shape,
           numerics, t->name, dtype_text(dt), n);
  if (s->to) {
    fputs(line, s->to);
    for (size_t k = 0; k < n; k++) {
      unsigned char element[8];
      num_store(element, dt, x[k]);
      fwrite(element, 1, size, s->to);
    }
  }
  if (!s->from)
    return;
  const char *at = find_line(s, line, n * size);
  double *other = at ? malloc((n + 1) * sizeof *other) : NULL;
  s->missing += !other;
  if (!other)
    return;
  for (size_t k = 0; k < n; k++)
    other[k] = num_load(at + k * size, dt);
  tally_add(&s->tally, dt, x, other, (int64_t)n, line + 2);
  free(other);
}
