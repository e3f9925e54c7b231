/* Byte-level BPE (Sennrich et al. 2016; over bytes: Radford et al. 2019) from a tokenizer.json:
 * added tokens are cut out of the text, the rest is normalized, added tokens of normalized text are
 * cut out of that, the rest is split into words, the bytes of a word are symbols, and pairs of
 * symbols are merged in the order of the merge list. */
#include <stdlib.h>
#include <string.h>

#include "convert/convert.h"

enum { MAX_TOKEN = 1 << 24, MAX_CACHED = 1 << 18, MAX_CACHED_BYTES = 256 };

/* ---- hash tables ---- */

static uint64_t mix(uint64_t h) {
  h ^= h >> 32;
  h *= UINT64_C(0xd6e8feb86659fd93);
  return h ^ h >> 32;
}

static uint64_t hash_bytes(const void *p, size_t n) {
  uint64_t h = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < n; i++)
    h = (h ^ ((const uint8_t *)p)[i]) * UINT64_C(0x100000001b3);
  return mix(h);
}

/* Words by their bytes; value: token, or place in the cache. */
typedef struct {
  char *key; /* owned; NULL: free slot */
  size_t len;
  uint32_t value, count;
} Word;
typedef struct {
  Word *slot;
  size_t cap, n;
} Words;

static Word *words_slot(const Words *w, const void *key, size_t len) {
  size_t i = hash_bytes(key, len) & (w->cap - 1);
  while (w->slot[i].key && (w->slot[i].len != len || memcmp(w->slot[i].key, key, len)))
    i = (i + 1) & (w->cap - 1);
  return &w->slot[i];
}

static const Word *words_get(const Words *w, const void *key, size_t len) {
  const Word *s = w->cap ? words_slot(w, key, len) : NULL;
  return s && s->key ? s : NULL;
}

/* The slot of the key, new or old; NULL: out of memory. */
static Word *words_put(Words *w, const void *key, size_t len) {
  if (2 * (w->n + 1) > w->cap) {
    Words big = {.cap = w->cap ? 2 * w->cap : 256};
    big.slot = calloc(big.cap, sizeof *big.slot);
    if (!big.slot)
      return NULL;
    for (size_t i = 0; i < w->cap; i++)
      if (w->slot[i].key)
        *words_slot(&big, w->slot[i].key, w->slot[i].len) = w->slot[i];
    free(w->slot);
    w->slot = big.slot;
    w->cap = big.cap;
  }
  Word *s = words_slot(w, key, len);
  if (!s->key) {
    s->key = malloc(len + 1);
    if (!s->key)
      return NULL;
    memcpy(s->key, key, len);
    s->len = len;
    w->n++;
  }
  return s;
}

static void words_fini(Words *w) {
  for (size_t i = 0; i < w->cap; i++)
    free(w->slot[i].key);
  free(w->slot);
}

/* What two neighbours become, and how early. */
typedef struct {
  uint64_t pair; /* left << 32 | right */
  uint32_t rank, id;
  bool used;
} Merge;

typedef struct {
  char *content;
  size_t len;
  uint32_t id;
  bool single_word, lstrip, rstrip;
  bool normalized; /* is looked for in the normalized text */
} Added;

struct Tokenizer {
  Words vocab;
  size_t longest; /* bytes of a word of the vocabulary */
  uint32_t size;
  Merge *merge; /* hash table */
  size_t merge_cap;
  int64_t byte[256]; /* token of a byte, -1: none */
  int nadded;
  Added *added; /* longest first */
  NormalForm form;
  Pretokenizer *pretokenizer;
  bool ignore_merges;
  Words cache; /* word: tokens at cached.id[value ...], count of them */
  Tokens cached;
};

bool tokens_add(Tokens *t, uint32_t id) {
  if (t->n == t->room) {
    size_t room = t->room ? 2 * t->room : 256;
    uint32_t *q = realloc(t->id, room * sizeof *q);
    if (!q)
      return false;
    t->id = q;
    t->room = room;
  }
  t->id[t->n++] = id;
  return true;
}

void tokens_fini(Tokens *t) {
  free(t->id);
  *t = (Tokens){0};
}

