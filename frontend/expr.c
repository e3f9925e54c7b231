/* $-expressions in scalars: named constants and arithmetic, total, without code or environment.
 *
 *   sum     = product (('+' | '-') product)*
 *   product = factor (('*' | '/' | '//' | '%') factor)*
 *   factor  = '-' factor | number | name | ('min' | 'max') '(' sum (',' sum)+ ')'
 *           | 'sqrt' '(' sum ')' | '(' sum ')'
 *
 * Integers stay integers (64 bits, overflow is an error) under + - * // % min max; / and sqrt give
 * floats. // and % round towards minus infinity, as Python's. */
#include "frontend/frontend.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { EXPR_MAX_DEPTH = 100 };

typedef struct {
  Arena *a;
  StrTable *s;
  Diag *d;
  const ParamScope *scope;
  const Yaml *node; /* whose text is read */
  const char *p;    /* next character */
  int depth;
  bool failed;
} Expr;

/* A number on its way: integer or float. */
typedef struct {
  bool is_int;
  int64_t i;
  double f;
} Num;

static Num num_int(int64_t i) {
  return (Num){.is_int = true, .i = i, .f = (double)i};
}
static Num num_float(double f) {
  return (Num){.f = f};
}

/* Place of [at, at + len) of the scalar's text. Right for plain and quoted scalars on one line. */
static Loc place(const Expr *e, const char *at, size_t len) {
  Loc loc = e->node->loc;
  size_t shift = (size_t)(at - e->node->text) + e->node->quoted;
  if (shift < loc.len) {
    loc.col += (uint32_t)shift;
    loc.len = (uint32_t)(len ? len : 1);
  }
  return loc;
}

static void fail(Expr *e, const char *at, size_t len, int code, const char *text) {
  if (!e->failed)
    diag_error(e->d, place(e, at, len), code, "%s", text);
  e->failed = true;
}

static void skip_space(Expr *e) {
  while (*e->p == ' ' || *e->p == '\t' || *e->p == '\n')
    e->p++;
}

static size_t name_len(const char *p) {
  size_t n = 0;
  if (isalpha((unsigned char)*p) || *p == '_')
    while (isalnum((unsigned char)p[n]) || p[n] == '_')
      n++;
  return n;
}

static void unknown_param(Expr *e, const char *at, size_t len, bool dollar) {
  e->failed = true;
  const char *known[256];
  const Param *where[256];
  size_t n = 0;
  for (const ParamScope *sc = e->scope; sc; sc = sc->outer)
    for (int i = 0; i < sc->n && n < 256; i++) {
      where[n] = &sc->param[i];
      known[n++] = sc->param[i].name;
    }
  Str name = str_intern(e->s, at, len);
  Loc loc = dollar ? place(e, at - 1, len + 1) : place(e, at, len);
  diag_error(e->d, loc, 215, "$%s is not a parameter", name);
  const char *near = diag_suggest(name, known, n);
  for (size_t i = 0; near && i < n; i++)
    if (!strcmp(known[i], near)) {
      if (where[i]->loc.file)
        diag_hint(e->d, "did you mean $%s? (defined at %s:%u:%u)", near,
                  diag_file_name(e->d, where[i]->loc.file), where[i]->loc.line, where[i]->loc.col);
      else
        diag_hint(e->d, "did you mean $%s?", near);
      return;
    }
  if (!strcmp(name, "i"))
    diag_hint(e->d, "$i counts inside a 'repeat' only");
  else
    diag_hint(e->d, "name it under 'params:', or write $$ for a dollar sign");
}

static Param *find_param(const ParamScope *scope, const char *at, size_t len) {
  for (const ParamScope *sc = scope; sc; sc = sc->outer)
    for (int i = sc->n - 1; i >= 0; i--)
      if (!strncmp(sc->param[i].name, at, len) && !sc->param[i].name[len])
        return &sc->param[i];
  return NULL;
}

/* Value of the parameter named at `at`; NULL (diagnosed now or before) when there is none. */
static const Val *param_value(Expr *e, const char *at, size_t len, bool dollar) {
  Param *p = find_param(e->scope, at, len);
  if (!p) {
    unknown_param(e, at, len, dollar);
    return NULL;
  }
  p->used = true;
  if (!p->value)
    e->failed = true; /* its definition has been diagnosed */
  return p->value;
}

