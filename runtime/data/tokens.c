/* Sequences for language models: windows of T tokens and the same shifted by one, out of token
 * files
 * (`mpcc convert`, llm.c) or out of the bytes of texts. Windows lie one behind the other, or begin
 * at random places that the seed, the epoch and the sample's number decide. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/data.h"

/* Header of llm.c's files: 256 words of 32 bits: magic, version, tokens. Source: llm.c,
 * dev/data/data_common.py, write_datafile. */
enum { LLMC_MAGIC = 20240520, LLMC_BYTES = 1024, MAX_LENGTH = 1 << 24 };

typedef struct {
  mprt__file file;       /* when there is no memory */
  uint64_t begin;        /* of the tokens in the file */
  int64_t count;         /* tokens */
  int64_t first, places; /* number of its first window; windows, by the kind of sampling */
} Piece;

typedef struct {
  mprt__dataset base;
  int64_t length; /* T */
  int size;       /* bytes of a token: 1 2 4 */
  bool random;
  uint8_t *memory; /* texts: all bytes; else NULL */
  int npiece;
  Piece *piece;
  int64_t places; /* of all pieces */
} Tokens;

static void tokens_destroy(mprt__dataset *d) {
  Tokens *t = (Tokens *)d;
  for (int i = 0; i < t->npiece; i++)
    mprt__file_close(&t->piece[i].file);
  free(t->piece);
  free(t->memory);
  free(t);
}

/* Piece and first token of window i. */
static const Piece *find_window(const Tokens *t, const mprt__reader *r, int64_t i, int64_t *at) {
  if (t->random)
    i = (int64_t)mprt__random_below(r->seed, -2 - r->epoch, i, (uint64_t)t->places);
  int lo = 0, hi = t->npiece - 1;
  while (lo < hi) {
    int mid = (lo + hi + 1) / 2;
    if (t->piece[mid].first <= i)
      lo = mid;
    else
      hi = mid - 1;
  }
  i -= t->piece[lo].first;
  *at = t->random ? i : i * t->length;
  return &t->piece[lo];
}

/* Field 0: the tokens, field 1: those behind each. */
static const void *tokens_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const Tokens *t = (const Tokens *)d;
  int64_t at;
  const Piece *p = find_window(t, r, i, &at);
  if (t->memory)
    return t->memory + at + f;
  uint64_t byte = p->begin + (uint64_t)(at + f) * (uint64_t)t->size;
  size_t bytes = (size_t)t->length * (size_t)t->size;
  uint8_t *raw = (uint8_t *)r->scratch + (size_t)t->length * 4 - bytes;
  int error = mprt__file_get(&p->file, byte, raw, bytes);
  if (error) {
    r->error = MPCC_ERR_FILE;
    snprintf(r->message, sizeof r->message, "cannot read %s at byte %llu: %s", p->file.path,
             (unsigned long long)byte, strerror(error));
    return NULL;
  }
  uint32_t *to = r->scratch; /* u16 lie in the upper half and are widened from below */
  for (int64_t k = 0; t->size == 2 && k < t->length; k++)
    to[k] = raw[2 * k] | (uint32_t)raw[2 * k + 1] << 8;
  return to;
}

static void tokens_where(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f,
                         int64_t elem, char *out, size_t size) {
  const Tokens *t = (const Tokens *)d;
  int64_t at;
  const Piece *p = find_window(t, r, i, &at);
  snprintf(out, size, "%s, byte %llu", t->memory ? "text" : p->file.path,
           (unsigned long long)(p->begin + (uint64_t)(at + f + elem) * (uint64_t)t->size));
}

/* ---- opening ---- */

static Status begin_tokens(const mprt__data_source *s, Tokens **out) {
  int64_t length = mprt__json_int(s->config, "sequence_length", 0);
  *out = NULL;
  if (length < 1 || length > MAX_LENGTH)
    return mprt__fail(s->cb, MPCC_ERR_DATA, "data.%s: sequence_length must lie in [1, %d]",
                      s->split, MAX_LENGTH);
  Tokens *t = calloc(1, sizeof *t);
  if (!t)
    return mprt__nomem(s->cb, "data set");
  t->length = length;
  t->random = !strcmp(mprt__json_string(s->config, "sampling", "sequential"), "random");
  t->base = (mprt__dataset){
      .nfield = 2, .read = tokens_read, .where = tokens_where, .destroy = tokens_destroy};
  t->base.field[0] = (mprt__field){"tokens", MPCC_I32, 1, {length}, length};
  t->base.field[1] = (mprt__field){"next_tokens", MPCC_I32, 1, {length}, length};
  *out = t;
  return MPCC_OK;
}

/* Owns file, also on failure. */
static Status add_piece(Tokens *t, mprt__file file, uint64_t begin, int64_t count,
                        const mprt_callbacks *cb) {
  Piece *p = realloc(t->piece, (size_t)(t->npiece + 1) * sizeof *p);
  if (!p) {
    mprt__file_close(&file);
    return mprt__nomem(cb, "data set");
  }
  t->piece = p;
  int64_t places = count <= t->length ? 0 : t->random ? count - t->length : (count - 1) / t->length;
  if (!places) {
    mprt__file_close(&file);
    return MPCC_OK;
  }
  p[t->npiece++] = (Piece){file, begin, count, t->places, places};
  t->places += places;
  t->base.nsample += (count - 1) / t->length;
  return MPCC_OK;
}

