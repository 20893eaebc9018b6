// Starts the cage's launcher. One thread per JavaScript environment does all of it: the launcher's parent-death signal
// follows the thread that started it, posix_spawn must not be a fork of a process that holds gigabytes, and neither the
// spawn nor the removal of a directory may block the event loop.
#include "addon/sandbox.h"

#ifndef __linux__

void init_sandbox(Napi::Env, Napi::Object) {}

#else

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

extern "C" {
#include "sandbox/remove_tree.h"
}

namespace {

// The child's descriptors 1..6: two it writes, the request it reads, the result it writes, control it reads, the report it writes.
constexpr int kPipes = 6;
constexpr bool kHostReads[kPipes] = {true, true, false, true, false, true};

enum class Kind { spawn, kill, remove, close };

struct Job {
  Kind kind;
  double id;
  std::string path;
  std::vector<std::string> argv, env;
};

struct Event {
  const char* name;
  double id;
  int status;                        // an error number, or a wait status for "exited"
  std::array<int, kPipes> fds;
};

struct Child {
  double id;
  pid_t pid;
  int pidfd;
};

class Thread {
 public:
  // Takes over `wake`, an event descriptor.
  Thread(Napi::Env env, Napi::Function on_event, int wake) : notify_(Napi::ThreadSafeFunction::New(env, on_event, "nanochat sandbox", 0, 1)), wake_(wake) {
    notify_.Unref(env);
  }

  // 0, or the error number of a system that has no more threads to give; then there is nothing to close.
  int start() {
    try {
      thread_ = std::thread([this] { run(); });
      return 0;
    } catch (const std::system_error& error) {
      notify_.Release();
      ::close(wake_);
      return error.code().value();
    }
  }

  void post(Job job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    const uint64_t one = 1;
    if (write(wake_, &one, sizeof one) < 0) return;   // full: the thread is awake anyway
  }

  // Ends every child and joins. The launchers clean up after themselves on SIGTERM.
  void close() {
    if (!thread_.joinable()) return;
    post({Kind::close, 0, {}, {}, {}});
    thread_.join();
    ::close(wake_);
  }

 private:
  void run() {
    for (bool open = true; open;) {
      std::vector<pollfd> fds{{wake_, POLLIN, 0}};
      for (const Child& child : children_) fds.push_back({child.pidfd, POLLIN, 0});
      if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) break;
      uint64_t count;
      if (read(wake_, &count, sizeof count) < 0) count = 0;
      reap();
      for (Job job; open && next(job);) {
        if (job.kind == Kind::spawn) spawn(job);
        if (job.kind == Kind::kill) signal_child(job.id, SIGKILL);
        if (job.kind == Kind::remove) send({"removed", job.id, remove_tree(job.path.c_str()), {}});
        if (job.kind == Kind::close) open = false;
      }
    }
    end_all();
    notify_.Release();
  }

  bool next(Job& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (jobs_.empty()) return false;
    job = std::move(jobs_.front());
    jobs_.pop_front();
    return true;
  }

  void reap() {
    children_.erase(std::remove_if(children_.begin(), children_.end(), [this](const Child& child) {
      int status = 0;
      if (waitpid(child.pid, &status, WNOHANG) == 0) return false;
      ::close(child.pidfd);
      send({"exited", child.id, status, {}});
      return true;
    }), children_.end());
  }

  void signal_child(double id, int number) {
    for (const Child& child : children_)
      if (child.id == id) syscall(SYS_pidfd_send_signal, child.pidfd, number, nullptr, 0);
  }

  void end_all() {
    for (const Child& child : children_) signal_child(child.id, SIGTERM);
    for (const Child& child : children_) {
      pollfd ended{child.pidfd, POLLIN, 0};
      if (poll(&ended, 1, 500) == 0) syscall(SYS_pidfd_send_signal, child.pidfd, SIGKILL, nullptr, 0);
      waitpid(child.pid, nullptr, 0);
      ::close(child.pidfd);
    }
    children_.clear();
  }

