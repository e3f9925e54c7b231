/* YAML text to a typed spec, and the spec to a forward module. */
#ifndef MPCC_FRONTEND_H
#define MPCC_FRONTEND_H

#include "ir/ir.h"

struct SpecSource;
typedef struct Spec Spec; /* see spec.c below */

/* ---- yaml.c: libyaml events to a located tree ---- */

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
 * keys, several documents and nesting deeper than 200 are errors. So is a key given twice, but its
 * first value stands and the tree is returned with MPCC_OK: the caller looks at diag_errors. */
Status yaml_parse(Arena *a, StrTable *s, Diag *d, uint32_t file, const char *text, size_t len,
                  Yaml **out);
Yaml *yaml_get(const Yaml *map, const char *key); /* NULL when absent */
/* The same for a text that lies at `base` of a registered file (command line settings, defaults). */
Status yaml_parse_at(Arena *a, StrTable *s, Diag *d, Loc base, const char *text, size_t len,
                     Yaml **out);
const char *yaml_kind_text(const Yaml *y); /* "a list", "text", ... for messages */

/* ---- value.c: checked values ---- */

typedef enum { VAL_NULL, VAL_BOOL, VAL_INT, VAL_FLOAT, VAL_STR, VAL_LIST, VAL_MAP } ValKind;
/* Where a value comes from. Which file, and whether that is a parent, is in its Loc. */
typedef enum { ORIGIN_FILE, ORIGIN_DEFAULT, ORIGIN_IMPLIED } Origin;

/* One value of the effective spec: what the schema's type makes of YAML text. */
typedef struct Val Val;
struct Val {
  ValKind kind;
  Origin origin;
  Loc loc;     /* of the YAML node; file 0 for defaults */
  int64_t i;   /* VAL_INT, VAL_BOOL */
  double f;    /* VAL_FLOAT; also set for VAL_INT */
  Str s;       /* VAL_STR */
  int n, cap;  /* VAL_LIST, VAL_MAP */
  Str *key;    /* VAL_MAP */
  Val **item;
};
Val *val_new(Arena *a, ValKind kind, Origin origin, Loc loc);
Val *val_int(Arena *a, int64_t v, Origin origin, Loc loc);
Val *val_float(Arena *a, double v, Origin origin, Loc loc);
Val *val_str(Arena *a, Str v, Origin origin, Loc loc);
void val_add(Arena *a, Val *list, Val *item);
void val_set(Arena *a, Val *map, Str key, Val *item); /* replaces an item of the same key */
void val_remove(Val *map, const char *key);
/* Dotted path from a map ("trainer.max_epochs"); keys must not contain dots. NULL when absent. */
Val *val_get(const Val *v, const char *path);
/* Value at a path of known type; `otherwise` when absent or null. */
int64_t val_get_int(const Val *v, const char *path, int64_t otherwise);
double val_get_float(const Val *v, const char *path, double otherwise);
bool val_get_bool(const Val *v, const char *path, bool otherwise);
Str val_get_str(const Val *v, const char *path, Str otherwise);
/* Text of t as an interned string; t is finished. When t had run out of memory, so has the arena. */
Str text_take(Arena *a, StrTable *s, Text *t);
/* "128", "0.5", "text" as a string interpolation writes it. */
void val_text(const Val *v, Text *out);
/* YAML in block style, maps and lists of scalars in flow style. files: names for "# from" comments
 * behind each scalar, or NULL for none. */
void val_yaml(const Val *v, const Diag *files, Text *out);
void val_json(const Val *v, Text *out);

/* ---- expr.c: $name and $(...) ---- */

/* A named constant of `params:`, of a block, or the `i` of a repeat. */
typedef struct {
  Str name;
  Val *value; /* NULL: its definition was wrong and has been diagnosed */
  Loc loc;
  bool used;
} Param;
typedef struct ParamScope {
  const struct ParamScope *outer;
  int n;
  Param *param; /* looked up from the last to the first */
} ParamScope;

/* Value of a scalar's text: `$name` or `$(...)` alone gives the typed value, inside a longer text its
 * digits; `$$` is a dollar sign. Texts without `$` give VAL_STR. NULL after a diagnostic. */
