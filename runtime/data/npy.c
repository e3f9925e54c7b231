/* NumPy arrays: .npy files and .npz archives. Sources: NumPy Enhancement Proposal 1 (versions 1 to
 * 3 of the header); PKWARE's APPNOTE.TXT 6.3.3 for the archive's central directory, with Zip64. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "runtime/data/arrays.h"

/* ---- the header ---- */

typedef struct {
  mprt__store store;
  bool swapped, fortran;
  int rank;
  int64_t dim[MPCC_MAX_RANK + 1];
} Header;

/* A cursor over the header's text, which is a Python dictionary. */
typedef struct {
  const char *at, *end;
} Text;

static void skip(Text *t) {
  while (t->at < t->end && isspace((unsigned char)*t->at))
    t->at++;
}

static bool take(Text *t, const char *word) {
  skip(t);
  size_t n = strlen(word);
  if ((size_t)(t->end - t->at) < n || strncmp(t->at, word, n))
    return false;
  t->at += n;
  return true;
}

/* 'text' or "text" without escapes, up to 31 bytes. */
static bool take_string(Text *t, char out[32]) {
  skip(t);
  if (t->at == t->end || (*t->at != '\'' && *t->at != '"'))
    return false;
  char quote = *t->at++;
  size_t n = 0;
  while (t->at < t->end && *t->at != quote && n < 31)
    out[n++] = *t->at++;
  out[n] = 0;
  return t->at < t->end && *t->at++ == quote;
}

static bool take_number(Text *t, int64_t *out) {
  skip(t);
  if (t->at == t->end || !isdigit((unsigned char)*t->at))
    return false;
  int64_t v = 0;
  while (t->at < t->end && isdigit((unsigned char)*t->at))
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *t->at++ - '0', &v))
      return false;
  take(t, "L"); /* as Python 2 wrote them */
  *out = v;
  return true;
}

static bool take_shape(Text *t, Header *h) {
  if (!take(t, "("))
    return false;
  while (!take(t, ")")) {
    if (h->rank > MPCC_MAX_RANK || !take_number(t, &h->dim[h->rank]))
      return false;
    h->rank++;
    if (!take(t, ",")) {
      if (!take(t, ")"))
        return false;
      break;
    }
  }
  return true;
}

/* "<f4": byte order, kind, size. Booleans are the numbers 0 and 1, no bytes of images. */
static bool read_descr(const char *d, Header *h) {
  static const struct {
    const char *text;
    mprt__store store;
  } kinds[] = {{"b1", MPRT__STORE_I8},  {"u1", MPRT__STORE_U8},  {"i1", MPRT__STORE_I8},
               {"u2", MPRT__STORE_U16}, {"i2", MPRT__STORE_I16}, {"u4", MPRT__STORE_U32},
               {"i4", MPRT__STORE_I32}, {"u8", MPRT__STORE_I64}, {"i8", MPRT__STORE_I64},
               {"f2", MPRT__STORE_F16}, {"f4", MPRT__STORE_F32}, {"f8", MPRT__STORE_F64}};
  if (!*d || !strchr("<>|=", *d))
    return false;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(kinds[i].text, d + 1)) {
      h->store = kinds[i].store;
      h->swapped = *d == '>' && mprt__store_bytes(h->store) > 1;
      return true;
    }
  return false;
}

static Status read_dictionary(Text t, const char *where, Header *h, const mprt_callbacks *cb) {
  char key[32], descr[32] = "";
  bool order = false, shape = false, ok = take(&t, "{");
  while (ok && !take(&t, "}")) {
    ok = take_string(&t, key) && take(&t, ":");
    if (ok && !strcmp(key, "descr")) {
      ok = take_string(&t, descr);
      if (!ok) {
        skip(&t);
        if (t.at < t.end && *t.at == '[')
          return mprt__fail(cb, MPCC_ERR_DATA,
                            "%s: arrays of records cannot be read; save each "
                            "column as an array of its own",
                            where);
      }
    } else if (ok && !strcmp(key, "fortran_order")) {
      h->fortran = take(&t, "True");
      ok = order = h->fortran || take(&t, "False");
    } else if (ok && !strcmp(key, "shape")) {
      ok = shape = take_shape(&t, h);
    } else {
      ok = false;
    }
    if (ok && !take(&t, ",")) {
      ok = take(&t, "}");
      break;
    }
  }
  if (!ok || !*descr || !order || !shape)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: its header is not the dictionary of a NumPy array of "
                      "at most %d dimensions",
                      where, MPCC_MAX_RANK + 1);
  if (!read_descr(descr, h))
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: elements of type '%s' cannot be read; integers, floats of 2 to 8 bytes "
                      "and booleans can",
                      where, descr);
  h->fortran = h->fortran && h->rank > 1;
  return MPCC_OK;
}

