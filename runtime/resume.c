/* Resuming from a checkpoint folder: found, checked to the last byte, compared with the program, then
 * read. What the spec changed since is told; a tensor that does not fit is refused unless --reset names
 * it, and then starts anew. Precisions may change where the checkpoint holds masters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cuda/device.h"
#include "runtime/fit.h"
#include "runtime/rt.h"

enum { MAX_STATE_JSON = 256 << 20, MAX_CHANGES = 20, MAX_VALUE = 60 };

static Status no_checkpoint(mprt_program *p, const char *dir) {
  char *searched = *dir ? strdup(dir) : mprt__resume_folder(p);
  Status s = mprt__fail(&p->cb, MPCC_ERR_FILE, "there is no complete checkpoint in %s",
                        searched ? searched : "the run folder");
  free(searched);
  return s;
}

/* The checkpoint that `dir` means: itself, the newest of a run folder, "" the newest of this
 * program. */
static Status resolve(mprt_program *p, const char *dir, char **out) {
  char *state = mprt__format("%s/state.json", dir), *folder = mprt__format("%s/checkpoints", dir);
  if (!state || !folder)
    *out = NULL;
  else if (!*dir)
    *out = mprt__resume_default(p);
  else if (access(state, F_OK) != 0 && access(folder, F_OK) == 0)
    *out = mprt__checkpoint_newest(folder);
  else
    *out = strdup(dir);
  Status s = MPCC_OK;
  if (!state || !folder)
    s = mprt__nomem(&p->cb, dir);
  else if (!*out)
    s = no_checkpoint(p, dir);
  free(state);
  free(folder);
  return s;
}

/* ---- what changed ---- */

/* Keys that decide how long and what is shown, not what is learnt. */
static bool is_harmless(const char *path) {
  static const char *const fronts[] = {
      "logging", "checkpoint", "profiler", "export", "early_stopping", "metrics", "description", "name",
      "trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps",
      "trainer.min_epochs", "trainer.detect_anomaly", "trainer.log_every_n_steps", "trainer.limit_val_batches",
      "trainer.limit_test_batches", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
      "data.val", "data.test", "data.loader.num_workers", "data.loader.prefetch_factor",
      "data.loader.pin_memory", "model.expect"};
  for (size_t i = 0; i < sizeof fronts / sizeof *fronts; i++)
    if (!strncmp(path, fronts[i], strlen(fronts[i])) && strchr(".", path[strlen(fronts[i])]))
      return true;
  return false;
}

typedef struct {
  const mprt_program *p;
  const char *what;
  int n;
} Changes;

static void value_text(const json_t *v, char out[MAX_VALUE]) {
  char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS) : NULL;
  snprintf(out, MAX_VALUE, "%s", text ? text : "absent");
  if (text && strlen(text) >= MAX_VALUE)
    memcpy(out + MAX_VALUE - 4, "...", 4);
  free(text);
}

static void tell_change(void *user, const char *path, const json_t *a, const json_t *b) {
  Changes *c = user;
  char before[MAX_VALUE], now[MAX_VALUE];
  if (c->n++ >= MAX_CHANGES)
    return;
  value_text(a, before);
  value_text(b, now);
  mprt__log(&c->p->cb, is_harmless(path) ? MPRT_LOG_INFO : MPRT_LOG_WARNING, "%s: %s: %s -> %s",
            c->what, path, before, now);
}

void mprt__tell_changes(const mprt_program *p, const json_t *before, const char *what) {
  Changes c = {.p = p, .what = what};
  mprt__json_differences(before, p->spec, tell_change, &c);
  if (c.n > MAX_CHANGES)
    mprt__log(&p->cb, MPRT_LOG_WARNING, "%s: %d more places", what, c.n - MAX_CHANGES);
}

/* ---- the files ---- */

static Status check_done(const mprt_program *p, const char *dir) {
  char *path = mprt__format("%s/DONE", dir), *want = NULL, *have = NULL;
  size_t bytes;
  Status s = path ? MPCC_OK : mprt__nomem(&p->cb, dir);
  if (s == MPCC_OK && access(path, F_OK) != 0)
    s = mprt__fail(&p->cb, MPCC_ERR_DATA, "checkpoint %s is not complete: it has no DONE", dir);
  if (s == MPCC_OK)
    s = mprt__file_read(path, 4096, &have, &bytes, &p->cb);
  if (s == MPCC_OK)
    s = mprt__checkpoint_done(p, dir, &want);
  if (s == MPCC_OK && strcmp(want, have) != 0)
    s = mprt__fail(&p->cb, MPCC_ERR_DATA, "checkpoint %s is damaged: state.json or DONE", dir);
  free(path);
  free(want);
  free(have);
  return s;
}

