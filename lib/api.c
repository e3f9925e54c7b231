/* Implements mpcc.h: a spec (or IR text) becomes a program image. Drives frontend, passes and code
 * generation in order; collects diagnostics and hands them to the callback. Prints nothing. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "frontend/frontend.h"
#include "ir/ir.h"
#include "lib/lib.h"
#include "mpcc/mpcc.h"
#include "passes/passes.h"

struct mpcc_session {
  mpcc_options o;
  mpcc_callbacks cb;
};

mpcc_session *mpcc_session_create(const mpcc_options *o, const mpcc_callbacks *cb) {
  mpcc_session *s = calloc(1, sizeof *s);
  if (!s)
    return NULL;
  s->o = *o;
  s->cb = *cb;
  if (!s->o.opt_set)
    s->o.opt_level = 2;
  return s;
}

void mpcc_session_destroy(mpcc_session *s) {
  free(s);
}

const char *mpcc_version(void) {
  return MPCC_VERSION;
}

/* ---- one compilation ------------------------------------------------------------------------- */

static void session_deliver(mpcc_session *s, const Diag *d) {
  if (!s->cb.message)
    return;
  for (const DiagMessage *m = diag_first(d); m; m = m->next) {
    Text text = {0}, json = {0};
    diag_render(d, m, s->o.colour, &text);
    diag_render_json(d, m, &json);
    while (text.len && text.data[text.len - 1] == '\n')
      text.data[--text.len] = 0;
    mpcc_message out = {(mpcc_severity)m->severity, text.data ? text.data : "",
                        json.data ? json.data : ""};
    s->cb.message(s->cb.user, &out);
    text_fini(&text);
    text_fini(&json);
  }
}

bool compilation_begin(Compilation *c, const mpcc_options *o, const mpcc_callbacks *cb) {
  memset(c, 0, sizeof *c);
  c->o = o;
  c->cb = cb;
  c->arena = arena_create();
  if (!c->arena)
    return false;
  c->strings = str_table_create(c->arena);
  c->diag = diag_create(c->arena, c->strings);
  diag_option_max_errors(c->diag, o->max_errors_set ? o->max_errors : 20);
  for (int i = 0; i < o->nwarning; i++) {
    const char *w = o->warning[i];
    if (!strcmp(w, "error"))
      diag_option_werror(c->diag, true);
    else if (!strncmp(w, "no-", 3))
      diag_option_ignore(c->diag, w + 3, true);
    else
      diag_option_ignore(c->diag, w, false);
  }
  return true;
}

Status compilation_begin_mode(Compilation *c, mpcc_session *s, const char *precision) {
  if (!compilation_begin(c, &s->o, &s->cb))
    return MPCC_ERR_NOMEM;
  c->own = s->o;
  c->own.precision = precision;
  c->o = &c->own;
  return MPCC_OK;
}

static const char *const warnings[] = {
#define WARNING(name, text) name,
#include "lib/messages.def"
};

/* Words of the command line that would otherwise be ignored without a sound. */
static Status check_words(const Compilation *c) {
  for (int i = 0; i < c->o->nwarning; i++) {
    const char *w = c->o->warning[i], *name = strncmp(w, "no-", 3) ? w : w + 3;
    size_t n = sizeof warnings / sizeof *warnings, k = 0;
    while (k < n && strcmp(name, warnings[k]))
      k++;
    if (k == n && strcmp(w, "error")) {
      diag_error(c->diag, (Loc){0}, 511, "unknown warning '%s'", name);
      diag_hint(c->diag, "mpcc --help=warnings lists them");
      return MPCC_ERR_USAGE;
    }
  }
  const char *const pass[] = {c->o->print_before, c->o->print_after, c->o->stop_after};
  int n;
  const PassInfo *table = pass_table(&n);
  for (size_t i = 0; i < sizeof pass / sizeof *pass; i++) {
    int k = 0;
    while (k < n && pass[i] && strcmp(pass[i], table[k].name))
      k++;
    if (pass[i] && k == n && strcmp(pass[i], "all")) {
      diag_error(c->diag, (Loc){0}, 590, "no pass is named '%s'", pass[i]);
      diag_hint(c->diag, "mpcc --help=passes lists them");
      return MPCC_ERR_USAGE;
    }
  }
  return MPCC_OK;
}

