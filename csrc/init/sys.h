/* System calls and kernel types for a program without libc, x86_64 and aarch64. */
#ifndef OCIRT_SYS_H
#define OCIRT_SYS_H

#include <asm/ioctls.h>
#include <asm/socket.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <linux/types.h>
#include <stddef.h>

#include "plan.h"

/* One call with its arguments in registers; a negative errno when it failed. */
static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#else
#error "ocirt-init is written for x86_64 and aarch64"
#endif
}

/* SYS(openat, fd, path, flags, mode): arguments that are not given are 0. */
#define SYS(name, ...) SYS_PAD(__NR_##name, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_PAD(number, a, b, c, d, e, f, ...)                                                     \
	sys6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* Known to the kernel but not to its uapi headers, the same on both architectures. */
#define AF_INET 2
#define SOCK_DGRAM 2
#define SOCK_CLOEXEC O_CLOEXEC
#define MSG_NOSIGNAL 0x4000
#define SCM_RIGHTS 1
#define MSG_CTRUNC 8
#define MSG_CMSG_CLOEXEC 0x40000000
#define CLONE_EXIT_SIGNAL 17 /* SIGCHLD; <asm/signal.h> brings far more */
#define SIGNAL_KILL 9
#define MNT_DETACH 2

/* Linux 5.8 and 6.3; headers of Debian 12 are of 6.1. */
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

struct iovec {
	void *base;
	size_t length;
};

/* struct user_msghdr and struct cmsghdr of the kernel's linux/socket.h */
struct message_header {
	void *name;
	int name_length;
	struct iovec *vectors;
	size_t vector_count;
	void *control;
	size_t control_length;
	unsigned int flags;
};

struct control_header {
	size_t length;
	int level;
	int type;
};

/* What getdents64(2) fills in. */
struct dirent64 {
	u64 inode;
	i64 offset;
	u16 length;
	u8 type;
	char name[];
};

static inline size_t string_length(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

/* Does s begin with the word? */
static inline int starts_with(const char *s, const char *word)
{
	while (*word)
		if (*s++ != *word++)
			return 0;
	return 1;
}

static inline int same(const char *a, const char *b)
{
	return starts_with(a, b) && string_length(a) == string_length(b);
}

/* The compiler calls these by itself as well. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);
void *memmove(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
