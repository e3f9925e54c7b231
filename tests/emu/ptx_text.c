/* PTX text as tokens: comments and line ends go, line numbers stay. */
#include "ptx_text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

void lexer_init(Lexer *l, const char *text) {
  l->at = text;
  l->line = 1;
  lexer_next(l);
}

static void skip_space(Lexer *l) {
  for (;; l->at++) {
    if (*l->at == '\n') {
      l->line++;
    } else if (l->at[0] == '/' && l->at[1] == '/') {
      while (l->at[1] && l->at[1] != '\n')
        l->at++;
    } else if (l->at[0] == '/' && l->at[1] == '*') {
      for (l->at += 2; *l->at && !(l->at[0] == '*' && l->at[1] == '/'); l->at++)
        l->line += *l->at == '\n';
      if (!*l->at)
        return;
      l->at++;
    } else if (!isspace((unsigned char)*l->at)) {
      return;
    }
  }
}

static bool word_char(const char *p) {
  return isalnum((unsigned char)*p) || *p == '_' || *p == '$' || *p == '.' || *p == '%';
}

void lexer_next(Lexer *l) {
  skip_space(l);
  Token *t = &l->token;
  t->at = l->at;
  t->line = l->line;
  t->kind = TOKEN_MARK;
  if (!*l->at) {
    t->kind = TOKEN_END;
  } else if (isdigit((unsigned char)*l->at)) {
    t->kind = TOKEN_NUMBER;
    while (isalnum((unsigned char)*l->at))
      l->at++;
  } else if (word_char(l->at)) {
    t->kind = TOKEN_WORD;
    for (;;) {
      if (word_char(l->at))
        l->at++;
      else if (l->at[0] == ':' && l->at[1] == ':') /* .L2::128B */
        l->at += 2;
      else
        break;
    }
  } else if (*l->at == '"') {
    t->kind = TOKEN_TEXT;
    t->at = ++l->at;
    while (*l->at && *l->at != '"' && *l->at != '\n')
      l->at++;
  } else {
    l->at++;
  }
  t->n = (uint32_t)(l->at - t->at);
  if (t->kind == TOKEN_TEXT && *l->at == '"')
    l->at++;
}

bool token_is(const Token *t, const char *text) {
  return t->kind != TOKEN_TEXT && t->n == strlen(text) && memcmp(t->at, text, t->n) == 0;
}

bool token_number(const Token *t, uint64_t *bits, int *is_float) {
  *bits = 0;
  *is_float = 0;
  if (t->kind != TOKEN_NUMBER)
    return false;
  const char *s = t->at, *end = t->at + t->n;
  int base = 10;
  if (t->n > 1 && s[0] == '0') {
    const char c = s[1];
    if (c == 'f' || c == 'F' || c == 'd' || c == 'D') {
      *is_float = c == 'f' || c == 'F' ? 4 : 8;
      base = 16;
    } else if (c == 'x' || c == 'X') {
      base = 16;
    } else if (c == 'b' || c == 'B') {
      base = 2;
    } else {
      base = 8;
    }
    s += base == 8 ? 1 : 2;
  }
  if (*is_float && end - s != 2 * *is_float)
    return false;
  if (end > s && (end[-1] == 'U' || end[-1] == 'u'))
    end--;
  for (; s < end; s++) {
    const int digit = isdigit((unsigned char)*s)    ? *s - '0'
                      : isxdigit((unsigned char)*s) ? tolower((unsigned char)*s) - 'a' + 10
                                                    : 99;
    if (digit >= base)
      return false;
    *bits = *bits * (unsigned)base + (unsigned)digit;
  }
  return true;
}
