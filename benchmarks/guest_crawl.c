/* What a first crawl cannot do without, in C: for each record the system calls that kadalu-quotad makes, in its order,
 * and nothing between them. Arguments: a brick whose records are r0, r1, …; how many; the first project id; anything
 * for what a later crawl cannot do without. Prints microseconds. See benchmarks/guest_crawl.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/quota.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_BLOCKS ((64 << 20) / 512)

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static int beneath(int root, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    int fd = syscall(SYS_openat2, root, path, &how, sizeof how);
    must(fd >= 0, path);
    return fd;
}

static int quota(int fd, int command, unsigned id, struct fs_disk_quota *row)
{
    return syscall(SYS_quotactl_fd, fd, QCMD(command, PRJQUOTA), id, row);
}

static void tag(int fd, unsigned id)
{
    struct fsxattr attributes;
    must(ioctl(fd, FS_IOC_FSGETXATTR, &attributes) == 0, "FSGETXATTR");
    attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    attributes.fsx_projid = id;
    must(ioctl(fd, FS_IOC_FSSETXATTR, &attributes) == 0, "FSSETXATTR");
}

static void settle(int root, int number, unsigned id)
{
    char path[64], value[128];
    struct stat seen;
    struct fsxattr attributes;
    struct fs_disk_quota row;
    snprintf(path, sizeof path, "info/quota/r%d", number);
    int record = beneath(root, path);
    must(fgetxattr(record, "user.kadalu.record", value, sizeof value) > 0, "getxattr");
    close(record);
    snprintf(path, sizeof path, "subvol/%02x/%02x/r%d", number >> 8 & 255, number & 255, number);
    int top = beneath(root, path);
    must(ioctl(top, FS_IOC_FSGETXATTR, &attributes) == 0, "FSGETXATTR");
    fstat(top, &seen);
    quota(top, Q_XGETQUOTA, id, &row); /* is the id free? */
    fstat(top, &seen);                 /* is it empty? */
    tag(top, id);
    fstat(top, &seen); /* did anything come meanwhile? */
    memset(&row, 0, sizeof row);
    row.d_version = FS_DQUOT_VERSION;
    row.d_flags = FS_PROJ_QUOTA;
    row.d_fieldmask = FS_DQ_BHARD | FS_DQ_BSOFT | FS_DQ_IHARD | FS_DQ_ISOFT;
    row.d_id = id;
    row.d_blk_hardlimit = LIMIT_BLOCKS;
    must(quota(top, Q_XSETQLIM, id, &row) == 0, "XSETQLIM");
    must(ioctl(top, FS_IOC_FSGETXATTR, &attributes) == 0, "FSGETXATTR");
    must(quota(top, Q_XGETQUOTA, id, &row) == 0 && row.d_blk_hardlimit == LIMIT_BLOCKS, "XGETQUOTA");
    close(top);
}

/* A later crawl: what the record says, what its directory says, and a row of the kernel's table. */
static void look(int root, int records, int number, unsigned id)
{
    char path[64], value[128];
    struct fsxattr attributes;
    struct fs_disk_quota row;
    must(quota(root, Q_XGETNEXTQUOTA, id, &row) == 0 && row.d_id == id, "XGETNEXTQUOTA");
    snprintf(path, sizeof path, "/proc/self/fd/%d/r%d", records, number);
    must(lgetxattr(path, "user.kadalu.record", value, sizeof value) > 0, "lgetxattr");
    snprintf(path, sizeof path, "subvol/%02x/%02x/r%d", number >> 8 & 255, number & 255, number);
    int top = beneath(root, path);
    must(ioctl(top, FS_IOC_FSGETXATTR, &attributes) == 0 && attributes.fsx_projid == id, "FSGETXATTR");
    close(top);
}

int main(int count, char **arguments)
{
    struct timespec began, ended;
    must(count == 4 || count == 5, "three arguments, or four");
    unsigned first = strtoul(arguments[3], NULL, 10);
    int root = open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(root >= 0, arguments[1]);
    int records = count == 5 ? beneath(root, "info/quota") : -1;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int number = 0; number < atoi(arguments[2]); number++)
        if (records >= 0)
            look(root, records, number, first + number);
        else
            settle(root, number, first + number);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%ld\n", (ended.tv_sec - began.tv_sec) * 1000000 + (ended.tv_nsec - began.tv_nsec) / 1000);
    return 0;
}
