/*
 * Preloaded into Debian's user-mode-linux 6.1 on machines whose CPU has AMX, where it cannot run a single guest
 * process otherwise.  Built and used by uml.py, and only there.
 *
 * UML keeps the vector registers of its guest processes in a buffer that has room for AVX-512, and moves them with
 * ptrace(2) and PTRACE_GETREGSET / PTRACE_SETREGSET, NT_X86_XSTATE.  With AMX the state of a process is several
 * times that size.  Reading the first part of it works; writing less than all of it is refused by the host kernel
 * (x86's xstateregs_set in arch/x86/kernel/fpu/regset.c), and the guest process dies.
 *
 * So each write here becomes: read the whole state as it is now, lay UML's part over its beginning, write the whole.
 * AMX tiles themselves stay what they were; no guest uses them, for UML does not offer the permission that they need.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* XCR0 with every state component of today's CPUs comes to about 11 KiB. */
#define STATE_MAX 16384

static long read_state(long pid, struct iovec *wanted)
{
    static __thread unsigned char state[STATE_MAX];
    struct iovec whole = { state, sizeof state };
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    if (wanted->iov_len > whole.iov_len)
        wanted->iov_len = whole.iov_len;
    memcpy(wanted->iov_base, state, wanted->iov_len);
    return 0;
}

static long write_state(long pid, const struct iovec *given)
{
    static __thread unsigned char state[STATE_MAX];
    struct iovec whole = { state, sizeof state };
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    memcpy(state, given->iov_base, given->iov_len < whole.iov_len ? given->iov_len : whole.iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    switch ((int)request) {
    case PTRACE_GETREGSET:
        if ((long)address == NT_X86_XSTATE)
            return read_state(pid, data);
        break;
    case PTRACE_SETREGSET:
        if ((long)address == NT_X86_XSTATE)
            return write_state(pid, data);
        break;
    case PTRACE_PEEKTEXT:
    case PTRACE_PEEKDATA:
    case PTRACE_PEEKUSER: {
        /* The system call stores the word through `data`; the C library's function returns it (ptrace(2), NOTES). */
        long word;
        if (syscall(SYS_ptrace, request, pid, address, &word) < 0)
            return -1;
        errno = 0;
        return word;
    }
    default:
        break;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
