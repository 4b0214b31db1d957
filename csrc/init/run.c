/* ocirt-init: make the namespaces, wait for the plan, check all of it, carry it out. No libc, no
 * allocation, no locks.
 *
 * It is started while the parent still compiles the plan. The end of the parent, or its giving up, is
 * the end of the control socket, and then ours.
 *
 * Linked as a static PIE that needs no relocation (there is nobody to apply one): tables hold
 * numbers and characters but no pointers, symbols are hidden. */
#include "init.h"

#include <linux/mman.h>
#include <linux/prctl.h>

struct init init;
char scratch[PATH_MAX] __attribute__((aligned(16)));

static const char signatures[][PLAN_ARGS + 1] = {
#define ROW(name, signature) [PLAN_##name] = signature,
	PLAN_CALLS(ROW) PLAN_OPS(ROW)
#undef ROW
};

static const u16 call_numbers[] = {
#define ROW(name, signature) [PLAN_##name] = __NR_##name,
	PLAN_CALLS(ROW)
#undef ROW
};

#define CALL_COUNT (sizeof(call_numbers) / sizeof(call_numbers[0]))
#define FIRST_REGISTER (-1000L)
#define FIRST_FD (-2000L)

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	u8 *t = to;
	const u8 *f = from;
	while (n--)
		*t++ = *f++;
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	u8 *t = to;
	const u8 *f = from;
	if (t < f)
		return memcpy(to, from, n);
	while (n--)
		t[n] = f[n];
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	u8 *t = to;
	while (n--)
		*t++ = byte;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;
	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

static const struct plan_header *header(void)
{
	return (const struct plan_header *)init.plan;
}

static const struct plan_op *ops(void)
{
	return (const struct plan_op *)(init.plan + sizeof(struct plan_header));
}

/* Strings, blobs and vectors lie behind the ops and may not reach back into them. */
static int in_pool(u64 offset)
{
	return offset >= sizeof(struct plan_header) + header()->op_count * sizeof(struct plan_op) &&
	       offset < init.size;
}

static int is_string(u64 offset)
{
	if (!in_pool(offset))
		return 0;
	while (offset < init.size)
		if (!init.plan[offset++])
			return 1;
	return 0;
}

static int is_blob(u64 offset, u64 length)
{
	if (!offset)
		return !length;
	return in_pool(offset) && length <= init.size - offset;
}

static int is_vector(u64 offset)
{
	if (offset % sizeof(u64))
		return 0;
	for (; in_pool(offset) && init.size - offset >= sizeof(u64); offset += sizeof(u64)) {
		u64 entry = *(const u64 *)(init.plan + offset);
		if (!entry)
			return 1;
		if (!is_string(entry))
			return 0;
	}
	return 0;
}

/* Where the fd is kept that the plan knows by a number only: a register, or one that came along. */
static i32 *place_of(i64 value)
{
	if (value <= FIRST_REGISTER && value > FIRST_REGISTER - PLAN_REGISTERS)
		return init.registers + (FIRST_REGISTER - value);
	if (value <= FIRST_FD && value > FIRST_FD - (i64)init.fd_count)
		return init.fds + (FIRST_FD - value);
	return NULL;
}

static int is_fd(i64 value)
{
	if (value >= 0)
		return value <= 0x7fffffff;
	return value == -1 || value == AT_FDCWD || place_of(value);
}

static i32 fd_of(i64 value)
{
	const i32 *place = place_of(value);
	return place ? *place : (i32)value;
}

/* How many bytes the call will read from its p argument. */
static u64 known_length(const struct plan_op *op)
{
	switch (op->kind) {
	case PLAN_setgroups:
		return op->arg[0] > 65536 ? ~0UL : op->arg[0] * sizeof(u32);
	case PLAN_sched_setaffinity:
		return op->arg[1];
	case PLAN_set_mempolicy:
		return op->arg[2] / 8 + (op->arg[2] % 8 != 0);
	case PLAN_prlimit64: /* struct rlimit64 */
		return 2 * sizeof(u64);
	case PLAN_sched_setattr: /* begins with its own size */
		if (!is_blob(op->arg[1], sizeof(u32)))
			return ~0UL;
		return *(const u32 *)(init.plan + op->arg[1]);
	default:
		return 0;
	}
}

