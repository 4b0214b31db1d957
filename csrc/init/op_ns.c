/* Talking to the parent, the second stage, the network's loopback. */
#include "init.h"

#include <linux/sched.h>
#include <linux/sockios.h>

/* struct ifreq as the flags calls use it; <linux/if.h> would bring libc's sys/socket.h with it. */
struct interface_request {
	char name[16];
	short flags;
	char unused[22];
};

#define INTERFACE_UP 1 /* IFF_UP */

/* The parent must know the pid before it hears anything of stage 2: that waits on a pipe. */
long op_fork(const u64 *arg)
{
	i32 pipe[2];
	char byte;
	(void)arg;
	long error = SYS(pipe2, pipe, O_CLOEXEC);
	if (error)
		return fail("pipe2", error);
	long pid = SYS(clone, CLONE_PARENT | CLONE_EXIT_SIGNAL, 0, 0, 0, 0);
	if (pid < 0)
		return fail("clone", pid);
	SYS(close, pipe[pid ? 0 : 1]);
	if (pid) {
		send_report(MESSAGE_PID, init.step, 0, pid, NULL);
		for (;;)
			exit_process(0);
	}
	do
		error = SYS(read, pipe[0], &byte, 1);
	while (error == -EINTR);
	SYS(close, pipe[0]);
	return 0;
}

long op_sync(const u64 *arg)
{
	struct plan_answer answer;
	long length;
	if (arg[0] == SYNC_READY)
		trace_flush();
	length = send_report(MESSAGE_SYNC, init.step, 0, arg[0], NULL);
	if (length < 0)
		exit_process(1);
	do
		length = SYS(read, init.control_fd, &answer, sizeof(answer));
	while (length == -EINTR);
	if (length != sizeof(answer) || answer.go != 1 || answer.reserved)
		exit_process(1);
	return 0;
}

long op_wait_start(const u64 *arg)
{
	long fd;
	do
		fd = SYS(accept4, FD(0), NULL, NULL, SOCK_CLOEXEC);
	while (fd == -EINTR || fd == -ECONNABORTED);
	if (fd < 0)
		return fail("accept4", fd);
	SYS(close, FD(0));
	SYS(close, init.control_fd);
	init.control_fd = fd;
	return 0;
}

long op_loopback_up(const u64 *arg)
{
	struct interface_request request = {.name = "lo"};
	(void)arg;
	long fd = SYS(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail("socket", fd);
	long error = SYS(ioctl, fd, SIOCGIFFLAGS, &request);
	if (!error) {
		request.flags |= INTERFACE_UP;
		error = SYS(ioctl, fd, SIOCSIFFLAGS, &request);
	}
	SYS(close, fd);
	return error ? fail("ioctl", error) : 0;
}

/* Announce the exec. A starter that died in the meantime does not stop the container. */
long op_exec_follows(const u64 *arg)
{
	(void)arg;
	trace_flush();
	long error = send_report(MESSAGE_EXEC, init.step, 0, 0, NULL);
	if (error && error != -EPIPE)
		return fail("sendto", error);
	init.announced = 1;
	return 0;
}
