/* Attention on tensor cores, behind mma.cuh. A configuration C, written by attention_mma.c, says
 * what a kernel is for:
 *   E                    format of q, k, v, o and their gradients
 *   HEADS SHARING        heads of q; how many of them read one head of k and v
 *   QUERIES KEYS WIDTH   rows and columns of a head; PAD: WIDTH up to a multiple of 16
 *   CAUSAL MASK DROP     key <= query; something is added to the scores; dropout
 *   scale, drop_p        of the scores; probability that dropout takes one away
 *   WARPS TILE           of a block, 16 rows each; rows of the other side in shared memory at a time
 *   Q K V O DO DQ DK DV  Rows of the tensors
 *   lse(n, h, q)         place of a row's log of its sum
 *   added(mask, n, h, q, s)
 * Softmax on line: Milakov and Gimelshein 2018, here with powers of two; tiles: Dao 2023,
 * FlashAttention-2. No atomics; the order of a sum depends on shapes alone. */

constexpr float log2e_ = 1.4426950408889634f, ln2_ = 0.69314718055994531f;

/* What stands beside the operands in a kernel. */
template <class C> struct Beside {
  const typename C::Mask *mask;
  i64 seed, step, stream;
  u32 n, h;
  /* log2 of P but for the row's share: dot of query and key, scaled and masked */
  FN float score(const Beside &b, float dot, u32 query, u32 key) {
    if (query >= C::QUERIES || key >= C::KEYS || (C::CAUSAL && key > query))
      return -__int_as_float(0x7f800000);
    return C::MASK ? fma_(dot, C::scale * log2e_, C::added(b.mask, b.n, b.h, query, key) * log2e_)
                   : dot * (C::scale * log2e_);
  }
  FN bool kept(const Beside &b, u32 query, u32 key) {
    const i64 element = (((i64)b.n * C::HEADS + b.h) * C::QUERIES + query) * C::KEYS + key;
    return rand_(b.seed, b.step, element, b.stream) >= C::drop_p;
  }
};

/* Scores of 16 rows of queries from `row`, row + 8 and columns of keys from `column`, in place. */
template <class C, int N> FN void scores(float (*s)[4], const Beside<C> &b, u32 row, u32 column) {
#pragma unroll
  for (int i = 0; i < N; i++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      s[i][e] = Beside<C>::score(b, s[i][e], row + e / 2 * 8, column + 8 * i + e % 2);
}
/* Which of them dropout keeps: bit 4 i + e. TURNED: rows are keys. */
template <class C, int N, bool TURNED> FN u64 kept_bits(const Beside<C> &b, u32 row, u32 column) {
  u64 bits = 0;
#pragma unroll 1
  for (u32 i = 0; i < 4 * N; i++) {
    const u32 r = row + i / 2 % 2 * 8, c = column + i / 4 * 8 + i % 2;
    bits |= (u64)Beside<C>::kept(b, TURNED ? c : r, TURNED ? r : c) << i;
  }
  return bits;
}
template <int N> FN void drop(float (*p)[4], u64 bits, float factor) {
#pragma unroll
  for (int i = 0; i < 4 * N; i++)
    p[i / 4][i % 4] = bits >> i & 1 ? p[i / 4][i % 4] * factor : 0.0f;
}

/* The running softmax of rows g and g + 8 of a warp; peaks are log2. */
struct Softmax {
  float peak[2], sum[2];
};

/* Scores become P but for the row's share; sums so far, and the N blocks of `o`, follow. */
template <int N, int D> FN void softmax_tile(Softmax &x, float (*s)[4], float (*o)[4]) {
  const float inf = __int_as_float(0x7f800000);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float most = x.peak[r];
#pragma unroll
    for (int i = 0; i < N; i++)
      most = fmaxf(most, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
    most = fmaxf(most, shuffle(most, 1));
    most = fmaxf(most, shuffle(most, 2));
    const float base = most == -inf ? 0.0f : most, old = exp2_(x.peak[r] - base);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
      s[i][2 * r] = exp2_(s[i][2 * r] - base);
      s[i][2 * r + 1] = exp2_(s[i][2 * r + 1] - base);
      sum += s[i][2 * r] + s[i][2 * r + 1];
    }
    x.sum[r] = fma_(x.sum[r], old, sum);
    x.peak[r] = most;
#pragma unroll
    for (int i = 0; i < D; i++) {
      o[i][2 * r] *= old;
      o[i][2 * r + 1] *= old;
    }
  }
}

