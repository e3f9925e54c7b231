/* Reads the text form of docs/ir.md back into a module. Recursive descent over a token stream
 * without recursion: nothing in the language nests. Every input is safe: numbers are range-checked,
 * names looked up, arrays grown with checks, and the finished module goes through the verifier. The
 * first error ends the parse; its place is in the IR text.
 *
 * Codes: 0601 syntax, 0602 unknown word, 0603 undefined name, 0604 number out of range, 0605
 * defined twice, 0606 not a legal module. */
#include "ir/ir.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/abi.h"

enum { E_SYNTAX = 601, E_WORD = 602, E_NAME = 603, E_RANGE = 604, E_TWICE = 605, E_MODULE = 606 };
enum { MAX_FILES = 4096, MAX_LIST = 1 << 20 };

typedef enum { T_END, T_IDENT, T_INT, T_FLOAT, T_STRING, T_NAME, T_VALUE, T_PUNCT } TokenKind;

typedef struct {
  TokenKind kind;
  Loc loc;
  Str text;    /* IDENT, STRING, NAME */
  bool quoted; /* NAME */
  int64_t i;   /* INT, VALUE; PUNCT: the character */
  double f;    /* FLOAT */
} Token;

/* Growing array in the scratch arena. */
typedef struct {
  void *data;
  int n, cap;
} List;

typedef struct {
  int64_t id;
  Value *value;
} Binding;

/* A tensor named before its line: base of a view, or attribute `key`; resolved at the end. */
typedef struct {
  Tensor *from;
  Str key; /* NULL: base */
  Str name;
  Loc loc;
} Forward;

typedef struct {
  Arena *scratch;
  StrTable *strings;
  Diag *d;
  Builder *b;
  uint32_t file;
  const char *at, *end;
  uint32_t line, col;
  Token tok;
  bool failed;
  uint32_t files[MAX_FILES + 1]; /* session's file index by printed number */
  int nfiles;
  Binding *bind; /* open addressing by id; of the current function */
  int nbind, bind_cap;
  List values, types, attrs, places, ints; /* of the op being read */
  List forward;                            /* Forward */
  bool in_tensor;                          /* attributes may name tensors to come */
} Parser;

/* Where a planned result lives. */
typedef struct {
  int64_t offset, alias_elem;
  Tensor *alias;
} Place;

__attribute__((format(printf, 4, 5))) static void fail(Parser *p, Loc loc, int code,
                                                       const char *fmt, ...) {
  if (p->failed)
    return;
  p->failed = true;
  p->tok.kind = T_END;
  char text[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  diag_error(p->d, loc, code, "%s", text);
}

/* Room for one more element of `size` bytes; NULL after a failure. */
static void *list_add(Parser *p, List *l, size_t size) {
  if (p->failed)
    return NULL;
  if (l->n >= MAX_LIST) {
    fail(p, p->tok.loc, E_RANGE, "list of more than %d items", MAX_LIST);
    return NULL;
  }
  if (l->n == l->cap) {
    int cap = l->cap ? 2 * l->cap : 16;
    void *data = arena_array(p->scratch, (size_t)cap, size);
    if (arena_failed(p->scratch)) {
      fail(p, p->tok.loc, E_RANGE, "out of memory");
      return NULL;
    }
    if (l->n)
      memcpy(data, l->data, (size_t)l->n * size);
    l->data = data;
    l->cap = cap;
  }
  return (char *)l->data + (size_t)l->n++ * size;
}

/* ---- tokens
 * --------------------------------------------------------------------------------------- */

static int peek(const Parser *p) {
  return p->at < p->end ? (unsigned char)*p->at : -1;
}

static int take(Parser *p) {
  int c = peek(p);
  if (c < 0)
    return c;
  p->at++;
  if (c == '\n') {
    p->line++;
    p->col = 1;
  } else {
    p->col++;
  }
  return c;
}

static bool is_word(int c) {
  return c > 0 && (isalnum(c) || strchr("_.-/", c));
}

static int hex_digit(int c) {
  return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

static void put_utf8(Text *t, uint32_t u) {
  char s[4];
  size_t n = 0;
  if (u < 0x80) {
    s[n++] = (char)u;
  } else if (u < 0x800) {
    s[n++] = (char)(0xC0 | u >> 6);
    s[n++] = (char)(0x80 | (u & 63));
  } else if (u < 0x10000) {
    s[n++] = (char)(0xE0 | u >> 12);
    s[n++] = (char)(0x80 | (u >> 6 & 63));
    s[n++] = (char)(0x80 | (u & 63));
  } else {
    s[n++] = (char)(0xF0 | u >> 18);
    s[n++] = (char)(0x80 | (u >> 12 & 63));
    s[n++] = (char)(0x80 | (u >> 6 & 63));
    s[n++] = (char)(0x80 | (u & 63));
  }
  text_put(t, s, n);
}

static int32_t lex_hex4(Parser *p) {
  int32_t u = 0;
  for (int i = 0; i < 4; i++) {
    int h = hex_digit(peek(p));
    if (h < 0)
      return -1;
    take(p);
    u = u * 16 + h;
  }
  return u;
}

/* After a backslash. */
static void lex_escape(Parser *p, Text *t) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  int c = take(p);
  const char *at = c > 0 ? strchr(from, c) : NULL;
  if (at) {
    text_put(t, &to[at - from], 1);
    return;
  }
  int32_t u = c == 'u' ? lex_hex4(p) : -1;
  if (u >= 0xD800 && u < 0xDC00 && p->end - p->at >= 6 && p->at[0] == '\\' && p->at[1] == 'u') {
    take(p);
    take(p);
    int32_t low = lex_hex4(p);
    u = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00) : -1;
  }
  if (u <= 0 || (u >= 0xD800 && u < 0xE000))
    fail(p, p->tok.loc, E_SYNTAX, "escape in a string is not one of JSON's");
  else
    put_utf8(t, (uint32_t)u);
}

