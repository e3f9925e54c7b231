/* A precision string to the dtypes and switches that the passes ask for (docs/numerics.md, table of
 * modes), and which list of autocast rules an op. Nothing else in passes/ compares mode strings. */
#include <string.h>

#include "passes/passes.h"

typedef enum { KIND_TRUE, KIND_MIXED, KIND_TE } ModeKind;

static const struct {
  const char *name;
  ModeKind kind;
  DType dt; /* of everything, of LOW ops, of weights */
} rows[] = {
    {"64-true", KIND_TRUE, MPCC_F64},           {"32-true", KIND_TRUE, MPCC_F32},
    {"16-true", KIND_TRUE, MPCC_F16},           {"bf16-true", KIND_TRUE, MPCC_BF16},
    {"16-mixed", KIND_MIXED, MPCC_F16},         {"bf16-mixed", KIND_MIXED, MPCC_BF16},
    {"transformer-engine", KIND_TE, MPCC_BF16}, {"transformer-engine-float16", KIND_TE, MPCC_F16},
};

/* ---- autocast's lists ------------------------------------------------------------------------ */

static const struct {
  const char *name;
  int column;
} policies[] = {
#define POLICY(name, column, doc) {name, column},
#define WAS(name, op, policy)
#define WHEN(op, key, value, rank, cuda, cpu)
#include "passes/policies.def"
#undef POLICY
#undef WAS
#undef WHEN
};
enum { NPOLICIES = sizeof policies / sizeof *policies };

static const struct {
  const char *name;
  OpCode op;
  Policy policy;
} earlier[] = {
#define POLICY(name, column, doc)
#define WAS(name, op, policy) {name, OP_##op, POL_##policy},
#define WHEN(op, key, value, rank, cuda, cpu)
#include "passes/policies.def"
#undef POLICY
#undef WAS
#undef WHEN
};

static const struct {
  OpCode op;
  const char *key, *value;
  int rank;
  Policy policy[2];
} special[] = {
#define POLICY(name, column, doc)
#define WAS(name, op, policy)
#define WHEN(op, key, value, rank, cuda, cpu) {OP_##op, key, value, rank, {POL_##cuda, POL_##cpu}},
#include "passes/policies.def"
#undef POLICY
#undef WAS
#undef WHEN
};

/* The list that a word names: a dated one, or the newest of `cuda` and `cpu`. */
static bool policy_named(const char *word, Mode *out) {
  static const char *const columns[2] = {"cuda", "cpu"};
  for (int i = 0; i < NPOLICIES; i++) {
    bool newest = !strcmp(word, columns[policies[i].column]);
    if (!newest && strcmp(word, policies[i].name))
      continue;
    out->policy = policies[i].column;
    out->policy_table = policies[i].name;
    out->policy_name = newest ? columns[out->policy] : policies[i].name;
    return true;
  }
  return false;
}

Policy mode_policy(const Mode *m, const Op *op) {
  for (size_t i = 0; i < sizeof earlier / sizeof *earlier; i++)
    if (earlier[i].op == op->code && !strcmp(earlier[i].name, m->policy_table))
      return earlier[i].policy;
  for (size_t i = 0; i < sizeof special / sizeof *special; i++)
    if (special[i].op == op->code && op->nin &&
        (!special[i].rank || special[i].rank == op->in[0]->type->rank) &&
        (!special[i].key || !strcmp(op_str(op, special[i].key, ""), special[i].value)))
      return special[i].policy[m->policy];
  return op_info(op->code)->policy[m->policy];
}

/* ---- modes ----------------------------------------------------------------------------------- */

/* Attribute that holds a dtype's name, "bf16", also as an attribute of kind dtype. */
static DType dtype_attr(const Module *m, const char *key, DType otherwise) {
  const Attr *a = attr_find(m->attr, m->nattr, key);
  if (!a)
    return otherwise;
  if (a->kind == AT_DTYPE)
    return (DType)a->u.i;
  DType dt = a->kind == AT_STR ? dtype_from_text(a->u.s) : MPCC_DTYPE_COUNT;
  return dt == MPCC_DTYPE_COUNT ? otherwise : dt;
}

static void mode_true(const Module *m, Mode *r, DType dt) {
  bool half = dtype_is_half(dt);
  r->weight = r->low = r->input = dt;
  r->masters = half && !strcmp(module_str(m, "master_weights", "none"), "float32");
  r->param = r->masters ? MPCC_F32 : dt;
}

static void mode_mixed(Mode *r, DType dt) {
  r->mixed = true;
  r->low = dt;
  r->param = r->weight = r->input = MPCC_F32;
}

static void mode_te(const Module *m, Mode *r, DType dt) {
  r->mixed = r->fp8 = true;
  r->weight = dtype_attr(m, "weights_dtype", dt);
  r->low = dtype_attr(m, "fallback_dtype", r->weight);
  r->input = r->weight;
  bool none = !strcmp(module_str(m, "master_weights", r->lightning ? "none" : "float32"), "none");
  r->masters = !none && r->weight != MPCC_F32;
  r->param = r->masters ? MPCC_F32 : r->weight;
}

bool mode_named(const Module *m, const char *name, Mode *out) {
  memset(out, 0, sizeof *out);
  if (!policy_named(module_str(m, "policy", "cuda"), out))
    return false;
  out->lightning = !strcmp(module_str(m, "compat", "none"), "lightning");
  out->residual_low = !strcmp(module_str(m, "residual", "promote"), "low");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].name, name))
      continue;
    out->name = rows[i].name;
    if (rows[i].kind == KIND_TRUE)
      mode_true(m, out, rows[i].dt);
    else if (rows[i].kind == KIND_MIXED)
      mode_mixed(out, rows[i].dt);
    else
      mode_te(m, out, rows[i].dt);
    out->grad = out->param;
    out->math = out->param == MPCC_F64 ? MPCC_F64 : MPCC_F32;
    return true;
  }
  return false;
}

bool mode_of_op(const Module *m, const Mode *whole, const Op *op, Mode *out) {
  const char *region = op_str(op, "precision", NULL);
  *out = *whole;
  if (!region)
    return true;
  if (strcmp(region, "off"))
    return mode_named(m, region, out);
  out->off = whole->mixed; /* *-true modes have no autocast to switch off */
  out->fp8 = false;
  return true;
}

/* Format of a region that stands for one: what comes out of transforms, the optimizer's state. */
DType mode_region(const Module *m, const char *key, DType otherwise) {
  const char *name = module_str(m, key, NULL);
  Mode region;
  return name && mode_named(m, name, &region) ? region.low : otherwise;
}

Status mode_get(const Module *m, Diag *d, Mode *out) {
  const char *name = module_str(m, "mode", "32-true");
  if (mode_named(m, name, out)) {
    out->moment = mode_region(m, "region_optimizer", out->param);
    out->optim = out->math == MPCC_F64 || out->moment == MPCC_F64 ? MPCC_F64 : MPCC_F32;
    return MPCC_OK;
  }
  if (!out->policy_table)
    diag_error(d, (Loc){0}, 593, "unknown policy '%s'", module_str(m, "policy", ""));
  else
    diag_error(d, (Loc){0}, 593, "unknown precision '%s'", name);
  return MPCC_ERR_INPUT;
}
