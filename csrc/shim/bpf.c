/* bpf(2), as far as device programs of cgroup v2 need it. */
#include "shim.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attr)
{
	long result = syscall(SYS_bpf, command, attr, sizeof(*attr));
	return result < 0 ? -errno : result;
}

/* log is filled only when log_size is not 0: asking for it makes loading slower. */
long oc_bpf_prog_load(unsigned type, unsigned attach_type, const char *insns, unsigned count,
		      const char *license, const char *name, char *log, unsigned log_size)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.expected_attach_type = attach_type;
	attr.insns = (uintptr_t)insns;
	attr.insn_cnt = count;
	attr.license = (uintptr_t)license;
	strncpy(attr.prog_name, name, sizeof(attr.prog_name) - 1);
	if (log_size) {
		attr.log_level = 1;
		attr.log_buf = (uintptr_t)log;
		attr.log_size = log_size;
	}
	return bpf(BPF_PROG_LOAD, &attr);
}

long oc_bpf_prog_attach(int target, int prog, unsigned type, unsigned flags, int replace)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (unsigned)target;
	attr.attach_bpf_fd = (unsigned)prog;
	attr.attach_type = type;
	attr.attach_flags = flags;
	attr.replace_bpf_fd = replace < 0 ? 0 : (unsigned)replace;
	return bpf(BPF_PROG_ATTACH, &attr);
}

long oc_bpf_prog_detach(int target, int prog, unsigned type)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (unsigned)target;
	attr.attach_bpf_fd = (unsigned)prog;
	attr.attach_type = type;
	return bpf(BPF_PROG_DETACH, &attr);
}

/* count: room in ids before, programs there are after, also when they do not fit (ENOSPC). */
long oc_bpf_prog_query(int target, unsigned type, unsigned query_flags, uint32_t *ids,
		       unsigned *count, unsigned *attach_flags)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = (unsigned)target;
	attr.query.attach_type = type;
	attr.query.query_flags = query_flags;
	attr.query.prog_ids = (uintptr_t)ids;
	attr.query.prog_cnt = *count;
	long result = bpf(BPF_PROG_QUERY, &attr);
	*count = attr.query.prog_cnt;
	*attach_flags = attr.query.attach_flags;
	return result;
}

long oc_bpf_prog_get_fd_by_id(uint32_t id)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.prog_id = id;
	return bpf(BPF_PROG_GET_FD_BY_ID, &attr);
}
