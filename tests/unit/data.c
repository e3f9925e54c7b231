/* Data sets and loader: damaged IDX files, parts of a split, the order of samples. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/data/data.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

/* ---- files ----------------------------------------------------------------------------------- */

static char dir[32];

static void setup(void) {
  strcpy(dir, "/tmp/mpcc-data-XXXXXX");
  ck_assert(mkdtemp(dir) != NULL);
}

static void teardown(void) {
  static const char *const names[] = {"images", "labels"};
  for (int i = 0; i < 2; i++) {
    char path[64];
    snprintf(path, sizeof path, "%s/%s", dir, names[i]);
    unlink(path);
  }
  rmdir(dir);
}

static void put(const char *name, const void *data, size_t n) {
  char path[64];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "wb");
  ck_assert(f != NULL);
  ck_assert_uint_eq(fwrite(data, 1, n, f), n);
  fclose(f);
}

enum { N = 10, H = 3, W = 2, IMAGES_BYTES = 16 + N * H * W, LABELS_BYTES = 8 + N };

static size_t images(uint8_t *to) {
  const uint8_t head[16] = {0, 0, 8, 3, 0, 0, 0, N, 0, 0, 0, H, 0, 0, 0, W};
  memcpy(to, head, sizeof head);
  for (int i = 0; i < N * H * W; i++)
    to[16 + i] = (uint8_t)(i * 5);
  return IMAGES_BYTES;
}

static size_t labels(uint8_t *to, int n) {
  const uint8_t head[8] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)n};
  memcpy(to, head, sizeof head);
  for (int i = 0; i < n; i++)
    to[8 + i] = (uint8_t)i;
  return 8 + (size_t)n;
}

static Status open_idx(TestLog *log, mprt__dataset **out) {
  mprt_callbacks cb = {.log = test_log, .user = log};
  json_t *config = json_loads("{\"images\": \"images\", \"labels\": \"labels\"}", 0, NULL);
  mprt__data_source s = {.split = "train", .config = config, .dir = dir, .cb = &cb};
  test_log_clear(log);
  Status st = mprt__idx_open(&s, out);
  json_decref(config);
  return st;
}

/* Opens what lies there: either every byte of it can be read, or one error tells why not. */
static bool try_idx(void) {
  TestLog log;
  mprt__dataset *d;
  Status st = open_idx(&log, &d);
  ck_assert_int_eq(st == MPCC_OK, d != NULL);
  ck_assert_int_eq(log.errors, st != MPCC_OK);
  if (!d)
    return false;
  unsigned sum = 0;
  mprt__reader r = {0};
  for (int64_t i = 0; i < d->nsample; i++)
    for (int f = 0; f < d->nfield; f++) {
      const uint8_t *p = d->read(d, &r, i, f);
      for (int64_t k = 0; k < d->field[f].elems; k++)
        sum += p[k];
    }
  ck_assert_uint_lt(sum, 1u << 30);
  mprt__data_close(d);
  return true;
}

/* Every file cut at every length is refused; with any bit of its header changed it is refused, or
 * read within bounds. */
static void damage(const char *name, const uint8_t *good, size_t n, size_t header) {
  uint8_t *bad = malloc(n);
  for (size_t keep = 0; keep < n; keep++) {
    put(name, good, keep);
    ck_assert_msg(!try_idx(), "%s cut to %zu bytes is accepted", name, keep);
  }
  for (size_t at = 0; at < header; at++)
    for (int bit = 0; bit < 8; bit++) {
      memcpy(bad, good, n);
      bad[at] ^= (uint8_t)(1 << bit);
      put(name, bad, n);
      try_idx();
    }
  put(name, good, n);
  ck_assert(try_idx());
  free(bad);
}

START_TEST(damaged_plain) {
  uint8_t a[IMAGES_BYTES], b[LABELS_BYTES];
  put("images", a, images(a));
  put("labels", b, labels(b, N));
  ck_assert(try_idx());
  damage("images", a, sizeof a, 16);
  damage("labels", b, sizeof b, 8);
}
END_TEST

