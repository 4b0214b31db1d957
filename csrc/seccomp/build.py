"""Writes the C source of the cffi module `ocirt._seccomp` over libseccomp (API mode).

Usage: build.py OUTPUT.c. Only compiling a profile that is not in the cache loads it.
"""

from __future__ import annotations

import sys

import cffi

DECLARATIONS = """
typedef void *scmp_filter_ctx;

struct scmp_version {
    unsigned int major;
    unsigned int minor;
    unsigned int micro;
    ...;
};

enum scmp_filter_attr { SCMP_FLTATR_CTL_OPTIMIZE, ... };

enum scmp_compare {
    SCMP_CMP_NE, SCMP_CMP_LT, SCMP_CMP_LE, SCMP_CMP_EQ, SCMP_CMP_GE, SCMP_CMP_GT,
    SCMP_CMP_MASKED_EQ, ...
};

struct scmp_arg_cmp {
    unsigned int arg;
    enum scmp_compare op;
    uint64_t datum_a;
    uint64_t datum_b;
    ...;
};

const struct scmp_version *seccomp_version(void);
unsigned int seccomp_api_get(void);
scmp_filter_ctx seccomp_init(uint32_t def_action);
void seccomp_release(scmp_filter_ctx ctx);
uint32_t seccomp_arch_resolve_name(const char *arch_name);
uint32_t seccomp_arch_native(void);
int seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch_token);
int seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int seccomp_syscall_resolve_name(const char *name);
int seccomp_syscall_resolve_name_arch(uint32_t arch_token, const char *name);
int seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall,
                           unsigned int arg_cnt, const struct scmp_arg_cmp *arg_array);
int seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
"""

CONSTANTS = (
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86_64",
    "SECCOMP_RET_ERRNO",
    "SECCOMP_RET_TRACE",
    "__NR_SCMP_ERROR",
)


def main() -> None:
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    ffi.cdef("".join(f"#define {name} ...\n" for name in CONSTANTS))
    ffi.set_source("ocirt._seccomp", "#include <seccomp.h>\n#include <linux/seccomp.h>\n")
    ffi.emit_c_code(sys.argv[1])


if __name__ == "__main__":
    main()
