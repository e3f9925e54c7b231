/* `mpcc explain`: the plan in words. Three tables from three stages of one compilation: what every
 * op computes and stores and each cast with its reason (after castopt), what is saved or recomputed
 * for backward (after save), and the kernels and memory of the finished plan. The text depends on
 * the module alone, so it can be compared and diffed. */
#include <string.h>

#include "codegen/codegen.h"
#include "lib/lib.h"
#include "mpcc/abi.h"
#include "passes/passes.h"

enum { COL_LAYER = 44, COL_OP = 16 };

static const char *shown_layer(const Op *op) {
  return op->layer && *op->layer ? op->layer : "-";
}

static void put_shape(Text *out, const Type *t) {
  text_puts(out, "[");
  for (int i = 0; i < t->rank; i++) {
    text_puts(out, i ? "," : "");
    text_int(out, t->dim[i]);
  }
  text_puts(out, "]");
}

static void put_place(Text *out, const Diag *d, Loc loc) {
  if (loc.file)
    text_printf(out, "  %s:%u:%u", diag_file_name(d, loc.file), loc.line, loc.col);
}

/* ---- what is computed in what ---------------------------------------------------------------- */

/* Format the op's arithmetic is done in: products by their operands, statistics and losses at least
 * FP32, pointwise ops in FP32 registers for anything narrower. */
DType explain_compute_dtype(const Op *op) {
  DType in = op->nin ? op->in[0]->type->dt : op->out[0]->type->dt;
  if (op_info(op->code)->kind == OK_PRODUCT || op_info(op->code)->kind == OK_ATTENTION)
    return in;
  return in == MPCC_F64 || op->out[0]->type->dt == MPCC_F64 ? MPCC_F64 : MPCC_F32;
}

static bool is_bookkeeping(const Op *op) {
  OpKind k = op_info(op->code)->kind;
  return k == OK_NONE || (k == OK_VIEW && op->code != OP_qgrad);
}

static void explain_op(const Compilation *c, const Op *op, bool places, Text *out) {
  text_printf(out, "  %-*s %-*s ", COL_LAYER, shown_layer(op), COL_OP, op_info(op->code)->name);
  if (op->code == OP_cast)
    text_printf(out, "%-5s -> %-5s", dtype_text(op->in[0]->type->dt),
                dtype_text(op->out[0]->type->dt));
  else
    text_printf(out, "%-5s    %-5s", dtype_text(explain_compute_dtype(op)),
                dtype_text(op->out[0]->type->dt));
  text_puts(out, "  ");
  put_shape(out, op->out[0]->type);
  const char *part = op_str(op, "complex", NULL);
  if (part)
    text_printf(out, " %s of complex%d", part, 2 * dtype_info(op->out[0]->type->dt)->bits);
  if (places)
    put_place(out, c->diag, op->loc);
  if (op->why && !places)
    text_printf(out, "  because %s", op->why);
  else if (op->why)
    text_printf(out, "\n  %-*s   because %s", COL_LAYER, "", op->why);
  text_puts(out, "\n");
}

static void explain_forward(const Compilation *c, Text *out) {
  const Func *f = module_func(c->module, "train_forward");
  if (!f)
    return;
  text_printf(out, "\nforward, op by op\n  %-*s %-*s %-5s    %-5s  shape\n", COL_LAYER, "layer",
              COL_OP, "op", "in", "stores");
  for (int i = 0; i < f->nop; i++)
    if (!is_bookkeeping(f->op[i]))
      explain_op(c, f->op[i], true, out);
}

/* ---- head ------------------------------------------------------------------------------------ */

static int64_t count_role(const Module *m, Role role, int64_t *bytes) {
  int64_t n = 0;
  *bytes = 0;
  for (int i = 0; i < m->ntensor; i++) {
    const Tensor *t = m->tensor[i];
    bool is_flat = !strncmp(t->name, "flat.", 5);
    if (t->role == role && !is_flat) {
      n += tensor_numel(t);
      *bytes += type_bytes(t->type);
    }
  }
  return n;
}

