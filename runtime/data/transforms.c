/* Transforms of torchvision, in the order of the spec: what comes before ToTensor works on bytes as
 * Pillow does, what comes after on floats as torch does; images that are floats already are torch's
 * from the start. ToTensor and Normalize map one byte of a
 * channel to one number, so that where nothing but they stand at the end they are one table per
 * channel. Arithmetic of floats is FP32 as torchvision's: x / 255, then (x - mean) / std; FP64
 * where the model reads FP64 (regions.transforms: 64-true), as torchvision's under that default
 * dtype. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "mpcc/philox.h"
#include "runtime/data/data.h"
#include "runtime/data/resample.h"

enum { MAX_STEPS = 32, MAX_SIDE = 1 << 15 };

typedef struct Step Step;
/* A step changes the sizes and planes of an image. */
typedef struct {
  int64_t c, h, w;
  DType dt;      /* u8; behind the first step of values f32 or f64 */
  uint8_t *data; /* in a buffer of the work */
} Image;

typedef struct {
  const mprt__transform *t;
  mprt__transform_work *work;
  mprt__reader *r;
  mprt__sample_key key;
  int other; /* buffer that im.data is not in */
  Image im;
} Run;

/* How a transform is read and done. */
typedef struct {
  const char *type;
  bool geometry; /* changes places or sizes; else one value at a time */
  Status (*parse)(Step *s, const json_t *v, const mprt_callbacks *cb);
  bool (*apply)(const Step *s, Run *run);
} Kind;

struct Step {
  const Kind *kind;
  uint32_t number; /* of the transform in the list: its random numbers */
  int64_t h, w;    /* size; w = 0: of the smaller side */
  int64_t pad[4];  /* left, top, right, bottom */
  mprt__filter filter;
  bool antialias, grow;
  double p, fill;
  double scale[2], ratio[2];
  int64_t nvalue;
  double *mean, *std; /* Normalize: nvalue numbers each; 1: of all channels */
};

struct mprt__transform {
  DType from, to;
  bool image;       /* the list applies to the field */
  bool vector;      /* what it has of ToTensor and Normalize does, a channel for each number */
  mprt__field seen; /* what comes out; sizes of 0 are not known */
  int64_t channels, size[2]; /* as read; size 0: of each sample */
  int nstep;
  Step step[MAX_STEPS]; /* those before the table; all when there is none */
  uint8_t *table;       /* [channels][256] of target elements; NULL: plain conversion */
};

