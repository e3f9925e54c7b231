/* `mpcc sensitivity`: what each layer's products lose in narrower formats. */
#ifndef MPCC_DRIVER_SENSITIVITY_H
#define MPCC_DRIVER_SENSITIVITY_H

#include "driver/args.h"

/* For each layer with products and each format of a->formats: one step's loss and gradient with
 * this layer alone in the format, everything else in 32-true, beside the step in 32-true
 * throughout. Writes the layers, most sensitive first, and a `precision:` block that keeps the
 * error of the gradient below a->bound, with the error measured for it, to -o (standard output).
 * The spec's own overrides are set aside. 0, or an exit code after a message. */
int sensitivity_spec(const Args *a, const mpcc_callbacks *cb, const char *input, const char *text,
                     size_t len);

#endif
