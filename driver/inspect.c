/* `mpcc inspect`: recognises a file by its first bytes and says what is in it. */
#include "driver/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpcc/abi.h"
#include "mpcc/base.h"
#include "runner/trailer.h"

typedef struct {
  const char *path;
  const unsigned char *data;
  size_t len;
} File;

static int wrong(const File *f, const char *what) {
  fprintf(stderr, "mpcc: error: %s: %s\n", f->path, what);
  return 4;
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static void print_shape(const json_t *shape) {
  putchar('[');
  for (size_t i = 0; i < json_array_size(shape); i++)
    printf("%s%" JSON_INTEGER_FORMAT, i ? "," : "", json_integer_value(json_array_get(shape, i)));
  putchar(']');
}

static int inspect_safetensors(const File *f) {
  uint64_t header;
  memcpy(&header, f->data, 8);
  if (header > f->len - 8)
    return wrong(f, "safetensors header is longer than the file");
  json_error_t error;
  json_t *root = json_loadb((const char *)f->data + 8, header, 0, &error);
  if (!json_is_object(root)) {
    json_decref(root);
    return wrong(f, "safetensors header is not a JSON object");
  }
  const char *name;
  json_t *entry;
  size_t n = 0;
  json_int_t bytes = 0;
  json_object_foreach(root, name, entry) {
    if (!strcmp(name, "__metadata__"))
      continue;
    const json_t *at = json_object_get(entry, "data_offsets");
    json_int_t begin = json_integer_value(json_array_get(at, 0));
    json_int_t end = json_integer_value(json_array_get(at, 1));
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    printf("%-56s %-5s ", name, dtype ? dtype : "?");
    print_shape(json_object_get(entry, "shape"));
    putchar('\n');
    bytes += end - begin;
    n++;
  }
  printf("%zu tensors, %" JSON_INTEGER_FORMAT " bytes\n", n, bytes);
  json_decref(root);
  return 0;
}

/* ---- images and programs --------------------------------------------------------------------- */

static int inspect_image(const File *f, const unsigned char *p, size_t len) {
  MpccImage h;
  if (len < sizeof h)
    return wrong(f, "image is cut short");
  memcpy(&h, p, sizeof h);
  if (memcmp(h.magic, MPCC_IMAGE_MAGIC, 8) || h.image_bytes > len || h.image_bytes < sizeof h)
    return wrong(f, "not a program image, or cut short");
  if (h.strings.offset > h.image_bytes || h.strings.count > h.image_bytes - h.strings.offset ||
      h.meta >= h.strings.count || p[h.strings.offset + h.strings.count - 1])
    return wrong(f, "image has a damaged string table");
  const char *strings = (const char *)p + h.strings.offset;
  json_t *meta = json_loads(strings + h.meta, 0, NULL);
  const char *name = json_string_value(json_object_get(meta, "name"));
  const char *level = json_string_value(json_object_get(meta, "level"));
  const char *mode = json_string_value(json_object_get(json_object_get(meta, "attrs"), "mode"));
  printf("image of %s: precision %s, level %s, abi %u, %" PRIu64 " bytes\n", name ? name : "?",
         mode ? mode : "?", level ? level : "?", h.version, h.image_bytes);
  printf("  %" PRIu64 " tensors, %" PRIu64 " functions, %" PRIu64 " commands, %" PRIu64 " kernels\n",
         h.tensors.count, h.functions.count, h.commands.count, h.kernels.count);
  static const char *const segments[] = {"state", "derived", "accum", "work", "io"};
  for (int i = 0; i < MPCC_SEG_COUNT; i++)
    printf("  %-8s %" PRIu64 " bytes\n", segments[i], h.segment_bytes[i]);
  json_decref(meta);
  size_t next = (h.image_bytes + 63) / 64 * 64;
  return next < len ? inspect_image(f, p + next, len - next) : 0;
}

static int inspect_program(const File *f) {
  Trailer t;
  memcpy(&t, f->data + f->len - sizeof t, sizeof t);
  if (t.offset > f->len || t.bytes > f->len - t.offset)
    return wrong(f, "program is damaged");
  return inspect_image(f, f->data + t.offset, t.bytes);
}

/* ---- npy ------------------------------------------------------------------------------------- */

static int inspect_npy(const File *f) {
  size_t at = f->data[6] == 1 ? 10 : 12, header = f->data[8] | (size_t)f->data[9] << 8;
  if (f->len < 12)
    return wrong(f, ".npy header is cut short");
  if (at == 12)
    header |= (size_t)f->data[10] << 16 | (size_t)f->data[11] << 24;
  if (header > f->len - at)
    return wrong(f, ".npy header is cut short");
  printf("npy %.*s\n%zu bytes of data\n", (int)strcspn((const char *)f->data + at, "\n"),
         f->data + at, f->len - at - header);
  return 0;
}

static int inspect_checkpoint(const char *path) {
  static const char *const parts[] = {"model.safetensors", "optimizer.safetensors"};
  char name[4096];
  snprintf(name, sizeof name, "%s/DONE", path);
  char state_file[4096];
  snprintf(state_file, sizeof state_file, "%s/state.json", path);
  if (access(state_file, F_OK)) {
    fprintf(stderr, "mpcc: error: %s: neither a checkpoint nor a run folder\n", path);
    return 4;
  }
  printf("checkpoint %s%s\n", path, access(name, F_OK) ? " (incomplete: no DONE)" : "");
  snprintf(name, sizeof name, "%s/state.json", path);
  json_t *state = json_load_file(name, 0, NULL);
  char *text = state ? json_dumps(state, JSON_INDENT(2)) : NULL;
  if (text)
    puts(text);
  free(text);
  json_decref(state);
  int code = 0;
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%s/%s", path, parts[i]);
    printf("\n%s\n", parts[i]);
    int one = inspect_file(name);
    code = one > code ? one : code;
  }
  return code;
}

