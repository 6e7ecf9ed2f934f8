#include "runtime/topology/cgroup.h"

#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <string>

namespace tandem::tests {
namespace {

namespace fs = std::filesystem;

// A folder that looks like /sys/fs/cgroup, with a file like /proc/self/cgroup beside it.
class FakeCgroup {
 public:
  explicit FakeCgroup(const std::string& membership)
      : root_(fs::temp_directory_path() / ("tandem_cgroup_" + std::to_string(::getpid()))) {
    fs::create_directories(root_ / "mount");
    std::ofstream(root_ / "membership") << membership;
  }
  FakeCgroup(const FakeCgroup&) = delete;
  FakeCgroup& operator=(const FakeCgroup&) = delete;
  ~FakeCgroup() { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& content) const {
    const fs::path path = root_ / "mount" / file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << content;
  }
  [[nodiscard]] Cgroup read() const { return {root_ / "membership", root_ / "mount"}; }

 private:
  fs::path root_;
};

TEST_CASE("without files there are no limits", "[topology]") {
  const FakeCgroup fake("0::/\n");
  CHECK(fake.read().cpu_limit() == std::nullopt);
  CHECK(fake.read().memory_left_bytes() == std::nullopt);
  const Cgroup absent("/absent/membership", "/absent/mount");
  CHECK(absent.cpu_limit() == std::nullopt);
}

TEST_CASE("the least limit of a group and those around it counts", "[topology]") {
  const FakeCgroup fake("0::/outer/inner\n");
  fake.write("cpu.max", "max 100000\n");
  fake.write("outer/cpu.max", "150000 100000\n");
  fake.write("outer/inner/cpu.max", "800000 100000\n");
  CHECK(fake.read().cpu_limit() == 1.5);

  fake.write("memory.max", "max\n");
  fake.write("memory.current", "5\n");
  fake.write("outer/memory.max", "1000\n");
  fake.write("outer/memory.current", "700\n");
  fake.write("outer/memory.stat", "anon 400\ninactive_file 200\nactive_file 50\n");
  fake.write("outer/inner/memory.max", "900\n");
  fake.write("outer/inner/memory.current", "100\n");
  CHECK(fake.read().memory_left_bytes() == 550);

  CHECK(fake.read().huge_pages_left_bytes() == std::nullopt);
  fake.write("outer/hugetlb.2MB.max", "8388608\n");
  fake.write("outer/hugetlb.2MB.current", "6291456\n");
  fake.write("outer/inner/hugetlb.2MB.max", "max\n");
  fake.write("outer/inner/hugetlb.2MB.current", "2097152\n");
  CHECK(fake.read().huge_pages_left_bytes() == 2097152);
}

TEST_CASE("reserved huge pages have their limit in version 1, too", "[topology]") {
  const FakeCgroup fake("4:hugetlb:/box\n0::/\n");
  fake.write("hugetlb/hugetlb.2MB.limit_in_bytes", "9223372036852678656\n");
  fake.write("hugetlb/hugetlb.2MB.usage_in_bytes", "0\n");
  fake.write("hugetlb/box/hugetlb.2MB.limit_in_bytes", "4194304\n");
  fake.write("hugetlb/box/hugetlb.2MB.usage_in_bytes", "6291456\n");
  CHECK(fake.read().huge_pages_left_bytes() == 0);
}

TEST_CASE("a container's path that is the host's finds the group at the mount", "[topology]") {
  const FakeCgroup fake("0::/system.slice/docker-abc.scope\n");
  fake.write("cpu.max", "200000 100000\n");
  CHECK(fake.read().cpu_limit() == 2.0);
}

TEST_CASE("limits of version 1 count, also beside version 2", "[topology]") {
  const FakeCgroup fake("4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n");
  fake.write("cpu/job/cpu.cfs_quota_us", "300000\n");
  fake.write("cpu/job/cpu.cfs_period_us", "100000\n");
  fake.write("cpu/cpu.cfs_quota_us", "-1\n");
  fake.write("cpu/cpu.cfs_period_us", "100000\n");
  fake.write("memory/job/memory.limit_in_bytes", "4096\n");
  fake.write("memory/job/memory.usage_in_bytes", "5000\n");
  fake.write("memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  fake.write("memory/memory.usage_in_bytes", "1\n");
  CHECK(fake.read().cpu_limit() == 3.0);
  CHECK(fake.read().memory_left_bytes() == 0);
  fake.write("unified/cpu.max", "100000 100000\n");
  CHECK(fake.read().cpu_limit() == 1.0);
}

TEST_CASE("what is not a limit is none", "[topology]") {
  const FakeCgroup fake("nonsense\n:\n0::/\n");
  fake.write("cpu.max", "-5 0\n");
  CHECK(fake.read().cpu_limit() == std::nullopt);
  fake.write("cpu.max", "");
  CHECK(fake.read().cpu_limit() == std::nullopt);
}

}  // namespace
}  // namespace tandem::tests