static bool fail(Run *run, Status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool fail(Run *run, Status st, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(run->r->message, sizeof run->r->message, fmt, ap);
  va_end(ap);
  run->r->error = st;
  return false;
}

/* ---- room ---- */

static void *room(mprt__transform_work *w, int i, size_t bytes) {
  if (bytes > w->bytes[i]) {
    free(w->buffer[i]);
    w->buffer[i] = malloc(bytes);
    w->bytes[i] = w->buffer[i] ? bytes : 0;
  }
  return w->buffer[i];
}

void mprt__transform_work_fini(mprt__transform_work *w) {
  for (int i = 0; i < MPRT__WORK_BUFFERS; i++)
    free(w->buffer[i]);
}

static size_t pixel(const Image *im) {
  return dtype_bytes(im->dt);
}

/* Room for the next image; NULL after an error. */
static uint8_t *next_image(Run *run, int64_t h, int64_t w) {
  uint8_t *p = room(run->work, run->other, (size_t)(run->im.c * h * w) * pixel(&run->im));
  if (!p)
    fail(run, MPCC_ERR_NOMEM, "out of memory: transforms");
  return p;
}

static void take_image(Run *run, uint8_t *data, int64_t h, int64_t w) {
  run->im.data = data;
  run->im.h = h;
  run->im.w = w;
  run->other = !run->other;
}

/* ---- random numbers ---- */

/* Four words of Philox for draw `n` of a step; streams of models lie below 2^31. */
static void draw(const Step *s, const Run *run, uint32_t n, uint32_t word[4]) {
  const uint64_t seed = (uint64_t)run->key.seed, sample = (uint64_t)run->key.sample;
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  const uint32_t counter[4] = {(uint32_t)sample, (uint32_t)(sample >> 32) ^ n << 24,
                               (uint32_t)run->key.epoch, UINT32_C(0x80000000) | s->number};
  philox4x32(counter, key, word);
}

static int64_t below(uint32_t word, int64_t n) { /* uniform in [0, n) */
  return (int64_t)((uint64_t)word * (uint64_t)n >> 32);
}

static double between(uint32_t word, double lo, double hi) {
  return lo + (hi - lo) * ((double)word * 0x1p-32);
}

/* ---- geometry ---- */

/* The part [top, top + h) x [left, left + w), which may lie outside: there it is `fill`. */
static bool cut(Run *run, int64_t top, int64_t left, int64_t h, int64_t w, double fill) {
  const Image *im = &run->im;
  uint8_t *to = next_image(run, h, w);
  size_t size = pixel(im);
  uint8_t value[8] = {(uint8_t)fill};
  if (!to)
    return false;
  if (im->dt != MPCC_U8)
    num_store(value, im->dt, fill);
  for (int64_t c = 0; c < im->c; c++)
    for (int64_t y = 0; y < h; y++) {
      uint8_t *row = to + (size_t)((c * h + y) * w) * size;
      int64_t sy = top + y, lo = left < 0 ? -left : 0, hi = im->w - left < w ? im->w - left : w;
      bool inside = sy >= 0 && sy < im->h && hi > lo;
      for (int64_t x = 0; x < w; x++)
        if (!inside || x < lo || x >= hi)
          memcpy(row + (size_t)x * size, value, size);
      if (inside)
        memcpy(row + (size_t)lo * size,
               im->data + (size_t)((c * im->h + sy) * im->w + left + lo) * size,
               (size_t)(hi - lo) * size);
    }
  take_image(run, to, h, w);
  return true;
}

static bool resize(const Step *s, Run *run, int64_t h, int64_t w) {
  const Image *im = &run->im;
  mprt__taps ty = {0}, tx = {0};
  size_t size = pixel(im);
  if (h < 1 || w < 1 || h > MAX_SIDE || w > MAX_SIDE)
    return fail(run, MPCC_ERR_DATA, "transform %s: cannot make an image of %lldx%lld",
                s->kind->type, (long long)h, (long long)w);
  if (h == im->h && w == im->w)
    return true;
  uint8_t *to = next_image(run, h, w);
  uint8_t *half = to ? room(run->work, 2, (size_t)(im->h * w) * size) : NULL;
  bool bytes = im->dt == MPCC_U8;
  bool ok = half && mprt__taps_init(&ty, im->h, h, s->filter, s->antialias, bytes) &&
            mprt__taps_init(&tx, im->w, w, s->filter, s->antialias, bytes);
  for (int64_t c = 0; ok && c < im->c; c++) {
    const uint8_t *from = im->data + (size_t)(c * im->h * im->w) * size;
    uint8_t *plane = to + (size_t)(c * h * w) * size;
    if (bytes)
      mprt__resize_u8(&ty, &tx, from, half, plane);
    else if (im->dt == MPCC_F64)
      mprt__resize_f64(&ty, &tx, (const double *)from, (double *)half, (double *)plane);
    else
      mprt__resize_f32(&ty, &tx, (const float *)from, (float *)half, (float *)plane);
  }
  mprt__taps_fini(&ty);
  mprt__taps_fini(&tx);
  if (!ok)
    return fail(run, MPCC_ERR_NOMEM, "out of memory: transforms");
  take_image(run, to, h, w);
  return true;
}

/* Sizes after Resize: [h, w], or the smaller side, the other in proportion. */
static void resized(const Step *s, int64_t *h, int64_t *w) {
  if (s->w) {
    *h = s->h;
    *w = s->w;
  } else if (*h && *w) {
    int64_t small = *h < *w ? *h : *w, large = *h < *w ? *w : *h, other = s->h * large / small;
    bool tall = *h > *w;
    *h = tall ? other : s->h;
    *w = tall ? s->h : other;
  }
}

static bool do_resize(const Step *s, Run *run) {
  int64_t h = run->im.h, w = run->im.w;
  resized(s, &h, &w);
  return resize(s, run, h, w);
}

/* round() of Python: halves to even. */
static int64_t half_even(int64_t twice) {
  int64_t floor2 = twice / 2;
  return twice % 2 && floor2 % 2 ? floor2 + 1 : floor2;
}

/* An image that is too small is padded with zeros on both sides, as torchvision does. */
static bool do_center_crop(const Step *s, Run *run) {
  int64_t h = run->im.h, w = run->im.w;
  int64_t top = s->h > h ? -((s->h - h) / 2) : half_even(h - s->h);
  int64_t left = s->w > w ? -((s->w - w) / 2) : half_even(w - s->w);
  return cut(run, top, left, s->h, s->w, 0);
}

static bool do_random_crop(const Step *s, Run *run) {
  int64_t pad[4] = {s->pad[0], s->pad[1], s->pad[2], s->pad[3]};
  int64_t h = run->im.h + pad[1] + pad[3], w = run->im.w + pad[0] + pad[2];
  if (s->grow && w < s->w) {
    pad[0] += s->w - w;
    w += 2 * (s->w - w);
  }
  if (s->grow && h < s->h) {
    pad[1] += s->h - h;
    h += 2 * (s->h - h);
  }
  if (h < s->h || w < s->w)
    return fail(run, MPCC_ERR_DATA,
                "transform RandomCrop: an image of %lldx%lld is smaller than %lldx%lld; add Resize "
                "or padding",
                (long long)h, (long long)w, (long long)s->h, (long long)s->w);
  uint32_t word[4];
  draw(s, run, 0, word);
  return cut(run, below(word[0], h - s->h + 1) - pad[1], below(word[1], w - s->w + 1) - pad[0],
             s->h, s->w, s->fill);
}

/* A part of random area and shape: ten tries, then the largest allowed one in the middle. */
static bool do_random_resized_crop(const Step *s, Run *run) {
  int64_t h = run->im.h, w = run->im.w, ch, cw, top = -1, left = 0;
  double area = (double)(h * w);
  for (uint32_t i = 0; i < 10 && top < 0; i++) {
    uint32_t word[4];
    draw(s, run, i, word);
    double target = area * between(word[0], s->scale[0], s->scale[1]);
    double ratio = exp(between(word[1], log(s->ratio[0]), log(s->ratio[1])));
    cw = (int64_t)nearbyint(sqrt(target * ratio));
    ch = (int64_t)nearbyint(sqrt(target / ratio));
    if (cw > 0 && cw <= w && ch > 0 && ch <= h) {
      top = below(word[2], h - ch + 1);
      left = below(word[3], w - cw + 1);
    }
  }
  if (top < 0) {
    double ratio = (double)w / (double)h;
    cw = ratio > s->ratio[1] ? (int64_t)nearbyint((double)h * s->ratio[1]) : w;
    ch = ratio < s->ratio[0] ? (int64_t)nearbyint((double)w / s->ratio[0]) : h;
    top = (h - ch) / 2;
    left = (w - cw) / 2;
  }
  return cut(run, top, left, ch, cw, 0) && resize(s, run, s->h, s->w);
}

static bool flips(const Step *s, const Run *run) {
  uint32_t word[4];
  draw(s, run, 0, word);
  return (double)word[0] * 0x1p-32 < s->p;
}

static bool do_horizontal_flip(const Step *s, Run *run) {
  const Image *im = &run->im;
  size_t size = pixel(im);
  if (!flips(s, run))
    return true;
  uint8_t *to = next_image(run, im->h, im->w);
  for (int64_t y = 0; to && y < im->c * im->h; y++)
    for (int64_t x = 0; x < im->w; x++)
      memcpy(to + (size_t)(y * im->w + im->w - 1 - x) * size,
             im->data + (size_t)(y * im->w + x) * size, size);
  if (to)
    take_image(run, to, im->h, im->w);
  return to != NULL;
}

static bool do_vertical_flip(const Step *s, Run *run) {
  const Image *im = &run->im;
  size_t row = (size_t)im->w * pixel(im);
  if (!flips(s, run))
    return true;
  uint8_t *to = next_image(run, im->h, im->w);
  for (int64_t c = 0; to && c < im->c; c++)
    for (int64_t y = 0; y < im->h; y++)
      memcpy(to + (size_t)(c * im->h + im->h - 1 - y) * row,
             im->data + (size_t)(c * im->h + y) * row, row);
  if (to)
    take_image(run, to, im->h, im->w);
  return to != NULL;
}

/* ---- values ---- */

/* Format of the arithmetic behind ToTensor. */
static DType math_of(const mprt__transform *t) {
  return t->to == MPCC_F64 ? MPCC_F64 : MPCC_F32;
}

/* The image in the format of the arithmetic, in the work; false after an error. */
static bool make_floats(Run *run) {
  Image *im = &run->im;
  DType dt = im->dt;
  const uint8_t *from = im->data;
  im->dt = math_of(run->t);
  uint8_t *to = next_image(run, im->h, im->w);
  if (!to)
    return false;
  for (int64_t i = 0; i < im->c * im->h * im->w; i++)
    num_store(to + (size_t)i * pixel(im), im->dt, num_load(from + (size_t)i * dtype_bytes(dt), dt));
  take_image(run, to, im->h, im->w);
  return true;
}

static float map_f32(const Step *s, int64_t c, float v) {
  c = c < s->nvalue ? c : 0;
  return s->nvalue ? (v - (float)s->mean[c]) / (float)s->std[c] : v / 255.0f;
}

static double map_f64(const Step *s, int64_t c, double v) {
  c = c < s->nvalue ? c : 0;
  return s->nvalue ? (v - s->mean[c]) / s->std[c] : v / 255.0;
}

static bool do_values(const Step *s, Run *run) {
  int64_t plane = run->im.h * run->im.w;
  if (run->im.dt == MPCC_U8 && !make_floats(run))
    return false;
  float *narrow = (float *)run->im.data;
  double *wide = (double *)run->im.data;
  for (int64_t i = 0; i < run->im.c * plane; i++)
    if (run->im.dt == MPCC_F64)
      wide[i] = map_f64(s, i / plane, wide[i]);
    else
      narrow[i] = map_f32(s, i / plane, narrow[i]);
  return true;
}

/* ---- reading the spec ---- */

static double item(const json_t *v, size_t i, double otherwise) {
  v = json_is_array(v) ? json_array_get(v, i) : v;
  return json_is_number(v) ? json_number_value(v) : otherwise;
}

static Status read_size(Step *s, const json_t *v, const mprt_callbacks *cb) {
  const json_t *size = json_object_get(v, "size");
  s->h = (int64_t)item(size, 0, 0);
  s->w = json_is_array(size) ? (int64_t)item(size, 1, 0) : 0;
  if (s->h < 1 || s->w < 0 || s->h > MAX_SIDE || s->w > MAX_SIDE)
    return mprt__fail(cb, MPCC_ERR_DATA, "transform %s: size must lie in [1, %d]", s->kind->type,
                      MAX_SIDE);
  return MPCC_OK;
}

static Status parse_resize(Step *s, const json_t *v, const mprt_callbacks *cb) {
  static const char *const words[] = {"nearest", "nearest-exact", "bilinear", "bicubic"};
  const char *word = mprt__json_string(v, "interpolation", "bilinear");
  s->antialias = mprt__json_bool(v, "antialias", true);
  for (int i = 0; i < 4; i++)
    if (!strcmp(words[i], word)) {
      s->filter = (mprt__filter)i;
      return read_size(s, v, cb);
    }
  return mprt__fail(cb, MPCC_ERR_DATA, "transform %s: unknown interpolation '%s'", s->kind->type,
                    word);
}

static Status parse_crop(Step *s, const json_t *v, const mprt_callbacks *cb) {
  const json_t *pad = json_object_get(v, "padding");
  size_t n = json_array_size(pad);
  s->grow = mprt__json_bool(v, "pad_if_needed", false);
  s->fill = mprt__json_double(v, "fill", 0);
  for (size_t i = 0; i < 4; i++) {
    s->pad[i] = (int64_t)item(pad, n == 4 ? i : n == 2 ? i % 2 : 0, 0);
    if (s->pad[i] < 0 || s->pad[i] > MAX_SIDE)
      return mprt__fail(cb, MPCC_ERR_DATA, "transform %s: padding must lie in [0, %d]",
                        s->kind->type, MAX_SIDE);
  }
  Status st = read_size(s, v, cb);
  s->w = s->w ? s->w : s->h;
  return st;
}

static Status parse_resized_crop(Step *s, const json_t *v, const mprt_callbacks *cb) {
  for (size_t i = 0; i < 2; i++) {
    s->scale[i] = item(json_object_get(v, "scale"), i, i ? 1 : 0.08);
    s->ratio[i] = item(json_object_get(v, "ratio"), i, i ? 4.0 / 3 : 0.75);
  }
  if (!(s->scale[0] > 0 && s->scale[0] <= s->scale[1] && s->ratio[0] > 0 &&
        s->ratio[0] <= s->ratio[1]))
    return mprt__fail(cb, MPCC_ERR_DATA, "transform %s: scale and ratio are [least, most], above 0",
                      s->kind->type);
  Status st = parse_resize(s, v, cb);
  s->w = s->w ? s->w : s->h;
  return st;
}

static Status parse_flip(Step *s, const json_t *v, const mprt_callbacks *cb) {
  (void)cb;
  s->p = mprt__json_double(v, "p", 0.5);
  return MPCC_OK;
}

static Status parse_nothing(Step *s, const json_t *v, const mprt_callbacks *cb) {
  (void)s, (void)v, (void)cb;
  return MPCC_OK;
}

static Status parse_normalize(Step *s, const json_t *v, const mprt_callbacks *cb) {
  const json_t *mean = json_object_get(v, "mean"), *std = json_object_get(v, "std");
  size_t n = json_is_array(mean) ? json_array_size(mean) : 1;
  size_t m = json_is_array(std) ? json_array_size(std) : 1;
  const size_t most = n > m ? n : m;
  if (n < 1 || m < 1 || (n != m && n != 1 && m != 1))
    return mprt__fail(cb, MPCC_ERR_DATA, "transform Normalize: mean and std need as many numbers");
  s->mean = malloc(most * sizeof *s->mean);
  s->std = malloc(most * sizeof *s->std);
  if (!s->mean || !s->std)
    return mprt__nomem(cb, "transforms");
  for (size_t i = 0; i < most; i++) {
    s->mean[i] = item(mean, n == 1 ? 0 : i, 0);
    s->std[i] = item(std, m == 1 ? 0 : i, 1);
  }
  s->nvalue = (int64_t)most;
  return MPCC_OK;
}

static const Kind kinds[] = {
    {"Resize", true, parse_resize, do_resize},
    {"CenterCrop", true, parse_crop, do_center_crop},
    {"RandomCrop", true, parse_crop, do_random_crop},
    {"RandomResizedCrop", true, parse_resized_crop, do_random_resized_crop},
    {"RandomHorizontalFlip", true, parse_flip, do_horizontal_flip},
    {"RandomVerticalFlip", true, parse_flip, do_vertical_flip},
    {"ToTensor", false, parse_nothing, do_values},
    {"Normalize", false, parse_normalize, do_values},
};

static Status parse_step(Step *s, const json_t *v, uint32_t number, const mprt_callbacks *cb) {
  const char *type = json_is_string(v) ? json_string_value(v) : mprt__json_string(v, "type", "");
  *s = (Step){.number = number};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kinds[i].type, type)) {
      s->kind = &kinds[i];
      return kinds[i].parse(s, v, cb);
    }
  return mprt__fail(cb, MPCC_ERR_DATA, "this program cannot do transform '%s'", type);
}

