// library.cpp - the simulator's C interface, for src/ops/cuda/sim_driver.rs. Each kernel's
// `muni_sim_invoke_NAME` is generated.
#include "fiber.h"

#pragma GCC visibility push(default)
extern "C" {
/// What a thread needs to run blocks; freed by `muni_sim_free_runner`.
sim::Runner* muni_sim_new_runner() { return new sim::Runner; }
void muni_sim_free_runner(sim::Runner* runner) { delete runner; }
/// Runs the block of that number; null, or what went wrong, valid until the runner's next block.
const char* muni_sim_block(sim::Runner* runner, const sim::Request* request, uint64_t index) {
  return sim::run_block(*runner, *request, index) ? nullptr : runner->message;
}
/// 1 where the kernels are compiled with AddressSanitizer.
int muni_sim_is_sanitized() {
#ifdef SIM_ADDRESS_SANITIZER
  return 1;
#else
  return 0;
#endif
}
}
#pragma GCC visibility pop
