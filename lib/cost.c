/* What a planned training step costs, layer by layer, by a model that a person can redo: products
 * run at the multiply-add rate of the level, other statements at two vectors a cycle, memory gives
 * four bytes a cycle to a core. It tells what bounds a layer and what another mode can gain there,
 * before anything runs; it is no measurement. */
#include <string.h>

#include "lib/lib.h"
#include "passes/passes.h"

enum { MEMORY_BYTES_A_CYCLE = 4, DEAR = 16 /* statements that exp, erf, log ... count for */ };

/* Floating-point operations of one group: 2 per multiply-add of products; attention forward is two
 * products, backward five. Pointwise work is not counted, as is customary. */
int64_t cost_flops(const Op *op) {
  const char *kind = op_str(op, "kind", "");
  int64_t elems = 1;
  for (int d = 0; d < op->body->ndim; d++)
    elems *= op->body->dim[d];
  /* A window that spreads its input multiplies by the taps that read something. */
  const Attr *up = op_attr(op, "up");
  int64_t spread = 1;
  for (int i = 0; up && up->kind == AT_INTS && i < up->u.ints.n; i++)
    spread *= up->u.ints.v[i];
  if (!strcmp(kind, "product") || !strcmp(kind, "conv") || !strcmp(kind, "gemm"))
    return 2 * elems * op_int(op, "k", 0) / spread;
  if (!strcmp(kind, "attention"))
    return 4 * elems * op_int(op, "keys", 0);
  if (!strcmp(kind, "attention_grad"))
    return 10 * elems * op_int(op, "keys", 0);
  return 0;
}

int64_t cost_bytes(const Op *op) {
  int64_t n = 0;
  for (int i = 0; i < op->nin; i++)
    n += type_bytes(op->in[i]->type);
  for (int i = 0; i < op->nout; i++)
    n += type_bytes(op->out[i]->type);
  return n;
}

int cost_product_rate(const Module *m, DType compute) {
  int v =
      (int)module_int(m, "target.vector_bytes", 32); /* two units of v / 4 lanes, 2 FLOPs each */
  if (compute == MPCC_F64)
    return v / 2;
  return compute == MPCC_BF16 && module_int(m, "target.bf16_dot", 0) ? 2 * v : v;
}

/* Cycles of one core. */
static double compute_cycles(const Module *m, const Op *op) {
  const Attr *a = op_attr(op, "compute");
  DType compute = a && a->kind == AT_DTYPE ? (DType)a->u.i : MPCC_F32;
  double cycles = (double)cost_flops(op) / cost_product_rate(m, compute);
  double elems = 1, lanes = (double)module_int(m, "target.vector_bytes", 32) / 4;
  int work = 0;
  for (int d = 0; d < op->body->ndim; d++)
    elems *= (double)op->body->dim[d];
  for (int s = 0; s < op->body->nstmt; s++) {
    int p = op->body->stmt[s].prim;
    bool dear = p == PR_EXP || p == PR_LOG || p == PR_TANH || p == PR_ERF || p == PR_RAND ||
                p == PR_COS || p == PR_SIN;
    bool free = p == PR_CONST || p == PR_PARAM || p == PR_INDEX;
    if (op->body->stmt[s].level == LV_ELEM)
      work += dear ? DEAR : !free;
  }
  return cycles + elems * work / (2 * lanes);
}

Status cost_groups(const Func *f, Arena *a, CostGroup **out, int *n) {
  int all = 0;
  *n = 0;
  for (int i = 0; i < f->nop; i++)
    all += f->op[i]->code == OP_scan ? loop_body(f->op[i])->nop : 1;
  *out = ARENA_ARRAY(a, CostGroup, all + 1);
  for (int i = 0; i < f->nop && !arena_failed(a); i++) {
    const Op *op = f->op[i];
    if (op->code == OP_group)
      (*out)[(*n)++] = (CostGroup){op, 1};
    if (op->code != OP_scan)
      continue;
    const Func *body = loop_body(op);
    const bool *varies = loop_varies(body, a);
    for (int k = 0; k < body->nop && !arena_failed(a); k++)
      if (body->op[k]->code == OP_group)
        (*out)[(*n)++] =
            (CostGroup){body->op[k], varies[body->op[k]->out[0]->id] ? op_int(op, "length", 1) : 1};
  }
  return arena_failed(a) ? MPCC_ERR_NOMEM : MPCC_OK;
}

LayerCost *cost_layers(const Module *m, const char *func, Arena *a, int *n) {
  const Func *f = module_func(m, func);
  CostGroup *group = NULL;
  int groups = 0;
  *n = 0;
  if (f && cost_groups(f, a, &group, &groups) != MPCC_OK)
    groups = 0;
  LayerCost *layer = ARENA_ARRAY(a, LayerCost, groups + 1);
  for (int i = 0; i < groups && !arena_failed(a); i++) {
    const Op *op = group[i].op;
    const char *name = op->layer && *op->layer ? op->layer : "-";
    int k = *n - 1; /* names are interned; a layer's kernels come close to each other */
    while (k >= 0 && layer[k].name != name)
      k--;
    if (k < 0)
      layer[k = (*n)++].name = name;
    double times = (double)group[i].times;
    double compute = times * compute_cycles(m, op);
    double memory = times * (double)cost_bytes(op) / MEMORY_BYTES_A_CYCLE;
    layer[k].flops += group[i].times * cost_flops(op);
    layer[k].bytes += group[i].times * cost_bytes(op);
    layer[k].compute += compute;
    layer[k].memory += memory;
    layer[k].cycles += compute > memory ? compute : memory;
  }
  return layer;
}

const char *cost_bound(const LayerCost *l) {
  return l->compute > l->memory ? "compute" : "memory";
}

void cost_model(const Module *m, Text *out) {
  text_printf(
      out,
      "  model, cycles of one core: products %d FLOPs a cycle in f32, %d in f64, %d in bf16; "
      "memory %d bytes\n",
      cost_product_rate(m, MPCC_F32), cost_product_rate(m, MPCC_F64),
      cost_product_rate(m, MPCC_BF16), MEMORY_BYTES_A_CYCLE);
}

bool cost_known(const Module *m) {
  return !strcmp(module_str(m, "target.name", ""), "cpu");
}

void cost_explain(const Module *m, Text *out) {
  if (!cost_known(m))
    return;
  Arena *a = arena_create();
  int n = 0;
  LayerCost *layer = a ? cost_layers(m, "train_step", a, &n) : NULL, sum = {0};
  if (!a || arena_failed(a))
    out->failed = true;
  if (n && !out->failed) {
    text_puts(out, "\nwhat bounds each layer in train_step\n");
    cost_model(m, out);
    text_printf(out, "  %-44s %14s %14s %11s %12s  bound\n", "layer", "FLOPs", "bytes",
                "FLOPs/byte", "cycles");
    for (int i = 0; i <= n; i++) {
      const LayerCost *l = i < n ? &layer[i] : &sum;
      text_printf(out, "  %-44s %14lld %14lld %11.2f %12.0f  %s\n", i < n ? l->name : "all",
                  (long long)l->flops, (long long)l->bytes,
                  l->bytes ? (double)l->flops / (double)l->bytes : 0, l->cycles, cost_bound(l));
      if (i < n) {
        sum.flops += l->flops, sum.bytes += l->bytes, sum.cycles += l->cycles;
        sum.compute += l->compute, sum.memory += l->memory;
      }
    }
  }
  if (a)
    arena_destroy(a);
}