static void explain_head(const Compilation *c, Text *out) {
  const Module *m = c->module;
  int64_t bytes, n = count_role(m, ROLE_PARAM, &bytes);
  Mode mode = {0};
  bool known = mode_named(m, module_str(m, "mode", ""), &mode);
  text_printf(out, "%s: precision %s, policy %s", module_str(m, "name", "?"),
              module_str(m, "mode", "?"), known ? mode.policy_table : "?");
  if (strcmp(module_str(m, "compat", "none"), "none"))
    text_printf(out, ", compat %s", module_str(m, "compat", "none"));
  text_printf(out, ", numerics %s, batch %lld", module_str(m, "numerics", "fused"),
              (long long)module_int(m, "batch", 0));
  if (module_int(m, "accumulate", 1) > 1)
    text_printf(out, " x %lld micro-batches", (long long)module_int(m, "accumulate", 1));
  text_printf(out, "\nparameters %lld, %lld bytes as stored\n", (long long)n, (long long)bytes);
  const char *idle = module_str(m, "idle", "");
  if (*idle)
    text_puts(out, "idle, because the mode has no use for them:\n");
  while (*idle) {
    int len = (int)strcspn(idle, "\n");
    text_printf(out, "  %.*s\n", len, idle);
    idle += len + (idle[len] == '\n');
  }
}

/* ---- rules in force -------------------------------------------------------------------------- */

/* Whether some op is there because of the key: its reason begins with it. */
static bool has_reason(const Module *m, const char *key) {
  size_t len = strlen(key);
  for (int i = 0; i < m->nfunc; i++)
    for (int k = 0; k < m->func[i]->nop; k++) {
      const char *why = m->func[i]->op[k]->why;
      if (why && !strncmp(why, key, len) && why[len] == ':')
        return true;
    }
  return false;
}

/* Choices of the spec that change numbers, where they are not the default. idle: what is said where
 * no op of the model comes from the choice. */
static void explain_choices(const Module *m, Text *out) {
  static const struct {
    const char *key, *otherwise, *rule, *text, *idle;
  } choices[] = {
      {"float32_matmul", "highest", "N3 ", "FP32 products round their operands",
       "idle: no product here is FP32"},
      {"float32_conv", "highest", "N3 ", "FP32 convolutions round their operands",
       "idle: no convolution here is FP32"},
      {"residual", "promote", "N4 ", "residual sums"},
      {"region_transforms", "", "N4 ", "float inputs leave the transforms in"},
      {"region_optimizer", "", "N12", "moments"},
      {"update_rounding", "nearest", "N12", "how 16-bit weights without masters are rounded"},
  };
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
    const char *word = module_str(m, choices[i].key, choices[i].otherwise);
    const char *idle = choices[i].idle;
    if (strcmp(word, choices[i].otherwise))
      text_printf(out, "  %s %s: %s (%s)\n", choices[i].rule, choices[i].key, word,
                  idle && !has_reason(m, choices[i].key) ? idle : choices[i].text);
  }
}

/* Something is quantized to 8 or 4 bits. */
static bool has_codes(const Module *m) {
  for (int i = 0; i < m->nfunc; i++)
    for (int k = 0; k < m->func[i]->nop; k++) {
      const Op *op = m->func[i]->op[k];
      if (op->nout && dtype_is_code(op->out[0]->type->dt))
        return true;
    }
  return false;
}

/* Whether some attention multiplies codes, and what stands in them. */
static void explain_attention(const Module *m, const Mode *mode, Text *out) {
  for (int i = 0; i < m->nfunc; i++)
    for (int k = 0; k < m->func[i]->nop; k++) {
      const Op *op = m->func[i]->op[k];
      if (op->code != OP_attention || !op_attr(op, "p_dtype"))
        continue;
      text_printf(out, "  N14 attention multiplies codes%s: P in %s, dS in %s; its result is %s\n",
                  module_int(m, "fp8_mha", 0) ? " that its projections hand on" : "",
                  dtype_text((DType)op_int(op, "p_dtype", MPCC_E4M3)),
                  dtype_text((DType)op_int(op, "ds_dtype", MPCC_E5M2)), dtype_text(mode->low));
      return;
    }
}

