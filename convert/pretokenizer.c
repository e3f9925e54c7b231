/* Texts to words: the pre_tokenizer of a tokenizer.json as a list of steps, each of which cuts
 * every piece that the step before leaves. Patterns are Oniguruma's in tokenizer.json and PCRE2's
 * here: where the two read the same text in different ways it is rewritten or refused (translate).
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "convert/convert.h"

enum { MAX_STEPS = 16, MAX_PATTERN = 4096 };

/* What ByteLevel with use_regex cuts by. source: Radford et al. 2019, encoder.py of the released
 * code */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct {
  pcre2_code *pattern; /* NULL: puts a space before a piece that begins with none */
  pcre2_match_data *match;
  bool drop_match, drop_rest; /* else pieces */
} Step;

struct Pretokenizer {
  int n;
  Step step[MAX_STEPS];
};

/* ---- patterns ---- */

#define SPACE_CLASS "\\t-\\r\\x{85}\\p{Z}" /* White_Space; PCRE2's \s has U+180E besides */

typedef struct {
  const char *at; /* what is read next */
  bool in_class;
  char *to; /* has room */
  char what[60];
} Translation;

static bool refuse(Translation *t, const char *what, size_t n) {
  snprintf(t->what, sizeof t->what, "%.*s", (int)n, what);
  return false;
}

static void put(Translation *t, const char *text, size_t n) {
  memcpy(t->to, text, n);
  t->to += n;
}

/* \p{...}: a general category as it is, a longer name as a script (alone, PCRE2 would take it for
 * Script_Extensions). */
static bool property(Translation *t) {
  const char *p = t->at, *name = p + 3, *close = p[2] == '{' ? strchr(p, '}') : NULL;
  if (!close)
    return refuse(t, p, 2);
  name += *name == '^';
  for (const char *c = name; c < close; c++)
    if (!isalpha((unsigned char)*c) && *c != '_')
      return refuse(t, p, (size_t)(close + 1 - p));
  put(t, p, (size_t)(name - p));
  if (close - name > 2)
    put(t, "sc:", 3);
  put(t, name, (size_t)(close + 1 - name));
  t->at = close + 1;
  return true;
}

static bool escape(Translation *t) {
  const char *p = t->at;
  if (p[1] == 'p' || p[1] == 'P')
    return property(t);
  if (p[1] == 'u' && strspn(p + 2, "0123456789abcdefABCDEF") >= 4) {
    t->to += sprintf(t->to, "\\x{%.4s}", p + 2);
    t->at = p + 6;
    return true;
  }
  t->at = p + 2;
  if (p[1] == 's' && t->in_class)
    put(t, SPACE_CLASS, strlen(SPACE_CLASS));
  else if (p[1] == 's')
    put(t, "[" SPACE_CLASS "]", strlen(SPACE_CLASS) + 2);
  else if (p[1] == 'S' && !t->in_class)
    put(t, "[^" SPACE_CLASS "]", strlen(SPACE_CLASS) + 3);
  else if (p[1] && (strchr("dDnrtf", p[1]) || ispunct((unsigned char)p[1])))
    put(t, p, 2);
  else {
    t->at = p;
    return refuse(t, p, p[1] ? 2 : 1);
  }
  return true;
}

/* {n}, {n,}, {n,m}: to Oniguruma a sign behind it repeats or makes optional once more, to PCRE2 it
 * is possessive or lazy. */
static bool interval(Translation *t) {
  const char *p = t->at, *close = p + 1;
  close += strspn(close, "0123456789");
  if (close > p + 1 && *close == ',')
    close += 1 + strspn(close + 1, "0123456789");
  if (close == p + 1 || *close != '}')
    return refuse(t, p, 1);
  if (close[1] && strchr("+*?{", close[1]))
    return refuse(t, p, (size_t)(close + 2 - p));
  put(t, p, (size_t)(close + 1 - p));
  t->at = close + 1;
  return true;
}

static bool group(Translation *t) {
  static const char *const known[] = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:"};
  const char *p = t->at + 1;
  bool ok = *p != '?' && *p != '*';
  for (size_t i = 0; !ok && i < sizeof known / sizeof *known; i++)
    ok = !strncmp(p, known[i], strlen(known[i]));
  if (!ok)
    return refuse(t, t->at, *p == '?' && p[1] ? 3 : 2);
  size_t n = *p == '?' ? 2 : 1;
  put(t, t->at, n);
  t->at += n;
  return true;
}

static bool in_class(Translation *t) {
  if (*t->at == '[' || !strncmp(t->at, "&&", 2))
    return refuse(t, t->at, *t->at == '[' ? 1 : 2);
  t->in_class = *t->at != ']';
  put(t, t->at++, 1);
  return true;
}

/* One construct of a pattern. */
static bool construct(Translation *t) {
  const char *p = t->at;
  if (*p == '\\')
    return escape(t);
  if (t->in_class)
    return in_class(t);
  if (*p == '(')
    return group(t);
  if (*p == '{')
    return interval(t);
  if (*p == '^' || *p == '$') /* of lines to Oniguruma */
    return refuse(t, p, 1);
  size_t n = *p == '[' ? 1 + (p[1] == '^') : 1;
  t->in_class = *p == '[';
  if (t->in_class && p[n] == ']')
    return refuse(t, p, n + 1);
  put(t, p, n);
  t->at += n;
  return true;
}

