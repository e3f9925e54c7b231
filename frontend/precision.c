/* The precision section: mode strings, rules between its keys, regions of other precision. */
#include "frontend/frontend.h"

#include <stdio.h>

enum { TRUE_MODE, MIXED_MODE, TE_MODE, LATER_MODE };

static const struct {
  const char *name, *canonical;
  int kind;
  bool f16; /* gradients pass through float16 */
} modes[] = {
    {"64-true", "64-true", TRUE_MODE, false},
    {"32-true", "32-true", TRUE_MODE, false},
    {"16-mixed", "16-mixed", MIXED_MODE, true},
    {"bf16-mixed", "bf16-mixed", MIXED_MODE, false},
    {"16-true", "16-true", TRUE_MODE, true},
    {"bf16-true", "bf16-true", TRUE_MODE, false},
    {"transformer-engine", "transformer-engine", TE_MODE, false},
    {"transformer-engine-float16", "transformer-engine-float16", TE_MODE, true},
    /* legacy strings of Lightning */
    {"64", "64-true", TRUE_MODE, false},
    {"32", "32-true", TRUE_MODE, false},
    {"16", "16-mixed", MIXED_MODE, true},
    {"bf16", "bf16-mixed", MIXED_MODE, false},
    {"nf4", "nf4", LATER_MODE, false},
    {"nf4-dq", "nf4-dq", LATER_MODE, false},
    {"fp4", "fp4", LATER_MODE, false},
    {"fp4-dq", "fp4-dq", LATER_MODE, false},
    {"int8", "int8", LATER_MODE, false},
    {"int8-training", "int8-training", LATER_MODE, false},
};
enum { NMODES = sizeof modes / sizeof *modes };

static int mode_index(const char *name) {
  for (int i = 0; i < NMODES; i++)
    if (!strcmp(modes[i].name, name))
      return i;
  return -1;
}

/* *-true modes whose weights have 16 bits. */
static bool half_weights(const char *mode) {
  return !strcmp(mode, "16-true") || !strcmp(mode, "bf16-true");
}

Str precision_mode(const Check *c, const Val *v) {
  int i = mode_index(v->s);
  if (i < 0) {
    const char *known[NMODES];
    for (int k = 0; k < NMODES; k++)
      known[k] = modes[k].name;
    diag_error(c->d, v->loc, 204, "unknown precision '%s'", v->s);
    const char *near = diag_suggest(v->s, known, NMODES);
    const char *instead = schema_elsewhere("mode", v->s);
    if (instead)
      diag_hint(c->d, "%s", instead);
    else if (near)
      diag_hint(c->d, "did you mean '%s'?", near);
    else
      diag_hint(c->d, "one of 64-true, 32-true, 16-mixed, bf16-mixed, 16-true, bf16-true, "
                      "transformer-engine, transformer-engine-float16");
    return NULL;
  }
  if (modes[i].kind == LATER_MODE) {
    diag_error(c->d, v->loc, 190, "precision '%s' is not supported yet", v->s);
    return NULL;
  }
  if (!strcmp(v->s, "16") || !strcmp(v->s, "bf16")) {
    diag_warning(c->d, v->loc, "precision-alias", "'%s' is a historical name of %s", v->s,
                 modes[i].canonical);
    diag_hint(c->d, "write %s", modes[i].canonical);
  }
  return str_c(c->s, modes[i].canonical);
}

Str precision_region(const Check *c, const Val *v) {
  return !strcmp(v->s, "off") ? v->s : precision_mode(c, v);
}

static bool given(const Val *v) {
  return v && v->kind != VAL_NULL && v->origin != ORIGIN_DEFAULT;
}

static bool is_set(const Check *c, const Val *v) {
  return given(v) && v->loc.file && !strcmp(diag_file_name(c->d, v->loc.file), "--set");
}

/* Rules between the keys of one section. A mode that the file itself names excludes keys; one from
 * the command line, or the default, leaves them idle. */
