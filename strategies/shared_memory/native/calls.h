// A communicator's call as an op: it says what it sends, takes what comes, and ends when all ranks have taken part.
#ifndef HEADRACE_SHARED_CALLS_H_
#define HEADRACE_SHARED_CALLS_H_

#include <memory>
#include <string>

#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_base.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/platform/refcount.h"

#include "group.h"

namespace headrace {

// What a resource of type channel holds. The channel lives as long as the process.
class ChannelResource : public tensorflow::ResourceBase {
 public:
  ChannelResource(Group* group, Channel* channel) : group(group), channel(channel) {}
  std::string DebugString() const override { return channel->name; }
  Group* const group;
  Channel* const channel;
};

enum class Call : uint32_t { kAllToAll = 1, kAllGather, kAllReduce, kBroadcast };

// A round whose values are the tensors of an op.
class OpRound : public Round, public std::enable_shared_from_this<OpRound> {
 public:
  OpRound(tensorflow::OpKernelContext* context, tensorflow::AsyncOpKernel::DoneCallback done, Group* group)
      : context_(context), done_(std::move(done)), group_(group) {}

  // Looks at the inputs, allocates the output, sets the message. What it finds wrong the others are told.
  virtual absl::Status Prepare() = 0;
  void Begin(Channel* channel);

  void End(const Outcome& outcome) final;
  void Waits() final;

 protected:
  void Say(Call call, const tensorflow::Tensor& value, const tensorflow::TensorShape& shape, uint64_t sizes,
           const std::string& words);
  // The output, of memory that is kept for the next step's: page faults would cost more than the exchange.
  absl::Status Allocate(const tensorflow::TensorShape& shape);
  // Over the device's threads where there is much to do.
  void Parallel(int64_t total, int64_t bytes_each, const std::function<void(int64_t, int64_t)>& work) const;
  void Copy(char* to, const char* from, int64_t bytes) const;

  tensorflow::OpKernelContext* const context_;
  const tensorflow::AsyncOpKernel::DoneCallback done_;
  Group* const group_;
  tensorflow::Tensor output_;

 private:
  absl::Status own_;  // what Prepare found
  tensorflow::CancellationToken token_ = tensorflow::CancellationManager::kInvalidToken;
};

inline uint64_t Digest(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325u) {  // FNV-1a
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return hash;
}

template <typename Kind>
class CallOp : public tensorflow::AsyncOpKernel {
 public:
  explicit CallOp(tensorflow::OpKernelConstruction* context) : AsyncOpKernel(context), options_(context) {}

  void ComputeAsync(tensorflow::OpKernelContext* context, DoneCallback done) override {
    tensorflow::core::RefCountPtr<ChannelResource> resource;
    OP_REQUIRES_OK_ASYNC(context, tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, 0), &resource), done);
    auto round = std::make_shared<Kind>(context, std::move(done), resource->group, options_);
    round->Begin(resource->channel);
  }

 private:
  const typename Kind::Options options_;
};

struct NoOptions {
  explicit NoOptions(tensorflow::OpKernelConstruction*) {}
};

}  // namespace headrace

#endif  // HEADRACE_SHARED_CALLS_H_
