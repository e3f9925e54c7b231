/* Attention on tensor cores, behind mma.cuh. A configuration C, written by attention_mma.c, says
 * what a kernel is for:
 *   E                    what fragments hold: format of q, k, v, or Decoded where they are codes
 *   R                    format of o and the gradients of q, k, v
 *   T TO                 elements of q, k, v and of o's gradient: u16, or codes' format
 *   P S p_scale ds_scale formats of the codes of P and dS, what these are multiplied by before
 *   SAMPLES HEADS SHARING  heads of q; how many of them read one head of k and v
 *   QUERIES KEYS WIDTH   rows and columns of a head; PAD: WIDTH up to a multiple of 16
 *   CAUSAL MASK DROP     key <= query; something is added to the scores; dropout
 *   scale, drop_p        of the scores; probability that dropout takes one away
 *   WARPS TILE           of a block, 16 rows each; rows of the other side in shared memory at a time
 *   Q K V O DO DQ DK DV  Rows of the tensors
 *   lse(n, h, q)         place of a row's log of its sum
 *   added(mask, n, h, q, s)
 * Softmax on line: Milakov and Gimelshein 2018, tiles: Dao 2023,
 * FlashAttention-2. No atomics; the order of a sum depends on shapes alone. */

/* Scores are exponents: of 2 for bf16, by the device's approximation (2 ulp), of e for f16, whose
 * results show more of it, and for codes, of which a last place more or less may make another. */
template <class E> constexpr bool plain_ = true;
template <> constexpr bool plain_<Decoded> = false;
template <class E> constexpr bool fine_ = E::narrow || !plain_<E>;
template <class E> constexpr float unit_ = fine_<E> ? 1.0f : 1.4426950408889634f;
template <class E> constexpr float natural_ = fine_<E> ? 1.0f : 0.69314718055994531f;
/* P goes on as P times this. */
template <class E> constexpr float p_lift_ = E::narrow ? 4096.0f : 1.0f;
template <class E> FN float power(float x) {
  return fine_<E> ? exp_(x) : exp2_(x);
}

/* What stands beside the operands in a kernel. */
template <class C> struct Beside {
  const typename C::Mask *mask;
  s64 seed, step, stream;
  float unit; /* of sums of codes: the inverse scales of q and k; else 1 */
  u32 n, h;
  /* exponent of P but for the row's share: dot of query and key, scaled and masked */
  FN float score(const Beside &b, float dot, u32 query, u32 key) {
    if (query >= C::QUERIES || key >= C::KEYS || (C::CAUSAL && key > query))
      return -__int_as_float(0x7f800000);
    return C::MASK ? fma_(dot, b.unit * C::scale * unit_<typename C::E>, C::added(b.mask, b.n, b.h, query, key) * unit_<typename C::E>)
                   : dot * (b.unit * C::scale * unit_<typename C::E>);
  }
  FN bool kept(const Beside &b, u32 query, u32 key) {
    const s64 element = (((s64)b.n * C::HEADS + b.h) * C::QUERIES + query) * C::KEYS + key;
    return rand_(b.seed, b.step, element, b.stream) >= C::drop_p;
  }
};

/* Scores of a warp's 16 rows from `row`, 8 N columns from `column`, in place of their dots; rows are
 * queries, or keys when TURNED. */
