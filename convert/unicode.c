/* UTF-8, classes of code points, and normal forms (Unicode's annex 15) through utf8proc. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "convert/convert.h"

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

bool unicode_is_space(uint32_t c) {
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (c >= '\t' && c <= '\r') || c == 0x85 || k == UTF8PROC_CATEGORY_ZS ||
         k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

bool unicode_is_word(uint32_t c) {
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
  case UTF8PROC_CATEGORY_MN:
  case UTF8PROC_CATEGORY_MC:
  case UTF8PROC_CATEGORY_ME:
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_PC:
    return true;
  default: /* joiners; letters in circles and squares */
    return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
  }
}

bool normal_form_find(const char *name, NormalForm *out) {
  static const char *const names[] = {"", "NFC", "NFD", "NFKC", "NFKD"};
  for (int i = FORM_NFC; i <= FORM_NFKD; i++)
    if (!strcmp(name, names[i])) {
      *out = (NormalForm)i;
      return true;
    }
  return false;
}

static bool is_ascii(const uint8_t *p, size_t n) {
  uint8_t any = 0;
  for (size_t i = 0; i < n; i++)
    any |= p[i];
  return any < 0x80;
}

static bool append(uint8_t **out, size_t *bytes, size_t *room, const void *p, size_t n) {
  if (*room - *bytes < n) {
    size_t more = *room + *room / 2 + n;
    uint8_t *q = realloc(*out, more);
    if (!q)
      return false;
    *out = q;
    *room = more;
  }
  memcpy(*out + *bytes, p, n);
  *bytes += n;
  return true;
}

/* Line by line, for lines of ASCII are normal and others may be taken by themselves: nothing is
 * composed with a line feed nor ordered across it. */
Status unicode_normalize(NormalForm form, const uint8_t *p, size_t n, uint8_t **out,
                         size_t *out_bytes, ConvertError *e) {
  static const utf8proc_option_t options[] = {[FORM_NFC] = UTF8PROC_COMPOSE,
                                              [FORM_NFD] = UTF8PROC_DECOMPOSE,
                                              [FORM_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                              [FORM_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
  size_t room = n + 1;
  const uint8_t *end = p + n;
  *out_bytes = 0;
  *out = malloc(room);
  Status st = *out ? MPCC_OK : MPCC_ERR_NOMEM;
  while (st == MPCC_OK && p < end) {
    const uint8_t *feed = memchr(p, '\n', (size_t)(end - p));
    size_t len = (size_t)((feed ? feed + 1 : end) - p);
    utf8proc_uint8_t *line = NULL;
    utf8proc_ssize_t got = (utf8proc_ssize_t)len;
    if (!is_ascii(p, len))
      got = utf8proc_map(p, (utf8proc_ssize_t)len, &line, UTF8PROC_STABLE | options[form]);
    if (got < 0)
      st = got == UTF8PROC_ERROR_NOMEM ? MPCC_ERR_NOMEM : MPCC_ERR_DATA;
    else if (!append(out, out_bytes, &room, line ? line : p, (size_t)got))
      st = MPCC_ERR_NOMEM;
    if (st == MPCC_ERR_DATA)
      convert_fail(e, st, "normalizer: %s", utf8proc_errmsg(got));
    free(line);
    p += len;
  }
  if (st == MPCC_ERR_NOMEM)
    convert_fail(e, st, "out of memory: normalizer");
  if (st != MPCC_OK) {
    free(*out);
    *out = NULL;
  }
  return st;
}
