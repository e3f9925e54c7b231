/* Maps the machine code of an image: the one loader for programs built, cached or compiled in
 * memory.
 *
 * An archive of ELF relocatable objects is laid out as text | constants | data in one mapping,
 * relocated while it is writable, then protected: text read and execute, constants read, data read
 * and write. Nothing is ever writable and executable at once. Objects may need nothing from outside
 * themselves, so no symbol of the process is reachable from kernels by name.
 * Format: System V ABI, AMD64 supplement 1.0, chapter 4. */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/rt.h"

enum { MAX_CODE_BYTES = 1 << 30 }; /* so that every 32-bit relocation reaches */
typedef enum { PART_NONE, PART_TEXT, PART_CONST, PART_DATA, PART_COUNT } Part;

typedef struct {
  Part part;
  size_t offset; /* within its part, later within the mapping */
} Place;

typedef struct {
  const uint8_t *data;
  size_t bytes;
  const Elf64_Shdr *section;
  uint32_t nsection;
  const char *section_names;
  size_t section_names_bytes;
  const Elf64_Sym *symbol; /* NULL: none */
  size_t nsymbol;
  const char *names;
  size_t names_bytes;
  Place *place; /* per section */
} Object;

struct mprt__symbol {
  const char *name; /* in the image */
  void *address;
};

typedef struct {
  const char *where;
  const mprt_callbacks *cb;
  Object *object;
  size_t nobject;
  size_t size[PART_COUNT];  /* bytes of each part */
  size_t start[PART_COUNT]; /* of each part in the mapping */
  uint8_t *map;
} Loader;

/* ---- checking ---- */

static Status bad(const Loader *l, size_t object, const char *what) {
  return mprt__fail(l->cb, MPCC_ERR_INPUT, "program image: code of %s, object %zu: %s", l->where,
                    object, what);
}

static bool inside(uint64_t offset, uint64_t bytes, uint64_t total) {
  return offset <= total && bytes <= total - offset;
}

static const char *name_at(const char *names, size_t bytes, uint32_t offset) {
  return offset < bytes ? names + offset : NULL;
}

/* A string table whose last byte ends its last string. */
static bool string_table(const Object *o, uint32_t index, const char **names, size_t *bytes) {
  if (index >= o->nsection || o->section[index].sh_type != SHT_STRTAB)
    return false;
  *names = (const char *)o->data + o->section[index].sh_offset;
  *bytes = o->section[index].sh_size;
  return *bytes > 0 && (*names)[*bytes - 1] == 0;
}

static Status check_header(const Loader *l, size_t i, Object *o) {
  const Elf64_Ehdr *h = (const Elf64_Ehdr *)o->data;
  if (o->bytes < sizeof *h || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
    return bad(l, i, "not an ELF file");
  if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
      h->e_ident[EI_VERSION] != EV_CURRENT || h->e_machine != EM_X86_64 || h->e_type != ET_REL)
    return bad(l, i, "not a relocatable object for x86-64");
  if (h->e_shnum == 0 || h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shoff % 8 != 0 ||
      !inside(h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr), o->bytes))
    return bad(l, i, "section headers are not inside the object");
  o->section = (const Elf64_Shdr *)(o->data + h->e_shoff);
  o->nsection = h->e_shnum;
  for (uint32_t k = 0; k < o->nsection; k++) {
    const Elf64_Shdr *s = &o->section[k];
    if (s->sh_type != SHT_NULL && s->sh_type != SHT_NOBITS &&
        !inside(s->sh_offset, s->sh_size, o->bytes))
      return bad(l, i, "a section is not inside the object");
  }
  if (!string_table(o, h->e_shstrndx, &o->section_names, &o->section_names_bytes))
    return bad(l, i, "section names are damaged");
  return MPCC_OK;
}

static Status check_symbols(const Loader *l, size_t i, Object *o) {
  for (uint32_t k = 0; k < o->nsection; k++) {
    const Elf64_Shdr *s = &o->section[k];
    if (s->sh_type != SHT_SYMTAB)
      continue;
    if (o->symbol)
      return bad(l, i, "two symbol tables");
    if (s->sh_entsize != sizeof(Elf64_Sym) || s->sh_offset % 8 != 0 ||
        s->sh_size % sizeof(Elf64_Sym) != 0 ||
        !string_table(o, s->sh_link, &o->names, &o->names_bytes))
      return bad(l, i, "the symbol table is damaged");
    o->symbol = (const Elf64_Sym *)(o->data + s->sh_offset);
    o->nsymbol = s->sh_size / sizeof(Elf64_Sym);
    for (size_t y = 0; y < o->nsymbol; y++)
      if (o->symbol[y].st_name >= o->names_bytes)
        return bad(l, i, "a symbol's name is outside the string table");
  }
  return MPCC_OK;
}

