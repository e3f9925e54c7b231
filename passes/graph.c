/* The graph of nodes: who uses what, in which order they can run, what is not needed. */
#include <string.h>

#include "passes/fuse.h"

static void add_user(Fuse *F, Buf *b, Node *n) {
  b->user = fuse_grow(F, b->user, b->nuser, &b->cuser, sizeof *b->user);
  if (F->status == MPCC_OK)
    b->user[b->nuser++] = n;
}

void graph_add_user(Fuse *F, Buf *b, Node *n) {
  for (int i = 0; i < b->nuser; i++)
    if (b->user[i] == n)
      return;
  add_user(F, b, n);
}

static bool loads(const Node *n, const Buf *b) {
  for (int i = 0; i < n->nin; i++)
    if (n->in[i].buf == b)
      return true;
  return false;
}

void graph_update_users(Buf *b) {
  int k = 0;
  for (int i = 0; i < b->nuser; i++)
    if (!b->user[i]->dead && loads(b->user[i], b))
      b->user[k++] = b->user[i];
  b->nuser = k;
}

void graph_users(Fuse *F) {
  for (int i = 0; i < F->nbuf; i++)
    F->buf[i]->nuser = 0;
  for (int i = 0; i < F->nnode; i++)
    for (int k = 0; !F->node[i]->dead && k < F->node[i]->nin; k++) {
      Buf *b = F->node[i]->in[k].buf;
      if (!b->nuser || b->user[b->nuser - 1] != F->node[i]) /* it came last or not at all */
        add_user(F, b, F->node[i]);
    }
}

/* Nodes that nothing needs go, and results that nothing reads. */
void graph_sweep(Fuse *F) {
  for (int i = F->nnode - 1; i >= 0; i--) {
    Node *n = F->node[i];
    if (n->dead)
      continue;
    bool fixed = !node_has_body(n), any = false;
    int k = 0;
    for (int r = 0; r < n->nout; r++)
      any |= n->out[r].buf->nuser > 0 || n->out[r].buf->written;
    for (int r = 0; r < n->nout; r++)
      if (any && (fixed || n->out[r].buf->nuser || n->out[r].buf->written)) {
        n->out[k] = n->out[r];
        n->out[k].buf->out = k;
        k++;
      }
    n->nout = k;
    n->dead = !any;
    if (!n->dead)
      node_clean(F, n);
    for (int r = 0; n->dead && r < n->nin; r++)
      graph_update_users(n->in[r].buf);
  }
  graph_users(F);
}

/* Binary heap of nodes by creation number. */
static void heap_push(Node **heap, int *n, Node *x) {
  int i = (*n)++;
  while (i && heap[(i - 1) / 2]->seq > x->seq) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = x;
}

static Node *heap_pop(Node **heap, int *n) {
  Node *top = heap[0], *x = heap[--*n];
  int i = 0;
  for (int c = 1; c < *n; c = 2 * i + 1) {
    if (c + 1 < *n && heap[c + 1]->seq < heap[c]->seq)
      c++;
    if (heap[c]->seq >= x->seq)
      break;
    heap[i] = heap[c];
    i = c;
  }
  heap[i] = x;
  return top;
}

/* Sorts order[lo .. hi] so that values are made before they are used; dead nodes come first. The
 * rest of the order must be right already. */
static void sort_window(Fuse *F, int lo, int hi) {
  int nheap = 0, n = lo, live = 0;
  Node **window = F->window;
  for (int i = lo; i <= hi; i++) {
    Node *x = F->order[i];
    if (x->dead)
      F->order[n++] = x;
    else
      window[live++] = x;
  }
  for (int i = 0; i < live; i++) {
    Node *x = window[i];
    x->count = 0;
    for (int k = 0; k < x->nin; k++) {
      const Node *d = x->in[k].buf->def;
      x->count += d && d->pos >= lo && d->pos <= hi;
    }
  }
  for (int i = 0; i < live; i++)
    if (!window[i]->count)
      heap_push(F->heap, &nheap, window[i]);
  int first = n;
  while (nheap) {
    Node *x = heap_pop(F->heap, &nheap);
    F->order[n++] = x;
    for (int r = 0; r < x->nout; r++) {
      const Buf *b = x->out[r].buf;
      for (int u = 0; u < b->nuser; u++) {
        Node *y = b->user[u];
        for (int k = 0; k < y->nin && y->pos >= lo && y->pos <= hi; k++)
          if (y->in[k].buf == b && !--y->count)
            heap_push(F->heap, &nheap, y);
      }
    }
  }
  if (n != hi + 1)
    F->status = MPCC_ERR_INTERNAL; /* a cycle */
  for (int i = first; i < n; i++)
    F->order[i]->pos = i;
}

