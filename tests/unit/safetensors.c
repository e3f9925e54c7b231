/* safetensors: what is written reads back; one result per content; headers that lie are refused. */
#include <unistd.h>

#include "mpcc/num.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

static TestLog words;
static const mprt_callbacks callbacks = {.log = test_log, .user = &words};
static char dir[] = "/tmp/mpcc-st-XXXXXX", path[64];

static void setup(void) {
  strcpy(dir, "/tmp/mpcc-st-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/a.safetensors", dir);
  test_log_clear(&words);
}

static void teardown(void) {
  mprt__dir_remove(dir);
}

static const float values[6] = {0.5f, -1.5f, 3.140625f, 1e-3f, 65536.0f, -0.0f};
static const int64_t two_three[2] = {2, 3}, six = 6, none = 0;
static const int64_t counter = 1234567890123;

static size_t sample_items(mprt__st_item *it) {
  it[0] = (mprt__st_item){"b.half", MPCC_F32, MPCC_F16, 1, &six, values};
  it[1] = (mprt__st_item){"a.weight", MPCC_F32, MPCC_F32, 2, two_three, values};
  it[2] = (mprt__st_item){"count", MPCC_I64, MPCC_I64, 0, NULL, &counter};
  it[3] = (mprt__st_item){"byte", MPCC_F32, MPCC_E4M3, 1, &six, values};
  it[4] = (mprt__st_item){"empty", MPCC_F32, MPCC_F32, 1, &none, values};
  it[5] = (mprt__st_item){"wide", MPCC_F32, MPCC_F64, 1, &six, values};
  return 6;
}

START_TEST(round_trip) {
  mprt__st_item it[8];
  mprt__st_file f;
  size_t n = sample_items(it);
  ck_assert_int_eq(mprt__st_write(path, it, n, NULL, &callbacks), MPCC_OK);
  ck_assert_msg(mprt__st_open(path, &callbacks, &f) == MPCC_OK, "%s", words.text);
  ck_assert_uint_eq(f.ntensor, n);
  for (size_t i = 0; i < n; i++) {
    const mprt__st_tensor *t = mprt__st_find(&f, it[i].name);
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(t->dtype, it[i].file_dtype);
    ck_assert_int_eq(t->rank, it[i].rank);
    ck_assert_uint_eq(t->begin % dtype_bytes(t->dtype), 0);
    uint8_t back[64] = {0};
    ck_assert_int_eq(mprt__st_read(&f, t, it[i].dtype, back, &callbacks), MPCC_OK);
    for (int64_t k = 0; k < (it[i].rank ? (it[i].dim[0] ? 6 : 0) : 1); k++) {
      if (it[i].dtype == MPCC_I64)
        ck_assert_mem_eq(back, &counter, 8);
      else
        ck_assert_double_eq(num_load(back + 4 * k, MPCC_F32),
                            num_round((double)values[k], it[i].file_dtype));
    }
  }
  ck_assert_ptr_null(mprt__st_find(&f, "nothing"));
  int64_t sink;
  ck_assert_int_eq(mprt__st_read(&f, mprt__st_find(&f, "count"), MPCC_F32, &sink, &callbacks),
                   MPCC_ERR_DATA);
  mprt__st_close(&f);
}
END_TEST

START_TEST(same_content_same_bytes) {
  mprt__st_item it[8], back[8];
  size_t n = sample_items(it), m, k;
  json_t *metadata = json_pack("{s:s}", "format", "pt");
  ck_assert_int_eq(mprt__st_write(path, it, n, metadata, &callbacks), MPCC_OK);
  uint8_t *first = ti_read(path, &m);
  for (size_t i = 0; i < n; i++)
    back[i] = it[n - 1 - i];
  ck_assert_int_eq(mprt__st_write(path, back, n, metadata, &callbacks), MPCC_OK);
  uint8_t *second = ti_read(path, &k);
  ck_assert_uint_eq(m, k);
  ck_assert_mem_eq(first, second, m);
  /* Header: length little endian, data at a multiple of 64, rows by falling element size. */
  uint64_t header;
  memcpy(&header, first, 8);
  ck_assert_uint_eq((header + 8) % 64, 0);
  ck_assert(strncmp((char *)first + 8,
                    "{\"__metadata__\":{\"format\":\"pt\"},\"count\":{\"dtype\":\"I64\",\"shape\":["
                    "],\"data_offsets\":[0,8]}",
                    80) == 0);
  json_decref(metadata);
  free(first);
  free(second);
}
END_TEST

