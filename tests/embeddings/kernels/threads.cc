// The kernels' own code on plain threads, for ThreadSanitizer: TensorFlow's pool is not built with it, so its joins would
// not be seen. Built by test_sanitized.py with -DThreadPool=WatchedPool, which makes every header and kernel use the pool
// below. With an argument it races on purpose, to show that a race is seen.
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/lib/core/threadpool.h"

// Nothing is registered here: the kernels are called as functions.
#undef REGISTER_OP
#undef REGISTER_KERNEL_BUILDER
struct NoOp {
  NoOp& Input(const char*) { return *this; }
  NoOp& Output(const char*) { return *this; }
  NoOp& Attr(const char*) { return *this; }
  NoOp& SetIsStateful() { return *this; }
  template <typename Function>
  NoOp& SetShapeFn(Function) {
    return *this;
  }
};
#define JOINED(a, b) a##b
#define NAMED(a, b) JOINED(a, b)
#define REGISTER_OP(name) [[maybe_unused]] static NoOp NAMED(no_op_, __COUNTER__) = NoOp()
#define REGISTER_KERNEL_BUILDER(name, kernel) static_assert(true, "")
#include "id_ops.cc"
#include "lookup.cc"
#include "update.cc"

namespace tsl {
namespace thread {

constexpr int kThreads = 4;

int ThreadPool::NumThreads() const { return kThreads; }

void ThreadPool::ParallelFor(int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  const int64_t block = std::max<int64_t>(1, total / (4 * kThreads));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t b = t * block; b < total; b += kThreads * block) work(b, std::min(b + block, total));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace thread
}  // namespace tsl

using namespace headrace;
using tensorflow::thread::ThreadPool;

constexpr int64_t kWidth = 16, kTableRows = 3000;

// One feature of single ids, half of them hot, and two of bags, one weighted.
struct Batch {
  std::vector<int64_t> ids[3], splits[3];
  std::vector<float> gradients[3], weights[3], outputs[3];
  std::vector<Feature> features;
  std::vector<const float*> gradients_of;
  int64_t total = 0;

  explicit Batch(std::mt19937_64& random) {
    for (int f = 0; f < 3; ++f) {
      int64_t bags = f == 0 ? 20000 : 3000;
      if (f > 0) splits[f].push_back(0);
      for (int64_t b = 0; b < bags; ++b) {
        const int64_t count = f == 0 ? 1 : random() % 12;
        for (int64_t i = 0; i < count; ++i) ids[f].push_back(random() % (random() % 2 ? 50 : kTableRows));
        if (f > 0) splits[f].push_back(ids[f].size());
      }
      gradients[f].assign(bags * kWidth, 0.01f);
      outputs[f].resize(bags * kWidth);
      weights[f].assign(ids[f].size(), 0.5f);
      const int64_t size = ids[f].size();
      features.push_back({ids[f].data(), f > 0 ? splits[f].data() : nullptr, f == 2 ? weights[f].data() : nullptr, size,
                          bags, 0, f > 0 ? Combiner::kMean : Combiner::kNone});
      gradients_of.push_back(gradients[f].data());
      total += size;
    }
  }
};

void LookUpAndUpdate(ThreadPool* pool, std::mt19937_64& random) {
  std::vector<float> rows(kTableRows * kWidth), row_sums(kTableRows, 0.1f), momentum(kTableRows * kWidth), velocity(kTableRows * kWidth);
  std::vector<uint16_t> half(kTableRows * kWidth);
  enum Way { kPlain, kByNorm, kAdam, kRounded, kWays };
  for (int way = 0; way < 2 * kWays; ++way) {
    Batch batch(random);
    std::vector<TableState> states(1);
    TableState& state = states[0];
    state = {};
    state.rows = rows.data();
    state.slots[0] = row_sums.data();
    state.precision = state.slot_precision = tensorflow::DT_FLOAT;
    state.norm_scale = 1.0f;
    state.step = {0.1f, 1.0f, INFINITY, way % kWays == kByNorm ? 0.5f : INFINITY, {1e-7f, 0.001f, 1e-7f, 0.1f}};
    Fault fault;
    Grouping grouping(batch.features, {kTableRows}, way % kWays != kByNorm, pool, &fault);
    const StepBlock<float> sums = NewStepBlock<float>(grouping.sums() * kWidth);
    const auto run = [&](auto backward) { backward.Run(&grouping, pool, batch.total); };
    if (way % kWays == kAdam) {
      state.slots[0] = momentum.data();
      state.slots[1] = velocity.data();
      run(Backward<PlainRows<Adam, 0>>(batch.features, batch.gradients_of, states, kWidth, sums.get()));
    } else if (way % kWays == kRounded) {
      state.rows = half.data();
      state.precision = tensorflow::DT_BFLOAT16;
      run(Backward<RoundedRows<RowWiseAdagrad>>(batch.features, batch.gradients_of, states, kWidth, sums.get()));
    } else {
      run(Backward<PlainRows<RowWiseAdagrad, kWidth>>(batch.features, batch.gradients_of, states, kWidth, sums.get()));
    }
    const auto pool_chunk = PoolChunkOf(tensorflow::DT_FLOAT, kWidth);
    const std::vector<Chunk> chunks = Chunks(batch.features, 2048);
    pool->ParallelFor(chunks.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int f = chunks[c].feature;
        pool_chunk(batch.features[f], chunks[c], rows.data(), kWidth, true, batch.outputs[f].data());
      }
    });
  }
}

