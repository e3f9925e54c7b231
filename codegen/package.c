/* The image of a program (include/mpcc/abi.h, docs/abi.md): tables that refer to each other by
 * index and to memory by segment and offset, strings stored once, code at the end. */
#include "codegen/package.h"

#include <stdlib.h>
#include <string.h>

#include "mpcc/hash.h"

/* ---- strings --------------------------------------------------------------------------------- */

static uint64_t text_hash(const char *s, size_t len) {
  uint64_t out[2];
  MpccHash h;
  mpcc_hash_init(&h);
  mpcc_hash_add(&h, s, len);
  mpcc_hash_finish(&h, out);
  return out[0];
}

static void string_slots(Package *p, size_t n) {
  uint32_t *fresh = calloc(n, sizeof *fresh);
  if (!fresh) {
    p->failed = true;
    return;
  }
  for (size_t i = 0; i < p->nslot; i++) {
    if (!p->slot[i])
      continue;
    const char *s = p->strings.data + p->slot[i];
    size_t at = text_hash(s, strlen(s)) & (n - 1);
    while (fresh[at])
      at = (at + 1) & (n - 1);
    fresh[at] = p->slot[i];
  }
  free(p->slot);
  p->slot = fresh;
  p->nslot = n;
}

uint32_t package_string(Package *p, const char *s) {
  if (!s || !*s || p->failed)
    return 0;
  if (p->nstring * 2 >= p->nslot)
    string_slots(p, p->nslot ? p->nslot * 2 : 256);
  if (p->failed)
    return 0;
  size_t len = strlen(s), at = text_hash(s, len) & (p->nslot - 1);
  for (; p->slot[at]; at = (at + 1) & (p->nslot - 1))
    if (!strcmp(p->strings.data + p->slot[at], s))
      return p->slot[at];
  size_t offset = p->strings.len;
  text_put(&p->strings, s, len + 1);
  if (p->strings.failed || offset > UINT32_MAX) {
    p->failed = true;
    return 0;
  }
  p->slot[at] = (uint32_t)offset;
  p->nstring++;
  return (uint32_t)offset;
}

/* ---- tensors --------------------------------------------------------------------------------- */

uint32_t package_segment(Role r) {
  static const uint32_t segment[] = {
#define ROLE(id, text, seg, doc) MPCC_SEG_##seg,
#include "mpcc/roles.def"
#undef ROLE
  };
  return segment[r];
}

static void attr_json(Text *t, const Attr *a) {
  text_json(t, a->key);
  text_puts(t, ":");
  switch (a->kind) {
  case AT_INT:
    text_printf(t, "%lld", (long long)a->u.i);
    break;
  case AT_FLOAT:
    if (a->u.f - a->u.f == 0) {
      text_double(t, a->u.f);
    } else {
      Text word = {0}; /* JSON has no infinities */
      text_double(&word, a->u.f);
      text_json(t, word.data ? word.data : "");
      t->failed |= word.failed;
      text_fini(&word);
    }
    break;
  case AT_BOOL:
    text_puts(t, a->u.i ? "true" : "false");
    break;
  case AT_STR:
    text_json(t, a->u.s);
    break;
  case AT_DTYPE:
    text_json(t, dtype_text((DType)a->u.i));
    break;
  case AT_INTS:
    for (int i = 0; i < a->u.ints.n; i++)
      text_printf(t, "%s%lld", i ? "," : "[", (long long)a->u.ints.v[i]);
    text_puts(t, a->u.ints.n ? "]" : "[]");
    break;
  case AT_TENSOR:
    text_json(t, a->u.tensor->name);
    break;
  }
}

static uint32_t attrs_string(Package *p, const Tensor *t) {
  Text json = {0};
  for (int i = 0; i < t->nattr; i++) {
    text_puts(&json, i ? "," : "{");
    attr_json(&json, &t->attr[i]);
  }
  text_puts(&json, t->nattr ? "}" : "{}");
  p->failed |= json.failed;
  uint32_t at = package_string(p, json.data);
  text_fini(&json);
  return at;
}

static void put_tensor(Package *p, const Tensor *t) {
  MpccTensor row = {.name = package_string(p, t->name),
                    .dtype = (uint32_t)t->type->dt,
                    .role = (uint32_t)t->role,
                    .segment = package_segment(t->role),
                    .rank = (uint32_t)t->type->rank,
                    .base = (uint32_t)(t->base ? t->base->index : t->index),
                    .offset = (uint64_t)t->offset,
                    .bytes = (uint64_t)type_bytes(t->type),
                    .attrs = attrs_string(p, t)};
  for (int d = 0; d < t->type->rank; d++)
    row.dim[d] = t->type->dim[d];
  text_put(&p->tensors, (const char *)&row, sizeof row);
}

/* ---- kernels and code ------------------------------------------------------------------------ */