/* What is wrong with an op, or NULL. */
static const char *flaw(const struct plan_op *op)
{
	if (op->kind == PLAN_KIND_NONE || op->kind >= PLAN_KIND_END)
		return "kind";
	if (op->tolerate < 0 || op->tolerate > 4095 || (op->skip && !op->tolerate))
		return "tolerate";
	const char *letter = signatures[op->kind];
	const u64 *arg = op->arg;
	for (; *letter; letter++, arg++) {
		switch (*letter) {
		case 'd':
			if (!is_fd((i64)*arg))
				return "fd";
			break;
		case 'o':
			if (*arg >= PLAN_REGISTERS)
				return "register";
			break;
		case 's':
			if (*arg && !is_string(*arg))
				return "string";
			break;
		case 'v':
			if (*arg && !is_vector(*arg))
				return "vector";
			break;
		case 'b':
			if (!is_blob(arg[0], arg[1]))
				return "blob";
			arg++;
			break;
		case 'p':
			if (*arg % sizeof(u64) || !is_blob(*arg, known_length(op)))
				return "data";
			break;
		}
	}
	for (; arg < op->arg + PLAN_ARGS; arg++)
		if (*arg)
			return "surplus argument";
	return NULL;
}

static void refuse(const char *reason, u32 op)
{
	text_add(reason);
	send_report(MESSAGE_ERROR, NO_STEP, EINVAL, op, "plan");
	exit_process(1);
}

/* Refuse a malformed plan before anything of it is done. */
static void check_plan(void)
{
	const struct plan_header *head = header();
	if (head->magic != PLAN_MAGIC || head->size != init.size)
		refuse("header", 0);
	if (head->flags & ~PLAN_TRACE)
		refuse("flags", 0);
	if (!is_fd(head->proc_fd))
		refuse("fd", 0);
	for (u32 i = 0; i < sizeof(head->reserved) / sizeof(head->reserved[0]); i++)
		if (head->reserved[i])
			refuse("reserved", 0);
	if (head->op_count > (init.size - sizeof(*head)) / sizeof(struct plan_op))
		refuse("number of operations", 0);
	for (u32 i = 0; i < head->op_count; i++) {
		const char *reason = flaw(ops() + i);
		if (!reason && ops()[i].skip > head->op_count - i - 1)
			reason = "skip";
		if (reason)
			refuse(reason, i);
	}
}

/* Turn the offsets of a vector into pointers. Ops may share one: what is a pointer already lies far
 * above any offset. A string that overlaps a vector still ends at the vector's last entry. */
static char **vector(u64 offset)
{
	char **words = (char **)(init.plan + offset);
	for (char **word = words; *word; word++)
		if ((u64)*word < init.size)
			*word = (char *)init.plan + (u64)*word;
	return words;
}

/* Offsets become pointers and registers fds. An absent string is "": only for mount(2) does NULL
 * mean something else. */
static void resolve(const struct plan_op *op, u64 *to)
{
	const u64 *from = op->arg;
	const char *absent = op->kind == PLAN_old_mount ? NULL : "";
	for (const char *letter = signatures[op->kind]; *letter; letter++, from++, to++) {
		switch (*letter) {
		case 'd':
			*to = (u64)(i64)fd_of((i64)*from);
			break;
		case 's':
			*to = (u64)(*from ? (const char *)init.plan + *from : absent);
			break;
		case 'v':
			*to = (u64)(*from ? vector(*from) : NULL);
			break;
		case 'b':
			*to++ = (u64)(*from ? init.plan + *from : NULL);
			*to = *++from;
			break;
		case 'p':
			*to = (u64)(*from ? init.plan + *from : NULL);
			break;
		default:
			*to = *from;
		}
	}
}

