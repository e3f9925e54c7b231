/* From texts to one tree: the spec, its parents (`extends`), and the command line's -D and --set,
 * applied in this order. Nodes keep their places, so every later message points at the text that
 * gave the value. Shared nodes are never changed: what is edited is copied on the way. */
#include "frontend/frontend.h"

#include <stdlib.h>

typedef struct {
  Arena *a;
  StrTable *s;
  Diag *d;
  const SpecSource *src;
  Str chain[EXTENDS_MAX]; /* files being extended, outermost first */
  int nchain;
  Parents *parents;
} Loader;

static Yaml *new_map(Arena *a, Loc loc, int room) {
  Yaml *y = ARENA_NEW(a, Yaml);
  *y = (Yaml){.kind = YAML_MAP, .loc = loc};
  y->u.pair = ARENA_ARRAY(a, YamlPair, room + 1);
  return y;
}

/* Child over parent: maps merge, everything else is replaced. */
static Yaml *merge(Arena *a, Yaml *parent, Yaml *child) {
  if (parent->kind != YAML_MAP || child->kind != YAML_MAP)
    return child;
  Yaml *y = new_map(a, child->loc, parent->n + child->n);
  if (arena_failed(a))
    return child;
  for (int i = 0; i < parent->n; i++) {
    YamlPair p = parent->u.pair[i];
    for (int k = 0; k < child->n; k++)
      if (child->u.pair[k].key->text == p.key->text)
        p = (YamlPair){child->u.pair[k].key, merge(a, p.value, child->u.pair[k].value)};
    y->u.pair[y->n++] = p;
  }
  for (int k = 0; k < child->n; k++)
    if (!yaml_get(parent, child->u.pair[k].key->text))
      y->u.pair[y->n++] = child->u.pair[k];
  return y;
}

static Str folder_of(StrTable *s, const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? str_intern(s, path, (size_t)(slash - path) + 1) : str_c(s, "");
}

/* Reads `name` beside `from`, then in the include folders. *shown is the path that worked. */
static Status read_parent(Loader *l, const char *from, const char *name, char **text, size_t *len,
                          Str *shown) {
  *text = NULL;
  *shown = *name == '/' ? str_c(l->s, name) : str_fmt(l->s, "%s%s", folder_of(l->s, from), name);
  if (!l->src->read)
    return MPCC_ERR_FILE;
  Status st = l->src->read(l->src->user, *shown, text, len);
  for (int i = 0; st == MPCC_ERR_FILE && *name != '/' && i < l->src->ninclude; i++) {
    *shown = str_fmt(l->s, "%s/%s", l->src->include[i], name);
    st = l->src->read(l->src->user, *shown, text, len);
  }
  return st;
}

static Status load(Loader *l, const char *path, const char *text, size_t len, const Yaml *named,
                   Yaml **out);

/* Parent of `child`, merged under it. */
static Status load_parent(Loader *l, const char *path, Yaml *child, const Yaml *name, Yaml **out) {
  char *text;
  size_t len = 0;
  Str shown;
  if (name->kind != YAML_SCALAR) {
    diag_error(l->d, name->loc, 201, "'extends' takes the path of one spec, not %s",
               yaml_kind_text(name));
    return MPCC_ERR_INPUT;
  }
  Status st = read_parent(l, path, name->text, &text, &len, &shown);
  if (st != MPCC_OK) {
    diag_error(l->d, name->loc, 120, "cannot read '%s'", name->text);
    diag_hint(l->d, "it is searched beside '%s' and in the folders of -I", path);
    return st;
  }
  for (int i = 0; i < l->nchain; i++)
    if (l->chain[i] == shown || l->nchain == EXTENDS_MAX) {
      diag_error(l->d, name->loc, 121,
                 l->chain[i] == shown ? "'%s' extends itself" : "'%s': too many parents", shown);
      free(text);
      return MPCC_ERR_INPUT;
    }
  Yaml *parent = NULL;
  st = load(l, shown, text, len, name, &parent);
  free(text);

  if (st == MPCC_OK)
    *out = merge(l->a, parent, child);
  return st;
}

/* Parses one file and its parents. The root is a map. named: the scalar that names the file, NULL
 * for the spec itself. */
