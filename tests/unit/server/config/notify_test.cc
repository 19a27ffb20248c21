#include "server/config/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include <gtest/gtest.h>

namespace finetuned::config {
namespace {

TEST(Notify, SendsOneDatagram) {
  char dir[] = "/tmp/ftnfXXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  const std::string path = std::string(dir) + "/notify";
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  Notify(path, "READY=1");
  char text[64] = {};
  EXPECT_EQ(recv(fd, text, sizeof text, MSG_DONTWAIT), 7);
  EXPECT_STREQ(text, "READY=1");
  close(fd);
  unlink(path.c_str());
  rmdir(dir);
}

TEST(Notify, WithoutASupervisorNothingHappens) {
  Notify("", "READY=1");
  Notify("/no/such/socket", "READY=1");
}

}  // namespace
}  // namespace finetuned::config
