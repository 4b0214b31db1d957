/* The process: capabilities, seccomp, working directory, the executable and its exec. */
#include "init.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#define PASSWD_MAX (1 << 20)
#define DEVICE_MAJOR_MEMORY 1 /* /dev/null, zero, full, random */

/* Drop all capabilities that are not in the mask; the kernel's last one shows by EINVAL. */
long op_bounding_set(const u64 *arg)
{
	for (u32 cap = 0; cap < 64; cap++) {
		if (arg[0] >> cap & 1)
			continue;
		long error = SYS(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (error == -EINVAL)
			break;
		if (!error)
			continue;
		/* EPERM is no matter where it is not in the set anyway. */
		const long held = SYS(prctl, PR_CAPBSET_READ, cap, 0, 0, 0);
		if (held == -EINVAL)
			break;
		if (held)
			return fail("prctl", error);
	}
	return 0;
}

long op_capset(const u64 *arg)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	for (u32 half = 0; half < 2; half++) {
		data[half].effective = arg[0] >> 32 * half;
		data[half].permitted = arg[1] >> 32 * half;
		data[half].inheritable = arg[2] >> 32 * half;
	}
	return SYS(capset, &head, data);
}

long op_ambient(const u64 *arg)
{
	long error = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (u32 cap = 0; !error && cap < 64; cap++)
		if (arg[0] >> cap & 1)
			error = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	return error ? fail("prctl", error) : 0;
}

long op_seccomp(const u64 *arg)
{
	struct sock_fprog program = {
		.len = arg[1] / sizeof(struct sock_filter),
		.filter = (struct sock_filter *)arg[0],
	};
	if (arg[1] % sizeof(struct sock_filter) || arg[1] / sizeof(struct sock_filter) > 0xffff)
		return -EINVAL;
	return SYS(seccomp, SECCOMP_SET_MODE_FILTER, arg[2], &program);
}

/* Where a line of /etc/passwd has been read to: name:password:uid:gid:comment:home:shell */
struct passwd_line {
	u32 field;
	u32 digits;
	u64 uid;
	u32 home_length;
};

static char home[PATH_MAX] = "";
static const char home_start[] = "HOME=";

/* Take one character; true when the line of the wanted user is complete. */
static int take(struct passwd_line *line, char c, u32 uid)
{
	const int wanted = line->digits && line->uid == uid;
	if (c == '\n') {
		if (wanted && line->field >= 5 &&
		    line->home_length < sizeof(home) - sizeof(home_start))
			return 1;
		*line = (struct passwd_line){0};
	} else if (c == ':') {
		line->field++;
	} else if (line->field == 2) {
		if (c < '0' || c > '9' || line->digits++ > 10)
			line->uid = ~0UL;
		else if (line->uid != ~0UL)
			line->uid = line->uid * 10 + c - '0';
	} else if (line->field == 5 && wanted) {
		if (line->home_length < sizeof(home) - sizeof(home_start))
			home[sizeof(home_start) - 1 + line->home_length++] = c;
	}
	return 0;
}

static int find_home(i32 file, u32 uid, u32 *length)
{
	struct passwd_line line = {0};
	long size;
	for (u32 total = 0; total < PASSWD_MAX; total += size) {
		size = SYS(read, file, scratch, sizeof(scratch));
		if (size <= 0) { /* the last line may lack its newline */
			*length = line.home_length;
			return take(&line, '\n', uid);
		}
		for (long i = 0; i < size; i++) {
			*length = line.home_length;
			if (take(&line, scratch[i], uid))
				return 1;
		}
	}
	return 0;
}

/* The container's passwd may be anything: only a regular file of moderate size is read, and a
 * FIFO must not hang (CVE-2024-9676). Without an answer HOME is "/". */
long op_set_home(const u64 *arg)
{
	struct stat status;
	char **env = WORDS(1);
	u32 length = 0;
	for (u64 i = 0; i <= arg[2]; i++)
		if (!env || !env[i])
			return -EINVAL;
	memcpy(home, home_start, sizeof(home_start));
	/* Looked at before it is opened: opening a device can have effects. */
	long place = open_below(FD(0), "etc/passwd", O_PATH, 0);
	if (place >= 0 && !SYS(fstat, place, &status) && S_ISREG(status.st_mode) &&
	    status.st_size <= PASSWD_MAX) {
		long file = reopen(place, O_RDONLY | O_NONBLOCK | O_NOCTTY);
		if (file >= 0 && !find_home(file, arg[3], &length))
			length = 0;
		close_fd(file);
	}
	close_fd(place);
	if (!length)
		home[sizeof(home_start) - 1 + length++] = '/';
	home[sizeof(home_start) - 1 + length] = 0;
	env[arg[2]] = home;
	return 0;
}

