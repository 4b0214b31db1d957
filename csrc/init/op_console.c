/* The container's terminal. */
#include "init.h"

#include <asm/termios.h>
#include <linux/magic.h>
#include <linux/mount.h>

#define PTMX_DEVICE (5 << 8 | 2)

/* Looked at before it is opened: what lies there may be any device or a FIFO. */
static long open_ptmx(i32 root, const char *path)
{
	struct stat status;
	long place = open_below(root, path, O_PATH, 0);
	if (place < 0)
		return place;
	long fd = SYS(fstat, place, &status);
	if (!fd && (!S_ISCHR(status.st_mode) || status.st_rdev != PTMX_DEVICE))
		fd = fail("ptmx", -ENODEV);
	if (!fd)
		fd = reopen(place, O_RDWR | O_NOCTTY);
	SYS(close, place);
	return fd;
}

/* The other end, opened through the master and never by its path (CVE-2025-52565). */
static long open_peer(i32 master)
{
	i32 unlock = 0;
	struct statfs fs;
	long peer = SYS(ioctl, master, TIOCSPTLCK, &unlock);
	if (!peer)
		peer = SYS(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (peer < 0)
		return fail("ioctl", peer);
	if (!SYS(fstatfs, peer, &fs) && fs.f_type == DEVPTS_SUPER_MAGIC)
		return peer;
	SYS(close, peer);
	return fail("fstatfs", -ENODEV);
}

static long mount_on_dev_console(i32 root, i32 peer)
{
	long place = make_target(root, "dev/console", TARGET_FILE, 0666);
	if (place < 0)
		return place;
	long tree = SYS(open_tree, peer, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
	long error = tree < 0 ? fail("open_tree", tree) : 0;
	if (!error) {
		error = SYS(move_mount, tree, "", place, "",
			    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
		fail("move_mount", error);
		SYS(close, tree);
	}
	SYS(close, place);
	return error;
}

static long send_master(i32 socket, i32 master)
{
	static const char payload[] = "/dev/ptmx";
	struct {
		struct control_header head;
		i32 fd;
		i32 padding;
	} rights = {
		.head = {sizeof(struct control_header) + sizeof(i32), SOL_SOCKET, SCM_RIGHTS},
		.fd = master,
	};
	struct iovec vector = {(void *)payload, sizeof(payload) - 1};
	struct message_header message = {
		.vectors = &vector,
		.vector_count = 1,
		.control = &rights,
		.control_length = sizeof(rights),
	};
	long sent = SYS(sendmsg, socket, &message, MSG_NOSIGNAL);
	return sent < 0 ? fail("sendmsg", sent) : 0;
}

static long become_terminal(i32 peer)
{
	for (i32 fd = 0; fd <= 2; fd++) {
		long error = SYS(dup3, peer, fd, 0);
		if (error < 0)
			return fail("dup3", error);
	}
	long error = SYS(ioctl, 0, TIOCSCTTY, 0);
	return error ? fail("ioctl", error) : 0;
}

/* root console-socket rows cols flags */
long op_make_console(const u64 *arg)
{
	const struct winsize size = {.ws_row = arg[2], .ws_col = arg[3]};
	long master = open_ptmx(FD(0), "dev/pts/ptmx");
	if (master < 0)
		master = open_ptmx(FD(0), "dev/ptmx");
	if (master < 0)
		return master;
	long peer = open_peer(master);
	long error = peer < 0 ? peer : 0;
	if (!error && (size.ws_row || size.ws_col)) {
		error = SYS(ioctl, peer, TIOCSWINSZ, &size);
		fail("ioctl", error);
	}
	if (!error && arg[4] & 1)
		error = mount_on_dev_console(FD(0), peer);
	if (!error)
		error = send_master(FD(1), master);
	if (!error)
		error = become_terminal(peer);
	/* A waiting init must not keep the terminal open that its user gave up. */
	close_fd(peer);
	SYS(close, master);
	SYS(close, FD(1));
	return error;
}