Val *expr_text(Arena *a, StrTable *s, Diag *d, const ParamScope *scope, const Yaml *scalar);
/* True when the text has a `$` to substitute. */
bool expr_present(const char *text);

/* ---- glob.c ---- */

/* Patterns of the braces in `glob`: "a.{0,3}.**" gives "a.0.**", "a.3.**". Returns their number; 0
 * when braces do not close or expand to more than 1000. */
int glob_expand(Arena *a, StrTable *s, const char *glob, Str **out);
/* Dotted name against a pattern without braces: `*` within one part, `?` one character, `**` any
 * number of parts. */
bool glob_match(const char *pattern, const char *name);

/* ---- schema.c: the checker that reads schema.def ---- */

typedef enum {
  KT_BOOL, KT_INT, KT_FLOAT, KT_NUMBER, KT_STR, KT_WORD, KT_INTS, KT_FLOATS, KT_STRS, KT_WORDS,
  KT_SECTION, KT_VARIANT, KT_VARIANTS, KT_SECTIONS, KT_RAW, KT_TYPE, KT_LATER, KT_IDLE
} KeyType;
typedef struct {
  const char *section, *key;
  KeyType type;
  const char *arg, *otherwise, *range, *doc; /* otherwise: YAML text of the default, NULL: required */
} SchemaRow;
const SchemaRow *schema_rows(int *n);
/* schema_table.c: finds rows by name; without one (NULL), by looking at all. */
typedef struct SchemaIndex SchemaIndex;
SchemaIndex *schema_index(Arena *a); /* NULL when memory is short */
const SchemaRow *schema_find(const SchemaIndex *x, const char *section,
                             const char *key); /* NULL when absent */
/* The first row of a section, the next one after `after`; NULL: no more. */
const SchemaRow *schema_next(const SchemaIndex *x, const char *section, const SchemaRow *after);

/* What checking needs; borrowed. */
typedef struct {
  Arena *a;
  StrTable *s;
  Diag *d;
  const ParamScope *scope; /* of $expressions */
  SchemaIndex *rows;       /* may be NULL */
} Check;
/* The default of a row as a tree, to be read only; NULL after a diagnostic. */
Yaml *schema_otherwise(const Check *c, const SchemaRow *row);

/* schema_hint.c. What to write instead of a key or word of other tools (elsewhere.def); NULL when it
 * is none of those. */
const char *schema_elsewhere(const char *section, const char *key);
/* Errors for what does not stand in the table, with the way to write it; the text of `type` with the
 * arguments that were put under its name beside it. */
void schema_unknown_key(const Check *c, const char *section, const char *shared, const Yaml *key,
                        const char *where);
void schema_unknown_type(const Check *c, const char *kind, const char *type_key, Loc loc, Str name,
                         const char *what);
Str schema_beside(const Check *c, const SchemaRow *type, const Yaml *args);

/* Checks map `y` (NULL: nothing given, defaults only) against the rows of `section` and of `shared`
 * (NULL: none): unknown, later and missing keys, types, ranges. The result has every key in the
 * table's order; RAW ones are VAL_NULL, to be replaced by the caller. where: "'trainer'", "layer
 * 'mlp.0' (Linear)"; loc places missing keys. */
Val *check_section(const Check *c, const char *section, const char *shared, const Yaml *y, Loc loc,
                   const char *where);
/* Value of one row; NULL after a diagnostic. */
Val *check_value(const Check *c, const SchemaRow *row, const Yaml *y, const char *where);
/* `Type`, `{Type: main, ...}` or `{type: Type, ...}` against the TYPE rows of section `kind`;
 * type_key: "type". On success *type is its row and *args a map of the arguments, the main one under
 * its name; false after a diagnostic. what: "layer", for messages. */
bool check_type(const Check *c, const char *kind, const char *type_key, const Yaml *y,
                const char *what, const SchemaRow **type, const Yaml **args);
/* The same with its arguments checked: a map whose first key is type_key; NULL after a diagnostic. */
Val *check_variant(const Check *c, const char *kind, const char *type_key, const Yaml *y,
                   const char *what);
