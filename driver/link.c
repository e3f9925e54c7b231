/* Executables: the prebuilt runner with images appended, or linked by cc. */
#include "driver/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "mpcc/abi.h"
#include "runner/trailer.h"

static int complain(const char *what, const char *path) {
  fprintf(stderr, "mpcc: error: cannot %s '%s': %s\n", what, path, strerror(errno));
  return 4;
}

static int put_all(int fd, const void *data, size_t n) {
  for (const char *p = data; n;) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno == EINTR)
      continue;
    if (k < 0)
      return -1;
    p += k;
    n -= (size_t)k;
  }
  return 0;
}

int write_file(const char *path, const void *data, size_t bytes, int executable) {
  if (!strcmp(path, "-"))
    return put_all(STDOUT_FILENO, data, bytes) ? complain("write", "standard output") : 0;
  char temporary[4096];
  if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary) {
    errno = ENAMETOOLONG;
    return complain("write", path);
  }
  int fd = mkstemp(temporary);
  if (fd < 0)
    return complain("write", path);
  mode_t mask = umask(0);
  umask(mask);
  /* Not synced: what a compiler writes can be made again, and waiting for the disk may take longer
   * than compiling from the cache. */
  int bad = put_all(fd, data, bytes) || fchmod(fd, (executable ? 0777 : 0666) & ~mask);
  bad = close(fd) || bad;
  if (bad || rename(temporary, path)) {
    int code = complain("write", path);
    unlink(temporary);
    return code;
  }
  return 0;
}

int check_writable(const char *path) {
  char folder[4096];
  if (!path || !strcmp(path, "-"))
    return 0;
  const char *slash = strrchr(path, '/');
  int n = slash ? (int)(slash - path) + 1 : 0;
  snprintf(folder, sizeof folder, "%.*s", n, path);
  return access(n ? folder : ".", W_OK | X_OK) ? complain("write", path) : 0;
}

/* Front part, images and licence in one buffer with the trailer behind. */
static char *assemble(const void *front, size_t front_bytes, const void *image, size_t bytes,
                      size_t *total) {
  size_t license = strlen(mpcc_license_begin) + 1;
  size_t at = (front_bytes + 4095) / 4096 * 4096;
  Trailer t = {at, bytes, license, {0}};
  memcpy(t.magic, TRAILER_MAGIC, sizeof t.magic);
  *total = at + bytes + license + sizeof t;
  char *p = calloc(1, *total);
  if (!p)
    return NULL;
  memcpy(p, front, front_bytes);
  memcpy(p + at, image, bytes);
  memcpy(p + at + bytes, mpcc_license_begin, license);
  memcpy(p + at + bytes + license, &t, sizeof t);
  return p;
}

int program_reads_images(const void *image) {
  MpccImage h;
  memcpy(&h, image, sizeof h);
  const char *text = (const char *)image + h.strings.offset + h.meta;
  if (!strstr(text, "\"image-folder\"")) /* to parse it all takes longer than to compile a layer */
    return 0;
  json_t *meta = json_loads(text, 0, NULL);
  const json_t *data = json_object_get(json_object_get(meta, "spec"), "data");
  const char *key;
  json_t *split;
  int found = 0;
  json_object_foreach((json_t *)data, key, split) {
    const char *format = json_string_value(json_object_get(split, "format"));
    found |= format && !strcmp(format, "image-folder");
  }
  json_decref(meta);
  return found;
}

int write_program(const char *path, const void *image, size_t bytes) {
  size_t total;
  int images = program_reads_images(image);
  const char *front = images ? mpcc_images_runner_begin : mpcc_runner_begin;
  const char *end = images ? mpcc_images_runner_end : mpcc_runner_end;
  char *p = assemble(front, (size_t)(end - front), image, bytes, &total);
  if (!p)
    return 11;
  int code = write_file(path, p, total, 1);
  free(p);
  return code;
}

/* ---- linking by cc --------------------------------------------------------------------------- */

int library_folder(char *out, size_t size) {
  ssize_t n = readlink("/proc/self/exe", out, size - 1);
  if (n <= 0)
    return -1;
  out[n] = 0;
  *strrchr(out, '/') = 0;
  char probe[4200];
  snprintf(probe, sizeof probe, "%s/libmpcc_program.a", out);
  if (access(probe, R_OK) && strlen(out) + 8 < size)
    strcat(out, "/../lib");
  return 0;
}

