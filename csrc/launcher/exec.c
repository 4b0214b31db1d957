/* Where no libpython can be embedded: become the Python that this was built for. */
#include "launcher.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -I and -S: no environment, no cwd, no site; -c sets sys.argv[0] to "-c". */
static const char code[] = "import posix, sys\n"
			   "sys.path.append(sys.argv[1])\n"
			   "from ocirt.cli import main\n"
			   "status = main(sys.argv[2:])\n"
			   "sys.stdout and sys.stdout.flush()\n"
			   "sys.stderr and sys.stderr.flush()\n"
			   "posix._exit(status & 255)\n";

int run_python(const struct place *place, int argc, char **argv)
{
	char *words[argc + 7];
	int count = 0;

	words[count++] = (char *)PYTHON_EXECUTABLE;
	words[count++] = (char *)"-IS";
	words[count++] = (char *)"-Xutf8";
	words[count++] = (char *)"-c";
	words[count++] = (char *)code;
	words[count++] = (char *)place->site;
	for (int i = 1; i < argc; i++)
		words[count++] = argv[i];
	words[count] = NULL;
	unsetenv("LD_LIBRARY_PATH"); /* Python's executable has no DT_RPATH of ours */
	execv(PYTHON_EXECUTABLE, words);
	die(PYTHON_EXECUTABLE, strerror(errno));
}