static long dispatch(u32 kind, const u64 *arg)
{
	if (kind < CALL_COUNT)
		return sys6(call_numbers[kind], arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	switch (kind) {
#define CASE(name, signature)                                                                      \
	case PLAN_##name:                                                                          \
		return op_##name(arg);
		PLAN_OPS(CASE)
#undef CASE
	}
	return -ENOSYS;
}

static long carry_out(const struct plan_op *op)
{
	u64 arg[PLAN_ARGS] = {0};
	init.call = NULL;
	text_clear();
	resolve(op, arg);
	long result = dispatch(op->kind, arg);
	if (result < 0)
		return result;
	if (signatures[op->kind][0] == 'o') {
		close_fd(init.registers[arg[0]]);
		init.registers[arg[0]] = result;
	} else if (op->kind == PLAN_close && place_of((i64)op->arg[0])) {
		*place_of((i64)op->arg[0]) = -1;
	}
	return 0;
}

static void run_plan(void)
{
	for (init.step = 0; init.step < header()->op_count; init.step++) {
		const struct plan_op *op = ops() + init.step;
		long error = carry_out(op);
		u32 skip = 0;
		if (error < 0) {
			if (!op->tolerate || error != -op->tolerate)
				give_up(error);
			skip = op->skip;
		}
		trace_step(init.step);
		for (; skip; skip--) /* a trace has one time for each step */
			trace_step(++init.step);
	}
}

/* fd of the plan, mapped with writable pages of our own. */
static void map_plan(i32 fd)
{
	struct stat status;
	if (SYS(fstat, fd, &status) < 0 || !S_ISREG(status.st_mode) ||
	    status.st_size < (long)sizeof(struct plan_header) ||
	    status.st_size > (long)PLAN_MAX_SIZE)
		exit_process(1);
	long at = SYS(mmap, 0, status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (at < 0 || at <= (long)PLAN_MAX_SIZE) /* pointers must differ from offsets */
		exit_process(1);
	init.plan = (u8 *)at;
	init.size = status.st_size;
	SYS(close, fd);
}

/* What the runtime wants before there is a plan; on its other core, while it compiles that. */
static void make_namespaces(u64 flags)
{
	const long error = flags ? SYS(unshare, flags) : 0;
	if (!error)
		return;
	send_report(MESSAGE_ERROR, NO_STEP, -error, 0, "unshare");
	exit_process(1);
}

/* What one datagram brings is added to fds: how many there are then. */
static u32 receive_fds(i32 *fds, u32 count, char *byte)
{
	struct {
		struct control_header head;
		i32 fds[PLAN_FDS_AT_ONCE];
	} rights = {.head = {0}};
	struct iovec vector = {byte, 1};
	struct message_header message = {
		.vectors = &vector,
		.vector_count = 1,
		.control = &rights,
		/* not its size, which is rounded up: one fd too many would fit */
		.control_length = sizeof(rights.head) + sizeof(rights.fds),
	};
	long length;
	do
		length = SYS(recvmsg, init.control_fd, &message, MSG_CMSG_CLOEXEC);
	while (length == -EINTR);
	if (length <= 0 || rights.head.length < sizeof(rights.head) + sizeof(i32))
		exit_process(1); /* the parent has given up */
	const u32 more = (rights.head.length - sizeof(rights.head)) / sizeof(i32);
	/* Our limit of open files may be lower than the parent's was when it opened them. */
	if (message.flags & MSG_CTRUNC || count + more > 1 + PLAN_FDS) {
		send_report(MESSAGE_ERROR, NO_STEP, EMFILE, 0, "recvmsg");
		exit_process(1);
	}
	memcpy(fds + count, rights.fds, more * sizeof(i32));
	return count + more;
}

/* The plan's fd; those that come with it are in init.fds then. */
static i32 receive_plan(void)
{
	i32 fds[1 + PLAN_FDS];
	u32 count = 0;
	char byte = DELIVERY_MORE;

	while (byte == DELIVERY_MORE)
		count = receive_fds(fds, count, &byte);
	init.fd_count = count - 1;
	memcpy(init.fds, fds + 1, init.fd_count * sizeof(i32));
	return fds[0];
}

/* A number that a command line holds; ~0 for what is none. */
static u64 parse(const char *digits)
{
	u64 number = 0;
	u32 length = 0;
	for (; digits[length]; length++) {
		if (length == 10 || digits[length] < '0' || digits[length] > '9')
			return ~0UL;
		number = number * 10 + digits[length] - '0';
	}
	return length ? number : ~0UL;
}

/* Entered by _start with the stack as the kernel left it: argc, argv[0], ...
 * The command line: the control socket (SOCK_SEQPACKET), and the flags of an unshare. */
__attribute__((noreturn, used, visibility("hidden"))) void init_main(const long *stack)
{
	u64 times[3] = {trace_clock()};
	if (stack[0] != 3)
		exit_process(1);
	const u64 control = parse((const char *)stack[2]), flags = parse((const char *)stack[3]);
	if (control > 0x7fffffff || flags > 0xffffffff)
		exit_process(1);
	init.control_fd = control;
	for (u32 i = 0; i < PLAN_REGISTERS; i++)
		init.registers[i] = -1;
	SYS(prctl, PR_SET_NAME, "ocirt-init");
	/* It came without FD_CLOEXEC through the exec; nothing later may inherit it. */
	SYS(fcntl, init.control_fd, F_SETFD, FD_CLOEXEC);
	make_namespaces(flags);
	times[1] = trace_clock();
	map_plan(receive_plan());
	times[2] = trace_clock();
	check_plan();
	init.proc_fd = fd_of(header()->proc_fd);
	init.trace = header()->flags & PLAN_TRACE;
	trace_start(times);
	run_plan();
	/* Plans of containers end in execve; others are done here. */
	trace_flush();
	for (;;)
		exit_process(0);
}

#if defined(__x86_64__)
__asm__(".text\n"
	".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call init_main\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl _start\n"
	"_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	and x9, x0, #-16\n"
	"	mov sp, x9\n"
	"	b init_main\n");
#endif
