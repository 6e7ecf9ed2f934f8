#include "server/cli/demo_model.h"

#include <cstdlib>
#include <system_error>
#include <vector>

#include "runtime/base/errors.h"

namespace tandem::cli {
namespace {

bool is_model_dir(const std::filesystem::path& dir) {
  std::error_code ec;
  return std::filesystem::is_regular_file(dir / "config.json", ec);
}

std::filesystem::path installed_dir() {
  std::error_code ec;
  const std::filesystem::path executable = std::filesystem::read_symlink("/proc/self/exe", ec);
  return ec ? std::filesystem::path() : executable.parent_path() / "../share/tandem/demo";
}

}  // namespace

std::filesystem::path find_demo_model() {
  const char* from_env = std::getenv("TANDEM_DEMO_MODEL");
  if (from_env != nullptr && *from_env != '\0') {
    if (is_model_dir(from_env)) return from_env;
    throw ConfigError(std::string("TANDEM_DEMO_MODEL=") + from_env +
                      ": no config.json there; expected a checkpoint folder");
  }
  const std::vector<std::filesystem::path> places = {TANDEM_DEMO_MODEL_DIR, installed_dir()};
  std::string looked_at;
  for (const auto& place : places) {
    if (is_model_dir(place)) return place.lexically_normal();
    if (!looked_at.empty()) looked_at += ", ";
    looked_at += place.lexically_normal().string();
  }
  throw ConfigError("no --model given, and no demo model in " + looked_at +
                    " (TANDEM_DEMO_MODEL can name its folder)");
}

std::filesystem::path resolve_model_dir(const std::string& model_dir) {
  if (model_dir.empty()) return find_demo_model();
  std::error_code ec;
  if (!std::filesystem::is_directory(model_dir, ec))
    throw ConfigError(
        "--model " + model_dir +
        ": no such folder; expected a Hugging Face checkpoint folder with config.json");
  return std::filesystem::path(model_dir).lexically_normal();
}

}  // namespace tandem::cli
