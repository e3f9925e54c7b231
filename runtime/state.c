/* Tensors by name, first values, and weights in and out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpcc/num.h"
#include "runtime/cuda/device.h"
#include "runtime/rt.h"

enum { MAX_NAMED = 8 }; /* problems of one kind that are named one by one */

/* ---- names ---- */

const char *mprt__role_text(uint32_t role) {
  static const char *const text[] = {
#define ROLE(id, word, segment, doc) word,
#include "mpcc/roles.def"
#undef ROLE
  };
  return role < ROLE_COUNT ? text[role] : "";
}

int64_t mprt__tensor_index(const mprt_program *p, const char *name) {
  uint32_t lo = 0, hi = p->ntensor;
  while (lo < hi) {
    uint32_t mid = lo + (hi - lo) / 2;
    int order = strcmp(name, mprt__string(p, p->tensor[p->by_name[mid]].name));
    if (order == 0)
      return p->by_name[mid];
    if (order < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return -1;
}

int64_t mprt__tensor_of_role(const mprt_program *p, mprt__role role) {
  for (uint32_t i = 0; i < p->ntensor; i++)
    if (p->tensor[i].role == (uint32_t)role && !p->flat[i])
      return i;
  return -1;
}

/* A device that fails keeps failing: the next run says so. */
static void *values(const mprt_program *p, int64_t i, bool write) {
  if (p->cuda)
    (void)mprt__cuda_share(p, p->cuda, (uint32_t)i, write);
  return p->segment[p->tensor[i].segment].data + p->tensor[i].offset;
}

void *mprt__tensor_data(const mprt_program *p, int64_t i) {
  return values(p, i, true);
}

void *mprt__tensor_part(const mprt_program *p, int64_t i, uint64_t offset, uint64_t bytes) {
  const MpccTensor *t = &p->tensor[i];
  if (p->cuda)
    mprt__cuda_will_write(p, p->cuda, (uint32_t)i, offset, bytes);
  return p->segment[t->segment].data + t->offset + offset;
}

const void *mprt__tensor_look(const mprt_program *p, int64_t i) {
  return values(p, i, false);
}

Status mprt__device_status(const mprt_program *p) {
  return p->cuda ? mprt__cuda_status(p->cuda) : MPCC_OK;
}

int mprt_tensor_count(const mprt_program *p) {
  return (int)p->ntensor;
}

bool mprt_tensor_at(mprt_program *p, int i, mprt_tensor *out) {
  memset(out, 0, sizeof *out);
  if (i < 0 || (uint32_t)i >= p->ntensor)
    return false;
  const MpccTensor *t = &p->tensor[i];
  const char *attrs = mprt__string(p, t->attrs);
  *out = (mprt_tensor){.name = mprt__string(p, t->name),
                       .dtype = (DType)t->dtype,
                       .rank = (int)t->rank,
                       .dim = t->dim,
                       .data = mprt__tensor_data(p, i),
                       .bytes = (size_t)t->bytes,
                       .role = mprt__role_text(t->role),
                       .attrs = *attrs ? attrs : "{}"};
  return true;
}

bool mprt_find(mprt_program *p, const char *name, mprt_tensor *out) {
  return mprt_tensor_at(p, (int)mprt__tensor_index(p, name), out);
}

const char *mprt__attr_string(const mprt_program *p, int64_t i, const char *key) {
  return json_string_value(json_object_get(p->attrs[i], key));
}

int64_t mprt__attr_int(const mprt_program *p, int64_t i, const char *key, int64_t otherwise) {
  const json_t *v = json_object_get(p->attrs[i], key);
  return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

/* ---- scalars ---- */

static int64_t scalar_index(const mprt_program *p, const char *name) {
  int64_t i = mprt__tensor_index(p, name);
  return i >= 0 && mprt__tensor_elems(&p->tensor[i]) == 1 ? i : -1;
}

double mprt__get_scalar(const mprt_program *p, const char *name, double otherwise) {
  int64_t i = scalar_index(p, name);
  return i < 0 ? otherwise : num_load(mprt__tensor_look(p, i), (DType)p->tensor[i].dtype);
}

int64_t mprt__get_int(const mprt_program *p, const char *name, int64_t otherwise) {
  int64_t i = scalar_index(p, name), v = otherwise;
  if (i >= 0 && p->tensor[i].dtype == MPCC_I64)
    memcpy(&v, mprt__tensor_look(p, i), sizeof v);
  else if (i >= 0)
    v = (int64_t)num_round(mprt__get_scalar(p, name, 0), MPCC_I32);
  return v;
}

bool mprt__set_scalar(mprt_program *p, const char *name, double value) {
  int64_t i = scalar_index(p, name);
  if (i < 0)
    return false;
  num_store(mprt__tensor_data(p, i), (DType)p->tensor[i].dtype, value);
  return true;
}

bool mprt__set_int(mprt_program *p, const char *name, int64_t value) {
  int64_t i = scalar_index(p, name);
  if (i >= 0 && p->tensor[i].dtype == MPCC_I64) {
    memcpy(mprt__tensor_data(p, i), &value, sizeof value);
    return true;
  }
  return mprt__set_scalar(p, name, (double)value);
}

void mprt__convert(const void *from, DType from_dtype, void *to, DType to_dtype, int64_t n) {
  size_t from_size = dtype_bytes(from_dtype), to_size = dtype_bytes(to_dtype);
  if (from_dtype == to_dtype) {
    if (n > 0)
      memcpy(to, from, (size_t)n * from_size);
    return;
  }
  const uint8_t *f = from;
  uint8_t *t = to;
  if (from_dtype == MPCC_BF16 && to_dtype == MPCC_F32) {
    for (int64_t i = 0; i < n; i++) {
      uint16_t code;
      memcpy(&code, f + 2 * i, 2);
      float v = num_bf16_to_f32(code);
      memcpy(t + 4 * i, &v, 4);
    }
  } else if (from_dtype == MPCC_F32 && to_dtype == MPCC_BF16) {
    for (int64_t i = 0; i < n; i++) {
      float v;
      memcpy(&v, f + 4 * i, 4);
      uint16_t code = num_f32_to_bf16(v);
      memcpy(t + 2 * i, &code, 2);
    }
  } else {
    for (int64_t i = 0; i < n; i++)
      num_store(t + (size_t)i * to_size, to_dtype, num_load(f + (size_t)i * from_size, from_dtype));
  }
}

/* ---- first values ---- */

Status mprt__clear_state(mprt_program *p) {
  if (p->cuda)
    return mprt__cuda_clear(p, p->cuda, MPCC_SEG_STATE);
  if (p->segment[MPCC_SEG_STATE].bytes > 0)
    memset(p->segment[MPCC_SEG_STATE].data, 0, p->segment[MPCC_SEG_STATE].bytes);
  return MPCC_OK;
}

Status mprt__refresh(mprt_program *p) {
  const MpccFunction *f = mprt__function(p, "refresh");
  const Status s = p->cuda ? mprt__cuda_choose(p, p->cuda) : MPCC_OK;
  return s == MPCC_OK && f ? mprt__run(p, f, NULL, NULL) : s;
}

void mprt__set_seed(mprt_program *p, int64_t seed) {
  p->seed = seed;
  int64_t i = mprt__tensor_of_role(p, ROLE_SEED);
  if (i >= 0)
    mprt__set_int(p, mprt__string(p, p->tensor[i].name), seed);
}

Status mprt__init_state(mprt_program *p) {
  mprt__set_seed(p, p->seed);
  Status s = mprt__clear_state(p);
  if (s == MPCC_OK)
    s = mprt_run(p, "init");
  p->initialized = s == MPCC_OK;
  return s;
}

mpcc_status mprt_init(mprt_program *p) {
  Status s = mprt__init_state(p);
  if (s == MPCC_OK)
    s = mprt__init_from(p);
  if (s == MPCC_OK)
    s = mprt__ema_begin(p);
  return s == MPCC_OK ? mprt__refresh(p) : s;
}

/* ---- weights ---- */

bool mprt__is_model_tensor(const mprt_program *p, uint32_t i) {
  return !p->flat[i] && p->tensor[i].segment == MPCC_SEG_STATE &&
         (p->tensor[i].role == ROLE_PARAM || p->tensor[i].role == ROLE_BUFFER);
}

void mprt__shape_text(int rank, const int64_t *dim, char *buf, size_t cap) {
  size_t at = 0;
  buf[0] = 0;
  for (int d = 0; d < rank && at < cap; d++)
    at += (size_t)snprintf(buf + at, cap - at, "%s%lld", d ? ", " : "", (long long)dim[d]);
}

Status mprt__check_shape(const mprt_program *p, uint32_t i, const mprt__st_file *f,
                         const mprt__st_tensor *t) {
  const MpccTensor *own = &p->tensor[i];
  bool same = t->rank == (int)own->rank;
  for (int d = 0; same && d < t->rank; d++)
    same = t->dim[d] == own->dim[d];
  char a[200], b[200];
  if (!same) {
    mprt__shape_text(t->rank, t->dim, a, sizeof a);
    mprt__shape_text((int)own->rank, own->dim, b, sizeof b);
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "%s: tensor '%s' has shape [%s], this program has [%s]", f->path, t->name, a,
                      b);
  }
  if (t->dtype != (DType)own->dtype && (t->dtype == MPCC_DTYPE_COUNT || !dtype_is_float(t->dtype) ||
                                        !dtype_is_float((DType)own->dtype)))
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "%s: tensor '%s' cannot be converted to %s, which this program keeps it in",
                      f->path, t->name, dtype_text((DType)own->dtype));
  return MPCC_OK;
}

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), m = strlen(end);
  return n >= m && !strcmp(s + n - m, end);
}

