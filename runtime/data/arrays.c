/* Data sets whose fields are arrays: one element of each per sample, in memory or in files, perhaps
 * in several pieces one behind the other. Formats fill in where the pieces are; reading is here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/data/arrays.h"

static const struct {
  int bytes;
  DType dtype; /* what samples have */
} stores[] = {
    [MPRT__STORE_U8] = {1, MPCC_U8},   [MPRT__STORE_I8] = {1, MPCC_I64},
    [MPRT__STORE_U16] = {2, MPCC_I64}, [MPRT__STORE_I16] = {2, MPCC_I64},
    [MPRT__STORE_U32] = {4, MPCC_I64}, [MPRT__STORE_I32] = {4, MPCC_I64},
    [MPRT__STORE_I64] = {8, MPCC_I64}, [MPRT__STORE_F16] = {2, MPCC_F16},
    [MPRT__STORE_F32] = {4, MPCC_F32}, [MPRT__STORE_F64] = {8, MPCC_F64},
};

int mprt__store_bytes(mprt__store s) {
  return stores[s].bytes;
}

static void arrays_destroy(mprt__dataset *d) {
  mprt__arrays *a = (mprt__arrays *)d;
  for (int i = 0; i < a->nblock; i++) {
    free(a->block[i].memory);
    mprt__file_close(&a->block[i].file);
  }
  for (int f = 0; f < MPRT__MAX_FIELDS; f++) {
    free(a->column[f].piece);
    free(a->column[f].name);
  }
  free(a->block);
  free(a);
}

static const mprt__piece *find_piece(const mprt__column *c, int64_t i) {
  int lo = 0, hi = c->npiece - 1;
  while (lo < hi) { /* the last piece that begins at or before i */
    int mid = (lo + hi + 1) / 2;
    if (c->piece[mid].first <= i)
      lo = mid;
    else
      hi = mid - 1;
  }
  return &c->piece[lo];
}

/* Bytes in the other order, n elements of `size`. */
static void swap_bytes(uint8_t *p, int64_t n, int size) {
  for (int64_t i = 0; i < n; i++, p += size)
    for (int k = 0; k < size / 2; k++) {
      uint8_t t = p[k];
      p[k] = p[size - 1 - k];
      p[size - 1 - k] = t;
    }
}

/* n stored integers at `from` to i64 at `to`; where the regions overlap, both end at one place. */
static void widen(mprt__store s, const uint8_t *from, int64_t n, int64_t *to) {
  for (int64_t i = 0; i < n; i++) {
    uint64_t u = 0;
    memcpy(&u, from + i * stores[s].bytes, (size_t)stores[s].bytes);
    switch (s) {
    case MPRT__STORE_I8:
      to[i] = (int8_t)u;
      break;
    case MPRT__STORE_I16:
      to[i] = (int16_t)u;
      break;
    case MPRT__STORE_I32:
      to[i] = (int32_t)u;
      break;
    default:
      to[i] = (int64_t)u;
    }
  }
}

/* [H, W, C] bytes to [C, H, W]. */
static void to_planes(const uint8_t *from, const int64_t dim[3], uint8_t *to) {
  int64_t plane = dim[1] * dim[2];
  for (int64_t c = 0; c < dim[0]; c++)
    for (int64_t i = 0; i < plane; i++)
      to[c * plane + i] = from[i * dim[0] + c];
}

static const void *arrays_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const mprt__arrays *a = (const mprt__arrays *)d;
  const mprt__column *c = &a->column[f];
  const mprt__field *field = &d->field[f];
  const mprt__piece *p = find_piece(c, i);
  const mprt__block *b = &a->block[p->block];
  uint64_t at = p->offset + (uint64_t)(i - p->first) * p->stride;
  size_t size = (size_t)stores[c->store].bytes, bytes = (size_t)field->elems * size;
  size_t wide = (size_t)field->elems * dtype_bytes(field->dtype);
  uint8_t *end = (uint8_t *)r->scratch + (c->planes ? 2 * wide : wide);
  const uint8_t *from = b->memory ? b->memory + at : end - bytes;
  if (!b->memory) {
    int error = mprt__file_get(&b->file, at, end - bytes, bytes);
    if (error) {
      r->error = MPCC_ERR_FILE;
      snprintf(r->message, sizeof r->message, "cannot read %s at byte %llu: %s", b->file.path,
               (unsigned long long)at, strerror(error));
      return NULL;
    }
  } else if (c->swapped) {
    from = memcpy(end - bytes, from, bytes);
  }
  if (c->swapped)
    swap_bytes(end - bytes, field->elems, (int)size);
  if (size < dtype_bytes(field->dtype)) {
    widen(c->store, from, field->elems, r->scratch);
    return r->scratch;
  }
  if (!c->planes)
    return from;
  to_planes(from, field->dim, r->scratch);
  return r->scratch;
}