/* JSON string; the opening quote is next. */
static Str lex_string(Parser *p) {
  Text t = {0};
  take(p);
  while (!p->failed && peek(p) != '"') {
    int c = take(p);
    if (c < 0x20) {
      fail(p, p->tok.loc, E_SYNTAX, "string does not end on its line");
    } else if (c == '\\') {
      lex_escape(p, &t);
    } else {
      char ch = (char)c;
      text_put(&t, &ch, 1);
    }
  }
  take(p);
  if (t.failed)
    fail(p, p->tok.loc, E_RANGE, "out of memory");
  for (size_t i = 0, n; i < t.len && !p->failed; i += n)
    if (!(n = utf8_length((const unsigned char *)t.data + i)))
      fail(p, p->tok.loc, E_SYNTAX, "string is not UTF-8");
  Str s = str_intern(p->strings, t.data ? t.data : "", t.len);
  text_fini(&t);
  return s;
}

static Str lex_word(Parser *p) {
  const char *start = p->at;
  while (is_word(peek(p)))
    take(p);
  return str_intern(p->strings, start, (size_t)(p->at - start));
}

/* [-]digits, with fraction or exponent a float; -inf. */
static void lex_number(Parser *p) {
  char buf[64];
  size_t n = 0;
  bool real = false;
  while (n + 1 < sizeof buf) {
    int c = peek(p);
    bool sign_ok = !n || buf[n - 1] == 'e' || buf[n - 1] == 'E';
    if (c < 0 || !(isdigit(c) || c == '.' || c == 'e' || c == 'E' ||
                   (sign_ok && (c == '-' || (n && c == '+'))) || (n && strchr("inf", c))))
      break;
    real |= !isdigit(c) && c != '-';
    buf[n++] = (char)take(p);
  }
  buf[n] = 0;
  char *stop;
  errno = 0;
  if (real) {
    p->tok.kind = T_FLOAT;
    p->tok.f = strtod(buf, &stop); /* overflow gives inf, underflow the nearest: both fine */
    errno = 0;
  } else {
    p->tok.kind = T_INT;
    p->tok.i = strtoll(buf, &stop, 10);
  }
  if (errno == ERANGE)
    fail(p, p->tok.loc, E_RANGE, "number %s does not fit in 64 bits", buf);
  else if (stop == buf || *stop)
    fail(p, p->tok.loc, E_SYNTAX, "'%s' is not a number", buf);
}

