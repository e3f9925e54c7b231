/* Transforms beside torchvision's results (tests/data/transforms). What Pillow computes in integers
 * is equal to the bit; floats are as near as the rounding of different orders of summation. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/data/data.h"
#include "tests/check_run.h"
#include "tests/runtime/image.h"

enum { SEED = 5, EPOCH = 3 };

typedef struct {
  mprt__field field;
  uint8_t *image;
  json_t *list;
  char *line;
} Case;

static void read_case(Case *c, const char *line, char *values) {
  int channels, h, w, at;
  ck_assert_int_eq(sscanf(line, "case %d %d %d %n", &channels, &h, &w, &at), 3);
  json_decref(c->list);
  free(c->image);
  free(c->line);
  c->line = strdup(line);
  c->list = json_loads(line + at, 0, NULL);
  ck_assert(c->list != NULL);
  c->field = (mprt__field){"image", MPCC_U8, 3, {channels, h, w}, channels * h * w, false};
  c->image = malloc((size_t)c->field.elems);
  for (int64_t i = 0; i < c->field.elems; i++)
    c->image[i] = (uint8_t)strtol(values, &values, 10);
}

/* The case with bytes, or with the floats that ToTensor makes of them. */
static void check_sample(const Case *given, bool floats, DType to, const char *line, char *values) {
  Case copy = *given, *c = &copy;
  float *image = malloc((size_t)c->field.elems * sizeof *image);
  for (int64_t i = 0; i < c->field.elems; i++)
    image[i] = (float)c->image[i] / 255.0f;
  c->field.dtype = floats ? MPCC_F32 : MPCC_U8;
  int sample, h, w;
  ck_assert_int_eq(sscanf(line, "sample %d %d %d", &sample, &h, &w), 3);
  TestLog log = {0};
  mprt_callbacks cb = {.log = test_log, .user = &log};
  mprt__transform *t;
  mprt__field seen;
  ck_assert_msg(mprt__transform_create(&cb, c->list, &c->field, to, false, true, &t, &seen) ==
                    MPCC_OK,
                "%s: %s", c->line, log.text);
  ck_assert(mprt__transform_applies(t));
  ck_assert_int_eq(seen.dim[0], c->field.dim[0]);
  ck_assert_msg(seen.dim[1] == h && seen.dim[2] == w, "%s: %d x %d, torchvision has %d x %d",
                c->line, (int)seen.dim[1], (int)seen.dim[2], h, w);
  mprt__transform_work work = {0};
  mprt__reader r = {0};
  mprt__sample_key key = {SEED, EPOCH, sample};
  int64_t n = seen.dim[0] * h * w;
  size_t size = dtype_bytes(to);
  uint8_t *got = malloc((size_t)n * size);
  double tolerance = to == MPCC_F64 ? 1e-14 : 2e-6;
  ck_assert_msg(
      mprt__transform_apply(t, &work, &r, &c->field, floats ? (void *)image : c->image, key, got),
      "%s", r.message);
  for (int64_t i = 0; i < n; i++) {
    double want = strtod(values, &values), is = num_load(got + (size_t)i * size, to);
    ck_assert_msg(fabs(is - want) <= tolerance * (1 + fabs(want)),
                  "%ssample %d, element %d: %.17g, torchvision has %.17g", c->line, sample, (int)i,
                  is, want);
  }
  free(got);
  free(image);
  mprt__transform_work_fini(&work);
  mprt__transform_destroy(t);
}

static bool begins_with_to_tensor(const Case *c) {
  const json_t *type = json_object_get(json_array_get(c->list, 0), "type");
  return json_is_string(type) && !strcmp(json_string_value(type), "ToTensor");
}

static void check_file(const char *path, DType to, int least) {
  FILE *f = fopen(path, "r");
  ck_assert(f != NULL);
  char *line = NULL, *values = NULL;
  size_t cap = 0, values_cap = 0;
  Case c = {0};
  int cases = 0, samples = 0, floats = 0;
  while (getline(&line, &cap, f) > 0) {
    ck_assert(getline(&values, &values_cap, f) > 0);
    if (!strncmp(line, "case", 4)) {
      read_case(&c, line, values);
      cases++;
    } else {
      char *again = strdup(values);
      check_sample(&c, false, to, line, values);
      if (begins_with_to_tensor(&c) && to == MPCC_F32) {
        check_sample(&c, true, to, line, again);
        floats++;
      }
      free(again);
      samples++;
    }
  }
  ck_assert_int_ge(cases, least);
  ck_assert_int_ge(samples, cases);
  ck_assert_int_ge(floats, to == MPCC_F32 ? 10 : 0);
  json_decref(c.list);
  free(c.image);
  free(c.line);
  free(line);
  free(values);
  fclose(f);
}

START_TEST(as_torchvision) {
  check_file(SOURCE_DIR "/tests/data/transforms/transforms.want", MPCC_F32, 40);
}
END_TEST

START_TEST(in_fp64) {
  check_file(SOURCE_DIR "/tests/data/transforms/transforms64.want", MPCC_F64, 12);
}
END_TEST

