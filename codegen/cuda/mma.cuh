/* Tiles of 16-bit elements for tensor cores: behind prelude.cuh in programs that have a kernel which
 * multiplies them. Fragments of mma.sync.m16n8k16, lane l, g = l / 4, t = l % 4 (PTX ISA, sec.
 * 9.7.14.5): A register q has row g + 8 (q % 2), columns 2 t + 8 (q / 2) and the next; B register q
 * rows 2 t + 8 q and the next, column g; C register q row g + 8 (q / 2), column 2 t + q % 2. So what
 * was summed lies as the next product wants its A. */

/* Formats: sums are f32. `split` gives v as a sum of two elements, as good as 16 (bf16) or 22 (f16)
 * bits: a product with values that stay in registers loses none of what the result keeps. */
struct BF16 {
  enum { narrow = 0 }; /* has the range of f32 */
  FN float get(u16 v) { return get_bf16(v); }
  FN u16 put(float v) { return put_bf16(v); }
  FN u32 pack(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
  }
  FN float low(u32 v) { return __uint_as_float(v << 16); }
  FN float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
  FN void mma(float *c, const u32 *a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};
struct F16 {
  enum { narrow = 1 };
  FN float get(u16 v) { return get_f16(v); }
  FN u16 put(float v) { return put_f16(v); }
  FN u32 pack(float low, float high) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
  }
  FN float low(u32 v) { return get_f16((u16)v); }
  FN float high(u32 v) { return get_f16((u16)(v >> 16)); }
  FN void mma(float *c, const u32 *a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

/* Codes of 8 bits: exact in bf16, so decoded on their way into a tile; read as they lie they are
 * a byte each. */
struct Decoded : BF16 {};
/* v as the code nearest to it reads, what get(put(v)) gives but for the sign of 0: what is added and
 * taken away has its last place where the format has its own; NaN stays. */
template <int MBITS, int BIAS> FN float round_fp8(float v, float largest) {
  v = max_(min_(v, largest), -largest);
  const u32 exponent = max(__float_as_uint(v) & 0x7f800000u, (u32)(128 - BIAS) << 23);
  const float magic = __uint_as_float((exponent + ((u32)(23 - MBITS) << 23)) | 0x400000u);
  return sub_(add_(v, magic), magic);
}
struct E4M3 {
  u8 code;
  FN float get(u32 v) { return get_e4m3((u8)v); }
  FN float round(float v) { return round_fp8<3, 7>(v, 448.0f); }
};
struct E5M2 {
  u8 code;
  FN float get(u32 v) { return get_e5m2((u8)v); }
  FN float round(float v) { return round_fp8<2, 15>(v, 57344.0f); }
};

/* FP32 words of which the low 13 bits are zero. Fragments of mma.sync.m16n8k8: A register q has row
 * g + 8 (q % 2), column t + 4 (q / 2); B register q row t + 4 q, column g; C as above. */
struct TF32 {
  FN void mma(float *c, const u32 *a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

/* ---- tiles in shared memory: rows of PAD elements, and 16 bytes more, so that eight rows' chunks of
 * 16 bytes lie in different banks ---- */

template <int PAD> constexpr u32 line_ = 2 * PAD + 16; /* bytes from row to row; PAD % 16 == 0 */

FN u32 shared_at(const void *p) {
  u32 a;
  asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(a) : "l"(p));
  return a;
}
/* 16 bytes to shared memory, zero where nothing is there; both addresses are multiples of 16. */
FN void copy16(u32 to, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
FN void store16(u32 to, const u32 *v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
FN u32 word(u32 at) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
FN void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All but the last N groups of this thread's copies are there. */
template <int N> FN void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
/* Four 8 x 8 matrices; a row of matrix m begins where lane 8 m + row says. */
FN void matrices(u32 *r, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
FN void matrices_turned(u32 *r, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
/* Where this lane points for: A [m][k]; B [n][k]; and, turned, B [k][n]. Then 32 bytes further for the
 * next 16 columns, 16 line_ for the next 16 rows. */
template <int PAD> FN u32 lane_a(u32 tile, u32 lane) { return tile + (lane & 15u) * line_<PAD> + (lane >> 4) * 16u; }
template <int PAD> FN u32 lane_b(u32 tile, u32 lane) {
  return tile + ((lane & 7u) + (lane >> 4) * 8u) * line_<PAD> + (lane >> 3 & 1u) * 16u;
}
template <int PAD> FN u32 lane_turned(u32 tile, u32 lane) { return lane_a<PAD>(tile, lane); }

/* Rows of a tensor: strides in elements of sample, head, row and column; `lines`: 16 bytes at a time,
 * when its first element lies so. */
template <s64 SAMPLE, s64 HEAD, s64 ROW, s64 COLUMN> struct Rows {
  static constexpr bool lines = COLUMN == 1 && SAMPLE % 8 == 0 && HEAD % 8 == 0 && ROW % 8 == 0;
  static constexpr bool quads = COLUMN == 1 && SAMPLE % 4 == 0 && HEAD % 4 == 0 && ROW % 4 == 0;
  static constexpr bool pairs = COLUMN == 1 && SAMPLE % 2 == 0 && HEAD % 2 == 0 && ROW % 2 == 0;
  template <class T> FN T *head(T *p, u32 n, u32 h) { return p + (s64)n * SAMPLE + (s64)h * HEAD; }
  template <class T> FN T *at(T *head, u32 row, u32 column) {
    return head + (s64)row * ROW + (s64)column * COLUMN;
  }
};

/* Of eight rows, the one that comes in place x: 0 2 4 6 1 3 5 7, and x of a row. Lines are 4 words
 * and a multiple of 8 long, so that 32 bytes of four rows in two places after another lie in
 * different banks. */
FN u32 row_of_place(u32 x) {
  return x < 4 ? 2 * x : 2 * x - 7;
}
FN u32 place_of_row(u32 r) {
  return r / 2 + r % 2 * 4;
}

/* COUNT rows from `first` of WIDTH columns into a tile, zero behind `length` and WIDTH; by THREADS
 * threads, done after copies_end, copies_wait and a barrier. */
template <class R, int COUNT, int WIDTH, int PAD, int THREADS>
FN void tile_in(u32 tile, const u16 *head, u32 first, u32 length) {
  const bool lines = R::lines && WIDTH % 8 == 0 && multiple(head, 16);
#pragma unroll 2
  for (u32 e = threadIdx.x; e < COUNT * (PAD / 8); e += THREADS) {
    const u32 line = e / (PAD / 8), c = e % (PAD / 8) * 8;
    /* eight threads fill short lines that lie in different banks */
    const u32 r = PAD == 16   ? (line & ~7u) | row_of_place(line & 7u)
                  : PAD == 32 ? (line & ~7u) | place_of_row(line & 7u)
                              : line;
    const u32 to = tile + r * line_<PAD> + c * 2;
    const bool there = first + r < length && c < WIDTH;
    if (lines) {
      copy16(to, there ? R::at(head, first + r, c) : head, there);
      continue;
    }
    u32 v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u16 low = there && c + 2 * i < WIDTH ? *R::at(head, first + r, c + 2 * i) : 0;
      const u16 high = there && c + 2 * i + 1 < WIDTH ? *R::at(head, first + r, c + 2 * i + 1) : 0;
      v[i] = low | (u32)high << 16;
    }
    store16(to, v);
  }
}

/* The same of codes, as the bf16 they stand for; done after a barrier. */
template <class R, int COUNT, int WIDTH, int PAD, int THREADS, class T>
FN void tile_in(u32 tile, const T *head, u32 first, u32 length) {
  const bool lines = R::lines && WIDTH % 8 == 0 && multiple(head, 8);
#pragma unroll 2
  for (u32 e = threadIdx.x; e < COUNT * (PAD / 8); e += THREADS) {
    const u32 r = e / (PAD / 8), c = e % (PAD / 8) * 8;
    const bool there = first + r < length && c < WIDTH;
    u32 w[2] = {0, 0}, v[4];
    if (there && lines) {
      get_words<8>(w, R::at(head, first + r, c));
    } else if (there) {
#pragma unroll
      for (u32 i = 0; i < 8; i++)
        w[i / 4] |= c + i < WIDTH ? (u32)R::at(head, first + r, c + i)->code << i % 4 * 8 : 0u;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 two = w[i / 2] >> i % 2 * 16;
      v[i] = BF16::pack(T::get(two & 255u), T::get(two >> 8 & 255u));
    }
    store16(tile + r * line_<PAD> + c * 2, v);
  }
}

/* ---- products of a warp: 16 rows ---- */

template <int N> FN void clear(float (*c)[4]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0;
}
/* Fragments of A, 16 x 16 K, from shared memory. */
template <int K> FN void rows_a(u32 (*a)[4], u32 at) {
#pragma unroll
  for (int k = 0; k < K; k++)
    matrices(a[k], at + 32 * k);
}
/* c[16 x 8 N] += a B^T for K steps of 16: B is [n][k] in shared memory, `at` from lane_b. */
template <class E, int N, int K, int PAD> FN void times_rows(float (*c)[4], const u32 (*a)[4], u32 at) {
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
      u32 b[4];
      matrices(b, at + 16 * n * line_<PAD> + 32 * k);
      E::mma(c[2 * n], a[k], b[0], b[1]);
      E::mma(c[2 * n + 1], a[k], b[2], b[3]);
    }
}
/* The same with A in shared memory too. */
template <class E, int N, int K, int PAD> FN void times_rows(float (*c)[4], u32 a_at, u32 at) {
#pragma unroll 4
  for (int k = 0; k < K; k++) {
    u32 a[1][4];
    matrices(a[0], a_at + 32 * k);
    times_rows<E, N, 1, PAD>(c, a, at + 32 * k);
  }
}
/* c[16 x 8 N] += w B, where w [16 x 16 K] lies as it was summed, in f32, and B is [k][n] in shared
 * memory, `at` from lane_turned: w is split in two, so that it is not rounded to 16 bits; it is
 * multiplied by a power of two before. */
template <class E, int N, int K, int PAD>
FN void times_columns(float (*c)[4], const float (*w)[4], u32 at, float power) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    u32 high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float x = w[2 * k + i / 2][i % 2 * 2] * power, y = w[2 * k + i / 2][i % 2 * 2 + 1] * power;
      high[i] = E::pack(x, y);
      low[i] = E::pack(x - E::low(high[i]), y - E::high(high[i]));
    }
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
      u32 b[4];
      matrices_turned(b, at + 16 * k * line_<PAD> + 32 * n);
      E::mma(c[2 * n], high, b[0], b[1]);
      E::mma(c[2 * n + 1], high, b[2], b[3]);
      E::mma(c[2 * n], low, b[0], b[1]);
      E::mma(c[2 * n + 1], low, b[2], b[3]);
    }
  }
}
/* The same with w that is exact in 16 bits: codes, decoded. */
template <class E, int N, int K, int PAD> FN void times_columns_exact(float (*c)[4], const float (*w)[4], u32 at) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    u32 a[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      a[i] = E::pack(w[2 * k + i / 2][i % 2 * 2], w[2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
      u32 b[4];
      matrices_turned(b, at + 16 * k * line_<PAD> + 32 * n);
      E::mma(c[2 * n], a, b[0], b[1]);
      E::mma(c[2 * n + 1], a, b[2], b[3]);
    }
  }
}
/* To rows row and row + 8 of a tensor, columns of 8 N: c[][0..1] times x, c[][2..3] times y. */
template <class E, class R, int N, int WIDTH>
FN void tile_out(u16 *head, const float (*c)[4], u32 row, u32 length, u32 t, float x, float y) {
  const bool pairs = R::pairs && WIDTH % 2 == 0 && multiple(head, 4);
  if (R::quads && WIDTH % 16 == 0 && N % 2 == 0 && N <= 12 && multiple(head, 8)) {
    /* neighbours exchange halves of two blocks, so that four lanes write 32 bytes of a row; wider
     * heads have no registers for it */
    const bool odd = t & 1;
#pragma unroll
    for (int i = 0; i < N; i += 2)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float f = r ? y : x;
        const u32 a = E::pack(c[i][2 * r] * f, c[i][2 * r + 1] * f);
        const u32 b = E::pack(c[i + 1][2 * r] * f, c[i + 1][2 * r + 1] * f);
        const u32 other = __shfl_xor_sync(0xffffffffu, odd ? a : b, 1);
        const u32 v[2] = {odd ? other : a, odd ? b : other};
        const u32 at = row + 8 * r, d = 8 * (i + odd) + 2 * (t & 2u);
        if (at < length && d < WIDTH)
          put_words<8>(R::at(head, at, d), v);
      }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const u32 at = row + 8 * r, d = 8 * i + 2 * t;
      const float f = r ? y : x, v = c[i][2 * r] * f, w = c[i][2 * r + 1] * f;
      if (at >= length || d >= WIDTH)
        continue;
      if (pairs) {
        *(u32 *)R::at(head, at, d) = E::pack(v, w);
        continue;
      }
      *R::at(head, at, d) = E::put(v);
      if (d + 1 < WIDTH)
        *R::at(head, at, d + 1) = E::put(w);
    }
}

FN float exp2_(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
