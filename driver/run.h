/* Training in the process of the compiler. */
#ifndef MPCC_DRIVER_RUN_H
#define MPCC_DRIVER_RUN_H

#include "driver/args.h"
#include "runner/program.h"

/* `mpcc run`: compiles and trains with the program options of a; the exit code. */
int run_spec(const Args *a, mpcc_session *s, const char *input, const char *text, size_t len);
/* Trains with an image: p brings image, image_bytes and what watches, the rest is filled in here.
 * argv[0] is set to the program's name. */
int run_image(Program p, const char *input, int argc, char **argv);

#endif
