/* Checked values of the effective spec, and their two text forms: YAML with origins for people,
 * JSON for the runtime. */
#include "frontend/frontend.h"

#include <math.h>

Val *val_new(Arena *a, ValKind kind, Origin origin, Loc loc) {
  Val *v = ARENA_NEW(a, Val);
  v->kind = kind;
  v->origin = origin;
  v->loc = loc;
  return v;
}

Val *val_int(Arena *a, int64_t i, Origin origin, Loc loc) {
  Val *v = val_new(a, VAL_INT, origin, loc);
  v->i = i;
  v->f = (double)i;
  return v;
}

Val *val_float(Arena *a, double f, Origin origin, Loc loc) {
  Val *v = val_new(a, VAL_FLOAT, origin, loc);
  v->f = f;
  return v;
}

Val *val_str(Arena *a, Str s, Origin origin, Loc loc) {
  Val *v = val_new(a, VAL_STR, origin, loc);
  v->s = s;
  return v;
}

/* Room for one more item; false when memory is short. */
static bool make_room(Arena *a, Val *v) {
  if (v->n < v->cap)
    return true;
  int cap = v->cap ? 2 * v->cap : 4;
  Val **item = ARENA_ARRAY(a, Val *, cap);
  Str *key = ARENA_ARRAY(a, Str, v->kind == VAL_MAP ? cap : 1);
  if (arena_failed(a))
    return false;
  if (v->n) {
    memcpy(item, v->item, (size_t)v->n * sizeof *item);
    if (v->kind == VAL_MAP)
      memcpy(key, v->key, (size_t)v->n * sizeof *key);
  }
  v->item = item;
  v->key = key;
  v->cap = cap;
  return true;
}

void val_add(Arena *a, Val *list, Val *item) {
  if (make_room(a, list))
    list->item[list->n++] = item;
}

void val_set(Arena *a, Val *map, Str key, Val *item) {
  for (int i = 0; i < map->n; i++)
    if (map->key[i] == key) {
      map->item[i] = item;
      return;
    }
  if (!make_room(a, map))
    return;
  map->key[map->n] = key;
  map->item[map->n++] = item;
}

void val_remove(Val *map, const char *key) {
  int kept = 0;
  for (int i = 0; i < map->n; i++)
    if (strcmp(map->key[i], key)) {
      map->key[kept] = map->key[i];
      map->item[kept++] = map->item[i];
    }
  map->n = kept;
}

Val *val_get(const Val *v, const char *path) {
  while (v && v->kind == VAL_MAP) {
    size_t len = strcspn(path, ".");
    const Val *next = NULL;
    for (int i = 0; i < v->n && !next; i++)
      if (!strncmp(v->key[i], path, len) && !v->key[i][len])
        next = v->item[i];
    if (!path[len])
      return (Val *)next;
    v = next;
    path += len + 1;
  }
  return NULL;
}

int64_t val_get_int(const Val *v, const char *path, int64_t otherwise) {
  const Val *x = val_get(v, path);
  return x && x->kind == VAL_INT ? x->i : otherwise;
}

double val_get_float(const Val *v, const char *path, double otherwise) {
  const Val *x = val_get(v, path);
  return x && (x->kind == VAL_FLOAT || x->kind == VAL_INT) ? x->f : otherwise;
}

bool val_get_bool(const Val *v, const char *path, bool otherwise) {
  const Val *x = val_get(v, path);
  return x && x->kind == VAL_BOOL ? x->i != 0 : otherwise;
}

Str val_get_str(const Val *v, const char *path, Str otherwise) {
  const Val *x = val_get(v, path);
  return x && x->kind == VAL_STR ? x->s : otherwise;
}

/* A number that reads back as a float everywhere: "1e-08", "2.0". JSON has no inf or nan: null. */
static void put_float(double f, bool json, Text *out) {
  if (json && !isfinite(f)) {
    text_puts(out, "null");
    return;
  }
  size_t at = out->len;
  text_double(out, f);
  if (out->data && isfinite(f) && !strpbrk(out->data + at, ".e"))
    text_puts(out, ".0");
}

Str text_take(Arena *a, StrTable *s, Text *t) {
  if (t->failed)
    arena_array(a, SIZE_MAX, 2); /* overflow: the arena's sticky failure */
  Str str = str_intern(s, t->data ? t->data : "", t->data ? t->len : 0);
  text_fini(t);
  return str;
}

void val_text(const Val *v, Text *out) {
  switch (v->kind) {
  case VAL_BOOL:
    text_puts(out, v->i ? "true" : "false");
    break;
  case VAL_INT:
    text_printf(out, "%lld", (long long)v->i);
    break;
  case VAL_FLOAT:
    put_float(v->f, false, out);
    break;
  case VAL_STR:
    text_puts(out, v->s);
    break;
  case VAL_NULL:
    text_puts(out, "null");
    break;
  case VAL_LIST:
  case VAL_MAP:
    val_json(v, out);
    break;
  }
}

/* ---- JSON ---- */

