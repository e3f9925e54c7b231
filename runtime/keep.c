/* Which checkpoints of a run stay: the newest, the best, the best save_top_k and the newest keep_last.
 * The list is remembered in state.json (under "fit"), so a resumed run goes on deleting its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/fit.h"

static int64_t top_k(const mprt_program *p) {
  return mprt__json_int(p->spec, "checkpoint.save_top_k", 1);
}

/* Whether value a ranks before b; what was not measured ranks last. */
static bool better(const mprt_program *p, double a, double b) {
  if (isnan(a) || isnan(b))
    return !isnan(a) && isnan(b);
  return strcmp(mprt__json_string(p->spec, "checkpoint.mode", "min"), "max") ? a < b : a > b;
}

/* Checkpoints that rank before item i; the earlier of equal ones does. */
static int64_t rank(const mprt_program *p, double value, int64_t step) {
  int64_t n = 0;
  for (int k = 0; k < p->kept.n; k++) {
    const mprt__kept *o = &p->kept.item[k];
    n += o->step != step && (better(p, o->value, value) ||
                             (!better(p, value, o->value) && o->step < step));
  }
  return n;
}

bool mprt__keep_is_best(const mprt_program *p, double value) {
  const mprt__cursor *c = &p->cursor;
  return !isnan(value) && (c->best_step <= 0 || better(p, value, c->best_value));
}

bool mprt__keep_wants(const mprt_program *p, double value, int64_t step) {
  int64_t k = top_k(p);
  if (isnan(value) || k == 0)
    return false;
  return mprt__keep_is_best(p, value) || (k > 0 && rank(p, value, step) < k);
}

Status mprt__keep_add(mprt_program *p, int64_t step, double value) {
  for (int i = 0; i < p->kept.n; i++)
    if (p->kept.item[i].step == step) {
      if (!isnan(value))
        p->kept.item[i].value = value;
      return MPCC_OK;
    }
  mprt__kept *grown = realloc(p->kept.item, ((size_t)p->kept.n + 1) * sizeof *grown);
  if (!grown)
    return mprt__nomem(&p->cb, "checkpoint");
  p->kept.item = grown;
  grown[p->kept.n++] = (mprt__kept){step, value};
  return MPCC_OK;
}

static bool stays(const mprt_program *p, const mprt__kept *c, int64_t now) {
  int64_t k = top_k(p), last = mprt__json_int(p->spec, "checkpoint.keep_last", 0), newer = 0;
  for (int i = 0; i < p->kept.n; i++)
    newer += p->kept.item[i].step > c->step;
  return c->step == now || c->step == p->cursor.best_step || (k < 0 && !last) || newer < last ||
         (k > 0 && !isnan(c->value) && rank(p, c->value, c->step) < k);
}

static char *folder_of(const char *out_dir, int64_t step) {
  return mprt__format("%s/checkpoints/step-%08lld", out_dir, (long long)step);
}

void mprt__keep_prune(mprt_program *p, const char *out_dir, int64_t now) {
  int n = 0;
  bool *stay = calloc((size_t)p->kept.n + 1, sizeof *stay);
  for (int i = 0; stay && i < p->kept.n; i++)
    stay[i] = stays(p, &p->kept.item[i], now);
  for (int i = 0; stay && i < p->kept.n; i++) {
    mprt__kept c = p->kept.item[i];
    char *dir = stay[i] ? NULL : folder_of(out_dir, c.step);
    if (dir)
      mprt__dir_remove(dir);
    free(dir);
    if (stay[i])
      p->kept.item[n++] = c;
  }
  if (stay)
    p->kept.n = n;
  free(stay);
}

json_t *mprt__keep_json(const mprt_program *p) {
  json_t *list = json_array();
  for (int i = 0; list && i < p->kept.n; i++) {
    const mprt__kept *c = &p->kept.item[i];
    json_t *value = isfinite(c->value) ? json_real(c->value) : json_null();
    if (json_array_append_new(list, json_pack("[I, o]", (json_int_t)c->step, value))) {
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

Status mprt__keep_recall(mprt_program *p, const json_t *list, const char *out_dir, int64_t now) {
  Status st = MPCC_OK;
  p->kept.n = 0;
  for (size_t i = 0; st == MPCC_OK && i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i), *value = json_array_get(item, 1);
    int64_t step = json_integer_value(json_array_get(item, 0));
    char *dir = step > 0 && step <= now ? folder_of(out_dir, step) : NULL;
    if (dir && mprt__checkpoint_complete(dir)) /* a run that goes on elsewhere left them behind */
      st = mprt__keep_add(p, step, json_is_number(value) ? json_number_value(value) : NAN);
    free(dir);
  }
  return st;
}