/* Which part section s goes to; PART_NONE: it is not needed (unwind tables, notes, debugging). */
static Status section_part(const Loader *l, size_t i, const Object *o, const Elf64_Shdr *s,
                           Part *out) {
  *out = PART_NONE;
  if (!(s->sh_flags & SHF_ALLOC) || s->sh_type == SHT_X86_64_UNWIND || s->sh_type == SHT_NOTE)
    return MPCC_OK;
  const char *name = name_at(o->section_names, o->section_names_bytes, s->sh_name);
  if (!name)
    return bad(l, i, "a section's name is outside the string table");
  if (!strcmp(name, ".eh_frame"))
    return MPCC_OK;
  if ((s->sh_type != SHT_PROGBITS && s->sh_type != SHT_NOBITS) || (s->sh_flags & SHF_TLS))
    return bad(l, i, "has a section that kernels may not have (constructors, thread-local data)");
  if (s->sh_addralign > 4096 || (s->sh_addralign & (s->sh_addralign - 1)) != 0)
    return bad(l, i, "a section's alignment is not a power of two up to 4096");
  bool write = s->sh_flags & SHF_WRITE, exec = s->sh_flags & SHF_EXECINSTR;
  if (write && exec)
    return bad(l, i, "a section is writable and executable");
  *out = exec ? PART_TEXT : write ? PART_DATA : PART_CONST;
  return MPCC_OK;
}

static Status check_object(Loader *l, size_t i) {
  Object *o = &l->object[i];
  Status s = check_header(l, i, o);
  if (s == MPCC_OK)
    s = check_symbols(l, i, o);
  if (s != MPCC_OK)
    return s;
  o->place = calloc(o->nsection, sizeof *o->place);
  if (!o->place)
    return mprt__nomem(l->cb, "code");
  for (uint32_t k = 0; k < o->nsection; k++) {
    const Elf64_Shdr *h = &o->section[k];
    Part part;
    if ((s = section_part(l, i, o, h, &part)) != MPCC_OK)
      return s;
    if (part == PART_NONE)
      continue;
    size_t align = h->sh_addralign > 1 ? h->sh_addralign : 1;
    size_t at = (l->size[part] + align - 1) & ~(align - 1);
    if (h->sh_size > MAX_CODE_BYTES || at > MAX_CODE_BYTES - h->sh_size)
      return bad(l, i, "code is larger than 1 GiB");
    o->place[k] = (Place){part, at};
    l->size[part] = at + h->sh_size;
  }
  return MPCC_OK;
}

/* Splits the archive into objects. */
static Status open_archive(Loader *l, const uint8_t *data, size_t bytes) {
  MpccArchive head;
  if (bytes < sizeof head || (uintptr_t)data % 8 != 0)
    return mprt__fail(l->cb, MPCC_ERR_INPUT, "program image: code of %s is not an archive",
                      l->where);
  memcpy(&head, data, sizeof head);
  if (memcmp(head.magic, MPCC_ARCHIVE_MAGIC, sizeof head.magic) != 0 ||
      head.count > (bytes - sizeof head) / sizeof(MpccArchiveEntry))
    return mprt__fail(l->cb, MPCC_ERR_INPUT, "program image: code of %s is not an archive",
                      l->where);
  const MpccArchiveEntry *entry = (const MpccArchiveEntry *)(data + sizeof head);
  l->nobject = head.count;
  l->object = calloc(l->nobject + 1, sizeof *l->object);
  if (!l->object)
    return mprt__nomem(l->cb, "code");
  for (size_t i = 0; i < l->nobject; i++) {
    if (entry[i].offset % 8 != 0 || !inside(entry[i].offset, entry[i].bytes, bytes))
      return bad(l, i, "is not inside the archive");
    l->object[i].data = data + entry[i].offset;
    l->object[i].bytes = entry[i].bytes;
    Status s = check_object(l, i);
    if (s != MPCC_OK)
      return s;
  }
  return MPCC_OK;
}