static void next(Parser *p) {
  for (;;) {
    int c = peek(p);
    if (c == '#')
      while (peek(p) >= 0 && peek(p) != '\n')
        take(p);
    else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
      take(p);
    else
      break;
  }
  p->tok = (Token){.kind = T_END, .loc = {p->file, p->line, p->col, 0}};
  if (p->failed)
    return;
  const char *start = p->at;
  int c = peek(p);
  if (c < 0)
    return;
  if (c == '"') {
    p->tok.kind = T_STRING;
    p->tok.text = lex_string(p);
  } else if (isalpha(c) || c == '_') {
    p->tok.kind = T_IDENT;
    p->tok.text = lex_word(p);
  } else if (isdigit(c) || c == '-') {
    lex_number(p);
  } else if (c == '@') {
    take(p);
    p->tok.kind = T_NAME;
    p->tok.quoted = peek(p) == '"';
    p->tok.text = p->tok.quoted ? lex_string(p) : lex_word(p);
    if (!*p->tok.text && !p->tok.quoted)
      fail(p, p->tok.loc, E_SYNTAX, "name missing after '@'");
  } else if (c == '%') {
    take(p);
    if (isdigit(peek(p)))
      lex_number(p);
    if (p->tok.kind != T_INT)
      fail(p, p->tok.loc, E_SYNTAX, "number missing after '%%'");
    else
      p->tok.kind = T_VALUE;
  } else {
    p->tok.kind = T_PUNCT;
    p->tok.i = take(p);
  }
  p->tok.loc.len = (uint32_t)(p->at - start);
  if (p->failed)
    p->tok.kind = T_END;
}

static bool is_punct(const Parser *p, char c) {
  return p->tok.kind == T_PUNCT && p->tok.i == c;
}

static bool accept(Parser *p, char c) {
  if (!is_punct(p, c))
    return false;
  next(p);
  return true;
}

static void expect(Parser *p, char c) {
  if (!accept(p, c))
    fail(p, p->tok.loc, E_SYNTAX, "'%c' expected", c);
}

static bool is_ident(const Parser *p, const char *word) {
  return p->tok.kind == T_IDENT && !strcmp(p->tok.text, word);
}

static bool accept_word(Parser *p, const char *word) {
  if (!is_ident(p, word))
    return false;
  next(p);
  return true;
}

static void expect_word(Parser *p, const char *word) {
  if (!accept_word(p, word))
    fail(p, p->tok.loc, E_SYNTAX, "'%s' expected", word);
}

/* Integer in [least, most]. */
static int64_t integer(Parser *p, int64_t least, int64_t most) {
  int64_t v = p->tok.i;
  if (p->tok.kind != T_INT) {
    fail(p, p->tok.loc, E_SYNTAX, "integer expected");
    return least;
  }
  if (v < least || v > most) {
    fail(p, p->tok.loc, E_RANGE, "%lld is not in %lld .. %lld", (long long)v, (long long)least,
         (long long)most);
    return least;
  }
  next(p);
  return v;
}

static Str take_text(Parser *p, TokenKind kind, const char *what) {
  Str s = p->tok.text;
  if (p->tok.kind != kind) {
    fail(p, p->tok.loc, E_SYNTAX, "%s expected", what);
    return str_c(p->strings, "");
  }
  next(p);
  return s;
}

/* ---- types, attributes, places
 * -------------------------------------------------------------------- */

static DType dtype_word(Parser *p) {
  Loc loc = p->tok.loc;
  Str s = take_text(p, T_IDENT, "dtype");
  DType dt = dtype_from_text(s);
  if (dt == DT_COUNT) {
    fail(p, loc, E_WORD, "unknown dtype '%s'", s);
    return DT_F32;
  }
  return dt;
}

static const Type *type(Parser *p) {
  int64_t dim[MAX_RANK], elems = 1;
  int rank = 0;
  Loc loc = p->tok.loc;
  DType dt = dtype_word(p);
  expect(p, '[');
  while (!p->failed && !is_punct(p, ']')) {
    if (rank)
      expect(p, ',');
    if (rank == MAX_RANK) {
      fail(p, loc, E_RANGE, "more than %d dimensions", MAX_RANK);
      break;
    }
    dim[rank] = integer(p, 1, INT64_MAX);
    if (!p->failed && (__builtin_mul_overflow(elems, dim[rank], &elems) || elems > INT64_MAX / 64))
      fail(p, loc, E_RANGE, "too many elements");
    rank++;
  }
  expect(p, ']');
  if (p->failed)
    rank = 0;
  return type_get(builder_types(p->b), dt, rank, dim);
}

static Tensor *tensor_named(Parser *p) {
  Loc loc = p->tok.loc;
  Str name = take_text(p, T_NAME, "tensor name");
  if (p->failed)
    return NULL;
  Tensor *t = module_tensor(builder_module(p->b), name);
  if (!t)
    fail(p, loc, E_NAME, "no tensor is named '%s'", name);
  return t;
}

static void add_forward(Parser *p, Forward f) {
  Forward *at = list_add(p, &p->forward, sizeof *at);
  if (at)
    *at = f;
}

