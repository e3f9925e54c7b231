/* safetensors files: u64 header length, JSON header, raw tensors. Everything the header says is
 * checked against the file before any tensor is read. Format: huggingface/safetensors README,
 * "Format". */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/rt.h"

enum { MAX_HEADER = 100 << 20, DATA_ALIGN = 64, CHUNK_BYTES = 256 << 10 };

/* ---- header ---- */

/* Dtypes of the format that mpcc has no arithmetic for: their sizes are checked, their values not
 * read. */
static const struct {
  const char *name;
  size_t bytes;
} foreign_dtypes[] = {{"I8", 1},  {"I16", 2}, {"U16", 2},    {"U32", 4},
                      {"U64", 8}, {"C64", 8}, {"F8_E8M0", 1}};

/* Bytes of one element, 0 when the format has no such dtype; *dtype is MPCC_DTYPE_COUNT for foreign
 * ones */
static size_t parse_dtype(const char *text, DType *dtype) {
  for (int i = 0; i < MPCC_DTYPE_COUNT; i++)
    if (!strcmp(text, dtype_info((DType)i)->safetensors)) {
      *dtype = (DType)i;
      return dtype_bytes((DType)i);
    }
  *dtype = MPCC_DTYPE_COUNT;
  for (size_t i = 0; i < sizeof foreign_dtypes / sizeof *foreign_dtypes; i++)
    if (!strcmp(text, foreign_dtypes[i].name))
      return foreign_dtypes[i].bytes;
  return 0;
}

static Status bad_tensor(const mprt__st_file *f, const char *name, const char *what,
                         const mprt_callbacks *cb) {
  return mprt__fail(cb, MPCC_ERR_DATA, "%s: tensor '%s': %s", f->path, name, what);
}

/* Shape and element count; false when it is no shape, too deep or too large. */
static bool parse_shape(const json_t *shape, mprt__st_tensor *t, uint64_t *elems) {
  if (!json_is_array(shape) || json_array_size(shape) > MPCC_MAX_RANK)
    return false;
  t->rank = (int)json_array_size(shape);
  *elems = 1;
  for (int d = 0; d < t->rank; d++) {
    const json_t *v = json_array_get(shape, (size_t)d);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
      return false;
    t->dim[d] = json_integer_value(v);
    if (__builtin_mul_overflow(*elems, (uint64_t)t->dim[d], elems) || *elems > INT64_MAX / 16)
      return false;
  }
  return true;
}

static Status parse_tensor(const mprt__st_file *f, const char *name, const json_t *v,
                           uint64_t data_begin, mprt__st_tensor *t, const mprt_callbacks *cb) {
  const json_t *dtype = json_object_get(v, "dtype"), *range = json_object_get(v, "data_offsets");
  uint64_t elems;
  if (!json_is_object(v) || !json_is_string(dtype))
    return bad_tensor(f, name, "has no dtype", cb);
  size_t size = parse_dtype(json_string_value(dtype), &t->dtype);
  if (size == 0)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: tensor '%s': unknown dtype '%s'", f->path, name,
                      json_string_value(dtype));
  if (!parse_shape(json_object_get(v, "shape"), t, &elems))
    return bad_tensor(f, name, "shape is not a list of at most 8 sizes", cb);
  const json_t *b = json_array_get(range, 0), *e = json_array_get(range, 1);
  if (json_array_size(range) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
      json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
    return bad_tensor(f, name, "data_offsets is not [begin, end]", cb);
  uint64_t begin = (uint64_t)json_integer_value(b), end = (uint64_t)json_integer_value(e);
  uint64_t room = f->file_bytes - data_begin;
  if (end > room)
    return mprt__fail(
        cb, MPCC_ERR_DATA,
        "%s: tensor '%s' ends at byte %llu of the data, the file has %llu: truncated?", f->path,
        name, (unsigned long long)end, (unsigned long long)room);
  if (end - begin != elems * size)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: tensor '%s' has %llu bytes, its shape needs %llu",
                      f->path, name, (unsigned long long)(end - begin),
                      (unsigned long long)(elems * size));
  t->begin = data_begin + begin;
  t->bytes = end - begin;
  t->name = strdup(name);
  return t->name ? MPCC_OK : mprt__nomem(cb, f->path);
}

static int by_place(const void *a, const void *b) {
  const mprt__st_tensor *x = a, *y = b;
  if (x->begin != y->begin)
    return x->begin < y->begin ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const mprt__st_tensor *)a)->name, ((const mprt__st_tensor *)b)->name);
}

static Status check_places(mprt__st_file *f, uint64_t data_begin, const mprt_callbacks *cb) {
  uint64_t at = data_begin;
  if (f->ntensor > 0)
    qsort(f->tensor, f->ntensor, sizeof *f->tensor, by_place);
  for (size_t i = 0; i < f->ntensor; i++) {
    const mprt__st_tensor *t = &f->tensor[i];
    if (t->begin != at)
      return bad_tensor(f, t->name,
                        t->begin < at ? "its data overlaps that of another"
                                      : "there is a hole before its data",
                        cb);
    at = t->begin + t->bytes;
  }
  if (at != f->file_bytes)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: %llu bytes behind the last tensor", f->path,
                      (unsigned long long)(f->file_bytes - at));
  if (f->ntensor > 0)
    qsort(f->tensor, f->ntensor, sizeof *f->tensor, by_name);
  return MPCC_OK;
}

