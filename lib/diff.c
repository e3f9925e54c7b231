/* `mpcc explain --diff=A,B`: what changes between two precision modes of one spec: totals side by
 * side, memory by use, what each layer costs, and the lines of the forward pass that differ. */
#include <stdlib.h>
#include <string.h>

#include "lib/lib.h"

enum { TOTALS = 8 };

/* What explain knows of one mode. */
typedef struct {
  Compilation c;
  const char *mode;
  Text forward; /* one line an op */
  MemoryUse use;
  LayerCost *layer;
  int nlayer;
  int64_t total[TOTALS];
} Side;

static const char *const total_names[TOTALS] = {
    "kernel launches", "distinct kernels", "FLOPs in products", "bytes touched",
    "state bytes",     "derived bytes",    "work bytes",        "peak bytes"};

static void count(Side *s, const KernelTable *kernels) {
  const Module *m = s->c.module;
  const Func *f = module_func(m, "train_step");
  CostGroup *group = NULL;
  int n = 0;
  if (f)
    (void)cost_groups(f, s->c.arena, &group, &n); /* the arena remembers */
  for (int i = 0; i < n; i++) {
    s->total[0] += group[i].times;
    s->total[2] += group[i].times * cost_flops(group[i].op);
    s->total[3] += group[i].times * cost_bytes(group[i].op);
  }
  s->total[1] = kernels->n;
  s->total[4] = m->segment_bytes[MPCC_SEG_STATE];
  s->total[5] = m->segment_bytes[MPCC_SEG_DERIVED];
  s->total[6] = m->segment_bytes[MPCC_SEG_WORK];
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    s->total[7] += m->segment_bytes[i];
}

static void put_ratio(Text *out, double a, double b) {
  if (a > 0)
    text_printf(out, " %8.2f", b / a);
  text_puts(out, "\n");
}

static void put_totals(const Side *a, const Side *b, Text *out) {
  text_printf(out, "A: %s\nB: %s\n\n%-22s %16s %16s %8s\n", a->mode, b->mode, "train_step", "A",
              "B", "B / A");
  for (int i = 0; i < TOTALS; i++) {
    text_printf(out, "  %-20s %16lld %16lld", total_names[i], (long long)a->total[i],
                (long long)b->total[i]);
    put_ratio(out, (double)a->total[i], (double)b->total[i]);
  }
  text_printf(out, "\n%-22s %16s %16s %8s\n", "memory by use, bytes", "A", "B", "B / A");
  for (int i = 0; i < a->use.n && i < b->use.n; i++) {
    const MemoryRow *x = &a->use.row[i], *y = &b->use.row[i];
    text_printf(out, "  %-20s %16lld %16lld", x->what, (long long)x->bytes, (long long)y->bytes);
    put_ratio(out, (double)x->bytes, (double)y->bytes);
    if (strcmp(x->formula, y->formula))
      text_printf(out, "    A %s\n    B %s\n", x->formula, y->formula);
  }
}

static const LayerCost *find_layer(const Side *s, const char *name) {
  for (int i = 0; i < s->nlayer; i++)
    if (!strcmp(s->layer[i].name, name))
      return &s->layer[i];
  return NULL;
}

static void put_layer(Text *out, const char *name, const LayerCost *x, const LayerCost *y) {
  text_printf(out, "  %-44s %12.0f %12.0f %8.2f  %s%s%s\n", name, x->cycles, y->cycles,
              y->cycles > 0 ? x->cycles / y->cycles : 0, cost_bound(x),
              strcmp(cost_bound(x), cost_bound(y)) ? " -> " : "",
              strcmp(cost_bound(x), cost_bound(y)) ? cost_bound(y) : "");
}

static void put_layers(const Side *a, const Side *b, Text *out) {
  static const LayerCost nothing = {0};
  LayerCost x = {0}, y = {0};
  text_puts(out, "\nwhat a layer costs in train_step, and what B gains there at most\n");
  cost_model(a->c.module, out);
  text_printf(out, "  %-44s %12s %12s %8s  bound\n", "layer", "A cycles", "B cycles", "A / B");
  for (int i = 0; i < a->nlayer; i++) {
    const LayerCost *l = &a->layer[i], *r = find_layer(b, l->name);
    put_layer(out, l->name, l, r ? r : &nothing);
  }
  for (int i = 0; i < b->nlayer; i++)
    if (!find_layer(a, b->layer[i].name))
      put_layer(out, b->layer[i].name, &nothing, &b->layer[i]);
  for (int i = 0; i < a->nlayer; i++)
    x.cycles += a->layer[i].cycles, x.compute += a->layer[i].compute,
        x.memory += a->layer[i].memory;
  for (int i = 0; i < b->nlayer; i++)
    y.cycles += b->layer[i].cycles, y.compute += b->layer[i].compute,
        y.memory += b->layer[i].memory;
  put_layer(out, "all", &x, &y);
  double gain = y.cycles > 0 ? x.cycles / y.cycles : 0;
  text_printf(out, "  on this target %s is %s\n", b->mode,
              gain > 1.05 ? "the faster mode, if the model is right"
              : gain < 0.95
                  ? "the slower mode: it pays for casts and quantization, and products are "
                    "decoded to f32"
                  : "about as fast: what it saves in bytes, casts cost again");
}

