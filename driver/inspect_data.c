/* `mpcc inspect` of data files: tokens, IDX, npz, IR text. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "driver/inspect.h"

static uint32_t be32(const unsigned char *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t le32(const unsigned char *p) {
  return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

static uint32_t token_at(const unsigned char *p, size_t i, int width) {
  return width == 2 ? (uint32_t)(p[2 * i] | p[2 * i + 1] << 8) : le32(p + 4 * i);
}

/* First tokens and the largest. */
static void print_tokens(const unsigned char *p, size_t n, int width) {
  uint32_t most = 0;
  for (size_t i = 0; i < n; i++)
    most = token_at(p, i, width) > most ? token_at(p, i, width) : most;
  printf("%zu tokens, uint%d, largest %" PRIu32 "\n", n, 8 * width, most);
  for (size_t i = 0; i < n && i < 16; i++)
    printf("%s%" PRIu32, i ? " " : "", token_at(p, i, width));
  puts(n > 16 ? " ..." : "");
}

/* llm.c's header: 256 little endian words: magic, version, number of tokens. Version 1 has uint16, 7 has
 * uint32 tokens. */
enum { LLMC_MAGIC = 20240520, LLMC_HEADER = 1024 };

int inspect_tokens(const char *path, const unsigned char *p, size_t len) {
  if (len >= LLMC_HEADER && le32(p) == LLMC_MAGIC) {
    size_t n = le32(p + 8);
    int width = n && (len - LLMC_HEADER) / n >= 4 ? 4 : 2;
    printf("token file, header llmc, version %" PRIu32 "\n", le32(p + 4));
    if (n > (len - LLMC_HEADER) / (size_t)width) {
      fprintf(stderr, "mpcc: error: %s: %zu tokens announced, %zu bytes follow\n", path, n,
              len - LLMC_HEADER);
      return 4;
    }
    print_tokens(p + LLMC_HEADER, n, width);
    return 0;
  }
  printf("file without a header: %zu bytes; as tokens:\n", len);
  for (int width = 2; width <= 4; width += 2)
    if (len % (size_t)width == 0)
      print_tokens(p, len / (size_t)width, width);
  return 0;
}

bool is_idx(const unsigned char *p, size_t len) {
  return len >= 8 && !p[0] && !p[1] && strchr("\x08\x09\x0b\x0c\x0d\x0e", p[2]) && p[2] && p[3] &&
         p[3] <= 8 && len >= 4 + 4 * (size_t)p[3];
}

/* IDX: two zero bytes, element type, rank, big endian sizes. */
int inspect_idx(const unsigned char *p, size_t len) {
  static const char *const types[] = {"uint8", "int8", "", "int16", "int32", "float32", "float64"};
  printf("idx %s [", types[p[2] - 8]);
  for (int i = 0; i < p[3]; i++)
    printf("%s%" PRIu32, i ? "," : "", be32(p + 4 + 4 * i));
  printf("]\n%zu bytes of data\n", len - 4 - 4 * (size_t)p[3]);
  return 0;
}

/* Members of a zip archive by its local headers (APPNOTE 4.3.7), as numpy writes them. */
int inspect_npz(const unsigned char *p, size_t len) {
  int n = 0;
  size_t at = 0;
  puts("npz");
  while (at + 30 <= len && le32(p + at) == 0x04034b50) {
    size_t name = p[at + 26] | (size_t)p[at + 27] << 8, extra = p[at + 28] | (size_t)p[at + 29] << 8;
    size_t bytes = le32(p + at + 18);
    if (at + 30 + name + extra > len)
      break;
    if (bytes == UINT32_MAX && extra >= 20) /* zip64 */
      bytes = le32(p + at + 30 + name + 12) | (size_t)le32(p + at + 30 + name + 16) << 32;
    printf("  %.*s  %zu bytes%s\n", (int)name, (const char *)p + at + 30, bytes,
           p[at + 8] ? ", deflated" : "");
    n++;
    if (bytes > len - at - 30 - name - extra)
      break;
    at += 30 + name + extra + bytes;
  }
  printf("%d arrays\n", n);
  return 0;
}

/* First line, functions and tensors of IR text. */
int inspect_ir(const unsigned char *p, size_t len) {
  int functions = 0, tensors = 0, ops = 0;
  printf("IR text: %.*s\n", (int)strcspn((const char *)p, "\n"), (const char *)p);
  for (size_t at = 0; at < len;) {
    const char *line = (const char *)p + at;
    const unsigned char *end = memchr(p + at, '\n', len - at);
    size_t n = end ? (size_t)(end - p) - at : len - at;
    tensors += n > 7 && !memcmp(line, "tensor ", 7);
    ops += n > 2 && !memcmp(line, "  ", 2);
    if (n > 5 && !memcmp(line, "func ", 5)) {
      printf("  %.*s\n", (int)(n - 2), line);
      functions++;
    }
    at += n + 1;
  }
  printf("%d functions, %d tensors, %d ops\n", functions, tensors, ops);
  return 0;
}