static Attr attr_list(Parser *p, const char *key) {
  p->ints.n = 0;
  next(p);
  while (!p->failed && !is_punct(p, ']')) {
    if (p->ints.n)
      expect(p, ',');
    int64_t v = integer(p, INT64_MIN, INT64_MAX);
    int64_t *at = list_add(p, &p->ints, sizeof *at);
    if (at)
      *at = v;
  }
  expect(p, ']');
  return attr_ints(p->b, key, p->failed ? 0 : p->ints.n, p->ints.data);
}

static Attr attr_word(Parser *p, const char *key) {
  Loc loc = p->tok.loc;
  Str s = p->tok.text;
  next(p);
  if (!strcmp(s, "true") || !strcmp(s, "false"))
    return attr_b(p->b, key, *s == 't');
  if (!strcmp(s, "nan") || !strcmp(s, "inf"))
    return attr_f(p->b, key, *s == 'n' ? NAN : INFINITY);
  DType dt = dtype_from_text(s);
  if (dt == DT_COUNT) {
    fail(p, loc, E_WORD, "attribute value '%s' is no word of the IR", s);
    dt = DT_F32;
  }
  return attr_dt(p->b, key, dt);
}

static Attr attr(Parser *p) {
  Str key = take_text(p, p->tok.kind == T_STRING ? T_STRING : T_IDENT, "attribute");
  expect(p, '=');
  Token t = p->tok;
  switch (t.kind) {
  case T_INT:
    next(p);
    return attr_i(p->b, key, t.i);
  case T_FLOAT:
    next(p);
    return attr_f(p->b, key, t.f);
  case T_STRING:
    next(p);
    return attr_s(p->b, key, t.text);
  case T_IDENT:
    return attr_word(p, key);
  case T_NAME:
    if (!p->in_tensor)
      return attr_t(p->b, key, tensor_named(p));
    next(p);
    add_forward(p, (Forward){NULL, key, t.text, t.loc});
    return attr_t(p->b, key, NULL);
  default:
    if (is_punct(p, '['))
      return attr_list(p, key);
    fail(p, t.loc, E_SYNTAX, "attribute value expected");
    return attr_i(p->b, key, 0);
  }
}

/* Optional {key=value, ...} into p->attrs. */
static void attrs(Parser *p) {
  p->attrs.n = 0;
  if (!accept(p, '{'))
    return;
  while (!p->failed && !is_punct(p, '}')) {
    if (p->attrs.n)
      expect(p, ',');
    Loc loc = p->tok.loc;
    Attr a = attr(p);
    if (p->failed)
      return;
    if (attr_find(p->attrs.data, p->attrs.n, a.key))
      fail(p, loc, E_TWICE, "attribute '%s' is given twice", a.key);
    Attr *at = list_add(p, &p->attrs, sizeof *at);
    if (at)
      *at = a;
  }
  expect(p, '}');
}

/* Optional !file:line:col[+len]. */
static Loc location(Parser *p) {
  Loc loc = {0};
  if (!accept(p, '!'))
    return loc;
  int64_t file = integer(p, 1, p->nfiles);
  expect(p, ':');
  loc.line = (uint32_t)integer(p, 0, UINT32_MAX);
  expect(p, ':');
  loc.col = (uint32_t)integer(p, 0, UINT32_MAX);
  if (accept(p, '+'))
    loc.len = (uint32_t)integer(p, 1, UINT32_MAX);
  if (!p->failed)
    loc.file = p->files[file];
  return loc;
}

/* ---- values
 * ----------------------------------------------------------------------------------------- */

static Binding *slot(Parser *p, int64_t id) {
  uint64_t h = (uint64_t)id * 0x9E3779B97F4A7C15u >> 20;
  for (;; h++) {
    Binding *s = &p->bind[h & (uint64_t)(p->bind_cap - 1)];
    if (!s->value || s->id == id)
      return s;
  }
}

static void bind(Parser *p, Loc loc, int64_t id, Value *v) {
  if (2 * (p->nbind + 1) > p->bind_cap) {
    Binding *old = p->bind;
    int ncap = p->bind_cap ? 2 * p->bind_cap : 64, n = p->bind_cap;
    Binding *fresh = ARENA_ARRAY(p->scratch, Binding, ncap);
    if (arena_failed(p->scratch)) {
      fail(p, loc, E_RANGE, "out of memory");
      return;
    }
    p->bind = fresh;
    p->bind_cap = ncap;
    for (int i = 0; i < n; i++)
      if (old[i].value)
        *slot(p, old[i].id) = old[i];
  }
  Binding *s = slot(p, id);
  if (s->value) {
    fail(p, loc, E_TWICE, "%%%lld is defined twice", (long long)id);
    return;
  }
  *s = (Binding){id, v};
  p->nbind++;
}