/* The bytes of a gzip file with `data` in it. */
static size_t zipped(const uint8_t *data, size_t n, uint8_t *to, size_t cap) {
  z_stream z = {
      .next_in = (Bytef *)data, .avail_in = (uInt)n, .next_out = to, .avail_out = (uInt)cap};
  ck_assert_int_eq(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
  size_t total = z.total_out;
  deflateEnd(&z);
  return total;
}

START_TEST(damaged_gzip) {
  uint8_t a[IMAGES_BYTES], b[LABELS_BYTES], z[4096];
  put("images", a, images(a));
  put("labels", b, labels(b, N));
  size_t n = zipped(a, sizeof a, z, sizeof z);
  put("images", z, n);
  ck_assert(try_idx());
  damage("images", z, n, n);
  /* a changed bit of the compressed data or its checksum is always noticed; the last byte before
   * the checksum ends in padding that nobody reads */
  for (size_t at = 10; at < n; at++) {
    if (at == n - 9)
      continue;
    z[at] ^= 4;
    put("images", z, n);
    ck_assert_msg(!try_idx(), "bit flip at %zu is accepted", at);
    z[at] ^= 4;
  }
  /* members one behind the other are one stream */
  n = zipped(a, 21, z, sizeof z);
  n += zipped(a + 21, sizeof a - 21, z + n, sizeof z - n);
  put("images", z, n);
  ck_assert(try_idx());
  /* well packed, but less than the header inside promises; or nothing at all */
  for (size_t keep = 0; keep < sizeof a; keep++) {
    put("images", z, zipped(a, keep, z, sizeof z));
    ck_assert_msg(!try_idx(), "%zu bytes inside are accepted", keep);
  }
}
END_TEST

/* ---- parts of a split ------------------------------------------------------------------------ */

static mprt_program *open_spec(const char *spec) {
  mprt_program *p = calloc(1, sizeof *p);
  mprt_options_default(&p->options);
  p->options.data_dir = dir;
  p->spec = json_loads(spec, 0, NULL);
  ck_assert(p->spec != NULL);
  return p;
}

static void count_labels(mprt_program *p, const char *split, int *seen, int64_t expected) {
  mprt__dataset *d;
  ck_assert_int_eq(mprt__data_open(p, split, &d), MPCC_OK);
  ck_assert_int_eq(d->nsample, expected);
  mprt__reader r = {0};
  for (int64_t i = 0; i < d->nsample; i++)
    seen[*(const uint8_t *)d->read(d, &r, i, 1)]++;
  mprt__data_close(d);
}

START_TEST(parts_are_disjoint_and_complete) {
  enum { MANY = 200 };
  static const double fractions[] = {0.005, 0.1, 0.25, 0.5, 0.995};
  uint8_t *a = calloc(1, 16 + MANY), b[8 + MANY];
  const uint8_t head[16] = {0, 0, 8, 3, 0, 0, 0, MANY, 0, 0, 0, 1, 0, 0, 0, 1};
  memcpy(a, head, sizeof head);
  put("images", a, 16 + MANY);
  put("labels", b, labels(b, MANY));
  free(a);
  int first_val[MANY] = {0};
  for (size_t k = 0; k < sizeof fractions / sizeof *fractions; k++)
    for (int seed = 0; seed < 3; seed++) {
      char spec[400];
      snprintf(spec, sizeof spec,
               "{\"data\": {\"train\": {\"format\": \"idx\", \"images\": \"images\", \"labels\": "
               "\"labels\"}, \"val\": {\"from\": \"train\", \"fraction\": %g, \"seed\": %d}}}",
               fractions[k], seed);
      mprt_program *p = open_spec(spec);
      int train[MANY] = {0}, val[MANY] = {0}, again[MANY] = {0};
      int64_t taken = (int64_t)(fractions[k] * MANY + 0.5);
      count_labels(p, "train", train, MANY - taken);
      count_labels(p, "val", val, taken);
      count_labels(p, "val", again, taken);
      for (int i = 0; i < MANY; i++)
        ck_assert_msg(train[i] + val[i] == 1, "sample %d: %d times in train, %d in val", i,
                      train[i], val[i]);
      ck_assert(!memcmp(val, again, sizeof val));
      if (k == 2 && seed == 0)
        memcpy(first_val, val, sizeof val);
      if (k == 2 && seed == 1) /* the seed decides */
        ck_assert(memcmp(val, first_val, sizeof val));
      json_decref(p->spec);
      free(p);
    }
}
END_TEST

/* train, the part taken out of it and a split of the same files read one copy of the bytes; another
 * folder is another copy, and what nobody uses is gone. */
START_TEST(same_files_are_read_once) {
  uint8_t a[IMAGES_BYTES], b[LABELS_BYTES];
  put("images", a, images(a));
  put("labels", b, labels(b, N));
  mprt_program *p = open_spec(
      "{\"data\": {\"train\": {\"format\": \"idx\", \"images\": \"images\", \"labels\": "
      "\"labels\"},"
      "\"val\": {\"from\": \"train\", \"fraction\": 0.5},"
      "\"test\": {\"format\": \"idx\", \"images\": \"images\", \"labels\": \"./labels\"}}}");
  mprt__dataset *train, *val, *again, *test;
  ck_assert_int_eq(mprt__data_open(p, "train", &train), MPCC_OK);
  ck_assert_int_eq(mprt__data_open(p, "val", &val), MPCC_OK);
  ck_assert_int_eq(mprt__data_open(p, "train", &again), MPCC_OK);
  ck_assert_int_eq(mprt__data_open(p, "test", &test), MPCC_OK);
  mprt__reader r = {0};
  const uint8_t *first = train->read(train, &r, 0, 0), *other = val->read(val, &r, 0, 0);
  ck_assert_ptr_eq(first, again->read(again, &r, 0, 0));
  ck_assert((size_t)(first - other + IMAGES_BYTES) < 2 * IMAGES_BYTES);
  ck_assert(memcmp(first, other, H * W));
  mprt__data_close(again);
  mprt__data_close(train);
  ck_assert_uint_eq(*other % 5, 0); /* val keeps what it shares */
  ck_assert_ptr_eq(other, val->read(val, &r, 0, 0));
  mprt__data_close(test);
  ck_assert_ptr_nonnull(p->sources);
  mprt__data_close(val);
  ck_assert_ptr_null(p->sources);
  json_decref(p->spec);
  free(p);
}
END_TEST

/* ---- the order of samples -------------------------------------------------------------------- */

/* A data set of numbers for the inputs of lr_image: x is the sample's number five times. */
enum { SAMPLES = 150, FEATURES = 5 };

typedef struct {
  mprt__dataset base;
  int64_t broken; /* a sample that cannot be read; -1: none */
} Numbers;

static const void *numbers_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  float *value = r->scratch;
  (void)f;
  if (i == ((const Numbers *)d)->broken) {
    r->error = MPCC_ERR_DATA;
    snprintf(r->message, sizeof r->message, "sample %d is broken", (int)i);
    return NULL;
  }
  for (int k = 0; k < FEATURES; k++)
    value[k] = (float)i;
  return value;
}

