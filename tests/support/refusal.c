/* Has system calls refused in the program that it is loaded into, and in all that this starts.
 *
 * REFUSED is a list of `name=errno`, with commas; the errno 0 has a call say that it was done, and not do it. A name is a
 * system call, or one of those below that a filter of system calls cannot tell from others: they are refused in libc.
 *
 *   folder_fsync: fsync of a folder
 *   ficlone: ioctl that shares the blocks of a file
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* everywhere the same */
#endif

#define CALL(name) {#name, SYS_##name}
static const struct {
    const char *name;
    int number;
} calls[] = {
    CALL(capget), CALL(capset), CALL(clone3), CALL(close_range), CALL(copy_file_range), CALL(epoll_create1),
    CALL(fadvise64), CALL(fallocate), CALL(fchdir), CALL(fchmod), CALL(fchmodat), CALL(fchmodat2), CALL(fchown),
    CALL(fchownat), CALL(fdatasync), CALL(flock), CALL(fsetxattr), CALL(fstatfs), CALL(fsync), CALL(ftruncate),
    CALL(getcwd), CALL(getdents64), CALL(getrandom), CALL(ioctl), CALL(linkat), CALL(lseek), CALL(lsetxattr),
    CALL(madvise), CALL(mkdirat), CALL(mknodat), CALL(mremap), CALL(openat2), CALL(pidfd_open), CALL(pipe2), CALL(pread64),
    CALL(prctl), CALL(prlimit64), CALL(pwrite64), CALL(readlink), CALL(renameat), CALL(renameat2), CALL(rseq),
    CALL(sched_getaffinity), CALL(sendfile), CALL(setsid), CALL(setxattr), CALL(socket), CALL(statfs), CALL(statx),
    CALL(symlinkat), CALL(sync_file_range), CALL(sysinfo), CALL(uname), CALL(unlinkat), CALL(utimensat),
#ifdef SYS_chmod
    CALL(chmod), CALL(chown), CALL(lchown), CALL(link), CALL(mkdir), CALL(mknod), CALL(rename), CALL(rmdir),
    CALL(symlink), CALL(unlink),
#endif
};

static int folder_fsync = -1, ficlone = -1;

int fsync(int fd) {
    struct stat found;
    if (folder_fsync >= 0 && fstat(fd, &found) == 0 && S_ISDIR(found.st_mode)) {
        errno = folder_fsync;
        return folder_fsync ? -1 : 0;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (ficlone >= 0 && request == FICLONE) {
        errno = ficlone;
        return ficlone ? -1 : 0;
    }
    int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return real(fd, request, argument);
}

static void refuse(int number, int answer) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        abort();
}

__attribute__((constructor)) static void begin(void) {
    char *list = getenv("REFUSED");
    list = list ? strdup(list) : NULL;
    for (char *item = list ? strtok(list, ",") : NULL; item; item = strtok(NULL, ",")) {
        char *value = strchr(item, '=');
        if (!value)
            abort();
        *value++ = 0;
        size_t index = 0, count = sizeof calls / sizeof *calls;
        if (strcmp(item, "folder_fsync") == 0) {
            folder_fsync = atoi(value);
            continue;
        }
        if (strcmp(item, "ficlone") == 0) {
            ficlone = atoi(value);
            continue;
        }
        while (index < count && strcmp(calls[index].name, item) != 0)
            index++;
        if (index == count) {
            fprintf(stderr, "no system call %s is known here\n", item);
            abort();
        }
        refuse(calls[index].number, atoi(value));
    }
    free(list);
}