typedef struct {
  const Check *c;
  Val *v;
  const char *file_mode, *mode; /* file_mode: NULL when the file names none */
  Text idle;                    /* keys without effect, one a line */
} Keys;

static void lies_idle(Keys *k, const char *key, Loc loc) {
  if (loc.file)
    text_printf(&k->idle, "%sprecision.%s (%s:%u:%u)", k->idle.len ? "\n" : "", key,
                diag_file_name(k->c->d, loc.file), loc.line, loc.col);
}

static int kind_of(const char *mode) {
  int i = mode_index(mode);
  return i < 0 ? LATER_MODE : modes[i].kind;
}

static bool has_masters(const Val *v) {
  return !strcmp(val_get_str(v, "master_weights", ""), "float32");
}

/* An override sets layers of a mixed mode to FP8, whose recipe the section then names. */
static bool overrides_to_fp8(const Val *v) {
  const Val *overrides = val_get(v, "overrides");
  for (int i = 0; overrides && i < overrides->n; i++)
    if (kind_of(val_get_str(overrides->item[i], "precision", "")) == TE_MODE)
      return true;
  return false;
}

/* Keys that only transformer-engine modes know; those and another mode may come from the command
 * line together. */
static void check_te_keys(Keys *k) {
  static const char *const keys[] = {"recipe", "weights_dtype", "fallback_compute_dtype"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const Val *x = val_get(k->v, keys[i]);
    bool region = i == 0 && kind_of(k->mode) == MIXED_MODE && overrides_to_fp8(k->v);
    bool te = kind_of(k->mode) == TE_MODE || region, both_asked = te && x && is_set(k->c, x);
    if (k->file_mode && kind_of(k->file_mode) != TE_MODE && given(x) && !both_asked && !region) {
      diag_error(k->c->d, x->loc, 431, "'%s' does not go with mode %s", keys[i], k->file_mode);
      diag_hint(k->c->d,
                "it belongs to the transformer-engine modes; remove it or change the mode");
    } else if (given(x) && !te) {
      lies_idle(k, keys[i], x->loc);
    }
    if (!te)
      val_remove(k->v, keys[i]);
  }
}

/* transformer-engine-float16 says what weights_dtype would: another one contradicts it. */
static void check_weights(Keys *k) {
  const Val *x = val_get(k->v, "weights_dtype");
  if (!given(x) || strcmp(x->s, "bfloat16") || strcmp(k->mode, "transformer-engine-float16"))
    return;
  if (k->file_mode && !strcmp(k->file_mode, k->mode)) {
    diag_error(k->c->d, x->loc, 432,
               "mode transformer-engine-float16 keeps its weights in float16; weights_dtype cannot "
               "be bfloat16");
    diag_hint(k->c->d, "use mode: transformer-engine");
  } else {
    lies_idle(k, "weights_dtype", x->loc);
    val_remove(k->v, "weights_dtype");
  }
}

/* First recipe that has the field; all of them, as words, into *all. */
static const RecipeInfo *owner_of(const Check *c, const char *key, Str *all) {
  const RecipeInfo *first = NULL, *last = NULL;
  *all = str_c(c->s, "");
  for (int i = 0; recipe_at(i); i++) {
    if (!recipe_has_key(recipe_at(i), key))
      continue;
    if (!first)
      first = recipe_at(i);
    else
      *all = str_fmt(c->s, "%s%s%s", *all, **all ? ", " : "", last->name);
    last = recipe_at(i);
  }
  if (last)
    *all = str_fmt(c->s, "%s%s%s", *all, **all ? " and " : "", last->name);
  return first;
}

/* Why a recipe has not got a field, where that is no matter of course. */
static const char *rule_of(const char *key) {
  if (!strcmp(key, "backward_override"))
    return "DelayedScaling needs the amaxes of its gradients: it must stay unset there; ";
  return "";
}

/* Fields of other recipes contradict the name that stands beside them; beside a name from the
 * command line they lie idle. */
