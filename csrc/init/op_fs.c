/* Places below the container's root, and what is made there.
 *
 * No path of the container is ever followed but by openat2 under the root's fd; what is missing is
 * made in the checked directory that should hold it, name by name (CVE-2024-45310). */
#include "init.h"

#include <linux/magic.h>

#define TRIES 128    /* EAGAIN of openat2: something was renamed on the way */
#define LINKS_MAX 40 /* as the kernel's own limit */

/* fd of what path means inside root; symlinks, "..", and "/" stay inside it. */
long open_below(i32 root, const char *path, u64 flags, u64 resolve)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
	};
	long fd = -EAGAIN;
	for (int i = 0; i < TRIES && fd == -EAGAIN; i++)
		fd = SYS(openat2, root, path, &how, sizeof(how));
	return fd < 0 ? fail("openat2", fd) : fd;
}

/* "self/fd/N", to be used with the parent's checked procfs; valid until the next call. */
const char *fd_path(i32 fd)
{
	static char path[sizeof("self/fd/2147483647")];
	static const char start[] = "self/fd/";
	u32 end = sizeof(start) - 1;
	u32 divisor = 1;
	memcpy(path, start, end);
	while ((u32)fd / divisor >= 10)
		divisor *= 10;
	for (; divisor; divisor /= 10)
		path[end++] = '0' + (u32)fd / divisor % 10;
	path[end] = 0;
	return path;
}

/* An O_PATH fd, opened for use. The caller has checked what it is. */
long reopen(i32 fd, u32 flags)
{
	long opened = SYS(openat, init.proc_fd, fd_path(fd), flags | O_CLOEXEC);
	return opened < 0 ? fail("openat", opened) : opened;
}

long write_all(i32 fd, const void *bytes, size_t length)
{
	long written = SYS(write, fd, bytes, length);
	if (written < 0)
		return fail("write", written);
	return (size_t)written == length ? 0 : fail("write", -EIO);
}

static long check_kind(long fd, u32 kind)
{
	struct stat status;
	if (fd < 0)
		return fd;
	long error = SYS(fstat, fd, &status);
	if (!error && kind == TARGET_FILE && S_ISDIR(status.st_mode))
		error = -EISDIR;
	else if (!error && kind != TARGET_FILE && !S_ISDIR(status.st_mode))
		error = -ENOTDIR;
	if (!error)
		return fd;
	close_fd(fd);
	return error;
}

/* Make name in directory; the new thing as an O_PATH fd. -EAGAIN: somebody was faster. */
static long make_name(i32 directory, const char *name, u32 kind, u32 mode)
{
	u32 flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
	long made;
	if (kind == TARGET_FILE) {
		made = SYS(openat, directory, name,
			   O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, mode);
		if (made < 0)
			return made == -EEXIST ? -EAGAIN : fail("openat", made);
		SYS(close, made);
	} else {
		made = SYS(mkdirat, directory, name, mode);
		if (made < 0)
			return made == -EEXIST ? -EAGAIN : fail("mkdirat", made);
		flags |= O_DIRECTORY;
	}
	made = SYS(openat, directory, name, flags);
	return made < 0 ? fail("openat", made) : made;
}

/* Put the target of a symlink into path in place of its name: before + name + after becomes
 * before + target + after, or target + after. -EAGAIN: walk the path that has come of it. */
static long expand_link(i32 link, char *path, char *name, char *after)
{
	static char target[PATH_MAX];
	long length = SYS(readlinkat, link, "", target, sizeof(target));
	if (length == -ENOENT || length == -EINVAL) /* no symlink: it has been made just now */
		return -EAGAIN;
	if (length < 0)
		return fail("readlinkat", length);
	char *start = length && target[0] == '/' ? path : name;
	size_t rest = string_length(after) + 1;
	if (start - path + length + rest > PATH_MAX)
		return fail("readlinkat", -ENAMETOOLONG);
	memmove(start + length, after, rest);
	memcpy(start, target, length);
	return -EAGAIN;
}

/* The directory that the longest existing part of scratch leads to; *rest is what comes after. */
static long open_existing(i32 root, u64 resolve, char **rest)
{
	char *name = scratch + string_length(scratch);
	long directory;
	do {
		while (name > scratch && name[-1] == '/')
			name--;
		while (name > scratch && name[-1] != '/')
			name--;
		const char first = *name;
		*name = 0;
		directory = open_below(root, name == scratch ? "/" : scratch, O_PATH | O_DIRECTORY,
				       resolve);
		*name = first;
	} while (directory == -ENOENT && name > scratch);
	*rest = name;
	return directory;
}

