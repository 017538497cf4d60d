/* llama.cpp in the measured guest: user instructions per phase, told as edgeadapt_bench/emulation/job.py says.
 *
 *   llama_cpp_counts MODEL.gguf PREFILLS STEPS TOKEN...
 *
 * One thread. A prompt is run PREFILLS times from an empty cache, logits of its last position only; then STEPS greedy
 * tokens behind it, choosing them not counted. `load` is the model and its context.
 */
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "llama.h"

static int counter;

static void fail(const char* what) {
  printf("@@{\"event\": \"error\", \"message\": \"%s\"}\n", what);
  exit(1);
}

static uint64_t now(void) {
  uint64_t value = 0;
  if (read(counter, &value, sizeof value) != sizeof value) fail("the instruction counter cannot be read");
  return value;
}

static void tell(const char* phase, int count, uint64_t instructions) {
  printf("@@{\"event\": \"phase\", \"name\": \"%s\", \"count\": %d, \"instructions\": %llu}\n", phase, count,
         (unsigned long long)instructions);
  fflush(stdout);
}

static void tell_memory(void) {
  FILE* status = fopen("/proc/self/status", "r");
  char line[256], name[32];
  unsigned long kilobytes;
  if (!status) fail("/proc/self/status cannot be read");
  printf("@@{\"event\": \"memory\", \"name\": \"end\"");
  while (fgets(line, sizeof line, status))
    if ((!strncmp(line, "VmHWM", 5) || !strncmp(line, "Rss", 3)) && sscanf(line, "%31[^:]: %lu", name, &kilobytes) == 2)
      printf(", \"%s\": %lu", name, kilobytes * 1024);
  printf("}\n");
  fclose(status);
}

static llama_token best(struct llama_context* context, int vocabulary) {
  const float* logits = llama_get_logits_ith(context, -1);
  llama_token chosen = 0;
  for (int i = 1; i < vocabulary; i++)
    if (logits[i] > logits[chosen]) chosen = i;
  return chosen;
}

static void silent(enum ggml_log_level level, const char* text, void* data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char** argv) {
  if (argc < 5) fail("usage: llama_cpp_counts MODEL.gguf PREFILLS STEPS TOKEN...");
  const int prefills = atoi(argv[2]), steps = atoi(argv[3]), prompt = argc - 4;
  llama_token* ids = calloc((size_t)prompt, sizeof *ids);
  for (int i = 0; i < prompt; i++) ids[i] = atoi(argv[4 + i]);

  struct perf_event_attr attributes = {.type = PERF_TYPE_HARDWARE,
                                       .size = sizeof attributes,
                                       .config = PERF_COUNT_HW_INSTRUCTIONS,
                                       .inherit = 1,
                                       .exclude_kernel = 1,
                                       .exclude_hv = 1};
  counter = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
  if (counter < 0) fail("perf_event_open(instructions) failed");

  llama_log_set(silent, NULL);
  uint64_t before = now();
  llama_backend_init();
  struct llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) fail("the model cannot be loaded");
  struct llama_context_params wanted = llama_context_default_params();
  wanted.n_ctx = (uint32_t)(prompt + steps);
  wanted.n_batch = wanted.n_ubatch = (uint32_t)prompt;
  wanted.n_threads = wanted.n_threads_batch = 1;
  struct llama_context* context = llama_init_from_model(model, wanted);
  if (!context) fail("the context cannot be made");
  tell("load", 0, now() - before);

  for (int i = 0; i < prefills; i++) {
    llama_memory_clear(llama_get_memory(context), false);
    before = now();
    if (llama_decode(context, llama_batch_get_one(ids, prompt))) fail("the prompt cannot be run");
    llama_synchronize(context);
    tell("prefill", i, now() - before);
  }
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  llama_token* chosen = calloc((size_t)steps, sizeof *chosen);
  for (int i = 0; i < steps; i++) {
    chosen[i] = best(context, vocabulary);
    before = now();
    if (llama_decode(context, llama_batch_get_one(&chosen[i], 1))) fail("a token cannot be run");
    llama_synchronize(context);
    tell("decode", i, now() - before);
  }
  printf("@@{\"event\": \"answer\", \"tokens\": [");
  for (int i = 0; i < steps; i++) printf("%s%d", i ? ", " : "", chosen[i]);
  printf("]}\n");
  tell_memory();
  llama_free(context);
  llama_model_free(model);
  return 0;
}