/* ---- mapping ---- */

static Status map_parts(Loader *l, mprt__code *out) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), total = 0;
  for (int part = PART_TEXT; part < PART_COUNT; part++) {
    l->start[part] = total;
    total += (l->size[part] + page - 1) & ~(page - 1);
  }
  if (total > MAX_CODE_BYTES)
    return mprt__fail(l->cb, MPCC_ERR_INPUT, "program image: code of %s is larger than 1 GiB",
                      l->where);
  if (total == 0)
    return MPCC_OK;
  l->map = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (l->map == MAP_FAILED)
    return mprt__nomem(l->cb, "code");
  out->map = l->map;
  out->map_bytes = total;
  for (size_t i = 0; i < l->nobject; i++) {
    Object *o = &l->object[i];
    for (uint32_t k = 0; k < o->nsection; k++) {
      const Elf64_Shdr *h = &o->section[k];
      if (o->place[k].part == PART_NONE)
        continue;
      o->place[k].offset += l->start[o->place[k].part];
      if (h->sh_type != SHT_NOBITS && h->sh_size > 0)
        memcpy(l->map + o->place[k].offset, o->data + h->sh_offset, h->sh_size);
    }
  }
  return MPCC_OK;
}

/* Address of symbol y, or NULL when it is not a place in a mapped section of this object. */
static uint8_t *symbol_address(const Loader *l, const Object *o, size_t y) {
  const Elf64_Sym *s = &o->symbol[y];
  if (s->st_shndx == SHN_UNDEF || s->st_shndx >= o->nsection ||
      o->place[s->st_shndx].part == PART_NONE || s->st_value > o->section[s->st_shndx].sh_size)
    return NULL;
  return l->map + o->place[s->st_shndx].offset + s->st_value;
}

static Status relocate_one(const Loader *l, size_t i, const Object *o, uint32_t section,
                           const Elf64_Rela *r) {
  uint32_t type = ELF64_R_TYPE(r->r_info);
  uint64_t y = ELF64_R_SYM(r->r_info);
  bool wide = type == R_X86_64_64 || type == R_X86_64_PC64;
  if (type == R_X86_64_NONE)
    return MPCC_OK;
  if (!wide && type != R_X86_64_PC32 && type != R_X86_64_PLT32)
    return mprt__fail(l->cb, MPCC_ERR_INPUT,
                      "program image: code of %s, object %zu: relocation type %u is not supported",
                      l->where, i, type);
  if (y >= o->nsymbol || !inside(r->r_offset, wide ? 8 : 4, o->section[section].sh_size) ||
      o->section[section].sh_type == SHT_NOBITS)
    return bad(l, i, "a relocation is outside its section or symbol table");
  const uint8_t *symbol = symbol_address(l, o, y);
  if (!symbol)
    return mprt__fail(
        l->cb, MPCC_ERR_INPUT,
        "program image: code of %s, object %zu: symbol '%s' is needed but not defined "
        "in it",
        l->where, i, o->names + o->symbol[y].st_name);
  uint8_t *at = l->map + o->place[section].offset + r->r_offset;
  uint64_t value = (uint64_t)(uintptr_t)symbol + (uint64_t)r->r_addend;
  if (type != R_X86_64_64)
    value -= (uint64_t)(uintptr_t)at;
  if (!wide && (int64_t)value != (int32_t)(int64_t)value)
    return bad(l, i, "a relocation does not reach its symbol");
  memcpy(at, &value, wide ? 8 : 4);
  return MPCC_OK;
}

static Status relocate(const Loader *l, size_t i) {
  const Object *o = &l->object[i];
  for (uint32_t k = 0; k < o->nsection; k++) {
    const Elf64_Shdr *h = &o->section[k];
    if (h->sh_type != SHT_RELA && h->sh_type != SHT_REL)
      continue;
    if (h->sh_info >= o->nsection)
      return bad(l, i, "relocations belong to no section");
    if (o->place[h->sh_info].part == PART_NONE)
      continue;
    if (h->sh_type == SHT_REL || h->sh_entsize != sizeof(Elf64_Rela) || h->sh_offset % 8 != 0 ||
        h->sh_size % sizeof(Elf64_Rela) != 0 || h->sh_link >= o->nsection ||
        o->section[h->sh_link].sh_type != SHT_SYMTAB)
      return bad(l, i, "a relocation table is damaged");
    const Elf64_Rela *r = (const Elf64_Rela *)(o->data + h->sh_offset);
    for (size_t n = 0; n < h->sh_size / sizeof *r; n++) {
      Status s = relocate_one(l, i, o, h->sh_info, &r[n]);
      if (s != MPCC_OK)
        return s;
    }
  }
  return MPCC_OK;
}

