/* Looks for values that are not finite, and says where they came from. */
#include <math.h>
#include <stdio.h>

#include "mpcc/num.h"
#include "runtime/fit.h"

void mprt__scan_data(mprt__scan *s, const uint8_t *data, int64_t n, DType dt) {
  *s = (mprt__scan){.dtype = dt, .n = n};
  for (int64_t i = 0; i < n; i++) {
    double v = num_load(data + (size_t)i * dtype_bytes(dt), dt);
    if (!isfinite(v)) {
      s->found = true;
      s->is_nan |= isnan(v);
      s->bad++;
    } else if (fabs(v) > s->amax) {
      s->amax = fabs(v);
    }
  }
}

bool mprt__scan_outputs(void *user, mprt_program *p, const MpccCommand *c) {
  mprt__scan *s = user;
  const char *dtypes = mprt__string(p, c->value_dtypes);
  for (uint32_t k = 0; k < c->nout && !s->found; k++) {
    uint32_t a = c->first_arg + c->first_out + k;
    DType dt = (DType)(dtypes[k] - 'a');
    if (!dtype_is_float(dt))
      continue;
    mprt__scan_data(s, p->arg[a].p, (int64_t)(p->argref[a].bytes / dtype_bytes(dt)), dt);
    s->command = c;
  }
  return !s->found;
}

void mprt__scan_describe(const mprt_program *p, const mprt__scan *s, FILE *out) {
  const char *what = s->is_nan ? "NaN" : "infinity";
  if (s->command)
    fprintf(out, "  first non-finite: %s in %lld of %lld elements of the output of %s (%s, %s)\n",
            what, (long long)s->bad, (long long)s->n, mprt__string(p, s->command->layer),
            mprt__string(p, s->command->label), mprt__string(p, s->command->source));
  else
    fprintf(out, "  before the step: %s in %lld of %lld elements of %s\n", what, (long long)s->bad,
            (long long)s->n, s->name);
  fprintf(out, "  stored as %s, which reaches %.5g; ", dtype_text(s->dtype),
          dtype_info(s->dtype)->max_finite);
  if (s->bad < s->n)
    fprintf(out, "the largest finite magnitude there is %.4g\n", s->amax);
  else
    fprintf(out, "nothing finite is there\n");
}
