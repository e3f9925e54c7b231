/* PTX text as tokens. */
#ifndef EMU_PTX_TEXT_H
#define EMU_PTX_TEXT_H

#include "emu.h"

typedef enum { TOKEN_END, TOKEN_WORD, TOKEN_NUMBER, TOKEN_TEXT, TOKEN_MARK } TokenKind;

/* A word holds letters, digits and _ $ . % :: (opcodes, directives, registers, names); a mark is
 * one character. */
typedef struct {
  TokenKind kind;
  const char *at;
  uint32_t n, line;
} Token;

typedef struct {
  const char *at;
  uint32_t line;
  Token token; /* the current one */
} Lexer;

void lexer_init(Lexer *l, const char *text);
void lexer_next(Lexer *l);
bool token_is(const Token *t, const char *text);
/* Bits of a number: decimal, hexadecimal, octal, binary, 0f and 0d (floating-point bits). is_float:
 * 4 or 8 for the last two, else 0. False: not a number. */
bool token_number(const Token *t, uint64_t *bits, int *is_float);

#endif