static void check_recipe(Keys *k) {
  const Check *c = k->c;
  Val *recipe = val_get(k->v, "recipe");
  const Val *name = recipe ? val_get(recipe, "name") : NULL;
  const RecipeInfo *r = name && name->kind == VAL_STR ? recipe_named(name->s) : NULL;
  for (int i = r ? recipe->n - 1 : -1; i >= 0; i--) {
    const Val *x = recipe->item[i];
    const char *key = recipe->key[i];
    Str all;
    const RecipeInfo *owner = recipe_has_key(r, key) ? NULL : owner_of(c, key, &all);
    if (!owner)
      continue;
    if (given(x) && (!is_set(c, name) || is_set(c, x))) {
      diag_error(c->d, x->loc, 434, "'%s' is a field of %s, not of %s", key, all, r->name);
      if (given(name))
        diag_note(c->d, name->loc, "the recipe is named here");
      diag_hint(c->d, "%sremove it, or write name: %s", rule_of(key), owner->name);
    }
    if (given(x) && is_set(c, name) && !is_set(c, x))
      lies_idle(k, str_fmt(c->s, "recipe.%s", key), x->loc);
    val_remove(recipe, key);
  }
}

static bool is_true(const Val *v) {
  return v && v->kind == VAL_BOOL && v->i;
}

/* FP8 attention multiplies codes in backward; the reference system leaves attention alone. */
static void check_attention(Keys *k) {
  static const char *const keys[] = {"fp8_dpa", "fp8_mha"};
  const Val *recipe = val_get(k->v, "recipe");
  const Val *override = recipe ? val_get(recipe, "backward_override") : NULL;
  bool lightning = !strcmp(val_get_str(k->v, "compat", "none"), "lightning");
  for (int i = 0; i < 2; i++) {
    const Val *x = recipe ? val_get(recipe, keys[i]) : NULL;
    if (!is_true(x))
      continue;
    if (lightning)
      lies_idle(k, str_fmt(k->c->s, "recipe.%s", keys[i]), x->loc);
    if (!given(override))
      continue;
    diag_error(k->c->d, x->loc, 442, "'%s' does not go with backward_override", keys[i]);
    diag_note(k->c->d, override->loc, "backward_override is here");
    diag_hint(k->c->d, "backward of FP8 attention multiplies codes; remove one of them");
    return;
  }
}

/* A section that says nothing of its own, as in the effective spec, has no effect to miss. */
static bool all_defaults(const Check *c, const char *section, const Val *v) {
  const Val *otherwise = check_section(c, section, NULL, NULL, v->loc, section);
  Text a = {0}, b = {0};
  if (otherwise)
    val_json(otherwise, &a);
  val_json(v, &b);
  bool same = a.data && b.data && !strcmp(a.data, b.data);
  text_fini(&a);
  text_fini(&b);
  return same;
}

/* Scales are FP32 numbers whose reciprocals are, too: gradients are divided by them. */
static void check_range(const Keys *k) {
  static const char *const keys[] = {"init_scale", "min_scale"};
  for (int i = 0; i < 2; i++) {
    const Val *x = val_get(val_get(k->v, "grad_scaler"), keys[i]);
    if (!x || x->kind != VAL_FLOAT || (x->f >= 0x1p-126 && x->f <= 0x1p126))
      continue;
    diag_error(k->c->d, x->loc, 437, "%s %g is out of range: gradients are divided by it in FP32",
               keys[i], x->f);
    diag_hint(k->c->d, "a power of two from 2^-126 to 2^126, most often 65536");
  }
}

/* A floor above the first scale would raise it when it backs off. */
static void check_floor(const Keys *k) {
  const Val *first = val_get(k->v, "grad_scaler.init_scale"),
            *least = val_get(k->v, "grad_scaler.min_scale");
  if (!first || !least || first->kind != VAL_FLOAT || least->kind != VAL_FLOAT ||
      first->f >= least->f)
    return;
  const Val *at = given(least) ? least : first;
  diag_error(k->c->d, at->loc, 437, "init_scale %g is below min_scale %g", first->f, least->f);
  if (at == least && given(first))
    diag_note(k->c->d, first->loc, "init_scale is here");
  diag_hint(k->c->d, "min_scale is the floor of the loss scale: at most init_scale");
}