void compilation_fini(Compilation *c) {
  text_fini(&c->plan);
  module_destroy(c->module);
  arena_destroy(c->arena);
}

Status compilation_end(Compilation *c, mpcc_session *s, Status st) {
  if (st == MPCC_OK && arena_failed(c->arena))
    st = MPCC_ERR_NOMEM;
  if (st == MPCC_OK && diag_errors(c->diag))
    st = MPCC_ERR_INPUT; /* warnings under -Werror */
  session_deliver(s, c->diag);
  compilation_fini(c);
  return st;
}

static Status read_parent(void *user, const char *path, char **text, size_t *len) {
  (void)user;
  return lib_read_file(path, text, len);
}

Status compilation_spec(Compilation *c, const char *path, const char *text, size_t len) {
  SpecSource src = {.path = path,
                    .text = text,
                    .len = len,
                    .precision = c->o->precision,
                    .precision_from = c->o->precision_from,
                    .define = c->o->define,
                    .ndefine = c->o->ndefine,
                    .set = c->o->set,
                    .nset = c->o->nset,
                    .include = c->o->include,
                    .ninclude = c->o->ninclude,
                    .read = read_parent};
  return spec_parse(c->arena, c->strings, c->diag, &src, &c->spec);
}

static bool is_ir(const char *path) {
  size_t n = strlen(path);
  return n > 5 && !strcmp(path + n - 5, ".mpir");
}

Status compilation_front(Compilation *c, const char *path, const char *text, size_t len) {
  if (is_ir(path)) {
    uint32_t file = diag_file(c->diag, path, text, len);
    return module_parse(c->strings, c->diag, file, text, len, &c->module);
  }
  Status st = compilation_spec(c, path, text, len);
  if (st == MPCC_OK && spec_batch_auto(c->spec) && !c->check_only)
    st = batch_choose(c, path, text, len);
  if (st == MPCC_OK)
    st = spec_lower(c->spec, c->strings, c->diag, &c->module);
  return st;
}

/* no_fp8: what on_unsupported: fallback falls back for. */
static void ask_targets(Compilation *c, PassOpts *o);

Status compilation_passes(Compilation *c, const TargetCaps *caps, const char *stop_after) {
  PassOpts opts = {.caps = caps,
                   .strict = c->o->strict,
                   .no_reuse = c->o->no_reuse,
                   .called_only = !c->o->all_functions,
                   .opt_level = c->o->opt_level};
  ask_targets(c, &opts);
  PassRun run = {.stop_after = stop_after,
                 .print_before = c->o->print_before,
                 .print_after = c->o->print_after,
                 .time = c->o->time_passes,
                 .check = c->o->check_passes,
                 .dump = c->cb->dump,
                 .user = c->cb->user};
  const char *failed = NULL;
  Module *out = NULL, *in = c->module;
  c->module = NULL;
  Status st = passes_run(in, &opts, &run, c->diag, &out, &failed);
  c->module = out;
  if (st == MPCC_ERR_INTERNAL && failed && out && c->cb->dump) {
    Text t = {0};
    text_printf(&t, "# reproduces a failure of pass %s: mpcc --emit=ir --stop-after=%s THIS.mpir\n",
                failed, failed);
    module_print(out, c->diag, &t);
    c->cb->dump(c->cb->user, "reproducer", t.data ? t.data : "");
    text_fini(&t);
  }
  return st;
}

/* A second copy of the current module, for the next level: through the text form. */
static Status module_again(Compilation *c, const char *text, size_t len, Module **out) {
  uint32_t file = diag_file(c->diag, "<module>", text, len);
  return module_parse(c->strings, c->diag, file, text, len, out);
}

