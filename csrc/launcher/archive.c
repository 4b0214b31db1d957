#include "launcher.h"

#ifdef WITH_ARCHIVE
#include "archive_path.h"
#endif

__asm__(".section .rodata\n"
	".global archive_start, archive_end\n"
	".balign 16\n"
	"archive_start:\n"
#ifdef WITH_ARCHIVE
	".incbin \"" ARCHIVE "\"\n"
#endif
	"archive_end:\n"
	".byte 0\n"
	".previous\n");
