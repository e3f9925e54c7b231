/* Main of programs that mpcc writes: this file's executable with images appended and a trailer
 * { u64 offset, u64 bytes, u64 license bytes, char magic[8] } at the very end (driver/link.c). */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/program.h"
#include "runner/trailer.h"

/* The runner of programs that read image folders is built with it (CMakeLists.txt). */
#ifndef RUNNER_DECODE
#define RUNNER_DECODE NULL
#endif

static int fail(const char *name, const char *what) {
  fprintf(stderr, "%s: %s\n", name, what);
  return 4;
}

int main(int argc, char **argv) {
  int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st))
    return fail(argv[0], "cannot read its own file");
  size_t size = (size_t)st.st_size;
  void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (map == MAP_FAILED || size < sizeof(Trailer))
    return fail(argv[0], "cannot map its own file");
  Trailer t;
  memcpy(&t, (char *)map + size - sizeof t, sizeof t);
  if (memcmp(t.magic, TRAILER_MAGIC, sizeof t.magic) || t.offset > size ||
      t.bytes > size - t.offset || t.license > size - t.offset - t.bytes)
    return fail(argv[0], "carries no program, or the file is cut short");
  Program p = {.name = argv[0],
               .image = (char *)map + t.offset,
               .image_bytes = t.bytes,
               .license = (char *)map + t.offset + t.bytes,
               .version = MPCC_VERSION,
               .decode = RUNNER_DECODE};
  return program_main(&p, argc, argv);
}