/* A static scale has no use for the rule of the dynamic one. */
static void check_static(const Keys *k) {
  static const char *const keys[] = {"growth_factor", "backoff_factor", "growth_interval",
                                     "min_scale"};
  const Val *on = val_get(k->v, "grad_scaler.static");
  for (int i = 0; on && on->kind == VAL_BOOL && on->i && i < 4; i++) {
    const Val *x = val_get(val_get(k->v, "grad_scaler"), keys[i]);
    if (!given(x))
      continue;
    diag_error(k->c->d, x->loc, 440, "'%s' does not go with a static scale", keys[i]);
    diag_note(k->c->d, on->loc, "static: true keeps the scale at init_scale");
    diag_hint(k->c->d, "remove one of them");
    return;
  }
}

static void check_scaler(Keys *k) {
  check_range(k);
  check_floor(k);
  const Val *section = val_get(k->v, "grad_scaler");
  Val *enabled = val_get(k->v, "grad_scaler.enabled");
  bool on = enabled && enabled->kind == VAL_BOOL && enabled->i;
  const char *file_mode = k->file_mode;
  if (on && file_mode && kind_of(file_mode) == TRUE_MODE && !has_masters(k->v)) {
    diag_error(k->c->d, enabled->loc, 430, "mode %s cannot be combined with a gradient scaler",
               file_mode);
    if (half_weights(file_mode))
      diag_hint(k->c->d, "scaling needs FP32 gradients or master weights; use mode: %s",
                !strcmp(file_mode, "16-true") ? "16-mixed" : "bf16-mixed");
    else
      diag_hint(k->c->d, "nothing in it passes through float16; remove it or use mode: 16-mixed");
    return;
  }
  if (on && kind_of(k->mode) == TRUE_MODE && !has_masters(k->v))
    enabled->i = 0; /* a key of the file's own mode lies idle */
  if (!section || !given(section) || all_defaults(k->c, "grad scaler", section))
    return;
  if (precision_scales(k->v)) {
    check_static(k);
  } else if (file_mode && !strcmp(file_mode, k->mode) && !given(enabled)) {
    diag_error(k->c->d, section->loc, 430, "mode %s has no gradient scaler for these keys",
               k->mode);
    diag_hint(k->c->d, "remove them; enabled: true scales where gradients are FP32, enabled: false "
                       "keeps the keys for another mode");
  } else {
    lies_idle(k, "grad_scaler", section->loc);
  }
}

static void check_masters(Keys *k) {
  const Val *x = val_get(k->v, "master_weights");
  int kind = kind_of(k->mode);
  if (!given(x))
    return;
  bool none = !strcmp(x->s, "none"), own = k->file_mode && !strcmp(k->file_mode, k->mode);
  bool excluded = (none && kind == MIXED_MODE) || (!none && !strcmp(k->mode, "64-true"));
  if (!excluded)
    return;
  if (!own) {
    lies_idle(k, "master_weights", x->loc);
    val_remove(k->v, "master_weights");
  } else if (none) {
    diag_error(k->c->d, x->loc, 432, "mode %s trains FP32 weights; master_weights cannot be none",
               k->mode);
    diag_hint(k->c->d, "use mode: %s", modes[mode_index(k->mode)].f16 ? "16-true" : "bf16-true");
  } else {
    diag_error(k->c->d, x->loc, 432,
               "mode 64-true trains FP64 weights; master_weights cannot be float32");
  }
}