/* A free scalar (a param's value): integer, float, true/false or text; NULL after a diagnostic. */
Val *check_free(const Check *c, const Yaml *y);
/* Text of a scalar after substitution; NULL after a diagnostic. */
Str check_str(const Check *c, const Yaml *y, const char *what);

/* ---- model*.c: blocks, repeats and names become a list of layers ----------------------------- */

/* A part of the model in a precision of its own. */
typedef struct {
  Str mode; /* canonical mode or "off"; NULL: the whole's */
  Str rule; /* what set it, in words: "override 'h.0.**'" */
  Loc loc;
} PrecisionRegion;

typedef struct Node Node;
/* A model input (type NULL) or one layer of the expanded model. Residual and parallel structures have
 * become add, mul and cat layers; every operand is resolved. */
struct Node {
  const SchemaRow *type; /* row of section "layer" */
  Str name;              /* full dotted name, unique */
  bool auto_name;        /* from its index */
  Loc loc;
  Val *args;             /* checked arguments, with `precision` and `init` of every layer */
  Val *init;             /* {tensor name: initialiser}; "" names the tensor of Parameter */
  struct Node *tie;      /* layer whose weight this one uses, or NULL */
  struct Node *twin;     /* layer of its type whose tensors, all of them, this one uses, or NULL */
  PrecisionRegion region; /* its own precision, of the innermost that says one */
  Str recompute;          /* of this layer alone; NULL as none */
  Val *shape;            /* model inputs: dimensions without the batch */
  int nin;
  Node **in;
  Str *in_key;           /* names of operands given as a map, else NULL */
  bool plain;            /* its one operand is the layer before */
  bool tuple;            /* stands for its parts and is no layer itself */
  Node **part;           /* tuple: those that others name */
  bool used;             /* something reads it */
  int index;
};

/* What a use of a block or one layer stores for backward: `recompute:` attention or full of the layers
 * whose names are `prefix`, or begin with it and a dot. */
typedef struct Region {
  Str prefix, mode;
  struct Region *next;
} Region;

typedef struct {
  int ninput, nnode, noutput;
  Node **input, **node, **output;
  Str *output_name;
  Val *expect, *init_from;
  bool empty_init; /* what init_from reads starts as zeros */
  Region *region; /* in order of use */
} Model;

/* Checks and expands the `model:` section. Reports all mistakes; false when there was one. */
bool model_expand(const Check *c, const Yaml *y, Model *out);
/* The expanded model as a value, in the language of the spec. */
Val *model_value(const Check *c, const Model *m);
/* Marks what outputs and the nodes marked already need; a layer with parameters that nothing needs is
 * a mistake. */
void model_check_used(const Check *c, Model *m);
/* Node of an output, layer or input name; NULL when there is none. */
Node *model_find(const Model *m, const char *name);
/* Hint with the nearest names of outputs, layers and inputs; whether there is one. */
bool model_suggest(const Check *c, const Model *m, const char *name);

/* ---- init.c: initialisers ---- */

/* What a parameter starts from, with all fans worked out. */
typedef enum {
  INIT_CONSTANT,
  INIT_UNIFORM,
  INIT_NORMAL,
  INIT_TRUNC_NORMAL,
  INIT_ORTHOGONAL
} InitKind;
typedef struct {
  InitKind kind;
  double a, b;      /* constant: a; uniform: [a, b); trunc_normal: cut to [a, b]; orthogonal: gain a */
  double mean, std;
  int64_t zero_row; /* row that starts as zeros, counted from 1; 0: none */
  bool complex;     /* the last axis holds real and imaginary part; a constant is real */
} Init;

/* `zeros`, `{normal: {std: 0.02}}`, `{constant: 0.5}`, `{type: normal, std: 0.02}`: a map with `type`
 * first; NULL after a diagnostic. */
Val *init_check(const Check *c, const Yaml *y, const char *what);
/* Initialiser `v` (of init_check) for a tensor of these dimensions, as torch.nn.init. */
Init init_from(const Val *v, int rank, const int64_t *dim);
/* PyTorch's fans of a weight [out, in, window...]: in and out times the window. */
void init_fans(int rank, const int64_t *dim, double *fan_in, double *fan_out);
Init init_constant(double v);
Init init_bound(double bound); /* uniform in [-bound, bound) */
/* The same for complex numbers, as torch has it: uniform and constant as they are, normal with half of
 * the variance in each part. */
