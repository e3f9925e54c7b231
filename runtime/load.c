/* Checks a program image and binds it. An image is used in place, so everything that is later
 * followed without looking (offsets, counts, indices, strings) is looked at here, once. The hash
 * finds damage; the checks after it hold for any bytes, so that a wrong writer is found too. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"
#include "runtime/cuda/device.h"
#include "runtime/rt.h"

static const char *const segment_text[] = {"state", "derived", "accum", "work", "io"};

__attribute__((format(printf, 2, 3))) static Status bad(const mprt_program *p, const char *fmt,
                                                        ...) {
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  return mprt__fail(&p->cb, MPCC_ERR_INPUT, "program image: %s", text);
}

/* ---- spans and strings ---- */

/* Views a span of `size`-byte elements; NULL in *out when it is not inside the image. */
static bool view(const mprt_program *p, MpccSpan span, size_t size, const void **out,
                 uint32_t *count) {
  *out = NULL;
  *count = 0;
  if (span.count > UINT32_MAX - 1 || span.offset % (size % 8 ? 1 : 8) != 0 ||
      span.offset > p->image_bytes || span.count > (p->image_bytes - span.offset) / size)
    return false;
  *out = p->image + span.offset;
  *count = (uint32_t)span.count;
  return true;
}

static bool is_string(const mprt_program *p, uint32_t offset) {
  return offset < p->head->strings.count;
}

static bool is_name(const mprt_program *p, uint32_t offset) {
  return is_string(p, offset) && p->strings[offset] != 0;
}

static Status check_header(mprt_program *p, const void *image, size_t bytes) {
  const MpccImage *h = image;
  if (bytes < sizeof *h || (uintptr_t)image % 8 != 0 ||
      memcmp(h->magic, MPCC_IMAGE_MAGIC, sizeof h->magic) != 0)
    return bad(p, "not an image of a program");
  if (h->version != MPCC_ABI_VERSION || h->header_bytes != sizeof *h)
    return bad(p, "version %u, this runtime reads version %d", h->version, MPCC_ABI_VERSION);
  if (h->image_bytes < sizeof *h || h->image_bytes > bytes)
    return bad(p, "says it has %llu bytes, there are %zu", (unsigned long long)h->image_bytes,
               bytes);
  uint64_t hash[2];
  mpcc_image_hash(image, h->image_bytes, hash);
  if (hash[0] != h->hash[0] || hash[1] != h->hash[1])
    return bad(p, "damaged: its hash is not that of its contents");
  p->image = image;
  p->image_bytes = h->image_bytes;
  p->head = h;
  return MPCC_OK;
}