static bool is_to_tensor(const Step *s) {
  return s->kind && !s->kind->geometry && !s->nvalue;
}

/* Sizes behind a step. */
static void step_sizes(const Step *s, mprt__field *f) {
  int64_t *h = &f->dim[f->rank - 2], *w = &f->dim[f->rank - 1];
  if (s->kind->apply == do_resize) {
    resized(s, h, w);
  } else if (s->h) {
    *h = s->h;
    *w = s->w;
  }
}

/* Steps of the list; without a list they are ToTensor, as the spec's default is. Floats pass
 * ToTensor as they are. */
static Status parse_list(mprt__transform *t, const json_t *list, const mprt_callbacks *cb) {
  size_t n = json_array_size(list);
  Status st = MPCC_OK;
  if (n > MAX_STEPS)
    return mprt__fail(cb, MPCC_ERR_DATA, "more than %d transforms", MAX_STEPS);
  for (size_t i = 0; st == MPCC_OK && i < n; i++) {
    Step *s = &t->step[t->nstep++];
    st = parse_step(s, json_array_get(list, i), (uint32_t)i, cb);
    if (st == MPCC_OK && s->nvalue > 1 && t->channels && s->nvalue != t->channels)
      st = mprt__fail(cb, MPCC_ERR_DATA, "transform Normalize: mean and std need 1 or %lld numbers",
                      (long long)t->channels);
    if (st == MPCC_OK && t->image)
      step_sizes(s, &t->seen);
    t->nstep -= t->from != MPCC_U8 && is_to_tensor(s);
  }
  if (!list && t->from == MPCC_U8)
    t->step[t->nstep++] = (Step){.kind = &kinds[6]};
  return st;
}

