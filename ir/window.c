/* Static windows: which places of an input each place of a result reads along one axis, with what
 * weight, and by which tap. Pooling, interpolation and padding are such tables, one per axis; a
 * gradient is the same table turned round. Sources of the rules: torch.nn.functional avg_pool2d,
 * adaptive_avg_pool2d, interpolate (places and weights computed in double). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

typedef struct {
  const Op *op;
  const char *rule;
  int axis; /* of the op */
  int64_t in, out;
  int64_t kernel, stride, padding, dilation;
} Rule;

static int64_t list_attr(const Op *op, const char *key, int i, int64_t otherwise) {
  const Attr *a = op_attr(op, key);
  return a && a->kind == AT_INTS && i < a->u.ints.n ? a->u.ints.v[i] : otherwise;
}

/* Entries of place `o`; the arrays have room for what count_most says. */
typedef struct {
  int64_t n, *index, *tap;
  double *weight;
} Entries;

static void add(Entries *e, int64_t index, int64_t tap, double weight) {
  e->index[e->n] = index;
  e->tap[e->n] = tap;
  e->weight[e->n++] = weight;
}

static void rule_taps(const Rule *r, int64_t o, Entries *e) {
  for (int64_t k = 0; k < r->kernel; k++) {
    int64_t at = o * r->stride + k * r->dilation - r->padding;
    if (at >= 0 && at < r->in)
      add(e, at, k, 1);
  }
}

static void rule_average(const Rule *r, int64_t o, Entries *e) {
  int64_t start = o * r->stride - r->padding, end = start + r->kernel;
  if (end > r->in + r->padding)
    end = r->in + r->padding;
  int64_t all = end - start, first = start < 0 ? 0 : start, last = end > r->in ? r->in : end;
  int64_t divisor = op_int(r->op, "divisor", 0);
  double n = (double)(op_int(r->op, "count_pad", 1) ? all : last - first);
  if (divisor)
    n = r->axis == 0 ? (double)divisor : 1;
  for (int64_t i = first; i < last; i++)
    add(e, i, i - start, 1 / n);
}

static void rule_adaptive(const Rule *r, int64_t o, Entries *e) {
  int64_t start = o * r->in / r->out, end = ((o + 1) * r->in + r->out - 1) / r->out;
  for (int64_t i = start; i < end; i++)
    add(e, i, i - start, 1 / (double)(end - start));
}

/* Places of the input per place of the result; a scale factor that the user gave counts as it is.
 */
static double ratio(const Rule *r) {
  static const char *const keys[CONV_AXES] = {"scale_0", "scale_1", "scale_2"};
  double given = op_float(r->op, keys[r->axis], 0);
  return given > 0 ? 1 / given : (double)r->in / (double)r->out;
}

static void rule_nearest(const Rule *r, int64_t o, Entries *e) {
  int64_t i = (int64_t)floor((double)o * ratio(r));
  add(e, i < r->in ? i : r->in - 1, 0, 1);
}

static void rule_linear(const Rule *r, int64_t o, Entries *e) {
  double at;
  if (op_int(r->op, "align_corners", 0)) {
    at = r->out > 1 ? (double)o * (double)(r->in - 1) / (double)(r->out - 1) : 0;
  } else {
    at = ((double)o + 0.5) * ratio(r) - 0.5;
    at = at < 0 ? 0 : at;
  }
  int64_t i = (int64_t)floor(at);
  i = i < r->in ? i : r->in - 1;
  double right = at - (double)i;
  if (i + 1 >= r->in || right == 0) {
    add(e, i, 0, 1);
    return;
  }
  add(e, i, 0, 1 - right);
  add(e, i + 1, 1, right);
}

static void rule_nearest_exact(const Rule *r, int64_t o, Entries *e) {
  int64_t i = (int64_t)floor(((double)o + 0.5) * ratio(r));
  add(e, i < r->in ? i : r->in - 1, 0, 1);
}

/* Cubic convolution over four places with a = -0.75 (Keys 1981); places beyond the ends repeat
 * them. */
static void rule_cubic(const Rule *r, int64_t o, Entries *e) {
  const double a = -0.75;
  double at = ((double)o + 0.5) * ratio(r) - 0.5;
  if (op_int(r->op, "align_corners", 0))
    at = r->out > 1 ? (double)o * (double)(r->in - 1) / (double)(r->out - 1) : 0;
  double base = floor(at), t = at - base;
  for (int64_t k = 0; k < 4; k++) {
    double d = fabs(t + 1 - (double)k);
    double w =
        d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
    int64_t i = (int64_t)base - 1 + k;
    add(e, i < 0 ? 0 : i < r->in ? i : r->in - 1, k, w);
  }
}

/* Padding: what lies outside is read from inside. */
static void rule_replicate(const Rule *r, int64_t o, Entries *e) {
  int64_t i = o - r->padding;
  add(e, i < 0 ? 0 : i < r->in ? i : r->in - 1, 0, 1);
}

static void rule_reflect(const Rule *r, int64_t o, Entries *e) {
  int64_t i = o - r->padding;
  add(e, i < 0 ? -i : i < r->in ? i : 2 * (r->in - 1) - i, 0, 1);
}

static void rule_circular(const Rule *r, int64_t o, Entries *e) {
  add(e, ((o - r->padding) % r->in + r->in) % r->in, 0, 1);
}

