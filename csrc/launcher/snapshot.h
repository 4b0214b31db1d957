/* The started interpreter in the executable (snapshot.c). */
#ifndef OCIRT_SNAPSHOT_H
#define OCIRT_SNAPSHOT_H

#include "launcher.h"

/* Call before anything of Python. */
void begin_snapshot(void);

/* Write what the executable's data is to be, and exit; no Python function is running. */
_Noreturn void write_snapshot(const char *path);

/* Did this process begin as a snapshot? */
int is_snapshot(void);

/* Python goes on as write_snapshot left it; its thread holds the GIL. Call before anything of Python. */
void wake_snapshot(const char *executable, char *const *arguments);

#endif