static Merge *merge_slot(const Tokenizer *t, uint64_t pair) {
  size_t i = mix(pair * UINT64_C(0x9e3779b97f4a7c15)) & (t->merge_cap - 1);
  while (t->merge[i].used && t->merge[i].pair != pair)
    i = (i + 1) & (t->merge_cap - 1);
  return &t->merge[i];
}

/* ---- the byte alphabet ---- */

/* GPT-2 writes a byte as a printable character: those that print stand for themselves, the others
 * for U+0100 and on. */
static uint32_t byte_char(int b) {
  int before = 0; /* bytes below b that do not print */
  bool prints = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  if (prints)
    return (uint32_t)b;
  for (int i = 0; i < b; i++)
    before += !((i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae);
  return 256 + (uint32_t)before;
}

static int put_utf8(char *to, uint32_t c) { /* c < 0x800 */
  if (c < 0x80) {
    to[0] = (char)c;
    return 1;
  }
  to[0] = (char)(0xc0 | c >> 6);
  to[1] = (char)(0x80 | (c & 63));
  return 2;
}

/* ---- reading tokenizer.json ---- */

static Status no_memory(ConvertError *e) {
  return convert_fail(e, MPCC_ERR_NOMEM, "out of memory: tokenizer");
}

static Status read_vocab(Tokenizer *t, const json_t *vocab, ConvertError *e) {
  const char *key;
  size_t len;
  json_t *v;
  if (!json_is_object(vocab))
    return convert_fail(e, MPCC_ERR_DATA, "model.vocab is not an object");
  void *it = json_object_iter((json_t *)vocab);
  for (; it; it = json_object_iter_next((json_t *)vocab, it)) {
    key = json_object_iter_key(it);
    len = strlen(key);
    v = json_object_iter_value(it);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= MAX_TOKEN)
      return convert_fail(e, MPCC_ERR_DATA, "model.vocab: '%.60s' has no token in [0, %d)", key,
                          MAX_TOKEN);
    Word *w = words_put(&t->vocab, key, len);
    if (!w)
      return no_memory(e);
    w->value = (uint32_t)json_integer_value(v);
    t->longest = len > t->longest ? len : t->longest;
    if (w->value >= t->size)
      t->size = w->value + 1;
  }
  for (int b = 0; b < 256; b++) {
    char text[2];
    const Word *w = words_get(&t->vocab, text, (size_t)put_utf8(text, byte_char(b)));
    t->byte[b] = w ? (int64_t)w->value : -1;
  }
  return MPCC_OK;
}

/* "a b" or ["a", "b"]. */
static bool merge_parts(const json_t *v, const char **a, size_t *na, const char **b, size_t *nb) {
  if (json_is_array(v) && json_array_size(v) == 2) {
    *a = json_string_value(json_array_get(v, 0));
    *b = json_string_value(json_array_get(v, 1));
    if (!*a || !*b)
      return false;
    *na = strlen(*a);
    *nb = strlen(*b);
    return true;
  }
  *a = json_string_value(v);
  const char *space = *a ? strchr(*a, ' ') : NULL;
  if (!space)
    return false;
  *na = (size_t)(space - *a);
  *b = space + 1;
  *nb = strlen(*b);
  return true;
}

static Status read_merge(Tokenizer *t, const json_t *v, size_t rank, ConvertError *e) {
  const char *a, *b;
  size_t na, nb;
  if (!merge_parts(v, &a, &na, &b, &nb))
    return convert_fail(e, MPCC_ERR_DATA, "model.merges: entry %zu is no pair", rank);
  char *both = malloc(na + nb + 1);
  if (!both)
    return no_memory(e);
  memcpy(both, a, na);
  memcpy(both + na, b, nb);
  const Word *x = words_get(&t->vocab, a, na), *y = words_get(&t->vocab, b, nb);
  const Word *z = words_get(&t->vocab, both, na + nb);
  free(both);
  if (!x || !y || !z)
    return convert_fail(
        e, MPCC_ERR_DATA,
        "model.merges: entry %zu, '%.40s' and '%.40s': a part or the whole is not in "
        "model.vocab",
        rank, a, b);
  Merge *m = merge_slot(t, (uint64_t)x->value << 32 | y->value);
  *m = (Merge){(uint64_t)x->value << 32 | y->value, (uint32_t)rank, z->value, true};
  return MPCC_OK;
}

