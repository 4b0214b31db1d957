/* What the parent is told: one datagram per message, and the times of a trace. */
#include "init.h"

#include <linux/time.h>

static struct {
	struct plan_report head;
	char text[PLAN_TEXT_MAX];
} message;

static u32 text_length;

static struct {
	struct plan_report head;
	u64 times[PLAN_TEXT_MAX / sizeof(u64)];
} trace;

static u32 trace_count;

void text_clear(void)
{
	text_length = 0;
}

u32 text_room(void)
{
	return PLAN_TEXT_MAX - text_length;
}

void text_add_bytes(const char *bytes, size_t length)
{
	if (length > text_room())
		length = text_room();
	memcpy(message.text + text_length, bytes, length);
	text_length += length;
}

void text_add(const char *text)
{
	text_add_bytes(text, string_length(text));
}

void text_add_number(u64 number)
{
	char digits[20];
	u32 at = sizeof(digits);
	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	text_add_bytes(digits + at, sizeof(digits) - at);
}

static void fill(struct plan_report *head, u32 type, u32 step, i32 error, i32 value)
{
	head->type = type;
	head->step = step;
	head->error = error;
	head->value = value;
}

/* A seccomp filter may allow nothing but write(2); before, a reader that is gone must not kill. */
static long transmit(const void *data, size_t length)
{
	if (init.announced)
		return SYS(write, init.control_fd, data, length);
	return SYS(sendto, init.control_fd, data, length, MSG_NOSIGNAL);
}

/* Send a message with the text that was added; error is a positive errno. */
long send_report(u32 type, u32 step, i32 error, i32 value, const char *call)
{
	size_t length = call ? string_length(call) : 0;
	fill(&message.head, type, step, error, value);
	memset(message.head.call, 0, sizeof(message.head.call));
	memcpy(message.head.call, call,
	       length < sizeof(message.head.call) ? length : sizeof(message.head.call));
	long result = transmit(&message, sizeof(message.head) + text_length);
	text_length = 0;
	return result < 0 ? result : 0;
}

void give_up(long error)
{
	trace_flush();
	send_report(MESSAGE_ERROR, init.step, -error, 0, init.call);
	for (;;)
		exit_process(1);
}

/* Nanoseconds. The clock is asked by system call: there is no vDSO without a libc. */
u64 trace_clock(void)
{
	struct __kernel_timespec now;
	SYS(clock_gettime, CLOCK_MONOTONIC, &now);
	return (u64)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What was done before there was a plan to say that it is traced. */
void trace_start(const u64 times[3])
{
	if (!init.trace)
		return;
	trace.head.step = NO_STEP;
	for (; trace_count < 3; trace_count++)
		trace.times[trace_count] = times[trace_count];
	trace_flush();
}

/* Note the end of a step. */
void trace_step(u32 step)
{
	if (!init.trace || init.announced)
		return;
	if (!trace_count)
		trace.head.step = step;
	trace.times[trace_count++] = trace_clock();
	if (trace_count == sizeof(trace.times) / sizeof(trace.times[0]))
		trace_flush();
}

void trace_flush(void)
{
	if (!trace_count || init.announced)
		return;
	fill(&trace.head, MESSAGE_TRACE, trace.head.step, 0, trace_count);
	transmit(&trace, sizeof(trace.head) + trace_count * sizeof(trace.times[0]));
	trace_count = 0;
}
