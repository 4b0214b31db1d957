#include "launcher.h"
#ifdef SNAPSHOT
#include "snapshot.h"
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Relative to the prefix; SITE_SUBDIR is where this build was told to install. */
static const char *const site_directories[] = {
	SITE_SUBDIR,
	"lib/python" PYTHON_VERSION "/site-packages",
	"lib64/python" PYTHON_VERSION "/site-packages",
	"lib/python" PYTHON_VERSION "/dist-packages",
	"lib/python3/dist-packages",
};

void die(const char *what, const char *detail)
{
	char line[PATH_MAX + 256];
	int length =
		snprintf(line, sizeof(line), "ocirt: %s%s%s\n", what, *detail ? ": " : "", detail);
	if (length > (int)sizeof(line) - 1)
		length = sizeof(line) - 1;
	ssize_t ignored = write(2, line, (size_t)length);
	(void)ignored;
	_exit(1);
}

/* Files that are opened later must not become 0, 1 or 2: what is written there would go astray. */
static void fill_standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			continue;
		if (open("/dev/null", fd ? O_WRONLY : O_RDONLY) < 0)
			_exit(1);
	}
}

/* Neither argv[0] nor the environment has a say in where code is loaded from. */
static void find_place(struct place *place)
{
	char probe[PATH_MAX + 64];
	ssize_t length =
		readlink("/proc/self/exe", place->executable, sizeof(place->executable) - 1);
	if (length < 0)
		die("readlink /proc/self/exe", strerror(errno));
	place->executable[length] = 0;
	strcpy(place->prefix, place->executable);
	for (int level = 0; level < 2; level++) {
		char *slash = strrchr(place->prefix, '/');
		if (slash)
			*slash = 0;
	}
	for (size_t i = 0; i < sizeof(site_directories) / sizeof(*site_directories); i++) {
		int size = snprintf(place->site, sizeof(place->site), "%s/%s", place->prefix,
				    site_directories[i]);
		if (size >= (int)sizeof(place->site))
			continue;
		snprintf(probe, sizeof(probe), "%s/ocirt/_shim" EXTENSION_SUFFIX, place->site);
		if (access(probe, F_OK) == 0)
			return;
	}
	die("no installation of its Python package was found beside it", place->executable);
}

int main(int argc, char **argv)
{
	struct place place;

#ifdef SNAPSHOT
	if (!is_snapshot()) /* the build runs it, to make the command that is installed */
		make_snapshot(argc == 2 ? argv[1] : "");
#endif
	fill_standard_fds();
	/* A closed pipe must be an error that is handled, not the end halfway through a create. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	find_place(&place);
	_exit(run_python(&place, argc, argv));
}