static Status read_merges(Tokenizer *t, const json_t *merges, ConvertError *e) {
  size_t n = json_array_size(merges);
  Status st = MPCC_OK;
  if (!json_is_array(merges) || n > MAX_TOKEN)
    return convert_fail(e, MPCC_ERR_DATA, "model.merges is not a list");
  for (t->merge_cap = 16; t->merge_cap < 2 * n + 1;)
    t->merge_cap *= 2;
  t->merge = calloc(t->merge_cap, sizeof *t->merge);
  if (!t->merge)
    return no_memory(e);
  for (size_t i = 0; st == MPCC_OK && i < n; i++)
    st = read_merge(t, json_array_get(merges, i), i, e);
  return st;
}

static int longest_first(const void *a, const void *b) {
  const Added *x = a, *y = b;
  return x->len != y->len ? (x->len > y->len ? -1 : 1) : strcmp(x->content, y->content);
}

static Status read_one_added(Tokenizer *t, const json_t *v, size_t i, ConvertError *e) {
  const json_t *id = json_object_get(v, "id"), *normalized = json_object_get(v, "normalized");
  const char *content = json_string_value(json_object_get(v, "content"));
  if (!content || !*content || !json_is_integer(id) || json_integer_value(id) < 0 ||
      json_integer_value(id) >= MAX_TOKEN)
    return convert_fail(e, MPCC_ERR_DATA, "added_tokens: entry %zu has no content and id", i);
  Added *a = &t->added[t->nadded++];
  *a = (Added){.id = (uint32_t)json_integer_value(id),
               .single_word = json_is_true(json_object_get(v, "single_word")),
               .lstrip = json_is_true(json_object_get(v, "lstrip")),
               .rstrip = json_is_true(json_object_get(v, "rstrip"))};
  a->normalized =
      normalized ? json_is_true(normalized) : !json_is_true(json_object_get(v, "special"));
  if (a->id >= t->size)
    t->size = a->id + 1;
  uint8_t *form = NULL;
  a->len = strlen(content);
  if (a->normalized && t->form != FORM_NONE) {
    Status st = unicode_normalize(t->form, (const uint8_t *)content, a->len, &form, &a->len, e);
    if (st != MPCC_OK)
      return st;
  }
  a->content = strndup(form ? (char *)form : content, a->len);
  free(form);
  return a->content ? MPCC_OK : no_memory(e);
}

static Status read_added(Tokenizer *t, const json_t *list, ConvertError *e) {
  size_t n = json_array_size(list);
  Status st = MPCC_OK;
  t->added = calloc(n + 1, sizeof *t->added);
  if (!t->added)
    return no_memory(e);
  for (size_t i = 0; st == MPCC_OK && i < n; i++)
    st = read_one_added(t, json_array_get(list, i), i, e);
  if (st == MPCC_OK)
    qsort(t->added, (size_t)t->nadded, sizeof *t->added, longest_first);
  return st;
}

static bool is_unset(const json_t *v) {
  const char *s = json_string_value(v);
  return !v || json_is_null(v) || (s && !*s);
}

/* A normal form, or a Sequence of no more than one. */
static Status read_normalizer(Tokenizer *t, const json_t *v, ConvertError *e) {
  const char *type = json_string_value(json_object_get(v, "type"));
  const json_t *list = json_object_get(v, "normalizers");
  if (is_unset(v))
    return MPCC_OK;
  if (type && !strcmp(type, "Sequence") && json_array_size(list) < 2)
    return json_array_size(list) ? read_normalizer(t, json_array_get(list, 0), e) : MPCC_OK;
  if (!type || !normal_form_find(type, &t->form))
    return convert_fail(e, MPCC_ERR_DATA,
                        "normalizer of type %s is not supported yet; NFC, NFD, NFKC and NFKD are",
                        type ? type : "null");
  return MPCC_OK;
}