/* Names problems of one kind, the first few one by one. */
static void name_problem(const mprt_program *p, bool strict, int *count, const char *path,
                         const char *what, const char *name) {
  if ((*count)++ < MAX_NAMED)
    mprt__log(&p->cb, strict ? MPRT_LOG_ERROR : MPRT_LOG_WARNING, "%s: %s '%s'", path, what, name);
}

/* Compares the file with the model; nothing is read yet. */
static Status check_weights(const mprt_program *p, const mprt__st_file *f, bool strict) {
  int missing = 0, unexpected = 0, wrong = 0;
  for (uint32_t i = 0; i < p->ntensor; i++) {
    if (!mprt__is_model_tensor(p, i))
      continue;
    const char *name = mprt__string(p, p->tensor[i].name);
    const mprt__st_tensor *t = mprt__st_find(f, name);
    if (!t)
      name_problem(p, strict, &missing, f->path, "missing tensor", name);
    else
      wrong += mprt__check_shape(p, i, f, t) != MPCC_OK;
  }
  for (size_t k = 0; k < f->ntensor; k++) {
    int64_t i = mprt__tensor_index(p, f->tensor[k].name);
    if (i >= 0 && mprt__is_model_tensor(p, (uint32_t)i))
      continue;
    if (ends_with(f->tensor[k].name, "num_batches_tracked"))
      continue; /* torch counts batches there; nothing in a model depends on it */
    name_problem(p, strict, &unexpected, f->path, "unexpected tensor", f->tensor[k].name);
  }
  if (wrong > 0 || (strict && missing + unexpected > 0))
    return mprt__fail(
        &p->cb, MPCC_ERR_DATA,
        "%s does not fit this program: %d missing, %d unexpected, %d of another shape", f->path,
        missing, unexpected, wrong);
  return MPCC_OK;
}

