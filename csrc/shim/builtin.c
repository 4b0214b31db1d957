/* ocirt._shim once more, as a builtin module of the launcher's interpreter.
 *
 * cffi's module and the _cffi_backend behind it are shared objects, which take 0.95 ms to load: a
 * third of a short command. This one calls the same functions (shim.h) and has the same constants
 * (constants.txt). Its `lib` is the module itself, its `ffi` the part of cffi's that ocirt.kernel
 * uses, in Python (_ffi.py). builtin.py writes builtin_calls.h: a function for each of shim.h's, the
 * table `methods` of them, `numbers`, and STRUCTS. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "constants.h"
#include "shim.h"

/* What a pointer argument leads to; NULL for None. */
struct memory {
	Py_buffer view;
	void *at;
};

static int to_memory(PyObject *object, int writable, struct memory *memory)
{
	memory->view.obj = NULL;
	memory->at = NULL;
	if (object == Py_None)
		return 0;
	if (PyObject_GetBuffer(object, &memory->view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
		return -1;
	memory->at = memory->view.buf;
	return 0;
}

static int to_signed(PyObject *object, long least, long most, long *value)
{
	*value = PyLong_AsLong(object);
	if (*value == -1 && PyErr_Occurred())
		return -1;
	if (*value >= least && *value <= most)
		return 0;
	PyErr_SetString(PyExc_OverflowError, "integer is out of range");
	return -1;
}

static int to_unsigned(PyObject *object, unsigned long most, unsigned long *value)
{
	*value = PyLong_AsUnsignedLong(object);
	if (*value == (unsigned long)-1 && PyErr_Occurred())
		return -1;
	if (*value <= most)
		return 0;
	PyErr_SetString(PyExc_OverflowError, "integer is out of range");
	return -1;
}

static PyObject *wrong_count(const char *name, Py_ssize_t wanted, Py_ssize_t count)
{
	return PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, %zd were given", name, wanted,
			    count);
}

/* Where a buffer lies, for a pointer in a struct. */
static PyObject *address(PyObject *self, PyObject *object)
{
	struct memory memory;
	(void)self;
	if (to_memory(object, 0, &memory) < 0)
		return NULL;
	PyBuffer_Release(&memory.view);
	return PyLong_FromVoidPtr(memory.at);
}

#include "builtin_calls.h"
static int fill(PyObject *module)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		PyObject *value = numbers[i].is_signed ? PyLong_FromLong((long)numbers[i].value)
						       : PyLong_FromUnsignedLong(numbers[i].value);
		if (PyModule_AddObject(module, numbers[i].name, value) < 0)
			return -1;
	}
	PyObject *structs = Py_BuildValue(STRUCTS);
	if (PyModule_AddObject(module, "structs", structs) < 0 ||
	    PyModule_AddObject(module, "lib", Py_NewRef(module)) < 0)
		return -1;
	PyObject *ffi = PyImport_ImportModule("ocirt._ffi");
	return ffi ? PyModule_AddObject(module, "ffi", ffi) : -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "ocirt._shim",
					.m_methods = methods, .m_slots = slots};

PyObject *PyInit_ocirt_shim(void);
PyObject *PyInit_ocirt_shim(void)
{
	return PyModuleDef_Init(&definition);
}