/* The steps behind the last one of geometry become a table, unless floats are needed before. */
static Status make_table(mprt__transform *t, const mprt_callbacks *cb) {
  size_t bytes = dtype_bytes(t->to);
  int first = t->nstep;
  while (first > 0 && !t->step[first - 1].kind->geometry)
    first--;
  for (int i = 0; i < first; i++)
    if (!t->step[i].kind->geometry)
      return MPCC_OK;
  t->table = malloc((size_t)t->channels * 256 * bytes);
  if (!t->table)
    return mprt__nomem(cb, "transforms");
  for (int64_t c = 0; c < t->channels; c++)
    for (int b = 0; b < 256; b++) {
      float narrow = (float)b;
      double wide = b;
      for (int i = first; i < t->nstep; i++) {
        narrow = map_f32(&t->step[i], c, narrow);
        wide = map_f64(&t->step[i], c, wide);
      }
      num_store(t->table + (size_t)(c * 256 + b) * bytes, t->to,
                math_of(t) == MPCC_F64 ? wide : (double)narrow);
    }
  t->nstep = first;
  return MPCC_OK;
}

bool mprt__is_image(const mprt__field *f, DType to, bool target) {
  if (!dtype_is_float(to))
    return false;
  return f->dtype == MPCC_U8 ? f->rank == 2 || f->rank == 3
                             : dtype_is_float(f->dtype) && f->rank == 3 && !f->columns && !target;
}