static Numbers numbers(void) {
  Numbers n = {.broken = -1};
  n.base = (mprt__dataset){.nsample = SAMPLES,
                           .nfield = 2,
                           .scratch_bytes = FEATURES * sizeof(float),
                           .read = numbers_read};
  n.base.field[0] = (mprt__field){"x", MPCC_F32, 1, {FEATURES}, FEATURES};
  n.base.field[1] = (mprt__field){"y", MPCC_F32, 0, {0}, 1};
  return n;
}

enum { BATCHES = 12 };

typedef struct {
  int64_t valid[BATCHES], epoch[BATCHES], sample[BATCHES];
  float y[BATCHES][LR_N];
} Seen;

static int workers = 1;

static void load(mprt_program *p, Seen *s, bool shuffle, bool drop_last, int prefetch, int from) {
  Numbers data = numbers();
  mprt__loader_options o = {.data = &data.base,
                            .split = "train",
                            .shuffle = shuffle,
                            .drop_last = drop_last,
                            .batch = LR_N,
                            .seed = 5,
                            .endless = true,
                            .prefetch = prefetch,
                            .workers = workers};
  if (from) { /* go on behind that batch */
    int64_t n = SAMPLES, end = drop_last ? n / LR_N * LR_N : n;
    bool over = s->sample[from - 1] >= end;
    o.epoch = s->epoch[from - 1] + over;
    o.sample = over ? 0 : s->sample[from - 1];
  }
  mprt__loader *l;
  ck_assert_int_eq(mprt__loader_create(p, &o, &l), MPCC_OK);
  mprt_tensor y;
  ck_assert(mprt_find(p, "io.y", &y));
  for (int i = from; i < BATCHES; i++) {
    double waited;
    ck_assert_int_eq(mprt__loader_next(l, &s->valid[i], &s->epoch[i], &s->sample[i], &waited),
                     MPCC_OK);
    memcpy(s->y[i], y.data, sizeof s->y[i]);
  }
  mprt__loader_destroy(l);
}

