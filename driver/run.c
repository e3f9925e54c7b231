/* `mpcc run`: the program image in memory, given to the runner's command line. */
#include "driver/run.h"

#include <stdlib.h>
#include <string.h>

#include "driver/exit.h"
#include "driver/link.h"

int run_image(Program p, const char *input, int argc, char **argv) {
  char name[4096], folder[4096];
  snprintf(name, sizeof name, "mpcc run %s", input);
  snprintf(folder, sizeof folder, "%s", input);
  char *slash = strrchr(folder, '/');
  if (slash)
    *slash = 0;
  p.name = argv[0] = name;
  p.data_dir = slash ? folder : NULL;
  p.license = mpcc_license_begin;
  p.version = mpcc_version();
  p.decode = mprt_decode_image;
  int code = program_main(&p, argc, argv);
  argv[0] = NULL;
  return code;
}

int run_spec(const Args *a, mpcc_session *s, const char *input, const char *text, size_t len) {
  void *image = NULL;
  size_t bytes = 0;
  int code = exit_code(mpcc_compile(s, input, text, len, MPCC_OUT_IMAGE, &image, &bytes));
  if (!code)
    code = run_image((Program){.image = image, .image_bytes = bytes}, input, a->nrest, a->rest);
  free(image);
  return code;
}
