/* Sink of diagnostics, and the house style in which they are shown (docs: errors). */
#include "ir/ir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct {
  const char *name, *text;
  size_t len;
} SourceFile;

typedef struct Ignored {
  Str warning;
  bool ignore;
  struct Ignored *next;
} Ignored;

enum { DEFAULT_MAX_ERRORS = 20 };

struct Diag {
  Arena *arena;
  StrTable *strings;
  SourceFile *file; /* file[i] is index i + 1 */
  uint32_t nfile, file_cap;
  DiagMessage *first, **tail, *newest; /* newest: NULL when the newest message was not kept */
  Ignored *ignored;
  bool werror;
  int max_errors, nerror, nwarning;
};

Diag *diag_create(Arena *a, StrTable *strings) {
  Diag *d = ARENA_NEW(a, Diag);
  d->arena = a;
  d->strings = strings;
  d->tail = &d->first;
  d->max_errors = DEFAULT_MAX_ERRORS;
  return d;
}

uint32_t diag_file(Diag *d, const char *name, const char *text, size_t len) {
  if (d->nfile == d->file_cap) {
    uint32_t cap = d->file_cap ? d->file_cap * 2 : 4;
    SourceFile *file = ARENA_ARRAY(d->arena, SourceFile, cap);
    if (d->nfile)
      memcpy(file, d->file, d->nfile * sizeof *file);
    d->file = file;
    d->file_cap = cap;
  }
  char *copy = ARENA_ARRAY(d->arena, char, len + 1);
  Str shown = str_c(d->strings, name);
  if (arena_failed(d->arena))
    return 0;
  memcpy(copy, text, len);
  d->file[d->nfile++] = (SourceFile){shown, copy, len};
  return d->nfile;
}

const char *diag_file_name(const Diag *d, uint32_t file) {
  return file && file <= d->nfile ? d->file[file - 1].name : NULL;
}

/* Appends m unless memory is short; then the counts alone remember it. */
static void append(Diag *d, DiagMessage m) {
  d->newest = NULL;
  DiagMessage *copy = ARENA_NEW(d->arena, DiagMessage);
  if (arena_failed(d->arena))
    return;
  *copy = m;
  *d->tail = copy;
  d->tail = &copy->next;
  d->newest = copy;
}

/* Counts one error; false when the limit is passed and the message is not to be kept. */
static bool count_error(Diag *d) {
  d->nerror++;
  if (!d->max_errors || d->nerror <= d->max_errors)
    return true;
  if (d->nerror == d->max_errors + 1)
    append(d, (DiagMessage){.severity = SEV_NOTE,
                            .text = str_fmt(d->strings,
                                            "more than %d errors; the rest is not shown "
                                            "(-fmax-errors=0 shows all)",
                                            d->max_errors)});
  d->newest = NULL;
  return false;
}

enum { MAX_TEXT_BYTES = 600 };

/* Words of a message. They may quote the input: what is very long is cut, control characters, which
 * a terminal would obey, become '?'. */
static Str words(Diag *d, const char *fmt, va_list ap) {
  char text[MAX_TEXT_BYTES + 4];
  int n = vsnprintf(text, MAX_TEXT_BYTES, fmt, ap);
  if (n < 0)
    return str_c(d->strings, fmt);
  if (n >= MAX_TEXT_BYTES) {
    n = MAX_TEXT_BYTES - 1;
    while (n > 0 && ((unsigned char)text[n - 1] & 0xC0) == 0x80)
      n--; /* not in the middle of a code point */
    if (n > 0 && (unsigned char)text[n - 1] >= 0xC0)
      n--;
    strcpy(text + n, "...");
  }
  for (char *p = text; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 127)
      *p = '?';
  return str_c(d->strings, text);
}

void diag_error(Diag *d, Loc loc, int code, const char *fmt, ...) {
  if (!count_error(d))
    return;
  va_list ap;
  va_start(ap, fmt);
  append(d,
         (DiagMessage){.severity = SEV_ERROR, .code = code, .loc = loc, .text = words(d, fmt, ap)});
  va_end(ap);
}

