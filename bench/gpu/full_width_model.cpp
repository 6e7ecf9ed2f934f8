// Writes a model of Kimi-K2's full width with one dense and one MoE layer, of random weights, for
// the tests on a machine with a card: too large to be carried there.
//   full_width_model DIR [EXPERTS]      384 experts: 16 GiB
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "runtime/model/synthetic_checkpoint.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: full_width_model DIR [EXPERTS]\n");
    return 2;
  }
  tandem::SyntheticOptions options;
  options.config = tandem::k2_thinking_config();
  options.config.num_hidden_layers = 2;
  if (argc > 2) options.config.n_routed_experts = std::atoi(argv[2]);
  options.overwrite = true;
  try {
    tandem::write_synthetic_checkpoint(argv[1], options, {});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "full_width_model: %s\n", error.what());
    return 1;
  }
  return 0;
}