static Status check_file(const mprt_program *p, const char *dir, const json_t *root,
                         const char *name) {
  Status s;
  json_t *want = json_object_get(json_object_get(root, "files"), name);
  json_t *have = mprt__checkpoint_file(p, dir, name, &s);
  if (s == MPCC_OK && !json_equal(want, have))
    s = mprt__fail(&p->cb, MPCC_ERR_DATA,
                   "checkpoint %s is damaged: %s has %lld bytes and is not what was written", dir,
                   name, (long long)mprt__json_int(have, "bytes", 0));
  json_decref(have);
  return s;
}

/* state.json and the files it names, checked; *root is the caller's to decref. */
static Status open_state(const mprt_program *p, const char *dir, json_t **root) {
  char *path = mprt__format("%s/state.json", dir), *text = NULL;
  size_t bytes = 0;
  json_error_t e;
  *root = NULL;
  Status s = path ? check_done(p, dir) : mprt__nomem(&p->cb, dir);
  if (s == MPCC_OK)
    s = mprt__file_read(path, MAX_STATE_JSON, &text, &bytes, &p->cb);
  if (s == MPCC_OK) {
    *root = mprt__json_parse(text, bytes, &e);
    if (!*root)
      s = mprt__fail(&p->cb, MPCC_ERR_DATA, "%s:%d: %s", path, e.line, e.text);
    else if (mprt__json_int(*root, "schema", -1) != MPRT__STATE_SCHEMA)
      s = mprt__fail(&p->cb, MPCC_ERR_DATA, "%s: schema %lld, this program reads schema %d", path,
                     (long long)mprt__json_int(*root, "schema", -1), MPRT__STATE_SCHEMA);
  }
  free(text);
  free(path);
  if (s == MPCC_OK)
    s = check_file(p, dir, *root, "model.safetensors");
  if (s == MPCC_OK)
    s = check_file(p, dir, *root, "optimizer.safetensors");
  return s;
}

/* Where a tensor of the state is in the two files. */
typedef struct {
  const mprt__st_file *in;
  const mprt__st_tensor *tensor; /* NULL: nowhere */
  bool reset;                    /* --reset names it */
} Source;

/* Sources of all tensors, by index; the caller's to free. Masters come before narrow copies. */
static Status find_sources(const mprt_program *p, const mprt__st_file file[2], Source **out) {
  Source *source = *out = calloc((size_t)p->ntensor + 1, sizeof *source);
  if (!source)
    return mprt__nomem(&p->cb, file[0].path);
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!mprt__is_saved(p, i))
      continue;
    const char *name = mprt__string(p, p->tensor[i].name);
    source[i].in = &file[1];
    if (mprt__is_model_tensor(p, i)) {
      char *master = mprt__format(MPRT__MASTER "%s", name);
      if (!master)
        return mprt__nomem(&p->cb, file[1].path);
      source[i].tensor = mprt__st_find(&file[1], master);
      free(master);
      if (source[i].tensor)
        continue;
      source[i].in = &file[0];
    }
    source[i].tensor = mprt__st_find(source[i].in, name);
  }
  return MPCC_OK;
}

/* What another precision or watch adds or lacks, and starts anew: loss scaler, FP8 histories and scales,
 * statistics of outliers. */
static bool is_recalibrated(uint32_t role) {
  return role == ROLE_STATISTIC || role == ROLE_SCALER || role == ROLE_AMAX || role == ROLE_SCALE;
}

static bool is_recalibrated_name(const char *name) {
  return !strncmp(name, "outlier.", 8) || !strncmp(name, "scaler.", 7) || !strncmp(name, "fp8.", 4);
}

/* ---- --reset ---- */

/* Whether NAME (a pattern) is the dotted name or the front of it. */
static bool names(const char *pattern, const char *name) {
  char front[512];
  for (size_t at = 0;; at++) {
    at += strcspn(name + at, ".");
    if (at >= sizeof front)
      return false;
    memcpy(front, name, at);
    front[at] = 0;
    if (mprt__name_matches(pattern, front))
      return true;
    if (!name[at])
      return false;
  }
}

/* --reset=NAME of a tensor by its name in the files: a layer's or tensor's own name, whose moments and
 * masters go along; `optimizer`: all moments. Marks those that were of use. */
static bool is_reset(const mprt_program *p, const char *name, bool *used) {
  static const char *const fronts[] = {"optim.", MPRT__MASTER};
  bool found = false;
  for (int i = 0; i < p->options.nreset; i++) {
    const char *pattern = p->options.reset[i];
    bool hit = names(pattern, name);
    for (int k = 0; k < 2 && !hit; k++)
      if (!strncmp(name, fronts[k], strlen(fronts[k])))
        hit = names(pattern, name + strlen(fronts[k])) || (!k && !strcmp(pattern, "optimizer"));
    used[i] |= hit;
    found |= hit;
  }
  return found;
}

