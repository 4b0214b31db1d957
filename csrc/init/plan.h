/* The plan: what the parent writes and ocirt-init carries out. ocirt/plan.py holds the same
 * tables; tests/unit/test_plan_tables.py keeps the two alike. */
#ifndef OCIRT_PLAN_H
#define OCIRT_PLAN_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long u64;
typedef long i64;

#define PLAN_MAGIC 0x31304e4c50434fUL /* "OCPLN01" */
#define PLAN_ARGS 7
#define PLAN_REGISTERS 32
#define PLAN_FDS 1024	     /* that may come with the plan */
#define PLAN_FDS_AT_ONCE 250 /* in one datagram; the kernel takes 253 */
#define PLAN_MAX_SIZE (64UL << 20)
#define PLAN_TEXT_MAX 1024 /* bytes of text in a message */

/* Header flags. */
#define PLAN_TRACE 1u

/* All offsets count from the header's first byte; strings end in NUL; offset 0 is NULL. */
struct plan_header {
	u64 magic;
	u32 size; /* of the whole plan in bytes */
	u32 op_count;
	u32 flags;
	i32 proc_fd; /* a checked procfs of the parent's */
	u32 reserved[10];
};

struct plan_op {
	u16 kind;
	u16 skip;     /* ops to jump over when a failure was tolerated */
	i32 tolerate; /* this errno is not a failure; 0: none */
	u64 arg[PLAN_ARGS];
};

/* Argument types:
 *   i  integer
 *   d  fd: >= 0 an inherited fd, -1 none, -100 AT_FDCWD, -1000 - n the register n,
 *      -2000 - n the fd number n that came with the plan
 *   o  register number that the op fills
 *   s  offset of a string, 0 for NULL
 *   b  offset and length of a blob (two arguments)
 *   p  offset of a blob whose length the call knows
 *   v  offset of a table of 64-bit string offsets that ends in 0; made into pointers in place
 */

/* CALL(name, signature): one system call, arguments as they stand. */
#define PLAN_CALLS(CALL)                                                                           \
	CALL(setns, "di")                                                                          \
	CALL(unshare, "i")                                                                         \
	CALL(setsid, "")                                                                           \
	CALL(prctl, "iiiii")                                                                       \
	CALL(setresuid, "iii")                                                                     \
	CALL(setresgid, "iii")                                                                     \
	CALL(setgroups, "ip")                                                                      \
	CALL(umask, "i")                                                                           \
	CALL(sethostname, "si")                                                                    \
	CALL(setdomainname, "si")                                                                  \
	CALL(keyctl, "is")                                                                         \
	CALL(personality, "i")                                                                     \
	CALL(ioprio_set, "iii")                                                                    \
	CALL(sched_setattr, "ipi")                                                                 \
	CALL(sched_setaffinity, "iip")                                                             \
	CALL(set_mempolicy, "ipi")                                                                 \
	CALL(fchdir, "d")                                                                          \
	CALL(chroot, "s")                                                                          \
	CALL(chdir, "s")                                                                           \
	CALL(mount_setattr, "dsib")                                                                \
	CALL(move_mount, "dsdsi")                                                                  \
	CALL(umount2, "si")                                                                        \
	CALL(close, "d")                                                                           \
	CALL(close_range, "iii")                                                                   \
	CALL(fchown, "dii")                                                                        \
	CALL(prlimit64, "iipi")

/* OP(name, signature): what takes more than one call, or keeps an fd in a register.
 *
 *   fork             CLONE_PARENT; reports the pid; stage 1 exits
 *   sync             enum plan_sync: tell the parent, await its answer
 *   write_fd         fd data: one write(2)
 *   write_file       dir path data open-flags: open under dir, one write(2)
 *   wait_start       accept on the listening socket; it becomes the control socket
 *   loopback_up
 *   openat           register dir path flags
 *   open_in_root     register root path flags: openat2 RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
 *   open_tree        register dir path flags
 *   new_fs           register type options (key or key=value) mount-attributes: fsopen, fsconfig
 *                    each, create, fsmount
 *   target           register root path kind (enum plan_target) mode: resolve below root, make
 *                    what is missing, check what it is
 *   target_like      register root path source: a directory for a directory, else a file
 *   old_mount        source target type flags data: mount(2) onto the checked target
 *   copy_up          from to: copy the tree below from into to
 *   copy_mode        from to: the mode and owner of a directory
 *   pivot_root       root becomes /, the old root is detached
 *   move_root        MS_MOVE onto / and chroot: --no-pivot, initramfs
 *   mknod            root path mode device uid gid; kept if it is there
 *   symlink          root path goal; kept if something is there
 *   readonly_path    root path; ENOENT is fine
 *   mask_path        root path file-mask dir-mask; ENOENT is fine
 *   make_console     root console-socket rows cols flags (1: mount on /dev/console)
 *   check_fs         fd magic: it must be on a file system of this statfs magic
 *   check_device     fd major minor: it must be this character device
 *   check_block      fd major minor: it must be this block device
 *   bounding_set     drop all but this mask
 *   capset           effective permitted inheritable masks
 *   ambient          clear, then raise this mask
 *   set_home         root env index uid: env[index] becomes HOME=... of the container's passwd
 *   enter_cwd        chdir, and check that getcwd is inside the root
 *   find_executable  argv env: look argv[0] up in PATH of env
 *   hook             path argv env state timeout-ms (0: none): run here, with the state on stdin
 *   exec_follows     the record that the parent waits for; only write(2) is used from here on
 *   seccomp          struct sock_filter[] flags
 *   execve           argv env, with the path that find_executable found
 *   chown_stdio      uid gid: fds 0, 1, 2 unless they are /dev/null or not ours to give away
 *   keyring_access   permissions of the session keyring
 */
