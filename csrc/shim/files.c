/* Files, sockets and the passing of fds. */
#include "check.h"
#include "shim.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef STATX_MNT_ID /* Linux 5.8 */
#define STATX_MNT_ID 0x1000U
#endif

long oc_memfd_create(const char *name, unsigned flags)
{
	CHECK(syscall(SYS_memfd_create, name, flags));
}

long oc_close_range(unsigned first, unsigned last, unsigned flags)
{
	CHECK(syscall(SYS_close_range, first, last, flags));
}

long oc_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
	CHECK(syscall(SYS_openat2, dir, path, &how, sizeof(how)));
}

long oc_fstatfs_magic(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) < 0 ? -errno : (long)((unsigned long)fs.f_type & 0xffffffffUL);
}

long oc_mount_id(int dir, const char *path, int flags, uint64_t *id)
{
	struct statx stx;
	if (syscall(SYS_statx, dir, path, flags, STATX_MNT_ID, &stx) < 0)
		return -errno;
	if (!(stx.stx_mask & STATX_MNT_ID))
		return -EOPNOTSUPP;
	*id = stx.stx_mnt_id;
	return 0;
}

long oc_socketpair(int type, int pair[2])
{
	CHECK(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
}

static int fill_address(struct sockaddr_un *address, const char *path)
{
	size_t length = strlen(path);
	if (length >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, length + 1);
	return 0;
}

/* A socket that was bound to path, or connected to it. backlog < 0: connect. */
static long unix_socket(const char *path, int type, int backlog)
{
	struct sockaddr_un address = {0};
	long result = fill_address(&address, path);
	if (result < 0)
		return result;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (backlog < 0)
		result = connect(fd, (struct sockaddr *)&address, sizeof(address));
	else if ((result = bind(fd, (struct sockaddr *)&address, sizeof(address))) == 0)
		result = listen(fd, backlog);
	if (result < 0) {
		result = -errno;
		close(fd);
		return result;
	}
	return fd;
}

long oc_unix_listen(const char *path, int type, int backlog)
{
	return unix_socket(path, type, backlog < 0 ? 0 : backlog);
}

long oc_unix_connect(const char *path, int type)
{
	return unix_socket(path, type, -1);
}

long oc_accept(int fd)
{
	CHECK(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
}

long oc_peer_cred(int sock, int cred[3])
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return -errno;
	cred[0] = peer.pid;
	cred[1] = (int)peer.uid;
	cred[2] = (int)peer.gid;
	return 0;
}

union fd_message {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

long oc_send_fd(int sock, int fd, const char *data, size_t size)
{
	union fd_message control = {0};
	struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	CHECK(sendmsg(sock, &message, MSG_NOSIGNAL));
}

long oc_recv_fd(int sock, char *data, size_t size, int *fd)
{
	union fd_message control = {0};
	struct iovec iov = {.iov_base = data, .iov_len = size};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	*fd = -1;
	long result = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
	if (result < 0)
		return -errno;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
	    header->cmsg_len >= CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(header), sizeof(int));
	return result;
}
