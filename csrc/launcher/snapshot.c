/* A started interpreter, with ocirt's modules loaded, as the executable's initial data.
 *
 * The build runs the launcher once with --snapshot FILE: Python starts, the modules are imported,
 * and everything between __data_start and the last byte that was handed out goes to FILE.
 * snapshot.py makes that the data segment of the command that is installed. When it runs, the
 * kernel maps the segment as it maps any program's, and Python is there.
 *
 * What makes this safe:
 * - the executable has a fixed address, and libpython and all that points into it are part of it;
 * - while the snapshot is made, every allocation of theirs comes from `memory` below, so that no
 *   pointer leads to the C library's heap (the linker's --wrap; the C library itself and shared
 *   objects keep their own malloc);
 * - no shared object is loaded by then: their addresses are random;
 * - functions of the C library are reached through the executable's PLT, its variables by copy
 *   relocations, both of which the dynamic loader sets up anew over the mapped data;
 * - what belongs to one process (thread ids, locks, environment, place of the installation) is
 *   renewed as after a fork.
 */
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE /* for _PyRuntime */
#include <Python.h>
#include <internal/pycore_runtime.h>

#include "snapshot.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MEMORY_SIZE (16UL << 20)
#define PAGE 4096UL
#define LARGE_ORDER 9
#define LARGE (PAGE << LARGE_ORDER)
#define PLENTY 32 /* large pages: there are so many that nobody will miss two */
#define FREED_CLASSES 8192

/* Common, so that it comes last in .bss and what is not used of it need not be in the file. */
char ocirt_snapshot_memory[MEMORY_SIZE] __attribute__((common, aligned(PAGE)));
#define memory ocirt_snapshot_memory

extern char __data_start[], _end[];
extern char **environ;

static size_t used;
static void *freed[FREED_CLASSES]; /* blocks of 16 * index bytes, linked */
static int recording;		   /* allocations come from memory */
static int taken;		   /* this process began as a snapshot */
static PyThreadState *thread;

/* Allocation: a block has its size before it. What was given back is used again while recording, and
 * no more when the snapshot runs. */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);

/* What comes before it stays empty. */
static char *first_large_page(void)
{
	return memory + (-(uintptr_t)memory & (LARGE - 1));
}

/* What lies behind `used` is not part of the command: its heap may begin there. */
static int is_ours(const void *block)
{
	return (const char *)block >= memory && (const char *)block < memory + used;
}

static size_t *size_of(void *block)
{
	return (size_t *)block - 1;
}

static void give(void *block)
{
	size_t class = *size_of(block) / 16;
	if (class < FREED_CLASSES) {
		*(void **)block = freed[class];
		freed[class] = block;
	}
}

/* A block that was given back and is large enough; what is not needed of it is given back again. */
static void *take_again(size_t size)
{
	for (size_t class = size / 16; class < FREED_CLASSES; class ++) {
		void *block = freed[class];
		if (!block)
			continue;
		freed[class] = *(void **)block;
		if (*size_of(block) >= size + 32) {
			char *rest = (char *)block + size + 16;
			*size_of(rest) = *size_of(block) - size - 16;
			*size_of(block) = size;
			give(rest);
		}
		return block;
	}
	return NULL;
}

static void *take(size_t size, size_t alignment)
{
	size = size ? (size + 15) & ~15UL : 16;
	void *again = alignment == 16 ? take_again(size) : NULL;
	if (again)
		return again;
	size_t start = (used + sizeof(size_t) + alignment - 1) & ~(alignment - 1);
	if (size > MEMORY_SIZE || start + size > MEMORY_SIZE)
		die("the snapshot's memory is too small", "");
	used = start + size;
	*size_of(memory + start) = size;
	return memory + start;
}

void *__wrap_malloc(size_t size)
{
	return recording ? take(size, 16) : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	if (!recording)
		return __real_calloc(count, size);
	if (size && count > MEMORY_SIZE / size)
		return NULL;
	return memset(take(count * size, 16), 0, count * size);
}

