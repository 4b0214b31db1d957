/* The mount calls of Linux 5.2 and later, and the older mount(2). Raw calls: the C library's
 * header and the kernel's cannot be included together before glibc 2.37. */
#include "check.h"
#include "shim.h"

#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

long oc_open_tree(int dir, const char *path, unsigned flags)
{
	CHECK(syscall(SYS_open_tree, dir, path, flags));
}

long oc_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
	CHECK(syscall(SYS_move_mount, from, from_path, to, to_path, flags));
}

long oc_mount_setattr(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear,
		      uint64_t propagation, int userns)
{
	struct mount_attr attr = {.attr_set = set,
				  .attr_clr = clear,
				  .propagation = propagation,
				  .userns_fd = userns < 0 ? 0 : (unsigned)userns};
	CHECK(syscall(SYS_mount_setattr, dir, path, flags, &attr, sizeof(attr)));
}

long oc_fsopen(const char *type, unsigned flags)
{
	CHECK(syscall(SYS_fsopen, type, flags));
}

long oc_fsconfig(int fd, unsigned command, const char *key, const char *value, int aux)
{
	CHECK(syscall(SYS_fsconfig, fd, command, key, value, aux));
}

long oc_fsmount(int fd, unsigned flags, unsigned attributes)
{
	CHECK(syscall(SYS_fsmount, fd, flags, attributes));
}

long oc_mount(const char *source, const char *target, const char *type, unsigned long flags,
	      const char *data)
{
	CHECK(syscall(SYS_mount, source, target, type, flags, data));
}

long oc_umount2(const char *target, int flags)
{
	CHECK(syscall(SYS_umount2, target, flags));
}
