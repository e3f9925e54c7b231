/* events.out.tfevents.*: records decoded by a reader of their own, CRCs checked. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report/report.h"
#include "tests/check_run.h"

static char dir[] = "/tmp/mpcc-tfevents-XXXXXX";

/* Values of RFC 3720, B.4. */
START_TEST(crc_is_castagnoli_s) {
  unsigned char zeros[32] = {0}, ones[32], rising[32];
  memset(ones, 0xff, sizeof ones);
  for (int i = 0; i < 32; i++)
    rising[i] = (unsigned char)i;
  ck_assert_uint_eq(tfevents_crc32c(zeros, 32), 0x8a9136aa);
  ck_assert_uint_eq(tfevents_crc32c(ones, 32), 0x62a8ab43);
  ck_assert_uint_eq(tfevents_crc32c(rising, 32), 0x46dd794e);
  ck_assert_uint_eq(tfevents_crc32c("123456789", 9), 0xe3069283);
}
END_TEST

/* ---- a reader ---- */

typedef struct {
  const unsigned char *p, *end;
} In;

static uint64_t le(In *in, int bytes) {
  uint64_t v = 0;
  ck_assert(in->end - in->p >= bytes);
  for (int i = 0; i < bytes; i++)
    v |= (uint64_t)*in->p++ << 8 * i;
  return v;
}

static uint64_t varint(In *in) {
  uint64_t v = 0;
  for (int shift = 0;; shift += 7) {
    ck_assert(in->p < in->end && shift < 64);
    v |= (uint64_t)(*in->p & 0x7f) << shift;
    if (!(*in->p++ & 0x80))
      return v;
  }
}

static uint32_t unmask(uint64_t m) {
  uint32_t r = (uint32_t)m - UINT32_C(0xa282ead8);
  return r >> 17 | r << 15;
}

/* One record's bytes, both CRCs checked; false at the end. */
static bool record(In *in, In *out) {
  if (in->p == in->end)
    return false;
  const unsigned char *head = in->p;
  uint64_t n = le(in, 8);
  ck_assert_uint_eq(unmask(le(in, 4)), tfevents_crc32c(head, 8));
  ck_assert((uint64_t)(in->end - in->p) >= n);
  *out = (In){in->p, in->p + n};
  in->p += n;
  ck_assert_uint_eq(unmask(le(in, 4)), tfevents_crc32c(out->p, n));
  return true;
}

typedef struct {
  double wall;
  int64_t step;
  char version[40], tag[80];
  float value;
  bool start;
} Event;

/* A field of a message: its number; payload in *sub or *value. */
static int field(In *in, In *sub, uint64_t *value) {
  uint64_t key = varint(in);
  switch (key & 7) {
  case 0: *value = varint(in); break;
  case 1: *value = le(in, 8); break;
  case 5: *value = le(in, 4); break;
  case 2: {
    uint64_t n = varint(in);
    ck_assert((uint64_t)(in->end - in->p) >= n);
    *sub = (In){in->p, in->p + n};
    in->p += n;
    break;
  }
  default: ck_abort_msg("wire type %d", (int)(key & 7));
  }
  return (int)(key >> 3);
}

static void text(In sub, char *out, size_t size) {
  snprintf(out, size, "%.*s", (int)(sub.end - sub.p), (const char *)sub.p);
}

static Event decode(In in) {
  Event e = {.step = -1};
  while (in.p < in.end) {
    In sub = {0}, value = {0};
    uint64_t v = 0;
    switch (field(&in, &sub, &v)) {
    case 1: memcpy(&e.wall, &v, 8); break;
    case 2: e.step = (int64_t)v; break;
    case 3: text(sub, e.version, sizeof e.version); break;
    case 7: e.start = sub.end - sub.p == 2 && sub.p[0] == 8 && sub.p[1] == 1; break;
    case 5:
      ck_assert_int_eq(field(&sub, &value, &v), 1);
      while (value.p < value.end) {
        In name = {0};
        if (field(&value, &name, &v) == 1) {
          text(name, e.tag, sizeof e.tag);
        } else {
          uint32_t bits = (uint32_t)v;
          memcpy(&e.value, &bits, 4);
        }
      }
      break;
    default: ck_abort_msg("a field nobody wrote");
    }
  }
  return e;
}