static void meta_json(Compilation *c, const char *level, const KernelTable *kernels, Text *out) {
  const Module *m = c->module;
  text_puts(out, "{\"mpcc\":");
  text_json(out, MPCC_VERSION);
  text_puts(out, ",\"name\":");
  text_json(out, module_str(m, "name", "program"));
  text_puts(out, ",\"level\":");
  text_json(out, level);
  if (c->o->instrument) {
    text_puts(out, ",\"instrument\":");
    text_json(out, c->o->instrument);
  }
  text_puts(out, ",\"attrs\":{");
  for (int i = 0; i < m->nattr; i++) {
    const Attr *a = &m->attr[i];
    text_puts(out, i ? "," : "");
    text_json(out, a->key);
    text_puts(out, ":");
    if (a->kind == AT_STR)
      text_json(out, a->u.s);
    else if (a->kind == AT_FLOAT)
      text_printf(out, "%.17g", a->u.f);
    else
      text_printf(out, "%lld", (long long)a->u.i);
  }
  text_puts(out, "},\"spec\":");
  if (c->spec)
    spec_json(c->spec, out);
  else
    text_puts(out, "null");
  text_puts(out, ",\"places\":");
  spec_places(c->spec, out);
  Text yaml = {0}, plan = {0};
  text_puts(&plan, c->plan.data ? c->plan.data : "");
  explain_planned(c, kernels, &plan);
  if (c->spec)
    spec_resolve(c->spec, false, &yaml);
  text_puts(out, ",\"spec_yaml\":");
  text_json(out, yaml.data ? yaml.data : "");
  text_puts(out, ",\"plan\":");
  text_json(out, plan.data ? plan.data : "");
  text_puts(out, "}");
  out->failed |= plan.failed || yaml.failed;
  text_fini(&plan);
  text_fini(&yaml);
}

static Status no_target(Compilation *c, const char *name) {
  diag_error(c->diag, (Loc){0}, 503, "this build of mpcc has no target %s", name);
  return MPCC_ERR_TARGET;
}

/* Name of target i of those asked for; NULL behind the last. */
static const char *target_name(const Compilation *c, int i) {
  return i < c->o->ntarget ? c->o->target[i] : i == 0 ? "cpu" : NULL;
}

/* Levels to compile, best first: those asked for, or the host's and the baseline; of a GPU, all. */
static Status find_levels(Compilation *c, const Target *t, const char **level, int *n) {
  *n = 0;
  const bool gpu = !strcmp(t->name, "cuda");
  const char *host = t->host_level(), *const *asked = gpu ? c->o->arch : c->o->level;
  const int nasked = gpu ? c->o->narch : c->o->nlevel;
  for (int i = 0; i < nasked && i < LIB_MAX_LEVELS; i++) {
    const char *want = !strcmp(asked[i], "native") ? host : asked[i];
    int before = *n;
    for (int k = 0; want && k < t->nlevel; k++)
      if (!strcmp(want, t->level[k]))
        level[(*n)++] = t->level[k];
    if (*n == before) {
      Text known = {0};
      for (int k = 0; k < t->nlevel; k++)
        text_printf(&known, "%s%s", k ? ", " : "", t->level[k]);
      diag_error(c->diag, (Loc){0}, 501, "unknown level '%s' of target %s; there are %s", asked[i],
                 t->name, known.data ? known.data : "none");
      text_fini(&known);
      return MPCC_ERR_USAGE;
    }
  }
  if (nasked)
    return MPCC_OK;
  for (int k = t->nlevel; gpu && !c->o->host_level_only && k-- > 0;)
    level[(*n)++] = t->level[k];
  if (*n)
    return MPCC_OK;
  if (host)
    level[(*n)++] = host;
  if (!host && c->o->host_level_only) {
    diag_error(c->diag, (Loc){0}, 502, "this machine runs none of the levels of target %s",
               t->name);
    diag_hint(c->diag, "the lowest, %s, needs: %s", t->level[0], t->level_needs(t->level[0]));
    return MPCC_ERR_TARGET;
  }
  if (!c->o->host_level_only && (!host || strcmp(host, t->level[0])))
    level[(*n)++] = t->level[0];
  return MPCC_OK;
}