static Status read_model(Tokenizer *t, const json_t *m, ConvertError *e) {
  static const char *const unset[] = {"continuing_subword_prefix", "end_of_word_suffix", "dropout"};
  const char *type = json_string_value(json_object_get(m, "type"));
  if (!json_is_object(m))
    return convert_fail(e, MPCC_ERR_DATA, "has no model");
  if (type ? strcmp(type, "BPE") != 0 : !json_object_get(m, "merges"))
    return convert_fail(e, MPCC_ERR_DATA, "model of type %s is not supported yet; BPE is",
                        type ? type : "null");
  for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
    if (!is_unset(json_object_get(m, unset[i])))
      return convert_fail(e, MPCC_ERR_DATA, "model.%s is not supported yet", unset[i]);
  if (json_is_true(json_object_get(m, "byte_fallback")))
    return convert_fail(e, MPCC_ERR_DATA, "model.byte_fallback is not supported yet");
  t->ignore_merges = json_is_true(json_object_get(m, "ignore_merges"));
  Status st = read_vocab(t, json_object_get(m, "vocab"), e);
  return st == MPCC_OK ? read_merges(t, json_object_get(m, "merges"), e) : st;
}

Status tokenizer_create(const char *json, size_t bytes, Tokenizer **out, ConvertError *e) {
  json_error_t error;
  *out = NULL;
  *e = (ConvertError){0};
  json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &error);
  if (!json_is_object(root)) {
    json_decref(root);
    return convert_fail(e, MPCC_ERR_DATA, "line %d, column %d: %s", root ? 1 : error.line,
                        root ? 1 : error.column, root ? "not an object" : error.text);
  }
  Tokenizer *t = calloc(1, sizeof *t);
  Status st = t ? MPCC_OK : no_memory(e);
  if (st == MPCC_OK)
    st = read_normalizer(t, json_object_get(root, "normalizer"), e);
  if (st == MPCC_OK)
    st = pretokenizer_create(json_object_get(root, "pre_tokenizer"), &t->pretokenizer, e);
  if (st == MPCC_OK)
    st = read_model(t, json_object_get(root, "model"), e);
  if (st == MPCC_OK)
    st = read_added(t, json_object_get(root, "added_tokens"), e);
  json_decref(root);
  if (st == MPCC_OK)
    *out = t;
  else
    tokenizer_destroy(t);
  return st;
}

void tokenizer_destroy(Tokenizer *t) {
  if (!t)
    return;
  for (int i = 0; i < t->nadded; i++)
    free(t->added[i].content);
  free(t->added);
  free(t->merge);
  pretokenizer_destroy(t->pretokenizer);
  words_fini(&t->vocab);
  words_fini(&t->cache);
  tokens_fini(&t->cached);
  free(t);
}

uint32_t tokenizer_size(const Tokenizer *t) {
  return t->size;
}

int64_t tokenizer_find(const Tokenizer *t, const char *content) {
  for (int i = 0; i < t->nadded; i++)
    if (!strcmp(t->added[i].content, content))
      return t->added[i].id;
  const Word *w = words_get(&t->vocab, content, strlen(content));
  return w ? (int64_t)w->value : -1;
}

/* ---- one word ---- */

/* Symbols of a word as a list; merged ones are taken out. */
typedef struct {
  uint32_t id;
  int32_t before, after; /* -1: none */
} Symbol;

/* A pair that may be merged: stale when its symbols have changed. */
typedef struct {
  uint32_t rank, id;
  int32_t at;
  uint64_t pair;
} Candidate;

typedef struct {
  Candidate *heap;
  size_t n, room;
} Heap;

