/* Pretrained weights: `model.init_from` of the spec. Tensors of one safetensors file, or of the
 * shards that a model.safetensors.index.json lists, are given the spec's names (`rename`), compared
 * with the model (`skip`, `strict`), and read, turned over where they are stored [in, out]
 * (`transpose`). Nothing is read before everything fits. Buffers that no model of ours has are
 * passed over with a note. */
#include <stdarg.h>
#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/rt.h"

enum { MAX_NAMED_HERE = 8, MAX_INDEX = 64 << 20, MAX_SHARDS = 4096 };

typedef struct {
  mprt_program *p;
  const json_t *config;
  char *path; /* of the file or index */
  int nshard;
  mprt__st_file *shard;
  /* by program tensor: where it comes from; NULL: kept as init made it */
  const mprt__st_file **file;
  const mprt__st_tensor **from;
  int wrong, passed_over;
} Loading;

/* ---- patterns ---- */

bool mprt__name_matches(const char *pattern, const char *name) {
  if (!*pattern)
    return !*name;
  if (pattern[0] == '*') {
    bool any = pattern[1] == '*';
    for (const char *rest = pattern + 1 + any;; name++) {
      if (mprt__name_matches(rest, name))
        return true;
      if (!*name || (*name == '.' && !any))
        return false;
    }
  }
  return *name && (*pattern == '?' ? *name != '.' : *pattern == *name) &&
         mprt__name_matches(pattern + 1, name + 1);
}

static bool listed(const json_t *patterns, const char *name) {
  for (size_t i = 0; i < json_array_size(patterns); i++)
    if (mprt__name_matches(json_string_value(json_array_get(patterns, i)), name))
      return true;
  return false;
}

/* The spec's name of a file's tensor, malloc'ed: the first key of `rename` that fits, whose one `*`
 * stands for any text, gives it. */
static char *renamed(const json_t *map, const char *name) {
  const char *key;
  json_t *to;
  json_object_foreach((json_t *)map, key, to) {
    const char *star = strchr(key, '*'), *out = json_string_value(to);
    if (!star && !strcmp(key, name))
      return strdup(out);
    if (!star)
      continue;
    size_t head = (size_t)(star - key), tail = strlen(star + 1), n = strlen(name);
    if (n < head + tail || memcmp(key, name, head) || strcmp(name + n - tail, star + 1))
      continue;
    const char *hole = strchr(out, '*');
    if (!hole)
      return strdup(out);
    return mprt__format("%.*s%.*s%s", (int)(hole - out), out, (int)(n - head - tail), name + head,
                        hole + 1);
  }
  return strdup(name);
}

/* What PyTorch and Hugging Face store beside parameters and no model here has. */
static bool is_foreign_buffer(const char *name) {
  static const char *const ends[] = {"num_batches_tracked", ".attn.bias", ".attn.masked_bias",
                                     ".rotary_emb.inv_freq", "position_ids"};
  size_t n = strlen(name);
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    size_t m = strlen(ends[i]);
    if (n >= m && !strcmp(name + n - m, ends[i]))
      return true;
  }
  return false;
}

/* ---- files ---- */

static Status open_shards(Loading *l) {
  const mprt_callbacks *cb = &l->p->cb;
  size_t n = strlen(l->path), m = strlen(".index.json");
  l->shard = calloc(MAX_SHARDS, sizeof *l->shard);
  if (!l->shard)
    return mprt__nomem(cb, l->path);
  if (n < m || strcmp(l->path + n - m, ".index.json")) {
    Status st = mprt__st_open(l->path, cb, &l->shard[0]);
    l->nshard = st == MPCC_OK;
    return st;
  }
  char *text;
  size_t bytes;
  Status st = mprt__file_read(l->path, MAX_INDEX, &text, &bytes, cb);
  if (st != MPCC_OK)
    return st;
  json_error_t e;
  json_t *root = mprt__json_parse(text, bytes, &e), *file;
  free(text);
  if (!root)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: not JSON: line %d: %s", l->path, e.line, e.text);
  const json_t *map = json_object_get(root, "weight_map");
  const char *slash = strrchr(l->path, '/'), *name;
  int dir = slash ? (int)(slash + 1 - l->path) : 0;
  if (!json_is_object(map) || !json_object_size(map))
    st = mprt__fail(cb, MPCC_ERR_DATA, "%s: has no weight_map", l->path);
  json_object_foreach((json_t *)map, name, file) {
    const char *word = json_string_value(file);
    if (st == MPCC_OK && (!word || !*word || strchr(word, '/')))
      st =
          mprt__fail(cb, MPCC_ERR_DATA, "%s: '%s' lies in no file beside the index", l->path, name);
    char *path = st == MPCC_OK ? mprt__format("%.*s%s", dir, l->path, word) : NULL;
    bool known = !path;
    for (int i = 0; path && i < l->nshard; i++)
      known |= !strcmp(l->shard[i].path, path);
    if (!known && l->nshard == MAX_SHARDS)
      st = mprt__fail(cb, MPCC_ERR_DATA, "%s: more than %d shards", l->path, MAX_SHARDS);
    else if (!known)
      st = mprt__st_open(path, cb, &l->shard[l->nshard]);
    if (!known && st == MPCC_OK)
      l->nshard++;
    free(path);
    if (st != MPCC_OK)
      break;
  }
  json_decref(root);
  return st;
}