START_TEST(order_is_the_seed_s) {
  size_t kernels_bytes, bytes;
  void *kernels = ti_kernels(&kernels_bytes);
  void *image =
      lr_image(&(LrOptions){FEATURES, .kernels = kernels, .kernels_bytes = kernels_bytes}, &bytes);
  mprt_program *p;
  mprt_callbacks cb = {0};
  mprt_options o;
  mprt_options_default(&o);
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  for (int mode = 0; mode < 4; mode++) {
    bool shuffle = mode & 1, drop = mode & 2;
    Seen want, got;
    memset(&want, 0, sizeof want);
    load(p, &want, shuffle, drop, 1, 0);
    for (int prefetch = 2; prefetch < 8; prefetch++) { /* batches made ahead do not matter */
      memset(&got, 0, sizeof got);
      workers = 1 + prefetch % 4; /* nor do threads */
      load(p, &got, shuffle, drop, prefetch, 0);
      ck_assert_msg(!memcmp(&want, &got, sizeof want), "prefetch %d gives another order", prefetch);
    }
    for (int from = 1; from < BATCHES; from++) { /* nor does beginning in the middle */
      got = want;
      memset(got.y[from], 0xff, sizeof got.y[0] * (size_t)(BATCHES - from));
      load(p, &got, shuffle, drop, 2, from);
      ck_assert_msg(!memcmp(&want, &got, sizeof want), "begun at batch %d: another order", from);
    }
    /* every epoch has every sample once, padding is zero, and epochs differ when shuffled */
    int per_epoch = drop ? SAMPLES / LR_N : (SAMPLES + LR_N - 1) / LR_N;
    int seen[SAMPLES] = {0};
    for (int i = 0; i < per_epoch; i++) {
      ck_assert_int_eq(want.epoch[i], 0);
      for (int k = 0; k < LR_N; k++) {
        if (k < want.valid[i])
          seen[(int)want.y[i][k]]++;
        else
          ck_assert_float_eq(want.y[i][k], 0);
      }
    }
    int total = 0;
    for (int i = 0; i < SAMPLES; i++) {
      ck_assert_int_le(seen[i], 1);
      total += seen[i];
    }
    ck_assert_int_eq(total, drop ? per_epoch * LR_N : SAMPLES);
    ck_assert_int_eq(want.epoch[per_epoch], 1);
    ck_assert_int_eq(memcmp(want.y[0], want.y[per_epoch], sizeof want.y[0]) != 0, shuffle);
  }
  mprt_close(p);
  free(image);
  free(kernels);
}
END_TEST

/* Batches before a sample that cannot be read are delivered, then its message is. */
START_TEST(broken_sample) {
  size_t kernels_bytes, bytes;
  void *kernels = ti_kernels(&kernels_bytes);
  void *image =
      lr_image(&(LrOptions){FEATURES, .kernels = kernels, .kernels_bytes = kernels_bytes}, &bytes);
  mprt_program *p;
  TestLog log;
  test_log_clear(&log);
  mprt_callbacks cb = {.log = test_log, .user = &log};
  mprt_options o;
  mprt_options_default(&o);
  ck_assert_int_eq(mprt_open(image, bytes, &o, &cb, &p), MPCC_OK);
  Numbers data = numbers();
  data.broken = LR_N;
  mprt__loader_options lo = {.data = &data.base, .split = "train", .batch = LR_N, .prefetch = 3};
  mprt__loader *l;
  ck_assert_int_eq(mprt__loader_create(p, &lo, &l), MPCC_OK);
  int64_t valid, epoch, sample;
  double waited;
  ck_assert_int_eq(mprt__loader_next(l, &valid, &epoch, &sample, &waited), MPCC_OK);
  ck_assert_int_eq(valid, LR_N);
  ck_assert_int_eq(mprt__loader_next(l, &valid, &epoch, &sample, &waited), MPCC_ERR_DATA);
  ck_assert_msg(strstr(log.text, "sample 64 is broken") != NULL, "%s", log.text);
  mprt__loader_destroy(l);
  mprt_close(p);
  free(image);
  free(kernels);
}
END_TEST

START_TEST(shuffle_is_fair) {
  enum { PLACES = 6, TRIES = 60000 };
  static int count[PLACES][PLACES];
  memset(count, 0, sizeof count);
  for (int t = 0; t < TRIES; t++) {
    int64_t order[PLACES];
    for (int i = 0; i < PLACES; i++)
      order[i] = i;
    mprt__shuffle(order, PLACES, 17, t);
    for (int i = 0; i < PLACES; i++)
      count[i][order[i]]++;
  }
  /* each of 36 counts is binomial with mean 10 000 and deviation 91: five of them are never passed
   */
  for (int i = 0; i < PLACES; i++)
    for (int k = 0; k < PLACES; k++)
      ck_assert_int_le(abs(count[i][k] - TRIES / PLACES), 5 * 91);
}
END_TEST

int main(void) {
  Suite *s = suite_create("data");
  TCase *tc = tcase_create("data");
  tcase_set_timeout(tc, 120);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, damaged_plain);
  tcase_add_test(tc, damaged_gzip);
  tcase_add_test(tc, parts_are_disjoint_and_complete);
  tcase_add_test(tc, same_files_are_read_once);
  tcase_add_test(tc, broken_sample);
  tcase_add_test(tc, order_is_the_seed_s);
  tcase_add_test(tc, shuffle_is_fair);
  suite_add_tcase(s, tc);
  return check_run(s);
}