/* The list applied to an image of h x w that must become want_h x want_w; "" or the complaint. */
static void apply(const char *list, int64_t h, int64_t w, int64_t want_h, int64_t want_w,
                  char message[300]) {
  TestLog log = {0};
  mprt_callbacks cb = {.log = test_log, .user = &log};
  json_t *json = json_loads(list, 0, NULL);
  mprt__field f = {"image", MPCC_U8, 3, {1, 0, 0}, 0, false}, seen; /* sizes that differ */
  mprt__transform *t;
  strcpy(message, "");
  if (mprt__transform_create(&cb, json, &f, MPCC_F32, false, true, &t, &seen) != MPCC_OK) {
    snprintf(message, 300, "%.290s", log.text);
  } else {
    uint8_t *image = calloc(1, (size_t)(h * w));
    float *to = malloc((size_t)(want_h * want_w) * sizeof *to);
    mprt__transform_work work = {0};
    mprt__reader r = {.size = {h, w}};
    mprt__transform_expect(t, 3, (int64_t[]){1, want_h, want_w});
    if (!mprt__transform_apply(t, &work, &r, &f, image, (mprt__sample_key){0}, to))
      snprintf(message, 300, "%s", r.message);
    free(image);
    free(to);
    mprt__transform_work_fini(&work);
    mprt__transform_destroy(t);
  }
  json_decref(json);
}

/* Whether the list does something to fields of other kinds. */
START_TEST(no_images) {
  static const struct {
    mprt__field field;
    bool target, image;
  } cases[] = {
      {{"x", MPCC_F32, 3, {3, 2, 2}, 12, false}, false, true},
      {{"x", MPCC_F32, 3, {3, 2, 2}, 12, false}, true, false},
      {{"x", MPCC_F32, 2, {6, 2}, 12, false}, false, false},
      {{"x", MPCC_I64, 3, {3, 2, 2}, 12, false}, false, false},
      {{"x", MPCC_U8, 2, {6, 2}, 12, false}, false, true},
      {{"x", MPCC_U8, 1, {12}, 12, false}, false, false},
      {{"x", MPCC_F64, 1, {12}, 12, true}, false, true},
      {{"x", MPCC_F64, 1, {12}, 12, true}, true, false},
      {{"x", MPCC_F16, 0, {0}, 1, false}, false, true},
      {{"x", MPCC_I64, 1, {12}, 12, false}, false, false},
  };
  TestLog log = {0};
  mprt_callbacks cb = {.log = test_log, .user = &log};
  json_t *list = json_loads("[{\"type\": \"Normalize\", \"mean\": 1, \"std\": 2}]", 0, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mprt__transform *t;
    mprt__field seen;
    ck_assert(mprt__transform_create(&cb, list, &cases[i].field, MPCC_F32, cases[i].target, true,
                                     &t, &seen) == MPCC_OK);
    ck_assert_msg(mprt__transform_applies(t) == cases[i].image, "case %zu", i);
    mprt__transform_destroy(t);
  }
  json_decref(list);
}
END_TEST

START_TEST(sizes) {
  char m[300];
  apply("[\"ToTensor\"]", 5, 4, 5, 4, m);
  ck_assert_str_eq(m, "");
  apply("[\"ToTensor\"]", 5, 4, 4, 4, m);
  ck_assert_msg(strstr(m, "is 5x4 behind the transforms, the model takes 4x4") != NULL, "%s", m);
  apply("[{\"type\": \"Resize\", \"size\": [8]}, \"ToTensor\"]", 5, 4, 8, 8, m);
  ck_assert_msg(strstr(m, "is 10x8 behind") != NULL, "%s", m);
  apply("[{\"type\": \"Resize\", \"size\": [8]}, {\"type\": \"CenterCrop\", \"size\": [8, 8]}]", 5,
        4, 8, 8, m);
  ck_assert_str_eq(m, "");
  apply("[{\"type\": \"RandomCrop\", \"size\": [8, 8]}]", 5, 9, 8, 8, m);
  ck_assert_msg(strstr(m, "5x9 is smaller than 8x8; add Resize or padding") != NULL, "%s", m);
  apply("[{\"type\": \"Resize\", \"size\": [0]}]", 5, 9, 8, 8, m);
  ck_assert_msg(strstr(m, "size must lie in") != NULL, "%s", m);
  apply("[{\"type\": \"Resize\", \"size\": [30000]}]", 5, 9, 8, 8, m);
  ck_assert_msg(strstr(m, "cannot make an image of 30000x54000") != NULL, "%s", m);
  apply("[{\"type\": \"ColorJitter\"}]", 5, 9, 8, 8, m);
  ck_assert_msg(strstr(m, "cannot do transform 'ColorJitter'") != NULL, "%s", m);
}
END_TEST

int main(void) {
  Suite *s = suite_create("transforms");
  TCase *tc = tcase_create("transforms");
  tcase_add_test(tc, as_torchvision);
  tcase_add_test(tc, in_fp64);
  tcase_add_test(tc, no_images);
  tcase_add_test(tc, sizes);
  suite_add_tcase(s, tc);
  return check_run(s);
}
