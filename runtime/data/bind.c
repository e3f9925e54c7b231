/* Which field of the data fills which io tensor of the program, and whether they fit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/num.h"
#include "runtime/data/data.h"

static int find_field(const mprt__dataset *d, const char *name) {
  for (int i = 0; i < d->nfield; i++)
    if (!strcmp(d->field[i].name, name))
      return i;
  return -1;
}

/* "'image', 'label'" */
static void field_names(const mprt__dataset *d, char *out, size_t size) {
  size_t k = 0;
  *out = 0;
  for (int i = 0; i < d->nfield && k < size; i++)
    k += (size_t)snprintf(out + k, size - k, "%s'%s'", i ? ", " : "", d->field[i].name);
}

/* Sizes of 1 in front do not count: a format that knows no channels has one. A vector of columns
 * fits any shape of as many elements. */
static bool same_shape(const mprt__field *f, int rank, const int64_t *dim) {
  int ra = f->rank;
  const int64_t *a = f->dim;
  int64_t elems = 1;
  for (int i = 0; i < rank; i++)
    elems *= dim[i];
  if (f->columns)
    return elems == f->elems;
  for (; ra > rank && a[0] == 1; ra--)
    a++;
  for (; rank > ra && dim[0] == 1; rank--)
    dim++;
  return ra == rank && !memcmp(a, dim, (size_t)ra * sizeof *a);
}

/* The field's name for messages: columns, which newlines separate, with commas. */
static void show_name(const char *name, char *out, size_t size) {
  snprintf(out, size, "%s", name);
  for (char *p = out; (p = strchr(p, '\n'));)
    *p = ',';
}

static const json_t *transforms_of(const mprt_program *p, const char *split) {
  return mprt__json_get(p->spec,
                        strcmp(split, "train") ? "data.transforms.eval" : "data.transforms.train");
}

/* The field of the data as the tensor takes it: columns fill an image row by row. */
static mprt__field taken(const mprt__field *f, const MpccTensor *t) {
  mprt__field as = *f;
  int64_t elems = t->rank == 4 ? t->dim[1] * t->dim[2] * t->dim[3] : 0;
  if (f->columns && elems == f->elems) {
    as.columns = false;
    as.rank = 3;
    memcpy(as.dim, t->dim + 1, 3 * sizeof *as.dim);
  }
  return as;
}

/* Whether some input is an image: transforms are its then, and not those of numbers beside it. */
static bool has_image(const mprt_program *p, const mprt__dataset *d) {
  for (uint32_t i = 0; i < p->ntensor; i++) {
    const MpccTensor *t = &p->tensor[i];
    const char *field = t->role == ROLE_INPUT ? mprt__attr_string(p, i, "field") : NULL;
    const int f = field ? find_field(d, field) : -1;
    if (f < 0)
      continue;
    const mprt__field as = taken(&d->field[f], t);
    if (mprt__is_image(&as, (DType)t->dtype, mprt__attr_int(p, i, "target", 0)))
      return true;
  }
  return false;
}

static Status bind_one(mprt_program *p, const mprt__dataset *d, const char *split, int64_t batch,
                       int64_t i, bool images, mprt__binding *b) {
  const MpccTensor *t = &p->tensor[i];
  const char *name = mprt__string(p, t->name), *field = mprt__attr_string(p, i, "field");
  if (!field)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "input %s names no data field", name);
  int f = find_field(d, field);
  if (f < 0) {
    char known[200];
    field_names(d, known, sizeof known);
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "data.%s has no field '%s', which input %s needs; it has %s", split, field,
                      name, known);
  }
  if (!t->rank || t->dim[0] != batch)
    return mprt__fail(&p->cb, MPCC_ERR_INPUT, "input %s has no batch of %lld samples", name,
                      (long long)batch);
  const mprt__field source = taken(&d->field[f], t);
  *b = (mprt__binding){.tensor = i, .field = f, .elems = mprt__tensor_elems(t) / batch};
  mprt__field seen;
  Status st =
      mprt__transform_create(&p->cb, transforms_of(p, split), &source, (DType)t->dtype,
                             mprt__attr_int(p, i, "target", 0), !images, &b->transform, &seen);
  if (st != MPCC_OK)
    return st;
  for (int k = 0; k < seen.rank; k++)
    if (!seen.dim[k] && (int)t->rank - 1 == seen.rank)
      seen.dim[k] = t->dim[1 + k];
  mprt__transform_expect(b->transform, seen.rank, seen.dim);
  if (!same_shape(&seen, (int)t->rank - 1, t->dim + 1)) {
    char have[120], want[120], shown[120];
    mprt__shape_text(seen.rank, seen.dim, have, sizeof have);
    show_name(field, shown, sizeof shown);
    mprt__shape_text((int)t->rank - 1, t->dim + 1, want, sizeof want);
    return mprt__fail(&p->cb, MPCC_ERR_DATA,
                      "data.%s: '%s' has shape [%s], the model was built for [%s]", split, shown,
                      have, want);
  }
  b->sample_bytes = b->elems * (int64_t)dtype_bytes((DType)t->dtype);
  b->integer = !dtype_is_float((DType)t->dtype);
  b->target = t->dtype == MPCC_I64 && b->elems == 1;
  b->limit = mprt__attr_int(p, i, "classes", 0);
  b->ignored = mprt__attr_int(p, i, "ignore_index", INT64_MIN);
  return MPCC_OK;
}