static void explain_rules(const Compilation *c, Text *out) {
  const Module *m = c->module;
  Mode mode = {0};
  mode_named(m, module_str(m, "mode", ""), &mode);
  bool lightning = !strcmp(module_str(m, "compat", "none"), "lightning");
  const char *none = module_str(m, "fp8_fallback", NULL);
  bool te = has_codes(m);
  text_puts(out, "\nrules in force (docs/numerics.md)\n");
  explain_choices(m, out);
  if (mode.mixed || mode.masters)
    text_printf(out, "  N6  %s\n",
                mode.masters || mode.param == MPCC_F32 ? "the optimizer updates FP32 masters"
                : lightning                            ? "compat lightning: no FP32 masters"
                                                       : "master_weights: none");
  if (module_int(m, "scaler", 0))
    text_puts(out, "  N7  gradients are scaled; the scale follows GradScaler's rule\n");
  const RecipeInfo *recipe = recipe_named(module_str(m, "recipe", "DelayedScaling"));
  if (none)
    text_printf(out, "  N8  on_unsupported: fallback, %s has no units: FP8 layers run in %s\n",
                none, dtype_text(mode.low));
  if (te && recipe && recipe != recipe_at(0))
    text_printf(out, "  N8  %s: %s; no state\n", recipe->name, recipe->doc);
  else if (te)
    text_printf(out, "  N8  FP8 delayed scaling, %s, history %lld, %s\n",
                module_str(m, "fp8_format", "HYBRID"),
                (long long)module_int(m, "amax_history_len", 0),
                module_str(m, "amax_compute_algo", "max"));
  if (te && *module_str(m, "backward_override", ""))
    text_printf(out, "  N8  backward_override %s: products of backward in %s, of %s\n",
                module_str(m, "backward_override", ""), dtype_text(mode.low),
                strcmp(module_str(m, "backward_override", ""), "dequantized")
                    ? "operands as they were before they were quantized"
                    : "what the codes of forward stand for");
  text_printf(out, "  N10 %s\n",
              strcmp(module_str(m, "numerics", "fused"), "strict")
                  ? "fused kernels may skip intermediate rounding"
                  : "strict: rounded at every op boundary");
  text_printf(out,
              "  N11 a step with a loss or gradient norm%s that is not finite is not applied\n",
              te ? " or amax" : "");
  explain_attention(m, &mode, out);
}

/* ---- saved or recomputed --------------------------------------------------------------------- */

static void explain_saved(const Compilation *c, Text *out) {
  const Func *f = module_func(c->module, "train_step");
  if (!f)
    return;
  int n = 0;
  for (int i = 0; i < f->nop; i++)
    n += op_int(f->op[i], "recompute", 0) != 0;
  text_printf(out, "\nrecomputed in backward: %d op%s\n", n, n == 1 ? "" : "s");
  for (int i = 0; i < f->nop; i++)
    if (op_int(f->op[i], "recompute", 0))
      text_printf(out, "  %-*s %s\n", COL_LAYER, shown_layer(f->op[i]),
                  op_info(f->op[i]->code)->name);
}

/* ---- kernels and memory ---------------------------------------------------------------------- */

static void explain_group(const Compilation *c, const KernelTable *k, const CostGroup *g,
                          Text *out) {
  const Op *op = g->op;
  if (codegen_is_copies(op)) {
    text_printf(out, "  %-4s %-14s %-*s %s: %d copies\n", "-", "copy", COL_LAYER, shown_layer(op),
                op_str(op, "label", ""), op->nin);
    return;
  }
  if (codegen_is_product(op))
    text_puts(out, "  lib  ");
  else
    text_printf(out, "  k%-3d ", kernel_index(k, op));
  text_printf(out, "%-14s %-*s %s(", op_str(op, "kind", "?"), COL_LAYER, shown_layer(op),
              op_str(op, "label", ""));
  for (int i = 0; i < op->nin; i++)
    text_printf(out, "%s%s", i ? " " : "", dtype_text(op->in[i]->type->dt));
  text_puts(out, ") ->");
  for (int i = 0; i < op->nout; i++) {
    text_printf(out, " %s", dtype_text(op->out[i]->type->dt));
    put_shape(out, op->out[i]->type);
  }
  if (g->times > 1)
    text_printf(out, " x %lld", (long long)g->times);
  put_place(out, c->diag, op->loc);
  text_puts(out, "\n");
}

