#include "server/store/store.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/store/schema.h"

namespace finetuned::store {
namespace {

// Parses column `column` of every row.
template <class Message>
absl::StatusOr<std::vector<Message>> ReadAll(Statement& s, int column, const char* what) {
  std::vector<Message> out;
  const absl::Cleanup reset = [&s] { s.Reset(); };
  for (;;) {
    const absl::StatusOr<bool> row = s.Step();
    if (!row.ok()) return row.status();
    if (!*row) return out;
    out.emplace_back();
    if (!out.back().ParseFromString(s.Text(column))) {
      return absl::DataLossError(absl::StrCat("job store: a ", what, " row cannot be read"));
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& database_path) {
  absl::StatusOr<std::unique_ptr<Database>> writer = Database::Open(database_path);
  if (!writer.ok()) return writer.status();
  const absl::Status migrated = Migrate(**writer);
  if (!migrated.ok()) return migrated;
  absl::StatusOr<std::unique_ptr<Database>> reader = Database::Open(database_path);
  if (!reader.ok()) return reader.status();
  return std::unique_ptr<Store>(new Store(*std::move(writer), *std::move(reader)));
}

Statement& Store::Cached(Database& db, std::map<std::string, Statement>& cache, const std::string& sql) {
  auto it = cache.find(sql);
  if (it == cache.end()) {
    absl::StatusOr<Statement> prepared = db.Prepare(sql);
    // A statement that does not prepare is our mistake; it then fails at its first step.
    it = cache.emplace(sql, prepared.ok() ? *std::move(prepared) : Statement()).first;
  }
  return it->second;
}

absl::Status Store::Write(const std::string& sql, const std::function<void(Statement&)>& bind) {
  Statement& statement = Cached(*writer_, write_cache_, sql);
  bind(statement);
  return statement.Run();
}

absl::Status Store::Apply(const Transaction& transaction) {
  const std::lock_guard lock(write_mutex_);
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = writer_->Exec("BEGIN IMMEDIATE");
  if (!status.ok()) return status;
  status = ApplyLocked(transaction);
  if (status.ok()) status = writer_->Exec("COMMIT");
  if (!status.ok()) (void)writer_->Exec("ROLLBACK");
  if (status.ok() && on_commit_) {
    on_commit_(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return status;
}

absl::Status Store::PutMetrics(const std::string& uid, const v1::Event& event) {
  const bool eval = event.has_eval();
  const int64_t step = eval ? event.eval().step() : event.metrics().step();
  const auto& values = eval ? event.eval().values() : event.metrics().values();
  for (const auto& [key, value] : values) {
    if (!std::isfinite(value)) continue;
    const absl::Status status =
        Write("INSERT OR REPLACE INTO metrics VALUES (?,?,?,?,?,?)", [&, &key = key, &value = value](Statement& s) {
          s.Bind(1, uid).Bind(2, key).Bind(3, step).Bind(4, int64_t{event.attempt()}).Bind(5, value);
          s.Bind(6, static_cast<double>(event.time().seconds()) + event.time().nanos() * 1e-9);
        });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Store::ApplyLocked(const Transaction& t) {
  absl::Status status;
  const auto write = [&](const std::string& sql, const std::function<void(Statement&)>& bind) {
    if (status.ok()) status = Write(sql, bind);
  };
  for (const v1::Job* job : t.put_jobs) {
    write("INSERT INTO jobs VALUES (?,?,?,?) ON CONFLICT (uid) DO UPDATE SET job = excluded.job", [&](Statement& s) {
      s.Bind(1, job->uid()).Bind(2, job->name()).Bind(3, job->create_time().seconds() * 1'000'000'000 +
                                                             job->create_time().nanos());
      s.BindBlob(4, job->SerializeAsString());
    });
  }
  for (const auto& [uid, event] : t.events) {
    write("INSERT INTO events VALUES (?,?,?)", [&, &uid = uid, event = event](Statement& s) {
      s.Bind(1, uid).Bind(2, event->sequence()).BindBlob(3, event->SerializeAsString());
    });
    if (status.ok() && (event->has_metrics() || event->has_eval())) status = PutMetrics(uid, *event);
  }
  for (const auto& [uid, checkpoint] : t.put_checkpoints) {
    write("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?)", [&, &uid = uid, &c = checkpoint](Statement& s) {
      s.Bind(1, uid).Bind(2, c.step()).BindBlob(3, c.SerializeAsString());
    });
  }
  for (const v1::Adapter* adapter : t.put_adapters) {
    write("INSERT OR REPLACE INTO adapters VALUES (?,?,?)", [&](Statement& s) {
      s.Bind(1, adapter->name()).Bind(2, adapter->create_time().seconds()).BindBlob(3, adapter->SerializeAsString());
    });
  }
  for (const v1::Dataset* dataset : t.put_datasets) {
    write("INSERT OR REPLACE INTO datasets VALUES (?,?,?)", [&](Statement& s) {
      s.Bind(1, dataset->name()).Bind(2, dataset->create_time().seconds()).BindBlob(3, dataset->SerializeAsString());
    });
  }
  for (const std::string& uid : t.delete_jobs) {
    for (const char* table : {"jobs", "events", "metrics", "checkpoints"}) {
      write(absl::StrCat("DELETE FROM ", table, " WHERE uid = ?"), [&](Statement& s) { s.Bind(1, uid); });
    }
  }
  for (const std::string& name : t.delete_adapters) {
    write("DELETE FROM adapters WHERE name = ?", [&](Statement& s) { s.Bind(1, name); });
  }
  for (const std::string& name : t.delete_datasets) {
    write("DELETE FROM datasets WHERE name = ?", [&](Statement& s) { s.Bind(1, name); });
  }
  for (const RequestRecord& r : t.requests) {
    write("INSERT OR REPLACE INTO requests VALUES (?,?,?,?)", [&](Statement& s) {
      s.Bind(1, r.id).Bind(2, static_cast<int64_t>(std::time(nullptr))).Bind(3, r.digest).BindBlob(4, r.response);
    });
  }
  return status;
}

absl::StatusOr<std::vector<v1::Job>> Store::LoadJobs() {
  const std::lock_guard lock(read_mutex_);
  return ReadAll<v1::Job>(Cached(*reader_, read_cache_, "SELECT job FROM jobs ORDER BY created"), 0, "job");
}

absl::StatusOr<std::vector<v1::Adapter>> Store::LoadAdapters() {
  const std::lock_guard lock(read_mutex_);
  return ReadAll<v1::Adapter>(Cached(*reader_, read_cache_, "SELECT adapter FROM adapters ORDER BY created"), 0,
                              "adapter");
}

absl::StatusOr<std::vector<v1::Dataset>> Store::LoadDatasets() {
  const std::lock_guard lock(read_mutex_);
  return ReadAll<v1::Dataset>(Cached(*reader_, read_cache_, "SELECT dataset FROM datasets ORDER BY created"), 0,
                              "dataset");
}

absl::StatusOr<std::map<std::string, int64_t>> Store::LastSequences() {
  const std::lock_guard lock(read_mutex_);
  Statement& s = Cached(*reader_, read_cache_, "SELECT uid, max(sequence) FROM events GROUP BY uid");
  const absl::Cleanup reset = [&s] { s.Reset(); };
  std::map<std::string, int64_t> out;
  for (;;) {
    const absl::StatusOr<bool> row = s.Step();
    if (!row.ok()) return row.status();
    if (!*row) return out;
    out[s.Text(0)] = s.Int(1);
  }
}

absl::StatusOr<std::vector<v1::Event>> Store::ReadEvents(const std::string& uid, int64_t after, int limit) {
  const std::lock_guard lock(read_mutex_);
  Statement& s = Cached(*reader_, read_cache_,
                        "SELECT event FROM events WHERE uid = ? AND sequence > ? ORDER BY sequence LIMIT ?");
  s.Bind(1, uid).Bind(2, after).Bind(3, int64_t{limit});
  return ReadAll<v1::Event>(s, 0, "event");
}

absl::StatusOr<std::map<std::string, std::vector<MetricRow>>> Store::ReadMetrics(
    const std::string& uid, const std::vector<std::string>& keys, int64_t min_step, int64_t max_step) {
  const std::lock_guard lock(read_mutex_);
  Statement& s = Cached(*reader_, read_cache_,
                        "SELECT key, step, value, wall_time FROM metrics WHERE uid = ? AND step >= ? AND step <= ? "
                        "ORDER BY key, step");
  s.Bind(1, uid).Bind(2, min_step).Bind(3, max_step > 0 ? max_step : INT64_MAX);
  const absl::Cleanup reset = [&s] { s.Reset(); };
  std::map<std::string, std::vector<MetricRow>> out;
  for (;;) {
    const absl::StatusOr<bool> row = s.Step();
    if (!row.ok()) return row.status();
    if (!*row) break;
    const std::string key = s.Text(0);
    if (keys.empty() || std::find(keys.begin(), keys.end(), key) != keys.end()) {
      out[key].push_back({s.Int(1), s.Double(2), s.Double(3)});
    }
  }
  return out;
}

absl::StatusOr<std::vector<v1::Checkpoint>> Store::ReadCheckpoints(const std::string& uid) {
  const std::lock_guard lock(read_mutex_);
  Statement& s = Cached(*reader_, read_cache_, "SELECT checkpoint FROM checkpoints WHERE uid = ? ORDER BY step");
  s.Bind(1, uid);
  return ReadAll<v1::Checkpoint>(s, 0, "checkpoint");
}

absl::StatusOr<std::optional<RequestRecord>> Store::FindRequest(const std::string& id) {
  const std::lock_guard lock(read_mutex_);
  Statement& s = Cached(*reader_, read_cache_, "SELECT digest, response FROM requests WHERE id = ?");
  s.Bind(1, id);
  const absl::Cleanup reset = [&s] { s.Reset(); };
  const absl::StatusOr<bool> row = s.Step();
  if (!row.ok()) return row.status();
  if (!*row) return std::nullopt;
  return RequestRecord{id, s.Text(0), s.Text(1)};
}

absl::Status Store::ExpireRequests(int64_t now_seconds) {
  const std::lock_guard lock(write_mutex_);
  return Write("DELETE FROM requests WHERE created < ?", [&](Statement& s) { s.Bind(1, now_seconds - 86400); });
}

}  // namespace finetuned::store
