/* Tables of numbers: comma-separated values (RFC 4180), plain or .gz. A field is a column, or
 * several: names separated by newlines, or a pattern, make one vector per row. */
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/arrays.h"

enum { MAX_COLUMNS = 65536, MAX_CELL = 400 };

/* A cursor over one file's text. */
typedef struct {
  const mprt__data_source *s;
  const char *path;
  const uint8_t *at, *end;
  int64_t line; /* from 1 */
  char delimiter;
  char cell[MAX_CELL + 1]; /* the cell just read, unquoted; cut at MAX_CELL */
  bool last;               /* it ended its row */
} Csv;

/* Columns of a field, in order; rows of `width` numbers. */
typedef struct {
  int *column;
  int width;
  double *value;
} Table;

/* Reads a cell. false: a quote is never closed. */
static bool next_cell(Csv *c) {
  size_t n = 0;
  bool quoted = c->at < c->end && *c->at == '"';
  c->at += quoted;
  for (;; c->at++) {
    if (c->at == c->end) {
      c->last = true;
      c->cell[n] = 0;
      return !quoted;
    }
    char ch = (char)*c->at;
    if (quoted && ch == '"') {
      if (c->at + 1 < c->end && c->at[1] == '"')
        c->at++; /* "" is a quote */
      else {
        quoted = false;
        continue;
      }
    } else if (!quoted && (ch == c->delimiter || ch == '\n')) {
      break;
    }
    c->line += ch == '\n';
    if (n < MAX_CELL)
      c->cell[n++] = ch;
  }
  c->last = *c->at++ == '\n';
  if (c->last && n && c->cell[n - 1] == '\r')
    n--;
  c->cell[n] = 0;
  return true;
}

/* Why the text is no number, NULL: it is one. Nothing else that strtod takes (hex, inf, nan), and
 * no number beyond doubles, which would be read as infinite. */
static const char *read_number(char *text, double *out) {
  char *end;
  text += strspn(text, " \t");
  size_t n = strlen(text);
  while (n && strchr(" \t", text[n - 1]))
    text[--n] = 0;
  if (!n)
    return "is empty";
  if (strspn(text, "0123456789+-.eE") != n || !strpbrk(text, "0123456789"))
    return "is not a number";
  *out = strtod(text, &end);
  return *end ? "is not a number" : isinf(*out) ? "is too large a number" : NULL;
}

/* ---- the header row ---- */

static void free_names(char **names, int n) {
  for (int i = 0; i < n; i++)
    free(names[i]);
  free(names);
}

/* Names of the first row, or c0, c1 ... when the file has none. */
static Status read_names(Csv *c, bool header, char ***out, int *n) {
  *out = NULL;
  *n = 0;
  Csv probe = *c;
  Csv *from = header ? c : &probe;
  do {
    if (!next_cell(from))
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s:1: a quote is never closed", c->path);
    if (*n == MAX_COLUMNS)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s: more than %d columns", c->path, MAX_COLUMNS);
    char **q = *n & (*n - 1) ? *out : realloc(*out, (size_t)(*n ? 2 * *n : 1) * sizeof *q);
    if (!q)
      return mprt__nomem(c->s->cb, c->path);
    *out = q;
    q[*n] = header ? strdup(from->cell) : mprt__format("c%d", *n);
    if (!q[*n])
      return mprt__nomem(c->s->cb, c->path);
    ++*n;
  } while (!from->last);
  c->line += header;
  return MPCC_OK;
}

/* Columns that `want` names. */
static Status find_columns(const Csv *c, const char *want, char *const *names, int n, Table *t) {
  t->column = malloc((size_t)(n + 1) * sizeof *t->column);
  if (!t->column)
    return mprt__nomem(c->s->cb, c->path);
  for (const char *p = want; p;) { /* an empty name is a name */
    char one[200];
    size_t len = strcspn(p, "\n");
    snprintf(one, sizeof one, "%.*s", (int)len, p);
    int before = t->width;
    for (int i = 0; i < n && t->width <= n; i++)
      if (!strcmp(names[i], one) || !fnmatch(one, names[i], 0))
        t->column[t->width++] = i;
    if (t->width == before)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA,
                        "%s: has no column '%s'; its first row begins '%s'%s%s", c->path, one,
                        names[0], n > 1 ? ", " : "", n > 1 ? names[1] : "");
    if (t->width > n)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s: '%s' names a column twice", c->path, one);
    p = p[len] ? p + len + 1 : NULL;
  }
  return MPCC_OK;
}