/* How updates are rounded matters for weights in 16 bits that have no masters. */
static void check_rounding(Keys *k) {
  const Val *x = val_get(k->v, "update_rounding");
  bool lightning = !strcmp(val_get_str(k->v, "compat", "none"), "lightning");
  bool none = lightning || !strcmp(val_get_str(k->v, "master_weights", ""), "none");
  bool wide = has_masters(k->v) || !strcmp(val_get_str(k->v, "weights_dtype", ""), "float32");
  bool narrow = kind_of(k->mode) == TE_MODE ? none && !wide : half_weights(k->mode) && !wide;
  if (!given(x) || narrow || !strcmp(x->s, "nearest"))
    return;
  if (k->file_mode && !strcmp(k->file_mode, k->mode)) {
    diag_error(k->c->d, x->loc, 436, "update_rounding: %s does not go with mode %s%s", x->s,
               k->mode, has_masters(k->v) ? " and FP32 masters" : "");
    diag_hint(k->c->d, "it is for weights in 16 bits without masters: 16-true, bf16-true, "
                       "transformer-engine with master_weights: none");
  } else {
    lies_idle(k, "update_rounding", x->loc);
  }
  val_remove(k->v, "update_rounding");
}

/* Keys that are right in every mode and without effect in this one are listed, wherever it is
 * named. */
static void list_idle(Keys *k) {
  const Val *residual = val_get(k->v, "residual"), *compat = val_get(k->v, "compat"),
            *units = val_get(k->v, "on_unsupported");
  int kind = kind_of(k->mode);
  if (given(residual) && kind == TRUE_MODE && strcmp(residual->s, "promote") != 0)
    lies_idle(k, "residual", residual->loc);
  if (given(compat) && kind != TE_MODE && strcmp(k->mode, "16-true") != 0 &&
      strcmp(compat->s, "none") != 0 && !overrides_to_fp8(k->v))
    lies_idle(k, "compat", compat->loc);
  if (given(units) && kind != TE_MODE && strcmp(units->s, "emulate") != 0 &&
      !overrides_to_fp8(k->v))
    lies_idle(k, "on_unsupported", units->loc);
}

/* ---- places outside the layers ---- */

static void refuse_region(const Check *c, const Val *x, const char *key, const char *takes) {
  diag_error(c->d, x->loc, 435, "regions.%s cannot be %s", key, x->s);
  diag_hint(c->d, "it takes %s", takes);
}

/* Losses and metrics have no products to quantize; the optimizer's arithmetic is FP32 or wider
 * whatever its state is [N12]; transforms give FP32, which a narrower word rounds, or compute FP64.
 */
static void check_regions(const Keys *k) {
  static const char *const keys[] = {"loss", "metrics", "optimizer", "transforms"};
  const Check *c = k->c;
  for (int i = 0; i < 4; i++) {
    char path[32];
    snprintf(path, sizeof path, "regions.%s", keys[i]);
    Val *x = val_get(k->v, path);
    if (!given(x) || x->kind != VAL_STR)
      continue;
    Str name = precision_region(c, x);
    if (!name)
      continue;
    x->s = name;
    int kind = strcmp(name, "off") ? kind_of(name) : MIXED_MODE;
    bool off = !strcmp(name, "off"), wide = !strcmp(name, "64-true");
    if (i < 2 && kind == TE_MODE)
      refuse_region(c, x, keys[i], "a *-true or *-mixed mode, or off: it has no products for FP8");
    else if (i == 2 && kind != TRUE_MODE)
      refuse_region(c, x, keys[i],
                    "64-true, 32-true, 16-true or bf16-true: the format of its state");
    else if (i == 2 && !strcmp(k->mode, "64-true") && !wide)
      refuse_region(c, x, keys[i], "64-true only in mode 64-true, whose weights are FP64");
    else if (i == 3 && (kind == TE_MODE || off))
      refuse_region(c, x, keys[i],
                    "64-true, 32-true, 16-mixed, bf16-mixed, 16-true or bf16-true: the format "
                    "that they give");
  }
}

