/* Opening the splits of a spec, sharing what they read, and the random orders of samples. */
#include <stdlib.h>
#include <string.h>

#include "runtime/data/data.h"

/* ---- randomness ------------------------------------------------------------------------------ */

/* splitmix64 (Steele, Lea and Flood 2014): a bijective mixer, enough for orders of samples. */
static uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

uint64_t mprt__random_below(int64_t seed, int64_t stream, int64_t counter, uint64_t n) {
  uint64_t r = mix(mix(mix((uint64_t)seed) ^ (uint64_t)stream) ^ (uint64_t)counter);
  return (uint64_t)(((unsigned __int128)r * n) >> 64);
}

void mprt__shuffle(int64_t *order, int64_t n, int64_t seed, int64_t stream) {
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t j = (int64_t)mprt__random_below(seed, stream, i, (uint64_t)i + 1), t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
}

/* ---- reading --------------------------------------------------------------------------------- */

Status mprt__reader_init(mprt__reader *r, const mprt__dataset *d, const mprt_callbacks *cb) {
  *r = (mprt__reader){.scratch = d->scratch_bytes ? malloc(d->scratch_bytes) : NULL};
  return r->scratch || !d->scratch_bytes ? MPCC_OK : mprt__nomem(cb, "samples");
}

void mprt__reader_fini(mprt__reader *r) {
  free(r->scratch);
  free(r->image.pixels);
  free(r->file);
  *r = (mprt__reader){0};
}

/* ---- one data set for all splits that read the same files ------------------------------------ */

/* What a user of an open data set holds of it, and the program's record of it: the list
 * p->sources holds each once, as long as it has users. */
typedef struct mprt__source {
  mprt__dataset base;   /* of the users; reads `whole` */
  mprt__dataset *whole; /* owned */
  json_t *config;       /* owned; with dir, what decides the contents */
  char *dir;            /* owned */
  int users;
  mprt_program *p;
  struct mprt__source *next;
} Source;

static const void *source_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const mprt__dataset *whole = ((const Source *)d)->whole;
  return whole->read(whole, r, i, f);
}

static void source_where(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f,
                         int64_t elem, char *out, size_t size) {
  const mprt__dataset *whole = ((const Source *)d)->whole;
  whole->where(whole, r, i, f, elem, out, size);
}

static void source_free(Source *s) {
  if (s->whole)
    s->whole->destroy(s->whole);
  json_decref(s->config);
  free(s->dir);
  free(s);
}

static void source_destroy(mprt__dataset *d) {
  Source *s = (Source *)d;
  if (--s->users)
    return;
  Source **at = &s->p->sources;
  while (*at != s)
    at = &(*at)->next;
  *at = s->next;
  source_free(s);
}

/* ---- part of another data set ---------------------------------------------------------------- */

typedef struct {
  mprt__dataset base;
  mprt__dataset *whole; /* owned */
  int64_t *index;       /* owned: sample of `whole` for each of ours */
} Part;

static const void *part_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const Part *p = (const Part *)d;
  return p->whole->read(p->whole, r, p->index[i], f);
}

static void part_where(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f,
                       int64_t elem, char *out, size_t size) {
  const Part *p = (const Part *)d;
  p->whole->where(p->whole, r, p->index[i], f, elem, out, size);
}

static void part_destroy(mprt__dataset *d) {
  Part *p = (Part *)d;
  mprt__data_close(p->whole);
  free(p->index);
  free(p);
}

/* Splits `whole` by a shuffle of `seed`: the first (1 - fraction) stay, the rest are taken. Takes
 * ownership of whole, also on failure. */
static Status part_create(mprt__dataset *whole, const char *split, double fraction, int64_t seed,
                          bool taken, const mprt_callbacks *cb, mprt__dataset **out) {
  int64_t n = whole->nsample, ntaken = (int64_t)(fraction * (double)n + 0.5);
  int64_t count = taken ? ntaken : n - ntaken;
  Part *p = calloc(1, sizeof *p);
  int64_t *order = malloc((size_t)n * sizeof *order);
  int64_t *index = malloc((size_t)(count > 0 ? count : 1) * sizeof *index);
  Status st = p && order && index ? MPCC_OK : mprt__nomem(cb, "data set");
  if (st == MPCC_OK && count < 1)
    st = mprt__fail(cb, MPCC_ERR_DATA, "data.%s: a fraction of %g leaves no samples of %lld", split,
                    fraction, (long long)n);
  if (st != MPCC_OK) {
    free(p);
    free(order);
    free(index);
    mprt__data_close(whole);
    return st;
  }
  for (int64_t i = 0; i < n; i++)
    order[i] = i;
  mprt__shuffle(order, n, seed, -1);
  memcpy(index, order + (taken ? n - ntaken : 0), (size_t)count * sizeof *index);
  free(order);
  p->base = *whole;
  p->base.nsample = count;
  p->base.read = part_read;
  p->base.where = whole->where ? part_where : NULL;
  p->base.destroy = part_destroy;
  p->whole = whole;
  p->index = index;
  *out = &p->base;
  return MPCC_OK;
}