START_TEST(large_tensors_convert_in_pieces) {
  int64_t n = 300001;
  float *big = malloc((size_t)n * 4), *back = malloc((size_t)n * 4);
  for (int64_t i = 0; i < n; i++)
    big[i] = (float)(i % 2048) - 1000.0f;
  mprt__st_item it = {"big", MPCC_F32, MPCC_BF16, 1, &n, big};
  mprt__st_file f;
  ck_assert_int_eq(mprt__st_write(path, &it, 1, NULL, &callbacks), MPCC_OK);
  ck_assert_int_eq(mprt__st_open(path, &callbacks, &f), MPCC_OK);
  ck_assert_uint_eq(f.tensor[0].bytes, (size_t)n * 2);
  ck_assert_int_eq(mprt__st_read(&f, &f.tensor[0], MPCC_F32, back, &callbacks), MPCC_OK);
  for (int64_t i = 0; i < n; i++)
    ck_assert_msg((double)back[i] == num_round((double)big[i], MPCC_BF16), "%lld", (long long)i);
  mprt__st_close(&f);
  free(big);
  free(back);
}
END_TEST

/* A file of a header text and `data` bytes of zeros. */
static Status open_text(const char *header, size_t data) {
  FILE *f = fopen(path, "wb");
  uint64_t n = strlen(header);
  fwrite(&n, 8, 1, f);
  fwrite(header, 1, n, f);
  for (size_t i = 0; i < data; i++)
    fputc(0, f);
  fclose(f);
  mprt__st_file st;
  test_log_clear(&words);
  Status s = mprt__st_open(path, &callbacks, &st);
  mprt__st_close(&st);
  return s;
}

static void refused(const char *header, size_t data, const char *want) {
  ck_assert_msg(open_text(header, data) == MPCC_ERR_DATA, "%s", header);
  ck_assert_msg(strstr(words.text, want) && strstr(words.text, path), "%s: %s", header, words.text);
}

#define T(dtype, shape, range)                                                                     \
  "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}"

START_TEST(headers_that_lie) {
  ck_assert_int_eq(open_text("{\"a\":" T("F32", "[2]", "[0,8]") "}", 8), MPCC_OK);
  ck_assert_int_eq(open_text("{\"a\":" T("F32", "[2]", "[0,8]") "}    ", 8), MPCC_OK);
  ck_assert_int_eq(open_text("{}", 0), MPCC_OK);
  ck_assert_int_eq(open_text("{\"a\":" T("I16", "[4]", "[0,8]") "}", 8), MPCC_OK);
  refused("{\"a\":", 8, "header is not JSON: byte 13");
  refused("\xff\xfe", 8, "header is not JSON");
  refused("[]", 0, "not a JSON object");
  refused("{\"a\":1}", 0, "'a': has no dtype");
  refused("{\"a\":{}}", 0, "'a': has no dtype");
  refused("{\"a\":" T("F33", "[2]", "[0,8]") "}", 8, "'a': unknown dtype 'F33'");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") "}", 7, "ends at byte 8 of the data, the file has 7");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") "}", 9, "1 bytes behind the last tensor");
  refused("{\"a\":" T("F32", "[3]", "[0,8]") "}", 8, "has 8 bytes, its shape needs 12");
  refused("{\"a\":" T("F32", "[-2]", "[0,8]") "}", 8, "shape");
  refused("{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "shape");
  refused("{\"a\":" T("F32", "[4611686018427387904,4]", "[0,0]") "}", 0, "shape");
  refused("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "shape");
  refused("{\"a\":" T("F32", "2", "[0,8]") "}", 8, "shape");
  refused("{\"a\":" T("F32", "[2]", "[8,0]") "}", 8, "data_offsets");
  refused("{\"a\":" T("F32", "[2]", "[0,8,9]") "}", 8, "data_offsets");
  refused("{\"a\":" T("F32", "[2]", "[-8,0]") "}", 8, "data_offsets");
  refused("{\"a\":" T("F32", "[2]", "[0,1e1]") "}", 8, "data_offsets");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[4,12]") "}", 12,
          "'b': its data overlaps");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[0,8]") "}", 8,
          "its data overlaps");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[12,16]") "}", 16,
          "'b': there is a hole");
  refused("{\"a\":" T("F32", "[2]", "[0,8]") ",\"a\":" T("F32", "[2]", "[0,8]") "}", 8,
          "duplicate");
  refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
  refused("{\"__metadata__\":[]}", 0, "__metadata__");
}
END_TEST

