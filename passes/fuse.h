/* Private to save, fuse and its helpers: groups in the making.
 *
 *   ops --views.c, group*.c--> nodes --merge.c--> fewer nodes --emit.c--> group ops
 *
 * A Node is a group whose iteration space may still change: dimensions are split, reordered and
 * joined while nodes merge, and every affine form (accesses of operands and results, element
 * numbers) follows. Columns are fixed only where a reduction needs them. */
#ifndef MPCC_FUSE_H
#define MPCC_FUSE_H

#include "ir/ir.h"
#include "passes/passes.h"

typedef struct Node Node;

/* A value in memory: what a node stores, or a tensor as it was when the function started. */
typedef struct Buf Buf;
struct Buf {
  const Type *type; /* partial results: dim[0] is DIM_PANELS until emitted */
  Node *def;        /* NULL: read */
  int out;          /* which result of def */
  Value *value;     /* in the new function, once emitted */
  bool written;     /* ends in a tensor */
  bool exact;       /* kernels that make and read it in one go round in between */
  int nuser, cuser; /* nodes that load it, each once (merge.c) */
  Node **user;
  Buf *master; /* of a cast parameter: what it is rounded from, element by element; packs read that
                */
};

/* A convolution writes so many elements to a line of memory each; with `turned_apart` a kernel of its own turns
 * more. */
enum { FUSE_SCATTERED = 1 << 10 };

/* Extent of a dimension that runs over the partial results of another node, whose number of panels
 * is not known before that node is emitted. Never split, equal to itself alone. */
#define DIM_PANELS (-7)

/* Elements of a Buf, or a constant, seen through strides. dt is that of the storage: a value of a
 * wider format may be the view of a narrower one that it was cast from. */
typedef struct {
  Buf *buf; /* NULL: the constant imm */
  double imm;
  DType dt;
  int rank;
  int64_t dim[MAX_DIMS];
  Access at;
} View;

typedef enum {
  NODE_ROWS,
  NODE_PRODUCT,
  NODE_CONV, /* a product whose first operand is gathered */
  NODE_PACK,
  NODE_GEMM, /* a product by a library */
  NODE_ATTENTION,
  NODE_ATTENTION_GRAD,
  NODE_INDEX,
  NODE_SCATTER,
  NODE_MOVE,
  NODE_WINDOW,
  NODE_SCAN /* a loop: its body is a function of its own */
} NodeKind;

typedef struct {
  Buf *buf;
  Access at;
} NodeIn;

/* part: the result is one element (PART_ALL) or one row of columns (PART_COL) per panel, panel p at
 * offset + pstride * p; at holds the column strides. */
enum { PART_NONE, PART_ALL, PART_COL };
typedef struct {
  Buf *buf;
  Access at;
  int stmt;
  int part;
  bool rows;  /* PART_ALL: counts each row once, not each element */
  bool final; /* PART_COL: a panel's sums are the result itself */
  int64_t pstride;
} NodeOut;

enum { NODE_HELD = 8 };
struct Node {
  NodeKind kind;
  int ndim;
  int64_t dim[MAX_DIMS];
  bool rigid; /* the last ncol dimensions are columns for good; else any may become columns */
  int ncol;
  int64_t fix; /* panel_rows that results depend on (PART_COL finals); 0: free choice */
  Buf *panels; /* whose panels a DIM_PANELS extent counts */
  int nin, nout, nstmt, nlin, nparam;
  int cin, cout, cstmt, clin, cparam; /* capacities */
  NodeIn *in;
  NodeOut *out;
  Stmt *stmt;  /* without PR_STORE; PR_INDEX.ref numbers lin; level 0 until emitted */
  Access *lin; /* affine functions of the indices, for element numbers */
  int64_t *param;
  int64_t kstride; /* products: of A */
  int nattr, cattr;
  Attr *attr;
  const Op *op; /* place and layer */
  const Op *held[NODE_HELD]; /* ops of layers in it, in order of the program; not all when many */
  int nheld;
  int nop; /* how many ops it holds */
  Str layer, label;
  bool recompute, dead;
  bool backward;  /* behind the function's last loss; where recompute is asked for */
  int region;     /* of layers that share a `recompute`, from 1; 0: none */
  int64_t npanel; /* once emitted */
  int pos;        /* topological position */
  int mark, count;
  bool visited;
  int seq; /* seq: program order of what it holds */
};

typedef struct {
  Buf *buf, *packed;
  DType compute, dt; /* dt: what the elements are rounded to, or are */
  int64_t n, k, sn, sk, offset;
} PackEntry;

typedef struct {
  View from, *to;
} CopyEntry;

/* 1 / x of all elements of a tensor of scales. */
typedef struct {
  const Buf *scales;
  View *inverse;
} InverseEntry;

