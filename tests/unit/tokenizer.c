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
  ck_assert_int_ge(count, 170);
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
  refused("{\"normalizer\": {\"type\": \"Lowercase\"}}", "type Lowercase is not supported yet");
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

/* The message for a Sequence of these steps. */
static void steps_refused(const char *steps, const char *want) {
  char json[400];
  snprintf(json, sizeof json,
           "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [%s]}}", steps);
  refused(json, want);
}

static void pattern_refused(const char *pattern, const char *want) {
  char steps[300];
  json_t *text = json_string(pattern);
  char *quoted = json_dumps(text, JSON_ENCODE_ANY);
  snprintf(steps, sizeof steps,
           "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": %s}}, {}",
           quoted);
  steps_refused(steps, want);
  free(quoted);
  json_decref(text);
}

START_TEST(pretokenizers) {
#define LAST ", {\"type\": \"ByteLevel\"}"
  steps_refused("", "the Sequence is empty");
  steps_refused("{\"type\": \"ByteLevel\"}" LAST, "pretokenizers[0] of type ByteLevel");
  steps_refused("{\"type\": \"Digits\"}", "pretokenizers[0] of type Digits");
  steps_refused("{\"type\": \"Split\"}" LAST, "neither a Regex nor a String");
  steps_refused("{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, "
                "\"behavior\": \"MergedWithNext\"}" LAST,
                "pretokenizers[0]: behavior MergedWithNext is not supported yet");
  pattern_refused("ab\\w", "pretokenizers[0]: '\\w' at byte 2 of the pattern 'ab\\w'");
  pattern_refused("\\p{N}{1,3}+", "'{1,3}+' at byte 5");
  pattern_refused("a{,3}", "'{' at byte 1");
  pattern_refused("[a[b]]", "'[' at byte 2");
  pattern_refused("[a&&b]", "'&&' at byte 2");
  pattern_refused("[]a]", "'[]' at byte 0");
  pattern_refused("(?<x>a)", "'(?<' at byte 0");
  pattern_refused("(*UTF)a", "'(*' at byte 0");
  pattern_refused("a$", "'$' at byte 1");
  pattern_refused("[\\S]", "'\\S' at byte 1");
  pattern_refused("\\p{x", "'\\p' at byte 0");
  pattern_refused("a\\", "'\\' at byte 1");
  pattern_refused("\\p{Nope}", "is not supported: unknown property");
  pattern_refused("(a", "is not supported: missing closing parenthesis");
  pattern_refused("[a", "is not supported: missing terminating ]");
  pattern_refused("a", "pretokenizers[1] of type null"); /* the pattern is fine */
}
END_TEST

/* A pattern that tries for ever is given up in words. */
START_TEST(pattern_gives_up) {
  const char *json =
      "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
      "\"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": "
      "\"(?:[ab]|[ac])+[de]f\"}}" LAST "]}, \"model\": {\"type\": \"BPE\", \"vocab\": "
      "{\"a\": 0}, \"merges\": []}}";
  Tokenizer *t;
  Tokens out = {0};
  ConvertError e;
  char text[65];
  ck_assert_msg(tokenizer_create(json, strlen(json), &t, &e) == MPCC_OK, "%s", e.text);
  memset(text, 'a', sizeof text);
  text[63] = 'f'; /* without it the library sees at once that there is no match */
  ck_assert_int_eq(tokenizer_encode(t, (uint8_t *)text, 64, &out, &e), MPCC_ERR_DATA);
  ck_assert_msg(strstr(e.text, "match limit exceeded") != NULL, "%s", e.text);
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
  tcase_add_test(tc, pretokenizers);
  tcase_add_test(tc, pattern_gives_up);
  tcase_add_test(tc, long_words);
  suite_add_tcase(s, tc);
  return check_run(s);
}
