/* Interned tensor types: number format and logical shape. */
#include "ir/ir.h"

#include <assert.h>
#include <string.h>

typedef struct TypeNode {
  Type type;
  uint64_t hash;
  struct TypeNode *next;
} TypeNode;

enum { BUCKETS = 256 };

struct TypeTable {
  Arena *arena;
  TypeNode *bucket[BUCKETS];
};

TypeTable *type_table_create(Arena *a) {
  TypeTable *t = ARENA_NEW(a, TypeTable);
  t->arena = a;
  return t;
}

const Type *type_get(TypeTable *t, DType dt, int rank, const int64_t *dim) {
  assert(rank >= 0 && rank <= MAX_RANK);
  Type ty = {.dt = dt, .rank = rank};
  uint64_t hash = ((uint64_t)dt * 31 + (uint64_t)rank) * UINT64_C(0x9E3779B97F4A7C15);
  for (int i = 0; i < rank; i++) {
    ty.dim[i] = dim[i];
    hash = (hash ^ (uint64_t)dim[i]) * UINT64_C(0x9E3779B97F4A7C15);
  }
  TypeNode **head = &t->bucket[hash >> 40 & (BUCKETS - 1)];
  /* A failed table may share scratch memory with others: only add, never walk it. */
  if (!arena_failed(t->arena))
    for (TypeNode *n = *head; n; n = n->next)
      if (n->hash == hash && n->type.dt == dt && type_same_shape(&n->type, &ty))
        return &n->type;
  TypeNode *n = ARENA_NEW(t->arena, TypeNode);
  n->type = ty;
  n->hash = hash;
  if (!arena_failed(t->arena)) {
    n->next = *head;
    *head = n;
  }
  return &n->type;
}

const Type *type_with_dtype(TypeTable *t, const Type *ty, DType dt) {
  return type_get(t, dt, ty->rank, ty->dim);
}

int64_t type_elems(const Type *ty) {
  int64_t n = 1;
  for (int i = 0; i < ty->rank; i++)
    n *= ty->dim[i];
  return n;
}

int64_t type_bytes(const Type *ty) {
  return type_elems(ty) * (int64_t)dtype_bytes(ty->dt);
}

bool type_same_shape(const Type *a, const Type *b) {
  return a->rank == b->rank && !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof a->dim[0]);
}

bool type_broadcast(const Type *a, const Type *b, int *rank, int64_t dim[MAX_RANK]) {
  *rank = a->rank > b->rank ? a->rank : b->rank;
  for (int i = 1; i <= *rank; i++) { /* from the last dimension on */
    int64_t x = i <= a->rank ? a->dim[a->rank - i] : 1;
    int64_t y = i <= b->rank ? b->dim[b->rank - i] : 1;
    if (x != y && x != 1 && y != 1)
      return false;
    dim[*rank - i] = x == 1 ? y : x;
  }
  return true;
}

void type_print(const Type *ty, Text *out) {
  text_puts(out, dtype_text(ty->dt));
  text_puts(out, "[");
  for (int i = 0; i < ty->rank; i++) {
    text_puts(out, i ? "," : "");
    text_int(out, ty->dim[i]);
  }
  text_puts(out, "]");
}
