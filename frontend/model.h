/* What the files of the model section share: the model as far as it is expanded, and the scopes in
 * which its names resolve. Errors go to the diagnostics of `c` and set `failed`. */
#ifndef MPCC_FRONTEND_MODEL_H
#define MPCC_FRONTEND_MODEL_H

#include "frontend/frontend.h"

enum { MODEL_MAX_NODES = 200000, MODEL_MAX_DEPTH = 64, MODEL_MAX_PARTS = 256 };

/* A name a layer can be called by inside a scope. */
typedef struct {
  Str name;
  Node *node;
} Name;

/* The model or one use of a block: prefix of full names, incoming value, names so far. */
typedef struct Scope {
  const struct Scope *outer;
  Str prefix; /* "h.0." or "" */
  Str path;   /* "2." inside item 2: before the index of layers without a name */
  Node *input;
  Name *name;
  int nname, cap;
} Scope;

typedef struct {
  Check c; /* scope of expressions changes on the way */
  Model *m;
  int node_cap;
  const Yaml *blocks;
  bool *block_used, *block_wrong; /* by index in blocks */
  const Yaml *init;               /* `default` of the model's init, and its values in order */
  Val *init_value;
  const char *active[MODEL_MAX_DEPTH]; /* blocks being expanded */
  int depth;
  PrecisionRegion region; /* of the innermost use, residual or parallel that names one */
  Val *freeze, *training; /* of the innermost use that says them, or NULL */
  Str tie_mine, tie_theirs; /* prefixes of the innermost tied use and of the other one, or NULL */
  bool failed;
} Expand;

/* ---- model_names.c ---- */

void expand_fail(Expand *e, Loc loc, int code, const char *text);

/* A tuple stands where one value is needed. */
void expand_fail_tuple(Expand *e, Loc loc, const Node *t);

void scope_add(Expand *e, Scope *s, Str name, Node *node);

/* The layer, input or part of a tuple that y names in the scope; NULL behind an error. */
Node *scope_resolve(Expand *e, const Scope *scope, const Yaml *y);

/* Puts a node behind those so far; false when there are too many. */
bool expand_append(Expand *e, Node *n);

void node_set_inputs(Expand *e, Node *n, int nin, Node *const *in);

/* Full name of the item at `index` of a list: `name:` or path and index, behind the scope's prefix.
 * rel: the name inside the scope; auto_name: whether it is made from the index. NULL behind an
 * error. */
Str expand_name(Expand *e, const Scope *scope, const Yaml *y, int index, Str *rel, bool *auto_name);

/* Unique names: given ones must differ; those from an index get a number behind when taken. */
void expand_settle_names(Expand *e);

/* ---- model_layer.c ---- */

/* The value that flows on behind an item, which is `flow` where the item has a mistake. */
Node *expand_layer(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow);

/* The region inside what names `v` (NULL: nothing): the innermost rules, as nested autocasts do. */
PrecisionRegion expand_region(Expand *e, const Val *v, Str rule);

/* `default` of the model's init; y may be NULL. */
void expand_default_init(Expand *e, const Yaml *y);

/* ---- model_block.c ---- */

Node *expand_use(Expand *e, Scope *scope, const Yaml *y, int index, Node *flow);

/* ---- model.c ---- */

/* Layers of a list in order; its outgoing value. */
Node *expand_list(Expand *e, Scope *scope, const Yaml *y, const char *what, Node *flow);

/* Incoming value of a structure: its `inputs` or the flow. */
Node *expand_incoming(Expand *e, const Scope *scope, const Yaml *y, Node *flow);

/* Notes that backward computes layers under the prefix again: `full`, `attention`; `none` is
 * nothing. */
void expand_recompute(Expand *e, Str prefix, Str mode);

#endif
