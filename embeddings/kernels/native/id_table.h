// Which ids have a row, and which row: a hash table of buckets, each a world of its own, with what admission and
// eviction must know. Its twin is embeddings/kernels/reference_ids.py.
#ifndef HEADRACE_ID_TABLE_H_
#define HEADRACE_ID_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "id_groups.h"
#include "rows.h"

namespace headrace {

constexpr uint32_t kNoRow = UINT32_MAX;
constexpr uint32_t kOutOfVocabulary = 0;  // the row of ids that have none

// An id that has a row.
struct Entry {
  int64_t id;
  uint32_t row;
  uint32_t frequency;
  uint32_t last_seen;
};

// Linear probing; places are freed by shifting back, so that no tombstone is left. What is compared lies apart from what
// is only written, four ids a cache line.
class EntryMap {
 public:
  static constexpr int64_t kNone = -1;

  // The id's place, or kNone.
  int64_t Find(int64_t id, uint64_t hash) const {
    if (slots_.empty()) return kNone;
    for (uint64_t place = hash & mask_;; place = (place + 1) & mask_) {
      const Slot& slot = slots_[place];
      if (slot.id == id && slot.row != kNoRow) return static_cast<int64_t>(place);
      if (slot.row == kNoRow) return kNone;
    }
  }

  void PrefetchToFind(uint64_t hash) const {
    if (!slots_.empty()) FetchForReading(&slots_[hash & mask_], sizeof(Slot));
  }

  void Prefetch(uint64_t hash) const {
    if (slots_.empty()) return;
    FetchForWriting(&slots_[hash & mask_], sizeof(Slot));
    FetchForWriting(&last_seen_[hash & mask_], sizeof(uint32_t));
  }

  uint32_t row(int64_t place) const { return slots_[place].row; }

  // The id came in step `now`, `times`: counts it if it has a row. Gives the row, or kNoRow. Whether it has one is as good as
  // random, so nothing branches on it.
  uint32_t See(int64_t id, uint64_t hash, uint32_t now, int64_t times) {
    if (slots_.empty()) return kNoRow;
    uint64_t place = hash & mask_;
    while ((slots_[place].row != kNoRow) & (slots_[place].id != id)) place = (place + 1) & mask_;
    Slot& slot = slots_[place];
    const int64_t frequency = std::min<int64_t>(int64_t{slot.frequency} + times, UINT32_MAX);
    slot.frequency = slot.row != kNoRow ? static_cast<uint32_t>(frequency) : slot.frequency;
    last_seen_[place] = now;  // of a free place it means nothing
    return slot.row;
  }

  void Insert(const Entry& entry, uint64_t hash);
  void Erase(int64_t id);

  int64_t size() const { return size_; }

  // Calls use(entry) for each, in no order that means anything.
  template <typename Use>
  void ForEach(Use use) const {
    for (size_t place = 0; place < slots_.size(); ++place) {
      const Slot& slot = slots_[place];
      if (slot.row != kNoRow) use(Entry{slot.id, slot.row, slot.frequency, last_seen_[place]});
    }
  }

 private:
  struct Slot {
    int64_t id = 0;
    uint32_t row = kNoRow;  // free place
    uint32_t frequency = 0;
  };

  void Place(const Slot& slot, uint32_t last_seen, uint64_t hash);

  std::vector<Slot, SmallBlocks<Slot>> slots_;
  std::vector<uint32_t, SmallBlocks<uint32_t>> last_seen_;
  uint64_t mask_ = 0;
  int64_t size_ = 0;
};

// How often ids came that have no row, approximately: a count-min sketch with conservative update (Estan and Varghese,
// ACM TOCS 2003). After half as many counts as it has counters they are all halved, so that it forgets (TinyLFU, Einziger
// et al., ACM TOS 2017).
struct Sketch {
  static constexpr int kDepth = 4;
  static constexpr int kMost = 255;

  std::vector<uint8_t> counters;
  uint32_t counted = 0;

  // Adds `count` to an id's and returns how often it came.
  int Add(uint64_t hash, int64_t count);
};

enum class Admission { kAll, kFrequency, kProbability };
enum class Eviction { kNone, kTimeToLive, kLeastRecentlyUsed, kLeastFrequentlyUsed };

struct Policy {
  Admission admission = Admission::kAll;
  int64_t threshold = 0, counters = 0;
  double probability = 1.0;
  Eviction eviction = Eviction::kNone;
  int64_t steps_to_live = 0;
  int64_t capacity = 0;  // 0: none
  int bucket_bits = 0;
  uint64_t key = 0;

  int64_t buckets() const { return int64_t{1} << bucket_bits; }
};

// An id without a row that came in this step.
struct Fresh {
  int64_t id;
  uint64_t hash;
  int64_t came = 0;       // times in this step
  int64_t frequency = 0;  // times in all, as far as its bucket knows
  bool admitted = false;
  uint32_t row = kNoRow;  // once it is admitted and numbered
};

class Bucket {
 public:
  explicit Bucket(const Policy& policy) {
    if (policy.admission == Admission::kFrequency) {
      sketch.counters.resize(std::max<int64_t>(policy.counters / policy.buckets(), 16));
    }
  }

  // Whether an id without a row is to get one in step `now`; sets its frequency.
  bool Admits(const Policy& policy, int64_t now, Fresh* fresh);

  // Makes room for `wanted` ids by eviction, and evicts what is due besides; never what came in step `now`. Rows that are
  // free again are appended. Returns for how many there is room.
  int64_t MakeRoom(const Policy& policy, int64_t number, int64_t wanted, int64_t now, std::vector<uint32_t>* freed);

  EntryMap entries;
  Sketch sketch;
};

}  // namespace headrace

#endif  // HEADRACE_ID_TABLE_H_