/* Tensors that start anew have no source. */
static void reset_sources(const mprt_program *p, Source *source, bool *used) {
  for (uint32_t i = 0; i < p->ntensor; i++)
    if (mprt__is_saved(p, i) && is_reset(p, mprt__string(p, p->tensor[i].name), used)) {
      source[i].tensor = NULL;
      source[i].reset = true;
    }
}

/* Shape and format of a source. Weights of 16 bits do not become masters: what was rounded away is
 * gone. */
static Status check_fit(const mprt_program *p, uint32_t i, const Source *source) {
  const mprt__st_tensor *t = source->tensor;
  const char *name = mprt__string(p, p->tensor[i].name);
  DType have = t->dtype, want = (DType)p->tensor[i].dtype;
  Status s = mprt__check_shape(p, i, source->in, t);
  if (s != MPCC_OK) {
    mprt__log(&p->cb, MPRT_LOG_INFO, "--reset=%s starts it anew", name);
    return s;
  }
  if (p->tensor[i].role == ROLE_PARAM && dtype_bytes(have) < 4 && have != want)
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "%s: '%s' is stored in %s alone, and this program's weights are %s: precision "
                      "changes where masters are stored; --weights starts from what there is",
                      source->in->path, name, dtype_text(have), dtype_text(want));
  return MPCC_OK;
}

/* One line for each pair of formats. */
static void tell_conversions(const mprt_program *p, const Source *source) {
  const char *first[MPCC_DTYPE_COUNT][MPCC_DTYPE_COUNT] = {{NULL}};
  int64_t n[MPCC_DTYPE_COUNT][MPCC_DTYPE_COUNT] = {{0}};
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const mprt__st_tensor *t = source[i].tensor;
    DType want = (DType)p->tensor[i].dtype;
    if (t && t->dtype != want && !n[t->dtype][want]++)
      first[t->dtype][want] = mprt__string(p, p->tensor[i].name);
  }
  for (int a = 0; a < MPCC_DTYPE_COUNT; a++)
    for (int b = 0; b < MPCC_DTYPE_COUNT; b++) {
      char more[60] = "";
      if (n[a][b] > 1)
        snprintf(more, sizeof more, ", as are %lld more tensors", (long long)n[a][b] - 1);
      if (n[a][b])
        mprt__log(&p->cb, MPRT_LOG_WARNING, "'%s' is converted from %s to %s%s", first[a][b],
                  dtype_text((DType)a), dtype_text((DType)b), more);
    }
}

/* Every tensor of the state has a source of its shape, or starts anew. */
static Status check_sources(const mprt_program *p, const Source *source) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!mprt__is_saved(p, i) || source[i].reset)
      continue;
    const char *name = mprt__string(p, p->tensor[i].name), *path = source[i].in->path;
    const mprt__st_tensor *t = source[i].tensor;
    if (!t && is_recalibrated(p->tensor[i].role)) {
      mprt__log(&p->cb, MPRT_LOG_WARNING, "%s has no '%s': it starts anew", path, name);
      continue;
    }
    Status s = MPCC_OK;
    if (!t)
      s = mprt__fail(&p->cb, MPCC_ERR_DATA,
                     "%s has no tensor '%s', which this program needs; --reset=NAME starts it anew",
                     path, name);
    else
      s = check_fit(p, i, &source[i]);
    if (s != MPCC_OK)
      return s;
  }
  tell_conversions(p, source);
  return MPCC_OK;
}

/* Every tensor of the files is one of the state. */
static Status check_leftovers(const mprt_program *p, const mprt__st_file file[2], bool *used) {
  for (int k = 0; k < 2; k++)
    for (size_t n = 0; n < file[k].ntensor; n++) {
      const char *name = file[k].tensor[n].name;
      bool master = k == 1 && !strncmp(name, MPRT__MASTER, strlen(MPRT__MASTER));
      int64_t i = mprt__tensor_index(p, master ? name + strlen(MPRT__MASTER) : name);
      bool known = i >= 0 && mprt__is_saved(p, (uint32_t)i) &&
                   mprt__is_model_tensor(p, (uint32_t)i) == (k == 0 || master);
      if (!known && is_reset(p, name, used))
        continue;
      if (!known && k == 1 && is_recalibrated_name(name))
        mprt__log(&p->cb, MPRT_LOG_WARNING, "%s: '%s' is not used by this program", file[k].path,
                  name);
      else if (!known)
        return mprt__fail(&p->cb, MPCC_ERR_DATA, "%s has tensor '%s', which this program lacks; --reset=NAME lets it go",
                          file[k].path, name);
    }
  return MPCC_OK;
}

