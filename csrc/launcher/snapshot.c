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

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY_SIZE (16UL << 20)
#define PAGE 4096UL
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

void wake_snapshot(void)
{
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
