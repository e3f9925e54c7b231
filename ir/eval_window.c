/* Static windows in the reference interpreter: pooling, interpolation and their gradients, as ops
 * in torch's order and as the group kind `window` in any order. */
#include <math.h>
#include <string.h>

#include "ir/eval.h"

/* Strides of one side over [N, C, axes...]. */
typedef struct {
  int64_t n, c, axis[CONV_AXES];
} Side;

typedef struct {
  const WindowTables *t;
  Side from, to, other; /* other: second operand */
  const double *x, *second;
  double *y, *tap;
} Run;

static Side dense(const int64_t *extent, int nd, int64_t channels) {
  Side s = {0};
  int64_t stride = 1;
  for (int i = nd - 1; i >= 0; i--) {
    s.axis[i] = stride;
    stride *= extent[i];
  }
  s.c = stride;
  s.n = stride * channels;
  return s;
}

/* Entry numbers of each axis, odometer from the first to behind the last; false when none is left.
 */
static bool next_entry(const WindowTables *t, const int64_t *place, int64_t *e) {
  for (int i = t->nd - 1; i >= 0; i--) {
    if (++e[i] < t->axis[i].start[place[i] + 1])
      return true;
    e[i] = t->axis[i].start[place[i]];
  }
  return false;
}

static double window_at(const Run *r, WindowMode mode, const int64_t *place, int64_t base,
                        int64_t base2, int64_t *taken) {
  const WindowTables *t = r->t;
  int64_t e[CONV_AXES];
  double sum = mode == WINDOW_MAX ? -INFINITY : 0;
  *taken = -1;
  for (int i = 0; i < t->nd; i++) {
    e[i] = t->axis[i].start[place[i]];
    if (e[i] == t->axis[i].start[place[i] + 1])
      return mode == WINDOW_MAX ? sum : 0;
  }
  do {
    int64_t at = base, at2 = base2, tap = 0;
    double weight = 1;
    for (int i = 0; i < t->nd; i++) {
      at += t->axis[i].index[e[i]] * r->from.axis[i];
      at2 += t->axis[i].index[e[i]] * r->other.axis[i];
      tap = tap * t->kernel[i] + t->axis[i].tap[e[i]];
      weight *= t->axis[i].weight[e[i]];
    }
    double x = r->x[at];
    if (mode == WINDOW_MAX) {
      if (*taken < 0 || x > sum || isnan(x))
        *taken = tap, sum = x;
    } else if (mode == WINDOW_MAX_GRAD) {
      sum += r->second[at2] == (double)tap ? x : 0;
    } else {
      sum += x * weight;
    }
  } while (next_entry(t, place, e));
  return sum;
}

static void run(const Run *r, WindowMode mode, int64_t batch, int64_t channels) {
  const WindowTables *t = r->t;
  int64_t all = 1;
  for (int i = 0; i < t->nd; i++)
    all *= t->axis[i].to;
  for (int64_t n = 0; n < batch; n++)
    for (int64_t c = 0; c < channels; c++)
      for (int64_t p = 0; p < all; p++) {
        int64_t place[CONV_AXES], rest = p, to = n * r->to.n + c * r->to.c, taken;
        for (int i = t->nd - 1; i >= 0; i--) {
          place[i] = rest % t->axis[i].to;
          rest /= t->axis[i].to;
          to += place[i] * r->to.axis[i];
        }
        int64_t base2 = n * r->other.n + c * r->other.c;
        r->y[to] = window_at(r, mode, place, n * r->from.n + c * r->from.c, base2, &taken);
        if (r->tap)
          r->tap[to] = (double)taken;
      }
}

/* ---- ops: [N, C, axes...] -------------------------------------------------------------------- */

static Status op_run(const Call *c, WindowMode mode, bool turned) {
  const Type *x = c->op->in[0]->type, *y = c->op->out[0]->type;
  WindowTables t;
  Status s = window_tables(c->op, turned, &t);
  if (s != MPCC_OK)
    return s;
  Run r = {.t = &t,
           .from = dense(x->dim + 2, t.nd, x->dim[1]),
           .to = dense(y->dim + 2, t.nd, x->dim[1]),
           .x = c->in[0],
           .y = c->out[0]};
  r.other = r.from;
  r.second = c->op->nin > 1 ? c->in[1] : NULL;
  r.tap = mode == WINDOW_MAX ? c->out[1] : NULL;
  run(&r, mode, x->dim[0], x->dim[1]);
  window_tables_fini(&t);
  return MPCC_OK;
}

Status ref_max_pool(const Call *c) {
  return op_run(c, WINDOW_MAX, false);
}

Status ref_max_pool_grad(const Call *c) {
  return op_run(c, WINDOW_MAX_GRAD, true);
}

Status ref_resample(const Call *c) {
  return op_run(c, WINDOW_SUM, op_int(c->op, "turned", 0));
}

/* ---- the group kind: [N, axes..., C] with any strides ---------------------------------------- */

static Side side_of(const Access *a, int nd) {
  Side s = {.n = a->stride[0], .c = a->stride[nd + 1]};
  for (int i = 0; i < nd; i++)
    s.axis[i] = a->stride[1 + i];
  return s;
}

Status eval_window(const Call *c) {
  const Body *b = c->op->body;
  WindowTables t;
  WindowMode mode = window_mode(c->op);
  Status s = mode == WINDOW_MODES ? MPCC_ERR_INTERNAL
                                  : window_tables(c->op, op_int(c->op, "turned", 0), &t);
  if (s != MPCC_OK)
    return s;
  Run r = {.t = &t,
           .from = side_of(&b->in[0], t.nd),
           .to = side_of(&b->out[0], t.nd),
           .x = c->in[0] + b->in[0].offset,
           .y = c->out[0] + b->out[0].offset};
  if (b->nin > 1) {
    r.other = side_of(&b->in[1], t.nd);
    r.second = c->in[1] + b->in[1].offset;
  }
  if (mode == WINDOW_MAX && b->nout > 1)
    r.tap = c->out[1] + b->out[1].offset; /* lies as the first result does */
  run(&r, mode, b->dim[0], b->dim[t.nd + 1]);
  window_tables_fini(&t);
  return MPCC_OK;
}
