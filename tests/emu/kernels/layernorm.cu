/* x, y, dy, dx [rows][cols] bf16; gamma, beta [cols] f32. Backward leaves a partial sum of dgamma and
 * dbeta for each block: no atomics. */
KERNEL(128) layernorm(const u16 *__restrict__ x, const float *__restrict__ gamma,
                      const float *__restrict__ beta, u16 *__restrict__ y, float *__restrict__ mean,
                      float *__restrict__ rstd, u32 cols, float eps) {
  __shared__ float s[32];
  const u16 *row = x + (u64)blockIdx.x * cols;
  float sum = 0, square = 0;
  for (u32 c = threadIdx.x; c < cols; c += blockDim.x) sum += from_bf16(row[c]);
  float m = block_reduce<false>(sum, s) / (float)cols;
  for (u32 c = threadIdx.x; c < cols; c += blockDim.x) {
    float d = from_bf16(row[c]) - m;
    square += d * d;
  }
  float r = rsqrtf(block_reduce<false>(square, s) / (float)cols + eps);
  for (u32 c = threadIdx.x; c < cols; c += blockDim.x)
    y[(u64)blockIdx.x * cols + c] = to_bf16((from_bf16(row[c]) - m) * r * gamma[c] + beta[c]);
  if (threadIdx.x == 0) {
    mean[blockIdx.x] = m;
    rstd[blockIdx.x] = r;
  }
}

KERNEL(128) layernorm_backward(const u16 *__restrict__ dy, const u16 *__restrict__ x,
                               const float *__restrict__ gamma, const float *__restrict__ mean,
                               const float *__restrict__ rstd, u16 *__restrict__ dx,
                               float *__restrict__ partial, u32 rows, u32 cols) {
  extern __shared__ float sums[]; /* dgamma, dbeta of this block */
  __shared__ float s[32];
  for (u32 c = threadIdx.x; c < 2 * cols; c += blockDim.x) sums[c] = 0;
  __syncthreads();
  for (u32 row = blockIdx.x; row < rows; row += gridDim.x) {
    u64 at = (u64)row * cols;
    float m = mean[row], r = rstd[row], a = 0, b = 0;
    for (u32 c = threadIdx.x; c < cols; c += blockDim.x) {
      float d = from_bf16(dy[at + c]), h = (from_bf16(x[at + c]) - m) * r;
      a += d * gamma[c];
      b += d * gamma[c] * h;
      sums[c] += d * h;
      sums[cols + c] += d;
    }
    a = block_reduce<false>(a, s) / (float)cols;
    b = block_reduce<false>(b, s) / (float)cols;
    for (u32 c = threadIdx.x; c < cols; c += blockDim.x) {
      float h = (from_bf16(x[at + c]) - m) * r;
      dx[at + c] = to_bf16(r * (from_bf16(dy[at + c]) * gamma[c] - a - h * b));
    }
  }
  for (u32 c = threadIdx.x; c < cols; c += blockDim.x) {
    partial[(u64)blockIdx.x * 2 * cols + c] = sums[c];
    partial[(u64)blockIdx.x * 2 * cols + cols + c] = sums[cols + c];
  }
}
