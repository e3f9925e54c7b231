/* Checkpoint folders.
 *
 *   model.safetensors      parameters and running statistics, in save_dtype
 *   optimizer.safetensors  every other state tensor; `master.NAME` where save_dtype is not a
 * parameter's state.json             where training was: counters, seed, data cursor, spec; hashes
 * of the two DONE                   hash of state.json; written last
 *
 * A folder is written under another name, synced and renamed; what has no DONE, or does not match
 * its hashes, is no checkpoint. So whatever happens while one is written, those before it stay
 * good. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpcc/hash.h"
#include "runtime/fit.h"
#include "runtime/rt.h"

enum { SCHEMA = 1, MAX_STATE_JSON = 256 << 20 };
#define MASTER "master."

static char *hash_text(const uint64_t hash[2]) {
  return mprt__format("%016" PRIx64 "%016" PRIx64, hash[0], hash[1]);
}

/* ---- what is saved ---- */

static bool is_state(const mprt_program *p, uint32_t i) {
  return !p->flat[i] && p->tensor[i].segment == MPCC_SEG_STATE;
}

/* checkpoint.save_dtype of the spec ("float32", "bfloat16" or our short names); DT_COUNT: as they
 * are. */
static DType save_dtype(const mprt_program *p) {
  static const struct {
    const char *name;
    DType dtype;
  } torch[] = {
      {"float64", DT_F64}, {"float32", DT_F32}, {"bfloat16", DT_BF16}, {"float16", DT_F16}};
  const char *text = mprt__json_string(p->spec, "checkpoint.save_dtype", "");
  for (size_t i = 0; i < sizeof torch / sizeof *torch; i++)
    if (!strcmp(text, torch[i].name))
      return torch[i].dtype;
  DType d = dtype_from_text(text);
  return d != DT_COUNT && dtype_is_float(d) ? d : DT_COUNT;
}

static Status write_optimizer(const mprt_program *p, const char *path, DType dtype) {
  size_t n = 0;
  mprt__st_item *items = calloc((size_t)p->ntensor + 1, sizeof *items);
  char **names = calloc((size_t)p->ntensor + 1, sizeof *names); /* of masters */
  Status s = items && names ? MPCC_OK : mprt__nomem(&p->cb, path);
  for (uint32_t i = 0; i < p->ntensor && s == MPCC_OK; i++) {
    if (!is_state(p, i))
      continue;
    bool model = mprt__is_model_tensor(p, i);
    if (model && (p->tensor[i].role != ROLE_PARAM || dtype == DT_COUNT ||
                  dtype == (DType)p->tensor[i].dtype))
      continue;
    items[n] = mprt__item(p, i, DT_COUNT);
    if (model) {
      items[n].name = names[n] = mprt__format(MASTER "%s", items[n].name);
      if (!names[n])
        s = mprt__nomem(&p->cb, path);
    }
    n++;
  }
  if (s == MPCC_OK)
    s = mprt__device_status(p);
  if (s == MPCC_OK)
    s = mprt__st_write(path, items, n, NULL, &p->cb);
  for (size_t i = 0; names && i < n; i++)
    free(names[i]);
  free(names);
  free(items);
  return s;
}

/* ---- state.json ---- */

/* Scalars of a role by name: for people and tools; resuming reads the tensors. */
static json_t *scalars_of_role(const mprt_program *p, mprt__role role) {
  json_t *o = json_object();
  for (uint32_t i = 0; o && i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    const char *name = mprt__string(p, t->name);
    if (t->role != (uint32_t)role || !is_state(p, i) || mprt__tensor_elems(t) != 1)
      continue;
    double v = mprt__get_scalar(p, name, 0);
    json_t *value = !dtype_is_float((DType)t->dtype) ? json_integer(mprt__get_int(p, name, 0))
                    : isfinite(v)                    ? json_real(v)
                                                     : json_null();
    if (json_object_set_new(o, name, value) != 0) {
      json_decref(o);
      o = NULL;
    }
  }
  return o;
}