typedef struct {
  const Module *m;
  const PassOpts *o;
  Builder *b;
  Diag *d;
  Arena *a;         /* scratch of the pass */
  Tensor **tensors; /* new ones, by old index */
  const Func *f;
  Status status; /* sticky */
  View **view;   /* by old value id; NULL: not lowered */
  Node **node;
  int nnode, cnode;
  Buf **buf;
  int nbuf, cbuf;
  PackEntry *pack;
  int npack, cpack;
  CopyEntry *copy;
  int ncopy, ccopy;
  InverseEntry *inverse;
  int ninverse, cinverse;
  const Op *op; /* being lowered */
  int loss;     /* index of the function's last root; its op count when it has none */
  Node **order, **heap, **window; /* graph.c; heap and window are work space */
  int norder, stamp, lowest;
} Fuse;

/* Two factors, then statements on each element of their product. */
static inline bool node_is_product(const Node *n) {
  return n->kind == NODE_PRODUCT || n->kind == NODE_CONV;
}
/* Made of statements, may be merged. */
static inline bool node_has_body(const Node *n) {
  return n->kind == NODE_ROWS || node_is_product(n);
}

/* Error of the pass at an op; sticky. */
void fuse_error(Fuse *F, const Op *op, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* True after an error or when memory was short: what was asked for may be empty. */
bool fuse_failed(Fuse *F);
/* Grows an arena array so that it holds n + 1 items. */
void *fuse_grow(Fuse *F, void *items, int n, int *cap, size_t item_bytes);

/* ---- views.c --------------------------------------------------------------------------------- */

View *view_of(Fuse *F, const Value *v);
View *view_whole(Fuse *F, Buf *b);
bool view_contiguous(const View *v);
int64_t view_elems(const View *v);
/* v with shape dim by numpy broadcasting (strides 0). */
View *view_broadcast(Fuse *F, const View *v, int ndim, const int64_t *dim);
/* The same elements in another shape; false when strides cannot say it. */
bool view_reshaped(Fuse *F, const View *v, int ndim, const int64_t *dim, View **out);
/* Copy of v with contiguous storage (v itself when it is that). */
View *view_materialize(Fuse *F, const View *v);
/* Contiguous copy in format dt; one copy serves all that want the same. */
View *view_copied(Fuse *F, const View *v, DType dt);
View *view_permuted(Fuse *F, const View *v, const int64_t *perm);
/* [N, C, S...] seen as [N, S..., C]. */
View *view_channels_last(Fuse *F, const View *v);
/* view_<op> of the VIEW rows of ops.def. */
void view_op(Fuse *F, const Op *op);

/* ---- node.c: building bodies ----------------------------------------------------------------- */

Node *node_create(Fuse *F, NodeKind kind, int ndim, const int64_t *dim);
/* Notes that n holds op, of one of the model's layers. */
void node_hold(Node *n, const Op *op);
/* What n holds of layers other than the one it goes by: "gelu of act at 44:15, log of lg at 45:15". */
Str node_others(Fuse *F, const Node *n);
Node *node_rows(Fuse *F, int ndim, const int64_t *dim); /* no reductions over columns: not rigid */
Node *node_rigid(Fuse *F, int ndim, const int64_t *dim, int ncol);
Buf *buf_create(Fuse *F, const Type *type);
int node_in(Fuse *F, Node *n, Buf *buf, const Access *at);
int node_stmt(Fuse *F, Node *n, Stmt s);
DType node_reg(const Node *n, int stmt); /* register type of a statement */
int node_const(Fuse *F, Node *n, DType reg, double v);
int node_op1(Fuse *F, Node *n, Prim p, int a);
int node_op2(Fuse *F, Node *n, Prim p, int a, int b);
int node_select(Fuse *F, Node *n, int c, int a, int b);
int node_cvt(Fuse *F, Node *n, int s, DType reg);
int node_round(Fuse *F, Node *n, int s, DType rd);
int node_load(Fuse *F, Node *n, const View *v); /* v broadcasts to the node's dims */
int node_load_as(Fuse *F, Node *n, const View *v, DType reg);
int node_param(Fuse *F, Node *n, int64_t v);
int node_lin(Fuse *F, Node *n, const Access *at); /* i64: affine function of the indices */
int node_index(Fuse *F, Node *n, int dim);
int node_element(Fuse *F, Node *n); /* i64: row-major number over the node's dims */
int node_rand(Fuse *F, Node *n, const View *seed, const View *step, int element, int64_t stream);
/* Inlines an elementwise body over argument statements (register type reg). */
int node_scalar(Fuse *F, Node *n, const Scalar *s, const int *arg, DType reg);
/* Stores stmt as an array of shape dims (row-major), dims being a subset: keep bit d. */
Buf *node_store(Fuse *F, Node *n, int stmt, DType dt, unsigned keep);
Buf *node_store_at(Fuse *F, Node *n, int stmt, const Type *type, const Access *at);
void node_attr(Fuse *F, Node *n, Attr attr);
void node_attr_i(Fuse *F, Node *n, const char *key, int64_t v);
void node_attr_f(Fuse *F, Node *n, const char *key, double v);
void node_attr_b(Fuse *F, Node *n, const char *key, bool v);
void node_attr_dt(Fuse *F, Node *n, const char *key, DType v);
DType reg_of(DType storage);
/* Register in which an op over these formats computes: f64 when one is f64, else f32. */
DType reg_join(DType a, DType b);
/* Sums (PR_ASUM, PR_AMAX, PR_AMIN) stmt over everything: a partial per panel here and a node that
 * combines them; view of the scalar in format dt. divisor divides the sum. */
View *node_total(Fuse *F, Node *n, Prim prim, int stmt, DType dt, double divisor);
/* The same over the rows of a rigid node: each row's value counts once. */
View *node_rows_total(Fuse *F, Node *n, int stmt, DType dt);
/* Sums stmt over the rows of n: keeps its columns. type: of the result. */
Buf *node_column_sum(Fuse *F, Node *n, int stmt, const Type *type);
/* Sums stmt over the `rows` rows of each panel of n: [panels..., columns]. type: of the result. */
Buf *node_panel_sums(Fuse *F, Node *n, int stmt, const Type *type, int64_t rows);
/* Result i of the op being lowered. */
void set_result(Fuse *F, int i, View *v);
void set_result_buf(Fuse *F, int i, Buf *b);
View *operand(Fuse *F, int i);

/* ---- group_product.c ------------------------------------------------------------------------- */

/* b [N, K] in the target's panel layout; one pack serves all products that read it the same way. */
Buf *product_packed(Fuse *F, const View *b, DType compute);
/* Node of kind `kind` over dim[0..ndim), the last of which are the columns, with its two factors;
 * *acc is its sum. */
Node *product_node(Fuse *F, NodeKind kind, int ndim, const int64_t *dim, Buf *a, const Access *at,
                   Buf *b, DType compute, int64_t k, int *acc);

/* y + b [N] where y is what a library makes of codes, read here alone: it adds b before it rounds.
 * False: the op being lowered is no such sum. */
bool product_takes_bias(Fuse *F, const Op *op);
/* y + c where y is what a library makes in FP32 or wider, read here alone: it adds c to its sums,
 * which rounds no more often. False: the op being lowered is no such sum. */
bool product_takes_sum(Fuse *F, const Op *op);

/* Whether the two factors of the op being lowered are FP32 that was rounded to TF32, and the target
 * multiplies that faster. */
bool product_is_tf32(const Fuse *F);

/* ---- group.c, group_rows.c, group_product.c, group_conv.c ------------------------------------ */

/* Lowers one op to nodes (or a view) and sets the views of its results. */
typedef void GroupFn(Fuse *F, const Op *op);
GroupFn group_op, group_elem;
/* group_<op> of every row that has a kind of its own. */
#define GROUP_NONE(name)
#define GROUP_ELEM(name)
#define GROUP_VIEW(name)
#define GROUP_PRODUCT(name) GroupFn group_##name;
#define GROUP_ATTENTION(name) GroupFn group_##name;
#define GROUP_ROWS(name) GroupFn group_##name;
#define GROUP_MOVE(name) GroupFn group_##name;
#define GROUP_INDEX(name) GroupFn group_##name;
#define GROUP_PACK(name) GroupFn group_##name;
#define GROUP_WINDOW(name) GroupFn group_##name;
#define OP(name, nin, nout, shape, cuda, cpu, grad, kind, doc) GROUP_##kind(name)
#define SCALAR(name, nin, text, deriv, cuda, cpu, doc)
#include "ir/ops.def"
#undef OP
#undef SCALAR

/* ---- simplify.c ------------------------------------------------------------------------------ */

/* Drops extents of 1 and joins neighbours whose accesses agree. */
void node_simplify(Fuse *F, Node *n);
/* Equal statements and loads once, nothing unused. */
void node_clean(Fuse *F, Node *n);
bool form_equal(const Access *a, const Access *b, int ndim);

/* ---- graph.c --------------------------------------------------------------------------------- */

/* Fills Buf.user. add: n loads b. update: drops users that died or load it no more. */
void graph_users(Fuse *F);
void graph_add_user(Fuse *F, Buf *b, Node *n);
void graph_update_users(Buf *b);
/* Drops nodes that nothing needs and results that nothing reads. */
void graph_sweep(Fuse *F);
/* Topological order of the live nodes into F->order, positions into Node.pos. */
void graph_order(Fuse *F);
/* Leaves the dead out of the order, so that positions say how far apart nodes run. */
void graph_close_ranks(Fuse *F);
/* Puts the order right after node `gone` was merged into `stays`; lowest position that changed. */
int graph_reorder(Fuse *F, const Node *gone, const Node *stays);
/* Is there a way from p to c? direct: through another node only. */
bool graph_reaches(Fuse *F, const Node *p, const Node *c, bool direct);
/* The order in which nodes are to run: program order, what only packs or copies state just before
 * its first use. Returns their number. */
int graph_schedule(Fuse *F, Node **order);

/* ---- merge.c --------------------------------------------------------------------------------- */

void merge_all(Fuse *F);

/* ---- emit.c ---------------------------------------------------------------------------------- */

void emit_node(Fuse *F, Node *n);

#endif