/* First values for what the checkpoint lacks; padding between tensors is zero. */
static Status prepare_state(mprt_program *p, const Source *source) {
  bool whole = true;
  for (uint32_t i = 0; i < p->ntensor; i++)
    whole &= source[i].tensor || !mprt__is_saved(p, i);
  if (!whole)
    return mprt__init_state(p);
  p->initialized = true;
  return mprt__clear_state(p);
}

static Status read_tensors(mprt_program *p, const Source *source) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!source[i].tensor)
      continue;
    Status s = mprt__st_read(source[i].in, source[i].tensor, (DType)p->tensor[i].dtype,
                             mprt__tensor_data(p, i), &p->cb);
    if (s != MPCC_OK)
      return s;
  }
  return MPCC_OK;
}

/* A moving average that starts anew starts at its parameter. */
static void start_averages(mprt_program *p, const Source *source) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const char *kind = source[i].reset ? mprt__attr_string(p, i, "kind") : NULL;
    const char *of = kind && !strcmp(kind, "ema") ? mprt__attr_string(p, i, "of") : NULL;
    int64_t k = of ? mprt__tensor_index(p, of) : -1;
    if (k >= 0)
      mprt__convert(mprt__tensor_look(p, k), (DType)p->tensor[k].dtype, mprt__tensor_data(p, i),
                    (DType)p->tensor[i].dtype, mprt__tensor_elems(&p->tensor[i]));
  }
}

static void take_state(mprt_program *p, const json_t *root) {
  mprt__tell_changes(p, json_object_get(root, "spec"), "the spec changed since this checkpoint");
  if (p->cuda)
    mprt__cuda_recall(p, p->cuda, json_object_get(root, "products"));
  int64_t seed = mprt__json_int(root, "seed", p->seed);
  if (p->options.seed >= 0 && p->options.seed != seed)
    mprt__log(&p->cb, MPRT_LOG_WARNING, "seed %lld of the checkpoint is used, not %lld",
              (long long)seed, (long long)p->options.seed);
  mprt__set_seed(p, seed);
  p->cursor = (mprt__cursor){.epoch = mprt__json_int(root, "cursor.epoch", 0),
                             .sample = mprt__json_int(root, "cursor.sample", 0),
                             .best_step = mprt__json_int(root, "cursor.best_step", 0),
                             .best_value = mprt__json_double(root, "cursor.best_value", NAN),
                             .due = mprt__json_bool(root, "cursor.due", false)};
  json_decref(p->fit_state);
  p->fit_state = json_incref(json_object_get(root, "fit"));
}

static Status resume_from(mprt_program *p, const char *dir, mprt__st_file file[2]) {
  static const char *const names[2] = {"model.safetensors", "optimizer.safetensors"};
  json_t *root;
  Source *source = NULL;
  bool *used = calloc((size_t)p->options.nreset + 1, sizeof *used);
  Status s = used ? MPCC_OK : mprt__nomem(&p->cb, dir);
  if (s != MPCC_OK)
    return s;
  s = open_state(p, dir, &root);
  for (int k = 0; k < 2 && s == MPCC_OK; k++) {
    char *path = mprt__format("%s/%s", dir, names[k]);
    s = path ? mprt__st_open(path, &p->cb, &file[k]) : mprt__nomem(&p->cb, dir);
    free(path);
  }
  if (s == MPCC_OK)
    s = find_sources(p, file, &source);
  if (s == MPCC_OK) {
    reset_sources(p, source, used);
    s = check_sources(p, source);
  }
  if (s == MPCC_OK)
    s = check_leftovers(p, file, used);
  for (int i = 0; i < p->options.nreset && s == MPCC_OK; i++)
    if (!used[i])
      s = mprt__fail(&p->cb, MPCC_ERR_DATA, "--reset=%s names no tensor of this program or of %s",
                     p->options.reset[i], dir);
  /* From here on the state changes: all that can be wrong with the checkpoint was looked at. */
  if (s == MPCC_OK)
    s = prepare_state(p, source);
  if (s == MPCC_OK)
    s = read_tensors(p, source);
  if (s == MPCC_OK) {
    start_averages(p, source);
    take_state(p, root);
  }
  free(used);
  free(source);
  json_decref(root);
  return s;
}

mpcc_status mprt_resume(mprt_program *p, const char *dir) {
  char *path = NULL;
  mprt__st_file file[2] = {{.fd = -1}, {.fd = -1}};
  Status s = resolve(p, dir, &path);
  if (s == MPCC_OK)
    s = resume_from(p, path, file);
  if (s == MPCC_OK)
    mprt__log(&p->cb, MPRT_LOG_INFO, "goes on from %s", path);
  mprt__st_close(&file[0]);
  mprt__st_close(&file[1]);
  free(path);
  return s == MPCC_OK ? mprt__refresh(p) : s;
}
