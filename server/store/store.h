#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "finetuned/v1/adapters.pb.h"
#include "finetuned/v1/datasets.pb.h"
#include "finetuned/v1/events.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/store/sqlite.h"

namespace finetuned::store {

// Answer of an earlier mutation, kept 24 hours by request_id.
struct RequestRecord {
  std::string id;        // method and request_id
  std::string digest;    // of the request: the same id with another content is an error
  std::string response;  // serialized answer
};

// Changes that become durable together or not at all.
struct Transaction {
  std::vector<const v1::Job*> put_jobs;
  std::vector<std::string> delete_jobs;  // uid: also its events, metrics and checkpoints
  struct JobEvent {
    std::string uid;
    const v1::Event* event;
  };
  std::vector<JobEvent> events;          // sequence and attempt already set
  std::vector<std::pair<std::string, v1::Checkpoint>> put_checkpoints;  // by job uid
  std::vector<const v1::Adapter*> put_adapters;
  std::vector<std::string> delete_adapters;
  std::vector<const v1::Dataset*> put_datasets;
  std::vector<std::string> delete_datasets;
  std::vector<RequestRecord> requests;
};

struct MetricRow {
  int64_t step;
  double value;
  double wall_time;
};

// The daemon's durable memory: SQLite, WAL, synchronous=FULL. Apply returns after the disk has it.
// Thread safe: one connection behind a mutex writes, another behind its own reads.
class Store {
 public:
  // Creates or migrates the database. FAILED_PRECONDITION when its schema is newer than this program.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& database_path);

  absl::Status Apply(const Transaction& transaction);
  // Called with the seconds of each commit; for metrics. Set once before use.
  void OnCommit(std::function<void(double)> observer) { on_commit_ = std::move(observer); }

  absl::StatusOr<std::vector<v1::Job>> LoadJobs();        // oldest first
  absl::StatusOr<std::vector<v1::Adapter>> LoadAdapters();
  absl::StatusOr<std::vector<v1::Dataset>> LoadDatasets();
  absl::StatusOr<std::map<std::string, int64_t>> LastSequences();  // by job uid

  // Events with sequence > after, at most `limit`, in order.
  absl::StatusOr<std::vector<v1::Event>> ReadEvents(const std::string& uid, int64_t after, int limit);
  // Series by key; of a step reported by several attempts the newest counts.
  absl::StatusOr<std::map<std::string, std::vector<MetricRow>>> ReadMetrics(
      const std::string& uid, const std::vector<std::string>& keys, int64_t min_step, int64_t max_step);
  absl::StatusOr<std::vector<v1::Checkpoint>> ReadCheckpoints(const std::string& uid);
  absl::StatusOr<std::optional<RequestRecord>> FindRequest(const std::string& id);
  // Forgets idempotency records older than 24 hours.
  absl::Status ExpireRequests(int64_t now_seconds);

 private:
  Store(std::unique_ptr<Database> writer, std::unique_ptr<Database> reader)
      : writer_(std::move(writer)), reader_(std::move(reader)) {}
  absl::Status ApplyLocked(const Transaction& t);
  absl::Status PutMetrics(const std::string& uid, const v1::Event& event);
  Statement& Cached(Database& db, std::map<std::string, Statement>& cache, const std::string& sql);
  absl::Status Write(const std::string& sql, const std::function<void(Statement&)>& bind);

  std::mutex write_mutex_, read_mutex_;
  std::unique_ptr<Database> writer_, reader_;
  std::map<std::string, Statement> write_cache_, read_cache_;
  std::function<void(double)> on_commit_;
};

}  // namespace finetuned::store