static Status load(Loader *l, const char *path, const char *text, size_t len, const Yaml *named,
                   Yaml **out) {
  *out = NULL;
  static const char mark[] = "\xEF\xBB\xBF"; /* Windows' editors write it */
  if (len >= 3 && !memcmp(text, mark, 3)) {
    text += 3;
    len -= 3;
  }
  l->chain[l->nchain++] = str_c(l->s, path);
  uint32_t file = diag_file(l->d, path, text, len);
  if (named) {
    l->parents->file[l->parents->n] = file;
    l->parents->loc[l->parents->n++] = named->loc;
  }
  Yaml *root;
  Status st = yaml_parse(l->a, l->s, l->d, file, text, len, &root);
  if (st != MPCC_OK)
    return st;
  if (root->kind != YAML_MAP) {
    diag_error(l->d, root->loc, 107, "a spec is a map of keys, not %s", yaml_kind_text(root));
    diag_hint(l->d, "begin with 'mpcc: 1'");
    return MPCC_ERR_INPUT;
  }
  const Yaml *first = root->n ? root->u.pair[0].key : root;
  if (first->kind != YAML_SCALAR || strcmp(first->text, "mpcc")) {
    diag_error(l->d, first->loc, 110, "the first key of a spec is 'mpcc'");
    diag_hint(l->d, "begin the file with the line 'mpcc: 1'");
    return MPCC_ERR_INPUT;
  }
  const Yaml *parent = yaml_get(root, "extends");
  if (parent && parent->kind != YAML_NULL)
    return load_parent(l, path, root, parent, out);
  *out = root;
  return MPCC_OK;
}

/* ---- command line ---- */

/* Registers all arguments of one option as a text, one a line; messages point into it. */
static uint32_t register_args(Loader *l, const char *option, const char *const *arg, int n) {
  Text t = {0};
  for (int i = 0; i < n; i++)
    text_printf(&t, "%s\n", arg[i]);
  uint32_t file = diag_file(l->d, option, t.data ? t.data : "", t.len);
  text_fini(&t);
  return file;
}

/* Value behind the '=' of argument `line`. NULL after a diagnostic. */
static Yaml *arg_value(Loader *l, uint32_t file, int line, const char *arg, const char *option,
                       size_t *name_len) {
  const char *equals = strchr(arg, '=');
  Loc loc = {.file = file, .line = (uint32_t)line, .col = 1, .len = (uint32_t)strlen(arg)};
  *name_len = equals ? (size_t)(equals - arg) : 0;
  if (!*name_len) {
    diag_error(l->d, loc, 510, "%s takes %s", option,
               option[1] == 'D' ? "NAME=VALUE" : "PATH=VALUE");
    return NULL;
  }
  loc.col += (uint32_t)*name_len + 1;
  Yaml *y = NULL;
  if (yaml_parse_at(l->a, l->s, l->d, loc, equals + 1, strlen(equals + 1), &y) != MPCC_OK)
    return NULL;
  return y;
}

/* A scalar on the way of a path stands for its section's short form: `precision: bf16-mixed`. */
static Yaml *long_form(Loader *l, Yaml *y, bool precision) {
  Yaml *map = new_map(l->a, y->loc, 1);
  Yaml *key = ARENA_NEW(l->a, Yaml);
  *key =
      (Yaml){.kind = YAML_SCALAR, .loc = y->loc, .text = str_c(l->s, precision ? "mode" : "type")};
  map->u.pair[map->n++] = (YamlPair){key, y};
  return map;
}

enum { EDIT_MAX_PATH = 1000 }; /* bounds the recursion */

/* Copy of `y` with `value` at the dotted path; loc is the place of the path's first part. NULL
 * after a diagnostic. */