Init init_complex(Init init);
/* Attributes init, bound, mean ... of a parameter. */
void init_describe(Builder *b, Tensor *t, const Init *init);
/* Value that function `init` writes; seed, step: i64 scalars; stream: two free numbers, this and the
 * next. */
Value *init_build(Builder *b, const Init *init, const Type *type, Value *seed, Value *step,
                  int64_t stream);

/* ---- keymap.c ---- */

/* Numbers by 64-bit keys (interned strings by address; only looked up, never listed in order). */
typedef struct {
  uint64_t *key;
  int64_t *value;
  size_t cap, n;
} KeyMap;
static inline uint64_t key_of(Str s) {
  return (uint64_t)(uintptr_t)s;
}
int64_t keymap_get(const KeyMap *m, uint64_t key, int64_t otherwise);
void keymap_set(Arena *a, KeyMap *m, uint64_t key, int64_t value); /* value >= 0 */

/* ---- losses.c ---- */

/* An operand of a loss or metric: a value of the model, or (node NULL) a data field. */
typedef struct {
  Str name;
  Loc loc;
  Node *node;
} Source;
typedef struct {
  int n;
  Source *from;
  const Str *key; /* names in an expression; {input, target} else */
} Sources;
typedef struct LossKind LossKind;
typedef struct {
  const Val *v; /* checked */
  const LossKind *kind;
  Sources in;
} LossTerm;
/* A data field that a loss or metric reads. */
typedef struct LoweredField {
  Str name;
  Tensor *tensor;
  Value *read; /* in the function being built */
  struct LoweredField *next;
} LoweredField;

typedef struct MetricKind MetricKind;
typedef struct {
  const Val *v;
  const MetricKind *kind;
  Str name;
  Sources in;
} MetricTerm;
/* metrics.c: checks `metrics:` (NULL: absent), behind the losses; resolves its names. */
void metrics_read(Spec *s, const Yaml *y);
void metrics_resolve(Spec *s);
/* Checks `loss:`, a loss or a list; its names are resolved when the model is known. */
void losses_read(Spec *s, const Yaml *y);
void losses_resolve(Spec *s);
/* Reads `inputs:` of `v` by schema section `section`; resolves them. expr: any operand may be a data
 * field, but not all. */
Val *sources_read(const Check *c, const Yaml *y, Val *v, const char *section, Sources *out);
bool sources_resolve(const Check *c, Model *m, Sources *s, bool expr);

/* ---- layers.c, layers_*.c ---- */

/* One trained tensor on its way into the module. */
typedef struct {
  Tensor *tensor;
  const Node *owner;
  Init init;
  Value *read; /* in the function being built */
} LoweredParam;

/* State of a layer that is not trained: running statistics. */
typedef struct {
  Tensor *tensor;
  const Node *owner;
  double init;
} LoweredBuffer;

/* Lowering of one module; a layer function reads and extends it. */
typedef struct {
  const Spec *spec;
  Builder *b;
  bool train;  /* the layer being built drops out and takes statistics of the batch */
  bool learns; /* backward goes through the function being built */
  bool failed; /* a diagnostic was given; the module is abandoned */
  int64_t batch;
  Tensor *seed_tensor, *seen_tensor, *valid_tensor;
  Value *seed, *step;  /* of random numbers; NULL until needed */
  Value **input;       /* by model input */
  Value **value;       /* by node */
  int *batch_axis;     /* by node: its axis of samples; -1: it has none, being made of Parameters and
                        * counts; else 0 but between transpose and batch_first: false */
  Value **imag;        /* by node: imaginary part of a complex result, whose real part is `value` */
  Str part;            /* "re" or "im": of what the ops being built are a part; NULL: of neither */
  bool multiplies, convolves; /* the layer being built: what its float32_matmul, float32_conv mean */
  Str complex_mode;    /* mode that the complex layer being built computes in; NULL: that of its region */
  int nparam, param_cap;
  LoweredParam *param;
  int nbuffer, buffer_cap;
  LoweredBuffer *buffer;
  KeyMap param_of; /* index in param by tensor name */
  KeyMap stream_of, stream_taken; /* stream by path; numbers in use */
  Str region, region_rule; /* mode of the loss or metric being built, or NULL; what set it */
  int *group_use;      /* parameters in each optimizer group */
  LoweredField *field; /* data fields of losses and metrics */
} Lower;

