// The fuzz target without libFuzzer, for machines that have none: random bytes, without coverage feedback.
//
//     edgeadapt_fuzz --op=NAME --runs=N --seed=S     N calls
//     edgeadapt_fuzz FILE ...                        the calls in these files
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "source.h"

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

unsigned long long g_seed = 1, g_run = 0;

void Tell(int signal) {  // only what a signal handler may do, and printf, as the process is lost anyway
  std::fprintf(stderr, "fuzz: signal %d at --seed=%llu, run %llu\n", signal, g_seed, g_run);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Replay(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) {
    std::perror(path);
    std::exit(2);
  }
  std::vector<uint8_t> data;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) data.push_back(static_cast<uint8_t>(c));
  std::fclose(file);
  LLVMFuzzerTestOneInput(data.data(), data.size());
}

}  // namespace

int main(int count, char** arguments) {
  LLVMFuzzerInitialize(&count, &arguments);
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGTRAP, SIGFPE}) std::signal(signal, Tell);
  unsigned long long runs = 0;
  for (int i = 1; i < count; ++i) {
    if (std::strncmp(arguments[i], "--runs=", 7) == 0) {
      runs = std::strtoull(arguments[i] + 7, nullptr, 10);
    } else if (std::strncmp(arguments[i], "--seed=", 7) == 0) {
      g_seed = std::strtoull(arguments[i] + 7, nullptr, 10);
    } else if (arguments[i][0] != '-') {
      Replay(arguments[i]);
    }
  }
  uint8_t data[256];
  edgeadapt_fuzz::Values values(g_seed);
  for (g_run = 0; g_run < runs; ++g_run) {
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(values.Next());
    LLVMFuzzerTestOneInput(data, sizeof data);
  }
  std::printf("fuzz: %llu runs, no finding\n", runs);
  return 0;
}
