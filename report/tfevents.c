/* events.out.tfevents.*: what TensorBoard reads. A file is a row of records
 *
 *   u64 length | u32 masked CRC of it | bytes | u32 masked CRC of them      all little endian
 *
 * whose bytes are Event messages in protocol buffers' wire form. The CRC is CRC-32C; mask(c) =
 * ((c >> 15) | (c << 17)) + 0xa282ead8. Sources: TensorFlow's record_writer and event.proto,
 * summary.proto; polynomial of RFC 3720, B.4. A resumed run begins a new file whose session start
 * makes TensorBoard drop what earlier files have from that step on. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "report/report.h"

/* ---- records ---- */

uint32_t tfevents_crc32c(const void *data, size_t n) {
  const unsigned char *p = data;
  uint32_t c = ~UINT32_C(0);
  while (n--) {
    c ^= *p++;
    for (int bit = 0; bit < 8; bit++)
      c = c >> 1 ^ (c & 1 ? UINT32_C(0x82F63B78) : 0);
  }
  return ~c;
}

static uint32_t masked(const void *data, size_t n) {
  uint32_t c = tfevents_crc32c(data, n);
  return (c >> 15 | c << 17) + UINT32_C(0xa282ead8);
}

static void put_le(unsigned char *out, uint64_t v, int bytes) {
  for (int i = 0; i < bytes; i++)
    out[i] = (unsigned char)(v >> 8 * i);
}

static void put_record(FILE *f, const void *data, size_t n) {
  unsigned char head[12], tail[4];
  put_le(head, n, 8);
  put_le(head + 8, masked(head, 8), 4);
  put_le(tail, masked(data, n), 4);
  fwrite(head, 1, sizeof head, f);
  fwrite(data, 1, n, f);
  fwrite(tail, 1, sizeof tail, f);
}

/* ---- messages ---- */

enum { MAX_MESSAGE = 1024, MAX_TAG = 200 };
typedef struct {
  unsigned char data[MAX_MESSAGE];
  size_t n;
} Message;

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put_varint(Message *m, uint64_t v) {
  for (; v >= 0x80 && m->n < MAX_MESSAGE; v >>= 7)
    m->data[m->n++] = (unsigned char)(v | 0x80);
  if (m->n < MAX_MESSAGE)
    m->data[m->n++] = (unsigned char)v;
}

static void put_key(Message *m, int field, int wire) {
  put_varint(m, (uint64_t)(field << 3 | wire));
}

static void put_bytes(Message *m, int field, const void *data, size_t n) {
  put_key(m, field, WIRE_BYTES);
  put_varint(m, n);
  if (n > MAX_MESSAGE - m->n)
    return; /* tags are cut to MAX_TAG, so messages fit */
  memcpy(m->data + m->n, data, n);
  m->n += n;
}

static void put_bits(Message *m, int field, const void *value, int bytes) {
  uint64_t v = 0;
  memcpy(&v, value, (size_t)bytes); /* x86-64 is little endian */
  put_key(m, field, bytes == 8 ? WIRE_64 : WIRE_32);
  put_le(m->data + m->n, v, bytes);
  m->n += (size_t)bytes;
}

/* Event: wall_time = 1, step = 2 */
static Message event(int64_t step) {
  Message m = {.n = 0};
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
  put_bits(&m, 1, &now, 8);
  put_key(&m, 2, WIRE_VARINT);
  put_varint(&m, (uint64_t)step);
  return m;
}

/* Event.summary = 5; Summary.value = 1; Value: tag = 1, simple_value = 2 */
static void put_scalar(FILE *f, int64_t step, const char *front, const char *name, double v) {
  char tag[MAX_TAG];
  float x = (float)v;
  Message value = {.n = 0}, summary = {.n = 0}, m = event(step);
  if (isnan(v))
    return;
  snprintf(tag, sizeof tag, "%s/%s", front, name);
  put_bytes(&value, 1, tag, strlen(tag));
  put_bits(&value, 2, &x, 4);
  put_bytes(&summary, 1, value.data, value.n);
  put_bytes(&m, 5, summary.data, summary.n);
  put_record(f, m.data, m.n);
}

/* ---- the file ---- */

FILE *tfevents_open(const mprt_event *e, char *error, size_t size) {
  char path[4096];
  FILE *f = NULL;
  /* a new name each time, that sorts behind those before */
  for (int i = 0; !f && i < 1000; i++) {
    snprintf(path, sizeof path, "%s/events.out.tfevents.%lld.mpcc.%03d", e->path,
             (long long)time(NULL), i);
    f = fopen(path, "wbx");
    if (!f && errno != EEXIST)
      break;
  }
  if (!f) {
    snprintf(error, size, "cannot write %s: %s", path, strerror(errno));
    return NULL;
  }
  Message version = event(0);
  put_bytes(&version, 3, "brain.Event:2", strlen("brain.Event:2"));
  put_record(f, version.data, version.n);
  if (e->step > 0) { /* Event.session_log = 7; SessionLog: status = 1, START = 1 */
    Message log = {.n = 0}, start = event(e->step + 1);
    put_key(&log, 1, WIRE_VARINT);
    put_varint(&log, 1);
    put_bytes(&start, 7, log.data, log.n);
    put_record(f, start.data, start.n);
  }
  fflush(f);
  return f;
}

static void put_event(FILE *f, const mprt_event *e) {
  bool step = e->kind == MPRT_EVENT_STEP;
  const char *front = step ? "train" : e->split;
  put_scalar(f, e->step, front, "loss", e->loss);
  for (int i = 0; i < e->nmetric; i++)
    if (!e->metric[i].classes)
      put_scalar(f, e->step, front, e->metric[i].name, e->metric[i].value);
  if (step) {
    put_scalar(f, e->step, front, "lr", e->lr);
    put_scalar(f, e->step, front, "grad_norm", e->grad_norm);
    if (e->scale > 0)
      put_scalar(f, e->step, front, "scale", e->scale);
    put_scalar(f, e->step, front, "skipped", (double)e->skipped);
    put_scalar(f, e->step, front, "throughput", e->samples_per_s);
    put_scalar(f, e->step, front, "epoch", (double)e->epoch);
  }
}

bool tfevents_row(FILE *f, const mprt_event *e) {
  return report_append(f, e, put_event);
}
