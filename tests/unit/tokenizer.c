/* Tokens of texts beside those of Hugging Face's tokenizers (tests/data/tokenizer), and files that
 * are wrong. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "convert/convert.h"
#include "tests/check_run.h"

#define FOLDER SOURCE_DIR "/tests/data/tokenizer/"

static char *slurp(const char *name, size_t *n) {
  char path[300];
  snprintf(path, sizeof path, FOLDER "%s.json", name);
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "%s", path);
  char *text = calloc(1, 1 << 17);
  *n = fread(text, 1, 1 << 17, f);
  fclose(f);
  return text;
}

static Tokenizer *load(const char *name) {
  size_t n;
  char *text = slurp(name, &n);
  Tokenizer *t;
  ConvertError e;
  ck_assert_msg(tokenizer_create(text, n, &t, &e) == MPCC_OK, "%s: %s", name, e.text);
  free(text);
  return t;
}

START_TEST(as_hugging_face) {
  FILE *f = fopen(FOLDER "tokenizer.want", "r");
  ck_assert(f != NULL);
  char *line = NULL, *ids = NULL, current[40] = "";
  size_t cap = 0, ids_cap = 0;
  Tokenizer *t = NULL;
  int count = 0;
  while (getline(&line, &cap, f) > 0) {
    ck_assert(getline(&ids, &ids_cap, f) > 0);
    char name[40];
    ck_assert_int_eq(sscanf(line, "%39s", name), 1);
    if (strcmp(name, current)) {
      tokenizer_destroy(t);
      t = load(strcpy(current, name));
    }
    json_t *text = json_loads(strchr(line, '"'), JSON_DECODE_ANY, NULL);
    ck_assert(text != NULL);
    Tokens got = {0};
    ConvertError e = {{0}};
    ck_assert_msg(tokenizer_encode(t, (const uint8_t *)json_string_value(text),
                                   json_string_length(text), &got, &e) == MPCC_OK,
                  "%s", e.text);
    char *at = ids;
    for (size_t i = 0; i < got.n; i++) {
      char *end;
      long want = strtol(at, &end, 10);
      ck_assert_msg(end != at && want == (long)got.id[i], "%stoken %zu is %u, not %ld", line, i,
                    got.id[i], want);
      at = end;
    }
    ck_assert_msg(strspn(at, " \n") == strlen(at), "%sonly %zu tokens, then: %s", line, got.n, at);
    tokens_fini(&got);
    json_decref(text);
    count++;
  }
  ck_assert_int_ge(count, 70);
  tokenizer_destroy(t);
  free(line);
  free(ids);
  fclose(f);
}
END_TEST

static void refused(const char *json, const char *want) {
  Tokenizer *t;
  ConvertError e;
  ck_assert_int_eq(tokenizer_create(json, strlen(json), &t, &e), MPCC_ERR_DATA);
  ck_assert_ptr_null(t);
  ck_assert_msg(strstr(e.text, want) != NULL, "'%s' is not in: %s", want, e.text);
}

START_TEST(words) {
#define PRE "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}"
  refused("", "line 1");
  refused("[]", "not an object");
  refused("{\"a\": 1,\n \"a\": 2}", "line 2");
  refused("{}", "pre_tokenizer of type null");
  refused("{\"normalizer\": {\"type\": \"NFC\"}}", "a normalizer is not supported yet");
  refused("{\"pre_tokenizer\": {\"type\": \"Metaspace\"}}", "type Metaspace is not supported yet");
  refused("{" PRE "}", "has no model");
  refused("{" PRE ", \"model\": {\"type\": \"Unigram\"}}", "type Unigram is not supported yet");
  refused("{" PRE ", \"model\": {\"type\": \"BPE\", \"dropout\": 0.1}}", "model.dropout");
  refused("{" PRE ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}}}", "'a' has no token");
  refused("{" PRE ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 1}, \"merges\": [\"ab\"]}}",
          "entry 0 is no pair");
  refused("{" PRE ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 1}, \"merges\": [\"a b\"]}}",
          "entry 0, 'a b' and 'b': a part");
  refused("{" PRE ", \"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, "
          "\"added_tokens\": [{}]}",
          "entry 0 has no content");
  const char *small =
      "{" PRE ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}";
  Tokenizer *t;
  Tokens out = {0};
  ConvertError e;
  ck_assert_int_eq(tokenizer_create(small, strlen(small), &t, &e), MPCC_OK);
  ck_assert_int_eq(tokenizer_encode(t, (const uint8_t *)"ab", 2, &out, &e), MPCC_ERR_DATA);
  ck_assert_msg(strstr(e.text, "no token for byte 0x20") != NULL, "%s", e.text);
  ck_assert_int_eq(tokenizer_encode(t, (const uint8_t *)"a\xc3", 2, &out, &e), MPCC_ERR_DATA);
  ck_assert_msg(strstr(e.text, "byte 1 (0xc3) is not UTF-8") != NULL, "%s", e.text);
  tokens_fini(&out);
  tokenizer_destroy(t);
}
END_TEST

/* Pieces cover a text without gaps, whatever it is; a long word takes no long time. */
START_TEST(long_words) {
  enum { N = 300000 };
  Tokenizer *t = load("tokenizer");
  uint8_t *text = malloc(N);
  Tokens out = {0};
  ConvertError e;
  for (int i = 0; i < N; i++)
    text[i] = (uint8_t) "theofing"[i * 7 % 8];
  ck_assert_int_eq(tokenizer_encode(t, text, N, &out, &e), MPCC_OK);
  ck_assert_uint_gt(out.n, N / 8);
  ck_assert_int_eq(tokenizer_find(t, "<|endoftext|>"), 0);
  ck_assert_int_eq(tokenizer_find(t, "no such token"), -1);
  ck_assert_uint_eq(tokenizer_size(t), 500);
  tokens_fini(&out);
  free(text);
  tokenizer_destroy(t);
}
END_TEST

int main(void) {
  Suite *s = suite_create("tokenizer");
  TCase *tc = tcase_create("tokenizer");
  tcase_set_timeout(tc, 60);
  tcase_add_test(tc, as_hugging_face);
  tcase_add_test(tc, words);
  tcase_add_test(tc, long_words);
  suite_add_tcase(s, tc);
  return check_run(s);
}
