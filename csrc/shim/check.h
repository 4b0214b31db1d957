/* Internal: the kernel's answer as the shim gives it. */
#ifndef OCIRT_SHIM_CHECK_H
#define OCIRT_SHIM_CHECK_H

#include <errno.h>

#define CHECK(call)                                                                                \
	do {                                                                                       \
		long result_ = (call);                                                             \
		return result_ < 0 ? -errno : result_;                                             \
	} while (0)

#endif
