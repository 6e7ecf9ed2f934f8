#include <fmt/format.h>
#ifdef TANDEM_WITH_MIMALLOC
#include <mimalloc.h>
#endif

#include <boost/json.hpp>
#include <boost/version.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/topology/cpu_isa.h"
#include "server/cli/commands.h"
#include "server/cli/cpu_isa.h"

namespace tandem::cli {
namespace {

std::string compiler_name() {
#if defined(__clang__)
  return fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  return fmt::format("g++ {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

std::string allocator_name() {
#ifdef TANDEM_WITH_MIMALLOC
  const int version = mi_version();
  return fmt::format("mimalloc {}.{}.{}", version / 100, version / 10 % 10, version % 10);
#else
  return "the C library's";
#endif
}

boost::json::object facts(const GpuDescription& describe_gpus) {
  boost::json::object result;
  result["version"] = TANDEM_VERSION;
  result["compiler"] = compiler_name();
  result["build_type"] = TANDEM_BUILD_TYPE;
  result["assertions"] =
#ifdef NDEBUG
      false;
#else
      true;
#endif
  result["cuda"] = TANDEM_CUDA_ENABLED != 0;
  result["gpu"] = describe_gpus();
  result["allocator"] = allocator_name();
  result["boost"] = fmt::format("{}.{}.{}", BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000,
                                BOOST_VERSION % 100);
  const std::vector<std::string> isa = cpu_isa();
  result["cpu_isa"] = boost::json::value_from(isa);
  const char* forced = std::getenv("TANDEM_CPU_ISA");
  if (forced != nullptr && *forced != '\0') result["cpu_isa_forced"] = isa_name(active_isa());
  return result;
}

}  // namespace

int run_version(bool json, const GpuDescription& describe_gpus) {
  const boost::json::object values = facts(describe_gpus);
  if (json) {
    fmt::print("{}\n", boost::json::serialize(values));
    return 0;
  }
  const auto text = [&](const char* key) { return std::string(values.at(key).as_string()); };
  fmt::print("tandem {}\n", text("version"));
  fmt::print("built with    {}, {}{}, Boost {}, {}\n", text("compiler"), text("build_type"),
             values.at("assertions").as_bool() ? " with assertions" : "", text("boost"),
             text("allocator"));
  fmt::print("GPU           {}\n", text("gpu"));
  std::string isa;
  for (const auto& name : values.at("cpu_isa").as_array()) {
    if (!isa.empty()) isa += ' ';
    isa += std::string_view(name.as_string());
  }
  fmt::print("this CPU has  {}\n",
             isa.empty() ? "none of the sets that kernels are written for" : isa);
  if (values.contains("cpu_isa_forced"))
    fmt::print("kernels       forced to {} by TANDEM_CPU_ISA\n", text("cpu_isa_forced"));
  return 0;
}

}  // namespace tandem::cli