/* ---- rows ---- */

typedef struct {
  int ntable, ncolumn;
  Table *table;
  int *use;     /* per column: 1 if some table has it */
  double *row;  /* values of the row */
  char bad[64]; /* the cell that is complained about */
  int64_t count, room;
} Rows;

/* Reads one row into r->row. Returns a complaint about it, or NULL; *column: where, -1 the number
 * of cells, -2 the row as a whole. */
static const char *read_row(Csv *c, Rows *r, int *column) {
  const char *why = NULL;
  int i = 0;
  *r->bad = 0;
  do {
    if (!next_cell(c))
      return *column = -2, "a quote is never closed";
    if (i < r->ncolumn && r->use[i] && !why && (why = read_number(c->cell, &r->row[i]))) {
      snprintf(r->bad, sizeof r->bad, "%.60s", c->cell);
      *column = i;
    }
    i++;
  } while (!c->last);
  if (i != r->ncolumn)
    return *column = -1, i < r->ncolumn ? "too few cells" : "too many cells";
  return why;
}

static bool keep_row(Rows *r) {
  if (r->count == r->room) {
    r->room = r->room ? 2 * r->room : 256;
    for (int t = 0; t < r->ntable; t++) {
      double *q =
          realloc(r->table[t].value, (size_t)r->room * (size_t)r->table[t].width * sizeof *q);
      if (!q)
        return false;
      r->table[t].value = q;
    }
  }
  for (int t = 0; t < r->ntable; t++)
    for (int k = 0; k < r->table[t].width; k++)
      r->table[t].value[r->count * r->table[t].width + k] = r->row[r->table[t].column[k]];
  r->count++;
  return true;
}

static Status read_rows(Csv *c, Rows *r, char *const *names, int64_t *skipped) {
  while (c->at < c->end) {
    if (*c->at == '\n' || (*c->at == '\r' && c->at + 1 < c->end && c->at[1] == '\n')) {
      c->at += 1 + (*c->at == '\r'); /* an empty line is no row */
      c->line++;
      continue;
    }
    int64_t line = c->line;
    int column;
    const char *why = read_row(c, r, &column);
    c->line++;
    if (why && c->s->skip_corrupt) {
      ++*skipped;
      continue;
    }
    if (why && column >= 0)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s:%lld: column '%s' %s%s%s%s", c->path,
                        (long long)line, names[column], why, *r->bad ? ": '" : "", r->bad,
                        *r->bad ? "'" : "");
    if (why && column == -2)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s:%lld: %s", c->path, (long long)line, why);
    if (why)
      return mprt__fail(c->s->cb, MPCC_ERR_DATA, "%s:%lld: %s, expected %d", c->path,
                        (long long)line, why, r->ncolumn);
    if (!keep_row(r))
      return mprt__nomem(c->s->cb, c->path);
  }
  return MPCC_OK;
}

/* ---- files ---- */

static void free_rows(Rows *r) {
  for (int t = 0; r->table && t < r->ntable; t++) {
    free(r->table[t].column);
    free(r->table[t].value);
  }
  free(r->table);
  free(r->use);
  free(r->row);
}

