/* Main of programs linked by a C compiler (mpcc --link=cc): the image is an object of the program. */
#include <stddef.h>

#include "runner/program.h"

/* Defined by the assembly that driver/link.c writes. */
extern mprt_decode_fn *const mpcc_image_decode;
extern const char mpcc_image_begin[], mpcc_image_end[], mpcc_license_text[];

int main(int argc, char **argv) {
  Program p = {.name = argv[0],
               .image = mpcc_image_begin,
               .image_bytes = (size_t)(mpcc_image_end - mpcc_image_begin),
               .license = mpcc_license_text,
               .version = MPCC_VERSION,
               .decode = mpcc_image_decode};
  return program_main(&p, argc, argv);
}
