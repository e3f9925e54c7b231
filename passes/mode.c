/* A precision string to the dtypes and switches that the passes ask for (docs/numerics.md, table of
 * modes). Nothing else in passes/ compares mode strings. */
#include <string.h>

#include "passes/passes.h"

typedef enum { KIND_TRUE, KIND_MIXED, KIND_TE } ModeKind;

static const struct {
  const char *name;
  ModeKind kind;
  DType dt; /* of everything, of LOW ops, of weights */
} rows[] = {
    {"64-true", KIND_TRUE, DT_F64},           {"32-true", KIND_TRUE, DT_F32},
    {"16-true", KIND_TRUE, DT_F16},           {"bf16-true", KIND_TRUE, DT_BF16},
    {"16-mixed", KIND_MIXED, DT_F16},         {"bf16-mixed", KIND_MIXED, DT_BF16},
    {"transformer-engine", KIND_TE, DT_BF16}, {"transformer-engine-float16", KIND_TE, DT_F16},
};

/* Attribute that holds a dtype's name, "bf16", also as an attribute of kind dtype. */
static DType dtype_attr(const Module *m, const char *key, DType otherwise) {
  const Attr *a = attr_find(m->attr, m->nattr, key);
  if (!a)
    return otherwise;
  if (a->kind == AT_DTYPE)
    return (DType)a->u.i;
  DType dt = a->kind == AT_STR ? dtype_from_text(a->u.s) : DT_COUNT;
  return dt == DT_COUNT ? otherwise : dt;
}

static void mode_true(const Module *m, Mode *r, DType dt) {
  bool half = dtype_is_half(dt);
  r->weight = r->low = r->input = dt;
  r->masters = half && !strcmp(module_str(m, "master_weights", "none"), "float32");
  r->param = r->masters ? DT_F32 : dt;
}

static void mode_mixed(Mode *r, DType dt) {
  r->mixed = true;
  r->low = dt;
  r->param = r->weight = r->input = DT_F32;
}

static void mode_te(const Module *m, Mode *r, DType dt) {
  r->mixed = r->fp8 = true;
  r->weight = dtype_attr(m, "weights_dtype", dt);
  r->low = dtype_attr(m, "fallback_dtype", r->weight);
  r->input = r->weight;
  bool none = !strcmp(module_str(m, "master_weights", r->lightning ? "none" : "float32"), "none");
  r->masters = !none && r->weight != DT_F32;
  r->param = r->masters ? DT_F32 : r->weight;
}

bool mode_named(const Module *m, const char *name, Mode *out) {
  memset(out, 0, sizeof *out);
  out->policy = !strcmp(module_str(m, "policy", "cuda"), "cpu");
  out->policy_name = out->policy ? "cpu" : "cuda";
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
    out->math = out->param == DT_F64 ? DT_F64 : DT_F32;
    return true;
  }
  return false;
}

Status mode_get(const Module *m, Diag *d, Mode *out) {
  const char *name = module_str(m, "mode", "32-true");
  if (mode_named(m, name, out))
    return MPCC_OK;
  diag_error(d, (Loc){0}, 593, "unknown precision '%s'", name);
  return MPCC_ERR_INPUT;
}
