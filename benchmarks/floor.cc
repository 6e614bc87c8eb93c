// The floor of an embedding step: a program that only moves its bytes. Each id's row is copied to an output; then each
// id's gradient is read, its row read and written with it, and one number a row beside it. No sums over duplicates, no
// optimizer, no checks: what an embedding must do besides.
//
//   floor ROWS DIM IDS THREADS    reads IDS x int64 a batch from stdin; answers each with its seconds on a line
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kAhead = 12;

float* NewFloats(int64_t count) {
  const size_t huge = size_t{2} << 20, bytes = (count * sizeof(float) + huge - 1) / huge * huge;
  void* block = nullptr;
  if (posix_memalign(&block, huge, bytes) != 0) std::exit(3);
  madvise(block, bytes, MADV_HUGEPAGE);
  std::memset(block, 0, bytes);
  return static_cast<float*>(block);
}

void Fetch(const float* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(row + d, 1, 3);
}

template <int64_t kDim>
void Move(const int64_t* ids, int64_t begin, int64_t end, int64_t any_dim, float* rows, float* beside,
          const float* gradients, float* outputs, bool update) {
  const int64_t dim = kDim ? kDim : any_dim;
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end) {
      Fetch(rows + ids[i + kAhead] * dim, dim);
      if (update) __builtin_prefetch(beside + ids[i + kAhead], 1, 3);
    }
    float* __restrict row = rows + ids[i] * dim;
    if (!update) {
      std::memcpy(outputs + i * dim, row, dim * sizeof(float));
      continue;
    }
    const float* __restrict gradient = gradients + i * dim;
    for (int64_t d = 0; d < dim; ++d) row[d] += gradient[d];
    beside[ids[i]] += gradient[0];
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int64_t rows = std::atoll(argv[1]), dim = std::atoll(argv[2]), count = std::atoll(argv[3]);
  const int threads = std::atoi(argv[4]);
  float *table = NewFloats(rows * dim), *beside = NewFloats(rows);
  float *gradients = NewFloats(count * dim), *outputs = NewFloats(count * dim);
  std::vector<int64_t> ids(count);
  auto* move = dim == 16 ? Move<16> : dim == 32 ? Move<32> : dim == 64 ? Move<64> : dim == 128 ? Move<128> : Move<0>;
  while (std::fread(ids.data(), sizeof(int64_t), count, stdin) == static_cast<size_t>(count)) {
    const auto start = std::chrono::steady_clock::now();
    for (bool update : {false, true}) {
      std::vector<std::thread> workers;
      for (int t = 0; t < threads; ++t) {
        workers.emplace_back(move, ids.data(), count * t / threads, count * (t + 1) / threads, dim, table, beside,
                             gradients, outputs, update);
      }
      for (auto& worker : workers) worker.join();
    }
    std::printf("%.9f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    std::fflush(stdout);
  }
}
