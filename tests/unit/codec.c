/* Image codecs beside Pillow's decoding of the same files (tests/data/images), damaged files, and
 * folders of classes. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/data/data.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

#define IMAGES SOURCE_DIR "/tests/data/images"

static const char *const files[] = {"j420.jpg",   "j444.jpg",  "jprogressive.jpg", "jgrey.jpeg",
                                    "jcmyk.jpg",  "prgb.png",  "pgrey.png",        "pbits.png",
                                    "ppalette.png", "palpha.png", "p16.png", "pinterlaced.png"};
enum { NFILES = sizeof files / sizeof *files };

static size_t read_file(const char *name, uint8_t *to, size_t cap) {
  char path[300];
  snprintf(path, sizeof path, IMAGES "/%s", name);
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "%s", path);
  size_t n = fread(to, 1, cap, f);
  fclose(f);
  return n;
}

START_TEST(as_pillow) {
  mprt_image image = {0};
  for (int i = 0; i < NFILES; i++) {
    uint8_t data[4096], want[4096];
    char name[60];
    size_t n = read_file(files[i], data, sizeof data);
    snprintf(name, sizeof name, "%.*s.rgb", (int)strcspn(files[i], "."), files[i]);
    read_file(name, want, sizeof want);
    ck_assert_msg(mprt_decode_image(data, n, &image), "%s: %s", files[i], image.message);
    int w, h, at;
    ck_assert_int_eq(sscanf((char *)want, "%d %d%n", &w, &h, &at), 2);
    ck_assert_int_eq(image.width, w);
    ck_assert_int_eq(image.height, h);
    for (int k = 0; k < w * h; k++)
      for (int c = 0; c < 3; c++)
        ck_assert_msg(image.pixels[c * w * h + k] == want[at + 1 + 3 * k + c],
                      "%s, pixel %d, colour %d: %d, Pillow has %d", files[i], k, c,
                      image.pixels[c * w * h + k], want[at + 1 + 3 * k + c]);
  }
  free(image.pixels);
}
END_TEST

/* Files cut short are refused in words; with bits changed they are refused or decoded. */
START_TEST(damaged) {
  mprt_image image = {0};
  for (int i = 0; i < NFILES; i++) {
    uint8_t data[4096];
    size_t n = read_file(files[i], data, sizeof data);
    for (size_t keep = 0; keep + 14 < n; keep++) { /* JPEG: the last block may lie in the rest */
      uint8_t *cut = malloc(keep + 1);
      memcpy(cut, data, keep);
      ck_assert_msg(!mprt_decode_image(cut, keep, &image), "%s cut to %zu bytes", files[i], keep);
      ck_assert_msg(*image.message, "%s cut to %zu bytes: no words", files[i], keep);
      free(cut);
    }
    for (size_t at = 0; at < n; at++) {
      data[at] ^= (uint8_t)(1 << at % 8);
      bool ok = mprt_decode_image(data, n, &image);
      ck_assert(ok || *image.message);
      data[at] ^= (uint8_t)(1 << at % 8);
    }
  }
  free(image.pixels);
}
END_TEST

/* ---- folders ---- */

static char dir[40];

static void put(const char *path, const char *image) {
  char to[100];
  uint8_t data[4096];
  size_t n = image ? read_file(image, data, sizeof data) : 0;
  snprintf(to, sizeof to, "%s/%s", dir, path);
  for (char *p = to + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
    *p = 0;
    mkdir(to, 0700);
    *p = '/';
  }
  FILE *f = fopen(to, "wb");
  ck_assert(f != NULL);
  ck_assert_uint_eq(fwrite(data, 1, n, f), n);
  fclose(f);
}

static void setup(void) {
  strcpy(dir, "/tmp/mpcc-folder-XXXXXX");
  ck_assert(mkdtemp(dir) != NULL);
}

static void remove_all(const char *path) {
  DIR *d = opendir(path);
  struct dirent *e;
  while (d && (e = readdir(d))) {
    char below[300];
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
      continue;
    snprintf(below, sizeof below, "%s/%.200s", path, e->d_name);
    if (unlink(below))
      remove_all(below);
  }
  if (d)
    closedir(d);
  rmdir(path);
}

static void teardown(void) {
  remove_all(dir);
}

static Status open_folder(mprt_decode_fn *decode, TestLog *log, mprt__dataset **out) {
  mprt_callbacks cb = {.log = test_log, .user = log};
  json_t *config = json_pack("{s:s}", "path", dir);
  mprt__data_source s = {
      .split = "train", .config = config, .dir = "", .cb = &cb, .decode = decode};
  test_log_clear(log);
  Status st = mprt__folder_open(&s, out);
  json_decref(config);
  return st;
}

START_TEST(folders) {
  TestLog log;
  mprt__dataset *d;
  ck_assert_int_eq(open_folder(mprt_decode_image, &log, &d), MPCC_ERR_DATA);
  ck_assert_msg(strstr(log.text, "one per class") != NULL, "%s", log.text);
  put("dog/b.PNG", "prgb.png");
  put("dog/a.jpg", "j420.jpg");
  put("dog/notes.txt", NULL);
  put("cat/z/a.jpeg", "jgrey.jpeg");
  put("cat/y.jpg", "j444.jpg");
  put("top.jpg", "j444.jpg"); /* of no class */
  ck_assert_int_eq(open_folder(NULL, &log, &d), MPCC_ERR_TARGET);
  ck_assert_msg(strstr(log.text, "without image codecs") != NULL, "%s", log.text);
  ck_assert_int_eq(open_folder(mprt_decode_image, &log, &d), MPCC_OK);
  static const char *const order[] = {"cat/y.jpg", "cat/z/a.jpeg", "dog/a.jpg", "dog/b.PNG"};
  mprt__reader r;
  mprt_callbacks cb = {0};
  ck_assert_int_eq(d->nsample, 4);
  ck_assert_int_eq(mprt__reader_init(&r, d, &cb), MPCC_OK);
  for (int i = 0; i < 4; i++) {
    char place[200];
    d->where(d, &r, i, 0, 0, place, sizeof place);
    ck_assert_str_eq(place + strlen(dir) + 1, order[i]);
    ck_assert_ptr_nonnull(d->read(d, &r, i, 0));
    ck_assert_int_eq(r.size[0], 19);
    ck_assert_int_eq(r.size[1], 23);
    ck_assert_int_eq(*(const int64_t *)d->read(d, &r, i, 1), i / 2);
  }
  put("dog/a.jpg", NULL); /* empty from now on */
  ck_assert_ptr_null(d->read(d, &r, 2, 0));
  ck_assert(r.corrupt);
  ck_assert_msg(strstr(r.message, "dog/a.jpg: neither JPEG nor PNG") != NULL, "%s", r.message);
  mprt__reader_fini(&r);
  mprt__data_close(d);
  put("empty/readme", NULL);
  ck_assert_int_eq(open_folder(mprt_decode_image, &log, &d), MPCC_ERR_DATA);
  ck_assert_msg(strstr(log.text, "empty: has no .jpg") != NULL, "%s", log.text);
}
END_TEST

int main(void) {
  Suite *s = suite_create("codec");
  TCase *tc = tcase_create("codec");
  tcase_set_timeout(tc, 120);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_add_test(tc, as_pillow);
  tcase_add_test(tc, damaged);
  tcase_add_test(tc, folders);
  suite_add_tcase(s, tc);
  return check_run(s);
}
