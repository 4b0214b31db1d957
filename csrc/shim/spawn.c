/* clone3 of a child that shares the caller's memory until it executes ocirt-init.
 *
 * CLONE_VM: a host program of gigabytes would otherwise have its page tables copied. The child
 * runs on a stack of its own and makes only raw system calls: it shares errno, locks and the
 * C library's state with the suspended parent. */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_SIZE 32768
#define SIGNALS 64

struct child {
	struct oc_spawn *spawn;
	volatile int error;
};

/* As the kernel declares it; the C library's differs in order and size. */
struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

#if defined(__x86_64__)

static inline long raw(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

/* The child calls entry(argument) on the new stack and never comes back. */
static long raw_clone3(struct clone_args *args, void (*entry)(struct child *),
		       struct child *argument)
{
	register void *r12 __asm__("r12") = (void *)entry;
	register void *r13 __asm__("r13") = argument;
	long result;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(result)
			 : "a"(SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(r12), "r"(r13)
			 : "rcx", "r11", "memory", "cc");
	return result;
}

#elif defined(__aarch64__)

static inline long raw(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory");
	return x0;
}

static long raw_clone3(struct clone_args *args, void (*entry)(struct child *),
		       struct child *argument)
{
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = sizeof(*args);
	register void *x19 __asm__("x19") = (void *)entry;
	register void *x20 __asm__("x20") = argument;
	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x30, xzr\n\t"
			 "mov x0, x20\n\t"
			 "blr x19\n\t"
			 "brk #0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x19), "r"(x20)
			 : "x30", "memory", "cc");
	return x0;
}

#else
#error "ocirt knows the system calls of x86_64 and aarch64 only"
#endif

static _Noreturn void leave(struct child *child, long result)
{
	child->error = (int)-result;
	for (;;)
		raw(SYS_exit_group, 127, 0, 0, 0, 0);
}

/* Puts the wanted fds onto 0, 1 and 2; they are moved up first so that none overwrites another. */
static long place_stdio(const int wanted[3])
{
	int moved[3];
	long result;

	for (int i = 0; i < 3; i++) {
		moved[i] = -1;
		if (wanted[i] < 0)
			continue;
		result = raw(SYS_fcntl, wanted[i], F_DUPFD_CLOEXEC, 3, 0, 0);
		if (result < 0)
			return result;
		moved[i] = (int)result;
	}
	for (int i = 0; i < 3; i++) {
		if (moved[i] < 0)
			continue;
		result = raw(SYS_dup3, moved[i], i, 0, 0, 0);
		if (result < 0)
			return result;
	}
	return 0;
}

static void child_main(struct child *child)
{
	struct oc_spawn *spawn = child->spawn;
	struct kernel_sigaction standard = {0};
	uint64_t none = 0;
	long result;

	/* Python ignores SIGPIPE and SIGXFSZ; ignored signals would survive the exec. */
	for (int sig = 1; sig <= SIGNALS; sig++)
		raw(SYS_rt_sigaction, sig, (long)&standard, 0, sizeof(none), 0);

	if (spawn->cwd_fd >= 0) {
		result = raw(SYS_fchdir, spawn->cwd_fd, 0, 0, 0, 0);
		if (result < 0)
			leave(child, result);
	}
	result = place_stdio(spawn->stdio);
	if (result < 0)
		leave(child, result);
	/* Engines leak fds into the runtime, and a host program may hold some without FD_CLOEXEC.
	 */
	result = raw(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC, 0, 0);
	if (result < 0)
		leave(child, result);
	for (int i = 0; i < spawn->keep_count; i++) {
		result = raw(SYS_fcntl, spawn->keep_fds[i], F_SETFD, 0, 0, 0);
		if (result < 0)
			leave(child, result);
	}
	raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none), 0);
	if (spawn->path)
		result = raw(SYS_execve, (long)spawn->path, (long)spawn->argv, (long)spawn->env, 0,
			     0);
	else
		result = raw(SYS_execveat, spawn->exe_fd, (long)"", (long)spawn->argv,
			     (long)spawn->env, 0x1000 /* AT_EMPTY_PATH */);
	leave(child, result);
}

long oc_spawn(struct oc_spawn *spawn)
{
	struct child child = {.spawn = spawn};
	struct clone_args args = {0};
	uint64_t all = ~0UL, mask;
	int pidfd = -1;
	long pid;

	char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	args.flags = spawn->flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
	args.pidfd = (uintptr_t)&pidfd;
	args.exit_signal = (unsigned)spawn->exit_signal;
	args.stack = (uintptr_t)stack;
	args.stack_size = STACK_SIZE;
	if (spawn->cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (unsigned)spawn->cgroup_fd;
	}

	/* A handler of the host program must not run on the child's side of the shared memory. */
	raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, sizeof(mask), 0);
	pid = raw_clone3(&args, child_main, &child);
	raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof(mask), 0);
	munmap(stack, STACK_SIZE);
	if (pid < 0)
		return pid;
	if (child.error) {
		siginfo_t info;
		while (raw(SYS_waitid, P_PIDFD, pidfd, (long)&info, WEXITED | __WALL, 0) == -EINTR)
			;
		close(pidfd);
		return -child.error;
	}
	spawn->pidfd = pidfd;
	return pid;
}