/* Some op of the forward module may run in FP8. */
static bool has_fp8(const Module *m) {
  Mode mode;
  if (mode_named(m, module_str(m, "mode", ""), &mode) && mode.fp8)
    return true;
  for (int i = 0; i < m->nfunc; i++)
    for (int k = 0; k < m->func[i]->nop; k++) {
      const char *region = op_str(m->func[i]->op[k], "precision", NULL);
      if (region && mode_named(m, region, &mode) && mode.fp8)
        return true;
    }
  return false;
}

/* The first of n levels without units for the recipe's products; NULL: all have them, or the spec
 * has no FP8 or does not say `on_unsupported: WORD`. CPUs have none. */
static const char *without_units(const Compilation *c, const char *word, const Target *t,
                                 const char *const *level, int n) {
  const Val *root = c->spec ? c->spec->root : NULL;
  if (!root || strcmp(val_get_str(root, "precision.on_unsupported", "emulate"), word))
    return NULL;
  const RecipeInfo *r = recipe_named(val_get_str(root, "precision.recipe.name", ""));
  if (!has_fp8(c->module))
    return NULL;
  for (int i = 0; i < n; i++) {
    bool gpu = !strncmp(level[i], "sm_", 3);
    if (!gpu || atoi(level[i] + 3) < (r ? r->units : recipe_at(0)->units))
      return gpu ? level[i] : t->name;
  }
  return NULL;
}

/* What fuse and plan may know of the target, as the options want it. */
static Status caps_of(const Compilation *c, const Target *t, const char *level, TargetCaps *caps) {
  Status st = t->caps(level, caps);
  if (c->o->own_products) { /* all targets alike: none rounds while it packs, or joins results */
    caps->library_products = caps->library_fp8 = caps->rounding_packs = false;
    caps->joined_grads = false;
  }
  return st;
}

static void ask_targets(Compilation *c, PassOpts *o) {
  const char *level[LIB_MAX_LEVELS + 1], *name;
  for (int i = 0; c->module && c->module->stage < STAGE_SAVED && (name = target_name(c, i));
       i++) {
    const Target *t = target_by_name(name);
    int n = 0;
    if (!t || find_levels(c, t, level, &n) != MPCC_OK)
      return; /* said where code is asked for */
    const char *lacks = o->no_fp8 ? NULL : without_units(c, "fallback", t, level, n);
    if (lacks)
      o->no_fp8 = str_fmt(c->strings, "%s%s", strcmp(lacks, t->name) ? "" : "target ", lacks);
  }
}

/* `on_unsupported: error` */
static Status check_formats(Compilation *c, const Target *t, const char *const *level, int n) {
  const char *lacks = without_units(c, "error", t, level, n);
  if (!lacks)
    return MPCC_OK;
  const Val *root = c->spec->root, *mode = val_get(root, "precision.mode");
  const char *recipe = val_get_str(root, "precision.recipe.name", "FP8");
  Mode m;
  mode_named(c->module, mode->s, &m);
  diag_error(c->diag, mode->loc, 502, "precision '%s' needs units for %s; %s has none", mode->s,
             recipe, lacks);
  diag_hint(c->diag, "write on_unsupported: emulate (exact rounding, slower), or use mode: %s",
            m.weight == MPCC_F16 ? "16-mixed" : "bf16-mixed");
  return MPCC_ERR_TARGET;
}

/* The same for every target of the compilation, before anything is compiled. */
static Status check_targets(Compilation *c) {
  const char *level[LIB_MAX_LEVELS + 1], *name;
  Status st = MPCC_OK;
  for (int i = 0; st == MPCC_OK && (name = target_name(c, i)); i++) {
    const Target *t = target_by_name(name);
    int n = 0;
    if (t && find_levels(c, t, level, &n) == MPCC_OK)
      st = check_formats(c, t, level, n);
  }
  return st;
}