void graph_order(Fuse *F) {
  F->norder = 0;
  for (int i = 0; i < F->nnode; i++) {
    Node *x = F->node[i];
    if (x->dead)
      continue;
    x->pos = F->norder;
    F->order[F->norder++] = x;
  }
  if (F->norder)
    sort_window(F, 0, F->norder - 1);
}

void graph_close_ranks(Fuse *F) {
  int n = 0;
  for (int i = 0; i < F->norder; i++) {
    Node *x = F->order[i];
    if (x->dead)
      continue;
    x->pos = n;
    F->order[n++] = x;
  }
  F->norder = n;
}

int graph_reorder(Fuse *F, const Node *gone, const Node *stays) {
  int lo = gone->pos < stays->pos ? gone->pos : stays->pos;
  int hi = gone->pos < stays->pos ? stays->pos : gone->pos;
  sort_window(F, lo, hi);
  return lo;
}

static void visit(Node *n, Node **order, int *k) {
  if (n->visited)
    return;
  n->visited = true;
  for (int i = 0; i < n->nin; i++)
    if (n->in[i].buf->def)
      visit(n->in[i].buf->def, order, k);
  order[(*k)++] = n;
}

/* Runs just before its first use: packs, and what needs no other node. */
static bool is_lazy(const Node *n) {
  bool lazy = true;
  for (int r = 0; r < n->nout; r++)
    lazy &= !n->out[r].buf->written && n->out[r].buf->nuser > 0;
  for (int i = 0; i < n->nin && n->kind != NODE_PACK; i++)
    lazy &= !n->in[i].buf->def;
  return lazy;
}

int graph_schedule(Fuse *F, Node **order) {
  Node **by_seq = F->heap;
  int n = 0, k = 0;
  for (int i = 0; i < F->nnode; i++) {
    F->node[i]->visited = false;
    if (!F->node[i]->dead)
      heap_push(by_seq, &n, F->node[i]);
  }
  while (n) {
    Node *x = heap_pop(by_seq, &n);
    if (!is_lazy(x))
      visit(x, order, &k);
  }
  return k;
}

/* Is there a way from p to c through another node? Positions bound the search. The operand nearest
 * to p comes first: where there is a way, the longest leaps find it in a few steps, else a search
 * from backward would walk through all layers between. */
static bool way(const Node *p, const Node *c, bool direct, int stamp) {
  for (;;) {
    Node *next = NULL;
    for (int k = 0; k < c->nin; k++) {
      Node *x = c->in[k].buf->def;
      if (!x || x->pos < p->pos || x->mark == stamp)
        continue;
      if (x != p)
        next = next && next->pos <= x->pos ? next : x;
      else if (!direct)
        return true;
    }
    if (!next)
      return false;
    next->mark = stamp;
    if (way(p, next, false, stamp))
      return true;
  }
}

bool graph_reaches(Fuse *F, const Node *p, const Node *c, bool direct) {
  /* Most of p's results have no reader before c: no way, without walking there. */
  bool any = false;
  for (int r = 0; r < p->nout && !any; r++)
    for (int u = 0; u < p->out[r].buf->nuser && !any; u++) {
      const Node *x = p->out[r].buf->user[u];
      any = x == c ? !direct : !x->dead && x->pos < c->pos;
    }
  if (!any)
    return false;
  return way(p, c, direct, ++F->stamp);
}