/* ---- splits ---------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  mprt__format_open *open;
} formats[] = {
#define FORMAT(name, open, doc) {name, open},
#include "runtime/data/formats.def"
#undef FORMAT
};

char *mprt__data_path(const mprt__data_source *s, const char *key) {
  const char *path = mprt__json_string(s->config, key, "");
  if (path[0] == '/' || !s->dir[0])
    return mprt__format("%s", path);
  return mprt__format("%s/%s", s->dir, path);
}

bool mprt_has_split(const mprt_program *p, const char *split) {
  return json_is_object(mprt__json_get(mprt__json_get(p->spec, "data"), split));
}

/* Keys of a split that name files: `path` and those of `files`; of idx its own two. */
static bool is_file_key(const char *key, const json_t *value) {
  static const char *const keys[] = {"path", "images", "labels"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (!strcmp(keys[i], key))
      return json_is_string(value);
  return false;
}

/* A word of --data, SPLIT=FOLDER or SPLIT.KEY=FILE, names something that is read. */
static Status check_override(const mprt_program *p, const char *word) {
  char split[64], key[64] = "", known[200] = "";
  const char *eq = strchr(word, '=');
  if (!eq || sscanf(word, "%63[^.=].%63[^=]", split, key) < 1)
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "--data %s: expected SPLIT=FOLDER or SPLIT.KEY=FILE",
                      word);
  if (!mprt_has_split(p, split))
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "--data %s: the spec has no data.%s", word, split);
  const json_t *config = mprt__json_get(mprt__json_get(p->spec, "data"), split);
  const char *from = mprt__json_string(config, "from", NULL), *name;
  if (json_is_object(json_object_get(config, "files")))
    config = json_object_get(config, "files");
  bool map = config != mprt__json_get(mprt__json_get(p->spec, "data"), split);
  if (from)
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "--data %s: data.%s is a part of data.%s; name that",
                      word, split, from);
  json_t *value;
  bool found = false;
  json_object_foreach((json_t *)config, name, value) {
    if (!map && !is_file_key(name, value))
      continue;
    size_t n = strlen(known);
    snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", name);
    found |= !*key || !strcmp(key, name);
  }
  if (!*known)
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "--data %s: data.%s reads no files", word, split);
  return found
             ? MPCC_OK
             : mprt__fail(&p->cb, MPCC_ERR_USAGE, "--data %s: data.%s has no file '%s'; it has %s",
                          word, split, key, known);
}

/* A copy of the split's object with `--data SPLIT.KEY=FILE` in it; *dir: what its files are
 * relative to, which `--data SPLIT=FOLDER` sets. NULL after an error in *st. */
static json_t *with_overrides(const mprt_program *p, const char *split, const char **dir,
                              Status *st) {
  json_t *config = json_deep_copy(mprt__json_get(mprt__json_get(p->spec, "data"), split));
  size_t n = strlen(split);
  *dir = p->options.data_dir ? p->options.data_dir : "";
  *st = config ? MPCC_OK : mprt__nomem(&p->cb, "data set");
  for (int i = 0; *st == MPCC_OK && i < p->options.ndata; i++) {
    const char *word = p->options.data[i], *eq = strchr(word, '=');
    *st = check_override(p, word);
    if (*st != MPCC_OK || strncmp(word, split, n))
      continue;
    if (word[n] == '=') {
      *dir = eq + 1;
    } else if (word[n] == '.') {
      char *key = mprt__format("%.*s", (int)(eq - word - (long)n - 1), word + n + 1);
      json_t *files = json_object_get(config, "files");
      if (!key || json_object_set_new(files ? files : config, key, json_string(eq + 1)))
        *st = mprt__nomem(&p->cb, "data set");
      free(key);
    }
  }
  json_object_del(config, "limit_batches"); /* no matter of what is read */
  if (*st == MPCC_OK)
    return config;
  json_decref(config);
  return NULL;
}