/* A block has 16 WARPS queries of a head; keys and values come in tiles, the next while one is used. */
template <class C>
FN void attention_forward(u16 *o_all, float *lse, const u16 *q_all, const u16 *k_all,
                          const u16 *v_all, const typename C::Mask *mask, i64 seed, i64 step,
                          i64 stream) {
  typedef typename C::E E;
  constexpr int pad = C::PAD, depth = pad / 16, columns = C::TILE / 8, threads = 32 * C::WARPS;
  constexpr u32 block = 16 * C::WARPS, blocks = (C::QUERIES + block - 1) / block;
  constexpr u32 tile_bytes = C::TILE * line_<pad>, q_bytes = block * line_<pad>;
  constexpr bool held = pad <= 128; /* fragments of q stay in registers */
  static_assert(q_bytes + 4 * tile_bytes <= C::SHARED, "");
  extern __shared__ __align__(16) u8 room[];
  const u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
  const u32 head = blockIdx.x / blocks, n = head / C::HEADS, h = head % C::HEADS, hk = h / C::SHARING;
  /* the blocks with most keys first */
  const u32 q0 = (blocks - 1 - blockIdx.x % blocks) * block, row = q0 + warp * 16 + g;
  const Beside<C> beside = {mask, seed, step, stream, n, h};
  const u16 *q = C::Q::head(q_all, n, h), *k = C::K::head(k_all, n, hk), *v = C::V::head(v_all, n, hk);
  const u32 q_tile = shared_at(room), kv = q_tile + q_bytes;
  const u32 seen = C::CAUSAL && q0 + block < C::KEYS ? q0 + block : C::KEYS;
  tile_in<typename C::Q, block, C::WIDTH, pad, threads>(q_tile, q, q0, C::QUERIES);
  tile_in<typename C::K, C::TILE, C::WIDTH, pad, threads>(kv, k, 0, C::KEYS);
  tile_in<typename C::V, C::TILE, C::WIDTH, pad, threads>(kv + tile_bytes, v, 0, C::KEYS);
  copies_end();
  Softmax x;
  x.peak[0] = x.peak[1] = -__int_as_float(0x7f800000);
  x.sum[0] = x.sum[1] = 0;
  float acc[pad / 8][4];
  clear<pad / 8>(acc);
  u32 qf[held ? depth : 1][4];
  const u32 q_at = lane_a<pad>(q_tile + warp * 16 * line_<pad>, lane);
  u32 now = 0;
  for (u32 first = 0; first < seen; first += C::TILE, now ^= 2 * tile_bytes) {
    if (first + C::TILE < seen) {
      const u32 next = kv + (now ^ 2 * tile_bytes);
      tile_in<typename C::K, C::TILE, C::WIDTH, pad, threads>(next, k, first + C::TILE, C::KEYS);
      tile_in<typename C::V, C::TILE, C::WIDTH, pad, threads>(next + tile_bytes, v, first + C::TILE, C::KEYS);
      copies_end();
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    if (held && first == 0)
      rows_a<held ? depth : 1>(qf, q_at);
    float s[columns][4];
    clear<columns>(s);
    if (held)
      times_rows<E, columns, held ? depth : 1, pad>(s, qf, lane_b<pad>(kv + now, lane));
    else
      times_rows<E, columns, depth, pad>(s, q_at, lane_b<pad>(kv + now, lane));
    scores<C, columns>(s, beside, row, first + 2 * t);
    softmax_tile<columns, pad / 8>(x, s, acc);
    if (C::DROP)
      drop<columns>(s, kept_bits<C, columns, false>(beside, row, first + 2 * t), 1.0f);
    times_columns<E, pad / 8, columns / 2, pad>(acc, s, lane_turned<pad>(kv + now + tile_bytes, lane));
    __syncthreads();
  }
  float share[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    x.sum[r] = over_lanes<Sum, 4>(x.sum[r]);
    share[r] = x.sum[r] == 0 ? 0.0f : C::keep / x.sum[r];
    if (lse && t == 0 && row + 8 * r < C::QUERIES)
      lse[C::lse(n, h, row + 8 * r)] = fma_(x.peak[r], ln2_, log_(x.sum[r]));
  }
  tile_out<E, typename C::O, pad / 8, C::WIDTH>(C::O::head(o_all, n, h), acc, row, C::QUERIES, t, share[0], share[1]);
}