static Value *value(Parser *p) {
  Loc loc = p->tok.loc;
  int64_t id = p->tok.i;
  if (p->tok.kind != T_VALUE) {
    fail(p, loc, E_SYNTAX, "value expected");
    return NULL;
  }
  next(p);
  Value *v = p->bind_cap ? slot(p, id)->value : NULL;
  if (!v)
    fail(p, loc, E_NAME, "%%%lld is not defined before this op", (long long)id);
  return v;
}

/* Optional @work+bytes or @tensor+elements behind a result's type. */
static Place place(Parser *p) {
  Place at = {-1, 0, NULL};
  if (p->tok.kind != T_NAME)
    return at;
  if (!p->tok.quoted && !strcmp(p->tok.text, "work")) {
    next(p);
    expect(p, '+');
    at.offset = integer(p, 0, INT64_MAX);
    return at;
  }
  at.alias = tensor_named(p);
  expect(p, '+');
  at.alias_elem = integer(p, 0, INT64_MAX);
  return at;
}

/* ---- group bodies
 * ------------------------------------------------------------------------------------ */

static Access access(Parser *p, int64_t number, int ndim) {
  Access a = {0};
  if (integer(p, 0, INT32_MAX) != number)
    fail(p, p->tok.loc, E_SYNTAX, "accesses are numbered in order, %lld expected",
         (long long)number);
  expect(p, ':');
  a.offset = integer(p, INT64_MIN, INT64_MAX);
  expect(p, '+');
  for (int d = 0; d < ndim; d++)
    a.stride[d] = integer(p, INT64_MIN, INT64_MAX);
  return a;
}

static void body_head(Parser *p, Body *b) {
  expect_word(p, "dim");
  while (!p->failed && p->tok.kind == T_INT) {
    if (b->ndim == MAX_DIMS) {
      fail(p, p->tok.loc, E_RANGE, "more than %d dimensions", MAX_DIMS);
      return;
    }
    b->dim[b->ndim++] = integer(p, 1, INT64_MAX);
  }
  expect_word(p, "cols");
  b->ncol = (int)integer(p, 0, b->ndim);
  expect_word(p, "panel");
  b->panel_rows = integer(p, 0, INT64_MAX);
}

/* "s12" -> 12, which must be less than n. */
static int32_t stmt_number(Parser *p, int n) {
  Loc loc = p->tok.loc;
  Str s = take_text(p, T_IDENT, "statement");
  int64_t v = *s == 's' && s[1] ? 0 : -1;
  for (const char *c = s + 1; v >= 0 && *c; c++)
    v = isdigit((unsigned char)*c) && v < INT32_MAX ? v * 10 + (*c - '0') : -1;
  if (v < 0 || v >= n) {
    fail(p, loc, E_NAME, "'%s' is not a statement before this one", s);
    return 0;
  }
  return (int32_t)v;
}

static void stmt_args(Parser *p, Stmt *s, int number) {
  for (int k = 0; k < prim_args((Prim)s->prim); k++) {
    if (k)
      expect(p, ',');
    s->arg[k] = stmt_number(p, number);
  }
}

/* A store has the level and register type of what it stores. */
static void stmt_store(Parser *p, const Stmt *before, int number, Stmt *s) {
  s->prim = PR_STORE;
  s->ref = (int32_t)integer(p, 0, INT32_MAX);
  s->arg[0] = stmt_number(p, number);
  if (!p->failed) {
    s->level = before[s->arg[0]].level;
    s->dt = before[s->arg[0]].dt;
  }
}

static double immediate(Parser *p) {
  Token t = p->tok;
  if (accept_word(p, "inf"))
    return INFINITY;
  if (accept_word(p, "nan"))
    return NAN;
  if (t.kind != T_FLOAT && t.kind != T_INT)
    fail(p, t.loc, E_SYNTAX, "number expected");
  next(p);
  return t.kind == T_INT ? (double)t.i : t.f;
}

