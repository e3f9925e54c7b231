/* Reading the resolved spec and state.json: values at dotted paths, with defaults. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/rt.h"

/* ---- text ---- */

/* Jansson's lexer drops characters when its buffer cannot grow, and reports nothing. Two readings
 * that agree were both complete, unless memory ran out twice at the same character. */
json_t *mprt__json_parse(const char *text, size_t bytes, json_error_t *error) {
  json_t *a = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, error);
  json_t *b = a ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, error) : NULL;
  bool parsed = a != NULL, same = b && json_equal(a, b);
  json_decref(b);
  if (same)
    return a;
  json_decref(a);
  if (parsed) {
    memset(error, 0, sizeof *error);
    snprintf(error->text, sizeof error->text, "out of memory");
  }
  return NULL;
}

typedef struct {
  char *data;
  size_t used, cap;
  bool failed;
} Sink;

static int sink_put(const char *text, size_t n, void *user) {
  Sink *s = user;
  if (s->used + n + 1 > s->cap && !s->failed) {
    size_t cap = (s->used + n + 1) * 2;
    char *grown = realloc(s->data, cap);
    s->failed = !grown;
    if (grown) {
      s->data = grown;
      s->cap = cap;
    }
  }
  if (s->failed)
    return -1;
  memcpy(s->data + s->used, text, n);
  s->used += n;
  return 0;
}

/* json_dumps ignores that keys could not be written; the sink remembers. */
char *mprt__json_text(const json_t *value, size_t flags) {
  Sink s = {0};
  int failed = json_dump_callback(value, sink_put, &s, flags);
  if (failed || s.failed || !s.data) {
    free(s.data);
    return NULL;
  }
  s.data[s.used] = 0;
  return s.data;
}

/* ---- values ---- */

json_t *mprt__json_get(const json_t *obj, const char *path) {
  json_t *at = (json_t *)obj;
  while (at && *path) {
    size_t len = strcspn(path, ".");
    at = json_is_object(at) ? json_object_getn(at, path, len) : NULL;
    path += len + (path[len] == '.');
  }
  return at;
}

int64_t mprt__json_int(const json_t *obj, const char *path, int64_t otherwise) {
  const json_t *v = mprt__json_get(obj, path);
  if (json_is_integer(v))
    return json_integer_value(v);
  if (json_is_real(v)) {
    double d = json_real_value(v);
    if (d >= -0x1p62 && d <= 0x1p62)
      return (int64_t)d;
  }
  return otherwise;
}

double mprt__json_double(const json_t *obj, const char *path, double otherwise) {
  const json_t *v = mprt__json_get(obj, path);
  return json_is_number(v) ? json_number_value(v) : otherwise;
}

bool mprt__json_bool(const json_t *obj, const char *path, bool otherwise) {
  const json_t *v = mprt__json_get(obj, path);
  return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

const char *mprt__json_string(const json_t *obj, const char *path, const char *otherwise) {
  const json_t *v = mprt__json_get(obj, path);
  return json_is_string(v) ? json_string_value(v) : otherwise;
}

/* Appends `.part` to the path in buf; returns the old length. */
static size_t push(char *buf, size_t cap, const char *part) {
  size_t len = strlen(buf);
  snprintf(buf + len, cap - len, "%s%s", len ? "." : "", part);
  return len;
}

/* The smallest key of either object that is greater than `after` (NULL: the smallest of all). */
static const char *next_key(json_t *a, json_t *b, const char *after) {
  const char *best = NULL, *key;
  json_t *value, *of[2] = {a, b};
  for (int i = 0; i < 2; i++) {
    json_object_foreach(of[i], key, value) {
      if ((!after || strcmp(key, after) > 0) && (!best || strcmp(key, best) < 0))
        best = key;
    }
  }
  return best;
}

bool mprt__json_differs(const json_t *a, const json_t *b, char *buf, size_t cap) {
  json_t *x = (json_t *)a, *y = (json_t *)b;
  buf[0] = 0;
  if (!json_is_object(x) || !json_is_object(y))
    return !json_equal(x, y);
  /* Objects nest as deep as the JSON reader let them (2048); specs are a few levels. */
  char stack_path[512] = "";
  for (const char *key = NULL; (key = next_key(x, y, key)) != NULL;) {
    json_t *u = json_object_get(x, key), *v = json_object_get(y, key);
    if (u && v && json_equal(u, v))
      continue;
    if (u && v)
      mprt__json_differs(u, v, stack_path, sizeof stack_path);
    push(buf, cap, key);
    if (stack_path[0])
      push(buf, cap, stack_path);
    return true;
  }
  return false;
}
