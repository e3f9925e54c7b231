/* Tokens of the IR text (docs/ir.md), located, for parse.c. */
#include "ir/lex.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 4, 5))) void lex_fail(Parser *p, Loc loc, int code, const char *fmt,
                                                    ...) {
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
void *lex_list_add(Parser *p, List *l, size_t size) {
  if (p->failed)
    return NULL;
  if (l->n >= MAX_LIST) {
    lex_fail(p, p->tok.loc, E_RANGE, "list of more than %d items", MAX_LIST);
    return NULL;
  }
  if (l->n == l->cap) {
    int cap = l->cap ? 2 * l->cap : 16;
    void *data = arena_array(p->scratch, (size_t)cap, size);
    if (arena_failed(p->scratch)) {
      lex_fail(p, p->tok.loc, E_RANGE, "out of memory");
      return NULL;
    }
    if (l->n)
      memcpy(data, l->data, (size_t)l->n * size);
    l->data = data;
    l->cap = cap;
  }
  return (char *)l->data + (size_t)l->n++ * size;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

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
    lex_fail(p, p->tok.loc, E_SYNTAX, "escape in a string is not one of JSON's");
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
      lex_fail(p, p->tok.loc, E_SYNTAX, "string does not end on its line");
    } else if (c == '\\') {
      lex_escape(p, &t);
    } else {
      char ch = (char)c;
      text_put(&t, &ch, 1);
    }
  }
  take(p);
  if (t.failed)
    lex_fail(p, p->tok.loc, E_RANGE, "out of memory");
  for (size_t i = 0, n; i < t.len && !p->failed; i += n)
    if (!(n = utf8_length((const unsigned char *)t.data + i)))
      lex_fail(p, p->tok.loc, E_SYNTAX, "string is not UTF-8");
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
    lex_fail(p, p->tok.loc, E_RANGE, "number %s does not fit in 64 bits", buf);
  else if (stop == buf || *stop)
    lex_fail(p, p->tok.loc, E_SYNTAX, "'%s' is not a number", buf);
}

void lex_next(Parser *p) {
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
      lex_fail(p, p->tok.loc, E_SYNTAX, "name missing after '@'");
  } else if (c == '%') {
    take(p);
    if (isdigit(peek(p)))
      lex_number(p);
    if (p->tok.kind != T_INT)
      lex_fail(p, p->tok.loc, E_SYNTAX, "number missing after '%%'");
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

bool lex_is(const Parser *p, char c) {
  return p->tok.kind == T_PUNCT && p->tok.i == c;
}

bool lex_accept(Parser *p, char c) {
  if (!lex_is(p, c))
    return false;
  lex_next(p);
  return true;
}

void lex_expect(Parser *p, char c) {
  if (!lex_accept(p, c))
    lex_fail(p, p->tok.loc, E_SYNTAX, "'%c' expected", c);
}

static bool is_ident(const Parser *p, const char *word) {
  return p->tok.kind == T_IDENT && !strcmp(p->tok.text, word);
}

bool lex_accept_word(Parser *p, const char *word) {
  if (!is_ident(p, word))
    return false;
  lex_next(p);
  return true;
}

void lex_expect_word(Parser *p, const char *word) {
  if (!lex_accept_word(p, word))
    lex_fail(p, p->tok.loc, E_SYNTAX, "'%s' expected", word);
}

/* Integer in [least, most]. */
int64_t lex_integer(Parser *p, int64_t least, int64_t most) {
  int64_t v = p->tok.i;
  if (p->tok.kind != T_INT) {
    lex_fail(p, p->tok.loc, E_SYNTAX, "integer expected");
    return least;
  }
  if (v < least || v > most) {
    lex_fail(p, p->tok.loc, E_RANGE, "%lld is not in %lld .. %lld", (long long)v, (long long)least,
             (long long)most);
    return least;
  }
  lex_next(p);
  return v;
}

Str lex_take(Parser *p, TokenKind kind, const char *what) {
  Str s = p->tok.text;
  if (p->tok.kind != kind) {
    lex_fail(p, p->tok.loc, E_SYNTAX, "%s expected", what);
    return str_c(p->strings, "");
  }
  lex_next(p);
  return s;
}