START_TEST(every_truncation_is_refused) {
  mprt__st_item it[8];
  mprt__st_file f;
  size_t n = sample_items(it), bytes;
  ck_assert_int_eq(mprt__st_write(path, it, n, NULL, &callbacks), MPCC_OK);
  void *whole = ti_read(path, &bytes);
  for (size_t k = bytes; k-- > 0;) {
    ck_assert_int_eq(truncate(path, (off_t)k), 0);
    ck_assert_msg(mprt__st_open(path, &callbacks, &f) == MPCC_ERR_DATA, "%zu bytes", k);
  }
  free(whole);
}
END_TEST

START_TEST(flipped_headers_never_read_outside) {
  mprt__st_item it[8];
  size_t n = sample_items(it), bytes;
  ck_assert_int_eq(mprt__st_write(path, it, n, NULL, &callbacks), MPCC_OK);
  uint8_t *whole = ti_read(path, &bytes);
  uint64_t header;
  memcpy(&header, whole, 8);
  for (size_t i = 0; i < 8 + header; i++)
    for (int m = 0; m < 2; m++) {
      mprt__st_file f;
      uint8_t before = whole[i];
      whole[i] ^= m ? 0x10 : 0x01;
      FILE *out = fopen(path, "wb");
      fwrite(whole, 1, bytes, out);
      fclose(out);
      Status s = mprt__st_open(path, NULL, &f);
      ck_assert(s == MPCC_OK || s == MPCC_ERR_DATA);
      for (size_t k = 0; k < f.ntensor; k++) {
        double sink[16];
        ck_assert_uint_le(f.tensor[k].bytes, sizeof sink);
        if (f.tensor[k].dtype != MPCC_DTYPE_COUNT)
          ck_assert_int_eq(mprt__st_read(&f, &f.tensor[k], f.tensor[k].dtype, sink, NULL), MPCC_OK);
      }
      mprt__st_close(&f);
      whole[i] = before;
    }
  free(whole);
}
END_TEST

START_TEST(files_that_are_none) {
  mprt__st_file f;
  ck_assert_int_eq(mprt__st_open("/nowhere/x", &callbacks, &f), MPCC_ERR_FILE);
  ck_assert_ptr_nonnull(strstr(words.text, "cannot read /nowhere/x: No such file"));
  ck_assert_int_eq(mprt__st_open(dir, &callbacks, &f), MPCC_ERR_FILE);
  ck_assert_ptr_nonnull(strstr(words.text, "not a regular file"));
  mprt__st_item it[8];
  ck_assert_int_eq(mprt__st_write("/nowhere/x", it, sample_items(it), NULL, &callbacks),
                   MPCC_ERR_FILE);
}
END_TEST

int main(void) {
  TCase *t = tcase_create("safetensors");
  tcase_set_timeout(t, 120);
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_test(t, round_trip);
  tcase_add_test(t, same_content_same_bytes);
  tcase_add_test(t, large_tensors_convert_in_pieces);
  tcase_add_test(t, headers_that_lie);
  tcase_add_test(t, every_truncation_is_refused);
  tcase_add_test(t, flipped_headers_never_read_outside);
  tcase_add_test(t, files_that_are_none);
  Suite *s = suite_create("safetensors");
  suite_add_tcase(s, t);
  return check_run(s);
}
