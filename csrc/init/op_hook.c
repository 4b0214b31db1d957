/* Hooks that run inside the container (config.md, createContainer and startContainer). */
#include "init.h"

#include <asm/siginfo.h>
#include <linux/close_range.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/time.h>
#include <linux/wait.h>

#define NULL_DEVICE (1 << 8 | 3)
#define TAIL_MAX 900 /* of stderr; the rest of the text says how the hook ended */
#define NO_LIMIT (~0UL)

static u64 milliseconds(void)
{
	struct __kernel_timespec now;
	SYS(clock_gettime, CLOCK_MONOTONIC, &now);
	return (u64)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Write our pid, as the container sees it, over the blanks behind "pid": in the state. */
static void patch_pid(char *state, size_t length)
{
	static const char token[] = "\"pid\":          ";
	const size_t size = sizeof(token) - 1, digits_max = 10;
	for (size_t i = 0; i + size <= length; i++) {
		if (state[i] != '"' || memcmp(state + i, token, size))
			continue;
		char *end = state + i + size - digits_max;
		u32 pid = SYS(getpid), divisor = 1;
		while (pid / divisor >= 10)
			divisor *= 10;
		for (; divisor; divisor /= 10)
			*end++ = '0' + pid / divisor % 10;
		return;
	}
}

/* A file with the state, to be read from its start. Unlike a pipe it holds any amount, and a hook
 * that does not read does not block us. */
static long state_file(const char *state, size_t length)
{
	long fd = SYS(memfd_create, "state", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	if (fd == -EINVAL) /* before Linux 6.3 */
		fd = SYS(memfd_create, "state", MFD_CLOEXEC);
	if (fd < 0)
		return fail("memfd_create", fd);
	long error = length ? write_all(fd, state, length) : 0;
	if (!error)
		error = SYS(lseek, fd, 0, SEEK_SET);
	if (!error)
		return fd;
	SYS(close, fd);
	return error;
}

struct hook {
	const char *path;
	char **argv;
	char **env;
	i32 input;	/* the state */
	i32 errors[2];	/* pipe of its stderr */
	i32 trouble[2]; /* pipe for the errno of a failed exec */
	i32 pidfd;
	u32 tail;
	char text[TAIL_MAX]; /* the end of its stderr */
};

/* In the child. stdout goes to /dev/null if that is what it should be, or else where stderr goes:
 * after the change of the root the file is the container's. */
static void run_child(const struct hook *hook)
{
	struct stat status;
	char *const none[] = {NULL};
	long error;
	long null = SYS(openat, AT_FDCWD, "/dev/null", O_PATH | O_CLOEXEC);
	if (null >= 0) {
		const long checked = SYS(fstat, null, &status);
		const i32 place = null;
		null = -1;
		if (!checked && S_ISCHR(status.st_mode) && status.st_rdev == NULL_DEVICE)
			null = reopen(place, O_WRONLY);
	}
	error = SYS(dup3, hook->input, 0, 0);
	if (error >= 0)
		error = SYS(dup3, null >= 0 ? null : hook->errors[1], 1, 0);
	if (error >= 0)
		error = SYS(dup3, hook->errors[1], 2, 0);
	if (error >= 0)
		error = SYS(close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
	if (error >= 0)
		error = SYS(chdir, "/");
	if (error >= 0)
		error = SYS(execve, hook->path, hook->argv, hook->env ? hook->env : none);
	SYS(write, hook->trouble[1], &error, sizeof(error));
	exit_process(127);
}

/* Take what is there of stderr, keeping the end of it. False when there is no more to come. */
static int drain(struct hook *hook)
{
	long length = SYS(read, hook->errors[0], scratch, sizeof(scratch));
	if (length <= 0)
		return length == -EINTR;
	const char *from = scratch;
	if (length > TAIL_MAX) {
		from += length - TAIL_MAX;
		length = TAIL_MAX;
	}
	const u32 keep = hook->tail + length > TAIL_MAX ? TAIL_MAX - length : hook->tail;
	memmove(hook->text, hook->text + hook->tail - keep, keep);
	memcpy(hook->text + keep, from, length);
	hook->tail = keep + length;
	return 1;
}

/* Until the hook ends, or time is up: then it is killed. Its own children may hold stderr open for
 * longer; they are not waited for. */
static long attend(struct hook *hook, u64 limit)
{
	const u64 end = limit ? milliseconds() + limit : NO_LIMIT;
	struct pollfd watched[2] = {
		{.fd = hook->pidfd, .events = POLLIN},
		{.fd = hook->errors[0], .events = POLLIN},
	};
	for (;;) {
		const u64 now = limit ? milliseconds() : 0;
		const u64 rest = now < end ? end - now : 0;
		struct __kernel_timespec wait = {rest / 1000, rest % 1000 * 1000000};
		long ready = SYS(ppoll, watched, 2, limit ? &wait : NULL, NULL, 0);
		if (ready < 0 && ready != -EINTR)
			return fail("ppoll", ready);
		if (!ready) {
			SYS(pidfd_send_signal, hook->pidfd, SIGNAL_KILL, NULL, 0);
			return -ETIMEDOUT;
		}
		if (ready < 0)
			continue;
		if (watched[1].revents && !drain(hook))
			watched[1].fd = -1;
		if (watched[0].revents) {
			/* What it wrote last; O_NONBLOCK, and bounded should others go on. */
			for (int i = 0; i < 256 && watched[1].fd >= 0 && drain(hook); i++)
				;
			return 0;
		}
	}
}

/* How the hook ended, as an error and as text: the reason, then on lines of their own how many
 * milliseconds it took and the end of its stderr. */
static long outcome(struct hook *hook, long error, u64 began)
{
	siginfo_t info = {0};
	long waited;
	do
		waited = SYS(waitid, P_PIDFD, hook->pidfd, &info, WEXITED, NULL);
	while (waited == -EINTR);
	if (waited)
		return fail("waitid", waited);
	long refused = 0;
	if (SYS(read, hook->trouble[0], &refused, sizeof(refused)) == sizeof(refused))
		return fail("execve", refused);
	if (error == -ETIMEDOUT) {
		text_add("timed out");
	} else if (!error && info.si_code == CLD_EXITED && !info.si_status) {
		return 0;
	} else if (!error) {
		text_add(info.si_code == CLD_EXITED ? "exit status " : "killed by signal ");
		text_add_number(info.si_status);
		error = -ECHILD;
	}
	text_add("\n");
	text_add_number(milliseconds() - began);
	while (hook->tail && hook->text[hook->tail - 1] == '\n')
		hook->tail--;
	if (hook->tail) {
		text_add("\n");
		text_add_bytes(hook->text, hook->tail);
	}
	return error;
}

static long run_hook(struct hook *hook, u64 limit)
{
	long error = SYS(pipe2, hook->errors, O_CLOEXEC | O_NONBLOCK);
	if (!error)
		error = SYS(pipe2, hook->trouble, O_CLOEXEC);
	if (!error)
		/* The hook's own end blocks as usual. */
		error = SYS(fcntl, hook->errors[1], F_SETFL, O_WRONLY);
	if (error)
		return fail("pipe2", error);
	const u64 began = milliseconds();
	long pid = SYS(clone, CLONE_PIDFD | CLONE_EXIT_SIGNAL, 0, &hook->pidfd, 0, 0);
	if (!pid)
		run_child(hook);
	if (pid < 0)
		return fail("clone", pid);
	close_fd(hook->errors[1]);
	close_fd(hook->trouble[1]);
	hook->errors[1] = hook->trouble[1] = -1;
	return outcome(hook, attend(hook, limit), began);
}

/* path argv env state timeout */
long op_hook(const u64 *arg)
{
	struct hook hook = {
		.path = TEXT(0),
		.argv = WORDS(1),
		.env = WORDS(2),
		.errors = {-1, -1},
		.trouble = {-1, -1},
		.pidfd = -1,
	};
	if (!hook.argv || !hook.argv[0])
		return -EINVAL;
	if (arg[4])
		patch_pid((char *)arg[3], arg[4]);
	long error = hook.input = state_file((const char *)arg[3], arg[4]);
	if (error >= 0)
		error = run_hook(&hook, arg[5]);
	close_fd(hook.input);
	close_fd(hook.errors[0]);
	close_fd(hook.errors[1]);
	close_fd(hook.trouble[0]);
	close_fd(hook.trouble[1]);
	close_fd(hook.pidfd);
	return error;
}