static void stmt_named(Parser *p, int number, Stmt *s) {
  static const char *const levels[] = {"all", "row", "col", "elem"};
  Loc loc = p->tok.loc;
  if (stmt_number(p, INT32_MAX) != number)
    fail(p, loc, E_SYNTAX, "statements are numbered in order, s%d expected", number);
  expect(p, ':');
  s->dt = (uint8_t)dtype_word(p);
  loc = p->tok.loc;
  Str level = take_text(p, T_IDENT, "level");
  int l = 0;
  while (l < 4 && strcmp(levels[l], level))
    l++;
  if (l == 4)
    fail(p, loc, E_WORD, "unknown level '%s'", level);
  s->level = (uint8_t)l;
  expect(p, '=');
  loc = p->tok.loc;
  Str word = take_text(p, T_IDENT, "primitive");
  Prim prim = prim_from_name(word);
  if (prim == PR_COUNT || prim == PR_STORE) {
    fail(p, loc, E_WORD, "unknown primitive '%s'", word);
    return;
  }
  s->prim = (uint8_t)prim;
  if (prim == PR_CONST)
    s->imm = immediate(p);
  else if (prim == PR_LOAD || prim == PR_INDEX || prim == PR_PARAM || prim == PR_ARG)
    s->ref = (int32_t)integer(p, 0, INT32_MAX);
  else if (prim == PR_ROUND)
    s->rd = (uint8_t)dtype_word(p);
  stmt_args(p, s, number);
}

static void body_stmts(Parser *p, Body *b) {
  List stmts = {0};
  while (!p->failed && !is_punct(p, ']')) {
    Stmt s = {.arg = {-1, -1, -1, -1}};
    if (accept_word(p, "store"))
      stmt_store(p, stmts.data, stmts.n, &s);
    else
      stmt_named(p, stmts.n, &s);
    Stmt *at = list_add(p, &stmts, sizeof *at);
    if (at)
      *at = s;
  }
  b->nstmt = p->failed ? 0 : stmts.n;
  b->stmt = stmts.data;
}

static void copy_list(Parser *p, List *l, size_t size, int *n, void *data) {
  void *copy = arena_array(builder_arena(p->b), (size_t)l->n, size);
  if (arena_failed(builder_arena(p->b))) {
    fail(p, p->tok.loc, E_RANGE, "out of memory");
    return;
  }
  if (l->n)
    memcpy(copy, l->data, (size_t)l->n * size);
  *n = l->n;
  memcpy(data, &copy, sizeof copy);
}

static Body *body(Parser *p) {
  Body *b = ARENA_NEW(builder_arena(p->b), Body);
  List in = {0}, out = {0}, param = {0};
  body_head(p, b);
  for (int word = 0; word < 2; word++) {
    List *l = word ? &out : &in;
    while (accept_word(p, word ? "out" : "in")) {
      Access a = access(p, l->n, b->ndim);
      Access *at = list_add(p, l, sizeof *at);
      if (at)
        *at = a;
    }
  }
  if (accept_word(p, "param"))
    while (!p->failed && p->tok.kind == T_INT) {
      int64_t v = integer(p, INT64_MIN, INT64_MAX), *at = list_add(p, &param, sizeof *at);
      if (at)
        *at = v;
    }
  body_stmts(p, b);
  expect(p, ']');
  if (p->failed)
    return b;
  List stmts = {b->stmt, b->nstmt, b->nstmt};
  copy_list(p, &in, sizeof(Access), &b->nin, &b->in);
  copy_list(p, &out, sizeof(Access), &b->nout, &b->out);
  copy_list(p, &param, sizeof(int64_t), &b->nparam, &b->param);
  copy_list(p, &stmts, sizeof(Stmt), &b->nstmt, &b->stmt);
  return b;
}

/* ---- ops, functions, the module
 * ---------------------------------------------------------------------- */

/* %1:f32[2]@work+0, ... = ; fills types, places and p->ints with the ids. */
static void results(Parser *p) {
  p->types.n = p->places.n = p->ints.n = 0;
  if (p->tok.kind != T_VALUE)
    return;
  do {
    int64_t id = p->tok.i;
    if (p->tok.kind != T_VALUE)
      fail(p, p->tok.loc, E_SYNTAX, "value expected");
    next(p);
    expect(p, ':');
    const Type *ty = type(p);
    Place at = place(p);
    int64_t *pid = list_add(p, &p->ints, sizeof *pid);
    const Type **pty = list_add(p, &p->types, sizeof *pty);
    Place *pat = list_add(p, &p->places, sizeof *pat);
    if (!pid || !pty || !pat)
      return;
    *pid = id;
    *pty = ty;
    *pat = at;
  } while (accept(p, ','));
  expect(p, '=');
}

static void operands(Parser *p) {
  p->values.n = 0;
  if (p->tok.kind != T_VALUE)
    return;
  do {
    Value *v = value(p), **at = list_add(p, &p->values, sizeof *at);
    if (at)
      *at = v;
  } while (accept(p, ','));
}