template <class C, int N, bool TURNED> FN void scores(float (*s)[4], const Beside<C> &b, u32 row, u32 column) {
  const u32 g = threadIdx.x % 32u / 4u, t = threadIdx.x % 4u;
  const u32 query = TURNED ? column : row, key = TURNED ? row : column;
  const u32 queries = TURNED ? 8 * N : 16, keys = TURNED ? 16 : 8 * N;
  if (!C::MASK && query + queries <= C::QUERIES && key + keys <= C::KEYS && (!C::CAUSAL || key + keys <= query + 1)) {
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
      s[i / 4][i % 4] *= b.unit * C::scale * unit_<typename C::E>;
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const u32 r = row + g + e / 2 * 8, c = column + 8 * i + 2 * t + e % 2;
      s[i][e] = Beside<C>::score(b, s[i][e], TURNED ? c : r, TURNED ? r : c);
    }
}
/* Which of them dropout keeps: bit 4 i + e. */
template <class C, int N, bool TURNED> FN u64 kept_bits(const Beside<C> &b, u32 row, u32 column) {
  u64 bits = 0;
  row += threadIdx.x % 32u / 4u;
  column += threadIdx.x % 4u * 2u;
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

/* The running softmax of rows g and g + 8 of a warp; peaks are exponents. */
struct Softmax {
  float peak[2], sum[2];
};

/* Scores become P but for the row's share; sums so far, and the N blocks of `o`, follow. */
template <class E, int N, int D> FN void softmax_tile(Softmax &x, float (*s)[4], float (*o)[4]) {
  const float inf = __int_as_float(0x7f800000);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float most = x.peak[r];
#pragma unroll
    for (int i = 0; i < N; i++)
      most = fmaxf(most, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
    most = fmaxf(most, shuffle(most, 1));
    most = fmaxf(most, shuffle(most, 2));
    const float base = most == -inf ? 0.0f : most, old = power<E>(x.peak[r] - base);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
      s[i][2 * r] = power<E>(s[i][2 * r] - base);
      s[i][2 * r + 1] = power<E>(s[i][2 * r + 1] - base);
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

/* Inverse scales of codes; 1 where there are none. */
struct Units {
  float q, k, v, d_o;
};

/* A tile of keys from `first` on, and behind it the VALUES of the same keys. */
template <class C, bool VALUES = true>
FN void keys_in(u32 to, const typename C::T *k, const typename C::T *v, u32 first) {
  constexpr int pad = C::PAD, threads = 32 * C::WARPS;
  tile_in<typename C::K, C::TILE, C::WIDTH, pad, threads>(to, k, first, C::KEYS);
  if (VALUES)
    tile_in<typename C::V, C::TILE, C::WIDTH, pad, threads>(to + C::TILE * line_<pad>, v, first, C::KEYS);
  copies_end();
}

/* Waits for the tiles of `first`, at kv + now; those that follow are on their way to the other place. */
template <class C, bool VALUES = true>
FN void next_keys(u32 kv, u32 now, const typename C::T *k, const typename C::T *v, u32 first, u32 seen) {
  if (first + C::TILE < seen) {
    keys_in<C, VALUES>(kv + (now ^ 2 * C::TILE * line_<C::PAD>), k, v, first + C::TILE);
    copies_wait<1>();
  } else {
    copies_wait<0>();
  }
  __syncthreads();
}

/* ---- forward ---- */

/* A block has 16 WARPS queries of a head; keys and values come in tiles, the next while one is used. */
template <class C>
FN void attention_forward(u16 *o_all, float *lse, const typename C::T *q_all, const typename C::T *k_all,
                          const typename C::T *v_all, const typename C::Mask *mask, s64 seed, s64 step,
                          s64 stream, Units units) {
  typedef typename C::E E;
  constexpr bool codes = !plain_<E>;
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
  const Beside<C> beside = {mask, seed, step, stream, units.q * units.k, n, h};
  const typename C::T *q = C::Q::head(q_all, n, h), *k = C::K::head(k_all, n, hk), *v = C::V::head(v_all, n, hk);
  const u32 q_tile = shared_at(room), kv = q_tile + q_bytes;
  const u32 seen = C::CAUSAL && q0 + block < C::KEYS ? q0 + block : C::KEYS;
  tile_in<typename C::Q, block, C::WIDTH, pad, threads>(q_tile, q, q0, C::QUERIES);
  keys_in<C, !codes>(kv, k, v, 0);
  Softmax x;
  x.peak[0] = x.peak[1] = -__int_as_float(0x7f800000);
  x.sum[0] = x.sum[1] = 0;
  float acc[pad / 8][4];
  clear<pad / 8>(acc);
  u32 qf[held ? depth : 1][4];
  const u32 q_at = lane_a<pad>(q_tile + warp * 16 * line_<pad>, lane);
  auto tile_scores = [&](float(*s)[4], u32 now, u32 first) {
    clear<columns>(s);
    if (held)
      times_rows<E, columns, held ? depth : 1, pad>(s, qf, lane_b<pad>(kv + now, lane));
    else
      times_rows<E, columns, depth, pad>(s, q_at, lane_b<pad>(kv + now, lane));
    scores<C, columns, false>(s, beside, q0 + warp * 16, first);
  };
  u32 now = 0;
  for (u32 first = 0; first < seen; first += C::TILE, now ^= 2 * tile_bytes) {
    next_keys<C, !codes>(kv, now, k, v, first, seen);
    if (held && first == 0)
      rows_a<held ? depth : 1>(qf, q_at);
    float s[columns][4];
    tile_scores(s, now, first);
    softmax_tile<E, columns, codes ? 0 : pad / 8>(x, s, acc);
    if (codes) {
      __syncthreads();
      continue;
    }
    if (C::DROP)
      drop<columns>(s, kept_bits<C, columns, false>(beside, q0 + warp * 16, first), 1.0f);
    times_columns<E, pad / 8, columns / 2, pad>(acc, s, lane_turned<pad>(kv + now + tile_bytes, lane), p_lift_<E>);
    __syncthreads();
  }
  float share[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    x.sum[r] = over_lanes<Sum, 4>(x.sum[r]);
    share[r] = x.sum[r] == 0 ? 0.0f : codes ? C::p_scale / x.sum[r] : C::keep / (x.sum[r] * p_lift_<E>);
    if (lse && t == 0 && row + 8 * r < C::QUERIES)
      lse[C::lse(n, h, row + 8 * r)] = fma_(x.peak[r], natural_<E>, log_(x.sum[r]));
  }
  if (codes) {
    /* P is rounded, so its row's sum must be known: a second walk over the keys */
    keys_in<C>(kv, k, v, 0);
    now = 0;
    for (u32 first = 0; first < seen; first += C::TILE, now ^= 2 * tile_bytes) {
      next_keys<C>(kv, now, k, v, first, seen);
      float s[columns][4];
      tile_scores(s, now, first);
#pragma unroll
      for (int i = 0; i < 4 * columns; i++) {
        const int r = i % 4 / 2;
        const float base = x.peak[r] == -__int_as_float(0x7f800000) ? 0.0f : x.peak[r];
        s[i / 4][i % 4] = C::P::round(power<E>(s[i / 4][i % 4] - base) * share[r]);
      }
      if (C::DROP)
        drop<columns>(s, kept_bits<C, columns, false>(beside, q0 + warp * 16, first), 1.0f);
      times_columns_exact<E, pad / 8, columns / 2, pad>(acc, s, lane_turned<pad>(kv + now + tile_bytes, lane));
      __syncthreads();
    }
    share[0] = share[1] = units.v * (C::keep / C::p_scale);
  }
  tile_out<typename C::R, typename C::O, pad / 8, C::WIDTH>(C::O::head(o_all, n, h), acc, row, C::QUERIES, t, share[0],
                                                            share[1]);
}

/* ---- backward: dS = P (dP - delta), delta = sum of dO O; dQ = scale dS K, dK = scale dS^T Q, dV = P^T
 * dO. Blocks of queries make dQ, blocks of keys dK and dV, P again each from lse ---- */

template <class C> struct Given {
  const typename C::TO *d_o;
  const u16 *o;
  const float *lse;
  const typename C::T *q, *k, *v;
  Units units;
};

/* Of codes, dO O is wanted in units of dP's other factor, v. */
template <class C> FN float delta_unit(const Given<C> &x) {
  return plain_<typename C::E> ? 1.0f : min_(1 / x.units.v, 3.40282347e38f);
}
/* Of sums of codes of dS with codes whose unit is not in it yet. */
template <class C> FN float ds_unit(const Given<C> &x) {
  return x.units.d_o * x.units.v * (C::scale / C::ds_scale);
}
/* The code of dS as a number; what nobody sees stays 0. */
template <class C> FN float ds_code(float p, float dp, float delta) {
  return p == 0 ? 0.0f : C::S::round(C::ds_scale * p * (dp - delta));
}

/* dS goes on as s times a power of two that follows the largest one a warp has met: f16 has too few
 * exponents for it as it is. */
struct Lift {
  float largest, factor;
};
FN float inverse(float power) { return __uint_as_float((254u << 23) - __float_as_uint(power)); }
/* s: what is to be added to c next, times factor; c so far follows. */
template <class E, int N, int D> FN void lift(Lift &x, const float (*s)[4], float (*c)[4]) {
  if (!E::narrow)
    return;
#pragma unroll
  for (int i = 0; i < 4 * N; i++)
    x.largest = fmaxf(x.largest, abs_(s[i / 4][i % 4]));
  x.largest = over_lanes<Max, 32>(x.largest);
  const u32 exponent = max(__float_as_uint(x.largest) & 0x7f800000u, 64u << 23);
  const float factor = __uint_as_float((266u << 23) - exponent); /* to between 2^12 and 2^13 */
  if (factor == x.factor)
    return;
  const float change = factor * inverse(x.factor);
#pragma unroll
  for (int i = 0; i < 4 * D; i++)
    c[i / 4][i % 4] *= change;
  x.factor = factor;
}

/* Sum of dO O of a row, by four lanes; all lanes of the warp call it, the four for rows in the
 * order of row_of_place. d_o: the row in shared memory, zero behind WIDTH. */
template <class C> FN float row_delta(u32 d_o, const u16 *o, u32 row) {
  typedef typename C::E E;
  typedef typename C::R R;
  const bool quads = C::O::quads && C::WIDTH % 4 == 0 && multiple(o, 8), there = row < C::QUERIES;
  float sum = 0;
#pragma unroll 2
  for (u32 d = 4 * (threadIdx.x % 4u); d < C::WIDTH; d += 16) {
    u32 a[2], b[2] = {0, 0};
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];"
                 : "=r"(a[0]), "=r"(a[1])
                 : "r"(d_o + 2 * d)
                 : "memory");
    if (there && quads)
      get_words<8>(b, C::O::at(o, row, d));
    else if (there) {
#pragma unroll
      for (u32 i = 0; i < 4; i++)
        b[i / 2] |= d + i < C::WIDTH ? (u32)*C::O::at(o, row, d + i) << i % 2 * 16 : 0u;
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
      sum = fma_(E::low(a[i]), R::low(b[i]), fma_(E::high(a[i]), R::high(b[i]), sum));
  }
  return over_lanes<Sum, 4>(sum);
}

/* exponent of a row's sum; where it sees nothing, a number that makes P 0 */
template <class C> FN float norm_of(const float *lse, u32 n, u32 h, u32 row) {
  const float v = row < C::QUERIES ? lse[C::lse(n, h, row)] : 0.0f;
  return v == -__int_as_float(0x7f800000) ? 0.0f : v * unit_<typename C::E>;
}

template <class C> FN void attention_dq(u16 *dq_all, const Given<C> &x, Beside<C> beside) {
  typedef typename C::E E;
  constexpr bool codes = !plain_<E>;
  constexpr int pad = C::PAD, depth = pad / 16, columns = C::TILE / 8, threads = 32 * C::WARPS;
  constexpr u32 block = 16 * C::WARPS, blocks = (C::QUERIES + block - 1) / block;
  constexpr u32 tile_bytes = C::TILE * line_<pad>, own_bytes = block * line_<pad>;
  constexpr bool held = pad <= 64;
  extern __shared__ __align__(16) u8 room[];
  const u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
  const u32 head = blockIdx.x / blocks, n = head / C::HEADS, h = head % C::HEADS, hk = h / C::SHARING;
  const u32 q0 = (blocks - 1 - blockIdx.x % blocks) * block, row = q0 + warp * 16;
  beside.n = n;
  beside.h = h;
  const typename C::T *k = C::K::head(x.k, n, hk), *v = C::V::head(x.v, n, hk);
  const u16 *o = C::O::head(x.o, n, h);
  const u32 q_tile = shared_at(room), o_tile = q_tile + own_bytes, kv = o_tile + own_bytes;
  const u32 seen = C::CAUSAL && q0 + block < C::KEYS ? q0 + block : C::KEYS;
  tile_in<typename C::Q, block, C::WIDTH, pad, threads>(q_tile, C::Q::head(x.q, n, h), q0, C::QUERIES);
  tile_in<typename C::DO, block, C::WIDTH, pad, threads>(o_tile, C::DO::head(x.d_o, n, h), q0, C::QUERIES);
  keys_in<C>(kv, k, v, 0);
  float acc[pad / 8][4], norm[2], delta[2];
  Lift up = {0, 1};
  clear<pad / 8>(acc);
  u32 qf[held ? depth : 1][4], of[held ? depth : 1][4];
  const u32 mine = warp * 16 * line_<pad>, q_at = lane_a<pad>(q_tile + mine, lane), o_at = lane_a<pad>(o_tile + mine, lane);
  u32 now = 0;
  for (u32 first = 0; first < seen; first += C::TILE, now ^= 2 * tile_bytes) {
    next_keys<C>(kv, now, k, v, first, seen);
    if (first == 0) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const u32 other = row_of_place(g) + 8 * r;
        const float sum = row_delta<C>(o_tile + mine + other * line_<pad>, o, row + other);
        delta[r] = __shfl_sync(0xffffffffu, sum, 4 * place_of_row(g)) * delta_unit(x);
        norm[r] = norm_of<C>(x.lse, n, h, row + g + 8 * r);
      }
      if (held) {
        rows_a<held ? depth : 1>(qf, q_at);
        rows_a<held ? depth : 1>(of, o_at);
      }
    }
    float s[columns][4], dp[columns][4];
    clear<columns>(s);
    clear<columns>(dp);
    const u32 k_at = lane_b<pad>(kv + now, lane), v_at = lane_b<pad>(kv + now + tile_bytes, lane);
    if (held) {
      times_rows<E, columns, held ? depth : 1, pad>(s, qf, k_at);
      times_rows<E, columns, held ? depth : 1, pad>(dp, of, v_at);
    } else {
      times_rows<E, columns, depth, pad>(s, q_at, k_at);
      times_rows<E, columns, depth, pad>(dp, o_at, v_at);
    }
    scores<C, columns, false>(s, beside, row, first);
    if (C::DROP)
      drop<columns>(dp, kept_bits<C, columns, false>(beside, row, first), C::keep);
#pragma unroll
    for (int i = 0; i < 4 * columns; i++) {
      const int r = i % 4 / 2;
      const float p = power<E>(s[i / 4][i % 4] - norm[r]), d = dp[i / 4][i % 4];
      s[i / 4][i % 4] = codes ? ds_code<C>(p, d, delta[r]) : p * (d - delta[r]);
    }
    if (codes) {
      times_columns_exact<E, pad / 8, columns / 2, pad>(acc, s, lane_turned<pad>(kv + now, lane));
    } else {
      lift<E, columns, pad / 8>(up, s, acc);
      times_columns<E, pad / 8, columns / 2, pad>(acc, s, lane_turned<pad>(kv + now, lane), up.factor);
    }
    __syncthreads();
  }
  const float whole = codes ? ds_unit(x) * x.units.k : C::scale * inverse(up.factor);
  tile_out<typename C::R, typename C::DQ, pad / 8, C::WIDTH>(C::DQ::head(dq_all, n, h), acc, row + g, C::QUERIES, t, whole,
                                                             whole);
}

