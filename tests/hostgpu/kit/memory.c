/* Device memory that is host memory, in a table of ranges; another table for pinned host memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "memory.h"
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE (2ull << 20)
#define WORTH_FILLING (64ull << 20)
#define WORTH_COPYING (512ull << 20)

struct range {
    char *start;
    size_t bytes;
};

struct table {
    struct range ranges[1 << 16];
    int count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct table device, host;
static size_t used;

char symbols[1 << 20];

/* The functions of a table are called under the lock. */
static void add(struct table *table, char *start, size_t bytes) {
    if (table->count == sizeof table->ranges / sizeof *table->ranges) abort();
    table->ranges[table->count++] = (struct range){start, bytes};
}

static struct range *find(struct table *table, const char *address) {
    for (int i = table->count - 1; i >= 0; i--) {
        struct range *range = &table->ranges[i];
        if (address >= range->start && address < range->start + range->bytes) return range;
    }
    return NULL;
}

static void drop(struct table *table, struct range *range) { *range = table->ranges[--table->count]; }

static int has(struct table *table, const void *address) {
    pthread_mutex_lock(&lock);
    int found = find(table, address) != NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

void *device_alloc(size_t bytes) {
    size_t whole = ((bytes ? bytes : 1) + PAGE - 1) / PAGE * PAGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *start = mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) return NULL;
    pthread_mutex_lock(&lock);
    add(&device, start, whole + PAGE);
    used += whole;
    pthread_mutex_unlock(&lock);
    return (void *)(((size_t)start + PAGE - 1) / PAGE * PAGE);
}

void device_free(void *address) {
    pthread_mutex_lock(&lock);
    struct range *range = find(&device, address);
    if (range) {
        munmap(range->start, range->bytes);
        used -= range->bytes - PAGE;
        drop(&device, range);
    }
    pthread_mutex_unlock(&lock);
}

void *device_reserve(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *start = mmap(NULL, bytes + PAGE, PROT_NONE, flags, -1, 0);
    if (start == MAP_FAILED) return NULL;
    pthread_mutex_lock(&lock);
    add(&device, start, bytes + PAGE);
    pthread_mutex_unlock(&lock);
    return (void *)(((size_t)start + PAGE - 1) / PAGE * PAGE);
}

void device_unreserve(void *address) {
    pthread_mutex_lock(&lock);
    struct range *range = find(&device, address);
    if (range) {
        munmap(range->start, range->bytes);
        drop(&device, range);
    }
    pthread_mutex_unlock(&lock);
}

int device_back(void *address, size_t bytes, int is_backed) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    int access = is_backed ? PROT_READ | PROT_WRITE : PROT_NONE;
    return is_device(address) && mmap(address, bytes, access, flags, -1, 0) == address;
}

void device_take(long long bytes) {
    pthread_mutex_lock(&lock);
    used += bytes;
    pthread_mutex_unlock(&lock);
}

size_t device_used(void) { return used; }

int is_device(const void *address) { return has(&device, address); }

void host_add(void *address, size_t bytes) {
    pthread_mutex_lock(&lock);
    add(&host, address, bytes);
    pthread_mutex_unlock(&lock);
}

void host_remove(void *address) {
    pthread_mutex_lock(&lock);
    struct range *range = find(&host, address);
    if (range) drop(&host, range);
    pthread_mutex_unlock(&lock);
}

int is_host(const void *address) { return has(&host, address); }

void copy(void *to, const void *from, size_t bytes) {
    if (bytes <= WORTH_COPYING) memmove(to, from, bytes);
}

void fill(void *at, int value, size_t bytes) {
    if (bytes <= WORTH_FILLING) memset(at, value, bytes);
}

/* An H200's. */
int attribute(int number) {
    switch (number) {
    case 1: return 1024;
    case 2:
    case 3: return 1024;
    case 4: return 64;
    case 5: return 2147483647;
    case 6:
    case 7: return 65535;
    case 8: return 49152;
    case 9: return 65536;
    case 10: return 32;
    case 11: return 2147483647;
    case 12: return 65536;
    case 13: return 1980000;
    case 14: return 512;
    case 15: return 1;
    case 16: return 132;
    case 17: return 0;
    case 18: return 0;
    case 19: return 1;
    case 20: return 0;
    case 31: return 1;
    case 33: return 0;
    case 36: return 3201000;
    case 37: return 6144;
    case 38: return 60 * 1024 * 1024;
    case 39: return 2048;
    case 40: return 3;
    case 41: return 1;
    case 75: return 9;
    case 76: return 0;
    case 78: return 1;
    case 79: return 1;
    case 80: return 1;
    case 81: return 233472;
    case 82: return 65536;
    case 83: return 1;
    case 86: return 1;
    case 88: return 1;
    case 89: return 1;
    case 95: return 1;
    case 96: return 1;
    case 97: return 232448;
    case 98: return 0;
    case 100: return 1;
    case 102: return 1;
    case 103: return 1;
    case 104: return 0;
    case 106: return 32;
    case 111: return 1024;
    case 115: return 1;
    case 120: return 1;
    case 132: return 0;
    default: return 0;
    }
}
