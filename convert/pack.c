/* Token files: integers of 16 or 32 bits behind llm.c's header of 256 words, or bare. Source of the
 * header: llm.c, dev/data/data_common.py, write_datafile. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "convert/convert.h"

enum { MAGIC = 20240520, HEADER_BYTES = 1024 };

Status convert_fail(ConvertError *e, Status st, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(e->text, sizeof e->text, fmt, ap);
  va_end(ap);
  return st;
}

static void put_word(uint8_t *to, uint32_t v, int size) {
  for (int i = 0; i < size; i++)
    to[i] = (uint8_t)(v >> 8 * i);
}

Status token_file_create(TokenFile *t, const char *path, int size, bool header, ConvertError *e) {
  static const uint8_t zero[HEADER_BYTES];
  *t = (TokenFile){.f = fopen(path, "wb"), .size = size, .header = header};
  if (!t->f || (header && fwrite(zero, 1, sizeof zero, t->f) != sizeof zero))
    return convert_fail(e, MPCC_ERR_FILE, "cannot write '%s': %s", path, strerror(errno));
  return MPCC_OK;
}

Status token_file_put(TokenFile *t, const Tokens *tokens, ConvertError *e) {
  uint8_t buffer[4096];
  for (size_t i = 0; i < tokens->n;) {
    size_t n = 0;
    for (; i < tokens->n && n + 4 <= sizeof buffer; i++, n += (size_t)t->size) {
      if (t->size == 2 && tokens->id[i] > 65535)
        return convert_fail(e, MPCC_ERR_DATA,
                            "token %u does not fit into 16 bits; say --dtype=uint32",
                            tokens->id[i]);
      put_word(buffer + n, tokens->id[i], t->size);
    }
    if (fwrite(buffer, 1, n, t->f) != n)
      return convert_fail(e, MPCC_ERR_FILE, "cannot write: %s", strerror(errno));
  }
  t->count += tokens->n;
  return MPCC_OK;
}

Status token_file_close(TokenFile *t, ConvertError *e) {
  uint8_t head[12];
  Status st = MPCC_OK;
  if (!t->f)
    return st;
  put_word(head, MAGIC, 4);
  put_word(head + 4, t->size == 2 ? 1 : 7, 4);
  put_word(head + 8, (uint32_t)t->count, 4);
  bool bad = ferror(t->f) != 0;
  if (t->header && t->count > INT32_MAX)
    st = convert_fail(e, MPCC_ERR_DATA,
                      "%llu tokens are more than the header can count; say --header=none, or make "
                      "several files",
                      (unsigned long long)t->count);
  else if (t->header && !bad)
    bad = fseek(t->f, 0, SEEK_SET) || fwrite(head, 1, sizeof head, t->f) != sizeof head;
  bad = fclose(t->f) || bad;
  t->f = NULL;
  if (bad && st == MPCC_OK)
    st = convert_fail(e, MPCC_ERR_FILE, "cannot write: %s", strerror(errno));
  return st;
}
