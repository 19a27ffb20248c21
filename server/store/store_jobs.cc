// Reading jobs, events, metrics and checkpoints.
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/store/rows.h"

namespace finetuned::store {
namespace {

#define JOB_COLUMNS "job, queue_order, front, crashes, last_sequence, id, create_time, priority"

absl::Status ReadJob(const Statement& row, JobRecord* record) {
  record->queue_order = row.GetInt(1);
  record->front = row.GetInt(2) != 0;
  record->crashes = static_cast<int>(row.GetInt(3));
  record->last_sequence = row.GetInt(4);
  return row.GetMessage(0, "jobs", &record->job);
}

absl::Status ReadEvent(const Statement& row, v1::Event* event) {
  return row.GetMessage(0, "events", event);
}

// What is bound to the first parameters when a listing starts.
JobCursor FirstCursor(JobOrder order) {
  const bool ascending = order == JobOrder::kCreateTime;
  const int64_t end = ascending ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
  return {end, end};
}

// A + keeps SQLite off the index of a column. Rows of a rare state are found by its index and sorted, all others in the
// order of the listing.
#define JOB_LISTING(key, compare, direction)                                                               \
  rare ? "SELECT " JOB_COLUMNS " FROM jobs WHERE state = ?4 AND (?5 = '' OR method = ?5) AND (+" key       \
         ", id) " compare " (?1, ?2) ORDER BY " key direction ", id" direction " LIMIT ?3"                 \
       : "SELECT " JOB_COLUMNS " FROM jobs WHERE (" key ", id) " compare " (?1, ?2) AND (?4 = 0 OR +state" \
         " = ?4) AND (?5 = '' OR method = ?5) ORDER BY " key direction ", id" direction " LIMIT ?3"

const char* ListSql(JobOrder order, bool rare) {
  switch (order) {
    case JobOrder::kCreateTime: return JOB_LISTING("create_time", ">", "");
    case JobOrder::kPriorityDescending: return JOB_LISTING("priority", "<", " DESC");
    case JobOrder::kCreateTimeDescending: break;
  }
  return JOB_LISTING("create_time", "<", " DESC");
}

#undef JOB_LISTING

constexpr int kRare = 200;  // rows of a state that are sooner sorted than looked for

}  // namespace

absl::StatusOr<JobRecord> Store::GetJob(const std::string& name) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT " JOB_COLUMNS " FROM jobs WHERE name = ?");
  query.Text(name);
  return One<JobRecord>(&query, name, ReadJob);
}

absl::StatusOr<std::vector<JobRecord>> Store::UnfinishedJobs() const {
  static_assert(v1::SUCCEEDED == 9 && v1::FAILED == 10 && v1::CANCELLED == 11);
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT " JOB_COLUMNS " FROM jobs WHERE state NOT IN (9, 10, 11) ORDER BY id");
  return Collect<JobRecord>(&query, ReadJob);
}

absl::StatusOr<JobPage> Store::ListJobs(JobOrder order, std::optional<JobCursor> after, int limit,
                                        const JobFilter& filter) const {
  std::lock_guard lock(read_mutex_);
  const JobCursor from = after.value_or(FirstCursor(order));
  bool rare = false;
  if (filter.state != v1::JOB_STATE_UNSPECIFIED) {
    auto count = reader_->Prepare("SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = ? LIMIT ?)");
    const auto row = count.Int(filter.state).Int(kRare).Step();
    if (!row.ok()) return row.status();
    rare = count.GetInt(0) < kRare;
  }
  auto query = reader_->Prepare(ListSql(order, rare));
  query.Int(from.key).Int(from.id).Int(limit).Int(filter.state).Text(filter.method);
  JobPage page;
  const int key_column = order == JobOrder::kPriorityDescending ? 7 : 6;
  auto jobs = Collect<JobRecord>(&query, [&](const Statement& row, JobRecord* record) {
    page.cursors.push_back({row.GetInt(key_column), row.GetInt(5)});
    return ReadJob(row, record);
  });
  if (!jobs.ok()) return jobs.status();
  page.jobs = *std::move(jobs);
  return page;
}

absl::StatusOr<int64_t> Store::CountJobs(v1::JobState state, const std::string& method) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT count(*) FROM jobs WHERE state = ? AND method = ?");
  query.Int(state).Text(method);
  return One<int64_t>(&query, "count", [](const Statement& row, int64_t* count) {
    *count = row.GetInt(0);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<v1::Event>> Store::ReadEvents(const std::string& uid, int64_t after, int limit,
                                                         int kind) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare(
      "SELECT event FROM events WHERE job = (SELECT id FROM jobs WHERE uid = ?1) AND sequence > ?2"
      " AND (?4 = 0 OR kind = ?4) ORDER BY sequence LIMIT ?3");
  query.Text(uid).Int(after).Int(limit).Int(kind);
  return Collect<v1::Event>(&query, ReadEvent);
}

absl::StatusOr<int64_t> Store::LastSequence(const std::string& uid) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare("SELECT last_sequence FROM jobs WHERE uid = ?");
  query.Text(uid);
  return One<int64_t>(&query, "job " + uid, [](const Statement& row, int64_t* last) {
    *last = row.GetInt(0);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<MetricSample>> Store::QueryMetrics(const std::string& uid, int64_t min_step,
                                                              int64_t max_step) const {
  std::lock_guard lock(read_mutex_);
  // Per step and kind the row of the largest sequence: SQLite takes bare columns from the row of max().
  auto query = reader_->Prepare(
      "SELECT event, max(sequence) FROM events WHERE job = (SELECT id FROM jobs WHERE uid = ?)"
      " AND step IS NOT NULL AND step BETWEEN ? AND ? GROUP BY step, kind ORDER BY step, sequence");
  query.Text(uid).Int(min_step).Int(max_step > 0 ? max_step : std::numeric_limits<int64_t>::max());
  std::vector<MetricSample> samples;
  auto events = Collect<v1::Event>(&query, ReadEvent);
  if (!events.ok()) return events.status();
  for (v1::Event& event : *events) {
    const bool eval = event.has_eval();
    const int64_t step = eval ? event.eval().step() : event.metrics().step();
    if (samples.empty() || samples.back().step != step) {
      samples.emplace_back().step = step;
    }
    MetricSample& sample = samples.back();
    sample.attempt = std::max(sample.attempt, event.attempt());
    sample.time = absl::FromUnixNanos(ToNanos(event.time()));
    if (!eval) sample.epoch = event.metrics().epoch();
    const auto& values = eval ? event.eval().values() : event.metrics().values();
    sample.values.insert(values.begin(), values.end());
  }
  return samples;
}

absl::StatusOr<std::vector<CheckpointRecord>> Store::ListCheckpoints(const std::string& uid) const {
  std::lock_guard lock(read_mutex_);
  auto query = reader_->Prepare(
      "SELECT checkpoint, directory FROM checkpoints WHERE job = (SELECT id FROM jobs WHERE uid = ?)"
      " ORDER BY step DESC");
  query.Text(uid);
  return Collect<CheckpointRecord>(&query, [&](const Statement& row, CheckpointRecord* record) {
    record->uid = uid;
    record->directory = row.GetBytes(1);
    return row.GetMessage(0, "checkpoints", &record->checkpoint);
  });
}

#undef JOB_COLUMNS

}  // namespace finetuned::store