/* A list that nothing takes is told, ToTensor (the default) aside. */
static Status check_transforms(mprt_program *p, const char *split, const mprt__binding *b, int n) {
  const json_t *list = transforms_of(p, split), *v;
  const char *type = NULL;
  bool of_images = false;
  size_t k;
  json_array_foreach(list, k, v) {
    const char *word = json_is_string(v) ? json_string_value(v) : mprt__json_string(v, "type", "");
    if (!of_images && strcmp(word, "ToTensor")) {
      type = word;
      of_images = mprt__transform_is_of_images(word);
    }
  }
  for (int i = 0; type && i < n; i++)
    if (mprt__transform_applies(b[i].transform))
      return MPCC_OK;
  if (!type)
    return MPCC_OK;
  return mprt__fail(
      &p->cb, MPCC_ERR_DATA,
      "data.%s: transform %s finds no image%s; images are bytes [H, W] or [C, H, W] and "
      "floats [C, H, W] that the model reads as floats",
      split, type, of_images ? "" : " and no vector of numbers");
}

Status mprt__bind(mprt_program *p, const mprt__dataset *d, const char *split, int64_t batch,
                  mprt__binding *b, int *n) {
  Status st = MPCC_OK;
  *n = 0;
  const bool images = has_image(p, d);
  for (uint32_t i = 0; st == MPCC_OK && i < p->ntensor; i++) {
    if (p->tensor[i].role != ROLE_INPUT)
      continue;
    if (*n == MPRT__MAX_FIELDS)
      return mprt__fail(&p->cb, MPCC_ERR_INPUT, "more than %d inputs", MPRT__MAX_FIELDS);
    b[*n].transform = NULL;
    st = bind_one(p, d, split, batch, i, images, &b[(*n)++]);
  }
  return st == MPCC_OK ? check_transforms(p, split, b, *n) : st;
}

void mprt__unbind(mprt__binding *b, int n) {
  for (int i = 0; i < n; i++)
    mprt__transform_destroy(b[i].transform);
}

/* ---- values that the model cannot take ---- */

bool mprt__binding_check(const mprt__binding *b, const mprt__dataset *d, const char *split,
                         const void *from, const void *to, int64_t sample, mprt__reader *r) {
  const mprt__field *f = &d->field[b->field];
  if (!b->integer || (!b->limit && !dtype_is_float(f->dtype)))
    return true;
  DType dtype = mprt__transform_dtype(b->transform);
  size_t size = dtype_bytes(dtype);
  for (int64_t k = 0; k < b->elems; k++) {
    int64_t v = 0;
    if (dtype == MPCC_I64)
      memcpy(&v, (const uint8_t *)to + (size_t)k * 8, 8);
    else
      v = (int64_t)num_load((const uint8_t *)to + (size_t)k * size, dtype);
    double stored =
        dtype_is_float(f->dtype)
            ? num_load((const uint8_t *)from + (size_t)k * dtype_bytes(f->dtype), f->dtype)
            : 0;
    bool whole = !dtype_is_float(f->dtype) || stored == floor(stored);
    if (whole && (!b->limit || v == b->ignored || (v >= 0 && v < b->limit)))
      continue;
    char place[160] = "";
    if (d->where) {
      snprintf(place, sizeof place, " (");
      d->where(d, r, sample, b->field, k, place + 2, sizeof place - 4);
      strcat(place, ")");
    }
    r->error = MPCC_ERR_DATA;
    if (!whole)
      snprintf(r->message, sizeof r->message,
               "data.%s: '%s' of sample %lld is %g, the model takes whole numbers%s", split,
               f->name, (long long)sample, stored, place);
    else if (b->target)
      snprintf(r->message, sizeof r->message,
               "data.%s: label %lld of sample %lld is outside the %lld classes of the model%s",
               split, (long long)v, (long long)sample, (long long)b->limit, place);
    else
      snprintf(r->message, sizeof r->message,
               "data.%s: '%s' of sample %lld has %lld at place %lld, outside the %lld of the "
               "model%s",
               split, f->name, (long long)sample, (long long)v, (long long)k, (long long)b->limit,
               place);
    return false;
  }
  return true;
}
