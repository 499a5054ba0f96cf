// invoke.h - kernels as functions of cuLaunchKernel's argument convention: an array of pointers to
// the arguments.
#pragma once
#include <string>

#include "cuda.h"

namespace sim {

template <class... P, size_t... I>
void unpack(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
}
template <class... P>
void unpack(void (*kernel)(P...), void** arguments) {
  unpack(kernel, arguments, std::index_sequence_for<P...>{});
}
/// `Kernel`, taking its arguments as an array of pointers.
template <auto Kernel>
void invoke(void** arguments) {
  unpack(Kernel, arguments);
}

/// The entry of a kernel in a library of the simulator, for src/ops/cuda/sim_driver.rs.
#define SIM_EXPORT(kernel, name)                                                             \
  extern "C"                                                                                 \
      __attribute__((visibility("default"))) void muni_sim_invoke_##name(void** arguments) { \
    ::sim::invoke<&kernel>(arguments);                                                       \
  }

/// Runs a whole grid on this thread, for tests in C++; empty, or what went wrong.
template <auto Kernel>
std::string run(const char* name, dim3 grid, unsigned threads, unsigned shared_bytes,
                Schedule schedule, void** arguments, uint8_t poison = 0xff) {
  const Request request{invoke<Kernel>, name,     arguments, {grid.x, grid.y, grid.z}, threads,
                        shared_bytes,   schedule, poison,    uint32_t(schedule) & 1};
  Runner here;
  for (uint64_t index = 0; index < uint64_t(grid.x) * grid.y * grid.z; ++index)
    if (!run_block(here, request, index)) return here.message;
  return {};
}

}  // namespace sim
