/* Kernel calls that Python's posix module lacks. Each function returns what the kernel returned,
 * or the negated errno; ocirt/kernel.py turns that into OSError. */
#ifndef OCIRT_SHIM_H
#define OCIRT_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct oc_spawn {
	int exe_fd;
	const char *path; /* executed instead of exe_fd, when given */
	int cwd_fd;	  /* becomes the working directory; -1 leaves it */
	char **argv;
	char **env;
	const int *keep_fds; /* their FD_CLOEXEC is cleared in the child; all others are closed */
	int keep_count;
	int stdio[3]; /* what becomes 0, 1, 2; -1 leaves it as it is */
	uint64_t flags;
	int cgroup_fd; /* -1: none */
	int exit_signal;
	int pidfd; /* result */
};

long oc_spawn(struct oc_spawn *spawn);

long oc_memfd_create(const char *name, unsigned flags);
long oc_close_range(unsigned first, unsigned last, unsigned flags);
long oc_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
long oc_fstatfs_magic(int fd);
long oc_mount_id(int dir, const char *path, int flags, uint64_t *id);
long oc_socketpair(int type, int pair[2]);
long oc_unix_listen(const char *path, int type, int backlog);
long oc_unix_connect(const char *path, int type);
long oc_accept(int fd);
long oc_send_fd(int sock, int fd, const char *data, size_t size);
long oc_recv_fd(int sock, char *data, size_t size, int *fd);
long oc_peer_cred(int sock, int cred[3]);

long oc_open_tree(int dir, const char *path, unsigned flags);
long oc_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags);
long oc_mount_setattr(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear,
		      uint64_t propagation, int userns);
long oc_fsopen(const char *type, unsigned flags);
long oc_fsconfig(int fd, unsigned command, const char *key, const char *value, int aux);
long oc_fsmount(int fd, unsigned flags, unsigned attributes);
long oc_mount(const char *source, const char *target, const char *type, unsigned long flags,
	      const char *data);
long oc_umount2(const char *target, int flags);

long oc_setns(int fd, int types);
long oc_unshare(int flags);
long oc_pidfd_open(int pid, unsigned flags);
long oc_pidfd_send_signal(int pidfd, int sig);
long oc_waitid(int id_type, int id, int options, int result[3]);
long oc_pidfd_exit(int pidfd, int *status);
long oc_prlimit(int pid, int resource, const uint64_t *set, uint64_t *old);
long oc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long oc_capget(int pid, uint64_t sets[3]);
long oc_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
long oc_keyctl(int operation, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long oc_signalfd(uint64_t mask, int flags);
long oc_sigprocmask(int how, uint64_t set, uint64_t *old);
long oc_ignored_signals(uint64_t *mask);

long oc_bpf_prog_load(unsigned type, unsigned attach_type, const char *insns, unsigned count,
		      const char *license, const char *name, char *log, unsigned log_size);
long oc_bpf_prog_attach(int target, int prog, unsigned type, unsigned flags, int replace);
long oc_bpf_prog_detach(int target, int prog, unsigned type);
long oc_bpf_prog_query(int target, unsigned type, unsigned query_flags, uint32_t *ids,
		       unsigned *count, unsigned *attach_flags);
long oc_bpf_prog_get_fd_by_id(uint32_t id);

long oc_termios_size(void);
long oc_tcgetattr(int fd, char *termios);
long oc_tcsetattr(int fd, int when, const char *termios);
void oc_cfmakeraw(char *termios);
long oc_winsize_get(int fd, unsigned short size[2]);
long oc_winsize_set(int fd, unsigned short rows, unsigned short cols);
long oc_pty_peer(int fd, int flags);

#endif
