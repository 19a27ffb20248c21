#pragma once

#include <string>

// The daemon's log: one line per event on standard error.
namespace finetuned {

enum class Severity { kInfo, kWarning, kError };

// With `journal`, lines carry the journal's priority prefix instead of a time.
void SetLogToJournal(bool journal);
void Log(Severity severity, const std::string& text);

inline void LogInfo(const std::string& text) { Log(Severity::kInfo, text); }
inline void LogWarning(const std::string& text) { Log(Severity::kWarning, text); }
inline void LogError(const std::string& text) { Log(Severity::kError, text); }

}  // namespace finetuned
