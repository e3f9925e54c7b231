/* The run folder: where it is, that one run alone writes into it, what an earlier run left there, and
 * the files that are written once. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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

/* Folder the options or the spec name; NULL: one below runs/NAME. */
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

/* A file system without locks does without. */
static Status lock_folder(mprt_program *p, const char *dir, int *lock) {
  *lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*lock < 0 || flock(*lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
    return MPCC_OK;
  close(*lock);
  *lock = -1;
  return mprt__fail(&p->cb, MPCC_ERR_FILE,
                    "another run is writing into %s: wait for its end, or give this one a folder of "
                    "its own with --out",
                    dir);
}

/* ---- what an earlier run left ---- */

typedef struct {
  char **name; /* of checkpoints of later steps, owned */
  size_t n;
  int64_t last; /* the largest step */
} Later;

static Status find_later(mprt_program *p, const char *folder, int64_t step, Later *found) {
  Status st = MPCC_OK;
  DIR *d = opendir(folder);
  for (struct dirent *e; st == MPCC_OK && d && (e = readdir(d)) != NULL;) {
    int64_t at = mprt__checkpoint_step(e->d_name);
    char *path = at > step ? mprt__format("%s/%s", folder, e->d_name) : NULL;
    bool whole = path && mprt__checkpoint_complete(path); /* others are written anew */
    free(path);
    if (!whole)
      continue;
    char **grown = realloc(found->name, (found->n + 1) * sizeof *grown);
    char *copy = strdup(e->d_name);
    found->name = grown ? grown : found->name;
    if (grown && copy)
      found->name[found->n++] = copy;
    else
      free(copy);
    st = grown && copy ? MPCC_OK : mprt__nomem(&p->cb, folder);
    found->last = at > found->last ? at : found->last;
  }
  if (d)
    closedir(d);
  return st;
}

static Status move_into(mprt_program *p, const char *from, const char *to, const char *name) {
  char *a = mprt__format("%s/%s", from, name), *b = mprt__format("%s/%s", to, name);
  Status st = a && b ? MPCC_OK : mprt__nomem(&p->cb, name);
  if (st == MPCC_OK && rename(a, b) != 0 && errno != ENOENT)
    st = mprt__fail(&p->cb, MPCC_ERR_FILE, "cannot move %s to %s: %s", a, b, strerror(errno));
  free(a);
  free(b);
  return st;
}

static void drop_dangling(const char *folder, const char *link) {
  char *path = mprt__format("%s/%s", folder, link);
  if (path && access(path, F_OK) != 0)
    (void)unlink(path);
  free(path);
}

/* The first of dir/earlier-1, -2, ... that is not there; malloc'ed. */
static char *earlier_folder(const char *dir) {
  for (int i = 1; i < 100000; i++) {
    char *path = mprt__format("%s/earlier-%d", dir, i);
    if (!path || access(path, F_OK) != 0)
      return path;
    free(path);
  }
  return NULL;
}

/* A run that begins at `step` in a folder that holds checkpoints of later steps: they are of another
 * run, or of what this one does again. Moved to a folder earlier-N, so that a --resume does not take
 * them for its own; with them the metrics of a run that does not go on. */
static Status set_aside(mprt_program *p, const char *dir, int64_t step) {
  static const char *const links[] = {"best", "last"};
  static const char *const metrics[] = {"metrics.jsonl", "metrics.csv"};
  Later later = {0};
  char *folder = mprt__format("%s/checkpoints", dir), *aside = NULL, *to = NULL;
  Status st = folder ? find_later(p, folder, step, &later) : mprt__nomem(&p->cb, dir);
  if (st == MPCC_OK && later.n) {
    aside = earlier_folder(dir);
    to = aside ? mprt__format("%s/checkpoints", aside) : NULL;
    st = to ? mprt__dir_make(to, &p->cb) : mprt__nomem(&p->cb, dir);
  }
  for (size_t i = 0; i < later.n && st == MPCC_OK; i++)
    st = move_into(p, folder, to, later.name[i]);
  for (int i = 0; later.n && i < 2 && st == MPCC_OK; i++) {
    drop_dangling(folder, links[i]);
    if (step == 0)
      st = move_into(p, dir, aside, metrics[i]);
  }
  if (st == MPCC_OK && later.n)
    mprt__log(&p->cb, MPRT_LOG_WARNING,
              "%s has checkpoints of an earlier run up to step %lld: they are in %s now", dir,
              (long long)later.last, aside);
  for (size_t i = 0; i < later.n; i++)
    free(later.name[i]);
  free(later.name);
  free(folder);
  free(aside);
  free(to);
  return st;
}

Status mprt__run_folder(mprt_program *p, int64_t step, char **out, int *lock) {
  const char *named = named_folder(p);
  char *dir = named        ? mprt__format("%s", named)
              : p->run_dir ? mprt__format("%s", p->run_dir)
                           : stamped_folder(p);
  *out = NULL;
  if (!dir)
    return mprt__nomem(&p->cb, "run folder");
  Status st = mprt__dir_make(dir, &p->cb);
  if (st == MPCC_OK)
    st = lock_folder(p, dir, lock);
  if (st == MPCC_OK && mprt__json_int(p->spec, "trainer.fast_dev_run", 0) == 0)
    st = set_aside(p, dir, step);
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

char *mprt__resume_folder(mprt_program *p) {
  const char *named = named_folder(p);
  return named ? strdup(named) : mprt__format("runs/%s", program_name(p));
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
  free(p->run_dir);
  p->run_dir = best_run ? mprt__format("%s/%s", base, best_run) : NULL;
  free(best_run);
  free(base);
  return best;
}