static void put_kernels(Package *p) {
  for (int i = 0; i < p->kernels->n; i++) {
    const Kernel *k = &p->kernels->kernel[i];
    MpccKernel row = {.symbol = package_string(p, k->symbol),
                      .nargs = (uint32_t)(k->group->nout + k->group->nin + k->group->body->nparam),
                      .ntiles = (uint64_t)k->ntiles,
                      .scratch_bytes = (uint64_t)k->scratch_bytes,
                      .threads = (uint32_t)k->threads,
                      .columns = (uint32_t)k->columns,
                      .object = (uint32_t)k->object};
    text_put(&p->kernel_rows, (const char *)&row, sizeof row);
  }
}

static void pad(Text *t, size_t align) {
  static const char zero[MPCC_ALIGN];
  if (t->len % align)
    text_put(t, zero, align - t->len % align);
}

/* object.offset counts from the start of the code until the layout is known. */
static void put_codes(Package *p, const Code *codes, int ncode) {
  for (int i = 0; i < ncode; i++) {
    pad(&p->objects, MPCC_ALIGN);
    MpccCode row = {.target = package_string(p, codes[i].target),
                    .level = package_string(p, codes[i].level),
                    .needs = package_string(p, codes[i].needs),
                    .object = {p->objects.len, codes[i].object_bytes}};
    text_put(&p->objects, codes[i].object, codes[i].object_bytes);
    text_put(&p->codes, (const char *)&row, sizeof row);
  }
}

/* ---- the image ------------------------------------------------------------------------------- */

static MpccSpan append(Text *image, const Text *part, size_t element) {
  pad(image, MPCC_ALIGN);
  MpccSpan s = {image->len, part->len / element};
  if (part->len)
    text_put(image, part->data, part->len);
  return s;
}

static void assemble(Package *p, uint32_t meta, Text *image) {
  MpccImage h = {.magic = "", .version = MPCC_ABI_VERSION, .header_bytes = sizeof h, .meta = meta};
  memcpy(h.magic, MPCC_IMAGE_MAGIC, sizeof h.magic);
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    h.segment_bytes[i] = (uint64_t)p->m->segment_bytes[i];
  text_put(image, (const char *)&h, sizeof h);
  h.strings = append(image, &p->strings, 1);
  h.tensors = append(image, &p->tensors, sizeof(MpccTensor));
  h.functions = append(image, &p->functions, sizeof(MpccFunction));
  h.commands = append(image, &p->commands, sizeof(MpccCommand));
  h.args = append(image, &p->args, sizeof(MpccArgRef));
  h.kernels = append(image, &p->kernel_rows, sizeof(MpccKernel));
  size_t code_rows = image->len;
  pad(image, MPCC_ALIGN);
  code_rows = image->len;
  h.codes = append(image, &p->codes, sizeof(MpccCode));
  uint64_t objects = append(image, &p->objects, 1).offset;
  pad(image, MPCC_ALIGN);
  if (image->failed)
    return;
  for (size_t i = 0; i < h.codes.count; i++) {
    MpccCode row;
    memcpy(&row, image->data + code_rows + i * sizeof row, sizeof row);
    row.object.offset += objects;
    memcpy(image->data + code_rows + i * sizeof row, &row, sizeof row);
  }
  h.image_bytes = image->len;
  memcpy(image->data, &h, sizeof h);
  mpcc_image_hash(image->data, image->len, h.hash);
  memcpy(image->data, &h, sizeof h);
}

Status package_image(const Module *m, const KernelTable *kernels, const Code *codes, int ncode,
                     const char *meta, const Diag *files, void **image, size_t *bytes) {
  Package p = {.m = m, .kernels = kernels, .files = files};
  Text out = {0};
  *image = NULL;
  *bytes = 0;
  text_put(&p.strings, "", 1);
  for (int i = 0; i < m->ntensor; i++)
    put_tensor(&p, m->tensor[i]);
  for (int i = 0; i < m->nfunc; i++)
    if (!func_is_body(m->func[i])) /* those are part of the functions that loop */
      commands_function(&p, m->func[i]);
  put_kernels(&p);
  put_codes(&p, codes, ncode);
  uint32_t meta_at = package_string(&p, meta ? meta : "{}");
  p.failed |= p.strings.failed || p.tensors.failed || p.functions.failed || p.commands.failed ||
              p.args.failed || p.kernel_rows.failed || p.codes.failed || p.objects.failed;
  if (!p.failed && p.status == MPCC_OK)
    assemble(&p, meta_at, &out);
  Status s = p.status;
  if (s == MPCC_OK && (p.failed || out.failed))
    s = MPCC_ERR_NOMEM;
  if (s == MPCC_OK) {
    *image = out.data;
    *bytes = out.len;
  } else {
    text_fini(&out);
  }
  text_fini(&p.strings);
  text_fini(&p.tensors);
  text_fini(&p.functions);
  text_fini(&p.commands);
  text_fini(&p.args);
  text_fini(&p.kernel_rows);
  text_fini(&p.codes);
  text_fini(&p.objects);
  free(p.slot);
  return s;
}
