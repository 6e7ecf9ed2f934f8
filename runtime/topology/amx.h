// AMX tiles: whether this process may use them.
#pragma once

namespace tandem {

// Asks the system for the tiles (Linux grants them on request only) and executes a tile instruction
// once: there are virtual machines that announce AMX and trap on it. Tried once a process, before
// threads are started that use tiles, since those inherit the permission.
bool amx_works();

}  // namespace tandem
