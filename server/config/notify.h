#pragma once

#include <string>

namespace finetuned::config {

// Tells systemd about the daemon's state ("READY=1", "STOPPING=1", "WATCHDOG=1") by a datagram to
// `socket` (Environment::notify_socket); nothing when it is empty. Never blocks.
void Notify(const std::string& socket, const std::string& message);

}  // namespace finetuned::config