/* KEY, VALUE: what is made, dK, dV or both. */
template <class C, bool KEY, bool VALUE> FN void attention_dkv(u16 *dk_all, u16 *dv_all, const Given<C> &x, Beside<C> beside) {
  typedef typename C::E E;
  constexpr bool codes = !plain_<E>;
  constexpr int pad = C::PAD, depth = pad / 16, columns = C::TILE / 8, threads = 32 * C::WARPS;
  constexpr u32 block = 16 * C::WARPS, blocks = (C::KEYS + block - 1) / block;
  constexpr u32 tile_bytes = C::TILE * line_<pad>, own_bytes = block * line_<pad>;
  constexpr bool held = pad <= 64;
  extern __shared__ __align__(16) u8 room[];
  float *norm = (float *)(room + 2 * own_bytes + 4 * tile_bytes), *delta = norm + C::TILE;
  const u32 lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
  constexpr u32 heads = C::HEADS / C::SHARING;
  const u32 head = blockIdx.x / blocks, n = head / heads, hk = head % heads;
  const u32 k0 = blockIdx.x % blocks * block, row = k0 + warp * 16;
  const u32 begin = C::CAUSAL ? k0 / C::TILE * C::TILE : 0;
  /* tiles of queries, of one head after the other; none when no query sees these keys */
  const u32 tiles = begin < C::QUERIES ? (C::QUERIES - begin + C::TILE - 1) / C::TILE : 0, count = tiles * C::SHARING;
  const u32 k_tile = shared_at(room), v_tile = k_tile + own_bytes, qo = v_tile + own_bytes;
  auto bring = [&](u32 i) {
    const u32 h = hk * C::SHARING + i / tiles, first = begin + i % tiles * C::TILE, to = qo + (i & 1u) * 2 * tile_bytes;
    tile_in<typename C::Q, C::TILE, C::WIDTH, pad, threads>(to, C::Q::head(x.q, n, h), first, C::QUERIES);
    tile_in<typename C::DO, C::TILE, C::WIDTH, pad, threads>(to + tile_bytes, C::DO::head(x.d_o, n, h), first, C::QUERIES);
    copies_end();
  };
  tile_in<typename C::K, block, C::WIDTH, pad, threads>(k_tile, C::K::head(x.k, n, hk), k0, C::KEYS);
  tile_in<typename C::V, block, C::WIDTH, pad, threads>(v_tile, C::V::head(x.v, n, hk), k0, C::KEYS);
  if (count)
    bring(0);
  else
    copies_end();
  float dk[KEY ? pad / 8 : 1][4], dv[VALUE ? pad / 8 : 1][4];
  Lift up = {0, 1};
  clear<KEY ? pad / 8 : 1>(dk);
  clear<VALUE ? pad / 8 : 1>(dv);
  u32 kf[held ? depth : 1][4], vf[held ? depth : 1][4];
  const u32 mine = warp * 16 * line_<pad>, k_at = lane_a<pad>(k_tile + mine, lane), v_at = lane_a<pad>(v_tile + mine, lane);
  for (u32 i = 0; i < count; i++) {
    const u32 h = hk * C::SHARING + i / tiles, first = begin + i % tiles * C::TILE;
    const u32 q_tile = qo + (i & 1u) * 2 * tile_bytes, o_tile = q_tile + tile_bytes;
    if (i + 1 < count) {
      bring(i + 1);
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    const u16 *o = C::O::head(x.o, n, h);
#pragma unroll 1
    for (u32 base = 0; base < C::TILE; base += threads / 4) {
      const u32 r = base + threadIdx.x / 32u * 8u + row_of_place(g), there = r < C::TILE ? r : 0;
      const float sum = row_delta<C>(o_tile + there * line_<pad>, o, first + there);
      if (r < C::TILE && t == 0) {
        delta[r] = sum * delta_unit(x);
        norm[r] = norm_of<C>(x.lse, n, h, first + r);
      }
    }
    if (held && i == 0) {
      rows_a<held ? depth : 1>(kf, k_at);
      rows_a<held ? depth : 1>(vf, v_at);
    }
    __syncthreads();
    beside.n = n;
    beside.h = h;
    float s[columns][4], dp[KEY ? columns : 1][4];
    clear<columns>(s);
    clear<KEY ? columns : 1>(dp);
    const u32 q_at = lane_b<pad>(q_tile, lane), o_at = lane_b<pad>(o_tile, lane);
    if (held) {
      times_rows<E, columns, held ? depth : 1, pad>(s, kf, q_at);
      if (KEY)
        times_rows<E, KEY ? columns : 1, held ? depth : 1, pad>(dp, vf, o_at);
    } else {
      times_rows<E, columns, depth, pad>(s, k_at, q_at);
      if (KEY)
        times_rows<E, KEY ? columns : 1, depth, pad>(dp, v_at, o_at);
    }
    scores<C, columns, true>(s, beside, row, first);
    const u64 kept = C::DROP ? kept_bits<C, columns, true>(beside, row, first) : 0;
    if (C::DROP && KEY)
      drop<KEY ? columns : 1>(dp, kept, C::keep);
#pragma unroll
    for (int j = 0; j < 4 * columns; j++) {
      const u32 c = j / 4 * 8 + 2 * t + j % 2;
      s[j / 4][j % 4] = power<E>(s[j / 4][j % 4] - norm[c]);
      if (KEY) {
        const float p = s[j / 4][j % 4], d = dp[KEY ? j / 4 : 0][j % 4];
        dp[KEY ? j / 4 : 0][j % 4] = codes ? ds_code<C>(p, d, delta[c]) : p * (d - delta[c]);
      }
      if (codes && VALUE)
        s[j / 4][j % 4] = C::P::round(s[j / 4][j % 4] * C::p_scale);
    }
    if (codes && KEY) {
      times_columns_exact<E, KEY ? pad / 8 : 0, columns / 2, pad>(dk, dp, lane_turned<pad>(q_tile, lane));
    } else if (KEY) {
      lift<E, KEY ? columns : 0, KEY ? pad / 8 : 0>(up, dp, dk);
      times_columns<E, KEY ? pad / 8 : 0, columns / 2, pad>(dk, dp, lane_turned<pad>(q_tile, lane), up.factor);
    }
    if (C::DROP && VALUE)
      drop<columns>(s, kept, 1.0f);
    if (codes && VALUE)
      times_columns_exact<E, VALUE ? pad / 8 : 0, columns / 2, pad>(dv, s, lane_turned<pad>(o_tile, lane));
    else if (VALUE)
      times_columns<E, VALUE ? pad / 8 : 0, columns / 2, pad>(dv, s, lane_turned<pad>(o_tile, lane), p_lift_<E>);
    __syncthreads();
  }
  copies_wait<0>();
  const float scale = codes ? ds_unit(x) * x.units.q : C::scale * inverse(up.factor);
  const float whole = codes ? x.units.d_o * (C::keep / C::p_scale) : C::keep * inverse(p_lift_<E>);
  if (KEY)
    tile_out<typename C::R, typename C::DK, KEY ? pad / 8 : 0, C::WIDTH>(C::DK::head(dk_all, n, hk), dk, row + g, C::KEYS, t, scale, scale);
  if (VALUE)
    tile_out<typename C::R, typename C::DV, VALUE ? pad / 8 : 0, C::WIDTH>(C::DV::head(dv_all, n, hk), dv, row + g, C::KEYS, t, whole, whole);
}

/* blockIdx.y: dQ; dK and dV, or dV alone after dK where the two do not fit in registers. */
template <class C>
FN void attention_backward(u16 *dq, u16 *dk, u16 *dv, const typename C::TO *d_o, const u16 *o, const float *lse,
                           const typename C::T *q, const typename C::T *k, const typename C::T *v,
                           const typename C::Mask *mask, s64 seed, s64 step, s64 stream, Units units) {
  constexpr u32 block = 16 * C::WARPS, samples = C::SAMPLES;
  static_assert((2 * block + 4 * C::TILE) * line_<C::PAD> + 8 * C::TILE <= C::SHARED, "");
  const Given<C> given = {d_o, o, lse, q, k, v, units};
  const Beside<C> beside = {mask, seed, step, stream, units.q * units.k, 0, 0};
  if (blockIdx.y == 0) {
    if (blockIdx.x < samples * C::HEADS * ((C::QUERIES + block - 1) / block))
      attention_dq<C>(dq, given, beside);
  } else if (blockIdx.x < samples * (C::HEADS / C::SHARING) * ((C::KEYS + block - 1) / block)) {
    if (C::PAD <= 128)
      attention_dkv<C, true, C::PAD <= 128>(dk, dv, given, beside);
    else if (blockIdx.y == 1)
      attention_dkv<C, true, false>(dk, dv, given, beside);
    else
      attention_dkv<C, false, true>(dk, dv, given, beside);
  }
}
