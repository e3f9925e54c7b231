/* The command line of a training program: shared by built programs (runner/main.c) and `mpcc run`. */
#ifndef MPCC_RUNNER_PROGRAM_H
#define MPCC_RUNNER_PROGRAM_H

#include <stddef.h>
#include <stdio.h>

#include "mpcc/runtime.h"

typedef struct {
  const char *name;     /* argv[0] of built programs, "mpcc run SPEC" else */
  const void *image;    /* images, best level first (abi.h) */
  size_t image_bytes;
  const char *data_dir; /* base of relative data paths when --data does not say; NULL: here */
  const char *license;  /* text for --licenses */
  const char *version;
  mprt_decode_fn *decode; /* of image folders; NULL: the program has no codecs */
  FILE *out;              /* progress and results; NULL: standard output */
  /* Sees each event after it was reported, and the evaluation after training (EVAL); may be NULL. */
  void (*watch)(void *user, const mprt_event *e);
  void *watch_user;
} Program;

/* Parses argv[1..] and does what it says; returns the exit code (mpcc/status.h). */
int program_main(const Program *p, int argc, char **argv);
/* The options as --help prints them, one per line with leading spaces; malloc'ed. */
char *program_options_help(void);

#endif
