#include "grouping.h"

#include <numeric>

#include "distinct.h"

namespace headrace {
namespace {

constexpr int64_t kIdsPerChunk = 8192;
constexpr int64_t kIdsPerPart = 4096;  // whose numbering stays in the nearest caches
constexpr int kPartsPerThread = 4;        // for balance
constexpr int64_t kSample = 1024;         // ids that tell whether a chunk's repeat
constexpr int64_t kFewRepeats = kSample / 8;

}  // namespace

Grouping::Grouping(const std::vector<Feature>& features, const std::vector<int64_t>& vocabulary, bool with_singles,
                   tensorflow::thread::ThreadPool* pool, Fault* fault)
    : features_(static_cast<int64_t>(features.size())), chunks_(Chunks(features, kIdsPerChunk)) {
  int64_t total = 0, singles = 0;
  bool shared = false;
  for (const Feature& feature : features) {
    first_id_.push_back(total);
    total += feature.size;
    shared |= feature.splits != nullptr || feature.weights != nullptr;
    single_of_.push_back(with_singles && feature.splits == nullptr && feature.weights == nullptr ? singles : -1);
    if (single_of_.back() >= 0) singles += feature.bags;
  }
  singles_ = NewStepBlock<uint8_t>(singles);
  sum_of_ = NewStepBlock<uint32_t>(total);
  if (singles_ == nullptr || sum_of_ == nullptr) return;
  std::memset(singles_.get(), 0, singles);
  int bits = 0;
  const int64_t most = std::max<int64_t>(kPartsPerThread * pool->NumThreads(), total / kIdsPerPart);
  while (bits < kBinBits && (int64_t{1} << (bits + 1)) <= most && (kIdsPerPart << bits) / 16 < total) ++bits;
  parts_ = int64_t{1} << bits;
  auto part_of = [bits](int64_t key) -> uint64_t { return bits == 0 ? 0 : HashOf(key) >> (64 - bits); };

  const int64_t count = static_cast<int64_t>(chunks_.size());
  std::vector<uint32_t> places(count * parts_, 0);  // [chunk, part]: first how many, then where
  first_sum_.assign(count + 1, 0);
  pool->ParallelFor(count, kIdsPerChunk * 10, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Feature& feature = features[chunks_[c].feature];
      if (!CheckChunk(feature, chunks_[c], vocabulary[feature.table], fault)) continue;
      uint32_t* counts = &places[c * parts_];
      first_sum_[c + 1] = NumberRepeats(feature, chunks_[c]);
      const uint32_t* const sum_of = first_sum_[c + 1] ? &sum_of_[first_id_[chunks_[c].feature]] : nullptr;
      const int64_t last = feature.first(chunks_[c].last_bag);
      for (int64_t i = feature.first(chunks_[c].first_bag); i < last; ++i) {
        counts[part_of(KeyOf(feature.table, feature.ids[i]))] += sum_of == nullptr || Comes(sum_of[i]);
      }
    }
  });
  if (fault->any()) return;
  std::partial_sum(first_sum_.begin(), first_sum_.end(), first_sum_.begin());
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
      const bool sums = first_sum_[c] != first_sum_[c + 1];
      const uint32_t* const sum_of = sums ? &sum_of_[first_id_[chunks_[c].feature]] : nullptr;
      for (int64_t bag = chunks_[c].first_bag; bag < chunks_[c].last_bag; ++bag) {
        const float norm = shared ? feature.Norm(bag) : 1.0f;
        for (int64_t i = feature.first(bag); i < feature.first(bag + 1); ++i) {
          const uint32_t sum = sum_of ? sum_of[i] : kAlone;
          if (!Comes(sum)) continue;
          const int64_t key = KeyOf(feature.table, feature.ids[i]);
          const uint32_t at = where[part_of(key)]++;
          if (sum == kAlone) {
            occurrences_[at] = {key, static_cast<uint32_t>(bag), 0};
            if (shared) shares_[at] = feature.weights ? feature.weights[i] * norm : norm;
          } else {
            occurrences_[at] = {key, kSummed | static_cast<uint32_t>(first_sum_[c] + (sum & ~kFirst)), 0};
            if (shared) shares_[at] = 1.0f;
          }
        }
      }
    }
  });
}

// Numbers the chunk's sums, one for each id that comes more than once, and says of each id which is its own. Returns how
// many there are; where there are none, nothing is said.
int64_t Grouping::NumberRepeats(const Feature& feature, const Chunk& chunk) {
  CountedIds& distinct = OfThread<CountedIds>();
  std::vector<uint32_t>& counts = distinct.counts();
  uint32_t* const sum_of = &sum_of_[first_id_[chunk.feature]];
  const int64_t first = feature.first(chunk.first_bag), last = feature.first(chunk.last_bag);
  distinct.Begin(last - first);
  auto number = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum_of[i] = distinct.Count(feature.ids[i], HashOf(feature.ids[i]));
  };
  const int64_t sampled = std::min(first + kSample, last);
  number(first, sampled);
  const int64_t repeats = sampled - first - static_cast<int64_t>(counts.size());
  if (sampled < last && repeats < kFewRepeats) return 0;
  number(sampled, last);
  int64_t sums = 0;
  constexpr uint32_t kUnnumbered = kAlone - 1;
  for (uint32_t& of_row : counts) of_row = of_row == 1 ? kAlone : kUnnumbered;
  for (int64_t i = first; i < last; ++i) {
    uint32_t& sum = counts[sum_of[i]];
    const bool fresh = sum == kUnnumbered;
    if (fresh) sum = static_cast<uint32_t>(sums++);
    sum_of[i] = fresh ? sum | kFirst : sum;
  }
  return sums;
}

Part::Part(Grouping* grouping, int64_t number)
    : occurrences(grouping->occurrences_.get()),
      shares(grouping->shares_.get()),
      grouping_(grouping),
      starts_(&grouping->starts_[number * grouping->features_]),
      ends_(&grouping->ends_[number * grouping->features_]) {}

uint32_t* Part::Number() {
  CountedIds& distinct = OfThread<CountedIds>();
  std::vector<uint32_t>& counts = distinct.counts();
  const int64_t features = grouping_->features_;
  int64_t size = 0;
  for (int64_t f = 0; f < features; ++f) size += ends_[f] - starts_[f];
  distinct.Begin(size);
  for (int64_t f = 0; f < features; ++f) {
    for (uint32_t o = starts_[f]; o < ends_[f]; ++o) {
      occurrences[o].row = distinct.Count(occurrences[o].key, HashOf(occurrences[o].key));
    }
  }
  rows_ = static_cast<int64_t>(counts.size());
  for (int64_t f = 0; f < features; ++f) {
    uint8_t* const singles = grouping_->singles(f);
    if (singles == nullptr) continue;
    uint32_t kept = starts_[f];
    for (uint32_t o = starts_[f]; o < ends_[f]; ++o) {
      const Occurrence here = occurrences[o];
      const bool single = counts[here.row] == 1 && here.source < kSummed;
      if (single) singles[here.source] = 1;
      occurrences[kept] = here;
      if (shares) shares[kept] = shares[o];
      kept += !single;
    }
    ends_[f] = kept;
  }
  return counts.data();
}

}  // namespace headrace
