#include "id_table.h"

#include <algorithm>
#include <tuple>

namespace headrace {

void EntryMap::Place(const Slot& slot, uint32_t last_seen, uint64_t hash) {
  uint64_t place = hash & mask_;
  while (slots_[place].row != kNoRow) place = (place + 1) & mask_;
  slots_[place] = slot;
  last_seen_[place] = last_seen;
}

void EntryMap::Insert(const Entry& entry, uint64_t hash) {
  if (10 * (size_ + 1) > 7 * static_cast<int64_t>(slots_.size())) {
    const size_t places = slots_.size() < 512 ? std::max<size_t>(4 * slots_.size(), 32) : 2 * slots_.size();
    decltype(slots_) slots(places);
    decltype(last_seen_) last_seen(places);
    slots.swap(slots_);
    last_seen.swap(last_seen_);
    mask_ = places - 1;
    for (size_t old = 0; old < slots.size(); ++old) {
      if (slots[old].row != kNoRow) Place(slots[old], last_seen[old], IdHash(slots[old].id));
    }
  }
  Place({entry.id, entry.row, entry.frequency}, entry.last_seen, hash);
  ++size_;
}

void EntryMap::Erase(int64_t id) {
  uint64_t hole = static_cast<uint64_t>(Find(id, IdHash(id)));
  for (uint64_t next = (hole + 1) & mask_; slots_[next].row != kNoRow; next = (next + 1) & mask_) {
    const uint64_t home = IdHash(slots_[next].id) & mask_;
    if (((next - home) & mask_) >= ((next - hole) & mask_)) {  // it may move back to the hole
      slots_[hole] = slots_[next];
      last_seen_[hole] = last_seen_[next];
      hole = next;
    }
  }
  slots_[hole].row = kNoRow;
  --size_;
}

int Sketch::Add(uint64_t hash, int64_t count) {
  uint8_t* of_id[kDepth];
  int least = kMost;
  for (int k = 0; k < kDepth; ++k) {
    of_id[k] = &counters[SplitMix64(hash + 1 + k) % counters.size()];
    least = std::min<int>(least, *of_id[k]);
  }
  const int seen = static_cast<int>(std::min<int64_t>(least + count, kMost));
  for (uint8_t* counter : of_id) *counter = std::max<uint8_t>(*counter, seen);
  counted += static_cast<uint32_t>(std::min<int64_t>(count, kMost));
  if (counted >= counters.size() / 2) {
    for (uint8_t& counter : counters) counter /= 2;
    counted = 0;
  }
  return seen;
}

bool Bucket::Admits(const Policy& policy, int64_t now, Fresh* fresh) {
  fresh->frequency = fresh->came;
  if (policy.admission == Admission::kFrequency) {
    fresh->frequency = sketch.Add(fresh->hash, fresh->came);
    return fresh->frequency >= policy.threshold;
  }
  if (policy.admission == Admission::kProbability) {
    const uint64_t draw = SplitMix64(policy.key + fresh->hash) + static_cast<uint64_t>(now) * 0x9E3779B97F4A7C15ull;
    for (int64_t k = 0; k < fresh->came; ++k) {
      if ((SplitMix64(draw + k) >> 11) * 0x1p-53 < policy.probability) return true;
    }
    return false;
  }
  return true;
}

int64_t Bucket::MakeRoom(const Policy& policy, int64_t number, int64_t wanted, int64_t now,
                         std::vector<uint32_t>* freed) {
  std::vector<Entry> victims;
  if (policy.eviction == Eviction::kTimeToLive) {
    const int64_t period = std::max<int64_t>(policy.steps_to_live / 8, 1);
    if (now % period == number % period) {  // some buckets at each step
      entries.ForEach([&](const Entry& entry) {
        if (entry.last_seen + policy.steps_to_live <= now) victims.push_back(entry);
      });
      std::sort(victims.begin(), victims.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
    }
  }
  const int64_t capacity = policy.capacity ? policy.capacity / policy.buckets() : INT64_MAX;
  const bool by_use = policy.eviction == Eviction::kLeastRecentlyUsed || policy.eviction == Eviction::kLeastFrequentlyUsed;
  if (by_use && entries.size() + wanted > capacity) {
    entries.ForEach([&](const Entry& entry) {
      if (entry.last_seen != now) victims.push_back(entry);
    });
    const bool recent = policy.eviction == Eviction::kLeastRecentlyUsed;
    std::sort(victims.begin(), victims.end(), [recent](const Entry& a, const Entry& b) {
      return recent ? std::tie(a.last_seen, a.frequency, a.id) < std::tie(b.last_seen, b.frequency, b.id)
                    : std::tie(a.frequency, a.last_seen, a.id) < std::tie(b.frequency, b.last_seen, b.id);
    });
    // a sixteenth more than is needed, so that not every step has to sort
    const int64_t most = entries.size() + std::min(wanted, capacity) - capacity + capacity / 16;
    if (most < static_cast<int64_t>(victims.size())) victims.resize(std::max<int64_t>(most, 0));
  }
  for (const Entry& victim : victims) {
    entries.Erase(victim.id);
    freed->push_back(victim.row);
  }
  return std::max<int64_t>(std::min(wanted, capacity - entries.size()), 0);
}

}  // namespace headrace