static bool earlier(const Candidate *a, const Candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static bool heap_push(Heap *h, Candidate c) {
  if (h->n == h->room) {
    size_t room = h->room ? 2 * h->room : 64;
    Candidate *q = realloc(h->heap, room * sizeof *q);
    if (!q)
      return false;
    h->heap = q;
    h->room = room;
  }
  size_t i = h->n++;
  for (; i && earlier(&c, &h->heap[(i - 1) / 2]); i = (i - 1) / 2)
    h->heap[i] = h->heap[(i - 1) / 2];
  h->heap[i] = c;
  return true;
}

static Candidate heap_pop(Heap *h) {
  Candidate top = h->heap[0], last = h->heap[--h->n];
  size_t i = 0;
  for (size_t k; (k = 2 * i + 1) < h->n; i = k) {
    k += k + 1 < h->n && earlier(&h->heap[k + 1], &h->heap[k]);
    if (!earlier(&h->heap[k], &last))
      break;
    h->heap[i] = h->heap[k];
  }
  h->heap[i] = last;
  return top;
}

/* The pair that begins at symbol `at` becomes a candidate, when there is a merge for it. */
static bool consider(const Tokenizer *t, const Symbol *s, int32_t at, Heap *h) {
  if (at < 0 || s[at].after < 0)
    return true;
  uint64_t pair = (uint64_t)s[at].id << 32 | s[s[at].after].id;
  const Merge *m = merge_slot(t, pair);
  return !m->used || heap_push(h, (Candidate){m->rank, m->id, at, pair});
}

static bool merge_symbols(const Tokenizer *t, Symbol *s, int32_t n) {
  Heap h = {0};
  bool ok = true;
  for (int32_t i = 0; ok && i + 1 < n; i++)
    ok = consider(t, s, i, &h);
  while (ok && h.n) {
    Candidate c = heap_pop(&h);
    Symbol *a = &s[c.at];
    if (a->before == -2 || a->after < 0 || ((uint64_t)a->id << 32 | s[a->after].id) != c.pair)
      continue;
    Symbol *b = &s[a->after];
    a->id = c.id;
    a->after = b->after;
    b->before = -2; /* taken out */
    if (a->after >= 0)
      s[a->after].before = c.at;
    ok = consider(t, s, a->before, &h) && consider(t, s, c.at, &h);
  }
  free(h.heap);
  return ok;
}

/* Tokens of a word by merging. */
static Status merge_word(Tokenizer *t, const uint8_t *word, size_t n, Tokens *out,
                         ConvertError *e) {
  Symbol *s = n < INT32_MAX ? malloc(n * sizeof *s) : NULL;
  Status st = s ? MPCC_OK : no_memory(e);
  for (size_t i = 0; st == MPCC_OK && i < n; i++) {
    s[i] = (Symbol){(uint32_t)t->byte[word[i]], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    if (t->byte[word[i]] < 0)
      st = convert_fail(e, MPCC_ERR_DATA, "the tokenizer has no token for byte 0x%02x", word[i]);
  }
  if (st == MPCC_OK && !merge_symbols(t, s, (int32_t)n))
    st = no_memory(e);
  for (int32_t i = 0; st == MPCC_OK && i >= 0; i = s[i].after)
    if (!tokens_add(out, s[i].id))
      st = no_memory(e);
  free(s);
  return st;
}

/* The token of a whole word in the byte alphabet; -1: none, -2: out of memory. */
static int64_t whole_word(const Tokenizer *t, const uint8_t *word, size_t n) {
  size_t len = 0;
  if (n > t->longest)
    return -1;
  char *text = malloc(2 * n);
  if (!text)
    return -2;
  for (size_t i = 0; i < n; i++)
    len += (size_t)put_utf8(text + len, byte_char(word[i]));
  const Word *w = words_get(&t->vocab, text, len);
  free(text);
  return w ? (int64_t)w->value : -1;
}

static Status encode_word(Tokenizer *t, const uint8_t *word, size_t n, Tokens *out,
                          ConvertError *e) {
  const Word *known = words_get(&t->cache, word, n);
  if (known) {
    for (uint32_t i = 0; i < known->count; i++)
      if (!tokens_add(out, t->cached.id[known->value + i]))
        return no_memory(e);
    return MPCC_OK;
  }
  size_t before = out->n;
  int64_t whole = t->ignore_merges ? whole_word(t, word, n) : -1;
  Status st = MPCC_OK;
  if (whole == -2)
    return no_memory(e);
  if (whole >= 0)
    st = tokens_add(out, (uint32_t)whole) ? MPCC_OK : no_memory(e);
  else
    st = merge_word(t, word, n, out, e);
  if (st != MPCC_OK || n > MAX_CACHED_BYTES || t->cache.n >= MAX_CACHED)
    return st;
  size_t first = t->cached.n;
  for (size_t i = before; i < out->n; i++)
    if (!tokens_add(&t->cached, out->id[i]))
      return no_memory(e);
  Word *w = words_put(&t->cache, word, n);
  if (!w)
    return no_memory(e);
  w->value = (uint32_t)first;
  w->count = (uint32_t)(out->n - before);
  return MPCC_OK;
}

/* ---- a text ---- */

typedef struct {
  Tokenizer *t;
  Tokens *out;
} Encoding;

static Status word_tokens(void *user, const uint8_t *word, size_t n, ConvertError *e) {
  const Encoding *x = user;
  return encode_word(x->t, word, n, x->out, e);
}

static bool is_word_at(const uint8_t *p, const uint8_t *end) {
  int n;
  return p < end && unicode_is_word((uint32_t)utf8_next(p, end, &n));
}

static bool is_word_before(const uint8_t *begin, const uint8_t *p, const uint8_t *end) {
  const uint8_t *q = p;
  do
    q -= q > begin;
  while (q > begin && *q >> 6 == 2);
  return p > begin && is_word_at(q, end);
}

/* The longest added token at p of those that normalized or raw text is searched for; NULL: none. */
static const Added *added_at(const Tokenizer *t, bool normalized, const uint8_t *p,
                             const uint8_t *end) {
  for (int i = 0; i < t->nadded; i++) {
    const Added *a = &t->added[i];
    if (a->normalized == normalized && (size_t)(end - p) >= a->len &&
        !memcmp(p, a->content, a->len))
      return a;
  }
  return NULL;
}

/* Where the spaces before p begin. */
static const uint8_t *back_over_spaces(const uint8_t *begin, const uint8_t *p) {
  while (p > begin) {
    const uint8_t *q = p - 1;
    int n;
    while (q > begin && *q >> 6 == 2)
      q--;
    if (!unicode_is_space((uint32_t)utf8_next(q, p, &n)))
      break;
    p = q;
  }
  return p;
}

static const uint8_t *over_spaces(const uint8_t *p, const uint8_t *end) {
  int n;
  while (p < end && unicode_is_space((uint32_t)utf8_next(p, end, &n)))
    p += n;
  return p;
}

static Status check_utf8(const uint8_t *text, size_t bytes, ConvertError *e) {
  int n;
  for (const uint8_t *p = text; p < text + bytes; p += n)
    if (utf8_next(p, text + bytes, &n) < 0)
      return convert_fail(e, MPCC_ERR_DATA, "byte %zu (0x%02x) is not UTF-8", (size_t)(p - text),
                          *p);
  return MPCC_OK;
}

/* Tokens of text between added ones that raw text was searched for. */
static Status encode_normalized(Encoding *x, const uint8_t *p, size_t n, ConvertError *e);

/* Added tokens of one kind, and what lies between them. */
static Status encode_around(Encoding *x, bool normalized, const uint8_t *text, size_t bytes,
                            ConvertError *e) {
  const Tokenizer *t = x->t;
  const uint8_t *end = text + bytes, *from = text, *p = text;
  bool starts[256] = {false};
  Status st = MPCC_OK;
  for (int i = 0; i < t->nadded; i++)
    starts[(uint8_t)t->added[i].content[0]] |= t->added[i].normalized == normalized;
  while (st == MPCC_OK && from < end) {
    const Added *a = NULL;
    for (; p < end && !a; p += !a)
      a = starts[*p] ? added_at(t, normalized, p, end) : NULL;
    if (a && a->single_word && (is_word_before(text, p, end) || is_word_at(p + a->len, end))) {
      p += a->len;
      continue;
    }
    const uint8_t *stop = a && a->lstrip ? back_over_spaces(from, p) : p;
    if (stop > from && normalized)
      st = pretokenizer_run(t->pretokenizer, from, (size_t)(stop - from), word_tokens, x, e);
    else if (stop > from)
      st = encode_normalized(x, from, (size_t)(stop - from), e);
    if (a && st == MPCC_OK && !tokens_add(x->out, a->id))
      st = no_memory(e);
    p += a ? a->len : 0;
    from = p = a && a->rstrip ? over_spaces(p, end) : p;
  }
  return st;
}

static Status encode_normalized(Encoding *x, const uint8_t *p, size_t n, ConvertError *e) {
  uint8_t *form;
  size_t bytes;
  if (x->t->form == FORM_NONE)
    return encode_around(x, true, p, n, e);
  Status st = unicode_normalize(x->t->form, p, n, &form, &bytes, e);
  if (st == MPCC_OK)
    st = encode_around(x, true, form, bytes, e);
  free(form);
  return st;
}

Status tokenizer_encode(Tokenizer *t, const uint8_t *text, size_t bytes, Tokens *out,
                        ConvertError *e) {
  Encoding x = {t, out};
  Status st = check_utf8(text, bytes, e);
  return st == MPCC_OK ? encode_around(&x, false, text, bytes, e) : st;
}
