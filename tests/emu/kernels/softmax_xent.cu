/* Cross entropy of logits [rows][v] bf16 with class numbers, and its gradient, one block a row. */
KERNEL(256) softmax_xent(const u16 *__restrict__ logits, const int *__restrict__ target,
                         float *__restrict__ loss, u16 *__restrict__ dlogits, u32 v, float scale) {
  __shared__ float s[32];
  const u16 *row = logits + (u64)blockIdx.x * v;
  float top = NONE, sum = 0;
  for (u32 c = threadIdx.x; c < v; c += blockDim.x) top = fmaxf(top, from_bf16(row[c]));
  top = block_reduce<true>(top, s);
  for (u32 c = threadIdx.x; c < v; c += blockDim.x) sum += __expf(from_bf16(row[c]) - top);
  sum = block_reduce<false>(sum, s);
  int t = target[blockIdx.x];
  if (threadIdx.x == 0) loss[blockIdx.x] = t < 0 ? 0.0f : top + logf(sum) - from_bf16(row[t]);
  for (u32 c = threadIdx.x; c < v; c += blockDim.x) {
    float p = expf(from_bf16(row[c]) - top) / sum - ((int)c == t ? 1.0f : 0.0f);
    dlogits[(u64)blockIdx.x * v + c] = to_bf16(t < 0 ? 0.0f : p * scale);
  }
}
