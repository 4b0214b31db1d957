#include "launcher.h"

__asm__(".section .rodata\n"
	".global archive_start, archive_end\n"
	".balign 16\n"
	"archive_start:\n"
#ifdef ARCHIVE
	".incbin \"" ARCHIVE "\"\n"
#endif
	"archive_end:\n"
	".byte 0\n"
	".previous\n");