static void arrays_where(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f,
                         int64_t elem, char *out, size_t size) {
  const mprt__arrays *a = (const mprt__arrays *)d;
  const mprt__column *c = &a->column[f];
  const mprt__piece *p = find_piece(c, i);
  (void)r;
  if (a->block[p->block].memory)
    snprintf(out, size, "row %lld", (long long)(i - p->first));
  else
    snprintf(out, size, "%s, byte %llu", a->block[p->block].file.path,
             (unsigned long long)(p->offset + (uint64_t)(i - p->first) * p->stride +
                                  (uint64_t)elem * (uint64_t)stores[c->store].bytes));
}

Status mprt__arrays_create(const mprt_callbacks *cb, mprt__arrays **out) {
  *out = calloc(1, sizeof **out);
  if (!*out)
    return mprt__nomem(cb, "data set");
  (*out)->base.read = arrays_read;
  (*out)->base.where = arrays_where;
  (*out)->base.destroy = arrays_destroy;
  (*out)->base.nsample = -1;
  return MPCC_OK;
}

Status mprt__arrays_block(mprt__arrays *a, uint8_t *memory, mprt__file file,
                          const mprt_callbacks *cb) {
  mprt__block *p = realloc(a->block, (size_t)(a->nblock + 1) * sizeof *p);
  if (!p) {
    free(memory);
    mprt__file_close(&file);
    return mprt__nomem(cb, "data set");
  }
  a->block = p;
  p[a->nblock++] = (mprt__block){memory, file};
  return MPCC_OK;
}

int mprt__arrays_find(const mprt__arrays *a, const char *name) {
  for (int f = 0; f < a->base.nfield; f++)
    if (!strcmp(a->column[f].name, name))
      return f;
  return -1;
}

int mprt__arrays_field(mprt__arrays *a, const char *name, mprt__store store, int rank,
                       const int64_t *dim) {
  int f = a->base.nfield;
  if (f == MPRT__MAX_FIELDS)
    return -1;
  mprt__column *c = &a->column[f];
  *c = (mprt__column){.name = strdup(name), .store = store};
  if (!c->name)
    return -1;
  mprt__field *field = &a->base.field[f];
  *field = (mprt__field){.name = c->name, .dtype = stores[store].dtype, .rank = rank, .elems = 1};
  for (int i = 0; i < rank; i++) {
    field->dim[i] = dim[i];
    field->elems *= dim[i];
  }
  a->base.nfield++;
  return f;
}

Status mprt__arrays_piece(mprt__arrays *a, int f, uint64_t offset, uint64_t stride, int64_t count,
                          const mprt_callbacks *cb) {
  mprt__column *c = &a->column[f];
  mprt__piece *p = realloc(c->piece, (size_t)(c->npiece + 1) * sizeof *p);
  if (!p)
    return mprt__nomem(cb, "data set");
  c->piece = p;
  if (count > 0)
    p[c->npiece++] = (mprt__piece){a->nblock - 1, c->count, offset, stride};
  c->count += count;
  return MPCC_OK;
}

Status mprt__arrays_finish(mprt__arrays *a, const mprt__data_source *s, Status st,
                           mprt__dataset **out) {
  mprt__dataset *d = &a->base;
  for (int f = 0; st == MPCC_OK && f < d->nfield; f++) {
    const mprt__field *x = &d->field[f];
    size_t need = (size_t)x->elems * dtype_bytes(x->dtype) * (a->column[f].planes ? 2 : 1);
    if (need > d->scratch_bytes)
      d->scratch_bytes = need;
    if (a->column[f].count != a->column[0].count)
      st = mprt__fail(s->cb, MPCC_ERR_DATA, "data.%s: '%s' has %lld samples but '%s' has %lld",
                      s->split, d->field[0].name, (long long)a->column[0].count, x->name,
                      (long long)a->column[f].count);
  }
  if (st == MPCC_OK && !d->nfield && s->nwant)
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "data.%s: its files have no field '%s'", s->split,
                    s->want[0]);
  if (st == MPCC_OK && (!d->nfield || a->column[0].count < 1))
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "data.%s: its files hold no samples", s->split);
  d->nsample = st == MPCC_OK ? a->column[0].count : 0;
  if (st == MPCC_OK)
    *out = d;
  else
    arrays_destroy(d);
  return st;
}

Status mprt__arrays_files(mprt__arrays *a, const mprt__data_source *s, Status st,
                          mprt__add_file *add, mprt__dataset **out) {
  mprt__paths paths = {0};
  if (st == MPCC_OK)
    st = mprt__paths_of(s, "path", &paths);
  for (int i = 0; st == MPCC_OK && i < paths.n; i++)
    st = add(a, s, paths.path[i]);
  mprt__paths_free(&paths);
  return mprt__arrays_finish(a, s, st, out);
}

Status mprt__arrays_open(const mprt__data_source *s, mprt__add_file *add, mprt__dataset **out) {
  mprt__arrays *a;
  *out = NULL;
  Status st = mprt__arrays_create(s->cb, &a);
  return st == MPCC_OK ? mprt__arrays_files(a, s, st, add, out) : st;
}