void diag_remark(Diag *d, Loc loc, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  append(d, (DiagMessage){.severity = SEV_NOTE, .loc = loc, .text = words(d, fmt, ap)});
  va_end(ap);
}

/* The same words at the same place: a layer may be looked at more than once. */
static bool is_said(const Diag *d, Loc loc, Str text) {
  for (const DiagMessage *m = d->first; m; m = m->next)
    if (m->text == text && !memcmp(&m->loc, &loc, sizeof loc))
      return true;
  return false;
}

static bool is_ignored(const Diag *d, const char *warning) {
  for (const Ignored *i = d->ignored; i; i = i->next)
    if (!strcmp(i->warning, warning))
      return i->ignore;
  return false;
}

bool diag_warned(const Diag *d, Loc loc, const char *warning) {
  for (const DiagMessage *m = d->first; m; m = m->next)
    if (m->warning && !strcmp(m->warning, warning) && !memcmp(&m->loc, &loc, sizeof loc))
      return true;
  return false;
}

void diag_warning(Diag *d, Loc loc, const char *warning, const char *fmt, ...) {
  d->newest = NULL;
  if (is_ignored(d, warning))
    return;
  va_list ap;
  va_start(ap, fmt);
  Str text = words(d, fmt, ap);
  va_end(ap);
  if (is_said(d, loc, text))
    return;
  if (!d->werror)
    d->nwarning++;
  else if (!count_error(d))
    return;
  append(d, (DiagMessage){.severity = d->werror ? SEV_ERROR : SEV_WARNING,
                          .warning = str_c(d->strings, warning),
                          .loc = loc,
                          .text = text});
}

void diag_hint(Diag *d, const char *fmt, ...) {
  if (!d->newest)
    return;
  va_list ap;
  va_start(ap, fmt);
  d->newest->hint = words(d, fmt, ap);
  va_end(ap);
}

void diag_note(Diag *d, Loc loc, const char *fmt, ...) {
  if (!d->newest)
    return;
  va_list ap;
  va_start(ap, fmt);
  Str text = words(d, fmt, ap);
  va_end(ap);
  DiagNote *note = ARENA_NEW(d->arena, DiagNote);
  if (arena_failed(d->arena))
    return;
  *note = (DiagNote){.loc = loc, .text = text};
  DiagNote **tail = &d->newest->notes;
  while (*tail)
    tail = &(*tail)->next;
  *tail = note;
}

static void add_note(Diag *d, DiagMessage *m, Loc loc, Str text) {
  DiagNote **tail = &m->notes;
  for (; *tail; tail = &(*tail)->next)
    if ((*tail)->text == text && !memcmp(&(*tail)->loc, &loc, sizeof loc))
      return;
  DiagNote *note = ARENA_NEW(d->arena, DiagNote);
  if (arena_failed(d->arena))
    return;
  *note = (DiagNote){.loc = loc, .text = text};
  *tail = note;
}

void diag_note_file(Diag *d, uint32_t file, Loc loc, const char *text) {
  Str said = str_c(d->strings, text);
  for (DiagMessage *m = d->first; m; m = m->next)
    if (m->loc.file == file)
      add_note(d, m, loc, said);
}

void diag_option_ignore(Diag *d, const char *warning, bool ignore) {
  Ignored *i = ARENA_NEW(d->arena, Ignored);
  Str name = str_c(d->strings, warning);
  if (arena_failed(d->arena))
    return;
  *i = (Ignored){name, ignore, d->ignored};
  d->ignored = i;
}

void diag_option_werror(Diag *d, bool on) {
  d->werror = on;
}

void diag_option_max_errors(Diag *d, int n) {
  d->max_errors = n;
}

int diag_errors(const Diag *d) {
  return d->nerror;
}

int diag_warnings(const Diag *d) {
  return d->nwarning;
}

const DiagMessage *diag_first(const Diag *d) {
  return d->first;
}

/* ---- rendering ------------------------------------------------------------------------------- */

#define BOLD "\033[1m"
#define PLAIN "\033[0m"

static const char *const severity_name[] = {"note", "warning", "error"};
static const char *const severity_colour[] = {"\033[1;36m", "\033[1;35m", "\033[1;31m"};

