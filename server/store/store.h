#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetuned/v1/adapters.pb.h"
#include "finetuned/v1/datasets.pb.h"
#include "finetuned/v1/events.pb.h"
#include "finetuned/v1/jobs.pb.h"
#include "server/store/layout.h"

namespace finetuned::store {

class Database;

// A job with what the queue needs to know after a restart and the API does not show.
struct JobRecord {
  v1::Job job;
  int64_t queue_order = 0;    // position among equal priorities: Unix nanoseconds of queueing
  bool front = false;         // ahead of every queue_order: re-queued after a crash or restart
  int crashes = 0;            // worker crashes since submission or retry
  int64_t last_sequence = 0;  // of its newest event; set by the store, ignored on write
};

// An event of one job. On Commit, sequence and name are assigned by the store.
struct EventRecord {
  std::string uid;
  v1::Event event;
};

struct CheckpointRecord {
  std::string uid;
  v1::Checkpoint checkpoint;
  std::string directory;  // relative to the job's directory
};

struct AdapterRecord {
  v1::Adapter adapter;    // without local_path
  std::string directory;  // absolute: Layout::AdapterDir
};

struct DatasetRecord {
  v1::Dataset dataset;    // name, sha256, state, stats, findings
  std::string owner;
};

// An upload in progress. The bytes are in Layout::UploadFile; `committed` of them are synced.
struct UploadRecord {
  std::string dataset_id;
  std::string method;
  std::string owner;
  int64_t committed = 0;
  absl::Time update_time;
};

// Answer of a mutation, kept so that a repeated request gets it again.
struct RequestRecord {
  std::string principal;
  std::string request_id;
  std::string method;       // "CreateJob"
  std::string fingerprint;  // of the request: Fingerprint()
  std::string response;     // serialized message
  absl::Time time;
};

// One transaction: all of it becomes durable, or nothing.
struct WriteBatch {
  std::vector<JobRecord> jobs;                // inserted, or replaced by uid
  std::vector<EventRecord> events;            // appended, in this order
  std::vector<CheckpointRecord> checkpoints;  // inserted, or replaced by step
  std::vector<AdapterRecord> adapters;        // inserted, or replaced by name
  std::vector<std::string> forget_checkpoints;  // uids: the rows of these jobs are dropped first
  std::optional<RequestRecord> request;

  bool empty() const {
    return jobs.empty() && events.empty() && checkpoints.empty() && adapters.empty() &&
           forget_checkpoints.empty() && !request;
  }
};

enum class JobOrder { kCreateTimeDescending, kCreateTime, kPriorityDescending };

// Position in a listing: the sort key of the last row seen.
struct JobCursor {
  int64_t key = 0;  // create time in nanoseconds, or the priority
  int64_t id = 0;   // row id, breaks ties
};
// Which jobs a listing reads; what is not set leaves nothing out.
struct JobFilter {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::string method;  // "sft"
};
struct JobPage {
  std::vector<JobRecord> jobs;
  std::vector<JobCursor> cursors;  // one per job: listing goes on after it
};

// Values reported at one step. `attempt` is the newest that reached the step.
struct MetricSample {
  int64_t step = 0;
  int32_t attempt = 0;
  absl::Time time;
  double epoch = 0;
  google::protobuf::Map<std::string, double> values;  // training and evaluation values together
};

// The daemon's durable state: SQLite, WAL, synchronous=FULL. Thread-safe: writes take turns on one
// connection, reads use a second one and never wait for a disk sync.
//
// Errors of every method: NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED (disk full), DATA_LOSS (damaged
// file or unreadable row), UNAVAILABLE (I/O error, busy). After a failed write the last good state is
// what the next read gives, and the write may be tried again.
class Store {
 public:
  struct Options {
    Layout layout;
    // Told the duration in seconds of each commit (dominated by the sync). May be empty.
    std::function<void(double)> on_sync;
  };
  // Creates the directories (0700) and the database when missing, migrates an older schema.
  // FAILED_PRECONDITION: not our database, or of a newer version.
  static absl::StatusOr<std::unique_ptr<Store>> Open(Options options);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  const Layout& layout() const { return options_.layout; }

  // Makes `batch` durable. On success its events carry their sequence (gap-free per job, from 1) and
  // name. On failure nothing of it is stored.
  absl::Status Commit(WriteBatch* batch);