void __wrap_free(void *block)
{
	if (!is_ours(block))
		__real_free(block);
	else if (recording)
		give(block);
}

void *__wrap_realloc(void *block, size_t size)
{
	if (!is_ours(block))
		return recording && !block ? take(size, 16) : __real_realloc(block, size);
	void *moved = __wrap_malloc(size);
	if (moved) {
		memcpy(moved, block, *size_of(block) < size ? *size_of(block) : size);
		__wrap_free(block);
	}
	return moved;
}

/* Python's own allocator sorts blocks by size. While recording, what is made together stays
 * together instead: a command touches few of the modules, and every page that is touched is copied. */

static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
static PyMemAllocatorEx usual[2];

static void *plain_malloc(void *context, size_t size)
{
	(void)context;
	return __wrap_malloc(size);
}

static void *plain_calloc(void *context, size_t count, size_t size)
{
	(void)context;
	return __wrap_calloc(count, size);
}

static void *plain_realloc(void *context, void *block, size_t size)
{
	(void)context;
	return __wrap_realloc(block, size);
}

static void plain_free(void *context, void *block)
{
	(void)context;
	__wrap_free(block);
}

static void *take_arena(void *context, size_t size)
{
	(void)context;
	if (recording)
		return take(size, PAGE);
	void *arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return arena == MAP_FAILED ? NULL : arena;
}

static void give_arena(void *context, void *arena, size_t size)
{
	(void)context;
	if (!is_ours(arena))
		munmap(arena, size);
}

/* Making one */

void begin_snapshot(void)
{
	static char *nothing[] = {NULL};
	PyObjectArenaAllocator arenas = {NULL, take_arena, give_arena};

	if ((uintptr_t)_end != (uintptr_t)(memory + MEMORY_SIZE)) /* gold: copied variables */
		die("the linker put data behind the snapshot's memory",
		    "use GNU ld, or -Dsnapshot=disabled");
	used = (size_t)(first_large_page() - memory);
	environ = nothing; /* the builder's is nobody else's business */
	recording = 1;
	PyObject_SetArenaAllocator(&arenas); /* frames come from there too */
	PyMemAllocatorEx plain = {NULL, plain_malloc, plain_calloc, plain_realloc, plain_free};
	for (int i = 0; i < 2; i++) {
		PyMem_GetAllocator(domains[i], &usual[i]);
		PyMem_SetAllocator(domains[i], &plain);
	}
}

void write_snapshot(const char *path)
{
	for (int i = 0; i < 2; i++)
		PyMem_SetAllocator(domains[i], &usual[i]);
	recording = 0;
	taken = 1;
	char *start = first_large_page(); /* and the last one whole */
	used = (size_t)(start - memory) +
	       ((size_t)(memory + used - start + LARGE - 1) & ~(LARGE - 1));
	thread = PyEval_SaveThread();
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (const char *at = __data_start, *end = memory + used; at < end;) {
		ssize_t written = fd < 0 ? -1 : write(fd, at, (size_t)(end - at));
		if (written < 0)
			die(path, strerror(errno));
		at += written;
	}
	_exit(0);
}

/* Large pages
 *
 * Python writes to nearly every object that it looks at, as it counts references. So a command writes
 * to 200 to 700 pages of the snapshot, and each first write is a fault and a copy. To copy all of it
 * into two pages of 2 MiB takes as long as some 300 of these (docs/startup.md). */

/* Those that write to more. A word that only looks like one costs that time and nothing else. */
static int writes_to_most(char *const *arguments)
{
	for (; *arguments; arguments++)
		if (!strcmp(*arguments, "run") || !strcmp(*arguments, "create") ||
		    !strcmp(*arguments, "exec"))
			return 1;
	return 0;
}

static size_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t length = read(fd, text, size - 1);
	close(fd);
	text[length > 0 ? length : 0] = 0;
	return length > 0 ? (size_t)length : 0;
}