static Num parse_sum(Expr *e);

static Num parse_number(Expr *e) {
  const char *at = e->p;
  char *end;
  size_t digits = strspn(at, "0123456789");
  if (!strchr(".eE", at[digits]) || !at[digits]) {
    errno = 0;
    long long v = strtoll(at, &end, 10);
    e->p = end;
    if (errno)
      fail(e, at, digits, 211, "integer does not fit 64 bits");
    return num_int(v);
  }
  double f = strtod(at, &end);
  e->p = end;
  if (end == at || isalpha((unsigned char)*end))
    fail(e, at, 1, 210, "this is not a number");
  return num_float(f);
}

static Num parse_call(Expr *e, const char *at, size_t len) {
  bool root = len == 4, smaller = !strncmp(at, "min", 3);
  int n = 0;
  Num best = num_int(0);
  e->p++; /* the parenthesis */
  do {
    if (n)
      e->p++; /* the comma */
    Num v = parse_sum(e);
    if (!n || (smaller ? v.f < best.f : v.f > best.f))
      best = v;
    n++;
    skip_space(e);
  } while (*e->p == ',' && !e->failed);
  if (*e->p != ')')
    fail(e, e->p, 1, 210, "expected ')'");
  else
    e->p++;
  if (root && n != 1)
    fail(e, at, len, 210, "sqrt takes one argument");
  if (!root && n < 2)
    fail(e, at, len, 210, "min and max take two or more arguments");
  if (root && best.f < 0)
    fail(e, at, len, 211, "square root of a negative number");
  return root ? num_float(sqrt(best.f < 0 ? 0 : best.f)) : best;
}

static Num parse_name(Expr *e) {
  const char *at = e->p;
  size_t len = name_len(at);
  e->p += len;
  skip_space(e);
  if (*e->p == '(') {
    if ((len == 3 && (!strncmp(at, "min", 3) || !strncmp(at, "max", 3))) ||
        (len == 4 && !strncmp(at, "sqrt", 4)))
      return parse_call(e, at, len);
    fail(e, at, len, 210, "expressions know the functions min, max and sqrt only");
    return num_int(0);
  }
  const Val *v = param_value(e, at, len, false);
  if (!v)
    return num_int(0);
  if (v->kind == VAL_INT)
    return num_int(v->i);
  if (v->kind == VAL_FLOAT)
    return num_float(v->f);
  fail(e, at, len, 211, "this parameter is not a number");
  return num_int(0);
}

static Num negate(Expr *e, Num v, const char *at) {
  if (!v.is_int)
    return num_float(-v.f);
  if (v.i == INT64_MIN)
    fail(e, at, 1, 211, "integer overflow");
  return num_int(v.i == INT64_MIN ? 0 : -v.i);
}

static Num parse_factor(Expr *e) {
  skip_space(e);
  const char *at = e->p;
  Num v = num_int(0);
  if (++e->depth > EXPR_MAX_DEPTH) {
    fail(e, at, 1, 210, "expression is nested too deep");
  } else if (*at == '-') {
    e->p++;
    v = negate(e, parse_factor(e), at);
  } else if (*at == '(') {
    e->p++;
    v = parse_sum(e);
    skip_space(e);
    if (*e->p == ')')
      e->p++;
    else
      fail(e, e->p, 1, 210, "expected ')'");
  } else if (isdigit((unsigned char)*at) || *at == '.') {
    v = parse_number(e);
  } else if (name_len(at)) {
    v = parse_name(e);
  } else if (*at == '$') {
    fail(e, at, 1, 210, "inside $(...) names stand without '$'");
  } else {
    fail(e, at, 1, 210, "expected a number, a name or '('");
  }
  e->depth--;
  return v;
}

/* Whole division towards minus infinity and its remainder; b is not 0. */
static Num divide_whole(Expr *e, Num x, Num y, bool want_rest, const char *at) {
  if (!x.is_int || !y.is_int) {
    double q = floor(x.f / y.f);
    return num_float(want_rest ? x.f - q * y.f : q);
  }
  if (x.i == INT64_MIN && y.i == -1) {
    fail(e, at, 1, 211, "integer overflow");
    return num_int(0);
  }
  int64_t q = x.i / y.i, r = x.i % y.i;
  if (r && (r < 0) != (y.i < 0)) {
    q--;
    r += y.i;
  }
  return num_int(want_rest ? r : q);
}

