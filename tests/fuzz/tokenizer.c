/* libFuzzer target for tokenizer.json and texts: the JSON, a zero byte, the text. Refused in words, or
 * the text is refused in words, or every token is below the tokenizer's size. */
#include "convert/convert.h"
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *zero = memchr(data, 0, size), *end = data + size;
  const uint8_t *text = zero ? zero + 1 : end;
  Tokenizer *t;
  ConvertError e = {{0}};
  Tokens out = {0};
  Status st = tokenizer_create((const char *)data, zero ? (size_t)(zero - data) : size, &t, &e);
  if ((st == MPCC_OK) != (t != NULL) || (st != MPCC_OK && !*e.text))
    abort();
  if (t) {
    st = tokenizer_encode(t, text, (size_t)(end - text), &out, &e);
    if (st != MPCC_OK && !*e.text)
      abort();
    for (size_t i = 0; i < out.n; i++)
      if (out.id[i] >= tokenizer_size(t))
        abort();
  }
  tokens_fini(&out);
  tokenizer_destroy(t);
  return 0;
}
