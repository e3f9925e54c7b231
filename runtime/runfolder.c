/* The run folder: where it is, and the files that are written once. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "runtime/fit.h"

const char *mprt_spec_text(const mprt_program *p) {
  return mprt__json_string(p->meta, "spec_yaml", "");
}

const char *mprt_spec_text_at(const mprt_program *p, const char *path, const char *otherwise) {
  return mprt__json_string(p->spec, path, otherwise);
}

bool mprt_spec_flag_at(const mprt_program *p, const char *path, bool otherwise) {
  return mprt__json_bool(p->spec, path, otherwise);
}

const char *mprt_plan_text(const mprt_program *p) {
  return mprt__json_string(p->meta, "plan", "");
}

static const char *program_name(const mprt_program *p) {
  return mprt__json_string(p->meta, "name", "program");
}

/* Folder the options or the spec name; NULL: a new one below runs/NAME is to be made. */
static const char *named_folder(const mprt_program *p) {
  if (p->options.out_dir)
    return p->options.out_dir;
  return mprt__json_string(p->spec, "checkpoint.dirpath", NULL);
}

static char *stamped_folder(const mprt_program *p) {
  char stamp[32];
  time_t now = time(NULL);
  struct tm tm;
  strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", gmtime_r(&now, &tm));
  struct stat st;
  for (int i = 0; i < 1000; i++) { /* two runs in one second get two folders */
    char *path = i ? mprt__format("runs/%s/%s-%d", program_name(p), stamp, i)
                   : mprt__format("runs/%s/%s", program_name(p), stamp);
    if (!path || stat(path, &st))
      return path;
    free(path);
  }
  return NULL;
}

static Status write_in(mprt_program *p, const char *dir, const char *name, const char *text) {
  char *path = mprt__format("%s/%s", dir, name);
  Status st = path ? mprt__file_write(path, text, strlen(text), &p->cb) : mprt__nomem(&p->cb, name);
  free(path);
  return st;
}

static Status write_run_json(mprt_program *p, const char *dir) {
  char start[32];
  time_t now = time(NULL);
  struct tm tm;
  strftime(start, sizeof start, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
  json_t *o = json_pack(
      "{s:s, s:s, s:s, s:s, s:s, s:I, s:i}", "name", program_name(p), "mpcc",
      mprt__json_string(p->meta, "mpcc", ""), "precision",
      mprt__json_string(mprt__json_get(p->meta, "attrs"), "mode", ""), "level",
      mprt__string(p, p->chosen->level), "started", start, "seed", (json_int_t)p->seed, "threads",
      mprt__pool_threads(p->pool));
  char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
  Status st = text ? write_in(p, dir, "run.json", text) : mprt__nomem(&p->cb, "run.json");
  free(text);
  json_decref(o);
  return st;
}

Status mprt__run_folder(mprt_program *p, char **out) {
  const char *named = named_folder(p);
  char *dir = named ? mprt__format("%s", named) : stamped_folder(p);
  *out = NULL;
  if (!dir)
    return mprt__nomem(&p->cb, "run folder");
  Status st = mprt__dir_make(dir, &p->cb);
  if (st == MPCC_OK)
    st = write_in(p, dir, "spec.resolved.yaml", mprt_spec_text(p));
  if (st == MPCC_OK)
    st = write_in(p, dir, "plan.txt", mprt_plan_text(p));
  if (st == MPCC_OK)
    st = write_run_json(p, dir);
  if (st != MPCC_OK) {
    free(dir);
    return st;
  }
  *out = dir;
  return MPCC_OK;
}

char *mprt__resume_default(mprt_program *p) {
  const char *named = named_folder(p);
  if (named) {
    char *folder = mprt__format("%s/checkpoints", named);
    char *found = folder ? mprt__checkpoint_newest(folder) : NULL;
    free(folder);
    return found;
  }
  char *base = mprt__format("runs/%s", program_name(p)), *best = NULL, *best_run = NULL;
  DIR *d = base ? opendir(base) : NULL;
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.')
      continue;
    char *folder = mprt__format("%s/%s/checkpoints", base, e->d_name);
    char *found = folder ? mprt__checkpoint_newest(folder) : NULL;
    if (found && (!best_run || strcmp(e->d_name, best_run) > 0)) { /* stamps sort by time */
      free(best);
      free(best_run);
      best = found;
      best_run = mprt__format("%s", e->d_name);
    } else {
      free(found);
    }
    free(folder);
  }
  if (d)
    closedir(d);
  free(best_run);
  free(base);
  return best;
}
