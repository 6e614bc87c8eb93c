#include "calls.h"

#include "memory.h"

#include <cstdio>
#include <cstring>

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace headrace {

using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

void OpRound::Begin(Channel* channel) {
  own_ = Prepare();
  if (!own_.ok()) {
    message.call = kFailed;
    message.bytes = 0;
    snprintf(message.words, sizeof(message.words), "%s", std::string(own_.message()).c_str());
  }
  group_->Start(channel, shared_from_this());
}

void OpRound::End(const Outcome& outcome) {
  if (token_ != tensorflow::CancellationManager::kInvalidToken) {
    context_->cancellation_manager()->TryDeregisterCallback(token_);  // too late, it finds nothing or cancels nothing
  }
  switch (outcome.trouble) {
    case Trouble::kNone:
      break;
    case Trouble::kGone:
      context_->SetStatus(errors::Internal(outcome.words));  // TensorFlow makes it of Unavailable, in a function
      break;
    case Trouble::kCancelled:
      context_->SetStatus(errors::Cancelled(outcome.words));
      break;
    case Trouble::kNoMemory:
      context_->SetStatus(errors::ResourceExhausted(outcome.words));
      break;
    case Trouble::kDisagreement:
      context_->SetStatus(own_.ok() ? errors::InvalidArgument(outcome.words) : own_);
      break;
    case Trouble::kBusy:
      context_->SetStatus(errors::FailedPrecondition(outcome.words));
      break;
  }
  done_();
}

void OpRound::Waits() {
  auto* const manager = context_->cancellation_manager();
  if (manager == nullptr) return;
  const auto token = manager->get_cancellation_token();
  std::weak_ptr<OpRound> weak = weak_from_this();
  const bool registered = manager->RegisterCallback(token, [weak, group = group_] {
    if (auto round = weak.lock()) {
      round->Cancel();
      group->Ring();
    }
  });
  if (registered) {
    token_ = token;
  } else {
    Cancel();
  }
}

void OpRound::Say(Call call, const Tensor& value, const TensorShape& shape, uint64_t sizes, const std::string& words) {
  message.call = static_cast<uint32_t>(call);
  message.dtype = static_cast<uint32_t>(value.dtype());
  const auto dimensions = shape.dim_sizes();
  message.shape = Digest(dimensions.data(), dimensions.size() * sizeof(dimensions[0]));
  message.sizes = sizes;
  snprintf(message.words, sizeof(message.words), "%s", words.c_str());
}

absl::Status OpRound::Allocate(const tensorflow::TensorShape& shape) {
  output_ = tensorflow::Tensor(StepMemory(), context_->expected_output_dtype(0), shape);
  if (!output_.IsInitialized() && shape.num_elements() > 0) {
    return tensorflow::errors::ResourceExhausted("no memory for what is received, ", shape.DebugString());
  }
  context_->set_output(0, output_);
  return absl::OkStatus();
}

void OpRound::Parallel(int64_t total, int64_t bytes_each, const std::function<void(int64_t, int64_t)>& work) const {
  constexpr int64_t kAlone = 1 << 20;  // bytes; less is done before another thread has woken
  if (total * bytes_each <= kAlone) {
    work(0, total);
    return;
  }
  auto* const pool = context_->device()->tensorflow_cpu_worker_threads()->workers;
  pool->ParallelFor(total, bytes_each, work);
}

void OpRound::Copy(char* to, const char* from, int64_t bytes) const {
  constexpr int64_t kPiece = 1 << 18;
  Parallel((bytes + kPiece - 1) / kPiece, kPiece, [=](int64_t begin, int64_t end) {
    memcpy(to + begin * kPiece, from + begin * kPiece, std::min(end * kPiece, bytes) - begin * kPiece);
  });
}

}  // namespace headrace