/* ---- lines of the forward pass --------------------------------------------------------------- */

typedef struct {
  const char *text;
  size_t len;
} Line;

static Line *split(const Text *t, Arena *a, int *n) {
  size_t lines = 1;
  for (size_t i = 0; i < t->len; i++)
    lines += t->data[i] == '\n';
  Line *line = ARENA_ARRAY(a, Line, lines);
  *n = 0;
  for (size_t at = 0; at < t->len && !arena_failed(a);) {
    size_t len = strcspn(t->data + at, "\n");
    line[(*n)++] = (Line){t->data + at, len};
    at += len + 1;
  }
  return line;
}

static bool same(Line a, Line b) {
  return a.len == b.len && !memcmp(a.text, b.text, a.len);
}

/* Next place where both go on equally, looking a bounded way ahead: modes add and drop casts, so
 * lines meet again within a layer. */
static bool meet(const Line *x, int nx, const Line *y, int ny, int *i, int *j) {
  enum { AHEAD = 64 };
  for (int sum = 1; sum < AHEAD; sum++)
    for (int di = 0; di <= sum; di++)
      if (*i + di < nx && *j + sum - di < ny && same(x[*i + di], y[*j + sum - di])) {
        *i += di;
        *j += sum - di;
        return true;
      }
  return false;
}

static void put_lines(const Side *a, const Side *b, Arena *scratch, Text *out) {
  int nx, ny, i = 0, j = 0;
  Line *x = split(&a->forward, scratch, &nx), *y = split(&b->forward, scratch, &ny);
  if (arena_failed(scratch)) {
    out->failed = true;
    return;
  }
  text_puts(out, "\nforward, ops that differ: - of A, + of B\n");
  while (i < nx || j < ny) {
    if (i < nx && j < ny && same(x[i], y[j])) {
      i++, j++;
      continue;
    }
    int to_i = i, to_j = j;
    if (!meet(x, nx, y, ny, &to_i, &to_j))
      to_i = nx, to_j = ny;
    for (; i < to_i; i++)
      text_printf(out, "- %.*s\n", (int)x[i].len, x[i].text);
    for (; j < to_j; j++)
      text_printf(out, "+ %.*s\n", (int)y[j].len, y[j].text);
  }
}

/* ---- both sides ------------------------------------------------------------------------------ */

static Status look(Side *s) {
  KernelTable kernels = {0};
  Status st = explain_facts(&s->c, &s->forward, &s->use, &kernels);
  if (st != MPCC_OK)
    return st;
  count(s, &kernels);
  s->layer = cost_layers(s->c.module, "train_step", s->c.arena, &s->nlayer);
  return arena_failed(s->c.arena) || s->forward.failed ? MPCC_ERR_NOMEM : MPCC_OK;
}

mpcc_status mpcc_explain_diff(mpcc_session *s, const char *path, const char *text, size_t len,
                              const char *mode_a, const char *mode_b, void **out, size_t *bytes) {
  *out = NULL;
  *bytes = 0;
  Side side[2] = {{.mode = mode_a}, {.mode = mode_b}};
  Text t = {0}, from = {0};
  text_printf(&from, "--diff=%s,%s", mode_a, mode_b);
  Status st = from.failed ? MPCC_ERR_NOMEM : MPCC_OK;
  int begun = 0;
  for (; begun < 2 && st == MPCC_OK; begun++) {
    st = compilation_begin_mode(&side[begun].c, s, side[begun].mode);
    if (st != MPCC_OK)
      break;
    side[begun].c.own.precision_from = from.data;
    st = compilation_front(&side[begun].c, path, text, len);
    if (st == MPCC_OK)
      st = look(&side[begun]);
  }
  if (st == MPCC_OK) {
    put_totals(&side[0], &side[1], &t);
    if (cost_known(side[0].c.module))
      put_layers(&side[0], &side[1], &t);
    put_lines(&side[0], &side[1], side[0].c.arena, &t);
    if (t.failed)
      st = MPCC_ERR_NOMEM;
  }
  for (int i = 0; i < begun; i++) {
    st = compilation_end(&side[i].c, s, st);
    text_fini(&side[i].forward);
  }
  text_fini(&from);
  if (st == MPCC_OK) {
    *out = t.data;
    *bytes = t.len;
  } else {
    text_fini(&t);
  }
  return st;
}