/* Fields that the program's inputs name, each once. */
static int wanted_fields(const mprt_program *p, const char *want[MPRT__MAX_FIELDS]) {
  int n = 0;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const char *field = p->tensor[i].role == ROLE_INPUT ? mprt__attr_string(p, i, "field") : NULL;
    bool known = !field || n == MPRT__MAX_FIELDS;
    for (int k = 0; k < n && !known; k++)
      known = !strcmp(want[k], field);
    if (!known)
      want[n++] = field;
  }
  return n;
}

static Status open_format(mprt_program *p, const char *split, const json_t *config, const char *dir,
                          mprt__dataset **out) {
  const char *want[MPRT__MAX_FIELDS], *format = mprt__json_string(config, "format", "");
  mprt__data_source s = {.split = split,
                         .config = config,
                         .dir = dir,
                         .seed = p->seed,
                         .cb = &p->cb,
                         .decode = p->options.decode,
                         .want = want,
                         .nwant = wanted_fields(p, want)};
  s.skip_corrupt = !strcmp(mprt__json_string(p->spec, "data.loader.corrupt", "error"), "skip");
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (!strcmp(formats[i].name, format))
      return formats[i].open(&s, out);
  return mprt__fail(&p->cb, MPCC_ERR_DATA, "data.%s: this program cannot read format '%s'", split,
                    format);
}

/* The open data set of this configuration, or a new one; config is borrowed. */
static Status open_source(mprt_program *p, const char *split, json_t *config, const char *dir,
                          mprt__dataset **out) {
  *out = NULL;
  for (Source *s = p->sources; s; s = s->next)
    if (json_equal(s->config, config) && !strcmp(s->dir, dir)) {
      s->users++;
      *out = &s->base;
      return MPCC_OK;
    }
  Source *s = calloc(1, sizeof *s);
  if (!s)
    return mprt__nomem(&p->cb, "data set");
  s->p = p;
  s->users = 1;
  s->config = json_incref(config);
  s->dir = mprt__format("%s", dir);
  Status st = s->dir ? MPCC_OK : mprt__nomem(&p->cb, "data set");
  if (st == MPCC_OK)
    st = open_format(p, split, config, dir, &s->whole);
  if (st != MPCC_OK) {
    source_free(s);
    return st;
  }
  s->base = *s->whole;
  s->base.read = source_read;
  s->base.where = s->whole->where ? source_where : NULL;
  s->base.destroy = source_destroy;
  s->next = p->sources;
  p->sources = s;
  *out = &s->base;
  return MPCC_OK;
}

/* Split another one takes its part from, with the fraction; NULL: nothing is taken from `split`. */
static const json_t *taker_of(const mprt_program *p, const char *split) {
  const char *key;
  json_t *other;
  json_object_foreach(mprt__json_get(p->spec, "data"), key,
                      other) if (json_is_object(other) &&
                                 !strcmp(mprt__json_string(other, "from", ""), split)) return other;
  return NULL;
}

Status mprt__data_open(mprt_program *p, const char *split, mprt__dataset **out) {
  *out = NULL;
  if (!mprt_has_split(p, split))
    return mprt__fail(&p->cb, MPCC_ERR_DATA, "the spec has no data.%s", split);
  const json_t *own = mprt__json_get(mprt__json_get(p->spec, "data"), split);
  const char *from = mprt__json_string(own, "from", NULL), *source = from ? from : split, *dir;
  const json_t *part = from ? own : taker_of(p, split);
  if (!mprt_has_split(p, source))
    return mprt__fail(&p->cb, MPCC_ERR_DATA, "data.%s: the spec has no data.%s", split, source);
  mprt__dataset *whole = NULL;
  Status st;
  json_t *config = with_overrides(p, source, &dir, &st);
  if (config)
    st = open_source(p, source, config, dir, &whole);
  json_decref(config);
  if (st == MPCC_OK && part)
    st = part_create(whole, split, mprt__json_double(part, "fraction", 0.1),
                     mprt__json_int(part, "seed", 0), from != NULL, &p->cb, out);
  else
    *out = whole;
  return st;
}