/* Free blocks that a large page fits in: "Node 0, zone Normal", then how many there are of each order. */
static unsigned long count_large_pages(const char *zones)
{
	unsigned long count = 0;
	for (const char *at = zones; (at = strstr(at, "zone ")) != NULL;) {
		at += strcspn(at, " ");
		at += strspn(at, " ");
		at += strcspn(at, " \n");
		for (int order = 0; isdigit(*(at += strspn(at, " "))); order++) {
			char *end;
			unsigned long blocks = strtoul(at, &end, 10);
			if (order >= LARGE_ORDER)
				count += blocks << (order - LARGE_ORDER);
			at = end;
		}
	}
	return count;
}

/* The kernel must have them at hand: while it looks for memory and moves it about, a command waits. */
static int large_pages_are_at_hand(void)
{
	char text[4096];

	return getauxval(AT_PAGESZ) == PAGE && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 &&
	       read_text("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)) &&
	       !strstr(text, "[never]") && read_text("/proc/buddyinfo", text, sizeof(text)) &&
	       count_large_pages(text) >= PLENTY;
}

/* Where in the executable's file this is of its data; 0 if nowhere. */
static off_t offset_in_file(const char *data)
{
	const ElfW(Phdr) *segment = (const ElfW(Phdr) *)getauxval(AT_PHDR);
	for (unsigned long left = getauxval(AT_PHNUM); segment && left; segment++, left--) {
		uintptr_t distance = (uintptr_t)data - segment->p_vaddr;
		if (segment->p_type == PT_LOAD && (uintptr_t)data >= segment->p_vaddr &&
		    distance < segment->p_filesz)
			return (off_t)(segment->p_offset + distance);
	}
	return 0;
}

/* Nothing of the C library's is there, and nothing has been written to yet. */
static void fill_large_pages(const char *executable)
{
	char *start = first_large_page();
	size_t size = (size_t)(memory + used - start); /* whole pages */
	off_t offset = offset_in_file(start);
	int fd = offset ? open("/proc/self/exe", O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) != start)
		die("mmap", strerror(errno));
	madvise(start, size, MADV_HUGEPAGE);
	for (size_t done = 0; done < size;) {
		ssize_t length = pread(fd, start + done, size - done, offset + (off_t)done);
		if (length <= 0)
			die(executable, length ? strerror(errno) : "it has become shorter");
		done += (size_t)length;
	}
	close(fd);
}

/* Waking up */

/* The module's dict was filled when the snapshot was made, from an environment without anything. */
static int renew_environment(void)
{
	PyObject *posix = PyImport_ImportModule("posix");
	PyObject *names = posix ? PyObject_GetAttrString(posix, "environ") : NULL;
	int result = names ? 0 : -1;
	for (char **word = environ; result == 0 && word && *word; word++) {
		const char *equals = strchr(*word, '=');
		if (!equals)
			continue;
		PyObject *name = PyBytes_FromStringAndSize(*word, equals - *word);
		PyObject *value = PyBytes_FromString(equals + 1);
		/* The first of two counts, as for getenv(3). */
		result = name && value && PyDict_SetDefault(names, name, value) ? 0 : -1;
		Py_XDECREF(name);
		Py_XDECREF(value);
	}
	Py_XDECREF(names);
	Py_XDECREF(posix);
	return result;
}

int is_snapshot(void)
{
	return taken;
}

void wake_snapshot(const char *executable, char *const *arguments)
{
	if (writes_to_most(arguments) && large_pages_are_at_hand())
		fill_large_pages(executable);
	/* PyOS_AfterFork_Child takes a key for granted, which it deletes. The one of the snapshot is no
	 * key here, or somebody else's: what is preloaded may have made some. */
	Py_tss_t *key = &_PyRuntime.gilstate.autoTSSkey;
	*key = (Py_tss_t)Py_tss_NEEDS_INIT;
	if (PyThread_tss_create(key) || PyThread_tss_set(key, thread))
		die("no key for thread-specific data is left", "");
	PyEval_RestoreThread(thread);
	thread->thread_id = PyThread_get_thread_ident();
	PyOS_AfterFork_Child();
	if (renew_environment() < 0)
		die("the environment cannot be read", "");
}