/* Checkpoints of a run, its files. */
static int inspect_run(const char *path) {
  static const char *const links[] = {"last", "best"};
  char name[4096], target[256];
  printf("run folder %s\n", path);
  snprintf(name, sizeof name, "%s/run.json", path);
  json_t *run = json_load_file(name, 0, NULL);
  char *text = run ? json_dumps(run, JSON_INDENT(2)) : NULL;
  if (text)
    puts(text);
  free(text);
  json_decref(run);
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%s/checkpoints/%s", path, links[i]);
    ssize_t n = readlink(name, target, sizeof target - 1);
    if (n > 0)
      printf("%s: %.*s\n", links[i], (int)n, target);
  }
  return 0;
}

/* model.safetensors.index.json: which tensor is in which shard. */
static bool is_index(const char *path) {
  size_t n = strlen(path), k = strlen(".index.json");
  return n > k && !strcmp(path + n - k, ".index.json");
}

static int inspect_index(const File *f) {
  json_t *root = json_loadb((const char *)f->data, f->len, 0, NULL), *file;
  json_t *map = json_object_get(root, "weight_map");
  const char *name;
  if (!json_is_object(map)) {
    json_decref(root);
    return wrong(f, "has no weight_map");
  }
  json_object_foreach(map, name, file)
    printf("%-56s %s\n", name, json_is_string(file) ? json_string_value(file) : "?");
  printf("%zu tensors\n", json_object_size(map));
  json_decref(root);
  return 0;
}

/* llmc's magic, or a .bin of whole tokens. */
static bool is_tokens(const File *f) {
  static const unsigned char magic[4] = {0x88, 0xd8, 0x34, 0x01};
  size_t n = strlen(f->path);
  return f->len > 4 && (!memcmp(f->data, magic, 4) ||
                        (f->len % 2 == 0 && n > 4 && !strcmp(f->path + n - 4, ".bin")));
}

int inspect_file(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st)) {
    fprintf(stderr, "mpcc: error: cannot read '%s': %s\n", path, strerror(errno));
    if (fd >= 0)
      close(fd);
    return 4;
  }
  if (S_ISDIR(st.st_mode)) {
    char checkpoints[4200];
    close(fd);
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", path);
    return access(checkpoints, F_OK) ? inspect_checkpoint(path) : inspect_run(path);
  }
  File f = {path, NULL, (size_t)st.st_size};
  void *map = f.len ? mmap(NULL, f.len, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  close(fd);
  if (map == MAP_FAILED)
    return wrong(&f, "empty or not readable");
  f.data = map;
  int code;
  const char *trailer = (const char *)f.data + f.len - 8;
  if (f.len >= sizeof(Trailer) && !memcmp(trailer, TRAILER_MAGIC, 8))
    code = inspect_program(&f);
  else if (f.len >= 8 && !memcmp(f.data, MPCC_IMAGE_MAGIC, 8))
    code = inspect_image(&f, f.data, f.len);
  else if (f.len >= 10 && !memcmp(f.data, "\x93NUMPY", 6))
    code = inspect_npy(&f);
  else if (f.len > 9 && f.data[8] == '{')
    code = inspect_safetensors(&f);
  else if (f.len > 30 && !memcmp(f.data, "PK\3\4", 4))
    code = inspect_npz(f.data, f.len);
  else if (f.len > 5 && !memcmp(f.data, "mpir ", 5))
    code = inspect_ir(f.data, f.len);
  else if (is_idx(f.data, f.len))
    code = inspect_idx(f.data, f.len);
  else if (is_index(path))
    code = inspect_index(&f);
  else if (is_tokens(&f))
    code = inspect_tokens(path, f.data, f.len);
  else
    code = wrong(&f, "not a checkpoint, run folder, weights, array, token, IDX, IR or program file");
  munmap(map, f.len);
  return code;
}