static Status choose_levels(Compilation *c, const Target *t, const char **level, int *n) {
  Status st = find_levels(c, t, level, n);
  return st == MPCC_OK ? check_formats(c, t, level, *n) : st;
}

static Status append_image(Compilation *c, const Target *t, const char *level,
                           const KernelTable *kernels, const void *object, size_t bytes,
                           Blob *blob) {
  Text meta = {0};
  meta_json(c, level, kernels, &meta);
  Code code = {t->name, level, t->level_needs(level), object, bytes};
  void *image = NULL;
  size_t image_bytes = 0;
  Status st = meta.failed ? MPCC_ERR_NOMEM
                          : package_image(c->module, kernels, &code, 1, meta.data, c->diag, &image,
                                          &image_bytes);
  if (st == MPCC_OK)
    st = blob_take(blob, image, image_bytes);
  text_fini(&meta);
  return st;
}

/* Fuse and plan for one level. */
static Status plan_level(Compilation *c, const Target *t, const char *level, KernelTable *kernels) {
  TargetCaps caps;
  Status st = caps_of(c, t, level, &caps);
  if (st == MPCC_OK)
    st = compilation_passes(c, &caps, NULL);
  return st == MPCC_OK ? codegen_kernels(c->module, c->arena, kernels) : st;
}

/* Fuse, plan and emit for one level; appends the image, or the text or object `form` asks for. */
static Status emit_level(Compilation *c, const Target *t, const char *level, const char *form,
                         Blob *blob) {
  KernelTable kernels = {0};
  Status st = plan_level(c, t, level, &kernels);
  void *object = NULL;
  size_t bytes = 0;
  char cache[4096];
  const EmitOpts opts = {
      .target = t,
      .level = level,
      .form = form ? form : "object",
      .opt_level = c->o->opt_level,
      .jobs = c->o->jobs > 0 ? c->o->jobs : (int)sysconf(_SC_NPROCESSORS_ONLN),
      .cache_dir = c->o->no_cache ? NULL : lib_cache_dir(c->o->cache_dir, cache, sizeof cache)};
  if (st == MPCC_OK)
    st = codegen_emit(&opts, kernels.kernel, kernels.n, c->diag, &object, &bytes);
  if (st == MPCC_OK)
    st = form ? blob_append(blob, object, bytes)
              : append_image(c, t, level, &kernels, object, bytes, blob);
  free(object);
  return st;
}

typedef struct {
  const Target *target;
  const char *level;
} Goal;

/* What to compile for, in the order of the images: GPUs first, each target's best level first. */
static Status choose_goals(Compilation *c, Goal *goal, int *n) {
  const char *level[LIB_MAX_LEVELS + 1], *name;
  Status st = MPCC_OK;
  *n = 0;
  for (int gpu = 1; gpu >= 0; gpu--)
    for (int i = 0; st == MPCC_OK && (name = target_name(c, i)); i++) {
      const Target *t = target_by_name(name);
      int count = 0;
      if (!t)
        return no_target(c, name);
      if (gpu != (strcmp(name, "cuda") == 0))
        continue;
      st = choose_levels(c, t, level, &count);
      for (int k = 0; k < count; k++)
        goal[(*n)++] = (Goal){t, level[k]};
    }
  return st;
}

/* What people read is of one target, of its best level: goal[0]. target NULL: of the first. */
static Status choose_form(Compilation *c, const char *form, const char *target, Goal *goal, int n) {
  for (int i = 0; i < n; i++)
    if (!target || !strcmp(goal[i].target->name, target)) {
      goal[0] = goal[i];
      return MPCC_OK;
    }
  diag_error(c->diag, (Loc){0}, 508, "%s is a form of target %s, which is not asked for", form,
             target);
  diag_hint(c->diag, "add --target=%s", target);
  return MPCC_ERR_USAGE;
}

