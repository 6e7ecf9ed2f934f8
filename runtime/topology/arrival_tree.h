// Counts workers that have finished or reached a barrier, without one cache line that all of them
// write: eight share a counter, the last of them goes on to the counter above.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <span>
#include <vector>

namespace tandem {

class ArrivalTree {
 public:
  // Workers are numbered node by node; only one worker a node goes on to other nodes' lines.
  explicit ArrivalTree(std::span<const int> node_sizes) {
    std::vector<Group*> tops;  // of the nodes
    for (const int num_workers : node_sizes) {
      std::vector<Group*> level;
      for (size_t worker_idx = 0; worker_idx < static_cast<size_t>(num_workers); ++worker_idx) {
        if (worker_idx % kMaxMembers == 0) level.push_back(&groups_.emplace_back());
        ++level.back()->num_members;
        leaves_.push_back(level.back());
      }
      while (level.size() > 1) level = join(level);
      tops.insert(tops.end(), level.begin(), level.end());
    }
    while (tops.size() > 1) tops = join(tops);
  }

  // True for the last of all workers; the tree has forgotten all arrivals then. What a worker did
  // before its arrival is visible to the last. Each worker once, until all are told to go on.
  bool arrive(int worker_idx) {
    for (Group* group = leaves_[worker_idx]; group != nullptr; group = group->parent) {
      if (group->num_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < group->num_members) {
        return false;
      }
      // Nobody comes here again before the last of all has let everybody go on.
      group->num_arrived.store(0, std::memory_order_relaxed);
    }
    return true;
  }

 private:
  static constexpr size_t kMaxMembers = 8;
  struct alignas(64) Group {
    std::atomic<int> num_arrived{0};
    int num_members = 0;
    Group* parent = nullptr;
  };
  // The groups of the level above.
  std::vector<Group*> join(std::span<Group* const> members) {
    std::vector<Group*> parents;
    for (size_t member_idx = 0; member_idx < members.size(); ++member_idx) {
      if (member_idx % kMaxMembers == 0) parents.push_back(&groups_.emplace_back());
      ++parents.back()->num_members;
      members[member_idx]->parent = parents.back();
    }
    return parents;
  }

  std::deque<Group> groups_;    // never moved
  std::vector<Group*> leaves_;  // of every worker
};

}  // namespace tandem
