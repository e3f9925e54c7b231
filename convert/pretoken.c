/* UTF-8, classes of code points, and the pieces that GPT-2's pattern cuts a text into. */
#include <string.h>

#include "convert/convert.h"

typedef struct {
  uint32_t first, last;
} Range;

enum { IS_L, IS_N, IS_S };
static const struct {
  int cls;
  Range r;
} table[] = {
#define RANGE(cls, first, last) {IS_##cls, {first, last}},
#include "convert/unicode.def"
#undef RANGE
};
enum { ROWS = sizeof table / sizeof *table };

/* Rows of a class lie together, rising. */
static bool is(int cls, uint32_t c) {
  int lo = 0, hi = ROWS;
  while (lo < hi) { /* the first row behind (cls, c) */
    int mid = (lo + hi) / 2;
    if (table[mid].cls < cls || (table[mid].cls == cls && table[mid].r.first <= c))
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo > 0 && table[lo - 1].cls == cls && c <= table[lo - 1].r.last;
}

bool unicode_is_space(uint32_t c) {
  return is(IS_S, c);
}

int32_t utf8_next(const uint8_t *p, const uint8_t *end, int *n) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  int len = *p < 0x80 ? 1 : *p >> 5 == 6 ? 2 : *p >> 4 == 14 ? 3 : *p >> 3 == 30 ? 4 : 0;
  *n = 1;
  if (!len || end - p < len)
    return -1;
  uint32_t c = len == 1 ? *p : *p & (0x7fu >> len);
  for (int i = 1; i < len; i++) {
    if (p[i] >> 6 != 2)
      return -1;
    c = c << 6 | (p[i] & 63u);
  }
  if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
    return -1;
  *n = len;
  return (int32_t)c;
}

/* Class of the code point at p: letter, number, space or -1 for the rest. */
static int class_of(const uint8_t *p, const uint8_t *end, int *n) {
  uint32_t c = (uint32_t)utf8_next(p, end, n);
  for (int k = IS_L; k <= IS_S; k++)
    if (is(k, c))
      return k;
  return -1;
}

static size_t contraction(const uint8_t *p, const uint8_t *end) {
  static const char *const words[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    size_t n = strlen(words[i]);
    if ((size_t)(end - p) >= n && !memcmp(p, words[i], n))
      return n;
  }
  return 0;
}

/* Spaces: all of them at the end of the text, else all but the last, which the next piece may want.
 */
static size_t spaces(const uint8_t *p, const uint8_t *end) {
  const uint8_t *at = p, *last = p;
  int n;
  while (at < end && class_of(at, end, &n) == IS_S) {
    last = at;
    at += n;
  }
  return (size_t)((at == end || last == p ? at : last) - p);
}

size_t pretoken_gpt2(const uint8_t *p, const uint8_t *end) {
  size_t word = contraction(p, end);
  if (word)
    return word;
  int n, k;
  const uint8_t *at = p + (*p == ' ' && end - p > 1);
  int cls = class_of(at, end, &n);
  if (cls == IS_S)
    return spaces(p, end);
  while (at < end && (k = class_of(at, end, &n)) == cls)
    at += n;
  return (size_t)(at - p);
}
