/* IDX files (the MNIST family), plain or compressed with gzip: big-endian magic 00 00 08 RANK, RANK
 * sizes of 32 bits, then bytes. Source: the format note on the MNIST page of Y. LeCun. */
#include <errno.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "runtime/data/data.h"

/* The bytes behind the header of one file, and the memory they lie in. */
typedef struct {
  const uint8_t *bytes;
  uint8_t *heap;
  mprt__memory pages;
} Body;

typedef struct {
  mprt__dataset base;
  Body part[2]; /* images, labels */
} Idx;

static void idx_destroy(mprt__dataset *d) {
  Idx *x = (Idx *)d;
  for (int i = 0; i < 2; i++) {
    free(x->part[i].heap);
    mprt__memory_destroy(&x->part[i].pages);
  }
  free(x);
}

static const void *idx_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  (void)r;
  return ((const Idx *)d)->part[f].bytes + i * d->field[f].elems;
}

static uint32_t big_endian(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* ---- a sound file of one gzip member, at once ------------------------------------------------ */

/* All of a regular file; false: it cannot be had whole. */
static bool slurp(const char *path, mprt__memory *out) {
  *out = (mprt__memory){0};
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool good = fd >= 0 && !fstat(fd, &info) && S_ISREG(info.st_mode) && info.st_size > 0 &&
              mprt__memory_create((size_t)info.st_size, false, out) == MPCC_OK;
  for (size_t have = 0; good && have < out->bytes;) {
    ssize_t k = read(fd, out->data + have, out->bytes - have);
    if (k <= 0 && !(k < 0 && errno == EINTR))
      good = false;
    have += k > 0 ? (size_t)k : 0;
  }
  if (fd >= 0)
    close(fd);
  if (!good)
    mprt__memory_destroy(out);
  return good;
}

/* What a gzip file of one member holds, checksum compared. Its last four bytes promise the size,
 * which deflate can exceed 1032 times at most (RFC 1951: 258 bytes from two bits). */
static bool inflate_whole(const mprt__memory *file, mprt__memory *out) {
  *out = (mprt__memory){0};
  if (file->bytes < 18 || file->data[0] != 0x1f || file->data[1] != 0x8b)
    return false;
  const uint8_t *end = file->data + file->bytes - 4;
  size_t promised =
      (size_t)end[0] | (size_t)end[1] << 8 | (size_t)end[2] << 16 | (size_t)end[3] << 24;
  if (!promised || promised / 1032 > file->bytes)
    return false;
  struct libdeflate_decompressor *z = libdeflate_alloc_decompressor();
  size_t read, made;
  bool good = z && mprt__memory_create(promised, false, out) == MPCC_OK &&
              libdeflate_gzip_decompress_ex(z, file->data, file->bytes, out->data, promised, &read,
                                            &made) == LIBDEFLATE_SUCCESS &&
              read == file->bytes && made == promised;
  libdeflate_free_decompressor(z);
  if (!good)
    mprt__memory_destroy(out);
  return good;
}

/* Start-up time of a program is that of its training set: this is three times as fast as a stream.
 * Anything but a sound compressed IDX file is left to the stream, which knows what to say. */
static bool read_sound(const char *path, int rank, uint32_t *dim, Body *out) {
  mprt__memory file, all;
  if (!slurp(path, &file))
    return false;
  bool good = inflate_whole(&file, &all);
  mprt__memory_destroy(&file);
  if (!good)
    return false;
  size_t head = 4 + 4 * (size_t)rank;
  uint64_t bytes = 1;
  good =
      all.bytes > head && !all.data[0] && !all.data[1] && all.data[2] == 8 && all.data[3] == rank;
  for (int i = 0; good && i < rank; i++) {
    dim[i] = big_endian(all.data + 4 + 4 * i);
    good = dim[i] && !__builtin_mul_overflow(bytes, dim[i], &bytes);
  }
  if (!good || bytes != all.bytes - head) {
    mprt__memory_destroy(&all);
    return false;
  }
  *out = (Body){.bytes = all.data + head, .pages = all};
  return true;
}

/* ---- any file, as a stream ------------------------------------------------------------------- */

/* Reads up to n bytes; how many there were. */
static uint64_t get(gzFile f, void *to, uint64_t n) {
  uint64_t done = 0;
  while (done < n) {
    unsigned part = n - done > (1u << 30) ? 1u << 30 : (unsigned)(n - done);
    int k = gzread(f, (uint8_t *)to + done, part);
    if (k <= 0)
      break;
    done += (uint64_t)k;
  }
  return done;
}

/* What zlib or the system says about the last read; NULL: the file is just short. */
static const char *trouble(gzFile f) {
  int code;
  const char *why = gzerror(f, &code);
  if (code == Z_ERRNO)
    return strerror(errno);
  return code == Z_OK || code == Z_STREAM_END ? NULL : why;
}

static Status read_head(gzFile f, const char *path, int rank, uint32_t *dim,
                        const mprt_callbacks *cb) {
  uint8_t head[4 + 4 * MPCC_MAX_RANK];
  if (get(f, head, 4) < 4) {
    const char *why = trouble(f);
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: shorter than an IDX header%s%s", path,
                      why ? ": " : "", why ? why : "");
  }
  if (head[0] || head[1] || head[2] != 8)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: not an IDX file of bytes: it begins %02x %02x %02x %02x, expected "
                      "00 00 08 %02x",
                      path, head[0], head[1], head[2], head[3], rank);
  if (head[3] != rank)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: has %d dimensions, expected %d", path, head[3], rank);
  if (get(f, head + 4, 4 * (uint64_t)rank) < 4 * (uint64_t)rank)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: IDX header is cut short", path);
  for (int i = 0; i < rank; i++)
    dim[i] = big_endian(head + 4 + 4 * i);
  return MPCC_OK;
}