#define PLAN_OPS(OP)                                                                               \
	OP(fork, "")                                                                               \
	OP(sync, "i")                                                                              \
	OP(write_fd, "db")                                                                         \
	OP(write_file, "dsbi")                                                                     \
	OP(wait_start, "d")                                                                        \
	OP(loopback_up, "")                                                                        \
	OP(openat, "odsi")                                                                         \
	OP(open_in_root, "odsi")                                                                   \
	OP(open_tree, "odsi")                                                                      \
	OP(new_fs, "osvi")                                                                         \
	OP(target, "odsii")                                                                        \
	OP(target_like, "odsd")                                                                    \
	OP(old_mount, "sdsis")                                                                     \
	OP(copy_up, "dd")                                                                          \
	OP(copy_mode, "dd")                                                                        \
	OP(pivot_root, "d")                                                                        \
	OP(move_root, "d")                                                                         \
	OP(mknod, "dsiiii")                                                                        \
	OP(symlink, "dss")                                                                         \
	OP(readonly_path, "ds")                                                                    \
	OP(mask_path, "dsdd")                                                                      \
	OP(make_console, "ddiii")                                                                  \
	OP(check_fs, "di")                                                                         \
	OP(check_device, "dii")                                                                    \
	OP(check_block, "dii")                                                                     \
	OP(bounding_set, "i")                                                                      \
	OP(capset, "iii")                                                                          \
	OP(ambient, "i")                                                                           \
	OP(set_home, "dvii")                                                                       \
	OP(enter_cwd, "s")                                                                         \
	OP(find_executable, "vv")                                                                  \
	OP(hook, "svvbi")                                                                          \
	OP(exec_follows, "")                                                                       \
	OP(seccomp, "bi")                                                                          \
	OP(execve, "vv")                                                                           \
	OP(chown_stdio, "ii")                                                                      \
	OP(keyring_access, "i")                                                                    \
	OP(receive_fd, "o")                                                                        \
	OP(close_others, "id")

enum plan_kind {
	PLAN_KIND_NONE,
#define KIND(name, sig) PLAN_##name,
	PLAN_CALLS(KIND) PLAN_OPS(KIND)
#undef KIND
		PLAN_KIND_END
};

enum plan_target {
	TARGET_DIRECTORY,
	TARGET_FILE,
	TARGET_PLAIN_DIRECTORY, /* no symlink on the way to it */
	TARGET_MOUNT_POINT,	/* a directory, but not /proc */
};

enum plan_sync {
	SYNC_SCOPE = 1, /* the parent puts the pid into its cgroup (systemd) */
	SYNC_MAPS,	/* the parent writes uid_map, gid_map, setgroups, time offsets */
	SYNC_HOOKS,	/* net devices, device rules, prestart, createRuntime */
	SYNC_READY,	/* created: rlimits, state, pid file */
	SYNC_SOURCES,	/* mount sources opened for us; after the answer come the fds */
};

/* init -> parent, one datagram each; text follows. */
enum plan_message {
	MESSAGE_PID = 1, /* value: pid of stage 2 in the parent's pid namespace */
	MESSAGE_SYNC,	 /* value: enum plan_sync */
	MESSAGE_ERROR, /* step, error; call names what failed inside a compound op; text: detail */
	MESSAGE_EXEC,  /* exec follows; after it end-of-file means success */
	MESSAGE_TRACE, /* text: u64 CLOCK_MONOTONIC ns of the ends of steps step..; step ~0: of the
			* exec, the unshare and the wait for the plan */
};

struct plan_report {
	u32 type;
	u32 step;
	i32 error;
	i32 value;
	char call[24]; /* "" : the op's own name */
};

/* parent -> init, before anything else: the plan's own fd and those that the plan speaks of, with
 * datagrams of one byte. */
enum plan_delivery {
	DELIVERY_LAST = 'p',
	DELIVERY_MORE = 'm', /* another datagram follows */
};

/* parent -> init, after a sync. */
struct plan_answer {
	u32 go; /* 0: give up and exit */
	u32 reserved;
};

#endif