Str precision_check(const Check *c, Val *v, const Val *asked) {
  Val *mode = val_get(v, "mode");
  if (!mode || mode->kind != VAL_STR)
    return NULL;
  Str canonical = precision_mode(c, mode);
  if (!canonical)
    return NULL;
  mode->s = canonical;
  Keys k = {.c = c, .v = v};
  k.file_mode = mode->origin == ORIGIN_DEFAULT ? NULL : canonical;
  if (asked) {
    Str name = precision_mode(c, asked);
    if (!name)
      return NULL;
    val_set(c->a, v, str_c(c->s, "mode"), val_str(c->a, name, ORIGIN_FILE, asked->loc));
    canonical = name;
  }
  k.mode = canonical;
  check_te_keys(&k);
  check_weights(&k);
  check_recipe(&k);
  check_attention(&k);
  check_masters(&k);
  check_scaler(&k);
  check_rounding(&k);
  list_idle(&k);
  check_regions(&k);
  Str idle = k.idle.len ? text_take(c->a, c->s, &k.idle) : NULL;
  return idle;
}

bool precision_scales(const Val *v) {
  const Val *enabled = val_get(v, "grad_scaler.enabled");
  if (enabled && enabled->kind == VAL_BOOL)
    return enabled->i != 0;
  Str mode = val_get_str(v, "mode", "32-true"), masters = val_get_str(v, "master_weights", "");
  bool lightning = !strcmp(val_get_str(v, "compat", "none"), "lightning");
  int i = mode_index(mode);
  if (i < 0)
    return false;
  if (modes[i].kind == MIXED_MODE)
    return modes[i].f16;
  if (modes[i].kind == TE_MODE) {
    Str own = modes[i].f16 ? "float16" : "bfloat16", weights = val_get_str(v, "weights_dtype", own);
    bool wide = !strcmp(weights, "float32") || strcmp(masters, "none");
    return wide && !lightning &&
           !strcmp(val_get_str(v, "fallback_compute_dtype", weights), "float16");
  }
  return modes[i].f16 && !strcmp(masters, "float32");
}

/* ---- complex numbers ---- */

/* Whether parameters are stored in 16 bits. */
static bool stores_half(const Val *v, const char *mode) {
  bool lightning = !strcmp(val_get_str(v, "compat", "none"), "lightning");
  if (kind_of(mode) == TE_MODE)
    return (lightning ? !has_masters(v) : !strcmp(val_get_str(v, "master_weights", ""), "none")) &&
           strcmp(val_get_str(v, "weights_dtype", ""), "float32") != 0;
  return half_weights(mode) && !has_masters(v);
}

static bool refuse_complex(const Check *c, const Node *n, const char *why, const char *mode,
                           const char *hint) {
  bool region = n->region.mode && !strcmp(n->region.mode, mode);
  diag_error(c->d, region ? n->region.loc : n->loc, 438, "'%s' (%s) is complex: %s %s", n->name,
             n->type->key, mode, why);
  diag_hint(c->d, "%s", hint);
  return false;
}

bool precision_complex(const Check *c, const Val *v, const Node *n, bool stored, Str *mode) {
  Str whole = val_get_str(v, "mode", "32-true");
  bool own = n->region.mode && strcmp(n->region.mode, "off") != 0;
  Str here = own ? n->region.mode : whole;
  *mode = NULL;
  if (own && kind_of(here) == TE_MODE)
    return refuse_complex(c, n, "has no complex products in FP8", here,
                          "precision: 32-true computes it in complex64");
  if (half_weights(here))
    return refuse_complex(c, n, "has no complex numbers of 16 bits", here,
                          "precision: 32-true, of the layer, computes it in complex64");
  if (stored && stores_half(v, whole))
    return refuse_complex(c, n, "stores its parameters in 16 bits", whole,
                          "master_weights: float32 stores them in 32 bits");
  if (kind_of(here) != TRUE_MODE)
    *mode = str_c(c->s, !strcmp(whole, "64-true") ? "64-true" : "32-true");
  return true;
}

/* ---- regions ---- */