bool mprt__transform_is_of_images(const char *type) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kinds[i].type, type))
      return kinds[i].geometry;
  return true;
}

/* Numbers in a row that are no targets, and a list that has to do with them. */
static bool is_vector(const json_t *list, const mprt__field *f, DType to, bool target) {
  const json_t *v;
  size_t i;
  if (target || !dtype_is_float(to) || !dtype_is_float(f->dtype) || f->rank > 1)
    return false;
  json_array_foreach(list, i, v) {
    if (mprt__transform_is_of_images(json_is_string(v) ? json_string_value(v)
                                                       : mprt__json_string(v, "type", "")))
      return false;
  }
  return true;
}

Status mprt__transform_create(const mprt_callbacks *cb, const json_t *list, const mprt__field *f,
                              DType to, bool target, bool vectors, mprt__transform **out,
                              mprt__field *seen) {
  *out = NULL;
  *seen = *f;
  mprt__transform *t = calloc(1, sizeof *t);
  if (!t)
    return mprt__nomem(cb, "transforms");
  t->from = f->dtype;
  t->to = to;
  t->seen = *f;
  t->image = mprt__is_image(f, to, target);
  t->vector = vectors && !t->image && is_vector(list, f, to, target);
  t->channels = t->vector ? f->elems : f->rank == 3 ? f->dim[0] : 1;
  for (int i = 0; i < 2 && f->elems; i++)
    t->size[i] = t->image ? f->dim[f->rank - 2 + i] : 1;
  Status st = MPCC_OK;
  if (t->image || t->vector) {
    st = parse_list(t, list, cb);
    if (st == MPCC_OK && t->from == MPCC_U8)
      st = make_table(t, cb);
  }
  if (st != MPCC_OK) {
    mprt__transform_destroy(t);
    return st;
  }
  *seen = t->seen;
  *out = t;
  return MPCC_OK;
}