/* ---- symbols ---- */

static bool is_kernel(const Object *o, const Elf64_Sym *s) {
  return ELF64_ST_TYPE(s->st_info) == STT_FUNC && ELF64_ST_BIND(s->st_info) != STB_LOCAL &&
         s->st_shndx < o->nsection && o->place[s->st_shndx].part == PART_TEXT;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct mprt__symbol *)a)->name, ((const struct mprt__symbol *)b)->name);
}

static Status collect_symbols(const Loader *l, mprt__code *out) {
  size_t n = 0;
  for (size_t i = 0; i < l->nobject; i++)
    for (size_t y = 0; y < l->object[i].nsymbol; y++)
      n += is_kernel(&l->object[i], &l->object[i].symbol[y]);
  out->symbol = calloc(n + 1, sizeof *out->symbol);
  if (!out->symbol)
    return mprt__nomem(l->cb, "code");
  for (size_t i = 0; i < l->nobject; i++) {
    const Object *o = &l->object[i];
    for (size_t y = 0; y < o->nsymbol; y++) {
      if (!is_kernel(o, &o->symbol[y]))
        continue;
      uint8_t *address = symbol_address(l, o, y);
      if (!address || o->symbol[y].st_value >= o->section[o->symbol[y].st_shndx].sh_size)
        return bad(l, i, "a kernel begins outside its section");
      out->symbol[out->nsymbol++] = (struct mprt__symbol){o->names + o->symbol[y].st_name, address};
    }
  }
  qsort(out->symbol, out->nsymbol, sizeof *out->symbol, by_name);
  for (size_t k = 1; k < out->nsymbol; k++)
    if (!strcmp(out->symbol[k - 1].name, out->symbol[k].name))
      return mprt__fail(l->cb, MPCC_ERR_INPUT, "program image: code of %s defines '%s' twice",
                        l->where, out->symbol[k].name);
  return MPCC_OK;
}

static Status protect(const Loader *l) {
  static const int access[PART_COUNT] = {0, PROT_READ | PROT_EXEC, PROT_READ,
                                         PROT_READ | PROT_WRITE};
  for (int part = PART_TEXT; part < PART_COUNT; part++)
    if (l->size[part] > 0 && mprotect(l->map + l->start[part], l->size[part], access[part]) != 0)
      return mprt__fail(l->cb, MPCC_ERR_RUN,
                        "the system does not let this process run generated code");
  return MPCC_OK;
}

Status mprt__code_map(const void *object, size_t bytes, const char *where, const mprt_callbacks *cb,
                      mprt__code *out) {
  Loader l = {.where = where, .cb = cb};
  memset(out, 0, sizeof *out);
  Status s = open_archive(&l, object, bytes);
  if (s == MPCC_OK)
    s = map_parts(&l, out);
  for (size_t i = 0; i < l.nobject && s == MPCC_OK; i++)
    s = relocate(&l, i);
  if (s == MPCC_OK)
    s = collect_symbols(&l, out);
  if (s == MPCC_OK)
    s = protect(&l);
  for (size_t i = 0; i < l.nobject && l.object; i++)
    free(l.object[i].place);
  free(l.object);
  if (s != MPCC_OK)
    mprt__code_unmap(out);
  return s;
}

void mprt__code_unmap(mprt__code *c) {
  if (c->map)
    munmap(c->map, c->map_bytes);
  free(c->symbol);
  memset(c, 0, sizeof *c);
}

MpccKernelFn mprt__code_symbol(const mprt__code *c, const char *name) {
  struct mprt__symbol key = {name, NULL};
  const struct mprt__symbol *s =
      c->nsymbol ? bsearch(&key, c->symbol, c->nsymbol, sizeof key, by_name) : NULL;
  MpccKernelFn fn = NULL;
  if (s)
    memcpy(&fn, &s->address, sizeof fn); /* data and function pointers are alike on this target */
  return fn;
}
