/* `mpcc convert`: texts to token files, token files and weights to other formats. */
#ifndef MPCC_DRIVER_CONVERT_H
#define MPCC_DRIVER_CONVERT_H

#include "driver/args.h"

/* a->input: files to read, then the one to write; the exit code. */
int convert_files(const Args *a);

#endif
