/* Data formats beside NumPy's reading of the same files (tests/data/readers), and damaged files. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpcc/num.h"
#include "runtime/data/data.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

#define READERS SOURCE_DIR "/tests/data/readers"

static const struct {
  const char *name;
  mprt__format_open *open;
} formats[] = {
#define FORMAT(name, open, doc) {name, open},
#include "runtime/data/formats.def"
#undef FORMAT
};

static mprt__format_open *format_of(const char *name) {
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (!strcmp(formats[i].name, name))
      return formats[i].open;
  ck_abort_msg("no format %s", name);
}

static Status open_config(const char *format, const char *config, const char *dir, TestLog *log,
                          mprt__dataset **out) {
  mprt_callbacks cb = {.log = test_log, .user = log};
  json_t *json = json_loads(config, 0, NULL);
  ck_assert_msg(json != NULL, "%s", config);
  mprt__data_source s = {.split = "train", .config = json, .dir = dir, .cb = &cb};
  test_log_clear(log);
  Status st = format_of(format)(&s, out);
  json_decref(json);
  ck_assert_int_eq(st == MPCC_OK, *out != NULL);
  return st;
}

/* ---- what NumPy reads ------------------------------------------------------------------------ */

static void check_field(const mprt__dataset *d, int f, const char *line, char *values) {
  char name[100], shape[100];
  long long samples;
  ck_assert_int_eq(sscanf(line, "field \"%99[^\n]", name), 1);
  char *quote = strrchr(name, '"'), got[100] = "-"; /* names may hold escaped quotes */
  ck_assert_int_eq(sscanf(quote + 1, "%lld %99s", &samples, shape), 2);
  const mprt__field *x = &d->field[f];
  ck_assert_int_eq(d->nsample, samples);
  for (int i = 0, n = 0; i < x->rank; i++)
    n += snprintf(got + n, sizeof got - (size_t)n, i ? ",%lld" : "%lld", (long long)x->dim[i]);
  ck_assert_str_eq(got, shape);
  mprt__reader r;
  mprt_callbacks cb = {0};
  ck_assert_int_eq(mprt__reader_init(&r, d, &cb), MPCC_OK);
  char *at = values;
  for (int64_t i = 0; i < d->nsample; i++) {
    const uint8_t *p = d->read(d, &r, i, f);
    ck_assert_msg(p != NULL, "%s", r.message);
    for (int64_t k = 0; k < x->elems; k++) {
      double want = strtod(at, &at),
             value = num_load(p + (size_t)k * dtype_bytes(x->dtype), x->dtype);
      ck_assert_msg(want == value, "%s, sample %d, element %d: %.17g, NumPy reads %.17g", line,
                    (int)i, (int)k, value, want);
    }
  }
  ck_assert_str_eq(at, "\n");
  mprt__reader_fini(&r);
}

START_TEST(as_numpy_reads) {
  FILE *f = fopen(READERS "/readers.want", "r");
  ck_assert(f != NULL);
  char *line = NULL, *values = NULL;
  size_t cap = 0, values_cap = 0;
  mprt__dataset *d = NULL;
  int field = 0, opened = 0;
  TestLog log;
  while (getline(&line, &cap, f) > 0) {
    char format[40];
    if (sscanf(line, "open %39s", format) == 1) {
      if (d)
        ck_assert_int_eq(field, d->nfield);
      mprt__data_close(d);
      ck_assert_msg(open_config(format, strchr(line, '{'), READERS, &log, &d) == MPCC_OK, "%s: %s",
                    line, log.text);
      field = 0;
      opened++;
    } else {
      ck_assert(getline(&values, &values_cap, f) > 0);
      check_field(d, field++, line, values);
    }
  }
  ck_assert_int_ge(opened, 24);
  mprt__data_close(d);
  free(line);
  free(values);
  fclose(f);
}
END_TEST

/* ---- damaged files --------------------------------------------------------------------------- */

static char dir[40];

static void setup(void) {
  strcpy(dir, "/dev/shm/mpcc-formats-XXXXXX"); /* thousands of small files */
  ck_assert(mkdtemp(dir) != NULL);
}

