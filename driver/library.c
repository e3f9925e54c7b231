/* --emit=lib: a program as a library for a C host: the image and libmpcc_rt in one file, put
 * together by cc (and ar). --emit=obj: the image alone. --emit=c-header has the names. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver/link.h"
#include "mpcc/abi.h"

/* The spec's name as the header spells it (lib/header.c): what is no letter or digit becomes _. */
static void program_identifier(const void *image, char *out, size_t size) {
  MpccImage h;
  memcpy(&h, image, sizeof h);
  json_t *meta = json_loads((const char *)image + h.strings.offset + h.meta, 0, NULL);
  const char *name = json_string_value(json_object_get(meta, "name"));
  snprintf(out, size, "%s%s", name && isdigit((unsigned char)*name) ? "_" : "",
           name ? name : "program");
  for (char *p = out; *p; p++)
    if (!isalnum((unsigned char)*p))
      *p = '_';
  json_decref(meta);
}

typedef struct {
  char dir[4096], image[4112], text[4112], object[4112]; /* temporary files */
  char linked[4200];                                     /* beside the output, renamed at the end */
  char lib[2][4200];                                     /* libmpcc_rt, libmpcc_codec */
  int nlib;
} Files;

static int prepare(Files *f, const char *path, const void *image, size_t bytes) {
  char folder[4096], name[200], quoted[8192], text[10240];
  f->dir[0] = 0;
  f->nlib = program_reads_images(image) ? 2 : 1;
  program_identifier(image, name, sizeof name);
  if (library_folder(folder, sizeof folder) ||
      snprintf(f->linked, sizeof f->linked, "%s.linking", path) >= (int)sizeof f->linked ||
      temporary_folder(f->dir, sizeof f->dir)) {
    f->dir[0] = 0;
    fprintf(stderr, "mpcc: error: cannot make a temporary folder for '%s': %s\n", path,
            strerror(errno));
    return 4;
  }
  snprintf(f->lib[0], sizeof f->lib[0], "%s/libmpcc_rt.a", folder);
  snprintf(f->lib[1], sizeof f->lib[1], "%s/libmpcc_codec.a", folder);
  snprintf(f->image, sizeof f->image, "%s/image", f->dir);
  snprintf(f->text, sizeof f->text, "%s/image.s", f->dir);
  snprintf(f->object, sizeof f->object, "%s/all.o", f->dir);
  quote_path(quoted, sizeof quoted, f->dir); /* twice the room */
  /* const void *NAME_program_image(size_t *bytes): a function, which also shared libraries can give
   */
  snprintf(
      text, sizeof text,
      ".section .rodata\n.balign 64\nimage:\n.incbin \"%s/image\"\n.text\n.globl %s_program_image\n"
      ".type %s_program_image, @function\n%s_program_image:\n  movq $%zu, (%%rdi)\n"
      "  leaq image(%%rip), %%rax\n  ret\n.section .note.GNU-stack,\"\",@progbits\n",
      quoted, name, name, name, bytes);
  int code = write_file(f->image, image, bytes, 0);
  return code ? code : write_file(f->text, text, strlen(text), 0);
}

static int make_shared(Files *f, int verbose) {
  char *argv[20] = {"cc", "-shared", "-o", f->linked, f->text, "-Wl,--whole-archive"};
  static const char *const libraries[] = {"-Wl,--no-whole-archive",
                                          "-ljansson",
                                          "-lz",
                                          "-ldeflate",
                                          "-lpthread",
                                          "-lm",
                                          "-ljpeg",
                                          "-lpng"};
  int n = 6;
  for (int i = 0; i < f->nlib; i++)
    argv[n++] = f->lib[i];
  for (int i = 0; i < (f->nlib > 1 ? 8 : 6); i++)
    argv[n++] = (char *)libraries[i];
  return run_command(argv, verbose);
}

static int make_static(Files *f, int verbose) {
  char *link[10] = {"cc", "-r", "-nostdlib", "-o", f->object, f->text, "-Wl,--whole-archive"};
  char *archive[] = {"ar", "rcs", f->linked, f->object, NULL};
  for (int i = 0; i < f->nlib; i++)
    link[7 + i] = f->lib[i];
  int code = run_command(link, verbose);
  return code ? code : run_command(archive, verbose);
}

static int make_object(Files *f, int verbose) {
  char *argv[] = {"cc", "-c", "-o", f->linked, f->text, NULL};
  return run_command(argv, verbose);
}

/* Runs `make` on the image's files; the result gets its name when all is well. */
static int make_file(const char *path, const void *image, size_t bytes, int verbose,
                     int (*make)(Files *f, int verbose)) {
  Files f;
  int code = prepare(&f, path, image, bytes);
  if (!f.dir[0])
    return code;
  unlink(f.linked); /* ar adds to what is there */
  if (!code)
    code = make(&f, verbose);
  if (!code && rename(f.linked, path)) {
    fprintf(stderr, "mpcc: error: cannot write '%s': %s\n", path, strerror(errno));
    code = 4;
  }
  if (code)
    unlink(f.linked);
  unlink(f.image);
  unlink(f.text);
  unlink(f.object);
  rmdir(f.dir);
  return code;
}

int link_library(const char *path, const void *image, size_t bytes, int verbose) {
  size_t len = strlen(path);
  if (!strcmp(path, "-")) {
    fputs("mpcc: error: a library is a file: use -o NAME.a or -o NAME.so\n", stderr);
    return 2;
  }
  bool shared = len > 3 && !strcmp(path + len - 3, ".so");
  return make_file(path, image, bytes, verbose, shared ? make_shared : make_static);
}

int link_object(const char *path, const void *image, size_t bytes, int verbose) {
  if (!strcmp(path, "-")) {
    fputs("mpcc: error: an object is a file: use -o NAME.o\n", stderr);
    return 2;
  }
  return make_file(path, image, bytes, verbose, make_object);
}