/* Reads what the header promises, into memory that grows with what is really there: a damaged
 * header may promise a terabyte. *have: bytes read. NULL: out of memory. */
static uint8_t *get_promised(gzFile f, uint64_t bytes, uint64_t *have) {
  uint64_t room = bytes < (64u << 20) ? bytes : 64u << 20;
  uint8_t *p = malloc(room);
  *have = 0;
  while (p) {
    *have += get(f, p + *have, room - *have);
    if (*have < room || room == bytes)
      return p;
    room = room > bytes / 2 ? bytes : 2 * room;
    uint8_t *q = realloc(p, room);
    if (!q)
      free(p);
    p = q;
  }
  return NULL;
}

static Status read_body(gzFile f, const char *path, int rank, const uint32_t *dim, Body *out,
                        const mprt_callbacks *cb) {
  uint64_t bytes = 1, have;
  if (!dim[0])
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: holds no samples", path);
  for (int i = 0; i < rank; i++)
    if (!dim[i] || __builtin_mul_overflow(bytes, dim[i], &bytes) || bytes > (UINT64_C(1) << 40))
      return mprt__fail(cb, MPCC_ERR_DATA, "%s: impossible sizes in its header", path);
  uint8_t *p = get_promised(f, bytes, &have), extra;
  if (!p)
    return mprt__nomem(cb, path);
  /* The end of a compressed file holds its checksum: it is looked at on reading past the data. */
  bool more = have == bytes && get(f, &extra, 1);
  const char *why = more ? NULL : trouble(f);
  if (have < bytes || why) {
    free(p);
    return mprt__fail(
        cb, MPCC_ERR_DATA,
        have < bytes ? "%s: truncated: its header promises %llu bytes, it has %llu%s%s"
                     : "%s: damaged behind its data: %llu bytes promised, %llu read%s%s",
        path, (unsigned long long)bytes, (unsigned long long)have, why ? ": " : "", why ? why : "");
  }
  if (more)
    mprt__log(cb, MPRT_LOG_WARNING, "%s: more data behind the %llu bytes of its header", path,
              (unsigned long long)bytes);
  *out = (Body){.bytes = p, .heap = p};
  return MPCC_OK;
}

/* One file of bytes with `rank` dimensions; the count comes first. */
static Status read_file(const char *path, int rank, uint32_t *dim, Body *out,
                        const mprt_callbacks *cb) {
  struct stat info;
  if (!stat(path, &info) && S_ISDIR(info.st_mode))
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(EISDIR));
  if (read_sound(path, rank, dim, out))
    return MPCC_OK;
  gzFile f = gzopen(path, "rb");
  if (!f)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(errno));
  gzbuffer(f, 1 << 18);
  Status st = read_head(f, path, rank, dim, cb);
  if (st == MPCC_OK)
    st = read_body(f, path, rank, dim, out, cb);
  gzclose_r(f);
  return st;
}

static void set_field(mprt__field *f, const char *name, int rank, const int64_t *dim) {
  f->name = name;
  f->dtype = MPCC_U8;
  f->rank = rank;
  f->elems = 1;
  for (int i = 0; i < rank; i++) {
    f->dim[i] = dim[i];
    f->elems *= dim[i];
  }
}

Status mprt__idx_open(const mprt__data_source *s, mprt__dataset **out) {
  *out = NULL;
  Idx *x = calloc(1, sizeof *x);
  char *images = mprt__data_path(s, "images"), *labels = mprt__data_path(s, "labels");
  Status st = x && images && labels ? MPCC_OK : mprt__nomem(s->cb, "data set");
  uint32_t image_dim[3] = {0}, label_dim[1] = {0};
  if (st == MPCC_OK)
    st = read_file(images, 3, image_dim, &x->part[0], s->cb);
  if (st == MPCC_OK)
    st = read_file(labels, 1, label_dim, &x->part[1], s->cb);
  if (st == MPCC_OK && image_dim[0] != label_dim[0])
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s has %u images but %s has %u labels", images,
                    image_dim[0], labels, label_dim[0]);
  if (st == MPCC_OK) {
    x->base = (mprt__dataset){
        .nsample = image_dim[0], .nfield = 2, .read = idx_read, .destroy = idx_destroy};
    set_field(&x->base.field[0], "image", 3, (int64_t[]){1, image_dim[1], image_dim[2]});
    set_field(&x->base.field[1], "label", 0, NULL);
    *out = &x->base;
  } else if (x) {
    idx_destroy(&x->base);
  }
  free(images);
  free(labels);
  return st;
}