/* To `to`, which has room for sixteen bytes for each of the pattern's. */
static bool translate(const char *pattern, char *to, Translation *t) {
  *t = (Translation){.at = pattern, .to = to};
  bool ok = true;
  while (ok && *t->at)
    ok = construct(t);
  *t->to = 0;
  return ok;
}

/* options: PCRE2_UCP for a regular expression, PCRE2_LITERAL */
static Status compile(Step *s, const char *text, uint32_t options, const char *where,
                      ConvertError *e) {
  int code;
  PCRE2_SIZE at;
  s->pattern = pcre2_compile((PCRE2_SPTR)text, strlen(text), PCRE2_UTF | options, &code, &at, NULL);
  if (!s->pattern) {
    char words[120];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)words, sizeof words);
    return convert_fail(e, MPCC_ERR_DATA, "%s: the pattern '%.120s' is not supported: %s", where,
                        text, words);
  }
  pcre2_jit_compile(s->pattern, PCRE2_JIT_COMPLETE); /* without it: slower */
  s->match = pcre2_match_data_create_from_pattern(s->pattern, NULL);
  return s->match ? MPCC_OK : convert_fail(e, MPCC_ERR_NOMEM, "out of memory: pattern");
}

static Status compile_regex(Step *s, const char *pattern, const char *where, ConvertError *e) {
  Translation t;
  if (strlen(pattern) > MAX_PATTERN)
    return convert_fail(e, MPCC_ERR_DATA, "%s: the pattern has more than %d bytes", where,
                        MAX_PATTERN);
  char *text = malloc(16 * strlen(pattern) + 1);
  if (!text)
    return convert_fail(e, MPCC_ERR_NOMEM, "out of memory: pattern");
  Status st = MPCC_OK;
  if (translate(pattern, text, &t))
    st = compile(s, text, PCRE2_UCP, where, e);
  else
    st = convert_fail(e, MPCC_ERR_DATA,
                      "%s: '%s' at byte %zu of the pattern '%.120s' is not supported", where,
                      t.what, (size_t)(t.at - pattern), pattern);
  free(text);
  return st;
}

/* ---- reading ---- */

/* NULL: no room, told. */
static Step *add_step(Pretokenizer *t, const char *where, ConvertError *e) {
  if (t->n < MAX_STEPS)
    return &t->step[t->n++];
  convert_fail(e, MPCC_ERR_DATA, "%s: more than %d steps", where, MAX_STEPS);
  return NULL;
}

static Status read_split(Pretokenizer *t, const json_t *v, const char *where, ConvertError *e) {
  const json_t *pattern = json_object_get(v, "pattern");
  const char *regex = json_string_value(json_object_get(pattern, "Regex"));
  const char *literal = json_string_value(json_object_get(pattern, "String"));
  const char *behavior = json_string_value(json_object_get(v, "behavior"));
  bool removed = behavior && !strcmp(behavior, "Removed");
  bool invert = json_is_true(json_object_get(v, "invert"));
  if (!regex && !literal)
    return convert_fail(e, MPCC_ERR_DATA, "%s: its pattern is neither a Regex nor a String", where);
  if (!behavior || (!removed && strcmp(behavior, "Isolated")))
    return convert_fail(e, MPCC_ERR_DATA,
                        "%s: behavior %s is not supported yet; Isolated and Removed are", where,
                        behavior ? behavior : "null");
  Step *s = add_step(t, where, e);
  if (!s)
    return MPCC_ERR_DATA;
  s->drop_match = removed && !invert;
  s->drop_rest = removed && invert;
  return regex ? compile_regex(s, regex, where, e) : compile(s, literal, PCRE2_LITERAL, where, e);
}

static Status read_digits(Pretokenizer *t, const json_t *v, const char *where, ConvertError *e) {
  bool single = json_is_true(json_object_get(v, "individual_digits"));
  Step *s = add_step(t, where, e);
  return s ? compile(s, single ? "\\p{N}" : "\\p{N}+", PCRE2_UCP, where, e) : MPCC_ERR_DATA;
}

static Status read_byte_level(Pretokenizer *t, const json_t *v, const char *where,
                              ConvertError *e) {
  if (!json_is_false(json_object_get(v, "add_prefix_space")) && !add_step(t, where, e))
    return MPCC_ERR_DATA;
  if (json_is_false(json_object_get(v, "use_regex")))
    return MPCC_OK;
  Step *s = add_step(t, where, e);
  return s ? compile_regex(s, gpt2_pattern, where, e) : MPCC_ERR_DATA;
}

/* `last`: nothing comes behind it. ByteLevel must, and must not come earlier, for it writes bytes
 * in another alphabet. */