mpcc_status mprt_load_weights(mprt_program *p, const char *path, bool strict) {
  mprt__st_file f;
  Status s = mprt__st_open(path, &p->cb, &f);
  if (s != MPCC_OK)
    return s;
  s = check_weights(p, &f, strict);
  if (s == MPCC_OK && !p->initialized)
    s = mprt__init_state(p);
  for (uint32_t i = 0; i < p->ntensor && s == MPCC_OK; i++) {
    const mprt__st_tensor *t =
        mprt__is_model_tensor(p, i) ? mprt__st_find(&f, mprt__string(p, p->tensor[i].name)) : NULL;
    if (t)
      s = mprt__st_read(&f, t, (DType)p->tensor[i].dtype, mprt__tensor_data(p, i), &p->cb);
  }
  mprt__st_close(&f);
  if (s == MPCC_OK)
    s = mprt__ema_begin(p);
  return s == MPCC_OK ? mprt__refresh(p) : s;
}

Status mprt__write_model(const mprt_program *p, const char *path, DType dtype) {
  size_t n = 0;
  mprt__st_item *items = calloc((size_t)p->ntensor + 1, sizeof *items);
  json_t *metadata = json_pack("{s:s}", "format", "pt"); /* what loaders of torch files look for */
  Status s = items && metadata ? MPCC_OK : mprt__nomem(&p->cb, path);
  for (uint32_t i = 0; i < p->ntensor && s == MPCC_OK; i++)
    if (mprt__is_model_tensor(p, i))
      items[n++] = mprt__item(p, i, p->tensor[i].role == ROLE_PARAM ? dtype : MPCC_DTYPE_COUNT);
  if (s == MPCC_OK)
    s = mprt__device_status(p);
  if (s == MPCC_OK)
    s = mprt__st_write(path, items, n, metadata, &p->cb);
  free(items);
  json_decref(metadata);
  return s;
}