  // Jobs. `name` is "jobs/{job}".
  absl::StatusOr<JobRecord> GetJob(const std::string& name) const;
  absl::StatusOr<std::vector<JobRecord>> UnfinishedJobs() const;
  // Rows that `filter` leaves out are passed over without being parsed.
  absl::StatusOr<JobPage> ListJobs(JobOrder order, std::optional<JobCursor> after, int limit,
                                   const JobFilter& filter = {}) const;
  // Removes the job with its events and checkpoints, and the adapter of that name if there is one (rows only), and
  // remembers the answer, all in one transaction.
  absl::Status DeleteJob(const std::string& uid, const std::string& adapter = "",
                         const std::optional<RequestRecord>& request = std::nullopt);
  absl::StatusOr<int64_t> CountJobs(v1::JobState state, const std::string& method) const;

  // Events with sequence > `after`, oldest first, at most `limit`. `kind`: field number of the payload
  // (v1::Event::kMetrics), 0: all.
  absl::StatusOr<std::vector<v1::Event>> ReadEvents(const std::string& uid, int64_t after, int limit,
                                                    int kind = 0) const;
  absl::StatusOr<int64_t> LastSequence(const std::string& uid) const;
  // By step, ascending; max_step 0: no limit. A step reported by several attempts counts once, with
  // the values of the newest.
  absl::StatusOr<std::vector<MetricSample>> QueryMetrics(const std::string& uid, int64_t min_step,
                                                         int64_t max_step) const;

  // Newest first.
  absl::StatusOr<std::vector<CheckpointRecord>> ListCheckpoints(const std::string& uid) const;

  // Adapters and datasets are listed by name; `after` is the last name seen.
  absl::StatusOr<AdapterRecord> GetAdapter(const std::string& name) const;
  absl::StatusOr<std::vector<AdapterRecord>> ListAdapters(const std::string& after, int limit) const;
  absl::Status DeleteAdapter(const std::string& name, const std::optional<RequestRecord>& request = std::nullopt);

  absl::Status PutDataset(const DatasetRecord& dataset);
  absl::StatusOr<DatasetRecord> GetDataset(const std::string& name) const;
  absl::StatusOr<std::vector<DatasetRecord>> ListDatasets(const std::string& after, int limit) const;
  absl::Status DeleteDataset(const std::string& name, const std::optional<RequestRecord>& request = std::nullopt);
  // Number of datasets made of these bytes: the file may go when it is 0.
  absl::StatusOr<int64_t> CountDatasets(const std::string& sha256) const;

  // Of a principal: its datasets, uploads, and the checkpoints and adapters of its jobs.
  absl::StatusOr<int64_t> OwnedBytes(const std::string& owner) const;

  absl::Status PutUpload(const UploadRecord& upload);
  absl::StatusOr<UploadRecord> GetUpload(const std::string& dataset_id) const;
  absl::Status DeleteUpload(const std::string& dataset_id);

  // The remembered answer; NOT_FOUND when the id is new or older than 24 hours.
  // INVALID_ARGUMENT: the id was used for another request.
  absl::StatusOr<RequestRecord> FindRequest(const std::string& principal, const std::string& request_id,
                                            const std::string& method,
                                            const std::string& fingerprint) const;
  absl::Status PutRequest(const RequestRecord& request);
  absl::Status ForgetRequests(absl::Time before);

  // Removes what a crash left without a row: folders of jobs and adapters, dataset files, uploads. Before anything else
  // uses the store. UNAVAILABLE: something could not be read; nothing that has a row is touched in any case.
  absl::Status RemoveOrphans();

  // Small values that survive a restart, such as what the last worker said about the device.
  absl::Status PutValue(const std::string& key, const std::string& value);
  absl::StatusOr<std::string> GetValue(const std::string& key) const;

 private:
  explicit Store(Options options);
  // `what` names the failpoints of the transaction: "store.put_dataset".
  absl::Status WriteLocked(const char* what, const std::function<absl::Status()>& body);

  Options options_;
  mutable std::mutex write_mutex_;
  mutable std::mutex read_mutex_;
  std::unique_ptr<Database> writer_;  // guarded by write_mutex_
  std::unique_ptr<Database> reader_;  // guarded by read_mutex_
};

// The key of PutValue under which the owner of an adapter stands whose job is gone.
inline std::string OwnerKey(const std::string& adapter) { return "owner/" + adapter; }

// sha256 (hex) of a deterministic serialization: equal messages have equal fingerprints.
std::string Fingerprint(const google::protobuf::Message& message);

}  // namespace finetuned::store