void FindAndInsert(ThreadPool* pool, std::mt19937_64& random, Admission admission, Eviction eviction) {
  Policy policy;
  policy.bucket_bits = 8;
  policy.admission = admission;
  policy.threshold = 2;
  policy.counters = 1 << 16;
  policy.eviction = eviction;
  policy.capacity = eviction == Eviction::kNone ? 0 : 20000;
  policy.steps_to_live = 3;
  auto* const table = new IdTable(policy);
  std::vector<int64_t> identities;
  std::vector<float> rows, slot;
  for (int step = 0; step < 12; ++step) {
    std::vector<int64_t> ids[2] = {std::vector<int64_t>(30000), std::vector<int64_t>(5000)}, found[2];
    for (auto& feature : ids) {
      for (int64_t& id : feature) id = random() % 60000;
    }
    for (int f = 0; f < 2; ++f) found[f].assign(ids[f].size(), 1);  // how often each came
    std::vector<Ids> features;
    for (int f = 0; f < 2; ++f) features.push_back({ids[f].data(), found[f].data(), static_cast<int64_t>(ids[f].size())});
    const auto status = table->FindOrInsert(features, true, pool, [&](int64_t count, NewRows* made) {
      identities.resize(count);
      rows.resize(count * 4);
      slot.resize(count);
      made->identities = identities.data();
      made->rows = rows.data();
      made->dtype = tensorflow::DT_FLOAT;
      made->first_column = 0;
      made->dim = 4;
      made->scale = 0.05f;
      made->slots.push_back({slot.data(), tensorflow::DT_FLOAT, 1, 0.1f});
      return tensorflow::OkStatus();
    });
    if (!status.ok()) std::exit(1);
    std::vector<std::thread> finders;  // side by side, as evaluation does
    std::vector<std::vector<int64_t>> answers(3, std::vector<int64_t>(ids[0].size()));
    for (auto& answer : answers) {
      finders.emplace_back([&] { table->Find({{ids[0].data(), answer.data(), static_cast<int64_t>(answer.size())}}, pool); });
    }
    for (std::thread& finder : finders) finder.join();
  }
  table->Unref();
}

int main(int words, char**) {
  // The pool is only ever asked for what is defined above, none of which looks at the object.
  alignas(64) static char place[sizeof(ThreadPool)];
  auto* const pool = reinterpret_cast<ThreadPool*>(place);
  if (words > 1) {
    int64_t shared = 0;
    pool->ParallelFor(100, 1, [&](int64_t begin, int64_t end) { shared += end - begin; });
    std::printf("%ld\n", static_cast<long>(shared));
    return 0;
  }
  std::mt19937_64 random(1);
  LookUpAndUpdate(pool, random);
  FindAndInsert(pool, random, Admission::kAll, Eviction::kNone);
  FindAndInsert(pool, random, Admission::kFrequency, Eviction::kLeastRecentlyUsed);
  FindAndInsert(pool, random, Admission::kAll, Eviction::kTimeToLive);
  std::printf("done\n");
}
