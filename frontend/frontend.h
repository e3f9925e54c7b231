/* YAML text to a typed spec, and the spec to a forward module. */
#ifndef MPCC_FRONTEND_H
#define MPCC_FRONTEND_H

#include "ir/ir.h"

/* ---- yaml.c: libyaml events to a located tree ------------------------------------------------------ */

typedef enum { YAML_NULL, YAML_SCALAR, YAML_LIST, YAML_MAP } YamlKind;
typedef struct Yaml Yaml;
typedef struct {
  Yaml *key, *value;
} YamlPair;
struct Yaml {
  YamlKind kind;
  Loc loc;
  Str text;    /* scalars: as written */
  bool quoted; /* '...' or "...": always a string */
  int n;
  union {
    Yaml **item;    /* lists */
    YamlPair *pair; /* maps, in file order */
  } u;
};
/* Whole document. Anchors expand (shared nodes, at most 100 000 nodes seen through aliases); merge
 * keys, duplicate keys, several documents and nesting deeper than 200 are errors. */
Status yaml_parse(Arena *a, StrTable *s, Diag *d, uint32_t file, const char *text, size_t len,
                  Yaml **out);
Yaml *yaml_get(const Yaml *map, const char *key); /* NULL when absent */

/* ---- spec.c: the effective spec ------------------------------------------------------------------- */

typedef struct Spec Spec; /* typed, every default filled in; origin of each value kept */

typedef struct {
  const char *path;      /* of the spec file; "-" for standard input already read */
  const char *text;      /* file contents */
  size_t len;
  const char *precision; /* --precision, or NULL */
  const char *const *define; int ndefine; /* -D NAME=VALUE */
  const char *const *set; int nset;       /* --set PATH=VALUE */
  const char *const *include; int ninclude; /* -I */
  /* Reads a file named by `extends:`; malloc'ed text. */
  Status (*read)(void *user, const char *path, char **text, size_t *len);
  void *user;
} SpecSource;

/* Parses and checks; reports every error of the file through d before it fails. */
Status spec_parse(Arena *a, StrTable *s, Diag *d, const SpecSource *src, Spec **out);
/* YAML of the effective spec, `type:` written out; with_origin adds "# from ..." comments. */
void spec_resolve(const Spec *s, bool with_origin, Text *out);
/* The same as JSON with the YAML's keys (image meta "spec": all the runtime knows of the spec). */
void spec_json(const Spec *s, Text *out);
const char *spec_name(const Spec *s);

/* ---- lower.c --------------------------------------------------------------------------------------- */

/* Forward-stage module with functions init, train_forward, eval_forward, predict:
 *   tensors   parameters (role param, dtype f32; attrs group, init...), io tensors (docs/ir.md)
 *   train_forward  reads inputs, ends in `cross_entropy` (loss); writes metric tensors
 *   eval_forward   dropout off; writes metric loss_sum, weight_sum, correct
 *   predict        writes role output tensors
 * Module attributes as passes.h lists. Diagnoses shapes. */
Status spec_lower(const Spec *s, StrTable *strings, Diag *d, Module **out);

/* Layers of the spec language with their arguments, one line each (--help=layers). */
void frontend_help_layers(Text *out);

#endif