static void explain_function(Compilation *c, const KernelTable *k, const Func *f, Text *out) {
  int64_t flops = 0, bytes = 0, launches = 0;
  int groups = 0, again = 0;
  CostGroup *group;
  if (cost_groups(f, c->arena, &group, &groups) != MPCC_OK)
    out->failed = true;
  for (int i = 0; i < groups && !out->failed; i++) {
    const Op *op = group[i].op;
    launches += group[i].times;
    again += op->why && *op->why; /* `again` alone gives kernels a reason */
    flops += group[i].times * cost_flops(op);
    bytes += group[i].times * cost_bytes(op);
  }
  text_printf(out, "\n%s: %lld kernel launches, %lld FLOPs in products, %lld bytes touched\n",
              f->name, (long long)launches, (long long)flops, (long long)bytes);
  if (again)
    text_printf(out, "  %d of them computed again (recompute)\n", again);
  for (int i = 0; i < groups && !out->failed; i++)
    explain_group(c, k, &group[i], out);
}

static void explain_memory(const Compilation *c, Text *out) {
  static const char *const names[MPCC_SEG_COUNT] = {"state", "derived", "accum", "work", "io"};
  int64_t total = 0;
  text_puts(out, "\nmemory, bytes\n");
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    total += c->module->segment_bytes[i];
    text_printf(out, "  %-8s %lld\n", names[i], (long long)c->module->segment_bytes[i]);
  }
  text_printf(out, "  %-8s %lld\n", "peak", (long long)total);
}

Status explain_planned(Compilation *c, const KernelTable *kernels, Text *out) {
  text_printf(out, "\n%d distinct kernels\n", kernels->n);
  static const char *const shown[] = {"train_step", "eval_step"};
  for (int i = 0; i < 2; i++) {
    const Func *f = module_func(c->module, shown[i]);
    if (f)
      explain_function(c, kernels, f, out);
  }
  cost_explain(c->module, out);
  explain_memory(c, out);
  return out->failed ? MPCC_ERR_NOMEM : MPCC_OK;
}

Status explain_to_saved(Compilation *c, const TargetCaps *caps, Text *train, Text *out) {
  Status st = MPCC_OK;
  if (c->module->stage < STAGE_TYPED)
    st = compilation_passes(c, NULL, "castopt");
  if (st != MPCC_OK)
    return st;
  explain_head(c, out);
  explain_rules(c, out);
  explain_forward(c, out);
  if (train && c->module->stage < STAGE_TRAIN)
    st = compilation_passes(c, caps, "grad");
  if (st == MPCC_OK && train)
    module_print(c->module, c->diag, train);
  if (st == MPCC_OK && c->module->stage < STAGE_SAVED)
    st = compilation_passes(c, caps, "save");
  if (st != MPCC_OK)
    return st;
  explain_saved(c, out);
  MemoryUse use;
  st = memory_use(c, &use);
  if (st == MPCC_OK)
    memory_explain(&use, out);
  return st != MPCC_OK ? st : out->failed ? MPCC_ERR_NOMEM : MPCC_OK;
}

Status explain_facts(Compilation *c, Text *forward, MemoryUse *use, KernelTable *kernels) {
  TargetCaps caps;
  Status st = compilation_caps(c, &caps);
  if (st == MPCC_OK && c->module->stage < STAGE_TYPED)
    st = compilation_passes(c, NULL, "castopt");
  const Func *f = st == MPCC_OK ? module_func(c->module, "train_forward") : NULL;
  for (int i = 0; f && i < f->nop; i++)
    if (!is_bookkeeping(f->op[i]))
      explain_op(c, f->op[i], false, forward);
  if (st == MPCC_OK && c->module->stage < STAGE_SAVED)
    st = compilation_passes(c, &caps, "save");
  if (st == MPCC_OK)
    st = memory_use(c, use);
  return st == MPCC_OK ? compilation_plan(c, kernels) : st;
}