static Status finish_tokens(Tokens *t, const mprt__data_source *s, Status st, int64_t total,
                            mprt__dataset **out) {
  if (st == MPCC_OK && !t->base.nsample)
    st = mprt__fail(s->cb, MPCC_ERR_DATA,
                    "data.%s: no file has more than sequence_length = %lld tokens; all of them "
                    "have %lld",
                    s->split, (long long)t->length, (long long)total);
  if (st == MPCC_OK)
    *out = &t->base;
  else
    tokens_destroy(&t->base);
  return st;
}

/* ---- token files ---- */

static uint32_t word(const uint8_t *p) {
  return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Looks at the header; *begin, *count: where and how many tokens are. */
static Status read_llmc(const mprt__file *f, int size, uint64_t *begin, uint64_t *count,
                        const mprt_callbacks *cb) {
  uint8_t head[12];
  int error = f->bytes < LLMC_BYTES ? EIO : mprt__file_get(f, 0, head, sizeof head);
  if (error || word(head) != LLMC_MAGIC)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: has no llm.c header (%d bytes that begin with %d); for files of bare "
                      "tokens say header: none",
                      f->path, LLMC_BYTES, LLMC_MAGIC);
  uint32_t version = word(head + 4);
  int stored = version == 1 ? 2 : version == 7 ? 4 : 0;
  if (!stored)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: llm.c header of unknown version %u", f->path,
                      version);
  if (stored != size)
    return mprt__fail(cb, MPCC_ERR_DATA, "%s: has tokens of dtype uint%d, the spec says uint%d",
                      f->path, 8 * stored, 8 * size);
  *begin = LLMC_BYTES;
  *count = word(head + 8);
  if (*count > (f->bytes - LLMC_BYTES) / (uint64_t)size)
    return mprt__fail(cb, MPCC_ERR_DATA,
                      "%s: truncated: its header promises %llu tokens, it has "
                      "%llu",
                      f->path, (unsigned long long)*count,
                      (unsigned long long)((f->bytes - LLMC_BYTES) / (uint64_t)size));
  return MPCC_OK;
}

static Status add_token_file(Tokens *t, const mprt__data_source *s, const char *path, bool llmc,
                             int64_t *total) {
  mprt__file f;
  Status st = mprt__file_open(path, s->cb, &f);
  if (st != MPCC_OK)
    return st;
  uint64_t begin = 0, count = f.bytes / (uint64_t)t->size;
  if (llmc)
    st = read_llmc(&f, t->size, &begin, &count, s->cb);
  else if (f.bytes % (uint64_t)t->size)
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s: %llu bytes are not whole tokens of %d bytes", path,
                    (unsigned long long)f.bytes, t->size);
  if (st != MPCC_OK) {
    mprt__file_close(&f);
    return st;
  }
  *total += (int64_t)count;
  return add_piece(t, f, begin, (int64_t)count, s->cb);
}

Status mprt__tokens_open(const mprt__data_source *s, mprt__dataset **out) {
  Tokens *t;
  mprt__paths paths = {0};
  int64_t total = 0;
  *out = NULL;
  Status st = begin_tokens(s, &t);
  if (st != MPCC_OK)
    return st;
  t->size = strcmp(mprt__json_string(s->config, "dtype", "uint16"), "uint32") ? 2 : 4;
  t->base.scratch_bytes = (size_t)t->length * 4;
  bool llmc = !strcmp(mprt__json_string(s->config, "header", "llmc"), "llmc");
  st = mprt__paths_of(s, "path", &paths);
  for (int i = 0; st == MPCC_OK && i < paths.n; i++)
    st = add_token_file(t, s, paths.path[i], llmc, &total);
  mprt__paths_free(&paths);
  return finish_tokens(t, s, st, total, out);
}

/* ---- texts ---- */

static Status add_text(Tokens *t, const char *path, size_t *have, const mprt_callbacks *cb) {
  uint8_t *data;
  size_t bytes;
  Status st = mprt__file_whole(path, cb, &data, &bytes);
  if (st != MPCC_OK)
    return st;
  uint8_t *q = realloc(t->memory, *have + bytes + 1);
  if (q) {
    memcpy(q + *have, data, bytes);
    t->memory = q;
    *have += bytes;
  }
  free(data);
  return q ? MPCC_OK : mprt__nomem(cb, path);
}

/* Links to a file that the pattern matches too would bring its text twice. */
static bool seen_before(const mprt__paths *p, int i) {
  struct stat a, b;
  if (stat(p->path[i], &a))
    return false;
  for (int k = 0; k < i; k++)
    if (!stat(p->path[k], &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
      return true;
  return false;
}

Status mprt__text_open(const mprt__data_source *s, mprt__dataset **out) {
  Tokens *t;
  mprt__paths paths = {0};
  size_t have = 0;
  *out = NULL;
  Status st = begin_tokens(s, &t);
  if (st != MPCC_OK)
    return st;
  t->size = 1;
  t->base.field[0].dtype = t->base.field[1].dtype = MPCC_U8;
  st = mprt__paths_of(s, "path", &paths);
  for (int i = 0; st == MPCC_OK && i < paths.n; i++)
    if (!seen_before(&paths, i))
      st = add_text(t, paths.path[i], &have, s->cb);
  mprt__paths_free(&paths);
  if (st == MPCC_OK)
    st = add_piece(t, (mprt__file){.fd = -1}, 0, (int64_t)have, s->cb);
  return finish_tokens(t, s, st, (int64_t)have, out);
}