static Status check_spans(mprt_program *p) {
  const MpccImage *h = p->head;
  const void *at;
  uint32_t n;
#define VIEW(span, T, field, nfield)                                                               \
  if (!view(p, h->span, sizeof(T), &at, &nfield))                                                  \
    return bad(p, #span " are not inside the image");                                              \
  field = at
  VIEW(strings, char, p->strings, n);
  VIEW(tensors, MpccTensor, p->tensor, p->ntensor);
  VIEW(functions, MpccFunction, p->function, p->nfunction);
  VIEW(commands, MpccCommand, p->command, p->ncommand);
  VIEW(args, MpccArgRef, p->argref, p->nargref);
  VIEW(kernels, MpccKernel, p->kernel, p->nkernel);
  VIEW(codes, MpccCode, p->code, p->ncode);
#undef VIEW
  if (n == 0 || p->strings[0] != 0 || p->strings[n - 1] != 0)
    return bad(p, "strings do not begin and end with a zero byte");
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    if (h->segment_bytes[i] > INT64_MAX / 8)
      return bad(p, "segment %s is too large", segment_text[i]);
  return MPCC_OK;
}

/* ---- tensors ---- */

/* Bytes of a tensor by its shape; false when they do not fit 63 bits. */
static bool shape_bytes(const MpccTensor *t, uint64_t *bytes) {
  uint64_t n = dtype_bytes((DType)t->dtype);
  for (uint32_t d = 0; d < t->rank; d++)
    if (t->dim[d] < 1 || __builtin_mul_overflow(n, (uint64_t)t->dim[d], &n) || n > INT64_MAX)
      return false;
  *bytes = n;
  return true;
}

static Status check_tensor(mprt_program *p, uint32_t i) {
  const MpccTensor *t = &p->tensor[i];
  if (!is_name(p, t->name) || !is_string(p, t->attrs))
    return bad(p, "tensor %u has no name or attributes", i);
  const char *name = mprt__string(p, t->name);
  if (t->dtype >= MPCC_DTYPE_COUNT || t->role >= ROLE_COUNT || t->segment >= MPCC_SEG_COUNT)
    return bad(p, "tensor '%s' has an unknown dtype, role or segment", name);
  uint64_t bytes;
  if (t->rank > MPCC_MAX_RANK || !shape_bytes(t, &bytes) || bytes != t->bytes)
    return bad(p, "tensor '%s': its shape and its %llu bytes do not agree", name,
               (unsigned long long)t->bytes);
  if (t->offset % dtype_bytes((DType)t->dtype) != 0 ||
      t->offset > p->head->segment_bytes[t->segment] ||
      t->bytes > p->head->segment_bytes[t->segment] - t->offset)
    return bad(p, "tensor '%s' is not inside segment %s", name, segment_text[t->segment]);
  if (t->base >= p->ntensor)
    return bad(p, "tensor '%s' is a view of no tensor", name);
  const MpccTensor *b = &p->tensor[t->base];
  if (t->base == i && t->offset % MPCC_ALIGN != 0)
    return bad(p, "tensor '%s' is not aligned", name);
  if (t->base != i && (b->base != t->base || b->segment != t->segment || b->dtype != t->dtype ||
                       t->offset < b->offset || t->offset - b->offset > b->bytes ||
                       t->bytes > b->bytes - (t->offset - b->offset)))
    return bad(p, "tensor '%s' is not a part of the tensor it is a view of", name);
  p->flat[t->base] |= t->base != i;
  return MPCC_OK;
}

static Status load_attrs(mprt_program *p, uint32_t i) {
  const char *text = mprt__string(p, p->tensor[i].attrs);
  json_error_t e;
  p->attrs[i] = *text ? mprt__json_parse(text, strlen(text), &e) : json_object();
  if (!p->attrs[i] && !*text)
    return mprt__nomem(&p->cb, "attributes");
  if (!json_is_object(p->attrs[i]))
    return bad(p, "attributes of tensor '%s' are not a JSON object",
               mprt__string(p, p->tensor[i].name));
  return MPCC_OK;
}

static int compare_names(const void *a, const void *b, void *program) {
  const mprt_program *p = program;
  return strcmp(mprt__string(p, p->tensor[*(const uint32_t *)a].name),
                mprt__string(p, p->tensor[*(const uint32_t *)b].name));
}

static Status load_tensors(mprt_program *p) {
  p->attrs = calloc((size_t)p->ntensor + 1, sizeof *p->attrs);
  p->by_name = calloc((size_t)p->ntensor + 1, sizeof *p->by_name);
  p->flat = calloc((size_t)p->ntensor + 1, sizeof *p->flat);
  if (!p->attrs || !p->by_name || !p->flat)
    return mprt__nomem(&p->cb, "tensors");
  for (uint32_t i = 0; i < p->ntensor; i++) {
    Status s = check_tensor(p, i);
    if (s == MPCC_OK)
      s = load_attrs(p, i);
    if (s != MPCC_OK)
      return s;
    p->by_name[i] = i;
  }
  qsort_r(p->by_name, p->ntensor, sizeof *p->by_name, compare_names, p);
  for (uint32_t i = 1; i < p->ntensor; i++)
    if (compare_names(&p->by_name[i - 1], &p->by_name[i], p) == 0)
      return bad(p, "two tensors have the name '%s'",
                 mprt__string(p, p->tensor[p->by_name[i]].name));
  return MPCC_OK;
}

/* ---- functions and commands ---- */

static Status check_functions(const mprt_program *p) {
  for (uint32_t i = 0; i < p->nfunction; i++) {
    const MpccFunction *f = &p->function[i];
    if (!is_name(p, f->name))
      return bad(p, "function %u has no name", i);
    if (f->first_command > p->ncommand || f->ncommands > p->ncommand - f->first_command)
      return bad(p, "function '%s' has commands that do not exist", mprt__string(p, f->name));
    for (uint32_t k = 0; k < i; k++)
      if (!strcmp(mprt__string(p, p->function[k].name), mprt__string(p, f->name)))
        return bad(p, "two functions have the name '%s'", mprt__string(p, f->name));
  }
  return MPCC_OK;
}

static Status check_args(const mprt_program *p) {
  for (uint32_t i = 0; i < p->nargref; i++) {
    const MpccArgRef *a = &p->argref[i];
    if (a->segment == MPCC_ARG_INT)
      continue;
    if (a->segment >= MPCC_SEG_COUNT || a->offset < 0 ||
        (uint64_t)a->offset > p->head->segment_bytes[a->segment] ||
        a->bytes > p->head->segment_bytes[a->segment] - (uint64_t)a->offset)
      return bad(p, "argument %u is not inside its segment", i);
    if (a->tensor_plus_1 > p->ntensor ||
        (a->tensor_plus_1 > 0 && p->tensor[a->tensor_plus_1 - 1].segment != a->segment))
      return bad(p, "argument %u belongs to no tensor", i);
  }
  return MPCC_OK;
}

static bool overlap(const MpccArgRef *a, const MpccArgRef *b, uint64_t bytes) {
  return a->segment == b->segment && (uint64_t)a->offset < (uint64_t)b->offset + bytes &&
         (uint64_t)b->offset < (uint64_t)a->offset + bytes;
}

/* Whether a matrix of n by m elements with these strides is inside the argument. */
static bool matrix_fits(const MpccArgRef *a, DType d, int64_t n, int64_t step, int64_t m,
                        int64_t other) {
  int64_t x, y, last, bytes;
  return n > 0 && m > 0 && step >= 0 && other >= 0 && !__builtin_mul_overflow(n - 1, step, &x) &&
         !__builtin_mul_overflow(m - 1, other, &y) && !__builtin_add_overflow(x, y, &last) &&
         !__builtin_mul_overflow(last + 1, (int64_t)dtype_bytes(d), &bytes) &&
         (uint64_t)bytes <= a->bytes;
}

static bool factors_fit(const MpccArgRef *a, const MpccProduct *m) {
  return matrix_fits(&a[0], (DType)m->d_dtype, m->rows, m->cols, m->cols, 1) &&
         matrix_fits(&a[1], (DType)m->a_dtype, m->rows, m->a_row, m->k, m->a_k) &&
         matrix_fits(&a[2], (DType)m->b_dtype, m->k, m->b_k, m->cols, m->b_col);
}

static bool product_fits(const mprt_program *p, const MpccCommand *c) {
  const MpccArgRef *a = &p->argref[c->first_arg];
  int64_t ints[MPCC_PRODUCT_INTS];
  MpccProduct m;
  if (c->nargs < 3 + MPCC_PRODUCT_INTS || c->first_out || c->nout != 1)
    return false;
  const uint32_t operands = c->nargs - MPCC_PRODUCT_INTS;
  for (uint32_t i = 0; i < c->nargs; i++)
    if ((a[i].segment == MPCC_ARG_INT) != (i >= operands))
      return false;
  for (int i = 0; i < MPCC_PRODUCT_INTS; i++)
    ints[i] = a[operands + (uint32_t)i].offset;
  memcpy(&m, ints, sizeof m);
  if (m.with < 0 || m.with >= MPCC_WITH_COUNT || operands != mpcc_product_operands(m.with) ||
      m.a_dtype < 0 || m.a_dtype >= MPCC_DTYPE_COUNT || m.b_dtype < 0 ||
      m.b_dtype >= MPCC_DTYPE_COUNT || m.d_dtype < 0 || m.d_dtype >= MPCC_DTYPE_COUNT ||
      m.tf32 < 0 || m.tf32 > 1)
    return false;
  if (m.with == MPCC_WITH_SUM)
    return matrix_fits(&a[3], (DType)m.d_dtype, m.rows, m.cols, m.cols, 1) && factors_fit(a, &m);
  for (uint32_t i = 3; i < operands; i++)
    if (a[i].bytes < (i == mpcc_product_bias(m.with)
                          ? (uint64_t)m.cols * dtype_bytes((DType)m.d_dtype)
                          : sizeof(float)))
      return false;
  return factors_fit(a, &m);
}

/* What a command does with its arguments; its spans are checked. */
static bool command_fits(const mprt_program *p, const MpccCommand *c) {
  const MpccArgRef *a = &p->argref[c->first_arg];
  const char *dtypes = mprt__string(p, c->value_dtypes);
  for (uint32_t i = c->first_out; i < c->first_out + c->nout; i++)
    if (a[i].segment == MPCC_ARG_INT)
      return false;
  for (const char *d = dtypes; *d; d++)
    if (*d < 'a' || *d >= 'a' + MPCC_DTYPE_COUNT)
      return false;
  if (strlen(dtypes) != c->nout)
    return false;
  switch (c->op) {
  case MPCC_CMD_LAUNCH:
    return c->kernel < p->nkernel && c->nargs == p->kernel[c->kernel].nargs;
  case MPCC_CMD_COPY:
    return c->nargs == 2 && a[0].segment != MPCC_ARG_INT && a[1].segment != MPCC_ARG_INT &&
           c->bytes <= a[0].bytes && c->bytes <= a[1].bytes && !overlap(&a[0], &a[1], c->bytes);
  case MPCC_CMD_REPEAT:
    return c->nargs == 0 && c->bytes > 0 && c->bytes <= INT32_MAX;
  case MPCC_CMD_PRODUCT: /* of GPUs alone */
    return p->ncode > 0 && is_string(p, p->code[0].target) &&
           !strcmp(mprt__string(p, p->code[0].target), "cuda") && product_fits(p, c);
  case MPCC_CMD_FILL:
    return c->nargs == 1 && a[0].segment != MPCC_ARG_INT && c->bytes <= a[0].bytes;
  default:
    return false;
  }
}

/* An argument stays inside its segment for n iterations. */
static bool arg_loops(const mprt_program *p, const MpccArgRef *a, uint64_t n) {
  const uint64_t times = a->ring ? a->ring : n, room = p->head->segment_bytes[a->segment];
  int64_t far, at;
  return !__builtin_mul_overflow(a->stride, (int64_t)(times - 1), &far) &&
         !__builtin_add_overflow(a->offset, far, &at) && at >= 0 && (uint64_t)at <= room &&
         a->bytes <= room - (uint64_t)at;
}

/* Repeats stay inside their function and outside of each other; their arguments are checked. */
static Status check_loops(const mprt_program *p) {
  for (uint32_t k = 0; k < p->nfunction; k++) {
    const MpccFunction *f = &p->function[k];
    for (uint32_t i = 0; i < f->ncommands; i++) {
      const MpccCommand *r = &p->command[f->first_command + i];
      if (r->op != MPCC_CMD_REPEAT)
        continue;
      bool fits = r->kernel < f->ncommands - i;
      for (uint32_t n = 1; fits && n <= r->kernel; n++) {
        const MpccCommand *c = r + n;
        fits = c->op != MPCC_CMD_REPEAT;
        for (uint32_t j = 0; fits && j < c->nargs; j++) {
          const MpccArgRef *a = &p->argref[c->first_arg + j];
          fits = a->segment == MPCC_ARG_INT || arg_loops(p, a, r->bytes);
        }
      }
      if (!fits)
        return bad(p, "a loop of function '%s' does not fit", mprt__string(p, f->name));
      i += r->kernel;
    }
  }
  return MPCC_OK;
}

static Status check_commands(const mprt_program *p) {
  for (uint32_t i = 0; i < p->ncommand; i++) {
    const MpccCommand *c = &p->command[i];
    if (!is_string(p, c->layer) || !is_string(p, c->source) || !is_string(p, c->label) ||
        !is_string(p, c->value_dtypes) || !is_string(p, c->others))
      return bad(p, "command %u names no place", i);
    if (c->rounds_to > MPCC_DTYPE_COUNT)
      return bad(p, "command %u rounds to no format", i);
    if (c->first_arg > p->nargref || c->nargs > p->nargref - c->first_arg ||
        c->first_out > c->nargs || c->nout > c->nargs - c->first_out || !command_fits(p, c))
      return bad(p, "command %u (%s, %s) does not fit its arguments", i, mprt__string(p, c->label),
                 mprt__string(p, c->source));
  }
  for (uint32_t i = 0; i < p->nkernel; i++) {
    const MpccKernel *k = &p->kernel[i];
    if (!is_name(p, k->symbol) || k->ntiles > INT32_MAX || k->scratch_bytes > INT64_MAX / 4096)
      return bad(p, "kernel %u has no symbol, too many tiles or too much scratch", i);
  }
  for (uint32_t i = 0; i < p->ncode; i++) {
    const MpccCode *c = &p->code[i];
    if (!is_name(p, c->target) || !is_name(p, c->level) || !is_string(p, c->needs) ||
        c->object.offset > p->image_bytes || c->object.count > p->image_bytes - c->object.offset)
      return bad(p, "code %u is not inside the image", i);
  }
  return MPCC_OK;
}

static Status load_meta(mprt_program *p) {
  json_error_t e;
  if (!is_string(p, p->head->meta))
    return bad(p, "has no facts about itself");
  p->meta = mprt__json_parse(mprt_meta(p), strlen(mprt_meta(p)), &e);
  if (!json_is_object(p->meta))
    return bad(p, "its facts are not a JSON object");
  p->spec = json_object_get(p->meta, "spec");
  if (json_is_object(p->spec))
    return MPCC_OK;
  p->spec = json_object();
  if (!p->spec || json_object_set_new(p->meta, "spec", p->spec) != 0)
    return mprt__nomem(&p->cb, "spec");
  return MPCC_OK;
}

Status mprt__load(mprt_program *p, const void *image, size_t bytes) {
  Status s = check_header(p, image, bytes);
  if (s == MPCC_OK)
    s = check_spans(p);
  if (s == MPCC_OK)
    s = load_tensors(p);
  if (s == MPCC_OK)
    s = check_functions(p);
  if (s == MPCC_OK)
    s = check_args(p);
  if (s == MPCC_OK)
    s = check_commands(p);
  if (s == MPCC_OK)
    s = check_loops(p);
  if (s == MPCC_OK)
    s = load_meta(p);
  return s;
}

/* ---- code ---- */

/* First word of `needs` that this machine lacks, or NULL. */
static const char *lacking(const char *needs, size_t *len) {
  for (const char *w = needs + strspn(needs, " "); *w; w += strspn(w, " ")) {
    bool known;
    *len = strcspn(w, " ");
    if (!mprt__cpu_has(w, *len, &known))
      return w;
    w += *len;
  }
  return NULL;
}

/* Whether code of `target` may be taken for options.device. */
static bool device_has(const char *device, const char *target) {
  return !device || !strcmp(device, "auto") || !strncmp(device, target, strlen(target));
}

bool mprt__for_device(const mprt_program *p) {
  for (uint32_t i = 0; i < p->ncode; i++)
    if (device_has(p->options.device, mprt__string(p, p->code[i].target)))
      return true;
  return false;
}

static Status choose_code(mprt_program *p, const char *level, bool quiet) {
  const MpccCode *refused = NULL;
  const char *word = NULL, *device = p->options.device;
  size_t len = 0;
  for (uint32_t i = 0; i < p->ncode && !p->chosen; i++) {
    const MpccCode *c = &p->code[i];
    const char *target = mprt__string(p, c->target), *own = mprt__string(p, c->level);
    if (!device_has(device, target) || (level && strcmp(own, level) != 0))
      continue;
    if (!strcmp(target, "cuda")) {
      const bool any = !device || !strcmp(device, "auto");
      const bool silent = quiet || (any && i + 1 < p->ncode);
      Status s = mprt__cuda_create(p, any ? "cuda" : device, own, silent, p->gpu_lacks, &p->cuda);
      if (s == MPCC_OK)
        p->chosen = c;
      else if (s != MPCC_ERR_TARGET || !silent)
        return s;
      continue;
    }
    const char *lacks = lacking(mprt__string(p, c->needs), &len);
    if (!lacks)
      p->chosen = c;
    word = lacks;
    refused = c;
  }
  if (p->chosen)
    return MPCC_OK;
  if (quiet)
    return MPCC_ERR_TARGET;
  if (!refused)
    return mprt__fail(&p->cb, MPCC_ERR_TARGET, "this program has no code for %s%s",
                      level ? "" : "device ",
                      level    ? level
                      : device ? device
                               : "cpu");
  return mprt__fail(&p->cb, MPCC_ERR_TARGET,
                    "this program's code for %s needs '%.*s', which this machine does not have",
                    mprt__string(p, refused->level), (int)len, word);
}

Status mprt__load_code(mprt_program *p, const char *level, bool quiet) {
  Status s = choose_code(p, level, quiet);
  if (s != MPCC_OK)
    return s;
  if (p->cuda)
    return MPCC_OK;
  const char *name = mprt__string(p, p->chosen->level);
  s = mprt__code_map(p->image + p->chosen->object.offset, (size_t)p->chosen->object.count, name,
                     &p->cb, &p->mapped);
  if (s != MPCC_OK)
    return s;
  p->fn = calloc((size_t)p->nkernel + 1, sizeof *p->fn);
  if (!p->fn)
    return mprt__nomem(&p->cb, "kernels");
  for (uint32_t i = 0; i < p->nkernel; i++) {
    p->fn[i] = mprt__code_symbol(&p->mapped, mprt__string(p, p->kernel[i].symbol));
    if (!p->fn[i])
      return bad(p, "code of %s has no kernel '%s'", name, mprt__string(p, p->kernel[i].symbol));
  }
  return MPCC_OK;
}

void mprt__unload(mprt_program *p) {
  mprt__cuda_destroy(p, p->cuda);
  p->cuda = NULL;
  mprt__code_unmap(&p->mapped);
  for (uint32_t i = 0; p->attrs && i < p->ntensor; i++)
    json_decref(p->attrs[i]);
  free(p->attrs);
  free(p->by_name);
  free(p->flat);
  free(p->fn);
  json_decref(p->meta);
  p->attrs = NULL;
  p->by_name = NULL;
  p->flat = NULL;
  p->fn = NULL;
  p->meta = p->spec = NULL;
  p->chosen = NULL;
  p->ntensor = 0;
}
