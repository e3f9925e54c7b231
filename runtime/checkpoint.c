/* Checkpoint folders.
 *
 *   model.safetensors      parameters and running statistics, in save_dtype
 *   optimizer.safetensors  every other state tensor; `master.NAME` where save_dtype is not a parameter's
 *   state.json             where training was: counters, seed, data cursor, spec; hashes of the two
 *   DONE                   hash of state.json; written last
 *
 * A folder is written under another name, synced and renamed when DONE is in it; what has no DONE, or does
 * not match its hashes, is no checkpoint. So whatever happens while one is written, those before it stay
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
#include "runtime/cuda/device.h"
#include "runtime/fit.h"
#include "runtime/rt.h"

static char *hash_text(const uint64_t hash[2]) {
  return mprt__format("%016" PRIx64 "%016" PRIx64, hash[0], hash[1]);
}

/* ---- what is saved ---- */

/* MPCC_DTYPE_COUNT: as they are. */
static DType save_dtype(const mprt_program *p) {
  return dtype_from_torch(mprt__json_string(p->spec, "checkpoint.save_dtype", ""));
}

static Status write_optimizer(const mprt_program *p, const char *path, DType dtype) {
  size_t n = 0;
  mprt__st_item *items = calloc((size_t)p->ntensor + 1, sizeof *items);
  char **names = calloc((size_t)p->ntensor + 1, sizeof *names); /* of masters */
  Status s = items && names ? MPCC_OK : mprt__nomem(&p->cb, path);
  for (uint32_t i = 0; i < p->ntensor && s == MPCC_OK; i++) {
    if (!mprt__is_saved(p, i))
      continue;
    bool model = mprt__is_model_tensor(p, i);
    if (model && (p->tensor[i].role != ROLE_PARAM || dtype == MPCC_DTYPE_COUNT ||
                  dtype == (DType)p->tensor[i].dtype))
      continue;
    items[n] = mprt__item(p, i, MPCC_DTYPE_COUNT);
    if (model) {
      items[n].name = names[n] = mprt__format(MPRT__MASTER "%s", items[n].name);
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
    if (t->role != (uint32_t)role || !mprt__is_saved(p, i) || mprt__tensor_elems(t) != 1)
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
  return json_pack("{s:I, s:I, s:I, s:o, s:b}", "epoch", (json_int_t)c->epoch, "sample",
                   (json_int_t)c->sample, "best_step", (json_int_t)c->best_step, "best_value",
                   isfinite(c->best_value) ? json_real(c->best_value) : json_null(), "due",
                   c->due);
}

json_t *mprt__checkpoint_file(const mprt_program *p, const char *dir, const char *name, Status *s) {
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
  json_t *model = mprt__checkpoint_file(p, dir, "model.safetensors", &s);
  json_t *optimizer = mprt__checkpoint_file(p, dir, "optimizer.safetensors", &s2);
  s = s != MPCC_OK ? s : s2;
  char *hash = spec_hash(p), *path = mprt__format("%s/state.json", dir), *text = NULL;
  json_t *root = NULL;
  if (s == MPCC_OK && hash && path)
    root = json_pack("{s:i, s:s, s:s, s:I, s:o, s:o, s:o, s:O*, s:i, s:s, s:O, s:{s:O, s:O}, s:o*}",
                     "schema", MPRT__STATE_SCHEMA, "mpcc", MPCC_VERSION, "name",
                     mprt__json_string(p->meta, "name", ""), "seed", (json_int_t)p->seed,
                     "counters", scalars_of_role(p, ROLE_COUNTER), "scaler",
                     scalars_of_role(p, ROLE_SCALER), "cursor", cursor_json(&p->cursor), "fit",
                     p->fit_state, "world_size", 1, "spec_hash", hash, "spec", p->spec, "files",
                     "model.safetensors", model, "optimizer.safetensors", optimizer, "products",
                     p->cuda ? mprt__cuda_algorithms(p, p->cuda) : NULL);
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

Status mprt__checkpoint_done(const mprt_program *p, const char *dir, char **out) {
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
  Status s = mprt__checkpoint_done(p, dir, &text);
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
    s = write_done(p, dir);
  free(model);
  free(optimizer);
  return s;
}

/* Puts the finished folder in place of `dir`: a rename, or, where the name is in use, an exchange of the
 * two. Either is one step, and DONE is inside already: nobody ever sees a folder with half of a DONE. */
static Status install(const mprt_program *p, const char *temporary, const char *dir,
                      const char *parent) {
  struct stat st;
  bool replace = lstat(dir, &st) == 0;
  if (renameat2(AT_FDCWD, temporary, AT_FDCWD, dir, replace ? RENAME_EXCHANGE : 0) != 0)
    return mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot rename %s to %s: %s", temporary, dir,
                      strerror(errno));
  if (replace)
    (void)mprt__dir_remove(temporary); /* the old one; a later save removes what is left */
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

int64_t mprt__checkpoint_step(const char *name) {
  char *end;
  if (strncmp(name, "step-", 5) != 0)
    return -1;
  int64_t step = strtoll(name + 5, &end, 10);
  return end == name + 5 || *end ? -1 : step;
}

char *mprt__checkpoint_newest(const char *folder) {
  DIR *d = opendir(folder);
  char *best = NULL;
  int64_t best_step = -1;
  for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
    int64_t step = mprt__checkpoint_step(e->d_name);
    if (step <= best_step)
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
