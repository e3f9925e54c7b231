/* Pictures of a model: the forward pass as a graph, a node per op, coloured by the dtype it computes in.
 * As Graphviz text (--emit=dot), and as SVG laid out here (`mpcc graph`): a row per step of the longest
 * way from an input, nodes of one row side by side, edges that pass over rows bent around them. Nodes are
 * the ops on a way from an input to the loss; through casts and views an edge goes on. */
#include <math.h>
#include <string.h>

#include "lib/lib.h"
#include "passes/passes.h"

enum { NODE_W = 210, NODE_H = 40, GAP_X = 30, GAP_Y = 26, MARGIN = 24, LEGEND_H = 30, MAX_LABEL = 34 };

typedef struct {
  const Op *op;
  const char *title;
  DType compute, stored;
  int rank, column;
} Box;

typedef struct {
  int from, to;
} Edge;

typedef struct {
  int nnode, nedge, edge_cap, rows, columns;
  Box *node;
  Edge *edge;
  int *of; /* node that made a value, or -1, by value id */
} Graph;

static const char *colour(DType dt) {
  switch (dt) {
  case MPCC_F64: return "#c9b6e4";
  case MPCC_F32: return "#b5d3ee";
  case MPCC_BF16: return "#f8d49b";
  case MPCC_F16: return "#f3e79b";
  default: return dtype_is_float(dt) ? "#f3aaa4" : "#e0e0e0"; /* 8-bit floats; integers */
  }
}

/* ---- which nodes and edges ------------------------------------------------------------------- */

static bool is_input(const Op *op) {
  return op->code == OP_read && op_attr(op, "tensor")->u.tensor->role == ROLE_INPUT;
}

/* Ops an edge goes through: they have one operand whose value they hand on. */
static bool passes_on(const Op *op) {
  return op->nin && (op->code == OP_cast || op_info(op->code)->kind == OK_VIEW);
}

/* Ops that the loss depends on. */
static bool *leads_to_loss(const Func *f, Arena *a) {
  bool *live = ARENA_ARRAY(a, bool, f->nop + 1);
  bool any = false;
  for (int i = f->nop - 1; i >= 0 && !arena_failed(a); i--) {
    const Op *op = f->op[i];
    any |= op_info(op->code)->is_root;
    live[i] |= op_info(op->code)->is_root;
    for (int k = 0; live[i] && k < op->nin; k++)
      live[op->in[k]->def->index] = true;
  }
  for (int i = 0; !any && i < f->nop && !arena_failed(a); i++)
    live[i] = true;
  return live;
}

/* Whether a node stands before it: what comes from parameters alone does not. */
static bool has_node_before(const Graph *g, const Op *op) {
  for (int k = 0; k < op->nin; k++)
    if (g->of[op->in[k]->id] >= 0)
      return true;
  return false;
}

static void add_edge(Graph *g, int from, int to) {
  for (int i = 0; i < g->nedge; i++)
    if (g->edge[i].from == from && g->edge[i].to == to)
      return;
  if (g->nedge < g->edge_cap)
    g->edge[g->nedge++] = (Edge){from, to};
}

static void add_node(Graph *g, const Op *op) {
  Box *n = &g->node[g->nnode];
  const Type *t = op->nout ? op->out[0]->type : op->in[0]->type;
  n->op = op;
  n->title = is_input(op) ? op_attr(op, "tensor")->u.tensor->name : op_info(op->code)->name;
  n->stored = t->dt;
  n->compute = is_input(op) ? t->dt : explain_compute_dtype(op);
  for (int k = 0; k < op->nin; k++) {
    int from = g->of[op->in[k]->id];
    if (from < 0)
      continue;
    add_edge(g, from, g->nnode);
    if (g->node[from].rank >= n->rank)
      n->rank = g->node[from].rank + 1;
  }
  for (int k = 0; k < op->nout; k++)
    g->of[op->out[k]->id] = g->nnode;
  g->rows = n->rank >= g->rows ? n->rank + 1 : g->rows;
  g->nnode++;
}

/* The column of a node: that of the first node before it, else the nearest free one. */
static void place(Graph *g, Arena *a) {
  bool *taken = ARENA_ARRAY(a, bool, (size_t)g->rows * (size_t)(g->nnode + 1) + 1);
  if (arena_failed(a))
    return;
  for (int i = 0; i < g->nnode; i++) {
    Box *n = &g->node[i];
    int want = 0;
    for (int k = g->nedge; k-- > 0;)
      if (g->edge[k].to == i)
        want = g->node[g->edge[k].from].column;
    bool *row = taken + (size_t)n->rank * (size_t)(g->nnode + 1);
    int at = want;
    for (int d = 1; row[at]; d++)
      at = want - d >= 0 && !row[want - d] ? want - d : want + d;
    row[at] = true;
    n->column = at;
    g->columns = at >= g->columns ? at + 1 : g->columns;
  }
}