/* Names of a layer type's trained tensors, separated by spaces; "" for none, NULL: type unknown. */
const char *layer_tensors(const char *type);
/* Whether layers of the type have inputs at all. */
bool layer_takes_inputs(const char *type);
/* Whether the type has several results, of which argument `index` chooses one. */
bool layer_has_parts(const char *type);
/* Result of a layer over its operands' values; NULL after a diagnostic. */
Value *layer_build(Lower *lo, const Node *n);
/* lower.c gives layers these: a parameter's value, declared at its first use as NAME.tensor ("": NAME);
 * operands of random ops; a stream number of a path. */
Value *lower_param(Lower *lo, const Node *n, const char *tensor, int rank, const int64_t *dim,
                   Init init);
/* State NAME.tensor that is not trained and starts as `init`; NULL when memory is short. */
Tensor *lower_buffer(Lower *lo, const Node *n, const char *tensor, DType dt, int rank,
                     const int64_t *dim, double init);
/* Value of a layer or input that is read at loc, outside the layers: a complex one is diagnosed. */
Value *lower_value(Lower *lo, const Node *n, Loc loc);
/* Data field as a batch of this type, declared at its first use. classes (0: none) and ignore: what
 * its class numbers must be. */
Value *lower_field(Lower *lo, const Source *from, const Type *type, int64_t classes, int64_t ignore);
/* losses.c: writes metric.loss_sum and metric.weight_sum of the current function. */
void losses_build(Lower *lo, Tensor *valid, Tensor *loss_sum, Tensor *weight_sum);
bool loss_has_classes(const LossTerm *t);
bool loss_has_weights(const LossTerm *t); /* of classes */
/* Ops that follow are of `precision.regions.PLACE`; its attributes put behind n of an op, at most 2. */
void lower_enter(Lower *lo, const char *place);
int lower_place(Lower *lo, Attr *attr, int n);
/* Operands of classifying losses and metrics; NULL after a diagnostic. */
Value *class_logits(Lower *lo, const Sources *s, const char *what);
Value *class_target(Lower *lo, const Sources *s, const Value *logits, int64_t ignore);
/* Operands of pointwise ones (in: room for 8); false after a diagnostic. */
bool pointwise_operands(Lower *lo, const Sources *s, bool same_shape, Value **in);
/* Number of targets that count, f32[]. */
Value *count_targets(Lower *lo, Value *target, Value *valid, int64_t ignore);
/* Expression in FP32: of operands a, b, c ...; of the spec's (NULL after a diagnostic). */
Value *loss_formula(Lower *lo, const char *text, int nin, Value *const *in);
Value *loss_expression(Lower *lo, const Val *v, const Sources *s, Value *const *in);
/* metrics.c: writes the metrics of the current function. */
void metrics_build(Lower *lo, Tensor *valid);
/* Pointwise op in FP32, and the sum over real samples. */
Value *pointwise(Lower *lo, OpCode code, Value *a, Value *b);
Value *masked_sum(Lower *lo, Value *x, Value *valid);
/* Reports misfits of shapes of a model whose spec has other mistakes; makes nothing. */
void lower_shapes(const Spec *s, StrTable *strings, Diag *d);
Value *lower_seed(Lower *lo);
Value *lower_step(Lower *lo);
int64_t lower_stream(Lower *lo, const char *path);

/* ---- precision.c ---- */

/* Canonical mode of a precision string ("16" is 16-mixed), or NULL after a diagnostic. */
Str precision_mode(const Check *c, const Val *v);
/* The same, or "off", of a part of the model. */
Str precision_region(const Check *c, const Val *v);
/* Rules between the keys of the checked section `v`; makes its mode canonical and `asked` (a mode from
 * the command line, or NULL) rule. Returns the keys that then lie idle, one a line, or NULL; they are
 * dropped. */
