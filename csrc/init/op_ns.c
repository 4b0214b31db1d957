/* Talking to the parent, the second stage, the network's loopback. */
#include "init.h"

#include <asm/signal.h>
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
		if (!send_report(MESSAGE_PID, init.step, 0, pid, NULL))
			SYS(write, pipe[1], "", 1);
		for (;;)
			exit_process(0);
	}
	do
		error = SYS(read, pipe[0], &byte, 1);
	while (error == -EINTR);
	if (error != 1) /* stage 1 was killed first: nobody knows us */
		exit_process(1);
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

/* An fd that the parent sends. */
long op_receive_fd(const u64 *arg)
{
	char byte;
	struct {
		struct control_header head;
		i32 fd;
		i32 padding;
	} rights = {.fd = -1};
	struct iovec vector = {&byte, 1};
	struct message_header message = {
		.vectors = &vector,
		.vector_count = 1,
		.control = &rights,
		.control_length = sizeof(rights),
	};
	long length;
	(void)arg;
	do
		length = SYS(recvmsg, init.control_fd, &message, MSG_CMSG_CLOEXEC);
	while (length == -EINTR);
	if (length == 0)
		exit_process(1); /* the parent has given up */
	if (length < 0)
		return fail("recvmsg", length);
	return rights.fd < 0 ? fail("recvmsg", -EBADF) : rights.fd;
}

/* Close all from first on but for the sockets that are still needed: a created container must not
 * hold the host's /proc, cgroups and mounts open for as long as it waits. */
long op_close_others(const u64 *arg)
{
	i32 low = init.control_fd, high = FD(1), first = arg[0];
	if (high >= 0 && high < low) {
		i32 swap = low;
		low = high;
		high = swap;
	}
	if (high < low)
		high = low;
	if (low > first)
		SYS(close_range, first, low - 1, 0);
	if (low >= first)
		first = low + 1;
	if (high > first)
		SYS(close_range, first, high - 1, 0);
	if (high >= first)
		first = high + 1;
	init.proc_fd = -1;
	return fail("close_range", SYS(close_range, first, ~0U, 0));
}

static void end(int number)
{
	exit_process(128 + number);
}

/* The first process of a pid namespace never gets a signal that it does not handle: without this,
 * `kill ID TERM` would do nothing to a created container. execve resets handlers. */
static void end_on_signals(void)
{
	static const u8 signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM};
	struct sigaction action = {
		.sa_handler = end,
		.sa_flags = SA_RESTORER,
		.sa_restorer = (void (*)(void))end, /* never reached: the handler does not return */
	};
	for (size_t i = 0; i < sizeof(signals); i++)
		SYS(rt_sigaction, signals[i], &action, NULL, sizeof(action.sa_mask));
}

/* Wait in accept(2) for start; the connection becomes the control socket. */
long op_wait_start(const u64 *arg)
{
	long fd;
	end_on_signals();
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