/* Events of the newest file in dir. */
static int read_events(Event *out, int max) {
  char name[300] = "", path[400];
  DIR *d = opendir(dir);
  for (struct dirent *e; (e = readdir(d));)
    if (strstr(e->d_name, "tfevents") && strcmp(e->d_name, name) > 0)
      snprintf(name, sizeof name, "%s", e->d_name);
  closedir(d);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "rb");
  ck_assert(f != NULL);
  static unsigned char data[1 << 16];
  In in = {data, data + fread(data, 1, sizeof data, f)}, bytes;
  fclose(f);
  int n = 0;
  while (n < max && record(&in, &bytes))
    out[n++] = decode(bytes);
  ck_assert(in.p == in.end);
  return n;
}

static void clear_folder(void) {
  DIR *d = opendir(dir);
  char path[400];
  for (struct dirent *e; (e = readdir(d));) {
    snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    unlink(path);
  }
  closedir(d);
  rmdir(dir);
}

START_TEST(records_decode) {
  static const mprt_metric metric[2] = {{"acc", 0.5, 0, NULL}, {"f1", NAN, 0, NULL}};
  Event e[32];
  char error[400];
  strcpy(dir + sizeof dir - 7, "XXXXXX");
  ck_assert(mkdtemp(dir) != NULL);
  mprt_event start = {.kind = MPRT_EVENT_START, .path = dir};
  FILE *f = tfevents_open(&start, error, sizeof error);
  ck_assert_msg(f != NULL, "%s", error);
  mprt_event step = {.kind = MPRT_EVENT_STEP, .step = 300, .loss = 2.25, .lr = 1e-3, .grad_norm = INFINITY,
                     .scale = 65536, .nmetric = 2, .metric = metric, .samples_per_s = 10};
  mprt_event eval = {.kind = MPRT_EVENT_EVAL, .split = "val", .step = 300, .loss = 1.5};
  tfevents_row(f, &step);
  tfevents_row(f, &eval);
  fclose(f);
  int n = read_events(e, 32);
  ck_assert_int_eq(n, 10);
  ck_assert_str_eq(e[0].version, "brain.Event:2");
  ck_assert(e[0].wall > 1.6e9 && e[0].step == 0);
  static const struct {
    const char *tag;
    float value;
  } want[] = {{"train/loss", 2.25f}, {"train/acc", 0.5f}, {"train/lr", 1e-3f},
              {"train/grad_norm", INFINITY}, {"train/scale", 65536}, {"train/skipped", 0},
              {"train/throughput", 10}, {"train/epoch", 0}, {"val/loss", 1.5f}};
  for (int i = 1; i < n; i++) {
    ck_assert_str_eq(e[i].tag, want[i - 1].tag);
    ck_assert(e[i].value == want[i - 1].value && e[i].step == 300 && !e[i].start);
  }
  start.step = 300; /* a resumed run */
  f = tfevents_open(&start, error, sizeof error);
  ck_assert_msg(f != NULL, "%s", error);
  fclose(f);
  ck_assert_int_eq(read_events(e, 32), 2);
  ck_assert(e[1].start && e[1].step == 301);
  clear_folder();
  ck_assert(tfevents_open(&start, error, sizeof error) == NULL); /* no folder */
  ck_assert(strstr(error, "cannot write") != NULL);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("tfevents");
  TCase *t = tcase_create("tfevents");
  tcase_add_test(t, crc_is_castagnoli_s);
  tcase_add_test(t, records_decode);
  suite_add_tcase(suite, t);
  return check_run(suite);
}
