/* `mpcc convert`: the name of the result says what becomes of the inputs.
 *   x.bin          texts to tokens (--tokenizer, else their bytes), or token files repacked
 *   x.safetensors  weights in another dtype */
#include "driver/convert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"
#include "mpcc/runtime.h"

static int complain(const char *path, Status st, const char *words) {
  fprintf(stderr, "mpcc: error: %s%s%s\n", path, *path ? ": " : "", words);
  return st == MPCC_ERR_NOMEM ? 11 : st == MPCC_ERR_INPUT ? 1 : st == MPCC_ERR_USAGE ? 2 : 4;
}

static bool ends_with(const char *name, const char *end) {
  size_t n = strlen(name), m = strlen(end);
  return n > m && !strcmp(name + n - m, end);
}

/* A whole file; NULL after a message, with the exit code in *code. */
static char *read_whole(const char *path, size_t *bytes, int *code) {
  FILE *f = fopen(path, "rb");
  struct stat info;
  char *text = NULL;
  *code = 0;
  if (!f || fstat(fileno(f), &info)) {
    *code = 4;
  } else if (!S_ISREG(info.st_mode)) {
    errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    *code = 4;
  } else if (!(text = malloc((size_t)info.st_size + 1))) {
    *code = complain(path, MPCC_ERR_NOMEM, "out of memory");
  } else {
    *bytes = fread(text, 1, (size_t)info.st_size, f);
    text[*bytes] = 0;
  }
  if (*code == 4)
    fprintf(stderr, "mpcc: error: cannot read '%s': %s\n", path, strerror(errno));
  if (f)
    fclose(f);
  return text;
}

/* ---- tokens ---- */

typedef struct {
  const Args *args;
  Tokenizer *tokenizer; /* NULL: bytes are tokens */
  int64_t separator;    /* before each text; -1: none */
  TokenFile out;
  ConvertError error;
} Packing;

static uint32_t word(const uint8_t *p) {
  return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Bytes of a token in an llm.c file, 0: the file is none. */
static int llmc_size(const uint8_t *p, size_t bytes) {
  if (bytes < 1024 || word(p) != 20240520)
    return 0;
  return word(p + 4) == 1 ? 2 : word(p + 4) == 7 ? 4 : 0;
}

static Status unpack(const uint8_t *p, size_t bytes, int size, Tokens *out, ConvertError *e) {
  size_t n = word(p + 8), have = (bytes - 1024) / (size_t)size;
  if (n > have)
    return convert_fail(e, MPCC_ERR_DATA, "truncated: its header promises %zu tokens, it has %zu",
                        n, have);
  for (size_t i = 0; i < n; i++) {
    const uint8_t *q = p + 1024 + i * (size_t)size;
    if (!tokens_add(out, size == 2 ? q[0] | (uint32_t)q[1] << 8 : word(q)))
      return convert_fail(e, MPCC_ERR_NOMEM, "out of memory");
  }
  return MPCC_OK;
}

static Status tokens_of(Packing *k, const uint8_t *text, size_t bytes, Tokens *out) {
  int size = llmc_size(text, bytes);
  if (size)
    return unpack(text, bytes, size, out, &k->error);
  if (k->separator >= 0 && !tokens_add(out, (uint32_t)k->separator))
    return convert_fail(&k->error, MPCC_ERR_NOMEM, "out of memory");
  if (k->tokenizer)
    return tokenizer_encode(k->tokenizer, text, bytes, out, &k->error);
  for (size_t i = 0; i < bytes; i++)
    if (!tokens_add(out, text[i]))
      return convert_fail(&k->error, MPCC_ERR_NOMEM, "out of memory");
  return MPCC_OK;
}

static int pack_file(Packing *k, const char *path) {
  size_t bytes;
  int code;
  char *text = read_whole(path, &bytes, &code);
  if (!text)
    return code;
  Tokens tokens = {0};
  Status st = tokens_of(k, (const uint8_t *)text, bytes, &tokens);
  if (st == MPCC_OK)
    st = token_file_put(&k->out, &tokens, &k->error);
  tokens_fini(&tokens);
  free(text);
  return st == MPCC_OK ? 0 : complain(path, st, k->error.text);
}

static int load_tokenizer(Packing *k) {
  const Args *a = k->args;
  size_t bytes;
  int code = 0;
  k->separator = -1;
  if (!a->tokenizer && a->separator)
    return complain("", MPCC_ERR_USAGE, "--separator needs --tokenizer");
  if (!a->tokenizer)
    return 0;
  char *text = read_whole(a->tokenizer, &bytes, &code);
  if (!text)
    return code;
  Status st = tokenizer_create(text, bytes, &k->tokenizer, &k->error);
  free(text);
  if (st != MPCC_OK)
    return complain(a->tokenizer, st, k->error.text);
  k->separator = a->separator ? tokenizer_find(k->tokenizer, a->separator) : -1;
  if (a->separator && k->separator < 0)
    return complain(a->tokenizer, MPCC_ERR_DATA, "has no token for the word of --separator");
  return 0;
}

/* 2 or 4: as asked, as the vocabulary needs, or as a token file among the inputs has; 0: a word
 * that is no dtype of tokens. */
static int token_size(const Packing *k) {
  const Args *a = k->args;
  if (a->dtype)
    return !strcmp(a->dtype, "uint16") ? 2 : !strcmp(a->dtype, "uint32") ? 4 : 0;
  uint8_t head[1024];
  for (int i = 0; i + 1 < a->ninput; i++) {
    FILE *f = fopen(a->input[i], "rb");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f)
      fclose(f);
    if (llmc_size(head, n) == 4)
      return 4;
  }
  return k->tokenizer && tokenizer_size(k->tokenizer) > 65536 ? 4 : 2;
}