static Num combine(Expr *e, char op, Num x, Num y, const char *at) {
  if ((op == '/' || op == 'd' || op == '%') && y.f == 0) {
    fail(e, at, 1, 211, "division by zero");
    return num_int(0);
  }
  if (op == 'd' || op == '%')
    return divide_whole(e, x, y, op == '%', at);
  if (op == '/')
    return num_float(x.f / y.f);
  if (!x.is_int || !y.is_int)
    return num_float(op == '+' ? x.f + y.f : op == '-' ? x.f - y.f : x.f * y.f);
  int64_t r = 0;
  bool over = op == '+'   ? __builtin_add_overflow(x.i, y.i, &r)
              : op == '-' ? __builtin_sub_overflow(x.i, y.i, &r)
                          : __builtin_mul_overflow(x.i, y.i, &r);
  if (over)
    fail(e, at, 1, 211, "integer overflow");
  return num_int(over ? 0 : r);
}

static Num parse_product(Expr *e) {
  Num v = parse_factor(e);
  for (;;) {
    skip_space(e);
    const char *at = e->p;
    if (e->failed || !*at || !strchr("*/%", *at))
      return v;
    char op = *at;
    e->p++;
    if (op == '/' && *e->p == '/') {
      op = 'd';
      e->p++;
    }
    v = combine(e, op, v, parse_factor(e), at);
  }
}

static Num parse_sum(Expr *e) {
  Num v = parse_product(e);
  for (;;) {
    skip_space(e);
    const char *at = e->p;
    if (e->failed || (*at != '+' && *at != '-'))
      return v;
    e->p++;
    v = combine(e, *at, v, parse_product(e), at);
  }
}

/* `$...` at e->p: its value; e->p moves behind it. */
static const Val *parse_dollar(Expr *e) {
  const char *at = e->p++;
  size_t len = name_len(e->p);
  if (len) {
    const char *name = e->p;
    e->p += len;
    return param_value(e, name, len, true);
  }
  if (*e->p != '(') {
    fail(e, at, 1, 210, "after '$' comes a name or '('");
    if (e->failed)
      diag_hint(e->d, *e->p == '{' ? "write $name, or $(...) around an expression"
                                   : "write $$ for a dollar sign");
    return NULL;
  }
  e->p++;
  Num v = parse_sum(e);
  skip_space(e);
  if (*e->p != ')')
    fail(e, e->p, 1, 210, *e->p ? "expected an operator or ')'" : "'$(' is not closed");
  if (e->failed)
    return NULL;
  e->p++;
  if (!v.is_int && !isfinite(v.f)) {
    fail(e, at, (size_t)(e->p - at), 211, "the value is not a finite number");
    return NULL;
  }
  return v.is_int ? val_int(e->a, v.i, ORIGIN_FILE, e->node->loc)
                  : val_float(e->a, v.f, ORIGIN_FILE, e->node->loc);
}

bool expr_present(const char *text) {
  return strchr(text, '$') != NULL;
}

Val *expr_text(Arena *a, StrTable *s, Diag *d, const ParamScope *scope, const Yaml *scalar) {
  Expr e = {.a = a, .s = s, .d = d, .scope = scope, .node = scalar, .p = scalar->text};
  Text out = {0};
  const Val *v = NULL;
  bool alone = false; /* the text is one `$...` and nothing else */
  while (*e.p && !e.failed) {
    const char *at = e.p;
    if (*at != '$' || at[1] == '$') {
      text_put(&out, at, 1);
      e.p += *at == '$' ? 2 : 1;
      continue;
    }
    v = parse_dollar(&e);
    if (!v)
      break;
    alone = at == scalar->text && !*e.p;
    if (!alone)
      val_text(v, &out);
  }
  Val *result = NULL;
  if (!e.failed && alone) {
    result = val_new(a, v->kind, ORIGIN_FILE, scalar->loc);
    Val copy = *v;
    copy.loc = scalar->loc;
    copy.origin = ORIGIN_FILE;
    *result = copy;
  } else if (!e.failed) {
    return val_str(a, text_take(a, s, &out), ORIGIN_FILE, scalar->loc);
  }
  text_fini(&out);
  return result;
}
