// A feature whose bags are pooled where their rows are: of each bag, the ids that one rank holds are one request.
#ifndef HEADRACE_OWNER_POOLING_H_
#define HEADRACE_OWNER_POOLING_H_

#include <cstdint>
#include <vector>

#include "tensorflow/core/lib/core/threadpool.h"

#include "bags.h"
#include "distinct.h"
#include "id_groups.h"
#include "memory.h"
#include "owners.h"

namespace headrace {

// On an id as it travels: it is asked for together with the one before. Ids of static tables are smaller.
constexpr int64_t kJoins = int64_t{1} << 62;
constexpr int64_t kIdBytes = 8;
// Of a feature with more ids than this, the distinct ones are estimated from those with one hash value in 16.
constexpr int64_t kCountedInFull = 16384;
constexpr uint64_t kSampleOf = 16;

class PooledAtOwner {
 public:
  // Goes through the bags once: how many requests they make of each rank, with how many ids.
  PooledAtOwner(const Feature& feature, const OwnerOf& owner_of, int64_t ranks, tensorflow::thread::ThreadPool* pool)
      : feature_(feature), owner_of_(owner_of), ranks_(ranks), chunks_(Chunks({feature}, kIdsPerChunk)) {
    const int64_t count = chunks();
    ids_.assign(count * ranks, 0);
    requests_.assign(count * ranks, 0);
    common_.assign(count, 0);
    sampled_.resize(count);
    pool->ParallelFor(count, kIdsPerChunk * 8, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) CountChunk(c);
    });
  }

  // Whether pooled vectors and gradients, with every id, are fewer bytes than those of the distinct ids. row_bytes: of a
  // vector and its gradient.
  bool MovesLess(int64_t row_bytes) const {
    int64_t ids = 0, requests = 0, sampled = 0;
    for (int64_t of_chunk : ids_) ids += of_chunk;
    for (int64_t of_chunk : requests_) requests += of_chunk;
    for (const auto& of_chunk : sampled_) sampled += of_chunk.size();
    DistinctIds& numbers = OfThread<DistinctIds>();
    numbers.Begin(sampled);
    for (const auto& of_chunk : sampled_) {
      for (int64_t id : of_chunk) numbers.Number(id, IdHash(id));
    }
    const int64_t distinct = static_cast<int64_t>(numbers.ids().size() * (SampleMask() + 1));
    return kIdBytes * ids + row_bytes * requests < (kIdBytes + row_bytes) * distinct;
  }

  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()); }
  int64_t ids(int64_t chunk, int64_t rank) const { return ids_[chunk * ranks_ + rank]; }
  int64_t requests(int64_t chunk, int64_t rank) const { return requests_[chunk * ranks_ + rank]; }
  int64_t common(int64_t chunk) const { return common_[chunk]; }

  // The ids of a chunk that no rank owns, in order.
  void CopyCommon(int64_t chunk, int64_t* to) const {
    ForEachId(chunk, [&](int64_t, int64_t id, int64_t owner) {
      if (owner == ranks_) *to++ = id;
    });
  }

  // Writes a chunk's part of what is sent and of the bags over requests. id_at, request_at: [ranks], where the chunk's
  // begin, counted on; sent: [.., width] ids as they travel, and with a width of 2 how often each came; common: the
  // requests of the chunk's common ids, in order; places: the requests of all bags, from `first` on this chunk's; splits:
  // where each bag's begin.
  void WriteChunk(int64_t chunk, int64_t* id_at, int64_t* request_at, int64_t* sent, int64_t width, const int64_t* common,
                  int64_t first, int64_t* places, int64_t* splits) const {
    std::vector<int64_t> last_bag(ranks_, -1);
    int64_t* place = places + first;
    int64_t next_bag = chunks_[chunk].first_bag;
    ForEachId(chunk, [&](int64_t bag, int64_t id, int64_t owner) {
      for (; next_bag <= bag; ++next_bag) splits[next_bag] = place - places;
      if (owner == ranks_) {
        *place++ = *common++;
        return;
      }
      const bool joins = last_bag[owner] == bag;
      int64_t* const entry = sent + id_at[owner]++ * width;
      entry[0] = joins ? id | kJoins : id;
      if (width == 2) entry[1] = 1;
      if (joins) return;
      last_bag[owner] = bag;
      *place++ = request_at[owner]++;
    });
    for (; next_bag < chunks_[chunk].last_bag; ++next_bag) splits[next_bag] = place - places;
  }

 private:
  static constexpr int64_t kIdsPerChunk = 8192;

  uint64_t SampleMask() const { return feature_.size > kCountedInFull ? kSampleOf - 1 : 0; }

  void CountChunk(int64_t chunk) {
    std::vector<int64_t> last_bag(ranks_, -1);
    int64_t* const ids = &ids_[chunk * ranks_];
    int64_t* const requests = &requests_[chunk * ranks_];
    const uint64_t mask = SampleMask();
    ForEachId(chunk, [&](int64_t bag, int64_t id, int64_t owner) {
      if (owner == ranks_) {
        ++common_[chunk];
        return;
      }
      ++ids[owner];
      if (last_bag[owner] != bag) {
        last_bag[owner] = bag;
        ++requests[owner];
      }
      if ((IdHash(id) & mask) == 0) sampled_[chunk].push_back(id);
    });
  }

  // Calls use(bag, id, owner) for each id of a chunk.
  template <typename Use>
  void ForEachId(int64_t chunk, Use use) const {
    for (int64_t bag = chunks_[chunk].first_bag; bag < chunks_[chunk].last_bag; ++bag) {
      for (int64_t i = feature_.first(bag); i < feature_.first(bag + 1); ++i) {
        use(bag, feature_.ids[i], owner_of_(feature_.ids[i]));
      }
    }
  }

  const Feature feature_;
  const OwnerOf& owner_of_;
  const int64_t ranks_;
  const std::vector<Chunk> chunks_;
  std::vector<int64_t> ids_, requests_;  // [chunk, rank]
  std::vector<int64_t> common_;          // [chunk]
  std::vector<std::vector<int64_t>> sampled_;
};

}  // namespace headrace

#endif  // HEADRACE_OWNER_POOLING_H_
