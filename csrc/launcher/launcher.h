/* The `ocirt` command: a native executable, so that engines and security modules see a program at
 * a fixed path, and Python starts without looking around. */
#ifndef OCIRT_LAUNCHER_H
#define OCIRT_LAUNCHER_H

#include <limits.h>
#include <stddef.h>

/* Where this installation is, found from /proc/self/exe. */
struct place {
	char executable[PATH_MAX];
	char prefix[PATH_MAX]; /* executable without /bin/ocirt */
	char site[PATH_MAX];   /* directory that holds the package ocirt */
};

/* One line on stderr and exit status 1. */
_Noreturn void die(const char *what, const char *detail);

/* Runs ocirt.cli.main with the arguments; the exit status. */
int run_python(const struct place *place, int argc, char **argv);

/* Start Python and write it to a file, for the executable that is installed (snapshot.c). */
_Noreturn void make_snapshot(const char *path);

/* What the build put in: importer, index and modules (archive.py); empty in development. */
extern const char archive_start[], archive_end[];

#endif
