/* The command line of mpcc: one table gives parsing, --help and the man page. */
#ifndef MPCC_DRIVER_ARGS_H
#define MPCC_DRIVER_ARGS_H

#include <stdbool.h>
#include <stdio.h>

#include "mpcc/mpcc.h"

typedef enum {
  CMD_COMPILE, CMD_RUN, CMD_CHECK, CMD_RESOLVE, CMD_EXPLAIN, CMD_VERIFY, CMD_INSPECT, CMD_CONVERT,
  CMD_COMPARE, CMD_SENSITIVITY, CMD_GRAPH, CMD_SCHEMA
} Command;

enum { ARGS_NLIST = 7 }; /* options that are lists */

typedef struct {
  Command command;
  const char **input; /* spec files, in order */
  int ninput;
  const char *output;      /* -o; NULL: the spec's name */
  const char **emit;       /* "exe" ..., in order; at least one */
  int nemit;
  const char *link;        /* "cc" or NULL */
  const char *diff[2];     /* explain: two modes, or NULL */
  const char *precisions, *html; /* of compare; NULL: not given */
  const char *formats;     /* of sensitivity; NULL: not given */
  double bound;
  const char *tokenizer, *dtype, *header, *separator; /* of convert; NULL: not given */
  bool json, verbose, save_temps, json_result;
  int color;               /* -1 auto, 0 never, 1 always */
  const char *help;        /* "" for plain --help; topic; NULL: not asked */
  bool version, licenses;
  mpcc_options options;    /* lists point into storage below */
  char **rest;             /* run, compare: program options, rest[0] unused for a name */
  int nrest;
  const char **list[ARGS_NLIST];    /* owned arrays behind options' lists */
} Args;

/* 0, or the exit code after a message on stderr. */
int args_parse(Args *a, int argc, char **argv);
void args_free(Args *a);
/* --help and --help=TOPIC; the exit code. */
int args_help(const char *topic, FILE *out);

#endif
