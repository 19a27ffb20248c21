// Loaded before the C library (LD_PRELOAD) into daemon and worker: writes down every change below FT_DISK_ROOT, and
// refuses changes or is slow to sync when told so. What was written down lets a test build the disk as a power cut would have left it.
//
// FT_DISK_JOURNAL: file to append records to: struct Record, then the paths and the data.
// FT_DISK_CONTROL: file mapped into all processes and the test: struct Control.
// SIGRTMAX kills the process as SIGKILL does, but never between a change and its record.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum Op { kCreate = 1, kTruncate, kWrite, kSync, kRename, kUnlink, kMkdir, kRmdir };

struct Record {
  uint32_t op, path_bytes, second_bytes, data_bytes;
  int64_t offset;  // of kWrite; new size of kTruncate
};

struct Control {
  int64_t changes;           // counted over all processes
  int64_t fail_from, fail_to;  // changes with these numbers are refused
  int64_t error;             // with this errno
  int64_t sync_us;           // so long takes each sync more
};

static char root[4096];
static size_t root_bytes;
static int journal = -1;
static struct Control* control;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static __thread sigset_t mask;

static sigset_t DeathSignal(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMAX);
  return set;
}

// A change and its record are one step, for other threads and for SIGRTMAX.
static void Enter(void) {
  const sigset_t death = DeathSignal();
  pthread_sigmask(SIG_BLOCK, &death, &mask);
  pthread_mutex_lock(&mutex);
}

