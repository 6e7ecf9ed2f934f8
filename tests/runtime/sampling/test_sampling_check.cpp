#include "runtime/sampling/sampling_check.h"

#include <catch2/catch_test_macros.hpp>
#include <functional>
#include <limits>

namespace tandem {
namespace {

TEST_CASE("the limits of every sampling field are inside, what is beyond is named", "[sampling]") {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  struct Field {
    const char* name;
    std::function<void(SamplingParams&, float)> set;
    std::vector<float> good, bad;
  };
  const auto bias = [](int32_t token_id) {
    return [token_id](SamplingParams& params, float value) {
      params.logit_bias = {{token_id, value}};
    };
  };
  const std::vector<Field> fields = {
      {"temperature",
       [](auto& p, float v) { p.temperature = v; },
       {0, 2, 100},
       {-0.1f, kNaN, kInf}},
      {"top_p", [](auto& p, float v) { p.top_p = v; }, {1e-6f, 1}, {0, 1.01f, -1, kNaN}},
      {"top_k",
       [](auto& p, float v) { p.top_k = static_cast<int32_t>(v); },
       {-1, 0, 1, 1e6f},
       {-2}},
      {"min_p", [](auto& p, float v) { p.min_p = v; }, {0, 1}, {-0.1f, 1.1f, kNaN}},
      {"repetition_penalty",
       [](auto& p, float v) { p.repetition_penalty = v; },
       {0.1f, 2},
       {0, -1, kNaN, kInf}},
      {"frequency_penalty",
       [](auto& p, float v) { p.frequency_penalty = v; },
       {-2, 2},
       {2.1f, kNaN}},
      {"presence_penalty",
       [](auto& p, float v) { p.presence_penalty = v; },
       {-2, 2},
       {-2.1f, kNaN}},
      {"logit_bias", bias(99), {-100, 100}, {kNaN, kInf}},
      {"logit_bias", bias(100), {}, {1}},
      {"logit_bias", bias(-1), {}, {1}},
  };
  CHECK_FALSE(find_invalid_sampling({}, 100));
  for (const Field& field : fields) {
    INFO(field.name);
    SamplingParams params;
    for (const float value : field.good) {
      field.set(params, value);
      CHECK_FALSE(find_invalid_sampling(params, 100));
    }
    for (const float value : field.bad) {
      field.set(params, value);
      const std::optional<std::string> message = find_invalid_sampling(params, 100);
      REQUIRE(message);
      CHECK(message->find(field.name) != std::string::npos);
      CHECK(message->find("expected") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace tandem
