/* Runs ocirt in an interpreter of this process.
 *
 * With CORE_INIT only the interpreter's core is started: no encodings, no sys.stdout, no path
 * finder. importer.py serves builtin modules, the archive and a few extension modules; the first
 * import of anything else completes the start (late_init). The core is private API of CPython
 * that may go, so the build has a switch, and both ways are tested. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>

#include "launcher.h"
#ifdef SNAPSHOT
#include "snapshot.h"
#endif

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(CORE_INIT) && defined(STATIC_PYTHON)
/* Not exported by a shared libpython. */
extern int _PySignal_Init(int install_signal_handlers);
#endif

static _Noreturn void die_of(PyStatus status)
{
	die("cannot start Python", status.err_msg ? status.err_msg : "unknown error");
}

static void check(PyStatus status)
{
	if (PyStatus_Exception(status))
		die_of(status);
}

static void set_path(PyConfig *config, wchar_t **field, const char *value)
{
	check(PyConfig_SetBytesString(config, field, value));
}

static void append_path(PyConfig *config, const char *path)
{
	wchar_t *wide = Py_DecodeLocale(path, NULL);
	if (!wide)
		die("cannot decode path", path);
	check(PyWideStringList_Append(&config->module_search_paths, wide));
	PyMem_RawFree(wide);
}

static void start_python(const struct place *place, int use_archive)
{
	PyPreConfig preconfig;
	PyConfig config;

	PyPreConfig_InitIsolatedConfig(&preconfig);
	preconfig.utf8_mode = 1;
	check(Py_PreInitialize(&preconfig));

	PyConfig_InitIsolatedConfig(&config);
	config.site_import = 0;
	config.install_signal_handlers = 0;
	config.write_bytecode = !use_archive;
	config.parse_argv = 0;
	config.pathconfig_warnings = 0;
	set_path(&config, &config.program_name, place->executable);
	set_path(&config, &config.executable, place->executable);
	set_path(&config, &config.base_executable, place->executable);
	set_path(&config, &config.prefix, PYTHON_PREFIX);
	set_path(&config, &config.base_prefix, PYTHON_PREFIX);
	set_path(&config, &config.exec_prefix, PYTHON_PREFIX);
	set_path(&config, &config.base_exec_prefix, PYTHON_PREFIX);
	config.module_search_paths_set = 1;
	append_path(&config, STDLIB);
	append_path(&config, STDLIB "/lib-dynload");
	if (*place->site) /* "" would be the working directory */
		append_path(&config, place->site);
#ifdef CORE_INIT
	config._init_main = !use_archive;
#endif
	check(Py_InitializeFromConfig(&config));
	PyConfig_Clear(&config);
}

#ifdef CORE_INIT
static PyObject *late_init(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	check(_Py_InitializeMain());
	Py_RETURN_NONE;
}

/* The module _signal crashes when it is imported before the handlers of signals were recorded. */
static PyObject *init_signals(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
#ifdef STATIC_PYTHON
	if (_PySignal_Init(0) < 0)
		return NULL;
	Py_RETURN_TRUE;
#else
	Py_RETURN_FALSE;
#endif
}

static PyMethodDef late_init_method = {"late_init", late_init, METH_NOARGS, NULL};
static PyMethodDef init_signals_method = {"init_signals", init_signals, METH_NOARGS, NULL};
#endif

static int set_text(PyObject *names, const char *name, const char *value)
{
	PyObject *text = PyUnicode_DecodeUTF8(value, (Py_ssize_t)strlen(value), "surrogateescape");
	int result = text ? PyDict_SetItemString(names, name, text) : -1;
	Py_XDECREF(text);
	return result;
}

static int set_new(PyObject *names, const char *name, PyObject *value)
{
	int result = value ? PyDict_SetItemString(names, name, value) : -1;
	Py_XDECREF(value);
	return result;
}

static PyObject *importer; /* its names */

static int set_place(PyObject *names, const struct place *place)
{
	return set_text(names, "executable", place->executable) < 0 ||
			       set_text(names, "site", place->site) < 0 ||
			       set_text(names, "prefix", place->prefix) < 0
		       ? -1
		       : 0;
}