/* ---- comparing ---- */

__attribute__((format(printf, 2, 3))) static void problem(Loading *l, const char *fmt, ...) {
  va_list ap;
  char text[600];
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (l->wrong++ < MAX_NAMED_HERE)
    mprt__log(&l->p->cb, MPRT_LOG_ERROR, "%s", text);
}

static bool turned(const Loading *l, const char *name) {
  return listed(json_object_get(l->config, "transpose"), name);
}

static void check_fit(Loading *l, int64_t i, const mprt__st_file *f, const mprt__st_tensor *t) {
  const mprt_program *p = l->p;
  const char *name = mprt__string(p, p->tensor[i].name);
  const char *want = mprt__json_string(l->config, "dtype", NULL);
  if (turned(l, name) && t->rank != 2) {
    problem(l, "%s: tensor '%s' is to be transposed and has %d dimensions", f->path, t->name,
            t->rank);
    return;
  }
  mprt__st_tensor seen = *t;
  if (turned(l, name)) {
    seen.dim[0] = t->dim[1];
    seen.dim[1] = t->dim[0];
  }
  l->wrong += mprt__check_shape(p, (uint32_t)i, f, &seen) != MPCC_OK;
  DType wanted = want ? dtype_from_torch(want) : MPCC_DTYPE_COUNT;
  if (wanted != MPCC_DTYPE_COUNT && dtype_is_float((DType)p->tensor[i].dtype) && t->dtype != wanted)
    problem(l, "%s: tensor '%s' is %s, init_from says %s", f->path, t->name,
              t->dtype == MPCC_DTYPE_COUNT ? "of another dtype" : dtype_text(t->dtype), want);
}

static Status place(Loading *l, const mprt__st_file *f, const mprt__st_tensor *t, bool strict) {
  mprt_program *p = l->p;
  const json_t *skip = json_object_get(l->config, "skip");
  char *name = renamed(json_object_get(l->config, "rename"), t->name);
  if (!name)
    return mprt__nomem(&p->cb, l->path);
  int64_t i = mprt__tensor_index(p, name);
  bool ours = i >= 0 && mprt__is_model_tensor(p, (uint32_t)i);
  if (listed(skip, name) || listed(skip, t->name)) {
    /* stays as init made it */
  } else if (ours && l->from[i]) {
    problem(l, "%s: tensors '%s' and '%s' are both '%s' of the model", f->path, l->from[i]->name,
            t->name, name);
  } else if (ours) {
    l->from[i] = t;
    l->file[i] = f;
    check_fit(l, i, f, t);
  } else if (is_foreign_buffer(name)) {
    l->passed_over++;
  } else if (strict) {
    problem(l, "%s: unexpected tensor '%s'", f->path, t->name);
  }
  free(name);
  return MPCC_OK;
}

static Status compare(Loading *l) {
  mprt_program *p = l->p;
  bool strict = mprt__json_bool(l->config, "strict", true);
  const json_t *skip = json_object_get(l->config, "skip");
  Status st = MPCC_OK;
  for (int s = 0; s < l->nshard; s++)
    for (size_t k = 0; st == MPCC_OK && k < l->shard[s].ntensor; k++)
      st = place(l, &l->shard[s], &l->shard[s].tensor[k], strict);
  for (uint32_t i = 0; st == MPCC_OK && i < p->ntensor; i++) {
    const char *name = mprt__string(p, p->tensor[i].name);
    if (mprt__is_model_tensor(p, i) && !l->from[i] && !listed(skip, name) && strict)
      problem(l, "%s: missing tensor '%s'", l->path, name);
  }
  static const char *const lists[] = {"skip", "transpose"};
  for (size_t k = 0; st == MPCC_OK && k < 2; k++) {
    const json_t *list = json_object_get(l->config, lists[k]);
    for (size_t n = 0; n < json_array_size(list); n++) {
      const char *pattern = json_string_value(json_array_get(list, n));
      bool any = false;
      for (uint32_t i = 0; i < p->ntensor && !any; i++)
        any = mprt__is_model_tensor(p, i) && mprt__name_matches(pattern, mprt__string(p, p->tensor[i].name));
      for (int s = 0; s < l->nshard && !any; s++)
        for (size_t i = 0; i < l->shard[s].ntensor && !any; i++)
          any = mprt__name_matches(pattern, l->shard[s].tensor[i].name);
      if (!any)
        problem(l, "init_from.%s: no tensor is named '%s'", lists[k], pattern);
    }
  }
  if (st == MPCC_OK && l->wrong)
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "%s does not fit the model in %d places; nothing was read (init_from has "
                      "rename, skip and strict)",
                      l->path, l->wrong);
  return st;
}