static void Leave(void) {
  pthread_mutex_unlock(&mutex);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

// This thread does not hold the mutex: it would have the signal blocked.
static void Die(int signal) {
  (void)signal;
  pthread_mutex_lock(&mutex);
  kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void Start(void) {
  const char* r = getenv("FT_DISK_ROOT");
  if (r == NULL) return;
  signal(SIGRTMAX, Die);
  const sigset_t death = DeathSignal();
  sigprocmask(SIG_UNBLOCK, &death, NULL);
  snprintf(root, sizeof root, "%s/", r);
  root_bytes = strlen(root);
  const char* j = getenv("FT_DISK_JOURNAL");
  if (j != NULL) journal = REAL(open)(j, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const char* c = getenv("FT_DISK_CONTROL");
  const int fd = c == NULL ? -1 : REAL(open)(c, O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
  }
}

// Below the root, or the root itself.
static int Ours(const char* path) {
  return root_bytes > 0 && (strncmp(path, root, root_bytes) == 0 || strncmp(path, root, root_bytes - 1) == 0);
}

static int PathOf(int fd, char* out) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, out, 4095);
  if (n < 0) return 0;
  out[n] = 0;
  return Ours(out) && strstr(out, " (deleted)") == NULL;
}

static int PathAt(int dir, const char* path, char* out) {
  if (path[0] == '/') {
    snprintf(out, 4096, "%s", path);
    return Ours(out);
  }
  if (dir == AT_FDCWD) return 0;  // the programs name absolute paths
  char folder[4096];
  if (!PathOf(dir, folder)) return 0;
  snprintf(out, 4096, "%s/%s", folder, path);
  return 1;
}

// True: the change is refused, errno is set.
static int Refused(void) {
  if (control == NULL) return 0;
  const int64_t n = __atomic_fetch_add(&control->changes, 1, __ATOMIC_SEQ_CST);
  if (n < control->fail_from || n >= control->fail_to) return 0;
  errno = (int)control->error;
  return 1;
}

static void Note(enum Op op, const char* path, const char* second, int64_t offset, const void* data, size_t bytes) {
  if (journal < 0) return;
  const int saved = errno;
  struct Record record = {op, (uint32_t)strlen(path), second == NULL ? 0 : (uint32_t)strlen(second), (uint32_t)bytes,
                          offset};
  struct iovec parts[4] = {{&record, sizeof record},
                           {(void*)path, record.path_bytes},
                           {(void*)(second == NULL ? "" : second), record.second_bytes},
                           {(void*)data, bytes}};
  if (REAL(writev)(journal, parts, 4) < 0) abort();
  errno = saved;
}

static int OpenNoted(int dir, const char* path, int flags, mode_t mode, int (*run)(int, const char*, int, mode_t)) {
  char full[4096];
  const int writes = (flags & (O_CREAT | O_TRUNC)) != 0 && PathAt(dir, path, full);
  if (!writes) return run(dir, path, flags, mode);
  Enter();
  const int existed = access(full, F_OK) == 0;
  int fd = -1;
  if (!Refused()) fd = run(dir, path, flags, mode);
  if (fd >= 0 && !existed) Note(kCreate, full, NULL, 0, NULL, 0);
  if (fd >= 0 && existed && (flags & O_TRUNC)) Note(kTruncate, full, NULL, 0, NULL, 0);
  Leave();
  return fd;
}
static int RunOpenat(int dir, const char* path, int flags, mode_t mode) { return REAL(openat)(dir, path, flags, mode); }

#define MODE(flags)                             \
  mode_t mode = 0;                              \
  if ((flags) & (O_CREAT | O_TMPFILE)) {        \
    va_list list;                               \
    va_start(list, flags);                      \
    mode = va_arg(list, mode_t);                \
    va_end(list);                               \
  }
int open(const char* path, int flags, ...) { MODE(flags) return OpenNoted(AT_FDCWD, path, flags, mode, RunOpenat); }
int open64(const char* path, int flags, ...) { MODE(flags) return OpenNoted(AT_FDCWD, path, flags, mode, RunOpenat); }
int openat(int dir, const char* path, int flags, ...) { MODE(flags) return OpenNoted(dir, path, flags, mode, RunOpenat); }
int openat64(int dir, const char* path, int flags, ...) { MODE(flags) return OpenNoted(dir, path, flags, mode, RunOpenat); }

static FILE* FopenNoted(const char* path, const char* how, FILE* (*run)(const char*, const char*)) {
  if (how[0] != 'w' || !Ours(path)) return run(path, how);
  Enter();
  const int existed = access(path, F_OK) == 0;
  FILE* file = Refused() ? NULL : run(path, how);
  if (file != NULL) Note(existed ? kTruncate : kCreate, path, NULL, 0, NULL, 0);
  Leave();
  return file;
}
FILE* fopen(const char* path, const char* how) { return FopenNoted(path, how, REAL(fopen)); }
FILE* fopen64(const char* path, const char* how) { return FopenNoted(path, how, REAL(fopen64)); }

ssize_t write(int fd, const void* data, size_t bytes) {
  char path[4096];
  if (fd == journal || !PathOf(fd, path)) return REAL(write)(fd, data, bytes);
  Enter();
  const ssize_t n = Refused() ? -1 : REAL(write)(fd, data, bytes);
  if (n > 0) Note(kWrite, path, NULL, lseek(fd, 0, SEEK_CUR) - n, data, (size_t)n);
  Leave();
  return n;
}

// As a short write of the first part: callers go on with the rest.
ssize_t writev(int fd, const struct iovec* parts, int count) {
  char path[4096];
  if (fd == journal || !PathOf(fd, path)) return REAL(writev)(fd, parts, count);
  for (int i = 0; i < count; ++i) {
    if (parts[i].iov_len > 0) return write(fd, parts[i].iov_base, parts[i].iov_len);
  }
  return 0;
}

static ssize_t PwriteNoted(int fd, const void* data, size_t bytes, off_t offset) {
  char path[4096];
  if (!PathOf(fd, path)) return REAL(pwrite)(fd, data, bytes, offset);
  Enter();
  const ssize_t n = Refused() ? -1 : REAL(pwrite)(fd, data, bytes, offset);
  if (n > 0) Note(kWrite, path, NULL, offset, data, (size_t)n);
  Leave();
  return n;
}
ssize_t pwrite(int fd, const void* d, size_t n, off_t o) { return PwriteNoted(fd, d, n, o); }
ssize_t pwrite64(int fd, const void* d, size_t n, off64_t o) { return PwriteNoted(fd, d, n, o); }

static int TruncateNoted(int fd, off_t size) {
  char path[4096];
  if (!PathOf(fd, path)) return REAL(ftruncate)(fd, size);
  Enter();
  const int failed = Refused() ? -1 : REAL(ftruncate)(fd, size);
  if (failed == 0) Note(kTruncate, path, NULL, size, NULL, 0);
  Leave();
  return failed;
}
int ftruncate(int fd, off_t size) { return TruncateNoted(fd, size); }
int ftruncate64(int fd, off64_t size) { return TruncateNoted(fd, size); }

// A disk that is full can still sync and forget: these are written down, and refused only on a read-only one.
static int ReadOnly(void) { return control != NULL && control->error == EROFS && Refused(); }

static int SyncNoted(int fd, int (*run)(int)) {
  char path[4096];
  if (!PathOf(fd, path)) return run(fd);
  if (control != NULL && control->sync_us > 0) usleep((useconds_t)control->sync_us);  // others go on meanwhile
  Enter();
  const int failed = ReadOnly() ? -1 : run(fd);
  if (failed == 0) Note(kSync, path, NULL, 0, NULL, 0);
  Leave();
  return failed;
}
int fsync(int fd) { return SyncNoted(fd, REAL(fsync)); }
int fdatasync(int fd) { return SyncNoted(fd, REAL(fdatasync)); }

int rename(const char* from, const char* to) {
  if (!Ours(from)) return REAL(rename)(from, to);
  Enter();
  const int failed = ReadOnly() ? -1 : REAL(rename)(from, to);
  if (failed == 0) Note(kRename, from, to, 0, NULL, 0);
  Leave();
  return failed;
}

static int RemoveNoted(int dir, const char* path, int flags) {
  char full[4096];
  if (!PathAt(dir, path, full)) return REAL(unlinkat)(dir, path, flags);
  Enter();
  const int failed = ReadOnly() ? -1 : REAL(unlinkat)(dir, path, flags);
  if (failed == 0) Note(flags & AT_REMOVEDIR ? kRmdir : kUnlink, full, NULL, 0, NULL, 0);
  Leave();
  return failed;
}
int unlinkat(int dir, const char* path, int flags) { return RemoveNoted(dir, path, flags); }
int unlink(const char* path) { return RemoveNoted(AT_FDCWD, path, 0); }
int rmdir(const char* path) { return RemoveNoted(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char* path) {
  const int failed = RemoveNoted(AT_FDCWD, path, 0);
  return failed == 0 || errno != EISDIR ? failed : RemoveNoted(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdir(const char* path, mode_t mode) {
  if (!Ours(path)) return REAL(mkdir)(path, mode);
  Enter();
  const int failed = Refused() ? -1 : REAL(mkdir)(path, mode);
  if (failed == 0) Note(kMkdir, path, NULL, 0, NULL, 0);
  Leave();
  return failed;
}