/* One image per level, one behind the other: mprt_open takes the first that runs. */
static Status emit_all(Compilation *c, const char *form, const char *target, Blob *blob) {
  Goal goal[2 * (LIB_MAX_LEVELS + 1)];
  int n = 0;
  Status st = choose_goals(c, goal, &n);
  if (st == MPCC_OK && form && n)
    st = choose_form(c, form, target, goal, n);
  if (st != MPCC_OK)
    return st;
  n = form && n ? 1 : n;
  TargetCaps caps;
  Text train = {0};
  if (n)
    st = caps_of(c, goal[0].target, goal[0].level, &caps);
  if (st == MPCC_OK)
    st = explain_to_saved(c, n ? &caps : NULL, n > 1 ? &train : NULL, &c->plan);
  for (int i = 0; i < n && st == MPCC_OK; i++) {
    if (i) {
      module_destroy(c->module);
      c->module = NULL;
      st = train.failed ? MPCC_ERR_NOMEM : module_again(c, train.data, train.len, &c->module);
    }
    if (st == MPCC_OK)
      st = emit_level(c, goal[i].target, goal[i].level, form, blob);
  }
  text_fini(&train);
  return st;
}

/* IR asked for: all passes unless --stop-after names one; fuse and plan for the first level. */
static Status emit_ir(Compilation *c, void **out, size_t *bytes) {
  const Target *t = target_by_name(target_name(c, 0));
  const char *level[LIB_MAX_LEVELS + 1];
  int n = 0;
  TargetCaps caps;
  Status st = t ? choose_levels(c, t, level, &n) : MPCC_OK;
  if (st == MPCC_OK && n)
    st = caps_of(c, t, level[0], &caps);
  if (st == MPCC_OK)
    st = compilation_passes(c, n ? &caps : NULL, n || c->o->stop_after ? c->o->stop_after : "save");
  if (st != MPCC_OK)
    return st;
  Text text = {0};
  module_print(c->module, c->diag, &text);
  return lib_take_text(&text, out, bytes);
}

/* Target and its first level to compile for. */
static Status first_level(Compilation *c, const Target **t, const char **level) {
  const char *levels[LIB_MAX_LEVELS + 1];
  int n = 0;
  *t = target_by_name(target_name(c, 0));
  if (!*t)
    return no_target(c, target_name(c, 0));
  Status st = choose_levels(c, *t, levels, &n);
  *level = n ? levels[0] : NULL;
  return st;
}

Status compilation_caps(Compilation *c, TargetCaps *caps) {
  const Target *t;
  const char *level;
  Status st = first_level(c, &t, &level);
  return st == MPCC_OK ? caps_of(c, t, level, caps) : st;
}

Status compilation_plan(Compilation *c, KernelTable *kernels) {
  const Target *t;
  const char *level;
  Status st = first_level(c, &t, &level);
  return st == MPCC_OK ? plan_level(c, t, level, kernels) : st;
}

static Status emit_plan(Compilation *c, void **out, size_t *bytes) {
  const Target *t;
  const char *level;
  KernelTable kernels;
  TargetCaps caps;
  Text plan = {0};
  Status st = first_level(c, &t, &level);
  if (st == MPCC_OK)
    st = caps_of(c, t, level, &caps);
  if (st == MPCC_OK)
    st = explain_to_saved(c, &caps, NULL, &plan);
  if (st == MPCC_OK)
    st = plan_level(c, t, level, &kernels);
  if (st == MPCC_OK)
    st = explain_planned(c, &kernels, &plan);
  if (st == MPCC_OK)
    return lib_take_text(&plan, out, bytes);
  text_fini(&plan);
  return st;
}

static Status emit_text(Compilation *c, mpcc_output kind, void **out, size_t *bytes) {
  KernelTable kernels;
  Text text = {0};
  Status st = MPCC_OK;
  if (kind == MPCC_OUT_C_HEADER) {
    st = compilation_plan(c, &kernels);
    if (st == MPCC_OK)
      st = header_emit(c, &text);
  } else {
    st = graph_emit(c, kind == MPCC_OUT_SVG, &text);
  }
  if (st == MPCC_OK)
    return lib_take_text(&text, out, bytes);
  text_fini(&text);
  return st;
}

