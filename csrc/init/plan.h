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
	i32 control_fd; /* SOCK_SEQPACKET to the parent */
	i32 proc_fd;	/* a checked procfs of the parent's */
	u32 reserved[9];
};

struct plan_op {
	u16 kind;
	u16 skip;     /* ops to jump over when a failure was tolerated */
	i32 tolerate; /* this errno is not a failure; 0: none */
	u64 arg[PLAN_ARGS];
};

/* Argument types:
 *   i  integer
 *   d  fd: >= 0 an inherited fd, -1 none, -100 AT_FDCWD, -1000 - n the register n
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
	CALL(fchown, "dii")

/* OP(name, signature): what takes more than one call, or keeps an fd in a register. */
#define PLAN_OPS(OP)                                                                               \
	OP(fork, "")	       /* CLONE_PARENT; reports the pid; stage 1 exits */                  \
	OP(sync, "i")	       /* enum plan_sync: tell the parent, await its answer */             \
	OP(write_fd, "db")     /* one write(2) of the blob */                                      \
	OP(write_file, "dsbi") /* dir path blob open-flags: open under dir, one write(2) */        \
	OP(wait_start, "d")    /* accept on the listening socket; it becomes the control socket */ \
	OP(loopback_up, "")                                                                        \
	OP(openat, "odsi")	 /* reg dir path flags */                                          \
	OP(open_in_root, "odsi") /* reg root path flags: openat2 RESOLVE_IN_ROOT|NO_MAGICLINKS */  \
	OP(open_tree, "odsi")	 /* reg dir path flags */                                          \
	OP(new_fs, "osvi")	 /* reg fstype options(key | key=value) mount-attributes:          \
				    fsopen, fsconfig each, create, fsmount */                      \
	OP(target, "odsii") /* reg root path kind(0 dir, 1 file, 2 dir and no symlink on the way)  \
			       mode: resolve in root, create what is missing */                                                        \
	OP(target_like, "odsd") /* reg root path source: dir for a dir, else file */               \
	OP(old_mount,                                                                              \
	   "sdsis")	  /* source target fstype flags data: mount(2) onto the checked target */  \
	OP(copy_up, "dd") /* copy the tree below from into to */                                   \
	OP(copy_mode, "dd")	/* give to the mode and owner of the directory from */             \
	OP(pivot_root, "d")	/* root becomes /, the old root is detached */                     \
	OP(move_root, "d")	/* MS_MOVE onto / and chroot: --no-pivot, initramfs */             \
	OP(mknod, "dsiiii")	/* root path mode dev uid gid */                                   \
	OP(symlink, "dss")	/* root path target; kept if something is there */                 \
	OP(readonly_path, "ds") /* root path; ENOENT is fine */                                    \
	OP(mask_path, "dsdd")	/* root path file-mask dir-mask */                                 \
	OP(make_console,                                                                           \
	   "ddiii")	   /* root console-socket rows cols flags(1: mount on /dev/console) */     \
	OP(check_fs, "di") /* fd must be on the file system of this statfs magic */                \
	OP(check_device, "dii") /* fd must be a character device major, minor */                   \
	OP(check_block, "dii")	/* fd must be a block device major, minor */                       \
	OP(bounding_set, "i")	/* drop all but this mask */                                       \
	OP(capset, "iii")	/* effective permitted inheritable masks */                        \
	OP(ambient, "i")	/* clear, then raise this mask */                                  \
	OP(set_home, "dvii") /* root env index uid: env[index] becomes HOME=… of the passwd */   \
	OP(enter_cwd, "s")   /* chdir and check that getcwd is inside the root */                  \
	OP(find_executable, "vv") /* argv env: look argv[0] up in PATH of env */                   \
	OP(hook,                                                                                   \
	   "svvbi") /* path argv env state timeout-ms: run in the container, state on stdin */     \
	OP(exec_follows, "")  /* the record that the parent waits for */                           \
	OP(seccomp, "bi")     /* struct sock_filter[] flags */                                     \
	OP(execve, "vv")      /* argv env, with the path that find_executable found */             \
	OP(chown_stdio, "ii") /* uid gid: 0, 1, 2 unless /dev/null-like or not ours */

enum plan_kind {
	PLAN_KIND_NONE,
#define KIND(name, sig) PLAN_##name,
	PLAN_CALLS(KIND) PLAN_OPS(KIND)
#undef KIND
		PLAN_KIND_END
};

enum plan_sync {
	SYNC_SCOPE = 1, /* the parent puts the pid into its cgroup (systemd) */
	SYNC_MAPS,	/* the parent writes uid_map, gid_map, setgroups, time offsets */
	SYNC_HOOKS,	/* net devices, device rules, prestart, createRuntime */
	SYNC_READY,	/* created: rlimits, state, pid file */
};

/* init -> parent, one datagram each; text follows. */
enum plan_message {
	MESSAGE_PID = 1, /* value: pid of stage 2 in the parent's pid namespace */
	MESSAGE_SYNC,	 /* value: enum plan_sync */
	MESSAGE_ERROR, /* step, error; call names what failed inside a compound op; text: detail */
	MESSAGE_EXEC,  /* exec follows; after it end-of-file means success */
	MESSAGE_TRACE, /* text: u64 CLOCK_MONOTONIC ns of the ends of steps step.. */
	MESSAGE_WARNING, /* step, error, text */
};

struct plan_report {
	u32 type;
	u32 step;
	i32 error;
	i32 value;
	char call[24]; /* "" : the op's own name */
};

/* parent -> init. */
struct plan_answer {
	u32 go; /* 0: give up and exit */
	u32 reserved;
};

#endif
