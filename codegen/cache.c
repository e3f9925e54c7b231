/* Compiled kernels on disk, one file each, named by the hash of their key. The whole key stands in
 * the file and is compared, so neither a collision nor a damaged file gives wrong code. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/codegen.h"

/* ---- key ---- */

/* Build id of the file this code was linked into: any change of the compiler changes it. */
static int find_build(struct dl_phdr_info *info, size_t size, void *user) {
  (void)size;
  uintptr_t here = (uintptr_t)&find_build;
  const char *notes = NULL;
  size_t bytes = 0;
  bool mine = false;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    uintptr_t at = info->dlpi_addr + p->p_vaddr;
    mine = mine || (p->p_type == PT_LOAD && here >= at && here < at + p->p_memsz);
    if (p->p_type != PT_NOTE)
      continue;
    for (size_t o = 0; o + sizeof(ElfW(Nhdr)) <= p->p_memsz;) {
      const ElfW(Nhdr) *n = (const ElfW(Nhdr) *)(at + o);
      size_t name = (n->n_namesz + 3u) & ~3u, desc = (n->n_descsz + 3u) & ~3u;
      const char *text = (const char *)(n + 1);
      if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 && !memcmp(text, "GNU", 4)) {
        notes = text + name;
        bytes = n->n_descsz;
      }
      o += sizeof *n + name + desc;
    }
  }
  if (!mine)
    return 0;
  for (size_t i = 0; i < bytes; i++)
    text_printf(user, "%02x", (unsigned char)notes[i]);
  return 1;
}

static void put_access(const Access *a, int ndim, Text *out) {
  text_printf(out, " %lld", (long long)a->offset);
  for (int d = 0; d <= ndim && d < MAX_DIMS; d++) /* products keep the K stride behind the last */
    text_printf(out, ",%lld", (long long)a->stride[d]);
}

static void put_body(const Op *op, Text *out) {
  const Body *b = op->body;
  text_printf(out, "dims %d cols %d panel %lld params %d:", b->ndim, b->ncol,
              (long long)b->panel_rows, b->nparam);
  for (int d = 0; d < b->ndim; d++)
    text_printf(out, " %lld", (long long)b->dim[d]);
  for (int k = 0; k < b->nout; k++) {
    text_printf(out, "\nout %s", dtype_text(op->out[k]->type->dt));
    put_access(&b->out[k], b->ndim, out);
  }
  for (int k = 0; k < b->nin; k++) {
    text_printf(out, "\nin %s", dtype_text(op->in[k]->type->dt));
    put_access(&b->in[k], b->ndim, out);
  }
  for (int i = 0; i < b->nstmt; i++) {
    const Stmt *s = &b->stmt[i];
    text_printf(out, "\n%s %d %d %d %d,%d,%d,%d %d %a", prim_name((Prim)s->prim), s->level, s->dt,
                s->rd, s->arg[0], s->arg[1], s->arg[2], s->arg[3], s->ref, s->imm);
  }
}

static void put_attr(const Attr *a, Text *out) {
  text_printf(out, "\n%s ", a->key);
  switch (a->kind) {
  case AT_FLOAT:
    text_printf(out, "%a", a->u.f);
    break;
  case AT_STR:
    text_puts(out, a->u.s);
    break;
  case AT_INTS:
    for (int i = 0; i < a->u.ints.n; i++)
      text_printf(out, "%lld ", (long long)a->u.ints.v[i]);
    break;
  case AT_TENSOR:
    break;
  default:
    text_printf(out, "%lld", (long long)a->u.i);
  }
}

void cache_key(const Kernel *k, int n, const Target *t, const char *level, int opt_level,
               Text *out) {
  if (t->key) {
    text_printf(out, "mpcc %s ", MPCC_VERSION);
    out->failed = !t->key(level, k, n, out) || out->failed;
    return;
  }
  text_printf(out, "mpcc %s build ", MPCC_VERSION);
  dl_iterate_phdr(find_build, out);
  text_printf(out, "\n%s ", t->name);
  t->compiler(level, opt_level, out);
  for (; n-- > 0; k++) {
    text_printf(out, "\n%s\n", k->symbol);
    put_body(k->group, out);
    for (int i = 0; i < k->group->nattr; i++)
      if (!attr_is_told(&k->group->attr[i]))
        put_attr(&k->group->attr[i], out);
    text_puts(out, "\n");
  }
}

/* ---- files ---- */

static const char cache_magic[8] = "MPCCKRN3";

/* A file: this, the facts of each kernel, the key, the object. */
typedef struct {
  char magic[8];
  uint64_t key_bytes, object_bytes, nkernel;
  uint64_t sum; /* of the facts and the object */
} Entry;
typedef struct {
  int64_t ntiles, scratch_bytes, columns, threads, registers, spill_bytes;
} Facts;

/* FNV-1a, 64 bits, from a chosen start. */
static uint64_t hash(const void *data, size_t len, uint64_t h) {
  const unsigned char *p = data;
  for (size_t i = 0; i < len; i++)
    h = (h ^ p[i]) * UINT64_C(0x100000001b3);
  return h;
}

