#include "grouping.h"

namespace headrace {
namespace {

constexpr int64_t kIdsPerChunk = 8192;
constexpr int64_t kIdsPerPart = 4096;  // whose numbering stays in the nearest caches
constexpr int kPartsPerThread = 4;      // for balance

}  // namespace

Grouping::Grouping(const std::vector<Feature>& features, const std::vector<int64_t>& vocabulary, bool with_singles,
                   tensorflow::thread::ThreadPool* pool, Fault* fault)
    : features_(static_cast<int64_t>(features.size())), chunks_(Chunks(features, kIdsPerChunk)) {
  int64_t total = 0, singles = 0;
  bool shared = false;
  for (const Feature& feature : features) {
    total += feature.size;
    shared |= feature.splits != nullptr || feature.weights != nullptr;
    single_of_.push_back(with_singles && feature.splits == nullptr && feature.weights == nullptr ? singles : -1);
    if (single_of_.back() >= 0) singles += feature.bags;
  }
  singles_ = NewStepBlock<uint8_t>(singles);
  if (singles_ == nullptr) return;
  std::memset(singles_.get(), 0, singles);
  int bits = 0;
  const int64_t most = std::max<int64_t>(kPartsPerThread * pool->NumThreads(), total / kIdsPerPart);
  while (bits < kBinBits && (int64_t{1} << (bits + 1)) <= most && (kIdsPerPart << bits) / 16 < total) ++bits;
  parts_ = int64_t{1} << bits;
  auto part_of = [bits](int64_t key) -> uint64_t { return bits == 0 ? 0 : HashOf(key) >> (64 - bits); };

  const int64_t count = static_cast<int64_t>(chunks_.size());
  std::vector<uint32_t> places(count * parts_, 0);  // [chunk, part]: first how many, then where
  pool->ParallelFor(count, kIdsPerChunk * 3, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Feature& feature = features[chunks_[c].feature];
      if (!CheckChunk(feature, chunks_[c], vocabulary[feature.table], fault)) continue;
      uint32_t* counts = &places[c * parts_];
      const int64_t last = feature.first(chunks_[c].last_bag);
      for (int64_t i = feature.first(chunks_[c].first_bag); i < last; ++i) {
        ++counts[part_of(KeyOf(feature.table, feature.ids[i]))];
      }
    }
  });
  if (fault->any()) return;
  starts_.resize(parts_ * features_);
  ends_.resize(parts_ * features_);
  uint32_t place = 0;
  for (int64_t p = 0; p < parts_; ++p) {
    int64_t c = 0;
    for (int64_t f = 0; f < features_; ++f) {
      starts_[p * features_ + f] = place;
      for (; c < count && chunks_[c].feature == f; ++c) {
        const uint32_t here = places[c * parts_ + p];
        places[c * parts_ + p] = place;
        place += here;
      }
      ends_[p * features_ + f] = place;
    }
  }
  if (shared) {
    shares_ = NewStepBlock<float>(total);
    if (shares_ == nullptr) return;
  }
  occurrences_ = NewStepBlock<Occurrence>(total);
  if (occurrences_ == nullptr) return;
  pool->ParallelFor(count, kIdsPerChunk * 8, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Feature& feature = features[chunks_[c].feature];
      uint32_t* where = &places[c * parts_];
      for (int64_t bag = chunks_[c].first_bag; bag < chunks_[c].last_bag; ++bag) {
        const float norm = shared ? feature.Norm(bag) : 1.0f;
        for (int64_t i = feature.first(bag); i < feature.first(bag + 1); ++i) {
          const int64_t key = KeyOf(feature.table, feature.ids[i]);
          const uint32_t at = where[part_of(key)]++;
          occurrences_[at] = {key, static_cast<uint32_t>(bag), 0};
          if (shared) shares_[at] = feature.weights ? feature.weights[i] * norm : norm;
        }
      }
    }
  });
}

Part::Part(Grouping* grouping, int64_t number)
    : occurrences(grouping->occurrences_.get()),
      shares(grouping->shares_.get()),
      grouping_(grouping),
      starts_(&grouping->starts_[number * grouping->features_]),
      ends_(&grouping->ends_[number * grouping->features_]) {}

uint32_t* Part::Number() {
  constexpr uint32_t kFree = UINT32_MAX;
  thread_local std::vector<uint32_t> table, counts;
  thread_local std::vector<int64_t> keys;
  const int64_t features = grouping_->features_;
  int64_t size = 0;
  for (int64_t f = 0; f < features; ++f) size += ends_[f] - starts_[f];
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * size) ++bits;
  const uint64_t last = (uint64_t{1} << bits) - 1;
  table.assign(last + 1, kFree);
  keys.clear();
  counts.clear();
  for (int64_t f = 0; f < features; ++f) {
    for (uint32_t o = starts_[f]; o < ends_[f]; ++o) {
      const int64_t key = occurrences[o].key;
      uint64_t slot = HashOf(key) & last;
      uint32_t row;
      while ((row = table[slot]) != kFree && keys[row] != key) slot = (slot + 1) & last;
      if (row == kFree) {
        row = static_cast<uint32_t>(keys.size());
        table[slot] = row;
        keys.push_back(key);
        counts.push_back(0);
      }
      ++counts[row];
      occurrences[o].row = row;
    }
  }
  rows_ = static_cast<int64_t>(keys.size());
  for (int64_t f = 0; f < features; ++f) {
    uint8_t* const singles = grouping_->singles(f);
    if (singles == nullptr) continue;
    uint32_t kept = starts_[f];
    for (uint32_t o = starts_[f]; o < ends_[f]; ++o) {
      const Occurrence here = occurrences[o];
      const bool single = counts[here.row] == 1;
      singles[here.bag] = single;  // it was 0, and is this part's alone
      occurrences[kept] = here;
      if (shares) shares[kept] = shares[o];
      kept += !single;
    }
    ends_[f] = kept;
  }
  return counts.data();
}

}  // namespace headrace