static void op(Parser *p) {
  Loc start = p->tok.loc;
  results(p);
  List ids = p->ints;
  p->ints = (List){0}; /* attribute lists must not overwrite the ids */
  Loc at = p->tok.loc;
  Str name = take_text(p, T_IDENT, "op");
  OpCode code = op_from_name(name);
  if (code == OP_COUNT)
    fail(p, at, E_WORD, "unknown op '%s'", name);
  operands(p);
  attrs(p);
  Str layer = str_c(p->strings, ""), why = NULL;
  if (accept_word(p, "layer")) {
    expect(p, '=');
    layer = take_text(p, T_STRING, "layer name");
  }
  Loc loc = location(p);
  if (accept_word(p, "why")) {
    expect(p, '=');
    why = take_text(p, T_STRING, "reason");
  }
  Body *bd = accept(p, '[') ? body(p) : NULL;
  if (!p->failed && bd && code != OP_group)
    fail(p, at, E_SYNTAX, "only a group has a body");
  if (!p->failed && !bd && code == OP_group)
    fail(p, at, E_SYNTAX, "a group needs a body");
  if (p->failed)
    return;
  build_at(p->b, loc, layer, why);
  Op *o = build_op_typed(p->b, code, p->values.n, p->values.data, p->attrs.n, p->attrs.data,
                         p->types.n, p->types.data, bd);
  if (builder_failed(p->b)) {
    fail(p, start, E_MODULE, "op '%s' is not legal", name);
    return;
  }
  for (int i = 0; i < p->types.n; i++) {
    Place pl = ((Place *)p->places.data)[i];
    o->out[i]->offset = pl.offset;
    o->out[i]->alias = pl.alias;
    o->out[i]->alias_elem = pl.alias_elem;
    bind(p, start, ((int64_t *)ids.data)[i], o->out[i]);
  }
}

static void func(Parser *p) {
  Loc loc = p->tok.loc;
  Str name = take_text(p, T_NAME, "function name");
  int64_t work = 0;
  if (p->failed)
    return;
  if (module_func(builder_module(p->b), name)) {
    fail(p, loc, E_TWICE, "function '%s' is defined twice", name);
    return;
  }
  if (accept_word(p, "work")) {
    expect(p, '=');
    work = integer(p, 0, INT64_MAX);
  }
  build_func(p->b, name);
  expect(p, '{');
  p->nbind = 0;
  p->bind_cap = 0;
  p->bind = NULL;
  while (!p->failed && !is_punct(p, '}'))
    op(p);
  expect(p, '}');
  if (!p->failed)
    build_current(p->b)->work_bytes = work;
}

static Role role(Parser *p) {
  Loc loc = p->tok.loc;
  Str s = take_text(p, T_IDENT, "role");
  for (int r = 0; r < ROLE_COUNT; r++)
    if (!strcmp(s, role_name((Role)r)))
      return (Role)r;
  fail(p, loc, E_WORD, "unknown role '%s'", s);
  return ROLE_PARAM;
}

static void tensor(Parser *p) {
  Loc at = p->tok.loc;
  Str name = take_text(p, T_NAME, "tensor name");
  if (!p->failed && module_tensor(builder_module(p->b), name))
    fail(p, at, E_TWICE, "tensor '%s' is defined twice", name);
  expect(p, ':');
  const Type *ty = type(p);
  expect_word(p, "role");
  expect(p, '=');
  Role r = role(p);
  int64_t base_elem = 0, offset = -1;
  int first = p->forward.n;
  if (accept_word(p, "base")) {
    expect(p, '=');
    Loc base_at = p->tok.loc;
    Str base = take_text(p, T_NAME, "tensor name");
    add_forward(p, (Forward){NULL, NULL, base, base_at});
    expect_word(p, "at");
    expect(p, '=');
    base_elem = integer(p, 0, INT64_MAX);
  }
  if (accept_word(p, "offset")) {
    expect(p, '=');
    offset = integer(p, 0, INT64_MAX);
  }
  p->in_tensor = true;
  attrs(p);
  p->in_tensor = false;
  Loc loc = location(p);
  if (p->failed)
    return;
  Tensor *t = build_tensor(p->b, name, ty, r, loc);
  if (builder_failed(p->b)) {
    fail(p, at, E_MODULE, "tensor '%s' is not legal", name);
    return;
  }
  t->base_elem = base_elem;
  t->offset = offset;
  for (int i = 0; i < p->attrs.n; i++)
    build_tensor_attr(p->b, t, ((Attr *)p->attrs.data)[i]);
  for (int i = first; i < p->forward.n; i++)
    ((Forward *)p->forward.data)[i].from = t;
}