/* Header at `data`; *begin: where elements begin. */
static Status read_header(const uint8_t *data, uint64_t bytes, const char *where, Header *h,
                          uint64_t *begin, const mprt_callbacks *cb) {
  *h = (Header){0};
  if (bytes < 10 || memcmp(data, "\x93NUMPY", 6))
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: not a NumPy array: it does not begin with "
                      "\\x93NUMPY",
                      where);
  int version = data[6];
  uint64_t head = version == 1 ? 10 : 12, length = data[8] | (uint64_t)data[9] << 8;
  if (version < 1 || version > 3)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: version %d of the format is not known", where,
                      version);
  if (head == 12 && bytes >= 12)
    length |= (uint64_t)data[10] << 16 | (uint64_t)data[11] << 24;
  if (bytes < head || length > bytes - head)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: truncated within its header", where);
  *begin = head + length;
  return read_dictionary((Text){(const char *)data + head, (const char *)data + *begin}, where, h,
                         cb);
}

/* ---- an array becomes a piece of a field ---- */

/* u8 images as PIL and NumPy have them, [H, W, C] with C 1, 3 or 4. */
static bool is_channels_last(const Header *h) {
  int64_t first = h->dim[1], last = h->dim[3];
  return h->rank == 4 && h->store == MPRT__STORE_U8 && (last == 1 || last == 3 || last == 4) &&
         first != 1 && first != 3 && first != 4;
}

/* Checks that the shape is possible and that `bytes` hold it. stride: bytes of a sample */
static Status check_shape(const Header *h, uint64_t bytes, const char *where, uint64_t *stride_out,
                          const mprt_callbacks *cb) {
  uint64_t stride = (uint64_t)mprt__store_bytes(h->store), total;
  if (!h->rank)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: is a single number; its first axis must count "
                      "samples",
                      where);
  for (int i = 1; i < h->rank; i++)
    if (h->dim[i] < 1 || __builtin_mul_overflow(stride, (uint64_t)h->dim[i], &stride) ||
        stride > (UINT64_C(1) << 40))
      return mprt__fail(cb, MPCC_ERR_DATA, "%s: impossible shape", where);
  if (__builtin_mul_overflow(stride, (uint64_t)h->dim[0], &total) || total > bytes)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: truncated: its shape needs %lld x %llu bytes, it has %llu", where,
                      (long long)h->dim[0], (unsigned long long)stride, (unsigned long long)bytes);
  *stride_out = stride;
  return MPCC_OK;
}

/* Elements in Fortran order at `from`, the first axis fastest, to C order. */
static void to_c_order(const Header *h, const uint8_t *from, uint64_t elems, uint8_t *to) {
  uint64_t size = (uint64_t)mprt__store_bytes(h->store), step[MPCC_MAX_RANK + 1] = {size}, at = 0;
  int64_t index[MPCC_MAX_RANK + 1] = {0};
  for (int k = 1; k < h->rank; k++)
    step[k] = step[k - 1] * (uint64_t)h->dim[k - 1];
  for (uint64_t i = 0; i < elems; i++) {
    memcpy(to + i * size, from + at, size);
    for (int k = h->rank - 1; k >= 0; k--) {
      at += step[k];
      if (++index[k] < h->dim[k])
        break;
      at -= step[k] * (uint64_t)h->dim[k];
      index[k] = 0;
    }
  }
}

/* Puts the elements at *begin of *memory in C order, in memory of their own, and frees the old;
 * frees it after an error too. */
static Status reorder(const Header *h, uint8_t **memory, uint64_t *begin, uint64_t *bytes,
                      const char *where, const mprt_callbacks *cb) {
  uint64_t stride;
  uint8_t *old = *memory;
  *memory = NULL;
  Status st = check_shape(h, *bytes, where, &stride, cb);
  uint64_t total = st == MPCC_OK ? stride * (uint64_t)h->dim[0] : 0;
  if (st == MPCC_OK && !(*memory = malloc(total + 1)))
    st = mprt__nomem(cb, where);
  if (st == MPCC_OK)
    to_c_order(h, old + *begin, total / (uint64_t)mprt__store_bytes(h->store), *memory);
  free(old);
  *begin = 0;
  *bytes = total;
  return st;
}

