/* Sums rows of dy into dw by class, atomically: the one kernel with float atomics, of small integers
 * so that their order does not show. Also counts each class. */
KERNEL(64) embedding_backward(const int *__restrict__ index, const float *__restrict__ dy,
                              float *__restrict__ dw, u32 *__restrict__ count, u32 cols) {
  int row = index[blockIdx.x];
  for (u32 c = threadIdx.x; c < cols; c += blockDim.x)
    atomicAdd(dw + (u64)row * cols + c, dy[(u64)blockIdx.x * cols + c]);
  u32 votes = __ballot_sync(~0u, (threadIdx.x & 1) == 0);
  if (threadIdx.x == 0) atomicAdd(count + row, __popc(votes) / 16);
}
