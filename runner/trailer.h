/* End of a program file: where the images are. Written by driver/link.c, read by runner/main.c. */
#ifndef MPCC_RUNNER_TRAILER_H
#define MPCC_RUNNER_TRAILER_H

#include <stdint.h>

#define TRAILER_MAGIC "MPCCPRG1"

/* offset: of the images from the start of the file, page aligned; then bytes of images, then the
 * zero-terminated licence text. */
typedef struct {
  uint64_t offset, bytes, license;
  char magic[8];
} Trailer;

#endif
