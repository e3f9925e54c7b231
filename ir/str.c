/* Interned strings, and the text buffer in which all output is made. */
#include "ir/ir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What lies in front of each text of the table. */
typedef struct {
  uint64_t hash, len;
} StrHead;

struct StrTable {
  Arena *arena;
  size_t count, cap; /* cap: power of two, at least twice count */
  struct StrSlot {
    Str text;
    uint64_t hash;
  } * slot;
};

/* What a failed table gives. */
static const struct {
  StrHead head;
  char text[sizeof(StrHead)];
} empty;

static const StrHead *head_of(Str s) {
  return (const StrHead *)(const void *)s - 1;
}

uint64_t str_hash(Str s) {
  return head_of(s)->hash;
}

/* Eight bytes at a time; the order of slots shows nowhere. */
static uint64_t hash_bytes(const char *s, size_t len) {
  uint64_t h = len;
  for (; len > 0; s += 8) {
    uint64_t word = 0;
    memcpy(&word, s, len < 8 ? len : 8);
    h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 32;
    len -= len < 8 ? len : 8;
  }
  return h;
}

StrTable *str_table_create(Arena *a) {
  StrTable *t = ARENA_NEW(a, StrTable);
  t->arena = a;
  t->cap = 256;
  t->slot = ARENA_ARRAY(a, struct StrSlot, t->cap);
  return t;
}

bool str_table_failed(const StrTable *t) {
  return arena_failed(t->arena);
}

static bool grow(StrTable *t) {
  size_t cap = t->cap * 2;
  struct StrSlot *slot = ARENA_ARRAY(t->arena, struct StrSlot, cap);
  if (arena_failed(t->arena))
    return false;
  for (size_t i = 0; i < t->cap; i++) {
    if (!t->slot[i].text)
      continue;
    size_t at = t->slot[i].hash & (cap - 1);
    while (slot[at].text)
      at = (at + 1) & (cap - 1);
    slot[at] = t->slot[i];
  }
  t->slot = slot;
  t->cap = cap;
  return true;
}

Str str_intern(StrTable *t, const char *text, size_t len) {
  /* After a failure the table may lie in scratch memory: leave it alone. */
  if (arena_failed(t->arena))
    return empty.text;
  uint64_t hash = hash_bytes(text, len);
  size_t at = hash & (t->cap - 1);
  for (; t->slot[at].text; at = (at + 1) & (t->cap - 1))
    if (t->slot[at].hash == hash && head_of(t->slot[at].text)->len == len &&
        !memcmp(t->slot[at].text, text, len))
      return t->slot[at].text;
  if (len > SIZE_MAX - sizeof(StrHead) - 1)
    arena_fail(t->arena);
  StrHead *head = arena_alloc(t->arena, sizeof *head + len + 1);
  if (arena_failed(t->arena))
    return empty.text;
  *head = (StrHead){hash, len};
  char *copy = (char *)(head + 1);
  memcpy(copy, text, len);
  t->slot[at] = (struct StrSlot){copy, hash};
  if (++t->count * 2 > t->cap && !grow(t))
    return empty.text;
  return copy;
}

Str str_c(StrTable *t, const char *text) {
  return str_intern(t, text, strlen(text));
}

Str str_vfmt(StrTable *t, const char *fmt, va_list ap) {
  char brief[160];
  va_list again;
  va_copy(again, ap);
  int n = vsnprintf(brief, sizeof brief, fmt, again);
  va_end(again);
  if (n >= 0 && (size_t)n < sizeof brief)
    return str_intern(t, brief, (size_t)n);
  Text x = {0};
  text_vprintf(&x, fmt, ap);
  if (x.failed)
    arena_fail(t->arena);
  Str s = str_intern(t, x.data ? x.data : "", x.len);
  text_fini(&x);
  return s;
}

Str str_fmt(StrTable *t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  Str s = str_vfmt(t, fmt, ap);
  va_end(ap);
  return s;
}

void text_fini(Text *t) {
  free(t->data);
  *t = (Text){0};
}