/* Under a temporary name: a good file is never replaced by half of one. */
static int pack_all(Packing *k, const char *path) {
  char part[4096];
  const Args *a = k->args;
  int size = token_size(k);
  if (!size)
    return complain("", MPCC_ERR_USAGE, "tokens have --dtype=uint16 or uint32");
  if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
    return complain(path, MPCC_ERR_FILE, "the name is too long");
  bool header = !a->header || !strcmp(a->header, "llmc");
  Status st = token_file_create(&k->out, part, size, header, &k->error);
  int code = st == MPCC_OK ? 0 : complain("", st, k->error.text);
  for (int i = 0; !code && i + 1 < a->ninput; i++)
    code = pack_file(k, a->input[i]);
  st = token_file_close(&k->out, &k->error);
  if (!code && st != MPCC_OK)
    code = complain(path, st, k->error.text);
  if (!code && rename(part, path))
    code = complain(path, MPCC_ERR_FILE, strerror(errno));
  if (code)
    unlink(part);
  else
    printf("%s: %llu tokens of %d file%s, uint%d, header %s\n", path,
           (unsigned long long)k->out.count, a->ninput - 1, a->ninput > 2 ? "s" : "", 8 * size,
           header ? "llmc" : "none");
  return code;
}

static int convert_tokens(const Args *a, const char *out) {
  Packing k = {.args = a};
  int code = load_tokenizer(&k);
  if (!code)
    code = pack_all(&k, out);
  tokenizer_destroy(k.tokenizer);
  return code;
}

/* ---- weights ---- */

static void on_log(void *user, mprt_log_level level, const char *text) {
  (void)user;
  fprintf(stderr, "mpcc: %s: %s\n", level == MPRT_LOG_ERROR ? "error" : "note", text);
}

static int convert_weights(const Args *a, const char *out) {
  DType dtype = a->dtype ? dtype_from_torch(a->dtype) : MPCC_DTYPE_COUNT;
  bool known = dtype != MPCC_DTYPE_COUNT && dtype_is_float(dtype) && dtype_bytes(dtype) > 1;
  if (!known || a->ninput != 2)
    return complain("", MPCC_ERR_USAGE,
                    "weights are converted one file at a time, with --dtype=float64, float32, "
                    "float16 or bfloat16");
  mprt_callbacks cb = {.log = on_log};
  mpcc_status st = mprt_convert_weights(a->input[0], out, dtype, &cb);
  return st == MPCC_OK ? 0 : st == MPCC_ERR_NOMEM ? 11 : 4;
}

int convert_files(const Args *a) {
  if (a->ninput < 2)
    return complain("", MPCC_ERR_USAGE, "convert takes files to read and one to write");
  const char *out = a->input[a->ninput - 1];
  for (int i = 0; i + 1 < a->ninput; i++)
    if (!strcmp(a->input[i], out))
      return complain(out, MPCC_ERR_USAGE, "is both read and written");
  if (ends_with(out, ".bin"))
    return convert_tokens(a, out);
  if (ends_with(out, ".safetensors"))
    return convert_weights(a, out);
  return complain(out, MPCC_ERR_USAGE, "its name says no format: .bin (tokens) or .safetensors");
}
