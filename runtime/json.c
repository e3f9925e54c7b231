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

/* ---- differences ---- */

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

/* The values of a list of objects by their "name" (or index); NULL: no such list, or memory. */
static json_t *by_name(const json_t *list) {
  json_t *o = json_is_array(list) ? json_object() : NULL, *item;
  size_t i;
  json_array_foreach((json_t *)list, i, item) {
    char index[24];
    snprintf(index, sizeof index, "%zu", i);
    const char *name = json_string_value(json_object_get(item, "name"));
    if (!json_is_object(item) || !o || json_object_get(o, name ? name : index) ||
        json_object_set(o, name ? name : index, item)) {
      json_decref(o);
      return NULL;
    }
  }
  return o;
}

static void differences(json_t *a, json_t *b, char *path, size_t len, size_t cap,
                        mprt__difference *fn, void *user) {
  if (a && b && json_equal(a, b))
    return;
  json_t *x = json_is_object(a) ? json_incref(a) : by_name(a);
  json_t *y = json_is_object(b) ? json_incref(b) : by_name(b);
  if (!x || !y)
    fn(user, path, a, b);
  for (const char *key = NULL; x && y && (key = next_key(x, y, key)) != NULL;) {
    int n = snprintf(path + len, cap - len, "%s%s", len ? "." : "", key);
    if (n >= 0 && (size_t)n < cap - len) /* a path longer than any spec's is passed over */
      differences(json_object_get(x, key), json_object_get(y, key), path, len + (size_t)n, cap, fn,
                  user);
    path[len] = 0;
  }
  json_decref(x);
  json_decref(y);
}

void mprt__json_differences(const json_t *a, const json_t *b, mprt__difference *fn, void *user) {
  char path[1024] = "";
  differences((json_t *)a, (json_t *)b, path, 0, sizeof path, fn, user);
}