/* Adds the array at [offset, offset + bytes) of the newest block to field `name`. */
static Status add_array(mprt__arrays *a, const char *name, const Header *h, uint64_t offset,
                        uint64_t bytes, const char *where, const mprt_callbacks *cb) {
  uint64_t stride;
  Status st = check_shape(h, bytes, where, &stride, cb);
  if (st != MPCC_OK)
    return st;
  bool planes = is_channels_last(h);
  int64_t chw[3] = {h->dim[3], h->dim[1], h->dim[2]};
  const int64_t *dim = planes ? chw : h->dim + 1;
  int f = mprt__arrays_find(a, name);
  if (f < 0) {
    f = mprt__arrays_field(a, name, h->store, h->rank - 1, dim);
    if (f < 0)
      return mprt__fail(cb, MPCC_ERR_DATA, "%s: more than %d arrays", where, MPRT__MAX_FIELDS);
    a->column[f].swapped = h->swapped;
    a->column[f].planes = planes;
  } else {
    const mprt__field *x = &a->base.field[f];
    if (a->column[f].store != h->store || a->column[f].swapped != h->swapped ||
        x->rank != h->rank - 1 || memcmp(x->dim, dim, (size_t)x->rank * sizeof *dim))
      return mprt__fail(cb, MPCC_ERR_DATA,
                        "%s: its samples have another shape or type than those of the file before",
                        where);
  }
  return mprt__arrays_piece(a, f, offset, stride, h->dim[0], cb);
}

/* ---- .npy ---- */

/* Reads the header of a file that is no archive; it is shorter than 64 KiB in practice. */
static Status add_npy(mprt__arrays *a, const char *name, const char *path,
                      const mprt_callbacks *cb) {
  enum { HEAD = 1 << 16 };
  mprt__file file;
  Status st = mprt__file_open(path, cb, &file);
  if (st != MPCC_OK)
    return st;
  size_t n = file.bytes < HEAD ? (size_t)file.bytes : HEAD;
  uint8_t *head = malloc(n + 1);
  uint64_t begin = 0, bytes = file.bytes;
  Header h;
  int error = head ? mprt__file_get(&file, 0, head, n) : 0;
  if (!head)
    st = mprt__nomem(cb, path);
  else if (error)
    st = mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(error));
  else
    st = read_header(head, n, path, &h, &begin, cb);
  free(head);
  if (st != MPCC_OK) {
    mprt__file_close(&file);
    return st;
  }
  bytes -= begin;
  uint8_t *memory = NULL;
  if (h.fortran) { /* samples do not lie together in the file: into memory with all of it */
    size_t whole;
    mprt__file_close(&file);
    file = (mprt__file){.fd = -1};
    st = mprt__file_whole(path, cb, &memory, &whole);
    bytes = st == MPCC_OK && whole > begin ? whole - begin : 0;
    if (st == MPCC_OK)
      st = reorder(&h, &memory, &begin, &bytes, path, cb);
    if (st != MPCC_OK)
      return st;
  }
  st = mprt__arrays_block(a, memory, file, cb);
  return st == MPCC_OK ? add_array(a, name, &h, begin, bytes, path, cb) : st;
}

Status mprt__npy_open(const mprt__data_source *s, mprt__dataset **out) {
  const json_t *files = json_object_get(s->config, "files");
  const char *name;
  json_t *value;
  mprt__arrays *a;
  *out = NULL;
  Status st = mprt__arrays_create(s->cb, &a);
  if (st != MPCC_OK)
    return st;
  json_object_foreach((json_t *)files, name, value) {
    mprt__paths paths = {0};
    mprt__data_source one = *s;
    one.config = files;
    if (st == MPCC_OK)
      st = mprt__paths_of(&one, name, &paths);
    for (int i = 0; st == MPCC_OK && i < paths.n; i++)
      st = add_npy(a, name, paths.path[i], s->cb);
    mprt__paths_free(&paths);
  }
  return mprt__arrays_finish(a, s, st, out);
}

/* ---- .npz ---- */