static void entry_path(const char *dir, const Text *key, Text *out) {
  uint64_t a = hash(key->data, key->len, UINT64_C(0xcbf29ce484222325));
  uint64_t b = hash(key->data, key->len, a ^ UINT64_C(0x9e3779b97f4a7c15));
  text_printf(out, "%s/%016llx%016llx.krn", dir, (unsigned long long)a, (unsigned long long)b);
}

/* Whole file, malloc'ed; NULL when it cannot be read. */
static char *read_file(const char *path, size_t *len) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  char *data = NULL;
  *len = 0;
  if (fd < 0)
    return NULL;
  if (!fstat(fd, &st) && st.st_size > 0 && (data = malloc((size_t)st.st_size))) {
    while (*len < (size_t)st.st_size) {
      ssize_t n = read(fd, data + *len, (size_t)st.st_size - *len);
      if (n <= 0)
        break;
      *len += (size_t)n;
    }
  }
  close(fd);
  return data;
}

static uint64_t sum_of(const Facts *facts, size_t n, const void *object, size_t bytes,
                       uint64_t start) {
  return hash(object, bytes, hash(facts, n * sizeof *facts, start));
}

bool cache_get(const char *dir, const Text *key, Kernel *k, int n, void **bytes, size_t *len) {
  Text path = {0};
  entry_path(dir, key, &path);
  size_t size = 0;
  char *data = path.failed ? NULL : read_file(path.data, &size);
  text_fini(&path);
  Entry e = {0};
  const size_t count = (size_t)n, head = sizeof e + count * sizeof(Facts) + key->len;
  bool ok = data && size >= head;
  if (ok) {
    memcpy(&e, data, sizeof e);
    const Facts *facts = (const Facts *)(data + sizeof e);
    ok = !memcmp(e.magic, cache_magic, sizeof e.magic) && e.key_bytes == key->len &&
         e.nkernel == count && e.object_bytes <= size && size - e.object_bytes == head &&
         !memcmp(facts + count, key->data, key->len) &&
         sum_of(facts, count, data + head, e.object_bytes, e.key_bytes) == e.sum;
  }
  if (!ok) {
    free(data);
    return false;
  }
  const Facts *f = (const Facts *)(data + sizeof e);
  for (int i = 0; i < n; i++, f++) {
    k[i].ntiles = f->ntiles;
    k[i].scratch_bytes = f->scratch_bytes;
    k[i].columns = f->columns;
    k[i].threads = (int)f->threads;
    k[i].registers = (int)f->registers;
    k[i].spill_bytes = (int)f->spill_bytes;
  }
  memmove(data, data + head, e.object_bytes);
  *bytes = data;
  *len = e.object_bytes;
  return true;
}

static bool write_all(int fd, const void *data, size_t len) {
  const char *p = data;
  while (len) {
    ssize_t n = write(fd, p, len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    p += n;
    len -= (size_t)n;
  }
  return true;
}

/* mkdir -p; failures show when the file is opened. */
static void make_dirs(const char *dir) {
  Text t = {0};
  text_puts(&t, dir);
  for (size_t i = 1; !t.failed && t.data && i < t.len; i++)
    if (t.data[i] == '/') {
      t.data[i] = 0;
      mkdir(t.data, 0777);
      t.data[i] = '/';
    }
  if (!t.failed && t.data)
    mkdir(t.data, 0777);
  text_fini(&t);
}

/* All of an entry to an open file; closes it. */
static bool write_entry(int fd, const Text *key, const Facts *facts, int n, const void *bytes,
                        size_t len) {
  Entry e = {.key_bytes = key->len,
             .object_bytes = len,
             .nkernel = (uint64_t)n,
             .sum = sum_of(facts, (size_t)n, bytes, len, key->len)};
  memcpy(e.magic, cache_magic, sizeof e.magic);
  bool ok = write_all(fd, &e, sizeof e) && write_all(fd, facts, (size_t)n * sizeof *facts) &&
            write_all(fd, key->data, key->len) && write_all(fd, bytes, len) && !fchmod(fd, 0644);
  return !close(fd) && ok;
}

void cache_put(const char *dir, const Text *key, const Kernel *k, int n, const void *bytes,
               size_t len) {
  Text path = {0}, temp = {0};
  entry_path(dir, key, &path);
  text_printf(&temp, "%s/.new-XXXXXX", dir);
  Facts *facts = calloc((size_t)n + 1, sizeof *facts);
  int fd = -1;
  if (facts && !path.failed && !temp.failed)
    fd = mkostemp(temp.data, O_CLOEXEC);
  if (facts && !path.failed && !temp.failed && fd < 0 && errno == ENOENT) {
    make_dirs(dir);
    memcpy(temp.data + temp.len - 6, "XXXXXX", 6);
    fd = mkostemp(temp.data, O_CLOEXEC);
  }
  for (int i = 0; facts && i < n; i++)
    facts[i] = (Facts){k[i].ntiles,  k[i].scratch_bytes, k[i].columns,
                       k[i].threads, k[i].registers,     k[i].spill_bytes};
  if (fd >= 0 && (!write_entry(fd, key, facts, n, bytes, len) || rename(temp.data, path.data)))
    unlink(temp.data);
  free(facts);
  text_fini(&path);
  text_fini(&temp);
}
