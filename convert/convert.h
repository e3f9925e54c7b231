/* Texts to tokens and token files: byte-level BPE as Hugging Face's tokenizers do it, from their
 * tokenizer.json. Used by `mpcc convert`; never prints. */
#ifndef MPCC_CONVERT_CONVERT_H
#define MPCC_CONVERT_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "mpcc/base.h"

/* Why something failed, in words. */
typedef struct {
  char text[400];
} ConvertError;
Status convert_fail(ConvertError *e, Status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- unicode.c ---- */

/* Code point at p < end and its bytes in *n; -1: not UTF-8. */
int32_t utf8_next(const uint8_t *p, const uint8_t *end, int *n);
bool unicode_is_space(uint32_t c); /* White_Space */
/* Letters, marks, decimal digits, connectors, joiners. source: Unicode's annex 18, \w */
bool unicode_is_word(uint32_t c);
typedef enum { FORM_NONE, FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD } NormalForm;
bool normal_form_find(const char *name, NormalForm *out); /* false: no such form */
/* UTF-8 text in a form that is not FORM_NONE; *out is the caller's, NULL after an error. errors:
 * ERR_NOMEM, ERR_DATA (utf8proc's words) */
Status unicode_normalize(NormalForm form, const uint8_t *p, size_t n, uint8_t **out,
                         size_t *out_bytes, ConvertError *e);

/* ---- pretokenizer.c: texts to words ---- */

typedef struct Pretokenizer Pretokenizer;
/* Reads a pre_tokenizer: ByteLevel, or a Sequence of Split and Digits that ends with ByteLevel; the
 * bytes of words are not yet in ByteLevel's alphabet. Borrows nothing. errors: ERR_DATA (what is
 * not supported, by its path), ERR_NOMEM; *out = NULL then */
Status pretokenizer_create(const json_t *v, Pretokenizer **out, ConvertError *e);
void pretokenizer_destroy(Pretokenizer *t); /* NULL is fine */
/* Takes a word of n > 0 bytes; not MPCC_OK ends the run. */
typedef Status WordFn(void *user, const uint8_t *word, size_t n, ConvertError *e);
/* Words of a UTF-8 text in order. errors: those of `word`; ERR_DATA (a pattern gives up), ERR_NOMEM
 */
Status pretokenizer_run(const Pretokenizer *t, const uint8_t *text, size_t n, WordFn *word,
                        void *user, ConvertError *e);

/* ---- tokenizer.c ---- */

typedef struct Tokenizer Tokenizer;
/* Reads a tokenizer.json of byte-level BPE; other kinds are told by name. errors: ERR_DATA (what
 * and where), ERR_NOMEM; *out = NULL then */
Status tokenizer_create(const char *json, size_t bytes, Tokenizer **out, ConvertError *e);
void tokenizer_destroy(Tokenizer *t); /* NULL is fine */
/* One more than the largest token. */
uint32_t tokenizer_size(const Tokenizer *t);
/* Token of an added or ordinary word; -1: none. */
int64_t tokenizer_find(const Tokenizer *t, const char *content);

/* Tokens, growing; owned by the caller. */
typedef struct {
  uint32_t *id;
  size_t n, room;
} Tokens;
bool tokens_add(Tokens *t, uint32_t id); /* false: out of memory */
void tokens_fini(Tokens *t);
/* Appends the tokens of a whole text, as encode(text, add_special_tokens=False). errors: ERR_DATA
 * (not UTF-8, or a byte without a token), ERR_NOMEM */
Status tokenizer_encode(Tokenizer *t, const uint8_t *text, size_t bytes, Tokens *out,
                        ConvertError *e);

/* ---- pack.c: token files ---- */

typedef struct {
  FILE *f;
  int size;    /* bytes of a token: 2 or 4 */
  bool header; /* of llm.c */
  uint64_t count;
} TokenFile;
/* Begins a token file at `path`. errors: ERR_FILE */
Status token_file_create(TokenFile *t, const char *path, int size, bool header, ConvertError *e);
/* errors: ERR_DATA (a token does not fit), ERR_FILE */
Status token_file_put(TokenFile *t, const Tokens *tokens, ConvertError *e);
/* Completes the header and closes; also after an error. errors: ERR_FILE, ERR_DATA (more tokens
 * than the header can count) */
Status token_file_close(TokenFile *t, ConvertError *e);

#endif