void mprt__transform_expect(mprt__transform *t, int rank, const int64_t *dim) {
  t->seen.rank = rank;
  memcpy(t->seen.dim, dim, (size_t)rank * sizeof *dim);
}

void mprt__transform_destroy(mprt__transform *t) {
  for (int i = 0; t && i < MAX_STEPS; i++) {
    free(t->step[i].mean);
    free(t->step[i].std);
  }
  if (t)
    free(t->table);
  free(t);
}

bool mprt__transform_applies(const mprt__transform *t) {
  return t->image || t->vector;
}

DType mprt__transform_dtype(const mprt__transform *t) {
  return t->to;
}

/* ---- applying ---- */

/* From a table of elements of type T. */
#define LOOK_UP(T)                                                                                 \
  do {                                                                                             \
    const T *table = (const T *)t->table;                                                          \
    for (int64_t c = 0; c < t->channels; c++)                                                      \
      for (int64_t i = c * plane; i < (c + 1) * plane; i++)                                        \
        ((T *)to)[i] = table[c * 256 + bytes[i]];                                                  \
  } while (0)

static void look_up(const mprt__transform *t, const uint8_t *bytes, int64_t plane, void *to) {
  switch (dtype_bytes(t->to)) {
  case 1:
    LOOK_UP(uint8_t);
    break;
  case 2:
    LOOK_UP(uint16_t);
    break;
  case 4:
    LOOK_UP(uint32_t);
    break;
  default:
    LOOK_UP(uint64_t);
  }
}