static json_t *cursor_json(const mprt__cursor *c) {
  return json_pack("{s:I, s:I, s:I, s:o}", "epoch", (json_int_t)c->epoch, "sample",
                   (json_int_t)c->sample, "best_step", (json_int_t)c->best_step, "best_value",
                   isfinite(c->best_value) ? json_real(c->best_value) : json_null());
}

/* {"bytes": n, "hash": "..."} of a file of the folder; NULL after an error in *s. */
static json_t *file_json(const mprt_program *p, const char *dir, const char *name, Status *s) {
  uint64_t hash[2], bytes;
  char *path = mprt__format("%s/%s", dir, name);
  *s = path ? mprt__file_hash(path, hash, &bytes, &p->cb) : mprt__nomem(&p->cb, name);
  char *text = *s == MPCC_OK ? hash_text(hash) : NULL;
  json_t *o = text ? json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "hash", text) : NULL;
  if (*s == MPCC_OK && !o)
    *s = mprt__nomem(&p->cb, name);
  free(text);
  free(path);
  return o;
}

/* Hash of the resolved spec, whatever the order of its keys. */
static char *spec_hash(const mprt_program *p) {
  char *text = mprt__json_text(p->spec, JSON_COMPACT | JSON_SORT_KEYS);
  if (!text)
    return NULL;
  MpccHash h;
  uint64_t hash[2];
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, text, strlen(text));
  mpcc_hash_finish(&h, hash);
  free(text);
  return hash_text(hash);
}

static Status write_state(const mprt_program *p, const char *dir) {
  Status s, s2;
  json_t *model = file_json(p, dir, "model.safetensors", &s);
  json_t *optimizer = file_json(p, dir, "optimizer.safetensors", &s2);
  s = s != MPCC_OK ? s : s2;
  char *hash = spec_hash(p), *path = mprt__format("%s/state.json", dir), *text = NULL;
  json_t *root = NULL;
  if (s == MPCC_OK && hash && path)
    root = json_pack("{s:i, s:s, s:s, s:I, s:o, s:o, s:o, s:O*, s:i, s:s, s:O, s:{s:O, s:O}}",
                     "schema", SCHEMA, "mpcc", MPCC_VERSION, "name",
                     mprt__json_string(p->meta, "name", ""), "seed", (json_int_t)p->seed,
                     "counters", scalars_of_role(p, ROLE_COUNTER), "scaler",
                     scalars_of_role(p, ROLE_SCALER), "cursor", cursor_json(&p->cursor), "fit",
                     p->fit_state, "world_size", 1, "spec_hash", hash, "spec", p->spec, "files",
                     "model.safetensors", model, "optimizer.safetensors", optimizer);
  if (root)
    text = mprt__json_text(root, JSON_INDENT(1) | JSON_SORT_KEYS);
  if (s == MPCC_OK && !text)
    s = mprt__nomem(&p->cb, "state.json");
  if (s == MPCC_OK)
    s = mprt__file_write(path, text, strlen(text), &p->cb);
  json_decref(model);
  json_decref(optimizer);
  json_decref(root);
  free(text);
  free(path);
  free(hash);
  return s;
}

/* Content of DONE for the state.json in dir. */
static Status done_text(const mprt_program *p, const char *dir, char **out) {
  uint64_t hash[2], bytes;
  char *path = mprt__format("%s/state.json", dir);
  *out = NULL;
  Status s = path ? mprt__file_hash(path, hash, &bytes, &p->cb) : mprt__nomem(&p->cb, dir);
  char *text = s == MPCC_OK ? hash_text(hash) : NULL;
  *out = text ? mprt__format("state.json %s\n", text) : NULL;
  free(text);
  free(path);
  return s == MPCC_OK && !*out ? mprt__nomem(&p->cb, dir) : s;
}

static Status write_done(const mprt_program *p, const char *dir) {
  char *text, *path = mprt__format("%s/DONE", dir);
  Status s = done_text(p, dir, &text);
  if (s == MPCC_OK && !path)
    s = mprt__nomem(&p->cb, dir);
  if (s == MPCC_OK)
    s = mprt__file_write(path, text, strlen(text), &p->cb);
  if (s == MPCC_OK)
    s = mprt__dir_sync(dir, &p->cb);
  free(path);
  free(text);
  return s;
}