/* Up to three names nearest to a pattern, as the hint of an unmatched one. */
static void nearest_layers(const Check *c, const Model *m, const char *pattern) {
  const char **known = ARENA_ARRAY(c->a, const char *, m->nnode + 1);
  if (arena_failed(c->a))
    return;
  size_t n = 0;
  size_t len = strlen(pattern);
  for (int i = 0; i < m->nnode; i++) {
    const char *name = m->node[i]->name;
    if (!strncmp(name, pattern, len) && name[len] == '.') {
      diag_hint(c->d, "'%s' is a block; its layers are '%s.**'", pattern, pattern);
      return;
    }
    known[n++] = name;
  }
  Text t = {0};
  for (int found = 0; found < 3 && n; found++) {
    const char *near = diag_suggest(pattern, known, n);
    if (!near)
      break;
    const Node *node = model_find(m, near);
    text_printf(&t, "%s'%s' (%s)", found ? ", " : "", near,
                node && node->type ? node->type->key : "");
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
      if (strcmp(known[i], near))
        known[kept++] = known[i];
    n = kept;
  }
  if (t.len)
    diag_hint(c->d, "nearest names: %s", t.data);
  else
    diag_hint(c->d, "patterns match full layer names: * within a part, ** any parts");
  text_fini(&t);
}

/* Marks the layers a glob names; each alternative of its braces must name one. */
static void apply_glob(const Check *c, Model *m, const Val *glob, PrecisionRegion region) {
  Str *pattern;
  int n = glob_expand(c->a, c->s, glob->s, &pattern);
  if (!n) {
    diag_error(c->d, glob->loc, 420, "pattern '%s' is not well formed", glob->s);
    diag_hint(c->d, "braces {a,b} must close");
    return;
  }
  for (int k = 0; k < n; k++) {
    bool found = false;
    for (int i = 0; i < m->nnode; i++)
      if (glob_match(pattern[k], m->node[i]->name)) {
        m->node[i]->region = region;
        found = true;
      }
    if (!found) {
      diag_error(c->d, glob->loc, 421, "override matches no layer: '%s'", pattern[k]);
      nearest_layers(c, m, pattern[k]);
    }
  }
}

/* What a part of a model may be set to inside a whole that runs in `mode`. */
static bool region_allowed(const Check *c, Loc loc, const char *region, const char *mode) {
  int i = mode_index(region);
  if (i < 0)
    return true;
  int whole = mode_index(mode);
  bool same = !strcmp(region, mode), mixed = whole >= 0 && modes[whole].kind == MIXED_MODE;
  if (modes[i].kind != TE_MODE || same || (mixed && modes[i].f16 == modes[whole].f16))
    return true;
  if (mixed) { /* gradients in float16 need the loss scaler, which goes with the whole mode */
    diag_error(c->d, loc, 439, "a layer in %s does not go with mode %s", region, mode);
    diag_hint(c->d, "%s has the format of its low dtype",
              modes[whole].f16 ? "transformer-engine-float16" : "transformer-engine");
  } else {
    diag_error(c->d, loc, 190, "a layer in %s inside mode %s is not supported yet", region, mode);
    diag_hint(c->d, "make %s the mode and set the other layers back", region);
  }
  return false;
}

void precision_overrides(const Check *c, const Val *v, Model *m) {
  Str mode = val_get_str(v, "mode", "32-true");
  for (int i = 0; i < m->nnode; i++) {
    Node *n = m->node[i];
    if (n->region.mode)
      region_allowed(c, n->region.loc, n->region.mode, mode);
  }
  const Val *overrides = val_get(v, "overrides");
  for (int i = 0; overrides && i < overrides->n; i++) {
    const Val *o = overrides->item[i], *match = val_get(o, "match"), *p = val_get(o, "precision");
    if (!match || match->kind != VAL_LIST || !p || p->kind != VAL_STR)
      continue; /* diagnosed by the schema */
    PrecisionRegion region = {precision_region(c, p), NULL, p->loc};
    if (!region.mode || !region_allowed(c, p->loc, region.mode, mode))
      continue;
    Str reason = val_get_str(o, "reason", "");
    for (int k = 0; k < match->n; k++) {
      region.rule =
          str_fmt(c->s, "override '%s'%s%s", match->item[k]->s, *reason ? ": " : "", reason);
      apply_glob(c, m, match->item[k], region);
    }
  }
}
