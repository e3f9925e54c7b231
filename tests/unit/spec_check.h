/* Helpers of the frontend's tests: a session, a minimal spec, and what the diagnostics say. */
#ifndef MPCC_TESTS_SPEC_CHECK_H
#define MPCC_TESTS_SPEC_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "tests/check_run.h"

typedef struct {
  Arena *arena;
  StrTable *strings;
  Diag *diag;
} Session;

static inline Session session_open(void) {
  Session s = {.arena = arena_create()};
  s.strings = str_table_create(s.arena);
  s.diag = diag_create(s.arena, s.strings);
  return s;
}

static inline void session_close(Session *s) {
  arena_destroy(s->arena);
}

/* First message with this code, or NULL. */
static inline const DiagMessage *message(const Session *s, int code) {
  const DiagMessage *m = diag_first(s->diag);
  while (m && m->code != code)
    m = m->next;
  return m;
}

static inline void dump(const Session *s) {
  for (const DiagMessage *m = diag_first(s->diag); m; m = m->next) {
    Text t = {0};
    diag_render(s->diag, m, false, &t);
    fprintf(stderr, "%s", t.data ? t.data : "");
    text_fini(&t);
  }
}

/* Head and tail around `model:`'s layers; the layers stand on lines from 5 on. */
#define SPEC_HEAD "mpcc: 1\nname: t\nmodel:\n  inputs: {image: {shape: [1, 4, 4]}}\n"
#define SPEC_TAIL                                                                                  \
  "\nloss: CrossEntropyLoss\n"                                                                     \
  "data:\n  train: {format: synthetic, shape: [1, 4, 4], classes: 3}\n"                            \
  "  loader: {batch_size: 2}\n"                                                                    \
  "optimizer: {type: SGD, lr: 0.1}\ntrainer: {max_epochs: 1}\n"
#define SPEC_SMALL SPEC_HEAD "  layers: [Flatten, {Linear: 3}]" SPEC_TAIL

static inline Spec *spec_of(Session *s, const SpecSource *src) {
  Spec *spec = NULL;
  Status st = spec_parse(s->arena, s->strings, s->diag, src, &spec);
  ck_assert((st == MPCC_OK) == (spec != NULL));
  return spec;
}

static inline Spec *spec_text(Session *s, const char *text) {
  SpecSource src = {.path = "t.yaml", .text = text, .len = strlen(text)};
  return spec_of(s, &src);
}

#endif