static Status parse_header(mprt__st_file *f, const json_t *header, uint64_t data_begin,
                           const mprt_callbacks *cb) {
  const char *name;
  json_t *v, *text;
  if (!json_is_object(header))
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: header is not a JSON object", f->path);
  f->tensor = calloc(json_object_size(header) + 1, sizeof *f->tensor);
  if (!f->tensor)
    return mprt__nomem(cb, f->path);
  json_object_foreach((json_t *)header, name, v) {
    if (!strcmp(name, "__metadata__")) {
      const char *key;
      bool strings = json_is_object(v);
      json_object_foreach(v, key, text) strings &= json_is_string(text);
      if (!strings)
        return mprt__fail(cb, MPCC_ERR_DATA, "%s: __metadata__ is not an object of strings",
                          f->path);
      continue;
    }
    Status s = parse_tensor(f, name, v, data_begin, &f->tensor[f->ntensor], cb);
    if (s != MPCC_OK)
      return s;
    f->ntensor++;
  }
  return check_places(f, data_begin, cb);
}

/* Reads exactly `bytes` at `offset`; 0, or an errno (EIO: the file is shorter). */
static int read_at(int fd, void *to, size_t bytes, uint64_t offset) {
  for (size_t have = 0; have < bytes;) {
    ssize_t n = pread(fd, (uint8_t *)to + have, bytes - have, (off_t)(offset + have));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return n < 0 ? errno : EIO;
    have += (size_t)n;
  }
  return 0;
}

static Status read_header(mprt__st_file *f, const mprt_callbacks *cb) {
  uint8_t length[8];
  uint64_t bytes = 0;
  if (f->file_bytes < 8)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: %llu bytes are too few for a safetensors file",
                      f->path, (unsigned long long)f->file_bytes);
  int error = read_at(f->fd, length, 8, 0);
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", f->path, strerror(error));
  for (int i = 7; i >= 0; i--)
    bytes = bytes << 8 | length[i];
  if (bytes > MAX_HEADER || bytes > f->file_bytes - 8)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: says its header has %llu bytes, the file has %llu: not safetensors, or "
                      "truncated",
                      f->path, (unsigned long long)bytes, (unsigned long long)f->file_bytes);
  char *text = malloc((size_t)bytes + 1);
  if (!text)
    return mprt__nomem(cb, f->path);
  error = read_at(f->fd, text, (size_t)bytes, 8);
  json_error_t e;
  json_t *header = error ? NULL : mprt__json_parse(text, (size_t)bytes, &e);
  free(text);
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", f->path, strerror(error));
  if (!header)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: header is not JSON: byte %d: %s", f->path,
                      e.position + 8, e.text);
  Status s = parse_header(f, header, 8 + bytes, cb);
  json_decref(header);
  return s;
}

Status mprt__st_open(const char *path, const mprt_callbacks *cb, mprt__st_file *out) {
  struct stat st;
  memset(out, 0, sizeof *out);
  out->fd = -1;
  out->path = strdup(path);
  if (!out->path)
    return mprt__nomem(cb, path);
  out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  Status s = MPCC_OK;
  if (out->fd < 0 || fstat(out->fd, &st) != 0)
    s = mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(errno));
  else if (!S_ISREG(st.st_mode))
    s = mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: not a regular file", path);
  if (s == MPCC_OK) {
    out->file_bytes = (uint64_t)st.st_size;
    s = read_header(out, cb);
  }
  if (s != MPCC_OK)
    mprt__st_close(out);
  return s;
}

void mprt__st_close(mprt__st_file *f) {
  for (size_t i = 0; i < f->ntensor; i++)
    free(f->tensor[i].name);
  free(f->tensor);
  free(f->path);
  if (f->fd >= 0)
    close(f->fd);
  memset(f, 0, sizeof *f);
  f->fd = -1;
}

const mprt__st_tensor *mprt__st_find(const mprt__st_file *f, const char *name) {
  mprt__st_tensor key = {.name = (char *)name};
  return f->ntensor ? bsearch(&key, f->tensor, f->ntensor, sizeof key, by_name) : NULL;
}