static Status read_one(Pretokenizer *t, const json_t *v, bool last, const char *where,
                       ConvertError *e) {
  const char *type = json_string_value(json_object_get(v, "type"));
  bool bytes = type && !strcmp(type, "ByteLevel");
  if (last && bytes)
    return read_byte_level(t, v, where, e);
  if (!last && type && !strcmp(type, "Split"))
    return read_split(t, v, where, e);
  if (!last && type && !strcmp(type, "Digits"))
    return read_digits(t, v, where, e);
  return convert_fail(e, MPCC_ERR_DATA,
                      "%s of type %s is not supported yet; ByteLevel is, and a Sequence of Split "
                      "and Digits that ends with ByteLevel",
                      where, type ? type : "null");
}

Status pretokenizer_create(const json_t *v, Pretokenizer **out, ConvertError *e) {
  const char *type = json_string_value(json_object_get(v, "type"));
  const json_t *list = json_object_get(v, "pretokenizers");
  size_t n = json_array_size(list);
  *out = calloc(1, sizeof **out);
  if (!*out)
    return convert_fail(e, MPCC_ERR_NOMEM, "out of memory: pre_tokenizer");
  Status st = MPCC_OK;
  if (!type || strcmp(type, "Sequence"))
    st = read_one(*out, v, true, "pre_tokenizer", e);
  else if (!n)
    st = convert_fail(e, MPCC_ERR_DATA, "pre_tokenizer: the Sequence is empty");
  for (size_t i = 0; st == MPCC_OK && i < n; i++) {
    char where[60];
    snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%zu]", i);
    st = read_one(*out, json_array_get(list, i), i + 1 == n, where, e);
  }
  if (st != MPCC_OK) {
    pretokenizer_destroy(*out);
    *out = NULL;
  }
  return st;
}

void pretokenizer_destroy(Pretokenizer *t) {
  for (int i = 0; t && i < t->n; i++) {
    pcre2_match_data_free(t->step[i].match);
    pcre2_code_free(t->step[i].pattern);
  }
  free(t);
}

/* ---- running ---- */

/* The next match in text[from, n); false: none, or st is not MPCC_OK. */
static bool find(const Step *s, const uint8_t *text, size_t n, size_t from, size_t *first,
                 size_t *last, Status *st, ConvertError *e) {
  int code = pcre2_match(s->pattern, text, n, from, PCRE2_NO_UTF_CHECK, s->match, NULL);
  if (code == PCRE2_ERROR_JIT_STACKLIMIT)
    code =
        pcre2_match(s->pattern, text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, NULL);
  if (code == PCRE2_ERROR_NOMATCH)
    return false;
  if (code < 0) {
    char words[120];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)words, sizeof words);
    *st = convert_fail(e, code == PCRE2_ERROR_NOMEMORY ? MPCC_ERR_NOMEM : MPCC_ERR_DATA,
                       "the tokenizer's pattern cannot be matched near byte %zu of a piece: %s",
                       from, words);
    return false;
  }
  const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match);
  *first = at[0];
  *last = at[1];
  return true;
}

static Status run_from(const Pretokenizer *t, int i, const uint8_t *text, size_t n, WordFn *word,
                       void *user, ConvertError *e);

static Status run_pattern(const Pretokenizer *t, int i, const uint8_t *text, size_t n, WordFn *word,
                          void *user, ConvertError *e) {
  const Step *s = &t->step[i];
  Status st = MPCC_OK;
  size_t before = 0, from = 0, first, last; /* text up to `before` is done */
  while (st == MPCC_OK && from <= n && find(s, text, n, from, &first, &last, &st, e)) {
    if (first > before && !s->drop_rest)
      st = run_from(t, i + 1, text + before, first - before, word, user, e);
    if (last > first && !s->drop_match && st == MPCC_OK)
      st = run_from(t, i + 1, text + first, last - first, word, user, e);
    before = from = last;
    if (first == last) /* an empty match cuts; the next begins behind the next code point */
      do
        from++;
      while (from < n && text[from] >> 6 == 2);
  }
  if (st == MPCC_OK && n > before && !s->drop_rest)
    st = run_from(t, i + 1, text + before, n - before, word, user, e);
  return st;
}

static Status run_prefix(const Pretokenizer *t, int i, const uint8_t *text, size_t n, WordFn *word,
                         void *user, ConvertError *e) {
  if (*text == ' ')
    return run_from(t, i + 1, text, n, word, user, e);
  uint8_t *copy = malloc(n + 1);
  if (!copy)
    return convert_fail(e, MPCC_ERR_NOMEM, "out of memory: pre_tokenizer");
  copy[0] = ' ';
  memcpy(copy + 1, text, n);
  Status st = run_from(t, i + 1, copy, n + 1, word, user, e);
  free(copy);
  return st;
}

static Status run_from(const Pretokenizer *t, int i, const uint8_t *text, size_t n, WordFn *word,
                       void *user, ConvertError *e) {
  if (i == t->n)
    return word(user, text, n, e);
  return (t->step[i].pattern ? run_pattern : run_prefix)(t, i, text, n, word, user, e);
}

Status pretokenizer_run(const Pretokenizer *t, const uint8_t *text, size_t n, WordFn *word,
                        void *user, ConvertError *e) {
  return n ? run_from(t, 0, text, n, word, user, e) : MPCC_OK;
}