/* ---- saving ---- */

/* Splits "a/b/c/" into "a/b" and "c"; both malloc'ed. */
static Status split_path(const char *dir, char **parent, char **name, const mprt_callbacks *cb) {
  size_t len = strlen(dir);
  while (len > 1 && dir[len - 1] == '/')
    len--;
  size_t at = len;
  while (at > 0 && dir[at - 1] != '/')
    at--;
  *name = strndup(dir + at, len - at);
  *parent = at == 0 ? strdup(".") : strndup(dir, at > 1 ? at - 1 : 1);
  if (*name && *parent && **name)
    return MPCC_OK;
  bool memory = !*name || !*parent;
  free(*name);
  free(*parent);
  *name = *parent = NULL;
  return memory ? mprt__nomem(cb, dir)
                : mprt__fail(cb, MPCC_ERR_FILE, "'%s' is no name for a checkpoint", dir);
}

static Status write_folder(const mprt_program *p, const char *dir) {
  DType dtype = save_dtype(p);
  char *model = mprt__format("%s/model.safetensors", dir);
  char *optimizer = mprt__format("%s/optimizer.safetensors", dir);
  Status s = model && optimizer ? MPCC_OK : mprt__nomem(&p->cb, dir);
  if (s == MPCC_OK)
    s = mprt__dir_make(dir, &p->cb);
  if (s == MPCC_OK)
    s = mprt__write_model(p, model, dtype);
  if (s == MPCC_OK)
    s = write_optimizer(p, optimizer, dtype);
  if (s == MPCC_OK)
    s = write_state(p, dir);
  if (s == MPCC_OK)
    s = mprt__dir_sync(dir, &p->cb);
  free(model);
  free(optimizer);
  return s;
}

/* Puts the finished folder in place of `dir`. A new name: rename, then DONE. A name in use: DONE,
 * then the two folders change places in one step, so that there is a complete one at all times. */
static Status install(const mprt_program *p, const char *temporary, const char *dir,
                      const char *parent) {
  struct stat st;
  bool replace = lstat(dir, &st) == 0;
  Status s = replace ? write_done(p, temporary) : MPCC_OK;
  if (s != MPCC_OK)
    return s;
  if (renameat2(AT_FDCWD, temporary, AT_FDCWD, dir, replace ? RENAME_EXCHANGE : 0) != 0)
    return mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot rename %s to %s: %s", temporary, dir,
                      strerror(errno));
  if (replace) {
    (void)mprt__dir_remove(temporary); /* the old one; a later save removes what is left */
  } else {
    s = write_done(p, dir);
    if (s != MPCC_OK) {
      (void)mprt__dir_remove(dir);
      return s;
    }
  }
  return mprt__dir_sync(parent, &p->cb);
}

mpcc_status mprt_save_checkpoint(mprt_program *p, const char *dir) {
  char *parent, *name;
  Status s = split_path(dir, &parent, &name, &p->cb);
  if (s != MPCC_OK)
    return s;
  char *temporary = mprt__format("%s/.%s.tmp", parent, name);
  char *final = mprt__format("%s/%s", parent, name);
  if (!temporary || !final)
    s = mprt__nomem(&p->cb, dir);
  else if (!mprt__dir_remove(temporary))
    s = mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot remove %s: %s", temporary, strerror(errno));
  if (s == MPCC_OK)
    s = write_folder(p, temporary);
  if (s == MPCC_OK)
    s = install(p, temporary, final, parent);
  if (s != MPCC_OK && temporary)
    (void)mprt__dir_remove(temporary);
  free(temporary);
  free(final);
  free(parent);
  free(name);
  return s;
}