Status mprt__st_read(const mprt__st_file *f, const mprt__st_tensor *t, DType dtype, void *to,
                     const mprt_callbacks *cb) {
  if (t->bytes == 0)
    return MPCC_OK;
  int error = 0;
  if (t->dtype == dtype) {
    error = read_at(f->fd, to, (size_t)t->bytes, t->begin);
  } else if (t->dtype == MPCC_DTYPE_COUNT || !dtype_is_float(t->dtype) || !dtype_is_float(dtype)) {
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: tensor '%s' cannot be converted to %s", f->path,
                      t->name, dtype_text(dtype));
  } else {
    size_t from_size = dtype_bytes(t->dtype), to_size = dtype_bytes(dtype);
    uint8_t *chunk = malloc(CHUNK_BYTES);
    if (!chunk)
      return mprt__nomem(cb, f->path);
    for (uint64_t at = 0; at < t->bytes && !error; at += CHUNK_BYTES) {
      size_t n = t->bytes - at < CHUNK_BYTES ? (size_t)(t->bytes - at) : CHUNK_BYTES;
      error = read_at(f->fd, chunk, n, t->begin + at);
      if (!error)
        mprt__convert(chunk, t->dtype, (uint8_t *)to + at / from_size * to_size, dtype,
                      (int64_t)(n / from_size));
    }
    free(chunk);
  }
  if (error)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", f->path, strerror(error));
  return MPCC_OK;
}

/* ---- writing ---- */

static int64_t item_elems(const mprt__st_item *it) {
  int64_t n = 1;
  for (int d = 0; d < it->rank; d++)
    n *= it->dim[d];
  return n;
}

/* Falling element size, so that every tensor is aligned without holes; then name. */
static int by_layout(const void *a, const void *b) {
  const mprt__st_item *x = *(const mprt__st_item *const *)a, *y = *(const mprt__st_item *const *)b;
  size_t p = dtype_bytes(x->file_dtype), q = dtype_bytes(y->file_dtype);
  return p != q ? (p > q ? -1 : 1) : strcmp(x->name, y->name);
}

static json_t *header_entry(const mprt__st_item *it, uint64_t begin, uint64_t end) {
  json_t *shape = json_array();
  for (int d = 0; shape && d < it->rank; d++)
    if (json_array_append_new(shape, json_integer(it->dim[d])) != 0) {
      json_decref(shape);
      return NULL;
    }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_info(it->file_dtype)->safetensors,
                   "shape", shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* Header text, padded with spaces to put data at a multiple of DATA_ALIGN; NULL: no memory. */
static char *header_text(const mprt__st_item *const *order, size_t n, const json_t *metadata,
                         size_t *bytes) {
  uint64_t at = 0;
  json_t *header = json_object();
  bool ok =
      header && (!metadata || json_object_set(header, "__metadata__", (json_t *)metadata) == 0);
  for (size_t i = 0; i < n && ok; i++) {
    uint64_t end = at + (uint64_t)item_elems(order[i]) * dtype_bytes(order[i]->file_dtype);
    ok = json_object_set_new(header, order[i]->name, header_entry(order[i], at, end)) == 0;
    at = end;
  }
  char *text = ok ? mprt__json_text(header, JSON_COMPACT) : NULL;
  json_decref(header);
  if (!text)
    return NULL;
  size_t len = strlen(text);
  *bytes = (len + 8 + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN - 8;
  char *padded = malloc(*bytes + 1);
  if (padded) {
    memcpy(padded, text, len);
    memset(padded + len, ' ', *bytes - len);
  }
  free(text);
  return padded;
}

static void put_item(mprt__writer *w, const mprt__st_item *it, uint8_t *chunk) {
  size_t from_size = dtype_bytes(it->dtype), to_size = dtype_bytes(it->file_dtype);
  int64_t n = item_elems(it), step = CHUNK_BYTES / 8;
  if (it->dtype == it->file_dtype) {
    mprt__writer_put(w, it->data, (size_t)n * from_size);
    return;
  }
  for (int64_t i = 0; i < n && !w->error; i += step) {
    int64_t m = n - i < step ? n - i : step;
    mprt__convert((const uint8_t *)it->data + (size_t)i * from_size, it->dtype, chunk,
                  it->file_dtype, m);
    mprt__writer_put(w, chunk, (size_t)m * to_size);
  }
}

Status mprt__st_write(const char *path, const mprt__st_item *items, size_t n,
                      const json_t *metadata, const mprt_callbacks *cb) {
  size_t bytes = 0;
  const mprt__st_item **order = calloc(n + 1, sizeof *order);
  uint8_t *chunk = malloc(CHUNK_BYTES);
  char *header = NULL;
  if (order && chunk) {
    for (size_t i = 0; i < n; i++)
      order[i] = &items[i];
    if (n > 0)
      qsort(order, n, sizeof *order, by_layout);
    header = header_text(order, n, metadata, &bytes);
  }
  Status s = header ? MPCC_OK : mprt__nomem(cb, path);
  if (s == MPCC_OK) {
    uint8_t length[8];
    mprt__writer w;
    for (int i = 0; i < 8; i++)
      length[i] = (uint8_t)(bytes >> 8 * i);
    mprt__writer_open(&w, path);
    bool created = w.fd >= 0;
    mprt__writer_put(&w, length, 8);
    mprt__writer_put(&w, header, bytes);
    for (size_t i = 0; i < n; i++)
      put_item(&w, order[i], chunk);
    int error = mprt__writer_close(&w);
    if (error) {
      s = mprt__fail(cb, MPCC_ERR_FILE, "cannot write %s: %s", path, strerror(error));
      if (created)
        unlink(path);
    }
  }
  free(header);
  free(chunk);
  free(order);
  return s;
}
