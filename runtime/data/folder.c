/* Folders of JPEG and PNG images, one folder per class, as torchvision's ImageFolder reads them:
 * classes in the order of their names, images by folder and name, all of three colours. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "runtime/data/data.h"

enum { MAX_DEPTH = 32, MAX_FILE = 1 << 30 };

typedef struct {
  char *folder, *name;
  int32_t label;
} Entry;

typedef struct {
  mprt__dataset base;
  mprt_decode_fn *decode;
  int64_t room;
  Entry *entry;
} Folder;

static void folder_destroy(mprt__dataset *d) {
  Folder *x = (Folder *)d;
  for (int64_t i = 0; i < d->nsample; i++) {
    free(x->entry[i].folder);
    free(x->entry[i].name);
  }
  free(x->entry);
  free(x);
}

static void tell(mprt__reader *r, const Entry *e, Status st, bool corrupt, const char *why) {
  r->error = st;
  r->corrupt = corrupt;
  snprintf(r->message, sizeof r->message, "cannot read %s/%s: %s", e->folder, e->name, why);
}

/* The file's bytes in r->file; false after telling why not. */
static bool load(mprt__reader *r, const Entry *e, size_t *bytes) {
  char path[4096];
  struct stat info;
  snprintf(path, sizeof path, "%s/%s", e->folder, e->name);
  FILE *f = fopen(path, "rb");
  if (!f || fstat(fileno(f), &info) || info.st_size > MAX_FILE) {
    tell(r, e, MPCC_ERR_FILE, false, f ? "too large" : strerror(errno));
    if (f)
      fclose(f);
    return false;
  }
  size_t need = (size_t)info.st_size + 1;
  if (need > r->file_room) {
    free(r->file);
    r->file = malloc(need);
    r->file_room = r->file ? need : 0;
  }
  *bytes = r->file ? fread(r->file, 1, (size_t)info.st_size, f) : 0;
  bool bad = !r->file || ferror(f);
  if (bad)
    tell(r, e, r->file ? MPCC_ERR_FILE : MPCC_ERR_NOMEM, false,
         r->file ? strerror(errno) : "out of memory");
  fclose(f);
  return !bad;
}

static const void *folder_read(const mprt__dataset *d, mprt__reader *r, int64_t i, int f) {
  const Folder *x = (const Folder *)d;
  const Entry *e = &x->entry[i];
  size_t bytes;
  if (f == 1) {
    int64_t label = e->label;
    return memcpy(r->scratch, &label, sizeof label);
  }
  if (!load(r, e, &bytes))
    return NULL;
  if (!x->decode(r->file, bytes, &r->image)) {
    tell(r, e, MPCC_ERR_DATA, true, r->image.message);
    return NULL;
  }
  r->size[0] = r->image.height;
  r->size[1] = r->image.width;
  return r->image.pixels;
}

static void folder_where(const mprt__dataset *d, const mprt__reader *r, int64_t i, int f,
                         int64_t elem, char *out, size_t size) {
  const Entry *e = &((const Folder *)d)->entry[i];
  (void)r, (void)f, (void)elem;
  snprintf(out, size, "%s/%s", e->folder, e->name);
}

/* ---- listing ---- */

static bool is_image(const char *name) {
  static const char *const ends[] = {".jpg", ".jpeg", ".png"};
  size_t n = strlen(name);
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
    if (n > strlen(ends[i]) && !strcasecmp(name + n - strlen(ends[i]), ends[i]))
      return true;
  return false;
}

static bool is_folder(const char *path) {
  struct stat info;
  return !stat(path, &info) && S_ISDIR(info.st_mode);
}

static Status add_entry(Folder *x, const char *folder, const char *name, int32_t label,
                        const mprt_callbacks *cb) {
  if (x->base.nsample == x->room) {
    x->room = x->room ? 2 * x->room : 256;
    Entry *q = realloc(x->entry, (size_t)x->room * sizeof *q);
    if (!q)
      return mprt__nomem(cb, "file names");
    x->entry = q;
  }
  Entry *e = &x->entry[x->base.nsample];
  *e = (Entry){strdup(folder), strdup(name), label};
  if (e->folder && e->name) {
    x->base.nsample++;
    return MPCC_OK;
  }
  free(e->folder);
  free(e->name);
  return mprt__nomem(cb, "file names");
}

