// Ids grouped by their hash, so that threads never share one.
#ifndef HEADRACE_ID_GROUPS_H_
#define HEADRACE_ID_GROUPS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "tensorflow/core/lib/core/threadpool.h"

#include "hashing.h"
#include "memory.h"

namespace headrace {

inline uint64_t IdHash(int64_t id) { return SplitMix64(static_cast<uint64_t>(id)); }

// The first bits of a hash.
inline int64_t Upper(uint64_t hash, int bits) { return bits ? static_cast<int64_t>(hash >> (64 - bits)) : 0; }

// Ids are worked on in so many groups by their hash, 2^6, whatever the number of threads.
constexpr int kGroupBits = 6;
constexpr int64_t kFewIds = 32768;  // one group of them is enough: its hash table stays in a core's cache
inline int GroupBits(int64_t ids) { return ids <= kFewIds ? 0 : kGroupBits; }

// Some ids, and where what is found for each is to be written.
struct Ids {
  const int64_t* ids;
  int64_t* found;
  int64_t size;
};

// All ids by the first `bits` of their hash, within a group in the order they came, however many threads there are.
class IdGroups {
 public:
  struct Place {
    int64_t id;
    int64_t* found;
  };

  IdGroups(const std::vector<Ids>& pieces, int bits, tensorflow::thread::ThreadPool* pool) : bits_(bits) {
    std::vector<Ids> chunks;
    int64_t total = 0;
    for (const Ids& piece : pieces) {
      for (int64_t at = 0; at < piece.size; at += kIdsPerChunk) {
        chunks.push_back({piece.ids + at, piece.found + at, std::min(kIdsPerChunk, piece.size - at)});
      }
      total += piece.size;
    }
    const int64_t count = static_cast<int64_t>(chunks.size());
    std::vector<int64_t> where(count * size(), 0);  // [chunk, group]: first how many, then where
    pool->ParallelFor(count, kIdsPerChunk * 4, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        ForEachGroup(chunks[c], [&, counts = &where[c * size()]](int64_t, int64_t group) { ++counts[group]; });
      }
    });
    int64_t place = 0;
    for (int64_t g = 0; g < size(); ++g) {
      starts_.push_back(place);
      for (int64_t c = 0; c < count; ++c) {
        const int64_t here = where[c * size() + g];
        where[c * size() + g] = place;
        place += here;
      }
    }
    starts_.push_back(place);
    places_ = NewStepBlock<Place>(total + 1);
    if (places_ == nullptr) return;
    pool->ParallelFor(count, kIdsPerChunk * 8, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        ForEachGroup(chunks[c], [&, begins = &where[c * size()]](int64_t i, int64_t group) {
          places_[begins[group]++] = {chunks[c].ids[i], chunks[c].found + i};
        });
      }
    });
  }

  // False: there was no memory for it.
  bool ok() const { return places_ != nullptr; }
  int64_t size() const { return int64_t{1} << bits_; }
  int64_t total() const { return starts_.back(); }
  const Place* begin(int64_t group) const { return &places_[starts_[group]]; }
  const Place* end(int64_t group) const { return &places_[starts_[group + 1]]; }

 private:
  static constexpr int64_t kIdsPerChunk = 8192;

  // Calls use(i, group) for each id of a chunk. Hashes are made by the block, which the compiler turns into vectors.
  template <typename Use>
  void ForEachGroup(const Ids& chunk, Use use) const {
    constexpr int64_t kBlock = 256;
    uint64_t hashes[kBlock];
    for (int64_t first = 0; first < chunk.size; first += kBlock) {
      const int64_t count = std::min(kBlock, chunk.size - first);
      for (int64_t i = 0; i < count; ++i) hashes[i] = IdHash(chunk.ids[first + i]);
      for (int64_t i = 0; i < count; ++i) use(first + i, Upper(hashes[i], bits_));
    }
  }

  const int bits_;
  std::vector<int64_t> starts_;
  StepBlock<Place> places_;
};

}  // namespace headrace

#endif  // HEADRACE_ID_GROUPS_H_
