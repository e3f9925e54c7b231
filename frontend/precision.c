/* The precision section: mode strings, rules between its keys, regions of other precision. */
#include "frontend/frontend.h"

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

static bool is_te(const char *mode) {
  int i = mode_index(mode);
  return i >= 0 && modes[i].kind == TE_MODE;
}

Str precision_mode(const Check *c, const Val *v) {
  int i = mode_index(v->s);
  if (i < 0) {
    const char *known[NMODES];
    for (int k = 0; k < NMODES; k++)
      known[k] = modes[k].name;
    diag_error(c->d, v->loc, 204, "unknown precision '%s'", v->s);
    const char *near = diag_suggest(v->s, known, NMODES);
    if (near)
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
  return str_c(c->s, modes[i].canonical);
}

static bool given(const Val *v) {
  return v && v->kind != VAL_NULL && v->origin != ORIGIN_DEFAULT;
}

static bool is_set(const Check *c, const Val *v) {
  return given(v) && v->loc.file && !strcmp(diag_file_name(c->d, v->loc.file), "--set");
}

/* Keys that only transformer-engine modes know. A mode named in the file excludes them, unless both
 * they and another mode come from the command line; a mode from the command line, or the default,
 * leaves them idle. */
static void check_te_keys(const Check *c, Val *v, const char *file_mode, const char *mode) {
  static const char *const keys[] = {"recipe", "weights_dtype", "fallback_compute_dtype"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const Val *x = val_get(v, keys[i]);
    bool asked = is_te(mode) && x && is_set(c, x);
    if (file_mode && !is_te(file_mode) && given(x) && !asked) {
      diag_error(c->d, x->loc, 431, "'%s' does not go with mode %s", keys[i], file_mode);
      diag_hint(c->d, "it belongs to the transformer-engine modes; remove it or change the mode");
    }
    if (!is_te(mode))
      val_remove(v, keys[i]);
  }
}

/* First recipe that has the field. */
static const RecipeInfo *owner_of(const char *key) {
  for (int i = 0; recipe_at(i); i++)
    if (recipe_has_key(recipe_at(i), key))
      return recipe_at(i);
  return NULL;
}

/* Fields of other recipes contradict the name that stands beside them; beside a name from the
 * command line they lie idle. */
static void check_recipe(const Check *c, Val *v) {
  Val *recipe = val_get(v, "recipe");
  const Val *name = recipe ? val_get(recipe, "name") : NULL;
  const RecipeInfo *r = name && name->kind == VAL_STR ? recipe_named(name->s) : NULL;
  for (int i = r ? recipe->n - 1 : -1; i >= 0; i--) {
    const Val *x = recipe->item[i];
    const char *key = recipe->key[i];
    const RecipeInfo *owner = recipe_has_key(r, key) ? NULL : owner_of(key);
    if (!owner)
      continue;
    if (given(x) && (!is_set(c, name) || is_set(c, x))) {
      diag_error(c->d, x->loc, 434, "'%s' is a field of %s, not of %s", key, owner->name, r->name);
      if (given(name))
        diag_note(c->d, name->loc, "the recipe is named here");
      diag_hint(c->d, "remove it, or write name: %s", owner->name);
    }
    val_remove(recipe, key);
  }
}

static void check_scaler(const Check *c, Val *v, const char *file_mode, const char *mode) {
  Val *enabled = val_get(v, "grad_scaler.enabled");
  bool on = enabled && enabled->kind == VAL_BOOL && enabled->i;
  bool masters = !strcmp(val_get_str(v, "master_weights", ""), "float32");
  const char *wrong = NULL;
  if (on && file_mode && (!strcmp(file_mode, "16-true") || !strcmp(file_mode, "bf16-true")))
    wrong = file_mode;
  if (wrong && !masters) {
    diag_error(c->d, enabled->loc, 430, "mode %s cannot be combined with a gradient scaler", wrong);
    diag_hint(c->d, "scaling needs FP32 gradients or master weights; use mode: %s",
              !strcmp(wrong, "16-true") ? "16-mixed" : "bf16-mixed");
  } else if (on && !masters && strstr(mode, "-true") && strncmp(mode, "32", 2) &&
             strncmp(mode, "64", 2)) {
    enabled->i = 0; /* a key of the file's own mode lies idle */
  }
}

static void check_masters(const Check *c, const Val *v, const char *mode) {
  const Val *x = val_get(v, "master_weights");
  int i = mode_index(mode);
  if (!given(x) || i < 0)
    return;
  bool none = !strcmp(x->s, "none");
  if (none && modes[i].kind == MIXED_MODE) {
    diag_error(c->d, x->loc, 432, "mode %s trains FP32 weights; master_weights cannot be none",
               mode);
    diag_hint(c->d, "use mode: %s", modes[i].f16 ? "16-true" : "bf16-true");
  } else if (!none && !strcmp(mode, "64-true")) {
    diag_error(c->d, x->loc, 432,
               "mode 64-true trains FP64 weights; master_weights cannot be float32");
  }
}

void precision_check(const Check *c, Val *v, const Val *asked) {
  Val *mode = val_get(v, "mode");
  if (!mode || mode->kind != VAL_STR)
    return;
  Str canonical = precision_mode(c, mode);
  if (!canonical)
    return;
  mode->s = canonical;
  const char *file_mode = mode->origin == ORIGIN_DEFAULT ? NULL : canonical;
  if (asked) {
    Str name = precision_mode(c, asked);
    if (!name)
      return;
    val_set(c->a, v, str_c(c->s, "mode"), val_str(c->a, name, ORIGIN_FILE, asked->loc));
    canonical = name;
  }
  check_te_keys(c, v, file_mode, canonical);
  check_recipe(c, v);
  check_scaler(c, v, file_mode, canonical);
  check_masters(c, v, canonical);
}

bool precision_scales(const Val *v) {
  const Val *enabled = val_get(v, "grad_scaler.enabled");
  if (enabled && enabled->kind == VAL_BOOL)
    return enabled->i != 0;
  Str mode = val_get_str(v, "mode", "32-true"), masters = val_get_str(v, "master_weights", "");
  Str weights = val_get_str(v, "weights_dtype", "");
  bool lightning = !strcmp(val_get_str(v, "compat", "none"), "lightning");
  int i = mode_index(mode);
  if (i < 0)
    return false;
  bool f16 = *weights ? !strcmp(weights, "float16") : modes[i].f16;
  if (modes[i].kind == MIXED_MODE)
    return f16;
  if (modes[i].kind == TE_MODE)
    return f16 && !lightning && strcmp(masters, "none");
  return f16 && !strcmp(masters, "float32");
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
static void apply_glob(const Check *c, Model *m, const Val *glob, Str mode) {
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
        m->node[i]->precision = mode;
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
  if (modes[i].kind == TE_MODE && strcmp(region, mode)) {
    diag_error(c->d, loc, 190, "a layer in %s inside mode %s is not supported yet", region, mode);
    diag_hint(c->d, "make %s the mode and set the other layers back", region);
    return false;
  }
  return true;
}

void precision_overrides(const Check *c, const Val *v, Model *m) {
  Str mode = val_get_str(v, "mode", "32-true");
  for (int i = 0; i < m->nnode; i++) {
    Node *n = m->node[i];
    if (n->precision)
      region_allowed(c, n->args ? val_get(n->args, "precision")->loc : n->loc, n->precision, mode);
  }
  const Val *overrides = val_get(v, "overrides");
  for (int i = 0; overrides && i < overrides->n; i++) {
    const Val *o = overrides->item[i], *match = val_get(o, "match"), *p = val_get(o, "precision");
    if (!match || match->kind != VAL_LIST || !p || p->kind != VAL_STR)
      continue; /* diagnosed by the schema */
    Str region = precision_mode(c, p);
    if (!region || !region_allowed(c, p->loc, region, mode))
      continue;
    for (int k = 0; k < match->n; k++)
      apply_glob(c, m, match->item[k], region);
  }
}