Status mprt__checkpoint_link(const char *dir, const char *link, const mprt_callbacks *cb) {
  char *parent, *name;
  Status s = split_path(dir, &parent, &name, cb);
  if (s != MPCC_OK)
    return s;
  char *path = mprt__format("%s/%s", parent, link);
  char *temporary = mprt__format("%s/.%s.tmp", parent, link);
  if (!path || !temporary) {
    s = mprt__nomem(cb, dir);
  } else {
    (void)unlink(temporary);
    if (symlink(name, temporary) != 0 || rename(temporary, path) != 0) {
      s = mprt__fail(cb, MPCC_ERR_FILE, "cannot link %s: %s", path, strerror(errno));
      (void)unlink(temporary);
    } else {
      s = mprt__dir_sync(parent, cb);
    }
  }
  free(path);
  free(temporary);
  free(parent);
  free(name);
  return s;
}

/* ---- finding ---- */

bool mprt__checkpoint_complete(const char *dir) {
  char *path = mprt__format("%s/DONE", dir);
  bool there = path && access(path, R_OK) == 0;
  free(path);
  return there;
}

char *mprt__checkpoint_newest(const char *folder) {
  DIR *d = opendir(folder);
  char *best = NULL;
  int64_t best_step = -1;
  for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
    char *end;
    if (strncmp(e->d_name, "step-", 5) != 0)
      continue;
    int64_t step = strtoll(e->d_name + 5, &end, 10);
    if (end == e->d_name + 5 || *end || step <= best_step)
      continue;
    char *path = mprt__format("%s/%s", folder, e->d_name);
    if (path && mprt__checkpoint_complete(path)) {
      free(best);
      best = path;
      best_step = step;
    } else {
      free(path);
    }
  }
  if (d)
    closedir(d);
  return best;
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
    s = mprt__fail(&p->cb, MPCC_ERR_FILE, "there is no complete checkpoint%s%s", *dir ? " in " : "",
                   dir);
  free(state);
  free(folder);
  return s;
}

/* ---- resuming ---- */

static Status check_done(const mprt_program *p, const char *dir) {
  char *path = mprt__format("%s/DONE", dir), *want = NULL, *have = NULL;
  size_t bytes;
  Status s = path ? MPCC_OK : mprt__nomem(&p->cb, dir);
  if (s == MPCC_OK && access(path, F_OK) != 0)
    s = mprt__fail(&p->cb, MPCC_ERR_DATA, "checkpoint %s is not complete: it has no DONE", dir);
  if (s == MPCC_OK)
    s = mprt__file_read(path, 4096, &have, &bytes, &p->cb);
  if (s == MPCC_OK)
    s = done_text(p, dir, &want);
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
  json_t *have = file_json(p, dir, name, &s);
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
    else if (mprt__json_int(*root, "schema", -1) != SCHEMA)
      s = mprt__fail(&p->cb, MPCC_ERR_DATA, "%s: schema %lld, this program reads schema %d", path,
                     (long long)mprt__json_int(*root, "schema", -1), SCHEMA);
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
} Source;

/* Sources of all tensors, by index; the caller's to free. Masters come before narrow copies. */
static Status find_sources(const mprt_program *p, const mprt__st_file file[2], Source **out) {
  Source *source = *out = calloc((size_t)p->ntensor + 1, sizeof *source);
  if (!source)
    return mprt__nomem(&p->cb, file[0].path);
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!is_state(p, i))
      continue;
    const char *name = mprt__string(p, p->tensor[i].name);
    source[i].in = &file[1];
    if (mprt__is_model_tensor(p, i)) {
      char *master = mprt__format(MASTER "%s", name);
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

/* Every tensor of the state has a source of its shape. */
static Status check_sources(const mprt_program *p, const Source *source) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!is_state(p, i))
      continue;
    const char *name = mprt__string(p, p->tensor[i].name), *path = source[i].in->path;
    const mprt__st_tensor *t = source[i].tensor;
    if (!t && is_recalibrated(p->tensor[i].role)) {
      mprt__log(&p->cb, MPRT_LOG_WARNING, "%s has no '%s': it starts anew", path, name);
      continue;
    }
    if (!t)
      return mprt__fail(&p->cb, MPCC_ERR_DATA, "%s has no tensor '%s', which this program needs",
                        path, name);
    Status s = mprt__check_shape(p, i, source[i].in, t);
    if (s != MPCC_OK)
      return s;
    if (t->dtype != (DType)p->tensor[i].dtype)
      mprt__log(&p->cb, MPRT_LOG_WARNING, "'%s' is converted from %s to %s", name,
                dtype_text(t->dtype), dtype_text((DType)p->tensor[i].dtype));
  }
  return MPCC_OK;
}

