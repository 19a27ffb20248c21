#include "engine/worker/event_file.h"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

namespace finetuned::worker {
namespace {

TEST(EventFile, AppendsOneObjectALine) {
  const std::string path = ::testing::TempDir() + "/events.jsonl";
  std::remove(path.c_str());
  {
    EventFile file(path);
    file.OnPhase("training");
    file.OnPlan(0, 2, {{"rows", 3}});
    file.OnStep(1, 0.5, {{"loss", 2.5}, {"grad_norm", std::nan("")}});
  }
  {
    EventFile file(path);  // a restart appends
    file.OnWarning("CODE", "bad \xff byte");
    job::RunResult result;
    result.outcome = job::Outcome::kCheckpointed;
    file.Finished(result);
  }
  std::ifstream in(path);
  std::vector<nlohmann::json> events;
  for (std::string line; std::getline(in, line);) events.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[1]["total_steps"], 2);
  EXPECT_EQ(events[2]["values"]["loss"], 2.5);
  EXPECT_TRUE(events[2]["values"]["grad_norm"].is_null());
  EXPECT_EQ(events[3]["code"], "CODE");
  EXPECT_EQ(events[4]["outcome"], 75);
}

TEST(EventFile, UnwritablePathThrows) {
  EXPECT_THROW(EventFile("/nowhere/events.jsonl"), std::runtime_error);
}

}  // namespace
}  // namespace finetuned::worker
