/* What follows when a monitored metric does or does not improve: ReduceLROnPlateau and early
 * stopping. Both remember a few numbers, which state.json carries under "fit". Sources:
 * torch.optim.lr_scheduler.ReduceLROnPlateau (PyTorch 2), lightning EarlyStopping (2.x). */
#include <math.h>
#include <string.h>

#include "runtime/fit.h"

static bool wants_max(const json_t *config) {
  return !strcmp(mprt__json_string(config, "mode", "min"), "max");
}

/* ---- ReduceLROnPlateau ---- */

const json_t *mprt__plateau(const mprt_program *p) {
  const json_t *s = mprt__json_get(p->spec, "scheduler");
  return strcmp(mprt__json_string(s, "type", ""), "ReduceLROnPlateau") ? NULL : s;
}

/* rel: a share of best whatever its sign, as torch has it */
static bool improves(const json_t *s, double value, double best) {
  double threshold = mprt__json_double(s, "threshold", 1e-4);
  if (strcmp(mprt__json_string(s, "threshold_mode", "rel"), "abs"))
    return wants_max(s) ? value > best * (1 + threshold) : value < best * (1 - threshold);
  return wants_max(s) ? value > best + threshold : value < best - threshold;
}

void mprt__plateau_step(mprt_program *p, double metric) {
  const json_t *s = mprt__plateau(p);
  mprt__patience *state = &p->plateau;
  double best = state->seen ? state->best : wants_max(s) ? -INFINITY : INFINITY;
  state->bad++;
  if (improves(s, metric, best)) {
    state->best = metric;
    state->seen = true;
    state->bad = 0;
  }
  if (state->cooldown > 0) {
    state->cooldown--;
    state->bad = 0;
  }
  if (state->bad > mprt__json_int(s, "patience", 10)) {
    state->reductions++;
    state->cooldown = mprt__json_int(s, "cooldown", 0);
    state->bad = 0;
  }
}

double mprt__plateau_lr(const mprt_program *p, double rate) {
  const json_t *s = mprt__plateau(p);
  double factor = mprt__json_double(s, "factor", 0.1), min = mprt__json_double(s, "min_lr", 0);
  double eps = mprt__json_double(s, "eps", 1e-8);
  for (int64_t i = 0; i < p->plateau.reductions; i++) {
    double next = fmax(rate * factor, min);
    if (rate - next <= eps)
      break;
    rate = next;
  }
  return rate;
}

/* ---- early stopping ---- */

const char *mprt__early_stop(mprt_program *p, double metric) {
  const json_t *s = mprt__json_get(p->spec, "early_stopping");
  mprt__patience *state = &p->stopping;
  bool max = wants_max(s);
  const json_t *good = json_object_get(s, "stopping_threshold");
  const json_t *worst = json_object_get(s, "divergence_threshold");
  double delta = mprt__json_double(s, "min_delta", 0);
  if (mprt__json_bool(s, "check_finite", true) && !isfinite(metric))
    return "is not finite";
  if (json_is_number(good) &&
      (max ? metric > json_number_value(good) : metric < json_number_value(good)))
    return "has reached stopping_threshold";
  if (json_is_number(worst) &&
      (max ? metric < json_number_value(worst) : metric > json_number_value(worst)))
    return "has passed divergence_threshold";
  if (!state->seen || (max ? metric - delta > state->best : metric + delta < state->best)) {
    state->best = metric;
    state->seen = true;
    state->bad = 0;
    return NULL;
  }
  return ++state->bad >= mprt__json_int(s, "patience", 3) ? "has not improved" : NULL;
}

/* ---- state.json ---- */

static json_t *patience_json(const mprt__patience *v) {
  json_t *o =
      json_pack("{s:b, s:I, s:I, s:I}", "seen", v->seen, "bad", (json_int_t)v->bad, "cooldown",
                (json_int_t)v->cooldown, "reductions", (json_int_t)v->reductions);
  if (o && isfinite(v->best)) /* JSON has no other numbers */
    json_object_set_new(o, "best", json_real(v->best));
  return o;
}

static mprt__patience patience_read(const json_t *o) {
  return (mprt__patience){.seen = mprt__json_bool(o, "seen", false),
                          .best = mprt__json_double(o, "best", NAN),
                          .bad = mprt__json_int(o, "bad", 0),
                          .cooldown = mprt__json_int(o, "cooldown", 0),
                          .reductions = mprt__json_int(o, "reductions", 0)};
}

Status mprt__fit_remember(mprt_program *p) {
  json_t *o = json_pack("{s:o, s:o, s:o}", "plateau", patience_json(&p->plateau), "early_stopping",
                        patience_json(&p->stopping), "checkpoints", mprt__keep_json(p));
  if (!o)
    return mprt__nomem(&p->cb, "checkpoint");
  json_decref(p->fit_state);
  p->fit_state = o;
  return MPCC_OK;
}

void mprt__fit_recall(mprt_program *p) {
  p->plateau = patience_read(json_object_get(p->fit_state, "plateau"));
  p->stopping = patience_read(json_object_get(p->fit_state, "early_stopping"));
}
