/* Patterns over dotted names, as overrides and parameter groups use them. */
#include "frontend/frontend.h"

enum { GLOB_MAX_PATTERNS = 1000 };

/* Position of the brace that closes the one at p, or NULL. */
static const char *closing(const char *p) {
  int depth = 0;
  for (; *p; p++) {
    depth += *p == '{';
    depth -= *p == '}';
    if (!depth)
      return p;
  }
  return NULL;
}

typedef struct {
  StrTable *s;
  Str *v;
  int n;
  bool wrong;
} Patterns;

/* Appends all expansions of head + rest, where head has no braces left. Recursion is bounded by the
 * number of patterns and by the length of the text, which shrinks. */
static void expand(Patterns *out, const char *text) {
  const char *open = strchr(text, '{');
  if (out->wrong || out->n >= GLOB_MAX_PATTERNS || (!open && strchr(text, '}'))) {
    out->wrong = true;
    return;
  }
  if (!open) {
    out->v[out->n++] = str_c(out->s, text);
    return;
  }
  const char *close = closing(open);
  if (!close || (strchr(text, '}') < open)) {
    out->wrong = true;
    return;
  }
  int depth = 0;
  const char *from = open + 1;
  for (const char *p = from; p <= close && !out->wrong; p++) {
    if (p == close || (*p == ',' && !depth)) {
      expand(out, str_fmt(out->s, "%.*s%.*s%s", (int)(open - text), text, (int)(p - from), from,
                          close + 1));
      from = p + 1;
    }
    depth += *p == '{';
    depth -= *p == '}';
  }
}

int glob_expand(Arena *a, StrTable *s, const char *glob, Str **out) {
  Patterns p = {.s = s, .v = ARENA_ARRAY(a, Str, GLOB_MAX_PATTERNS)};
  *out = p.v;
  int braces = 0;
  for (const char *c = glob; *c; c++)
    braces += *c == '{';
  if (arena_failed(a) || braces > 16)
    return 0;
  expand(&p, glob);
  return p.wrong ? 0 : p.n;
}

/* One part [p, pe) of a pattern against one part [n, ne) of a name; greedy with one fallback. */
static bool match_part(const char *p, const char *pe, const char *n, const char *ne) {
  const char *star = NULL, *retry = NULL;
  while (n < ne) {
    if (p < pe && *p == '*') {
      star = p++;
      retry = n;
    } else if (p < pe && (*p == '?' || *p == *n)) {
      p++;
      n++;
    } else if (star) {
      p = star + 1;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pe && *p == '*')
    p++;
  return p == pe;
}

static const char *part_end(const char *s) {
  return s + strcspn(s, ".");
}
static const char *next_part(const char *end) {
  return *end ? end + 1 : NULL;
}

bool glob_match(const char *pattern, const char *name) {
  /* parts of the name not yet matched; after `**` the place to retry from */
  const char *p = pattern, *n = name, *star = NULL, *retry = NULL;
  while (n) {
    const char *pe = p ? part_end(p) : NULL, *ne = part_end(n);
    if (p && pe - p == 2 && p[0] == '*' && p[1] == '*') {
      star = p = next_part(pe);
      retry = n;
      if (!p)
        return true;
    } else if (p && match_part(p, pe, n, ne)) {
      p = next_part(pe);
      n = next_part(ne);
    } else if (retry) {
      p = star;
      n = retry = next_part(part_end(retry));
    } else {
      return false;
    }
  }
  while (p && !strncmp(p, "**", 2) && (!p[2] || p[2] == '.'))
    p = next_part(part_end(p));
  return !p;
}
