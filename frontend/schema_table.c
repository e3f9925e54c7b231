/* The rows of schema.def, and where to find one: deep models ask for tens of thousands. */
#include "frontend/frontend.h"

static const SchemaRow rows[] = {
#define KEY(section, key, type, arg, otherwise, range, doc)                                        \
  {section, key, KT_##type, arg, otherwise, range, doc},
#include "frontend/schema.def"
#undef KEY
};
enum { NROWS = sizeof rows / sizeof *rows, BUCKETS = 1024 };
_Static_assert(NROWS < BUCKETS, "rows of a bucket are few");

/* Chains of rows, as row number + 1; 0 ends one. */
struct SchemaIndex {
  int16_t by_key[BUCKETS], same_key[NROWS];
  int16_t by_section[BUCKETS], same_section[NROWS]; /* of the first row; of the next, in order */
  Yaml *otherwise[NROWS];                           /* parsed once */
};

const SchemaRow *schema_rows(int *n) {
  *n = NROWS;
  return rows;
}

static uint32_t mix_text(uint32_t h, const char *s) {
  while (*s)
    h = (h ^ (unsigned char)*s++) * UINT32_C(0x01000193);
  return h;
}

static int section_bucket(const char *section) {
  uint32_t h = mix_text(UINT32_C(0x811C9DC5), section);
  return (int)((h ^ h >> 15) % BUCKETS);
}

static int key_bucket(const char *section, const char *key) {
  uint32_t h = mix_text(mix_text(UINT32_C(0x811C9DC5), section) ^ 0xFF, key);
  return (int)((h ^ h >> 15) % BUCKETS);
}

SchemaIndex *schema_index(Arena *a) {
  SchemaIndex *x = ARENA_NEW(a, SchemaIndex);
  int16_t last[BUCKETS] = {0}; /* row of each section's chain that was added last */
  if (arena_failed(a))
    return NULL;
  for (int i = 0; i < NROWS; i++) {
    int16_t *key = &x->by_key[key_bucket(rows[i].section, rows[i].key)];
    x->same_key[i] = *key;
    *key = (int16_t)(i + 1);
    int b = section_bucket(rows[i].section);
    *(last[b] ? &x->same_section[last[b] - 1] : &x->by_section[b]) = (int16_t)(i + 1);
    last[b] = (int16_t)(i + 1);
  }
  return x;
}

const SchemaRow *schema_find(const SchemaIndex *x, const char *section, const char *key) {
  if (!x) {
    for (int i = 0; i < NROWS; i++)
      if (!strcmp(rows[i].section, section) && !strcmp(rows[i].key, key))
        return &rows[i];
    return NULL;
  }
  for (int i = x->by_key[key_bucket(section, key)]; i; i = x->same_key[i - 1])
    if (!strcmp(rows[i - 1].key, key) && !strcmp(rows[i - 1].section, section))
      return &rows[i - 1];
  return NULL;
}

/* The next row of `section` in the chain that goes on at row number i - 1; 0: none. */
static int skip_others(const SchemaIndex *x, const char *section, int i) {
  while (i && strcmp(rows[i - 1].section, section))
    i = x->same_section[i - 1];
  return i;
}

const SchemaRow *schema_next(const SchemaIndex *x, const char *section, const SchemaRow *after) {
  if (!x) {
    for (const SchemaRow *r = after ? after + 1 : rows; r < rows + NROWS; r++)
      if (!strcmp(r->section, section))
        return r;
    return NULL;
  }
  int i = skip_others(
      x, section, after ? x->same_section[after - rows] : x->by_section[section_bucket(section)]);
  return i ? &rows[i - 1] : NULL;
}

Yaml *schema_otherwise(const Check *c, const SchemaRow *row) {
  Yaml *y = c->rows ? c->rows->otherwise[row - rows] : NULL;
  if (!y && yaml_parse_at(c->a, c->s, c->d, (Loc){0}, row->otherwise, strlen(row->otherwise), &y) !=
                MPCC_OK)
    return NULL;
  if (arena_failed(c->a)) /* names of sections may be lost, defaults of defaults without an end */
    return NULL;
  if (c->rows)
    c->rows->otherwise[row - rows] = y;
  return y;
}