/* Room for `more` bytes and the terminating zero. */
static bool text_room(Text *t, size_t more) {
  if (t->failed)
    return false;
  if (t->data && t->cap - t->len > more)
    return true;
  size_t cap = t->cap ? t->cap : 64;
  while (cap - t->len <= more && cap <= SIZE_MAX / 2)
    cap *= 2;
  char *data = cap - t->len > more && !arena_injected_failure() ? realloc(t->data, cap) : NULL;
  if (!data) {
    t->failed = true;
    return false;
  }
  t->data = data;
  t->cap = cap;
  return true;
}

void text_put(Text *t, const char *s, size_t len) {
  if (!text_room(t, len))
    return;
  memcpy(t->data + t->len, s, len);
  t->len += len;
  t->data[t->len] = 0;
}

void text_puts(Text *t, const char *s) {
  text_put(t, s, strlen(s));
}

void text_vprintf(Text *t, const char *fmt, va_list ap) {
  va_list again;
  va_copy(again, ap);
  if (text_room(t, 80)) {
    size_t room = t->cap - t->len;
    int n = vsnprintf(t->data + t->len, room, fmt, ap);
    if (n >= 0 && (size_t)n >= room && text_room(t, (size_t)n))
      n = vsnprintf(t->data + t->len, (size_t)n + 1, fmt, again);
    if (n < 0)
      t->failed = true;
    if (!t->failed)
      t->len += (size_t)n;
    t->data[t->len] = 0;
  }
  va_end(again);
}

void text_printf(Text *t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  text_vprintf(t, fmt, ap);
  va_end(ap);
}

void text_int(Text *t, int64_t v) {
  char s[24];
  size_t at = sizeof s;
  uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
  do
    s[--at] = (char)('0' + u % 10);
  while (u /= 10);
  if (v < 0)
    s[--at] = '-';
  text_put(t, s + at, sizeof s - at);
}

void text_double(Text *t, double v) {
  if (isnan(v)) {
    text_puts(t, signbit(v) ? "-nan" : "nan");
    return;
  }
  if (isinf(v)) {
    text_puts(t, v < 0 ? "-inf" : "inf");
    return;
  }
  char s[40];
  /* 15 digits always survive the way back, except for subnormals, which have fewer. */
  for (int digits = fabs(v) < 0x1p-1022 ? 1 : 15; digits <= 17; digits++) {
    snprintf(s, sizeof s, "%.*g", digits, v);
    if (strtod(s, NULL) == v)
      break;
  }
  text_puts(t, s);
}

/* Bytes of the UTF-8 sequence at s (Unicode 15, table 3-7), or 0 when it is none. */
size_t utf8_length(const unsigned char *s) {
  if (s[0] < 0x80)
    return 1;
  const size_t n = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
  for (size_t i = 1; i < n; i++)
    if ((s[i] & 0xC0) != 0x80)
      return 0;
  /* overlong forms, surrogates, beyond U+10FFFF */
  if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
      (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
    return 0;
  return n;
}

void text_json(Text *t, const char *s) {
  text_puts(t, "\"");
  while (*s) {
    size_t plain = 0; /* bytes that stand for themselves */
    while (s[plain] >= 0x20 && s[plain] < 0x7F && s[plain] != '"' && s[plain] != '\\')
      plain++;
    text_put(t, s, plain);
    s += plain;
    if (!*s)
      break;
    const unsigned char c = (unsigned char)*s;
    const size_t n = utf8_length((const unsigned char *)s);
    if (c == '"' || c == '\\')
      text_printf(t, "\\%c", c);
    else if (c == '\n')
      text_puts(t, "\\n");
    else if (c < 0x20 || c == 0x7F)
      text_printf(t, "\\u%04x", c);
    else if (!n)
      text_puts(t, "\xEF\xBF\xBD"); /* U+FFFD */
    else
      text_put(t, s, n);
    s += n ? n : 1;
  }
  text_puts(t, "\"");
}
