/* Findings: names, what a device would answer, where they go. */
#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *slug, *text;
  int cuda;
} kinds[FOUND_KINDS] = {
    {"nothing", "nothing", 0},
#define FOUND(id, slug, cuda, text) {slug, text, cuda},
#include "found.def"
#undef FOUND
};

const char *found_slug(Found kind) {
  return kinds[kind].slug;
}

int found_cuda_error(Found kind) {
  return kinds[kind].cuda;
}

bool found_enabled(Found kind) {
  const char *ignore = getenv("EMU_IGNORE");
  if (!ignore)
    return true;
  const size_t n = strlen(kinds[kind].slug);
  for (const char *s = ignore; *s;) {
    const size_t length = strcspn(s, ",");
    if (length == n && memcmp(s, kinds[kind].slug, n) == 0)
      return false;
    s += length + (s[length] == ',');
  }
  return true;
}

void report_print(const Report *r) {
  const char *path = getenv("EMU_REPORT");
  FILE *f = path && *path ? fopen(path, "a") : NULL;
  fputs(r->text, f ? f : stderr);
  if (f)
    fclose(f);
}

typedef struct {
  char *to;
  size_t room;
} Text;

static void add(Text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(Text *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(t->to, t->room, format, args);
  va_end(args);
  const size_t used = n < 0 ? 0 : (size_t)n < t->room ? (size_t)n : t->room - 1;
  t->to += used;
  t->room -= used;
}

static const char *file_name(const Module *m, uint32_t file) {
  const char *path = file < m->n_files && m->files[file] ? m->files[file] : "source";
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/* The line of the emitted source: from $EMU_SOURCES/<file>, where tests keep what they compiled. */
static void add_source_line(Text *t, const char *file, uint32_t line) {
  const char *folder = getenv("EMU_SOURCES");
  char path[1024], text[256];
  if (!folder || snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
    return;
  FILE *f = fopen(path, "r");
  if (!f)
    return;
  while (fgets(text, sizeof text, f)) {
    const bool whole = strchr(text, '\n') != NULL;
    if (line == 1) {
      text[strcspn(text, "\n")] = 0;
      add(t, "  source  %s\n", text + strspn(text, " \t"));
      break;
    }
    line -= whole;
  }
  fclose(f);
}

static void add_place(Text *t, const Module *m, uint32_t loc) {
  const SourceLoc *l = &m->locs[loc];
  if (!loc || !l->line)
    return;
  add(t, "  at      %s:%u", file_name(m, l->file), l->line);
  for (uint32_t p = l->parent; p; p = m->locs[p].parent)
    add(t, ", inlined at %s:%u", file_name(m, m->locs[p].file), m->locs[p].line);
  add(t, "\n");
  add_source_line(t, file_name(m, l->file), l->line);
}

static void describe(Text *t, const Warp *w, int lane) {
  const Launch *l = w->launch;
  add(t, "  kernel  %s\n  block   (%u,%u,%u) of (%u,%u,%u), warp %u", l->kernel->name, l->ctaid[0],
      l->ctaid[1], l->ctaid[2], l->grid[0], l->grid[1], l->grid[2], w->id);
  if (lane >= 0) {
    const uint32_t thread = w->id * LANES + (uint32_t)lane;
    add(t, ", lane %d, thread (%u,%u,%u)", lane, thread % l->block[0],
        thread / l->block[0] % l->block[1], thread / l->block[0] / l->block[1]);
  }
  add(t, "\n");
  if (!w->at)
    return;
  add_place(t, l->kernel->module, w->at->loc);
  size_t n;
  const char *line = ptx_line(l->kernel->module, w->at->line, &n);
  add(t, "  ptx     line %u: ", w->at->line);
  for (size_t i = 0; i < n && i < 200; i++)
    add(t, "%c", line[i] == '\t' ? ' ' : line[i]);
  add(t, "\n");
}

void launch_fail(Warp *w, int lane, Found kind, const char *format, ...) {
  Launch *l = w->launch;
  Report *r = l->report;
  r->kind = kind;
  Text t = {r->text, sizeof r->text};
  add(&t, "emu: %s: %s: ", kinds[kind].slug, kinds[kind].text);
  va_list args;
  va_start(args, format);
  const int n = vsnprintf(t.to, t.room, format, args);
  va_end(args);
  t.to += n > 0 && (size_t)n < t.room ? (size_t)n : 0;
  t.room -= n > 0 && (size_t)n < t.room ? (size_t)n : 0;
  add(&t, "\n");
  describe(&t, w, lane);
  longjmp(l->failed, 1);
}