static void teardown(void) {
  char path[60];
  snprintf(path, sizeof path, "%s/file", dir);
  unlink(path);
  rmdir(dir);
}

static void put(const void *data, size_t n) {
  char path[60];
  snprintf(path, sizeof path, "%s/file", dir);
  FILE *f = fopen(path, "wb");
  ck_assert(f != NULL);
  ck_assert_uint_eq(fwrite(data, 1, n, f), n);
  fclose(f);
}

/* Opens what lies there: it is refused with one error, or all of it can be read. */
static bool try_file(const char *format, const char *config) {
  TestLog log;
  mprt__dataset *d;
  open_config(format, config, dir, &log, &d);
  ck_assert_int_eq(log.errors, d == NULL);
  if (!d)
    return false;
  mprt__reader r;
  mprt_callbacks cb = {0};
  ck_assert_int_eq(mprt__reader_init(&r, d, &cb), MPCC_OK);
  unsigned sum = 0;
  for (int64_t i = 0; i < d->nsample; i++)
    for (int f = 0; f < d->nfield; f++) {
      const uint8_t *p = d->read(d, &r, i, f);
      ck_assert_msg(p != NULL, "%s", r.message);
      for (size_t k = 0; k < (size_t)d->field[f].elems * dtype_bytes(d->field[f].dtype); k++)
        sum += p[k];
    }
  ck_assert_uint_lt(sum, 1u << 30);
  mprt__reader_fini(&r);
  mprt__data_close(d);
  return true;
}

START_TEST(damaged) {
  static const struct {
    const char *file, *format, *config;
    bool every_cut; /* each shorter file is refused */
  } cases[] = {
      {"type12.npy", "npy", "{\"files\": {\"x\": \"file\"}}", true},
      {"hwc.npy", "npy", "{\"files\": {\"image\": \"file\"}}", true},
      {"stored.npz", "npz", "{\"path\": \"file\"}", true},
      {"deflated.npz", "npz", "{\"path\": \"file\"}", true},
      {"table.csv", "csv", "{\"path\": \"file\"}", false},
      {"cifar10_a.bin", "cifar10-bin", "{\"path\": \"file\"}", false},
      {"llmc16_a.bin", "tokens-bin", "{\"path\": \"file\", \"sequence_length\": 4}", true},
  };
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    char path[300];
    uint8_t good[8192], bad[8192];
    snprintf(path, sizeof path, READERS "/%s", cases[c].file);
    FILE *f = fopen(path, "rb");
    ck_assert(f != NULL);
    size_t n = fread(good, 1, sizeof good, f);
    fclose(f);
    for (size_t keep = 0; keep<n; keep += n> 2000 ? 61 : 1) {
      put(good, keep);
      bool ok = try_file(cases[c].format, cases[c].config);
      ck_assert_msg(!ok || !cases[c].every_cut, "%s cut to %zu bytes is accepted", cases[c].file,
                    keep);
    }
    for (size_t at = 0; at < n && at < 1200; at++) {
      memcpy(bad, good, n);
      bad[at] ^= (uint8_t)(1 << at % 8);
      put(bad, n);
      try_file(cases[c].format, cases[c].config);
    }
    put(good, n);
    ck_assert(try_file(cases[c].format, cases[c].config));
  }
}
END_TEST

/* ---- words ----------------------------------------------------------------------------------- */

static void refused(const char *text, size_t n, const char *format, const char *config,
                    const char *want) {
  TestLog log;
  mprt__dataset *d;
  put(text, n);
  open_config(format, config, dir, &log, &d);
  ck_assert_ptr_null(d);
  ck_assert_msg(strstr(log.text, want) != NULL, "'%s' is not in: %s", want, log.text);
}

