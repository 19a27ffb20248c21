#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/commands.h"
#include "clients/cli/term.h"
#include "clients/cli/terminal.h"
#include "clients/cli/upload.h"

namespace finetuned::cli {
namespace {

void PrintDataset(const App& app, const v1::Dataset& d) {
  if (app.output != "table") {
    PrintMessage(d, app.output);
    return;
  }
  std::cout << d.name() << "  " << v1::Dataset::State_Name(d.state()) << "  " << d.method() << "/"
            << d.format() << "  " << FormatCount(static_cast<double>(d.stats().rows())) << " rows  "
            << FormatBytes(static_cast<double>(d.size_bytes()));
  if (d.stats().duplicate_rows() > 0) std::cout << "  " << d.stats().duplicate_rows() << " duplicates";
  std::cout << "\n" << DescribeFindings(d);
}

ExitCode ListDatasets(App& app) {
  Client client(app.connect);
  v1::ListDatasetsRequest request;
  v1::ListDatasetsResponse all;
  std::vector<std::vector<std::string>> rows = {{"DATASET", "STATE", "METHOD", "FORMAT", "ROWS", "SIZE"}};
  do {
    v1::ListDatasetsResponse response;
    auto context = client.Context();
    Check(client.datasets->ListDatasets(context.get(), request, &response), client);
    for (const auto& d : response.datasets()) {
      rows.push_back({ShortName(d.name()), v1::Dataset::State_Name(d.state()), d.method(), d.format(),
                      FormatCount(static_cast<double>(d.stats().rows())),
                      FormatBytes(static_cast<double>(d.size_bytes()))});
    }
    request.set_page_token(response.next_page_token());
    all.mutable_datasets()->MergeFrom(response.datasets());
  } while (!request.page_token().empty());
  if (app.output != "table") {
    PrintMessage(all, app.output);
    return kOk;
  }
  std::cout << (rows.size() == 1 ? "No datasets. Upload one: finetune upload FILE\n" : Table(rows));
  return kOk;
}

// Both answers of a row with chosen and rejected have its line; chosen comes first.
const char* AnswerOf(const v1::PreviewDatasetResponse& response, int i) {
  const auto line = [&](int k) { return k >= 0 && k < response.rows_size() ? response.rows(k).line() : -1; };
  return line(i) == line(i + 1) ? " chosen" : line(i) == line(i - 1) ? " rejected" : "";
}

ExitCode Preview(App& app, v1::PreviewDatasetRequest request, const std::string& data, const std::string& method,
                 bool no_color) {
  Client client(app.connect);
  request.set_name(DatasetName(client, data, method, ""));
  if (request.base_model().find('/') == std::string::npos && request.base_model().find('.') == std::string::npos) {
    request.set_base_model(ResourceName("models", request.base_model()));
  }
  v1::PreviewDatasetResponse response;
  auto context = client.Context(60);
  Check(client.datasets->PreviewDataset(context.get(), request, &response), client);
  if (app.output != "table") {
    PrintMessage(response, app.output);
    return kOk;
  }
  Style style = StdoutStyle();
  style.color = style.color && !no_color;
  for (int r = 0; r < response.rows_size(); ++r) {
    const auto& row = response.rows(r);
    int64_t trained = 0;
    for (bool t : row.trained()) trained += t;
    std::cout << style.Bold(absl::StrCat("line ", row.line(), AnswerOf(response, r))) << "  " << row.tokens_size() << " tokens, "
              << trained << " train";
    if (!row.drop_reason().empty()) std::cout << "  " << style.Red("dropped: " + row.drop_reason());
    std::cout << "\n";
    // Trained text in green, or between [[ and ]] without colours.
    bool inside = false;
    for (int i = 0; i < row.tokens_size(); ++i) {
      if (row.trained(i) != inside && !style.color) std::cout << (row.trained(i) ? "[[" : "]]");
      inside = row.trained(i);
      const std::string text = Printable(row.tokens(i));
      std::cout << (inside ? style.Green(text) : style.Dim(text));
    }
    std::cout << (inside && !style.color ? "]]" : "") << "\n\n";
  }
  return kOk;
}

}  // namespace

void AddDataCommands(CLI::App& cli, App& app) {
  auto path = std::make_shared<std::string>();
  auto method = std::make_shared<std::string>("sft");
  auto id = std::make_shared<std::string>();
  CLI::App* upload = cli.add_subcommand("upload", "Upload and check a JSONL file");
  upload->add_option("file", *path, "JSONL file")->required();
  upload->add_option("--method", *method, "sft, dpo, kto or grpo")
      ->check(CLI::IsMember({"sft", "dpo", "kto", "grpo"}));
  upload->add_option("--name", *id, "Dataset id (default: from the file's name and content)");
  AddOutputOption(upload, app);
  upload->callback([&app, path, method, id] {
    app.action = [&app, path, method, id] {
      Client client(app.connect);
      PrintDataset(app, UploadFile(client, *path, *method, *id));
      return kOk;
    };
  });

  CLI::App* datasets = cli.add_subcommand("datasets", "List uploaded datasets");
  AddOutputOption(datasets, app);
  datasets->callback([&app] { app.action = [&app] { return ListDatasets(app); }; });

  auto request = std::make_shared<v1::PreviewDatasetRequest>();
  auto data = std::make_shared<std::string>();
  auto model = std::make_shared<std::string>();
  auto rows = std::make_shared<int>(3);
  auto start = std::make_shared<int64_t>(0);
  auto loss_on = std::make_shared<std::string>();
  auto length = std::make_shared<int>(0);
  auto no_color = std::make_shared<bool>(false);
  CLI::App* preview = cli.add_subcommand("preview", "Rendered rows and which tokens train");
  preview->add_option("data", *data, "JSONL file, or datasets/NAME")->required();
  preview->add_option("--model", *model, "Base model: its tokenizer and chat template")->required();
  auto preview_method = std::make_shared<std::string>("sft");
  preview->add_option("--method", *preview_method, "What the rows are for: sft (default), dpo or kto")
      ->check(CLI::IsMember({"sft", "dpo", "kto"}));
  preview->add_option("--rows", *rows, "How many (default 3)")->check(CLI::Range(1, 100));
  preview->add_option("--start", *start, "First row (from 0)");
  preview->add_option("--loss-on", *loss_on, "auto, all, completion or assistant");
  preview->add_option("--max-seq-length", *length, "Truncation (default 1024)");
  preview->add_flag("--no-color", *no_color, "Mark trained text with [[ ]]");
  AddOutputOption(preview, app);
  preview->callback([&app, request, data, model, preview_method, rows, start, loss_on, length, no_color] {
    request->set_base_model(*model);
    request->set_max_rows(*rows);
    request->set_start_row(*start);
    request->set_max_seq_length(*length);
    request->mutable_sft()->set_loss_on(*loss_on);
    app.action = [&app, request, data, preview_method, no_color] {
      return Preview(app, *request, *data, *preview_method, *no_color);
    };
  });
}

}  // namespace finetuned::cli
