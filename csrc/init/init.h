/* What the parts of ocirt-init share. */
#ifndef OCIRT_INIT_H
#define OCIRT_INIT_H

#include "sys.h"

/* Hidden symbols need no relocation: nobody would apply one without a libc. */
#pragma GCC visibility push(hidden)

#define NO_STEP 0xffffffffu /* in a report: of no step of the plan */

struct init {
	u8 *plan;
	u32 size;
	u32 step;
	i32 control_fd;
	i32 proc_fd;
	const char *call;	/* what failed inside the op, or NULL */
	const char *executable; /* found by find_executable */
	int announced;		/* exec_follows was sent: nothing but write(2) from now on */
	int trace;
	i32 registers[PLAN_REGISTERS];
	u32 fd_count;
	i32 fds[PLAN_FDS]; /* they came with the plan */
};

extern struct init init;

/* One page that ops use as they like; nothing in it lives longer than the op. */
extern char scratch[PATH_MAX];

/* Name the call that failed inside an op; returns the error. */
static inline long fail(const char *call, long error)
{
	init.call = call;
	return error;
}

/* report.c: what the parent is told */
void text_clear(void);
void text_add(const char *text);
void text_add_bytes(const char *bytes, size_t length);
void text_add_number(u64 number);
u32 text_room(void);
long send_report(u32 type, u32 step, i32 error, i32 value, const char *call);
void give_up(long error) __attribute__((noreturn));
u64 trace_clock(void);
void trace_start(const u64 times[3]);
void trace_step(u32 step);
void trace_flush(void);

/* A seccomp profile may refuse even this: then a signal ends us, which needs no call. */
static inline void exit_process(int status)
{
	SYS(exit_group, status);
	SYS(exit, status);
	for (;;)
		__builtin_trap();
}

static inline void close_fd(i32 fd)
{
	if (fd >= 0)
		SYS(close, fd);
}

/* op_fs.c: places below the container's root */
long open_below(i32 root, const char *path, u64 flags, u64 resolve);
long make_target(i32 root, const char *path, u32 kind, u32 mode);
long make_parent(i32 root, const char *path, const char **name);
const char *fd_path(i32 fd);
long reopen(i32 fd, u32 flags);
long write_all(i32 fd, const void *bytes, size_t length);

/* op_*.c; arguments are resolved: fds, pointers, integers */
#define PROTOTYPE(name, signature) long op_##name(const u64 *arg);
PLAN_OPS(PROTOTYPE)
#undef PROTOTYPE

#define FD(n) ((i32)arg[n])
#define TEXT(n) ((const char *)arg[n])
#define WORDS(n) ((char **)arg[n])

#pragma GCC visibility pop

#endif