static uint64_t little(const uint8_t *p, int n) {
  uint64_t v = 0;
  while (n--)
    v = v << 8 | p[n];
  return v;
}

/* A file of the archive: `size` bytes, stored or deflated to `packed` at the local header. */
typedef struct {
  char name[256];
  int method;
  uint32_t crc;
  uint64_t size, packed, local;
} Entry;

typedef struct {
  const uint8_t *data;
  uint64_t bytes, at; /* at: of the next central header */
  uint64_t left;      /* entries */
} Archive;

static const char not_zip[] = "not a .npz archive, or damaged";

/* Finds the end record, which lies within the last 64 KiB; false: none, or it points nowhere. */
static bool open_archive(Archive *z) {
  enum { END = 22, LOCATOR = 20, END64 = 56 };
  if (z->bytes < END)
    return false;
  uint64_t least = z->bytes > END + 65535 ? z->bytes - END - 65535 : 0, at = z->bytes - END;
  while (little(z->data + at, 4) != 0x06054b50)
    if (at-- == least)
      return false;
  z->left = little(z->data + at + 10, 2);
  z->at = little(z->data + at + 16, 4);
  if ((z->at == UINT32_MAX || z->left == 65535) && at >= LOCATOR &&
      little(z->data + at - LOCATOR, 4) == 0x07064b50) {
    uint64_t end64 = little(z->data + at - LOCATOR + 8, 8);
    if (end64 > z->bytes || z->bytes - end64 < END64 || little(z->data + end64, 4) != 0x06064b50)
      return false;
    z->left = little(z->data + end64 + 32, 8);
    z->at = little(z->data + end64 + 48, 8);
  }
  return z->at <= z->bytes;
}

/* Sizes of 0xffffffff stand in the Zip64 extra field, in this order. */
static bool read_extra64(const uint8_t *p, uint64_t n, uint64_t *value[3]) {
  while (n >= 4) {
    uint64_t id = little(p, 2), size = little(p + 2, 2);
    if (size > n - 4)
      return false;
    if (id == 1) {
      const uint8_t *q = p + 4;
      for (int i = 0; i < 3; i++)
        if (*value[i] == UINT32_MAX) {
          if (size < 8)
            return false;
          *value[i] = little(q, 8);
          q += 8;
          size -= 8;
        }
      return true;
    }
    p += 4 + size;
    n -= 4 + size;
  }
  return true;
}

static bool next_entry(Archive *z, Entry *e) {
  enum { CENTRAL = 46 };
  if (z->bytes - z->at < CENTRAL || little(z->data + z->at, 4) != 0x02014b50)
    return false;
  const uint8_t *p = z->data + z->at;
  uint64_t name = little(p + 28, 2), extra = little(p + 30, 2), comment = little(p + 32, 2);
  if (z->bytes - z->at - CENTRAL < name + extra + comment || name >= sizeof e->name ||
      memchr(p + CENTRAL, 0, name))
    return false;
  *e = (Entry){.method = (int)little(p + 10, 2),
               .crc = (uint32_t)little(p + 16, 4),
               .packed = little(p + 20, 4),
               .size = little(p + 24, 4),
               .local = little(p + 42, 4)};
  memcpy(e->name, p + CENTRAL, name);
  z->at += CENTRAL + name + extra + comment;
  z->left--;
  return read_extra64(p + CENTRAL + name, extra, (uint64_t *[]){&e->size, &e->packed, &e->local});
}

/* Where the entry's bytes begin; false: outside the archive. */
static bool find_bytes(const Archive *z, const Entry *e, uint64_t *begin) {
  enum { LOCAL = 30 };
  if (e->local > z->bytes || z->bytes - e->local < LOCAL ||
      little(z->data + e->local, 4) != 0x04034b50)
    return false;
  const uint8_t *p = z->data + e->local;
  *begin = e->local + LOCAL + little(p + 26, 2) + little(p + 28, 2);
  return *begin <= z->bytes && e->packed <= z->bytes - *begin &&
         (e->method != 0 || e->packed == e->size);
}

