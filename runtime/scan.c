/* Looks for values that are not finite, and says where they came from. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/fit.h"

void mprt__scan_data(mprt__scan *s, const uint8_t *data, int64_t n, DType dt) {
  s->dtype = dt;
  s->n = n;
  s->bad = 0;
  s->amax = 0;
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

/* How far a magnitude is on the way to the end of its format, on a scale of exponents. */
static double reach(double amax, DType dt) {
  return amax > 1 ? log(amax) / log(dtype_info(dt)->max_finite) : 0;
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
    if (c->rounds_to) /* stored wider than what it was rounded to */
      s->dtype = dt = (DType)(c->rounds_to - 1);
    s->command = c;
    /* codes of 8 bits are scaled to the end of their format */
    if (!s->found && *mprt__string(p, c->layer) && dtype_bytes(dt) > 1 &&
        reach(s->amax, dt) > reach(s->largest.amax, s->largest.dtype))
      s->largest = (mprt__largest){c, dt, s->amax};
  }
  return !s->found;
}

/* The command of the layer that is called name[0, n), NULL: there is none. */
static const MpccCommand *command_of(const mprt_program *p, const char *name, size_t n) {
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const char *layer = mprt__string(p, p->command[i].layer);
    if (!strncmp(layer, name, n) && !layer[n])
      return &p->command[i];
  }
  return NULL;
}

/* "LAYER.weight", or "LAYER" of a layer Parameter, whose initialisation is called by the same name.
 */
static const MpccCommand *layer_of_tensor(const mprt_program *p, const char *name, size_t *length) {
  const MpccCommand *c = NULL;
  size_t whole = strlen(name);
  for (*length = whole; !c && --*length > 0;)
    c = name[*length] == '.' ? command_of(p, name, *length) : NULL;
  return c || !(*length = whole) ? c : command_of(p, name, whole);
}

const char *mprt__scan_layer(const mprt_program *p, const mprt__scan *s, size_t *length,
                             const char **place) {
  const char *name = s->command ? mprt__string(p, s->command->layer) : s->name;
  const MpccCommand *c = s->command;
  *length = strlen(name);
  if (!c) {
    const char *prefix = strchr(name, '.'); /* of copies and gradients: weight. and grad. */
    c = layer_of_tensor(p, name, length);
    if (!c && prefix && (c = layer_of_tensor(p, prefix + 1, length)) != NULL)
      name = prefix + 1;
  }
  *place = c ? mprt__string(p, c->source) : "";
  return name;
}

static void describe_output(const mprt_program *p, const MpccCommand *c, FILE *out) {
  const char *layer = mprt__string(p, c->layer), *label = mprt__string(p, c->label);
  const char *others = mprt__string(p, c->others);
  if (*layer)
    fprintf(out, "the output of %s (%s, %s%s%s)", layer, label, mprt__string(p, c->source),
            *others ? "; " : "", others);
  else
    fprintf(out, "the update (%s)", label);
}

void mprt__scan_describe(const mprt_program *p, const mprt__scan *s, FILE *out) {
  const char *what = s->is_nan ? "NaN" : "infinity", *place;
  size_t n;
  const char *layer = mprt__scan_layer(p, s, &n, &place);
  fprintf(out, "  %s: %s in %lld of %lld elements of ",
          s->command ? "first non-finite"
          : s->when  ? s->when
                     : "before the step",
          what, (long long)s->bad, (long long)s->n);
  if (s->command)
    describe_output(p, s->command, out);
  else if (*place)
    fprintf(out, "%s (layer %.*s, %s)", s->name, (int)n, layer, place);
  else
    fputs(s->name, out);
  fprintf(out, "\n  %s %s, which reaches %.5g; ",
          s->command && s->command->rounds_to ? "rounded to" : "stored as", dtype_text(s->dtype),
          dtype_info(s->dtype)->max_finite);
  if (s->bad < s->n)
    fprintf(out, "the largest finite magnitude there is %.4g\n", s->amax);
  else
    fprintf(out, "nothing finite is there\n");
  if (s->largest.command && (s->is_nan || !*mprt__string(p, s->command->layer))) {
    fprintf(out, "  largest before it: %.4g of %s's %.5g in ", s->largest.amax,
            dtype_text(s->largest.dtype), dtype_info(s->largest.dtype)->max_finite);
    describe_output(p, s->largest.command, out);
    fputc('\n', out);
  }
}