/* Every tensor of the files is one of the state. */
static Status check_leftovers(const mprt_program *p, const mprt__st_file file[2]) {
  for (int k = 0; k < 2; k++)
    for (size_t n = 0; n < file[k].ntensor; n++) {
      const char *name = file[k].tensor[n].name;
      bool master = k == 1 && !strncmp(name, MASTER, strlen(MASTER));
      int64_t i = mprt__tensor_index(p, master ? name + strlen(MASTER) : name);
      bool known = i >= 0 && is_state(p, (uint32_t)i) &&
                   mprt__is_model_tensor(p, (uint32_t)i) == (k == 0 || master);
      if (!known && k == 1 && is_recalibrated_name(name))
        mprt__log(&p->cb, MPRT_LOG_WARNING, "%s: '%s' is not used by this program", file[k].path,
                  name);
      else if (!known)
        return mprt__fail(&p->cb, MPCC_ERR_DATA, "%s has tensor '%s', which this program lacks",
                          file[k].path, name);
    }
  return MPCC_OK;
}

/* First values for what the checkpoint lacks; padding between tensors is zero. */
static Status prepare_state(mprt_program *p, const Source *source) {
  bool whole = true;
  for (uint32_t i = 0; i < p->ntensor; i++)
    whole &= source[i].tensor || !is_state(p, i);
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

static void take_state(mprt_program *p, const json_t *root) {
  char path[512];
  if (mprt__json_differs(json_object_get(root, "spec"), p->spec, path, sizeof path))
    mprt__log(&p->cb, MPRT_LOG_WARNING, "the spec changed since this checkpoint, first at '%s'",
              path);
  int64_t seed = mprt__json_int(root, "seed", p->seed);
  if (p->options.seed >= 0 && p->options.seed != seed)
    mprt__log(&p->cb, MPRT_LOG_WARNING, "seed %lld of the checkpoint is used, not %lld",
              (long long)seed, (long long)p->options.seed);
  mprt__set_seed(p, seed);
  p->cursor = (mprt__cursor){.epoch = mprt__json_int(root, "cursor.epoch", 0),
                             .sample = mprt__json_int(root, "cursor.sample", 0),
                             .best_step = mprt__json_int(root, "cursor.best_step", 0),
                             .best_value = mprt__json_double(root, "cursor.best_value", NAN)};
  json_decref(p->fit_state);
  p->fit_state = json_incref(json_object_get(root, "fit"));
}

static Status resume_from(mprt_program *p, const char *dir, mprt__st_file file[2]) {
  static const char *const names[2] = {"model.safetensors", "optimizer.safetensors"};
  json_t *root;
  Source *source = NULL;
  Status s = open_state(p, dir, &root);
  for (int k = 0; k < 2 && s == MPCC_OK; k++) {
    char *path = mprt__format("%s/%s", dir, names[k]);
    s = path ? mprt__st_open(path, &p->cb, &file[k]) : mprt__nomem(&p->cb, dir);
    free(path);
  }
  if (s == MPCC_OK)
    s = find_sources(p, file, &source);
  if (s == MPCC_OK)
    s = check_sources(p, source);
  if (s == MPCC_OK)
    s = check_leftovers(p, file);
  /* From here on the state changes: all that can be wrong with the checkpoint was looked at. */
  if (s == MPCC_OK)
    s = prepare_state(p, source);
  if (s == MPCC_OK)
    s = read_tensors(p, source);
  if (s == MPCC_OK)
    take_state(p, root);
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
  mprt__st_close(&file[0]);
  mprt__st_close(&file[1]);
  free(path);
  return s == MPCC_OK ? mprt__refresh(p) : s;
}