/* One walk along scratch. -EAGAIN: the path was changed or somebody interfered: walk again. */
static long walk(i32 root, u32 kind, u32 mode, u64 resolve)
{
	char *name, *end;
	long directory = open_existing(root, resolve, &name);
	for (; directory >= 0; name = end) {
		while (*name == '/')
			name++;
		for (end = name; *end && *end != '/';)
			end++;
		if (name == end)
			return check_kind(directory, kind);
		char after = *end;
		const char *further = end;
		while (*further == '/')
			further++;
		const int last = !*further;
		*end = 0;
		/* From the root each time, so that ".." and links mean what they mean to others. */
		long next = open_below(root, scratch, O_PATH, resolve);
		long found = -ENOENT;
		if (next == -ENOENT)
			found = SYS(openat, directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (next == -ENOENT && found == -ENOENT)
			next = make_name(directory, name, last ? kind : TARGET_DIRECTORY,
					 last ? mode : 0755);
		*end = after;
		if (found >= 0) { /* a symlink to something that does not exist */
			next = expand_link(found, scratch, name, end);
			SYS(close, found);
		} else if (found != -ENOENT) {
			next = found;
		}
		SYS(close, directory);
		directory = next;
	}
	return directory;
}

/* O_PATH fd of the checked place below root; what is missing on the way is made: directories with
 * mode 0755, the last one with mode. A symlink that dangles is followed inside the root. */
long make_target(i32 root, const char *path, u32 kind, u32 mode)
{
	const u64 resolve = kind == TARGET_PLAIN_DIRECTORY ? RESOLVE_NO_SYMLINKS : 0;
	long place = open_below(root, path, O_PATH, resolve);
	if (place != -ENOENT)
		return check_kind(place, kind);
	size_t length = string_length(path);
	if (length >= sizeof(scratch))
		return -ENAMETOOLONG;
	if (path != scratch)
		memcpy(scratch, path, length + 1);
	long mask = SYS(umask, 0);
	place = -EAGAIN;
	for (int i = 0; i < LINKS_MAX && place == -EAGAIN; i++)
		place = walk(root, kind, mode, resolve);
	SYS(umask, mask);
	return place == -EAGAIN ? fail("openat2", -ELOOP) : place;
}

/* The directory that holds the last name of path, made if missing; *name is that name. */
long make_parent(i32 root, const char *path, const char **name)
{
	size_t length = string_length(path);
	size_t start = length;
	while (start && path[start - 1] != '/')
		start--;
	*name = path + start;
	if (start == length || same(*name, ".") || same(*name, ".."))
		return -EINVAL;
	if (start >= sizeof(scratch))
		return -ENAMETOOLONG;
	memcpy(scratch, path, start);
	if (!start)
		scratch[start++] = '/';
	scratch[start] = 0;
	return make_target(root, scratch, TARGET_DIRECTORY, 0755);
}

long op_openat(const u64 *arg)
{
	return SYS(openat, FD(1), TEXT(2), arg[3] | O_CLOEXEC);
}

long op_open_in_root(const u64 *arg)
{
	long fd = open_below(FD(1), TEXT(2), arg[3], 0);
	init.call = NULL;
	return fd;
}

/* However the path is written and wherever links lead: only a procfs may lie on /proc
 * (CVE-2019-16884). */
static long refuse_proc(i32 root, long place)
{
	struct stat status, proc;
	if (place < 0)
		return place;
	long found = open_below(root, "proc", O_PATH, 0);
	init.call = NULL;
	if (found < 0) /* nothing is there: place is not it */
		return place;
	long error = SYS(fstat, place, &status);
	if (!error)
		error = SYS(fstat, found, &proc);
	SYS(close, found);
	if (!error && (status.st_dev != proc.st_dev || status.st_ino != proc.st_ino))
		return place;
	SYS(close, place);
	if (error)
		return fail("fstat", error);
	text_add("it is /proc, where only a proc file system may lie");
	return -EINVAL;
}

long op_target(const u64 *arg)
{
	if (arg[3] > TARGET_MOUNT_POINT)
		return -EINVAL;
	if (arg[3] == TARGET_MOUNT_POINT)
		return refuse_proc(FD(1), make_target(FD(1), TEXT(2), TARGET_DIRECTORY, arg[4]));
	return make_target(FD(1), TEXT(2), arg[3], arg[4]);
}

long op_target_like(const u64 *arg)
{
	struct stat status;
	struct statfs fs;
	long error = SYS(fstat, FD(3), &status);
	if (error)
		return fail("fstat", error);
	if (!S_ISDIR(status.st_mode))
		return make_target(FD(1), TEXT(2), TARGET_FILE, 0755);
	error = SYS(fstatfs, FD(3), &fs);
	if (error)
		return fail("fstatfs", error);
	long place = make_target(FD(1), TEXT(2), TARGET_DIRECTORY, 0755);
	return fs.f_type == PROC_SUPER_MAGIC ? place : refuse_proc(FD(1), place);
}

long op_write_fd(const u64 *arg)
{
	return write_all(FD(0), TEXT(1), arg[2]);
}

long op_write_file(const u64 *arg)
{
	long fd = SYS(openat, FD(0), TEXT(1), arg[4] | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return fail("openat", fd);
	long error = write_all(fd, TEXT(2), arg[3]);
	SYS(close, fd);
	return error;
}

/* Owner of a node that was just made, and its mode if the file system changed it. */
static long finish_node(i32 directory, const char *name, const u64 *arg)
{
	struct stat status;
	long node = SYS(openat, directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node < 0)
		return fail("openat", node);
	long error = SYS(fstat, node, &status);
	if (!error && (status.st_uid != (u32)arg[4] || status.st_gid != (u32)arg[5])) {
		error = SYS(fchownat, node, "", arg[4], arg[5], AT_EMPTY_PATH);
		fail("fchownat", error);
	}
	if (!error && ((status.st_mode ^ arg[2]) & 07777)) {
		error = SYS(fchmodat, init.proc_fd, fd_path(node), arg[2] & 07777);
		fail("fchmodat", error);
	}
	SYS(close, node);
	return error;
}

/* A node that is there already is left as it is when it is the same device: /dev may be shared. */
long op_mknod(const u64 *arg)
{
	struct stat status;
	const char *name;
	long directory = make_parent(FD(0), TEXT(1), &name);
	if (directory < 0)
		return directory;
	long mask = SYS(umask, 0);
	long error = SYS(mknodat, directory, name, arg[2], arg[3]);
	SYS(umask, mask);
	fail("mknodat", error);
	if (!error) {
		error = finish_node(directory, name, arg);
	} else if (error == -EEXIST) {
		const long missing = SYS(newfstatat, directory, name, &status, AT_SYMLINK_NOFOLLOW);
		if (!missing && (status.st_mode & S_IFMT) == (arg[2] & S_IFMT) &&
		    (S_ISFIFO(status.st_mode) || status.st_rdev == arg[3]))
			error = 0;
	}
	SYS(close, directory);
	return error;
}

long op_symlink(const u64 *arg)
{
	const char *name;
	long directory = make_parent(FD(0), TEXT(1), &name);
	if (directory < 0)
		return directory;
	long error = SYS(symlinkat, TEXT(2), directory, name);
	SYS(close, directory);
	return error == -EEXIST ? 0 : fail("symlinkat", error);
}

long op_copy_mode(const u64 *arg)
{
	struct stat status;
	long error = SYS(fstat, FD(0), &status);
	if (error)
		return fail("fstat", error);
	long to = SYS(openat, FD(1), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (to < 0)
		return fail("openat", to);
	/* EINVAL: the owner has no id in this user namespace; ours is the better one then. */
	error = SYS(fchown, to, status.st_uid, status.st_gid);
	if (error == -EINVAL || error == -EPERM)
		error = 0;
	if (!error)
		error = SYS(fchmod, to, status.st_mode & 07777);
	SYS(close, to);
	return error;
}

long op_check_fs(const u64 *arg)
{
	struct statfs fs;
	long error = SYS(fstatfs, FD(0), &fs);
	if (error)
		return fail("fstatfs", error);
	return (u64)fs.f_type == arg[1] ? 0 : -EINVAL;
}

static long check_node(const u64 *arg, u32 type)
{
	struct stat status;
	long error = SYS(fstat, FD(0), &status);
	if (error)
		return fail("fstat", error);
	const u64 device = (arg[2] & 0xff) | arg[1] << 8 | (arg[2] & ~0xffUL) << 12;
	return (status.st_mode & S_IFMT) == type && status.st_rdev == device ? 0 : -ENODEV;
}

long op_check_device(const u64 *arg)
{
	return check_node(arg, S_IFCHR);
}

long op_check_block(const u64 *arg)
{
	return check_node(arg, S_IFBLK);
}