START_TEST(words) {
  const char *csv = "{\"path\": \"file\"}";
#define REFUSED(text, format, config, want) refused(text, sizeof text - 1, format, config, want)
  REFUSED("", "csv", csv, "file: is empty");
  REFUSED("a,b\n1,2\n3\n", "csv", csv, "file:3: too few cells, expected 2");
  REFUSED("a,b\n1,2\n\n3,4,5\n", "csv", csv, "file:4: too many cells, expected 2");
  REFUSED("a,b\n1,x\n", "csv", csv, "file:2: column 'b' is not a number: 'x'");
  REFUSED("a,b\n\"1\n2\",3\n1,\n", "csv", csv, "file:2: column 'a' is not a number");
  REFUSED("a,b\n1,2\n1,\n", "csv", csv, "file:3: column 'b' is empty");
  REFUSED("a,b\n1,-1e400\n", "csv", csv, "file:2: column 'b' is too large a number: '-1e400'");
  REFUSED("a,b\n1,0x10\n", "csv", csv, "is not a number");
  REFUSED("a,b\n1,\"2\n", "csv", csv, "a quote is never closed");
  REFUSED("a,b\n", "csv", csv, "no samples");
  REFUSED("a\0b\n", "csv", csv, "zero byte");
  REFUSED("abc", "cifar10-bin", csv, "3 bytes are not whole records of 3073");
  REFUSED("abc", "npz", csv, "not a .npz archive");
  REFUSED("abcdefghijkl", "npy", "{\"files\": {\"x\": \"file\"}}", "not a NumPy array");
  REFUSED("\x93NUMPY\x01\0\x3a\0{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }\n   ",
          "npy", "{\"files\": {\"x\": \"file\"}}", "'<c8' cannot be read");
  REFUSED("\x93NUMPY\x01\0\x3a\0{'descr': '<f4', 'fortran_order': True, 'shape': (3,1), }\n   ",
          "npy", "{\"files\": {\"x\": \"file\"}}", "truncated");
  REFUSED("\x93NUMPY\x01\0\x3a\0{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n", "npy",
          "{\"files\": {\"x\": \"file\"}}", "truncated");
  REFUSED("abc", "tokens-bin", "{\"path\": \"file\", \"sequence_length\": 4, \"header\": \"none\"}",
          "3 bytes are not whole tokens of 2 bytes");
  REFUSED("abc", "tokens-bin", "{\"path\": \"file\", \"sequence_length\": 4}", "no llm.c header");
  REFUSED("abcd", "tokens-bin",
          "{\"path\": \"file\", \"sequence_length\": 4, \"header\": \"none\"}",
          "no file has more than sequence_length = 4 tokens; all of them have 2");
  REFUSED("abcd", "text", "{\"path\": \"nothing*\", \"sequence_length\": 4}", "no file matches");
}
END_TEST

/* Random windows are a pure function of seed, epoch and number, and lie everywhere. */
START_TEST(random_windows) {
  TestLog log;
  mprt__dataset *d;
  char text[100];
  for (int i = 0; i < 100; i++)
    text[i] = (char)i;
  put(text, sizeof text);
  ck_assert_int_eq(open_config("text",
                               "{\"path\": \"file\", \"sequence_length\": 9, \"sampling\": "
                               "\"random\"}",
                               dir, &log, &d),
                   MPCC_OK);
  ck_assert_int_eq(d->nsample, 11);
  bool seen[100] = {0};
  int places = 0, again = 0;
  mprt__reader r = {.seed = 3};
  for (r.epoch = 0; r.epoch < 400; r.epoch++)
    for (int64_t i = 0; i < d->nsample; i++) {
      const uint8_t *x = d->read(d, &r, i, 0), *y = d->read(d, &r, i, 1);
      ck_assert_int_le(x[0], 90);
      for (int k = 0; k < 9; k++)
        ck_assert(x[k] == x[0] + k && y[k] == x[k] + 1);
      places += !seen[x[0]];
      seen[x[0]] = true;
      mprt__reader other = {.seed = 3, .epoch = r.epoch};
      ck_assert_ptr_eq(d->read(d, &other, i, 0), x);
      other.epoch++;
      again += d->read(d, &other, i, 0) == (const void *)x;
    }
  ck_assert_int_eq(places, 91);
  ck_assert_int_lt(again, 200);
  mprt__data_close(d);
}
END_TEST

int main(void) {
  Suite *s = suite_create("formats");
  TCase *tc = tcase_create("formats");
  tcase_set_timeout(tc, 120);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, as_numpy_reads);
  tcase_add_test(tc, damaged);
  tcase_add_test(tc, words);
  tcase_add_test(tc, random_windows);
  suite_add_tcase(s, tc);
  return check_run(s);
}