static void render_head(const Diag *d, Loc loc, Severity s, bool colour, Text *out) {
  const char *name = diag_file_name(d, loc.file);
  if (colour)
    text_puts(out, BOLD);
  if (name && loc.line)
    text_printf(out, "%s:%u:%u: ", name, loc.line, loc.col);
  else if (name)
    text_printf(out, "%s: ", name);
  if (colour)
    text_printf(out, PLAIN "%s", severity_colour[s]);
  text_printf(out, "%s: ", severity_name[s]);
  if (colour)
    text_puts(out, PLAIN);
}

/* Line `line` (from 1) of the file, without its end; NULL when there is none. */
static const char *source_line(const Diag *d, Loc loc, size_t *len) {
  if (!loc.file || loc.file > d->nfile || !loc.line)
    return NULL;
  const SourceFile *f = &d->file[loc.file - 1];
  const char *p = f->text, *end = f->text + f->len;
  for (uint32_t line = 1; line < loc.line; line++) {
    p = memchr(p, '\n', (size_t)(end - p));
    if (!p)
      return NULL;
    p++;
  }
  const char *stop = memchr(p, '\n', (size_t)(end - p));
  *len = (size_t)((stop ? stop : end) - p);
  if (*len && p[*len - 1] == '\r')
    --*len;
  return p;
}

/* Columns count code points: bytes that continue one take no column. */
static bool continues(char c) {
  return ((unsigned char)c & 0xC0) == 0x80;
}

/* What of a line is shown: of a long one a window of whole code points around the place. */
typedef struct {
  size_t begin, end, at; /* bytes; at: the place */
} Window;

enum { MAX_BEFORE = 100, MAX_BEHIND = 120 };

static Window window_of(const char *line, size_t len, uint32_t col) {
  Window w = {.end = len};
  for (uint32_t c = 1; c < col && w.at < len; c++)
    for (w.at++; w.at < len && continues(line[w.at]); w.at++)
      ;
  if (w.at > MAX_BEFORE + 20)
    for (w.begin = w.at - MAX_BEFORE; w.begin < w.at && continues(line[w.begin]); w.begin++)
      ;
  if (len - w.at > MAX_BEHIND + 20)
    for (w.end = w.at + MAX_BEHIND; w.end > w.at && continues(line[w.end]); w.end--)
      ;
  return w;
}

static void render_caret(const char *line, size_t len, Loc loc, const char *hint, const char *paint,
                         Text *out) {
  Window w = window_of(line, len, loc.col);
  const char *cut = w.begin ? "... " : "";
  text_printf(out, "%5u | %s", loc.line, cut);
  /* Control characters other than tabs would move the cursor, not the caret. */
  for (size_t i = w.begin; i < w.end; i++)
    text_put(out, (unsigned char)line[i] < ' ' && line[i] != '\t' ? "?" : &line[i], 1);
  text_printf(out, "%s\n      | %*s", w.end < len ? " ..." : "", (int)strlen(cut), "");
  for (size_t i = w.begin; i < w.at; i++)
    if (!continues(line[i]))
      text_puts(out, line[i] == '\t' ? "\t" : " ");
  if (paint)
    text_puts(out, paint);
  text_puts(out, "^");
  uint32_t length = 1;
  for (size_t i = w.at + 1; i < w.end && length < loc.len; i++)
    if (!continues(line[i])) {
      text_puts(out, "~");
      length++;
    }
  if (paint)
    text_puts(out, PLAIN);
  if (hint)
    text_printf(out, " %s", hint);
  text_puts(out, "\n");
}

void diag_render(const Diag *d, const DiagMessage *m, bool colour, Text *out) {
  render_head(d, m->loc, m->severity, colour, out);
  if (colour)
    text_printf(out, BOLD "%s" PLAIN, m->text);
  else
    text_puts(out, m->text);
  if (m->warning)
    text_printf(out, " [-W%s%s]", m->severity == SEV_ERROR ? "error=" : "", m->warning);
  else if (m->code)
    text_printf(out, " [MPC%04d]", m->code);
  text_puts(out, "\n");
  size_t len = 0;
  const char *line = source_line(d, m->loc, &len);
  if (line)
    render_caret(line, len, m->loc, m->hint, colour ? severity_colour[m->severity] : NULL, out);
  for (const DiagNote *n = m->notes; n; n = n->next) {
    render_head(d, n->loc, SEV_NOTE, colour, out);
    text_printf(out, "%s\n", n->text);
  }
  if (!line && m->hint)
    text_printf(out, "help: %s\n", m->hint);
}

