/* Processes, their limits and capabilities, and terminals. */
#include "check.h"
#include "shim.h"

#include <asm/ioctls.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

long oc_setns(int fd, int types)
{
	CHECK(syscall(SYS_setns, fd, types));
}

long oc_unshare(int flags)
{
	CHECK(syscall(SYS_unshare, flags));
}

long oc_pidfd_open(int pid, unsigned flags)
{
	CHECK(syscall(SYS_pidfd_open, pid, flags));
}

long oc_pidfd_send_signal(int pidfd, int sig)
{
	CHECK(syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0));
}

/* result: pid, si_code, si_status; pid 0 when nothing has ended (WNOHANG). */
long oc_waitid(int id_type, int id, int options, int result[3])
{
	siginfo_t info;
	memset(&info, 0, sizeof(info));
	if (syscall(SYS_waitid, id_type, id, &info, options, NULL) < 0)
		return -errno;
	result[0] = info.si_pid;
	result[1] = info.si_code;
	result[2] = info.si_status;
	return 0;
}

/* struct pidfd_info of Linux 6.13 with the exit code of 6.15; the headers are mostly older. */
struct oc_pidfd_info {
	uint64_t mask;
	uint64_t cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};
#define OC_PIDFD_GET_INFO _IOWR(0xFF, 11, struct oc_pidfd_info)
#define OC_PIDFD_INFO_EXIT (1UL << 3)

/* Wait status of a process that somebody else has reaped; ESRCH when that is not to be had. */
long oc_pidfd_exit(int pidfd, int *status)
{
	struct oc_pidfd_info info = {.mask = OC_PIDFD_INFO_EXIT};
	if (ioctl(pidfd, OC_PIDFD_GET_INFO, &info) < 0)
		return -errno;
	if (!(info.mask & OC_PIDFD_INFO_EXIT))
		return -ESRCH;
	*status = info.exit_code;
	return 0;
}

long oc_prlimit(int pid, int resource, const uint64_t *set, uint64_t *old)
{
	CHECK(syscall(SYS_prlimit64, pid, resource, set, old));
}

long oc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	CHECK(prctl(option, a, b, c, d));
}

/* sets: effective, permitted, inheritable. */
long oc_capget(int pid, uint64_t sets[3])
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3,
						  .pid = pid};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	sets[0] = data[0].effective | (uint64_t)data[1].effective << 32;
	sets[1] = data[0].permitted | (uint64_t)data[1].permitted << 32;
	sets[2] = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
	return 0;
}

long oc_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32),
		 (uint32_t)(inheritable >> 32)}};
	CHECK(syscall(SYS_capset, &header, data));
}

long oc_keyctl(int operation, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	CHECK(syscall(SYS_keyctl, operation, a, b, c, d));
}

/* Bit n - 1 of mask stands for signal n. */
long oc_signalfd(uint64_t mask, int flags)
{
	CHECK(syscall(SYS_signalfd4, -1, &mask, sizeof(mask), flags));
}

/* Of the calling thread; how is SIG_BLOCK, SIG_UNBLOCK or SIG_SETMASK. */
long oc_sigprocmask(int how, uint64_t set, uint64_t *old)
{
	CHECK(syscall(SYS_rt_sigprocmask, how, &set, old, sizeof(set)));
}

long oc_ignored_signals(uint64_t *mask)
{
	struct sigaction action;

	*mask = 0;
	for (int sig = 1; sig <= 64; sig++)
		if (sigaction(sig, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
			*mask |= 1UL << (sig - 1);
	return 0;
}

long oc_termios_size(void)
{
	return sizeof(struct termios);
}

long oc_tcgetattr(int fd, char *termios)
{
	CHECK(tcgetattr(fd, (struct termios *)termios));
}

long oc_tcsetattr(int fd, int when, const char *termios)
{
	CHECK(tcsetattr(fd, when, (const struct termios *)termios));
}

void oc_cfmakeraw(char *termios)
{
	cfmakeraw((struct termios *)termios);
}

/* size: rows, columns. */
long oc_winsize_get(int fd, unsigned short size[2])
{
	struct winsize window;
	if (ioctl(fd, TIOCGWINSZ, &window) < 0)
		return -errno;
	size[0] = window.ws_row;
	size[1] = window.ws_col;
	return 0;
}

long oc_winsize_set(int fd, unsigned short rows, unsigned short cols)
{
	struct winsize window = {.ws_row = rows, .ws_col = cols};
	CHECK(ioctl(fd, TIOCSWINSZ, &window));
}

long oc_pty_peer(int fd, int flags)
{
	CHECK(ioctl(fd, TIOCGPTPEER, flags));
}