void val_json(const Val *v, Text *out) {
  switch (v->kind) {
  case VAL_FLOAT:
    put_float(v->f, true, out);
    return;
  case VAL_STR:
    text_json(out, v->s);
    return;
  case VAL_LIST:
    text_puts(out, "[");
    for (int i = 0; i < v->n; i++) {
      text_puts(out, i ? ", " : "");
      val_json(v->item[i], out);
    }
    text_puts(out, "]");
    return;
  case VAL_MAP:
    text_puts(out, "{");
    for (int i = 0; i < v->n; i++) {
      text_puts(out, i ? ", " : "");
      text_json(out, v->key[i]);
      text_puts(out, ": ");
      val_json(v->item[i], out);
    }
    text_puts(out, "}");
    return;
  default:
    val_text(v, out);
  }
}

/* ---- YAML ---- */

/* Plain scalars must not read back as something else: quote unless it is clearly a word. */
static bool plain_ok(const char *s) {
  static const char *const taken[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  if (!*s || strspn(s, "0123456789.+-eE_") == strlen(s))
    return false;
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
    if (!strcasecmp(s, taken[i]))
      return false;
  if (strchr("-?:,[]{}#&*!|>'\"%@`~ ", *s))
    return false;
  for (const char *p = s; *p; p++)
    if ((unsigned char)*p < ' ' || strchr(",[]{}#:\"\\$", *p))
      return false;
  return s[strlen(s) - 1] != ' ';
}

static void put_word(const char *s, Text *out) {
  if (plain_ok(s))
    text_puts(out, s);
  else
    text_json(out, s);
}

/* A value's string: expressions are done, a dollar is a dollar. Keys have none. */
static void put_yaml_str(const char *s, Text *out) {
  Text dollars = {0};
  for (const char *p = s; *p; p++)
    text_puts(&dollars, *p == '$' ? "$$" : (char[]){*p, 0});
  put_word(dollars.data ? dollars.data : "", out);
  out->failed |= dollars.failed;
  text_fini(&dollars);
}

static bool is_collection(const Val *v) {
  return v->kind == VAL_LIST || v->kind == VAL_MAP;
}

/* Short things are written on one line: scalars, lists of scalars, and maps of them where no
 * origins are asked for. What stands where does not depend on where it came from: the effective
 * spec of an effective spec is the same text but for the origins. */
static bool is_flat(const Val *v, const Diag *files) {
  if (!is_collection(v) || !v->n)
    return true;
  for (int i = 0; i < v->n; i++)
    if (is_collection(v->item[i]) && v->item[i]->n)
      return false;
  return v->n <= 8 && (v->kind == VAL_LIST || !files);
}

static void put_flow(const Val *v, Text *out) {
  if (v->kind == VAL_FLOAT) {
    if (isinf(v->f))
      text_puts(out, v->f < 0 ? "-.inf" : ".inf");
    else
      put_float(v->f, false, out);
    return;
  }
  if (v->kind == VAL_STR) {
    put_yaml_str(v->s, out);
    return;
  }
  if (!is_collection(v)) {
    val_text(v, out);
    return;
  }
  text_puts(out, v->kind == VAL_LIST ? "[" : "{");
  for (int i = 0; i < v->n; i++) {
    text_puts(out, i ? ", " : "");
    if (v->kind == VAL_MAP) {
      put_word(v->key[i], out);
      text_puts(out, ": ");
    }
    put_flow(v->item[i], out);
  }
  text_puts(out, v->kind == VAL_LIST ? "]" : "}");
}

static void put_origin(const Val *v, const Diag *files, Text *out) {
  if (!files)
    return;
  if (v->origin == ORIGIN_DEFAULT)
    text_puts(out, "  # default");
  else if (v->origin == ORIGIN_IMPLIED)
    text_puts(out, "  # implied");
  else if (v->loc.file)
    text_printf(out, "  # %s:%u:%u", diag_file_name(files, v->loc.file), v->loc.line, v->loc.col);
}

static void put_block(const Val *v, const Diag *files, int indent, Text *out) {
  for (int i = 0; i < v->n; i++) {
    const Val *x = v->item[i];
    /* the first line of a map in a list stands behind the dash */
    bool behind_dash = i == 0 && out->len && out->data[out->len - 1] == ' ';
    if (!behind_dash)
      text_printf(out, "%*s", indent, "");
    if (v->kind == VAL_MAP) {
      put_word(v->key[i], out);
      text_puts(out, ":");
    } else {
      text_puts(out, "-");
    }
    if (is_flat(x, files)) {
      text_puts(out, " ");
      put_flow(x, out);
      put_origin(x, files, out);
      text_puts(out, "\n");
    } else if (v->kind == VAL_LIST) {
      text_puts(out, " ");
      put_block(x, files, indent + 2, out);
    } else {
      text_puts(out, "\n");
      put_block(x, files, indent + 2, out);
    }
  }
}

void val_yaml(const Val *v, const Diag *files, Text *out) {
  if (is_collection(v)) {
    put_block(v, files, 0, out);
    return;
  }
  put_flow(v, out);
  text_puts(out, "\n");
}
