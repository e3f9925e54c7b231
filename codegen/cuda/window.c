/* cuda_window: pooling, interpolation and their gradients; a thread per element of the result, which
 * gathers the places its tables name in the order of the CPU target, so that both give equal bits. */
#include "codegen/cuda/gen.h"

typedef struct {
  CudaGen *g;
  const Op *group;
  const Body *body;
  const char *symbol, *reg; /* reg: float or double */
  WindowMode mode;
  WindowTables t;
  bool weighs; /* some weight is not 1 */
} Window;

/* "__device__ const int NAME[] = {" ... */
static void table(const Window *w, const char *type, const char *name, int axis) {
  text_printf(&w->g->out, "__device__ const %s %s_%s%d[] = {", type, w->symbol, name, axis);
}

static void put_tables(Window *w) {
  Text *t = &w->g->out;
  int64_t tap_step = 1;
  for (int i = w->t.nd - 1; i >= 0; i--) {
    const WindowAxis *a = &w->t.axis[i];
    const int64_t n = a->start[a->to], stride = w->body->in[0].stride[1 + i];
    table(w, "int", "start", i);
    for (int64_t k = 0; k <= a->to; k++)
      text_printf(t, "%s%lld", k ? ", " : "", (long long)a->start[k]);
    text_puts(t, "};\n");
    table(w, "s64", "at", i);
    for (int64_t k = 0; k < n; k++)
      text_printf(t, "%s%lld", k ? ", " : "", (long long)(a->index[k] * stride));
    text_puts(t, n ? "};\n" : "0};\n");
    if (w->mode != WINDOW_SUM) {
      table(w, "int", "tap", i);
      for (int64_t k = 0; k < n; k++)
        text_printf(t, "%s%lld", k ? ", " : "", (long long)(a->tap[k] * tap_step));
      text_puts(t, n ? "};\n" : "0};\n");
    }
    for (int64_t k = 0; k < n; k++)
      w->weighs |= a->weight[k] != 1;
    tap_step *= w->t.kernel[i];
  }
  for (int i = 0; i < w->t.nd && w->mode == WINDOW_SUM && w->weighs; i++) {
    const WindowAxis *a = &w->t.axis[i];
    table(w, w->reg, "weight", i);
    for (int64_t k = 0; k < a->start[a->to]; k++)
      text_printf(t, "%s(%s)%a", k ? ", " : "", w->reg, a->weight[k]);
    text_puts(t, a->start[a->to] ? "};\n" : "0};\n");
  }
}

/* "prefix0 + prefix1 + ..." over the axes */
static void sum_of(const Window *w, const char *prefix) {
  for (int i = 0; i < w->t.nd; i++)
    text_printf(&w->g->out, "%s%s%d", i ? " + " : "", prefix, i);
}

/* Offset of the entry in operand k. */
static void place(const Window *w, int k) {
  const Body *b = w->body;
  sum_of(w, "at");
  text_printf(&w->g->out, " + x0 * %lldll + x%d * %lldll", (long long)b->in[k].stride[0],
              b->ndim - 1, (long long)b->in[k].stride[b->ndim - 1]);
}

/* One entry of every axis. */
static void take(Window *w) {
  Text *t = &w->g->out;
  text_printf(t, "const %s v = get_%s(i0[", w->reg, dtype_text(w->group->in[0]->type->dt));
  place(w, 0);
  text_puts(t, "]);\n");
  if (w->mode == WINDOW_MAX) {
    text_puts(t, "if (v > sum || v != v) {\nsum = v;\ntaken = ");
    sum_of(w, "tap");
    text_puts(t, ";\n}\n");
  } else if (w->mode == WINDOW_MAX_GRAD) {
    text_printf(t, "if (get_%s(i1[", dtype_text(w->group->in[1]->type->dt));
    place(w, 1);
    text_puts(t, "]) == ");
    sum_of(w, "tap");
    text_puts(t, ")\nsum = add_(sum, v);\n");
  } else if (w->weighs) {
    text_puts(t, "sum = fma_(v, ");
    for (int i = 0; i + 1 < w->t.nd; i++)
      text_puts(t, "mul_(");
    for (int i = 0; i < w->t.nd; i++)
      text_printf(t, "%sweight%d%s", i ? ", " : "", i, i ? ")" : "");
    text_puts(t, ", sum);\n");
  } else {
    text_puts(t, "sum = add_(sum, v);\n");
  }
}

static void loops(Window *w) {
  Text *t = &w->g->out;
  for (int i = 0; i < w->t.nd; i++) {
    const char *s = w->symbol;
    text_printf(t, "for (int e%d = %s_start%d[x%d]; e%d < %s_start%d[x%d + 1]; e%d++) {\n", i, s, i,
                i + 1, i, s, i, i + 1, i);
    text_printf(t, "const s64 at%d = %s_at%d[e%d];\n", i, s, i, i);
    if (w->mode != WINDOW_SUM)
      text_printf(t, "const int tap%d = %s_tap%d[e%d];\n", i, s, i, i);
    else if (w->weighs)
      text_printf(t, "const %s weight%d = %s_weight%d[e%d];\n", w->reg, i, s, i, i);
  }
  take(w);
  for (int i = 0; i < w->t.nd; i++)
    text_puts(t, "}\n");
}

static void kernel(Window *w, int64_t n) {
  Text *t = &w->g->out;
  const Body *b = w->body;
  cuda_head(w->g, w->group, w->symbol);
  text_printf(t, "const u32 e = blockIdx.x * %du + threadIdx.x;\nif (e >= %lldu)\nreturn;\n",
              w->g->threads, (long long)n);
  cuda_indices(b, 0, b->ndim, "e", t);
  if (w->mode == WINDOW_MAX) {
    text_printf(t, "%s sum = %s;\nint taken = ", w->reg,
                w->reg[0] == 'd' ? "__longlong_as_double(0xfff0000000000000ll)"
                                 : "__uint_as_float(0xff800000u)");
    for (int i = 0; i < w->t.nd; i++) /* the first entry's: where nothing is larger */
      text_printf(t, "%s%s_tap%d[%s_start%d[x%d]]", i ? " + " : "", w->symbol, i, w->symbol, i,
                  i + 1);
    text_puts(t, ";\n");
  } else {
    text_printf(t, "%s sum = 0;\n", w->reg);
  }
  loops(w);
  for (int k = 0; k < b->nout; k++) {
    text_printf(t, "o%d[", k);
    cuda_offset(b, &b->out[k], 0, b->ndim, t);
    text_printf(t, "] = put_%s(%s);\n", dtype_text(w->group->out[k]->type->dt),
                k ? "(s64)taken" : "sum");
  }
  text_puts(t, "}\n");
}

bool cuda_window(CudaGen *g, const Op *group, const char *symbol) {
  const Body *b = group->body;
  Window w = {.g = g, .group = group, .body = b, .symbol = symbol, .mode = window_mode(group)};
  if (w.mode == WINDOW_MODES)
    return cuda_unsupported(g, "target cuda does not have windows of this mode yet");
  w.reg = cuda_register(group->in[0]->type->dt);
  int64_t n = 1;
  for (int d = 0; d < b->ndim; d++)
    n *= b->dim[d];
  if (n >= INT32_MAX)
    return cuda_fail(g, "more than 2^31 elements");
  if (window_tables(group, op_int(group, "turned", 0), &w.t) != MPCC_OK)
    return cuda_fail(g, "a window without tables");
  g->threads = 256;
  g->blocks = (n + g->threads - 1) / g->threads;
  put_tables(&w);
  kernel(&w, n);
  window_tables_fini(&w.t);
  return true;
}