/* Inflates into memory that grows with what is really there; NULL with *why. */
static uint8_t *inflate_entry(const uint8_t *from, uint64_t packed, uint64_t size,
                              const char **why) {
  z_stream z = {.next_in = (Bytef *)from};
  uint64_t room = size < (16u << 20) ? size + 1 : 16u << 20, have = 0;
  uint8_t *p = malloc(room);
  *why = "out of memory";
  if (!p || inflateInit2(&z, -15) != Z_OK) {
    free(p);
    return NULL;
  }
  int code = Z_OK;
  while (p && code == Z_OK && have <= size) {
    if (have == room) {
      room = room > size / 2 ? size + 1 : 2 * room;
      uint8_t *q = realloc(p, room);
      if (!q)
        free(p);
      p = q;
      if (!p)
        break;
    }
    if (!z.avail_in) {
      z.avail_in = packed < (1u << 30) ? (uInt)packed : 1u << 30;
      packed -= z.avail_in;
    }
    uInt ask = room - have < (1u << 30) ? (uInt)(room - have) : 1u << 30;
    z.next_out = p + have;
    z.avail_out = ask;
    code = inflate(&z, Z_NO_FLUSH);
    have += ask - z.avail_out;
    if (code == Z_BUF_ERROR && have < size)
      break; /* no more input */
  }
  inflateEnd(&z);
  if (p && code == Z_STREAM_END && have == size)
    return p;
  *why = p ? "its compressed data is damaged" : *why;
  free(p);
  return NULL;
}

static Status add_entry(mprt__arrays *a, const Archive *z, const Entry *e, const char *path,
                        const mprt_callbacks *cb) {
  char where[4600], name[256];
  uint64_t begin, elems;
  Header h;
  const char *why = not_zip;
  size_t n = strlen(e->name);
  snprintf(name, sizeof name, "%.*s", (int)(n > 4 && !strcmp(e->name + n - 4, ".npy") ? n - 4 : n),
           e->name);
  snprintf(where, sizeof where, "%.4096s: %s", path, e->name);
  if (!find_bytes(z, e, &begin) || (e->method != 0 && e->method != 8))
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: %s", where,
                      e->method == 0 || e->method == 8 ? not_zip
                                                       : "is compressed by an unknown method");
  uint8_t *memory = NULL;
  if (e->method == 8) {
    memory = inflate_entry(z->data + begin, e->packed, e->size, &why);
  } else if ((memory = malloc(e->size + 1))) {
    memcpy(memory, z->data + begin, e->size);
  }
  if (!memory)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: %s", where, why);
  uint32_t crc = 0;
  for (uint64_t at = 0; at < e->size; at += 1u << 30)
    crc = (uint32_t)crc32(crc, memory + at,
                          e->size - at < (1u << 30) ? (uInt)(e->size - at) : 1u << 30);
  Status st = crc == e->crc ? read_header(memory, e->size, where, &h, &elems, cb)
                            : mprt__fail(cb, MPCC_ERR_DATA, "%s: its checksum is wrong", where);
  if (st != MPCC_OK) {
    free(memory);
    return st;
  }
  uint64_t bytes = e->size - elems;
  if (h.fortran)
    st = reorder(&h, &memory, &elems, &bytes, where, cb);
  if (st == MPCC_OK)
    st = mprt__arrays_block(a, memory, (mprt__file){.fd = -1}, cb);
  return st == MPCC_OK ? add_array(a, name, &h, elems, bytes, where, cb) : st;
}

/* Whether some input wants the array; names may be patterns. */
static bool is_wanted(const mprt__data_source *s, const char *entry) {
  size_t n = strlen(entry);
  if (n > 4 && !strcmp(entry + n - 4, ".npy"))
    n -= 4;
  for (int i = 0; i < s->nwant; i++)
    if (strlen(s->want[i]) == n && !strncmp(s->want[i], entry, n))
      return true;
  return !s->want;
}

static Status add_npz(mprt__arrays *a, const mprt__data_source *s, const char *path) {
  uint8_t *data;
  size_t bytes;
  Status st = mprt__file_whole(path, s->cb, &data, &bytes);
  if (st != MPCC_OK)
    return st;
  Archive z = {.data = data, .bytes = bytes};
  if (!open_archive(&z))
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s: %s", path, not_zip);
  while (st == MPCC_OK && z.left) {
    Entry e;
    if (!next_entry(&z, &e))
      st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s: %s", path, not_zip);
    else if (is_wanted(s, e.name))
      st = add_entry(a, &z, &e, path, s->cb);
  }
  free(data);
  return st;
}

Status mprt__npz_open(const mprt__data_source *s, mprt__dataset **out) {
  return mprt__arrays_open(s, add_npz, out);
}