/* chdir, but not through /proc/self/fd/N (CVE-2024-21626). A directory that was reached through a
 * leaked fd all the same lies outside the root: the kernel then says "(unreachable)". */
long op_enter_cwd(const u64 *arg)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_NO_MAGICLINKS,
	};
	long place = SYS(openat2, AT_FDCWD, TEXT(0), &how, sizeof(how));
	if (place < 0)
		return fail("chdir", place);
	long error = SYS(fchdir, place);
	close_fd(place);
	if (error)
		return fail("chdir", error);
	error = SYS(getcwd, scratch, sizeof(scratch));
	if (error < 0)
		return fail("getcwd", error);
	if (scratch[0] == '/')
		return 0;
	text_add("the directory is outside of the container's root");
	return fail("getcwd", -EPERM);
}

static long check_executable(const char *path)
{
	struct stat status;
	long error = SYS(newfstatat, AT_FDCWD, path, &status, 0);
	if (!error && S_ISDIR(status.st_mode))
		error = -EACCES;
	if (!error)
		error = SYS(faccessat2, AT_FDCWD, path, 1 /* X_OK */, AT_EACCESS);
	return error;
}

/* Try name in each directory of PATH; an empty one is the working directory, an empty PATH none. */
static long search(const char *path, const char *name)
{
	static char candidate[PATH_MAX];
	const size_t name_length = string_length(name) + 1;
	long error = -ENOENT;
	if (!*path)
		return error;
	for (const char *end; path; path = *end ? end + 1 : NULL) {
		for (end = path; *end && *end != ':';)
			end++;
		size_t length = end - path;
		if (length + 1 + name_length > sizeof(candidate))
			continue;
		memcpy(candidate, path, length);
		if (!length)
			candidate[length++] = '.';
		candidate[length++] = '/';
		memcpy(candidate + length, name, name_length);
		const long tried = check_executable(candidate);
		if (!tried) {
			init.executable = candidate;
			return 0;
		}
		if (tried == -EACCES)
			error = tried;
	}
	return error;
}

long op_find_executable(const u64 *arg)
{
	const char *name = WORDS(0) ? WORDS(0)[0] : NULL;
	char **env = WORDS(1);
	if (!name || !*name)
		return -ENOENT;
	for (const char *c = name; *c; c++)
		if (*c == '/') {
			init.executable = name;
			return check_executable(name);
		}
	for (; env && *env; env++)
		if (starts_with(*env, "PATH="))
			return search(*env + 5, name);
	return -ENOENT;
}

/* Returns only when it failed. Nothing but write(2) and exit_group(2) is used after it. */
long op_execve(const u64 *arg)
{
	if (!init.executable || !arg[0])
		return -EINVAL;
	return SYS(execve, init.executable, arg[0], arg[1]);
}

/* So that the container's user can open /dev/stdout again. The devices of memory belong to all. */
long op_chown_stdio(const u64 *arg)
{
	struct stat status;
	for (i32 fd = 0; fd <= 2; fd++) {
		if (SYS(fstat, fd, &status) || status.st_uid == (u32)arg[0])
			continue;
		if (S_ISCHR(status.st_mode) && (status.st_rdev >> 8 & 0xfff) == DEVICE_MAJOR_MEMORY)
			continue;
		long error = SYS(fchown, fd, arg[0], arg[1]);
		/* The owner or the group has no id in this user namespace, or the file system is
		 * read-only: the program has to do with what it got. */
		if (error && error != -EINVAL && error != -EPERM && error != -EROFS)
			return fail("fchown", error);
	}
	return 0;
}

long op_keyring_access(const u64 *arg)
{
	return fail("keyctl", SYS(keyctl, KEYCTL_SETPERM, KEY_SPEC_SESSION_KEYRING, arg[0]));
}
