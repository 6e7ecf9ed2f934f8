// The tiny trained model that is served when no other is named.
#pragma once

#include <filesystem>
#include <string>

namespace tandem::cli {

inline constexpr const char* kDemoModelName = "tandem-demo";
inline constexpr const char* kDemoModelNote =
    "a tiny demo model, trained on a few dozen dialogues to show that everything works; it knows "
    "nothing else (--model DIR serves a real one)";

// TANDEM_DEMO_MODEL, else server/demo/model of the source tree this was built from, else
// <executable>/../share/tandem/demo. Throws ConfigError naming the places looked at.
std::filesystem::path find_demo_model();

// `model_dir`, or the demo model when it is empty. Throws ConfigError when it is no folder.
std::filesystem::path resolve_model_dir(const std::string& model_dir);

}  // namespace tandem::cli