int run_command(char *const argv[], int verbose) {
  if (verbose) {
    for (int i = 0; argv[i]; i++)
      fprintf(stderr, "%s%s", i ? " " : "", argv[i]);
    fputc('\n', stderr);
  }
  pid_t pid = fork();
  if (pid < 0)
    return 1;
  if (!pid) {
    execvp(argv[0], argv);
    fprintf(stderr, "mpcc: error: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
  }
  int status;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : 1;
}

int temporary_folder(char *out, size_t size) {
  const char *parent = getenv("TMPDIR");
  int n = snprintf(out, size, "%s/mpcc-link-XXXXXX", parent && *parent ? parent : "/tmp");
  if (n < 0 || (size_t)n >= size) {
    errno = ENAMETOOLONG;
    return -1;
  }
  return mkdtemp(out) ? 0 : -1;
}

int quote_path(char *out, size_t size, const char *path) {
  size_t n = 0;
  for (; *path && n + 2 < size; path++) {
    if (*path == '"' || *path == '\\')
      out[n++] = '\\';
    out[n++] = *path;
  }
  out[n] = 0;
  return *path ? -1 : 0;
}

int link_with_cc(const char *path, const void *image, size_t bytes, int verbose) {
  enum { PATH = 4096 };
  char folder[PATH], dir[PATH];
  if (library_folder(folder, sizeof folder) || temporary_folder(dir, sizeof dir))
    return complain("make a temporary folder for", path);
  char image_file[PATH + 16], text_file[PATH + 16], asm_file[PATH + 16], lib[4][PATH + 64];
  char text[4 * PATH + 1024], quoted[2 * PATH];
  int images = program_reads_images(image);
  snprintf(image_file, sizeof image_file, "%s/image", dir);
  snprintf(text_file, sizeof text_file, "%s/license", dir);
  snprintf(asm_file, sizeof asm_file, "%s/image.s", dir);
  quote_path(quoted, sizeof quoted, dir); /* twice the room */
  snprintf(text, sizeof text,
           ".section .rodata\n.global mpcc_image_begin, mpcc_image_end, mpcc_license_text\n"
           ".balign 64\nmpcc_image_begin:\n.incbin \"%s/image\"\nmpcc_image_end:\n"
           "mpcc_license_text:\n.incbin \"%s/license\"\n.byte 0\n"
           ".section .data.rel.ro,\"aw\"\n.balign 8\n.global mpcc_image_decode\n"
           "mpcc_image_decode:\n.quad %s\n.section .note.GNU-stack,\"\",@progbits\n",
           quoted, quoted, images ? "mprt_decode_image" : "0");
  static const char *const names[] = {"mpcc_program", "mpcc_report", "mpcc_rt", "mpcc_codec"};
  for (int i = 0; i < 4; i++)
    snprintf(lib[i], sizeof lib[i], "%s/lib%s.a", folder, names[i]);
  /* beside the output and renamed, so that a failing linker leaves a good program alone */
  char linked[4200];
  if (snprintf(linked, sizeof linked, "%s.linking", path) >= (int)sizeof linked) {
    rmdir(dir);
    errno = ENAMETOOLONG;
    return complain("write", path);
  }
  char *argv[20] = {"cc", "-o", linked, asm_file, lib[0], lib[1], lib[2]};
  static const char *const codecs[] = {"-ljpeg", "-lpng"};
  static const char *const always[] = {"-ljansson", "-lz", "-ldeflate", "-lpthread", "-lm"};
  int n = 7;
  if (images) {
    argv[n++] = lib[3];
    for (int i = 0; i < 2; i++)
      argv[n++] = (char *)codecs[i];
  }
  for (int i = 0; i < 5; i++)
    argv[n++] = (char *)always[i];
  int code = write_file(image_file, image, bytes, 0);
  code = code ? code : write_file(text_file, mpcc_license_begin, strlen(mpcc_license_begin), 0);
  code = code ? code : write_file(asm_file, text, strlen(text), 0);
  code = code ? code : run_command(argv, verbose);
  if (!code && rename(linked, path))
    code = complain("write", path);
  if (code)
    unlink(linked);
  unlink(image_file);
  unlink(text_file);
  unlink(asm_file);
  rmdir(dir);
  return code;
}