/* The rows of the file become pieces of the fields. */
static Status add_rows(mprt__arrays *a, const mprt__data_source *s, Rows *r, const char *path,
                       const char *const *want) {
  Status st = MPCC_OK;
  for (int t = 0; st == MPCC_OK && t < r->ntable; t++) {
    Table *x = &r->table[t];
    int64_t dim[1] = {x->width};
    int rank = x->width > 1 || strpbrk(want[t], "\n*?[");
    int f = mprt__arrays_find(a, want[t]);
    if (f < 0)
      f = mprt__arrays_field(a, want[t], MPRT__STORE_F64, rank, dim);
    if (f < 0)
      return mprt__nomem(s->cb, "data set");
    a->base.field[f].columns = rank > 0;
    if (a->base.field[f].elems != x->width)
      return mprt__fail(s->cb, MPCC_ERR_DATA, "%s: has %d columns where the file before has %lld",
                        path, x->width, (long long)a->base.field[f].elems);
    if (!r->count) /* a header alone: the fields are there, samples may be in other files */
      continue;
    st = mprt__arrays_block(a, (uint8_t *)x->value, (mprt__file){.fd = -1}, s->cb);
    x->value = NULL;
    if (st == MPCC_OK)
      st = mprt__arrays_piece(a, f, 0, (uint64_t)x->width * sizeof(double), r->count, s->cb);
  }
  return st;
}

static Status add_text(mprt__arrays *a, const mprt__data_source *s, Csv *c) {
  char **names;
  int n;
  int64_t skipped = 0;
  Status st = read_names(c, mprt__json_bool(s->config, "header", true), &names, &n);
  Rows r = {.ntable = s->want                ? s->nwant
                      : n < MPRT__MAX_FIELDS ? n
                                             : MPRT__MAX_FIELDS,
            .ncolumn = n};
  const char *const *want = s->want ? s->want : (const char *const *)names;
  r.table = calloc((size_t)r.ntable + 1, sizeof *r.table);
  r.use = calloc((size_t)n + 1, sizeof *r.use);
  r.row = calloc((size_t)n + 1, sizeof *r.row);
  if (st == MPCC_OK && (!r.table || !r.use || !r.row))
    st = mprt__nomem(s->cb, c->path);
  for (int t = 0; st == MPCC_OK && t < r.ntable; t++) {
    st = find_columns(c, want[t], names, n, &r.table[t]);
    for (int k = 0; st == MPCC_OK && k < r.table[t].width; k++)
      r.use[r.table[t].column[k]] = 1;
  }
  if (st == MPCC_OK)
    st = read_rows(c, &r, names, &skipped);
  if (st == MPCC_OK && skipped)
    mprt__log(s->cb, MPRT_LOG_WARNING, "data.%s: %s: %lld of %lld rows are corrupt and skipped",
              s->split, c->path, (long long)skipped, (long long)(skipped + r.count));
  if (st == MPCC_OK)
    st = add_rows(a, s, &r, c->path, want);
  free_rows(&r);
  free_names(names, n);
  return st;
}

static Status add_file(mprt__arrays *a, const mprt__data_source *s, const char *path) {
  uint8_t *data;
  size_t bytes;
  const char *delimiter = mprt__json_string(s->config, "delimiter", ",");
  if (strlen(delimiter) != 1 || strchr("\"\r\n", *delimiter))
    return mprt__fail(s->cb, MPCC_ERR_DATA, "data.%s: 'delimiter' takes one character, not '%s'",
                      s->split, delimiter);
  Status st = mprt__file_whole(path, s->cb, &data, &bytes);
  if (st != MPCC_OK)
    return st;
  bool mark = bytes >= 3 && !memcmp(data, "\xef\xbb\xbf", 3); /* UTF-8's byte order mark */
  Csv c = {.s = s,
           .path = path,
           .at = data + (mark ? 3 : 0),
           .end = data + bytes,
           .line = 1,
           .delimiter = *delimiter};
  if (c.at == c.end)
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s: is empty", path);
  else if (memchr(data, 0, bytes))
    st = mprt__fail(s->cb, MPCC_ERR_DATA, "%s: not a text file: it has a zero byte", path);
  else
    st = add_text(a, s, &c);
  free(data);
  return st;
}

Status mprt__csv_open(const mprt__data_source *s, mprt__dataset **out) {
  return mprt__arrays_open(s, add_file, out);
}
