/* Private to lex.c and parse.c: tokens of the IR text, and the state of one parse. */
#ifndef MPCC_LEX_H
#define MPCC_LEX_H

#include "ir/ir.h"

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

/* The first error ends the parse: every later token is T_END. */
void lex_fail(Parser *p, Loc loc, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Room for one more element of `size` bytes; NULL after a failure. */
void *lex_list_add(Parser *p, List *l, size_t size);
void lex_next(Parser *p);             /* reads p->tok */
bool lex_is(const Parser *p, char c); /* the token is this character */
bool lex_accept(Parser *p, char c);
void lex_expect(Parser *p, char c);
bool lex_accept_word(Parser *p, const char *word);
void lex_expect_word(Parser *p, const char *word);
int64_t lex_integer(Parser *p, int64_t least, int64_t most); /* least after a failure */
Str lex_take(Parser *p, TokenKind kind, const char *what);   /* "" after a failure */

#endif
