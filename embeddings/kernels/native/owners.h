// Who holds an id.
#ifndef HEADRACE_OWNERS_H_
#define HEADRACE_OWNERS_H_

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/op_kernel.h"

#include "id_groups.h"

namespace headrace {

// Who holds an id: a rank; or one behind them, for ids that are common.
class OwnerOf {
 public:
  OwnerOf(const tensorflow::Tensor& owners, const tensorflow::Tensor& common, bool modulo, int64_t ranks)
      : owners_(owners.flat<int64_t>().data()),
        mask_(static_cast<uint64_t>(owners.NumElements()) - 1),
        common_(common.flat<int64_t>().data()),
        common_end_(common_ + common.NumElements()),
        modulo_(modulo),
        ranks_(ranks) {
    while ((int64_t{1} << bits_) < owners.NumElements()) ++bits_;
  }

  int64_t operator()(int64_t id) const {
    if (common_ != common_end_ && std::binary_search(common_, common_end_, id)) return ranks_;
    return owners_[modulo_ ? static_cast<int64_t>(static_cast<uint64_t>(id) & mask_) : Upper(IdHash(id), bits_)];
  }

 private:
  const int64_t* const owners_;
  const uint64_t mask_;
  const int64_t* const common_;
  const int64_t* const common_end_;
  const bool modulo_;
  const int64_t ranks_;
  int bits_ = 0;
};

// Owners of buckets, a power of two of them, each one of `ranks`.
inline tensorflow::Status CheckOwners(const tensorflow::Tensor& owners, int64_t ranks) {
  const int64_t buckets = owners.NumElements();
  if (buckets == 0 || (buckets & (buckets - 1)) != 0) {
    return tensorflow::errors::InvalidArgument("owners: a power of two of buckets is wanted, not ", buckets);
  }
  for (int64_t b = 0; b < buckets; ++b) {
    const int64_t owner = owners.flat<int64_t>()(b);
    if (owner < 0 || owner >= ranks) {
      return tensorflow::errors::InvalidArgument("owners: bucket ", b, " is given to rank ", owner, " of ", ranks);
    }
  }
  return tensorflow::OkStatus();
}

}  // namespace headrace

#endif  // HEADRACE_OWNERS_H_