static Status collect(const Module *m, Graph *g, Arena *a) {
  const Func *f = module_func(m, "train_forward");
  if (!f)
    return MPCC_ERR_INPUT;
  int operands = 1;
  for (int i = 0; i < f->nop; i++)
    operands += f->op[i]->nin;
  g->node = ARENA_ARRAY(a, Box, f->nop + 1);
  g->edge = ARENA_ARRAY(a, Edge, operands);
  g->of = ARENA_ARRAY(a, int, f->nvalue + 1);
  g->edge_cap = operands;
  if (arena_failed(a))
    return MPCC_ERR_NOMEM;
  for (int i = 0; i <= f->nvalue; i++)
    g->of[i] = -1;
  const bool *live = leads_to_loss(f, a);
  for (int i = 0; i < f->nop && !arena_failed(a); i++) {
    const Op *op = f->op[i];
    if (!live[i])
      continue;
    if (passes_on(op))
      g->of[op->out[0]->id] = g->of[op->in[0]->id];
    else if (is_input(op) || (op_info(op->code)->kind != OK_NONE && has_node_before(g, op)))
      add_node(g, op);
  }
  place(g, a);
  return arena_failed(a) ? MPCC_ERR_NOMEM : MPCC_OK;
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* "bf16 [64, 16, 32]"; f32 -> bf16 where what is stored is another format */
static void put_type(const Box *n, Text *out) {
  const Type *t = n->op->nout ? n->op->out[0]->type : n->op->in[0]->type;
  text_puts(out, dtype_text(n->compute));
  if (n->stored != n->compute)
    text_printf(out, " -> %s", dtype_text(n->stored));
  text_puts(out, " [");
  for (int i = 0; i < t->rank; i++)
    text_printf(out, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
  text_puts(out, "]");
}

/* The end of a layer's name says more than its beginning. */
static void put_layer(const Box *n, int room, Text *out) {
  const char *name = n->op->layer ? n->op->layer : "";
  size_t len = strlen(name), most = room > 4 ? (size_t)room : 4;
  text_puts(out, len > most ? "..." : "");
  text_puts(out, len > most ? name + len - most + 3 : name);
}

/* Bytes of a label, escaped for quotes of DOT or for XML. */
static void put_escaped(const char *s, bool xml, Text *out) {
  for (; *s; s++)
    if (xml && strchr("<>&\"", *s))
      text_puts(out, *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : "&quot;");
    else
      text_printf(out, !xml && strchr("\"\\", *s) ? "\\%c" : "%c", *s);
}

static void put_label(const Box *n, bool second, bool xml, Text *out) {
  Text t = {0};
  if (second) {
    put_type(n, &t);
  } else {
    text_puts(&t, n->title);
    text_puts(&t, "  ");
    put_layer(n, MAX_LABEL - (int)strlen(n->title), &t);
  }
  put_escaped(t.data ? t.data : "", xml, out);
  out->failed |= t.failed;
  text_fini(&t);
}

static void dot(const Graph *g, const char *name, Text *out) {
  text_puts(out, "digraph \"");
  put_escaped(name, false, out);
  text_puts(out, "\" {\n  node [shape=box, style=filled, fontname=\"sans-serif\", fontsize=10];\n");
  for (int i = 0; i < g->nnode; i++) {
    text_printf(out, "  n%d [label=\"", i);
    put_label(&g->node[i], false, false, out);
    text_puts(out, "\\n");
    put_label(&g->node[i], true, false, out);
    text_printf(out, "\", fillcolor=\"%s\"];\n", colour(g->node[i].compute));
  }
  for (int i = 0; i < g->nedge; i++)
    text_printf(out, "  n%d -> n%d;\n", g->edge[i].from, g->edge[i].to);
  text_puts(out, "}\n");
}

static int left(const Box *n) {
  return MARGIN + 60 + n->column * (NODE_W + GAP_X);
}

static int top(const Box *n) {
  return MARGIN + LEGEND_H + n->rank * (NODE_H + GAP_Y);
}

/* Down the gap when the next row is meant; else around, on the left of the first column or between. */
static void svg_edge(const Graph *g, const Edge *e, Text *out) {
  const Box *a = &g->node[e->from], *b = &g->node[e->to];
  int x0 = left(a) + NODE_W / 2, y0 = top(a) + NODE_H, x1 = left(b) + NODE_W / 2, y1 = top(b);
  if (b->rank == a->rank + 1) {
    text_printf(out, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x0, y0, x0, y0 + GAP_Y / 2, x1,
                y1 - GAP_Y / 2, x1, y1 - 4);
    return;
  }
  if (a->column != b->column) { /* down its own column, then to the side */
    int side = a->column > b->column ? left(b) + NODE_W + 4 : left(b) - 4, y = y1 + NODE_H / 2;
    text_printf(out, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x0, y0, x0, y, x0, y, side, y);
    return;
  }
  int over = b->rank - a->rank, bend = 14 + (over < 10 ? 4 * over : 40);
  x0 = left(a);
  x1 = left(b);
  int far = (x0 < x1 ? x0 : x1) - bend;
  text_printf(out, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x0, y0 - NODE_H / 2, far,
              y0 - NODE_H / 2, far, y1 + NODE_H / 2, x1 - 4, y1 + NODE_H / 2);
}

static void svg_legend(const Graph *g, Text *out) {
  bool seen[MPCC_DTYPE_COUNT] = {false};
  int at = MARGIN;
  for (int i = 0; i < g->nnode; i++)
    seen[g->node[i].compute] = true;
  for (int dt = 0; dt < MPCC_DTYPE_COUNT; dt++)
    if (seen[dt]) {
      text_printf(out,
                  "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" fill=\"%s\"/>"
                  "<text x=\"%d\" y=\"%d\">%s</text>\n",
                  at, MARGIN - 8, colour((DType)dt), at + 19, MARGIN + 3, dtype_text((DType)dt));
      at += 70;
    }
}

static void svg(const Graph *g, const char *name, Text *out) {
  int columns = g->columns > 2 ? g->columns : 2;
  text_printf(out,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
              "font-family=\"sans-serif\" font-size=\"11\">\n<title>",
              2 * MARGIN + 60 + columns * (NODE_W + GAP_X),
              2 * MARGIN + LEGEND_H + g->rows * (NODE_H + GAP_Y));
  put_escaped(name, true, out);
  text_puts(out, "</title>\n<defs><marker id=\"a\" markerWidth=\"7\" markerHeight=\"6\" refX=\"4\" "
                 "refY=\"3\" orient=\"auto\"><path d=\"M0 0L7 3L0 6\" fill=\"#777\" stroke=\"none\"/>"
                 "</marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
  svg_legend(g, out);
  text_puts(out, "<g fill=\"none\" stroke=\"#777\" marker-end=\"url(#a)\">\n");
  for (int i = 0; i < g->nedge; i++)
    svg_edge(g, &g->edge[i], out);
  text_puts(out, "</g>\n");
  for (int i = 0; i < g->nnode; i++) {
    const Box *n = &g->node[i];
    int x = left(n), y = top(n);
    text_printf(out,
                "<g><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"5\" fill=\"%s\" "
                "stroke=\"#555\"/><title>",
                x, y, NODE_W, NODE_H, colour(n->compute));
    put_escaped(n->op->layer ? n->op->layer : n->title, true, out);
    text_printf(out, "</title><text x=\"%d\" y=\"%d\">", x + 8, y + 16);
    put_label(n, false, true, out);
    text_printf(out, "</text><text x=\"%d\" y=\"%d\" fill=\"#444\">", x + 8, y + 32);
    put_label(n, true, true, out);
    text_puts(out, "</text></g>\n");
  }
  text_puts(out, "</svg>\n");
}

Status graph_emit(Compilation *c, bool as_svg, Text *out) {
  Status st = MPCC_OK;
  if (c->module->stage < STAGE_TYPED)
    st = compilation_passes(c, NULL, "castopt");
  Arena *a = st == MPCC_OK ? arena_create() : NULL;
  Graph g = {0};
  if (st == MPCC_OK)
    st = a ? collect(c->module, &g, a) : MPCC_ERR_NOMEM;
  if (st == MPCC_ERR_INPUT)
    diag_error(c->diag, (Loc){0}, 507, "this module has no train_forward to draw: its stage is %s",
               stage_name(c->module->stage));
  if (st == MPCC_OK)
    (as_svg ? svg : dot)(&g, module_str(c->module, "name", "program"), out);
  arena_destroy(a);
  return st == MPCC_OK && out->failed ? MPCC_ERR_NOMEM : st;
}