static Status compile_kind(Compilation *c, mpcc_output kind, void **out, size_t *bytes) {
  static const struct {
    const char *form, *target;
  } forms[] = {[MPCC_OUT_IMAGE] = {NULL, NULL},
               [MPCC_OUT_OBJECT] = {"object", NULL},
               [MPCC_OUT_ASM] = {"asm", "cpu"},
               [MPCC_OUT_LLVM_IR] = {"llvm-ir", "cpu"},
               [MPCC_OUT_CUDA] = {"cuda", "cuda"},
               [MPCC_OUT_PTX] = {"ptx", "cuda"},
               [MPCC_OUT_CUBIN] = {"cubin", "cuda"}};
  if (kind == MPCC_OUT_CHECK) { /* through the step: most errors of a spec show by then */
    Status st = c->module->stage < STAGE_SAVED ? compilation_passes(c, NULL, "save") : MPCC_OK;
    return st == MPCC_OK ? check_targets(c) : st;
  }
  if (kind == MPCC_OUT_IR)
    return emit_ir(c, out, bytes);
  if (kind == MPCC_OUT_PLAN)
    return emit_plan(c, out, bytes);
  if (kind == MPCC_OUT_DOT || kind == MPCC_OUT_SVG || kind == MPCC_OUT_C_HEADER)
    return emit_text(c, kind, out, bytes);
  Blob blob = {0};
  Status st = emit_all(c, forms[kind].form, forms[kind].target, &blob);
  *out = blob.data;
  *bytes = blob.len;
  return st;
}

mpcc_status mpcc_compile(mpcc_session *s, const char *path, const char *text, size_t len,
                         mpcc_output kind, void **out, size_t *bytes) {
  *out = NULL;
  *bytes = 0;
  Compilation c;
  if (!compilation_begin(&c, &s->o, &s->cb))
    return MPCC_ERR_NOMEM;
  c.check_only = kind == MPCC_OUT_CHECK;
  Status st = check_words(&c);
  if (st == MPCC_OK)
    st = compilation_front(&c, path, text, len);
  if (st == MPCC_OK)
    st = compile_kind(&c, kind, out, bytes);
  st = compilation_end(&c, s, st);
  if (st != MPCC_OK) {
    free(*out);
    *out = NULL;
    *bytes = 0;
  }
  return st;
}

mpcc_status mpcc_verify(mpcc_session *s, const char *path, const char *text, size_t len,
                        const mpcc_executor *x) {
  Compilation c;
  if (!compilation_begin(&c, &s->o, &s->cb))
    return MPCC_ERR_NOMEM;
  const Target *t;
  const char *level;
  KernelTable kernels;
  Status st = compilation_front(&c, path, text, len);
  if (st == MPCC_OK)
    st = first_level(&c, &t, &level);
  if (st == MPCC_OK)
    st = plan_level(&c, t, level, &kernels);
  if (st == MPCC_OK)
    st = verify_kernels(&c, &kernels, x);
  compilation_fini(&c); /* without messages: mpcc_compile has delivered them already */
  return st;
}

mpcc_status mpcc_resolve(mpcc_session *s, const char *path, const char *text, size_t len,
                         void **out, size_t *bytes) {
  *out = NULL;
  *bytes = 0;
  Compilation c;
  if (!compilation_begin(&c, &s->o, &s->cb))
    return MPCC_ERR_NOMEM;
  Status st = check_words(&c);
  if (st == MPCC_OK)
    st = compilation_spec(&c, path, text, len);
  Text t = {0};
  if (st == MPCC_OK) {
    spec_resolve(c.spec, true, &t);
    st = lib_take_text(&t, out, bytes);
  }
  return compilation_end(&c, s, st);
}