static void json_place(const Diag *d, Loc loc, Text *out) {
  const char *name = diag_file_name(d, loc.file);
  if (!name)
    return;
  text_puts(out, ", \"file\": ");
  text_json(out, name);
  if (loc.line)
    text_printf(out, ", \"line\": %u, \"column\": %u, \"length\": %u", loc.line, loc.col, loc.len);
}

void diag_render_json(const Diag *d, const DiagMessage *m, Text *out) {
  text_printf(out, "{\"severity\": \"%s\"", severity_name[m->severity]);
  if (m->code)
    text_printf(out, ", \"code\": \"MPC%04d\"", m->code);
  if (m->warning) {
    text_puts(out, ", \"warning\": ");
    text_json(out, m->warning);
  }
  json_place(d, m->loc, out);
  text_puts(out, ", \"message\": ");
  text_json(out, m->text);
  if (m->hint) {
    text_puts(out, ", \"hint\": ");
    text_json(out, m->hint);
  }
  if (m->notes) {
    text_puts(out, ", \"notes\": [");
    for (const DiagNote *n = m->notes; n; n = n->next) {
      text_puts(out, "{\"message\": ");
      text_json(out, n->text);
      json_place(d, n->loc, out);
      text_puts(out, n->next ? "}, " : "}");
    }
    text_puts(out, "]");
  }
  text_puts(out, "}");
}

/* ---- suggestions ----------------------------------------------------------------------------- */

enum { MAX_WORD = 64 };

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Edit distance with insertions, deletions, changes and swaps of neighbours each 1 (optimal string
 * alignment), letters' case ignored. */
static int edit_distance(const char *a, size_t na, const char *b, size_t nb) {
  int rows[3][MAX_WORD + 1];
  int *before = rows[0], *last = rows[1], *now = rows[2];
  for (size_t j = 0; j <= nb; j++)
    last[j] = (int)j;
  for (size_t i = 1; i <= na; i++) {
    now[0] = (int)i;
    for (size_t j = 1; j <= nb; j++) {
      int best = last[j - 1] + (lower(a[i - 1]) != lower(b[j - 1]));
      if (last[j] + 1 < best)
        best = last[j] + 1;
      if (now[j - 1] + 1 < best)
        best = now[j - 1] + 1;
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
          lower(a[i - 2]) == lower(b[j - 1]) && before[j - 2] + 1 < best)
        best = before[j - 2] + 1;
      now[j] = best;
    }
    int *free_row = before;
    before = last;
    last = now;
    now = free_row;
  }
  return last[nb];
}

const char *diag_suggest(const char *word, const char *const *names, size_t n) {
  size_t len = strlen(word);
  if (!len || len > MAX_WORD)
    return NULL;
  /* A third of the word may differ; in short words one letter. */
  int best = len < 3 ? 1 : (int)(len + 2) / 3;
  const char *found = NULL;
  for (size_t i = 0; i < n; i++) {
    size_t other = strlen(names[i]);
    if (other > MAX_WORD)
      continue;
    int distance = edit_distance(word, len, names[i], other);
    if (distance < best || (distance == best && !found)) {
      best = distance;
      found = names[i];
    }
  }
  for (size_t i = 0; i < n && !found && len > 1; i++)
    if (!strncasecmp(word, names[i], len))
      found = names[i]; /* what its beginning may stand for: F1 */
  for (size_t i = 0; i < n && !found && len > 2; i++) {
    size_t other = strlen(names[i]);
    if (other > len + 1 && names[i][other - len - 1] == '_' &&
        !strcasecmp(word, names[i] + other - len))
      found = names[i]; /* its last word: epochs for max_epochs */
  }
  return found;
}
