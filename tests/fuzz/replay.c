/* Runs a fuzz target over files: the ordinary test of inputs that were found by fuzzing. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f)
    return 1;
  size_t cap = 4 << 20;
  uint8_t *bytes = malloc(cap), *exact;
  size_t n = bytes ? fread(bytes, 1, cap, f) : 0;
  fclose(f);
  exact = malloc(n ? n : 1); /* a block of its own size: reading past it is seen */
  if (!bytes || !exact)
    return 1;
  memcpy(exact, bytes, n);
  free(bytes);
  fprintf(stderr, "%s\n", path); /* the last line before a crash names the input */
  LLVMFuzzerTestOneInput(exact, n);
  free(exact);
  return 0;
}

int main(int argc, char **argv) {
  int count = 0, bad = 0;
  for (int i = 1; i < argc; i++) {
    DIR *d = opendir(argv[i]);
    struct dirent *e;
    while (d && (e = readdir(d))) {
      char path[4096];
      if (e->d_name[0] == '.')
        continue;
      snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
      bad |= run_file(path);
      count++;
    }
    if (d)
      closedir(d);
  }
  printf("%d inputs\n", count);
  return bad || !count;
}
