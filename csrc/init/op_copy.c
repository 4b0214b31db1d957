/* tmpcopyup: the image's files below a mount point, copied into the new file system. */
#include "init.h"

#include <linux/fs.h>
#include <linux/time.h>
#include <linux/xattr.h>

#define DEPTH_MAX 128
#define XATTR_MAX 65536 /* the kernel's limit for names and for one value */

/* Touched only where there are extended attributes. */
static char xattr_names[XATTR_MAX];
static char xattr_value[XATTR_MAX];

struct level {
	i32 from;
	i32 to;
};

/* A file system that knows no such attribute, or does not let us set it, goes without. */
static int is_tolerable(long error)
{
	return error == -EOPNOTSUPP || error == -EPERM;
}

static long copy_xattrs(i32 from, i32 to)
{
	long length = SYS(flistxattr, from, xattr_names, sizeof(xattr_names));
	if (length < 0)
		return is_tolerable(length) ? 0 : fail("flistxattr", length);
	for (const char *name = xattr_names; name < xattr_names + length;
	     name += string_length(name) + 1) {
		long size = SYS(fgetxattr, from, name, xattr_value, sizeof(xattr_value));
		if (size < 0)
			return fail("fgetxattr", size);
		long error = SYS(fsetxattr, to, name, xattr_value, size, 0);
		if (error && !is_tolerable(error))
			return fail("fsetxattr", error);
	}
	return 0;
}

/* EINVAL: the owner has no id in this user namespace; ours is the better one then. */
static long give_to_owner(i32 directory, const char *name, const struct stat *status)
{
	long error = SYS(fchownat, directory, name, status->st_uid, status->st_gid,
			 AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH);
	return error == -EINVAL || !error ? 0 : fail("fchownat", error);
}

static long keep_times(i32 directory, const char *name, const struct stat *status)
{
	const struct __kernel_timespec times[2] = {
		{status->st_atime, status->st_atime_nsec},
		{status->st_mtime, status->st_mtime_nsec},
	};
	long error = SYS(utimensat, directory, name, times, name ? AT_SYMLINK_NOFOLLOW : 0);
	return error ? fail("utimensat", error) : 0;
}

/* Owner before mode: chown clears the set-user-id bit. */
static long copy_attributes(i32 from, i32 to, const struct stat *status)
{
	long error = give_to_owner(to, "", status);
	if (!error) {
		error = SYS(fchmod, to, status->st_mode & 07777);
		fail("fchmod", error);
	}
	if (!error)
		error = copy_xattrs(from, to);
	return error ? error : keep_times(to, NULL, status);
}

static long copy_file(const struct level *at, const char *name, const struct stat *status)
{
	long from = SYS(openat, at->from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0)
		return fail("openat", from);
	long to = SYS(openat, at->to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		      0600);
	long moved = to < 0 ? fail("openat", to) : 1;
	while (moved > 0) {
		moved = SYS(sendfile, to, from, NULL, 1 << 30);
		fail("sendfile", moved);
	}
	if (!moved)
		moved = copy_attributes(from, to, status);
	close_fd(to);
	SYS(close, from);
	return moved;
}

static long copy_symlink(const struct level *at, const char *name, const struct stat *status)
{
	long length = SYS(readlinkat, at->from, name, xattr_value, PATH_MAX - 1);
	if (length < 0)
		return fail("readlinkat", length);
	xattr_value[length] = 0;
	long error = SYS(symlinkat, xattr_value, at->to, name);
	if (error)
		return fail("symlinkat", error);
	error = give_to_owner(at->to, name, status);
	return error ? error : keep_times(at->to, name, status);
}

static long copy_node(const struct level *at, const char *name, const struct stat *status)
{
	long error = SYS(mknodat, at->to, name, status->st_mode, status->st_rdev);
	if (error)
		return fail("mknodat", error);
	error = give_to_owner(at->to, name, status);
	return error ? error : keep_times(at->to, name, status);
}

/* Make the directory and go down into it. */
static long enter(struct level *at, const char *name)
{
	const u32 flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	long error = SYS(mkdirat, at->to, name, 0700);
	if (error)
		return fail("mkdirat", error);
	at[1].from = SYS(openat, at->from, name, flags);
	at[1].to = SYS(openat, at->to, name, flags);
	if (at[1].from >= 0 && at[1].to >= 0)
		return 0;
	error = at[1].from < 0 ? at[1].from : at[1].to;
	close_fd(at[1].from);
	close_fd(at[1].to);
	return fail("openat", error);
}

/* Copy the entries of one directory up to its end (0) or to a subdirectory, which is entered (1).
 * The place to go on from is the directory's own file position. */
static long copy_entries(struct level *at, int deepest)
{
	struct stat status;
	long length;
	while ((length = SYS(getdents64, at->from, scratch, sizeof(scratch))) > 0) {
		for (long i = 0; i < length;) {
			const struct dirent64 *entry = (const struct dirent64 *)(scratch + i);
			const char *name = entry->name;
			long error;
			i += entry->length;
			if (same(name, ".") || same(name, ".."))
				continue;
			error = SYS(newfstatat, at->from, name, &status, AT_SYMLINK_NOFOLLOW);
			if (error)
				return fail("newfstatat", error);
			if (S_ISDIR(status.st_mode)) {
				if (deepest)
					return -ENAMETOOLONG;
				error = SYS(lseek, at->from, entry->offset, SEEK_SET);
				error = error < 0 ? fail("lseek", error) : enter(at, name);
				return error ? error : 1;
			}
			if (S_ISREG(status.st_mode))
				error = copy_file(at, name, &status);
			else if (S_ISLNK(status.st_mode))
				error = copy_symlink(at, name, &status);
			else
				error = copy_node(at, name, &status);
			if (error) {
				text_add(name);
				return error;
			}
		}
	}
	return length ? fail("getdents64", length) : 0;
}

/* from to: hard links become files of their own; the top directory's own attributes stay. */
long op_copy_up(const u64 *arg)
{
	static struct level levels[DEPTH_MAX];
	struct stat status;
	const u32 flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
	long depth = 0, result = 0;
	/* Handles of mounts and checked places are O_PATH: open them for reading. */
	levels[0].from = SYS(openat, FD(0), ".", flags);
	levels[0].to = SYS(openat, FD(1), ".", flags);
	if (levels[0].from < 0 || levels[0].to < 0)
		result = fail("openat", levels[0].from < 0 ? levels[0].from : levels[0].to);
	const long mask = SYS(umask, 0);
	while (depth >= 0 && result >= 0) {
		struct level *at = levels + depth;
		result = copy_entries(at, depth == DEPTH_MAX - 1);
		if (result < 0)
			break;
		if (result) {
			depth++;
			continue;
		}
		/* Complete: only now its times stay as they are. */
		if (depth) {
			result = SYS(fstat, at->from, &status);
			if (!result)
				result = copy_attributes(at->from, at->to, &status);
		}
		SYS(close, at->from);
		SYS(close, at->to);
		depth--;
	}
	SYS(umask, mask);
	for (; depth >= 0; depth--) {
		close_fd(levels[depth].from);
		close_fd(levels[depth].to);
	}
	return result < 0 ? result : 0;
}