Str precision_check(const Check *c, Val *v, const Val *asked);
/* Layers that `precision.overrides` name get their precision; unmatched patterns are errors. */
void precision_overrides(const Check *c, const Val *v, Model *m);
/* Whether the mode scales the loss (design rule: gradients pass through float16, masters exist). */
bool precision_scales(const Val *v);
/* Mode that complex layer n computes in, *mode (NULL: as its region or the whole says): autocast never
 * touches complex numbers, 16 bits have none. stored: it has complex parameters. False after a
 * diagnostic. */
bool precision_complex(const Check *c, const Val *v, const Node *n, bool stored, Str *mode);

/* ---- source.c: texts to one tree ---- */

enum { EXTENDS_MAX = 16 };
/* Parent files and where they are named. */
typedef struct {
  int n;
  uint32_t file[EXTENDS_MAX];
  Loc loc[EXTENDS_MAX];
} Parents;

/* The spec merged over its parents, with -D and --set applied; the root is a map. On MPCC_ERR_INPUT
 * *out is what can still be checked, or NULL. */
Status source_load(Arena *a, StrTable *s, Diag *d, const struct SpecSource *src, Parents *parents,
                   Yaml **out);
/* Gives messages that lie in a parent the note "extended from here". */
void source_notes(Diag *d, const Parents *p);

/* ---- spec.c: the effective spec ---- */

/* Typed, every default filled in; origin of each value kept. Made by spec_parse, then only read. */
struct Spec {
  Check c;
  Val *root; /* spec.c says how it differs from the file */
  Model model;
  bool model_ok;
  int nloss;
  LossTerm *loss;
  int nmetric;
  MetricTerm *metric;
  Parents parents;
  Str idle; /* keys of `precision:` without effect, one a line, or NULL */
  bool defines; /* -D was given: `expect` does not hold */
  bool cycles_momentum; /* the scheduler does */
};

typedef struct SpecSource {
  const char *path;      /* of the spec file; "-" for standard input already read */
  const char *text;      /* file contents */
  size_t len;
  const char *precision; /* --precision, or NULL */
  const char *precision_from; /* "--OPTION=A,B" that has it among others; NULL: --precision */
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
/* Where the keys stand that can only be judged beside the data, as JSON: {PATH:
 * "file:line:column"}; s may be NULL. */
void spec_places(const Spec *s, Text *out);
const char *spec_name(const Spec *s);

/* ---- batch.c: samples of a step ---- */

enum { SPEC_MAX_AUTO_BATCH = 65536 };
/* Whether loader.batch_size is `auto`: 1 until spec_set_batch gives a number, before spec_lower. */
bool spec_batch_auto(const Spec *s);
/* Largest power of two that it may be: global_batch_tokens must come out. */
int64_t spec_batch_limit(const Spec *s);
Loc spec_batch_loc(const Spec *s);
/* errors: ERR_INPUT with a message when global_batch_tokens is not a multiple */
Status spec_set_batch(Spec *s, int64_t batch);
/* Accumulation `auto` becomes a number, global_batch_tokens is checked (spec.c, behind the model). */
void batch_settle(Spec *s);

/* ---- lower.c ---- */

/* Forward-stage module with functions init, train_forward, eval_forward, predict:
 *   tensors   parameters (role param, dtype f32; attrs group, init...), io tensors (docs/ir.md)
 *   train_forward  reads inputs, ends in `cross_entropy` (loss); writes metric tensors
 *   eval_forward   dropout off; writes metric loss_sum, weight_sum, correct
 *   predict        writes role output tensors
 * Module attributes as passes.h lists. Diagnoses shapes. */
Status spec_lower(const Spec *s, StrTable *strings, Diag *d, Module **out);

/* ---- help.c ---------------------------------------------------------------------------------- */

/* Layers of the spec language with their arguments, one line each (--help=layers). */
void frontend_help_layers(Text *out);
/* The whole language as Markdown tables: docs/spec.md. */
void frontend_reference(Text *out);
/* The same as JSON Schema (json_schema.c). */
void frontend_json_schema(Text *out);

#endif