/* Views may stand before their bases, and attributes before the tensors they name. */
static void resolve_forward(Parser *p) {
  for (int i = 0; i < p->forward.n && !p->failed; i++) {
    const Forward *f = &((Forward *)p->forward.data)[i];
    Tensor *t = module_tensor(builder_module(p->b), f->name);
    if (!t) {
      fail(p, f->loc, E_NAME, "no tensor is named '%s'", f->name);
    } else if (!f->key) {
      f->from->base = t;
    } else {
      for (int k = 0; k < f->from->nattr; k++)
        if (f->from->attr[k].key == f->key)
          f->from->attr[k].u.tensor = t;
    }
  }
}

static void file(Parser *p) {
  Loc loc = p->tok.loc;
  int64_t number = integer(p, 1, MAX_FILES);
  if (!p->failed && number != p->nfiles + 1)
    fail(p, loc, E_SYNTAX, "files are numbered in order, %d expected", p->nfiles + 1);
  Str name = take_text(p, T_STRING, "file name");
  if (p->failed)
    return;
  p->files[++p->nfiles] = diag_file(p->d, name, "", 0);
}

static void segments(Parser *p) {
  static const char *const names[] = {"state", "derived", "accum", "work", "io"};
  for (int i = 0; i < MPCC_SEG_COUNT; i++) {
    expect_word(p, names[i]);
    expect(p, '=');
    int64_t bytes = integer(p, 0, INT64_MAX);
    if (!p->failed)
      builder_module(p->b)->segment_bytes[i] = bytes;
  }
}

static Stage header(Parser *p) {
  expect_word(p, "mpir");
  Loc loc = p->tok.loc;
  int64_t version = integer(p, 0, INT64_MAX);
  if (!p->failed && version != 1)
    fail(p, loc, E_RANGE, "version %lld of the IR text is not known, only 1", (long long)version);
  expect_word(p, "stage");
  expect(p, '=');
  loc = p->tok.loc;
  Str s = p->failed ? "" : p->tok.text;
  if (!p->failed && p->tok.kind != T_IDENT)
    fail(p, loc, E_SYNTAX, "stage expected");
  for (int i = 0; i < STAGE_COUNT && !p->failed; i++)
    if (!strcmp(s, stage_name((Stage)i)))
      return (Stage)i;
  fail(p, loc, E_WORD, "unknown stage '%s'", s);
  return STAGE_FORWARD;
}

static void module_items(Parser *p) {
  while (!p->failed && p->tok.kind != T_END) {
    if (accept_word(p, "attr")) {
      Loc loc = p->tok.loc;
      Attr a = attr(p);
      const Module *m = builder_module(p->b);
      if (!p->failed && attr_find(m->attr, m->nattr, a.key))
        fail(p, loc, E_TWICE, "attribute '%s' is given twice", a.key);
      if (!p->failed)
        build_module_attr(p->b, a);
    } else if (accept_word(p, "file")) {
      file(p);
    } else if (accept_word(p, "segments")) {
      segments(p);
    } else if (accept_word(p, "tensor")) {
      tensor(p);
    } else if (accept_word(p, "func")) {
      func(p);
    } else {
      fail(p, p->tok.loc, E_SYNTAX, "attr, file, segments, tensor or func expected");
    }
  }
}

Status module_parse(StrTable *strings, Diag *diag, uint32_t file_index, const char *text,
                    size_t len, Module **out) {
  *out = NULL;
  Parser *p = calloc(1, sizeof *p);
  Arena *scratch = arena_create();
  if (!p || !scratch) {
    free(p);
    arena_destroy(scratch);
    return MPCC_ERR_NOMEM;
  }
  p->scratch = scratch;
  p->strings = strings;
  p->d = diag;
  p->file = file_index;
  p->at = text;
  p->end = text + len;
  p->line = p->col = 1;
  next(p);
  Stage stage = header(p);
  Status status = MPCC_ERR_INPUT;
  if (!p->failed) {
    next(p); /* the stage word */
    p->b = builder_create(strings, diag, stage);
    if (p->b)
      builder_exact(p->b);
    else
      fail(p, p->tok.loc, E_RANGE, "out of memory");
    module_items(p);
    resolve_forward(p);
    if (p->failed)
      builder_destroy(p->b);
    else
      status = builder_finish(p->b, out);
    if (status == MPCC_ERR_INTERNAL)
      status = MPCC_ERR_INPUT; /* the text is at fault, not we */
  }
  arena_destroy(scratch);
  free(p);
  return status;
}