static void convert(const void *from, DType from_dtype, int64_t n, void *to, DType to_dtype) {
  if (from_dtype == to_dtype) {
    memcpy(to, from, (size_t)n * dtype_bytes(to_dtype));
    return;
  }
  for (int64_t i = 0; i < n; i++)
    num_store((uint8_t *)to + (size_t)i * dtype_bytes(to_dtype), to_dtype,
              num_load((const uint8_t *)from + (size_t)i * dtype_bytes(from_dtype), from_dtype));
}

/* Whether the image has the sizes that the model takes. */
static bool fits(Run *run) {
  const mprt__field *want = &run->t->seen;
  int64_t h = want->dim[want->rank - 2], w = want->dim[want->rank - 1];
  if (run->im.h == h && run->im.w == w)
    return true;
  return fail(run, MPCC_ERR_DATA,
              "an image is %lldx%lld behind the transforms, the model takes %lldx%lld; images of "
              "different sizes need Resize or a crop",
              (long long)run->im.h, (long long)run->im.w, (long long)h, (long long)w);
}

bool mprt__transform_apply(const mprt__transform *t, mprt__transform_work *w, mprt__reader *r,
                           const mprt__field *f, const void *from, mprt__sample_key key, void *to) {
  if (!t->nstep && f->elems) {
    if (t->table)
      look_up(t, from, f->elems / t->channels, to);
    else
      convert(from, t->from, f->elems, to, t->to);
    return true;
  }
  const int64_t *size = t->size[0] ? t->size : r->size;
  Run run = {.t = t,
             .work = w,
             .r = r,
             .key = key,
             .im = {t->channels, size[0], size[1], t->from, (uint8_t *)from}};
  if (t->from != MPCC_U8 && !make_floats(&run))
    return false;
  for (int i = 0; i < t->nstep; i++)
    if (!t->step[i].kind->apply(&t->step[i], &run))
      return false;
  if (t->image && !fits(&run))
    return false;
  if (t->table)
    look_up(t, run.im.data, run.im.h * run.im.w, to);
  else
    convert(run.im.data, run.im.dt, run.im.c * run.im.h * run.im.w, to, t->to);
  return true;
}
