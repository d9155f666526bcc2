// The runtime of a device whose memory is the host's.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>

#include "machine.hpp"

namespace moesaic::device_model::internal {

std::int64_t most_shared_bytes() { return cuda::limits_of(current_options().architecture).shared_bytes; }

}  // namespace moesaic::device_model::internal

namespace moesaic::cuda {
namespace {

void order_launches() {
  if (device_model::internal::watcher) device_model::internal::watcher->launches_ordered();
}

}  // namespace

device_facts current_device() {
  if (device_model::internal::self() == nullptr) order_launches();   // a new stream
  auto const& o = device_model::internal::current_options();
  return {o.architecture, o.multiprocessors, device_model::internal::most_shared_bytes(), {}};
}
void* device_allocate(std::size_t bytes) {
  // An exact size, so that AddressSanitizer sees the first byte behind it; aligned_alloc would round it up.
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes == 0 ? 1 : bytes) != 0) return nullptr;
  std::memset(memory, 0xff, bytes);
  return memory;
}
void device_free(void* memory) {
  order_launches();
  std::free(memory);
}
status copy_to_device(stream&, void* to, void const* from, std::size_t bytes) {
  order_launches();
  if (bytes != 0) std::memcpy(to, from, bytes);
  return {};
}
status copy_to_host(stream&, void* to, void const* from, std::size_t bytes) {
  order_launches();
  if (bytes != 0) std::memcpy(to, from, bytes);
  return {};
}
status set_bytes(stream&, void* to, int value, std::size_t bytes) {
  order_launches();
  if (bytes != 0) std::memset(to, value, bytes);
  return {};
}
status synchronize(stream&) {
  order_launches();
  return {};
}

}  // namespace moesaic::cuda
