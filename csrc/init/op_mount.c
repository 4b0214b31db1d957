/* Mounts: new file systems, masks, the change of the root. */
#include "init.h"

#include <linux/mount.h>

/* The messages that a context has for its last failure, e.g. "tmpfs: Unknown parameter 'x'". */
static void read_messages(i32 context)
{
	for (int i = 0, told = 0; i < 16; i++) {
		long length = SYS(read, context, scratch, sizeof(scratch));
		if (length < 3)
			return;
		if (scratch[0] != 'e' || scratch[1] != ' ') /* w: warning, i: information */
			continue;
		if (told++)
			text_add("; ");
		text_add_bytes(scratch + 2, length - 2 - (scratch[length - 1] == '\n'));
	}
}

/* "key" or "key=value"; the words belong to the plan and are as before afterwards. */
static long configure(i32 context, char *word)
{
	char *value = word;
	while (*value && *value != '=')
		value++;
	if (!*value)
		return SYS(fsconfig, context, FSCONFIG_SET_FLAG, word, NULL, 0);
	*value = 0;
	long error = SYS(fsconfig, context, FSCONFIG_SET_STRING, word, value + 1, 0);
	*value = '=';
	return error;
}

long op_new_fs(const u64 *arg)
{
	static char *const none[] = {NULL};
	char *const *words = WORDS(2) ? WORDS(2) : none;
	long context = SYS(fsopen, TEXT(1), FSOPEN_CLOEXEC);
	if (context < 0)
		return fail("fsopen", context);
	const char *call = "fsconfig";
	long result = 0;
	for (; !result && *words; words++) {
		result = configure(context, *words);
		if (result) {
			text_add(*words);
			text_add(": ");
		}
	}
	if (!result)
		result = SYS(fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	if (!result) {
		call = "fsmount";
		result = SYS(fsmount, context, FSMOUNT_CLOEXEC, arg[3]);
	}
	if (result < 0) {
		fail(call, result);
		read_messages(context);
	}
	SYS(close, context);
	return result;
}

long op_open_tree(const u64 *arg)
{
	return SYS(open_tree, FD(1), TEXT(2), arg[3] | OPEN_TREE_CLOEXEC);
}

/* mount(2) knows no target fd: the checked target is named through the parent's procfs. */
long op_old_mount(const u64 *arg)
{
	long cwd = SYS(openat, AT_FDCWD, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (cwd < 0)
		return fail("openat", cwd);
	long error = SYS(fchdir, init.proc_fd);
	if (!error) {
		error = SYS(mount, TEXT(0), fd_path(FD(1)), TEXT(2), arg[3], TEXT(4));
		fail("mount", error);
		SYS(fchdir, cwd);
	}
	SYS(close, cwd);
	return error;
}

static long move_onto(i32 mount, i32 place)
{
	long error = SYS(move_mount, mount, "", place, "",
			 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	return error ? fail("move_mount", error) : 0;
}

/* A second mount of what the mask shows. Before Linux 6.15 a detached mount cannot be cloned: then
 * the first place gets the mask itself, and it can be cloned from there for the others. */
static long mask(i32 place, i32 cover)
{
	long copy = SYS(open_tree, cover, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
	if (copy == -EINVAL)
		return move_onto(cover, place);
	if (copy < 0)
		return fail("open_tree", copy);
	long error = move_onto(copy, place);
	SYS(close, copy);
	return error;
}

long op_mask_path(const u64 *arg)
{
	struct stat status;
	long place = open_below(FD(0), TEXT(1), O_PATH, 0);
	if (place == -ENOENT || place == -ENOTDIR) /* nothing to hide */
		return 0;
	if (place < 0)
		return place;
	long error = SYS(fstat, place, &status);
	if (!error)
		error = mask(place, S_ISDIR(status.st_mode) ? FD(3) : FD(2));
	SYS(close, place);
	return error;
}

/* Mounts below the path keep their own flags, as with the other runtimes: a volume that the
 * configuration puts there on purpose stays writable. */
long op_readonly_path(const u64 *arg)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
	long place = open_below(FD(0), TEXT(1), O_PATH, 0);
	if (place == -ENOENT || place == -ENOTDIR)
		return 0;
	if (place < 0)
		return place;
	long tree = SYS(open_tree, place, "",
			OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
	long error = tree < 0 ? fail("open_tree", tree) : 0;
	if (!error) {
		error = SYS(mount_setattr, tree, "", AT_EMPTY_PATH, &attributes,
			    sizeof(attributes));
		if (error)
			fail("mount_setattr", error);
		else
			error = move_onto(tree, place);
		SYS(close, tree);
	}
	SYS(close, place);
	return error;
}

long op_pivot_root(const u64 *arg)
{
	long old = SYS(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0)
		return fail("openat", old);
	long error = SYS(fchdir, FD(0));
	fail("fchdir", error);
	if (!error) {
		/* The old root is stacked onto the new one: no directory is needed for it. */
		error = SYS(pivot_root, ".", ".");
		fail("pivot_root", error);
	}
	if (!error) {
		error = SYS(fchdir, old);
		fail("fchdir", error);
	}
	if (!error) {
		/* A slave: taking it away here must not take it away on the host. */
		error = SYS(mount, NULL, ".", NULL, MS_SLAVE | MS_REC, NULL);
		fail("mount", error);
	}
	if (!error) {
		error = SYS(umount2, ".", MNT_DETACH);
		fail("umount2", error);
	}
	if (!error) {
		error = SYS(chdir, "/");
		fail("chdir", error);
	}
	SYS(close, old);
	return error;
}

/* Is path top itself or below it? */
static int is_below(const char *path, const char *top)
{
	if (!starts_with(path, top))
		return 0;
	const char after = path[string_length(top)];
	return !after || after == '/' || same(top, "/");
}

/* Undo the octal escapes of mountinfo: space, tab, newline, backslash. */
static void unescape(char *word)
{
	char *to = word;
	for (; *word; word++) {
		if (word[0] == '\\' && word[1] && word[2] && word[3]) {
			*to++ = (word[1] - '0') << 6 | (word[2] - '0') << 3 | (word[3] - '0');
			word += 3;
		} else {
			*to++ = *word;
		}
	}
	*to = 0;
}

/* In a line of mountinfo: the mount point of a procfs or sysfs, or NULL for other types. */
static char *host_view(char *line)
{
	char *word = line, *point = NULL;
	for (int field = 1; *word; field++) {
		char *end = word;
		while (*end && *end != ' ')
			end++;
		const char *type = end + 3; /* behind " - " comes the type */
		if (field == 5)
			point = word;
		if (field > 5 && starts_with(end, " - ") &&
		    (starts_with(type, "proc ") || starts_with(type, "sysfs "))) {
			for (end = point; *end != ' ';)
				end++;
			*end = 0;
			unescape(point);
			return point;
		}
		word = *end ? end + 1 : end;
	}
	return NULL;
}

/* Take the first procfs or sysfs away that is not below root, passing over as many as could not be
 * taken away before. 0 when there is none. */
static long hide_one(const char *root, u32 *stubborn)
{
	static char data[2 * PATH_MAX];
	u32 seen = 0;
	long held = 0, length, result = 0;
	long file = SYS(openat, init.proc_fd, "self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return fail("openat", file);
	while (!result && (length = SYS(read, file, data + held, sizeof(data) - 1 - held)) > 0) {
		char *line = data, *end;
		held += length;
		data[held] = 0;
		for (; !result; line = end + 1) {
			for (end = line; *end && *end != '\n';)
				end++;
			if (!*end)
				break;
			*end = 0;
			char *point = host_view(line);
			if (!point || is_below(point, root) || seen++ < *stubborn)
				continue;
			SYS(mount, NULL, point, NULL, MS_SLAVE | MS_REC, NULL);
			result = SYS(umount2, point, MNT_DETACH);
			if (result == -EINVAL || result == -EPERM) {
				/* Locked by a user namespace above: cover it instead. */
				++*stubborn;
				result = SYS(mount, "tmpfs", point, "tmpfs", 0, NULL);
			}
			result = result ? fail("umount2", result) : 1;
		}
		held -= line - data;
		memmove(data, line, held);
		if (held == sizeof(data) - 1)
			result = fail("read", -ENAMETOOLONG);
	}
	SYS(close, file);
	return result;
}

/* Without pivot_root the host's /proc and /sys would stay in the namespace under the new root, and
 * the kernel would take them as leave to mount unmasked ones in a user namespace. */
long op_move_root(const u64 *arg)
{
	u32 stubborn = 0;
	long found = 1;
	long length = SYS(readlinkat, init.proc_fd, fd_path(FD(0)), scratch, sizeof(scratch) - 1);
	if (length < 0)
		return fail("readlinkat", length);
	scratch[length] = 0;
	for (int i = 0; i < 4096 && found > 0; i++)
		found = hide_one(scratch, &stubborn);
	if (found)
		return found < 0 ? found : -ELOOP;
	long error = SYS(fchdir, FD(0));
	if (error)
		return fail("fchdir", error);
	error = SYS(mount, ".", "/", NULL, MS_MOVE, NULL);
	if (error)
		return fail("mount", error);
	error = SYS(chroot, ".");
	if (error)
		return fail("chroot", error);
	return fail("chdir", SYS(chdir, "/"));
}