mprt__st_item mprt__item(const mprt_program *p, uint32_t i, DType dtype) {
  const MpccTensor *t = &p->tensor[i];
  DType own = (DType)t->dtype;
  bool convert = dtype != MPCC_DTYPE_COUNT && dtype_is_float(own) && dtype_is_float(dtype);
  return (mprt__st_item){.name = mprt__string(p, t->name),
                         .dtype = own,
                         .file_dtype = convert ? dtype : own,
                         .rank = (int)t->rank,
                         .dim = t->dim,
                         .data = mprt__tensor_look(p, i)};
}

mpcc_status mprt_save_weights(mprt_program *p, const char *path, DType dtype) {
  if (!dtype_is_float(dtype))
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "weights cannot be saved as %s", dtype_text(dtype));
  /* Under another name first: a full disk must not cost the file that was there. */
  char *temporary = mprt__format("%s.tmp", path);
  if (!temporary)
    return mprt__nomem(&p->cb, path);
  Status s = mprt__ema_swap(p, "export");
  if (s == MPCC_OK)
    s = mprt__write_model(p, temporary, dtype);
  if (s == MPCC_OK)
    s = mprt__ema_swap(p, "export");
  if (s == MPCC_OK && rename(temporary, path) != 0) {
    s = mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot write %s: %s", path, strerror(errno));
    unlink(temporary);
  }
  free(temporary);
  return s;
}

mpcc_status mprt_round_weights(mprt_program *p, DType dtype) {
  if (!dtype_is_float(dtype))
    return mprt__fail(&p->cb, MPCC_ERR_USAGE, "weights cannot be %s", dtype_text(dtype));
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    bool average = t->role == ROLE_MOMENT && mprt__attr_string(p, i, "kind") &&
                   !strcmp(mprt__attr_string(p, i, "kind"), "ema"); /* predictions may use it */
    int64_t n = mprt__tensor_elems(t);
    if (p->flat[i] || (t->role != ROLE_PARAM && !average) || (DType)t->dtype == dtype)
      continue;
    void *data = mprt__tensor_data(p, i), *rounded = malloc((size_t)n * dtype_bytes(dtype) + 1);
    if (!rounded)
      return mprt__nomem(&p->cb, "weights");
    mprt__convert(data, (DType)t->dtype, rounded, dtype, n);
    mprt__convert(rounded, dtype, data, (DType)t->dtype, n);
    free(rounded);
  }
  return mprt__refresh(p);
}
