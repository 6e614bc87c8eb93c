#include "bags.h"

namespace headrace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
namespace errors = tensorflow::errors;

Status Layout::Read(OpKernelConstruction* context) {
  std::vector<std::string> combiner_names;
  TF_RETURN_IF_ERROR(context->GetAttr("feature_names", &names));
  TF_RETURN_IF_ERROR(context->GetAttr("table_of", &table_of));
  TF_RETURN_IF_ERROR(context->GetAttr("combiners", &combiner_names));
  TF_RETURN_IF_ERROR(context->GetAttr("N", &features));
  TF_RETURN_IF_ERROR(context->GetAttr("T", &tables));
  TF_RETURN_IF_ERROR(CheckFeatures());
  if (combiner_names.size() != static_cast<size_t>(features)) {
    return errors::InvalidArgument("combiners: one for each of the ", features, " features is wanted");
  }
  for (const std::string& name : combiner_names) {
    if (name == "none") {
      combiners.push_back(Combiner::kNone);
    } else if (name == "sum") {
      combiners.push_back(Combiner::kSum);
    } else if (name == "mean") {
      combiners.push_back(Combiner::kMean);
    } else if (name == "sqrtn") {
      combiners.push_back(Combiner::kSqrtn);
    } else {
      return errors::InvalidArgument("no combiner '", name, "'");
    }
  }
  return tensorflow::OkStatus();
}

Status Layout::CheckFeatures() const {
  const size_t wanted = static_cast<size_t>(features);
  if (names.size() != wanted || table_of.size() != wanted) {
    return errors::InvalidArgument("feature_names and table_of: one for each of the ", features, " features is wanted");
  }
  for (int table : table_of) {
    if (table < 0 || table >= tables) return errors::InvalidArgument("table_of: no table ", table);
  }
  return tensorflow::OkStatus();
}

Status ReadFeatures(OpKernelContext* context, const Layout& layout, int start, std::vector<Feature>* features) {
  for (int f = 0; f < layout.features; ++f) {
    const Tensor& ids = context->input(start + f);
    const Tensor& splits = context->input(start + layout.features + f);
    const Tensor& weights = context->input(start + 2 * layout.features + f);
    Feature feature;
    feature.ids = ids.flat<int64_t>().data();
    feature.size = ids.NumElements();
    feature.splits = splits.NumElements() ? splits.flat<int64_t>().data() : nullptr;
    feature.weights = weights.NumElements() ? weights.flat<float>().data() : nullptr;
    feature.bags = feature.splits ? splits.NumElements() - 1 : feature.size;
    feature.table = layout.table_of[f];
    feature.combiner = layout.combiners[f];
    if (feature.weights && weights.NumElements() != feature.size) {
      return errors::InvalidArgument("feature ", layout.names[f], ": ", weights.NumElements(), " weights for ",
                                     feature.size, " ids: one for each id is wanted");
    }
    if (feature.splits) {
      bool good = feature.splits[0] == 0 && feature.splits[feature.bags] == feature.size;
      for (int64_t b = 0; b < feature.bags; ++b) good &= feature.splits[b] <= feature.splits[b + 1];
      if (!good) {
        return errors::InvalidArgument("feature ", layout.names[f],
                                       ": row_splits must rise from 0 to the number of ids, ", feature.size);
      }
    }
    features->push_back(feature);
  }
  return tensorflow::OkStatus();
}

std::vector<Chunk> Chunks(const std::vector<Feature>& features, int64_t ids_per_chunk) {
  std::vector<Chunk> chunks;
  for (size_t f = 0; f < features.size(); ++f) {
    const Feature& feature = features[f];
    int64_t first = 0;
    while (first < feature.bags) {
      int64_t last = first + 1;
      if (feature.splits == nullptr) {
        last = std::min(feature.bags, first + ids_per_chunk);
      } else {
        while (last < feature.bags && feature.splits[last + 1] - feature.splits[first] <= ids_per_chunk &&
               last - first < ids_per_chunk) {
          ++last;
        }
      }
      chunks.push_back({static_cast<int>(f), first, last});
      first = last;
    }
  }
  return chunks;
}

Status Fault::Status(const Layout& layout, const std::vector<Feature>& features,
                     const std::vector<int64_t>& vocabulary) const {
  const int64_t first = first_.load();
  if (first == kNothing) return tensorflow::OkStatus();
  const int f = static_cast<int>(first >> 40);
  const int64_t place = first & ((int64_t{1} << 40) - 1);
  const Feature& feature = features[f];
  const int64_t rows = vocabulary[feature.table];
  if (static_cast<uint64_t>(feature.ids[place]) >= static_cast<uint64_t>(rows)) {
    return errors::InvalidArgument("feature ", layout.names[f], ": ids outside its vocabulary, 0 to ", rows - 1, ": ",
                                   feature.ids[place], " at position ", place);
  }
  return errors::InvalidArgument("feature ", layout.names[f], ": weights must be finite: ", feature.weights[place],
                                 " at position ", place);
}

}  // namespace headrace
