/* Gradients of causal attention from the logarithms of its sums and delta = dout . out: a block has one row
 * of one head and as many threads as the head has columns. f32, no atomics. */
KERNEL(64) attention_dq(const float *__restrict__ q, const float *__restrict__ k,
                        const float *__restrict__ v, const float *__restrict__ dout,
                        const float *__restrict__ logs, const float *__restrict__ delta,
                        float *__restrict__ dq, u32 t, float scale) {
  __shared__ float s[32];
  u32 i = blockIdx.x, d = threadIdx.x, n = blockDim.x;
  u64 head = (u64)blockIdx.y * t;
  float mine = q[(head + i) * n + d], gives = dout[(head + i) * n + d], sum = 0;
  for (u32 j = 0; j <= i; j++) {
    float kj = k[(head + j) * n + d];
    float p = __expf(block_reduce<false>(mine * kj, s) * scale - logs[head + i]);
    float dp = block_reduce<false>(gives * v[(head + j) * n + d], s);
    sum += p * (dp - delta[head + i]) * scale * kj;
  }
  dq[(head + i) * n + d] = sum;
}

KERNEL(64) attention_dkv(const float *__restrict__ q, const float *__restrict__ k,
                         const float *__restrict__ v, const float *__restrict__ dout,
                         const float *__restrict__ logs, const float *__restrict__ delta,
                         float *__restrict__ dk, float *__restrict__ dv, u32 t, float scale) {
  __shared__ float s[32];
  u32 j = blockIdx.x, d = threadIdx.x, n = blockDim.x;
  u64 head = (u64)blockIdx.y * t;
  float mine = k[(head + j) * n + d], value = v[(head + j) * n + d], sum_k = 0, sum_v = 0;
  for (u32 i = j; i < t; i++) {
    float qi = q[(head + i) * n + d], gives = dout[(head + i) * n + d];
    float p = __expf(block_reduce<false>(mine * qi, s) * scale - logs[head + i]);
    float dp = block_reduce<false>(gives * value, s);
    sum_v += p * gives;
    sum_k += p * (dp - delta[head + i]) * scale * qi;
  }
  dk[(head + j) * n + d] = sum_k;
  dv[(head + j) * n + d] = sum_v;
}