/* The archive: u32 sizes of the importer's code and of the index, these two, then the modules. */
static int install_importer(const struct place *place, int core_only)
{
	uint32_t sizes[2];
	const char *code_start = archive_start + sizeof(sizes);
	memcpy(sizes, archive_start, sizeof(sizes));
	const char *modules = code_start + sizes[0] + sizes[1];

	PyObject *late = Py_NewRef(Py_None), *signals = Py_NewRef(Py_None);
#ifdef CORE_INIT
	if (core_only) {
		Py_SETREF(late, PyCFunction_New(&late_init_method, NULL));
		Py_SETREF(signals, PyCFunction_New(&init_signals_method, NULL));
	}
#else
	(void)core_only;
#endif
	PyObject *names = PyDict_New();
	if (!names || PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) < 0 ||
	    set_new(names, "__name__", PyUnicode_FromString("ocirt._importer")) < 0 ||
	    set_new(names, "late_init", late) < 0 || set_new(names, "init_signals", signals) < 0 ||
	    set_new(names, "index",
		    PyMarshal_ReadObjectFromString(code_start + sizes[0], sizes[1])) < 0 ||
	    set_new(names, "modules",
		    PyMemoryView_FromMemory((char *)modules, archive_end - modules, PyBUF_READ)) <
		    0 ||
	    set_place(names, place) < 0 || set_text(names, "dynload", STDLIB "/lib-dynload") < 0 ||
	    set_text(names, "suffix", EXTENSION_SUFFIX) < 0 ||
	    set_text(names, "system_sites", SYSTEM_SITES) < 0)
		return -1;
	PyObject *code = PyMarshal_ReadObjectFromString(code_start, sizes[0]);
	PyObject *result = code ? PyEval_EvalCode(code, names, names) : NULL;
	Py_XDECREF(code);
	Py_XDECREF(result);
	importer = names;
	return result ? 0 : -1;
}

static PyObject *argument_list(int argc, char **argv)
{
	PyObject *list = PyList_New(argc);
	for (int i = 0; list && i < argc; i++) {
		PyObject *word = PyUnicode_DecodeUTF8(argv[i], (Py_ssize_t)strlen(argv[i]),
						      "surrogateescape");
		if (!word)
			return NULL;
		PyList_SET_ITEM(list, i, word);
	}
	return list;
}

static void flush(const char *name)
{
	PyObject *stream = PySys_GetObject(name);
	if (!stream || stream == Py_None)
		return;
	PyObject *result = PyObject_CallMethod(stream, "flush", NULL);
	Py_XDECREF(result);
	PyErr_Clear();
}

/* An exception that ocirt.cli did not turn into a message: a bug, or no memory. */
static int tell_exception(void)
{
	PyObject *type, *value, *traceback, *text;

	if (Py_IsInitialized() && PySys_GetObject("stderr")) {
		PyErr_Print(); /* also deals with SystemExit */
		return 1;
	}
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	text = value ? PyObject_Repr(value) : NULL;
	const char *words = text ? PyUnicode_AsUTF8(text) : NULL;
	die("internal error", words ? words : "an exception that cannot be shown");
}

#ifdef SNAPSHOT
static int call_importer(const char *name)
{
	PyObject *function = PyDict_GetItemString(importer, name);
	PyObject *result = function ? PyObject_CallNoArgs(function) : NULL;
	Py_XDECREF(result);
	return result ? 0 : -1;
}

void make_snapshot(const char *path)
{
	/* Its place is known when it runs; with no name of its own, Python would look along PATH. */
	struct place nowhere = {PYTHON_EXECUTABLE, "", ""};
	begin_snapshot();
	start_python(&nowhere, 1);
	if (install_importer(&nowhere, 1) < 0 || call_importer("preload") < 0)
		_exit(tell_exception());
	write_snapshot(path);
}

static int start(const struct place *place, char **argv)
{
	wake_snapshot(place->executable, argv);
	return set_place(importer, place) < 0 ? -1 : call_importer("move");
}
#else
static int archive_fits(void)
{
	/* Marshalled code fits one minor version; libpython's soname promises that much already, a
	 * pre-release may still differ. */
	return archive_end - archive_start > 16 && Py_Version >> 16 == PY_VERSION_HEX >> 16 &&
	       (Py_Version >> 4 & 0xf) == (PY_VERSION_HEX >> 4 & 0xf);
}

static int start(const struct place *place, char **argv)
{
	(void)argv;
	int use_archive = archive_fits();
	start_python(place, use_archive);
	return use_archive ? install_importer(place, use_archive) : 0;
}
#endif

int run_python(const struct place *place, int argc, char **argv)
{
	int status;

	if (start(place, argv) < 0)
		return tell_exception();
	PyObject *arguments = argument_list(argc - 1, argv + 1);
	PyObject *sys_argv = argument_list(argc, argv);
	if (!arguments || !sys_argv || PySys_SetObject("argv", sys_argv) < 0)
		return tell_exception();
	PyObject *cli = PyImport_ImportModule("ocirt.cli");
	PyObject *result = cli ? PyObject_CallMethod(cli, "main", "O", arguments) : NULL;
	status = result ? (int)PyLong_AsLong(result) : -1;
	if (PyErr_Occurred())
		status = tell_exception();
	flush("stdout");
	flush("stderr");
	return status & 0xff; /* _exit follows: finalisation would only take time */
}