/* ---- reading ---- */

static void transpose(const uint8_t *from, uint8_t *to, int64_t rows, int64_t cols, size_t size) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++)
      memcpy(to + (size_t)(c * rows + r) * size, from + (size_t)(r * cols + c) * size, size);
}

/* Numbers of a bf16 file that float16 cannot hold: they become infinite, or zero. */
static void count_range(const Loading *l, int64_t i, int64_t *big, int64_t *small) {
  const mprt_program *p = l->p;
  const MpccTensor *t = &p->tensor[i];
  const uint8_t *data = mprt__tensor_data(p, i);
  for (int64_t k = 0; k < mprt__tensor_elems(t); k++) {
    double v = fabs(num_load(data + (size_t)k * dtype_bytes((DType)t->dtype), (DType)t->dtype));
    *big += v > 65504;
    *small += v > 0 && v < 0x1p-25;
  }
}

static Status read_one(Loading *l, int64_t i) {
  mprt_program *p = l->p;
  const mprt__st_tensor *t = l->from[i];
  DType dt = (DType)p->tensor[i].dtype;
  void *to = mprt__tensor_data(p, i);
  if (!turned(l, mprt__string(p, p->tensor[i].name)))
    return mprt__st_read(l->file[i], t, dt, to, &p->cb);
  int64_t n = mprt__tensor_elems(&p->tensor[i]);
  uint8_t *buffer = malloc((size_t)n * dtype_bytes(dt) + 1);
  Status st =
      buffer ? mprt__st_read(l->file[i], t, dt, buffer, &p->cb) : mprt__nomem(&p->cb, l->path);
  if (st == MPCC_OK)
    transpose(buffer, to, t->dim[0], t->dim[1], dtype_bytes(dt));
  free(buffer);
  return st;
}

static Status read_all(Loading *l) {
  mprt_program *p = l->p;
  const char *mode = mprt__json_string(p->spec, "precision.mode", "");
  bool half = !strncmp(mode, "16-", 3) || strstr(mode, "float16");
  int64_t big = 0, small = 0;
  Status st = MPCC_OK;
  for (uint32_t i = 0; i < p->ntensor && st == MPCC_OK; i++) {
    if (!l->from[i])
      continue;
    st = read_one(l, i);
    if (half && st == MPCC_OK && l->from[i]->dtype == MPCC_BF16)
      count_range(l, i, &big, &small);
  }
  if (big + small)
    mprt__log(&p->cb, MPRT_LOG_WARNING,
              "%s: bfloat16 weights in mode %s: float16 makes %lld of them infinite and %lld zero; "
              "bf16-mixed keeps them [-Wrange-fp16]",
              l->path, mode, (long long)big, (long long)small);
  if (l->passed_over)
    mprt__log(&p->cb, MPRT_LOG_INFO, "%s: %d buffers are not of this model and were passed over",
              l->path, l->passed_over);
  return st;
}

Status mprt__init_from(mprt_program *p) {
  const json_t *config = mprt__json_get(p->spec, "model.init_from");
  if (!json_is_object(config))
    return MPCC_OK;
  const char *path = mprt__json_string(config, "path", ""), *dir = p->options.data_dir;
  bool plain = path[0] == '/' || !dir || !*dir;
  Loading l = {.p = p, .config = config};
  l.path = plain ? mprt__format("%s", path) : mprt__format("%s/%s", dir, path);
  l.from = calloc((size_t)p->ntensor + 1, sizeof *l.from);
  l.file = calloc((size_t)p->ntensor + 1, sizeof *l.file);
  Status st = l.path && l.from && l.file ? open_shards(&l) : mprt__nomem(&p->cb, "weights");
  if (st == MPCC_OK)
    st = compare(&l);
  if (st == MPCC_OK)
    st = read_all(&l);
  for (int i = 0; i < l.nshard; i++)
    mprt__st_close(&l.shard[i]);
  free(l.shard);
  free(l.from);
  free(l.file);
  free(l.path);
  return st;
}
