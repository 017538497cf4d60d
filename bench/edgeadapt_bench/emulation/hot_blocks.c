/* QEMU TCG plugin: how often each basic block ran between two markers.
 *
 *   -plugin libhot_blocks.so,out=FILE       user mode, plugin interface 1 (QEMU 6.0 to 8.2)
 *
 * A guest marks the beginning with close(-424300) and the end with close(-424301): calls that fail and do nothing.
 * At the end, FILE has one line per block: runs, address, and its instructions as eight hexadecimal digits each.
 * A block that was translated twice has two lines. Counters are plain additions: one guest thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used of qemu-plugin.h, which Debian does not package. */
#define EXPORT __attribute__((visibility("default")))
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
  const char* target_name;
  struct {
    int min, cur;
  } version;
  bool system_emulation;
  struct {
    int smp_vcpus, max_vcpus;
  } system;
} qemu_info_t;
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*system_call_t)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                              uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, system_call_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int add_u64, void*, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

EXPORT int qemu_plugin_version = 1;

enum { CLOSE = 57, BEGIN = -424300, END = -424301 }; /* close: its number on aarch64 */

struct block {
  uint64_t runs, before, address;
  size_t count;
  struct block* next;
  uint32_t instructions[];
};

static struct block* blocks;
static const char* target;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  size_t count = qemu_plugin_tb_n_insns(tb);
  struct block* made = calloc(1, sizeof *made + count * sizeof made->instructions[0]);
  if (!made) abort();
  made->address = qemu_plugin_tb_vaddr(tb);
  made->count = count;
  for (size_t i = 0; i < count; i++)
    memcpy(&made->instructions[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
  made->next = blocks;
  blocks = made;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &made->runs, 1);
}

static void dump(void) {
  FILE* out = fopen(target, "w");
  if (!out) {
    perror(target);
    exit(1);
  }
  for (struct block* one = blocks; one; one = one->next) {
    if (one->runs == one->before) continue;
    fprintf(out, "%llu %llx ", (unsigned long long)(one->runs - one->before), (unsigned long long)one->address);
    for (size_t i = 0; i < one->count; i++) fprintf(out, "%08x", one->instructions[i]);
    fputc('\n', out);
  }
  fclose(out);
}

static void system_call(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t first, uint64_t b, uint64_t c,
                        uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number != CLOSE) return;
  if ((int32_t)first == BEGIN)
    for (struct block* one = blocks; one; one = one->next) one->before = one->runs;
  if ((int32_t)first == END) dump();
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], "out=", 4)) target = strdup(argv[i] + 4);
  if (!target || info->system_emulation) {
    fputs("hot_blocks: user mode only, and give out=FILE\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  return 0;
}
