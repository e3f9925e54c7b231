/* `mpcc verify SPEC`: each kernel of the model beside its reference, on this machine. */
#ifndef MPCC_DRIVER_VERIFY_H
#define MPCC_DRIVER_VERIFY_H

#include "mpcc/mpcc.h"

/* device: of the first target. Prints one line per kernel; 0, or an exit code after a message. */
int verify_spec(mpcc_session *s, const char *device, const char *path, const char *text,
                size_t len);

#endif