  void spawn(const Job& job) {
    std::array<int, kPipes> host, child;
    host.fill(-1);
    child.fill(-1);
    int error = make_pipes(host, child);
    pid_t pid = -1;
    int pidfd = -1;
    if (error == 0) error = start(job, child, pid);
    if (error == 0 && (pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) < 0) {
      error = errno;
      ::kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    for (int fd : child) if (fd >= 0) ::close(fd);
    if (error != 0) {
      for (int fd : host) if (fd >= 0) ::close(fd);
      host.fill(-1);
    } else {
      children_.push_back({job.id, pid, pidfd});
    }
    send({"spawned", job.id, error, host}, pid);
  }

  static int make_pipes(std::array<int, kPipes>& host, std::array<int, kPipes>& child) {
    for (int i = 0; i < kPipes; i++) {
      int ends[2];
      if (pipe2(ends, O_CLOEXEC) != 0) return errno;
      host[i] = ends[kHostReads[i] ? 0 : 1];
      // out of the way of the numbers 0..6 that they will be moved to
      child[i] = fcntl(ends[kHostReads[i] ? 1 : 0], F_DUPFD_CLOEXEC, kPipes + 1);
      const int error = errno;
      ::close(ends[kHostReads[i] ? 1 : 0]);
      if (child[i] < 0) return error;
    }
    return 0;
  }

  static int start(const Job& job, const std::array<int, kPipes>& child, pid_t& pid) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    for (int i = 0; i < kPipes; i++) posix_spawn_file_actions_adddup2(&actions, child[i], i + 1);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    std::vector<char*> argv, env;
    for (const std::string& text : job.argv) argv.push_back(const_cast<char*>(text.c_str()));
    for (const std::string& text : job.env) env.push_back(const_cast<char*>(text.c_str()));
    argv.push_back(nullptr);
    env.push_back(nullptr);
    const int error = posix_spawn(&pid, job.path.c_str(), &actions, &attributes, argv.data(), env.data());
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
  }

  void send(Event event, pid_t pid = 0) {
    auto* boxed = new Event(event);
    const auto call = [pid](Napi::Env env, Napi::Function on_event, Event* raw) {
      const std::unique_ptr<Event> event(raw);
      if (env == nullptr) return close_all(*event);
      // note: while the environment is torn down no value can be made; there is nobody left to tell then.
      try {
        Napi::Array fds = Napi::Array::New(env);
        for (int i = 0; i < kPipes; i++) fds.Set(i, Napi::Number::New(env, event->fds[i]));
        on_event.Call({Napi::String::New(env, event->name), Napi::Number::New(env, event->id), Napi::Number::New(env, event->status), fds, Napi::Number::New(env, pid)});
      } catch (const Napi::Error&) {
        close_all(*event);
      }
    };
    if (notify_.NonBlockingCall(boxed, call) == napi_ok) return;
    close_all(*boxed);
    delete boxed;
  }

  // The descriptors that an event would have handed over.
  static void close_all(const Event& event) {
    for (int fd : event.fds) if (fd > 0) ::close(fd);
  }

  Napi::ThreadSafeFunction notify_;
  int wake_;
  std::mutex mutex_;
  std::deque<Job> jobs_;
  std::vector<Child> children_;
  std::thread thread_;               // last: it uses all of the above
};

constexpr uint32_t kMostStrings = 4096;

std::vector<std::string> strings(const Napi::Value& value) {
  std::vector<std::string> out;
  if (!value.IsArray()) return out;
  const Napi::Array array = value.As<Napi::Array>();
  if (array.Length() > kMostStrings) throw Napi::TypeError::New(value.Env(), "Expected at most 4096 strings");
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value text = array.Get(i);
    if (!text.IsString()) throw Napi::TypeError::New(value.Env(), "Expected strings");
    out.push_back(text.As<Napi::String>().Utf8Value());
  }
  return out;
}

// startSandboxThread(onEvent: (name, id, status, fds, pid) => void): { spawn(id, path, argv, env), kill(id), remove(id, path), close() }
Napi::Value start_thread(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsFunction()) {
    Napi::TypeError::New(env, "startSandboxThread expects a function").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const auto fail = [&env](int number) {
    Napi::Error error = Napi::Error::New(env, std::string("starting the sandbox's thread failed: ") + std::strerror(number));
    error.Set("errno", Napi::Number::New(env, number));
    throw error;
  };
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) fail(errno);  // note: without it the thread would never hear that it is to end
  const auto thread = std::make_shared<Thread>(env, info[0].As<Napi::Function>(), wake);
  const int number = thread->start();
  if (number != 0) fail(number);
  env.AddCleanupHook([thread] { thread->close(); });
  const auto method = [&env, thread](const char* name, Kind kind) {
    return Napi::Function::New(env, [thread, kind](const Napi::CallbackInfo& call) {
      Job job{kind, 0, {}, {}, {}};
      if (call.Length() > 0 && call[0].IsNumber()) job.id = call[0].As<Napi::Number>().DoubleValue();
      if (call.Length() > 1 && call[1].IsString()) job.path = call[1].As<Napi::String>().Utf8Value();
      if (call.Length() > 2) job.argv = strings(call[2]);
      if (call.Length() > 3) job.env = strings(call[3]);
      thread->post(std::move(job));
    }, name);
  };
  Napi::Object out = Napi::Object::New(env);
  out.Set("spawn", method("spawn", Kind::spawn));
  out.Set("kill", method("kill", Kind::kill));
  out.Set("remove", method("remove", Kind::remove));
  return out;
}

}  // namespace

void init_sandbox(Napi::Env env, Napi::Object exports) { exports.Set("startSandboxThread", Napi::Function::New(env, start_thread)); }

#endif