/* All images below `path`. Files that are no images by their name are passed over. */
static Status walk(Folder *x, const char *path, int32_t label, int depth,
                   const mprt_callbacks *cb) {
  DIR *dir = depth < MAX_DEPTH ? opendir(path) : NULL;
  struct dirent *e;
  Status st = MPCC_OK;
  if (!dir)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path,
                      depth < MAX_DEPTH ? strerror(errno) : "folders lie too deep");
  while (st == MPCC_OK && (e = readdir(dir))) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
      continue;
    char *below = mprt__format("%s/%s", path, e->d_name);
    if (!below)
      st = mprt__nomem(cb, "file names");
    else if (is_folder(below))
      st = walk(x, below, label, depth + 1, cb);
    else if (is_image(e->d_name))
      st = add_entry(x, path, e->d_name, label, cb);
    free(below);
  }
  closedir(dir);
  return st;
}

static int by_place(const void *a, const void *b) {
  const Entry *p = a, *q = b;
  int order = p->label != q->label ? (p->label < q->label ? -1 : 1) : strcmp(p->folder, q->folder);
  return order ? order : strcmp(p->name, q->name);
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static Status list_classes(const char *path, const mprt_callbacks *cb, mprt__paths *out) {
  DIR *dir = opendir(path);
  struct dirent *e;
  Status st = MPCC_OK;
  if (!dir)
    return mprt__fail(cb, MPCC_ERR_FILE, "cannot read %s: %s", path, strerror(errno));
  while (st == MPCC_OK && (e = readdir(dir))) {
    char *below = mprt__format("%s/%s", path, e->d_name);
    if (!below)
      st = mprt__nomem(cb, "file names");
    else if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && is_folder(below))
      st = mprt__paths_add(out, below, cb);
    free(below);
  }
  closedir(dir);
  if (st == MPCC_OK && !out->n)
    st = mprt__fail(cb, MPCC_ERR_DATA, "%s: has no folders; there must be one per class", path);
  if (st == MPCC_OK)
    qsort(out->path, (size_t)out->n, sizeof *out->path, by_name);
  return st;
}

static Status list_images(Folder *x, const mprt__paths *classes, const mprt_callbacks *cb) {
  Status st = MPCC_OK;
  for (int i = 0; st == MPCC_OK && i < classes->n; i++) {
    int64_t before = x->base.nsample;
    st = walk(x, classes->path[i], i, 0, cb);
    if (st == MPCC_OK && x->base.nsample == before)
      st = mprt__fail(cb, MPCC_ERR_DATA, "%s: has no .jpg, .jpeg or .png files", classes->path[i]);
  }
  if (st == MPCC_OK)
    qsort(x->entry, (size_t)x->base.nsample, sizeof *x->entry, by_place);
  return st;
}

Status mprt__folder_open(const mprt__data_source *s, mprt__dataset **out) {
  *out = NULL;
  if (!s->decode)
    return mprt__fail(s->cb, MPCC_ERR_TARGET,
                      "data.%s: this program was linked without image codecs", s->split);
  Folder *x = calloc(1, sizeof *x);
  char *path = mprt__data_path(s, "path");
  mprt__paths classes = {0};
  Status st = x && path ? MPCC_OK : mprt__nomem(s->cb, "data set");
  if (st == MPCC_OK) {
    x->decode = s->decode;
    x->base = (mprt__dataset){.nfield = 2,
                              .read = folder_read,
                              .where = folder_where,
                              .destroy = folder_destroy,
                              .scratch_bytes = 8,
                              .costly = true};
    x->base.field[0] = (mprt__field){.name = "image", .dtype = MPCC_U8, .rank = 3, .dim = {3}};
    x->base.field[1] = (mprt__field){.name = "label", .dtype = MPCC_I64, .elems = 1};
    st = list_classes(path, s->cb, &classes);
  }
  if (st == MPCC_OK)
    st = list_images(x, &classes, s->cb);
  mprt__paths_free(&classes);
  free(path);
  if (st == MPCC_OK)
    *out = &x->base;
  else if (x)
    folder_destroy(&x->base);
  return st;
}
