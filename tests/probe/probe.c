/* What a process inside a container sees, as "name<TAB>value" lines. Static; no library code of
 * the project. Arguments are commands: none prints everything; see the table at the end. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

static void line(const char *name, const char *value)
{
	printf("%s\t", name);
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", stdout);
		else if (*value == '\\')
			fputs("\\\\", stdout);
		else
			putchar(*value);
	}
	putchar('\n');
}

static void number(const char *name, long value)
{
	printf("%s\t%ld\n", name, value);
}

static void file(const char *name, const char *path)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY);
	if (fd < 0) {
		printf("%s\terror: %s\n", name, strerror(errno));
		return;
	}
	size_t size = 0;
	ssize_t got;
	while (size < sizeof(text) - 1 &&
	       (got = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
		size += got;
	text[size] = 0;
	close(fd);
	line(name, text);
}

static void links(const char *prefix, const char *directory)
{
	DIR *entries = opendir(directory);
	struct dirent *entry;
	while (entries && (entry = readdir(entries))) {
		char path[512], value[512], name[512];
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(entries))
			if (entry->d_name[0] == '.' || strcmp(prefix, "fd") == 0)
				continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		ssize_t size = readlink(path, value, sizeof(value) - 1);
		value[size < 0 ? 0 : size] = 0;
		snprintf(name, sizeof(name), "%s.%s", prefix, entry->d_name);
		line(name, value);
	}
	if (entries)
		closedir(entries);
}

static void everything(void)
{
	struct utsname names;
	char cwd[4096];
	gid_t groups[256];

	number("pid", getpid());
	number("ppid", getppid());
	number("sid", getsid(0));
	number("uid", getuid());
	number("gid", getgid());
	int count = getgroups(256, groups);
	printf("groups\t");
	for (int i = 0; i < count; i++)
		printf("%s%u", i ? " " : "", groups[i]);
	printf("\n");
	mode_t mask = umask(0);
	printf("umask\t%04o\n", mask);
	umask(mask);
	uname(&names);
	line("hostname", names.nodename);
	line("domainname", names.domainname);
	line("cwd", getcwd(cwd, sizeof(cwd)) ? cwd : "error");
	number("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	number("tty", isatty(0));
	struct winsize size;
	if (ioctl(0, TIOCGWINSZ, &size) == 0)
		printf("winsize\t%d %d\n", size.ws_row, size.ws_col);
	for (char **word = environ; *word; word++)
		line("env", *word);
	file("status", "/proc/self/status");
	file("limits", "/proc/self/limits");
	file("mountinfo", "/proc/self/mountinfo");
	file("cgroup", "/proc/self/cgroup");
	file("oom_score_adj", "/proc/self/oom_score_adj");
	file("uid_map", "/proc/self/uid_map");
	file("gid_map", "/proc/self/gid_map");
	file("timens_offsets", "/proc/self/timens_offsets");
	file("personality", "/proc/self/personality");
	file("keyring", "/proc/keys");
	links("ns", "/proc/self/ns");
	links("fd", "/proc/self/fd");
	sigset_t blocked;
	sigprocmask(SIG_BLOCK, 0, &blocked);
	for (int i = 1; i < 65; i++) {
		struct sigaction action;
		if (sigismember(&blocked, i) == 1)
			number("blocked", i);
		if (sigaction(i, 0, &action) == 0 && action.sa_handler == SIG_IGN)
			number("ignored", i);
	}
}

static void result(const char *name, const char *what, long outcome)
{
	printf("%s %s\t%s\n", name, what, outcome < 0 ? strerror(errno) : "ok");
}

/* write PATH TEXT, read PATH, stat PATH, open PATH, mknod PATH MAJOR MINOR, fork N, alloc BYTES,
 * hugepages N, socket FAMILY, exit N, signal N, sleep SECONDS */
int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	if (argc == 1)
		everything();
	for (int i = 1; i < argc; i++) {
		const char *what = argv[i], *arg = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(what, "all")) {
			everything();
			continue;
		}
		i++;
		if (!strcmp(what, "exit"))
			return atoi(arg);
		if (!strcmp(what, "signal")) {
			signal(atoi(arg), SIG_DFL);
			raise(atoi(arg));
		} else if (!strcmp(what, "sleep")) {
			sleep(atoi(arg));
		} else if (!strcmp(what, "read")) {
			file(arg, arg);
		} else if (!strcmp(what, "open")) {
			result("open", arg, open(arg, O_RDONLY | O_NONBLOCK));
		} else if (!strcmp(what, "write") && i + 1 < argc) {
			int fd = open(arg, O_WRONLY);
			const char *text = argv[++i];
			result("write", arg, fd < 0 ? fd : write(fd, text, strlen(text)));
		} else if (!strcmp(what, "create")) {
			result("create", arg, open(arg, O_WRONLY | O_CREAT | O_EXCL, 0644));
		} else if (!strcmp(what, "stat")) {
			struct stat st;
			if (lstat(arg, &st) < 0)
				result("stat", arg, -1);
			else
				printf("stat %s\t%o %u %u %u:%u %ld\n", arg, st.st_mode, st.st_uid,
				       st.st_gid, major(st.st_rdev), minor(st.st_rdev),
				       (long)st.st_size);
		} else if (!strcmp(what, "mknod") && i + 2 < argc) {
			dev_t device = makedev(atoi(argv[i + 1]), atoi(argv[i + 2]));
			result("mknod", arg, mknod(arg, S_IFCHR | 0600, device));
			i += 2;
		} else if (!strcmp(what, "fork")) {
			long wanted = atol(arg), made = 0;
			int error = 0;
			static pid_t children[65536];
			for (; made < wanted && made < 65536; made++) {
				pid_t pid = children[made] = fork();
				if (pid == 0) {
					pause();
					_exit(0);
				}
				if (pid < 0) {
					error = errno;
					break;
				}
			}
			printf("fork %s\t%ld %s\n", arg, made, error ? strerror(error) : "ok");
			for (long child = 0; child < made; child++) {
				kill(children[child], SIGKILL);
				waitpid(children[child], 0, 0);
			}
		} else if (!strcmp(what, "alloc")) {
			long bytes = atol(arg);
			char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			for (long at = 0; memory != MAP_FAILED && at < bytes; at += 4096)
				memory[at] = 1;
			result("alloc", arg, memory == MAP_FAILED ? -1 : 0);
		} else if (!strcmp(what, "hugepages")) {
			long bytes = atol(arg) << 21;
			int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
			char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
			for (long at = 0; memory != MAP_FAILED && at < bytes; at += 1 << 21)
				memory[at] = 1;
			result("hugepages", arg, memory == MAP_FAILED ? -1 : 0);
			if (memory != MAP_FAILED)
				munmap(memory, bytes);
		} else if (!strcmp(what, "socket")) {
			result("socket", arg, socket(atoi(arg), SOCK_STREAM, 0));
		} else if (!strcmp(what, "unshare")) {
			result("unshare", arg, syscall(SYS_unshare, strtol(arg, 0, 0)));
		} else if (!strcmp(what, "spin")) {
			struct rusage use;
			do
				getrusage(RUSAGE_SELF, &use);
			while (use.ru_utime.tv_sec + use.ru_stime.tv_sec < atoi(arg));
			printf("spin %s\tok\n", arg);
		} else {
			fprintf(stderr, "probe: what is %s %s?\n", what, arg);
			return 2;
		}
	}
	return 0;
}