static Yaml *edited(Loader *l, Yaml *y, const char *path, size_t len, Loc loc, Yaml *value) {
  if (!len)
    return value;
  if (loc.col > EDIT_MAX_PATH) {
    diag_error(l->d, loc, 510, "the path is longer than %d characters", EDIT_MAX_PATH);
    return NULL;
  }
  size_t part = 0;
  while (part < len && path[part] != '.')
    part++;
  size_t rest = part < len ? part + 1 : part;
  loc.len = (uint32_t)part;
  Loc next = loc;
  next.col += (uint32_t)rest;
  Str name = str_intern(l->s, path, part);
  if (y && y->kind == YAML_LIST) {
    char *end;
    long k = strtol(name, &end, 10);
    if (*end || !*name || k < 0 || k >= y->n) {
      diag_error(l->d, loc, 510, "'%s' is no index of a list of %d", name, y->n);
      return NULL;
    }
    Yaml *item = edited(l, y->u.item[k], path + rest, len - rest, next, value);
    Yaml *copy = ARENA_NEW(l->a, Yaml);
    *copy = *y;
    copy->u.item = ARENA_ARRAY(l->a, Yaml *, y->n);
    if (!item || arena_failed(l->a))
      return NULL;
    memcpy(copy->u.item, y->u.item, (size_t)y->n * sizeof *y->u.item);
    copy->u.item[k] = item;
    return copy;
  }
  Yaml *map = new_map(l->a, y ? y->loc : loc, y && y->kind == YAML_MAP ? y->n + 1 : 2);
  if (arena_failed(l->a))
    return NULL;
  if (y && y->kind == YAML_MAP) {
    memcpy(map->u.pair, y->u.pair, (size_t)y->n * sizeof *y->u.pair);
    map->n = y->n;
  }
  YamlPair *at = NULL;
  for (int i = 0; i < map->n; i++)
    if (map->u.pair[i].key->text == name)
      at = &map->u.pair[i];
  if (!at) {
    at = &map->u.pair[map->n++];
    at->key = ARENA_NEW(l->a, Yaml);
    *at->key = (Yaml){.kind = YAML_SCALAR, .loc = loc, .text = name};
    at->value = NULL;
  } else if (at->value->kind == YAML_SCALAR && rest < len) {
    at->value = long_form(l, at->value, !strcmp(name, "precision"));
  }
  at->value = edited(l, at->value, path + rest, len - rest, next, value);
  return at->value ? map : NULL;
}

static Status apply_defines(Loader *l, Yaml **root) {
  uint32_t file = register_args(l, "-D", l->src->define, l->src->ndefine);
  Status st = MPCC_OK;
  for (int i = 0; i < l->src->ndefine; i++) {
    const char *arg = l->src->define[i];
    size_t len;
    Yaml *value = arg_value(l, file, i + 1, arg, "-D", &len);
    const Yaml *params = yaml_get(*root, "params");
    Loc loc = {.file = file, .line = (uint32_t)i + 1, .col = 1, .len = (uint32_t)len};
    Str name = str_intern(l->s, arg, len);
    if (!value) {
      st = MPCC_ERR_INPUT;
      continue;
    }
    if (!yaml_get(params, name)) {
      st = MPCC_ERR_INPUT;
      diag_error(l->d, loc, 215, "%s is not a parameter of this spec", name);
      const char *known[256];
      size_t n = 0;
      for (int k = 0; params && params->kind == YAML_MAP && k < params->n && n < 256; k++)
        known[n++] = params->u.pair[k].key->text;
      const char *near = diag_suggest(name, known, n);
      if (near)
        diag_hint(l->d, "did you mean '%s'?", near);
      continue;
    }
    Str path = str_fmt(l->s, "params.%s", name);
    Yaml *next = edited(l, *root, path, strlen(path), loc, value);
    if (next)
      *root = next;
  }
  return st;
}

static Status apply_sets(Loader *l, Yaml **root) {
  uint32_t file = register_args(l, "--set", l->src->set, l->src->nset);
  Status st = MPCC_OK;
  for (int i = 0; i < l->src->nset; i++) {
    size_t len;
    Yaml *value = arg_value(l, file, i + 1, l->src->set[i], "--set", &len);
    Loc loc = {.file = file, .line = (uint32_t)i + 1, .col = 1, .len = 1};
    Yaml *next = value ? edited(l, *root, l->src->set[i], len, loc, value) : NULL;
    if (next)
      *root = next;
    else
      st = MPCC_ERR_INPUT;
  }
  return st;
}

Status source_load(Arena *a, StrTable *s, Diag *d, const SpecSource *src, Parents *parents,
                   Yaml **out) {
  Loader l = {.a = a, .s = s, .d = d, .src = src, .parents = parents};
  parents->n = 0;
  Status st = load(&l, src->path, src->text, src->len, NULL, out);
  if (st != MPCC_OK)
    return st;
  if (src->ndefine)
    st = apply_defines(&l, out);
  Status st2 = src->nset ? apply_sets(&l, out) : MPCC_OK;
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  return st != MPCC_OK ? st : st2;
}

void source_notes(Diag *d, const Parents *p) {
  for (int i = 0; i < p->n; i++)
    diag_note_file(d, p->file[i], p->loc[i], "extended from here");
}