static const struct {
  const char *name;
  void (*entries)(const Rule *r, int64_t o, Entries *e);
} rules[] = {
    {"taps", rule_taps},         {"average", rule_average},
    {"adaptive", rule_adaptive}, {"nearest", rule_nearest},
    {"linear", rule_linear},     {"nearest_exact", rule_nearest_exact},
    {"cubic", rule_cubic},       {"replicate", rule_replicate},
    {"reflect", rule_reflect},   {"circular", rule_circular},
};

static bool axis_alloc(WindowAxis *a, int64_t to, int64_t n) {
  a->start = calloc((size_t)to + 1, sizeof *a->start);
  a->index = calloc((size_t)n + 1, sizeof *a->index);
  a->tap = calloc((size_t)n + 1, sizeof *a->tap);
  a->weight = calloc((size_t)n + 1, sizeof *a->weight);
  return a->start && a->index && a->tap && a->weight;
}

static void axis_fini(WindowAxis *a) {
  free(a->start);
  free(a->index);
  free(a->tap);
  free(a->weight);
  *a = (WindowAxis){0};
}

static int64_t most_entries(const Rule *r) {
  if (!strcmp(r->rule, "adaptive"))
    return r->in / r->out + 2;
  if (!strcmp(r->rule, "cubic"))
    return 4;
  return r->kernel > 2 ? r->kernel : 2;
}

static Status axis_forward(const Rule *r, WindowAxis *a) {
  for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
    if (strcmp(rules[k].name, r->rule) != 0)
      continue;
    *a = (WindowAxis){.from = r->in, .to = r->out};
    if (!axis_alloc(a, r->out, r->out * most_entries(r)))
      return MPCC_ERR_NOMEM;
    Entries e = {0, a->index, a->tap, a->weight};
    for (int64_t o = 0; o < r->out; o++) {
      rules[k].entries(r, o, &e);
      a->start[o + 1] = e.n;
    }
    return MPCC_OK;
  }
  return MPCC_ERR_INTERNAL;
}

/* The table read the other way: for each place of the input the places that read it, ascending. */
static Status axis_turned(const WindowAxis *f, WindowAxis *a) {
  *a = (WindowAxis){.from = f->to, .to = f->from};
  if (!axis_alloc(a, a->to, f->start[f->to]))
    return MPCC_ERR_NOMEM;
  for (int64_t e = 0; e < f->start[f->to]; e++)
    a->start[f->index[e] + 1]++;
  for (int64_t i = 0; i < a->to; i++)
    a->start[i + 1] += a->start[i];
  int64_t *next = calloc((size_t)a->to + 1, sizeof *next);
  if (!next)
    return MPCC_ERR_NOMEM;
  memcpy(next, a->start, (size_t)a->to * sizeof *next);
  for (int64_t o = 0; o < f->to; o++)
    for (int64_t e = f->start[o]; e < f->start[o + 1]; e++) {
      int64_t at = next[f->index[e]]++;
      a->index[at] = o;
      a->tap[at] = f->tap[e];
      a->weight[at] = f->weight[e];
    }
  free(next);
  return MPCC_OK;
}

static bool rule_of(const Op *op, int i, Rule *r) {
  *r = (Rule){.op = op,
              .rule = op_str(op, "rule", "taps"),
              .axis = i,
              .in = list_attr(op, "extents", i, 0),
              .out = list_attr(op, "positions", i, 0),
              .kernel = list_attr(op, "kernel", i, 1),
              .stride = list_attr(op, "stride", i, 1),
              .padding = list_attr(op, "padding", i, 0),
              .dilation = list_attr(op, "dilation", i, 1)};
  return r->in >= 1 && r->out >= 1 && r->kernel >= 1 && r->stride >= 1 && r->dilation >= 1;
}

int window_axes(const Op *op) {
  const Attr *a = op_attr(op, "extents"), *b = op_attr(op, "positions");
  Rule r;
  if (!a || !b || a->kind != AT_INTS || b->kind != AT_INTS || a->u.ints.n != b->u.ints.n ||
      a->u.ints.n < 1 || a->u.ints.n > CONV_AXES)
    return 0;
  for (int i = 0; i < a->u.ints.n; i++)
    if (!rule_of(op, i, &r))
      return 0;
  return a->u.ints.n;
}

Status window_tables(const Op *op, bool turned, WindowTables *t) {
  *t = (WindowTables){.nd = window_axes(op)};
  Status s = t->nd ? MPCC_OK : MPCC_ERR_INTERNAL;
  for (int i = 0; !s && i < t->nd; i++) {
    Rule r;
    rule_of(op, i, &r);
    t->kernel[i] = r.kernel;
    s = axis_forward(&r, &t->axis[i]);
    if (s == MPCC_OK && turned) {
      WindowAxis back = {0};
      s = axis_turned(&t->axis[i], &back);
      axis_fini(&t->axis[i]);
      t->axis[i] = back;
    }
  }
  if (s != MPCC_OK)
    window_tables_fini(t);
  return s;
}

void window_tables_fini(WindowTables *t) {
  for (int i = 0; i < CONV_AXES; i++)
    axis_fini(&t->axis[i]);
}

WindowMode window_mode(const Op *op) {
  static const char *const words[WINDOW_MODES] = {"max", "max_grad", "sum"};
  const char *word = op_str(op, "mode", "");
  int k = 0;
  while (k < WINDOW_MODES && strcmp(words[k], word) != 0)
    k++;
  return (WindowMode)k;
}
